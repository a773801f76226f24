"""What trainings on the bag of tricks show, of a page's own run or of the study's record, also while some are missing.

    table = table_of(recorded("diversity"))                 # as that of `experiments.run`, as far as it goes
    panels(gains(table))                                    # what each trick adds to the naive set
    panels(kinds_and_number(table))                         # both orders of adding them, and their mean
    lengths(table, steps=1024)                              # accuracy against training steps
    panels(by_network(table))                               # each architecture's gain
    guidance(table)                                         # fixed, random, integer, once per run
    measures(ranked_sets(table, measures_of(notes)))        # accuracy against set measures
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from zsclib.models.networks import layout_of
from zsclib.papers.diversity.contrasts import (
    ALL,
    BASE,
    CHOSEN,
    KINDS,
    MEASURED,
    MORE,
    NETWORKS,
    NUMBER,
    UNION,
    Arms,
    Side,
    Weights,
    gain,
    rank_correlations,
)
from zsclib.papers.diversity.experiments import CLIP, FIXED, correct
from zsclib.papers.diversity.tricks import TRICKS
from zsclib.study import plots
from zsclib.study.panels import WHOLE, Estimates, level
from zsclib.study.stats import Estimate, interval

ARMS = {
    "style named": Side("style-matched"), "class name": Side("class-name"), "domains": Side("multi-domain"),
    "random guidance": Side("random-guidance"), CHOSEN: Side(CHOSEN), "union": UNION, "naive, 4 N": MORE,
    "all combined": ALL,
}  # fmt: skip
LEVELS = {
    "naive": BASE, "union": UNION, "all combined": ALL, "real images": Side("real"), CLIP: Side(CLIP, 1, "clip"),
}  # fmt: skip
STEPS: dict[str, Weights] = {
    "kinds, at N": {UNION: 1, BASE: -1},
    "kinds, at 4 N": {ALL: 1, MORE: -1},
    "number, naive images": {MORE: 1, BASE: -1},
    "number, all kinds": {ALL: 1, UNION: -1},
    "kinds, both orders": KINDS,
    "number, both orders": NUMBER,
}
CURVES = {"naive": BASE, "union": UNION, "naive, 4 N": MORE, "all combined": ALL, "real images": Side("real")}
LINES = {"naive": ":", "union": "-", "naive, 4 N": "-.", "all combined": (0, (5, 2))}
SCALES = {  # arms whose scales are random, and where they stand beside the fixed ones: about their mean
    "real, per image": ("random-guidance", 2.85, "D"),
    "integer, per image": ("random-guidance-integer", 3.0, "s"),
    "integer, once per run": ("random-guidance-once", 3.15, "^"),
}
FLAT = 0.02  # gained by twice the steps, beyond which a training had not ended
PANEL = 2.3  # inches: height of a panel of curves


def targets_of(table: pd.DataFrame) -> list[str]:
    """Return the targets of which the naive set has been measured, in the order of the table."""
    return [target for target in _targets(table) if BASE in Arms(table, target)]


def gains(table: pd.DataFrame) -> Estimates:
    """Return what each arm gains over the naive set: target → arm → estimate."""
    return _effects(table, {name: {side: 1, BASE: -1} for name, side in ARMS.items()})


def kinds_and_number(table: pd.DataFrame) -> Estimates:
    """Return what more kinds and more images add, each first and each second, and the mean of both orders."""
    return _effects(table, STEPS)


def by_network(table: pd.DataFrame, width: str = "pocket") -> Estimates:
    """Return what all combined gain over the naive set by network: target → what the network is → estimate."""
    return _effects(table, {layout_of(name, width): gain((name,)) for name in NETWORKS})


def levels(table: pd.DataFrame) -> Estimates:
    """Return accuracies between the naive set and real images, and zero-shot CLIP's: target → name → estimate."""
    every: dict[str, dict[str, Estimate]] = {}
    for target in targets_of(table):
        arms = Arms(table, target)
        every[target] = {name: _level(arms[side]) for name, side in LEVELS.items() if side in arms}
    return every


def lengths(table: pd.DataFrame, steps: int) -> Figure:
    """Draw accuracy against training steps, a panel per target; bands are intervals over test images and seeds.

    Args:
        table: as that of `experiments.run`. steps: of a training of length 1, at which the claims compare.
    """
    figure, axes = _panels(targets_of(table))
    for ax, target in zip(axes, targets_of(table), strict=True):
        for name, side in CURVES.items():
            rows = table[(table.target == target) & (table.arm == side.arm) & (table.times == side.times)]
            own = sorted(rows[rows.architecture == side.architecture]["length"].unique())
            if own:
                at = {length: level(correct(table, target, side.arm, side.times, length=length)) for length in own}
                value, low, high, _ = zip(*at.values(), strict=True)
                style = {"linestyle": LINES.get(name, "-"), "marker": "o", "markersize": 4, "label": name}
                role = "real" if name == "real images" else "synthetic"
                plots.curve_with_band(ax, [steps * k for k in at], value, low, high, role=role, **style)
        plots.log_ticks(ax.xaxis, [round(steps * k) for k in sorted(table[table.target == target]["length"].unique())])
        ax.axvline(steps, color=plots.LINES, linewidth=1, zorder=0)
        plots.percent(ax.yaxis)
        ax.set_title(target, fontsize=10)
    _legend(figure, axes, "training steps; the claims compare at the grey line")
    return figure


def flatness(table: pd.DataFrame) -> str:
    """Return on which targets the naive set gains more than `FLAT` by twice the steps, by its whole interval."""
    rows = table[(table.arm == "base") & (table.times == 1) & (table.length == 2)]
    twice = [target for target in targets_of(table) if (rows.target == target).any()]
    if not twice:
        return "Whether trainings had ended has not been measured yet."
    at = {t: correct(table, t, length=2) - correct(table, t) for t in twice}
    rising = [target for target, difference in at.items() if interval(difference).low > FLAT]
    if not rising:
        return f"On no target so far does the naive set surely gain more than {100 * FLAT:g} points by twice the steps."
    return (
        f"On {', '.join(rising)}, the naive set gains more than {100 * FLAT:g} points by twice the steps: training had "
        "not ended there, and a verdict may be one on speed."
    )


def guidance(table: pd.DataFrame) -> Figure:
    """Draw accuracy against one guidance scale for all images, and beside it that of random scales, by target."""
    fixed = {TRICKS[arm].guidance.low: Side(arm) for arm in (*FIXED, "base")}
    of = {target: Arms(table, target) for target in targets_of(table)}
    of = {target: arms for target, arms in of.items() if all(side in arms for side in fixed.values())}
    figure, axes = _panels(list(of))
    for ax, (target, arms) in zip(axes, of.items(), strict=True):
        value, low, high, _ = zip(*(level(arms[side]) for side in fixed.values()), strict=True)
        plots.curve_with_band(ax, list(fixed), value, low, high, role="synthetic", marker="o", markersize=4)
        for name, (arm, x, marker) in SCALES.items():
            if Side(arm) in arms:
                at = level(arms[Side(arm)])
                bar = [[at.value - at.low], [at.high - at.value]]
                ax.errorbar(x, at.value, bar, fmt=marker, color=plots.INK, markersize=5, elinewidth=1, label=name)
        ax.set_xticks(list(fixed), [f"{scale:g}" for scale in fixed])
        plots.percent(ax.yaxis)
        ax.set_title(target, fontsize=10)
    _legend(figure, axes, "guidance scale s, one for all images (curve) or random from 1 to 5")
    return figure


def measures(sets: pd.DataFrame) -> Figure:
    """Draw accuracy against four set measures, both less their mean among sets of one size, target and seed.

    Args:
        sets: from `contrasts.ranked_sets`.
    """
    names, ranks = list(MEASURED.values()), rank_correlations(sets)
    columns = ["accuracy", *names]
    rest = sets[columns] - sets.groupby(["target", "seed", "times"])[columns].transform("mean")
    figure, axes = plt.subplots(2, 2, figsize=(plots.WIDTH, 6), sharey=True)
    for ax, name in zip(axes.flat, names, strict=True):
        for target, marker in zip(sets["target"].unique(), "osx^" * len(sets), strict=False):
            at = rest[sets.target == target]
            style = {"color": plots.COLOURS["synthetic"], "markersize": 4, "label": target}
            ax.plot(at[name], at.accuracy, marker, fillstyle="none" if marker == "s" else "full", **style)
        ρ = ranks[name]
        spread = f"ρ = {ρ.mean():+.2f} ({ρ.min():+.2f} to {ρ.max():+.2f})"
        shown = name.removesuffix(" k=3").replace("frechet", "Fréchet")
        ax.set_title(f"{shown}\n{spread}".replace("-", "\N{MINUS SIGN}"), fontsize=10)
        ax.locator_params(axis="x", nbins=5)
        ax.yaxis.set_major_locator(MaxNLocator(8, steps=WHOLE))
        plots.percent(ax.yaxis)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    figure.supylabel("accuracy, less the mean", fontsize=10, color=plots.QUIET)
    return figure


def _effects(table: pd.DataFrame, rows: Mapping[str, Weights]) -> Estimates:
    """Return weighted sums of accuracies with their intervals, by target, where all their sides are there."""
    effects: dict[str, dict[str, Estimate]] = {}
    for target in _targets(table):
        arms = Arms(table, target)
        for name, weights in rows.items():
            if all(side in arms for side in weights):
                effects.setdefault(target, {})[name] = interval(arms.sum(weights))
    return effects


def _targets(table: pd.DataFrame) -> list[str]:
    return list(table["target"].unique()) if len(table) else []


def _level(outcomes: np.ndarray) -> Estimate:
    same = (outcomes == outcomes[0]).all()  # CLIP's, which no seed changes
    return level(outcomes[:1] if same else outcomes)


def _panels(targets: Sequence[str]) -> tuple[Figure, list[Axes]]:
    down = max(1, -(-len(targets) // 2))
    figure, axes = plt.subplots(down, 2, figsize=(plots.WIDTH, PANEL * down + 0.7), squeeze=False)
    for ax in axes.flat[len(targets) :]:
        ax.axis("off")
    return figure, list(axes.flat[: len(targets)])


def _legend(figure: Figure, axes: Sequence[Axes], label: str) -> None:
    figure.supxlabel(label, fontsize=9.5)
    if axes and axes[0].get_legend_handles_labels()[0]:
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
