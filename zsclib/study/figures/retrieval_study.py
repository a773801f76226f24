"""Figures and tables of what the study of retrieval has measured: every arm on every target, image by image.

    outcomes = recorded("retrieval")                        # arm -> target -> correctness (seeds, images)
    study_gains(outcomes, published)                        # what each arm adds to D alone
    beside_table(outcomes)                                  # longer training, fewer images, counts of their own
    sets_table(recorded_choices("retrieval"))               # how many images each arm found or made, and at what cost
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from IPython.display import HTML
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from zsclib.papers.retrieval.arms import ARMS
from zsclib.papers.retrieval.contrasts import (
    CHOSEN,
    ORDER,
    PAIRS,
    PERSONALISED,
    REFERENCES,
    Arms,
    gap_share,
    judged_on,
)
from zsclib.papers.retrieval.outcomes import BESIDE, EVENLY, as_table
from zsclib.papers.retrieval.tuning_curves import changes
from zsclib.pools.ladder import DROPS
from zsclib.study import plots
from zsclib.study.figures.retrieval import Published, published_gains, share_of_gap, with_breaks
from zsclib.study.panels import columns, level
from zsclib.study.stats import Estimate, interval, wilson
from zsclib.study.tables import table

REAL = "real only"
LONGER = "real only, twice the updates"
CEILING = 0.9  # of D alone, beyond which a set decides little
FLAT = 0.02  # gained by twice the updates, beyond which a training had not ended
LEVELS = (REAL, *REFERENCES, "image-to-image", "templates", CHOSEN, "retrieved by text", "half and half", ORDER[-1])
ROW = 0.21  # inches
MARKS = "osD^vP"
Outcomes = Mapping[str, Mapping[str, np.ndarray]]  # arm -> target -> correctness (seeds, images)
Choices = Mapping[str, Mapping[str, Mapping]]  # target -> "shares", or "sets-seed-0" … -> arm -> what is on record


def targets_of(outcomes: Outcomes) -> list[str]:
    """Return the targets of which D alone has been measured, in the order of the record."""
    return list(outcomes.get(REAL, {}))


def study_gains(outcomes: Outcomes, published: Published | None = None) -> Figure:
    """Draw what each arm gains over D alone, in points: a row per arm, a column per target; a gap was not measured.

    Args:
        outcomes: of the study. published: the paper's arms, whose gains are diamonds where the pool knows the classes.
    """
    names = [name for name in (*ARMS, CHOSEN, *REFERENCES) if name in outcomes and name != REAL]
    names = [name for name in names if not name.startswith("planted")]
    base = outcomes.get(REAL, {})

    def gain(name: str, target: str) -> Estimate | None:
        own = outcomes[name]
        return interval(own[target] - base[target]) if target in own else None

    gains = {target: {name: [gain(name, target)] for name in names} for target in base}
    heads = {t: f"{_in_two_lines(t)}\n{REAL} {100 * correct.mean():.0f} %" for t, correct in base.items()}
    marks = published_gains(published, list(base)) if published else {}
    return columns(gains, heads, ROW, f"points over {REAL}, with 95 % intervals; each column has its own scale", marks)


def flatness(outcomes: Outcomes) -> str:
    """Return, in words, whether D alone gains more than `FLAT` by twice the updates: where it surely does, where it
    surely does not, and where that is open."""
    longer, places = outcomes.get(LONGER, {}), {"flat": [], "rising": [], "open": []}
    for target in (target for target in targets_of(outcomes) if target in longer):
        gain = interval(longer[target] - outcomes[REAL][target])
        places["rising" if gain.low > FLAT else "flat" if gain.high < FLAT else "open"].append(target)
    points, parts = f"{100 * FLAT:g} points", []
    if places["flat"]:
        parts.append(f"On {_list(places['flat'])}, twice the updates add less than {points} to {REAL}.")
    if places["rising"]:
        parts.append(
            f"On {_list(places['rising'])}, they add more than {points}: training had not ended there, and a verdict "
            f"against {REAL} may be one on speed."
        )
    if places["open"]:
        parts.append(
            f"On {_list(places['open'])}, the interval holds {points}, so it is not shown that the curve is flat: "
            f"verdicts against {REAL} there hold for this number of updates."
        )
    return " ".join(parts)


def beside_table(outcomes: Outcomes) -> HTML:
    """Return what would be otherwise elsewhere: gains in points, by target, of what `BESIDE` changes over the arm as
    the claims compare it; D alone gains nothing by twice the updates where its curve is flat."""
    targets = targets_of(outcomes)
    rows = [[name, *_differences(outcomes, name, arm, targets)] for name, (arm, _) in BESIDE.items()]
    return with_breaks(rows, ["changed in one respect, less the same arm unchanged; points", *targets])


def levels_table(outcomes: Outcomes) -> HTML:
    """Return the accuracy of the paper's arms, and of what stands beside them: a row per arm, a column per target."""
    targets = targets_of(outcomes)
    rows = [
        [arm, *(level(outcomes[arm][t]) if t in outcomes[arm] else None for t in targets)]
        for arm in LEVELS
        if arm in outcomes
    ]
    return table(rows, ["accuracy", *targets])


def limits(outcomes: Outcomes, choices: Choices) -> str:
    """Return, in words, on which targets little can be told: D alone is near the ceiling already, or equal counts leave
    hardly any extra images."""
    parts = []
    for target in targets_of(outcomes):
        alone = outcomes[REAL][target].mean()
        if alone > CEILING:
            parts.append(f"On {target}, {REAL} names {100 * alone:.0f} % already, so that little can be gained.")
    for target, seeds in _sets(choices).items():
        counts = [(sum(sets["templates"]["compared"]), sum(sets["templates"]["delivered"])) for sets in seeds]
        fewest, wanted = min(counts)
        if fewest < wanted / 2:
            parts.append(
                f"On {target}, an arm that falls short cuts all of them to as few as {fewest} extra images of "
                f"{wanted}: what is compared there are arms that hardly differ."
            )
    return " ".join(parts)


def even_table(outcomes: Outcomes) -> HTML:
    """Return the claims' differences in points at shares that were chosen and at equal counts, and below each the same
    where extra images are half of each batch, all that an arm has."""
    targets, own = targets_of(outcomes), {arm: name for name, arm in EVENLY.items()}
    rows = []
    for claim, (arm, rival) in PAIRS.items():
        if arm in own or rival in own:
            even = own.get(arm, arm), own.get(rival, rival)
            judged = [judged_on(claim, target) for target in targets]
            for name, pair in ((f"{claim}<br>{arm}, less {rival}", (arm, rival)), ("half of each batch", even)):
                cells = zip(_differences(outcomes, *pair, targets), judged, strict=True)
                rows.append([name, *(cell if there else None for cell, there in cells)])
    return with_breaks(rows, ["difference, points", *targets])


def left_to_teach(outcomes: Outcomes) -> HTML:
    """Return what D still adds to the images of a generator that has learnt it: the other side of R8, in points."""
    targets = targets_of(outcomes)
    arm, rival = "tuned by LoRA", "tuned by LoRA, alone"
    rows = [[f"{arm} with D, less without", *_differences(outcomes, arm, rival, targets)]]
    return with_breaks(rows, ["difference, points", *targets])


def gap_table(outcomes: Outcomes, published: Published) -> HTML:
    """Return the share of the gap between D and twice D that arms close, the paper's beside ours: a row per arm.

    A share stands only where the gap's own interval lies above zero, else "no gap"; the paper's shares are our
    arithmetic.
    """
    targets, frame = targets_of(outcomes), as_table(outcomes)
    real, twice = (published[name]["value"] for name in (REAL, ORDER[-1]))
    rows = []
    for arm in (arm for arm in ORDER if arm not in (REAL, ORDER[-1])):
        theirs = f"{100 * (published[arm]['value'] - real) / (twice - real):.0f} %".replace("-", "\N{MINUS SIGN}")
        cells = []
        for target in targets:
            there = Arms(frame, target)
            measured = all(name in there for name in (arm, REAL, ORDER[-1]))
            share = gap_share(frame, target, arm, interval) if measured else None
            cells.append(share_of_gap(share).replace(" of the gap", "") if share else "no gap" if measured else None)
        rows.append([arm, theirs, *cells])
    return with_breaks(rows, ["share of the gap", "the paper", *targets])


def shares_table(choices: Choices) -> HTML:
    """Return the share of extra images in a batch that each arm was given on held-out images: a row per arm."""
    chosen = {target: noted["shares"] for target, noted in choices.items() if "shares" in noted}
    arms = [name for name, arm in ARMS.items() if arm.make is not None and arm.share is None]
    rows = [[arm, *(_share(own.get(arm)) for own in chosen.values())] for arm in arms if _known(arm, chosen.values())]
    return with_breaks(rows, ["share of a batch", *chosen])


def sets_table(choices: Choices) -> HTML:
    """Return what arms delivered and took: a row per arm, images of a class at their fewest, by target, over all seeds.

    The first row says to how many all arms were cut; costs are means over targets and seeds.
    """
    made = _sets(choices)
    arms = list(dict.fromkeys(arm for seeds in made.values() for sets in seeds for arm in sets))
    rows = [["compared", "", "", *(_fewest(seeds, "templates", "compared") for seeds in made.values())]]
    for arm in arms:
        own = [sets[arm] for seeds in made.values() for sets in seeds if arm in sets]
        images = max(1, sum(sum(each["delivered"]) for each in own))
        evaluations = sum(each["evaluations"] for each in own) / images
        tuned = np.mean([each["tuning_samples"] for each in own])
        cells = [_fewest(seeds, arm, "delivered") for seeds in made.values()]
        rows.append([arm, f"{evaluations:.3g}" if evaluations else "0", f"{tuned:,.0f}", *cells])
    return with_breaks(rows, ["arm", "network evaluations an image", "samples tuned on", *made])


def drops_table(choices: Choices) -> HTML:
    """Return what the ladder dropped, and how many planted copies of test images came in: means over seeds."""
    made, rows = _sets(choices), []
    for arm in ("retrieved by text", *(name for name in ARMS if name.startswith("planted"))):
        for target, seeds in made.items():
            own = [sets[arm] for sets in seeds if arm in sets]
            if not own:
                continue
            dropped = [np.mean([each["dropped"].get(name, 0) for each in own]) for name in DROPS]
            copies = np.mean([each["copies"] for each in own]) if "copies" in own[0] else None
            images = np.mean([sum(each["delivered"]) for each in own])
            cells = [f"{number:,.0f}" for number in (*dropped, images)]
            rows.append([arm, target, *cells, None if copies is None else f"{copies:,.0f}"])
    return with_breaks(rows, ["arm", "target", *DROPS, "images", "planted among them"])


def memorised_table(choices: Choices) -> HTML:
    """Return how many generated images have a near-copy in the whole pool, over all targets on record: a row per
    guidance scale, then one per third of the classes, by how many captions name them."""
    counted = [noted["memorised"] for noted in choices.values() if "memorised" in noted]
    if not counted:
        return HTML("<p>Not counted on the whole pool yet.</p>")
    by_scale = pd.DataFrame([row for one in counted for row in one["by guidance"]]).groupby("guidance").sum()
    rows = [[f"guidance {scale:g}", int(one["images"]), *_copies(one)] for scale, one in by_scale.iterrows()]
    classes = pd.DataFrame([row for one in counted for row in one["by class"]]).sort_values("frequency")
    for third in np.array_split(np.arange(len(classes)), 3):
        own = classes.iloc[third]
        name = f"classes that {own['frequency'].min():,} to {own['frequency'].max():,} captions name"
        rows.append([name, int(own["images"].sum()), *_copies(own.sum(numeric_only=True))])
    return table(rows, ["generated images", "looked at", "near-copies", "share"])


def tuning(choices: Choices) -> Figure:
    """Draw the held-out denoising loss against samples, a panel per target on record and a curve per way to learn."""
    by_target = {name: noted["tuning-curves"] for name, noted in choices.items() if "tuning-curves" in noted}
    figure, axes = plt.subplots(1, len(by_target), figsize=(plots.WIDTH, 3.4), squeeze=False, sharey=True)
    for ax, (target, curves) in zip(axes[0], by_target.items(), strict=True):
        for name, curve in curves.items():
            loss, i = np.array(curve["held_out"]) / curve["held_out"][0] - 1, PERSONALISED.index(name)
            style = {"color": f"C{i}", "marker": MARKS[i], "markersize": 4.5}  # one way is one colour everywhere
            plots.curve_with_band(ax, curve["samples"], loss, label=name, **style)
        ax.set_title(f"{target}\nloss {next(iter(curves.values()))['held_out'][0]:.4f} at the start", fontsize=9)
        ax.set_xlabel("samples of all classes")
        plots.percent(ax.yaxis)
    axes[0, 0].set_ylabel("change of the held-out loss")
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3, handlelength=2.4)
    return figure


def tuning_table(choices: Choices) -> HTML:
    """Return a row per target on record and way to learn: its samples, and what the held-out loss does."""
    rows = [
        [target, name, int(samples), f"{end / start - 1:+.1%}", f"{quarter:+.1%}"]
        for target, noted in choices.items()
        if "tuning-curves" in noted
        for name, samples, start, end, quarter in changes(noted["tuning-curves"]).itertuples(index=False)
    ]
    cells = [[_minus(cell) for cell in row] for row in rows]
    return table(cells, ["target", "learnt", "samples", "loss, start to end", "in the last quarter"])


def _minus(cell: object) -> object:
    return cell.replace("-", "\N{MINUS SIGN}").replace("%", " %") if isinstance(cell, str) and cell[0] in "+-" else cell


def _copies(counted: pd.Series) -> list[object]:
    return [int(counted["copies"]), wilson(int(counted["copies"]), int(counted["images"]))]


def _differences(outcomes: Outcomes, arm: str, rival: str, targets: Iterable[str]) -> list[str | None]:
    own, other = outcomes.get(arm, {}), outcomes.get(rival, {})
    both = [interval(own[t] - other[t]) if t in own and t in other else None for t in targets]
    return [gain and gain.points().replace(" points", "").replace(" (", "<br>(") for gain in both]


def _sets(choices: Choices) -> dict[str, list[Mapping]]:
    """Return target → what is on record of each seed's sets."""
    made = {t: [noted[what] for what in noted if what.startswith("sets")] for t, noted in choices.items()}
    return {target: seeds for target, seeds in made.items() if seeds}


def _fewest(seeds: Sequence[Mapping], arm: str, which: str) -> str | None:
    numbers = [min(sets[arm][which]) for sets in seeds if arm in sets]
    return str(min(numbers)) if numbers else None


def _known(arm: str, chosen: Iterable[Mapping[str, float]]) -> bool:
    return any(arm in own for own in chosen)


def _share(share: float | None) -> str | None:
    return None if share is None else f"{100 * share:.0f} %"


def _in_two_lines(name: str) -> str:
    """Return a long name broken behind its first hyphen."""
    return name.replace("-", "-\n", 1) if len(name) > 12 else name


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
