"""Embeddings in one or several arrays on disk, brought into memory only where they are needed, and what they are of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from zsclib.hashing import digest
from zsclib.images.image_set import readable
from zsclib.pools.captioned import CaptionedPool
from zsclib.pools.folders import column

BLOCK = 2**22  # float32 numbers of a block: 16 MiB
ID, TEXT = ("image_path", "id", "key", "path"), ("caption", "text", "TEXT")
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


class Embeddings:
    """Embeddings of a pool's images; made by `embed`, `open_embeddings` and `take`.

    Attributes:
        vectors: float16 (n, d), unit rows, memory-mapped.
        model: fingerprint of the CLIP; None where others made them and did not say.
        pool: fingerprint of the pool; None likewise.
        unreadable: ids of the pool's images that could not be opened, and so have no row.
        folder: where they lie; None: in memory.
    """

    def __init__(self, vectors: Vectors, metadata: Sequence[Path] | pa.Table = (), **about: object):
        self.vectors, self._metadata = vectors, metadata
        self.model, self.pool, self.folder = about.get("model"), about.get("pool"), about.get("folder")
        self.unreadable = tuple(about.get("unreadable", ()))

    def __len__(self) -> int:
        return len(self.vectors)

    def __repr__(self) -> str:
        return f"Embeddings({self.vectors!r}, model {self.model or 'not named'})"

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """The id of each row's image."""
        return tuple(self._column(ID).to_pylist())

    @cached_property
    def captions(self) -> tuple[str, ...]:
        """The caption of each row's image; empty texts where none were stored."""
        names = self._names()
        return (
            tuple(self._column(TEXT).to_pylist())
            if any(name in names for name in TEXT)
            else ("",) * len(self)
        )

    def fingerprint(self) -> str:
        """Return a hash of the shape and of rows spread over the whole."""
        rows = self.vectors[spread(len(self))]
        return digest(repr((self.vectors.shape, str(self.vectors.dtype))), rows.tobytes())[:32]

    def take(self, rows: Sequence[int] | np.ndarray) -> Embeddings:
        """Return some rows, in memory."""
        rows = np.asarray(rows)
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows.astype(np.int64)
        table = pa.table(
            {"image_path": self._column(ID).take(rows), "caption": pa.array(self.captions).take(rows)}
        )
        return Embeddings(Vectors([self.vectors[rows]]), table, model=self.model)

    def rows_in(self, pool: CaptionedPool) -> np.ndarray:
        """Return each row's place in a pool, int64 (n,).

        Ids are compared as they are; others' also as paths in the pool's folder, or by the file name without suffix
        (the key of a WebDataset) where these are all different.

        Raises:
            ValueError: an id is not in the pool.
        """
        if self.pool is not None and self.pool == pool.fingerprint() and "row" in self._names():
            return self._column(("row",)).to_numpy().astype(np.int64)
        own, ids = list(pool.ids), self.ids
        root = getattr(pool.source, "root", None)
        for shorten in (str, lambda name: name.removeprefix(f"{root}/"), _key):
            names = [shorten(name) for name in own]
            if len(set(names)) == len(names):
                places = pc.index_in(pa.array([shorten(name) for name in ids]), value_set=pa.array(names))
                if not places.null_count:
                    return places.to_numpy().astype(np.int64)
        absent = next(name for name in ids if name not in set(own))
        raise ValueError(
            f"{self.folder or 'these embeddings'}: {len(ids)} embeddings and {len(own)} images of {pool.name!r} do not "
            f"belong together: there is no image {absent!r}; give the pool that was embedded, or embed this one"
        )

    def _names(self) -> list[str]:
        table = self._metadata
        if isinstance(table, pa.Table):
            return table.column_names
        return pq.read_schema(table[0]).names if table else []

    def _column(self, understood: Sequence[str]) -> pa.ChunkedArray:
        name = column(self._names(), understood, self.folder or "the embeddings' metadata")
        if isinstance(self._metadata, pa.Table):
            return self._metadata[name]
        chunks = []
        for file in self._metadata:
            with readable(file):
                chunks += pq.read_table(file, columns=[name])[name].chunks
        return pa.chunked_array(chunks)


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


def _key(name: str) -> str:
    return name.rpartition("/")[2].partition(".")[0]
