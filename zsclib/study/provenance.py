"""Where a result comes from: hashes of what determines it, the machine in general words, neutral paths."""

from __future__ import annotations

import ast
import hashlib
import io
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import tokenize
from collections.abc import Iterable
from functools import cache, lru_cache
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]  # the clone: notebooks/, data/, results/ and zsclib/ lie here
SOFTWARE = ("torch", "diffusers", "transformers", "numpy", "scipy")
# Changing how results are shown or started changes no result.
NOT_RESULTS = ("zsclib/cli.py", "zsclib/__main__.py", "zsclib/study/book.py")


def digest(*parts: bytes | str) -> str:
    """Return the SHA-256 (hex) of the parts, each with its length before it."""
    sha = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        sha.update(len(data).to_bytes(8, "little") + data)
    return sha.hexdigest()


def hash_file(path: Path | str) -> str:
    """Return the SHA-256 (hex) of a file's content, remembered while its size and time stay the same."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"hash_file: no such file: {path}")
    info = path.stat()
    return _hash_file(path, info.st_size, info.st_mtime_ns)


@lru_cache(maxsize=4096)
def _hash_file(path: Path, size: int, mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def code_text(source: str) -> str:
    """Return Python source without comments, docstrings and blank lines: what it does, not what it says."""
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            lines[token.start[0] - 1] = lines[token.start[0] - 1][: token.start[1]]
    verbatim, dropped = set(), set()  # rows inside other strings: there, blanks are content
    for node in ast.walk(ast.parse(source)):
        rows = range(getattr(node, "lineno", 1) - 1, getattr(node, "end_lineno", 0))
        if isinstance(node, ast.Constant | ast.JoinedStr) and len(rows) > 1:
            verbatim.update(rows)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            dropped.update(_docstring_rows(node, lines))
    code = [row for row, line in enumerate(lines) if row in verbatim or line.strip()]
    return "\n".join(
        lines[row] if row in verbatim else lines[row].rstrip() for row in code if row not in dropped
    )


def _docstring_rows(node: ast.AST, lines: list[str]) -> range:
    if not node.body or ast.get_docstring(node, clean=False) is None:
        return range(0)
    text = node.body[0]
    before = lines[text.lineno - 1].encode()[: text.col_offset]
    after = lines[text.end_lineno - 1].encode()[text.end_col_offset :]
    # A docstring that shares a line with code stays.
    return range(0) if before.strip() or after.strip() else range(text.lineno - 1, text.end_lineno)


def hash_code(path: Path | str) -> str:
    """Return the SHA-256 (hex) of a Python file's code; comments and docstrings do not count."""
    source = Path(path).read_text(encoding="utf-8")
    try:
        return digest(code_text(source))
    except (SyntaxError, tokenize.TokenError):  # a file that cannot be imported: no hash to preserve
        return digest(source)


def hash_library(root: Path = ROOT, package: Path = ROOT / "zsclib") -> str:
    """Return the SHA-256 (hex) of what a result may depend on besides its notebook and parameters.

    That is the code of `zsclib`, the prompts, claims, published numbers and records, and the shipped models (weights,
    configurations, vocabularies; not their cards).

    Args:
        root: the clone whose `data/` is meant.
        package: the library; default: the one that is imported.
    """
    parts = []
    for path in sorted(package.rglob("*.py")):
        name = path.relative_to(package.parent).as_posix()
        if name not in NOT_RESULTS:
            parts += [name, hash_code(path)]
    for folder in ("prompts", "claims", "models", "published", "records"):
        for path in sorted((root / "data" / folder).rglob("*")):
            told = path.suffix in {".md", ".png"} or path.name.startswith(".")
            if path.is_file() and not told:
                parts += [path.relative_to(root).as_posix(), hash_file(path)]
    return digest(*parts)


def hash_json(value: object) -> str:
    """Return the SHA-256 (hex) of a JSON-like value; the order of keys does not count, 1 and 1.0 differ."""
    return digest(json.dumps(value, sort_keys=True, allow_nan=False))


def write_json(path: Path, value: object) -> None:
    """Write JSON to a temporary name and rename it, so that a reader never meets half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


@cache
def hardware() -> dict[str, object]:
    """Return the usable CPUs, the CPU model and the GPU model (None without one): no host name, no path."""
    return {"cpus": cpu_count(), "cpu": _cpu_model(), "gpu": _gpu_model()}


def cpu_count() -> int:
    """Return the number of CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.M) if info.is_file() else None
    name = found.group(1) if found else _output_of("sysctl", "-n", "machdep.cpu.brand_string")
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
