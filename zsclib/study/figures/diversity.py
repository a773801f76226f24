"""Figures and tables of the page on diversity; what they show is computed by `zsclib.papers.diversity`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import HTML
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from zsclib.images.image_set import ImageSet
from zsclib.models.networks import ARCHITECTURES
from zsclib.papers.diversity.contrasts import MEASURED, Differences
from zsclib.papers.diversity.experiments import correct
from zsclib.study import plots
from zsclib.study.claims import Claim
from zsclib.study.panels import ROLES, WHOLE
from zsclib.study.stats import Estimate, interval
from zsclib.study.tables import table

TRICK_CLAIMS = {  # name of a training set -> the claim that has the paper's gain by it
    "class name": "DIV-D3-class",
    "domains": "DIV-D3-domain",
    "random guidance": "DIV-D3-guidance",
    "all combined": "DIV-D6-resnet50",
}
SHORTCUTS = {  # name -> the claim that has its effect, and -1 where it is worded the other way round
    "no eval(), naive": ("DIV-A-eval", 1),
    "no eval(), gain": ("DIV-A-eval-gain", 1),
    "chosen on test, naive": ("DIV-A-selection", 1),
    "chosen on test, gain": ("DIV-A-selection-gain", 1),
    "four times the images": ("DIV-A-size", 1),
    "one scale per run": ("DIV-A-once", -1),
    "one noise sequence": ("DIV-A-noise", -1),
}


def published(claims: Iterable[Claim], rows: Mapping[str, str]) -> dict[str, dict[str, float]]:
    """Return what the paper prints, as shares: target -> row -> value, where a target plays the role of its data set.

    Args:
        claims: those of the paper. rows: name of a row of a figure -> id of the claim that has its numbers.
    """
    values: dict[str, dict[str, float]] = {}
    by_id = {claim.id: claim for claim in claims}
    for row, claim in rows.items():
        for number in by_id[claim].published if claim in by_id else ():
            if "set" in number:
                values.setdefault(number["set"], {}).setdefault(row, number["value"] / 100)
    return values


def tricks_table(sets: Mapping[str, ImageSet]) -> HTML:
    """Return a row per trick: a prompt of it, its guidance, and how many different prompts it has."""
    rows = []
    for trick, images in sets.items():
        scale, prompts = images.manifest["guidance"], images.manifest["prompt"]
        guidance = f"{scale.min():.2g}" if scale.nunique() == 1 else f"{scale.min():.2g} to {scale.max():.2g}"
        rows.append([trick, prompts.iloc[len(images.classes)], guidance, prompts.nunique()])
    return table(rows, ["trick", "a prompt", "guidance scale s", "different prompts"])


def sample_sheet(sets: Mapping[str, ImageSet], rows: int = 2, columns: int = 10) -> Figure:
    """Show the first images of each set, a column per class; sets have their classes in turn."""
    images, names = [], []
    for name, one in sets.items():
        classes = len(one.classes)
        images += [one.images[row * classes : row * classes + min(columns, classes)] for row in range(rows)]
        names += [name, *[""] * (rows - 1)]
    return plots.image_grid(np.concatenate(images), columns=len(images[0]), row_titles=names)


def target_sheet(sets: Mapping[str, Mapping[str, ImageSet]], columns: int = 8) -> Figure:
    """Show one image of some classes of every set, a row per set: target -> name -> set with its classes in turn."""
    images, names = [], []
    for target, by_name in sets.items():
        for k, (name, one) in enumerate(by_name.items()):
            chosen = np.linspace(0, len(one.classes) - 1, columns).round().astype(int)
            images.append(one.images[chosen])
            names.append(name if k else f"{target}: {name}")
    return plots.image_grid(np.concatenate(images), columns=columns, row_titles=names)


def accuracies_table(outcomes: pd.DataFrame) -> HTML:
    """Return the mean accuracy of a ResNet-50 over seeds, a row per training set, a column per target.

    Args:
        outcomes: from `experiments.run`.
    """
    alone = outcomes[outcomes.architecture == "resnet50"]
    alone = alone.assign(accuracy=[one.mean() for one in alone["last"]])
    means = alone.groupby(["arm", "times", "target"], sort=False)["accuracy"].mean()
    targets = list(alone["target"].unique())
    rows = [
        [arm, f"{times:g}", *(_percent(means.get((arm, times, target))) for target in targets)]
        for arm, times in dict.fromkeys(index[:2] for index in means.index)
    ]
    return table(rows, ["training set", "images, × N", *targets])


def networks_table(outcomes: pd.DataFrame, targets: Sequence[str], architectures: Sequence[str]) -> HTML:
    """Return the mean accuracy of each architecture after the naive set and after all combined, on each target."""
    arms = {"naive": ("base", 1), "all combined": ("union", 4)}
    columns = [(target, name) for target in targets for name in arms]
    rows = []
    for network in architectures:
        means = [correct(outcomes, target, *arms[name], [network]).mean() for target, name in columns]
        rows.append([network, ARCHITECTURES[network], *map(_percent, means)])
    return table(rows, ["network", "what it is", *(", ".join(column) for column in columns)])


def guidance(fixed: Mapping[float, Estimate], random: Estimate, difference: Estimate, detail: str) -> Figure:
    """Draw accuracy against one guidance scale for all images, and beside it that of scales from 1 to 5.

    Args:
        fixed: scale -> accuracy. random: accuracy with a scale of its own for each image.
        difference: random less the fixed scale of the same mean, 3, for the title.
        detail: what is shown, below the title.
    """
    figure, ax = plt.subplots()
    value, low, high, _ = zip(*fixed.values(), strict=True)
    plots.curve_with_band(ax, list(fixed), value, low, high, role="synthetic", marker="o")
    bar = [[random.value - random.low], [random.high - random.value]]
    ax.errorbar(3.08, random.value, bar, fmt="D", color=plots.COLOURS["elimination"], markersize=7, zorder=4)
    at = {"textcoords": "offset points", "fontweight": "bold"}
    ax.annotate("random, 1 to 5", (3.08, random.high), (9, -2), **at)
    ax.set_xticks(list(fixed), [f"{scale:g}" for scale in fixed])
    ax.set_xlabel("guidance scale s")
    plots.percent(ax.yaxis)
    plots.title(ax, f"Random from 1 to 5, less 3 for all:\n{difference.points()}", detail)
    return figure


def size(
    curves: Mapping[str, Mapping[float, Estimate]],
    clip: float,
    more_tricks: Estimate,
    more_images: Estimate,
    detail: str,
) -> Figure:
    """Draw accuracy against the number of training images.

    Args:
        curves: name -> number of images -> accuracy. clip: zero-shot CLIP's, a dashed line.
        more_tricks, more_images: gain of the union at equal size, and of four times as many, for the title.
        detail: what is shown, below the title.
    """
    figure, ax = plt.subplots(figsize=(plots.WIDTH, 4))
    for name, points in curves.items():
        value, low, high, _ = zip(*points.values(), strict=True)
        line = ":" if name == "naive" else "-"
        role = ROLES.get(name, "synthetic")
        plots.curve_with_band(ax, list(points), value, low, high, name, role, linestyle=line, marker="o")
    numbers = sorted({n for points in curves.values() for n in points})
    ax.axhline(clip, color=plots.COLOURS["clip"], linestyle="--", linewidth=1.2)
    ax.annotate("CLIP", (numbers[0], clip), (0, 4), textcoords="offset points", color=plots.COLOURS["clip"])
    plots.log_ticks(ax.xaxis, numbers)
    plots.percent(ax.yaxis)
    ax.set(xlabel="training images", xlim=(0.9 * numbers[0], 2.1 * numbers[-1]))
    message = f"By tricks: {more_tricks.points()}\nBy four times as many: {more_images.points()}"
    plots.title(ax, message, detail)
    plots.label_curves(ax)
    return figure


def measures(sets: pd.DataFrame, ranks: pd.DataFrame) -> Figure:
    """Draw accuracy against four set measures, both less the mean of their target and seed.

    Args:
        sets: from `contrasts.ranked_sets`.
        ranks: from `contrasts.rank_correlations`.
    """
    names = list(MEASURED.values())
    means = sets.groupby(["target", "seed"])[["accuracy", *names]].transform("mean")
    figure, axes = plt.subplots(2, 2, figsize=(plots.WIDTH, 6), sharey=True)
    for ax, name in zip(axes.flat, names, strict=True):
        for target, marker in zip(sets["target"].unique(), "osx^" * len(sets), strict=False):
            at = (sets[[name, "accuracy"]] - means[[name, "accuracy"]])[sets.target == target]
            style = {"color": plots.COLOURS["synthetic"], "markersize": 4.5, "label": target}
            ax.plot(at[name], at.accuracy, marker, fillstyle="none" if marker == "s" else "full", **style)
        rho = ranks[name]
        spread = f"ρ = {rho.mean():+.2f} ({rho.min():+.2f} to {rho.max():+.2f})"
        shown = name.removesuffix(" k=3").replace("frechet", "Fréchet")
        ax.set_title(f"{shown}\n{spread}".replace("-", "\N{MINUS SIGN}"), fontsize=10)
        ax.locator_params(axis="x", nbins=5)
        ax.yaxis.set_major_locator(MaxNLocator(8, steps=WHOLE))
        plots.percent(ax.yaxis)
    axes[0, 0].legend(fontsize=8, handletextpad=0.1)
    figure.supylabel("accuracy, less the mean", fontsize=10, color=plots.QUIET)
    return figure


def correlations_table(ranks: pd.DataFrame, measures: Sequence[str]) -> HTML:
    """Return a row per measure: its rank correlation with accuracy, mean and range over seeds, by target."""
    targets = list(ranks["target"].unique())
    rows = []
    for name in measures:
        each = [ranks[ranks.target == target][name] for target in targets]
        shown = [f"{rho.mean():+.2f} ({rho.min():+.2f} to {rho.max():+.2f})" for rho in each]
        rows.append([name, *(text.replace("-", "\N{MINUS SIGN}") for text in shown)])
    return table(rows, ["measure, in CLIP's image features", *targets])


def shortcut_effects(differences: Differences) -> dict[str, dict[str, Estimate]]:
    """Return what each shortcut of released code does to the accuracy reported: target -> shortcut -> estimate."""
    effects: dict[str, dict[str, Estimate]] = {}
    for name, (claim, sign) in SHORTCUTS.items():
        for target, values in differences.get(claim, {}).items():
            effects.setdefault(target, {})[name] = interval(sign * values)
    return effects


def diversity_or_quantity(outcomes: pd.DataFrame, first: str) -> HTML:
    """Return what more tricks and more images add, each by itself, in points: a row per step, a column per target."""
    steps = {
        "more tricks at N images: naive to union": (("base", 1), ("union", 1)),
        "more images of all tricks: union to all combined": (("union", 1), ("union", 4)),
        "more naive images: N to 4N": (("base", 1), ("base", 4)),
        "more tricks at 4N images: naive to all combined": (("base", 4), ("union", 4)),
    }
    rows = []
    targets = list(outcomes["target"].unique())
    for step, (before, after) in steps.items():
        shown = [target for target in targets if target == first or ("base", 4) not in (before, after)]
        effects = {t: interval(correct(outcomes, t, *after) - correct(outcomes, t, *before)) for t in shown}
        rows.append([step, *(effects[t].points() if t in effects else None for t in targets)])
    return table(rows, ["step", *targets])


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{100 * share:.1f} %"
