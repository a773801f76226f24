"""Which images are near-copies of others: alike to CLIP, and pixel by pixel once laid over one another.

A CLIP alone cannot tell: in the pocket world two different red stars are as alike to it as an image and its copy. So
its cosine only screens pairs, and pixels decide: the correlation of two thumbnails at the best of nine shifts by a
pixel, which brightness and contrast, another file format and another size leave near 1.

    originals = traces(clip, images)
    near_copies(originals, originals)                       # (n, 2)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from zsclib.checks import check_images
from zsclib.images.files import resize

if TYPE_CHECKING:  # what is retrieved needs no network
    from zsclib.models.clip import Clip

# Of 279 planted near-duplicates and 1,521 other images of the pocket pool, these limits take all of the former for
# near-copies and no pair of the latter; a cosine of 0.95 by itself misses a tenth and takes in 4 in 10 other images.
SIMILAR, ALIGNED = 0.85, 0.95
SIDE = 32  # pixels of a thumbnail
PAIRS_AT_ONCE = 4096
BLOCK = 2**23  # cosines at once


@dataclass(frozen=True)
class Traces:
    """What images are compared by: CLIP features float32 (n, d), unit length, and thumbnails uint8 (n, 32, 32, 3)."""

    features: np.ndarray
    thumbnails: np.ndarray

    def __post_init__(self) -> None:
        check_images(self.thumbnails, "Traces")
        if self.features.ndim != 2 or len(self.features) != len(self.thumbnails):
            raise ValueError(
                f"Traces: features {self.features.shape} and thumbnails {self.thumbnails.shape} must be of one set"
            )

    def __len__(self) -> int:
        return len(self.features)


def traces(clip: Clip, images: np.ndarray) -> Traces:
    """Return the traces of images, uint8 (n, h, w, 3)."""
    return Traces(clip.encode_images(images).cpu().numpy(), resize(images, SIDE))


def thumbnails(images: Sequence[np.ndarray]) -> np.ndarray:
    """Return uint8 (n, 32, 32, 3) of images of any sizes, uint8 (h, w, 3)."""
    return np.concatenate(
        [np.empty((0, SIDE, SIDE, 3), np.uint8), *(resize(image[None], SIDE) for image in images)]
    )


def near_copies(
    images: Traces, reference: Traces, similar: float = SIMILAR, aligned: float = ALIGNED
) -> np.ndarray:
    """Return the pairs (i, j) of an image and a reference that are near-copies, int64 (p, 2), sorted.

    Args:
        images, reference: features of one width.
        similar: least cosine of CLIP features.
        aligned: least correlation of thumbnails at the best shift.
    """
    rows = max(1, BLOCK // max(1, len(reference)))
    pairs = [np.empty((0, 2), np.int64)]
    for start in range(0, len(images), rows):
        cosines = images.features[start : start + rows] @ reference.features.T
        i, j = np.nonzero(cosines >= similar)
        for first in range(0, len(i), PAIRS_AT_ONCE):
            part = slice(first, first + PAIRS_AT_ONCE)
            a, b = images.thumbnails[start + i[part]], reference.thumbnails[j[part]]
            alike = alignment(a, b) >= aligned
            pairs.append(np.stack([start + i[part][alike], j[part][alike]], axis=1))
    return np.concatenate(pairs)


def alignment(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the correlation of thumbnails of a and b, uint8 (p, 32, 32, 3) each, at the best shift: float32 (p,)."""
    inner, best = _standardised(a[:, 1:-1, 1:-1]), np.full(len(a), -1, np.float32)
    for dy in range(3):
        for dx in range(3):
            shifted = _standardised(b[:, dy : dy + SIDE - 2, dx : dx + SIDE - 2])
            best = np.maximum(best, np.einsum("ij,ij->i", inner, shifted))
    # two images without any structure correlate with nothing: they are copies where they are of one colour
    flat = ~inner.any(1)
    same = np.abs(a.astype(np.int16) - b).reshape(len(a), -1).max(1, initial=0) <= 8
    return np.where(flat, same.astype(np.float32), best)


def _standardised(x: np.ndarray) -> np.ndarray:
    x = x.reshape(len(x), -1).astype(np.float32)
    x -= x.mean(1, keepdims=True)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1)
