"""What the Diffusion Classifier does without a model: which timesteps it takes, which classes stay, and what follows
from the errors (Li et al., ICCV 2023, section 3 and algorithm 2).

A run is one matrix, errors (n images, C classes, K timesteps), NaN where a class was out. Every rule is a function of
it, so an exhaustive matrix also answers what elimination would have decided, and at what cost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax


class Rule(Protocol):
    """Which timesteps are taken, in which order, and which classes stay; `Schedule` is one.

    Stage j takes t[until[j-1]:until[j]] for all classes that are left. `survivors` then says which classes
    (n, C) are measured further, from all errors so far (n, C, until[j]), NaN where a class was out.
    """

    t: tuple[int, ...]
    until: tuple[int, ...]

    def survivors(self, errors: np.ndarray, alive: np.ndarray, stage: int) -> np.ndarray: ...


@dataclass(frozen=True)
class Schedule:
    """A `Rule` that keeps the keep[j] classes of lowest mean error after stage j."""

    t: tuple[int, ...]  # (K,) timesteps, in the order of evaluation
    until: tuple[int, ...]
    keep: tuple[int, ...]

    def survivors(self, errors: np.ndarray, alive: np.ndarray, stage: int) -> np.ndarray:
        """Return the classes that stay, bool (n, C): the keep[stage] of lowest mean error."""
        mean = np.where(alive, errors.mean(2, dtype=np.float64), np.inf)
        return alive & (mean.argsort(axis=1, kind="stable").argsort(axis=1) < self.keep[stage])

    def until_at_most(self, K: int) -> Schedule:
        """Return the same stages over the first K timesteps; ValueError where the last cut comes later."""
        if len(self.until) > 1 and self.until[-2] >= K:
            raise ValueError(f"stages with a cut after {self.until[-2]} timesteps do not end at {K}")
        K = min(K, self.until[-1])
        return Schedule(self.t[:K], (*self.until[:-1], K), self.keep)

    def evaluations(self, classes: int) -> int:
        """Return how many evaluations of the network an image takes, with one prompt per class."""
        total = 0
        for (first, last), keep in zip(pairwise((0, *self.until)), self.keep, strict=True):
            total += classes * (last - first)
            classes = min(classes, keep)
        return total


def exhaustive(K: int, T: int = 1000) -> Schedule:
    """Return one stage: every class meets the same K timesteps, evenly spread: (i + 1/2) T / K, rounded down.

    Raises:
        ValueError: K is not in 1..T.
    """
    _check_number(K, T)
    return Schedule(tuple((2 * i + 1) * T // (2 * K) for i in range(K)), (K,), (1,))


def nested(K: int, T: int = 1000) -> Schedule:
    """Return one stage over `nested_timesteps`: exhaustive scoring that rules which eliminate are compared with."""
    return Schedule(tuple(nested_timesteps(K, T).tolist()), (K,), (1,))


def nested_timesteps(K: int, T: int = 1000) -> np.ndarray:
    """Return K different timesteps in 0..T-1, any prefix of which is spread almost evenly.

    They are T times the van der Corput sequence 1/2, 1/4, 3/4, 1/8, 5/8, ..., rounded down, without repeats: the order
    in which all rules that eliminate classes take them.

    Returns:
        int64 (K,).

    Raises:
        ValueError: K is not in 1..T.
    """
    _check_number(K, T)
    bits = max(1, (T - 1).bit_length())
    mirrored = (int(f"{i:0{bits}b}"[::-1], 2) for i in (*range(1, 2**bits), 0))
    return np.array(list(dict.fromkeys(j * T >> bits for j in mirrored))[:K], dtype=np.int64)


def nested_stages(n_samples: Sequence[int], to_keep: Sequence[int], T: int = 1000) -> Schedule:
    """Return stages over `nested_timesteps`, after which survivors hold exactly n_samples[j] errors (algorithm 2).

    Args:
        n_samples: rising numbers of timesteps done by the end of each stage, such as (20, 50, 100, 500).
        to_keep: classes kept after each stage, such as (20, 10, 5, 1); ends in 1.

    Raises:
        ValueError: lengths differ, n_samples does not rise within 1..T, to_keep does not fall to 1.
    """
    _check_stages(n_samples, to_keep, T)
    return Schedule(tuple(nested_timesteps(n_samples[-1], T).tolist()), tuple(n_samples), tuple(to_keep))


def reference_stages(n_samples: Sequence[int], to_keep: Sequence[int], T: int = 1000) -> Schedule:
    """Return the stages of the authors' code, whose grids do not nest: survivors hold more than n_samples[j].

    With M = max(n_samples), stage j takes every (M // n)-th timestep of an even grid of M, beginning amid the
    first stride, leaves out those already done, and ranks by all errors so far. Arguments as `nested_stages`.
    """
    _check_stages(n_samples, to_keep, T)
    M = n_samples[-1]
    grid = range(T // M // 2, T, T // M)[:M]
    done: dict[int, None] = {}
    until = []
    for n in n_samples:
        done |= dict.fromkeys(grid[M // n // 2 :: M // n][:n])
        until.append(len(done))
    return Schedule(tuple(done), tuple(until), tuple(to_keep))


# --- few of many timesteps ------------------------------------------------------------------------


def subgrids(t: Sequence[int], k: int) -> list[np.ndarray]:
    """Return columns of disjoint grids of k timesteps each, all of them evenly spread among t (K,).

    There are K // k of them: with 128 timesteps, 32 grids of four. What one grid decides depends on luck; how often all
    of them are correct about an image is known 32 times better, and measures nothing anew.

    Raises:
        ValueError: k is not in 1..K.
    """
    K = len(t)
    if not 1 <= k <= K:
        raise ValueError(f"subgrids: need from 1 to {K} timesteps, got {k}")
    order, number = np.argsort(t, kind="stable"), K // k
    places = ((2 * np.arange(k * number) + 1) * K // (2 * k * number)).reshape(k, number)
    return [order[places[:, g]] for g in range(number)]


def near(t: Sequence[int], wanted: float, T: int = 1000) -> list[np.ndarray]:
    """Return the columns of all timesteps within T / 20 of one wanted, each alone; of the nearest if there is none."""
    distance = np.abs(np.asarray(t) - wanted)
    return [np.array([k]) for k in np.flatnonzero(distance <= max(T / 20, distance.min()))]


def crowded(t: Sequence[int], k: int, T: int = 1000) -> list[np.ndarray]:
    """Return columns of disjoint grids of k timesteps from the eighth of all that is nearest to the middle.

    With less than k timesteps in that eighth, the k nearest.
    """
    crowd = np.argsort(np.abs(np.asarray(t) - T / 2), kind="stable")[: max(k, len(t) // 8)]
    return [crowd[columns] for columns in subgrids(np.asarray(t)[crowd], k)]


def blocks(K: int, k: int) -> list[np.ndarray]:
    """Return k columns after k columns of K, for timesteps that come again and again."""
    return [np.arange(first, first + k) for first in range(0, K - k + 1, k)]


def at_columns(schedule: Schedule, columns: np.ndarray) -> Schedule:
    """Return the one-stage schedule of some of a schedule's timesteps."""
    return Schedule(tuple(schedule.t[i] for i in columns), (len(columns),), (1,))


# --- elimination ----------------------------------------------------------------------------------


def eliminate(
    measure: Callable[[np.ndarray, int, int], np.ndarray], alive: np.ndarray, schedule: Rule
) -> np.ndarray:
    """Run the stages of a schedule for n images at once: measure, then leave out classes.

    Args:
        measure: (alive bool (n, C), first, last) -> errors (n, C, last - first), NaN where not alive; or
            (n, C, last - first, M) of M measures, the first of which decides.
        alive: bool (n, C), the candidate classes of each image.

    Returns:
        float32 (n, C, K) or (n, C, K, M), NaN where a class was out.
    """
    errors = None
    for stage, (first, last) in enumerate(pairwise((0, *schedule.until))):
        new = measure(alive, first, last)
        if errors is None:
            shape = (*alive.shape, len(schedule.t), *new.shape[3:])
            errors = np.full(shape, np.nan, np.float32)
        errors[:, :, first:last] = new
        so_far = errors[:, :, :last]
        alive = schedule.survivors(so_far if so_far.ndim == 3 else so_far[..., 0], alive, stage)
        if not alive.any():
            break
    return errors


def as_staged(errors: np.ndarray, schedule: Rule, candidates: np.ndarray | None = None) -> np.ndarray:
    """Return what a run of the schedule would have measured of exhaustive errors (n, C, K or more); NaN elsewhere.

    The errors must have been measured at schedule.t, in that order, as `nested` and all rules that eliminate share
    theirs. candidates: bool (n, C), the candidate classes of each image; None for all.
    """
    if len(schedule.t) > errors.shape[2]:
        raise ValueError(f"the schedule has {len(schedule.t)} timesteps, the errors only {errors.shape[2]}")

    def look_up(alive: np.ndarray, first: int, last: int) -> np.ndarray:
        return np.where(alive[:, :, None], errors[:, :, first:last], np.nan)

    everyone = np.ones(errors.shape[:2], bool)
    return eliminate(look_up, everyone if candidates is None else candidates, schedule)


def staged_prediction(errors: np.ndarray, schedule: Rule) -> tuple[np.ndarray, np.ndarray]:
    """Return what elimination decides on exhaustive errors, and the evaluations it takes: int64 (n,) and (n,)."""
    staged = as_staged(errors, schedule)
    return prediction(staged), evaluations(staged)


def prediction(errors: np.ndarray) -> np.ndarray:
    """Return the class of lowest mean error among those that stayed longest, int64 (n,)."""
    met = (~np.isnan(errors)).sum(2)
    return np.where(met == met.max(1, keepdims=True), _mean(errors), np.inf).argmin(1)


def evaluations(errors: np.ndarray, prompts_each: np.ndarray | int = 1) -> np.ndarray:
    """Return the evaluations of the network behind the errors of each image, int64 (n,)."""
    return ((~np.isnan(errors)).sum(2) * prompts_each).sum(1)


def scores_from_errors(errors: np.ndarray) -> np.ndarray:
    """Return scores, float32 (n, C), highest for the prediction.

    Without elimination a score is minus the mean error. A class that went out early met less noise than those
    that stayed, so their means do not compare: its score is the prediction's, less their mean difference over
    the noise that both met, and never above it. A class that is no candidate scores minus infinity.
    """
    best, difference = _differences(errors)
    scores = -(_mean(best) + _mean(difference)).astype(np.float32)
    chosen = prediction(errors)[:, None]
    top = np.take_along_axis(scores, chosen, axis=1)
    below = np.minimum(scores, np.nextafter(top, np.float32(-np.inf)))
    np.put_along_axis(below, chosen, top, axis=1)
    return below


def posterior(scores: np.ndarray, K: int, temperature: float = 1.0) -> np.ndarray:
    """Return class probabilities, softmax(K scores / temperature): Bayes' rule with equal priors (section 3).

    Args:
        scores: (n, C), minus mean errors over K timesteps. temperature: from `fit_temperature`; errors are means
            over the elements of a latent, and the bound is loose, so 1 means nothing.

    Returns:
        float64 (n, C), rows sum to 1.
    """
    if K < 1 or not temperature > 0:
        raise ValueError(f"posterior: K must be 1 or more and temperature above 0, got {K} and {temperature}")
    return softmax(K * np.asarray(scores, np.float64) / temperature, axis=1)


def fit_temperature(scores: np.ndarray, labels: np.ndarray, K: int) -> float:
    """Return the temperature under which validation labels are likeliest (Guo et al. 2017, section 4.2).

    Args:
        scores: (n, C) of validation images, never of the test. labels: int64 (n,).
    """
    scores, rows = K * np.asarray(scores, np.float64), np.arange(len(labels))
    spread = np.abs(scores[np.isfinite(scores)] - scores.max(1).mean()).mean() or 1.0

    def loss(log_temperature: float) -> float:
        return -log_softmax(scores / np.exp(log_temperature), axis=1)[rows, labels].mean()

    middle = np.log(spread)
    return float(np.exp(minimize_scalar(loss, bounds=(middle - 12, middle + 12), method="bounded").x))


def _mean(errors: np.ndarray) -> np.ndarray:
    """Return the mean over timesteps of what was measured, float64 (n, C); infinity where nothing was."""
    met = (~np.isnan(errors)).sum(2)
    return np.where(met > 0, np.nansum(errors, axis=2, dtype=np.float64) / np.maximum(met, 1), np.inf)


def _differences(errors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the errors of the prediction, (n, 1, K), and the differences of all classes to it, (n, C, K)."""
    errors = errors.astype(np.float64)
    best = np.take_along_axis(errors, prediction(errors)[:, None, None], axis=1)
    return best, errors - best


def _check_number(K: int, T: int) -> None:
    if not 1 <= K <= T:
        raise ValueError(f"the number of timesteps must be from 1 to {T}, got {K}")


def _check_stages(n_samples: Sequence[int], to_keep: Sequence[int], T: int) -> None:
    if not n_samples or len(n_samples) != len(to_keep):
        raise ValueError(f"n_samples and to_keep need one number per stage, got {n_samples} and {to_keep}")
    if list(n_samples) != sorted(set(n_samples)) or not 1 <= n_samples[0] <= n_samples[-1] <= T:
        raise ValueError(f"n_samples must rise within 1..{T}, got {n_samples}")
    if to_keep[-1] != 1 or list(to_keep) != sorted(to_keep, reverse=True):
        raise ValueError(f"to_keep must fall and end in 1, the prediction; got {to_keep}")
