"""The one container for labelled images, and its file format."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from zsclib.checks import check_images, is_integer
from zsclib.images.files import decode, encode_png
from zsclib.paths import atomic

ROWS_PER_GROUP = 1000  # small enough that reading a few rows of a large file stays cheap
IMAGE_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@dataclass(frozen=True, eq=False, repr=False)
class ImageSet:
    """Labelled images with one manifest row each: what a source returns and a classifier is judged on.

    Args:
        images: uint8 (n, h, w, 3), RGB.
        labels: integers (n,), stored as int64; an index into `classes`, or -1 for an image without a label.
        classes: class names in label order.
        manifest: n rows in image order with free columns (source, seed, prompt, guidance, parent, ...);
            None stands for no columns.

    Raises:
        ValueError: shapes, dtypes, labels, names or row counts do not fit together.
    """

    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    _: KW_ONLY
    manifest: pd.DataFrame | None = None  # never None once made

    def __post_init__(self) -> None:
        check_images(self.images, "ImageSet")
        classes = _checked_classes(self.classes)
        object.__setattr__(self, "classes", classes)
        object.__setattr__(self, "labels", _checked_labels(self.labels, len(self.images), classes))
        object.__setattr__(self, "manifest", _checked_manifest(self.manifest, len(self.images)))

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        n, h, w, _ = self.images.shape
        columns = ", ".join(self.manifest.columns) or "empty"
        return f"ImageSet({n} images {h}×{w}, {len(self.classes)} classes, manifest: {columns})"

    def take(self, indices: Sequence[int] | np.ndarray) -> ImageSet:
        """Return the images at `indices` in that order: integers (repeats allowed) or n booleans."""
        index = np.asarray(indices)
        if index.dtype == bool and index.shape == (len(self),):
            index = np.flatnonzero(index)
        if index.shape == (0,):
            index = index.astype(np.int64)
        if index.ndim != 1 or index.dtype.kind not in "iu":
            raise ValueError(
                f"ImageSet.take: indices must be a flat list of integers or {len(self)} booleans, "
                f"got {index.dtype} {index.shape}"
            )
        if index.size and (index.min() < 0 or index.max() >= len(self)):
            raise ValueError(
                f"ImageSet.take: indices must lie in 0 to {len(self) - 1}, got {index.min()} to {index.max()}"
            )
        return ImageSet(self.images[index], self.labels[index], self.classes, manifest=self.manifest.iloc[index])

    def per_class(self, n: int) -> ImageSet:
        """Return the first `n` images of every class in the set's own order; unlabelled images are left out.

        Raises:
            ValueError: a class has fewer than `n` images.
        """
        if not is_integer(n, 1):
            raise ValueError(f"ImageSet.per_class: n must be a positive integer, got {n!r}")
        chosen = [np.flatnonzero(self.labels == label)[:n] for label in range(len(self.classes))]
        for name, rows in zip(self.classes, chosen, strict=True):
            if len(rows) < n:
                raise ValueError(f"ImageSet.per_class: {n} images asked for, class {name!r} has {len(rows)}")
        return self.take(np.sort(np.concatenate(chosen)) if chosen else [])

    def fingerprint(self) -> str:
        """Return the SHA-256 of images, labels and class names (not of the manifest): a part of keys."""
        digest = hashlib.sha256(json.dumps([self.images.shape, self.classes]).encode())
        digest.update(self.labels.astype("<i8").tobytes())
        for start in range(0, len(self), ROWS_PER_GROUP):  # in pieces: the images may be a memory map
            digest.update(np.ascontiguousarray(self.images[start : start + ROWS_PER_GROUP]))
        return digest.hexdigest()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the set as Hub-style Parquet: `image` (PNG), `label` with its names, the manifest's columns.

        `datasets.load_dataset("parquet", data_files=...)` opens the file with images and class names. It is
        written under a temporary name and renamed: a killed run leaves no half file under `path`.

        Raises:
            ValueError: a manifest column holds values Parquet has no type for.
        """
        path, frame = Path(path), self.manifest.copy()
        for name in frame.select_dtypes("category"):  # `datasets` reads no dictionary columns
            frame[name] = frame[name].astype(frame[name].cat.categories.dtype)
        try:
            extra = pa.Table.from_pandas(frame, preserve_index=False)
        except (pa.ArrowException, OverflowError) as error:
            raise ValueError(f"{path}: the manifest cannot be written as Parquet ({error})") from error
        label = {"names": list(self.classes), "_type": "ClassLabel"}
        hub = {"info": {"features": {"image": {"_type": "Image"}, "label": label}}}
        ours = {
            "shape": self.images.shape,
            "fingerprint": self.fingerprint(),
            "manifest": _manifest_hash(extra),
        }
        metadata = extra.schema.metadata | {
            b"huggingface": json.dumps(hub).encode(),
            b"zsclib": json.dumps(ours).encode(),
        }
        schema = pa.schema([("image", IMAGE_TYPE), ("label", pa.int64()), *extra.schema], metadata)
        options = {"compression": "zstd", "write_page_checksum": True}
        with atomic(path) as temporary, pq.ParquetWriter(temporary, schema, **options) as writer:
            for start in range(0, max(len(self), 1), ROWS_PER_GROUP):
                part = slice(start, start + ROWS_PER_GROUP)
                files = [
                    {"bytes": encode_png(image), "path": f"{start + i:06d}.png"}
                    for i, image in enumerate(self.images[part])
                ]
                columns = [pa.array(files, IMAGE_TYPE), pa.array(self.labels[part])]
                columns += extra.slice(start, ROWS_PER_GROUP).columns
                writer.write_table(pa.table(columns, schema=schema))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ImageSet:
        """Read what `save` wrote, bit for bit; `zsclib.datasets.load` reads Parquet from elsewhere.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is damaged, or was not written by `ImageSet.save`.
        """
        path = Path(path)
        with readable(path), pq.ParquetFile(path, page_checksum_verification=True) as file:
            metadata = file.schema_arrow.metadata or {}
            if b"zsclib" not in metadata:
                raise ValueError("not written by ImageSet.save; use zsclib.datasets.load('parquet:PATH')")
            ours, hub = json.loads(metadata[b"zsclib"]), json.loads(metadata[b"huggingface"])
            images, row = np.empty(ours["shape"], np.uint8), 0
            for group in range(file.num_row_groups):
                for png in file.read_row_group(group, columns=["image.bytes"])["image"].to_pylist():
                    images[row] = decode(png["bytes"], f"row {row}")
                    row += 1
            table = file.read(columns=[name for name in file.schema_arrow.names if name != "image"])
            classes = tuple(hub["info"]["features"]["label"]["names"])
            extra = table.drop_columns("label")
            loaded = cls(images, table["label"].to_numpy(), classes, manifest=manifest_of(extra))
            saved = (ours["fingerprint"], ours["manifest"])
            if (loaded.fingerprint(), _manifest_hash(extra)) != saved:
                raise ValueError("the content is not what was saved; delete the file and make it again")
        return loaded


def concat(sets: Sequence[ImageSet]) -> ImageSet:
    """Join sets in order; manifest columns are united, with missing values where a set lacks a column.

    Integer columns that get missing values become pandas' nullable Int64: 63-bit seeds keep every bit.

    Raises:
        ValueError: no sets, or image sizes or class names differ.
    """
    sets = list(sets)
    if not sets:
        raise ValueError("concat: no sets were given")
    for i, other in enumerate(sets):
        if other.classes != sets[0].classes:
            raise ValueError(f"concat: set 0 has the classes {sets[0].classes}, set {i} has {other.classes}")
        if other.images.shape[1:] != sets[0].images.shape[1:]:
            raise ValueError(
                f"concat: set 0 has images of shape {sets[0].images.shape[1:]}, set {i} of "
                f"{other.images.shape[1:]}; bring them to one size with zsclib.images.files.resize"
            )
    full = [one for one in sets if len(one)] or sets[:1]  # a set of no images has no say in a column's dtype
    names = list(dict.fromkeys(name for one in full for name in one.manifest.columns))
    partial = [name for name in names if not all(name in one.manifest.columns for one in full)]
    frames = []
    for one in full:
        frame = one.manifest.copy()
        for name in frame.columns.intersection(partial):
            if frame[name].dtype.kind in "iub":
                frame[name] = frame[name].astype("boolean" if frame[name].dtype.kind == "b" else "Int64")
        frames.append(frame)
    return ImageSet(
        np.concatenate([one.images for one in sets]),
        np.concatenate([one.labels for one in sets]),
        sets[0].classes,
        manifest=pd.concat(frames, ignore_index=True) if names else None,
    )


def content_hash(images: np.ndarray) -> list[str]:
    """Return one hash per image of `images`, uint8 (n, h, w, 3); equal hashes mean equal pixels and size."""
    check_images(images, "content_hash")
    head = repr(images.shape[1:]).encode()
    return [hashlib.blake2b(head + image.tobytes(), digest_size=16).hexdigest() for image in images]


def manifest_of(table: pa.Table) -> pd.DataFrame:
    """Turn the extra columns of a Parquet table into a manifest; integers with gaps stay integers."""
    frame = table.to_pandas()
    for name in table.column_names:
        if pa.types.is_integer(table.schema.field(name).type) and table[name].null_count:
            frame[name] = table[name].to_pandas(types_mapper=lambda _: pd.Int64Dtype())
    return frame if table.column_names else pd.DataFrame(index=pd.RangeIndex(table.num_rows))


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn whatever goes wrong while reading a Parquet file into an error that names the file.

    Whatever: in a damaged file any length, type or name may be wrong, and with them anything fails.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file")
    try:
        yield
    except Exception as error:
        raise ValueError(f"{path}: not usable as a Parquet file of images: {error}") from error


def _manifest_hash(extra: pa.Table) -> str:
    """Hash a manifest's names, types and values; Parquet's own checksums leave some of them out."""
    dtypes = (extra.schema.metadata or {}).get(b"pandas")
    text = repr([list(map(str, extra.schema.types)), dtypes, extra.to_pydict()])
    return hashlib.sha256(text.encode()).hexdigest()


def _checked_classes(classes: Sequence[str]) -> tuple[str, ...]:
    if isinstance(classes, str) or not all(isinstance(name, str) and name.strip() for name in classes):
        raise ValueError(f"ImageSet: classes must be a list of non-empty names, got {classes!r}")
    classes = tuple(map(str, classes))
    if repeated := sorted({name for name in classes if classes.count(name) > 1}):
        raise ValueError(f"ImageSet: class names must differ, repeated: {repeated}")
    return classes


def _checked_labels(labels: Sequence[int] | np.ndarray, n: int, classes: tuple[str, ...]) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.shape != (n,) or (n and labels.dtype.kind not in "iu"):
        raise ValueError(f"ImageSet: {n} images need {n} integer labels, got {labels.dtype} {labels.shape}")
    if n and (labels.min() < -1 or labels.max() >= len(classes)):
        raise ValueError(
            f"ImageSet: labels must lie in -1 to {len(classes) - 1} for {len(classes)} classes, "
            f"got {labels.min()} to {labels.max()}"
        )
    return labels.astype(np.int64)


def _checked_manifest(manifest: pd.DataFrame | None, n: int) -> pd.DataFrame:
    if manifest is None:
        return pd.DataFrame(index=pd.RangeIndex(n))
    if len(manifest) != n:
        raise ValueError(f"ImageSet: {n} images need {n} manifest rows, got {len(manifest)}")
    if bad := [c for c in manifest.columns if not isinstance(c, str) or c in ("image", "label")]:
        raise ValueError(f"ImageSet: manifest columns must be text, not 'image' and not 'label', got {bad}")
    if not manifest.columns.is_unique:
        raise ValueError(f"ImageSet: manifest columns repeat: {list(manifest.columns)}")
    return manifest.reset_index(drop=True)
