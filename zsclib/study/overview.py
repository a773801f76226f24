"""What a study has come to, in two sentences: its verdicts by direction, and how wide its intervals are.

    measured = records.differences(freeze, chapter)
    overview(records.judged(measured), measured)

A study is planned with intervals of some width in mind. How wide they then are says what it could have decided.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from zsclib.study.claims import Claim, expected_width, images_and_seeds
from zsclib.study.stats import Estimate
from zsclib.study.verdicts import DECIDED, Judgement, tally

Differences = Mapping[str, Mapping[str, ArrayLike | Estimate]]


class Width(NamedTuple):
    """How far an interval of a claim's mean over sets reaches to either side, in shares, before and after the run."""

    claim: str
    expected: float
    observed: float


def interval_widths(judgements: Mapping[str, Judgement], differences: Differences) -> list[Width]:
    """Return the widths of the claims about differences of accuracies, in their order.

    Expected is what `claims.expected_width` says of as many images, seeds and sets as were measured; a claim whose
    contrast has an interval of its own, and no expected one, is left out.

    Args:
        judgements: id → judgement. differences: claim → set → what it was judged by, arrays of (seeds, images).
    """
    widths = []
    for name, judged in judgements.items():
        mean, expected = judged.pooled, _expected(judged.claim, differences.get(name, {}))
        if mean is not None and expected is not None:
            widths.append(Width(name, expected, (mean.high - mean.low) / 2))
    return widths


def overview(judgements: Mapping[str, Judgement], differences: Differences) -> str:
    """Return the verdicts by direction, what is left of them after Holm's correction, and how wide intervals are.

    Args: as of `interval_widths`. Without a judgement there is nothing to say: "".
    """
    if not judgements:
        return ""
    decided = [judged for judged in judgements.values() if judged.direction in DECIDED]
    stand = sum(judged.corrected == judged.direction for judged in decided)
    families = len({judged.claim.family for judged in judgements.values()})
    text = (
        f"{len(judgements)} claims of {families} families have a verdict. Each estimate counted once: "
        f"{tally(judgements)}. Decided claims: {len(decided)}, of which {stand} stand after Holm's correction."
    )
    if widths := interval_widths(judgements, differences):
        expected, observed = 100 * np.median([[one.expected, one.observed] for one in widths], axis=0)
        text += (
            f" Intervals of mean differences of accuracy reach {observed:.1f} points to either side (median of "
            f"{len(widths)} claims); {expected:.1f} were expected of as many images, seeds and sets."
        )
    return text


def _expected(claim: Claim, by_set: Mapping[str, ArrayLike | Estimate]) -> float | None:
    if claim.unit != "points":
        return None
    if any(isinstance(values, tuple) for values in by_set.values()):  # with an interval of its own
        return claim.half_width
    return expected_width(claim, *images_and_seeds(by_set.values()), len(by_set))
