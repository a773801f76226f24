"""What the page shows of the study's record, also while some of it is missing."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from zsclib.papers.retrieval.outcomes import BESIDE
from zsclib.study.figures.retrieval_study import beside_table, flatness, study_gains, targets_of
from zsclib.study.records import recorded
from zsclib.study.stats import interval


@pytest.fixture
def outcomes():
    rng = np.random.default_rng(0)
    arms = ["real only", "templates", "retrieved by text", "clusters, k = 2", "CLIP, zero-shot", *BESIDE]
    every = {arm: {t: (rng.random((3, 50)) < 0.6).astype(float) for t in ("digits", "aerial-hard")} for arm in arms}
    del every["clusters, k = 2"]["aerial-hard"]
    del every["templates, N = |D|"]["digits"]
    return every


def test_each_target_has_a_column_and_each_arm_a_row_of_gains(outcomes):
    figure = study_gains(outcomes)
    first, second = figure.axes
    names = [label.get_text() for label in first.get_yticklabels()]
    assert names == ["templates", "clusters, k = 2", "retrieved by text", "CLIP, zero-shot"]
    dots = {ax: [line for line in ax.lines if line.get_marker() == "o"] for ax in figure.axes}
    assert len(dots[first]) == 4 and len(dots[second]) == 3  # no clusters there
    expected = 100 * interval(outcomes["templates"]["digits"] - outcomes["real only"]["digits"]).value
    assert dots[first][0].get_xdata()[0] == pytest.approx(expected)
    plt.close(figure)


def test_what_stands_beside_is_compared_with_the_same_arm(outcomes):
    html = beside_table(outcomes).data
    difference = outcomes["real only, twice the updates"]["digits"] - outcomes["real only"]["digits"]
    assert interval(difference).points() in html
    row = html[html.index("templates, N = |D|") :].split("</tr>")[0]
    assert "–" in row and row.count("points") == 1  # not measured on digits
    assert targets_of({}) == targets_of({"templates": outcomes["templates"]}) == []  # D alone is not there yet


def test_a_target_where_training_had_not_ended_is_named(outcomes):
    outcomes["real only, twice the updates"] = dict(outcomes["real only"])
    assert "On no target so far" in flatness(outcomes)
    outcomes["real only, twice the updates"]["digits"] = np.ones((3, 50))
    assert flatness(outcomes).startswith("On digits, real only gains more than 2 points")


def test_before_its_freeze_a_study_has_no_outcomes(tmp_path):
    assert recorded("retrieval", tmp_path) == {}
