"""The comparison: every arm alone and with the shots, one tuned CLIP (or network from scratch) each, on equal terms.

    setting = Setting(model="data/models/pocket-sd", clip="data/models/pocket-clip", index="results/index")
    cells = comparison(["objects-hard"], ["prompted", "DataDream, by class"], shots=[4, 16], seeds=3)
    table = run(setting, Classifiers(), cells, Execution(batch=100, cache=Cache(), workers=Workers(2)))

An arm with something changed is named after it: "DataDream, by class, rank 4". All classifiers take the same number of
steps. Learning rate and checkpoint are chosen on validation images, for each cell but its seed alike, on the first of
the seeds; test images are looked at once, but for the audit of what looking at them for every choice would give.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, asdict, dataclass, field, replace
from itertools import product

import numpy as np
import pandas as pd

from zsclib.extra import Extra, equal_counts, first_of_each
from zsclib.hashing import key
from zsclib.images.image_set import ImageSet
from zsclib.models.clip_lora import ClipRecipe, tune_clip
from zsclib.models.networks import new_network
from zsclib.papers.datadream.arms import ARMS, check_arm, make_set
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
    UNET_ALONE,
    ZERO_SHOT,
)
from zsclib.papers.datadream.training_sets import (
    Setting,
    Shots,
    class_prompts,
    open_filter,
    shots,
    training_split,
)
from zsclib.recipe import Recipe
from zsclib.training import PLAIN, Augmentation, train
from zsclib.workers import Execution, Job, run_jobs

CHANGES: Mapping[str, Callable[[Setting], dict[str, object]]] = {  # of how images are made
    QUARTER: lambda s: {"tuning_samples": max(1, s.tuning_samples // 4)},
    FOURFOLD: lambda s: {"tuning_samples": 4 * s.tuning_samples},
    RANK_4: lambda s: {"lora": replace(s.lora, rank=4, alpha=4)},
    UNET_ALONE: lambda s: {"lora": replace(s.lora, text_encoder=False)},
    GUIDANCE_5: lambda s: {"guidance": 5.0},
    ONE_NOISE: lambda s: {"one_noise": True},
}
OF_CLASSIFIER = (HALF_WEIGHT, EPOCH_BY_TEST, ON_TRAIN)  # changes of how the classifier learns, or is judged
CLIP, SCRATCH = "CLIP", "scratch"
AnyRecipe = ClipRecipe | Recipe


@dataclass(frozen=True)
class Cell:
    """One classifier: what it learns from, K shots and N images of a class, with the shots or alone, which it is, seed.

    Attributes:
        arm: a key of `arms.ARMS`, "shots only" or "CLIP, zero-shot"; behind a comma, something changed.
        shots: K. n: N, 0 where there are no images but the shots. with_shots: whether it learns from them as well.
        classifier: "CLIP" or "scratch".
    """

    target: str
    arm: str
    _: KW_ONLY
    shots: int = 16
    n: int = 64
    with_shots: bool = False
    classifier: str = CLIP
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Classifiers:
    """How classifiers are trained.

    Attributes:
        recipe: of tuning CLIP. rates: learning rates that are tried with the first seed.
        scratch: of a network from scratch, on which half of each batch is synthetic where there are both.
        scratch_rates: likewise. network: which.
        unmirrored, one_hue: targets whose classes mirroring, or another colour, would change.
    """

    recipe: ClipRecipe = ClipRecipe()
    rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3)
    scratch: Recipe = Recipe(steps=1024, batch=16, learning_rate=8e-3, checkpoints=4)
    scratch_rates: tuple[float, ...] = (4e-3, 8e-3, 1.6e-2)
    network: str = "resnet18"
    unmirrored: tuple[str, ...] = ("digits",)
    one_hue: tuple[str, ...] = ("aerial", "aerial-hard", "objects-fine-hard")

    def recipes(self, cell: Cell) -> list[AnyRecipe]:
        """Return the recipes to choose from, one for each learning rate."""
        flip = cell.target not in self.unmirrored
        if cell.classifier == SCRATCH:
            return [replace(self.scratch, learning_rate=rate, flip=flip) for rate in self.scratch_rates]
        weight = 0.5 if cell.arm.endswith(HALF_WEIGHT) else self.recipe.real_weight
        own = replace(self.recipe, flip=flip, hue=cell.target not in self.one_hue, real_weight=weight)
        return [replace(own, learning_rate=rate) for rate in self.rates]


@dataclass(frozen=True, eq=False, kw_only=True)
class Sources:
    """What the classifier of a cell learns from, and is judged on."""

    cell: Cell
    one: Shots
    prompts: tuple[str, ...]
    real: ImageSet | None
    synthetic: ImageSet | None
    train_split: ImageSet | None = field(default=None)  # as many images as there are test images, shots among them


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
            cells.append(Cell(target, arm, n=size, with_shots=with_shots, **at))
        cells.append(Cell(target, SHOTS, n=0, **at))
        if classifier == CLIP:
            cells.append(Cell(target, ZERO_SHOT, n=0, shots=0, seed=seed))
    return list(dict.fromkeys(cells))


def run(setting: Setting, classifiers: Classifiers, cells: Iterable[Cell], execution: Execution) -> pd.DataFrame:
    """Make every set of images, choose learning rates and checkpoints, and train every classifier the cache lacks.

    Args:
        setting: what sets have in common; K, N and what is changed in an arm are those of the cells.
        classifiers: how they are trained.
        cells: what is to be done. The first of the seeds of each chooses.
        execution: sets and trainings are jobs.

    Returns:
        A row per cell: the columns of `Cell`; learning_rate, step (of the checkpoint) and held_out, its accuracy on
        validation images; correct, bool (test,).

    Raises:
        ValueError: an unknown arm or change, or what `arms.make_set` refuses. FloatingPointError: a loss is not finite.
    """
    cells = list(dict.fromkeys(cells))
    for cell in cells:
        check_cell(cell)
    sets = make_sets(setting, cells, execution)
    first = {_but_seed(cell): cell for cell in reversed(cells)}  # the first seed of each
    on_train = {_but_seed(cell) for cell in cells if cell.arm.endswith(ON_TRAIN)}  # trained once, watched on both
    sources = {cell: _sources(setting, cell, sets, _but_seed(cell) in on_train) for cell in cells}
    trials = [(cell, recipe) for cell in first.values() for recipe in _to_choose(classifiers, cell)]
    choosing = _train_all(setting, classifiers, [(sources[cell], recipe) for cell, recipe in trials], execution)
    chosen: dict[Cell, tuple[AnyRecipe, int, float]] = {}
    for cell, (recipe, outcome) in zip([cell for cell, _ in trials], choosing, strict=True):
        place, best = _but_seed(cell), int(len(outcome["held_out"]) - 1 - outcome["held_out"][::-1].argmax())
        if place not in chosen or outcome["held_out"][best] > chosen[place][2]:
            chosen[place] = (recipe, best, outcome["held_out"][best])
    todo = [(sources[cell], chosen[_but_seed(cell)][0]) for cell in cells if cell.arm != ZERO_SHOT]
    trained = iter(_train_all(setting, classifiers, todo, execution))
    rows = []
    for cell in cells:
        if cell.arm == ZERO_SHOT:
            rows.append(asdict(cell) | _zero_shot(setting, sources[cell]))
            continue
        (recipe, outcome), (_, row, _) = next(trained), chosen[_but_seed(cell)]
        rows.append(asdict(cell) | _judged(sources[cell], outcome, row) | {"learning_rate": recipe.learning_rate})
    return pd.DataFrame(rows)


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
        own = replace(setting, shots=k, per_class=n)
        for change in changes:
            own = replace(own, **CHANGES[change](own))
        sets[target, arm, k, seed] = make_set(own, target, seed, name, execution)
    return sets


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


def _sources(setting: Setting, cell: Cell, sets: Mapping[tuple, Extra], on_train: bool = False) -> Sources:
    own = replace(setting, shots=cell.shots or setting.shots)
    one, images = shots(own, cell.target, cell.seed), None
    if cell.n:
        beside = [other for place, other in sets.items() if (place[0], place[2], place[3]) == _at(cell)]
        among = [other.images for other in beside if other.report["wanted"].iloc[0] >= cell.n]
        images = first_of_each(sets[_place(cell)].images, equal_counts(among, cell.n))
        images = replace(images, manifest=None)
    real = one.real if cell.with_shots or not cell.n else None
    split = training_split(own, one) if on_train else None
    prompts = tuple(class_prompts(own, one))
    return Sources(cell=cell, one=one, prompts=prompts, real=real, synthetic=images, train_split=split)


def _at(cell: Cell) -> tuple:
    return cell.target, cell.shots, cell.seed


def _to_choose(classifiers: Classifiers, cell: Cell) -> list[AnyRecipe]:
    return [] if cell.arm == ZERO_SHOT else classifiers.recipes(cell)


def _train_all(
    setting: Setting, classifiers: Classifiers, what: Sequence[tuple[Sources, AnyRecipe]], execution: Execution
) -> list[tuple[AnyRecipe, Mapping[str, np.ndarray]]]:
    """Train every classifier once, whatever number of cells it stands for."""
    keys = [_key(setting, classifiers, *each) for each in what]
    jobs = {
        own: Job(_trained, (setting, classifiers.network, *each), own) for own, each in zip(keys, what, strict=True)
    }
    outcomes = dict(zip(jobs, run_jobs(jobs.values(), execution, "classifiers"), strict=True))
    return [(recipe, outcomes[own]) for own, (_, recipe) in zip(keys, what, strict=True)]


def _key(setting: Setting, classifiers: Classifiers, of: Sources, recipe: AnyRecipe) -> str:
    images = {name: getattr(of, name) for name in ("real", "synthetic", "train_split")}
    model = classifiers.network if of.cell.classifier == SCRATCH else dict(open_filter(setting).model.state_dict())
    return key(
        images={name: None if one is None else one.fingerprint() for name, one in images.items()},
        judged=[one.fingerprint() for one in (of.one.validation, of.one.test)],
        recipe=recipe,
        seed=of.cell.seed,
        classifier=(of.cell.classifier, model, of.prompts if of.cell.classifier == CLIP else None),
    )


def _trained(setting: Setting, network: str, of: Sources, recipe: AnyRecipe) -> dict[str, np.ndarray]:
    """Train a classifier; return its steps, validation accuracies and predictions at every checkpoint."""
    watch = {"test": of.one.test, **({} if of.train_split is None else {"train split": of.train_split})}
    if of.cell.classifier == CLIP:
        how = {"recipe": recipe, "seed": of.cell.seed, "validation": of.one.validation, "watch": watch}
        result = tune_clip(open_filter(setting), of.prompts, real=of.real, synthetic=of.synthetic, **how)
    else:
        images, extra = (of.real, of.synthetic) if of.real is not None else (of.synthetic, None)
        mixed = PLAIN if extra is None else Augmentation(extra=extra, share=0.5)
        new = new_network(network, images.classes, setting.size, "pocket", of.cell.seed)
        how = {"validation": of.one.validation, "watch": watch, "device": setting.device, "augmentation": mixed}
        result = train(new, images, recipe, of.cell.seed, **how)
    outcome = {name: scores.argmax(-1).astype(np.int16) for name, scores in result.watched.items()}
    steps, held_out = (result.history[name].to_numpy() for name in ("step", "validation"))
    return outcome | {"step": steps, "held_out": held_out}


def _judged(of: Sources, outcome: Mapping[str, np.ndarray], row: int) -> dict[str, object]:
    """Return what a row of the table says of a trained classifier, at the checkpoint that was chosen."""
    labels, name = of.one.test.labels, "test"
    if of.cell.arm.endswith(EPOCH_BY_TEST):
        row = int((outcome["test"] == labels).mean(1).argmax())
    elif of.cell.arm.endswith(ON_TRAIN):
        labels, name = of.train_split.labels, "train split"
    correct = outcome[name][row] == labels
    return {"step": int(outcome["step"][row]), "held_out": float(outcome["held_out"][row]), "correct": correct}


def _zero_shot(setting: Setting, of: Sources) -> dict[str, object]:
    clip = open_filter(setting).zero_shot(of.prompts, ["{}"])
    correct, held_out = (
        clip.scores(part.images).argmax(1) == part.labels for part in (of.one.test, of.one.validation)
    )
    return {"step": 0, "held_out": float(held_out.mean()), "correct": correct, "learning_rate": 0.0}
