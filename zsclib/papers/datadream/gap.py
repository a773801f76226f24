"""H9: where adapting the generator brings a class nearer to real images, does that class's accuracy improve?

    narrowing = class_gaps(clip, real, frozen) - class_gaps(clip, real, adapted)         # (C,), of each seed one
    gains = class_accuracy(correct_adapted, labels) - class_accuracy(correct_frozen, labels)   # (seeds, C)
    alignment(np.stack(narrowings), gains)             # rank correlation over classes, with its interval

Classes are what the interval generalises over. The real images that the gap is measured against must not be the test
images: a class whose test images happen to be odd would change both sides at once.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import norm, rankdata

from zsclib.images.image_set import ImageSet
from zsclib.models.clip import Clip
from zsclib.seeds import rng
from zsclib.setmetrics import kernel_distance

FEWEST = 5  # classes; the interval's variance needs more than three
PERMUTATIONS = 9_999


class Alignment(NamedTuple):
    """Spearman's rank correlation of narrowing and gain over classes, with its interval and permutation p value."""

    value: float
    low: float
    high: float
    n: int  # classes
    p: float  # two-sided, of no relation: all ways to pair the gains with the classes are alike


def class_gaps(clip: Clip, real: ImageSet, generated: ImageSet) -> np.ndarray:
    """Return how far generated images of each class are from real ones in CLIP's image space: float64 (C,).

    The distance is the unbiased squared MMD with the kernel (1 + cosine)³ (Binkowski et al. 2018, on unit-length
    features): its expectation does not depend on how many images there are, and it may fall below 0.

    Args:
        clip: whose image features are compared.
        real: images that are neither shots nor test images. generated: of the same classes, two or more of each.

    Raises:
        ValueError: the classes differ, or one has fewer than two images (it is named).
    """
    if real.classes != generated.classes:
        differing = sorted({*real.classes} ^ {*generated.classes}) or list(generated.classes)
        raise ValueError(f"class_gaps: the two sets must have the same classes in one order; to mend: {differing}")
    for what, images in (("real", real), ("generated", generated)):
        counts = np.bincount(images.labels[images.labels >= 0], minlength=len(images.classes))
        if counts.min() < 2:
            name, count = images.classes[counts.argmin()], counts.min()
            raise ValueError(f"class_gaps: needs two {what} images of every class or more, got {count} of {name!r}")
    features = [_directions(clip, images) for images in (real, generated)]
    return np.array([
        kernel_distance(*(x[images.labels == label] for x, images in zip(features, (real, generated), strict=True)))
        for label in range(len(real.classes))
    ])  # fmt: skip


def class_accuracy(correct: ArrayLike, labels: ArrayLike) -> np.ndarray:
    """Return the share of correct images of each class: float64 (..., C).

    Args:
        correct: (..., images). labels: of the test images, 0 to C − 1, (images,).

    Raises:
        ValueError: shapes do not fit, or a class below the highest label has no image.
    """
    correct, labels = np.asarray(correct, np.float64), np.asarray(labels)
    if labels.ndim != 1 or correct.shape[-1:] != labels.shape:
        raise ValueError(
            f"class_accuracy: needs a label for each image, got shapes {correct.shape} and {labels.shape}"
        )
    own = labels == np.arange(labels.max() + 1)[:, None]  # (C, images)
    if not own.any(1).all():
        raise ValueError(f"class_accuracy: no test image of class {int(own.any(1).argmin())}")
    return correct @ (own / own.sum(1, keepdims=True)).T


def alignment(narrowing: ArrayLike, gains: ArrayLike, level: float = 0.95) -> Alignment:
    """Return the rank correlation over classes of how much the gap narrowed with how much accuracy rose.

    Both are averaged over seeds first: classes are the units. The interval is that of Bonett & Wright (2000) for
    Spearman's correlation, on Fisher's scale with variance (1 + ρ² / 2) / (C − 3). At ρ = ±1, where that scale ends,
    the value stands half a step of the statistic inside. Where one side has no spread there is no order: ρ = 0, from
    −1 to 1.

    Args:
        narrowing: gap of the frozen generator's images − gap of the adapted one's, (C,) or (seeds, C).
        gains: accuracy with the adapted generator's images − accuracy with the frozen one's, alike.
        level: confidence level.

    Raises:
        ValueError: shapes differ, fewer than five classes, NaN or infinity.
    """
    x, y = (np.atleast_2d(np.asarray(side, np.float64)) for side in (narrowing, gains))
    if x.shape != y.shape or x.ndim != 2 or x.shape[1] < FEWEST or not np.isfinite([x, y]).all():
        raise ValueError(
            f"alignment: narrowing and gains must be finite and of one shape, (C,) or (seeds, C) with {FEWEST} classes "
            f"or more, got {x.shape} and {y.shape}"
        )
    x, y = x.mean(0).round(12), y.mean(0).round(12)  # what differs by rounding alone is a tie
    n = len(x)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return Alignment(0.0, -1.0, 1.0, n, 1.0)
    a, b = _standard_ranks(x), _standard_ranks(y)
    ρ = float(np.clip(a @ b, -1, 1))
    inside = min(abs(ρ), 1 - 6 / (n * (n**2 - 1))) * np.sign(ρ)
    half = norm.ppf(0.5 + level / 2) * math.sqrt((1 + inside**2 / 2) / (n - 3))
    low, high = (math.tanh(math.atanh(inside) + side * half) for side in (-1, 1))
    order = rng(0, "alignment", n)
    shuffled = np.array([a @ order.permutation(b) for _ in range(PERMUTATIONS)])
    as_extreme = int((np.abs(shuffled) >= abs(ρ) - 1e-9).sum())
    return Alignment(ρ, low, high, n, (1 + as_extreme) / (1 + PERMUTATIONS))


def _directions(clip: Clip, images: ImageSet) -> np.ndarray:
    """Return features of length √d, (n, d): the kernel of `kernel_distance`, (x·y / d + 1)³, then has their cosine."""
    x = clip.encode_images(images.images).cpu().numpy().astype(np.float64)
    return x / np.linalg.norm(x, axis=1, keepdims=True) * math.sqrt(x.shape[1])


def _standard_ranks(values: np.ndarray) -> np.ndarray:
    """Return ranks, ties averaged, with mean 0 and length 1: the inner product of two is Spearman's correlation."""
    ranks = rankdata(values)
    ranks = ranks - ranks.mean()
    return ranks / np.linalg.norm(ranks)
