"""Labelled sets of real photographs, cut by the splits: train (shots), validation, test.

    python -m zsclib.pocket photographs --data PATH --out OUT --sets cifar10 pacs-sketch

writes OUT/sets/NAME/train.parquet, validation.parquet and test.parquet, in the Hub's layout, so that
`photographs:NAME` is a data set for every page (`--photographs OUT`); and prompts.yml beside them, which asks for its
classes with the right articles. Whether a set's own training images are in the pool,
`data/photographs/README.md` says. Without --sets all are cut; a set needs the files of its own images only.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from zsclib.checks import did_you_mean
from zsclib.images.image_set import IMAGE_TYPE, ROWS_PER_GROUP
from zsclib.paths import atomic
from zsclib.pocket.photograph_captions import Class
from zsclib.pocket.photographs import Layout, load_layout, read_images


def write_sets(
    data: Path, folder: Path, names: Sequence[str] | None = None, layout: Layout | None = None
) -> pd.DataFrame:
    """Write labelled sets, each file whole or not at all, with the images' stored bytes in the order of their hashes.

    Args:
        data: the folder that holds the files of `sets.yml`.
        folder: of the sets; each is a folder in it.
        names: which sets; None: all.
        layout: default: that of `data/photographs`.

    Returns:
        A row per set: the images in each split, its classes, and whether its training images are in the pool.

    Raises:
        FileNotFoundError, ValueError: as `zsclib.pocket.photographs.read_images`; or a set of an unknown name.
    """
    layout = layout or load_layout()
    names = list(layout.sets) if names is None else names
    for name in names:
        if name not in layout.sets:
            raise ValueError(
                f"there is no set {name!r}{did_you_mean(name, layout.sets)}; there are {', '.join(layout.sets)}"
            )
    rows = {}
    for source in dict.fromkeys(layout.sets[name]["of"] for name in names):
        files = [file for file, about in layout.files.items() if about["set"] == source]
        images = pd.concat([read_images(data, file, layout) for file in files], ignore_index=True)
        for name in names:
            if layout.sets[name]["of"] == source:
                rows[name] = _write_set(images, folder / name, name, layout)
    return pd.DataFrame([rows[name] for name in names], index=list(names))


def _write_set(images: pd.DataFrame, folder: Path, name: str, layout: Layout) -> dict[str, int | bool]:
    about, classes, labels = layout.sets[name], _classes(name, layout), labels_of(name, layout)
    images = images[(images["domain"] == about["domain"]) & images["label"].isin(labels)]
    images = images.assign(label=images["label"].map({label: new for new, label in enumerate(labels)}))
    label = {"names": [one.bare for one in classes], "_type": "ClassLabel"}
    features = {"image": {"_type": "Image"}, "label": label, "domain": {"dtype": "string", "_type": "Value"}}
    schema = pa.schema(
        [("image", IMAGE_TYPE), ("label", pa.int64()), ("domain", pa.string())],
        {"huggingface": json.dumps({"info": {"features": features}})},
    )
    counts = {}
    for split, part in {"train": about.get("train"), "validation": "validation", "test": "test"}.items():
        own = images[images["split"] == part]
        counts[split] = len(own)
        if part is None:
            continue
        files = [{"bytes": data, "path": path} for data, path in zip(own["image"], own["path"], strict=True)]
        table = pa.table([files, own["label"], own["domain"]], schema=schema)
        with atomic(folder / f"{split}.parquet") as temporary:
            pq.write_table(table, temporary, row_group_size=ROWS_PER_GROUP, compression="zstd")
    with atomic(folder / "prompts.yml") as temporary:
        temporary.write_text(words_of(name, layout), encoding="utf-8")
    return counts | {"classes": len(classes), "in pool": about["in_pool"]}


def words_of(name: str, layout: Layout) -> str:
    """Return the prompts of a set as YAML, as `zsclib.prompts.load_prompts` reads them.

    They ship as well, in `data/prompts/photographs`, so that what was measured can be shown where no photograph is.
    """
    about = layout.sets[name]
    own = {part: about.get(part, common) for part, common in layout.prompts.items()}
    own["templates"] = list(dict.fromkeys([about["template"], *own["templates"]]))
    content = {"about": f"The classes of {name}.", "template": about["template"]} | own
    content["classes"] = [one.names[0] for one in _classes(name, layout)]
    return yaml.safe_dump(content, allow_unicode=True, sort_keys=False)


def labels_of(name: str, layout: Layout) -> list[int]:
    """Return the labels, in the files of its images, of the classes that a set takes.

    Raises:
        ValueError: the set takes a class that there is not.
    """
    about = layout.sets[name]
    known = list(layout.words.classes[about["of"]])
    taken = about.get("classes", known[:: about.get("every", 1)])
    for label in taken:
        if label not in known:
            raise ValueError(f"sets.yml: {name} has no class {label!r}{did_you_mean(label, known)}")
    return [known.index(label) for label in taken]


def _classes(name: str, layout: Layout) -> list[Class]:
    known = list(layout.words.classes[layout.sets[name]["of"]].values())
    return [known[label] for label in labels_of(name, layout)]
