"""A user's own labelled set and captioned pool, in the layouts that they have, through every arm; and what is amiss."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import datasets as hub
import nbformat
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests import tiny
from zsclib import datasets
from zsclib.cache import Cache
from zsclib.extra import counts
from zsclib.own_sets import SEVEN, Own, load_part, prompts_for
from zsclib.papers.retrieval import pool_arms
from zsclib.papers.retrieval.arms import ARMS, make_extra
from zsclib.papers.retrieval.experiments import Cell, run
from zsclib.papers.retrieval.own import classes_read, leave_retrieved, repeated, shortfalls, summary
from zsclib.papers.retrieval.training_sets import Setting, data
from zsclib.paths import ROOT
from zsclib.pools.ladder import Rules
from zsclib.prompts import fill
from zsclib.recipe import Recipe
from zsclib.study import runner
from zsclib.workers import Execution

NAMES = ["tench, Tinca tinca", "crane", "crane"]  # as ImageNet's are: two classes of one name
OWN = Own(classes={"1": "a crane bird", "2": "a construction crane"}, splits=["train", "validation"])
GENERATOR, NETWORK, CLIP = 64, 48, 32  # pixels
SHOTS, HELD_OUT = 2, 1


def photograph(draws: np.random.Generator, label: int) -> Image.Image:
    """A JPEG-like image of any size whose colours and coarse structure are its class's."""
    w, h = draws.integers(50, 90, 2)
    coarse = draws.integers(0, 150, (5, 5, 3))
    coarse[:, :, label] += 100
    return Image.fromarray(coarse.astype(np.uint8)).resize((int(w), int(h)), Image.Resampling.BICUBIC)


def jpeg(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=95)
    return file.getvalue()


def write_shard(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def write_pool(folder: Path, images: list[bytes], of_a_shard: int = 20) -> Path:
    """Write tar shards as img2dataset does: k.jpg, k.txt, k.json."""
    folder.mkdir(parents=True)
    for number, start in enumerate(range(0, len(images), of_a_shard)):
        members = {}
        for i, image in enumerate(images[start : start + of_a_shard]):
            caption, key = f"something {start + i}", f"{number:05d}{i:04d}"
            members |= {f"{key}.jpg": image, f"{key}.txt": caption.encode()}
            members[f"{key}.json"] = json.dumps({"caption": caption, "key": key, "status": "success"}).encode()
        write_shard(folder / f"{number:05d}.tar", members)
    return folder


def write_hub(folder: Path, names: list[str], per_class: dict[str, int], seed: int = 0) -> Path:
    """Write a labelled set as the Hub stores it: data/SPLIT-00000-of-00002.parquet; its test split has no labels."""
    draws = np.random.default_rng(seed)
    features = hub.Features({"image": hub.Image(), "label": hub.ClassLabel(num_classes=len(names))})
    (folder / "data").mkdir(parents=True)
    for split, n in per_class.items():
        labels = np.repeat(np.arange(len(names)), n)
        images = [{"bytes": jpeg(photograph(draws, int(label))), "path": f"{i}.JPEG"} for i, label in enumerate(labels)]
        rows = {"image": images, "label": labels.tolist() if split != "test" else [-1] * len(labels)}
        table = hub.Dataset.from_dict(rows, features=features)
        for shard in range(2):
            file = folder / f"data/{split}-{shard:05d}-of-00002.parquet"
            table.shard(2, shard, contiguous=True).to_parquet(file)
            name_classes(file, names)
    return folder


def name_classes(file: Path, names: list[str]) -> None:
    """Note class names in a Parquet file as the Hub does; the library that writes them refuses two of one name."""
    import pyarrow.parquet as pq

    table = pq.read_table(file)
    about = {"info": {"features": {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}}}
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(about)}), file)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("models")
    with tiny.long_prompts():
        tiny.stable_diffusion_1(root / "sd", side=GENERATOR // 2)
        tiny.clip(root / "clip", size=CLIP)
    return root


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory) -> str:
    folder = write_hub(tmp_path_factory.mktemp("own") / "pets", NAMES, {"train": 6, "validation": 4, "test": 1})
    return f"parquet:{folder}"


@pytest.fixture(scope="module")
def pool(tmp_path_factory) -> Path:
    draws = np.random.default_rng(5)
    return write_pool(tmp_path_factory.mktemp("pools") / "shards", [jpeg(photograph(draws, i % 3)) for i in range(50)])


@pytest.fixture(scope="module")
def setting(models, pool, tmp_path_factory) -> Setting:
    return Setting(
        model=str(models / "sd"), clip=str(models / "clip"), pool=f"tar:{pool}", own=OWN, shots=SHOTS,
        index=str(tmp_path_factory.mktemp("index") / "embedded"), held_out=HELD_OUT, times=1, sampling_steps=2,
        candidates=2, tuning_samples=18, rank=2, tuned_at=1, test_images=100, size=NETWORK, network="resnet18",
        recipe=Recipe(steps=2, batch=4, checkpoints=1), rules=Rules(claims="taken"),
    )  # fmt: skip


@pytest.fixture(scope="module")
def execution(tmp_path_factory) -> Execution:
    return Execution(batch=16, cache=Cache(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def extra(setting, imagenet, execution):
    return make_extra(setting, imagenet, 0, list(ARMS), execution)


# --- every stage, in the real layouts -------------------------------------------------------------


def test_every_arm_works_at_another_size_on_ones_own_set_and_pool(extra, setting):
    assert set(extra) == set(ARMS) - {"real only", "classical"}
    for name, one in extra.items():
        assert one.images.images.shape[1:] == (NETWORK, NETWORK, 3), name
        assert one.images.classes == ("tench, Tinca tinca", "a crane bird", "a construction crane")
        if ARMS[name].method not in ("M3", "M11", "R9", "R11") and name != "random pool":
            assert set(counts(one.images)) == {SHOTS}, name
    assert set(counts(extra["retrieved by text"].images)) == {SHOTS}  # the claims "taken" fill every class
    short = shortfalls(extra)
    few = {"unconditional", "random pool", "retrieved by text, floor"}
    assert set(short["arm"]) <= few | {arm for arm in extra if arm.startswith("planted")}
    ids = extra["retrieved by text"].images.manifest["id"]
    assert ids.str.fullmatch(r"\d{5}\.tar/\d{9}\.jpg").all()


def test_the_networks_are_trained_and_tested_on_all_test_images(extra, setting, imagenet, execution):
    cells = [Cell(imagenet, arm, times=1, length=1) for arm in ("real only", "retrieved by text")]
    table = run(setting, cells, execution)
    assert [len(row) for row in table["correct"]] == [12, 12] and table["images"].tolist() == [0, 3 * SHOTS]


def test_what_was_retrieved_is_left_as_folders_of_images(extra, setting, imagenet, execution, pool, tmp_path):
    for _ in range(2):  # a second run replaces what the first one left
        left = leave_retrieved(setting, imagenet, execution, folder=tmp_path)
    assert left["folder"].tolist() == [f"retrieved/pets/by {query}" for query in ("text", "images", "both")]
    assert left["images"].tolist() == [6, 6, 6] and left["fewest of a class"].tolist() == [2, 2, 2]
    folder = tmp_path / left["folder"][0]
    again = datasets.load(f"folder:{folder}", size=NETWORK)
    assert again.classes == ("a construction crane", "a crane bird", "tench, Tinca tinca") and len(again) == 6
    manifest = pd.read_csv(folder / "manifest.csv")
    assert {"file", "source", "caption", "similarity"} <= set(manifest.columns)
    original = {}
    for shard in sorted(pool.iterdir()):
        with tarfile.open(shard) as archive:
            original |= {f"{shard.name}/{name}": archive.extractfile(name).read() for name in archive.getnames()}
    for row in manifest.itertuples():
        image = (folder / row.file).read_bytes()
        assert image == original[row.source] and Image.open(io.BytesIO(image)).format == "JPEG"
    same = extra["retrieved by text"].images.manifest
    assert set(manifest["source"]) == set(same["id"]), "the very images that the networks learn from"
    about = json.loads((folder / "about.json").read_text())
    assert about["data set"] == "pets" and str(tmp_path) not in json.dumps(about)
    assert len(pd.read_csv(folder / "report.csv")) == 3


def test_a_folder_with_other_files_is_not_replaced(extra, setting, imagenet, execution, tmp_path):
    other = tmp_path / "retrieved/pets/by text"
    other.mkdir(parents=True)
    (other / "thesis.txt").write_text("precious")
    with pytest.raises(FileExistsError, match="is there already, with other files; give another folder"):
        leave_retrieved(setting, imagenet, execution, arms=["retrieved by text"], folder=tmp_path)
    assert [path.name for path in other.iterdir()] == ["thesis.txt"]


def test_what_was_read_is_said(extra, setting, imagenet, execution):
    table = classes_read(setting, imagenet)
    assert table["class"].tolist() == ["tench, Tinca tinca", "a crane bird", "a construction crane"]
    assert table["prompt"].tolist()[1] == "a photo of a crane bird"
    assert table[["D", "as many again", "held out", "test"]].to_numpy().tolist() == [[2, 2, 1, 4]] * 3
    number = summary(setting, imagenet, execution).set_index("what")["number"]
    assert number["test images"] == 12 and number["images of the pool"] == 50
    assert number["of these not readable"] == number["of these near-copies of test images, dropped"] == 0


# --- names, prompts, splits -----------------------------------------------------------------------


def test_prompts_of_ones_own_classes(tmp_path):
    target, classes = "folder:/pets", ("an owl", "cat")
    plain = prompts_for(target, classes)
    assert fill(plain.template, classes) == ["a photo of a owl", "a photo of a cat"] and plain.templates == SEVEN
    sentence = prompts_for(target, classes, Own(template="a satellite photo of {}."))
    assert sentence.templates == ("a satellite photo of {}.",) == (sentence.template,)
    file = tmp_path / "pets.yml"
    sentences = 'template: "a {name}"\ntemplates: ["a {name}", "the {name}"]\n'
    file.write_text(f"about: pets.\n{sentences}classes: [an owl, a cat]\n")
    own = Own(prompts=str(file))
    assert prompts_for(target, tuple(own.names), own).templates == ("a {name}", "the {name}")
    assert len(prompts_for("digits", tuple("0123456789"), own).classes) == 10  # the book's own sets have theirs


@pytest.mark.parametrize(
    "words, message",
    [
        ({"classes": ["a cat", "a cat"]}, "class names must differ, repeated"),
        ({"classes": {"x": "a cat", "y": "a cat"}}, "class names must differ, repeated"),
        ({"template": "a photo"}, "a template needs exactly one {}"),
        ({"prompts": "digits", "template": "a {}"}, "leave out classes and template, or prompts"),
        ({"splits": ["train"]}, r"splits must be two names.*got \['train'\]"),
    ],
)
def test_words_that_do_not_fit_are_refused_before_anything_is_opened(words, message):
    with pytest.raises(ValueError, match=message):
        Own(**words)
    assert replace(Own(classes={"x": "a cat"}), template="a {}").names == {"x": "a cat"}


def test_classes_of_one_name_are_told_apart_by_their_labels(imagenet):
    with pytest.raises(ValueError, match=r"'crane' 2 times, for the labels 1, 2; .*classes=\{'1': …, '2': …\}"):
        datasets.load(imagenet, "validation", size=16)
    with pytest.raises(ValueError, match="class name was given for label 7, but the set has 3 classes"):
        load_part(imagenet, "test", Own(classes={"7": "a cat"}, splits=OWN.splits), n=2, size=16)
    again = Own(classes={"1": "heron"}, splits=OWN.splits)
    assert load_part(imagenet, "test", again, n=3, size=16).classes == ("tench, Tinca tinca", "heron", "crane")


def flat(folder: Path, per_class: int, names: tuple[str, ...] = ("001.ak47", "002.flag")) -> str:
    """Write a set as Caltech-256's archive has it: class folders without splits."""
    draws = np.random.default_rng(1)
    for label, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for i in range(per_class):
            photograph(draws, label).save(folder / name / f"{label + 1:03d}_{i:04d}.jpg")
    return f"folder:{folder}"


def test_a_set_without_splits_is_divided_and_no_image_is_on_both_sides(tmp_path):
    target = flat(tmp_path / "256_ObjectCategories", 10)
    parts = {part: load_part(target, part, n=100, size=16) for part in ("train", "test")}
    assert counts(parts["train"]).tolist() == [7, 7] and counts(parts["test"]).tolist() == [3, 3]
    sources = {part: set(images.manifest["source"]) for part, images in parts.items()}
    assert not sources["train"] & sources["test"] and len(sources["train"] | sources["test"]) == 20
    other = load_part(target, "test", n=100, seed=5, size=16)
    assert set(other.manifest["source"]) == sources["test"], "always the same division"
    (tmp_path / "both/train").mkdir(parents=True)
    (tmp_path / "256_ObjectCategories").rename(tmp_path / "both/train/x")
    inner = tmp_path / "both/train"
    for folder in list((inner / "x").iterdir()):
        folder.rename(inner / folder.name)
    (inner / "x").rmdir()
    message = r"split 'test' fits none.*splits=\['train', 'validation'\], or the same"
    with pytest.raises(FileNotFoundError, match=message):
        load_part(f"folder:{tmp_path / 'both'}", "test", n=100, size=16)
    twice = Own(splits=["train", "train"])
    again = load_part(f"folder:{tmp_path / 'both'}", "test", twice, n=100, size=16)
    assert len(again) == 6


def test_a_class_with_too_few_real_images_is_named(setting, imagenet, tmp_path):
    message = "are 7 of each class; in the split 'train' 3 of 3 classes have fewer: 'tench.* 6"
    with pytest.raises(ValueError, match=message):
        data(replace(setting, shots=3), imagenet, 0)
    target = flat(tmp_path / "set", 7)
    message = "in the 70% that are not for testing 2 of 2 classes have fewer: '001.ak47' 5"
    with pytest.raises(ValueError, match=message):
        data(replace(setting, own=Own(), held_out=2), target, 0)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"shots": 0}, "shots must be an integer of 1 or more, got 0"),
        ({"shots": 2.5}, "shots must be an integer of 1 or more, got 2.5"),
        ({"shots": True}, "shots must be an integer of 1 or more, got True"),
        ({"held_out": 0}, "held_out must be an integer of 1 or more"),
        ({"times": 0}, r"times must be above 0, and times · shots an image or more, got 0 · 2"),
        ({"times": 0.1}, "times · shots an image or more"),
        ({"shares": ()}, r"shares must be one or more numbers in \(0, 1\]"),
        ({"test_images": "all"}, "test_images must be an integer of 1 or more, got 'all'"),
    ],
)
def test_settings_that_cannot_be_are_refused_at_once(setting, change, message):
    with pytest.raises(ValueError, match=message):
        replace(setting, **change)


def test_classes_that_differ_between_the_splits_are_named(setting, tmp_path):
    folder = write_hub(tmp_path / "set", ["cat", "dog", "owl"], {"train": 6, "validation": 2})
    for file in (folder / "data").glob("validation-*"):
        name_classes(file, ["cat", "owl", "dog"])
    own = Own(splits=["train", "validation"])
    with pytest.raises(ValueError, match="must be the same in one order; to mend: cat, dog, owl"):
        data(replace(setting, own=own), f"parquet:{folder}", 0)


# --- pools that are amiss -------------------------------------------------------------------------


@pytest.fixture
def overlapping(setting, imagenet, tmp_path) -> Setting:
    """A pool in which two test images lie, saved anew."""
    test = load_part(imagenet, "test", OWN, n=100, size=GENERATOR).images[:2]
    draws = np.random.default_rng(6)
    images = [jpeg(photograph(draws, i % 3)) for i in range(9)] + [jpeg(Image.fromarray(image)) for image in test]
    shards = write_pool(tmp_path / "shards", images, of_a_shard=6)
    return replace(setting, pool=f"tar:{shards}", index=str(tmp_path / "embedded"))


def test_a_pool_that_overlaps_the_test_set_is_refused_or_its_copies_dropped(overlapping, imagenet, execution):
    names = data(overlapping, imagenet, 0).test.manifest["source"]
    message = "'shards' overlaps the test set: 2 of 12 test images have near-copies"
    with pytest.raises(ValueError, match=message) as caught:
        make_extra(overlapping, imagenet, 0, ["retrieved by text", "templates"], execution)
    assert f"{names[0]} (00001.tar/000010003.jpg in the pool)" in str(caught.value) and names[1] in str(caught.value)
    dropping = replace(overlapping, count_and_drop=True)
    number = summary(dropping, imagenet, execution).set_index("what")["number"]
    assert number["of these near-copies of test images, dropped"] == 2
    extra = make_extra(dropping, imagenet, 0, ["retrieved by text", "random pool"], execution)
    for one in extra.values():
        assert not {"00001.tar/000010003.jpg", "00001.tar/000010004.jpg"} & set(one.images.manifest["id"])


def test_a_shard_that_vanishes_after_the_embedding_stops_the_arm_and_leaves_what_is_finished(
    setting, imagenet, execution, tmp_path
):
    draws = np.random.default_rng(7)
    shards = write_pool(tmp_path / "shards", [jpeg(photograph(draws, i % 3)) for i in range(12)], of_a_shard=6)
    own = replace(setting, pool=f"tar:{shards}", index=str(tmp_path / "embedded"))
    pool_arms.prepare(own, execution)
    embedded = {path: path.read_bytes() for path in (tmp_path / "embedded").rglob("*.npy")}
    content = (shards / "00001.tar").read_bytes()
    (shards / "00001.tar").unlink()
    with pytest.raises(FileNotFoundError, match="00001.tar: the shard has vanished; put it back and run again"):
        leave_retrieved(own, imagenet, execution, arms=["retrieved by text"], folder=tmp_path / "out")
    assert {path: path.read_bytes() for path in embedded} == embedded and not (tmp_path / "out").exists()
    (shards / "00001.tar").write_bytes(content)
    left = leave_retrieved(own, imagenet, execution, arms=["retrieved by text"], folder=tmp_path / "out")
    assert left["images"].tolist() == [6]


def test_embeddings_of_another_clip_or_damaged_ones_are_refused_by_the_arms_too(
    setting, imagenet, execution, models, tmp_path
):
    draws = np.random.default_rng(8)
    shards = write_pool(tmp_path / "shards", [jpeg(photograph(draws, i % 3)) for i in range(6)])
    own = replace(setting, pool=f"tar:{shards}", index=str(tmp_path / "embedded"))
    pool_arms.prepare(own, execution)
    with tiny.long_prompts():
        tiny.clip(tmp_path / "other", seed=3, size=CLIP)
    other = replace(own, clip=str(tmp_path / "other"))
    with pytest.raises(ValueError, match="holds embeddings made by another CLIP; give another folder"):
        make_extra(other, imagenet, 0, ["retrieved by text"], execution)
    (file,) = (tmp_path / "embedded").rglob("*.npy")
    vectors = np.load(file)
    for broken, message in ((vectors * np.nan, "holds NaN or infinity"), (2 * vectors, "has length 2, not 1")):
        np.save(file, broken.astype(np.float16))
        pool_arms.open_index.cache_clear()
        with pytest.raises(ValueError, match=message):
            make_extra(own, imagenet, 0, ["retrieved by text"], execution)


def test_captions_fewer_than_images_are_refused_before_the_set_is_opened(setting, imagenet, execution, tmp_path):
    draws = np.random.default_rng(9)
    write_pool(tmp_path / "shards", [jpeg(photograph(draws, 0))])
    write_shard(tmp_path / "shards/00001.tar", {"000010000.jpg": jpeg(photograph(draws, 1))})
    own = replace(setting, pool=f"tar:{tmp_path / 'shards'}", index=str(tmp_path / "embedded"))
    with pytest.raises(ValueError, match=r"2 images and 1 captions; 00001.tar/000010000.jpg has none"):
        summary(own, imagenet, execution)
    assert not (tmp_path / "embedded").exists()


def test_test_images_among_those_to_learn_from_are_counted(setting, tmp_path):
    target = flat(tmp_path / "set", 8)
    for file in (tmp_path / "set/001.ak47").iterdir():
        file.write_bytes((tmp_path / "set/001.ak47/001_0000.jpg").read_bytes())
    own = replace(setting, own=Own())
    assert len(repeated(own, target)) == 2 and repeated(own, target)[0].startswith("001.ak47/")


def test_the_page_of_a_run_file_is_about_ones_own_set_and_pool(models, pool, tmp_path):
    """The file's own parameters, but for places, and sizes that make it short."""
    root, draws = tmp_path / "clone", np.random.default_rng(2)
    for name in ("data/profiles", "data/runs/retrieval"):
        shutil.copytree(ROOT / name, root / name)
    (root / "notebooks").mkdir()
    shutil.copy(ROOT / "notebooks/retrieval.ipynb", root / "notebooks")
    for label, name in enumerate(("001.ak47", "002.american-flag", "003.backpack")):
        (tmp_path / "set" / name).mkdir(parents=True)
        for i in range(14):
            photograph(draws, label).save(tmp_path / "set" / name / f"{i:04d}.jpg", quality=95)
    places = {
        "model": str(models / "sd"), "clip": str(models / "clip"), "dataset": f"folder:{tmp_path / 'set'}",
        "pool": f"tar:{pool}", "prompts": "", "arms": ["real only", "twice the real", "templates", "retrieved by text"],
        "controls": ["retrieved by text, floor", "planted 5 %, ladder", "planted 5 %, no ladder"],
        "network": "resnet18", "width": "pocket", "size": NETWORK, "shots": SHOTS, "held_out": HELD_OUT,
        "network_steps": 1, "network_batch": 4, "lengths": [1, 2], "shares": [0.5], "sampling_steps": 2,
        "tuning_samples": 12, "checks": 2, "guidances": [1.0, 2.0], "audited": 1, "others": 10, "device": "cpu",
        "precision": "float32", "allow_network": False,
    }  # fmt: skip
    stream = io.StringIO()
    folder = runner.run("retrieval", places, root=root, run="caltech256", stream=stream)
    assert folder == root / "results/caltech256/retrieval"
    left = folder / "retrieved/set/by text"
    assert {path.parent.name for path in left.glob("*/*.jpg")} <= {"001.ak47", "002.american-flag", "003.backpack"}
    assert len(pd.read_csv(left / "manifest.csv")) == len(list(left.glob("*/*.jpg"))) > 0
    text = json.dumps(nbformat.read(folder / "executed.ipynb", as_version=4))
    assert "points are measured: no rule, no advice" in text or "shots the rule says:" in text
    assert str(pool) not in text.replace(f"tar:{pool}", "")
