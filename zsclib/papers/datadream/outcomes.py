"""The long study of this paper: its arms, as jobs that say of each image whether the classifier is correct, and the
contrast of each of its claims.

A job is (arm, target, seed), the arm by the name that `experiments.name_of` gives a cell; a plan is plain data
(`zsclib.study.freeze` says which). Its models are a generator and a CLIP. Of its settings, `cells` lists what is
measured: targets, arms, shots, n and classifier of `experiments.comparison`, and ways, where not both, "alone" and
"with the shots". `splits` maps targets to the split of their test images where that is not "test", `clip` and `scratch`
are fields of `ClipRecipe` and of the recipe of networks from scratch, `rates`, `scratch_rates`, `network`, `unmirrored`
and `one_hue` those of `Classifiers`; each of these may map targets to values of their own. `rank` is the adapters',
`folder` is where the pool's features go; all others are fields of `Setting`.
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
    PROMPTED,
    arms_of,
    contrasts,
)
from zsclib.papers.datadream.experiments import (
    cell_of,
    choose,
    comparison,
    make_sets,
    name_of,
    run,
    sets_made,
)
from zsclib.papers.datadream.gap import FEWEST, Alignment, alignment, class_accuracy, class_gaps
from zsclib.papers.datadream.pool_arms import with_index
from zsclib.papers.datadream.training_sets import Setting, further_real, open_filter, shots
from zsclib.workers import Execution

Job = tuple[str, str, int]
FURTHER = 32  # real images of each class that H9 measures the gap to
OF_H9 = tuple(name_of(Cell("", arm)) for arm in (BY_CLASS, PROMPTED))  # at 16 shots, 64 images, alone
OF_CLASSIFIERS = ("rates", "scratch_rates", "network", "unmirrored", "one_hue")
APART = ("cells", "splits", "clip", "scratch", *OF_CLASSIFIERS, "rank", "folder")
BY_CHOICE = ("DD-H3", "DD-H5-choice")  # claims about arms that validation images choose


def jobs(plan: Mapping) -> list[Job]:
    """Return the study's jobs: its cells on every target with every seed, target by target and seed by seed; ValueError
    for a claim of which nothing is known."""
    for claim in plan["claims"]:
        arms_of(claim)
    return [
        (name, target, seed)
        for target in plan["sets"]
        for seed in plan["seeds"]
        for name in map(name_of, _cells(plan, target, seed))
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
        remember: keeps learning rates and checkpoints with what they were chosen by, what the sets of images are and
            took (`experiments.sets_made`), the validation accuracy of every classifier, and what H9 needs.
    """
    wanted = list(jobs)
    for target, seed in dict.fromkeys((target, seed) for _, target, seed in wanted):
        setting, classifiers = _setting(plan, target, device, execution), _classifiers(plan, target)
        first, cells = (_cells(plan, target, s) for s in (plan["seeds"][0], seed))
        chosen = remember(target, "choices", partial(choose, setting, classifiers, first, execution))
        table = run(setting, classifiers, cells, execution, chosen)
        test = shots(setting, target, seed).test
        remember(target, f"sets {seed}", partial(sets_made, setting, cells, execution))
        remember(target, f"classifiers {seed}", partial(_trained, cells, table))
        if "DD-H9" in plan["claims"] and set(OF_H9) <= {name_of(cell) for cell in cells}:
            remember(target, f"narrowing {seed}", partial(_narrowing, setting, cells, execution))
            remember(target, "labels", partial(_labels, test))
        correct = {name_of(cell): row for cell, row in zip(cells, table["correct"], strict=True)}
        for job in (job for job in wanted if job[1:] == (target, seed)):
            yield job, correct[job[0]], test


def differences(
    outcomes: Mapping[str, Mapping[str, np.ndarray]], choices: Mapping[str, Mapping[str, Mapping]] | None = None
) -> dict[str, dict[str, np.ndarray]]:
    """Return claim → target → paired differences of correctness, (seeds, images), or the alignment of H9.

    Args:
        outcomes: arm → target → correctness (seeds, images).
        choices: target → what → what was noted of it: for H3 and H5 the validation accuracies of each seed's
            classifiers, for H9 the narrowing by class of each seed, and the labels.
    """
    if not outcomes:
        return {}
    choices = choices or {}
    trained = {target: by_seed(notes, "classifiers") for target, notes in choices.items()}

    def held_out(name: str, target: str, seed: int) -> float:
        noted = dict(enumerate(trained.get(target, []))).get(seed, {})
        return noted.get(name, {"held_out": 0.0})["held_out"]

    rows = [
        asdict(cell_of(name, target, seed)) | {"correct": row, "held_out": held_out(name, target, seed)}
        for name, by_target in outcomes.items()
        for target, correct in by_target.items()
        for seed, row in enumerate(correct)
    ]
    by_target = {target: alignment_of(outcomes, target, notes) for target, notes in choices.items()}
    alignments = {target: one for target, one in by_target.items() if one is not None}
    computed = contrasts(pd.DataFrame(rows), alignments=alignments)
    for claim in BY_CHOICE:  # which was best on validation images is on record with every seed, or not known
        by_target = computed.get(claim, {})
        computed[claim] = {t: value for t, value in by_target.items() if len(trained.get(t, [])) == len(value)}
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
    return [by_class["narrowing"] for by_class in by_seed(notes, "narrowing")]


def by_seed(notes: Mapping[str, Mapping], what: str) -> list[Mapping]:
    """Return what was noted of a target under a name, seed by seed."""
    numbers = {int(name.rpartition("-")[2]): name for name in notes if name.rpartition("-")[0] == what}
    return [notes[numbers[seed]] for seed in sorted(numbers)]


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


def _trained(cells: list[Cell], table: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Return of each classifier, by its name, its learning rate, step and accuracy on validation images."""
    rows = table[["learning_rate", "step", "held_out"]].to_dict("records")
    return dict(zip(map(name_of, cells), rows, strict=True))


def _classifiers(plan: Mapping, target: str) -> Classifiers:
    """Return how classifiers of a target are trained; the plan may have values for each target."""
    values, plain = plan["settings"], Classifiers()

    def own(value: object) -> object:
        value = value[target] if isinstance(value, Mapping) else value
        return tuple(value) if isinstance(value, list) else value

    of_clip, of_scratch = ({name: own(v) for name, v in values.get(part, {}).items()} for part in ("clip", "scratch"))
    return replace(
        plain,
        recipe=replace(plain.recipe, **of_clip),
        scratch=replace(plain.scratch, **of_scratch),
        **{name: own(values[name]) for name in OF_CLASSIFIERS if name in values},
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
