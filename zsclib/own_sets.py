"""A labelled set of one's own as papers read it: what its classes are called, and which of its images are what.

    own = Own(classes={"1": "one", "2": "two"}, splits=["train", "validation"])
    test = load_part("folder:/data/digits", "test", own, n=400, size=48)

A set without splits is divided here, always alike: of each class three images in ten are test images. Where only some
rows are taken, these are divided.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from zsclib import datasets
from zsclib.datasets import OWN, check_words, named
from zsclib.images.class_folders import Listing, spelling
from zsclib.images.image_set import ImageSet
from zsclib.images.parquet import split_of
from zsclib.images.selection import located
from zsclib.prompts import Prompts, load_prompts, shipped_prompts
from zsclib.seeds import seed_of

TEST_SHARE = 0.3  # of each class, where a set has no splits
SEVEN = (  # the best ones for ImageNet, of OpenAI's notebook on prompts for CLIP
    *("itap of a {name}.", "a bad photo of the {name}.", "a origami {name}.", "a photo of the large {name}."),
    *("a {name} in a video game.", "art of the {name}.", "a photo of the small {name}."),
)


@dataclass(frozen=True, kw_only=True)
class Own:
    """How a set of one's own is to be read; it may be given as a page's parameters have it, lists and mappings.

    Attributes:
        classes: names for prompts and tables, as `zsclib.datasets.load_own` takes them; (): the set's own.
        template: a sentence with {}; "": "a photo of a {}", and CLIP's ensemble of seven where an ensemble is due.
        prompts: a name in `data/prompts` or the path of such a .yml file, instead of classes and template.
        splits: what its two parts are called: the images to learn from, and those to be tested on. A set without
            splits is divided; so is one whose two names are equal.
    """

    classes: tuple = ()
    template: str = ""
    prompts: str = ""
    splits: tuple[str, str] = ("train", "test")

    def __post_init__(self) -> None:
        classes = self.classes.items() if isinstance(self.classes, Mapping) else self.classes
        object.__setattr__(self, "classes", tuple(classes))  # a key of caches
        object.__setattr__(self, "splits", tuple(self.splits))
        check_words(_names(self.classes), self.template)
        if self.prompts and (self.classes or self.template):
            raise ValueError(
                f"Own: the file {self.prompts!r} says what classes are called and how they are asked for; leave out "
                "classes and template, or prompts"
            )
        if len(self.splits) != 2 or not all(isinstance(name, str) and name for name in self.splits):
            raise ValueError(
                f"Own: splits must be two names, of the images to learn from and of those to be tested on, got "
                f"{list(self.splits)}; the same one twice has it divided"
            )

    @property
    def names(self) -> datasets.Names:
        """The classes' names, as `zsclib.datasets.named` takes them."""
        if self.prompts:
            return list(load_prompts(self.prompts).classes)
        return _names(self.classes)


def is_own(target: str) -> bool:
    """Say whether a target is a set of the user's own."""
    return target.partition(":")[0] in OWN


def set_name(target: str) -> str:
    """Return what a target is called in tables and folders: of a path the last part alone, and what rows are taken."""
    kind, _, place = target.partition(":")
    if not is_own(target):
        return target.replace(":", " ")
    path, conditions = located(place) if kind == "parquet" else (Path(place), "")
    return " ".join([path.name, *re.split(r"[&/\\]", conditions)]).strip()


def short_name(target: str) -> str:
    """Return a target's name as a record may hold it: "objects_fine" of "objects-fine", the last part of a path."""
    last = target.rstrip("/").rpartition("/")[2].rpartition(":")[2].lower()
    name = re.sub("[^a-z0-9]+", "_", last).strip("_")
    return name if name[:1].isalpha() else f"set_{name}".rstrip("_")


def short_names(targets: Sequence[str]) -> dict[str, str]:
    """Return target → `short_name`; of several that would have one name, the second is NAME_2, and so on."""
    names: dict[str, str] = {}
    for target in dict.fromkeys(targets):
        name, number = short_name(target), 1
        while (own := f"{name}_{number}" if number > 1 else name) in names.values():
            number += 1
        names[target] = own
    return names


def load_part(
    target: str,
    part: str,
    own: Own | None = None,
    *,
    n: int,
    seed: int = 0,
    size: int | None = None,
    each: int = 0,
    allow_network: bool = False,
) -> ImageSet:
    """Load images of one part of a set of one's own, classes in turn.

    Args:
        target: as `zsclib.datasets.load` takes it: "folder:PATH", "parquet:PATH", "hub:ID".
        part: "train" or "test". own: how it is read; None: as it is.
        n: images at most. seed: which ones. size: side in pixels. each: images that every class must have in this part.

    Raises:
        FileNotFoundError: no such set, or no such split.
        ValueError: a class has fewer than `each` images, two have one name, or what `zsclib.datasets.load` raises.
    """
    own = own or Own()
    listing, divided = _listing(target, part, own, allow_network)
    listing = listing._replace(classes=named(listing.classes, own.names))
    counts = np.bincount(listing.labels[listing.labels >= 0], minlength=len(listing.classes))
    if short := [label for label, count in enumerate(counts) if count < each]:
        lacking = ", ".join(f"{listing.classes[label]!r} {counts[label]}" for label in short[:5])
        whose = f"the {1 - TEST_SHARE:.0%} that are not for testing" if divided else f"the split {own.splits[0]!r}"
        raise ValueError(
            f"{target}: the images to learn from and those to choose by are {each} of each class; in {whose} "
            f"{len(short)} of {len(counts)} classes have fewer: {lacking}{', …' * (len(short) > 5)}; take fewer shots, "
            "hold out fewer, or add images"
        )
    where = own.splits[part == "test"]
    return datasets.images_of(listing, (target, where), min(n, max(1, int(counts.sum()))), seed, size)


def prompts_for(target: str, classes: Sequence[str], own: Own | None = None) -> Prompts:
    """Return the prompts of a target: those that ship with it, those of one's own, or a photo of each class.

    With a template of one's own, it is the ensemble too. Class names may bring an article: "a photo of a {}" takes it
    away where it says one itself.
    """
    own = own or Own()
    if not is_own(target) and (prompts := shipped_prompts(target, classes)):
        return prompts
    if own.prompts:
        return replace(load_prompts(own.prompts), classes=tuple(classes))
    cifar10 = load_prompts("cifar10")
    domains = {name: _bare(sentence) for name, sentence in cifar10.domains.items()}
    return replace(
        cifar10,
        classes=tuple(classes),
        about=target,
        template=own.template or _bare(cifar10.template),
        templates=(own.template,) if own.template else SEVEN,
        base=own.template or _bare(cifar10.base),
        domains=domains,
    )


def _bare(sentence: str) -> str:
    return sentence.replace("{}", "{name}")


def _names(classes: tuple) -> datasets.Names:
    return dict(classes) if classes and all(isinstance(name, tuple) for name in classes) else list(classes)


def _listing(target: str, part: str, own: Own, allow_network: bool) -> tuple[Listing, bool]:
    """Return a part of a set, undecoded, and whether the set was divided for it."""
    split, (kind, _, place) = own.splits[part == "test"], target.partition(":")
    path = located(place)[0] if kind == "parquet" else Path(place).expanduser()
    if not (divided := own.splits[0] == own.splits[1]):
        if kind == "folder" and path.is_dir():
            divided = not any(spelling(inner.name) and _has_folders(inner) for inner in path.iterdir())
            split = "test" if divided else split
        elif kind == "parquet" and path.is_file():
            divided, split = True, split_of(path)
    try:
        listing = datasets.open_listing(target, split, allow_network)
    except FileNotFoundError as error:
        if not path.exists():
            raise
        raise FileNotFoundError(
            f"{error}; say which splits are meant, such as splits=['train', 'validation'], or the same one twice to "
            "have it divided"
        ) from error
    if not divided:
        return listing, False
    labels = listing.labels.copy()
    rows = np.flatnonzero(labels >= 0)
    rows = rows[datasets.order(labels[rows], seed_of(0, "own test images"))]
    turn = pd.Series(labels[rows]).groupby(labels[rows]).cumcount().to_numpy()
    counts = np.bincount(labels[rows], minlength=len(listing.classes))
    test = turn < np.maximum(1, np.round(TEST_SHARE * counts))[labels[rows]]
    labels[rows[test != (part == "test")]] = -1  # images of the other part
    return listing._replace(labels=labels), True


def _has_folders(path: Path) -> bool:
    return path.is_dir() and any(inner.is_dir() and not inner.name.startswith(".") for inner in path.iterdir())
