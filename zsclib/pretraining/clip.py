"""The pocket CLIP: two small towers trained contrastively on the pool (Radford et al. 2021)."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor, CLIPTokenizer

from zsclib.pretraining.autoencoder import shifted, to_tensor
from zsclib.pretraining.loop import Plan, batch_indices, begin_from, train
from zsclib.pretraining.tokenizer import LENGTH, token_ids, train_tokenizer
from zsclib.seeds import rng

PLAN = Plan(
    "clip",
    samples=150_000,
    batch=256,
    rate=1e-3,
    betas=(0.9, 0.98),
    weight_decay=0.1,
    log_every=50,
    validate_every=200,
)
IMAGE_PLAN = replace(PLAN, name="clip-image", samples=460_000)
SECOND_PLAN = replace(IMAGE_PLAN, name="clip-image-second", samples=700_000)
TEXT = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4}
VISION = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 6, "num_attention_heads": 4}


def new_clip(tokenizer: CLIPTokenizer, text: dict = TEXT, vision: dict = VISION, patch: int = 4) -> CLIPModel:
    """Return an untrained CLIP for 32×32 pictures and prompts of up to 32 tokens."""
    marks = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    marks |= {"pad_token_id": tokenizer.pad_token_id}
    common = {"hidden_act": "gelu", "projection_dim": text["hidden_size"]}
    return CLIPModel(
        CLIPConfig(
            text_config=text
            | marks
            | common
            | {"vocab_size": len(tokenizer), "max_position_embeddings": LENGTH},
            vision_config=vision | common | {"image_size": 32, "patch_size": patch},
            projection_dim=text["hidden_size"],
        )
    )


def new_processor(tokenizer: CLIPTokenizer) -> CLIPProcessor:
    """Return the processor that feeds pictures of any size to the pocket CLIP; Pillow only."""
    images = CLIPImageProcessorPil(
        size={"shortest_edge": 32},
        crop_size={"height": 32, "width": 32},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    return CLIPProcessor(images, tokenizer)


def similarities(model: CLIPModel, images: Tensor, ids: Tensor) -> Tensor:
    """Return exp(logit_scale) · cosine, float32 (images, texts), skipping the padding all texts share."""
    end = model.config.text_config.eos_token_id
    longest = (
        int((ids == end).int().argmax(1).max()) + 1
    )  # the text tower is causal: the first end mark sees all
    # bfloat16 made the towers' training about 1.5 times as fast on two CPU cores; logits stay in float32
    with torch.autocast(images.device.type, torch.bfloat16, enabled=model.training):
        u = model.get_image_features(pixel_values=images).pooler_output
        v = model.get_text_features(input_ids=ids[:, :longest]).pooler_output
    u, v = u.float(), v.float()
    u, v = u / u.norm(dim=1, keepdim=True), v / v.norm(dim=1, keepdim=True)
    return model.logit_scale.exp().clamp(max=100) * u @ v.T


def contrastive_loss(logits: Tensor, same: Tensor) -> Tensor:
    """Return the symmetric InfoNCE loss; all pairs marked in `same` (n, n) are positives of equal weight."""
    target = same.float() / same.sum(1, keepdim=True)
    rows = -(target * logits.log_softmax(1)).sum(1).mean()
    columns = -(target * logits.T.log_softmax(1)).sum(1).mean()
    return (rows + columns) / 2


def top1(model: CLIPModel, images: np.ndarray, ids: Tensor, batch: int = 256) -> float:
    """Return how often a picture finds its own caption, or one equal to it, among `batch` of them."""
    device = next(model.parameters()).device
    found = []
    with torch.no_grad():
        for start in range(0, len(images), batch):
            own = ids[start : start + batch].to(device)
            logits = similarities(model, to_tensor(images[start : start + batch]).to(device), own)
            best = own[logits.argmax(1)]
            found.append((best == own).all(1).float().cpu())
    return torch.cat(found).mean().item()


def train_clip(
    images: np.ndarray,
    captions: list[str],
    folder: Path,
    held_out: int,
    plan: Plan = PLAN,
    facts: dict | None = None,
    device: str = "cpu",
    **sizes: dict,
) -> list[dict]:
    """Train on pictures uint8 (n, 32, 32, 3) and captions but the last `held_out`; return the history."""
    tokenizer = open_tokenizer(folder, captions[: len(captions) - held_out])
    ids = token_ids(tokenizer, captions)
    n = len(images) - held_out
    torch.manual_seed(plan.seed)  # initial weights only
    model = new_clip(tokenizer, **sizes).to(device)

    def loss(model: CLIPModel, step: int) -> Tensor:
        picked = np.sort(batch_indices(plan, step, n))
        pictures = shifted(images[picked], rng(plan.seed, "augment", plan.name, step), most=2)
        own = ids[picked].to(device)
        same = (own[:, None] == own[None]).all(2)
        return contrastive_loss(similarities(model, to_tensor(pictures).to(device), own), same)

    def validate(mean_model: CLIPModel) -> dict[str, float]:
        return {"top1_of_256": top1(mean_model, images[n:][:1024], ids[n:][:1024])}

    return train(plan, model, loss, folder, facts, validate)


def train_image_tower(
    images: np.ndarray,
    captions: list[str],
    folder: Path,
    held_out: int,
    plan: Plan = IMAGE_PLAN,
    facts: dict | None = None,
    device: str = "cpu",
    begin: str | None = None,
) -> list[dict]:
    """Train CLIP's image tower on under its locked text tower (Zhai et al. 2022, LiT); return the history.

    A U-Net reads the text tower that was frozen for it, so that tower may not move any more; the image tower,
    the two projections and the temperature may, and profit from more pictures. `begin` names an earlier training
    of `folder` that this one starts from; without it, it starts from the CLIP that was frozen.
    """
    frozen = Path(folder) / "frozen"
    tokenizer = CLIPTokenizer.from_pretrained(frozen / "tokenizer")
    model = CLIPModel.from_pretrained(frozen / "clip").to(device)
    model.text_model.requires_grad_(False)
    facts = (facts or {}) | begin_from(begin, model, folder)
    unique, row = np.unique(np.array(captions), return_inverse=True)
    with torch.no_grad():  # what the locked tower says, once per caption
        ids = token_ids(tokenizer, unique.tolist())
        said = torch.cat([model.text_model(part.to(device)).pooler_output for part in ids.split(512)])
    n = len(images) - held_out

    def logits_of(model: CLIPModel, pictures: np.ndarray, own: np.ndarray) -> Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=model.training):
            u = model.get_image_features(pixel_values=to_tensor(pictures).to(device)).pooler_output
        u, v = u.float(), model.text_projection(said[own])
        u, v = u / u.norm(dim=1, keepdim=True), v / v.norm(dim=1, keepdim=True)
        return model.logit_scale.exp().clamp(max=100) * u @ v.T

    def loss(model: CLIPModel, step: int) -> Tensor:
        picked = np.sort(batch_indices(plan, step, n))
        pictures = shifted(images[picked], rng(plan.seed, "augment", plan.name, step), most=2)
        same = torch.from_numpy(row[picked][:, None] == row[picked][None]).to(device)
        return contrastive_loss(logits_of(model, pictures, row[picked]), same)

    def validate(mean_model: CLIPModel) -> dict[str, float]:
        own = row[n:][:256]
        best = logits_of(mean_model, images[n:][:256], own).argmax(1).cpu().numpy()
        return {"top1_of_256": float((own[best] == own).mean())}

    facts |= json.loads((frozen / "facts.json").read_text())
    return train(plan, model, loss, folder, facts, validate)


def open_tokenizer(folder: Path, captions: list[str]) -> CLIPTokenizer:
    """Return the tokenizer kept in the checkpoint folder, learning it first where there is none."""
    kept = Path(folder) / "tokenizer"
    if (kept / "done").exists():
        return CLIPTokenizer.from_pretrained(kept)
    tokenizer = train_tokenizer(captions, kept)
    (kept / "done").touch()
    return tokenizer
