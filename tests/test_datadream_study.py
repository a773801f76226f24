"""DataDream's study: which jobs it has, that they are the comparison's, and that claims come back from its records."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pandas as pd
import pytest

from tests import tiny
from zsclib.cache import Cache
from zsclib.extra import Extra
from zsclib.images.image_set import ImageSet
from zsclib.papers.datadream import experiments
from zsclib.papers.datadream import outcomes as room
from zsclib.papers.datadream.classifiers import Cell
from zsclib.papers.datadream.contrasts import ALL_CLASSES, BY_CLASS, PROMPTED, SHOTS, ZERO_SHOT, At
from zsclib.papers.datadream.experiments import cell_of
from zsclib.papers.datadream.outcomes import differences, jobs, outcomes
from zsclib.workers import Execution

TARGET = "aerial-hard"
NAMES = {arm: f"{arm}; 16 shots; 64 images; alone; CLIP" for arm in (BY_CLASS, PROMPTED, ALL_CLASSES)}


@pytest.fixture(scope="module")
def plan(tmp_path_factory) -> dict:
    root = tmp_path_factory.mktemp("study")
    model, clip = tiny.generator_and_clip(root)
    return {
        "models": [model, clip], "claims": ["DD-H1-alone"], "sets": {TARGET: 24}, "images_seed": 0, "seeds": [0, 1],
        "settings": {
            "cells": [
                {"targets": [TARGET], "arms": [PROMPTED, BY_CLASS, ALL_CLASSES], "shots": [2], "n": [3]},
                {"targets": [TARGET], "arms": [BY_CLASS], "shots": [1], "n": [3], "ways": ["alone"]},
                {"targets": ["digits"], "arms": ["DISEF"], "shots": [1], "n": [3]},
            ],
            "folder": str(root / "pool"), "pool_images": 60, "shots": 2, "tuning_samples": 8, "rank": 2, "size": 16,
            "sampling_steps": 2, "rates": [1e-2, 1e-3], "clip": {"rank": 2, "steps": 2, "batch": 4, "checks": 1},
            "splits": {},
        },
    }  # fmt: skip


def noise(setting, target, seed, arm, execution):
    """Images of an arm, none of which was generated."""
    classes, n = room.shots(setting, target, seed).real.classes, setting.per_class
    labels, draws = np.tile(np.arange(len(classes)), n), np.random.default_rng([seed, len(arm)])
    images = ImageSet(draws.integers(0, 255, (len(labels), 16, 16, 3), np.uint8), labels, classes)
    report = pd.DataFrame({"class": classes, "wanted": n})
    return Extra(images=images, report=report, evaluations=0.0, tuning_samples=0, seconds=0.0)


@pytest.fixture(scope="module")
def execution(tmp_path_factory) -> Execution:
    return Execution(cache=Cache(tmp_path_factory.mktemp("cache")))


def test_a_job_is_a_cell_seed_by_seed(plan):
    every = jobs(plan)
    assert [seed for _, _, seed in every] == sorted(seed for _, _, seed in every)
    of_first = [cell_of(name, TARGET, 0) for name, _, seed in every if seed == 0]
    number = Counter((cell.arm, cell.shots) for cell in of_first)
    # alone and with the shots; the second block is alone only, and has the shots alone at its own K
    assert number == {
        (PROMPTED, 2): 2, (BY_CLASS, 2): 2, (ALL_CLASSES, 2): 2, (SHOTS, 2): 1, (ZERO_SHOT, 0): 1,
        (BY_CLASS, 1): 1, (SHOTS, 1): 1,
    }  # fmt: skip
    assert len(set(every)) == len(every)


def test_jobs_go_on_elsewhere_with_what_was_chosen(plan, execution, tmp_path, monkeypatch):
    monkeypatch.setattr(experiments, "make_set", noise)
    kept, every = {}, jobs(plan)

    def remember(name, what, choose):
        if (name, what) not in kept:
            kept[name, what] = choose()
        return kept[name, what]

    done = {job: (correct, images) for job, correct, images in outcomes(plan, every, execution, remember=remember)}
    assert all(correct.dtype == bool and len(correct) == len(images) == 24 for correct, images in done.values())
    notes = {what: noted for (_, what), noted in kept.items()}
    by_seed = [f"{what} {seed}" for seed in (0, 1) for what in ("sets", "classifiers")]
    assert list(done) == every and set(notes) == {"choices", *by_seed}  # nothing at 16 shots: H9 keeps nothing
    choices = notes["choices"].values()
    assert {one["learning_rate"] for one in choices} <= {1e-2, 1e-3} and len(choices) == 2 * 3 + 1
    assert all(len(trial["accuracies"]) == 2 for one in choices for trial in one["trials"])
    trained = notes["classifiers 1"]
    assert list(trained) == [name for name, _, seed in every if seed == 1]
    assert all({"learning_rate", "step", "held_out"} == set(one) for one in trained.values())
    made = notes["sets 0"]
    assert set(made) == {f"{arm}; 2 shots" for arm in (PROMPTED, BY_CLASS, ALL_CLASSES)} | {f"{BY_CLASS}; 1 shots"}
    assert made[f"{PROMPTED}; 2 shots"]["delivered"] == made[f"{PROMPTED}; 2 shots"]["compared"] == [3] * 8
    assert json.loads(json.dumps(notes)) == notes
    elsewhere = Execution(cache=Cache(tmp_path))
    second = [job for job in every if job[2] == 1][:2]
    again = outcomes(plan, second, elsewhere, remember=remember)
    assert all(np.array_equal(correct, done[job][0]) for job, correct, _ in again)


def test_the_gap_to_real_images_is_measured_where_a_claim_asks_for_it(plan, execution, monkeypatch):
    monkeypatch.setattr(experiments, "make_set", noise)
    monkeypatch.setattr(room, "OF_H9", [name for name, *_ in jobs(plan) if "2 shots; 3 images; alone" in name][:2])
    monkeypatch.setattr(room, "_narrowing", lambda *_: {"narrowing": []})
    for claim, noted in (("DD-H1-alone", False), ("DD-H9", True)):
        kept = []

        def remember(name, what, choose, kept=kept):
            kept.append(what)
            return choose()

        list(outcomes(plan | {"claims": [claim]}, jobs(plan)[:1], execution, remember=remember))
        assert ("narrowing 0" in kept) == ("labels" in kept) == noted


def test_claims_come_back_from_records():
    ones, zeros = np.ones((2, 10)), np.zeros((2, 10))
    recorded = {NAMES[BY_CLASS]: {TARGET: ones}, NAMES[PROMPTED]: {TARGET: zeros}}
    assert differences({}) == {}
    assert differences(recorded)["DD-H1-alone"][TARGET].mean() == 1
    both = recorded | {NAMES[ALL_CLASSES]: {TARGET: zeros}}
    assert not differences(both)["DD-H5-choice"]  # both variants are there, and not yet which was better by validation
    accuracies = {NAMES[BY_CLASS]: (0.9, 0.1), NAMES[ALL_CLASSES]: (0.5, 0.5)}
    notes = {
        f"classifiers-{seed}": {name: {"held_out": own[seed]} for name, own in accuracies.items()} for seed in (0, 1)
    }
    assert differences(both, {TARGET: notes})["DD-H5-choice"][TARGET].mean(1).tolist() == [0, -1]
    del notes["classifiers-1"]
    assert not differences(both, {TARGET: notes})["DD-H5-choice"]  # of one seed of two


def test_h9_comes_back_from_what_was_kept():
    labels = np.repeat(np.arange(6), 5)
    gain = (np.arange(30) % 5 < labels[:, None].T - 1).astype(float)  # more in later classes
    recorded = {NAMES[BY_CLASS]: {TARGET: np.stack([gain[0], gain[0]])}, NAMES[PROMPTED]: {TARGET: np.zeros((2, 30))}}
    kept = {f"narrowing-{seed}": {"narrowing": [0.1 * y for y in range(6)]} for seed in (0, 1)}
    kept["labels"] = {"labels": labels.tolist()}
    found = differences(recorded, {TARGET: kept})["DD-H9"][TARGET]
    assert found.value > 0.9 and found.n == 6
    del kept["narrowing-1"]
    assert "DD-H9" not in differences(recorded, {TARGET: kept})  # one seed of two


def test_the_gap_is_measured_to_images_that_nothing_else_has(plan, execution, monkeypatch):
    monkeypatch.setattr(room, "ALONE", At(shots=2, n=3))
    setting = room._setting(plan, TARGET, "cpu", execution)
    one = room.shots(setting, TARGET, 0)
    further = room.further_real(setting, one, 3)
    assert np.bincount(further.labels).tolist() == [3] * len(further.classes)
    others = {image.tobytes() for part in (one.real, one.validation, one.test) for image in part.images}
    assert not others & {image.tobytes() for image in further.images}
    cells = [Cell(TARGET, PROMPTED, shots=2, n=3), Cell(TARGET, BY_CLASS, shots=2, n=4), Cell(TARGET, SHOTS, n=0)]
    narrowing = room._narrowing(setting, cells, execution)["narrowing"]
    assert len(narrowing) == len(one.real.classes) and any(value != 0 for value in narrowing)
