"""Labelled images in Parquet files and `datasets` tables: labels are read first, chosen rows decoded."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from zsclib.images import files as image_files
from zsclib.images.class_folders import Listing, pick_split, spelling
from zsclib.images.image_set import manifest_of, readable
from zsclib.images.selection import conditions_of, located, rows_where

COLUMN_NAMES = {"image": ("image", "img"), "label": ("label", "labels", "fine_label")}


def from_parquet(place: str | Path, split: str) -> Listing:
    """List a Parquet file, or a folder with SPLIT.parquet or its shards SPLIT-00000-of-00002.parquet.

    PATH?COLUMN=VALUE lists only the rows with this value in this column (see `zsclib.images.selection`); class names
    are those of the whole.

    The column `image` holds the bytes of files, `label` class indices or names; others become the manifest.
    Class names come from the Hub's schema metadata, else they are the sorted label values of all the folder's
    splits. A single file is the split its name begins with, or else "test". Only label columns are read here,
    and only chosen rows are decoded later.

    Raises:
        FileNotFoundError: the file, a shard, or a file for the split is missing.
        ValueError: a file is damaged, a column is missing or of a wrong type, or no row is selected.
    """
    path, conditions = located(place)
    files, family = _parquet_files(path, split)
    labels = [_read_labels(file) for file in files]
    names = labels[0].names
    for file, other in zip(files, labels, strict=True):
        if other.names != names:
            raise ValueError(f"{file}: the class names differ from those in {files[0]}")
    everything = labels if names is not None else [_read_labels(file) for file in family]
    values = [value for one in labels for value in one.values]
    indices, classes = _index(values, [v for one in everything for v in one.values], names, str(path))
    starts = np.cumsum([0, *(len(one.values) for one in labels)])

    def read(rows: np.ndarray, size: int | None) -> tuple[list[np.ndarray], pd.DataFrame]:
        order = np.argsort(rows, kind="stable")
        images, tables, places = [], [], []
        for file, start, stop in zip(files, starts[:-1], starts[1:], strict=True):
            wanted = rows[order][(rows[order] >= start) & (rows[order] < stop)] - start
            with readable(file), pq.ParquetFile(file) as parquet:
                first = 0
                for group in range(parquet.num_row_groups):
                    last = first + parquet.metadata.row_group(group).num_rows
                    inside = wanted[(wanted >= first) & (wanted < last)]
                    if len(inside):
                        table = parquet.read_row_group(group).take(inside - first)
                        where = [f"{file.name}, row {row}" for row in inside]
                        images += _decode_column(table, where, size)
                        tables.append(_without_images(table))
                        places += where
                    first = last
        extra = _manifest(pa.concat_tables(tables, promote_options="default"), places)
        back = np.argsort(order)
        return [images[i] for i in back], extra.iloc[back].reset_index(drop=True)

    if not conditions:
        return Listing(indices, classes, read)
    selected = rows_where(files, conditions_of(conditions))
    chosen = np.concatenate([start + rows for start, rows in zip(starts[:-1], selected, strict=True)])
    return Listing(indices[chosen], classes, lambda rows, size: read(chosen[rows], size))


def from_table(dataset: Any, where: str) -> Listing:
    """List a `datasets.Dataset` with an image and a label column, as `load_dataset` returns it for one split.

    Args:
        dataset: the table.
        where: its name in the manifest and in errors.

    Raises:
        ValueError: a column is missing or of a wrong type.
    """
    _column("image", dataset.column_names)
    label_name = _column("label", dataset.column_names)
    arrow = dataset.with_format("arrow")
    values = _label_values(arrow.select_columns([label_name])[:][label_name])
    names = getattr(dataset.features[label_name], "names", None)
    indices, classes = _index(values, values, names, where)

    def read(rows: np.ndarray, size: int | None) -> tuple[list[np.ndarray], pd.DataFrame]:
        table, places = arrow[rows.tolist()], [f"{where}, row {row}" for row in rows]
        # `datasets` keeps some sets as files in its cache, with only their paths in the table
        images = _decode_column(table, places, size, follow_paths=True)
        return images, _manifest(_without_images(table), places)

    return Listing(indices, classes, read)


class _Labels(NamedTuple):
    values: list[int] | list[str]
    names: list[str] | None  # as the schema metadata declares them


def _read_labels(file: Path) -> _Labels:
    with readable(file), pq.ParquetFile(file) as parquet:
        schema = parquet.schema_arrow
        _column("image", schema.names)
        name = _column("label", schema.names)
        values = _label_values(parquet.read(columns=[name])[name])
        return _Labels(values, class_names(schema, name))


def class_names(schema: pa.Schema, column: str) -> list[str] | None:
    """Return the class names that the Hub's schema metadata declares for a column, None where it declares none."""
    hub = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    return hub.get("info", {}).get("features", {}).get(column, {}).get("names")


def _column(role: str, names: Sequence[str]) -> str:
    for name in COLUMN_NAMES[role]:
        if name in names:
            return name
    raise ValueError(
        f"no column {role!r} among {list(names)}; rename the one that is meant "
        f"(understood are {', '.join(COLUMN_NAMES[role])})"
    )


def _label_values(column: pa.ChunkedArray) -> list[int] | list[str]:
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise ValueError(f"labels must be integers or names, got the type {column.type}")
    values = column.to_pylist()
    if column.null_count:
        raise ValueError(f"row {values.index(None)} has no label; write -1 for none, or drop the row")
    return values


def _index(
    values: list, everything: list, names: list[str] | None, where: str
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels as indices into class names: those declared, or else all values that occur, sorted."""
    if len({type(value) for value in everything}) > 1:
        raise ValueError(f"{where}: some label columns hold integers and some names; make them alike")
    if names is None or (values and isinstance(values[0], str)):
        kinds = sorted(set(everything) - {-1})
        place = {kind: i for i, kind in enumerate(kinds)} | {-1: -1}
        return np.array([place[value] for value in values], np.int64), tuple(map(str, kinds))
    for row, value in enumerate(values):
        if not -1 <= value < len(names):
            raise ValueError(f"{where}, row {row}: label {value}, but there are {len(names)} class names")
    return np.array(values, np.int64), tuple(names)


def _decode_column(
    table: pa.Table, where: list[str], size: int | None, follow_paths: bool = False
) -> list[np.ndarray]:
    column = table[_column("image", table.column_names)]
    images = []
    for place, value in zip(where, column.to_pylist(), strict=True):
        data = value.get("bytes") if isinstance(value, dict) else value
        if data is None and follow_paths and value.get("path"):
            data = Path(value["path"])
        if not isinstance(
            data, (bytes, Path)
        ):  # a path alone could lead anywhere, and nowhere on another machine
            raise ValueError(
                f"{place}: no image bytes; write the files' bytes into the column, not only paths"
            )
        images.append(image_files.decode(data, place, size))
    return images


def _without_images(table: pa.Table) -> pa.Table:
    return table.drop_columns([_column(role, table.column_names) for role in ("image", "label")])


def _manifest(extra: pa.Table, where: list[str]) -> pd.DataFrame:
    frame = manifest_of(extra).reset_index(drop=True) if extra.column_names else pd.DataFrame()
    if "source" not in frame:
        frame.insert(0, "source", where)
    return frame


def split_of(file: Path) -> str:
    """Return the split that a single Parquet file is: the one its name begins with, else "test"."""
    return spelling(re.split(r"[-_.]", file.name)[0]) or "test"


def _parquet_files(path: Path, split: str) -> tuple[list[Path], list[Path]]:
    """The files of `split`, and those of all splits."""
    if path.is_file():
        own = split_of(path)
        if (spelling(split) or split) != own:
            raise FileNotFoundError(
                f"{path}: a single file, taken as the split {own!r}, {split!r} was asked for; say "
                f"split={own!r}, or give a folder with train.parquet, validation.parquet and test.parquet"
            )
        return [path], [path]
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: there is no such file or folder")
    splits: dict[str, list[Path]] = {}
    for file in sorted([*path.glob("*.parquet"), *path.glob("data/*.parquet")]):
        if not file.name.startswith("."):
            splits.setdefault(file.stem.split("-")[0], []).append(file)
    if not splits:
        raise FileNotFoundError(f"{path}: no Parquet files in this folder (nor in its folder data)")
    files = pick_split(splits, split, path)
    shards = [re.search(r"-\d+-of-(\d+)", file.stem) for file in files]
    if len(files) > 1 and not all(shards) or any(shard and int(shard[1]) != len(files) for shard in shards):
        raise ValueError(
            f"{path}: {[file.name for file in files]} are not the complete shards of one split "
            "(SPLIT.parquet, or SPLIT-00000-of-00002.parquet and so on)"
        )
    return files, sum(splits.values(), [])
