"""What more and fewer training steps change: of accuracy, of what kinds and number are worth, and of verdicts.

    lengths(table, steps=1024)                              # accuracy against training steps
    kinds_by_length(table, steps=1024)                      # what kinds and number are worth, likewise
    flatness(table)                                         # whether trainings had ended, in words
    twice_table(twice_as_long(table, claims))               # verdicts, read twice

`table` is as that of `zsclib.papers.diversity.experiments.run`, of a page's own run or of the study's record.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import HTML
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from zsclib.papers.diversity.contrasts import (
    ALL,
    BASE,
    KINDS,
    MORE,
    NUMBER,
    READ_TWICE,
    UNION,
    Arms,
    Side,
    Weights,
    contrasts,
    less,
    unsettled,
)
from zsclib.papers.diversity.outcomes import guessing
from zsclib.papers.diversity.training_sets import MAIN
from zsclib.study import plots
from zsclib.study.claims import Claim, to_judge
from zsclib.study.panels import level
from zsclib.study.stats import Estimate, effect, interval, mean_effect
from zsclib.study.tables import table as as_html
from zsclib.study.verdicts import Judgement, judge

CURVES = {"naive": BASE, "union": UNION, "naive, 4 N": MORE, "all combined": ALL, "real images": Side("real")}
WORTH: dict[str, Weights] = {  # of DIV-D7 and of the three claims below it
    "kinds, at N": {UNION: 1, BASE: -1},
    "kinds, both orders": KINDS,
    "number, both orders": NUMBER,
    "kinds less number": less(KINDS, NUMBER),
}
LINES = (":", "-", "-.", (0, (5, 2)), "-")  # of curves, in their order
FLAT = 0.02  # gained by twice the steps, beyond which a training had not ended
NOT_TESTABLE = "not testable at this budget"
MEAN = "mean of those that are testable"
PANEL = 2.3  # inches: height of a panel of curves
Curves = Mapping[str, Mapping[str, Mapping[float, Estimate]]]  # target -> name -> length -> estimate


def lengths(table: pd.DataFrame, steps: int) -> Figure:
    """Draw accuracy against training steps, a panel per target; bands are intervals over test images and seeds.

    Args:
        table: of trainings. steps: of a training of length 1, at which the claims compare.
    """
    curves: dict[str, dict[str, dict[float, Estimate]]] = {}
    for target, at in _arms_by_length(table).items():
        for name, side in CURVES.items():
            own = {k: level(arms[side]) for k, arms in at.items() if side in arms}
            curves.setdefault(target, {})[name] = own
    figure, axes = _over_steps(curves, steps)
    for ax in axes:
        plots.percent(ax.yaxis)
    return figure


def kinds_by_length(table: pd.DataFrame, steps: int) -> Figure:
    """Draw what kinds and number are worth, in points, against training steps; the rest as in `lengths`."""
    curves: dict[str, dict[str, dict[float, Estimate]]] = {}
    for target, at in _arms_by_length(table).items():
        for name, weights in WORTH.items():
            whole = {k: interval(arms.sum(weights)) for k, arms in at.items() if all(side in arms for side in weights)}
            points = {k: Estimate(*(100 * x for x in worth[:3]), worth.n) for k, worth in whole.items()}
            curves.setdefault(target, {})[name] = points
    figure, axes = _over_steps(curves, steps)
    for ax in axes:
        ax.axhline(0, color=plots.INK, linewidth=0.8, zorder=0.5)
    figure.supylabel("points", fontsize=9.5)
    return figure


def flatness(table: pd.DataFrame, architecture: str = MAIN) -> str:
    """Return, in words, whether twice the steps add more than `FLAT`: where they surely do, surely do not, or either.

    Args:
        table: of trainings. architecture: of the networks.
    """
    places: dict[str, dict[str, list[str]]] = {"rising": {}, "flat": {}, "open": {}}  # -> set -> targets
    for target, at in _arms_by_length(table).items():
        for name, side in CURVES.items():
            own = side._replace(architecture=architecture)
            if all(own in at.get(length, ()) for length in (1, 2)):
                more = interval(at[2][own] - at[1][own])
                place = "rising" if more.low > FLAT else "flat" if more.high < FLAT else "open"
                places[place].setdefault(name, []).append(target)
    points = f"{100 * FLAT:g} points"
    texts = {
        "rising": f"Twice the steps surely add more than {points}, so that training had not ended",
        "flat": f"They add less than {points}" if places["rising"] else f"Twice the steps add less than {points}",
        "open": f"The interval holds {points}, so that it is not shown that the curve is flat",
    }
    parts = []
    for place, text in texts.items():
        sets = [f"{name} on {', '.join(targets)}" for name, targets in places[place].items()]
        parts += [f"{text}: {'; '.join(sets)}."] if sets else []
    return " ".join(parts) or "Whether trainings had ended has not been measured yet."


def twice_as_long(table: pd.DataFrame, claims: Iterable[Claim]) -> pd.DataFrame:
    """Return what the claims that are read twice compare after the steps of all claims, after twice as many, and the
    verdict that is left.

    Args:
        table: of trainings. claims: of the paper; those in `READ_TWICE` are judged.

    Returns:
        A row per claim and target, and per claim one for the mean of those targets where it is testable: claim, target;
        once, twice and change, estimates of the contrast; verdict, `NOT_TESTABLE` where twice the steps change the
        contrast (`contrasts.unsettled`). Claims and targets that lack one of the two lengths have no row.
    """
    rows, moved = [], unsettled(table)
    at: list[Mapping] = [{}, {}]
    if len(table):
        at = [contrasts(table, guessing=guessing(table["target"].unique())), contrasts(table, length=2)]
    for claim in claims:
        own = [by_claim.get(claim.id, {}) for by_claim in at]
        targets = [target for target in own[0] if target in own[1]]
        if claim.id not in READ_TWICE or not targets:
            continue
        left = [target for target in targets if target not in moved.get(claim.id, ())]
        changes = {target: own[1][target] - own[0][target] for target in targets}

        def judged(of: Mapping, where: Iterable[str], claim: Claim = claim) -> Judgement:
            return judge(*to_judge([claim], {claim.id: {target: of[target] for target in where}}))[claim.id]

        once, twice = (judged(of, targets) for of in own)
        for target in targets:
            estimates = once.effects[target], twice.effects[target], interval(changes[target])
            rows.append((claim.id, target, *estimates, once.by_set[target] if target in left else NOT_TESTABLE))
        if len(targets) > 1:
            among = left or targets
            change = mean_effect([effect(changes[target]) for target in among]).interval()
            once, twice = (judged(of, among) for of in own)
            direction = once.direction if left else NOT_TESTABLE
            rows.append((claim.id, MEAN, once.pooled, twice.pooled, change, direction))
    return pd.DataFrame(rows, columns=["claim", "target", "once", "twice", "change", "verdict"])


def twice_table(twice: pd.DataFrame) -> HTML:
    """Return what `twice_as_long` returns as a table of a page."""
    rows = []
    for row in twice.itertuples():
        shown = [estimate.points().replace(" points", "") for estimate in (row.once, row.twice, row.change)]
        rows.append([row.claim, row.target, *shown, row.verdict])
    return as_html(rows, ["claim", "target", "points", "twice the steps", "change", "verdict"])


def _arms_by_length(table: pd.DataFrame) -> dict[str, dict[float, Arms]]:
    """Return target → length → outcomes, lengths rising, of targets of which the naive set has been measured."""
    every: dict[str, dict[float, Arms]] = {}
    for target in table["target"].unique() if len(table) else ():
        own = sorted(table[table.target == target]["length"].unique())
        at = {length: Arms(table, target, length) for length in own}
        if BASE in at.get(1, ()):
            every[target] = at
    return every


def _over_steps(curves: Curves, steps: int) -> tuple[Figure, list[Axes]]:
    figure, axes = panels_of_curves(list(curves))
    for ax, (target, by_name) in zip(axes, curves.items(), strict=True):
        for (name, at), line in zip(by_name.items(), LINES, strict=False):
            if at:
                value, low, high, _ = zip(*at.values(), strict=True)
                style = {"linestyle": line, "marker": "o", "markersize": 4, "label": name}
                role = "real" if name == "real images" else "synthetic"
                plots.curve_with_band(ax, [steps * k for k in at], value, low, high, role=role, **style)
        plots.log_ticks(ax.xaxis, [round(steps * k) for k in sorted({k for at in by_name.values() for k in at})])
        ax.axvline(steps, color=plots.LINES, linewidth=1, zorder=0)
        ax.set_title(target, fontsize=10)
    legend_above(figure, axes, "training steps; the claims compare at the grey line")
    return figure, axes


def panels_of_curves(targets: Sequence[str]) -> tuple[Figure, list[Axes]]:
    """Return a figure of two columns with a panel for each target."""
    down = max(1, -(-len(targets) // 2))
    figure, axes = plt.subplots(down, 2, figsize=(plots.WIDTH, PANEL * down + 0.7), squeeze=False)
    for ax in axes.flat[len(targets) :]:
        ax.axis("off")
    return figure, list(axes.flat[: len(targets)])


def legend_above(figure: Figure, axes: Sequence[Axes], label: str) -> None:
    """Name the curves of the first panel above all, and what is on the axes below all."""
    figure.supxlabel(label, fontsize=9.5)
    if axes and axes[0].get_legend_handles_labels()[0]:
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
