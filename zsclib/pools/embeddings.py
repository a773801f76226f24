"""CLIP embeddings of a pool on disk, in clip-retrieval's layout: made once, resumable, read through memory maps.

A folder of them holds

- img_emb/img_emb_0.npy, float16 (n, d), unit rows;
- metadata/metadata_0.parquet, the columns image_path, caption, and row, the place in the pool;
- about.json: model, pool and files. Where it is, the folder is whole.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from zsclib.cache import Cache
from zsclib.hashing import key
from zsclib.images.image_set import readable
from zsclib.models.clip import Clip, open_clip
from zsclib.paths import alone, atomic, write_json
from zsclib.pools.captioned import CaptionedPool
from zsclib.pools.model import check_model, model_fingerprint, side_of
from zsclib.pools.vectors import Embeddings, Vectors, check_unit, open_vectors, spread
from zsclib.workers import Execution, Job, run_jobs

CHUNK = 1024  # images of a job
SHARD = 128 * CHUNK  # images of a file: 200 MB at a width of 768


def embed(
    pool: CaptionedPool, clip: Clip | str | Path, folder: Path | str, execution: Execution | None = None,
    device: str = "cpu",
) -> Embeddings:  # fmt: skip
    """Embed every readable image of a pool, or go on where an earlier call was stopped.

    Args:
        pool: what to embed. Images are resized to CLIP's own side as they are read.
        clip: the folder or Hub id of a CLIP, which every worker opens for itself; or an opened one, which travels with
            each job.
        folder: where the embeddings go. What is finished there is used again: shards, and chunks of 1,024 images.
        execution: `batch` images are decoded and embedded at once, by its `workers`; `progress` counts images. The
            folder is the cache.
        device: where a CLIP named by its folder computes.

    Raises:
        ValueError: the folder holds the embeddings of another pool or model, or no image is readable.
        FileNotFoundError: a shard of the pool vanished. Finished chunks stay.
    """
    folder, execution = Path(folder), execution or Execution()
    opened = clip if isinstance(clip, Clip) else _opened(str(clip), device)
    facts = {"model": model_fingerprint(opened), "pool": pool.fingerprint(), "images": len(pool)}
    if (folder / "about.json").is_file():
        _check_same(folder, _facts(folder / "about.json"), facts)
        return open_embeddings(folder)
    if (folder / "img_emb").is_dir() and not (folder / "unfinished.json").is_file():
        raise ValueError(f"{folder} holds embeddings that were not made here; give another folder")
    with alone(folder, "embedding into it"):
        if (folder / "unfinished.json").is_file():
            _check_same(folder, _facts(folder / "unfinished.json"), facts)
        write_json(folder / "unfinished.json", facts)
        starts = range(0, len(pool), SHARD)
        digits = len(str(len(starts)))
        for number, start in enumerate(starts):
            files = _shard_files(folder, f"{number:0{digits}d}")
            if not files[1].is_file():
                rows = np.arange(start, min(start + SHARD, len(pool)))
                how = (clip if isinstance(clip, Clip) else str(clip), device, execution.batch)
                _embed_shard(pool, rows, files, how, facts["model"], execution)
        shards = [_shard_files(folder, f"{number:0{digits}d}") for number in range(len(starts))]
        rows = np.concatenate(
            [pq.read_table(table, columns=["row"])["row"].to_numpy() for _, table in shards]
        )
        if not len(rows):
            raise ValueError(
                f"{pool.name}: none of its {len(pool)} images is readable; look at {pool.ids[0]!r}"
            )
        absent = np.setdiff1d(np.arange(len(pool)), rows)
        sizes = {file.name: file.stat().st_size for file, _ in shards}
        about = {
            **facts,
            "embedded": len(rows),
            "unreadable": [pool.ids[row] for row in absent],
            "files": sizes,
        }
        write_json(folder / "about.json", about)  # last: where it is, the folder is whole
        (folder / "unfinished.json").unlink()
        shutil.rmtree(folder / "unfinished", ignore_errors=True)
    return open_embeddings(folder)


def open_embeddings(folder: Path | str, model: Clip | None = None) -> Embeddings:
    """Open embeddings that `embed` or clip-retrieval made.

    Every row of others' files is checked; of our own, their sizes and rows spread over the whole.

    Args:
        folder: with img_emb/img_emb_*.npy and metadata/metadata_*.parquet, in as many shards as there are.
        model: the CLIP that they are to be searched with.

    Raises:
        FileNotFoundError: no such folder, or a shard of vectors or metadata is missing.
        ValueError: unfinished; a shard cut short; rows that are NaN or not of unit length; other counts of vectors and
            metadata; another model or width than that of `model`.
    """
    folder = Path(folder).expanduser()
    numbers = sorted(
        (int(match[1]), match[1])
        for file in folder.glob("img_emb/img_emb_*.npy")
        if (match := _NUMBER.search(file.name))
    )
    about = _facts(folder / "about.json") if (folder / "about.json").is_file() else {}
    if (folder / "unfinished.json").is_file() and not about:
        raise ValueError(
            f"{folder}: these embeddings are not finished; give the command that makes them once more"
        )
    names = list(about.get("files", [])) or [f"img_emb_{number}.npy" for _, number in numbers]
    if not names:
        raise FileNotFoundError(
            f"{folder}: no embeddings; expected img_emb/img_emb_0.npy and metadata/metadata_0.parquet"
        )
    files = [_shard_files(folder, _NUMBER.search(name)[1]) for name in names]
    vectors = open_vectors([vectors for vectors, _ in files])
    for (file, table), part in zip(files, vectors.parts, strict=True):
        if file.stat().st_size != about.get("files", {}).get(file.name, file.stat().st_size):
            raise ValueError(
                f"{file}: {file.stat().st_size} bytes, {about['files'][file.name]} when it was written; embed again"
            )
        if not table.is_file():
            raise FileNotFoundError(
                f"{table}: {file.name} has no metadata beside it; put it back or embed again"
            )
        with readable(table):
            count = pq.read_metadata(table).num_rows
        if count != len(part):
            raise ValueError(f"{file}: {len(part)} embeddings, {table.name} has {count} rows; each needs one")
    check_unit(vectors, folder, spread(len(vectors)) if about else None)
    embeddings = Embeddings(vectors, [table for _, table in files], folder=folder, **about)
    if model is not None:
        check_model(embeddings, model)
    return embeddings


_NUMBER = re.compile(r"_(\d+)\.npy$")
_opened = lru_cache(maxsize=1)(open_clip)


def _embed_shard(
    pool: CaptionedPool,
    rows: np.ndarray,
    files: tuple[Path, Path],
    how: tuple,
    model: str,
    execution: Execution,
) -> None:
    """Embed some rows of a pool into one file of vectors and one of metadata, the latter last."""
    parts = [pool.take(rows[start : start + CHUNK]) for start in range(0, len(rows), CHUNK)]
    keys = [
        key(model=model, part=part.fingerprint(), written=part.source.content(modified=True))
        for part in parts
    ]
    jobs = [Job(_embedded, (part, *how), name, len(part)) for part, name in zip(parts, keys, strict=True)]
    chunks = files[0].parents[1] / "unfinished" / files[0].stem

    def progress(what: str, done: int, _: int) -> None:
        execution.progress(what, int(rows[0]) + done, len(pool))

    own = replace(execution, cache=Cache(chunks), progress=progress if execution.progress else None)
    vectors, readable_rows = [], []
    for arrays, start in zip(
        run_jobs(jobs, own, "embedding"), range(int(rows[0]), len(pool), CHUNK), strict=False
    ):
        vectors.append(arrays["vectors"])
        readable_rows.append(start + np.flatnonzero(arrays["readable"]))
    present = np.concatenate(readable_rows)
    table = {
        "image_path": [pool.ids[row] for row in present],
        "caption": [pool.captions[row] for row in present],
        "row": present,
    }
    with atomic(files[0]) as temporary:
        np.save(temporary, np.concatenate(vectors))
    with atomic(files[1]) as temporary:
        pq.write_table(pa.table(table), temporary)
    shutil.rmtree(chunks)


def _embedded(part: CaptionedPool, clip: Clip | str, device: str, batch: int) -> dict[str, np.ndarray]:
    """Return unit float16 embeddings of the readable images of a part of a pool, and which these are."""
    model = clip if isinstance(clip, Clip) else _opened(clip, device)
    rows, usable = [np.empty((0, model.model.config.projection_dim), np.float16)], []
    for start in range(0, len(part), batch):
        images = part.read(np.arange(start, min(start + batch, len(part))), side_of(model))
        usable += [image is not None for image in images]
        if any(usable[start:]):
            stack = np.stack([image for image in images if image is not None])
            rows.append(model.encode_images(stack).cpu().numpy().astype(np.float16))
    vectors = np.concatenate(rows)
    check_unit(Vectors([vectors]), f"{part.name}, images from {part.ids[0]} on")
    return {"vectors": vectors, "readable": np.array(usable, bool)}


def _facts(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: damaged ({error}); remove the folder and embed again") from error


def _check_same(folder: Path, old: dict, new: dict) -> None:
    for name, what in (
        ("model", "made by another CLIP"),
        ("pool", "of another pool, or of this one before it changed"),
    ):
        if old.get(name) != new[name]:
            raise ValueError(f"{folder} holds embeddings {what}; give another folder, or remove this one")


def _shard_files(folder: Path, number: str) -> tuple[Path, Path]:
    return folder / "img_emb" / f"img_emb_{number}.npy", folder / "metadata" / f"metadata_{number}.parquet"
