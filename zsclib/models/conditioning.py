"""What a network is asked for: encoded prompts or class names, one per row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from torch import Tensor

NAMES_SHOWN = 20  # in an error


class Condition:
    """Encoded prompts, one per row: each different one is held once, and rows may repeat them.

    Attributes:
        rows: int64 (n,), which of the prompts is at each row; None where they follow one another.
        cached: what a network has computed of the prompts, shared by all conditions taken from this one.

    Args:
        source: the generator that encoded the prompts, the prompts, and its `state` at that moment.
    """

    def __init__(
        self,
        embeddings: Tensor,
        pooled: Tensor | None = None,
        class_ids: Tensor | None = None,
        source: tuple[Any, list[str], Any] | None = None,
    ):
        self._fields = (embeddings, pooled, class_ids)
        self._source = source
        self.rows: Tensor | None = None
        self.cached: dict[Any, Any] = {}

    def __reduce__(self) -> tuple:
        """Travel to another process as the prompts, to be encoded there by the generator that encoded them here.

        Where there is no such generator, or its weights have changed since, the tensors travel.
        """
        if self._source is None or self._source[0].state() != self._source[2]:
            return _restored, (self._fields, self.rows)
        generator, prompts, _ = self._source
        return _encoded_again, (generator, tuple(prompts), self.rows)

    def __len__(self) -> int:
        return len(self._fields[0] if self.rows is None else self.rows)

    @property
    def embeddings(self) -> Tensor:
        """What cross-attention reads, (n, L, d); of a class, what the network's first block adds, (n, 1, d)."""
        return self._row_by_row(0)

    @property
    def pooled(self) -> Tensor | None:
        """Another summary of the prompts, (n, p), where the model needs one (Stable Diffusion 3)."""
        return self._row_by_row(1)

    @property
    def class_ids(self) -> Tensor | None:
        """Numbers of the classes, int64 (n,), for class-conditional models (DiT)."""
        return self._row_by_row(2)

    @property
    def prompts(self) -> Tensor:
        """The embeddings of each different prompt, (p, L, d)."""
        return self._fields[0]

    def take(self, rows: Tensor) -> Condition:
        """Return the prompts at the given rows (int64 (m,)), repeated as often as asked."""
        rows = rows.to(self.prompts.device)
        taken = Condition(*self._fields, source=self._source)
        taken.rows, taken.cached = rows if self.rows is None else self.rows[rows], self.cached
        return taken

    def _row_by_row(self, field: int) -> Any:
        value = self._fields[field]
        return value if value is None or self.rows is None else value[self.rows]


def _restored(fields: tuple, rows: Tensor | None) -> Condition:
    condition = Condition(*fields)
    condition.rows = rows
    return condition


def _encoded_again(generator: Any, prompts: tuple[str, ...], rows: Tensor | None) -> Condition:
    condition = _encode_once(generator, prompts)
    return condition if rows is None else condition.take(rows)


@lru_cache(maxsize=4)
def _encode_once(generator: Any, prompts: tuple[str, ...]) -> Condition:
    return generator.encode_prompts(prompts)


def class_ids(names: Sequence[str], id2label: Mapping[int, str], null: int) -> list[int]:
    """Return the number of each class by its name, one of its synonyms, or "#" and the number itself.

    Args:
        names: class names; "" is no class, as guidance asks for it.
        id2label: the model's labels, synonyms separated by commas ("tench, Tinca tinca").
        null: the number of no class, one above the last.

    Raises:
        ValueError: a name the model does not know, or one that several of its classes share.
    """
    known: dict[str, set[int]] = {}
    for i, label in id2label.items():
        for name in {label.strip(), *(part.strip() for part in label.split(","))}:
            known.setdefault(name, set()).add(i)
    numbers = {"": {null}} | {f"#{i}": {i} for i in range(null)}
    numbers_of_names = []
    for name in names:
        ids = sorted(known.get(name) or numbers.get(name) or ())
        if len(ids) != 1:
            labels = list(id2label.values())
            several = f"; its classes {', '.join(f'#{i}' for i in ids)} share that name" if ids else ""
            shown = ", ".join(labels[:NAMES_SHOWN]) + (", ..." if len(labels) > NAMES_SHOWN else "")
            raise ValueError(
                f"this class-conditional model is asked by class name, got {name!r}{several}. It knows "
                f"{shown or 'no names'} (or #0 to #{null - 1}, the number of a class)"
            )
        numbers_of_names.append(ids[0])
    return numbers_of_names
