"""Worlds with a known answer, and a cache that dies: what tests measure the library against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from zsclib.cache import Cache
from zsclib.models.conditioning import Condition


class Gaussians:
    """A generator that is exactly right about a world in which class c is a normal cloud around mean c.

    Images are latents times 8 plus 128; the best prediction of the noise, given the class, is linear in z_t:
    E[ε | z_t, c] = s (z_t − a mean_c) / (a² width² + s²). It counts its network evaluations.
    """

    T, image_size, device, latent_shape, width = 100, 4, torch.device("cpu"), (3, 4, 4), 0.5

    def __init__(self, classes: int = 6):
        self.means = torch.randn(classes, *self.latent_shape, generator=torch.Generator().manual_seed(5)) / 2
        angle = torch.linspace(0.05, 1.5, self.T)
        self.a, self.s = angle.cos(), angle.sin()
        self.evaluations = 0

    def encode_prompts(self, prompts: Sequence[str]) -> Condition:
        means = [self.means[int(prompt.split()[-1])] if prompt else self.means.mean(0) for prompt in prompts]
        return Condition(torch.stack([mean.flatten()[None] for mean in means]))

    def encode_images(self, images: np.ndarray) -> Tensor:
        return (torch.from_numpy(images).permute(0, 3, 1, 2).float() - 128) / 8

    def signal_and_noise(self, t: Tensor | int) -> tuple[Tensor, Tensor]:
        return self.a[t].view(-1, 1, 1, 1), self.s[t].view(-1, 1, 1, 1)

    def predict_noise(
        self, z_t: Tensor, t: Tensor | int, condition: Condition, copies: Tensor | None = None
    ) -> Tensor:
        if copies is not None:
            z_t, t = z_t[copies], t[copies]
        self.evaluations += len(z_t)
        a, s = self.signal_and_noise(t)
        mean = condition.embeddings.view(-1, *self.latent_shape)
        return s * (z_t - a * mean) / (a**2 * self.width**2 + s**2)

    def fingerprint(self) -> str:
        return "gaussians"

    def sample(self, n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Return n images of the classes in turn, uint8 (n, 4, 4, 3), and their labels."""
        labels = np.arange(n) % len(self.means)
        z = torch.randn(n, *self.latent_shape, generator=torch.Generator().manual_seed(seed)) * self.width
        images = ((z + self.means[labels]) * 8 + 128).round().clamp(0, 255).to(torch.uint8)
        return images.permute(0, 2, 3, 1).numpy(), labels

    def bayes(self, images: np.ndarray) -> np.ndarray:
        """Return the likeliest class of each image."""
        z = self.encode_images(images)
        return (z[:, None] - self.means).square().flatten(2).sum(2).argmin(1).numpy()


class MortalCache(Cache):
    """A cache that can die: after so many `put`s it fails, as a killed run would."""

    def __init__(self, folder: Path, lives: int = 10**9):
        super().__init__(folder)
        self.lives = lives

    def __len__(self) -> int:
        return len(list(self.folder.glob("*.safetensors")))

    def put(self, key: str, arrays: Mapping[str, np.ndarray], about: Mapping[str, object] | None = None) -> None:
        if self.lives == 0:
            raise KeyboardInterrupt
        self.lives -= 1
        super().put(key, arrays, about)
