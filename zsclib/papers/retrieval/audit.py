"""Memorisation: how many generated images are near-copies of what the generator learnt from, and can we tell?

    detectors(traces(clip, pool_images), parents)           # recall and false alarms, near-duplicates being planted
    table, images = memorised(setting, data, 20, (1, 2, 3, 5), execution)
    share_of_copies(table, ["guidance"])                    # a row per guidance
    share_of_copies(table, ["frequency"])                   # a row per number of captions that name the class

What a detector misses is known where near-duplicates were planted with a known parent; what it takes for a copy and is
none, on images that have no relative in the pool.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from zsclib.extra import Extra
from zsclib.generator_pool import WORLD
from zsclib.images.image_set import ImageSet
from zsclib.papers.retrieval.generated_arms import prompted
from zsclib.papers.retrieval.pool_arms import open_captioned, open_index, parents
from zsclib.papers.retrieval.training_sets import Data, Setting, open_models
from zsclib.pools.captioned import CaptionedPool
from zsclib.pools.copies import ALIGNED, SIDE, SIMILAR, Traces, alignment, near_copies, thumbnails, traces
from zsclib.pools.index import Index
from zsclib.prompts import ARTICLE
from zsclib.workers import Execution

CANDIDATES = 32  # pool images, the nearest in CLIP space, that are compared with an image pixel by pixel
GUIDANCES, COUNTED = (1.0, 2.0, 3.0, 5.0), 200  # scales at which a study counts copies, and images of a target at each
COSINES = (0.9, 0.95, 0.98)  # detectors that do not look at pixels, for comparison


def detectors(images: Traces, parents: np.ndarray, cosines: Sequence[float] = COSINES) -> pd.DataFrame:
    """Measure detectors of near-copies on images some of which are known to repeat others.

    Args:
        images: of n images, such as a part of the made-up world's pool.
        parents: of each the row that it repeats, int64 (n,); -1: none (`Pool.scenes["parent"]`, in a first part of it).
        cosines: thresholds of detectors by CLIP's cosine alone.

    Returns:
        A row per detector (`zsclib.pools.copies.near_copies`, then the cosines): `recall`, the share of `pairs` of a
        planted copy and its parent that it reports; `false alarms`, the share of `others`, images without a relative,
        that it takes for a copy of some other image.

    Raises:
        ValueError: no image repeats another, or none does not, or a parent is not among the images.
    """
    parents = np.asarray(parents)
    family = roots(parents)
    copies, alone = np.flatnonzero(parents >= 0), np.bincount(family, minlength=len(family))[family] == 1
    if len(parents) != len(images) or not len(copies) or not alone.any():
        raise ValueError(
            f"detectors: {len(images)} images need a parent or -1 each, and some of both kinds; got {len(parents)} "
            f"with {len(copies)} copies and {int(alone.sum())} images without a relative"
        )
    pairs = {(int(i), int(j)) for i, j in near_copies(images, images)}
    reported = np.array([(int(i), int(parents[i])) in pairs for i in copies])
    alarmed = np.zeros(len(images), bool)
    for i, j in pairs:
        alarmed[i] |= family[i] != family[j]
    rows = [("CLIP, then pixels", reported.mean(), alarmed[alone].mean())]
    x = images.features
    with_parent = np.einsum("id,id->i", x[copies], x[parents[copies]])
    nearest = np.array([np.where(family == family[i], -1, x @ x[i]).max() for i in np.flatnonzero(alone)])
    rows += [(f"cosine of {c:g}", (with_parent >= c).mean(), (nearest >= c).mean()) for c in cosines]
    table = pd.DataFrame(rows, columns=["detector", "recall", "false alarms"])
    return table.assign(pairs=len(copies), others=int(alone.sum()))


def detectors_on_pool(setting: Setting, others: int) -> pd.DataFrame:
    """Measure detectors on the setting's pool, as `detectors` does; an empty table where nobody knows the truth of it.

    Args:
        setting: whose pool; of the made-up world's it is known which images repeat others.
        others: images without a relative on which false alarms are counted.
    """
    if setting.pool != WORLD:
        return pd.DataFrame()
    images, known = planted_part(setting, others)
    return detectors(traces(open_models(setting)[1], images), known)


def planted_part(setting: Setting, others: int) -> tuple[np.ndarray, np.ndarray]:
    """Return images of the made-up world's pool to try detectors on: all that repeat one another, and as many others.

    Args:
        setting: whose pool. others: how many of the first images without a relative are taken.

    Returns:
        uint8 (n, h, w, 3), in the pool's order, and the row of each one's parent among them, int64 (n,); -1: none.
    """
    every = parents(setting)
    family = roots(every)
    alone = np.bincount(family, minlength=len(family))[family] == 1
    rows = np.sort(np.concatenate([np.flatnonzero(~alone), np.flatnonzero(alone)[:others]]))
    place = np.full(len(every), -1)
    place[rows] = np.arange(len(rows))
    images = np.stack(open_captioned(setting).read(rows, SIDE))
    return images, np.where(every[rows] < 0, -1, place[every[rows]])


def planted_copies(extra: Mapping[str, Extra]) -> pd.DataFrame:
    """Return a row per arm into whose pool near-copies of test images were planted: how far they came.

    Args:
        extra: as `zsclib.papers.retrieval.arms.make_extra` returns it.

    Returns:
        `arm`; `dropped`, near-copies of test and held-out images that the ladder dropped on its way; `images` of S, and
        `copies`, how many of these were planted.
    """
    rows = [
        {
            "arm": name,
            "dropped": int(one.report["near held-out"].sum()),
            "images": len(one.images),
            "copies": int(one.images.manifest["id"].str.startswith("planted:").sum()),
        }
        for name, one in extra.items()
        if name.startswith("planted ")
    ]
    return pd.DataFrame(rows, columns=["arm", "dropped", "images", "copies"])


def roots(parents: np.ndarray) -> np.ndarray:
    """Return of each image the first that it repeats, through all generations, int64 (n,); its own row if none.

    Raises:
        ValueError: a parent that is not before its image.
    """
    own = np.arange(len(parents))
    if (np.asarray(parents) >= own).any():
        raise ValueError("roots: an image repeats one before it: parents must be rows below its own")
    root = np.where(parents < 0, own, parents)
    while (root[root] != root).any():
        root = root[root]
    return root


def nearest_in_pool(
    images: Traces, pool: CaptionedPool, index: Index, candidates: int = CANDIDATES
) -> pd.DataFrame:
    """Return of each image what the pool has nearest to it, and whether that is a near-copy.

    Args:
        images: n images. pool, index: what the generator learnt from.
        candidates: of the pool, the nearest in CLIP space, that are compared pixel by pixel.

    Returns:
        A row per image: `similarity` (CLIP's cosine with the nearest), `row` (of the pool, of the candidate aligned
        best), `alignment` (its), `copy` (whether some candidate passes both limits of `zsclib.pools.copies`).
    """
    k = min(candidates, len(pool))
    similarities, rows = index.search(images.features, k)  # (n, k)
    rows, aligned = index.embeddings.rows_in(pool)[rows], np.full(rows.shape, -1.0)
    for i in range(len(images)):
        others = pool.read(rows[i], SIDE)
        readable = np.array([other is not None for other in others], bool)
        theirs = thumbnails([other for other in others if other is not None])
        own = np.repeat(images.thumbnails[i : i + 1], len(theirs), axis=0)
        aligned[i, readable] = alignment(own, theirs)
    best, each = aligned.argmax(1), np.arange(len(images))
    copy = ((aligned >= ALIGNED) & (similarities >= SIMILAR)).any(1)
    return pd.DataFrame(
        {"similarity": similarities[:, 0], "row": rows[each, best], "alignment": aligned[each, best], "copy": copy}
    )


def share_of_copies(near: pd.DataFrame, by: Sequence[str] = ()) -> pd.DataFrame:
    """Return how many images are near-copies of pool images, in groups.

    Args:
        near: from `nearest_in_pool`, with further columns. by: columns that make groups; none: all together.

    Returns:
        A row per group: the columns of `by`, then `images`, `copies` (their number), `share`, `similarity` (mean).
    """
    keys = [near[name] for name in by] or [pd.Series("all", near.index, name="set")]
    counted = near.groupby(keys, sort=True).agg(
        images=("copy", "size"), copies=("copy", "sum"), similarity=("similarity", "mean")
    )
    counted.insert(2, "share", counted["copies"] / counted["images"])
    return counted.reset_index()


def frequencies(captions: Sequence[str], names: Sequence[str]) -> dict[str, int]:
    """Return how many captions of a pool name each class, as whole words and without its article."""
    padded = [f" {caption.lower()} " for caption in captions]
    bare = {name: f" {ARTICLE.sub('', name).lower()} " for name in names}
    return {name: sum(text in caption for caption in padded) for name, text in bare.items()}


def memorised_counts(setting: Setting, data: Data, execution: Execution) -> dict[str, list[dict]]:
    """Return how many generated images of a target have a near-copy in the pool, as plain data.

    Returns:
        "by guidance": of each of `GUIDANCES` images and copies, their number; "by class": class, frequency (captions
        that name it), images and copies, of all scales.
    """
    near, _ = memorised(setting, data, max(1, COUNTED // len(data.real.classes)), GUIDANCES, execution)
    groups = {"by guidance": ["guidance"], "by class": ["class", "frequency"]}
    counted = {what: share_of_copies(near, by)[[*by, "images", "copies"]] for what, by in groups.items()}
    return {what: json.loads(frame.to_json(orient="records")) for what, frame in counted.items()}


def memorised(
    setting: Setting, data: Data, n: int, guidances: Sequence[float], execution: Execution
) -> tuple[pd.DataFrame, dict[float, ImageSet]]:
    """Generate images at several guidance scales and look for a near-copy of each in the pool.

    Args:
        setting, data: whose generator, pool and classes.
        n: images of a class at each scale, from the same seeds.
        guidances: the scales.

    Returns:
        A row per image: what `nearest_in_pool` says, then guidance, class, and frequency (captions of the pool that
        name the class); and the images by scale.
    """
    clip, pool = open_models(setting)[1], open_captioned(setting)
    (_, index), count = open_index(setting), frequencies(pool.captions, data.real.classes)
    tables, sets = [], {}
    for scale in guidances:
        images = sets[scale] = prompted(setting, data, n, execution, guidance=scale)
        classes = [data.real.classes[label] for label in images.labels]
        near = nearest_in_pool(traces(clip, images.images), pool, index)
        tables.append(near.assign(guidance=scale, **{"class": classes}, frequency=[count[name] for name in classes]))
    return pd.concat(tables, ignore_index=True), sets
