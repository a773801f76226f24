"""Where the clone lies, and how files are written: whole, or not at all."""

from __future__ import annotations

import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]  # the clone: notebooks/, data/, results/ and zsclib/ lie here
DATA = ROOT / "data"
WHERE_PHOTOGRAPHS_ARE = "ZSC_PHOTOGRAPHS"  # an environment variable


def run_folder() -> Path:
    """Return the folder of the current run; outside a run (plain papermill, Jupyter) `results/interactive`."""
    run = os.environ.get("ZSC_RUN_DIR")
    return Path(run) if run else ROOT / "results" / "interactive"


def photographs(part: str) -> Path:
    """Return where a part of the real photographs lies, which do not ship: in the folder that `ZSC_PHOTOGRAPHS` names.

    Args:
        part: a path in the folder that `python -m zsclib.pocket photographs` writes, such as "sets/rsscn7".

    Raises:
        FileNotFoundError: no folder is named, or it has no such part.
    """
    folder = os.environ.get(WHERE_PHOTOGRAPHS_ARE, "")
    path = Path(folder).expanduser() / part
    if not folder or not path.exists():
        where = f"{path} is not there" if folder else "where they are is not said"
        raise FileNotFoundError(
            f"photographs, {part}: they do not ship with this project, and {where}; data/photographs/README.md says "
            "how to make them from files of your own; give their folder by --photographs PATH, or as "
            f"{WHERE_PHOTOGRAPHS_ARE}"
        )
    return path


@contextmanager
def atomic(path: Path | str) -> Iterator[Path]:
    """Yield a temporary name beside `path`, to be made a file or a folder; rename it to `path` at the end.

    If the body fails, the temporary is removed and what lay at `path` stays. A folder at `path` is replaced.

    Example:
        with atomic(path) as temporary:
            temporary.write_bytes(data)
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays: NumPy, for one, would append the one it misses.
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex}{path.suffix}")
    try:
        yield temporary
        if temporary.is_dir() and path.is_dir():
            shutil.rmtree(path)
        temporary.replace(path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


def remove_unfinished(folder: Path) -> None:
    """Remove what killed processes left in a folder and below: the temporaries of `atomic`.

    For the holder of the folder's lock, or whoever knows that nobody writes there.
    """
    for path in [path for path in folder.rglob(".*") if re.search(r"\.[0-9a-f]{32}(\.|$)", path.name)]:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


@contextmanager
def locked(path: Path, wait: Callable[[str], object] | None = None) -> Iterator[None]:
    """Keep other processes out of the body; the system drops the lock with this process, however it ends.

    Args:
        path: the lock's file, which stays.
        wait: called with the number of the process that has the lock, before waiting for it; None: do not wait.

    Raises:
        BlockingIOError: another process has it and `wait` is None; its `filename` is that process's number.
    """
    import fcntl

    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            owner = file.read().strip() or "?"
            if wait is None:
                raise BlockingIOError(error.errno, error.strerror, owner) from None
            wait(owner)
            fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


@contextmanager
def alone(folder: Path, what: str) -> Iterator[None]:
    """Keep other processes out of a folder that the body writes to, and remove what killed ones left there.

    Args:
        what: is done, as in "embedding into it", for the error.

    Raises:
        RuntimeError: another process is at it.
    """
    try:
        with locked(folder / ".lock"):
            remove_unfinished(folder)
            yield
    except BlockingIOError as error:
        raise RuntimeError(f"{folder}: process {error.filename} is {what}; wait for it") from None


def write_json(path: Path | str, value: object) -> None:
    """Write JSON, whole or not at all; raise ValueError on NaN or infinity."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
