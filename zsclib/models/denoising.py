"""One denoising loop for everything that tunes a generator: a word, a conditioning, an adapter, a whole network.

What is tuned is a list of tensors; how the network is asked, a function of labels, through which gradients may flow.

    y = torch.tensor([0, 1, 0])
    shots = Latents(generator.encode_images(images), y)           # z: (n, 4, 8, 8)
    c = generator.encode_prompts(prompts).embeddings              # (C, 24, 16)
    short = Tuning(samples=8, batch=4, learning_rate=1e-3, check_every=4)
    history = finetune(generator, shots, lambda y, _: Condition(c[y]), [c], short)
    history.to_numpy()                                            # (3, 3): at 0, 4 and 8 samples
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from zsclib.checks import is_integer
from zsclib.hashing import key
from zsclib.models.conditioning import Condition
from zsclib.models.generator import Generator
from zsclib.paths import atomic
from zsclib.seeds import rng, torch_generator

AT_ONCE = 64  # latents in one forward pass; a larger batch is summed up in parts
HELD_OUT_DRAWS = 256  # noisy latents on which the held-out loss is measured, at least
HELD_OUT_SEED = 0  # their noise is the same for every tuning, so that losses compare


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """How a generator is tuned: AdamW (Loshchilov & Hutter 2019) on noisy latents, at one pace for all arms.

    Attributes:
        samples: noisy latents met, batch after batch; the images are repeated in a new order each time.
        batch: samples of an optimiser step.
        learning_rate: at its peak.
        seed: of order, timesteps and noise.
        warm_up: samples over which the learning rate rises to its peak, linearly.
        decay: "constant", or "cosine" to zero (Loshchilov & Hutter 2017).
        weight_decay: of AdamW; 0 is Adam.
        max_gradient_norm: longer gradients are shortened to it.
        check_every: samples between two rows of the history.

    Raises:
        ValueError: a count below 1, a learning rate that is not positive, another decay.
    """

    samples: int
    batch: int = 16
    learning_rate: float
    seed: int = 0
    warm_up: int = 0
    decay: str = "constant"
    weight_decay: float = 0.0
    max_gradient_norm: float = 1.0
    check_every: int = 1000

    def __post_init__(self) -> None:
        for name, least in (("samples", 1), ("batch", 1), ("check_every", 1), ("warm_up", 0)):
            if not is_integer(getattr(self, name), least):
                raise ValueError(f"Tuning: {name} must be an integer of at least {least}, got {getattr(self, name)!r}")
        for name in ("learning_rate", "max_gradient_norm"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"Tuning: {name} must be positive, got {getattr(self, name)!r}")
        if self.decay not in ("constant", "cosine") or not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"Tuning: decay {self.decay!r} must be constant or cosine, weight decay at least 0")

    def learning_rate_at(self, sample: int) -> float:
        """Return the learning rate of the step that begins at a sample."""
        if sample < self.warm_up:
            return self.learning_rate * (sample + self.batch) / (self.warm_up + self.batch)
        if self.decay == "constant":
            return self.learning_rate
        share = (sample - self.warm_up) / max(1, self.samples - self.warm_up)
        return self.learning_rate * (1 + math.cos(math.pi * share)) / 2


class Latents(NamedTuple):
    """Encoded images z, float32 (n, c, h, w), and their labels, int64 (n,)."""

    z: Tensor
    labels: Tensor


# y int64 (b,), samples int64 (b,) -> what the network is asked for, b rows. Samples are counted from 0 and never again,
# so that what is chosen at random for one (a template) follows from its number.
Conditions = Callable[[Tensor, np.ndarray], Condition]


@torch.inference_mode(False)
@torch.enable_grad()
def finetune(
    generator: Generator,
    shots: Latents,
    condition: Conditions,
    parameters: Sequence[Tensor],
    tuning: Tuning,
    held_out: Latents | None = None,
    at_once: int = AT_ONCE,
    checkpoint: Path | None = None,
) -> pd.DataFrame:
    """Minimise the denoising error E ‖ε − ε̂(z_t, t, c)‖² (Ho et al. 2020, eq. 14; Rombach et al. 2022, eq. 2).

    z_t = √ᾱ_t z + √(1 − ᾱ_t) ε with t uniform and no weights; a v- or flow-predicting model is compared with its own
    target. Image, t and ε of every sample follow from the seed and its number: neither how many go through the network
    at once, nor a stop on the way, nor the device changes a result beyond rounding.

    Args:
        generator: whose network predicts, in float32.
        shots: the images to learn from.
        condition: what the network is asked for; differentiable where parameters lie behind it.
        parameters: leaf tensors, changed in place; nothing else changes.
        tuning: how.
        held_out: other images, on whose fixed noise the loss is measured.
        at_once: samples in one forward pass.
        checkpoint: a file to which the state goes at every check, and from which a run that was stopped goes on; it is
            removed at the end.

    Returns:
        A row per check: `samples` met so far, `loss` (mean since the last row), `held_out` loss; NaN where there is
        none.

    Raises:
        ValueError: no images, latents of another shape, lower precision, a checkpoint of another tuning or cut short.
        FloatingPointError: the loss is not finite.
    """
    z, labels = _checked(generator, shots)
    begin = [parameter.detach() for parameter in parameters]
    begin_key = None if checkpoint is None else key(z=z, labels=labels, tuning=tuning, parameters=begin)
    optimizer = torch.optim.AdamW(parameters, tuning.learning_rate, weight_decay=tuning.weight_decay)
    first, rows = _resumed(checkpoint, begin_key, parameters, optimizer)
    losses: list[float] = []

    def check(sample: int) -> None:
        error = math.nan if held_out is None else held_out_loss(generator, held_out, condition, at_once)
        rows.append({"samples": sample, "loss": float(np.mean(losses)) if losses else math.nan, "held_out": error})
        losses.clear()

    for parameter in parameters:
        parameter.requires_grad_(True)
    try:
        if first == 0:
            check(0)
        while first < tuning.samples:
            samples = np.arange(first, min(first + tuning.batch, tuning.samples))
            optimizer.param_groups[0]["lr"] = tuning.learning_rate_at(first)
            for part in np.split(samples, range(at_once, len(samples), at_once)):
                i = batch_rows(tuning.seed, part, len(z))                                  # (b,)
                t, ε = noise_of_samples(generator, tuning.seed, part)                      # (b,), (b, c, h, w)
                c = condition(labels[i], part)                                             # b prompts
                errors = denoising_errors(generator, z[i], t, ε, c)                        # (b,)
                (errors.sum() / len(samples)).backward()
                losses += errors.tolist()
            if not math.isfinite(sum(losses)):
                raise FloatingPointError(
                    f"the loss is {losses[-1]} after {first} samples: lower the learning rate ({tuning.learning_rate})"
                )
            torch.nn.utils.clip_grad_norm_(parameters, tuning.max_gradient_norm)
            optimizer.step()
            optimizer.zero_grad()
            before, first = first, int(samples[-1]) + 1
            if first // tuning.check_every > before // tuning.check_every or first == tuning.samples:
                check(first)
                _save(checkpoint, begin_key, first, parameters, optimizer, rows)
    finally:
        for parameter in parameters:
            parameter.requires_grad_(False).grad = None
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    return pd.DataFrame(rows)


def denoising_errors(generator: Generator, z: Tensor, t: Tensor, ε: Tensor, condition: Condition) -> Tensor:
    """Return the squared error of each sample, float32 (b,), of what the network predicts: ε, v or a velocity.

    a = √ᾱ_t, s = √(1 − ᾱ_t); of flow models 1 − σ and σ.
    """
    a, s = generator.signal_and_noise(t)                                                   # (b, 1, 1, 1)
    z_t = a * z + s * ε                                                                    # (b, c, h, w)
    target = generator.schedule.target(z, ε, t)                                            # (b, c, h, w): ε, or v
    ε_hat = generator.predict(z_t, t, condition)                                           # (b, c, h, w): ε̂, or v̂
    return ((ε_hat - target) ** 2).mean((1, 2, 3))                                         # (b,)


def batch_rows(seed: int, samples: np.ndarray, n: int) -> np.ndarray:
    """Return which of n images each sample is, int64 (b,): all of them in a new order, time after time."""
    rounds, place = np.divmod(samples, n)
    orders = {turn: rng(seed, "tuning order", int(turn)).permutation(n) for turn in np.unique(rounds)}
    return np.array([orders[turn][i] for turn, i in zip(rounds, place, strict=True)], np.int64)


def noise_of_samples(generator: Generator, seed: int, samples: np.ndarray) -> tuple[Tensor, Tensor]:
    """Return t int64 (b,), uniform in 0..T−1, and ε float32 (b, c, h, w) of each sample, made on the CPU."""
    streams = [torch_generator(seed, "tuning noise", int(sample)) for sample in samples]
    t = torch.stack([torch.randint(generator.T, (), generator=stream) for stream in streams])
    ε = torch.stack([torch.randn(generator.latent_shape, generator=stream) for stream in streams])
    return t.to(generator.device), ε.to(generator.device)


@torch.no_grad()
def held_out_loss(generator: Generator, held_out: Latents, condition: Conditions, at_once: int = AT_ONCE) -> float:
    """Return the mean error on images that are not tuned on: noise and timesteps always the same, t spread evenly."""
    z, labels = _checked(generator, held_out)
    m = len(z) * math.ceil(HELD_OUT_DRAWS / len(z))
    order = rng(HELD_OUT_SEED, "held-out timesteps").permutation(m)
    timesteps = torch.from_numpy((order + 0.5) * generator.T / m).long().to(generator.device)    # (m,)
    total = 0.0
    for part in np.split(np.arange(m), range(at_once, m, at_once)):
        streams = [torch_generator(HELD_OUT_SEED, "held-out noise", int(sample)) for sample in part]
        ε = torch.stack([torch.randn(generator.latent_shape, generator=stream) for stream in streams])
        i, t = part % len(z), timesteps[part]                                              # (b,), (b,)
        errors = denoising_errors(generator, z[i], t, ε.to(generator.device), condition(labels[i], part))
        total += errors.double().sum().item()
    return total / m


def _checked(generator: Generator, shots: Latents) -> Latents:
    """Return latents on the generator's device."""
    z, labels = shots
    if len(z) == 0 or len(z) != len(labels) or tuple(z.shape[1:]) != generator.latent_shape:
        raise ValueError(
            f"finetune: latents must be (n, {', '.join(map(str, generator.latent_shape))}) with n labels, n at least "
            f"1; got {tuple(z.shape)} and {len(labels)} labels"
        )
    if generator.dtype != torch.float32:
        raise ValueError(
            f"a generator is tuned in float32, this one computes in {generator.dtype}: open it with "
            "dtype=torch.float32, and sample from the result in whatever precision"
        )
    return Latents(z.to(generator.device, torch.float32).clone(), labels.to(generator.device))


def _save(
    path: Path | None, begin_key: str | None, sample: int, parameters: Sequence[Tensor],
    optimizer: torch.optim.Optimizer, rows: list[dict],
) -> None:  # fmt: skip
    """Write the state of a tuning, whole or not at all."""
    if path is None:
        return
    tensors = {f"parameter.{i}": parameter for i, parameter in enumerate(parameters)}
    for i, state in optimizer.state_dict()["state"].items():
        tensors |= {f"{name}.{i}": value for name, value in state.items()}
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    text = json.dumps({"key": begin_key, "sample": sample, "rows": rows})
    with atomic(path) as temporary:
        save_file(tensors, temporary, metadata={"about": text})


def _resumed(
    path: Path | None, begin_key: str | None, parameters: Sequence[Tensor], optimizer: torch.optim.Optimizer
) -> tuple[int, list[dict]]:
    """Put parameters and optimiser into the state of a checkpoint; return the next sample, and the rows so far."""
    if path is None or not path.exists():
        return 0, []
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get("about", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is no whole checkpoint ({error}); delete it to begin anew") from None
    if about.get("key") != begin_key:
        raise ValueError(f"{path} is the checkpoint of another tuning; delete it, or name another file")
    with torch.no_grad():
        for i, parameter in enumerate(parameters):
            parameter.copy_(tensors[f"parameter.{i}"])
    states: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        kind, _, i = name.rpartition(".")
        if kind != "parameter":
            states.setdefault(int(i), {})[kind] = value
    optimizer.load_state_dict(optimizer.state_dict() | {"state": states})
    return about["sample"], about["rows"]
