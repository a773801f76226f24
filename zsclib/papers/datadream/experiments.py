"""The comparison: every arm alone and with the shots, one tuned CLIP (or network from scratch) each, on equal terms.

    setting = Setting(model="data/models/pocket-sd", clip="data/models/pocket-clip", index="results/index")
    cells = comparison(["objects-hard"], ["prompted", "DataDream, by class"], shots=[4, 16], seeds=3)
    table = run(setting, Classifiers(), cells, Execution(batch=100, cache=Cache(), workers=Workers(2)))

An arm with something changed is named after it: "DataDream, by class, rank 4". All classifiers of a target take as many
steps. Learning rate and checkpoint are chosen on validation images once for each target, arm and way, by `choices.
choice`, and serve all its K, N, changes and seeds, so that no chance of a choice comes between them. Test images are
looked at once, but for the audit of what looking at them for every choice would give.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import product

import pandas as pd

from zsclib.extra import Extra, counts, equal_counts, first_of_each
from zsclib.images.image_set import ImageSet
from zsclib.papers.datadream.arms import ARMS, check_arm, make_set
from zsclib.papers.datadream.choices import Choice, choice
from zsclib.papers.datadream.classifiers import (
    CLIP,
    SCRATCH,
    Cell,
    Classifiers,
    Sources,
    Training,
    judged,
    last_check,
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
OF_MAKING = ("attempts", "unfiltered", "loss before", "loss after")  # columns of an arm's report that are noted


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
        cells: what is to be done. The first of each arm and way chooses, with its seed.
        execution: sets and trainings are jobs.
        chosen: what `choose` has returned, where that was done before.

    Returns:
        A row per cell: the columns of `Cell`; learning_rate, step (of the checkpoint) and held_out, its accuracy on
        validation images; correct, bool (test,).

    Raises:
        ValueError: an unknown arm or change, or what `arms.make_set` refuses. FloatingPointError: a loss is not finite
            at any learning rate.
    """
    cells = list(dict.fromkeys(cells))
    for cell in cells:
        check_cell(cell)
    sources = _sources_of(setting, cells, execution)
    chosen = _choose(setting, classifiers, sources, execution) if chosen is None else chosen
    todo = []
    for cell in cells:
        if cell.arm != ZERO_SHOT:
            own = chosen[choice_of(cell)]
            recipe = classifiers.recipe_at(cell, own["learning_rate"])
            todo.append(Training(of=sources[cell], recipe=recipe, row=own["check"]))
    trained, rows = iter(train_all(setting, classifiers, todo, execution, "classifiers")), []
    for cell in cells:
        own = sources[cell]
        rows.append(asdict(cell) | (zero_shot(setting, own) if cell.arm == ZERO_SHOT else judged(own, *next(trained))))
    return pd.DataFrame(rows)


def choose(
    setting: Setting, classifiers: Classifiers, cells: Iterable[Cell], execution: Execution
) -> dict[str, Choice]:
    """Choose learning rates and checkpoints on validation images; return `choice_of` → what `choices.choice` returns.

    Args:
        setting, classifiers, execution: as of `run`.
        cells: the first of each arm and way chooses, so it had better have most of the shots, and with them of
            validation images, and nothing changed; the first of its seeds chooses.
    """
    cells = list(dict.fromkeys(cells))
    for cell in cells:
        check_cell(cell)
    first = {_but_seed(cell): cell for cell in reversed(cells)}  # the others' sets are not made
    with_audits = [cell for cell in cells if cell.seed == first[_but_seed(cell)].seed]
    return _choose(setting, classifiers, _sources_of(setting, with_audits, execution), execution)


def choosing(cells: Iterable[Cell]) -> dict[str, Cell]:
    """Return the cell that chooses for each arm and way, by `choice_of`: the first of them."""
    first: dict[str, Cell] = {}
    for cell in cells:
        if cell.arm != ZERO_SHOT:
            first.setdefault(choice_of(cell), cell)
    return first


def choice_of(cell: Cell) -> str:
    """Return what shares a choice, whatever K and N are and what is changed: "digits; prompted; alone; CLIP"."""
    return f"{cell.target}; {_parts(cell.arm)[0]}; {_way(cell)}; {cell.classifier}"


def _choose(
    setting: Setting, classifiers: Classifiers, sources: Mapping[Cell, Sources], execution: Execution
) -> dict[str, Choice]:
    trials = [
        Training(sources[cell], recipe, last_check(recipe))
        for cell in choosing(sources).values()
        for recipe in classifiers.recipes(cell)
    ]
    by_name: dict[str, list] = {}
    for one, outcome in train_all(setting, classifiers, trials, execution, "learning rates"):
        by_name.setdefault(choice_of(one.of.cell), []).append((one, outcome))
    return {name: choice(of_rates) for name, of_rates in by_name.items()}


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


def sets_made(setting: Setting, cells: Iterable[Cell], execution: Execution) -> dict[str, dict]:
    """Return what the sets behind some cells of one target and seed are, as plain data; what the cache lacks is made.

    Returns:
        "arm; K shots" → `delivered`, images of each class, of at most N; `compared`, those of each class at equal
        counts; what it took, `evaluations`, `tuning_samples` and `seconds`; of DISEF by class its `attempts`, and
        `unfiltered` images; of adapters by class the denoising loss on validation images, `loss before` and `loss
        after`.
    """
    sets, made = make_sets(setting, cells, execution), {}
    for (target, arm, k, seed), one in sets.items():
        n = int(one.report["wanted"].iloc[0])
        own = {name: one.report[name].tolist() for name in OF_MAKING if name in one.report}
        made[f"{arm}; {k} shots"] = own | {
            "delivered": counts(one.images).tolist(),
            "compared": equal_counts(_compared(sets, (target, k, seed), n), n).tolist(),
            "evaluations": one.evaluations,
            "tuning_samples": one.tuning_samples,
            "seconds": round(one.seconds, 1),
        }
    return made


def name_of(cell: Cell) -> str:
    """Return what a cell is called but for its target and seed: "prompted; 16 shots; 64 images; alone; CLIP"."""
    return f"{cell.arm}; {cell.shots} shots; {cell.n} images; {_way(cell)}; {cell.classifier}"


def cell_of(name: str, target: str, seed: int) -> Cell:
    """Return the cell of a name that `name_of` has given."""
    arm, k, n, how, classifier = name.split("; ")
    k, n = (int(part.split()[0]) for part in (k, n))
    return Cell(target, arm, shots=k, n=n, with_shots=how != "alone", classifier=classifier, seed=seed)


def _way(cell: Cell) -> str:
    return "with the shots" if cell.with_shots else "alone"


def _parts(arm: str) -> tuple[str, list[str]]:
    """Return an arm's name and what is changed in it: arms' own names have commas, too."""
    name = max((each for each in (*ARMS, SHOTS, ZERO_SHOT) if f"{arm}, ".startswith(f"{each}, ")), key=len, default=arm)
    return name, [part for part in arm[len(name) :].split(", ") if part]


def _place(cell: Cell) -> tuple:
    """Return what the images of a cell's arm depend on: changes of the classifier alone share them."""
    name, changes = _parts(cell.arm)
    return cell.target, ", ".join([name, *(c for c in changes if c in CHANGES)]), cell.shots, cell.seed


def _but_seed(cell: Cell) -> Cell:
    """Return what is trained but for its seed; how it is judged is no training of its own."""
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
        among = _compared(sets, (cell.target, cell.shots, cell.seed), cell.n)
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


def _compared(sets: Mapping[tuple, Extra], at: tuple, n: int) -> list[ImageSet]:
    """Return the sets of a target, K and seed that were to have n images of a class or more: all are cut alike."""
    beside = [one for (target, _, k, seed), one in sets.items() if (target, k, seed) == at]
    return [one.images for one in beside if one.report["wanted"].iloc[0] >= n]
