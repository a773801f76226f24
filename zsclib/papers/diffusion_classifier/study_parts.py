"""What the study measures on a set, part by part: the arms of a part come from the same errors, or trainings.

    study = Study(plan=plan, execution=execution)
    part = parts_of("digits")[0]                            # its arms are part.names(plan, "digits")
    part.measure(study, "digits")                           # arm → whether each image is given its class, (n,)

`outcomes` says what a plan is.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from zsclib import datasets
from zsclib.cache import Remember, at_once
from zsclib.images.image_set import ImageSet, content_hash
from zsclib.models.clip import Clip, open_clip
from zsclib.models.generator import Generator, open_generator
from zsclib.papers.diffusion_classifier import arms, rivals, winoground
from zsclib.papers.diffusion_classifier.ablations import Measure, repeated, variational_weights, weighted
from zsclib.papers.diffusion_classifier.arms import CLIP_ENSEMBLE, CLIP_ONE, DIFFUSION, DIT
from zsclib.papers.diffusion_classifier.contrasts import (
    BESIDE,
    CLIP_TEXT,
    CONDITIONAL,
    DEPTH,
    DIT_BOUND,
    DIT_L1,
    HARD,
    IMAGE,
    LABELS,
    OTHER_NOISE,
    RAW,
    RIVALLED,
    SHIFTED,
    SIZES,
    TEXT,
    UNSHIFTED,
    VARIED,
    ZERO_SHOT,
)
from zsclib.papers.diffusion_classifier.engine import error_matrices
from zsclib.papers.diffusion_classifier.error_matrix import (
    Schedule,
    at_columns,
    exhaustive,
    nested,
    prediction,
    subgrids,
)
from zsclib.papers.diffusion_classifier.replays import stages_of_few, stages_of_many
from zsclib.papers.diffusion_classifier.sequential import sequential
from zsclib.prompts import fill, load_prompts
from zsclib.workers import Execution

FEW_CLASSES = 20  # with more, hopeless classes go out early, and only what needs no exhaustive errors is measured
L2 = Measure()


@dataclass(frozen=True, kw_only=True)
class Study:
    """A plan on its way, with what carries it out."""

    plan: Mapping
    execution: Execution
    device: str = "cpu"
    remember: Remember = at_once

    def __getitem__(self, setting: str) -> int | float:
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

    def budget(self) -> rivals.Budget:
        """Return what the trained rivals may spend."""
        return _budget(self.plan)

    def errors(self, name: str, schedule: Schedule, *measures: Measure) -> dict[Measure, np.ndarray]:
        """Return the errors (n, C, K) of a set's images under its classes' prompts."""
        images = self.images(name)
        prompts = fill(self.template(name, "diffusion"), load_prompts(base_of(name)).classes)
        return error_matrices(
            self.generator(), images.images, prompts, schedule, measures or (L2,), execution=self.execution
        )

    def template(self, name: str, model: str) -> str:
        """Return the template of a set that is best for a model, "diffusion" or "CLIP", on validation images.

        Under each shift it is the one that is best under any of them.
        """
        base = base_of(name)
        home, base = (UNSHIFTED, base.partition(":")[0]) if base in SHIFTED else (base, base)
        home = home if home in self.plan["sets"] else name
        notes = self.remember(home, "prompts", functools.partial(self._prompts, base))
        return notes[model]

    def _prompts(self, base: str) -> dict[str, object]:
        """Return the template that is best for each model, and the accuracy of every one; of equals the first."""
        prompts = load_prompts(base)
        templates = list(dict.fromkeys([prompts.template, *prompts.templates]))
        held_out = datasets.load(base, "validation", self["validation"], size=self.generator().image_size)
        accuracy: dict[str, dict[str, float]] = {"diffusion": {}, "CLIP": {}}
        for template in templates:
            texts = fill(template, prompts.classes)
            (errors,) = error_matrices(
                self.generator(), held_out.images, texts, self.rule(len(texts), self["K_shifted"]),
                keys=content_hash(held_out.images), execution=self.execution,
            ).values()  # fmt: skip
            scores = self.clip().zero_shot(texts, ["{}"]).scores(held_out.images)
            for model, decided in (("diffusion", prediction(errors)), ("CLIP", scores.argmax(1))):
                accuracy[model][template] = float(np.mean(decided == held_out.labels))
        best = {model: max(templates, key=by_template.__getitem__) for model, by_template in accuracy.items()}
        return best | {f"accuracy, {model}": by_template for model, by_template in accuracy.items()}

    def rule(self, classes: int, K: int) -> Schedule:
        """Return how classes are scored: in full at K timesteps or, where they are many, by the paper's stages."""
        T = self.generator().T
        return exhaustive(K, T) if classes <= FEW_CLASSES else stages_of_many(self["K_stages"], classes, T)


class Part(NamedTuple):
    """Arms of a set that are measured together: their names, and the measurement."""

    names: Callable[[Mapping, str], list[str]]
    measure: Callable[[Study, str], Mapping[str, np.ndarray]]


def base_of(name: str) -> str:
    """Return the set that a part of one belongs to."""
    return name.removesuffix(DEPTH).removesuffix(OTHER_NOISE)


def parts_of(name: str) -> list[Part]:
    """Return what is measured on a set.

    Raises:
        ValueError: a set that the study has nothing to ask about.
    """
    if name.endswith(DEPTH):
        return [IN_DEPTH]
    if name.endswith(OTHER_NOISE):
        return [NOISES]
    parts = [PAIRS] if name == "pairs" else []
    parts += [AT_ONCE] if name in ZERO_SHOT else [UNDER_SHIFT] if name in SHIFTED else []
    parts += [BY_CLIP] if name in ZERO_SHOT else []
    parts += [GENERATED] if name in RIVALLED else []
    parts += [LABELLED] if name in (*RIVALLED, *SHIFTED) else []
    parts += [WITH_CLASSES, NETWORKS] if name in CONDITIONAL else []
    if not parts:
        known = ", ".join((*ZERO_SHOT, *CONDITIONAL, "pairs"))
        raise ValueError(f"the study has nothing to ask about {name!r}; it has: {known}")
    return parts


# --- without any training -------------------------------------------------------------------------


def _few_classes(name: str) -> bool:
    return len(load_prompts(base_of(name)).classes) <= FEW_CLASSES


def _names_at_once(plan: Mapping, name: str) -> list[str]:
    if not _few_classes(name):
        return [DIFFUSION]
    steps = exhaustive(plan["settings"]["K"]).t
    return [*arms.measures(8), *map(arms.alone, steps), arms.FILTERED]


def _at_once(study: Study, name: str) -> dict[str, np.ndarray]:
    """Errors of every class at K timesteps, by several measures; with many classes what the stages decide."""
    labels, few = study.images(name).labels, _few_classes(name)
    schedule = study.rule(len(load_prompts(base_of(name)).classes), study["K"])
    measures = arms.measures(study.generator().latent_shape[-1]) if few else {DIFFUSION: L2}
    errors = study.errors(name, schedule, *measures.values())
    by_arm = {arm: errors[measure] for arm, measure in measures.items()}
    if not few:
        return {DIFFUSION: prediction(by_arm[DIFFUSION]) == labels}
    filtered = arms.among_clips_best(by_arm[DIFFUSION], _clip_scores(study, name), labels)
    return arms.at_even_timesteps(by_arm, labels, schedule.t) | {arms.FILTERED: filtered}


def _under_shift(study: Study, name: str) -> dict[str, np.ndarray]:
    errors = study.errors(name, exhaustive(study["K_shifted"], study.generator().T))[L2]
    return {DIFFUSION: prediction(errors) == study.images(name).labels}


def _clip_scores(study: Study, name: str) -> np.ndarray:
    texts = fill(study.template(name, "CLIP"), load_prompts(base_of(name)).classes)
    return study.clip().zero_shot(texts, ["{}"]).scores(study.images(name).images)


def _by_clip(study: Study, name: str) -> dict[str, np.ndarray]:
    images, prompts = study.images(name), load_prompts(base_of(name))
    ensemble = study.clip().zero_shot(prompts.classes, prompts.templates).scores(images.images)
    one = _clip_scores(study, name)
    return {CLIP_ONE: one.argmax(1) == images.labels, CLIP_ENSEMBLE: ensemble.argmax(1) == images.labels}


def _names_of_noises(plan: Mapping, name: str) -> list[str]:
    kinds = arms.KINDS.values() if base_of(name) in VARIED else ()
    return [arms.SHARED, arms.APART, arms.VARIANCE, *kinds]


def _noises(study: Study, name: str) -> dict[str, np.ndarray]:
    """Errors at few timesteps, evenly spread: with noise of each class's own, and with noise of other kinds."""
    labels, T, few = study.images(name).labels, study.generator().T, study["few"]
    wide = exhaustive(2 * few, T)
    narrow = at_columns(wide, subgrids(wide.t, few)[0])
    shared, own = study.errors(name, wide)[L2], Measure(noise="unpaired")
    measured = arms.of_shared_noise(shared, study.errors(name, wide, own)[own], labels, wide.t, few)
    for kind, arm in arms.KINDS.items() if base_of(name) in VARIED else ():
        measure = Measure(noise=kind)
        measured[arm] = prediction(study.errors(name, narrow, measure)[measure]) == labels
    return measured


def _names_in_depth(plan: Mapping, name: str) -> list[str]:
    curve = map(arms.every_class, arms.powers(plan["settings"]["K_deep"]))
    names = [
        *curve, arms.EVERY, arms.SPREAD, arms.CROWDED, arms.DIFFERENT, arms.VARIATIONAL, arms.STAGES,
        arms.STAGES_COST, arms.TEST, arms.TEST_COST, arms.FEWER, arms.SHORTER,
    ]  # fmt: skip
    return [*names, arms.REPEATED] if _few_classes(name) else names


def _in_depth(study: Study, name: str) -> dict[str, np.ndarray]:
    """Errors of every class at K_deep timesteps, in the order in which rules that eliminate take them."""
    labels, K, T, few = study.images(name).labels, study["K_deep"], study.generator().T, study["few"]
    classes, order = len(load_prompts(base_of(name)).classes), nested(K, T)
    errors = study.errors(name, order)[L2]
    weights = variational_weights(study.generator().alphas_cumprod, order.t)
    measured = arms.in_depth(errors, labels, order.t, few, weights, T)
    stages = stages_of_few if _few_classes(name) else stages_of_many
    shorter = [stages(k, classes, T) for k in range(4, K + 1)]
    measured |= arms.eliminated(errors, labels, order.t, shorter, sequential(K, study["alpha"], T=T))
    if not _few_classes(name):
        return measured
    return measured | arms.repeated_timesteps(study.errors(name, repeated(2, 2 * few, T))[L2], labels, few)


def _pairs(study: Study, name: str) -> dict[str, np.ndarray]:
    """Whether each image prefers its own caption, and each caption, at the place of its image, its own image."""
    pairs = winoground.pairs_of(study.images(name))
    schedule = exhaustive(study["K"], study.generator().T)
    errors = winoground.pair_errors(study.generator(), pairs, schedule, execution=study.execution)
    s, unconditional = winoground.pair_scores(*errors)
    clip = winoground.clip_pair_scores(study.clip(), pairs)
    own = np.arange(2)

    def halves(scores: np.ndarray, image: bool) -> np.ndarray:
        rival = scores[:, own, 1 - own] if image else scores[:, 1 - own, own]
        return (scores[:, own, own] > rival).ravel()

    compared = winoground.subtract_unconditional(s, unconditional)
    return {
        TEXT: halves(s, False), CLIP_TEXT: halves(clip, False),
        IMAGE: halves(compared, True), RAW: halves(s, True),
    }  # fmt: skip


# --- beside trained rivals ------------------------------------------------------------------------


def _correct(scores: Mapping[str, np.ndarray], images: ImageSet) -> dict[str, np.ndarray]:
    return {arm: logits.argmax(1) == images.labels for arm, logits in scores.items()}


def _on_generated(study: Study, name: str) -> dict[str, np.ndarray]:
    images, budget = study.images(name), study.budget()
    spent = len(images) * study.rule(len(images.classes), study["K"]).evaluations(len(images.classes))
    equal = max(2 * len(images.classes), spent // (2 * budget.sampling_steps))  # guided: two evaluations a step
    tests = {name: images.images}
    scores, curves = rivals.on_generated(study.generator(), name, tests, equal, budget, study.execution)
    study.remember(name, "curves", lambda: curves)
    return _correct(scores[name], images)


def _on_labels(study: Study, name: str) -> dict[str, np.ndarray]:
    """A head; under shift, one head of unshifted images is asked about all shifts."""
    source, images = ("objects" if name in SHIFTED else name), study.images(name)
    sets = [other for other in study.plan["sets"] if other in SHIFTED] if name in SHIFTED else [name]
    tests = {other: study.images(other).images for other in sets}
    scores, _ = rivals.on_features(study.generator(), source, tests, study.budget(), study.execution)
    return _correct(scores[name], images)


def _with_classes(study: Study, name: str) -> dict[str, np.ndarray]:
    """The class-conditional model, asked by class names."""
    images, dit, measures = study.images(name), study.dit(), [L2, Measure("l1")]
    schedule = exhaustive(study["K_dit"], dit.T)
    errors = error_matrices(dit, images.images, images.classes, schedule, measures, execution=study.execution)
    bound = weighted(errors[L2], variational_weights(dit.alphas_cumprod, schedule.t))
    decided = {DIT: errors[L2], DIT_L1: errors[measures[1]], DIT_BOUND: bound}
    return {arm: prediction(matrix) == images.labels for arm, matrix in decided.items()}


def _networks(plan: Mapping, name: str) -> list[str]:
    return [rivals.trained(network, k) for network in BESIDE for k in range(1, _budget(plan).trainings + 1)]


def _beside(study: Study, name: str) -> dict[str, np.ndarray]:
    """Networks trained once on the class-conditional model's images, and asked about all sets that it is."""
    tests = {other: study.images(other).images for other in study.plan["sets"] if other in CONDITIONAL}
    networks = dict.fromkeys(_networks(study.plan, name), study["beside_steps"])
    scores, curves = rivals.beside_dit(study.plan["models"][2], networks, tests, study.execution, study.device)
    if name == UNSHIFTED:
        study.remember(name, "curves beside the DiT", lambda: curves)
    return _correct(scores[name], study.images(name))


def _budget(plan: Mapping) -> rivals.Budget:
    return rivals.Budget(**{"sizes": SIZES, "labels": LABELS} | dict(plan["settings"]["rivals"]))

AT_ONCE, UNDER_SHIFT = Part(_names_at_once, _at_once), Part(lambda plan, name: [DIFFUSION], _under_shift)
BY_CLIP = Part(lambda plan, name: [CLIP_ONE, CLIP_ENSEMBLE], _by_clip)
NOISES, IN_DEPTH = Part(_names_of_noises, _noises), Part(_names_in_depth, _in_depth)
PAIRS = Part(lambda plan, name: [TEXT, CLIP_TEXT, IMAGE, RAW], _pairs)
GENERATED = Part(lambda plan, name: rivals.generated_arms(_budget(plan)), _on_generated)
LABELLED = Part(
    lambda plan, name: rivals.labelled_arms(_budget(plan), "objects" if name in SHIFTED else name), _on_labels
)
WITH_CLASSES = Part(lambda plan, name: [DIT, DIT_L1, DIT_BOUND] if name == HARD else [DIT], _with_classes)
NETWORKS = Part(_networks, _beside)
_generator, _clip = functools.cache(open_generator), functools.cache(open_clip)


@functools.lru_cache(maxsize=32)
def _load(name: str, split: str, n: int, seed: int, size: int) -> ImageSet:
    return datasets.load(name, split, n, seed, size)
