"""Rows of Parquet files by what their columns hold, said behind the path: PATH?domain=photo,cartoon&label=3."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from zsclib.checks import did_you_mean
from zsclib.images.image_set import readable

SHOWN = 8  # values that an error names


def located(place: str | Path) -> tuple[Path, str]:
    """Return the path of "PATH" or "PATH?CONDITIONS", and the conditions as they stand, "" for none.

    What exists under its whole name is a path, however many "?" are in it.
    """
    whole, (head, mark, tail) = Path(place).expanduser(), str(place).rpartition("?")
    path = Path(head).expanduser()
    if not mark or not head or whole.exists() or not (path.exists() or "=" in tail):
        return whole, ""
    return path, tail


def conditions_of(text: str) -> dict[str, tuple[str, ...]]:
    """Return column → the values that a row may have in it, of "COLUMN=VALUE,VALUE&COLUMN=VALUE".

    A comma, "&", "=" or "?" inside a name or a value is written as in an address: %2C, %26, %3D, %3F.

    Raises:
        ValueError: a part is not COLUMN=VALUE, or a column stands in two of them.
    """
    conditions: dict[str, tuple[str, ...]] = {}
    for part in text.split("&"):
        name, sign, values = part.partition("=")
        if not sign or not name or "" in values.split(","):
            raise ValueError(
                f"{text!r}: rows are selected by COLUMN=VALUE, or COLUMN=VALUE,VALUE for any of several, joined by &; "
                f"got {part!r}"
            )
        if unquote(name) in conditions:
            raise ValueError(
                f"{text!r}: {unquote(name)!r} stands twice; give its values in one list, with commas"
            )
        conditions[unquote(name)] = tuple(map(unquote, values.split(",")))
    return conditions


def rows_where(files: Sequence[Path], conditions: Mapping[str, Sequence[str]]) -> list[np.ndarray]:
    """Return the rows of each file that fulfil all conditions, int64 (rows,), rising.

    Columns hold text or whole numbers, or true and false; no other is read.

    Raises:
        ValueError: there is no such column, or none of such a type; no row has a value, or none fulfils all conditions.
    """
    tables = [_columns(file, list(conditions)) for file in files]
    for name, values in conditions.items():
        known = {value for table in tables for value in pc.unique(table[name]).to_pylist()} - {None}
        if absent := [value for value in values if value not in known]:
            some = ", ".join(sorted(known)[:SHOWN]) + ", …" * (len(known) > SHOWN)
            raise ValueError(
                f"{_where(files)}: no row has {name}={absent[0]}{did_you_mean(absent[0], known)}; the column "
                f"has {len(known)} values: {some}"
            )
    masks = [np.ones(table.num_rows, bool) for table in tables]
    for table, mask in zip(tables, masks, strict=True):
        for name, values in conditions.items():
            mask &= pc.is_in(table[name], pa.array(values, pa.string())).to_numpy(zero_copy_only=False)
    if not any(mask.any() for mask in masks):
        both = " and ".join(f"{name}={','.join(values)}" for name, values in conditions.items())
        raise ValueError(
            f"{_where(files)}: rows have each of these values, but none has {both}; ask for less"
        )
    return [np.flatnonzero(mask) for mask in masks]


def _columns(file: Path, names: list[str]) -> pa.Table:
    """Return columns of a file as text."""
    with readable(file), pq.ParquetFile(file) as parquet:
        schema = parquet.schema_arrow
        usable = [field.name for field in schema if _is_plain(field.type)]
        for name in names:
            if name not in usable:
                raise ValueError(
                    f"rows cannot be selected by {name!r}{did_you_mean(name, usable)}; of the columns "
                    f"{', '.join(schema.names)} those of text or whole numbers are {', '.join(usable) or 'none'}"
                )
        table = parquet.read(columns=names)
    return pa.table({name: pc.cast(table[name], pa.string()) for name in names})


def _is_plain(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer, pa.types.is_boolean)
    return any(test(kind) for test in tests)


def _where(files: Sequence[Path]) -> str:
    return str(files[0]) if len(files) == 1 else f"{files[0].parent} ({len(files)} files)"
