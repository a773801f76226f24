"""The long study of this paper: its arms, as jobs that say of each image whether the network is correct, and the
contrast of each of its claims.

A job is (arm, target, seed); a plan is plain data (`zsclib.study.freeze` says which). Its models are a generator and a
CLIP; of its settings, `times`, `length` and `network_steps` say where arms are compared and how long a training of
length 1 is, `pool`, `index` and `pool_cache` where the pool lies, `learning_rates` maps ways of personalising to
theirs; all others are fields of `Setting`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import pandas as pd

from zsclib.images.image_set import ImageSet
from zsclib.papers.retrieval.contrasts import (
    CHOSEN,
    PERSONALISED,
    PRIMARY,
    REFERENCES,
    Arms,
    At,
    arms_of,
    contrasts,
)
from zsclib.papers.retrieval.experiments import Cell, references, run
from zsclib.papers.retrieval.training_sets import Setting, data
from zsclib.recipe import Recipe
from zsclib.workers import Execution

Job = tuple[str, str, int]
SHORTER_BY = 4  # times: if D alone gains nothing by them, its curve is flat
SHORTER = "real only, a quarter of the updates"


def jobs(plan: Mapping) -> list[Job]:
    """Return the study's jobs: every arm of its claims, on every target, with every seed; D alone for a shorter time.

    They come target by target and seed by seed, as they are carried out.
    """
    arms = [*_arms(plan), SHORTER]
    return [(arm, name, seed) for name in plan["sets"] for seed in plan["seeds"] for arm in arms]


def outcomes(
    plan: Mapping, jobs: Iterable[Job], execution: Execution, device: str = "cpu"
) -> Iterator[tuple[Job, np.ndarray, ImageSet]]:
    """Yield each job with whether its network is correct, bool (n,), and the test images it was measured on.

    Arms of one target and seed are cut to equal counts, so their jobs are carried out together, whichever of them are
    wanted, and come from the cache where they are there. Shares are chosen with the plan's first seed.

    Args:
        plan: models (a generator, a CLIP), sets, images_seed, seeds and settings of the study.
        jobs: those wanted. execution, device: of generating and training.
    """
    wanted, at, arms = list(jobs), _at(plan), _arms(plan)
    trained = dict.fromkeys([arm for arm in arms if arm not in (*REFERENCES, CHOSEN)])
    trained |= dict.fromkeys(PERSONALISED if CHOSEN in arms else ()) | {"real only": None}
    for target, seed in dict.fromkeys((target, seed) for _, target, seed in wanted):
        setting = _setting(plan, target, device)
        cells = [Cell(target, arm, times=at.times, length=at.length, counts=at.counts, seed=seed) for arm in trained]
        shorter = Cell(target, "real only", times=at.times, length=at.length // SHORTER_BY, counts=at.counts, seed=seed)
        table = run(setting, [*cells, shorter], execution)
        correct = Arms(pd.concat([table, references(setting, [target], [seed])]), target, at)
        less = Arms(table, target, at._replace(length=shorter.length))
        for job in (job for job in wanted if job[1:] == (target, seed)):
            row = (less["real only"] if job[0] == SHORTER else correct[job[0]])[0]
            yield job, row.astype(bool), data(setting, target, seed).test


def differences(outcomes: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, dict[str, np.ndarray]]:
    """Return claim → target → paired differences of correctness, (seeds, images), of the arms that are there.

    Args:
        outcomes: arm → target → correctness (seeds, images).
    """
    at, rows = PRIMARY, []
    for arm, by_target in outcomes.items():
        for target, correct in by_target.items():
            cell = {"target": target, "arm": arm, "times": at.times, "length": at.length, "counts": at.counts}
            rows += [cell | {"seed": seed, "correct": row, "held_out": 0.0} for seed, row in enumerate(correct)]
    return contrasts(pd.DataFrame(rows))


def _arms(plan: Mapping) -> list[str]:
    return list(dict.fromkeys(arm for claim in plan["claims"] for arm in arms_of(claim)))


def _at(plan: Mapping) -> At:
    return At(times=plan["settings"]["times"], length=plan["settings"]["length"])


def _setting(plan: Mapping, target: str, device: str) -> Setting:
    values = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in plan["settings"].items()
        if name not in ("length", "network_steps", "learning_rates")
    }
    return Setting(
        model=plan["models"][0],
        clip=plan["models"][1],
        test_images=plan["sets"][target],
        test_seed=plan["images_seed"],
        recipe=Recipe(steps=plan["settings"]["network_steps"], checkpoints=1),
        learning_rates=tuple(dict(plan["settings"].get("learning_rates", {})).items()),
        tuned_with=tuple(plan["seeds"][:1]),
        device=device,
        **values,
    )
