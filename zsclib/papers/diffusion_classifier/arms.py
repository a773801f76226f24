"""The arms that follow from a matrix of errors, measured once a set: what each decides of every image.

    arms = at_even_timesteps(by_measure, labels, schedule.t)  # by_measure: measure → errors (n, C, K)
    arms[DIFFUSION]                                           # which images are given their class, bool (n,)
    arms[alone(500)]                                          # by the timestep 500 alone

An arm is a row of numbers from 0 to 1, (n,): whether a decision is correct, how often several are, or a share.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from zsclib.papers.diffusion_classifier.ablations import Measure, best_classes, pairing_gain, weighted
from zsclib.papers.diffusion_classifier.error_matrix import (
    Rule,
    Schedule,
    crowded,
    prediction,
    staged_prediction,
    subgrids,
)

DIFFUSION, DIT = "diffusion classifier", "class-conditional DiT"
CLIP_ONE, CLIP_ENSEMBLE = "CLIP, one prompt", "CLIP, ensemble"
FEATURES = "SD features, with labels"
Arms = dict[str, np.ndarray]  # arm -> (n,)
L1, HUBER, GUIDED, CROPPED = "absolute errors", "Huber errors", "guidance w = 1", "the middle half of the errors"
FILTERED = "among CLIP's best half"
SHARED, APART, VARIANCE = "noise shared", "noise of each class", "variance left by shared noise"
KINDS = {  # kind of noise -> arm
    "normal": "normal noise", "zero": "no noise", "truncated": "noise cut at 1 sd",
    "truncated-2.5": "noise cut at 2.5 sd", "rescaled": "noise of expected length",
}  # fmt: skip
DIFFERENT, REPEATED = "eight timesteps, one noise each", "two timesteps, four noises each"
EVERY, STAGES, TEST = "every class at every timestep", "stages", "sequential test"
STAGES_COST, TEST_COST = "share of evaluations, stages", "share of evaluations, sequential test"
FEWER, SHORTER = "every class, at the cost of the test", "stages, at the cost of the test"
SPREAD, CROWDED = "four timesteps, spread", "four timesteps, crowded"
VARIATIONAL = "variational weights"


def alone(t: int) -> str:
    """Return the name of the arm that decides by one timestep alone."""
    return f"one timestep, t = {t}"


def timestep_of(arm: str) -> int | None:
    """Return the timestep of an arm that decides by one alone, None for any other arm."""
    match = re.fullmatch(r"one timestep, t = (\d+)", arm)
    return int(match[1]) if match else None


def every_class(k: int) -> str:
    """Return the name of the arm that scores every class at k timesteps."""
    return f"every class, K = {k}"


def number_of(arm: str) -> int | None:
    """Return how many timesteps an arm of `every_class` has, None for any other arm."""
    match = re.fullmatch(r"every class, K = (\d+)", arm)
    return int(match[1]) if match else None


def powers(K: int) -> list[int]:
    """Return the powers of two up to K: the numbers of timesteps of a curve."""
    return [2**i for i in range(K.bit_length())]


def measures(side: int, varied: bool = True) -> dict[str, Measure]:
    """Return arm → measure of those that come from the same evaluations, for latents of `side` pixels a side.

    Args:
        varied: whether all of them are wanted, or, where no claim is about the others, squared and Huber errors alone.
    """
    plain = {DIFFUSION: Measure(), HUBER: Measure("huber")}
    if not varied:
        return plain
    return plain | {L1: Measure("l1"), GUIDED: Measure(guidance=1.0), CROPPED: Measure(crop=side // 4)}


def how_often(errors: np.ndarray, labels: np.ndarray, grids: Iterable[Sequence[int]]) -> np.ndarray:
    """Return how often each image is given its class by decisions from these columns of (n, C, K) alone, (n,)."""
    return np.mean([prediction(errors[:, :, np.asarray(grid)]) == labels for grid in grids], axis=0)


def at_even_timesteps(by_arm: Mapping[str, np.ndarray], labels: np.ndarray, t: Sequence[int]) -> Arms:
    """Return the arms of errors at K evenly spread timesteps: every measure, and each timestep alone.

    Args:
        by_arm: arm of `measures` → errors (n, C, K). labels: int64 (n,). t: the K timesteps.
    """
    arms = {arm: prediction(errors) == labels for arm, errors in by_arm.items()}
    plain = by_arm[DIFFUSION]
    return arms | {alone(step): prediction(plain[:, :, [k]]) == labels for k, step in enumerate(t)}


def among_clips_best(errors: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return which images are given their class among the half of the classes of highest score (n, C), bool (n,)."""
    best = best_classes(scores, scores.shape[1] // 2)
    return prediction(np.where(best[:, :, None], errors, np.nan)) == labels


def of_shared_noise(
    shared: np.ndarray, apart: np.ndarray, labels: np.ndarray, t: Sequence[int], few: int
) -> Arms:
    """Return the arms of H8 from errors (n, C, K) at the timesteps t, with noise shared and of each class's own.

    `VARIANCE` is v / (v + u), with v and u the variances that `pairing_gain` compares: the gain is log10(1 / it − 1).
    """
    grids = subgrids(t, few)
    return {
        SHARED: how_often(shared, labels, grids),
        APART: how_often(apart, labels, grids),
        VARIANCE: 1 / (1 + 10 ** pairing_gain(shared, apart)),
    }


def in_depth(
    errors: np.ndarray, labels: np.ndarray, t: Sequence[int], few: int, weights: np.ndarray, T: int = 1000
) -> Arms:
    """Return the arms of errors (n, C, K) at many timesteps that choose among these, or weigh them.

    Args:
        errors: every class of every image at the timesteps t. few: timesteps of one decision. weights: (K,).
    """
    curve = {every_class(k): how_often(errors, labels, subgrids(t, k)) for k in powers(len(t))}
    return curve | {
        EVERY: prediction(errors) == labels,
        SPREAD: how_often(errors, labels, subgrids(t, few)),
        CROWDED: how_often(errors, labels, crowded(t, few, T)),
        VARIATIONAL: prediction(weighted(errors, weights)) == labels,
    }


def eliminated(
    errors: np.ndarray, labels: np.ndarray, t: Sequence[int], stages: Sequence[Schedule], test: Rule
) -> Arms:
    """Return the arms of H16, replayed on errors (n, C, K) measured in full at the timesteps t.

    Args:
        stages: the paper's at K timesteps, and before it the same at ever fewer. test: the sequential one.
    """
    K, whole = errors.shape[2], errors[0].size
    arms = {}
    for decided_by, cost, rule in ((STAGES, STAGES_COST, stages[-1]), (TEST, TEST_COST, test)):
        decided, spent = staged_prediction(errors, rule)
        arms |= {decided_by: decided == labels, cost: spent / whole}
    share = arms[TEST_COST].mean()
    k = min(K, int(np.ceil(share * K - 1e-9)))  # the fewest timesteps that cost no less than the test
    short = next((s for s in stages if s.evaluations(errors.shape[1]) / whole >= share), stages[-1])
    decided, _ = staged_prediction(errors, short)
    return arms | {FEWER: how_often(errors, labels, subgrids(t, k)), SHORTER: decided == labels}

