"""What the guidance scale changes: how literally prompts are followed, and how various the images are."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from torch import nn

from zsclib import setmetrics
from zsclib.datasets import load
from zsclib.models.clip import Clip
from zsclib.pocket.requests import fulfilled, requests
from zsclib.seeds import seed_of
from zsclib.world.targets import OBJECTS


def guidance_tradeoff(
    generate: Callable[[list[str], list[int], float], np.ndarray],
    classifier: nn.Module,
    clip: Clip,
    scales: Sequence[float],
    sets: int = 2,
    n: int = 120,
    seed: int = 0,
) -> pd.DataFrame:
    """Measure sets of generated images of the ten objects at each guidance scale.

    Args:
        generate: (prompts, seeds, guidance scale) → images uint8 (n, 32, 32, 3).
        classifier: the attribute classifier.
        clip: in whose features recall and Vendi score are taken.
        scales: guidance scales.
        sets: per scale, each from seeds of its own, which are the same at every scale.
        n: images of a set, and of the real set that recall refers to.
        seed: of the requests.

    Returns:
        A row per scale and set: guidance, accuracy (images that show what their prompt asks for), recall
        (Kynkäänniemi et al. 2019) and Vendi score (see `variety`).
    """
    real = _features(clip, load("objects", "validation", n=n).images)                      # (n, d)
    rows = []
    for scale in scales:
        for part in range(sets):
            wanted = requests("objects", n, seed_of(seed, "tradeoff", part))
            images = generate(wanted.prompt.tolist(), wanted.seed.tolist(), scale)
            features = _features(clip, images)                                             # (n, d)
            _, recall = setmetrics.precision_recall(real, features)
            accuracy, vendi = fulfilled(classifier, images, wanted).mean(), _vendi_per_class(features)
            rows.append({"guidance": scale, "accuracy": accuracy, "recall": recall, "Vendi score": vendi})
    return pd.DataFrame(rows)


def variety(clip: Clip, images: np.ndarray) -> float:
    """Return the effective number of different images of a class, the mean over the ten objects.

    That is the Vendi score (Friedman & Dieng 2023) in CLIP's features; image i is of class i mod 10, as requests and
    target sets are.
    """
    return _vendi_per_class(_features(clip, images))


def _vendi_per_class(features: np.ndarray) -> float:
    C = len(OBJECTS)
    return float(np.mean([setmetrics.vendi_score(features[c::C]) for c in range(C)]))


def _features(clip: Clip, images: np.ndarray) -> np.ndarray:
    return clip.encode_images(images).cpu().numpy()
