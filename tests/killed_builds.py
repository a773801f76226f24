"""Kill whole builds of the book at random moments, and see whether the next one ends as an undisturbed one does.

    python tests/killed_builds.py FOLDER [--builds 5] [--kills 6] [--profile ci] [--seed 0]

FOLDER is a clone that was set up (`make setup`) and is nobody else's: its results and pages are removed. One build runs
to its end, and what it prints as it begins a notebook, a cell or the rendering is its timeline. The length it took is
cut into as many strata as there are kills, and in each of the further builds one moment is drawn from every stratum. A
moment is so many seconds after something was printed, so that a build which begins again is struck at the same place.
Each kill is a SIGKILL to the whole process group of `make book`. What must hold after the last `make book` of each: it
succeeds, every record equals the undisturbed one to the last digit, and no half-written file, process or held lock is
left.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import numpy as np
import psutil

GENERATED = ("results", "_build", "book/notebooks", "book/generated")
RENDERING = "Rendering the book"  # what a build prints before it does
BEGINS = re.compile(r"\w+ \(\w+\): (?!up to date|done)")  # a notebook
CELL = re.compile(r"\[ *\d+/\d+\] ")


class Build:
    """A command that ran in a folder, or was killed there.

    Args:
        folder: the clone.
        command: such as make book PROFILE=ci.
        kill_after: seconds; None: let it run to its end.
        since: the clock starts when all of these were printed, in this order; none: at once.
    """

    def __init__(
        self, folder: Path, command: list[str], kill_after: float | None = None, since: Sequence[str] = ()
    ) -> None:
        self.began, self.lines, deadline = time.monotonic(), [], None
        process = subprocess.Popen(
            command, cwd=folder, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        )  # fmt: skip
        reader = threading.Thread(target=self._read, args=[process.stdout], daemon=True)
        reader.start()
        while (status := process.poll()) is None:
            time.sleep(0.02)
            if kill_after is None:
                continue
            if deadline is None and self._printed(since):
                deadline = time.monotonic() + kill_after
            if deadline is not None and time.monotonic() > deadline:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                break
        self.status = status  # None: killed
        self.seconds = time.monotonic() - self.began
        reader.join(5)

    @property
    def last(self) -> str:
        return self.lines[-1][1] if self.lines else ""

    def place(self, moment: float) -> tuple[float, tuple[str, ...]]:
        """Return a moment as seconds since the timeline's last line before it, and that line with its notebook's."""
        notebook, line, at = "", "", 0.0
        for seconds, text in self.lines:
            if seconds > moment:
                break
            if BEGINS.match(text):
                notebook, line, at = text.split(":")[0] + ":", "", seconds
            elif CELL.match(text) or RENDERING in text:
                line, at = text, seconds
        return moment - at, tuple(filter(None, (notebook, line)))

    def _printed(self, since: Sequence[str]) -> bool:
        texts = iter([text for _, text in self.lines])
        return all(any(each in text for text in texts) for each in since)

    def _read(self, stream: TextIO) -> None:
        for line in stream:
            if line.strip():
                self.lines.append((time.monotonic() - self.began, line.strip()))


def records(folder: Path, profile: str) -> dict[str, dict]:
    """Return the numbers of every page."""
    paths = sorted((folder / "results" / profile).glob("*/record.json"))
    return {path.parent.name: json.loads(path.read_text(encoding="utf-8")) for path in paths}


def unfinished(folder: Path) -> list[str]:
    """Return files and folders that a writer did not come to rename or remove."""
    pattern = re.compile(r"^\.running\.|^\..*\.[0-9a-f]{32}(\.|$)|\.damaged$")
    places = [folder / name for name in ("results", "_build", "book", "data")]
    return [str(p.relative_to(folder)) for place in places for p in place.rglob("*") if pattern.search(p.name)]


def held_locks(folder: Path) -> list[str]:
    """Return the lock files of which a process still has the lock."""
    held = []
    for path in (folder / "results").rglob("*.lock"):
        with open(path, encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                held.append(str(path.relative_to(folder)))
    return held


def orphans(folder: Path, patience: float = 20) -> list[str]:
    """Return the processes that work in the folder and are not this one, after some seconds to end by themselves."""
    deadline = time.monotonic() + patience
    while processes := [process for process in psutil.process_iter() if _works_in(process, folder)]:
        if time.monotonic() > deadline:
            return [f"{process.pid} {' '.join(process.cmdline())[:120]}" for process in processes]
        time.sleep(0.5)
    return []


def _works_in(process: psutil.Process, folder: Path) -> bool:
    try:
        return process.pid != os.getpid() and Path(process.cwd()).is_relative_to(folder)
    except (psutil.Error, OSError):
        return False


def clear(folder: Path) -> None:
    """Remove everything that builds have made."""
    for name in GENERATED:
        shutil.rmtree(folder / name, ignore_errors=True)


def faults(folder: Path, profile: str, expected: dict[str, dict]) -> list[str]:
    """Return what is not as after an undisturbed build."""
    faulty = [f"half-written: {name}" for name in unfinished(folder)]
    faulty += [f"locked: {name}" for name in held_locks(folder)]
    faulty += [f"still running: {name}" for name in orphans(folder)]
    for name, numbers in records(folder, profile).items():
        other = expected.get(name, {})
        differing = [key for key in {*numbers, *other} if numbers.get(key) != other.get(key)]
        faulty += [f"{name}: {key} differs" for key in sorted(differing)]
    missing = expected.keys() - records(folder, profile).keys()
    return faulty + [f"no record of {name}" for name in sorted(missing)]


def main() -> None:
    """Do what the head of this file says, and print a line per build."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--builds", type=int, default=5)
    parser.add_argument("--kills", type=int, default=6)
    parser.add_argument("--profile", default="ci")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    folder, profile = options.folder.resolve(), options.profile
    command = ["make", "book", f"PROFILE={profile}"]
    clear(folder)
    whole = Build(folder, command)
    if whole.status:
        sys.exit(f"the undisturbed build failed: {whole.last}")
    expected = records(folder, profile)
    print(f"undisturbed: {whole.seconds:.0f} s, {sum(map(len, expected.values()))} values", flush=True)
    rng, bad = np.random.default_rng(options.seed), 0
    for number in range(options.builds):
        clear(folder)
        moments = (np.arange(options.kills) + rng.random(options.kills)) * whole.seconds / options.kills
        for moment in moments:
            seconds, since = whole.place(float(moment))
            build = Build(folder, command, seconds, since)
            end = "killed in" if build.status is None else f"had ended ({build.status}):"
            print(f"  {moment:.0f} s, {seconds:.0f} s after {' '.join(since)[:70]!r}: {end} {build.last[:60]!r}")
        last = Build(folder, command)
        faulty = faults(folder, profile, expected) + [f"exit {last.status}: {last.last}"] * bool(last.status)
        bad += bool(faulty)
        print(f"build {number}, then {last.seconds:.0f} s: {'; '.join(faulty) or 'as undisturbed'}", flush=True)
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
