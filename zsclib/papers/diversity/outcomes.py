"""The long study of this paper: its arms, as jobs that say of each image whether the network is correct, and the
contrast of each of its claims.

A job is (arm, target, seed), the arm by the name that `experiments.name_of` gives a training; a plan is plain data
(`zsclib.study.freeze` says which). Its models are a generator and a CLIP. Of its settings, `cells` lists what is
trained on every target, blocks of the arguments of `experiments.comparison`; `per_class` and `held_out` are images of
each class, of a set of N and of those that each of the paper's tricks holds out; `network_steps`, `network_batch`,
`learning_rate` and `checkpoints` are the recipe's, of a training of length 1, where the claims compare;
`learning_rates` maps networks to rates of their own, `splits` targets to the split of their test images where that is
not "test"; all others are fields of `Setting`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from functools import partial

import numpy as np
import pandas as pd

from zsclib import datasets
from zsclib.cache import Remember, at_once
from zsclib.images.image_set import ImageSet
from zsclib.papers.diversity.contrasts import (
    CHOSEN,
    MEASURED,
    Arms,
    Side,
    contrasts,
    kinds,
    sides_of,
    unsettled,
)
from zsclib.papers.diversity.experiments import (
    CLIP,
    ENDINGS,
    cell_of,
    comparison,
    correct,
    measures,
    name_of,
    references,
    run,
)
from zsclib.papers.diversity.training_sets import SINGLE, Cell, Setting, target_images
from zsclib.prompts import load_prompts
from zsclib.recipe import Recipe
from zsclib.workers import Execution

Job = tuple[str, str, int]
UNTRAINED = (CHOSEN, CLIP)  # arms that come from other arms' trainings, or from none
RECIPE = ("network_steps", "network_batch", "learning_rate", "checkpoints")
APART = (*RECIPE, "cells", "splits", "per_class", "held_out", "learning_rates")


def jobs(plan: Mapping) -> list[Job]:
    """Return the study's jobs: its cells, what its claims compare beside them, and the single trick that held-out
    generated images choose, target by target and seed by seed.

    Raises:
        ValueError: a claim of which nothing is known, or one that compares a training that is not among the cells.
    """
    return [(name, target, seed) for target in plan["sets"] for seed in plan["seeds"] for name in _names(plan)]


def outcomes(
    plan: Mapping,
    jobs: Iterable[Job],
    execution: Execution,
    device: str = "cpu",
    remember: Remember = at_once,
) -> Iterator[tuple[Job, np.ndarray, ImageSet]]:
    """Yield each job with whether its network is correct, bool (n,), and the test images it was measured on.

    Jobs of one target and seed share generated images. Those of one network and length are carried out together, and
    yielded before the next are begun.

    Args:
        plan: models (a generator, a CLIP), sets, images_seed and settings of the study.
        jobs: those wanted. execution, device: of generating and training.
        remember: keeps the measures of the training sets, and which single trick was chosen.
    """
    wanted, measured = list(jobs), set(MEASURED).intersection(plan["claims"])
    for target, seed in dict.fromkeys((target, seed) for _, target, seed in wanted):
        setting = _setting(plan, target, device)
        cells = {name: cell_of(name, target, seed) for name, *of in wanted if tuple(of) == (target, seed)}
        every = [cell_of(name, target, seed)[0] for name in _names(plan)]
        whole = [cell for cell in every if cell.arm not in UNTRAINED]
        for own in _together(cells):
            arms = {cell.arm for cell, _ in own.values()}
            trained = dict.fromkeys(cell for cell, _ in own.values() if cell.arm not in UNTRAINED)
            if CHOSEN in arms:
                trained |= dict.fromkeys(Cell(target, trick, seed=seed) for trick in SINGLE)
            table = references(setting, [target], [seed]) if CLIP in arms else run(setting, trained, execution, whole)
            if CHOSEN in arms:
                remember(target, f"trick {seed}", partial(_chosen, table, target))
            for name, (cell, ending) in own.items():
                if cell.arm == CHOSEN:
                    row = Arms(table, target)[Side(CHOSEN)][0]
                else:
                    at = (cell.arm, cell.times, (cell.architecture,), ending, cell.length)
                    row = correct(table, target, *at)[0]
                yield (name, target, seed), row.astype(bool), target_images(setting, target)
        if measured:
            sets = [cell for cell in every if cell.arm in kinds()]
            remember(target, f"measures {seed}", partial(_measured, setting, sets, execution))


def differences(
    outcomes: Mapping[str, Mapping[str, np.ndarray]], choices: Mapping[str, Mapping[str, Mapping]] | None = None
) -> dict[str, dict[str, np.ndarray | tuple]]:
    """Return claim → target → paired differences of correctness (seeds, images), or a correlation with its interval.

    Where twice the steps change a claim's contrast it is left out (`contrasts.unsettled`): not testable at this budget.

    Args:
        outcomes: arm → target → correctness (seeds, images).
        choices: target → what → what was noted of it: the measures of each seed's training sets.
    """
    if not outcomes:
        return {}
    table, measured = table_of(outcomes), measures_of(choices or {})
    seeds = table["seed"].nunique()
    noted = measured.groupby("target")["seed"].nunique() if len(measured) else {}
    whole = [target for target, number in dict(noted).items() if number == seeds]
    measured = measured[measured.target.isin(whole)] if whole else None
    computed = contrasts(table, measured, guessing(table["target"].unique()))
    for claim, moved in unsettled(table).items():
        computed[claim] = {t: values for t, values in computed.get(claim, {}).items() if t not in moved}
    return computed


def guessing(targets: Iterable[str]) -> dict[str, float]:
    """Return target → the accuracy of guessing, one over its number of classes."""
    return {target: 1 / len(load_prompts(target).classes) for target in targets}


def table_of(outcomes: Mapping[str, Mapping[str, np.ndarray]]) -> pd.DataFrame:
    """Return a record as a table like that of `experiments.run`, as far as it goes."""
    rows: dict[Cell, dict] = {}
    for name, by_target in outcomes.items():
        for target, correct_on in by_target.items():
            for seed, row in enumerate(correct_on):
                cell, ending = cell_of(name, target, seed)
                empty = asdict(cell) | dict.fromkeys(ENDINGS) | {"held_out": 0.0}
                rows.setdefault(cell, empty)[ending] = row
    return pd.DataFrame(list(rows.values()))


def measures_of(choices: Mapping[str, Mapping[str, Mapping]]) -> pd.DataFrame:
    """Return the noted measures of training sets as a table like that of `experiments.measures`."""
    rows = []
    for target, notes in choices.items():
        by_seed = [note for what, note in sorted(notes.items()) if what.startswith("measures")]
        for seed, note in enumerate(by_seed):
            for name, values in note.items():
                cell, _ = cell_of(name, target, seed)
                rows.append({"target": target, "arm": cell.arm, "times": cell.times, "seed": seed} | values)
    return pd.DataFrame(rows)


def _together(cells: Mapping[str, tuple[Cell, str]]) -> list[dict[str, tuple[Cell, str]]]:
    """Return cells with their endings by network and length: what is carried out before the next is begun."""
    groups: dict[tuple, dict[str, tuple[Cell, str]]] = {}
    for name, (cell, ending) in cells.items():
        groups.setdefault((cell.architecture, cell.length), {})[name] = cell, ending
    return list(groups.values())


def _names(plan: Mapping) -> list[str]:
    """Return what is measured on every target with every seed."""
    cells = dict.fromkeys(
        cell for block in plan["settings"]["cells"] for cell in comparison(targets=[""], **block)
    )
    names = {name_of(cell): None for cell in cells}
    if all(Cell("", trick) in cells for trick in SINGLE):
        names[name_of(Cell("", CHOSEN))] = None
    for claim in plan["claims"]:
        for side in sides_of(claim):
            cell = Cell("", side.arm, side.times, architecture=side.architecture)
            if side.arm not in UNTRAINED and cell not in cells:
                raise ValueError(f"the plan has no cell {name_of(cell)!r}, which it needs for the claim {claim!r}")
            names[name_of(cell, side.ending)] = None
    return list(names)


def _measured(setting: Setting, cells: list[Cell], execution: Execution) -> dict[str, dict[str, float]]:
    table, noted = measures(setting, cells, execution), {}
    for row in table.to_dict("records"):
        cell = Cell(row.pop("target"), row.pop("arm"), row.pop("times"), seed=row.pop("seed"))
        noted[name_of(cell)] = {name: round(value, 6) for name, value in row.items()}
    return noted


def _chosen(table: pd.DataFrame, target: str) -> dict[str, str]:
    return {"trick": Arms(table, target).chosen()[0]}


def _setting(plan: Mapping, target: str, device: str) -> Setting:
    values = plan["settings"]
    steps, batch, rate, checkpoints = (values[name] for name in RECIPE)
    split = values.get("splits", {}).get(target, "test")
    classes = len(datasets.load(target, split, 1, plan["images_seed"]).classes)
    return Setting(
        model=plan["models"][0],
        clip=plan["models"][1],
        test_images=plan["sets"][target],
        test_seed=plan["images_seed"],
        test_split=split,
        images=values["per_class"] * classes,
        held_out=values["held_out"] * classes,
        recipe=Recipe(steps=steps, batch=batch, learning_rate=rate, checkpoints=checkpoints),
        learning_rates=tuple(values.get("learning_rates", {}).items()),
        device=device,
        **{name: value for name, value in values.items() if name not in APART},
    )
