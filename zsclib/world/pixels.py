"""Pixels of the pocket world: a grid of N×N points, twice the final size, and the few operations that paint on it.

Only + − × ÷ √, floor and comparisons: IEEE 754 rounds those alike on every machine, so a seed gives the same bytes.
"""

from __future__ import annotations

import numpy as np

SIZE, OVER = 32, 2
N = SIZE * OVER
_axis = (np.arange(N, dtype=np.float32) + 0.5) / (N / 2) - 1.0
X, Y = np.meshgrid(_axis, -_axis)  # (N, N), y up
EDGE = 2.0 / SIZE  # one final pixel in units of half the image: the width of an anti-aliased edge


def flat(colour: np.ndarray | float) -> np.ndarray:
    """One colour or grey everywhere, (N, N, 3)."""
    return np.broadcast_to(np.asarray(colour, np.float32), (N, N, 3))


def jittered(colour: tuple[float, float, float], rng: np.random.Generator) -> np.ndarray:
    """A colour moved by up to 6 % a channel."""
    return np.clip(np.asarray(colour, np.float32) + 0.12 * (rng.random(3) - 0.5), 0, 1).astype(np.float32)


def alpha(d: np.ndarray, softness: float = EDGE) -> np.ndarray:
    """Coverage in [0, 1] of a signed distance, its edge `softness` wide."""
    return np.clip(0.5 - d / np.float32(softness), 0, 1)


def over(below: np.ndarray, above: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Paint `above` on `below` with coverage (N, N)."""
    return below + (above - below) * alpha[..., None]


def noise(rng: np.random.Generator, cells: int) -> np.ndarray:
    """Value noise in [0, 1], (N, N): a random lattice of `cells` squares a side, bilinear in between."""
    lattice = rng.random((cells + 1, cells + 1)).astype(np.float32)
    at = (np.arange(N, dtype=np.float32) + 0.5) * np.float32(cells / N)
    return lerp(lattice, at[:, None], at[None, :])


def lerp(table: np.ndarray, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Read a table (rows, columns) between its entries, bilinearly."""
    r, c = np.floor(row).astype(np.int64), np.floor(column).astype(np.int64)
    fr, fc = row - r, column - c
    top = table[r, c] + (table[r, c + 1] - table[r, c]) * fc
    bottom = table[r + 1, c] + (table[r + 1, c + 1] - table[r + 1, c]) * fc
    return top + (bottom - top) * fr


def shrink(canvas: np.ndarray) -> np.ndarray:
    """Average 2×2 points to one pixel and round to uint8 (32, 32, 3)."""
    c = np.clip(canvas, 0, 1)
    mean = (c[0::2, 0::2] + c[0::2, 1::2] + c[1::2, 0::2] + c[1::2, 1::2]) * np.float32(0.25)
    return np.floor(mean * 255 + 0.5).astype(np.uint8)
