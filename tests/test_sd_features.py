"""SD features and Synthetic SD data: maps of the mid block, heads on them, plans of generated images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from zsclib.datasets import hold_out
from zsclib.images.image_set import ImageSet
from zsclib.models.generator import open_generator
from zsclib.papers.diffusion_classifier import sd_features
from zsclib.papers.diffusion_classifier.experiments import PAPER_RECIPE, random_templates
from zsclib.papers.diffusion_classifier.method import noise
from zsclib.papers.diffusion_classifier.sd_features import (
    HEAD,
    PAPER_HEAD,
    feature_maps,
    new_head,
    train_on_features,
)
from zsclib.prompts import Prompts
from zsclib.sampling import generate

QUICK = replace(HEAD, steps=60, batch=16, checkpoints=6)
PROMPTS = Prompts("a {}", ("a {}", "the {}", "{} here"), ("cat", "dog", "7"), about="words", base="a {}")


@pytest.fixture(scope="module")
def generator(folders):
    return open_generator(folders["stable_diffusion_1"])


@pytest.fixture(scope="module")
def coloured():
    """Forty images, dark ones and light ones, with some noise."""
    random, labels = np.random.default_rng(0), np.arange(40) % 2
    images = 60 + 110 * labels[:, None, None, None] + random.integers(0, 60, (40, 16, 16, 3))
    return ImageSet(images.astype(np.uint8), labels, ("dark", "light"))


# --- maps -----------------------------------------------------------------------------------------


def test_maps_are_what_the_mid_block_says_of_noised_latents(generator, coloured):
    images, caught = coloured.images[:3], []
    maps = feature_maps(generator, images, t=100, seed=4, keys=["a", "b", 7])
    z = generator.encode_images(images)
    eps = torch.stack([noise(4, key, 0, z.shape[1:]) for key in ("a", "b", 7)])
    alpha = generator.alphas_cumprod[100]
    condition = generator.pipeline().encode_prompt([""] * 3, "cpu", 1, do_classifier_free_guidance=False)[0]
    hook = generator.unet.mid_block.register_forward_hook(lambda _, inputs, output: caught.append(output))
    with torch.no_grad():
        generator.unet(alpha.sqrt() * z + (1 - alpha).sqrt() * eps, 100, encoder_hidden_states=condition)
    hook.remove()
    np.testing.assert_allclose(maps, caught[0].numpy(), rtol=1e-4, atol=1e-5)
    assert (maps.dtype, maps.shape) == (np.float32, (3, 16, 4, 4))
    assert np.abs(feature_maps(generator, images, prompt="a cat") - maps).max() > 1e-3


def test_batch_and_order_change_no_map(generator, coloured):
    images, keys = coloured.images[:7], [f"image {i}" for i in range(7)]
    whole = feature_maps(generator, images, keys=keys)
    np.testing.assert_allclose(feature_maps(generator, images, keys=keys, batch=2), whole, atol=1e-5)
    part = [5, 0, 3]
    maps = feature_maps(generator, images[part], keys=[keys[i] for i in part])
    np.testing.assert_allclose(maps, whole[part], atol=1e-5)
    for other in (feature_maps(generator, images, keys=keys, seed=1), feature_maps(generator, images)):
        assert np.abs(other - whole).max() > 1e-3


def test_no_hook_stays_behind(generator, coloured, monkeypatch):
    feature_maps(generator, coloured.images[:1])
    monkeypatch.setattr(generator, "predict_noise", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        feature_maps(generator, coloured.images[:1])
    assert not generator.unet.mid_block._forward_hooks


def test_bad_requests_for_maps(generator, folders, coloured):
    transformer = open_generator(folders["stable_diffusion_3"])
    with pytest.raises(ValueError, match="a SD3Transformer2DModel has no mid block"):
        feature_maps(transformer, coloured.images)
    with pytest.raises(ValueError, match="40 images and 3 keys"):
        feature_maps(generator, coloured.images, keys=[1, 2, 3])
    with pytest.raises(ValueError, match="t must be integers from 0 to 999"):
        feature_maps(generator, coloured.images, t=1000)
    with pytest.raises(ValueError, match="uint8"):
        feature_maps(generator, coloured.images / 255)


# --- heads ----------------------------------------------------------------------------------------


def test_large_maps_get_the_layout_of_table_11():
    head = new_head(6, 8, 3)
    shapes = []
    for block in head[1:9]:
        block.register_forward_hook(lambda _, inputs, output: shapes.append(tuple(output.shape[1:])))
    assert head.eval()(torch.randn(2, 6, 8, 8)).shape == (2, 3)
    assert shapes == [(6, 8, 8)] * 2 + [(6, 4, 4)] * 2 + [(12, 2, 2)] * 2 + [(12, 1, 1)] * 2
    assert sum(isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3) for layer in head.modules()) == 16


@pytest.mark.parametrize("side", [1, 2, 4])
def test_small_maps_get_a_small_head(side):
    head = new_head(6, side, 3).eval()
    assert head(torch.randn(2, 6, side, side)).shape == (2, 3)
    assert sum(isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3) for layer in head.modules()) == 2


def test_first_weights_hang_on_the_seed_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    a, b, c = (new_head(6, 4, 3, seed)[1].body[0].weight for seed in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_head_learns_from_the_maps_and_scores_hang_on_the_image_alone(generator, coloured, monkeypatch):
    def see(images):  # a random autoencoder says next to nothing
        return (
            torch.from_numpy(images[:, ::2, ::2, :1] / np.float32(60) - 2)
            .permute(0, 3, 1, 2)
            .expand(-1, 4, -1, -1)
        )

    monkeypatch.setattr(generator, "encode_images", see)
    trained, test = coloured.take(range(30)), coloured.take(range(30, 40))
    classifier = train_on_features(generator, trained, QUICK, views=2)
    scores = classifier.scores(test.images)
    assert (scores.dtype, scores.shape, classifier.classes) == (np.float32, (10, 2), ("dark", "light"))
    assert (scores.argmax(1) == test.labels).all()
    np.testing.assert_allclose(classifier.scores(test.images[::-1]), scores[::-1], atol=1e-4)
    again = train_on_features(generator, trained, QUICK, views=2)
    np.testing.assert_array_equal(again.scores(test.images), scores)


def test_held_out_images_are_not_trained_on(generator, coloured, monkeypatch):
    fitted = {}

    def fit(head, maps, labels, recipe, seed, validation, device):
        fitted.update(maps=maps, labels=labels, held=validation)

    monkeypatch.setattr(sd_features, "fit", fit)
    train_on_features(generator, coloured, replace(QUICK, flip=True, crop=0.5), views=3)
    assert (len(fitted["maps"]), len(fitted["held"][0])) == (3 * 36, 4)
    assert np.bincount(fitted["held"][1]).tolist() == [2, 2]
    maps = np.concatenate([fitted["maps"], fitted["held"][0]]).reshape(112, -1)
    assert len(np.unique(maps, axis=0)) == 112  # every view is another image, under noise of its own
    np.testing.assert_array_equal(fitted["labels"][:36], fitted["labels"][36:72])


def test_without_any_held_out_all_images_are_trained_on_and_the_last_checkpoint_is_taken(generator, coloured):
    classifier = train_on_features(generator, coloured, QUICK, held_out=0)
    assert classifier.head.checkpoint == QUICK.checkpoints - 1 and "validation" not in classifier.head.history
    single = coloured.take([0, 1])  # of which hold_out could spare none
    assert train_on_features(generator, single, replace(QUICK, steps=2, checkpoints=1), held_out=0).head.checkpoint == 0


def test_too_little_to_train_on(generator, coloured):
    for images, views, message in (
        (coloured, 0, "views must be 1 or more"),
        (coloured.take([0, 1, 2]), 1, "1 in the rarest class"),
        (coloured.take([]), 1, "got 0 images"),
        (ImageSet(coloured.images, coloured.labels - 1, coloured.classes), 1, "20 without a label"),
    ):
        with pytest.raises(ValueError, match=message):
            train_on_features(generator, images, QUICK, views)


def test_published_settings_are_those_of_the_paper():
    assert (PAPER_HEAD.batch, PAPER_HEAD.learning_rate) == (16, 1e-4)
    assert (PAPER_RECIPE.batch, PAPER_RECIPE.learning_rate, PAPER_RECIPE.weight_decay) == (256, 0.1, 1e-4)
    assert PAPER_RECIPE.flip
    assert PAPER_RECIPE.crop**2 == pytest.approx(0.08, abs=0.002)


# --- generated images -----------------------------------------------------------------------------


def test_plan_of_images_in_random_templates():
    plan = random_templates(PROMPTS, 300, guidance=3)
    assert plan.label.tolist() == [0, 1, 2] * 100
    assert plan["index"].tolist() == [i // 3 for i in range(300)]
    shares = {prompt: (plan.prompt == prompt).mean() for prompt in plan.prompt}
    assert set(shares) == {text.format(name) for text in PROMPTS.templates for name in PROMPTS.classes}
    assert all(0.06 < share < 0.17 for share in shares.values())  # each a ninth of all
    assert all(
        name in prompt for name, prompt in zip(np.take(PROMPTS.classes, plan.label), plan.prompt, strict=True)
    )
    assert plan.seed.is_unique
    assert (plan.guidance == 3).all()
    assert random_templates(PROMPTS, 50, guidance=3).equals(plan.head(50))
    assert not random_templates(PROMPTS, 50, guidance=3, seed=1).prompt.equals(plan.prompt.head(50))
    with pytest.raises(ValueError, match="must be 1 or more, got 0"):
        random_templates(PROMPTS, 0)


def test_the_sampler_takes_the_plan(generator):
    generated = generate(generator, random_templates(PROMPTS, 4), PROMPTS.classes, steps=1)
    assert generated.labels.tolist() == [0, 1, 2, 0]
    assert generated.images.shape == (4, 16, 16, 3)


@pytest.mark.parametrize(("share", "held_each"), [(0.1, 2), (0.01, 1), (0.5, 10), (0.99, 19)])
def test_hold_out_takes_a_share_of_every_class(coloured, share, held_each):
    rest, held = hold_out(coloured, share, seed=3)
    assert np.bincount(held.labels).tolist() == [held_each] * 2
    together = np.concatenate([rest.images, held.images])
    assert len(np.unique(together.reshape(40, -1), axis=0)) == len(together) == 40
    for a, b in zip(hold_out(coloured, share, seed=3), (rest, held), strict=True):
        np.testing.assert_array_equal(a.images, b.images)
    with pytest.raises(ValueError, match="share 1"):
        hold_out(coloured, 1)
