"""The pocket autoencoder: images ↔ latents (Rombach et al. 2022, with no adversary).

Shapes are said for the sizes of the models that ship, here and in the other trainings: 32×32×3 and 8×8×4.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from zsclib.hashing import hash_file
from zsclib.images.tensors import to_images, to_tensor
from zsclib.pretraining.arrays import write_rows
from zsclib.pretraining.loop import train
from zsclib.pretraining.plan import Plan, Training, batch_indices
from zsclib.pretraining.sizes import POCKET, Sizes
from zsclib.seeds import rng, torch_generator

PLAN = Plan("autoencoder", samples=92_000, batch=64, rate=1.5e-3, weight_decay=1e-3)
KL_WEIGHT = 1e-6


def new_autoencoder(sizes: Sizes = POCKET) -> AutoencoderKL:
    """Return an untrained autoencoder; of the models that ship, 32×32×3 ↔ 8×8×4."""
    depth = len(sizes.autoencoder_channels)
    return AutoencoderKL(
        block_out_channels=sizes.autoencoder_channels,
        down_block_types=("DownEncoderBlock2D",) * depth,
        up_block_types=("UpDecoderBlock2D",) * depth,
        layers_per_block=1,
        latent_channels=sizes.latent_channels,
        norm_num_groups=8,
        sample_size=sizes.image_side,
        scaling_factor=1.0,
    )


def train_autoencoder(images: np.ndarray, training: Training) -> list[dict]:
    """Train on images uint8 (n, 32, 32, 3) with L1 + L2 and a slight KL term; return the history (`loop.train`)."""
    plan, device, n = training.plan, training.device, len(images) - training.held_out
    torch.manual_seed(plan.seed)  # initial weights only
    model = new_autoencoder(training.sizes).to(device, memory_format=torch.channels_last)

    def loss(model: AutoencoderKL, step: int) -> Tensor:
        batch = images[np.sort(batch_indices(plan, step, n))]                             # (b, 32, 32, 3)
        x = to_tensor(augment(batch, rng(plan.seed, "augment", plan.name, step)))         # (b, 3, 32, 32)
        x = x.to(device, memory_format=torch.channels_last)
        posterior = model.encode(x).latent_dist                                           # (b, 4, 8, 8)
        generator = torch_generator(plan.seed, "noise", plan.name, step)
        noise = torch.randn(posterior.mean.shape, generator=generator).to(device)
        decoded = model.decode(posterior.mean + posterior.std * noise).sample             # (b, 3, 32, 32)
        return F.l1_loss(decoded, x) + F.mse_loss(decoded, x) + KL_WEIGHT * posterior.kl().mean()

    def validate(mean_model: AutoencoderKL) -> dict[str, float]:
        return {"psnr": psnr(mean_model, images[n:][:512])}

    return train(training, model, loss, validate)


def shifted(images: np.ndarray, generator: np.random.Generator, most: int = 3) -> np.ndarray:
    """Move each image (n, h, w, 3) by up to `most` pixels either way; what enters repeats the border."""
    n, h, w, _ = images.shape
    dy, dx = generator.integers(-most, most + 1, (2, n))
    rows = np.clip(np.arange(h) + dy[:, None], 0, h - 1)
    columns = np.clip(np.arange(w) + dx[:, None], 0, w - 1)
    return images[np.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]


def augment(images: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Shift, flip, invert and re-light images, so that unknown ink and paper are reconstructed too."""
    images = shifted(images, generator)
    n = len(images)
    flip, invert = generator.random(n) < 0.5, generator.random(n) < 0.1
    images[flip] = images[flip, :, ::-1]
    images[invert] = 255 - images[invert]
    gain = np.where(generator.random(n) < 0.3, generator.uniform(0.7, 1.3, n), 1)[:, None, None, None]
    return np.clip((images - 127.5) * gain + 127.5, 0, 255).astype(np.uint8)


@torch.no_grad()
def psnr(model: AutoencoderKL, images: np.ndarray, batch: int = 256) -> float:
    """Return the mean peak signal-to-noise ratio, in dB, of reconstructed uint8 images (n, 32, 32, 3)."""
    device = next(model.parameters()).device
    values = []
    for start in range(0, len(images), batch):
        x = to_tensor(images[start : start + batch]).to(device)
        decoded = model.decode(model.encode(x).latent_dist.mode()).sample.clamp(-1, 1)
        mse = (((decoded - x) / 2) ** 2).mean((1, 2, 3)).clamp_min(1e-10)
        values.append(-10 * mse.log10())
    return torch.cat(values).mean().item()


@torch.no_grad()
def centre(model: AutoencoderKL, images: np.ndarray, batch: int = 256) -> np.ndarray:
    """Make the latents of `images` zero-mean per channel and set `scaling_factor` = 1 / their standard deviation.

    The mean is folded into the two 1×1 convolutions around the latents; reconstructions stay what they were.

    Returns: the scaled latents, float16 (n, 4, 8, 8).
    """
    device = next(model.parameters()).device
    latents = []
    for start in range(0, len(images), batch):
        x = to_tensor(images[start : start + batch]).to(device)
        latents.append(model.encode(x).latent_dist.mode().cpu())
    z = torch.cat(latents)
    mean = z.mean((0, 2, 3))
    std = (z - mean[:, None, None]).std().item()
    model.quant_conv.bias[: len(mean)] -= mean.to(device)
    model.post_quant_conv.bias += model.post_quant_conv.weight[:, :, 0, 0] @ mean.to(device)
    model.register_to_config(scaling_factor=1 / std)
    return ((z - mean[:, None, None]) / std).half().numpy()


@torch.no_grad()
def encoded(vae: AutoencoderKL, images: np.ndarray, batch: int = 256) -> Iterator[np.ndarray]:
    """Yield the scaled latents of images uint8 (n, 32, 32, 3), a batch at a time, float16 (batch, 4, 8, 8)."""
    device = next(vae.parameters()).device
    for start in range(0, len(images), batch):
        z = vae.encode(to_tensor(images[start : start + batch]).to(device)).latent_dist.mode()
        yield (z * vae.config.scaling_factor).half().cpu().numpy()


@torch.no_grad()
def reconstructed(vae: AutoencoderKL, images: np.ndarray, batch: int = 256) -> np.ndarray:
    """Return what is left of images uint8 (n, 32, 32, 3) after encoding and decoding, in the same form."""
    device = next(vae.parameters()).device
    decoded = np.empty_like(images)
    for start in range(0, len(images), batch):
        x = to_tensor(images[start : start + batch]).to(device)
        decoded[start : start + batch] = to_images(vae.decode(vae.encode(x).latent_dist.mode()).sample)
    return decoded


def frozen_autoencoder(folder: Path, device: str = "cpu") -> tuple[AutoencoderKL, str]:
    """Open the autoencoder that was frozen in a checkpoint folder; return it with the SHA-256 of its weights.

    Raises: FileNotFoundError when none was frozen yet.
    """
    frozen = Path(folder) / "frozen" / "vae"
    if not frozen.exists():
        raise FileNotFoundError(f"no {frozen}; train autoencoder and clip, then run the stage `freeze`")
    vae = AutoencoderKL.from_pretrained(frozen).to(device).eval()
    return vae, hash_file(frozen / "diffusion_pytorch_model.safetensors")


def cached_latents(images: np.ndarray, folder: Path, device: str = "cpu") -> tuple[np.ndarray, dict]:
    """Encode images once, by the autoencoder that was frozen in a checkpoint folder.

    Args:
        images: uint8 (n, 32, 32, 3).
        folder: holds `frozen/vae` (see `unet.freeze`); the latents are written there, and read on a second call.

    Returns: the scaled latents, float16 (n, 4, 8, 8), and the facts that identify them.
    Raises: FileNotFoundError when no autoencoder was frozen yet.
    """
    vae, sha256 = frozen_autoencoder(folder, device)
    pictures = hashlib.sha256()
    for start in range(0, len(images), 4096):  # the images may be a file beyond memory
        pictures.update(np.ascontiguousarray(images[start : start + 4096]))
    facts = {"vae": sha256, "pictures": pictures.hexdigest()}
    path = Path(folder) / f"latents-{facts['vae'][:8]}-{facts['pictures'][:8]}.npy"
    if not path.exists():
        write_rows(path, encoded(vae, images))
    return np.load(path), facts
