"""The comparison: every arm alone and with the shots, one tuned CLIP (or network from scratch) each, on equal terms.

    setting = Setting(model="data/models/pocket-sd", clip="data/models/pocket-clip", index="results/index")
    cells = comparison(["objects-hard"], ["prompted", "DataDream, by class"], shots=[4, 16], seeds=3)
    table = run(setting, Classifiers(), cells, Execution(batch=100, cache=Cache(), workers=Workers(2)))

An arm with something changed is named after it: "DataDream, by class, rank 4". All classifiers take the same number of
steps. Learning rates are chosen on validation images for each target, arm and way, with the first of its cells and of
the seeds; checkpoints likewise, for each cell but its seed. Test images are looked at once, but for the audit of what
looking at them for every choice would give.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import product

import pandas as pd

from zsclib.extra import Extra, equal_counts, first_of_each
from zsclib.papers.datadream.arms import ARMS, check_arm, make_set
from zsclib.papers.datadream.classifiers import (
    CLIP,
    DIVERGED,
    SCRATCH,
    Cell,
    Classifiers,
    Sources,
    Training,
    judged,
    train_all,
    zero_shot,
)
from zsclib.papers.datadream.contrasts import (
    EPOCH_BY_TEST,
    FOURFOLD,
    GUIDANCE_5,
    HALF_WEIGHT,
    ON_TRAIN,
    ONE_NOISE,
    QUARTER,
    RANK_4,
    SHOTS,
    TWICE,
    UNET_ALONE,
    ZERO_SHOT,
)
from zsclib.papers.datadream.training_sets import (
    Setting,
    class_prompts,
    shots,
    training_split,
)
from zsclib.workers import Execution

CHANGES: Mapping[str, Callable[[Setting], dict[str, object]]] = {  # of how images are made
    QUARTER: lambda s: {"tuning_samples": max(1, s.tuning_samples // 4)},
    FOURFOLD: lambda s: {"tuning_samples": 4 * s.tuning_samples},
    RANK_4: lambda s: {"lora": replace(s.lora, rank=4, alpha=4)},
    UNET_ALONE: lambda s: {"lora": replace(s.lora, text_encoder=False)},
    GUIDANCE_5: lambda s: {"guidance": 5.0},
    ONE_NOISE: lambda s: {"one_noise": True},
}
OF_CLASSIFIER = (HALF_WEIGHT, TWICE, EPOCH_BY_TEST, ON_TRAIN)  # changes of how the classifier learns, or is judged
FEWEST = 4  # shots of a class, by whose number adapters learn, where there are less
Choice = tuple[float, int, int]  # learning rate, which of the checks counts, and the seed that chose them


def comparison(
    targets: Sequence[str],
    arms: Sequence[str],
    shots: Sequence[int] = (16,),
    n: Sequence[int] = (64,),
    classifier: str = CLIP,
    seeds: int = 3,
) -> list[Cell]:
    """Return the cells that compare arms, each alone and with the shots, beside the shots alone and CLIP as it is."""
    cells = []
    for target, k, seed in product(targets, shots, range(seeds)):
        at = {"shots": k, "classifier": classifier, "seed": seed}
        for arm, size, with_shots in product(arms, n, (False, True)):
            if _parts(arm)[0] in ARMS:
                cells.append(Cell(target, arm, n=size, with_shots=with_shots, **at))
            else:
                cells.append(Cell(target, arm, n=0, **at))
        cells.append(Cell(target, SHOTS, n=0, **at))
        if classifier == CLIP:
            cells.append(Cell(target, ZERO_SHOT, n=0, shots=0, seed=seed))
    return list(dict.fromkeys(cells))


def run(
    setting: Setting,
    classifiers: Classifiers,
    cells: Iterable[Cell],
    execution: Execution,
    chosen: Mapping[str, Choice] | None = None,
) -> pd.DataFrame:
    """Make every set of images, choose learning rates and checkpoints, and train every classifier the cache lacks.

    Args:
        setting: what sets have in common; K, N and what is changed in an arm are those of the cells. Its tuning_samples
            are meant for its own shots: with fewer an adapter learns from fewer, in proportion, down to `FEWEST`.
        classifiers: how they are trained.
        cells: what is to be done. The first of the seeds of each chooses.
        execution: sets and trainings are jobs.
        chosen: what `choose` has returned, where that was done before.

    Returns:
        A row per cell: the columns of `Cell`; learning_rate, step (of the checkpoint) and held_out, its accuracy on
        validation images; correct, bool (test,).

    Raises:
        ValueError: an unknown arm or change, or what `arms.make_set` refuses. FloatingPointError: a loss is not finite.
    """
    cells = list(dict.fromkeys(cells))
    for cell in cells:
        check_cell(cell)
    sources = _sources_of(setting, cells, execution)
    chosen = _choose(setting, classifiers, sources, execution) if chosen is None else chosen
    todo = []
    for cell in cells:
        if cell.arm != ZERO_SHOT:
            rate, row, seed = chosen[name_of(_but_seed(cell))]
            recipe = classifiers.recipe_at(cell, rate)
            todo.append(Training(of=sources[cell], recipe=recipe, row=None if cell.seed == seed else row))
    trained, rows = iter(train_all(setting, classifiers, todo, execution, "classifiers")), []
    for cell in cells:
        own = sources[cell]
        rows.append(asdict(cell) | (zero_shot(setting, own) if cell.arm == ZERO_SHOT else judged(own, *next(trained))))
    return pd.DataFrame(rows)


def choose(
    setting: Setting, classifiers: Classifiers, cells: Iterable[Cell], execution: Execution
) -> dict[str, Choice]:
    """Choose learning rates and checkpoints on validation images; return name → choice.

    Args:
        setting, classifiers, execution: as of `run`.
        cells: the first of each arm and way chooses its learning rate, so it had better have most of the shots, and
            with them of validation images; the first of its seeds chooses.
    """
    cells = list(dict.fromkeys(cells))
    for cell in cells:
        check_cell(cell)
    first = {_but_seed(cell): cell for cell in reversed(cells)}  # the others' sets are not made
    with_audits = [cell for cell in cells if cell.seed == first[_but_seed(cell)].seed]
    return _choose(setting, classifiers, _sources_of(setting, with_audits, execution), execution)


def _choose(
    setting: Setting, classifiers: Classifiers, sources: Mapping[Cell, Sources], execution: Execution
) -> dict[str, Choice]:
    first = {_but_seed(cell): cell for cell in reversed(sources) if cell.arm != ZERO_SHOT}
    by_arm: dict[tuple, Cell] = {}
    for cell in sources:
        if cell in first.values():
            by_arm.setdefault(_arm_and_way(cell), cell)
    trials = [Training(sources[cell], r, None) for cell in by_arm.values() for r in classifiers.recipes(cell)]
    best: dict[str, float] = {}
    chosen: dict[str, Choice] = {}
    for one, outcome in train_all(setting, classifiers, trials, execution, "learning rates"):
        name, row = name_of(_but_seed(one.of.cell)), int(outcome["row"])
        if name not in best or outcome["held_out"][row] > best[name]:
            best[name] = outcome["held_out"][row]
            chosen[name] = (one.recipe.learning_rate, row, one.of.cell.seed)
    others = [cell for cell in first.values() if cell not in by_arm.values()]
    rates = [chosen[name_of(_but_seed(by_arm[_arm_and_way(cell)]))][0] for cell in others]
    todo = [
        Training(sources[cell], classifiers.recipe_at(cell, rate), None)
        for cell, rate in zip(others, rates, strict=True)
    ]
    for one, outcome in train_all(setting, classifiers, todo, execution, "checkpoints"):
        name, row = name_of(_but_seed(one.of.cell)), int(outcome["row"])
        best[name] = outcome["held_out"][row]
        chosen[name] = (one.recipe.learning_rate, row, one.of.cell.seed)
    if lost := [name for name, accuracy in best.items() if accuracy == DIVERGED]:
        rate = chosen[lost[0]][0]
        raise FloatingPointError(f"the loss of {lost[0]!r} is not finite at the learning rate {rate}; try lower ones")
    return chosen


def _arm_and_way(cell: Cell) -> tuple:
    """Return what shares a learning rate, whatever K and N are and what is changed."""
    return cell.target, _parts(cell.arm)[0], cell.with_shots, cell.classifier


def check_cell(cell: Cell) -> None:
    """Raise ValueError for a cell of an unknown arm, change or classifier, or with no images to learn from."""
    arm, changes = _parts(cell.arm)
    if arm not in (SHOTS, ZERO_SHOT):
        check_arm(arm)
    if unknown := [name for name in changes if name not in (*CHANGES, *OF_CLASSIFIER)]:
        raise ValueError(f"{cell.arm!r}: no change {unknown[0]!r}; known: {', '.join((*CHANGES, *OF_CLASSIFIER))}")
    if cell.classifier not in (CLIP, SCRATCH):
        raise ValueError(f"a classifier is {CLIP!r} or {SCRATCH!r}, got {cell.classifier!r}")
    if (cell.n > 0) != (arm in ARMS):
        raise ValueError(f"{cell}: arms of images have N above 0, the shots alone and CLIP as it is have none")


def make_sets(setting: Setting, cells: Iterable[Cell], execution: Execution) -> dict[tuple, Extra]:
    """Return the images of every cell's arm, by `_place`: as many of a class as the largest N there."""
    largest: dict[tuple, int] = {}
    for cell in cells:
        if cell.n:
            largest[_place(cell)] = max(cell.n, largest.get(_place(cell), 0))
    sets = {}
    for (target, arm, k, seed), n in largest.items():
        name, changes = _parts(arm)
        samples = round(setting.tuning_samples * max(k, FEWEST) / max(setting.shots, FEWEST))
        own = replace(setting, shots=k, per_class=n, tuning_samples=samples)
        for change in changes:
            own = replace(own, **CHANGES[change](own))
        sets[target, arm, k, seed] = make_set(own, target, seed, name, execution)
    return sets


def name_of(cell: Cell) -> str:
    """Return what a cell is called but for its target and seed: "prompted; 16 shots; 64 images; alone; CLIP"."""
    how = "with the shots" if cell.with_shots else "alone"
    return f"{cell.arm}; {cell.shots} shots; {cell.n} images; {how}; {cell.classifier}"


def cell_of(name: str, target: str, seed: int) -> Cell:
    """Return the cell of a name that `name_of` has given."""
    arm, k, n, how, classifier = name.split("; ")
    k, n = (int(part.split()[0]) for part in (k, n))
    return Cell(target, arm, shots=k, n=n, with_shots=how != "alone", classifier=classifier, seed=seed)


def _parts(arm: str) -> tuple[str, list[str]]:
    """Return an arm's name and what is changed in it: arms' own names have commas, too."""
    name = max((each for each in (*ARMS, SHOTS, ZERO_SHOT) if f"{arm}, ".startswith(f"{each}, ")), key=len, default=arm)
    return name, [part for part in arm[len(name) :].split(", ") if part]


def _place(cell: Cell) -> tuple:
    """Return what the images of a cell's arm depend on: changes of the classifier alone share them."""
    name, changes = _parts(cell.arm)
    return cell.target, ", ".join([name, *(c for c in changes if c in CHANGES)]), cell.shots, cell.seed


def _but_seed(cell: Cell) -> Cell:
    """Return what a learning rate and a checkpoint are chosen for; how it is judged is no choice of its own."""
    name, changes = _parts(cell.arm)
    own = ", ".join([name, *(change for change in changes if change not in (EPOCH_BY_TEST, ON_TRAIN))])
    return replace(cell, arm=own, seed=0)


def _sources_of(setting: Setting, cells: Sequence[Cell], execution: Execution) -> dict[Cell, Sources]:
    """Make the images of every cell's arm, and return what its classifier learns from and is judged on."""
    sets = make_sets(setting, cells, execution)
    by_audit = {
        fault: {_but_seed(cell) for cell in cells if cell.arm.endswith(fault)} for fault in (ON_TRAIN, EPOCH_BY_TEST)
    }  # trained once, whatever is read of it
    return {
        cell: _sources(setting, cell, sets, *(_but_seed(cell) in audited for audited in by_audit.values()))
        for cell in cells
    }


def _sources(
    setting: Setting, cell: Cell, sets: Mapping[tuple, Extra], on_train: bool = False, every_check: bool = False
) -> Sources:
    own = replace(setting, shots=cell.shots or setting.shots)
    one, images = shots(own, cell.target, cell.seed), None
    if cell.n:
        beside = [other for place, other in sets.items() if (place[0], place[2], place[3]) == _at(cell)]
        among = [other.images for other in beside if other.report["wanted"].iloc[0] >= cell.n]
        images = first_of_each(sets[_place(cell)].images, equal_counts(among, cell.n))
        images = replace(images, manifest=None)
    return Sources(
        cell=cell,
        one=one,
        prompts=tuple(class_prompts(own, one)),
        real=one.real if cell.with_shots or not cell.n else None,
        synthetic=images,
        train_split=training_split(own, one) if on_train else None,
        every_check=every_check,
    )


def _at(cell: Cell) -> tuple:
    return cell.target, cell.shots, cell.seed
