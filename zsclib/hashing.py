"""What determines a result, as a hash: of values, of files, and of code without its comments."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import io
import json
import tokenize
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache, lru_cache
from pathlib import Path
from types import FunctionType, ModuleType

import numpy as np


def key(**parts: object) -> str:
    """Return the hash (32 hex digits) of everything that determines a result: the one way to make a key.

    Args:
        parts: numbers, strings, None, lists, tuples, dicts, NumPy arrays, torch tensors, dataclasses; a `Path` stands
            for the content of that file or folder; a module, class or function for the code of its module and of all
            `zsclib` modules that one imports (comments do not count).

    Raises:
        TypeError: a part is of another type, so its hash would not be stable; the message names it.
    """
    if not parts:
        raise ValueError("key: name at least one thing that determines the result")
    return digest(canonical(parts, "key"))[:32]


def digest(*parts: bytes | str) -> str:
    """Return the SHA-256 (hex) of the parts, each with its length before it."""
    sha = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        sha.update(len(data).to_bytes(8, "little") + data)
    return sha.hexdigest()


def hash_file(path: Path | str) -> str:
    """Return the SHA-256 (hex) of a file's content, remembered as long as its size and time are the same."""
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
    """Return Python source without comments, docstrings and blank lines: what it does, not what is said of it."""
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


def hash_json(value: object) -> str:
    """Return the SHA-256 (hex) of a JSON-like value; the order of keys does not count, 1 and 1.0 differ."""
    return digest(json.dumps(value, sort_keys=True, allow_nan=False))


def storable(array: object, name: str) -> np.ndarray:
    array = np.asarray(array)
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise TypeError(
            f"{name} is of type {array.dtype}; only numbers and booleans are stored, text in `about`"
        )
    # safetensors keeps the bytes as they lie in memory.
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("=")).reshape(array.shape)


def canonical(value: object, name: str) -> str:
    """Return a text that is the same exactly where the value is the same, whatever machine or process."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return f"{type(value).__name__}:{value!r}"
    if isinstance(value, np.ndarray):
        value = storable(value, name)
        return f"array:{value.dtype.str}{value.shape}:{digest(value.tobytes())}"
    if type(value).__module__ == "torch" and hasattr(value, "detach"):
        return canonical(value.detach().cpu().numpy(), name)
    if isinstance(value, Mapping):
        items = sorted((canonical(k, name), canonical(v, f"{name}.{k}")) for k, v in value.items())
        return f"dict:{items!r}"
    if isinstance(value, list | tuple):  # a tuple becomes a list on its way through JSON or YAML
        return f"list:{[canonical(item, f'{name}[{i}]') for i, item in enumerate(value)]!r}"
    if is_dataclass(value) and not isinstance(value, type):
        parts = {field.name: getattr(value, field.name) for field in fields(value)}
        return f"{type(value).__qualname__}:{canonical(parts, name)}"
    if isinstance(value, Path):
        return f"path:{_hash_path(value)}"
    if isinstance(value, ModuleType):
        return f"code:{_hash_imports(value.__name__)}"
    if isinstance(value, FunctionType | type):
        return f"code:{value.__qualname__}:{_hash_imports(value.__module__)}"
    raise TypeError(
        f"key: {name} is a {type(value).__name__}, which has no stable hash; "
        "give numbers, strings, arrays, lists, dicts, dataclasses, paths, modules or functions"
    )


def _hash_path(path: Path) -> str:
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith("."))
        return digest(*(part for p in files for part in (p.relative_to(path).as_posix(), hash_file(p))))
    return hash_file(path)


def _hash_imports(name: str) -> str:
    """Return the hash of a module's code and of all `zsclib` code it imports, directly or not."""
    hashes: dict[str, str] = {}
    waiting = [name]
    while waiting:
        module = waiting.pop()
        if module not in hashes:
            hashes[module], more = _code_and_imports(module)
            waiting += more
    return digest(*(part for module in sorted(hashes) for part in (module, hashes[module])))


@cache
def _code_and_imports(module: str) -> tuple[str, tuple[str, ...]]:
    spec = None if module == "__main__" else importlib.util.find_spec(module)
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        raise TypeError(f"key: the code of {module} is in no Python file; move it into zsclib")
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
