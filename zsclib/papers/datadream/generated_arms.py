"""Arms whose images are generated from class prompts: by the generator as it is, or adapted to the shots (DataDream).

Image i of a class begins from the same noise in all of them, whatever the shots and the adapter: frozen and adapted
generators are compared image by image, and fewer images are the beginning of more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from zsclib.hashing import key
from zsclib.images.image_set import ImageSet
from zsclib.models.denoising import Tuning
from zsclib.models.generator import Generator
from zsclib.models.lora import DATADREAM, tune_lora, tune_lora_by_class, with_adapter
from zsclib.papers.datadream.training_sets import (
    Setting,
    Shots,
    at_side,
    class_prompts,
    open_generation,
    open_tuning,
    shown,
)
from zsclib.sampling import check_plan, sampling_jobs
from zsclib.seeds import seed_of
from zsclib.workers import Execution, run_jobs

BY_CLASS, ALL_CLASSES = "by class", "all classes"
SCOPES = (BY_CLASS, ALL_CLASSES)


def prompted(setting: Setting, one: Shots, n: int, execution: Execution) -> ImageSet:
    """The generator as it is, asked by the class prompts."""
    return _generated(setting, one, n, execution, [open_generation(setting)] * len(one.real.classes), "prompted")


def datadream(
    setting: Setting, one: Shots, n: int, execution: Execution, *, scope: str
) -> tuple[ImageSet, pd.DataFrame]:
    """DataDream (Kim et al. 2024): the generator adapted to the shots, asked by the prompts it was adapted with.

    Args:
        setting, one, n, execution: as of every arm.
        scope: "by class" (DataDream-cls, an adapter for each class) or "all classes" (DataDream-dset, one for all).

    Returns:
        The set, and a row per class: the denoising loss of its adapter on validation images, `loss before` and `loss
        after`.
    """
    generators = adapted(setting, one, execution, scope)
    images = _generated(setting, one, n, execution, list(generators.values()), f"DataDream, {scope}")
    losses = [generator.history["held_out"] for generator in generators.values()]
    report = {"class": list(generators), "loss before": [loss.iloc[0] for loss in losses]}
    return images, pd.DataFrame(report | {"loss after": [loss.iloc[-1] for loss in losses]})


def adapted(setting: Setting, one: Shots, execution: Execution, scope: str) -> dict[str, Generator]:
    """Return the adapted generator of each class, by the class's name; its `history` has the loss on validation images.

    Adapters are jobs and cached: classes that are finished stay so, whatever becomes of the rest.

    Raises:
        ValueError: another scope. FloatingPointError: the loss is not finite.
    """
    if scope not in SCOPES:
        raise ValueError(f"adapted: the scope must be one of {', '.join(SCOPES)}, got {scope!r}")
    base, prompts = open_tuning(setting), class_prompts(setting, one)
    real, validation = at_side(setting, one, base.image_size)
    arguments = (base, real, prompts, tuning_of(setting, one, scope), setting.lora)
    how = {"held_out": validation, "execution": execution}
    if scope == BY_CLASS:
        tuned = tune_lora_by_class(*arguments, **how)
    else:
        tuned = dict.fromkeys(real.classes, tune_lora(*arguments, **how))
    if (sampling := open_generation(setting)) is base:
        return tuned
    lower = {id(each): _in_precision_of(sampling, each) for each in tuned.values()}
    return {name: lower[id(each)] for name, each in tuned.items()}


def tuning_of(setting: Setting, one: Shots, scope: str) -> Tuning:
    """Return how adapters learn: with as many samples for each class, whether its adapter is its own or that of all."""
    samples = setting.tuning_samples * (1 if scope == BY_CLASS else len(one.real.classes))
    return replace(
        DATADREAM,
        samples=samples,
        learning_rate=setting.learning_rate,
        warm_up=min(DATADREAM.warm_up, samples // 4),
        check_every=-(-samples // setting.checks),
        seed=one.seed,
    )


def adapter_hash(generator: Generator) -> str:
    """Return a hash of the adapter that a generator has; "" where it has none."""
    adapter = generator.parts.get("adapter")
    return "" if adapter is None else key(lora=adapter.lora, base=adapter.base, weights=adapter.weights)[:16]


def noise_seed(setting: Setting, one: Shots, name: str, i: int) -> int:
    """Return the seed of the noise that image i of a class begins from."""
    return seed_of(one.seed, "training image", *(() if setting.one_noise else (name,)), i)


def evaluations_of(guidance: float, steps: int) -> float:
    """Return how often the network is evaluated for an image: twice a step, once where the guidance scale is 1."""
    return float(steps * (1 if guidance == 1 else 2))


def _in_precision_of(generator: Generator, tuned: Generator) -> Generator:
    lower = with_adapter(generator, tuned.parts["adapter"])
    lower.history = tuned.history
    return lower


def _generated(
    setting: Setting, one: Shots, n: int, execution: Execution, generators: Sequence[Generator], source: str
) -> ImageSet:
    """Generate n images of each class, classes in turn, those of class y by generators[y].

    One generator a batch: rows of several adapters mixed in one, as peft can, gain nothing where batches are full
    (`bench/adapters.py`).
    """
    classes, prompts, scale = one.real.classes, class_prompts(setting, one), setting.guidance
    hashes = {id(generator): adapter_hash(generator) for generator in generators}
    rows = [
        {"label": y, "class": name, "source": source, "prompt": prompts[y], "guidance": scale,
         "seed": noise_seed(setting, one, name, i), "adapter": hashes[id(generators[y])],
         "evaluations": evaluations_of(scale, setting.sampling_steps)}
        for i in range(n) for y, name in enumerate(classes)
    ]  # fmt: skip
    plan, jobs, places = pd.DataFrame(rows), [], []
    for generator in {id(generator): generator for generator in generators}.values():
        own = np.flatnonzero([generators[y] is generator for y in plan["label"]])
        check_plan(generator, plan.iloc[own], classes, setting.sampling_steps)
        jobs += sampling_jobs(generator, plan.iloc[own], setting.sampling_steps, execution)
        places.append(own)
    parts = [shown(setting, arrays["images"]) for arrays in run_jobs(jobs, execution, "generating")]
    images = np.concatenate(parts)[np.argsort(np.concatenate(places))]
    return ImageSet(images, plan["label"].to_numpy(), classes, manifest=plan.drop(columns="label"))
