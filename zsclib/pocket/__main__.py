"""Train, export and measure the pocket models: `python -m zsclib.pocket STAGE …` (see --help)."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from zsclib.datasets import load
from zsclib.pocket import train_attributes
from zsclib.pretraining import autoencoder, clip, dit, unet
from zsclib.pretraining.checkpoint import checkpoints
from zsclib.pretraining.plan import Plan, Training
from zsclib.workers import Workers
from zsclib.world.pool import PHASE_1, PHASE_2, Pool, PoolConfig, load_pool

STAGES = (
    *("autoencoder", "clip", "freeze", "clip-image", "unet", "clip-image-second", "unet-second"),
    "clip-image-third",
    *("dit", "judge", "export", "evaluate", "scaling", "restore", "earlier", "clip-scaling", "photographs"),
    *("photograph-quality", "halve", "all"),
)
ON_DEMAND = ("restore", "earlier", "clip-scaling", "photographs", "photograph-quality", "halve")  # no part of all
DATA = {  # of each training on captioned images
    "autoencoder": PHASE_1, "clip": PHASE_1, "freeze": PHASE_1, "clip-image": PHASE_1, "unet": PHASE_1,
    "clip-image-second": PHASE_2, "unet-second": PHASE_2, "clip-image-third": PHASE_2, "judge": PHASE_2,
}  # fmt: skip
PLANS = {
    plan.name: plan
    for plan in (
        *(autoencoder.PLAN, clip.PLAN, clip.IMAGE_PLAN, clip.PHASE_2_PLAN, clip.LONGER_PLAN),
        *(unet.PLAN, unet.PHASE_2_PLAN, dit.PLAN, train_attributes.PLAN),
    )
}
BEGINS = {  # what a later training starts from
    "clip-image-second": "clip-image", "unet-second": "unet", "clip-image-third": "clip-image-second",
}  # fmt: skip
HELD_OUT = 2048  # pairs at the end of the pool that are only validated on


def main(arguments: list[str] | None = None) -> None:
    """Run one stage, or all of them in order."""
    options = _options(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    stages = [options.stage]
    if options.stage == "all":  # the U-Net freezes what it needs, and must not be disturbed on a second call
        stages = [stage for stage in STAGES if stage not in ("freeze", *ON_DEMAND, "all")]
    for stage in stages:
        if stage == "export":
            from zsclib.pocket.export import export

            export(options.checkpoints, options.models)
        elif stage == "restore":
            from zsclib.pocket.export import restore

            restore(options.models, options.checkpoints, options.frozen)
        elif stage == "earlier":
            from zsclib.pocket.earlier import extract

            for path in extract(options.generators):
                print(path)
        elif stage == "clip-scaling":
            from zsclib.pocket.earlier import extract_clips
            from zsclib.pocket.scaling import clip_scaling

            folders = extract_clips(options.generators)
            clip_scaling(folders, options.records / "clip_scaling.json", options.limit or 200)
        elif stage == "photographs":
            _photographs(options)
        elif stage == "photograph-quality":
            _photograph_quality(options)
        elif stage == "halve":
            from zsclib.pretraining.export import write_half

            write_half(options.models, options.out)
        elif stage == "evaluate":
            from zsclib.pocket.card import write_cards
            from zsclib.pocket.evaluation import evaluate

            pools = [_pool(phase, options).images for phase in (PHASE_1, PHASE_2)]
            evaluate(options.models, limit=options.limit, pool=np.concatenate(pools))
            write_cards(options.models)
        elif stage == "scaling":
            from zsclib.pocket.scaling import scaling

            path = options.records / "scaling.json"
            scaling(options.checkpoints, options.models, path, options.limit or 200)
        else:
            _train(stage, options)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m zsclib.pocket", description=__doc__)
    add = parser.add_argument
    add("stage", choices=STAGES)
    add("--pool-cache", type=Path, default=Path("checkpoints/pool"), help="where the pools are cached")
    add("--pool-size", type=int, help="pairs in a pool (default: the pool's own)")
    add("--checkpoints", type=Path, default=Path("checkpoints"))
    add("--models", type=Path, default=Path("data/models"))
    add("--records", type=Path, default=Path("data/records"))
    add("--samples", type=int, help="planned total; the learning rate falls over its last fifth")
    add("--minutes", type=float, help="stop after so many minutes, to be resumed")
    add("--threads", type=int, help="CPU threads")
    add("--seed", type=int, default=0, help="seed of the training, not of the pool")
    add("--concept-exponent", type=float, help="of the pool: things are chosen with weight 1 / rank ** this")
    add("--caption-noise", type=float, help="of the pool: share of captions with a wrong fact")
    add("--vague", type=float, help="photographs: share of captions that name a superclass, or nothing")
    add("--data", type=Path, help="photographs: your folder of them, see data/photographs/README.md")
    out = "photographs: where pool and sets go; photograph-quality: where they are; halve: where the copy goes"
    add("--out", type=Path, help=out)
    add("--sets", nargs="*", metavar="NAME", help="photographs: which labelled sets (default: all)")
    add("--frozen", action="store_true", help="restore: no U-Net and no image tower, to train a U-Net anew")
    add("--generators", type=Path, default=Path("results/generators"), help="earlier: where the folders go")
    add("--limit", type=int, help="images per measure (default: as many as the page shows)")
    add("--device", default="cpu", help="photograph-quality: cpu or cuda (default: %(default)s)")
    options = parser.parse_args(arguments)
    if options.stage == "halve" and not options.out:
        parser.error("halve: say where the copy of --models goes, --out PATH")
    if options.stage == "photographs" and not (options.data and options.out):
        parser.error("photographs: say where your photographs are, --data PATH, and where the pool goes, --out PATH")
    return options


def _photographs(options: argparse.Namespace) -> None:
    from zsclib.pocket.photograph_captions import Mix
    from zsclib.pocket.photograph_sets import write_sets
    from zsclib.pocket.photographs import write_pool

    shares = {"vague": options.vague, "wrong": options.caption_noise}
    mix = Mix(**{name: share for name, share in shares.items() if share is not None})
    counts = write_pool(options.data, options.out / "pool.parquet", mix)
    print(counts.to_string(), f"\n{counts['pool'].sum()} images in {options.out / 'pool.parquet'}\n", flush=True)
    sets = write_sets(options.data, options.out / "sets", options.sets)
    print(sets.to_string(), f"\nin {options.out / 'sets'}")


def _photograph_quality(options: argparse.Namespace) -> None:
    from zsclib.paths import WHERE_PHOTOGRAPHS_ARE
    from zsclib.pocket.photograph_quality import growth, measure, unets_of
    from zsclib.workers import Execution

    if options.out:
        os.environ[WHERE_PHOTOGRAPHS_ARE] = str(options.out.resolve())
    folder, execution = options.records / "photographs", Execution(workers=Workers(os.cpu_count() or 1))
    more = {"execution": execution, "device": options.device}
    rows = measure(options.models, options.limit or 500, path=folder / "quality.json", **more)
    for name, measures in rows.items():
        print(f"{name}: " + ", ".join(f"{what} {np.mean(values):.3f}" for what, values in measures.items()))
    if any(checkpoints(options.checkpoints, name) for name in unets_of(options.models)):
        grown = growth(options.checkpoints, options.models, folder / "growth.json", options.limit or 300, **more)
        for row in grown:
            print(f"{row['samples']:,} pairs: {np.mean(row['recognised']):.3f}, {np.mean(row['generated']):.3f}")


def _pool(phase: PoolConfig, options: argparse.Namespace) -> Pool:
    workers = Workers(os.cpu_count() or 1)
    scenes, captions = phase.scenes, phase.captions
    if options.concept_exponent is not None:
        scenes = replace(scenes, concept_exponent=options.concept_exponent)
    if options.caption_noise is not None:
        captions = replace(captions, noise=options.caption_noise)
    config = replace(phase, n=options.pool_size or phase.n, scenes=scenes, captions=captions)
    return load_pool(config, options.pool_cache, workers)


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
    pool = _pool(DATA[stage], options)
    if stage == "freeze":
        unet.freeze(pool.images, options.checkpoints, device=device)
        return
    facts = {"pool": json.loads(json.dumps(asdict(pool.config), default=str)), "seed": options.seed}
    training = Training(
        plan=_planned(PLANS[stage], options), folder=options.checkpoints, held_out=HELD_OUT,
        facts=facts, begin=begin, device=device,
    )  # fmt: skip
    print(f"{stage}: {len(pool)} pairs, the last {HELD_OUT} held out; {device}", flush=True)
    if stage == "autoencoder":
        autoencoder.train_autoencoder(pool.images, training)
    elif stage == "clip":
        clip.train_clip(pool.images, pool.captions, training)
    elif stage in clip.IMAGE_PHASES:
        if not (options.checkpoints / "frozen").exists():
            unet.freeze(pool.images, options.checkpoints, device=device)
        clip.train_image_tower(pool.images, pool.captions, training)
    elif stage == "judge":
        _train_attributes(pool, training)
    else:
        unet.train_unet(pool.images, pool.captions, training)


def _train_attributes(pool: Pool, training: Training) -> None:
    vae, sha256 = autoencoder.frozen_autoencoder(training.folder, training.device)
    decoded = min(train_attributes.DECODED, len(pool) - HELD_OUT)
    images, scenes = train_attributes.with_decoded(pool.images, pool.scenes, vae, decoded)
    facts = training.facts | {"vae": sha256, "decoded": decoded}
    train_attributes.train_classifier(images, scenes, replace(training, facts=facts))


def _train_dit(options: argparse.Namespace, device: str) -> None:
    subset = {"name": "objects", "split": "train", "n": dit.TRAINED_ON + dit.HELD_OUT, "seed": 0}
    images = load(**subset)
    print(f"dit: {len(images)} labelled images, the last {dit.HELD_OUT} held out; {device}", flush=True)
    facts = {"set": subset | {"held_out": dit.HELD_OUT}, "seed": options.seed}
    training = Training(
        plan=_planned(dit.PLAN, options), folder=options.checkpoints, held_out=dit.HELD_OUT,
        facts=facts, device=device,
    )  # fmt: skip
    dit.train_dit(images, training)


def _planned(plan: Plan, options: argparse.Namespace) -> Plan:
    """Return a plan with the samples, minutes and seed of the command line."""
    samples = options.samples or plan.samples
    return replace(plan, samples=samples, minutes=options.minutes, seed=options.seed)


if __name__ == "__main__":
    main()
