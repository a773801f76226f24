"""Elimination by a sequential test: a class goes out once it is surely worse than the leader, and an image is
done once one class is left. The paper keeps fixed numbers of classes instead (Li et al., ICCV 2023, algorithm 2).

All classes of an image meet the same noise, so the test is a paired one: on differences of errors to those of the
class that leads. `sequential` returns a `Rule`, as `nested_stages` does: a choice for `classify`, which then
measures no more than the test needs, and for `as_staged`, which replays it on an exhaustive matrix.

    errors = classify(generator, images, prompts, nested(32)).errors                     # (n, C, 32)
    predictions, evaluations = staged_prediction(errors, sequential(32, alpha=0.05))
    predictions                                                                          # (n,)
    classify(generator, images, prompts, sequential(32, alpha=0.05)).prediction          # (n,), the same

What is tested is whether the exhaustive decision, over all K timesteps, could still be the class in doubt:

- timesteps are a systematic sample of all, so what neighbouring ones have in common is no error: the variance
  comes from differences of neighbours (von Neumann 1941; Cochran 1977, section 8.11);
- K timesteps are all there are, so the uncertainty shrinks by 1 - m/K after m of them (Cochran 1977, section 2.6);
- after few timesteps the variances of an image's other rivals steady that of each (Smyth 2004, eq. 3 to 5);
- the error rate alpha is divided by the number of rivals left, and spent over the looks by one constant nominal
  significance that accounts for their overlap (Pocock 1977; Armitage, McPherson & Rowe 1969).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import stats

from zsclib.papers.diffusion_classifier.error_matrix import nested_timesteps


@dataclass(frozen=True, kw_only=True)
class Sequential:
    """A `Rule` that tests at looks after until[j] timesteps; made by `sequential`."""

    t: tuple[int, ...]  # (K,) timesteps, in the order of evaluation
    until: tuple[int, ...]  # looks, rising to K; the last one decides
    alpha: float  # probability, at most, that an image is not given its exhaustive decision
    lent: float  # degrees of freedom lent by the variances of an image's other rivals

    def survivors(self, errors: np.ndarray, alive: np.ndarray, stage: int) -> np.ndarray:
        """Return the classes to be measured further, bool (n, C): none of an image that is decided."""
        m, K = errors.shape[2], self.until[-1]
        if m == K:
            return np.zeros_like(alive)
        d, rivals = to_leader(errors, alive)
        R = rivals.sum(1, keepdims=True)
        in_order = d[:, :, np.argsort(self.t[:m])]
        variance = np.where(rivals, (np.diff(in_order, axis=2) ** 2).sum(2) / (2 * (m - 1)), 0)
        own, lent = 2 * (m - 1) ** 2 / (3 * m - 4), np.where(R > 1, self.lent, 0)
        others = (variance.sum(1, keepdims=True) - variance) / np.maximum(R - 1, 1)
        variance = (own * variance + lent * others) / (own + lent)
        error = np.sqrt(variance / m * (1 - m / K))
        p = nominal_level(self.alpha / np.maximum(R, 1), self.until)
        alive = alive & ~(rivals & (d.mean(2) > stats.t.isf(p, own + lent) * error))
        return alive & (alive.sum(1, keepdims=True) > 1)


@dataclass(frozen=True)
class ClarkJaini:
    """A `Rule`: a plain two-sided paired t-test at every look, not adjusted for their number; made by `clark_jaini`."""

    t: tuple[int, ...]
    until: tuple[int, ...]
    p: float

    def survivors(self, errors: np.ndarray, alive: np.ndarray, stage: int) -> np.ndarray:
        """Return the classes to be measured further, bool (n, C): none of an image that is decided."""
        d, rivals = to_leader(errors, alive)
        error = np.where(rivals, d.std(2, ddof=1), 0) / np.sqrt(errors.shape[2])
        alive = alive & ~(rivals & (d.mean(2) > stats.t.isf(self.p / 2, errors.shape[2] - 1) * error))
        return alive & (alive.sum(1, keepdims=True) > 1)


def sequential(
    K: int,
    alpha: float = 0.1,
    looks: Sequence[int] | None = None,
    minimum: int = 3,
    lent: float = 12.0,
    T: int = 1000,
) -> Sequential:
    """Return a sequential test over the timesteps of `nested(K, T)`.

    Args:
        K: timesteps at most. alpha: probability, at most, with which an image is not given the class that all K
            timesteps would have given it; in (0, 0.5].
        looks: rising numbers of timesteps after which to test; default: from `minimum`, each about sqrt(2) times
            the last, below 0.75 K.
        minimum: timesteps at least, 2 or more.
        lent: 0 for a variance from each rival's own differences alone.

    Raises:
        ValueError: a number is out of its range, or the looks do not rise within minimum..K-1.
    """
    if not 0 < alpha <= 0.5 or lent < 0 or not 2 <= minimum < K:
        raise ValueError(
            f"sequential: need 0 < alpha <= 0.5, lent >= 0 and 2 <= minimum < K, got alpha = {alpha}, "
            f"lent = {lent}, minimum = {minimum}, K = {K}"
        )
    if looks is None:
        steps = [round(minimum * 2 ** (j / 2)) for j in range(2 * K.bit_length())]
        looks = [m for m in dict.fromkeys(steps) if m == minimum or m < 0.75 * K]
    looks = tuple(looks)
    if not looks or list(looks) != sorted(set(looks)) or looks[0] < minimum or looks[-1] >= K:
        raise ValueError(f"sequential: looks must rise within {minimum}..{K - 1}, got {looks}")
    return Sequential(t=tuple(nested_timesteps(K, T).tolist()), until=(*looks, K), alpha=alpha, lent=lent)


def clark_jaini(K: int, minimum: int = 20, p: float = 2e-3, T: int = 1000) -> ClarkJaini:
    """Return the rule of Clark & Jaini (NeurIPS 2023): after `minimum` timesteps a test at every one, p < 2e-3.

    Their weights over timesteps are left out, so that rules differ in their tests alone. Arguments as `sequential`.
    """
    if not 0 < p < 1 or not 2 <= minimum <= K:
        raise ValueError(f"clark_jaini: need 0 < p < 1 and 2 <= minimum <= K, got {p}, {minimum} and K = {K}")
    return ClarkJaini(tuple(nested_timesteps(K, T).tolist()), tuple(range(minimum, K + 1)), p)


def to_leader(errors: np.ndarray, alive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the differences of errors (n, C, m) to the class of lowest mean, and who is its rival (n, C)."""
    leader = np.where(alive, errors.mean(2, dtype=np.float64), np.inf).argmin(1)[:, None]
    best = np.take_along_axis(errors, leader[:, :, None], axis=1).astype(np.float64)
    return errors - best, alive & (np.arange(alive.shape[1]) != leader)


def nominal_level(alpha: np.ndarray, until: tuple[int, ...]) -> np.ndarray:
    """Return the one-sided significance to test at, at every look, so that all looks together err with rate alpha."""
    rate, level = _boundaries(until)
    return np.exp(np.interp(np.log(alpha), rate, level))


@cache
def _boundaries(until: tuple[int, ...], cells: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Return (log rate, log nominal level) pairs, rising: how often a normal walk crosses a constant boundary.

    The walk is the standardised distance of the mean after m timesteps from the mean after all K: looks a < b
    correlate as those of a process with independent increments at times m / (K - m). Its density below the
    boundary is carried from look to look by the trapezoid rule (Armitage, McPherson & Rowe 1969).
    """
    time = np.array([m / (until[-1] - m) for m in until[:-1]])
    crossed, boundaries = [], np.linspace(6, 0, 25)
    for boundary in boundaries:
        x, h = np.linspace(-8, boundary, cells + 1, retstep=True)
        weight = np.full(cells + 1, h)
        weight[[0, -1]] /= 2
        density = stats.norm.pdf(x)
        for rho in np.sqrt(time[:-1] / time[1:]):
            step = np.exp(-((x[:, None] - rho * x) ** 2) / (2 * (1 - rho**2))) / np.sqrt(
                2 * np.pi * (1 - rho**2)
            )
            density = step @ (density * weight)
        crossed.append(1 - density @ weight)
    return np.log(crossed), stats.norm.logsf(boundaries)
