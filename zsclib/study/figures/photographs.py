"""The figures of the page "On real photographs": what models of real images can do, and the papers' claims again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import HTML
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from zsclib.papers.datadream import outcomes as datadream
from zsclib.papers.diffusion_classifier import outcomes as diffusion_classifier
from zsclib.papers.diversity import outcomes as diversity
from zsclib.papers.retrieval import outcomes as retrieval
from zsclib.paths import ROOT
from zsclib.pocket.photographs import load_layout
from zsclib.prompts import PHOTOGRAPHS, load_prompts
from zsclib.study import plots
from zsclib.study.claims import load_claims, to_judge
from zsclib.study.freeze import read_freeze
from zsclib.study.panels import panels
from zsclib.study.records import differences
from zsclib.study.side_by_side import Beside, question_of, side_by_side, side_by_side_table
from zsclib.study.stats import accuracy, interval
from zsclib.study.tables import table

CLASSIFIERS = ("CLIP", "CLIP, ensemble", "diffusion classifier")
ABOVE_CHANCE, CEILING = 0.2, 0.9  # between them the better classifier leaves an answer open
PAPERS = {
    "diffusion_classifier": diffusion_classifier,
    "diversity": diversity,
    "datadream": datadream,
    "retrieval": retrieval,
}

Rows = Mapping[str, Mapping[str, Sequence[float]]]  # set → measure → one outcome per image


def read_rows(path: Path) -> Rows:
    """Return what `pocket.photograph_quality.measure` has kept, set by set; nothing where it has not run."""
    return json.loads(path.read_text("utf-8"))["rows"] if path.exists() else {}


def read_growth(path: Path) -> list[dict]:
    """Return what `pocket.photograph_quality.growth` has kept, by pairs; nothing where it has not run."""
    return json.loads(path.read_text("utf-8")) if path.exists() else []


def chances(rows: Rows) -> dict[str, float]:
    """Return set → the accuracy of guessing."""
    return {name: 1 / len(load_prompts(f"{PHOTOGRAPHS}:{name}").classes) for name in rows}


def levels(rows: Rows) -> Figure:
    """Draw how many images of each set CLIP and the diffusion classifier name correctly, 95 % intervals."""
    estimates = {
        name: {what: accuracy(np.array(row[what], bool)) for what in CLASSIFIERS if what in row}
        for name, row in rows.items()
    }
    return panels(estimates, differences=False, chance=chances(rows))


def sets_table(rows: Rows) -> HTML:
    """Return a row per set: what it is, what the autoencoder leaves of it, and whether its answers are open.

    They are where the better classifier is at least `ABOVE_CHANCE` above guessing and below `CEILING`.
    """
    layout, chance = load_layout(), chances(rows)
    lines = []
    for name, row in rows.items():
        left = interval(row["reconstruction"])
        best = max(np.mean(row[what]) for what in CLASSIFIERS if what in row)
        decibels = f"{left.value:.1f} dB ({left.low:.1f} to {left.high:.1f})"
        opened = "yes" if chance[name] + ABOVE_CHANCE <= best < CEILING else "no"
        in_pool = "yes" if layout.sets[name]["in_pool"] else "no"
        lines.append([name, round(1 / chance[name]), in_pool, left.n, decibels, opened])
    heads = ["set", "classes", "its training images are in the pool", "images", "reconstruction", "open"]
    return table(lines, heads)


def read_table(rows: Rows) -> HTML:
    """Return how often a network that has learnt from real images names real and generated ones correctly."""
    lines = [
        [name, *(accuracy(np.array(row[what], bool)) for what in ("real, read", "generated, read"))]
        for name, row in rows.items()
        if "generated, read" in row
    ]
    return table(lines, ["set", "real images", "generated images"])


def growth(rows: Sequence[dict]) -> Figure:
    """Draw what the U-Net could do against the pairs it was trained on, with 95 % bands, and the validation loss.

    Raises: ValueError when there is no row.
    """
    if not rows:
        raise ValueError("growth: no U-Net has been measured yet; first  python -m zsclib.pocket photograph-quality")
    pairs = [row["samples"] for row in rows]
    figure, axes = plt.subplots(1, 3, figsize=(plots.WIDTH, 2.8))
    for ax, measure in zip(axes, ("generated", "recognised"), strict=False):
        values, low, high, _ = zip(*(accuracy(np.array(row[measure], bool)) for row in rows), strict=True)
        plots.curve_with_band(ax, pairs, values, low, high, role="diffusion", marker="o", markersize=4)
        ax.set_ylim(0, 1.02)
        plots.percent(ax.yaxis)
        ax.set_title(f"{measure} correctly", fontsize=10)
    losses = [row["held_out"] for row in rows]
    axes[2].plot(pairs, losses, "o-", color=plots.COLOURS["published"], markersize=4)
    axes[2].set_title("validation loss", fontsize=10)
    for ax in axes:
        ax.set(xscale="log", xlabel="pairs")
        ax.xaxis.set_minor_formatter(NullFormatter())
    return figure


def answers(paper: str, root: Path = ROOT) -> list[Beside]:
    """Return what a paper's two studies say, on the made-up world and on photographs, question by question.

    Args:
        paper: one of `PAPERS`. root: the clone.

    Raises:
        ValueError: a file of outcomes is damaged, or belongs to another freeze.
    """
    both = []
    for chapter in (paper, f"{paper}-photographs"):
        try:
            both.append(differences(read_freeze(chapter, root), PAPERS[paper], root))
        except FileNotFoundError:  # not planned, or not frozen yet
            return []
    claims = load_claims(root / "data" / "claims")
    return side_by_side(*(to_judge([claims[name] for name in measured], measured)[1] for measured in both))


def answers_table(rows: Sequence[Beside], root: Path = ROOT) -> HTML:
    """Return a row per question: its effects in both worlds, and whether their means have one sign."""
    statements, numbers = {}, set()
    for claim in load_claims(root / "data" / "claims").values():
        for one in rows:
            if claim.id == one.question or question_of(claim.id, one.here) == one.question:
                statements.setdefault(one.question, claim.contrast.partition(" on ")[0])
                numbers |= {one.question} if claim.unit == "number" else set()
    if not rows:
        return HTML("<p>One of the two studies has not been frozen yet, so there is nothing to compare.</p>")
    return table(side_by_side_table(rows, statements, ("made-up world", "photographs"), numbers))
