"""The contrast of every claim of `data/claims/diversity.yml`, computed as it is worded there.

    differences = contrasts(table, clip, measured)          # claim -> target -> (seeds, images)
    judgements = judge(claims, differences)

A claim is judged on each target by itself: targets differ in how hard they are, and effects may have opposite signs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from zsclib.papers.diversity.experiments import ENDINGS, FIXED, correct
from zsclib.setmetrics import MEASURES

_, HELD_OUT, ON_TEST, ADAPTED = ENDINGS
BATCH_NORM = ("resnet50", "resnet101", "mobilenet")
SINGLE = ("class-name", "multi-domain", "random-guidance")
RANKED = ("base", *SINGLE, "union", *FIXED)  # arms of N images, over which a measure is compared with accuracy
MEASURED = {
    "DIV-D9-vendi": "vendi score",
    "DIV-D9-recall": "recall k=3",
    "DIV-D9-distance": "mean pairwise distance",
    "DIV-D9-frechet": "frechet distance",
}

Differences = dict[str, dict[str, np.ndarray]]  # claim -> target -> (seeds, images)


def contrasts(
    table: pd.DataFrame,
    clip: Mapping[str, np.ndarray],
    measured: pd.DataFrame | None = None,
    first: str = "objects",
) -> Differences:
    """Return the differences of correctness that decide each claim, by target.

    A claim over several architectures takes, on every target, those that were trained there on both arms.

    Args:
        table: from `experiments.run`.
        clip: target -> whether zero-shot CLIP is correct on each test image, (images,).
        measured: from `experiments.measures`, for the claims on set measures; None leaves these out.
        first: the target of the claims on objects.

    Returns:
        claim -> target -> differences (seeds, images), float64; for the claims on set measures not differences but
        rank correlations (seeds,). Claims that need networks which the table lacks are left out.
    """
    targets = list(table["target"].unique())
    by_network = table[(table.arm == "union") & (table.times == 4)].groupby("architecture", sort=False)["target"]
    trained_on = {name: list(on) for name, on in by_network.unique().items()}  # architecture -> targets
    differences: Differences = {"DIV-D1": {target: gain(table, target, None) for target in targets}}
    for target in targets:
        differences[f"DIV-D1-{target}"] = {target: gain(table, target, None)}
        differences[f"DIV-D2-{target}"] = {target: correct(table, target, "union", 4) - clip[target]}
    for name, on in trained_on.items():
        differences[f"DIV-D6-{name}"] = {target: gain(table, target, (name,)) for target in on}
    there = [name for name, on in trained_on.items() if first in on]
    with_norm = [name for name in there if name in BATCH_NORM]
    without = [name for name in there if name not in BATCH_NORM]
    if with_norm and without:
        differences["DIV-D6-size"] = {first: gain(table, first, without) - gain(table, first, with_norm)}
    for target in targets:
        for claim, values in _on_every_target(table, target).items():
            differences.setdefault(claim, {})[target] = values
    for claim, values in _on_objects(table, first).items():
        differences[claim] = {first: values}
    if measured is not None:
        ranks = rank_correlations(table, measured).groupby("target", sort=False)
        for claim, name in MEASURED.items():
            differences[claim] = {target: rows[name].to_numpy() for target, rows in ranks}
    return differences


def gain(
    table: pd.DataFrame, target: str, architectures: Sequence[str] | None = ("resnet50",), ending: str = "last"
) -> np.ndarray:
    """Return all combined (4N images of all tricks) less the naive set (N), (seeds, images), as the paper compares."""
    all_combined = correct(table, target, "union", 4, architectures, ending)
    return all_combined - correct(table, target, "base", 1, architectures, ending)


def best_of(table: pd.DataFrame, target: str, tricks: Sequence[str]) -> np.ndarray:
    """Return the outcomes (seeds, images) of the trick that is best on this target's own test images.

    The rival is chosen by the accuracy it is then compared with, over all seeds, as one reads it off the paper's
    chart. It looks a little better than it is, which makes claims against it harder to reproduce.
    """
    return max((correct(table, target, trick) for trick in tricks), key=np.mean)


def rank_correlations(table: pd.DataFrame, measured: pd.DataFrame) -> pd.DataFrame:
    """Return Spearman's rank correlation of each measure with accuracy over the arms of N images (claims D9).

    Args:
        table: from `experiments.run`. measured: from `experiments.measures`.

    Returns:
        A row per target and seed, a column per measure; where a measure is the same for all arms, 0.
    """
    rows = []
    for (target, seed), arms in ranked_sets(table, measured).groupby(["target", "seed"], sort=False):
        row = {"target": target, "seed": seed}
        for name in MEASURES:
            flat = arms[name].nunique() == 1 or arms["accuracy"].nunique() == 1
            row[name] = 0.0 if flat else float(spearmanr(arms[name], arms["accuracy"]).statistic)
        rows.append(row)
    return pd.DataFrame(rows)


def ranked_sets(table: pd.DataFrame, measured: pd.DataFrame) -> pd.DataFrame:
    """Return the measures of the arms of N images, and beside them the accuracy of a ResNet-50 trained on each."""
    trained = table[table.architecture == "resnet50"]
    accuracy = trained.assign(accuracy=[outcomes.mean() for outcomes in trained["last"]])
    columns = ["target", "arm", "times", "seed"]
    both = measured.merge(accuracy[[*columns, "accuracy"]], on=columns)
    return both[(both.times == 1) & both.arm.isin(RANKED)]


def _on_every_target(table: pd.DataFrame, target: str) -> dict[str, np.ndarray]:
    base, union, all_combined = (correct(table, target, *arm) for arm in (("base", 1), ("union", 1), ("union", 4)))
    guidance = correct(table, target, "random-guidance")
    normalised = table[table.architecture.isin(BATCH_NORM)]
    batch_statistics = {ending: correct(normalised, target, "base", 1, None, ending) for ending in ("last", ADAPTED)}
    chosen = {ending: correct(table, target, ending=ending) for ending in (ON_TEST, HELD_OUT)}
    return {
        "DIV-D3-class": correct(table, target, "class-name") - base,
        "DIV-D3-domain": correct(table, target, "multi-domain") - base,
        "DIV-D3-guidance": guidance - base,
        "DIV-D4": guidance - best_of(table, target, ("class-name", "multi-domain")),
        "DIV-D5": all_combined - best_of(table, target, SINGLE),
        "DIV-D7": union - base,
        "DIV-D7-share": (union - base) - (all_combined - union),
        "DIV-D8": correct(table, target, "small, antialiased") - correct(table, target, "small, nearest"),
        "DIV-A-eval": batch_statistics[ADAPTED] - batch_statistics["last"],
        "DIV-A-eval-gain": gain(normalised, target, None, ADAPTED) - gain(normalised, target, None),
        "DIV-A-selection": chosen[ON_TEST] - chosen[HELD_OUT],
        "DIV-A-selection-gain": gain(table, target, ending=ON_TEST) - gain(table, target, ending=HELD_OUT),
        "DIV-A-size": all_combined - union,
    }


def _on_objects(table: pd.DataFrame, first: str) -> dict[str, np.ndarray]:
    base, guidance, low = (correct(table, first, arm) for arm in ("base", "random-guidance", "guidance-3"))
    single_draw = np.mean([correct(table, first, arm) for arm in FIXED], axis=0)
    return {
        "DIV-D4-low": low - base,
        "DIV-D4-random": guidance - low,
        "DIV-A-noise": base - correct(table, first, "shared noise"),
        "DIV-A-once": guidance - single_draw,
    }
