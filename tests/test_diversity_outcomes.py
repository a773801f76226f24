"""The study of the bag of tricks at a tiny size: its jobs and outcomes, and claims that come back from records."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tests import tiny
from zsclib.cache import Cache
from zsclib.papers.diversity import outcomes as room
from zsclib.papers.diversity.contrasts import (
    CHOSEN,
    FEWEST,
    KINDS,
    MEASURED,
    NETWORKS,
    READ_TWICE,
    Arms,
    Side,
    sides_of,
)
from zsclib.papers.diversity.experiments import CLIP, cell_of, name_of
from zsclib.papers.diversity.outcomes import differences, jobs, measures_of, outcomes, table_of
from zsclib.papers.diversity.training_sets import MAIN, SINGLE, Cell
from zsclib.paths import ROOT
from zsclib.setmetrics import MEASURES
from zsclib.study.claims import load_claims, too_small
from zsclib.study.freeze import RECORDS, read_plan
from zsclib.workers import Execution

TARGET = "digits"


@pytest.fixture(scope="module")
def plan(tmp_path_factory) -> dict:
    root = tmp_path_factory.mktemp("study")
    with tiny.long_prompts():
        tiny.stable_diffusion_1(root / "sd")
    real = read_plan("diversity")
    return real | {
        "models": [str(root / "sd"), str(tiny.clip(root / "clip"))],
        "sets": {TARGET: 20}, "seeds": [0, 1], "images_seed": 0,
        "settings": real["settings"] | {
            "per_class": 4, "held_out": 1, "sampling_steps": 1, "network_steps": 2, "network_batch": 4, "size": 16,
            "small": 8, "checkpoints": 2, "splits": {TARGET: "validation"},
        },
    }  # fmt: skip


@pytest.fixture(scope="module")
def whole(plan, tmp_path_factory):
    """All of its first seed, as a study carries it out: what was yielded, and what was noted."""
    notes: dict = {}

    def remember(name, what, choose):
        if (name, what) not in notes:
            notes[name, what] = choose()
        return notes[name, what]

    every = [job for job in jobs(plan) if job[2] == 0]
    execution = Execution(batch=60, cache=Cache(tmp_path_factory.mktemp("cache")))
    done = {job: (row, images) for job, row, images in outcomes(plan, every, execution, remember=remember)}
    return every, done, notes


def test_the_plan_fills_every_cell_and_has_the_sets_that_measures_are_compared_over(plan):
    every = jobs(plan)
    assert len(set(every)) == len(every)
    cells = {cell_of(name, TARGET, 0)[0] for name, _, seed in every if seed == 0}
    for name in (MAIN, *NETWORKS):
        at = {"architecture": name}
        assert {Cell(TARGET, "base", **at), Cell(TARGET, "union", 4, **at)} <= cells
    sets = {(c.arm, c.times) for c in cells if c.length == 1 and c.arm in room.kinds()}
    assert len(sets) >= FEWEST and {times for _, times in sets} == {1, 4}
    for claim in READ_TWICE:
        for side in (side for side in sides_of(claim) if side.arm != CLIP):
            lengths = {c.length for c in cells if Side(c.arm, c.times, c.architecture) == side}
            assert {1, 2} <= lengths, f"{claim} is read twice, and needs {side} at both lengths"
    for side in KINDS:  # both orders of kinds and number, at every length
        lengths = {c.length for c in cells if (c.arm, c.times) == side[:2] and c.architecture == MAIN}
        assert lengths == {0.0625, 0.25, 1, 2}


def test_the_plan_says_how_many_jobs_it_has():
    plan = read_plan("diversity")
    text = " ".join((ROOT / RECORDS / "diversity/plan.yml").read_text().replace("#", "").split())
    each = len(jobs(plan)) // len(plan["sets"]) // len(plan["seeds"])
    assert f"{len(jobs(plan)):,} jobs, {each} of each of" in text


def test_every_claim_of_the_chapter_is_in_the_plan(plan):
    assert plan["claims"] == [name for name, claim in load_claims().items() if claim.paper == "diversity"]


def test_a_claim_without_its_cell_is_refused(plan):
    fewer = plan | {"settings": plan["settings"] | {"cells": [{"arms": ["base"]}]}}
    with pytest.raises(ValueError, match="no cell 'union; 4 N; resnet50; 1 of the steps; last', which it needs for"):
        jobs(fewer | {"claims": ["DIV-D6-resnet50"]})


def test_each_job_is_yielded_with_its_images(plan, whole):
    every, done, notes = whole
    assert sorted(done) == sorted(every) and len(jobs(plan)) == 2 * len(every)
    of = [cell_of(*job)[0] for job in done]
    blocks = [(cell.architecture, cell.length) for cell in of]  # what is carried out together stands together
    assert sum(a != b for a, b in itertools.pairwise(blocks)) == len(set(blocks)) - 1 > 5
    assert all(row.dtype == bool and len(row) == len(images) == 20 for row, images in done.values())
    assert set(notes) == {(TARGET, "measures 0"), (TARGET, "trick 0")}
    chosen, trick = done[name_of(Cell("", CHOSEN)), TARGET, 0][0], notes[TARGET, "trick 0"]["trick"]
    assert trick in SINGLE and np.array_equal(chosen, done[name_of(Cell("", trick)), TARGET, 0][0])
    sets = notes[TARGET, "measures 0"]
    assert len(sets) == 22 and all(set(values) == set(MEASURES) for values in sets.values())


def test_a_part_goes_on_elsewhere_as_it_was(plan, whole, tmp_path):
    every, done, _ = whole
    part = [job for job in every if cell_of(*job)[0].arm in (CHOSEN, CLIP) or cell_of(*job)[0].architecture == "vit-b"]
    again = outcomes(plan | {"claims": ["DIV-D2"]}, part, Execution(batch=60, cache=Cache(tmp_path)))
    rows = {job: row for job, row, _ in again}
    assert sorted(rows) == sorted(part) and all(np.array_equal(row, done[job][0]) for job, row in rows.items())


def test_claims_come_back_from_records(plan, whole):
    every, done, notes = whole
    once = [name for name, *_ in every if "; 2 of the steps" not in name]  # two seeds alike would find any change clear
    recorded = {name: {TARGET: np.stack([done[name, TARGET, 0][0]] * 2).astype(float)} for name in once}
    choices = {TARGET: {f"{what[:-2]}-{seed}": note for (_, what), note in notes.items() for seed in (0, 1)}}
    computed = differences(recorded, choices)
    of_one = {claim for claim in plan["claims"] if claim.startswith("DIV-D6")}  # two steps teach next to nothing
    assert set(plan["claims"]) - of_one <= set(computed) <= set(plan["claims"])
    for claim, by_target in computed.items():
        assert len(by_target[TARGET]) == 4 if claim in MEASURED else by_target[TARGET].shape == (2, 20)
    union, base = (recorded[name_of(Cell("", arm))][TARGET] for arm in ("union", "base"))
    np.testing.assert_allclose(computed["DIV-D7"][TARGET], union - base)
    single = np.stack([recorded[name_of(Cell("", trick))][TARGET] for trick in SINGLE])  # both seeds alike
    np.testing.assert_allclose(computed["DIV-D5-equal"][TARGET], union - single[single.mean((1, 2)).argmax()])
    assert measures_of(choices)["seed"].tolist() == [0] * 22 + [1] * 22
    del choices[TARGET]["measures-1"]
    assert not set(MEASURED) & set(differences(recorded, choices))  # one seed of two


def test_of_half_a_record_there_is_half():
    ones = {TARGET: np.ones((2, 10))}
    assert differences({}) == {}
    half = {name_of(Cell("", "base")): ones, name_of(Cell("", "base", length=0.25)): {"aerial-hard": np.ones((2, 10))}}
    table = table_of(half)
    assert Side("base") in Arms(table, TARGET) and Side("base") not in Arms(table, "aerial-hard")
    assert differences(half) == {}
    more = half | {name_of(Cell("", "union")): {TARGET: np.zeros((2, 10))}}
    assert differences(more)["DIV-D7"][TARGET].mean() == -1


def test_what_the_plan_cannot_be_expected_to_decide_is_what_the_claims_say_so_of():
    plan, claims = read_plan("diversity"), load_claims()
    n, seeds = min(plan["sets"].values()), len(plan["seeds"])
    sets = {claim: [*plan["sets"]] for claim in plan["claims"]} | {"DIV-D3-class": ["digits"]}
    small = {claim for claim in plan["claims"] if too_small(claims[claim], n, seeds, sets[claim])}
    head = (ROOT / "data/claims/diversity.yml").read_text("utf-8").partition("- id:")[0]
    assert small <= {"DIV-D3-class", "DIV-D4", "DIV-D6-size"}
    assert all(claim in head for claim in small)
