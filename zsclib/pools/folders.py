"""Captioned images in a folder: with a table of captions, or with a text beside each."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from zsclib.hashing import digest
from zsclib.images.files import SUFFIXES
from zsclib.prompts import with_article
from zsclib.seeds import rng

FILE = ("file", "file_name", "filename", "image_path", "path", "image")
CAPTION = ("caption", "text", "TEXT")
SENTENCES = ("a photo of {}", "a picture of {}", "an image of {}", "{}")  # about a class, where nothing else is said
TEMPLATES = "templates.txt"  # in a folder of class folders: other sentences
TABLES = tuple(
    f"{stem}{suffix}"
    for stem in ("captions", "metadata")
    for suffix in (".csv", ".tsv", ".jsonl", ".parquet")
)


@dataclass(frozen=True)
class Files:
    """Image files of a folder, named by their paths in it."""

    root: Path
    names: tuple[str, ...]

    def open(self, rows: np.ndarray) -> list[bytes | None]:
        """Return the bytes of some files, None for one that is not there."""
        if not self.root.is_dir():
            raise FileNotFoundError(
                f"{self.root}: the pool's folder has vanished; put it back and run again: what is finished is used"
            )
        return [_bytes(self.root / self.names[row]) for row in rows]

    def take(self, rows: np.ndarray) -> Files:
        """Return some of the files."""
        return Files(self.root, tuple(self.names[row] for row in rows))

    def content(self, modified: bool = False) -> str:
        """Return a hash of the files' sizes, and of when they were last written if that is to count."""
        facts = np.full((len(self.names), 1 + modified), -1, np.int64)
        for row, name in enumerate(self.names):
            try:
                info = os.stat(self.root / name)
            except OSError:
                continue
            facts[row] = (info.st_size, info.st_mtime_ns)[: 1 + modified]
        return digest(facts.tobytes())


def from_folder(path: Path) -> tuple[list[str], list[str], Files]:
    """List a folder's images and their captions: paths in the folder, captions, source.

    Captions are in a table at its top (`TABLES`), with a column of files (`FILE`) and one of captions (`CAPTION`); or
    else in a text x.txt beside x.jpg. Images may lie in sub-folders; hidden files are left out.

    Raises:
        NotADirectoryError: it is no folder.
        ValueError: no images, an image without a caption, a caption of an image that is not there, a file named twice,
            two tables, a table that cannot be read, or a path or link that leads out of the folder.
    """
    if not path.is_dir():
        raise NotADirectoryError(f"{path} is no folder of images")
    images = _images(path)
    tables = [path / name for name in TABLES if (path / name).is_file()]
    if len(tables) > 1:
        raise ValueError(
            f"{path}: the tables {', '.join(table.name for table in tables)}; keep the one that is meant"
        )
    if tables:
        captions = _read_table(tables[0], path)
        if absent := [name for name in captions if not (path / name).is_file()]:
            raise ValueError(
                f"{tables[0]}: {len(absent)} of its {len(captions)} captions are of files that are not in the folder, "
                f"for instance {absent[0]!r}; add the images or drop the rows"
            )
        names, where = list(captions), tables[0].name
    else:
        names, where, captions = images, "a text of the same name", _read_texts(path, images)
    if lacking := sorted(set(images) - set(captions)):
        raise ValueError(
            f"{path}: {len(images)} images and {len(images) - len(lacking)} captions; {lacking[0]!r} has none in "
            f"{where}; add the captions or move the images away; of class folders without any, say classes:{path}"
        )
    if not names:
        raise ValueError(f"{path}: no images (readable: {', '.join(sorted(SUFFIXES))})")
    _refuse_ways_out(path, names)
    return names, [captions[name] for name in names], Files(path, tuple(names))


def from_class_folders(path: Path) -> tuple[list[str], list[str], Files]:
    """List the images of class folders, PATH/class/image.png, with a sentence about the class as each one's caption.

    The sentences are the lines of PATH/templates.txt, with {} for the class, or else `SENTENCES`. Which of them an
    image has depends on its path in the folder alone; "_" in a folder's name is a space.

    Raises:
        NotADirectoryError: it is no folder.
        ValueError: no images, images outside of class folders, one class alone, a line without {}, or a link that leads
            out of the folder.
    """
    if not path.is_dir():
        raise NotADirectoryError(f"{path} is no folder of class folders")
    names = _images(path)
    if outside := [name for name in names if "/" not in name]:
        raise ValueError(f"{path}: {outside[0]!r} lies in no class folder; move it into one, or away")
    things = [with_article(name.partition("/")[0].replace("_", " ")) for name in names]
    if len(set(things)) < 2:
        raise ValueError(f"{path}: {len(set(things))} class folders with images; captions of one class say nothing")
    _refuse_ways_out(path, names)
    sentences = _sentences(path / TEMPLATES)
    which = [rng(0, "sentence of a class", name).integers(len(sentences)) for name in names]
    captions = [sentences[i].replace("{}", thing) for i, thing in zip(which, things, strict=True)]
    return names, captions, Files(path, tuple(names))


def _sentences(path: Path) -> tuple[str, ...]:
    """Return the sentences of a file, one a line, or the usual ones where there is no such file."""
    if not path.is_file():
        return SENTENCES
    lines = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    if wrong := [line for line in lines if "{}" not in line]:
        raise ValueError(f"{path}: {wrong[0]!r} has no {{}}, where the class is named; write a sentence with it a line")
    if not lines:
        raise ValueError(f"{path}: no sentence; write one with {{}} a line, or remove the file")
    return lines


def column(names: Sequence[str], understood: Sequence[str], where: object) -> str:
    """Return the first of the understood column names that a table has."""
    for name in understood:
        if name in names:
            return name
    raise ValueError(
        f"{where}: none of the columns {', '.join(understood)} among {', '.join(names)}; rename the one meant"
    )


def _images(root: Path) -> list[str]:
    names = []
    for folder, inner, files in os.walk(root):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        names += [
            (Path(folder) / name).relative_to(root).as_posix()
            for name in files
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES
        ]
    return sorted(names)


def _read_table(table: Path, root: Path) -> dict[str, str]:
    """Return file → caption, in the table's order."""
    try:
        if table.suffix == ".jsonl":
            lines = table.read_text(encoding="utf-8").splitlines()
            frame = pd.DataFrame([json.loads(line) for line in lines if line.strip()], dtype=object)
        elif table.suffix == ".parquet":
            frame = pq.read_table(table).to_pandas()
        else:
            separator = "\t" if table.suffix == ".tsv" else ","
            frame = pd.read_csv(table, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8")
    except (ValueError, OSError, TypeError) as error:
        raise ValueError(f"{table}: not readable as a table of captions ({error})") from error
    columns = list(map(str, frame.columns))
    files = frame[column(columns, FILE, table)].tolist()
    captions = frame[column(columns, CAPTION, table)].tolist()
    for row, (name, caption) in enumerate(zip(files, captions, strict=True)):
        if not isinstance(name, str) or not isinstance(caption, str):
            raise ValueError(
                f"{table}, row {row}: a file and a caption must be text, got {name!r} and {caption!r}"
            )
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise ValueError(
                f"{table}, row {row}: {name!r} leads out of {root}; give paths inside the folder"
            )
    names = [PurePosixPath(name).as_posix() for name in files]
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(
            f"{table}: {len(repeated)} files are named more than once, for instance {repeated[0]!r}"
        )
    return dict(zip(names, captions, strict=True))


def _read_texts(root: Path, images: list[str]) -> dict[str, str]:
    """Return image → the text beside it, for images that have one."""
    captions, owner = {}, {}
    for name in images:
        text = (root / name).with_suffix(".txt")
        if not text.is_file():
            continue
        if text in owner:
            raise ValueError(
                f"{text} stands beside both {owner[text]!r} and {name!r}; rename one of the images"
            )
        owner[text] = name
        try:
            captions[name] = text.read_text(encoding="utf-8").strip()
        except UnicodeDecodeError as error:
            raise ValueError(f"{text}: not UTF-8 ({error}); save it again as UTF-8") from error
    return captions


def _refuse_ways_out(root: Path, names: list[str]) -> None:
    """Raise ValueError where an image, or a folder on the way to it, is a link that leads out of the root."""
    inside = root.resolve()
    for folder in sorted({(root / name).parent for name in names}):
        if not folder.resolve().is_relative_to(inside):
            raise ValueError(
                f"{folder}: a link to {folder.resolve()}, outside {root}; copy the images instead"
            )
    for name in names:
        if (root / name).is_symlink() and not (root / name).resolve().is_relative_to(inside):
            raise ValueError(
                f"{root / name}: a link to {(root / name).resolve()}, outside {root}; copy the image instead"
            )


def _bytes(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
