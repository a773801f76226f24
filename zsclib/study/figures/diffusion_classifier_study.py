"""Figures and tables of what the study of the Diffusion Classifier has measured so far, image by image.

    outcomes = arms_of(recorded("diffusion_classifier"))    # arm -> set -> correctness (trainings, images)
    gains(outcomes)                                         # over each rival, a column per set
    rivals_curves(outcomes)                                 # rivals against how much they learn from
    profiles(outcomes)                                      # one timestep alone, set by set
    over_timesteps(outcomes)                                # accuracy against K, set by set
    shift_by_shift(outcomes)                                # the class-conditional model and its networks' line

A figure is drawn of what is there; where nothing is, None is returned.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import HTML
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from zsclib.papers.diffusion_classifier import arms
from zsclib.papers.diffusion_classifier.arms import CLIP_ENSEMBLE, CLIP_ONE, DIFFUSION, DIT
from zsclib.papers.diffusion_classifier.contrasts import (
    BESIDE,
    CONDITIONAL,
    DEPTH,
    FLAT,
    LABELS,
    SHIFTED,
    SIZES,
    UNSHIFTED,
    ZERO_SHOT,
    difference,
    effective,
    longest_of,
    outcomes_of,
    over_trainings,
    rises,
    unjudged,
)
from zsclib.papers.diffusion_classifier.experiments import PAPER
from zsclib.papers.diffusion_classifier.rivals import EQUAL, TWICE, shorter, trained, with_images, with_labels
from zsclib.papers.diffusion_classifier.study_plan import base_of
from zsclib.study import plots
from zsclib.study.claims import Claim
from zsclib.study.panels import columns, level
from zsclib.study.stats import Estimate, accuracy, interval
from zsclib.study.tables import table, verdicts
from zsclib.study.verdicts import Judgement, verdict_table

Outcomes = Mapping[str, Mapping[str, np.ndarray]]  # arm -> set -> correctness (trainings, images)
RIVALS = (
    *(PAPER, *map(with_images, SIZES), with_images(EQUAL)),
    *map(with_labels, LABELS),
    *(CLIP_ENSEMBLE, CLIP_ONE),
)
ROW, PANEL = 0.3, 2.5  # inches: height of a rival's row, and of a panel of curves
STYLES = ("-", "--", "-.", ":")


def arms_of(recorded: Outcomes) -> dict[str, dict[str, np.ndarray]]:
    """Return what the record holds with the trainings of an arm together."""
    return over_trainings(recorded)


def of_families(decided: Mapping[str, Judgement], families: Sequence[str]) -> HTML:
    """Return the verdicts of some families of claims, "DC-H8" say, as a page shows them."""
    own = {i: each for i, each in decided.items() if each.claim.family in families}
    parts = []
    for points in (True, False):
        some = {i: each for i, each in own.items() if (each.claim.unit == "points") == points}
        parts += [verdicts(verdict_table(some, points)).data] if some else []
    return HTML("".join(parts) or "<p>None of these claims has been decided yet.</p>")


def untestable(claims: Mapping[str, Claim], families: Sequence[str], outcomes: Outcomes) -> HTML:
    """Return the claims of some families that the study does not judge, why not, and what it measured all the same."""
    measured, rows = unjudged(outcomes), []
    for claim in claims.values():
        if claim.family in families and claim.not_testable:
            effects = [f"{base_of(name)} {interval(d).points()}" for name, d in measured.get(claim.id, {}).items()]
            rows.append([claim.id, claim.statement, claim.not_testable, "; ".join(effects) or None])
    return table(rows, ["id", "claim", "why not", "measured"])


# --- is it a good classifier? ---------------------------------------------------------------------


def gains(outcomes: Outcomes) -> Figure | None:
    """Draw what the diffusion classifier gains over each rival, in points: a row per rival, a column per set."""
    ours = outcomes.get(DIFFUSION, {})
    names = [name for name in ZERO_SHOT if name in ours]
    rows = [rival for rival in RIVALS if any(name in outcomes.get(rival, {}) for name in names)]
    if not rows:
        return None

    def gain(rival: str, name: str) -> Estimate | None:
        there = outcomes[rival].get(name)
        return None if there is None else interval(difference(ours[name], there))

    by_set = {name: {rival: [gain(rival, name)] for rival in rows} for name in names}
    heads = {name: f"{name.replace('-', chr(10), 1)}\n{100 * ours[name].mean():.0f} %" for name in names}
    return columns(by_set, heads, ROW, "points by which the diffusion classifier is ahead, with 95 % intervals")


def rivals_curves(outcomes: Outcomes) -> Figure | None:
    """Draw the accuracy of networks and heads against the images they learn from, and the diffusion classifier."""
    ours = outcomes.get(DIFFUSION, {})
    kinds = {
        "generated images": ({n: with_images(n) for n in SIZES}, "synthetic"),
        "labelled images": ({n: with_labels(n) for n in LABELS}, "features"),
    }
    learnt = {arm for by_size, _ in kinds.values() for arm in by_size.values()}
    names = [name for name in ours if any(name in outcomes.get(arm, {}) for arm in learnt) and name in ZERO_SHOT]

    def draw(ax: Axes, name: str) -> None:
        known = level(ours[name])
        ax.axhspan(known.low, known.high, color=plots.COLOURS["diffusion"], alpha=0.25, linewidth=0)
        ax.axhline(known.value, color=plots.COLOURS["diffusion"], linewidth=1)
        for by_size, role in kinds.values():
            points = {n: level(outcomes[arm][name]) for n, arm in by_size.items() if name in outcomes.get(arm, {})}
            if points:
                _curve(ax, points, role)
        plots.log_ticks(ax.xaxis, [100, 400, 1600, 6400])
        ax.set_xlabel("images learnt from")

    figure = _grid(names, draw)
    if figure is not None:
        lines = [
            plt.Line2D([], [], color=plots.COLOURS[role], marker="o", label=text)
            for text, role in ((DIFFUSION, "diffusion"), *((text, role) for text, (_, role) in kinds.items()))
        ]
        figure.legend(handles=lines, loc="outside lower center", ncols=3)
    return figure


def flatness(choices: Mapping[str, Mapping[str, Mapping]], outcomes: Outcomes) -> HTML:
    """Return what longer training adds to each rival, on held-out images and on test images, and what follows.

    Args:
        choices: set → what → what was noted of it. outcomes: as `arms_of` returns them.
    """
    rows = []
    for name, notes in choices.items():
        heads = notes.get("curves-of-heads", {})
        most = [n for n in LABELS if trained(with_labels(n) + TWICE, 1) in heads]
        of_heads = [(heads, with_labels(n), with_labels(n) + TWICE) for n in most]
        equal = (notes.get("curves", {}), with_images(EQUAL), with_images(EQUAL) + TWICE)
        beside = notes.get("curves-beside-the-dit", {})
        longest = [(beside, shorter(network, longest_of(beside, network)), network) for network in BESIDE]
        for curves, arm, longer in (equal, *of_heads, *longest):
            once, twice = (curves.get(trained(each, 1)) for each in (arm, longer))
            if once and twice:
                open_ = rises(curves, arm, longer)
                verdict = "not testable at this budget" if open_ else f"flat, within {100 * FLAT:g} points"
                held_out = f"{100 * max(once):.1f} → {100 * max(twice):.1f} %"
                tests = [outcomes.get(each, {}).get(name) for each in (arm, longer)]
                on_test = " → ".join("–" if each is None else f"{100 * each[0].mean():.1f}" for each in tests) + " %"
                rows.append([name, arm, longer.removeprefix(arm).lstrip(", "), held_out, on_test, verdict])
    return table(rows, ["set", "rival", "longer", "held out", "test", "its curve"])


def learning_curves(choices: Mapping[str, Mapping[str, Mapping]]) -> Figure | None:
    """Draw the accuracy of networks on held-out generated images as they learn, a panel per set: the paper's recipe,
    the library's own on as many images as there are evaluations, and the same for twice the steps."""
    styles = {PAPER: ":", with_images(EQUAL): "-", with_images(EQUAL) + TWICE: "--"}
    names = [name for name, notes in choices.items() if notes.get("curves")]

    def draw(ax: Axes, name: str) -> None:
        for arm, style in styles.items():
            curve = choices[name]["curves"].get(trained(arm, 1))
            if curve:
                done = np.arange(1, len(curve) + 1) / len(curve)
                line = {"color": plots.COLOURS["synthetic"], "linestyle": style, "marker": "o", "markersize": 3}
                ax.plot(done, curve, label=arm, **line)
        ax.set_xlabel("share of its own steps")

    figure = _grid(names, draw)
    if figure is not None:
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", handlelength=3)
    return figure


def learning_rates(choices: Mapping[str, Mapping[str, Mapping]]) -> HTML:
    """Return the accuracy on held-out images by which learning rates of networks beside the DiT are chosen, the best
    marked."""
    by_rate = choices.get(UNSHIFTED, {}).get("learning-rates-beside-the-dit", {})
    rates = list(dict.fromkeys(rate for of in by_rate.values() for rate in of))
    rows = []
    for network, of in by_rate.items():
        best = max(of, key=of.__getitem__)
        rows.append([network, *(f"{100 * of[r]:.1f} %" + " ✓" * (r == best) if r in of else None for r in rates)])
    return table(rows, ["network", *rates])


def prompts(choices: Mapping[str, Mapping[str, Mapping]]) -> HTML:
    """Return the accuracy of each template on validation images, for both models, the one chosen marked."""
    rows = []
    for name, notes in choices.items():
        chosen = notes.get("prompts", {})
        for template, ours in chosen.get("accuracy, diffusion", {}).items():
            theirs = chosen["accuracy, CLIP"][template]
            cells = [
                f"{100 * value:.0f} %" + " ✓" * (chosen[model] == template)
                for model, value in (("diffusion", ours), ("CLIP", theirs))
            ]
            rows.append([name, template, *cells])
    return table(rows, ["set", "template", "diffusion classifier", "CLIP"])


def equal_pairs(checkpoints: Sequence[Mapping[str, Any]], clips: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the accuracy of both models against the image-caption pairs they had seen, on the same validation images.

    Args:
        checkpoints: rows of data/records/scaling.json, of the diffusion classifier. clips: of clip_scaling.json.
    """
    figure, ax = plt.subplots(figsize=(plots.WIDTH, 3.8))
    for rows, who, role in ((checkpoints, "diffusion classifier", "diffusion"), (clips, "CLIP", "clip")):
        for name, style in zip(("objects", "digits"), STYLES, strict=False):
            points = {row["samples"] / 1000: accuracy(outcomes_of(row)[name]) for row in rows}
            if points:
                _curve(ax, points, role, f"{name}, {who}", style)
    plots.log_ticks(ax.xaxis, [100, 200, 500, 1000, 2000])
    ax.set(ylim=(0, 1.03), xlabel="image-caption pairs seen, thousands", xlim=(100, 2600))
    plots.percent(ax.yaxis)
    ax.legend(loc="lower right", handlelength=3)
    return figure


def second_phase(checkpoints: Sequence[Mapping[str, Any]]) -> HTML:
    """Return the accuracy of the text-to-image model at the end of each phase of its training, on validation images."""
    ends = {row["training"]: row for row in checkpoints}  # the last of each phase
    rows = []
    for training, row in ends.items():
        phase = "second: print bent and scanned" if training.endswith("second") else "first: print"
        of = outcomes_of(row)
        rows.append([phase, row["samples"], *(accuracy(of[name]) for name in ("digits", "objects"))])
    return table(rows, ["phase", "pairs", "digits", "objects"])


# --- under shift ----------------------------------------------------------------------------------


def shift_by_shift(outcomes: Outcomes) -> HTML:
    """Return, of each shift, accuracies and how much further than networks the DiT lies above the networks' line."""
    names = [name for name in CONDITIONAL if name in outcomes.get(DIT, {})]
    head, networks = with_labels(LABELS[-1]), [network for network in BESIDE if network in outcomes]
    rows = []
    for name in names:
        cells = [_mean(outcomes, arm, name) for arm in (DIT, *networks, DIFFUSION)]
        cells.append(_mean(outcomes, head, name) if name in SHIFTED else None)  # elsewhere it has seen the like
        gain = effective(outcomes, (name,)) if name != UNSHIFTED else None
        rows.append([name, *cells, Estimate(*gain).points() if gain else None])
    above = "DiT above the networks' line, further than networks"
    return table(rows, ["set", DIT, *networks, DIFFUSION, f"{head} without a shift", above])


def _mean(outcomes: Outcomes, arm: str, name: str) -> str | None:
    correct = outcomes.get(arm, {}).get(name)
    return None if correct is None else f"{100 * correct.mean():.1f} %"


# --- why does it work, and what does it cost? -----------------------------------------------------


def profiles(outcomes: Outcomes, published: Mapping[int, float] | None = None) -> Figure | None:
    """Draw accuracy from one timestep alone, a panel per set.

    Args:
        published: timestep → the paper's accuracy in percent (figure 3), a thin line.
    """
    by_t = {t: arm for arm in outcomes if (t := arms.timestep_of(arm)) is not None}
    names = list(dict.fromkeys(name for arm in by_t.values() for name in outcomes[arm]))

    def draw(ax: Axes, name: str) -> None:
        points = {t: level(outcomes[by_t[t]][name]) for t in sorted(by_t) if name in outcomes[by_t[t]]}
        _curve(ax, points, "diffusion")
        if published:
            line = {"color": plots.COLOURS["published"], "linewidth": 0.8}
            ax.plot(list(published), np.array(list(published.values())) / 100, **line)
        ax.set_xlabel("timestep t, used alone")

    return _grid(names, draw)


def over_timesteps(outcomes: Outcomes) -> Figure | None:
    """Draw accuracy against the number of evenly spread timesteps, a panel per set."""
    by_k = {k: arm for arm in outcomes if (k := arms.number_of(arm)) is not None}
    names = list(dict.fromkeys(name for arm in by_k.values() for name in outcomes[arm]))

    def draw(ax: Axes, name: str) -> None:
        points = {k: level(outcomes[by_k[k]][name]) for k in sorted(by_k) if name in outcomes[by_k[k]]}
        _curve(ax, points, "diffusion")
        for rule, cost, marker in (
            (arms.STAGES, arms.STAGES_COST, "D"), (arms.TEST, arms.TEST_COST, "s"),
        ):  # fmt: skip
            if name in outcomes.get(rule, {}) and name in outcomes.get(cost, {}):
                spent = outcomes[cost][name].mean() * max(points)
                style = {"color": plots.COLOURS["elimination"], "fillstyle": "none", "linestyle": "", "label": rule}
                ax.plot(spent, outcomes[rule][name].mean(), marker, **style)
        plots.log_ticks(ax.xaxis, [k for k in (1, 2, 4, 8, 16, 32, 64, 128) if k <= max(points)])
        ax.set_xlabel("timesteps per class, on average")

    figure = _grid(names, draw)
    if figure is not None and (handles := figure.axes[0].get_legend_handles_labels())[0]:
        figure.legend(*handles, loc="outside lower center", ncols=2)
    return figure


def _curve(ax: Axes, points: Mapping[float, Estimate], role: str, text: str | None = None, style: str = "-") -> None:
    value, low, high, _ = zip(*points.values(), strict=True)
    line = {"linestyle": style, "marker": "o", "markersize": 4}
    plots.curve_with_band(ax, list(points), value, low, high, text, role, **line)


def _grid(names: Sequence[str], draw: Callable[[Axes, str], None]) -> Figure | None:
    """Return a panel per set, two in a row; None without any."""
    if not names:
        return None
    down = -(-len(names) // 2)
    figure, axes = plt.subplots(down, 2, figsize=(plots.WIDTH, PANEL * down + 0.4), squeeze=False, sharey=True)
    for ax, name in zip(axes.flat, names, strict=False):
        draw(ax, name)
        ax.set_title(name.removesuffix(DEPTH), fontsize=10)
        ax.set_ylim(0, 1)
        plots.percent(ax.yaxis)
    for ax in axes.flat[len(names) :]:
        ax.axis("off")
    return figure
