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
from zsclib.papers.diffusion_classifier.contrasts import (
    BESIDE,
    CAMERA,
    DIT_DEPTH,
    HARD,
    LABELS,
    MANY,
    RESAMPLED,
    SHIFTED,
    SIZES,
    TEN,
    UNSHIFTED,
)
from zsclib.papers.diffusion_classifier.experiments import PAPER
from zsclib.papers.diffusion_classifier.rivals import (
    TWICE,
    part_of,
    shorter,
    trained,
    with_images,
    with_labels,
)
from zsclib.papers.diffusion_classifier.study_parts import parts_of
from zsclib.papers.diffusion_classifier.study_plan import Study
from zsclib.paths import ROOT
from zsclib.prompts import load_prompts
from zsclib.study import records
from zsclib.study.freeze import RECORDS, chapters, read_plan, write_freeze
from zsclib.workers import Execution

CLAIMS = [
    "DC-H1-weak", "DC-H1-digits-equal", "DC-H3-digits", "DC-H3-objects-many", "DC-H4-objects-fine-hard", "DC-H5",
    "DC-H6-vit-hard", "DC-H7-camera", "DC-H7-hard", "DC-H8", "DC-H8-samples", "DC-H9-low-digits", "DC-H10", "DC-H11",
    "DC-H11-dit", "DC-H12-huber", "DC-H13", "DC-H14-zero", "DC-H16", "DC-H16-many", "DC-H16-sequential-cost",
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
    under_shift = [arm for arm, name, _ in jobs if name == SHIFTED[0]]
    assert trained(with_labels(LABELS[-1]), 3) in under_shift and trained(with_labels(100), 1) not in under_shift
    on_aerial = [arm for arm, name, _ in jobs if name == "aerial-hard"]
    assert arms.HUBER in on_aerial and not {arms.L1, arms.GUIDED, arms.CROPPED} & set(on_aerial)
    assert [arm for arm, name, _ in jobs if name == HARD + DIT_DEPTH] == [DIT, contrasts_room.DIT_BOUND]
    with pytest.raises(ValueError, match="nothing to ask about 'gadgets'"):
        parts_of("gadgets")


def test_photographs_are_asked_about_without_labels():
    """On these claims against networks on generated images and against CLIP are put again; heads learn from labels."""
    few, many = contrasts_room.PHOTOGRAPHS[0], contrasts_room.MANY_PHOTOGRAPHS[0]
    plan = read_plan("diffusion_classifier") | {"sets": {few: 10, few + contrasts_room.DEPTH: 5, many: 10}}
    plan["settings"] = plan["settings"] | {"K_deep": 128}
    by_set = {name: [arm for arm, own, _ in outcomes.jobs(plan) if own == name] for name in plan["sets"]}
    assert {DIFFUSION, CLIP_ONE, arms.HUBER, trained(with_images(SIZES[0]), 1)} <= set(by_set[few])
    assert not any("labels" in arm for arm in by_set[few]) and by_set[many] == [DIFFUSION, CLIP_ONE, CLIP_ENSEMBLE]
    assert arms.STAGES in by_set[few + contrasts_room.DEPTH]


def test_networks_beside_the_dit_are_trained_long_and_short():
    plan = read_plan("diffusion_classifier")
    here = [arm for arm, name, _ in outcomes.jobs(plan) if name == HARD]
    assert {trained(network, k) for network in BESIDE for k in (1, 2, 3)} <= set(here)
    assert trained(shorter("vit-b", 1000), 1) in here and trained(shorter("vit-b", 1000), 2) not in here
    for lengths in plan["settings"]["beside_shorter"].values():
        assert len(lengths) >= 3 and max(lengths) < plan["settings"]["beside_steps"]


def test_many_classes_are_scored_by_the_stages_of_the_paper_and_judged_by_the_same_over_fewer_timesteps():
    study = Study(plan=read_plan("diffusion_classifier"), execution=Execution())
    rule = study.rule("objects-many")
    assert (rule.until, rule.keep, rule.evaluations(120)) == ((20, 50, 100, 500), (20, 10, 5, 1), 5500)
    fewer = rule.until_at_most(128)
    assert (fewer.until, fewer.keep, fewer.t) == ((20, 50, 100, 128), rule.keep, rule.t[:128])
    assert rule.until_at_most(1000) == rule
    with pytest.raises(ValueError, match="a cut after 100 timesteps do not end at 100"):
        rule.until_at_most(100)


def test_no_other_study_looks_at_its_test_images():
    others = [read_plan(chapter)["images_seed"] for chapter in chapters() if chapter != "diffusion_classifier"]
    assert read_plan("diffusion_classifier")["images_seed"] not in others and len(others) > 1


def test_the_trainings_of_small_sets_share_no_image_and_none_is_held_out_by_any():
    """As many images as the plan's smallest set of them has."""
    rivals = read_plan("diffusion_classifier")["settings"]["rivals"]
    every, trainings = datasets.load("digits", "test", 200), rivals["trainings"]
    scale = 7200 / len(every)
    for n in (*SIZES, 7200):
        parts = [part_of(every, round(n / scale), k + 1, trainings) for k in range(trainings)]
        learned, held_out = ({tuple(part.manifest["source"]) for part in side} for side in zip(*parts, strict=True))
        assert len(held_out) == 1 and len(held_out.copy().pop()) == 20
        each = [set(sources) for sources in learned]
        assert not any(sources & set(held_out.copy().pop()) for sources in each)
        if n in SIZES[:2]:
            assert len(each) == trainings and len(set.union(*each)) == trainings * round(n / scale)
        else:
            assert len(each) == 1 and len(each[0]) == min(round(n / scale), 180)


def test_under_a_shift_no_labelled_image_chooses_the_template():
    asked = []

    def remember(name, what, choose):
        asked.append((name, what))
        return {"diffusion": "a drawing of {}"}

    study = Study(plan=read_plan("diffusion_classifier"), execution=Execution(), remember=remember)
    assert study.template(SHIFTED[2], "diffusion") == "a drawing of {}" and asked == [(HARD, "prompts")]
    assert load_prompts(HARD).classes == load_prompts(SHIFTED[2]).classes
    study.template("digits, in depth", "diffusion")
    assert asked[-1] == ("digits", "prompts")


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
    parts = [f"{name}{part}" for name in TEN for part in (", in depth", ", other noise")]
    parts += [HARD + DIT_DEPTH]
    plan = {
        "models": ["data/models/sd", "data/models/clip", "data/models/dit"], "claims": CLAIMS,
        "sets": dict.fromkeys(TEN, 10) | {"objects-fine-hard": 4, "objects-many": 3, "pairs": 6}
        | dict.fromkeys(small, 4) | dict.fromkeys(parts, 3) | {f"{name}, in depth": 2 for name in MANY},
        "images_seed": 1, "seeds": [0],
        "settings": {
            "K": 4, "K_shifted": 2, "K_stages": dict.fromkeys(MANY, 4), "K_templates": 2, "few": 1, "alpha": 0.1,
            "K_deep": dict.fromkeys(TEN, 8) | dict.fromkeys(MANY, 4), "K_dit": 2, "validation": 2,
            "validation_clip": 3, "splits": {"digits": "fresh"}, "beside_steps": 2,
            "beside_shorter": {network: [1] for network in BESIDE}, "beside_rates": [1e-3, 4e-3],
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
    assert set(judged["DC-H16"].effects) == {f"{name}, in depth" for name in TEN}

    choices = records.read_choices(freeze, root)
    assert set(choices["digits"]["prompts"]) == {"diffusion", "CLIP", "accuracy, diffusion", "accuracy, CLIP"}
    assert set(choices["digits"]["curves"]) == {arm for arm, name, _ in jobs if name == "digits" and "synthetic" in arm}
    beside = {"curves-beside-the-dit", "learning-rates-beside-the-dit"}
    assert set(choices[UNSHIFTED]) == beside and "prompts" not in choices.get(CAMERA[0], {})
    by_rate = choices[UNSHIFTED]["learning-rates-beside-the-dit"]
    assert {network: set(of) for network, of in by_rate.items()} == dict.fromkeys(BESIDE, {"0.001", "0.004"})
    heads = {arm for arm, name, _ in jobs if name == "digits" and "labels" in arm}
    assert set(choices["digits"]["curves-of-heads"]) == heads and any(TWICE in arm for arm in heads)
    assert trained(shorter("vit-b", 1), 1) in choices[UNSHIFTED]["curves-beside-the-dit"]
    measured = records.read_outcomes(freeze, root)
    deep = "digits, in depth"
    assert measured[arms.every_class(8)][deep].tolist() == measured[arms.EVERY][deep].tolist()

    for name in MANY:  # whose stages are judged as they are used
        used, judged_so = measured[DIFFUSION][name], measured[arms.STAGES][f"{name}, in depth"]
        assert used[:, :2].tolist() == judged_so.tolist()

    lost = root / RECORDS / "diffusion_classifier/digits-in-depth/sequential-test.0.parquet"
    lost.unlink()
    again = records.run_study(freeze, outcomes, execution, root=root)
    assert again == [(arms.TEST, deep, 0)]
    assert np.array_equal(records.read_outcomes(freeze, root)[arms.TEST][deep], measured[arms.TEST][deep])
