"""Expensive results on disk, under a key of all that determines them: a killed run goes on where it was.

One safetensors file per result holds the arrays, what they are about, and a checksum of both, so a file is either whole
and true, or set aside and made again.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from zsclib.hashing import canonical, digest, key, storable
from zsclib.paths import atomic, run_folder

Remember = Callable[[str, str, Callable[[], Mapping]], dict]  # set, what is chosen on it, how → what was chosen


def at_once(name: str, what: str, choose: Callable[[], Mapping]) -> dict:
    """Return what is chosen, and keep nothing: the `Remember` of runs that are no study."""
    return dict(choose())


class Cache:
    """A folder of finished results; several processes may use it at once."""

    def __init__(self, folder: Path | str | None = None, code: ModuleType | None = None) -> None:
        """Open the folder, made on the first `put`.

        Args:
            folder: default: `artefacts/` of the current run; outside a run (plain papermill, Jupyter)
                `results/interactive/artefacts` of the clone, shared by all notebooks.
            code: a module that makes the results: when its code, or that of a `zsclib` module it imports,
                changes, what other code made is not returned.
        """
        self.folder = Path(folder or run_folder() / "artefacts")
        self._code = f"-{digest(canonical(code, 'code'))[:8]}" if code else ""
        self._made: set[str] = set()
        self._missed_at: dict[str, float] = {}
        self._last_put = 0.0

    def __contains__(self, key: str) -> bool:
        """Say whether there is a file for the key; that it is whole shows when it is read."""
        if self._path(key).is_file():
            return True
        self._missed_at[key] = time.monotonic()
        return False

    def get(self, key: str) -> dict[str, np.ndarray] | None:
        """Return the arrays under the key, or None; a damaged file is reported, set aside, and None."""
        content = self._read(key)
        if content is None:
            self._missed_at[key] = time.monotonic()
            return None
        arrays, about = content
        if key not in self._made:
            self._note_reuse(key, about)
        return arrays

    def put(
        self, key: str, arrays: Mapping[str, np.ndarray], about: Mapping[str, object] | None = None
    ) -> None:
        """Write arrays under a key, all or nothing.

        Args:
            key: from `key`, or any short text that names the result in full.
            arrays: name → numeric or boolean array.
            about: what a person may want to know (JSON values); the seconds it took are added, counted from
                the `get` that missed it or from the last `put`, whichever was later.
        """
        arrays = {name: storable(array, f"{key}: {name}") for name, array in arrays.items()}
        seconds = {}
        if key in self._missed_at:
            started = max(self._missed_at.pop(key), self._last_put)
            seconds = {"seconds": round(time.monotonic() - started, 3)}
        text = json.dumps({**seconds, **(about or {})}, sort_keys=True, allow_nan=False)
        data = save(arrays, metadata={"about": text, "sha256": _checksum(arrays, text)})
        path = self._path(key)
        with atomic(path) as temporary:
            temporary.write_bytes(data)
        self._made.add(key)
        self._last_put = time.monotonic()

    def compute(
        self,
        parts: Mapping[str, object],
        function: Callable[[], Mapping[str, np.ndarray]],
        about: Mapping[str, object] | None = None,
    ) -> dict[str, np.ndarray]:
        """Return the arrays under `key(**parts)`; if there are none, those of the function, which are put there."""
        name = key(**parts)
        if (arrays := self.get(name)) is None:
            self.put(name, function(), about)
            arrays = self._read(name)[0]
        return arrays

    def about(self, key: str) -> dict[str, object] | None:
        """Return what `put` noted about a result, or None if there is none."""
        content = self._read(key)
        return content[1] if content else None

    def beside(self, key: str, suffix: str) -> Path:
        """Return a path beside the file of a key, for what leads up to its result (a state to go on from)."""
        return self._path(key).with_suffix(suffix)

    def _path(self, key: str) -> Path:
        if not key:
            raise ValueError("Cache: the key is empty")
        if re.fullmatch(r"[\w.-]{1,80}", key) and not key.startswith("."):
            return self.folder / f"{key}{self._code}.safetensors"
        return self.folder / f"{digest(key)[:32]}{self._code}.safetensors"

    def _read(self, key: str) -> tuple[dict[str, np.ndarray], dict[str, object]] | None:
        path = self._path(key)
        try:
            with safe_open(path, framework="numpy") as file:
                metadata = file.metadata() or {}
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError, ValueError) as error:
            return self._set_aside(path, str(error))
        if "about" not in metadata or metadata.get("sha256") != _checksum(arrays, metadata["about"]):
            return self._set_aside(path, "its checksum does not fit its content")
        return arrays, json.loads(metadata["about"])

    def _set_aside(self, path: Path, why: str) -> None:
        aside = path.with_suffix(".damaged")
        try:
            path.replace(aside)
        except FileNotFoundError:  # another process was faster
            return
        # Not a warning: on stderr it would mark a page as faulty although the result is made again.
        print(f"cached result {path.name} is damaged ({why}); set aside as {aside.name} and made again")

    def _note_reuse(self, key: str, about: Mapping[str, object]) -> None:
        """Leave word for the runner, whose stamp says how much work of earlier runs a page rests on."""
        self._made.add(key)
        if log := os.environ.get("ZSC_REUSED"):
            with open(log, "a", encoding="utf-8") as file:
                file.write(f"{about.get('seconds', 0)}\n")


def _checksum(arrays: Mapping[str, np.ndarray], about: str) -> str:
    return digest(about, *(canonical(arrays[name], name) + name for name in sorted(arrays)))
