"""The Diffusion Classifier: its schedules, its rules, and what must never change a result."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.worlds import Gaussians, MortalCache
from zsclib.models.generator import open_generator
from zsclib.papers.diffusion_classifier import DiffusionClassifier, classify, engine
from zsclib.papers.diffusion_classifier.ablations import best_classes
from zsclib.papers.diffusion_classifier.classifier import result_of
from zsclib.papers.diffusion_classifier.engine import errors
from zsclib.papers.diffusion_classifier.error_matrix import (
    as_staged,
    evaluations,
    exhaustive,
    fit_temperature,
    nested_stages,
    nested_timesteps,
    posterior,
    prediction,
    reference_stages,
    scores_from_errors,
    staged_prediction,
)
from zsclib.papers.diffusion_classifier.method import noise
from zsclib.prompts import fill
from zsclib.workers import Execution, Workers

PROMPTS = fill("a photo of a {}", ["cat", "dog", "fish", "car", "7"])
STAGES = nested_stages((2, 4, 9), (3, 2, 1))


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).integers(0, 256, (7, 16, 16, 3), dtype=np.uint8)


# --- schedules ------------------------------------------------------------------------------------


@pytest.mark.parametrize("T", [1, 2, 10, 100, 1000, 1024])
def test_timesteps_never_repeat_and_prefixes_are_even(T):
    t = nested_timesteps(T, T)
    assert sorted(t) == list(range(T))
    for K in range(1, T + 1, max(1, T // 60)):
        np.testing.assert_array_equal(nested_timesteps(K, T), t[:K])
        # the share of the prefix below any t is near its share of the range
        below = np.searchsorted(np.sort(t[:K]), np.arange(T + 1)) / K
        assert np.abs(below - np.arange(T + 1) / T).max() <= (2 + np.log2(K)) / K


def test_first_timesteps():
    assert nested_timesteps(7).tolist() == [500, 250, 750, 125, 625, 375, 875]


@pytest.mark.parametrize(
    ("classes", "n_samples", "to_keep", "reference", "paper"),
    [  # what the authors' code evaluates per image, and what its stages would take if they nested
        (101, (20, 50, 100, 500), (20, 10, 5, 1), 5_570, 5_120),  # Food-101
        (10, (50, 500), (5, 1), 2_750, 2_750),  # CIFAR-10
        (100, (20, 50, 100, 500), (20, 10, 5, 1), 5_550, 5_100),  # FGVC Aircraft
        (
            37,
            (25, 250),
            (5, 1),
            2_050,
            2_050,
        ),  # Oxford Pets (the paper's table says 1,890, its algorithm 2,050)
        (102, (20, 50, 100, 500), (20, 10, 5, 1), 5_590, 5_140),  # Flowers-102
        (10, (100, 500), (5, 1), 3_000, 3_000),  # STL-10
        (1000, (50, 100, 500, 1000), (500, 50, 10, 1), 124_500, 100_000),  # ImageNet
        (113, (50, 100, 500, 1000), (25, 10, 5, 1), 14_400, 13_400),  # ObjectNet
    ],
)
def test_evaluations_per_image(classes, n_samples, to_keep, reference, paper):
    assert reference_stages(n_samples, to_keep).evaluations(classes) == reference
    assert nested_stages(n_samples, to_keep).evaluations(classes) == paper
    assert exhaustive(n_samples[-1]).evaluations(classes) == classes * n_samples[-1]


def test_reference_grids():
    schedule = reference_stages((20, 50, 100, 500), (20, 10, 5, 1))
    assert schedule.until == (20, 70, 150, 500)
    assert schedule.t[:20] == tuple(range(25, 1000, 50))
    assert schedule.t[20:70] == tuple(range(11, 1000, 20))
    assert sorted(schedule.t) == list(range(1, 1000, 2))
    assert reference_stages((50, 100, 500, 1000), (500, 50, 10, 1)).until == (50, 150, 550, 1000)
    assert (
        max(reference_stages((300,), (1,)).t) == 898
    )  # does not divide 1000: the range is cut, as in the original


@pytest.mark.parametrize("stages", [nested_stages, reference_stages])
@pytest.mark.parametrize(
    ("n_samples", "to_keep", "message"),
    [
        ((), (), "one number per stage"),
        ((10, 20), (1,), "one number per stage"),
        ((10, 20), (5, 2), "end in 1"),
        ((10, 20), (1, 5), "end in 1"),
        ((20, 10), (5, 1), "must rise"),
        ((10, 1001), (5, 1), "must rise"),
        ((0, 10), (5, 1), "must rise"),
    ],
)
def test_impossible_stages(stages, n_samples, to_keep, message):
    with pytest.raises(ValueError, match=message):
        stages(n_samples, to_keep)


@pytest.mark.parametrize("K", [0, -1, 1001])
def test_impossible_number_of_timesteps(K):
    with pytest.raises(ValueError, match="from 1 to 1000"):
        exhaustive(K)


# --- rules over the matrix ------------------------------------------------------------------------


def test_rules_on_a_matrix_known_by_hand():
    E = np.array([[[4, 2, 6], [1, 2, 3], [3, 3, 6]]], np.float32)
    assert prediction(E).tolist() == [1]
    np.testing.assert_allclose(scores_from_errors(E), [[-4, -2, -4]])
    assert evaluations(E, np.array([1, 2, 1])).tolist() == [12]


def test_elimination_known_by_hand():
    E = np.array([[[4, 0, 0], [1, 2, 3], [3, 3, 6]]], np.float32)  # class 0 starts badly and would have won
    schedule = nested_stages((1, 3), (2, 1))
    assert prediction(E).tolist() == [0]
    chosen, cost = staged_prediction(E, schedule)
    assert (chosen.tolist(), cost.tolist()) == ([1], [3 + 2 * 2])
    staged = as_staged(E, schedule)
    assert np.isnan(staged[0]).tolist() == [[False, True, True], [False] * 3, [False] * 3]
    # class 0 is judged by the one timestep it shares: 3 worse than class 1, whose mean is 2
    np.testing.assert_allclose(scores_from_errors(staged), [[-5, -2, -4]])


def test_highest_score_is_the_prediction():
    E = np.random.default_rng(0).random((200, 8, 9)).astype(np.float32)
    for schedule in (STAGES, exhaustive(9), nested_stages((1, 9), (4, 1)), nested_stages((3, 5), (8, 1))):
        staged = as_staged(E, schedule)
        np.testing.assert_array_equal(scores_from_errors(staged).argmax(1), prediction(staged))
        assert (evaluations(staged) == schedule.evaluations(8)).all()
    np.testing.assert_allclose(scores_from_errors(E), -E.mean(2), rtol=1e-6)


def test_keeping_more_classes_than_there_are_changes_nothing():
    E = np.random.default_rng(0).random((20, 4, 9)).astype(np.float32)
    chosen, cost = staged_prediction(E, nested_stages((2, 9), (10, 1)))
    np.testing.assert_array_equal(chosen, E.mean(2).argmin(1))
    assert (cost == 36).all()


def test_matrix_too_short_for_the_schedule():
    with pytest.raises(ValueError, match="9 timesteps, the errors only 5"):
        as_staged(np.zeros((1, 3, 5), np.float32), STAGES)


# --- a world in which the right answer is known ---------------------------------------------------


@pytest.mark.parametrize("schedule", [exhaustive(64, 100), nested_stages((16, 32, 64), (4, 2, 1), 100)])
def test_agrees_with_bayes(schedule):
    world = Gaussians()
    images, labels = world.sample(120)
    result = classify(world, images, fill("class {}", list("012345")), schedule)
    assert (result.prediction == world.bayes(images)).mean() >= 0.95
    assert (result.prediction == labels).mean() >= 0.9
    assert world.evaluations == result.evaluations.sum() == 120 * schedule.evaluations(6)


def test_errors_are_what_theory_says():
    """Given z, E over eps of |eps_hat - eps|^2 has a closed form; the mean over many eps is close."""
    world = Gaussians()
    images, _ = world.sample(1)
    z = world.encode_images(images)
    t = torch.tensor([50])
    a, s = world.signal_and_noise(t)
    gain = s / (a**2 * world.width**2 + s**2)
    expected = (gain * a * (z - world.means[2])).square().mean() + ((gain * s - 1) ** 2).mean()
    m = 4000
    eps = torch.stack([noise(0, 0, k, z.shape[1:]) for k in range(m)])
    condition = world.encode_prompts(["class 2"]).take(torch.zeros(m, dtype=torch.int64))
    computed = errors(world, z.expand(m, -1, -1, -1), condition, t.expand(m), eps)
    assert computed.mean().item() == pytest.approx(expected.item(), abs=4 * computed.std().item() / m**0.5)
    assert computed.std() > 0


def test_losses():
    world = Gaussians()
    z, eps = torch.zeros(1, 3, 4, 4), torch.full((1, 3, 4, 4), 3.0)
    world.predict_noise = lambda *_, **__: torch.full((1, 3, 4, 4), 0.5)
    by_loss = {
        loss: errors(world, z, None, torch.tensor([1]), eps, loss).item() for loss in ("l2", "l1", "huber")
    }
    assert by_loss == {"l2": 6.25, "l1": 2.5, "huber": 2.0}


def test_prompts_of_a_class_are_averaged():
    world = Gaussians()
    images, _ = world.sample(12)
    alone = classify(world, images, fill("class {}", list("0123")), exhaustive(8, 100))
    pooled = classify(world, images, [["class 0", "class 1"], "class 2", ["class 3"]], exhaustive(8, 100))
    np.testing.assert_allclose(pooled.errors[:, 0], alone.errors[:, :2].mean(1), rtol=1e-5)
    np.testing.assert_array_equal(pooled.errors[:, 1:], alone.errors[:, 2:])
    assert (pooled.evaluations == 4 * 8).all()
    staged = classify(world, images, [["class 0", "class 1"], "class 2"], nested_stages((4, 8), (1, 1), 100))
    two = staged.prediction == 0
    assert (staged.evaluations == np.where(two, 3 * 4 + 2 * 4, 3 * 4 + 4)).all()
    assert two.any()
    assert not two.all()


def test_every_class_meets_the_noise_of_its_image_and_number():
    world = Gaussians()
    images, _ = world.sample(3)
    z, noisy = world.encode_images(images), []
    predict = world.predict_noise

    def listen(z_t, t, condition, copies=None):
        z_t, t = z_t[copies], t[copies]
        noisy.extend(zip(z_t, t.tolist(), condition.embeddings.sum((1, 2)).tolist(), strict=True))
        return predict(z_t, t, condition)

    world.predict_noise = listen
    schedule = nested_stages((3, 7), (2, 1), 100)
    execution = Execution(seed=9, batch=10)
    classify(world, images, fill("class {}", list("0123")), schedule, keys=["a", "b", "c"], execution=execution)
    expected = {(i, k): noise(9, "abc"[i], k, z.shape[1:]) for i in range(3) for k in range(7)}
    counts = dict.fromkeys(expected, 0)
    for z_t, t, _ in noisy:
        k = schedule.t.index(t)
        a, s = world.signal_and_noise(torch.tensor([t]))
        near = [i for i in range(3) if torch.allclose((z_t - a[0] * z[i]) / s[0], expected[i, k], atol=1e-3)]
        assert len(near) == 1
        counts[near[0], k] += 1
    assert counts == {(i, k): 4 if k < 3 else 2 for i, k in expected}
    assert len({(t, c) for _, t, c in noisy}) > 7 * 2  # several classes, not one many times


def test_pairing_makes_decisions_less_noisy():
    """H8: shared noise cancels in the difference of two classes, so its error is smaller than unpaired."""
    world = Gaussians()
    images, _ = world.sample(30)
    result = classify(world, images, fill("class {}", list("012345")), exhaustive(64, 100))
    unpaired = np.sqrt(2 * result.errors.var(2, ddof=1).mean() / 64)
    best = np.take_along_axis(result.errors, result.prediction[:, None, None], axis=1)
    paired = (result.errors - best).std(2, ddof=1) / 8  # standard errors of mean differences, (n, C)
    assert (paired > 0).sum() == 30 * 5
    assert paired[paired > 0].mean() < 0.7 * unpaired


# --- invariances, on every layout of model --------------------------------------------------------


def test_batch_order_and_shard_change_nothing(generator, images):
    loss = {"epsilon": "l2", "v": "l1", "flow": "huber"}[generator.prediction]
    keys = [f"image {i}" for i in range(len(images))]
    whole = classify(generator, images, PROMPTS, STAGES, keys=keys, loss=loss)
    assert whole.errors.dtype == whole.scores.dtype == np.float32
    for batch, at_once in ((1, 3), (13, 1), (1000, 100)):
        execution = Execution(batch=batch, images_at_once=at_once)
        other = classify(generator, images, PROMPTS, STAGES, keys=keys, loss=loss, execution=execution)
        np.testing.assert_array_equal(other.prediction, whole.prediction)
        np.testing.assert_array_equal(np.isnan(other.errors), np.isnan(whole.errors))
        np.testing.assert_allclose(other.scores, whole.scores, atol=1e-5)
    for part in (np.array([4, 0, 6, 2]), np.array([5, 3, 1])):
        other = classify(generator, images[part], PROMPTS, STAGES, keys=[keys[i] for i in part], loss=loss)
        np.testing.assert_array_equal(other.prediction, whole.prediction[part])
        np.testing.assert_allclose(other.scores, whole.scores[part], atol=1e-5)


def test_order_of_classes_changes_nothing(generator, images):
    forward = classify(generator, images, PROMPTS, exhaustive(5))
    backward = classify(generator, images, PROMPTS[::-1], exhaustive(5))
    np.testing.assert_allclose(backward.errors[:, ::-1], forward.errors, atol=1e-5)
    np.testing.assert_array_equal(backward.prediction, len(PROMPTS) - 1 - forward.prediction)


@pytest.mark.parametrize("schedule", [STAGES, reference_stages((2, 5, 9), (3, 2, 1))])
def test_stages_are_derived_from_the_exhaustive_matrix(generator, images, schedule):
    everything = type(schedule)(schedule.t, (len(schedule.t),), (1,))
    full = classify(generator, images, PROMPTS, everything)
    staged = classify(generator, images, PROMPTS, schedule, execution=Execution(batch=17))
    derived = result_of(as_staged(full.errors, schedule), schedule.t)
    np.testing.assert_array_equal(np.isnan(staged.errors), np.isnan(derived.errors))
    np.testing.assert_allclose(staged.errors, derived.errors, atol=1e-5)
    np.testing.assert_array_equal(staged.prediction, derived.prediction)
    np.testing.assert_array_equal(staged.evaluations, derived.evaluations)
    assert (staged.evaluations == schedule.evaluations(len(PROMPTS))).all()
    assert full.timesteps.tolist() == list(schedule.t)
    assert not np.isnan(full.errors).any()


def test_noise_follows_seed_and_key(images, folders):
    generator = open_generator(folders["stable_diffusion_1"])
    twice = np.stack([images[0], images[0]])
    same = classify(generator, twice, PROMPTS, exhaustive(3), keys=["a", "a"])
    np.testing.assert_allclose(same.errors[0], same.errors[1], atol=1e-6)
    other = classify(generator, twice, PROMPTS, exhaustive(3), keys=["a", "b"])
    np.testing.assert_allclose(other.errors[0], same.errors[0], atol=1e-6)
    assert np.abs(other.errors[1] - same.errors[1]).min() > 1e-6
    reseeded = classify(generator, twice, PROMPTS, exhaustive(3), keys=["a", "a"], execution=Execution(seed=1))
    assert np.abs(reseeded.errors - same.errors).min() > 1e-6


def test_half_precision_finds_nearly_the_same(images, folders):
    results = [
        classify(
            open_generator(folders["stable_diffusion_1"], dtype=dtype), images, PROMPTS, exhaustive(4)
        ).errors
        for dtype in (torch.float32, torch.bfloat16)
    ]
    np.testing.assert_allclose(*results, rtol=0.02)
    assert not np.array_equal(*results)


def test_is_a_classifier(images, folders):
    generator = open_generator(folders["stable_diffusion_1"])
    options = {"loss": "l1", "execution": Execution(seed=3)}
    classifier = DiffusionClassifier(generator, PROMPTS, STAGES, **options)
    expected = classify(generator, images, PROMPTS, STAGES, **options)
    np.testing.assert_array_equal(classifier.scores(images), expected.scores)
    np.testing.assert_array_equal(expected.scores.argmax(1), expected.prediction)


# --- resuming -------------------------------------------------------------------------------------


def test_a_killed_run_goes_on(tmp_path):
    world = Gaussians()
    images, _ = world.sample(10)
    prompts, schedule = fill("class {}", list("012345")), nested_stages((4, 8), (3, 1), 100)
    expected = classify(world, images, prompts, schedule)
    whole, world.evaluations = world.evaluations, 0
    cache, progress = MortalCache(tmp_path, lives=2), []
    execution = Execution(images_at_once=3, cache=cache, progress=lambda *step: progress.append(step))
    with pytest.raises(KeyboardInterrupt):
        classify(world, images, prompts, schedule, execution=execution)
    assert len(cache) == 2
    assert progress == [("images", 0, 10), ("images", 3, 10), ("images", 6, 10)]
    cache.lives, world.evaluations = 10**9, 0
    progress.clear()
    resumed = classify(world, images, prompts, schedule, execution=execution)
    assert world.evaluations == whole * 4 // 10  # six images were in the cache
    assert progress == [("images", 6, 10), ("images", 9, 10), ("images", 10, 10)]
    np.testing.assert_array_equal(resumed.prediction, expected.prediction)
    np.testing.assert_allclose(resumed.scores, expected.scores, atol=1e-6)
    np.testing.assert_array_equal(resumed.errors, expected.errors)


def test_nothing_else_is_taken_for_a_finished_part(tmp_path):
    world, cache = Gaussians(), MortalCache(tmp_path)
    images, _ = world.sample(4)
    prompts, schedule = ["class 0", "class 1"], exhaustive(3, 100)
    request = {"images": images, "prompts": prompts, "schedule": schedule, "execution": Execution(cache=cache)}
    first = classify(world, **request)
    world.evaluations, progress = 0, []
    execution = Execution(cache=cache, batch=3, progress=lambda *step: progress.append(step))
    again = classify(world, **request | {"execution": execution})
    assert world.evaluations == 0
    assert progress == [("images", 4, 4)]
    np.testing.assert_array_equal(again.errors, first.errors)
    changes = (
        {"images": images[::-1].copy()},
        {"prompts": ["class 0", "class 2"]},
        {"prompts": [["class 0", "class 1"], "class 2"]},
        {"schedule": exhaustive(4, 100)},
        {"execution": Execution(seed=1, cache=cache)},
        {"loss": "l1"},
        {"keys": list("abcd")},
        {"keys": list("0123")},
        {"candidates": np.array([[True, True]] * 3 + [[True, False]])},
    )
    for number, change in enumerate(changes, 2):
        classify(world, **request | change)
        assert len(cache) == number
    world.fingerprint = lambda: "another model"
    classify(world, **request)
    assert len(cache) == len(changes) + 2


def test_processes_compute_the_same_and_what_they_finish_is_cached(images, folders, tmp_path):
    """Two processes open the model's folder by themselves; a generator that knows no folder travels whole."""
    generator, world = open_generator(folders["stable_diffusion_1"]), Gaussians()
    here = classify(generator, images, PROMPTS, STAGES, loss="l1")
    samples, _ = world.sample(5)
    digits = fill("class {}", list("012345"))
    there = classify(world, samples, digits, exhaustive(4, 100))
    evaluations, cache, progress = world.evaluations, MortalCache(tmp_path), []
    with Workers(2) as workers:
        execution = Execution(
            images_at_once=2, batch=11, cache=cache, workers=workers, progress=lambda *step: progress.append(step)
        )
        other = classify(generator, images, PROMPTS, STAGES, loss="l1", execution=execution)
        np.testing.assert_allclose(
            classify(world, samples, digits, exhaustive(4, 100), execution=execution).errors, there.errors, rtol=1e-5
        )
    np.testing.assert_array_equal(other.prediction, here.prediction)
    np.testing.assert_array_equal(np.isnan(other.errors), np.isnan(here.errors))
    np.testing.assert_allclose(other.errors, here.errors, rtol=1e-4)
    assert world.evaluations == evaluations  # none of it here
    assert len(cache) == 4 + 3
    assert progress[0] == ("images", 0, 7) and ("images", 7, 7) in progress
    again = classify(
        generator, images, PROMPTS, STAGES, loss="l1", execution=Execution(images_at_once=2, cache=cache)
    )
    np.testing.assert_array_equal(again.errors, other.errors)


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompts": []}, "for each class"),
        ({"prompts": "class 0"}, "for each class"),
        ({"prompts": ["class 0", " "]}, "some text"),
        ({"prompts": ["class 0", []]}, "needs a prompt"),
        ({"prompts": ["class 0", "class 1", "class 0"]}, r"repeated: \['class 0'\]"),
        ({"prompts": [["class 0", "class 1"], ["class 1"]]}, r"repeated: \['class 1'\]"),
        ({"prompts": ["class 0", "the same class 0"]}, "cannot tell"),
        ({"keys": [1, 2]}, "4 and 2 keys"),
        ({"images": np.zeros((0, 4, 4, 3), np.uint8)}, "needs images"),
        ({"images": np.zeros((4, 4, 4, 3))}, "uint8"),
        ({"loss": "l3"}, "l2, l1, huber"),
        ({"schedule": exhaustive(10)}, "this model stops at 99"),
    ],
)
def test_bad_input_is_refused_before_any_work(change, message):
    world = Gaussians()
    images, _ = world.sample(4)
    request = {"images": images, "prompts": ["class 0", "class 1"], "schedule": exhaustive(3, 100)}
    with pytest.raises(ValueError, match=message):
        classify(world, **request | change)
    assert world.evaluations == 0


@pytest.mark.parametrize("name", ["batch", "images_at_once"])
def test_nothing_at_once_is_refused(name):
    for number in (0, -1, 2.5, True):
        with pytest.raises(ValueError, match=f"{name} must be 1 or more"):
            Execution(**{name: number})


def test_broken_latents_name_the_image():
    world = Gaussians()
    images, _ = world.sample(4)
    encode = world.encode_images

    def encode_badly(images):
        z = encode(images)
        z[2] = torch.nan
        return z

    world.encode_images = encode_badly
    with pytest.raises(ValueError, match="image 'c'"):
        classify(world, images, ["class 0", "class 1"], exhaustive(3, 100), keys=list("abcd"))


def test_parts_before_a_broken_image_are_cached_and_a_rerun_goes_on(tmp_path):
    world, cache = Gaussians(), MortalCache(tmp_path)
    images, _ = world.sample(6)
    encode = world.encode_images
    world.encode_images = lambda images: encode(images) * (torch.nan if (images == images[0]).all() else 1)
    broken = images.copy()
    broken[4:] = 0
    request = {
        "prompts": ["class 0", "class 1"],
        "schedule": exhaustive(3, 100),
        "execution": Execution(cache=cache, images_at_once=2),
    }
    with pytest.raises(ValueError, match="image 4"):
        classify(world, broken, **request)
    assert len(cache) == 2
    world.evaluations = 0
    classify(world, images, **request)
    assert world.evaluations == 2 * 2 * 3


def test_more_classes_than_fit_are_refused_before_any_work(monkeypatch):
    world = Gaussians()
    images, _ = world.sample(4)
    monkeypatch.setattr(engine, "memory", lambda: 200)
    with pytest.raises(ValueError, match="4 images, 6 classes and 5 "):
        classify(world, images, fill("class {}", list("012345")), exhaustive(5, 100))
    assert world.evaluations == 0


def test_an_image_is_compared_with_its_candidates_alone():
    world = Gaussians()
    images, _ = world.sample(12)
    prompts, schedule = fill("class {}", list("012345")), exhaustive(8, 100)
    everything = classify(world, images, prompts, schedule)
    world.evaluations = 0
    candidates = best_classes(-np.abs(np.arange(6.0)[None] - np.arange(12)[:, None] % 6), 3)
    filtered = classify(world, images, prompts, schedule, candidates=candidates)
    assert candidates.sum(1).tolist() == [3] * 12
    assert (filtered.evaluations == 3 * 8).all()
    assert world.evaluations == 12 * 3 * 8
    np.testing.assert_allclose(
        filtered.errors, np.where(candidates[:, :, None], everything.errors, np.nan), rtol=1e-5
    )
    np.testing.assert_array_equal(
        filtered.prediction, prediction(as_staged(everything.errors, schedule, candidates))
    )
    assert (filtered.scores[~candidates] == -np.inf).all()
    np.testing.assert_array_equal(filtered.scores.argmax(1), filtered.prediction)
    assert (posterior(filtered.scores, 8)[~candidates] == 0).all()
    for wrong in (candidates[:3], candidates.astype(int), np.zeros((12, 6), bool)):
        with pytest.raises(ValueError, match="candidate"):
            classify(world, images, prompts, schedule, candidates=wrong)


# --- posterior ------------------------------------------------------------------------------------


def test_posterior_is_bayes_rule_at_the_fitted_temperature():
    random = np.random.default_rng(0)
    scores = random.normal(size=(4000, 5))
    true = np.exp(20 * scores / 7) / np.exp(20 * scores / 7).sum(1, keepdims=True)
    labels = (true.cumsum(1) > random.random((4000, 1))).argmax(1)
    temperature = fit_temperature(scores, labels, 20)
    assert temperature == pytest.approx(7, rel=0.1)
    p = posterior(scores, 20, temperature)
    np.testing.assert_allclose(p.sum(1), 1)
    np.testing.assert_array_equal(p.argmax(1), scores.argmax(1))
    np.testing.assert_allclose(posterior(scores, 20, 7.0), true)
    assert fit_temperature(scores * 1e-5, labels, 20) == pytest.approx(temperature * 1e-5, rel=1e-3)
    for wrong in ({"K": 0}, {"K": 5, "temperature": 0.0}):
        with pytest.raises(ValueError, match="posterior"):
            posterior(scores, **wrong)
