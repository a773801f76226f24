"""Intervals and tests against published or hand-made answers, and their coverage by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from zsclib.seeds import rng
from zsclib.study.stats import (
    Estimate,
    accuracy,
    calibration,
    mcnemar_exact,
    paired_bootstrap,
    paired_difference,
    smallest_detectable,
    wilson,
)


def test_wilson_known_answers() -> None:
    # Newcombe (1998), Table I, method 3.
    assert wilson(81, 263)[:3] == pytest.approx((81 / 263, 0.2553, 0.3662), abs=5e-5)
    assert wilson(15, 148)[:3] == pytest.approx((15 / 148, 0.0624, 0.1605), abs=5e-5)
    assert wilson(0, 20)[:3] == pytest.approx((0, 0, 0.1611), abs=5e-5)
    assert wilson(29, 29)[1:] == pytest.approx((0.8830, 1.0, 29), abs=5e-5)


def test_accuracy_is_wilson() -> None:
    assert accuracy([True, False, True, True]) == wilson(3, 4)


@pytest.mark.parametrize(("successes", "n"), [(3, 2), (-1, 2), (0, 0), (1.5, 3)])
def test_wilson_refuses_impossible_counts(successes: float, n: int) -> None:
    with pytest.raises(ValueError, match="successes"):
        wilson(successes, n)


def test_mcnemar_known_answers() -> None:
    assert mcnemar_exact(1, 9) == pytest.approx(2 * 11 / 1024)  # 2 · P(X ≤ 1), X ~ B(10, ½)
    assert mcnemar_exact(9, 1) == mcnemar_exact(1, 9)
    assert mcnemar_exact(5, 5) == 1
    assert mcnemar_exact(0, 0) == 1


def test_paired_difference_known_answer() -> None:
    """Bonett & Price (2012), formula by hand: b = 12, c = 3, n = 50."""
    a = np.array([True] * 20 + [True] * 12 + [False] * 3 + [False] * 15)
    b = np.array([True] * 20 + [False] * 12 + [True] * 3 + [False] * 15)
    centre = 13 / 52 - 4 / 52
    half = 1.959964 * math.sqrt((17 / 52 - centre**2) / 52)
    estimate = paired_difference(a, b)
    assert estimate[:3] == pytest.approx((0.18, centre - half, centre + half), abs=1e-6)
    assert estimate.n == 50
    opposite = paired_difference(b, a)
    assert opposite[:3] == pytest.approx((-0.18, -centre - half, -centre + half), abs=1e-6)


def test_agreement_on_few_items_proves_nothing() -> None:
    same = np.ones(10, dtype=bool)
    few, many = paired_difference(same, same), paired_difference(np.ones(4000, bool), np.ones(4000, bool))
    assert few.value == many.value == 0
    assert few.low < -0.1
    assert few.high > 0.1
    assert -0.002 < many.low < 0 < many.high < 0.002


def test_paired_difference_covers() -> None:
    """Of 95 % intervals, about 95 % hold the true difference; an unpaired or wrong interval would not."""
    generator, covered, runs, n = rng(0, "coverage"), 0, 1000, 60
    for _ in range(runs):
        kind = generator.choice(4, size=n, p=[0.5, 0.2, 0.05, 0.25])  # both, only a, only b, none
        estimate = paired_difference(kind <= 1, (kind == 0) | (kind == 2))
        covered += estimate.low <= 0.15 <= estimate.high
    assert 0.93 < covered / runs < 0.98


def test_paired_difference_needs_the_same_items() -> None:
    with pytest.raises(ValueError, match="same items.*3 and 2"):
        paired_difference([1, 0, 1], [1, 0])
    with pytest.raises(ValueError, match="boolean"):
        paired_difference([0.5, 1], [1, 0])


def test_bootstrap_is_near_the_t_interval_for_normal_data() -> None:
    data = rng(0, "data").normal(0.3, 1, size=400)
    estimate = paired_bootstrap(data)
    t = scipy_stats.t.interval(0.95, 399, loc=data.mean(), scale=data.std(ddof=1) / 20)
    assert estimate.value == pytest.approx(data.mean())
    assert (estimate.low, estimate.high) == pytest.approx(t, abs=0.01)
    assert estimate.n == 400


def test_bootstrap_repeats_and_follows_its_seed() -> None:
    data = rng(0, "data").normal(size=50)
    assert paired_bootstrap(data) == paired_bootstrap(data)
    assert paired_bootstrap(data) != paired_bootstrap(data, seed=1)
    assert paired_bootstrap(data, level=0.5).high < paired_bootstrap(data).high


def test_bootstrap_of_equal_differences_is_not_nan() -> None:
    assert paired_bootstrap([0.25] * 7) == Estimate(0.25, 0.25, 0.25, 7)
    assert paired_bootstrap(np.zeros((3, 5))) == Estimate(0, 0, 0, 5)


def test_bootstrap_over_seeds_and_items_sees_both_spreads() -> None:
    generator = rng(0, "data")
    items = generator.normal(size=200)
    seeds = np.array([-1.0, -0.5, 0.0, 0.5, 1.0])[:, None]
    width = [
        paired_bootstrap(data, n_resamples=2000)
        for data in (np.tile(items, (5, 1)), seeds + np.zeros(200), seeds + items)
    ]
    only_items, only_seeds, both = (estimate.high - estimate.low for estimate in width)
    assert both > 1.02 * only_seeds > 1.02 * only_items
    one = paired_bootstrap(items)
    assert only_items == pytest.approx(one.high - one.low, rel=0.1)
    assert paired_bootstrap(items[None]) == one


@pytest.mark.parametrize("wrong", [[1.0, math.nan], [1.0, math.inf], [1.0], [], 3.0, np.zeros((2, 3, 4))])
def test_bootstrap_refuses_what_has_no_interval(wrong: object) -> None:
    with pytest.raises(ValueError, match="paired_bootstrap"):
        paired_bootstrap(wrong)


def test_smallest_detectable_is_what_a_power_analysis_says() -> None:
    """An interval of ±1.96 SE detects a true difference of 2.80 SE in 80 % of samples."""
    assert smallest_detectable(Estimate(0, -1.959964, 1.959964, 10)) == pytest.approx(2.8016, abs=1e-4)
    draws = rng(0, "power").normal(2.8016, 1, size=20_000)
    assert (np.abs(draws) > 1.959964).mean() == pytest.approx(0.8, abs=0.01)


def test_estimate_reads_well() -> None:
    assert str(Estimate(0.8312, 0.79, 0.8654321, 1200)) == "0.8312 (0.79 to 0.8654, n = 1,200)"


def test_calibration_known_answer() -> None:
    p = np.array([[0.9, 0.1], [0.9, 0.1], [0.3, 0.7], [0.3, 0.7]])
    found = calibration(p, [0, 1, 1, 1])
    assert found.ece == pytest.approx((abs(1 - 1.8) + abs(2 - 1.4)) / 4)
    assert [(b.above, b.to, b.accuracy.n) for b in found.bins] == [(0.6, 0.7, 2), (0.8, 0.9, 2)]
    assert [b.confidence for b in found.bins] == pytest.approx([0.7, 0.9])
    assert [b.accuracy.value for b in found.bins] == [1.0, 0.5]
    assert calibration([[1.0, 0.0]], [0]).ece == 0
    assert calibration([[1.0, 0.0]], [1]).ece == 1


def test_true_confidences_show_what_chance_shows() -> None:
    draws = rng(0, "calibration test")
    p = draws.dirichlet(np.ones(4), size=3000)
    labels = (p.cumsum(1) > draws.random((3000, 1))).argmax(1)
    found = calibration(p, labels)
    assert 0 < found.ece < 2.5 * found.ece_by_chance < 0.05
    sharper = p**3 / (p**3).sum(1, keepdims=True)
    assert calibration(sharper, labels).ece > 0.1


@pytest.mark.parametrize(
    ("p", "labels"),
    [([[0.5, 0.6]], [0]), ([[0.5, 0.5]], [2]), ([[0.5, 0.5]], [0, 1]), ([], []), ([[np.nan, 1]], [0])],
)
def test_calibration_refuses_what_is_no_probability(p: list, labels: list) -> None:
    with pytest.raises(ValueError, match="calibration"):
        calibration(p, labels)
