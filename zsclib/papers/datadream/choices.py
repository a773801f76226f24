"""Which learning rate and check of a training count: the recipe's own, unless validation images clearly say otherwise.

    chosen = choice([(training, outcome), ...])             # one arm at several learning rates, from low to high
    chosen["learning_rate"], chosen["check"]                # plain data, and so is the rest
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from zsclib.papers.datadream.classifiers import Training

CLEARLY = 2  # standard errors
Choice = Mapping[str, object]


def choice(trials: Sequence[tuple[Training, Mapping[str, np.ndarray]]]) -> Choice:
    """Return the learning rate and the check that count, of trainings of one cell at several learning rates.

    By default these are the middle rate and its last check. Another pair counts only where its accuracy on validation
    images is clearly higher (`clear_gain`); of several such pairs the one that gains most, of equals the first. The
    highest of a dozen accuracies on a few images of a class would mostly be chance, and arms that are compared would
    differ by it.

    Args:
        trials: each training and its outcome (`zsclib.papers.datadream.classifiers.train_all`), by learning rate.

    Returns:
        Plain data: learning_rate, check (a row) and step; images, how many chose; trials, for each rate learning_rate
        and accuracies, those on validation images at every check, CLIP's first being that before any step.
    """
    correct = [outcome["validation"] == one.of.one.validation.labels for one, outcome in trials]  # (checks, n) each
    steps = trials[0][1]["step"]
    pairs = [(rate, row) for rate in range(len(trials)) for row in np.flatnonzero(steps > 0).tolist()]
    default = (len(trials) // 2, len(steps) - 1)
    gains = {(rate, row): clear_gain(correct[rate][row], correct[default[0]][default[1]]) for rate, row in pairs}
    rate, row = max(pairs, key=gains.get) if any(gains.values()) else default
    rates = [float(outcome["learning_rate"]) for _, outcome in trials]
    accuracies = [[round(float(value), 4) for value in of_rate.mean(1)] for of_rate in correct]
    return {
        "learning_rate": rates[rate],
        "check": row,
        "step": int(steps[row]),
        "images": correct[0].shape[1],
        "trials": [{"learning_rate": r, "accuracies": of_rate} for r, of_rate in zip(rates, accuracies, strict=True)],
    }


def clear_gain(correct: np.ndarray, rival: np.ndarray) -> float:
    """Return what one classifier gains over another on the same images, 0 where that is not clearly above nothing.

    It is clear if it exceeds two standard errors of the paired difference, one pair being added to each kind of
    disagreement (Bonett & Price 2012): of 32 images, four that change sides are not enough.

    Args:
        correct, rival: bool (n,), whether each is correct.
    """
    n, gained, lost = len(correct) + 2, int((correct & ~rival).sum()) + 1, int((rival & ~correct).sum()) + 1
    gain = (gained - lost) / n
    error = math.sqrt(((gained + lost) / n - gain**2) / n)
    return gain if gain > CLEARLY * error else 0.0
