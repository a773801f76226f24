"""How a set of generated images differs from a set of real ones, and how varied it is by itself.

Every measure is a function of feature matrices (n images, d features), whatever made the features: a CLIP image
tower, a trained network, pixels. A value has a meaning only together with the features and the numbers of images,
so `measure` writes both into its names, and sets should be compared at equal n: Fréchet distance, recall, coverage
and the Vendi score all move with n alone.

    measures = measure(real, fake, "CLIP image")            # of features (40, 8) and (40, 8)
    measures["recall k=3 (CLIP image, 40 real, 40 fake)"]   # from 0 to 1

All is float64 and done in blocks of rows: beside the features, no matrix of more than `BLOCK` or d x d numbers is made.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike

BLOCK = 2**23  # float64 numbers in one block of distances or kernel values: 64 MiB
ROUNDING = 1e-11  # squared distances below this share of the largest squared norm are 0: features are float32
MEASURES = (
    "frechet distance", "kernel distance", "precision k=3", "recall k=3", "density k=5", "coverage k=5",
    "vendi score", "mean pairwise distance",
)  # fmt: skip


def frechet_distance(a: ArrayLike, b: ArrayLike) -> float:
    """Return ``|mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2))``, "FID" (Heusel et al. 2017, eq. 6), n - 1 in S.

    With S_a = F_a' F_a and S_b = F_b' F_b, the trace of the root is the sum of singular values of F_a F_b'. So
    no root of a near-singular matrix is taken and nothing is added to its diagonal: a covariance without full
    rank (fewer images than features) is measured as it is, exact for these sets. It is still a biased
    estimate of the distance between what they were drawn from, the more so the fewer the images.

    Args:
        a, b: features (n, d) and (m, d), n and m at least 2.

    Raises:
        ValueError: shapes do not fit, too few rows, NaN or infinity. So do all functions here.
    """
    a, b = _checked("frechet_distance", a, b, at_least=2)
    mean_a, mean_b = a.mean(0), b.mean(0)
    F_a, F_b = (
        np.linalg.qr(x - mean, mode="r") / np.sqrt(len(x) - 1) for x, mean in ((a, mean_a), (b, mean_b))
    )
    root = np.linalg.svd(F_a @ F_b.T, compute_uv=False).sum()
    squared = np.sum((mean_a - mean_b) ** 2) + np.sum(F_a**2) + np.sum(F_b**2) - 2 * root
    return float(max(squared, 0.0))


def kernel_distance(a: ArrayLike, b: ArrayLike, degree: int = 3) -> float:
    """Return the unbiased squared MMD with the kernel (x'y / d + 1)^degree, "KID" (Binkowski et al. 2018, section 4).

    The estimate is the U-statistic over all images (Gretton et al. 2012, eq. 3), not a mean over subsets; its
    expectation does not depend on n, and it may fall below 0 where the sets hardly differ.

    Args:
        a, b: features (n, d) and (m, d), n and m at least 2.
        degree: of the polynomial, 1 or more.
    """
    a, b = _checked("kernel_distance", a, b, at_least=2)
    if degree < 1:
        raise ValueError(f"kernel_distance: the degree must be 1 or more, got {degree}")
    n, m, d = len(a), len(b), a.shape[1]

    def total(x: np.ndarray, y: np.ndarray) -> float:
        return sum(float(((x[rows] @ y.T / d + 1) ** degree).sum()) for rows in _blocks(len(x), len(y)))

    def others(x: np.ndarray) -> float:
        return total(x, x) - float((((x**2).sum(1) / d + 1) ** degree).sum())

    return others(a) / (n * (n - 1)) + others(b) / (m * (m - 1)) - 2 * total(a, b) / (n * m)


def precision_recall(real: ArrayLike, fake: ArrayLike, k: int = 3) -> tuple[float, float]:
    """Return improved precision and recall (Kynkäänniemi et al. 2019, eqs. 1 and 2).

    Precision is the share of fake images inside the real ones' manifold, the union of balls around them that
    reach to their k-th nearest neighbour; recall is the share of real images inside the fake ones'.

    Args:
        real, fake: features (n, d) and (m, d), n and m greater than k.
        k: the neighbour that gives a ball its radius; an image is no neighbour of itself.
    """
    real, fake = _checked("precision_recall", real, fake)
    _check_k("precision_recall", k, real=len(real), fake=len(fake))
    floor, (real, fake) = _floor(real, fake), _centred(real, fake)
    return _share_inside(fake, real, k, floor), _share_inside(real, fake, k, floor)


def density_coverage(real: ArrayLike, fake: ArrayLike, k: int = 5) -> tuple[float, float]:
    """Return density and coverage (Naeem et al. 2020, section 3).

    Density is the mean number of real balls around a fake image, over k; coverage is the share of real balls with
    a fake image in them. For two sets drawn alike, density is 1 on average, and coverage
    1 - C(n - 1, k) / C(n + m - 1, k), whatever they were drawn from.

    Args:
        real, fake: features (n, d), n greater than k, and (m, d), m at least 1.
        k: the neighbour that gives a real image's ball its radius.
    """
    real, fake = _checked("density_coverage", real, fake)
    _check_k("density_coverage", k, real=len(real))
    floor, (real, fake) = _floor(real, fake), _centred(real, fake)
    radii, inside, covered = _radii(real, k, floor), 0, 0
    for rows in _blocks(len(real), len(fake)):
        hits = _squared_distances(real[rows], fake, floor) <= radii[rows, None] + floor
        inside, covered = inside + int(hits.sum()), covered + int(hits.any(1).sum())
    return inside / (k * len(fake)), covered / len(real)


def vendi_score(features: ArrayLike) -> float:
    """Return the effective number of different images, 1 to min(n, d) (Friedman & Dieng 2023, definition 3.1).

    It is exp of the entropy of the eigenvalues of K / n, K_ij being the cosine of images i and j. With unit-length
    rows X that is X X' / n, whose eigenvalues other than 0 are those of X' X / n.

    Args:
        features: (n, d), no row of zeros.
    """
    (x,) = _checked("vendi_score", features)
    norms = np.linalg.norm(x, axis=1)
    if not norms.all():
        raise ValueError(f"vendi_score: row {int(norms.argmin())} is all zeros, its cosine is not defined")
    x = x / norms[:, None]
    values = np.linalg.eigvalsh((x.T @ x if len(x) > x.shape[1] else x @ x.T) / len(x))
    values = values[values > 0]
    return float(np.exp(-np.sum(values * np.log(values))))


def mean_pairwise_distance(features: ArrayLike) -> float:
    """Return the mean Euclidean distance over all pairs of different rows of features (n, d), n at least 2."""
    (x,) = _checked("mean_pairwise_distance", features, at_least=2)
    floor, (x,) = _floor(x), _centred(x)
    total = sum(
        float(np.sqrt(_squared_distances(x[rows], x, floor)).sum()) for rows in _blocks(len(x), len(x))
    )
    return total / (len(x) * (len(x) - 1))


def measure(real: ArrayLike, fake: ArrayLike, features: str) -> dict[str, float]:
    """Return all measures with their defaults, under names that say the features and the numbers of images.

    Args:
        real, fake: features (n, d) and (m, d), n and m greater than 5.
        features: what made them, such as "pocket-clip image".

    Returns:
        name -> value; the names are those of MEASURES, in that order, each followed by " (features, ...)".
    """
    if not isinstance(features, str) or not features.strip():
        raise ValueError(f"measure: name the features; got {features!r}")
    real, fake = _checked("measure", real, fake, at_least=6)
    both = [
        frechet_distance(real, fake),
        kernel_distance(real, fake),
        *precision_recall(real, fake),
        *density_coverage(real, fake),
    ]
    alone = [vendi_score(fake), mean_pairwise_distance(fake)]
    sizes = [f"{len(real)} real, {len(fake)} fake"] * len(both) + [f"{len(fake)} fake"] * len(alone)
    return {
        f"{name} ({features}, {size})": value
        for name, size, value in zip(MEASURES, sizes, both + alone, strict=True)
    }


def _blocks(n: int, m: int) -> Iterator[slice]:
    """Yield slices of n rows, so that each with m columns makes no more than BLOCK numbers."""
    rows = max(1, BLOCK // m)
    return (slice(start, start + rows) for start in range(0, n, rows))


def _floor(*sets: np.ndarray) -> float:
    """Return the squared distance below which two rows count as one image: rounding alone can make it."""
    return ROUNDING * max(float((x**2).sum(1).max()) for x in sets)


def _squared_distances(a: np.ndarray, b: np.ndarray, floor: float) -> np.ndarray:
    """Return |a_i - b_j|^2, (n, m), by way of |a|^2 + |b|^2 - 2 a'b; what lies below the floor is 0."""
    squared = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * (a @ b.T)
    return np.where(squared < floor, 0.0, squared)


def _radii(x: np.ndarray, k: int, floor: float) -> np.ndarray:
    """Return the squared distance of every row to its k-th nearest other row, (n,)."""
    radii = np.empty(len(x))
    for rows in _blocks(len(x), len(x)):
        squared = _squared_distances(x[rows], x, floor)
        here = np.arange(len(squared))
        squared[here, here + rows.start] = np.inf
        radii[rows] = np.partition(squared, k - 1, axis=1)[:, k - 1]
    return radii


def _share_inside(points: np.ndarray, centres: np.ndarray, k: int, floor: float) -> float:
    """Return the share of points within the radius of at least one centre."""
    reach, inside = _radii(centres, k, floor) + floor, 0
    for rows in _blocks(len(points), len(centres)):
        inside += int((_squared_distances(points[rows], centres, floor) <= reach).any(1).sum())
    return inside / len(points)


def _centred(real: np.ndarray, *others: np.ndarray) -> list[np.ndarray]:
    """Move all sets so that the mean of the first is 0: distances then lose the least to rounding."""
    mean = real.mean(0)
    return [x - mean for x in (real, *others)]


def _check_k(what: str, k: int, **sizes: int) -> None:
    for name, n in sizes.items():
        if not 1 <= k < n:
            raise ValueError(f"{what}: k must be from 1 to {n - 1} with {n} {name} rows, got {k}")


def _checked(what: str, *sets: ArrayLike, at_least: int = 1) -> list[np.ndarray]:
    """Return float64 feature matrices (n, d) of one d, or say which of them cannot be used and why."""
    arrays = [np.asarray(x, dtype=np.float64) for x in sets]
    for i, x in enumerate(arrays):
        if x.ndim != 2 or x.shape[1] == 0:
            raise ValueError(f"{what}: set {i} must be a matrix (images, features), got shape {x.shape}")
        if len(x) < at_least:
            raise ValueError(f"{what}: needs {at_least} or more images, set {i} has {len(x)}")
        if not np.isfinite(x).all():
            row = int(np.flatnonzero(~np.isfinite(x).all(1))[0])
            raise ValueError(f"{what}: set {i} holds NaN or infinity, first in row {row}")
        if x.shape[1] != arrays[0].shape[1]:
            raise ValueError(
                f"{what}: set 0 has {arrays[0].shape[1]} features, set {i} has {x.shape[1]}; both must come "
                "from one feature extractor"
            )
    return arrays
