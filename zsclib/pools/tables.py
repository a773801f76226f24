"""Captioned images in Parquet files: captions are read first, images as they are needed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from zsclib.hashing import digest
from zsclib.images.image_set import readable
from zsclib.images.selection import conditions_of, rows_where
from zsclib.pools.folders import CAPTION, column

IMAGE = ("image", "img", "jpg", "png")


@dataclass(frozen=True)
class Shard:
    """A file as it was when it was listed."""

    path: Path
    bytes: int
    modified: int

    def check(self) -> None:
        """Raise unless the file is still there, of its old size."""
        if not self.path.is_file():
            raise FileNotFoundError(
                f"{self.path}: the shard has vanished; put it back and run again: what is finished is used"
            )
        if (size := self.path.stat().st_size) != self.bytes:
            raise ValueError(
                f"{self.path}: {size} bytes, {self.bytes} when the pool was opened; leave shards as they are"
            )


def shard(path: Path) -> Shard:
    """Note a file's size and when it was last written."""
    info = path.stat()
    return Shard(path, info.st_size, info.st_mtime_ns)


@dataclass(frozen=True, eq=False)
class Table:
    """Rows of Parquet files: of each image the file, int64 (n,), and the row in it, int64 (n,)."""

    shards: tuple[Shard, ...]
    places: np.ndarray  # (2, n)

    def open(self, rows: np.ndarray) -> list[bytes | None]:
        """Return the bytes of some rows' images, None where there are none."""
        images: list[bytes | None] = [None] * len(rows)
        files, places = self.places[:, rows]
        for number in np.unique(files):
            file = self.shards[number]
            file.check()
            with readable(file.path):
                starts = _group_starts(file)
                groups = np.searchsorted(starts, places, side="right") - 1
                for group in np.unique(groups[files == number]):
                    own = np.flatnonzero((files == number) & (groups == group))
                    values = _group(file, int(group)).take(places[own] - starts[group]).to_pylist()
                    for i, value in zip(own, values, strict=True):
                        images[i] = value.get("bytes") if isinstance(value, dict) else value
        return images

    def take(self, rows: np.ndarray) -> Table:
        """Return some of the rows."""
        return Table(self.shards, self.places[:, rows])

    def content(self, modified: bool = False) -> str:
        """Return a hash of the rows and of their files' sizes, and of when these were written if that is to count."""
        used = np.unique(self.places[0])
        facts = [(self.shards[i].bytes, self.shards[i].modified * modified) for i in used]
        return digest(repr(facts), np.searchsorted(used, self.places[0]).tobytes(), self.places[1].tobytes())


def from_tables(path: Path, conditions: str = "") -> tuple[list[str], list[str], Table]:
    """List a Parquet file, or a folder of them (its own, else those in its folder `data`): ids, captions, source.

    The column `image` holds the bytes of image files, as such or as the Hub's {bytes, path}; `caption` or `text` holds
    text. An id is FILE:ROW. Only captions are read, and the columns of conditions, which select rows (see
    `zsclib.images.selection`).

    Raises:
        ValueError: no Parquet file, a damaged one, a column missing or of another type, a row without caption, or no
            row selected.
    """
    files = (
        [path] if path.is_file() else sorted(path.glob("*.parquet")) or sorted(path.glob("data/*.parquet"))
    )
    files = [file for file in files if not file.name.startswith(".")]
    if not files:
        raise ValueError(f"{path}: no Parquet files in this folder, nor in its folder data")
    ids, captions, places = [], [], []
    texts = [_captions(file) for file in files]
    if conditions:
        selected = rows_where(files, conditions_of(conditions))
    else:
        selected = [np.arange(len(text)) for text in texts]
    for number, (file, text, rows) in enumerate(zip(files, texts, selected, strict=True)):
        own = [text[row] for row in rows]
        if None in own:
            raise ValueError(
                f"{file}: {len(own)} images and {len(own) - own.count(None)} captions; row {rows[own.index(None)]} has "
                "none; drop the rows, or write an empty text for an image without words"
            )
        ids += [f"{file.name}:{row}" for row in rows]
        captions += own
        places.append(np.stack([np.full(len(own), number), rows]))
    if not ids:
        raise ValueError(f"{path}: the Parquet files have no rows")
    return ids, captions, Table(tuple(map(shard, files)), np.concatenate(places, axis=1).astype(np.int64))


def _captions(file: Path) -> list[str | None]:
    with readable(file), pq.ParquetFile(file) as parquet:
        schema = parquet.schema_arrow
        image = schema.field(column(schema.names, IMAGE, file)).type
        if pa.types.is_struct(image):
            image = next((field.type for field in image if field.name == "bytes"), image)
        if not (pa.types.is_binary(image) or pa.types.is_large_binary(image)):
            raise ValueError(
                f"images must be the bytes of files, got the type {image}; write the bytes, not paths"
            )
        name = column(schema.names, CAPTION, file)
        if not (
            pa.types.is_string(schema.field(name).type) or pa.types.is_large_string(schema.field(name).type)
        ):
            raise ValueError(f"captions must be text, got the type {schema.field(name).type} in {name!r}")
        return parquet.read(columns=[name])[name].to_pylist()


@lru_cache(maxsize=256)
def _group_starts(file: Shard) -> np.ndarray:
    """Return the first row of each row group, int64 (groups,)."""
    with pq.ParquetFile(file.path) as parquet:
        counts = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
    return np.cumsum([0, *counts[:-1]])


@lru_cache(maxsize=2)  # a group is decoded as a whole, and neighbours are often read one after the other
def _group(file: Shard, group: int) -> pa.ChunkedArray:
    with pq.ParquetFile(file.path) as parquet:
        name = column(parquet.schema_arrow.names, IMAGE, file.path)
        return parquet.read_row_group(group, columns=[name])[name]
