"""The study of the bag of tricks: who shares which pictures, what is kept, and how answers are put together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from tests import tiny
from zsclib.cache import Cache
from zsclib.images.image_set import ImageSet
from zsclib.papers import diversity_sets, diversity_study
from zsclib.papers.diversity.experiments import ENDINGS, measures, right, run
from zsclib.papers.diversity.training_sets import (
    ARMS,
    Cell,
    Setting,
    draw,
    needed,
    open_models,
    share,
    training_rows,
)
from zsclib.papers.diversity.tricks import PAPER
from zsclib.recipe import Recipe

CELLS = [
    Cell("digits", "base"), Cell("digits", "union"), Cell("digits", "union", 4), Cell("digits", "base", 2),
    Cell("digits", "small, nearest"), Cell("digits", "shared noise"), Cell("digits", "real"),
]  # fmt: skip


@pytest.fixture(scope="module")
def setting(tmp_path_factory) -> Setting:
    root = tmp_path_factory.mktemp("models")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny, "LENGTH", 64)  # the digits' prompts are longer than others'
        tiny.stable_diffusion_1(root / "sd")
    return Setting(
        str(root / "sd"), str(tiny.clip(root / "clip")), pictures=40, held_out=10,
        steps=1, batch=30, test=20, size=16, small=8, recipe=Recipe(updates=2, batch=4, checkpoints=2),
    )  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Cache:
    return Cache(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def table(setting, store) -> pd.DataFrame:
    return run(setting, CELLS, store)


def pixels(images: ImageSet) -> list[bytes]:
    return [image.tobytes() for image in images.images]


def test_every_cell_has_a_row_with_each_ending(table, setting):
    assert table[["arm", "times"]].apply(tuple, axis=1).tolist() == [(cell.arm, cell.times) for cell in CELLS]
    audited = table[table.arm.isin(setting.audited)]
    assert all(x.dtype == bool and x.shape == (setting.test,) for x in table["last"])
    assert all(x.shape == (setting.test,) for ending in ENDINGS for x in audited[ending])
    assert table.drop(index=audited.index)[list(ENDINGS[1:])].isna().all(axis=None)
    last, held_out, best = (audited[ending].map(np.mean) for ending in ENDINGS[:3])
    assert (best >= last).all() and (best >= held_out).all()


def test_arms_share_pictures_and_never_train_on_what_is_held_out(table, setting, store):
    drawings = needed(setting, CELLS)
    sets = {}
    for cell in CELLS[:4]:
        views = [draw(setting, store, drawing)[None] for drawing in drawings[cell]]
        sets[cell], held_out = share(setting, cell, views)
        assert not set(pixels(sets[cell])) & set(pixels(held_out))
        assert set(np.bincount(sets[cell].labels)) == {4 * cell.times} and len(held_out) == 10 * len(views)
    base, union, combined, double = sets.values()
    assert pixels(double)[:40] == pixels(base) and pixels(combined)[:40] == pixels(base)
    assert (
        set(pixels(union)) <= set(pixels(combined))
        and union.manifest["trick"].value_counts().tolist() == [10] * 4
    )
    assert combined.manifest.groupby("trick").size().to_dict() == dict.fromkeys(PAPER, 40)


def test_what_the_store_has_is_neither_drawn_nor_trained_again(table, setting, store, monkeypatch):
    def never(*_):
        raise AssertionError("done again")

    monkeypatch.setattr(diversity_study, "draw", never)
    monkeypatch.setattr(diversity_study, "train", never)
    again = run(setting, CELLS, store)
    for ending in ENDINGS:
        assert all(np.array_equal(a, b) for a, b in zip(table[ending], again[ending], strict=True))
    with pytest.raises(AssertionError, match="done again"):
        run(setting, [Cell("digits", "base", seed=1)], store)


def test_a_run_stopped_after_a_training_goes_on_there(setting, tmp_path, table):
    class Stop(Exception):
        pass

    def stop(what: str, done: int, of: int) -> None:
        if what == "training":
            raise Stop

    seen = []
    with pytest.raises(Stop):
        run(setting, CELLS[:2], Cache(tmp_path), progress=stop)
    found = run(setting, CELLS[:2], Cache(tmp_path), progress=lambda *told: seen.append(told))
    assert seen[-1] == ("training", 1, 1)
    assert all((a == b).all() for a, b in zip(found["last"], table["last"], strict=False))


def test_measures_are_those_of_the_very_training_set(table, setting, store):
    cells = [cell for cell in CELLS if ARMS[cell.arm].tricks]
    found = measures(setting, cells, store)
    assert len(found) == len(cells)
    clip, pictures = open_models(setting)[1], draw(setting, store, needed(setting, cells)[cells[0]][0])[None]
    rows = training_rows(setting, cells[0])[0]
    alone = clip.encode_images(pictures.images[rows]).numpy()  # the tiny model draws what networks see
    distances = np.linalg.norm(alone[:, None] - alone[None], axis=-1)
    expected = distances.sum() / (len(alone) * (len(alone) - 1))
    assert found["mean pairwise distance"].iloc[0] == pytest.approx(expected, rel=1e-4)
    with pytest.raises(ValueError, match="no features of Drawing"):
        measures(setting, [Cell("digits", "base", seed=5)], store)


def test_right_averages_architectures_and_sets_targets_side_by_side():
    rows = [
        {"target": t, "arm": "base", "times": 1, "architecture": a, "seed": s, "last": np.array([a == "x", s == 1])}
        for t in ("one", "two") for a in ("x", "y") for s in (0, 1)
    ]  # fmt: skip
    table = pd.DataFrame(rows)
    both = right(table, architectures=None)
    np.testing.assert_array_equal(both, [[0.5, 0, 0.5, 0], [0.5, 1, 0.5, 1]])
    np.testing.assert_array_equal(right(table, targets=["two"], architectures=["y"]), [[0, 0], [0, 1]])
    with pytest.raises(ValueError, match="union x 4 needs networks with each of the seeds"):
        right(table, "union", 4, architectures=None)
    with pytest.raises(ValueError, match="the table has 3 such rows"):
        right(table.drop(index=0), architectures=["x", "y"], targets=["one"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arm": "more noise"}, "there is no 'more noise'"),
        ({"architecture": "resnet51"}, "there is no 'resnet51'.*known: resnet50, resnet101"),
        ({"times": 0.3}, "cannot be shared equally by 10 classes and 1 tricks"),
        ({"arm": "union", "times": 0.5}, "10 classes and 4 tricks"),
        ({"target": "letters"}, "no dataset 'letters'"),
    ],
)
def test_a_cell_that_cannot_be_is_refused_before_any_work(setting, tmp_path, change, message):
    cell = Cell(**{"target": "digits"} | change)
    with pytest.raises(ValueError, match=message):
        run(setting, [Cell("digits"), cell], Cache(tmp_path))
    assert not list(tmp_path.iterdir())


def test_the_key_of_a_training_forgets_nothing_that_decides_it(setting):
    keys = [
        diversity_sets.key(changed, cell)
        for changed in (
            setting,
            replace(setting, steps=2),
            replace(setting, recipe=replace(setting.recipe, rate=1e-3)),
        )
        for cell in CELLS
    ]
    assert len(set(keys)) == len(keys)
    assert diversity_sets.key(replace(setting, batch=7), CELLS[0]) == keys[0]
