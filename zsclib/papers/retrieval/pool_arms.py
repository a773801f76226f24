"""Arms whose extra images come from the very pool that the generator learnt from: retrieved (M11), or taken at random.

    prepare(setting, execution)                             # the pool's CLIP features, once
    retrieved(setting, data, 96, execution)                 # M11, by the class's name
    retrieved(setting, data, 96, execution, query="images") # by D's images of it
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from zsclib.extra import in_turn
from zsclib.generator_pool import WORLD, learnt_from, make_world, place_of_features, world_phases, world_pool
from zsclib.hashing import digest, key
from zsclib.images.image_set import ImageSet
from zsclib.models.clip import Clip
from zsclib.own_sets import prompts_for
from zsclib.papers.retrieval.dials import Dials, as_long, dialled, shows, traces_as_long
from zsclib.papers.retrieval.generated_arms import with_pseudo_labels
from zsclib.papers.retrieval.training_sets import Data, Setting, data, open_models
from zsclib.paths import atomic
from zsclib.pools.captioned import CaptionedPool
from zsclib.pools.copies import Traces, near_copies, thumbnails, traces
from zsclib.pools.embeddings import Embeddings, embed, open_embeddings
from zsclib.pools.index import Index, build_index
from zsclib.pools.queries import image_queries, mixed_queries, text_queries
from zsclib.pools.retrieval import refuse_overlap, retrieve
from zsclib.pools.vectors import Vectors
from zsclib.prompts import ARTICLE
from zsclib.seeds import rng
from zsclib.workers import Execution, Job, run_jobs
from zsclib.world.pool import near_copy

TEXTS = "text_emb/text_emb_0.npy"  # captions' features, beside those of images, as clip-retrieval has them
CAPTIONS = 4096  # of a job
MIX = 0.5  # share of the text in a query by both
QUERIES = ("text", "images", "both")


def open_captioned(setting: Setting) -> CaptionedPool:
    """Open the pool that the generator learnt from."""
    return learnt_from(setting.pool, setting.pool_images, setting.pool_cache)


def of_classes(setting: Setting, names: Sequence[str]) -> np.ndarray:
    """Return whether each image of the pool shows one of some classes, bool (n,): by the truth of the made-up world,
    whatever captions call it, and by its caption in any other pool."""
    if setting.pool != WORLD:
        return shows(open_captioned(setting).captions, names)
    scenes, words = world_pool(setting.pool_images, setting.pool_cache)[1], {*names}
    words |= {word for name in names for word in ARTICLE.sub("", name).split()}  # of "wooden star" the noun
    return scenes[["noun", "noun2", "symbol"]].isin(words).any(axis=1).to_numpy()


def parents(setting: Setting) -> np.ndarray:
    """Return of each image of the made-up world's pool the row that it repeats, int64 (n,); -1: none."""
    own = world_pool(setting.pool_images, setting.pool_cache)[1]["parent"].to_numpy(np.int64)
    sizes = [phase.n for phase in world_phases(setting.pool_images)]
    return np.where(own < 0, -1, own + np.repeat([0, sizes[0]], sizes))


def with_index(setting: Setting, folder: Path, execution: Execution) -> Setting:
    """Return the setting with places in a folder for its pool's features, one for each pool and CLIP, and for the
    made-up world's pool, which is made on the execution's workers."""
    if setting.pool == WORLD:
        setting = replace(setting, pool_cache=setting.pool_cache or str(folder / "world"))
        make_world(setting.pool_images, setting.pool_cache, execution.workers)
    return replace(setting, index=place_of_features(folder, open_captioned(setting), open_models(setting)[1]))


def prepare(setting: Setting, execution: Execution) -> None:
    """Embed the pool's images, and its captions where they count, as far as that is not done: jobs on the workers."""
    embeddings = embed(open_captioned(setting), setting.clip, Path(setting.index), execution, setting.device)
    path = Path(setting.index) / TEXTS
    if not setting.dials.captions or path.is_file():
        return
    texts, rows = np.unique(np.array(embeddings.captions), return_inverse=True)
    parts = [texts[start : start + CAPTIONS].tolist() for start in range(0, len(texts), CAPTIONS)]
    model = embeddings.model
    jobs = [Job(_encoded, (setting, part), key(clip=model, texts=part), len(part)) for part in parts]
    features = np.concatenate([arrays["features"] for arrays in run_jobs(jobs, execution, "captions")])
    with atomic(path) as temporary:
        np.save(temporary, features[rows])


def _encoded(setting: Setting, texts: list[str]) -> dict[str, np.ndarray]:
    return {"features": open_models(setting)[1].encode_texts(texts).cpu().numpy().astype(np.float16)}


@functools.lru_cache(maxsize=1)
def open_index(setting: Setting) -> tuple[Embeddings, Index]:
    """Open the pool's CLIP features, which `prepare` has made, as far as its dials leave them, and index them."""
    embeddings, dials = open_embeddings(Path(setting.index), open_models(setting)[1]), setting.dials
    if dials != Dials(seed=dials.seed):
        pool, texts = open_captioned(setting), None
        if dials.captions:
            texts = np.load(Path(setting.index) / TEXTS, mmap_mode="r", allow_pickle=False)
        embeddings = dialled(embeddings, pool, of_classes(setting, dials.thinned), dials, texts)
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
    floor: float | None = None,
) -> tuple[ImageSet, pd.DataFrame]:
    """M11: the pool images nearest to each class in CLIP space, labelled with that class.

    Args:
        setting, data, n, execution: as of every arm.
        query: "text" (the mean of the class's prompts), "images" (the mean of D's images of it) or "both".
        ladder: whether near-copies of test and held-out images are dropped; the other rungs stay.
        planted: near-copies of test images put into the pool before, as a share of it (an audit, claim R11).
        floor: the share of held-out real images that a floor on the similarity would drop, as `floor_of` finds it;
            None: the setting's floor, by default none, as in the paper.

    Returns:
        The set, and a row per class: how many are wanted and delivered, and how many were dropped why.
    """
    if query not in QUERIES:
        raise ValueError(f"retrieved: query must be one of {', '.join(QUERIES)}, got {query!r}")
    if (planted or floor is not None) and setting.dials.captions:
        raise ValueError("retrieved: copies and a floor are for an index of images; turn the dial `captions` to 0")
    clip, pool, (embeddings, index) = open_models(setting)[1], open_captioned(setting), open_index(setting)
    if planted:
        copies = near_copies_of(data.test.images, round(planted * len(pool)), data.seed)
        pool, index = with_planted(pool, embeddings, copies, clip.encode_images(copies).cpu().numpy())
    prompts = prompts_for(data.target, data.real.classes, setting.own)
    by_text = text_queries(clip, prompts.classes, prompts.templates)
    by_images = image_queries(clip, data.real) if query != "text" else by_text
    queries = {"text": by_text, "images": by_images, "both": mixed_queries(by_text, by_images, MIX)}[query]
    held_out = held_out_traces(setting, data) if ladder else None
    rules = setting.rules
    if floor is not None:
        rules = replace(rules, floor=floor_of(clip, data.held_out, queries, floor))
    queries = as_long(queries, setting.dials)
    how = {"held_out": held_out, "rules": rules, "size": setting.size}
    result = retrieve(pool, index, queries, data.real.classes, n, **how)
    manifest = result.images.manifest.rename(columns={"source": "id"})
    images = replace(result.images, manifest=manifest.assign(source=f"retrieved by {query}", evaluations=0.0))
    return in_turn(images), result.report


def floor_of(clip: Clip, held_out: ImageSet, queries: np.ndarray, share: float) -> float:
    """Return the similarity below which this share of held-out real images lie, each to the query of its own class.

    Args:
        clip: that retrieves. held_out: real images of all classes. queries: unit vectors (C, d).
    """
    features = clip.encode_images(held_out.images).cpu().numpy()
    return float(np.quantile((features * queries[held_out.labels]).sum(1), share))


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
        copies = near_copies(own, held_out, setting.rules.similar, setting.rules.aligned)[:, 0]
        other = ~np.isin(np.arange(len(rows)), copies)
        ids, captions = ([values[place] for place in places[rows[other]]] for values in (pool.ids, pool.captions))
        return images[other], pd.DataFrame({"source": "random pool", "id": ids, "caption": captions})

    labelled, _ = with_pseudo_labels(setting, data, n, opened)
    return replace(labelled, manifest=labelled.manifest.assign(evaluations=0.0))


def held_out_traces(setting: Setting, data: Data) -> Traces:
    """Return the traces of all images that no extra image may repeat: test and held-out ones."""
    images = np.concatenate([data.test.images, data.held_out.images])
    return traces_as_long(traces(open_models(setting)[1], images), setting.dials)


@functools.lru_cache(maxsize=16)
def overlap(setting: Setting, target: str) -> tuple[int, ...]:
    """Return the pool's rows of near-copies of a target's test images, which the ladder drops.

    The made-up world's pool is not searched: its test images are made from seeds of their own, so that what looks
    alike is chance, which the ladder counts and drops too.

    Raises:
        ValueError: there are some, and the setting's `count_and_drop` is not set; they are named.
    """
    if setting.pool == WORLD:
        return ()
    test = data(setting, target, 0).test  # the same for every seed
    names = test.manifest["source"].tolist() if "source" in test.manifest else ()
    of_test = traces_as_long(traces(open_models(setting)[1], test.images), setting.dials)
    how = {"rules": setting.rules, "count_and_drop": setting.count_and_drop, "names": names}
    return tuple(refuse_overlap(open_captioned(setting), open_index(setting)[1], of_test, **how).tolist())


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
