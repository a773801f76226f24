"""What the page asks of the paper's rooms: planted near-duplicates, copies that came through, one class alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from tests import tiny
from zsclib.cache import Cache
from zsclib.extra import Extra
from zsclib.images.image_set import ImageSet
from zsclib.papers.retrieval import pool_arms
from zsclib.papers.retrieval.audit import detectors_on_pool, planted_copies, planted_part
from zsclib.papers.retrieval.one_class import tune_one_class
from zsclib.papers.retrieval.pool_arms import open_captioned, parents, with_index
from zsclib.papers.retrieval.training_sets import Data, Setting
from zsclib.workers import Execution


@pytest.fixture(scope="module")
def setting(tmp_path_factory) -> Setting:
    root = tmp_path_factory.mktemp("models")
    tiny.stable_diffusion_1(root / "sd")
    tiny.clip(root / "clip")
    return Setting(
        model=str(root / "sd"), clip=str(root / "clip"), index="", pool_images=150, size=16, shots=2, sampling_steps=2,
        tuning_samples=64,
    )  # fmt: skip


@pytest.fixture(scope="module")
def execution(tmp_path_factory) -> Execution:
    return Execution(batch=16, cache=Cache(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def placed(setting, execution) -> Setting:
    return with_index(setting, execution.cache.folder, execution)


def test_a_pool_s_features_lie_in_a_folder_of_their_own(setting, placed, execution):
    folder = execution.cache.folder
    assert placed.index.startswith(str(folder / "pool-")) and placed.pool_cache == str(folder / "world")
    smaller = with_index(replace(setting, pool_images=40), folder, execution)
    assert smaller.index != placed.index and len(open_captioned(smaller)) == 80


def test_parents_are_rows_of_the_whole_pool_and_look_like_their_copies(placed):
    every, pool = parents(placed), open_captioned(placed)
    copies = np.flatnonzero(every >= 0)
    assert len(every) == len(pool) == 300 and (every < np.arange(300)).all()
    assert ((copies >= 150) == (every[copies] >= 150)).all() and len(copies) >= 2  # each phase repeats its own images
    for row in copies:
        one, other = (image.astype(float) for image in pool.read(np.array([row, every[row]]), 32))
        shifts = [np.roll(other, (dy, dx), (0, 1)) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
        assert max(np.corrcoef(one.ravel(), shifted.ravel())[0, 1] for shifted in shifts) > 0.98


def test_a_part_of_the_pool_has_all_that_repeat_one_another_and_as_many_others(placed):
    every = parents(placed)
    images, known = planted_part(placed, 20)
    assert (known >= 0).sum() == (every >= 0).sum() and (known < np.arange(len(known))).all()
    related = {*np.flatnonzero(every >= 0), *every[every >= 0]}
    assert len(images) == len(known) == len(related) + 20 and images.shape[1:] == (32, 32, 3)


def test_detectors_are_measured_where_the_truth_is_known(placed):
    frame = detectors_on_pool(placed, 20)
    assert (frame["others"] == 20).all() and (frame["pairs"] == (parents(placed) >= 0).sum()).all()
    assert detectors_on_pool(replace(placed, pool="folder:mine"), 20).empty


def test_planted_copies_are_counted_where_they_came_through():
    def extra(ids: list[str], dropped: list[int]) -> Extra:
        images = np.zeros((len(ids), 4, 4, 3), np.uint8)
        images = ImageSet(images, np.zeros(len(ids), int), ("a", "b"), manifest=pd.DataFrame({"id": ids}))
        report = pd.DataFrame({"class": ["a", "b"], "near held-out": dropped})
        return Extra(images=images, report=report, evaluations=0, tuning_samples=0, seconds=0)

    frame = planted_copies(
        {
            "retrieved by text": extra(["planted:0"], [1, 1]),
            "planted 5 %, ladder": extra(["7", "8"], [3, 2]),
            "planted 5 %, no ladder": extra(["planted:3", "8", "planted:1"], [0, 0]),
        }
    )
    assert frame.to_dict("list") == {
        "arm": ["planted 5 %, ladder", "planted 5 %, no ladder"], "dropped": [5, 0], "images": [2, 3], "copies": [0, 2],
    }  # fmt: skip
    assert list(planted_copies({}).columns) == ["arm", "dropped", "images", "copies"]


def test_one_class_is_learnt_by_itself_and_watched_on_its_held_out_images(setting, execution):
    random = np.random.default_rng(0)

    def part(n: int) -> ImageSet:
        images = random.integers(0, 255, (2 * n, 16, 16, 3), dtype=np.uint8)
        return ImageSet(images, np.arange(2 * n) % 2, ("a star", "a car"))

    one = Data("mine", 0, part(2), part(2), part(1), part(2))
    ways = ("conditioning", "textual inversion")
    history, tuned = tune_one_class(setting, one, 1, ways, execution, n=3)
    assert list(history.columns) == ["way", "samples", "loss", "held_out"] and set(history["way"]) == set(ways)
    assert history.groupby("way")["samples"].max().tolist() == [32, 32]  # half of 64, the classes being two
    assert history["held_out"].notna().all() and history.groupby("way").size().min() >= 5
    assert {way: images.classes for way, images in tuned.items()} == dict.fromkeys(ways, ("a car",))
    assert all(images.images.shape == (3, 16, 16, 3) for images in tuned.values())
    assert tuned["conditioning"].manifest["prompt"].unique().tolist() == ["<car>"]
    assert all("<car>" in prompt for prompt in tuned["textual inversion"].manifest["prompt"])
    with pytest.raises(ValueError, match="no way 'LoRA' for one class; there are conditioning, textual inversion"):
        tune_one_class(setting, one, 1, ["LoRA"], execution)


def test_the_rooms_share_one_pool(placed):
    assert pool_arms.open_captioned(placed) is open_captioned(replace(placed, shots=3))
