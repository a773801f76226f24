"""The classifiers of the comparison, jobs that the cache keeps: CLIP tuned by LoRA, or a network from scratch.

    one = Training(of=sources, recipe=recipe, row=last_check(recipe))
    ((_, outcome),) = train_all(setting, Classifiers(), [one], execution, "classifiers")
    outcome["test"], outcome["validation"]                  # predictions at the check that counts, and at every check

Which check counts is chosen on validation images; test images are looked at in that one alone, but for an audit. A
training whose loss is not finite is made anew at a lower learning rate, and says at which.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace

import numpy as np

from zsclib.hashing import key
from zsclib.images.image_set import ImageSet
from zsclib.models.clip_lora import ClipRecipe, tune_clip
from zsclib.models.networks import new_network
from zsclib.papers.datadream.contrasts import EPOCH_BY_TEST, HALF_WEIGHT, ON_TRAIN, TWICE
from zsclib.papers.datadream.training_sets import Setting, Shots, open_filter
from zsclib.recipe import Recipe
from zsclib.training import PLAIN, Augmentation, train
from zsclib.workers import Execution, Job, run_jobs

CLIP, SCRATCH = "CLIP", "scratch"
FALL, FALLS = 3, 4  # where the loss is not finite: the learning rate is divided by FALL, as often as this at most
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
        recipe: of tuning CLIP. rates: learning rates that are tried with the first seed, the middle one by default.
        scratch: of a network from scratch, on which half of each batch is synthetic where there are both.
        scratch_rates: likewise. network: which.
        unmirrored, one_hue: targets whose classes mirroring, or another colour, would change.
    """

    recipe: ClipRecipe = ClipRecipe()
    rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2)
    scratch: Recipe = Recipe(steps=1024, batch=16, learning_rate=8e-3, checkpoints=4)
    scratch_rates: tuple[float, ...] = (4e-3, 8e-3, 1.6e-2)
    network: str = "resnet18"
    unmirrored: tuple[str, ...] = ("digits",)
    one_hue: tuple[str, ...] = ("aerial", "aerial-hard", "objects-fine-hard")

    def recipes(self, cell: Cell) -> list[AnyRecipe]:
        """Return the recipes to choose from, one for each learning rate."""
        flip, times = cell.target not in self.unmirrored, 2 if cell.arm.endswith(TWICE) else 1
        if cell.classifier == SCRATCH:
            own = replace(self.scratch, flip=flip, steps=times * self.scratch.steps)
            return [replace(own, learning_rate=rate) for rate in self.scratch_rates]
        weight = 0.5 if cell.arm.endswith(HALF_WEIGHT) else self.recipe.real_weight
        own = replace(self.recipe, flip=flip, hue=cell.target not in self.one_hue, real_weight=weight)
        own = replace(own, steps=times * own.steps)
        return [replace(own, learning_rate=rate) for rate in self.rates]

    def recipe_at(self, cell: Cell, rate: float) -> AnyRecipe:
        """Return a cell's recipe at a learning rate."""
        return replace(self.recipes(cell)[0], learning_rate=rate)


@dataclass(frozen=True, eq=False, kw_only=True)
class Sources:
    """What the classifier of a cell learns from, and is judged on."""

    cell: Cell
    one: Shots
    prompts: tuple[str, ...]
    real: ImageSet | None
    synthetic: ImageSet | None
    train_split: ImageSet | None = None  # for an audit: as many images as there are test images, shots among them
    every_check: bool = False  # for an audit: whether test images are looked at in every check


@dataclass(frozen=True, eq=False)
class Training:
    """One classifier to be trained; row is the check that counts."""

    of: Sources
    recipe: AnyRecipe
    row: int


def last_check(recipe: AnyRecipe) -> int:
    """Return the row of the last check: of CLIP there is one more, before any step."""
    return recipe.checks if isinstance(recipe, ClipRecipe) else recipe.checkpoints - 1


def train_all(
    setting: Setting, classifiers: Classifiers, trainings: Sequence[Training], execution: Execution, what: str
) -> list[tuple[Training, Mapping[str, np.ndarray]]]:
    """Train every classifier once, whatever number of cells it stands for."""
    keys = [_key(setting, classifiers, one) for one in trainings]
    jobs = {
        own: Job(_trained, (setting, classifiers.network, one), own) for own, one in zip(keys, trainings, strict=True)
    }
    outcomes = dict(zip(jobs, run_jobs(jobs.values(), execution, what), strict=True))
    return [(one, outcomes[own]) for own, one in zip(keys, trainings, strict=True)]


def _key(setting: Setting, classifiers: Classifiers, one: Training) -> str:
    of = one.of
    images = {name: getattr(of, name) for name in ("real", "synthetic", "train_split")}
    model = classifiers.network if of.cell.classifier == SCRATCH else dict(open_filter(setting).model.state_dict())
    return key(
        images={name: None if one is None else one.fingerprint() for name, one in images.items()},
        judged=[one.fingerprint() for one in (of.one.validation, of.one.test)],
        recipe=one.recipe,
        seed=of.cell.seed,
        classifier=(of.cell.classifier, model, of.prompts if of.cell.classifier == CLIP else None),
        checks=(one.row, of.every_check),
    )


def _trained(setting: Setting, network: str, training: Training) -> dict[str, np.ndarray]:
    """Train a classifier as `_fitted` does; where the loss is not finite, at a lower learning rate.

    Returns:
        What `_fitted` does, and learning_rate: that of the training that it is.
    """
    rate = training.recipe.learning_rate
    for fall in range(FALLS + 1):
        lower = replace(training, recipe=replace(training.recipe, learning_rate=rate / FALL**fall))
        try:
            return _fitted(setting, network, lower) | {"learning_rate": np.array(lower.recipe.learning_rate)}
        except FloatingPointError as error:
            lost = error
    raise FloatingPointError(f"{training.of.cell}: at every learning rate from {rate} down, {lost}")


def _fitted(setting: Setting, network: str, training: Training) -> dict[str, np.ndarray]:
    """Train a classifier; return the steps of its checks, and what it predicts.

    Returns:
        step: (checks,). validation: int16 (checks, n). test and, for an audit, "train split": at the check that counts,
        int16 (n,). "at every check": int16 (checks, test), for an audit.
    """
    of, row = training.of, training.row
    judged = {"test": of.one.test} | ({} if of.train_split is None else {"train split": of.train_split})
    how = {"seed": of.cell.seed, "validation": of.one.validation}
    if of.cell.classifier == CLIP:
        how |= {"real": of.real, "synthetic": of.synthetic, "recipe": replace(training.recipe, checkpoint=row)}
        watch = {"test": of.one.test} if of.every_check else {}
        result = tune_clip(open_filter(setting), of.prompts, watch=watch, **how)
        scores = {name: result.scores(images.images) for name, images in judged.items()}
    else:
        images, extra = (of.real, of.synthetic) if of.real is not None else (of.synthetic, None)
        how["augmentation"] = PLAIN if extra is None else Augmentation(extra=extra, share=0.5)
        new = new_network(network, images.classes, setting.size, "pocket", of.cell.seed)
        result = train(new, images, training.recipe, watch=judged, device=setting.device, **how)
        scores = {name: result.watched[name][row] for name in judged}
    scores["validation"] = result.watched["validation"]
    if of.every_check:
        scores["at every check"] = result.watched["test"]
    outcome = {name: each.argmax(-1).astype(np.int16) for name, each in scores.items()}
    return outcome | {"step": result.history["step"].to_numpy()}


def judged(of: Sources, training: Training, outcome: Mapping[str, np.ndarray]) -> dict[str, object]:
    """Return what a row of the table says of a trained classifier, as an audit reads it where the cell is one."""
    row, labels, predicted = training.row, of.one.test.labels, outcome["test"]
    if of.cell.arm.endswith(EPOCH_BY_TEST):
        accuracy = (outcome["at every check"] == labels).mean(1)
        accuracy[outcome["step"] == 0] = 0  # CLIP before any step, which is no choice by validation images either
        row = int(accuracy.argmax())
        predicted = outcome["at every check"][row]
    elif of.cell.arm.endswith(ON_TRAIN):
        labels, predicted = of.train_split.labels, outcome["train split"]
    held_out = float((outcome["validation"][row] == of.one.validation.labels).mean())
    facts = {"learning_rate": float(outcome["learning_rate"]), "step": int(outcome["step"][row])}
    return facts | {"held_out": held_out, "correct": predicted == labels}


def zero_shot(setting: Setting, of: Sources) -> dict[str, object]:
    """Return what a row of the table says of CLIP as it is, under the class prompts."""
    clip = open_filter(setting).zero_shot(of.prompts, ["{}"])
    correct, held_out = (
        clip.scores(part.images).argmax(1) == part.labels for part in (of.one.test, of.one.validation)
    )
    return {"step": 0, "held_out": float(held_out.mean()), "correct": correct, "learning_rate": 0.0}
