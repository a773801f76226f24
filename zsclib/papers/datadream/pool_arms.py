"""The pool that the generator learnt from: opened, embedded, searched; and the arm that takes its images as they are.

    prepare(setting, execution)                             # the pool's CLIP features, once
    images, report = retrieved(setting, one, 64, execution)
    captions(setting, one.real.images)                      # of the pool image nearest to each
"""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from zsclib.extra import in_turn
from zsclib.generator_pool import WORLD, learnt_from, make_world, place_of_features
from zsclib.images.image_set import ImageSet
from zsclib.models.clip import Clip
from zsclib.own_sets import prompts_for
from zsclib.papers.datadream.training_sets import Setting, Shots, open_filter
from zsclib.pools.captioned import CaptionedPool
from zsclib.pools.copies import traces
from zsclib.pools.embeddings import embed, open_embeddings
from zsclib.pools.index import Index, build_index
from zsclib.pools.queries import text_queries
from zsclib.pools.retrieval import refuse_overlap, retrieve
from zsclib.workers import Execution


def open_pool(setting: Setting) -> CaptionedPool:
    """Open the pool that the generator learnt from."""
    return learnt_from(setting.pool, setting.pool_images, setting.pool_cache)


def with_index(setting: Setting, folder: Path, execution: Execution) -> Setting:
    """Return the setting with places in a folder for its pool's features, one for each pool and CLIP, and for the
    made-up world's pool, which is made on the execution's workers."""
    if setting.pool == WORLD:
        setting = replace(setting, pool_cache=setting.pool_cache or str(folder / "world"))
        make_world(setting.pool_images, setting.pool_cache, execution.workers)
    return replace(setting, index=place_of_features(folder, open_pool(setting), open_filter(setting)))


def prepare(setting: Setting, execution: Execution) -> None:
    """Embed the pool's images, as far as that is not done: jobs on the workers."""
    embed(open_pool(setting), setting.clip, Path(setting.index), execution, setting.device)


def open_index(setting: Setting) -> Index:
    """Open the pool's CLIP features, which `prepare` has made, and index them."""
    return _index(setting.index, open_filter(setting))


@functools.lru_cache(maxsize=1)
def _index(folder: str, clip: Clip) -> Index:
    return build_index(open_embeddings(Path(folder), clip))


def refuse_pool(setting: Setting, one: Shots) -> None:
    """Raise ValueError where a pool of one's own holds near-copies of test images, and they are not to be dropped.

    The made-up world's pool is not searched: its test images are made from seeds of their own, so that what looks
    alike is chance, which the ladder counts and drops too.
    """
    if setting.pool == WORLD:
        return
    names = one.test.manifest["source"].tolist() if "source" in one.test.manifest else ()
    how = {"rules": setting.rules, "count_and_drop": setting.count_and_drop, "names": names}
    refuse_overlap(open_pool(setting), open_index(setting), traces(open_filter(setting), one.test.images), **how)


def retrieved(setting: Setting, one: Shots, n: int, execution: Execution) -> tuple[ImageSet, pd.DataFrame]:
    """The arm that the papers of this family lack: the n pool images nearest to each class's prompts in CLIP space.

    Near-copies of test and validation images are dropped. The report has a row per class: what was dropped why.
    """
    clip, classes = open_filter(setting), one.real.classes
    prompts = prompts_for(one.target, classes, setting.own)
    queries = text_queries(clip, prompts.classes, prompts.templates)
    held_out = traces(clip, np.concatenate([one.test.images, one.validation.images]))
    how = {"held_out": held_out, "rules": setting.rules, "size": setting.size}
    result = retrieve(open_pool(setting), open_index(setting), queries, classes, n, **how)
    manifest = result.images.manifest.rename(columns={"source": "id"}).assign(source="retrieved", evaluations=0.0)
    return in_turn(replace(result.images, manifest=manifest)), result.report


def captions(setting: Setting, images: np.ndarray) -> list[str]:
    """Return for each image, uint8 (n, h, w, 3), the caption of the pool image nearest to it in CLIP space."""
    index = open_index(setting)
    _, rows = index.search(open_filter(setting).encode_images(images).cpu().numpy(), 1)
    return [index.embeddings.captions[row] for row in rows[:, 0]]
