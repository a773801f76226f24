"""The strong augmentation: each operation does what it says, and what changes classes can be switched off."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest

from zsclib.images.randaugment import OPERATIONS
from zsclib.images.strong_augmentation import COLOURLESS, strong_augmentation, weak_augmentation

RANDOM = np.random.default_rng(0)
IMAGE = RANDOM.integers(0, 256, (24, 32, 3), dtype=np.uint8)


def augmented(image, n=100, side=16, **options):
    return [strong_augmentation(image, side, np.random.default_rng(i), **options) for i in range(n)]


def plain(patch):
    """Leave RandAugment out: what is measured is the rest."""
    patch.setattr("zsclib.images.strong_augmentation.randaugment", lambda image, *_: image)


def test_the_stream_decides_and_the_image_stays():
    before = IMAGE.copy()
    first, again = augmented(IMAGE), augmented(IMAGE)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert all(x.shape == (16, 16, 3) and x.dtype == np.uint8 for x in first)
    assert len({x.tobytes() for x in first}) == 100
    assert np.array_equal(IMAGE, before)


def test_with_hue_off_a_grey_image_stays_grey_and_a_colour_has_its_hue():
    grey = np.repeat(IMAGE[..., :1], 3, axis=2)
    assert all((x == x[..., :1]).all() for x in augmented(grey, hue=False))
    brown = np.full((16, 16, 3), (150, 100, 50), np.uint8)

    def hues(**options):
        middles = [x[8, 8] / 255 for x in augmented(brown, **options)]
        return np.array([colorsys.rgb_to_hsv(*middle)[0] for middle in middles])

    assert np.abs(hues(hue=False) - 30 / 360).max() < 0.01
    assert np.abs(hues() - 30 / 360).max() > 0.05
    assert set(COLOURLESS) < set(OPERATIONS)


def test_with_hue_off_nothing_becomes_its_negative(monkeypatch):
    plain(monkeypatch)
    white = np.full((16, 16, 3), 255, np.uint8)
    means = {hue: np.array([x.mean() for x in augmented(white, 300, hue=hue)]) for hue in (False, True)}
    assert means[False].min() > 255 * 0.6 - 1, "brightness takes at most 40 percent"
    assert 0.1 < (means[True] < 100).mean() < 0.3, "a fifth is solarised"


def test_half_are_mirrored_and_none_with_flip_off(monkeypatch):
    plain(monkeypatch)
    ramp = np.repeat(np.arange(0, 256, 8, dtype=np.uint8)[None, :, None], 32, 0).repeat(3, 2)
    rises = {
        flip: np.mean([x[8, 12].sum() > x[8, 3].sum() for x in augmented(ramp, 300, flip=flip, hue=False)])
        for flip in (False, True)
    }
    assert rises[False] == 1 and 0.4 < rises[True] < 0.6


def test_the_crop_has_its_share_of_the_area_and_lies_anywhere(monkeypatch):
    """Red says the column of a pixel, green its row: their spans are the crop's sides."""
    plain(monkeypatch)
    monkeypatch.setattr("zsclib.images.strong_augmentation._jittered", lambda x, *_: x)
    column, row = np.meshgrid(np.arange(128), np.arange(128))
    image = np.stack([column, row, 0 * row], 2).astype(np.uint8)
    boxes = []
    for x in augmented(image, 300, side=64, flip=False, hue=False):
        (left, right), (top, bottom) = (x[32, [1, -2], 0].astype(float), x[[1, -2], 32, 1].astype(float))
        boxes.append((left, top, (right - left) * 64 / 61, (bottom - top) * 64 / 61))
    left, top, width, height = np.array(boxes).T
    area, shape = width * height / 128**2, width / height
    assert 0.21 < area.min() < 0.3 and 0.85 < area.max() <= 1.05
    assert 0.7 < shape.min() < 0.8 and 1.25 < shape.max() < 1.43
    assert left.min() < 4 and top.min() < 4 and (left + width).max() > 122 and (top + height).max() > 122


def test_the_weak_one_crops_and_mirrors_and_leaves_colours_alone():
    one_colour = np.full((32, 32, 3), (200, 90, 30), np.uint8)
    ramp = np.repeat(np.arange(0, 256, 8, dtype=np.uint8)[None, :, None], 32, 0).repeat(3, 2)
    for i in range(20):
        assert (weak_augmentation(one_colour, 24, np.random.default_rng(i)) == (200, 90, 30)).all()
    weak = [weak_augmentation(ramp, 32, np.random.default_rng(i), crop=0.3) for i in range(300)]
    rises = np.array([x[8, -1].sum() > x[8, 0].sum() for x in weak])
    spans = np.array([np.ptp(x[8, :, 0].astype(int)) for x in weak])
    assert 0.4 < rises.mean() < 0.6 and spans.min() < 150 < 230 < spans.max()
    still = weak_augmentation(ramp, 32, np.random.default_rng(0), crop=1, flip=False)
    assert np.array_equal(still, ramp)


def test_without_crop_it_is_the_centre_square(monkeypatch):
    plain(monkeypatch)
    monkeypatch.setattr("zsclib.images.strong_augmentation._jittered", lambda x, *_: x)
    monkeypatch.setattr("zsclib.images.strong_augmentation.AUTHORS_SIDE", 1e9)  # no blur to speak of
    for x in augmented(IMAGE, 5, side=24, crop=1, flip=False, hue=False):
        assert np.abs(x.astype(int) - IMAGE[:, 4:28]).max() <= 1


def test_the_blur_has_the_same_share_of_an_image_of_any_size(monkeypatch):
    """An edge of a large image, blurred and made small, is that of a small image, blurred."""
    plain(monkeypatch)
    widths = {}
    for side in (64, 256):
        edge = np.zeros((side, side, 3), np.uint8)
        edge[:, side // 2 :] = 255
        blurred = augmented(edge, 200, side, crop=1, flip=False, hue=False)
        soft = [np.abs(np.diff(x[side // 2, :, 0].astype(float))).max() / max(1, np.ptp(x)) for x in blurred]
        widths[side] = 1 / min(soft) / side
    assert widths[64] == pytest.approx(widths[256], rel=0.6)
