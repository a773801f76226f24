"""Which training sets the study of the bag of tricks compares, and how their pictures are shared out.

An arm is a training set: which tricks drew its pictures, and what else sets it apart. Arms of one target and seed share
pictures: a union takes the first of each trick's, and every trick's very first are held out from training.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass, field, fields

import numpy as np
import pandas as pd
import torch

from zsclib import datasets
from zsclib.images import ImageSet
from zsclib.models.clip import Clip, open_clip
from zsclib.models.generator import Generator, open_generator
from zsclib.models.networks import ARCHITECTURES
from zsclib.papers.diversity import PAPER, TRICKS, plan, shrink, union, words_of
from zsclib.recipe import Recipe
from zsclib.sampling import Store, check_plan, generate


@dataclass(frozen=True)
class Arm:
    """A training set.

    Args:
        tricks: keys of `TRICKS`, each gives an equal part; none stands for real images of the target's train split.
        shared_noise: all classes begin with one and the same sequence of noises, as in the released code.
        small: how its pictures are made `Setting.small` pixels wide; None: networks see `Setting.size` pixels.
    """

    tricks: tuple[str, ...] = ("base",)
    shared_noise: bool = False
    small: str | None = None


ARMS = {
    **{trick: Arm((trick,)) for trick in TRICKS},
    "union": Arm(PAPER),  # at 4 times the size: the paper's "all combined"
    "real": Arm(()),
    "shared noise": Arm(shared_noise=True),
    "small, antialiased": Arm(small="antialiased"),
    "small, nearest": Arm(small="nearest"),
}


@dataclass(frozen=True)
class Setting:
    """What all trainings have in common.

    Args:
        model, clip: folders of the generator and of the CLIP whose image features sets are measured in.
        pictures: N of a training set, equally many per class.
        held_out: further pictures of each trick, at least one per class, on which a checkpoint may be chosen.
        steps, batch: of the sampler.
        test: test images of each target.
        size, small: pixels that networks see, and those of arms with `Arm.small`.
        width: of the networks, "pocket" or "full".
        recipe: of the training; unmirrored: targets whose pictures it must not flip.
        audited: arms whose networks are scored at every checkpoint, and with test-batch statistics as well.
        device, precision, allow_network: where all is computed, how the generator is opened.
    """

    model: str
    clip: str
    pictures: int = 160
    held_out: int = 20
    steps: int = 8
    batch: int = 100
    test: int = 400
    size: int = 32
    small: int = 16
    width: str = "pocket"
    recipe: Recipe = field(default_factory=Recipe)
    unmirrored: tuple[str, ...] = ("digits",)
    audited: tuple[str, ...] = ("base", "union")
    device: str = "cpu"
    precision: str = "float32"
    allow_network: bool = False


@dataclass(frozen=True)
class Cell:
    """One training: target, arm (a key of `ARMS`), the set's size as a multiple of N, architecture, seed."""

    target: str
    arm: str = "base"
    times: float = 1
    architecture: str = "resnet50"
    seed: int = 0


@dataclass(frozen=True)
class Drawing:
    """The pictures that one trick draws for one target and seed: how many per class, held-out ones first."""

    target: str
    trick: str
    seed: int
    shared_noise: bool
    per_class: int


def needed(setting: Setting, cells: Iterable[Cell]) -> dict[Cell, tuple[Drawing, ...]]:
    """Return which pictures each cell is made from, everything checked; cells share what they can.

    Raises:
        ValueError: an unknown arm or architecture, pictures that classes and tricks cannot share equally, and what
            `zsclib.sampling.check_plan` and `zsclib.datasets.load` object to.
    """
    most: dict[tuple, int] = {}
    asked = {}
    for cell in cells:
        for what, known in ((cell.arm, ARMS), (cell.architecture, ARCHITECTURES)):
            if what not in known:
                raise ValueError(
                    f"study: there is no {what!r}, which {cell} asks for; known: {', '.join(known)}"
                )
        arm, (held_out, n, classes) = ARMS[cell.arm], _shares(setting, cell)
        k = max(1, len(arm.tricks))
        if n < k or n * classes != setting.pictures * cell.times:
            raise ValueError(
                f"study: {setting.pictures} x {cell.times:g} pictures of {cell.target} cannot be shared equally by "
                f"{classes} classes and {k} tricks"
            )
        asked[cell] = [(cell.target, trick, cell.seed, arm.shared_noise) for trick in arm.tricks]
        for part in asked[cell]:
            _check(setting, *part[:2])
            most[part] = max(most.get(part, 0), held_out + math.ceil(n / k))
    return {cell: tuple(Drawing(*part, most[part]) for part in parts) for cell, parts in asked.items()}


def draw(
    setting: Setting, store: Store, drawing: Drawing, ways: Iterable[str | None] = (None,)
) -> dict[str | None, ImageSet]:
    """Return the pictures of a drawing as networks see them, and keep their CLIP features in the store.

    Args:
        store: what it has is not drawn again.
        ways: values of `Arm.small` that are wanted; the result has a set for each.
    """
    rows, (generator, clip) = _plan(setting, drawing), open_models(setting)
    unknown, encoded, views = store.get(key := features_key(setting, drawing)) is None, [], {}

    def look(pictures: np.ndarray, way: str | None) -> np.ndarray:
        if unknown and not views:
            encoded.append(clip.encode_images(pictures).cpu().numpy())
        size = setting.size if way is None else setting.small
        return shrink(pictures, min(size, pictures.shape[1]), way or "antialiased")

    for way in dict.fromkeys(ways):
        views[way] = generate(
            generator, rows, target_images(setting, drawing.target).classes, steps=setting.steps,
            batch=setting.batch, store=store, shrink=functools.partial(look, way=way),
        )  # fmt: skip
    if unknown:
        store.put(key, {"features": np.concatenate(encoded)})
    return views


def training_rows(setting: Setting, cell: Cell) -> list[slice]:
    """Return which rows of each of a cell's drawings are its training set; those before them are held out."""
    held_out, n, classes = _shares(setting, cell)
    tricks = ARMS[cell.arm].tricks
    shares = [n // len(tricks) + (i < n % len(tricks)) for i in range(len(tricks))]
    return [slice(held_out * classes, (held_out + mine) * classes) for mine in shares]


def share(setting: Setting, cell: Cell, drawn: Iterable[ImageSet]) -> tuple[ImageSet, ImageSet]:
    """Return a cell's training set and its held-out pictures, from the pictures of its drawings."""
    if not ARMS[cell.arm].tricks:
        return real(setting, cell)
    pairs = list(zip(drawn, training_rows(setting, cell), strict=True))
    training = union(part.take(np.arange(rows.start, rows.stop)) for part, rows in pairs)
    return training, union(part.take(np.arange(rows.start)) for part, rows in pairs)


def target_images(setting: Setting, target: str, size: int | None = None) -> ImageSet:
    """Return a target's test images, at the size that networks see or another."""
    return _load(setting, target, "test", setting.test, 0, size or setting.size)


def real(setting: Setting, cell: Cell) -> tuple[ImageSet, ImageSet]:
    """Return as many real images as the cell's arm has, and further ones held out; other seeds have others."""
    held_out, n, classes = _shares(setting, cell)
    images = _load(setting, cell.target, "train", (n + held_out) * classes, cell.seed, side(setting, cell))
    return images.take(np.arange(n * classes)), images.take(np.arange(n * classes, len(images)))


def side(setting: Setting, cell: Cell) -> int:
    """Return how many pixels wide the images of a cell's network are."""
    return setting.size if ARMS[cell.arm].small is None else setting.small


def key(setting: Setting, cell: Cell) -> str:
    """Return a hash of all that decides a cell's training, except code."""
    images = target_images(setting, cell.target)
    pictures = None if ARMS[cell.arm].tricks else real(setting, cell)[0].fingerprint()
    words = words_of(cell.target, images.classes)
    return _digest(_facts(setting), cell, ARMS[cell.arm], words, images.fingerprint(), pictures)


def features_key(setting: Setting, drawing: Drawing) -> str:
    """Return a hash of all that decides a drawing's features, except code."""
    return _digest("features", _facts(setting), drawing, _plan(setting, drawing).to_csv())


@functools.lru_cache(maxsize=1)
def open_models(setting: Setting) -> tuple[Generator, Clip]:
    """Open the setting's generator and CLIP."""
    dtype = getattr(torch, setting.precision)
    generator = open_generator(setting.model, setting.device, dtype, setting.allow_network)
    return generator, open_clip(setting.clip, setting.device, setting.allow_network)


@functools.lru_cache(maxsize=64)
def _load(setting: Setting, target: str, split: str, n: int, seed: int, size: int | None) -> ImageSet:
    return datasets.load(target, split, n, seed, size, setting.allow_network)


def _shares(setting: Setting, cell: Cell) -> tuple[int, int, int]:
    """Return pictures per class that a trick holds out and that the set has, and the number of classes."""
    classes = len(target_images(setting, cell.target).classes)
    return max(1, setting.held_out // classes), int(setting.pictures * cell.times) // classes, classes


def _plan(setting: Setting, drawing: Drawing) -> pd.DataFrame:
    classes = target_images(setting, drawing.target).classes
    return plan(
        drawing.trick, words_of(drawing.target, classes), drawing.per_class, drawing.seed,
        classes=classes, shared_noise=drawing.shared_noise,
    )  # fmt: skip


@functools.cache
def _check(setting: Setting, target: str, trick: str) -> None:
    rows = _plan(setting, Drawing(target, trick, 0, False, 20))  # 20: more than there are domains
    check_plan(open_models(setting)[0], rows, target_images(setting, target).classes, setting.steps)


@functools.cache
def _facts(setting: Setting) -> str:
    names = [part.name for part in fields(setting) if part.name not in ("model", "clip", "batch")]
    generator, clip = open_models(setting)
    weights = hashlib.blake2b(digest_size=16)
    for name, value in sorted(clip.model.state_dict().items()):
        weights.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return repr(([getattr(setting, name) for name in names], generator.fingerprint(), weights.hexdigest()))


def _digest(*parts: object) -> str:
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()
