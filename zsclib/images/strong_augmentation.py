"""The strong augmentation that DataDream (Kim et al. 2024) tunes its classifier under, image by image, and a weak one.

Its operations, chances and strengths are those of the authors' code, in its order: RandAugment, random resized crop,
mirroring, colour jitter, greyscale, blur, solarising. What would change a set's classes is switched off by the caller.
The weak one is its crop and its mirroring alone: of 32 pixels the rest leaves too little to learn fine classes by.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from zsclib.images.randaugment import AFFINE, OPERATIONS, randaugment

COLOURLESS = ("identity", "rotate", "contrast", "brightness", "sharpness", *AFFINE)  # they leave hues as they are
AUTHORS_SIDE = 224  # pixels, for which the radius of the blur is meant


def strong_augmentation(
    image: np.ndarray, side: int, random: np.random.Generator, crop: float = 0.25, flip: bool = True, hue: bool = True
) -> np.ndarray:
    """Return one image as a training step meets it, augmented.

    Args:
        image: uint8 (h, w, 3).
        side: of the result, in pixels.
        random: the image's own.
        crop: smallest share of the area that is cut out and enlarged; 1 is the centre square, uncut.
        flip: whether half the images are mirrored, left to right.
        hue: whether colours may change: hue, saturation, greyscale, negatives, and RandAugment of single channels.

    Returns:
        uint8 (side, side, 3).
    """
    x = Image.fromarray(randaugment(image, 2, random, OPERATIONS if hue else COLOURLESS))
    x = _cropped(x, side, crop, random)
    if random.random() < 0.5 and flip:
        x = ImageOps.mirror(x)
    if random.random() < 0.8:
        x = _jittered(x, hue, random)
    if random.random() < 0.2 and hue:
        x = ImageOps.grayscale(x).convert("RGB")
    if random.random() < 0.2:
        x = x.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2.0) * side / AUTHORS_SIDE))
    if random.random() < 0.2 and hue:
        x = ImageOps.solarize(x)
    return np.array(x)


def weak_augmentation(
    image: np.ndarray, side: int, random: np.random.Generator, crop: float = 0.25, flip: bool = True
) -> np.ndarray:
    """Return one image, uint8 (side, side, 3), cropped and mirrored as in `strong_augmentation`, and nothing else."""
    x = _cropped(Image.fromarray(image), side, crop, random)
    return np.array(ImageOps.mirror(x) if random.random() < 0.5 and flip else x)


def _cropped(image: Image.Image, side: int, crop: float, random: np.random.Generator) -> Image.Image:
    """Return a box of a random share of the area, place and shape (3:4 to 4:3), as a square of so many pixels."""
    if crop == 1:
        return ImageOps.fit(image, (side, side), Image.Resampling.BICUBIC)
    area = random.uniform(crop, 1) * image.width * image.height
    shape = math.exp(random.uniform(-1, 1) * math.log(4 / 3))
    width, height = min(image.width, math.sqrt(area * shape)), min(image.height, math.sqrt(area / shape))
    left, top = random.random() * (image.width - width), random.random() * (image.height - height)
    box = (left, top, left + width, top + height)
    return image.resize((side, side), Image.Resampling.BICUBIC, box)


def _jittered(image: Image.Image, hue: bool, random: np.random.Generator) -> Image.Image:
    """Return an image of other brightness and contrast (±0.4), saturation (±0.2) and hue (±0.1), in any order."""
    changes = [
        lambda x: ImageEnhance.Brightness(x).enhance(random.uniform(0.6, 1.4)),
        lambda x: ImageEnhance.Contrast(x).enhance(random.uniform(0.6, 1.4)),
    ]
    if hue:
        changes += [
            lambda x: ImageEnhance.Color(x).enhance(random.uniform(0.8, 1.2)),
            lambda x: _turned(x, random.uniform(-0.1, 0.1)),
        ]
    for i in random.permutation(len(changes)):
        image = changes[i](image)
    return image


def _turned(image: Image.Image, turn: float) -> Image.Image:
    """Return an image whose hues are turned by a share of the circle."""
    hues, saturation, value = image.convert("HSV").split()
    hues = hues.point([(i + round(256 * turn)) % 256 for i in range(256)])
    return Image.merge("HSV", (hues, saturation, value)).convert("RGB")
