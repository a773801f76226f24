"""What decides a training: its plan, and the learning rate and the batch that the plan gives at every step."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np

from zsclib.pretraining.sizes import POCKET, Sizes
from zsclib.seeds import rng


@dataclass(frozen=True)
class Plan:
    """The settings of a training; the learning rate is a function of `samples`, the planned total.

    The names of the fields are stored in checkpoints and in every `training.json`, so they stay as they are.
    """

    name: str
    _: KW_ONLY
    samples: int
    batch: int = 128
    rate: float = 1e-3  # learning rate at its highest
    warmup: int = 200  # steps
    decay: float = 0.2  # share of the run, at its end, in which the learning rate falls to 0
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.01  # matrices and kernels only
    clip: float = 1.0  # max gradient norm
    ema: float = 0.999  # decay of the averaged weights
    seed: int = 0
    log_every: int = 100  # steps
    validate_every: int = 500  # steps
    save_minutes: float = 4.0
    minutes: float | None = None  # wall-clock budget of this call
    milestones: bool = False  # save the averaged weights whenever the number of samples has doubled

    @property
    def steps(self) -> int:
        return self.samples // self.batch

    @property
    def stable_steps(self) -> int:
        """The step at which the learning rate begins to fall."""
        return self.steps - round(self.decay * self.steps)


@dataclass(frozen=True, kw_only=True)
class Training:
    """One training as a command starts it: a plan, where its checkpoints lie, and what it starts from.

    Args:
        plan: the settings.
        folder: where the checkpoints lie, as `<name>-<step>.safetensors` with a `.sha256` beside each.
        held_out: items at the end of the data that are only validated on.
        facts: what else determines the result (pool, frozen parts); a checkpoint with other facts is refused.
        begin: an earlier training of the same folder whose averaged weights this one starts from; None: random ones.
        sizes: of the networks.
        device: where to compute.
    """

    plan: Plan
    folder: Path
    held_out: int = 0
    facts: dict = field(default_factory=dict)
    begin: str | None = None
    sizes: Sizes = POCKET
    device: str = "cpu"


def learning_rate(step: int, plan: Plan) -> float:
    """Return the learning rate of a 0-based step: warm-up, constant, linear fall to 0 (Hu et al. 2024, MiniCPM)."""
    warm = min(1.0, (step + 1) / max(plan.warmup, 1))
    fall = min(1.0, (plan.steps - step) / max(plan.steps - plan.stable_steps, 1))
    return plan.rate * warm * fall


def batch_indices(plan: Plan, step: int, n: int) -> np.ndarray:
    """Return the indices int64 (batch,) of a step: the pool in a new order every epoch, nothing left over."""
    position = np.arange(step * plan.batch, (step + 1) * plan.batch)
    epochs = position // n
    parts = [
        _order(plan.seed, plan.name, int(epoch), n)[position[epochs == epoch] % n]
        for epoch in np.unique(epochs)
    ]
    return np.concatenate(parts)


@lru_cache(maxsize=2)
def _order(seed: int, name: str, epoch: int, n: int) -> np.ndarray:
    return rng(seed, "order", name, epoch).permutation(n)
