"""Captions of real photographs, as the web would write them: with synonyms, sometimes vague, and sometimes wrong.

What they are made of is data, `data/photographs/captions.yml`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

import yaml

from zsclib.paths import DATA
from zsclib.prompts import ARTICLE
from zsclib.seeds import rng

FOLDER = DATA / "photographs"
KINDS = ("right", "vague", "wrong")
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Mix:
    """The knobs of the captions.

    Args:
        vague: share of captions that name a superclass, such as an animal, or nothing.
        nameless: share of the vague ones that name nothing, such as "a photo".
        wrong: share of captions that name another class of the same set.
        seed: of the captions and of the pool's order.

    Raises:
        ValueError: a share is not in 0 to 1, or the vague and the wrong ones are more than all.
    """

    vague: float = 0.10
    nameless: float = 0.3
    wrong: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        shares = {"vague": self.vague, "nameless": self.nameless, "wrong": self.wrong}
        if not all(0 <= share <= 1 for share in shares.values()) or self.vague + self.wrong > 1:
            raise ValueError(f"Mix: shares must lie in 0 to 1, vague and wrong together too, got {shares}")


MIX = Mix()


class Class(NamedTuple):
    """A class: its names with their articles, the first being what a labelled set calls it, and its kind."""

    names: tuple[str, ...]
    kind: str = ""

    @property
    def bare(self) -> str:
        """The first name without its article."""
        return ARTICLE.sub("", self.names[0])


@dataclass(frozen=True, kw_only=True)
class Words:
    """What captions are made of; whatever is listed twice is twice as likely.

    Args:
        media: domain → what an image of it is called.
        templates, nameless: sentences with a thing in them, and without one.
        kinds: kind → what a vague caption calls a thing of it.
        classes: set → its own name of each class, in label order → the class.
    """

    media: Mapping[str, tuple[str, ...]]
    templates: tuple[str, ...]
    nameless: tuple[str, ...]
    kinds: Mapping[str, tuple[str, ...]]
    classes: Mapping[str, Mapping[str, Class]]


def load_words(path: Path = FOLDER / "captions.yml") -> Words:
    """Read what captions are made of.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: two classes of a set have a name in common, so that a wrong caption could be right; or a class has a
            kind that is not listed.
    """
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    classes = {
        name: {
            own: Class(tuple(names), kind) for own, entry in table.items() for kind, names in entry.items()
        }
        for name, table in content["classes"].items()
    }
    for name, table in classes.items():
        times = Counter(word for one in table.values() for word in set(one.names))
        if shared := [word for word, count in times.items() if count > 1]:
            raise ValueError(
                f"{path}: two classes of {name} are called {shared[0]!r}; leave the name to one of them"
            )
        if unknown := {one.kind for one in table.values()} - content["kinds"].keys():
            raise ValueError(
                f"{path}: classes of {name} are of kinds without words: {sorted(unknown)}; add them"
            )
    uncaptioned = {
        name: {own: Class((text,)) for own, text in table.items()} for name, table in content["names"].items()
    }
    return Words(
        media={domain: tuple(words) for domain, words in content["media"].items()},
        templates=_weighted(content["templates"]),
        nameless=_weighted(content["nameless"]),
        kinds={kind: tuple(words) for kind, words in content["kinds"].items()},
        classes=classes | uncaptioned,
    )


class Photograph(NamedTuple):
    """What a caption is a function of: the set, the domain, the class as the set's file calls it, the image's hash."""

    set: str
    domain: str
    label: str
    hash: bytes


def caption(image: Photograph, words: Words, mix: Mix) -> tuple[str, str]:
    """Return the caption of an image, and whether it is right, vague or wrong (`KINDS`).

    Every choice has a random number of its own, from the seed, the set and the hash: when a share is changed, captions
    of images that stay right stay as they are.
    """
    draws = rng(mix.seed, "photograph caption", image.set, image.hash.hex()).random(6)
    kind, nothing, other, sentence, medium, thing = draws
    classes, templates = words.classes[image.set], words.templates
    names, truth = classes[image.label].names, "right"
    if kind < mix.wrong:
        others = [one for key, one in classes.items() if key != image.label]
        names, truth = _pick(others, other).names, "wrong"
    elif kind < mix.wrong + mix.vague:
        names, truth = words.kinds[classes[image.label].kind], "vague"
        templates = words.nameless if nothing < mix.nameless else templates
    text = fill(_pick(templates, sentence), _pick(words.media[image.domain], medium), _pick(names, thing))
    return text, truth


def fill(template: str, medium: str, thing: str = "") -> str:
    """Return a sentence with an image's and a thing's words in it, each with its article or without."""
    for slot, phrase in (("medium", medium), ("thing", thing)):
        template = template.replace(f"{{a {slot}}}", phrase).replace(f"{{{slot}}}", ARTICLE.sub("", phrase))
    return template


def _pick(options: Sequence[T], share: float) -> T:
    return options[int(share * len(options))]


def _weighted(times: Mapping[str, int]) -> tuple[str, ...]:
    return tuple(text for text, count in times.items() for _ in range(count))
