"""Ways to tune a generator to a few labelled images: a new word, a conditioning, several of them, a whole network.

Each returns a copy of the generator that shares all that did not change, is asked by prompts that may hold learnt
names, and generates through `zsclib.sampling` like any other; its `history` says how the loss fell. Classes are tuned
as jobs, each by the one loop of `zsclib.models.denoising`. `zsclib.models.lora` has adapters.

    short = Tuning(samples=8, batch=4, learning_rate=1e-3)
    tuned = textual_inversion(generator, labelled, ["cat", "dog"], short)
    tuned.encode_prompts(["a drawing of a <cat>"]).embeddings     # (1, 24, 16)
    tuned = learn_conditioning(generator, labelled, prompts, short)
    tuned.encode_prompts(["<cat>", "<dog>", ""]).embeddings       # (3, 24, 16)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from scipy.cluster.vq import ClusterError, kmeans2

from zsclib.checks import check_prompts, is_integer
from zsclib.images.image_set import ImageSet
from zsclib.models.denoising import Latents, Tuning, finetune
from zsclib.models.generator import Generator
from zsclib.models.personalised import (
    check_single_text_encoder,
    check_text_model,
    learnt_name,
    learnt_names,
    with_conditionings,
    with_learnt_word,
    with_network,
    with_tokens,
)
from zsclib.models.tuning_jobs import histories, job_conditioning, job_network, job_token, run_tuning
from zsclib.prompts import fill
from zsclib.seeds import rng, seed_of
from zsclib.workers import Execution

__all__ = [
    "Latents",
    "Tuning",
    "cluster_conditioning",
    "clusters",
    "finetune",
    "learn_conditioning",
    "textual_inversion",
    "tune_unet",
]

# Gal et al. (2022) tuned a latent diffusion model of their own; for Stable Diffusion, ours, after diffusers' example:
# a learning rate of 5e-4 times the batch, 3,000 steps.
TEXTUAL_INVERSION = Tuning(samples=12_000, batch=4, learning_rate=2e-3)
# Burg et al. (2023) say nothing that we could read of how they learn it: ours, 1,000 steps of Adam.
CONDITIONING = Tuning(samples=8_000, batch=8, learning_rate=1e-3)
# Ours, for a class of 16 images: DataDream's budget (2024, 200 rounds) and schedule, at a tenth of its learning rate.
NETWORK = Tuning(
    samples=3_200, batch=8, learning_rate=1e-5, warm_up=800, decay="cosine", weight_decay=1e-2, check_every=400
)
TEMPLATES = ("a photo of a {}",)  # Gal et al. (2022) take 27 such neutral ones
SMALLEST_CLUSTER = 5  # images; ours
RESTARTS, ITERATIONS = 10, 100  # of k-means


def textual_inversion(
    generator: Generator,
    images: ImageSet,
    words: Sequence[str] | None = None,
    tuning: Tuning = TEXTUAL_INVERSION,
    *,
    templates: Sequence[str] = TEMPLATES,
    held_out: ImageSet | None = None,
    execution: Execution = Execution(),
) -> Generator:
    """Learn one new token per class; its embedding is all that changes (Gal et al. 2022, eq. 2).

    Args:
        generator: a model with one text encoder (Stable Diffusion 1 and 2).
        images: of every class at least one, of the generator's size.
        words: what each class begins as, in label order: the embedding of its last word that is one token, else the
            mean of all tokens'; an article before it stays in the sentences, "a <star>". Default: the class names.
        tuning: of each class, with a seed of its own that follows from the token's name.
        templates: sentences with {}, one of which is chosen for every sample.
        held_out: other images of the classes, for the history.
        execution: where the classes' jobs run, and their cache.

    Returns:
        The generator that knows "<star>" for a class "a star", as a word in any prompt.

    Raises:
        ValueError: a class without images, images of another size, a name that the tokenizer knows already, a template
            without {}, another kind of model. FloatingPointError: the loss is not finite.
    """
    check_single_text_encoder(generator)
    words = images.classes if words is None else words
    names = learnt_names(generator, images.classes)
    parts, others = labelled_images(images, words, held_out)
    phrases = [with_learnt_word(word, own) for word, own in zip(words, images.classes, strict=True)]
    sentences = [[fill(template, [name])[0] for template in templates] for name in phrases]
    calls = [
        (parts[label], others[label], name, words[label], sentences[label], seeded(tuning, name))
        for label, name in enumerate(names)
    ]
    results = run_tuning(job_token, generator, calls, execution, "textual inversion")
    tuned = with_tokens(
        generator, {name: torch.from_numpy(result["vector"]) for name, result in zip(names, results, strict=True)}
    )
    tuned.history = histories(names, parts, results)
    return tuned


def learn_conditioning(
    generator: Generator,
    images: ImageSet,
    prompts: Sequence[str],
    tuning: Tuning = CONDITIONING,
    *,
    held_out: ImageSet | None = None,
    execution: Execution = Execution(),
) -> Generator:
    """Learn per class what cross-attention reads, (L, d), from the class prompt's encoding on (Burg et al. 2023).

    Args:
        generator: a text-to-image model. What else it reads of a prompt (Stable Diffusion 3's pooled vector) stays.
        images, tuning, held_out, execution: as in `textual_inversion`.
        prompts: one per class, in label order.

    Returns:
        The generator that knows "<star>" for a class "a star", as a whole prompt.

    Raises:
        ValueError: as `textual_inversion`, or numbers of prompts and classes differ. FloatingPointError: likewise.
    """
    check_text_model(generator)
    names = learnt_names(generator, images.classes)
    parts, others = labelled_images(images, prompts, held_out)
    calls = [
        (parts[label], others[label], prompts[label], seeded(tuning, name)) for label, name in enumerate(names)
    ]
    return _with_learnt_conditionings(generator, names, calls, execution)


def cluster_conditioning(
    generator: Generator,
    images: ImageSet,
    prompts: Sequence[str],
    features: np.ndarray,
    k: int,
    tuning: Tuning = CONDITIONING,
    *,
    held_out: tuple[ImageSet, np.ndarray] | None = None,
    execution: Execution = Execution(),
) -> Generator:
    """Learn a conditioning for each of k clusters of a class's images (Burg et al. 2023).

    A class whose images make no k clusters of at least five gets fewer: the history's `name` and `images` say how many
    there are, and of what size. `personalised.prompts_in_proportion` asks for each as often as it is large.

    Args:
        generator, images, prompts, tuning, execution: as in `learn_conditioning`.
        features: where clusters are sought, float (n, d), such as CLIP's unit vectors of the images.
        k: clusters of a class.
        held_out: other images, and their features, which put each in the cluster of the nearest centre.

    Returns:
        The generator that knows "<star:1>", "<star:2>", ... for a class "a star", each as a whole prompt.

    Raises:
        ValueError: as `learn_conditioning`; k below 1, fewer images than clusters, features that are not (n, d).
    """
    check_text_model(generator)
    learnt_names(generator, images.classes)
    parts, others = labelled_images(images, prompts, held_out and held_out[0])
    vectors = _checked_features(features, len(images))
    other_vectors = held_out and _checked_features(held_out[1], len(held_out[0]))
    names, calls = [], []
    for label, word in enumerate(images.classes):
        x = vectors[images.labels == label]                                                # (images of the class, d)
        if not is_integer(k, 1) or len(x) < k:
            raise ValueError(f"cluster_conditioning: class {word!r} has {len(x)} images, too few for {k!r} clusters")
        cluster = clusters(x, k, seed_of(tuning.seed, "clusters", word))
        centres = np.stack([x[cluster == j].mean(0) for j in range(cluster.max() + 1)])    # (clusters, d)
        nearest = None
        if held_out is not None:
            nearest = _squared_distances(other_vectors[held_out[0].labels == label], centres).argmin(1)
        for j in range(len(centres)):
            names.append(learnt_name(word, j + 1))
            part = None if nearest is None else others[label][nearest == j]
            calls.append((parts[label][cluster == j], part, prompts[label], seeded(tuning, names[-1])))
    return _with_learnt_conditionings(generator, names, calls, execution)


def tune_unet(
    generator: Generator,
    images: ImageSet,
    prompts: Sequence[str],
    tuning: Tuning = NETWORK,
    *,
    held_out: ImageSet | None = None,
    execution: Execution = Execution(),
) -> Generator:
    """Tune the whole network that predicts (U-Net or transformer), each class under its prompt.

    Arguments and errors are those of `learn_conditioning`, but all classes are tuned together, in one job.

    Returns:
        The generator with the tuned network, asked by the same prompts.
    """
    labelled_images(images, prompts, held_out)
    generator.encode_prompts(prompts)
    other = None if held_out is None else (held_out.images, held_out.labels)
    calls = [((images.images, images.labels), other, list(prompts), tuning)]
    (result,) = results = run_tuning(job_network, generator, calls, execution, "fine-tuning")
    weights = {name: torch.from_numpy(value) for name, value in result.items() if name != "history"}
    tuned = with_network(generator, weights)
    tuned.history = histories(["all"], [images.images], results)
    return tuned


def clusters(features: np.ndarray, k: int, seed: int, least: int = SMALLEST_CLUSTER) -> np.ndarray:
    """Return the cluster of each row, int64 (n,): k-means, with fewer clusters where one would be small.

    Args:
        features: (n, d). k: clusters. seed: of the starts. least: rows that each cluster must have.
    """
    x = np.asarray(features, np.float64)
    for number in range(min(k, len(np.unique(x, axis=0))), 1, -1):
        runs = []
        for restart in range(RESTARTS):
            stream = rng(seed, "k-means", number, restart)
            try:  # starts after Arthur & Vassilvitskii (2007)
                centres, labels = kmeans2(x, number, iter=ITERATIONS, minit="++", missing="raise", seed=stream)
            except ClusterError:  # one has lost all its rows
                continue
            if np.bincount(labels, minlength=number).min() >= least:
                runs.append((((x - centres[labels]) ** 2).sum(), labels))
        if runs:
            return min(runs, key=lambda run: run[0])[1].astype(np.int64)
    return np.zeros(len(x), np.int64)


def _squared_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return ((x[:, None] - y[None]) ** 2).sum(2)                                            # (n, m)


def _with_learnt_conditionings(
    generator: Generator, names: Sequence[str], calls: Sequence[tuple], execution: Execution
) -> Generator:
    results = run_tuning(job_conditioning, generator, calls, execution, "learning conditionings")
    arrays = {
        field: {name: torch.from_numpy(result[field]) for name, result in zip(names, results, strict=True)}
        for field in ("embedding", "pooled")
        if field in results[0]
    }
    parts = [call[0] for call in calls]
    sizes = {name: len(part) for name, part in zip(names, parts, strict=True)}
    tuned = with_conditionings(generator, arrays["embedding"], arrays.get("pooled"), sizes)
    tuned.history = histories(names, parts, results)
    return tuned


def labelled_images(
    images: ImageSet, texts: Sequence[str], held_out: ImageSet | None
) -> tuple[list[np.ndarray], list[np.ndarray | None]]:
    """Return the images of each class, and the held-out ones.

    Raises:
        ValueError: a class without images, not one text for each class, or held-out images of other classes.
    """
    check_prompts(texts)
    if len(texts) != len(images.classes):
        raise ValueError(f"{len(images.classes)} classes need as many prompts or words, got {len(texts)}")
    parts = [images.images[images.labels == label] for label in range(len(images.classes))]
    if empty := [name for name, part in zip(images.classes, parts, strict=True) if len(part) == 0]:
        raise ValueError(f"class {empty[0]!r} has no images to learn from")
    if held_out is None:
        return parts, [None] * len(parts)
    if held_out.classes != images.classes:
        raise ValueError(f"the held-out images have other classes: {held_out.classes} and {images.classes}")
    return parts, [held_out.images[held_out.labels == label] for label in range(len(parts))]


def seeded(tuning: Tuning, name: str) -> Tuning:
    """Return the tuning of one of several, with a seed of its own."""
    return dataclasses.replace(tuning, seed=seed_of(tuning.seed, "tuning", name))


def _checked_features(features: np.ndarray, n: int) -> np.ndarray:
    features = np.asarray(features, np.float64)
    if features.ndim != 2 or len(features) != n or not np.isfinite(features).all():
        raise ValueError(f"cluster_conditioning: {n} images need finite features ({n}, d), got {features.shape}")
    return features
