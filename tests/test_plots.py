"""Figures: images stay pixel-exact, text stays legible and apart, a figure is as wide as the page."""

from __future__ import annotations

import io
from collections.abc import Iterator

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from zsclib.study import plots
from zsclib.study.stats import Estimate, wilson


@pytest.fixture(autouse=True)
def _style() -> Iterator[None]:
    with mpl.rc_context():
        plots.use_style()
        yield
        plt.close("all")


def pixels(figure: Figure) -> np.ndarray:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=2 * plots.DPI)
    return np.asarray(Image.open(buffer).convert("RGB"))


def random_images(n: int, height: int = 8, width: int = 8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 200, (n, height, width, 3)).astype(np.uint8)


@pytest.mark.parametrize(("n", "columns", "shape"), [(5, 3, (32, 32)), (23, 10, (32, 32)), (2, 2, (28, 20))])
def test_every_pixel_of_an_image_is_one_crisp_square(n: int, columns: int, shape: tuple[int, int]) -> None:
    images = random_images(n, *shape)
    shown = pixels(plots.image_grid(images, columns=columns))
    assert shown.shape[1] == 1440
    step = 1440 // columns
    zoom = min(16, (step - 14) // shape[1])
    step = min(step, zoom * shape[1] + 56)
    for i, image in enumerate(images):
        x, y = 6 + i % columns * step, 6 + i // columns * (zoom * shape[0] + 14)
        part = shown[y : y + zoom * shape[0], x : x + zoom * shape[1]]
        np.testing.assert_array_equal(part, image.repeat(zoom, 0).repeat(zoom, 1))


def test_a_frame_surrounds_its_image_only() -> None:
    shown = pixels(plots.image_grid(random_images(2), columns=2, frames=[None, plots.WRONG]))
    colour = tuple(int(plots.WRONG[i : i + 2], 16) for i in (1, 3, 5))
    framed = np.flatnonzero((shown == colour).all(-1).any(0))
    assert framed.min() > 8 * 16 + 6
    assert len(framed) == 8 * 16 + 12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": np.zeros((2, 8, 8, 3))}, "must be uint8"),
        ({"images": random_images(0)}, "must be uint8"),
        ({"titles": ["a"]}, "need 3 titles, got 1"),
        ({"row_titles": ["a"], "columns": 2}, "need 2 row_titles, got 1"),
        ({"frames": []}, "need 3 frames, got 0"),
    ],
)
def test_a_grid_that_does_not_fit_is_an_error(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plots.image_grid(**{"images": random_images(3)} | arguments)


def test_grey_images_are_shown_as_they_are() -> None:
    grey = random_images(1)[..., 0]
    shown = pixels(plots.image_grid(grey, columns=1))
    np.testing.assert_array_equal(shown[6:134, 6:134, 1], grey[0].repeat(16, 0).repeat(16, 1))


def test_labels_of_close_curves_keep_apart() -> None:
    places = plots._spread([0, 1, 2, 100], 10)
    assert places == pytest.approx([-9, 1, 11, 100])
    figure, axes = plt.subplots()
    for i in range(4):
        plots.curve_with_band(axes, [0, 1], [0, 0.5 + i / 1000], label=f"curve {i}")
    plots.label_curves(axes)
    figure.draw_without_rendering()
    heights = sorted(text.get_window_extent().y0 for text in axes.texts)
    assert np.diff(heights).min() == pytest.approx(12 * plots.DPI / 72, rel=0.05)


def test_text_in_any_colour_is_legible() -> None:
    for colour in plots.COLOURS.values():
        rgb = np.array(plots._legible(colour))
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        assert 1.05 / (linear @ (0.2126, 0.7152, 0.0722) + 0.05) >= 4.5
    assert plots._legible("#222222") == pytest.approx(plots.to_rgb("#222222"))


def test_titles_wrap_evenly() -> None:
    text = plots._wrap("Without a single label the generator classifies better than the network", 50)
    first, second = text.split("\n")
    assert abs(len(first) - len(second)) < 12
    assert plots._wrap("short", 50) == "short"
    assert plots._wrap("one\ntwo", 50) == "one\ntwo"


def test_differences_have_a_sign_points_and_a_line_at_zero() -> None:
    _, axes = plt.subplots()
    gaps = {"worse": Estimate(-0.025, -0.05, 0.01, 99), "better": Estimate(0.0123, -0.01, 0.03, 99)}
    plots.interval_dots(axes, gaps, differences=True)
    assert [text.get_text() for text in axes.texts] == [
        "worse",
        "\N{MINUS SIGN}2.5 points",
        "better",
        "+1.2 points",
    ]
    assert [0, 0] in [list(line.get_xdata()) for line in axes.get_lines()]
    axes.figure.draw_without_rendering()
    assert not any("%" in label.get_text() for label in axes.get_xticklabels())  # points are no per cent


def test_everything_of_a_figure_is_inside_it() -> None:
    figure, axes = plt.subplots()
    estimates = {"Diffusion Classifier": wilson(99, 100), "CLIP": wilson(1, 100)}
    plots.interval_dots(axes, estimates, {"CLIP": "clip"}, {"CLIP": 0.5}, chance=0.1)
    axes.set(xlim=(0, 1))
    plots.title(axes, "A message that is long enough to need a second line of its own, as many are", "Detail")
    plots.label_curves(axes)
    figure.draw_without_rendering()
    width, height = figure.get_size_inches() * figure.dpi
    box = figure.get_tightbbox()
    assert box.x0 >= -0.01
    assert box.y0 >= -0.01
    assert box.x1 * figure.dpi <= width + 1
    assert box.y1 * figure.dpi <= height + 1


def test_confusion_shows_shares_of_each_true_class() -> None:
    _, axes = plt.subplots()
    plots.confusion(axes, [[3, 1], [0, 0]], ["cat", "dog"])
    assert sorted(text.get_text() for text in axes.texts) == ["25", "75"]
    np.testing.assert_allclose(axes.images[0].get_array(), [[0.75, 0.25], [0, 0]])
    with pytest.raises(ValueError, match="2 classes need a square matrix"):
        plots.confusion(axes, [[1, 2, 3]], ["cat", "dog"])
