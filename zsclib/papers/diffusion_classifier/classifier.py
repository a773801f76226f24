"""The Diffusion Classifier to be used: images and prompts in, predictions, scores and their cost out.

    prompts = fill("a photo of a {}.", classes)                               # C of them
    errors = classify(generator, images, prompts, exhaustive(32)).errors      # (n, C, 32)
    cheaper = classify(generator, images, prompts, sequential(32))
    cheaper.prediction                                                        # (n,)
    cheaper.evaluations                                                       # (n,), at most C · 32 each

Unlike in the authors' code, noise has a seed, errors are float32, several prompts of a class are averaged before
classes are ranked (theirs compete), and any prefix of the timesteps of `nested_stages` is evenly spread.
`reference_stages` follows their schedule to the letter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from zsclib.models.generator import Generator
from zsclib.papers.diffusion_classifier.ablations import Measure
from zsclib.papers.diffusion_classifier.engine import error_matrices, flatten
from zsclib.papers.diffusion_classifier.error_matrix import (
    Rule,
    evaluations,
    prediction,
    scores_from_errors,
)
from zsclib.workers import Execution


@dataclass(frozen=True, eq=False, kw_only=True)
class Result:
    """What follows from the errors of n images and C classes; made by `result_of`."""

    prediction: np.ndarray  # int64 (n,)
    scores: np.ndarray  # float32 (n, C), minus the mean error (see scores_from_errors)
    evaluations: np.ndarray  # int64 (n,), of the network, for each image
    errors: np.ndarray  # float32 (n, C, K), NaN where a class was out
    timesteps: np.ndarray  # int64 (K,)


def result_of(errors: np.ndarray, timesteps: Sequence[int], prompts_each: np.ndarray | int = 1) -> Result:
    """Return all that follows from errors (n, C, K) at those timesteps, with so many prompts per class."""
    return Result(
        prediction=prediction(errors),
        scores=scores_from_errors(errors),
        evaluations=evaluations(errors, prompts_each),
        errors=errors,
        timesteps=np.asarray(timesteps, dtype=np.int64),
    )


def classify(
    generator: Generator,
    images: np.ndarray,
    prompts: Sequence[str] | Sequence[Sequence[str]],
    schedule: Rule,
    *,
    loss: str = "l2",
    keys: Sequence[int | str] | None = None,
    candidates: np.ndarray | None = None,
    execution: Execution = Execution(),
) -> Result:
    """Classify images zero-shot (Li et al. 2023, algorithms 1 and 2).

    Args:
        images: uint8 (n, H, W, 3) of the generator's image size.
        prompts: one text per class, or several, whose errors are averaged before classes are ranked.
        schedule: from `exhaustive`, `nested_stages`, `reference_stages`, `sequential` or `clark_jaini`.
        loss: "l2", "l1" or "huber".
        keys: names of the images, by which they get their noise (default 0..n-1): a part of a set, given the keys it
            has in the whole, gets the noise and result it has there, in any order and batch size.
        candidates: bool (n, C), the candidate classes of each image; None for all.
        execution: seed of the noise, cache, progress (in images) and workers. Lists of a job's evaluations take about
            50 bytes each: fewer `images_at_once` for a thousand classes.

    Raises:
        ValueError: bad input, named before any image is looked at; latents or noise that is not finite.
    """
    measure = Measure(loss)
    errors = error_matrices(
        generator, images, prompts, schedule, [measure], keys=keys, candidates=candidates, execution=execution
    )[measure]
    return result_of(errors, schedule.t, np.bincount(flatten(prompts)[1]))


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
