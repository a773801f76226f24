"""Train, export and measure the pocket models: `python -m zsclib.pretraining STAGE …` (see --help)."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from zsclib.datasets import load
from zsclib.pretraining import autoencoder, clip, dit, judge, unet
from zsclib.pretraining.checkpoint import checkpoints
from zsclib.pretraining.loop import Plan
from zsclib.world.pool import FIRST_CRAWL, SECOND_CRAWL, Pool, PoolConfig, load_pool

STAGES = (
    "autoencoder",
    "clip",
    "freeze",
    "clip-image",
    "unet",
    "clip-image-second",
    "unet-second",
    "dit",
    "judge",
    "export",
    "evaluate",
    "scaling",
    "restore",
    "all",
)
CRAWLS = {  # of each training on captioned pictures
    "autoencoder": FIRST_CRAWL, "clip": FIRST_CRAWL, "freeze": FIRST_CRAWL, "clip-image": FIRST_CRAWL,
    "unet": FIRST_CRAWL, "clip-image-second": SECOND_CRAWL, "unet-second": SECOND_CRAWL, "judge": SECOND_CRAWL,
}  # fmt: skip
BEGINS = {"clip-image-second": "clip-image", "unet-second": "unet"}  # what a second training goes on from
HELD_OUT = 2048  # pairs at the end of the pool that no training sees


def main(arguments: list[str] | None = None) -> None:
    """Run one stage, or all of them in order."""
    parser = argparse.ArgumentParser(prog="python -m zsclib.pretraining", description=__doc__)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument(
        "--pool-cache", type=Path, default=Path("checkpoints/pool"), help="where the pool is kept"
    )
    parser.add_argument(
        "--pool-size", type=int, default=None, help="pairs in a pool (default: the pool's own)"
    )
    parser.add_argument("--checkpoints", type=Path, default=Path("checkpoints"))
    parser.add_argument("--models", type=Path, default=Path("data/models"))
    parser.add_argument("--records", type=Path, default=Path("data/records"))
    parser.add_argument(
        "--samples", type=int, help="planned total; the learning rate falls over its last fifth"
    )
    parser.add_argument("--minutes", type=float, help="stop after so many minutes, to be resumed")
    parser.add_argument("--threads", type=int, help="CPU threads")
    parser.add_argument("--seed", type=int, default=0, help="seed of the training, not of the pool")
    parser.add_argument(
        "--limit",
        type=int,
        help="evaluate, scaling: pictures per measure (default: as many as the page shows)",
    )
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    stages = [options.stage]
    if options.stage == "all":  # the U-Net freezes what it needs, and must not be disturbed on a second call
        stages = [stage for stage in STAGES if stage not in ("freeze", "restore", "all")]
    for stage in stages:
        if stage == "export":
            from zsclib.pocket.export import export

            export(options.checkpoints, options.models)
        elif stage == "restore":
            from zsclib.pocket.export import restore

            restore(options.models, options.checkpoints)
        elif stage == "evaluate":
            from zsclib.pocket.evaluation import evaluate
            from zsclib.pocket.export import write_cards

            pools = [_pool(crawl, options).images for crawl in (FIRST_CRAWL, SECOND_CRAWL)]
            evaluate(options.models, limit=options.limit, pool=np.concatenate(pools))
            write_cards(options.models)
        elif stage == "scaling":
            from zsclib.pocket.evaluation import scaling

            path = options.records / "scaling.json"
            scaling(options.checkpoints, options.models, path, options.limit or 200)
        else:
            _train(stage, options)


def _pool(crawl: PoolConfig, options: argparse.Namespace) -> Pool:
    return load_pool(replace(crawl, n=options.pool_size or crawl.n), options.pool_cache)


def _train(stage: str, options: argparse.Namespace) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if stage == "dit":
        _train_dit(options, device)
        return
    begin = BEGINS.get(stage)
    if begin and not checkpoints(options.checkpoints, begin):
        raise FileNotFoundError(
            f"{stage}: no checkpoint of {begin} in {options.checkpoints}; run stage {begin} first"
        )
    pool = _pool(CRAWLS[stage], options)
    config = pool.config
    if stage == "freeze":
        unet.freeze(pool.images, options.checkpoints, device)
        return
    plans = (
        autoencoder.PLAN,
        clip.PLAN,
        clip.IMAGE_PLAN,
        clip.SECOND_PLAN,
        unet.PLAN,
        unet.SECOND_PLAN,
        judge.PLAN,
    )
    plan = {plan.name: plan for plan in plans}[stage]
    common = {
        "folder": options.checkpoints,
        "plan": _planned(plan, options),
        "facts": {"pool": json.loads(json.dumps(asdict(config), default=str)), "seed": options.seed},
        "device": device,
    }
    print(f"{stage}: {len(pool.images)} pairs, the last {HELD_OUT} held out; {device}", flush=True)
    if stage == "autoencoder":
        autoencoder.train_autoencoder(pool.images[:-HELD_OUT], pool.images[-HELD_OUT:], **common)
    elif stage == "clip":
        clip.train_clip(pool.images, pool.captions, held_out=HELD_OUT, **common)
    elif stage in ("clip-image", "clip-image-second"):
        if not (options.checkpoints / "frozen").exists():
            unet.freeze(pool.images, options.checkpoints, device)
        clip.train_image_tower(pool.images, pool.captions, held_out=HELD_OUT, begin=begin, **common)
    elif stage == "judge":
        vae, sha256 = autoencoder.frozen_autoencoder(options.checkpoints, device)
        decoded = min(judge.DECODED, len(pool) - HELD_OUT)
        common["facts"] |= {"vae": sha256, "decoded": decoded}
        images, scenes = judge.with_decoded(pool.images, pool.scenes, vae, decoded)
        judge.train_judge(images, scenes, held_out=HELD_OUT, **common)
    else:
        unet.train_unet(pool.images, pool.captions, held_out=HELD_OUT, begin=begin, **common)


def _train_dit(options: argparse.Namespace, device: str) -> None:
    drawn = {"name": "objects", "split": "train", "n": dit.PICTURES + dit.HELD_OUT, "seed": 0}
    images = load(**drawn)
    print(f"dit: {len(images)} labelled pictures, the last {dit.HELD_OUT} held out; {device}", flush=True)
    facts = {"set": drawn | {"held_out": dit.HELD_OUT}, "seed": options.seed}
    dit.train_dit(images, options.checkpoints, dit.HELD_OUT, _planned(dit.PLAN, options), facts, device)


def _planned(plan: Plan, options: argparse.Namespace) -> Plan:
    """Return a plan with what was asked for on the command line."""
    samples = options.samples or plan.samples
    return replace(plan, samples=samples, minutes=options.minutes, seed=options.seed)


if __name__ == "__main__":
    main()
