"""Effective robustness: lines with known answers, intervals that cover, errors that say what is wrong."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit, logit

from zsclib.papers.diffusion_classifier.robustness import (
    Accuracies,
    Line,
    above_line,
    band,
    effective_robustness,
    fit_line,
    rates,
)

STANDARD = np.array([0.6, 0.8, 0.9, 0.97])


def correct(accuracies, n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((len(accuracies), n)) < np.asarray(accuracies)[:, None]


def test_a_line_in_logits_is_recovered():
    line = fit_line(STANDARD, expit(-1.5 + 0.7 * logit(STANDARD)))
    assert (line.intercept, line.slope) == pytest.approx((-1.5, 0.7))
    assert line.at([0.5, 0.8]) == pytest.approx([expit(-1.5), expit(-1.5 + 0.7 * logit(0.8))])


def test_the_line_is_that_of_least_squares():
    shifted = np.array([0.2, 0.5, 0.4, 0.7])
    slope, intercept = np.polyfit(logit(STANDARD), logit(shifted), 1)
    assert fit_line(STANDARD, shifted) == Line(pytest.approx(intercept), pytest.approx(slope))


def test_rates_are_never_0_or_1_and_weights_count_images():
    accuracies = rates([[1, 1, 1], [0, 0, 0], [1, 0, 0]])
    assert accuracies == pytest.approx([3.5 / 4, 0.5 / 4, 1.5 / 4])
    assert rates([[1, 0, 0]], [[3, 0, 0], [0, 1, 2]]).ravel() == pytest.approx([3.5 / 4, 0.5 / 4])


def test_a_classifier_on_the_line_has_no_effective_robustness_and_one_above_it_has_its_distance():
    n, line = 5000, Line(-1.0, 0.8)
    standard, shifted = correct(STANDARD, n, 0), correct(line.at(STANDARD), n, 1)
    for extra in (0.0, 0.2):
        ours = correct([0.9], n, 2)[0], correct([line.at(0.9) + extra], n, 3)[0]
        value, low, high = effective_robustness(standard, shifted, *ours, resamples=300)
        assert abs(value - extra) < 0.03 and low < value < high and high - low < 0.06


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    line, covered, n = Line(-1.0, 0.8), 0, 150
    for trial in range(60):
        samples = [
            correct(a, n, 10 * trial + i) for i, a in enumerate((STANDARD, line.at(STANDARD), [0.9], [0.75]))
        ]
        _, low, high = effective_robustness(
            samples[0], samples[1], samples[2][0], samples[3][0], resamples=300
        )
        covered += low < 0.75 - line.at(0.9) < high
    assert 51 <= covered <= 60


def test_fewer_images_give_a_wider_interval_and_a_seed_the_same_one():
    wide, narrow = (
        effective_robustness(
            correct(STANDARD, n, 0), correct(STANDARD / 2, n, 1), correct([0.9], n, 2)[0], correct([0.5], n, 3)[0]
        )
        for n in (100, 1600)
    )
    assert wide[2] - wide[1] > 2 * (narrow[2] - narrow[1])
    again = effective_robustness(
        correct(STANDARD, 100, 0), correct(STANDARD / 2, 100, 1), correct([0.9], 100, 2)[0], correct([0.5], 100, 3)[0]
    )
    assert again == wide


def test_the_band_holds_the_line_and_is_narrowest_amid_the_networks():
    line, at = Line(-1.0, 0.8), np.array([0.1, 0.86, 0.999])
    low, high = band(correct(STANDARD, 2000, 0), correct(line.at(STANDARD), 2000, 1), at, resamples=200)
    assert (low < line.at(at)).all() and (line.at(at) < high).all()
    width = logit(high) - logit(low)
    assert width[1] < width[0] and width[1] < width[2]


def test_resamples_in_which_no_network_differs_spoil_no_interval():
    standard, shifted = np.array([[1, 1, 1, 0], [1, 1, 1, 1]]), np.array([[1, 0, 1, 0], [1, 1, 0, 0]])
    estimate = effective_robustness(standard, shifted, standard[0], shifted[1], resamples=200)
    assert np.isfinite(estimate).all() and estimate[1] < estimate[2]


@pytest.mark.parametrize(
    "standard, shifted, message",
    [
        ([0.9], [0.5], "two networks or more"),
        ([0.9, 0.9], [0.5, 0.6], "which differ without shift"),
        ([0.9, 1.0], [0.5, 0.6], r"in \(0, 1\)"),
        ([0.9, 0.8], [0.5], "two accuracies"),
    ],
)
def test_no_line_where_none_can_be_fitted(standard, shifted, message):
    with pytest.raises(ValueError, match=message):
        fit_line(standard, shifted)


def test_other_images_for_one_of_them_are_an_error():
    with pytest.raises(ValueError, match="2 networks, 3 under shift"):
        effective_robustness(np.ones((2, 5)), np.ones((3, 5)), np.ones(5), np.ones(5))


KINDS = ["a", "a", "b", "b", "c", "d"]
SIX = np.array([0.6, 0.65, 0.8, 0.82, 0.9, 0.97])


def networks(scatter: float, n: int = 4000) -> Accuracies:
    """Six networks of four kinds, off a line by `scatter` in logits to either side, under two shifts."""
    line = Line(-1.0, 0.8)
    off = scatter * np.array([1, 1, -1, -1, 1, -1])
    under = expit(logit(line.at(SIX)) + off)
    return Accuracies(correct(SIX, n, 0), [correct(under, n, 1), correct(under, n, 2)], KINDS)


def test_a_classifier_is_held_against_how_far_networks_stray():
    line, n = Line(-1.0, 0.8), 4000
    ours = correct([0.85], n, 5)[0], [correct([line.at(0.85) + 0.15], n, 6 + i)[0] for i in range(2)]
    close, wide = (above_line(networks(scatter, n), *ours, resamples=300) for scatter in (0.0, 0.8))
    assert close[0] == pytest.approx(0.15, abs=0.03) and 0 < close[1] < close[0] < close[2]
    assert wide[1] < 0 < wide[2] and wide[2] - wide[1] > 2 * (close[2] - close[1])


def test_what_networks_gain_over_one_another_is_taken_off():
    """Of one shift: the distance from all networks, less the mean of each one's from those of other kinds."""
    n, random = 400, np.random.default_rng(3)
    standard, shifted = correct(SIX, n, 7), correct(SIX**3 + random.uniform(0, 0.1, 6), n, 8)
    ours, kinds = (correct([0.85], n, 9)[0], correct([0.8], n, 10)[0]), np.array(KINDS)

    def distance(others: np.ndarray, one: tuple[np.ndarray, np.ndarray]) -> float:
        return effective_robustness(standard[others], shifted[others], *one, resamples=2)[0]

    each = [distance(kinds != kind, (standard[m], shifted[m])) for m, kind in enumerate(kinds)]
    value, low, high = above_line(Accuracies(standard, [shifted], KINDS), ours[0], [ours[1]], resamples=200)
    assert value == pytest.approx(distance(kinds != "", ours) - np.mean(each)) and abs(np.mean(each)) > 1e-3
    assert low < value < high


def test_a_network_held_against_the_others_has_no_robustness_of_its_own():
    line, n = Line(-1.0, 0.8), 4000
    ours = correct([0.85], n, 5)[0], [correct([line.at(0.85)], n, 6 + i)[0] for i in range(2)]
    value, low, high = above_line(networks(0.1, n), *ours, resamples=300)
    assert abs(value) < 0.03 and low < 0 < high
    with pytest.raises(ValueError, match="needs three kinds of networks"):
        few = networks(0.1, 50)
        above_line(few._replace(kinds=["a"] * 3 + ["b"] * 3), np.ones(50), [np.ones(50)] * 2)
