"""RandAugment (Cubuk et al. 2020): a few operations chosen at random, all of one strength, change an image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

MAGNITUDE = 9 / 30  # the paper's 9 of 30, of the largest strength of each operation
ENHANCERS = {
    "colour": ImageEnhance.Color,
    "contrast": ImageEnhance.Contrast,
    "brightness": ImageEnhance.Brightness,
    "sharpness": ImageEnhance.Sharpness,
}
AFFINE = {  # the strength m, signed, as the six numbers (a, b, c, d, e, f) of Pillow's transform; c and f in widths
    "shear x": lambda m: (1, 0.3 * m, 0, 0, 1, 0),
    "shear y": lambda m: (1, 0, 0, 0.3 * m, 1, 0),
    "translate x": lambda m: (1, 0, 0.45 * m, 0, 1, 0),
    "translate y": lambda m: (1, 0, 0, 0, 1, 0.45 * m),
}
OPERATIONS = (
    *("identity", "autocontrast", "equalize", "rotate", "solarize", "posterize"),
    *ENHANCERS,
    *AFFINE,
)


def randaugment(
    image: np.ndarray, operations: int, random: np.random.Generator, names: Sequence[str] = OPERATIONS
) -> np.ndarray:
    """Return an image after some operations of RandAugment, each in either direction.

    Args:
        image: uint8 (h, w, 3).
        operations: how many; the paper takes 2 on ImageNet.
        random: the image's own; it chooses operations and directions.
        names: the operations to choose from.

    Returns:
        uint8 (h, w, 3).
    """
    changed = Image.fromarray(image)
    for _ in range(operations):
        name = names[int(random.integers(len(names)))]
        strength = MAGNITUDE if random.random() < 0.5 else -MAGNITUDE
        changed = apply(changed, name, strength)
    return np.asarray(changed)


def apply(image: Image.Image, name: str, strength: float) -> Image.Image:
    """Return an image after one operation of `OPERATIONS`, of a strength in [-1, 1]."""
    if name == "autocontrast":
        return ImageOps.autocontrast(image)
    if name == "equalize":
        return ImageOps.equalize(image)
    if name == "rotate":
        return image.rotate(30 * strength, Image.Resampling.BILINEAR, fillcolor=(128, 128, 128))
    if name == "solarize":
        return ImageOps.solarize(image, round(256 * (1 - abs(strength))))
    if name == "posterize":
        return ImageOps.posterize(image, 8 - round(4 * abs(strength)))
    if name in ENHANCERS:
        return ENHANCERS[name](image).enhance(1 + 0.9 * strength)
    if name in AFFINE:
        a, b, c, d, e, f = AFFINE[name](strength)
        width, height = image.size
        numbers = (a, b, c * width, d, e, f * height)
        how = Image.Transform.AFFINE, numbers, Image.Resampling.BILINEAR
        return image.transform(image.size, *how, fillcolor=(128, 128, 128))
    return image
