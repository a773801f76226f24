"""Effective robustness: more accuracy under shift than accuracy without it foretells (Li et al., ICCV 2023, figure 6).

Accuracies of many networks with and without a shift lie close to a line once both are logits (Taori et al., NeurIPS
2020). How far a classifier lies above the line of the others is its effective robustness.

    line = fit_line(standard.mean(1), shifted.mean(1))      # of networks' rows of correctness, bool (m, n)
    line.at(standard.mean(1))                               # (m,), the accuracy under shift that is foretold
    gain, low, high = effective_robustness(standard, shifted, ours_standard, ours_shifted)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, logit

from zsclib.seeds import rng


@dataclass(frozen=True)
class Line:
    """logit(accuracy under shift) = intercept + slope · logit(accuracy without); made by `fit_line`."""

    intercept: float
    slope: float

    def at(self, standard: ArrayLike) -> np.ndarray:
        """Return the accuracy under shift that accuracies without shift, in (0, 1), foretell."""
        return expit(self.intercept + self.slope * logit(np.asarray(standard, np.float64)))


def fit_line(standard: ArrayLike, shifted: ArrayLike) -> Line:
    """Return the least-squares line through networks' accuracies (m,) and (m,), both in (0, 1), as logits.

    Raises:
        ValueError: fewer than two networks, accuracies of 0 or 1 (see `rates`), or all the same without shift.
    """
    x, y = np.asarray(standard, np.float64), np.asarray(shifted, np.float64)
    inside = ((x > 0) & (x < 1)).all() and ((y > 0) & (y < 1)).all()
    if x.ndim != 1 or x.shape != y.shape or len(x) < 2 or not inside or np.ptp(x) == 0:
        raise ValueError(
            "fit_line: needs two accuracies in (0, 1) of each of two networks or more, which differ without shift; "
            f"got {x.tolist()} and {y.tolist()}"
        )
    intercept, slope = _least_squares(logit(x), logit(y))
    return Line(float(intercept), float(slope))


def rates(correct: ArrayLike, weights: ArrayLike | None = None) -> np.ndarray:
    """Return accuracies (..., m) of correctness, bool (m, n), half an image added to each side: none is 0 or 1.

    Args:
        weights: how often each image counts, (..., n); default: once.
    """
    correct = np.atleast_2d(np.asarray(correct, np.float64))
    weights = np.ones(correct.shape[1]) if weights is None else np.asarray(weights, np.float64)
    return (weights @ correct.T + 0.5) / (weights.sum(-1, keepdims=True) + 1)


def effective_robustness(
    standard: ArrayLike,
    shifted: ArrayLike,
    ours_standard: ArrayLike,
    ours_shifted: ArrayLike,
    *,
    level: float = 0.95,
    resamples: int = 4000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Return how far a classifier's accuracy under shift lies above the networks' line, with its interval.

    Both sets of images are resampled, every classifier meets the same resample, and the line is fitted anew each time
    (percentile interval). Networks are not resampled: the line is that of these networks.

    Args:
        standard, shifted: correctness of m networks on n images and on k shifted ones, bool (m, n) and (m, k).
        ours_standard, ours_shifted: correctness of the classifier in question on the same images, bool (n,) and (k,).
        level: of the interval. resamples, seed: of the bootstrap.

    Raises:
        ValueError: the images are not the same for all, or what `fit_line` raises.
    """
    inside, outside = (
        np.concatenate([np.atleast_2d(np.asarray(networks, bool)), np.asarray(ours, bool)[None]])
        for networks, ours in ((standard, ours_standard), (shifted, ours_shifted))
    )
    if len(inside) != len(outside):
        raise ValueError(f"effective_robustness: {len(inside) - 1} networks, {len(outside) - 1} under shift")
    fit_line(rates(inside)[:-1], rates(outside)[:-1])  # raises where no line can be drawn
    value = _above_line(rates(inside), rates(outside))
    random = rng(seed, "effective robustness")
    counts = [_resampled(random, n, resamples) for n in (inside.shape[1], outside.shape[1])]
    resampled = _above_line(rates(inside, counts[0]), rates(outside, counts[1]))
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return float(value), float(low), float(high)


class Accuracies(NamedTuple):
    """Correctness of m networks: with no shift, under each of several shifts, and which of them are of one kind."""

    standard: np.ndarray  # (m, n)
    shifted: Sequence[np.ndarray]  # of each shift (m, k)
    kinds: Sequence[str]  # (m,); networks of one kind, trained several times, are left out together


def above_line(
    networks: Accuracies,
    ours_standard: ArrayLike,
    ours_shifted: Sequence[ArrayLike],
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Return how much further a classifier lies above the networks' line than networks do themselves.

    Its distance, the mean over shifts, is that of `effective_robustness`; that of a network is from the line through
    those of other kinds. The value is the one less the mean of the others. The interval is over resamples of images and
    over networks, so that a classifier no further off than a network is not called robust.

    Args:
        networks: of two kinds or more beside the one left out. ours_standard, ours_shifted: of the classifier, bool.

    Raises:
        ValueError: fewer than three kinds of networks, or as many shifts as the classifier has not been asked about.
    """
    kinds = np.asarray(networks.kinds)
    if len(set(kinds)) < 3 or len(networks.shifted) != len(ours_shifted):
        raise ValueError(
            f"above_line: needs three kinds of networks and the same shifts of all, got {len(set(kinds))} kinds, "
            f"{len(networks.shifted)} shifts of networks and {len(ours_shifted)} of the classifier"
        )
    inside = np.concatenate([networks.standard, np.asarray(ours_standard)[None]])
    outside = [
        np.concatenate([rows, np.asarray(ours)[None]])
        for rows, ours in zip(networks.shifted, ours_shifted, strict=True)
    ]
    ours, others = _distances(rates(inside), [rates(rows) for rows in outside], kinds)
    value = ours - others.mean()
    random = rng(seed, "above line")
    x = rates(inside, _resampled(random, inside.shape[1], resamples))  # (resamples, m + 1)
    counts = _resampled(random, outside[0].shape[1], resamples)  # of scenes that all shifts share
    y = [rates(rows, counts) for rows in outside]
    ours, others = _distances(x, y, kinds)  # (resamples,), (resamples, m)
    chance = others[np.arange(resamples), random.integers(len(kinds), size=resamples)]
    low, high = np.quantile(ours - chance, [(1 - level) / 2, (1 + level) / 2])
    return float(value), float(low), float(high)


def band(
    standard: ArrayLike,
    shifted: ArrayLike,
    at: ArrayLike,
    *,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Return low and high (k,) of the networks' line at accuracies `at` (k,), over resamples of both sets of images.

    Args: as for `effective_robustness`.
    """
    random, at = rng(seed, "band of lines"), logit(np.asarray(at, np.float64))
    x, y = (
        logit(rates(correct, _resampled(random, np.shape(correct)[1], resamples)))
        for correct in (np.asarray(standard, bool), np.asarray(shifted, bool))
    )
    intercept, slope = _least_squares(x, y)
    lines = expit(intercept[:, None] + slope[:, None] * at)
    return tuple(np.quantile(lines, [(1 - level) / 2, (1 + level) / 2], axis=0))


def _resampled(random: np.random.Generator, n: int, resamples: int) -> np.ndarray:
    """Return how often each of n images is taken in each resample of n, (resamples, n)."""
    picked = random.integers(n, size=(resamples, n)) + n * np.arange(resamples)[:, None]
    return np.bincount(picked.ravel(), minlength=n * resamples).reshape(resamples, n)


def _above_line(inside: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """Return the last column of outside less the line through the others at the last column of inside, (...,)."""
    x, y = logit(inside), logit(outside)
    intercept, slope = _least_squares(x[..., :-1], y[..., :-1])
    return outside[..., -1] - expit(intercept + slope * x[..., -1])


def _distances(
    inside: np.ndarray, outside: Sequence[np.ndarray], kinds: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the distances above lines, means over shifts: of the classifier (...,), and of each network (..., m).

    Args:
        inside, outside: accuracies (..., m + 1) of the networks and, last, of the classifier. kinds: (m,).
    """

    def mean(columns: Sequence[int] | slice) -> np.ndarray:
        return np.mean([_above_line(inside[..., columns], rows[..., columns]) for rows in outside], axis=0)

    others = [mean([*np.flatnonzero(kinds != kind), m]) for m, kind in enumerate(kinds)]
    return mean(slice(None)), np.stack(others, axis=-1)


def _least_squares(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return intercept and slope (...) over the last axis; a resample in which all x are alike gives slope 0."""
    centred = x - x.mean(-1, keepdims=True)
    spread = (centred**2).sum(-1)
    slope = np.divide((centred * y).sum(-1), spread, out=np.zeros_like(spread), where=spread > 0)
    return y.mean(-1) - slope * x.mean(-1), slope
