"""What the diffusion classifier's pages measure and train: known answers in small worlds, and nothing done twice."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from tests.worlds import Gaussians, MortalCache
from zsclib import datasets
from zsclib.images.image_set import ImageSet
from zsclib.models.generator import open_generator
from zsclib.papers.diffusion_classifier import classify, experiments, measurements, replays, winoground
from zsclib.papers.diffusion_classifier.ablations import Measure, repeated
from zsclib.papers.diffusion_classifier.error_matrix import (
    at_columns,
    blocks,
    crowded,
    exhaustive,
    near,
    nested,
    nested_stages,
    prediction,
    subgrids,
)
from zsclib.papers.diffusion_classifier.experiments import COMPETENT, PAPER
from zsclib.papers.diffusion_classifier.measurements import POOLED, Target
from zsclib.papers.diffusion_classifier.sequential import sequential
from zsclib.prompts import Prompts
from zsclib.sampling import Guidance
from zsclib.workers import Execution

PROMPTS = Prompts("a {}", ("a {}", "the {}"), ("cat", "dog"), about="two animals", base="a {}")


def coloured(n: int, classes: tuple[str, ...] = ("cat", "dog"), size: int = 16, seed: int = 0) -> ImageSet:
    """Dark images of the first class and light ones of the second."""
    labels = np.arange(n) % 2
    noise = np.random.default_rng(seed).integers(0, 60, (n, size, size, 3))
    return ImageSet((60 + 110 * labels[:, None, None, None] + noise).astype(np.uint8), labels, classes)


def target(name: str, images: ImageSet) -> Target:
    prompts = tuple(f"a {c}" for c in images.classes)
    return Target(
        name=name, images=images.images, labels=images.labels, classes=images.classes, prompts=prompts
    )


@pytest.fixture
def execution(tmp_path) -> Execution:
    return Execution(batch=16, cache=MortalCache(tmp_path / "cache"))


@pytest.fixture
def animals(monkeypatch) -> dict[str, Target]:
    """Two targets of one source, and a place where `datasets` and `prompts` would be."""
    monkeypatch.setattr(experiments, "load_prompts", lambda name: PROMPTS)
    monkeypatch.setattr(experiments, "SOURCE", {"animals-shift": "animals"})
    monkeypatch.setattr(datasets, "load", lambda name, split, n=None, **_: coloured(n, seed=1))
    return {name: target(name, coloured(6, seed=2)) for name in ("animals", "animals-shift")}


@pytest.fixture(scope="module")
def gaussians() -> tuple[Gaussians, dict[str, Target]]:
    world = Gaussians()
    targets = {}
    for name, n, seed in (("a", 12, 0), ("b", 9, 1)):
        images, labels = world.sample(n, seed)
        classes = tuple(f"class {c}" for c in range(6))
        targets[name] = Target(name=name, images=images, labels=labels, classes=classes, prompts=classes)
    return world, targets


# --- targets --------------------------------------------------------------------------------------


def test_a_target_is_a_set_with_one_prompt_per_class():
    objects = measurements.load_target("objects", 20)
    assert (len(objects), len(objects.classes), objects.images.shape[1:]) == (20, 10, (32, 32, 3))
    assert objects.prompts[0] == measurements.load_target("objects", 2).prompts[0]
    assert (
        objects.correct(objects.labels).all()
        and objects.correct(objects.labels[:3] + 1).tolist() == [False] * 3
    )
    assert objects.by_class_name().prompts == objects.classes
    assert measurements.load_target("objects", 2, template="my {}").prompts[0].startswith("my ")
    held_out = measurements.load_target("objects", 20, split="validation")
    assert not (held_out.images == objects.images).all((1, 2, 3)).any()
    np.testing.assert_array_equal(objects.first(5).images, measurements.load_target("objects", 5).images)


def test_names_for_records_and_pages_hold_no_path():
    own = replace(target("x", coloured(2)), name="folder:/home/me/My Pets")
    assert (own.short_name, own.title) == ("my_pets", "my-pets")


# --- matrices -------------------------------------------------------------------------------------


def test_matrices_are_those_of_the_classifier_and_resume(gaussians, execution):
    world, targets = gaussians
    measures = [Measure(), Measure("l1")]
    by_measure = measurements.measure(world, targets, 9, exhaustive(4, 100), measures, execution)
    made = world.evaluations
    again = measurements.measure(world, targets, 9, exhaustive(4, 100), measures, execution)
    assert world.evaluations == made
    for name, one in targets.items():
        alone = classify(world, one.images[:9], one.prompts, exhaustive(4, 100), execution=execution)
        np.testing.assert_array_equal(by_measure[Measure()][name], alone.errors)
        np.testing.assert_array_equal(again[Measure("l1")][name], by_measure[Measure("l1")][name])
    correct = measurements.correct(by_measure[Measure()], targets)
    assert correct["a"].tolist() == (alone_prediction(by_measure, "a") == targets["a"].labels[:9]).tolist()


def alone_prediction(by_measure, name):
    return by_measure[Measure()][name].mean(2).argmin(1)


def test_frequency_is_the_mean_over_grids_known_by_hand():
    errors = np.ones((3, 2, 4), np.float32)
    errors[:, 0] = [[0, 0, 9, 9], [0, 0, 0, 0], [9, 9, 9, 9]]  # class 0 is correct at these timesteps
    one = {"a": replace(target("a", coloured(3)), labels=np.zeros(3, np.int64))}
    frequency = measurements.frequency({"a": errors}, one, [[0, 1], [2, 3]])["a"]
    assert frequency.tolist() == [0.5, 1.0, 0.0]
    assert measurements.at({"a": errors}, 2)["a"].shape == measurements.at({"a": errors}, [3, 0])["a"].shape


def test_among_the_best_classes_of_another_model_the_others_are_left_out():
    errors = {"a": np.array([[[3.0], [1.0], [2.0], [0.0]]], np.float32)}
    scores = {"a": np.array([[5.0, 4.0, 3.0, 0.0]])}
    assert np.isnan(measurements.among_best(errors, scores)["a"][0, :, 0]).tolist() == [
        False,
        False,
        True,
        True,
    ]
    assert prediction(measurements.among_best(errors, scores)["a"]).tolist() == [1]
    assert prediction(measurements.among_best(errors, scores, 1)["a"]).tolist() == [0]
    assert prediction(measurements.among_best(errors, scores, 4)["a"]).tolist() == [3]


def test_the_example_is_the_image_of_median_margin_under_its_two_best_prompts(gaussians):
    world, targets = gaussians
    one = targets["a"]
    errors = measurements.measure(world, {"a": one}, 12, exhaustive(8, 100))[Measure()]["a"]
    example = measurements.median_example(world, one, errors, 3, 5, Execution())
    assert example.errors.shape == (2, 3, 5) and example.t.tolist() == list(repeated(5, 3, 100).t[:5])
    mean = errors.mean(2)
    own = mean[np.arange(12), one.labels]
    rival = np.where(np.arange(6) == one.labels[:, None], np.inf, mean)
    margins = rival.min(1) - own
    i = int(np.argsort(margins)[6])
    np.testing.assert_array_equal(example.image, one.images[i])
    assert example.prompts == (one.prompts[one.labels[i]], one.prompts[rival[i].argmin()])


# --- few of many timesteps ------------------------------------------------------------------------


def test_exhaustive_timesteps_stand_amid_equal_parts():
    assert exhaustive(4).t == (125, 375, 625, 875)
    assert exhaustive(3, 10).t == (1, 5, 8)
    assert exhaustive(1000).t == tuple(range(1000))
    assert (exhaustive(7).until, exhaustive(7).keep) == ((7,), (1,))


@pytest.mark.parametrize("K, k", [(128, 4), (16, 8), (16, 16), (32, 5), (7, 3), (10, 1)])
@pytest.mark.parametrize("schedule", [nested, exhaustive])
def test_subgrids_are_disjoint_and_each_is_even(schedule, K, k):
    t = np.array(schedule(K).t)
    grids = subgrids(t, k)
    assert len(grids) == K // k and {len(grid) for grid in grids} == {k}
    together = np.concatenate(grids)
    assert len(set(together.tolist())) == k * (K // k)
    for grid in grids:
        steps = np.diff(t[grid])
        assert (steps > 0).all() and (k == 1 or steps.max() - steps.min() <= 2 * 1000 / K + 2)
    if k * (K // k) == K:
        assert sorted(together) == list(range(K))


def test_subgrids_known_by_hand():
    assert [grid.tolist() for grid in subgrids((500, 250, 750, 125), 2)] == [[3, 0], [1, 2]]
    assert [grid.tolist() for grid in subgrids((10, 20, 30), 1)] == [[0], [1], [2]]
    for k in (0, 4):
        with pytest.raises(ValueError, match="from 1 to 3"):
            subgrids((10, 20, 30), k)


def test_timesteps_near_one_in_the_middle_and_repeated_known_by_hand():
    t = exhaustive(16).t  # 31, 93, ..., 468, 531, ..., 906, 968
    assert [t[k] for (k,) in near(t, 500)] == [468, 531]
    assert [t[k] for (k,) in near(t, 50)] == [31, 93]
    assert [t[k] for (k,) in near(t, 900)] == [906]
    assert [k.tolist() for k in near((100, 900), 450)] == [[0]]
    t = exhaustive(32).t
    assert sorted(t[k] for grid in crowded(t, 2) for k in grid) == [453, 484, 515, 546]
    assert [len(grid) for grid in crowded(t, 2)] == [2, 2] and [len(grid) for grid in crowded(t, 8)] == [8]
    assert [block.tolist() for block in blocks(8, 4)] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert at_columns(exhaustive(4), np.array([1, 3])).t == (375, 875)


def test_four_ways_to_spend_evaluations(gaussians):
    world, targets = gaussians
    even = measurements.measure(world, targets, 9, nested(16, 100))[Measure()]
    two, one = (measurements.measure(world, targets, 9, repeated(m, 8, 100))[Measure()] for m in (2, 1))
    t = nested(16, 100).t
    ways = measurements.ways_to_spend(even, two, one, targets, t, 100)
    assert {way: list(by_budget) for way, by_budget in ways.items()} == {
        "even": [1, 2, 4, 8, 16], "two timesteps": [2, 4, 8, 16], "one timestep": [1, 2, 4, 8], "crowded": [1, 2, 4],
    }  # fmt: skip
    alone = np.mean([even["a"][:, :, k].argmin(1) == targets["a"].labels[:9] for k in range(16)], axis=0)
    np.testing.assert_allclose(ways["even"][1]["a"], alone)


# --- elimination ----------------------------------------------------------------------------------


def test_a_replay_is_what_a_run_decides_at_the_cost_of_the_run(gaussians):
    world, targets = gaussians
    errors = measurements.measure(world, targets, 9, nested(16, 100))[Measure()]
    rule = sequential(16, 0.3, T=100)
    replayed = replays.replay(rule, errors, targets)
    for name, one in targets.items():
        run = classify(world, one.images[:9], one.prompts, rule)
        np.testing.assert_array_equal(replayed.correct[name], one.correct(run.prediction))
        np.testing.assert_allclose(replayed.share[name], run.evaluations / (6 * 16))
        assert replayed.same[name].dtype == bool
    assert replays.replay(nested(16, 100), errors, targets).mean_share() == 1


def test_fewer_timesteps_are_averaged_over_disjoint_grids(gaussians):
    world, targets = gaussians
    t = nested(16, 100).t
    errors = measurements.measure(world, targets, 9, nested(16, 100))[Measure()]
    few = replays.fewer_timesteps(errors, targets, t, 4)
    assert few.mean_share() == 0.25
    grids = subgrids(t, 4)
    by_hand = np.mean(
        [prediction(errors["a"][:, :, grid]) == targets["a"].labels[:9] for grid in grids], axis=0
    )
    np.testing.assert_allclose(few.correct["a"], by_hand)
    whole = replays.fewer_timesteps(errors, targets, t, 16)
    assert all(same.all() for same in whole.same.values())


def test_stages_and_timesteps_of_equal_cost_known_by_hand():
    ten = {"a": replace(target("a", coloured(2)), prompts=tuple("0123456789"))}
    assert replays.paper_stages(100, ten) == nested_stages([10, 100], [5, 1])
    # of 10 x 100 evaluations, stages up to k take 10 k / 10 + 5 (k - k / 10) = 5.5 k
    assert replays.stages_of_equal_cost(0.275, 100, ten) == 50
    assert replays.stages_of_equal_cost(1.0, 100, ten) == 100
    assert replays.timesteps_of_equal_cost(0.25, 128) == 32
    assert replays.timesteps_of_equal_cost(0.2501, 128) == 33


def test_a_timed_run_makes_its_evaluations_and_decides_as_replayed(gaussians, execution):
    world, targets = gaussians
    one = targets["a"].first(5)
    errors = measurements.measure(world, {"a": one}, 5, nested(16, 100), execution=execution)[Measure()]["a"]
    for _ in range(2):
        before = world.evaluations
        timed = replays.timed(world, one, sequential(16, T=100), errors, execution)
        assert timed.evaluations == timed.replayed and timed.same == 5 and timed.seconds > 0
        assert world.evaluations > before  # never from the cache


# --- arms that are classified anew ----------------------------------------------------------------


def test_templates_are_classified_alone_and_pooled(gaussians, monkeypatch):
    world, targets = gaussians
    texts = Prompts(
        "class {}", ("the class {}", "class {}"), tuple("012345"), about="clouds", base="class {}"
    )
    monkeypatch.setattr(measurements, "load_prompts", lambda name: texts)
    monkeypatch.setattr(Gaussians, "encode_prompts", twice_as_far(Gaussians.encode_prompts))
    by_template = measurements.correct_by_template(world, targets["a"], 8, "l2", Execution())
    assert list(by_template) == ["class {}", "the class {}", POOLED]
    pooled = classify(
        world, targets["a"].images, [[f"class {c}", f"the class {c}"] for c in range(6)], exhaustive(8, 100)
    )
    np.testing.assert_array_equal(by_template[POOLED], targets["a"].correct(pooled.prediction))
    assert by_template["class {}"].mean() > by_template["the class {}"].mean()


def twice_as_far(encode):
    """A template that begins with "the" names a class beside the one it should."""

    def wrong(self, prompts):
        turned = [f"class {(int(p[-1]) + 1) % 6}" if p.startswith("the") else p for p in prompts]
        condition = encode(self, turned)
        shift = torch.tensor([1e-3 * p.startswith("the") for p in prompts])
        condition.embeddings[:] += shift[:, None, None]
        return condition

    return wrong


def test_validation_images_have_noise_of_their_own(gaussians, monkeypatch):
    world, targets = gaussians
    monkeypatch.setattr(measurements, "load_target", lambda name, n, size, split: targets[name].first(n))
    one, result = measurements.on_validation(world, "a", 4, exhaustive(4, 100), "l2", Execution())
    test = classify(world, one.images, one.prompts, exhaustive(4, 100))
    assert len(one) == 4 and np.abs(result.errors - test.errors).min() > 0


def test_pairs_are_solved_by_three_arms(monkeypatch):
    s, u = np.array([[[2.0, 1.9], [1.0, 2.0]]]), np.array([[0.0, 1.0]])
    monkeypatch.setattr(winoground, "pair_errors", lambda *_, **__: (-s[..., None], -u[..., None]))
    monkeypatch.setattr(winoground, "clip_pair_scores", lambda *_: -s)
    arms = measurements.winoground_arms(None, None, None, exhaustive(1), "l2", Execution())
    assert list(arms) == ["diffusion", "diffusion, raw errors", "CLIP"]
    assert [arm["text"].tolist() for arm in arms.values()] == [[True], [True], [False]]
    assert [arm["image"].tolist() for arm in arms.values()] == [[False], [True], [False]]


# --- what is trained ------------------------------------------------------------------------------


def test_a_shifted_set_is_learned_from_its_source():
    assert experiments.sources(["objects", "objects-shift", "digits"]) == {
        "objects": ["objects", "objects-shift"],
        "digits": ["digits"],
    }
    assert experiments.sources(["objects-shift"]) == {"objects": ["objects-shift"]}
    assert [experiments.training_size(400, C) for C in (8, 20, 40)] == [400, 400, 800]


def test_generated_sets_differ_in_guidance_alone(folders, animals, execution):
    generator = open_generator(folders["stable_diffusion_1"])
    sets = experiments.generated_sets(generator, animals, 4, 1, execution)
    assert list(sets) == [(PAPER, "animals"), (COMPETENT, "animals")]
    paper, competent = (sets[arm, "animals"] for arm in (PAPER, COMPETENT))
    assert paper.manifest.guidance.tolist() == [7.5] * 4
    scales = [Guidance(1, 5).draw(0, "drawing", i) for i in range(4)]
    assert competent.manifest.guidance.tolist() == scales
    same = ["prompt", "seed"]
    pd.testing.assert_frame_equal(paper.manifest[same], competent.manifest[same])
    assert (paper.images != competent.images).any()
    assert experiments.generated_sets(generator, animals, 0, 1, execution) == {}


def test_networks_learn_from_generated_sets_once(animals, execution, monkeypatch):
    generated = {(arm, "animals"): coloured(40, size=16, seed=3) for arm in (PAPER, COMPETENT)}
    recipes = []
    train = experiments.train
    monkeypatch.setattr(
        experiments,
        "_scores_of_network",
        counting(experiments._scores_of_network, recipes),
    )
    scores = experiments.networks_on_generated(generated, animals, 1280, execution)
    assert set(scores) == {(arm, name) for arm in (PAPER, COMPETENT) for name in animals}
    assert [(recipe.batch, recipe.steps, recipe.flip) for recipe in recipes] == [
        (256, 5, True),
        (64, 20, True),
    ]
    assert animals["animals"].correct(scores[COMPETENT, "animals"].argmax(1)).mean() > 0.8  # dark from light
    again = experiments.networks_on_generated(generated, animals, 1280, execution)
    assert len(recipes) == 2  # all from the cache
    for name, values in scores.items():
        np.testing.assert_array_equal(again[name], values)
    experiments.networks_on_generated(generated, animals, 2560, execution)
    assert len(recipes) == 4 and train is experiments.train


def counting(function, recipes):
    def counted(images, recipe, *rest):
        recipes.append(recipe)
        return function(images, recipe, *rest)

    return counted


def test_digits_are_never_mirrored(animals, execution, monkeypatch):
    recipes = []
    monkeypatch.setattr(
        experiments, "_scores_of_network", lambda *a: recipes.append(a[1]) or {"digits": np.ones(1)}
    )
    digits = {"digits": animals["animals"]}
    experiments.networks_on_generated({(COMPETENT, "digits"): coloured(8)}, digits, 64, execution)
    assert not recipes[0].flip


def test_heads_learn_from_the_train_split_of_a_source(folders, animals, execution):
    generator = open_generator(folders["stable_diffusion_1"])
    scores = experiments.heads_on_features(generator, animals, 20, 320, execution)
    assert {name: values.shape for name, values in scores.items()} == dict.fromkeys(animals, (6, 2))
    count = len(execution.cache)
    experiments.heads_on_features(generator, animals, 20, 320, execution)
    assert len(execution.cache) == count == 1
    assert experiments.heads_on_features(generator, animals, 0, 320, execution) == {}


@pytest.fixture
def dit_folder(tmp_path):
    facts = {"name": "objects", "n": 60, "held_out": 20, "seed": 3}
    (tmp_path / "training.json").write_text(json.dumps({"dit": {"facts": {"set": facts}}}))
    return str(tmp_path)


def test_networks_beside_the_dit_learn_from_its_very_images(dit_folder, execution):
    images, held_out = experiments.dit_training_images(dit_folder)
    assert (len(images), len(held_out)) == (40, 20)
    same = datasets.load("objects", "train", 60, 3)
    np.testing.assert_array_equal(np.concatenate([images.images, held_out.images]), same.images)
    assert [len(part) for part in experiments.dit_training_images(dit_folder, 10)] == [10, 20]
    tests = {"objects": measurements.load_target("objects", 10)}
    scores = experiments.networks_beside_dit(dit_folder, {"resnet18": 5}, tests, 20, execution)
    assert scores["resnet18", "objects"].shape == (10, 10)
    assert scores["resnet18", "validation"].shape == (5,)
    count = len(execution.cache)
    again = experiments.networks_beside_dit(dit_folder, {"resnet18": 5}, tests, 20, execution)
    assert len(execution.cache) == count
    np.testing.assert_array_equal(again["resnet18", "objects"], scores["resnet18", "objects"])
    assert experiments.networks_beside_dit(dit_folder, {"resnet18": 5}, {}, 20, execution) == {}
