"""Arrays that are written to a file row by row, and read from it as they are needed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np

from zsclib.paths import atomic


def write_rows(path: Path, parts: Iterable[np.ndarray]) -> None:
    """Write arrays below one another as one .npy file, which is there as a whole or not at all.

    A memory map would do with less, but where the disk is full, writing to one kills the process.

    Args:
        parts: arrays (m, …), all of one dtype and one shape of a row; at least one.

    Raises:
        ValueError: there is none, or one differs. OSError: the disk is full.
    """
    rows, first = 0, None
    with atomic(path) as temporary, open(temporary, "wb") as file:
        for part in parts:
            if first is None:
                first = part
                _write_header(file, first, 0)
            if (part.dtype, part.shape[1:]) != (first.dtype, first.shape[1:]):
                raise ValueError(f"{path.name}: {first.dtype} {first.shape[1:]} and {part.dtype} {part.shape[1:]}")
            file.write(np.ascontiguousarray(part))
            rows += len(part)
        if not rows:
            raise ValueError(f"{path.name}: no rows came")
        file.seek(0)
        _write_header(file, first, rows)  # NumPy leaves room for more rows, so it is as long as before


def _write_header(file: BinaryIO, like: np.ndarray, rows: int) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(like.dtype), "fortran_order": False}
    np.lib.format.write_array_header_1_0(file, header | {"shape": (rows, *like.shape[1:])})
