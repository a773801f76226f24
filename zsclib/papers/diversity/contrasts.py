"""The contrast of every claim of `data/claims/diversity.yml`, computed as it is worded there.

differences = contrasts(table, clip_right)                  # claim -> (seeds, images)
verdict(claim, paired_bootstrap(differences[claim.id]))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from zsclib.papers.diversity.experiments import correct
from zsclib.setmetrics import MEASURES

BATCH_NORM = ("resnet50", "resnet101", "mobilenet")
SINGLE = ("class-name", "multi-domain", "random-guidance")
FIXED = tuple(f"guidance-{s}" for s in (1, 2, 3, 4, 5))
MEASURED = {
    "DIV-D9-vendi": "vendi score",
    "DIV-D9-recall": "recall k=3",
    "DIV-D9-distance": "mean pairwise distance",
    "DIV-D9-frechet": "frechet distance",
}


def contrasts(
    table: pd.DataFrame, clip: Mapping[str, np.ndarray], first: str = "objects"
) -> dict[str, np.ndarray]:
    """Return claim -> differences of correctness (seeds, images), for all claims that need nothing but trainings.

    A claim over several architectures takes, on every target, those that were trained there on both arms.

    Args:
        table: from `experiments.run`.
        clip: target -> whether zero-shot CLIP is right about each test image, (images,).
        first: the target of the claims on objects.
    """
    targets = list(table["target"].unique())

    def r(arm="base", times=1, on=targets, nets=("resnet50",), ending="last", among=table) -> np.ndarray:
        return correct(among, arm, times, on, nets, ending)

    def gain(on=targets, nets=("resnet50",), **options) -> np.ndarray:
        return r("union", 4, on, nets, **options) - r("base", 1, on, nets, **options)

    def best_of(tricks: Sequence[str]) -> np.ndarray:
        each = [max((r(trick, on=[target]) for trick in tricks), key=np.mean) for target in targets]
        return np.concatenate(each, axis=1)

    found = {"DIV-D1": gain(nets=None)}
    for target in targets:
        found[f"DIV-D1-{target}"] = gain([target], None)
        found[f"DIV-D2-{target}"] = r("union", 4, [target]) - clip[target]
    for name, trick in zip(("class", "domain", "guidance"), SINGLE, strict=True):
        found[f"DIV-D3-{name}"] = r(trick) - r()
    found["DIV-D4"] = r("random-guidance") - best_of(SINGLE[:2])
    found["DIV-D4-low"] = r("guidance-3", on=[first]) - r(on=[first])
    found["DIV-D4-random"] = r("random-guidance", on=[first]) - r("guidance-3", on=[first])
    found["DIV-D5"] = r("union", 4) - best_of(SINGLE)
    crossed = table[(table.arm == "union") & (table.times == 4)].groupby("architecture", sort=False)["target"]
    for name, on in crossed.unique().items():
        found[f"DIV-D6-{name}"] = gain(list(on), (name,))
    there = [name for name, on in crossed.unique().items() if first in on]
    with_it, without = ([name for name in there if (name in BATCH_NORM) == is_in] for is_in in (True, False))
    if with_it and without:
        found["DIV-D6-size"] = gain([first], without) - gain([first], with_it)
    found["DIV-D7"] = r("union") - r()
    found["DIV-D7-share"] = (r("union") - r()) - (r("union", 4) - r("union"))
    found["DIV-D8"] = r("small, antialiased") - r("small, nearest")
    audited = {"among": table[table.architecture.isin(BATCH_NORM)], "nets": None}
    found["DIV-A-eval"] = r(ending="batch statistics", **audited) - r(**audited)
    found["DIV-A-eval-gain"] = gain(ending="batch statistics", **audited) - gain(**audited)
    found["DIV-A-selection"] = r(ending="best on test") - r(ending="best on held-out")
    found["DIV-A-selection-gain"] = gain(ending="best on test") - gain(ending="best on held-out")
    found["DIV-A-noise"] = r(on=[first]) - r("shared noise", on=[first])
    found["DIV-A-size"] = r("union", 4) - r("union")
    once = np.mean([r(arm, on=[first]) for arm in FIXED], axis=0)
    found["DIV-A-once"] = r("random-guidance", on=[first]) - once
    return found


def rank_correlations(table: pd.DataFrame, measured: pd.DataFrame) -> pd.DataFrame:
    """Return Spearman's rank correlation of each measure with accuracy over the arms of N pictures (claims D9).

    Args:
        table: from `experiments.run`. measured: from `experiments.measures`.

    Returns:
        A row per target and seed, a column per measure; where a measure is the same for all arms, 0.
    """
    both = sets_with_accuracy(table, measured)
    both = both[(both.times == 1) & both.arm.isin(("base", *SINGLE, "union", *FIXED))]
    rows = []
    for (target, seed), arms in both.groupby(["target", "seed"], sort=False):
        row = {"target": target, "seed": seed}
        for name in MEASURES:
            flat = arms[name].nunique() == 1 or arms["accuracy"].nunique() == 1
            row[name] = 0.0 if flat else float(spearmanr(arms[name], arms["accuracy"]).statistic)
        rows.append(row)
    return pd.DataFrame(rows)


def sets_with_accuracy(table: pd.DataFrame, measured: pd.DataFrame) -> pd.DataFrame:
    """Return the measures of every set with the accuracy of a ResNet-50 trained on it beside them."""
    trained = table[table.architecture == "resnet50"]
    accuracy = trained.assign(accuracy=[correct.mean() for correct in trained["last"]])
    columns = ["target", "arm", "times", "seed"]
    return measured.merge(accuracy[[*columns, "accuracy"]], on=columns)
