"""The pocket CLIP: two small towers trained contrastively on the pool (Radford et al. 2021)."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor, CLIPTokenizer

from zsclib.hashing import key
from zsclib.images.tensors import to_tensor
from zsclib.pretraining.autoencoder import shifted
from zsclib.pretraining.loop import begin_from, train
from zsclib.pretraining.plan import Plan, Training, batch_indices
from zsclib.pretraining.sizes import POCKET, Sizes
from zsclib.pretraining.tokenizer import different, token_ids, train_tokenizer
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
PHASE_2_PLAN = replace(IMAGE_PLAN, name="clip-image-second", samples=700_000)
LONGER_PLAN = replace(IMAGE_PLAN, name="clip-image-third", samples=700_000)  # as many pairs as the U-Net: 2.0 M
IMAGE_PHASES = (IMAGE_PLAN.name, PHASE_2_PLAN.name, LONGER_PLAN.name)  # successive trainings of the image tower


def new_clip(tokenizer: CLIPTokenizer, sizes: Sizes = POCKET) -> CLIPModel:
    """Return an untrained CLIP; of the models that ship, for 32×32 images and prompts of up to 32 tokens."""
    marks = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    marks |= {"pad_token_id": tokenizer.pad_token_id}
    vocabulary = {"vocab_size": len(tokenizer), "max_position_embeddings": tokenizer.model_max_length}
    common = {"hidden_size": sizes.width, "intermediate_size": 4 * sizes.width, "num_attention_heads": sizes.heads}
    common |= {"hidden_act": "gelu", "projection_dim": sizes.width}
    text = common | marks | vocabulary | {"num_hidden_layers": sizes.text_layers}
    vision = common | {"num_hidden_layers": sizes.image_layers}
    vision |= {"image_size": sizes.image_side, "patch_size": sizes.patch}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=sizes.width))


def new_processor(tokenizer: CLIPTokenizer, side: int = POCKET.image_side) -> CLIPProcessor:
    """Return the processor that feeds images of any size to the pocket CLIP; Pillow only."""
    images = CLIPImageProcessorPil(
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    return CLIPProcessor(images, tokenizer)


def bfloat16_is_fast(device: str | torch.device) -> bool:
    """Say whether a device has instructions for bfloat16: a recent GPU, or a CPU with AVX512-BF16, AMX or Arm's bf16.

    On two such CPU cores the towers trained about 1.5 times as fast as in float32. A CPU without them converts every
    number to and fro, which is ten times slower.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # torch < 2.10 does not tell, and is taken for a CPU without
    capabilities = getattr(torch.cpu, "get_capabilities", dict)() if device.type == "cpu" else {}
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def autocast(model: CLIPModel) -> torch.autocast:
    """Return the precision of the towers: bfloat16 while they are trained where it is fast, else float32."""
    device = model.device
    return torch.autocast(device.type, torch.bfloat16, enabled=model.training and bfloat16_is_fast(device))


def similarities(model: CLIPModel, images: Tensor, ids: Tensor) -> Tensor:
    """Return exp(logit_scale) · cosine, float32 (images, texts), skipping the padding all texts share."""
    end = model.config.text_config.eos_token_id
    # the text tower is causal: what follows the first end mark changes nothing
    longest = int((ids == end).int().argmax(1).max()) + 1
    with autocast(model):
        u = model.get_image_features(pixel_values=images).pooler_output                    # (n, d)
        v = model.get_text_features(input_ids=ids[:, :longest]).pooler_output              # (m, d)
    return scaled_cosines(model, u.float(), v.float())


def scaled_cosines(model: CLIPModel, u: Tensor, v: Tensor) -> Tensor:
    """Return exp(logit_scale) · cosine of image features u (n, d) and text features v (m, d), float32 (n, m)."""
    u, v = u / u.norm(dim=1, keepdim=True), v / v.norm(dim=1, keepdim=True)
    return model.logit_scale.exp().clamp(max=100) * u @ v.T


def contrastive_loss(logits: Tensor, same: Tensor) -> Tensor:
    """Return the symmetric InfoNCE loss; all pairs marked in `same` (n, n) are positives of equal weight."""
    target = same.float() / same.sum(1, keepdim=True)
    rows = -(target * logits.log_softmax(1)).sum(1).mean()
    columns = -(target * logits.T.log_softmax(1)).sum(1).mean()
    return (rows + columns) / 2


@torch.no_grad()
def top1(model: CLIPModel, images: np.ndarray, ids: Tensor, batch: int = 256) -> float:
    """Return how often an image is matched with its own caption, or one equal to it, among `batch` of them."""
    device = next(model.parameters()).device
    correct = []
    for start in range(0, len(images), batch):
        own = ids[start : start + batch].to(device)
        logits = similarities(model, to_tensor(images[start : start + batch]).to(device), own)
        best = own[logits.argmax(1)]
        correct.append((best == own).all(1).float().cpu())
    return torch.cat(correct).mean().item()


def train_clip(images: np.ndarray, captions: list[str], training: Training) -> list[dict]:
    """Train both towers on images uint8 (n, 32, 32, 3) and their captions; return the history (`loop.train`)."""
    plan, device, n = training.plan, training.device, len(images) - training.held_out
    tokenizer = open_tokenizer(training.folder, captions[:n], training.sizes.prompt_tokens)
    ids = token_ids(tokenizer, captions)
    torch.manual_seed(plan.seed)  # initial weights only
    model = new_clip(tokenizer, training.sizes).to(device)

    def loss(model: CLIPModel, step: int) -> Tensor:
        index = np.sort(batch_indices(plan, step, n))
        x = to_tensor(shifted(images[index], rng(plan.seed, "augment", plan.name, step), most=2))
        own = ids[index].to(device)                                                        # (b, 32)
        same = (own[:, None] == own[None]).all(2)                                          # (b, b)
        return contrastive_loss(similarities(model, x.to(device), own), same)

    def validate(mean_model: CLIPModel) -> dict[str, float]:
        return {"top1_of_256": top1(mean_model, images[n:][:1024], ids[n:][:1024])}

    return train(training, model, loss, validate)


def train_image_tower(images: np.ndarray, captions: list[str], training: Training) -> list[dict]:
    """Train CLIP's image tower on under its locked text tower (Zhai et al. 2022, LiT); return the history.

    A U-Net reads the text tower that was frozen for it, so that tower may not move any more; the image tower,
    the two projections and the temperature may, and profit from more images. A training that begins from no other
    one starts from the CLIP that was frozen.
    """
    plan, device, n = training.plan, training.device, len(images) - training.held_out
    frozen = Path(training.folder) / "frozen"
    tokenizer = CLIPTokenizer.from_pretrained(frozen / "tokenizer")
    model = CLIPModel.from_pretrained(frozen / "clip").to(device)
    model.text_model.requires_grad_(False)
    facts = training.facts | begin_from(training.begin, model, training.folder)
    facts |= json.loads((frozen / "facts.json").read_text())
    unique, row = different(captions)
    with torch.no_grad():  # the locked tower reads every caption once
        ids = token_ids(tokenizer, unique)
        states = torch.cat([model.text_model(part.to(device)).pooler_output for part in ids.split(512)])

    def logits_of(model: CLIPModel, batch: np.ndarray, rows: np.ndarray) -> Tensor:
        with autocast(model):
            u = model.get_image_features(pixel_values=to_tensor(batch).to(device)).pooler_output
        return scaled_cosines(model, u.float(), model.text_projection(states[rows]))       # (b, b)

    def loss(model: CLIPModel, step: int) -> Tensor:
        index = np.sort(batch_indices(plan, step, n))
        batch = shifted(images[index], rng(plan.seed, "augment", plan.name, step), most=2)
        same = torch.from_numpy(row[index][:, None] == row[index][None]).to(device)
        return contrastive_loss(logits_of(model, batch, row[index]), same)

    def validate(mean_model: CLIPModel) -> dict[str, float]:
        own = row[n:][:256]
        best = logits_of(mean_model, images[n:][:256], own).argmax(1).cpu().numpy()
        return {"top1_of_256": float((own[best] == own).mean())}

    return train(replace(training, facts=facts), model, loss, validate)


def open_tokenizer(folder: Path, captions: list[str], length: int = POCKET.prompt_tokens) -> CLIPTokenizer:
    """Return the tokenizer of the checkpoint folder, learning it first where there is none of these captions."""
    path, of = Path(folder) / "tokenizer", key(captions=sorted(set(captions)), length=length)
    done = path / "done"
    if done.exists() and done.read_text() == of:
        return CLIPTokenizer.from_pretrained(path)
    done.unlink(missing_ok=True)
    tokenizer = train_tokenizer(captions, path, length)
    done.write_text(of)
    return tokenizer
