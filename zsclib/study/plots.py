"""One look for every figure of the book: drawn for a page 720 px wide, still legible on a phone.

A title states the message; a colour means the same thing everywhere; labels stand at what they name.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import ArrayLike

from zsclib.study.stats import Estimate

WIDTH = 6.4  # inches: 720 px at 112.5 dpi on the page, kept at twice that
DPI = 112.5

# Okabe & Ito's colours, told apart with any colour vision; each stands for one thing in the whole book.
COLOURS = {
    "diffusion": "#0072B2",  # the diffusion model as a classifier
    "clip": "#D55E00",  # CLIP
    "real": "#009E73",  # networks trained on real images
    "synthetic": "#CC79A7",  # networks trained on generated images
    "retrieved": "#E69F00",  # networks trained on retrieved images
    "features": "#56B4E9",  # heads on a generator's features
    "elimination": "#000000",  # the diffusion classifier with staged elimination
    "published": "#222222",  # numbers of a paper
    "chance": "#8C8C8C",  # guessing
}
INK, QUIET, LINES = "#222222", "#5F5F5F", "#D9D9D9"
RIGHT, WRONG = "#009E73", "#D55E00"


def use_style() -> None:
    """Set the house style for all figures that follow; in a notebook also their size and sharpness."""
    sns.set_theme(
        style="ticks",
        palette=[COLOURS[role] for role in ("diffusion", "clip", "real", "synthetic", "retrieved", "features")],
        rc={
            "figure.figsize": (WIDTH, 3.6),
            "figure.dpi": DPI,
            "figure.constrained_layout.use": True,
            "figure.constrained_layout.w_pad": 0.02,
            "savefig.dpi": 2 * DPI,
            "font.family": "sans-serif",
            "font.sans-serif": ["DejaVu Sans"],  # comes with Matplotlib: the same everywhere
            "font.size": 10,
            "axes.titlesize": 12,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "axes.titlepad": 10,
            "axes.labelsize": 10,
            "xtick.labelsize": 9.5,
            "ytick.labelsize": 9.5,
            "legend.fontsize": 9.5,
            "legend.frameon": False,
            "text.color": INK,
            "axes.labelcolor": QUIET,
            "xtick.color": QUIET,
            "ytick.color": QUIET,
            "axes.edgecolor": QUIET,
            "axes.linewidth": 0.8,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.grid.axis": "y",
            "axes.axisbelow": True,
            "grid.color": LINES,
            "grid.linewidth": 0.7,
            "xtick.major.width": 0.8,
            "ytick.major.width": 0.8,
            "xtick.major.size": 3.5,
            "ytick.major.size": 0,
            "lines.linewidth": 2,
            "lines.markersize": 6,
            "axes.unicode_minus": True,
        },
    )
    from IPython import get_ipython

    if get_ipython() is not None:
        from matplotlib_inline.backend_inline import set_matplotlib_formats

        # Not cropped: every figure is as wide as the page, so text has one size throughout.
        set_matplotlib_formats("retina", bbox_inches=None)


def title(axes: Axes, message: str, detail: str | None = None) -> None:
    """Head a figure with its message, left-aligned and wrapped, and below it, smaller, what is shown."""
    lines = _wrap(detail, 76) if detail else ""
    below = 13 * (lines.count("\n") + 1) + 3 if detail else 0
    axes.set_title(_wrap(message, 60), loc="left", pad=8 + below)
    if detail:
        place = {"xycoords": "axes fraction", "textcoords": "offset points", "va": "bottom"}
        axes.annotate(lines, (0, 1), (0, 8), color=QUIET, **place)


def percent(axis: Axis, decimals: int = 0) -> None:
    """Write an axis of shares (0 … 1) in percent."""
    axis.set_major_formatter(PercentFormatter(1, decimals=decimals, symbol=" %"))


def log_ticks(axis: Axis, values: Sequence[float]) -> None:
    """Make an axis logarithmic, with plain numbers at these values."""
    (axis.axes.set_xscale if axis.axis_name == "x" else axis.axes.set_yscale)("log")
    axis.set_ticks(values, [f"{value:,g}" for value in values])
    axis.set_ticks([], minor=True)


def curve_with_band(
    axes: Axes,
    x: ArrayLike,
    mean: ArrayLike,
    low: ArrayLike | None = None,
    high: ArrayLike | None = None,
    label: str | None = None,
    role: str | None = None,
    **line: object,
) -> None:
    """Draw a curve and the band of its intervals; name the curves with `label_curves` when all are drawn.

    Args:
        axes: where.
        x, mean: (k,) points of the curve.
        low, high: (k,) bounds of its intervals, or None.
        label: what the curve is.
        role: whose colour of `COLOURS` it has; default: the next of the cycle.
        line: further arguments of `Axes.plot`.
    """
    colour = {"color": COLOURS[role]} if role else {}
    (drawn,) = axes.plot(x, mean, label=label, **{**colour, **line})
    if low is not None:
        axes.fill_between(x, low, high, color=drawn.get_color(), alpha=0.18, linewidth=0)


def label_curves(axes: Axes, gap: float = 12) -> None:
    """Write each curve's label at its right end, in its colour; labels keep `gap` points from one another."""
    curves = [c for c in axes.get_lines() if not c.get_label().startswith("_") and len(c.get_xdata())]
    if not curves:
        return
    axes.figure.draw_without_rendering()  # so that limits and places are final
    scale = 72 / axes.figure.dpi
    ends = [axes.transData.transform((c.get_xdata()[-1], c.get_ydata()[-1])) * scale for c in curves]
    order = sorted(range(len(curves)), key=lambda i: ends[i][1])
    places = _spread([ends[i][1] for i in order], gap)
    for i, y in zip(order, places, strict=True):
        curve = curves[i]
        axes.annotate(
            curve.get_label(),
            (curve.get_xdata()[-1], curve.get_ydata()[-1]),
            (7, y - ends[i][1]),
            textcoords="offset points",
            va="center",
            color=_legible(curve.get_color()),
            fontsize=9.5,
            fontweight="bold",
            annotation_clip=False,
        )


def interval_dots(
    axes: Axes,
    estimates: Mapping[str, Estimate],
    roles: Mapping[str, str] | None = None,
    published: Mapping[str, float] | None = None,
    chance: float | None = None,
    as_percent: bool = True,
    differences: bool = False,
) -> None:
    """Draw one dot with its interval per row, the name and the value above it.

    Args:
        axes: where.
        estimates: name → estimate, drawn from top to bottom.
        roles: name → role of `COLOURS`; default: diffusion for all.
        published: name → number of the paper, drawn as an open diamond.
        chance: a dashed line where guessing lies.
        as_percent: write shares as percentages.
        differences: they are differences: written with a sign and, if of shares, in points; a line at zero.
    """
    roles, published = roles or {}, published or {}
    for row, (name, estimate) in enumerate(estimates.items()):
        colour = COLOURS[roles.get(name, "diffusion")]
        axes.plot(
            [estimate.low, estimate.high], [row, row], color=colour, linewidth=2.5, solid_capstyle="round"
        )
        axes.plot(estimate.value, row, "o", color=colour, markersize=8)
        if name in published:
            axes.plot(published[name], row, "D", color=COLOURS["published"], fillstyle="none", markersize=6.5)
        halo = [withStroke(linewidth=3, foreground="white")]
        at = {"textcoords": "offset points", "va": "baseline", "path_effects": halo}
        shown = axes.annotate(name, (0, row), (0, 11), xycoords=("axes fraction", "data"), **at)
        sign, unit = ("+", "points") if differences else ("", "%")
        value = f"{100 * estimate.value:{sign}.1f} {unit}" if as_percent else f"{estimate.value:{sign}.3g}"
        value = value.replace("-", "\N{MINUS SIGN}")
        axes.annotate(value, (1, row), (6, 11), xycoords=(shown, "data"), fontweight="bold", **at)
    if chance is not None:
        axes.axvline(chance, color=COLOURS["chance"], linestyle=(0, (4, 3)), linewidth=1.2, zorder=0)
        axes.annotate("chance", (chance, -0.8), (4, 0), textcoords="offset points", color=QUIET, fontsize=9)
    if differences:
        axes.axvline(0, color=INK, linewidth=0.8, zorder=0)
    axes.set_ylim(len(estimates) - 0.5, -1)
    axes.set_yticks([])
    axes.grid(False, axis="y")
    axes.grid(True, axis="x")
    axes.spines["left"].set_visible(False)
    if as_percent:
        axes.xaxis.set_major_locator(MaxNLocator(9, steps=[1, 2, 5, 10]))  # no 2.5 to be rounded
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol="" if differences else " %"))


def confusion(axes: Axes, matrix: ArrayLike, classes: Sequence[str]) -> None:
    """Draw a confusion matrix, each row in percent of its class; over 12 classes without numbers.

    Args:
        axes: where.
        matrix: (classes, classes) counts; rows are the true classes, columns the predicted ones.
        classes: their names.
    """
    counts = np.asarray(matrix, dtype=float)
    if counts.shape != (len(classes), len(classes)):
        raise ValueError(f"confusion: {len(classes)} classes need a square matrix, got shape {counts.shape}")
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    white_to_blue = LinearSegmentedColormap.from_list("share", ["white", COLOURS["diffusion"]])
    cells = axes.imshow(share, cmap=white_to_blue, vmin=0, vmax=1)
    ticks = np.arange(len(classes))
    few = len(classes) <= 12
    size = 9.5 if few else max(5.5, 150 / len(classes))
    turned = max(map(len, classes)) > 2
    across = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if turned else {}
    axes.set_xticks(ticks, classes, fontsize=size, **across)
    axes.set_yticks(ticks, classes, fontsize=size)
    axes.set(xlabel="predicted", ylabel="true")
    axes.grid(False)
    axes.tick_params(length=0)
    axes.spines[:].set(color=LINES)
    if not few:
        bar = axes.figure.colorbar(cells, ax=axes, shrink=0.5, aspect=30)
        percent(bar.ax.yaxis)
        bar.outline.set_visible(False)
        return
    for i, j in np.argwhere(share >= 0.005):
        colour = "white" if share[i, j] > 0.55 else INK
        axes.text(j, i, f"{100 * share[i, j]:.0f}", ha="center", va="center", fontsize=9, color=colour)


def image_grid(
    images: np.ndarray | Sequence[np.ndarray],
    titles: Sequence[str] | None = None,
    columns: int = 10,
    row_titles: Sequence[str] | None = None,
    frames: Sequence[str | None] | None = None,
    zoom_limit: int = 16,
) -> Figure:
    """Return a page-wide sheet of small images, each pixel a crisp square.

    Args:
        images: uint8 (n, h, w, 3) or (n, h, w), all of one size.
        titles: a line or more below each image.
        columns: images per row.
        row_titles: a name at the left of each row.
        frames: a colour around each image, or None.
        zoom_limit: the most pixels of the 1440 px wide sheet that an image's pixel may become.
    """
    images = np.asarray(images)
    if images.ndim == 3:
        images = np.repeat(images[..., None], 3, axis=-1)
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8 or not len(images):
        raise ValueError(f"image_grid: images must be uint8 (n, h, w, 3), got {images.dtype} {images.shape}")
    n, height, width, _ = images.shape
    rows = -(-n // columns)
    for name, texts, wanted in (
        ("titles", titles, n),
        ("frames", frames, n),
        ("row_titles", row_titles, rows),
    ):
        if texts is not None and len(texts) != wanted:
            raise ValueError(f"image_grid: need {wanted} {name}, got {len(texts)}")
    # All in pixels of the sheet, so that no image's pixel is wider than its neighbour.
    page, gap, border, point = round(WIDTH * 2 * DPI), 14, 6, 2 * DPI / 72
    left = round(max(map(len, row_titles)) * 9 * 0.72 * point) + gap if row_titles else 0
    cell = (page - left) // columns
    zoom = max(1, min(zoom_limit, (cell - gap) // width))
    step = min(cell, zoom * width + 4 * gap)
    lines = [text.split("\n") for text in titles or []]
    longest = max((len(line) for text in lines for line in text), default=1)
    size = min(9.0, max(6.0, (step - 4) / point / (0.62 * longest)))
    leading = round(1.25 * size * point)
    below = max(map(len, lines), default=0) * leading + (8 if lines else 0)
    step_down = zoom * height + gap + below
    sheet = np.full((rows * step_down + border, page, 3), 255, np.uint8)
    figure = plt.figure(figsize=(WIDTH, len(sheet) / (2 * DPI)), layout="none")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    for i, image in enumerate(images):
        x, y = left + (i % columns) * step + border, (i // columns) * step_down + border
        if frames is not None and frames[i]:
            rgb = np.multiply(to_rgb(frames[i]), 255).round()
            sheet[y - border : y + zoom * height + border, x - border : x + zoom * width + border] = rgb
        sheet[y : y + zoom * height, x : x + zoom * width] = image.repeat(zoom, 0).repeat(zoom, 1)
        for k, line in enumerate(lines[i] if lines else []):
            baseline = y + zoom * height + 8 + (k + 0.8) * leading
            axes.text(x + zoom * width / 2, baseline, line, ha="center", va="baseline", fontsize=size)
    for row, name in enumerate(row_titles or []):
        middle = row * step_down + border + zoom * height / 2
        axes.text(left - gap, middle, name, ha="right", va="center_baseline", fontsize=9)
    axes.imshow(sheet, interpolation="nearest", aspect="auto")
    return figure


def _wrap(text: str, width: int) -> str:
    """Wrap to as few lines as fit, as even as possible; line breaks of the author stay."""
    wrapped = []
    for paragraph in text.split("\n"):
        *narrower, widest = (textwrap.wrap(paragraph, w, break_long_words=False) for w in range(1, width + 1))
        wrapped += next((lines for lines in narrower if len(lines) <= len(widest)), widest)
    return "\n".join(wrapped)


def _legible(colour: str) -> tuple[float, ...]:
    """Return the colour, darkened until text in it has a contrast of 4.5 : 1 on white (WCAG 2)."""
    rgb = np.array(to_rgb(colour))

    def contrast() -> float:
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        return 1.05 / (linear @ (0.2126, 0.7152, 0.0722) + 0.05)

    while contrast() < 4.5:
        rgb = rgb * 0.97
    return tuple(rgb)


def _spread(places: Sequence[float], gap: float) -> list[float]:
    """Return sorted places moved apart to keep the gap, each group centred on where it was."""
    groups: list[list[float]] = []  # [centre, count]
    for place in places:
        groups.append([place, 1])
        while len(groups) > 1 and groups[-1][0] - groups[-2][0] < gap * (groups[-1][1] + groups[-2][1]) / 2:
            (c1, n1), (c2, n2) = groups[-2:]
            groups[-2:] = [[(c1 * n1 + c2 * n2) / (n1 + n2), n1 + n2]]
    return [centre + gap * (k - (count - 1) / 2) for centre, count in groups for k in range(int(count))]
