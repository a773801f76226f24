"""The things of the pocket world as signed distances: negative inside, zero on the edge, in object units.

A thing fits [-1, 1]², y up, and is a list of parts painted in order; a part is (role, distance). The role "body" takes
the colour and material of the scene, the others have a fixed colour (`ROLE_COLOURS`). Only + − × ÷ √ and
comparisons are used on pixels, because those round alike on every machine while sin and exp do not.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from zsclib.world.geometry import Array, box, circle, ellipse, points, polygon, ring, segment

Part = tuple[str, Array]

ROLE_COLOURS = {
    "dark": (0.16, 0.14, 0.14),
    "light": (0.93, 0.91, 0.86),
    "wood": (0.45, 0.28, 0.14),
    "leaf": (0.24, 0.52, 0.20),
    "glass": (0.62, 0.80, 0.90),
    "gold": (0.93, 0.75, 0.20),
}


def _heart_points() -> list[tuple[float, float]]:
    points = []
    for i in range(26):
        t = 2 * math.pi * i / 26
        u = 16 * math.sin(t) ** 3
        v = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        points.append((round(u / 17, 6), round((v + 2.5) / 16, 6)))
    return points


STAR = points([1.0, 0.42] * 5)
HEART = _heart_points()
union, cut = np.minimum, lambda a, b: np.maximum(a, -b)


# ------------------------------------------------------------------------------------------- the things
def star(x: Array, y: Array) -> list[Part]:
    return [("body", polygon(x, y, STAR))]


def heart(x: Array, y: Array) -> list[Part]:
    return [("body", polygon(x, y, HEART))]


def house(x: Array, y: Array) -> list[Part]:
    return [
        ("body", box(x, y, 0, -0.38, 0.72, 0.56)),
        ("wood", polygon(x, y, [(-0.98, 0.1), (0.98, 0.1), (0, 0.92)])),
        ("dark", box(x, y, -0.3, -0.6, 0.17, 0.34)),
        ("glass", box(x, y, 0.32, -0.38, 0.2, 0.18)),
    ]


def tree(x: Array, y: Array) -> list[Part]:
    crown = union(
        polygon(x, y, [(-0.72, -0.5), (0.72, -0.5), (0, 0.4)]),
        polygon(x, y, [(-0.55, 0.02), (0.55, 0.02), (0, 0.98)]),
    )
    return [("wood", box(x, y, 0, -0.72, 0.13, 0.28)), ("body", crown)]


def car(x: Array, y: Array) -> list[Part]:
    cabin = polygon(x, y, [(-0.6, 0.0), (-0.36, 0.46), (0.3, 0.46), (0.6, 0.0)])
    return [
        ("body", union(box(x, y, 0, -0.14, 0.97, 0.25, 0.12), cabin)),
        ("glass", polygon(x, y, [(-0.42, 0.06), (-0.27, 0.36), (-0.06, 0.36), (-0.06, 0.06)])),
        ("glass", polygon(x, y, [(0.06, 0.06), (0.06, 0.36), (0.24, 0.36), (0.42, 0.06)])),
        ("dark", union(circle(x, y, -0.52, -0.38, 0.24), circle(x, y, 0.52, -0.38, 0.24))),
        ("light", union(circle(x, y, -0.52, -0.38, 0.09), circle(x, y, 0.52, -0.38, 0.09))),
    ]


def boat(x: Array, y: Array) -> list[Part]:
    return [
        ("wood", box(x, y, 0.0, 0.2, 0.05, 0.72)),
        ("light", polygon(x, y, [(0.1, -0.2), (0.1, 0.9), (0.75, -0.2)])),
        ("light", polygon(x, y, [(-0.1, -0.2), (-0.1, 0.7), (-0.6, -0.2)])),
        ("body", polygon(x, y, [(-0.95, -0.34), (0.95, -0.34), (0.6, -0.85), (-0.6, -0.85)])),
    ]


def fish(x: Array, y: Array) -> list[Part]:
    body = union(ellipse(x, y, -0.15, 0, 0.72, 0.46), polygon(x, y, [(0.4, 0), (0.97, 0.5), (0.97, -0.5)]))
    fin = polygon(x, y, [(-0.3, 0.36), (0.25, 0.36), (0.1, 0.72)])
    return [
        ("body", union(body, fin)),
        ("light", circle(x, y, -0.52, 0.12, 0.14)),
        ("dark", circle(x, y, -0.55, 0.12, 0.07)),
    ]


def mug(x: Array, y: Array) -> list[Part]:
    return [
        ("body", ring(x, y, 0.5, -0.08, 0.32, 0.1)),
        ("body", box(x, y, -0.15, -0.08, 0.56, 0.72, 0.1)),
        ("dark", ellipse(x, y, -0.15, 0.6, 0.48, 0.14)),
    ]


def mushroom(x: Array, y: Array) -> list[Part]:
    cap = cut(ellipse(x, y, 0, 0.0, 0.95, 0.85), box(x, y, 0, -1.0, 2, 1.0))
    return [("light", box(x, y, 0, -0.45, 0.24, 0.5, 0.12)), ("body", cap)]


def umbrella(x: Array, y: Array) -> list[Part]:
    canopy = cut(circle(x, y, 0, -0.05, 0.95), box(x, y, 0, -1.05, 2, 1.0))
    for cx in (-0.64, 0.0, 0.64):
        canopy = cut(canopy, ellipse(x, y, cx, -0.08, 0.31, 0.18))
    hook = cut(ring(x, y, 0.17, -0.75, 0.17, 0.06), box(x, y, 0.17, -0.35, 1, 0.4))
    return [("wood", union(box(x, y, 0, -0.35, 0.06, 0.42), hook)), ("body", canopy)]


def apple(x: Array, y: Array) -> list[Part]:
    return [
        ("wood", segment(x, y, 0, 0.4, 0.1, 0.85, 0.06)),
        ("leaf", ellipse(x, y, 0.38, 0.72, 0.28, 0.13)),
        ("body", union(ellipse(x, y, -0.3, -0.12, 0.55, 0.68), ellipse(x, y, 0.3, -0.12, 0.55, 0.68))),
    ]


def bell(x: Array, y: Array) -> list[Part]:
    dome = union(
        ellipse(x, y, 0, 0.2, 0.52, 0.62),
        polygon(x, y, [(-0.52, 0.25), (0.52, 0.25), (0.85, -0.55), (-0.85, -0.55)]),
    )
    return [("dark", circle(x, y, 0, -0.68, 0.2)), ("dark", ring(x, y, 0, 0.86, 0.1, 0.05)), ("body", dome)]


def bottle(x: Array, y: Array) -> list[Part]:
    glass = union(box(x, y, 0, -0.35, 0.42, 0.6, 0.15), box(x, y, 0, 0.45, 0.15, 0.4))
    return [
        ("body", glass),
        ("dark", box(x, y, 0, 0.86, 0.19, 0.1)),
        ("light", box(x, y, 0, -0.4, 0.42, 0.2)),
    ]


def flower(x: Array, y: Array) -> list[Part]:
    petals = circle(x, y, 0, 0.78, 0.25)
    for px, py in points([0.46] * 6)[1:]:
        petals = union(petals, circle(x, y, px, py + 0.32, 0.25))
    stem = union(box(x, y, 0, -0.55, 0.06, 0.45), ellipse(x, y, 0.28, -0.6, 0.26, 0.11))
    return [("leaf", stem), ("body", petals), ("gold", circle(x, y, 0, 0.32, 0.24))]


def hat(x: Array, y: Array) -> list[Part]:
    return [
        ("body", ellipse(x, y, 0, -0.42, 0.98, 0.22)),
        ("body", polygon(x, y, [(-0.55, -0.35), (0.55, -0.35), (0.48, 0.65), (-0.48, 0.65)])),
        ("dark", box(x, y, 0, -0.2, 0.55, 0.11)),
    ]


def moon(x: Array, y: Array) -> list[Part]:
    return [("body", cut(circle(x, y, -0.1, 0, 0.92), circle(x, y, 0.35, 0.12, 0.74)))]


def arrow(x: Array, y: Array) -> list[Part]:
    head = [(0.95, 0), (0.2, 0.7), (0.2, 0.26), (-0.95, 0.26), (-0.95, -0.26), (0.2, -0.26), (0.2, -0.7)]
    return [("body", polygon(x, y, head))]


def key(x: Array, y: Array) -> list[Part]:
    shaft = union(
        box(x, y, 0.32, 0, 0.62, 0.1),
        union(box(x, y, 0.8, -0.22, 0.1, 0.2), box(x, y, 0.5, -0.18, 0.09, 0.16)),
    )
    return [("body", union(shaft, ring(x, y, -0.56, 0, 0.3, 0.13)))]


def lamp(x: Array, y: Array) -> list[Part]:
    return [
        ("dark", union(box(x, y, 0, -0.35, 0.07, 0.5), box(x, y, 0, -0.86, 0.42, 0.1, 0.05))),
        ("body", polygon(x, y, [(-0.75, 0.02), (0.75, 0.02), (0.4, 0.88), (-0.4, 0.88)])),
    ]


def bird(x: Array, y: Array) -> list[Part]:
    body = union(ellipse(x, y, 0.05, -0.15, 0.62, 0.42), circle(x, y, -0.5, 0.32, 0.3))
    return [
        ("gold", polygon(x, y, [(-0.72, 0.42), (-0.72, 0.2), (-1.0, 0.28)])),
        (
            "dark",
            union(segment(x, y, -0.1, -0.5, -0.1, -0.85, 0.04), segment(x, y, 0.2, -0.5, 0.2, -0.85, 0.04)),
        ),
        ("body", union(body, polygon(x, y, [(0.5, -0.1), (1.0, 0.3), (0.95, -0.1)]))),
        ("dark", union(circle(x, y, -0.56, 0.4, 0.07), ellipse(x, y, 0.2, -0.1, 0.32, 0.13))),
    ]


def cross(x: Array, y: Array) -> list[Part]:
    return [("body", union(box(x, y, 0, 0, 0.26, 0.9), box(x, y, 0, 0, 0.9, 0.26)))]


def ball(x: Array, y: Array) -> list[Part]:
    return [("body", circle(x, y, 0, 0, 0.9))]


def hoop(x: Array, y: Array) -> list[Part]:
    return [("body", ring(x, y, 0, 0, 0.68, 0.22))]


def cube(x: Array, y: Array) -> list[Part]:
    return [
        ("body", polygon(x, y, [(-0.8, 0.3), (0.3, 0.3), (0.3, -0.8), (-0.8, -0.8)])),
        ("body", polygon(x, y, [(-0.8, 0.34), (0.28, 0.34), (0.8, 0.82), (-0.3, 0.82)])),
        ("body", polygon(x, y, [(0.34, 0.28), (0.84, 0.76), (0.84, -0.3), (0.34, -0.78)])),
    ]


def leaf(x: Array, y: Array) -> list[Part]:
    blade = np.maximum(circle(x, y, -0.55, 0, 1.02), circle(x, y, 0.55, 0, 1.02))
    return [("body", blade), ("dark", segment(x, y, 0, -0.98, 0, 0.5, 0.04))]


def chair(x: Array, y: Array) -> list[Part]:
    legs = union(box(x, y, -0.48, -0.6, 0.08, 0.38), box(x, y, 0.48, -0.6, 0.08, 0.38))
    return [("body", union(union(legs, box(x, y, 0, -0.2, 0.6, 0.12)), box(x, y, -0.48, 0.4, 0.11, 0.58)))]


# ------------------------------------------------ the gadgets: made-up things that only a few shots can teach
def dax(x: Array, y: Array) -> list[Part]:
    spikes = polygon(x, y, [(-0.16, 0.5), (0.16, 0.5), (0, 1.0)])
    spikes = union(spikes, polygon(x, y, [(0.35, -0.4), (0.55, -0.15), (0.92, -0.55)]))
    spikes = union(spikes, polygon(x, y, [(-0.35, -0.4), (-0.55, -0.15), (-0.92, -0.55)]))
    return [("dark", spikes), ("body", ring(x, y, 0, 0, 0.45, 0.17))]


def wug(x: Array, y: Array) -> list[Part]:
    antennae = union(segment(x, y, -0.1, 0.5, -0.4, 0.95, 0.05), segment(x, y, 0.1, 0.5, 0.4, 0.95, 0.05))
    return [
        ("dark", antennae),
        ("body", union(circle(x, y, 0, -0.42, 0.55), circle(x, y, 0, 0.3, 0.34))),
        ("light", ellipse(x, y, 0, -0.45, 0.28, 0.34)),
    ]


def blicket(x: Array, y: Array) -> list[Part]:
    plate = cut(box(x, y, -0.1, -0.1, 0.7, 0.6, 0.1), circle(x, y, -0.1, -0.1, 0.3))
    return [
        ("gold", polygon(x, y, [(0.5, 0.1), (1.0, 0.8), (0.5, 0.5)])),
        ("body", plate),
        ("gold", box(x, y, -0.1, -0.82, 0.75, 0.1)),
    ]


def fep(x: Array, y: Array) -> list[Part]:
    bowl = cut(circle(x, y, 0, -0.2, 0.72), circle(x, y, 0, 0.1, 0.6))
    return [("dark", box(x, y, 0, -0.1, 0.06, 0.6)), ("body", bowl), ("gold", circle(x, y, 0, 0.68, 0.24))]


def toma(x: Array, y: Array) -> list[Part]:
    glass = union(
        polygon(x, y, [(-0.7, 0.9), (0.7, 0.9), (0, -0.05)]),
        polygon(x, y, [(-0.7, -0.9), (0.7, -0.9), (0, 0.05)]),
    )
    return [("body", glass), ("dark", box(x, y, 0, 0, 0.6, 0.11))]


def zav(x: Array, y: Array) -> list[Part]:
    points = [(-0.85, -0.6), (-0.4, 0.6), (0.05, -0.6), (0.5, 0.6), (0.85, -0.3)]
    chain = segment(x, y, *points[0], *points[1], 0.13)
    for a, b in zip(points[1:], points[2:], strict=False):
        chain = union(chain, segment(x, y, *a, *b, 0.13))
    return [("body", chain), ("light", circle(x, y, -0.85, -0.6, 0.2))]


def modi(x: Array, y: Array) -> list[Part]:
    bars = union(segment(x, y, -0.6, -0.6, 0.6, 0.6, 0.09), segment(x, y, -0.6, 0.6, 0.6, -0.6, 0.09))
    knobs = circle(x, y, 0.66, 0.66, 0.26)
    for cx, cy in ((-0.66, 0.66), (0.66, -0.66), (-0.66, -0.66)):
        knobs = union(knobs, circle(x, y, cx, cy, 0.26))
    return [("dark", bars), ("body", knobs)]


def pilk(x: Array, y: Array) -> list[Part]:
    teeth = box(x, y, -0.66, -0.4, 0.1, 0.5)
    for cx in (-0.22, 0.22, 0.66):
        teeth = union(teeth, box(x, y, cx, -0.4, 0.1, 0.5))
    dome = cut(circle(x, y, 0, 0.05, 0.85), box(x, y, 0, -1.0, 2, 1.0))
    return [("light", teeth), ("body", dome)]


THINGS: dict[str, Callable[[Array, Array], list[Part]]] = {
    f.__name__: f
    for f in (
        *(
            star,
            car,
            tree,
            ball,
            fish,
            house,
            apple,
            heart,
            boat,
            mug,
            flower,
            mushroom,
            bird,
            umbrella,
            hat,
            bottle,
        ),
        *(key, moon, cube, bell, lamp, leaf, chair, arrow, cross, hoop),
    )
}  # in order of frequency in the pool, the commonest first
GADGETS: dict[str, Callable[[Array, Array], list[Part]]] = {
    f.__name__: f for f in (dax, wug, blicket, fep, toma, zav, modi, pilk)
}
