"""Elimination by a sequential test: a class goes out once it is surely worse than the leader, and an image is
done once one class is left.

All classes of an image meet the same noise, so the test is a paired one: on the differences of a class's errors
to those of the class that leads. After looks at growing numbers of the nested noise levels, a class goes out
whose mean difference is too many standard errors above zero. `Sequential` is a `Rule`, as `Schedule` is: a
choice for `classify`, which then measures no more than it needs, and for `as_staged`, which replays it on an
exhaustive matrix.

    result = classify(generator, images, prompts, sequential(128))
    said, passes = staged_prediction(exhaustive_errors, sequential(128))
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from zsclib.papers.error_matrix import timesteps


@dataclass(frozen=True)
class Sequential:
    """A `Rule`: after until[j] levels, leave out classes worse than the leader at the one-sided level p[j]."""

    t: tuple[int, ...]  # (K,) noise levels, in the order of evaluation
    until: tuple[int, ...]  # looks: numbers of levels, rising to K
    p: tuple[float, ...]  # error spent on one comparison at each look; the last look only decides
    pooled: float = 0.0  # degrees of freedom lent by the image's other classes (Smyth 2004, eq. 3 to 5)

    def survivors(self, errors: np.ndarray, alive: np.ndarray, stage: int) -> np.ndarray:
        """Return the classes to be measured further, bool (n, C): none of an image that is decided."""
        m = errors.shape[2]
        mean = np.where(alive, errors.mean(2, dtype=np.float64), np.inf)
        leader = mean.argmin(1)[:, None]
        rivals = alive & (np.arange(alive.shape[1]) != leader)
        difference = errors - np.take_along_axis(errors, leader[:, :, None], axis=1).astype(np.float64)
        variance = np.where(rivals, difference.var(2, ddof=1), 0) if m > 1 else np.full(alive.shape, np.inf)
        own, lent = m - 1, self.pooled
        typical = variance.sum(1, keepdims=True) / np.maximum(rivals.sum(1, keepdims=True), 1)
        if lent:
            variance = (own * variance + lent * typical) / (own + lent)
        with np.errstate(divide="ignore", invalid="ignore"):
            statistic = difference.mean(2) / np.sqrt(variance / m)
        out = rivals & (statistic > stats.t.isf(self.p[stage], own + lent))
        alive = alive & ~out
        return alive & (alive.sum(1, keepdims=True) > 1)


def sequential(
    K: int,
    alpha: float = 0.05,
    looks: Sequence[int] = (),
    classes: int = 10,
    pooled: float = 4.0,
    T: int = 1000,
) -> Sequential:
    looks = tuple(
        look
        for look in (3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112)
        if look < K
    )
    p = alpha / len(looks)
    return Sequential(tuple(timesteps(K, T).tolist()), (*looks, K), (p,) * (len(looks) + 1), pooled)


def clark_jaini(K: int, minimum: int = 20, p: float = 2e-3, T: int = 1000) -> Sequential:
    """Return Clark & Jaini's rule (NeurIPS 2023): a paired t-test at every level from `minimum` on, p < 2e-3."""
    until = tuple(range(minimum, K + 1))
    return Sequential(tuple(timesteps(K, T).tolist()), until, (p / 2,) * len(until))
