"""Embeddings on disk: as CLIP gives them, resumed after a death, opened as others wrote them, refused when amiss."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests import tiny
from tests.test_pools_captioned import samples, write_tar
from zsclib.images.files import encode_png
from zsclib.models.clip import Clip, open_clip
from zsclib.pools import embeddings as module
from zsclib.pools.captioned import CaptionedPool, open_pool, pool_in_memory
from zsclib.pools.embeddings import Embeddings, embed, open_embeddings
from zsclib.pools.model import check_model
from zsclib.pools.vectors import Vectors
from zsclib.workers import Execution, Job, Workers

N, D = 30, 12


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (N, 16, 16, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def pool(images) -> CaptionedPool:
    return pool_in_memory("made up", images, [f"caption {i}" for i in range(N)])


@pytest.fixture(scope="module")
def clip(folders) -> Clip:
    return open_clip(folders["clip"])


@pytest.fixture
def small(monkeypatch):
    """Chunks of 4 images and files of 12."""
    monkeypatch.setattr(module, "CHUNK", 4)
    monkeypatch.setattr(module, "SHARD", 12)


class Death(Exception):
    pass


class Travelling(Workers):
    """This process, but jobs come as they would to another one."""

    def map(self, jobs: Iterable[Job]) -> Iterator[tuple[int, Mapping[str, np.ndarray]]]:
        for index, job in enumerate(jobs):
            function, arguments = pickle.loads(pickle.dumps((job.function, job.arguments)))
            yield index, function(*arguments)


def dying_after(calls: int):
    """Return a progress that dies at its so-manieth report of images."""
    left = [calls]

    def progress(what: str, done: int, total: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Death

    return progress


def write_foreign(folder: Path, vectors: list[np.ndarray], ids: list[list[str]], captions: bool = True) -> Path:
    """Write embeddings as clip-retrieval does."""
    (folder / "img_emb").mkdir(parents=True)
    (folder / "metadata").mkdir()
    for i, (part, names) in enumerate(zip(vectors, ids, strict=True)):
        np.save(folder / f"img_emb/img_emb_{i}.npy", part)
        frame = pd.DataFrame({"image_path": names, "caption": [f"of {name}" for name in names]})
        frame[["image_path", "caption"][: 1 + captions]].to_parquet(folder / f"metadata/metadata_{i}.parquet")
    return folder


def unit(n: int, d: int = D, seed: int = 0, dtype: type = np.float16) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=(n, d))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(dtype)


def test_embeddings_are_those_of_clip_whatever_the_chunks_and_the_workers(pool, clip, folders, images, tmp_path, small):
    expected = clip.encode_images(images).numpy()
    done = []
    execution = Execution(batch=3, progress=lambda *facts: done.append(facts))
    ours = embed(pool, clip, tmp_path / "a", execution)
    assert ours.vectors.shape == (N, D) and ours.vectors.dtype == np.float16 and len(ours.vectors.parts) == 3
    assert all(isinstance(part, np.memmap) for part in ours.vectors.parts)
    assert np.abs(np.asarray(ours.vectors, np.float32) - expected).max() < 1e-3
    assert ours.ids == pool.ids and ours.captions == pool.captions and ours.unreadable == ()
    assert np.array_equal(ours.rows_in(pool), np.arange(N))
    assert done[-1] == ("embedding", N, N) and [facts[1] for facts in done] == sorted(facts[1] for facts in done)
    theirs = embed(pool, folders["clip"], tmp_path / "b", Execution(workers=Travelling()))
    for name in ("img_emb/img_emb_0.npy", "img_emb/img_emb_2.npy"):
        assert np.allclose(np.load(tmp_path / "a" / name), np.load(tmp_path / "b" / name), atol=1e-3)
    assert theirs.model == ours.model
    assert sorted(path.name for path in (tmp_path / "a").iterdir() if path.name != ".lock") == [
        "about.json", "img_emb", "metadata",
    ]  # fmt: skip


@pytest.mark.parametrize("calls", range(1, 11, 3))
def test_a_killed_run_goes_on_where_it_was(calls, pool, clip, tmp_path, small, monkeypatch):
    with pytest.raises(Death):
        embed(pool, clip, tmp_path, Execution(progress=dying_after(calls)))
    assert not (tmp_path / "about.json").exists()
    with pytest.raises((ValueError, FileNotFoundError), match="not finished|no embeddings"):
        open_embeddings(tmp_path)
    embedded = []
    once = module._embedded
    monkeypatch.setattr(module, "_embedded", lambda *arguments: embedded.append(1) or once(*arguments))
    ours = embed(pool, clip, tmp_path)
    assert len(ours) == N and np.array_equal(ours.rows_in(pool), np.arange(N))
    assert len(embedded) <= 9 - (calls - 1) * 0.6  # of chunks; reports also come at the start of each file
    embed(pool, clip, tmp_path)
    assert len(embedded) <= 9, "all is there"


def test_unreadable_images_have_no_row_and_are_named(clip, images, tmp_path, small):
    members = samples(list(images[:6]))
    members = [(name, b"broken" if name in ("00001.png", "00004.png") else data) for name, data in members]
    pool = open_pool(write_tar(tmp_path / "a.tar", members))
    ours = embed(pool, clip, tmp_path / "out")
    assert ours.unreadable == ("a.tar/00001.png", "a.tar/00004.png")
    assert np.array_equal(ours.rows_in(pool), [0, 2, 3, 5]) and len(ours) == 4
    assert np.abs(ours.vectors[2] - clip.encode_images(images[3:4]).numpy()[0]).max() < 1e-3
    pool = open_pool(write_tar(tmp_path / "b.tar", [("0.png", b"broken"), ("0.txt", b"")]))
    with pytest.raises(ValueError, match="none of its 1 images is readable; look at 'b.tar/0.png'"):
        embed(pool, clip, tmp_path / "none")


def test_a_shard_of_the_pool_that_vanishes_midway_leaves_what_is_finished(clip, images, tmp_path, small, monkeypatch):
    root = tmp_path / "pool"
    write_tar(root / "0.tar", samples(list(images[:6])) * 1)
    write_tar(root / "1.tar", samples(list(images[:6])))
    pool, data = open_pool(root), (root / "1.tar").read_bytes()
    (root / "1.tar").unlink()
    with pytest.raises(FileNotFoundError, match=r"1.tar: (the shard has vanished; put it back|No such)|1.tar"):
        embed(pool, clip, tmp_path / "out")
    assert len(list((tmp_path / "out/unfinished").rglob("*.safetensors"))) == 1  # the first chunk is of 0.tar alone
    (root / "1.tar").write_bytes(data)
    assert len(embed(pool, clip, tmp_path / "out")) == 12


def test_what_a_folder_holds_is_used_or_refused_never_written_over(pool, clip, images, folders, tmp_path, small):
    embed(pool, clip, tmp_path / "a")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "a").rglob("*.*") if path.is_file()}
    embed(pool, folders["clip"], tmp_path / "a")  # named by its folder, the same
    other = open_clip(tiny.clip(tmp_path / "clip", seed=1))
    with pytest.raises(ValueError, match="holds embeddings made by another CLIP; give another folder"):
        embed(pool, other, tmp_path / "a")
    with pytest.raises(ValueError, match="holds embeddings of another pool, or of this one before it changed"):
        embed(pool.take(range(4)), clip, tmp_path / "a")
    with pytest.raises(Death):
        embed(pool, clip, tmp_path / "b", Execution(progress=dying_after(2)))
    with pytest.raises(ValueError, match="holds embeddings made by another CLIP"):
        embed(pool, other, tmp_path / "b")
    foreign = write_foreign(tmp_path / "c", [unit(3)], [["x", "y", "z"]])
    with pytest.raises(ValueError, match="holds embeddings that were not made here"):
        embed(pool, clip, foreign)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "a").rglob("*.*") if path.is_file()} == before


def test_others_embeddings_open_in_the_order_of_their_numbers(tmp_path):
    vectors = [unit(3, seed=i) for i in range(11)]  # 10 comes after 9, not after 1
    ids = [[f"{i}/{j}" for j in range(3)] for i in range(11)]
    theirs = open_embeddings(write_foreign(tmp_path, vectors, ids))
    assert np.array_equal(np.asarray(theirs.vectors), np.concatenate(vectors))
    assert theirs.ids == tuple(sum(ids, [])) and theirs.captions[-1] == "of 10/2" and theirs.model is None
    part = theirs.take([31, 2])
    assert part.ids == ("10/1", "0/2")
    assert np.array_equal(np.asarray(part.vectors), np.stack([vectors[10][1], vectors[0][2]]))
    silent = open_embeddings(write_foreign(tmp_path / "silent", vectors[:1], ids[:1], captions=False))
    assert silent.captions == ("", "", "")


def test_others_ids_are_matched_as_they_are_as_paths_or_as_keys(images, tmp_path):
    for i in range(3):
        (tmp_path / "pool").mkdir(exist_ok=True)
        (tmp_path / f"pool/{i}.png").write_bytes(encode_png(images[i]))
        (tmp_path / f"pool/{i}.txt").write_text("")
    pool = open_pool(tmp_path / "pool")
    for n, names in enumerate((["2.png", "0.png"], [f"{tmp_path}/pool/2.png", f"{tmp_path}/pool/0.png"], ["2", "0"])):
        theirs = open_embeddings(write_foreign(tmp_path / f"{n}", [unit(2)], [names]))
        assert theirs.rows_in(pool).tolist() == [2, 0]
    theirs = open_embeddings(write_foreign(tmp_path / "other", [unit(2)], [["2.png", "7.png"]]))
    with pytest.raises(ValueError, match="2 embeddings and 3 images of 'pool' do not belong.* no image '7.png'"):
        theirs.rows_in(pool)


@pytest.mark.parametrize(
    "damage, error, message",
    [
        ("nan", ValueError, r"embedding 4 holds NaN or infinity"),
        ("long", ValueError, r"embedding 4 has length 3.*, not 1; divide every row"),
        ("cut", ValueError, r"img_emb_1.npy: cut short or damaged"),
        ("empty", ValueError, r"img_emb_1.npy: cut short or damaged"),
        ("width", ValueError, r"img_emb_1.npy: embeddings 8 wide, those in img_emb_0.npy are 12"),
        ("integers", ValueError, r"img_emb_1.npy: expected a float16 or float32 matrix .*, got int64 \(3, 12\)"),
        ("objects", ValueError, r"img_emb_1.npy: cut short or damaged .*Python objects"),
        ("counts", ValueError, r"img_emb_1.npy: 2 embeddings, metadata_1.parquet has 3 rows"),
        ("metadata", FileNotFoundError, r"metadata_1.parquet: img_emb_1.npy has no metadata beside it"),
        ("metadata cut", ValueError, r"metadata_1.parquet: not usable as a Parquet file"),
        ("none", FileNotFoundError, r"no embeddings; expected img_emb/img_emb_0.npy and metadata/metadata_0.parquet"),
    ],
)
def test_others_embeddings_that_are_amiss(damage, error, message, tmp_path):
    folder = write_foreign(tmp_path / "e", [unit(3), unit(3, seed=1)], [["a", "b", "c"], ["d", "e", "f"]])
    file, table, vectors = folder / "img_emb/img_emb_1.npy", folder / "metadata/metadata_1.parquet", unit(3, seed=1)
    if damage in ("nan", "long"):
        vectors[1] = vectors[1] * (np.nan if damage == "nan" else 3)
        np.save(file, vectors)
    elif damage in ("cut", "empty", "metadata cut"):
        target = table if damage == "metadata cut" else file
        target.write_bytes(b"" if damage == "empty" else target.read_bytes()[:-9])
    elif damage in ("metadata", "none"):
        shutil.rmtree(folder / "img_emb") if damage == "none" else table.unlink()
    else:
        wrong = {"width": unit(3, 8), "integers": np.ones((3, D), np.int64), "counts": vectors[:2]}
        np.save(file, wrong.get(damage, np.array([{}])), allow_pickle=True)
    with pytest.raises(error, match=message):
        open_embeddings(folder)


def test_our_own_embeddings_cut_short_or_without_a_shard(pool, clip, tmp_path, small):
    folder = tmp_path / "e"
    embed(pool, clip, folder)
    file = folder / "img_emb/img_emb_1.npy"
    data = file.read_bytes()
    np.save(file, np.load(file)[:-1])
    with pytest.raises(ValueError, match=r"img_emb_1.npy: \d+ bytes, \d+ when it was written; embed again"):
        open_embeddings(folder)
    file.unlink()
    with pytest.raises(FileNotFoundError, match="img_emb_1.npy: this shard of the embeddings is missing"):
        open_embeddings(folder)
    file.write_bytes(data)
    assert len(open_embeddings(folder, clip)) == N
    (folder / "about.json").write_text('{"model": ')
    with pytest.raises(ValueError, match="about.json: damaged"):
        open_embeddings(folder)


def test_embeddings_of_another_model_or_width_are_refused(pool, clip, images, tmp_path):
    ours = embed(pool, clip, tmp_path / "ours")
    other = open_clip(tiny.clip(tmp_path / "clip", seed=1))
    with pytest.raises(ValueError, match="made by another CLIP than this one; give the one that made them"):
        open_embeddings(tmp_path / "ours", other)
    theirs = write_foreign(tmp_path / "theirs", [unit(3, 8)], [["a", "b", "c"]])
    with pytest.raises(ValueError, match="8 wide, this CLIP's embeddings are 12"):
        open_embeddings(theirs, clip)
    # nobody noted the model: some images are embedded again
    silent = Embeddings(ours.vectors, ours._metadata)
    check_model(silent, clip, pool)
    shifted = Embeddings(Vectors([np.roll(np.asarray(ours.vectors), 3, axis=1)]), ours._metadata)
    with pytest.raises(ValueError, match="this CLIP embeds the same images otherwise"):
        check_model(shifted, clip, pool)


def test_about_names_model_pool_and_files(pool, clip, tmp_path, small):
    embed(pool, clip, tmp_path)
    about = json.loads((tmp_path / "about.json").read_text())
    assert about["pool"] == pool.fingerprint() and about["images"] == about["embedded"] == N
    assert list(about["files"]) == [f"img_emb_{i}.npy" for i in range(3)]


def test_vectors_of_several_parts_are_one_matrix():
    whole = unit(10)
    vectors = Vectors([whole[:3], whole[3:3], whole[3:4], whole[4:]])
    assert vectors.shape == (10, D) and len(vectors) == 10
    for index in (slice(None), slice(2, 5), slice(8, 2, -2), [9, 0, 3, 3], np.arange(10) % 3 == 0, -1, 4, []):
        expected = whole[index] if not (isinstance(index, list) and not index) else whole[:0]
        assert np.array_equal(vectors[index], expected), index
    assert np.array_equal(np.concatenate([block for _, block in vectors.blocks()]), whole.astype(np.float32))
    assert [start for start, _ in vectors.blocks()] == [0, 3, 4]
    with pytest.raises(IndexError, match="rows 3 to 10 of 10 embeddings"):
        vectors[[3, 10]]
