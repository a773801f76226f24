"""Intervals and tests for accuracies and paired differences: every number comes with its spread."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from zsclib.seeds import rng


class Estimate(NamedTuple):
    """A number with its interval and the number of items (images, pairs, …) it rests on."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.4g} ({self.low:.4g} to {self.high:.4g}, n = {self.n:,})"

    def percent(self, digits: int = 1) -> str:
        """Return a share as text: "93.5 % (89.2 to 96.2)"."""
        value, low, high = (f"{100 * x:.{digits}f}" for x in self[:3])
        return f"{value} % ({low} to {high})".replace("-", "\N{MINUS SIGN}")

    def points(self, digits: int = 1) -> str:
        """Return a difference of shares as text: "+2.5 points (−0.4 to +5.4)"."""
        value, low, high = (f"{100 * x:+.{digits}f}" for x in self[:3])
        return f"{value} points ({low} to {high})".replace("-", "\N{MINUS SIGN}")


def wilson(successes: int, n: int, level: float = 0.95) -> Estimate:
    """Return a proportion with Wilson's score interval (Wilson 1927).

    Args:
        successes: how many of the n items succeeded.
        n: number of items, at least 1.
        level: confidence level.
    """
    successes, n = _count(successes, "successes"), _count(n, "n")
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"wilson: need 0 ≤ successes ≤ n and n ≥ 1, got successes={successes}, n={n}")
    interval = stats.binomtest(successes, n).proportion_ci(level, method="wilson")
    return Estimate(successes / n, float(interval.low), float(interval.high), n)


def accuracy(correct: ArrayLike, level: float = 0.95) -> Estimate:
    """Return the share of true entries of a boolean vector (n,), with Wilson's interval."""
    correct = _booleans(correct, "accuracy: correct")
    return wilson(int(correct.sum()), len(correct), level)


def paired_difference(correct_a: ArrayLike, correct_b: ArrayLike, level: float = 0.95) -> Estimate:
    """Return accuracy(a) − accuracy(b) on the same items, adjusted Wald interval (Bonett & Price 2012).

    One pair is added to each kind of disagreement, so the interval has a width even where a and b agree on
    every item, and a small n can never pass for proof of equality.

    Args:
        correct_a: boolean (n,), whether a was right on each item.
        correct_b: boolean (n,), the same items in the same order.
        level: confidence level.
    """
    a = _booleans(correct_a, "paired_difference: correct_a")
    b = _booleans(correct_b, "paired_difference: correct_b")
    if len(a) != len(b):
        raise ValueError(f"paired_difference: need the same items for both, got {len(a)} and {len(b)}")
    n, only_a, only_b = len(a), int((a & ~b).sum()), int((b & ~a).sum())
    p_a, p_b = (only_a + 1) / (n + 2), (only_b + 1) / (n + 2)
    half = stats.norm.ppf(0.5 + level / 2) * math.sqrt((p_a + p_b - (p_a - p_b) ** 2) / (n + 2))
    return Estimate((only_a - only_b) / n, max(p_a - p_b - half, -1.0), min(p_a - p_b + half, 1.0), n)


def paired_bootstrap(
    differences: ArrayLike, level: float = 0.95, n_resamples: int = 10_000, seed: int = 0
) -> Estimate:
    """Return a mean paired difference with a bootstrap interval (Efron 1979).

    Args:
        differences: (n,) one difference per item, BCa interval (Efron 1987); or (seeds, n), then seeds and
            items are resampled independently, percentile interval, which is too narrow for few seeds (< 5).
        level: confidence level.
        n_resamples: number of resamples.
        seed: run seed of the resampling.

    Returns:
        The mean, its interval, and n (items). A sample without any spread gives an interval of width 0, which
        `zsclib.study.claims.verdict` takes as no evidence; for accuracies use `paired_difference`.
    """
    data = np.asarray(differences, dtype=np.float64)
    if data.ndim not in (1, 2) or data.shape[-1] < 2 or data.shape[0] < 1 or not np.isfinite(data).all():
        what = "NaN or infinity" if data.size and not np.isfinite(data).all() else f"shape {data.shape}"
        raise ValueError(
            f"paired_bootstrap: differences must be finite, (n,) or (seeds, n) with n ≥ 2, got {what}"
        )
    data = data[0] if data.ndim == 2 and len(data) == 1 else data
    n, mean = data.shape[-1], float(data.mean())
    if np.ptp(data) == 0:  # BCa divides by the spread
        return Estimate(mean, mean, mean, n)
    if data.ndim == 1:
        samples, statistic, method = (data,), np.mean, "BCa"
    else:
        samples, method = tuple(np.arange(size) for size in data.shape), "percentile"

        def statistic(rows: np.ndarray, columns: np.ndarray, axis: int = -1) -> np.ndarray:
            return data[rows[..., :, None], columns[..., None, :]].mean((-2, -1))

    result = stats.bootstrap(
        samples,
        statistic,
        method=method,
        n_resamples=n_resamples,
        confidence_level=level,
        batch=max(1, 2**22 // data.size),  # without it, scipy holds n_resamples × size numbers at once
        vectorized=True,
        axis=-1,
        rng=rng(seed, "bootstrap"),
    )
    return Estimate(mean, float(result.confidence_interval.low), float(result.confidence_interval.high), n)


class Bin(NamedTuple):
    """The items whose confidence lies above `above`, up to `to`."""

    above: float
    to: float
    confidence: float  # their mean
    accuracy: Estimate


class Calibration(NamedTuple):
    """How far stated confidence is from accuracy; `bins` are the points of a reliability plot."""

    ece: float
    ece_by_chance: float  # what perfectly calibrated confidences of these values would show at this n
    bins: tuple[Bin, ...]  # those that hold items


def calibration(
    probabilities: ArrayLike, labels: ArrayLike, bins: int = 10, level: float = 0.95, seed: int = 0
) -> Calibration:
    """Return the expected calibration error and reliability bins (Guo et al. 2017, eq. 3 and 5).

    The error is the mean over items of ``|accuracy - mean confidence|`` of an item's bin, bins of equal width. It is
    never 0 for a finite n: `ece_by_chance` averages it over 200 draws in which every confidence is true.

    Args:
        probabilities: (n, C), rows sum to 1; the largest is the confidence. labels: int (n,).
        bins: number of bins of [0, 1]. level: of Wilson's intervals of accuracy. seed: of the draws.

    Raises:
        ValueError: rows that are no probabilities, or not one label of 0..C-1 for each.
    """
    p, labels = np.asarray(probabilities, np.float64), np.asarray(labels)
    if p.ndim != 2 or len(p) == 0 or not ((p >= 0).all() and np.allclose(p.sum(1), 1, atol=1e-4)):
        raise ValueError(
            f"calibration: probabilities must be (n, C) with rows that sum to 1, got shape {p.shape}"
        )
    if labels.shape != p.shape[:1] or not ((labels >= 0) & (labels < p.shape[1])).all() or bins < 1:
        raise ValueError(f"calibration: need {len(p)} labels of 0..{p.shape[1] - 1}, and bins of 1 or more")
    confidence, correct = np.minimum(p.max(1), 1.0), p.argmax(1) == labels
    which = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)

    def error(correct: np.ndarray) -> float:
        return np.abs(np.bincount(which, correct - confidence, bins)).sum() / len(p)

    draws = rng(seed, "calibration").random((200, len(p))) < confidence
    found = [
        Bin(
            b / bins,
            (b + 1) / bins,
            float(confidence[which == b].mean()),
            accuracy(correct[which == b], level),
        )
        for b in np.unique(which).tolist()
    ]
    return Calibration(float(error(correct)), float(np.mean([error(draw) for draw in draws])), tuple(found))


def smallest_detectable(estimate: Estimate, level: float = 0.95, power: float = 0.8) -> float:
    """Return the smallest true difference that an interval as wide as this one would tell from zero.

    That is (z_{1−α/2} + z_power) · SE (Cohen 1988), the standard error read off the interval's half-width.

    Args:
        estimate: a difference with its interval.
        level: the confidence level of that interval.
        power: the probability with which the difference is to be told from zero.
    """
    z = stats.norm.ppf(0.5 + level / 2)
    return float((estimate.high - estimate.low) / (2 * z) * (z + stats.norm.ppf(power)))


def _count(value: int, name: str) -> int:
    if isinstance(value, bool) or int(value) != value or value < 0:
        raise ValueError(f"{name} must be a count (an integer ≥ 0), got {value!r}")
    return int(value)


def _booleans(values: ArrayLike, name: str) -> np.ndarray:
    array = np.asarray(values)
    if array.ndim != 1 or len(array) == 0 or not np.isin(array, (0, 1)).all():
        raise ValueError(f"{name} must be a non-empty boolean vector, got {array.dtype} {array.shape}")
    return array.astype(bool)
