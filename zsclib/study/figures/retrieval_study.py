"""Figures and tables of what the study of retrieval has measured so far: every arm on every target, image by image.

    outcomes = recorded("retrieval")                        # arm -> target -> correctness (seeds, images)
    study_gains(outcomes)                                   # what each arm adds to D alone
    beside_table(outcomes)                                  # longer training, fewer images, counts of their own
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from IPython.display import HTML
from matplotlib.figure import Figure

from zsclib.papers.retrieval.arms import ARMS
from zsclib.papers.retrieval.contrasts import CHOSEN, REFERENCES
from zsclib.papers.retrieval.outcomes import BESIDE
from zsclib.study.panels import columns
from zsclib.study.stats import Estimate, interval
from zsclib.study.tables import table

REAL = "real only"
LONGER = "real only, twice the updates"
FLAT = 0.02  # gained by twice the updates, beyond which a training had not ended
ROW = 0.21  # inches
Outcomes = Mapping[str, Mapping[str, np.ndarray]]  # arm -> target -> correctness (seeds, images)


def targets_of(outcomes: Outcomes) -> list[str]:
    """Return the targets of which D alone has been measured, in the order of the record."""
    return list(outcomes.get(REAL, {}))


def study_gains(outcomes: Outcomes) -> Figure:
    """Draw what each arm gains over D alone, in points: a row per arm, a column per target; a gap was not measured."""
    names = [name for name in (*ARMS, CHOSEN, *REFERENCES) if name in outcomes and name != REAL]
    names = [name for name in names if not name.startswith("planted")]
    base = outcomes.get(REAL, {})

    def gain(name: str, target: str) -> Estimate | None:
        own = outcomes[name]
        return interval(own[target] - base[target]) if target in own else None

    gains = {target: {name: [gain(name, target)] for name in names} for target in base}
    heads = {target: f"{target}\n{REAL} {100 * correct.mean():.0f} %" for target, correct in base.items()}
    return columns(gains, heads, ROW, f"points over {REAL}, with 95 % intervals")


def flatness(outcomes: Outcomes) -> str:
    """Return on which targets D alone gains more than `FLAT` by twice the updates, by its whole interval, in words."""
    longer = outcomes.get(LONGER, {})
    rising = [t for t in targets_of(outcomes) if t in longer and interval(longer[t] - outcomes[REAL][t]).low > FLAT]
    if not rising:
        return f"On no target so far does {REAL} surely gain more than {100 * FLAT:g} points by twice the updates."
    return (
        f"On {', '.join(rising)}, {REAL} gains more than {100 * FLAT:g} points by twice the updates: training had not "
        "ended there, and a verdict may be one on speed."
    )


def beside_table(outcomes: Outcomes) -> HTML:
    """Return what would be otherwise elsewhere: gains in points, by target, of what `BESIDE` changes over the arm as
    the claims compare it; D alone gains nothing by twice the updates where its curve is flat."""
    targets = targets_of(outcomes)
    rows = []
    for name, (arm, _) in BESIDE.items():
        own, usual = outcomes.get(name, {}), outcomes.get(arm, {})
        cells = [interval(own[t] - usual[t]).points() if t in own and t in usual else None for t in targets]
        rows.append([name, *cells])
    return table(rows, ["against the same arm as compared", *targets])
