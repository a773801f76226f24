"""The figures of the page "The pocket world"."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import HTML
from matplotlib.figure import Figure

from zsclib import datasets
from zsclib.images.image_set import ImageSet
from zsclib.study import plots
from zsclib.study.stats import Estimate
from zsclib.study.tables import table
from zsclib.world.pool import Pool, PoolConfig
from zsclib.world.scenes import STYLES
from zsclib.world.shapes import THINGS
from zsclib.world.targets import CLASSES, OBJECTS, SHIFTS, UNSHIFTED


def captioned(pool: Pool, rows: Sequence[int], columns: int = 4) -> Figure:
    """Show some images of a pool, each with its caption below."""
    rows = list(rows)
    return plots.image_grid(pool.images[rows], [fill(pool.captions[i], 24) for i in rows], columns)


def of_kind(pool: Pool, kind: str, n: int) -> np.ndarray:
    """Return the rows of the first n items of a kind: thing, pair, digit, letter or land; int64 (≤ n,)."""
    return np.flatnonzero(pool.scenes.kind == kind)[:n]


def knobs_table(phases: Mapping[str, PoolConfig]) -> HTML:
    """Show the knobs of the phases of the pre-training data side by side, a column per phase."""

    def percent(share: float) -> str:
        return f"{100 * share:.0f} %"

    def kinds(config: PoolConfig) -> dict[str, str]:
        total, names = sum(config.scenes.kinds), ("one thing", "pairs of things", "digits", "letters", "land")
        return {f"images of {name}": percent(k / total) for name, k in zip(names, config.scenes.kinds, strict=True)}

    columns = [
        {"pairs": f"{config.n:,}", "seed": str(config.seed)}
        | kinds(config)
        | {
            "near-copies of earlier images": percent(config.near_duplicates),
            "weight of a thing": f"1/rank^{config.scenes.concept_exponent:g}",
            "print that is scanned": percent(config.scenes.scans),
            "print bent by at most, in half heights": f"{config.scenes.bend:g}",
            "captions without style": percent(config.captions.omit_style),
            "captions without colour": percent(config.captions.omit_colour),
            "captions without place": percent(config.captions.omit_background),
            "materials left out": percent(config.captions.omit_material),
            "captions with a wrong fact": percent(config.captions.noise),
        }
        for config in phases.values()
    ]
    return table([[knob, *(column[knob] for column in columns)] for knob in columns[0]], ["knob", *phases])


def frequencies(pool: Pool) -> Figure:
    """Draw the share of a pool's images that show each thing, and the share by which they are made."""
    counts = pool.scenes.noun.value_counts().reindex(list(THINGS), fill_value=0)
    mix, ranks = pool.config.scenes, np.arange(1, len(THINGS) + 1)
    weights = 1 / ranks**mix.concept_exponent
    expected = sum(mix.kinds[:2]) / sum(mix.kinds) * weights / weights.sum()
    figure, ax = plt.subplots(figsize=(plots.WIDTH, 3.4))
    colours = [plots.COLOURS["diffusion" if noun in OBJECTS else "chance"] for noun in counts.index]
    ax.bar(ranks, counts / len(pool), color=colours)
    ax.plot(ranks, expected, color=plots.INK, linewidth=1.4)
    ax.set_xticks(ranks, counts.index, rotation=60, ha="right", rotation_mode="anchor")
    plots.percent(ax.yaxis)
    ratio = weights[0] / weights[-1]
    plots.title(
        ax,
        f"The commonest thing is made {ratio:.0f} times as often as the rarest",
        f"share of {len(pool):,} images that show it; line: in proportion to 1/rank^{mix.concept_exponent:g}; "
        "blue: the classes of objects",
    )
    return figure


def styles(images: Sequence[np.ndarray]) -> Figure:
    """Show renderings of scenes, a column per style."""
    rows = len(images) // len(STYLES)
    return plots.image_grid(np.stack(images), [*STYLES] * rows, columns=len(STYLES))


def classes(name: str, per_class: int, most: int = 12) -> Figure:
    """Show the first test images of a set, a row per class, of its first classes."""
    names = datasets.load(name, "test", n=2).classes
    images = datasets.load(name, "test", n=per_class * len(names))
    rows = [np.flatnonzero(images.labels == c)[:per_class] for c in range(len(names))][:most]
    return plots.image_grid(images.images[np.concatenate(rows)], columns=per_class, row_titles=names[:most])


def every_class(name: str, columns: int, row_titles: Sequence[str] | None = None) -> Figure:
    """Show the first test image of each class of a set, in the order of the classes."""
    C = len(datasets.load(name, "test", n=1).classes)
    return plots.image_grid(datasets.load(name, "test", n=C).images, columns=columns, row_titles=row_titles)


def shifts(n: int = 10) -> Figure:
    """Show the first n scenes of `objects-shift` as they are and under each shift, a row per shift."""
    names = (UNSHIFTED, *SHIFTS)
    rows = [datasets.load(f"objects-shift:{name}", "test", n=n).images for name in names]
    return plots.image_grid(np.concatenate(rows), columns=n, row_titles=names)


def from_easy_to_hard(images: ImageSet, respects: Sequence[str], columns: int = 10) -> Figure:
    """Show images of a set by how hard they are, a row per respect (a column of the manifest), the easiest first.

    Images stand at even distances in the order of that column, of `size` with the largest first.
    """
    rows = []
    for respect in respects:
        values = images.manifest[respect].to_numpy(float)
        in_order = np.argsort(-values if respect == "size" else values, kind="stable")
        rows.append(in_order[np.linspace(0, len(images) - 1, columns).round().astype(int)])
    return plots.image_grid(images.images[np.concatenate(rows)], columns=columns, row_titles=list(respects))


def respects_table(images: ImageSet, respects: Sequence[str]) -> HTML:
    """Show the least, the median and the most of each respect in which images are hard: columns of the manifest."""
    numbers = images.manifest[list(respects)].agg(["min", "median", "max"])
    cells = [[respect, *(f"{value:.2f}" for value in numbers[respect])] for respect in respects]
    return table(cells, ["respect", "least", "median", "most"])


def levels_table(quality: Mapping[str, Mapping[str, dict]], names: Iterable[str]) -> HTML:
    """Show how hard sets are for the shipped models: zero-shot accuracy on validation images, of `quality.json`.

    Args:
        quality: model → measure → {value, low, high, n, about}. names: of the sets.
    """
    measures = (("pocket-clip", "{}"), ("pocket-clip", "{} ensemble"), ("pocket-sd", "{}"))
    rows = []
    for name in names:
        levels = (_level(quality.get(model, {}).get(key.format(name))) for model, key in measures)
        rows.append([name, f"1 / {len(CLASSES[name])}", *levels])
    return table(rows, ["set", "chance", "CLIP, one prompt", "CLIP, all prompts", "Diffusion Classifier"])


def _level(measure: dict | None) -> Estimate | None:
    return measure and Estimate(*(measure[part] for part in Estimate._fields))


def distances_table(rows: Mapping[str, Mapping[str, float | int]]) -> HTML:
    """Show what `zsclib.world.neighbours.apart` returned for each set, distances in grey values."""
    columns = {"images": "{:,}", "near-copies": "{:,}"}
    names = list(next(iter(rows.values())))
    cells = [[name, *(columns.get(key, "{:.1f}").format(row[key]) for key in names)] for name, row in rows.items()]
    return table(cells, ["set", *names])


def examples_of_pairs(n: int = 12) -> Figure:
    """Show the first images of `pairs`, each with the kind of swap and its own caption."""
    pairs = datasets.load("pairs", "test", n=n)
    titles = [
        fill(f"{row.swap}: {(row.caption_0, row.caption_1)[label]}", 34)
        for label, row in zip(pairs.labels, pairs.manifest.itertuples(), strict=True)
    ]
    return plots.image_grid(pairs.images, titles, columns=4)
