"""Two images, two captions: scores by known answers, errors by what must never change them."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pandas as pd
import pytest
import torch

from tests.worlds import MortalCache
from zsclib import datasets
from zsclib.images.image_set import ImageSet
from zsclib.models.clip import open_clip
from zsclib.models.generator import open_generator
from zsclib.papers.diffusion_classifier import winoground
from zsclib.papers.diffusion_classifier.error_matrix import exhaustive, nested_stages
from zsclib.papers.diffusion_classifier.method import noise
from zsclib.papers.diffusion_classifier.winoground import (
    CHANCE,
    by_swap,
    clip_pair_scores,
    pair_errors,
    pair_scores,
    pairs_of,
    solved,
    subtract_unconditional,
)
from zsclib.workers import Execution

FOUR = exhaustive(4)


@pytest.fixture(scope="module")
def generator(folders):
    return open_generator(folders["stable_diffusion_1"])


@pytest.fixture(scope="module")
def images():
    """Five examples; the third has a caption of the first, and the rows are in no order."""
    pixels = np.random.default_rng(0).integers(0, 256, (10, 16, 16, 3), dtype=np.uint8)
    captions = [("a b", "b a"), ("c d", "d c"), ("b a", "e"), ("f g", "g f"), ("h", "i j")]
    rows = pd.DataFrame({
        "example": np.repeat(np.arange(20, 25), 2),
        "caption_0": [c0 for c0, _ in captions for _ in range(2)],
        "caption_1": [c1 for _, c1 in captions for _ in range(2)],
        "swap": np.repeat(["both", "object", "both", "relation", "object"], 2),
    })  # fmt: skip
    whole = ImageSet(pixels, np.tile([0, 1], 5), ("first", "second"), manifest=rows)
    return whole.take([1, 0, 2, 5, 3, 4, 9, 8, 7, 6])


# --- scores ---------------------------------------------------------------------------------------


def test_scores_by_hand():
    s = np.array([
        [[4, 1], [2, 3]],  # all is correct
        [[4, 3], [2, 9]],  # correct, though image 1 scores more throughout
        [[2, 3], [1, 9]],  # caption 0 prefers image 1: text only
        [[2, 1], [3, 9]],  # image 0 prefers caption 1: image only
        [[1, 2], [3, 0]],  # all is wrong
        [[2, 2], [2, 3]],  # ties are wrong
    ], float)  # fmt: skip
    correct = solved(s)
    assert correct["text"].tolist() == [True, True, True, False, False, False]
    assert correct["image"].tolist() == [True, True, False, True, False, False]
    assert correct["group"].tolist() == [True, True, False, False, False, False]
    assert correct["matching"].tolist() == [True, True, True, True, False, True]


def test_chance_is_the_share_of_all_orders():
    orders = np.array(list(permutations([0, 1, 2, 4]))).reshape(-1, 2, 2)
    assert {name: pytest.approx(correct.mean()) for name, correct in solved(orders).items()} == CHANCE


def test_the_unconditional_score_takes_out_what_an_image_is_worth_by_itself():
    random = np.random.default_rng(0)
    worth, s = random.normal(size=(50, 2)) * 9, random.normal(size=(50, 2, 2))
    raw = s + worth[:, None, :]
    np.testing.assert_allclose(subtract_unconditional(raw, worth), s)
    np.testing.assert_array_equal(solved(raw)["text"], solved(s)["text"])
    assert (solved(raw)["image"] != solved(s)["image"]).any()
    np.testing.assert_array_equal(solved(raw)["matching"], solved(s)["matching"])
    with pytest.raises(ValueError, match=r"got \(50, 2, 2\), \(2, 50\)"):
        subtract_unconditional(s, worth.T)


def test_by_swap():
    parts = by_swap(np.array([True, False, True, True]), ["both", "object", "both", "other"])
    assert {name: part.tolist() for name, part in parts.items()} == {
        "object": [False], "both": [True, True], "other": [True], "all": [True, False, True, True],
    }  # fmt: skip
    assert list(parts) == ["object", "both", "other", "all"]
    with pytest.raises(ValueError, match="3 swap types|swap types"):
        by_swap(np.array([True]), ["both"] * 3)


def test_scores_must_be_four_and_finite():
    for wrong in (np.zeros((3, 2)), np.full((1, 2, 2), np.nan)):
        with pytest.raises(ValueError, match="must be finite"):
            solved(wrong)


# --- examples -------------------------------------------------------------------------------------


def test_examples_of_a_set(images):
    pairs = pairs_of(images)
    assert pairs.keys == ("example 20", "example 21", "example 22", "example 24", "example 23")
    assert pairs.captions[2] == ("b a", "e")
    assert pairs.swaps[3:] == ("object", "relation")
    np.testing.assert_array_equal(pairs.images[0], images.images[[1, 0]])  # in the order of the captions
    shipped = datasets.load("pairs", n=12)
    assert pairs_of(shipped).swaps == ("object", "relation", "both") * 2
    np.testing.assert_array_equal(pairs_of(shipped).images.reshape(shipped.images.shape), shipped.images)


def test_sets_that_hold_no_pairs(images):
    plain = ImageSet(images.images, images.labels, images.classes)
    with pytest.raises(ValueError, match="no caption_0, caption_1, example"):
        pairs_of(plain)
    with pytest.raises(ValueError, match="example 20 needs an image of label 0"):
        pairs_of(images.take(range(1, 10)))
    other = images.manifest.assign(caption_1=images.manifest.caption_0)
    with pytest.raises(ValueError, match="two captions"):
        pairs_of(ImageSet(images.images, images.labels, images.classes, manifest=other))
    other = images.manifest.assign(caption_1=[f"caption {i}" for i in range(10)])
    with pytest.raises(ValueError, match="two captions"):
        pairs_of(ImageSet(images.images, images.labels, images.classes, manifest=other))
    bare = ImageSet(images.images, images.labels, images.classes, manifest=images.manifest.drop(columns="swap"))
    assert set(pairs_of(bare).swaps) == {""}


# --- errors of the diffusion model ----------------------------------------------------------------


def test_all_of_an_example_meet_the_same_noise(generator, images):
    pairs = pairs_of(images)
    errors, unconditional = pair_errors(generator, pairs, FOUR, execution=Execution(seed=3))
    assert (errors.dtype, errors.shape, unconditional.shape) == (np.float32, (5, 2, 2, 4), (5, 2, 4))
    for example, image, k in ((0, 0, 1), (2, 1, 3), (4, 1, 0)):
        z = generator.encode_images(pairs.images[example, image][None])
        eps = noise(3, pairs.keys[example], k, z.shape[1:])[None]
        a, s = generator.signal_and_noise(FOUR.t[k])
        for caption, text in enumerate([*pairs.captions[example], ""]):
            condition = generator.encode_prompts([text])
            eps_hat = generator.predict_noise(a * z + s * eps, FOUR.t[k], condition)
            error = unconditional[example, image, k] if caption == 2 else errors[example, caption, image, k]
            assert error == pytest.approx((eps_hat - eps).square().mean().item(), rel=1e-4)


def test_neither_batch_nor_company_changes_an_error(generator, images, monkeypatch):
    pairs = pairs_of(images)
    whole = pair_errors(generator, pairs, FOUR)
    others = [
        pair_errors(generator, pairs, FOUR, execution=Execution(batch=5)),
        pair_errors(generator, pairs, FOUR, execution=Execution(images_at_once=3)),
    ]
    monkeypatch.setattr(winoground, "EXAMPLES_AT_ONCE", 2)
    others.append(pair_errors(generator, pairs, FOUR))
    for other in others:
        for a, b in zip(other, whole, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4)
    alone = pairs_of(images.take([3, 5]))  # example 22
    for a, b in zip(pair_errors(generator, alone, FOUR), whole, strict=True):
        np.testing.assert_allclose(a[0], b[2], rtol=1e-4)
    reseeded = pair_errors(generator, pairs, FOUR, execution=Execution(seed=1))
    assert np.abs(reseeded[0] - whole[0]).max() > 1e-3
    assert np.abs(pair_errors(generator, pairs, FOUR, loss="l1")[0] - whole[0]).max() > 1e-2


def test_a_killed_run_goes_on(generator, images, tmp_path):
    pairs, cache, progress = pairs_of(images), MortalCache(tmp_path, lives=2), []
    execution = Execution(
        seed=5, images_at_once=4, cache=cache, progress=lambda *step: progress.append(step)
    )
    with pytest.raises(KeyboardInterrupt):
        pair_errors(generator, pairs, FOUR, execution=execution)
    assert len(cache) == 2
    assert progress == [("images", 0, 10), ("images", 4, 10), ("images", 8, 10)]
    cache.lives = 10**9
    progress.clear()
    resumed = pair_errors(generator, pairs, FOUR, execution=execution)
    assert len(cache) == 3
    assert progress == [("images", 8, 10), ("images", 10, 10)]
    whole = pair_errors(generator, pairs, FOUR, execution=Execution(seed=5))
    for a, b in zip(resumed, whole, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4)


def test_an_example_takes_four_evaluations_with_a_caption_and_two_without(generator, images, monkeypatch):
    rows, predict = [], type(generator).predict_noise

    def counted(self, z_t, t, condition, copies=None):
        rows.append(len(condition))
        return predict(self, z_t, t, condition, copies=copies)

    monkeypatch.setattr(type(generator), "predict_noise", counted)
    pair_errors(generator, pairs_of(images), FOUR)
    assert sum(rows) == 5 * 6 * 4


def test_scores_of_errors():
    random = np.random.default_rng(0)
    errors, unconditional = random.random((3, 2, 2, 4), np.float32), random.random((3, 2, 4), np.float32)
    s, u = pair_scores(errors, unconditional)
    assert (s.shape, u.shape, s.dtype) == ((3, 2, 2), (3, 2), np.float64)
    np.testing.assert_allclose(s, -errors.mean(3), rtol=1e-6)
    np.testing.assert_allclose(u, -unconditional.mean(2), rtol=1e-6)


def test_bad_requests_for_errors(generator, images):
    pairs = pairs_of(images)
    with pytest.raises(ValueError, match="one stage, got 5 examples, 2 stages"):
        pair_errors(generator, pairs, nested_stages((2, 4), (1, 1)))
    with pytest.raises(ValueError, match="got 0 examples"):
        pair_errors(generator, pairs_of(images.take([])), FOUR)
    with pytest.raises(ValueError, match="loss must be one of"):
        pair_errors(generator, pairs, FOUR, loss="l3")


# --- CLIP -----------------------------------------------------------------------------------------


def test_cosines_of_clip(folders, images):
    clip, pairs = open_clip(folders["clip"]), pairs_of(images)
    s = clip_pair_scores(clip, pairs)
    assert s.shape == (5, 2, 2)
    for example in range(5):
        texts = clip.encode_texts(list(pairs.captions[example]))
        both = clip.encode_images(pairs.images[example])
        np.testing.assert_allclose(s[example], (texts @ both.T).numpy(), atol=1e-5)
    assert torch.from_numpy(s).abs().max() <= 1 + 1e-5
