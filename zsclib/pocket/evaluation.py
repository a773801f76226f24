"""How good the pocket models are, on pictures they have not seen, and how they became so with training."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from diffusers import AutoencoderKL
from safetensors.torch import load_file
from scipy.stats import binomtest
from torch import nn

from zsclib.datasets import load
from zsclib.hashing import hash_file
from zsclib.images.image_set import content_hash
from zsclib.models.clip import open_clip
from zsclib.models.generator import Generator, open_generator
from zsclib.papers.diffusion_classifier import classify, nested
from zsclib.papers.diffusion_classifier.error_matrix import prediction
from zsclib.pocket.export import UNET_PHASES
from zsclib.pocket.judge import open_judge, read
from zsclib.pocket.requests import ABOUT_RELATIONS, KINDS, answered, requests, swapped
from zsclib.pocket.train_judge import UNASKED, answers_of
from zsclib.pretraining.autoencoder import psnr
from zsclib.pretraining.checkpoint import checkpoints, digest_path, read_meta
from zsclib.prompts import fill, load_prompts
from zsclib.sampling import sample
from zsclib.world.pool import Pair, beyond, config_of
from zsclib.world.targets import CLASSES, SPLITS

CLIP_SETS = ("objects", "printed-digits", "digits", "aerial", "objects-fine")
DIFFUSION_SETS = ("objects", "digits", "aerial")
TIMESTEPS = 32
LOWEST = 150  # chosen on validation digits among 0, 150, 200, 250 and 300
GUIDANCE, STEPS = 3.0, 25  # of the pictures the judge reads


def evaluate(
    models: Path, split: str = "validation", limit: int | None = None, pool: np.ndarray | None = None
) -> dict:
    """Measure the model folders in `models` and write `quality.json` beside them.

    The split is the validation one: the test split is what the study's pages report.

    Args:
        models: holds `pocket-clip` and, if trained yet, `pocket-sd`, `pocket-dit` and `pocket-judge`.
        split: of the target sets.
        limit: pictures per measure; default 500, and 200 where a diffusion model classifies.
        pool: the pictures trained on, uint8 (m, 32, 32, 3), to look for test pictures in; None: do not look.

    Returns: {folder: {measure: {value, low, high, n, about}}}; accuracies with Wilson's 95 % interval.
    """
    models = Path(models)
    quality = {"pocket-clip": _named("pocket-clip", _clip_quality(models / "pocket-clip", split, limit))}
    for name, measure in (
        ("pocket-judge", _judge_quality),
        ("pocket-sd", _generator_quality),
        ("pocket-dit", _twin_quality),
    ):
        if (models / name).exists():
            quality[name] = _named(name, measure(models, split, limit))
    if pool is not None:
        quality["pool"] = _named("pool", [("overlap", in_the_pool(pool))])
    (models / "quality.json").write_text(json.dumps(quality, indent=1) + "\n")
    return quality


Measures = Iterator[tuple[str, dict]]


def _clip_quality(folder: Path, split: str, limit: int | None) -> Measures:
    clip = open_clip(folder)
    for name in CLIP_SETS:
        prompts, images = load_prompts(name), load(name, split, limit or 500)
        for templates, words in (
            ([prompts.template], ""),
            (prompts.templates, f", {len(prompts.templates)} prompts"),
        ):
            scores = clip.zero_shot(prompts.classes, templates).scores(images.images)
            right = scores.argmax(1) == images.labels
            yield (
                f"{name}{' ensemble' if words else ''}",
                accuracy(right, f"zero-shot accuracy, {name}{words}"),
            )


def _judge_quality(models: Path, split: str, limit: int | None) -> Measures:
    pairs = held_out_pairs(models / "pocket-judge", "judge", (limit or 500) * 4)
    judge, images = open_judge(models / "pocket-judge"), np.stack([pair.image for pair in pairs])
    shown = {"": images}
    if (models / "pocket-sd").exists():  # what decoding alone costs the judge
        generator = open_generator(models / "pocket-sd")
        shown[", decoded"] = generator.decode(generator.encode_images(images))
    truth = answers_of(pd.DataFrame([pair.scene.row() for pair in pairs]))
    for how, pictures in shown.items():
        found = read(judge, pictures)
        for question, own in truth.items():
            asked = own != UNASKED
            right = found[question][asked] == own[asked]
            about = f"right answers on held-out pictures of the pool{how}, {question}"
            yield f"{question}{how}", accuracy(right, about)


def _generator_quality(models: Path, split: str, limit: int | None) -> Measures:
    vae = AutoencoderKL.from_pretrained(models / "pocket-sd" / "vae").eval()
    pictures = {"digits": load("digits", split, limit or 500).images}
    for name, part in (("first crawl", "autoencoder"), ("second crawl", "unet-second")):
        if part in json.loads((models / "pocket-sd" / "training.json").read_text()):
            pairs = held_out_pairs(models / "pocket-sd", part, limit or 512)
            pictures[name] = np.stack([pair.image for pair in pairs])
    for name, held_out in pictures.items():
        about = f"autoencoder PSNR in dB, held-out pictures, {name}"
        yield f"psnr {name}", {"value": psnr(vae, held_out), "n": len(held_out), "about": about}
    generator = open_generator(models / "pocket-sd")
    for name in DIFFUSION_SETS:
        about = f"diffusion classifier, exhaustive, {TIMESTEPS} timesteps, {name}"
        right, without_lowest = recognised(generator, name, split, limit or 200, TIMESTEPS)
        yield name, accuracy(right, about)
        yield (
            f"{name} without lowest",
            accuracy(without_lowest, f"{about}, those below t = {LOWEST} left out"),
        )
    if (models / "pocket-judge").exists():
        judge = open_judge(models / "pocket-judge")
        for kind in KINDS:
            # few pictures show two things that can be read, so many are asked for
            asked = requests(kind, limit or (1600 if kind in ABOUT_RELATIONS else 400))
            if kind not in ABOUT_RELATIONS[1:]:  # which ask about the pictures of the first
                images = sample(generator, asked.prompt.tolist(), asked.seed.tolist(), GUIDANCE, STEPS)
            about = f"pictures generated at guidance {GUIDANCE:g} in which a judge reads what was asked for: {kind}"
            yield f"judged {kind}", accuracy(answered(judge, images, asked), about)
            if kind in ABOUT_RELATIONS[:2]:
                yield f"order {kind}", _order_kept(judge, images, asked, kind)
        yield "order told", _order_told(generator, limit or 1000)


def _order_kept(judge: nn.Module, images: np.ndarray, asked: pd.DataFrame, kind: str) -> dict:
    kept, exchanged = (answered(judge, images, order) for order in (asked, swapped(asked)))
    about = (
        f"pictures in the order asked for, of those read in this or the other order ({kind}); chance is 0.5"
    )
    return accuracy(kept[kept | exchanged], about)


def _order_told(generator: Generator, n: int, given: int = 4000) -> dict:
    """Measure whether the text states tell which of two colours stands left or above, by a linear probe.

    Neither the words nor their places tell it to such a probe: it takes the relation and the order together. Should the
    probe read it, the text tower has worked it out (Alain & Bengio 2016).

    Args:
        n: prompts asked about.
        given: other prompts, which set the probe.
    """
    asked = requests("relation of colours", n + given, seed=2)
    here, there = (
        (asked[f"{a} colour"] + asked[f"{b} colour"]).to_numpy()
        for a, b in (("left", "top"), ("right", "bottom"))
    )
    states = generator.encode_prompts(asked.prompt.tolist()).embeddings.flatten(1).float().cpu().numpy()
    about = "prompts of which a linear probe on the text states tells which colour stands left or above; chance is 0.5"
    return accuracy(probed(states, here, there, given), about)


def probed(features: np.ndarray, here: np.ndarray, there: np.ndarray, given: int) -> np.ndarray:
    """Return whether a linear probe tells, of each row's two words, the one that is `here`; bool (n - given,).

    Ridge regression of one output per word: 1 where the word is here, -1 where it is there, 0 where it is neither.

    Args:
        features: float (n, d).
        here: a word per row, (n,).
        there: another, (n,).
        given: the last rows, which set the probe; it is asked about the rows before them.
    """
    words, both = np.unique(np.concatenate([here, there]), return_inverse=True)
    here, there = np.split(both, 2)
    rows, n = np.arange(len(features)), len(features) - given
    wanted = np.zeros((len(features), len(words)))
    wanted[rows, here], wanted[rows, there] = 1, -1
    x = np.column_stack([features, np.ones(len(features))]).astype(np.float64)
    gram = x[n:].T @ x[n:]
    gram += 1e-6 * np.trace(gram) / len(gram) * np.eye(len(gram))
    outputs = x[:n] @ np.linalg.solve(gram, x[n:].T @ wanted[n:])
    return outputs[rows[:n], here[:n]] > outputs[rows[:n], there[:n]]


def _twin_quality(models: Path, split: str, limit: int | None) -> Measures:
    twin = open_generator(models / "pocket-dit")
    for name in ("objects", "objects-shift"):
        about = f"diffusion classifier, exhaustive, {TIMESTEPS} timesteps, {name}"
        yield name, accuracy(recognised(twin, name, split, limit or 200, TIMESTEPS, CLASSES[name])[0], about)


def recognised(
    generator: Generator, name: str, split: str, n: int, K: int, prompts: Sequence[str] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return which of n pictures of a set the exhaustive diffusion classifier gets right, twice bool (n,).

    First by all K noise levels, as in the paper, then without the levels below `LOWEST`.

    Args:
        prompts: of the classes; default: the set's own template.
    """
    words, images = load_prompts(name), load(name, split, n)
    prompts = fill(words.template, words.classes) if prompts is None else prompts
    result = classify(generator, images.images, prompts, nested(K))
    without_lowest = prediction(result.errors[:, :, result.timesteps >= LOWEST])
    return result.prediction == images.labels, without_lowest == images.labels


def scaling(checkpoints_folder: Path, models: Path, path: Path, n: int = 200) -> list[dict]:
    """Measure how the U-Net's two abilities grew with the pairs it saw: as a classifier, and as an artist.

    Looks at the averaged weights kept whenever a training's pairs had doubled and at its newest checkpoint, on
    validation splits and requests that no other measurement uses. What was measured before is kept, so that a killed
    run goes on and the weights of long ago need not be.

    Args:
        checkpoints_folder: of the training.
        models: the exported folders, from which everything but the U-Net is taken.
        path: a JSON file to write after each checkpoint.
        n: pictures per measure.

    Returns: a row per checkpoint, by pairs seen: samples, the training it is of, held_out (validation loss, averaged
        weights), the judge that read the pictures, and per measure a list of n zeros and ones, pictures in the same
        order for every checkpoint.
    """
    generator, judge = open_generator(models / "pocket-sd"), open_judge(models / "pocket-judge")
    reader = hash_file(models / "pocket-judge" / "model.safetensors")
    rows = json.loads(path.read_text()) if path.exists() else []
    for samples, training, held_out, weights in _kept(Path(checkpoints_folder)):
        sha256 = hash_file(weights)
        if any((row["sha256"], row["n"], row["judge"]) == (sha256, n, reader) for row in rows):
            continue
        load_averages(generator.unet, weights)
        row = {"samples": samples, "training": training, "held_out": held_out}
        row |= {"n": n, "sha256": sha256, "judge": reader}
        for name in ("objects", "digits"):
            right, _ = recognised(generator, name, "validation", n, 16)
            row[f"recognised {name}"] = right.astype(int).tolist()
        for kind in ("objects", "printed-digits"):
            asked = requests(kind, n, seed=1)
            images = sample(generator, asked.prompt.tolist(), asked.seed.tolist(), GUIDANCE, STEPS)
            row[f"judged {kind}"] = answered(judge, images, asked).astype(int).tolist()
        rows = sorted((other for other in rows if other["samples"] != samples), key=lambda r: r["samples"])
        rows = sorted([*rows, row], key=lambda r: r["samples"])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(rows) + "\n")
        print(
            f"{samples:,} pairs: "
            + ", ".join(f"{k} {np.mean(v):.3f}" for k, v in row.items() if isinstance(v, list))
        )
    return rows


def _kept(folder: Path) -> Iterator[tuple[int, str, float, Path]]:
    """Yield pairs seen in all, training, validation loss and path of the weights that U-Net trainings have kept."""
    ended = {}  # training → pairs seen by its end
    for training in UNET_PHASES:
        for newest in checkpoints(folder, training)[-1:]:
            meta = read_meta(newest)
            batch, begin = meta["plan"]["batch"], meta["facts"].get("begin")
            before = ended.get(begin["part"], begin["step"] * batch) if begin else 0
            ended[training] = before + meta["step"] * batch
            losses = {row["samples"]: row["held_out"] for row in meta["history"] if "held_out" in row}
            kept = {int(p.stem.split("-")[-1]): p for p in folder.glob(f"{training}-ema-*.safetensors")}
            for seen, path in sorted((kept | {meta["step"] * batch: newest}).items()):
                nearest = min(losses, key=lambda at, seen=seen: abs(at - seen))
                yield before + seen, training, losses[nearest], path


def load_averages(model: nn.Module, path: Path) -> None:
    """Put the averaged weights of a training's checkpoint, or of what it kept on the way, into a model."""
    if digest_path(path).read_text().strip() != hash_file(path):
        raise ValueError(f"checkpoint {path.name} was cut short or altered; delete it, or train anew")
    weights = load_file(path)
    averages = {
        k.removeprefix("ema."): v.float()
        for k, v in weights.items()
        if not k.startswith(("model.", "first.", "second."))
    }
    wrong = model.load_state_dict(averages, strict=False).unexpected_keys
    if wrong or not averages:
        raise ValueError(f"checkpoint {path.name} does not belong to this network: {sorted(wrong)[:3]}")


def in_the_pool(pool: np.ndarray, n: int = 400) -> dict:
    """Count pictures of the test sets, all splits, that occur byte for byte in the pool, uint8 (m, 32, 32, 3)."""
    seen, found, compared = set(content_hash(pool)), 0, 0
    for name in ("digits", *CLASSES):
        for split in SPLITS:
            hashes = content_hash(load(name, split, n).images)
            found, compared = found + sum(h in seen for h in hashes), compared + len(hashes)
    about = f"pictures of all test sets and splits that occur among the pool's {len(pool):,}"
    return {"value": found, "n": compared, "about": about}


def accuracy(right: np.ndarray, about: str) -> dict:
    """Return the share of what is right, bool (n,), with Wilson's 95 % interval, n and what it is about."""
    if not len(right):
        return {"value": float("nan"), "n": 0, "about": about}
    interval = binomtest(int(right.sum()), len(right)).proportion_ci(method="wilson")
    return {
        "value": float(right.mean()), "low": interval.low, "high": interval.high, "n": len(right), "about": about,
    }  # fmt: skip


def held_out_pairs(model: Path, part: str, n: int) -> list[Pair]:
    """Return n of the pairs that would follow the pool that a part of a model was trained on.

    Args:
        model: an exported folder, whose training.json names the pool.
        part: a training, such as "autoencoder".
    """
    training = json.loads((Path(model) / "training.json").read_text())
    return beyond(config_of(training[part]["facts"]["pool"]), n)


def _named(model: str, measures: Iterable[tuple[str, dict]]) -> dict[str, dict]:
    """Return the measures by name, printing each as it comes."""
    found = {}
    for name, measure in measures:
        found[name] = measure
        interval = f" ({measure['low']:.3f} to {measure['high']:.3f})" if "low" in measure else ""
        print(
            f"{model}: {measure['about']}: {measure['value']:.4g}{interval}, n = {measure['n']}", flush=True
        )
    return found
