"""The training loop of the pocket models: one optimiser, averaged weights, checkpoints that survive a kill.

Every batch and every noise map is a function of (seed, step), so a run that was stopped and resumed, here or
on another machine, sees the same data as one that was not.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from zsclib.hashing import hash_file
from zsclib.pretraining.checkpoint import (
    checkpoints,
    digest_path,
    read_meta,
    read_tensors,
    write_checkpoint,
)
from zsclib.seeds import rng


@dataclass(frozen=True)
class Plan:
    """What decides a training run; the learning rate is a function of `samples`, the planned total."""

    name: str
    samples: int
    batch: int = 128
    rate: float = 1e-3
    warmup: int = 200  # steps
    decay: float = 0.2  # share of the run, at its end, in which the rate falls to 0
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.01  # matrices and kernels only
    clip: float = 1.0  # largest gradient norm
    ema: float = 0.999
    seed: int = 0
    log_every: int = 100  # steps
    validate_every: int = 500  # steps
    save_minutes: float = 4.0
    minutes: float | None = None  # wall-clock budget of this call
    milestones: bool = False  # keep the averaged weights whenever the samples seen have doubled

    @property
    def steps(self) -> int:
        return self.samples // self.batch

    @property
    def stable_steps(self) -> int:
        """The step at which the rate begins to fall."""
        return self.steps - round(self.decay * self.steps)


def learning_rate(step: int, plan: Plan) -> float:
    """Return the rate of a 0-based step: warm-up, constant, linear fall to 0 (Hu et al. 2024, MiniCPM)."""
    warm = min(1.0, (step + 1) / max(plan.warmup, 1))
    fall = min(1.0, (plan.steps - step) / max(plan.steps - plan.stable_steps, 1))
    return plan.rate * warm * fall


def batch_indices(plan: Plan, step: int, n: int) -> np.ndarray:
    """Return the indices int64 (batch,) of a step: the pool in a new order every epoch, nothing left over."""
    position = np.arange(step * plan.batch, (step + 1) * plan.batch)
    epochs = position // n
    return np.concatenate(
        [
            _order(plan.seed, plan.name, int(epoch), n)[position[epochs == epoch] % n]
            for epoch in np.unique(epochs)
        ]
    )


@lru_cache(maxsize=2)
def _order(seed: int, name: str, epoch: int, n: int) -> np.ndarray:
    return rng(seed, "order", name, epoch).permutation(n)


def update_ema(ema: dict[str, Tensor], model: nn.Module, step: int, decay: float) -> None:
    """Move the averages towards the weights by 1 − min(decay, (1 + step) / (10 + step)), in place."""
    weights = dict(model.named_parameters())
    rate = 1 - min(decay, (1 + step) / (10 + step))
    with torch.no_grad():
        torch._foreach_lerp_(list(ema.values()), [weights[name] for name in ema], rate)


@contextmanager
def averaged(model: nn.Module, ema: dict[str, Tensor]) -> Iterator[nn.Module]:
    """Lend the model with its averaged weights, in eval mode; the trained weights come back afterwards."""
    kept = {name: p.detach().clone() for name, p in model.named_parameters() if name in ema}
    training = model.training
    try:
        _copy(model, ema)
        yield model.eval()
    finally:
        _copy(model, kept)
        model.train(training)


def _copy(model: nn.Module, weights: dict[str, Tensor]) -> None:
    named = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in weights.items():
            named[name].copy_(value)


def train(
    plan: Plan,
    model: nn.Module,
    loss: Callable[[nn.Module, int], Tensor],
    folder: Path,
    facts: dict | None = None,
    validate: Callable[[nn.Module], dict[str, float]] | None = None,
) -> list[dict]:
    """Train until the planned samples or the minutes are spent, resuming from the newest checkpoint.

    Args:
        plan: the settings.
        model: the network, on its device; trained in place, except what requires no gradient.
        loss: (model, step) → scalar; must draw its batch and its noise from the step number alone.
        folder: where checkpoints lie, as `<name>-<step>.safetensors` with a `.sha256` beside each.
        facts: what else determines the run (pool, frozen parts); a checkpoint with other facts is refused.
        validate: averaged model → named numbers, recorded every `validate_every` steps and at the end.

    Returns: the history, a row per `log_every` steps: step, samples, loss, rate, seconds, validation values.
    Raises: ValueError for an altered checkpoint or other facts, FloatingPointError for a loss not finite.
    """
    folder = Path(folder)
    facts = json.loads(json.dumps(facts or {}))
    device = next(model.parameters()).device
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    groups = [
        {"params": [p for p in named.values() if p.ndim > 1], "weight_decay": plan.weight_decay},
        {"params": [p for p in named.values() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=plan.rate, betas=plan.betas, fused=True)
    ema = {name: p.detach().clone() for name, p in named.items()}
    step, seconds, history = _resume(plan, model, ema, optimizer, folder, facts)
    model.train()
    losses: list[float] = []
    begun = saved = logged = time.monotonic()
    first = step
    while step < plan.steps:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, plan)
        value = loss(model, step)
        value.backward()
        nn.utils.clip_grad_norm_(named.values(), plan.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        update_ema(ema, model, step, plan.ema)
        step += 1
        losses.append(value.item())
        if not math.isfinite(losses[-1]):
            raise FloatingPointError(
                f"{plan.name}: the loss is {losses[-1]} at step {step}; lower the rate and resume"
            )
        now = time.monotonic()
        spent = plan.minutes is not None and now - begun >= 60 * plan.minutes
        last = step >= plan.steps or spent
        if plan.milestones and _doubled(step, plan.batch):
            path = folder / f"{plan.name}-ema-{step * plan.batch:09d}.safetensors"
            write_checkpoint(path, {k: v.half() for k, v in ema.items()}, {"samples": step * plan.batch})
        if not (last or step % plan.log_every == 0 or step == plan.stable_steps):
            continue
        row = {"step": step, "samples": step * plan.batch, "loss": float(np.mean(losses))}
        row |= {"rate": optimizer.param_groups[0]["lr"], "seconds": round(seconds + now - begun, 1)}
        if validate and (last or step % plan.validate_every < plan.log_every):
            with averaged(model, ema) as mean_model, torch.no_grad():
                row |= validate(mean_model)
        history.append(row)
        speed = len(losses) * plan.batch / (now - logged)
        left = (plan.steps - step) * plan.batch / speed / 60
        extra = " ".join(
            f"{k} {v:.4g}" for k, v in row.items() if k not in ("step", "samples", "loss", "seconds")
        )
        print(
            f"{plan.name} {row['samples']}/{plan.samples} loss {row['loss']:.4f} {extra}"
            f" | {speed:.0f} samples/s, {left:.0f} min left",
            flush=True,
        )
        losses, logged = [], time.monotonic()
        if last or step == plan.stable_steps or logged - saved >= 60 * plan.save_minutes:
            meta = {"step": step, "seconds": row["seconds"], "plan": asdict(plan), "facts": facts}
            _save(
                plan, folder, model, ema, optimizer, meta | {"device": _hardware(device), "history": history}
            )
            saved = logged = time.monotonic()
        if spent:
            break
    if first >= plan.steps:
        print(f"{plan.name}: {plan.steps * plan.batch} samples were already seen; nothing to do", flush=True)
    return history


def _doubled(step: int, batch: int) -> bool:
    return step * batch >= 2**17 and (step * batch).bit_length() > ((step - 1) * batch).bit_length()


def _hardware(device: torch.device) -> str:
    cores = torch.get_num_threads()
    return torch.cuda.get_device_name() if device.type == "cuda" else f"{cores} CPU core{'s'[: cores > 1]}"


def _save(
    plan: Plan, folder: Path, model: nn.Module, ema: dict, optimizer: torch.optim.AdamW, meta: dict
) -> None:
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"ema.{k}": v for k, v in ema.items()}
    named = dict(model.named_parameters())
    for name in ema:
        state = optimizer.state[named[name]]
        tensors |= {f"first.{name}": state["exp_avg"], f"second.{name}": state["exp_avg_sq"]}
    write_checkpoint(folder / f"{plan.name}-{meta['step']:07d}.safetensors", tensors, meta)
    for old in checkpoints(folder, plan.name):
        step = int(old.stem.rsplit("-", 1)[1])
        # the last one at the full rate is kept: a longer run starts from there
        if step not in (meta["step"], plan.stable_steps):
            old.unlink()
            digest_path(old).unlink(missing_ok=True)


def load_averaged(model: nn.Module, folder: Path, name: str) -> dict:
    """Load the averaged weights of the newest checkpoint into `model`; return the checkpoint's meta."""
    paths = checkpoints(folder, name)
    if not paths:
        raise FileNotFoundError(f"no checkpoint of {name!r} in {folder}: train it first (pretrain {name})")
    meta = read_meta(paths[-1])
    model.load_state_dict(read_tensors(paths[-1], "model"))
    _copy(model, read_tensors(paths[-1], "ema"))
    return meta


def load_phases(model: nn.Module, folder: Path, *names: str) -> dict[str, dict]:
    """Load the averaged weights of the last of successive trainings that was run; return the meta of each."""
    return {name: load_averaged(model, folder, name) for name in names if checkpoints(folder, name)}


def begin_from(name: str | None, model: nn.Module, folder: Path) -> dict:
    """Load the averaged weights an earlier training ended with; return the facts that identify them.

    Nothing happens without a name. A first training and the one that goes on from it are two runs with a plan each, as
    the phases of Stable Diffusion 1.1 to 1.5 are.
    """
    if name is None:
        return {}
    meta = load_averaged(model, folder, name)
    return {"begin": {"part": name, "step": meta["step"], "sha256": hash_file(checkpoints(folder, name)[-1])}}


def _resume(
    plan: Plan, model: nn.Module, ema: dict, optimizer: torch.optim.AdamW, folder: Path, facts: dict
) -> tuple[int, float, list[dict]]:
    """Restore the newest checkpoint; one whose rate already fell under a shorter plan is passed over."""
    for path in reversed(checkpoints(folder, plan.name)):
        meta = read_meta(path)
        if meta["facts"] != facts:
            differ = sorted(k for k in meta["facts"] | facts if meta["facts"].get(k) != facts.get(k))
            raise ValueError(
                f"checkpoint {path.name} belongs to another run: {', '.join(differ)} differ; "
                "give another checkpoint folder, or delete it"
            )
        before = Plan(**meta["plan"] | {"betas": tuple(meta["plan"]["betas"])})
        if meta["step"] > before.stable_steps and before.samples < plan.samples:
            print(
                f"{plan.name}: {path.name} had ended a shorter plan; looking for one before its decay",
                flush=True,
            )
            continue
        model.load_state_dict(read_tensors(path, "model"))
        averages, first, second = (read_tensors(path, part) for part in ("ema", "first", "second"))
        named = dict(model.named_parameters())
        for name in ema:
            parameter = named[name]
            ema[name].copy_(averages[name])
            optimizer.state[parameter] = {
                "step": torch.tensor(float(meta["step"]), device=parameter.device),
                # empty_like keeps the parameter's memory layout, which the fused optimiser relies on
                "exp_avg": torch.empty_like(parameter).copy_(first[name]),
                "exp_avg_sq": torch.empty_like(parameter).copy_(second[name]),
            }
        print(f"{plan.name}: resumed from {path.name}", flush=True)
        return meta["step"], meta["seconds"], meta["history"]
    return 0, 0.0, []
