"""Figures and tables of the page on DataDream; what they show is computed by `zsclib.papers.datadream`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import HTML
from matplotlib.figure import Figure

from zsclib.extra import Extra, counts
from zsclib.papers.datadream.contrasts import SHOTS, ZERO_SHOT
from zsclib.study import plots
from zsclib.study.panels import level
from zsclib.study.stats import Estimate, interval
from zsclib.study.tables import table

ALONE, POOLED = "images alone", "with the shots"
NAMED = 10  # classes in a sentence


def adapting(history: pd.DataFrame, detail: str) -> Figure:
    """Draw the denoising loss on validation images against samples, a thin line per adapter and their mean.

    Args:
        history: of the adapted generators: name, samples, held_out. detail: what is adapted to how many images.
    """
    figure, ax = plt.subplots(figsize=(plots.WIDTH, 3.2))
    by_name = history.dropna(subset=["held_out"]).pivot(index="samples", columns="name", values="held_out")
    relative = 100 * (by_name / by_name.iloc[0] - 1)  # classes begin at losses of their own
    for name in relative.columns:
        ax.plot(relative.index, relative[name], color=plots.COLOURS["diffusion"], alpha=0.35, linewidth=1)
    mean = relative.mean(axis=1)
    ax.plot(mean.index, mean, color=plots.COLOURS["diffusion"], linewidth=2.5, marker="o")
    ax.axhline(0, color=plots.INK, linewidth=0.8, zorder=0)
    ax.set(xlabel="samples learnt from, with repeats", ylabel="validation loss, change in %")
    worse, end = int((relative.iloc[-1] > relative.min()).sum()), f"{mean.iloc[-1]:+.1f}".replace("-", "\N{MINUS SIGN}")
    plots.title(
        ax,
        f"Loss on validation images {end} %;\nof {len(relative.columns)} adapters {worse} end above their lowest point",
        detail,
    )
    return figure


def gains(table_of: pd.DataFrame, target: str) -> dict[str, dict[str, Estimate]]:
    """Return what each arm gains over the shots alone: "images alone" and "with the shots" -> arm -> estimate."""
    rows = table_of[table_of["target"] == target]
    base = _outcomes(rows[rows["arm"] == SHOTS])
    result: dict[str, dict[str, Estimate]] = {ALONE: {}, POOLED: {}}
    for (arm, with_shots), own in rows[rows["n"] > 0].groupby(["arm", "with_shots"], sort=False):
        result[POOLED if with_shots else ALONE][arm] = interval(_outcomes(own) - base)
    if (rows["arm"] == ZERO_SHOT).any():
        result[ALONE][ZERO_SHOT] = interval(_outcomes(rows[rows["arm"] == ZERO_SHOT]) - base)
    return result


def choices_table(table_of: pd.DataFrame) -> HTML:
    """Return a row per classifier of the first seed: what was chosen on validation images, and the test accuracy."""
    rows = []
    for (target, arm, with_shots), own in table_of.groupby(["target", "arm", "with_shots"], sort=False):
        first = own.iloc[0]
        how = "–" if first["n"] == 0 else "yes" if with_shots else "no"
        rate = None if arm == ZERO_SHOT else f"{first['learning_rate']:g}"
        step = None if arm == ZERO_SHOT else int(first["step"])
        rows.append([target, arm, how, rate, step, first["held_out"], level(_outcomes(own))])
    heads = ["target", "arm", "with the shots", "learning rate", "step", "validation", "test accuracy"]
    return table(rows, heads)


def costs_table(costs: pd.DataFrame, gain: Mapping[str, Mapping[str, Estimate]]) -> HTML:
    """Return a row per arm: what its images took, beside what they gained over the shots, alone and with them."""
    shown = costs.drop(columns="images", errors="ignore")  # the fewest of a class say more, and the page is narrow
    for way, by_arm in gain.items():
        shown[way] = [by_arm[arm].points() if arm in by_arm else None for arm in costs["arm"]]
    return table(shown)


def cut(extra: Mapping[str, Extra]) -> str:
    """Return in words to how many images of a class compared arms are cut, and which arm a class has fewest of.

    Args:
        extra: arm → its images, one number of them being asked for.
    """
    wanted = max(int(one.report["wanted"].iloc[0]) for one in extra.values())
    by_arm = {arm: counts(one.images) for arm, one in extra.items()}
    left = np.min(list(by_arm.values()), axis=0)
    classes = next(iter(extra.values())).images.classes
    if (left == wanted).all():
        return f"Every arm has {wanted} images of every class."
    short = [
        f"{name} {left[y]} ({min(by_arm, key=lambda arm: by_arm[arm][y])})"
        for y, name in enumerate(classes)
        if left[y] < wanted
    ]
    text = f"Of {len(short)} of {len(classes)} classes some arm has fewer than {wanted} images; all are cut to that: "
    text += f"{', '.join(short[:NAMED])}{', …' * (len(short) > NAMED)}."
    lost = int((left == 0).sum())
    return f"{text} Of {lost} none is left, so that only the shots can teach these." if lost else text


def audit_table(table_of: pd.DataFrame, target: str, arm: str, faults: Sequence[str]) -> HTML:
    """Return a row per fault of the released code: the accuracy it reports, and what it adds to the honest one."""
    rows = table_of[(table_of["target"] == target) & table_of["with_shots"]]
    honest = _outcomes(rows[rows["arm"] == arm])
    shown = [["none", level(honest), None]]
    for fault in faults:
        own = _outcomes(rows[rows["arm"] == f"{arm}, {fault}"])
        shown.append([fault, level(own), interval(own - honest).points()])
    return table(shown, ["fault", "accuracy reported", "added"])


def _outcomes(rows: pd.DataFrame) -> np.ndarray:
    """Return correctness, float64 (seeds, images)."""
    return np.stack(rows.sort_values("seed")["correct"].tolist()).astype(np.float64)
