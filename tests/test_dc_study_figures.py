"""What the pages show of the study's record, with none, some and all of it."""

from __future__ import annotations

import json

import matplotlib.pyplot as plt
import numpy as np
import pytest

from zsclib.papers.diffusion_classifier import arms, outcomes
from zsclib.papers.diffusion_classifier.arms import CLIP_ONE, DIFFUSION, DIT
from zsclib.papers.diffusion_classifier.contrasts import CONDITIONAL, OTHER_NOISE, UNSHIFTED
from zsclib.papers.diffusion_classifier.experiments import PAPER
from zsclib.papers.diffusion_classifier.rivals import EQUAL, TWICE, trained, with_images
from zsclib.paths import ROOT
from zsclib.study.claims import load_claims, to_judge
from zsclib.study.figures import diffusion_classifier_study as figures
from zsclib.study.freeze import read_plan
from zsclib.study.stats import interval
from zsclib.study.verdicts import judge


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def recorded() -> dict[str, dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    every: dict[str, dict[str, np.ndarray]] = {}
    for arm, name, _ in outcomes.jobs(read_plan("diffusion_classifier")):
        share = (rng.random((1, 60)) < rng.uniform(0.3, 0.9)).astype(float)
        every.setdefault(arm, {})[name] = np.clip(share, 0.1, 0.9) if "share" in arm else share
    return every


CURVES = {
    trained(PAPER, 1): [0.1, 0.12],
    trained(with_images(EQUAL), 1): [0.5, 0.8],
    trained(with_images(EQUAL) + TWICE, 1): [0.7, 0.9],
}
CHOICES = {
    "digits": {
        "curves": CURVES,
        "prompts": {
            "diffusion": "the number {}", "CLIP": "{}",
            "accuracy, diffusion": {"the number {}": 0.7, "{}": 0.6},
            "accuracy, CLIP": {"the number {}": 0.7, "{}": 0.8},
        },
    },
    "aerial-hard": {"curves": CURVES | {trained(with_images(EQUAL) + TWICE, 1): [0.81]}},
}  # fmt: skip


def test_gains_are_over_each_rival_and_each_set(recorded):
    every = figures.arms_of(recorded)
    figure = figures.gains(every)
    heads = ["-".join(ax.get_title().split("\n")[:-1]) for ax in figure.axes]
    assert heads == list(figures.ZERO_SHOT)  # a long name stands in two lines
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == list(figures.RIVALS)
    dots = [line for line in figure.axes[-1].lines if line.get_marker() == "o"]
    assert len(dots) == 2  # with so many classes, CLIP alone is a rival
    gain = interval(every[DIFFUSION]["objects-many"] - every[CLIP_ONE]["objects-many"]).value
    assert dots[-1].get_xdata()[0] == pytest.approx(100 * gain)


def test_curves_have_a_panel_per_set(recorded):
    every = figures.arms_of(recorded)
    assert len(figures.rivals_curves(every).axes) == 4
    titles = [ax.get_title() for ax in figures.over_timesteps(every).axes]
    assert titles == ["objects-hard", "digits", "aerial-hard", "objects-fine-hard", "objects-many", ""]
    figure = figures.profiles(every, {0: 7.6, 500: 46.4})
    of = {t: every[arm]["objects-hard"].mean() for arm in every if (t := arms.timestep_of(arm)) is not None}
    (curve,) = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert dict(zip(curve.get_xdata(), curve.get_ydata(), strict=True)) == pytest.approx(of)


def test_shifts_are_rows_with_the_distance_from_the_line(recorded):
    html = figures.shift_by_shift(figures.arms_of(recorded)).data
    assert html.count("<tr") == 1 + len(CONDITIONAL) and html.count("points (") == len(CONDITIONAL) - 1
    assert f"{100 * recorded[DIT]['objects-shift:noisy'].mean():.1f} %" in html


def test_a_rival_that_still_learns_is_named_and_the_prompts_chosen_are_marked():
    html = figures.flatness(CHOICES, {with_images(EQUAL): {"digits": np.ones((1, 4))}}).data
    digits, aerial = html.split("digits")[1].split("aerial-hard")
    assert "not testable at this budget" in digits and "flat, within 2 points" in aerial
    assert "80.0 → 90.0 %" in digits and "100.0 → – %" in digits and "– → – %" in aerial
    lines = figures.learning_curves(CHOICES).axes[0].lines
    assert [line.get_ydata().tolist() for line in lines] == list(CURVES.values())
    assert figures.learning_curves({"digits": {"prompts": {}}}) is None
    html = figures.prompts(CHOICES).data
    assert html.count("✓") == 2 and "70 % ✓" in html and "80 % ✓" in html


def test_rates_and_curves_of_networks_beside_the_dit_stand_with_what_was_chosen():
    shorter = {trained("vit-b, 40 steps", 1): [0.9], trained("vit-b, 9 steps", 1): [0.3]}
    curves = shorter | {trained("vit-b", 1): [0.6, 0.95]}
    rates = {"vit-b": {"0.001": 0.5, "0.004": 0.7}}
    choices = {UNSHIFTED: {"curves-beside-the-dit": curves, "learning-rates-beside-the-dit": rates}}
    html = figures.flatness(choices, {}).data
    assert "vit-b, 40 steps" in html and "90.0 → 95.0 %" in html and "not testable at this budget" in html
    html = figures.learning_rates(choices).data
    assert "70.0 % ✓" in html and html.count("✓") == 1 and figures.learning_rates({}).data.count("<tr") == 1


def test_both_models_stand_against_pairs_seen_as_far_as_there_are_records():
    checkpoints = json.loads((ROOT / "data/records/scaling.json").read_text("utf-8"))
    clips = json.loads((ROOT / "data/records/clip_scaling.json").read_text("utf-8"))
    ax = figures.equal_pairs(checkpoints, clips).axes[0]
    lines = {line.get_label(): line for line in ax.lines}
    who = ("diffusion classifier", "CLIP")
    assert {f"{name}, {each}" for name in ("objects", "digits") for each in who} <= set(lines)
    ends = [lines[f"digits, {each}"].get_xdata()[-1] for each in who]
    assert ends[0] == pytest.approx(ends[1], 0.01)
    assert lines["digits, CLIP"].get_ydata()[-1] == np.mean(clips[-1]["recognised digits"])
    html = figures.second_phase(checkpoints).data
    assert html.count("<tr") == 3 and "second" in html and "1,399,936" in html
    assert figures.second_phase([]).data.count("<tr") == 1
    assert figures.equal_pairs([], clips) is not None


def test_verdicts_are_shown_by_family(recorded):
    claims = [claim for claim in load_claims().values() if claim.paper == "diffusion_classifier"]
    differences = outcomes.differences({arm: recorded[arm] for arm in (DIFFUSION, CLIP_ONE)})
    decided = judge(*to_judge([c for c in claims if c.id in differences], differences))
    html = figures.of_families(decided, ["DC-H4"]).data
    assert html.count("<strong>DC-H4") == 5
    assert "None of these" in figures.of_families(decided, ["DC-H8"]).data


def test_claims_that_are_not_judged_stand_with_their_reason():
    claims = load_claims()
    digits = "digits" + OTHER_NOISE
    measured = {arms.DIFFERENT: {digits: np.ones((1, 9))}, arms.REPEATED: {digits: np.zeros((1, 9))}}
    html = figures.untestable(claims, ["DC-H10", "DC-H14"], measured).data
    assert "digits +100.0 points" in html
    assert html.count("<tr") == 3 and "DC-H10-repeated" in html and "DC-H14-rescaled" in html
    assert claims["DC-H14-rescaled"].not_testable in html and "DC-H15-version" not in html


def test_without_a_record_there_is_nothing_to_draw(recorded):
    nothing = figures.arms_of({})
    for draw in (figures.gains, figures.rivals_curves, figures.profiles, figures.over_timesteps):
        assert draw(nothing) is None
    assert figures.shift_by_shift(nothing).data.count("<tr") == 1 and figures.flatness({}, {}).data.count("<tr") == 1
    some = {DIFFUSION: {"digits": recorded[DIFFUSION]["digits"]}}
    assert figures.gains(some) is None and figures.profiles(some) is None
    assert figures.gains(some | {CLIP_ONE: {"digits": recorded[CLIP_ONE]["digits"]}}) is not None
