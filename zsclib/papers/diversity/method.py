"""Diversity is Definitely Needed
(Shipard, Wiliem, Nguyen Thanh, Xiang, Fookes; CVPR Workshops 2023)

The method, slow and obvious. `bag_of_tricks` and `union` do the same in
batches, and a test holds the two together.

    t = sampling_timesteps(generator, 2)
    x, y = diverse_training_set(prompts, generator, n=2, t=t)
    x                                       # (8C, H, W, 3), of four tricks
    y                                       # (8C,)
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
    prompts: Prompts, generator: Generator, n: int, t: Sequence[int],
    seed: int = 0, tricks: Sequence[str] = TRICKS,
) -> tuple[np.ndarray, np.ndarray]:
    """Return labelled images, n of each class by each trick.

    With all tricks it is the paper's "all combined".

    Args:
        prompts: names of C classes, and templates.
        t: timesteps, from most to least noise. seed: of scales and noise.

    Returns:
        x, uint8 (tricks · n · C, H, W, 3), and y, int64, as many.
    """
    domains, x, y = list(prompts.domains.values()), [], []
    for trick in tricks:
        for i in range(n):
            for j, name in enumerate(prompts.classes):
                template, s = prompts.base, 7.5       # "an image of a {}"
                if trick == "class-name":
                    template = prompts.bare           # "{}"
                if trick == "multi-domain":           # "a sketch of a {}" …
                    template = domains[(i + j) % len(domains)]
                if trick == "random-guidance":        # uniform in [1, 5]
                    u = rng(seed, "guidance", trick, name, i).random()
                    s = 1 + 4 * u
                prompt = fill(template, prompts.classes)[j]
                z_seed = seed_of(seed, "sample", trick, name, i)
                x.append(ddim(generator, prompt, s, t, z_seed))
                y.append(j)
    return np.stack(x), np.array(y)


@torch.no_grad()
def ddim(
    generator: Generator, prompt: str, s: float, t: Sequence[int], seed: int
) -> np.ndarray:
    """Return one image, uint8 (H, W, 3), guided with scale s.

    DDIM with η = 0 (Song et al. 2021, eq. 12).
    """
    both = generator.encode_prompts([prompt, ""])
    c, ø = (both.take(torch.tensor([row])) for row in (0, 1))
    draws = torch.Generator().manual_seed(seed)
    z = torch.randn(1, *generator.latent_shape, generator=draws)
    z = z.to(generator.device)                        # (1, c, h, w), noise
    for k in range(len(t)):
        ε_c = generator.predict_noise(z, t[k], c)     # (1, c, h, w)
        ε_ø = generator.predict_noise(z, t[k], ø)     # without a prompt
        ε_hat = ε_ø + s * (ε_c - ε_ø)                 # (1, c, h, w)
        a, σ = generator.signal_and_noise(t[k])       # √ᾱ_t, √(1 − ᾱ_t)
        z_0 = (z - σ * ε_hat) / a.clamp_min(1e-6)     # where it leads
        t_next = t[k + 1] if k + 1 < len(t) else 0
        a, σ = generator.signal_and_noise(t_next)
        z = a * z_0 + σ * ε_hat                       # (1, c, h, w)
    return generator.decode(z_0 if generator.prediction == "flow" else z)[0]
