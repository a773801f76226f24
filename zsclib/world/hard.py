"""Test sets off the ceiling: the world's things and lands under conditions that no image of the pool has.

How hard an image is in each respect is uniform between two bounds, so that a page can slice a set by it: the manifest
has a column for each field of `Conditions` or `Weather`. Bounds were chosen on validation images, between two ends:
the better zero-shot method at most 85 % correct, and a small ResNet trained on 32 images a class at least 50 %.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import numpy as np

from zsclib.seeds import rng as seeded
from zsclib.world import pixels as px
from zsclib.world.geometry import box, circle, cos_sin, polygon, ring
from zsclib.world.land import land
from zsclib.world.pixels import N, X, Y
from zsclib.world.render import backdrop, light_from, outline, stand
from zsclib.world.scenes import BACKGROUNDS, COLOURS, LANDS, MATERIALS, OBJECTS, Scene, SceneMix, Thing
from zsclib.world.variants import FAMILY_OF, VARIANTS

Bounds = tuple[float, float]
MANY_NOUNS = (*OBJECTS, "ball", "apple", "flower", "bird", "hat", "bottle", "key", "bell", "lamp", "arrow")
MANY_COLOURS, MANY_MATERIALS = ("red", "green", "blue"), ("metal", "striped")
SEASONS = ("summer", "dry", "autumn", "snow")


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """How a thing is seen: bounds of uniform numbers, those below 0 counting as 0 and so leaving some images alone.

    Args:
        size: half the thing's size, in half widths of the image; in the pool 0.54 to 0.84.
        turned: degrees by which it is rotated, to either side; in the pool up to 15.
        clutter: how many scraps lie anywhere behind it; in the pool up to 2, at the rim.
        hidden: share of it that a board in front covers.
        faded: share of the contrast that a veil takes.
        dark: share of the light that is lost on the side away from the lamp.
        tint: share that the colour of the light takes from a channel, at most.
        noise: height of the sensor's noise, as a share of white.
    """

    size: Bounds = (0.84, 0.54)
    turned: Bounds = (0, 15)
    clutter: Bounds = (0, 4)
    hidden: Bounds = (-0.5, 0.38)
    faded: Bounds = (-0.6, 0.5)
    dark: Bounds = (-0.3, 0.5)
    tint: Bounds = (0, 0.3)
    noise: Bounds = (0, 0.14)


@dataclass(frozen=True, kw_only=True)
class Weather:
    """How land is seen from above; bounds as in `Conditions`.

    Args:
        zoom: how much nearer the camera is than in the pool.
        mixed: share of the image that another cover takes.
        haze: share of the contrast that haze takes, here more and there less.
        relief: how strongly oblique light models the ground.
        dark: share of the light that is lost on one side.
        noise: height of the sensor's noise, as a share of white.
    """

    zoom: Bounds = (1, 1.8)
    mixed: Bounds = (-0.1, 0.4)
    haze: Bounds = (-0.2, 0.5)
    relief: Bounds = (0, 1.2)
    dark: Bounds = (0, 0.5)
    noise: Bounds = (0, 0.15)


OBJECTS_HARD = Conditions()
FINE_HARD = Conditions(size=(0.84, 0.6), hidden=(-0.6, 0.3), faded=(-0.6, 0.35), tint=(0, 0.25), noise=(0, 0.1))
MANY = Conditions(
    size=(0.82, 0.55), turned=(0, 20), clutter=(1, 4), hidden=(-0.7, 0.3), faded=(-0.7, 0.4), dark=(-0.3, 0.6),
    tint=(0, 0.1), noise=(0, 0.1),
)  # fmt: skip
GADGETS_HARD = Conditions(
    size=(0.84, 0.6), turned=(0, 25), clutter=(1, 4), hidden=(-1, 0.2), faded=(-1, 0.3), dark=(-0.3, 0.6),
    tint=(0, 0.4), noise=(0, 0.1),
)  # fmt: skip
AERIAL_HARD = Weather()
AS_IN_THE_POOL = Conditions(
    size=(0.84, 0.54), turned=(0, 15), clutter=(0, 2), hidden=(0, 0), faded=(0, 0), dark=(0, 0), tint=(0, 0),
    noise=(0, 0),
)  # fmt: skip
CLEAR = Weather(zoom=(1, 1), mixed=(0, 0), haze=(0, 0), relief=(0, 0), dark=(0, 0), noise=(0, 0))


def on_the_way(hard: Conditions | Weather, share: float) -> Conditions | Weather:
    """Return bounds at a share of the way from what the pool shows to a hard set's: 0 the pool's own, 1 the set's."""
    if share == 1:
        return hard
    easy = AS_IN_THE_POOL if isinstance(hard, Conditions) else CLEAR
    mixed = {}
    for field in fields(hard):
        pairs = zip(getattr(easy, field.name), getattr(hard, field.name), strict=True)
        mixed[field.name] = tuple(a + share * (b - a) for a, b in pairs)
    return replace(hard, **mixed)


def chosen(bounds: Conditions | Weather, rng: np.random.Generator) -> dict[str, float]:
    """Return one number for each field of `bounds`, in their order."""
    numbers = {}
    for field in fields(bounds):
        low, high = getattr(bounds, field.name)
        numbers[field.name] = round(max(0.0, low + (high - low) * rng.random()), 4)
    return numbers


# ------------------------------------------------------------------------------------------- things
def thing_under(
    conditions: Conditions, noun: str, rng: np.random.Generator, colour: str = "", material: str = ""
) -> tuple[np.ndarray, dict]:
    """Return an image of a thing, uint8 (32, 32, 3), and its row of the manifest; "" leaves a choice to chance."""
    state = chosen(conditions, rng)
    if not material:
        plain = rng.random() < SceneMix.plain_material
        material = "plain" if plain else MATERIALS[1 + int(rng.integers(len(MATERIALS) - 1))]
    colour = colour or list(COLOURS)[int(rng.integers(len(COLOURS)))]
    reach = 0.94 - state["size"]
    x, y = (round(reach * (2 * rng.random() - 1), 4) for _ in "xy")
    thing = Thing(
        noun, colour, material, x=x, y=y, size=state["size"],
        rotation=state["turned"] * (1.0 if rng.random() < 0.5 else -1.0), mirrored=bool(rng.random() < 0.5),
    )  # fmt: skip
    place, seed = BACKGROUNDS[int(rng.integers(len(BACKGROUNDS)))], int(rng.integers(2**62))
    scene = Scene("thing", "photo", place, things=(thing,), clutter=round(state["clutter"]), seed=seed)
    image, hidden = _render(scene, state)
    return image, {**scene.row(), **state, "clutter": scene.clutter, "hidden": hidden}


def _render(scene: Scene, state: dict[str, float]) -> tuple[np.ndarray, float]:
    rng, (thing,) = seeded(scene.seed, "render hard"), scene.things
    canvas = backdrop(scene.background, rng)
    for _ in range(scene.clutter):
        canvas = _scrap(canvas, rng)
    canvas = stand(canvas, thing, rng, light_from(rng))
    canvas, hidden = _board(canvas, outline(thing) < 0, state["hidden"], rng)
    canvas = _lamp(canvas, state["dark"], rng) * (1 - state["tint"] * rng.random(3).astype(np.float32))
    veil = 0.3 + 0.5 * rng.random()
    canvas = veil + (1 - state["faded"]) * (canvas - veil)
    return px.shrink(_sensor(canvas, state["noise"], rng)), hidden


def _scrap(canvas: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A pebble, plate, ring or shard anywhere, of any colour, that names nothing."""
    c, s = cos_sin(round(360.0 * rng.random(), 3))
    x, y = X - (1.9 * rng.random() - 0.95), Y - (1.9 * rng.random() - 0.95)
    u, v, r, kind = x * c + y * s, y * c - x * s, 0.08 + 0.16 * rng.random(), int(rng.integers(4))
    if kind == 0:
        d = circle(u, v * (1 + rng.random()), 0, 0, r)
    elif kind == 1:
        d = box(u, v, 0, 0, r, r * (0.25 + 0.5 * rng.random()))
    elif kind == 2:
        d = ring(u, v, 0, 0, r, 0.04)
    else:
        d = polygon(u, v, [(-r, -r * rng.random()), (r, -0.5 * r), (0.4 * r, r)])
    return px.over(canvas, (0.1 + 0.8 * rng.random(3)).astype(np.float32), 0.95 * px.alpha(d))


def _board(
    canvas: np.ndarray, inside: np.ndarray, share: float, rng: np.random.Generator
) -> tuple[np.ndarray, float]:
    """Put a board before the part of a thing that lies farthest on one side; return the share that it covers."""
    c, s = cos_sin(round(360.0 * rng.random(), 3))
    u, v = X * np.float32(c) + Y * np.float32(s), Y * np.float32(c) - X * np.float32(s)
    colour, wide, deep = 0.15 + 0.6 * rng.random(3), 0.1 + 0.4 * rng.random(), 0.1 + 0.3 * rng.random()
    grain = px.noise(rng, 10)[..., None]
    if share < 0.04 or not inside.any():
        return canvas, 0.0
    along, across = np.sort(u[inside]), v[inside]
    edge, start = along[int(share * len(along))], along[0] - deep
    middle, half = (across.max() + across.min()) / 2, (across.max() - across.min()) / 2 + wide
    d = box(u, v, (edge + start) / 2, middle, (edge - start) / 2, half)
    canvas = px.over(canvas, canvas * 0.6, 0.7 * px.alpha(np.roll(d, 2, axis=0), 0.2))
    canvas = px.over(canvas, colour.astype(np.float32) * (0.85 + 0.3 * grain), px.alpha(d))
    return canvas, round(float((d[inside] < 0).mean()), 4)


def _lamp(canvas: np.ndarray, dark: float, rng: np.random.Generator) -> np.ndarray:
    """Light from one side: `dark` of it is lost on the other, a third of that everywhere."""
    c, s = cos_sin(round(360.0 * rng.random(), 3))
    far = np.clip(0.5 + 0.4 * (X * np.float32(c) + Y * np.float32(s)), 0, 1)
    return canvas * (1 - dark * (0.33 + 0.67 * far))[..., None]


def _sensor(canvas: np.ndarray, noise: float, rng: np.random.Generator) -> np.ndarray:
    return canvas + 2 * noise * (rng.random((N, N, 3)).astype(np.float32) - 0.5)


# ------------------------------------------------------------------------------------------- land
def land_under(weather: Weather, cover: str, rng: np.random.Generator) -> tuple[np.ndarray, dict]:
    """Return an aerial view, uint8 (32, 32, 3), and its row of the manifest; `other` is the cover beside the named."""
    state, season = chosen(weather, rng), SEASONS[int(rng.integers(len(SEASONS)))]
    others = [name for name in LANDS if name != cover]
    other = others[int(rng.integers(len(others)))] if state["mixed"] >= 0.04 else ""
    seed = int(rng.integers(2**62))
    rng = seeded(seed, "render hard")
    canvas = _nearer(land(cover, rng), state["zoom"], rng)
    if other:
        canvas = _beside(canvas, land(other, rng), state["mixed"], rng)
    else:
        state["mixed"] = 0.0
    canvas = _relief(_season(canvas, season, rng), state["relief"], rng)
    canvas = _lamp(canvas, state["dark"], rng)
    white = np.asarray((0.74, 0.78, 0.82), np.float32) + 0.1 * (rng.random() - 0.5)
    veil = np.clip(state["haze"] * (0.6 + 0.8 * px.noise(rng, 3)), 0, 0.95)
    canvas = _sensor(px.over(canvas, white, veil), state["noise"], rng)
    row = Scene("land", background="", symbol=cover, seed=seed).row()
    return px.shrink(canvas), {**row, **state, "season": season, "other": other}


def _nearer(canvas: np.ndarray, zoom: float, rng: np.random.Generator) -> np.ndarray:
    top, left = (rng.random() * (N - 1) * (1 - 1 / zoom) for _ in range(2))
    at = np.arange(N, dtype=np.float64) / zoom * ((N - 1.001) / (N - 1))
    rows, columns = (at + top)[:, None], (at + left)[None, :]
    return np.stack([px.lerp(canvas[..., channel], rows, columns) for channel in range(3)], -1).astype(np.float32)


def _beside(canvas: np.ndarray, other: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Give `share` of the image, behind an uneven border, to another cover."""
    c, s = cos_sin(round(360.0 * rng.random(), 3))
    height = X * np.float32(c) + Y * np.float32(s) + 0.6 * (px.noise(rng, 5) - 0.5)
    edge = np.sort(height, axis=None)[int((1 - share) * N * N)]
    return px.over(canvas, other, px.alpha(edge - height))


def _season(canvas: np.ndarray, season: str, rng: np.random.Generator) -> np.ndarray:
    """Colour what is green: straw in a dry season, rust in autumn; snow lies on all, in patches."""
    red, green, blue = canvas[..., 0], canvas[..., 1], canvas[..., 2]
    amount, patches = 0.5 + 0.5 * rng.random(), px.noise(rng, 6)
    if season == "summer":
        return canvas
    if season == "snow":
        return px.over(canvas, px.flat((0.90, 0.92, 0.96)), np.clip(amount * (0.3 + 0.9 * patches), 0, 0.85))
    leafy = np.clip(8 * (green - np.maximum(red, blue)), 0, 1) * amount
    grey = (canvas[..., :1] + canvas[..., 1:2] + canvas[..., 2:]) / 3
    colour = np.asarray((1.35, 1.15, 0.72) if season == "dry" else (1.6, 0.85, 0.45), np.float32)
    return px.over(canvas, grey * colour, leafy * (0.5 + 0.7 * patches))


def _relief(canvas: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Model the ground by a low sun: what is brighter stands higher, its far side lies in the shade."""
    rows, columns = ((-2, 2)[int(rng.integers(2))] for _ in range(2))
    grey = (canvas[..., 0] + canvas[..., 1] + canvas[..., 2]) / 3 + 0.4 * px.noise(rng, 4)
    slope = grey - np.roll(np.roll(grey, rows, axis=0), columns, axis=1)
    return canvas * np.clip(1 + strength * slope, 0.3, 1.8)[..., None]


# ------------------------------------------------------------------------------------------- the sets
def _objects(name: str, rng: np.random.Generator, share: float) -> tuple[np.ndarray, dict]:
    return thing_under(on_the_way(OBJECTS_HARD, share), name, rng)


def _fine(name: str, rng: np.random.Generator, share: float) -> tuple[np.ndarray, dict]:
    material, noun = name.split()
    return thing_under(on_the_way(FINE_HARD, share), noun, rng, material=material)


def _many(name: str, rng: np.random.Generator, share: float) -> tuple[np.ndarray, dict]:
    colour, material, noun = name.split()
    return thing_under(on_the_way(MANY, share), noun, rng, colour, material)


def _gadgets(name: str, rng: np.random.Generator, share: float) -> tuple[np.ndarray, dict]:
    image, row = thing_under(on_the_way(GADGETS_HARD, share), name, rng, material="plain")
    return image, {**row, "family": FAMILY_OF[name]}


def _aerial(name: str, rng: np.random.Generator, share: float) -> tuple[np.ndarray, dict]:
    return land_under(on_the_way(AERIAL_HARD, share), name, rng)


Maker = Callable[[str, np.random.Generator, float], tuple[np.ndarray, dict]]
HARD: dict[str, tuple[tuple[str, ...], Maker]] = {
    "objects-hard": (OBJECTS, _objects),
    "objects-fine-hard": (tuple(f"{material} {noun}" for noun in OBJECTS for material in MATERIALS[1:]), _fine),
    "objects-many": (
        tuple(f"{c} {m} {noun}" for noun in MANY_NOUNS for c in MANY_COLOURS for m in MANY_MATERIALS),
        _many,
    ),
    "aerial-hard": (LANDS, _aerial),
    "gadgets-hard": (tuple(VARIANTS), _gadgets),
}  # name → its classes, and what makes an image of one at a share of its difficulty
