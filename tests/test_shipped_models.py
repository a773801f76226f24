"""The models that ship: whole, small, opened by the libraries alone, and as good as the book needs them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from zsclib import datasets
from zsclib.models.clip import open_clip
from zsclib.models.generator import open_generator
from zsclib.papers.diffusion_classifier import classify
from zsclib.papers.diffusion_classifier.error_matrix import exhaustive
from zsclib.pocket.card import CARDS
from zsclib.pretraining.autoencoder import psnr, reconstructed
from zsclib.pretraining.card import card
from zsclib.prompts import prompts_of

MODELS = Path(__file__).resolve().parents[1] / "data/models"
QUALITY = json.loads((MODELS / "quality.json").read_text())

ALONE = """
import sys, torch
from diffusers import StableDiffusionPipeline
from transformers import CLIPModel, CLIPProcessor
pipeline = StableDiffusionPipeline.from_pretrained(sys.argv[1] + "/pocket-sd")
pipeline.set_progress_bar_config(disable=True)
image = pipeline("a photo of a red star", num_inference_steps=2, guidance_scale=3.0).images[0]
model = CLIPModel.from_pretrained(sys.argv[1] + "/pocket-clip")
inputs = CLIPProcessor.from_pretrained(sys.argv[1] + "/pocket-clip")(
    text=["a photo of a star", "a photo of a car"], images=[image], return_tensors="pt", padding=True
)
with torch.no_grad():
    logits = model(**inputs).logits_per_image
print(image.size, tuple(logits.shape), bool(torch.isfinite(logits).all()), "zsclib" in sys.modules)
"""


@pytest.mark.parametrize(
    "model, measure, least",
    [
        ("pocket-sd", "psnr first crawl", 26.0),
        ("pocket-sd", "psnr digits", 22.0),
        ("pocket-sd", "psnr second crawl", 26.0),
        ("pocket-clip", "objects", 0.90),
        ("pocket-clip", "printed-digits", 0.95),
        ("pocket-judge", "what", 0.97),
        ("pocket-judge", "what, decoded", 0.94),
        ("pocket-judge", "style, decoded", 0.97),
        ("pocket-sd", "objects", 0.80),
        ("pocket-sd", "digits", 0.65),
        ("pocket-sd", "aerial", 0.60),
        ("pocket-sd", "judged objects", 0.85),
        ("pocket-sd", "judged printed-digits", 0.85),
        ("pocket-sd", "judged aerial", 0.70),
        ("pocket-sd", "judged colour", 0.80),
        ("pocket-sd", "judged style", 0.80),
        ("pocket-dit", "objects", 0.85),
    ],
)
def test_measured_quality_is_what_the_book_needs(model, measure, least):
    row = QUALITY[model][measure]
    assert row["n"] >= 200 and row["value"] >= least


def test_no_test_image_occurs_in_the_whole_pool():
    overlap = QUALITY["pool"]["overlap"]
    assert overlap["value"] == 0 and overlap["n"] > 5000


def test_the_libraries_open_the_models_without_this_project(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(MODELS)], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.stdout.split("\n")[0] == "(32, 32) (1, 2) True False", done.stderr[-2000:]


def test_the_attribute_classifier_learned_from_what_the_generator_decodes():
    generator = open_generator(MODELS / "pocket-sd")
    images = datasets.load("objects", "validation", 8).images
    ours = reconstructed(generator.vae, images).astype(int)
    assert np.abs(ours - generator.decode(generator.encode_images(images))).max() <= 1
    assert np.abs(ours - images).max() > 10


def test_all_weights_together_are_small():
    assert sum(path.stat().st_size for path in MODELS.rglob("*.safetensors")) <= 60e6


@pytest.mark.parametrize("name", CARDS)
def test_the_cards_are_those_of_the_models_beside_them(name):
    training = json.loads((MODELS / name / "training.json").read_text())
    megabytes = sum(path.stat().st_size for path in (MODELS / name).rglob("*.safetensors")) / 1e6
    text = (MODELS / name / "README.md").read_text()
    assert text == card(CARDS[name], training, QUALITY[name], megabytes), "python -m zsclib.pocket evaluate writes it"


def test_text_tower_is_shared():
    tower = open_generator(MODELS / "pocket-sd").text_encoder.state_dict()
    clip = open_clip(MODELS / "pocket-clip").model.text_model.state_dict()
    assert all(torch.equal(clip[name.removeprefix("text_model.")], value) for name, value in tower.items())


def test_the_models_answer_as_measured():
    """A few images, far above guessing: a folder that was exported wrongly would guess."""
    generator, clip = open_generator(MODELS / "pocket-sd"), open_clip(MODELS / "pocket-clip")
    images = datasets.load("objects", "validation", n=30)
    prompts = prompts_of("objects", images.classes)
    by_noise = classify(generator, images.images, prompts, exhaustive(8)).prediction
    by_match = clip.zero_shot(prompts, ["{}"]).scores(images.images).argmax(1)
    assert (by_noise == images.labels).mean() > 0.5
    assert (by_match == images.labels).mean() > 0.5
    shuffled = classify(generator, images.images, prompts[3:] + prompts[:3], exhaustive(8)).prediction
    assert (shuffled == images.labels).mean() < 0.3


def test_handwriting_survives_the_autoencoder():
    digits = datasets.load("digits", "validation", n=50).images
    vae = open_generator(MODELS / "pocket-sd").vae
    assert psnr(vae, digits) > 20
