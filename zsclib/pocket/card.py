"""Model cards: what a pocket model is, what it was trained on, what it cost, and how well it does."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

CARDS = {
    "pocket-clip": (
        "Pocket CLIP",
        "A CLIP for 32×32 images, trained from scratch on the captioned pool of the pocket world. Its text "
        "tower is also the text encoder of `pocket-sd`.",
        "from transformers import CLIPModel, CLIPProcessor\n"
        'model = CLIPModel.from_pretrained("data/models/pocket-clip")\n'
        'processor = CLIPProcessor.from_pretrained("data/models/pocket-clip")\n',
        "transformers",
    ),
    "pocket-sd": (
        "Pocket Stable Diffusion",
        "A latent text-to-image diffusion model in the layout of Stable Diffusion 1.x, for 32×32 images "
        "and 8×8×4 latents: an autoencoder and a U-Net trained from scratch on the captioned pool of the "
        "pocket world, and the frozen text tower of `pocket-clip`.",
        "from diffusers import StableDiffusionPipeline\n"
        'pipeline = StableDiffusionPipeline.from_pretrained("data/models/pocket-sd")\n'
        'pipeline("a photo of a red car", guidance_scale=3).images[0]\n',
        "diffusers",
    ),
    "pocket-dit": (
        "Pocket DiT",
        "A class-conditional latent diffusion model in the layout of DiT, for the ten classes of `objects`, "
        "trained from scratch on labelled images with horizontal flips as the only augmentation. "
        "Autoencoder and noise schedule are those of `pocket-sd`; it knows no text. The transformer's weights "
        "are stored as float16. Class 10 is the null class of guidance, which `DiTPipeline` itself offers for "
        "1,000 classes only: guide it with `zsclib.sampling`.",
        "from diffusers import DiTPipeline\n"
        'pipeline = DiTPipeline.from_pretrained("data/models/pocket-dit")\n'
        'pipeline(pipeline.get_label_ids(["star", "car"]), guidance_scale=1).images\n',
        "diffusers",
    ),
    "pocket-judge": (
        "Pocket attribute classifier",
        "A small ResNet that reads from a 32×32 image what it shows: which thing, digit, letter or land cover, its "
        "colour, the style, and what stands on which side. Trained from scratch on rendered images of the pocket "
        "world, some also as the autoencoder decodes them, and their ground truth, never on generated ones, to measure "
        "how well a generator follows its prompts.",
        "from zsclib.pocket.attributes import ATTRIBUTES, open_classifier, read\n"
        'classifier = open_classifier("data/models/pocket-judge")\n'
        'read(classifier, images)["what"]  # uint8 (n, 32, 32, 3) → indices into ATTRIBUTES["what"]\n',
        "transformers",
    ),
}
# a card shows the first of these that its training measured
VALIDATION = ("what", "psnr", "top1_of_256", "top1", "held_out")


def thinned(history: list[dict], most: int = 300) -> list[dict]:
    """Return at most `most` rows: the mean loss of neighbouring rows, and the last of their other values."""
    rows = []
    for part in np.array_split(np.arange(len(history)), min(most, len(history)) or 1):
        row: dict = {}
        for index in part:
            row |= history[index]
        if len(part):
            rows.append(row | {"loss": float(np.mean([history[index]["loss"] for index in part]))})
    return rows


def write_cards(models: Path) -> None:
    """Write README.md and loss.png into every model folder, from its training.json and `quality.json`."""
    quality = Path(models) / "quality.json"
    measured = json.loads(quality.read_text()) if quality.exists() else {}
    for name in CARDS:
        folder = Path(models) / name
        if folder.exists():
            training = json.loads((folder / "training.json").read_text())
            _plot_losses(training, folder / "loss.png")
            size = sum(path.stat().st_size for path in folder.rglob("*.safetensors")) / 1e6
            (folder / "README.md").write_text(card(name, training, measured.get(name, {}), size))


def card(name: str, training: dict[str, dict], quality: dict, megabytes: float) -> str:
    """Return the text of a model card; `quality` maps a measure to {value, low?, high?, n, about}."""
    title, what, code, library = CARDS[name]
    lines = [
        *("---", "license: mit", f"library_name: {library}", "---", "", f"# {title}", "", what, ""),
        *("```python", code.rstrip(), "```", "", f"Weights: {megabytes:.1f} MB, safetensors.", ""),
        *("## Training", ""),
        "| part | samples | steps | batch | hours | on | final loss | held out |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for part, meta in training.items():
        last, plan = meta["history"][-1], meta["plan"]
        samples = meta["step"] * plan["batch"]
        measured = {k: v for row in meta["history"] for k, v in row.items()}  # the newest of each
        held_out = next((f"{key} {measured[key]:.4g}" for key in VALIDATION if key in measured), "–")
        lines.append(
            f"| {part} | {samples:,} | {meta['step']:,} | {plan['batch']} | {meta['seconds'] / 3600:.1f} "
            f"| {meta['device']} | {last['loss']:.4g} | {held_out} |"
        )
    lines += ["", "AdamW, averaged weights (EMA). Settings and loss history: `training.json`.", ""]
    lines += ["![Loss against samples](loss.png)", ""]
    for part, meta in training.items():
        for source, about in (("pool", "Pool"), ("set", "Labelled set")):
            if facts := meta["facts"].get(source):
                lines += [f"{about} of the {part}: `{json.dumps(facts, ensure_ascii=False)}`", ""]
    lines += ["## Measured quality", ""]
    if not quality:
        lines += ["Not measured yet: `python -m zsclib.pocket evaluate`.", ""]
    else:
        lines += ["| measure | value | 95 % interval | n |", "|---|---|---|---|"]
        for row in quality.values():
            interval = f"{row['low']:.3g} to {row['high']:.3g}" if "low" in row else "–"
            lines.append(f"| {row['about']} | {row['value']:.4g} | {interval} | {row['n']:,} |")
        lines.append("")
    lines += [
        *("## Limits", ""),
        "Made for study: it knows the pocket world's vocabulary and nothing else. Its training images",
        *("come from a renderer; no photograph, person or scraped text was used.", ""),
    ]
    return "\n".join(lines)


def _plot_losses(training: dict[str, dict], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.6 * len(training), 2.6), dpi=100, layout="constrained")
    for ax, (part, meta) in zip(
        np.atleast_1d(figure.subplots(1, len(training))), training.items(), strict=True
    ):
        samples = [row["samples"] for row in meta["history"]]
        ax.loglog(samples, [row["loss"] for row in meta["history"]], lw=1.2)
        ax.set(title=part, xlabel="samples", ylabel="training loss")
        ax.grid(alpha=0.3)
    figure.savefig(path, metadata={"Software": None})
