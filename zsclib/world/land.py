"""Land from above: eight covers, each a small recipe of fields, lines and roofs."""

from __future__ import annotations

import numpy as np

from zsclib.world import pixels as px
from zsclib.world.geometry import box, cos_sin
from zsclib.world.pixels import X, Y

GREENS = ((0.30, 0.46, 0.20), (0.42, 0.52, 0.24), (0.24, 0.40, 0.18))
FIELDS = ((0.45, 0.55, 0.22), (0.72, 0.66, 0.36), (0.55, 0.42, 0.27), (0.35, 0.50, 0.20), (0.80, 0.74, 0.48))
WATER = ((0.16, 0.32, 0.46), (0.20, 0.38, 0.44), (0.12, 0.26, 0.42))
ROOFS = ((0.68, 0.32, 0.24), (0.55, 0.30, 0.24), (0.42, 0.40, 0.42), (0.72, 0.45, 0.32))
SHEDS = ((0.86, 0.87, 0.88), (0.70, 0.73, 0.78), (0.55, 0.60, 0.68))


def land(cover: str, rng: np.random.Generator) -> np.ndarray:
    """Return one image, float (N, N, 3), of a land cover (a name of `scenes.LANDS`)."""
    c, s = cos_sin(round(360.0 * rng.random(), 3))
    u, v = X * np.float32(c) + Y * np.float32(s), Y * np.float32(c) - X * np.float32(s)
    recipe = {
        "forest": _forest, "farmland": _farmland, "river": _river, "highway": _highway,
        "residential area": _residential, "industrial area": _industrial, "lake": _lake, "orchard": _orchard,
    }[cover]  # fmt: skip
    return recipe(rng, u, v) * (0.85 + 0.25 * rng.random())


def _meadow(rng: np.random.Generator) -> np.ndarray:
    base = px.jittered(_one(rng, GREENS + FIELDS[:2]), rng)
    return base * (0.8 + 0.25 * px.noise(rng, 4)[..., None] + 0.15 * px.noise(rng, 16)[..., None])


def _forest(rng: np.random.Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    canvas = px.flat(np.asarray((0.10, 0.20, 0.10), np.float32))
    for _ in range(110):
        x, y, r = 2.1 * rng.random() - 1.05, 2.1 * rng.random() - 1.05, 0.08 + 0.07 * rng.random()
        crown = px.jittered((0.17, 0.34, 0.15), rng) * (0.75 + 0.5 * rng.random())
        canvas = px.over(canvas, crown, px.alpha(np.sqrt((X - x) * (X - x) + (Y - y) * (Y - y)) - r))
    return canvas


def _farmland(rng: np.random.Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    canvas, column_edge = px.flat(0.5), -1.5
    while column_edge < 1.5:
        width = 0.5 + 0.6 * rng.random()
        row_edge = -1.5
        while row_edge < 1.5:
            depth = 0.4 + 0.7 * rng.random()
            inside = (u >= column_edge) & (u < column_edge + width) & (v >= row_edge) & (v < row_edge + depth)
            soil = px.jittered(_one(rng, FIELDS), rng)
            furrows = np.where(np.floor((u if rng.random() < 0.5 else v) * 12) % 2 == 0, 1.0, 0.9)
            canvas = np.where(inside[..., None], soil * furrows[..., None], canvas)
            row_edge += depth
        column_edge += width
    return canvas.astype(np.float32)


def _river(rng: np.random.Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    swing, shift = 0.5 * (rng.random() - 0.5), 0.5 * (rng.random() - 0.5)
    bend = 1.4 * rng.random() - 0.7
    middle = shift + swing * 2 * u + bend * u * (1.2 - u * u) + 0.12 * (px.noise(rng, 4) - 0.5)
    d = np.abs(v - middle) - (0.13 + 0.12 * rng.random())
    bank = px.over(_meadow(rng), np.asarray((0.66, 0.60, 0.44), np.float32), 0.8 * px.alpha(d - 0.06))
    return px.over(bank, px.jittered(_one(rng, WATER), rng), px.alpha(d))


def _highway(rng: np.random.Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    canvas, shift = _meadow(rng), 0.6 * (rng.random() - 0.5)
    if rng.random() < 0.5:  # a road that crosses
        canvas = px.over(canvas, px.flat(0.6), px.alpha(np.abs(u + shift) - 0.09))
    half = 0.2 + 0.06 * rng.random()
    canvas = px.over(canvas, px.jittered((0.42, 0.42, 0.44), rng), px.alpha(np.abs(v - shift) - half))
    dashes = (np.abs(v - shift) < 0.03) & (np.floor(u * 4 + rng.random()) % 2 == 0)
    canvas = px.over(canvas, px.flat(0.95), dashes.astype(np.float32))
    for _ in range(5):
        x, side = 2 * rng.random() - 1, 1.0 if rng.random() < 0.5 else -1.0
        body = box(u, v, x, shift + side * half * 0.55, 0.08, 0.045)
        canvas = px.over(canvas, (0.2 + 0.8 * rng.random(3)).astype(np.float32), px.alpha(body))
    return canvas


def _residential(rng: np.random.Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    canvas, pitch = _meadow(rng), 0.42 + 0.1 * rng.random()
    streets = (np.floor((v + 3) / pitch) % 2 == 0) & (np.abs((v + 3) % pitch - pitch / 2) < 0.07)
    canvas = px.over(canvas, px.flat(0.62), streets.astype(np.float32))
    roof = px.jittered(_one(rng, ROOFS), rng)
    for i in range(-4, 5):
        for j in range(-4, 5):
            if rng.random() < 0.12:
                continue
            x, y = (i + 0.2 * (rng.random() - 0.5)) * pitch * 0.8, (j + 0.5) * pitch
            d = box(u, v, x, y, 0.28 * pitch, 0.22 * pitch)
            canvas = px.over(canvas, canvas * 0.55, px.alpha(np.roll(d, 2, axis=1)))
            canvas = px.over(canvas, roof * (0.75 + 0.4 * rng.random()), px.alpha(d))
    return canvas


def _industrial(rng: np.random.Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    canvas = px.flat(0.5 + 0.1 * rng.random()) * (0.92 + 0.12 * px.noise(rng, 8)[..., None])
    for cx in (-0.55, 0.5):
        for cy in (-0.55, 0.5):
            x, y = cx + 0.2 * (rng.random() - 0.5), cy + 0.2 * (rng.random() - 0.5)
            hx, hy = 0.26 + 0.2 * rng.random(), 0.22 + 0.2 * rng.random()
            d = box(u, v, x, y, hx, hy)
            shed = px.jittered(_one(rng, SHEDS), rng)
            ribs = np.where(np.floor((u + 2) * 9) % 2 == 0, 1.0, 0.9)[..., None]
            canvas = px.over(canvas, canvas * 0.45, px.alpha(np.roll(np.roll(d, 3, axis=1), 3, axis=0)))
            canvas = px.over(canvas, shed * ribs, px.alpha(d))
    return canvas


def _lake(rng: np.random.Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    x, y = 0.5 * (rng.random() - 0.5), 0.5 * (rng.random() - 0.5)
    long = 0.7 + 0.25 * rng.random()
    a, b = (u - x) / long, (v - y) / (long * (0.6 + 0.3 * rng.random()))
    d = (np.sqrt(a * a + b * b) - 1.0) * 0.6 + 0.5 * (px.noise(rng, 4) - 0.5)
    bank = px.over(_meadow(rng), np.asarray((0.70, 0.65, 0.48), np.float32), 0.7 * px.alpha(d - 0.07))
    return px.over(bank, px.jittered(_one(rng, WATER), rng), px.alpha(d))


def _orchard(rng: np.random.Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    soil = px.jittered((0.66, 0.54, 0.36), rng) * (0.9 + 0.15 * px.noise(rng, 10)[..., None])
    pitch = 0.3 + 0.08 * rng.random()
    a = (u + rng.random()) / pitch
    b = (v + rng.random()) / pitch
    da, db = (a - np.floor(a) - 0.5) * pitch, (b - np.floor(b) - 0.5) * pitch
    d = np.sqrt(da * da + db * db) - 0.3 * pitch
    canvas = px.over(soil, soil * 0.6, px.alpha(np.roll(d, 2, axis=1)))
    return px.over(canvas, px.jittered((0.20, 0.40, 0.15), rng), px.alpha(d))


def _one(rng: np.random.Generator, items: tuple) -> tuple[float, float, float]:
    return items[int(rng.random() * len(items))]
