"""The long study of this paper: its arms, as jobs that say of each image whether the classifier is correct, and the
contrast of each of its claims.

A job is (arm, target, seed), the arm by the name that `experiments.name_of` gives a cell; a plan is plain data
(`zsclib.study.freeze` says which). Its models are a generator and a CLIP. Of its settings, `cells` lists what is
measured: targets, arms, shots, n and classifier of `experiments.comparison`, and ways, where not both, "alone" and
"with the shots". `splits` maps targets to the split of their test images where that is not "test", `clip` and `scratch`
are fields of `ClipRecipe` and of the recipe of networks from scratch, `rates`, `scratch_rates` and `network` those of
`Classifiers`, `rank` is the adapters', `folder` is where the pool's features go; all others are fields of `Setting`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from zsclib.cache import Remember, at_once
from zsclib.extra import first_of_each
from zsclib.images.image_set import ImageSet
from zsclib.models.lora import Lora
from zsclib.papers.datadream.classifiers import Cell, Classifiers
from zsclib.papers.datadream.contrasts import (
    ALONE,
    BY_CLASS,
    CHOSEN,
    POOLED,
    PROMPTED,
    VARIANTS,
    Arms,
    At,
    Side,
    arms_of,
    contrasts,
)
from zsclib.papers.datadream.experiments import cell_of, choose, comparison, make_sets, name_of, run
from zsclib.papers.datadream.gap import FEWEST, Alignment, alignment, class_accuracy, class_gaps
from zsclib.papers.datadream.pool_arms import with_index
from zsclib.papers.datadream.training_sets import Setting, further_real, open_filter, shots
from zsclib.workers import Execution

Job = tuple[str, str, int]
FURTHER = 32  # real images of each class that H9 measures the gap to
OF_H9 = tuple(name_of(Cell("", arm)) for arm in (BY_CLASS, PROMPTED))  # at 16 shots, 64 images, alone
APART = ("cells", "splits", "clip", "scratch", "rates", "scratch_rates", "network", "rank", "folder")


def jobs(plan: Mapping) -> list[Job]:
    """Return the study's jobs: its cells, and the variant of DataDream that validation images choose, on every target
    with every seed, target by target and seed by seed; ValueError for a claim of which nothing is known."""
    for claim in plan["claims"]:
        arms_of(claim)
    return [
        (name, target, seed)
        for target in plan["sets"]
        for seed in plan["seeds"]
        for name in map(name_of, _with_chosen(_cells(plan, target, seed)))
    ]


def outcomes(
    plan: Mapping,
    jobs: Iterable[Job],
    execution: Execution,
    device: str = "cpu",
    remember: Remember = at_once,
) -> Iterator[tuple[Job, np.ndarray, ImageSet]]:
    """Yield each job with whether its classifier is correct, bool (n,), and the test images it was measured on.

    Arms of one target and seed are cut to equal counts, so their jobs are carried out together, whichever of them are
    wanted. Learning rates and checkpoints are chosen with the plan's first seed.

    Args:
        plan: models (a generator, a CLIP), sets, images_seed, seeds and settings of the study.
        jobs: those wanted. execution, device: of generating and training.
        remember: keeps learning rates and checkpoints, and what H9 needs of images and labels.
    """
    wanted, classifiers = list(jobs), _classifiers(plan)
    for target, seed in dict.fromkeys((target, seed) for _, target, seed in wanted):
        setting, cells = _setting(plan, target, device, execution), _cells(plan, target, seed)
        first = _cells(plan, target, plan["seeds"][0])
        chosen = remember(target, "choices", partial(choose, setting, classifiers, first, execution))
        table = run(setting, classifiers, cells, execution, chosen)
        test = shots(setting, target, seed).test
        if set(OF_H9) <= {name_of(cell) for cell in cells}:
            remember(target, f"narrowing {seed}", partial(_narrowing, setting, cells, execution))
            remember(target, "labels", partial(_labels, test))
        correct = {name_of(cell): row for cell, row in zip(cells, table["correct"], strict=True)}
        arms = Arms(table, target)
        for cell in _with_chosen(cells)[len(cells) :]:
            at = At(cell.shots, cell.n, cell.with_shots, cell.classifier)
            correct[name_of(cell)] = arms.outcomes([Side(CHOSEN, at)])[1][0][0].astype(bool)
        for job in (job for job in wanted if job[1:] == (target, seed)):
            yield job, correct[job[0]], test


def differences(
    outcomes: Mapping[str, Mapping[str, np.ndarray]], choices: Mapping[str, Mapping[str, Mapping]] | None = None
) -> dict[str, dict[str, np.ndarray]]:
    """Return claim → target → paired differences of correctness, (seeds, images), or the alignment of H9.

    Args:
        outcomes: arm → target → correctness (seeds, images).
        choices: target → what → what was noted of it: of H9, the narrowing by class of each seed, and the labels.
    """
    if not outcomes:
        return {}
    rows = [
        asdict(cell_of(name, target, seed)) | {"correct": row, "held_out": 0.0}
        for name, by_target in outcomes.items()
        for target, correct in by_target.items()
        for seed, row in enumerate(correct)
    ]
    by_target = {target: alignment_of(outcomes, target, notes) for target, notes in (choices or {}).items()}
    alignments = {target: one for target, one in by_target.items() if one is not None}
    computed = contrasts(pd.DataFrame(rows), alignments=alignments)
    for claim, at in (("DD-H3", POOLED), ("DD-H5-choice", ALONE)):  # which was chosen is on record, or not known
        recorded = outcomes.get(name_of(Cell("", CHOSEN, shots=at.shots, n=at.n, with_shots=at.with_shots)), {})
        computed[claim] = {target: value for target, value in computed.get(claim, {}).items() if target in recorded}
    return computed


def alignment_of(
    outcomes: Mapping[str, Mapping[str, np.ndarray]], target: str, notes: Mapping[str, Mapping]
) -> Alignment | None:
    """Return H9's relation on a target; None where it is not measured whole, or has too few classes.

    Args:
        outcomes: arm → target → correctness (seeds, images).
        notes: what → what was noted of the target, as in `differences`.
    """
    narrowing = narrowing_of(notes)
    adapted, frozen = (outcomes.get(name, {}).get(target) for name in OF_H9)
    if adapted is None or frozen is None or len(narrowing) != len(adapted) or len(narrowing[0]) < FEWEST:
        return None
    labels = notes["labels"]["labels"]
    return alignment(narrowing, class_accuracy(adapted, labels) - class_accuracy(frozen, labels))


def narrowing_of(notes: Mapping[str, Mapping]) -> list[list[float]]:
    """Return by how much the adapter narrowed the gap of each class, (seeds, C), from what was noted of a target."""
    return [by_class["narrowing"] for what, by_class in sorted(notes.items()) if what.startswith("narrowing")]


def _cells(plan: Mapping, target: str, seed: int) -> list[Cell]:
    """Return what is measured on a target with a seed."""
    cells: dict[Cell, None] = {}
    for block in plan["settings"]["cells"]:
        if target in block["targets"]:
            how = {name: value for name, value in block.items() if name not in ("targets", "ways")}
            ways = [way == "with the shots" for way in block.get("ways", ("alone", "with the shots"))]
            of_block = comparison([target], seeds=1, **how)
            cells |= dict.fromkeys(replace(c, seed=seed) for c in of_block if not c.n or c.with_shots in ways)
    return list(cells)


def _with_chosen(cells: list[Cell]) -> list[Cell]:
    """Return cells, and behind them one of the chosen variant of DataDream wherever both variants are."""
    first, second = ({replace(cell, arm=CHOSEN): None for cell in cells if cell.arm == arm} for arm in VARIANTS)
    return [*cells, *(cell for cell in first if cell in second)]


def _narrowing(setting: Setting, cells: list[Cell], execution: Execution) -> dict[str, list[float]]:
    """Return for each class by how much the adapter brings its images nearer to real ones, in CLIP's image space."""
    compared = {arm: [c for c in cells if c.arm == arm and c.shots == ALONE.shots] for arm in (BY_CLASS, PROMPTED)}
    sets = make_sets(setting, [cell for own in compared.values() for cell in own], execution)
    one = shots(replace(setting, shots=ALONE.shots), cells[0].target, cells[0].seed)
    real, clip = further_real(replace(setting, shots=ALONE.shots), one, FURTHER), open_filter(setting)
    first = np.full(len(one.real.classes), ALONE.n)
    images = [replace(first_of_each(each.images, first), manifest=None) for each in sets.values()]
    adapted, frozen = (class_gaps(clip, real, each) for each in images)
    return {"narrowing": (frozen - adapted).tolist()}


def _labels(test: ImageSet) -> dict[str, list[int]]:
    return {"labels": test.labels.tolist()}


def _classifiers(plan: Mapping) -> Classifiers:
    values, plain = plan["settings"], Classifiers()
    return replace(
        plain,
        recipe=replace(plain.recipe, **values.get("clip", {})),
        scratch=replace(plain.scratch, **values.get("scratch", {})),
        **{name: tuple(values[name]) for name in ("rates", "scratch_rates") if name in values},
        **{name: values[name] for name in ("network",) if name in values},
    )


def _setting(plan: Mapping, target: str, device: str, execution: Execution) -> Setting:
    values = plan["settings"]
    own = {name: value for name, value in values.items() if name not in APART}
    if "strengths" in own:
        own["strengths"] = tuple((k, share) for k, share in own["strengths"])
    setting = Setting(
        model=plan["models"][0],
        clip=plan["models"][1],
        index="",
        test_images=plan["sets"][target],
        test_seed=plan["images_seed"],
        test_split=values.get("splits", {}).get(target, "test"),
        lora=Lora(rank=values["rank"], alpha=values["rank"]),
        device=device,
        **own,
    )
    return with_index(setting, Path(values["folder"]), execution)
