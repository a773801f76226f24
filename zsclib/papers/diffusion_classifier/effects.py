"""What one change does to the classifier, set by set, on the same images, timesteps and noise: what a page shows.

    effects = change(by_measure, Measure("l1"), targets, targets)
    effects["digits"]                                       # differences of correctness, float64 (n,)

`contrasts` says what claims are decided by.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from zsclib.papers.diffusion_classifier import robustness
from zsclib.papers.diffusion_classifier.ablations import Measure, weighted
from zsclib.papers.diffusion_classifier.arms import DIT
from zsclib.papers.diffusion_classifier.measurements import Errors, Target, correct

Outcomes = Mapping[str, np.ndarray]  # target -> whether, or how often, an arm is correct on each image, (n,)
Targets = Mapping[str, Target]
NOISES = {  # what a page calls a kind of noise
    "no noise": "zero",
    "noise cut at 1 sd": "truncated",
    "noise cut at 2.5 sd": "truncated-2.5",
    "noise of expected length": "rescaled",
}


def difference(arm: Outcomes, rival: Outcomes) -> dict[str, np.ndarray]:
    """Return target → arm less rival on each image, float64 (n,), for the targets of both."""
    return {
        name: np.asarray(arm[name], np.float64) - np.asarray(rival[name], np.float64)
        for name in arm
        if name in rival
    }


def weighting(errors: Errors, targets: Targets, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Return target → uniform less variational weights (K,) on the same errors (n, C, K), float64 (n,)."""
    bound = {name: weighted(matrix, weights) for name, matrix in errors.items()}
    return difference(correct(errors, targets), correct(bound, targets))


def of_noise(kinds: Mapping[str, Errors], targets: Targets) -> dict[str, dict[str, np.ndarray]]:
    """Return text of `NOISES` → target → that kind of noise less normal noise, float64 (n,), for the kinds there are.

    Args:
        kinds: kind of noise → errors, "normal" among them, all at the same timesteps.
    """
    normal = correct(kinds["normal"], targets)
    there = {text: kind for text, kind in NOISES.items() if kind in kinds}
    return {text: difference(correct(kinds[kind], targets), normal) for text, kind in there.items()}


def above_the_line(correct: Mapping[str, Outcomes], seed: int = 0) -> tuple[float, float, float]:
    """Return accuracy under shift less what the networks' line foretells, with its interval over images.

    Args:
        correct: DIT, and two networks or more → "objects" and "objects-shift" → bool (n,).
    """
    networks = [name for name in correct if name != DIT]
    parts = ([correct[name][test] for name in networks] for test in ("objects", "objects-shift"))
    return robustness.effective_robustness(
        *parts, correct[DIT]["objects"], correct[DIT]["objects-shift"], seed=seed
    )


def change(
    broad: Mapping[Measure, Errors], measure: Measure, names: Iterable[str], targets: Targets
) -> dict[str, np.ndarray]:
    """Return target → a measure less the squared error of the whole latent, on the same evaluations, float64 (n,)."""
    changed, plain = ({name: broad[which][name] for name in names} for which in (measure, Measure()))
    return difference(correct(changed, targets), correct(plain, targets))
