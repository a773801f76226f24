"""What a training step is made of: the recipe, and the learning rate, batch and augmentation it gives at every step.

All are functions of (seed, step) alone: sets of any size get the same number of steps of the same size, so arms
differ in their images only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from zsclib.images.randaugment import randaugment
from zsclib.seeds import rng

MEAN = (0.485, 0.456, 0.406)  # of ImageNet, RGB in [0, 1]; the convention of all five networks
STANDARD_DEVIATION = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is trained; one recipe serves all architectures and all arms of a comparison.

    Args:
        steps: of the optimiser; equal for equal effort, whatever the size of a set.
        batch: images a step.
        learning_rate: of AdamW (Loshchilov & Hutter 2019) at its peak; it rises linearly, then falls as a cosine to 0.
            4e-3 was chosen among 1e-3 to 16e-3 on validation images of `objects`: attention learns best at less,
            BatchNorm at more.
        warmup: share of the steps in which the learning rate rises.
        weight_decay: of matrices and kernels; biases and normalisation have none.
        label_smoothing: share of the target spread evenly over the classes.
        max_gradient_norm: a longer gradient is made as short.
        flip: whether images are mirrored, left to right, half the time; False for digits and letters.
        shift: images are moved by up to so many pixels, their edges repeated.
        crop: smallest side of the random crop that is enlarged to the whole image, as a share; 1 is no cropping.
        checkpoints: how often, evenly spaced and at the end, the network is judged on held-out images.
    """

    steps: int = 150
    batch: int = 32
    learning_rate: float = 4e-3
    warmup: float = 0.2
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    max_gradient_norm: float = 1.0
    flip: bool = True
    shift: int = 3
    crop: float = 1.0
    checkpoints: int = 4

    def __post_init__(self) -> None:
        for name, low in (("steps", 1), ("batch", 1), ("shift", 0), ("checkpoints", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < low:
                raise ValueError(f"Recipe: {name} must be an integer of at least {low}, got {value!r}")
        for name, allowed, ok in (
            ("learning_rate", "above 0", self.learning_rate > 0),
            ("max_gradient_norm", "above 0", self.max_gradient_norm > 0),
            ("warmup", "in [0, 1)", 0 <= self.warmup < 1),
            ("weight_decay", "at least 0", self.weight_decay >= 0),
            ("label_smoothing", "in [0, 1)", 0 <= self.label_smoothing < 1),
            ("crop", "in (0, 1]", 0 < self.crop <= 1),
        ):
            if not ok:
                raise ValueError(f"Recipe: {name} must be {allowed}, got {getattr(self, name)!r}")


def learning_rate_at(step: int, recipe: Recipe) -> float:
    """Return the learning rate of a 0-based step: linear warm-up, then half a cosine to 0."""
    warm = recipe.warmup * recipe.steps
    if step + 1 < warm:
        return recipe.learning_rate * (step + 1) / warm
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warm + 1) / (recipe.steps - warm + 1)))


def batch_indices(seed: int, step: int, batch: int, n: int) -> np.ndarray:
    """Return the indices int64 (batch,) of a step: n inputs in a new order every epoch, nothing left over."""
    return _in_epochs(seed, "order", np.arange(step * batch, (step + 1) * batch), n)


def mixed_indices(seed: int, step: int, batch: int, sizes: tuple[int, int], share: float) -> np.ndarray:
    """Return the indices int64 (batch,) of a step on real and extra inputs, mixed at a fixed share.

    Each kind comes in a new order every epoch of its own, nothing left over. After k steps, share · batch · k inputs
    were extra ones, rounded down: every batch has the same number of them where share · batch is a whole number, and
    otherwise numbers that differ by one at most. The real ones follow one another as in `batch_indices`, which this
    is at share 0.

    Args:
        seed: of the run. step: counted from 0.
        batch: inputs a step.
        sizes: numbers of real and of extra inputs; indices of the extra ones follow those of the real ones.
        share: of extra inputs in a batch, from 0 to 1.

    Raises:
        ValueError: a share outside [0, 1], or a kind that has a share and no input.
    """
    real, extra = sizes
    if not 0 <= share <= 1 or (share < 1 and real < 1) or (share > 0 and extra < 1):
        raise ValueError(
            f"mixed_indices: a share of extra inputs in [0, 1] and inputs of each kind that has a share; got the "
            f"share {share}, {real} real and {extra} extra inputs"
        )
    before, after = (math.floor(share * batch * k + 1e-9) for k in (step, step + 1))
    position = np.arange(step * batch - before, (step + 1) * batch - after)
    parts = [_in_epochs(seed, "order", position, real)] if len(position) else []
    if after > before:
        parts.append(real + _in_epochs(seed, "order of extra inputs", np.arange(before, after), extra))
    return np.concatenate(parts)


def _in_epochs(seed: int, purpose: str, position: np.ndarray, n: int) -> np.ndarray:
    epochs = np.unique(position // n)
    order = np.concatenate([rng(seed, purpose, int(epoch)).permutation(n) for epoch in epochs])
    return order[position - epochs[0] * n]


def augment(images: Tensor, recipe: Recipe, seed: int, step: int) -> Tensor:
    """Return images uint8 (n, H, W, 3) flipped, shifted and cropped by index (nearest pixel), as the recipe says."""
    random = rng(seed, "augmentation", step)
    n, h, w, _ = images.shape
    scale = random.uniform(recipe.crop, 1, n)[:, None]
    source = []
    for side in (h, w):
        # Half a pixel more, so that rounding gives every whole shift the same chance.
        reach = (1 - scale) * side / 2 + recipe.shift + 0.5
        middle = side / 2 + random.uniform(-1, 1, n)[:, None] * reach
        index = np.floor(middle + (np.arange(side) + 0.5 - side / 2) * scale)
        source.append(np.clip(index, 0, side - 1).astype(np.int64))  # (n, side)
    rows, columns = source
    if recipe.flip:
        columns = np.where(random.random(n)[:, None] < 0.5, columns[:, ::-1], columns)
    rows, columns = torch.from_numpy(rows), torch.from_numpy(np.ascontiguousarray(columns))
    return images[torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]


def strengthen(images: Tensor, operations: int, seed: int, step: int) -> Tensor:
    """Return images uint8 (n, H, W, 3), each after so many operations of RandAugment (Cubuk et al. 2020)."""
    changed = [randaugment(x, operations, rng(seed, "randaugment", step, i)) for i, x in enumerate(images.numpy())]
    return torch.from_numpy(np.stack(changed))


def cutmix(images: Tensor, probability: float, seed: int, step: int) -> tuple[Tensor, Tensor, float]:
    """Paste a box of one image of the batch into each other one (Yun et al. 2019), in a share of the steps.

    Args:
        images: uint8 (n, H, W, 3).
        probability: of a step to mix; the box has the share 1 - λ of the area, λ uniform in [0, 1].

    Returns:
        The images; int64 (n,), whose box each has; λ, the share that each has of its own (1: nothing was mixed).
    """
    random = rng(seed, "cutmix", step)
    n, h, w, _ = images.shape
    if random.random() >= probability:
        return images, torch.arange(n), 1.0
    others = torch.from_numpy(random.permutation(n))
    side = math.sqrt(1 - random.random())
    (top, bottom), (left, right) = (_box(side * length, length, random) for length in (h, w))
    images = images.clone()
    images[:, top:bottom, left:right] = images[others, top:bottom, left:right]
    return images, others, 1 - (bottom - top) * (right - left) / (h * w)


def _box(length: float, whole: int, random: np.random.Generator) -> tuple[int, int]:
    middle = random.integers(whole)
    return max(0, int(middle - length / 2)), min(whole, int(middle + length / 2))


def standardise(images: Tensor) -> Tensor:
    """Return images uint8 (n, H, W, 3) as float32 (n, 3, H, W), less `MEAN`, over `STANDARD_DEVIATION`."""
    mean, std = (torch.tensor(v, device=images.device) * 255 for v in (MEAN, STANDARD_DEVIATION))
    return ((images - mean) / std).permute(0, 3, 1, 2)
