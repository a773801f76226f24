"""Diversity is Definitely Needed (Shipard, Wiliem, Nguyen Thanh, Xiang, Fookes; CVPR Workshops 2023).

The method, slow and obvious. `bag_of_tricks` and `union` do the same in batches, and a test holds the two together.

    x, y = diverse_training_set(prompts, generator, n=2, t=sampling_timesteps(generator, 2))
    x                                                                       # (8C, H, W, 3), four tricks
    y                                                                       # (8C,)
"""
# fmt: off

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from zsclib.models.generator import Generator
from zsclib.prompts import Prompts, fill
from zsclib.seeds import rng, seed_of

TRICKS = ("base", "class-name", "multi-domain", "random-guidance")


def diverse_training_set(
    prompts: Prompts, generator: Generator, n: int, t: Sequence[int], seed: int = 0, tricks: Sequence[str] = TRICKS
) -> tuple[np.ndarray, np.ndarray]:
    """Return labelled images of C classes, n of each class by each trick: the paper's "all combined".

    Args:
        prompts: class names and templates. t: timesteps, from most to least noise. seed: of scales and noise.

    Returns:
        x, uint8 (tricks · n · C, H, W, 3), and y, int64, as many.
    """
    domains, x, y = list(prompts.domains.values()), [], []
    for trick in tricks:
        for i in range(n):
            for j, name in enumerate(prompts.classes):
                template, s = prompts.base, 7.5                        # "an image of a {}"
                if trick == "class-name":
                    template = prompts.bare                            # "{}"
                if trick == "multi-domain":
                    template = domains[(i + j) % len(domains)]         # "a sketch of a {}", "a poster of a {}", …
                if trick == "random-guidance":
                    s = 1 + 4 * rng(seed, "guidance", trick, name, i).random()         # uniform in [1, 5]
                prompt = fill(template, prompts.classes)[j]
                x.append(ddim(generator, prompt, s, t, seed_of(seed, "sample", trick, name, i)))
                y.append(j)
    return np.stack(x), np.array(y)


@torch.no_grad()
def ddim(generator: Generator, prompt: str, s: float, t: Sequence[int], seed: int) -> np.ndarray:
    """Return one image, uint8 (H, W, 3): DDIM with η = 0 (Song et al. 2021, eq. 12), guided with scale s."""
    c, ø = (generator.encode_prompts([prompt, ""]).take(torch.tensor([row])) for row in (0, 1))
    z = torch.randn(1, *generator.latent_shape, generator=torch.Generator().manual_seed(seed))
    z = z.to(generator.device)                                         # (1, c, h, w), all noise
    for k in range(len(t)):
        ε_c = generator.predict_noise(z, t[k], c)                      # (1, c, h, w), with the prompt
        ε_ø = generator.predict_noise(z, t[k], ø)                      # (1, c, h, w), without
        ε̂ = ε_ø + s * (ε_c - ε_ø)                                      # (1, c, h, w)
        a, σ = generator.signal_and_noise(t[k])                        # √ᾱ_t and √(1 − ᾱ_t)
        z_0 = (z - σ * ε̂) / a.clamp_min(1e-6)                          # (1, c, h, w), the image it leads to
        a, σ = generator.signal_and_noise(t[k + 1] if k + 1 < len(t) else 0)
        z = a * z_0 + σ * ε̂                                            # (1, c, h, w), at the next timestep
    return generator.decode(z_0 if generator.prediction == "flow" else z)[0]
