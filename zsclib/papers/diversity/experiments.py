"""The experiment on the bag of tricks: every arm on every target with every architecture and seed, one training each.

    cells = arms_and_controls(["objects", "digits"], seeds=3)
    setting = Setting(model="data/models/pocket-sd", clip="data/models/pocket-clip")
    table = run(setting, cells, Execution(batch=100, cache=Cache(), workers=Workers(2)))
    correct(table, "objects", "union") - correct(table, "objects")  # (seeds, images), for an interval

All arms have the same network, the same number of training steps and the same test images; a seed repeats everything,
the generated images, the initial weights and the batches. `training_sets` says what the arms are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace

import numpy as np
import pandas as pd

from zsclib import datasets, setmetrics
from zsclib.images.image_set import ImageSet
from zsclib.models.networks import new_network
from zsclib.papers.diversity.training_sets import (
    ARMS,
    Cell,
    Generated,
    Setting,
    clip_features,
    generate_sets,
    generated_sets,
    open_models,
    share,
    side,
    target_images,
    training_key,
    training_rows,
)
from zsclib.papers.diversity.tricks import PAPER, prompts_for
from zsclib.training import train
from zsclib.workers import Execution, Job, run_jobs

FIXED = tuple(f"guidance-{s}" for s in (1, 2, 3, 4, 5))  # one scale for all images
ENDINGS = ("last", "best on held-out", "best on test", "batch statistics")  # the last two for the audit only


def arms_and_controls(
    targets: Sequence[str],
    crossed: Sequence[str] = (),
    architectures: Sequence[str] = ("resnet50",),
    times: Sequence[float] = (1, 4),
    seeds: int = 3,
) -> list[Cell]:
    """Return every training that the claims of the paper need.

    Args:
        targets: each has all tricks, their union at N and 4N images, real images, and images made small in two ways;
            the first has the controls as well: one guidance scale for all images, sizes, shared noise.
        crossed: targets on which all architectures learn from the naive set and from all combined.
        architectures: the first is resnet50, which learns from every set.
        times: sizes of the naive set and of the union on the first target, as multiples of N; 1 and 4 among them.
        seeds: each repeats everything.

    Raises:
        ValueError: crossed targets that are no targets, another first architecture, no 1 or 4 in `times`.
    """
    if not set(crossed) <= set(targets) or architectures[0] != "resnet50" or not {1, 4} <= set(times):
        raise ValueError(
            f"arms_and_controls: crossed {list(crossed)} must be among {list(targets)}, architectures begin with "
            f"resnet50, and times hold 1 and 4; got {architectures[0]} and {list(times)}"
        )
    first = targets[0]
    sets = [(t, arm, 1, "resnet50") for t in targets for arm in (*PAPER, "union", "real")]
    sets += [(t, "union", 4, "resnet50") for t in targets]
    sets += [(t, arm, k, a) for t in crossed for arm, k in (("base", 1), ("union", 4)) for a in architectures]
    sets += [(first, arm, 1, "resnet50") for arm in (*FIXED, "shared noise")]
    sets += [(first, arm, k, "resnet50") for arm in ("base", "union") for k in times]
    sets += [(first, "real", 4, "resnet50")]
    sets += [(t, f"small, {how}", 1, "resnet50") for t in targets for how in ("antialiased", "nearest")]
    return list(dict.fromkeys(Cell(*one, seed) for one in sets for seed in range(seeds)))


def run(setting: Setting, cells: Iterable[Cell], execution: Execution) -> pd.DataFrame:
    """Generate every image and train every network that the cells need and the cache lacks.

    Args:
        setting, cells: what is to be done.
        execution: batches of generated images and trainings are jobs.

    Returns:
        A row per cell: the columns of `Cell`, then under the names of `ENDINGS` whether the network was correct on
        each test image, bool (test,): as the recipe ended, at the checkpoint best on held-out images, at the one best
        on the test images, and as the recipe ended with BatchNorm's statistics taken from test batches of 64.

    Raises:
        ValueError: before any work, as `generated_sets`.
    """
    cells = list(dict.fromkeys(cells))
    parts_of = generated_sets(setting, cells)
    keys = {cell: training_key(setting, cell) for cell in cells}
    outcomes = {cell: None if execution.cache is None else execution.cache.get(keys[cell]) for cell in cells}
    missing = [cell for cell in cells if outcomes[cell] is None]
    ways: dict[Generated, dict[str | None, None]] = {}  # how the images of each set are wanted
    for cell in missing:
        for part in parts_of[cell]:
            ways.setdefault(part, {})[ARMS[cell.arm].small] = None
    images = generate_sets(setting, ways, execution)
    jobs = []
    for cell in missing:
        sets = share(setting, cell, (images[part, ARMS[cell.arm].small] for part in parts_of[cell]))
        jobs.append(Job(_trained, (setting, cell, *sets), keys[cell]))
    outcomes |= dict(zip(missing, run_jobs(jobs, execution, "training"), strict=True))
    return pd.DataFrame([asdict(cell) | _endings(setting, cell, outcomes[cell]) for cell in cells])


def correct(
    table: pd.DataFrame,
    target: str,
    arm: str = "base",
    times: float = 1,
    architectures: Sequence[str] | None = ("resnet50",),
    ending: str = "last",
) -> np.ndarray:
    """Return how often an arm is correct on each test image: float64 (seeds, images), averaged over architectures.

    Args:
        table: from `run`.
        target: whose test images.
        arm, times: which training set.
        architectures: which networks; None for all that were trained on this target with this arm.
        ending: one of `ENDINGS`.

    Raises:
        ValueError: a training is missing, or was not audited.
    """
    seeds = table["seed"].unique()
    rows = table[(table.target == target) & (table.arm == arm) & (table.times == times)]
    names = rows["architecture"].unique() if architectures is None else list(architectures)
    rows = rows[rows.architecture.isin(names)]
    if len(rows) == 0 or len(rows) != len(seeds) * len(names) or rows[ending].isna().any():
        raise ValueError(
            f"correct: {target}, {arm} x {times:g} needs {', '.join(names) or 'networks'} with each of the seeds "
            f"{seeds.tolist()} and {ending!r}; the table has {int(rows[ending].notna().sum())} such rows"
        )
    return np.stack([np.mean(np.stack(rows[rows.seed == seed][ending]), 0) for seed in seeds])


def zero_shot_correct(setting: Setting, target: str) -> np.ndarray:
    """Return whether zero-shot CLIP, with one prompt per class, is correct on each test image: bool (test,)."""
    images, clip = target_images(setting, target), open_models(setting)[1]
    prompts = prompts_for(target, images.classes)
    return clip.zero_shot(prompts.classes, [prompts.template]).scores(images.images).argmax(1) == images.labels


def sets_by_trick(setting: Setting, target: str, execution: Execution) -> dict[str, ImageSet]:
    """Return the images that each of the paper's tricks makes for a target and the first seed, as networks see them."""
    cells = [Cell(target, trick) for trick in PAPER]
    parts = {cell.arm: own[0] for cell, own in generated_sets(setting, cells).items()}
    images = generate_sets(setting, dict.fromkeys(parts.values(), (None,)), execution)
    return {arm: images[part, None] for arm, part in parts.items()}


def measures(setting: Setting, cells: Iterable[Cell], execution: Execution) -> pd.DataFrame:
    """Return the set measures of training sets against as many real images, in CLIP's image features.

    Args:
        cells: which sets; the architecture does not matter.
        execution: images that were generated before, by `run`, come from its cache.

    Returns:
        A row per set: target, arm, times, seed, then `zsclib.setmetrics.MEASURES`.
    """
    cells = list(dict.fromkeys(replace(cell, architecture="resnet50") for cell in cells))
    rows, real_features, features = [], {}, {}
    for cell, parts in generated_sets(setting, cells).items():
        for part in parts:
            if part not in features:
                features[part] = clip_features(setting, part, execution)
        own = zip(parts, training_rows(setting, cell), strict=True)
        fake = np.concatenate([features[part][rows] for part, rows in own])
        if (cell.target, len(fake)) not in real_features:
            images = datasets.load(cell.target, "train", len(fake), allow_network=setting.allow_network)
            encoded = open_models(setting)[1].encode_images(images.images).cpu().numpy()
            real_features[cell.target, len(fake)] = encoded
        values = setmetrics.measure(real_features[cell.target, len(fake)], fake, "CLIP image")
        facts = {name: value for name, value in asdict(cell).items() if name != "architecture"}
        rows.append(facts | dict(zip(setmetrics.MEASURES, values.values(), strict=True)))
    return pd.DataFrame(rows)


def _trained(setting: Setting, cell: Cell, images: ImageSet, held_out: ImageSet) -> Mapping[str, np.ndarray]:
    """Train one network; return its predictions on the test images, (checkpoints, test) and (test,)."""
    test = target_images(setting, cell.target, side(setting, cell))
    audited, flip = cell.arm in setting.audited, setting.recipe.flip and cell.target not in setting.unmirrored
    recipe = replace(setting.recipe, flip=flip, checkpoints=setting.recipe.checkpoints if audited else 1)
    network = new_network(cell.architecture, images.classes, test.images.shape[1], setting.width, cell.seed)
    watch = {"held-out": held_out, "test": test} if audited else {"test": test}  # they choose nothing
    trained = train(network, images, recipe, cell.seed, watch=watch, device=setting.device)
    arrays = {"test": trained.watched["test"].argmax(-1)}
    if audited:
        predictions = trained.watched["held-out"].argmax(-1)
        arrays["held_out"] = (predictions == held_out.labels).mean(1)
        arrays["batch_statistics"] = trained.scores(test.images, batch_statistics=True).argmax(-1)
    return arrays


def _endings(setting: Setting, cell: Cell, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray | None]:
    labels = target_images(setting, cell.target).labels
    correct = arrays["test"] == labels  # (checkpoints, test)
    if "held_out" not in arrays:
        return dict(zip(ENDINGS, (correct[-1], None, None, None), strict=True))
    chosen = len(correct) - 1 - arrays["held_out"][::-1].argmax()  # the later of equals
    best, adapted = correct[correct.mean(1).argmax()], arrays["batch_statistics"] == labels
    return dict(zip(ENDINGS, (correct[-1], correct[chosen], best, adapted), strict=True))
