"""The long study of this paper: its arms, as jobs that say of each image whether the decision is correct, and the
contrast of each of its claims.

A job is (arm, set, seed), the seed that of the noise; networks have trainings of their own (`rivals.trained`). A set,
or a part of one (`contrasts`), is measured once: its arms are functions of the same errors. A plan is plain data
(`zsclib.study.freeze` says which); its models are a generator, a CLIP and a class-conditional model. Of its settings,
K, K_shifted, K_stages, K_deep and K_dit are timesteps on sets of few classes, under shift, of stages where there are
many, of every class in depth, and of the class-conditional model; K_stages and K_deep may map sets to numbers of their
own. K_templates is where templates are compared, on `validation` images by the diffusion classifier (with many classes
at four times as many, in stages), on `validation_clip` by CLIP. `few` is the timesteps of one decision, `alpha` the
sequential test's; `splits` maps sets to the split of their test images where that is not "test"; `beside_steps` is how
long networks are trained beside the class-conditional model, `beside_shorter` maps each to the shorter trainings that
it also has, at the middle one of which it is trained with each of `beside_rates`; `rivals` are the fields of
`rivals.Budget`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import numpy as np

from zsclib.cache import Remember, at_once
from zsclib.images.image_set import ImageSet
from zsclib.papers.diffusion_classifier.contrasts import check, contrasts
from zsclib.papers.diffusion_classifier.study_parts import parts_of
from zsclib.papers.diffusion_classifier.study_plan import Study
from zsclib.workers import Execution

Job = tuple[str, str, int]


def jobs(plan: Mapping) -> list[Job]:
    """Return the study's jobs: every arm of every set, set by set; ValueError for a claim of which nothing is known."""
    for claim in plan["claims"]:
        check(claim)
    return [
        (arm, name, seed)
        for name in plan["sets"]
        for seed in plan["seeds"]
        for part in parts_of(name)
        for arm in part.names(plan, name)
    ]


def outcomes(
    plan: Mapping,
    jobs: Iterable[Job],
    execution: Execution,
    device: str = "cpu",
    remember: Remember = at_once,
) -> Iterator[tuple[Job, np.ndarray, ImageSet]]:
    """Yield each job with whether, or how often, its arm is correct on each image, and the test images.

    Args:
        plan: models, sets, images_seed, seeds and settings of the study.
        jobs: those wanted; the arms of a `Part` are measured together. execution: its seed gives way to the job's.
        device: of the models. remember: keeps each set's prompts and its rivals' learning curves.
    """
    wanted = list(jobs)
    for name, seed in dict.fromkeys((name, seed) for _, name, seed in wanted):
        study = Study(plan=plan, execution=replace(execution, seed=seed), device=device, remember=remember)
        for part in parts_of(name):
            here = [(arm, name, seed) for arm in part.names(plan, name) if (arm, name, seed) in wanted]
            measured = part.measure(study, name) if here else {}
            for job in here:
                yield job, np.asarray(measured[job[0]]), study.images(name)


def differences(
    outcomes: Mapping[str, Mapping[str, np.ndarray]], choices: Mapping | None = None
) -> dict[str, dict[str, np.ndarray]]:
    """Return claim → set → paired differences of correctness, (seeds, images), of the arms that are there.

    Args:
        outcomes: arm → set → correctness (seeds, images).
        choices: set → what → what was noted of it: the learning curves of its rivals.
    """
    return contrasts(outcomes, choices)
