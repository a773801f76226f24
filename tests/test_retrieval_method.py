"""The method on one screen retrieves what the pools' fast path does, and mixes batches as training does."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

from tests import tiny
from zsclib.models.clip import open_clip
from zsclib.papers.retrieval import audit, method
from zsclib.papers.retrieval.method import mixed_batches, retrieve_extra
from zsclib.papers.retrieval.pool_arms import near_copies_of, with_planted
from zsclib.pools.captioned import pool_in_memory
from zsclib.pools.copies import near_copies, traces
from zsclib.pools.embeddings import embed
from zsclib.pools.index import build_index
from zsclib.pools.queries import text_queries
from zsclib.pools.retrieval import retrieve
from zsclib.recipe import mixed_indices
from zsclib.world.pool import PoolConfig, load_pool

NAMES, TEMPLATES, POOL = ("star", "car", "tree"), ("a photo of a {}", "a {} in the snow"), 160


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return open_clip(tiny.clip(tmp_path_factory.mktemp("clip") / "folder"))


@pytest.fixture(scope="module")
def world():
    return load_pool(PoolConfig(n=POOL, seed=3, near_duplicates=0.2))


@pytest.fixture(scope="module")
def opened(world, clip, tmp_path_factory):
    pool = pool_in_memory("world", world.images, world.captions)
    embeddings = embed(pool, clip, tmp_path_factory.mktemp("index") / "folder")
    return pool, embeddings, build_index(embeddings)


def copy_by(clip):
    """Whether two images are near-copies, as the pools say it."""
    return lambda a, b: len(near_copies(traces(clip, a[None]), traces(clip, b[None]))) > 0


@pytest.mark.parametrize("n", [1, 6, 100])
def test_the_method_retrieves_what_the_pools_retrieve(world, clip, opened, n):
    pool, _, index = opened
    held_out = world.images[:12]
    half = lambda x: np.asarray(x).astype(np.float16).astype(np.float32)  # noqa: E731  as features lie on disk
    f = lambda images: half(clip.encode_images(images))  # noqa: E731
    g = lambda texts: clip.encode_texts(texts).numpy()  # noqa: E731
    options = {"templates": TEMPLATES, "held_out": held_out, "copy": copy_by(clip)}
    x, y = retrieve_extra(world.images, f, g, NAMES, n, **options)
    queries = text_queries(clip, NAMES, TEMPLATES)
    fast = retrieve(pool, index, queries, NAMES, n, held_out=traces(clip, held_out))
    for label in range(3):
        theirs = fast.images.images[fast.images.labels == label]
        assert x[y == label].tobytes() == theirs.tobytes(), "the same images in the same order"
    assert fast.report["delivered"].tolist() == np.bincount(y, minlength=3).tolist()
    assert n < 100 or 0 < len(y) < POOL - 12


def test_the_example_runs_and_gives_the_shapes_it_says(clip):
    pool = np.random.default_rng(0).integers(0, 255, (40, 16, 16, 3), dtype=np.uint8)
    f, g = (lambda images: clip.encode_images(images).numpy()), (lambda texts: clip.encode_texts(texts).numpy())
    space = {**vars(method), "pool": pool, "f": f, "g": g, "names": ("cat", "dog")}
    exec("\n".join(line for line in method.__doc__.splitlines() if line.startswith("    ")).replace("    ", ""), space)
    assert space["S"][0].shape == (4, 16, 16, 3) and space["S"][1].tolist().count(0) == 2


def test_the_method_fits_a_screen():
    source = inspect.getsource(method)
    assert max(map(len, source.splitlines())) <= 80
    body = inspect.getsource(retrieve_extra).split('"""')[2]
    assert len(body.strip().splitlines()) <= 40


def test_the_method_mixes_batches_as_training_does():
    D, S = (np.zeros((5, 1)), np.zeros(5, int)), (np.ones((7, 1)), np.ones(7, int))
    for r in (0.25, 0.5, 0.75):
        shares = [y.mean() for _, y in mixed_batches(D, S, r, batch=8, steps=10)]
        ours = [(mixed_indices(0, step, 8, (5, 7), r) >= 5).mean() for step in range(10)]
        assert shares == ours == [r] * 10
    assert all((x[:, 0] == y).all() for x, y in mixed_batches(D, S, 0.5, batch=4, steps=3))


def test_planted_near_copies_come_back_to_the_images_they_copy(world, clip, opened):
    pool, embeddings, _ = opened
    copies = near_copies_of(world.images[:20], 30, seed=0)
    features = clip.encode_images(copies).numpy()
    both, index = with_planted(pool, embeddings, copies, features)
    assert len(both) == POOL + 30 and len(pool) == POOL
    np.testing.assert_array_equal(index.embeddings.rows_in(both), np.arange(POOL + 30))
    rows = np.array([POOL + 3, 5, POOL, 7])
    for image, row in zip(both.read(rows), rows, strict=True):
        np.testing.assert_array_equal(image, copies[row - POOL] if row >= POOL else world.images[row])
    similarities, nearest = index.search(features, 1)
    assert (similarities > 0.99).all() and (nearest[:, 0] >= POOL).mean() > 0.8
    assert both.fingerprint() != pool.fingerprint()


def test_detectors_are_measured_on_planted_near_duplicates(world, clip):
    images, parents = traces(clip, world.images), world.scenes["parent"].to_numpy()
    table = audit.detectors(images, parents)
    assert table["detector"].tolist()[0] == "CLIP, then pixels" and len(table) == 1 + len(audit.COSINES)
    assert set(table["pairs"]) == {int((parents >= 0).sum())} and (table["others"] < POOL).all()
    ours = table.iloc[0]
    assert ours["recall"] > 0.9 and ours["false alarms"] < 0.05
    by_cosine = table.iloc[1:]
    assert by_cosine["recall"].is_monotonic_decreasing and by_cosine["false alarms"].is_monotonic_decreasing
    for wrong in (np.full(POOL, -1), parents[:9]):
        with pytest.raises(ValueError, match="detectors: 160 images need a parent"):
            audit.detectors(images, wrong)


def test_roots_go_back_through_all_generations():
    assert audit.roots(np.array([-1, 0, -1, 1, 3, 2])).tolist() == [0, 0, 2, 0, 0, 2]
    with pytest.raises(ValueError, match="one before it"):
        audit.roots(np.array([1, -1]))


def test_near_copies_in_the_pool_are_noticed_and_new_images_are_none(world, clip, opened):
    pool, _, index = opened
    copies = near_copies_of(world.images[:25], 25, seed=1)
    fresh = load_pool(PoolConfig(n=25, seed=4, near_duplicates=0)).images
    near = audit.nearest_in_pool(traces(clip, np.concatenate([copies, fresh])), pool, index)
    assert len(near) == 50 and near["copy"][:25].mean() > 0.8 and near["copy"][25:].mean() < 0.1
    same = near["row"][:25].to_numpy() == np.arange(25)
    assert (same | (world.scenes["parent"].to_numpy()[near["row"][:25]] >= 0)).mean() > 0.8
    near["guidance"], near["class"] = [1, 5] * 25, ["a"] * 25 + ["b"] * 25
    table = audit.share_of_copies(near, ["class"])
    assert table["images"].tolist() == [25, 25] and table["share"][0] == near["copy"][:25].mean()
    assert len(audit.share_of_copies(near, ["guidance", "class"])) == 4
    assert audit.share_of_copies(near)["copies"].tolist() == [int(near["copy"].sum())]


def test_frequencies_count_whole_words():
    captions = ["a photo of a star", "Star and car", "stars", "a cartoon of a fish"]
    assert audit.frequencies(captions, ("a star", "car", "fish")) == {"a star": 2, "car": 1, "fish": 1}
