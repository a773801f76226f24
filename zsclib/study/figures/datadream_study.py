"""Figures and tables of what the study of DataDream has measured so far, image by image.

    outcomes = recorded("datadream")                        # arm -> target -> correctness (seeds, images)
    study_gains(outcomes)                                   # what each arm adds to the shots alone
    over_shots(outcomes, with_shots=False)                  # accuracy against K
    over_images(outcomes)                                   # accuracy against N
    changes_table(outcomes)                                 # steps, rank, guidance, text encoder, weight
    classes(outcomes, recorded_choices("datadream"))        # H9, class by class

An arm is called as `zsclib.papers.datadream.experiments.name_of` says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import product
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import HTML
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from zsclib.images.image_set import ImageSet
from zsclib.own_sets import Own, short_name
from zsclib.papers.datadream.classifiers import SCRATCH, Cell
from zsclib.papers.datadream.contrasts import (
    ALL_CLASSES,
    BOTH,
    BY_CLASS,
    DISEF,
    GUIDED,
    PROMPTED,
    RETRIEVED,
    SHOTS,
    TWICE,
    VARIANTS,
    ZERO_SHOT,
    changed,
)
from zsclib.papers.datadream.experiments import CHANGES, OF_CLASSIFIER, cell_of, name_of
from zsclib.papers.datadream.gap import class_accuracy
from zsclib.papers.datadream.outcomes import alignment_of, narrowing_of
from zsclib.papers.datadream.training_sets import Setting
from zsclib.study import plots
from zsclib.study.panels import ROLES, columns, level
from zsclib.study.records import image_keys
from zsclib.study.stats import Estimate, effect, interval, mean_effect
from zsclib.study.tables import table

ARMS = (PROMPTED, GUIDED, DISEF, BY_CLASS, ALL_CLASSES, RETRIEVED, BOTH)
ROW, PANEL = 0.3, 2.3  # inches: height of an arm, and of a panel of curves
OF_NO_SHOTS = (PROMPTED, RETRIEVED)  # images that are the same at every K, and so is what learns from them alone
LINES = {PROMPTED: (0, (4, 2)), ALL_CLASSES: (0, (1, 1.5))}
Outcomes = Mapping[str, Mapping[str, np.ndarray]]  # arm -> target -> correctness (seeds, images)


def targets_of(outcomes: Outcomes, shots: int = 16) -> list[str]:
    """Return the targets of which the shots alone have been measured at K = `shots`, in the order of the record."""
    return list(outcomes.get(name_of(Cell("", SHOTS, shots=shots, n=0)), {}))


def study_gains(outcomes: Outcomes, shots: int = 16, n: int = 64) -> Figure:
    """Draw what each arm gains over the shots alone, in points: a row per arm, a column per target.

    A filled dot is a classifier that learnt from the arm's images alone, an open one that of both.
    """
    base = outcomes.get(name_of(Cell("", SHOTS, shots=shots, n=0)), {})
    places = {
        arm: [name_of(Cell("", arm, shots=shots, n=n, with_shots=both)) for both in (False, True)] for arm in ARMS
    } | {ZERO_SHOT: [name_of(Cell("", ZERO_SHOT, shots=0, n=0))]}

    def gain(name: str, target: str) -> Estimate | None:
        own = outcomes.get(name, {})
        return interval(own[target] - base[target]) if target in own else None

    rows = {arm: names for arm, names in places.items() if any({*outcomes.get(name, ())} & {*base} for name in names)}
    gains = {target: {arm: [gain(name, target) for name in names] for arm, names in rows.items()} for target in base}
    heads = {  # narrow ones, for five targets
        target: f"{fill(target, 12)}\n{SHOTS}\n{100 * correct.mean():.0f} %" for target, correct in base.items()
    }
    return columns(gains, heads, ROW, f"points over {SHOTS}, with 95 % intervals\n● images alone   ○ with the shots")


def live_clip(
    table: pd.DataFrame, test: ImageSet, setting: Setting, plan: Mapping
) -> dict[tuple[str, str, int], tuple[np.ndarray, np.ndarray]]:
    """Return zero-shot CLIP of a page's own run as a job of the study, for `zsclib.study.tables.study` to compare.

    Args:
        table: of the page's own run. test: its test images. setting: of that run. plan: of the study.

    Returns:
        Job → keys of the images and whether CLIP is correct on each; nothing where CLIP, split, size or words are
        others than the study's.
    """
    name, seed = name_of(Cell("", ZERO_SHOT, shots=0, n=0)), plan["seeds"][0]
    rows = table[(table["arm"] == ZERO_SHOT) & (table["seed"] == seed)]
    settings, same = plan["settings"], setting.clip in plan["models"] and setting.own == Own()
    jobs = {}
    for target, correct in zip(rows["target"], rows["correct"], strict=True):
        alike = target not in settings.get("splits", {}) and setting.size == settings["size"]
        if same and alike and target in plan["sets"] and len(test) <= plan["sets"][target]:
            jobs[name, target, seed] = image_keys(test.images, test.labels), correct
    return jobs


def study_levels(outcomes: Outcomes, shots: int = 16, n: int = 64) -> dict[str, Estimate]:
    """Return the accuracy of each arm on each target, by names for a record: study_digits_prompted_with_shots."""
    cells = [Cell("", SHOTS, shots=shots, n=0), Cell("", ZERO_SHOT, shots=0, n=0)]
    cells += [Cell("", arm, shots=shots, n=n, with_shots=both) for arm in ARMS for both in (False, True)]
    return {
        f"study_{short_name(target)}_{short_name(cell.arm)}{'_with_shots' * cell.with_shots}": level(correct)
        for cell in cells
        for target, correct in outcomes.get(name_of(cell), {}).items()
    }


def mean_gains(outcomes: Outcomes, n: int = 64) -> dict[str, tuple[str | None, str | None]]:
    """Return "arm; K shots" → what it gains over as many shots alone, as images alone and with the shots, in points.

    Each is the equally weighted mean over the targets where both were measured; None where there is none.
    """

    def mean(cell: Cell) -> str | None:
        own, base = (outcomes.get(name_of(one), {}) for one in (cell, Cell("", SHOTS, shots=cell.shots, n=0)))
        effects = [effect(own[target] - base[target]) for target in own if target in base]
        return mean_effect(effects).interval().points() if effects else None

    cells = [cell_of(name, "", 0) for name in outcomes]
    places = dict.fromkeys(
        (cell.arm, cell.shots) for cell in cells if cell.n == n and cell.classifier == "CLIP"
    )
    return {
        f"{arm}; {k} shots": tuple(
            mean(Cell("", arm, shots=k, n=n, with_shots=both)) for both in (False, True)
        )
        for arm, k in places
    }


def published_table(outcomes: Outcomes, published: Mapping) -> HTML:
    """Return the published differences, each beside ours on the target that plays its set's role, in points.

    Args:
        published: `data/published/datadream.yml`, all of whose numbers are second-hand.
    """
    roles = {name: target for target, names in published["roles"].items() for name in names}
    compared = {  # heading -> rows of the file, arm and rival in it; the same two cells here
        "16 shots, all classes, with the shots, over the shots alone": (
            published["with_16_shots"]["rows"],
            (ALL_CLASSES, SHOTS),
            (Cell("", ALL_CLASSES, with_shots=True), Cell("", SHOTS, n=0)),
        ),
        "4 shots, by class, images alone, over real guidance": (
            published["with_4_shots"]["rows"],
            (BY_CLASS, GUIDED),
            (Cell("", BY_CLASS, shots=4), Cell("", GUIDED, shots=4)),
        ),
    }
    rows = []
    for what, (theirs, (arm, rival), cells) in compared.items():
        own, other = (outcomes.get(name_of(cell), {}) for cell in cells)
        for name in (name for name in theirs[arm] if name != "mean"):
            higher, lower, target = theirs[arm][name], theirs[rival][name], roles.get(name)
            gain = f"{higher:.1f} − {lower:.1f} = {higher - lower:+.1f}".replace("-", "\N{MINUS SIGN}")
            ours = (
                interval(own[target] - other[target]).points() if target in own and target in other else None
            )
            rows.append([what, name, gain, target, ours])
    return table(rows, ["compared", "published set", "second-hand", "target in its role", "here"])


def over_shots(outcomes: Outcomes, with_shots: bool, n: int = 64) -> Figure | None:
    """Draw accuracy against the number of shots, a panel per target, with the shots or without; bands are intervals.

    Images that take no shots were measured alone at one K, and stand there at every other. Where adapters by class were
    not measured at several K, those of all classes are shown. None where nothing was.
    """
    at = {"n": n, "with_shots": with_shots}
    adapted = {
        target: next(
            (arm for arm in VARIANTS if len(_series(outcomes, target, arm, "shots", **at)) > 1), None
        )
        for target in targets_of(outcomes)
    }
    if not (targets := [target for target, arm in adapted.items() if arm]):
        return None
    figure, axes = _panels(targets)
    for ax, target in zip(axes, targets, strict=True):
        every = _series(outcomes, target, adapted[target], "shots", **at)
        for arm in (SHOTS, PROMPTED, adapted[target], RETRIEVED):
            series = _series(outcomes, target, arm, "shots", **({"n": 0} if arm == SHOTS else at))
            if arm in OF_NO_SHOTS and not with_shots:
                series = {k: own for own in series.values() for k in every}
            if series:
                _curve(ax, series, arm)
        plots.log_ticks(ax.xaxis, (1, 2, 4, 8, 16))
        plots.percent(ax.yaxis)
        ax.set_title(target, fontsize=10)
    _legend(figure, axes, "shots of a class")
    return figure


def over_images(outcomes: Outcomes, shots: int = 16) -> Figure | None:
    """Draw accuracy against the number of images of a class, at equal steps: images of adapted generators, alone and
    with the shots. None where it was measured at one number only."""
    ways = {"images alone": False, "with the shots": True}
    targets = [t for t in targets_of(outcomes, shots) if len(_series(outcomes, t, BY_CLASS, "n", shots=shots)) > 1]
    if not targets:
        return None
    figure, axes = _panels(targets)
    for ax, target in zip(axes, targets, strict=True):
        for label, both in ways.items():
            points = _series(outcomes, target, BY_CLASS, "n", shots=shots, with_shots=both)
            _curve(ax, points, label, line="-" if both else (0, (4, 2)))
        plots.log_ticks(ax.xaxis, sorted(_series(outcomes, target, BY_CLASS, "n", shots=shots)))
        plots.percent(ax.yaxis)
        ax.set_title(target, fontsize=10)
    _legend(figure, axes, "images of a class")
    return figure


def changes_table(outcomes: Outcomes, shots: int = 16, n: int = 64) -> HTML:
    """Return what DataDream by class, or the shots alone, lose or gain, in points, with one thing changed."""
    rows: list[tuple[str, str, dict[str, str]]] = []
    ways = [Cell("", BY_CLASS, shots=shots, n=n, with_shots=both) for both in (False, True)]
    for cell, what in product([*ways, Cell("", SHOTS, shots=shots, n=0)], (*CHANGES, *OF_CLASSIFIER)):
        other, usual = (
            outcomes.get(name_of(one), {}) for one in (replace(cell, arm=changed(cell.arm, what)), cell)
        )
        gains = {t: interval(other[t] - usual[t]).points() for t in other if t in usual}
        if gains:
            how = f"{cell.arm}, {'with the shots' if cell.with_shots else 'alone'}" if cell.n else cell.arm
            rows.append((how, what, {target: gain.replace(" points", "") for target, gain in gains.items()}))
    targets = [t for t in targets_of(outcomes, shots) if any(t in gains for _, _, gains in rows)]
    return table([[how, what, *map(gains.get, targets)] for how, what, gains in rows], ["arm", "changed", *targets])


def scratch_table(outcomes: Outcomes, shots: int = 16, n: int = 64) -> HTML:
    """Return what arms do for a network from scratch: accuracy by target, alone and with the shots."""
    at, rows = {"shots": shots, "classifier": SCRATCH}, []
    cells = [Cell("", arm, n=0, **at) for arm in (SHOTS, changed(SHOTS, TWICE))]
    cells += [Cell("", arm, n=n, with_shots=both, **at) for arm in ARMS for both in (False, True)]
    targets = list(outcomes.get(name_of(cells[0]), {}))
    for cell in cells:
        own = outcomes.get(name_of(cell), {})
        if own:
            how = "–" if cell.n == 0 else "yes" if cell.with_shots else "no"
            rows.append([cell.arm, how, *(level(own[t]) if t in own else None for t in targets)])
    return table(rows, ["arm", "with the shots", *targets])


def classes(outcomes: Outcomes, choices: Mapping[str, Mapping[str, Mapping]]) -> Figure | None:
    """Draw H9: for each class by how much adapting brought it nearer to real images, and what its accuracy gained.

    None where that was not measured.
    """
    relations = {target: one for target, notes in choices.items() if (one := alignment_of(outcomes, target, notes))}
    if not relations:
        return None
    figure, axes = _panels(list(relations))
    for ax, (target, relation) in zip(axes, relations.items(), strict=True):
        labels = choices[target]["labels"]["labels"]
        adapted, frozen = (
            class_accuracy(outcomes[name_of(Cell("", arm))][target], labels).mean(0) for arm in (BY_CLASS, PROMPTED)
        )
        narrowing = np.mean(narrowing_of(choices[target]), axis=0)
        ax.plot(narrowing, 100 * (adapted - frozen), "o", color=plots.COLOURS["synthetic"], alpha=0.8)
        for line in (ax.axhline, ax.axvline):
            line(0, color=plots.INK, linewidth=0.8, zorder=0.7)
        bounds = f"{relation.low:+.2f} to {relation.high:+.2f}".replace("-", "\N{MINUS SIGN}")
        value = f"{relation.value:+.2f}".replace("-", "\N{MINUS SIGN}")
        ax.set_title(f"{target}: rank correlation {value}\n({bounds})", fontsize=9)
    figure.supxlabel("nearer to real images by (squared MMD)", fontsize=9)
    figure.supylabel("points of accuracy gained", fontsize=9)
    return figure


def _series(outcomes: Outcomes, target: str, arm: str, along: str, **where: object) -> dict[int, np.ndarray]:
    """Return the outcomes of an arm on a target along its shots or its n, in their order; all else as asked for."""
    wanted = {"with_shots": False, "classifier": "CLIP"} | where
    series = {}
    for name, by_target in outcomes.items():
        cell = cell_of(name, target, 0)
        if (
            cell.arm == arm
            and target in by_target
            and all(getattr(cell, key) == v for key, v in wanted.items())
        ):
            series[getattr(cell, along)] = by_target[target]
    return dict(sorted(series.items()))


def _curve(ax: Axes, series: Mapping[int, np.ndarray], label: str, line: object = None) -> None:
    levels = [level(correct) for correct in series.values()]
    bounds = [[getattr(one, side) for one in levels] for side in ("value", "low", "high")]
    style = {"linestyle": line or LINES.get(label, "-"), "marker": "o", "markersize": 4}
    plots.curve_with_band(ax, list(series), *bounds, label=label, role=ROLES.get(label, "synthetic"), **style)


def _panels(targets: Iterable[str]) -> tuple[Figure, list[Axes]]:
    targets = list(targets)
    down = max(1, -(-len(targets) // 2))
    figure, axes = plt.subplots(down, 2, figsize=(plots.WIDTH, PANEL * down + 0.5), squeeze=False)
    for ax in axes.flat[len(targets) :]:
        ax.axis("off")
    return figure, list(axes.flat[: len(targets)])


def _legend(figure: Figure, axes: Iterable[Axes], label: str) -> None:
    axes = list(axes)
    figure.supxlabel(label, fontsize=9.5)
    drawn = {label: line for ax in axes for line, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    ncols = 4 if len(drawn) < 5 else 3
    figure.legend(drawn.values(), drawn.keys(), loc="outside upper center", ncols=ncols, handlelength=3)
