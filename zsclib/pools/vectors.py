"""Rows of embeddings in one or several arrays on disk, brought into memory only where they are needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

BLOCK = 2**24  # float32 numbers of a block: 64 MiB
PROBED = 256  # rows that stand for all, in fingerprints and where our own files are checked
TOLERANCE = 0.01  # of a norm: float16 rounds it by far less


class Vectors:
    """A matrix (n, d) of float16 or float32 rows, made of one or several memory maps one below the other.

    `vectors[rows]` with a slice, integers or booleans brings rows into memory; `np.asarray(vectors)` all of them.
    """

    def __init__(self, parts: Sequence[np.ndarray]):
        self.parts = tuple(parts)
        self._starts = np.cumsum([0, *map(len, self.parts)])
        self.dtype, self.shape = self.parts[0].dtype, (int(self._starts[-1]), self.parts[0].shape[1])

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"Vectors({self.shape[0]} × {self.shape[1]}, {self.dtype}, {len(self.parts)} parts)"

    def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray:
        return self[:].astype(dtype or self.dtype)

    def __getitem__(self, index: int | slice | Sequence[int] | np.ndarray) -> np.ndarray:
        if isinstance(index, int | np.integer):
            return self[np.array([index])][0]
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step != 1:
                return self[np.arange(start, stop, step)]
            spans = zip(self.parts, self._starts[:-1], strict=True)
            pieces = [part[max(0, start - first) : max(0, stop - first)] for part, first in spans]
            return np.concatenate([np.empty((0, self.shape[1]), self.dtype), *(p for p in pieces if len(p))])
        rows = np.asarray(index)
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows.astype(np.int64)
        rows = np.where(rows < 0, rows + len(self), rows)
        if rows.size and not 0 <= rows.min() <= rows.max() < len(self):
            raise IndexError(f"rows {rows.min()} to {rows.max()} of {len(self)} embeddings")
        gathered, owner = (
            np.empty((len(rows), self.shape[1]), self.dtype),
            self._starts.searchsorted(rows, "right") - 1,
        )
        for number in np.unique(owner):
            own = np.flatnonzero(owner == number)
            own = own[np.argsort(rows[own])]  # in the order in which they lie on disk
            gathered[own] = self.parts[number][rows[own] - self._starts[number]]
        return gathered

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (first row, float32 rows) of blocks that fit memory, from the first to the last."""
        height = max(1, BLOCK // self.shape[1])
        for part, first in zip(self.parts, self._starts[:-1], strict=True):
            for start in range(0, len(part), height):
                yield int(first) + start, np.asarray(part[start : start + height], np.float32)


def open_vectors(files: Sequence[Path]) -> Vectors:
    """Map .npy files of embeddings into memory.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: one is cut short, no float16 or float32 matrix, or of another width than the first.
    """
    parts = []
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(
                f"{file}: this shard of the embeddings is missing; put it back or embed again"
            )
        try:
            part = np.load(file, mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise ValueError(
                f"{file}: cut short or damaged ({error}); copy it again or embed again"
            ) from error
        if part.ndim != 2 or part.dtype not in (np.float16, np.float32):
            raise ValueError(
                f"{file}: expected a float16 or float32 matrix (images, width), got {part.dtype} {part.shape}"
            )
        if parts and part.shape[1] != parts[0].shape[1]:
            raise ValueError(
                f"{file}: embeddings {part.shape[1]} wide, those in {files[0].name} are {parts[0].shape[1]}; all must "
                "come from one model"
            )
        parts.append(part)
    return Vectors(parts)


def check_unit(vectors: Vectors, where: object, rows: np.ndarray | None = None) -> None:
    """Raise ValueError where a row, of some or of all, is not finite or not of unit length."""
    blocks = vectors.blocks() if rows is None else [(0, vectors[rows].astype(np.float32))]
    for start, block in blocks:
        norms = np.linalg.norm(block, axis=1)
        if (bad := np.flatnonzero(~np.isfinite(norms))).size:
            row = start + bad[0] if rows is None else rows[bad[0]]
            raise ValueError(
                f"{where}: embedding {row} holds NaN or infinity; embed its image again or drop the row"
            )
        if (bad := np.flatnonzero(np.abs(norms - 1) > TOLERANCE)).size:
            row = start + bad[0] if rows is None else rows[bad[0]]
            raise ValueError(
                f"{where}: embedding {row} has length {norms[bad[0]]:.4g}, not 1; divide every row by its length"
            )


def spread(n: int, m: int = PROBED) -> np.ndarray:
    """Return up to m rows of n, evenly spread from the first to the last, int64."""
    return np.unique(np.linspace(0, n - 1, min(n, m)).astype(np.int64))
