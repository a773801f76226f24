"""Labelled images become a classifier: one recipe for every network and every source of images.

    network = new_network("resnet50", labelled.classes)
    trained = train(network, labelled, Recipe(steps=4), seed=0, validation=held_out)
    trained.scores(images)                                  # (n, C)
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from zsclib.checks import check_images
from zsclib.images.image_set import ImageSet
from zsclib.recipe import (
    Recipe,
    augment,
    batch_indices,
    cutmix,
    learning_rate_at,
    mixed_indices,
    standardise,
    strengthen,
)
from zsclib.seeds import own_randomness


@dataclass(frozen=True, eq=False, kw_only=True)
class Augmentation:
    """What a network learns from beside its images as the recipe moves them; the number of steps stays the same.

    Attributes:
        extra: labelled images of the same classes and size, or None.
        share: of each batch, that is extra images (see `zsclib.recipe.mixed_indices`).
        operations: of RandAugment on every image.
        cutmix: share of the steps in which images get a box of another one, and that share of its label.
    """

    extra: ImageSet | None = None
    share: float = 0.0
    operations: int = 0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        if not (0 <= self.share <= 1 and 0 <= self.cutmix <= 1 and self.operations >= 0):
            raise ValueError(
                "Augmentation: share and cutmix must be in [0, 1] and operations at least 0, got "
                f"{self.share}, {self.cutmix} and {self.operations}"
            )
        if (self.share > 0) != (self.extra is not None and len(self.extra) > 0):
            raise ValueError(
                f"Augmentation: extra images and a share of them belong together, got {self.extra} and {self.share}"
            )


PLAIN = Augmentation()


@dataclass(frozen=True, eq=False, kw_only=True)
class TrainedNetwork:
    """A classifier: what `train` and `fit` return.

    Attributes:
        network: in eval mode, with the weights of one checkpoint.
        recipe, seed: what it was trained with.
        history: a row per checkpoint: step, loss (mean since the last row), and the accuracy on `validation` and
            on every watched set.
        checkpoint: the row of `history` whose weights these are: the best on validation (the later of equals), or,
            without validation, the last.
        watched: name → scores at every checkpoint, float32 (checkpoints, n, classes).
    """

    network: nn.Module
    recipe: Recipe
    seed: int
    history: pd.DataFrame
    checkpoint: int
    watched: dict[str, np.ndarray] = field(default_factory=dict)

    def scores(self, inputs: np.ndarray, batch: int = 64, batch_statistics: bool = False) -> np.ndarray:
        """Return logits, float32 (n, classes).

        Args:
            inputs: uint8 images (n, H, W, 3), or such features as `fit` took.
            batch: inputs at once; it changes no score beyond rounding, unless `batch_statistics`.
            batch_statistics: score as code does that never calls eval(): BatchNorm normalises with the statistics of
                each test batch, dropout and stochastic depth are active. For measuring that fault only: scores
                then depend on the batch and on the order of the images.
        """
        if not batch_statistics:
            return _in_batches(self.network, self.network, inputs, batch)
        buffers = {name: buffer.clone() for name, buffer in self.network.named_buffers()}
        try:
            with own_randomness(_device(self.network), self.seed, "dropout at test"):
                return _in_batches(self.network.train(), self.network, inputs, batch)
        finally:
            self.network.eval()
            for name, buffer in self.network.named_buffers():
                buffer.copy_(buffers[name])

    def features(self, inputs: np.ndarray, batch: int = 64) -> np.ndarray:
        """Return what the network's last, linear layer sees: float32 (n, d)."""
        return _in_batches(self.network, self.network.features, inputs, batch)


def train(
    network: nn.Module,
    images: ImageSet,
    recipe: Recipe,
    seed: int,
    validation: ImageSet | None = None,
    watch: Mapping[str, ImageSet] | None = None,
    device: str | torch.device = "cpu",
    augmentation: Augmentation = PLAIN,
) -> TrainedNetwork:
    """Train a copy of a network on labelled images.

    Args:
        network: from `new_network`, for the classes of `images`; not changed.
        images: the training set, every image labelled.
        recipe: the settings.
        seed: of batches and augmentation; that of the initial weights is `new_network`'s.
        validation: held-out images from the *same source as `images`* that choose the checkpoint; without them the
            last is taken.
        watch: sets, such as the test set, that are scored at every checkpoint and choose nothing: from one training
            an audit reads what choosing on them would give.
        device: where to compute, in float32.
        augmentation: extra images that fill a share of every batch, and strong classical augmentation.

    Raises:
        ValueError: no images, an image without a label, or classes or sizes that do not fit the network.
        FloatingPointError: the loss is not finite.
    """
    watch = dict(watch or {})
    if taken := {"images", "extra", "validation", "step", "loss"} & watch.keys():
        raise ValueError(f"train: a watched set cannot be called {taken.pop()!r}")
    held_out = watch if validation is None else {"validation": validation, **watch}
    extra = {} if augmentation.extra is None else {"extra": augmentation.extra}
    for name, one in {"images": images, **extra, **held_out}.items():
        if len(one) == 0:
            raise ValueError(f"train: {name} holds no image")
        if one.classes != tuple(network.classes):
            raise ValueError(f"train: {name} has the classes {one.classes}, the network {network.classes}")
        if one.images.shape[1:3] != (network.size, network.size):
            raise ValueError(
                f"train: {name} has images of {one.images.shape[1:3]} pixels, the network takes {network.size}; "
                "bring them to one size with zsclib.images.files.resize"
            )
    pairs = {name: (one.images, one.labels) for name, one in held_out.items()}
    chooses = pairs.pop("validation", None)
    return _fit(network, images.images, images.labels, recipe, seed, chooses, pairs, device, augmentation)


def fit(
    network: nn.Module,
    inputs: np.ndarray,
    labels: np.ndarray,
    recipe: Recipe,
    seed: int,
    validation: tuple[np.ndarray, np.ndarray] | None = None,
    watch: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None,
    device: str | torch.device = "cpu",
) -> TrainedNetwork:
    """Train a copy of any network on arrays; `train` is this on image sets.

    Args:
        network: a module from tensors to logits (n, classes).
        inputs: uint8 images (n, H, W, 3), augmented and standardised; or float32 features (n, ...), taken as they are.
        labels: integers (n,), 0 to classes - 1.
        recipe, seed, device: as for `train`.
        validation, watch: pairs of inputs and labels; an input labelled -1 counts in no accuracy.
    """
    return _fit(network, inputs, labels, recipe, seed, validation, watch, device, PLAIN)


def _fit(
    network: nn.Module,
    inputs: np.ndarray,
    labels: np.ndarray,
    recipe: Recipe,
    seed: int,
    validation: tuple[np.ndarray, np.ndarray] | None,
    watch: Mapping[str, tuple[np.ndarray, np.ndarray]] | None,
    device: str | torch.device,
    augmentation: Augmentation,
) -> TrainedNetwork:
    inputs, labels = np.asarray(inputs), np.asarray(labels)
    if len(inputs) == 0 or labels.shape != (len(inputs),) or labels.dtype.kind not in "iu":
        raise ValueError(
            f"fit: {len(inputs)} inputs need as many integer labels, got {labels.dtype} {labels.shape}"
        )
    if labels.min() < 0:
        raise ValueError(f"fit: {(labels < 0).sum()} of {len(labels)} inputs have no label (-1)")
    own = len(inputs)
    if augmentation.extra is not None:
        if (extra := augmentation.extra.labels).min() < 0:
            raise ValueError(f"fit: {(extra < 0).sum()} of {len(extra)} extra images have no label (-1)")
        inputs = np.concatenate([inputs, augmentation.extra.images])
        labels = np.concatenate([labels, extra])
    if validation is not None and not (np.asarray(validation[1]) >= 0).any():
        raise ValueError("fit: validation has no label, so it can choose no checkpoint; watch it instead")
    device = torch.device(device)
    network = copy.deepcopy(network).to(device, memory_format=torch.channels_last).train()
    parameters = [p for p in network.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate, fused=True)
    judged = {**({} if validation is None else {"validation": validation}), **(watch or {})}
    due = {round(recipe.steps * (k + 1) / recipe.checkpoints) for k in range(recipe.checkpoints)}
    rows, scores, losses, best, weights = [], {name: [] for name in judged}, [], 0, None

    for step in range(recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(step, recipe)
        if augmentation.extra is None:
            index = batch_indices(seed, step, recipe.batch, own)
        else:
            index = mixed_indices(seed, step, recipe.batch, (own, len(inputs) - own), augmentation.share)
        x, y, others, λ = _batch(inputs[index], labels[index], recipe, augmentation, (seed, step))
        with own_randomness(device, seed, "dropout", step):
            logits = network(_tensor(x, device)).float()
        loss = nn.functional.cross_entropy(logits, y.to(device), label_smoothing=recipe.label_smoothing)
        if λ < 1:
            pasted = nn.functional.cross_entropy(
                logits, y[others].to(device), label_smoothing=recipe.label_smoothing
            )
            loss = λ * loss + (1 - λ) * pasted
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, recipe.max_gradient_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.detach())
        if step + 1 not in due:
            continue
        row = {"step": step + 1, "loss": float(torch.stack(losses).mean())}
        if not math.isfinite(row["loss"]):
            raise FloatingPointError(
                f"fit: the loss is {row['loss']} by step {step + 1}; lower the learning rate"
            )
        network.eval()
        for name, (held_out, truth) in judged.items():
            scores[name].append(_in_batches(network, network, held_out, 64))
            row[name] = accuracy(scores[name][-1], truth)
        network.train()
        rows.append(row)
        losses = []
        if weights is None or validation is None or row["validation"] >= rows[best]["validation"]:
            best, weights = len(rows) - 1, copy.deepcopy(network.state_dict())

    network.load_state_dict(weights)
    watched = {name: np.stack(each) for name, each in scores.items()}
    return TrainedNetwork(
        network=network.eval(), recipe=recipe, seed=seed, history=pd.DataFrame(rows), checkpoint=best, watched=watched
    )


def accuracy(scores: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of labelled inputs whose highest score (n, classes) is their label's; NaN without any."""
    labelled = np.asarray(labels) >= 0
    return float(np.mean(scores.argmax(1)[labelled] == np.asarray(labels)[labelled])) if labelled.any() else math.nan


def _batch(
    inputs: np.ndarray, labels: np.ndarray, recipe: Recipe, augmentation: Augmentation, when: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor | None, float]:
    """Return a batch as the network is to see it, its labels, whose box each image has, and what is left of its own."""
    x, y = torch.from_numpy(inputs), torch.from_numpy(labels.astype(np.int64))
    if x.dtype != torch.uint8:
        return x, y, None, 1.0
    x = augment(x, recipe, *when)
    if augmentation.operations:
        x = strengthen(x, augmentation.operations, *when)
    if not augmentation.cutmix:
        return x, y, None, 1.0
    x, others, λ = cutmix(x, augmentation.cutmix, *when)
    return x, y, others, λ


def _tensor(chunk: Tensor, device: torch.device) -> Tensor:
    chunk = chunk.to(device)
    return standardise(chunk) if chunk.dtype == torch.uint8 else chunk.float()


@torch.no_grad()
def _in_batches(
    network: nn.Module, function: Callable[[Tensor], Tensor], inputs: np.ndarray, batch: int
) -> np.ndarray:
    if inputs.dtype == np.uint8:
        check_images(inputs, "scores")
    parts = []
    for start in range(0, max(len(inputs), 1), batch):
        part = torch.from_numpy(np.array(inputs[start : start + batch]))  # copied: it may be a memory map
        parts.append(function(_tensor(part, _device(network))).float().cpu())
    return torch.cat(parts).numpy()


def _device(network: nn.Module) -> torch.device:
    return next(network.parameters()).device
