"""The sets a classifier is tested on, made from seeds the pool never uses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd

from zsclib.images.image_set import ImageSet
from zsclib.seeds import rng as seeded
from zsclib.world.captions import with_article
from zsclib.world.hard import HARD
from zsclib.world.render import render
from zsclib.world.scenes import (
    BACKGROUNDS,
    COLOURS,
    DIGITS,
    LANDS,
    MATERIALS,
    OBJECTS,
    RELATIONS,
    Scene,
    SceneMix,
    Thing,
    pair,
    place,
    pool_scene,
    printed,
)
from zsclib.world.shapes import GADGETS

SHIFTS = ("small", "turned", "cropped", "blurred", "noisy", "faded", "coarse")
UNSHIFTED = "none"
SWAPS = ("object", "relation", "both")
CLASSES: dict[str, tuple[str, ...]] = {
    "objects": OBJECTS,
    "objects-fine": tuple(f"{material} {noun}" for noun in OBJECTS for material in MATERIALS[1:]),
    "objects-shift": OBJECTS,
    "aerial": LANDS,
    "gadgets": tuple(GADGETS),
    "pairs": ("first caption", "second caption"),
    "printed-digits": tuple(DIGITS),
    **{name: classes for name, (classes, _) in HARD.items()},
}
SPLITS = ("train", "validation", "test")
DEFAULT_SIZE = 1000


def target(name: str, split: str = "test", n: int | None = None, seed: int = 0) -> ImageSet:
    """Make a target set; image i is of class i mod C, so every prefix is balanced and shorter sets are prefixes.

    Args:
        name: a key of `CLASSES`, or one shift alone, such as "objects-shift:blurred": the scenes of `objects-shift`,
            every one under that shift, so that all shifts show the same scenes; "objects-shift:none" shows them as
            they are. A hard set (`zsclib.world.hard.HARD`) at a share of the way from what the pool shows to its own
            conditions: "objects-hard:0.4"; "objects-hard:1" is "objects-hard", and all shares show the same scenes.
        split: "train", "validation" or "test"; splits share no image.
        n: images; default 1,000. `pairs` has two images an example, so n is even there.
        seed: another seed gives another set of the same kind, which shares no image with this one: fresh images.

    Returns:
        The set; its manifest holds the ground truth of every image.

    Raises:
        ValueError: unknown name, shift, share or split, or an n that does not fit.
    """
    whole = name
    name, _, shift = whole.partition(":")
    if name not in CLASSES:
        raise ValueError(f"target: there is no set {whole!r}; choose one of {', '.join(CLASSES)}")
    share = _share(whole, shift) if name in HARD and name != whole else 1.0
    if name != whole and name not in HARD and (name != "objects-shift" or shift not in (*SHIFTS, UNSHIFTED)):
        shifts = ", ".join(f"objects-shift:{known}" for known in (*SHIFTS, UNSHIFTED))
        raise ValueError(f"target: {name!r} has no part {shift!r}; sets by their shift are {shifts}")
    if split not in SPLITS:
        raise ValueError(f"target: there is no split {split!r}; choose one of {', '.join(SPLITS)}")
    n = DEFAULT_SIZE if n is None else n
    if n < 1 or (name == "pairs" and n % 2):
        raise ValueError(
            f"target: n of {name!r} must be a positive{' even' if name == 'pairs' else ''} number, got {n}"
        )
    if name == "pairs":
        return _pairs(split, n, seed)
    images, rows, classes = [], [], CLASSES[name]
    for i in range(n):
        rng = seeded(seed, "target", name, split, i)
        if name in HARD:
            image, row = HARD[name][1](classes[i % len(classes)], rng, share)
        elif shift:
            image, row = _objects_shift(i % len(classes), rng, shift)
        else:
            image, row = _MAKE[name](i % len(classes), rng)
        images.append(image)
        rows.append({"source": whole, "split": split, "index": i, **row})
    labels = np.arange(n, dtype=np.int64) % len(classes)
    return ImageSet(np.stack(images), labels, classes, manifest=pd.DataFrame(rows))


def _share(whole: str, text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        name = whole.partition(":")[0]
        raise ValueError(
            f"target: {whole!r} must end in how far it is from the pool: from {name}:0, as the pool, to {name}:1, "
            f"which is {name}"
        )
    return share


def _photo(noun: str, material: str, rng: np.random.Generator) -> Scene:
    colour = list(COLOURS)[int(rng.integers(len(COLOURS)))]
    thing = place(rng, Thing(noun, colour, material))
    background = BACKGROUNDS[int(rng.integers(len(BACKGROUNDS)))]
    clutter, seed = 1 + int(rng.integers(3)), int(rng.integers(2**62))
    return Scene("thing", "photo", background, things=(thing,), clutter=clutter, seed=seed)


def _rendered(scene: Scene) -> tuple[np.ndarray, dict]:
    return render(scene), scene.row()


def _objects(label: int, rng: np.random.Generator) -> tuple[np.ndarray, dict]:
    plain = rng.random() < SceneMix.plain_material
    material = "plain" if plain else MATERIALS[1 + int(rng.integers(len(MATERIALS) - 1))]
    return _rendered(_photo(OBJECTS[label], material, rng))


def _objects_fine(label: int, rng: np.random.Generator) -> tuple[np.ndarray, dict]:
    material, noun = CLASSES["objects-fine"][label].split()
    return _rendered(_photo(noun, material, rng))


def _objects_shift(label: int, rng: np.random.Generator, shift: str = "") -> tuple[np.ndarray, dict]:
    """An object under one of seven shifts, the one that is named or any: three of the camera, four of the image."""
    by_chance = SHIFTS[int(rng.integers(len(SHIFTS)))]
    shift = shift or by_chance
    scene = _photo(OBJECTS[label], "plain", rng)
    thing = scene.things[0]
    side = 1.0 if rng.random() < 0.5 else -1.0
    if shift == "small":
        thing = replace(thing, size=0.32, x=side * (0.2 + 0.3 * rng.random()))
    elif shift == "turned":
        thing = replace(thing, rotation=side * (60 + 120 * rng.random()))
    elif shift == "cropped":
        thing = replace(thing, size=1.0, x=side * 0.5)
    image = render(replace(scene, things=(thing,))).astype(np.float32)
    if shift == "blurred":
        for _ in range(2):
            padded = np.pad(image, ((1, 1), (1, 1), (0, 0)), mode="edge")
            image = (padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:] + image) / 5
    elif shift == "noisy":
        image = image + 110 * (rng.random(image.shape).astype(np.float32) - 0.5)
    elif shift == "faded":
        image = 150 + 0.28 * (image - 150)
    elif shift == "coarse":
        blocks = image.reshape(8, 4, 8, 4, 3)
        image = np.repeat(np.repeat(blocks[:, 1, :, 1] * 0.5 + blocks[:, 2, :, 2] * 0.5, 4, 0), 4, 1)
    image = np.floor(np.clip(image, 0, 255) + 0.5).astype(np.uint8)
    return image, {**scene.row(), "shift": shift}


def _aerial(label: int, rng: np.random.Generator) -> tuple[np.ndarray, dict]:
    return _rendered(Scene("land", background="", symbol=LANDS[label], seed=int(rng.integers(2**62))))


def _gadgets(label: int, rng: np.random.Generator) -> tuple[np.ndarray, dict]:
    return _rendered(_photo(CLASSES["gadgets"][label], "plain", rng))


def _printed_digits(label: int, rng: np.random.Generator) -> tuple[np.ndarray, dict]:
    return _rendered(printed(rng, DIGITS[label], int(rng.integers(2**62))))


_MAKE: dict[str, Callable[[int, np.random.Generator], tuple[np.ndarray, dict]]] = {
    "objects": _objects, "objects-fine": _objects_fine, "objects-shift": _objects_shift, "aerial": _aerial,
    "gadgets": _gadgets, "printed-digits": _printed_digits,
}  # fmt: skip


def _pairs(split: str, n: int, seed: int) -> ImageSet:
    """Two images and two captions of the same words in another order, as Winoground (Thrush et al. 2022).

    What is swapped: "object": the nouns, in "a red star and a blue heart"; "relation": who stands where, in "a red
    star left of a blue heart"; "both": the nouns alone in the latter, which changes colours and places. The examples go
    through the swap types in turn. Label 0 belongs to `caption_0`, label 1 to `caption_1`.
    """
    images, rows = [], []
    mix = SceneMix(kinds=(0, 1, 0, 0, 0), styles=(1, 0, 0, 0, 0, 0))
    for example in range(n // 2):
        rng = seeded(seed, "target", "pairs", split, example)
        swap = SWAPS[example % len(SWAPS)]
        scene = pool_scene(rng, mix)
        (a, b), relation = (
            scene.things,
            "" if swap == "object" else RELATIONS[int(rng.integers(len(RELATIONS)))],
        )
        if swap == "relation":
            orders = ((a.noun, a.colour, b.noun, b.colour), (b.noun, b.colour, a.noun, a.colour))
        else:
            orders = ((a.noun, a.colour, b.noun, b.colour), (b.noun, a.colour, a.noun, b.colour))
        captions = [
            f"a photo of {with_article(f'{c1} {n1}')} {relation or 'and'} {with_article(f'{c2} {n2}')}"
            for n1, c1, n2, c2 in orders
        ]
        for label, (n1, c1, n2, c2) in enumerate(orders):
            shown = pair(
                rng, [n1, n2], [c1, c2], relation, "photo", scene.background, int(rng.integers(2**62))
            )
            images.append(render(shown))
            rows.append({
                "source": "pairs", "split": split, "index": 2 * example + label, **shown.row(),
                "example": example, "swap": swap, "caption_0": captions[0], "caption_1": captions[1],
            })  # fmt: skip
    labels = np.arange(n, dtype=np.int64) % 2
    return ImageSet(np.stack(images), labels, CLASSES["pairs"], manifest=pd.DataFrame(rows))
