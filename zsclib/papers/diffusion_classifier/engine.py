"""The Diffusion Classifier as it is run: many images, classes and timesteps in batches of network evaluations.

`method.py` says what is computed; `error_matrices` computes the same faster: errors (n images, C classes, K timesteps),
several measures from one evaluation, prompts encoded once, what sees no prompt run once per noisy latent, classes
left out as soon as a schedule says so. Every class of an image meets the same (t_k, ε_k), and ε_k depends on the run's
seed, the image's key and k alone: batch size, order, sharding and resuming change nothing.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from zsclib.checks import check_images
from zsclib.hashing import key as hash_key
from zsclib.models.conditioning import Condition
from zsclib.models.generator import Generator
from zsclib.papers.diffusion_classifier.ablations import NOISES, Measure, check_measures
from zsclib.papers.diffusion_classifier.error_matrix import Rule, eliminate
from zsclib.papers.diffusion_classifier.method import noise
from zsclib.seeds import torch_generator
from zsclib.workers import Execution, Job, run_jobs


def error_matrices(
    generator: Generator,
    images: np.ndarray,
    prompts: Sequence[str] | Sequence[Sequence[str]],
    schedule: Rule,
    measures: Sequence[Measure] = (Measure(),),
    *,
    keys: Sequence[int | str] | None = None,
    candidates: np.ndarray | None = None,
    execution: Execution = Execution(),
) -> dict[Measure, np.ndarray]:
    """Return the errors of images under prompts at timesteps, by each of several measures of the same evaluations.

    Args:
        schedule: which timesteps, and which classes stay; a schedule that eliminates follows the first measure.
        measures: all with the same kind of noise; with guidance, one more evaluation for every image and timestep.
        keys, candidates, execution: as for `zsclib.papers.diffusion_classifier.classify`. A job is the errors of
            `execution.images_at_once` images.

    Returns:
        measure → float32 (n, C, K), prompts of a class averaged; NaN where a class was out.

    Raises:
        ValueError: bad input, named before any image is looked at; latents or noise that is not finite.
    """
    flat, class_of = flatten(prompts)
    C, measures = int(class_of[-1]) + 1, list(measures)
    keys = list(range(len(images))) if keys is None else list(keys)
    _check(images, keys)
    _check_fits(len(keys), C, len(schedule.t), len(measures))
    check_measures(measures, generator.latent_shape)
    candidates = _checked_candidates(candidates, len(images), C)
    if max(schedule.t) >= generator.T:
        raise ValueError(f"the schedule reaches t = {max(schedule.t)}, this model stops at {generator.T - 1}")
    condition = generator.encode_prompts(flat)
    _check_different(condition, flat)
    null = generator.encode_prompts([""]) if any(measure.guidance for measure in measures) else None

    facts = {"schedule": repr(schedule), "measures": measures, "seed": execution.seed, "class_of": class_of}
    if execution.cache is not None:
        facts |= {"generator": generator.fingerprint(), "prompts": condition.embeddings.float().cpu().numpy()}
        facts = {"facts": hash_key(**facts)}  # hashed once, not for every job
    jobs = []
    for start in range(0, len(keys), execution.images_at_once):
        part = slice(start, start + execution.images_at_once)
        name = None
        if execution.cache is not None:
            name = hash_key(**facts, images=images[part], keys=keys[part], candidates=candidates[part])
        encoded = (condition, class_of, null)
        arguments = (generator, images[part], keys[part], candidates[part], encoded, schedule, measures)
        jobs.append(Job(_errors_of_images, (*arguments, execution.seed, execution.batch), name, len(keys[part])))
    errors = np.concatenate([arrays["errors"] for arrays in run_jobs(jobs, execution, "images")])
    return {measure: np.ascontiguousarray(errors[..., m]) for m, measure in enumerate(measures)}


@torch.inference_mode()
def _errors_of_images(
    generator: Generator,
    images: np.ndarray,
    keys: list[int | str],
    candidates: np.ndarray,
    encoded: tuple[Condition, np.ndarray, Condition | None],
    schedule: Rule,
    measures: list[Measure],
    seed: int,
    batch: int,
) -> Mapping[str, np.ndarray]:
    """Return the errors of a job's images, float32 (n, C, K, M)."""
    condition, class_of, null = encoded
    prompts_each = np.bincount(class_of)
    z = generator.encode_images(images)  # (n, c, h, w)
    check_latents(z, keys)
    t = torch.tensor(schedule.t, device=generator.device)  # (K,)
    unpaired, M = measures[0].noise == "unpaired", len(measures)

    def errors_at(alive: np.ndarray, first: int, last: int) -> np.ndarray:
        # one flat list of evaluations, by image, timestep and prompt: neighbours share their noisy latent
        i, k, p = np.nonzero(alive[:, None, class_of].repeat(last - first, axis=1))
        rows, errors = np.stack([i, k + first, p]), [torch.empty(0, M, device=t.device)]
        for start in range(0, len(i), batch):
            chunk = rows[:, start : start + batch]  # (3, b)
            new = np.ones(chunk.shape[1], bool)  # where another noisy latent begins
            if not unpaired:
                new[1:] = (chunk[:2, 1:] != chunk[:2, :-1]).any(0)
            eps = _noises(seed, keys, chunk[:, new], measures[0].noise, z.shape[1:]).to(t.device)
            image, timestep, _ = torch.from_numpy(chunk[:, new]).to(t.device)
            prompt = condition.take(torch.from_numpy(chunk[2]).to(t.device))
            copies = torch.from_numpy(new.cumsum() - 1).to(t.device)
            errors.append(_measured(generator, z[image], prompt, t[timestep], eps, measures, copies, null))
        mean = np.where(alive, 0, np.float32(np.nan))[:, :, None, None]
        mean = mean.repeat(last - first, axis=2).repeat(M, axis=3)  # (n, C, last - first, M)
        each = torch.cat(errors).cpu().numpy() / prompts_each[class_of[p]][:, None]
        np.add.at(mean, (i, class_of[p], k), each)
        return mean

    return {"errors": eliminate(errors_at, candidates, schedule)}


def errors(
    generator: Generator, z: Tensor, condition: Condition, t: Tensor, eps: Tensor, loss: str = "l2"
) -> Tensor:
    """Return how far the predicted noise is from the noise added (eq. 6, one term of the mean per row).

    Args:
        z, eps: latents and noise, (m, c, h, w). condition: m prompts. t: int64 (m,). loss: a key of LOSSES.

    Returns:
        float32 (m,), means over the elements of a latent.
    """
    return _measured(generator, z, condition, t, eps, [Measure(loss)])[:, 0]


def _measured(
    generator: Generator,
    z: Tensor,
    condition: Condition,
    t: Tensor,
    eps: Tensor,
    measures: Sequence[Measure],
    copies: Tensor | None = None,
    null: Condition | None = None,
) -> Tensor:
    """Return all measures of one evaluation per prompt, (m, M); prompt j meets row copies[j] of z, t and eps."""
    a, s = generator.signal_and_noise(t)
    z_t, rows = a * z + s * eps, slice(None) if copies is None else copies
    eps_hat, eps_null = generator.predict_noise(z_t, t, condition, copies=copies), None
    if null is not None:
        eps_null = generator.predict_noise(z_t, t, null.take(torch.zeros_like(t)))[rows]
    return torch.stack([measure.of(eps_hat, eps_null, eps[rows]) for measure in measures], dim=1)


def flatten(prompts: Sequence[str] | Sequence[Sequence[str]]) -> tuple[list[str], np.ndarray]:
    """Return all prompts in one list, and the class of each."""
    if isinstance(prompts, str) or len(prompts) == 0:
        raise ValueError(f"prompts must hold a text, or several, for each class; got {prompts!r}")
    groups = [[group] if isinstance(group, str) else list(group) for group in prompts]
    flat = [prompt for group in groups for prompt in group]
    if not all(groups) or not all(isinstance(prompt, str) and prompt.strip() for prompt in flat):
        raise ValueError(f"every class needs a prompt, and every prompt some text; got {groups}")
    if len(set(flat)) < len(flat):
        repeated = sorted({prompt for prompt in flat if flat.count(prompt) > 1})
        raise ValueError(f"all prompts must differ, repeated: {repeated}")
    return flat, np.repeat(np.arange(len(groups)), [len(group) for group in groups])


def _noises(seed: int, keys: list[int | str], rows: np.ndarray, kind: str, shape: Sequence[int]) -> Tensor:
    """Return the noise of each (image i, number k) or, unpaired, (i, k, prompt p): (m, c, h, w)."""
    noises = [
        torch.randn(*shape, generator=torch_generator(seed, "unpaired noise", keys[row[0]], *row[1:]))
        if kind == "unpaired"
        else NOISES[kind](noise(seed, keys[row[0]], row[1], shape))
        for row in rows.T.tolist()
    ]
    return torch.stack(noises)


def _check(images: np.ndarray, keys: list[int | str]) -> None:
    check_images(images, "classify")
    if not keys or len(keys) != len(images):
        raise ValueError(f"classify needs images, and a key for each; got {len(images)} and {len(keys)} keys")


def memory() -> int:
    """Return the bytes of memory of this machine; without limit where the system does not say."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 2**63


def _check_fits(n: int, C: int, K: int, M: int) -> None:
    needed = 2 * 4 * n * C * K * M  # parts, and the whole made of them
    if needed > memory():
        raise ValueError(
            f"the errors of {n} images, {C} classes and {K} timesteps take {needed / 2**30:.3g} GiB, more than this "
            "machine has; classify fewer images at a time: with the keys they have in the whole, results are "
            "the same"
        )


def _checked_candidates(candidates: np.ndarray | None, n: int, C: int) -> np.ndarray:
    if candidates is None:
        return np.ones((n, C), bool)
    candidates = np.asarray(candidates)
    if candidates.dtype != bool or candidates.shape != (n, C):
        raise ValueError(
            f"candidates must be booleans of {n} images and {C} classes, got {candidates.dtype} {candidates.shape}"
        )
    if not candidates.any(1).all():
        raise ValueError(
            f"every image needs a candidate class; image {int(candidates.any(1).argmin())} has none"
        )
    return candidates


def check_latents(z: Tensor, keys: Sequence[int | str]) -> None:
    """Raise ValueError on NaN or infinity in latents (n, c, h, w), naming the image by its key."""
    for key, finite in zip(keys, torch.isfinite(z).flatten(1).all(1).tolist(), strict=True):
        if not finite:
            raise ValueError(f"the latents of image {key!r} hold NaN or infinity")


def _check_different(condition: Condition, prompts: list[str]) -> None:
    first: dict[bytes, str] = {}
    for prompt, row in zip(prompts, condition.embeddings.float().cpu().numpy(), strict=True):
        other = first.setdefault(hashlib.blake2b(row.tobytes()).digest(), prompt)
        if other != prompt:
            raise ValueError(
                f"the model's text encoder cannot tell {other!r} from {prompt!r}; rename a class"
            )
