"""What the page shows of the study's choices, sets and adapters, also while nothing of it is on record."""

from __future__ import annotations

import re

import pytest

from zsclib.papers.datadream.classifiers import Cell
from zsclib.papers.datadream.contrasts import ALL_CLASSES, BY_CLASS, DISEF, PROMPTED, SHOTS
from zsclib.papers.datadream.experiments import name_of
from zsclib.papers.datadream.outcomes import by_seed
from zsclib.study.figures import datadream_records as figures


def rows_of(html: str) -> list[list[str]]:
    rows = [re.findall(r"<td>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", html, re.DOTALL)]
    return [row for row in rows if row]


def made(seconds: float, **more: object) -> dict:
    costs = {"evaluations": 160.0, "tuning_samples": 0, "seconds": seconds}
    return {"delivered": [6, 4], "compared": [4, 4]} | costs | more


@pytest.fixture
def choices() -> dict:
    trials = [{"learning_rate": rate, "accuracies": [0.5, 0.6, last]} for rate, last in ((1e-3, 0.7), (3e-3, 0.8))]
    chosen = {"learning_rate": 3e-3, "check": 2, "step": 200, "images": 40, "trials": trials}
    names = {name_of(Cell("", arm, n=n)): n for arm, n in ((SHOTS, 0), (PROMPTED, 64))}
    trained = [
        {name: {"held_out": held_out, "step": 200, "learning_rate": rate} for name in names}
        for held_out, rate in ((0.75, 3e-3), (0.85, 1e-3))  # with the second seed the loss was not finite at the first
    ]
    falls, rises = ({"loss before": [0.2, 0.4], "loss after": [0.1, after]} for after in (0.2, 0.8))
    adapters = [{"loss before": [0.4, 0.4], "loss after": [after, after]} for after in (0.3, 0.6)]
    by_seed = [
        {
            "prompted; 16 shots": made(2.0),
            f"{DISEF}; 16 shots": made(4.0, attempts=[12, 8], unfiltered=[1, 0]),
            f"{BY_CLASS}; 16 shots": made(2.0, tuning_samples=800, **own),
            f"{ALL_CLASSES}; 16 shots": made(2.0, tuning_samples=800, **of_all),
        }
        for own, of_all in zip((falls, rises), adapters, strict=True)
    ]
    notes = {"choices": {f"digits; {arm}; alone; CLIP": chosen for arm in (SHOTS, PROMPTED)}}
    notes |= {f"sets-{seed}": sets for seed, sets in enumerate(by_seed)}
    notes |= {f"classifiers-{seed}": one for seed, one in enumerate(trained)}
    return {"digits": notes, "aerial-hard": {"choices": {f"aerial-hard; {SHOTS}; alone; CLIP": chosen}}}


def test_a_choice_stands_with_all_that_it_was_made_among_and_with_every_seed(choices):
    rows = rows_of(figures.choices_table(choices).data)
    text = "0.003, step 200 (70, 80)"
    assert rows == [
        [f"{SHOTS}, alone", "CLIP", f"{text}: 75, 85*", text],
        [f"{PROMPTED}, alone", "CLIP", f"{text}: 75, 85*", "–"],
    ]


def test_accuracies_at_every_check_are_those_of_the_middle_rate(choices):
    rows = rows_of(figures.checks_table(choices).data)
    assert rows == [
        [f"{SHOTS}, alone, CLIP", "50, 60, 80", "50, 60, 80"],
        [f"{PROMPTED}, alone, CLIP", "50, 60, 80", "–"],
    ]


def test_costs_are_means_and_deliveries_the_fewest(choices):
    rows = {row[0]: row[1:] for row in rows_of(figures.sets_table(choices).data)}
    assert rows["prompted; 16 shots"] == ["16", "0", "200", "–", "–", "4", "–"]
    assert rows[f"{DISEF}; 16 shots"][2:5] == ["400", "2", "10 %"]
    assert rows[f"{BY_CLASS}; 16 shots"][1] == "400"  # of each of two classes
    gained = {"prompted; 16 shots": ("+1.0 points", None)}
    beside = {row[0]: row[1:] for row in rows_of(figures.sets_table(choices, gained).data)}
    assert beside["prompted; 16 shots"][5:7] == ["+1.0 points", "–"] and beside[f"{DISEF}; 16 shots"][5:7] == ["–", "–"]
    fewer = {"digits": {"sets-0": {"prompted; 1 shots": made(1.0, delivered=[9, 9])}}}
    assert rows_of(figures.sets_table(fewer).data)[0][-1] == "9 / 4"


def test_losses_are_those_of_the_adapters_one_for_all_classes_or_one_for_each(choices):
    rows = rows_of(figures.losses_table(choices).data)
    assert rows == [
        [f"{BY_CLASS}; 16 shots", "\N{MINUS SIGN}12.5 (\N{MINUS SIGN}50.0 to +100.0), 1 of 4 rose", "–"],
        [f"{ALL_CLASSES}; 16 shots", "+12.5 (\N{MINUS SIGN}25.0 to +50.0), 1 of 2 rose", "–"],
    ]


@pytest.mark.parametrize("nothing", [{}, {"digits": {}}])
def test_with_nothing_on_record_there_are_no_rows(nothing):
    for table in (figures.choices_table, figures.checks_table, figures.sets_table, figures.losses_table):
        assert rows_of(table(nothing).data) == []


def test_what_was_noted_of_seeds_comes_in_the_order_of_their_numbers():
    notes = {f"sets-{seed}": {"seed": seed} for seed in (10, 2, 0)} | {"labels": {}, "choices": {}}
    assert [one["seed"] for one in by_seed(notes, "sets")] == [0, 2, 10]
