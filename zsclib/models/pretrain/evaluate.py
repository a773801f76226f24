"""Measure the exported pocket models on pictures they have not seen, with intervals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from diffusers import AutoencoderKL
from scipy.stats import binomtest

from zsclib.datasets import load
from zsclib.images import ImageSet, content_hash
from zsclib.models.clip import open_clip
from zsclib.models.generator import open_generator
from zsclib.models.pretrain.autoencoder import psnr
from zsclib.papers.diffusion_classifier import classify, exhaustive
from zsclib.prompts import fill, load_prompts
from zsclib.world.pool import PoolConfig, stream
from zsclib.world.targets import CLASSES, SPLITS

CLIP_SETS = ("objects", "printed-digits", "digits", "aerial", "objects-fine")
DIFFUSION_SETS = ("objects", "digits")
TIMESTEPS = 32


def evaluate(
    models: Path, split: str = "validation", limit: int | None = None, pool: np.ndarray | None = None
) -> dict:
    """Measure the model folders in `models` and write `quality.json` beside them.

    The split is the validation one: the test split is what the study's pages report.

    Args:
        models: holds `pocket-clip` and, if trained yet, `pocket-sd`.
        split: of the target sets.
        limit: images per set; default 500, and 200 for sets whose classifier is the diffusion model.
        pool: the pictures trained on, uint8 (m, 32, 32, 3), to look for test pictures in; None: do not look.

    Returns: {folder: {measure: {value, low, high, n, about}}}; accuracies with Wilson's 95 % interval.
    """
    models, quality = Path(models), {}
    clip = open_clip(models / "pocket-clip")
    found = quality["pocket-clip"] = {}
    for name in CLIP_SETS:
        prompts, images = load_prompts(name), load(name, split, limit or 500)
        scores = clip.zero_shot(prompts.classes, [prompts.template]).scores(images.images)
        found[name] = _accuracy(scores.argmax(1), images, f"zero-shot accuracy, {name}")
        _show("pocket-clip", found[name])
    if (models / "pocket-sd").exists():
        found = quality["pocket-sd"] = {}
        vae = AutoencoderKL.from_pretrained(models / "pocket-sd" / "vae").eval()
        for name, pictures in (
            ("pool", _beyond_the_pool(models, limit or 512)),
            ("digits", load("digits", split, limit or 500).images),
        ):
            found[f"psnr {name}"] = {"value": psnr(vae, pictures), "n": len(pictures)}
            found[f"psnr {name}"]["about"] = f"autoencoder PSNR in dB, held-out pictures of {name}"
            _show("pocket-sd", found[f"psnr {name}"])
        generator = open_generator(models / "pocket-sd")
        for name in DIFFUSION_SETS:
            prompts, images = load_prompts(name), load(name, split, limit or 200)
            texts = fill(prompts.template, prompts.classes)
            result = classify(generator, images.images, texts, exhaustive(TIMESTEPS))
            about = f"diffusion classifier, exhaustive, {TIMESTEPS} timesteps, {name}"
            found[name] = _accuracy(result.prediction, images, about)
            _show("pocket-sd", found[name])
    if pool is not None:
        quality["pool"] = {"overlap": in_the_pool(pool)}
        _show("pool", quality["pool"]["overlap"])
    (models / "quality.json").write_text(json.dumps(quality, indent=1) + "\n")
    return quality


def in_the_pool(pool: np.ndarray, n: int = 400) -> dict:
    """Count pictures of the test sets, all splits, that occur byte for byte in the pool, uint8 (m, 32, 32, 3)."""
    seen, found, compared = set(content_hash(pool)), 0, 0
    for name in ("digits", *CLASSES):
        for split in SPLITS:
            hashes = content_hash(load(name, split, n).images)
            found, compared = found + sum(h in seen for h in hashes), compared + len(hashes)
    about = f"pictures of all test sets and splits that occur among the pool's {len(pool):,}"
    return {"value": found, "n": compared, "about": about}


def _accuracy(predicted: np.ndarray, images: ImageSet, about: str) -> dict:
    right, n = int((predicted == images.labels).sum()), len(images)
    interval = binomtest(right, n).proportion_ci(method="wilson")
    return {"value": right / n, "low": interval.low, "high": interval.high, "n": n, "about": about}


def _beyond_the_pool(models: Path, n: int) -> np.ndarray:
    """Return n pictures of the items that would follow the training pool."""
    facts = json.loads((models / "pocket-sd" / "training.json").read_text())["autoencoder"]["facts"]
    size, seed = facts["pool"]["n"], facts["pool"]["seed"]
    beyond = PoolConfig(n=size, seed=seed, near_duplicates=0.0)  # a near-copy would not be held out
    return np.stack([pair.image for pair in stream(beyond, size, size + n)])


def _show(model: str, found: dict) -> None:
    interval = f" ({found['low']:.3f} to {found['high']:.3f})" if "low" in found else ""
    print(f"{model}: {found['about']}: {found['value']:.4g}{interval}, n = {found['n']}", flush=True)
