"""DataDream: Few-shot Guided Dataset Generation
(Kim, Bader, Alaniz, Schmid, Akata; ECCV 2024)

The method, slow and obvious. `zsclib.models.lora` and `zsclib.sampling` do
the same in batches and jobs, and a test holds them together.

    t = sampling_timesteps(generator, 2)
    tuned = adapt(generator, small[:2], "a photo of a cat", samples=4, B=2)
    x = synthesise(tuned, "a photo of a cat", N=3, t=t)
    x                                                   # (3, H, W, 3)

A training set is that for every class, with an adapter for each (cls) or
one for all of them (dset). What learns from it, learns by `two_sources`.
"""
# fmt: off

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.parametrize import register_parametrization

from zsclib.models.conditioning import Condition
from zsclib.models.encoding import encode_texts
from zsclib.models.generator import Generator
from zsclib.models.personalised import with_parts
from zsclib.seeds import rng, torch_generator

UNET = ("to_q", "to_k", "to_v", "to_out.0")             # every attention
TEXT = ("q_proj", "k_proj", "v_proj", "out_proj")


def adapt(
    generator: Generator, x: np.ndarray, prompt: str, samples: int,
    B: int = 8, lr: Callable = lambda n: 1e-4, r: int = 16, seed: int = 0,
) -> Generator:
    """Return G_δ: the generator with adapters δ of rank r, learnt from x.

    Args:
        x: K real images of a class, uint8 (K, H, W, 3). prompt: its own.
        samples: noisy images met, in batches of B. lr: rate at each.
    """
    unet = copy.deepcopy(generator.unet)
    text = copy.deepcopy(generator.text_encoder)
    G = with_parts(generator, unet=unet, text_encoder=text)
    δ = [*attach(unet, "unet", UNET, r, seed),
         *attach(text, "text_encoder", TEXT, r, seed)]
    z, K = G.encode_images(x), len(x)                   # (K, c, h, w)
    optimizer = torch.optim.AdamW(δ, weight_decay=1e-2)
    for n in range(0, samples, B):
        batch = range(n, min(n + B, samples))
        optimizer.param_groups[0]["lr"] = lr(n)
        optimizer.zero_grad()
        for k in batch:
            i = rng(seed, "tuning order", k // K).permutation(K)[k % K]
            stream = torch_generator(seed, "tuning noise", k)
            t = torch.randint(G.T, (1,), generator=stream)
            ε = torch.randn(G.latent_shape, generator=stream)
            a, s = G.signal_and_noise(t)                # √ᾱ_t, √(1 − ᾱ_t)
            c = Condition(*encode_texts(G, [prompt]))   # (1, L, d)
            ε_hat = G.predict(a * z[i] + s * ε, t, c)   # (1, c, h, w)
            (((ε_hat - ε) ** 2).mean() / len(batch)).backward()
        nn.utils.clip_grad_norm_(δ, 1.0)
        optimizer.step()
    return G


class Adapter(nn.Module):
    """W becomes W + B A; A begins at random, B as 0 (Hu et al. 2022)."""

    def __init__(self, W: Tensor, r: int, stream: torch.Generator):
        super().__init__()
        A = torch.randn(r, W.shape[1], generator=stream) / r
        self.A = nn.Parameter(A)                        # (r, in)
        self.B = nn.Parameter(torch.zeros(len(W), r))   # (out, r)

    def forward(self, W: Tensor) -> Tensor:
        return W + self.B @ self.A                      # (out, in)


def attach(
    network: nn.Module, part: str, ends: tuple[str, ...], r: int, seed: int
) -> list[nn.Parameter]:
    """Put an adapter beside the weight of every layer so named."""
    δ = []
    for name, layer in list(network.named_modules()):
        if name.endswith(ends) and isinstance(layer, nn.Linear):
            where = f"{part}.{name}.lora_A.weight"
            stream = torch_generator(seed, "adapter", where)
            adapter = Adapter(layer.weight, r, stream)
            register_parametrization(layer, "weight", adapter)
            δ += adapter.parameters()
    return δ


@torch.no_grad()
def synthesise(
    G: Generator, prompt: str, N: int, t: Sequence[int],
    s: float = 2.0, seeds: Sequence[int] | None = None,
) -> np.ndarray:
    """Return N images of a class, uint8 (N, H, W, 3): DDIM, guidance s."""
    x, both = [], G.encode_prompts([prompt, ""])
    c, ø = (both.take(torch.tensor([row])) for row in (0, 1))
    for i in range(N) if seeds is None else seeds:
        draws = torch.Generator().manual_seed(i)
        z = torch.randn(1, *G.latent_shape, generator=draws)
        for k in range(len(t)):
            ε_c, ε_ø = (G.predict_noise(z, t[k], y) for y in (c, ø))
            ε_hat = ε_ø + s * (ε_c - ε_ø)               # (1, c, h, w)
            a, σ = G.signal_and_noise(t[k])
            z_0 = (z - σ * ε_hat) / a                   # where it leads
            a, σ = G.signal_and_noise(t[k + 1] if k + 1 < len(t) else 0)
            z = a * z_0 + σ * ε_hat                     # (1, c, h, w)
        x.append(G.decode(z)[0])
    return np.stack(x)


def two_sources(
    f: Callable, real: tuple, synthetic: tuple, λ: float = 0.8
) -> Tensor:
    """Return λ CE(f(x), y) + (1 − λ) CE(f(x̃), ỹ), what f is to minimise."""
    (x, y), (x̃, ỹ) = real, synthetic
    return λ * cross_entropy(f(x), y) + (1 - λ) * cross_entropy(f(x̃), ỹ)
