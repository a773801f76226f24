"""The figures of the page "Is it a good classifier?"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from zsclib.images.image_set import ImageSet
from zsclib.papers.diffusion_classifier import robustness, winoground
from zsclib.papers.diffusion_classifier.arms import CLIP_ENSEMBLE, CLIP_ONE, DIFFUSION, DIT, FEATURES
from zsclib.papers.diffusion_classifier.classifier import Result
from zsclib.papers.diffusion_classifier.contrasts import outcomes_of
from zsclib.papers.diffusion_classifier.experiments import PAPER
from zsclib.papers.diffusion_classifier.measurements import Target
from zsclib.study import plots
from zsclib.study.stats import Calibration, Estimate, accuracy

ROLES = {DIFFUSION: "diffusion", CLIP_ONE: "clip", CLIP_ENSEMBLE: "clip", FEATURES: "features"}
PUBLISHED_ROW = {  # arm -> row of the paper's table 1
    DIFFUSION: "Diffusion Classifier",
    CLIP_ONE: "OpenCLIP ViT-H/14",
    CLIP_ENSEMBLE: "CLIP ResNet-50",
    PAPER: "Synthetic SD Data",
    FEATURES: "SD Features",
}
DASHED = (0, (4, 3))


def generated_images(generated: Mapping[tuple[str, str], ImageSet], columns: int = 8) -> Figure | None:
    """Show the first generated images of every set, a row per arm; nothing where there are none."""
    if not generated:
        return None
    names = list(dict.fromkeys(name for _, name in generated))
    rows = [(arm, name) for name in names for arm, other in generated if other == name]
    images = np.concatenate([generated[row].images[:columns] for row in rows])
    first = {name: row for row, (_, name) in reversed(list(enumerate(rows)))}
    titles = [name if first[name] == row else "" for row, (_, name) in enumerate(rows)]
    return plots.image_grid(images, columns=columns, row_titles=titles)


def arms(
    estimates: Mapping[str, Mapping[str, Estimate]],
    targets: Mapping[str, Target],
    published: Mapping[str, Any],
) -> Figure:
    """Draw the accuracy of every arm on every set, a panel a set.

    Args:
        estimates: target → arm → accuracy.
        published: data/published/diffusion_classifier.yml; a number of the paper stands beside an arm where this set
            plays the part of one set of the paper, and several numbers where it plays that of several.
    """
    columns = min(2, len(estimates))
    rows = -(-len(estimates) // columns)
    height = 0.42 * max(map(len, estimates.values())) + 0.9
    figure, axes = plt.subplots(
        rows, columns, figsize=(plots.WIDTH, rows * height), squeeze=False, layout="constrained"
    )
    figure.get_layout_engine().set(w_pad=0.1)  # the last tick of a panel and the first of the next are long
    for ax, (name, by_arm) in zip(axes.flat, estimates.items(), strict=False):
        C = len(targets[name].classes)
        roles = {arm: ROLES.get(arm, "synthetic") for arm in by_arm}
        plots.interval_dots(ax, by_arm, roles, None, 1 / C)
        for row, arm in enumerate(by_arm):
            values = _published_accuracies(arm, name, published)
            ax.plot(
                values,
                [row] * len(values),
                "D",
                color=plots.COLOURS["published"],
                fillstyle="none",
                markersize=5,
            )
        ax.set_xlim(0, 1.02)
        plots.title(ax, f"{targets[name].title}, {C} classes")
    for ax in axes.flat[len(estimates) :]:
        ax.axis("off")
    return figure


def _published_accuracies(arm: str, name: str, published: Mapping[str, Any]) -> list[float]:
    sets, row = published["roles"].get(name, []), PUBLISHED_ROW.get(arm)
    if row is None or row in published["not_comparable"].get(name, []):
        return []
    return sorted(published["table_1"][row][each] / 100 for each in sets)


def failures(
    targets: Mapping[str, Target], results: Mapping[str, Result], columns: int = 6, row_titles: bool = True
) -> Figure | None:
    """Show wrongly classified images, a row a set, those of the largest margin first; nothing where there are none."""
    images, titles, rows = [], [], []
    for name, target in targets.items():
        wrong = np.flatnonzero(~target.correct(results[name].prediction))
        if not len(wrong):
            continue
        ranked = np.sort(results[name].scores[wrong], axis=1)
        surest = wrong[np.argsort(ranked[:, -2] - ranked[:, -1])][:columns]
        blank = columns - len(surest)
        images += [*target.images[surest], *[np.full_like(target.images[0], 255)] * blank]
        pairs = [(target.labels[i], results[name].prediction[i]) for i in surest]
        titles += [f"{target.classes[true]}\n{target.classes[other]}" for true, other in pairs] + [""] * blank
        rows.append(target.title.replace("-", "\n"))
    if not images:
        return None
    return plots.image_grid(np.stack(images), titles, columns, rows if row_titles else None)


def confusion(targets: Mapping[str, Target], results: Mapping[str, Result]) -> Figure:
    """Draw which class is taken for which on the set with the lowest accuracy in this run."""
    name = min(targets, key=lambda name: targets[name].correct(results[name].prediction).mean())
    target, predictions = targets[name], results[name].prediction
    counts = np.zeros((len(target.classes),) * 2)
    np.add.at(counts, (target.labels, predictions), 1)
    figure, ax = plt.subplots(figsize=(plots.WIDTH, 0.8 * plots.WIDTH))
    plots.confusion(ax, counts, target.classes)
    plots.title(ax, f"{target.title}: {accuracy(target.correct(predictions)).percent()} correct")
    return figure


def pairs(
    solved: Mapping[str, Mapping[str, np.ndarray]], swaps: Sequence[str], published: Mapping[str, Any]
) -> Figure | None:
    """Draw the share of examples solved by type of swap, a panel a score; nothing where no example was looked at."""
    if not solved:
        return None
    figure, axes = plt.subplots(
        2, 2, figsize=(plots.WIDTH, 5.6), sharex=True, sharey=True, layout="constrained"
    )
    figure.get_layout_engine().set(w_pad=0.1)
    styles = {
        "diffusion": (-0.2, "diffusion", "full"),
        "diffusion, raw errors": (0, "diffusion", "none"),
        "CLIP": (0.2, "clip", "full"),
    }
    rows = {"diffusion": "Diffusion Classifier", "CLIP": "OpenCLIP ViT-H/14"}
    for ax, (score, chance) in zip(axes.flat, winoground.CHANCE.items(), strict=True):
        for arm, (shift, role, fill) in styles.items():
            by_swap = {k: accuracy(v) for k, v in winoground.by_swap(solved[arm][score], swaps).items()}
            colour = plots.COLOURS[role]
            for y, (swap, e) in enumerate(by_swap.items()):
                ax.plot([e.low, e.high], [y + shift] * 2, color=colour, linewidth=2, solid_capstyle="round")
                face, text = colour if fill == "full" else "white", arm if y == 0 else None
                ax.plot(e.value, y + shift, "o", color=colour, markerfacecolor=face, label=text)
                if score == "text" and arm in rows:
                    value = published["table_3"][rows[arm]][swap] / 100
                    style = {"color": plots.COLOURS["published"], "fillstyle": "none", "markersize": 5}
                    ax.plot(value, y + shift, "D", **style)
        ax.axvline(chance, color=plots.COLOURS["chance"], linestyle=DASHED, linewidth=1.2, zorder=0)
        ax.set_yticks(range(len(by_swap)), list(by_swap))
        ax.set(xlim=(0, 1.02), ylim=(len(by_swap) - 0.5, -0.5))
        ax.grid(True, axis="x")
        ax.grid(False, axis="y")
        plots.percent(ax.xaxis)
        plots.title(ax, f"{score} score" if score != "matching" else "matching")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def learning_curves(scores: Mapping[tuple[str, str], np.ndarray], steps: Mapping[str, int]) -> Figure | None:
    """Draw the networks' accuracy on held-out images at their checkpoints: where a curve rises, steps were too few."""
    if not steps:
        return None
    figure, ax = plt.subplots(figsize=(plots.WIDTH, 3.2))
    for (name, total), marker in zip(steps.items(), "os^Dv*P" * len(steps), strict=False):
        curve = scores[name, "validation"]
        at = total * (1 + np.arange(len(curve))) / len(curve)
        ax.plot(
            at, curve, marker=marker, color=plots.COLOURS["real"], linewidth=1.2, markersize=5, label=name
        )
    ax.set(xlabel="training steps of 64 images", ylim=(0, 1), xlim=(0, 1.2 * max(steps.values())))
    plots.percent(ax.yaxis)
    plots.title(
        ax, "How far the networks beside the DiT have come", "accuracy on held-out images of the DiT's set"
    )
    plots.label_curves(ax)
    return figure


def effective_robustness(
    correct: Mapping[str, Mapping[str, np.ndarray]], gain: Estimate | None, seed: int = 0
) -> Figure | None:
    """Draw accuracy under shift against accuracy without, the networks' line, and the class-conditional model.

    Args:
        correct: DIT and networks → "objects", "objects-shift" → bool (n,). gain: of DIT above the line.
    """
    networks = [name for name in correct if name != DIT]
    if not networks:
        return None
    inside, outside = (
        {name: correct[name][test] for name in correct} for test in ("objects", "objects-shift")
    )
    standard, shifted = ([part[name] for name in networks] for part in (inside, outside))
    grid = np.linspace(0.02, 0.995, 200)
    low, high = robustness.band(standard, shifted, grid, seed=seed)
    line = robustness.fit_line(robustness.rates(standard), robustness.rates(shifted))
    figure, ax = plt.subplots(figsize=(plots.WIDTH, 4.6))
    plots.curve_with_band(ax, grid, line.at(grid), low, high, role="real", linewidth=1.2)
    for place, name in enumerate([DIT, *sorted(networks, key=lambda name: inside[name].mean())]):
        role, height = ("real", 0.02 + 0.055 * (place % 4)) if place else ("diffusion", 0.95)
        _cross(ax, accuracy(inside[name]), accuracy(outside[name]), role, name, height)
    ax.set(xscale="logit", yscale="logit", xlabel="accuracy on objects", ylabel="accuracy on objects-shift")
    for axis, part in ((ax.xaxis, inside), (ax.yaxis, outside)):
        ends = [end for row in part.values() for end in accuracy(row)[1:3]]
        low, high = max(0.01, 0.5 * min(ends)), min(0.998, 1 - 0.6 * (1 - max(ends)))
        ticks = [tick for tick in (0.03, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 0.97, 0.99) if low < tick < high]
        axis.set_ticks(ticks, [f"{100 * tick:.0f} %" for tick in ticks])
        axis.set_ticks([], minor=True)
        axis.set_view_interval(low, high, ignore=True)
    plots.title(ax, f"The DiT above the networks' line: {gain.points()}")
    return figure


def _cross(ax: Axes, x: Estimate, y: Estimate, role: str, text: str, height: float) -> None:
    """Draw a point with both intervals, and its name at this height of the axes."""
    sides = [[[e.value - e.low], [e.high - e.value]] for e in (y, x)]
    ax.errorbar(x.value, y.value, *sides, fmt="o", color=plots.COLOURS[role], elinewidth=1, alpha=0.9)
    at = {"xytext": (x.value, height), "textcoords": ("data", "axes fraction"), "ha": "center", "fontsize": 9}
    at["bbox"] = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
    ax.annotate(
        text, (x.value, y.value), **at, arrowprops={"arrowstyle": "-", "color": plots.QUIET, "linewidth": 0.6}
    )


def reliability(calibrations: Mapping[str, Calibration]) -> Figure | None:
    """Draw accuracy against confidence in bins, a panel a set."""
    if not calibrations:
        return None
    figure, axes = plt.subplots(1, len(calibrations), figsize=(plots.WIDTH, 3.5), squeeze=False, sharey=True)
    colour = plots.COLOURS["diffusion"]
    for ax, (name, c) in zip(axes[0], calibrations.items(), strict=True):
        ax.plot([0, 1], [0, 1], color=plots.COLOURS["chance"], linestyle=DASHED, linewidth=1.2)
        n = sum(b.accuracy.n for b in c.bins)
        for b in c.bins:
            ax.plot([b.confidence] * 2, [b.accuracy.low, b.accuracy.high], color=colour, linewidth=1.5)
            size = 3 + 12 * (b.accuracy.n / n) ** 0.5
            ax.plot(b.confidence, b.accuracy.value, "o", color=colour, markersize=size, clip_on=False)
        ax.set(xlim=(0, 1.03), ylim=(0, 1.03), xlabel="confidence")
        plots.percent(ax.xaxis)
        plots.percent(ax.yaxis)
        plots.title(ax, name, f"ECE {100 * c.ece:.1f} %; by chance {100 * c.ece_by_chance:.1f} %")
    axes[0, 0].set_ylabel("accuracy")
    return figure


def templates(correct: Mapping[str, np.ndarray], chance: float, chosen: str) -> Figure | None:
    """Draw accuracy by the template asked with, and name the one that validation images chose."""
    if not correct:
        return None
    figure, ax = plt.subplots(figsize=(plots.WIDTH, 0.62 * len(correct) + 1.1))
    plots.interval_dots(ax, {name: accuracy(row) for name, row in correct.items()}, chance=chance)
    ax.set_xlim(0, 1)
    plots.title(ax, f"Validation images chose “{chosen}”")
    return figure


def checkpoints(rows: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Draw accuracy against the image-caption pairs that checkpoints of one training had been trained on."""
    if not rows:
        return None
    figure, ax = plt.subplots()
    pairs = np.array([row["samples"] for row in rows]) / 1000
    outcomes = [outcomes_of(row) for row in rows]
    for name, style in zip(outcomes[0], ("-", "--", ":"), strict=False):
        value, low, high, _ = zip(*[accuracy(row[name]) for row in outcomes], strict=True)
        line = {"linestyle": style, "marker": "o", "markersize": 4}
        plots.curve_with_band(ax, pairs, value, low, high, name, "diffusion", **line)
    ticks = [tick for tick in (125, 250, 500, 1000, 2000, 4000) if pairs[0] / 1.2 < tick < 1.2 * pairs[-1]]
    plots.log_ticks(ax.xaxis, ticks)
    ax.set(ylim=(0, 1), xlabel="image-caption pairs, thousands", xlim=(pairs[0] * 0.9, pairs[-1] * 1.6))
    plots.percent(ax.yaxis)
    plots.title(ax, "Checkpoints of one training")
    plots.label_curves(ax)
    return figure
