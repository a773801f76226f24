"""On a user's own few images: adapters that diffusers opens, folders that any image tool opens, and what is amiss."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from itertools import product
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from tests import tiny
from zsclib import datasets
from zsclib.cache import Cache
from zsclib.images.class_folders import folder_names, to_folder
from zsclib.images.image_set import ImageSet
from zsclib.models import denoising
from zsclib.models.clip import open_clip
from zsclib.models.generator import open_generator
from zsclib.models.lora import Lora
from zsclib.own_sets import Own
from zsclib.papers.datadream.generated_arms import adapted, adapter_hash
from zsclib.papers.datadream.own import classes_read, leave_adapters, leave_images, open_adapters
from zsclib.papers.datadream.training_sets import Setting, open_tuning, shots
from zsclib.paths import ROOT
from zsclib.sampling import sample
from zsclib.study import runner
from zsclib.workers import Execution

SIZE = 16
OWN = Own(classes={"a": "F-16A/B", "b": "F-16A-B", "c": "cat"}, template="an aircraft photo of a {}")
FOLDERS = ["0 F-16A-B", "1 F-16A-B", "cat"]


@pytest.fixture(scope="module")
def target(tmp_path_factory) -> str:
    root, draws = tmp_path_factory.mktemp("own") / "planes", np.random.default_rng(0)
    for split, n in (("train", 4), ("test", 3)):
        for label, name in enumerate("abc"):
            (root / split / name).mkdir(parents=True)
            for i in range(n):
                image = draws.integers(0, 120, (SIZE + 3 * i, SIZE + i, 3), dtype=np.uint8)
                image[:, :, label] += 100
                Image.fromarray(image).save(root / split / name / f"{i}.png")
    return f"folder:{root}"


@pytest.fixture(scope="module")
def setting(tmp_path_factory) -> Setting:
    root = tmp_path_factory.mktemp("models")
    model, clip = tiny.generator_and_clip(root)
    return Setting(
        model=model, clip=clip, index="", shots=2, per_class=2, sampling_steps=2,
        tuning_samples=16, learning_rate=2e-2, lora=Lora(rank=2, alpha=2), checks=2, test_images=100, size=SIZE,
        own=OWN,
    )  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def few_draws():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(denoising, "HELD_OUT_DRAWS", 8)
        yield


@pytest.fixture(scope="module")
def execution(tmp_path_factory) -> Execution:
    return Execution(batch=8, cache=Cache(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def run(setting, target, execution, tmp_path_factory) -> tuple[Path, pd.DataFrame, pd.DataFrame]:
    folder = tmp_path_factory.mktemp("run")
    for _ in range(2):  # a second run replaces what the first one left
        left = leave_adapters(setting, target, execution, folder=folder)
        images = leave_images(setting, target, execution, ["DataDream, by class", "prompted"], folder=folder)
    return folder, left, images


def test_what_is_read_is_shown_first(setting, target):
    table = classes_read(setting, target)
    assert table["class"].tolist() == ["F-16A/B", "F-16A-B", "cat"]
    assert table["prompt"].tolist()[::2] == ["an aircraft photo of a F-16A/B", "an aircraft photo of a cat"]
    assert [table[name].tolist() for name in ("shots", "validation", "test")] == [[2] * 3, [2] * 3, [3] * 3]
    with pytest.raises(ValueError, match="'F-16A/B' 4"):
        classes_read(replace(setting, shots=3), target)
    in_case_only = replace(OWN, classes={"a": "F-16A", "b": "F-16a", "c": "cat"})
    with pytest.raises(ValueError, match="classes 'F-16A' and 'F-16a' are the same words to this model"):
        classes_read(replace(setting, own=in_case_only), target)


def test_every_class_has_an_adapter_in_a_folder_of_its_own(run):
    folder, left, _ = run
    assert left["scope"].tolist() == ["by class"] * 3 + ["all classes"]
    assert left["class"].tolist() == ["F-16A/B", "F-16A-B", "cat", "all"]
    assert left["folder"].tolist() == [f"adapters/planes/by class/{name}" for name in FOLDERS] + [
        "adapters/planes/all classes"
    ]
    for place in left["folder"]:
        assert (folder / place / "pytorch_lora_weights.safetensors").is_file()
    assert left["samples"].tolist() == [16] * 3 + [48] and left["adapter"].nunique() == 4
    assert (left["loss after"] < left["loss before"]).any() and left["loss after"].notna().all()
    about = json.loads((folder / "adapters/planes/by class/about.json").read_text())
    assert about["classes"] == dict(zip(["F-16A/B", "F-16A-B", "cat"], FOLDERS, strict=True))
    assert about["prompts"]["cat"] == "an aircraft photo of a cat"


def test_diffusers_opens_an_adapter_and_generates_the_same_image(run, setting, target, execution):
    folder, left, _ = run
    tuned = adapted(setting, shots(setting, target, 0), execution, "by class")["cat"]
    options = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    pipeline = StableDiffusionPipeline.from_pretrained(setting.model, **options)
    pipeline.load_lora_weights(folder / left["folder"][2])
    z = np.random.default_rng(0).standard_normal((1, *tuned.latent_shape)).astype(np.float32)
    condition = tuned.encode_prompts(["an aircraft photo of a cat"])
    embedded, _ = pipeline.encode_prompt(["an aircraft photo of a cat"], "cpu", 1, False)
    assert torch.allclose(condition.embeddings, embedded, atol=1e-5)
    theirs = pipeline.unet(torch.from_numpy(z), 500, embedded).sample
    assert torch.allclose(tuned.predict_noise(torch.from_numpy(z), 500, condition), theirs, atol=1e-4)
    base = open_tuning(setting)
    assert not torch.allclose(base.predict_noise(torch.from_numpy(z), 500, condition), theirs, atol=1e-3)


def test_adapters_that_were_left_are_opened_again_by_class(run, setting, target, execution):
    folder, left, _ = run
    base = open_tuning(setting)
    by_class = open_adapters(base, folder / "adapters/planes/by class")
    assert list(by_class) == ["F-16A/B", "F-16A-B", "cat"]
    assert [adapter_hash(generator) for generator in by_class.values()] == left["adapter"].tolist()[:3]
    tuned = adapted(setting, shots(setting, target, 0), execution, "by class")
    for name in by_class:
        images = [sample(generators[name], ["a cat"], [3], 2.0, 2) for generators in (by_class, tuned)]
        assert np.array_equal(*images)
    of_all = open_adapters(base, folder / "adapters/planes/all classes")
    assert len({id(generator) for generator in of_all.values()}) == 1 and list(of_all) == list(by_class)


def test_adapters_that_are_cut_short_missing_or_another_model_s_are_named(run, setting, tmp_path):
    base, folder = open_tuning(setting), tmp_path / "by class"
    for file in (run[0] / "adapters/planes/by class").rglob("*"):
        if file.is_file():
            place = folder / file.relative_to(run[0] / "adapters/planes/by class")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(file.read_bytes())
    with pytest.raises(FileNotFoundError, match="there is no about.json, so no adapters"):
        open_adapters(base, tmp_path)
    other = open_generator(tiny.stable_diffusion_1(tmp_path / "other", seed=1))
    with pytest.raises(ValueError, match=r"class 'F-16A/B': .*0 F-16A-B/pytorch_lora.* is for another base model"):
        open_adapters(other, folder)
    file = folder / "cat/pytorch_lora_weights.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"class 'cat': .*cat/pytorch_lora_weights.safetensors is no whole adapter"):
        open_adapters(base, folder)
    file.unlink()
    with pytest.raises(FileNotFoundError, match="class 'cat': there is no adapter at .*cat"):
        open_adapters(base, folder)


def test_generated_sets_are_left_as_folders_of_images(run, setting):
    folder, left, images = run
    assert images["folder"].tolist() == [f"training sets/planes/{arm}" for arm in ("DataDream, by class", "prompted")]
    assert images["images"].tolist() == [6, 6] and images["fewest of a class"].tolist() == [2, 2]
    place = folder / images["folder"][0]
    again = datasets.load(f"folder:{place}", size=SIZE)
    assert again.classes == tuple(FOLDERS) and len(again) == 6
    manifest = pd.read_csv(place / "manifest.csv")
    assert manifest["file"].tolist() == [f"{name}/00000{i}.png" for name in FOLDERS for i in range(2)]
    assert manifest["class"].tolist()[::2] == ["F-16A/B", "F-16A-B", "cat"] and manifest["seed"].nunique() == 6
    assert manifest["adapter"].tolist()[::2] == left["adapter"].tolist()[:3]
    base = open_tuning(setting)
    first = manifest.iloc[0]
    tuned = open_adapters(base, folder / "adapters/planes/by class")["F-16A/B"]
    image = sample(tuned, [first["prompt"]], [int(first["seed"])], first["guidance"], 2)[0]
    assert np.abs(image.astype(int) - np.asarray(Image.open(place / first["file"]))).max() <= 1
    assert pd.read_csv(place / "report.csv")["delivered"].tolist() == [2] * 3
    about = json.loads((place / "about.json").read_text())
    assert about["arm"] == "DataDream, by class" and about["class of each folder"]["cat"] == "cat"
    assert str(setting.model) not in json.dumps(about), "no path of this machine"


def test_a_folder_with_other_files_is_not_overwritten(tmp_path):
    images = ImageSet(np.zeros((2, 4, 4, 3), np.uint8), [1, 1], ("a", "b/c"))
    to_folder(images, tmp_path / "set", {})
    assert sorted(path.name for path in (tmp_path / "set").iterdir()) == ["about.json", "b-c", "manifest.csv"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other/notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="is there already, with other files"):
        to_folder(images, tmp_path / "other", {})
    assert (tmp_path / "other/notes.txt").read_text() == "mine"


def test_folders_of_classes_are_told_apart_on_any_file_system():
    assert folder_names(["cat", "a dog"]) == ["cat", "a dog"]
    assert folder_names(["F-16A/B", "F/A-18", "..", "C:\\x", "a.", "nul\x00"]) == [
        *("F-16A-B", "F-A-18", "2", "C--x", "a", "nul-"),
    ]
    assert folder_names(["F-16A/B", "cat", "Cat"]) == ["F-16A-B", "1 cat", "2 Cat"]
    assert folder_names(["a/b", "a-b", "x"]) == ["0 a-b", "1 a-b", "x"]
    assert folder_names(["ü", "u\u0308"]) == ["0 ü", "1 u\u0308"], "one name on some file systems"
    with pytest.raises(ValueError, match="cannot be folders of their own; give names that differ"):
        folder_names(["a", "A", "0 a"])


def test_the_page_of_a_run_file_is_about_ones_own_set(tmp_path, tmp_path_factory):
    """The file's own parameters, but for places, and sizes that make it short."""
    root, draws = tmp_path / "clone", np.random.default_rng(2)
    for name in ("data/profiles", "data/runs/datadream"):
        shutil.copytree(ROOT / name, root / name)
    (root / "notebooks").mkdir()
    shutil.copy(ROOT / "notebooks/datadream.ipynb", root / "notebooks")
    for (split, n), (label, name) in product((("train", 4), ("test", 3)), enumerate(("Abyssinian", "Beagle", "pug"))):
        (tmp_path / "pets" / split / name).mkdir(parents=True)
        for i in range(n):
            image = draws.integers(0, 120, (SIZE + i, SIZE, 3), dtype=np.uint8)
            image[:, :, label] += 100
            Image.fromarray(image).save(tmp_path / "pets" / split / name / f"{i}.png")
    (tmp_path / "pool").mkdir()
    captions = [f"a photo of a {name}" for name in ("pug", "beagle", "cat") * 4]
    for i, caption in enumerate(captions):
        Image.fromarray(draws.integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8)).save(tmp_path / "pool" / f"{i}.png")
        (tmp_path / "pool" / f"{i}.txt").write_text(caption)
    model, clip = tiny.generator_and_clip(tmp_path_factory.mktemp("models"))
    places = {
        "model": str(model), "clip": str(clip), "dataset": f"folder:{tmp_path / 'pets'}",
        "pool": f"{tmp_path / 'pool'}", "template": "a pet {}", "splits": ["train", "test"],
        "size": None, "shots": 2, "per_class": 2, "sampling_steps": 2,
        "tuning_samples": 16, "classifier_steps": 4, "classifier_batch": 4, "rates": [1e-3], "checks": 1, "seeds": 1,
        "arms": ["prompted", "DataDream, by class", "DataDream, all classes", "retrieved"], "device": "cpu",
        "precision": "float32", "allow_network": False, "batch": 8,
    }  # fmt: skip
    folder = runner.run("datadream", places, root=root, run="pets", stream=io.StringIO())
    assert folder == root / "results/pets/datadream"
    left = folder / "adapters/pets"
    assert {path.name for path in (left / "by class").iterdir() if path.is_dir()} == {"Abyssinian", "Beagle", "pug"}
    assert list((left / "all classes").glob("*.safetensors"))
    for arm in ("DataDream, by class", "DataDream, all classes"):
        images = folder / "training sets/pets" / arm
        assert {path.parent.name for path in images.glob("*/*.png")} == {"Abyssinian", "Beagle", "pug"}
        assert Image.open(next(images.glob("*/*.png"))).size == (open_clip(clip).image_size,) * 2
    text = json.dumps(nbformat.read(folder / "executed.ipynb", as_version=4))
    assert "What is compared" in text and str(tmp_path_factory.getbasetemp()) not in text.replace(str(tmp_path), "")
