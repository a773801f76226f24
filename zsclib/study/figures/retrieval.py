"""Figures and tables of the page on retrieval; what they show is computed by `zsclib.papers.retrieval`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import HTML
from matplotlib.figure import Figure

from zsclib.extra import Extra
from zsclib.generator_pool import ABSENT
from zsclib.images.image_set import ImageSet
from zsclib.papers.retrieval.arms import ARMS, costs
from zsclib.papers.retrieval.contrasts import (
    ORDER,
    PRIMARY,
    WITHOUT,
    Arms,
    At,
    Share,
    flatness,
    gap_share,
)
from zsclib.papers.retrieval.experiments import FULL
from zsclib.pools.captioned import CaptionedPool
from zsclib.pools.ladder import DROPS
from zsclib.study import plots
from zsclib.study.panels import ROLES, level
from zsclib.study.stats import Estimate, interval, wilson
from zsclib.study.tables import table

REAL = "real only"
LINES = {"twice the real": "--", "half and half": ":"}  # of curves whose colour another one has
Published = Mapping[str, Mapping[str, object]]  # arm -> value, error, method: of data/published/retrieval.yml


def ladder_table(extra: Extra) -> HTML:
    """Return a row per class of a retrieved set: what was wanted, what each rung dropped, what is left."""
    report = extra.report
    columns = ["class", "wanted", *(name for name in DROPS if name in report), "delivered", "mean similarity"]
    return table(report[columns])


def costs_table(extra: Mapping[str, Extra]) -> HTML:
    """Return a row per arm: its number in the paper's order, images, and what they took."""
    frame = costs(extra)
    per_image = frame["denoiser evaluations"] / frame["images"].clip(lower=1)
    return table(frame.assign(**{"evaluations an image": per_image}))


def learning(history: pd.DataFrame, detail: str) -> Figure:
    """Draw the held-out denoising loss against samples, a curve per way to learn.

    Args:
        history: from `one_class.tune_one_class`. detail: what is learnt of how many images.
    """
    figure, ax = plt.subplots(figsize=(plots.WIDTH, 3.2))
    changes = []
    for (way, rows), colour in zip(history.groupby("way", sort=False), ("synthetic", "diffusion"), strict=False):
        losses = rows["held_out"].to_numpy()
        plots.curve_with_band(ax, rows["samples"], losses, label=way, role=colour, marker="o")
        changes.append(f"{way} {100 * (losses[-1] / losses[0] - 1):+.1f} %".replace("-", "\N{MINUS SIGN}"))
    samples = int(history["samples"].max())
    ax.set(xlabel="samples learnt from, with repeats", ylabel="held-out loss", xlim=(None, 1.45 * samples))
    ax.set_xticks(np.linspace(0, samples, 5).round())
    plots.title(ax, f"Held-out loss after {samples:,} samples:\n{', '.join(changes)}", detail)
    plots.label_curves(ax)
    return figure


def lengths(outcomes: pd.DataFrame, steps: Mapping[int, int], arms: Sequence[str], at: At = PRIMARY) -> Figure:
    """Draw accuracy against training length, a panel per target, and say whether the real-only curve, with its band,
    is flat.

    Args:
        outcomes: from `experiments.run`. steps: training length -> steps of the optimiser. arms: whose curves.
        at: at which N and counts.
    """
    targets = list(outcomes["target"].unique())
    figure, axes = plt.subplots(1, len(targets), figsize=(plots.WIDTH, 3.6), squeeze=False, sharey=True)
    last = tuple(steps)[-2:]
    for ax, target in zip(axes[0], targets, strict=True):
        for arm in arms:
            each = [Arms(outcomes, target, at._replace(length=length)) for length in steps]
            if all(arm in one for one in each):
                value, low, high, _ = zip(*(level(one[arm]) for one in each), strict=True)
                bounds = (low, high) if arm == REAL else (None, None)
                style = {"linestyle": LINES.get(arm, "-"), "marker": "o", "markersize": 4.5}
                plots.curve_with_band(ax, list(steps.values()), value, *bounds, arm, _role(arm), **style)
        heading = target
        if len(last) == 2:
            gained = interval(flatness(outcomes, target, lengths=last))
            heading += f"\n{REAL}, {steps[last[0]]:,} to {steps[last[1]]:,} steps:\n{gained.points()}"
        ax.set_title(heading, fontsize=9)
        plots.log_ticks(ax.xaxis, list(steps.values()))
        plots.percent(ax.yaxis)
        ax.set_xlabel("steps")
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3, handlelength=2.4)
    return figure


def gains(outcomes: pd.DataFrame, at: At = PRIMARY) -> dict[str, dict[str, Estimate]]:
    """Return what every arm gains over D alone: target -> arm -> estimate; planted pools are left out."""
    result: dict[str, dict[str, Estimate]] = {}
    for target in outcomes["target"].unique():
        arms = Arms(outcomes, target, at)
        names = [name for name in ARMS if name in arms and name != REAL and not name.startswith("planted")]
        result[target] = {name: interval(arms[name] - arms[REAL]) for name in names}
    return result


def published_gains(published: Published, targets: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return what the paper's arms gain over D alone, as shares, for targets whose classes the pool knows."""
    real = published[REAL]["value"]
    own = {arm: (row["value"] - real) / 100 for arm, row in published.items() if arm != REAL}
    return {target: own for target in targets if target not in ABSENT}


def counts_table(outcomes: pd.DataFrame, target: str, at: At = PRIMARY) -> HTML:
    """Return a row per arm: extra images and accuracy where all arms are cut to equal counts, and at an arm's own."""
    equal, full = Arms(outcomes, target, at), Arms(outcomes, target, at._replace(counts=FULL))
    rows = outcomes[(outcomes.target == target) & (outcomes.length == at.length)]
    images = rows.groupby(["arm", "times", "counts"])["images"].mean()
    shown = []
    for arm in dict.fromkeys(rows["arm"]):
        own = [images.get((arm, at.times, counts)) for counts in (at.counts, FULL)]
        if arm in WITHOUT:
            own = [0, 0]
        elif arm == ORDER[-1]:
            own = [images.get((arm, 1, FULL))] * 2
        levels = [level(one[arm]) if arm in one else None for one in (equal, full)]
        if not any(levels):
            continue
        shown.append([arm, _whole(own[0]), levels[0], _whole(own[1]), levels[1]])
    heads = ["arm", "extra images, equal", "accuracy, equal", "extra images, own", "accuracy, own"]
    return table(shown, heads)


def published_table(outcomes: pd.DataFrame, published: Published, at: At = PRIMARY) -> HTML:
    """Return the paper's six rows beside ours: accuracy, gain over D alone, and the share of the gap to twice D.

    The paper's shares are our arithmetic. A share stands only where the interval of the gap lies above zero.
    """
    real, twice = (published[name]["value"] for name in (REAL, ORDER[-1]))
    targets = list(outcomes["target"].unique())
    rows = []
    for arm in sorted(published, key=ORDER.index):
        row, gain = published[arm], published[arm]["value"] - real
        theirs = f"{row['value']} ± {row['error']}"
        if arm != REAL:
            share = f"{100 * gain / (twice - real):.0f} % of the gap".replace("-", "\N{MINUS SIGN}")
            theirs += f"<br>{_sign(gain)} points<br>{share}"
        cells = [_ours(outcomes, target, arm, at) for target in targets]
        rows.append([f"{arm}<br>({row['method']})", theirs, *cells])
    return with_breaks(rows, ["arm (in the paper)", "ImageNet, 10 %: the paper", *targets])


def detectors_table(frame: pd.DataFrame) -> HTML:
    """Return a row per detector of near-copies: recall and false alarms with Wilson's intervals."""
    if frame.empty:
        return HTML("<p>Nobody knows which images of this pool repeat one another.</p>")
    rows = [
        [name, wilson(round(recall * pairs), pairs), wilson(round(alarms * others), others)]
        for name, recall, alarms, pairs, others in frame.itertuples(index=False, name=None)
    ]
    pairs, others = (int(frame[name].iloc[0]) for name in ("pairs", "others"))
    return table(rows, ["detector", f"finds, of {pairs} planted copies", f"false alarms, of {others} others"])


def copies_table(counted: pd.DataFrame, by: str = "guidance") -> HTML:
    """Return a row per group of generated images: how many are near-copies of pool images.

    Args:
        counted: from `audit.share_of_copies`. by: the column that makes the groups.
    """
    rows = [
        [value, n, wilson(int(copies), int(n)), similarity]
        for value, n, copies, similarity in zip(
            *(counted[name] for name in (by, "images", "copies", "similarity")), strict=True
        )
    ]
    return table(rows, [by, "generated images", "near-copies in the pool", "mean cosine with the nearest"])


def nearest_sheet(near: pd.DataFrame, images: ImageSet, pool: CaptionedPool, columns: int = 10) -> Figure:
    """Show the generated images that are most like an image of the pool, and that image below each.

    Args:
        near: rows of `audit.memorised`, of these images. images: generated. pool: as `audit.memorised` searched it.
    """
    size = images.images.shape[1]
    first = np.argsort(-near["alignment"].to_numpy(), kind="stable")[:columns]
    others = pool.read(near["row"].to_numpy()[first], size)
    titles = [f"{near['alignment'].iloc[i]:.2f}" for i in first]
    both = np.concatenate([images.images[first], np.stack(others)])
    rows = ["generated", "nearest in pool"]
    return plots.image_grid(both, [""] * len(first) + titles, columns=len(first), row_titles=rows)


def planted_table(copies: pd.DataFrame, outcomes: pd.DataFrame, target: str, at: At = PRIMARY) -> HTML:
    """Return a row per planted pool: what the ladder dropped, what came through, and, of those that networks were
    trained with, what it changed.

    Args:
        copies: from `audit.planted_copies`. outcomes: from `experiments.run`.
    """
    arms, rows = Arms(outcomes, target, at), []
    # two names of one training
    clean = next((name for name in ("planted 0 %, ladder", "retrieved by text") if name in arms), None)
    for arm, dropped, n, own in copies.itertuples(index=False, name=None):
        trained = arm in arms
        change = interval(arms[arm] - arms[clean]).points() if trained and clean not in (None, arm) else None
        rows.append([arm.removeprefix("planted "), dropped, n, own, level(arms[arm]) if trained else None, change])
    heads = ["copies planted", "dropped by the ladder", "retrieved", "copies among them", "accuracy"]
    return table(rows, [*heads, "against none, ladder"])


def _ours(outcomes: pd.DataFrame, target: str, arm: str, at: At) -> str | None:
    arms = Arms(outcomes, target, at)
    if arm not in arms:
        return None
    shown = [level(arms[arm]).percent()]
    if arm != REAL:
        shown.append(interval(arms[arm] - arms[REAL]).points())
    if arm not in (REAL, ORDER[-1]) and ORDER[-1] in arms:
        shown.append(share_of_gap(gap_share(outcomes, target, arm, interval, at)))
    return "<br>".join(shown)


def share_of_gap(share: Share | None) -> str:
    """Return a share of the gap with its interval, in words."""
    if share is None:
        return "no share: the gap’s interval holds 0"
    value, low, high = (f"{100 * x:.0f}" if np.isfinite(x) else f"{np.sign(x):+.0f}∞".replace("1", "") for x in share)
    return f"{value} % ({low} to {high}) of the gap".replace("-", "\N{MINUS SIGN}")


def with_breaks(rows: Sequence[Sequence[str | None]], heads: Sequence[str]) -> HTML:
    """Return a table of text, whose cells have lines of their own where they say `<br>`."""
    mark = "\N{SYMBOL FOR NEWLINE}"
    marked = [[cell if cell is None else cell.replace("<br>", mark) for cell in row] for row in rows]
    return HTML(table(marked, heads).data.replace(mark, "<br>"))


def _role(arm: str) -> str:
    return ROLES.get(arm, "synthetic")


def _sign(points: float) -> str:
    return f"{points:+.1f}".replace("-", "\N{MINUS SIGN}")


def _whole(number: float | None) -> int | None:
    return None if number is None else round(number)
