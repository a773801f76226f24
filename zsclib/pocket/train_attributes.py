"""Train the attribute classifier on images of the pool, crisp and decoded, and their ground truth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional as F

from zsclib.images.tensors import to_tensor
from zsclib.pocket.attributes import ATTRIBUTES, NOTHING, PLACES, SIDES, new_classifier, read, split_logits
from zsclib.pretraining.autoencoder import reconstructed, shifted
from zsclib.pretraining.loop import train
from zsclib.pretraining.plan import Plan, Training, batch_indices
from zsclib.seeds import rng

PLAN = Plan("judge", samples=2_000_000, batch=64, rate=2e-3, weight_decay=0.05)
DECODED = 32_768  # images that are also shown as the autoencoder decodes them
ABSENT = -1


def true_attributes(scenes: pd.DataFrame) -> dict[str, np.ndarray]:
    """Return the true value of every attribute, as int64 (n,) indices; `ABSENT` where an image shows none.

    Args:
        scenes: ground truth, the rows of `Scene.row`.
    """
    single, pair = (scenes.kind != "pair").to_numpy(), (scenes.kind == "pair").to_numpy()
    thing = (scenes.kind == "thing").to_numpy()
    # a pencil sketch shows no colour, and wood has its own
    coloured = thing & (scenes["style"] != "sketch").to_numpy() & (scenes.material != "wooden").to_numpy()
    symbol = np.where(thing, scenes.noun, scenes.symbol)
    truth = {
        "what": _indices(symbol, "what", single),
        "colour": _indices(scenes.colour, "colour", coloured),
        "style": _indices(scenes["style"], "style", thing | pair),
    }
    related = pair & (scenes.relation != "").to_numpy()
    for place in PLACES:
        first = np.array([place == SIDES.get(relation, ("", ""))[0] for relation in scenes.relation])
        second = np.array([place == SIDES.get(relation, ("", ""))[1] for relation in scenes.relation])
        nouns = np.where(first, scenes.noun, np.where(second, scenes.noun2, NOTHING))
        colours = np.where(first, scenes.colour, np.where(second, scenes.colour2, NOTHING))
        truth[place] = _indices(nouns, place, related)
        in_colour = related & (scenes["style"] != "sketch").to_numpy()
        truth[f"{place} colour"] = _indices(colours, f"{place} colour", in_colour)
    return truth


def _indices(values: Sequence[str], attribute: str, present: np.ndarray) -> np.ndarray:
    where = {value: i for i, value in enumerate(ATTRIBUTES[attribute])}
    pairs = zip(values, present, strict=True)
    return np.array([where[value] if shown else ABSENT for value, shown in pairs], np.int64)


def with_decoded(
    images: np.ndarray, scenes: pd.DataFrame, vae: AutoencoderKL, n: int = DECODED
) -> tuple[np.ndarray, pd.DataFrame]:
    """Put the first n images, as the autoencoder gives them back, before all images uint8 (m, 32, 32, 3).

    Generated images are decoded from latents; a classifier that learned from crisp images alone misreads them.

    Returns: m + n images and their ground truth.
    """
    images = np.concatenate([reconstructed(vae, images[:n]), images])
    return images, pd.concat([scenes[:n], scenes], ignore_index=True)


def train_classifier(images: np.ndarray, scenes: pd.DataFrame, training: Training) -> list[dict]:
    """Train on images uint8 (n, 32, 32, 3) and their ground truth; return the history (`loop.train`)."""
    plan, device, n = training.plan, training.device, len(images) - training.held_out
    truth = {attribute: torch.from_numpy(values) for attribute, values in true_attributes(scenes).items()}
    torch.manual_seed(plan.seed)  # initial weights only
    model = new_classifier().to(device, memory_format=torch.channels_last)

    def loss(model: nn.Module, step: int) -> Tensor:
        index = np.sort(batch_indices(plan, step, n))
        batch = shifted(images[index], rng(plan.seed, "augment", plan.name, step), most=2)
        x = to_tensor(batch).to(device, memory_format=torch.channels_last)        # (b, 3, 32, 32)
        logits = split_logits(model(pixel_values=x).logits)                       # attribute → (b, values)
        total = sum(
            F.cross_entropy(logits[a], values[index].to(device), ignore_index=ABSENT, reduction="sum")
            for a, values in truth.items()
        )
        return total / len(index)

    def validate(mean_model: nn.Module) -> dict[str, float]:
        predicted = read(mean_model, images[n:])
        shares = {}
        for attribute, values in truth.items():
            values = values[n:].numpy()
            present = values != ABSENT
            shares[attribute] = float((predicted[attribute][present] == values[present]).mean())
        return shares

    return train(training, model, loss, validate)
