"""Search and the ladder in worlds with a known answer: planted clusters, planted copies, classes that fall short."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from zsclib.images.class_folders import from_folder
from zsclib.images.image_set import ImageSet
from zsclib.pools import index as index_module
from zsclib.pools.captioned import CaptionedPool, Memory, pool_in_memory
from zsclib.pools.copies import Traces, alignment, near_copies, thumbnails
from zsclib.pools.index import Index, build_index, open_index
from zsclib.pools.ladder import Rules
from zsclib.pools.queries import image_queries, mixed_queries, text_queries
from zsclib.pools.retrieval import refuse_overlap, retrieve, retrieve_to_folder
from zsclib.pools.vectors import Embeddings, Vectors

D = 16


def unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def in_memory(vectors: np.ndarray, parts: int = 1) -> Embeddings:
    return Embeddings(Vectors(np.array_split(vectors.astype(np.float16), parts)))


class World:
    """A pool of images around class centres: image i of class c has the cosine `cosines[c][i]` with query c.

    The rest of a row points away from every query, in a direction of its own; pixels are random, each its own.
    """

    def __init__(self, cosines: list[list[float]], seed: int = 0):
        draws = np.random.default_rng(seed)
        classes, n = len(cosines), sum(map(len, cosines))
        self.queries = np.eye(classes, D + classes, dtype=np.float32)
        self.vectors = np.zeros((n, D + classes), np.float32)
        self.labels = np.repeat(range(classes), list(map(len, cosines)))
        self.vectors[:, classes:] = unit(draws.normal(size=(n, D)))
        for row, (label, cosine) in enumerate(zip(self.labels, sum(cosines, []), strict=True)):
            self.vectors[row, classes:] *= np.sqrt(1 - cosine**2)
            self.vectors[row, label] = cosine
        self.images = draws.integers(0, 255, (n, 8, 8, 3), dtype=np.uint8)
        self.unreadable: set[int] = set()
        self.opened: list[int] = []

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple("abcdefg"[: len(self.queries)])

    def add(self, like: int, vector: np.ndarray | None = None) -> int:
        """Add a copy of an image, a little brighter; return its row."""
        image = np.clip(self.images[like].astype(int) * 9 // 10, 0, 255).astype(np.uint8)
        self.images = np.concatenate([self.images, image[None]])
        self.vectors = np.concatenate([self.vectors, (self.vectors[like] if vector is None else vector)[None]])
        return len(self.images) - 1

    def pool(self) -> CaptionedPool:
        pool, world = pool_in_memory("planted", self.images, [f"caption {i}" for i in range(len(self.images))]), self

        class Source(Memory):
            def open(self, rows: np.ndarray) -> list[np.ndarray | None]:
                world.opened += rows.tolist()
                return [None if row in world.unreadable else self.images[row] for row in rows]

        object.__setattr__(pool, "source", Source(self.images))
        return pool

    def index(self, parts: int = 1) -> Index:
        import pyarrow as pa

        pool = self.pool()
        table = pa.table({"image_path": list(pool.ids), "caption": list(pool.captions)})
        vectors = Vectors(np.array_split(self.vectors.astype(np.float16), parts))
        return build_index(Embeddings(vectors, table))

    def traces(self, rows: list[int]) -> Traces:
        return Traces(self.vectors[rows], thumbnails(list(self.images[rows])))

    def retrieve(self, n: int, held_out: Traces | None = None, rules: Rules | None = None):
        return retrieve(self.pool(), self.index(), self.queries, self.classes, n, held_out=held_out, rules=rules)


def rows_of(retrieved, label: int) -> list[int]:
    return retrieved.images.manifest["row"][retrieved.images.labels == label].tolist()


def check_counts(report: pd.DataFrame) -> None:
    """Every hit was delivered or dropped at one rung."""
    drops = report[["unreadable", "near held-out", "duplicate", "claimed by another class"]].sum(axis=1)
    assert (report["hits"] == report["delivered"] + drops).all(), report


# --- search ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", (1, 7, 200, 997, 5000))
@pytest.mark.parametrize("parts", (1, 3))
def test_a_scan_is_a_sort_of_all_similarities(k, parts, monkeypatch):
    monkeypatch.setattr("zsclib.pools.vectors.BLOCK", 100 * D)
    vectors = unit(np.random.default_rng(0).normal(size=(997, D))).astype(np.float16)
    queries = unit(np.random.default_rng(1).normal(size=(5, D)))
    similarities, rows = build_index(in_memory(vectors, parts)).search(queries, k)
    cosines = queries @ vectors.astype(np.float32).T
    order = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    assert similarities.shape == rows.shape == (5, min(k, 997))
    assert np.allclose(similarities, np.take_along_axis(cosines, order, 1), atol=1e-6)
    assert (rows == order).mean() > 0.999  # but for ties within rounding


def clustered(n: int, d: int, seed: int = 0) -> np.ndarray:
    draws = np.random.default_rng(seed)
    centres = draws.normal(size=(50, d))
    return unit(centres[draws.integers(50, size=n)] + 0.5 * draws.normal(size=(n, d)))


def test_a_compressed_index_finds_nearly_what_a_scan_finds_and_reports_it_exactly(tmp_path):
    vectors = clustered(5000, 32)
    embeddings, queries = in_memory(vectors), clustered(40, 32, seed=1)
    exact = build_index(embeddings, kind="exact").search(queries, 10)
    index = build_index(embeddings, tmp_path, kind="ivf-pq")
    assert index.kind == "ivf-pq" and index.lists.ntotal == 5000
    similarities, rows = index.search(queries, 10)
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(rows, exact[1], strict=True)])
    assert recall >= 0.95
    stored = embeddings.vectors[rows.ravel()].astype(np.float32).reshape(40, 10, 32)
    assert np.allclose(similarities, np.einsum("qkd,qd->qk", stored, queries), atol=1e-6)
    assert (np.diff(similarities, axis=1) <= 0).all()
    again = open_index(tmp_path, embeddings).search(queries, 10)
    assert np.array_equal(again[1], rows)
    deep = index.search(queries[:2], 4999)  # beyond what lists are good for, it is a scan
    assert np.array_equal(deep[1], build_index(embeddings, kind="exact").search(queries[:2], 4999)[1])


def test_an_index_is_chosen_by_the_size_of_the_pool(monkeypatch):
    embeddings = in_memory(clustered(2000, 16))
    assert build_index(embeddings).kind == "exact"
    monkeypatch.setattr(index_module, "EXACT_UP_TO", 1000)
    index = build_index(embeddings)
    assert index.kind == "ivf-pq" and index.search(embeddings.vectors[:3], 1)[1].ravel().tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="must be 'auto', 'exact' or 'ivf-pq', got 'hnsw'"):
        build_index(embeddings, kind="hnsw")


def test_an_index_of_other_embeddings_or_cut_short_is_refused(tmp_path):
    embeddings = in_memory(clustered(2000, 16))
    assert open_index(tmp_path, embeddings).kind == "exact"  # none was written
    build_index(embeddings, tmp_path, kind="ivf-pq")
    with pytest.raises(ValueError, match="of 2000 other embeddings, 16 wide, not of these 1999, 16 wide"):
        open_index(tmp_path, in_memory(clustered(1999, 16)))
    file = tmp_path / "index.faiss"
    data = file.read_bytes()
    file.write_bytes(data[:-100])
    with pytest.raises(ValueError, match=r"index.faiss: \d+ bytes, \d+ when it was written: cut short; build it again"):
        open_index(tmp_path, embeddings)
    file.unlink()
    with pytest.raises(ValueError, match="belong together, one is missing"):
        open_index(tmp_path, embeddings)


@pytest.mark.parametrize(
    "queries, k, message",
    [
        (np.eye(2, 8), 1, r"queries \(2, 8\) for embeddings 16 wide; both must come from one CLIP"),
        (2 * np.eye(2, 16), 1, "query 0 has length 2, not 1"),
        (np.full((1, 16), np.nan), 1, "query 0 has length nan, not 1"),
        (np.eye(2, 16), 0, "k must be 1 or more, got 0"),
    ],
)
def test_queries_that_do_not_fit(queries, k, message):
    with pytest.raises(ValueError, match=message):
        build_index(in_memory(clustered(20, 16))).search(queries, k)


def test_a_row_that_is_nan_is_named_and_never_retrieved():
    vectors = clustered(20, 16)
    query = vectors[:1].astype(np.float32)
    vectors[7] = np.nan
    with pytest.raises(ValueError, match="embedding 7 holds NaN or infinity; embed its image again or drop the row"):
        build_index(in_memory(vectors)).search(query, 2)


# --- queries --------------------------------------------------------------------------------------


def test_queries_are_unit_vectors_of_texts_of_images_and_between(folders):
    from zsclib.models.clip import open_clip

    clip = open_clip(folders["clip"])
    images = np.random.default_rng(0).integers(0, 255, (4, 16, 16, 3), dtype=np.uint8)
    text = text_queries(clip, ["a cat", "a dog"], ["a photo of {}", "{}"])
    shown = image_queries(clip, ImageSet(images, np.array([0, 1, 1, -1]), ("a cat", "a dog")))
    features = clip.encode_images(images).numpy()
    assert np.allclose(shown, unit(np.stack([features[0], features[1:3].mean(0)])), atol=1e-6)
    assert text.shape == shown.shape == (2, 12) and text.dtype == shown.dtype == np.float32
    assert np.allclose(mixed_queries(text, shown, 1), text, atol=1e-6)
    assert np.allclose(mixed_queries(text, shown, 0), shown, atol=1e-6)
    assert np.allclose(np.linalg.norm(mixed_queries(text, shown, 0.3), axis=1), 1, atol=1e-6)
    with pytest.raises(ValueError, match=r"share of the text must be from 0 to 1, got 1.5"):
        mixed_queries(text, shown, 1.5)
    with pytest.raises(ValueError, match="give equal shapes"):
        mixed_queries(text[:1], shown)
    with pytest.raises(ValueError, match="no images of a dog"):
        image_queries(clip, ImageSet(images, np.zeros(4, int), ("a cat", "a dog")))


# --- copies ---------------------------------------------------------------------------------------


def test_a_copy_is_known_by_its_pixels_whatever_its_brightness_place_and_size():
    draws = np.random.default_rng(0)
    image = draws.integers(0, 200, (16, 16, 3)).repeat(2, 0).repeat(2, 1).astype(np.uint8)
    variants = [
        image,
        np.roll(image, (1, -1), (0, 1)),
        (image * 0.8).astype(np.uint8) + 30,
        image.repeat(4, 0).repeat(4, 1),
    ]
    small = thumbnails([image] * 4)
    assert (alignment(small, thumbnails(variants)) > 0.97).all()
    others = draws.integers(0, 255, (4, 32, 32, 3)).astype(np.uint8)
    assert (alignment(small, others) < 0.3).all()
    grey = np.full((2, 32, 32, 3), 90, np.uint8)
    grey[1] = 200
    assert alignment(grey, grey).tolist() == [1, 1] and alignment(grey, grey[::-1]).tolist() == [0, 0]


def test_near_copies_need_both_features_and_pixels(monkeypatch):
    world = World([[0.9, 0.8], [0.7]])
    copy = world.add(0)
    looks_the_same_to_clip = world.add(1, world.vectors[0])
    everything = world.traces(list(range(len(world.images))))
    expected = {(0, copy), (copy, 0)} | {(i, i) for i in range(len(everything))}
    for block in (10**6, 3):
        monkeypatch.setattr("zsclib.pools.copies.BLOCK", block)
        assert set(map(tuple, near_copies(everything, everything).tolist())) == expected
    assert looks_the_same_to_clip not in {i for i, j in expected if i != j}
    assert near_copies(everything, world.traces([])).shape == (0, 2)


# --- the ladder -----------------------------------------------------------------------------------


def test_planted_images_come_back_nearest_first():
    world = World([[0.5, 0.9, 0.7, 0.8], [0.6, 0.95]])
    retrieved = world.retrieve(2)
    assert rows_of(retrieved, 0) == [1, 3] and rows_of(retrieved, 1) == [5, 4]
    assert np.array_equal(retrieved.images.images, world.images[[1, 3, 5, 4]])
    manifest = retrieved.images.manifest
    assert manifest["source"].tolist() == [f"planted:{i}" for i in (1, 3, 5, 4)]
    assert manifest["caption"][0] == "caption 1" and manifest["rank"].tolist() == [0, 1, 0, 1]
    assert np.allclose(manifest["similarity"], [0.9, 0.8, 0.95, 0.6], atol=1e-3)
    report = retrieved.report.set_index("class")
    assert report["delivered"].tolist() == [2, 2] == report["asked"].tolist() and set(report["ended by"]) == {"quota"}
    assert np.isclose(report["mean similarity"]["a"], 0.85, atol=1e-3)
    check_counts(retrieved.report)


def test_a_class_that_falls_short_is_reported_and_never_filled_up():
    world = World([[0.9, 0.8, 0.7, 0.6, 0.5], [0.9]])
    retrieved = world.retrieve(3)
    assert rows_of(retrieved, 1) == [5]
    report = retrieved.report.set_index("class").loc["b"]
    assert report["delivered"] == 1 and report["ended by"] == "the pool's end"
    assert report["hits"] == 6 and report["claimed by another class"] == 5
    check_counts(retrieved.report)


def test_an_image_of_two_classes_goes_to_the_nearer_one_in_any_order_of_them():
    world = World([[0.9, 0.5], [0.6, 0.55]])
    world.vectors[0] = unit(np.r_[0.7, 0.6, world.vectors[0][2:] / 10])  # both classes' first choice
    for order in ([0, 1], [1, 0]):
        queries, classes = world.queries[order], tuple("ab"[i] for i in order)
        retrieved = retrieve(world.pool(), world.index(), queries, classes, 1)
        report = retrieved.report.set_index("class")
        assert report["claimed by another class"].to_dict() == {"a": 0, "b": 1}
        chosen = dict(zip((classes[i] for i in retrieved.images.labels), retrieved.images.manifest["row"], strict=True))
        assert chosen == {"a": 0, "b": 2}
        check_counts(retrieved.report)


def test_what_a_full_nearer_class_leaves_may_be_taken_if_the_rules_say_so():
    world = World([[0.9, 0.8, 0.7], [0.3]])
    world.vectors[:3, 1] = [0.2, 0.25, 0.28]  # nearer to a, but not far from b
    world.vectors = unit(world.vectors)
    assert rows_of(world.retrieve(2), 1) == [3]
    taken = world.retrieve(2, rules=Rules(claims="taken"))
    assert rows_of(taken, 0) == [0, 1] and rows_of(taken, 1) == [3, 2]
    check_counts(taken.report)
    everything = world.retrieve(4, rules=Rules(claims="taken"))  # as many as there are, each once
    assert sorted(rows_of(everything, 0) + rows_of(everything, 1)) == [0, 1, 2, 3]
    assert everything.report["delivered"].sum() == 4
    check_counts(everything.report)


def test_copies_within_the_set_are_dropped_and_counted():
    world = World([[0.9, 0.8, 0.7], [0.9]])
    world.add(0), world.add(0), world.add(1)
    retrieved = world.retrieve(3)
    assert rows_of(retrieved, 0) == [0, 1, 2]
    assert retrieved.report["duplicate"].tolist() == [3, 0]
    check_counts(retrieved.report)


def test_copies_of_held_out_images_are_dropped_and_counted():
    world = World([[0.9, 0.8, 0.7], [0.9]])
    held_out = world.traces([1])
    copy = world.add(1)
    retrieved = world.retrieve(3, held_out)
    assert rows_of(retrieved, 0) == [0, 2] and copy not in retrieved.images.manifest["row"].tolist()
    assert retrieved.report["near held-out"].tolist() == [2, 0]
    check_counts(retrieved.report)


def test_the_rungs_are_climbed_in_order():
    """An image that fails at several rungs counts at the first of them."""
    world = World([[0.9, 0.8, 0.7], [0.9]])
    held_out = world.traces([1])
    first = world.add(1)  # unreadable, and near a held-out image
    world.unreadable = {first}
    world.add(1)  # near a held-out image, and a copy of the one before
    world.add(0)  # a copy of what is taken
    report = world.retrieve(2, held_out).report
    # row 1 and its readable copy are near the held-out image
    assert report[["unreadable", "near held-out", "duplicate"]].iloc[0].tolist() == [1, 2, 1]
    check_counts(report)


def test_an_image_of_another_class_is_not_even_opened():
    world = World([[0.9] * 50, [0.9]])
    world.retrieve(2)
    assert len(set(world.opened)) <= 2 + 16


def test_a_floor_ends_a_class_and_says_how_many_are_lacking():
    world = World([[0.9, 0.8, 0.3, 0.2], [0.35, 0.1, 0.9]])
    retrieved = world.retrieve(4, rules=Rules(floor=0.32))
    assert rows_of(retrieved, 0) == [0, 1] and rows_of(retrieved, 1) == [6, 4]
    assert retrieved.report["below the floor"].tolist() == [2, 2]
    assert set(retrieved.report["ended by"]) == {"the floor"}
    check_counts(retrieved.report)
    nothing = world.retrieve(1, rules=Rules(floor=0.99))
    assert len(nothing.images) == 0 and nothing.report["delivered"].tolist() == [0, 0]


def test_the_number_fetched_at_once_and_the_files_change_nothing(monkeypatch):
    draws = np.random.default_rng(3)
    world = World([draws.uniform(0.2, 0.95, 60).tolist() for _ in range(3)], seed=3)
    world.vectors[:, :3] += 0.2 * draws.random((180, 3))
    world.vectors = unit(world.vectors)
    for row in range(0, 40, 3):
        world.add(row)
    world.unreadable = set(range(5, 100, 7))
    held_out = world.traces([1, 61, 122])
    for claims in ("nearest", "taken"):
        first = None
        for over_fetch, parts, at_once, spare in ((4, 1, 256, 16), (1, 3, 7, 1), (50, 2, 1, 100)):
            monkeypatch.setattr("zsclib.pools.ladder.AT_ONCE", at_once)
            monkeypatch.setattr("zsclib.pools.ladder.SPARE", spare)
            rules = Rules(over_fetch=over_fetch, claims=claims)
            index = world.index(parts)
            retrieved = retrieve(world.pool(), index, world.queries, world.classes, 20, held_out=held_out, rules=rules)
            check_counts(retrieved.report)
            first = first or retrieved
            assert retrieved.images.manifest["row"].tolist() == first.images.manifest["row"].tolist()
            pd.testing.assert_frame_equal(retrieved.report, first.report)


def test_images_of_many_sizes_need_a_size():
    world = World([[0.9, 0.8]])
    pool, draws = world.pool(), np.random.default_rng(0)
    images = [draws.integers(0, 255, (8 + i, 8, 3), dtype=np.uint8) for i in range(2)]

    class Sizes(Memory):
        def open(self, rows: np.ndarray) -> list[np.ndarray]:
            return [images[row] for row in rows]

    object.__setattr__(pool, "source", Sizes(world.images))
    with pytest.raises(ValueError, match="retrieved images differ in size, 8×8 and 8×9; give size="):
        retrieve(pool, world.index(), world.queries, ["a"], 2)
    assert retrieve(pool, world.index(), world.queries, ["a"], 2, size=4).images.images.shape == (2, 4, 4, 3)


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"classes": ("a",)}, ValueError, "2 queries for the classes"),
        ({"n": 0}, ValueError, "n must be 1 image or more"),
        ({"queries": np.eye(2, 5)}, ValueError, "both must come from one CLIP"),
        ({"held_out": np.eye(2)}, TypeError, "held_out must be traces"),
        ({"held_out": Traces(np.eye(2, 5), np.zeros((2, 32, 32, 3), np.uint8))}, ValueError, "5 wide, the pool's"),
        ({"rules": {"claims": "first"}}, ValueError, "claims must be 'nearest' or 'taken'"),
        ({"rules": {"floor": 2}}, ValueError, "floor must be a cosine or correlation"),
        ({"rules": {"over_fetch": 0}}, ValueError, "over_fetch must be 1 or more"),
    ],
)
def test_what_does_not_fit_is_refused(change, error, message):
    world = World([[0.9], [0.8]])
    arguments = {"queries": world.queries, "classes": world.classes, "n": 1} | change
    with pytest.raises(error, match=message):
        if "rules" in arguments:
            arguments["rules"] = Rules(**arguments["rules"])
        retrieve(world.pool(), world.index(), **arguments)


def test_a_pool_that_overlaps_the_test_set_is_refused_unless_copies_are_to_be_dropped():
    world = World([[0.9, 0.8, 0.7], [0.9]])
    test = world.traces([0, 3])
    world.images[0] = world.images[2]  # the pool has no copy of test image 0 ...
    copies = [3, world.add(3)]  # ... but two of test image 1
    with pytest.raises(ValueError, match=r"overlaps the test set: 1 of 2 test images have near-copies in it, "):
        refuse_overlap(world.pool(), world.index(), test)
    assert refuse_overlap(world.pool(), world.index(), test, count_and_drop=True).tolist() == copies
    assert refuse_overlap(world.pool(), world.index(), world.traces([])).tolist() == []


# --- as a folder ----------------------------------------------------------------------------------


def test_a_folder_of_what_was_retrieved_opens_as_an_image_set(tmp_path):
    world, done = World([[0.9, 0.8], [0.9], [0.5]]), []
    world.unreadable = {3}
    arguments = (world.pool(), world.index(), world.queries, ["a star", "a/b", "none"], 2)
    report = retrieve_to_folder(*arguments, tmp_path / "out", progress=lambda *facts: done.append(facts))
    listing = from_folder(tmp_path / "out", "test")
    assert listing.classes == ("a star", "a-b")  # the class without an image has no folder, and is in the report
    images = listing.image_set(np.arange(3), None)
    by_name = {str(source): image for source, image in zip(images.manifest["source"], images.images, strict=True)}
    assert np.array_equal(by_name["a star/000001.png"], world.images[1])
    assert report["delivered"].tolist() == [2, 1, 0] and done[0] == ("retrieving", 0, 6) and done[-1][1:] == (6, 6)
    table = pd.read_csv(tmp_path / "out/manifest.csv")
    assert table["file"].tolist() == ["a star/000000.png", "a star/000001.png", "a-b/000000.png"][:3]
    assert table["source"].tolist() == ["planted:0", "planted:1", "planted:2"]
    assert len(pd.read_csv(tmp_path / "out/report.csv")) == 3
    with pytest.raises(FileExistsError, match="is there already; give another folder"):
        retrieve_to_folder(*arguments, tmp_path / "out")


def test_nothing_is_half_written(tmp_path):
    world = World([[0.9, 0.8], [0.9]])
    pool = world.pool()
    source = pool.source

    class Vanishing(Memory):
        def open(self, rows: np.ndarray) -> list:
            raise FileNotFoundError("7.tar: the shard has vanished")

    object.__setattr__(pool, "source", Vanishing(source.images))
    with pytest.raises(FileNotFoundError, match="has vanished"):
        retrieve_to_folder(pool, world.index(), world.queries, world.classes, 2, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    for classes in (["a", "A"], ["", "b"], [".", "b"]):
        with pytest.raises(ValueError, match="cannot be folders of their own"):
            retrieve_to_folder(pool, world.index(), world.queries, classes, 2, tmp_path / "out")
    assert not Path(tmp_path / "out").exists()
