"""Intervals and tests for accuracies and paired differences: every number comes with its spread."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import special, stats

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


class Effect(NamedTuple):
    """A mean difference before a level is chosen: (centre − true mean) / se follows Student's t with df."""

    value: float
    centre: float  # of the interval; not the value where Bonett & Price add pairs
    se: float
    df: float
    n: int  # images
    bound: float = math.inf  # no true mean lies beyond ±bound

    def interval(self, level: float = 0.95) -> Estimate:
        """Return the value with its interval of that level."""
        half = float(special.stdtrit(self.df, 0.5 + level / 2)) * self.se
        low, high = max(self.centre - half, -self.bound), min(self.centre + half, self.bound)
        return Estimate(self.value, low, high, self.n)

    def exceeds(self, threshold: float) -> float:
        """Return the one-sided p value of the claim that the true mean is above `threshold`; 0.5 without any spread."""
        return float(special.stdtr(self.df, (threshold - self.centre) / self.se)) if self.se > 0 else 0.5


class Heterogeneity(NamedTuple):
    """How far effects of several sets differ beyond chance."""

    q: float  # Cochran's Q (Cochran 1954)
    p: float  # of Q, chi-squared with one degree of freedom less than sets: rough where few seeds give the variances
    i2: float  # share of the spread that is no chance, 0 to 1 (Higgins & Thompson 2002)

    def __str__(self) -> str:
        return f"Q = {self.q:.1f}, {p_text(self.p)}, I² = {100 * self.i2:.0f} %"


def paired_difference(correct_a: ArrayLike, correct_b: ArrayLike, level: float = 0.95) -> Estimate:
    """Return accuracy(a) − accuracy(b) on the same items, adjusted Wald interval (Bonett & Price 2012).

    One pair is added to each kind of disagreement, so the interval has a width even where a and b agree on
    every item, and a small n can never pass for proof of equality.

    Args:
        correct_a: boolean (n,), whether a is correct on each item.
        correct_b: boolean (n,), the same items in the same order.
        level: confidence level.
    """
    a = _booleans(correct_a, "paired_difference: correct_a")
    b = _booleans(correct_b, "paired_difference: correct_b")
    if len(a) != len(b):
        raise ValueError(f"paired_difference: need the same items for both, got {len(a)} and {len(b)}")
    return _adjusted_wald(a.astype(np.float64) - b).interval(level)


def interval(differences: ArrayLike, level: float = 0.95) -> Estimate:
    """Return the mean paired difference with its interval (see `effect`)."""
    return effect(differences).interval(level)


def effect(differences: ArrayLike) -> Effect:
    """Return the mean of paired differences with its standard error and degrees of freedom.

    - (images,), all of them −1, 0 or 1 (one run of two classifiers): adjusted Wald (Bonett & Price 2012).
    - (images,), other numbers: Student's t.
    - (seeds, images): images and seeds are crossed random effects (`crossed`). One row is as (images,), and so are
      several that are −1, 0 or 1 throughout.

    Args:
        differences: (images,) or (seeds, images), of one set; row s of every arm shares its images with row s' .

    Raises:
        ValueError: another shape, fewer than two images, NaN or infinity.
    """
    d = np.asarray(differences, dtype=np.float64)
    if d.ndim not in (1, 2) or d.shape[-1] < 2 or d.shape[0] < 1 or not np.isfinite(d).all():
        what = "NaN or infinity" if d.size and not np.isfinite(d).all() else f"shape {d.shape}"
        raise ValueError(
            f"effect: differences must be finite, (images,) or (seeds, images) with 2 images or more, got {what}"
        )
    d = d[0] if d.ndim == 2 and len(d) == 1 else d
    counts = bool(np.isin(d, (-1, 0, 1)).all())
    if d.ndim == 2:
        if counts and np.ptp(d) == 0:  # no spread to go by: as one run, whose interval has a width
            return _adjusted_wald(d[0])
        mean, variance, df = (float(x) for x in crossed(d))
        variance = variance if np.ptp(d) > 0 else 0.0  # and no rounding error of it
        return Effect(mean, mean, math.sqrt(variance), df, d.shape[1], 1.0 if counts else math.inf)
    if counts:
        return _adjusted_wald(d)
    mean, n = float(d.mean()), len(d)
    return Effect(mean, mean, float(d.std(ddof=1)) / math.sqrt(n) if np.ptp(d) > 0 else 0.0, n - 1, n)


def mean_correlation(ρ: ArrayLike, step: float, level: float = 0.95) -> Estimate:
    """Return the mean of rank correlations of several seeds, with Student's interval, cut off at ±1.

    Their standard deviation counts as no less than that of rounding, step / √12: few ranks take few values, and seeds
    that hit the same one have not shown that there is no spread.

    Args:
        ρ: (seeds,), two or more. step: between the values that a correlation of so many ranks can take.
    """
    ρ = np.asarray(ρ, np.float64)
    se = max(float(ρ.std(ddof=1)), step / math.sqrt(12)) / math.sqrt(len(ρ))
    return Effect(float(ρ.mean()), float(ρ.mean()), se, len(ρ) - 1, len(ρ), 1.0).interval(level)


def crossed(d: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return mean, its variance and degrees of freedom, seeds and images being crossed random effects.

    d[s, i] = mean + seed[s] + image[i] + rest[s, i]; by the mean squares of the two-way table (S seeds, n images;
    Searle, Casella & McCulloch 1992, ch. 4), S n Var(mean) = MS(seeds) + MS(images) − MS(rest). The component of
    images, (MS(images) − MS(rest)) / S, is cut off at zero; that of seeds is not, because few seeds often show less
    spread than there is. Satterthwaite (1946) has 1/df = share(seeds)² / (S − 1) + share(images)² / (n − 1), shares
    of the variance; here they stand unsquared, which gives fewer degrees of freedom. Squared, 95 % intervals of three
    seeds hold the truth in 91 to 95 % of studies, unsquared in 93.5 to 96.5 %; two seeds are too few for either (90 %
    where seeds differ much). `bench/interval_coverage.py` has the table.

    Args:
        d: (..., S, n), any number of studies at once; S and n of 2 or more.

    Returns:
        Three arrays (...).
    """
    S, n = d.shape[-2:]
    by_seed, by_image = d.mean(-1, dtype=np.float64), d.mean(-2, dtype=np.float64)
    ms_seeds, ms_images = n * by_seed.var(-1, ddof=1), S * by_image.var(-1, ddof=1)
    total = S * n * d.var((-2, -1), dtype=np.float64)
    ms_rest = (total - (S - 1) * ms_seeds - (n - 1) * ms_images) / ((S - 1) * (n - 1))
    images = np.maximum(ms_images - ms_rest, 0)
    both = ms_seeds + images
    share = np.divide(ms_seeds, both, out=np.ones_like(both), where=both > 0)
    both = np.where(
        both > 0, both, np.maximum(ms_rest, 0)
    )  # neither seeds nor images differ: chance alone is left
    return by_seed.mean(-1), both / (S * n), 1 / (share / (S - 1) + (1 - share) / (n - 1))


def mean_effect(effects: Sequence[Effect]) -> Effect:
    """Return the equally weighted mean of the effects of independent sets; of one set, its effect.

    The variances add up, over the square of the number of sets; degrees of freedom by Satterthwaite (1946).
    """
    if not effects:
        raise ValueError("mean_effect: no effects")
    k, variances = len(effects), [e.se**2 for e in effects]
    total = sum(variances)
    parts = sum(v**2 / e.df for v, e in zip(variances, effects, strict=True))
    return Effect(
        sum(e.value for e in effects) / k,
        sum(e.centre for e in effects) / k,
        math.sqrt(total) / k,
        total**2 / parts if parts > 0 else math.inf,
        sum(e.n for e in effects),
        max(e.bound for e in effects),
    )


def heterogeneity(effects: Sequence[Effect]) -> Heterogeneity | None:
    """Return Cochran's Q and I² of effects weighted by 1 / se²; None for less than two or one without spread."""
    if len(effects) < 2 or any(e.se <= 0 for e in effects):
        return None
    x, w = np.array([e.centre for e in effects]), np.array([e.se**-2 for e in effects])
    q, df = float((w * (x - (w * x).sum() / w.sum()) ** 2).sum()), len(effects) - 1
    return Heterogeneity(q, float(stats.chi2.sf(q, df)), max(0.0, 1 - df / q) if q > 0 else 0.0)


def holm(p: Sequence[float]) -> list[float]:
    """Return p values adjusted for their number, in the order they came in (Holm 1979)."""
    values = np.asarray(p, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    adjusted = np.empty(len(values))
    adjusted[order] = np.minimum(np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)), 1)
    return adjusted.tolist()


def p_text(p: float) -> str:
    """Return a p value as text: "p = 0.03", "p < 0.001"."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def expected_half_width(
    n: int,
    seeds: int = 1,
    sets: int = 1,
    *,
    discordance: float = 0.2,
    seed_sd: float = 0.02,
    shared: float = 0.5,
    level: float = 0.95,
) -> float:
    """Return how far the interval of a mean difference of correctness will reach to either side, before any run.

    The variance of one paired difference is about the share of discordant pairs (Connor 1987, for a small effect).
    Over seeds, the share `shared` of it belongs to the image and comes back with every seed; the rest averages out.

    Args:
        n: images per set. seeds: per arm. sets: as many independent sets, equally weighted.
        discordance: the share of images on which exactly one of the two arms is correct; 0.2 is what two classifiers
            at 75 % have whose correctness correlates by 0.5.
        seed_sd: standard deviation over seeds of the difference of accuracies; counts from two seeds on.
        shared: intraclass correlation of an image's differences over seeds.
        level: confidence level.
    """
    if n < 2 or seeds < 1 or sets < 1 or not 0 < discordance <= 1:
        raise ValueError(
            f"expected_half_width: need n ≥ 2, seeds and sets ≥ 1 and 0 < discordance ≤ 1, got n={n}, seeds={seeds}, "
            f"sets={sets}, discordance={discordance}"
        )
    if seeds == 1:
        variance, df = discordance / n, math.inf
    else:
        of_seeds = seed_sd**2 / seeds + (1 - shared) * discordance / (seeds * n)
        variance = of_seeds + shared * discordance / n
        df = 1 / (of_seeds / variance / (seeds - 1) + (1 - of_seeds / variance) / (n - 1))
    return float(special.stdtrit(df * sets, 0.5 + level / 2)) * math.sqrt(variance / sets)


def _adjusted_wald(d: np.ndarray) -> Effect:
    n, only_a, only_b = len(d), int((d == 1).sum()), int((d == -1).sum())
    p_a, p_b = (only_a + 1) / (n + 2), (only_b + 1) / (n + 2)
    se = math.sqrt((p_a + p_b - (p_a - p_b) ** 2) / (n + 2))
    return Effect((only_a - only_b) / n, p_a - p_b, se, math.inf, n, 1.0)


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
    never 0 for a finite n: `ece_by_chance` averages it over 200 simulations in which every confidence is true.

    Args:
        probabilities: (n, C), rows sum to 1; the largest is the confidence. labels: int (n,).
        bins: number of bins of [0, 1]. level: of Wilson's intervals of accuracy. seed: of the simulations.

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

    simulated = rng(seed, "calibration").random((200, len(p))) < confidence
    reliability = [
        Bin(
            b / bins,
            (b + 1) / bins,
            float(confidence[which == b].mean()),
            accuracy(correct[which == b], level),
        )
        for b in np.unique(which).tolist()
    ]
    return Calibration(
        float(error(correct)), float(np.mean([error(row) for row in simulated])), tuple(reliability)
    )


def _count(value: int, name: str) -> int:
    if isinstance(value, bool) or int(value) != value or value < 0:
        raise ValueError(f"{name} must be a count (an integer ≥ 0), got {value!r}")
    return int(value)


def _booleans(values: ArrayLike, name: str) -> np.ndarray:
    array = np.asarray(values)
    if array.ndim != 1 or len(array) == 0 or not np.isin(array, (0, 1)).all():
        raise ValueError(f"{name} must be a non-empty boolean vector, got {array.dtype} {array.shape}")
    return array.astype(bool)
