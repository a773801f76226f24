"""Figures and tables of the page on DataDream, from tables made up for them."""

from __future__ import annotations

from itertools import product

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from zsclib.extra import Extra
from zsclib.images.image_set import ImageSet
from zsclib.papers.datadream.contrasts import BY_CLASS, EPOCH_BY_TEST, PROMPTED, SHOTS, ZERO_SHOT, changed
from zsclib.study.figures import datadream as figures
from zsclib.study.stats import interval


@pytest.fixture
def outcomes() -> pd.DataFrame:
    rng, rows = np.random.default_rng(0), []
    for seed, (arm, n) in product(range(2), ((PROMPTED, 8), (BY_CLASS, 8), (SHOTS, 0), (ZERO_SHOT, 0))):
        for with_shots in (False, True) if n else (False,):
            rows.append((arm, n, with_shots, seed, rng.random(60) < 0.6))
    rows += [(changed(BY_CLASS, EPOCH_BY_TEST), 8, True, seed, np.ones(60, bool)) for seed in range(2)]
    table = pd.DataFrame(rows, columns=["arm", "n", "with_shots", "seed", "correct"])
    return table.assign(target="digits", shots=4, classifier="CLIP", learning_rate=1e-3, step=20, held_out=0.5)


def outcomes_of(table, arm, with_shots):
    rows = table[(table["arm"] == arm) & (table["with_shots"] == with_shots)]
    return np.stack(rows["correct"].tolist()).astype(float)


def test_gains_are_over_the_shots_alone_image_by_image(outcomes):
    gains = figures.gains(outcomes[~outcomes["arm"].str.contains(EPOCH_BY_TEST)], "digits")
    assert list(gains[figures.ALONE]) == [PROMPTED, BY_CLASS, ZERO_SHOT]
    assert list(gains[figures.POOLED]) == [PROMPTED, BY_CLASS]
    expected = interval(outcomes_of(outcomes, BY_CLASS, True) - outcomes_of(outcomes, SHOTS, False))
    assert gains[figures.POOLED][BY_CLASS] == expected


def test_an_audit_says_what_a_fault_adds_to_the_same_arm(outcomes):
    html = figures.audit_table(outcomes, "digits", BY_CLASS, [EPOCH_BY_TEST]).data
    assert interval(1 - outcomes_of(outcomes, BY_CLASS, True)).points() in html
    assert html.count("<tr>") == 2 and "none" in html


def test_what_was_chosen_stands_beside_the_test_accuracy(outcomes):
    html = figures.choices_table(outcomes).data
    assert html.count("0.001") == 2 * 2 + 1 + 1  # CLIP as it is has no learning rate
    assert html.count("<td>–</td>") >= 3


def test_costs_stand_beside_gains(outcomes):
    gains = figures.gains(outcomes[outcomes["arm"] != changed(BY_CLASS, EPOCH_BY_TEST)], "digits")
    costs = pd.DataFrame({"arm": [PROMPTED, "retrieved"], "denoiser evaluations": [320.0, 0.0]})
    html = figures.costs_table(costs, gains).data
    assert gains[figures.ALONE][PROMPTED].points() in html and "320" in html


def test_to_how_many_images_arms_are_cut_is_said_in_words():
    def extra(*delivered: int) -> Extra:
        labels = np.repeat(np.arange(3), delivered)
        images = ImageSet(np.zeros((len(labels), 2, 2, 3), np.uint8), labels, ("a", "b", "c"))
        report = pd.DataFrame({"wanted": [4] * 3})
        return Extra(images=images, report=report, evaluations=0.0, tuning_samples=0, seconds=0.0)

    assert figures.cut({PROMPTED: extra(4, 4, 4)}) == "Every arm has 4 images of every class."
    text = figures.cut({PROMPTED: extra(4, 4, 4), "retrieved": extra(4, 0, 3)})
    assert "Of 2 of 3 classes" in text and "b 0 (retrieved), c 3 (retrieved)." in text and "Of 1 none is left" in text


def test_a_learning_curve_counts_the_adapters_that_have_turned_up():
    rows = [(name, samples, loss) for name, losses in (("a", (1.0, 0.8, 0.9)), ("b", (2.0, 1.8, 1.6)))
            for samples, loss in zip((0, 8, 16), losses, strict=True)]  # fmt: skip
    figure = figures.adapting(pd.DataFrame(rows, columns=["name", "samples", "held_out"]), "two classes")
    text = " ".join(part.get_text() for part in figure.findobj(match=plt.Text))
    assert "\N{MINUS SIGN}15.0 %" in text and "2 adapters 1 end" in text
    plt.close(figure)
