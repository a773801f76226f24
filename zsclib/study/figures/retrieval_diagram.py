"""Figures, tables and advice from the retrieval chapter's diagram, which `zsc diagram` measures.

    record = read_record()
    phase_diagram(record)                                   # who won where, and the rule
    advice(record, similarity=0.4, shots=8).sentence        # what to take, and how often that was wrong
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import HTML
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter, PercentFormatter

from zsclib.generator_pool import ABSENT
from zsclib.papers.retrieval.design import FIT, HELD_OUT, OTHER
from zsclib.papers.retrieval.diagram import SOURCES, Outcome, Record
from zsclib.papers.retrieval.rule import LEAST, Rule, evaluate, fit, winner
from zsclib.papers.retrieval.similarity import POOL
from zsclib.study import plots
from zsclib.study.stats import Estimate, accuracy, interval
from zsclib.study.tables import table

COLOURS = {
    "retrieval": plots.COLOURS["retrieved"],
    "prompting": plots.COLOURS["synthetic"],
    "personalised": plots.COLOURS["diffusion"],
    "nothing": plots.COLOURS["real"],
}
WORDS = {
    "retrieval": "retrieve images from the pool",
    "prompting": "generate images from prompt templates",
    "personalised": "generate images with a conditioning learnt on the shots",
    "nothing": "add no images",
}
TIE = "#B5B5B5"
DIALS = {"size": "share of the pool", "frequency": "share of its classes", "shift": "shift of the target"}


@dataclass(frozen=True, kw_only=True)
class Advice:
    """What the rule says of one pool and target.

    Attributes:
        source: a key of `SOURCES`. rule: the rule in words.
        error: share of held-out points where the rule's source is clearly worse than the best one.
        majority, majority_error: the source that wins most often, and its share of such points.
        gain: accuracy with the rule's source minus that with the majority's, mean over held-out points.
        decided: how many of the held-out points have a winner.
        inside: whether similarity and shots lie within what was measured.
        sentence: all this in words.
    """

    source: str
    rule: str
    error: Estimate
    majority: str
    majority_error: Estimate
    gain: Estimate
    decided: int
    inside: bool
    sentence: str


def fitted_rule(record: Record) -> Rule | None:
    """Return the rule fitted on the record's points for that; None where too few are measured, or none is held out."""
    return fit(record.of(FIT)) if len(record.of(FIT)) >= 2 * LEAST and len(record.of(HELD_OUT)) > 1 else None


def advice(record: Record, similarity: float, shots: int) -> Advice:
    """Return which source the rule would take, with the rule's error on the held-out third.

    Args:
        record: from `zsclib.papers.retrieval.diagram.read_record`.
        similarity: of the pool to the target, from `zsclib.papers.retrieval.similarity.source_similarity`.
        shots: labelled real images of a class.

    Raises:
        ValueError: too few points are measured.
    """
    rule = fitted_rule(record)
    if rule is None:
        raise ValueError(f"advice: {len(record.outcomes)} points are measured, too few for a rule; run  zsc diagram")
    tested = evaluate(rule, record.of(FIT), record.of(HELD_OUT), interval)
    source, n = rule.choice(similarity, shots), len(tested.wrong)
    error, majority_error, gain = accuracy(tested.wrong), accuracy(tested.majority_wrong), interval(tested.gain)
    ends = [(one.measured[POOL], one.point.shots) for one in (*record.of(FIT), *record.of(HELD_OUT))]
    (low, few), (high, many) = np.min(ends, 0), np.max(ends, 0)
    inside = bool(low <= similarity <= high and few <= shots <= many)
    words = [
        f"At a pool similarity of {_number(similarity)} and {shots} shots the rule says: {WORDS[source]}.",
        f"On {n} points that it was not fitted on, {int(tested.decided.sum())} of which have a winner, it names a "
        f"clearly worse source in {error.percent(0)}; always “{WORDS[tested.majority]}” does in "
        f"{majority_error.percent(0)}. Accuracy differs between the two by {gain.points()}.",
    ]
    if not inside:
        words.append(
            f"This lies outside what was measured, similarities from {_number(low)} to {_number(high)} and {few:.0f} "
            f"to {many:.0f} shots: the error does not hold for it."
        )
    return Advice(
        source=source,
        rule=rule_text(rule),
        error=error,
        majority=tested.majority,
        majority_error=majority_error,
        gain=gain,
        decided=int(tested.decided.sum()),
        inside=inside,
        sentence=" ".join(words),
    )


def advised(record: Record, similarity: float, shots: int) -> str:
    """Return the sentence of `advice`, or that there is no rule yet."""
    if fitted_rule(record) is None:
        return f"Of the diagram {len(record.outcomes)} of {len(record.points)} points are measured: no rule, no advice."
    return advice(record, similarity, shots).sentence


def rule_text(rule: Rule) -> str:
    """Return a rule in words."""
    near, far = (_side(side, rule.shots) for side in (rule.near, rule.far))
    if math.isinf(rule.similarity) or near == far:
        return f"Always {near}."
    return f"Pool similarity of {_number(rule.similarity)} or more: {near}. Below: {far}."


def _side(side: tuple[str, str], shots: float) -> str:
    few, many = (WORDS[source] for source in side)
    return many if math.isinf(shots) or few == many else f"with fewer than {math.ceil(shots)} shots {few}, else {many}"


def report(record: Record) -> str:
    """Return what a terminal shows of a record: how far it is, the rule, its error, who has won."""
    measured, lines = len(record.outcomes), []
    hours = sum(one.seconds for one in record.outcomes) / 3600
    lines.append(f"{measured} of {len(record.points)} points measured, {hours:.2f} hours of their workers")
    if not measured:
        return lines[0]
    winners = [winner(one, interval) for one in record.outcomes if one.point.role != OTHER]
    lines.append(", ".join(f"{source} wins {winners.count(source)}" for source in SOURCES))
    lines.append(f"no clear winner: {winners.count(None)}")
    if fitted_rule(record) is not None:
        one = advice(record, 0.0, record.outcomes[0].point.shots)
        lines += [
            one.rule,
            f"held out: wrong in {one.error.percent(0)}; always {one.majority}: {one.majority_error.percent(0)}",
            f"accuracy over always {one.majority}: {one.gain.points()}",
        ]
    return "\n".join(lines)


def phase_diagram(record: Record) -> Figure:
    """Show the winner of every point over pool similarity and shots, and where the rule changes its mind.

    A point without a winner is grey, one whose classes the pool lacks a square; one that the rule was not fitted on has
    a ring.
    """
    figure, axes = plt.subplots(figsize=(plots.WIDTH, 4.4))
    own = [one for one in record.outcomes if one.point.role != OTHER]
    levels = sorted({one.point.shots for one in own})
    for one in own:
        x, level = one.measured[POOL], levels.index(one.point.shots)
        y = level + 0.5 * ((one.point.number * 0.618) % 1 - 0.5)  # beside one another
        held_out = one.point.role == HELD_OUT
        colour = COLOURS.get(winner(one, interval), TIE)
        marker, size = ("s", 7) if _classes(one) in ABSENT else ("o", 8)
        axes.plot(x, y, marker, color=colour, markersize=size, zorder=3)
        if held_out:
            axes.plot(x, y, "o", color=plots.INK, fillstyle="none", markersize=13.5, markeredgewidth=1, zorder=3)
    axes.set_yticks(range(len(levels)), [str(level) for level in levels])
    axes.set(xlabel="pool similarity (0: images of the pool at random, 1: the real shots)", ylabel="shots per class")
    axes.set_ylim(-0.5, len(levels) - 0.5)
    rule = fitted_rule(record)
    if rule is not None:
        _thresholds(axes, rule, levels)
    marks = [Line2D([], [], color=c, marker="o", ls="", markersize=8, label=name) for name, c in COLOURS.items()]
    marks.append(Line2D([], [], color=TIE, marker="o", ls="", markersize=8, label="no clear winner"))
    square = {"color": plots.INK, "fillstyle": "none", "ls": "", "marker": "s", "markersize": 7}
    marks.append(Line2D([], [], label="not in the pool", **square))
    figure.legend(handles=marks, loc="outside lower center", ncols=3, handletextpad=0.2, columnspacing=2)
    plots.title(
        axes,
        "Which source of images is best, by what is known before any training",
        rule_text(rule) if rule is not None else "too few points are measured for a rule",
    )
    return figure


def _thresholds(axes: Axes, rule: Rule, levels: list[int]) -> None:
    line = {"color": plots.INK, "linestyle": (0, (4, 3)), "linewidth": 1.2, "zorder": 1}
    if not math.isinf(rule.similarity):
        axes.axvline(rule.similarity, **line)
    if not math.isinf(rule.shots):
        axes.axhline(sum(level < rule.shots for level in levels) - 0.5, **line)


def gains_by_dial(record: Record, source: str = "retrieval", rival: str = "prompting") -> Figure:
    """Show the difference of two sources' accuracies over each dial of the pool, and over the target's shift."""
    own = [one for one in record.outcomes if one.point.role != OTHER]
    apart = {"wspace": 0.06}  # "100 %" is as wide as a usual gap
    figure, axes = plt.subplots(1, len(DIALS), figsize=(plots.WIDTH, 3.2), sharey=True, gridspec_kw=apart)
    for ax, (dial, label) in zip(axes, DIALS.items(), strict=True):
        for one in own:
            value, low, high, _ = _difference(one, source, rival)
            colour = TIE if low <= 0 <= high else COLOURS[source if low > 0 else rival]
            x = float(one.point.target.partition(":")[2]) if dial == "shift" else getattr(one.point, dial)
            ax.plot([x, x], [low, high], color=colour, linewidth=1.2)
            ax.plot(x, value, "o", color=colour, markersize=4.5)
        ax.axhline(0, color=plots.INK, linewidth=0.8)
        ax.set(xlabel=label)
        if dial != "shift":
            ax.set_xscale("log")
            ax.xaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
            ax.xaxis.set_minor_formatter(NullFormatter())
    plots.percent(axes[0].yaxis)
    axes[0].set_ylabel(f"{source} − {rival}, accuracy")
    return figure


def rule_table(record: Record) -> HTML:
    """Return a row per rule, tried on the held-out points: the fitted one, and each source taken always.

    The last column is what following it costs, against the source that is best at each point, looked up afterwards.
    """
    rule, fitted, held_out = fitted_rule(record), record.of(FIT), record.of(HELD_OUT)
    if rule is None:
        return HTML("<p>Too few points are measured for a rule.</p>")
    always, rows = {f"always: {s}": Rule(far=(s, s), near=(s, s)) for s in SOURCES}, []
    best = [max(o.accuracy(source) for source in SOURCES) for o in held_out]
    for name, one in {"the rule": rule, **always}.items():
        tested = evaluate(one, fitted, held_out, interval)
        name = f"{name} (wins most often)" if name == f"always: {tested.majority}" else name
        chosen = [o.accuracy(one.choice(o.measured[POOL], o.point.shots)) for o in held_out]
        decided = accuracy(tested.wrong[tested.decided]) if tested.decided.any() else None
        numbers = np.mean(chosen), tested.gain.mean(), np.mean(best) - np.mean(chosen)
        percent = [f"{100 * number:.1f}".replace("-", "−") for number in numbers]
        rows.append([name, accuracy(tested.wrong), decided, *percent])
    heads = ["choice", "wrong", "wrong where one wins", "mean accuracy, %", "over the majority, points"]
    heads += ["below the best at each point, points"]
    return table(rows, heads)


def generators_table(record: Record, source: str = "prompting", rival: str = "nothing") -> HTML:
    """Return a row per generator: what its images gain over none at the points that all of them share."""
    by_generator: dict[str, dict[int, Outcome]] = {}
    for one in record.outcomes:
        by_generator.setdefault(one.point.generator, {})[one.point.like] = one
    shared = set.intersection(*map(set, by_generator.values())) if by_generator else set()
    rows = []
    for folder, outcomes in by_generator.items():
        gains = [_difference(outcomes[like], source, rival) for like in sorted(shared)]
        cells = [gain.points() for gain in gains]
        rows.append([_name(folder), len(gains), "; ".join(cells) or None])
    return table(rows, ["generator", "points", f"{source} over {rival}, point by point"])


def _classes(outcome: Outcome) -> str:
    """Return the target's name without how far it is shifted."""
    return outcome.point.target.partition(":")[0]


def _difference(outcome: Outcome, source: str, rival: str) -> Estimate:
    return interval(outcome.correct[source].astype(float) - outcome.correct[rival].astype(float))


def _name(folder: str) -> str:
    return folder.removeprefix("data/models/").removeprefix("results/generators/").removesuffix("/pocket-sd")


def _number(x: float) -> str:
    return f"{x:.2f}".replace("-", "\N{MINUS SIGN}")
