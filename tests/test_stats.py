"""Intervals and tests against published or hand-made answers, and their coverage by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from zsclib.seeds import rng
from zsclib.study.stats import (
    Effect,
    Estimate,
    accuracy,
    calibration,
    crossed,
    effect,
    expected_half_width,
    heterogeneity,
    holm,
    interval,
    mean_effect,
    paired_difference,
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
    generator, covered, runs, n = rng(0, "coverage"), 0, 4000, 60
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


def test_one_run_of_two_classifiers_is_a_paired_difference() -> None:
    generator = rng(0, "runs")
    a, b = generator.random(50) < 0.8, generator.random(50) < 0.6
    differences = a.astype(float) - b
    assert interval(differences) == paired_difference(a, b)
    assert interval(differences[None]) == paired_difference(a, b)
    assert interval(differences, 0.5).high < interval(differences).high
    assert interval(np.zeros(10)).low < -0.1  # agreement on few images proves nothing


def test_other_numbers_have_students_t_interval() -> None:
    data = rng(0, "data").normal(0.3, 1, size=400)
    estimate = interval(data)
    t = scipy_stats.ttest_1samp(data, 0).confidence_interval(0.95)
    assert estimate == pytest.approx((data.mean(), t.low, t.high, 400))
    assert interval(data[None]) == estimate
    assert interval(np.full(7, 0.25)) == Estimate(0.25, 0.25, 0.25, 7)


def test_crossed_known_answer() -> None:
    """By hand: S = 2, n = 3; means of seeds 1 and 3, of images 1, 2, 3; MS 6, 2 and rest 0."""
    d = np.array([[0.0, 1, 2], [2, 3, 4]])
    mean, variance, df = crossed(d)
    assert mean == 2
    assert variance == pytest.approx((6 + 2 - 0) / 6)
    assert df == pytest.approx(1 / (0.75 / 1 + 0.25 / 2))
    half = scipy_stats.t.ppf(0.975, df) * math.sqrt(8 / 6)
    assert interval(d) == pytest.approx((2, 2 - half, 2 + half, 3))


def test_crossed_is_the_t_interval_of_seeds_where_images_do_not_differ() -> None:
    seeds = np.array([0.1, 0.3, 0.2, 0.35])
    rest = rng(0, "rest").normal(size=(4, 50))
    rest -= rest.mean(0)  # no image differs from another
    rest -= rest.mean(1, keepdims=True)
    estimate = interval(seeds[:, None] + rest)
    t = scipy_stats.ttest_1samp(seeds, 0).confidence_interval(0.95)
    assert estimate[:3] == pytest.approx((seeds.mean(), t.low, t.high))


def test_crossed_sees_both_spreads_and_takes_many_studies_at_once() -> None:
    generator = rng(0, "data")
    items = generator.normal(size=200)
    seeds = np.array([-1.0, -0.5, 0.0, 0.5, 1.0])[:, None]
    noise = generator.normal(size=(5, 200))
    data = np.stack([noise + items, noise + seeds, noise + items + seeds])
    only_items, only_seeds, both = (e.high - e.low for e in map(interval, data))
    assert both > only_seeds > only_items
    mean, variance, df = crossed(data)
    for i in range(3):
        assert effect(data[i])[1:4] == pytest.approx((mean[i], math.sqrt(variance[i]), df[i]))
    assert 4 < df[2] < df[0] < 199


def test_only_differences_without_any_spread_have_no_width() -> None:
    assert interval(np.full((3, 5), 0.5)) == Estimate(0.5, 0.5, 0.5, 5)
    assert interval(np.zeros((3, 5))) == interval(np.zeros(5))  # which has one: five images prove little
    chance = interval(
        np.array([[1, 1, 1, 0], [1, 1, 0, 1.0]])
    )  # seeds are equal, images differ less than the rest
    assert chance.low < 0 < 0.75 < chance.high


def test_differences_of_correctness_stay_within_one() -> None:
    d = np.array([[1, 1, 1, 0], [1, 0, 0, 1.0]])
    assert interval(d).high == 1
    assert interval(2 * d).high > 2


@pytest.mark.parametrize("wrong", [[1.0, math.nan], [1.0, math.inf], [1.0], [], 3.0, np.zeros((2, 3, 4))])
def test_interval_refuses_what_has_none(wrong: object) -> None:
    with pytest.raises(ValueError, match="effect: differences must be finite"):
        interval(wrong)


def test_exceeds_is_a_t_test() -> None:
    data = rng(0, "data").normal(0.3, 1, size=30)
    test = scipy_stats.ttest_1samp(data, 0.1, alternative="greater")
    assert effect(data).exceeds(0.1) == pytest.approx(test.pvalue)
    assert effect([0.5, 0.5]).exceeds(0.1) == 0.5


def test_mean_effect_is_welch_for_two_sets() -> None:
    """The mean of x and −y is half the difference of x and y: Welch's test."""
    generator = rng(0, "welch")
    x, y = generator.normal(0.3, 1, 12), generator.normal(0, 2, 30)
    welch = scipy_stats.ttest_ind(x, y, equal_var=False)
    low, high = welch.confidence_interval(0.95)
    mean = mean_effect([effect(x), effect(-y)])
    assert mean.df == pytest.approx(welch.df)
    assert mean.interval()[1:3] == pytest.approx((low / 2, high / 2))
    assert mean.n == 42


def test_mean_effect_weighs_sets_equally_and_leaves_one_as_it_is() -> None:
    small, large = effect(np.r_[np.ones(10), np.zeros(10)]), effect(np.zeros(2000))
    assert mean_effect([small, large]).value == 0.25
    for one in (small, effect(rng(0, "one").normal(size=(3, 20)))):
        assert mean_effect([one]) == pytest.approx(one)
    with pytest.raises(ValueError, match="no effects"):
        mean_effect([])


def test_heterogeneity_known_answer() -> None:
    """By hand: effects 1 and 3 with standard errors 1 and 1; their mean is 2, Q = 2."""
    one, three = Effect(1, 1, 1, 9, 10), Effect(3, 3, 1, 9, 10)
    result = heterogeneity([one, three])
    assert (result.q, result.p, result.i2) == pytest.approx((2, scipy_stats.chi2.sf(2, 1), 0.5))
    assert str(result) == "Q = 2.0, p = 0.16, I² = 50 %"
    assert heterogeneity([one, one]).i2 == 0
    assert heterogeneity([one]) is None
    assert heterogeneity([one, Effect(3, 3, 0, 9, 10)]) is None


def test_holm_known_answer() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1, 1]
    assert holm([]) == []


def test_expected_half_width_is_what_comes_out() -> None:
    """Of simulated differences with the assumed variance, the intervals reach as far as expected."""
    generator = rng(0, "expected")
    kind = generator.random((200, 400))
    runs = (kind < 0.1) * 1.0 - (kind > 0.9)
    widths = [(e.high - e.low) / 2 for e in map(interval, runs)]
    assert expected_half_width(400) == pytest.approx(np.mean(widths), rel=0.03)
    # of an image's differences over seeds, half the variance is the image's own
    same = generator.random((200, 1, 400)) < 0.5
    image, anew = ((x < 0.1) * 1.0 - (x > 0.9) for x in generator.random((2, 200, 8, 400)))
    crossed_runs = np.where(same, image[:, :1], anew) + generator.normal(0, 0.02, (200, 8, 1))
    widths = [(e.high - e.low) / 2 for e in map(interval, crossed_runs)]
    assert expected_half_width(400, seeds=8) == pytest.approx(np.mean(widths), rel=0.05)


def test_expected_half_width_shrinks_with_all_that_costs() -> None:
    base = expected_half_width(200, 3)
    assert base > expected_half_width(400, 3) > expected_half_width(400, 8) > expected_half_width(400, 8, 4)
    assert expected_half_width(200, discordance=0.05) == pytest.approx(expected_half_width(200) / 2)
    assert expected_half_width(200, 3, seed_sd=0.06) > 2 * base
    for wrong in ({"n": 1}, {"n": 9, "seeds": 0}, {"n": 9, "sets": 0}, {"n": 9, "discordance": 0}):
        with pytest.raises(ValueError, match="expected_half_width"):
            expected_half_width(**wrong)


def test_estimate_reads_well() -> None:
    assert str(Estimate(0.8312, 0.79, 0.8654321, 1200)) == "0.8312 (0.79 to 0.8654, n = 1,200)"


def test_calibration_known_answer() -> None:
    p = np.array([[0.9, 0.1], [0.9, 0.1], [0.3, 0.7], [0.3, 0.7]])
    result = calibration(p, [0, 1, 1, 1])
    assert result.ece == pytest.approx((abs(1 - 1.8) + abs(2 - 1.4)) / 4)
    assert [(b.above, b.to, b.accuracy.n) for b in result.bins] == [(0.6, 0.7, 2), (0.8, 0.9, 2)]
    assert [b.confidence for b in result.bins] == pytest.approx([0.7, 0.9])
    assert [b.accuracy.value for b in result.bins] == [1.0, 0.5]
    assert calibration([[1.0, 0.0]], [0]).ece == 0
    assert calibration([[1.0, 0.0]], [1]).ece == 1


def test_true_confidences_show_what_chance_shows() -> None:
    generator = rng(0, "calibration test")
    p = generator.dirichlet(np.ones(4), size=3000)
    labels = (p.cumsum(1) > generator.random((3000, 1))).argmax(1)
    result = calibration(p, labels)
    assert 0 < result.ece < 2.5 * result.ece_by_chance < 0.05
    sharper = p**3 / (p**3).sum(1, keepdims=True)
    assert calibration(sharper, labels).ece > 0.1


@pytest.mark.parametrize(
    ("p", "labels"),
    [([[0.5, 0.6]], [0]), ([[0.5, 0.5]], [2]), ([[0.5, 0.5]], [0, 1]), ([], []), ([[np.nan, 1]], [0])],
)
def test_calibration_refuses_what_is_no_probability(p: list, labels: list) -> None:
    with pytest.raises(ValueError, match="calibration"):
        calibration(p, labels)
