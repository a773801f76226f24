"""Numbers for prose: `{{ notebook.name }}` in a page is the value `name` in that notebook's record.json.

An estimate (value, low, high, n) reads "57.3 % (54.1–60.4)" when all of it lies between 0 and 1, else it
has three significant digits. Its parts are `name_value`, `name_low`, `name_high` and `name_n`; for a
difference of shares there is `name_points`, "+5.0 points (−2.0 to +12.0)". A float has `name_percent`.
A name that no record holds fails the build.
"""

import os
from pathlib import Path

from zsclib.study.record import read_records

PERCENT = "\N{NO-BREAK SPACE}%"


class Record(dict):
    """The texts of one notebook's values; a missing name is an error that says what there is."""

    def __missing__(self, name):
        raise ValueError(f"no value named {name!r} was recorded; there are: {', '.join(sorted(self))}")


def text(value, percent=False) -> str:
    """Return a number, string or list as it reads in a sentence."""
    if isinstance(value, list):
        return ", ".join(map(text, value))
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if percent:
        return f"{100 * value:.1f}{PERCENT}"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.0f}" if abs(value) > 999 else f"{value:.3g}"


def texts(values: dict) -> Record:
    """Return every name a page may use, with its text."""
    out = Record()
    for name, value in values.items():
        if isinstance(value, dict) and set(value) == {"value", "low", "high", "n"}:
            share = 0 <= value["low"] <= value["high"] <= 1
            part = {key: text(number, share and key != "n") for key, number in value.items()}
            out |= {f"{name}_{key}": word for key, word in part.items()}
            low, high = (part[end].removesuffix(PERCENT) for end in ("low", "high"))
            out[name] = f"{part['value']} ({low}–{high})"
            point = {key: f"{100 * number:+.1f}".replace("-", "−") for key, number in value.items()}
            out[f"{name}_points"] = f"{point['value']} points ({point['low']} to {point['high']})"
        elif isinstance(value, dict):
            out[name] = texts(value)
        else:
            out[name] = text(value)
            if isinstance(value, float):
                out[f"{name}_percent"] = text(value, percent=True)
    return out


def add_substitutions(app, config) -> None:
    """Give the pages the records of the profile being rendered (`zsc book` names it in the environment)."""
    profile = os.environ.get("ZSC_PROFILE", "book")
    records = read_records(profile, Path(os.environ.get("ZSC_RESULTS", "results")))
    config.myst_substitutions |= {notebook: texts(values) for notebook, values in records.items()}
    config.myst_substitutions["profile"] = profile


def setup(app):
    app.connect("config-inited", add_substitutions)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
