"""Two studies of one paper side by side, claim by claim: does a difference keep its sign on other sets?

A claim about one set ("DC-H3-digits") has its counterparts on others ("DC-H3-cifar10"): they put the same question, and
what they compare is called by the id without the set ("DC-H3").
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import NamedTuple

import pandas as pd
from numpy.typing import ArrayLike

from zsclib.prompts import PHOTOGRAPHS
from zsclib.study.stats import Effect, Estimate, mean_effect
from zsclib.study.verdicts import effect_of, shown_difference

# claim → set → paired differences (seeds, images), or an estimate
Differences = Mapping[str, Mapping[str, ArrayLike | Estimate]]
SAME, OTHER, UNDECIDED, ABSENT = "same sign", "other sign", "undecided", "not measured"


class Beside(NamedTuple):
    """One question, as two studies answer it."""

    question: str  # a claim's id, without the set where it names one
    here: Mapping[str, Estimate]  # set → effect, of the first study
    there: Mapping[str, Estimate]  # ... and of the second
    mean_here: Estimate | None  # the equally weighted mean of the effects; None where nothing is measured
    mean_there: Estimate | None
    agreement: str  # of the signs of the two means: `SAME`, `OTHER`, `UNDECIDED` or `ABSENT`


def side_by_side(here: Differences, there: Differences) -> list[Beside]:
    """Return the questions that both studies put, in the order of the first; those that one alone puts are left out.

    A sign is clear where the 95 % interval of the mean over a study's sets excludes zero: `SAME` and `OTHER` need two
    clear ones, all else is `UNDECIDED`.

    Args:
        here: claim → set → paired differences (seeds, images), or an estimate; from `zsclib.study.claims.to_judge`.
        there: the same of the other study. A claim with no set measured makes its question `ABSENT`.
    """
    first, second = _questions(here), _questions(there)
    rows = []
    for question in (question for question in first if question in second):
        effects = first[question], second[question]
        means = [mean_effect(list(own.values())).interval() if own else None for own in effects]
        estimates = [{name: each.interval() for name, each in own.items()} for own in effects]
        rows.append(Beside(question, *estimates, *means, _agreement(*means)))
    return rows


def question_of(claim: str, sets: Iterable[str]) -> str:
    """Return a claim's id without the name of the one set that it is about, if it names one of `sets`."""
    names = sorted(map(_short, sets), key=len, reverse=True)
    return next((claim.replace(f"-{name}", "", 1) for name in names if f"-{name}-" in f"{claim}-"), claim)


def side_by_side_table(
    rows: Iterable[Beside], statements: Mapping[str, str], names: tuple[str, str], numbers: Container[str] = ()
) -> pd.DataFrame:
    """Return a row per question for a page: the effects on each study's sets and their means.

    Args:
        rows: from `side_by_side`.
        statements: question → what it asks.
        names: of the two studies.
        numbers: questions whose effects are numbers of their own; those of all others are shown in points.
    """
    content = []
    for one in rows:
        sides, points = ((one.here, one.mean_here), (one.there, one.mean_there)), one.question not in numbers
        both = [_shown(effects, mean, points) for effects, mean in sides]
        content.append([one.question, statements.get(one.question, "–"), *both, one.agreement])
    return pd.DataFrame(content, columns=["question", "what is compared", *names, "sign"])


def _questions(differences: Differences) -> dict[str, dict[str, Effect]]:
    questions: dict[str, dict[str, Effect]] = {}
    for claim, by_set in differences.items():
        own = questions.setdefault(question_of(claim, by_set), {})
        own |= {name: effect_of(values) for name, values in by_set.items()}
    return questions


def _agreement(here: Estimate | None, there: Estimate | None) -> str:
    if here is None or there is None:
        return ABSENT
    signs = [(one.low > 0) - (one.high < 0) for one in (here, there)]
    return UNDECIDED if 0 in signs else SAME if signs[0] == signs[1] else OTHER


def _shown(effects: Mapping[str, Estimate], mean: Estimate | None, points: bool) -> str:
    parts = [f"{_short(name)} {shown_difference(each, points)}" for name, each in effects.items()]
    parts += [f"mean {shown_difference(mean, points)}"] if mean is not None and len(parts) > 1 else []
    return "; ".join(parts) or "–"


def _short(name: str) -> str:
    return name.removeprefix(f"{PHOTOGRAPHS}:")
