"""The method on one screen adapts, samples and weighs as the fast path does."""

from __future__ import annotations

import inspect
from dataclasses import replace

import numpy as np
import pytest
import torch

from zsclib.images.image_set import ImageSet
from zsclib.models.finetune import seeded
from zsclib.models.generator import open_generator
from zsclib.models.lora import DATADREAM, Lora, tune_lora_by_class
from zsclib.papers.datadream import method
from zsclib.papers.datadream.method import adapt, synthesise, two_sources
from zsclib.sampling import sample, sampling_timesteps

CLASSES, PROMPTS = ("cat", "dog"), ["a photo of a cat", "a photo of a dog"]


@pytest.fixture(scope="module")
def sd(folders):
    """Not to be changed."""
    return open_generator(folders["stable_diffusion_1"])


@pytest.fixture(scope="module")
def shots(sd):
    side = sd.image_size
    images = np.random.default_rng(0).integers(0, 255, (6, side, side, 3), dtype=np.uint8)
    return ImageSet(images, [0, 1] * 3, CLASSES)


def weights(generator) -> dict[str, torch.Tensor]:
    """Every weight that an adapter may change, as it is applied: W + B A."""
    layers = {}
    for part in (generator.unet, generator.text_encoder):
        for name, layer in part.named_modules():
            if name.endswith((*method.UNET, *method.TEXT)):
                weight = layer.weight.detach()
                if hasattr(layer, "lora_A"):
                    weight = weight + layer.get_delta_weight("default").detach()
                layers[name] = weight
    return layers


def test_the_method_adapts_and_samples_as_the_fast_path_does(sd, shots):
    tuning = replace(DATADREAM, samples=40, batch=8, warm_up=8, learning_rate=2e-2, check_every=40)
    fast = tune_lora_by_class(sd, shots, PROMPTS, tuning, Lora(rank=4, alpha=4))
    t, seeds = sampling_timesteps(sd, 3), [5, 6]
    for y, (name, prompt) in enumerate(zip(CLASSES, PROMPTS, strict=True)):
        own = seeded(tuning, name)
        of_class = shots.images[shots.labels == y]
        slow = adapt(sd, of_class, prompt, samples=40, lr=own.learning_rate_at, r=4, seed=own.seed)
        base, ours, theirs = weights(sd), weights(slow), weights(fast[name])
        assert base.keys() == ours.keys() == theirs.keys() and len(ours) == 4 * (8 + 2)
        moved = max((theirs[layer] - base[layer]).abs().max() for layer in base)
        apart = max((theirs[layer] - ours[layer]).abs().max() for layer in base)
        assert moved > 0.05 and apart < 1e-3 * moved
        images = synthesise(slow, prompt, 2, t, seeds=seeds).astype(int)
        assert np.abs(images - sample(fast[name], [prompt] * 2, seeds, 2.0, 3)).max() <= 1
        assert np.abs(images - sample(sd, [prompt] * 2, seeds, 2.0, 3)).max() > 3, "the adapter shows"


def test_the_base_model_stays_as_it_is(sd, shots):
    fingerprint = sd.fingerprint()
    slow = adapt(sd, shots.images, PROMPTS[0], samples=8, r=2)
    assert sd.fingerprint() == fingerprint
    assert not any("parametrizations" in name for name, _ in sd.unet.named_parameters())
    assert any("parametrizations" in name for name, _ in slow.unet.named_parameters())


def test_an_adapter_begins_as_the_base_model(sd):
    images = np.zeros((1, sd.image_size, sd.image_size, 3), np.uint8)
    slow = adapt(sd, images, PROMPTS[0], samples=0)
    t = sampling_timesteps(sd, 2)
    assert np.array_equal(synthesise(slow, PROMPTS[0], 2, t), synthesise(sd, PROMPTS[0], 2, t))


def test_two_sources_are_weighted_and_each_is_a_mean():
    f = torch.nn.Linear(3, 2)
    real, synthetic = ((torch.randn(n, 3), torch.arange(n) % 2) for n in (4, 10))
    alone = [torch.nn.functional.cross_entropy(f(x), y) for x, y in (real, synthetic)]
    assert two_sources(f, real, synthetic, 1.0) == alone[0] and two_sources(f, real, synthetic, 0.0) == alone[1]
    assert torch.isclose(two_sources(f, real, synthetic), 0.8 * alone[0] + 0.2 * alone[1])


def test_the_method_fits_a_screen():
    source = inspect.getsource(method)
    assert max(map(len, source.splitlines())) <= 80
    bodies = [inspect.getsource(function).split('"""')[2] for function in (adapt, synthesise, two_sources)]
    assert sum(len(body.strip().splitlines()) for body in bodies) <= 40


def test_the_example_runs_and_gives_the_shapes_it_says(sd):
    side = sd.image_size
    small = np.random.default_rng(0).integers(0, 255, (3, side, side, 3), dtype=np.uint8)
    space = {**vars(method), "generator": sd, "small": small, "sampling_timesteps": sampling_timesteps}
    exec("\n".join(line[4:] for line in method.__doc__.splitlines() if line.startswith("    ")), space)
    assert space["x"].shape == (3, side, side, 3)
