"""How good models of one's own pool are, on pairs of it that were held out: the same measures on any captioned pool."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from diffusers import AutoencoderKL
from transformers import CLIPTokenizer

from zsclib.hashing import hash_file
from zsclib.models.clip import Clip, open_clip
from zsclib.models.generator import open_generator
from zsclib.papers.diffusion_classifier import classify, nested
from zsclib.paths import write_json
from zsclib.pretraining.autoencoder import psnr, reconstructed
from zsclib.pretraining.card import About, write_card
from zsclib.sampling import sample
from zsclib.seeds import rng, seed_of
from zsclib.study.stats import accuracy

CAPTIONS = 10  # an image's own and others, all different, where there are so many
TIMESTEPS = 16
GUIDANCE, STEPS = 3.0, 25
SHOWN = 8  # pairs


def share(correct: np.ndarray, about: str) -> dict:
    """Return the share of correct ones, bool (n,), with Wilson's 95 % interval, n and what it is about."""
    if not len(correct):
        return {"value": float("nan"), "n": 0, "about": about}
    return accuracy(correct)._asdict() | {"about": about}


def candidates(captions: Sequence[str], k: int, seed: int = 0) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Return different captions, which of them is each image's own, and which k each image has to choose from.

    Returns: texts, C of them, not fewer than k; int64 (n,); bool (n, C), k of them set in a row, the image's own
        among them.
    """
    texts, own = np.unique(np.array(captions), return_inverse=True)
    offered = np.zeros((len(captions), len(texts)), bool)
    for image, text in enumerate(own.reshape(-1)):
        others = np.setdiff1d(np.arange(len(texts)), text)
        offered[image, rng(seed, "captions to choose from", image).choice(others, k - 1, replace=False)] = True
        offered[image, text] = True
    return texts.tolist(), own.reshape(-1), offered


def measure(models: Path, images: np.ndarray, captions: Sequence[str], n: int = 200, device: str = "cpu") -> dict:
    """Measure the folders `clip` and `sd` in `models` on held-out pairs, write `quality.json` and samples.png.

    Args:
        images: uint8 (m, h, w, 3) that none of them was trained on. captions: m; up to 512 pairs are looked at, and of
            blank captions the images alone.
        n: pairs that a diffusion model classifies, and captions that it draws.

    Returns: {folder: {measure: {value, low, high, n, about}}}; shares with Wilson's 95 % interval.
    """
    clip = open_clip(Path(models) / "clip", device)
    images = np.array(images[:512])
    vae = AutoencoderKL.from_pretrained(Path(models) / "sd" / "vae").float().eval().to(device)
    decoded = {"value": psnr(vae, images), "n": len(images), "about": "PSNR in dB of decoded held-out images"}
    measured = {"clip": {}, "sd": {"psnr": decoded}}
    captions = one_spelling(clip.tokenizer, [shortened(clip.tokenizer, caption) for caption in captions[:512]])
    worded = [row for row, caption in enumerate(captions) if caption.strip()]
    images, captions = images[worded], [captions[row] for row in worded]
    generator = open_generator(Path(models) / "sd", device)
    seeds = [seed_of(0, "held-out captions", i) for i in range(min(n, len(captions)))]
    drawn = sample(generator, captions[:n], seeds, GUIDANCE, STEPS) if captions else images
    k = min(CAPTIONS, len(set(captions[:n])))
    if k > 1:  # else there is nothing to choose from
        texts, own, offered = candidates(captions[:n], k)
        result = classify(generator, images[:n], texts, nested(TIMESTEPS), candidates=offered)
        by_clip, of_drawn = _chosen_by_clip(clip, images, captions, k), _chosen_by_clip(clip, drawn, captions[:n], k)
        others = f"{k - 1} other{'s' * (k > 2)}"
        what = f"a held-out image's caption from {others}, some of which may say the same in other words"
        about = f"CLIP tells the caption of a generated image (guidance {GUIDANCE:g}) from {others}"
        classified = share(result.prediction == own, f"the diffusion classifier ({TIMESTEPS} timesteps) tells {what}")
        measured["clip"] = {"own caption": share(by_clip, f"CLIP tells {what}")}
        measured["sd"] |= {"own caption": classified, "generated": share(of_drawn, about)}
    if captions:
        _show(Path(models) / "samples.png", images, reconstructed(vae, images[:SHOWN]), drawn, captions)
    write_json(Path(models) / "quality.json", measured | {"weights": weights_of(models)})
    return measured


def measured_weights(models: Path) -> str:
    """Return the hash of the U-Net that `quality.json` is about, "" where there is no such file."""
    path = Path(models) / "quality.json"
    return json.loads(path.read_text())["weights"] if path.exists() else ""


def weights_of(models: Path) -> str:
    """Return the hash of the U-Net in `models`."""
    return hash_file(Path(models) / "sd" / "unet" / "diffusion_pytorch_model.safetensors")


def shortened(tokenizer: CLIPTokenizer, text: str) -> str:
    """Return a text without the last words that the text tower does not take."""
    while len(tokenizer(text).input_ids) > tokenizer.model_max_length:
        text = text.rsplit(" ", 1)[0] if " " in text else text[: len(text) // 2]
    return text


def one_spelling(tokenizer: CLIPTokenizer, captions: Sequence[str]) -> list[str]:
    """Return captions in which those that are read alike, whatever their capitals and blanks, are the same text."""
    first: dict[tuple[int, ...], str] = {}
    return [first.setdefault(tuple(tokenizer(caption).input_ids), caption) for caption in captions]


def _chosen_by_clip(clip: Clip, images: np.ndarray, captions: list[str], k: int) -> np.ndarray:
    texts, own, offered = candidates(captions, k)
    cosines = (clip.encode_images(images) @ clip.encode_texts(texts).T).cpu().numpy()
    return np.where(offered, cosines, -np.inf).argmax(1) == own


def _show(path: Path, images: np.ndarray, decoded: np.ndarray, drawn: np.ndarray, captions: list[str]) -> None:
    """Draw held-out images, what the autoencoder leaves of them, and what is generated for their captions."""
    from matplotlib.figure import Figure

    columns = min(SHOWN, len(drawn))
    figure = Figure(figsize=(1.25 * columns, 4.6), dpi=120, layout="constrained")
    axes = figure.subplots(3, columns, squeeze=False)
    for row, (name, part) in enumerate({"held out": images, "decoded": decoded, "generated": drawn}.items()):
        for column, ax in enumerate(axes[row]):
            ax.imshow(part[column])
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
        axes[row, 0].set_ylabel(name)
    for ax, caption in zip(axes[0], captions, strict=False):
        ax.set_title(textwrap.fill(caption, 18), fontsize=7)
    figure.savefig(path, metadata={"Software": None})


def write_cards(models: Path, pool: str) -> None:
    """Write the folders' cards: README.md with what `quality.json` holds of these weights, and loss.png."""
    quality = Path(models) / "quality.json"
    folders = {name: Path(models) / name for name in abouts(pool)}
    current = folders["sd"].is_dir() and measured_weights(models) == weights_of(models)
    measured = json.loads(quality.read_text()) if current else {}
    for name, about in abouts(pool).items():
        if folders[name].is_dir():
            write_card(folders[name], about, measured.get(name, {}))


def abouts(pool: str) -> dict[str, About]:
    """Return what the cards of models of a pool say."""
    limits = (
        f"It knows what the captioned images of {pool} show and say, and nothing else. Whoever passes it on\n"
        "answers for the terms under which these images may be learnt from."
    )
    more = {"limits": limits, "measured_by": "zsc pretrain, once the U-Net is trained"}
    return {
        "clip": About(
            title=f"A pocket CLIP of {pool}",
            what=(
                "A small CLIP, trained from scratch on captioned images. Its text tower is also the text encoder of "
                "`sd`."
            ),
            code=(
                "from transformers import CLIPModel, CLIPProcessor\n"
                'model = CLIPModel.from_pretrained("clip")\nprocessor = CLIPProcessor.from_pretrained("clip")\n'
            ),
            library="transformers",
            **more,
        ),
        "sd": About(
            title=f"A pocket Stable Diffusion of {pool}",
            what=(
                "A latent text-to-image diffusion model in the layout of Stable Diffusion 1.x: an autoencoder and a "
                "U-Net trained from scratch on captioned images, and the frozen text tower of `clip`.\n\n"
                "![Held-out images, what the autoencoder leaves of them, and what is generated for their captions]"
                "(../samples.png)"
            ),
            code=(
                "from diffusers import StableDiffusionPipeline\n"
                'pipeline = StableDiffusionPipeline.from_pretrained("sd")\n'
                'pipeline("a caption such as the pool has", guidance_scale=3).images[0]\n'
            ),
            library="diffusers",
            **more,
        ),
    }
