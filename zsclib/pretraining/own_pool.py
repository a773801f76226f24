"""Pocket models of one's own captioned images: an autoencoder, a CLIP and a U-Net, one after the other.

    pretrain(open_pool(f"folder:{captioned}"), out, Amounts(unet=500_000))
    open_generator(out / "sd"), open_clip(out / "clip")

`out` holds sd and clip, the folders that `diffusers`, `transformers` and every page open, each with a card and the
course of its training, and checkpoints: stopped, the same call goes on where it was.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from transformers import CLIPTokenizer

from zsclib.hashing import key
from zsclib.images.files import resize
from zsclib.paths import atomic
from zsclib.pools.captioned import CaptionedPool
from zsclib.pretraining import autoencoder, clip, quality, unet
from zsclib.pretraining.arrays import write_rows
from zsclib.pretraining.checkpoint import checkpoints, read_meta
from zsclib.pretraining.export import export_clip, export_generator, take_up
from zsclib.pretraining.plan import Plan, Training
from zsclib.pretraining.sizes import POCKET, USUAL, Amounts, Sizes
from zsclib.seeds import rng
from zsclib.workers import Execution, Job, run_jobs

HELD_OUT, SHARE = 2048, 20  # pairs that are only validated on: one in so many, and no more than that
CHUNK = 1024  # images of a job
ONE_BATCH = clip.PLAN.batch  # the largest of the three trainings


@dataclass(frozen=True, eq=False, kw_only=True)
class Pairs:
    """Captioned images in one size: uint8 (n, h, w, 3), perhaps a memory map, n captions, and what they came from.

    The last `held_out` of them are a random part that nothing is trained on.
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
            pool, other sizes, another seed or another beginning.
        FileNotFoundError: there are no models in `begin`.
        OSError: the disk is full; what was finished is kept.
    """
    for plan in (autoencoder.PLAN, clip.PLAN, unet.PLAN):
        if (amount := getattr(amounts, plan.name)) < plan.batch:
            raise ValueError(f"{plan.name}: {amount} images are less than a batch of {plan.batch}; give more")
    ends, folder = time.monotonic() + 60 * (minutes or 0), Path(out) / "checkpoints"
    before = _taken_up(begin, folder, sizes)
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
        steps = [read_meta(path)["step"] for path in checkpoints(folder, plan.name)[-1:]]
        return steps == [plan.steps]

    if not before:
        first = training(autoencoder.PLAN, amounts.autoencoder)
        autoencoder.train_autoencoder(pairs.images, first)
        if not done(first.plan):
            return False
        second = training(clip.PLAN, amounts.clip)
        clip.train_clip(pairs.images, pairs.captions, second)
        if not done(second.plan):
            return False
        _thaw_if_trained_on(folder)
        if not (folder / "frozen").exists():
            unet.freeze(pairs.images, folder, sizes, device)
    export_clip(folder, Path(out) / "clip")
    name = f"unet-{len(before) + 1}" if before else "unet"
    third = training(replace(unet.PLAN, name=name), amounts.unet, before[-1] if before else None)
    unet.train_unet(pairs.images, pairs.captions, third)
    export_generator(folder, Path(out) / "sd", (*before, name), sizes)
    if done(third.plan) and quality.measured_weights(out) != quality.weights_of(out):
        held_out = slice(len(pairs.captions) - pairs.held_out, None)
        quality.measure(Path(out), pairs.images[held_out], pairs.captions[held_out], device=device)
    quality.write_cards(Path(out), pool.name)
    return done(third.plan)


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
    theirs = earlier[phases[-1]]["facts"].get("sizes")
    if theirs != json.loads(json.dumps(asdict(sizes))):
        raise ValueError(f"{begin}: its models have the sizes {theirs}, not {asdict(sizes)}; say the same ones")
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

    An image that is not readable is left out with its caption, and counted in the facts; so is how many are smaller
    than that and were enlarged. A random part is held out: it stands at the end.

    Raises:
        ValueError: fewer pairs than a batch are left to learn from, or all captions are the same.
    """
    n = len(pool)
    learn = n - min(HELD_OUT, n // SHARE)
    _refuse_fewer_than_a_batch(pool, learn)
    if len(set(pool.captions)) == 1:
        raise ValueError(
            f"pretrain: all {n} captions of {pool.name} are {pool.captions[0]!r}; CLIP learns from what captions tell "
            "apart, so give images their own"
        )
    facts = {"name": pool.name, "n": n, "content": pool.fingerprint(), "captions": len(set(pool.captions))}
    place = Path(folder) / f"images-{key(**facts, side=side)[:16]}"
    pixels, table = place.with_suffix(".npy"), place.with_suffix(".json")
    if not table.exists():
        random = rng(0, "held-out pairs").permutation(n)
        rows = np.concatenate([np.sort(random[:learn]), np.sort(random[learn:])])  # as they lie on the disk
        known: dict[str, list[np.ndarray]] = {"readable": [], "small": []}
        write_rows(pixels, _decoded(pool, rows, side, execution, known))
        readable, small = (np.concatenate(known[name]) for name in ("readable", "small"))
        about = {"rows": rows[readable].tolist(), "held_out": int(readable[learn:].sum())}
        about |= {"unreadable": int((~readable).sum()), "enlarged": int(small.sum())}
        with atomic(table) as temporary:  # last: where it is, the images are whole
            temporary.write_text(json.dumps(about))
    about = json.loads(table.read_text())
    captions = [pool.captions[row] for row in about.pop("rows")]
    held_out = about.pop("held_out")
    _refuse_fewer_than_a_batch(pool, len(captions) - held_out)
    images, facts = np.load(pixels, mmap_mode="r"), facts | about | {"held_out": held_out}
    return Pairs(images=images, captions=captions, held_out=held_out, facts=facts)


def _refuse_fewer_than_a_batch(pool: CaptionedPool, learn: int) -> None:
    if learn < ONE_BATCH:
        raise ValueError(
            f"pretrain: {pool.name} has {len(pool)} captioned images, {learn} readable ones to learn from; a batch has "
            f"{ONE_BATCH}. Give a larger pool"
        )


def _decoded(
    pool: CaptionedPool, rows: np.ndarray, side: int, execution: Execution, known: dict[str, list]
) -> Iterator[np.ndarray]:
    """Yield images chunk by chunk, uint8 (m, side, side, 3); note in `known` of each row whether it is readable."""
    parts = [rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK)]
    jobs = [Job(_chunk, (pool.take(part), side), None, len(part)) for part in parts]
    for result in run_jobs(jobs, execution, "decoding"):
        for name, values in known.items():
            values.append(result[name])
        yield result["images"]


def _chunk(pool: CaptionedPool, side: int) -> dict[str, np.ndarray]:
    originals = pool.read(range(len(pool)))
    images = np.empty((len(pool), side, side, 3), np.uint8)
    readable, small = np.zeros(len(pool), bool), np.zeros(len(pool), bool)
    for row, image in enumerate(originals):
        if image is not None:
            images[row] = resize(image[None], side)[0]
            readable[row], small[row] = True, min(image.shape[:2]) < side
    return {"images": images[readable], "readable": readable, "small": small}


def _thaw_if_trained_on(folder: Path) -> None:
    """Remove frozen parts where autoencoder or CLIP have been trained on since, unless a U-Net has learnt with them."""
    frozen = folder / "frozen"
    if not frozen.exists():
        return
    facts = json.loads((frozen / "facts.json").read_text())
    newest = {name: read_meta(checkpoints(folder, name)[-1])["step"] for name in ("autoencoder", "clip")}
    if all(facts[name] == step for name, step in newest.items()):
        return
    if checkpoints(folder, "unet"):
        raise ValueError(
            f"{folder} holds a U-Net that reads an autoencoder and a CLIP of {facts['autoencoder']} and "
            f"{facts['clip']} steps; these have now {newest['autoencoder']} and {newest['clip']}. Take another folder "
            "for longer ones, or remove the U-Net's checkpoints"
        )
    shutil.rmtree(frozen)
