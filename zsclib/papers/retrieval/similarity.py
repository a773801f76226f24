"""How near the images of a source are to a target's, before anything is trained: on held-out real images, no label.

    measured(setting, data, extra, execution)["pool similarity"]

f is CLIP's image encoder. A source is as near as a held-out real image x is, on average, to its nearest image of it:
near(A) = mean over x of max over a in A of ⟨f(x), f(a)⟩, A being m images of each class, the first that the source has
(m = `MOST`, or the number of shots where that is less). Cosines of one CLIP are not those of another, so a similarity
is counted from images of the pool at random, 0, to the labelled real images themselves, 1:

    similarity(S) = (near(S) − near(random)) / (near(D) − near(random))
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from zsclib.extra import Extra, counts, first_of_each
from zsclib.images.image_set import ImageSet
from zsclib.models.clip import Clip
from zsclib.papers.retrieval.pool_arms import open_index, prepare
from zsclib.papers.retrieval.training_sets import Data, Setting, open_models
from zsclib.pools.vectors import Vectors
from zsclib.seeds import rng
from zsclib.workers import Execution

MOST = 12  # images of a class that stand for a source
LEAST_GAP = 1e-3  # between cosines: below, a CLIP cannot tell the target from anything
BOUNDS = (-1.0, 2.0)  # of a similarity
POOL, PROMPTED, PERSONALISED = "pool similarity", "similarity of prompted", "similarity of personalised"


def nearness(images: np.ndarray, source: np.ndarray) -> float:
    """Return the mean cosine of images with the nearest of a source; 0 where that is empty.

    Args:
        images: features float32 (n, d), unit length. source: (m, d), likewise.
    """
    return float((images @ source.T).max(1).mean()) if len(source) else 0.0


def similarity(of_source: float, of_real: float, at_random: float) -> float:
    """Return where a nearness lies between that of random images, 0, and that of real ones, 1, within `BOUNDS`."""
    return float(np.clip((of_source - at_random) / max(of_real - at_random, LEAST_GAP), *BOUNDS))


def source_similarity(clip: Clip, data: Data, source: ImageSet, pool: Vectors | np.ndarray) -> float:
    """Return how near a source's images are to a target's.

    Args:
        clip: the CLIP that retrieves.
        data: the target: D, and the held-out real images.
        source: extra images of the same classes, its best first.
        pool: features of the pool's images, (n, d), unit length.
    """
    m = min(MOST, int(counts(data.real).min()))
    images, real, extra = (
        clip.encode_images(one.images).cpu().numpy()
        for one in (data.held_out, _first(data.real, m), _first(source, m))
    )
    at_random = _some(pool, data, m)[:, : images.shape[1]]  # behind them may lie features of captions
    return similarity(nearness(images, extra), nearness(images, real), nearness(images, at_random))


def measured(
    setting: Setting, data: Data, extra: Mapping[str, Extra], execution: Execution, arms: Mapping[str, str]
) -> dict[str, float]:
    """Return what is known of sources before any network is trained.

    Args:
        setting, data: of the comparison.
        extra: arm → its images.
        arms: what is measured → the arm whose similarity that is: `POOL`, `PROMPTED`, `PERSONALISED`.

    Returns:
        These similarities; "query similarity", the mean cosine of retrieved images with their class's query; "hits",
        the median over classes of how far down its list retrieval went; "fewest of a class", of retrieved images.
    """
    prepare(setting, execution)
    clip, pool = open_models(setting)[1], open_index(setting)[0].vectors
    values = {
        what: source_similarity(clip, data, extra[arm].images, pool) for what, arm in arms.items() if arm in extra
    }
    retrieved = extra[arms[POOL]]
    report, cosines = retrieved.report, retrieved.images.manifest.get("similarity")
    values["query similarity"] = float(np.mean(cosines)) if cosines is not None and len(cosines) else 0.0
    values["hits"] = float(np.median(report["hits"])) if "hits" in report else 0.0
    values["fewest of a class"] = float(counts(retrieved.images).min())
    return values


def _first(images: ImageSet, m: int) -> ImageSet:
    return first_of_each(images, np.full(len(images.classes), m))


def _some(pool: Vectors | np.ndarray, data: Data, m: int) -> np.ndarray:
    """Return the features of as many random rows of a pool as a source has images."""
    n = min(len(pool), m * len(data.real.classes))
    rows = np.sort(rng(data.seed, "random rows", data.target).permutation(len(pool))[:n])
    return pool[rows].astype(np.float32)
