"""A scene in pixels: 32×32, painted at twice that size and averaged down.

Every machine gives the same bytes for the same seed: pixels pass only through + − × ÷ √ and comparisons, which IEEE
754 rounds alike everywhere, and all randomness is uniform numbers from one Philox stream per scene.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import distance_transform_edt

from zsclib.seeds import rng as seeded
from zsclib.world import pixels as px
from zsclib.world.geometry import cos_sin
from zsclib.world.land import land
from zsclib.world.pixels import EDGE, N, X, Y
from zsclib.world.scenes import COLOURS, Scene, Thing
from zsclib.world.shapes import GADGETS, ROLE_COLOURS, THINGS
from zsclib.world.variants import VARIANTS

# Fonts that every matplotlib carries; the pool's printed characters know no handwriting.
FONTS = (
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique", "DejaVuSerif"),
    *("DejaVuSerif-Bold", "DejaVuSerif-Italic", "DejaVuSerif-BoldItalic", "DejaVuSansMono"),
    *("DejaVuSansMono-Bold", "DejaVuSansMono-Oblique", "cmti10", "STIXGeneral", "STIXGeneralBol"),
    *("STIXGeneralItalic", "STIXGeneralBolIta", "cmr10", "cmb10", "cmss10", "cmtt10"),
)
SHAPES = THINGS | GADGETS | VARIANTS
LIGHT = (-0.45, 0.6, 0.66)  # from the upper left, towards the viewer


def render(scene: Scene) -> np.ndarray:
    """Render a scene.

    Args:
        scene: what to show; its seed decides what has no name.

    Returns:
        uint8 (32, 32, 3).
    """
    rng = seeded(scene.seed, "render")
    if scene.kind == "land":
        canvas = land(scene.symbol, rng)
    elif scene.kind in ("digit", "letter"):
        canvas = _printed(scene, rng)
    else:
        canvas = _STYLES[scene.style](scene, rng)
    return px.shrink(canvas)


# ------------------------------------------------------------------------------------------- things in styles
def light_from(rng: np.random.Generator) -> float:
    """Return the direction of the light along x: mostly from the left."""
    return LIGHT[0] * (1.0 if rng.random() < 0.7 else -1.0)


def stand(canvas: np.ndarray, thing: Thing, rng: np.random.Generator, lx: float) -> np.ndarray:
    """Paint a thing in photo style on a canvas (N, N, 3), with its shadow, lit from `lx`."""
    shadow = np.roll(np.roll(outline(thing), 3, axis=0), 3 if lx < 0 else -3, axis=1)
    canvas = px.over(canvas, canvas * 0.55, 0.8 * px.alpha(shadow, 4 * EDGE))
    for colour, d in _painted(thing, rng):
        canvas = px.over(canvas, _lit(colour, d, thing, lx), px.alpha(d))
    return canvas


def outline(thing: Thing) -> np.ndarray:
    """Return the signed distance of a whole thing, (N, N), in units of half the image."""
    return functools.reduce(np.minimum, (d for _, d in _parts(thing)))


def _photo(scene: Scene, rng: np.random.Generator, night: bool = False) -> np.ndarray:
    canvas = backdrop(scene.background, rng)
    for _ in range(scene.clutter):
        canvas = _clutter(canvas, rng)
    lx = light_from(rng)
    for thing in scene.things:
        canvas = stand(canvas, thing, rng, lx)
    if night:
        tint = np.array([0.40, 0.46, 0.74], np.float32)
        canvas = canvas * tint * (0.75 + 0.35 * px.noise(rng, 2)[..., None])
    else:
        canvas = canvas * (0.86 + 0.24 * rng.random()) + 0.015 * (rng.random((N, N, 1)) - 0.5)
    return canvas


def _night(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    canvas = _photo(scene, rng, night=True)
    for _ in range(4):  # far lights
        x, y = 2 * rng.random() - 1, 0.5 + 0.5 * rng.random()
        glow = px.alpha(np.sqrt((X - x) * (X - x) + (Y - y) * (Y - y)) - 0.03, 2 * EDGE)
        canvas = px.over(canvas, np.array([1.0, 0.93, 0.6], np.float32), 0.9 * glow)
    return canvas


def _painting(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """The photo, its pixels pushed along random strokes and its colours rounded to few values."""
    canvas = _photo(scene, rng)
    dx = (7 * (px.noise(rng, 9) - 0.5)).astype(np.int64)
    dy = (7 * (px.noise(rng, 9) - 0.5)).astype(np.int64)
    rows, columns = np.arange(N)[:, None], np.arange(N)[None, :]
    canvas = canvas[np.clip(rows + dy, 0, N - 1), np.clip(columns + dx, 0, N - 1)]
    grey = (canvas[..., :1] + canvas[..., 1:2] + canvas[..., 2:]) / 3
    canvas = np.clip(grey + 1.35 * (canvas - grey), 0, 1)
    canvas = np.floor(canvas * 5 + 0.5) / 5
    return canvas * (0.93 + 0.14 * px.noise(rng, 16)[..., None])


def _ink(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Ink outlines and a thin wash of colour on paper."""
    canvas = px.flat(np.array([0.97, 0.95, 0.88], np.float32) - 0.06 * rng.random())
    for thing in scene.things:
        for colour, d in _painted(thing, rng):
            canvas = px.over(canvas, 0.35 + 0.65 * colour, 0.85 * px.alpha(d))
            canvas = px.over(canvas, px.flat(0.1), px.alpha(np.abs(d) - 0.025))
    return canvas


def _sketch(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Graphite: outlines and hatching, no colour."""
    canvas = px.flat(0.86 + 0.1 * rng.random()) * (0.95 + 0.1 * px.noise(rng, 20)[..., None])
    steps = (np.arange(N)[:, None] + np.arange(N)[None, :]) % 6
    hatch = np.where(steps < 3, 1.0, 0.0).astype(np.float32)
    for thing in scene.things:
        for colour, d in _painted(thing, rng):
            darkness = 0.75 - 0.55 * (colour[..., :1] + colour[..., 1:2] + colour[..., 2:]) / 3
            canvas = px.over(canvas, px.flat(0.82), px.alpha(d))
            canvas = px.over(canvas, px.flat(0.25), px.alpha(d) * hatch * darkness[..., 0])
            canvas = px.over(canvas, px.flat(0.2), px.alpha(np.abs(d) - 0.02))
    return canvas


def _clip_art(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Flat bright colours with a thick outline on a flat ground."""
    ground = (1.0, 1.0, 1.0) if rng.random() < 0.5 else (0.75 + 0.25 * rng.random(3))
    canvas = px.flat(np.asarray(ground, np.float32))
    for thing in scene.things:
        parts = _painted(thing, rng)
        outline = functools.reduce(np.minimum, (d for _, d in parts))
        canvas = px.over(canvas, px.flat(0.05), px.alpha(outline - 0.075))
        for colour, d in parts:
            canvas = px.over(canvas, colour, px.alpha(d))
    return canvas


_STYLES = {
    "photo": _photo, "night": _night, "painting": _painting,
    "drawing": _ink, "sketch": _sketch, "clip art": _clip_art,
}  # fmt: skip


# ------------------------------------------------------------------------------------------- printed characters
def _printed(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    font = FONTS[int(rng.integers(len(FONTS)))]
    size, (c, s) = 0.62 + 0.3 * rng.random(), cos_sin(round(24.0 * (rng.random() - 0.5), 3))
    x, y = X - 0.24 * (rng.random() - 0.5), Y - 0.24 * (rng.random() - 0.5)
    if scene.bend:
        own = seeded(scene.seed, "bend")
        most = scene.bend * own.random() * size
        x, y = (axis + most * (px.noise(own, 3) - 0.5) for axis in (x, y))
    shear, narrow = 0.5 * (rng.random() - 0.5), 0.8 + 0.3 * rng.random()
    u, v = (x * c + y * s) / (size * narrow), (y * c - x * s) / size
    weight = 0.09 * (rng.random() - 0.45)  # bolder or thinner than the font
    d = _glyph_distance(font, scene.symbol, u - shear * v, v) * size - weight
    paper, ink = (px.jittered(COLOURS[name], rng) for name in (scene.paper, scene.ink))
    canvas = px.flat(paper) * (0.93 + 0.1 * px.noise(rng, 3)[..., None] * rng.random())
    canvas = px.over(canvas, ink, px.alpha(d, EDGE * (1 + rng.random())))
    return (canvas - 0.22) / 0.58 if scene.scanned else canvas  # black and white paper clip to 0 and 1


@functools.cache
def _glyph(font: str, symbol: str) -> np.ndarray:
    """Signed distance (128, 128) to a glyph whose height fills [-1, 1], sampled on [-1.6, 1.6]²."""
    import matplotlib

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{font}.ttf"
    sheet = Image.new("L", (320, 320))
    canvas, face = ImageDraw.Draw(sheet), ImageFont.truetype(str(path), 200)
    left, top, right, bottom = canvas.textbbox((0, 0), symbol, font=face)
    canvas.text((160 - (left + right) / 2, 160 - (top + bottom) / 2), symbol, 255, font=face)
    inside = np.asarray(sheet) > 127
    distance = distance_transform_edt(~inside) - distance_transform_edt(inside)
    half = (bottom - top) / 2  # glyph half height in pixels = 1 unit
    grid = np.clip(160 + (np.arange(128) / 127 * 3.2 - 1.6) * half, 0, 319).astype(np.int64)
    return (distance[grid[:, None], grid[None, :]] / half).astype(np.float32)


def _glyph_distance(font: str, symbol: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    column = np.clip((u + 1.6) / 3.2 * 127, 0, 126.999)
    row = np.clip((1.6 - v) / 3.2 * 127, 0, 126.999)
    return px.lerp(_glyph(font, symbol), row, column)


# ------------------------------------------------------------------------------------------- parts and paint
def _parts(thing: Thing) -> list[tuple[str, np.ndarray]]:
    """The thing's parts with distances in units of half the image."""
    u, v = _own_frame(thing)
    shape = SHAPES[thing.noun]
    return [(role, d * thing.size) for role, d in shape(u, v)]


def _own_frame(thing: Thing) -> tuple[np.ndarray, np.ndarray]:
    c, s = cos_sin(round(thing.rotation, 3))
    x, y = X - np.float32(thing.x), Y - np.float32(thing.y)
    u = (x * np.float32(c) + y * np.float32(s)) / np.float32(thing.size)
    v = (y * np.float32(c) - x * np.float32(s)) / np.float32(thing.size)
    return (-u if thing.mirrored else u), v


def _painted(thing: Thing, rng: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
    """The parts with their colour per pixel, (N, N, 3), the material painted on the body."""
    base = px.jittered(COLOURS[thing.colour], rng)
    skin = _skin(thing, base, rng)
    return [
        (skin if role == "body" else px.flat(np.asarray(ROLE_COLOURS[role], np.float32)), d)
        for role, d in _parts(thing)
    ]


def _skin(thing: Thing, base: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    u, v = _own_frame(thing)
    phase = rng.random()
    contrast = px.flat(0.95) if thing.colour not in ("white", "yellow") else px.flat(0.12)
    if thing.material == "striped":
        return np.where((np.floor((u + phase) * 2.4) % 2 == 0)[..., None], contrast, base)
    if thing.material == "spotted":
        a, b = (u + phase) * 2.2, v * 2.2
        a = a + 0.5 * (np.floor(b) % 2)
        da, db = a - np.floor(a) - 0.5, b - np.floor(b) - 0.5
        return np.where((da * da + db * db < 0.085)[..., None], contrast, base)
    if thing.material == "wooden":
        grain = (v * 4.5 + 1.2 * px.noise(rng, 4) + phase) % 1.0
        light, dark = np.array([0.74, 0.53, 0.31], np.float32), np.array([0.47, 0.29, 0.14], np.float32)
        return light + (dark - light) * np.where(grain < 0.5, 2 * grain, 2 - 2 * grain)[..., None]
    if thing.material == "metal":  # a bright and a dark band, as a polished surface mirrors sky and ground
        height = np.clip(np.abs(((v * 0.8 + 0.35 * u + 0.3 * phase) % 1.0) - 0.5) * 2, 0, 1)[..., None]
        return base * (0.28 + 0.5 * height) + 0.62 * np.maximum(height - 0.55, 0) / 0.45
    return px.flat(base)


def _lit(colour: np.ndarray, d: np.ndarray, thing: Thing, lx: float) -> np.ndarray:
    """Shade a part as a pillow: its height rises from the edge, its normal meets the light."""
    radius = np.float32(0.45 * thing.size)
    rim = 1.0 - np.clip(-d / radius, 0, 1)
    height = np.sqrt(np.maximum(1.0 - rim * rim, 0)) * radius
    hx = (np.roll(height, -1, axis=1) - np.roll(height, 1, axis=1)) * np.float32(N / 4)
    hy = (np.roll(height, 1, axis=0) - np.roll(height, -1, axis=0)) * np.float32(N / 4)
    nz = 1.0 / np.sqrt(hx * hx + hy * hy + 1.0)
    facing = np.maximum((-hx * lx - hy * LIGHT[1] + LIGHT[2]) * nz, 0)[..., None]
    gloss = facing * facing
    gloss = gloss * gloss * gloss * gloss
    return np.clip(
        colour * (0.42 + 0.68 * facing) + (0.30 if thing.material == "metal" else 0.14) * gloss, 0, 1
    )


# ------------------------------------------------------------------------------------------- places
def backdrop(name: str, rng: np.random.Generator) -> np.ndarray:
    """A soft, textured place: ground below a horizon, or one plain wall."""
    grain = px.noise(rng, 12)[..., None]
    if name == "studio":
        wall = 0.25 + 0.65 * rng.random(3).astype(np.float32)
        return wall * (0.9 + 0.14 * (Y[..., None] + 1)) * (0.97 + 0.06 * grain)
    far, near, amount = {
        "grass": ((0.62, 0.80, 0.95), (0.36, 0.58, 0.22), 0.45),
        "table": ((0.80, 0.76, 0.70), (0.62, 0.44, 0.28), 0.18),
        "beach": ((0.45, 0.72, 0.88), (0.88, 0.79, 0.58), 0.16),
        "snow": ((0.70, 0.78, 0.88), (0.95, 0.96, 0.98), 0.07),
        "street": ((0.70, 0.72, 0.76), (0.45, 0.45, 0.47), 0.2),
    }[name]
    far, near = (px.jittered(colour, rng) for colour in (far, near))
    horizon = -0.25 + 0.6 * (rng.random() - 0.4)
    ground = near * (1 - amount / 2 + amount * grain) * (1.06 + 0.14 * Y[..., None])
    sky = far * (0.95 + 0.1 * Y[..., None])
    if name == "street":  # a row of house fronts
        for _ in range(3):
            x, w, top = 2 * rng.random() - 1, 0.2 + 0.2 * rng.random(), horizon + 0.3 + 0.6 * rng.random()
            front = (np.abs(X - x) < w) & (top > Y)
            sky = np.where(front[..., None], (0.4 + 0.4 * rng.random(3)).astype(np.float32), sky)
    return px.over(sky, ground, px.alpha(Y - np.float32(horizon), 2 * EDGE))


def _clutter(canvas: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A pebble, twig or scrap near the rim, of any colour, that names nothing."""
    side = 1.0 if rng.random() < 0.5 else -1.0
    x, y, r = side * (0.72 + 0.25 * rng.random()), 1.6 * (rng.random() - 0.5), 0.07 + 0.1 * rng.random()
    stretch = 0.5 + rng.random()
    d = np.sqrt((X - x) * (X - x) * stretch + (Y - y) * (Y - y)) - r
    return px.over(canvas, (0.15 + 0.7 * rng.random(3)).astype(np.float32), 0.9 * px.alpha(d))
