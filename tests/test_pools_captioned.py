"""Captioned pools of every form: what is read is what was written, and what is amiss is named at once."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from zsclib.images.files import encode_png
from zsclib.pools.captioned import open_pool, pool_in_memory

N = 6
CAPTIONS = [f'image, number "{i}" – ünïcode' for i in range(N)]


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    """Images of different sizes."""
    draws = np.random.default_rng(0)
    return [draws.integers(0, 255, (10 + i, 14, 3), dtype=np.uint8) for i in range(N)]


def write_folder(root: Path, images: list[np.ndarray], table: str | None = None, column: str = "file") -> Path:
    (root / "inner").mkdir(parents=True)
    names = [f"inner/{i}.png" if i % 2 else f"{i}.png" for i in range(len(images))]
    for name, image, caption in zip(names, images, CAPTIONS, strict=True):
        (root / name).write_bytes(encode_png(image))
        if table is None:
            (root / name).with_suffix(".txt").write_text(caption + "\n", encoding="utf-8")
    if table:
        write_table(root / table, names, CAPTIONS[: len(images)], column)
    return root


def write_table(path: Path, names: list, captions: list, column: str = "file") -> None:
    frame = pd.DataFrame({column: names, "caption": captions})
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in frame.to_dict("records")), encoding="utf-8")
    else:
        frame.to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")


def write_parquet(path: Path, images: list[np.ndarray], captions: list, image: str = "image", group: int = 2) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    files = [{"bytes": encode_png(one), "path": f"{i}.png"} for i, one in enumerate(images)]
    pq.write_table(pa.table({image: files, "text": pa.array(captions, pa.string())}), path, row_group_size=group)
    return path


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def samples(images: list[np.ndarray], first: int = 0) -> list[tuple[str, bytes]]:
    """Members as img2dataset packs them: captions of every other sample only in its JSON."""
    members = []
    for i, image in enumerate(images, first):
        members.append((f"{i:05d}.png", encode_png(image)))
        if i % 2:
            members.append((f"{i:05d}.txt", CAPTIONS[i].encode()))
        members.append((f"{i:05d}.json", json.dumps({"caption": CAPTIONS[i], "width": 14}).encode()))
    return members


def write(form: str, root: Path, images: list[np.ndarray]) -> str:
    """Write a pool of a form; return its place."""
    if form.startswith("folder"):
        table = form.partition(" ")[2] or None
        column = "file_name" if table and "metadata" in table else "file"
        return f"folder:{write_folder(root / 'pool', images, table, column)}"
    if form == "parquet":
        write_parquet(root / "pool/a.parquet", images[:3], CAPTIONS[:3])
        write_parquet(root / "pool/b.parquet", images[3:], CAPTIONS[3:])
    else:
        write_tar(root / "pool/00000.tar", samples(images[:3]))
        write_tar(root / "pool/00001.tar", samples(images[3:], 3))
    return f"{form}:{root / 'pool'}"


TABLES = ("captions.csv", "captions.tsv", "captions.jsonl", "captions.parquet", "metadata.csv")
FORMS = ("folder", *(f"folder {table}" for table in TABLES), "parquet", "tar")


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_back_its_images_and_captions(form, tmp_path, images):
    place = write(form, tmp_path, images)
    pool = open_pool(place)
    assert len(pool) == N and sorted(pool.captions) == sorted(CAPTIONS) and len(set(pool.ids)) == N
    order = [CAPTIONS.index(caption) for caption in pool.captions]
    rows = np.array([4, 0, 0, 3])
    for row, image in zip(rows, pool.read(rows), strict=True):
        assert np.array_equal(image, images[order[row]])
    assert [image.shape for image in pool.read([5, 1], size=8)] == [(8, 8, 3)] * 2
    data, suffix = pool.files([2])[0]
    assert suffix == ".png" and data == encode_png(images[order[2]])
    part = pickle.loads(pickle.dumps(pool.take([3, 1])))
    assert part.captions == (pool.captions[3], pool.captions[1])
    assert np.array_equal(part.read([0])[0], images[order[3]])
    bare = open_pool(place.partition(":")[2])
    assert bare.fingerprint() == pool.fingerprint() != part.fingerprint()


def test_images_in_memory_are_a_pool():
    images = np.random.default_rng(0).integers(0, 255, (3, 8, 8, 3), dtype=np.uint8)
    pool = pool_in_memory("made up", images, ["a", "b", "c"])
    assert pool.ids == ("made up:0", "made up:1", "made up:2")
    assert np.array_equal(pool.read([2])[0], images[2]) and pool.read([1], size=4)[0].shape == (4, 4, 3)
    assert pool.files([0])[0] == (encode_png(images[0]), ".png")
    assert pool.take([2, 0]).captions == ("c", "a")
    assert pool.take(np.array([True, False, True])).ids == ("made up:0", "made up:2")
    changed = images.copy()
    changed[0, 0, 0] ^= 1
    assert pool.fingerprint() != pool_in_memory("made up", changed, ["a", "b", "c"]).fingerprint()
    with pytest.raises(ValueError, match="'made up' has 3 images and 2 captions"):
        pool_in_memory("made up", images, ["a", "b"])
    with pytest.raises(ValueError, match="must be a uint8 array"):
        pool_in_memory("made up", images / 255, ["a", "b", "c"])


@pytest.mark.parametrize("form", ("folder", "parquet", "tar"))
def test_an_unreadable_image_is_none_and_its_neighbours_are_read(form, tmp_path, images):
    pool = open_pool(write(form, tmp_path, images))
    if form == "folder":
        (tmp_path / "pool" / pool.ids[1]).write_bytes(b"no image")
        (tmp_path / "pool" / pool.ids[2]).unlink()
    elif form == "parquet":
        files = [{"bytes": b"no image", "path": None}, {"bytes": None, "path": "2.png"}]
        good = [{"bytes": encode_png(images[0]), "path": None}]
        pq.write_table(pa.table({"image": good + files, "caption": ["", "b", "c"]}), tmp_path / "pool/a.parquet")
        pool = open_pool(tmp_path / "pool/a.parquet")
    else:
        members = samples(images[:3])
        broken = [(name, b"no image" if name in ("00001.png", "00002.png") else data) for name, data in members]
        pool = open_pool(write_tar(tmp_path / "broken.tar", broken))
    assert [image is None for image in pool.read([0, 1, 2], size=8)] == [False, True, True]
    assert [file is None for file in pool.files([0, 1, 2])] == [False, True, True]


def test_files_are_handed_on_as_they_are(tmp_path, images):
    Image.fromarray(images[0]).save(tmp_path / "a.JPEG", quality=50)
    (tmp_path / "a.txt").write_text("a")
    pool = open_pool(tmp_path)
    assert pool.files([0])[0] == ((tmp_path / "a.JPEG").read_bytes(), ".jpg")


def test_a_pool_that_changed_has_another_fingerprint(tmp_path, images):
    place = write("folder captions.csv", tmp_path, images)
    before = open_pool(place).fingerprint()
    assert open_pool(place).fingerprint() == before
    (tmp_path / "pool/0.png").write_bytes(encode_png(images[3]))
    after = open_pool(place)
    assert after.fingerprint() != before
    written = after.source.content(modified=True)
    (tmp_path / "pool/0.png").touch()
    assert after.source.content(modified=True) != written
    assert after.source.content() == open_pool(place).source.content()


# --- what is amiss --------------------------------------------------------------------------------


def test_what_is_no_pool_is_named_with_the_three_forms(tmp_path):
    for place in (tmp_path / "nowhere", f"folder:{tmp_path}/nowhere", f"tar:{tmp_path}/nowhere"):
        with pytest.raises(FileNotFoundError, match="folder:PATH.*parquet:PATH.*tar:PATH"):
            open_pool(place)
    (tmp_path / "notes.md").write_text("")
    with pytest.raises(ValueError, match="is no captioned pool.*folder:PATH.*parquet:PATH.*tar:PATH"):
        open_pool(tmp_path)
    (tmp_path / "img_emb").mkdir()
    with pytest.raises(ValueError, match="holds embeddings, not images"):
        open_pool(tmp_path)


def test_a_folder_of_two_forms_must_be_named(tmp_path, images):
    write_parquet(tmp_path / "a.parquet", images, CAPTIONS)
    write_tar(tmp_path / "a.tar", samples(images))
    with pytest.raises(ValueError, match="holds more than one form; say which"):
        open_pool(tmp_path)
    assert len(open_pool(f"tar:{tmp_path}")) == len(open_pool(f"parquet:{tmp_path}")) == N


def test_captions_fewer_than_images(tmp_path, images):
    root = write_folder(tmp_path / "texts", images)
    (root / "2.txt").unlink()
    with pytest.raises(ValueError, match=r"6 images and 5 captions; '2.png' has none"):
        open_pool(root)
    root = write_folder(tmp_path / "table", images, "captions.csv")
    write_table(root / "captions.csv", ["0.png", "2.png"], ["a", "b"])
    with pytest.raises(ValueError, match=r"6 images and 2 captions; '4.png' has none in captions.csv"):
        open_pool(root)
    write_parquet(tmp_path / "a.parquet", images, [*CAPTIONS[:4], None, "x"])
    with pytest.raises(ValueError, match=r"6 images and 5 captions; row 4 has none"):
        open_pool(tmp_path / "a.parquet")
    members = [member for member in samples(images) if not member[0].startswith("00004.json")]
    with pytest.raises(ValueError, match=r"6 images and 5 captions; a.tar/00004.png has none"):
        open_pool(write_tar(tmp_path / "a.tar", members))


@pytest.mark.parametrize(
    "names, captions, message",
    [
        (["0.png", "gone.png"], ["a", "b"], "1 of its 2 captions are of files that are not in the folder.*'gone.png'"),
        (["0.png", "./0.png"], ["a", "b"], "1 files are named more than once, for instance '0.png'"),
        (["../0.png"], ["a"], "row 0: '../0.png' leads out of"),
        (["/etc/passwd"], ["a"], "row 0: '/etc/passwd' leads out of"),
    ],
)
def test_a_table_that_does_not_fit_its_folder(names, captions, message, tmp_path, images):
    root = write_folder(tmp_path / "pool", images, "captions.csv")
    write_table(root / "captions.csv", names, captions)
    with pytest.raises(ValueError, match=message):
        open_pool(root)


def test_a_table_that_is_none(tmp_path, images):
    root = write_folder(tmp_path / "pool", images, "captions.csv")
    (root / "captions.csv").write_text("name,words\n0.png,a\n")
    with pytest.raises(ValueError, match="none of the columns file, file_name.* among name, words"):
        open_pool(root)
    (root / "captions.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="captions.csv: not readable as a table"):
        open_pool(root)
    (root / "captions.csv").write_text("")
    with pytest.raises(ValueError, match="captions.csv: not readable as a table"):
        open_pool(root)
    (root / "captions.csv").unlink()
    (root / "captions.jsonl").write_text('{"file": "0.png", "caption": "a"}\n{"file": ')
    with pytest.raises(ValueError, match="captions.jsonl: not readable as a table"):
        open_pool(root)
    (root / "captions.jsonl").write_text('{"file": "0.png", "caption": 7}')
    with pytest.raises(ValueError, match="row 0: a file and a caption must be text, got '0.png' and 7"):
        open_pool(root)
    write_table(root / "metadata.csv", ["0.png"], ["a"])
    with pytest.raises(ValueError, match="the tables captions.jsonl, metadata.csv; keep the one"):
        open_pool(root)


def test_links_that_lead_out_of_a_folder(tmp_path, images):
    root = write_folder(tmp_path / "pool", images, "captions.csv")
    (tmp_path / "secret.png").write_bytes(encode_png(images[0]))
    (root / "0.png").unlink()
    (root / "0.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(ValueError, match="0.png: a link to .*secret.png, outside"):
        open_pool(root)
    (root / "0.png").unlink()
    (root / "0.png").symlink_to(root / "2.png")
    assert len(open_pool(root)) == N
    (root / "way").symlink_to(tmp_path)
    write_table(root / "captions.csv", [*(f"{i}.png" for i in (0, 2, 4)), "way/secret.png"], list("abcd"))
    for i in (1, 3, 5):
        (root / f"inner/{i}.png").unlink()
    with pytest.raises(ValueError, match="way: a link to .*, outside"):
        open_pool(root)


def test_texts_that_are_ambiguous_or_no_text(tmp_path, images):
    root = write_folder(tmp_path / "pool", images)
    (root / "0.jpg").write_bytes(encode_png(images[0]))
    with pytest.raises(ValueError, match=r"0.txt stands beside both '0.jpg' and '0.png'"):
        open_pool(root)
    (root / "0.jpg").unlink()
    (root / "0.txt").write_bytes(b"\xff")
    with pytest.raises(ValueError, match="0.txt: not UTF-8"):
        open_pool(root)


def test_parquet_files_that_do_not_fit(tmp_path, images):
    path = tmp_path / "a.parquet"
    for table, message in (
        ({"image": ["a.png"], "text": ["a"]}, "images must be the bytes of files, got the type string"),
        ({"image": [b"a"], "label": [1]}, "none of the columns caption, text"),
        ({"pixels": [b"a"], "text": ["a"]}, "none of the columns image, img"),
        ({"image": [b"a"], "text": [1]}, "captions must be text, got the type int64"),
    ):
        pq.write_table(pa.table(table), path)
        with pytest.raises(ValueError, match=message):
            open_pool(path)
    path.write_bytes(write_parquet(path, images, CAPTIONS).read_bytes()[:-20])
    with pytest.raises(ValueError, match="a.parquet: not usable as a Parquet file"):
        open_pool(path)


def test_tar_members_that_are_links_devices_or_twice_there(tmp_path, images):
    for kind, message in (
        (tarfile.SYMTYPE, "'x.png' is a link to '/etc/passwd'"),
        (tarfile.LNKTYPE, "'x.png' is a link to '/etc/passwd'"),
        (tarfile.FIFOTYPE, "'x.png' is no plain file"),
    ):
        with tarfile.open(tmp_path / "a.tar", "w") as archive:
            info = tarfile.TarInfo("x.png")
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        with pytest.raises(ValueError, match=message):
            open_pool(tmp_path / "a.tar")
    twice = samples(images) + samples(images[:1])
    with pytest.raises(ValueError, match="'00000.png' is in it twice"):
        open_pool(write_tar(tmp_path / "a.tar", twice))
    two = [*samples(images[:1]), ("00000.jpg", encode_png(images[0]))]
    with pytest.raises(ValueError, match="two images of one key, '00000.png' and '00000.jpg'"):
        open_pool(write_tar(tmp_path / "a.tar", two))
    for data in (b"{", b'{"width": 3}', b"[]"):
        with pytest.raises(ValueError, match=r"00000.json: no readable caption"):
            open_pool(write_tar(tmp_path / "a.tar", [("00000.png", b""), ("00000.json", data)]))
    assert not list(tmp_path.glob("*.png")), "nothing was unpacked"


def test_a_tar_that_is_cut_short_damaged_or_compressed(tmp_path, images):
    whole = write_tar(tmp_path / "whole.tar", samples(images)).read_bytes()
    path = tmp_path / "a.tar"
    first = 512 + -(-len(encode_png(images[0])) // 512) * 512  # of the first member
    damaged = bytearray(whole)
    damaged[first : first + 100] = b"x" * 100
    for data in (whole[:first], whole[: first + 200], whole[: first - 100], bytes(damaged), b"", b"no tar" * 200):
        path.write_bytes(data)
        with pytest.raises(ValueError, match="a.tar: cut short or damaged"):
            open_pool(path)
    import gzip

    path.write_bytes(gzip.compress(whole))
    with pytest.raises(ValueError, match="a.tar is compressed, .* gunzip it first"):
        open_pool(path)


@pytest.mark.parametrize("form", ("folder", "parquet", "tar"))
def test_a_shard_that_vanishes_or_changes_after_it_was_listed(form, tmp_path, images):
    pool = open_pool(write(form, tmp_path, images))
    if form == "folder":
        (tmp_path / "pool").rename(tmp_path / "moved")
        with pytest.raises(FileNotFoundError, match="the pool's folder has vanished; put it back"):
            pool.read([0])
        return
    last = sorted((tmp_path / "pool").iterdir())[-1]
    assert pool.read([0])[0] is not None
    with last.open("ab") as file:
        file.write(b"more")
    with pytest.raises(ValueError, match=r"bytes, \d+ when the pool was opened"):
        pool.read([0, 5])
    last.unlink()
    with pytest.raises(FileNotFoundError, match=f"{last.name}: the shard has vanished; put it back and run again"):
        pool.read([0, 5])


def test_class_folders_have_sentences_about_their_classes_as_captions(tmp_path):
    for name in ("fire_truck", "cat"):
        (tmp_path / name).mkdir()
        for i in range(20):
            Image.fromarray(np.full((8, 8, 3), i, np.uint8)).save(tmp_path / name / f"{i}.png")
    pool = open_pool(f"classes:{tmp_path}")
    assert len(pool) == 40 and pool.read([3], 4)[0].shape == (4, 4, 3)
    things = {"cat": "a cat", "fire_truck": "a fire truck"}
    assert all(things[name.partition("/")[0]] in caption for name, caption in zip(pool.ids, pool.captions, strict=True))
    assert len(set(pool.captions)) == 8, "each of the four sentences, of both"
    assert open_pool(f"classes:{tmp_path}").captions == pool.captions
    (tmp_path / "templates.txt").write_text("a sketch of {}\n\n{}, drawn\n")
    own = open_pool(f"classes:{tmp_path}")
    assert set(own.captions) == {"a sketch of a cat", "a cat, drawn", "a sketch of a fire truck", "a fire truck, drawn"}
    assert own.fingerprint() != pool.fingerprint()
    for text, message in (("a sketch\n", "'a sketch' has no {}, where the class"), ("\n", "no sentence; write")):
        (tmp_path / "templates.txt").write_text(text)
        with pytest.raises(ValueError, match=f"templates.txt: {message}"):
            open_pool(f"classes:{tmp_path}")
    (tmp_path / "templates.txt").unlink()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "alone.png")
    with pytest.raises(ValueError, match="'alone.png' lies in no class folder; move it into one, or away"):
        open_pool(f"classes:{tmp_path}")
    (tmp_path / "alone.png").unlink()
    shutil.rmtree(tmp_path / "cat")
    with pytest.raises(ValueError, match="1 class folders with images; captions of one class say nothing"):
        open_pool(f"classes:{tmp_path}")
