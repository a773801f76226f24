"""Does a generated image show what its prompt asks for? Requests with known attributes, and a check that they are met.

wanted = requests("relation", 200)
images = sample(generator, wanted.prompt.tolist(), wanted.seed.tolist(), guidance=3)    # uint8 (200, 32, 32, 3)
correct = fulfilled(classifier, images, wanted)                                         # bool (200,)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
from torch import nn

from zsclib.pocket.attributes import ATTRIBUTES, NOTHING, PLACES, SIDES, read
from zsclib.prompts import fill, load_prompts
from zsclib.seeds import rng as seeded
from zsclib.seeds import seed_of
from zsclib.world.captions import STYLE_PHRASES, with_article
from zsclib.world.scenes import COLOURS, RELATIONS, STYLES
from zsclib.world.shapes import THINGS
from zsclib.world.targets import CLASSES

KINDS = ("objects", "printed-digits", "aerial", "colour", "style", "relation", "relation of colours", "axis")
ABOUT_RELATIONS = ("relation", "relation of colours", "axis")  # three questions about the same images


def requests(kind: str, n: int, seed: int = 0) -> pd.DataFrame:
    """Return prompts of one kind and what an image of each must show.

    Args:
        kind: "objects", "printed-digits", "aerial" (the set's class in the set's own prompt), "colour" (a thing of some
            colour), "style" (a thing in some style), "relation" (of two coloured things, each stands where it should),
            "relation of colours" (the same prompts, but only the colours count) or "axis" (again the same, but all
            that counts is whether they stand side by side or one above the other).
        n: prompts; the first n of more are the same.
        seed: of the things, the colours and the images' noise.

    Returns:
        n rows: prompt, seed (of the image's noise), and a column per attribute with the value it must have, "" where
        any will do.

    Raises:
        ValueError: unknown kind, or n below 1.
    """
    if kind not in KINDS:
        raise ValueError(f"requests: there is no kind {kind!r}; choose one of {', '.join(KINDS)}")
    if n < 1:
        raise ValueError(f"requests: n must be at least 1, got {n}")
    stream, rows = "relation" if kind in ABOUT_RELATIONS else kind, []
    for i in range(n):
        prompt, values = _request(kind, i, seeded(seed, "request", stream, i))
        rows.append({"prompt": prompt, "seed": seed_of(seed, "requested", stream, i), **values})
    return pd.DataFrame(rows).reindex(columns=["prompt", "seed", *ATTRIBUTES], fill_value="").fillna("")


def _request(kind: str, i: int, rng: np.random.Generator) -> tuple[str, dict[str, str]]:
    if kind in CLASSES:
        prompts, label = load_prompts(kind), i % len(CLASSES[kind])
        return fill(prompts.template, prompts.classes)[label], {"what": CLASSES[kind][label]}
    nouns, colours = rng.permutation(list(THINGS)), rng.permutation(list(COLOURS))
    if kind == "colour":
        colour = list(COLOURS)[i % len(COLOURS)]
        return f"a photo of {with_article(f'{colour} {nouns[0]}')}", {"colour": colour}
    if kind == "style":
        style = STYLES[i % len(STYLES)]
        return f"{STYLE_PHRASES[style][0]} {with_article(nouns[0])}", {"style": style}
    relation = RELATIONS[i % len(RELATIONS)]
    first, second = (
        with_article(f"{colour} {noun}") for colour, noun in zip(colours, nouns[:2], strict=False)
    )
    prompt, (here, there) = f"a photo of {first} {relation} {second}", SIDES[relation]
    if kind == "axis":
        return prompt, {place: NOTHING for place in PLACES if place not in (here, there)}
    if kind == "relation":
        return prompt, {here: str(nouns[0]), there: str(nouns[1])}
    return prompt, {f"{here} colour": str(colours[0]), f"{there} colour": str(colours[1])}


def fulfilled(classifier: nn.Module, images: np.ndarray, wanted: pd.DataFrame) -> np.ndarray:
    """Return, for each image, whether every attribute of its request is read from it; bool (n,).

    Args:
        classifier: from `attributes.open_classifier`.
        images: uint8 (n, 32, 32, 3), generated for the rows of `wanted`.
    """
    correct, predicted = np.ones(len(wanted), bool), read(classifier, images)
    for attribute, values in ATTRIBUTES.items():
        value = np.array(values)[predicted[attribute]]
        correct &= (wanted[attribute] == "").to_numpy() | (value == wanted[attribute].to_numpy())
    return correct


class Fulfilled(NamedTuple):
    """Which images show what their prompt asks for, and which show it with the two things exchanged; bool (n,)."""

    correct: np.ndarray
    exchanged: np.ndarray | None  # for "relation" and "relation of colours" only


def fulfilled_by_kind(
    generate: Callable[[list[str], list[int]], np.ndarray], classifier: nn.Module, n: Mapping[str, int], seed: int = 0
) -> dict[str, Fulfilled]:
    """Generate images for requests of several kinds and check each against its prompt.

    Args:
        generate: (prompts, seeds) → images uint8 (n, 32, 32, 3).
        classifier: from `attributes.open_classifier`.
        n: kind → images. The three kinds about relations share theirs where their numbers are equal.
        seed: of the requests.
    """
    outcomes, of_relations = {}, None
    for kind in n:
        wanted = requests(kind, n[kind], seed)
        images = of_relations if kind in ABOUT_RELATIONS else None
        if images is None or len(images) != len(wanted):
            images = generate(wanted.prompt.tolist(), wanted.seed.tolist())
        of_relations = images if kind in ABOUT_RELATIONS else of_relations
        ordered = kind in ABOUT_RELATIONS[:2]
        exchanged = fulfilled(classifier, images, swapped(wanted)) if ordered else None
        outcomes[kind] = Fulfilled(fulfilled(classifier, images, wanted), exchanged)
    return outcomes


def swapped(wanted: pd.DataFrame) -> pd.DataFrame:
    """Return requests for a relation with the two things in each other's place: what chance would give as often."""
    exchanged = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}
    columns = [(f"{place}{of}", f"{exchanged[place]}{of}") for place in PLACES for of in ("", " colour")]
    return wanted.assign(**{place: wanted[other] for place, other in columns})
