"""The parameters of a notebook: read from its one cell tagged `parameters`, merged with those of a file and the user.

papermill only logs an unknown name and injects any type; here both are errors before a kernel starts.
"""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import nbformat
import yaml

from zsclib.checks import did_you_mean
from zsclib.paths import ROOT

_WORDS = {"true": True, "false": False, "none": None, "null": None}
_NO_LITERAL = object()


@dataclass(frozen=True)
class Parameter:
    """One parameter: its name, its default and its kind, an annotation (`int`, `str | None`, …)."""

    name: str
    default: object
    kind: str

    def fit(self, value: object) -> object:
        """Return the value as this kind (an int serves as a float), or raise TypeError."""
        return _fit(value, ast.parse(self.kind, mode="eval").body)

    def parse(self, text: str) -> object:
        """Return what a command line's text means for this kind, or raise TypeError.

        The text is a Python or JSON literal; where a string is wanted, it may also stand without quotes.
        """
        literal = _literal(text)
        for value in ([] if literal is _NO_LITERAL else [literal]) + [text]:
            try:
                return self.fit(value)
            except TypeError:
                continue
        raise TypeError(text)


def read_parameters(notebook: nbformat.NotebookNode, name: str) -> dict[str, Parameter]:
    """Return the parameters of a notebook by name, in the order of their cell.

    Args:
        notebook: the source notebook.
        name: its name, for messages.

    Raises:
        ValueError: not exactly one code cell is tagged `parameters`, or that cell holds anything but
            `name = literal` and `name: kind = literal`, or a default is not of its kind.
    """
    tags = [cell.metadata.get("tags", []) if cell.cell_type == "code" else [] for cell in notebook.cells]
    tagged = [cell for cell, its in zip(notebook.cells, tags, strict=True) if "parameters" in its]
    if len(tagged) != 1:
        raise ValueError(f"notebook {name}: need one code cell tagged 'parameters', found {len(tagged)}")
    if any("injected-parameters" in its for its in tags):
        raise ValueError(
            f"notebook {name} is an executed copy (it holds injected parameters); run its source"
        )
    parameters: dict[str, Parameter] = {}
    try:
        statements = ast.parse(tagged[0].source).body
    except SyntaxError as error:
        raise ValueError(f"notebook {name}: the parameters cell is not plain Python: {error}") from None
    for statement in statements:
        line = ast.unparse(statement)
        if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            target, annotation = statement.targets[0], None
        elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
            target, annotation = statement.target, statement.annotation
        else:
            raise ValueError(
                f"notebook {name}: the parameters cell takes `name = literal` lines, not `{line}`"
            )
        try:
            default = ast.literal_eval(statement.value)
        except (ValueError, TypeError):
            raise ValueError(f"notebook {name}: a default must be a literal, not `{line}`") from None
        if not isinstance(target, ast.Name) or target.id in parameters:
            raise ValueError(f"notebook {name}: a parameter must be one name, assigned once, not `{line}`")
        kind = ast.unparse(annotation) if annotation else _kind_of(default)
        parameter = Parameter(target.id, default, kind)
        try:
            parameters[target.id] = Parameter(target.id, parameter.fit(default), kind)
        except TypeError:
            raise ValueError(f"notebook {name}: the default in `{line}` is not of its kind") from None
    return parameters


def profile_names(root: Path = ROOT) -> list[str]:
    """Return the names of the profiles there are, `data/profiles/*.yml`, sorted."""
    return sorted(p.stem for p in (root / "data" / "profiles").glob("*.yml") if not p.name.startswith("."))


def read_profile(profile: str, root: Path = ROOT) -> dict[str, dict[str, object]]:
    """Return `data/profiles/<profile>.yml`: notebook → parameter → value.

    Raises:
        ValueError: there is no such file, or it is not a mapping of mappings.
    """
    names = profile_names(root)
    if profile not in names:
        raise ValueError(
            f"no profile {profile!r} in data/profiles/{did_you_mean(profile, names)}; "
            f"there are: {', '.join(names) or 'none'}"
        )
    text = (root / "data" / "profiles" / f"{profile}.yml").read_text(encoding="utf-8")
    content = yaml.safe_load(text) or {}
    if not isinstance(content, dict) or not all(isinstance(v, dict | None) for v in content.values()):
        raise ValueError(f"data/profiles/{profile}.yml: expected `notebook: {{parameter: value}}` entries")
    return {name: values or {} for name, values in content.items()}


def merge_parameters(
    name: str,
    parameters: Mapping[str, Parameter],
    from_file: Mapping[str, object],
    from_user: Mapping[str, object],
    file: str = "a profile",
) -> tuple[dict[str, object], dict[str, object]]:
    """Return all values (defaults < file < user) and, of these, the ones not left to the notebook.

    Args:
        name: the notebook, for messages.
        parameters: what `read_parameters` returned.
        from_file: a profile's or a run's values for this notebook.
        from_user: the user's values; a string is read as `Parameter.parse` says.
        file: where the file's values are written, for messages.

    Raises:
        ValueError: an unknown name or a value of the wrong kind.
    """
    passed: dict[str, object] = {}
    for values, place in ((from_file, f" (in {file})"), (from_user, "")):
        for key, value in values.items():
            if key not in parameters:
                raise ValueError(
                    f"notebook {name} has no parameter {key!r}{place}{did_you_mean(key, parameters)}; "
                    f"it has: {', '.join(parameters) or 'none'}"
                )
            parameter = parameters[key]
            try:
                text = isinstance(value, str) and not place
                passed[key] = parameter.parse(value) if text else parameter.fit(value)
            except TypeError:
                hint = f""", e.g. -p {key}='["cat", "dog"]'""" if parameter.kind.startswith("list") else ""
                raise ValueError(
                    f"notebook {name}: parameter {key!r} must be {parameter.kind}, got {value!r}{place}{hint}"
                ) from None
    passed = {key: passed[key] for key in parameters if key in passed}
    return {key: parameter.default for key, parameter in parameters.items()} | passed, passed


def _literal(text: str) -> object:
    if text.strip().lower() in _WORDS:
        return _WORDS[text.strip().lower()]
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text.strip())
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
    return _NO_LITERAL


def _kind_of(default: object) -> str:
    return "Any" if default is None else type(default).__name__


def _fit(value: object, kind: ast.expr) -> object:
    """Return the value as the annotated kind, or raise TypeError."""
    if isinstance(kind, ast.Constant) and isinstance(kind.value, str):  # a quoted annotation
        kind = ast.parse(kind.value, mode="eval").body
    if isinstance(kind, ast.BinOp) and isinstance(kind.op, ast.BitOr):
        return _fit_any(value, [kind.left, kind.right])
    if isinstance(kind, ast.Constant) and kind.value is None:
        return _require(value is None, value)
    if isinstance(kind, ast.Subscript):
        inner = kind.slice.elts if isinstance(kind.slice, ast.Tuple) else [kind.slice]
        match ast.unparse(kind.value):
            case "Optional":
                return _fit_any(value, [*inner, ast.Constant(None)])
            case "Union":
                return _fit_any(value, inner)
            case "Literal":
                return _require(value in [ast.literal_eval(item) for item in inner], value)
            case "list":
                return [_fit(item, inner[0]) for item in _fit(value, ast.Name("list"))]
            case "tuple" if len(inner) == 2 and ast.unparse(inner[1]) == "...":
                return tuple(_fit(item, inner[0]) for item in _fit(value, ast.Name("tuple")))
            case "dict":
                items = _fit(value, ast.Name("dict")).items()
                return {_fit(key, inner[0]): _fit(item, inner[1]) for key, item in items}
    match ast.unparse(kind):
        case "Any":
            return value
        case "int":
            return _require(isinstance(value, int) and not isinstance(value, bool), value)
        case "float":
            number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            return float(_require(number, value))
        case "bool":
            return _require(isinstance(value, bool), value)
        case "str":
            return _require(isinstance(value, str), value)
        case "list":
            return list(_require(isinstance(value, list | tuple), value))
        case "tuple":
            return tuple(_require(isinstance(value, list | tuple), value))
        case "dict":
            return _require(isinstance(value, dict), value)
    raise ValueError(
        f"a parameter of kind `{ast.unparse(kind)}` is not supported; use int, float, bool, str, list[…], "
        "tuple[…, ...], dict[…, …], Literal[…], Any, or these with `| None`"
    )


def _fit_any(value: object, kinds: list[ast.expr]) -> object:
    for kind in kinds:
        try:
            return _fit(value, kind)
        except TypeError:
            continue
    raise TypeError(value)


def _require(holds: bool, value: object) -> object:
    if not holds:
        raise TypeError(value)
    return value
