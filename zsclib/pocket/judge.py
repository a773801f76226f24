"""The judge: a small network that reads from a picture what was asked for, and so measures a generator.

It was trained on pictures the renderer drew and on their ground truth (`models/pretrain/judge.py`), never on generated
ones, and knows no prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import ResNetConfig, ResNetForImageClassification

from zsclib.checks import check_images
from zsclib.world.scenes import COLOURS, DIGITS, LANDS, LETTERS, STYLES
from zsclib.world.shapes import THINGS

NOTHING = "nothing"
PLACES = ("left", "right", "top", "bottom")
SIDES = {
    "left of": ("left", "right"), "right of": ("right", "left"),
    "above": ("top", "bottom"), "below": ("bottom", "top"),
}  # where the first thing named stands, and the second  # fmt: skip
QUESTIONS = {
    "what": (*THINGS, *DIGITS, *LETTERS, *LANDS),
    "colour": tuple(COLOURS),
    "style": STYLES,
    **dict.fromkeys(PLACES, (*THINGS, NOTHING)),  # which thing of two stands there
    **dict.fromkeys((f"{place} colour" for place in PLACES), (*COLOURS, NOTHING)),
}


def new_judge(widths: Sequence[int] = (32, 64, 160), depths: Sequence[int] = (1, 1, 1)) -> nn.Module:
    """Return an untrained judge for 32×32 pictures: one output per possible answer to each of `QUESTIONS`."""
    labels = [f"{question}: {answer}" for question, answers in QUESTIONS.items() for answer in answers]
    config = ResNetConfig(
        embedding_size=32, hidden_sizes=list(widths), depths=list(depths), layer_type="basic",
        id2label=dict(enumerate(labels)),
    )  # fmt: skip
    return _without_pooling(ResNetForImageClassification(config))


def open_judge(folder: Path | str) -> nn.Module:
    """Open a judge from its folder.

    Raises: FileNotFoundError when there is none.
    """
    if not (Path(folder) / "config.json").exists():
        raise FileNotFoundError(f"{folder}: there is no judge here")
    return _without_pooling(ResNetForImageClassification.from_pretrained(folder)).eval()


def _without_pooling(model: ResNetForImageClassification) -> ResNetForImageClassification:
    # a ResNet's stem shrinks 4×, which leaves too little of 32 pixels
    model.resnet.embedder.pooler = nn.Identity()
    return model


def to_tensor(images: np.ndarray) -> Tensor:
    """Return uint8 (n, h, w, 3) as float32 (n, 3, h, w) in [−1, 1]."""
    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def split_answers(logits: Tensor) -> dict[str, Tensor]:
    """Return the part of the logits (n, all answers) that belongs to each question."""
    parts = logits.split([len(answers) for answers in QUESTIONS.values()], dim=1)
    return dict(zip(QUESTIONS, parts, strict=True))


@torch.inference_mode()
def read(model: nn.Module, images: np.ndarray, batch: int = 512) -> dict[str, np.ndarray]:
    """Return what the judge sees in pictures uint8 (n, 32, 32, 3): int64 (n,) indices of answers, by question.

    Raises: ValueError for images of another dtype or shape.
    """
    check_images(images, "judge")
    device, found = next(model.parameters()).device, []
    for start in range(0, len(images), batch):
        x = to_tensor(images[start : start + batch]).to(device)
        logits = split_answers(model.eval()(pixel_values=x).logits)
        found.append({question: part.argmax(1).cpu().numpy() for question, part in logits.items()})
    return {question: np.concatenate([part[question] for part in found]) for question in QUESTIONS}
