"""What training steps change is read off trainings of each length, and a verdict that they change does not stand."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest

from zsclib.papers.diversity.contrasts import KINDS, unsettled
from zsclib.papers.diversity.experiments import name_of
from zsclib.papers.diversity.outcomes import differences, table_of
from zsclib.papers.diversity.training_sets import Cell
from zsclib.seeds import rng
from zsclib.study.claims import load_claims
from zsclib.study.figures import diversity_length as figures
from zsclib.study.stats import interval

TARGETS, STEPS, LENGTHS = ("objects-hard", "digits"), 1024, (0.0625, 0.25, 1, 2)
CLAIMS = [claim for claim in load_claims().values() if claim.paper == "diversity"]
SHARES = {("base", 1): 0.4, ("union", 1): 0.6, ("base", 4): 0.45, ("union", 4): 0.65}  # kinds +.2, number +.05


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def correctness(share: float, *keys: str | int) -> np.ndarray:
    """Exactly this share of 400 images, others with every seed."""
    first = np.arange(400) < round(400 * share)
    return np.stack([rng(seed, "lengths", *keys).permutation(first) for seed in range(3)]).astype(float)


@pytest.fixture
def recorded() -> dict:
    """A record in which training steps change nothing."""
    every = {}
    for (arm, times), share in SHARES.items():
        for length in LENGTHS:
            by_target = {target: correctness(share, arm, times, target) for target in TARGETS}
            every[name_of(Cell("", arm, times, length=length))] = by_target
    return every


def test_curves_go_through_what_was_measured(recorded):
    name = name_of(Cell("", "base", length=0.25))
    recorded[name]["objects-hard"] = short = correctness(0.3, "short")
    del recorded[name_of(Cell("", "union", 4, length=2))]["digits"]
    first, second = figures.lengths(table_of(recorded), STEPS).axes[:2]
    lines = {line.get_label(): line for line in first.lines}
    assert list(lines["naive"].get_xdata()) == [64, 256, 1024, 2048]
    assert lines["naive"].get_ydata()[1] == pytest.approx(short.mean())
    assert "real images" not in lines
    lines = {line.get_label(): line for line in second.lines}
    assert list(lines["all combined"].get_xdata()) == [64, 256, 1024]


def test_what_kinds_and_number_are_worth_is_drawn_in_points_at_every_length(recorded):
    del recorded[name_of(Cell("", "union", 4, length=0.25))]["digits"]
    first, second = figures.kinds_by_length(table_of(recorded), STEPS).axes[:2]
    lines = {line.get_label(): line for line in first.lines}
    np.testing.assert_allclose(lines["kinds, both orders"].get_ydata(), [20] * 4)
    np.testing.assert_allclose(lines["number, both orders"].get_ydata(), [5] * 4)
    np.testing.assert_allclose(lines["kinds less number"].get_ydata(), [15] * 4)
    lines = {line.get_label(): line for line in second.lines}
    assert list(lines["kinds, at N"].get_xdata()) == [64, 256, 1024, 2048]  # which needs no set of 4 N
    assert list(lines["kinds, both orders"].get_xdata()) == [64, 1024, 2048]


def test_which_trainings_had_ended_is_said_of_every_set(recorded):
    assert figures.flatness(table_of(recorded)).startswith("Twice the steps add less than 2 points: naive on objects")
    recorded[name_of(Cell("", "union", 4, length=2))]["digits"] = np.ones((3, 400))
    half = correctness(0.4, "base", 1, "objects-hard")
    half[0, :24] = 1 - half[0, :24]  # one seed goes its own way
    recorded[name_of(Cell("", "base", length=2))]["objects-hard"] = half
    text = figures.flatness(table_of(recorded))
    rising, flat, wide = text.split(". ")
    assert rising.endswith("training had not ended: all combined on digits")
    assert flat.startswith("They add less") and "naive on digits" in flat and "all combined on digits" not in flat
    assert wide == "The interval holds 2 points, so that it is not shown that the curve is flat: naive on objects-hard."
    assert "not been measured" in figures.flatness(table_of(recorded), "vit-b")


KINDS_AND_NUMBER = ["DIV-D7", "DIV-D7-kinds", "DIV-D7-number", "DIV-D7-share", "DIV-A-size"]  # of those that are here


def test_a_verdict_stands_where_twice_the_steps_change_nothing(recorded):
    twice = figures.twice_as_long(table_of(recorded), CLAIMS)
    assert list(dict.fromkeys(twice["claim"])) == KINDS_AND_NUMBER
    assert twice[twice.claim == "DIV-D7"]["target"].tolist() == [*TARGETS, figures.MEAN]
    assert set(twice["verdict"]) == {"reproduced"} and all(change.value == 0 for change in twice["change"])
    assert unsettled(table_of(recorded)) == {} and set(differences(recorded)["DIV-D7"]) == set(TARGETS)


def test_a_contrast_that_twice_the_steps_change_is_not_testable_there_and_judged_elsewhere(recorded):
    union, base = (name_of(Cell("", arm, length=2)) for arm in ("union", "base"))
    recorded[union]["digits"] = recorded[base]["digits"].copy()
    table = table_of(recorded)
    twice = figures.twice_as_long(table, CLAIMS).set_index(["claim", "target"])
    row, mean = twice.loc["DIV-D7", "digits"], twice.loc["DIV-D7", figures.MEAN]
    assert row.verdict == figures.NOT_TESTABLE
    assert row.once.value == pytest.approx(0.2) and row.twice.value == 0 and row.change.value == pytest.approx(-0.2)
    once = recorded[name_of(Cell("", "union"))]["digits"] - recorded[name_of(Cell("", "base"))]["digits"]
    assert row.once == interval(once) and row.change == interval(-once)
    assert twice.loc["DIV-D7", "objects-hard"].verdict == mean.verdict == "reproduced"
    assert mean.once == twice.loc["DIV-D7", "objects-hard"].once and mean.change.value == 0
    assert unsettled(table)["DIV-D7"] == ["digits"] and set(differences(recorded)["DIV-D7"]) == {"objects-hard"}
    assert figures.NOT_TESTABLE in figures.twice_table(figures.twice_as_long(table, CLAIMS)).data


def test_a_change_of_less_than_half_an_effect_leaves_its_verdict(recorded):
    name = name_of(Cell("", "union", length=2))
    for own in recorded[name]["digits"]:
        own[np.flatnonzero(own == 0)[: round(0.05 * own.size)]] = 1  # of 0.2
    assert "DIV-D7" not in unsettled(table_of(recorded))


def test_a_change_within_the_spread_of_seeds_is_none(recorded):
    name = name_of(Cell("", "union", length=2))
    for seed, share in enumerate((0.1, -0.12, 0.05)):  # seeds go their own ways
        own = recorded[name]["digits"][seed]
        wrong = np.flatnonzero(own == (share < 0))[: round(400 * abs(share))]
        own[wrong] = 1 - own[wrong]
    assert "DIV-D7" not in unsettled(table_of(recorded))


def test_nothing_is_read_twice_before_it_is_measured_twice(recorded):
    short = {name: by_target for name, by_target in recorded.items() if "; 2 of the steps" not in name}
    assert figures.twice_as_long(table_of(short), CLAIMS).empty and figures.twice_as_long(table_of({}), CLAIMS).empty
    assert "not been measured" in figures.flatness(table_of(short))
    figures.lengths(table_of({}), STEPS)
    one = {name_of(Cell("", "base")): short[name_of(Cell("", "base"))]}
    figures.kinds_by_length(table_of(one), STEPS)
    assert {side[:2] for side in KINDS} == set(SHARES)
