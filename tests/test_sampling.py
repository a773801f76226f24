"""Sampling: the same pictures as diffusers' own pipeline, one seed a picture, nothing depends on the batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from tests import tiny
from zsclib.models.generator import open_generator
from zsclib.sampling import sample, sampling_timesteps

PROMPTS = ["a cat", "a dog", "a cat", "two fish", "a bird"]
SEEDS = [11, 12, 13, 14, 15]


@pytest.fixture(scope="module", params=["stable_diffusion_1", "stable_diffusion_2", "stable_diffusion_3"])
def generator(request, tmp_path_factory):
    return open_generator(getattr(tiny, request.param)(tmp_path_factory.mktemp("model") / "folder"))


@pytest.mark.parametrize("folder", ["stable_diffusion_1", "stable_diffusion_2"])
def test_pictures_are_those_of_the_diffusers_pipeline(folder, tmp_path):
    generator = open_generator(getattr(tiny, folder)(tmp_path / "folder"))
    pipeline = generator.pipeline()
    pipeline.scheduler = DDIMScheduler.from_config(
        generator.scheduler.config, clip_sample=False
    )  # latents exceed 1
    size = generator.image_size
    theirs = [
        pipeline(
            prompt, num_inference_steps=7, guidance_scale=3.0, height=size, width=size, output_type="np",
            latents=torch.randn(1, *generator.latent_shape, generator=torch.Generator().manual_seed(seed)),
        ).images[0]
        for prompt, seed in zip(PROMPTS, SEEDS, strict=True)
    ]  # fmt: skip
    ours = sample(generator, PROMPTS, SEEDS, guidance=3.0, steps=7)
    assert np.abs(ours - 255 * np.stack(theirs)).max() < 1.01


def test_neither_batch_nor_order_nor_neighbours_change_a_picture(generator):
    scales = [1.0, 2.5, 7.5, 1.0, 0.0]
    together = sample(generator, PROMPTS, SEEDS, scales, steps=4)
    for batch in (1, 2):
        assert (
            np.abs(
                sample(generator, PROMPTS, SEEDS, scales, steps=4, batch=batch).astype(int) - together
            ).max()
            <= 1
        )
    order = [3, 0, 4, 2, 1]
    shuffled = sample(
        generator, [PROMPTS[i] for i in order], [SEEDS[i] for i in order], [scales[i] for i in order], steps=4
    )
    assert np.abs(shuffled.astype(int) - together[order]).max() <= 1


def test_seed_prompt_and_guidance_each_matter(generator):
    base = sample(generator, ["a cat"], [1], 2.0, steps=4)
    for prompt, seed, scale in (("a dog", 1, 2.0), ("a cat", 2, 2.0), ("a cat", 1, 6.0)):
        assert not np.array_equal(sample(generator, [prompt], [seed], scale, steps=4), base)


def test_guidance_one_never_asks_the_empty_prompt(generator, monkeypatch):
    asked = []
    predict = generator.predict_noise
    monkeypatch.setattr(generator, "predict_noise", lambda z, t, c: asked.append(len(z)) or predict(z, t, c))
    sample(generator, PROMPTS, SEEDS, [1, 1, 1, 3, 3], steps=3)
    assert asked == [7, 7, 7]


def test_timesteps_fall_and_stay_in_the_schedule(generator):
    for steps in (1, 10, 50):
        ts = sampling_timesteps(generator, steps)
        assert len(ts) == steps and ts == sorted(ts, reverse=True) and 0 <= ts[-1] <= ts[0] < generator.T


@pytest.mark.parametrize("change, said", [
    ({"seeds": [1]}, "as many seeds"), ({"guidance": -1.0}, "at least 0"), ({"guidance": [1.0, 2.0]}, "as many seeds"),
    ({"steps": 0}, "steps must be from 1"), ({"prompts": [], "seeds": []}, "0 prompts"),
])  # fmt: skip
def test_bad_requests_say_what_is_wrong(generator, change, said):
    with pytest.raises(ValueError, match=said):
        sample(generator, **{"prompts": PROMPTS, "seeds": SEEDS, "steps": 3} | change)
