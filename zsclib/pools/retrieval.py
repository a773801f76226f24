"""The images of a pool that are nearest to each class, as a labelled set (Burg et al. 2023, retrieval).

    from zsclib.models.clip import open_clip
    from zsclib.pools.captioned import open_pool
    from zsclib.pools.embeddings import embed
    from zsclib.pools.index import build_index
    from zsclib.pools.queries import text_queries

    pool = open_pool(f"folder:{captioned}")
    embeddings = embed(pool, clip_folder, embedded)         # once; a folder of its own
    queries = text_queries(open_clip(clip_folder), classes, ["a photo of a {}"])
    retrieved = retrieve(pool, build_index(embeddings), queries, classes, n=2, size=16)
    retrieved.report                                        # (C, 11)

`retrieve` gives an image set; `retrieve_to_folder` writes the files as they are in the pool.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from zsclib.checks import is_integer
from zsclib.hashing import key
from zsclib.images.class_folders import refuse_other_files, write_files, write_notes
from zsclib.images.files import decode
from zsclib.images.image_set import ImageSet
from zsclib.paths import atomic
from zsclib.pools.captioned import CaptionedPool
from zsclib.pools.copies import SIDE, Traces, alignment, thumbnails
from zsclib.pools.index import Index
from zsclib.pools.ladder import Ladder, Rules, Taken

if TYPE_CHECKING:
    from zsclib.workers import Progress

NAMED = 5  # overlapping images in an error
LOOKED_AT = 32  # nearest pool images among which a copy of a test image is sought


@dataclass(frozen=True)
class Retrieved:
    """What was retrieved.

    Attributes:
        images: the set, class by class, the most similar first. Manifest: source (the image's id in the pool), caption,
            similarity (to the query), rank (in the class's list, 0 the nearest), row (in the pool).
        report: a row per class: asked, delivered, hits, what each rung of the ladder dropped, mean similarity, and what
            ended the search. Nothing is filled up where a class falls short.
    """

    images: ImageSet
    report: pd.DataFrame


def retrieve(
    pool: CaptionedPool,
    index: Index,
    queries: np.ndarray,
    classes: Sequence[str],
    n: int,
    *,
    held_out: Traces | None = None,
    rules: Rules | None = None,
    size: int | None = None,
) -> Retrieved:
    """Return up to n images of a pool for each class, those nearest to its query that pass the ladder.

    Args:
        pool: where the images are; it must be the one that was embedded.
        index: of its embeddings.
        queries: float32 (C, d), unit length (see `zsclib.pools.queries`).
        classes: C names.
        n: quota of each class.
        held_out: traces of images (see `zsclib.pools.copies.traces`) whose near-copies are dropped and counted.
        rules: of the ladder; None: the defaults.
        size: side in pixels to which images are resized; None: they are of one size.

    Raises:
        ValueError: queries and classes that do not fit one another or the embeddings, embeddings of another pool, or
            images of several sizes and no `size`.
    """
    ladder = _ladder(index, queries, classes, n, (held_out, rules))
    places = index.embeddings.rows_in(pool)

    def open_rows(rows: np.ndarray) -> list[tuple[np.ndarray, np.ndarray] | None]:
        return [None if image is None else (image, image) for image in pool.read(places[rows], size)]

    taken = sorted(ladder.climb(open_rows), key=lambda one: (one.label, one.rank))
    shapes = {one.image.shape: one for one in taken}
    if len(shapes) > 1:
        (h0, w0, _), (h, w, _) = list(shapes)[:2]
        raise ValueError(
            f"{pool.name}: retrieved images differ in size, {w0}×{h0} and {w}×{h}; give size=, such as 32"
        )
    side = size or 1
    images = np.stack([one.image for one in taken]) if taken else np.empty((0, side, side, 3), np.uint8)
    labels = np.array([one.label for one in taken], np.int64)
    manifest = _manifest(pool, taken, places)
    return Retrieved(
        ImageSet(images, labels, tuple(classes), manifest=manifest), ladder.report(tuple(classes))
    )


def retrieve_to_folder(
    pool: CaptionedPool,
    index: Index,
    queries: np.ndarray,
    classes: Sequence[str],
    n: int,
    folder: Path | str,
    *,
    choice: tuple[Traces | None, Rules | None] = (None, None),
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Retrieve as `retrieve` does, into FOLDER/CLASS/NUMBER.jpg, the files as they are in the pool; return the report.

    `zsclib.datasets.load("folder:FOLDER", size=32)` opens it. Beside the images lie report.csv and manifest.csv. Either
    all of it is written, or nothing. A class that got no image has no folder.

    Args:
        choice: held-out traces and rules, as `retrieve` takes them.
        progress: called with what is done, how many images, of how many.

    Raises:
        FileExistsError: the folder is there already, and not empty.
        ValueError: as `retrieve`, or class names that cannot be folders.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} is there already; give another folder, or remove it")
    names = _folder_names(classes)
    ladder = _ladder(index, queries, classes, n, choice)
    places = index.embeddings.rows_in(pool)

    def open_rows(rows: np.ndarray) -> list[tuple[tuple[bytes, str], np.ndarray] | None]:
        files = zip(rows, pool.files(places[rows]), strict=True)
        return [
            None if file is None else (file, decode(file[0], pool.ids[places[row]], SIDE))
            for row, file in files
        ]

    report = progress or (lambda what, done, total: None)
    total, taken = n * len(classes), []

    def files() -> Iterator[tuple[int, bytes, str]]:
        for one in ladder.climb(open_rows):
            yield (one.label, *one.image)
            taken.append(one._replace(image=None))
            report("retrieving", len(taken), total)

    with atomic(folder) as temporary:
        temporary.mkdir()
        report("retrieving", 0, total)
        paths = write_files(temporary, names, files())
        report("retrieving", total, total)
        table = ladder.report(tuple(classes))
        about = {"pool": pool.name, "pool fingerprint": pool.fingerprint(), "model": index.embeddings.model}
        about |= {
            "embeddings": index.embeddings.fingerprint(),
            "index": index.kind,
            "queries": key(queries=queries),
        }
        about |= {"classes": list(classes), "n": n, "rules": asdict(ladder.rules)}
        write_notes(temporary, paths, _manifest(pool, taken, places), table, about)
    return table


def save_files(
    pool: CaptionedPool, images: ImageSet, report: pd.DataFrame, folder: Path | str, about: Mapping[str, object]
) -> None:
    """Write what `retrieve` returned as `retrieve_to_folder` does: the files as they are in the pool, and notes.

    A folder that this wrote before is replaced, whole or not at all.

    Args:
        images: retrieved ones; of the manifest, `row` is the place in the pool, and `source` the image's id.
        report: a row per class. about: what the set was made from, as JSON values.

    Raises:
        FileExistsError: something else is in the folder.
        FileNotFoundError: the pool, or a shard of it, has vanished.
        ValueError: an image is not readable any more, or class names cannot be folders.
    """
    folder, names = Path(folder), _folder_names(images.classes)
    refuse_other_files(folder)
    rows = images.manifest["row"].to_numpy(np.int64)

    def files() -> Iterator[tuple[int, bytes, str]]:
        for start in range(0, len(rows), 256):
            part = rows[start : start + 256]
            for row, label, file in zip(part, images.labels[start : start + 256], pool.files(part), strict=True):
                if file is None:
                    raise ValueError(
                        f"{pool.name}: {pool.ids[row]!r} was retrieved, and cannot be read any more; put it back and "
                        "run again"
                    )
                yield (label, *file)

    with atomic(folder) as temporary:
        temporary.mkdir()
        paths = write_files(temporary, names, files())
        facts = {"pool": pool.name, "pool fingerprint": pool.fingerprint(), "classes": list(images.classes)}
        write_notes(temporary, paths, images.manifest, report, facts | dict(about))


def refuse_overlap(
    pool: CaptionedPool,
    index: Index,
    test: Traces,
    *,
    rules: Rules | None = None,
    count_and_drop: bool = False,
    names: Sequence[str] = (),
) -> np.ndarray:
    """Return the pool's rows of near-copies of test images, int64, where they may be dropped; refuse them otherwise.

    Each test image's nearest pool images are looked at.

    Args:
        test: traces of the test images; given to `retrieve` as held out, it drops the copies.
        count_and_drop: whether to go on.
        names: of the test images, for the error; their numbers where there are none.

    Raises:
        ValueError: the pool holds copies of test images, and `count_and_drop` is not set.
    """
    rules, places = rules or Rules(), index.embeddings.rows_in(pool)
    similarities, rows = index.search(test.features, LOOKED_AT)
    images, hits = np.nonzero(similarities >= rules.similar)
    candidates, copies = places[rows[images, hits]], []
    for start in range(0, len(candidates), 256):
        part = slice(start, start + 256)
        opened = pool.read(candidates[part], SIDE)
        usable = [i for i, image in enumerate(opened) if image is not None]
        alike = (
            alignment(thumbnails([opened[i] for i in usable]), test.thumbnails[images[part][usable]])
            >= rules.aligned
        )
        copies += [
            (images[part][i], candidates[part][i]) for i, same in zip(usable, alike, strict=True) if same
        ]
    if copies and not count_and_drop:
        originals = {int(image): pool.ids[row] for image, row in reversed(copies)}  # of each the first copy
        shown = sorted(originals)[:NAMED]
        pairs = [f"{names[i] if len(names) else f'image {i}'} ({originals[i]} in the pool)" for i in shown]
        raise ValueError(
            f"the pool {pool.name!r} overlaps the test set: {len(originals)} of {len(test)} test images have "
            f"near-copies in it, {', '.join(pairs)}{', …' * (len(originals) > NAMED)}; take them out of the pool, or "
            "have them counted and dropped (count_and_drop=True, --count-and-drop)"
        )
    return np.unique(np.array([row for _, row in copies], np.int64))


def _ladder(
    index: Index,
    queries: np.ndarray,
    classes: Sequence[str],
    n: int,
    choice: tuple[Traces | None, Rules | None],
) -> Ladder:
    held_out, rules = choice
    if isinstance(classes, str) or len(queries) != len(classes) or not len(classes):
        raise ValueError(f"retrieve: {len(queries)} queries for the classes {classes!r}; give one for each")
    if not is_integer(n, 1):
        raise ValueError(f"retrieve: n must be 1 image or more of a class, got {n!r}")
    width = index.embeddings.vectors.shape[1]
    if held_out is not None and not isinstance(held_out, Traces):
        raise TypeError("retrieve: held_out must be traces, made by zsclib.pools.copies.traces(clip, images)")
    if held_out is not None and held_out.features.shape[1] != width:
        raise ValueError(
            f"retrieve: held-out features are {held_out.features.shape[1]} wide, the pool's embeddings {width}; both "
            "must come from one CLIP"
        )
    return Ladder(index, np.asarray(queries, np.float32), n, held_out, rules or Rules())


def _manifest(pool: CaptionedPool, taken: Sequence[Taken], places: np.ndarray) -> pd.DataFrame:
    rows = [int(places[one.row]) for one in taken]
    return pd.DataFrame(
        {
            "source": [pool.ids[row] for row in rows],
            "caption": [pool.captions[row] for row in rows],
            "similarity": np.array([one.similarity for one in taken], np.float32),
            "rank": np.array([one.rank for one in taken], np.int64),
            "row": np.array(rows, np.int64),
        }
    )


def _folder_names(classes: Sequence[str]) -> list[str]:
    names = [name.strip().replace("/", "-") for name in classes]
    if any(name.startswith(".") or not name for name in names) or len({name.lower() for name in names}) < len(
        names
    ):
        raise ValueError(
            f"the classes {list(classes)} cannot be folders of their own; give names that differ"
        )
    return names
