"""The figures of the page "Why does it work, and what does it cost?"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from zsclib.papers.diffusion_classifier.effects import Outcomes
from zsclib.papers.diffusion_classifier.error_matrix import Schedule
from zsclib.papers.diffusion_classifier.measurements import (
    Errors,
    Example,
    Target,
    among_best,
    correct,
)
from zsclib.papers.diffusion_classifier.replays import Replay
from zsclib.study import plots
from zsclib.study.claims import Claim
from zsclib.study.stats import Estimate, accuracy, interval

STYLES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P")
WAYS = {"even": ("-", "o"), "two timesteps": ("--", "s"), "one timestep": (":", "D"), "crowded": ("-.", "^")}
RULES = {
    "every class": ("diffusion", "-", "o"),
    "stages": ("elimination", ":", "D"),
    "Clark & Jaini": ("chance", "--", "s"),
    "sequential test": ("elimination", "-", "o"),
}


def rate(outcomes: Outcomes | np.ndarray) -> Estimate:
    """Return how often an arm is correct, all targets' images together, with its interval."""
    values = (
        np.concatenate(list(outcomes.values())) if isinstance(outcomes, Mapping) else np.asarray(outcomes)
    )
    if np.isin(values, (0, 1)).all():
        return accuracy(values)
    value, low, high, n = interval(values)
    return Estimate(value, max(low, 0.0), min(high, 1.0), n)  # Student's interval knows no bounds


def decision(example: Example) -> Figure:
    """Draw errors of one image under two prompts over the timesteps, and their difference (figure 2 of the paper)."""
    true, other = example.errors  # (m noises, K) each
    shared, apart = other - true, other - np.roll(true, 1, axis=0)
    factor = apart.var(0, ddof=1).mean() / shared.var(0, ddof=1).mean()
    figure, axes = plt.subplots(2, 1, figsize=(plots.WIDTH, 5.6), sharex=True)
    for curves, colour, text in (
        (other, plots.QUIET, example.prompts[1]),
        (true, plots.COLOURS["diffusion"], example.prompts[0]),
    ):
        axes[0].plot(example.t, curves.T, color=colour, linewidth=0.9, alpha=0.7)
        axes[0].plot([], [], color=colour, label=text)
    axes[1].plot(example.t, apart.T, color=plots.COLOURS["chance"], linewidth=0.9, alpha=0.7)
    axes[1].plot(example.t, shared.T, color=plots.COLOURS["diffusion"], linewidth=1.1)
    axes[1].axhline(0, color=plots.INK, linewidth=0.8)
    axes[0].legend(loc="upper center")
    inset = axes[0].inset_axes([0.84, 0.5, 0.16, 0.5])
    inset.imshow(example.image)
    inset.axis("off")
    noises = len(true)
    plots.title(axes[0], "Errors under two prompts", f"{noises} noises each")
    detail = (
        f"noise of each prompt's own (grey) spreads the difference {factor:.1f} times as widely, in variance"
    )
    plots.title(axes[1], "Their difference, runner-up less true prompt", detail)
    axes[1].set_xlabel("timestep t")
    return figure


def shared_noise(ks: Sequence[int], curves: Mapping[str, Sequence[Outcomes]], gain: Outcomes) -> Figure:
    """Draw accuracy against timesteps with and without shared noise, and how many evaluations sharing saves.

    Args:
        curves: arm → outcomes at each of ks timesteps. gain: target → log10 of the factor, (n,).
    """
    figure, axes = plt.subplots(1, 2, figsize=(plots.WIDTH, 3.8), width_ratios=(3, 2))
    for (text, outcomes), style in zip(curves.items(), ("-", "--"), strict=True):
        value, low, high, _ = zip(*map(rate, outcomes), strict=True)
        plots.curve_with_band(axes[0], ks, value, low, high, text, "diffusion", linestyle=style, marker="o")
    plots.log_ticks(axes[0].xaxis, ks)
    plots.percent(axes[0].yaxis)
    axes[0].set(xlabel="timesteps per class", ylim=(0, 1))
    axes[0].legend(loc="best", handlelength=3)
    values = np.concatenate(list(gain.values()))
    mean, low, high, _ = interval(values)
    axes[1].hist(10**values, bins=np.geomspace(0.1, 1e4, 25), color=plots.COLOURS["diffusion"])
    plots.log_ticks(axes[1].xaxis, [0.1, 1, 10, 100, 1000])
    axes[1].axvline(10**mean, color=plots.INK, linewidth=1.2)
    axes[1].set(xlabel="evaluations, as a multiple", ylabel="images")
    plots.title(axes[0], "Decisions")
    plots.title(axes[1], f"Factor {10**mean:.3g}", f"geometric mean; {10**low:.3g} to {10**high:.3g}")
    return figure


def single_timesteps(
    schedule: Schedule,
    errors: Errors,
    targets: Mapping[str, Target],
    published: Mapping[int, float],
    T: int = 1000,
) -> Figure:
    """Draw the accuracy of decisions from one timestep alone, a curve a target, beside the paper's figure 3."""
    t = np.array(schedule.t)
    figure, ax = plt.subplots(figsize=(plots.WIDTH, 4))
    order = np.argsort(t)
    for (name, matrix), style in zip(errors.items(), STYLES * len(errors), strict=False):
        single = matrix.argmin(1) == targets[name].labels[: len(matrix), None]  # (n, K)
        value, low, high, _ = zip(*[accuracy(single[:, k]) for k in order], strict=True)
        label = targets[name].title
        plots.curve_with_band(ax, t[order], value, low, high, label, "diffusion", linestyle=style)
    values = np.array(list(published.values())) / 100
    ax.plot(list(published), values, color=plots.COLOURS["published"], linewidth=0.9, label="Pets (paper)")
    ax.set(xlabel="timestep t, used alone", ylim=(0, 1), xlim=(0, 1.22 * T))
    ax.set_xticks(np.arange(0, T + 1, T // 5))
    plots.percent(ax.yaxis)
    plots.title(ax, "Decisions from one timestep alone")
    plots.label_curves(ax)
    return figure


def spread(ways: Mapping[str, Mapping[int, Outcomes]], K: int) -> Figure:
    """Draw accuracy against evaluations per class, way by way; ways: way → evaluations per class → outcomes."""
    figure, ax = plt.subplots(figsize=(plots.WIDTH, 4))
    for i, (way, by_budget) in enumerate(ways.items()):
        colour = plots.COLOURS["diffusion"] if way == "even" else plots.QUIET
        line, marker = WAYS[way]
        estimates = [rate(outcomes) for outcomes in by_budget.values()]
        style = {
            "fmt": marker,
            "color": colour,
            "linestyle": line,
            "linewidth": 1.4,
            "elinewidth": 1,
            "label": way,
        }
        _bars(ax, np.array(list(by_budget)) * 1.04**i, estimates, **style)
    plots.log_ticks(ax.xaxis, [2**i for i in range(12) if 2**i <= K])
    plots.percent(ax.yaxis)
    ax.set_xlabel("evaluations per class")
    ax.legend(loc="lower right", handlelength=3)
    plots.title(ax, "Ways to spend a budget of evaluations", "accuracy, all sets together")
    return figure


def weights(
    schedule: Schedule, w: np.ndarray, differences: Mapping[str, Outcomes], published: Mapping[str, float]
) -> Figure:
    """Draw the weights of the variational bound over their mean, and what uniform weights gain (see `per_set`)."""
    figure, axes = plt.subplots(2, 1, figsize=(plots.WIDTH, 5.8), height_ratios=(2, 3))
    t = np.array(schedule.t)
    order = np.argsort(t)
    axes[0].plot(t[order], (w / w.mean())[order], color=plots.COLOURS["diffusion"], marker="o", markersize=4)
    axes[0].axhline(1, color=plots.INK, linewidth=0.8)
    axes[0].set(xlabel="timestep t", ylabel="weight")
    plots.log_ticks(axes[0].yaxis, [0.5, 1, 2, 5])
    per_set(axes[1], differences, published)
    share = 100 * w[order[0]] / w.sum()
    plots.title(axes[0], f"The lowest of {len(t)} timesteps has {share:.0f} % of the bound's weight")
    plots.title(axes[1], "Uniform less variational weights", "difference of accuracy")
    return figure


def changes(
    differences: Mapping[str, Outcomes],
    title: str,
    detail: str,
    published: Mapping[str, float | Mapping[str, float]] | None = None,
) -> Figure | None:
    """Draw what each of several changes does to accuracy, set by set (see `per_set`); None where none is measured."""
    differences = {text: by_set for text, by_set in differences.items() if by_set}
    if not differences:
        return None
    rows = sum(0.6 + 0.22 * (len(by_set) - 1) for by_set in differences.values())
    figure, ax = plt.subplots(figsize=(plots.WIDTH, rows + 1.1))
    per_set(ax, differences, published or {})
    plots.title(ax, title, detail)
    return figure


def per_set(
    ax: Axes, differences: Mapping[str, Outcomes], published: Mapping[str, float | Mapping[str, float]]
) -> None:
    """Draw a row per change and, in it, a mean difference with its interval per set.

    Args:
        differences: change → set → paired differences (n,).
        published: change → the paper's difference, a diamond; or set → difference, one beside the set that plays its
            part.
    """
    names = list(dict.fromkeys(name for by_set in differences.values() for name in by_set))
    markers = dict(zip(names, MARKERS * len(names), strict=False))
    y, labelled = 0.0, set()
    for text, by_set in differences.items():
        place = ax.get_yaxis_transform()
        ax.annotate(text, (0, y), (0, 9), xycoords=place, textcoords="offset points", fontsize=9.5)
        top = y
        for name, values in by_set.items():
            e = interval(values)
            colour = plots.COLOURS["diffusion"]
            ax.plot([e.low, e.high], [y, y], color=colour, linewidth=2, solid_capstyle="round")
            label = None if name in labelled else name
            ax.plot(e.value, y, markers[name], color=colour, markersize=6, label=label)
            labelled.add(name)
            y += 0.32
        there = published.get(text, {})
        there = there if isinstance(there, Mapping) else {None: there}
        for name, value in there.items():
            place = top + 0.32 * list(by_set).index(name) if name else (top + y - 0.32) / 2
            ax.plot(value, place, "D", color=plots.COLOURS["published"], fillstyle="none", markersize=6.5)
        y += 0.75
    ax.axvline(0, color=plots.INK, linewidth=0.8, zorder=0)
    ax.set_ylim(y - 0.6, -0.8)
    ax.set_yticks([])
    ax.grid(False, axis="y")
    ax.grid(True, axis="x")
    ax.spines["left"].set_visible(False)
    ax.xaxis.set_major_formatter(
        lambda x, _: f"{100 * x:+.0f}".replace("-", "\N{MINUS SIGN}").replace("+0", "0")
    )
    ax.set_xlabel("points")
    if len(names) > 1:
        ax.figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=len(names))


def class_filter(errors: Errors, scores: Mapping[str, np.ndarray], targets: Mapping[str, Target]) -> Figure:
    """Draw accuracy among CLIP's best classes against how many of them, a curve a target."""
    figure, ax = plt.subplots(figsize=(plots.WIDTH, 4))
    for name, style in zip(errors, STYLES * len(errors), strict=False):
        matrix = {name: errors[name]}
        ks = np.arange(1, errors[name].shape[1] + 1)
        outcomes = [correct(among_best(matrix, scores, int(k)), targets) for k in ks]
        value, low, high, _ = zip(*map(rate, outcomes), strict=True)
        label = targets[name].title
        plots.curve_with_band(ax, ks / ks[-1], value, low, high, label, "diffusion", linestyle=style)
        ax.plot(1 / ks[-1], value[0], "o", color=plots.COLOURS["clip"], zorder=4)
    ax.annotate("CLIP alone", (0.02, 0.03), color=plots.COLOURS["clip"], fontweight="bold")
    ax.set(xlabel="share of classes that CLIP lets through", ylim=(0, 1.05), xlim=(0, 1.2))
    ax.set_xticks(np.linspace(0, 1, 6))
    plots.percent(ax.xaxis)
    plots.percent(ax.yaxis)
    plots.title(ax, "From CLIP alone to the diffusion classifier alone", "accuracy among CLIP's best classes")
    plots.label_curves(ax)
    return figure


def cost(replays: Mapping[str, Sequence[Replay]], chosen: Replay, staged: Replay, alpha: float) -> Figure:
    """Draw accuracy, and agreement with exhaustive scoring, against the share of its evaluations.

    Args:
        replays: rule → replays at several settings. chosen, staged: of the sequential test at `alpha` (ringed), and of
            the paper's stages (whose third is a dotted line).
    """
    figure, axes = plt.subplots(2, 1, figsize=(plots.WIDTH, 7.4), sharex=True)
    for rule, settings in replays.items():
        role, line, marker = RULES[rule]
        share = [each.mean_share() for each in settings]
        for ax, outcomes in ((axes[0], [r.correct for r in settings]), (axes[1], [r.same for r in settings])):
            value, low, high, _ = zip(*map(rate, outcomes), strict=True)
            band = (
                (low, high) if ax is axes[1] or rule == "every class" else (None, None)
            )  # above they would overlap
            style = {"linestyle": line, "marker": marker, "markersize": 5}
            plots.curve_with_band(ax, share, value, *band, rule, role, **style)
    for goal, text, side in (
        (0.1, "a tenth of\nexhaustive", -1),
        (staged.mean_share() / 3, "a third\nof stages", 1),
    ):
        for ax in axes:
            ax.axvline(goal, color=plots.QUIET, linestyle=":", linewidth=1.1, zorder=0)
        place = {
            "xytext": (3 * side, 0),
            "ha": "left" if side > 0 else "right",
            "textcoords": "offset points",
        }
        at = {"xycoords": ("data", "axes fraction"), "fontsize": 8.5, "color": plots.QUIET}
        axes[1].annotate(text, (goal, 0.02), **at, **place)
    axes[1].legend(loc="lower right", handlelength=3)
    plots.log_ticks(axes[1].xaxis, [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1])
    plots.percent(axes[1].xaxis)
    for ax, outcome in zip(axes, (chosen.correct, chosen.same), strict=True):
        ax.plot(
            chosen.mean_share(), rate(outcome).value, "o", markersize=12, fillstyle="none", color=plots.INK
        )
        plots.percent(ax.yaxis)
    axes[1].set_xlabel("evaluations, share of every class at every timestep")
    share = interval(np.concatenate(list(chosen.share.values())))
    plots.title(
        axes[0],
        f"The sequential test takes {share.percent()} of the evaluations",
        f"accuracy; ringed: α = {alpha:g}",
    )
    plots.title(
        axes[1], f"It decides as exhaustive scoring does for {rate(chosen.same).percent()} of the images"
    )
    return figure


def rules(lines: Mapping[str, Replay], whole: Outcomes) -> list[list[Any]]:
    """Return a row per rule: its name, mean share of evaluations, accuracy, difference to `whole`, same decisions."""
    rows = []
    for text, each in lines.items():
        pairs = zip(each.correct.values(), whole.values(), strict=True)
        gap = interval(np.concatenate([np.subtract(a, b, dtype=np.float64) for a, b in pairs]))
        share = f"{100 * each.mean_share():.1f} %"
        rows.append([text, share, rate(each.correct), gap.points(), f"{100 * rate(each.same).value:.1f} %"])
    return rows


def printed(claims: Mapping[str, Claim], rows: Mapping[str, str]) -> dict[str, float]:
    """Return row → the first published difference of a claim, as a share; rows: row → claim id."""
    return {row: float(claims[name].published[0]["value"]) / 100 for row, name in rows.items()}


def _bars(ax: Axes, x: np.ndarray, estimates: Sequence[Estimate], **style: Any) -> None:
    value, low, high, _ = np.array(estimates).T
    ax.errorbar(x, value, [value - low, high - value], **{"fmt": "o", "capsize": 0, **style})
