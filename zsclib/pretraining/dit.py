"""The class-conditional DiT: a diffusion transformer of labelled `objects` (Peebles & Xie 2023).

It shares the autoencoder and the noise schedule with the text-to-image model, but is trained on no caption and no
image of the pool: only on the labelled training split, with horizontal flips as the sole augmentation, as the
model of Li et al. (2023, section 5.3, table 4) was on ImageNet alone.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from diffusers import DiTTransformer2DModel
from torch import Tensor, nn

from zsclib.images.image_set import ImageSet
from zsclib.pretraining.autoencoder import cached_latents
from zsclib.pretraining.loop import train
from zsclib.pretraining.plan import Plan, Training, batch_indices
from zsclib.pretraining.unet import new_scheduler, noise_prediction_loss
from zsclib.seeds import rng, torch_generator

PLAN = Plan("dit", samples=480_000, batch=128, rate=1e-3, milestones=True)
TRAINED_ON, HELD_OUT = 20_000, 512  # of the training split: trained on, and after them validated on
NULL = 0.1  # share of labels replaced by the null class, for guidance (Ho & Salimans 2022)
SIZE = {"width": 128, "depth": 6, "patch": 2}


def new_dit(classes: int, width: int = 128, depth: int = 6, patch: int = 2) -> DiTTransformer2DModel:
    """Return an untrained DiT for 4×8×8 latents; class number `classes` is the null class."""
    model = DiTTransformer2DModel(
        num_attention_heads=width // 32,
        attention_head_dim=32,
        in_channels=4,
        out_channels=4,  # noise only: no learned variance
        num_layers=depth,
        sample_size=8,
        patch_size=patch,
        num_embeds_ada_norm=classes,
    )
    nn.init.zeros_(model.proj_out_1.weight)
    nn.init.zeros_(model.proj_out_2.weight)
    for block in model.transformer_blocks:
        nn.init.zeros_(block.norm1.linear.weight)  # adaLN-Zero: every block begins as the identity
        nn.init.zeros_(block.norm1.linear.bias)
        # in training mode each block would drop labels of its own, from the global state
        block.norm1.emb.class_embedder.dropout_prob = 0.0
    return model


def train_dit(images: ImageSet, training: Training, size: dict[str, int] = SIZE) -> list[dict]:
    """Train on labelled images and their mirror images; return the history (`loop.train`).

    Args:
        images: the labelled set, 32×32.
        training: its folder holds `frozen/vae` (see `unet.freeze`), and the latents once computed; the autoencoder and
            the images are added to its facts.
        size: width, depth and patch of the transformer.

    Raises: FileNotFoundError when no autoencoder was frozen yet.
    """
    plan, device = training.plan, training.device
    n, null = len(images) - training.held_out, len(images.classes)
    latents, facts = mirrored_latents(images.images, training.folder, device)         # (n + held out, 2, 4, 8, 8)
    ᾱ = new_scheduler().alphas_cumprod.to(device)                                      # (T,)
    torch.manual_seed(plan.seed)  # initial weights only
    model = new_dit(null, **size).to(device)

    def loss_of(model: DiTTransformer2DModel, z: np.ndarray, labels: np.ndarray, *keys: int | str) -> Tensor:
        """Return the loss of latents z (n, 4, 8, 8) under their labels (n,), at the noise of a step."""
        z, y = torch.from_numpy(z).to(device).float(), torch.from_numpy(labels).to(device)
        return noise_prediction_loss(lambda z_t, t: model(z_t, t, y).sample, z, ᾱ, plan, *keys)

    def loss(model: DiTTransformer2DModel, step: int) -> Tensor:
        index = np.sort(batch_indices(plan, step, n))
        mirrored = rng(plan.seed, "mirror", plan.name, step).integers(0, 2, len(index))
        dropped = rng(plan.seed, "dropped", plan.name, step).random(len(index)) < NULL
        return loss_of(model, latents[index, mirrored], np.where(dropped, null, images.labels[index]), step)

    def validate(mean_model: DiTTransformer2DModel) -> dict[str, float]:
        z, labels = latents[n : n + 512, 0], images.labels[n : n + 512]
        scores = class_scores(mean_model, torch.from_numpy(z[:128]).float().to(device))
        return {
            "held_out": loss_of(mean_model, z, labels, "validation").item(),
            "top1": float((scores.argmax(1) == labels[:128]).mean()),
        }

    validate = validate if training.held_out else None
    return train(replace(training, facts=training.facts | facts), model, loss, validate)


def mirrored_latents(images: np.ndarray, folder: Path, device: str = "cpu") -> tuple[np.ndarray, dict]:
    """Encode each image and its mirror image once, by the frozen autoencoder.

    Args:
        images: uint8 (n, 32, 32, 3).
        folder: holds `frozen/vae`; the latents are written there, and read on a second call.

    Returns: the scaled latents, float16 (n, 2, 4, 8, 8), and the facts that identify them.
    Raises: FileNotFoundError when no autoencoder was frozen yet.
    """
    latents, facts = cached_latents(images, folder, device)
    mirrored, _ = cached_latents(np.ascontiguousarray(images[:, :, ::-1]), folder, device)
    return np.stack([latents, mirrored], axis=1), facts


@torch.no_grad()
def class_scores(
    model: DiTTransformer2DModel, z: Tensor, K: int = 8, seed: int = 0, batch: int = 512
) -> np.ndarray:
    """Return minus the noise-prediction error of each class (Li et al. 2023, eq. 6), float32 (n, classes).

    Args:
        z: scaled latents (n, 4, 8, 8).
        K: timesteps, spread evenly; all classes of an image meet the same noise.
        seed: of the noise, which depends on it and on the image's place in z.
        batch: network evaluations at once.
    """
    ᾱ, classes = new_scheduler().alphas_cumprod, model.config.num_embeds_ada_norm
    t = ((torch.arange(K) + 0.5) * len(ᾱ) / K).long()                                  # (K,)
    shape = (K, *z.shape[1:])
    ε = torch.stack([torch.randn(shape, generator=torch_generator(seed, "scores", i)) for i in range(len(z))])
    ᾱ, t, ε = (x.to(z.device) for x in (ᾱ, t, ε))                                      # ε: (n, K, 4, 8, 8)
    rows = torch.cartesian_prod(*(torch.arange(size, device=z.device) for size in (len(z), K, classes)))
    errors = []
    for i, k, y in (part.T for part in rows.split(batch)):
        a, s = ᾱ[t[k]].sqrt()[:, None, None, None], (1 - ᾱ[t[k]]).sqrt()[:, None, None, None]
        predicted = model(a * z[i] + s * ε[i, k], t[k], y).sample                      # ε̂: (batch, 4, 8, 8)
        errors.append(((predicted - ε[i, k]) ** 2).mean((1, 2, 3)))
    return -torch.cat(errors).view(len(z), K, classes).mean(1).cpu().numpy()
