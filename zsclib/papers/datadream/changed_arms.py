"""Arms that change the shots and leave the generator as it is: image-to-image from a noised shot, two ways.

Both take the shots of a class in turn, and every image has seeds of its own, so that fewer images are the beginning of
more. Guidance and sampler are those of all arms.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from zsclib.hashing import key
from zsclib.images.image_set import ImageSet
from zsclib.models.generator import Generator
from zsclib.papers.datadream.generated_arms import evaluations_of, noise_seed
from zsclib.papers.datadream.pool_arms import captions
from zsclib.papers.datadream.training_sets import (
    Setting,
    Shots,
    at_side,
    class_prompts,
    open_filter,
    open_generation,
    shown,
)
from zsclib.sampling import image_to_image
from zsclib.seeds import rng, seed_of
from zsclib.workers import Execution, Job, run_jobs


def real_guidance(setting: Setting, one: Shots, n: int, execution: Execution) -> ImageSet:
    """Real guidance (He et al. 2023, IsSynth): a shot noised part of the way and denoised under its class's prompt.

    How far depends on the number of shots, `setting.strength`: the more there are, the less they are changed.
    """
    plan, prompts = _plan(one, n), class_prompts(setting, one)
    plan["prompt"] = [prompts[y] for y in plan["label"]]
    plan["seed"] = [noise_seed(setting, one, name, i) for name, i in zip(plan["class"], plan["i"], strict=True)]
    images = _changed(setting, one, plan, setting.strength, execution)
    evaluations = evaluations_of(setting.guidance, _steps(setting, setting.strength))
    facts = {"source": "real guidance", "strength": setting.strength, "evaluations": evaluations}
    return _image_set(setting, one, images, plan.assign(**facts))


def disef(setting: Setting, one: Shots, n: int, execution: Execution) -> tuple[ImageSet, pd.DataFrame]:
    """DISEF (da Costa et al. 2023): a shot noised and denoised under the caption of another shot of its class.

    A shot's caption is that of the pool image nearest to it, in the place of a captioning model's. An image stays where
    CLIP's arg-max, among the classes' prompts, is its class; where not, it is made anew with other noise and another
    shot's caption, `setting.rounds` times at most. Then the last attempt stays.

    Returns:
        The set, and a row per class: `attempts`, and `unfiltered`, the images that CLIP takes for another class.
    """
    plan, classes = _plan(one, n), one.real.classes
    filter_by = open_filter(setting).zero_shot(class_prompts(setting, one), ["{}"])
    of_shots = captions(setting, one.real.images)
    labels, images, pending = plan["label"].to_numpy(), None, np.arange(len(plan))
    attempts, passes = np.zeros(len(plan), np.int64), np.zeros(len(plan), bool)
    plan = plan.assign(prompt="", seed=0, captioned=0)
    for attempt in range(setting.rounds):
        part = _attempt(one, plan.iloc[pending], of_shots, attempt)
        changed = _changed(setting, one, part, setting.other_strength, execution)
        images = np.empty((len(plan), *changed.shape[1:]), np.uint8) if images is None else images
        images[pending] = changed
        for column in ("prompt", "seed", "captioned"):
            plan.loc[pending, column] = part[column]
        attempts[pending] += 1
        passes[pending] = filter_by.scores(changed).argmax(1) == labels[pending]
        if not len(pending := pending[~passes[pending]]):
            break
    each = evaluations_of(setting.guidance, _steps(setting, setting.other_strength))
    facts = {"source": "DISEF", "strength": setting.other_strength, "passed": passes, "attempts": attempts}
    by_class = [labels == y for y in range(len(classes))]
    report = pd.DataFrame({"class": classes, "attempts": [int(attempts[own].sum()) for own in by_class]})
    report["unfiltered"] = [int((~passes[own]).sum()) for own in by_class]
    return _image_set(setting, one, images, plan.assign(**facts, evaluations=attempts * each)), report


def _plan(one: Shots, n: int) -> pd.DataFrame:
    """Return a row per image, classes in turn: label, class, i (the how-manieth of its class), parent (which shot)."""
    own = [np.flatnonzero(one.real.labels == y) for y in range(len(one.real.classes))]
    rows = [
        {"label": y, "class": one.real.classes[y], "i": i, "parent": int(of[i % len(of)])}
        for i in range(n) for y, of in enumerate(own)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def _attempt(one: Shots, plan: pd.DataFrame, of_shots: Sequence[str], attempt: int) -> pd.DataFrame:
    """Return rows of a plan with, for this attempt, a seed, another shot (of a single one itself) and its caption."""
    rows, captioned, seeds = np.arange(len(one.real)), [], []
    for label, name, i, parent in zip(plan["label"], plan["class"], plan["i"], plan["parent"], strict=True):
        others = np.flatnonzero((one.real.labels == label) & (rows != parent))
        chosen = rng(one.seed, "caption", name, i, attempt).choice(others) if len(others) else parent
        captioned.append(int(chosen))
        seeds.append(seed_of(one.seed, "changed image", name, i, attempt))
    return plan.assign(captioned=captioned, prompt=[of_shots[row] for row in captioned], seed=seeds)


def _changed(
    setting: Setting, one: Shots, plan: pd.DataFrame, strength: float, execution: Execution
) -> np.ndarray:
    """Return the shots `plan.parent`, changed under prompts and seeds: uint8 of the generator's size."""
    generator = open_generation(setting)
    originals = at_side(setting, one, generator.image_size)[0].images
    fingerprint = None if execution.cache is None else generator.fingerprint()
    how, jobs = (strength, setting.guidance, setting.sampling_steps), []
    for start in range(0, len(plan), execution.batch):
        part = plan.iloc[start : start + execution.batch]
        call = (originals[part["parent"].to_numpy()], part["prompt"].tolist(), part["seed"].tolist(), *how)
        name = None if fingerprint is None else key(function="image_to_image", generator=fingerprint, call=call)
        jobs.append(Job(_change, (generator, *call), name, len(part)))
    return np.concatenate([arrays["images"] for arrays in run_jobs(jobs, execution, "changing shots")])


def _change(
    generator: Generator, images: np.ndarray, prompts: Sequence[str], seeds: Sequence[int], strength: float,
    guidance: float, steps: int,
) -> dict[str, np.ndarray]:  # fmt: skip
    how = {"strength": strength, "guidance": guidance, "steps": steps, "batch": len(images)}
    return {"images": image_to_image(generator, images, prompts, seeds, **how)}


def _steps(setting: Setting, strength: float) -> int:
    """Return how many of the steps `image_to_image` takes."""
    return max(1, round(strength * setting.sampling_steps))


def _image_set(setting: Setting, one: Shots, images: np.ndarray, plan: pd.DataFrame) -> ImageSet:
    manifest = plan.drop(columns=["label", "i"]).assign(guidance=setting.guidance, adapter="")
    return ImageSet(shown(setting, images), plan["label"].to_numpy(), one.real.classes, manifest=manifest)
