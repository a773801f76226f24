"""Rows of Parquet files by a column: PATH?domain=sketch, for labelled sets and for captioned pools."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.test_datasets import picture, write_parquet
from zsclib.datasets import load, load_own, own_listing
from zsclib.images.files import encode_png
from zsclib.images.selection import conditions_of, located
from zsclib.own_sets import Own, load_part, set_name
from zsclib.pools.captioned import open_pool
from zsclib.study.runner import own_files

N = 24
LABELS = [i % 3 for i in range(N)]
DOMAINS = ["photo", "sketch", "art"]
DOMAIN = [DOMAINS[i // 3 % 3] for i in range(N)]
YEAR = [2000 + i % 2 for i in range(N)]


@pytest.fixture
def file(tmp_path):
    domain = pa.array(DOMAIN).dictionary_encode()
    weight, indoors = np.linspace(0, 1, N), [i < 12 for i in range(N)]
    columns = {"domain": domain, "year": YEAR, "weight": weight, "indoors": indoors}
    return write_parquet(tmp_path / "all.parquet", LABELS, ["a", "b", "c"], **columns)


def write_captions(path, first: int = 0, **columns: list):
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [encode_png(picture("pool", first + i)) for i in range(4)]
    captions = [f"number {first + i}" for i in range(4)]
    pq.write_table(pa.table({"image": images, "caption": captions, **columns}), path, row_group_size=2)
    return path


def rows(images) -> list[int]:
    return sorted(int(source.split("row ")[1]) for source in images.manifest["source"])


def test_the_selected_rows_and_no_others_with_their_own_labels_and_images(file):
    sketches = load(f"parquet:{file}?domain=sketch")
    assert rows(sketches) == [i for i in range(N) if DOMAIN[i] == "sketch"]
    for image, label, source in zip(
        sketches.images, sketches.labels, sketches.manifest["source"], strict=True
    ):
        row = int(source.split("row ")[1])
        assert label == LABELS[row] and np.array_equal(image, picture("row", "all.parquet", row))
    assert set(sketches.manifest["domain"]) == {"sketch"} and sketches.classes == ("a", "b", "c")
    assert len(load(f"parquet:{file}?domain=sketch", n=3)) == 3


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ("domain=sketch,art", [i for i in range(N) if DOMAIN[i] in ("sketch", "art")]),
        ("domain=photo&year=2001", [i for i in range(N) if DOMAIN[i] == "photo" and YEAR[i] == 2001]),
        ("label=0,2", [i for i in range(N) if LABELS[i] != 1]),
        ("indoors=true", list(range(12))),
        ("domain=%73ketch", [i for i in range(N) if DOMAIN[i] == "sketch"]),
    ],
)
def test_several_conditions_and_several_values(file, conditions, expected):
    assert rows(load(f"parquet:{file}?{conditions}")) == expected


def test_rows_without_a_value_are_never_selected(tmp_path):
    path = write_parquet(tmp_path / "x.parquet", [0, 1, 0], ["a", "b"], domain=["photo", None, "art"])
    assert rows(load(f"parquet:{path}?domain=photo,art")) == [0, 2]


def test_selections_are_different_sets_and_the_same_selection_is_the_same(file):
    prints = [
        load(f"parquet:{file}{where}").fingerprint() for where in ("", *(f"?domain={d}" for d in DOMAINS))
    ]
    assert len(set(prints)) == 4
    assert (
        load(f"parquet:{file}?domain=art,photo").fingerprint()
        == load(f"parquet:{file}?domain=photo,art").fingerprint()
    )


def test_a_class_without_a_selected_image_keeps_its_number(tmp_path):
    """Without class names in the file they are all its labels: one means the same in every part."""
    path = write_parquet(
        tmp_path / "x.parquet", ["ant", "bee", "cat", "cat"], domain=["art", "art", "art", "photo"]
    )
    photos = load(f"parquet:{path}?domain=photo")
    assert photos.classes == ("ant", "bee", "cat") and photos.labels.tolist() == [2]


def test_rows_of_a_folder_with_splits_and_of_shards(tmp_path):
    write_parquet(
        tmp_path / "train-00000-of-00002.parquet", [0, 1, 0], ["a", "b"], domain=["photo", "art", "art"]
    )
    write_parquet(tmp_path / "train-00001-of-00002.parquet", [1, 1], ["a", "b"], domain=["photo", "photo"])
    write_parquet(tmp_path / "test.parquet", [0, 1], ["a", "b"], domain=["photo", "photo"])
    photos = load(f"parquet:{tmp_path}?domain=photo", "train")
    places = [(0, 0), (1, 0), (1, 1)]
    assert sorted(photos.manifest["source"]) == [
        f"train-0000{i}-of-00002.parquet, row {row}" for i, row in places
    ]
    for image, source in zip(photos.images, photos.manifest["source"], strict=True):
        name, row = source.split(", row ")
        assert np.array_equal(image, picture("row", name, int(row)))
    assert len(load(f"parquet:{tmp_path}?domain=art", "train")) == 2
    with pytest.raises(
        ValueError, match="test.parquet: no row has domain=art; the column has 1 values: photo"
    ):
        load(f"parquet:{tmp_path}?domain=art", "test")


def test_a_set_without_splits_is_divided_among_the_selected_rows(file):
    target = f"parquet:{file}?domain=sketch,photo"
    parts = {part: load_part(target, part, Own(), n=100) for part in ("train", "test")}
    of = {part: set(rows(images)) for part, images in parts.items()}
    assert not of["train"] & of["test"]
    assert of["train"] | of["test"] == {i for i in range(N) if DOMAIN[i] != "art"}
    per_class = np.bincount([LABELS[row] for row in of["test"]])
    assert per_class.tolist() == [2, 2, 2], "three in ten of the 6 selected images of each class, rounded"
    whole = load_part(f"parquet:{file}", "test", Own(), n=100)
    assert whole.fingerprint() != parts["test"].fingerprint()


def test_pages_read_a_selection_by_its_name(file):
    images, prompts = load_own(f"parquet:{file}?domain=art", n=100)
    assert len(images) == 6 and prompts[0] == "a photo of a a"
    assert len(own_listing(f"parquet:{file}?domain=art").labels) == 6
    assert set_name(f"parquet:{file}?domain=art&label=1") == "all.parquet domain=art label=1"
    assert "/" not in set_name(f"parquet:{file}?domain=art/deco")


def test_a_file_that_changes_makes_a_result_of_its_selection_stale(file):
    before = own_files({"dataset": f"parquet:{file}?domain=art"}, file.parent)
    assert before == own_files({"dataset": f"parquet:{file}"}, file.parent) and len(before) == 1
    relative = own_files({"dataset": "parquet:all.parquet?domain=art"}, file.parent)
    assert relative == before, "of the clone, too"
    write_parquet(file, LABELS[:-1], ["a", "b", "c"])
    assert own_files({"dataset": f"parquet:{file}?domain=art"}, file.parent) != before
    assert own_files({"template": "is it {}? a=b"}, file.parent) == []


def test_a_path_with_a_question_mark_is_a_path(tmp_path):
    folder = tmp_path / "what?domain=x"
    path = write_parquet(folder / "really?.parquet", [0, 1], ["a", "b"], domain=["art", "photo"])
    assert located(path) == (path, "") and located(str(folder)) == (folder, "")
    assert len(load(f"parquet:{path}")) == 2
    assert rows(load(f"parquet:{path}?domain=photo")) == [1]
    captioned = write_captions(tmp_path / "pool?.parquet", domain=["art", "art", "photo", "art"])
    assert len(open_pool(f"parquet:{captioned}")) == len(open_pool(captioned)) == 4
    assert len(open_pool(f"parquet:{captioned}?domain=photo")) == 1
    with pytest.raises(FileNotFoundError, match="gone.parquet: there is no such file"):
        load(f"parquet:{tmp_path}/gone.parquet?domain=art")
    with pytest.raises(FileNotFoundError, match=r"gone\?.parquet: there is no such file"):
        load(f"parquet:{tmp_path}/gone?.parquet")


def test_rows_of_a_pool(tmp_path):
    write_captions(tmp_path / "pool/a.parquet", domain=["photo", "art", "photo", "art"])
    write_captions(tmp_path / "pool/b.parquet", 4, domain=["art", "art", "art", "photo"])
    place = f"parquet:{tmp_path}/pool"
    photos, art, whole = (open_pool(place + where) for where in ("?domain=photo", "?domain=art", ""))
    assert photos.captions == ("number 0", "number 2", "number 7")
    assert photos.ids == ("a.parquet:0", "a.parquet:2", "b.parquet:3")
    for number, image in zip((0, 2, 7), photos.read([0, 1, 2]), strict=True):
        assert np.array_equal(image, picture("pool", number))
    assert len({pool.fingerprint() for pool in (photos, art, whole)}) == 3
    assert len({pool.source.content() for pool in (photos, art, whole)}) == 3, "also where captions are alike"
    assert open_pool(place + "?domain=photo").fingerprint() == photos.fingerprint()
    assert open_pool(f"{tmp_path}/pool?domain=photo").captions == photos.captions, "of a bare path, too"
    assert photos.name == "pool?domain=photo"


def test_a_row_without_caption_may_be_left_out(tmp_path):
    images = [encode_png(picture("pool", i)) for i in range(2)]
    table = pa.table({"image": images, "caption": ["one", None], "domain": ["photo", "art"]})
    pq.write_table(table, tmp_path / "a.parquet")
    assert open_pool(f"parquet:{tmp_path}/a.parquet?domain=photo").captions == ("one",)
    with pytest.raises(ValueError, match="1 images and 0 captions; row 1 has none"):
        open_pool(f"parquet:{tmp_path}/a.parquet?domain=art")


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        (
            "domian=art",
            r"all.parquet: .*'domian' \(did you mean 'domain'.*\); of the columns .* are label, domain, year",
        ),
        ("image=x", "selected by 'image'"),
        ("weight=0.5", "selected by 'weight'"),
        (
            "domain=sketsh",
            r"no row has domain=sketsh \(did you mean 'sketch'\?\); the column has 3 values: art, photo, sk",
        ),
        ("domain=art,oil", "no row has domain=oil"),
        ("domain=art&year=1999", "no row has year=1999; the column has 2 values: 2000, 2001"),
        ("domain=art&domain=photo", "'domain' stands twice; give its values in one list"),
        ("domain", "COLUMN=VALUE.* got 'domain'"),
        ("domain=", "COLUMN=VALUE.* got 'domain='"),
        ("domain=art,", "COLUMN=VALUE"),
        ("domain=art&", "COLUMN=VALUE"),
        ("=art", "COLUMN=VALUE"),
    ],
)
def test_faults_of_conditions_are_named(file, conditions, message):
    with pytest.raises(ValueError, match=message):
        load(f"parquet:{file}?{conditions}")
    captioned = write_captions(file.parent / "pool.parquet", domain=["art", "photo", "sketch", "art"])
    if "domain" in conditions and "year" not in conditions and "domian" not in conditions:
        with pytest.raises(ValueError, match=message):
            open_pool(f"parquet:{captioned}?{conditions}")


def test_conditions_that_no_row_fulfils_together(tmp_path):
    path = write_parquet(tmp_path / "x.parquet", [0, 1], ["a", "b"], domain=["art", "photo"])
    with pytest.raises(ValueError, match="each of these values, but none has domain=art and label=1"):
        load(f"parquet:{path}?domain=art&label=1")


def test_names_and_values_with_signs_are_written_as_in_an_address():
    assert conditions_of("a%3Db=x%2Cy,z%26&c=50%25,%3F") == {"a=b": ("x,y", "z&"), "c": ("50%", "?")}
