"""What the page shows of DataDream's study, also while some of it is missing."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import product

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import yaml

from zsclib.images.image_set import ImageSet
from zsclib.own_sets import Own
from zsclib.papers.datadream import outcomes as room
from zsclib.papers.datadream.classifiers import SCRATCH, Cell, Sources, zero_shot
from zsclib.papers.datadream.contrasts import (
    ALL_CLASSES,
    BY_CLASS,
    DISEF,
    FOURFOLD,
    GUIDED,
    ON_TRAIN,
    PROMPTED,
    RETRIEVED,
    SHOTS,
    TWICE,
    ZERO_SHOT,
    changed,
)
from zsclib.papers.datadream.experiments import CHANGES, name_of
from zsclib.papers.datadream.training_sets import Setting, class_prompts, shots
from zsclib.paths import DATA
from zsclib.study.figures import datadream_study as figures
from zsclib.study.freeze import read_freeze
from zsclib.study.records import disagreement, image_keys, recorded
from zsclib.study.records import verdicts as study_verdicts
from zsclib.study.stats import effect, interval, mean_effect

TARGETS, RANK = ("digits", "gadgets-hard"), next(iter(CHANGES))


@pytest.fixture
def outcomes() -> dict:
    rng, every = np.random.default_rng(0), {}

    def put(cell: Cell, share: float, targets=TARGETS) -> None:
        every[name_of(cell)] = {t: (rng.random((3, 60)) < share).astype(float) for t in targets}

    for k in (1, 4, 16):
        put(Cell("", SHOTS, shots=k, n=0), 0.4 + 0.02 * k)
        for arm, both in product((PROMPTED, BY_CLASS, RETRIEVED), (False, True)):
            if both or arm == BY_CLASS or k == 16:  # other images are the same at every K
                put(Cell("", arm, shots=k, with_shots=both), 0.5 + 0.01 * k)
    put(Cell("", DISEF), 0.6, TARGETS[:1])
    put(Cell("", ZERO_SHOT, shots=0, n=0), 0.3)
    for n, both in product((16, 256), (False, True)):
        put(Cell("", BY_CLASS, n=n, with_shots=both), 0.6, TARGETS[:1])
    put(Cell("", changed(BY_CLASS, RANK)), 0.6, TARGETS[1:])
    put(Cell("", changed(SHOTS, TWICE), n=0), 0.7)
    put(Cell("", changed(SHOTS, TWICE), n=0, classifier="scratch"), 0.5)
    for arm, n in ((SHOTS, 0), (PROMPTED, 64)):
        put(Cell("", arm, n=n, classifier="scratch"), 0.5)
    return every


def dots(ax, fill: str) -> list:
    return [line for line in ax.lines if line.get_marker() == "o" and line.get_fillstyle() == fill]


def test_each_arm_has_a_dot_alone_and_an_open_one_with_the_shots(outcomes):
    figure = figures.study_gains(outcomes)
    first, second = figure.axes
    assert [label.get_text() for label in first.get_yticklabels()] == [PROMPTED, DISEF, BY_CLASS, RETRIEVED, ZERO_SHOT]
    assert [len(dots(ax, "full")) for ax in (first, second)] == [5, 4]  # DISEF was measured on one of them
    assert [len(dots(ax, "none")) for ax in (first, second)] == [3, 3]
    base = outcomes[name_of(Cell("", SHOTS, n=0))]["digits"]
    expected = interval(outcomes[name_of(Cell("", PROMPTED))]["digits"] - base)
    assert dots(first, "full")[0].get_xdata()[0] == pytest.approx(100 * expected.value)
    plt.close(figure)


def test_curves_go_through_what_was_measured(outcomes):
    figure = figures.over_shots(outcomes, with_shots=True)
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    assert set(lines) == {SHOTS, PROMPTED, BY_CLASS, RETRIEVED}
    assert all(line.get_xdata().tolist() == [1, 4, 16] for line in lines.values())
    name = name_of(Cell("", PROMPTED, shots=4, with_shots=True))
    assert lines[PROMPTED].get_ydata()[1] == pytest.approx(outcomes[name]["digits"].mean())
    plt.close(figure)
    figure = figures.over_shots(outcomes, with_shots=False)
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    assert all(lines[arm].get_xdata().tolist() == [1, 4, 16] for arm in (SHOTS, PROMPTED, BY_CLASS, RETRIEVED))
    assert len(set(lines[PROMPTED].get_ydata())) == 1 and len(set(lines[BY_CLASS].get_ydata())) == 3
    plt.close(figure)
    figure = figures.over_images(outcomes)
    drawn = [ax for ax in figure.axes if ax.axison]
    assert len(drawn) == 1 and drawn[0].lines[0].get_xdata().tolist() == [16, 64, 256]
    plt.close(figure)


def test_where_adapters_of_all_classes_alone_were_measured_at_several_shots_they_are_drawn(outcomes):
    for k in (4, 16):
        for arm, n, both in ((SHOTS, 0, False), (ALL_CLASSES, 64, False), (ALL_CLASSES, 64, True)):
            name = name_of(Cell("", arm, shots=k, n=n, with_shots=both))
            outcomes.setdefault(name, {})["objects-fine-hard"] = np.full((3, 60), 0.5)
    figure = figures.over_shots(outcomes, with_shots=False)
    assert [ax.get_title() for ax in figure.axes if ax.axison] == [*TARGETS, "objects-fine-hard"]
    assert {line.get_label() for line in figure.axes[2].lines} == {SHOTS, ALL_CLASSES}
    assert {text.get_text() for text in figure.legends[0].get_texts()} >= {BY_CLASS, ALL_CLASSES}
    plt.close(figure)


def test_published_differences_stand_beside_ours_where_a_target_has_the_role(outcomes):
    outcomes[name_of(Cell("", ALL_CLASSES, with_shots=True))] = {"gadgets-hard": np.ones((3, 60))}
    published = yaml.safe_load((DATA / "published/datadream.yml").read_text("utf-8"))
    rows = re.findall("<tr>(.*?)</tr>", figures.published_table(outcomes, published).data.replace("\n", ""))
    cells = {
        tuple(re.findall("<td>(.*?)</td>", row)[:2]): re.findall("<td>(.*?)</td>", row)[2:] for row in rows
    }
    (aircraft,) = (own for (what, name), own in cells.items() if name == "Aircraft" and what.startswith("16"))
    ours = interval(1 - outcomes[name_of(Cell("", SHOTS, n=0))]["gadgets-hard"]).points()
    assert aircraft == ["72.3 \N{MINUS SIGN} 59.3 = +13.0", "gadgets-hard", ours]
    (textures,) = (own for (what, name), own in cells.items() if name == "DTD" and what.startswith("4"))
    assert textures == ["56.0 \N{MINUS SIGN} 60.1 = \N{MINUS SIGN}4.1", "–", "–"]
    assert len(cells) == 10 + 7


def test_gains_are_means_over_the_targets_that_have_the_arm(outcomes):
    gains = figures.mean_gains(outcomes)
    base = outcomes[name_of(Cell("", SHOTS, n=0))]
    alone = outcomes[name_of(Cell("", PROMPTED))]
    expected = mean_effect([effect(alone[target] - base[target]) for target in TARGETS]).interval().points()
    assert gains[f"{PROMPTED}; 16 shots"][0] == expected and gains[f"{PROMPTED}; 4 shots"][0] is None
    assert gains[f"{DISEF}; 16 shots"] == (
        interval(outcomes[name_of(Cell("", DISEF))]["digits"] - base["digits"]).points(),
        None,
    )
    assert set(gains) >= {f"{BY_CLASS}; {k} shots" for k in (1, 4, 16)}


def test_levels_have_names_that_a_record_takes(outcomes):
    levels = figures.study_levels(outcomes)
    alone = outcomes[name_of(Cell("", SHOTS, n=0))]["gadgets-hard"]
    assert levels["study_gadgets_hard_shots_only"].value == pytest.approx(alone.mean())
    assert "study_digits_prompted_with_shots" in levels and "study_digits_clip_zero_shot" in levels
    assert all(name.isidentifier() for name in levels)


def test_a_change_stands_against_the_same_arm_and_a_gap_where_nothing_was_measured(outcomes):
    html = figures.changes_table(outcomes).data
    names = [name_of(Cell("", arm)) for arm in (changed(BY_CLASS, RANK), BY_CLASS)]
    other, usual = (outcomes[name]["gadgets-hard"] for name in names)
    assert interval(other - usual).points().replace(" points", "") in html
    assert html.count(" to ") == 1 + 2  # and of the shots
    assert html.count("<tr>") == 2 and ">–<" in html  # beside the head
    scratch = figures.scratch_table(outcomes).data
    assert scratch.count("<tr>") == 3 and PROMPTED in scratch and changed(SHOTS, TWICE) in scratch


def test_classes_are_drawn_where_all_was_kept(outcomes):
    labels, rng = np.arange(60) % 6, np.random.default_rng(1)
    kept = {f"narrowing-{seed}": {"narrowing": rng.random(6).tolist()} for seed in range(3)}
    choices = {"digits": kept | {"labels": {"labels": labels.tolist()}}, "gadgets-hard": {}}
    figure = figures.classes(outcomes, choices)
    assert len([ax for ax in figure.axes if ax.axison]) == 1
    assert len(figure.axes[0].lines[0].get_xdata()) == 6
    plt.close(figure)


def test_a_record_of_some_arms_is_shown_as_far_as_it_goes(outcomes):
    some = {name: by_target for name, by_target in outcomes.items() if name.startswith(f"{SHOTS}; 16")}
    assert figures.targets_of(some) == list(TARGETS)
    drawn = (figures.over_images(some), figures.over_shots(some, False), figures.classes(some, {"digits": {}}))
    assert drawn == (None, None, None)
    assert "<tr>" not in figures.changes_table(some).data


def test_before_its_first_outcome_there_is_nothing_to_draw():
    assert figures.targets_of({}) == []


def test_zero_shot_clip_of_the_page_is_compared_on_the_images_that_it_shares_with_the_study():
    images = ImageSet(np.arange(6 * 32 * 32 * 3).reshape(6, 32, 32, 3).astype(np.uint8), [0, 1] * 3, ("a", "b"))
    plan = {"models": ["sd", "clip"], "sets": {"digits": 9, "aerial-hard": 9}, "seeds": [0, 1]}
    plan["settings"] = {"splits": {"digits": "fresh"}, "size": 32}
    rows = [{"target": t, "arm": ZERO_SHOT, "seed": s} for t in ("gadgets", "digits", "aerial-hard") for s in (0, 1)]
    table = pd.DataFrame([row | {"correct": np.arange(6) < 4} for row in rows])
    setting = Setting(model="sd", clip="clip", index="", shots=2, size=32)
    ((job, (keys, live)),) = figures.live_clip(table, images, setting, plan).items()
    assert job == (name_of(Cell("", ZERO_SHOT, shots=0, n=0)), "aerial-hard", 0) and live.sum() == 4
    np.testing.assert_array_equal(keys, image_keys(images.images, images.labels))
    for other in ({"clip": "another"}, {"size": 64}, {"own": Own(template="a sketch of a {}")}):
        assert figures.live_clip(table, images, replace(setting, **other), plan) == {}
    plan["sets"]["aerial-hard"] = 5  # fewer than the page has
    assert figures.live_clip(table, images, setting, plan) == {}


def test_a_live_clip_agrees_with_the_record():
    freeze, cell = read_freeze("datadream"), Cell("objects-hard", ZERO_SHOT, shots=0, n=0)
    plan = freeze.plan()
    setting = Setting(
        model=plan["models"][0], clip=plan["models"][1], index="", shots=2, size=32, test_images=60,
        test_seed=plan["images_seed"],
    )  # fmt: skip
    one = shots(setting, cell.target, 0)
    sources = Sources(cell=cell, one=one, prompts=tuple(class_prompts(setting, one)), real=None, synthetic=None)
    table = pd.DataFrame([{"target": cell.target, "arm": ZERO_SHOT, "seed": 0} | zero_shot(setting, sources)])
    live = figures.live_clip(table, one.test, setting, plan)
    assert len(live) == 1 and disagreement(freeze, live) is None
    ((job, (keys, correct)),) = live.items()
    assert "differs on 60" in disagreement(freeze, {job: (keys, ~correct)})


def test_what_the_page_says_of_the_study_is_what_its_record_says():
    """The paragraphs below "What the study says" have no numbers of their own; these are the ones that they rest on."""
    record, frozen = recorded("datadream"), read_freeze("datadream")
    decided = study_verdicts(frozen, room)
    targets = figures.targets_of(record)
    assert len(targets) == 5 and frozen.settings["shots"] == 16

    def gain(arm: Cell, rival: Cell, target: str) -> tuple[float, float]:
        difference = interval(record[name_of(arm)][target] - record[name_of(rival)][target])
        return difference.low, difference.high

    def level(cell: Cell, target: str) -> float:
        return record[name_of(cell)][target].mean()

    real, adapted, prompted, retrieved, guided, untouched = (
        Cell("", arm, shots=0 if arm == ZERO_SHOT else 16, n=0 if arm in (SHOTS, ZERO_SHOT) else 64)
        for arm in (SHOTS, BY_CLASS, PROMPTED, RETRIEVED, GUIDED, ZERO_SHOT)
    )
    both, scratch = {"with_shots": True}, {"classifier": SCRATCH}
    verdicts_by_direction = [one for one in decided.values() if one.direction in ("reproduced", "contradicted")]
    assert sum(one.corrected == one.direction for one in verdicts_by_direction) < len(verdicts_by_direction) / 2
    # with 16 shots
    for arm in figures.ARMS:
        with_shots = replace(prompted, arm=arm, **both)
        for target in record[name_of(with_shots)]:
            assert gain(with_shots, real, target)[0] <= 0, f"{arm} adds on {target}"
    for source in (adapted, prompted, retrieved, guided):
        assert gain(replace(source, **both), real, "digits")[1] < 0
        by_adapter = source == adapted
        assert (gain(replace(source, **both), real, "gadgets-hard")[1] < 0) != by_adapter
    assert gain(replace(adapted, **both), real, "aerial-hard")[1] < 0
    assert {decided[name].direction for name in ("DD-H3", "DD-H4", "DD-H4-all")} == {"contradicted"}
    assert gain(replace(real, arm=changed(SHOTS, TWICE)), real, "gadgets-hard")[0] > 0
    for target in ("digits", "aerial-hard"):
        assert gain(replace(real, **scratch), real, target)[0] > 0
    # fewer
    few = {
        (arm, k): Cell("", arm, shots=k, n=64, with_shots=True)
        for arm in (RETRIEVED, PROMPTED, BY_CLASS) for k in (1, 4, 16)
    }
    for (_, k), cell in few.items():
        low = {target: gain(cell, replace(real, shots=k), target)[0] for target in targets[:4]}
        assert k > 1 or low["objects-hard"] > 0 >= max(low["gadgets-hard"], low["aerial-hard"])
    alone = {k: level(replace(real, shots=k), "objects-hard") for k in (1, 4, 16)}
    added = {at: level(cell, "objects-hard") - alone[at[1]] for at, cell in few.items()}
    assert added[RETRIEVED, 1] > added[PROMPTED, 1] > added[BY_CLASS, 1]
    assert gain(few[RETRIEVED, 1], few[BY_CLASS, 1], "objects-hard")[0] > 0
    assert gain(replace(real, shots=1), untouched, "objects-hard")[1] < -0.1
    assert all(gain(few[arm, 1], untouched, "objects-hard")[0] <= 0 for arm in (RETRIEVED, PROMPTED, BY_CLASS))
    assert gain(few[PROMPTED, 1], replace(real, shots=1), "digits")[0] > 0
    for arm in (RETRIEVED, PROMPTED, BY_CLASS):
        assert added[arm, 1] / 4 > added[arm, 4] > added[arm, 16]
    # images alone
    for name in ("DD-H1-alone", "DD-H1-all-alone", "DD-H10-alone"):
        assert decided[name].direction == "reproduced"
    for target in ("gadgets-hard", "aerial-hard"):
        assert gain(adapted, prompted, target)[0] > 0
    for target in ("objects-hard", "digits"):
        low, high = gain(adapted, prompted, target)
        assert low < 0 < high
    assert level(adapted, "gadgets-hard") < level(real, "gadgets-hard") / 2
    for target in ("objects-hard", "digits", "aerial-hard"):
        low, high = gain(adapted, untouched, target)
        assert low < 0 < high
    assert gain(adapted, untouched, "gadgets-hard")[0] > 0
    assert gain(replace(adapted, arm=ALL_CLASSES), untouched, "objects-fine-hard")[1] < -0.1
    assert decided["DD-H2-guidance-alone"].direction == "contradicted"
    known_to_both = ("objects-hard", "digits", "gadgets-hard", "aerial-hard")
    assert [target for target in known_to_both if gain(adapted, guided, target)[1] < 0] == ["digits"]
    of_disef = [target for target in known_to_both if gain(adapted, replace(adapted, arm=DISEF), target)[0] > 0]
    assert of_disef == ["digits", "aerial-hard"] and decided["DD-H2-disef-alone"].direction == "reproduced"
    assert gain(replace(adapted, shots=4), replace(guided, shots=4), "gadgets-hard")[0] > 0
    # the search
    assert decided["DD-R-shots"].direction == "reproduced"
    assert gain(replace(retrieved, **both), replace(adapted, **both), "aerial-hard")[0] > 0
    assert 0 < decided["DD-R-shots"].pooled.value < 0.01
    assert level(retrieved, "gadgets-hard") < level(untouched, "gadgets-hard") + 0.02
    assert decided["DD-R-unknown-alone"].direction == "reproduced"
    # from scratch
    assert gain(replace(adapted, **both, **scratch), replace(real, **scratch), "objects-hard")[0] > 0.2
    assert gain(replace(prompted, **scratch), replace(adapted, **scratch), "objects-hard")[0] > 0
    for target in ("digits", "aerial-hard", "gadgets-hard"):
        low, high = gain(replace(adapted, **both, **scratch), replace(real, **scratch), target)
        assert low < 0 < high
    alone = {target: gain(replace(adapted, **scratch), replace(prompted, **scratch), target) for target in targets[:4]}
    assert {target for target, (low, _) in alone.items() if low > 0} == {"gadgets-hard", "aerial-hard"}
    # what had not ended
    assert gain(replace(adapted, arm=changed(BY_CLASS, FOURFOLD)), adapted, "gadgets-hard")[0] > 0
    # the audit
    assert decided["DD-H9"].direction == "inconclusive"
    assert decided["DD-H12"].direction == "reproduced"
    assert [t for t, e in decided["DD-H12"].effects.items() if e.low > 0] == ["gadgets-hard"]
    assert gain(replace(real, arm=changed(SHOTS, ON_TRAIN)), real, "gadgets-hard")[0] > 0
    assert decided["DD-H12-gain"].direction == "too small to decide"
    assert decided["DD-A-epoch"].direction == "reproduced"
