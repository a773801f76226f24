"""SD features: a supervised head on the maps of the frozen U-Net's mid block (Li et al., ICCV 2023, appendix F.4).

    head = train_on_features(generator, datasets.load("objects", "train"))    # .scores(images), a classifier

The authors released no code for it; what the paper leaves open is said where it is decided.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zsclib.checks import check_images
from zsclib.datasets import hold_out
from zsclib.images.image_set import ImageSet, content_hash
from zsclib.models.generator import Generator
from zsclib.papers.diffusion_classifier.method import noise
from zsclib.seeds import seed_of
from zsclib.training import Recipe, TrainedNetwork, augment, fit

# Published settings first; what the paper does not give (warm-up, smoothing, clipping) is off. torchvision's default
# random-resized-crop keeps 8 % of the area or more: 28 % of a side. Epochs are not given: set `steps` as you compare.
HEAD = Recipe(
    steps=400, batch=64, learning_rate=1e-3, warmup=0.05, weight_decay=0.01, label_smoothing=0, flip=False,
    checkpoints=20,
)  # fmt: skip
PAPER_HEAD = replace(
    HEAD, batch=16, learning_rate=1e-4, warmup=0, max_gradient_norm=math.inf, crop=0.28, shift=0, flip=True
)  # fmt: skip


@torch.inference_mode()
def feature_maps(
    generator: Generator,
    images: np.ndarray,
    t: int = 100,
    prompt: str = "",
    seed: int = 0,
    keys: Sequence[int | str] | None = None,
    batch: int = 256,
) -> np.ndarray:
    """Return what comes out of the U-Net's mid block for noised images (section 5.1: t = 100, the empty prompt).

    Args:
        images: uint8 (n, H, W, 3) of the generator's image size.
        t: timestep of the noise. prompt: that the network is conditioned on.
        seed, keys: of the noise, as in `zsclib.papers.diffusion_classifier.classify`.
        batch: images at once; it changes no map beyond rounding.

    Returns:
        float32 (n, c, h, w): 1280 x 8 x 8 in Stable Diffusion 1 and 2 at 512 pixels.

    Raises:
        ValueError: bad images, a key too few, a t the model does not have, a network without a mid block.
    """
    check_images(images, "feature_maps")
    keys = list(range(len(images))) if keys is None else list(keys)
    if not keys or len(keys) != len(images):
        raise ValueError(f"feature_maps: {len(images)} images and {len(keys)} keys; give one key per image")
    middle = getattr(generator.unet, "mid_block", None)
    if middle is None:
        raise ValueError(
            f"feature_maps: a {type(generator.unet).__name__} has no mid block; use Stable Diffusion 1 or 2"
        )
    condition, maps = generator.encode_prompts([prompt]), []
    a, s = generator.signal_and_noise(t)
    hook = middle.register_forward_hook(lambda _, inputs, output: maps.append(output.float().cpu()))
    try:
        for start in range(0, len(keys), batch):
            z = generator.encode_images(images[start : start + batch])
            ε = [noise(seed, key, 0, z.shape[1:]) for key in keys[start : start + batch]]
            rows = torch.zeros(len(z), dtype=torch.int64, device=z.device)
            generator.predict_noise(a * z + s * torch.stack(ε).to(z.device), t, condition.take(rows))
    finally:
        hook.remove()
    return torch.cat(maps).numpy()


class Block(nn.Module):
    """ResNet's basic block (He et al. 2016, figure 2)."""

    def __init__(self, c_in: int, c_out: int, stride: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU(),
            nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False), nn.BatchNorm2d(c_out),
        )  # fmt: skip
        same = stride == 1 and c_in == c_out
        self.skip = (
            nn.Identity()
            if same
            else nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out))
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.skip(x))


def new_head(channels: int, side: int, classes: int, seed: int = 0) -> nn.Sequential:
    """Return a network from maps (n, channels, side, side) to logits (n, classes).

    From 8 x 8 on it is table 11's ResNet-18 layout, widths 1, 1, 2 and 2 times the channels, no max-pool (of its
    stem the paper says no more: here there is none). Smaller maps leave no room for four stages: one block halves
    them. Maps are first brought to mean 0 and standard deviation 1 per channel, measured on the training images.
    """
    full = ((channels, 1), (channels, 1), (channels, 2), (channels, 1))
    full += ((2 * channels, 2), (2 * channels, 1), (2 * channels, 2), (2 * channels, 1))
    widths = full if side >= 8 else ((channels, 2),)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(seed, "head"))
        layers: list[nn.Module] = [nn.BatchNorm2d(channels, affine=False)]
        for width, stride in widths:
            layers.append(Block(channels, width, stride))
            channels = width
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


@dataclass(frozen=True, eq=False, kw_only=True)
class FeatureClassifier:
    """A frozen generator and a head trained on its maps; made by `train_on_features`."""

    generator: Generator
    head: TrainedNetwork
    classes: tuple[str, ...]
    t: int
    seed: int

    def scores(self, images: np.ndarray) -> np.ndarray:
        """Return logits, float32 (n, classes). The noise of an image hangs on its pixels, not on its place."""
        maps = feature_maps(self.generator, images, self.t, seed=self.seed, keys=content_hash(images))
        return self.head.scores(maps)


def train_on_features(
    generator: Generator,
    images: ImageSet,
    recipe: Recipe = HEAD,
    views: int = 1,
    t: int = 100,
    seed: int = 0,
    held_out: float = 0.1,
) -> FeatureClassifier:
    """Train a head on the frozen network's maps of labelled images: "SD features", which is not zero-shot.

    The paper augments anew in every epoch, and so runs the U-Net in every epoch. Here it runs on `views` versions of
    each image: as it is, and views - 1 times flipped, shifted and cropped as the recipe says; each has its own noise.

    Args:
        images: labelled, two or more of every class where some are held out.
        recipe: HEAD, PAPER_HEAD, or your own.
        t: timestep of the noise. seed: of noise, views, first weights and training.
        held_out: share of the images that, as they are, choose the checkpoint, as early stopping does; 0: all of them
            are trained on, and the last checkpoint is taken.

    Raises:
        ValueError: images without a label, too few of a class to hold any out, no views.
    """
    if views < 1:
        raise ValueError(f"train_on_features: views must be 1 or more, got {views}")
    training, chooses = images, None
    if held_out:
        training, rest = hold_out(images, held_out, seed)
        rest_maps = feature_maps(generator, rest.images, t, seed=seed, keys=content_hash(rest.images))
        chooses = rest_maps, rest.labels
    pixels = torch.from_numpy(training.images)
    augmented = (augment(pixels, recipe, seed, view).numpy() for view in range(1, views))
    inputs = np.concatenate([training.images, *augmented])
    maps = feature_maps(generator, inputs, t, seed=seed, keys=content_hash(inputs))
    head = new_head(maps.shape[1], maps.shape[2], len(images.classes), seed)
    labels, device = np.tile(training.labels, views), generator.device
    trained = fit(head, maps, labels, recipe, seed, chooses, device=device)
    return FeatureClassifier(generator=generator, head=trained, classes=images.classes, t=t, seed=seed)
