"""The figures of the page "The pocket models"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import HTML
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from zsclib.pocket.requests import Fulfilled
from zsclib.pretraining.card import gigabytes
from zsclib.study import plots
from zsclib.study.stats import Estimate, accuracy
from zsclib.study.tables import table

SMALL = {"fontsize": 10}


def prompted(images: np.ndarray, prompts: Sequence[str], columns: int = 4) -> Figure:
    """Show generated images, each with its prompt below."""
    return plots.image_grid(images, [fill(prompt, 24) for prompt in prompts], columns)


def requested(outcomes: Mapping[str, Fulfilled]) -> Figure:
    """Draw, by kind of request, the share of images that show what the prompt asks for, 95 % intervals.

    Hollow: the share that shows it with the two things exchanged.
    """
    estimates = {kind: accuracy(outcome.correct) for kind, outcome in outcomes.items()}
    figure, ax = plt.subplots(figsize=(plots.WIDTH, 0.5 * len(estimates) + 0.9))
    plots.interval_dots(ax, estimates)
    for row, outcome in enumerate(outcomes.values()):
        if outcome.exchanged is not None:
            share = outcome.exchanged.mean()
            ax.plot(share, row, "o", markerfacecolor="none", color=plots.COLOURS["chance"])
    ax.set_xlim(0, 1.08)
    return figure


def order_table(measures: Mapping[str, Mapping[str, float]]) -> HTML:
    """Show how often the order of two things is right in generated images, and in a probe of the text states.

    Args:
        measures: those of `pocket-sd` in `quality.json`.
    """
    names = {
        "order relation": "generated images: both things read",
        "order relation of colours": "generated images: both colours read",
        "order told": "a linear probe on the text states",
    }
    rows = []
    for key, name in names.items():
        row = measures[key]
        rows.append([name, Estimate(row["value"], row["low"], row["high"], row["n"]), row["n"]])
    return table(rows, ["where the order is read", "correct order (chance: 50 %)", "n"])


def tradeoff(rows: pd.DataFrame, real_variety: float) -> Figure:
    """Draw accuracy, recall and Vendi score against the guidance scale; lines join the means of the sets.

    Args:
        rows: from `pocket.guidance.guidance_tradeoff`.
        real_variety: the Vendi score of as many real images, a dashed line.
    """
    figure, axes = plt.subplots(1, 3, figsize=(plots.WIDTH, 2.7))
    for ax, name in zip(axes, rows.columns[1:], strict=True):
        ax.plot(rows.guidance, rows[name], "o", color=plots.COLOURS["diffusion"], alpha=0.35, markersize=4)
        mean = rows.groupby("guidance")[name].mean()
        ax.plot(mean.index, mean, color=plots.COLOURS["diffusion"])
        ax.set(xlabel="guidance scale")
        ax.set_title(name, **SMALL)
    axes[2].axhline(real_variety, color=plots.COLOURS["real"], linestyle="--")
    return figure


def reconstructions(images: Mapping[str, np.ndarray], decoded: Mapping[str, np.ndarray], n: int) -> Figure:
    """Show the first n images of each set above what the autoencoder makes of them."""
    rows = {}
    for name in images:
        rows |= {name: images[name][:n], f"{name}, decoded": decoded[name][:n]}
    return plots.image_grid(np.concatenate(list(rows.values())), columns=n, row_titles=list(rows))


def zero_shot(estimates: Mapping[str, Estimate]) -> Figure:
    """Draw CLIP's zero-shot accuracy on each set, 95 % intervals."""
    figure, ax = plt.subplots(figsize=(plots.WIDTH, 0.62 * len(estimates) + 0.9))
    plots.interval_dots(ax, estimates, dict.fromkeys(estimates, "clip"))
    ax.set_xlim(0, 1.08)
    return figure


def losses(training: Mapping[str, dict]) -> Figure:
    """Draw the training loss of every part against samples, a panel each.

    Args:
        training: part → what its model's `training.json` says of it.
    """
    rows = -(-len(training) // 2)
    figure, axes = plt.subplots(rows, 2, figsize=(plots.WIDTH, 2.4 * rows), squeeze=False)
    for ax, (part, meta) in zip(axes.flat, training.items(), strict=False):
        history = meta["history"]
        samples, values = ([row[name] for row in history] for name in ("samples", "loss"))
        ax.loglog(samples, values, color=plots.COLOURS["diffusion"], linewidth=1.4)
        minutes = history[-1]["seconds"] / 60
        ax.set_title(f"{part}: {samples[-1] / 1e3:,.0f} k, {minutes:.0f} min", **SMALL)
        ax.yaxis.set_minor_formatter(NullFormatter())
        ax.xaxis.set_minor_formatter(NullFormatter())
    for ax in axes.flat[len(training) :]:
        ax.axis("off")
    for ax in axes[:, 0]:
        ax.set_ylabel("training loss")
    for ax in axes[-1]:
        ax.set_xlabel("samples")
    return figure


def costs_table(training: Mapping[str, dict]) -> HTML:
    """Return a row per part: the images that it learnt from, one counted as often as it was shown, and what that took.

    Args:
        training: part → what its model's `training.json` says of it.
    """
    rows, noted = [], any(meta.get("memory") for meta in training.values())
    for part, meta in training.items():
        images, seconds = meta["step"] * meta["plan"]["batch"], meta["seconds"]
        speed = f"{images / seconds:,.0f}"
        memory = [gigabytes(meta)] * noted
        rows.append([part, f"{images:,}", f"{seconds / 3600:.1f}", speed, *memory, meta["device"]])
    return table(rows, ["part", "images", "hours", "images a second", *["memory at most"] * noted, "on"])


def growth(rows: Sequence[dict]) -> Figure:
    """Draw what the U-Net could do against the pairs it was trained on: 95 % bands, and the validation loss.

    Args:
        rows: from `data/records/scaling.json`, by `pocket.scaling.scaling`.
    """
    pairs = [row["samples"] for row in rows]
    phase_1 = [row for row in rows if row["training"] == "unet"]
    figure, axes = plt.subplots(1, 3, figsize=(plots.WIDTH, 3))
    for ax, kind, heading in zip(axes, ("judged", "recognised"), ("generated", "recognised"), strict=False):
        for measure in (name for name in rows[0] if name.startswith(kind)):
            estimates = [accuracy(np.array(row[measure], bool)) for row in rows]
            values, low, high, _ = zip(*estimates, strict=True)
            colour = plots.COLOURS["diffusion" if measure.endswith("objects") else "clip"]
            label = measure.removeprefix(f"{kind} ")
            ax.plot(pairs, values, "o-", color=colour, markersize=4, label=label)
            ax.fill_between(pairs, low, high, color=colour, alpha=0.15, linewidth=0)
        ax.set_title(f"{heading} correctly", **SMALL)
        ax.set_ylim(0, 1.02)
        ax.legend(fontsize=8, loc="lower right", frameon=True, framealpha=1, edgecolor="none")
    for part in (phase_1, rows[len(phase_1) :]):  # the two phases validate on data of their own
        samples, values = ([row[name] for row in part] for name in ("samples", "held_out"))
        axes[2].plot(samples, values, "o-", color=plots.COLOURS["published"], markersize=4)
    axes[2].set_title("validation loss", **SMALL)
    for ax in axes:
        ax.set_xscale("log")
        ax.axvline(phase_1[-1]["samples"], color=plots.COLOURS["chance"], linestyle="--", linewidth=1)
        ax.set_xlabel("pairs")
        ax.xaxis.set_minor_formatter(NullFormatter())
    return figure
