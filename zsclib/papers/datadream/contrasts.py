"""The contrast of every claim of `data/claims/datadream.yml`, computed as it is worded there.

    differences = contrasts(table)                          # claim -> target -> (seeds, images)
    differences = contrasts(table, alignments={"digits": alignment(narrowing, gains)})       # and H9
    judgements = judge(*to_judge(claims, differences))

A row of the table is one trained classifier: target; arm; shots, K of a class; n, generated or retrieved images of a
class; with_shots, whether it learnt from the shots as well; classifier, "CLIP" or "scratch"; seed; correct, bool
(test,); held_out, its accuracy on validation images. Arms with no images of their own are "shots only" (n = 0) and
"CLIP, zero-shot" (shots = n = 0). An arm with something changed is named after it: "DataDream, by class, rank 4". Those
that are evaluated on the training split have as many images of it as there are test images, which are set against these
in any order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from zsclib.generator_pool import ABSENT, OWN_IN_POOL
from zsclib.papers.datadream.gap import Alignment

BY_CLASS, ALL_CLASSES, CHOSEN = "DataDream, by class", "DataDream, all classes", "DataDream, chosen"
PROMPTED, GUIDED, DISEF, SHOTS, ZERO_SHOT = "prompted", "real guidance", "DISEF", "shots only", "CLIP, zero-shot"
RETRIEVED, BOTH = "retrieved", "retrieved and DataDream"
VARIANTS = (BY_CLASS, ALL_CLASSES)
RIVAL, RIVALS = "best rival", (SHOTS, PROMPTED, GUIDED, DISEF)
CHOICES = {CHOSEN: VARIANTS, RIVAL: RIVALS}  # for each target and seed the one that is best on validation images
COLUMNS = ("target", "arm", "shots", "n", "with_shots", "classifier", "seed", "correct", "held_out")
# what may be changed in an arm; its name stands behind the arm's
QUARTER, FOURFOLD, RANK_4, UNET_ALONE = "a quarter of the steps", "four times the steps", "rank 4", "U-Net alone"
GUIDANCE_5, HALF_WEIGHT, ONE_NOISE = "guidance 5", "real weight 0.5", "one noise"
EPOCH_BY_TEST, ON_TRAIN = "epoch by test", "on the training split"
TWICE = "twice the steps"  # of the classifier: if it gains nothing, its curve is flat

Differences = dict[str, dict[str, np.ndarray | Alignment]]  # claim -> target -> (seeds, images)


class At(NamedTuple):
    """Where an arm stands: K, N of a class, whether the shots are learnt from as well, and which classifier."""

    shots: int = 16
    n: int = 64
    with_shots: bool = False
    classifier: str = "CLIP"


ALONE, POOLED = At(), At(with_shots=True)
WAYS = {"alone": ALONE, "shots": POOLED}
AT_4 = ALONE._replace(shots=4)


class Side(NamedTuple):
    """An arm at its place: one side of a comparison."""

    arm: str
    at: At = ALONE


def changed(arm: str, what: str) -> str:
    """Return what an arm is called with something changed."""
    return f"{arm}, {what}"


def _ways(name: str, arm: str, rival: str) -> dict[str, tuple[Side, Side]]:
    """Return a comparison of images alone, and one with the shots."""
    return {f"{name}-{way}": (Side(arm, at), Side(rival, at)) for way, at in WAYS.items()}


def _against(name: str, what: str, at: At = ALONE) -> dict[str, tuple[Side, Side]]:
    """Return a comparison of adapters by class, as they are, with something changed."""
    return {name: (Side(BY_CLASS, at), Side(changed(BY_CLASS, what), at))}


def _inflated(name: str, what: str) -> dict[str, tuple[Side, Side]]:
    """Return a comparison of the same classifiers, reported otherwise, with how they should be."""
    return {name: (Side(changed(BY_CLASS, what), POOLED), Side(BY_CLASS, POOLED))}


PAIRS = {  # claim -> arm, rival
    **_ways("DD-H1", BY_CLASS, PROMPTED),
    **_ways("DD-H1-all", ALL_CLASSES, PROMPTED),
    **_ways("DD-H2-guidance", BY_CLASS, GUIDED),
    **_ways("DD-H2-disef", BY_CLASS, DISEF),
    "DD-H2-guidance-4": (Side(BY_CLASS, AT_4), Side(GUIDED, AT_4)),
    "DD-H3": (Side(CHOSEN, POOLED), Side(RIVAL, POOLED)),
    "DD-H4": (Side(BY_CLASS, POOLED), Side(SHOTS, POOLED)),
    "DD-H4-all": (Side(ALL_CLASSES, POOLED), Side(SHOTS, POOLED)),
    **_ways("DD-H5", BY_CLASS, ALL_CLASSES),
    **{f"DD-H6-{way}": (Side(BY_CLASS, at), Side(BY_CLASS, at._replace(shots=4))) for way, at in WAYS.items()},
    **{
        f"DD-H6-{way}-few": (Side(BY_CLASS, at._replace(shots=4)), Side(BY_CLASS, at._replace(shots=1)))
        for way, at in WAYS.items()
    },
    **{
        f"DD-H7-{way}": (Side(BY_CLASS, at._replace(n=256)), Side(BY_CLASS, at._replace(n=16)))
        for way, at in WAYS.items()
    },
    **_against("DD-H8-steps", QUARTER),
    **_against("DD-H8-more", FOURFOLD),
    **_against("DD-H8-rank", RANK_4),
    "DD-H11-alone": (Side(BY_CLASS, AT_4), Side(SHOTS, AT_4)),
    "DD-H11-shots": (Side(BY_CLASS, AT_4._replace(with_shots=True)), Side(SHOTS, AT_4)),
    "DD-H11-n": (Side(BY_CLASS, AT_4), Side(BY_CLASS, AT_4._replace(n=16))),
    **_inflated("DD-H12", ON_TRAIN),
    **_ways("DD-R", RETRIEVED, BY_CLASS),
    **_ways("DD-R-unknown", BY_CLASS, RETRIEVED),
    **_ways("DD-R-both", BOTH, RETRIEVED),
    **_ways("DD-R-both-adapted", BOTH, BY_CLASS),
    **_inflated("DD-A-epoch", EPOCH_BY_TEST),
    **_against("DD-A-noise", ONE_NOISE),
    "DD-A-zero-shot": (Side(BY_CLASS), Side(ZERO_SHOT)),
    **_against("DD-A-weight", HALF_WEIGHT, POOLED),
    **_against("DD-A-guidance", GUIDANCE_5),
    **_against("DD-A-text", UNET_ALONE),
    "DD-A-scratch-alone": tuple(Side(arm, ALONE._replace(classifier="scratch")) for arm in (BY_CLASS, PROMPTED)),
    "DD-A-scratch-shots": tuple(Side(arm, POOLED._replace(classifier="scratch")) for arm in (BY_CLASS, SHOTS)),
}
INFLATED = {"DD-H12-gain": ON_TRAIN, "DD-A-epoch-gain": EPOCH_BY_TEST}  # what it adds to the gain over the shots
CONCENTRATED = {  # gains whose excess on classes that the generator does not know is claimed
    "DD-H10-alone": (Side(BY_CLASS), Side(PROMPTED)),
    "DD-H10-shots": (Side(ALL_CLASSES, POOLED), Side(SHOTS, POOLED)),
}
ON_UNKNOWN = ("DD-R-unknown-alone", "DD-R-unknown-shots")  # targets; all else about retrieval is on the others
ON_KNOWN = tuple(claim for claim in PAIRS if claim.startswith("DD-R-") and claim not in ON_UNKNOWN)


def contrasts(
    table: pd.DataFrame,
    absent: Sequence[str] = ABSENT,
    alignments: Mapping[str, Alignment] | None = None,
    at: At = ALONE,
) -> Differences:
    """Return the differences of correctness that decide each claim, by target.

    Both sides of a comparison are taken with the seeds that both have.

    Args:
        table: a row per trained classifier, as the module says.
        absent: targets whose classes the generator and the pool do not know.
        alignments: target → `zsclib.papers.datadream.gap.alignment`, which H9 is judged by.
        at: the numbers of shots and of images that are read in the place of the claims' 16 and 64, for a first look.

    Returns:
        claim → target → differences (seeds, images), float64. Claims that need what the table lacks on a target are
        left out there. Those of H10 have the targets of `absent`, each against the mean of all others.

    Raises:
        ValueError: a column is missing, one seed of a side is there twice, or two sides have no seed in common.
    """
    if missing := [name for name in COLUMNS if name not in table.columns]:
        raise ValueError(f"contrasts: the table lacks the columns {', '.join(missing)}; it needs {', '.join(COLUMNS)}")
    table = table.assign(
        shots=table["shots"].replace(at.shots, ALONE.shots), n=table["n"].replace(at.n, ALONE.n)
    )
    differences: Differences = {}
    by_target = {target: Arms(table, target) for target in table["target"].unique()}
    for target, arms in by_target.items():
        for claim, values in _of_one_target(arms, target in absent, target in OWN_IN_POOL).items():
            differences.setdefault(claim, {})[target] = values
    for claim, pair in CONCENTRATED.items():
        gains = {target: arms.paired(pair) for target, arms in by_target.items() if arms.has(pair)}
        if by_unknown := _excess(gains, absent):
            differences[claim] = by_unknown
    if chosen := _choice(by_target):
        differences["DD-H5-choice"] = chosen
    if alignments:
        differences["DD-H9"] = dict(alignments)
    return differences


def arms_of(claim: str) -> tuple[str, ...]:
    """Return the arms that a claim compares; ValueError for a claim of which nothing is known."""
    pairs = PAIRS | CONCENTRATED
    if claim in pairs:
        return tuple(dict.fromkeys(side.arm for side in pairs[claim]))
    if claim in INFLATED:
        return tuple(name for arm in (BY_CLASS, SHOTS) for name in (changed(arm, INFLATED[claim]), arm))
    others = {"DD-H5-choice": VARIANTS, "DD-H9": (BY_CLASS, PROMPTED)}
    if claim in others:
        return others[claim]
    raise ValueError(f"the DataDream paper has no contrast for {claim!r}; it has: {', '.join(PAIRS)}, …")


def answerable(claims: Iterable[str], arms: Iterable[str]) -> list[str]:
    """Return the claims, in their order, all of whose arms are among some; at other K or N they may still lack rows."""
    known = {*arms}
    known |= {CHOSEN} if known.intersection(VARIANTS) else set()
    known |= {RIVAL} if known.issuperset(RIVALS) else set()
    return [claim for claim in claims if known.issuperset(arms_of(claim))]


class Arms:
    """The outcomes on one target, by side and seed.

    The arm `CHOSEN` is, for each seed, the variant of DataDream, of those that are there, that is best on validation
    images; `RIVAL` likewise the best of all methods that DataDream is to beat, where all are there.
    """

    def __init__(self, table: pd.DataFrame, target: str) -> None:
        self._target = target
        self._by_side: dict[Side, dict[int, tuple[float, np.ndarray]]] = {}  # side -> seed -> held_out, correct
        for row in table.loc[table["target"] == target, list(COLUMNS)].itertuples():
            side = _plain(Side(row.arm, At(row.shots, row.n, bool(row.with_shots), row.classifier)))
            by_seed = self._by_side.setdefault(side, {})
            if row.seed in by_seed:
                raise ValueError(f"contrasts: {row.arm!r} on {target} at {side.at} is there twice with seed {row.seed}")
            by_seed[row.seed] = row.held_out, np.asarray(row.correct, np.float64)

    def has(self, sides: Iterable[Side]) -> bool:
        """Say whether there is a row of every side."""
        enough = {RIVAL: all}
        return all(enough.get(s.arm, any)(part in self._by_side for part in self._parts(s)) for s in sides)

    def outcomes(self, sides: Sequence[Side]) -> tuple[list[int], list[np.ndarray]]:
        """Return the seeds that all sides have, and whether each is correct: float64 (seeds, images), a side each."""
        by_side, names = [self._by_seed(side) for side in sides], " and ".join(repr(side.arm) for side in sides)
        seeds = sorted(set.intersection(*(set(by_seed) for by_seed in by_side)))
        if not seeds:
            raise ValueError(f"contrasts: {names} on {self._target} have no seed in common")
        if len(sizes := {len(by_seed[seed]) for by_seed in by_side for seed in seeds}) > 1:
            raise ValueError(
                f"contrasts: {names} on {self._target} must be judged on equally many images, got {sorted(sizes)}"
            )
        return seeds, [np.stack([by_seed[seed] for seed in seeds]) for by_seed in by_side]

    def paired(self, pair: Sequence[Side]) -> dict[int, np.ndarray]:
        """Return the differences of two sides by seed, float64 (images,)."""
        seeds, (arm, rival) = self.outcomes(pair)
        return dict(zip(seeds, arm - rival, strict=True))

    def _by_seed(self, side: Side) -> dict[int, np.ndarray]:
        best: dict[int, tuple[float, np.ndarray]] = {}
        for part in self._parts(side):  # of equals the first
            for seed, (held_out, correct) in self._by_side.get(part, {}).items():
                if seed not in best or held_out > best[seed][0]:
                    best[seed] = held_out, correct
        return {seed: correct for seed, (_, correct) in best.items()}

    def _parts(self, side: Side) -> list[Side]:
        """Return the sides that a side is chosen from; of most, itself."""
        return [_plain(Side(arm, side.at)) for arm in CHOICES.get(side.arm, (side.arm,))]


def _plain(side: Side) -> Side:
    """Return the one side that stands for all that are the same classifier."""
    if side.arm == ZERO_SHOT:
        return Side(ZERO_SHOT)
    alone = side.arm == SHOTS or side.arm.startswith(f"{SHOTS}, ")
    return Side(side.arm, side.at._replace(n=0, with_shots=True)) if alone else side


def _of_one_target(arms: Arms, unknown: bool, own_in_pool: bool) -> dict[str, np.ndarray]:
    """Return the differences of all claims that are about a target by itself.

    Where the pool has the target's own images to learn from, retrieved ones are more real data: no claim is about them.
    """
    differences = {}
    for claim, pair in PAIRS.items():
        elsewhere = claim in (ON_KNOWN if unknown else ON_UNKNOWN) or (claim in ON_KNOWN and own_in_pool)
        if not elsewhere and arms.has(pair):
            differences[claim] = np.stack(list(arms.paired(pair).values()))
    for claim in INFLATED:
        sides = [Side(name, POOLED) for name in arms_of(claim)]
        if arms.has(sides):
            # (arm as it is reported − as it is) − (shots alone as they are reported − as they are)
            _, (reported, plain, shots_reported, shots) = arms.outcomes(sides)
            differences[claim] = (reported - plain) - (shots_reported - shots)
    return differences


def _excess(gains: Mapping[str, Mapping[int, np.ndarray]], absent: Sequence[str]) -> dict[str, np.ndarray]:
    """Return, for each unknown target, its gain less the mean gain of the known ones: (seeds, images).

    Images of different targets have nothing to do with one another, and neither have seeds, so that it does not matter
    which is set against which: the spread of the difference is that of independent sets. All have as many images as
    the smallest.
    """
    known = [target for target in gains if target not in absent]
    unknown = [target for target in gains if target in absent]
    if not known or not unknown:
        return {}
    seeds = sorted(set.intersection(*(set(by_seed) for by_seed in gains.values())))
    if not seeds:
        raise ValueError(f"contrasts: the gains on {', '.join(gains)} have no seed in common")
    n = min(len(values) for by_seed in gains.values() for values in by_seed.values())
    stacked = {target: np.stack([gains[target][seed][:n] for seed in seeds]) for target in gains}
    mean = np.mean([stacked[target] for target in known], axis=0)
    return {target: stacked[target] - mean for target in unknown}


def _choice(by_target: Mapping[str, Arms]) -> dict[str, np.ndarray]:
    """Return what the variant chosen for each target and seed has over the one that is better for all: H5."""
    sides = [Side(arm) for arm in VARIANTS]
    two = {target: arms.outcomes([*sides, Side(CHOSEN)])[1] for target, arms in by_target.items() if arms.has(sides)}
    if not two:
        return {}
    for_all = int(np.argmax([np.mean([outcomes[k].mean() for outcomes in two.values()]) for k in range(2)]))
    return {target: outcomes[2] - outcomes[for_all] for target, outcomes in two.items()}
