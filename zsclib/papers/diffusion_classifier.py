"""Your Diffusion Model is Secretly a Zero-Shot Classifier (Li, Prabhudesai, Duggal, Brown, Pathak; ICCV 2023)

Add noise to an image, let a text-to-image model predict that noise once for every class's prompt, and choose
the class whose prediction comes closest, on average over noise levels t and noises eps (section 3, with
weights w_t = 1). All classes of an image meet the same (t_k, eps_k), k = 0..K-1, and eps_k depends on the
run's seed, the image's key and k alone.

    result = classify(generator, images, fill("a photo of a {}.", classes), exhaustive(32))
    accuracy = (result.prediction == labels).mean()

Unlike in the authors' code, noise has a seed, errors are float32, several prompts of a class are averaged
before classes are ranked (theirs compete), and any prefix of the levels of `nested_stages` is evenly spread.
`reference_stages` follows their schedule to the letter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from zsclib.codec import check_images
from zsclib.models.generator import Condition, Generator
from zsclib.papers.error_matrix import (
    Schedule,
    eliminate,
    evaluations,
    exhaustive,
    nested_stages,
    paired_standard_errors,
    prediction,
    reference_stages,
    scores_from_errors,
)
from zsclib.seeds import torch_generator

__all__ = [
    "DiffusionClassifier",
    "Result",
    "Schedule",
    "classify",
    "errors",
    "exhaustive",
    "nested_stages",
    "reference_stages",
]
LOSSES = {"l2": F.mse_loss, "l1": F.l1_loss, "huber": F.huber_loss}  # tables 8 and 9; Huber with delta = 1


class Store(Protocol):
    """Where finished parts of a run are kept, such as `zsclib.study.artefacts.Artefacts`."""

    def get(self, key: str) -> Mapping[str, np.ndarray] | None: ...
    def put(self, key: str, arrays: Mapping[str, np.ndarray]) -> None: ...


@dataclass(frozen=True, eq=False)
class Result:
    """What was found for n images and C classes; made by `result_of`."""

    prediction: np.ndarray  # int64 (n,)
    scores: np.ndarray  # float32 (n, C), minus the mean error (see scores_from_errors)
    standard_errors: np.ndarray  # float32 (n, C), of the mean difference to the prediction
    evaluations: np.ndarray  # int64 (n,), passes of the network
    errors: np.ndarray  # float32 (n, C, K), NaN where a class was out
    timesteps: np.ndarray  # int64 (K,)


def result_of(errors: np.ndarray, timesteps: Sequence[int], prompts_each: np.ndarray | int = 1) -> Result:
    """Return all that follows from errors (n, C, K) at those timesteps, with so many prompts per class."""
    return Result(
        prediction(errors),
        scores_from_errors(errors),
        paired_standard_errors(errors),
        evaluations(errors, prompts_each),
        errors,
        np.asarray(timesteps, dtype=np.int64),
    )


def noise(seed: int, key: int | str, k: int, shape: Sequence[int]) -> Tensor:
    """Return eps_k of the image of that key: normal, float32, on the CPU, whatever else is computed."""
    return torch.randn(*shape, generator=torch_generator(seed, "noise", key, k))


def errors(
    generator: Generator, z: Tensor, condition: Condition, t: Tensor, eps: Tensor, loss: str = "l2"
) -> Tensor:
    """Return how far the predicted noise is from the noise added (eq. 6, one term of the mean per row).

    Args:
        z, eps: latents and noise, (m, c, h, w). condition: m prompts. t: int64 (m,). loss: a key of LOSSES.

    Returns:
        float32 (m,), means over the elements of a latent.
    """
    a, s = generator.signal_and_noise(t)
    eps_hat = generator.predict_noise(a * z + s * eps, t, condition)
    return LOSSES[loss](eps_hat, eps, reduction="none").flatten(1).mean(1)


@torch.inference_mode()
def classify(
    generator: Generator,
    images: np.ndarray,
    prompts: Sequence[str] | Sequence[Sequence[str]],
    schedule: Schedule,
    *,
    loss: str = "l2",
    seed: int = 0,
    keys: Sequence[int | str] | None = None,
    batch: int = 256,
    images_at_once: int = 64,
    store: Store | None = None,
    progress: Callable[[int], object] | None = None,
) -> Result:
    """Classify images zero-shot.

    Args:
        images: uint8 (n, H, W, 3) of the generator's image size.
        prompts: one text per class, or several, whose errors are averaged before classes are ranked.
        schedule: from `exhaustive`, `nested_stages` or `reference_stages`.
        loss: "l2", "l1" or "huber".
        seed, keys: of the noise. Keys name the images (default 0..n-1): a part of a set, given the keys it
            has in the whole, gets the noise and result it has there, in any order and batch size.
        batch: passes of the network at once, over images, classes and levels alike.
        images_at_once: images per part; the errors of a part are stored together. Lists of the part's passes
            take about 50 bytes a pass: fewer at once for a thousand classes.
        progress: called with the number of passes just done, for instance `tqdm(...).update`.

    Raises:
        ValueError: bad input, named before any image is looked at; latents or noise that is not finite.
    """
    flat, class_of = _flatten(prompts)
    keys = list(range(len(images))) if keys is None else list(keys)
    _check(images, keys, loss, batch, images_at_once)
    if max(schedule.t) >= generator.T:
        raise ValueError(f"the schedule reaches t = {max(schedule.t)}, this model stops at {generator.T - 1}")
    condition = generator.encode_prompts(flat)
    _check_different(condition, flat)
    t = torch.tensor(schedule.t, device=generator.device)
    sizes, report = np.bincount(class_of), progress or (lambda passes: None)

    def errors_of(images: np.ndarray, keys: list[int | str]) -> np.ndarray:
        z = generator.encode_images(images)
        _check_latents(z, keys)

        def measure(alive: np.ndarray, first: int, last: int) -> np.ndarray:
            # one flat list of passes, by image, level and prompt: a batch draws the noise of few levels
            i, k, p = np.nonzero(alive[:, None, class_of].repeat(last - first, axis=1))
            work, found = np.stack([i, k + first, p]), [torch.empty(0, device=t.device)]
            for at in range(0, len(i), batch):
                chunk = work[:, at : at + batch]
                eps = _noises(seed, keys, chunk[0], chunk[1], z.shape[1:]).to(t.device)
                image, level, prompt = torch.from_numpy(chunk).to(t.device)
                found.append(errors(generator, z[image], condition.take(prompt), t[level], eps, loss))
                report(len(image))
            mean = np.where(alive, 0, np.float32(np.nan))[:, :, None].repeat(last - first, axis=2)
            np.add.at(mean, (i, class_of[p], k), torch.cat(found).cpu().numpy() / sizes[class_of[p]])
            return mean

        return eliminate(measure, len(z), len(sizes), schedule)

    fingerprint, parts = None if store is None else generator.fingerprint(), []
    read = hashlib.blake2b(condition.embeddings.float().cpu().numpy().tobytes()).hexdigest()  # as tokenised
    for start in range(0, len(keys), images_at_once):
        part = slice(start, start + images_at_once)
        facts = repr((fingerprint, read, images[part].shape, keys[part], prompts, schedule, loss, seed))
        name = hashlib.blake2b(facts.encode() + images[part].tobytes(), digest_size=16).hexdigest()
        kept = None if store is None else store.get(name)
        parts.append(errors_of(images[part], keys[part]) if kept is None else kept["errors"])
        if kept is not None:
            report(int(evaluations(kept["errors"], sizes).sum()))
        elif store is not None:
            store.put(name, {"errors": parts[-1]})
    return result_of(np.concatenate(parts), schedule.t, sizes)


class DiffusionClassifier:
    """A classifier like any other: `scores(images)`. Takes what `classify` takes, but for the images."""

    def __init__(
        self,
        generator: Generator,
        prompts: Sequence[str] | Sequence[Sequence[str]],
        schedule: Schedule,
        **options: Any,
    ):
        self.generator, self.prompts, self.schedule, self.options = generator, prompts, schedule, options

    def scores(self, images: np.ndarray) -> np.ndarray:
        """Return scores, float32 (n, classes), highest for the prediction."""
        return classify(self.generator, images, self.prompts, self.schedule, **self.options).scores


def _flatten(prompts: Sequence[str] | Sequence[Sequence[str]]) -> tuple[list[str], np.ndarray]:
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


def _noises(seed: int, keys: list[int | str], i: np.ndarray, k: np.ndarray, shape: Sequence[int]) -> Tensor:
    """Return the noise of each (image i, number k), (m, c, h, w); each different one is drawn once."""
    pairs, which = np.unique(np.stack([i, k]), axis=1, return_inverse=True)
    return torch.stack([noise(seed, keys[i], k, shape) for i, k in pairs.T.tolist()])[which.reshape(-1)]


def _check(images: np.ndarray, keys: list[int | str], loss: str, batch: int, images_at_once: int) -> None:
    check_images(images, "classify")
    if not keys or len(keys) != len(images):
        raise ValueError(f"classify needs images, and a key for each; got {len(images)} and {len(keys)} keys")
    if loss not in LOSSES:
        raise ValueError(f"loss must be one of {', '.join(LOSSES)}, got {loss!r}")
    if min(batch, images_at_once) < 1:
        raise ValueError(f"batch and images_at_once must be 1 or more, got {batch} and {images_at_once}")


def _check_latents(z: Tensor, keys: list[int | str]) -> None:
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
