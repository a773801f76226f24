"""What models of photographs make of images that they were not trained on, set by set, as one outcome per image.

    rows = measure(Path("data/models/photographs"), n=500, path=Path("data/records/photographs/quality.json"))
    rows["rsscn7"]["CLIP"]                                  # 0 or 1 for each image

The folder holds sd and clip, as `zsc pretrain` leaves them; images are those that `python -m zsclib.pocket photographs`
has cut (`zsclib.paths.photographs`). Measured are what is left of an image after encoding and decoding, in dB, what
CLIP and the diffusion classifier call it, and whether a network that learnt from real images of a set recognises what
is generated for its classes. `growth` asks the U-Nets that a training has left on its way.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from zsclib.datasets import hold_out, load, open_listing
from zsclib.hashing import hash_file
from zsclib.images.image_set import ImageSet
from zsclib.models.clip import open_clip
from zsclib.models.generator import Generator, open_generator
from zsclib.models.networks import new_network
from zsclib.papers.diffusion_classifier import classify, nested, sequential
from zsclib.papers.diffusion_classifier.study_plan import FEW_CLASSES
from zsclib.paths import atomic
from zsclib.pocket.evaluation import GUIDANCE, STEPS, TIMESTEPS, decibels
from zsclib.pocket.scaling import load_averages, saved_weights
from zsclib.prompts import PHOTOGRAPHS, fill, load_prompts
from zsclib.recipe import Recipe
from zsclib.sampling import sample
from zsclib.seeds import seed_of
from zsclib.training import TrainedNetwork, train
from zsclib.workers import Execution

SETS = ("cifar10", "tiny-imagenet-20", "tiny-imagenet", "caltech101", "pacs-sketch", "rsscn7")
JUDGED = "cifar10"  # whose classes are generated: of this set there are enough real images to learn from
READER = Recipe(steps=3000, batch=64, checkpoints=10)  # of the network that reads generated images

Rows = dict[str, dict[str, list[float]]]  # set → measure → one outcome per image


def measure(
    models: Path,
    n: int = 500,
    split: str = "test",
    sets: Sequence[str] = SETS,
    path: Path | None = None,
    execution: Execution = Execution(),
    reader: Recipe = READER,
    device: str = "cpu",
) -> Rows:
    """Return what the models make of photographs: set → measure → one outcome per image.

    Args:
        models: holds sd and clip.
        n: images of each set, fewer where there are not so many, and as many generated ones.
        split: "validation" where something is chosen by the numbers.
        sets: which ones.
        path: a JSON file for them, written after each set; sets in it that were measured with these weights stay.
        execution: of the diffusion classifier.
        reader: how the network is trained that reads generated images.
        device: where to compute, cpu or cuda.

    Raises:
        FileNotFoundError: there are no models, or no photographs.
        ValueError: the file is about other weights, or was measured otherwise.
    """
    generator, clip = open_generator(Path(models) / "sd", device), open_clip(Path(models) / "clip", device)
    about = {"split": split, "n": n, "weights": _weights(models), "timesteps": TIMESTEPS}
    about |= {"guidance": GUIDANCE, "steps": STEPS, "reader": asdict(reader)}
    rows = _rows_in(path, about)
    for name in sets:
        if name in rows:
            continue
        images, prompts = images_of(name, split, n, generator.image_size), load_prompts(f"{PHOTOGRAPHS}:{name}")
        decoded = generator.decode(generator.encode_images(images.images))
        own: dict[str, list[float]] = {"reconstruction": np.round(decibels(images.images, decoded), 2).tolist()}
        for what, templates in (("CLIP", [prompts.template]), ("CLIP, ensemble", prompts.templates)):
            scores = clip.zero_shot(prompts.classes, templates).scores(images.images)
            own[what] = (scores.argmax(1) == images.labels).astype(int).tolist()
        own["diffusion classifier"] = _recognised(generator, name, images, execution)
        if name == JUDGED:
            network = read_by(name, generator.image_size, reader, device)
            own["real, read"] = (network.scores(images.images).argmax(1) == images.labels).astype(int).tolist()
            own["generated, read"] = _generated(generator, name, n, network)
        rows[name] = own
        if path is not None:
            _write(path, about | {"rows": rows})
    return rows


def growth(
    checkpoints: Path,
    models: Path,
    path: Path,
    n: int = 300,
    execution: Execution = Execution(),
    reader: Recipe = READER,
    device: str = "cpu",
) -> list[dict]:
    """Return how recognition and generation of one set grew with the pairs that a U-Net had met, on validation images.

    Args:
        checkpoints: of the training, which saves averaged weights whenever its pairs have doubled.
        models: holds sd, from which everything but the U-Net is taken.
        path: a JSON file; rows that are there stay, so that the weights of long ago need not be.
        n: images. execution, reader, device: as in `measure`.

    Returns: a row per U-Net, by pairs: samples, held_out (loss), and both measures, one outcome per image.
    """
    generator = open_generator(Path(models) / "sd", device)
    network = None
    rows = json.loads(path.read_text()) if path.exists() else []
    for samples, _, held_out, weights in saved_weights(Path(checkpoints), unets_of(models)):
        if any((row["sha256"], row["n"]) == (hash_file(weights), n) for row in rows):
            continue
        network = network or read_by(JUDGED, generator.image_size, reader, device)
        load_averages(generator.unet, weights)
        images = images_of(JUDGED, "validation", n, generator.image_size)
        row = {"samples": samples, "held_out": held_out, "n": n, "sha256": hash_file(weights)}
        row |= {"recognised": _recognised(generator, JUDGED, images, execution)}
        row |= {"generated": _generated(generator, JUDGED, n, network)}
        rows = sorted([*(other for other in rows if other["samples"] != samples), row], key=lambda r: r["samples"])
        _write(path, rows)
    return rows


def unets_of(models: Path) -> list[str]:
    """Return the names of the successive trainings of the U-Net in a folder of models."""
    return [name for name in json.loads((Path(models) / "sd" / "training.json").read_text()) if "unet" in name]


def images_of(name: str, split: str, n: int, size: int) -> ImageSet:
    """Return n images of a set of photographs, or all where it has fewer."""
    target = f"{PHOTOGRAPHS}:{name}"
    return load(target, split, min(n, len(open_listing(target, split).labels)), size=size)


def read_by(name: str, size: int, recipe: Recipe = READER, device: str = "cpu") -> TrainedNetwork:
    """Return a network that has learnt from real images of a set, its checkpoint chosen on a tenth of them."""
    learnt, held_out = hold_out(images_of(name, "train", 20_000, size))
    network = new_network("resnet18", learnt.classes, size)
    return train(network, learnt, recipe, seed=0, validation=held_out, device=device)


def _recognised(generator: Generator, name: str, images: ImageSet, execution: Execution) -> list[int]:
    prompts = load_prompts(f"{PHOTOGRAPHS}:{name}")
    few = len(prompts.classes) <= FEW_CLASSES  # all are scored at all timesteps
    rule = nested(TIMESTEPS, generator.T) if few else sequential(TIMESTEPS, T=generator.T)
    texts = fill(prompts.template, prompts.classes)
    result = classify(generator, images.images, texts, rule, execution=execution)
    return (result.prediction == images.labels).astype(int).tolist()


def _generated(generator: Generator, name: str, n: int, network: TrainedNetwork) -> list[int]:
    """Return whether a network calls each generated image what was asked for, classes in turn."""
    prompts = load_prompts(f"{PHOTOGRAPHS}:{name}")
    texts, labels = fill(prompts.template, prompts.classes), np.arange(n) % len(prompts.classes)
    seeds = [seed_of(0, "generated photographs", i) for i in range(n)]
    drawn = sample(generator, [texts[label] for label in labels], seeds, GUIDANCE, STEPS)
    return (network.scores(drawn).argmax(1) == labels).astype(int).tolist()


def _rows_in(path: Path | None, about: dict) -> Rows:
    """Return the rows of a file; ValueError where it is about others than these images and weights."""
    if path is None or not path.exists():
        return {}
    content = json.loads(path.read_text())
    if other := [name for name, value in json.loads(json.dumps(about)).items() if content.get(name) != value]:
        raise ValueError(f"{path}: measured with other {', '.join(other)}; keep it elsewhere, or remove it")
    return content["rows"]


def _write(path: Path, content: dict | list) -> None:
    """Write JSON in one line: thousands of zeros and ones would have a line each."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(content) + "\n")


def _weights(models: Path) -> list[str]:
    """Return the hashes of the weights of both models in a folder."""
    return [hash_file(file) for name in ("sd", "clip") for file in sorted((Path(models) / name).rglob("*.safetensors"))]
