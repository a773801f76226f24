"""The arms of the retrieval paper on tiny models: exact or reported counts, equal updates, shares, costs."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests import tiny
from zsclib import datasets
from zsclib.cache import Cache
from zsclib.extra import Extra, counts, equal_counts, extra_of, first_of_each
from zsclib.images.image_set import ImageSet
from zsclib.models import denoising
from zsclib.own_sets import prompts_for
from zsclib.papers.retrieval import arms as arms_room
from zsclib.papers.retrieval import audit, experiments, generated_arms, pool_arms, training_sets
from zsclib.papers.retrieval import outcomes as outcomes_room
from zsclib.papers.retrieval.arms import ARMS, costs, half_and_half, make_extra, oversampled
from zsclib.papers.retrieval.contrasts import REFERENCES, Arms, At, contrasts
from zsclib.papers.retrieval.dials import Dials
from zsclib.papers.retrieval.experiments import Cell, comparison, references, run
from zsclib.papers.retrieval.generated_arms import prompted, pseudo_labelled, tuning_of, unconditional
from zsclib.papers.retrieval.outcomes import BESIDE, differences, jobs, outcomes
from zsclib.papers.retrieval.pool_arms import near_copies_of, prepare, random_pool, retrieved
from zsclib.papers.retrieval.training_sets import Data, Setting, data
from zsclib.papers.retrieval.tuning_curves import changes, tuning_curves
from zsclib.pools.captioned import pool_in_memory
from zsclib.pools.queries import text_queries
from zsclib.recipe import Recipe
from zsclib.workers import Execution

CLASSES, SHOTS = 3, 2


@pytest.fixture(scope="module")
def target(tmp_path_factory) -> str:
    """A user's own set: a folder of three of the world's classes, 8 images of each to train on and 4 to test on."""
    root = tmp_path_factory.mktemp("own")
    for split, n in (("train", 80), ("test", 40)):
        images = datasets.load("objects", split, n, size=16)
        for i, label in enumerate(images.labels):
            if label < CLASSES:
                folder = root / split / images.classes[label]
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(images.images[i]).save(folder / f"{i}.png")
    return f"folder:{root}"


def reddish(n: int, seed: int, size: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (n, size, size, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def setting(tmp_path_factory) -> Setting:
    root = tmp_path_factory.mktemp("models")
    model, clip = tiny.generator_and_clip(root)
    return Setting(
        model=model, clip=clip, pool="tiny", index=str(root / "index"), shots=SHOTS,
        held_out=1, times=2, sampling_steps=2, candidates=3, tuning_samples=40, rank=2, tuned_at=1, test_images=12,
        size=16, network="resnet18", recipe=Recipe(steps=2, batch=4, checkpoints=1),
    )  # fmt: skip


@pytest.fixture(scope="module")
def execution(tmp_path_factory) -> Execution:
    return Execution(batch=16, cache=Cache(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module", autouse=True)
def pool(setting):
    """100 images with captions in the place of the world's pool."""
    images = reddish(100, 9)
    images[:40] = datasets.load("objects", "validation", 40, size=16).images
    pool = pool_in_memory("tiny", images, [f"image {i} of a star" for i in range(100)])
    with pytest.MonkeyPatch.context() as patch:
        for room in (pool_arms, arms_room, audit):
            patch.setattr(room, "open_captioned", lambda setting: pool)
        yield pool


@pytest.fixture(scope="module")
def one(setting, target) -> Data:
    return data(setting, target, 0)


def pixels(images: ImageSet) -> list[bytes]:
    return [image.tobytes() for image in images.images]


def test_d_what_is_beyond_it_what_is_held_out_and_test_images_share_none(setting, one, target):
    parts = (one.real, one.further, one.held_out, one.test)
    assert [len(part) for part in parts] == [6, 6, 3, 12]
    assert [set(counts(part)) for part in parts[:3]] == [{2}, {2}, {1}]
    every = [image for part in parts for image in pixels(part)]
    assert len(set(every)) == len(every)
    other = data(setting, target, 1)
    assert set(pixels(other.real)) != set(pixels(one.real)) and pixels(other.test) == pixels(one.test)
    with pytest.raises(ValueError, match="1000 images in its split .train., 1100 were asked"):
        data(replace(setting, shots=45, held_out=20), "digits", 0)


def labelled(*labels: int) -> ImageSet:
    images = reddish(len(labels), 0, 2)
    return ImageSet(images, np.array(labels, int), ("a", "b", "c"), manifest=pd.DataFrame({"row": range(len(labels))}))


def test_where_an_arm_falls_short_all_arms_of_that_class_are_cut_to_its_count():
    full, short = labelled(0, 1, 2, 0, 1, 2, 0, 1, 2), labelled(0, 0, 0, 0, 1, 2, 2)
    most = equal_counts([full, short], 3)
    assert most.tolist() == [3, 1, 2]
    assert counts(first_of_each(full, most)).tolist() == counts(first_of_each(short, most)).tolist() == [3, 1, 2]
    assert first_of_each(full, most).manifest["row"].tolist() == [0, 1, 2, 3, 5, 6]  # the first of each class
    assert equal_counts([full, short], 2).tolist() == [2, 1, 2]


def test_extra_images_travel_through_the_cache_with_manifest_report_and_costs():
    images = labelled(0, 1, 2)
    images = replace(images, manifest=images.manifest.assign(seed=2**62 + 1, similarity=0.1, caption="a “star”"))
    images.manifest["parent"] = pd.array([None, 2**61 + 1, 0], "Int64")
    report = pd.DataFrame({"class": ["a", "b", "c"], "wanted": 2, "delivered": 1})
    extra = Extra(images=images, report=report, evaluations=6.0, tuning_samples=5, seconds=0.25)
    back = extra_of(extra.arrays())
    assert pixels(back.images) == pixels(images) and back.images.classes == images.classes
    pd.testing.assert_frame_equal(back.images.manifest, images.manifest)
    pd.testing.assert_frame_equal(back.report, report)
    assert (back.evaluations, back.tuning_samples, back.seconds) == (6.0, 5, 0.25)


@pytest.fixture(scope="module")
def extra(setting, execution, pool, target) -> dict[str, Extra]:
    return make_extra(setting, target, 0, list(ARMS), execution)


def test_every_arm_has_exactly_n_of_each_class_or_says_what_is_missing(extra, setting):
    n = round(setting.times * setting.shots)
    assert set(extra) == set(ARMS) - {"real only", "classical"}
    for name, one in extra.items():
        delivered = counts(one.images)
        assert one.report["wanted"].tolist() == [n] * CLASSES
        assert one.report["delivered"].tolist() == delivered.tolist() and delivered.max() <= n, name
        if ARMS[name].method not in ("M1", "M3", "M11", "R9", "R11") and name != "random pool":
            assert set(delivered) == {n}, name
        assert one.images.images.shape[1:] == (16, 16, 3) and one.images.classes == extra["templates"].images.classes
    assert set(counts(extra["twice the real"].images)) == {SHOTS}


def test_costs_count_the_denoiser_s_evaluations(extra):
    table = costs(extra).set_index("arm")
    images = 4 * CLASSES
    evaluations = table["denoiser evaluations"]
    assert evaluations["templates"] == evaluations["textual inversion"] == images * 2 * 2  # steps, with guidance
    assert evaluations["templates, guidance 1"] == images * 2
    assert evaluations["image-to-image"] == images * 1  # half of the steps
    sampled = evaluations["unconditional"] / images / 2  # with the images that were dropped
    assert sampled == pytest.approx(3) or sampled == pytest.approx(3 * training_sets.FURTHER)
    assert evaluations["half and half"] <= images / 2 * 4
    for name in ("retrieved by text", "twice the real", "oversampled", "random pool"):
        assert evaluations[name] == 0
    tuned = table["samples tuned on"] > 0
    assert set(table.index[tuned]) == {name for name in ARMS if ARMS[name].tuned} and tuned.sum() == 7
    assert (table["seconds"] > 0).all() and table["method"]["retrieved by text"] == "M11"


def test_arms_of_the_generator_differ_from_one_another_as_they_say(extra, one):
    sets = {name: pixels(one.images) for name, one in extra.items()}
    different = [name for name in ARMS if ARMS[name].method[:1] == "M" and name in extra and ARMS[name].method != "M11"]
    for i, a in enumerate(different):
        for b in different[i + 1 :]:
            assert sets[a] != sets[b], (a, b)
    assert sets["tuned by LoRA"] == sets["tuned by LoRA, alone"]
    assert sets["planted 0 %, ladder"] == sets["retrieved by text"]
    assert set(sets["oversampled"]) == set(pixels(one.real))
    prompts = extra["textual inversion"].images.manifest["prompt"]
    assert prompts.str.contains("<").all() and prompts.nunique() > CLASSES
    learnt = extra["conditioning"].images
    assert set(learnt.manifest["prompt"]) == {f"<{name}>" for name in learnt.classes}
    grounds = "on grass|in the snow|background|beach|table|street"
    assert extra["backgrounds"].images.manifest["prompt"].str.contains(grounds).all()
    parents = extra["image-to-image"].images
    assert (parents.labels == one.real.labels[parents.manifest["parent"]]).all()


def test_fewer_images_are_the_beginning_of_more(setting, one, execution):
    few, many = (prompted(setting, one, n, execution) for n in (1, 2))
    assert np.abs(many.images[:CLASSES].astype(int) - few.images).max() <= 1  # in other batches
    few, many = (retrieved(setting, one, n, execution)[0] for n in (1, 2))
    assert set(pixels(few)) <= set(pixels(many))


def test_pseudo_labels_are_the_network_s_and_the_surest_stay():
    class Network:
        classes = ("a", "b")

    class Trained:
        network = Network()

        def scores(self, images):
            sure = images[:, 0, 0, 0].astype(np.float32) / 10
            return np.stack([sure, -sure], 1) * np.where(np.arange(len(images)) % 2, -1, 1)[:, None]

    images = np.zeros((6, 2, 2, 3), np.uint8) + np.array([5, 9, 1, 3, 8, 4], np.uint8)[:, None, None, None]
    chosen = pseudo_labelled(Trained(), images, 2, pd.DataFrame({"i": range(6)}))
    assert chosen.manifest["i"].tolist() == [1, 4, 0, 5] and chosen.labels.tolist() == [1, 0, 0, 1]
    assert chosen.manifest["confidence"].is_monotonic_decreasing
    assert counts(pseudo_labelled(Trained(), images[::2], 5, pd.DataFrame({"i": range(3)}))).sum() == 3


def test_random_and_unconditional_images_have_labels_of_the_network_trained_on_d(setting, one, execution, pool, target):
    for images in (random_pool(setting, one, 2, execution), unconditional(setting, one, 2, execution)):
        network = training_sets.labeller(setting, target, 0)
        assert (network.scores(images.images).argmax(1) == images.labels).all() and counts(images).max() <= 2
    assert set(random_pool(setting, one, 2, execution).manifest["id"]) <= set(pool.ids)


def test_half_and_half_is_half_of_each(extra, setting, one, execution):
    both = half_and_half(setting, one, 4, execution)
    by_source = both.manifest["source"].value_counts()
    assert by_source["templates"] == 2 * CLASSES and counts(both).max() <= 4
    there = np.minimum(counts(both.take(both.manifest["source"] != "templates")), 1)  # the pool has not every class
    first = first_of_each(both, np.full(CLASSES, 2)).manifest["source"]
    assert (first != "templates").sum() == there.sum() > 0, "a set of half the size has half of each, too"


def test_oversampled_is_d_again_and_again(setting, one, execution):
    images = oversampled(setting, one, 5, execution)
    assert set(counts(images)) == {5} and set(pixels(images)) == set(pixels(one.real))


def test_near_copies_of_test_images_are_retrieved_without_the_ladder_and_not_with_it(setting, one, execution):
    copies = {image.tobytes() for image in near_copies_of(one.test.images, 50, one.seed)}
    options = {"planted": 0.5, "query": "images"}
    without, _ = retrieved(setting, one, 4, execution, **options, ladder=False)
    with_ladder, report = retrieved(setting, one, 4, execution, **options)
    assert set(pixels(without)) & copies and not set(pixels(with_ladder)) & copies
    assert len(near_copies_of(one.test.images, 7, 0)) == 7
    assert np.abs(near_copies_of(one.test.images, 3, 0).astype(int) - one.test.images[:3]).mean() < 60


def test_a_floor_is_where_a_share_of_held_out_real_images_lie(setting, one, execution, extra):
    clip = training_sets.open_models(setting)[1]
    prompts = prompts_for(one.target, one.real.classes, setting.own)
    queries = text_queries(clip, prompts.classes, prompts.templates)
    features = clip.encode_images(one.held_out.images).numpy()
    own = [float(vector @ queries[label]) for vector, label in zip(features, one.held_out.labels, strict=True)]
    assert pool_arms.floor_of(clip, one.held_out, queries, 0.0) == pytest.approx(min(own))
    middle = pool_arms.floor_of(clip, one.held_out, queries, 0.5)
    assert middle == pytest.approx(np.median(own))
    some, report = retrieved(setting, one, 4, execution, floor=0.5)
    every, _ = retrieved(setting, one, 4, execution)
    below = every.manifest["similarity"] < middle
    assert sorted(pixels(some)) == sorted(pixels(every.take(np.flatnonzero(~below))))
    assert report["delivered"].sum() == len(some) == (~below).sum()
    with pytest.raises(ValueError, match="a floor are for an index of images"):
        retrieved(replace(setting, dials=Dials(captions=0.5)), one, 4, execution, floor=0.5)


def test_an_arm_with_a_floor_cuts_no_other(setting, execution, extra, target, monkeypatch):
    few = replace(extra["retrieved by text"], images=extra["retrieved by text"].images.take([0]))
    sets = {(target, 0): {"templates": extra["templates"], "retrieved by text, floor": few}}
    cells = [Cell(target, arm, times=2, length=2) for arm in ("templates", "retrieved by text, floor")]
    templates, floor = (experiments._training(setting, cell, sets, 0.5).extra for cell in cells)
    assert len(templates) == len(extra["templates"].images) and len(floor) == 1


def test_personalising_costs_the_same_number_of_samples_whatever_is_learnt(setting, one):
    for way in generated_arms.TUNINGS:
        assert tuning_of(setting, one, way).samples == 40
    assert tuning_of(setting, one, "clusters", 20).samples == 2
    assert tuning_of(replace(setting, learning_rates=(("LoRA", 0.5),)), one, "LoRA").learning_rate == 0.5
    with pytest.raises(ValueError, match="no way 'magic'; there are textual inversion"):
        generated_arms.personalised(setting, one, 1, Execution(), way="magic")
    with pytest.raises(ValueError, match="wording must be"):
        prompted(setting, one, 1, Execution(), wording="long")
    with pytest.raises(ValueError, match="query must be"):
        retrieved(setting, one, 1, Execution(), query="sound")


def test_the_loss_of_a_tuning_is_watched_from_its_start_to_its_end_whatever_is_learnt(setting, one, monkeypatch):
    monkeypatch.setattr(denoising, "HELD_OUT_DRAWS", 4)
    ways = {name: {"way": name} for name in ("textual inversion", "conditioning", "full", "LoRA")}
    curves = tuning_curves(setting, one, ways | {"k = 2": {"way": "clusters", "k": 2}}, Execution(), checks=2)
    assert list(curves) == [*ways, "k = 2"] and json.loads(json.dumps(curves)) == curves
    for curve in curves.values():
        assert curve["samples"][0] == 0 and 18 <= curve["samples"][-1] <= 40  # two images make no two clusters
        assert len(curve["held_out"]) == len(curve["samples"]) >= 2 and min(curve["held_out"]) > 0
    starts = [curves[name]["held_out"][0] for name in ("full", "LoRA")]
    assert starts[0] == pytest.approx(starts[1], rel=1e-6)  # both begin as the generator is


def test_what_the_last_quarter_of_a_tuning_took_is_read_between_checks():
    curves = {"a": {"samples": [0, 50, 100], "held_out": [2.0, 1.0, 0.5]}}
    (row,) = changes(curves).to_dict("records")
    expected = {"arm": "a", "samples": 100, "at the start": 2.0, "at the end": 0.5, "last quarter": 0.5 / 0.75 - 1}
    assert row == pytest.approx(expected)


def test_watching_a_tuning_changes_nothing_of_what_is_learnt(setting, one, monkeypatch):
    monkeypatch.setattr(denoising, "HELD_OUT_DRAWS", 4)
    asked = [
        generated_arms.personalise(setting, one, 2, Execution(), way="conditioning", checks=checks) for checks in (0, 2)
    ]
    names = [prompt(0, 1) for _, prompt in asked]
    first, second = (tuned.encode_prompts(names).embeddings for tuned, _ in asked)
    np.testing.assert_array_equal(first, second)


FEW = (
    *("real only", "twice the real", "templates", "retrieved by text", "oversampled", "classical"),
    "tuned by LoRA, alone",
)


@pytest.fixture(scope="module")
def table(setting, execution, extra, target) -> pd.DataFrame:
    return run(setting, comparison([target], FEW, (1, 2), (1, 2), seeds=1), execution)


def test_every_cell_has_one_row_and_arms_without_n_are_trained_once_per_length(table):
    rows = table.groupby("arm").size()
    assert rows["real only"] == rows["classical"] == rows["twice the real"] == 2
    assert rows["templates"] == rows["oversampled"] == 2 * 2 + 1
    assert all(x.dtype == bool and x.shape == (12,) for x in table["correct"])
    assert table["held_out"].between(0, 1).all()
    equal = table[(table.counts == "equal") & (table.times == 2) & table.arm.isin(("templates", "retrieved by text"))]
    assert equal["images"].nunique() == 1


def test_shares_are_chosen_from_the_grid_for_every_arm_alike(table, setting):
    chosen = table.groupby("arm")["share"].agg(set)
    for arm in ("templates", "retrieved by text", "oversampled"):
        assert len(chosen[arm]) == 1 and chosen[arm] <= set(setting.shares)
    assert chosen["real only"] == chosen["classical"] == {0.0}
    assert chosen["twice the real"] == {0.5} and chosen["tuned by LoRA, alone"] == {1.0}


def test_the_share_of_the_best_held_out_accuracy_is_chosen(setting, execution, extra, monkeypatch, target):
    trials = []

    def fake(setting, trainings, execution, what):
        trials.extend(trainings)
        return {one.key: {"held_out": {0.25: 0.3, 0.5: 0.6, 0.75: 0.6}[one.share]} for one in trainings}

    monkeypatch.setattr(experiments, "_train_all", fake)
    cells = [Cell(target, arm, times=2, length=2) for arm in ("templates", "oversampled", "real only")]
    sets = {(target, 0): {name: extra[name] for name in ("templates", "oversampled")}}
    shares = experiments.tuned_shares(setting, cells, sets, execution)
    assert shares == {(target, "templates"): 0.5, (target, "oversampled"): 0.5, (target, "real only"): 0.0}
    assert len(trials) == 6 and {one.cell.length for one in trials} == {setting.tuned_at}
    assert not any("test" in vars(one) for one in trials)


def test_all_arms_take_the_same_number_of_updates(setting, execution, extra, monkeypatch, target):
    steps = {}

    def record(network, images, recipe, seed, device, augmentation):
        steps.setdefault((recipe.steps, recipe.batch), []).append(augmentation.share)
        raise KeyboardInterrupt

    monkeypatch.setattr(experiments, "train", record)
    one = next(iter(extra.values())).images
    for arm in ARMS:
        for length in (1, 16):
            share = ARMS[arm].share or 0.5 * (ARMS[arm].make is not None)
            with pytest.raises(KeyboardInterrupt):
                experiments._trained(setting, Cell(target, arm, length=length), one if share else None, share)
    assert set(steps) == {(2, 4), (32, 4)} and all(len(shares) == len(ARMS) for shares in steps.values())


def test_what_is_cached_is_neither_made_nor_trained_again(table, setting, execution, monkeypatch, target):
    def never(*_, **__):
        raise AssertionError("done again")

    monkeypatch.setattr(experiments, "train", never)
    monkeypatch.setattr(generated_arms, "generate", never)
    monkeypatch.setattr(pool_arms, "retrieve", never)
    monkeypatch.setattr(arms_room, "prepare", never)
    again = run(setting, comparison([target], FEW, (1, 2), (1, 2), seeds=1), execution)
    pd.testing.assert_frame_equal(again, table)


def test_an_arm_that_falls_short_cuts_the_others_and_the_full_count_stands_beside(setting, execution, extra, target):
    shortened = dict(extra)
    short = first_of_each(extra["retrieved by text"].images, np.array([0, *[2] * (CLASSES - 1)]))
    shortened["retrieved by text"] = replace(extra["retrieved by text"], images=short)
    shortened = {name: shortened[name] for name in ("templates", "retrieved by text")}
    sets = {(target, 0): shortened}
    cut = experiments._training(setting, Cell(target, "templates", times=2), sets, 0.5)
    full = experiments._training(setting, Cell(target, "templates", times=2, counts="full"), sets, 0.5)
    assert counts(cut.extra).tolist() == counts(short).tolist() and set(counts(full.extra)) == {4}
    assert cut.key != full.key


def test_bad_cells_are_refused_before_any_work(setting, execution, target):
    with pytest.raises(ValueError, match="no arm 'template' \\(did you mean 'templates'"):
        comparison([target], ["template"])
    with pytest.raises(ValueError, match="more than the 2"):
        run(setting, [Cell(target, "templates", times=3)], execution)


def test_the_probe_s_rate_is_the_best_on_held_out_images(setting, target, monkeypatch):
    one, learnt = data(setting, target, 0), []
    right = {"real": one.real.labels, "test": one.test.labels, "held_out": one.held_out.labels}
    features = {name: np.full((len(labels), 4), i, np.float32) for i, (name, labels) in enumerate(right.items())}

    def fit(head, inputs, labels, recipe, seed, device):
        learnt.append(recipe.learning_rate)
        good = recipe.learning_rate == 3e-3  # the others take each class for the next one
        shift = 0 if good else 1
        classes = np.eye(len(one.real.classes))

        def scores(inputs):
            labels = right["test" if inputs[0, 0] == 1 * np.sqrt(4) else "held_out"]
            return classes[(labels + shift) % len(classes)]

        return SimpleNamespace(scores=scores)

    monkeypatch.setattr(experiments, "fit", fit)
    test, held_out = experiments._probe(setting, one, *features.values())
    assert learnt == list(experiments.PROBE_RATES) and 3e-3 in learnt[1:-1]
    assert (test.argmax(1) == one.test.labels).all() and (held_out.argmax(1) == one.held_out.labels).all()


def test_every_class_of_a_study_s_target_has_as_many_samples_of_tuning(setting):
    plan = {
        "models": [setting.model, setting.clip], "seeds": [0], "sets": {"digits": 12, "gadgets-hard": 20},
        "images_seed": 1, "settings": {"samples_a_class": 5, "network_steps": 1, "index": setting.index},
    }  # fmt: skip
    assert [outcomes_room._setting(plan, t, "cpu").tuning_samples for t in plan["sets"]] == [50, 100]


def test_references_are_the_clip_that_retrieves(setting, table, target):
    rows = references(setting, [target], [0])
    assert tuple(rows["arm"]) == REFERENCES and all(x.shape == (12,) for x in rows["correct"])
    both = pd.concat([table, rows])
    computed = contrasts(both, at=At(times=2, length=2))
    assert {"RET-A-zero-shot", "RET-A-probe", "RET-R1", "RET-R5", "RET-R6", "RET-A-classical"} <= set(computed)
    assert computed["RET-R1"][target].shape == (1, 12)
    np.testing.assert_array_equal(Arms(both, target, At(2, 2))["linear probe"][0], rows["correct"][1])


def test_a_study_s_jobs_yield_outcomes_that_are_the_table_s(setting, table, execution, pool, target, monkeypatch):
    apart = ("model", "clip", "test_images", "test_seed", "test_split", "recipe", "device", "tuned_with")
    names = {part for part in vars(setting) if part not in apart}
    plan = {
        "models": [setting.model, setting.clip], "claims": ["RET-R1", "RET-A-zero-shot"], "sets": {target: 12},
        "images_seed": 0, "seeds": [0, 1],
        "settings": {name: getattr(setting, name) for name in names} | {"times": 2, "length": 4, "network_steps": 1},
    }  # fmt: skip
    monkeypatch.setattr(audit, "COUNTED", 3)
    every = jobs(plan)
    even = tuple(f"{arm}, half of each batch" for arm in ("templates", "retrieved by text"))
    arms = ("templates", "real only", "retrieved by text", "CLIP, zero-shot", *BESIDE, *even)
    assert every == [(arm, target, seed) for seed in (0, 1) for arm in arms]
    done = {job: (correct, images) for job, correct, images in outcomes(plan, every, execution)}
    assert list(done) == every and all(len(images) == 12 for _, images in done.values())
    by_arm = {arm: {target: np.stack([done[arm, target, seed][0] for seed in (0, 1)])} for arm in arms}
    assert differences({}) == {}  # before the first job is done
    assert set(differences(by_arm)) >= {"RET-R1", "RET-A-zero-shot", "RET-R5-prompts"}
    later = ("templates", target, 1)
    (only,) = outcomes(plan, [later], execution)  # of the second seed, its share chosen with the first
    np.testing.assert_array_equal(only[1], done[later][0])
    kept = {}

    def remember(name, what, choose):
        return kept[name, what] if (name, what) in kept else kept.setdefault((name, what), choose())

    made = {"execution": execution, "remember": remember}
    list(outcomes(plan, every[:1], **made))
    assert set(kept[target, "shares"]) >= {"templates", "retrieved by text", "real only"}
    assert set(kept[target, "sets, seed 0"]) == {"templates", "retrieved by text"}
    counted = kept[target, "memorised"]
    assert [row["guidance"] for row in counted["by guidance"]] == list(audit.GUIDANCES)
    assert sum(row["images"] for row in counted["by class"]) == 3 * len(audit.GUIDANCES)
    assert json.loads(json.dumps(counted)) == counted
    monkeypatch.setattr(experiments, "tuned_shares", None)  # chosen: that is not done again
    (only,) = outcomes(plan, [later], **made)
    np.testing.assert_array_equal(only[1], done[later][0])
    trained = []
    monkeypatch.setattr(
        experiments, "_train_all", lambda setting, ones, *_: trained.extend(ones) or _as_if_trained(ones)
    )
    wanted = [(arm, target, 0) for arm in even]
    assert [job for job, *_ in outcomes(plan, wanted, **made)] == wanted
    assert [(one.cell.arm, one.share) for one in trained] == [("templates", 0.5), ("retrieved by text", 0.5)]
    for one in trained:  # all that an arm has, whatever the others have
        own = kept[target, "sets, seed 0"][one.cell.arm]["delivered"]
        assert np.bincount(one.extra.labels, minlength=CLASSES).tolist() == own


def _as_if_trained(trainings):
    return {one.key: {"held_out": 0.0, "test": np.zeros(12, int)} for one in trainings}


def test_what_sets_are_made_of_is_plain_data(setting, execution, extra, target):
    names = ["templates", "retrieved by text", "planted 5 %, no ladder", "twice the real", "tuned by LoRA, alone"]
    made = experiments.sets_made(setting, target, 0, names, execution)
    assert json.loads(json.dumps(made)) == made and list(made) == names
    assert made["templates"]["evaluations"] == extra["templates"].evaluations > 0
    assert made["tuned by LoRA, alone"]["tuning_samples"] == setting.tuning_samples
    assert "dropped" not in made["templates"] and "near held-out" in made["retrieved by text"]["dropped"]
    assert made["planted 5 %, no ladder"]["copies"] > 0 and "copies" not in made["retrieved by text"]
    fewest = np.min([one["delivered"] for name, one in made.items() if name != "twice the real"], axis=0)
    assert all(one["compared"] == fewest.tolist() for name, one in made.items() if name != "twice the real")


def test_a_study_s_arms_may_be_those_of_some_targets(setting):
    plan = {
        "models": [setting.model, setting.clip], "claims": ["RET-R3-best", "RET-R4-few"], "seeds": [0],
        "sets": {"digits": 12, "gadgets-hard": 12}, "images_seed": 1,
        "settings": {"times": 3, "length": 16, "network_steps": 1, "only": {"clusters, k = 2": ["digits"]}},
    }  # fmt: skip
    arms = {name: [arm for arm, target, _ in jobs(plan) if target == name] for name in plan["sets"]}
    apart = set(arms["digits"]) - set(arms["gadgets-hard"])
    assert apart == {"clusters, k = 2", "clusters, k = 2, half of each batch"}
    assert {"best personalised", "tuned fully", "templates, N = |D|"} <= set(arms["gadgets-hard"])


def test_shares_may_be_chosen_with_seeds_of_their_own(setting, execution, extra, monkeypatch, target):
    trials = []

    def fake(setting, trainings, execution, what):
        trials.extend(trainings)
        return {one.key: {"held_out": one.share} for one in trainings}

    monkeypatch.setattr(experiments, "_train_all", fake)
    sets = {(target, seed): {"templates": extra["templates"]} for seed in (0, 1, 2)}
    cells = [Cell(target, "templates", times=2, length=2, seed=seed) for seed in (1, 2)]
    shares = experiments.tuned_shares(replace(setting, tuned_with=(0,)), cells, sets, execution)
    assert shares == {(target, "templates"): 0.75} and {one.cell.seed for one in trials} == {0}
    assert len(trials) == len(setting.shares)
    trials.clear()
    experiments.tuned_shares(setting, cells, sets, execution)
    assert {one.cell.seed for one in trials} == {1, 2}


def test_counts_of_the_seed_that_chooses_shares_are_those_of_all_arms(setting, execution, monkeypatch, target):
    made = {}

    def record(setting, target, seed, arms, execution):
        made[seed] = set(arms)
        return {}

    monkeypatch.setattr(experiments, "make_extra", record)
    monkeypatch.setattr(experiments, "tuned_shares", lambda *_: {})  # no share, no training
    cells = [Cell(target, arm, times=2, length=2, seed=1) for arm in ("templates", "tuned by LoRA, alone")]
    with pytest.raises(KeyError):
        experiments.run(replace(setting, tuned_with=(0,)), cells, execution)
    assert made == dict.fromkeys((0, 1), {"templates", "tuned by LoRA, alone"})


def test_preparing_embeds_the_pool_once(setting, execution, monkeypatch):
    prepare(setting, execution)
    assert len(pool_arms.open_index(setting)[0]) == 100
