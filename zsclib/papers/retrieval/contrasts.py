"""The contrast of every claim of `data/claims/retrieval.yml`, computed as it is worded there.

    differences = contrasts(table, zero_shot, probe)        # claim -> target -> (seeds, images)
    judgements = judge(claims, differences)
    gap_share(table, "objects-hard", "templates", interval)  # of the gap to twice the real data

A claim is judged on each target by itself. Claims on what the pool can give are judged where the pool knows the
classes; R10 is judged where it does not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import pandas as pd
from scipy.optimize import brentq
from scipy.stats import spearmanr

PERSONALISED = (
    *("textual inversion", "conditioning", "clusters, k = 2", "clusters, k = 5", "tuned fully", "tuned by LoRA"),
)
PROMPTED = (
    *("simple prompt", "templates", "backgrounds"),
    *("templates, guidance 1", "templates, guidance 3", "templates, guidance 5"),
)
GENERATED = ("image-to-image", "unconditional", *PROMPTED, *PERSONALISED)
ORDER = ("image-to-image", "real only", "templates", "textual inversion", "retrieved by text", "twice the real")
WITHOUT = ("real only", "classical")  # arms without extra images: they have no N
RETRIEVED = "retrieved by text"

Differences = dict[str, dict[str, np.ndarray]]  # claim -> target -> (seeds, images)


class At(NamedTuple):
    """Where arms are compared: N as a multiple of |D|, the training length, and equal or full counts."""

    times: float = 3
    length: int = 16
    counts: str = "equal"


PRIMARY = At()


class Interval(Protocol):
    """What `zsclib.study.stats.interval` returns."""

    value: float
    low: float
    high: float


def contrasts(
    table: pd.DataFrame,
    zero_shot: Mapping[str, np.ndarray] | None = None,
    probe: Mapping[str, np.ndarray] | None = None,
    absent: Sequence[str] = ("gadgets",),
    at: At = PRIMARY,
) -> Differences:
    """Return the differences of correctness that decide each claim, by target.

    Args:
        table: from `experiments.run`.
        zero_shot: target → whether zero-shot CLIP is correct on each test image, (images,).
        probe: target → the same of a linear probe on CLIP's features of D, (seeds, images).
        absent: targets whose classes the pool does not know; R10 is judged on these, all else on the others.
        at: where arms are compared.

    Returns:
        claim → target → differences (seeds, images), float64; for R7 rank correlations (seeds,). Claims that need
        arms which the table lacks on a target are left out there.
    """
    differences: Differences = {}
    for target in table["target"].unique():
        arms = Arms(table, target, at)
        computed = _where_absent(arms) if target in absent else _where_present(arms)
        for name, scores in (("zero-shot", zero_shot), ("probe", probe)):
            if target not in absent and scores is not None and target in scores and RETRIEVED in arms:
                computed[f"RET-A-{name}"] = arms[RETRIEVED] - scores[target]
        for claim, values in computed.items():
            differences.setdefault(claim, {})[target] = values
    return differences


class Arms:
    """The outcomes on one target, by arm: float64 (seeds, images)."""

    def __init__(self, table: pd.DataFrame, target: str, at: At) -> None:
        rows = table[(table.target == target) & (table.length == at.length)]
        without = rows.arm.isin(WITHOUT)
        self._rows = rows[without | ((rows.times == at.times) & (rows.counts == at.counts)) | (rows.arm == ORDER[-1])]
        self.target, self.at, self._seeds = target, at, sorted(table["seed"].unique())

    def __contains__(self, arm: str) -> bool:
        return bool((self._rows.arm == arm).any())

    def __getitem__(self, arm: str) -> np.ndarray:
        """Return whether an arm is correct on each test image; ValueError if a seed is missing or is there twice."""
        rows = self._rows[self._rows.arm == arm].sort_values("seed")
        if rows["seed"].tolist() != self._seeds:
            raise ValueError(
                f"contrasts: {arm!r} on {self.target} at {self.at} needs one row with each of the seeds "
                f"{[int(seed) for seed in self._seeds]}; the table has the seeds {rows['seed'].tolist()}"
            )
        return np.stack(rows["correct"]).astype(np.float64)

    def held_out(self, arm: str) -> float:
        """Return an arm's mean accuracy on held-out real images."""
        return float(self._rows[self._rows.arm == arm]["held_out"].mean())

    def best(self, arms: Sequence[str], on_test: bool = False) -> np.ndarray | None:
        """Return the outcomes of the best of those arms that are there, or None.

        Best on held-out real images; or on the very test images, which favours a rival that is chosen so.
        """
        there = [arm for arm in arms if arm in self]
        if not there:
            return None
        return self[max(there, key=(lambda arm: self[arm].mean()) if on_test else self.held_out)]


def _where_present(arms: Arms) -> dict[str, np.ndarray]:
    pairs = {  # claim -> arm, rival
        "RET-R1": ("templates", "real only"),
        "RET-R1-simple": ("simple prompt", "real only"),
        "RET-R2": ("real only", "image-to-image"),
        "RET-R3": ("textual inversion", "templates"),
        "RET-R4": ("conditioning", "simple prompt"),
        "RET-R4-few": ("clusters, k = 2", "conditioning"),
        "RET-R4-many": ("clusters, k = 5", "clusters, k = 2"),
        "RET-R5-prompts": (RETRIEVED, "templates"),
        "RET-R5-inversion": (RETRIEVED, "textual inversion"),
        "RET-R6": ("twice the real", RETRIEVED),
        "RET-R8": ("real only", "tuned by LoRA, alone"),
        "RET-R9-retrieved": ("half and half", RETRIEVED),
        "RET-R9-generated": ("half and half", "templates"),
        "RET-R11": ("planted 5 %, no ladder", "planted 5 %, ladder"),
        "RET-R11-ladder": ("planted 5 %, ladder", "planted 0 %, ladder"),
        "RET-R11-own": ("planted 0 %, no ladder", "planted 0 %, ladder"),
        "RET-A-random": (RETRIEVED, "random pool"),
        "RET-A-classical": (RETRIEVED, "classical"),
        "RET-A-oversampled": ("oversampled", "real only"),
    }
    computed = {claim: arms[a] - arms[b] for claim, (a, b) in pairs.items() if a in arms and b in arms}
    personalised, rival = arms.best(PERSONALISED), arms.best(GENERATED, on_test=True)
    if personalised is not None and "templates" in arms:
        computed["RET-R3-best"] = personalised - arms["templates"]
    if rival is not None and RETRIEVED in arms:
        computed["RET-R5"] = arms[RETRIEVED] - rival
    if rival is not None and "twice the real" in arms:
        computed["RET-R6-generated"] = arms["twice the real"] - rival
    if all(arm in arms for arm in ORDER):
        computed["RET-R7"] = order_holds([arms[arm] for arm in ORDER])
    return computed


def _where_absent(arms: Arms) -> dict[str, np.ndarray]:
    personalised = arms.best(PERSONALISED)
    if personalised is None or RETRIEVED not in arms:
        return {}
    return {"RET-R10": personalised - arms[RETRIEVED]}


def order_holds(outcomes: Sequence[np.ndarray]) -> np.ndarray:
    """Return Spearman's rank correlation, by seed, of accuracy with the order in which arms are listed: (seeds,).

    Args:
        outcomes: of each arm (seeds, images), from the arm that is worst in the paper to its best.
    """
    accuracy = np.stack([arm.mean(1) for arm in outcomes])  # (arms, seeds)
    ranks = np.arange(len(outcomes))
    return np.array([0.0 if np.ptp(by) == 0 else float(spearmanr(ranks, by).statistic) for by in accuracy.T])


class Share(NamedTuple):
    """A gain over the gain from twice the real data, with its interval; 1 is as good as real images."""

    value: float
    low: float
    high: float


def gap_share(
    table: pd.DataFrame,
    target: str,
    arm: str,
    interval: Callable[[np.ndarray], Interval],
    at: At = PRIMARY,
) -> Share | None:
    """Return the share of the gap between D and twice D that an arm closes; our arithmetic, the paper prints none.

    The interval is Fieller's (1954): all shares ρ for which 0 lies in the interval of gain − ρ · gap, image by image.

    Args:
        table: from `experiments.run`. target, arm: whose. at: at which N, length and counts.
        interval: of paired differences (seeds, images), as `zsclib.study.stats.interval`.

    Returns:
        The share; None where the gap's own interval does not lie above 0, so that a share of it means nothing.
    """
    arms = Arms(table, target, at)
    gain, gap = arms[arm] - arms["real only"], arms["twice the real"] - arms["real only"]
    if not interval(gap).low > 0:
        return None

    def end(which: str) -> float:
        reach = 1.0
        while getattr(interval(gain + reach * gap), which) <= 0 or getattr(interval(gain - reach * gap), which) >= 0:
            reach *= 2
            if reach > 1e6:
                return np.inf if which == "high" else -np.inf
        return float(brentq(lambda share: getattr(interval(gain - share * gap), which), -reach, reach, xtol=1e-6))

    return Share(float(gain.mean() / gap.mean()), end("low"), end("high"))


def flatness(
    table: pd.DataFrame, target: str, arm: str = "real only", lengths: tuple[int, int] = (4, 16)
) -> np.ndarray:
    """Return what an arm gains from the longer of two trainings, differences (seeds, images): about 0 if it is flat."""
    short, long = (Arms(table, target, At(length=length))[arm] for length in lengths)
    return long - short
