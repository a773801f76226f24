"""The contrast of every claim of `data/claims/diversity.yml`, computed as it is worded there.

    table = pd.concat([run(setting, cells, execution), references(setting, targets, seeds)])
    differences = contrasts(table, measured)                # claim -> target -> (seeds, images)
    judgements = judge(*to_judge(claims, differences))

Nearly all contrasts are weighted sums of accuracies, and stand here as such. A claim is judged on each target by
itself: targets differ in how hard they are, and effects may have opposite signs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import rankdata
from scipy.stats import t as t_distribution

from zsclib.papers.diversity.experiments import CLIP, ENDINGS, FIXED
from zsclib.papers.diversity.training_sets import ARMS, MAIN, SINGLE
from zsclib.setmetrics import MEASURES

_, HELD_OUT, ON_TEST, ADAPTED = ENDINGS
CHOSEN = "best single trick"  # of each seed, by accuracy on held-out generated images of all tricks
NETWORKS = ("resnet50", "resnet101", "vit-b", "mobilenet", "convnext-s")  # of the paper's chart 2
BATCH_NORM = ("resnet50", "resnet101", "mobilenet")
WITHOUT = tuple(name for name in NETWORKS if name not in BATCH_NORM)


class Side(NamedTuple):
    """A training of a comparison: arm, size as a multiple of N, network and how it ended."""

    arm: str
    times: float = 1
    architecture: str = MAIN
    ending: str = "last"


Weights = Mapping[Side, float]
Differences = dict[str, dict[str, np.ndarray | tuple]]  # claim -> target -> (seeds, images), or (value, low, high, n)
BASE, UNION, MORE, ALL = Side("base"), Side("union"), Side("base", 4), Side("union", 4)


def gain(architectures: Sequence[str] = (MAIN,), ending: str = "last") -> Weights:
    """Return all combined (4N images of all tricks) less the naive set (N), as the paper compares, as a mean."""
    share = 1 / len(architectures)
    weights = {Side("union", 4, name, ending): share for name in architectures}
    return weights | {Side("base", 1, name, ending): -share for name in architectures}


def less(a: Weights, b: Weights) -> Weights:
    """Return the weights of a less those of b."""
    return {side: a.get(side, 0) - b.get(side, 0) for side in {**a, **b}}


def by_arm(arm: str, rival: str) -> Weights:
    """Return the weights of one arm of N images less another."""
    return {Side(arm): 1, Side(rival): -1}


# Shapley values (1953) of what leads from the naive set of N to all combined: means over both orders of adding them.
KINDS = {UNION: 0.5, BASE: -0.5, ALL: 0.5, MORE: -0.5}  # at N, then at 4N
NUMBER = {MORE: 0.5, BASE: -0.5, ALL: 0.5, UNION: -0.5}  # of naive images, then of all kinds

SUMS: dict[str, Weights] = {
    "DIV-D1": gain(NETWORKS),
    "DIV-D2": {ALL: 1, Side(CLIP, 1, "clip"): -1},
    "DIV-D3-style": by_arm("style-matched", "base"),
    "DIV-D3-class": by_arm("class-name", "base"),
    "DIV-D3-domain": by_arm("multi-domain", "base"),
    "DIV-D3-guidance": by_arm("random-guidance", "base"),
    "DIV-D4-low": by_arm("guidance-3", "base"),
    "DIV-D4-random": by_arm("random-guidance", "guidance-3"),
    "DIV-D4-integer": by_arm("random-guidance-integer", "random-guidance"),
    **{f"DIV-D6-{name}": gain((name,)) for name in NETWORKS},
    "DIV-D6-size": less(gain(WITHOUT), gain(BATCH_NORM)),
    "DIV-D7": {UNION: 1, BASE: -1},
    "DIV-D7-kinds": KINDS,
    "DIV-D7-number": NUMBER,
    "DIV-D7-share": less(KINDS, NUMBER),
    "DIV-D8": by_arm("small, antialiased", "small, nearest"),
    "DIV-A-eval": {
        Side("base", 1, name, ending): sign / len(BATCH_NORM)
        for ending, sign in ((ADAPTED, 1), ("last", -1))
        for name in BATCH_NORM
    },
    "DIV-A-eval-gain": less(gain(BATCH_NORM, ADAPTED), gain(BATCH_NORM)),
    "DIV-A-selection": {BASE._replace(ending=ON_TEST): 1, BASE._replace(ending=HELD_OUT): -1},
    "DIV-A-selection-gain": less(gain(ending=ON_TEST), gain(ending=HELD_OUT)),
    "DIV-A-noise": by_arm("base", "shared noise"),
    "DIV-A-size": {ALL: 1, UNION: -1},
    "DIV-A-once": {Side("random-guidance"): 1, **{Side(arm): -1 / len(FIXED) for arm in FIXED}},
}
AGAINST_BEST = {  # arm, and the single tricks whose best it is held against
    "DIV-D4": (Side("random-guidance"), ("class-name", "multi-domain")),
    "DIV-D5": (ALL, SINGLE),
    "DIV-D5-equal": (UNION, SINGLE),
}
MEASURED = {
    "DIV-D9-vendi": "vendi score",
    "DIV-D9-recall": "recall k=3",
    "DIV-D9-distance": "mean pairwise distance",
    "DIV-D9-frechet": "frechet distance",
}
SHIFTS = {"DIV-A-selection": -0.02}  # its claim is about what exceeds two points: choosing on test images cannot lose
FEWEST = 20  # different training sets of a target, over which a measure is compared with accuracy
NEAR = 0.05  # above guessing: a network that neither set takes further has learnt too little for a claim on it
# Targets whose naive prompt is the bare caption, so that the class name as prompt can hardly differ from it.
BARE = ("objects", "objects-hard", "objects-fine-hard", "objects-many", "aerial", "aerial-hard")
HALF = 0.5  # of an effect: a change by more of it, after twice the steps, says that the budget decides
# Claims that are read again after twice the steps, and judged on no target where these change their contrast.
READ_TWICE = (
    *("DIV-D1", "DIV-D2", "DIV-D3-style", "DIV-D3-class", "DIV-D3-domain", "DIV-D3-guidance"),
    *("DIV-D4", "DIV-D5", "DIV-D5-equal", *(f"DIV-D6-{name}" for name in NETWORKS), "DIV-D6-size"),
    *("DIV-D7", "DIV-D7-kinds", "DIV-D7-number", "DIV-D7-share", "DIV-A-size"),
)


def sides_of(claim: str) -> tuple[Side, ...]:
    """Return what a claim compares; nothing for one on set measures, which takes all training sets there are.

    Raises:
        ValueError: a claim of which nothing is known.
    """
    if claim in SUMS:
        return tuple(SUMS[claim])
    if claim in AGAINST_BEST:
        arm, rivals = AGAINST_BEST[claim]
        return (arm, *map(Side, rivals))
    if claim in MEASURED:
        return ()
    raise ValueError(f"the diversity paper has no contrast for {claim!r}; it has: {', '.join(SUMS)}, …")


def contrasts(
    table: pd.DataFrame,
    measured: pd.DataFrame | None = None,
    guessing: Mapping[str, float] | None = None,
    length: float = 1,
) -> Differences:
    """Return the differences of correctness that decide each claim, by target, from trainings of one length.

    Args:
        table: from `experiments.run`, with the rows of `experiments.references` below it.
        measured: from `experiments.measures`, for the claims on set measures; None leaves these out.
        guessing: target → accuracy of guessing, near which the claims on single architectures (D6) are not judged, see
            `untrained`; None judges them everywhere.
        length: of the trainings; claims are judged at 1.

    Returns:
        claim → target → differences (seeds, images), float64; for the claims on set measures not differences but
        what `correlation_over_sets` returns. Claims whose arms the table lacks on a target are left out there, those on
        set measures where it has fewer than `FEWEST` different sets, the one on bare class names on targets of `BARE`,
        and, with a single seed, those against the best of several tricks, which other seeds choose.
    """
    differences: Differences = {}
    for target in table["target"].unique():
        arms = Arms(table, target, length)
        without = untrained(arms, guessing[target]) if guessing is not None else []
        for claim, weights in SUMS.items():
            barred = claim.startswith("DIV-D6") and any(side.architecture in without for side in weights)
            barred |= claim == "DIV-D3-class" and target in BARE
            if all(side in arms for side in weights) and not barred:
                differences.setdefault(claim, {})[target] = arms.sum(weights) + SHIFTS.get(claim, 0)
        for claim, (arm, rivals) in AGAINST_BEST.items():
            if table["seed"].nunique() > 1 and all(side in arms for side in (arm, *map(Side, rivals))):
                differences.setdefault(claim, {})[target] = arms[arm] - arms.best_of(rivals)
    if measured is not None:
        sets = ranked_sets(table, measured)
        for target, rows in sets.groupby("target", sort=False):
            if len(rows.groupby(["arm", "times"])) >= FEWEST:
                for claim, name in MEASURED.items():
                    differences.setdefault(claim, {})[target] = correlation_over_sets(rows, name)
    return differences


def unsettled(table: pd.DataFrame, level: float = 0.95) -> dict[str, list[str]]:
    """Return for each claim that is read twice the targets where twice the steps change its contrast.

    They do where Student's interval of the change, over seeds, excludes zero, and the change is more than `HALF` of the
    contrast itself. Targets that lack one of the two lengths, or have a single seed, are not named.
    """
    moved: dict[str, list[str]] = {}
    if not len(table):
        return moved
    once, twice = (contrasts(table, length=length) for length in (1, 2))
    for claim in READ_TWICE:
        for target in (target for target in once.get(claim, {}) if target in twice.get(claim, {})):
            change = (twice[claim][target] - once[claim][target]).mean(1)
            large = abs(change.mean()) > HALF * abs(once[claim][target].mean())
            if len(change) > 1 and large and _excludes_zero(change, level):
                moved.setdefault(claim, []).append(target)
    return moved


class Arms:
    """The outcomes of trainings of one length on one target, by side: float64 (seeds, images).

    The arm `CHOSEN` is, for each seed, the single trick that is best on held-out generated images of all tricks, the
    first of equals; the test images have no say.
    """

    def __init__(self, table: pd.DataFrame, target: str, length: float = 1) -> None:
        self._target, self._seeds = target, list(table["seed"].unique()) if len(table) else []
        if len(table):  # CLIP is not trained, and stands beside trainings of any length
            own = table[(table.target == target) & ((table.length == length) | (table.arm == CLIP))]
        else:
            own = table
        self._outcomes: dict[Side, dict[int, np.ndarray]] = {}
        self._held_out: dict[tuple[str, int], float] = {}
        for row in own.to_dict("records"):
            side, seed = Side(row["arm"], row["times"], row["architecture"]), row["seed"]
            if seed in self._outcomes.get(side, {}):
                raise ValueError(f"contrasts: the table has {side} on {target} with the seed {seed} twice")
            for ending in ENDINGS:
                if isinstance(row.get(ending), np.ndarray):
                    self._outcomes.setdefault(side._replace(ending=ending), {})[seed] = row[ending]
            if side == Side(side.arm):
                self._held_out[side.arm, seed] = row["held_out"]

    def __contains__(self, side: Side) -> bool:
        return side in self._outcomes or (side == Side(CHOSEN) and all(Side(trick) in self for trick in SINGLE))

    def __getitem__(self, side: Side) -> np.ndarray:
        """Return whether a side is correct on each test image; ValueError where it is missing, or a seed of it is."""
        if side == Side(CHOSEN) and side not in self._outcomes:
            return np.stack([self[Side(trick)][row] for row, trick in enumerate(self.chosen())])
        by_seed = self._outcomes.get(side, {})
        if set(by_seed) != set(self._seeds):
            raise ValueError(
                f"contrasts: {side} on {self._target} needs one row with each of the seeds "
                f"{[int(seed) for seed in self._seeds]}; the table has the seeds {sorted(map(int, by_seed))}"
            )
        return np.stack([by_seed[seed] for seed in self._seeds]).astype(np.float64)

    def sum(self, weights: Weights) -> np.ndarray:
        """Return the weighted sum of the outcomes of several sides."""
        return np.sum([weight * self[side] for side, weight in weights.items()], axis=0)

    def chosen(self) -> list[str]:
        """Return for each seed the single trick with the best accuracy on held-out generated images of all tricks."""
        scores = [[self._held_out[trick, seed] for seed in self._seeds] for trick in SINGLE]
        return [SINGLE[best] for best in np.argmax(scores, axis=0)]

    def best_of(self, tricks: Sequence[str]) -> np.ndarray:
        """Return for each seed the outcomes of the trick that is best with the other seeds, the first of equals.

        Chosen with its own seed too, as one reads it off the paper's chart, the rival would look better than it is. The
        test images are the same; what is left of that is small, and in the rival's favour.

        Raises:
            ValueError: there is a single seed, so that no other can choose.
        """
        outcomes = np.stack([self[Side(trick)] for trick in tricks])  # (tricks, seeds, images)
        rows = np.arange(outcomes.shape[1])
        if len(rows) < 2:
            raise ValueError(f"contrasts: the best of {', '.join(tricks)} is chosen on other seeds, and there is one")
        best = [np.delete(outcomes, row, axis=1).mean((1, 2)).argmax() for row in rows]
        return outcomes[best, rows]


def untrained(arms: Arms, guessing: float) -> list[str]:
    """Return the paper's networks that neither the naive set nor all combined take `NEAR` above guessing."""
    both = {name: (Side("base", 1, name), Side("union", 4, name)) for name in NETWORKS}
    return [
        name
        for name, sides in both.items()
        if all(side in arms for side in sides) and max(arms[side].mean() for side in sides) < guessing + NEAR
    ]


def correlation_over_sets(sets: pd.DataFrame, measure: str, level: float = 0.95) -> tuple[float, float, float, int]:
    """Return how a measure goes with accuracy among one target's training sets, with an interval over such sets.

    The value is the mean over seeds of Spearman's partial rank correlation given size. The same kinds of sets come back
    with every seed, so that seeds alone would say nothing about other kinds: the variance is that of leaving out one
    set, an arm at a size, at a time (the jackknife; Tukey 1958), and that of the mean over seeds added to it.

    Args:
        sets: from `ranked_sets`, of one target. measure: one of its columns.

    Returns:
        The value; the bounds of its interval, within ±1; the number of sets.
    """
    kinds_ = list(dict.fromkeys(zip(sets["arm"], sets["times"], strict=True)))

    def by_seed(rows: pd.DataFrame) -> np.ndarray:
        return np.array([
            partial_correlation(own[measure], own["accuracy"], own["times"]) for _, own in rows.groupby("seed")
        ])  # fmt: skip

    n, whole = len(kinds_), by_seed(sets)
    without = [by_seed(sets[(sets["arm"] != arm) | (sets["times"] != times)]).mean() for arm, times in kinds_]
    of_sets = (n - 1) / n * np.sum((without - np.mean(without)) ** 2)
    of_seeds = whole.var(ddof=1) / len(whole) if len(whole) > 1 else 0.0
    half = float(t_distribution.ppf(0.5 + level / 2, n - 1) * np.sqrt(of_sets + of_seeds))
    value = float(whole.mean())
    return value, max(value - half, -1.0), min(value + half, 1.0), n


def rank_correlations(sets: pd.DataFrame) -> pd.DataFrame:
    """Return how each measure goes with accuracy among sets of one size: Spearman's partial rank correlation.

    Args:
        sets: from `ranked_sets`.

    Returns:
        A row per target and seed, a column per measure.
    """
    rows = []
    for (target, seed), own in sets.groupby(["target", "seed"], sort=False):
        ρ = {name: partial_correlation(own[name], own["accuracy"], own["times"]) for name in MEASURES}
        rows.append({"target": target, "seed": seed} | ρ)
    return pd.DataFrame(rows)


def partial_correlation(x: Iterable[float], y: Iterable[float], fixed: Iterable[float]) -> float:
    """Return Spearman's rank correlation of x and y with a third variable held fixed (Kendall 1942, on ranks).

    (ρ_xy − ρ_xz ρ_yz) / √((1 − ρ_xz²)(1 − ρ_yz²)); where the third is the same throughout, ρ_xy. Where x or y has no
    spread, or none that the third does not explain, 0.
    """
    x, y, z = (rankdata(list(values)) for values in (x, y, fixed))
    ρ_xy, ρ_xz, ρ_yz = (_correlation(a, b) for a, b in ((x, y), (x, z), (y, z)))
    rest = (1 - ρ_xz**2) * (1 - ρ_yz**2)
    return float(np.clip((ρ_xy - ρ_xz * ρ_yz) / np.sqrt(rest), -1, 1)) if rest > 1e-9 else 0.0


def ranked_sets(table: pd.DataFrame, measured: pd.DataFrame) -> pd.DataFrame:
    """Return the measures of all generated training sets, and beside them the accuracy of a network trained on each."""
    trained = table[(table.architecture == MAIN) & (table.length == 1) & (table.arm.isin(kinds()))]
    accuracy = trained.assign(accuracy=[outcomes.mean() for outcomes in trained["last"]])
    columns = ["target", "arm", "times", "seed"]
    return measured.merge(accuracy[[*columns, "accuracy"]], on=columns)


def kinds() -> list[str]:
    """Return the arms that differ in their generated images, and in nothing done to these afterwards."""
    return [arm for arm, about in ARMS.items() if about.tricks and about.small is None]


def _excludes_zero(values: np.ndarray, level: float) -> bool:
    se = values.std(ddof=1) / np.sqrt(len(values))
    return bool(abs(values.mean()) > t_distribution.ppf(0.5 + level / 2, len(values) - 1) * se)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    return 0.0 if np.ptp(a) == 0 or np.ptp(b) == 0 else float(np.corrcoef(a, b)[0, 1])
