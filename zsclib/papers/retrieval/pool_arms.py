"""Arms whose extra images come from the very pool that the generator learnt from: retrieved (M11), or taken at random.

    prepare(setting, execution)                             # the pool's CLIP features, once
    retrieved(setting, data, 96, execution)                 # M11, by the class's name
    retrieved(setting, data, 96, execution, query="images") # by D's images of it
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from zsclib.hashing import digest
from zsclib.images.image_set import ImageSet
from zsclib.papers.retrieval.generated_arms import with_pseudo_labels
from zsclib.papers.retrieval.training_sets import WORLD, Data, Setting, open_models, prompts_for
from zsclib.pools.captioned import CaptionedPool, open_pool, pool_in_memory
from zsclib.pools.copies import Traces, near_copies, thumbnails, traces
from zsclib.pools.embeddings import Embeddings, embed, open_embeddings
from zsclib.pools.index import Index, build_index
from zsclib.pools.queries import image_queries, mixed_queries, text_queries
from zsclib.pools.retrieval import retrieve
from zsclib.pools.vectors import Vectors
from zsclib.seeds import rng
from zsclib.workers import Execution
from zsclib.world.pool import PHASE_1, PHASE_2, load_pool, near_copy

MIX = 0.5  # share of the text in a query by both
QUERIES = ("text", "images", "both")


@functools.lru_cache(maxsize=1)
def open_captioned(setting: Setting) -> CaptionedPool:
    """Open the pool that the generator learnt from."""
    if setting.pool != WORLD:
        return open_pool(setting.pool)
    phases = [replace(phase, n=min(phase.n, setting.pool_images or phase.n)) for phase in (PHASE_1, PHASE_2)]
    pools = [load_pool(phase, setting.pool_cache) for phase in phases]
    images = np.concatenate([pool.images for pool in pools])
    return pool_in_memory(WORLD, images, [caption for pool in pools for caption in pool.captions])


def prepare(setting: Setting, execution: Execution) -> None:
    """Embed the pool's images, as far as that is not done: jobs on the execution's workers."""
    embed(open_captioned(setting), setting.clip, Path(setting.index), execution, setting.device)


@functools.lru_cache(maxsize=1)
def open_index(setting: Setting) -> tuple[Embeddings, Index]:
    """Open the pool's CLIP features, which `prepare` has made, and index them."""
    embeddings = open_embeddings(Path(setting.index), open_models(setting)[1])
    return embeddings, build_index(embeddings)


def retrieved(
    setting: Setting,
    data: Data,
    n: int,
    execution: Execution,
    *,
    query: str = "text",
    ladder: bool = True,
    planted: float = 0.0,
) -> tuple[ImageSet, pd.DataFrame]:
    """M11: the pool images nearest to each class in CLIP space, labelled with that class.

    Args:
        setting, data, n, execution: as of every arm.
        query: "text" (the mean of the class's prompts), "images" (the mean of D's images of it) or "both".
        ladder: whether near-copies of test and held-out images are dropped; the other rungs stay.
        planted: near-copies of test images put into the pool before, as a share of it (an audit, claim R11).

    Returns:
        The set, and a row per class: how many are wanted and delivered, and how many were dropped why.
    """
    if query not in QUERIES:
        raise ValueError(f"retrieved: query must be one of {', '.join(QUERIES)}, got {query!r}")
    clip, pool, (embeddings, index) = open_models(setting)[1], open_captioned(setting), open_index(setting)
    if planted:
        copies = near_copies_of(data.test.images, round(planted * len(pool)), data.seed)
        pool, index = with_planted(pool, embeddings, copies, clip.encode_images(copies).cpu().numpy())
    prompts = prompts_for(data.target, data.real.classes)
    by_text = text_queries(clip, prompts.classes, prompts.templates)
    by_images = image_queries(clip, data.real) if query != "text" else by_text
    queries = {"text": by_text, "images": by_images, "both": mixed_queries(by_text, by_images, MIX)}[query]
    held_out = held_out_traces(setting, data) if ladder else None
    result = retrieve(pool, index, queries, data.real.classes, n, held_out=held_out, size=setting.size)
    manifest = result.images.manifest.rename(columns={"source": "id"})
    images = replace(result.images, manifest=manifest.assign(source=f"retrieved by {query}", evaluations=0.0))
    return by_rank(images), result.report


def by_rank(images: ImageSet) -> ImageSet:
    """Return retrieved images with the classes in turn, each class's nearest first."""
    turn = pd.Series(images.labels).groupby(images.labels).cumcount().to_numpy()
    return images.take(np.lexsort((images.labels, turn)))


def random_pool(setting: Setting, data: Data, n: int, execution: Execution) -> ImageSet:
    """A control: images of the pool at random, labelled by the network trained on D alone, the surest of each class.

    As many are looked at as the unconditional arm samples; near-copies of test and held-out images are dropped.
    """
    pool, (embeddings, _), held_out = open_captioned(setting), open_index(setting), held_out_traces(setting, data)
    order = rng(data.seed, "random pool images", data.target).permutation(len(embeddings))
    places = embeddings.rows_in(pool)

    def opened(which: range) -> tuple[np.ndarray, pd.DataFrame]:
        rows = order[which.start : which.stop]
        read = pool.read(places[rows], setting.size)
        rows = rows[[image is not None for image in read]]
        images = np.array([image for image in read if image is not None], np.uint8)
        images = images.reshape(-1, setting.size, setting.size, 3)
        own = Traces(embeddings.vectors[rows].astype(np.float32), thumbnails(images))
        other = ~np.isin(np.arange(len(rows)), near_copies(own, held_out)[:, 0])
        ids, captions = ([values[place] for place in places[rows[other]]] for values in (pool.ids, pool.captions))
        return images[other], pd.DataFrame({"source": "random pool", "id": ids, "caption": captions})

    labelled, _ = with_pseudo_labels(setting, data, n, opened)
    return replace(labelled, manifest=labelled.manifest.assign(evaluations=0.0))


def held_out_traces(setting: Setting, data: Data) -> Traces:
    """Return the traces of all images that no extra image may repeat: test and held-out ones."""
    return traces(open_models(setting)[1], np.concatenate([data.test.images, data.held_out.images]))


def near_copies_of(images: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Return n near-copies of images in turn: moved by a 32nd of their width, a little brighter or darker.

    At 32 pixels they are made as the made-up world makes the near-duplicates of its pool.

    Args:
        images: uint8 (m, h, w, 3).

    Returns:
        uint8 (n, h, w, 3).
    """
    step = round(images.shape[2] / 32)
    copies = [near_copy(images[i % len(images)], rng(seed, "planted copy", i), step) for i in range(n)]
    return np.stack(copies) if copies else images[:0]


@dataclass(frozen=True, eq=False, kw_only=True)
class Joined:
    """The images of a pool's source, n of them, and further ones behind: uint8 (m, h, w, 3)."""

    first: Any
    n: int
    further: np.ndarray

    def open(self, rows: np.ndarray) -> list[np.ndarray | bytes | None]:
        """Return the images of some rows, as arrays or as the bytes of files."""
        own = iter(self.first.open(rows[rows < self.n]))
        return [next(own) if row < self.n else self.further[row - self.n] for row in rows]

    def content(self, modified: bool = False) -> str:
        """Return a hash of what there is."""
        return digest(self.first.content(modified), self.further.tobytes())


def with_planted(
    pool: CaptionedPool, embeddings: Embeddings, copies: np.ndarray, features: np.ndarray
) -> tuple[CaptionedPool, Index]:
    """Return a pool with further images at its end, and its index; pool and embeddings stay as they are.

    Args:
        pool, embeddings: n images and their features.
        copies: uint8 (m, h, w, 3). features: of these, float32 (m, d), unit length.
    """
    ids = (*pool.ids, *(f"planted:{i}" for i in range(len(copies))))
    captions = (*pool.captions, *("",) * len(copies))
    source = Joined(first=pool.source, n=len(pool), further=copies)
    both = CaptionedPool(name=f"{pool.name}, planted", ids=ids, captions=captions, source=source)
    n = len(pool)
    names = {"image_path": (*embeddings.ids, *ids[n:]), "caption": (*embeddings.captions, *captions[n:])}
    vectors = Vectors([*embeddings.vectors.parts, features.astype(np.float16)])
    return both, build_index(Embeddings(vectors, pa.table(names), model=embeddings.model))
