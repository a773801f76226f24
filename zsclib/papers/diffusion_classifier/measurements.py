"""What is measured without any training: errors of many images at many timesteps, and the arms that follow from them.

    execution = Execution(seed=0, cache=Cache(code=measurements), workers=Workers(2))
    targets = {name: load_target(name, n=100, size=32) for name in ("objects", "digits")}
    errors = measure(generator, targets, 100, exhaustive(16), [Measure(), Measure("l1")], execution)
    correct(errors[Measure("l1")], targets)                  # target -> which images are given their class
    frequency(errors[Measure()], targets, subgrids(exhaustive(16).t, 4))    # and how often, from four timesteps alone

Nearly every ablation is a function of such matrices, target -> errors (n images, C classes, K timesteps).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from zsclib import datasets
from zsclib.images.image_set import content_hash
from zsclib.models.clip import Clip
from zsclib.models.generator import Generator
from zsclib.own_sets import short_name
from zsclib.papers.diffusion_classifier import winoground
from zsclib.papers.diffusion_classifier.ablations import Measure, best_classes, repeated
from zsclib.papers.diffusion_classifier.classifier import Result, classify
from zsclib.papers.diffusion_classifier.engine import error_matrices
from zsclib.papers.diffusion_classifier.error_matrix import (
    Schedule,
    blocks,
    crowded,
    exhaustive,
    prediction,
    scores_from_errors,
    subgrids,
)
from zsclib.prompts import fill, load_prompts, prompts_of
from zsclib.workers import Execution

Errors = Mapping[str, np.ndarray]  # target -> errors (n, C, K)
POOLED = "all of them, pooled"


@dataclass(frozen=True, kw_only=True, eq=False)
class Target:
    """A labelled test set, and the prompt that each of its classes is asked about with; made by `load_target`."""

    name: str
    images: np.ndarray  # uint8 (n, H, W, 3)
    labels: np.ndarray  # int64 (n,)
    classes: tuple[str, ...]
    prompts: tuple[str, ...]
    own_names: tuple[str, ...] = ()  # what the set itself calls its classes (a folder: its sub-folders); (): the same
    unlabelled: int = 0  # images of the set that were left out since they have no label

    def __len__(self) -> int:
        return len(self.images)

    @property
    def short_name(self) -> str:
        """The name as records have it: of a path its end, in lower case, words joined by underscores."""
        return short_name(self.name)

    @property
    def title(self) -> str:
        """The name as pages have it: no path, words joined by hyphens."""
        return self.short_name.replace("_", "-")

    def by_class_name(self) -> Target:
        """Return the same with bare class names for prompts, as class-conditional models take them."""
        return replace(self, prompts=self.classes)

    def by_class(self) -> list[tuple[str, str, str, int]]:
        """Return a row per class: what the set calls it, its name here, its prompt, and its number of images."""
        counts = np.bincount(self.labels, minlength=len(self.classes)).tolist()
        return list(zip(self.own_names or self.classes, self.classes, self.prompts, counts, strict=True))

    def first(self, n: int) -> Target:
        """Return the target of the first n images."""
        return replace(self, images=self.images[:n], labels=self.labels[:n])

    def correct(self, predictions: np.ndarray) -> np.ndarray:
        """Return which of the first images are given their class, bool (n,) for predictions (n,)."""
        return predictions == self.labels[: len(predictions)]


def load_target(
    name: str,
    n: int | None = None,
    size: int | None = None,
    classes: datasets.Names = (),
    template: str = "",
    split: str = "test",
    allow_network: bool = False,
) -> Target:
    """Load a set, the page's or one's own, with one prompt per class; arguments as `zsclib.datasets.load_own`."""
    if split == "test":
        images, prompts = datasets.load_own(name, classes, template, n, size, allow_network)
    else:
        images = datasets.load(name, split, n, size=size, allow_network=allow_network)
        prompts = prompts_of(name, images.classes, template)
    listing = datasets.own_listing(name) if split == "test" else None
    return Target(
        name=name, images=images.images, labels=images.labels, classes=images.classes, prompts=tuple(prompts),
        own_names=listing.classes if listing else images.classes,
        unlabelled=int((listing.labels < 0).sum()) if listing else 0,
    )  # fmt: skip


# --- matrices of errors ---------------------------------------------------------------------------


def measure(
    generator: Generator,
    targets: Mapping[str, Target],
    n: int,
    schedule: Schedule,
    measures: Sequence[Measure] = (Measure(),),
    execution: Execution = Execution(),
) -> dict[Measure, dict[str, np.ndarray]]:
    """Return the errors of every target's first n images by each of several measures of the same evaluations.

    Returns:
        measure → target → float32 (n, C, K).
    """
    matrices = {
        name: error_matrices(
            generator, target.images[:n], target.prompts, schedule, measures, execution=execution
        )
        for name, target in targets.items()
    }  # fmt: skip
    return {each: {name: by_measure[each] for name, by_measure in matrices.items()} for each in measures}


def at(errors: Errors, columns: int | Sequence[int] | np.ndarray) -> dict[str, np.ndarray]:
    """Return the errors at the first so many timesteps, or at these columns."""
    chosen = slice(columns) if isinstance(columns, int) else np.asarray(columns)
    return {name: matrix[:, :, chosen] for name, matrix in errors.items()}


def correct(errors: Errors, targets: Mapping[str, Target]) -> dict[str, np.ndarray]:
    """Return target → which of its images are given their class, bool (n,)."""
    return {name: targets[name].correct(prediction(matrix)) for name, matrix in errors.items()}


def frequency(
    errors: Errors, targets: Mapping[str, Target], grids: Sequence[Sequence[int]]
) -> dict[str, np.ndarray]:
    """Return target → how often each image is given its class by decisions from each of these grids of columns alone.

    That is the accuracy of an arm that rests on few of the measured timesteps, without the luck of which few: float64
    (n,), the mean over grids.
    """
    outcomes = [correct(at(errors, columns), targets) for columns in grids]
    return {name: np.mean([outcome[name] for outcome in outcomes], axis=0) for name in errors}


def ways_to_spend(
    even: Errors, two: Errors, one: Errors, targets: Mapping[str, Target], t: Sequence[int], T: int = 1000
) -> dict[str, dict[int, dict[str, np.ndarray]]]:
    """Return how often images are given their class by numbers of evaluations per class, spent in four ways (figure 4).

    Args:
        even: errors at the timesteps t. two, one: errors at two timesteps and at one, with several noises each.

    Returns:
        "even", "two timesteps", "one timestep", "crowded" → evaluations per class, powers of 2 → target → (n,).
    """
    columns = {way: next(iter(errors.values())).shape[2] for way, errors in (("two", two), ("one", one))}
    powers = [2**i for i in range(len(t).bit_length())]
    grids = {
        "even": (even, {k: subgrids(t, k) for k in powers}),
        "two timesteps": (two, {k: blocks(columns["two"], k) for k in powers if 2 <= k <= columns["two"]}),
        "one timestep": (one, {k: blocks(columns["one"], k) for k in powers if k <= columns["one"]}),
        "crowded": (even, {k: crowded(t, k, T) for k in powers if k <= len(t) // 4}),
    }
    return {
        way: {k: frequency(errors, targets, each) for k, each in by_budget.items()}
        for way, (errors, by_budget) in grids.items()
    }


def among_best(
    errors: Errors, scores: Mapping[str, np.ndarray], k: int | None = None
) -> dict[str, np.ndarray]:
    """Return the errors of each image's k classes of highest score alone (default: half of them), NaN elsewhere."""
    return {
        name: np.where(best_classes(scores[name], k or matrix.shape[1] // 2)[:, :, None], matrix, np.nan)
        for name, matrix in errors.items()
    }


class Example(NamedTuple):
    """One image under its own prompt and under that of the class that comes next."""

    image: np.ndarray  # uint8 (H, W, 3)
    prompts: tuple[str, str]  # the true one, the runner-up
    t: np.ndarray  # int64 (K,)
    errors: np.ndarray  # float32 (2 prompts, m noises, K)


def median_example(
    generator: Generator, target: Target, errors: np.ndarray, noises: int, K: int, execution: Execution
) -> Example:
    """Measure the image of median margin with several noises at each of K timesteps (figure 2).

    Args:
        errors: (n, C, any K) of the target's first images, which say the margin of each: the score of its class less
            that of the best other one.
    """
    scores, labels = scores_from_errors(errors), target.labels[: len(errors)]
    rows = np.arange(len(labels))
    rivals = np.where(np.arange(scores.shape[1]) == labels[:, None], -np.inf, scores).argmax(1)
    margins = scores[rows, labels] - scores[rows, rivals]
    i = int(np.argsort(margins)[len(labels) // 2])
    prompts = (target.prompts[labels[i]], target.prompts[rivals[i]])
    schedule = repeated(K, noises, generator.T)
    (matrix,) = error_matrices(generator, target.images[[i]], prompts, schedule, execution=execution).values()
    return Example(target.images[i], prompts, np.array(schedule.t[:K]), matrix[0].reshape(2, noises, K))


# --- arms that are classified anew ----------------------------------------------------------------


def clip_scores(clip: Clip, target: Target, ensemble: bool = False) -> np.ndarray:
    """Return CLIP's scores, float32 (n, C): by the target's own prompts, or by all templates of its name."""
    if ensemble:
        prompts = load_prompts(target.name)
        return clip.zero_shot(prompts.classes, prompts.templates).scores(target.images)
    return clip.zero_shot(target.prompts, ["{}"]).scores(target.images)  # whole sentences


def on_validation(
    generator: Generator, name: str, n: int, schedule: Schedule, loss: str, execution: Execution
) -> tuple[Target, Result]:
    """Classify n validation images of a set; their noise hangs on their pixels, so none is that of a test image."""
    target = load_target(name, n, generator.image_size, split="validation")
    keys = content_hash(target.images)
    result = classify(
        generator, target.images, target.prompts, schedule, loss=loss, keys=keys, execution=execution
    )
    return target, result


def correct_by_template(
    generator: Generator,
    target: Target,
    K: int,
    loss: str,
    execution: Execution,
    keys: Sequence[int | str] | None = None,
) -> dict[str, np.ndarray]:
    """Classify a target with each template of its name alone, and with all pooled: errors averaged before ranking.

    Args:
        K: timesteps. loss, keys: as for `classify`.

    Returns:
        template, and POOLED → which images are given their class, bool (n,); the default template first.
    """
    prompts = load_prompts(target.name)
    names = list(dict.fromkeys([prompts.template, *prompts.templates]))
    texts = [text for template in names for text in fill(template, prompts.classes)]
    schedule = exhaustive(K, generator.T)
    errors = classify(
        generator, target.images, texts, schedule, loss=loss, keys=keys, execution=execution
    ).errors
    errors = errors.reshape(len(target), len(names), -1, K)  # (n, templates, C, K)
    by_template = {name: target.correct(prediction(errors[:, i])) for i, name in enumerate(names)}
    return by_template | {POOLED: target.correct(prediction(errors.mean(1)))}


def winoground_arms(
    generator: Generator,
    clip: Clip,
    pairs: winoground.Pairs,
    schedule: Schedule,
    loss: str,
    execution: Execution,
) -> dict[str, dict[str, np.ndarray]]:
    """Solve examples of two images and two captions by errors less the unconditional one, by raw errors, and by CLIP.

    Returns:
        arm → score of `winoground.CHANCE` → which examples are solved, bool (n,).
    """
    errors = winoground.pair_errors(generator, pairs, schedule, loss=loss, execution=execution)
    s, unconditional = winoground.pair_scores(*errors)
    return {
        "diffusion": winoground.solved(winoground.subtract_unconditional(s, unconditional)),
        "diffusion, raw errors": winoground.solved(s),
        "CLIP": winoground.solved(winoground.clip_pair_scores(clip, pairs)),
    }
