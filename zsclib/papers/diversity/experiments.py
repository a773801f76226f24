"""The experiment on the bag of tricks: every arm on every target with every architecture and seed, one training each.

    cells = comparison(["objects-hard", "digits"], ["base", "union"], times=[1, 4], seeds=3)
    setting = Setting(model="data/models/pocket-sd", clip="data/models/pocket-clip")
    table = run(setting, cells, Execution(batch=100, cache=Cache(), workers=Workers(2)))
    correct(table, "digits", "union") - correct(table, "digits")  # (seeds, images), for an interval

All arms have the same network, the same number of training steps and the same test images; a seed repeats everything,
the generated images, the initial weights and the batches. `training_sets` says what the arms are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import product

import numpy as np
import pandas as pd

from zsclib import setmetrics
from zsclib.images.image_set import ImageSet
from zsclib.models.networks import new_network
from zsclib.papers.diversity.training_sets import (
    ARMS,
    MAIN,
    Cell,
    Generated,
    Setting,
    clip_features,
    generate_sets,
    generated_sets,
    network_of,
    open_models,
    reference,
    share,
    side,
    target_images,
    training_key,
    training_rows,
)
from zsclib.papers.diversity.tricks import PAPER, prompts_for
from zsclib.seeds import seed_of
from zsclib.training import train
from zsclib.workers import Execution, Job, run_jobs

CLIP = "CLIP, zero-shot"  # another classifier: it has neither images nor a training
FIXED = tuple(f"guidance-{s}" for s in (1, 2, 3, 4, 5))  # one scale for all images
ENDINGS = ("last", "best on held-out", "best on test", "batch statistics")  # the last two for the audit only


def comparison(
    targets: Sequence[str],
    arms: Sequence[str],
    times: Sequence[float] = (1,),
    lengths: Sequence[float] = (1,),
    architectures: Sequence[str] = (MAIN,),
    seeds: int = 1,
) -> list[Cell]:
    """Return the trainings of every arm on every target, at every size and length, with every network and seed.

    Args:
        targets: data sets, as `zsclib.datasets.load` takes them. arms: keys of `training_sets.ARMS`.
        times: sizes, as multiples of N. lengths: as multiples of the recipe's steps.
        architectures: keys of `zsclib.models.networks.ARCHITECTURES`, or `training_sets.MAIN`. seeds: their number.
    """
    every = product(targets, arms, times, lengths, architectures, range(seeds))
    return [Cell(t, arm, k, length=length, architecture=a, seed=seed) for t, arm, k, length, a, seed in every]


def name_of(cell: Cell, ending: str = "last") -> str:
    """Return what a record calls a training on its target and with its seed; `cell_of` reads it back."""
    length = f"{cell.length:g} of the steps"
    return "; ".join([cell.arm, f"{cell.times:g} N", cell.architecture, length, ending])


def cell_of(name: str, target: str, seed: int) -> tuple[Cell, str]:
    """Return the training of a name in a record, and how it ended.

    Raises:
        ValueError: the name is none that `name_of` gives.
    """
    try:
        arm, times, architecture, length, ending = name.split("; ")
        at = {"length": float(length.split()[0]), "architecture": architecture, "seed": seed}
        return Cell(target, arm, float(times.split()[0]), **at), ending
    except ValueError:
        raise ValueError(
            f"cell_of: {name!r} is no name of a training; expected one like {name_of(Cell(target))!r}"
        ) from None


def run(
    setting: Setting, cells: Iterable[Cell], execution: Execution, whole: Iterable[Cell] = ()
) -> pd.DataFrame:
    """Generate every image and train every network that the cells need and the cache lacks.

    Args:
        setting, cells: what is to be done.
        execution: batches of generated images and trainings are jobs.
        whole: cells that these are some of; images are generated for all of them at once, so that the same batches
            serve one call for all and several calls for some.

    Returns:
        A row per cell: the columns of `Cell`, then under the names of `ENDINGS` whether the network was correct on
        each test image, bool (test,): as the recipe ended, at the checkpoint best on held-out images, at the one best
        on the test images, and as the recipe ended with BatchNorm's statistics taken from test batches of 64; then
        held_out, the accuracy on held-out images as the recipe ended. None and NaN where that was not measured. Cells
        that are one training, the main network under its role and its name, are trained once.

    Raises:
        ValueError: before any work, as `generated_sets`.
    """
    cells = list(dict.fromkeys(cells))
    parts_of = generated_sets(setting, dict.fromkeys([*cells, *whole]))
    keys = {cell: training_key(setting, cell) for cell in cells}
    outcomes = {name: None if execution.cache is None else execution.cache.get(name) for name in keys.values()}
    missing = {name: cell for cell, name in keys.items() if outcomes[name] is None}
    ways: dict[Generated, dict[str | None, None]] = {}  # how the images of each set are wanted
    for cell in missing.values():
        for part in parts_of[cell].values():
            ways.setdefault(part, {})[ARMS[cell.arm].small] = None
    images = generate_sets(setting, ways, execution)
    jobs = []
    for name, cell in missing.items():
        sets = {trick: images[part, ARMS[cell.arm].small] for trick, part in parts_of[cell].items()}
        jobs.append(Job(_trained, (setting, cell, *share(setting, cell, sets)), name))
    outcomes |= dict(zip(missing, run_jobs(jobs, execution, "training"), strict=True))
    return pd.DataFrame([asdict(cell) | _endings(setting, cell, outcomes[keys[cell]]) for cell in cells])


def references(setting: Setting, targets: Iterable[str], seeds: Iterable[int]) -> pd.DataFrame:
    """Return rows as those of `run` of zero-shot CLIP with one prompt per class, the same for every seed."""
    rows = []
    for target, seed in product(targets, seeds):
        cell = Cell(target, CLIP, architecture="clip", seed=seed)
        rows.append(asdict(cell) | dict.fromkeys(ENDINGS) | {"held_out": np.nan})
        rows[-1]["last"] = zero_shot_correct(setting, target)
    return pd.DataFrame(rows)


def correct(
    table: pd.DataFrame,
    target: str,
    arm: str = "base",
    times: float = 1,
    architectures: Sequence[str] | None = (MAIN,),
    ending: str = "last",
    length: float = 1,
) -> np.ndarray:
    """Return how often an arm is correct on each test image: float64 (seeds, images), averaged over architectures.

    Args:
        table: from `run`.
        target: whose test images.
        arm, times: which training set. length: of which training.
        architectures: which networks; None for all that were trained on this target with this arm.
        ending: one of `ENDINGS`.

    Raises:
        ValueError: a training is missing, or was not audited.
    """
    seeds = table["seed"].unique()
    rows = table[(table.target == target) & (table.arm == arm) & (table.times == times) & (table.length == length)]
    names = rows["architecture"].unique() if architectures is None else list(architectures)
    rows = rows[rows.architecture.isin(names)]
    if len(rows) == 0 or len(rows) != len(seeds) * len(names) or rows[ending].isna().any():
        raise ValueError(
            f"correct: {target}, {arm} x {times:g} needs {', '.join(names) or 'networks'} with each of the seeds "
            f"{seeds.tolist()} and {ending!r}; the table has {int(rows[ending].notna().sum())} such rows"
        )
    return np.stack([np.mean(np.stack(rows[rows.seed == seed][ending]), 0) for seed in seeds]).astype(np.float64)


def zero_shot_correct(setting: Setting, target: str) -> np.ndarray:
    """Return whether zero-shot CLIP, with one prompt per class, is correct on each test image: bool (test,)."""
    images, clip = target_images(setting, target), open_models(setting)[1]
    prompts = prompts_for(target, images.classes)
    return clip.zero_shot(prompts.classes, [prompts.template]).scores(images.images).argmax(1) == images.labels


def sets_by_trick(setting: Setting, target: str, execution: Execution) -> dict[str, ImageSet]:
    """Return the images that each of the paper's tricks makes for a target and the first seed, as networks see them."""
    cells = [Cell(target, trick) for trick in PAPER]
    parts = {cell.arm: own[cell.arm] for cell, own in generated_sets(setting, cells).items()}
    images = generate_sets(setting, dict.fromkeys(parts.values(), (None,)), execution)
    return {arm: images[part, None] for arm, part in parts.items()}


def measures(setting: Setting, cells: Iterable[Cell], execution: Execution) -> pd.DataFrame:
    """Return the set measures of training sets against as many real images, or all there are, in CLIP's image features.

    Args:
        cells: which sets; neither architecture nor length matters.
        execution: images that were generated before, by `run`, come from its cache.

    Returns:
        A row per set: target, arm, times, seed, then `zsclib.setmetrics.MEASURES`.
    """
    cells = list(dict.fromkeys(replace(cell, architecture=MAIN, length=1) for cell in cells))
    rows, real_features, features = [], {}, {}
    for cell, parts in generated_sets(setting, cells).items():
        fake = []
        for trick, own in training_rows(setting, cell).items():
            if parts[trick] not in features:
                features[parts[trick]] = clip_features(setting, parts[trick], execution)
            fake.append(features[parts[trick]][own])
        n = sum(map(len, fake))
        if (cell.target, n) not in real_features:
            images = reference(setting, cell.target, n).images
            real_features[cell.target, n] = open_models(setting)[1].encode_images(images).cpu().numpy()
        values = setmetrics.measure(real_features[cell.target, n], np.concatenate(fake), "CLIP image")
        facts = {name: getattr(cell, name) for name in ("target", "arm", "times", "seed")}
        rows.append(facts | dict(zip(setmetrics.MEASURES, values.values(), strict=True)))
    return pd.DataFrame(rows)


def _trained(setting: Setting, cell: Cell, images: ImageSet, held_out: ImageSet | None) -> Mapping[str, np.ndarray]:
    """Train one network; return its predictions on the test images, (checkpoints, test) and (test,)."""
    test = target_images(setting, cell.target, side(setting, cell))
    audited = (cell.arm, cell.times) in setting.audited and cell.length == 1
    name, watched = network_of(setting, cell), setting.recipe.checkpoints
    recipe = replace(
        setting.recipe,
        steps=max(1, round(setting.recipe.steps * cell.length)),
        learning_rate=dict(setting.learning_rates).get(name, setting.recipe.learning_rate),
        flip=setting.recipe.flip and cell.target not in setting.unmirrored,
        checkpoints=watched if audited and name == setting.network else 1,
    )
    seed = seed_of(cell.seed, "training", cell.target)  # targets are independent, arms of one begin alike
    network = new_network(name, images.classes, test.images.shape[1], setting.width, seed)
    watch = {"test": test} | ({} if held_out is None else {"held-out": held_out})  # they choose nothing here
    trained = train(network, images, recipe, seed, watch=watch, device=setting.device)
    arrays = {"test": trained.watched["test"].argmax(-1)}
    if held_out is not None:
        arrays["held_out"] = (trained.watched["held-out"].argmax(-1) == held_out.labels).mean(1)
    if audited:
        arrays["batch_statistics"] = trained.scores(test.images, batch_statistics=True).argmax(-1)
    return arrays


def _endings(setting: Setting, cell: Cell, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray | float | None]:
    labels = target_images(setting, cell.target).labels
    correct = arrays["test"] == labels  # (checkpoints, test)
    held_out = arrays.get("held_out", np.array([np.nan]))
    last, on_held_out, on_test, adapted = ENDINGS
    endings = dict.fromkeys(ENDINGS) | {last: correct[-1], "held_out": float(held_out[-1])}
    if "batch_statistics" in arrays:
        endings[adapted] = arrays["batch_statistics"] == labels
    if len(correct) > 1:  # of a single checkpoint there is no choice
        chosen = len(correct) - 1 - held_out[::-1].argmax()  # the later of equals
        endings |= {on_held_out: correct[chosen], on_test: correct[correct.mean(1).argmax()]}
    return endings
