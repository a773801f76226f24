"""Memorisation: how many generated images are near-copies of what the generator learnt from, and can we tell?

    detector = calibrate(vectors, parents)                  # on the pool's own planted near-duplicates
    detector.recall, detector.false_alarms, detector.threshold
    near = nearest(index, clip.encode_images(images).numpy())
    copies(near, detector.threshold, {"guidance": scales})  # a row per guidance: share of near-copies

The detector is a cosine of CLIP features. What it misses is known where near-duplicates were planted with a known
parent; what it takes for a copy and is none, on images that the generator never met.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from zsclib.images.image_set import ImageSet
from zsclib.papers.retrieval.generated_arms import prompted
from zsclib.papers.retrieval.pool_arms import open_captioned, open_index
from zsclib.papers.retrieval.training_sets import Data, Setting, open_models
from zsclib.pools.index import Index
from zsclib.prompts import ARTICLE
from zsclib.workers import Execution

BLOCK = 2**22  # cosines in memory at once


@dataclass(frozen=True, kw_only=True)
class Detector:
    """A threshold on the cosine of two images' features, and how well it tells near-copies.

    Attributes:
        threshold: pairs at or above it are called near-copies.
        recall: share of the planted near-duplicates whose cosine with their parent reaches it. pairs: their number.
        false_alarms: share of the other images whose nearest image, of those that are no relative, reaches it.
        others: the number of these images.
        rank_one: share of the planted near-duplicates whose nearest image of all is a relative.
    """

    threshold: float
    recall: float
    pairs: int
    false_alarms: float
    others: int
    rank_one: float


def calibrate(
    vectors: np.ndarray, parents: np.ndarray, threshold: float | None = None, false_alarms: float = 0.01
) -> Detector:
    """Measure a detector of near-copies on a pool some of whose images are known to repeat others.

    Args:
        vectors: features of the pool's images, float (n, d), unit length.
        parents: of each image the row that it repeats, int64 (n,); -1: none. `Pool.scenes["parent"]` of the made-up
            world's pool.
        threshold: to be measured; None: the least at which at most `false_alarms` of the others are taken for copies.
        false_alarms: see there.

    Raises:
        ValueError: no image repeats another, or shapes differ.
    """
    vectors, parents = np.asarray(vectors, np.float32), np.asarray(parents)
    if parents.shape != (len(vectors),) or not (parents >= 0).any() or parents.max() >= len(vectors):
        raise ValueError(
            f"calibrate: each of {len(vectors)} images needs the row of its parent, and some must have one; got "
            f"{parents.shape} with {int((parents >= 0).sum())} parents up to {parents.max(initial=-1)}"
        )
    family = roots(parents)
    relatives, strangers = np.full(len(vectors), -1.0), np.full(len(vectors), -1.0)
    at_once = max(1, BLOCK // len(vectors))
    for start in range(0, len(vectors), at_once):
        rows = np.arange(start, min(start + at_once, len(vectors)))
        cosines = vectors[rows] @ vectors.T  # (rows, n)
        cosines[np.arange(len(rows)), rows] = -1  # itself
        related = family[rows, None] == family
        relatives[rows] = np.where(related, cosines, -1).max(1)
        strangers[rows] = np.where(related, -1, cosines).max(1)
    copies = parents >= 0
    with_parent = np.einsum("id,id->i", vectors[copies], vectors[parents[copies]])
    alone = np.bincount(family, minlength=len(vectors))[family] == 1
    if threshold is None:
        ordered = np.sort(strangers[alone])
        allowed = int(false_alarms * len(ordered))
        threshold = float(np.nextafter(ordered[len(ordered) - 1 - allowed], np.float32(2)))
    return Detector(
        threshold=threshold,
        recall=float((with_parent >= threshold).mean()),
        pairs=int(copies.sum()),
        false_alarms=float((strangers[alone] >= threshold).mean()),
        others=int(alone.sum()),
        rank_one=float((relatives[copies] >= strangers[copies]).mean()),
    )


def roots(parents: np.ndarray) -> np.ndarray:
    """Return of each image the first that it repeats, through all generations: int64 (n,); its own row if none."""
    root = np.where(parents < 0, np.arange(len(parents)), parents)
    while (root[root] != root).any():
        root = root[root]
    return root


def nearest(index: Index, features: np.ndarray) -> pd.DataFrame:
    """Return of each feature, float32 (n, d), the nearest pool image: columns `similarity` and `row`."""
    similarities, rows = index.search(np.asarray(features, np.float32), 1)
    return pd.DataFrame({"similarity": similarities[:, 0], "row": rows[:, 0]})


def copies(near: pd.DataFrame, threshold: float, by: Mapping[str, Sequence] | None = None) -> pd.DataFrame:
    """Return how many images are near-copies of pool images, in groups.

    Args:
        near: from `nearest`. threshold: of a `Detector`.
        by: name → value of each image (its guidance, its class's frequency); None: all together.

    Returns:
        A row per group: the values of `by`, `images`, `copies` (their number), `share`, `similarity` (mean).
    """
    columns = {name: list(values) for name, values in (by or {"set": ["all"] * len(near)}).items()}
    table = near.assign(copy=near["similarity"] >= threshold, **columns)
    groups = table.groupby(list(columns), sort=True)
    counted = groups.agg(images=("copy", "size"), copies=("copy", "sum"), similarity=("similarity", "mean"))
    counted.insert(2, "share", counted["copies"] / counted["images"])
    return counted.reset_index()


def frequencies(captions: Sequence[str], names: Sequence[str]) -> dict[str, int]:
    """Return how many captions of a pool name each class, whole words, without its article."""
    padded = [f" {caption.lower()} " for caption in captions]
    bare = {name: f" {ARTICLE.sub('', name).lower()} " for name in names}
    return {name: sum(text in caption for caption in padded) for name, text in bare.items()}


def memorised(
    setting: Setting, data: Data, n: int, guidances: Sequence[float], execution: Execution
) -> tuple[pd.DataFrame, dict[float, ImageSet]]:
    """Generate images at several guidance scales and look for the nearest pool image of each.

    Args:
        setting, data: whose generator, pool and classes.
        n: images of a class at each scale, from the same seeds.
        guidances: the scales.

    Returns:
        A row per image: similarity, row (of the pool), guidance, class, frequency (captions of the pool that name the
        class); and the images by scale.
    """
    clip, index, captions = open_models(setting)[1], open_index(setting)[1], open_captioned(setting).captions
    count = frequencies(captions, data.real.classes)
    tables, sets = [], {}
    for scale in guidances:
        images = sets[scale] = prompted(setting, data, n, execution, guidance=scale)
        classes = [data.real.classes[label] for label in images.labels]
        near = nearest(index, clip.encode_images(images.images).cpu().numpy())
        tables.append(near.assign(guidance=scale, **{"class": classes}, frequency=[count[name] for name in classes]))
    return pd.concat(tables, ignore_index=True), sets
