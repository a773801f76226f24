"""The experiment on the bag of tricks: who shares which images, what is cached, and how answers are put together."""

from __future__ import annotations

import io
import json
import shutil
from collections import defaultdict
from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests import tiny
from zsclib.cache import Cache
from zsclib.images.image_set import ImageSet
from zsclib.papers.diversity import experiments, training_sets
from zsclib.papers.diversity.contrasts import CHOSEN, Arms, Side
from zsclib.papers.diversity.experiments import (
    CLIP,
    ENDINGS,
    cell_of,
    comparison,
    correct,
    measures,
    name_of,
    references,
    run,
)
from zsclib.papers.diversity.training_sets import (
    ARMS,
    MAIN,
    SINGLE,
    Cell,
    Setting,
    clip_features,
    generate_sets,
    generated_sets,
    open_models,
    reference,
    share,
    training_key,
    training_rows,
)
from zsclib.papers.diversity.tricks import PAPER
from zsclib.paths import ROOT
from zsclib.recipe import Recipe
from zsclib.study import runner
from zsclib.study.runs import read_run, run_names
from zsclib.workers import Execution

CELLS = [
    Cell("digits", "base"), Cell("digits", "union"), Cell("digits", "union", 4), Cell("digits", "base", 2),
    Cell("digits", "small, nearest"), Cell("digits", "shared noise"), Cell("digits", "real"),
    *(Cell("digits", trick) for trick in SINGLE), Cell("digits", "guidance-3"), Cell("digits", "base", length=0.5),
    Cell("digits", "base", architecture="vit-b"),
]  # fmt: skip


@pytest.fixture(scope="module")
def setting(tmp_path_factory) -> Setting:
    root = tmp_path_factory.mktemp("models")
    with tiny.long_prompts():
        tiny.stable_diffusion_1(root / "sd")
    return Setting(
        model=str(root / "sd"), clip=str(tiny.clip(root / "clip")), images=40, held_out=10, sampling_steps=1,
        test_images=20, size=16, small=8, recipe=Recipe(steps=2, batch=4, checkpoints=2),
    )  # fmt: skip


@pytest.fixture(scope="module")
def execution(tmp_path_factory) -> Execution:
    return Execution(batch=30, cache=Cache(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def table(setting, execution) -> pd.DataFrame:
    return run(setting, CELLS, execution)


def pixels(images: ImageSet) -> list[bytes]:
    return [image.tobytes() for image in images.images]


def test_every_cell_has_a_row_with_each_ending(table, setting):
    assert table[["arm", "times"]].apply(tuple, axis=1).tolist() == [(cell.arm, cell.times) for cell in CELLS]
    is_audited = pd.Series([(cell.arm, cell.times) in setting.audited and cell.length == 1 for cell in CELLS])
    audited = table[is_audited]
    assert len(audited) == 3 and all(x.dtype == bool and x.shape == (setting.test_images,) for x in table["last"])
    watched = audited[audited.architecture == MAIN]  # at every checkpoint
    assert all(x.shape == (setting.test_images,) for ending in ENDINGS for x in watched[ending])
    other = audited[audited.architecture == "vit-b"]
    assert other[list(ENDINGS)].notna().to_numpy().tolist() == [[True, False, False, True]]
    assert table[~is_audited][list(ENDINGS[1:])].isna().all(axis=None)
    last, held_out, best = (watched[ending].map(np.mean) for ending in ENDINGS[:3])
    assert (best >= last).all() and (best >= held_out).all()
    scored = {arm for arm, share in zip(table["arm"], table["held_out"], strict=True) if 0 <= share <= 1}
    assert scored == {"base", "union", "real", *SINGLE}


def test_the_best_single_trick_is_chosen_on_the_same_held_out_images_of_all_tricks(table, setting, execution):
    cells = [cell for cell in CELLS if cell.arm in SINGLE]
    parts_of = generated_sets(setting, cells)
    images = generate_sets(setting, {part: (None,) for own in parts_of.values() for part in own.values()}, execution)
    sets = [share(setting, c, {trick: images[part, None] for trick, part in parts_of[c].items()}) for c in cells]
    held_out = [pixels(second) for _, second in sets]
    assert held_out[0] == held_out[1] == held_out[2] and len(held_out[0]) == 4 * setting.held_out
    assert all(set(first.manifest["trick"]) == {c.arm} for (first, _), c in zip(sets, cells, strict=True))
    one = table[table.arm.isin(SINGLE)]
    best = one["arm"].tolist()[int(np.argmax(one["held_out"]))]
    arms = Arms(table, "digits")
    assert arms.chosen() == [best]
    np.testing.assert_array_equal(arms[Side(CHOSEN)], correct(table, "digits", best))


def test_a_shorter_training_is_one_of_its_own(setting, monkeypatch):
    recipes = []
    monkeypatch.setattr(experiments, "train", lambda *a, **k: recipes.append(a[2]) or 1 / 0)
    for length in (0.5, 1, 16):
        with pytest.raises(ZeroDivisionError):
            run(setting, [Cell("digits", "real", length=length)], Execution())
    assert [recipe.steps for recipe in recipes] == [1, 2, 32]


def test_a_network_may_have_a_learning_rate_of_its_own(setting, monkeypatch):
    recipes = []
    monkeypatch.setattr(experiments, "train", lambda *a, **k: recipes.append((a[0].name, a[2])) or 1 / 0)
    own = replace(setting, learning_rates=(("vit-b", 2e-3),), recipe=replace(setting.recipe, learning_rate=8e-3))
    for name in (MAIN, "vit-b"):
        with pytest.raises(ZeroDivisionError):
            run(own, [Cell("digits", "real", architecture=name)], Execution())
    assert [(name, recipe.learning_rate) for name, recipe in recipes] == [("resnet18", 8e-3), ("vit-b", 2e-3)]


def test_the_main_network_under_its_name_is_no_training_of_its_own(setting, monkeypatch):
    named = Cell("digits", "base", architecture=setting.network)
    assert training_key(setting, named) == training_key(setting, CELLS[0])
    counts = []
    monkeypatch.setattr(experiments, "run_jobs", lambda jobs, *_: counts.append(len(jobs)) or 1 / 0)
    monkeypatch.setattr(experiments, "generate_sets", lambda *_: defaultdict(lambda: None))
    monkeypatch.setattr(experiments, "share", lambda *_: (None, None))
    with pytest.raises(ZeroDivisionError):
        run(setting, [CELLS[0], named, Cell("digits", "base", architecture="resnet50")], Execution())
    assert counts == [2]


def test_arms_begin_alike_and_targets_do_not(setting, monkeypatch):
    begun = []

    def train(network, images, recipe, seed, **_):
        begun.append((seed, float(next(network.parameters()).detach().sum())))
        raise InterruptedError

    monkeypatch.setattr(experiments, "train", train)
    for at in (("digits", 1, 0), ("digits", 2, 0), ("objects", 1, 0), ("digits", 1, 1)):
        with pytest.raises(InterruptedError):
            run(setting, [Cell(at[0], "real", at[1], seed=at[2])], Execution())
    assert begun[0] == begun[1]
    assert all(len(set(each)) == 3 for each in zip(*begun, strict=True))  # of orders, and of initial weights


def test_names_in_a_record_can_be_read_back():
    for cell in (*CELLS, Cell("digits", "union", 0.25, length=0.0625, architecture="vit-b", seed=3)):
        for ending in ENDINGS:
            assert cell_of(name_of(cell, ending), "digits", cell.seed) == (cell, ending)
    with pytest.raises(ValueError, match="cell_of: 'base' is no name of a training; expected one like 'base; 1 N;"):
        cell_of("base", "digits", 0)


def test_clip_stands_beside_with_every_seed(setting):
    rows = references(setting, ["digits"], [0, 1])
    assert rows["arm"].tolist() == [CLIP, CLIP] and rows["seed"].tolist() == [0, 1]
    assert np.array_equal(*rows["last"]) and rows[list(ENDINGS[1:])].isna().all(axis=None)


def test_arms_share_images_and_never_train_on_what_is_held_out(table, setting, execution):
    parts_of = generated_sets(setting, CELLS)
    ways = {part: (None,) for cell in CELLS[:4] for part in parts_of[cell].values()}
    generated = generate_sets(setting, ways, execution)
    sets = {}
    for cell in CELLS[:4]:
        parts = {trick: generated[part, None] for trick, part in parts_of[cell].items()}
        sets[cell], held_out = share(setting, cell, parts)
        assert not set(pixels(sets[cell])) & set(pixels(held_out))
        assert set(np.bincount(sets[cell].labels)) == {4 * cell.times} and len(held_out) == 10 * len(parts)
    base, union, combined, double = sets.values()
    assert pixels(double)[:40] == pixels(base) and pixels(combined)[:40] == pixels(base)
    assert set(pixels(union)) <= set(pixels(combined))
    assert union.manifest["trick"].value_counts().tolist() == [10] * 4
    assert combined.manifest.groupby("trick").size().to_dict() == dict.fromkeys(PAPER, 40)


def test_what_is_cached_is_neither_generated_nor_trained_again(table, setting, execution, monkeypatch):
    def never(*_):
        raise AssertionError("done again")

    monkeypatch.setattr(training_sets, "sample", never)
    monkeypatch.setattr(experiments, "train", never)
    again = run(setting, CELLS, execution)
    for ending in ENDINGS:
        assert all(np.array_equal(a, b) for a, b in zip(table[ending], again[ending], strict=True))
    with pytest.raises(AssertionError, match="done again"):
        run(setting, [Cell("digits", "base", seed=1)], execution)


def test_a_run_stopped_after_a_training_goes_on_there(setting, tmp_path, table):
    class Stop(Exception):
        pass

    def stop(what: str, done: int, total: int) -> None:
        if what == "training" and done == 1:
            raise Stop

    reports = []
    with pytest.raises(Stop):
        run(setting, CELLS[:2], Execution(batch=30, cache=Cache(tmp_path), progress=stop))
    progress = lambda *report: reports.append(report)  # noqa: E731
    again = run(setting, CELLS[:2], Execution(batch=30, cache=Cache(tmp_path), progress=progress))
    trainings = [report for report in reports if report[0] == "training"]
    assert trainings == [("training", 0, 1), ("training", 1, 1)]
    assert all((a == b).all() for a, b in zip(again["last"], table["last"], strict=False))


def test_measures_are_those_of_the_very_training_set(table, setting, execution):
    cells = [cell for cell in CELLS if ARMS[cell.arm].tricks]
    measured = measures(setting, cells, execution)
    assert len(measured) == len(cells) - 2  # the shorter training and the other network have the same set
    part = generated_sets(setting, cells)[cells[0]]["base"]
    images = generate_sets(setting, {part: (None,)}, execution)[part, None]
    alone = open_models(setting)[1].encode_images(images.images).numpy()  # the tiny model has what networks see
    np.testing.assert_allclose(clip_features(setting, part, execution), alone, atol=1e-5)
    alone = alone[training_rows(setting, cells[0])["base"]]
    distances = np.linalg.norm(alone[:, None] - alone[None], axis=-1)
    expected = distances.sum() / (len(alone) * (len(alone) - 1))
    assert measured["mean pairwise distance"].iloc[0] == pytest.approx(expected, rel=1e-4)


def test_outcomes_are_averaged_over_architectures_and_stacked_by_seed():
    rows = [
        {"target": t, "arm": "base", "times": 1, "length": 1, "architecture": a, "seed": s}
        | {"last": np.array([a == "x", s == 1])}
        for t in ("one", "two") for a in ("x", "y") for s in (0, 1)
    ]  # fmt: skip
    table = pd.DataFrame(rows)
    np.testing.assert_array_equal(correct(table, "one", architectures=None), [[0.5, 0], [0.5, 1]])
    np.testing.assert_array_equal(correct(table, "two", architectures=["y"]), [[0, 0], [0, 1]])
    with pytest.raises(ValueError, match="one, union x 4 needs networks with each of the seeds"):
        correct(table, "one", "union", 4, None)
    with pytest.raises(ValueError, match="the table has 3 such rows"):
        correct(table.drop(index=0), "one", architectures=["x", "y"])


def test_the_trainings_of_a_comparison_are_all_of_them_and_none_twice():
    cells = comparison(["objects", "digits"], ["base", "union"], [1, 4], [0.25, 1], ["resnet50", "vit-b"], seeds=2)
    assert len(set(cells)) == len(cells) == 2**6
    assert Cell("digits", "union", 4, length=0.25, architecture="vit-b", seed=1) in cells


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
        run(setting, [Cell("digits"), cell], Execution(batch=30, cache=Cache(tmp_path)))
    assert not list(tmp_path.iterdir())


def test_the_key_of_a_training_forgets_nothing_that_decides_it(setting):
    keys = [
        training_key(changed, cell)
        for changed in (
            setting,
            replace(setting, sampling_steps=2),
            replace(setting, recipe=replace(setting.recipe, learning_rate=1e-3)),
        )
        for cell in CELLS
    ]
    assert len(set(keys)) == len(keys)


def test_equal_cells_have_one_key(setting):
    whole, real_numbers = Cell("digits", "base", 1), Cell("digits", "base", 1.0, length=1.0)
    assert training_key(setting, whole) == training_key(setting, real_numbers)


@pytest.mark.parametrize("name", run_names("diversity"))
def test_runs_after_the_paper_train_as_its_authors_and_reduce_to_their_size(name):
    run = read_run("diversity", name)
    own = run.parameters
    assert (own["learning_rate"], own["learning_rates"], own["network_batch"]) == (1e-4, {}, 64)
    assert own["small"] == own.get("size", 32) and {"small, nearest", "small, bilinear"} <= {*own["controls"]}
    assert all(word in run.differs for word in ("weight decay", "20,000 steps", "bilinear"))


def test_sets_are_measured_against_as_many_real_images_as_there_are(tmp_path):
    draws = np.random.default_rng(0)
    for split, n in (("train", 3), ("test", 2)):
        for label in "ab":
            (tmp_path / split / label).mkdir(parents=True)
            for i in range(n):
                pixels = draws.integers(0, 255, (40 + i, 30, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / split / label / f"{i}.png")
    setting = Setting(model="", clip="", size=16)
    images = reference(setting, f"folder:{tmp_path}", 100)
    assert images.images.shape == (6, 16, 16, 3) and len(reference(setting, f"folder:{tmp_path}", 4)) == 4
    assert len(reference(setting, "objects-hard", 20)) == 20


def test_diversity_s_page_runs_on_a_folder_of_ones_own(tmp_path, tmp_path_factory):
    """Images of several sizes, a train split with fewer of them than the largest set, a folder called by a number."""
    root, draws = tmp_path / "clone", np.random.default_rng(0)
    shutil.copytree(ROOT / "data/profiles", root / "data/profiles")
    (root / "notebooks").mkdir()
    shutil.copy(ROOT / "notebooks/diversity.ipynb", root / "notebooks")
    for (split, n), label in product((("train", 9), ("test", 3)), ("cat", "dog")):
        (tmp_path / "2024 pets" / split / label).mkdir(parents=True)
        for i in range(n):
            pixels = draws.integers(0, 255, (20 + i, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "2024 pets" / split / label / f"{i}.png")
    model, clip = tiny.generator_and_clip(tmp_path_factory.mktemp("models"))
    own = {
        "targets": [f"folder:{tmp_path / '2024 pets'}"], "images": 8, "held_out": 4, "test_images": 6, "size": 16,
        "training_steps": 2, "network_batch": 4, "sampling_steps": 2, "model": str(model), "clip": str(clip),
        "batch": 16, "workers": 1,
    }  # fmt: skip
    folder = runner.run("diversity", own, root=root, profile="ci", stream=io.StringIO())
    record = json.loads((folder / "record.json").read_text())
    assert {"set_2024_pets_naive", "set_2024_pets_real_images", "set_2024_pets_clip", "quantity_gain"} <= set(record)
    cells = json.loads((folder / "executed.ipynb").read_text())["cells"]
    assert str(tmp_path / "2024 pets") not in json.dumps([cell["outputs"] for cell in cells if "outputs" in cell])
