"""Verdicts: every claim judged per set from paired intervals, pooled with its heterogeneity, sized and counted."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from zsclib.study.claims import Claim, images_and_seeds, published_effect, too_small
from zsclib.study.stats import (
    Effect,
    Estimate,
    Heterogeneity,
    effect,
    heterogeneity,
    holm,
    mean_effect,
    p_text,
)

VERDICTS = (
    "reproduced",
    "contradicted",
    "mixed",
    "equivalent",
    "inconclusive",
    "too small to decide",
    "not testable here",
)
DECIDED = ("reproduced", "contradicted", "equivalent")


class Size(NamedTuple):
    """Our effect over the published one, with the interval of our effect; or why there is no such ratio."""

    outcome: str  # smaller | smaller or alike | alike | alike or larger | larger | not comparable
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    because: str = ""

    def __str__(self) -> str:
        if self.ratio is None:
            return f"{self.outcome}: {self.because}"
        numbers = f"×{self.ratio:.2g} ({self.low:.2g} to {self.high:.2g})".replace("-", "−")
        return f"{self.outcome}: {numbers}{'; ' * bool(self.because)}{self.because}"


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """A claim with its effects and what follows from them; see `judge`."""

    claim: Claim
    effects: Mapping[str, Estimate]  # by set
    by_set: Mapping[str, str]  # the verdict of each set alone
    pooled: Estimate | None  # the equally weighted mean of the effects
    heterogeneity: Heterogeneity | None  # of two sets or more
    direction: str  # one of VERDICTS
    p: float | None  # of the decision, from the mean's t statistic
    holm: float | None  # the same, adjusted for the number of claims of the paper that were judged
    size: Size

    @property
    def corrected(self) -> str:
        """The direction that is left after Holm's correction at 5 %; a mixed one is not corrected."""
        lost = self.direction in DECIDED and self.holm is not None and self.holm >= 0.05
        return "inconclusive" if lost else self.direction


def judge(
    claims: Iterable[Claim], differences: Mapping[str, Mapping[str, ArrayLike | Estimate]]
) -> dict[str, Judgement]:
    """Judge claims by their paired differences, set by set.

    Every set has its verdict (`verdict`). Over several sets, what a claim says is taken to be about the equally
    weighted mean of the sets' effects, and the sets may object:

    1. *mixed*, if among the verdicts of the sets and of their mean there is both *reproduced* and *contradicted*: the
       claim clearly holds here and clearly fails there (a qualitative interaction, Gail & Simon 1985).
    2. Else the verdict of the mean. So *reproduced* and *contradicted* need a mean that decides and no set that
       clearly decides the other way; one clear set among several unclear ones is not enough, for among four sets one
       looks clear by chance in a fifth of all studies.
    3. A mean can be near zero because opposite effects cancel. Where it is the mean's nearness to zero that decides
       (*equivalent*, or `equal` *reproduced*), every set's own effect must lie within the margin, else *inconclusive*.
    4. *too small to decide* stands in the place of *inconclusive* where n, seeds and sets alone already say so
       (`too_small`).

    Holm's correction (1979) counts the claims of one paper that are judged here. The p value of a claim is the least
    α whose 1 − α interval of the mean still decides as the 95 % interval does: two-sided against 0 (`greater`,
    `less`) or against −margin (`not_less`), two one-sided tests (Schuirmann 1987) for *equivalent* and `equal`.

    Args:
        claims: the claims; one that is not testable needs no differences.
        differences: claim id → set → differences of correctness, (images,) or (seeds, images), or an `Estimate` (95 %)
            where the contrast is no mean over images. Sets are independent of one another.

    Returns:
        id → judgement, in the order of `claims`.

    Raises:
        ValueError: differences that are missing, of a claim not testable, of an unknown claim, or malformed.
    """
    claims = {claim.id: claim for claim in claims}
    if unknown := set(differences) - set(claims):
        raise ValueError(f"judge: differences for unknown claims: {', '.join(sorted(unknown))}")
    judged = {name: _judgement(claim, differences.get(name, {})) for name, claim in claims.items()}
    for paper in {claim.paper for claim in claims.values()}:
        tests = [name for name, j in judged.items() if j.claim.paper == paper and j.pooled is not None]
        adjusted = holm([1.0 if judged[name].p is None else judged[name].p for name in tests])
        for name, p in zip(tests, adjusted, strict=True):
            judged[name] = replace(judged[name], holm=None if judged[name].p is None else p)
    return judged


def verdict(claim: Claim, estimate: Estimate) -> str:
    """Judge a claim by one interval [low, high] of its contrast, with m the claim's margin.

    - `greater` (the contrast is above zero): *equivalent* if the interval lies within [−m, m], whatever its
      sign: too small to matter. Else *reproduced* if low > 0, *contradicted* if high < 0, otherwise
      *inconclusive*.
    - `less`: the same with the signs turned.
    - `equal`: *reproduced* if the interval lies within [−m, m], *contradicted* if it lies wholly outside
      (low > m or high < −m), otherwise *inconclusive*.
    - `not_less` (not worse by more than m): *reproduced* if low > −m, *contradicted* if high < −m, otherwise
      *inconclusive*.

    An interval of width zero carries no spread to judge by: *inconclusive*.

    Raises:
        ValueError: the interval is not one.
    """
    low, high, m = estimate.low, estimate.high, claim.margin
    if not low <= high:  # also catches NaN
        raise ValueError(f"verdict: claim {claim.id}: [{low}, {high}] is not an interval")
    if low == high:
        return "inconclusive"
    if claim.direction == "less":
        low, high = -high, -low
    within = -m <= low and high <= m
    if claim.direction == "equal":
        return "reproduced" if within else "contradicted" if low > m or high < -m else "inconclusive"
    if claim.direction == "not_less":
        low, high = low + m, high + m
    elif within:
        return "equivalent"
    return "reproduced" if low > 0 else "contradicted" if high < 0 else "inconclusive"


def verdict_table(judgements: Mapping[str, Judgement], percent: bool = True) -> pd.DataFrame:
    """Return a row per claim for a page: what was published, the effects per set, their mean, and what follows.

    Beside the mean stands how much the sets differ (Cochran's Q, I²); beside the direction, what each set alone decides
    where they are not of one mind; under Holm, the direction that is left and the adjusted p value.

    Args:
        judgements: from `judge`.
        percent: show differences of accuracies in percentage points; contrasts of unit `number` never are.

    Returns:
        Columns id, claim, published, here, mean of sets, direction, Holm, size; all text.
    """
    rows = []
    for judged in judgements.values():
        claim = judged.claim
        points = percent and claim.unit == "points"
        shown = [f"{name} {shown_difference(e, points)}" for name, e in judged.effects.items()]
        mean = [shown_difference(judged.pooled, points)] if len(shown) > 1 else []
        mean += [str(judged.heterogeneity)] if judged.heterogeneity else []
        rows.append(
            {
                "id": claim.id,
                "claim": claim.statement,
                "published": _published(claim),
                "here": "; ".join(shown) or "–",
                "mean of sets": "; ".join(mean) or "–",
                "direction": _direction(judged),
                "Holm": "–" if judged.holm is None else f"{judged.corrected}, {p_text(judged.holm)}",
                "size": str(judged.size),
            }
        )
    columns = ["id", "claim", "published", "here", "mean of sets", "direction", "Holm", "size"]
    return pd.DataFrame(rows, columns=columns)


def tally(judgements: Mapping[str, Judgement]) -> str:
    """Return how many claims came out how, as "3 reproduced, 1 mixed", every estimate having one vote in its family.

    A claim whose effects are all among those of another claim of its family (the same sets, the same numbers) has no
    vote of its own; of claims with the very same effects the first written votes.
    """
    votes = [judged for judged in judgements.values() if not _is_repeat(judged, list(judgements.values()))]
    counts = Counter(judged.direction for judged in votes)
    return ", ".join(f"{counts[outcome]} {outcome}" for outcome in VERDICTS if counts[outcome])


def _is_repeat(judged: Judgement, judgements: list[Judgement]) -> bool:
    own = set(judged.effects.items())
    for other in judgements:
        if own and other is not judged and other.claim.family == judged.claim.family:
            theirs = set(other.effects.items())
            earlier = judgements.index(other) < judgements.index(judged)
            if own < theirs or (own == theirs and earlier):
                return True
    return False


def _judgement(claim: Claim, differences: Mapping[str, ArrayLike | Estimate]) -> Judgement:
    if claim.not_testable is not None and differences:
        raise ValueError(f"judge: claim {claim.id} is marked not testable, yet differences are given")
    if claim.not_testable is not None:
        return Judgement(
            claim=claim, effects={}, by_set={}, pooled=None, heterogeneity=None, direction="not testable here",
            p=None, holm=None, size=Size("not comparable", because="not testable here"),
        )  # fmt: skip
    if not differences:
        raise ValueError(f"judge: claim {claim.id} needs differences of at least one set, got none")
    effects = {name: _effect(claim, name, values) for name, values in differences.items()}
    estimates = {
        name: values if isinstance(values, Estimate) else effects[name].interval()
        for name, values in differences.items()
    }
    by_set = {name: verdict(claim, estimate) for name, estimate in estimates.items()}
    mean = mean_effect(list(effects.values()))
    pooled = mean.interval() if len(effects) > 1 else next(iter(estimates.values()))
    direction = _overall(claim, estimates, by_set, verdict(claim, pooled))
    if direction == "inconclusive" and _designed_too_small(claim, differences):
        direction = "too small to decide"
    return Judgement(
        claim=claim,
        effects=estimates,
        by_set=by_set,
        pooled=pooled,
        heterogeneity=heterogeneity(list(effects.values())),
        direction=direction,
        p=None if direction == "mixed" else _p_value(claim, mean, direction),
        holm=None,
        size=_size(claim, effects),
    )


def effect_of(values: ArrayLike | Estimate) -> Effect:
    """Return the effect on one set: of paired differences (`effect`), or of an estimate with its 95 % interval.

    Raises:
        ValueError: differences that `effect` does not take, or an interval that is none.
    """
    if not isinstance(values, Estimate):
        return effect(values)
    if not -math.inf < values.low <= values.high < math.inf:
        raise ValueError(f"[{values.low}, {values.high}] is not an interval")
    se = (values.high - values.low) / (2 * stats.norm.ppf(0.975))
    return Effect(values.value, (values.low + values.high) / 2, float(se), math.inf, values.n)


def _effect(claim: Claim, name: str, values: ArrayLike | Estimate) -> Effect:
    try:
        return effect_of(values)
    except ValueError as error:
        raise ValueError(f"judge: claim {claim.id}, set {name}: {error}") from None


def _overall(claim: Claim, estimates: Mapping[str, Estimate], by_set: Mapping[str, str], mean: str) -> str:
    """Return the direction by the first three steps of `judge`."""
    if len(by_set) == 1:
        return mean
    if {"reproduced", "contradicted"} <= {mean, *by_set.values()}:
        return "mixed"
    near_zero = mean == "equivalent" or (claim.direction == "equal" and mean == "reproduced")
    beyond = any(abs(estimate.value) > claim.margin for estimate in estimates.values())
    return "inconclusive" if near_zero and beyond else mean


def _designed_too_small(claim: Claim, differences: Mapping[str, ArrayLike | Estimate]) -> bool:
    if own := [values.n for values in differences.values() if isinstance(values, Estimate)]:
        return claim.half_width is not None and too_small(claim, min(own), sets=tuple(differences))
    return too_small(claim, *images_and_seeds(differences.values()), tuple(differences))


def _p_value(claim: Claim, mean: Effect, direction: str) -> float:
    m = claim.margin
    if claim.direction == "equal" or direction == "equivalent":
        above, below = mean.exceeds(-m), 1 - mean.exceeds(m)  # of the claims that the mean is > −m, and < m
        within, outside = 2 * max(above, below), 2 * min(1 - above, 1 - below)
        return min(1.0, within if direction == "equivalent" else min(within, outside))
    above = mean.exceeds(-m if claim.direction == "not_less" else 0.0)
    return 2 * min(above, 1 - above)


def _size(claim: Claim, effects: Mapping[str, Effect]) -> Size:
    """Return our effect over the published one, on the sets whose role the published numbers play."""
    named = [name for name in effects if any(p.get("set") == name for p in claim.published)]
    numbers = [float(p["value"]) for p in claim.published if not named or p.get("set") in named]
    published = published_effect(claim, list(effects))
    if published is None:
        why = "nothing published" if not claim.published else "published for other sets only"
        return Size("not comparable", because=why)
    scale = 0.01 if claim.unit == "points" else 1.0
    if min(numbers) * scale < -claim.margin and max(numbers) * scale > claim.margin:
        return Size("not comparable", because="the published effects have both signs")
    if abs(published) <= claim.margin:
        return Size("not comparable", because="the published effect is within the margin")
    ours = mean_effect([effects[name] for name in named or effects]).interval()
    low, high = sorted((ours.low / published, ours.high / published))
    if high < 0:
        return Size("not comparable", ours.value / published, low, high, "the signs differ")
    touched = {"smaller": low < 0.5, "alike": low <= 2 and high >= 0.5, "larger": high > 2}
    parts = [name for name, touches in touched.items() if touches]
    if len(parts) == 3 or low == high:
        why = "the interval is too wide" if len(parts) == 3 else "no spread"
        return Size("not comparable", ours.value / published, low, high, why)
    return Size(" or ".join(parts), ours.value / published, low, high)


def _published(claim: Claim) -> str:
    """Return the published numbers as text; of more than three, their range."""
    values = [float(p["value"]) for p in claim.published]
    if len(values) > 3:
        return f"{len(values)} numbers from {_signed(min(values))} to {_signed(max(values))}"
    return (
        "; ".join(f"{p['what']}: {_signed(v)}" for p, v in zip(claim.published, values, strict=True)) or "–"
    )


def _signed(value: float) -> str:
    return f"{value:+.4g}".replace("-", "−")


def shown_difference(estimate: Estimate, points: bool = True) -> str:
    """Return a difference with its interval as text, in percentage points or as a plain number."""
    scale, digits = (100, 1) if points else (1, 3)
    value, low, high = (f"{scale * x:+.{digits}f}".replace("-", "−") for x in estimate[:3])
    return f"{value} ({low} to {high})"


def _direction(judged: Judgement) -> str:
    """Return the direction, and where several sets are not of one mind with it, what each says."""
    others = {name: outcome for name, outcome in judged.by_set.items() if outcome != judged.direction}
    clear = [f"{outcome} on {name}" for name, outcome in judged.by_set.items() if outcome in DECIDED]
    if len(judged.by_set) < 2 or not others or not clear:
        return judged.direction
    return f"{judged.direction} ({', '.join(clear)})"
