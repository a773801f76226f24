"""The rivals that are trained: on generated images, on features, on the images of a class-conditional model (Li et al.,
ICCV 2023, tables 1 and 4, figure 6).

    execution = Execution(seed=0, cache=Cache(code=experiments), workers=Workers(2))
    targets = {name: load_target(name, n=200, size=32) for name in ("objects", "digits")}
    generated = generated_sets(generator, targets, 400, steps=8, execution=execution)
    scores = networks_on_generated(generated, targets, budget=8000, execution=execution)
    correct = {name: targets[name].correct(scores[COMPETENT, name].argmax(1)) for name in targets}

Every training is a job whose result, the scores of all test images, is cached: a run that was stopped goes on.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from zsclib import datasets
from zsclib.hashing import key
from zsclib.images.image_set import ImageSet
from zsclib.models.generator import Generator
from zsclib.models.networks import new_network
from zsclib.papers.diffusion_classifier.measurements import Target
from zsclib.papers.diffusion_classifier.sd_features import HEAD, train_on_features
from zsclib.prompts import Prompts, fill, load_prompts
from zsclib.recipe import Recipe
from zsclib.sampling import Guidance, generate
from zsclib.seeds import rng, seed_of
from zsclib.training import train
from zsclib.workers import Execution, Job, run_jobs

PAPER = "synthetic, the paper's recipe"
COMPETENT = "synthetic, competent"
GUIDANCE = {
    PAPER: Guidance(7.5),
    COMPETENT: Guidance(1, 5),
}  # Stable Diffusion's default; uniform from 1 to 5
# What the paper does not give (warm-up, smoothing, clipping) is off, as in `sd_features`; its epochs it does not give.
PAPER_RECIPE = Recipe(
    batch=256, learning_rate=0.1, warmup=0, weight_decay=1e-4, label_smoothing=0, max_gradient_norm=math.inf,
    crop=0.28, shift=0, flip=True, checkpoints=10,
)  # fmt: skip
SOURCE = {"objects-shift": "objects"}  # a shifted set is learned from images without the shift
UNMIRRORED = ("digits",)


# --- networks on generated images, heads on features ----------------------------------------------


def sources(targets: Iterable[str]) -> dict[str, list[str]]:
    """Return which targets are classified by what was learned for each set: an unshifted set serves its shifted one."""
    by_source: dict[str, list[str]] = {}
    for name in targets:
        by_source.setdefault(SOURCE.get(name.partition(":")[0], name), []).append(name)
    return by_source


def training_size(n: int, classes: int) -> int:
    """Return how many images are learned from: n, and with over 20 classes as many per class as 20 would have."""
    return round(n * max(1, classes / 20))


def random_templates(prompts: Prompts, n: int, guidance: float = 7.5, seed: int = 0) -> pd.DataFrame:
    """Return a plan of n images for `zsclib.sampling.generate`: every class in templates chosen at random.

    The paper generates 10,000 images of a class at "default settings" (Stable Diffusion: guidance 7.5, 50 steps) in
    random templates of CLIP's; the pocket models know those in `data/prompts`.

    Args:
        prompts: `templates` and `classes`, as `zsclib.prompts.load_prompts` reads them.
        n: images in all, classes in turn; a shorter plan is the beginning of a longer one.
        guidance: one scale for all.
        seed: of templates and images.

    Returns:
        A row per image: label, class, index (within the class), prompt, guidance, seed (of its first noise).
    """
    if n < 1:
        raise ValueError(f"random_templates: the number of images must be 1 or more, got {n}")
    sentences = [fill(template, prompts.classes) for template in prompts.templates]
    rows = []
    for i in range(n):
        index, label = divmod(i, len(prompts.classes))
        name = prompts.classes[label]
        template = int(rng(seed, "template", name, index).integers(len(sentences)))
        rows.append({
            "label": label, "index": index, "prompt": sentences[template][label], "guidance": float(guidance),
            "seed": seed_of(seed, "drawing", name, index),
        })  # fmt: skip
    return pd.DataFrame(rows)


def generated_sets(
    generator: Generator, targets: Iterable[str], n: int, steps: int, execution: Execution
) -> dict[tuple[str, str], ImageSet]:
    """Generate the training sets of "Synthetic SD data": the same prompts and first noise for both arms.

    Args:
        targets: names of sets, each with prompts in `data/prompts`.
        n: images a set (see `training_size`); 0: no sets. steps: DDIM steps.

    Returns:
        (arm, source) → images, for the arms of `GUIDANCE` and the sets of `sources(targets)`.
    """
    execution = replace(execution, batch=max(1, execution.batch // 2))  # a guided image takes two evaluations
    sets = {}
    for arm, guidance in GUIDANCE.items() if n else ():
        for name in sources(targets):
            prompts = load_prompts(name)
            plan = training_plan(prompts, training_size(n, len(prompts.classes)), guidance, execution.seed)
            sets[arm, name] = generate(generator, plan, prompts.classes, steps=steps, execution=execution)
    return sets


def training_plan(prompts: Prompts, n: int, guidance: Guidance, seed: int) -> pd.DataFrame:
    """Return the plan of `random_templates` with a guidance scale of its own for each image."""
    plan = random_templates(prompts, n, seed=seed)
    plan["guidance"] = [guidance.draw(seed, "drawing", i) for i in range(len(plan))]
    return plan


def networks_on_generated(
    generated: Mapping[tuple[str, str], ImageSet],
    targets: Mapping[str, Target],
    budget: int,
    execution: Execution,
    device: str = "cpu",
) -> dict[tuple[str, str], np.ndarray]:
    """Train a ResNet-50 layout on each generated set; a tenth of it chooses the checkpoint.

    Args:
        generated: from `generated_sets`. budget: images that each network is trained on, repeats included.

    Returns:
        (arm, target) → logits on the test images, float32 (n, classes).
    """
    jobs, names = [], []
    for (arm, source), images in generated.items():
        tests = {name: targets[name].images for name in sources(targets)[source]}
        recipe = Recipe(batch=64) if arm == COMPETENT else PAPER_RECIPE
        steps = max(1, budget // recipe.batch)
        recipe = replace(recipe, steps=steps, flip=recipe.flip and source not in UNMIRRORED)
        parts = {"images": images.images, "labels": images.labels, "recipe": recipe, "seed": execution.seed}
        name = key(**parts, tests=tests, code=train)
        jobs.append(Job(_scores_of_network, (images, recipe, tests, execution.seed, device), name))
        names.append(arm)
    return _by_arm(names, run_jobs(jobs, execution, "training on generated images"))


def heads_on_features(
    generator: Generator, targets: Mapping[str, Target], n: int, budget: int, execution: Execution
) -> dict[str, np.ndarray]:
    """Train "SD features", a head on the frozen network's maps of labelled images of each set's train split.

    Args:
        n: labelled images a set (see `training_size`); 0: no heads. budget: maps that a head is trained on, repeats
            included.

    Returns:
        target → logits on the test images, float32 (n, classes).
    """
    jobs, recipe = [], replace(HEAD, steps=max(10, budget // 32))
    for source, names in sources(targets).items() if n else ():
        labelled = datasets.load(source, "train", n=training_size(n, len(targets[names[0]].classes)))
        tests = {name: targets[name].images for name in names}
        parts = {
            "images": labelled.images,
            "labels": labelled.labels,
            "recipe": recipe,
            "seed": execution.seed,
        }
        name = key(generator=generator.fingerprint(), **parts, tests=tests, code=train_on_features)
        jobs.append(Job(_scores_of_head, (generator, labelled, recipe, tests, execution.seed), name))
    return {
        name: scores
        for arrays in run_jobs(jobs, execution, "training heads")
        for name, scores in arrays.items()
    }


def _scores_of_network(
    images: ImageSet, recipe: Recipe, tests: Mapping[str, np.ndarray], seed: int, device: str
) -> Mapping[str, np.ndarray]:
    training, held_out = datasets.hold_out(images, seed=seed)
    network = new_network("resnet50", images.classes, size=images.images.shape[1], seed=seed)
    trained = train(network, training, recipe, seed, validation=held_out, device=device)
    return {name: trained.scores(pixels) for name, pixels in tests.items()}


def _scores_of_head(
    generator: Generator, labelled: ImageSet, recipe: Recipe, tests: Mapping[str, np.ndarray], seed: int
) -> Mapping[str, np.ndarray]:
    head = train_on_features(generator, labelled, recipe, seed=seed)
    return {name: head.scores(pixels) for name, pixels in tests.items()}


def _by_arm(
    arms: list[str], results: Iterable[Mapping[str, np.ndarray]]
) -> dict[tuple[str, str], np.ndarray]:
    return {
        (arm, name): scores
        for arm, arrays in zip(arms, results, strict=True)
        for name, scores in arrays.items()
    }


# --- networks beside the class-conditional DiT ----------------------------------------------------


@functools.cache
def dit_training_images(
    folder: str, n: int | None = None, size: int | None = None
) -> tuple[ImageSet, ImageSet]:
    """Return the images that a class-conditional model was trained on, and up to 256 that were held out from it.

    Args:
        folder: of the model, with the training.json that says which set. n: the first of them; None for all.
        size: side in pixels; None: as they are.
    """
    facts = json.loads((Path(folder) / "training.json").read_text(encoding="utf-8"))["dit"]["facts"]["set"]
    n = min(n or facts["n"], facts["n"] - facts["held_out"])
    images = datasets.load(facts["name"], "train", n + min(facts["held_out"], 256), facts["seed"], size)
    return images.take(range(n)), images.take(range(n, len(images)))


def networks_beside_dit(
    folder: str,
    networks: Mapping[str, int],
    targets: Mapping[str, Target],
    n: int | None,
    execution: Execution,
    device: str = "cpu",
) -> dict[tuple[str, str], np.ndarray]:
    """Train networks on the very images of a class-conditional model; held-out images choose the checkpoints.

    Args:
        folder, n: as `dit_training_images`. networks: name of `zsclib.models.networks` → training steps.

    Returns:
        (network, target) → logits on the test images, float32 (n, classes); and (network, "validation") → accuracy on
        held-out images at five checkpoints, float64 (5,).
    """
    if not targets:
        return {}
    tests = {name: target.images for name, target in targets.items()}
    jobs = []
    for network, steps in networks.items():
        recipe = Recipe(steps=steps, batch=64, shift=0, checkpoints=5)  # flips only, as the DiT
        parts = {"network": network, "recipe": recipe, "seed": execution.seed, "n": n, "tests": tests}
        name = key(**parts, training=Path(folder) / "training.json", code=train)
        jobs.append(
            Job(_scores_beside_dit, (folder, n, network, recipe, tests, execution.seed, device), name)
        )
    return _by_arm(list(networks), run_jobs(jobs, execution, "training beside the DiT"))


def _scores_beside_dit(
    folder: str,
    n: int | None,
    name: str,
    recipe: Recipe,
    tests: Mapping[str, np.ndarray],
    seed: int,
    device: str,
) -> Mapping[str, np.ndarray]:
    images, held_out = dit_training_images(folder, n)
    network = new_network(name, images.classes, seed=seed)
    trained = train(network, images, recipe, seed, validation=held_out, device=device)
    scores = {test: trained.scores(pixels) for test, pixels in tests.items()}
    return scores | {"validation": trained.history.validation.to_numpy()}
