"""Panels of estimates, one for each data set: what several pages show in one way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from zsclib.own_sets import set_name
from zsclib.study import plots
from zsclib.study.stats import Estimate, accuracy, interval

SIZE = 0.5, 0.6  # inches: height of an estimate in a panel, and of the rest
WHOLE = (1, 2, 5, 10)  # steps of ticks: none of 2.5, which would be rounded
ROLES = {  # what a network was trained on, or what else classifies; all others were trained on generated images
    **dict.fromkeys(("real images", "real only", "twice the real", "oversampled", "classical", "shots only"), "real"),
    **dict.fromkeys(("retrieved by text", "retrieved by images", "retrieved by both", "random pool"), "retrieved"),
    **dict.fromkeys(("retrieved", "retrieved and DataDream"), "retrieved"),
    **dict.fromkeys(("CLIP, zero-shot", "linear probe", "CLIP", "CLIP, ensemble", "CLIP, one prompt"), "clip"),
    "diffusion classifier": "diffusion",
}
Estimates = Mapping[str, Mapping[str, Estimate]]  # target -> name -> estimate


def role_of(name: str) -> str:
    """Return an arm's role in `plots.COLOURS`: that of `ROLES`, of heads on a generator's features, or synthetic."""
    return ROLES.get(name, "features" if name.startswith("SD features") else "synthetic")


def level(outcomes: np.ndarray) -> Estimate:
    """Return accuracy with its interval, from outcomes (seeds, images): Wilson's where there is one seed."""
    return accuracy(outcomes[0]) if len(outcomes) == 1 else interval(outcomes)


def panels(
    estimates: Estimates,
    from_paper: Mapping[str, Mapping[str, float]] | None = None,
    differences: bool = True,
    chance: Mapping[str, float] | None = None,
) -> Figure:
    """Draw a panel of dots with intervals per target.

    Args:
        estimates: target -> name -> estimate.
        from_paper: target -> name -> published value, an open diamond.
        differences: estimates are differences, in points; else accuracies.
        chance: target -> the accuracy of guessing, a dashed line.
    """
    down = -(-len(estimates) // 2)
    rows = max(len(by_name) for by_name in estimates.values())
    size = (plots.WIDTH, (SIZE[0] * rows + SIZE[1]) * down)
    figure, axes = plt.subplots(down, 2, figsize=size, squeeze=False, sharex=True)
    for ax, (target, by_name) in zip(axes.flat, estimates.items(), strict=False):
        roles = {name: role_of(name) for name in by_name}
        numbers = {name: v for name, v in (from_paper or {}).get(target, {}).items() if name in by_name}
        plots.interval_dots(ax, by_name, roles, numbers, differences=differences)
        ax.set_title(set_name(target), fontsize=10)
        ax.set_ylim(rows - 0.5, -1)  # rows of one height in all panels
        ax.xaxis.set_major_locator(MaxNLocator(5, steps=WHOLE))
        if chance is not None:
            style = {"color": plots.COLOURS["chance"], "linestyle": (0, (4, 3)), "linewidth": 1.2, "zorder": 0}
            ax.axvline(chance[target], **style)
            ax.set_xlim(0, 1.08)
    for ax in axes.flat[len(estimates) :]:
        ax.axis("off")
    return figure


def columns(
    gains: Mapping[str, Mapping[str, Sequence[Estimate | None]]],
    heads: Mapping[str, str],
    row: float,
    label: str,
    from_paper: Mapping[str, Mapping[str, float]] | None = None,
) -> Figure:
    """Draw gains in points: a row per name, a column per target; where there is no dot, nothing was measured.

    Args:
        gains: target -> name -> estimates, the first a filled dot, a second an open one below it.
        heads: target -> what stands above its column. row: inches of a name. label: of the axis.
        from_paper: target -> name -> published gain, an open diamond.
    """
    names = list(dict.fromkeys(name for by_name in gains.values() for name in by_name))
    size = (plots.WIDTH, row * len(names) + 1.2)
    figure, axes = plt.subplots(1, len(gains), figsize=size, sharey=True, squeeze=False)
    for ax, (target, by_name) in zip(axes[0], gains.items(), strict=True):
        for place, name in enumerate(names):
            estimates, colour = by_name.get(name, ()), plots.COLOURS[role_of(name)]
            for k, gain in enumerate(estimates):
                if gain is None:
                    continue
                y, fill = place + 0.28 * (k - (len(estimates) - 1) / 2), "none" if k else "full"
                ax.plot([100 * gain.low, 100 * gain.high], [y, y], color=colour, linewidth=1.8, solid_capstyle="round")
                inside = "white" if k else colour
                ax.plot(100 * gain.value, y, "o", color=colour, markersize=4.5, fillstyle=fill, markerfacecolor=inside)
            if (number := (from_paper or {}).get(target, {}).get(name)) is not None:
                ax.plot(100 * number, place, "D", color=plots.INK, markersize=4, fillstyle="none", zorder=0.8)
        ax.axvline(0, color=plots.INK, linewidth=0.8, zorder=0.7)
        ax.set_title(heads[target], fontsize=7.5)
        ax.xaxis.set_major_locator(MaxNLocator(4, steps=WHOLE))
        ax.tick_params(labelsize=8)
        ax.grid(True, axis="x")
    axes[0, 0].set_yticks(range(len(names)), names)
    axes[0, 0].set_ylim(len(names) - 0.4, -0.6)
    figure.supxlabel(label, fontsize=9)
    return figure
