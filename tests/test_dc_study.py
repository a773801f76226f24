"""The study of the Diffusion Classifier: its plan, and a tiny one from freeze to verdicts."""

from __future__ import annotations

import json
import shutil
import subprocess

import numpy as np
import pytest
import yaml

from tests import tiny
from zsclib import datasets
from zsclib.cache import Cache
from zsclib.papers.diffusion_classifier import arms, outcomes
from zsclib.papers.diffusion_classifier import contrasts as contrasts_room
from zsclib.papers.diffusion_classifier.arms import CLIP_ENSEMBLE, CLIP_ONE, DIFFUSION, DIT
from zsclib.papers.diffusion_classifier.contrasts import CAMERA, RESAMPLED, UNSHIFTED
from zsclib.papers.diffusion_classifier.experiments import PAPER
from zsclib.papers.diffusion_classifier.rivals import (
    trained,
    with_labels,
)
from zsclib.papers.diffusion_classifier.study_parts import parts_of
from zsclib.paths import ROOT
from zsclib.study import records
from zsclib.study.claims import load_claims, too_small
from zsclib.study.freeze import RECORDS, read_plan, write_freeze
from zsclib.workers import Execution

CLAIMS = [
    "DC-H1-digits-weak", "DC-H1-digits-equal", "DC-H3-digits", "DC-H3-objects-many", "DC-H4-objects-fine-hard", "DC-H5",
    "DC-H6-vit-hard", "DC-H7-camera", "DC-H7-hard", "DC-H8", "DC-H8-samples", "DC-H9-low-digits", "DC-H10-repeated",
    "DC-H11", "DC-H11-dit", "DC-H12-huber", "DC-H13", "DC-H14-rescaled", "DC-H16", "DC-H16-many",
    "DC-H16-sequential-cost",
]  # fmt: skip


# --- the plan -------------------------------------------------------------------------------------


def test_a_set_has_its_parts_and_each_arm_a_file_of_its_own():
    plan = read_plan("diffusion_classifier")
    jobs = outcomes.jobs(plan)
    assert {name for _, name, _ in jobs} == set(plan["sets"])
    on_digits = [arm for arm, name, _ in jobs if name == "digits"]
    assert sum(arms.timestep_of(arm) is not None for arm in on_digits) == plan["settings"]["K"]
    assert {CLIP_ONE, CLIP_ENSEMBLE, arms.FILTERED, trained(PAPER, 3), trained(with_labels(1000), 1)} <= set(on_digits)
    assert trained(with_labels(10_000), 1) not in on_digits  # there are a thousand
    assert [arm for arm, name, _ in jobs if name == "objects-many"] == [DIFFUSION, CLIP_ONE, CLIP_ENSEMBLE]
    assert [arm for arm, name, _ in jobs if name == RESAMPLED][0] == DIT
    with pytest.raises(ValueError, match="nothing to ask about 'gadgets'"):
        parts_of("gadgets")


def test_every_claim_of_the_plan_could_be_decided():
    plan, claims = read_plan("diffusion_classifier"), load_claims()
    planted = {arm: {} for arm, _, _ in outcomes.jobs(plan)}
    for arm, name, _ in outcomes.jobs(plan):
        planted[arm][name] = np.zeros((1, plan["sets"][name]))
    found = outcomes.differences(planted)
    undecidable = []
    for claim, by_set in found.items():
        if not any(isinstance(d, tuple) for d in by_set.values()):
            shapes = [d.shape for d in by_set.values()]
            if too_small(claims[claim], min(n for _, n in shapes), min(s for s, _ in shapes), tuple(by_set)):
                undecidable.append(claim)
    assert set(found) == set(plan["claims"]) and undecidable == []


# --- a tiny one, from freeze to verdicts ----------------------------------------------------------


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A clone with tiny models, the claims and a plan of every part."""
    root = tmp_path_factory.mktemp("clone")
    models = root / "data/models"
    tiny.generator_and_clip(models)
    classes = datasets.load("objects", "train", 10).classes
    tiny.dit(models / "dit", id2label=dict(enumerate(classes)))
    facts = {"name": "objects", "n": 80, "seed": 0, "held_out": 20}
    (models / "dit/training.json").write_text(json.dumps({"dit": {"facts": {"set": facts}}}))
    (root / "data/claims").mkdir()
    shutil.copy(ROOT / "data/claims/diffusion_classifier.yml", root / "data/claims")
    small = [UNSHIFTED, *CAMERA, "objects-shift:blurred", RESAMPLED]
    parts = [f"{name}{part}" for name in contrasts_room.TEN for part in (", in depth", ", other noise")]
    plan = {
        "models": ["data/models/sd", "data/models/clip", "data/models/dit"], "claims": CLAIMS,
        "sets": dict.fromkeys(contrasts_room.TEN, 10) | {"objects-fine-hard": 4, "objects-many": 3, "pairs": 6}
        | dict.fromkeys(small, 4) | dict.fromkeys(parts, 3) | {"objects-many, in depth": 2},
        "images_seed": 1, "seeds": [0],
        "settings": {
            "K": 4, "K_shifted": 2, "K_stages": 4, "K_deep": 8, "K_dit": 2, "few": 1, "alpha": 0.1, "validation": 2,
            "splits": {"digits": "fresh"}, "beside_steps": 1,
            "rivals": {
                "sizes": [80], "labels": [80], "paper_images": 80, "network": "resnet18", "steps": 1, "head_steps": 20,
                "sampling_steps": 1, "trainings": 1,
            },
        },
    }  # fmt: skip
    folder = root / RECORDS / "diffusion_classifier"
    folder.mkdir(parents=True)
    (folder / "plan.yml").write_text(yaml.safe_dump(plan))
    who = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    for command in (["init", "-q"], ["add", "-A"], [*who, "commit", "-qm", "x"]):
        subprocess.run(["git", "-C", root, *command], check=True)
    return root


def test_a_tiny_study_runs_from_freeze_to_verdicts_and_resumes(root, tmp_path, monkeypatch):
    monkeypatch.setattr(contrasts_room, "FLAT", 1.0)
    freeze = write_freeze("diffusion_classifier", root)
    execution = Execution(cache=Cache(tmp_path / "cache"))
    done = records.run_study(freeze, outcomes, execution, root=root)
    jobs = outcomes.jobs(freeze.plan(root))
    assert done == jobs and records.missing(freeze, jobs, root) == []
    judged = records.verdicts(freeze, outcomes, root)
    assert set(judged) == set(CLAIMS)
    assert set(judged["DC-H16"].effects) == {f"{name}, in depth" for name in contrasts_room.TEN}

    choices = records.read_choices(freeze, root)
    assert set(choices["digits"]["prompts"]) == {"diffusion", "CLIP", "accuracy, diffusion", "accuracy, CLIP"}
    assert set(choices["digits"]["curves"]) == {arm for arm, name, _ in jobs if name == "digits" and "synthetic" in arm}
    assert set(choices[UNSHIFTED]) == {"prompts", "curves-beside-the-dit"}
    measured = records.read_outcomes(freeze, root)
    deep = "digits, in depth"
    assert measured[arms.every_class(8)][deep].tolist() == measured[arms.EVERY][deep].tolist()

    lost = root / RECORDS / "diffusion_classifier/digits-in-depth/sequential-test.0.parquet"
    lost.unlink()
    again = records.run_study(freeze, outcomes, execution, root=root)
    assert again == [(arms.TEST, deep, 0)]
    assert np.array_equal(records.read_outcomes(freeze, root)[arms.TEST][deep], measured[arms.TEST][deep])
