"""What a pool is searched by: a unit vector for each class, from its prompts, from images of it, or from both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from zsclib.images.image_set import ImageSet

if TYPE_CHECKING:  # what is retrieved needs no network
    from zsclib.models.clip import Clip


def text_queries(
    clip: Clip, classes: Sequence[str], templates: Sequence[str] = ("a photo of {}",)
) -> np.ndarray:
    """Return the mean direction of each class's prompts, float32 (C, d), unit length.

    Args:
        classes: class names, all different.
        templates: one or more sentences with {} for the name.
    """
    return clip.zero_shot(classes, templates).class_embeddings.cpu().numpy()


def image_queries(clip: Clip, images: ImageSet) -> np.ndarray:
    """Return the mean direction of each class's images, float32 (C, d), unit length.

    Raises:
        ValueError: a class without images.
    """
    features = clip.encode_images(images.images).cpu().numpy()
    counts = np.bincount(images.labels[images.labels >= 0], minlength=len(images.classes))
    if lacking := [name for name, count in zip(images.classes, counts, strict=True) if not count]:
        raise ValueError(f"image_queries: no images of {', '.join(lacking)}; give one or more of every class")
    return _unit(np.stack([features[images.labels == label].mean(0) for label in range(len(images.classes))]))


def mixed_queries(text: np.ndarray, images: np.ndarray, share: float = 0.5) -> np.ndarray:
    """Return share · text + (1 − share) · images, float32 (C, d), unit length.

    Args:
        text, images: queries of the same classes, float32 (C, d), unit length.
        share: of the text, from 0 to 1.

    Raises:
        ValueError: shapes differ, or a share outside [0, 1].
    """
    if text.shape != images.shape:
        raise ValueError(
            f"mixed_queries: {text.shape} text queries and {images.shape} image queries; give equal shapes"
        )
    if not 0 <= share <= 1:
        raise ValueError(f"mixed_queries: the share of the text must be from 0 to 1, got {share}")
    return _unit(share * text + (1 - share) * images)


def _unit(x: np.ndarray) -> np.ndarray:
    return (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)).astype(np.float32)
