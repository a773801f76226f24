"""What a network is asked for: encoded prompts or class names, one per row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

NAMES_SHOWN = 20  # in an error


class Condition(NamedTuple):
    """Encoded prompts, one per row."""

    embeddings: Tensor  # (n, L, d), what cross-attention reads; of class names, what the first block adds
    pooled: Tensor | None = None  # (n, p), only where the model needs it (Stable Diffusion 3)
    class_ids: Tensor | None = None  # int64 (n,), only of class-conditional models (DiT)

    def take(self, rows: Tensor) -> Condition:
        """Return the prompts at the given rows (int64 (m,)), repeated as often as asked."""
        return Condition(*(None if field is None else field[rows] for field in self))


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
    found = []
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
        found.append(ids[0])
    return found
