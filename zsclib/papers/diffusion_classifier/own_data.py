"""Images, class names and prompts of one's own, checked before any network is asked.

check_words(["cat", "dog"], "a photo of a {}.")
images, prompts = load_own("folder:pets", ["a tabby cat", "a dog"], "a photo of {}.", size=512)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from zsclib import datasets
from zsclib.images.class_folders import from_folder
from zsclib.images.image_set import ImageSet
from zsclib.images.parquet import from_parquet
from zsclib.prompts import fill, prompts_of


def check_words(classes: Sequence[str] = (), template: str = "") -> None:
    """Raise ValueError unless a template has one {} and class names are different and not empty; "" and () pass."""
    if template or classes:
        fill(template or "{}", list(classes) or ["thing"])


def load_own(
    name: str,
    classes: Sequence[str] = (),
    template: str = "",
    n: int | None = None,
    size: int | None = None,
    allow_network: bool = False,
) -> tuple[ImageSet, list[str]]:
    """Load a set of one's own, and one prompt for each of its classes.

    Args:
        name: what `zsclib.datasets.load` takes, such as "folder:PATH".
        classes: names for prompts and tables, in the order of the set's own (a folder's: sorted); or the set's own,
            in any order; () for the set's own.
        template: a sentence with {}; "" for that of `zsclib.prompts.prompts_of`.
        n: images at most, balanced over the classes; None for all. size: side in pixels.

    Raises:
        FileNotFoundError: there is no such folder or file.
        ValueError: the words are not fit (see `check_words`), their number is not that of the set's classes, one of
            them is the set's own name for another class, or what `zsclib.datasets.load` raises.
    """
    check_words(classes, template)
    available = _available(name)
    if n is not None and available is not None:
        n = min(n, available)
    images = datasets.load(name, n=n, size=size, allow_network=allow_network)
    names = named(images.classes, classes)
    return ImageSet(images.images, images.labels, names, manifest=images.manifest), prompts_of(name, names, template)


def named(found: Sequence[str], given: Sequence[str]) -> tuple[str, ...]:
    """Return the names given for the classes found in a set, in the set's order (see `load_own`)."""
    if not given or set(given) == set(found):
        return tuple(found)
    if len(given) != len(found):
        raise ValueError(
            f"{len(given)} class names were given, {list(given)}, but the set has {len(found)} classes: "
            f"{', '.join(found)}; give one for each, in this order"
        )
    for place, name in enumerate(given):
        if name in found and found[place] != name:
            raise ValueError(
                f"the class name {name!r} stands where the set has {found[place]!r}; give names in this order: "
                f"{', '.join(found)}"
            )
    return tuple(given)


def _available(name: str) -> int | None:
    """Return how many images a folder or Parquet file has, without reading them; None for other sets."""
    kind, _, place = name.partition(":")
    if kind not in ("folder", "parquet") or not place:
        return None
    path = Path(place).expanduser()
    return len((from_folder if kind == "folder" else from_parquet)(path, "test").labels)
