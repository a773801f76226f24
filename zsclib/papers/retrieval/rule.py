"""Which source of extra images to take: a rule by two thresholds, fitted on some points and tested on others.

    rule = fit(record.of(FIT))
    rule.choice(similarity=0.4, shots=8)                    # "retrieval", say
    tested = evaluate(rule, record.of(FIT), record.of(HELD_OUT), interval)

The rule asks whether the pool's similarity to the target (`zsclib.papers.retrieval.similarity`) reaches a threshold,
and whether there are as many shots as another, and names a source for each answer; it may need but one question, or
none. It is fitted to accuracy and not to winners: where sources differ by little, little hangs on the choice. A source
wins a point where it is clearly better than every other of another kind, each paired difference's interval lying above
0: prompting and personalising are both generation, and often too much alike to beat one another. Otherwise the point
has no winner, and every source that is not clearly worse than the best one is a good choice there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple, Protocol

import numpy as np

from zsclib.papers.retrieval.diagram import SOURCES, Outcome
from zsclib.papers.retrieval.similarity import POOL

LEAST = 3  # points on which each of the rule's answers rests
KINDS = {"retrieval": "retrieval", "prompting": "generation", "personalised": "generation", "nothing": "nothing"}
FORMS = ("none", "similarity", "similarity and shots")  # what a rule asks, the simplest first


class Interval(Protocol):
    """What `zsclib.study.stats.interval` returns."""

    low: float
    high: float


Intervals = Callable[[np.ndarray], Interval]  # of paired differences (repeats, images)


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What to take below and from two thresholds on.

    Attributes:
        similarity, shots: the thresholds; −inf: not asked for.
        far, near: the source at a similarity below the threshold, and from it on: (with fewer shots, with as many).
    """

    similarity: float = -np.inf
    shots: float = -np.inf
    far: tuple[str, str]
    near: tuple[str, str]

    def choice(self, similarity: float, shots: float) -> str:
        """Return the source to take."""
        side = self.near if similarity >= self.similarity else self.far
        return side[int(shots >= self.shots)]


class Tested(NamedTuple):
    """A rule on points that it was not fitted on; arrays (points,)."""

    majority: str  # the source that wins most often where the rule was fitted
    wrong: np.ndarray  # whether the rule's source is clearly worse than the best one, bool
    majority_wrong: np.ndarray  # whether the majority's is
    decided: np.ndarray  # whether the point has a winner
    gain: np.ndarray  # accuracy with the rule's source − with the majority's


def good_choices(outcome: Outcome, interval: Intervals) -> tuple[str, ...]:
    """Return the sources that are not clearly worse than the one of highest accuracy, that one first."""
    correct = {source: rows.astype(np.float64) for source, rows in outcome.correct.items()}
    best = max(correct, key=lambda source: correct[source].mean())
    others = [s for s in correct if s != best and interval(correct[best] - correct[s]).low <= 0]
    return (best, *others)


def winner(outcome: Outcome, interval: Intervals) -> str | None:
    """Return the source that has won a point; None where none is clearly better than every other of another kind."""
    good = good_choices(outcome, interval)
    return good[0] if len({KINDS[source] for source in good}) == 1 else None


def fit(outcomes: Sequence[Outcome]) -> Rule:
    """Fit the rule: the form that chooses best on points left out one by one, then its thresholds on all of them.

    Raises:
        ValueError: fewer points than two answers can rest on.
    """
    if len(outcomes) < 2 * LEAST:
        raise ValueError(f"fit: {len(outcomes)} points; a rule needs {2 * LEAST} or more")
    x, shots, accuracy = _table(outcomes)
    scores = []
    for form in FORMS:
        rows = np.arange(len(x))
        left_out = [_best(form, x[rows != i], shots[rows != i], accuracy[rows != i]) for i in rows]
        scores.append(np.mean([_value(rule, x[i], shots[i], accuracy[i]) for i, rule in enumerate(left_out)]))
    simplest = int(np.argmax(np.round(scores, 9)))  # of equals the first
    return _best(FORMS[simplest], x, shots, accuracy)


def most_frequent(outcomes: Sequence[Outcome], interval: Intervals) -> str:
    """Return the source that wins most of the points; of equals, or where none wins, the one of highest accuracy."""
    winners = [winner(outcome, interval) for outcome in outcomes]
    mean = {source: np.mean([outcome.accuracy(source) for outcome in outcomes]) for source in SOURCES}
    return max(SOURCES, key=lambda source: (winners.count(source), mean[source]))


def evaluate(rule: Rule, fitted: Sequence[Outcome], held_out: Sequence[Outcome], interval: Intervals) -> Tested:
    """Try a rule on points that it has not met, beside always taking what wins most often on those it was fitted on."""
    majority = most_frequent(fitted, interval)
    wrong, majority_wrong, decided, gain = [], [], [], []
    for outcome in held_out:
        source = rule.choice(outcome.measured[POOL], outcome.point.shots)
        good = good_choices(outcome, interval)
        wrong.append(source not in good)
        majority_wrong.append(majority not in good)
        decided.append(winner(outcome, interval) is not None)
        gain.append(outcome.accuracy(source) - outcome.accuracy(majority))
    return Tested(majority, *(np.array(one, bool) for one in (wrong, majority_wrong, decided)), np.array(gain))


def _table(outcomes: Sequence[Outcome]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return pool similarity (n,), shots (n,) and accuracy by source (n, sources), in the order of the points."""
    ordered = sorted(outcomes, key=lambda outcome: outcome.point.number)
    x = np.array([outcome.measured[POOL] for outcome in ordered])
    shots = np.array([outcome.point.shots for outcome in ordered], np.float64)
    return x, shots, np.array([[outcome.accuracy(source) for source in SOURCES] for outcome in ordered])


def _best(form: str, x: np.ndarray, shots: np.ndarray, accuracy: np.ndarray) -> Rule:
    """Return the rule of a form that has the highest accuracy on some points; of equals the first."""
    best, most = None, -np.inf
    for a, b in _thresholds(form, x, shots):
        near, many = x >= a, shots >= b
        parts = {(i, j): (near == i) & (many == j) for i, j in product((False, True), repeat=2)}
        if any(0 < part.sum() < LEAST for part in parts.values()):
            continue
        sums = {at: accuracy[part].sum(0) for at, part in parts.items()}
        value = sum(one.max() for one in sums.values())
        if value > most + 1e-12:
            names = list(SOURCES)
            whole = names[int(accuracy.sum(0).argmax())]  # where no point is
            leaf = {at: names[int(one.argmax())] if parts[at].any() else whole for at, one in sums.items()}
            far, near_ = ((leaf[i, False], leaf[i, True]) for i in (False, True))
            best, most = Rule(similarity=a, shots=b, far=far, near=near_), value
    return best


def _thresholds(form: str, x: np.ndarray, shots: np.ndarray) -> Iterator[tuple[float, float]]:
    """Yield pairs of thresholds, half way between neighbours; first none, which every form may fall back on."""
    yield -np.inf, -np.inf
    if form == FORMS[0]:
        return
    for a in _between(x):
        yield a, -np.inf
        if form == FORMS[2]:
            yield from ((a, b) for b in _between(shots))


def _between(values: np.ndarray) -> list[float]:
    unique = np.unique(values)
    return ((unique[:-1] + unique[1:]) / 2).tolist()


def _value(rule: Rule, x: float, shots: float, accuracy: np.ndarray) -> float:
    return float(accuracy[list(SOURCES).index(rule.choice(x, shots))])
