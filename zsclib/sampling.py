"""Prompts become images: DDIM with classifier-free guidance, one seed and one scale per image.

Images of different prompts, scales and seeds share a batch, and none depends on which others it was generated with.
`sample` makes a few, and `image_to_image` changes images. `sample_in_jobs` makes many, and `generate` a labelled set
from a plan, a table with a row per image, both in jobs whose results are cached, so that a run that was killed goes on
where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass

import numpy as np
import pandas as pd
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from zsclib.hashing import key
from zsclib.images.image_set import ImageSet
from zsclib.models.conditioning import Condition
from zsclib.models.generator import Generator
from zsclib.seeds import rng
from zsclib.workers import Execution, Job, run_jobs

PROMPTS_AT_ONCE = 100  # when they are checked
PLAN = ("label", "prompt", "guidance", "seed")  # the columns that `generate` reads


@dataclass(frozen=True)
class Guidance:
    """How the guidance scale of each image is chosen.

    Example:
        Guidance(7.5) is 7.5 for every image, Guidance(1, 5) uniform and real in [1, 5],
        Guidance(1, 5, integer=True) uniform in {1, ..., 5}, and Guidance(1, 5, integer=True, once=True) one such
        number for a whole run, as in the released code of Shipard et al. (2023).

    Raises:
        ValueError: a scale below 0 or not finite, high below low, or bounds of integers that are none.
    """

    low: float
    high: float | None = None  # as low
    _: KW_ONLY
    integer: bool = False
    once: bool = False

    def __post_init__(self) -> None:
        low, high = self.low, self.low if self.high is None else self.high
        if not 0 <= low <= high < float("inf"):
            raise ValueError(f"guidance needs 0 <= low <= high, both finite; got {self.low} and {self.high}")
        if self.integer and (low % 1 or high % 1):
            raise ValueError(f"guidance in integers needs integer bounds, got {self.low} and {self.high}")

    def draw(self, seed: int, *keys: int | str) -> float:
        """Return the scale of the image that the run's seed and these keys name."""
        if self.high is None:
            return float(self.low)
        u = rng(seed, "guidance", *(("run",) if self.once else keys)).random()
        width = self.high - self.low
        return float(self.low + (np.floor(u * (width + 1)) if self.integer else u * width))


def sample(
    generator: Generator,
    prompts: Sequence[str],
    seeds: Sequence[int],
    guidance: float | Sequence[float] = 7.5,
    steps: int = 40,
    batch: int = 128,
) -> np.ndarray:
    """Generate one image per prompt (Song et al. 2021, eq. 12 with η = 0; guidance: Ho & Salimans 2022, eq. 6).

    Args:
        generator: a text-to-image model.
        prompts: n prompts.
        seeds: n seeds, each the seed of one image's initial noise (see `zsclib.seeds.seed_of`).
        guidance: the scale s of ε̂ = ε_∅ + s·(ε_c − ε_∅), one for all or n of them; 1 is purely conditional and
            skips the unconditional evaluation.
        steps: DDIM steps.
        batch: images at once; it changes no image beyond rounding.

    Returns:
        uint8 (n, H, W, 3).

    Raises:
        ValueError: numbers of prompts, seeds and scales differ, a negative scale, or a number of steps that does not
            fit the model's schedule.
    """
    n = len(prompts)
    one_scale = np.ndim(guidance) == 0
    scales = np.broadcast_to(np.asarray(guidance, np.float32), (n,)) if one_scale else np.asarray(guidance)
    if n == 0 or len(seeds) != n or len(scales) != n:
        raise ValueError(
            f"sample: {n} prompts need as many seeds and scales, got {len(seeds)} and {len(scales)}"
        )
    if (scales < 0).any() or not np.isfinite(scales).all():
        raise ValueError(f"sample: guidance must be a number of at least 0, got {scales.min()}")
    condition, rows = _encoded(generator, prompts)
    timesteps = sampling_timesteps(generator, steps)
    images = []
    for start in range(0, n, batch):
        part = slice(start, start + batch)
        z = _noise(generator, seeds[part])
        z = _ddim(generator, z, condition, rows[part], torch.tensor(scales[part]), timesteps)
        images.append(generator.decode(z))
    return np.concatenate(images)


def image_to_image(
    generator: Generator,
    images: np.ndarray,
    prompts: Sequence[str],
    seeds: Sequence[int],
    strength: float = 0.5,
    guidance: float = 1.0,
    steps: int = 40,
    batch: int = 128,
) -> np.ndarray:
    """Change images locally: noise each part of the way, then denoise it (SDEdit, Meng et al. 2022; Boomerang, Luzi et
    al. 2022, algorithm 1).

    Args:
        generator: a text-to-image model.
        images: uint8 (n, H, W, 3) of the model's size.
        prompts, seeds: n of each; a seed is that of the image's noise.
        strength: share of the steps that are taken, in (0, 1]; at 1 hardly anything of the image is left.
        guidance, steps, batch: as in `sample`; `round(strength * steps)` of the steps are taken, at least one.

    Returns:
        uint8 (n, H, W, 3).

    Raises:
        ValueError: numbers of images, prompts and seeds differ, a strength or a scale that is none, images of another
            size, or steps that do not fit the model's schedule.
    """
    n = len(images)
    if n == 0 or len(prompts) != n or len(seeds) != n:
        raise ValueError(
            f"image_to_image: {n} images need as many prompts and seeds, got {len(prompts)} and {len(seeds)}"
        )
    if not 0 < strength <= 1 or not 0 <= guidance < float("inf"):
        raise ValueError(
            f"image_to_image: strength must be in (0, 1] and guidance at least 0, got {strength} and {guidance}"
        )
    condition, rows = _encoded(generator, prompts)
    timesteps = sampling_timesteps(generator, steps)[-max(1, round(strength * steps)) :]
    a, s = generator.signal_and_noise(timesteps[0])
    changed = []
    for start in range(0, n, batch):
        part = slice(start, start + batch)
        ε = _noise(generator, seeds[part]).to(generator.device)
        z = a * generator.encode_images(images[part]) + s * ε
        scales = torch.full((len(z),), float(guidance))
        changed.append(generator.decode(_ddim(generator, z, condition, rows[part], scales, timesteps)))
    return np.concatenate(changed)


def _encoded(generator: Generator, prompts: Sequence[str]) -> tuple[Condition, Tensor]:
    """Encode each different prompt once, and the empty one as the last; return also each prompt's row."""
    unique = list(dict.fromkeys(prompts))
    where = {prompt: row for row, prompt in enumerate(unique)}
    return generator.encode_prompts([*unique, ""]), torch.tensor([where[prompt] for prompt in prompts])


def _noise(generator: Generator, seeds: Sequence[int]) -> Tensor:
    """Return the noise of each seed, (n, c, h, w), made on the CPU so that a GPU has the same."""
    sources = [torch.Generator("cpu").manual_seed(int(seed)) for seed in seeds]
    return torch.stack([torch.randn(generator.latent_shape, generator=source) for source in sources])


def sample_in_jobs(
    generator: Generator,
    prompts: Sequence[str],
    seeds: Sequence[int],
    guidance: float = 7.5,
    *,
    steps: int = 40,
    execution: Execution = Execution(batch=128),
) -> np.ndarray:
    """Generate one image per prompt as `sample` does, a batch a job; arguments, result and errors are those of both."""
    plan = pd.DataFrame({"prompt": list(prompts), "seed": list(seeds), "guidance": float(guidance)})
    jobs = sampling_jobs(generator, plan, steps, execution)
    return np.concatenate([arrays["images"] for arrays in run_jobs(jobs, execution, "generating")])


def generate(
    generator: Generator,
    plan: pd.DataFrame,
    classes: Sequence[str],
    *,
    steps: int = 40,
    shrink: Callable[[np.ndarray], np.ndarray] | None = None,
    execution: Execution = Execution(batch=128),
) -> ImageSet:
    """Generate the labelled set that a plan describes, batch by batch, each as `sample` does it.

    The rows may be taken in parts, on as many machines as one likes: what a row asks for is in the row.

    Args:
        generator: a text-to-image model, or a class-conditional one with class names as prompts.
        plan: a row per image with `label` (its number in classes), `prompt`, `guidance` (a scale >= 0), `seed` (of
            its initial noise) and free columns; the labels become the set's, all else its manifest.
        classes: class names in label order.
        steps: as in `sample`.
        shrink: applied to every batch, uint8 (b, H, W, 3) to (b, h, w, 3): only its result stays in memory, while the
            cache has the images as they were generated.
        execution: a job is a batch; the same plan, or a longer one that begins with it, finds its batches in the cache.

    Returns:
        n images in the order of the plan.

    Raises:
        ValueError: before any image is generated, a plan without rows or with a column missing, a label outside the
            classes, a class without a prompt, a scale below 0, a prompt the model cannot tell from another or does
            not know, a number of steps that does not fit.
    """
    check_plan(generator, plan, classes, steps)
    images, done = None, 0
    for arrays in run_jobs(sampling_jobs(generator, plan, steps, execution), execution, "generating"):
        part = arrays["images"] if shrink is None else shrink(arrays["images"])
        images = np.empty((len(plan), *part.shape[1:]), np.uint8) if images is None else images
        images[done : done + len(part)] = part
        done += len(part)
    return ImageSet(images, plan["label"].to_numpy(), tuple(classes), manifest=plan.drop(columns="label"))


def sampling_jobs(generator: Generator, plan: pd.DataFrame, steps: int, execution: Execution) -> list[Job]:
    """Return the jobs that generate the images of a plan, one for each batch."""
    fingerprint = None if execution.cache is None else generator.fingerprint()
    jobs = []
    for start in range(0, len(plan), execution.batch):
        rows = plan.iloc[start : start + execution.batch]
        prompts, seeds, scales = (rows[column].tolist() for column in ("prompt", "seed", "guidance"))
        name = None
        if fingerprint is not None:
            name = key(generator=fingerprint, prompts=prompts, seeds=seeds, scales=scales, steps=steps)
        jobs.append(Job(_sampled, (generator, prompts, seeds, scales, steps), name, len(rows)))
    return jobs


def _sampled(
    generator: Generator, prompts: list[str], seeds: list[int], scales: list[float], steps: int
) -> Mapping[str, np.ndarray]:
    return {"images": sample(generator, prompts, seeds, scales, steps, len(prompts))}


def sampling_timesteps(generator: Generator, steps: int) -> list[int]:
    """Return the timesteps a sampler visits, from most to least noise, spaced as the model's scheduler says."""
    if not 1 <= steps <= generator.T:
        raise ValueError(f"sample: steps must be from 1 to {generator.T}, got {steps}")
    if generator.alphas_cumprod is None:
        return [round(t) for t in np.linspace(generator.T - 1, 0, steps)]
    scheduler = DDIMScheduler.from_config(generator.scheduler.config)
    scheduler.set_timesteps(steps)
    return [min(int(t), generator.T - 1) for t in scheduler.timesteps]


def check_plan(generator: Generator, plan: pd.DataFrame, classes: Sequence[str], steps: int) -> None:
    """Raise the ValueError that `generate` would raise, and generate nothing."""
    sampling_timesteps(generator, steps)
    if missing := [column for column in PLAN if column not in plan.columns]:
        raise ValueError(
            f"generate: the plan lacks {', '.join(missing)}; it has {', '.join(plan.columns) or 'nothing'}"
        )
    if len(plan) == 0:
        raise ValueError("generate: the plan has no rows, so zero images are asked for")
    for column, kinds in (("label", "iu"), ("seed", "iu"), ("guidance", "iuf")):
        if plan[column].dtype.kind not in kinds:
            raise ValueError(f"generate: {column} must hold numbers, got {plan[column].dtype}")
    labels, scales = plan["label"].to_numpy(), plan["guidance"].to_numpy()
    if labels.min() < 0 or labels.max() >= len(classes):
        raise ValueError(
            f"generate: labels must be from 0 to {len(classes) - 1}, got {labels.min()} to {labels.max()}"
        )
    for label, prompt in zip(labels, plan["prompt"], strict=True):
        if not isinstance(prompt, str) or not prompt.strip():
            raise ValueError(f"generate: class {classes[label]!r} has no prompt, got {prompt!r}")
    if "class" in plan.columns and (wrong := np.asarray(classes)[labels] != plan["class"].to_numpy()).any():
        row = int(np.flatnonzero(wrong)[0])
        raise ValueError(
            f"generate: row {row} is of class {plan['class'].iloc[row]!r}, its label means {classes[labels[row]]!r}"
        )
    if (scales < 0).any() or not np.isfinite(scales).all():
        raise ValueError(f"generate: guidance must be a number of at least 0, got {scales.min()}")
    unique = sorted(set(plan["prompt"]))  # prompts that one model may confuse begin alike
    for start in range(0, len(unique), PROMPTS_AT_ONCE):
        generator.encode_prompts([*unique[start : start + PROMPTS_AT_ONCE], ""])


@torch.inference_mode()
def _ddim(
    generator: Generator,
    z: Tensor,
    condition: Condition,
    rows: Tensor,
    scales: Tensor,
    timesteps: Sequence[int],
) -> Tensor:
    """Turn noise z (n, c, h, w) into latents; the last row of `condition` is the empty prompt."""
    z, s = z.to(generator.device), scales.to(generator.device, torch.float32).view(-1, 1, 1, 1)
    guided = torch.nonzero(scales != 1).flatten()
    prompts = condition.take(torch.cat([rows, torch.full((len(guided),), len(condition) - 1)]))
    # A guided image takes two evaluations, with its own prompt and with the empty one.
    copies = torch.cat([torch.arange(len(z)), guided]).to(generator.device)
    guided = guided.to(generator.device)
    for t, t_next in zip(timesteps, [*timesteps[1:], None], strict=True):
        noise_hat = generator.predict_noise(z, t, prompts, copies)
        conditional, unconditional = noise_hat[: len(z)], noise_hat[: len(z)].clone()
        unconditional[guided] = noise_hat[len(z) :]
        noise_hat = unconditional + s * (conditional - unconditional)
        a, sigma = generator.signal_and_noise(t)
        z0 = (z - sigma * noise_hat) / a.clamp_min(1e-6)
        a, sigma = generator.signal_and_noise(t_next if t_next is not None else 0)
        # Below the lowest timestep there is none: diffusion models end at t = 0's, as Stable Diffusion's scheduler
        # does (set_alpha_to_one = False); a flow ends at its data.
        z = z0 if t_next is None and generator.alphas_cumprod is None else a * z0 + sigma * noise_hat
    return z
