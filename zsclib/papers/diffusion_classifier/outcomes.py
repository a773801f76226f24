"""The long study of this paper: its arms, as jobs that say of each image whether the decision is correct, and the
contrast of each of its claims.

A job is (arm, set, seed); a plan is plain data (`zsclib.study.freeze` says which), of whose settings this paper takes
K, timesteps measured, and few, timesteps of one decision. K // few decisions over different timesteps are averaged, so
that an image's outcome rests on more than one of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import numpy as np

from zsclib import datasets
from zsclib.cache import Remember, at_once
from zsclib.images.image_set import ImageSet
from zsclib.models.generator import open_generator
from zsclib.papers.diffusion_classifier.ablations import Measure
from zsclib.papers.diffusion_classifier.contrasts import difference
from zsclib.papers.diffusion_classifier.engine import error_matrices
from zsclib.papers.diffusion_classifier.error_matrix import exhaustive, prediction
from zsclib.prompts import prompts_of
from zsclib.workers import Execution

Job = tuple[str, str, int]
ARMS = {"noise shared": Measure(), "noise per class": Measure(noise="unpaired")}
CONTRASTS = {"DC-H8": ("noise shared", "noise per class")}  # claim -> arm, rival


def jobs(plan: Mapping) -> list[Job]:
    """Return the study's jobs: every arm of its claims, on every set, with every seed."""
    arms = dict.fromkeys(arm for claim in plan["claims"] for arm in _contrast(claim))
    return [(arm, name, seed) for name in plan["sets"] for seed in plan["seeds"] for arm in arms]


def outcomes(
    plan: Mapping,
    jobs: Iterable[Job],
    execution: Execution,
    device: str = "cpu",
    remember: Remember = at_once,
) -> Iterator[tuple[Job, np.ndarray, ImageSet]]:
    """Yield each job with its mean correctness, float64 (n,), and the test images it was measured on.

    Args:
        plan: models, sets, images_seed and settings of the study.
        jobs: those wanted. execution: its seed gives way to the job's. device: of the generator.
        remember: not used; nothing is chosen.
    """
    K, few = plan["settings"]["K"], plan["settings"]["few"]
    if K % few:
        raise ValueError(f"outcomes: K = {K} timesteps do not part into decisions of {few}")
    generator = None
    for arm, name, seed in jobs:
        generator = generator or open_generator(plan["models"][0], device)
        images = datasets.load(
            name, n=plan["sets"][name], seed=plan["images_seed"], size=generator.image_size
        )
        errors = error_matrices(
            generator,
            images.images,
            prompts_of(name, images.classes),
            exhaustive(K, generator.T),
            [ARMS[arm]],
            execution=replace(execution, seed=seed),
        )[ARMS[arm]]  # (n, C, K)
        grids = [errors[:, :, k :: K // few] for k in range(K // few)]  # of evenly spread timesteps each
        decisions = [prediction(grid) == images.labels for grid in grids]
        yield (arm, name, seed), np.mean(decisions, axis=0), images


def differences(
    outcomes: Mapping[str, Mapping[str, np.ndarray]], choices: Mapping | None = None
) -> dict[str, dict[str, np.ndarray]]:
    """Return claim → set → paired differences of correctness, (seeds, images), of the arms that are there.

    Args:
        outcomes: arm → set → correctness (seeds, images).
        choices: not used.
    """
    return {
        claim: difference(outcomes[arm], outcomes[rival])
        for claim, (arm, rival) in CONTRASTS.items()
        if arm in outcomes and rival in outcomes
    }


def _contrast(claim: str) -> tuple[str, str]:
    if claim not in CONTRASTS:
        raise ValueError(f"the study has no arms for the claim {claim!r}; it has: {', '.join(CONTRASTS)}")
    return CONTRASTS[claim]
