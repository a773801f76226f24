"""Your Diffusion Model is Secretly a Zero-Shot Classifier (Li, Prabhudesai, Duggal, Brown, Pathak; ICCV 2023)

Add noise to an image, let a text-to-image model predict that noise once for every class's prompt, and choose
the class whose prediction comes closest, on average over noise levels t and noises eps (section 3, with
weights w_t = 1). All classes of an image meet the same (t_k, eps_k), k = 0..K-1, and eps_k depends on the
run's seed, the image's key and k alone.

    result = classify(generator, images, fill("a photo of a {}.", classes), exhaustive(32))
    accuracy = (result.prediction == labels).mean()
    cheaper = classify(generator, images, fill("a photo of a {}.", classes), sequential(128))

The passes of the network are made in `passes`, rules over their errors are in `error_matrix` and `sequential`,
what the paper takes apart (noise, losses, guidance, weights) is in `mechanisms`, what it compares itself with in
`baselines` and `winoground`.

Unlike in the authors' code, noise has a seed, errors are float32, several prompts of a class are averaged
before classes are ranked (theirs compete), and any prefix of the levels of `nested_stages` is evenly spread.
`reference_stages` follows their schedule to the letter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from zsclib.models.generator import Generator
from zsclib.papers.diffusion_classifier.error_matrix import (
    Rule,
    Schedule,
    evaluations,
    exhaustive,
    nested_stages,
    paired_standard_errors,
    posterior,
    prediction,
    reference_stages,
    scores_from_errors,
)
from zsclib.papers.diffusion_classifier.passes import Measure, Store, error_matrices, errors, flatten, noise
from zsclib.papers.diffusion_classifier.sequential import Sequential, clark_jaini, sequential

__all__ = [
    "DiffusionClassifier",
    "Result",
    "Schedule",
    "Sequential",
    "Store",
    "clark_jaini",
    "classify",
    "errors",
    "exhaustive",
    "nested_stages",
    "noise",
    "posterior",
    "reference_stages",
    "result_of",
    "sequential",
]


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


def classify(
    generator: Generator,
    images: np.ndarray,
    prompts: Sequence[str] | Sequence[Sequence[str]],
    schedule: Rule,
    *,
    loss: str = "l2",
    seed: int = 0,
    keys: Sequence[int | str] | None = None,
    candidates: np.ndarray | None = None,
    batch: int = 256,
    images_at_once: int = 64,
    store: Store | None = None,
    progress: Callable[[int], object] | None = None,
) -> Result:
    """Classify images zero-shot.

    Args:
        images: uint8 (n, H, W, 3) of the generator's image size.
        prompts: one text per class, or several, whose errors are averaged before classes are ranked.
        schedule: from `exhaustive`, `nested_stages`, `reference_stages`, `sequential` or `clark_jaini`.
        loss: "l2", "l1" or "huber".
        seed, keys: of the noise. Keys name the images (default 0..n-1): a part of a set, given the keys it
            has in the whole, gets the noise and result it has there, in any order and batch size.
        candidates: bool (n, C), the classes each image is asked about; None for all.
        batch: passes of the network at once, over images, classes and levels alike.
        images_at_once: images per part; the errors of a part are stored together. Lists of the part's passes
            take about 50 bytes a pass: fewer at once for a thousand classes.
        progress: called with the number of passes just done, for instance `tqdm(...).update`.

    Raises:
        ValueError: bad input, named before any image is looked at; latents or noise that is not finite.
    """
    measure = Measure(loss)
    found = error_matrices(
        generator, images, prompts, schedule, [measure], candidates=candidates, seed=seed, keys=keys,
        batch=batch, images_at_once=images_at_once, store=store, progress=progress,
    )  # fmt: skip
    return result_of(found[measure], schedule.t, np.bincount(flatten(prompts)[1]))


class DiffusionClassifier:
    """A classifier like any other: `scores(images)`. Takes what `classify` takes, but for the images."""

    def __init__(
        self,
        generator: Generator,
        prompts: Sequence[str] | Sequence[Sequence[str]],
        schedule: Rule,
        **options: Any,
    ):
        self.generator, self.prompts, self.schedule, self.options = generator, prompts, schedule, options

    def scores(self, images: np.ndarray) -> np.ndarray:
        """Return scores, float32 (n, classes), highest for the prediction."""
        return classify(self.generator, images, self.prompts, self.schedule, **self.options).scores
