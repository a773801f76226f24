"""The plan of DataDream's study has what its claims need, chooses where it says, and leaves no number to code."""

from __future__ import annotations

import re
from dataclasses import fields

import numpy as np
import pytest

from zsclib.models.clip_lora import ClipRecipe
from zsclib.papers.datadream import contrasts as room
from zsclib.papers.datadream import outcomes as study
from zsclib.papers.datadream.classifiers import SCRATCH, Cell
from zsclib.papers.datadream.contrasts import (
    BOTH,
    BY_CLASS,
    PROMPTED,
    RETRIEVED,
    SHOTS,
    TWICE,
    ZERO_SHOT,
    changed,
)
from zsclib.papers.datadream.experiments import cell_of, choosing, name_of
from zsclib.papers.datadream.gap import Alignment
from zsclib.paths import DATA
from zsclib.study.claims import load_claims, too_small
from zsclib.study.freeze import read_plan
from zsclib.study.stats import expected_half_width
from zsclib.world.targets import CLASSES

SWEEPS, FINE = ["aerial-hard", "gadgets-hard"], "objects-fine-hard"
KNOWN = ["objects-hard", "digits", "aerial-hard"]
EVERY = [*KNOWN, "gadgets-hard"]
N = 30  # images of the planted outcomes


@pytest.fixture(scope="module")
def plan() -> dict:
    return read_plan("datadream")


@pytest.fixture(scope="module")
def claims() -> dict:
    return {name: claim for name, claim in load_claims().items() if claim.paper == "datadream"}


@pytest.fixture(scope="module")
def differences(plan) -> dict:
    """The contrasts of all that the plan measures, with outcomes that are chance."""
    draws, recorded, notes = np.random.default_rng(0), {}, {}
    for name, target, _ in study.jobs(plan):
        own = draws.random((len(plan["seeds"]), N)) < 0.5
        recorded.setdefault(name, {}).setdefault(target, own.astype(float))
    labels = {"labels": (np.arange(N) % 6).tolist()}
    for target in plan["sets"]:
        names = [name for name, by_target in recorded.items() if target in by_target]
        notes[target] = {"labels": labels}
        for seed in plan["seeds"]:
            notes[target][f"classifiers-{seed}"] = {name: {"held_out": draws.random()} for name in names}
            notes[target][f"narrowing-{seed}"] = {"narrowing": draws.random(6).tolist()}
    return study.differences(recorded, notes)


def targets_of(name: str, contrast: str) -> list[str]:
    """Return the targets that a claim is said to be about."""
    if name in room.CONCENTRATED or name in room.ON_UNKNOWN:
        return ["gadgets-hard"]
    if "the targets of the sweep" in contrast:
        return SWEEPS
    of_all = [FINE] if name in ("DD-H1-all-alone", "DD-H1-all-shots", "DD-H4-all") else []
    return (KNOWN if "all targets but gadgets-hard" in contrast else EVERY) + of_all


def test_every_claim_of_the_plan_is_measured_on_the_targets_that_it_is_about(plan, claims, differences):
    assert list(claims) == plan["claims"]
    for name, claim in claims.items():
        assert sorted(differences[name]) == sorted(targets_of(name, claim.contrast)), name
        assert isinstance(differences[name][targets_of(name, claim.contrast)[0]], Alignment) == (name == "DD-H9")


def test_each_arm_and_way_chooses_with_most_of_the_shots_and_nothing_changed(plan):
    for target in plan["sets"]:
        chosen = choosing(study._cells(plan, target, plan["seeds"][0])).values()
        assert len({(cell.arm, cell.with_shots, cell.classifier) for cell in chosen}) == len(chosen) > 3
        for cell in chosen:
            usual = (SHOTS, room.PROMPTED, room.GUIDED, room.DISEF, *room.VARIANTS, RETRIEVED, BOTH)
            assert cell.shots == 16 and cell.n == (0 if cell.arm == SHOTS else 64) and cell.arm in usual, cell


def test_what_is_the_same_for_every_k_is_measured_once(plan):
    cells = [cell_of(name, target, seed) for name, target, seed in study.jobs(plan)]
    assert not [c for c in cells if c.arm in (PROMPTED, RETRIEVED) and c.shots < 16 and not c.with_shots]
    assert {c.target for c in cells if c.arm == BOTH} == set(KNOWN)


def test_whether_a_tuning_has_ended_is_measured_where_it_is_claimed(plan):
    names = {(name, target) for name, target, _ in study.jobs(plan)}
    for arm, n, classifier in ((SHOTS, 0, "CLIP"), (BY_CLASS, 64, "CLIP"), (SHOTS, 0, SCRATCH)):
        cell = Cell("", changed(arm, TWICE), n=n, classifier=classifier)
        assert {target for name, target in names if name == name_of(cell)} == set(EVERY), cell


def test_the_plan_names_every_number_of_the_classifiers(plan):
    """So that the freeze's hash covers them, whatever the code's defaults become."""
    settings = plan["settings"]
    of_cells = {"learning_rate", "flip", "hue", "checkpoint"}  # by rates, unmirrored, one_hue and choice
    assert set(settings["clip"]) == {field.name for field in fields(ClipRecipe)} - of_cells
    assert {*study.OF_CLASSIFIERS} <= set(settings) and {"rounds", "size"} <= set(settings)
    assert all({"n", "shots"} <= set(block) for block in settings["cells"])
    assert set(settings["clip"]["steps"]) == set(plan["sets"])
    for target in plan["sets"]:
        classifiers = study._classifiers(plan, target)
        assert classifiers.recipe.steps == settings["clip"]["steps"][target]
        assert len(classifiers.rates) == len(classifiers.scratch_rates) == 3  # there is a middle one
        recipe = classifiers.recipes(Cell(target, BY_CLASS))[1]
        assert (recipe.flip, recipe.hue) == (target != "digits", target not in ("aerial-hard", FINE))


def test_a_training_meets_images_as_often_as_h7_says(plan, claims):
    clip = plan["settings"]["clip"]
    for target in SWEEPS:
        images = clip["steps"][target] * clip["batch"] / len(CLASSES[target])  # of a class
        assert 0.9 < images / 256 < 1.2 and images / 16 >= 15, "alone"
        assert 0.4 < images / 2 / 256 < 0.6, "with the shots"
    assert "an image about once, at N = 16 fifteen times or more" in claims["DD-H7-alone"].contrast
    assert "about half of the generated images, each once" in claims["DD-H7-shots"].contrast


HEADER = (DATA / "claims" / "datadream.yml").read_text(encoding="utf-8").partition("\n- id:")[0]


def test_the_claims_header_names_what_the_plan_can_be_expected_to_decide(plan, claims):
    n, seeds = min(plan["sets"].values()), len(plan["seeds"])
    decidable = {
        name
        for name, claim in claims.items()
        if claim.unit == "points" and not too_small(claim, n, seeds, targets_of(name, claim.contrast))
    }
    text = HEADER.partition("expected to decide these:")[2].partition("of all other differences")[0]
    assert set(re.findall(r"DD-[\w-]+", text)) == decidable
    assert f"The study has {seeds} seeds and {n:,} to {max(plan['sets'].values()):,}." in HEADER


def test_the_claims_header_says_what_holm_s_correction_leaves(plan, claims):
    alpha, n = 0.05 / len(claims), min(plan["sets"].values())
    words = re.search(r"some (.+) points on four targets, (.+) on three, (.+) on two and (.+) on one", HEADER)
    for said, sets in zip(map(float, words.groups()), (4, 3, 2, 1), strict=True):
        width = 100 * expected_half_width(n, len(plan["seeds"]), sets, discordance=0.2, level=1 - alpha)
        assert said == pytest.approx(width, rel=0.06), (sets, width)


def test_zero_shot_is_measured_wherever_clip_is_tuned(plan):
    jobs = {(name, target) for name, target, _ in study.jobs(plan)}
    assert {target for name, target in jobs if name == name_of(Cell("", ZERO_SHOT, shots=0, n=0))} == set(plan["sets"])
