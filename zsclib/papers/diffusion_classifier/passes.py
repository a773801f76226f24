"""The Diffusion Classifier's passes of the network: noise added, noise predicted, how far they are apart.

`error_matrices` fills errors (n images, C classes, K levels), several measures of one pass at no further pass.
Every class of an image meets the same (t_k, eps_k), and eps_k depends on the run's seed, the image's key and k
alone, so batch size, order, sharding and resuming change nothing.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from zsclib.codec import check_images
from zsclib.models.condition import Condition
from zsclib.models.generator import Generator
from zsclib.papers.diffusion_classifier.error_matrix import Rule, eliminate, evaluations
from zsclib.papers.diffusion_classifier.mechanisms import NOISES, Measure, check_measures
from zsclib.seeds import torch_generator


class Store(Protocol):
    """Where finished parts of a run are kept, such as `zsclib.study.artefacts.Artefacts`."""

    def get(self, key: str) -> Mapping[str, np.ndarray] | None: ...
    def put(self, key: str, arrays: Mapping[str, np.ndarray]) -> None: ...


@torch.inference_mode()
def error_matrices(
    generator: Generator,
    images: np.ndarray,
    prompts: Sequence[str] | Sequence[Sequence[str]],
    schedule: Rule,
    measures: Sequence[Measure] = (Measure(),),
    *,
    noise_kind: str = "normal",
    candidates: np.ndarray | None = None,
    seed: int = 0,
    keys: Sequence[int | str] | None = None,
    batch: int = 256,
    images_at_once: int = 64,
    store: Store | None = None,
    progress: Callable[[int], object] | None = None,
) -> dict[Measure, np.ndarray]:
    """Measure images under prompts at noise levels, in as many ways as asked, with one pass each.

    Args:
        schedule: which levels, and which classes stay; a schedule that eliminates follows the first measure.
        measures: with guidance, one more pass for every image and level, which `progress` does not count.
        noise_kind: a key of NOISES; all kinds but "unpaired" are the same normal draw made into another.
        candidates: bool (n, C), the classes each image is asked about; None for all.
        Others: as `zsclib.papers.diffusion_classifier.classify`.

    Returns:
        measure -> float32 (n, C, K), prompts of a class averaged; NaN where a class was out.

    Raises:
        ValueError: bad input, named before any image is looked at; latents or noise that is not finite.
    """
    flat, class_of = flatten(prompts)
    C, measures = int(class_of[-1]) + 1, list(measures)
    keys = list(range(len(images))) if keys is None else list(keys)
    _check(images, keys, batch, images_at_once)
    _check_fits(len(keys), C, len(schedule.t), len(measures))
    check_measures(measures, noise_kind, generator.latent_shape)
    candidates = _checked_candidates(candidates, len(images), C)
    if max(schedule.t) >= generator.T:
        raise ValueError(f"the schedule reaches t = {max(schedule.t)}, this model stops at {generator.T - 1}")
    condition = generator.encode_prompts(flat)
    _check_different(condition, flat)
    null = generator.encode_prompts([""]) if any(measure.guidance for measure in measures) else None
    t = torch.tensor(schedule.t, device=generator.device)
    sizes, report = np.bincount(class_of), progress or (lambda passes: None)

    def errors_of(part: slice) -> np.ndarray:
        z = generator.encode_images(images[part])
        check_latents(z, keys[part])

        def measure_all(alive: np.ndarray, first: int, last: int) -> np.ndarray:
            # one flat list of passes, by image, level and prompt: neighbours share their noisy latent
            i, k, p = np.nonzero(alive[:, None, class_of].repeat(last - first, axis=1))
            work, found = np.stack([i, k + first, p]), [torch.empty(0, len(measures), device=t.device)]
            for at in range(0, len(i), batch):
                chunk = work[:, at : at + batch]
                new = np.ones(chunk.shape[1], bool)  # where another noisy latent begins
                if noise_kind != "unpaired":
                    new[1:] = (chunk[:2, 1:] != chunk[:2, :-1]).any(0)
                eps = _noises(seed, keys[part], chunk[:, new], noise_kind, z.shape[1:]).to(t.device)
                image, level, _ = torch.from_numpy(chunk[:, new]).to(t.device)
                asked = condition.take(torch.from_numpy(chunk[2]).to(t.device))
                copies = torch.from_numpy(new.cumsum() - 1).to(t.device)
                found.append(_judge(generator, z[image], asked, t[level], eps, measures, copies, null))
                report(len(new))
            mean = np.where(alive, 0, np.float32(np.nan))[:, :, None, None]
            mean = mean.repeat(last - first, axis=2).repeat(len(measures), axis=3)
            np.add.at(mean, (i, class_of[p], k), torch.cat(found).cpu().numpy() / sizes[class_of[p]][:, None])
            return mean

        return eliminate(measure_all, candidates[part], schedule)

    fingerprint, parts = None if store is None else generator.fingerprint(), []
    read = hashlib.blake2b(condition.embeddings.float().cpu().numpy().tobytes()).hexdigest()  # as tokenised
    asked_for = (prompts, schedule, measures, noise_kind, seed)
    for start in range(0, len(keys), images_at_once):
        part = slice(start, start + images_at_once)
        facts = (fingerprint, read, images[part].shape, keys[part], *asked_for)
        told = repr(facts).encode() + candidates[part].tobytes() + images[part].tobytes()
        name = hashlib.blake2b(told, digest_size=16).hexdigest()
        kept = None if store is None else store.get(name)
        parts.append(errors_of(part) if kept is None else kept["errors"])
        if kept is not None:
            report(int(evaluations(kept["errors"][..., 0], sizes).sum()))
        elif store is not None:
            store.put(name, {"errors": parts[-1]})
    found = np.concatenate(parts)
    return {measure: np.ascontiguousarray(found[..., m]) for m, measure in enumerate(measures)}


def errors(
    generator: Generator, z: Tensor, condition: Condition, t: Tensor, eps: Tensor, loss: str = "l2"
) -> Tensor:
    """Return how far the predicted noise is from the noise added (eq. 6, one term of the mean per row).

    Args:
        z, eps: latents and noise, (m, c, h, w). condition: m prompts. t: int64 (m,). loss: a key of LOSSES.

    Returns:
        float32 (m,), means over the elements of a latent.
    """
    return _judge(generator, z, condition, t, eps, [Measure(loss)])[:, 0]


def _judge(
    generator: Generator,
    z: Tensor,
    condition: Condition,
    t: Tensor,
    eps: Tensor,
    measures: Sequence[Measure],
    copies: Tensor | None = None,
    null: Condition | None = None,
) -> Tensor:
    """Return all measures of one pass per prompt, (m, M); prompt j meets row copies[j] of z, t and eps."""
    a, s = generator.signal_and_noise(t)
    z_t, rows = a * z + s * eps, slice(None) if copies is None else copies
    eps_hat, eps_null = generator.predict_noise(z_t, t, condition, copies=copies), None
    if null is not None:
        eps_null = generator.predict_noise(z_t, t, null.take(torch.zeros_like(t)))[rows]
    return torch.stack([measure.of(eps_hat, eps_null, eps[rows]) for measure in measures], dim=1)


def noise(seed: int, key: int | str, k: int, shape: Sequence[int]) -> Tensor:
    """Return eps_k of the image of that key: normal, float32, on the CPU, whatever else is computed."""
    return torch.randn(*shape, generator=torch_generator(seed, "noise", key, k))


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
    made = [
        torch.randn(*shape, generator=torch_generator(seed, "unpaired noise", keys[row[0]], *row[1:]))
        if kind == "unpaired"
        else NOISES[kind](noise(seed, keys[row[0]], row[1], shape))
        for row in rows.T.tolist()
    ]
    return torch.stack(made)


def _check(images: np.ndarray, keys: list[int | str], batch: int, images_at_once: int) -> None:
    check_images(images, "classify")
    if not keys or len(keys) != len(images):
        raise ValueError(f"classify needs images, and a key for each; got {len(images)} and {len(keys)} keys")
    if min(batch, images_at_once) < 1:
        raise ValueError(f"batch and images_at_once must be 1 or more, got {batch} and {images_at_once}")


def memory() -> int:
    """Return the bytes of memory of this machine; without limit where the system does not say."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 2**63


def _check_fits(n: int, C: int, K: int, M: int) -> None:
    needed = 2 * 4 * n * C * K * M  # parts, and the whole made of them
    if needed > memory():
        raise ValueError(
            f"the errors of {n} images, {C} classes and {K} levels take {needed / 2**30:.3g} GiB, more than this "
            "machine has; ask about fewer images at a time: with the keys they have in the whole, results are "
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
    seen: dict[bytes, str] = {}
    for prompt, row in zip(prompts, condition.embeddings.float().cpu().numpy(), strict=True):
        other = seen.setdefault(hashlib.blake2b(row.tobytes()).digest(), prompt)
        if other != prompt:
            raise ValueError(
                f"the model's text encoder cannot tell {other!r} from {prompt!r}; rename a class"
            )
