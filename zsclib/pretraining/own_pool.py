"""Pocket models of one's own captioned images: an autoencoder, a CLIP and a U-Net, one after the other.

    pretrain(open_pool(f"folder:{captioned}"), out, Amounts(unet=500_000))
    open_generator(out / "sd"), open_clip(out / "clip")

`out` holds sd and clip, the folders that `diffusers`, `transformers` and every page open, each with a card and the
course of its training, and checkpoints: stopped, the same call goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from transformers import CLIPTokenizer

from zsclib.hashing import key
from zsclib.images.files import resize
from zsclib.paths import alone, atomic
from zsclib.pools.captioned import CaptionedPool
from zsclib.pretraining import autoencoder, clip, quality, unet
from zsclib.pretraining.arrays import write_rows
from zsclib.pretraining.checkpoint import checkpoints, read_meta
from zsclib.pretraining.export import export_clip, export_generator, take_up
from zsclib.pretraining.plan import Plan, Training
from zsclib.pretraining.sizes import POCKET, USUAL, Amounts, Sizes
from zsclib.seeds import seed_of
from zsclib.workers import Execution, Job, run_jobs

HELD_OUT, SHARE = 2048, 20  # pairs that are only validated on: one in so many, and no more than that
CHUNK, AT_ONCE = 1024, 16  # images of a job, and of those in memory as large as they came
ONE_BATCH = clip.PLAN.batch  # the largest of the three trainings


@dataclass(frozen=True, eq=False, kw_only=True)
class Pairs:
    """Captioned images in one size: uint8 (n, h, w, 3), perhaps a memory map, n captions, and what they came from.

    The last `held_out` of them are a random part that nothing is trained on, nor on a copy of any. The order is that of
    random numbers which belong to the pixels, so it is no matter in what order the pool has them, or what else it has.
    """

    images: np.ndarray
    captions: list[str]
    held_out: int
    facts: dict


def pretrain(
    pool: CaptionedPool,
    out: Path,
    amounts: Amounts = USUAL,
    sizes: Sizes = POCKET,
    *,
    begin: Path | None = None,
    minutes: float | None = None,
    device: str = "cpu",
    execution: Execution = Execution(),
) -> bool:
    """Train autoencoder, CLIP and U-Net on a pool and write their folders; return whether all is done.

    CLIP's text tower is frozen before the U-Net learns to read it, as in Stable Diffusion 1.x (Rombach et al. 2022).

    Args:
        out: where models and checkpoints go.
        begin: `out` of an earlier call. Its autoencoder and CLIP are taken as they are, and its U-Net is trained on,
            on `amounts.unet` more pairs, as a training of its own whose rate rises and falls anew.
        minutes: after so many the call ends, between two steps; None: when all is done.
        execution: images are decoded on its workers; its seed is that of weights, batches and noise.

    Raises:
        ValueError: the pool is smaller than a batch, has one caption for all images, or `out` holds models of another
            pool, other sizes, another seed or another beginning, or a U-Net that reads a shorter autoencoder or CLIP.
        FileNotFoundError: there are no models in `begin`.
        RuntimeError: another process is at work in `out`.
        OSError: the disk is full; what was finished is kept.
    """
    for plan in (autoencoder.PLAN, clip.PLAN, unet.PLAN):
        if (amount := getattr(amounts, plan.name)) < plan.batch:
            raise ValueError(f"{plan.name}: {amount} images are less than a batch of {plan.batch}; give more")
    with alone(Path(out), "training models there"):
        before = _taken_up(begin, Path(out) / "checkpoints", sizes)
        return _pretrain(pool, Path(out), amounts, sizes, before, minutes, device, execution)


def _pretrain(
    pool: CaptionedPool,
    out: Path,
    amounts: Amounts,
    sizes: Sizes,
    before: Sequence[str],
    minutes: float | None,
    device: str,
    execution: Execution,
) -> bool:
    ends, folder = time.monotonic() + 60 * (minutes or 0), out / "checkpoints"
    pairs = read_pairs(pool, folder, sizes.image_side, execution)
    if before:
        tokenizer = CLIPTokenizer.from_pretrained(folder / "frozen" / "tokenizer")
    else:
        learn = len(pairs.captions) - pairs.held_out
        tokenizer = clip.open_tokenizer(folder, pairs.captions[:learn], sizes.prompt_tokens)
    cut = sum(len(ids) > tokenizer.model_max_length for ids in tokenizer(pairs.captions).input_ids)
    facts = {"pool": pairs.facts | {"captions cut": cut}, "sizes": asdict(sizes), "seed": execution.seed}
    print(
        f"{pool.name}: {len(pairs.captions)} captioned images, {pairs.held_out} of them held out; "
        f"{pairs.facts['unreadable']} others are not readable, {pairs.facts['enlarged']} are smaller than "
        f"{sizes.image_side} pixels and enlarged; {cut} captions are longer than {tokenizer.model_max_length} tokens "
        "and cut",
        flush=True,
    )

    def training(plan: Plan, amount: int, begin: str | None = None) -> Training:
        left = None if minutes is None else max(0.0, (ends - time.monotonic()) / 60)
        plan = replace(plan, samples=amount, seed=execution.seed, minutes=left)
        return Training(
            plan=plan, folder=folder, held_out=pairs.held_out, facts=facts, begin=begin, sizes=sizes, device=device
        )

    def done(plan: Plan) -> bool:
        return any(read_meta(path)["step"] >= plan.steps for path in checkpoints(folder, plan.name)[-1:])

    if not before:
        _refuse_longer(folder, amounts)
        first = training(autoencoder.PLAN, amounts.autoencoder)
        autoencoder.train_autoencoder(pairs.images, first)
        if not done(first.plan):
            return False
        second = training(clip.PLAN, amounts.clip)
        clip.train_clip(pairs.images, pairs.captions, second)
        if not done(second.plan):
            return False
        if not _frozen_as_they_are(folder):
            unet.freeze(pairs.images, folder, sizes, device)
    export_clip(folder, out / "clip")
    quality.write_cards(out, pool.name)
    name = f"unet-{len(before) + 1}" if before else "unet"
    third = training(replace(unet.PLAN, name=name), amounts.unet, before[-1] if before else None)
    unet.train_unet(pairs.images, pairs.captions, third)
    if done(third.plan) or not _has_ended(out / "sd"):  # a U-Net on its way takes no finished one's place
        export_generator(folder, out / "sd", (*before, name), sizes)
        quality.write_cards(out, pool.name)
    if done(third.plan) and quality.measured_weights(out) != quality.weights_of(out):
        held_out = slice(len(pairs.captions) - pairs.held_out, None)
        quality.measure(out, pairs.images[held_out], pairs.captions[held_out], device=device)
        quality.write_cards(out, pool.name)
    return done(third.plan)


def _has_ended(sd: Path) -> bool:
    """Return whether the U-Net in a folder had been trained to the end of its plan."""
    path = sd / "training.json"
    trained = [meta for name, meta in json.loads(path.read_text()).items() if _is_unet(name)] if path.exists() else []
    return bool(trained) and trained[-1]["step"] >= trained[-1]["plan"]["samples"] // trained[-1]["plan"]["batch"]


def _taken_up(begin: Path | None, folder: Path, sizes: Sizes) -> tuple[str, ...]:
    """Make checkpoints of the models in `begin`, once; return the names of their U-Net's successive trainings."""
    known = folder / "frozen" / "meta.json"
    metas = json.loads(known.read_text()) if known.exists() else {}
    if begin is None:
        if any(_is_unet(name) for name in metas):
            raise ValueError(f"{folder} holds a U-Net that began from other models; say which, or take another folder")
        return ()
    earlier = {}
    for name in ("sd", "clip"):
        path = Path(begin) / name / "training.json"
        if not path.exists():
            raise FileNotFoundError(f"{begin}: no models to begin from, {name}/training.json is missing")
        earlier |= json.loads(path.read_text())
    phases = tuple(name for name in earlier if _is_unet(name))
    if not phases:
        raise ValueError(f"{begin}: by its training.json, sd has no U-Net that could be trained on")
    theirs, ours = earlier[phases[-1]]["facts"].get("sizes") or {}, json.loads(json.dumps(asdict(sizes)))
    if other := [name for name, value in ours.items() if theirs.get(name) != value]:
        words = ", ".join(f"{name} {theirs.get(name)}, not {ours[name]}" for name in other)
        raise ValueError(f"{begin}: its models have other sizes, {words}; say the same ones")
    if folder.exists():
        if metas != earlier:
            raise ValueError(f"{folder} holds models that did not begin from {begin}; take another folder")
    else:
        with atomic(folder) as temporary:
            take_up(Path(begin) / "sd", Path(begin) / "clip", temporary, unet_phases=phases)
    return phases


def _is_unet(training: str) -> bool:
    return training.partition("-")[0] == unet.PLAN.name


def read_pairs(pool: CaptionedPool, folder: Path, side: int, execution: Execution = Execution()) -> Pairs:
    """Decode a pool's images to squares of `side` pixels into a file in `folder`, or find it there.

    An image that is not readable is left out with its caption, and counted in the facts; so are those that are smaller
    than that and were enlarged, and those that are copies of another one.

    Raises:
        ValueError: no image is readable, fewer pairs than a batch are left to learn from, or all captions are the same.
    """
    n = len(pool)
    learn = n - min(HELD_OUT, n // SHARE)
    _refuse_fewer_than_a_batch(pool, learn)
    if len(set(pool.captions)) == 1:
        raise ValueError(
            f"pretrain: all {n} captions of {pool.name} are {pool.captions[0]!r}; CLIP learns from what captions tell "
            "apart, so give images their own"
        )
    facts = {"n": n, "content": pool.fingerprint(), "captions": len(set(pool.captions))}
    place = Path(folder) / f"images-{key(**facts, side=side, order='by pixels')[:16]}"
    pixels, table = place.with_suffix(".npy"), place.with_suffix(".json")
    if not table.exists():
        about = _write_images(pool, pixels, side, execution)
        with atomic(table) as temporary:  # last: where it is, the images are whole
            temporary.write_text(json.dumps(about))
    about = json.loads(table.read_text())
    captions = [pool.captions[row] for row in about.pop("rows")]
    held_out = about.pop("held_out")
    _refuse_fewer_than_a_batch(pool, len(captions) - held_out)
    images, facts = np.load(pixels, mmap_mode="r"), facts | about | {"held_out": held_out}
    return Pairs(images=images, captions=captions, held_out=held_out, facts=facts)


def _write_images(pool: CaptionedPool, pixels: Path, side: int, execution: Execution) -> dict[str, object]:
    """Write a pool's readable images in the order of `Pairs`; return which rows these are, and what was counted."""
    known: dict[str, list[np.ndarray]] = {"readable": [], "small": [], "hash": []}
    as_they_came = pixels.with_name(f"as-they-came-{pixels.name}")
    write_rows(as_they_came, _decoded(pool, side, execution, known))
    readable, small, hashes = (np.concatenate(known[name]) for name in known)
    rows, hashes = np.flatnonzero(readable), hashes[readable]
    turn = {one: seed_of(0, "order of pairs", int(one)) for one in np.unique(hashes)}
    order = sorted(range(len(rows)), key=lambda i: (turn[hashes[i]], pool.captions[rows[i]]))
    held_out = min(HELD_OUT, len(rows) // SHARE)
    while held_out and hashes[order[-held_out]] == hashes[order[-held_out - 1]]:
        held_out -= 1  # copies of an image are on one side
    if not held_out:
        raise ValueError(f"pretrain: too many images of {pool.name} are copies of one, so that none can be held out")
    images = np.load(as_they_came, mmap_mode="r")
    write_rows(pixels, (images[order[start : start + CHUNK]] for start in range(0, len(order), CHUNK)))
    as_they_came.unlink()
    about = {"rows": rows[order].tolist(), "held_out": held_out, "unreadable": int((~readable).sum())}
    return about | {"enlarged": int(small.sum()), "repeated": len(hashes) - len(turn)}


def _refuse_fewer_than_a_batch(pool: CaptionedPool, learn: int) -> None:
    if learn < ONE_BATCH:
        raise ValueError(
            f"pretrain: {pool.name} has {len(pool)} captioned images, {learn} readable ones to learn from; a batch has "
            f"{ONE_BATCH}. Give a larger pool"
        )


def _decoded(
    pool: CaptionedPool, side: int, execution: Execution, known: dict[str, list]
) -> Iterator[np.ndarray]:
    """Yield images chunk by chunk, uint8 (m, side, side, 3); note in `known` what `_chunk` says of each row."""
    parts = [range(start, min(start + CHUNK, len(pool))) for start in range(0, len(pool), CHUNK)]
    jobs = [Job(_chunk, (pool.take(part), side), None, len(part)) for part in parts]
    for result in run_jobs(jobs, execution, "decoding"):
        for name, values in known.items():
            values.append(result[name])
        yield result["images"]
    if not any(readable.any() for readable in known["readable"]):
        raise ValueError(f"pretrain: none of the {len(pool)} images of {pool.name} is readable, first {pool.ids[0]!r}")


def _chunk(pool: CaptionedPool, side: int) -> dict[str, np.ndarray]:
    """Return the readable images (m, side, side, 3), and of each row whether it is one, is enlarged, and its hash."""
    images = np.empty((len(pool), side, side, 3), np.uint8)
    readable, small, hashes = np.zeros(len(pool), bool), np.zeros(len(pool), bool), np.zeros(len(pool), np.int64)
    for start in range(0, len(pool), AT_ONCE):
        rows = range(start, min(start + AT_ONCE, len(pool)))
        for row, image in zip(rows, pool.read(rows), strict=True):
            if image is not None:
                images[row] = resize(image[None], side)[0]
                readable[row], small[row] = True, min(image.shape[:2]) < side
                digest = hashlib.blake2b(np.ascontiguousarray(images[row]), digest_size=8).digest()
                hashes[row] = int.from_bytes(digest, "little", signed=True)
    return {"images": images[readable], "readable": readable, "small": small, "hash": hashes}


def _refuse_longer(folder: Path, amounts: Amounts) -> None:
    """Raise ValueError where a U-Net reads an autoencoder and a CLIP that are to be trained on."""
    facts = folder / "frozen" / "facts.json"
    if not facts.exists() or not checkpoints(folder, unet.PLAN.name):
        return
    steps = json.loads(facts.read_text())
    plans = [replace(plan, samples=getattr(amounts, plan.name)) for plan in (autoencoder.PLAN, clip.PLAN)]
    if longer := [plan for plan in plans if plan.steps > steps[plan.name]]:
        wanted = " and ".join(f"{plan.name} of {plan.samples:,} images" for plan in longer)
        raise ValueError(
            f"{folder} holds a U-Net that reads an autoencoder and a CLIP of {steps['autoencoder']} and "
            f"{steps['clip']} steps; for {wanted} take another folder, or remove the U-Net's checkpoints"
        )


def _frozen_as_they_are(folder: Path) -> bool:
    """Return whether autoencoder and CLIP are frozen, and have not been trained on since."""
    path = folder / "frozen" / "facts.json"
    if not path.exists():
        return False
    facts = json.loads(path.read_text())
    return all(read_meta(checkpoints(folder, name)[-1])["step"] == facts[name] for name in ("autoencoder", "clip"))
