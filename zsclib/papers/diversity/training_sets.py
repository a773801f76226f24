"""Which training sets the bag of tricks is judged by, and how generated images are shared out among them.

An arm is a training set: which tricks made its images, and what else sets it apart. Arms of one target and seed share
images: a union takes the first of each trick's, and the very first of the paper's four are held out from training.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping
from dataclasses import KW_ONLY, dataclass, field, fields, replace
from itertools import combinations

import numpy as np
import pandas as pd
import torch

from zsclib import datasets
from zsclib.checks import did_you_mean
from zsclib.hashing import key
from zsclib.images.image_set import ImageSet
from zsclib.models.clip import Clip, open_clip
from zsclib.models.generator import Generator, open_generator
from zsclib.models.networks import ARCHITECTURES
from zsclib.papers.diversity.tricks import PAPER, TRICKS, plan, prompts_for, shrink, union
from zsclib.recipe import Recipe
from zsclib.sampling import check_plan, sample
from zsclib.workers import Execution, Job, run_jobs


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A training set.

    Attributes:
        tricks: keys of `TRICKS`, each gives an equal part; none stands for real images of the target's train split.
        held_out: those of the paper's tricks on whose held-out images its networks are scored. Single tricks are scored
            on those of all, so that one can choose among them without a real image.
        shared_noise: all classes begin with one and the same sequence of noises, as in the released code.
        small: how its images are made `Setting.small` pixels wide; None: networks see `Setting.size` pixels.
    """

    tricks: tuple[str, ...] = ("base",)
    held_out: tuple[str, ...] = ()
    shared_noise: bool = False
    small: str | None = None


MAIN = "main"  # as an architecture of a cell: the network that learns from every set, `Setting.network`
SINGLE = PAPER[1:]  # the tricks among which the best is chosen
ARMS = {
    **{trick: Arm(tricks=(trick,)) for trick in TRICKS},
    "base": Arm(held_out=("base",)),
    **{trick: Arm(tricks=(trick,), held_out=PAPER) for trick in SINGLE},
    "union": Arm(tricks=PAPER, held_out=PAPER),  # at 4 times the size: the paper's "all combined"
    "real": Arm(tricks=()),
    "shared noise": Arm(shared_noise=True),
    "small, antialiased": Arm(small="antialiased"),
    "small, nearest": Arm(small="nearest"),
    "small, bilinear": Arm(small="bilinear"),
    # of two kinds each: sets by which measures are compared with accuracy (D9)
    **{f"{a} + {b}": Arm(tricks=(a, b)) for a, b in combinations(("style-matched", *PAPER), 2)},
}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all trainings have in common.

    Attributes:
        model, clip: folders of the generator and of the CLIP whose image features sets are measured in.
        images: N of a training set, equally many per class.
        held_out: further images of each of the paper's tricks, at least one per class, on which may be chosen.
        sampling_steps: of DDIM.
        test_images: of each target. test_seed: which ones. test_split: of which split.
        size, small: pixels that networks see, and those of arms with `Arm.small`.
        network: the main one, which learns from every set. width: of all networks, "pocket" or "full".
        recipe: of a training of length 1; unmirrored: targets whose images it must not flip.
        learning_rates: (network, learning rate), where it is another than the recipe's.
        audited: arms with held-out images, and their sizes, whose networks are scored with test-batch statistics as
            well, and the main one at every checkpoint, in trainings of length 1.
        device, precision, allow_network: where all is computed, how the generator is opened.
    """

    model: str
    clip: str
    images: int = 160
    held_out: int = 20
    sampling_steps: int = 8
    test_images: int = 400
    test_seed: int = 0
    test_split: str = "test"
    size: int = 32
    small: int = 16
    network: str = "resnet18"
    width: str = "pocket"
    recipe: Recipe = field(default_factory=Recipe)
    unmirrored: tuple[str, ...] = ("digits",)
    learning_rates: tuple[tuple[str, float], ...] = ()
    audited: tuple[tuple[str, float], ...] = (("base", 1), ("union", 4))
    device: str = "cpu"
    precision: str = "float32"
    allow_network: bool = False


@dataclass(frozen=True)
class Cell:
    """One training: target, arm (a key of `ARMS`), the set's size as a multiple of N, length as a multiple of the
    recipe's steps, architecture (a key of `ARCHITECTURES`, or `MAIN`), seed."""

    target: str
    arm: str = "base"
    times: float = 1
    _: KW_ONLY
    length: float = 1
    architecture: str = MAIN
    seed: int = 0


@dataclass(frozen=True)
class Generated:
    """The images that one trick makes for one target and seed: how many per class, held-out ones first."""

    target: str
    trick: str
    seed: int
    _: KW_ONLY
    shared_noise: bool
    per_class: int


def generated_sets(setting: Setting, cells: Iterable[Cell]) -> dict[Cell, dict[str, Generated]]:
    """Return by trick which images each cell is made from or scored on, everything checked; cells share what they can.

    Raises:
        ValueError: an unknown arm or architecture, images that classes and tricks cannot share equally, and what
            `zsclib.sampling.check_plan` and `zsclib.datasets.load` object to.
    """
    if unknown := [name for name, _ in setting.learning_rates if name not in ARCHITECTURES]:
        raise ValueError(
            f"learning_rates: there is no network {unknown[0]!r}{did_you_mean(unknown[0], ARCHITECTURES)}; known: "
            f"{', '.join(ARCHITECTURES)}"
        )
    most: dict[tuple, int] = {}
    parts_of = {}
    for cell in cells:
        for name, known in ((cell.arm, ARMS), (network_of(setting, cell), ARCHITECTURES)):
            if name not in known:
                raise ValueError(
                    f"generated_sets: there is no {name!r}{did_you_mean(name, known)}, which {cell} asks for; "
                    f"known: {', '.join(known)}"
                )
        arm, (_, n, classes) = ARMS[cell.arm], _shares(setting, cell)
        k = max(1, len(arm.tricks))
        if n < k or n * classes != setting.images * cell.times:
            raise ValueError(
                f"generated_sets: {setting.images} x {cell.times:g} images of {cell.target} cannot be shared equally "
                f"by {classes} classes and {k} tricks; take as many that {classes * k} divides them, such as "
                f"{-(-setting.images // (classes * k)) * classes * k}"
            )
        if not arm.tricks:
            real(setting, cell)  # refuses what the train split has not, before any work
        parts_of[cell] = {}
        for trick in dict.fromkeys((*arm.tricks, *arm.held_out)):
            part = parts_of[cell][trick] = (cell.target, trick, cell.seed, arm.shared_noise)
            _check(setting, cell.target, trick)
            own = math.ceil(n / k) if trick in arm.tricks else 0
            most[part] = max(most.get(part, 0), _held_out(setting, cell, trick) + own)
    return {
        cell: {trick: Generated(*p[:3], shared_noise=p[3], per_class=most[p]) for trick, p in parts.items()}
        for cell, parts in parts_of.items()
    }


def generate_sets(
    setting: Setting, ways: Mapping[Generated, Iterable[str | None]], execution: Execution
) -> dict[tuple[Generated, str | None], ImageSet]:
    """Return generated images as networks see them.

    Args:
        ways: for each set the values of `Arm.small` that are wanted; the largest sets come first.
        execution: a job is a batch of images and their CLIP features.
    """
    order = sorted(ways, key=lambda part: -part.per_class)
    plans = {part: _plan(setting, part) for part in order}
    results = run_jobs(_jobs(setting, plans, execution), execution, "generating")
    sets = {}
    for part, plan_of_part in plans.items():
        views: dict[str | None, list[np.ndarray]] = {way: [] for way in ways[part]}
        for _ in range(0, len(plan_of_part), execution.batch):
            images = next(results)["images"]
            for way, batches in views.items():
                size = setting.size if way is None else setting.small
                batches.append(shrink(images, min(size, images.shape[1]), way or "antialiased"))
        labels, classes = plan_of_part["label"].to_numpy(), target_images(setting, part.target).classes
        for way, batches in views.items():
            rows = plan_of_part.drop(columns="label")
            sets[part, way] = ImageSet(np.concatenate(batches), labels, tuple(classes), manifest=rows)
    return sets


def clip_features(setting: Setting, part: Generated, execution: Execution) -> np.ndarray:
    """Return the CLIP features of generated images, float32 (n, d), unit length."""
    jobs = _jobs(setting, {part: _plan(setting, part)}, execution)
    return np.concatenate([arrays["features"] for arrays in run_jobs(jobs, execution, "generating")])


def _jobs(setting: Setting, plans: Mapping[Generated, pd.DataFrame], execution: Execution) -> list[Job]:
    jobs = []
    for plan_of_part in plans.values():
        for start in range(0, len(plan_of_part), execution.batch):
            rows = plan_of_part.iloc[start : start + execution.batch]
            columns = tuple(rows[column].tolist() for column in ("prompt", "seed", "guidance"))
            name = key(setting=_facts(setting), rows=columns)
            jobs.append(Job(_generated, (setting, *columns), name, len(rows)))
    return jobs


def _generated(
    setting: Setting, prompts: list[str], seeds: list[int], scales: list[float]
) -> Mapping[str, np.ndarray]:
    generator, clip = open_models(setting)
    images = sample(generator, prompts, seeds, scales, setting.sampling_steps, len(prompts))
    return {"images": images, "features": clip.encode_images(images).cpu().numpy()}


def training_rows(setting: Setting, cell: Cell) -> dict[str, slice]:
    """Return by trick which rows of a cell's generated sets are its training set; those before them are held out."""
    _, n, classes = _shares(setting, cell)
    tricks, rows = ARMS[cell.arm].tricks, {}
    for i, trick in enumerate(tricks):
        first, own = _held_out(setting, cell, trick), n // len(tricks) + (i < n % len(tricks))
        rows[trick] = slice(first * classes, (first + own) * classes)
    return rows


def share(setting: Setting, cell: Cell, parts: Mapping[str, ImageSet]) -> tuple[ImageSet, ImageSet | None]:
    """Return a cell's training set and its held-out images, None where it has none, from its sets by trick."""
    arm = ARMS[cell.arm]
    if not arm.tricks:
        return real(setting, cell)
    rows, (held_out, _, classes) = training_rows(setting, cell), _shares(setting, cell)
    training = union(parts[trick].take(np.arange(own.start, own.stop)) for trick, own in rows.items())
    first = [parts[trick].take(np.arange(held_out * classes)) for trick in arm.held_out]
    return training, union(first) if first else None


def target_images(setting: Setting, target: str, size: int | None = None) -> ImageSet:
    """Return a target's test images, at the size that networks see or another."""
    return _load(setting, target, setting.test_split, setting.test_images, setting.test_seed, size or setting.size)


def real(setting: Setting, cell: Cell) -> tuple[ImageSet, ImageSet]:
    """Return as many real images as the cell's arm has, and further ones held out; other seeds have others."""
    held_out, n, classes = _shares(setting, cell)
    images = _load(setting, cell.target, "train", (n + held_out) * classes, cell.seed, side(setting, cell))
    return images.take(np.arange(n * classes)), images.take(np.arange(n * classes, len(images)))


def reference(setting: Setting, target: str, n: int) -> ImageSet:
    """Return n real images of the train split that sets are measured against, or all where it has fewer."""
    if target.partition(":")[0] not in datasets.WORLD:
        listing = datasets.open_listing(target, "train", setting.allow_network)
        n = min(n, int((listing.labels >= 0).sum()))
    return _load(setting, target, "train", n, 0, setting.size)


def network_of(setting: Setting, cell: Cell) -> str:
    """Return which network a cell trains, a key of `zsclib.models.networks.ARCHITECTURES`."""
    return setting.network if cell.architecture == MAIN else cell.architecture


def side(setting: Setting, cell: Cell) -> int:
    """Return how many pixels wide the images of a cell's network are."""
    return setting.size if ARMS[cell.arm].small is None else setting.small


def training_key(setting: Setting, cell: Cell) -> str:
    """Return a hash of all that decides a cell's training, except code: the same for cells that are one training."""
    images, plain = target_images(setting, cell.target), {"times": float(cell.times), "length": float(cell.length)}
    real_images = None if ARMS[cell.arm].tricks else real(setting, cell)[0].fingerprint()
    return key(
        setting=_facts(setting),
        cell=replace(cell, architecture=network_of(setting, cell), **plain),  # 1 and 1.0 are equal, their hashes not
        arm=ARMS[cell.arm],
        prompts=prompts_for(cell.target, images.classes),
        test=images.fingerprint(),
        real=real_images,
    )


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
    """Return images per class that a trick holds out and that the set has, and the number of classes."""
    classes = len(target_images(setting, cell.target).classes)
    return max(1, setting.held_out // classes), int(setting.images * cell.times) // classes, classes


def _held_out(setting: Setting, cell: Cell, trick: str) -> int:
    """Return how many images per class, its very first, a trick holds out."""
    return _shares(setting, cell)[0] if trick in PAPER else 0


def _plan(setting: Setting, part: Generated) -> pd.DataFrame:
    classes = target_images(setting, part.target).classes
    prompts = prompts_for(part.target, classes)
    return plan(part.trick, prompts, part.per_class, part.seed, classes=classes, shared_noise=part.shared_noise)


@functools.cache
def _check(setting: Setting, target: str, trick: str) -> None:
    part = Generated(target, trick, 0, shared_noise=False, per_class=20)  # more than there are domains
    rows = _plan(setting, part)
    check_plan(open_models(setting)[0], rows, target_images(setting, target).classes, setting.sampling_steps)


@functools.cache
def _facts(setting: Setting) -> str:
    """Return the hash of a setting, its models by their weights and not by their folders."""
    names = [part.name for part in fields(setting) if part.name not in ("model", "clip")]
    generator, clip = open_models(setting)
    return key(
        values={name: getattr(setting, name) for name in names},
        generator=generator.fingerprint(),
        clip=dict(clip.model.state_dict()),
    )
