"""Figures: every pixel of a picture kept, labels kept apart, bad input named."""

from __future__ import annotations

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pytest
from matplotlib import pyplot as plt

from zsclib.study import plots
from zsclib.study.stats import Estimate


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def pixels(figure) -> np.ndarray:
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3]


def test_a_sheet_shows_every_pixel_of_every_picture():
    draws = np.random.default_rng(0)
    pictures = draws.integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    figure = plots.image_grid(pictures, columns=3)
    figure.set_dpi(2 * plots.DPI)
    shown = {tuple(colour) for colour in pixels(figure).reshape(-1, 3)}
    assert {tuple(colour) for colour in pictures.reshape(-1, 3)} <= shown


def test_a_sheet_is_as_wide_as_the_page_whatever_it_shows():
    picture = np.zeros((3, 32, 32, 3), np.uint8)
    for options in ({"columns": 1}, {"columns": 3}, {"columns": 3, "row_titles": ["a long name"]}):
        assert plots.image_grid(picture, **options).get_size_inches()[0] == pytest.approx(plots.WIDTH, abs=0.01)


@pytest.mark.parametrize(
    "pictures, options, said",
    [
        (np.zeros((0, 8, 8, 3), np.uint8), {}, "images must be uint8"),
        (np.zeros((2, 8, 8, 3), np.float32), {}, "images must be uint8"),
        (np.zeros((2, 8, 8, 3), np.uint8), {"titles": ["one"]}, "need 2 titles, got 1"),
        (np.zeros((2, 8, 8, 3), np.uint8), {"columns": 1, "row_titles": ["one"]}, "need 2 row_titles, got 1"),
    ],
)
def test_a_sheet_refuses_what_it_cannot_show(pictures, options, said):
    with pytest.raises(ValueError, match=said):
        plots.image_grid(pictures, **options)


def test_labels_of_curves_keep_their_distance_and_order():
    _, axes = plt.subplots()
    for height in (0.50, 0.51, 0.9):
        plots.curve_with_band(axes, [0, 1], [0, height], label=f"{height}")
    plots.label_curves(axes, gap=12)
    axes.figure.draw_without_rendering()
    scale = 72 / axes.figure.dpi
    places = {}
    for text in axes.texts:
        places[text.get_text()] = text.get_window_extent().y0 * scale
    assert places["0.51"] - places["0.5"] >= 11.5
    assert places["0.9"] > places["0.51"]


def test_a_confusion_matrix_shows_shares_of_rows():
    _, axes = plt.subplots()
    plots.confusion(axes, [[3, 1], [0, 2]], ["cat", "dog"])
    assert [text.get_text() for text in axes.texts] == ["75", "25", "100"]
    with pytest.raises(ValueError, match="2 classes need a square matrix"):
        plots.confusion(axes, [[1, 2, 3]], ["cat", "dog"])


def test_interval_dots_name_and_price_every_row():
    _, axes = plt.subplots()
    plots.interval_dots(axes, {"CLIP": Estimate(0.5, 0.4, 0.6, 100)}, {"CLIP": "clip"}, chance=0.1)
    said = " ".join(text.get_text() for text in axes.texts)
    assert "CLIP" in said and "50.0 %" in said and "chance" in said
    assert any(line.get_color() == plots.COLOURS["clip"] for line in axes.get_lines())
