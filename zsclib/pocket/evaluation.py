"""How good the pocket models are, on images that none of them was trained on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from diffusers import AutoencoderKL
from torch import nn

from zsclib.datasets import load
from zsclib.images.image_set import content_hash
from zsclib.models.clip import open_clip
from zsclib.models.generator import Generator, open_generator
from zsclib.papers.diffusion_classifier import classify, nested
from zsclib.papers.diffusion_classifier.error_matrix import prediction
from zsclib.pocket.attributes import open_classifier, read
from zsclib.pocket.probe import order_in_text_states
from zsclib.pocket.requests import ABOUT_RELATIONS, KINDS, fulfilled_by_kind
from zsclib.pocket.train_attributes import ABSENT, true_attributes
from zsclib.pretraining.autoencoder import psnr
from zsclib.pretraining.quality import share
from zsclib.prompts import fill, load_prompts
from zsclib.sampling import sample
from zsclib.study.stats import Estimate
from zsclib.world.hard import HARD
from zsclib.world.pool import Pair, beyond, config_of
from zsclib.world.targets import CLASSES, SPLITS

CLIP_SETS = ("objects", "printed-digits", "digits", "aerial", "objects-fine")
DIFFUSION_SETS = ("objects", "digits", "aerial", "objects-hard", "aerial-hard")
HARD_SETS = tuple(HARD)  # off the ceiling: on validation images, the better method shall stand at 50 to 90 %
TIMESTEPS = 32
LOWEST = 150  # chosen on validation digits among 0, 150, 200, 250 and 300
GUIDANCE, STEPS = 3.0, 25  # of the images that the attribute classifier reads

Measures = Iterator[tuple[str, dict]]  # name → {value, low, high, n, about}


def evaluate(
    models: Path, split: str = "validation", limit: int | None = None, pool: np.ndarray | None = None
) -> dict:
    """Measure the model folders in `models` and write `quality.json` beside them.

    The split is the validation one: the test split is what the study's pages report.

    Args:
        models: holds `pocket-clip` and, if trained yet, `pocket-sd`, `pocket-dit` and `pocket-judge`.
        split: of the target sets.
        limit: images per measure; default 500, and 200 where a diffusion model classifies.
        pool: the images trained on, uint8 (m, 32, 32, 3), to look for test images in; None: do not look.

    Returns: {folder: {measure: {value, low, high, n, about}}}; accuracies with Wilson's 95 % interval.
    """
    models = Path(models)
    quality = {"pocket-clip": _named("pocket-clip", _clip_quality(models / "pocket-clip", split, limit))}
    for name, measures in (
        ("pocket-judge", _attribute_quality),
        ("pocket-sd", _generator_quality),
        ("pocket-dit", _dit_quality),
    ):
        if (models / name).exists():
            quality[name] = _named(name, measures(models, split, limit))
    if pool is not None:
        quality["pool"] = _named("pool", [("overlap", in_the_pool(pool))])
    (models / "quality.json").write_text(json.dumps(quality, indent=1) + "\n")
    return quality


def quality_rows(quality: Mapping[str, Mapping[str, dict]]) -> list[list]:
    """Return what `quality.json` holds as rows of a table: model, measure, value or `Estimate`, n."""
    rows = []
    for model, measures in quality.items():
        for row in measures.values():
            n = row["n"]
            value = Estimate(row["value"], row["low"], row["high"], n) if "low" in row else row["value"]
            rows.append([model, row["about"], value, n])
    return rows


def psnr_of(images: np.ndarray, decoded: np.ndarray) -> float:
    """Return the mean of `decibels`."""
    return float(decibels(images, decoded).mean())


def decibels(images: np.ndarray, decoded: np.ndarray) -> np.ndarray:
    """Return the peak signal-to-noise ratio of each decoded image against its original, both uint8 (n, h, w, 3)."""
    mse = ((decoded.astype(np.float64) - images) ** 2).mean((1, 2, 3)) / 255**2            # (n,)
    return -10 * np.log10(np.maximum(mse, 1e-10))


def held_out_pairs(model: Path, part: str, n: int) -> list[Pair]:
    """Return n of the pairs that would follow the pool that a part of a model was trained on.

    Args:
        model: an exported folder, whose training.json names the pool.
        part: a training, such as "autoencoder".
    """
    training = json.loads((Path(model) / "training.json").read_text())
    return beyond(config_of(training[part]["facts"]["pool"]), n)


def recognised(
    generator: Generator, name: str, split: str, n: int, K: int, prompts: Sequence[str] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return on which of n images of a set the exhaustive diffusion classifier is correct, twice bool (n,).

    First with all K timesteps, as in the paper, then without those below `LOWEST`.

    Args:
        prompts: of the classes; default: the set's own template.
    """
    default, images = load_prompts(name), load(name, split, n)
    prompts = fill(default.template, default.classes) if prompts is None else prompts
    result = classify(generator, images.images, prompts, nested(K))
    without_lowest = prediction(result.errors[:, :, result.timesteps >= LOWEST])
    return result.prediction == images.labels, without_lowest == images.labels


def in_the_pool(pool: np.ndarray, n: int = 400) -> dict:
    """Count images of the test sets, all splits, that occur byte for byte in the pool, uint8 (m, 32, 32, 3)."""
    trained_on, overlap, compared = set(content_hash(pool)), 0, 0
    for name in ("digits", *CLASSES):
        for split in SPLITS:
            hashes = content_hash(load(name, split, n).images)
            overlap, compared = overlap + sum(h in trained_on for h in hashes), compared + len(hashes)
    about = f"images of all test sets and splits that occur among the {len(pool):,} of the pre-training data"
    return {"value": overlap, "n": compared, "about": about}


def _clip_quality(folder: Path, split: str, limit: int | None) -> Measures:
    clip = open_clip(folder)
    for name in (*CLIP_SETS, *HARD_SETS):
        prompts, images = load_prompts(name), load(name, split, limit or 500)
        ensemble = (" ensemble", prompts.templates, f", {len(prompts.templates)} prompts")
        for kind, templates, how in (("", [prompts.template], ""), ensemble):
            scores = clip.zero_shot(prompts.classes, templates).scores(images.images)
            correct = scores.argmax(1) == images.labels
            yield f"{name}{kind}", share(correct, f"zero-shot accuracy, {name}{how}")


def _attribute_quality(models: Path, split: str, limit: int | None) -> Measures:
    pairs = held_out_pairs(models / "pocket-judge", "judge", (limit or 500) * 4)
    classifier, images = open_classifier(models / "pocket-judge"), np.stack([pair.image for pair in pairs])
    versions = {"": images}
    if (models / "pocket-sd").exists():  # what decoding alone costs the classifier
        generator = open_generator(models / "pocket-sd")
        versions[", decoded"] = generator.decode(generator.encode_images(images))
    truth = true_attributes(pd.DataFrame([pair.scene.row() for pair in pairs]))
    for how, version in versions.items():
        predicted = read(classifier, version)
        for attribute, values in truth.items():
            present = values != ABSENT
            correct = predicted[attribute][present] == values[present]
            yield f"{attribute}{how}", share(correct, f"correct on held-out images of the pool{how}: {attribute}")


def _generator_quality(models: Path, split: str, limit: int | None) -> Measures:
    folder = models / "pocket-sd"
    yield from _autoencoder_quality(folder, split, limit)
    generator = open_generator(folder)
    for name in DIFFUSION_SETS:
        about = f"diffusion classifier, exhaustive, {TIMESTEPS} timesteps, {name}"
        correct, without_lowest = recognised(generator, name, split, limit or 200, TIMESTEPS)
        yield name, share(correct, about)
        yield f"{name} without lowest", share(without_lowest, f"{about}, those below t = {LOWEST} left out")
    if (models / "pocket-judge").exists():
        yield from _requested_quality(generator, open_classifier(models / "pocket-judge"), limit)
        about = "prompts whose text states tell a linear probe which colour stands left or above; chance is 0.5"
        yield "order told", share(order_in_text_states(generator, limit or 1000), about)


def _autoencoder_quality(folder: Path, split: str, limit: int | None) -> Measures:
    vae = AutoencoderKL.from_pretrained(folder / "vae").eval()
    versions = {"psnr digits": ("digits", load("digits", split, limit or 500).images)}
    for phase, (key, part) in enumerate((("first crawl", "autoencoder"), ("second crawl", "unet-second")), 1):
        if part in json.loads((folder / "training.json").read_text()):
            pairs = held_out_pairs(folder, part, limit or 512)
            versions[f"psnr {key}"] = (f"phase {phase}", np.stack([pair.image for pair in pairs]))
    for key, (name, images) in versions.items():
        about = f"autoencoder PSNR in dB, held-out images, {name}"
        yield key, {"value": psnr(vae, images), "n": len(images), "about": about}


def _requested_quality(generator: Generator, classifier: nn.Module, limit: int | None) -> Measures:
    # few images show two things that can be read, so many are requested
    n = {kind: limit or (1600 if kind in ABOUT_RELATIONS else 400) for kind in KINDS}
    generate = partial(sample, generator, guidance=GUIDANCE, steps=STEPS)
    for kind, (correct, exchanged) in fulfilled_by_kind(generate, classifier, n).items():
        about = f"images generated at guidance {GUIDANCE:g} that show what the prompt asks for: {kind}"
        yield f"judged {kind}", share(correct, about)
        if exchanged is not None:
            about = f"images in the requested order, of those in this or the other order ({kind}); chance is 0.5"
            yield f"order {kind}", share(correct[correct | exchanged], about)


def _dit_quality(models: Path, split: str, limit: int | None) -> Measures:
    generator = open_generator(models / "pocket-dit")
    for name in ("objects", "objects-shift"):
        about = f"diffusion classifier, exhaustive, {TIMESTEPS} timesteps, {name}"
        correct, _ = recognised(generator, name, split, limit or 200, TIMESTEPS, CLASSES[name])
        yield name, share(correct, about)


def _named(model: str, measures: Iterable[tuple[str, dict]]) -> dict[str, dict]:
    """Return the measures by name, printing each as it comes."""
    quality = {}
    for name, measure in measures:
        quality[name] = measure
        interval = f" ({measure['low']:.3f} to {measure['high']:.3f})" if "low" in measure else ""
        value = f"{measure['value']:.4g}{interval}, n = {measure['n']}"
        print(f"{model}: {measure['about']}: {value}", flush=True)
    return quality
