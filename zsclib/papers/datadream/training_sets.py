"""What all arms of the comparison have in common: the models, the shots with their validation and test images, prompts.

    setting = Setting(model="data/models/pocket-sd", clip="data/models/pocket-clip", index="results/index")
    one = shots(setting, "objects-hard", seed=0)
    one.real, one.validation, one.test                      # image sets that share no image

The K shots of a class and, after them, its min(K, 4) validation images come from the target's train split; another seed
chooses anew, and fewer shots are the first of more. Test images are those of the split `test_split`, the same for every
seed. Everything is chosen on validation images; test images are looked at once.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from zsclib import datasets
from zsclib.checks import is_integer
from zsclib.extra import counts
from zsclib.generator_pool import WORLD
from zsclib.images.files import resize
from zsclib.images.image_set import ImageSet, content_hash
from zsclib.models.clip import Clip, open_clip
from zsclib.models.generator import Generator, open_generator
from zsclib.models.lora import DATADREAM, Lora
from zsclib.own_sets import Own, is_own, load_part, prompts_for
from zsclib.pools.ladder import Rules
from zsclib.prompts import fill

VALIDATION = 4  # images of a class, at most
NAMED = 5  # images in an error
# He et al. (2023), their code: shots -> at which of 100 steps, counted from the image, denoising starts.
REAL_GUIDANCE = ((1, 0.5), (2, 0.4), (4, 0.35), (8, 0.2), (16, 0.15))


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What the sets of all arms have in common; the defaults are the papers' where a pocket model allows.

    Attributes:
        model, clip: folders of the generator and of the CLIP that filters and retrieves.
        pool: "world", or a place as `zsclib.pools.captioned.open_pool` takes it: what the generator learnt from.
        index: a folder for the pool's CLIP features.
        pool_cache: a folder for the world's pool, or None. pool_images: only so many of each of its phases.
        shots: K, real images of a class. per_class: N, synthetic ones (the authors: 500).
        sampling_steps: of DDIM (50). guidance: of all that is generated (2).
        one_noise: whether every class begins from the same noise, image by image, as in the authors' code (an audit).
        tuning_samples: images, with repeats, that an adapter of one class learns from (200 for each of its shots); one
            for all classes learns from as many times this as there are classes. learning_rate: of both. lora: their
            shape. checks: how often the loss on validation images is measured on the way.
        strengths: of real guidance, (K, share of the steps), rising in K: that of the largest K which is not above
            the setting's own.
        other_strength: of DISEF (15 of 20 steps). rounds: how often DISEF tries each image until CLIP agrees with its
            class; then the last attempt stays (100).
        test_images: of each target. test_seed: which ones. test_split: of which split; of one's own sets always the
            part for testing.
        size: pixels that classifiers see.
        own: how a target of the user's own is read.
        rules: of the ladder that retrieved images climb.
        count_and_drop: whether a pool of one's own that holds near-copies of test images is used without them; if not,
            it is refused.
        device, precision, allow_network: where all is computed, how models are opened. Adapters learn in float32.
    """

    model: str
    clip: str
    pool: str = WORLD
    index: str
    pool_cache: str | None = None
    pool_images: int | None = None
    shots: int = 16
    per_class: int = 64
    sampling_steps: int = 20
    guidance: float = 2.0
    one_noise: bool = False
    tuning_samples: int = DATADREAM.samples
    learning_rate: float = DATADREAM.learning_rate
    lora: Lora = Lora()
    checks: int = 4
    strengths: tuple[tuple[int, float], ...] = REAL_GUIDANCE
    other_strength: float = 0.75
    rounds: int = 4
    test_images: int = 400
    test_seed: int = 0
    test_split: str = "test"
    size: int = 32
    own: Own = field(default_factory=Own)
    rules: Rules = field(default_factory=Rules)
    count_and_drop: bool = False
    device: str = "cpu"
    precision: str = "float32"
    allow_network: bool = False

    def __post_init__(self) -> None:
        for name in (
            *("shots", "per_class", "sampling_steps", "tuning_samples", "checks", "rounds", "test_images", "size"),
        ):
            if not is_integer(value := getattr(self, name), 1):
                raise ValueError(f"Setting: {name} must be an integer of 1 or more, got {value!r}")
        for name in ("guidance", "learning_rate"):
            if not 0 < (value := getattr(self, name)) < float("inf"):
                raise ValueError(f"Setting: {name} must be a number above 0, got {value!r}")
        shares = [self.other_strength, *(share for _, share in self.strengths)]
        if not self.strengths or not all(0 < share <= 1 for share in shares):
            raise ValueError(f"Setting: strengths must be shares of the steps, in (0, 1], got {shares}")

    @property
    def strength(self) -> float:
        """The strength of real guidance at this number of shots."""
        below = [share for k, share in sorted(self.strengths) if k <= self.shots]
        return below[-1] if below else min(self.strengths)[1]


class Shots(NamedTuple):
    """One target's real images for one seed, at the size that classifiers see; none is in two of these sets."""

    target: str
    seed: int
    real: ImageSet  # K of each class
    validation: ImageSet  # min(K, 4) of each class
    test: ImageSet


def shots(setting: Setting, target: str, seed: int) -> Shots:
    """Return a target's shots for a seed, with its validation and test images.

    Raises:
        FileNotFoundError: there is no such set, or no such split.
        ValueError: a class (named) has too few images or none, the classes of the train split are not those of the test
            split, or an image to learn from or to choose by is a test image, pixel by pixel.
    """
    test = _part(setting, target, "test", setting.size, 0)
    real, validation = _labelled(setting, target, seed, setting.size)
    if real.classes != test.classes:
        differing = sorted(set(real.classes) ^ set(test.classes)) or list(real.classes)
        raise ValueError(
            f"{target}: the classes to learn, {len(real.classes)}, and those to be tested on, {len(test.classes)}, "
            f"must be the same in one order; to mend: {', '.join(differing[:NAMED])}"
        )
    _refuse_test_images(target, test, {"shots": real, "validation images": validation})
    return Shots(target, seed, real, validation, test)


def at_side(setting: Setting, one: Shots, side: int) -> tuple[ImageSet, ImageSet]:
    """Return the same shots and validation images, read anew at another number of pixels."""
    if side == setting.size:
        return one.real, one.validation
    return _labelled(setting, one.target, one.seed, side)


def training_split(setting: Setting, one: Shots) -> ImageSet:
    """Return as many images of the train split as there are test images, the shots among them.

    For an audit: the released code of DataDream tests on this split for some sets.
    """
    each = setting.shots + min(setting.shots, VALIDATION)
    return _loaded(
        one.target, "train", len(one.test), each, one.seed, setting.size, setting.own, setting.allow_network
    )


def further_real(setting: Setting, one: Shots, each: int) -> ImageSet:
    """Return further real images of each class, neither shots nor validation images: behind them in the train split."""
    first = setting.shots + min(setting.shots, VALIDATION)
    where = (one.target, "train", None, first + each, one.seed, setting.size, setting.own, setting.allow_network)
    split = _loaded(*where)
    turn = pd.Series(split.labels).groupby(split.labels).cumcount().to_numpy()
    further = split.take((first <= turn) & (turn < first + each))
    _refuse_test_images(one.target, one.test, {"further real images": further})
    return further


def class_prompts(setting: Setting, one: Shots) -> list[str]:
    """Return the prompt of each class: of adapting, of generating, and of CLIP's text side."""
    prompts = prompts_for(one.target, one.real.classes, setting.own)
    return fill(prompts.template, prompts.classes)


def open_generation(setting: Setting) -> Generator:
    """Open the generator as it samples, in the setting's precision."""
    return _generator(setting.model, setting.device, setting.precision, setting.allow_network)


def open_tuning(setting: Setting) -> Generator:
    """Open the generator as it is tuned, in float32."""
    return _generator(setting.model, setting.device, "float32", setting.allow_network)


def open_filter(setting: Setting) -> Clip:
    """Open the setting's CLIP."""
    return _clip(setting.clip, setting.device, setting.allow_network)


@functools.lru_cache(maxsize=2)
def _generator(model: str, device: str, precision: str, allow_network: bool) -> Generator:
    return open_generator(model, device, getattr(torch, precision), allow_network)


_clip = functools.lru_cache(maxsize=1)(open_clip)


def shown(setting: Setting, images: np.ndarray) -> np.ndarray:
    """Return images, uint8 (n, h, w, 3), at the size that classifiers see."""
    return resize(images, setting.size)


def _labelled(setting: Setting, target: str, seed: int, side: int) -> tuple[ImageSet, ImageSet]:
    """Return the shots, and after them in the train split the validation images."""
    each = setting.shots + min(setting.shots, VALIDATION)
    split = _part(setting, target, "train", side, seed)
    own = counts(split)
    if short := [label for label, count in enumerate(own) if count < each]:
        lacking = ", ".join(f"{split.classes[label]!r} {own[label]}" for label in short[:NAMED])
        raise ValueError(
            f"{target}: {setting.shots} shots and {each - setting.shots} validation images are {each} of each class; "
            f"the train split has fewer of {lacking}{', …' * (len(short) > NAMED)}; take fewer shots, or add images"
        )
    turn = pd.Series(split.labels).groupby(split.labels).cumcount().to_numpy()  # the how-manieth of its class
    return split.take(turn < setting.shots), split.take((setting.shots <= turn) & (turn < each))


def _part(setting: Setting, target: str, part: str, side: int, seed: int) -> ImageSet:
    """Load the images to learn from and to choose by, or the test images."""
    each = setting.shots + min(setting.shots, VALIDATION)
    if part == "test":
        split, n, each, seed = setting.test_split, setting.test_images, 0, setting.test_seed
    else:
        split, n = "train", None
    where = part if is_own(target) else split
    return _loaded(target, where, n, each, seed, side, setting.own, setting.allow_network)


@functools.lru_cache(maxsize=64)  # settings that differ in all else share them
def _loaded(
    target: str, split: str, n: int | None, each: int, seed: int, side: int, own: Own, allow_network: bool
) -> ImageSet:
    if is_own(target):
        n = n or each * len(load_part(target, split, own, n=1, each=each, allow_network=allow_network).classes)
        how = {"n": n, "seed": seed, "size": side, "each": each, "allow_network": allow_network}
        return load_part(target, split, own, **how)
    n = n or each * len(datasets.load(target, split, 1, seed, side, allow_network).classes)
    return datasets.load(target, split, n, seed, side, allow_network)


def _refuse_test_images(target: str, test: ImageSet, others: dict[str, ImageSet]) -> None:
    rows = {each: row for row, each in reversed(list(enumerate(content_hash(test.images))))}
    for what, images in others.items():
        shared = sorted({rows[each] for each in content_hash(images.images) if each in rows})
        if shared:
            sources = test.manifest.get("source", pd.Series(range(len(test))))
            names = ", ".join(f"{sources[row]} ({test.classes[test.labels[row]]})" for row in shared[:NAMED])
            raise ValueError(
                f"{target}: {len(shared)} of {len(test)} test images are also among the {what}, pixel by pixel: "
                f"{names}{', …' * (len(shared) > NAMED)}; a classifier is not tested on what it learns from or is "
                "chosen by: take them out of one of the splits"
            )
