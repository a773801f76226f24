"""On a user's own few images: what was read, and adapters and generated images left as folders that other tools open.

    setting = Setting(..., shots=8, own=Own(splits=["train", "validation"]))
    classes_read(setting, "folder:/data/pets")              # refuses what must be refused, before any work
    leave_adapters(setting, "folder:/data/pets", execution)
    leave_images(setting, "folder:/data/pets", execution, ["DataDream, by class"])

An adapter's folder is one for diffusers' `load_lora_weights`; `open_adapters` opens all of them. A folder of images is
one for any image tool; here `folder:PATH` opens it, wherever a data set is named.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from zsclib.extra import counts
from zsclib.images.class_folders import ABOUT, folder_names, to_folder
from zsclib.models.folders import check_told_apart
from zsclib.models.generator import Generator
from zsclib.models.lora import load_adapter, save_adapter
from zsclib.own_sets import set_name
from zsclib.papers.datadream.arms import check_arm, make_set
from zsclib.papers.datadream.generated_arms import BY_CLASS, SCOPES, adapted, adapter_hash
from zsclib.papers.datadream.training_sets import Setting, class_prompts, open_filter, shots
from zsclib.paths import run_folder, write_json
from zsclib.workers import Execution

ADAPTERS, IMAGES = "adapters", "training sets"  # in the folder of the run


def adapted_arms(arms: Sequence[str]) -> dict[str, str]:
    """Return the arms of a comparison whose images and adapters are left, and whose adapters each has.

    Raises:
        ValueError: an arm that is none, or "DataDream, by class" is not among them: of it adapters are shown, and
            the released code's shortcuts are measured.
    """
    for arm in arms:
        check_arm(arm)
    known = {f"DataDream, {scope}": scope for scope in SCOPES}
    if f"DataDream, {BY_CLASS}" not in arms:
        raise ValueError(f"arms must have 'DataDream, {BY_CLASS}' among them, got {', '.join(arms) or 'none'}")
    return {arm: known[arm] for arm in arms if arm in known}


def classes_read(setting: Setting, target: str, seed: int = 0) -> pd.DataFrame:
    """Return a row per class: its name, its prompt, and how many images are shots, validation and test images.

    Raises:
        FileNotFoundError, ValueError: the set is not there, or not fit (`zsclib.papers.datadream.training_sets.shots`),
            or two of its classes are the same words to the CLIP.
    """
    one = shots(setting, target, seed)
    prompts = class_prompts(setting, one)
    check_told_apart([open_filter(setting).tokenizer], prompts, one.real.classes)
    columns = {"shots": one.real, "validation": one.validation, "test": one.test}
    facts = {"class": one.real.classes, "prompt": prompts}
    return pd.DataFrame(facts | {name: counts(images) for name, images in columns.items()})


def leave_adapters(
    setting: Setting,
    target: str,
    execution: Execution,
    *,
    seed: int = 0,
    scopes: Sequence[str] = SCOPES,
    folder: Path | None = None,
) -> pd.DataFrame:
    """Adapt the generator to the shots, as far as the cache lacks it, and leave each adapter in a folder of its own.

    They lie at adapters/SET/by class/CLASS and adapters/SET/all classes, with about.json beside them: model, prompts,
    and which folder is which class's. What an earlier run left under these names is replaced, file by file.

    Args:
        scopes: of "by class" and "all classes". seed: whose shots. folder: None: that of the current run.

    Returns:
        A row per class, or for an adapter of all classes one: scope, class, folder (relative to the run's), adapter
        (its hash), samples it learnt from, and its loss on validation images at the beginning and at the end.
    """
    one, root, rows = shots(setting, target, seed), folder or run_folder(), []
    prompts = class_prompts(setting, one)
    for scope in scopes:
        generators = adapted(setting, one, execution, scope)
        place = Path(ADAPTERS) / set_name(target) / scope
        inner = folder_names(one.real.classes) if scope == BY_CLASS else ["."] * len(one.real.classes)
        left = {name: generators[name] for name in (one.real.classes if scope == BY_CLASS else one.real.classes[:1])}
        for (name, generator), where in zip(left.items(), inner, strict=False):
            save_adapter(generator, root / place / where)
            history = generator.history
            facts = {"class": name if scope == BY_CLASS else "all", "folder": (place / where).as_posix()}
            facts |= {"adapter": adapter_hash(generator), "samples": int(history["samples"].iloc[-1])}
            losses = {"loss before": history["held_out"].iloc[0], "loss after": history["held_out"].iloc[-1]}
            rows.append({"scope": scope, **facts, **losses})
        about = {"data set": set_name(target), "model": Path(setting.model).name, "shots": setting.shots, "seed": seed}
        about["classes"] = dict(zip(one.real.classes, inner, strict=True))
        about["prompts"] = dict(zip(one.real.classes, prompts, strict=True))
        write_json(root / place / ABOUT, about)
    return pd.DataFrame(rows)


def open_adapters(generator: Generator, folder: Path | str) -> dict[str, Generator]:
    """Open the adapters that `leave_adapters` left in a folder, ADAPTERS/SET/SCOPE: an adapted generator by class name.

    Args:
        generator: the base model that they were tuned on, in float32.

    Raises:
        FileNotFoundError: there are none, or one is missing.
        ValueError: one is cut short, or for another base model; file and class are named.
    """
    folder = Path(folder)
    if not (folder / ABOUT).is_file():
        raise FileNotFoundError(f"{folder}: there is no {ABOUT}, so no adapters that leave_adapters left")
    opened: dict[str, Generator] = {}
    adapters: dict[str, Generator] = {}
    for name, inner in json.loads((folder / ABOUT).read_text(encoding="utf-8"))["classes"].items():
        try:
            adapters[name] = opened[inner] = opened.get(inner) or load_adapter(generator, folder / inner)
        except (FileNotFoundError, ValueError) as error:
            raise type(error)(f"class {name!r}: {error}") from None
    return adapters


def leave_images(
    setting: Setting,
    target: str,
    execution: Execution,
    arms: Sequence[str],
    *,
    seed: int = 0,
    folder: Path | None = None,
) -> pd.DataFrame:
    """Make the sets of some arms, as far as the cache lacks them, and leave each as a folder with one for every class.

    They lie at training sets/SET/ARM, with manifest.csv (a row per image: file, class, prompt, seed, adapter, …),
    report.csv (a row per class) and about.json. What an earlier run left there is replaced.

    Args:
        arms: keys of `zsclib.papers.datadream.arms.ARMS`. seed: whose shots. folder: None: that of the current run.

    Returns:
        A row per arm: arm, folder (relative to the run's), images, fewest of a class.
    """
    root, rows = folder or run_folder(), []
    for arm in arms:
        extra = make_set(setting, target, seed, arm, execution)
        place = Path(IMAGES) / set_name(target) / arm
        about = {"data set": set_name(target), "arm": arm, "model": Path(setting.model).name}
        about |= {"shots": setting.shots, "seed": seed}
        to_folder(extra.images, root / place, about, extra.report)
        facts = {"images": len(extra.images), "fewest of a class": int(counts(extra.images).min())}
        rows.append({"arm": arm, "folder": place.as_posix(), **facts})
    return pd.DataFrame(rows)
