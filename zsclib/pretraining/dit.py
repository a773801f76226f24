"""The class-conditional twin: a diffusion transformer of labelled `objects` (Peebles & Xie 2023, DiT).

It shares the autoencoder and the noise schedule with the text-to-image model, but has seen no caption and no
picture of the pool: only the labelled training split, with horizontal flips as the sole augmentation, as the
model of Li et al. (2023, section 5.3, table 4) had seen only ImageNet.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import DiTTransformer2DModel
from torch import Tensor, nn

from zsclib.images.image_set import ImageSet
from zsclib.pretraining.autoencoder import kept_latents
from zsclib.pretraining.loop import Plan, batch_indices, train
from zsclib.pretraining.unet import min_snr_weight, new_scheduler, spread_timesteps
from zsclib.seeds import rng, torch_generator

PLAN = Plan("dit", samples=480_000, batch=128, rate=1e-3, milestones=True)
PICTURES, HELD_OUT = 20_000, 512  # of the training split: trained on, and after them validated on
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


def train_dit(
    images: ImageSet,
    folder: Path,
    held_out: int,
    plan: Plan = PLAN,
    facts: dict | None = None,
    device: str = "cpu",
    size: dict[str, int] = SIZE,
) -> list[dict]:
    """Train on labelled pictures and their mirror images, all but the last `held_out`; return the history.

    Args:
        images: the labelled set, 32×32.
        folder: holds `frozen/vae` (see `unet.freeze`) and gets the checkpoints, and the latents once computed.
        held_out: pictures at the end of the set that are only validated on.
        plan, facts: see `loop.train`; the set and the autoencoder are added to the facts.
        size: width, depth and patch of the transformer.

    Raises: FileNotFoundError when no autoencoder was frozen yet.
    """
    latents, found = mirrored_latents(images.images, folder, device)
    ᾱ = new_scheduler().alphas_cumprod.to(device)
    n, null = len(images) - held_out, len(images.classes)
    torch.manual_seed(plan.seed)  # initial weights only
    model = new_dit(null, **size).to(device)

    def weighted_error(
        model: DiTTransformer2DModel, z: np.ndarray, labels: np.ndarray, *keys: int | str
    ) -> Tensor:
        """Return the loss of latents z (n, 4, 8, 8) under their labels (n,), at the noise of a step."""
        t = spread_timesteps(len(z), len(ᾱ), rng(plan.seed, "timesteps", plan.name, *keys))
        noise = torch.randn(z.shape, generator=torch_generator(plan.seed, "noise", plan.name, *keys))
        z, y = torch.from_numpy(z).float(), torch.from_numpy(labels)
        z, y, t, noise = (x.to(device) for x in (z, y, t, noise))
        a = ᾱ[t][:, None, None, None]
        errors = ((model(a.sqrt() * z + (1 - a).sqrt() * noise, t, y).sample - noise) ** 2).mean((1, 2, 3))
        return (min_snr_weight(ᾱ, t) * errors).mean()

    def loss(model: DiTTransformer2DModel, step: int) -> Tensor:
        picked = np.sort(batch_indices(plan, step, n))
        mirrored = rng(plan.seed, "mirror", plan.name, step).integers(0, 2, len(picked))
        dropped = rng(plan.seed, "dropped", plan.name, step).random(len(picked)) < NULL
        return weighted_error(
            model, latents[picked, mirrored], np.where(dropped, null, images.labels[picked]), step
        )

    def validate(mean_model: DiTTransformer2DModel) -> dict[str, float]:
        z, labels = latents[n : n + 512, 0], images.labels[n : n + 512]
        scores = class_scores(mean_model, torch.from_numpy(z[:128]).float().to(device))
        return {
            "held_out": weighted_error(mean_model, z, labels, "validation").item(),
            "top1": float((scores.argmax(1) == labels[:128]).mean()),
        }

    return train(plan, model, loss, folder, (facts or {}) | found, validate if held_out else None)


def mirrored_latents(images: np.ndarray, folder: Path, device: str = "cpu") -> tuple[np.ndarray, dict]:
    """Encode each picture and its mirror image once, by the frozen autoencoder.

    Args:
        images: uint8 (n, 32, 32, 3).
        folder: holds `frozen/vae`; the latents are kept there, and read on a second call.

    Returns: the scaled latents, float16 (n, 2, 4, 8, 8), and the facts that identify them.
    Raises: FileNotFoundError when no autoencoder was frozen yet.
    """
    latents, facts = kept_latents(images, folder, device)
    mirrored, _ = kept_latents(np.ascontiguousarray(images[:, :, ::-1]), folder, device)
    return np.stack([latents, mirrored], axis=1), facts


@torch.no_grad()
def class_scores(
    model: DiTTransformer2DModel, z: Tensor, levels: int = 8, seed: int = 0, batch: int = 512
) -> np.ndarray:
    """Return minus the noise-prediction error of each class (Li et al. 2023, eq. 6), float32 (n, classes).

    Args:
        z: scaled latents (n, 4, 8, 8).
        levels: noise levels, spread evenly; all classes of a picture meet the same noise.
        seed: of the noise, which depends on it and on the picture's place in z.
        batch: passes of the network at once.
    """
    ᾱ, classes = new_scheduler().alphas_cumprod, model.config.num_embeds_ada_norm
    t = ((torch.arange(levels) + 0.5) * len(ᾱ) / levels).long()
    shape = (levels, *z.shape[1:])
    eps = torch.stack(
        [torch.randn(shape, generator=torch_generator(seed, "scores", i)) for i in range(len(z))]
    )
    ᾱ, t, eps = (x.to(z.device) for x in (ᾱ, t, eps))
    rows = torch.cartesian_prod(*(torch.arange(n, device=z.device) for n in (len(z), levels, classes)))
    found = []
    for i, k, y in (part.T for part in rows.split(batch)):
        a = ᾱ[t[k]][:, None, None, None]
        seen = model(a.sqrt() * z[i] + (1 - a).sqrt() * eps[i, k], t[k], y).sample
        found.append(((seen - eps[i, k]) ** 2).mean((1, 2, 3)))
    return -torch.cat(found).view(len(z), levels, classes).mean(1).cpu().numpy()
