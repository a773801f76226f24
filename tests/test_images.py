"""ImageSet: what it refuses, what it keeps, and that a file brings back every bit."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from zsclib.images import files
from zsclib.images import image_set as images
from zsclib.images.image_set import ImageSet, concat, content_hash
from zsclib.seeds import rng


def make(n: int = 6, size: int = 5, draw: int = 0, **columns: object) -> ImageSet:
    noise = rng(draw, "test images").integers(0, 256, (n, size, size + 2, 3), dtype=np.uint8)
    return ImageSet(
        noise, np.arange(n) % 3, ("cat", "dog", "owl"), manifest=pd.DataFrame(columns) if columns else None
    )


def same(a: ImageSet, b: ImageSet) -> bool:
    return (
        np.array_equal(a.images, b.images)
        and np.array_equal(a.labels, b.labels)
        and a.classes == b.classes
        and a.manifest.astype(object)
        .where(a.manifest.notna(), None)
        .equals(b.manifest.astype(object).where(b.manifest.notna(), None))
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.zeros((3, 4, 4, 3))}, "uint8.*float64"),
        ({"images": np.zeros((3, 4, 4), np.uint8)}, r"\(n, h, w, 3\).*\(3, 4, 4\)"),
        ({"images": [[1]]}, "got list"),
        ({"labels": [0, 1]}, "3 images need 3 integer labels"),
        ({"labels": [0.0, 1.0, 0.0]}, "integer labels"),
        ({"labels": [0, 1, 2]}, "-1 to 1 for 2 classes, got 0 to 2"),
        ({"labels": [-2, 0, 0]}, "got -2 to 0"),
        ({"classes": ("a", "a")}, r"repeated: \['a'\]"),
        ({"classes": ("a", " ")}, "non-empty names"),
        ({"classes": "ab"}, "list of non-empty names"),
        ({"manifest": pd.DataFrame({"seed": [1]})}, "3 manifest rows, got 1"),
        ({"manifest": pd.DataFrame({"label": [1, 2, 3]})}, r"not 'label'.*\['label'\]"),
        ({"manifest": pd.DataFrame({0: [1, 2, 3]})}, r"must be text.*\[0\]"),
    ],
)
def test_image_set_refuses_what_does_not_fit(change, message):
    good = {"images": np.zeros((3, 4, 4, 3), np.uint8), "labels": [0, 1, -1], "classes": ("a", "b")}
    assert len(ImageSet(**good)) == 3
    with pytest.raises(ValueError, match=message):
        ImageSet(**(good | change))


def test_labels_become_int64_and_are_a_copy():
    labels = np.array([0, 1, 1], np.uint8)
    one = ImageSet(np.zeros((3, 2, 2, 3), np.uint8), labels, ["a", "b"])
    labels[0] = 1
    assert one.labels.dtype == np.int64 and one.labels.tolist() == [0, 1, 1] and one.classes == ("a", "b")
    assert list(one.manifest.columns) == [] and len(one.manifest) == 3


def test_take_keeps_order_repeats_and_manifest_rows():
    one = make(seed_of=[10, 11, 12, 13, 14, 15])
    some = one.take([4, 0, 4])
    assert np.array_equal(some.images, one.images[[4, 0, 4]]) and some.labels.tolist() == [1, 0, 1]
    assert some.manifest["seed_of"].tolist() == [14, 10, 14] and some.manifest.index.tolist() == [0, 1, 2]
    assert one.take(one.labels == 2).manifest["seed_of"].tolist() == [12, 15]
    assert len(one.take([])) == 0 and one.take([]).images.shape == (0, 5, 7, 3)
    for wrong in ([6], [-1], [0.5], [[0]], [True, False]):
        with pytest.raises(ValueError, match="take: indices must"):
            one.take(wrong)


def test_per_class_is_the_first_n_in_the_sets_order():
    one = ImageSet(
        np.zeros((7, 2, 2, 3), np.uint8), [1, 0, -1, 1, 0, 1, 0], ("a", "b"), manifest=pd.DataFrame({"i": range(7)})
    )
    assert one.per_class(2).manifest["i"].tolist() == [0, 1, 3, 4]
    with pytest.raises(ValueError, match="4 images asked for, class 'a' has 3"):
        one.per_class(4)
    with pytest.raises(ValueError, match="positive"):
        one.per_class(0)


def test_save_and_load_are_bit_identical(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "ROWS_PER_GROUP", 4)  # so that six rows need two row groups
    big = 2**62 + 1  # a float would lose the last bit
    one = make(
        prompt=["a cat", None, "ein Hündchen", "", "e", "f"],
        guidance=[7.5, np.nan, 0.1, 1e-300, -0.0, np.inf],
        seed=pd.array([big, None, 3, 4, 5, big + 2], dtype="Int64"),
        parent=np.arange(6),
        kept=[True, False, True, True, False, True],
        style=pd.Categorical(["photo", "photo", None, "night", "night", "photo"]),
        nothing=[None] * 6,
    )
    one.save(tmp_path / "sub" / "set.parquet")
    back = ImageSet.load(tmp_path / "sub" / "set.parquet")
    assert same(one, back) and one.fingerprint() == back.fingerprint()
    assert back.manifest["seed"][0] == big and back.manifest["seed"].dtype == "Int64"
    assert back.manifest["guidance"].dtype == np.float64 and np.isnan(back.manifest["guidance"][1])
    assert back.manifest["parent"].dtype == np.int64 and back.manifest["kept"].dtype == bool
    assert [p.name for p in (tmp_path / "sub").iterdir()] == ["set.parquet"]  # no temporary file is left
    back.save(tmp_path / "again.parquet")
    assert same(ImageSet.load(tmp_path / "again.parquet"), one)


@pytest.mark.parametrize("n", [0, 1])
def test_sets_of_no_and_one_image_come_back(tmp_path, n):
    one = make(6).take(range(n))
    one.save(tmp_path / "x.parquet")
    back = ImageSet.load(tmp_path / "x.parquet")
    assert same(one, back) and back.images.shape == (n, 5, 7, 3)


def test_datasets_opens_the_file_with_images_class_names_and_manifest(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    one = make(
        prompt=list("abcdef"),
        style=pd.Categorical(list("xyxyxy")),
        seed=pd.array([1, None] * 3, dtype="Int64"),
    )
    one.save(tmp_path / "set.parquet")
    table = datasets.load_dataset(
        "parquet", data_files=str(tmp_path / "set.parquet"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert isinstance(table.features["image"], datasets.Image)
    assert table.features["label"].names == ["cat", "dog", "owl"] and table["label"][:] == one.labels.tolist()
    assert np.array_equal(np.stack([np.asarray(image) for image in table["image"]]), one.images)
    assert table["prompt"][:] == list("abcdef") and table["style"][:] == list("xyxyxy")
    assert table["seed"][:] == [1, None] * 3


def test_a_failed_save_leaves_the_old_file(tmp_path):
    path = tmp_path / "set.parquet"
    make().save(path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="set.parquet: the manifest cannot be written"):
        make(mixed=[1, "a", None, 2.5, {}, []]).save(path)
    with pytest.raises(KeyboardInterrupt), images.atomic(path) as temporary:
        temporary.write_bytes(b"half")
        raise KeyboardInterrupt
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["set.parquet"]


def test_damage_anywhere_in_the_file_is_noticed(tmp_path):
    one = make(8, 12, prompt=list("abcdefgh"))
    one.save(tmp_path / "good.parquet")
    good, path = (tmp_path / "good.parquet").read_bytes(), tmp_path / "bad.parquet"
    noticed = 0
    places = range(4, len(good) - 8, 37)
    for place in places:
        path.write_bytes(good[:place] + bytes([good[place] ^ 0x55]) + good[place + 1 :])
        try:
            assert same(ImageSet.load(path), one), f"byte {place} changed the set unnoticed"
        except (ValueError, FileNotFoundError) as error:
            assert "bad.parquet" in str(error)
            noticed += 1
    assert (
        noticed > len(places) / 2
    )  # the rest sits in statistics and the names of image files, which are not read
    for content in (good[: len(good) // 2], b"", b"not parquet"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="bad.parquet: not usable"):
            ImageSet.load(path)
    with pytest.raises(FileNotFoundError, match="missing.parquet"):
        ImageSet.load(tmp_path / "missing.parquet")
    for name, value in (("label", 2), ("prompt", "z")):  # a sound file, but not what was saved
        table = pq.read_table(tmp_path / "good.parquet")
        changed = pa.array([value, *table[name].to_pylist()[1:]], table.schema.field(name).type)
        pq.write_table(table.set_column(table.schema.get_field_index(name), name, changed), path)
        with pytest.raises(ValueError, match="the content is not what was saved"):
            ImageSet.load(path)
    pq.write_table(pa.table({"image": [b"x"], "label": [0]}), path)
    with pytest.raises(ValueError, match="not written by ImageSet.save; use zsclib.datasets.load"):
        ImageSet.load(path)


def test_concat_joins_in_order_and_keeps_integers_exact():
    big = 2**62 + 1
    a, b = make(3, draw=1, seed_of=[big, 1, 2], prompt=list("xyz")), make(2, draw=2, guidance=[1.0, 2.0])
    both = concat([a, b, a.take([])])
    assert np.array_equal(both.images, np.concatenate([a.images, b.images]))
    assert both.labels.tolist() == [0, 1, 2, 0, 1]
    assert both.manifest["seed_of"].tolist()[:3] == [big, 1, 2] and both.manifest["seed_of"].isna().sum() == 2
    assert both.manifest["guidance"].isna().tolist() == [True] * 3 + [False] * 2
    assert both.manifest["prompt"].isna().tolist() == [False] * 3 + [True] * 2
    assert concat([a, a]).manifest["seed_of"].dtype == np.int64
    assert len(concat([make(2), make(3)]).manifest) == 5
    with pytest.raises(ValueError, match="set 1 of"):
        concat([a, make(2, size=6)])
    with pytest.raises(ValueError, match="set 1 has"):
        concat([a, ImageSet(a.images, a.labels, ("cat", "owl", "dog"))])
    with pytest.raises(ValueError, match="no sets"):
        concat([])


def test_hashes_tell_contents_apart_and_ignore_the_manifest():
    one = make(6, prompt=list("abcdef"))
    flipped = one.images.copy()
    flipped[3, 0, 0, 0] ^= 1
    hashes, changed = content_hash(one.images), content_hash(flipped)
    assert [a == b for a, b in zip(hashes, changed, strict=True)] == [True, True, True, False, True, True]
    assert content_hash(one.images[[0, 0]])[0] == content_hash(one.images[[0, 0]])[1] == hashes[0]
    blank = np.zeros((1, 2, 8, 3), np.uint8)
    assert content_hash(blank) != content_hash(blank.reshape(1, 4, 4, 3))
    relabelled = ImageSet(one.images, one.labels[::-1], one.classes)
    renamed = ImageSet(one.images, one.labels, ("cat", "dog", "emu"))
    prints = [s.fingerprint() for s in (one, ImageSet(flipped, one.labels, one.classes), relabelled, renamed)]
    assert len(set(prints)) == 4
    assert ImageSet(one.images, one.labels, one.classes).fingerprint() == prints[0]


def test_resize_keeps_colours_takes_the_centre_and_does_not_alias():
    flat = np.full((2, 40, 60, 3), (10, 200, 77), np.uint8)
    assert np.array_equal(files.resize(flat, 16), np.full((2, 16, 16, 3), (10, 200, 77), np.uint8))
    sides = np.zeros((1, 20, 60, 3), np.uint8)
    sides[:, :, 20:40] = 255  # only the centre square is white
    assert files.resize(sides, 10)[:, :, 1:-1].min() == 255
    stripes = np.zeros((1, 64, 64, 3), np.uint8)
    stripes[:, :, ::2] = 255  # taking every second column would give black or white
    assert abs(files.resize(stripes, 32)[0, 8:-8, 8:-8].astype(int) - 127.5).max() < 8
    assert files.resize(flat[:0], 16).shape == (0, 16, 16, 3)
    for wrong in (0, -1, 2.5, True):
        with pytest.raises(ValueError, match="size must be a positive number"):
            files.resize(flat, wrong)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_decode_turns_every_kind_of_image_into_rgb():
    assert files.decode(encoded(Image.new("L", (3, 2), 77)), "x").tolist() == [[[77] * 3] * 3] * 2
    clear = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    clear.putpixel((1, 0), (0, 0, 0, 0))
    assert files.decode(encoded(clear), "x").tolist() == [[[255, 0, 0], [255, 255, 255]]]
    palette = Image.new("P", (2, 1), 0)
    palette.putpalette([0, 0, 0, 9, 8, 7])
    palette.putpixel((1, 0), 1)
    assert files.decode(encoded(palette), "x").tolist() == [[[0, 0, 0], [9, 8, 7]]]
    assert files.decode(encoded(palette, transparency=0), "x").tolist() == [[[255] * 3, [9, 8, 7]]]
    deep = Image.fromarray(np.array([[0, 257 * 100, 65535]], np.uint16))
    assert files.decode(encoded(deep), "x")[0, :, 0].tolist() == [0, 100, 255]
    assert files.decode(encoded(Image.new("1", (1, 1), 1)), "x").tolist() == [[[255] * 3]]
    wide = Image.new("RGB", (4, 2), (1, 2, 3))
    exif = Image.Exif()
    exif[0x0112] = 6  # a camera held upright
    assert files.decode(encoded(wide, "JPEG", exif=exif), "x").shape == (4, 2, 3)
    assert files.decode(encoded(wide), "x", size=8).shape == (8, 8, 3)


def test_decode_names_what_it_cannot_read():
    noise = Image.fromarray(make(1, 40).images[0])
    for data in (
        b"",
        b"GIF89a",
        encoded(noise, "PCX"),  # Pillow knows many more kinds, EPS among them, which runs a program
        encoded(noise)[:900],
        encoded(noise, "JPEG")[:700],
    ):
        with pytest.raises(ValueError, match="cat/7.png: not a readable image"):
            files.decode(data, "cat/7.png")
    with pytest.raises(ValueError, match="no defined range"):
        files.decode(encoded(Image.fromarray(np.zeros((2, 2), np.float32)), "TIFF"), "x.tif")


def test_png_bytes_give_the_same_pixels():
    one = make(2, 9)
    for image in one.images:
        assert np.array_equal(files.decode(files.encode_png(image), "x"), image)
