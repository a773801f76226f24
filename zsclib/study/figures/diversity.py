"""Figures and tables of the page on diversity; what they show is computed by `zsclib.papers.diversity`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from IPython.display import HTML
from matplotlib.figure import Figure

from zsclib.images.image_set import ImageSet
from zsclib.models.networks import ARCHITECTURES, layout_of
from zsclib.own_sets import set_name
from zsclib.papers.diversity.contrasts import NETWORKS, SHIFTS, Arms, Differences, Side
from zsclib.papers.diversity.training_sets import MAIN
from zsclib.study import plots
from zsclib.study.claims import Claim
from zsclib.study.stats import Estimate, interval
from zsclib.study.tables import table

TRICK_CLAIMS = {  # name of a training set -> the claim that has the paper's gain by it
    "class name": "DIV-D3-class",
    "domains": "DIV-D3-domain",
    "random guidance": "DIV-D3-guidance",
    "all combined": "DIV-D6-resnet50",  # of a ResNet-50, as the paper's numbers of single tricks
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
            names.append(name if k else f"{set_name(target)}: {name}")
    return plots.image_grid(np.concatenate(images), columns=columns, row_titles=names)


def accuracies_table(outcomes: pd.DataFrame) -> HTML:
    """Return the mean accuracy of the main network, a row per training set, a column per target.

    Args:
        outcomes: from `experiments.run`; trainings of length 1 are shown.
    """
    alone = outcomes[(outcomes.architecture == MAIN) & (outcomes.length == 1)]
    alone = alone.assign(accuracy=[one.mean() for one in alone["last"]])
    means = alone.groupby(["arm", "times", "target"], sort=False)["accuracy"].mean()
    targets = list(alone["target"].unique())
    rows = [
        [arm, f"{times:g}", *(_percent(means.get((arm, times, target))) for target in targets)]
        for arm, times in dict.fromkeys(index[:2] for index in means.index)
    ]
    return table(rows, ["training set", "images, × N", *map(set_name, targets)])


def networks_table(outcomes: pd.DataFrame, width: str = "pocket") -> HTML:
    """Return the mean accuracy of each network after the naive set and after all combined, where both were measured."""
    targets = list(outcomes["target"].unique()) if len(outcomes) else []
    arms, rows = {target: Arms(outcomes, target) for target in targets}, []
    for name in NETWORKS:
        sides = [(arms[target], Side(*at, name)) for target in targets for at in (("base", 1), ("union", 4))]
        means = [of[side].mean() if side in of else None for of, side in sides]
        if any(mean is not None for mean in means):
            rows.append([layout_of(name, width), ARCHITECTURES[name], *map(_percent, means)])
    columns = (f"{target}, {arm}" for target in targets for arm in ("naive", "all combined"))
    return table(rows, ["network", "in the role of", *columns])


def correlations_table(ranks: pd.DataFrame, measures: Sequence[str]) -> HTML:
    """Return a row per measure: its rank correlation with accuracy, mean and range over seeds, by target."""
    targets = list(ranks["target"].unique())
    rows = []
    for name in measures:
        each = [ranks[ranks.target == target][name] for target in targets]
        shown = [f"{rho.mean():+.2f} ({rho.min():+.2f} to {rho.max():+.2f})" for rho in each]
        rows.append([name, *(text.replace("-", "\N{MINUS SIGN}") for text in shown)])
    return table(rows, ["measure, in CLIP's image features", *map(set_name, targets)])


def shortcut_effects(differences: Differences) -> dict[str, dict[str, Estimate]]:
    """Return what each shortcut of released code does to the accuracy reported: target -> shortcut -> estimate."""
    effects: dict[str, dict[str, Estimate]] = {}
    for name, (claim, sign) in SHORTCUTS.items():
        for target, values in differences.get(claim, {}).items():
            effects.setdefault(target, {})[name] = interval(sign * (values - SHIFTS.get(claim, 0)))
    return effects


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{100 * share:.1f} %"
