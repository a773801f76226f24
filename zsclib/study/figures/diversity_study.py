"""What trainings on the bag of tricks show, of a page's own run or of the study's record, also while some are missing.

    table = table_of(recorded("diversity"))                 # as that of `experiments.run`, as far as it goes
    panels(gains(table))                                    # what each trick adds to the naive set
    panels(kinds_and_number(table))                         # both orders of adding them, and their mean
    panels(by_network(table))                               # each architecture's gain
    untrained_text(table, guessing)                         # and which learnt too little to be judged
    batch_statistics_table(table)                           # which networks gain more, and with no eval()
    guidance(table)                                         # fixed, random, integer, once per run
    measures(ranked_sets(table, measures_of(notes)))        # accuracy against set measures

Training steps are the subject of `zsclib.study.figures.diversity_length`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import HTML
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from zsclib.images.image_set import ImageSet
from zsclib.models.networks import layout_of
from zsclib.own_sets import short_name
from zsclib.papers.diversity.contrasts import (
    ADAPTED,
    ALL,
    BASE,
    BATCH_NORM,
    CHOSEN,
    KINDS,
    MEASURED,
    MORE,
    NEAR,
    NETWORKS,
    NUMBER,
    UNION,
    WITHOUT,
    Arms,
    Side,
    Weights,
    gain,
    less,
    rank_correlations,
    untrained,
)
from zsclib.papers.diversity.experiments import CLIP, FIXED, name_of
from zsclib.papers.diversity.training_sets import Cell, Setting
from zsclib.papers.diversity.tricks import TRICKS
from zsclib.study import plots
from zsclib.study.figures.diversity_length import legend_above, panels_of_curves
from zsclib.study.panels import WHOLE, Estimates, level
from zsclib.study.records import Job, image_keys
from zsclib.study.stats import Estimate, interval
from zsclib.study.tables import table as as_html

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
SCALES = {  # arms whose scales are random, and where they stand beside the fixed ones: about their mean
    "real, per image": ("random-guidance", 2.85, "D"),
    "integer, per image": ("random-guidance-integer", 3.0, "s"),
    "integer, once per run": ("random-guidance-once", 3.15, "^"),
}


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


def untrained_text(table: pd.DataFrame, guessing: Mapping[str, float], width: str = "pocket") -> str:
    """Return, in words, on which targets a network learns too little from either set for a claim on it.

    Args:
        table: of trainings. guessing: target → accuracy of guessing. width: of the networks.
    """
    parts = []
    for target in targets_of(table):
        names = ", ".join(layout_of(name, width) for name in untrained(Arms(table, target), guessing[target]))
        parts += [f"{names} on {target}"] if names else []
    near = f"less than {100 * NEAR:g} points above guessing"
    if not parts:
        return f"No network is {near} after both sets."
    return f"After either set these are {near}, so that claims on them are not judged there: {'; '.join(parts)}."


def levels(table: pd.DataFrame) -> Estimates:
    """Return accuracies between the naive set and real images, and zero-shot CLIP's: target → name → estimate."""
    every: dict[str, dict[str, Estimate]] = {}
    for target in targets_of(table):
        arms = Arms(table, target)
        every[target] = {name: _level(arms[side]) for name, side in LEVELS.items() if side in arms}
    return every


def study_levels(table: pd.DataFrame) -> dict[str, Estimate]:
    """Return the accuracies of `levels` by names for a record: study_digits_all_combined, study_digits_clip."""
    return {
        f"study_{short_name(target)}_{'clip' if name == CLIP else short_name(name)}": estimate
        for target, by_name in levels(table).items()
        for name, estimate in by_name.items()
    }


def batch_statistics_table(table: pd.DataFrame) -> HTML:
    """Return what all combined gain in points, a column per target, by networks with and without batch normalisation.

    Of those with it also as code reports them that never calls eval(), with the statistics of the test batch; the last
    rows are how much more the networks without it gain than either.
    """
    ours, adapted, without = gain(BATCH_NORM), gain(BATCH_NORM, ADAPTED), gain(WITHOUT)
    rows = {
        "with batch normalisation": ours,
        "with it, no eval()": adapted,
        "without it": without,
        "without it less with it": less(without, ours),
        "the same, no eval()": less(without, adapted),
    }
    effects = {target: by_name for target, by_name in _effects(table, rows).items() if len(by_name) == len(rows)}
    lines = [[name, *(own[name].points().replace(" points", "") for own in effects.values())] for name in rows]
    return as_html(lines, ["networks", *effects])


def guidance(table: pd.DataFrame) -> Figure:
    """Draw accuracy against one guidance scale for all images, and beside it that of random scales, by target."""
    fixed = {TRICKS[arm].guidance.low: Side(arm) for arm in (*FIXED, "base")}
    of = {target: Arms(table, target) for target in targets_of(table)}
    of = {target: arms for target, arms in of.items() if all(side in arms for side in fixed.values())}
    figure, axes = panels_of_curves(list(of))
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
    legend_above(figure, axes, "guidance scale s, one for all images (curve) or random from 1 to 5")
    return figure


def once_text(seeds: Iterable[int]) -> str:
    """Return, in words, which guidance scales the runs of several seeds got that take one for all of a run."""
    scales = [f"{TRICKS['random-guidance-once'].guidance.draw(seed):g}" for seed in seeds]
    return (
        f"The scale taken once per run was {', '.join(scales)}, seed by seed and the same on every target: its mark is "
        "the mean of these few, and its interval does not say what others would give."
    )


def live_clip(
    table: pd.DataFrame, tests: Mapping[str, ImageSet], clip: str, plan: Mapping
) -> dict[Job, tuple[np.ndarray, np.ndarray]]:
    """Return zero-shot CLIP of a page's own run as jobs of the study, for `zsclib.study.tables.study` to compare.

    Args:
        table: of the page, with the rows of `experiments.references`.
        tests: target → the page's test images, of the split "test". clip: folder of the page's CLIP.
        plan: of the study; its targets count whose test images have the page's split and size.

    Returns:
        Job → keys of the images and whether CLIP is correct on each; nothing of another CLIP than the study's.
    """
    settings, arm = plan["settings"], name_of(Cell("", CLIP, architecture="clip"))
    jobs = {}
    for row in table[table.arm == CLIP].to_dict("records"):
        target, images = row["target"], tests[row["target"]]
        own = target not in settings.get("splits", {}) and images.images.shape[1] == settings.get("size", Setting.size)
        if clip in plan["models"] and target in plan["sets"] and own and row["seed"] == plan["seeds"][0]:
            jobs[arm, target, row["seed"]] = image_keys(images.images, images.labels), row["last"]
    return jobs


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
