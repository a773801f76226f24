"""CLIP tuned by low-rank adapters (Hu et al. 2022) on real and synthetic images: DataDream's classifier.

There is no head: the logits are exp(logit scale) · cosine(image, prompt of the class), as zero-shot, and the tuning
begins there.

    short = ClipRecipe(steps=2, batch=4, checks=1)
    tuned = tune_clip(clip, prompts, real=labelled, recipe=short)
    tuned.scores(images)                                    # (n, C)
    tuned.history.to_numpy()                                # (2, 2): step and loss, at the steps 0 and 2
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from peft import LoraConfig
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from zsclib.checks import check_prompts, is_integer
from zsclib.images.image_set import ImageSet
from zsclib.images.strong_augmentation import strong_augmentation, weak_augmentation
from zsclib.models.clip import Clip
from zsclib.models.folders import check_told_apart, check_truncation
from zsclib.models.personalised import sharing_copy
from zsclib.recipe import Recipe, cutmix, learning_rate_at, mixed_indices
from zsclib.seeds import own_randomness, rng, seed_of, torch_generator

TARGETS = ("q_proj", "v_proj")  # of every attention of both towers


@dataclass(frozen=True, kw_only=True)
class ClipRecipe:
    """How CLIP is tuned: DataDream's recipe (Kim et al. 2024, code), one for all arms of a comparison.

    Attributes:
        rank, alpha, dropout: of the adapters; each adds alpha / rank · B A x, a share of x dropped.
        steps: of the optimiser, equal for all arms; the authors count epochs, 10 to 60.
        batch: images a step, half of them real and half synthetic where there are both.
        learning_rate: of AdamW (Loshchilov & Hutter 2019) at its peak; it rises linearly, then falls as a cosine to 0.
            1e-4 is the authors' for ViT-B/16, 3e-3 is for the pocket CLIP, weakly augmented (by
            validation images of `gadgets-hard`).
        warm_up: share of the steps in which it rises; the authors' is 0.1 to 0.3.
        weight_decay: of AdamW, on all that is tuned.
        real_weight: λ of the loss λ · CE(real) + (1 − λ) · CE(synthetic).
        mix: share of the steps with CutMix (Yun et al. 2019) or MixUp (Zhang et al. 2018), within each source.
        flip, hue, crop: of `strong_augmentation`; False, False and 1 are off, for sets whose classes they change.
        strong: whether images are augmented as there, or cropped and mirrored alone (`weak_augmentation`).
        checks: how often, evenly spaced and at the end, held-out sets are judged.
        checkpoint: the check whose adapters count, 0 being CLIP as it was; None: the best on validation, or the last.
    """

    rank: int = 16
    alpha: float = 32
    dropout: float = 0.1
    steps: int = 120
    batch: int = 64
    learning_rate: float = 3e-3
    warm_up: float = 0.1
    weight_decay: float = 1e-4
    real_weight: float = 0.8
    mix: float = 0.2
    flip: bool = True
    hue: bool = True
    crop: float = 0.25
    strong: bool = True
    checks: int = 6
    checkpoint: int | None = None

    def __post_init__(self) -> None:
        for name in ("rank", "steps", "batch", "checks"):
            if not is_integer(getattr(self, name), 1):
                raise ValueError(f"ClipRecipe: {name} must be an integer of at least 1, got {getattr(self, name)!r}")
        for name, allowed, ok in (
            ("alpha", "above 0", self.alpha > 0),
            ("dropout", "in [0, 1)", 0 <= self.dropout < 1),
            ("learning_rate", "above 0", 0 < self.learning_rate < math.inf),
            ("warm_up", "in [0, 1)", 0 <= self.warm_up < 1),
            ("weight_decay", "at least 0", 0 <= self.weight_decay < math.inf),
            ("real_weight", "in [0, 1]", 0 <= self.real_weight <= 1),
            ("mix", "in [0, 1]", 0 <= self.mix <= 1),
            ("crop", "in (0, 1]", 0 < self.crop <= 1),
            ("checks", f"at most the number of steps, {self.steps}", self.checks <= self.steps),
            ("checkpoint", f"None or 0 to {self.checks}", self.checkpoint in (None, *range(self.checks + 1))),
        ):
            if not ok:
                raise ValueError(f"ClipRecipe: {name} must be {allowed}, got {getattr(self, name)!r}")


@dataclass(frozen=True, eq=False, kw_only=True)
class TunedClip:
    """A classifier: what `tune_clip` returns.

    Attributes:
        classifier: a zero-shot CLIP with the adapters of one checkpoint; its other weights are those it was tuned from.
        recipe, seed: what it was tuned with.
        history: a row per check, the first before any step: step, loss (mean since the last row), and the accuracy on
            `validation` and on every watched set.
        checkpoint: the row of `history` whose adapters these are: as asked for, or else, after the first, the best on
            validation (the later of equals), or, without validation, the last.
        watched: name → scores at every check, float32 (checks, n, classes), validation among them.
    """

    classifier: Clip
    recipe: ClipRecipe
    seed: int
    history: pd.DataFrame
    checkpoint: int
    watched: dict[str, np.ndarray] = field(default_factory=dict)

    def scores(self, images: np.ndarray) -> np.ndarray:
        """Return logits, float32 (n, classes), of images uint8 (n, H, W, 3) of any size."""
        return self.classifier.scores(images)


@torch.inference_mode(False)  # tensors made under it could not be tuned
@torch.enable_grad()
def tune_clip(
    clip: Clip,
    prompts: Sequence[str],
    *,
    real: ImageSet | None = None,
    synthetic: ImageSet | None = None,
    recipe: ClipRecipe = ClipRecipe(),  # noqa: B008
    seed: int = 0,
    validation: ImageSet | None = None,
    watch: Mapping[str, ImageSet] | None = None,
) -> TunedClip:
    """Tune a copy of CLIP on labelled images of one source or two, minimising λ · CE(real) + (1 − λ) · CE(synthetic).

    Of two sources every batch has half of each, whatever their sizes, each in a new order every epoch of its own. What
    happens to an image follows from (seed, source, step, place in the batch): one source changes nothing of another's.

    Args:
        clip: the model to begin from; not changed.
        prompts: one per class, in label order; encoded with gradient at every step, and once for every check.
        real, synthetic: the images to learn from; None for an arm of the other source alone, whose loss is its CE.
        recipe: how.
        seed: of adapters, order, augmentation, mixing and dropout.
        validation: held-out images that choose the checkpoint.
        watch: sets, such as the test set, that are scored at every check and choose nothing: an audit reads there what
            choosing on them would give.

    Raises:
        ValueError: no source, an empty one whose weight is above 0, sets of other classes or with unlabelled images.
        FloatingPointError: the loss is not finite.
    """
    judged = {**({} if validation is None else {"validation": validation}), **(watch or {})}
    sources = _sources(real, synthetic, recipe)
    classes = next(iter(sources.values())).images.classes
    sets = {name: source.images for name, source in sources.items()} | judged
    prompts = _checked(clip, prompts, classes, sets, watch or {})

    tuned, tokens = copy.copy(clip), clip.tokens(prompts)
    tuned.model, layers = add_adapters(clip.model, recipe, seed)
    tuned.classes = classes
    schedule = Recipe(steps=recipe.steps, learning_rate=recipe.learning_rate, warmup=recipe.warm_up)
    optimizer = torch.optim.AdamW(layers.values(), weight_decay=recipe.weight_decay)
    due = {round(recipe.steps * (k + 1) / recipe.checks) for k in range(recipe.checks)}
    rows, scores, losses, state = [], {name: [] for name in judged}, [], {}

    def check(step: int) -> None:
        rows.append({"step": step, "loss": float(torch.stack(losses).mean()) if losses else math.nan})
        losses.clear()
        tuned.model.eval()
        tuned.class_embeddings = tuned.encode_texts(prompts)                               # (C, d)
        for name, one in judged.items():
            scores[name].append(tuned.scores(one.images))                                  # (n, C)
            rows[-1][name] = float((scores[name][-1].argmax(1) == one.labels).mean())
        if counts(len(rows) - 1):  # of this row the adapters are kept
            state["row"] = len(rows) - 1
            state["layers"] = {name: value.detach().clone() for name, value in layers.items()}

    def counts(row: int) -> bool:
        if recipe.checkpoint is not None:
            return row == recipe.checkpoint
        if row == 0 or not state or validation is None:
            return row > 0
        return rows[row]["validation"] >= rows[state["row"]]["validation"]

    check(0)
    for step in range(recipe.steps):
        tuned.model.train()
        optimizer.param_groups[0]["lr"] = learning_rate_at(step, schedule)
        loss = _loss(tuned, tokens, sources, recipe, (seed, step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
        if step + 1 in due:
            check(step + 1)
            if not math.isfinite(rows[-1]["loss"]):
                raise FloatingPointError(
                    f"tune_clip: the loss is {rows[-1]['loss']} by step {step + 1}; lower the learning rate "
                    f"({recipe.learning_rate})"
                )

    with torch.no_grad():
        for name, value in layers.items():
            value.copy_(state["layers"][name])
    tuned.model.eval().requires_grad_(False)
    tuned.class_embeddings = tuned.encode_texts(prompts)
    return TunedClip(
        classifier=tuned, recipe=recipe, seed=seed, history=pd.DataFrame(rows), checkpoint=state["row"],
        watched={name: np.stack(each) for name, each in scores.items()},
    )  # fmt: skip


def add_adapters(model: nn.Module, recipe: ClipRecipe, seed: int = 0) -> tuple[nn.Module, dict[str, nn.Parameter]]:
    """Return a copy of a CLIP model that shares its weights, with adapters on q and v, and their weights by name.

    A (rank, d_in) is uniform within ± 1/√d_in, B (d_out, rank) zero, so that the copy begins as the original.
    """
    adapted = sharing_copy(model)
    shape = {"r": recipe.rank, "lora_alpha": recipe.alpha, "lora_dropout": recipe.dropout}
    with torch.random.fork_rng(devices=[]):  # what peft makes at random is replaced below
        adapted.add_adapter(LoraConfig(**shape, target_modules=list(TARGETS)))
    layers = {name: weight for name, weight in adapted.named_parameters() if ".lora_" in name}
    with torch.no_grad():
        for name, weight in layers.items():
            bound = 1 / math.sqrt(weight.shape[1]) if "lora_A" in name else 0.0
            uniform = torch.rand(weight.shape, generator=torch_generator(seed, "adapter", name))
            weight.copy_((2 * uniform - 1) * bound)
    return adapted, layers


class _Source(NamedTuple):
    """Images to learn from, and the weight of their loss."""

    images: ImageSet
    weight: float


def _sources(real: ImageSet | None, synthetic: ImageSet | None, recipe: ClipRecipe) -> dict[str, _Source]:
    """Return the sources that there are, by name."""
    pair = {"real": (real, recipe.real_weight), "synthetic": (synthetic, 1 - recipe.real_weight)}
    sources = {name: _Source(*one) for name, one in pair.items() if one[0] is not None}
    if len(sources) == 1:
        sources = {name: source._replace(weight=1.0) for name, source in sources.items()}
    for name, source in sources.items():
        if len(source.images) == 0 and source.weight > 0:
            raise ValueError(
                f"tune_clip: the {name} images are an empty set whose loss has the weight {source.weight:g}; "
                f"for an arm without them say {name}=None"
            )
    sources = {name: source for name, source in sources.items() if len(source.images)}
    if not sources:
        raise ValueError("tune_clip: there must be real or synthetic images, or both")
    if len(sources) == 2 and recipe.batch < 2:
        raise ValueError("tune_clip: a batch of real and synthetic images has at least 2")
    return sources


def _checked(
    clip: Clip, prompts: Sequence[str], classes: tuple[str, ...], sets: Mapping[str, ImageSet], watch: Mapping
) -> list[str]:
    """Return the prompts as a list; ValueError unless they and all sets fit the classes."""
    if taken := {"real", "synthetic", "validation", "step", "loss"} & watch.keys():
        raise ValueError(f"tune_clip: a watched set cannot be called {taken.pop()!r}")
    prompts = check_prompts(prompts)
    check_truncation([clip.tokenizer], prompts)
    if len(prompts) != len(classes):
        raise ValueError(f"tune_clip: {len(classes)} classes need as many prompts, got {len(prompts)}")
    check_told_apart([clip.tokenizer], prompts, classes)
    for name, one in sets.items():
        if one.classes != classes:
            raise ValueError(f"tune_clip: {name} has the classes {one.classes}, others {classes}")
        if len(one) == 0 or one.labels.min() < 0:
            raise ValueError(
                f"tune_clip: {name} must hold images, each with a label; it has {len(one)}, "
                f"{(one.labels < 0).sum()} of them without"
            )
    return prompts


def _loss(
    clip: Clip, tokens: Mapping[str, Tensor], sources: Mapping[str, _Source], recipe: ClipRecipe, when: tuple[int, int]
) -> Tensor:
    """Return λ · CE(real) + (1 − λ) · CE(synthetic) of a step's batch, each with its own random numbers."""
    (seed, step), loss = when, torch.zeros((), device=clip.device)
    with own_randomness(clip.device, seed, "dropout", "texts", step):
        texts = clip.text_features(tokens)                                                 # (C, d)
    for name, index in _batch(sources, recipe, when).items():                              # (b,)
        images, weight = sources[name]
        if weight == 0:
            continue
        x = _augmented(clip, images.images[index], recipe, name, when)                     # (b, 3, s, s)
        y = torch.from_numpy(images.labels[index]).to(clip.device)                         # (b,)
        x, others, share = _mixed(x, recipe, name, when)                                   # (b, 3, s, s), (b,)
        with own_randomness(clip.device, seed, "dropout", name, step):
            logits = clip.logits(clip.image_features(x), texts)                            # (b, C)
        loss = loss + weight * (share * cross_entropy(logits, y) + (1 - share) * cross_entropy(logits, y[others]))
    return loss


def _batch(sources: Mapping[str, _Source], recipe: ClipRecipe, when: tuple[int, int]) -> dict[str, np.ndarray]:
    """Return the rows of each source, int64 (b,), that a step learns from."""
    sizes = tuple(len(sources[name].images) if name in sources else 0 for name in ("real", "synthetic"))
    share = 0.5 if len(sources) == 2 else float("synthetic" in sources)
    index = mixed_indices(*when, recipe.batch, sizes, share)
    parts = {"real": index[index < sizes[0]], "synthetic": index[index >= sizes[0]] - sizes[0]}
    return {name: parts[name] for name in sources}


def _augmented(
    clip: Clip, images: np.ndarray, recipe: ClipRecipe, source: str, when: tuple[int, int]
) -> Tensor:
    """Return images as the model reads them, each augmented by a stream of its own: float32 (b, 3, s, s)."""
    side, (seed, step) = clip.image_size, when
    streams = [rng(seed, "strong augmentation", source, step, i) for i in range(len(images))]
    change, options = weak_augmentation, (recipe.crop, recipe.flip)
    if recipe.strong:
        change, options = strong_augmentation, (*options, recipe.hue)
    changed = [change(image, side, stream, *options) for image, stream in zip(images, streams, strict=True)]
    return clip.prepare(np.stack(changed))


def _mixed(x: Tensor, recipe: ClipRecipe, source: str, when: tuple[int, int]) -> tuple[Tensor, Tensor, float]:
    """Return a batch (b, 3, s, s) after CutMix or MixUp, if the step has one.

    Returns:
        The images; int64 (b,), of which other one each has a part; the share that each has of its own.
    """
    seed, step = when
    if rng(seed, "mix", step).random() >= recipe.mix:
        return x, torch.arange(len(x)), 1.0
    random = rng(seed, "mix", source, step)
    if random.random() < 0.5:
        x, others, share = cutmix(x.permute(0, 2, 3, 1), 1.0, seed_of(seed, "cutmix", source), step)
        return x.permute(0, 3, 1, 2), others, share
    share, others = random.random(), torch.from_numpy(random.permutation(len(x)))
    return share * x + (1 - share) * x[others], others, share
