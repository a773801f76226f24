"""The study of the bag of tricks: every arm on every target with every architecture and seed, one training each.

    cells = [Cell("objects", arm, seed=seed) for arm in ("base", "union") for seed in range(3)]
    table = run(Setting("data/models/pocket-sd", "data/models/pocket-clip"), cells, store, workers=2)
    right(table, "union") - right(table, "base")                # (seeds, images), for an interval

All arms have the same network, the same number of updates and the same test images; a seed repeats everything, the
pictures drawn, the initial weights and the batches. `diversity_sets` says what the arms are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace

import numpy as np
import pandas as pd

from zsclib import datasets, setmetrics
from zsclib.crew import crew
from zsclib.images import ImageSet
from zsclib.models.networks import new_network
from zsclib.papers.diversity_sets import (
    ARMS,
    Cell,
    Setting,
    draw,
    features_key,
    key,
    needed,
    open_models,
    share,
    side,
    target_images,
    training_rows,
)
from zsclib.sampling import Store
from zsclib.training import train

ENDINGS = ("last", "best on held-out", "best on test", "batch statistics")  # the last two for the audit only

Progress = Callable[[str, int, int], object]


def run(
    setting: Setting,
    cells: Iterable[Cell],
    store: Store,
    workers: int = 1,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Draw every picture and train every network that the cells need and the store lacks.

    Args:
        setting, cells: what is to be done.
        store: keeps every finished batch of pictures and every training: a run that was killed goes on there.
        workers: processes that share the work (`zsclib.crew`); they change no result beyond rounding.
        progress: called with what was done ("drawing" or "training"), how many of them, and of how many.

    Returns:
        A row per cell: the columns of `Cell`, then under the names of `ENDINGS` whether the network was right about
        each test image, bool (test,): as the recipe ended, at the checkpoint best on held-out pictures, at the one best
        on the test images, and as the recipe ended with BatchNorm's statistics taken from test batches of 64.

    Raises:
        ValueError: before any work, as `needed`.
    """
    cells = list(dict.fromkeys(cells))
    drawings = needed(setting, cells)
    keys = {cell: key(setting, cell) for cell in cells}
    kept = {cell: store.get(keys[cell]) for cell in cells}
    missing = [cell for cell in cells if kept[cell] is None]
    ways: dict = {}  # by drawing, ways in which its pictures are wanted; the largest drawings first
    for cell in cells:
        for drawing in drawings[cell]:
            lacking = kept[cell] is None or store.get(features_key(setting, drawing)) is None
            ways.setdefault(drawing, {}).update({ARMS[cell.arm].small: None} if lacking else {})
    ways = {drawing: ways[drawing] for drawing in sorted(ways, key=lambda d: -d.per_class) if ways[drawing]}
    drawn = {}

    def sets(cell: Cell) -> tuple[ImageSet, ImageSet]:
        return share(setting, cell, (drawn[drawing][ARMS[cell.arm].small] for drawing in drawings[cell]))

    with crew(workers) as work:
        jobs = ((setting, store, drawing, tuple(ways[drawing])) for drawing in ways)
        for drawing, views in zip(ways, work(draw, jobs), strict=True):
            drawn[drawing] = views
            if progress is not None:
                progress("drawing", len(drawn), len(ways))
        jobs = ((setting, store, cell, keys[cell], *sets(cell)) for cell in missing)
        for done, arrays in enumerate(work(_train, jobs)):
            kept[missing[done]] = arrays
            if progress is not None:
                progress("training", done + 1, len(missing))
    return pd.DataFrame([asdict(cell) | _endings(setting, cell, kept[cell]) for cell in cells])


def right(
    table: pd.DataFrame,
    arm: str = "base",
    times: float = 1,
    targets: Sequence[str] | None = None,
    architectures: Sequence[str] | None = ("resnet50",),
    ending: str = "last",
) -> np.ndarray:
    """Return how right an arm is about each test image: float64 (seeds, images), averaged over architectures.

    Args:
        table: from `run`.
        arm, times: which training sets.
        targets: whose images, side by side; None for all in the table, in its order.
        architectures: which networks; None for all that were trained on this target with this arm.
        ending: one of `ENDINGS`.

    Raises:
        ValueError: a training is missing, or was not audited.
    """
    targets = table["target"].unique() if targets is None else targets
    seeds, parts = table["seed"].unique(), []
    for target in targets:
        rows = table[(table.target == target) & (table.arm == arm) & (table.times == times)]
        names = rows["architecture"].unique() if architectures is None else list(architectures)
        rows = rows[rows.architecture.isin(names)]
        if len(rows) == 0 or len(rows) != len(seeds) * len(names) or rows[ending].isna().any():
            raise ValueError(
                f"right: {target}, {arm} x {times:g} needs {', '.join(names) or 'networks'} with each of the seeds "
                f"{seeds.tolist()} and {ending!r}; the table has {int(rows[ending].notna().sum())} such rows"
            )
        parts.append(np.stack([np.mean(np.stack(rows[rows.seed == seed][ending]), 0) for seed in seeds]))
    return np.concatenate(parts, axis=1)


def measures(setting: Setting, cells: Iterable[Cell], store: Store) -> pd.DataFrame:
    """Return the set measures of training sets against as many real images, in CLIP's image features.

    Args:
        cells: which sets, all of them `run` before; the architecture does not matter.

    Returns:
        A row per set: target, arm, times, seed, then `zsclib.setmetrics.MEASURES`.
    """
    cells = list(dict.fromkeys(replace(cell, architecture="resnet50") for cell in cells))
    rows, real_features = [], {}
    for cell, drawings in needed(setting, cells).items():
        parts = []
        for drawing, mine in zip(drawings, training_rows(setting, cell), strict=True):
            if (kept := store.get(features_key(setting, drawing))) is None:
                raise ValueError(f"measures: the store has no features of {drawing}; run {cell} first")
            parts.append(kept["features"][mine])
        fake = np.concatenate(parts)
        if (cell.target, len(fake)) not in real_features:
            images = datasets.load(
                cell.target, "train", len(fake), allow_network=setting.allow_network
            ).images
            real_features[cell.target, len(fake)] = (
                open_models(setting)[1].encode_images(images).cpu().numpy()
            )
        found = setmetrics.measure(real_features[cell.target, len(fake)], fake, "CLIP image")
        facts = {name: value for name, value in asdict(cell).items() if name != "architecture"}
        rows.append(facts | dict(zip(setmetrics.MEASURES, found.values(), strict=True)))
    return pd.DataFrame(rows)


def _train(
    setting: Setting, store: Store, cell: Cell, key: str, images: ImageSet, held_out: ImageSet
) -> dict[str, np.ndarray]:
    """Train one network; keep and return what it says about the test images, (checkpoints, test) and (test,)."""
    test = target_images(setting, cell.target, side(setting, cell))
    audited, flip = cell.arm in setting.audited, setting.recipe.flip and cell.target not in setting.unmirrored
    recipe = replace(setting.recipe, flip=flip, checkpoints=setting.recipe.checkpoints if audited else 1)
    network = new_network(cell.architecture, images.classes, test.images.shape[1], setting.width, cell.seed)
    watch = {"held-out": held_out, "test": test} if audited else {"test": test}  # they choose nothing
    trained = train(network, images, recipe, cell.seed, watch=watch, device=setting.device)
    arrays = {"test": trained.watched["test"].argmax(-1)}
    if audited:
        said = trained.watched["held-out"].argmax(-1)
        arrays["held_out"] = (said == held_out.labels).mean(1)
        arrays["batch_statistics"] = trained.scores(test.images, batch_statistics=True).argmax(-1)
    store.put(key, arrays)
    return arrays


def _endings(setting: Setting, cell: Cell, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray | None]:
    labels = target_images(setting, cell.target).labels
    right = arrays["test"] == labels
    if "held_out" not in arrays:
        return dict(zip(ENDINGS, (right[-1], None, None, None), strict=True))
    chosen = len(right) - 1 - arrays["held_out"][::-1].argmax()  # the later of equals
    best, adapted = right[right.mean(1).argmax()], arrays["batch_statistics"] == labels
    return dict(zip(ENDINGS, (right[-1], right[chosen], best, adapted), strict=True))
