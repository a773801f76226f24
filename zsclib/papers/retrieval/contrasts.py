"""The contrast of every claim of `data/claims/retrieval.yml`, computed as it is worded there.

    table = pd.concat([run(setting, cells, execution), references(setting, targets, seeds)])
    differences = contrasts(table)                          # claim -> target -> (seeds, images)
    judgements = judge(claims, differences)
    gap_share(table, "objects-hard", "templates", interval)  # of the gap to twice the real data

A claim is judged on each target by itself. Claims on what the pool can give are judged where the pool knows the
classes; R10 is judged where it does not. Where the pool has a target's own images to learn from, what is looked up is
more real data, and no claim about it is judged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import pandas as pd
from scipy.optimize import brentq
from scipy.stats import spearmanr

from zsclib.generator_pool import ABSENT, OWN_IN_POOL

PERSONALISED = (
    *("textual inversion", "conditioning", "clusters, k = 2", "clusters, k = 5", "tuned fully", "tuned by LoRA"),
)
PROMPTED = (
    *("simple prompt", "templates", "backgrounds"),
    *("templates, guidance 1", "templates, guidance 3", "templates, guidance 5"),
)
GENERATED = ("image-to-image", "unconditional", *PROMPTED, *PERSONALISED)
ORDER = ("image-to-image", "real only", "templates", "textual inversion", "retrieved by text", "twice the real")
RETRIEVED, CHOSEN = "retrieved by text", "best personalised"
WITHOUT = ("real only", "classical")  # arms without extra images: they have no N
REFERENCES = ("CLIP, zero-shot", "linear probe")  # other classifiers: neither N nor a length
PAIRS = {  # claim -> arm, rival
    "RET-R1": ("templates", "real only"),
    "RET-R1-simple": ("simple prompt", "real only"),
    "RET-R2": ("real only", "image-to-image"),
    "RET-R3": ("textual inversion", "templates"),
    "RET-R3-best": (CHOSEN, "templates"),
    "RET-R4": ("conditioning", "simple prompt"),
    "RET-R4-few": ("clusters, k = 2", "conditioning"),
    "RET-R4-many": ("clusters, k = 5", "clusters, k = 2"),
    "RET-R5-prompts": (RETRIEVED, "templates"),
    "RET-R5-inversion": (RETRIEVED, "textual inversion"),
    "RET-R6": ("twice the real", RETRIEVED),
    "RET-R8": ("real only", "tuned by LoRA, alone"),
    "RET-R9-retrieved": ("half and half", RETRIEVED),
    "RET-R9-generated": ("half and half", "templates"),
    "RET-R10": (CHOSEN, RETRIEVED),
    "RET-R11": ("planted 5 %, no ladder", "planted 5 %, ladder"),
    "RET-R11-ladder": ("planted 5 %, ladder", "planted 0 %, ladder"),
    "RET-R11-own": ("planted 0 %, no ladder", "planted 0 %, ladder"),
    "RET-A-random": (RETRIEVED, "random pool"),
    "RET-A-classical": (RETRIEVED, "classical"),
    "RET-A-oversampled": ("oversampled", "real only"),
    "RET-A-zero-shot": (RETRIEVED, "CLIP, zero-shot"),
    "RET-A-probe": (RETRIEVED, "linear probe"),
}
LOOKED_UP = (  # arms with images of the pool
    *(RETRIEVED, "half and half", "random pool"),
    *(f"planted {share} %, {ladder}" for share in (0, 5) for ladder in ("ladder", "no ladder")),
)
AGAINST_BEST = {"RET-R5": RETRIEVED, "RET-R6-generated": "twice the real"}  # rival: the best generative arm

Differences = dict[str, dict[str, np.ndarray]]  # claim -> target -> (seeds, images)


class At(NamedTuple):
    """Where arms are compared: N as a multiple of `|D|`, the training length, and equal or full counts."""

    times: float = 3
    length: int = 16
    counts: str = "equal"


PRIMARY = At()


class Interval(Protocol):
    """What `zsclib.study.stats.interval` returns."""

    value: float
    low: float
    high: float


def contrasts(table: pd.DataFrame, absent: Sequence[str] = ABSENT, at: At = PRIMARY) -> Differences:
    """Return the differences of correctness that decide each claim, by target.

    Args:
        table: from `experiments.run`, with the rows of `experiments.references` below it.
        absent: targets whose classes the pool does not know; R10 is judged on these, all else on the others.
        at: where arms are compared.

    Returns:
        claim → target → differences (seeds, images), float64; for R7 rank correlations (seeds,). Claims that need
        arms which the table lacks on a target are left out there.
    """
    differences: Differences = {}
    for target in table["target"].unique():
        arms = Arms(table, target, at)
        for claim, (arm, rival) in PAIRS.items():
            if judged_on(claim, target, absent) and arm in arms and rival in arms:
                differences.setdefault(claim, {})[target] = arms[arm] - arms[rival]
        for claim, arm in AGAINST_BEST.items():
            rivals = [rival for rival in GENERATED if rival in arms]
            if judged_on(claim, target, absent) and arm in arms and rivals:
                # Chosen by the accuracy that is shown, over all seeds, which favours the rival.
                best = max((arms[rival] for rival in rivals), key=np.mean)
                differences.setdefault(claim, {})[target] = arms[arm] - best
        if judged_on("RET-R7", target, absent) and all(arm in arms for arm in ORDER):
            differences.setdefault("RET-R7", {})[target] = order_holds([arms[arm] for arm in ORDER])
    return differences


def judged_on(claim: str, target: str, absent: Sequence[str] = ABSENT) -> bool:
    """Return whether a claim is judged on a target; `absent` are those whose classes the pool does not know."""
    if claim == "RET-R10" or target in absent:
        return claim == "RET-R10" and target in absent
    return target not in OWN_IN_POOL or not {*LOOKED_UP}.intersection(arms_of(claim))


def arms_of(claim: str) -> tuple[str, ...]:
    """Return the arms that a claim compares; ValueError for a claim of which nothing is known."""
    if claim in PAIRS:
        return PAIRS[claim]
    if claim in AGAINST_BEST:
        return (AGAINST_BEST[claim], *GENERATED)
    if claim == "RET-R7":
        return ORDER
    raise ValueError(f"the retrieval paper has no contrast for {claim!r}; it has: {', '.join(PAIRS)}, …")


def answerable(claims: Iterable[str], arms: Iterable[str]) -> list[str]:
    """Return the claims, in their order, all of whose arms are among some.

    A claim about the best generative arm is answered by none but all of them; the best personalised arm is there where
    a personalised one is.
    """
    known = {*arms}
    known |= {CHOSEN} if known.intersection(PERSONALISED) else set()
    return [claim for claim in claims if known.issuperset(arms_of(claim))]


class Arms:
    """The outcomes on one target, by arm: float64 (seeds, images).

    The arm `CHOSEN` is, for each seed, the personalised one that is best on held-out real images.
    """

    def __init__(self, table: pd.DataFrame, target: str, at: At = PRIMARY) -> None:
        rows = table[table.target == target]
        compared = (rows.times == at.times) & (rows.counts == at.counts) | rows.arm.isin((*WITHOUT, ORDER[-1]))
        rows = rows[compared & (rows.length == at.length) | rows.arm.isin(REFERENCES)]
        self._rows, self._target, self._at = rows, target, at
        self._seeds = sorted(table["seed"].unique())

    def __contains__(self, arm: str) -> bool:
        if arm == CHOSEN and not (self._rows.arm == CHOSEN).any():
            return any(name in self for name in PERSONALISED)
        return bool((self._rows.arm == arm).any())

    def __getitem__(self, arm: str) -> np.ndarray:
        """Return whether an arm is correct on each test image; ValueError if a seed is missing or is there twice."""
        if arm == CHOSEN and not (self._rows.arm == CHOSEN).any():
            names = [name for name in PERSONALISED if name in self]
            held_out = np.stack([self._of(name)["held_out"] for name in names])  # (arms, seeds)
            return np.stack([self[name] for name in names])[held_out.argmax(0), np.arange(len(self._seeds))]
        return np.stack(self._of(arm)["correct"]).astype(np.float64)

    def _of(self, arm: str) -> pd.DataFrame:
        rows = self._rows[self._rows.arm == arm].sort_values("seed")
        if rows["seed"].tolist() != self._seeds:
            raise ValueError(
                f"contrasts: {arm!r} on {self._target} at {self._at} needs one row with each of the seeds "
                f"{[int(seed) for seed in self._seeds]}; the table has the seeds {rows['seed'].tolist()}"
            )
        return rows


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
