"""Winoground's role: two images, two captions of the same words; which belongs to which? (Thrush et al., CVPR 2022)

The Diffusion Classifier answers with its error under each caption (Li et al., ICCV 2023, table 3, appendix F.2), CLIP
with a cosine.

    s, u = pair_scores(*pair_errors(generator, pairs, exhaustive(8)))
    s                                                       # (n, 2, 2)
    solved(s)["text"]                                       # (n,)
    solved(subtract_unconditional(s, u))["image"]           # (n,)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from zsclib.images.image_set import ImageSet
from zsclib.models.clip import Clip
from zsclib.models.generator import Generator
from zsclib.papers.diffusion_classifier.ablations import Measure
from zsclib.papers.diffusion_classifier.engine import error_matrices
from zsclib.papers.diffusion_classifier.error_matrix import Schedule
from zsclib.workers import Execution

CHANCE = {"text": 1 / 4, "image": 1 / 4, "group": 1 / 6, "matching": 1 / 2}  # of four scores in any order
EXAMPLES_AT_ONCE = 32  # in one matrix of captions by images
SWAPS = ("object", "relation", "both")  # in the order of table 3


def solved(s: np.ndarray) -> dict[str, np.ndarray]:
    """Return which examples each score calls solved (Thrush et al. 2022, eqs. 1 to 3; the last is ours); no tie is.

    text: both images prefer their own caption. image: both captions prefer their own image. group: both of these.
    matching: true pairs fit better in sum than false ones. A model that prefers one caption whatever the image gets no
    text score at all, one that prefers one image no image score: such habits cancel in this sum.

    Args:
        s: (n, 2, 2), how well caption i (axis 1) fits image j (axis 2); i = j belong together.

    Returns:
        The names of CHANCE -> bool (n,).
    """
    s = np.asarray(s)
    if s.ndim != 3 or s.shape[1:] != (2, 2) or not np.isfinite(s).all():
        raise ValueError(f"solved: scores must be finite, (examples, 2 captions, 2 images), got {s.shape}")
    text = (s[:, 0, 0] > s[:, 1, 0]) & (s[:, 1, 1] > s[:, 0, 1])
    image = (s[:, 0, 0] > s[:, 0, 1]) & (s[:, 1, 1] > s[:, 1, 0])
    matching = s[:, 0, 0] + s[:, 1, 1] > s[:, 0, 1] + s[:, 1, 0]
    return {"text": text, "image": image, "group": text & image, "matching": matching}


def subtract_unconditional(s: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Return s (n, 2, 2) less the score u (n, 2) of each image under no caption (Krojer et al. 2023).

    Raw errors do not compare across images, some of which are harder to predict under any caption. The text score
    stays as it is.
    """
    if np.shape(s)[1:] != (2, 2) or np.shape(u) != (len(s), 2):
        raise ValueError(
            f"subtract_unconditional: need (n, 2, 2) and (n, 2), got {np.shape(s)}, {np.shape(u)}"
        )
    return np.asarray(s) - np.asarray(u)[:, None, :]


def by_swap(solved: np.ndarray, swaps: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the entries of `solved` (n,) for every swap type, as in table 3, and "all" of them last."""
    solved, swaps = np.asarray(solved), np.asarray(swaps)
    if solved.shape != swaps.shape:
        raise ValueError(f"by_swap: {solved.shape} results but {swaps.shape} swap types")
    known = [swap for swap in SWAPS if swap in swaps] + sorted(set(swaps.tolist()) - set(SWAPS))
    return {swap: solved[swaps == swap] for swap in known} | {"all": solved}


@dataclass(frozen=True, eq=False, kw_only=True)
class Pairs:
    """n examples of two images and two captions; made by `pairs_of`."""

    images: np.ndarray  # uint8 (n, 2, H, W, 3)
    captions: tuple[tuple[str, str], ...]
    keys: tuple[str, ...]  # of the noise: "example 17"
    swaps: tuple[str, ...]  # "" where the manifest does not say


def pairs_of(images: ImageSet) -> Pairs:
    """Return the examples of a set such as `pairs`, whose manifest says example, caption_0, caption_1, and swap.

    Raises:
        ValueError: a column is missing, an example has not one image of label 0 and one of label 1, or its rows do not
            agree on two different captions.
    """
    table = images.manifest.assign(label=images.labels, row=np.arange(len(images)))
    if missing := {"example", "caption_0", "caption_1"} - set(table.columns):
        raise ValueError(f"pairs_of: the manifest has no {', '.join(sorted(missing))}; `pairs` is such a set")
    rows, captions, keys, swaps = [], [], [], []
    for example, part in table.groupby("example", sort=False, dropna=False):
        part = part.sort_values("label")
        both = set(zip(part.caption_0, part.caption_1, strict=True))
        if part.label.tolist() != [0, 1] or len(both) != 1 or len(set(*both)) != 2:
            raise ValueError(
                f"pairs_of: example {example!r} needs an image of label 0, one of label 1, and two captions; got "
                f"labels {part.label.tolist()} and {sorted(both)}"
            )
        rows.append(part.row.tolist())
        captions.append(*both)
        keys.append(f"example {example}")
        swaps.append(str(part.swap.iloc[0]) if "swap" in part else "")
    return Pairs(
        images=images.images[np.array(rows, int).reshape(-1, 2)],
        captions=tuple(captions),
        keys=tuple(keys),
        swaps=tuple(swaps),
    )


def pair_errors(
    generator: Generator,
    pairs: Pairs,
    schedule: Schedule,
    *,
    loss: str = "l2",
    execution: Execution = Execution(),
) -> tuple[np.ndarray, np.ndarray]:
    """Return the errors of both images of every example under both captions, and under no caption.

    All of them meet the same (t_k, eps_k), so that every comparison within an example is paired; eps_k hangs on the
    seed, the example's key and k. (The authors give all examples one noise.)

    Args:
        schedule: `exhaustive(K)`; the paper takes all 1,000 timesteps.
        loss: "l2", "l1" or "huber".
        execution: as for `zsclib.papers.diffusion_classifier.classify`; an example takes 6 K evaluations.

    Returns:
        float32 (n, 2, 2, K), caption by image by timestep, and (n, 2, K) without a caption.

    Raises:
        ValueError: no examples, a schedule that eliminates, or what `error_matrices` raises.
    """
    if not pairs.keys or len(schedule.until) != 1:
        raise ValueError(
            f"pair_errors: needs examples and one stage, got {len(pairs.keys)} examples, {len(schedule.until)} stages"
        )
    captioned, unconditional = Measure(loss), Measure(loss, guidance=-1)
    with_caption, without = [], []
    for start in range(0, len(pairs.keys), EXAMPLES_AT_ONCE):
        part = slice(start, start + EXAMPLES_AT_ONCE)
        captions = pairs.captions[part]
        texts = list(dict.fromkeys(caption for both in captions for caption in both))
        own = np.array([[texts.index(caption) for caption in both] for both in captions]).repeat(2, axis=0)
        candidates = np.zeros((len(own), len(texts)), bool)
        np.put_along_axis(candidates, own, True, axis=1)  # of an image, its example's captions
        errors = error_matrices(
            generator,
            pairs.images[part].reshape(-1, *pairs.images.shape[2:]),
            texts,
            schedule,
            (captioned, unconditional),
            candidates=candidates,
            keys=[key for key in pairs.keys[part] for _ in range(2)],
            execution=execution,
        )
        e, u = (
            np.take_along_axis(errors[measure], own[:, :, None], axis=1)
            for measure in (captioned, unconditional)
        )
        K = e.shape[2]
        with_caption.append(e.reshape(-1, 2, 2, K).transpose(0, 2, 1, 3))  # from image by caption
        without.append(u[:, 0].reshape(-1, 2, K))
    return np.concatenate(with_caption), np.concatenate(without)


def pair_scores(errors: np.ndarray, unconditional: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return s (n, 2, 2) and u (n, 2), minus the means over timesteps of what `pair_errors` returns, in float64."""
    return -errors.mean(-1, dtype=np.float64), -unconditional.mean(-1, dtype=np.float64)


def clip_pair_scores(clip: Clip, pairs: Pairs) -> np.ndarray:
    """Return s (n, 2, 2), CLIP's cosine of caption i and image j of every example."""
    texts = clip.encode_texts([caption for both in pairs.captions for caption in both])
    images = clip.encode_images(pairs.images.reshape(-1, *pairs.images.shape[2:]))
    n = len(pairs.keys)
    return torch.einsum("nid,njd->nij", texts.view(n, 2, -1), images.view(n, 2, -1)).cpu().numpy()
