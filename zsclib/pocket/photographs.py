"""The pool of real photographs: captioned images to learn from, none of which is tested on.

    python -m zsclib.pocket photographs --data PATH --out OUT

reads the files that `data/photographs/README.md` describes, cifar10/train.parquet and so on, in the folder PATH, and
writes OUT/pool.parquet, which opens as `parquet:OUT/pool.parquet` wherever captioned images are asked for, and beside
it the labelled sets of `zsclib.pocket.photograph_sets`. `--vague` and `--caption-noise` are the shares of captions that
are vague and wrong. Which image may be learnt from the splits say, by its hash.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from zsclib.images.image_set import ROWS_PER_GROUP, readable
from zsclib.images.parquet import class_names
from zsclib.paths import atomic
from zsclib.pocket.photograph_captions import FOLDER, KINDS, MIX, Mix, Photograph, Words, caption, load_words
from zsclib.seeds import seed_of

ABOUT = "data/photographs/README.md"
SCHEMA = pa.schema(
    {
        "image": pa.binary(),
        "caption": pa.string(),
        "set": pa.string(),
        "domain": pa.string(),
        "class": pa.string(),
    }
    | {"hash": pa.binary(), "caption_kind": pa.string()}
)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Which image is what.

    Args:
        splits: set, domain, hash and split of every image that is listed, `splits.parquet`.
        files, pool, sets: the user's files, what of them is learnt from, and what sets are cut, `sets.yml`.
        prompts: in what words all sets are asked for, unless a set says otherwise.
        words: what captions are made of, `captions.yml`.
    """

    splits: pd.DataFrame
    files: Mapping[str, Mapping]
    pool: Mapping[str, Mapping]
    sets: Mapping[str, Mapping]
    prompts: Mapping[str, object]
    words: Words


def load_layout(folder: Path = FOLDER) -> Layout:
    """Read the three files of a layout from a folder."""
    content = yaml.safe_load((folder / "sets.yml").read_text(encoding="utf-8"))
    splits = pd.read_parquet(folder / "splits.parquet").astype({"set": str, "domain": str, "split": str})
    return Layout(splits=splits, words=load_words(folder / "captions.yml"), **content)


def image_hash(data: bytes) -> bytes:
    """Return what the splits know an image by: BLAKE2b of its stored bytes, 8 bytes."""
    return hashlib.blake2b(data, digest_size=8).digest()


def read_images(data: Path, file: str, layout: Layout) -> pd.DataFrame:
    """Read the images of a file: image (bytes), path, label, hash, split, domain, in the order of their hashes.

    What the splits do not list is "free" where the layout says that the file has such images. An image that the file
    has twice is there once, and one that the splits list for another file of the set is left out.

    Args:
        data: the folder that holds all files.
        file: a path in it, one of `layout.files`.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is damaged, its classes are others, or it is another version: it lacks images that the splits
            list, has some that they should list, or has not as many as it should.
    """
    path, about = data / file, layout.files[file]
    name, splits = about["set"], about["splits"]
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: there is no such file; the pool needs {', '.join(layout.pool)}, and a labelled set the files of "
            f"its images ({ABOUT} describes all); --sets NAME NAME cuts these sets only"
        )
    with readable(path), pq.ParquetFile(path) as parquet:
        names = class_names(parquet.schema_arrow, "label")
        table = parquet.read(columns=["image", "label"]).to_pandas()
        images = pd.DataFrame(table["image"].tolist(), columns=["bytes", "path"])
        hashes = images["bytes"].map(image_hash)
    own = list(layout.words.classes[name])
    if names != own:
        raise ValueError(
            f"{path}: the {len(own)} classes of {name} must be those of captions.yml in their order, "
            f"{', '.join(own[:5])} …, got {', '.join((names or ['none'])[:5])} …; take the file as {ABOUT} describes it"
        )
    listed = layout.splits[layout.splits["set"] == name].set_index("hash")
    due = listed.index[listed["split"].isin(splits)]
    uses = ", ".join(split for split in splits if split != "free")
    present = due.isin(hashes).sum()
    strange = 0 if "free" in splits else (~hashes.isin(listed.index)).sum()
    if present < len(due) or strange or len(images) != about["images"]:
        raise ValueError(
            f"{path}: another version of {name} than the splits were cut from: of the {len(due)} images listed "
            f"as {uses} {present} are in it, by the hash of their bytes; {strange} of its images should be listed and "
            f"are not; it has {len(images)} images, not {about['images']}; take the file as {ABOUT} describes it"
        )
    frame = images.assign(label=table["label"], hash=hashes).rename(columns={"bytes": "image"})
    frame["split"] = hashes.map(listed["split"]).fillna("free")
    frame["domain"] = hashes.map(listed["domain"]).fillna("photo")
    frame = frame.sort_values(["hash", "label"]).drop_duplicates("hash")
    return frame[frame["split"].isin(splits)].reset_index(drop=True)


def write_pool(data: Path, path: Path, mix: Mix = MIX, layout: Layout | None = None) -> pd.DataFrame:
    """Write the pool as Parquet, whole or not at all; the same bytes on every call, in whatever order the files are.

    Its columns are image (the stored bytes), caption, set, domain, class (as labelled sets call it), hash, and
    caption_kind, one of `KINDS`. Its order is drawn by the seed: the last rows are a sample of all sets.

    Args:
        data: the folder that holds all files.
        path: of the pool.
        layout: default: that of `data/photographs`.

    Returns:
        A row per file: how many of its images are what, and how many captions are right, vague and wrong.

    Raises:
        FileNotFoundError, ValueError: as `read_images`; or an image to learn from is listed for something else, too.
    """
    layout = layout or load_layout()
    pool, counts = [], {}
    for file, rule in layout.pool.items():
        images, name = read_images(data, file, layout), layout.files[file]["set"]
        learnt = (images["split"] == rule["split"]) & images["domain"].isin(rule["domains"])
        own = images[learnt]
        _refuse_tested(own["hash"], name, rule["split"], layout)
        classes = layout.words.classes[name]
        names = list(classes)
        labels = [names[label] for label in own["label"]]
        photographs = map(Photograph, repeat(name), own["domain"], labels, own["hash"])
        captions, kinds = zip(*(caption(one, layout.words, mix) for one in photographs), strict=True)
        shown = {"set": name, "class": [classes[label].bare for label in labels]}
        pool.append(own.assign(caption=captions, caption_kind=kinds, **shown))
        counts[file] = {"images": layout.files[file]["images"], "pool": len(own)}
        counts[file] |= Counter(images["split"][~learnt]) | Counter(kinds)
    frame = pd.concat(pool, ignore_index=True)
    keys = zip(frame["set"], frame["hash"].map(bytes.hex), strict=True)
    turn = [seed_of(mix.seed, "photograph order", *key) for key in keys]
    frame = frame.iloc[np.argsort(turn, kind="stable")]
    table = pa.Table.from_pandas(frame[SCHEMA.names], SCHEMA, preserve_index=False)
    table = table.replace_schema_metadata(None)  # pandas's own, which differs from version to version
    with atomic(path) as temporary:
        pq.write_table(table, temporary, row_group_size=ROWS_PER_GROUP, compression="zstd")
    uses = ["pool", "validation", "test", "train", "dropped"]
    report = pd.DataFrame.from_dict(counts, orient="index").reindex(columns=["images", *uses, *KINDS])
    report = report.fillna(0).astype(int)
    report.insert(6, "repeated", report["images"] - report[uses].sum(axis=1))
    return report.rename(columns={"train": "shots"})


def _refuse_tested(hashes: pd.Series, name: str, split: str, layout: Layout) -> None:
    """Raise ValueError where an image to learn from is listed for anything else, of any set."""
    others = layout.splits[(layout.splits["set"] != name) | (layout.splits["split"] != split)]
    if len(clash := others[others["hash"].isin(hashes)]):
        first = clash.iloc[0]
        raise ValueError(
            f"splits.parquet: {len(clash)} images of {name} that would be learnt from are listed otherwise, too, first "
            f"{first['hash'].hex()} as {first['split']} of {first['set']}; list them as dropped, of {name}"
        )
