"""Signed distances of plain figures: negative inside, zero on the edge. Arrays x, y are the places asked about."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

Array = np.ndarray


def circle(x: Array, y: Array, cx: float, cy: float, r: float) -> Array:
    return np.sqrt((x - cx) * (x - cx) + (y - cy) * (y - cy)) - r


def ellipse(x: Array, y: Array, cx: float, cy: float, rx: float, ry: float) -> Array:
    """First-order distance: exact on the edge and close to it, which is all that outlines and shading use."""
    u, v = (x - cx) / rx, (y - cy) / ry
    k, steepness = np.sqrt(u * u + v * v), np.sqrt(u * u / (rx * rx) + v * v / (ry * ry))
    return k * (k - 1.0) / np.maximum(steepness, 1e-6)


def box(x: Array, y: Array, cx: float, cy: float, hx: float, hy: float, r: float = 0.0) -> Array:
    """Rectangle with half sides hx, hy and corner radius r."""
    qx, qy = np.abs(x - cx) - (hx - r), np.abs(y - cy) - (hy - r)
    ox, oy = np.maximum(qx, 0.0), np.maximum(qy, 0.0)
    return np.sqrt(ox * ox + oy * oy) + np.minimum(np.maximum(qx, qy), 0.0) - r


def segment(x: Array, y: Array, ax: float, ay: float, bx: float, by: float, r: float) -> Array:
    """A stroke from a to b with round ends and half width r."""
    px, py, dx, dy = x - ax, y - ay, bx - ax, by - ay
    h = np.clip((px * dx + py * dy) / (dx * dx + dy * dy), 0.0, 1.0)
    ex, ey = px - dx * h, py - dy * h
    return np.sqrt(ex * ex + ey * ey) - r


def polygon(x: Array, y: Array, points: Sequence[tuple[float, float]]) -> Array:
    """Exact distance to a closed polygon; the sign comes from the crossing number."""
    nearest, inside = None, np.zeros(x.shape, bool)
    for (ax, ay), (bx, by) in zip(points, (*points[1:], points[0]), strict=True):
        d = segment(x, y, ax, ay, bx, by, 0.0)
        nearest = d if nearest is None else np.minimum(nearest, d)
        if ay != by:
            crosses = ((y >= ay) != (y >= by)) & (x < (bx - ax) * (y - ay) / (by - ay) + ax)
            inside ^= crosses
    return np.where(inside, -nearest, nearest)


def ring(x: Array, y: Array, cx: float, cy: float, r: float, width: float) -> Array:
    return np.abs(circle(x, y, cx, cy, r)) - width


def cos_sin(degrees: float) -> tuple[float, float]:
    """Cosine and sine rounded to 1e-9, so that the last bit of a machine's libm does not matter."""
    angle = math.radians(degrees)
    return round(math.cos(angle), 9), round(math.sin(angle), 9)


def points(radii: Sequence[float], start: float = 90.0) -> list[tuple[float, float]]:
    step = 360.0 / len(radii)
    turns = [cos_sin(start + step * i) for i in range(len(radii))]
    return [(round(r * c, 6), round(r * s, 6)) for r, (c, s) in zip(radii, turns, strict=True)]
