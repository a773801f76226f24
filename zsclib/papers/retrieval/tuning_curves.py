"""How the denoising loss on held-out real images falls while the generator is personalised: how much tuning is enough?

    curves = tuning_curves(setting, data, {"conditioning": {"way": "conditioning"}}, execution)
    curves["conditioning"]                   # {"samples": [0, 560, …], "held_out": [0.107, 0.103, …]}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd

from zsclib.papers.retrieval.generated_arms import personalise
from zsclib.papers.retrieval.training_sets import Data, Setting
from zsclib.workers import Execution

Curves = Mapping[str, Mapping[str, list]]


def tuning_curves(
    setting: Setting, data: Data, ways: Mapping[str, Mapping], execution: Execution, checks: int = 4
) -> dict[str, dict[str, list]]:
    """Return the held-out loss of ways to personalise the generator, as all classes of a target are learnt.

    Args:
        setting, data: whose generator, D and held-out images; with the samples and learning rates of its arms.
        ways: name → options of `generated_arms.personalised`. checks: on the way, beside the one at the start.

    Returns:
        name → "samples", of all classes together, and "held_out", the mean loss over what is learnt, each class or
        cluster counting as often as it has images in D.
    """
    curves = {}
    for name, options in ways.items():
        generator, _ = personalise(setting, data, 1, replace(execution, seed=data.seed), **options, checks=checks)
        history = generator.history.dropna(subset="held_out")
        by_samples, learners = history.groupby("samples"), history["name"].nunique()
        losses = [float(np.average(group["held_out"], weights=group["images"])) for _, group in by_samples]
        curves[name] = {"samples": [int(n) * learners for n in by_samples.groups], "held_out": losses}
    return curves


def changes(curves: Curves) -> pd.DataFrame:
    """Return of each curve its samples, the loss at both ends, and its relative change in the last quarter.

    A loss that still falls in the last quarter says that more samples would have taught more.
    """
    rows = []
    for name, curve in curves.items():
        samples, loss = curve["samples"], curve["held_out"]
        before = float(np.interp(0.75 * samples[-1], samples, loss))
        ends = {"samples": samples[-1], "at the start": loss[0], "at the end": loss[-1]}
        rows.append({"arm": name, **ends, "last quarter": loss[-1] / before - 1})
    return pd.DataFrame(rows)
