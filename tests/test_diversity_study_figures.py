"""What the page shows of trainings on the bag of tricks, its own and the study's, also while some are missing."""

from __future__ import annotations

import re
from dataclasses import asdict

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from zsclib.images.image_set import ImageSet
from zsclib.papers.diversity import outcomes
from zsclib.papers.diversity.contrasts import (
    ADAPTED,
    ALL,
    BATCH_NORM,
    CHOSEN,
    NETWORKS,
    WITHOUT,
    Arms,
    Side,
    less,
)
from zsclib.papers.diversity.contrasts import gain as gain_of
from zsclib.papers.diversity.experiments import CLIP, FIXED, name_of
from zsclib.papers.diversity.outcomes import table_of
from zsclib.papers.diversity.training_sets import SINGLE, Cell
from zsclib.papers.diversity.tricks import plan, prompts_for
from zsclib.setmetrics import MEASURES
from zsclib.study.claims import load_claims
from zsclib.study.figures import diversity_study as figures
from zsclib.study.figures.diversity_length import twice_as_long
from zsclib.study.freeze import read_freeze
from zsclib.study.overview import interval_widths
from zsclib.study.records import differences, image_keys, verdicts
from zsclib.study.records import recorded as recorded_outcomes
from zsclib.study.stats import interval

TARGETS = ("objects-hard", "digits")


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


@pytest.fixture
def recorded() -> dict:
    """A record of two targets; on digits neither all combined nor CLIP has been measured yet."""
    rng, every = np.random.default_rng(0), {}

    def put(cell: Cell, share: float, targets=TARGETS) -> None:
        every[name_of(cell)] = {t: (rng.random((3, 60)) < share).astype(float) for t in targets}

    for arm in ("base", "style-matched", *SINGLE, "union", "real", *FIXED, "random-guidance-integer", CHOSEN):
        put(Cell("", arm), 0.5)
    put(Cell("", "base", 4), 0.6)
    put(Cell("", "union", 4), 0.8, TARGETS[:1])
    for name in NETWORKS:
        put(Cell("", "base", architecture=name), 0.5)
        put(Cell("", "union", 4, architecture=name), 0.7, TARGETS[:1])
    every[name_of(Cell("", CLIP, architecture="clip"))] = {TARGETS[0]: np.repeat([[1.0] * 45 + [0.0] * 15], 3, 0)}
    return every


@pytest.fixture
def table(recorded) -> pd.DataFrame:
    return table_of(recorded)


def test_gains_are_those_of_the_record_as_far_as_it_goes(table, recorded):
    gains = figures.gains(table)
    assert list(gains) == list(TARGETS)
    assert "all combined" in gains["objects-hard"] and "all combined" not in gains["digits"]
    base, named = (recorded[name_of(Cell("", arm))]["digits"] for arm in ("base", "style-matched"))
    assert gains["digits"]["style named"] == interval(named - base)
    chosen = recorded[name_of(Cell("", CHOSEN))]["digits"]
    assert gains["digits"][CHOSEN] == interval(chosen - base)


def test_kinds_and_number_sum_to_the_gain_of_all_combined(table):
    steps = figures.kinds_and_number(table)
    both = steps["objects-hard"]
    whole = figures.gains(table)["objects-hard"]["all combined"].value
    assert both["kinds, both orders"].value + both["number, both orders"].value == pytest.approx(whole)
    assert list(steps["digits"]) == ["kinds, at N", "number, naive images"]


def test_networks_are_called_by_what_they_are(table):
    names = figures.by_network(table)
    assert list(names) == ["objects-hard"]
    assert list(names["objects-hard"]) == [
        "bottleneck-14", "bottleneck-20", "transformer, 2 blocks", "inverted residual, 6 blocks", "ConvNeXt, 5 blocks",
    ]  # fmt: skip
    assert next(iter(figures.by_network(table, "full")["objects-hard"])) == "bottleneck-50"


def test_levels_stand_between_naive_and_real_images_and_clip(table):
    levels = figures.levels(table)
    assert list(levels["objects-hard"]) == ["naive", "union", "all combined", "real images", CLIP]
    assert levels["objects-hard"][CLIP].value == 0.75 and levels["objects-hard"][CLIP].n == 60  # no seed changes it
    assert CLIP not in levels["digits"]


def test_levels_of_the_study_have_names_that_a_record_takes(table, recorded):
    levels = figures.study_levels(table)
    combined = recorded[name_of(Cell("", "union", 4))]["objects-hard"]
    assert levels["study_objects_hard_all_combined"].value == pytest.approx(combined.mean())
    assert levels["study_objects_hard_clip"].value == 0.75 and "study_digits_real_images" in levels
    assert all(name.isidentifier() for name in levels)


def test_gains_with_and_without_batch_normalisation_stand_beside_those_of_code_without_eval(recorded):
    rng = np.random.default_rng(1)
    for name in BATCH_NORM:
        for arm, times in (("base", 1), ("union", 4)):
            of_test = name_of(Cell("", arm, times, architecture=name), ADAPTED)
            recorded[of_test] = {TARGETS[0]: (rng.random((3, 60)) < 0.6).astype(float)}
    table = table_of(recorded)
    shown = figures.batch_statistics_table(table).data.replace("\n", "")
    ours, adapted, without, more, more_then = (
        re.findall("<td>(.*?)</td>", row)[1] for row in re.findall("<tr>(.*?)</tr>", shown)
    )
    assert f"<th>{TARGETS[0]}</th>" in shown and TARGETS[1] not in shown  # which has no set of all combined yet
    arms = Arms(table, TARGETS[0])

    def points(weights) -> str:
        return interval(arms.sum(weights)).points().replace(" points", "")

    rest = gain_of(("vit-b", "convnext-s"))  # by name, as a check of the library's own list
    assert (ours, adapted) == (points(gain_of(BATCH_NORM)), points(gain_of(BATCH_NORM, ADAPTED)))
    assert without == points(rest) and more == points(less(rest, gain_of(BATCH_NORM)))
    assert more_then == points(less(rest, gain_of(BATCH_NORM, ADAPTED)))


def test_guidance_has_a_curve_and_a_mark_for_each_random_scale(table):
    figure = figures.guidance(table)
    first = figure.axes[0]
    assert list(first.lines[0].get_xdata()) == [1, 2, 3, 4, 5, 7.5]
    assert len(first.containers) == 2  # once per run was not measured


def test_measures_are_drawn_less_the_mean_of_sets_of_one_size():
    rows = [
        {"target": t, "seed": s, "times": k, "accuracy": x / 10 + k, **dict.fromkeys(MEASURES, float(x + 5 * k))}
        for t in ("one", "two") for s in (0, 1) for k in (1, 4) for x in range(4)
    ]  # fmt: skip
    figure = figures.measures(pd.DataFrame(rows))
    assert figure.axes[0].get_title() == "vendi score\nρ = +1.00 (+1.00 to +1.00)"
    assert np.ptp(figure.axes[0].lines[0].get_xdata()) == pytest.approx(3)


def test_before_the_first_outcome_there_is_nothing_to_draw(recorded):
    empty = table_of({})
    assert figures.targets_of(empty) == []
    assert figures.gains(empty) == figures.kinds_and_number(empty) == figures.by_network(empty) == {}
    some = table_of({name_of(Cell("", "base")): recorded[name_of(Cell("", "base"))]})
    assert figures.targets_of(some) == list(TARGETS) and figures.gains(some) == {}
    assert not any(ax.axison for ax in figures.guidance(some).axes)


def test_networks_that_learnt_too_little_are_named(table, recorded):
    guessing = dict.fromkeys(TARGETS, 0.1)
    assert figures.untrained_text(table, guessing).startswith("No network is less than 5 points above guessing")
    for arm, times in (("base", 1), ("union", 4)):
        name = name_of(Cell("", arm, times, architecture="vit-b"))
        recorded[name]["digits"] = np.arange(180).reshape(3, 60) % 10 == 0
    text = figures.untrained_text(table_of(recorded), guessing)
    assert text.endswith("claims on them are not judged there: transformer, 2 blocks on digits.")


def test_the_scales_of_a_run_are_those_its_images_got():
    seeds = range(5)
    plans = [plan("random-guidance-once", prompts_for("digits", tuple("0123456789")), 2, seed) for seed in seeds]
    scales = ", ".join(f"{rows['guidance'].unique().item():g}" for rows in plans)
    assert f"was {scales}, seed by seed" in figures.once_text(seeds)


def test_zero_shot_clip_of_the_page_is_compared_on_the_images_that_it_shares_with_the_study():
    images = ImageSet(np.arange(6 * 32 * 32 * 3).reshape(6, 32, 32, 3).astype(np.uint8), [0, 1] * 3, ("a", "b"))
    correct = np.arange(6) < 4
    rows = [Cell(t, CLIP, architecture="clip", seed=s) for t in ("objects", *TARGETS) for s in (0, 1)]
    table = pd.DataFrame([asdict(cell) | {"last": correct} for cell in rows])
    tests = dict.fromkeys(("objects", *TARGETS), images)
    plan = {"models": ["sd", "clip"], "sets": dict.fromkeys(TARGETS, 6), "seeds": [0, 1], "settings": {}}
    plan["settings"]["splits"] = {"digits": "fresh"}
    ((job, (keys, live)),) = figures.live_clip(table, tests, "clip", plan).items()
    assert job == (name_of(rows[0]), "objects-hard", 0) and live is correct
    np.testing.assert_array_equal(keys, image_keys(images.images, images.labels))
    assert figures.live_clip(table, tests, "another", plan) == {}
    plan["settings"]["size"] = 64
    assert figures.live_clip(table, tests, "clip", plan) == {}


def test_what_the_page_says_of_the_study_is_what_its_record_says():
    """The paragraphs below "What the study says" have no numbers of results; these are the ones that they rest on."""
    frozen, record = read_freeze("diversity"), recorded_outcomes("diversity")
    assert frozen.settings["per_class"] == 16
    decided = verdicts(frozen, outcomes)
    table, objects, others = table_of(record), ("objects-hard", "objects-fine-hard"), ("digits", "aerial-hard")
    targets = figures.targets_of(table)
    assert set(targets) == {*objects, *others}
    arms = {target: Arms(table, target) for target in targets}

    again = twice_as_long(table, load_claims().values()).set_index(["claim", "target"])
    twice, change = again["twice"], again["change"]

    def gain(target: str, one: Side, rival: Side | None = None):
        return interval(arms[target].sum({one: 1, rival or Side("base"): -1}))

    def by_set(claim: str) -> dict[str, str]:
        return dict(decided[claim].by_set)

    # all tricks, and each network
    assert by_set("DIV-D1") == dict.fromkeys(targets, "reproduced")
    effects = decided["DIV-D1"].effects
    assert min(effects[t].low for t in objects) > 0.15 and max(effects[t].high for t in others) < 0.1
    assert {decided[f"DIV-D6-{name}"].direction for name in NETWORKS} == {"reproduced"}
    assert twice["DIV-D1", "digits"].low < 0
    assert decided["DIV-D5"].corrected == "reproduced"
    # kinds and number
    assert {decided[claim].corrected for claim in ("DIV-D1", "DIV-D7-kinds", "DIV-D7-number")} == {"reproduced"}
    assert decided["DIV-D7-share"].direction == "inconclusive"
    clear = [t for t, effect in decided["DIV-D7-share"].effects.items() if effect.low > 0 or effect.high < 0]
    assert clear == ["objects-fine-hard"] and decided["DIV-D7-share"].effects["objects-fine-hard"].low > 0
    assert decided["DIV-D7-kinds"].effects["digits"].low < 0 > decided["DIV-D7-number"].effects["aerial-hard"].low
    assert "reproduced" not in {decided["DIV-D5-equal"].direction, *by_set("DIV-D5-equal").values()}
    # guidance
    for target in objects:
        beyond = gain(target, Side("random-guidance"), Side("guidance-3"))
        assert gain(target, Side("guidance-3")).value > 2 / 3 * gain(target, ALL).value and beyond.low < 0 < beyond.high
    assert by_set("DIV-D4-low")["aerial-hard"] == "equivalent"
    assert by_set("DIV-D4-random")["aerial-hard"] == "reproduced"
    rest = [Side(arm) for arm in (*FIXED, "base") if arm != "guidance-1"]
    assert all(gain("aerial-hard", Side("guidance-1"), other).low > 0 for other in rest)
    assert all(gain("digits", Side("guidance-1"), other).high < 0 for other in rest)
    assert not any(effect.low > 0 for effect in decided["DIV-A-once"].effects.values())
    assert decided["DIV-A-once"].corrected == "reproduced" and decided["DIV-D4"].direction == "inconclusive"
    # networks
    size = decided["DIV-D6-size"].by_set
    assert decided["DIV-D6-size"].direction == "mixed" and size["aerial-hard"] == "reproduced"
    assert {size[t] for t in objects} == {"contradicted"}
    for target in objects:
        naive, of_gain = (decided[f"DIV-A-eval{what}"].effects[target] for what in ("", "-gain"))
        assert naive.low > 0.15 and of_gain.high < -0.13
        normalised, others_gain = gain_of(BATCH_NORM, ADAPTED), gain_of(WITHOUT)
        assert interval(arms[target].sum(less(others_gain, normalised))).low > 0
    assert decided["DIV-A-eval"].effects["aerial-hard"].low > 0 < decided["DIV-A-eval-gain"].effects["aerial-hard"].low
    published = {one["set"]: np.sign(one["value"]) for one in decided["DIV-D6-size"].claim.published}
    ours = {target: np.sign(effect.value) for target, effect in decided["DIV-D6-size"].effects.items()}
    assert {target: -sign for target, sign in published.items()} == {target: ours[target] for target in published}
    # CLIP and real images
    assert by_set("DIV-D2") == dict.fromkeys(targets, "contradicted")
    assert all(decided["DIV-D2"].effects[t].high < -0.05 for t in targets)
    for target in targets:
        beside = gain(target, ALL, Side("real"))
        assert beside.low > 0.1 if target == "objects-hard" else beside.high < -0.2
        assert gain(target, Side("real", 4), Side(CLIP, 1, "clip")).low > 0
    assert gain("objects-hard", Side("random-guidance"), Side("real")).low > 0
    assert gain("objects-hard", Side("real", 4), Side("random-guidance")).low > 0
    # measures
    assert decided["DIV-D9-frechet"].corrected == "reproduced"
    assert all(decided["DIV-D9-frechet"].effects[t].high < 0 for t in objects)
    for claim in ("DIV-D9-vendi", "DIV-D9-distance"):
        assert set(by_set(claim).values()) | {decided[claim].direction} == {"inconclusive"}
    recall = decided["DIV-D9-recall"].effects
    assert decided["DIV-D9-recall"].direction == "mixed" and recall["digits"].high < 0
    assert recall["objects-hard"].low > 0 < recall["aerial-hard"].low
    # prompts
    assert all(gain(t, Side("multi-domain")).low > 0.05 for t in objects)
    assert all(gain(t, Side("multi-domain")).low < 0 for t in others)
    assert gain("objects-fine-hard", Side("style-matched")).low > 0
    assert (decided["DIV-D3-style"].direction, decided["DIV-D3-style"].corrected) == ("reproduced", "inconclusive")
    assert "reproduced" not in {decided["DIV-D8"].direction, *by_set("DIV-D8").values()}
    # shortcuts
    added = decided["DIV-A-selection"].pooled  # beyond two points
    assert 0.02 + added.low > 0.005 and 0.02 + added.high < 0.025
    assert decided["DIV-A-selection-gain"].direction == decided["DIV-A-noise"].direction == "inconclusive"
    # how sure
    widths = interval_widths(decided, differences(frozen, outcomes))
    assert 1.7 < np.median([one.observed for one in widths]) / np.median([one.expected for one in widths]) < 2.3
    singles = [decided[f"DIV-D3-{name}"] for name in ("style", "domain", "guidance", "class")]
    reach = [(effect.high - effect.low) / 2 for one in singles for effect in one.effects.values()]
    assert min(reach) > 0.02 and 0.1 < max(reach) < 0.125
    assert change["DIV-D1", "objects-fine-hard"].low > 0
