"""Refusals that several rooms need, each said once: what was given, what was expected."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

import numpy as np


def check_images(images: np.ndarray, what: str) -> None:
    """Raise ValueError unless `images` is a uint8 array (n, h, w, 3); `what` begins the message."""
    if not isinstance(images, np.ndarray):
        kind = type(images).__name__
    elif images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        kind = f"{images.dtype} {images.shape}"
    else:
        return
    raise ValueError(f"{what}: images must be a uint8 array (n, h, w, 3) with values 0 to 255, got {kind}")


def check_size(size: int | None) -> None:
    """Raise ValueError unless `size` is None or a positive number of pixels."""
    if size is not None and not is_integer(size, 1):
        raise ValueError(f"size must be a positive number of pixels or None, got {size!r}")


def check_prompts(prompts: Sequence[str]) -> list[str]:
    """Return prompts as a list; ValueError where there is none, or where one is no text."""
    if isinstance(prompts, str) or len(prompts) == 0 or any(not isinstance(text, str) for text in prompts):
        raise ValueError(f"prompts must be a list of one or more texts, got {prompts!r}")
    return list(prompts)


def is_integer(value: object, least: int) -> bool:
    """Say whether a value is an integer (True and False are none) of at least `least`."""
    return not isinstance(value, bool) and isinstance(value, int | np.integer) and value >= least


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return " (did you mean '…'?)" with the nearest of the known words, or nothing if none is near."""
    close = difflib.get_close_matches(word, list(known), n=3, cutoff=0.6)
    return f" (did you mean {' or '.join(map(repr, close))}?)" if close else ""
