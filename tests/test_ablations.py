"""What the Diffusion Classifier is made of: measures, noises, weights and timesteps with known answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from tests.worlds import Gaussians, MortalCache
from zsclib.papers.diffusion_classifier import classify
from zsclib.papers.diffusion_classifier.ablations import (
    NOISES,
    Measure,
    best_classes,
    pairing_gain,
    repeated,
    truncated,
    variational_weights,
    weighted,
)
from zsclib.papers.diffusion_classifier.engine import error_matrices
from zsclib.papers.diffusion_classifier.error_matrix import exhaustive, nested_stages, prediction
from zsclib.papers.diffusion_classifier.method import noise
from zsclib.prompts import fill
from zsclib.workers import Execution

PROMPTS = fill("class {}", list("0123"))
MEASURES = [Measure(), Measure("l1"), Measure("huber", crop=1), Measure(guidance=0.5), Measure(guidance=-1)]
EPS = noise(0, "a", 0, (3, 40, 40))


def test_all_measures_come_from_the_same_evaluations():
    world = Gaussians()
    images, _ = world.sample(6)
    execution = Execution(batch=7)
    errors = error_matrices(world, images, PROMPTS, exhaustive(5, 100), MEASURES, execution=execution)
    assert list(errors) == MEASURES
    # conditional, and the empty prompt, twice where a batch ends
    assert world.evaluations <= 6 * 4 * 5 + 2 * 6 * 5
    for measure in MEASURES:
        alone = error_matrices(world, images, PROMPTS, exhaustive(5, 100), [measure])
        np.testing.assert_allclose(alone[measure], errors[measure], rtol=1e-5)
        assert errors[measure].dtype == np.float32
    np.testing.assert_array_equal(
        errors[Measure()], classify(world, images, PROMPTS, exhaustive(5, 100), execution=execution).errors
    )
    assert len({errors[measure].tobytes() for measure in MEASURES}) == len(MEASURES)


def test_without_guidance_no_empty_prompt_is_evaluated():
    world = Gaussians()
    images, _ = world.sample(6)
    error_matrices(world, images, PROMPTS, exhaustive(5, 100), MEASURES[:3])
    assert world.evaluations == 6 * 4 * 5


def test_measures_known_by_hand():
    eps_hat = torch.tensor([[[[0.0, 0, 0], [0, 3, 0], [0, 0, 1]]]])
    eps_null, eps = torch.ones(1, 1, 3, 3), torch.zeros(1, 1, 3, 3)
    answers = {
        Measure(): 10 / 9,
        Measure("l1"): 4 / 9,
        Measure("huber"): (2.5 + 0.5) / 9,
        Measure(crop=1): 9.0,
        Measure("l1", crop=1): 3.0,
        Measure("l1", guidance=-1): 1.0,
        Measure("l1", crop=1, guidance=2.0): 3 * 3 - 2 * 1.0,
    }
    for measure, answer in answers.items():
        assert measure.of(eps_hat, eps_null, eps).tolist() == pytest.approx([answer]), measure


def test_guidance_of_minus_one_is_the_unconditional_error_of_every_class():
    world = Gaussians()
    images, _ = world.sample(3)
    measure = Measure(guidance=-1)
    errors = error_matrices(world, images, PROMPTS, exhaustive(4, 100), [measure])[measure]
    np.testing.assert_allclose(errors, errors[:, :1].repeat(4, axis=1), rtol=1e-6)
    world.means[0] = world.means.mean(0)  # now the first class is what the empty prompt is
    conditional = classify(world, images, PROMPTS, exhaustive(4, 100)).errors
    np.testing.assert_allclose(conditional[:, 0], errors[:, 0], rtol=1e-4)


def test_the_first_measure_decides_who_stays():
    world = Gaussians()
    images, _ = world.sample(6)
    schedule = nested_stages((2, 6), (2, 1), 100)
    errors = error_matrices(world, images, PROMPTS, schedule, [Measure("l1"), Measure()])
    alone = error_matrices(world, images, PROMPTS, schedule, [Measure("l1")])
    np.testing.assert_allclose(errors[Measure("l1")], alone[Measure("l1")], rtol=1e-5)
    np.testing.assert_array_equal(np.isnan(errors[Measure()]), np.isnan(errors[Measure("l1")]))


# --- noises ---------------------------------------------------------------------------------------


def test_kinds_of_noise_known_by_theory():
    assert NOISES["normal"](EPS) is EPS
    assert not NOISES["zero"](EPS).any()
    for kind, bound in (("truncated", 1.0), ("truncated-2.5", 2.5)):
        cut = NOISES[kind](EPS)
        assert cut.abs().max() <= bound
        assert cut.dtype == torch.float32
        assert cut.var().item() == pytest.approx(stats.truncnorm(-bound, bound).var(), rel=0.05)
        assert (cut.flatten().argsort() == EPS.flatten().argsort()).float().mean() > 0.99
    assert truncated(torch.tensor([0.0, 40.0, -40.0]), 1.0).tolist() == pytest.approx([0, 1, -1])
    rescaled = NOISES["rescaled"](EPS * 3)
    assert rescaled.norm().item() == pytest.approx(EPS.numel() ** 0.5)
    np.testing.assert_allclose(rescaled / rescaled[0, 0, 0], EPS / EPS[0, 0, 0], rtol=1e-4)


@pytest.mark.parametrize("kind", NOISES)
def test_noise_reaches_the_network_as_named_and_follows_no_batch(kind):
    world = Gaussians()
    images, _ = world.sample(3)
    z, added = world.encode_images(images), {}
    predict = world.predict_noise

    def listen(z_t, t, condition, copies=None):
        a, s = world.signal_and_noise(t[copies])
        for row, copy in enumerate(copies.tolist()):
            near = (z_t[copy] - a[row] * z) / s[row]
            mean = condition.embeddings[row].flatten().tolist()[0]
            added.setdefault((int(t[copy]), mean), []).append(near)
        return predict(z_t, t, condition, copies=copies)

    world.predict_noise = listen
    schedule, shape = exhaustive(3, 100), z.shape[1:]
    measure, batches = Measure(noise=kind), Execution(batch=5)
    whole = error_matrices(
        world, images, PROMPTS, schedule, [measure], keys=["a", "b", "c"], execution=batches
    )[measure]
    part = error_matrices(world, images[1:], PROMPTS, schedule, [measure], keys=["b", "c"])[measure]
    np.testing.assert_allclose(part, whole[1:], rtol=1e-4, atol=1e-6)
    eps = NOISES[kind](noise(0, "a", 0, shape))
    first = [
        any(torch.allclose(near[0], eps, atol=1e-3) for near in noises)
        for (t, _), noises in added.items()
        if t == schedule.t[0]
    ]
    assert first == [kind != "unpaired"] * 4


def test_unpaired_noise_differs_from_prompt_to_prompt_and_costs_precision():
    world = Gaussians()
    images, labels = world.sample(40)
    schedule = exhaustive(8, 100)
    paired, unpaired = (
        error_matrices(world, images, PROMPTS, schedule, [measure])[measure]
        for measure in (Measure(), Measure(noise="unpaired"))
    )
    gain = pairing_gain(paired, unpaired)
    assert gain.shape == (40,)
    assert gain.mean() > 0.1
    known = labels < 4
    # of a single timestep
    correct = [(errors.argmin(1) == labels[:, None])[known].mean() for errors in (paired, unpaired)]
    assert correct[0] > correct[1] + 0.02


def test_pairing_gain_known_by_hand():
    paired = np.array([[[1, 2, 3], [2, 3, 5], [9, 9, 9]]], np.float32)  # differences -1, -1, -2: variance 1/3
    unpaired = np.array([[[1, 2, 3], [2, 2, 10], [0, 0, 0]]], np.float32)  # -1, 0, -7: variance 43/3
    np.testing.assert_allclose(pairing_gain(paired, unpaired), [np.log10(43)])


# --- weights, timesteps, classes --------------------------------------------------------------------


def test_variational_weights_are_ho_s():
    beta = torch.linspace(0.001, 0.2, 50, dtype=torch.float64)
    alpha = 1 - beta
    alpha_bar = alpha.cumprod(0)
    t = (0, 7, 49)
    expected = (beta**2 / (2 * beta * alpha * (1 - alpha_bar)))[list(t)]
    np.testing.assert_allclose(variational_weights(alpha_bar, t), expected, rtol=1e-8)
    assert variational_weights(alpha_bar, [0])[0] == pytest.approx(1 / (2 * 0.999))
    with pytest.raises(ValueError, match="flow"):
        variational_weights(None, t)


def test_weights_decide_which_timesteps_count():
    errors = np.array([[[1, 5, 5], [4, 1, 1]]], np.float32)
    np.testing.assert_array_equal(weighted(errors, np.full(3, 7.0)), errors)
    assert prediction(errors).tolist() == [1]
    assert prediction(weighted(errors, np.array([5, 1, 1]))).tolist() == [0]
    np.testing.assert_allclose(weighted(errors, np.array([2, 0, 0])).mean(2), errors[:, :, 0])
    for wrong in ([1, 1], [1, -1, 1], [0, 0, 0], [np.nan, 1, 1]):
        with pytest.raises(ValueError, match="3 weights"):
            weighted(errors, np.array(wrong))


def test_repeated_timesteps_meet_other_noise_each_time():
    assert repeated(2, 3).t == (250, 750) * 3
    assert repeated(1, 2).t == (500, 500)
    assert repeated(4, 1, 8).t == (1, 3, 5, 7)
    world = Gaussians()
    images, _ = world.sample(2)
    errors = classify(world, images, PROMPTS, repeated(2, 3, 100)).errors
    assert len(np.unique(errors[0, 0].round(6))) == 6
    for wrong in ((0, 1), (1, 0), (101, 1)):
        with pytest.raises(ValueError, match="repeated"):
            repeated(*wrong, 100)


def test_best_classes():
    scores = np.array([[0.1, 3, 2], [5, 5, 5]])
    assert best_classes(scores, 2).tolist() == [[False, True, True], [True, True, False]]
    assert best_classes(scores, 20).all()
    for wrong, k in ((scores, 0), (np.array([[np.nan, 1]]), 1)):
        with pytest.raises(ValueError, match="best_classes"):
            best_classes(wrong, k)


# --- bad input, and resuming ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"measures": []}, "one or more"),
        ({"measures": [Measure(), Measure()]}, "all different"),
        ({"measures": [Measure("l3")]}, "l2, l1, huber"),
        ({"measures": [Measure(crop=2)]}, "crop must be from 0 to 1"),
        ({"measures": [Measure(crop=-1)]}, "crop"),
        ({"measures": [Measure(guidance=float("nan"))]}, "finite"),
        ({"measures": [Measure(noise="pink")]}, "normal, zero, truncated"),
        ({"measures": [Measure(), Measure(noise="zero")]}, "have the same noise"),
    ],
)
def test_bad_measures_are_refused_before_any_work(change, message):
    world = Gaussians()
    images, _ = world.sample(2)
    with pytest.raises(ValueError, match=message):
        error_matrices(world, images, PROMPTS, exhaustive(3, 100), **change)
    assert world.evaluations == 0


def test_measures_and_noise_belong_to_the_key_of_a_cached_result(tmp_path):
    world, cache = Gaussians(), MortalCache(tmp_path)
    images, _ = world.sample(4)
    request = {
        "generator": world,
        "images": images,
        "prompts": PROMPTS,
        "schedule": exhaustive(3, 100),
        "execution": Execution(cache=cache),
    }
    first = error_matrices(**request, measures=MEASURES)
    world.evaluations, progress = 0, []
    execution = Execution(cache=cache, progress=lambda *step: progress.append(step))
    again = error_matrices(**request | {"execution": execution}, measures=MEASURES)
    assert world.evaluations == 0
    assert progress == [("images", 4, 4)]
    for measure in MEASURES:
        np.testing.assert_array_equal(again[measure], first[measure])
    changes = (
        {"measures": MEASURES[:2]},
        {"measures": [Measure(noise="zero")]},
        {"candidates": np.eye(4, dtype=bool)},
    )
    for number, change in enumerate(changes, 2):
        error_matrices(**request, **change)
        assert len(cache) == number
