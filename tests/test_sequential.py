"""Sequential elimination: what it decides, how often it errs, and that it saves the evaluations it says."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from tests.worlds import Gaussians
from zsclib.papers.diffusion_classifier import classify
from zsclib.papers.diffusion_classifier.classifier import result_of
from zsclib.papers.diffusion_classifier.error_matrix import (
    as_staged,
    evaluations,
    nested,
    prediction,
    scores_from_errors,
    staged_prediction,
)
from zsclib.papers.diffusion_classifier.sequential import clark_jaini, nominal_level, sequential
from zsclib.prompts import fill
from zsclib.seeds import rng
from zsclib.workers import Execution


def normal_errors(n: int, C: int, K: int, gap: float) -> np.ndarray:
    """Errors of which class 0 has the lowest mean, by gap standard deviations."""
    errors = rng(0, "errors", n, C, K).normal(size=(n, C, K)).astype(np.float32)
    errors[:, 1:] += gap
    return errors


def test_looks_rise_by_half_octaves_to_all_timesteps():
    assert sequential(128).until == (3, 4, 6, 8, 12, 17, 24, 34, 48, 68, 128)
    assert sequential(32).until == (3, 4, 6, 8, 12, 17, 32)
    assert sequential(4).until == (3, 4)
    assert sequential(64, looks=(5, 20)).until == (5, 20, 64)
    assert clark_jaini(23).until == (20, 21, 22, 23)
    assert sequential(64).t == nested(64).t


def test_boundary_is_pocock_s():
    """Two looks, at m and M of so many timesteps that all of them never come: the normal pair's exact probability."""
    until = (1000, 2000, 10**7)
    level = float(nominal_level(np.array(0.05), until))
    z = stats.norm.isf(level)
    rho = np.sqrt(1000 / (10**7 - 1000) / (2000 / (10**7 - 2000)))
    both_below = stats.multivariate_normal([0, 0], [[1, rho], [rho, 1]]).cdf([z, z])
    assert 1 - both_below == pytest.approx(0.05, rel=2e-3)
    assert float(nominal_level(np.array(0.05), (10, 10**7))) == pytest.approx(0.05, rel=1e-2)  # a single look


def test_level_of_a_look_falls_as_looks_are_added():
    levels = [
        float(nominal_level(np.array(0.1), sequential(128, looks=looks).until))
        for looks in ((8,), (8, 32), (8, 16, 32, 64))
    ]
    assert 0.1 > levels[0] * 0.99 > levels[1] > levels[2] > 0.1 / 4


@pytest.mark.parametrize(("C", "gap"), [(2, 0.0), (2, 0.1), (6, 0.0)])
def test_errors_are_no_more_frequent_than_stated(C, gap):
    errors = normal_errors(1500, C, 64, gap)
    for alpha in (0.05, 0.3):
        decided, cost = staged_prediction(errors, sequential(64, alpha))
        wrong = (decided != prediction(errors)).mean()
        assert wrong < alpha + 3 * (alpha / 1500) ** 0.5
        assert cost.mean() < C * 64
    assert wrong > 0.03  # ties are where the rate is spent: the test is not idle


def test_clear_cases_take_the_minimum_and_ties_the_maximum():
    clear = normal_errors(50, 5, 64, 20.0)
    decided, cost = staged_prediction(clear, sequential(64))
    assert (decided == 0).all()
    assert cost.mean() < 5 * 4
    equal = np.repeat(normal_errors(5, 1, 64, 0), 3, axis=1)  # no difference is above zero
    decided, cost = staged_prediction(equal, sequential(64))
    assert (decided == 0).all()
    assert (cost == 3 * 64).all()


def test_a_smaller_alpha_costs_more():
    errors = normal_errors(200, 5, 64, 0.7)
    costs = [staged_prediction(errors, sequential(64, alpha))[1].mean() for alpha in (0.4, 0.1, 0.01)]
    assert costs == sorted(costs)
    assert costs[0] < 0.8 * costs[2]


def test_what_neighbouring_timesteps_share_is_no_error():
    """A difference that drifts with t is told from none as soon as one without drift."""
    steady = normal_errors(200, 2, 64, 1.0)
    drift = 6 * np.array(nested(64).t) / 1000 - 3
    drifting = steady + np.stack([0 * drift, drift]).astype(np.float32)
    costs = [staged_prediction(errors, sequential(64, minimum=12))[1].mean() for errors in (steady, drifting)]
    assert costs[1] < 1.3 * costs[0]
    plain = [staged_prediction(errors, clark_jaini(64, 12))[1].mean() for errors in (steady, drifting)]
    assert plain[1] > 1.3 * plain[0]


def test_clark_jaini_known_by_hand():
    """Differences 1, 2, 3 to the leader: mean 2, standard error 1 / sqrt(3), t = 3.46, two-sided p = 0.074."""
    errors = np.array([[[0, 0, 0, 9], [1, 2, 3, -20]]], np.float32)
    assert staged_prediction(errors, clark_jaini(4, 3, p=0.08))[0].tolist() == [0]
    assert staged_prediction(errors, clark_jaini(4, 3, p=0.08))[1].tolist() == [6]
    assert staged_prediction(errors, clark_jaini(4, 3, p=0.07))[0].tolist() == [1]
    assert staged_prediction(errors, clark_jaini(4, 3, p=0.07))[1].tolist() == [8]


@pytest.mark.parametrize("rule", [sequential(64, 0.2), clark_jaini(64, 6)])
def test_highest_score_is_the_prediction_and_images_stop_on_their_own(rule):
    errors = normal_errors(300, 6, 64, 0.6)
    staged = as_staged(errors, rule)
    np.testing.assert_array_equal(scores_from_errors(staged).argmax(1), prediction(staged))
    evaluated = (~np.isnan(staged)).sum(2)
    assert len(np.unique(evaluated.max(1))) > 3
    assert set(np.unique(evaluated)) <= {0, *rule.until}
    for i in (0, 7, 123):  # an image is decided as if it were alone
        np.testing.assert_array_equal(as_staged(errors[i : i + 1], rule)[0], staged[i])


@pytest.mark.parametrize("rule", [sequential(32, T=100), clark_jaini(32, 5, T=100)])
def test_classify_measures_what_the_replay_says(rule):
    world = Gaussians()
    images, labels = world.sample(40)
    prompts = fill("class {}", list("012345"))
    full = classify(world, images, prompts, nested(32, 100))
    world.evaluations, progress = 0, []
    execution = Execution(batch=50, images_at_once=16, progress=lambda *step: progress.append(step))
    result = classify(world, images, prompts, rule, execution=execution)
    derived = result_of(as_staged(full.errors, rule), rule.t)
    np.testing.assert_array_equal(np.isnan(result.errors), np.isnan(derived.errors))
    np.testing.assert_array_equal(result.prediction, derived.prediction)
    np.testing.assert_array_equal(result.evaluations, derived.evaluations)
    assert progress == [("images", done, 40) for done in (0, 16, 32, 40)]
    assert world.evaluations == result.evaluations.sum() < 0.6 * full.evaluations.sum()
    assert (result.prediction == labels).mean() >= 0.9
    assert len(np.unique(result.evaluations)) > 3


def test_several_prompts_of_a_class_are_tested_as_one():
    world = Gaussians()
    images, _ = world.sample(8)
    rule = sequential(16, T=100)
    result = classify(world, images, [["class 0", "class 1"], "class 2", "class 3"], rule)
    timesteps_each = (~np.isnan(result.errors)).sum(2)
    np.testing.assert_array_equal(result.evaluations, timesteps_each @ [2, 1, 1])
    np.testing.assert_array_equal(result.evaluations, evaluations(result.errors, np.array([2, 1, 1])))


@pytest.mark.parametrize(
    ("rule", "arguments", "message"),
    [
        (sequential, {"K": 3}, "minimum < K"),
        (sequential, {"K": 64, "alpha": 0.0}, "0 < alpha"),
        (sequential, {"K": 64, "alpha": 0.6}, "alpha <= 0.5"),
        (sequential, {"K": 64, "minimum": 1}, "2 <= minimum"),
        (sequential, {"K": 64, "lent": -1}, "lent >= 0"),
        (sequential, {"K": 64, "looks": (8, 4)}, r"rise within 3..63"),
        (sequential, {"K": 64, "looks": ()}, "must rise"),
        (sequential, {"K": 64, "looks": (8, 64)}, "must rise"),
        (sequential, {"K": 1001}, "from 1 to 1000"),
        (clark_jaini, {"K": 10}, "minimum <= K"),
        (clark_jaini, {"K": 30, "p": 0}, "0 < p < 1"),
    ],
)
def test_impossible_rules(rule, arguments, message):
    with pytest.raises(ValueError, match=message):
        rule(**arguments)
