"""The training loop of the pocket models: one optimiser, averaged weights, checkpoints that survive a kill.

Every batch and every noise map is a function of (seed, step), so a run that was stopped and resumed, here or
on another machine, trains on the same data as one that was not.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
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
from zsclib.pretraining.plan import Plan, Training, learning_rate


def update_ema(ema: dict[str, Tensor], model: nn.Module, step: int, decay: float) -> None:
    """Move the averages towards the weights by 1 − min(decay, (1 + step) / (10 + step)), in place."""
    weights = dict(model.named_parameters())
    weight = 1 - min(decay, (1 + step) / (10 + step))
    with torch.no_grad():
        torch._foreach_lerp_(list(ema.values()), [weights[name] for name in ema], weight)


@contextmanager
def averaged(model: nn.Module, ema: dict[str, Tensor]) -> Iterator[nn.Module]:
    """Lend the model with its averaged weights, in eval mode; the trained weights come back afterwards."""
    trained = {name: p.detach().clone() for name, p in model.named_parameters() if name in ema}
    training = model.training
    try:
        _copy(model, ema)
        yield model.eval()
    finally:
        _copy(model, trained)
        model.train(training)


def _copy(model: nn.Module, weights: dict[str, Tensor]) -> None:
    named = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in weights.items():
            named[name].copy_(value)


def train(
    training: Training,
    model: nn.Module,
    loss: Callable[[nn.Module, int], Tensor],
    validate: Callable[[nn.Module], dict[str, float]] | None = None,
) -> list[dict]:
    """Train until the planned samples or the minutes are spent, resuming from the newest checkpoint.

    Args:
        training: the plan, the folder of checkpoints and the facts.
        model: the network, on its device; trained in place, except what requires no gradient.
        loss: (model, step) → scalar; its batch and its noise are functions of the step number alone.
        validate: averaged model → named numbers, recorded every `validate_every` steps and at the end.

    Returns: the history, a row per `log_every` steps: step, samples, loss, rate, seconds, validation values.
    Raises: ValueError for an altered checkpoint or other facts, FloatingPointError for a loss not finite.
    """
    plan, folder = training.plan, Path(training.folder)
    facts = json.loads(json.dumps(training.facts))
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
                f"{plan.name}: the loss is {losses[-1]} at step {step}; lower the learning rate and resume"
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
        _report(plan, row, samples_per_second=len(losses) * plan.batch / (now - logged))
        losses, logged = [], time.monotonic()
        if last or step == plan.stable_steps or logged - saved >= 60 * plan.save_minutes:
            meta = {"step": step, "seconds": row["seconds"], "plan": asdict(plan), "facts": facts}
            meta |= {"device": _hardware(device), "memory": peak_memory(device), "history": history}
            _save(plan, folder, model, ema, optimizer, meta)
            saved = logged = time.monotonic()
        if spent:
            break
    if first >= plan.steps:
        print(f"{plan.name}: {plan.steps * plan.batch} samples were already trained on; nothing to do", flush=True)
    return history


def _report(plan: Plan, row: dict, samples_per_second: float) -> None:
    left = (plan.steps - row["step"]) * plan.batch / samples_per_second / 60
    values = {k: v for k, v in row.items() if k not in ("step", "samples", "loss", "seconds")}
    print(
        f"{plan.name} {row['samples']}/{plan.samples} loss {row['loss']:.4f} "
        + " ".join(f"{name} {value:.4g}" for name, value in values.items())
        + f" | {samples_per_second:.0f} samples/s, {left:.0f} min left",
        flush=True,
    )


def _doubled(step: int, batch: int) -> bool:
    return step * batch >= 2**17 and (step * batch).bit_length() > ((step - 1) * batch).bit_length()


def _hardware(device: torch.device) -> str:
    cores = torch.get_num_threads()
    return torch.cuda.get_device_name() if device.type == "cuda" else f"{cores} CPU core{'s'[: cores > 1]}"


def peak_memory(device: torch.device | str = "cpu") -> int | None:
    """Return the most bytes that this process has had at once, in memory or, on a graphics card, there.

    None where the system does not tell. A process that did something else before may have had them then.
    """
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    try:
        import resource
    except ImportError:  # on Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


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
        # the last one at the full learning rate stays: a longer run starts from there
        if step not in (meta["step"], plan.stable_steps):
            old.unlink()
            digest_path(old).unlink(missing_ok=True)


def load_averaged(model: nn.Module, folder: Path, name: str) -> dict:
    """Load the averaged weights of the newest checkpoint into `model`; return the checkpoint's meta."""
    paths = checkpoints(folder, name)
    if not paths:
        raise FileNotFoundError(f"no checkpoint of {name!r} in {folder}: first  python -m zsclib.pocket {name}")
    meta = read_meta(paths[-1])
    model.load_state_dict(read_tensors(paths[-1], "model"))
    _copy(model, read_tensors(paths[-1], "ema"))
    return meta


def load_phases(model: nn.Module, folder: Path, *names: str) -> dict[str, dict]:
    """Load the averaged weights of the last of successive trainings that was run; return the meta of each."""
    return {name: load_averaged(model, folder, name) for name in names if checkpoints(folder, name)}


def begin_from(name: str | None, model: nn.Module, folder: Path) -> dict:
    """Load the averaged weights an earlier training ended with; return the facts that identify them.

    Nothing happens without a name. The trainings on phase 1 and phase 2 are two runs with a plan each, as those of
    Stable Diffusion 1.1 to 1.5 are.
    """
    if name is None:
        return {}
    meta = load_averaged(model, folder, name)
    return {"begin": {"part": name, "step": meta["step"], "sha256": hash_file(checkpoints(folder, name)[-1])}}


def _resume(
    plan: Plan, model: nn.Module, ema: dict, optimizer: torch.optim.AdamW, folder: Path, facts: dict
) -> tuple[int, float, list[dict]]:
    """Restore the newest checkpoint; one whose learning rate already fell under a shorter plan is passed over.

    Raises: ValueError when all have to be, so that nothing would be left but to begin anew and to lose them.
    """
    ended = None
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
            ended = path
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
    if ended is not None:
        raise ValueError(
            f"{plan.name}: the learning rate of {ended.name} has fallen under a shorter plan, and there is no "
            "checkpoint from before; begin a further training from it, or remove it to train anew"
        )
    return 0, 0.0, []
