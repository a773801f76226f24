"""How two abilities of one U-Net grew with the pairs it was trained on: to generate, and to recognise."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors.torch import load_file
from torch import nn

from zsclib.datasets import load
from zsclib.hashing import hash_file
from zsclib.models.clip import open_clip
from zsclib.models.generator import open_generator
from zsclib.pocket.attributes import open_classifier
from zsclib.pocket.evaluation import GUIDANCE, STEPS, recognised
from zsclib.pocket.requests import fulfilled, requests
from zsclib.pretraining.checkpoint import checkpoints, digest_path, read_meta
from zsclib.pretraining.unet import UNET_PHASES
from zsclib.prompts import load_prompts
from zsclib.sampling import sample
from zsclib.study.stats import paired_difference

TIMESTEPS = 16
SETS = ("objects", "digits")  # that checkpoints are asked to recognise


def scaling(checkpoints_folder: Path, models: Path, path: Path, n: int = 200) -> list[dict]:
    """Measure what the U-Net could do after so many pairs: as a classifier, and as a generator.

    Looks at the averaged weights saved whenever a training's pairs had doubled and at its newest checkpoint, on
    validation splits and requests that no other measurement uses. Rows that are there already stay, so that a killed
    run goes on and the weights of long ago need not be.

    Args:
        checkpoints_folder: of the training.
        models: the exported folders, from which everything but the U-Net is taken.
        path: a JSON file to write after each checkpoint.
        n: images per measure.

    Returns: a row per checkpoint, by pairs: samples, the training it is of, held_out (validation loss, averaged
        weights), the attribute classifier that read the images (its SHA-256 as "judge"), and per measure a list of n
        zeros and ones, images in the same order for every checkpoint.
    """
    generator, classifier = open_generator(models / "pocket-sd"), open_classifier(models / "pocket-judge")
    reader = hash_file(models / "pocket-judge" / "model.safetensors")
    rows = json.loads(path.read_text()) if path.exists() else []
    for samples, training, held_out, weights in saved_weights(Path(checkpoints_folder)):
        sha256 = hash_file(weights)
        if any((row["sha256"], row["n"], row["judge"]) == (sha256, n, reader) for row in rows):
            continue
        load_averages(generator.unet, weights)
        row = {"samples": samples, "training": training, "held_out": held_out}
        row |= {"n": n, "sha256": sha256, "judge": reader}
        for name in SETS:
            correct, _ = recognised(generator, name, "validation", n, TIMESTEPS)
            row[f"recognised {name}"] = correct.astype(int).tolist()
        for kind in ("objects", "printed-digits"):
            wanted = requests(kind, n, seed=1)
            images = sample(generator, wanted.prompt.tolist(), wanted.seed.tolist(), GUIDANCE, STEPS)
            row[f"judged {kind}"] = fulfilled(classifier, images, wanted).astype(int).tolist()
        rows = [other for other in rows if other["samples"] != samples]
        rows = sorted([*rows, row], key=lambda r: r["samples"])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(rows) + "\n")
        shares = ", ".join(f"{k} {np.mean(v):.3f}" for k, v in row.items() if isinstance(v, list))
        print(f"{samples:,} pairs: {shares}", flush=True)
    return rows


def clip_scaling(folders: Sequence[Path], path: Path, n: int = 200) -> list[dict]:
    """Measure how CLIPs that saw ever more pairs classify the validation images of `scaling`, with one prompt a class.

    Args:
        folders: of the models, as `zsclib.pocket.earlier.extract_clips` writes them. path: a JSON file to write.
        n: images per set.

    Returns: a row per model, by pairs: samples, n, the weights' sha256, and "recognised NAME", a list of n zeros and
        ones, images in the order of `scaling`.
    """
    rows = []
    for folder in folders:
        clip, parts = open_clip(folder), json.loads((folder / "training.json").read_text())
        row = {"samples": sum(part["history"][-1]["samples"] for part in parts.values()), "n": n}
        row["sha256"] = hash_file(folder / "model.safetensors")
        for name in SETS:
            prompts, images = load_prompts(name), load(name, "validation", n)
            scores = clip.zero_shot(prompts.classes, [prompts.template]).scores(images.images)
            row[f"recognised {name}"] = (scores.argmax(1) == images.labels).astype(int).tolist()
        rows.append(row)
    rows.sort(key=lambda row: row["samples"])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows) + "\n")
    return rows


def gains(rows: Sequence[dict]) -> pd.DataFrame:
    """Return the points gained from each checkpoint to the next, with 95 % intervals, as a table of texts.

    Both checkpoints are measured on the same images or requests, so the intervals are those of paired differences.

    Args:
        rows: as `scaling` returns them.
    """
    measures = [name for name in rows[0] if name.startswith(("judged ", "recognised "))]
    table = []
    for earlier, later in zip(rows, rows[1:], strict=False):
        row = {"thousand pairs": f"{earlier['samples'] / 1e3:,.0f} → {later['samples'] / 1e3:,.0f}"}
        row["phase"] = UNET_PHASES.index(later["training"]) + 1
        for name in measures:
            difference = paired_difference(later[name], earlier[name])
            row[name.replace("judged", "generated")] = difference.points()
        table.append(row)
    return pd.DataFrame(table)


def read_by_another_classifier(rows: Sequence[dict]) -> list[dict]:
    """Return the checkpoints whose images were read by another attribute classifier than those of the last one."""
    return [row for row in rows if row["judge"] != rows[-1]["judge"]]


def saved_weights(
    folder: Path, trainings: Sequence[str] = UNET_PHASES
) -> Iterator[tuple[int, str, float, Path]]:
    """Yield pairs in all, training, validation loss and path of the weights that successive trainings have saved."""
    ends = {}  # training → pairs by its end
    for training in trainings:
        for newest in checkpoints(folder, training)[-1:]:
            meta = read_meta(newest)
            batch, begin = meta["plan"]["batch"], meta["facts"].get("begin")
            before = ends.get(begin["part"], _pairs_by(folder, begin, batch)) if begin else 0
            ends[training] = before + meta["step"] * batch
            losses = {row["samples"]: row["held_out"] for row in meta["history"] if "held_out" in row}
            saved = {int(p.stem.split("-")[-1]): p for p in folder.glob(f"{training}-ema-*.safetensors")}
            for samples, path in sorted((saved | {meta["step"] * batch: newest}).items()):
                nearest = min(losses, key=lambda at, samples=samples: abs(at - samples))
                yield before + samples, training, losses[nearest], path


def _pairs_by(folder: Path, begin: Mapping | None, batch: int) -> int:
    """Return the pairs in all that what a training began from had met, whose checkpoints need not be there."""
    known, pairs = Path(folder) / "frozen" / "meta.json", 0
    metas = json.loads(known.read_text()) if known.exists() else {}
    while begin:
        meta = metas.get(begin["part"], {})
        pairs += begin["step"] * meta.get("plan", {"batch": batch})["batch"]
        begin = meta.get("facts", {}).get("begin")
    return pairs


def load_averages(model: nn.Module, path: Path) -> None:
    """Put the averaged weights of a training's checkpoint, or of what it saved on the way, into a model.

    Raises: ValueError when the file was altered, or belongs to another network.
    """
    if digest_path(path).read_text().strip() != hash_file(path):
        raise ValueError(f"checkpoint {path.name} was cut short or altered; delete it, or train anew")
    averages = {
        name.removeprefix("ema."): value.float()
        for name, value in load_file(path).items()
        if not name.startswith(("model.", "first.", "second."))
    }
    wrong = model.load_state_dict(averages, strict=False).unexpected_keys
    if wrong or not averages:
        raise ValueError(f"checkpoint {path.name} does not belong to this network: {sorted(wrong)[:3]}")
