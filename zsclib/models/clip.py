"""Open a CLIP folder, embed images and texts with it, and classify zero-shot (Radford et al. 2021).

    clip = open_clip("data/models/pocket-clip").zero_shot(["star", "car"], ["a photo of a {}."])
    clip.scores(images)                                     # (n, 2)
    clip.encode_images(images)                              # (n, 128), unit length
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize
from transformers import AutoImageProcessor, CLIPModel

from zsclib.checks import check_images, check_prompts
from zsclib.models.folders import check_told_apart, check_truncation, find_folder, open_part, quietly
from zsclib.prompts import fill

AT_ONCE = 256  # images or texts in one pass


class Clip:
    """A CLIP model; made by `open_clip`. `zero_shot` gives one that classifies.

    Attributes:
        model, tokenizer, processor: the opened parts; the model is frozen and in eval mode.
        classes: what `zero_shot` was given.
        class_embeddings: float32 (classes, d), unit length; None before `zero_shot`.
    """

    def __init__(self, model: CLIPModel, tokenizer: Any, processor: Any, device: str | torch.device = "cpu"):
        self.model = model.eval().requires_grad_(False).to(device)
        self.tokenizer, self.processor, self.device = tokenizer, processor, torch.device(device)
        self.classes: tuple[str, ...] = ()
        self.class_embeddings: Tensor | None = None

    @property
    def image_size(self) -> int:
        """The side, in pixels, of the images that its tower reads."""
        return self.model.config.vision_config.image_size

    @torch.no_grad()
    def encode_images(self, images: np.ndarray) -> Tensor:
        """Return unit-length embeddings of images, prepared (size, crop, mean, deviation) as the folder says.

        Args:
            images: uint8 (n, H, W, 3) of any size.

        Returns:
            float32 (n, d) on the model's device.
        """
        check_images(images, "encode_images")
        rows = [torch.empty(0, self.model.config.projection_dim, device=self.device)]
        for start in range(0, len(images), AT_ONCE):
            rows.append(self.image_features(self.prepare(images[start : start + AT_ONCE])))
        return torch.cat(rows)

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Return unit-length embeddings of m texts, float32 (m, d).

        Raises:
            ValueError: no texts, one that is none, or two different ones cut to the same tokens.
        """
        texts, rows = check_prompts(texts), []
        check_truncation([self.tokenizer], texts)
        for start in range(0, len(texts), AT_ONCE):
            rows.append(self.text_features(self.tokens(texts[start : start + AT_ONCE], "max_length")))
        return torch.cat(rows)

    def prepare(self, images: np.ndarray) -> Tensor:
        """Return images uint8 (n, H, W, 3) as the model reads them: float32 (n, 3, s, s) on its device."""
        x = self.processor(list(images), input_data_format="channels_last", return_tensors="pt").pixel_values
        return x.to(self.device, torch.float32)

    def image_features(self, x: Tensor) -> Tensor:
        """Return unit-length embeddings, float32 (n, d), of prepared images (n, 3, s, s); gradients flow."""
        return normalize(self.model.get_image_features(pixel_values=x).pooler_output.float(), dim=-1)

    def tokens(self, texts: Sequence[str], padding: str = "longest") -> Mapping[str, Tensor]:
        """Return what the text tower reads of m texts: `input_ids` and `attention_mask`, int64 (m, L)."""
        rows = self.tokenizer(list(texts), padding=padding, truncation=True, return_tensors="pt").to(self.device)
        return {name: rows[name] for name in ("input_ids", "attention_mask")}

    def text_features(self, tokens: Mapping[str, Tensor]) -> Tensor:
        """Return unit-length embeddings, float32 (m, d), of tokens; gradients flow."""
        return normalize(self.model.get_text_features(**tokens).pooler_output.float(), dim=-1)

    def zero_shot(self, classes: Sequence[str], templates: Sequence[str] = ("a photo of a {}.",)) -> Clip:
        """Return a classifier for the named classes, over the same model.

        A class is the mean of its unit-length prompt embeddings, brought to unit length again (Radford et al.
        2021, section 3.1.4: ensembling over prompts in embedding space).

        Args:
            classes: class names in label order, all different.
            templates: one or more sentences with {} for the name.

        Raises:
            ValueError: no templates, or two classes whose prompts are the same tokens.
        """
        if isinstance(templates, str) or not templates:
            raise ValueError(f"templates must be a list of one or more sentences, got {templates!r}")
        check_told_apart([self.tokenizer], fill(templates[0], classes), classes)
        prompts = [prompt for template in templates for prompt in fill(template, classes)]
        embedded = self.encode_texts(prompts).view(len(templates), len(classes), -1)
        classifier = copy.copy(self)
        classifier.class_embeddings = normalize(embedded.mean(0), dim=-1)
        classifier.classes = tuple(classes)
        return classifier

    def scores(self, images: np.ndarray) -> np.ndarray:
        """Return CLIP's logits, temperature times cosine of image and class: float32 (n, classes)."""
        if self.class_embeddings is None:
            raise ValueError("Clip.scores: no classes yet; use what zero_shot(classes, templates) returns")
        return self.logits(self.encode_images(images), self.class_embeddings).cpu().numpy()

    def logits(self, images: Tensor, texts: Tensor) -> Tensor:
        """Return temperature times the cosines of embeddings (n, d) and (m, d): float32 (n, m)."""
        return self.model.logit_scale.exp() * images @ texts.T


def open_clip(path: str | Path, device: str | torch.device = "cpu", allow_network: bool = False) -> Clip:
    """Open a CLIPModel folder (config.json, safetensors, tokenizer, preprocessor_config.json).

    Args:
        path: the folder, or a Hub id (in the local cache, unless allow_network).
        device: where to compute, in float32.
        allow_network: whether a Hub id may be downloaded.

    Raises:
        FileNotFoundError: the folder, its weights, tokenizer or preprocessing is missing.
        ValueError: weights do not fill the model.
    """
    folder = find_folder(path, "config.json", allow_network)
    model = open_part(folder, "transformers", "CLIPModel")
    tokenizer = open_part(folder, "transformers", "AutoTokenizer")
    try:
        with quietly():
            processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True, backend="pil")
    except (OSError, ValueError) as error:
        raise FileNotFoundError(f"{folder} does not say how images are prepared: {error}") from error
    return Clip(model, tokenizer, processor, device)
