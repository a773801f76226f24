"""Train the judge on pictures of the pool, crisp and decoded, and their ground truth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional as F

from zsclib.pocket.judge import NOTHING, PLACES, QUESTIONS, SIDES, new_judge, read, split_answers
from zsclib.pretraining.autoencoder import reconstructed, shifted, to_tensor
from zsclib.pretraining.loop import Plan, batch_indices, train
from zsclib.seeds import rng

PLAN = Plan("judge", samples=2_000_000, batch=64, rate=2e-3, weight_decay=0.05)
DECODED = 32_768  # pictures that the judge also learns from as decoded ones
UNASKED = -1


def answers_of(scenes: pd.DataFrame) -> dict[str, np.ndarray]:
    """Return the true answer to every question, as int64 (n,) indices; `UNASKED` where a picture shows none.

    Args:
        scenes: ground truth, the rows of `Scene.row`.
    """
    found = {}
    single, pair = (scenes.kind != "pair").to_numpy(), (scenes.kind == "pair").to_numpy()
    thing = (scenes.kind == "thing").to_numpy()
    # a pencil sketch shows no colour, and wood has its own
    coloured = thing & (scenes["style"] != "sketch").to_numpy() & (scenes.material != "wooden").to_numpy()
    symbol = np.where(thing, scenes.noun, scenes.symbol)
    found["what"] = _indices(symbol, "what", single)
    found["colour"] = _indices(scenes.colour, "colour", coloured)
    found["style"] = _indices(scenes["style"], "style", thing | pair)
    related = pair & (scenes.relation != "").to_numpy()
    for place in PLACES:
        first = np.array([place == SIDES.get(relation, ("", ""))[0] for relation in scenes.relation])
        second = np.array([place == SIDES.get(relation, ("", ""))[1] for relation in scenes.relation])
        nouns = np.where(first, scenes.noun, np.where(second, scenes.noun2, NOTHING))
        colours = np.where(first, scenes.colour, np.where(second, scenes.colour2, NOTHING))
        found[place] = _indices(nouns, place, related)
        shown = related & (scenes["style"] != "sketch").to_numpy()
        found[f"{place} colour"] = _indices(colours, f"{place} colour", shown)
    return found


def _indices(values: Sequence[str], question: str, asked: np.ndarray) -> np.ndarray:
    where = {answer: i for i, answer in enumerate(QUESTIONS[question])}
    pairs = zip(values, asked, strict=True)
    return np.array([where[value] if mine else UNASKED for value, mine in pairs], np.int64)


def with_decoded(
    images: np.ndarray, scenes: pd.DataFrame, vae: AutoencoderKL, n: int = DECODED
) -> tuple[np.ndarray, pd.DataFrame]:
    """Put the first n pictures, as the autoencoder gives them back, before all pictures uint8 (m, 32, 32, 3).

    What the judge will read was decoded from latents; a judge of crisp pictures only misreads such pictures.

    Returns: m + n pictures and their ground truth.
    """
    images = np.concatenate([reconstructed(vae, images[:n]), images])
    return images, pd.concat([scenes[:n], scenes], ignore_index=True)


def train_judge(
    images: np.ndarray,
    scenes: pd.DataFrame,
    folder: Path,
    held_out: int,
    plan: Plan = PLAN,
    facts: dict | None = None,
    device: str = "cpu",
) -> list[dict]:
    """Train on pictures uint8 (n, 32, 32, 3) and their ground truth but the last `held_out`; return the history."""
    truth = {question: torch.from_numpy(found) for question, found in answers_of(scenes).items()}
    n = len(images) - held_out
    torch.manual_seed(plan.seed)  # initial weights only
    model = new_judge().to(device, memory_format=torch.channels_last)

    def loss(model: nn.Module, step: int) -> Tensor:
        picked = np.sort(batch_indices(plan, step, n))
        draws = rng(plan.seed, "augment", plan.name, step)
        x = to_tensor(shifted(images[picked], draws, most=2)).to(device, memory_format=torch.channels_last)
        logits = split_answers(model(pixel_values=x).logits)
        total = sum(
            F.cross_entropy(logits[question], own[picked].to(device), ignore_index=UNASKED, reduction="sum")
            for question, own in truth.items()
        )
        return total / len(picked)

    def validate(mean_model: nn.Module) -> dict[str, float]:
        found = read(mean_model, images[n:])
        right = {q: found[q] == own[n:].numpy() for q, own in truth.items()}
        return {q: float(right[q][truth[q][n:].numpy() != UNASKED].mean()) for q in truth}

    return train(plan, model, loss, folder, facts, validate)
