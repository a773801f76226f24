"""What the study measures on a set, part by part: the arms of a part come from the same errors, or trainings.

    study = Study(plan=plan, execution=execution)
    part = parts_of("digits")[0]                            # its arms are part.names(plan, "digits")
    part.measure(study, "digits")                           # arm → whether each image is given its class, (n,)

What needs a training is in `study_rivals`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from zsclib.papers.diffusion_classifier import arms, winoground
from zsclib.papers.diffusion_classifier.ablations import Measure, repeated, variational_weights
from zsclib.papers.diffusion_classifier.arms import CLIP_ENSEMBLE, CLIP_ONE, DIFFUSION
from zsclib.papers.diffusion_classifier.contrasts import (
    CLIP_TEXT,
    CONDITIONAL,
    DEPTH,
    DIT_DEPTH,
    IMAGE,
    MANY_PHOTOGRAPHS,
    OTHER_NOISE,
    PHOTOGRAPHS,
    RAW,
    RIVALLED,
    SHIFTED,
    TEXT,
    VARIED,
    ZERO_SHOT,
)
from zsclib.papers.diffusion_classifier.error_matrix import (
    at_columns,
    exhaustive,
    nested,
    prediction,
    subgrids,
)
from zsclib.papers.diffusion_classifier.replays import stages_of_few, stages_of_many
from zsclib.papers.diffusion_classifier.sequential import sequential
from zsclib.papers.diffusion_classifier.study_plan import (
    L2,
    Part,
    Study,
    base_of,
    few_classes,
    number_of_timesteps,
)
from zsclib.papers.diffusion_classifier.study_rivals import (
    DIT_IN_DEPTH,
    GENERATED,
    LABELLED,
    NETWORKS,
    WITH_CLASSES,
)
from zsclib.prompts import fill, load_prompts


def parts_of(name: str) -> list[Part]:
    """Return what is measured on a set.

    Raises:
        ValueError: a set that the study has nothing to ask about.
    """
    if name.endswith(DEPTH):
        return [IN_DEPTH]
    if name.endswith(OTHER_NOISE):
        return [NOISES]
    if name.endswith(DIT_DEPTH):
        return [DIT_IN_DEPTH]
    parts = [PAIRS] if name == "pairs" else []
    unaided = (*ZERO_SHOT, *PHOTOGRAPHS, *MANY_PHOTOGRAPHS)
    parts += [AT_ONCE] if name in unaided else [UNDER_SHIFT] if name in SHIFTED else []
    parts += [BY_CLIP] if name in unaided else []
    parts += [GENERATED] if name in (*RIVALLED, *PHOTOGRAPHS) else []
    parts += [LABELLED] if name in (*RIVALLED, *SHIFTED) else []
    parts += [WITH_CLASSES, NETWORKS] if name in CONDITIONAL else []
    if not parts:
        known = ", ".join((*unaided, *CONDITIONAL, "pairs"))
        raise ValueError(f"the study has nothing to ask about {name!r}; it has: {known}")
    return parts


# --- without any training -------------------------------------------------------------------------


def _names_at_once(plan: Mapping, name: str) -> list[str]:
    if not few_classes(name):
        return [DIFFUSION]
    steps = exhaustive(plan["settings"]["K"]).t
    return [*arms.measures(8, name in VARIED), *map(arms.alone, steps), arms.FILTERED]


def _at_once(study: Study, name: str) -> dict[str, np.ndarray]:
    """Errors of every class at K timesteps, by several measures; with many classes what the stages decide."""
    images = study.images(name)
    labels, schedule = images.labels, study.rule(name)
    if not few_classes(name):
        return {DIFFUSION: prediction(study.errors(name, schedule)[L2]) == labels}
    measures = arms.measures(study.generator().latent_shape[-1], name in VARIED)
    errors = study.errors(name, schedule, *measures.values())
    by_arm = {arm: errors[measure] for arm, measure in measures.items()}
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
    return [arms.SHARED, arms.APART, arms.VARIANCE, arms.DIFFERENT, arms.REPEATED, *kinds]


def _noises(study: Study, name: str) -> dict[str, np.ndarray]:
    """Errors at few timesteps, evenly spread: with noise of each class's own, of other kinds, several times anew."""
    labels, T, few = study.images(name).labels, study.generator().T, study["few"]
    wide, twice = exhaustive(2 * few, T), repeated(2, few, T)
    narrow = at_columns(wide, subgrids(wide.t, few)[0])
    shared, own = study.errors(name, wide)[L2], Measure(noise="unpaired")
    measured = arms.of_shared_noise(shared, study.errors(name, wide, own)[own], labels, wide.t, few) | {
        arms.DIFFERENT: prediction(shared) == labels,
        arms.REPEATED: prediction(study.errors(name, twice)[L2]) == labels,
    }
    for kind, arm in arms.KINDS.items() if base_of(name) in VARIED else ():
        measure = Measure(noise=kind)
        measured[arm] = prediction(study.errors(name, narrow, measure)[measure]) == labels
    return measured


def _depth(plan: Mapping, name: str) -> int:
    """Return the timesteps of a set in depth: a power of two, so that the curve over timesteps ends at all of them."""
    K = number_of_timesteps(plan, "K_deep", name)
    if K not in arms.powers(K):
        raise ValueError(f"K_deep of {base_of(name)} must be a power of two, got {K}")
    return K


def _names_in_depth(plan: Mapping, name: str) -> list[str]:
    curve = map(arms.every_class, arms.powers(_depth(plan, name)))
    return [
        *curve, arms.EVERY, arms.SPREAD, arms.CROWDED, arms.VARIATIONAL, arms.STAGES, arms.STAGES_COST, arms.TEST,
        arms.TEST_COST, arms.FEWER, arms.SHORTER,
    ]  # fmt: skip


def _in_depth(study: Study, name: str) -> dict[str, np.ndarray]:
    """Errors of every class at many timesteps, in the order in which rules that eliminate take them."""
    labels, K, T = study.images(name).labels, _depth(study.plan, name), study.generator().T
    classes, order = len(load_prompts(base_of(name)).classes), nested(K, T)
    errors = study.errors(name, order)[L2]
    weights = variational_weights(study.generator().alphas_cumprod, order.t)
    stages, used = stages_of_few, stages_of_few(K, classes, T)
    if not few_classes(name):  # as they are used elsewhere, and not as they would be scaled to K
        stages, used = stages_of_many, study.rule(name).until_at_most(K)
    shorter = [*(stages(k, classes, T) for k in range(4, K)), used]
    return arms.in_depth(errors, labels, order.t, study["few"], weights, T) | arms.eliminated(
        errors, labels, order.t, shorter, sequential(K, study["alpha"], T=T)
    )


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


AT_ONCE, UNDER_SHIFT = Part(_names_at_once, _at_once), Part(lambda plan, name: [DIFFUSION], _under_shift)
BY_CLIP = Part(lambda plan, name: [CLIP_ONE, CLIP_ENSEMBLE], _by_clip)
NOISES, IN_DEPTH = Part(_names_of_noises, _noises), Part(_names_in_depth, _in_depth)
PAIRS = Part(lambda plan, name: [TEXT, CLIP_TEXT, IMAGE, RAW], _pairs)
