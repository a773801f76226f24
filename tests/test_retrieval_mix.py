"""Batches of real and extra images at a fixed share, strong classical augmentation, and images changed locally."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from zsclib import recipe as recipes
from zsclib import training
from zsclib.images.image_set import ImageSet
from zsclib.images.randaugment import OPERATIONS, apply, randaugment
from zsclib.models.networks import new_network
from zsclib.recipe import Recipe, batch_indices, cutmix, mixed_indices, strengthen
from zsclib.sampling import image_to_image, sample, sampling_timesteps
from zsclib.training import Augmentation, train

CLASSES = ("red", "green", "blue")
SHORT = Recipe(steps=6, batch=8, checkpoints=1)


def coloured(n: int, seed: int, size: int = 16) -> ImageSet:
    """Images whose mean colour is their class."""
    random = np.random.default_rng(seed)
    images = random.integers(0, 120, (n, size, size, 3))
    images[np.arange(n), :, :, np.arange(n) % 3] += 80
    return ImageSet(images.astype(np.uint8), np.arange(n) % 3, CLASSES)


@pytest.fixture(scope="module")
def network():
    return new_network("resnet18", CLASSES, size=16)


@pytest.mark.parametrize(("share", "batch"), [(0.25, 32), (0.5, 32), (0.75, 32), (0.25, 6), (1 / 3, 10), (0.1, 8)])
def test_a_batch_has_the_share_of_extra_images_exactly(share, batch):
    steps = 240
    extra = [int((mixed_indices(3, step, batch, (20, 50), share) >= 20).sum()) for step in range(steps)]
    assert sum(extra) == round(share * batch * steps)
    assert set(extra) <= {int(share * batch), int(np.ceil(share * batch))}
    assert all(abs(sum(extra[: k + 1]) - share * batch * (k + 1)) < 1 + 1e-6 for k in range(steps))


def test_each_kind_is_gone_through_in_epochs_of_its_own_with_nothing_left_over():
    rows = np.concatenate([mixed_indices(0, step, 8, (10, 30), 0.75) for step in range(20)])
    real, extra = rows[rows < 10], rows[rows >= 10]
    assert len(real) == 40 and len(extra) == 120
    for epoch in range(4):
        assert sorted(real[10 * epoch :][:10]) == list(range(10))
        assert sorted(extra[30 * epoch :][:30]) == list(range(10, 40))
    assert extra[:30].tolist() != extra[30:60].tolist()


def test_without_a_share_batches_are_those_of_real_images_alone():
    for step in (0, 7):
        assert (mixed_indices(5, step, 8, (11, 0), 0.0) == batch_indices(5, step, 8, 11)).all()
    first = np.concatenate([mixed_indices(5, step, 8, (11, 9), 0.5) for step in range(6)])
    real = np.concatenate([batch_indices(5, step, 8, 11) for step in range(3)])
    assert first[first < 11].tolist() == real.tolist(), "arms of one seed meet the same real images in one order"


@pytest.mark.parametrize(("sizes", "share"), [((4, 4), 1.1), ((4, 4), -0.1), ((4, 0), 0.5), ((0, 4), 0.5)])
def test_a_mix_that_cannot_be_is_refused(sizes, share):
    with pytest.raises(ValueError, match="mixed_indices: a share"):
        mixed_indices(0, 0, 8, sizes, share)


def test_arms_differ_in_their_images_and_not_in_the_number_of_updates(network, monkeypatch):
    """Every arm takes recipe.steps steps of recipe.batch images, whatever it has beside the real ones."""
    calls = []
    batch = training._batch
    monkeypatch.setattr(training, "_batch", lambda x, *rest: calls.append(len(x)) or batch(x, *rest))
    real, few, many = coloured(12, 0), coloured(3, 1), coloured(90, 2)
    arms = (
        training.PLAIN, Augmentation(extra=few, share=0.25), Augmentation(extra=many, share=0.75),
        Augmentation(extra=many, share=1.0), Augmentation(operations=2, cutmix=1.0),
    )  # fmt: skip
    for arm in arms:
        calls.clear()
        train(network, real, SHORT, 0, augmentation=arm)
        assert calls == [SHORT.batch] * SHORT.steps


def test_a_network_learns_from_extra_images_what_real_ones_do_not_show(network):
    real, extra, test = coloured(3, 0), coloured(90, 1), coloured(60, 2)
    recipe = replace(SHORT, steps=40)
    wrong = replace(extra, labels=(extra.labels + 1) % 3)
    accuracy = {
        name: (train(network, real, recipe, 0, augmentation=arm).scores(test.images).argmax(1) == test.labels).mean()
        for name, arm in {
            "extra": Augmentation(extra=extra, share=0.75), "wrong": Augmentation(extra=wrong, share=1.0)
        }.items()
    }  # fmt: skip
    assert accuracy["extra"] > 0.8 and accuracy["wrong"] < 0.2


def test_plain_training_is_what_it_was_before_there_were_extra_images(network):
    weights = [
        train(network, coloured(12, 0), SHORT, 0, augmentation=arm).network.state_dict()
        for arm in (Augmentation(), Augmentation(cutmix=0.0))
    ]
    weights.append(train(network, coloured(12, 0), SHORT, 0).network.state_dict())
    assert all(torch.equal(weights[0][name], other[name]) for other in weights[1:] for name in other)


def test_extra_images_that_do_not_fit_are_refused(network):
    real = coloured(6, 0)
    with pytest.raises(ValueError, match="belong together"):
        Augmentation(extra=real)
    with pytest.raises(ValueError, match="belong together"):
        Augmentation(share=0.5)
    with pytest.raises(ValueError, match="must be in"):
        Augmentation(cutmix=2)
    other = ImageSet(real.images, real.labels, ("a", "b", "c"))
    with pytest.raises(ValueError, match="extra has the classes"):
        train(network, real, SHORT, 0, augmentation=Augmentation(extra=other, share=0.5))
    unlabelled = replace(real, labels=np.full(6, -1))
    with pytest.raises(ValueError, match="6 of 6 extra images have no label"):
        train(network, real, SHORT, 0, augmentation=Augmentation(extra=unlabelled, share=0.5))


def test_randaugment_has_its_operations_and_they_change_an_image():
    image = np.random.default_rng(0).integers(20, 200, (16, 16, 3), dtype=np.uint8)
    assert len(OPERATIONS) == 14
    for name in OPERATIONS:
        changed = np.asarray(apply(Image.fromarray(image), name, 0.9))
        assert changed.shape == image.shape and changed.dtype == np.uint8
        assert np.array_equal(changed, image) == (name == "identity"), name
    assert np.array_equal(randaugment(image, 0, np.random.default_rng(1)), image)


def test_strong_augmentation_depends_on_seed_step_and_place_alone():
    images = torch.randint(0, 255, (12, 16, 16, 3), dtype=torch.uint8)
    once = strengthen(images, 2, 4, 1)
    assert torch.equal(once, strengthen(images, 2, 4, 1)) and not torch.equal(once, strengthen(images, 2, 4, 2))
    assert torch.equal(once[:3], strengthen(images[:3], 2, 4, 1))
    assert once.shape == images.shape and once.dtype == torch.uint8


def test_cutmix_pastes_a_box_and_says_what_is_left():
    images = torch.arange(10, dtype=torch.uint8)[:, None, None, None].expand(10, 16, 16, 3)
    for step in range(20):
        mixed, others, own = cutmix(images, 1.0, 0, step)
        still = (mixed == images).all(-1).float().mean((1, 2))
        moved = others != torch.arange(10)
        assert torch.allclose(still[moved], torch.tensor(own)) and (still[~moved] == 1).all()
        assert torch.equal(mixed[:, :, :, 0].amax((1, 2)).maximum(others.byte()), torch.maximum(
            torch.arange(10), others).byte())
    assert 0.3 < np.mean([cutmix(images, 0.5, 0, step)[2] < 1 for step in range(200)]) < 0.7
    assert cutmix(images, 0.0, 0, 0)[2] == 1
    assert recipes.MEAN  # of the same module as the recipe


def test_an_image_changed_a_little_is_nearly_itself_and_more_is_less(generator):
    images = sample(generator, ["a cat", "a dog"], [1, 2], 1.0, steps=2)
    back = generator.decode(generator.encode_images(images)).astype(int)
    far = [
        np.abs(image_to_image(generator, images, ["a cat", "a dog"], [5, 6], s, 2.0, steps=20) - back).mean()
        for s in (0.05, 0.5, 1.0)
    ]
    assert far[0] < far[1] and far[0] < far[2]


def test_changing_images_is_noising_part_of_the_way_and_then_ddim(generator):
    """Word for word, one image at a time; neither the batch nor its neighbours change any."""
    images = sample(generator, ["a cat", "a dog", "a bird"], [1, 2, 3], 1.0, steps=2)
    prompts, seeds, steps = ["a dog", "", "a dog"], [7, 8, 9], 6
    ours = image_to_image(generator, images, prompts, seeds, 0.5, 1.0, steps, batch=2)
    t = sampling_timesteps(generator, steps)[3:]
    assert len(t) == 3
    for i in range(3):
        c = generator.encode_prompts([prompts[i]])
        a, s = generator.signal_and_noise(t[0])
        noise = torch.randn(1, *generator.latent_shape, generator=torch.Generator().manual_seed(seeds[i]))
        z = a * generator.encode_images(images[i : i + 1]) + s * noise
        for k, now in enumerate(t):
            ε = generator.predict_noise(z, now, c)
            a, s = generator.signal_and_noise(now)
            z_0 = (z - s * ε) / a
            a, s = generator.signal_and_noise(t[k + 1] if k + 1 < len(t) else 0)
            z = a * z_0 + s * ε
        theirs = generator.decode(z_0 if generator.prediction == "flow" else z)
        assert np.abs(theirs.astype(int) - ours[i]).max() <= 1


@pytest.mark.parametrize(
    "change", [{"strength": 0.0}, {"strength": 1.5}, {"guidance": -1}, {"seeds": [1]}, {"prompts": []}]
)
def test_a_change_that_cannot_be_is_refused(generator, change):
    images = np.zeros((2, generator.image_size, generator.image_size, 3), np.uint8)
    with pytest.raises(ValueError, match="image_to_image:"):
        image_to_image(generator, **{"images": images, "prompts": ["a"] * 2, "seeds": [1, 2]} | change)
