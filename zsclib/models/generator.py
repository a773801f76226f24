"""Open a Stable-Diffusion-like folder and put the two questions to it that this study needs: what is the latent of
an image, and which noise does the model see in a noisy latent, given a prompt.

Epsilon-, v- and flow-predicting models (Stable Diffusion 1, 2 and 3), and models conditioned on a class instead of a
text (DiT), answer through the same methods. What may differ between models (image and latent size, noise schedule,
scale and shift of the latents, kind of prediction) is read from their configuration files.

    generator = open_generator("data/models/pocket-sd")
    z = generator.encode_images(images)                     # (n, 4, 8, 8)
    condition = generator.encode_prompts(["a photo of a star"] * len(z))
    (a, s), ε = generator.signal_and_noise(500), torch.randn_like(z)
    ε_hat = generator.predict_noise(a * z + s * ε, 500, condition)   # (n, 4, 8, 8)
"""

from __future__ import annotations

import contextlib
import copyreg
import functools
import hashlib
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from torch import Tensor

from zsclib.checks import check_images, check_prompts
from zsclib.images.tensors import to_images, to_tensor
from zsclib.models import fast_unet
from zsclib.models.conditioning import Condition
from zsclib.models.encoding import encode
from zsclib.models.folders import find_folder, open_part, read_index
from zsclib.models.noise_schedule import NoiseSchedule
from zsclib.models.weights import WeightState, weight_bytes
from zsclib.paths import ROOT

PIXELS_AT_ONCE = 2**22  # in the autoencoder: 4,096 images of 32 x 32, 16 of 512 x 512


class Generator:
    """A diffusion model that generates what a text or a class name says; made by `open_generator`.

    Attributes:
        unet: the network that predicts (Stable Diffusion 3, DiT: their transformer), frozen and in eval mode,
            as are vae, text_encoder and any further encoder in parts; tokenizer, scheduler as the model names
            them. Class-conditional models (DiT) have neither text_encoder nor tokenizer, but id2label.
        latent_shape: (c, h, w) of one latent. image_size: side H = W of the images, in pixels.
        T: number of timesteps; t counts them from 0 (least noise) to T - 1.
        prediction: "epsilon", "v" or "flow".
        alphas_cumprod: the schedule's cumulative product, float32 (T,); None for flow models.
        history: of a tuned generator, how its loss fell, a DataFrame (`zsclib.models.finetune`).
    """

    def __init__(
        self,
        parts: dict[str, Any],
        pipeline_class: type,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        image_size: int | None = None,
    ):
        self.parts, self.pipeline_class = parts, pipeline_class
        self.device, self.dtype = torch.device(device), dtype
        self.unet = parts["unet"] if "unet" in parts else parts["transformer"]
        self.vae, self.scheduler = parts["vae"], parts["scheduler"]
        self.text_encoder, self.tokenizer = parts.get("text_encoder"), parts.get("tokenizer")
        self.id2label: dict[int, str] | None = parts.get("id2label")
        for part in parts.values():
            if isinstance(part, torch.nn.Module):
                part.eval().requires_grad_(False).to(self.device)

        factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        sides = set(np.atleast_1d(self.unet.config.sample_size).tolist())
        if len(sides) > 1:
            raise ValueError(f"only models of square images are supported, got sample_size {sorted(sides)}")
        self.image_size = image_size or sides.pop() * factor
        if self.image_size % factor:
            raise ValueError(f"image_size must be a multiple of {factor} for it, got {self.image_size}")
        channels, side = self.vae.config.latent_channels, self.image_size // factor
        self.latent_shape = (channels, side, side)
        if self.unet.config.in_channels != channels:
            raise ValueError(
                f"the network reads {self.unet.config.in_channels} channels but a latent has {channels}: "
                "inpainting and depth models are not supported"
            )
        classes = self.unet.config.get("num_embeds_ada_norm")
        if self.id2label and max(self.id2label) >= classes:
            raise ValueError(f"the model has labels up to {max(self.id2label)}, but {classes} classes")
        # Beside its noise, DiT may predict a variance, which nothing here reads.
        if self.unet.config.out_channels not in (None, channels, 2 * channels):
            raise ValueError(f"the network predicts {self.unet.config.out_channels} channels of {channels}")
        self.schedule = NoiseSchedule(self.scheduler, self.device)
        self.prediction, self.T = self.schedule.prediction, self.schedule.T
        self.alphas_cumprod = self.schedule.alphas_cumprod
        self.history: Any = None
        self._made: tuple | None = None  # function and arguments that make it again, and the state of its weights then

    def __reduce__(self) -> tuple:
        """Travel to another process as what makes it again there (a folder to open), unless a weight has changed."""
        if self._made is not None and self._made[2] == self.state():
            return self._made[:2]
        return copyreg.__newobj__, (type(self),), {**self.__dict__, "_made": None}

    def made_by(self, function: Callable[..., Generator], *arguments: Any) -> Generator:
        """Return this generator, which from now on travels as the function and arguments that make it again."""
        self._made = function, arguments, self.state()
        return self

    def state(self) -> WeightState:
        """Return which weights there are now, to be compared with those of another moment."""
        return WeightState(self._modules())

    def _modules(self) -> list[torch.nn.Module]:
        parts = [part for part in self.parts.values() if isinstance(part, torch.nn.Module)]
        others = (self.unet, self.vae, self.text_encoder)  # one may have been put in a part's place
        return parts + [other for other in others if other is not None and all(other is not p for p in parts)]

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Condition:
        """Encode prompts as the model's own pipeline does, without the empty prompt that guidance adds.

        Args:
            prompts: n texts, or names of learnt conditionings (`zsclib.models.personalised`). For a class-conditional
                model n names of its classes, or "" for none of them.

        Returns:
            A `Condition` of n rows on the generator's device.

        Raises:
            ValueError: no prompts, a prompt that is no text, or two different prompts that become one because
                the tokenizer cuts them at its longest length, a class the model does not know, or a learnt
                conditioning's name within a longer prompt.
        """
        prompts = check_prompts(prompts)
        return Condition(*encode(self, prompts), source=(self, prompts, self.state()))

    @torch.no_grad()
    def encode_images(self, images: np.ndarray) -> Tensor:
        """Return the latents of images: the mean of the posterior, shifted and scaled as the model wants it.

        Args:
            images: uint8 (n, H, W, 3) with H = W = image_size.

        Returns:
            float32 (n, c, h, w) on the generator's device.

        Raises:
            ValueError: another dtype, shape or image size.
        """
        side, (shift, scale) = self.image_size, self._shift_and_scale()
        check_images(images, "encode_images")
        if images.shape[1:3] != (side, side):
            raise ValueError(
                f"encode_images: this model reads images of {side} x {side} pixels, got {images.shape[1]} x "
                f"{images.shape[2]}; resize them first (datasets.load has size=)"
            )
        chunk, latents = max(1, PIXELS_AT_ONCE // side**2), []
        for start in range(0, len(images), chunk):
            x = to_tensor(images[start : start + chunk]).to(self.device)
            latents.append((self.vae.encode(x).latent_dist.mean - shift) * scale)
        return torch.cat(latents) if latents else torch.empty(0, *self.latent_shape, device=self.device)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> np.ndarray:
        """Return the images of latents: float (n, c, h, w) -> uint8 (n, H, W, 3); ValueError on NaN."""
        if not torch.isfinite(latents).all():
            raise ValueError("decode: the latents hold NaN or infinity")
        side, (shift, scale) = self.image_size, self._shift_and_scale()
        chunk, images = max(1, PIXELS_AT_ONCE // side**2), [np.empty((0, side, side, 3), np.uint8)]
        for start in range(0, len(latents), chunk):
            z = latents[start : start + chunk].to(self.device, torch.float32) / scale + shift
            images.append(to_images(self.vae.decode(z).sample))
        return np.concatenate(images)

    def signal_and_noise(self, t: Tensor | int) -> tuple[Tensor, Tensor]:
        """Return a, s of z_t = a z + s ε, float32 (n, 1, 1, 1), for timesteps t (int64 (n,), or one integer).

        a = √ᾱ_t, s = √(1 − ᾱ_t) (Ho et al. 2020, eq. 4); for flow models a = 1 − σ, s = σ with σ = (t + 1) / T
        (Esser et al. 2024, section 2).
        """
        return self.schedule.signal_and_noise(self._timesteps(t))

    def predict_noise(
        self, z_t: Tensor, t: Tensor | int, condition: Condition, copies: Tensor | None = None
    ) -> Tensor:
        """Return the noise ε̂ the model sees in z_t: one conditional evaluation, no guidance, whatever it predicts.

        No gradient is tracked unless the caller made some parameter or input require one.

        Args:
            z_t: noisy latents (n, c, h, w).
            t: timesteps, int64 (n,), or one integer for all.
            condition: m = n encoded prompts, or with copies any number m.
            copies: int64 (m,), the row of z_t and t that each prompt meets, where prompts share them.

        Returns:
            float32 (m, c, h, w).

        Raises:
            ValueError: counts of latents, timesteps and prompts differ, a timestep is outside 0..T-1, or the
                network returned NaN or infinity (the timesteps are named).
        """
        t = self._timesteps(t).expand(len(z_t))
        meetings = len(z_t) if copies is None else len(copies)
        if len(condition) != meetings:
            raise ValueError(f"predict_noise: {meetings} latents but {len(condition)} prompts")
        if copies is not None:
            copies = copies.to(z_t.device)
        output = self._network(z_t, self.schedule.network_input(t), condition, copies)
        if copies is not None:
            z_t, t = z_t[copies], t[copies]
        ε_hat = self.schedule.noise_from(output, z_t, t)
        if not torch.isfinite(ε_hat).all():
            bad = ~torch.isfinite(ε_hat).flatten(1).all(1)
            raise ValueError(
                f"the network returned NaN or infinity at t = {sorted(set(t[bad].tolist()))}; float16 "
                "overflows in some models: try float32 or bfloat16"
            )
        return ε_hat

    def predict(self, z_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Return what the network itself predicts, ε, v or a velocity, float32 (n, c, h, w): differentiable.

        Arguments are those of `predict_noise`, one prompt a latent.
        """
        return self._network(z_t, self.schedule.network_input(self._timesteps(t)), condition, None)

    def _network(self, z_t: Tensor, t: Tensor, condition: Condition, copies: Tensor | None) -> Tensor:
        """Run the network, float32 out: the one place for precision, memory layout and shortcuts."""
        weights, c = next(self.unet.parameters()).dtype, z_t.shape[1]
        half_on_cpu = self.device.type == "cpu" and self.dtype != torch.float32
        with torch.autocast("cpu", self.dtype) if half_on_cpu else contextlib.nullcontext():
            if not torch.is_grad_enabled() and fast_unet.fits(self.unet):
                return fast_unet.forward(self.unet, z_t.to(weights), t, condition, copies).float()
            if copies is not None:
                z_t, t = z_t[copies], t[copies]
            if condition.class_ids is not None:
                inputs = {"class_labels": condition.class_ids}
            else:
                inputs = {"encoder_hidden_states": condition.embeddings.to(weights)}
            if condition.pooled is not None:
                inputs["pooled_projections"] = condition.pooled.to(weights)
            output = self.unet(z_t.to(weights), timestep=t, return_dict=False, **inputs)[0]
        return output[:, :c].float()  # without a learned variance

    def pipeline(self) -> diffusers.DiffusionPipeline:
        """Return the diffusers pipeline over these very sub-models, without a safety checker.

        With half precision off the CPU, sample with output_type="latent" and use `decode`, which is float32.
        """
        wanted = inspect.signature(self.pipeline_class.__init__).parameters
        options = {name: self.parts.get(name) for name in wanted if name != "self"}
        options |= {"requires_safety_checker": False} if "requires_safety_checker" in wanted else {}
        pipeline = self.pipeline_class(**options)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def fingerprint(self) -> str:
        """Return a hash of what decides an answer, as it is in memory: weights, schedule, precision."""
        facts = (self.prediction, self.T, str(self.dtype), self.image_size, self._shift_and_scale())
        digest = hashlib.blake2b(repr(facts).encode(), digest_size=16)
        digest.update(self.schedule.signal.cpu().numpy())
        digest.update(b"" if self.id2label is None else repr(sorted(self.id2label.items())).encode())
        for part in weight_bytes(self._modules()):
            digest.update(part)
        return digest.hexdigest()

    def _timesteps(self, t: Tensor | int) -> Tensor:
        t = torch.as_tensor(t)
        if t.is_floating_point() or (t.device.type == "cpu" and bool(((t < 0) | (t >= self.T)).any())):
            raise ValueError(f"t must be integers from 0 to {self.T - 1}, got {t.flatten()[:8].tolist()}")
        return t.to(self.device, torch.int64).reshape(-1)

    def _shift_and_scale(self) -> tuple[float, float]:
        return self.vae.config.get("shift_factor") or 0.0, self.vae.config.scaling_factor


def open_generator(
    path: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    allow_network: bool = False,
    image_size: int | None = None,
) -> Generator:
    """Open a Stable-Diffusion-like or class-conditional model from its folder.

    Args:
        path: folder that holds model_index.json, or a Hub id (in the local cache, unless allow_network).
        device: where to compute.
        dtype: precision of the network. bfloat16 on a CPU runs it under autocast with float32 weights;
            elsewhere weights are cast. The autoencoder and every result stay float32.
        allow_network: whether a Hub id may be downloaded.
        image_size: side of the images in pixels, if not the size the model was made for.

    Raises:
        FileNotFoundError: the folder, one of its parts or a part's safetensors file is missing (named).
        ValueError: the model is of a kind not supported, or a part's weights do not fill its network.
    """
    folder = find_folder(path, "model_index.json", allow_network)
    pipeline_class, named, id2label = read_index(folder)
    parts: dict[str, Any] = {} if id2label is None else {"id2label": id2label}
    for name, (library, kind) in named.items():
        # On a CPU, autocast keeps float32 weights. The autoencoder, cheap but touchy, always does.
        whole = name == "vae" or torch.device(device).type == "cpu"
        parts[name] = open_part(folder / name, library, kind, torch.float32 if whole else dtype)
    if "unet" in parts and parts["unet"].config.get("addition_embed_type") is not None:
        raise ValueError(f"{folder}: its U-Net wants more than a prompt (Stable Diffusion XL): not supported")
    generator = Generator(parts, pipeline_class, device, dtype, image_size)
    if Path(path).is_dir() or (ROOT / path).is_dir():
        path = str(folder.resolve())
    return generator.made_by(_open_once, str(path), str(device), dtype, allow_network, image_size)


_opened = functools.lru_cache(maxsize=4)(open_generator)


def _open_once(*options: Any) -> Generator:
    """Open a generator in a worker, where many jobs need the same one; not one that a job has changed since."""
    generator = _opened(*options)
    if generator._made[2] != generator.state():
        _opened.cache_clear()
        generator = _opened(*options)
    return generator
