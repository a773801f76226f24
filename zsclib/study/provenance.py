"""Where a result comes from: hashes of what determines it, the machine in general words, neutral paths."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from functools import cache
from importlib import metadata
from pathlib import Path

from zsclib.hashing import digest, hash_code, hash_file
from zsclib.paths import ROOT

SOFTWARE = ("torch", "diffusers", "transformers", "numpy", "scipy")
DATA_OF_RESULTS = ("prompts", "claims", "models", "published", "records")  # folders of data/ that results depend on
# Changing how results are shown or started changes no result.
NOT_RESULTS = ("zsclib/cli.py", "zsclib/__main__.py", "zsclib/study/book.py")


def hash_library(root: Path = ROOT, package: Path = ROOT / "zsclib", code: str | None = None) -> str:
    """Return the SHA-256 (hex) of what a result may depend on besides its notebook and parameters.

    That is the code of `zsclib`, the prompts, claims, published numbers and records, and the shipped models (weights,
    configurations, vocabularies; not their cards). Outcomes of a long study come by the hundred and by and by, so they
    count only for a notebook that names the study.

    Args:
        root: the clone whose `data/` is meant.
        package: the library; default: the one that is imported.
        code: of the notebook; None: all studies count.
    """
    parts = []
    for path in sorted(package.rglob("*.py")):
        name = path.relative_to(package.parent).as_posix()
        if name not in NOT_RESULTS:
            parts += [name, hash_code(path)]
    for folder in DATA_OF_RESULTS:
        for path in sorted((root / "data" / folder).rglob("*")):
            for_readers = path.suffix in {".md", ".png"} or path.name.startswith(".")
            if path.is_file() and not for_readers and not _of_another(path.relative_to(root / "data"), code):
                parts += [path.relative_to(root).as_posix(), hash_file(path)]
    return digest(*parts)


def _of_another(path: Path, code: str | None) -> bool:
    """Say whether a file of data/ belongs to a study, records/study/NAME/…, that code does not name in quotes."""
    if code is None or path.parts[:2] != ("records", "study"):
        return False
    return f'"{path.parts[2]}"' not in code


@cache
def hardware() -> dict[str, object]:
    """Return the usable CPUs, the CPU model and the GPU model (None without one): no host name, no path."""
    return {"cpus": cpu_count(), "cpu": _cpu_model(), "gpu": _gpu_model()}


def cpu_count() -> int:
    """Return the number of CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    match = re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.M) if info.is_file() else None
    name = match.group(1) if match else _output_of("sysctl", "-n", "machdep.cpu.brand_string")
    return " ".join((name or platform.machine()).split())


def _gpu_model() -> str | None:
    # Asked of the driver, not of torch: importing torch only to learn a name would take seconds.
    names = _output_of("nvidia-smi", "--query-gpu=name", "--format=csv,noheader").splitlines()
    return f"{names[0]}{f' × {len(names)}' if len(names) > 1 else ''}" if names else None


def _output_of(*command: str) -> str:
    if not shutil.which(command[0]):
        return ""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    return done.stdout.strip() if done.returncode == 0 else ""


@cache
def software() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide results."""
    versions = {"python": platform.python_version()}
    for name in SOFTWARE:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


class Neutral:
    """Replaces this machine's paths in text: those in the clone become relative, others lose what is private.

    `/home/me/clone/data/x` → `data/x`, `/home/me/clone` → `.`, the Python prefix → `<python>`, a cell's
    temporary file → `<cell>`, other temporary files → `<tmp>/…`, the home folder → `~`.
    """

    def __init__(self, roots: Iterable[Path] = (ROOT,)) -> None:
        places: dict[str, str] = {}
        for folder, name in [
            (Path.home(), "~"),
            (tempfile.gettempdir(), "<tmp>"),
            (sys.prefix, "<python>"),
            (sys.base_prefix, "<python>"),
            *((root, ".") for root in roots),
        ]:
            places.update({str(Path(folder)): name, str(Path(folder).resolve()): name})
        for common in ("/", "/usr", "/usr/local"):  # not private, and part of much else
            places.pop(common, None)
        temporary = "|".join(re.escape(place) for place, name in places.items() if name == "<tmp>")
        self._cell = re.compile(rf"(?:{temporary})/ipykernel_\d+/\d+\.py")
        longest_first = "|".join(map(re.escape, sorted(places, key=len, reverse=True)))
        # Not inside a longer path or name; but right after a terminal colour code ("…[32m/home/me").
        self._place = re.compile(rf"(?:(?<![\w.~-])|(?<=\dm))({longest_first})(?![\w-]|\.\w)(/?)")
        self._names = places

    def __call__(self, value: object) -> object:
        """Return the value (a string, or lists and dicts of strings) with neutral paths."""
        if isinstance(value, str):
            return self._place.sub(self._replace, self._cell.sub("<cell>", value))
        if isinstance(value, dict):
            return {self(key): self(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self(item) for item in value]
        return value

    def _replace(self, match: re.Match) -> str:
        name, slash = self._names[match.group(1)], match.group(2)
        return ("" if slash else ".") if name == "." else name + slash
