"""Your Diffusion Model is Secretly a Zero-Shot Classifier
(Li, Prabhudesai, Duggal, Brown, Pathak; ICCV 2023)

The method, slow and obvious. `classify` does the same in batches, and a test
holds the two together.

    t = [125, 375, 625, 875]
    errors = diffusion_classifier(images, prompts, generator, t)  # (n, C, 4)
    errors.mean(2).argmin(1)                             # (n,), the classes
"""
# fmt: off

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from zsclib.models.conditioning import Condition
from zsclib.models.generator import Generator
from zsclib.seeds import torch_generator


def diffusion_classifier(
    x: np.ndarray, prompts: Sequence[str], generator: Generator,
    t: Sequence[int], seed: int = 0,
) -> np.ndarray:
    """Return the error of image i under class j at timestep t_k.

    float32 (n, C, K), algorithm 1. Its mean over k estimates eq. 6; the
    class for which that is least is the prediction.

    Args:
        x: uint8 (n, H, W, 3). prompts: one for each of C classes.
        t: K timesteps. seed: of the noise.
    """
    z = generator.encode_images(x)                    # (n, c, h, w)
    c = generator.encode_prompts(prompts)             # C rows
    errors = np.empty((len(z), len(c), len(t)), np.float32)
    for i in range(len(z)):
        for k in range(len(t)):
            ε = noise(seed, i, k, z.shape[1:])        # the same for all j
            for j in range(len(c)):
                c_j = c.take(torch.tensor([j]))       # 1 row
                errors[i, j, k] = error(generator, z[i], c_j, t[k], ε)
    return errors                                     # (n, C, K)


def adaptive_diffusion_classifier(
    x: np.ndarray, prompts: Sequence[str], generator: Generator,
    stages: Sequence[tuple[Sequence[int], int]], seed: int = 0,
) -> np.ndarray:
    """Return the predicted class of each image, int64 (n,).

    Hopeless classes are left out early: algorithm 2.

    Args:
        x, prompts, seed: as above. stages: the timesteps that each adds, and
            how many classes it keeps, at last 1.
    """
    z = generator.encode_images(x)                    # (n, c, h, w)
    c = generator.encode_prompts(prompts)             # C rows
    predictions = []
    for i in range(len(z)):
        errors, left, k = [[] for _ in prompts], list(range(len(c))), 0
        for t_stage, keep in stages:
            for t in t_stage:
                ε, k = noise(seed, i, k, z.shape[1:]), k + 1
                for j in left:
                    c_j = c.take(torch.tensor([j]))
                    errors[j].append(error(generator, z[i], c_j, t, ε))
            left = sorted(left, key=lambda j: np.mean(errors[j]))[:keep]
        predictions.append(left[0])
    return np.array(predictions)


@torch.no_grad()
def error(
    generator: Generator, z: Tensor, c: Condition, t: int, ε: Tensor
) -> float:
    """Return ‖ε − ε_θ(z_t, t, c)‖², averaged: one network evaluation."""
    a, s = generator.signal_and_noise(t)              # √ᾱ_t, √(1 − ᾱ_t)
    ε = ε.to(z.device)                                # (c, h, w)
    z_t = a * z[None] + s * ε                         # (1, c, h, w)
    ε_hat = generator.predict_noise(z_t, t, c)        # (1, c, h, w)
    return float(((ε - ε_hat) ** 2).mean())


def noise(seed: int, key: int | str, k: int, shape: Sequence[int]) -> Tensor:
    """Return ε_k of the image of that key, normal, float32 (c, h, w)."""
    draws = torch_generator(seed, "noise", key, k)
    return torch.randn(*shape, generator=draws)
