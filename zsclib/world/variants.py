"""Twenty made-up things in five families whose members differ in little, as the variants of an aircraft do.

Their names are no words of the pool. Shapes are written as in `zsclib.world.shapes`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, reduce

from zsclib.world.geometry import Array, box, circle, ellipse, points, polygon, ring, segment
from zsclib.world.shapes import Part, cut, union


def wheel(x: Array, y: Array, spikes: int) -> list[Part]:
    """A ring with spikes around it."""
    rim = reduce(union, (segment(x, y, 0.5 * a, 0.5 * b, 0.9 * a, 0.9 * b, 0.1) for a, b in points([1.0] * spikes)))
    return [("dark", rim), ("body", ring(x, y, 0, 0, 0.42, 0.17))]


def beetle(x: Array, y: Array, belly: str, horns: int) -> list[Part]:
    """Two balls, one horn or two, a patch on the belly or none."""
    ends = (0.0,) if horns == 1 else (-0.45, 0.45)
    crown = reduce(union, (segment(x, y, 0.3 * end, 0.5, end, 0.92, 0.08) for end in ends))
    parts = [("dark", crown), ("body", union(circle(x, y, 0, -0.4, 0.56), circle(x, y, 0, 0.32, 0.38)))]
    return [*parts, (belly, ellipse(x, y, 0, -0.42, 0.3, 0.36))] if belly else parts


def glass(x: Array, y: Array, waist: bool, lids: bool) -> list[Part]:
    """Two cones, tip to tip, with a band at the waist, lids at the ends, both or neither."""
    cones = union(
        polygon(x, y, [(-0.68, 0.88), (0.68, 0.88), (0.08, 0), (-0.08, 0)]),
        polygon(x, y, [(-0.68, -0.88), (0.68, -0.88), (0.08, 0), (-0.08, 0)]),
    )
    parts = [("body", cones)]
    if waist:
        parts.append(("dark", box(x, y, 0, 0, 0.55, 0.13)))
    if lids:
        parts.append(("dark", union(box(x, y, 0, 0.86, 0.74, 0.12), box(x, y, 0, -0.86, 0.74, 0.12))))
    return parts


def comb(x: Array, y: Array, teeth: int) -> list[Part]:
    """Half a disc on legs."""
    places = [-0.66 + 1.32 * i / (teeth - 1) for i in range(teeth)]
    legs = reduce(union, (box(x, y, place, -0.4, 0.1, 0.5) for place in places))
    return [("light", legs), ("body", cut(circle(x, y, 0, 0.05, 0.85), box(x, y, 0, -1.0, 2, 1.0)))]


def chain(x: Array, y: Array, strokes: int, knobs: int) -> list[Part]:
    """A zigzag of strokes, with a knob at one end or at both."""
    corners = [(-0.8 + 1.6 * i / strokes, -0.55 if i % 2 == 0 else 0.55) for i in range(strokes + 1)]
    pairs = zip(corners, corners[1:], strict=False)
    body = reduce(union, (segment(x, y, *a, *b, 0.13) for a, b in pairs))
    ends = (corners[0], corners[-1])[:knobs]
    return [("body", body), ("gold", reduce(union, (circle(x, y, *end, 0.24) for end in ends)))]


FAMILIES: dict[str, dict[str, Callable[[Array, Array], list[Part]]]] = {
    "wheel": {
        name: partial(wheel, spikes=spikes)
        for name, spikes in (("coba", 3), ("fiffin", 4), ("glark", 5), ("huxon", 6))
    },
    "beetle": {
        "jefa": partial(beetle, belly="", horns=1),
        "kitu": partial(beetle, belly="", horns=2),
        "lorp": partial(beetle, belly="light", horns=1),
        "manu": partial(beetle, belly="light", horns=2),
    },
    "glass": {
        "nilt": partial(glass, waist=False, lids=False),
        "osip": partial(glass, waist=True, lids=False),
        "pabe": partial(glass, waist=False, lids=True),
        "roke": partial(glass, waist=True, lids=True),
    },
    "comb": {
        name: partial(comb, teeth=teeth) for name, teeth in (("sibu", 2), ("tulver", 3), ("vorg", 4), ("wiso", 5))
    },
    "chain": {
        "yok": partial(chain, strokes=3, knobs=1),
        "zeb": partial(chain, strokes=3, knobs=2),
        "gazzer": partial(chain, strokes=4, knobs=1),
        "dratt": partial(chain, strokes=4, knobs=2),
    },
}
VARIANTS = {name: shape for family in FAMILIES.values() for name, shape in family.items()}
FAMILY_OF = {name: family for family, members in FAMILIES.items() for name in members}
