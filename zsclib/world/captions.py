"""The caption of a scene, as the web would write it: with synonyms, things left out, and sometimes wrong."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from zsclib.world.scenes import COLOURS, DIGITS, LANDS, STYLES, Scene, _pick
from zsclib.world.shapes import THINGS

SYNONYMS = {
    "mug": ("mug", "mug", "cup"),
    "car": ("car", "car", "automobile"),
    "boat": ("boat", "boat", "ship"),
    "house": ("house", "house", "cottage"),
    "hoop": ("hoop", "ring"),
    "moon": ("moon", "crescent"),
    "lake": ("lake", "lake", "pond"),
    "forest": ("forest", "forest", "wood"),
    "farmland": ("farmland", "farmland", "crop field"),
    "highway": ("highway", "highway", "motorway"),
}
NUMERALS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
STYLE_PHRASES = {
    "photo": ("a photo of", "a photo of", "a photograph of", "a picture of"),
    "drawing": ("a drawing of", "an ink drawing of"),
    "painting": ("a painting of", "an oil painting of"),
    "sketch": ("a sketch of", "a pencil sketch of"),
    "clip art": ("clip art of", "a cartoon of"),
    "night": ("a night photo of", "a photo at night of"),
}
BACKGROUND_PHRASES = {
    "studio": "on a plain background", "grass": "on grass", "table": "on a table",
    "beach": "on a beach", "snow": "in the snow", "street": "in a street",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class CaptionMix:
    """The knobs of the captions; each is a probability per caption.

    Args:
        omit_style, omit_colour, omit_background: how often that part is left out.
        omit_material: how often the material of a thing that is not plain is left out.
        noise: how often one fact is replaced by a wrong one.
    """

    omit_style: float = 0.2
    omit_colour: float = 0.3
    omit_background: float = 0.5
    noise: float = 0.02
    omit_material: float = 0.0


def caption(scene: Scene, rng: np.random.Generator, mix: CaptionMix) -> str:
    """Return one caption of a scene."""
    if rng.random() < mix.noise:
        scene = _mistaken(scene, rng)
    if scene.kind == "land":
        phrases = ("a satellite view of", "an aerial photo of", "a satellite photo of")
        head = "" if rng.random() < mix.omit_style else _pick(rng, phrases)
        return f"{head} {with_article(_name(scene.symbol, rng))}".strip()
    if scene.kind in ("digit", "letter"):
        return _printed(scene, rng, mix)
    head = "" if rng.random() < mix.omit_style else _pick(rng, STYLE_PHRASES[scene.style])
    # A pencil sketch shows no colour, so its caption names none.
    with_colour = scene.style != "sketch" and rng.random() >= mix.omit_colour
    phrases = []
    for thing in scene.things:
        parts = [_name(thing.noun, rng)]
        if thing.material != "plain" and not (mix.omit_material and rng.random() < mix.omit_material):
            parts.insert(0, thing.material)
        if with_colour and thing.material != "wooden":
            parts.insert(0, thing.colour)
        phrases.append(with_article(" ".join(parts)))
    body = f" {scene.relation or 'and'} ".join(phrases)
    shows_place = scene.style in ("photo", "painting", "night")
    tail = BACKGROUND_PHRASES[scene.background] if shows_place and rng.random() >= mix.omit_background else ""
    return f"{head} {body} {tail}".strip()


def with_article(phrase: str) -> str:
    """Return "a …" or "an …"; land covers without a countable noun stay bare."""
    if phrase == "farmland":
        return phrase
    return f"{'an' if phrase[0] in 'aeio' or phrase.startswith('umb') else 'a'} {phrase}"


def _printed(scene: Scene, rng: np.random.Generator, mix: CaptionMix) -> str:
    symbol = scene.symbol
    if scene.kind == "digit":
        name = NUMERALS[int(symbol)] if rng.random() < 0.25 else symbol
        body = _pick(rng, (f"the number {name}", f"the number {name}", f"the digit {name}"))
    else:
        body = f"the letter {symbol.lower()}"
    head = "" if rng.random() < mix.omit_style else _pick(rng, ("a photo of", "a picture of", "a print of"))
    tail = "" if rng.random() < mix.omit_colour else f"in {scene.ink} on {scene.paper}"
    return f"{head} {body} {tail}".strip()


def _name(noun: str, rng: np.random.Generator) -> str:
    return _pick(rng, SYNONYMS[noun]) if noun in SYNONYMS else noun


def _mistaken(scene: Scene, rng: np.random.Generator) -> Scene:
    """Return the scene with one fact replaced, for a caption that is wrong."""
    if scene.kind == "land":
        return replace(scene, symbol=_pick(rng, LANDS))
    if scene.kind in ("digit", "letter"):
        return replace(scene, symbol=_pick(rng, tuple(DIGITS))) if scene.kind == "digit" else scene
    first, *rest = scene.things
    roll = rng.random()
    if roll < 0.4:
        first = replace(first, noun=_pick(rng, tuple(THINGS)))
    elif roll < 0.8:
        first = replace(first, colour=_pick(rng, tuple(COLOURS)))
    else:
        return replace(scene, style=_pick(rng, STYLES))
    return replace(scene, things=(first, *rest))
