"""The long study of this paper: its arms, as jobs that say of each image whether the network is correct, and the
contrast of each of its claims.

A job is (arm, target, seed); a plan is plain data (`zsclib.study.freeze` says which), of whose settings this paper
takes images, held_out and sampling_steps of `Setting`, and training_steps and learning_rate of the networks' recipe.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby

import numpy as np

from zsclib.cache import Remember, at_once
from zsclib.images.image_set import ImageSet
from zsclib.papers.diversity.experiments import run
from zsclib.papers.diversity.training_sets import Cell, Setting, target_images
from zsclib.recipe import Recipe
from zsclib.workers import Execution

Job = tuple[str, str, int]
CONTRASTS = {"DIV-D3-guidance": ("random-guidance", "base")}  # claim -> arm, rival


def jobs(plan: Mapping) -> list[Job]:
    """Return the study's jobs: every arm of its claims, on every target, with every seed."""
    arms = dict.fromkeys(arm for claim in plan["claims"] for arm in _contrast(claim))
    return [(arm, name, seed) for name in plan["sets"] for seed in plan["seeds"] for arm in arms]


def outcomes(
    plan: Mapping,
    jobs: Iterable[Job],
    execution: Execution,
    device: str = "cpu",
    remember: Remember = at_once,
) -> Iterator[tuple[Job, np.ndarray, ImageSet]]:
    """Yield each job with whether its network is correct, bool (n,), and the test images it was measured on.

    Jobs of one target and seed share generated images; they are carried out together.

    Args:
        plan: models (a generator, a CLIP), sets, images_seed and settings of the study.
        jobs: those wanted. execution, device: of generating and training.
        remember: not used; nothing is chosen.
    """
    values = plan["settings"]
    recipe = Recipe(steps=values["training_steps"], learning_rate=values["learning_rate"])
    for (target, seed), group in groupby(jobs, key=lambda job: job[1:]):
        setting = Setting(
            model=plan["models"][0],
            clip=plan["models"][1],
            images=values["images"],
            held_out=values["held_out"],
            sampling_steps=values["sampling_steps"],
            test_images=plan["sets"][target],
            test_seed=plan["images_seed"],
            recipe=recipe,
            audited=(),
            device=device,
        )
        group = list(group)
        table = run(setting, [Cell(target, arm, seed=seed) for arm, _, _ in group], execution)
        for job, correct in zip(group, table["last"], strict=True):
            yield job, correct, target_images(setting, target)


def differences(
    outcomes: Mapping[str, Mapping[str, np.ndarray]], choices: Mapping | None = None
) -> dict[str, dict[str, np.ndarray]]:
    """Return claim → target → paired differences of correctness, (seeds, images), of the arms that are there.

    Args:
        outcomes: arm → target → correctness (seeds, images).
        choices: not used.
    """
    return {
        claim: {
            name: outcomes[arm][name] - other
            for name, other in outcomes[rival].items()
            if name in outcomes[arm]
        }
        for claim, (arm, rival) in CONTRASTS.items()
        if arm in outcomes and rival in outcomes
    }


def _contrast(claim: str) -> tuple[str, str]:
    if claim not in CONTRASTS:
        raise ValueError(f"the study has no arms for the claim {claim!r}; it has: {', '.join(CONTRASTS)}")
    return CONTRASTS[claim]
