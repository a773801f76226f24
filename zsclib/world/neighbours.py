"""How near an image is to the nearest one of the pool, beside how near the pool's images are to one another.

    distance, row = nearest(images, pool.images)            # float32 (n,), int64 (n,)
    near_copies(distance)                                   # bool (n,)
    apart(datasets.load("objects-hard", n=60), pool)        # a row of a table

A near-copy is an image moved by a pixel at most and made a little brighter or darker, as the pool's own are; what is
no near-copy may still be alike. Equal pixels are the case of distance 0.
"""

from __future__ import annotations

from itertools import product

import numpy as np

from zsclib.checks import check_images
from zsclib.images.image_set import ImageSet
from zsclib.world.pool import Pool

GAIN = (0.85, 1.15)  # by which a near-copy may be brighter; the pool's own are by 0.9 to 1.1
NEAR_COPY = 8.0  # grey values of 255; of 594 near-copies in a pool none was farther from its original than 7.7
AT_ONCE = 256  # images


def nearest(
    images: np.ndarray, reference: np.ndarray, own: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return each image's distance to the nearest of `reference`, and which that is.

    The distance is the root mean square difference of pixels in grey values (0 to 255), without the outermost, at the
    best shift by up to one pixel in each direction and the best gain of `GAIN`.

    Args:
        images: uint8 (n, h, w, 3).
        reference: uint8 (m, h, w, 3).
        own: int64 (n,), the row of `reference` that an image itself is and that does not count; -1: none.

    Returns:
        Distances, float32 (n,), and rows, int64 (n,).

    Raises:
        ValueError: sizes differ, or there is nothing to compare with.
    """
    check_images(images, "nearest")
    check_images(reference, "nearest")
    if images.shape[1:] != reference.shape[1:] or min(images.shape[1:3]) < 3:
        raise ValueError(
            f"nearest: images of {images.shape[1:3]} pixels cannot be compared with {reference.shape[1:3]}"
        )
    if len(reference) < (1 if own is None else 2):
        raise ValueError(f"nearest: {len(reference)} images are too few to look for neighbours among")
    own = np.full(len(images), -1) if own is None else np.asarray(own)
    height, width = images.shape[1] - 2, images.shape[2] - 2
    others = _flat(reference[:, 1:-1, 1:-1])  # (m, d)
    power = (others * others).sum(1)
    distances, rows = [np.empty(0, np.float32)], [np.empty(0, np.int64)]
    for start in range(0, len(images), AT_ONCE):
        part, itself = images[start : start + AT_ONCE], own[start : start + AT_ONCE]
        best = np.full((len(part), len(others)), np.inf, np.float32)
        for down, across in product(range(3), repeat=2):
            x = _flat(part[:, down : down + height, across : across + width])  # (k, d)
            dots = x @ others.T
            gain = np.clip(dots / np.maximum(power, 1), *GAIN)
            np.minimum(best, (x * x).sum(1)[:, None] - gain * (2 * dots - gain * power), out=best)
        known = np.flatnonzero(itself >= 0)
        best[known, itself[known]] = np.inf
        rows.append(best.argmin(1))
        distances.append(np.sqrt(np.maximum(best.min(1), 0) / others.shape[1]))
    return np.concatenate(distances), np.concatenate(rows)


def near_copies(distances: np.ndarray) -> np.ndarray:
    """Return which distances are those of near-copies, bool (n,)."""
    return np.asarray(distances) < NEAR_COPY


def apart(images: ImageSet, pool: Pool) -> dict[str, float | int]:
    """Say how far a set lies from a pool, beside how far the pool's images of the same kind lie from one another.

    Args:
        images: a set of the pocket world, or digits, which are set beside the pool's printed ones.
        pool: compared with as a whole; its own near-copies are left out of the comparison.

    Returns:
        How many images there are and how many are near-copies of a pool image; the smallest and the median distance
        to the nearest pool image; the same two for as many images of the pool itself.
    """
    originals = np.flatnonzero((pool.scenes.parent < 0).to_numpy())
    reference = np.asarray(pool.images[originals])
    kind = images.manifest["kind"].iloc[0] if "kind" in images.manifest else "digit"
    same = np.flatnonzero(pool.scenes.kind.to_numpy()[originals] == kind)[: len(images)]
    if not len(same):
        raise ValueError(f"apart: the pool has no image of the kind {kind!r}")
    to_pool, _ = nearest(images.images, reference)
    within, _ = nearest(reference[same], reference, own=same)
    return {
        "images": len(images), "near-copies": int(near_copies(to_pool).sum()),
        "nearest": float(to_pool.min()), "median": float(np.median(to_pool)),
        "pool: nearest": float(within.min()), "pool: median": float(np.median(within)),
    }  # fmt: skip


def _flat(images: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(images, np.float32).reshape(len(images), -1)
