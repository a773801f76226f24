"""DataDream's arms on tiny models: shots that share nothing with test images, exact counts, seeds, costs, resuming."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests import tiny
from tests.worlds import MortalCache
from zsclib import datasets
from zsclib.cache import Cache
from zsclib.extra import Extra, costs, counts
from zsclib.models import denoising
from zsclib.models.lora import Lora
from zsclib.papers.datadream import arms as arms_room
from zsclib.papers.datadream import changed_arms
from zsclib.papers.datadream.arms import ARMS, make_set
from zsclib.papers.datadream.generated_arms import adapted, adapter_hash, tuning_of
from zsclib.papers.datadream.pool_arms import captions, prepare, with_index
from zsclib.papers.datadream.training_sets import (
    Setting,
    Shots,
    at_side,
    class_prompts,
    open_generation,
    shots,
)
from zsclib.pools.ladder import Rules
from zsclib.sampling import sample
from zsclib.workers import Execution

CLASSES, K, N, STEPS, SIZE = 3, 2, 4, 2, 16
NAMES = ("fish", "house", "umbrella")


def write_classes(root: Path, split: str, images: np.ndarray, labels: np.ndarray, names=NAMES) -> None:
    """Write images as PNG files in class folders."""
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        folder = root / split / names[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{i:03d}.png")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A user's own set: three classes of images, ten of each to learn from and four to test on."""
    root, draws = tmp_path_factory.mktemp("own"), np.random.default_rng(0)
    for split, n in (("train", 10), ("test", 4)):
        labels = np.arange(CLASSES * n) % CLASSES
        images = draws.integers(0, 120, (len(labels), SIZE, SIZE, 3), dtype=np.uint8)
        images[np.arange(len(labels)), :, :, labels] += 100
        write_classes(root, split, images, labels)
    return root


@pytest.fixture(scope="module")
def target(place) -> str:
    return f"folder:{place}"


@pytest.fixture(scope="module")
def pool(tmp_path_factory, place) -> Path:
    """A captioned pool of 60 images, six of which are near-copies of test and train images of the set."""
    root, draws = tmp_path_factory.mktemp("pool"), np.random.default_rng(1)
    images = draws.integers(0, 255, (60, SIZE, SIZE, 3), dtype=np.uint8)
    for i, image in enumerate(images):
        Image.fromarray(image).save(root / f"{i:02d}.png")
        (root / f"{i:02d}.txt").write_text(f"caption {i}")
    return root


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("models")
    tiny.generator_and_clip(root)
    return root


@pytest.fixture(scope="module")
def setting(models, pool, tmp_path_factory) -> Setting:
    return Setting(
        model=str(models / "sd"), clip=str(models / "clip"), pool=f"folder:{pool}", rules=Rules(claims="taken"),
        index=str(tmp_path_factory.mktemp("index") / "features"), shots=K, per_class=N, sampling_steps=STEPS,
        tuning_samples=16, learning_rate=2e-2, lora=Lora(rank=2, alpha=2), checks=2, test_images=12, size=SIZE,
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
def one(setting, target) -> Shots:
    return shots(setting, target, 0)


@pytest.fixture(scope="module")
def sets(setting, target, execution) -> dict[str, Extra]:
    return {arm: make_set(setting, target, 0, arm, execution) for arm in ARMS}


def pixels(images) -> list[bytes]:
    return [image.tobytes() for image in images.images]


# --- shots ----------------------------------------------------------------------------------------


def test_shots_validation_and_test_images_share_none_and_fewer_shots_are_the_first_of_more(setting, target):
    by_k = {k: shots(replace(setting, shots=k), target, 0) for k in (1, 2, 4, 6)}
    for k, one in by_k.items():
        parts = (one.real, one.validation, one.test)
        assert [set(counts(part)) for part in parts] == [{k}, {min(k, 4)}, {4}]
        every = [each for part in parts for each in pixels(part)]
        assert len(set(every)) == len(every)
        assert pixels(one.real) == pixels(by_k[6].real)[: CLASSES * k]
    other = shots(setting, target, 1)
    assert set(pixels(other.real)) != set(pixels(by_k[2].real)) and pixels(other.test) == pixels(by_k[2].test)


def test_a_built_in_set_is_read_alike(setting):
    one = shots(replace(setting, shots=3), "gadgets", 0)
    assert set(counts(one.real)) == {3} and set(counts(one.validation)) == {3} and len(one.test) == 12
    assert class_prompts(setting, one)[0] == "a photo of a dax"
    with pytest.raises(ValueError, match="1000 images in its split 'train', 1040 were asked"):
        shots(replace(setting, shots=100), "digits", 0)


def test_fewer_shots_than_asked_for_are_refused_and_the_class_named(setting, target, place, tmp_path):
    message = r"are 11 of each class; in the split 'train' 3 of 3 classes have fewer: 'fish' 10.*take fewer shots"
    with pytest.raises(ValueError, match=message):
        shots(replace(setting, shots=7), target, 0)
    with pytest.raises(ValueError, match="must be an integer of 1 or more, got 0"):
        replace(setting, shots=0)


def own_set(root: Path, train: dict[str, int], test: dict[str, int]) -> str:
    draws = np.random.default_rng(5)
    for split, sizes in (("train", train), ("test", test)):
        for name, n in sizes.items():
            (root / split / name).mkdir(parents=True, exist_ok=True)
            images = draws.integers(0, 255, (n, SIZE, SIZE, 3), dtype=np.uint8)
            write_classes(root, split, images, np.zeros(n, int), (name,))
    return f"folder:{root}"


def test_a_class_without_shots_is_named(setting, tmp_path):
    empty = own_set(tmp_path / "a", {"cat": 6, "dog": 0}, {"cat": 2, "dog": 2})
    with pytest.raises(ValueError, match="train/dog: a class folder without images"):
        shots(setting, empty, 0)
    few = own_set(tmp_path / "b", {"cat": 6, "dog": 1}, {"cat": 2, "dog": 2})
    with pytest.raises(ValueError, match="1 of 2 classes have fewer: 'dog' 1"):
        shots(setting, few, 0)
    lacking = own_set(tmp_path / "c", {"cat": 6}, {"cat": 2, "dog": 2})
    with pytest.raises(ValueError, match="different class folders: dog"):
        shots(setting, lacking, 0)


@pytest.mark.parametrize("what", ["shots", "validation images"])
def test_test_images_among_those_to_learn_from_or_to_choose_by_are_refused(setting, target, tmp_path, what):
    for split in ("train", "test"):
        images = datasets.load(target, split)
        write_classes(tmp_path, split, images.images, images.labels)
    one = shots(setting, f"folder:{tmp_path}", 0)
    copied = (one.real if what == "shots" else one.validation).images[1]
    Image.fromarray(copied).save(tmp_path / "test" / NAMES[0] / "again.png")  # under another class's name, too
    message = rf"1 of 13 test images are also among the {what}, pixel by pixel: test/fish/again.png \(fish\)"
    with pytest.raises(ValueError, match=message):
        shots(replace(setting, test_images=13), f"folder:{tmp_path}", 0)


def test_the_test_split_may_not_be_the_train_split(setting):
    with pytest.raises(ValueError, match=r"test images are also among the shots, pixel by pixel: objects \("):
        shots(replace(setting, test_split="train"), "objects", 0)


def test_shots_are_read_anew_where_the_generator_s_images_are_larger(setting, tmp_path, target):
    draws = np.random.default_rng(7)
    for split, n in (("train", 10), ("test", 4)):
        labels = np.arange(CLASSES * n) % CLASSES
        write_classes(tmp_path, split, draws.integers(0, 255, (len(labels), 32, 32, 3), dtype=np.uint8), labels)
    small = replace(setting, size=8)
    one = shots(small, f"folder:{tmp_path}", 0)
    real, validation = at_side(small, one, 32)
    assert one.real.images.shape[1:3] == (8, 8) and real.images.shape[1:3] == validation.images.shape[1:3] == (32, 32)
    assert real.manifest["source"].tolist() == one.real.manifest["source"].tolist()
    first = tmp_path / real.manifest["source"][0]
    assert np.array_equal(real.images[0], np.asarray(Image.open(first))), "not enlarged from what classifiers see"


@pytest.mark.parametrize(
    "change, message",
    [
        ({"per_class": 0}, "per_class must be an integer of 1 or more, got 0"),
        ({"shots": True}, "shots must be an integer of 1 or more, got True"),
        ({"rounds": 1.5}, "rounds must be an integer"),
        ({"learning_rate": 0.0}, "learning_rate must be a number above 0"),
        ({"guidance": float("nan")}, "guidance must be a number above 0"),
        ({"other_strength": 0}, r"strengths must be shares of the steps, in \(0, 1\]"),
        ({"strengths": ()}, "strengths must be shares"),
    ],
)
def test_settings_that_cannot_be_are_refused_at_once(setting, change, message):
    with pytest.raises(ValueError, match=message):
        replace(setting, **change)


def test_the_more_shots_the_less_real_guidance_changes_them(setting):
    strengths = [replace(setting, shots=k).strength for k in (1, 2, 3, 4, 8, 15, 16, 64)]
    assert strengths == [0.5, 0.4, 0.4, 0.35, 0.2, 0.2, 0.15, 0.15]


# --- arms -----------------------------------------------------------------------------------------


def test_every_arm_has_exactly_n_of_each_class_or_says_what_is_missing(sets):
    for name, one in sets.items():
        assert one.report["wanted"].tolist() == [N] * CLASSES and one.report["class"].tolist() == list(NAMES)
        assert one.report["delivered"].tolist() == counts(one.images).tolist(), name
        assert set(counts(one.images)) == {N}, name
        assert one.images.images.shape[1:] == (SIZE, SIZE, 3) and one.images.classes == NAMES
        assert one.images.labels.tolist()[:CLASSES] == list(range(CLASSES)), "classes in turn"
    assert len({tuple(pixels(one.images)) for one in sets.values()}) == len(ARMS)


def test_costs_count_the_denoiser_s_evaluations_and_the_samples_tuned_on(sets, setting):
    table, images = costs(sets).set_index("arm"), N * CLASSES
    evaluations = table["denoiser evaluations"]
    for name in ("prompted", "DataDream, by class", "DataDream, all classes"):
        assert evaluations[name] == images * STEPS * 2
    assert evaluations["real guidance"] == images * 1 * 2  # 0.4 of two steps
    assert evaluations["DISEF"] == sets["DISEF"].report["attempts"].sum() * 2 * 2
    assert evaluations["retrieved"] == 0 and evaluations["retrieved and DataDream"] == images / 2 * STEPS * 2
    tuned = {name: 16 * CLASSES if ARMS[name].tuned else 0 for name in ARMS}
    assert table["samples tuned on"].to_dict() == tuned and sum(map(bool, tuned.values())) == 3
    assert (table["seconds"] > 0).all()


def test_a_report_has_the_loss_on_validation_images_before_and_after_adapting(sets, setting, one, execution):
    for scope in ("by class", "all classes"):
        histories = [generator.history for generator in adapted(setting, one, execution, scope).values()]
        report = sets[f"DataDream, {scope}"].report
        assert report["loss before"].tolist() == [history["held_out"].iloc[0] for history in histories]
        assert report["loss after"].tolist() == [history["held_out"].iloc[-1] for history in histories]
        assert (report["loss before"] != report["loss after"]).all()
    both = sets["retrieved and DataDream"].report
    assert both["loss after"].tolist() == sets["DataDream, by class"].report["loss after"].tolist()
    assert {name for name, made in sets.items() if "loss after" in made.report} == {
        name for name in ARMS if ARMS[name].tuned
    }


def test_both_ways_to_adapt_learn_from_as_many_samples(setting, one):
    by_class, of_all = (tuning_of(setting, one, scope) for scope in ("by class", "all classes"))
    assert by_class.samples * CLASSES == of_all.samples and by_class.batch == of_all.batch == 8
    full = tuning_of(Setting(model="", clip="", index=""), one, "by class")
    assert (full.samples // full.batch, full.warm_up // full.batch, full.learning_rate) == (400, 100, 1e-4)
    with pytest.raises(ValueError, match="the scope must be one of by class, all classes, got 'dset'"):
        adapted(setting, one, Execution(), "dset")


def test_manifests_say_prompt_seed_and_adapter(sets, setting, one, execution):
    for name in ("prompted", "real guidance", "DISEF", "DataDream, by class", "DataDream, all classes"):
        manifest = sets[name].images.manifest
        assert {"prompt", "seed", "adapter", "evaluations", "guidance", "source", "class"} <= set(manifest)
        assert manifest["seed"].nunique() == len(manifest)
        if name != "DISEF":
            assert manifest["prompt"].tolist() == [f"a photo of a {label}" for label in manifest["class"]]
    adapters = {name: sets[name].images.manifest["adapter"] for name in ARMS if "DataDream" in name}
    assert adapters["DataDream, by class"].groupby(sets["prompted"].images.labels).nunique().tolist() == [1, 1, 1]
    assert adapters["DataDream, by class"].nunique() == CLASSES and adapters["DataDream, all classes"].nunique() == 1
    assert set(sets["prompted"].images.manifest["adapter"]) == {""}
    of_fish = adapted(setting, one, execution, "by class")["fish"]
    assert adapters["DataDream, by class"][0] == adapter_hash(of_fish) != ""
    assert set(adapters["retrieved and DataDream"].dropna()) == set(adapters["DataDream, by class"])


def test_images_of_a_class_come_from_the_generator_adapted_to_it(sets, setting, one, execution):
    images, generators = sets["DataDream, by class"].images, adapted(setting, one, execution, "by class")
    for row in (1, 5):
        name, about = NAMES[images.labels[row]], images.manifest.iloc[row]
        alone = sample(generators[name], [about["prompt"]], [about["seed"]], 2.0, STEPS)[0]
        assert np.abs(images.images[row].astype(int) - alone).max() <= 1
        others = [sample(generators[other], [about["prompt"]], [about["seed"]], 2.0, STEPS)[0] for other in NAMES]
        assert sum(np.abs(images.images[row].astype(int) - other).max() <= 1 for other in others) == 1
    histories = [generator.history for generator in generators.values()]
    assert all(history["samples"].tolist() == [0, 8, 16] and history["held_out"].notna().all() for history in histories)


def test_frozen_and_adapted_generators_begin_from_the_same_noise(sets):
    seeds = [sets[name].images.manifest["seed"].tolist() for name in ("prompted", *list(ARMS)[3:5])]
    assert seeds[0] == seeds[1] == seeds[2] and len(set(seeds[0])) == N * CLASSES


def test_one_noise_for_all_classes_is_a_switch(setting, target, execution):
    alike = make_set(replace(setting, one_noise=True), target, 0, "prompted", execution)
    seeds = alike.images.manifest["seed"].to_numpy().reshape(N, CLASSES)
    assert (seeds == seeds[:, :1]).all() and len(set(seeds[:, 0])) == N


def test_fewer_images_are_the_beginning_of_more(setting, target, execution, sets):
    few = replace(setting, per_class=2)
    for arm in ("prompted", "real guidance", *[name for name in ARMS if "DataDream" in name]):
        images = make_set(few, target, 0, arm, execution).images
        assert np.abs(sets[arm].images.images[: 2 * CLASSES].astype(int) - images.images).max() <= 1, arm
        assert images.labels.tolist() == sets[arm].images.labels[: 2 * CLASSES].tolist()
    assert set(pixels(make_set(few, target, 0, "retrieved", execution).images)) <= set(pixels(sets["retrieved"].images))


def test_half_retrieved_and_half_generated(sets):
    source = sets["retrieved and DataDream"].images.manifest["source"].to_numpy().reshape(N, CLASSES)
    assert (source[::2] == "retrieved").all() and (source[1::2] == "DataDream, by class").all()


# --- image-to-image -------------------------------------------------------------------------------


def test_real_guidance_takes_the_shots_of_a_class_in_turn(sets, one):
    images = sets["real guidance"].images
    parents = images.manifest["parent"].to_numpy()
    assert (one.real.labels[parents] == images.labels).all()
    assert all(len(set(parents[images.labels == y][:K])) == K for y in range(CLASSES))
    assert set(images.manifest["strength"]) == {0.4}


def test_disef_asks_with_the_caption_of_another_shot_of_the_class(sets, setting, one):
    images, of_shots = sets["DISEF"].images, captions(setting, one.real.images)
    manifest = images.manifest
    assert (one.real.labels[manifest["captioned"]] == images.labels).all()
    assert (manifest["captioned"] != manifest["parent"]).all()
    assert manifest["prompt"].tolist() == [of_shots[row] for row in manifest["captioned"]]
    assert set(of_shots) <= {f"caption {i}" for i in range(60)}


def test_disef_with_a_single_shot_takes_its_own_caption(setting, target, execution):
    images = make_set(replace(setting, shots=1, per_class=1), target, 0, "DISEF", execution).images
    assert images.manifest["captioned"].tolist() == images.manifest["parent"].tolist() == [0, 1, 2]


def test_disef_tries_again_until_clip_sees_the_class_and_says_where_it_gave_up(setting, one, execution, monkeypatch):
    """A CLIP that takes every image for a fish, but the third attempts at a house for a house."""
    looked = []

    class Fish:
        def zero_shot(self, classes, templates):
            assert list(classes) == class_prompts(setting, one)
            return self

        def scores(self, images):
            looked.append(len(images))
            labels = np.zeros(len(images), int)
            if len(looked) == 3:
                labels[::2] = 1
            return np.eye(CLASSES)[labels]

    monkeypatch.setattr(changed_arms, "open_filter", lambda setting: Fish())
    monkeypatch.setattr(changed_arms, "captions", lambda setting, images: ["a"] * len(images))
    images, report = changed_arms.disef(replace(setting, rounds=3), one, 2, execution)
    assert looked == [6, 4, 4]
    assert report["attempts"].tolist() == [2, 6, 6] and report["unfiltered"].tolist() == [0, 0, 2]
    assert images.manifest["passed"].tolist() == [True, True, False] * 2
    assert images.manifest["evaluations"].tolist() == [4.0, 12.0, 12.0] * 2
    assert set(counts(images)) == {2}, "the last attempts stay"


# --- retrieval ------------------------------------------------------------------------------------


def test_near_copies_of_test_and_validation_images_are_not_retrieved(setting, one, target, pool, tmp_path):
    for file in pool.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    for i, image in enumerate([*one.test.images[:2], *one.validation.images[:2]]):
        lighter = np.clip(image.astype(int) + 5, 0, 255).astype(np.uint8)
        Image.fromarray(lighter).save(tmp_path / f"copy{i}.png")
        (tmp_path / f"copy{i}.txt").write_text("a copy")
    copied = replace(setting, pool=f"folder:{tmp_path}", index=str(tmp_path / "features"), per_class=20)
    execution = Execution()
    with pytest.raises(ValueError, match="overlaps the test set: 2 of 12 test images have near-copies"):
        make_set(copied, target, 0, "retrieved", execution)
    dropping = make_set(replace(copied, count_and_drop=True), target, 0, "retrieved", execution)
    assert not dropping.images.manifest["id"].str.contains("copy").any()
    beyond = make_set(replace(copied, count_and_drop=True, per_class=40), target, 0, "retrieved", execution)
    assert counts(beyond.images).sum() == 60 and beyond.report["delivered"].lt(40).any(), "it says what is missing"
    assert beyond.report["near held-out"].sum() >= 4 and not beyond.images.manifest["id"].str.contains("copy").any()
    assert beyond.report["delivered"].tolist() == counts(beyond.images).tolist()


def test_an_index_has_a_place_for_each_pool_and_clip(setting, tmp_path, execution):
    first = with_index(setting, tmp_path, execution)
    assert first.index.startswith(str(tmp_path / "pool-")) and with_index(first, tmp_path, execution) == first
    prepare(first, execution)
    assert Path(first.index).is_dir()


# --- caches ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("arm", ["DataDream, by class", "DISEF"])
def test_a_resumed_run_equals_an_uninterrupted_one_and_finished_classes_stay(
    setting, target, sets, tmp_path, monkeypatch, arm
):
    trained, tune = [], denoising.finetune
    monkeypatch.setattr("zsclib.models.lora.finetune", lambda *a, **k: trained.append(1) or tune(*a, **k))
    starts = 0
    while True:
        starts += 1
        try:
            again = make_set(setting, target, 0, arm, Execution(batch=8, cache=MortalCache(tmp_path, lives=2)))
            break
        except KeyboardInterrupt:
            assert starts < 20
    assert starts > 2
    assert len(trained) == (CLASSES + 1 if "DataDream" in arm else 0), "of the adapters one was lost, with its result"
    assert pixels(again.images) == pixels(sets[arm].images)
    pd.testing.assert_frame_equal(again.images.manifest, sets[arm].images.manifest)
    pd.testing.assert_frame_equal(again.report, sets[arm].report)


def test_what_decides_a_set_is_in_its_key_and_nothing_else(setting, one):
    changes = {
        "sampling_steps": 3, "guidance": 3.0, "one_noise": True, "tuning_samples": 17, "learning_rate": 0.5,
        "lora": Lora(rank=3), "checks": 3, "other_strength": 0.5, "rounds": 9, "rules": Rules(floor=0.1),
        "count_and_drop": True, "per_class": 5, "size": 15, "strengths": ((1, 0.9),),
    }  # fmt: skip
    same = {"model", "clip", "pool", "index", "pool_cache", "pool_images", "shots", "test_images", "test_seed"}
    same |= {"test_split", "own", "device", "precision", "allow_network"}  # they decide what is hashed by content
    assert changes.keys() | same == {part.name for part in fields(Setting)} and not changes.keys() & same
    keys = {name: arms_room._key(setting, one, name) for name in ARMS}
    assert len(set(keys.values())) == len(ARMS)
    differing = {
        change: {name for name in ARMS if arms_room._key(replace(setting, **{change: value}), one, name) != keys[name]}
        for change, value in changes.items()
    }
    tuned, generated = {name for name in ARMS if "DataDream" in name}, set(ARMS) - {"retrieved"}
    for change in ("tuning_samples", "learning_rate", "lora", "checks"):
        assert differing[change] == tuned
    for change in ("sampling_steps", "guidance", "one_noise"):
        assert differing[change] == generated
    assert differing["per_class"] == differing["size"] == set(ARMS)
    assert differing["strengths"] == {"real guidance"}
    assert differing["other_strength"] == differing["rounds"] == {"DISEF"}
    assert differing["rules"] == differing["count_and_drop"] == {"retrieved", "retrieved and DataDream"}
    other = one._replace(real=one.real.take(np.arange(len(one.real))[::-1]))
    assert {name for name in ARMS if arms_room._key(setting, other, name) == keys[name]} == {"prompted"}


def test_an_adapter_tuned_in_float32_samples_in_the_setting_s_precision(setting, target, execution, sets, one):
    half = replace(setting, precision="bfloat16", per_class=1)
    images = make_set(half, target, 0, "DataDream, by class", execution).images
    apart = np.abs(images.images.astype(int) - sets["DataDream, by class"].images.images[:CLASSES])
    frozen = np.abs(images.images.astype(int) - sets["prompted"].images.images[:CLASSES])
    assert 0 < apart.mean() < frozen.mean()
    assert images.manifest["adapter"].tolist() == sets["DataDream, by class"].images.manifest["adapter"][:3].tolist()
    assert open_generation(half).dtype != open_generation(setting).dtype


def test_an_arm_that_is_none_is_named_before_anything_is_read(setting):
    with pytest.raises(ValueError, match="no arm 'retreived' .did you mean 'retrieved'"):
        make_set(setting, "folder:/nowhere", 0, "retreived", Execution())
