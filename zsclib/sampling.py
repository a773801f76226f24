"""Prompts become pictures: DDIM with classifier-free guidance, one seed and one scale per picture.

Pictures of different prompts, scales and seeds share a batch, and none depends on which others it was drawn with.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from zsclib.models.generator import Condition, Generator


def sample(
    generator: Generator,
    prompts: Sequence[str],
    seeds: Sequence[int],
    guidance: float | Sequence[float] = 7.5,
    steps: int = 40,
    batch: int = 128,
    progress: Iterable | None = None,
) -> np.ndarray:
    """Draw one picture per prompt (Song et al. 2021, eq. 12 with η = 0; guidance: Ho & Salimans 2022, eq. 6).

    Args:
        generator: a text-to-image model.
        prompts: n prompts.
        seeds: n seeds, each the seed of one picture's initial noise (see `zsclib.seeds.seed_of`).
        guidance: the scale s of ε̂ = ε_∅ + s·(ε_c − ε_∅), one for all or n of them; 1 is purely conditional and
            skips the unconditional pass.
        steps: DDIM steps.
        batch: pictures drawn at once; it changes no picture beyond rounding.
        progress: wraps the loop over batches, such as `tqdm`.

    Returns:
        uint8 (n, H, W, 3).

    Raises:
        ValueError: numbers of prompts, seeds and scales differ, a negative scale, or a number of steps that does not
            fit the model's schedule.
    """
    n = len(prompts)
    scales = (
        np.broadcast_to(np.asarray(guidance, np.float32), (n,))
        if np.ndim(guidance) == 0
        else np.asarray(guidance)
    )
    if n == 0 or len(seeds) != n or len(scales) != n:
        raise ValueError(
            f"sample: {n} prompts need as many seeds and scales, got {len(seeds)} and {len(scales)}"
        )
    if (scales < 0).any() or not np.isfinite(scales).all():
        raise ValueError(f"sample: guidance must be a number of at least 0, got {scales.min()}")
    unique = list(dict.fromkeys(prompts))
    where = {prompt: row for row, prompt in enumerate(unique)}
    encoded = generator.encode_prompts([*unique, ""])
    rows = torch.tensor([where[prompt] for prompt in prompts])
    timesteps = sampling_timesteps(generator, steps)
    images = []
    for start in (progress or iter)(range(0, n, batch)):
        part = slice(start, start + batch)
        noise = [
            torch.randn(generator.latent_shape, generator=torch.Generator("cpu").manual_seed(int(seed)))
            for seed in seeds[part]
        ]
        z = _ddim(generator, torch.stack(noise), encoded, rows[part], torch.tensor(scales[part]), timesteps)
        images.append(generator.decode(z))
    return np.concatenate(images)


def sampling_timesteps(generator: Generator, steps: int) -> list[int]:
    """Return the noise levels a sampler visits, from most to least noise, spaced as the model's scheduler says."""
    if not 1 <= steps <= generator.T:
        raise ValueError(f"sample: steps must be from 1 to {generator.T}, got {steps}")
    if generator.alphas_cumprod is None:
        return [round(t) for t in np.linspace(generator.T - 1, 0, steps)]
    scheduler = DDIMScheduler.from_config(generator.scheduler.config)
    scheduler.set_timesteps(steps)
    return [min(int(t), generator.T - 1) for t in scheduler.timesteps]


@torch.inference_mode()
def _ddim(
    generator: Generator,
    z: Tensor,
    encoded: Condition,
    rows: Tensor,
    scales: Tensor,
    timesteps: Sequence[int],
) -> Tensor:
    """Turn noise z (n, c, h, w) into latents; the last row of `encoded` is the empty prompt."""
    z, s = z.to(generator.device), scales.to(generator.device, torch.float32).view(-1, 1, 1, 1)
    guided = torch.nonzero(scales != 1).flatten()
    empty = torch.full((len(guided),), len(encoded.embeddings) - 1)
    condition = encoded.take(torch.cat([rows, empty]).to(encoded.embeddings.device))
    guided = guided.to(generator.device)
    for t, t_next in zip(timesteps, [*timesteps[1:], None], strict=True):
        noise_hat = generator.predict_noise(torch.cat([z, z[guided]]), t, condition)
        conditional, unconditional = noise_hat[: len(z)], noise_hat[: len(z)].clone()
        unconditional[guided] = noise_hat[len(z) :]
        noise_hat = unconditional + s * (conditional - unconditional)
        a, sigma = generator.signal_and_noise(t)
        z0 = (z - sigma * noise_hat) / a.clamp_min(1e-6)
        a, sigma = generator.signal_and_noise(t_next if t_next is not None else 0)
        # Below the lowest level there is none: diffusion models end at t = 0's, as Stable Diffusion's scheduler
        # does (set_alpha_to_one = False); a flow ends at its data.
        z = z0 if t_next is None and generator.alphas_cumprod is None else a * z0 + sigma * noise_hat
    return z
