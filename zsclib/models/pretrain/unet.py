"""The pocket U-Net: noise prediction in latent space, told the caption by CLIP's text tower (Rombach et al. 2022)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

from zsclib.models.pretrain.autoencoder import CHANNELS as VAE_CHANNELS
from zsclib.models.pretrain.autoencoder import centre, new_autoencoder
from zsclib.models.pretrain.clip import new_clip
from zsclib.models.pretrain.loop import Plan, batch_indices, digest, load_averaged, train
from zsclib.models.pretrain.tokenizer import token_ids
from zsclib.seeds import rng, torch_generator

PLAN = Plan("unet", samples=2_000_000, batch=128, rate=1e-3, milestones=True)
CHANNELS = (64, 128)
GAMMA = 5.0  # min-SNR
EMPTY = 0.1  # share of captions replaced by the empty prompt, for guidance (Ho & Salimans 2022)


def new_unet(channels: tuple[int, ...] = CHANNELS, width: int = 128, heads: int = 4) -> UNet2DConditionModel:
    """Return an untrained U-Net for 4×8×8 latents with cross-attention at every level."""
    depth = len(channels)
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=channels,
        down_block_types=("CrossAttnDownBlock2D",) * depth,
        up_block_types=("CrossAttnUpBlock2D",) * depth,
        layers_per_block=1,
        attention_head_dim=heads,  # for this class, the number of heads
        norm_num_groups=16,
        cross_attention_dim=width,
    )


def new_scheduler() -> DDIMScheduler:
    """Return the noise schedule of Stable Diffusion 1.x."""
    return DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000,
        clip_sample=False, set_alpha_to_one=False, steps_offset=1, prediction_type="epsilon",
    )


def min_snr_weight(alphas_cumprod: Tensor, t: Tensor, gamma: float = GAMMA) -> Tensor:
    """Return min(SNR(t), γ) / SNR(t), the weight of a noise-prediction loss (Hang et al. 2023, eq. 8)."""
    snr = alphas_cumprod[t] / (1 - alphas_cumprod[t])
    return snr.clamp(max=gamma) / snr


def spread_timesteps(n: int, steps: int, generator: np.random.Generator) -> Tensor:
    """Return n timesteps in [0, steps), one in each n-th of the range (Kingma et al. 2021, appendix I.1), shuffled."""
    t = np.floor((generator.random() + np.arange(n) / n) % 1 * steps).astype(np.int64)
    return torch.from_numpy(generator.permutation(t))


def train_unet(
    images: np.ndarray, captions: list[str], folder: Path, held_out: int, plan: Plan = PLAN,
    facts: dict | None = None, device: str = "cpu", channels: tuple[int, ...] = CHANNELS,
) -> list[dict]:
    """Train on the latents and captions of a pool, all but the last `held_out`; return the history.

    The autoencoder and CLIP of `folder` are frozen on the first call (see `freeze`).
    """
    latents, text, tokenizer, frozen = frozen_parts(images, folder, device)
    ids = token_ids(tokenizer, captions)
    empty = token_ids(tokenizer, [""])
    ᾱ = new_scheduler().alphas_cumprod.to(device)
    n = len(latents) - held_out
    torch.manual_seed(plan.seed)  # initial weights only
    model = new_unet(channels, text.config.hidden_size).to(device, memory_format=torch.channels_last)

    def predict(model: UNet2DConditionModel, z: Tensor, own: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Mean squared error per sample, (n,)."""
        z, own, t, noise = (x.to(device) for x in (z.float(), own, t, noise))
        with torch.no_grad():
            condition = text(own).last_hidden_state
        a = ᾱ[t][:, None, None, None]
        z_t = (a.sqrt() * z + (1 - a).sqrt() * noise).to(memory_format=torch.channels_last)
        return ((model(z_t, t, condition).sample - noise) ** 2).mean((1, 2, 3)), t

    def loss(model: UNet2DConditionModel, step: int) -> Tensor:
        picked = np.sort(batch_indices(plan, step, n))
        generator = rng(plan.seed, "diffusion", plan.name, step)
        t = spread_timesteps(plan.batch, len(ᾱ), generator)
        own = ids[picked]
        own[torch.from_numpy(generator.random(plan.batch) < EMPTY)] = empty
        noise = torch.randn(plan.batch, *latents.shape[1:], generator=torch_generator(plan.seed, "noise", plan.name, step))
        errors, t = predict(model, torch.from_numpy(latents[picked]), own, t, noise)
        return (min_snr_weight(ᾱ, t) * errors).mean()

    def validate(mean_model: UNet2DConditionModel) -> dict[str, float]:
        m = min(512, held_out)
        generator = rng(plan.seed, "diffusion", plan.name, "validation")
        t = spread_timesteps(m, len(ᾱ), generator)
        noise = torch.randn(m, *latents.shape[1:], generator=torch_generator(plan.seed, "noise", plan.name, "validation"))
        errors, t = predict(mean_model, torch.from_numpy(latents[n : n + m]), ids[n : n + m], t, noise)
        return {"held_out": (min_snr_weight(ᾱ, t) * errors).mean().item()}

    return train(plan, model, loss, folder, (facts or {}) | frozen, validate)


def freeze(images: np.ndarray, folder: Path, device: str = "cpu") -> None:
    """Fix the autoencoder and CLIP that a U-Net is trained on, from their newest checkpoints.

    Writes `frozen/vae` (latents centred, scaling factor set), `frozen/clip`, `frozen/text_encoder`, `frozen/tokenizer`,
    `frozen/latents.npy` and `frozen/facts.json`, by which a later training knows that they are still the same.
    """
    draft = Path(folder) / "frozen.tmp"
    shutil.rmtree(draft, ignore_errors=True)
    vae, clip, tokenizer, metas = newest_parts(folder)
    latents = centre(vae.to(device).eval(), images)
    vae.cpu().save_pretrained(draft / "vae")
    clip.save_pretrained(draft / "clip")
    text_tower(clip).save_pretrained(draft / "text_encoder")
    shutil.copytree(Path(folder) / "tokenizer", draft / "tokenizer", ignore=shutil.ignore_patterns("done"))
    np.save(draft / "latents.npy", latents)
    files = ["vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors", "latents.npy"]
    facts = {"sha256": {name: digest(draft / name) for name in files}}
    facts |= {name: meta["step"] for name, meta in metas.items()}
    (draft / "facts.json").write_text(json.dumps(facts, indent=1))
    (draft / "meta.json").write_text(json.dumps(metas))
    draft.rename(Path(folder) / "frozen")


def newest_parts(folder: Path) -> tuple[AutoencoderKL, CLIPModel, CLIPTokenizer, dict[str, dict]]:
    """Return the autoencoder, CLIP and tokenizer of the newest checkpoints, and what the checkpoints say of them."""
    tokenizer = CLIPTokenizer.from_pretrained(Path(folder) / "tokenizer")
    vae, clip = new_autoencoder(), new_clip(tokenizer)
    metas = {name: load_averaged(model, folder, name) for name, model in (("autoencoder", vae), ("clip", clip))}
    return vae.eval(), clip.eval(), tokenizer, metas


def text_tower(clip: CLIPModel) -> CLIPTextModel:
    """Return CLIP's text tower as the text encoder of a Stable Diffusion folder."""
    tower = CLIPTextModel(clip.config.text_config)
    tower.load_state_dict(clip.text_model.state_dict())
    return tower.eval()


def frozen_parts(
    images: np.ndarray, folder: Path, device: str = "cpu"
) -> tuple[np.ndarray, CLIPTextModel, CLIPTokenizer, dict]:
    """Return latents float16 (n, 4, 8, 8), the text tower, the tokenizer and the facts that identify them."""
    frozen = Path(folder) / "frozen"
    if not frozen.exists():
        freeze(images, folder, device)
    facts = json.loads((frozen / "facts.json").read_text())
    for name, expected in facts["sha256"].items():
        if digest(frozen / name) != expected:
            raise ValueError(f"{frozen / name} was altered since it was frozen; delete {frozen} and retrain the U-Net")
    latents = np.load(frozen / "latents.npy")
    if len(latents) != len(images):
        raise ValueError(f"{frozen} holds latents of {len(latents)} pictures, the pool has {len(images)}: another pool")
    text = CLIPTextModel.from_pretrained(frozen / "text_encoder").to(device).eval()
    return latents, text, CLIPTokenizer.from_pretrained(frozen / "tokenizer"), facts
