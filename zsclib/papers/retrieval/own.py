"""On a user's own labelled set and captioned pool: what was read, and what was retrieved, left as folders of images.

    setting = Setting(..., pool="tar:/data/pool", own=Own(splits=["train", "validation"]))
    summary(setting, "folder:/data/pets", execution)        # refuses what must be refused, before any work
    leave_retrieved(setting, "folder:/data/pets", execution)

Any tool opens the folders; here `folder:PATH` does, wherever a data set is named.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd

from zsclib.extra import Extra, counts
from zsclib.generator_pool import WORLD
from zsclib.images.image_set import content_hash
from zsclib.own_sets import prompts_for, set_name
from zsclib.papers.retrieval.arms import ARMS, make_extra
from zsclib.papers.retrieval.pool_arms import open_captioned, open_index, overlap, prepare
from zsclib.papers.retrieval.training_sets import Setting, data
from zsclib.paths import run_folder
from zsclib.pools.retrieval import save_files
from zsclib.prompts import fill
from zsclib.workers import Execution

RETRIEVED = tuple(name for name in ARMS if name.startswith("retrieved") and "floor" not in name)  # whole sets
FOLDER = "retrieved"  # in the folder of the run


def classes_read(setting: Setting, target: str, seed: int = 0) -> pd.DataFrame:
    """Return a row per class: its name, its prompt, and how many images are D, as many again, held out, for testing.

    Raises:
        FileNotFoundError, ValueError: the set is not there, or not fit (see `zsclib.own_sets`).
    """
    one = data(setting, target, seed)
    prompts = prompts_for(target, one.real.classes, setting.own)
    columns = {"D": one.real, "as many again": one.further, "held out": one.held_out, "test": one.test}
    facts = {"class": one.real.classes, "prompt": fill(prompts.template, prompts.classes)}
    return pd.DataFrame(facts | {name: counts(images) for name, images in columns.items()})


def repeated(setting: Setting, target: str, seed: int = 0) -> list[str]:
    """Return the test images that D, the further real images or the held-out ones have pixel by pixel, by name."""
    one = data(setting, target, seed)
    others = {each for part in (one.real, one.further, one.held_out) for each in content_hash(part.images)}
    rows = [row for row, each in enumerate(content_hash(one.test.images)) if each in others]
    names = one.test.manifest.get("source", pd.Series(range(len(one.test))))
    return [str(names[row]) for row in rows]


def summary(setting: Setting, target: str, execution: Execution) -> pd.DataFrame:
    """Read the set, embed the pool as far as that is not done, and count what could make a comparison unfair.

    Returns:
        Rows of `what` and `number`.

    Raises:
        FileNotFoundError: the set, the pool, or a part of one is missing.
        ValueError: the set is not fit, or the pool overlaps its test images and they are not to be dropped.
    """
    one = data(setting, target, 0)
    prepare(setting, execution)
    pool, (embeddings, _) = open_captioned(setting), open_index(setting)
    rows = {
        "classes": len(one.real.classes),
        "D: labelled images of a class": setting.shots,
        "test images": len(one.test),
        "of these also among the images to learn from": len(repeated(setting, target)),
        "images of the pool": len(pool),
        "of these not readable": len(pool) - len(embeddings),
    }
    if setting.pool != WORLD:
        rows["of these near-copies of test images, dropped"] = len(overlap(setting, target))
    return pd.DataFrame({"what": list(rows), "number": list(rows.values())})


def shortfalls(extra: Mapping[str, Extra]) -> pd.DataFrame:
    """Return a row per arm and class that got fewer images than wanted; at equal counts each cuts all arms.

    Args:
        extra: as `zsclib.papers.retrieval.arms.make_extra` returns it.
    """
    rows = [
        {"arm": name} | row
        for name, one in extra.items()
        if ARMS[name].method != "M1"
        for row in one.report[["class", "wanted", "delivered"]].to_dict("records")
        if row["delivered"] < row["wanted"]
    ]
    return pd.DataFrame(rows, columns=["arm", "class", "wanted", "delivered"])


def leave_retrieved(
    setting: Setting,
    target: str,
    execution: Execution,
    *,
    seed: int = 0,
    arms: Sequence[str] = RETRIEVED,
    folder: Path | None = None,
) -> pd.DataFrame:
    """Leave the images of the retrieved arms as folders: a sub-folder per class, the files as they are in the pool.

    Beside the classes lie manifest.csv (file, source: its id in the pool, caption, similarity, rank, row), report.csv
    (a row per class: what was dropped why) and about.json (pool, CLIP, prompts, rules). What an earlier run left there
    is replaced.

    Args:
        arms: some of `RETRIEVED`. seed: whose D. folder: None: that of the current run.

    Returns:
        A row per arm: `arm`, `folder` (relative to the run's), `images`, `fewest of a class`, `mean similarity`.
    """
    extra, pool = make_extra(setting, target, seed, arms, execution), open_captioned(setting)
    root, rows = folder or run_folder(), []
    prompts = prompts_for(target, data(setting, target, seed).real.classes, setting.own)
    about = {"data set": set_name(target), "model": open_index(setting)[0].model, "rules": asdict(setting.rules)}
    about |= {"templates": list(prompts.templates), "seed": seed}
    for arm, one in extra.items():
        manifest = one.images.manifest.drop(columns=["source", "evaluations"]).rename(columns={"id": "source"})
        place = Path(FOLDER) / set_name(target) / arm.removeprefix("retrieved ")
        images = replace(one.images, manifest=manifest)
        save_files(pool, images, one.report, root / place, about | {"arm": arm})
        similarity = float(np.mean(manifest["similarity"])) if len(images) else float("nan")
        facts = {"images": len(images), "fewest of a class": int(counts(images).min()), "mean similarity": similarity}
        rows.append({"arm": arm, "folder": place.as_posix()} | facts)
    return pd.DataFrame(rows)
