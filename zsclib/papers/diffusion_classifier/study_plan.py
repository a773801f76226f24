"""A study's plan on its way: its models, its test images, and the templates that validation images choose.

    study = Study(plan=plan, execution=execution)
    study.images("digits")                                  # the test images of a set, or of a part of one
    study.template("digits", "CLIP")                        # the one that is best for a model

`outcomes` says what a plan is; what is measured of it say `study_parts` and `study_rivals`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from zsclib import datasets
from zsclib.cache import Remember, at_once
from zsclib.images.image_set import ImageSet, content_hash
from zsclib.models.clip import Clip, open_clip
from zsclib.models.generator import Generator, open_generator
from zsclib.papers.diffusion_classifier.ablations import Measure
from zsclib.papers.diffusion_classifier.contrasts import (
    DEPTH,
    DIT_DEPTH,
    HARD,
    LABELS,
    OTHER_NOISE,
    SHIFTED,
    SIZES,
)
from zsclib.papers.diffusion_classifier.engine import error_matrices
from zsclib.papers.diffusion_classifier.error_matrix import Schedule, exhaustive, prediction
from zsclib.papers.diffusion_classifier.replays import stages_of_many
from zsclib.papers.diffusion_classifier.rivals import Budget
from zsclib.prompts import fill, load_prompts
from zsclib.workers import Execution

FEW_CLASSES = 20  # with more, hopeless classes go out early, and only what needs no exhaustive errors is measured
TOGETHER = 16  # images of a job: with many classes and timesteps more would take an hour
L2 = Measure()


@dataclass(frozen=True, kw_only=True)
class Study:
    """A plan on its way, with what carries it out."""

    plan: Mapping
    execution: Execution
    device: str = "cpu"
    remember: Remember = at_once

    def __getitem__(self, setting: str) -> Any:
        return self.plan["settings"][setting]

    def generator(self) -> Generator:
        """Return the text-to-image model."""
        return _generator(self.plan["models"][0], self.device)

    def dit(self) -> Generator:
        """Return the class-conditional model."""
        return _generator(self.plan["models"][2], self.device)

    def clip(self) -> Clip:
        """Return CLIP."""
        return _clip(self.plan["models"][1], self.device)

    def images(self, name: str) -> ImageSet:
        """Return the test images of a set, or of a part of one."""
        base = base_of(name)
        split = self["splits"].get(base, "test")
        return _load(base, split, self.plan["sets"][name], self.plan["images_seed"], self.generator().image_size)

    def errors(self, name: str, schedule: Schedule, *measures: Measure) -> dict[Measure, np.ndarray]:
        """Return the errors (n, C, K) of a set's images under its classes' prompts."""
        images = self.images(name)
        prompts = fill(self.template(name, "diffusion"), load_prompts(base_of(name)).classes)
        execution = replace(self.execution, images_at_once=TOGETHER)
        return error_matrices(
            self.generator(), images.images, prompts, schedule, measures or (L2,), execution=execution
        )

    def template(self, name: str, model: str) -> str:
        """Return the template of a set that is best for a model, "diffusion" or "CLIP", on validation images.

        Under a shift no labelled image is looked at: the template is that of the hard set of the same classes.
        """
        base = HARD if base_of(name) in SHIFTED else base_of(name)
        home = base if base in self.plan["sets"] else name
        notes = self.remember(home, "prompts", functools.partial(self._prompts, base))
        return notes[model]

    def _prompts(self, base: str) -> dict[str, object]:
        """Return the template that is best for each model, and the accuracy of every one; of equals the first."""
        prompts = load_prompts(base)
        templates = list(dict.fromkeys([prompts.template, *prompts.templates]))
        held_out = datasets.load(base, "validation", self["validation_clip"], size=self.generator().image_size)
        few = held_out.take(range(self["validation"]))
        accuracy: dict[str, dict[str, float]] = {"diffusion": {}, "CLIP": {}}
        for template in templates:
            texts = fill(template, prompts.classes)
            (errors,) = error_matrices(
                self.generator(), few.images, texts, self.rule_of_templates(len(texts)), keys=content_hash(few.images),
                execution=self.execution,
            ).values()  # fmt: skip
            accuracy["diffusion"][template] = float(np.mean(prediction(errors) == few.labels))
            scores = self.clip().zero_shot(texts, ["{}"]).scores(held_out.images)
            accuracy["CLIP"][template] = float(np.mean(scores.argmax(1) == held_out.labels))
        best = {model: max(templates, key=by_template.__getitem__) for model, by_template in accuracy.items()}
        return best | {f"accuracy, {model}": by_template for model, by_template in accuracy.items()}

    def rule(self, name: str) -> Schedule:
        """Return how the classes of a set are scored: in full or, where they are many, by the paper's stages."""
        if few_classes(name):
            return exhaustive(self["K"], self.generator().T)
        classes = len(load_prompts(base_of(name)).classes)
        return stages_of_many(number_of_timesteps(self.plan, "K_stages", name), classes, self.generator().T)

    def rule_of_templates(self, classes: int) -> Schedule:
        """Return how classes are scored where a set's templates are compared: at fewer timesteps."""
        K, T = self["K_templates"], self.generator().T
        return exhaustive(K, T) if classes <= FEW_CLASSES else stages_of_many(4 * K, classes, T)


class Part(NamedTuple):
    """Arms of a set that are measured together: their names, and the measurement."""

    names: Callable[[Mapping, str], list[str]]
    measure: Callable[[Study, str], Mapping[str, np.ndarray]]


def base_of(name: str) -> str:
    """Return the set that a part of one belongs to."""
    return name.removesuffix(DEPTH).removesuffix(OTHER_NOISE).removesuffix(DIT_DEPTH)


def number_of_timesteps(plan: Mapping, setting: str, name: str) -> int:
    """Return a plan's number of timesteps for a set, or for a part of one: it may map sets to numbers of their own."""
    value = plan["settings"][setting]
    return value[base_of(name)] if isinstance(value, Mapping) else value


def few_classes(name: str) -> bool:
    """Return whether the classes of a set, or of a part of one, are scored in full."""
    return len(load_prompts(base_of(name)).classes) <= FEW_CLASSES


def budget_of(plan: Mapping) -> Budget:
    """Return what the trained rivals may spend."""
    return Budget(**{"sizes": SIZES, "labels": LABELS} | dict(plan["settings"]["rivals"]))


_generator, _clip = functools.cache(open_generator), functools.cache(open_clip)


@functools.lru_cache(maxsize=32)
def _load(name: str, split: str, n: int, seed: int, size: int) -> ImageSet:
    return datasets.load(name, split, n, seed, size)
