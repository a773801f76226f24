"""The attribute classifier: a small network that reads from an image what it shows, and so measures a generator.

It was trained on rendered images and on their ground truth (`pocket.train_attributes`), never on generated ones, and
reads no prompt. The models page introduces it as "the judge", and its folder is `pocket-judge`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import ResNetConfig, ResNetForImageClassification

from zsclib.checks import check_images
from zsclib.images.tensors import to_tensor
from zsclib.world.scenes import COLOURS, DIGITS, LANDS, LETTERS, STYLES
from zsclib.world.shapes import THINGS

NOTHING = "nothing"
PLACES = ("left", "right", "top", "bottom")
SIDES = {
    "left of": ("left", "right"), "right of": ("right", "left"),
    "above": ("top", "bottom"), "below": ("bottom", "top"),
}  # where the first thing named stands, and the second  # fmt: skip
ATTRIBUTES = {
    "what": (*THINGS, *DIGITS, *LETTERS, *LANDS),
    "colour": tuple(COLOURS),
    "style": STYLES,
    **dict.fromkeys(PLACES, (*THINGS, NOTHING)),  # which thing of two stands there
    **dict.fromkeys((f"{place} colour" for place in PLACES), (*COLOURS, NOTHING)),
}  # attribute → its possible values


def new_classifier(widths: Sequence[int] = (32, 64, 160), depths: Sequence[int] = (1, 1, 1)) -> nn.Module:
    """Return an untrained classifier of 32×32 images: one output per possible value of each of `ATTRIBUTES`."""
    labels = [f"{attribute}: {value}" for attribute, values in ATTRIBUTES.items() for value in values]
    config = ResNetConfig(
        embedding_size=32, hidden_sizes=list(widths), depths=list(depths), layer_type="basic",
        id2label=dict(enumerate(labels)),
    )  # fmt: skip
    return _without_pooling(ResNetForImageClassification(config))


def open_classifier(folder: Path | str) -> nn.Module:
    """Open an attribute classifier from its folder.

    Raises: FileNotFoundError when there is none.
    """
    if not (Path(folder) / "config.json").exists():
        raise FileNotFoundError(f"{folder}: there is no attribute classifier here")
    return _without_pooling(ResNetForImageClassification.from_pretrained(folder)).eval()


def _without_pooling(model: ResNetForImageClassification) -> ResNetForImageClassification:
    # a ResNet's stem shrinks 4×, which leaves too little of 32 pixels
    model.resnet.embedder.pooler = nn.Identity()
    return model


def split_logits(logits: Tensor) -> dict[str, Tensor]:
    """Return the part of the logits (n, all values) that belongs to each attribute."""
    parts = logits.split([len(values) for values in ATTRIBUTES.values()], dim=1)
    return dict(zip(ATTRIBUTES, parts, strict=True))


@torch.inference_mode()
def read(model: nn.Module, images: np.ndarray, batch: int = 512) -> dict[str, np.ndarray]:
    """Return the attributes of images uint8 (n, 32, 32, 3): attribute → int64 (n,) indices of its values.

    Raises: ValueError for images of another dtype or shape.
    """
    check_images(images, "read")
    device, parts = next(model.parameters()).device, []
    for start in range(0, len(images), batch):
        x = to_tensor(images[start : start + batch]).to(device)                   # (b, 3, 32, 32)
        logits = split_logits(model.eval()(pixel_values=x).logits)                # attribute → (b, values)
        parts.append({attribute: part.argmax(1).cpu().numpy() for attribute, part in logits.items()})
    return {attribute: np.concatenate([part[attribute] for part in parts]) for attribute in ATTRIBUTES}
