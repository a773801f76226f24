"""The cards of the models that ship: what each is, and what it cannot."""

from __future__ import annotations

import json
from pathlib import Path

from zsclib.pretraining.card import About, write_card

SHIPPED = {
    "limits": "Made for study: it knows the pocket world's vocabulary and nothing else. Its training images\n"
    "come from a renderer; no photograph, person or scraped text was used.",
    "measured_by": "python -m zsclib.pocket evaluate",
    "license": "mit",
}
CARDS = {
    "pocket-clip": About(
        title="Pocket CLIP",
        what=(
            "A CLIP for 32×32 images, trained from scratch on the captioned pool of the pocket world. Its text "
            "tower is also the text encoder of `pocket-sd`."
        ),
        code=(
            "from transformers import CLIPModel, CLIPProcessor\n"
            'model = CLIPModel.from_pretrained("data/models/pocket-clip")\n'
            'processor = CLIPProcessor.from_pretrained("data/models/pocket-clip")\n'
        ),
        library="transformers",
        **SHIPPED,
    ),
    "pocket-sd": About(
        title="Pocket Stable Diffusion",
        what=(
            "A latent text-to-image diffusion model in the layout of Stable Diffusion 1.x, for 32×32 images "
            "and 8×8×4 latents: an autoencoder and a U-Net trained from scratch on the captioned pool of the "
            "pocket world, and the frozen text tower of `pocket-clip`."
        ),
        code=(
            "from diffusers import StableDiffusionPipeline\n"
            'pipeline = StableDiffusionPipeline.from_pretrained("data/models/pocket-sd")\n'
            'pipeline("a photo of a red car", guidance_scale=3).images[0]\n'
        ),
        library="diffusers",
        **SHIPPED,
    ),
    "pocket-dit": About(
        title="Pocket DiT",
        what=(
            "A class-conditional latent diffusion model in the layout of DiT, for the ten classes of `objects`, "
            "trained from scratch on labelled images with horizontal flips as the only augmentation. "
            "Autoencoder and noise schedule are those of `pocket-sd`; it knows no text. The transformer's weights "
            "are stored as float16. Class 10 is the null class of guidance, which `DiTPipeline` itself offers for "
            "1,000 classes only: guide it with `zsclib.sampling`."
        ),
        code=(
            "from diffusers import DiTPipeline\n"
            'pipeline = DiTPipeline.from_pretrained("data/models/pocket-dit")\n'
            'pipeline(pipeline.get_label_ids(["star", "car"]), guidance_scale=1).images\n'
        ),
        library="diffusers",
        **SHIPPED,
    ),
    "pocket-judge": About(
        title="Pocket attribute classifier",
        what=(
            "A small ResNet that reads from a 32×32 image what it shows: which thing, digit, letter or land cover, its "
            "colour, the style, and what stands on which side. Trained from scratch on rendered images of the pocket "
            "world, some also as the autoencoder decodes them, and their ground truth, never on generated ones, to "
            "measure how well a generator follows its prompts."
        ),
        code=(
            "from zsclib.pocket.attributes import ATTRIBUTES, open_classifier, read\n"
            'classifier = open_classifier("data/models/pocket-judge")\n'
            'read(classifier, images)["what"]  # uint8 (n, 32, 32, 3) → indices into ATTRIBUTES["what"]\n'
        ),
        library="transformers",
        **SHIPPED,
    ),
}


def write_cards(models: Path) -> None:
    """Write README.md and loss.png into every model folder, from its training.json and `quality.json`."""
    quality = Path(models) / "quality.json"
    measured = json.loads(quality.read_text()) if quality.exists() else {}
    for name, about in CARDS.items():
        if (folder := Path(models) / name).exists():
            write_card(folder, about, measured.get(name, {}))
