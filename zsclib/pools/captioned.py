"""Anybody's captioned images, opened as they lie: a folder, Parquet shards, tar shards, or arrays in memory.

    pool = open_pool(f"folder:{captioned}")
    pool.read([0, 1], size=16)[1]                           # (16, 16, 3)
    pool.captions[1]

What they are to each class, `zsclib.pools.retrieval` says.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from zsclib.checks import check_images, check_size
from zsclib.hashing import digest
from zsclib.images import files as image_files
from zsclib.images.files import FORMATS, SUFFIXES, encode_png
from zsclib.images.selection import located
from zsclib.pools.archives import Archives, from_archives
from zsclib.pools.folders import TABLES, Files, from_class_folders, from_folder
from zsclib.pools.tables import Table, from_tables

FORMS = {
    "folder:PATH": "images with a table captions.csv (.tsv, .jsonl, .parquet) or with x.txt beside x.jpg",
    "classes:PATH": "class folders, whose names become captions, by the sentences of a templates.txt or our own",
    "parquet:PATH": "Parquet files with the columns image and caption (or text); PATH?COLUMN=VALUE for some rows",
    "tar:PATH": "tar shards of k.jpg with k.txt or k.json",
}


@dataclass(frozen=True, eq=False)
class Memory:
    """Images in an array, uint8 (n, h, w, 3), perhaps a memory map."""

    images: np.ndarray

    def open(self, rows: np.ndarray) -> list[np.ndarray]:
        """Return the images of some rows."""
        return list(self.images[rows])

    def take(self, rows: np.ndarray) -> Memory:
        """Return some of the images, copied."""
        return Memory(self.images[rows])

    def content(self, modified: bool = False) -> str:
        """Return a hash of the pixels."""
        chunks = (self.images[start : start + 1024].tobytes() for start in range(0, len(self.images), 1024))
        return digest(repr(self.images.shape), *chunks)


@dataclass(frozen=True, kw_only=True, eq=False)
class CaptionedPool:
    """Captioned images that are decoded as they are needed; made by `open_pool` and `pool_in_memory`.

    Attributes:
        name: what it is called in reports.
        ids: where each image is: its path in the folder, its row of a Parquet file, its member of a tar shard.
        captions: one for each image.
        source: opens rows to the bytes of files, or to arrays; it travels to workers.
    """

    name: str
    ids: tuple[str, ...]
    captions: tuple[str, ...]
    source: Files | Table | Archives | Memory

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"CaptionedPool({self.name!r}, {len(self)} captioned images)"

    def read(self, rows: Sequence[int] | np.ndarray, size: int | None = None) -> list[np.ndarray | None]:
        """Decode images to uint8 (h, w, 3), None for one that is not readable.

        Args:
            rows: int64 (m,).
            size: side in pixels to which the centre square is resized; None: as they are.

        Raises:
            FileNotFoundError: the folder, or a shard, has vanished since the pool was opened.
            ValueError: a shard has changed since then, or is damaged.
        """
        check_size(size)
        images = []
        for row, data in zip(rows, self.source.open(np.asarray(rows, np.int64)), strict=True):
            try:
                if isinstance(data, np.ndarray):
                    data = data if size is None else image_files.resize(data[None], size)[0]
                images.append(
                    data if data is None or isinstance(data, np.ndarray) else self._decode(row, data, size)
                )
            except ValueError:
                images.append(None)
        return images

    def files(self, rows: Sequence[int] | np.ndarray) -> list[tuple[bytes, str] | None]:
        """Return images as the bytes and the suffix of the files that they are, None for one that is not readable."""
        files = []
        for row, data in zip(rows, self.source.open(np.asarray(rows, np.int64)), strict=True):
            try:
                if isinstance(data, bytes):
                    self._decode(row, data, None)
                files.append(None if data is None else _file(data))
            except ValueError:
                files.append(None)
        return files

    def take(self, rows: Sequence[int] | np.ndarray) -> CaptionedPool:
        """Return the pool of some rows, in their order."""
        rows = np.asarray(rows)
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows.astype(np.int64)
        return CaptionedPool(
            name=self.name,
            ids=tuple(self.ids[row] for row in rows),
            captions=tuple(self.captions[row] for row in rows),
            source=self.source.take(rows),
        )

    def fingerprint(self) -> str:
        """Return a hash of ids, captions, and what tells images apart unopened: sizes in bytes (in memory: pixels)."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        return digest(digest(*self.ids), digest(*self.captions), self.source.content())

    def _decode(self, row: int, data: bytes, size: int | None) -> np.ndarray:
        return image_files.decode(data, self.ids[row], size)


def open_pool(place: str | Path) -> CaptionedPool:
    """Open captioned images; nothing is decoded, unpacked or copied.

    Args:
        place: "folder:PATH", "classes:PATH", "parquet:PATH" or "tar:PATH", as `from_folder`, `from_class_folders`,
            `from_tables` and `from_archives` of the modules folders, tables and archives read it; or a bare PATH, whose
            form is recognised, but for class folders. Of Parquet files PATH?COLUMN=VALUE opens only the rows with this
            value in this column (see `zsclib.images.selection`).

    Raises:
        FileNotFoundError: there is nothing at the path.
        ValueError: the form is not recognised, images lack captions, or a file is damaged.
    """
    kind, _, rest = str(place).partition(":")
    if kind not in ("folder", "classes", "parquet", "tar") or not rest:
        kind, rest = _recognised(located(place)[0]), str(place)
    path, conditions = located(rest) if kind == "parquet" else (Path(rest).expanduser(), "")
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file or folder; a pool is {_forms()}")
    if kind == "parquet":
        ids, captions, source = from_tables(path, conditions)
    else:
        open_form = {"folder": from_folder, "classes": from_class_folders, "tar": from_archives}[kind]
        ids, captions, source = open_form(path)
    name = (path.name or str(path)) + f"?{conditions}" * bool(conditions)
    return CaptionedPool(name=name, ids=tuple(ids), captions=tuple(captions), source=source)


def pool_in_memory(name: str, images: np.ndarray, captions: Sequence[str]) -> CaptionedPool:
    """Return a pool of images, uint8 (n, h, w, 3), and their captions.

    Raises:
        ValueError: no images, no uint8 array of that shape, or not one caption for each.
    """
    check_images(images, "pool_in_memory")
    if len(images) != len(captions) or not len(images):
        raise ValueError(
            f"pool_in_memory: {name!r} has {len(images)} images and {len(captions)} captions; give one each"
        )
    return CaptionedPool(
        name=name,
        ids=tuple(f"{name}:{row}" for row in range(len(images))),
        captions=tuple(captions),
        source=Memory(images),
    )


def _recognised(path: Path) -> str:
    """Return the form of what lies at a path."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file or folder; a pool is {_forms()}")
    if path.is_file():
        kinds = {kind for kind, suffix in (("parquet", ".parquet"), ("tar", ".tar")) if path.suffix == suffix}
    elif (path / "img_emb").is_dir():
        raise ValueError(f"{path} holds embeddings, not images: give the images that they were made from")
    else:
        names = [file.name for file in path.iterdir() if not file.name.startswith(".")]
        kinds = {"tar" for name in names if name.endswith(".tar")}
        kinds |= {"parquet" for name in names if name.endswith(".parquet") and name not in TABLES}
        if any(name in TABLES for name in names) or any(
            file.suffix.lower() in SUFFIXES for file in path.rglob("*") if not file.name.startswith(".")
        ):
            kinds |= {"folder"}
    if len(kinds) != 1:
        what = "holds more than one form" if kinds else "is no captioned pool"
        raise ValueError(f"{path} {what}; say which is meant: {_forms()}")
    return kinds.pop()


def _forms() -> str:
    return "; ".join(f"{form} ({what})" for form, what in FORMS.items())


def _file(data: bytes | np.ndarray) -> tuple[bytes, str]:
    if isinstance(data, np.ndarray):
        return encode_png(data), ".png"
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        suffix = {"JPEG": ".jpg", "TIFF": ".tif", "JPEG2000": ".jp2"}.get(
            image.format, f".{image.format.lower()}"
        )
    return data, suffix
