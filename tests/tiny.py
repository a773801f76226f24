"""Builders of tiny random model folders in the layouts of the full-size models; nothing is downloaded.

Every network has the real class, the real layout on disk, and few weights. The language is bytes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiTTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
    SD3Transformer2DModel,
    UNet2DConditionModel,
)
from safetensors.torch import load_file, save_file
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

LENGTH = 24  # tokens of a prompt
BEGIN, END = "<|startoftext|>", "<|endoftext|>"
SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "steps_offset": 1,
    "set_alpha_to_one": False,
}


def tokenizer(folder: Path, pad: str = END) -> dict[str, int]:
    """Write a byte-level CLIP tokenizer as Stable Diffusion 1 and 2 have it; return its vocabulary."""
    letters = sorted(ByteLevel.alphabet())
    words = [*letters, *(letter + "</w>" for letter in letters), "p h", "ph o", BEGIN, END]
    vocab = {word.replace(" ", ""): i for i, word in enumerate(words)}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocab))
    (folder / "merges.txt").write_text("#version: 0.2\np h\nph o\n")
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": LENGTH, "do_lower_case": True}
    config |= {"bos_token": BEGIN, "eos_token": END, "unk_token": END, "pad_token": pad}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return vocab


def text_config(
    vocab: dict[str, int], width: int = 16, layers: int = 2, act: str = "quick_gelu"
) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(vocab),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        max_position_embeddings=LENGTH,
        projection_dim=width,
        hidden_act=act,
        bos_token_id=vocab[BEGIN],
        eos_token_id=vocab[END],
        pad_token_id=vocab[END],
    )


def autoencoder(channels: int = 4, **options) -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        latent_channels=channels,
        sample_size=16,
        **options,
    )


def unet(side: int = 8, **options) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=side,
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=16,
        norm_num_groups=4,
        **options,
    )


@contextmanager
def long_prompts() -> Iterator[None]:
    """Make what is built meanwhile take prompts of 64 tokens: those of the digits are longer than others'."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules[__name__], "LENGTH", 64)
        yield


def generator_and_clip(root: Path) -> tuple[str, str]:
    """Write a Stable Diffusion 1.x and a CLIP whose prompts may be long; return their folders."""
    with long_prompts():
        return str(stable_diffusion_1(root / "sd")), str(clip(root / "clip"))


def stable_diffusion_1(folder: Path, seed: int = 0, side: int = 8) -> Path:
    """Write a folder as Stable Diffusion 1.x has it: epsilon, latents 4 x side x side, images twice as wide."""
    torch.manual_seed(seed)
    vocab = tokenizer(folder / "tokenizer")
    CLIPTextModel(text_config(vocab)).save_pretrained(folder / "text_encoder")
    _name_as_on_the_hub(folder / "text_encoder" / "model.safetensors")
    autoencoder(scaling_factor=0.18215).save_pretrained(folder / "vae")
    unet(side, attention_head_dim=2).save_pretrained(folder / "unet")
    schedule = {key: SCHEDULE[key] for key in SCHEDULE if key != "clip_sample"}
    PNDMScheduler(skip_prk_steps=True, **schedule).save_pretrained(folder / "scheduler")
    return _index(
        folder,
        "StableDiffusionPipeline",
        safety_checker=[
            "stable_diffusion",
            "StableDiffusionSafetyChecker",
        ],  # named, as on the Hub, but not there
        feature_extractor=["transformers", "CLIPImageProcessor"],
        text_encoder=["transformers", "CLIPTextModel"],
        tokenizer=["transformers", "CLIPTokenizer"],
        vae=["diffusers", "AutoencoderKL"],
        unet=["diffusers", "UNet2DConditionModel"],
        scheduler=["diffusers", "PNDMScheduler"],
    )


def stable_diffusion_2(folder: Path, seed: int = 0) -> Path:
    """Write a folder as Stable Diffusion 2.x (768) has it: v-prediction, "!" as padding."""
    torch.manual_seed(seed)
    vocab = tokenizer(folder / "tokenizer", pad="!")
    CLIPTextModel(text_config(vocab, act="gelu")).save_pretrained(folder / "text_encoder")
    autoencoder(scaling_factor=0.2).save_pretrained(folder / "vae")
    unet(attention_head_dim=[2, 4], use_linear_projection=True).save_pretrained(folder / "unet")
    DDIMScheduler(prediction_type="v_prediction", **SCHEDULE).save_pretrained(folder / "scheduler")
    return _index(
        folder,
        "StableDiffusionPipeline",
        safety_checker=[None, None],
        feature_extractor=["transformers", "CLIPImageProcessor"],
        text_encoder=["transformers", "CLIPTextModel"],
        tokenizer=["transformers", "CLIPTokenizer"],
        vae=["diffusers", "AutoencoderKL"],
        unet=["diffusers", "UNet2DConditionModel"],
        scheduler=["diffusers", "DDIMScheduler"],
    )


def stable_diffusion_3(folder: Path, seed: int = 0, t5: bool = True) -> Path:
    """Write a folder as Stable Diffusion 3 has it: flow matching, three text encoders (T5 may be absent)."""
    torch.manual_seed(seed)
    for end in ("", "_2"):
        config = text_config(tokenizer(folder / f"tokenizer{end}"))
        CLIPTextModelWithProjection(config).save_pretrained(folder / f"text_encoder{end}")
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    vocab += [(chr(i), -3.0) for i in range(33, 127) if chr(i) != "▁"]
    if t5:
        T5Tokenizer(vocab=vocab, extra_ids=0, model_max_length=48).save_pretrained(folder / "tokenizer_3")
        config = T5Config(
            vocab_size=len(vocab),
            d_model=32,
            d_kv=8,
            d_ff=32,
            num_layers=1,
            num_heads=2,
            is_encoder_decoder=False,
        )
        T5EncoderModel(config).save_pretrained(folder / "text_encoder_3")
    autoencoder(8, scaling_factor=1.5305, shift_factor=0.0609).save_pretrained(folder / "vae")
    SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=8,
        out_channels=8,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=32,
        caption_projection_dim=16,
        pooled_projection_dim=32,
        pos_embed_max_size=8,
    ).save_pretrained(folder / "transformer")
    FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=3.0).save_pretrained(folder / "scheduler")
    return _index(
        folder,
        "StableDiffusion3Pipeline",
        text_encoder=["transformers", "CLIPTextModelWithProjection"],
        text_encoder_2=["transformers", "CLIPTextModelWithProjection"],
        text_encoder_3=["transformers", "T5EncoderModel"] if t5 else [None, None],
        tokenizer=["transformers", "CLIPTokenizer"],
        tokenizer_2=["transformers", "CLIPTokenizer"],
        tokenizer_3=["transformers", "T5TokenizerFast"] if t5 else [None, None],
        transformer=["diffusers", "SD3Transformer2DModel"],
        vae=["diffusers", "AutoencoderKL"],
        scheduler=["diffusers", "FlowMatchEulerDiscreteScheduler"],
    )


def dit(folder: Path, seed: int = 0, id2label: dict[int, str] | None = None, variance: bool = True) -> Path:
    """Write a folder as DiT-XL has it: class-conditional, linear schedule, a learned variance, no text."""
    torch.manual_seed(seed)
    id2label = {0: "cat, Felis catus", 1: "dog", 2: "bird"} if id2label is None else id2label
    autoencoder(scaling_factor=0.18215).save_pretrained(folder / "vae")
    DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8 if variance else 4,
        num_layers=2,
        sample_size=8,
        patch_size=2,
        norm_num_groups=4,
        num_embeds_ada_norm=len(id2label),
    ).save_pretrained(folder / "transformer")
    DDIMScheduler(clip_sample=False, set_alpha_to_one=False).save_pretrained(folder / "scheduler")
    return _index(
        folder,
        "DiTPipeline",
        id2label={str(i): label for i, label in id2label.items()},
        scheduler=["diffusers", "DDIMScheduler"],
        transformer=["diffusers", "DiTTransformer2DModel"],
        vae=["diffusers", "AutoencoderKL"],
    )


def clip(folder: Path, seed: int = 0, size: int = 16) -> Path:
    """Write a CLIPModel folder with its tokenizer and preprocessor_config.json, for images of size x size."""
    torch.manual_seed(seed)
    text = text_config(tokenizer(folder)).to_dict()
    vision = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": size,
        "patch_size": 4,
    }
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12))
    for parameter in model.parameters():  # CLIP starts with weights so small that all texts look alike
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": size},
        crop_size={"height": size, "width": size},
        image_mean=[0.5] * 3,
        image_std=[0.25] * 3,
    )
    config = processor.to_dict() | {
        "image_processor_type": "CLIPImageProcessor"
    }  # as the Hub's folders name it
    (folder / "preprocessor_config.json").write_text(json.dumps(config))
    return folder


def _name_as_on_the_hub(file: Path) -> None:
    """Stable Diffusion's text encoders were saved with a prefix that today's libraries leave out."""
    weights = {
        f"text_model.{name.removeprefix('text_model.')}": value for name, value in load_file(file).items()
    }
    save_file(weights, file, metadata={"format": "pt"})


def _index(folder: Path, pipeline: str, **parts: list | dict) -> Path:
    index = {"_class_name": pipeline, "_diffusers_version": "0.20.0", **parts}
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))
    return folder
