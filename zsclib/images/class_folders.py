"""What a source of labelled images hands over before anything is decoded; class folders, read and written."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import pandas as pd

from zsclib.images import files as image_files
from zsclib.images.image_set import ImageSet
from zsclib.paths import atomic, write_json

# What may lie beside images and is left out without a word; any other file that is no image is refused.
BESIDE = {"", ".csv", ".db", ".html", ".ini", ".json", ".log", ".md", ".tsv", ".txt", ".xml", ".yaml", ".yml"}
SPLIT_NAMES = {  # how folders and files spell a split; any other spelling is taken as it stands
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test",),
}
ABOUT = "about.json"  # of a folder of images that was written here: what it was made from
T = TypeVar("T")


class Listing(NamedTuple):
    """What a source has: labels int64 (n,), class names, and `read(rows, size)` for the images of some rows.

    `read` returns one uint8 (h, w, 3) per row and their manifest, both in the order of `rows`.
    """

    labels: np.ndarray
    classes: tuple[str, ...]
    read: Callable[[np.ndarray, int | None], tuple[list[np.ndarray], pd.DataFrame]]

    def image_set(self, rows: np.ndarray, size: int | None) -> ImageSet:
        """Decode `rows`, resized to `size` unless it is None.

        Raises:
            ValueError: an image does not decode, or sizes differ and `size` is None.
        """
        images, manifest = self.read(rows, size)
        for i, image in enumerate(images):
            if image.shape != images[0].shape:
                (h0, w0, _), (h, w, _) = images[0].shape, image.shape
                raise ValueError(
                    f"images differ in size: {manifest['source'][0]} is {w0}×{h0} pixels, "
                    f"{manifest['source'][i]} is {w}×{h}; give size=, for instance size=32"
                )
        return ImageSet(np.stack(images), self.labels[rows], self.classes, manifest=manifest)


def from_folder(path: Path, split: str) -> Listing:
    """List a folder of class folders, PATH/class/image.png, or of splits of it, PATH/train/class/image.png.

    Classes are the sub-folders' names, sorted; files are sorted by name. Hidden files and notes (`BESIDE`) are left
    out. Without split folders all images are the split "test", the only one: the
    same images under another name would be a train set that is tested on.

    Raises:
        FileNotFoundError: the folder, or the folder of the split, is missing.
        ValueError: no class folder, an empty one, images outside class folders or deeper inside them, files of a
            kind that cannot be opened, splits with different classes, or a link that leads out of the folder.
    """
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: there is no such folder")
    splits = {p.name: p for p in _folders(path) if spelling(p.name) and _folders(p)}
    root = path
    if splits:
        root = pick_split(splits, split, path)
        names = {p.name for p in _folders(root)}
        for name, other in splits.items():
            if differing := names ^ {p.name for p in _folders(other)}:
                raise ValueError(
                    f"{path}: the splits {root.name!r} and {name!r} have different class folders: "
                    f"{', '.join(sorted(differing))}; give every split the same ones"
                )
    elif split != "test":
        raise FileNotFoundError(
            f"{path}: without split folders every image is in the split 'test', {split!r} was asked for; "
            f"move the class folders into {path / 'train'}, {path / 'validation'} and {path / 'test'}"
        )
    if loose := _images(root):
        raise ValueError(
            f"{loose[0]}: an image outside the class folders; move it into one ({root}/CLASS/) or away"
        )
    classes = _folders(root)
    _refuse_unreadable(root, classes)
    if not classes:
        raise ValueError(f"{root}: no class folders; put the images into one sub-folder per class")
    files, labels = [], []
    for label, folder in enumerate(classes):
        if inner := _folders(folder):
            raise ValueError(
                f"{inner[0]}: a folder inside the class folder {folder.name!r}; move its images up, or give "
                "the folder whose sub-folders are the classes"
            )
        if not (own := _images(folder)):
            raise ValueError(f"{folder}: a class folder without images; add some or remove it")
        for file in (root, folder, *own):
            if file.is_symlink() and not file.resolve().is_relative_to(path.resolve()):
                raise ValueError(
                    f"{file}: a link to {file.resolve()}, outside {path}; copy the images instead"
                )
        files += own
        labels += [label] * len(own)

    def read(rows: np.ndarray, size: int | None) -> tuple[list[np.ndarray], pd.DataFrame]:
        images = [image_files.decode(files[row], str(files[row]), size) for row in rows]
        return images, pd.DataFrame({"source": [files[row].relative_to(path).as_posix() for row in rows]})

    return Listing(np.array(labels, np.int64), tuple(p.name for p in classes), read)


def to_folder(
    images: ImageSet, folder: Path, about: Mapping[str, object], report: pd.DataFrame | None = None
) -> None:
    """Write a set as FOLDER/CLASS/NUMBER.png, for any image tool; `from_folder` reads it.

    Beside the classes lie manifest.csv (file, class, and the set's own columns), report.csv where there is a report,
    and about.json. Either all of it is written, or nothing; a folder that this wrote before is replaced. A class
    without images has no folder.

    Args:
        about: what the set was made from, as JSON values; the class of each folder is added.

    Raises:
        FileExistsError: something else is in the folder.
        ValueError: class names that no folders can tell apart, or values that JSON has not.
    """
    names = folder_names(images.classes)
    refuse_other_files(folder)
    own = images.manifest.drop(columns=["file", "class"], errors="ignore")
    own.insert(0, "class", [images.classes[label] for label in images.labels])
    files = (
        (label, image_files.encode_png(image), ".png")
        for image, label in zip(images.images, images.labels, strict=True)
    )
    with atomic(folder) as temporary:
        temporary.mkdir()
        paths = write_files(temporary, names, files)
        folders = dict(zip(names, images.classes, strict=True))
        write_notes(temporary, paths, own, report, {**about, "class of each folder": folders})


def refuse_other_files(folder: Path) -> None:
    """Raise FileExistsError where something else is at a place than a folder that `write_notes` has finished."""
    if folder.exists() and not (folder / ABOUT).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} is there already, with other files; give another folder, or remove it")


def write_files(folder: Path, names: Sequence[str], files: Iterable[tuple[int, bytes, str]]) -> list[str]:
    """Write (label, bytes, suffix) as NAME/NUMBER.SUFFIX, numbered in each class from 0; return the paths, in order."""
    numbers, paths = Counter(), []
    for label, data, suffix in files:
        path = Path(names[label]) / f"{numbers[label]:06d}{suffix}"
        numbers[label] += 1
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_bytes(data)
        paths.append(path.as_posix())
    return paths


def write_notes(
    folder: Path, paths: Sequence[str], manifest: pd.DataFrame, report: pd.DataFrame | None, about: Mapping
) -> None:
    """Write manifest.csv, a row per file in their order by name, report.csv where there is a report, and about.json."""
    manifest = manifest.copy()
    manifest.insert(0, "file", paths)
    manifest.sort_values("file").to_csv(folder / "manifest.csv", index=False)
    if report is not None:
        report.to_csv(folder / "report.csv", index=False)
    write_json(folder / ABOUT, about)


def folder_names(classes: Sequence[str]) -> list[str]:
    """Return for each class the name of a folder, one that any file system takes and tells from the others.

    Example:
        folder_names(["F-16A/B", "cat", "Cat"]) gives ["F-16A-B", "1 cat", "2 Cat"]: the number is the label, where
        names differ in case only, or are no names of folders.

    Raises:
        ValueError: with their numbers, too, some would be one.
    """
    safe = [re.sub(r'[<>:"/\\|?*\x00-\x1f]', "-", name).strip(" .")[:100] for name in classes]

    def alike(names: Sequence[str]) -> list[str]:
        return [unicodedata.normalize("NFC", name).casefold() for name in names]

    times = Counter(alike(safe))
    numbered = [not name or times[one] > 1 for name, one in zip(safe, alike(safe), strict=True)]
    names = [f"{y} {name}".strip() if numbered[y] else name for y, name in enumerate(safe)]
    if len(set(alike(names))) < len(names):
        raise ValueError(f"the classes {list(classes)} cannot be folders of their own; give names that differ")
    return names


def pick_split(splits: dict[str, T], split: str, path: Path) -> T:
    """Return the entry of `splits` that is meant by `split`, in any of its spellings.

    Raises:
        FileNotFoundError: there is none, or more than one.
    """
    meant = [name for name in splits if name == split]
    meant = meant or [name for name in splits if spelling(split) and spelling(name) == spelling(split)]
    if len(meant) != 1:
        raise FileNotFoundError(
            f"{path}: the split {split!r} fits none, or more than one, of those here: {', '.join(splits)}"
        )
    return splits[meant[0]]


def spelling(name: str) -> str | None:
    """Return the standard name of a split, or None for what is no split's name."""
    return next((split for split, spellings in SPLIT_NAMES.items() if name.lower() in spellings), None)


def _folders(path: Path) -> list[Path]:
    return sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))


def _refuse_unreadable(root: Path, classes: list[Path]) -> None:
    """Raise ValueError where leaving files out would quietly change the set."""
    files = [file for folder in classes for file in folder.iterdir() if file.is_file()]
    files = [file for file in files if not file.name.startswith(".") and file.suffix.lower() not in BESIDE]
    if unreadable := [file for file in files if file.suffix.lower() not in image_files.SUFFIXES]:
        counts = Counter(file.suffix.lower() for file in unreadable)
        kinds = ", ".join(f"{count} × {suffix}" for suffix, count in sorted(counts.items()))
        raise ValueError(
            f"{root}: {len(unreadable)} of {len(files)} files are of kinds that cannot be opened here ({kinds}), "
            f"for instance {unreadable[0]}; convert them or move them away (readable: "
            f"{', '.join(sorted(image_files.SUFFIXES))})"
        )


def _images(path: Path) -> list[Path]:
    return sorted(
        p
        for p in path.iterdir()
        if p.suffix.lower() in image_files.SUFFIXES and not p.name.startswith(".") and not p.is_dir()
    )
