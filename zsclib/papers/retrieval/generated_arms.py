"""Arms whose extra images the generator makes: M2 to M10 of the paper, as functions of the setting, D, n and execution.

All take the same sampler steps and, unless an arm says otherwise, the same guidance; all ways of personalising the
generator learn from the same number of samples. Every image has a seed of its own, and a set of fewer images is the
beginning of a larger one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd

from zsclib.extra import counts, first_of_each
from zsclib.images.files import resize
from zsclib.images.image_set import ImageSet
from zsclib.models.finetune import (
    CONDITIONING,
    NETWORK,
    TEXTUAL_INVERSION,
    Tuning,
    cluster_conditioning,
    learn_conditioning,
    textual_inversion,
    tune_unet,
)
from zsclib.models.generator import Generator
from zsclib.models.lora import DATADREAM, Lora, tune_lora
from zsclib.models.personalised import learnt_name, prompts_in_proportion, with_learnt_word
from zsclib.own_sets import prompts_for
from zsclib.papers.retrieval.training_sets import FURTHER, Data, Setting, labeller, open_models, shown
from zsclib.prompts import Prompts, fill
from zsclib.sampling import generate, image_to_image, sample
from zsclib.seeds import seed_of
from zsclib.training import TrainedNetwork
from zsclib.workers import Execution, Job, run_jobs
from zsclib.world.captions import BACKGROUND_PHRASES

Prompt = Callable[[int, int], str]  # label, number of the image of that class → what it is generated from
TUNINGS = {  # of the ways to personalise: learning rate, batch and schedule
    "textual inversion": TEXTUAL_INVERSION,
    "conditioning": CONDITIONING,
    "clusters": CONDITIONING,
    "full": NETWORK,
    "LoRA": DATADREAM,
}


def prompted(
    setting: Setting, data: Data, n: int, execution: Execution, *, wording: str = "templates", guidance: float = 0.0
) -> ImageSet:
    """M4 to M6: generate from prompts, whose templates take turns.

    Args:
        setting, data, n, execution: as of every arm.
        wording: "simple" (M4: one sentence with the class name), "templates" (M5: CLIP's ensemble for this set) or
            "backgrounds" (M6, after Sarıyıldız et al. 2023: the class in a scene. The pool's captions know no
            hypernyms, so none are taken; where classes stand on no ground, other styles take their place).
        guidance: scale; 0: the setting's.
    """
    prompts = prompts_for(data.target, data.real.classes, setting.own)
    templates = {"simple": [prompts.template], "templates": prompts.templates}.get(wording)
    if wording == "backgrounds":
        templates = background_templates(prompts, placed=data.target not in setting.unplaced)
    if templates is None:
        raise ValueError(f"prompted: wording must be simple, templates or backgrounds, got {wording!r}")
    filled = [fill(template, prompts.classes) for template in templates]

    def prompt(label: int, i: int) -> str:
        return filled[(i + label) % len(filled)][label]

    return _generated(setting, data, n, execution, open_models(setting)[0], prompt, wording, guidance)


def background_templates(prompts: Prompts, placed: bool) -> list[str]:
    """Return sentences that put the class on each ground that the pool's captions name, or into each of its styles."""
    if placed:
        return [f"{prompts.template} {phrase}" for phrase in BACKGROUND_PHRASES.values()]
    return list(prompts.domains.values()) or [prompts.template]


def changed_locally(setting: Setting, data: Data, n: int, execution: Execution) -> ImageSet:
    """M2, Boomerang (Luzi et al. 2022): each image of D noised part of the way and denoised, again and again."""
    generator, _ = open_models(setting)
    prompts = prompts_for(data.target, data.real.classes, setting.own)
    sentences = fill(prompts.template, prompts.classes)
    own = [np.flatnonzero(data.real.labels == label) for label in range(len(sentences))]
    rows = [
        {"label": label, "source": "image-to-image", "prompt": sentences[label], "parent": int(of[i % len(of)]),
         "seed": seed_of(data.seed, "sample", "image-to-image", data.real.classes[label], i)}
        for i in range(n) for label, of in enumerate(own)
    ]  # fmt: skip
    plan = pd.DataFrame(rows)
    originals = resize(data.real.images, generator.image_size)
    jobs = []
    for start in range(0, len(plan), execution.batch):
        part = plan.iloc[start : start + execution.batch]
        images = originals[part["parent"].to_numpy()]
        jobs.append(Job(_changed, (setting, images, part["prompt"].tolist(), part["seed"].tolist()), None, len(part)))
    images = np.concatenate([arrays["images"] for arrays in run_jobs(jobs, execution, "changing images")])
    steps = max(1, round(setting.strength * setting.sampling_steps))
    manifest = plan.drop(columns="label").assign(evaluations=float(steps))
    return ImageSet(shown(setting, images), plan["label"].to_numpy(), data.real.classes, manifest=manifest)


def _changed(setting: Setting, images: np.ndarray, prompts: list[str], seeds: list[int]) -> dict[str, np.ndarray]:
    generator, _ = open_models(setting)
    how = {"strength": setting.strength, "guidance": 1.0, "steps": setting.sampling_steps, "batch": len(images)}
    return {"images": image_to_image(generator, images, prompts, seeds, **how)}


def unconditional(setting: Setting, data: Data, n: int, execution: Execution) -> ImageSet:
    """M3: sample with the empty prompt, and let the network trained on D alone say what it sees.

    `setting.candidates` images are sampled for each that is wanted, more where a class falls short; the surest stay.
    """

    def sampled(rows: range) -> tuple[np.ndarray, pd.DataFrame]:
        seeds = [seed_of(data.seed, "sample", "unconditional", i) for i in rows]
        batches = [seeds[start : start + execution.batch] for start in range(0, len(seeds), execution.batch)]
        jobs = [Job(_unconditional, (setting, batch), None, len(batch)) for batch in batches]
        images = [arrays["images"] for arrays in run_jobs(jobs, execution, "sampling")]
        return shown(setting, np.concatenate(images)), pd.DataFrame({"source": "unconditional", "seed": seeds})

    labelled, m = with_pseudo_labels(setting, data, n, sampled)
    spent = m * setting.sampling_steps / max(1, len(labelled))  # also on the images that were dropped
    return replace(labelled, manifest=labelled.manifest.assign(evaluations=spent))


def _unconditional(setting: Setting, seeds: list[int]) -> dict[str, np.ndarray]:
    generator, _ = open_models(setting)
    return {"images": sample(generator, [""] * len(seeds), seeds, 1.0, setting.sampling_steps, len(seeds))}


def with_pseudo_labels(
    setting: Setting, data: Data, n: int, source: Callable[[range], tuple[np.ndarray, pd.DataFrame]]
) -> tuple[ImageSet, int]:
    """Return of each class the n images of a source that the network trained on D is surest of, and how many it saw.

    Args:
        setting, data, n: as of every arm.
        source: gives the images i of a range, uint8 (at most m, h, w, 3), with a manifest; none where it has ended.
    """
    network, wanted = labeller(setting, data.target, data.seed), n * len(data.real.classes)
    parts, m = [], 0
    for times in (setting.candidates, FURTHER * setting.candidates):
        parts.append(source(range(m, times * wanted)))
        m = times * wanted
        manifest = pd.concat([rows for _, rows in parts], ignore_index=True)
        labelled = pseudo_labelled(network, np.concatenate([images for images, _ in parts]), n, manifest)
        if counts(labelled).min() == n:
            break
    return labelled, m


def pseudo_labelled(network: TrainedNetwork, images: np.ndarray, n: int, manifest: pd.DataFrame) -> ImageSet:
    """Return of each class the n images that a network is surest of, the surest first; fewer where it sees fewer."""
    scores = network.scores(images).astype(np.float64)
    p = np.exp(scores - scores.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    confidence, classes = p.max(1), tuple(network.network.classes)
    order = np.argsort(-confidence, kind="stable")
    every = ImageSet(images, p.argmax(1), classes, manifest=manifest.assign(confidence=confidence)).take(order)
    return first_of_each(every, np.full(len(classes), n))


def personalised(setting: Setting, data: Data, n: int, execution: Execution, *, way: str, k: int = 0) -> ImageSet:
    """M7 to M10: tune the generator on D, then generate from it.

    Args:
        setting, data, n, execution: as of every arm.
        way: "textual inversion" (a word learnt for each class, within the templates of M5), "conditioning" (what
            cross-attention reads for a class), "clusters" (k of these a class, sampled in proportion to their sizes),
            "full" (the whole denoiser) or "LoRA" (adapters in it), the last two asked by the simple prompt.
        k: clusters of a class.

    Raises:
        ValueError: an unknown way, and as the functions of `zsclib.models.finetune`.
    """
    generator, prompt = personalise(setting, data, n, execution, way=way, k=k)
    return _generated(setting, data, n, execution, generator, prompt, f"{way}, k = {k}" if k else way)


def personalise(
    setting: Setting, data: Data, n: int, execution: Execution, *, way: str, k: int = 0, checks: int = 0
) -> tuple[Generator, Prompt]:
    """Tune the generator on D in one of the ways of `personalised`; its `history` says how the loss fell.

    Args:
        n: images of a class that will be asked for.
        checks: of the denoising loss on held-out real images on the way, beside the one at the start; 0: none.

    Returns:
        The tuned generator, and the prompt that asks it for image i of a class: (label, i) → text.

    Raises:
        ValueError: as `personalised`.
    """
    if way not in TUNINGS:
        raise ValueError(f"personalised: there is no way {way!r}; there are {', '.join(TUNINGS)}")
    generator, clip = open_models(setting)
    classes, prompts = data.real.classes, prompts_for(data.target, data.real.classes, setting.own)
    sentences, side = fill(prompts.template, prompts.classes), generator.image_size
    real, held_out = (replace(part, images=resize(part.images, side)) for part in (data.real, data.held_out))
    learners = {"textual inversion": 1, "conditioning": 1, "clusters": k}.get(way, 0) * len(classes)
    tuning, how = tuning_of(setting, data, way, max(1, learners)), {"execution": execution}
    if checks:
        tuning = replace(tuning, check_every=max(1, tuning.samples // checks))
        how["held_out"] = held_out
    if way == "textual inversion":
        tuned = textual_inversion(generator, real, prompts.classes, tuning, templates=prompts.templates, **how)
        words = [with_learnt_word(name, own) for name, own in zip(prompts.classes, classes, strict=True)]
        filled = [fill(template, words) for template in prompts.templates]
        return tuned, lambda label, i: filled[(i + label) % len(filled)][label]
    if way == "conditioning":
        tuned = learn_conditioning(generator, real, sentences, tuning, **how)
        return tuned, lambda label, i: learnt_name(classes[label])
    if way == "clusters":
        features = clip.encode_images(real.images).cpu().numpy()
        how |= {"held_out": (held_out, clip.encode_images(held_out.images).cpu().numpy())} if checks else {}
        most = min(k, int(counts(real).min()))  # of few images no more clusters than there are images
        tuned = cluster_conditioning(generator, real, sentences, features, most, tuning, **how)
        learnt = [prompts_in_proportion(tuned, name, n) for name in classes]
        return tuned, lambda label, i: learnt[label][i]
    if way == "full":
        return tune_unet(generator, real, sentences, tuning, **how), lambda label, i: sentences[label]
    lora = Lora(rank=setting.rank, alpha=setting.rank)
    return tune_lora(generator, real, sentences, tuning, lora, **how), lambda label, i: sentences[label]


def tuning_of(setting: Setting, data: Data, way: str, learners: int = 1) -> Tuning:
    """Return how the generator is tuned: with `setting.tuning_samples` in all, shared by what is learnt one by one.

    Args:
        way: a key of `TUNINGS`. learners: words or conditionings that are learnt, each by itself.
    """
    tuning = TUNINGS[way]
    samples = max(1, setting.tuning_samples // learners)
    rate = dict(setting.learning_rates).get(way, tuning.learning_rate)
    warm_up = min(tuning.warm_up, samples // 4)
    every = min(tuning.check_every, samples)
    changes = {"samples": samples, "learning_rate": rate, "warm_up": warm_up, "check_every": every}
    return replace(tuning, seed=data.seed, **changes)


def _generated(
    setting: Setting,
    data: Data,
    n: int,
    execution: Execution,
    generator: Generator,
    prompt: Prompt,
    source: str,
    guidance: float = 0.0,
) -> ImageSet:
    """Generate n images of each class, image i of a class from prompt(label, i)."""
    scale = guidance or setting.guidance
    rows = [
        {"label": label, "class": name, "source": source, "prompt": prompt(label, i), "guidance": scale,
         "seed": seed_of(data.seed, "sample", source, name, i),
         "evaluations": float(setting.sampling_steps * (1 if scale == 1 else 2))}
        for i in range(n) for label, name in enumerate(data.real.classes)
    ]  # fmt: skip
    options = {"steps": setting.sampling_steps, "execution": execution}
    images = generate(generator, pd.DataFrame(rows), data.real.classes, **options)
    return replace(images, images=shown(setting, images.images))
