"""Captioned images in tar shards as WebDataset and img2dataset write them: read by offset, never unpacked."""

from __future__ import annotations

import json
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zsclib.hashing import digest
from zsclib.images.files import SUFFIXES
from zsclib.pools.folders import CAPTION
from zsclib.pools.tables import Shard, shard

END = bytes(tarfile.BLOCKSIZE)  # a block of zeros: an archive ends with two
COMPRESSED = {b"\x1f\x8b": "gunzip", b"BZ": "bunzip2", b"\xfd7": "unxz", b"(\xb5": "unzstd"}


@dataclass(frozen=True, eq=False)
class Archives:
    """Members of tar files: of each image the file, where its bytes begin, and how many they are: int64 (3, n)."""

    shards: tuple[Shard, ...]
    places: np.ndarray

    def open(self, rows: np.ndarray) -> list[bytes]:
        """Return the bytes of some images."""
        images: list[bytes] = [b""] * len(rows)
        for number in np.unique(self.places[0, rows]):
            self.shards[number].check()
            own = np.flatnonzero(self.places[0, rows] == number)
            with self.shards[number].path.open("rb") as file:
                for i in own[np.argsort(self.places[1, rows[own]])]:
                    images[i] = _at(file, *self.places[1:, rows[i]])
        return images

    def take(self, rows: np.ndarray) -> Archives:
        """Return some of the images."""
        return Archives(self.shards, self.places[:, rows])

    def content(self, modified: bool = False) -> str:
        """Return a hash of the images' places, and of when the files were last written if that is to count."""
        used = np.unique(self.places[0])
        written = [self.shards[i].modified for i in used] if modified else []
        return digest(
            repr(written), np.searchsorted(used, self.places[0]).tobytes(), self.places[1:].tobytes()
        )


def from_archives(path: Path) -> tuple[list[str], list[str], Archives]:
    """List a tar file, or the .tar files of a folder: ids (SHARD/MEMBER), captions, source.

    Members of one key, the path up to the first dot of its last part, belong together: an image, and its caption in
    KEY.txt or in KEY.json under "caption" or "text". Other members are left out, keys without an image too.

    Raises:
        ValueError: no tar file, a compressed, damaged or cut one, a member that is a link or a device, a name twice,
            two images of one key, an image without a caption, or a caption that cannot be read.
    """
    files = [path] if path.is_file() else sorted(path.glob("*.tar"))
    files = [file for file in files if not file.name.startswith(".")]
    if not files:
        raise ValueError(f"{path}: no .tar files in this folder")
    ids, captions, places, lacking = [], [], [], []
    for number, file in enumerate(files):
        images, texts = _keys(file, _members(file))
        with file.open("rb") as opened:
            for key, (name, place) in images.items():
                ids.append(f"{file.name}/{name}")
                places.append((number, *place))
                if key in texts:
                    captions.append(_caption(f"{file}: {texts[key][0]}", _at(opened, *texts[key][1])))
                else:
                    lacking.append(ids[-1])
    if lacking:
        raise ValueError(
            f"{path}: {len(ids)} images and {len(ids) - len(lacking)} captions; {lacking[0]} has none; pack KEY.txt, "
            "or KEY.json with a caption, beside each"
        )
    if not ids:
        raise ValueError(f"{path}: no images in the tar files (readable: {', '.join(sorted(SUFFIXES))})")
    return ids, captions, Archives(tuple(map(shard, files)), np.array(places, np.int64).T)


def _members(path: Path) -> dict[str, tuple[int, int]]:
    """Return name → (first byte, number of bytes) of the files in an archive, which must be whole."""
    members: dict[str, tuple[int, int]] = {}
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if member.isdir():
                    continue
                if not member.isreg() or member.issparse():
                    what = (
                        f"a link to {member.linkname!r}"
                        if member.issym() or member.islnk()
                        else "no plain file"
                    )
                    raise ValueError(
                        f"{path}: {member.name!r} is {what}; pack the shard again with files alone"
                    )
                name = member.name.removeprefix("./")
                if name in members:
                    raise ValueError(f"{path}: {name!r} is in it twice; give every sample a key of its own")
                members[name] = member.offset_data, member.size
            end = archive.offset
    except (tarfile.TarError, EOFError) as error:
        with path.open("rb") as file:
            tool = COMPRESSED.get(file.read(2))
        if tool:
            raise ValueError(
                f"{path} is compressed, its members cannot be read by offset; {tool} it first"
            ) from error
        raise ValueError(f"{path}: cut short or damaged ({error}); copy it again") from error
    with path.open("rb") as file:  # at a damaged header, reading stops without a word
        if _at(file, end, len(END)) != END:
            raise ValueError(f"{path}: cut short or damaged after {len(members)} members; copy it again")
    return members


def _keys(path: Path, members: dict[str, tuple[int, int]]) -> tuple[dict, dict]:
    """Return key → (name, place) of images, and of texts."""
    images: dict[str, tuple] = {}
    texts: dict[str, tuple] = {}
    for name, place in members.items():
        folder, slash, last = name.rpartition("/")
        stem, _, kind = last.partition(".")
        key, kind = folder + slash + stem, f".{kind.lower()}"
        if kind in SUFFIXES:
            if key in images:
                raise ValueError(
                    f"{path}: two images of one key, {images[key][0]!r} and {name!r}; give each its own"
                )
            images[key] = name, place
        elif kind == ".txt" or (kind == ".json" and key not in texts):
            texts[key] = name, place
    return images, texts


def _caption(where: str, data: bytes) -> str:
    try:
        text = data.decode()
        if not where.endswith(".json"):
            return text.strip()
        facts = json.loads(text)
        return next(facts[name] for name in CAPTION if isinstance(facts.get(name), str))
    except (ValueError, AttributeError, StopIteration) as error:
        reason = f"none of {', '.join(CAPTION)} in it" if isinstance(error, StopIteration) else error
        raise ValueError(f"{where}: no readable caption ({reason})") from error


def _at(file, start: int, length: int) -> bytes:
    file.seek(start)
    return file.read(length)
