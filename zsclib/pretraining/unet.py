"""The pocket U-Net: noise prediction in latent space, conditioned on captions (Rombach et al. 2022)."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

from zsclib.hashing import hash_file
from zsclib.paths import atomic
from zsclib.pretraining.arrays import write_rows
from zsclib.pretraining.autoencoder import cached_latents, centre, new_autoencoder
from zsclib.pretraining.checkpoint import checkpoints
from zsclib.pretraining.clip import new_clip
from zsclib.pretraining.loop import begin_from, load_averaged, train
from zsclib.pretraining.plan import Plan, Training, batch_indices
from zsclib.pretraining.sizes import POCKET, Sizes
from zsclib.pretraining.tokenizer import different, token_ids
from zsclib.seeds import rng, torch_generator

PLAN = Plan("unet", samples=1_400_000, batch=128, rate=1e-3, milestones=True)
PHASE_2_PLAN = replace(PLAN, name="unet-second", samples=600_000)
UNET_PHASES = (PLAN.name, PHASE_2_PLAN.name)  # successive trainings
GAMMA = 5.0  # min-SNR
FROZEN = ("vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors")
CENTRED = 2**17  # images
EMPTY = 0.1  # share of captions replaced by the empty prompt, for guidance (Ho & Salimans 2022)


def new_unet(sizes: Sizes = POCKET) -> UNet2DConditionModel:
    """Return an untrained U-Net with cross-attention at every resolution; of those that ship, for 8×8×4 latents."""
    depth = len(sizes.unet_channels)
    return UNet2DConditionModel(
        sample_size=sizes.latent_side,
        in_channels=sizes.latent_channels,
        out_channels=sizes.latent_channels,
        block_out_channels=sizes.unet_channels,
        down_block_types=("CrossAttnDownBlock2D",) * depth,
        up_block_types=("CrossAttnUpBlock2D",) * depth,
        layers_per_block=1,
        attention_head_dim=sizes.heads,  # for this class, the number of heads
        norm_num_groups=16,
        cross_attention_dim=sizes.width,
    )


def new_scheduler() -> DDIMScheduler:
    """Return the noise schedule of Stable Diffusion 1.x."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        num_train_timesteps=1000,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="epsilon",
    )


def min_snr_weight(alphas_cumprod: Tensor, t: Tensor, gamma: float = GAMMA) -> Tensor:
    """Return min(SNR(t), γ) / SNR(t), the weight of a noise-prediction loss (Hang et al. 2023, eq. 8)."""
    snr = alphas_cumprod[t] / (1 - alphas_cumprod[t])
    return snr.clamp(max=gamma) / snr


def spread_timesteps(n: int, steps: int, generator: np.random.Generator) -> Tensor:
    """Return n timesteps, one in each n-th of [0, steps), shuffled (Kingma et al. 2021, appendix I.1)."""
    t = np.floor((generator.random() + np.arange(n) / n) % 1 * steps).astype(np.int64)
    return torch.from_numpy(generator.permutation(t))


def noise_prediction_loss(
    predict: Callable[[Tensor, Tensor], Tensor], z: Tensor, ᾱ: Tensor, plan: Plan, *keys: int | str
) -> Tensor:
    """Return the min-SNR weighted loss of predicting the noise in noisy latents (Ho et al. 2020, eq. 14).

    Args:
        predict: (z_t, t) → ε̂, float (n, 4, 8, 8).
        z: scaled latents, float (n, 4, 8, 8), on the network's device.
        ᾱ: the noise schedule's cumulative product, float (T,), on the same device.
        plan, keys: name the timesteps and the noise, together with the plan's seed.
    """
    t = spread_timesteps(len(z), len(ᾱ), rng(plan.seed, "timesteps", plan.name, *keys))    # (n,)
    ε = torch.randn(z.shape, generator=torch_generator(plan.seed, "noise", plan.name, *keys))
    t, ε = t.to(z.device), ε.to(z.device)
    a, s = ᾱ[t].sqrt()[:, None, None, None], (1 - ᾱ[t]).sqrt()[:, None, None, None]        # (n, 1, 1, 1)
    z_t = a * z + s * ε                                                                    # (n, 4, 8, 8)
    errors = ((predict(z_t, t) - ε) ** 2).mean((1, 2, 3))                                  # (n,)
    return (min_snr_weight(ᾱ, t) * errors).mean()


def train_unet(images: np.ndarray, captions: list[str], training: Training) -> list[dict]:
    """Train on the latents and captions of a pool; return the history (`loop.train`).

    The autoencoder and CLIP of the training's folder are frozen on the first call (see `freeze`).
    """
    plan, folder, device = training.plan, training.folder, training.device
    n = len(images) - training.held_out
    text, tokenizer, frozen = frozen_parts(images, folder, training.sizes, device)
    latents, facts = cached_latents(images, folder, device)                                # (n + held out, 4, 8, 8)
    states, row = encode_captions(text, tokenizer, ["", *captions], folder)                # (unique captions, 32, d)
    empty, row = row[0], row[1:]
    ᾱ = new_scheduler().alphas_cumprod.to(device)                                          # (T,)
    torch.manual_seed(plan.seed)  # initial weights only
    model = new_unet(training.sizes).to(device, memory_format=torch.channels_last)
    facts = training.facts | frozen | facts | begin_from(training.begin, model, folder)

    def loss_of(model: UNet2DConditionModel, z: np.ndarray, rows: np.ndarray, *keys: int | str) -> Tensor:
        """Return the loss of latents z (n, 4, 8, 8) under the captions of these rows (n,), at the noise of a step."""
        condition = torch.from_numpy(states[rows]).to(device).float()                      # (n, 32, d)

        def predict(z_t: Tensor, t: Tensor) -> Tensor:
            return model(z_t.to(memory_format=torch.channels_last), t, condition).sample

        return noise_prediction_loss(predict, torch.from_numpy(z).to(device).float(), ᾱ, plan, *keys)

    def loss(model: UNet2DConditionModel, step: int) -> Tensor:
        index = np.sort(batch_indices(plan, step, n))
        dropped = rng(plan.seed, "empty", plan.name, step).random(len(index)) < EMPTY
        return loss_of(model, latents[index], np.where(dropped, empty, row[index]), step)

    def validate(mean_model: UNet2DConditionModel) -> dict[str, float]:
        return {"held_out": loss_of(mean_model, latents[n:][:512], row[n:][:512], "validation").item()}

    return train(replace(training, facts=facts), model, loss, validate)


def encode_captions(
    text: CLIPTextModel, tokenizer: CLIPTokenizer, captions: list[str], folder: Path, batch: int = 512
) -> tuple[np.ndarray, np.ndarray]:
    """Return the text tower's states of every different caption, and which of these rows each caption has.

    Returns: the last hidden states, float16 (unique captions, 32, width), memory-mapped from a file in
        `folder` (8 KB per caption at width 128), and the rows, int64 (n,).
    """
    unique, row = different(captions)
    key = hashlib.sha256("\n".join(unique).encode())
    for _, weights in sorted(text.state_dict().items()):
        key.update(weights.cpu().numpy().tobytes())
    path = Path(folder) / f"text_states-{key.hexdigest()[:16]}.npy"
    if not path.exists():
        parts = (unique[start : start + batch] for start in range(0, len(unique), batch))
        ids = (token_ids(tokenizer, part).to(text.device) for part in parts)
        with torch.no_grad():
            states = (text(part).last_hidden_state.half().cpu().numpy() for part in ids)
            write_rows(path, states)
    return np.load(path, mmap_mode="r"), row


def freeze(images: np.ndarray, folder: Path, sizes: Sizes = POCKET, device: str = "cpu") -> None:
    """Fix the autoencoder and CLIP that a U-Net is trained on, from their newest checkpoints.

    Writes into `frozen/`: vae (latents centred, scaling factor set), clip, text_encoder, tokenizer, and
    facts.json, by which a later training knows that they are still the same.

    Args:
        images: uint8 (n, 32, 32, 3); on at most `CENTRED` of them, evenly spread, the latents are centred.

    Raises: ValueError when a U-Net was already trained on what is frozen.
    """
    if checkpoints(folder, "unet") or checkpoints(folder, "unet-second"):
        raise ValueError(
            f"{folder} holds a U-Net trained on other frozen parts: delete its checkpoints first"
        )
    vae, clip, tokenizer, metas = newest_parts(folder, sizes)
    centre(vae.to(device).eval(), images[:: 1 + len(images) // CENTRED])
    with atomic(Path(folder) / "frozen") as temporary:
        vae.cpu().save_pretrained(temporary / "vae")
        clip.save_pretrained(temporary / "clip")
        text_tower(clip).save_pretrained(temporary / "text_encoder")
        tokenizer_files = shutil.ignore_patterns("done")
        shutil.copytree(Path(folder) / "tokenizer", temporary / "tokenizer", ignore=tokenizer_files)
        write_facts(temporary, metas)


def write_facts(frozen: Path, metas: dict[str, dict]) -> None:
    """Write which parts were frozen, and the metas of the trainings they came from."""
    facts = {"sha256": {name: hash_file(frozen / name) for name in FROZEN}}
    facts |= {name: metas[name]["step"] for name in ("autoencoder", "clip")}
    (frozen / "facts.json").write_text(json.dumps(facts, indent=1))
    (frozen / "meta.json").write_text(json.dumps(metas))


def newest_parts(
    folder: Path, sizes: Sizes = POCKET
) -> tuple[AutoencoderKL, CLIPModel, CLIPTokenizer, dict[str, dict]]:
    """Return the autoencoder, CLIP and tokenizer of the newest checkpoints, and the checkpoints' metas."""
    tokenizer = CLIPTokenizer.from_pretrained(Path(folder) / "tokenizer")
    vae, clip = new_autoencoder(sizes), new_clip(tokenizer, sizes)
    metas = {
        "autoencoder": load_averaged(vae, folder, "autoencoder"),
        "clip": load_averaged(clip, folder, "clip"),
    }
    return vae.eval(), clip.eval(), tokenizer, metas


def text_tower(clip: CLIPModel) -> CLIPTextModel:
    """Return CLIP's text tower as the text encoder of a Stable Diffusion folder."""
    tower = CLIPTextModel(clip.config.text_config)
    tower.load_state_dict(clip.text_model.state_dict())
    return tower.eval()


def frozen_parts(
    images: np.ndarray, folder: Path, sizes: Sizes = POCKET, device: str = "cpu"
) -> tuple[CLIPTextModel, CLIPTokenizer, dict]:
    """Return the text tower, the tokenizer and the facts that identify what is frozen, freezing it first if need be."""
    frozen = Path(folder) / "frozen"
    if not frozen.exists():
        freeze(images, folder, sizes, device)
    facts = json.loads((frozen / "facts.json").read_text())
    for name, expected in facts["sha256"].items():
        if hash_file(frozen / name) != expected:
            raise ValueError(f"{frozen / name} is not what was frozen; delete {frozen} and retrain the U-Net")
    text = CLIPTextModel.from_pretrained(frozen / "text_encoder").to(device).eval()
    return text, CLIPTokenizer.from_pretrained(frozen / "tokenizer"), facts
