"""Which learning rate and check count: the middle and the last, unless validation images clearly say otherwise."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from zsclib.papers.datadream.choices import choice, clear_gain

N = 40


def trial(rate: float, *correct: int) -> tuple:
    """A training with so many correct validation images, the first ones, at each of its checks."""
    labels = np.arange(N) % 4
    predicted = np.stack([np.where(np.arange(N) < count, labels, -1) for count in correct])
    of = SimpleNamespace(one=SimpleNamespace(validation=SimpleNamespace(labels=labels)))
    outcome = {"validation": predicted, "step": 25 * np.arange(len(correct)), "learning_rate": np.array(rate)}
    return SimpleNamespace(of=of), outcome


def test_the_middle_rate_and_its_last_check_count_unless_another_is_clearly_better():
    low, high = trial(1e-3, 0, 20, 23), trial(1e-2, 0, 24, 10)
    usual = choice([low, trial(3e-3, 0, 21, 22), high])
    assert (usual["learning_rate"], usual["check"], usual["step"], usual["images"]) == (3e-3, 2, 50, N)
    clearly = choice([low, trial(3e-3, 0, 12, 10), high])  # by both others, most by the higher one's first check
    assert (clearly["learning_rate"], clearly["check"], clearly["step"]) == (1e-2, 1, 25)
    assert clearly["trials"][0] == {"learning_rate": 1e-3, "accuracies": [0, 0.5, 0.575]}
    assert json.loads(json.dumps(clearly)) == clearly


def test_what_was_before_any_step_is_no_choice():
    assert choice([trial(1e-3, 40, 5, 6)])["check"] == 2


def test_of_two_rates_the_higher_one_is_the_default():
    assert choice([trial(1e-3, 0, 20), trial(1e-2, 0, 20)])["learning_rate"] == 1e-2


@pytest.mark.parametrize(("gained", "lost", "clear"), [(4, 0, False), (6, 0, True), (0, 6, False), (9, 3, False)])
def test_a_gain_on_few_images_is_clear_or_not(gained, lost, clear):
    correct, rival = np.zeros(32, bool), np.zeros(32, bool)
    correct[:gained] = True
    rival[16 : 16 + lost] = True
    assert (clear_gain(correct, rival) > 0) == clear


def test_noise_alone_rarely_moves_a_choice():
    draws, moved = np.random.default_rng(0), 0
    for _ in range(300):
        ease = draws.random(N)
        trials = []
        for rate in (1e-3, 3e-3, 1e-2):
            labels = np.arange(N) % 4
            predicted = np.where(0.5 * ease + 0.5 * draws.random((5, N)) < 0.5, labels, -1)
            of = SimpleNamespace(one=SimpleNamespace(validation=SimpleNamespace(labels=labels)))
            outcome = {"validation": predicted, "step": np.arange(5), "learning_rate": np.array(rate)}
            trials.append((SimpleNamespace(of=of), outcome))
        moved += choice(trials)["check"] != 4 or choice(trials)["learning_rate"] != 3e-3
    assert moved / 300 < 0.2  # of eleven pairs that are none the better, each a chance of about one in forty
