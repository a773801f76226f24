"""What the Diffusion Classifier is made of, each part to be exchanged for another (Li et al., ICCV 2023, section 6 and
appendix): noise, losses, crops, guidance, weights and numbers of timesteps, a filter of classes.

What changes an evaluation is named here and measured by `engine.error_matrices`; what does not is a function of a
matrix of errors (n images, C classes, K timesteps). Single timesteps, and even against crowded ones (figures 3 and 4),
are slices of such a matrix: `prediction(errors[:, :, [3]])`.

    measures = [Measure(), Measure("l1"), Measure(crop=2), Measure(guidance=1.0)]
    errors = error_matrices(generator, images, prompts, exhaustive(16), measures)   # all from the same evaluations
    errors[Measure("l1")]                                                           # (n, C, 16)
    w = variational_weights(generator.alphas_cumprod, exhaustive(16).t)             # (16,)
    prediction(weighted(errors[Measure()], w))                                      # (n,)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from zsclib.papers.diffusion_classifier.error_matrix import Schedule, prediction

LOSSES = {"l2": F.mse_loss, "l1": F.l1_loss, "huber": F.huber_loss}  # tables 8 and 9; Huber with delta = 1
NOISES: dict[str, Callable[[Tensor], Tensor]] = {  # table 12: each made of the same normal sample
    "normal": lambda eps: eps,
    "zero": torch.zeros_like,
    "truncated": lambda eps: truncated(eps, 1.0),
    "truncated-2.5": lambda eps: truncated(eps, 2.5),
    "rescaled": lambda eps: eps * (eps.numel() ** 0.5 / eps.norm()),  # to the length expected
    "unpaired": lambda eps: eps,  # the opposite of figure 2: anew for every prompt
}


class Measure(NamedTuple):
    """One way to judge an evaluation; the defaults are the paper's.

    Args:
        loss: "l2", "l1" or "huber" (tables 8 and 9).
        crop: latent pixels left out on every side of the error map (figure 9).
        guidance: w of (1 + w) eps_c - w eps_0, with eps_0 predicted for the empty prompt (figure 8). -1 is
            the unconditional error, the same for all classes, by which images become comparable.
        noise: a key of NOISES (table 12); all kinds but "unpaired" are the same normal sample made into another.
    """

    loss: str = "l2"
    crop: int = 0
    guidance: float = 0.0
    noise: str = "normal"

    def of(self, eps_hat: Tensor, eps_null: Tensor | None, eps: Tensor) -> Tensor:
        """Return the error of each of m predictions (m, c, h, w), float32 (m,)."""
        if self.guidance:
            eps_hat = (1 + self.guidance) * eps_hat - self.guidance * eps_null
        inside = (..., *(slice(self.crop, side - self.crop) for side in eps.shape[-2:]))
        return LOSSES[self.loss](eps_hat[inside], eps[inside], reduction="none").flatten(1).mean(1)


def check_measures(measures: Sequence[Measure], latent_shape: Sequence[int]) -> None:
    """Raise ValueError, naming what is wrong, unless these measures can be taken of latents of that shape."""
    if not measures or len(set(measures)) < len(measures):
        raise ValueError(f"measures must be one or more, all different; got {list(measures)}")
    most = (min(latent_shape[1:]) - 1) // 2
    for measure in measures:
        if measure.loss not in LOSSES:
            raise ValueError(f"loss must be one of {', '.join(LOSSES)}, got {measure.loss!r}")
        if not 0 <= measure.crop <= most:
            raise ValueError(f"crop must be from 0 to {most} for latents {latent_shape}, got {measure.crop}")
        if not np.isfinite(measure.guidance):
            raise ValueError(f"guidance must be a finite number, got {measure.guidance}")
        if measure.noise not in NOISES:
            raise ValueError(f"noise must be one of {', '.join(NOISES)}, got {measure.noise!r}")
    if len({measure.noise for measure in measures}) > 1:
        raise ValueError(
            "measures of the same evaluations have the same noise; measure other kinds by themselves"
        )


def truncated(eps: Tensor, bound: float) -> Tensor:
    """Map normal noise to the normal distribution truncated at -bound and bound (inverse of its cumulative)."""
    low = torch.special.ndtr(torch.tensor(-bound, dtype=torch.float64))
    return torch.special.ndtri(low + (1 - 2 * low) * torch.special.ndtr(eps.double())).float()


def variational_weights(alphas_cumprod: Tensor, t: Sequence[int]) -> np.ndarray:
    """Return the weights that the variational bound puts on squared errors (Ho et al. 2020, eq. 12; table 5).

    They are beta_t^2 / (2 sigma_t^2 alpha_t (1 - alpha_bar_t)) with sigma_t^2 = beta_t, that is
    beta_t / (2 alpha_t (1 - alpha_bar_t)): finite at t = 0 too. DiT, which learns its variance, has others.

    Args:
        alphas_cumprod: float (T,), a generator's; flow models have none. t: K timesteps.

    Returns:
        float64 (K,).
    """
    if alphas_cumprod is None:
        raise ValueError(
            "variational_weights: a flow model has no such bound; its generator has no alphas_cumprod"
        )
    alpha_bar = alphas_cumprod.double().numpy()
    alpha = alpha_bar / np.concatenate([[1.0], alpha_bar[:-1]])
    return ((1 - alpha) / (2 * alpha * (1 - alpha_bar)))[np.asarray(t)]


def weighted(errors: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return errors (n, C, K) times weights (K,) of mean 1, so that rules which average timesteps weigh them."""
    weights = np.asarray(weights, np.float64)
    if weights.shape != errors.shape[2:] or not (weights >= 0).all() or not 0 < weights.sum() < np.inf:
        raise ValueError(f"weighted: need {errors.shape[2]} weights of 0 or more, some above, got {weights}")
    return errors * (weights / weights.mean())


def repeated(number: int, times: int, T: int = 1000) -> Schedule:
    """Return a few timesteps, amid equal parts of the range, each met with several noises (figure 4)."""
    if min(number, times) < 1 or number > T:
        raise ValueError(
            f"repeated: need from 1 to {T} timesteps, each at least once, got {number} and {times}"
        )
    t = [(2 * i + 1) * T // (2 * number) for i in range(number)]
    return Schedule(tuple(t * times), (number * times,), (1,))


def best_classes(scores: np.ndarray, k: int) -> np.ndarray:
    """Return each image's k classes of highest score, bool (n, C), as `candidates` (table 7: CLIP's best 20).

    All classes where there are no more than k, as in the paper.
    """
    if k < 1 or not np.isfinite(scores).all():
        raise ValueError(f"best_classes: k must be 1 or more and scores finite, got k = {k}")
    return (-scores).argsort(axis=1, kind="stable").argsort(axis=1) < k


def pairing_gain(paired: np.ndarray, unpaired: np.ndarray) -> np.ndarray:
    """Return how many times fewer evaluations shared noise needs than noise of each class (figure 2).

    That is the variance over timesteps of the error difference between an image's two best classes with unpaired
    noise, over the same with paired noise.

    Args:
        paired, unpaired: errors (n, C, K) of the same images, classes and timesteps; K of 2 or more.

    Returns:
        log10 of the ratio, float64 (n,).
    """
    best = prediction(paired)
    mean = paired.mean(2, dtype=np.float64)
    mean[np.arange(len(mean)), best] = np.inf
    rows, second = np.arange(len(mean)), mean.argmin(1)
    variances = [
        (E[rows, best] - E[rows, second]).var(1, ddof=1, dtype=np.float64) for E in (unpaired, paired)
    ]
    return np.log10(variances[0] / variances[1])
