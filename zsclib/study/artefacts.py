"""Expensive results on disk, under a key of all that determines them: a killed run goes on where it was.

One safetensors file per artefact holds the arrays, what they are about, and a checksum of both, so a file is
either whole and true or set aside and made again.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from types import FunctionType, ModuleType

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from zsclib.study.provenance import ROOT, digest, hash_code, hash_file


class Artefacts:
    """A folder of artefacts; several processes may use it at once."""

    def __init__(self, folder: Path | str | None = None, code: ModuleType | None = None) -> None:
        """Open the folder, made on the first `put`.

        Args:
            folder: default: `artefacts/` of the current run; outside a run (plain papermill, Jupyter)
                `results/interactive/artefacts` of the clone, shared by all notebooks.
            code: a module that makes the results: when its code, or that of a `zsclib` module it imports,
                changes, what was kept before is no longer found.
        """
        run = os.environ.get("ZSC_RUN_DIR")
        self.folder = Path(folder or (Path(run) if run else ROOT / "results" / "interactive") / "artefacts")
        self._code = f"-{digest(_canonical(code, 'code'))[:8]}" if code else ""
        self._made: set[str] = set()
        self._missed_at: dict[str, float] = {}
        self._last_put = 0.0

    @staticmethod
    def key(**parts: object) -> str:
        """Return the hash (32 hex digits) of everything that determines a result.

        Args:
            parts: numbers, strings, None, lists, tuples, dicts, NumPy arrays, torch tensors, dataclasses; a
                `Path` stands for the content of that file or folder; a module, class or function for the
                code of its module and of all `zsclib` modules that one imports (comments do not count).

        Raises:
            TypeError: a part is of another type, so its hash would not be stable; the message names it.
        """
        if not parts:
            raise ValueError("Artefacts.key: name at least one thing that determines the result")
        return digest(_canonical(parts, "key"))[:32]

    def get(self, key: str) -> dict[str, np.ndarray] | None:
        """Return the arrays kept under the key, or None; a damaged file is reported, set aside, and None."""
        found = self._read(key)
        if found is None:
            self._missed_at[key] = time.monotonic()
            return None
        arrays, about = found
        if key not in self._made:
            self._note_reuse(key, about)
        return arrays

    def put(
        self, key: str, arrays: Mapping[str, np.ndarray], about: Mapping[str, object] | None = None
    ) -> None:
        """Keep arrays under a key, all or nothing.

        Args:
            key: from `key`, or any short text that names the result in full.
            arrays: name → numeric or boolean array.
            about: what a person may want to know (JSON values); the seconds it took are added, counted from
                the `get` that found nothing or from the last `put`, whichever was later.
        """
        arrays = {name: _storable(array, f"{key}: {name}") for name, array in arrays.items()}
        seconds = {}
        if key in self._missed_at:
            started = max(self._missed_at.pop(key), self._last_put)
            seconds = {"seconds": round(time.monotonic() - started, 3)}
        text = json.dumps({**seconds, **(about or {})}, sort_keys=True, allow_nan=False)
        data = save(arrays, metadata={"about": text, "sha256": _checksum(arrays, text)})
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}.tmp")
        try:
            temporary.write_bytes(data)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        self._made.add(key)
        self._last_put = time.monotonic()

    def compute(
        self,
        parts: Mapping[str, object],
        function: Callable[[], Mapping[str, np.ndarray]],
        about: Mapping[str, object] | None = None,
    ) -> dict[str, np.ndarray]:
        """Return the arrays kept under `key(**parts)`; if there are none, call the function and keep its."""
        key = self.key(**parts)
        if (arrays := self.get(key)) is None:
            self.put(key, function(), about)
            arrays = self._read(key)[0]
        return arrays

    def about(self, key: str) -> dict[str, object] | None:
        """Return what was said about an artefact, or None if there is none."""
        found = self._read(key)
        return found[1] if found else None

    def _path(self, key: str) -> Path:
        if not key:
            raise ValueError("Artefacts: the key is empty")
        if re.fullmatch(r"[\w.-]{1,80}", key) and not key.startswith("."):
            return self.folder / f"{key}{self._code}.safetensors"
        return self.folder / f"{digest(key)[:32]}{self._code}.safetensors"

    def _read(self, key: str) -> tuple[dict[str, np.ndarray], dict[str, object]] | None:
        path = self._path(key)
        try:
            with safe_open(path, framework="numpy") as file:
                kept = file.metadata() or {}
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError, ValueError) as error:
            return self._set_aside(path, str(error))
        if "about" not in kept or kept.get("sha256") != _checksum(arrays, kept["about"]):
            return self._set_aside(path, "its checksum does not fit its content")
        return arrays, json.loads(kept["about"])

    def _set_aside(self, path: Path, why: str) -> None:
        aside = path.with_suffix(".damaged")
        try:
            path.replace(aside)
        except FileNotFoundError:  # another process was faster
            return
        # Not a warning: on stderr it would mark a page as faulty although the result is made again.
        print(f"artefact {path.name} is damaged ({why}); set aside as {aside.name} and made again")

    def _note_reuse(self, key: str, about: Mapping[str, object]) -> None:
        """Leave word for the runner, whose stamp says how much work of earlier runs a page rests on."""
        self._made.add(key)
        if log := os.environ.get("ZSC_REUSED"):
            with open(log, "a", encoding="utf-8") as file:
                file.write(f"{about.get('seconds', 0)}\n")


def _storable(array: object, name: str) -> np.ndarray:
    array = np.asarray(array)
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise TypeError(
            f"artefact {name} is of type {array.dtype}; keep numbers and booleans, text in `about`"
        )
    # safetensors keeps the bytes as they lie in memory.
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("=")).reshape(array.shape)


def _checksum(arrays: Mapping[str, np.ndarray], about: str) -> str:
    return digest(about, *(_canonical(arrays[name], name) + name for name in sorted(arrays)))


def _canonical(value: object, name: str) -> str:
    """Return a text that is the same exactly where the value is the same, whatever machine or process."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return f"{type(value).__name__}:{value!r}"
    if isinstance(value, np.ndarray):
        value = _storable(value, name)
        return f"array:{value.dtype.str}{value.shape}:{digest(value.tobytes())}"
    if type(value).__module__ == "torch" and hasattr(value, "detach"):
        return _canonical(value.detach().cpu().numpy(), name)
    if isinstance(value, Mapping):
        items = sorted((_canonical(k, name), _canonical(v, f"{name}.{k}")) for k, v in value.items())
        return f"dict:{items!r}"
    if isinstance(value, list | tuple):  # a tuple becomes a list on its way through JSON or YAML
        return f"list:{[_canonical(item, f'{name}[{i}]') for i, item in enumerate(value)]!r}"
    if is_dataclass(value) and not isinstance(value, type):
        parts = {field.name: getattr(value, field.name) for field in fields(value)}
        return f"{type(value).__qualname__}:{_canonical(parts, name)}"
    if isinstance(value, Path):
        return f"path:{_hash_path(value)}"
    if isinstance(value, ModuleType):
        return f"code:{_hash_imports(value.__name__)}"
    if isinstance(value, FunctionType | type):
        return f"code:{value.__qualname__}:{_hash_imports(value.__module__)}"
    raise TypeError(
        f"Artefacts.key: {name} is a {type(value).__name__}, which has no stable hash; "
        "give numbers, strings, arrays, lists, dicts, dataclasses, paths, modules or functions"
    )


def _hash_path(path: Path) -> str:
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith("."))
        return digest(*(part for p in files for part in (p.relative_to(path).as_posix(), hash_file(p))))
    return hash_file(path)


def _hash_imports(name: str) -> str:
    """Return the hash of a module's code and of all `zsclib` code it imports, directly or not."""
    found: dict[str, str] = {}
    waiting = [name]
    while waiting:
        module = waiting.pop()
        if module not in found:
            found[module], more = _code_and_imports(module)
            waiting += more
    return digest(*(part for module in sorted(found) for part in (module, found[module])))


@cache
def _code_and_imports(module: str) -> tuple[str, tuple[str, ...]]:
    spec = None if module == "__main__" else importlib.util.find_spec(module)
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        raise TypeError(f"Artefacts.key: the code of {module} is in no Python file; move it into zsclib")
    imported = set()
    for node in ast.walk(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            imported.add(node.module)
            imported.update(f"{node.module}.{alias.name}" for alias in node.names)
    modules = sorted(n for n in imported if n.startswith("zsclib.") and _is_module(n))
    return hash_code(spec.origin), tuple(modules)


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False
