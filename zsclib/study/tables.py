"""Tables of pages: numbers written once in one way, from estimates, shares and counts."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
from IPython.display import HTML

from zsclib.paths import ROOT
from zsclib.study.freeze import read_freeze
from zsclib.study.overview import overview
from zsclib.study.records import Job, differences, disagreement, judged, summary
from zsclib.study.stats import Estimate
from zsclib.study.verdicts import Judgement, verdict_table


def table(rows: Sequence[Sequence[object]] | pd.DataFrame, columns: Sequence[str] | None = None) -> HTML:
    """Return rows as a table of a page: estimates as shares in percent with their interval, numbers with separators.

    Args:
        rows: a row per line, each with a cell per column; or a frame. Text stays as it is; None and NaN become a dash.
        columns: the heads of the columns; a frame has its own.

    Raises:
        ValueError: a row has another number of cells than there are columns.
    """
    frame = rows if isinstance(rows, pd.DataFrame) else _frame(rows, columns)
    shown = [[_cell(value) for value in row] for row in frame.itertuples(index=False, name=None)]
    with pd.option_context("display.max_colwidth", None):  # else pandas cuts text at 50 letters
        return HTML(pd.DataFrame(shown, columns=frame.columns).to_html(index=False, justify="left", border=0))


def accuracies(estimates: Mapping[str, Mapping[str, Estimate]], first: str = "set") -> HTML:
    """Return a table of estimates: a row per key of `estimates`, a column per key of its values; gaps become dashes."""
    names = list(dict.fromkeys(name for row in estimates.values() for name in row))
    return table([[key, *(row.get(name) for name in names)] for key, row in estimates.items()], [first, *names])


def verdicts(frame: pd.DataFrame) -> HTML:
    """Return a `zsclib.study.verdicts.verdict_table` in three columns, which fit a page: claim, numbers, verdict."""
    lines = []
    for row in frame.to_dict("records"):
        text = {name: html.escape(str(value)) for name, value in row.items()}
        effects = text["here"].replace("; ", "<br>")
        mean = "" if text["mean of sets"] == "–" else f"<br>mean of sets {text['mean of sets']}"
        after = f"<em>after Holm</em> {text['Holm']}<br><em>size</em> {text['size']}"
        cells = (
            f"<strong>{text['id']}</strong><br>{text['claim']}",
            f"{effects}{mean}<br><em>published</em> {text['published']}",
            f"<strong>{text['direction']}</strong><br>{after}",
        )
        lines.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    head = "<tr><th>claim</th><th>here, 95 % intervals</th><th>verdict</th></tr>"
    return HTML(f'<table class="dataframe verdicts"><thead>{head}</thead><tbody>{"".join(lines)}</tbody></table>')


def study(
    name: str,
    chapter: ModuleType,
    root: Path = ROOT,
    live: Mapping[Job, tuple[np.ndarray, np.ndarray]] | None = None,
) -> tuple[dict[str, Judgement], HTML]:
    """Return the judgements of a chapter's long study and how a page shows them; before its freeze there are none.

    Args:
        name: of the chapter. chapter: `zsclib.papers.<name>.outcomes`. root: the clone.
        live: what the page itself has measured of the study's jobs, as `zsclib.study.records.disagreement` takes it; a
            study that it contradicts is shown as stale.

    Raises:
        ValueError: a file of outcomes is damaged, or belongs to another freeze.
    """
    try:
        freeze = read_freeze(name, root)
    except FileNotFoundError:
        text = "The study of this chapter has not been frozen yet, so none of its claims has been decided."
        return {}, HTML(f"<p><strong>{text}</strong></p>")
    measured = differences(freeze, chapter, root)
    judgements = judged(measured, root)
    parts = [table(summary(freeze, chapter, disagreement(freeze, live or {}, root=root), root)).data]
    parts += [f"<p>{overview(judgements, measured)}</p>"] if judgements else []
    for percent in (True, False):  # differences of accuracies, and other numbers
        own = {i: one for i, one in judgements.items() if (one.claim.unit == "points") == percent}
        parts += [verdicts(verdict_table(own, percent)).data] if own else []
    if left := [name for name in freeze.claims if name not in judgements]:
        text = f"{len(left)} of {len(freeze.claims)} claims have no verdict, as what they compare has not been "
        text += f"measured with all seeds, or is not testable at this budget: {', '.join(left)}."
        parts.append(f"<p>{text}</p>")
    return judgements, HTML("".join(parts))


def _frame(rows: Sequence[Sequence[object]], columns: Sequence[str] | None) -> pd.DataFrame:
    if columns is None:
        raise ValueError("table: name the columns")
    if wrong := [row for row in rows if len(row) != len(columns)]:
        raise ValueError(f"table: {len(columns)} columns, but {len(wrong[0])} cells in {list(wrong[0])!r}")
    return pd.DataFrame([list(row) for row in rows], columns=list(columns), dtype=object)


def _cell(value: object) -> str:
    if isinstance(value, Estimate):
        return value.percent()
    if value is None or value is pd.NA or (isinstance(value, float) and value != value):
        return "–"
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, int | float):
        whole = isinstance(value, int) or abs(value) >= 1000  # three digits would say 4.57e+04
        return (f"{value:,.0f}" if whole else f"{value:.3g}").replace("-", "\N{MINUS SIGN}")
    return _cell(value.item()) if hasattr(value, "item") else str(value)
