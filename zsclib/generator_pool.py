"""The captioned pool that a generator learnt from: that of the made-up world, of photographs, or one of the user's own.

    pool = learnt_from("tar:/data/pool")
    place = place_of_features(Path("results"), pool, clip)          # for `zsclib.pools.embeddings.embed`
"""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from zsclib.hashing import key
from zsclib.models.clip import Clip
from zsclib.paths import photographs
from zsclib.pools.captioned import CaptionedPool, open_pool, pool_in_memory
from zsclib.pools.model import model_fingerprint
from zsclib.prompts import PHOTOGRAPHS
from zsclib.workers import Workers
from zsclib.world.pool import PHASE_1, PHASE_2, PoolConfig, load_pool

WORLD = "world"  # the name of the pool that the pocket generator learnt from, both phases
# sets whose classes their pool does not know
ABSENT = ("gadgets", "gadgets-hard", *(f"{PHOTOGRAPHS}:{name}" for name in ("rsscn7", "caltech101-rare")))
# sets whose own images to learn from are in their pool: what is looked up for them is more real data
OWN_IN_POOL = tuple(f"{PHOTOGRAPHS}:{name}" for name in ("cifar10", "tiny-imagenet", "tiny-imagenet-20"))


def learnt_from(pool: str, images: int | None = None, cache: str | None = None) -> CaptionedPool:
    """Open the pool that a generator learnt from.

    Args:
        pool: "world"; "photographs", the real ones (see `zsclib.paths.photographs`); or a place as
            `zsclib.pools.captioned.open_pool` takes it.
        images: of the world's pool only so many of each phase. cache: a folder for it, or None.
    """
    if pool == WORLD:
        return world_pool(images, cache)[0]
    if pool == PHOTOGRAPHS:
        return replace(_own(f"parquet:{photographs('pool.parquet')}"), name=PHOTOGRAPHS)
    return _own(pool)


_own = functools.lru_cache(maxsize=1)(open_pool)


@functools.lru_cache(maxsize=1)
def world_pool(images: int | None = None, cache: str | None = None) -> tuple[CaptionedPool, pd.DataFrame]:
    """Return the made-up world's pool, and the ground truth of its images; arguments are those of `learnt_from`."""
    pools = [load_pool(phase, cache) for phase in world_phases(images)]
    captions = [caption for pool in pools for caption in pool.captions]
    pool = pool_in_memory(WORLD, np.concatenate([pool.images for pool in pools]), captions)
    return pool, pd.concat([pool.scenes for pool in pools], ignore_index=True)


def world_phases(images: int | None = None) -> list[PoolConfig]:
    """Return what the made-up world's pool is made from, of each phase so many images at most."""
    return [replace(phase, n=min(phase.n, images or phase.n)) for phase in (PHASE_1, PHASE_2)]


def make_world(images: int | None, cache: str, workers: Workers) -> None:
    """Make the made-up world's pool on some workers, as far as its cache lacks it."""
    for phase in world_phases(images):
        load_pool(phase, cache, workers)


def place_of_features(folder: Path, pool: CaptionedPool, clip: Clip) -> str:
    """Return a place in a folder for a pool's CLIP features, one for each pool and CLIP."""
    return str(folder / f"pool-{key(pool=pool.fingerprint(), clip=model_fingerprint(clip))[:16]}")
