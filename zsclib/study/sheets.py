"""Sheets of images from several sources, which several pages show in one way."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import wrap

import numpy as np
from matplotlib.figure import Figure

from zsclib.images.image_set import ImageSet
from zsclib.study import plots

WIDEST = 11  # characters of a class's name in a line, where there are words to part


def sources_sheet(sets: Mapping[str, ImageSet], rows: int = 2, columns: int = 10) -> Figure:
    """Show the first images of each class by every source, a column per class; where a source has none, a gap.

    Below the first row stand the classes, below retrieved images their similarity to the query.
    """
    images, titles, names = [], [], []
    for name, one in sets.items():
        similarity = None if one.manifest is None else one.manifest.get("similarity")
        for row in range(rows):
            for label in range(min(columns, len(one.classes))):
                own, title = np.flatnonzero(one.labels == label), ""
                if not names:
                    lines = wrap(one.classes[label], WIDEST, break_long_words=False)
                    title = "\n".join(f" {line} " for line in lines)  # apart from its neighbours
                elif similarity is not None and row < len(own):
                    title = f"{similarity.iloc[own[row]]:.2f}"
                images.append(one.images[own[row]] if row < len(own) else np.full(one.images.shape[1:], 255, np.uint8))
                titles.append(title)
            names.append("" if row else name)
    return plots.image_grid(np.stack(images), titles, len(images) // len(names), names)


def one_class_sheet(sets: Mapping[str, ImageSet], columns: int = 8) -> Figure:
    """Show the first images of sets of one class, a row per set."""
    across = min(columns, *map(len, sets.values()))
    images = np.concatenate([one.images[:across] for one in sets.values()])
    return plots.image_grid(images, columns=across, row_titles=list(sets))
