"""The trained rivals of the study: networks on ever more generated images, heads on ever more labels, networks beside
the class-conditional model; each several times, with checkpoints chosen on held-out images.

    scores, curves = on_generated(generator, "digits", {"digits": images}, equal, budget, execution)
    scores["digits"]["synthetic, competent, 400 images, training 1"]  # float32 (n, C)
    curves["synthetic, competent, 400 images, training 1"]  # accuracy on held-out images, at every checkpoint
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from zsclib import datasets
from zsclib.hashing import key
from zsclib.images.image_set import ImageSet
from zsclib.models.generator import Generator
from zsclib.models.networks import new_network
from zsclib.papers.diffusion_classifier.arms import FEATURES
from zsclib.papers.diffusion_classifier.experiments import (
    COMPETENT,
    GUIDANCE,
    PAPER,
    PAPER_RECIPE,
    UNMIRRORED,
    dit_training_images,
    training_plan,
)
from zsclib.papers.diffusion_classifier.sd_features import HEAD, FeatureClassifier, train_on_features
from zsclib.prompts import load_prompts
from zsclib.recipe import Recipe
from zsclib.sampling import generate
from zsclib.training import TrainedNetwork, train
from zsclib.workers import Execution, Job, run_jobs

EQUAL = "as many evaluations"
TWICE = ", twice the steps"
HELD_OUT = 0.1  # of the generated images, the last of them, which choose checkpoints
VALIDATION = 1000  # labelled images of the validation split that say whether a head's training had ended
Tests = Mapping[str, np.ndarray]  # set -> its test images, uint8 (n, H, W, 3)
Scores = dict[str, dict[str, np.ndarray]]  # set -> arm -> logits on its test images, float32 (n, C)
Curves = dict[str, list[float]]  # arm -> accuracy on held-out images at every checkpoint


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What the rivals may spend.

    Attributes:
        sizes: generated images a set. labels: labelled images a set. paper_images: of the paper's recipe.
        network: a name of `zsclib.models.networks`. steps, head_steps: of 64 images each.
        sampling_steps: DDIM steps of a generated image. trainings: of every network, each with a seed of its own and,
            where there are enough, images of its own.
    """

    sizes: Sequence[int]
    labels: Sequence[int]
    paper_images: int
    network: str
    steps: int
    head_steps: int
    sampling_steps: int
    trainings: int


def trained(arm: str, training: int) -> str:
    """Return the name of the outcomes of one training of an arm, counted from 1."""
    return f"{arm}, training {training}"


def arm_and_training(name: str) -> tuple[str, int]:
    """Return arm and number of a training; 0 where the name is that of an arm without any."""
    match = re.fullmatch(r"(.*), training (\d+)", name)
    return (match[1], int(match[2])) if match else (name, 0)


def with_images(n: int | str) -> str:
    """Return the name of the arm of a network on n generated images, or on `EQUAL`."""
    return f"{COMPETENT}, {n}" if isinstance(n, str) else f"{COMPETENT}, {n} images"


def shorter(network: str, steps: int) -> str:
    """Return the name of the arm of a network beside the class-conditional model that is trained for fewer steps."""
    return f"{network}, {steps} steps"


def steps_of(arm: str) -> int | None:
    """Return the steps of an arm that `shorter` names, None for any other arm."""
    match = re.fullmatch(r".*, (\d+) steps", arm)
    return int(match[1]) if match else None


def kind_of(arm: str) -> str:
    """Return the network of an arm beside the class-conditional model, however long it is trained."""
    return arm.partition(", ")[0]


def with_labels(n: int) -> str:
    """Return the name of the arm of a head on n labelled images."""
    return f"{FEATURES}, {n} images"


def generated_arms(budget: Budget) -> list[str]:
    """Return the arms of `on_generated`, by training; the one of twice the steps is trained once."""
    arms = [PAPER, *map(with_images, (*budget.sizes, EQUAL))]
    each = [trained(arm, k) for arm in arms for k in range(1, budget.trainings + 1)]
    return [*each, trained(with_images(EQUAL) + TWICE, 1)]


def on_generated(
    generator: Generator, name: str, tests: Tests, equal: int, budget: Budget, execution: Execution
) -> tuple[Scores, Curves]:
    """Train networks on generated images of a set's classes; the last tenth of all images chooses the checkpoint.

    All get the same number of steps. What the trainings of an arm learn from says `part_of`.

    Args:
        name: of a set with prompts in `data/prompts`. tests: what the networks are asked about.
        equal: images whose generation takes as many evaluations as the diffusion classifier spends.
        execution: its seed is that of the generated images; trainings count theirs from it.

    Returns:
        Of each of `generated_arms` the scores, and the accuracy on held-out images at every checkpoint.
    """
    prompts, half = load_prompts(name), replace(execution, batch=max(1, execution.batch // 2))
    numbers = {PAPER: budget.paper_images, with_images(EQUAL): equal} | {with_images(n): n for n in budget.sizes}
    most = {
        PAPER: _with_held_out(budget.trainings * budget.paper_images),
        COMPETENT: max(equal, _with_held_out(max(budget.sizes))),
    }
    sets = {
        arm: generate(
            generator, training_plan(prompts, n, GUIDANCE[arm], execution.seed), prompts.classes,
            steps=budget.sampling_steps, execution=half,
        )
        for arm, n in most.items()
    }  # fmt: skip
    own = Recipe(steps=budget.steps, batch=64, flip=name not in UNMIRRORED)
    steps = max(10, budget.steps * 64 // PAPER_RECIPE.batch)
    theirs = replace(PAPER_RECIPE, steps=steps, flip=PAPER_RECIPE.flip and own.flip)
    longer = with_images(EQUAL) + TWICE
    numbers[longer], recipes = equal, {PAPER: theirs, longer: replace(own, steps=2 * budget.steps)}
    jobs = {}
    for arm, k in map(arm_and_training, generated_arms(budget)):
        learned = part_of(sets[PAPER if arm == PAPER else COMPETENT], numbers[arm], k, budget.trainings)
        jobs[trained(arm, k)] = _job(budget.network, learned, recipes.get(arm, own), tests, execution.seed + k - 1)
    return _run(jobs, execution, "training on generated images")


def part_of(images: ImageSet, n: int, training: int, trainings: int) -> tuple[ImageSet, ImageSet]:
    """Return what one training of several learns from, and the images held out from all of them, the last tenth.

    Args:
        images: all that were generated, classes in turn.
        n: images of a training: its own where there are enough for all trainings, else the first.
        training: counted from 1.
    """
    rest = len(images) - round(HELD_OUT * len(images))
    first = (training - 1) * n if trainings * n <= rest else 0
    return images.take(range(first, min(first + n, rest))), images.take(range(rest, len(images)))


def _with_held_out(n: int) -> int:
    """Return how many images there must be for n of them not to be held out."""
    return math.ceil(n / (1 - HELD_OUT))


def labelled_arms(budget: Budget, name: str) -> list[str]:
    """Return the arms of `on_features` on a set, by training: with no more labels than there are, and with the most of
    them once for twice the steps."""
    sizes = [n for n in budget.labels if n <= number_of_labels(name)]
    each = [trained(with_labels(n), k) for n in sizes for k in range(1, budget.trainings + 1)]
    return [*each, trained(with_labels(max(sizes)) + TWICE, 1)]


def number_of_labels(name: str) -> int:
    """Return how many labelled images a set has to train on; there is no end to those of the made-up world."""
    return 10 * datasets.DIGIT_SPLITS["train"] if name == "digits" else 10**9


def on_features(
    generator: Generator, name: str, tests: Tests, budget: Budget, execution: Execution
) -> tuple[Scores, Curves]:
    """Train heads on the frozen network's maps of a set's labelled images, each training on images of its own.

    None is held out, for of a hundred labels a tenth would be missed; the last checkpoint is taken. Of digits there are
    no more than a thousand, which all trainings share. Arguments and result as `on_generated`, of the arms of
    `labelled_arms`; the curve of a head is its accuracy at the end, on images of the validation split.
    """
    jobs, size = {}, generator.image_size
    held_out = datasets.load(name, "validation", VALIDATION, size=size)
    for arm in labelled_arms(budget, name):
        what, k = arm_and_training(arm)
        n = next(n for n in budget.labels if with_labels(n) == what.removesuffix(TWICE))
        steps = budget.head_steps * (2 if what.endswith(TWICE) else 1)
        recipe = replace(HEAD, steps=steps, checkpoints=1)
        most, seed = min(max(budget.labels), number_of_labels(name)), execution.seed + k - 1
        labelled = _labelled(name, most, seed, size).take(range(n))
        facts = {"images": labelled.images, "labels": labelled.labels, "recipe": recipe, "seed": seed, "held_out": 0}
        facts |= {"validation": held_out.images, "tests": dict(tests), "code": train_on_features}
        named = key(generator=generator.fingerprint(), **facts)
        jobs[arm] = Job(_head, (generator, labelled, recipe, dict(tests), held_out, seed), named)
    return _run(jobs, execution, "training heads")


def beside_dit(
    folder: str,
    networks: Mapping[str, int],
    rates: Mapping[str, float],
    tests: Tests,
    execution: Execution,
    device: str = "cpu",
) -> tuple[Scores, Curves]:
    """Train networks on the images of a class-conditional model; held-out images choose the checkpoint.

    Args:
        folder: of the model. networks: arm, by training → steps of 64 images. rates: network → learning rate.
        tests: as in `on_generated`.
    """
    jobs, size = {}, next(iter(tests.values())).shape[1]
    for arm, steps in networks.items():
        what, k = arm_and_training(arm)
        network, seed = kind_of(what), execution.seed + k - 1
        jobs[arm] = _beside_job(folder, network, steps, rates[network], tests, size, seed, device)
    return _run(jobs, execution, "training beside the DiT")


def learning_rates(
    folder: str,
    networks: Mapping[str, int],
    rates: Sequence[float],
    size: int,
    execution: Execution,
    device: str = "cpu",
) -> dict[str, dict[str, float]]:
    """Return network → learning rate, as text → best accuracy on images held out from a class-conditional model.

    Args:
        folder: of the model. networks: network → steps of 64 images, few enough for rates to differ. rates: to try.
        size: of the images, in pixels.
    """
    jobs = {
        (network, rate): _beside_job(folder, network, steps, rate, {}, size, execution.seed, device)
        for network, steps in networks.items()
        for rate in rates
    }
    results = run_jobs(jobs.values(), execution, "choosing learning rates beside the DiT")
    best: dict[str, dict[str, float]] = {}
    for (network, rate), arrays in zip(jobs, results, strict=True):
        best.setdefault(network, {})[f"{rate:g}"] = round(float(arrays["validation"].max()), 4)
    return best


def _beside_job(
    folder: str, network: str, steps: int, rate: float, tests: Tests, size: int, seed: int, device: str
) -> Job:
    recipe = Recipe(steps=steps, batch=64, learning_rate=rate, shift=0, checkpoints=5)  # flips only, as the DiT
    facts = {"network": network, "recipe": recipe, "seed": seed, "tests": dict(tests), "size": size, "code": train}
    named = key(training=Path(folder) / "training.json", **facts)
    return Job(_beside, (folder, network, recipe, dict(tests), size, seed, device), named)


def _job(network: str, learned: tuple[ImageSet, ImageSet], recipe: Recipe, tests: Tests, seed: int) -> Job:
    facts = {"images": [part.images for part in learned], "labels": [part.labels for part in learned]}
    facts |= {"recipe": recipe, "seed": seed, "network": network, "tests": dict(tests), "code": train}
    return Job(_network, (network, learned, recipe, dict(tests), seed), key(**facts))


def _network(
    network: str, learned: tuple[ImageSet, ImageSet], recipe: Recipe, tests: Tests, seed: int
) -> dict[str, np.ndarray]:
    images, held_out = learned
    start = new_network(network, images.classes, size=images.images.shape[1], seed=seed)
    done = train(start, images, recipe, seed, validation=held_out)
    return _scores(done, tests) | {"validation": done.history.validation.to_numpy()}


def _head(
    generator: Generator, labelled: ImageSet, recipe: Recipe, tests: Tests, held_out: ImageSet, seed: int
) -> dict[str, np.ndarray]:
    head = train_on_features(generator, labelled, recipe, seed=seed, held_out=0)
    right = head.scores(held_out.images).argmax(1) == held_out.labels
    return _scores(head, tests) | {"validation": np.array([right.mean()])}


@functools.lru_cache(maxsize=3)  # the trainings of a set: each of their arms takes the first of these images
def _labelled(name: str, n: int, seed: int, size: int) -> ImageSet:
    return datasets.load(name, "train", n, seed, size)


def _beside(
    folder: str, name: str, recipe: Recipe, tests: Tests, size: int, seed: int, device: str
) -> dict[str, np.ndarray]:
    images, held_out = dit_training_images(folder, size=size)
    network = new_network(name, images.classes, size=size, seed=seed)
    done = train(network, images, recipe, seed, validation=held_out, device=device)
    return _scores(done, tests) | {"validation": done.history.validation.to_numpy()}


def _scores(classifier: TrainedNetwork | FeatureClassifier, tests: Tests) -> dict[str, np.ndarray]:
    return {name: classifier.scores(images) for name, images in tests.items()}


def _run(jobs: Mapping[str, Job], execution: Execution, what: str) -> tuple[Scores, Curves]:
    results = dict(zip(jobs, run_jobs(jobs.values(), execution, what), strict=True))
    scores: Scores = {}
    for arm, arrays in results.items():
        for name in arrays.keys() - {"validation"}:
            scores.setdefault(name, {})[arm] = arrays[name]
    curves = {arm: arrays["validation"] for arm, arrays in results.items() if "validation" in arrays}
    return scores, {arm: curve.round(4).tolist() for arm, curve in curves.items()}
