"""Results leave a notebook through `record`: readable on the page, exact in `record.json`."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from IPython import get_ipython
from IPython.display import display

from zsclib.paths import ROOT, write_json
from zsclib.study.stats import Estimate

KEY = "zsc_record"  # under which a cell output's metadata carries the recorded values


def record(**values: object) -> None:
    """Show named results and write them down: in the metadata of the cell's output and in the run's `record.json`.

    Outside a run (plain papermill, Jupyter), only the output carries them.

    Args:
        values: int, float, str, bool, None, `Estimate`, and dicts (with str keys) and lists of these. Names
            are lower case, as in `accuracy_digits`.

    Raises:
        ValueError: a number is NaN or infinite, a name is malformed, or was recorded in this run with another
            value.
        TypeError: a value of another type.
    """
    for name in values:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
            raise ValueError(f"record: the name {name!r} must be lower-case letters, digits and underscores")
    plain = {name: _plain(value, name) for name, value in values.items()}
    if target := os.environ.get("ZSC_RECORD"):
        _merge(Path(target), plain)
    text = "\n".join(_lines(values))
    if get_ipython() is None:
        print(text)
    else:
        display({"text/plain": text}, raw=True, metadata={KEY: plain})


def read_records(
    profile: str | None = None, folder: Path | str = ROOT / "results"
) -> dict[str, dict[str, object]]:
    """Return what was recorded under a profile: notebook → name → value (an `Estimate` as its four numbers).

    Args:
        profile: the profile; default: the one of the current run, else `book`.
        folder: holds `<profile>/<notebook>/record.json`.
    """
    profile = profile or os.environ.get("ZSC_PROFILE", "book")
    paths = sorted(Path(folder, profile).glob("*/record.json"))
    return {path.parent.name: json.loads(path.read_text(encoding="utf-8")) for path in paths}


def _merge(path: Path, values: dict[str, object]) -> None:
    values_before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for name, value in values.items():
        if name in values_before and values_before[name] != value:
            raise ValueError(f"record: this run already has {name!r} as {values_before[name]!r}, now it is {value!r}")
    write_json(path, values_before | values)


def _plain(value: object, name: str) -> object:
    """Return the value as JSON has it, or raise an error that says where in it the trouble is."""
    if isinstance(value, Estimate):
        return _plain(value._asdict(), name)
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"record: {name} is {value}; a result must be a finite number")
        return value
    if isinstance(value, Mapping):
        if wrong := [key for key in value if not isinstance(key, str)]:
            raise TypeError(f"record: the keys of {name} must be strings, got {wrong[0]!r}")
        return {key: _plain(item, f"{name}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{name}[{i}]") for i, item in enumerate(value)]
    hint = " (use .tolist())" if hasattr(value, "tolist") else ""
    raise TypeError(
        f"record: {name} is a {type(value).__name__}{hint}; give numbers, strings, Estimate, dicts, lists"
    )


def _lines(values: Mapping[str, object], indent: str = "") -> list[str]:
    width = max((len(name) for name in values), default=0)
    lines = []
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            lines += [f"{indent}{name}", *_lines(value, indent + "  ")]
        else:
            lines.append(f"{indent}{name:<{width}}  {_text(value)}")
    return lines


def _text(value: object) -> str:
    if isinstance(value, Estimate):
        return str(value)
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    return f"{value:.4g}" if isinstance(value, float | np.floating) else str(value)
