"""What all arms of the comparison have in common: the models, the pool, D and its held-out images, and equal counts.

D, the further real images of "twice the real" and the held-out ones that choose the mixing ratio come, one after the
other, from the target's train split; another seed chooses anew. The test images are those of the split `test_split`.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, fields, replace
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from zsclib import datasets
from zsclib.checks import is_integer
from zsclib.extra import counts
from zsclib.generator_pool import WORLD
from zsclib.hashing import key
from zsclib.images.files import resize
from zsclib.images.image_set import ImageSet
from zsclib.models.clip import Clip, open_clip
from zsclib.models.generator import Generator, open_generator
from zsclib.models.networks import new_network
from zsclib.own_sets import Own, is_own, load_part
from zsclib.papers.retrieval.dials import Dials
from zsclib.pools.ladder import Rules
from zsclib.recipe import Recipe
from zsclib.training import TrainedNetwork, train

FURTHER = 4  # times as many candidates for pseudo-labels, at most
# Few images want many small steps. Of rates from 4e-3 to 32e-3, batches of 8, 16 and 32, and trainings of up to 4,096
# steps of the pocket ResNet-18 on D alone, chosen on validation images of objects-hard and gadgets-hard.
RECIPE = Recipe(steps=128, batch=16, learning_rate=8e-3, checkpoints=1)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all trainings have in common.

    Attributes:
        model, clip: folders of the generator and of the CLIP that retrieves.
        pool: "world", or a place as `zsclib.pools.captioned.open_pool` takes it: what the generator learnt from.
        index: a folder for the pool's CLIP features.
        pool_cache: a folder for the world's pool, or None. pool_images: only so many of each of its phases.
        dials: how much of the pool its index shows (`zsclib.papers.retrieval.dials`).
        shots: `|D|`, labelled real images of a class. held_out: further ones of a class, which choose the mixing ratio.
        times: N of the largest set of extra images, as a multiple of `|D|`.
        sampling_steps, guidance: of DDIM. strength: of image-to-image, the share of the steps.
        candidates: images to be labelled by a classifier, as a multiple of those wanted; up to `FURTHER` times as many
            where a class falls short.
        tuning_samples: images (with repeats) that each way of personalising the generator learns from, the same for
            all: of all classes together. learning_rates: (way, learning rate) where it is another than that of
            `generated_arms.TUNINGS`. rank: of LoRA.
        shares: of extra images in a batch, to choose from. tuned_at: training length at which the choice is made.
            tuned_with: the seeds that make it; (): all that are trained with.
        test_images: of each target. test_seed: which ones. test_split: of which split.
        size: pixels that networks see. network, width: which network. recipe: of its training at length 1.
        unmirrored: targets whose images are not flipped. unplaced: those whose classes stand on no ground, so that
            prompts with backgrounds make no sense.
        own: how a target of the user's own is read.
        rules: of the ladder that retrieved images climb. Its `claims` is "nearest": an image belongs to the class whose
            query is nearest to it, whether that class has room or not, as an image that two classes fetch is kept for
            the nearer one. With "taken" a class is filled up with what CLIP itself would call by another class's name:
            it looks complete and is labelled wrongly, while one that falls short is reported and cuts all arms alike.
            In a small pool, whose nearer class is full early, "taken" may be the better trade.
        count_and_drop: whether a pool of one's own that holds near-copies of test images is used without them; if not,
            it is refused.
        device, precision, allow_network: where all is computed, how models are opened.
    """

    model: str
    clip: str
    pool: str = WORLD
    index: str
    pool_cache: str | None = None
    pool_images: int | None = None
    dials: Dials = Dials()
    shots: int = 32
    held_out: int = 16
    times: float = 3
    sampling_steps: int = 8
    guidance: float = 2.0
    strength: float = 0.5
    candidates: int = 4
    tuning_samples: int = 4000
    learning_rates: tuple[tuple[str, float], ...] = ()
    rank: int = 16
    shares: tuple[float, ...] = (0.25, 0.5, 0.75)
    tuned_at: int = 4
    tuned_with: tuple[int, ...] = ()
    test_images: int = 400
    test_seed: int = 0
    test_split: str = "test"
    size: int = 32
    network: str = "resnet50"
    width: str = "pocket"
    recipe: Recipe = RECIPE
    unmirrored: tuple[str, ...] = ("digits",)
    unplaced: tuple[str, ...] = ("digits", "aerial", "aerial-hard")
    own: Own = field(default_factory=Own)
    rules: Rules = field(default_factory=Rules)
    count_and_drop: bool = False
    device: str = "cpu"
    precision: str = "float32"
    allow_network: bool = False

    def __post_init__(self) -> None:
        for name in ("shots", "held_out", "candidates", "test_images", "sampling_steps", "tuning_samples", "size"):
            if not is_integer(value := getattr(self, name), 1):
                raise ValueError(f"Setting: {name} must be an integer of 1 or more, got {value!r}")
        if not self.times > 0 or round(self.times * self.shots) < 1:
            raise ValueError(
                f"Setting: times must be above 0, and times · shots an image or more, got {self.times!r} · {self.shots}"
            )
        if not self.shares or not all(0 < share <= 1 for share in self.shares):
            raise ValueError(f"Setting: shares must be one or more numbers in (0, 1], got {self.shares!r}")


class Data(NamedTuple):
    """One target's images for one seed, as networks see them; none is in two of these."""

    target: str
    seed: int
    real: ImageSet  # D
    further: ImageSet  # as many again
    held_out: ImageSet
    test: ImageSet


@functools.lru_cache(maxsize=64)
def data(setting: Setting, target: str, seed: int) -> Data:
    """Return a target's images for a seed, at the size that networks see.

    Raises:
        ValueError: a class has too few images for D, as many again and those held out, or the classes of the train
            split are not those of the test split.
    """
    test = load(setting, target, setting.test_split, setting.test_images, setting.test_seed)
    each, classes = 2 * setting.shots + setting.held_out, test.classes
    train_split = load(setting, target, "train", each * len(classes), seed)
    if train_split.classes != classes:
        differing = sorted(set(train_split.classes) ^ set(classes)) or list(train_split.classes)
        raise ValueError(
            f"{target}: the classes to learn, {len(train_split.classes)}, and those to be tested on, {len(classes)}, "
            f"must be the same in one order; to mend: {', '.join(differing[:5])}"
        )
    turn = pd.Series(train_split.labels).groupby(train_split.labels).cumcount().to_numpy()
    if (own := counts(train_split)).min() < each:
        raise ValueError(
            f"{target}: D, as many images again and those held out are {each} of each class; the train split has "
            f"{own.min()} of {classes[own.argmin()]!r}; take fewer shots, or hold out fewer"
        )
    bounds = (0, setting.shots, 2 * setting.shots, each)
    parts = (train_split.take((a <= turn) & (turn < b)) for a, b in zip(bounds, bounds[1:], strict=False))
    return Data(target, seed, *parts, test)


def load(setting: Setting, target: str, split: str, n: int, seed: int) -> ImageSet:
    """Load images of a target at the size that networks see: of the user's own as many as there are, n at most."""
    if not is_own(target):
        return datasets.load(target, split, n, seed, setting.size, setting.allow_network)
    each = 2 * setting.shots + setting.held_out if split == "train" else 0
    how = {"size": setting.size, "each": each, "allow_network": setting.allow_network}
    return load_part(target, split, setting.own, n=n, seed=seed, **how)


def open_models(setting: Setting) -> tuple[Generator, Clip]:
    """Open the setting's generator and CLIP."""
    return _opened(setting.model, setting.clip, setting.device, setting.precision, setting.allow_network)


@functools.lru_cache(maxsize=1)  # settings that differ in all else share them
def _opened(model: str, clip: str, device: str, precision: str, allow_network: bool) -> tuple[Generator, Clip]:
    generator = open_generator(model, device, getattr(torch, precision), allow_network)
    return generator, open_clip(clip, device, allow_network)


@functools.lru_cache(maxsize=4)
def labeller(setting: Setting, target: str, seed: int) -> TrainedNetwork:
    """Return the network that labels images nobody has labelled: trained on D alone."""
    one = data(setting, target, seed)
    network = new_network(setting.network, one.real.classes, setting.size, setting.width, seed)
    return train(network, one.real, recipe_for(setting, target, setting.tuned_at), seed, device=setting.device)


def recipe_for(setting: Setting, target: str, length: int) -> Recipe:
    """Return the recipe of a training `length` times as long, the same for every arm."""
    flip = setting.recipe.flip and target not in setting.unmirrored
    return replace(setting.recipe, steps=setting.recipe.steps * length, flip=flip)


def shown(setting: Setting, images: np.ndarray) -> np.ndarray:
    """Return images at the size that networks see."""
    return resize(images, setting.size)


@functools.cache
def facts(setting: Setting) -> str:
    """Return the hash of what generated images depend on beside prompts and D: the setting, its models by weights."""
    apart = ("model", "clip", "pool", "index", "pool_cache", "dials", "own", "rules", "count_and_drop")
    apart += ("recipe", "shares", "tuned_with")
    generator, clip = open_models(setting)
    return key(
        values={part.name: getattr(setting, part.name) for part in fields(setting) if part.name not in apart},
        recipe=setting.recipe,
        generator=generator.fingerprint(),
        clip=dict(clip.model.state_dict()),
    )
