"""What the study measures beside trained rivals: networks on generated images, heads on labelled ones, and the
class-conditional model with the networks that learn from its images.

    arms = GENERATED.names(plan, "digits")
    GENERATED.measure(study, "digits")                      # arm → whether each image is given its class, (n,)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from zsclib.images.image_set import ImageSet
from zsclib.papers.diffusion_classifier import rivals
from zsclib.papers.diffusion_classifier.ablations import Measure, variational_weights, weighted
from zsclib.papers.diffusion_classifier.arms import DIT
from zsclib.papers.diffusion_classifier.contrasts import (
    BESIDE,
    CONDITIONAL,
    DIT_BOUND,
    DIT_L1,
    HARD,
    SHIFTED,
    UNSHIFTED,
)
from zsclib.papers.diffusion_classifier.engine import error_matrices
from zsclib.papers.diffusion_classifier.error_matrix import Schedule, exhaustive, nested, prediction
from zsclib.papers.diffusion_classifier.study_plan import L2, Part, Study, budget_of, number_of_timesteps

L1 = Measure("l1")


def _correct(scores: Mapping[str, np.ndarray], images: ImageSet) -> dict[str, np.ndarray]:
    return {arm: logits.argmax(1) == images.labels for arm, logits in scores.items()}


def _on_generated(study: Study, name: str) -> dict[str, np.ndarray]:
    images, budget = study.images(name), budget_of(study.plan)
    spent = len(images) * study.rule(name).evaluations(len(images.classes))
    equal = max(2 * len(images.classes), spent // (2 * budget.sampling_steps))  # guided: two evaluations a step
    tests = {name: images.images}
    scores, curves = rivals.on_generated(study.generator(), name, tests, equal, budget, study.execution)
    study.remember(name, "curves", lambda: curves)
    return _correct(scores[name], images)


def _heads(plan: Mapping, name: str) -> tuple[rivals.Budget, str]:
    """Return the budget of heads, and the set that they learn from: under a shift the most images without one."""
    budget = budget_of(plan)
    return (replace(budget, labels=budget.labels[-1:]), "objects") if name in SHIFTED else (budget, name)


def _names_on_labels(plan: Mapping, name: str) -> list[str]:
    return rivals.labelled_arms(*_heads(plan, name))


def _on_labels(study: Study, name: str) -> dict[str, np.ndarray]:
    """Heads; under shift, those of unshifted images are asked about all shifts."""
    budget, source = _heads(study.plan, name)
    sets = [other for other in study.plan["sets"] if other in SHIFTED] if name in SHIFTED else [name]
    tests = {other: study.images(other).images for other in sets}
    scores, curves = rivals.on_features(study.generator(), source, tests, budget, study.execution)
    study.remember(name, "curves of heads", lambda: curves)
    return _correct(scores[name], study.images(name))


# --- the class-conditional model ------------------------------------------------------------------


def _dit_errors(study: Study, name: str, schedule: Schedule, *measures: Measure) -> dict[Measure, np.ndarray]:
    """Return the errors (n, C, K) of a set's images under its class names."""
    images = study.images(name)
    return error_matrices(
        study.dit(), images.images, images.classes, schedule, measures, execution=study.execution
    )


def _with_classes(study: Study, name: str) -> dict[str, np.ndarray]:
    arms = {DIT: L2, DIT_L1: L1} if name == HARD else {DIT: L2}
    errors = _dit_errors(study, name, exhaustive(study["K_dit"], study.dit().T), *arms.values())
    return {arm: prediction(errors[measure]) == study.images(name).labels for arm, measure in arms.items()}


def _with_classes_in_depth(study: Study, name: str) -> dict[str, np.ndarray]:
    """At so many timesteps that the lowest, on which the variational bound lays most weight, are among them."""
    schedule, labels = nested(number_of_timesteps(study.plan, "K_deep", name), study.dit().T), study.images(name).labels
    errors = _dit_errors(study, name, schedule, L2)[L2]
    bound = weighted(errors, variational_weights(study.dit().alphas_cumprod, schedule.t))
    return {DIT: prediction(errors) == labels, DIT_BOUND: prediction(bound) == labels}


def _networks(plan: Mapping) -> dict[str, int]:
    """Return arm, by training → steps: the networks that see as many images as the DiT, then those that see fewer."""
    settings, trainings = plan["settings"], range(1, budget_of(plan).trainings + 1)
    long = {rivals.trained(network, k): settings["beside_steps"] for network in BESIDE for k in trainings}
    return long | {
        rivals.trained(rivals.shorter(network, steps), 1): steps
        for network in BESIDE
        for steps in settings["beside_shorter"][network]
    }


def _beside(study: Study, name: str) -> dict[str, np.ndarray]:
    """Networks trained once on the class-conditional model's images, and asked about all sets that it is."""
    tests = {other: study.images(other).images for other in study.plan["sets"] if other in CONDITIONAL}
    folder, networks = study.plan["models"][2], _networks(study.plan)
    lengths = {network: sorted(steps)[len(steps) // 2] for network, steps in study["beside_shorter"].items()}
    by_rate = study.remember(
        UNSHIFTED, "learning rates beside the DiT",
        lambda: rivals.learning_rates(
            folder, lengths, study["beside_rates"], study.dit().image_size, study.execution, study.device
        ),
    )  # fmt: skip
    rates = {network: float(max(of, key=of.__getitem__)) for network, of in by_rate.items()}
    scores, curves = rivals.beside_dit(folder, networks, rates, tests, study.execution, study.device)
    if name == UNSHIFTED:
        study.remember(name, "curves beside the DiT", lambda: curves)
    return _correct(scores[name], study.images(name))


GENERATED = Part(lambda plan, name: rivals.generated_arms(budget_of(plan)), _on_generated)
LABELLED = Part(_names_on_labels, _on_labels)
WITH_CLASSES = Part(lambda plan, name: [DIT, DIT_L1] if name == HARD else [DIT], _with_classes)
DIT_IN_DEPTH = Part(lambda plan, name: [DIT, DIT_BOUND], _with_classes_in_depth)
NETWORKS = Part(lambda plan, name: list(_networks(plan)), _beside)
