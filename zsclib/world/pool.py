"""The captioned pool: the pocket world's stand-in for the web, made item by item from a seed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import KW_ONLY, asdict, dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from zsclib.paths import atomic
from zsclib.seeds import rng as seeded
from zsclib.workers import Execution, Job, Workers, run_jobs
from zsclib.world.captions import CaptionMix, caption
from zsclib.world.render import render
from zsclib.world.scenes import Scene, SceneMix, pool_scene


@dataclass(frozen=True, kw_only=True)
class PoolConfig:
    """Everything that determines a pool.

    Args:
        n: pairs in the pool.
        seed: pools of different seeds share no image.
        near_duplicates: how often an item repeats an earlier one, moved by a pixel and a little brighter or darker,
            under a caption of its own.
        scenes, captions: the knobs of what the images show and of what the captions say.
    """

    n: int = 65_536
    seed: int = 0
    near_duplicates: float = 0.02
    scenes: SceneMix = field(default_factory=SceneMix)
    captions: CaptionMix = field(default_factory=CaptionMix)

    def key(self) -> str:
        """Return a short hash of the configuration."""
        return hashlib.blake2b(json.dumps(asdict(self), sort_keys=True).encode(), digest_size=8).hexdigest()


# The pre-training data, in two phases. Phase 2 has other images than phase 1, more pairs of things and more printed
# characters, many of these on cloth or crumpled paper or scanned, and its captions name fewer materials.
PHASE_1 = PoolConfig()
PHASE_2 = PoolConfig(
    n=131_072,
    seed=1,
    scenes=SceneMix(kinds=(0.42, 0.25, 0.22, 0.04, 0.07), bend=1.6, scans=0.3),
    captions=CaptionMix(omit_material=0.3),
)


def beyond(config: PoolConfig, n: int) -> list[Pair]:
    """Return the n pairs that would follow a pool, none of them a near-copy: no model trained on the pool met them."""
    return list(stream(replace(config, near_duplicates=0.0), config.n, config.n + n))


def config_of(facts: dict) -> PoolConfig:
    """Return the configuration that `dataclasses.asdict` and JSON have turned into facts of a training."""
    scenes, captions = facts["scenes"], facts["captions"]
    tuples = {name: tuple(value) for name, value in scenes.items() if isinstance(value, list)}
    parts = {"scenes": SceneMix(**scenes | tuples), "captions": CaptionMix(**captions)}
    return PoolConfig(**facts | parts)


CHUNK = 1024  # pairs of a job


class Pair(NamedTuple):
    """One item: image uint8 (32, 32, 3), its caption, its ground truth, and the item it repeats (-1: none)."""

    image: np.ndarray
    caption: str
    scene: Scene
    parent: int


@dataclass(frozen=True)
class Pool:
    """A pool in memory: images uint8 (n, 32, 32, 3), captions, and one row of ground truth per item."""

    images: np.ndarray
    captions: list[str]
    scenes: pd.DataFrame
    _: KW_ONLY
    config: PoolConfig

    def __len__(self) -> int:
        return len(self.captions)


def item(config: PoolConfig, index: int) -> Pair:
    """Return item `index` of a pool; it depends on nothing but the configuration and the index."""
    rng = seeded(config.seed, "pool", index)
    if index and rng.random() < config.near_duplicates:
        parent = int(rng.integers(index))
        original = item(config, parent)
        image = near_copy(original.image, rng)
        return Pair(image, caption(original.scene, rng, config.captions), original.scene, parent)
    scene = pool_scene(rng, config.scenes)
    return Pair(render(scene), caption(scene, rng, config.captions), scene, -1)


def near_copy(image: np.ndarray, rng: np.random.Generator, step: int = 1) -> np.ndarray:
    """Return an image, uint8 (h, w, 3), moved by up to `step` pixels and a little brighter or darker."""
    dx, dy = step * int(rng.integers(-1, 2)), step * int(rng.integers(-1, 2))
    moved = np.roll(image, (dy, dx), axis=(0, 1)).astype(np.float32) * (0.9 + 0.2 * rng.random())
    return np.floor(np.clip(moved, 0, 255) + 0.5).astype(np.uint8)


def stream(config: PoolConfig, start: int = 0, stop: int | None = None) -> Iterator[Pair]:
    """Yield the items start … stop-1 of a pool; any slice gives the same items as the whole."""
    for index in range(start, config.n if stop is None else stop):
        yield item(config, index)


def load_pool(config: PoolConfig, cache: Path | str | None = None, workers: Workers | None = None) -> Pool:
    """Make a whole pool, or read it back from `cache`.

    Args:
        config: which pool.
        cache: a folder; the pool lies there as `<key>.npy` and `<key>.parquet` (about 200 MB for 65,536 pairs).
        workers: where it is made, which changes nothing; default: in this process.

    Returns:
        The pool; its images are a read-only memory map when cached.
    """
    if cache is not None:
        folder = Path(cache)
        pixels, table = folder / f"{config.key()}.npy", folder / f"{config.key()}.parquet"
        if not table.exists():
            pool = _make(config, workers)
            with atomic(pixels) as temporary:
                np.save(temporary, pool.images)
            with atomic(table) as temporary:  # last: where it is, the pool is whole
                pool.scenes.assign(caption=pool.captions).to_parquet(temporary)
        scenes = pd.read_parquet(table)
        captions = scenes.pop("caption").tolist()
        return Pool(np.load(pixels, mmap_mode="r"), captions, scenes, config=config)
    return _make(config, workers)


def _make(config: PoolConfig, workers: Workers | None) -> Pool:
    jobs = [
        Job(_chunk, (config, start), None, min(CHUNK, config.n - start)) for start in range(0, config.n, CHUNK)
    ]
    chunks = list(run_jobs(jobs, Execution(workers=workers or Workers(1)), "pairs of the pool"))
    captions = [str(text) for chunk in chunks for text in chunk["captions"]]
    rows = [json.loads(row) for chunk in chunks for row in chunk["scenes"]]
    return Pool(np.concatenate([chunk["images"] for chunk in chunks]), captions, pd.DataFrame(rows), config=config)


def _chunk(config: PoolConfig, start: int) -> dict[str, np.ndarray]:
    pairs = list(stream(config, start, min(start + CHUNK, config.n)))
    return {
        "images": np.stack([pair.image for pair in pairs]),
        "captions": np.array([pair.caption for pair in pairs]),
        "scenes": np.array([json.dumps(pair.scene.row() | {"parent": pair.parent}) for pair in pairs]),
    }
