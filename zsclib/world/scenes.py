"""What an image of the pocket world shows, before it becomes a caption (`captions`) and pixels (`render`).

A scene is plain data, made from a seed. Four kinds share one class: one thing, two things in a relation, a printed
character, and land from above.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, replace

import numpy as np

from zsclib.world.shapes import GADGETS, THINGS

COLOURS = {
    "red": (0.84, 0.13, 0.12),
    "orange": (0.96, 0.52, 0.08),
    "yellow": (0.96, 0.86, 0.16),
    "green": (0.18, 0.62, 0.24),
    "blue": (0.13, 0.33, 0.84),
    "purple": (0.54, 0.22, 0.70),
    "white": (0.93, 0.93, 0.93),
    "black": (0.13, 0.13, 0.15),
}
OBJECTS = ("star", "car", "tree", "fish", "house", "heart", "boat", "mug", "mushroom", "umbrella")
MATERIALS = ("plain", "wooden", "metal", "striped", "spotted")
STYLES = ("photo", "drawing", "painting", "sketch", "clip art", "night")
BACKGROUNDS = ("studio", "grass", "table", "beach", "snow", "street")
RELATIONS = ("left of", "right of", "above", "below")
LANDS = (
    *("forest", "farmland", "river", "highway"),
    *("residential area", "industrial area", "lake", "orchard"),
)
DIGITS, LETTERS = "0123456789", "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class Thing:
    """One thing in a scene; place and half size in units of the image's half width, y up, rotation in degrees."""

    noun: str
    colour: str
    material: str = "plain"
    _: KW_ONLY
    x: float = 0.0
    y: float = 0.0
    size: float = 0.6
    rotation: float = 0.0
    mirrored: bool = False


@dataclass(frozen=True)
class Scene:
    """Ground truth of one image; `seed` decides everything that has no name (light, texture, clutter, jitter)."""

    kind: str  # "thing" | "pair" | "digit" | "letter" | "land"
    style: str = "photo"
    background: str = "studio"
    _: KW_ONLY
    things: tuple[Thing, ...] = ()
    relation: str = ""
    symbol: str = ""  # the printed character, or the land cover
    ink: str = ""
    paper: str = ""
    clutter: int = 0
    seed: int = 0
    bend: float = 0.0  # how far the paper under a printed character may be crumpled, in its half heights
    scanned: bool = False  # a printed character with its contrast stretched: black and white become pure

    def row(self) -> dict[str, str | int]:
        """Return the ground truth as one flat row of a table."""
        first = self.things[0] if self.things else Thing("", "", "")
        second = self.things[1] if len(self.things) > 1 else Thing("", "", "")
        return {
            "kind": self.kind, "style": self.style, "background": self.background,
            "noun": first.noun, "colour": first.colour, "material": first.material,
            "noun2": second.noun, "colour2": second.colour, "relation": self.relation,
            "symbol": self.symbol, "ink": self.ink, "paper": self.paper, "scene_seed": self.seed,
        }  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class SceneMix:
    """The knobs of what the pool shows; each is a probability or a weight.

    Args:
        kinds: weights of thing, pair, digit, letter, land.
        concept_exponent: things are chosen with weight 1 / rank**exponent; 0 is uniform, 1 is Zipf's law.
        styles: weights in the order of `STYLES`.
        gadget_rate: how often a thing is one of the made-up gadgets; 0 keeps their names unknown to the pool.
        plain_material: how often a thing is plain; the rest is spread over the other materials.
        bend: how far printed characters are bent at most, as on cloth or crumpled paper, in their half heights; the
            share of it that an image gets is uniform. These are the elastic distortions that Simard et al. (2003)
            train readers of handwriting with.
        scans: how often a printed character is scanned, its contrast stretched until black and white are pure.
    """

    kinds: tuple[float, ...] = (0.54, 0.14, 0.18, 0.05, 0.09)
    concept_exponent: float = 0.6
    styles: tuple[float, ...] = (0.5, 0.1, 0.1, 0.08, 0.12, 0.1)
    gadget_rate: float = 0.0
    plain_material: float = 0.6
    bend: float = 0.0
    scans: float = 0.0


def pool_scene(rng: np.random.Generator, mix: SceneMix) -> Scene:
    """Return the scene of one image of the pool."""
    kind = _pick(rng, ("thing", "pair", "digit", "letter", "land"), mix.kinds)
    style = _pick(rng, STYLES, mix.styles)
    seed = int(rng.integers(2**62))
    if kind == "land":
        return Scene(kind, symbol=_pick(rng, LANDS), background="", seed=seed)
    if kind in ("digit", "letter"):
        symbol = _pick(rng, tuple(DIGITS if kind == "digit" else LETTERS))
        scene = printed(rng, symbol, seed)
        # a knob at 0 takes no random number, so that a pool without it stays the same
        return replace(scene, bend=mix.bend, scanned=bool(mix.scans and rng.random() < mix.scans))
    background = _pick(rng, BACKGROUNDS)
    if kind == "pair":
        nouns = [_noun(rng, mix), _noun(rng, mix)]
        while nouns[1] == nouns[0]:
            nouns[1] = _noun(rng, mix)
        colours = [str(c) for c in rng.permutation(list(COLOURS))[:2]]
        relation = _pick(rng, RELATIONS)
        return pair(rng, nouns, colours, relation, style, background, seed)
    material = "plain" if rng.random() < mix.plain_material else _pick(rng, MATERIALS[1:])
    thing = place(rng, Thing(_noun(rng, mix), _pick(rng, tuple(COLOURS)), material))
    return Scene(kind, style, background, things=(thing,), clutter=int(rng.integers(3)), seed=seed)


def place(rng: np.random.Generator, thing: Thing) -> Thing:
    """Put a single thing near the middle, a little turned, at a size of 17 to 27 pixels."""
    return replace(
        thing,
        x=0.36 * (rng.random() - 0.5), y=0.36 * (rng.random() - 0.5), size=0.54 + 0.3 * rng.random(),
        rotation=30.0 * (rng.random() - 0.5), mirrored=bool(rng.random() < 0.5),
    )  # fmt: skip


def pair(
    rng: np.random.Generator,
    nouns: list[str],
    colours: list[str],
    relation: str,
    style: str,
    background: str,
    seed: int,
) -> Scene:
    """Two things, the first standing in `relation` to the second ("" puts them side by side in either order)."""
    shown = relation or _pick(rng, ("left of", "right of"))
    sign = -1.0 if shown in ("left of", "below") else 1.0
    things = []
    for which, (noun, colour) in enumerate(zip(nouns, colours, strict=True)):
        along = (sign if which == 0 else -sign) * (0.44 + 0.08 * rng.random())
        across = 0.2 * (rng.random() - 0.5)
        x, y = (along, across) if shown in ("left of", "right of") else (across, along)
        size, rotation = 0.36 + 0.08 * rng.random(), 20.0 * (rng.random() - 0.5)
        things.append(Thing(noun, colour, x=x, y=y, size=size, rotation=rotation, mirrored=bool(rng.random() < 0.5)))
    return Scene("pair", style, background, things=tuple(things), relation=relation, seed=seed)


def printed(rng: np.random.Generator, symbol: str, seed: int) -> Scene:
    """A printed character in some ink on some paper; white on black and black on white are the commonest."""
    kind = "digit" if symbol in DIGITS else "letter"
    roll = rng.random()
    if roll < 0.35:
        ink, paper = "white", "black"
    elif roll < 0.55:
        ink, paper = "black", "white"
    else:
        ink, paper = (str(c) for c in rng.permutation(list(COLOURS))[:2])
    return Scene(kind, "print", "", symbol=symbol, ink=ink, paper=paper, seed=seed)


def _noun(rng: np.random.Generator, mix: SceneMix) -> str:
    if rng.random() < mix.gadget_rate:
        return _pick(rng, tuple(GADGETS))
    ranks = range(1, len(THINGS) + 1)
    return _pick(rng, tuple(THINGS), tuple(1.0 / rank**mix.concept_exponent for rank in ranks))


def _pick(rng: np.random.Generator, items: tuple[str, ...], weights: tuple[float, ...] | None = None) -> str:
    """Choose one item at random; by hand, so that a choice takes one uniform number on every NumPy."""
    u = rng.random()
    if weights is None:
        return items[int(u * len(items))]
    u *= sum(weights)
    for item, weight in zip(items, weights, strict=True):
        u -= weight
        if u < 0:
            return item
    return items[-1]
