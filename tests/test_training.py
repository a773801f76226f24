"""Training: the same batches for sets of any size, held-out images that choose, switches for the audit."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from zsclib.images.image_set import ImageSet
from zsclib.models.networks import new_network
from zsclib.recipe import (
    MEAN,
    STANDARD_DEVIATION,
    Recipe,
    augment,
    batch_indices,
    learning_rate_at,
    standardise,
)
from zsclib.training import accuracy, fit, train

CLASSES = ("red", "green", "blue")
SHORT = Recipe(steps=12, batch=8, checkpoints=3)


def coloured(n, seed, size=16, noise=60):
    """Images whose mean colour is their class."""
    random = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    images = random.integers(0, 2 * noise, (n, size, size, 3))
    images[np.arange(n), :, :, labels] += 80
    return ImageSet(images.astype(np.uint8), labels, CLASSES)


@pytest.fixture(scope="module")
def sets():
    return {"images": coloured(30, 0), "validation": coloured(12, 1), "test": coloured(15, 2)}


@pytest.fixture(scope="module")
def network():
    return new_network("resnet18", CLASSES, size=16)


@pytest.fixture(scope="module")
def trained(network, sets):
    watch = {"test": sets["test"]}
    return train(network, sets["images"], replace(SHORT, steps=30), 0, sets["validation"], watch)


def weights_of(trained):
    return torch.cat([w.flatten().float() for w in trained.network.state_dict().values()])


def test_a_network_learns_colours(trained, sets):
    assert accuracy(trained.scores(sets["test"].images), sets["test"].labels) > 0.9


@pytest.mark.parametrize("name", ("mobilenet", "convnext-s", "vit-b"))
def test_the_same_seed_gives_the_same_network_and_leaves_the_global_state_alone(sets, name):
    network = new_network(name, CLASSES, size=16)  # two of them use random numbers while training
    torch.manual_seed(1)
    first = train(network, sets["images"], replace(SHORT, steps=3), 7)
    number = torch.rand(2)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(2), number)
    again = train(network, sets["images"], replace(SHORT, steps=3), 7)
    other = train(network, sets["images"], replace(SHORT, steps=3), 8)
    assert torch.equal(weights_of(first), weights_of(again))
    assert not torch.allclose(weights_of(first), weights_of(other))


def test_the_network_given_is_not_changed(network, sets):
    before = {name: w.clone() for name, w in network.state_dict().items()}
    train(network, sets["images"], replace(SHORT, steps=1), 0)
    assert all(torch.equal(before[name], w) for name, w in network.state_dict().items())


def test_watching_or_judging_more_often_changes_no_weight(network, sets):
    alone = train(network, sets["images"], SHORT, 0)
    watched = train(
        network,
        sets["images"],
        replace(SHORT, checkpoints=6),
        0,
        watch={"test": sets["test"], "more": sets["validation"]},
    )
    assert torch.equal(weights_of(alone), weights_of(watched))


def test_validation_chooses_the_checkpoint_and_watched_sets_do_not(network, sets):
    held, recipe = sets["validation"], replace(SHORT, steps=20, checkpoints=10)
    by_last = train(network, sets["images"], recipe, 0, None, {"held": held, "test": sets["test"]})
    # labels that are what the network says early on, so that they choose an early checkpoint
    early = ImageSet(held.images, by_last.watched["held"][0].argmax(1), CLASSES)
    by_early = train(network, sets["images"], recipe, 0, early, {"test": sets["test"]})
    history = by_early.history
    assert list(history.columns) == ["step", "loss", "validation", "test"]
    assert history["step"].tolist() == list(range(2, 21, 2))
    assert history["validation"][0] == 1 > history["validation"][9]
    assert by_early.checkpoint < 9
    assert by_last.checkpoint == 9
    for one in (by_early, by_last):
        np.testing.assert_allclose(
            one.scores(sets["test"].images), one.watched["test"][one.checkpoint], rtol=1e-4, atol=1e-4
        )
        assert accuracy(one.watched["test"][one.checkpoint], sets["test"].labels) == one.history["test"][one.checkpoint]


def test_scores_do_not_depend_on_the_batch(trained, sets):
    images = sets["test"].images
    whole = trained.scores(images)
    assert whole.dtype == np.float32 and whole.shape == (15, 3)
    np.testing.assert_allclose(trained.scores(images, batch=4), whole, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(trained.scores(images[::-1])[::-1], whole, rtol=1e-4, atol=1e-5)
    assert trained.features(images).shape == (15, 128)
    assert trained.scores(images[:0]).shape == (0, 3)


def test_images_may_be_a_read_only_memory_map(network, sets):
    images = sets["images"].images.copy()
    images.flags.writeable = False
    frozen = ImageSet(images, sets["images"].labels, CLASSES)
    one = train(network, frozen, replace(SHORT, steps=1, checkpoints=1), 0, frozen)
    with pytest.raises(ValueError, match="scores: images must be a uint8 array"):
        one.scores(images[..., :2])


def test_batch_statistics_are_those_of_the_test_batch_and_leave_no_trace(trained, sets):
    images, before = sets["test"].images, weights_of(trained).clone()
    plain = trained.scores(images)
    shortcut = trained.scores(images, batch=5, batch_statistics=True)
    network = trained.network.train()
    with torch.no_grad():
        before_it = {name: buffer.clone() for name, buffer in network.named_buffers()}
        expected = torch.cat([network(standardise(part)) for part in torch.from_numpy(images).split(5)])
        for name, buffer in network.named_buffers():
            buffer.copy_(before_it[name])
    network.eval()
    np.testing.assert_allclose(shortcut, expected, rtol=1e-4, atol=1e-5)
    assert not np.allclose(shortcut, plain, atol=0.01)
    assert not np.allclose(shortcut, trained.scores(images, batch=3, batch_statistics=True), atol=0.01)
    assert torch.equal(weights_of(trained), before)
    np.testing.assert_array_equal(trained.scores(images), plain)


def test_batch_statistics_keep_dropout_and_stochastic_depth_active_and_repeatable(sets):
    network = new_network("convnext-s", CLASSES, size=16)
    one = train(network, sets["images"], replace(SHORT, steps=1), 0)
    active = one.scores(sets["test"].images, batch_statistics=True)
    torch.manual_seed(3)
    np.testing.assert_array_equal(active, one.scores(sets["test"].images, batch_statistics=True))
    assert not np.allclose(active, one.scores(sets["test"].images), atol=1e-4)


def test_batches_are_a_function_of_seed_and_step_and_leave_nothing_over():
    taken = np.concatenate([batch_indices(3, step, 4, 10) for step in range(5)])
    assert sorted(taken[:10]) == sorted(taken[10:]) == list(range(10))
    assert list(taken[:10]) != list(taken[10:])
    np.testing.assert_array_equal(batch_indices(3, 2, 4, 10), taken[8:12])
    assert list(batch_indices(4, 2, 4, 10)) != list(taken[8:12])
    assert sorted(np.bincount(batch_indices(0, 1, 9, 2), minlength=2)) == [4, 5]  # larger than the set


def test_the_rate_rises_then_falls_to_nearly_nothing():
    recipe = Recipe(steps=100, learning_rate=0.5, warmup=0.1)
    rates = [learning_rate_at(step, recipe) for step in range(100)]
    assert rates[0] == pytest.approx(0.05)
    assert max(rates) == rates[9] == pytest.approx(0.5)
    assert rates[:10] == sorted(rates[:10]) and rates[9:] == sorted(rates[9:], reverse=True)
    assert 0 < rates[-1] < 0.001
    assert learning_rate_at(0, Recipe(steps=1, warmup=0)) > 0


def test_augmentation_flips_and_shifts_and_nothing_else():
    column = torch.arange(16, dtype=torch.uint8)
    images = (column[None, :, None, None] * 16 + column[None, None, :, None]).expand(400, 16, 16, 3)
    still = Recipe(flip=False, shift=0)
    assert torch.equal(augment(images, still, 0, 0), images)
    flipped = augment(images, replace(still, flip=True), 0, 0)
    mirrored = (flipped == images.flip(2)).flatten(1).all(1)
    assert torch.equal(mirrored, ~(flipped == images).flatten(1).all(1))
    assert 150 < mirrored.sum() < 250
    moved = augment(images, replace(still, shift=2), 0, 0)
    x, y = moved[:, 8, 8, 0] % 16, moved[:, 8, 8, 0] // 16
    for shift in (x, y):
        values, counts = shift.unique(return_counts=True)
        assert values.tolist() == [6, 7, 8, 9, 10]
        assert counts.min() > 50  # all shifts alike: 80 each
    one = int(np.flatnonzero((x == 10) & (y == 8))[0])  # moved by two: the edge is repeated
    assert moved[one, 0, :, 0].tolist() == [*range(2, 16), 15, 15]


def test_crops_are_enlarged_to_the_whole_image():
    column = torch.arange(16, dtype=torch.uint8)[None, None, :, None].expand(200, 16, 16, 3)
    cropped = augment(column, Recipe(flip=False, shift=0, crop=0.5), 0, 0)[:, 0, :, 0].int()
    width = cropped.amax(1) - cropped.amin(1) + 1
    assert 8 <= width.min() <= 9 and 15 <= width.max() <= 16
    assert (cropped.diff(dim=1) >= 0).all()


def test_augmentation_is_a_function_of_seed_and_step():
    images = torch.randint(256, (8, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    first = augment(images, Recipe(), 1, 2)
    assert torch.equal(first, augment(images, Recipe(), 1, 2))
    assert not torch.equal(first, augment(images, Recipe(), 1, 3))
    assert not torch.equal(first, augment(images, Recipe(), 2, 2))


def test_standardising_is_the_usual_one():
    images = torch.tensor([[[[0, 127, 255]]]], dtype=torch.uint8)
    expected = [(v / 255 - m) / d for v, m, d in zip((0, 127, 255), MEAN, STANDARD_DEVIATION, strict=True)]
    torch.testing.assert_close(standardise(images).flatten(), torch.tensor(expected))


def test_any_head_on_feature_maps_can_be_fitted():
    random = np.random.default_rng(0)
    labels = np.arange(40) % 2
    maps = random.normal(size=(40, 5, 2, 2)).astype(np.float32)
    maps[:, 0] += 6.0 * labels[:, None, None]
    head = nn.Sequential(nn.Flatten(), nn.Linear(20, 2))
    fitted = fit(
        head, maps, labels, Recipe(steps=40, batch=10, learning_rate=0.05), 0, watch={"same": (maps, labels)}
    )
    assert accuracy(fitted.scores(maps), labels) == 1
    assert fitted.history["same"].iloc[-1] == 1


def test_accuracy_counts_labelled_images_only():
    scores = np.array([[1.0, 0], [0, 1], [0, 1]])
    assert accuracy(scores, np.array([0, 0, -1])) == 0.5
    assert math.isnan(accuracy(scores, np.array([-1, -1, -1])))


def test_what_does_not_fit_is_refused_before_training(network, sets):
    images = sets["images"]
    with pytest.raises(ValueError, match="train: images holds no image"):
        train(network, images.take([]), SHORT, 0)
    with pytest.raises(ValueError, match="validation holds no image"):
        train(network, images, SHORT, 0, images.take([]))
    other = ImageSet(images.images, images.labels, ("red", "green", "violet"))
    with pytest.raises(ValueError, match=r"test has the classes \('red', 'green', 'violet'\)"):
        train(network, images, SHORT, 0, watch={"test": other})
    with pytest.raises(ValueError, match=r"\(8, 8\) pixels, the network takes 16"):
        train(network, coloured(6, 0, size=8), SHORT, 0)
    unlabelled = ImageSet(images.images, np.full(30, -1), CLASSES)
    with pytest.raises(ValueError, match="30 of 30 inputs have no label"):
        train(network, unlabelled, SHORT, 0)
    with pytest.raises(ValueError, match="validation has no label, so it can choose no checkpoint"):
        train(network, images, SHORT, 0, unlabelled)
    with pytest.raises(ValueError, match="a watched set cannot be called 'images'"):
        train(network, images, SHORT, 0, watch={"images": images})


def test_a_loss_that_is_not_finite_is_an_error():
    head = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    features = np.full((4, 4), np.inf, np.float32)
    with pytest.raises(FloatingPointError, match="the loss is nan by step 1; lower the learning rate"):
        fit(head, features, np.array([0, 1, 0, 1]), Recipe(steps=1, batch=4, checkpoints=1), 0)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"steps": 0}, "steps must be an integer of at least 1, got 0"),
        ({"batch": 2.5}, "batch must be an integer of at least 1, got 2.5"),
        ({"learning_rate": 0}, "learning_rate must be above 0"),
        ({"crop": 1.5}, r"crop must be in \(0, 1\]"),
        ({"warmup": 1}, r"warmup must be in \[0, 1\)"),
    ],
)
def test_recipes_that_make_no_sense_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**wrong)
