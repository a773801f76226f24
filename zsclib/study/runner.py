"""Runs notebooks: checked parameters, a fixed environment, all or nothing, and a stamp of what was run.

It leaves `executed.ipynb`, `record.json`, `stamp.json` and `artefacts/` in `results/<profile>/<notebook>/`, or in
`results/<run>/<notebook>/` where a full-scale run of `data/runs/` is named. A failing notebook leaves `failed.ipynb`
there and touches nothing else. Plain papermill and Jupyter run the same notebooks: with the clone installed (`pip
install -e .`), `zsclib` is found from everywhere; in its root, even without. There, `record` only shows its values, and
artefacts go to `results/interactive/artefacts`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, TextIO

from zsclib.hashing import hash_json
from zsclib.images.selection import located
from zsclib.paths import ROOT, atomic, locked, photographs, remove_unfinished, write_json
from zsclib.prompts import PHOTOGRAPHS
from zsclib.study import kernel
from zsclib.study.kernel import RunError
from zsclib.study.notebooks import (
    find_notebook,
    hash_notebook,
    publishable,
    read_notebook,
    stderr_of,
    write_notebook,
)
from zsclib.study.parameters import Parameter, merge_parameters, read_parameters, read_profile
from zsclib.study.provenance import DATA_OF_RESULTS, Neutral, hardware, hash_library, software
from zsclib.study.runs import Run, read_run


class Plan(NamedTuple):
    """All that determines a run before it starts."""

    name: str
    source: Path
    folder: Path
    profile: str  # or, of a full-scale run, its name
    run: Run | None
    known: dict[str, Parameter]
    parameters: dict[str, object]  # the values of all of them
    passed: dict[str, object]  # those not left to the notebook
    identity: dict[str, str]  # hashes of notebook, library and parameters


def plan(
    notebook: str | Path,
    parameters: Mapping[str, object] | None = None,
    profile: str = "book",
    root: Path = ROOT,
    run: str | None = None,
) -> Plan:
    """Return what would be run, checked.

    Args:
        notebook: name (`world`) or path (`notebooks/world.ipynb`) of a notebook of the clone.
        parameters: values for this run, above the profile's, which are above the notebook's own; a string is
            read as `zsclib.study.parameters.Parameter.parse` says.
        profile: a name in `data/profiles/`; a run takes none.
        root: the clone, whose `notebooks/`, `data/` and `results/` are meant.
        run: the name of a full-scale run in `data/runs/`, whose parameters stand in the profile's place.

    Raises:
        FileNotFoundError: no such notebook or run.
        ValueError: an unknown parameter or profile, a value of the wrong kind, a malformed notebook or run.
    """
    root = Path(root).resolve()
    source = find_notebook(notebook, root)
    name = source.stem
    node = read_notebook(source)
    known = read_parameters(node, name)
    full_scale = None if run is None else read_run(name, run, root)
    if full_scale is None:
        values, file = read_profile(profile, root).get(name, {}), f"data/profiles/{profile}.yml"
    else:
        profile, values, file = full_scale.name, full_scale.parameters, full_scale.place
    merged, passed = merge_parameters(name, known, values, parameters or {}, file)
    identity = {
        "notebook_hash": hash_notebook(node),
        "library_hash": hash_library(root, code="\n".join(c.source for c in node.cells if c.cell_type == "code")),
        "parameters_hash": hash_json([merged, own_files(merged, root)]),
    }
    folder = root / "results" / profile / name
    return Plan(name, source, folder, profile, full_scale, known, merged, passed, identity)


def own_files(parameters: Mapping[str, object], root: Path) -> list[tuple[str, int, int]]:
    """Return path, size and time of change of all files that parameters name, but for those the library's hash reads.

    A parameter names files if it is a path, or `folder:PATH`, `parquet:PATH` or `parquet:PATH?COLUMN=VALUE`, or real
    photographs, or a list of these. Of a folder's files the path within it counts: an image that moves to another class
    is another set.
    """
    hashed = [root / "data" / folder for folder in DATA_OF_RESULTS]
    listing: list[tuple[str, int, int]] = []
    for value in parameters.values():
        for text in value if isinstance(value, list) else [value]:
            if not isinstance(text, str) or not text or len(text) >= 4096:
                continue
            path = _place_of(text, root)
            if not path.exists():
                continue
            if any(path.resolve().is_relative_to(folder) for folder in hashed):
                continue
            files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
            for file in files:
                place = file.relative_to(path).as_posix() if path.is_dir() else file.name
                listing.append((place, file.stat().st_size, file.stat().st_mtime_ns))
    return listing


def _place_of(text: str, root: Path) -> Path:
    """Return where the files lie that a parameter names, if it names some."""
    kind, _, name = text.partition(":")
    if kind == PHOTOGRAPHS:
        try:
            return photographs(f"sets/{name}" if name else "pool.parquet")
        except FileNotFoundError:
            return root / text
    return located(root / Path(text.removeprefix("folder:").removeprefix("parquet:")).expanduser())[0]


def stale_because(
    notebook: str | Path,
    profile: str = "book",
    parameters: Mapping[str, object] | None = None,
    root: Path = ROOT,
    run: str | None = None,
) -> str | None:
    """Return why the result there is not that of the present notebook, parameters and library, or None."""
    return why_stale(plan(notebook, parameters, profile, root, run))


def run(
    notebook: str | Path,
    parameters: Mapping[str, object] | None = None,
    profile: str = "book",
    force: bool = False,
    root: Path = ROOT,
    stream: TextIO | None = None,
    run: str | None = None,
) -> Path:
    """Run a notebook unless its result is up to date, and return its folder.

    The notebook runs in this Python, in the root of the clone, offline except with a parameter
    `allow_network=True`. What a killed run left in `artefacts/` is used again.

    Args:
        notebook, parameters, profile, root, run: as in `plan`.
        force: run even if the result is up to date.
        stream: where progress and the notebook's own output are shown; default: standard output.

    Raises:
        FileNotFoundError, ValueError: as in `plan`.
        RunError: a cell failed, the kernel died or did not start, or another run is at work in the folder.
    """
    stream, root = stream or sys.stdout, Path(root).resolve()
    todo = plan(notebook, parameters, profile, root, run)
    profile = todo.profile
    why = why_stale(todo)
    if why is None and not force:
        print(f"{todo.name} ({profile}): up to date", file=stream)
        return todo.folder
    with _lock(todo):
        shown = ", ".join(f"{key}={value!r}" for key, value in todo.parameters.items())
        print(f"{todo.name} ({profile}): {why or 'up to date, run by force'}", file=stream)
        if todo.run is not None:
            print(f"  {todo.run}", file=stream)
        print(f"  {shown or 'no parameters'}", file=stream, flush=True)
        neutral = Neutral([ROOT, root])
        partial, values, reused = (todo.folder / f".running.{kind}" for kind in ("ipynb", "json", "reused"))
        for path in (partial, values, reused):
            path.unlink(missing_ok=True)
        remove_unfinished(todo.folder)
        network = todo.parameters.get("allow_network") is True
        variables = kernel.environment(network) | {
            "ZSC_PROFILE": profile,
            "ZSC_RUN_DIR": str(todo.folder),
            "ZSC_RECORD": str(values),
            "ZSC_REUSED": str(reused),
        }
        started, clock = datetime.now(UTC), time.monotonic()
        try:
            executed = kernel.execute(todo.source, partial, todo.passed, variables, root, stream)
        except RunError as error:
            failed = todo.folder / "failed.ipynb"
            failed.unlink(missing_ok=True)
            if partial.is_file():
                write_notebook(publishable(read_notebook(partial), neutral), failed)
                partial.unlink()
            upto = f"\n  the notebook up to there: {failed.relative_to(root)}" if failed.is_file() else ""
            raise RunError(f"{neutral(str(error))}{upto}") from None
        seconds = time.monotonic() - clock
        warnings = stderr_of(executed)
        stamp = _stamp(todo, started, seconds, reused, neutral) | {"stderr": len(warnings)}
        (todo.folder / "stamp.json").unlink(
            missing_ok=True
        )  # nothing is up to date until the new one is there
        write_json(
            todo.folder / "record.json", json.loads(values.read_text("utf-8")) if values.is_file() else {}
        )
        write_notebook(publishable(executed, neutral, stamp), todo.folder / "executed.ipynb")
        _write_stderr(todo, warnings, neutral, stream)
        write_json(todo.folder / "stamp.json", stamp)
        for path in (partial, values, reused, todo.folder / "failed.ipynb"):
            path.unlink(missing_ok=True)
    print(f"{todo.name} ({profile}): done in {seconds:.1f} s", file=stream, flush=True)
    return todo.folder


def _write_stderr(todo: Plan, warnings: list[tuple[int, str]], neutral: Neutral, stream: TextIO) -> None:
    """Keep what cells wrote to standard error beside the page, which does not show it, and say so."""
    path = todo.folder / "stderr.txt"
    path.unlink(missing_ok=True)
    if not warnings:
        return
    with atomic(path) as temporary:
        text = "".join(f"cell {number}:\n{neutral(text)}\n" for number, text in warnings)
        temporary.write_text(text, encoding="utf-8")
    cells = ", ".join(str(number) for number, _ in warnings)
    print(
        f"{todo.name} ({todo.profile}): cell {cells} wrote to standard error; the page leaves it out, "
        f"{path.relative_to(todo.folder.parents[2])} has it",
        file=stream,
    )


@contextmanager
def _lock(todo: Plan) -> Iterator[None]:
    """Keep other runs out of the folder."""
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(todo.folder / ".lock"))
        except BlockingIOError as error:
            raise RunError(
                f"notebook {todo.name} is being run as {todo.profile} by process {error.filename}; "
                "wait for it, or end it"
            ) from None
        yield


def why_stale(todo: Plan) -> str | None:
    """Return why the result in a plan's folder is not the plan's, or None."""
    files = [todo.folder / name for name in ("stamp.json", "executed.ipynb", "record.json")]
    if not all(path.is_file() for path in files):
        return "the last run failed" if (todo.folder / "failed.ipynb").is_file() else "never run"
    stamp = json.loads(files[0].read_text(encoding="utf-8"))
    if stamp.get("notebook_hash") != todo.identity["notebook_hash"]:
        return "the notebook has changed"
    if stamp.get("parameters_hash") != todo.identity["parameters_hash"]:
        now, before = json.loads(json.dumps(todo.parameters)), stamp.get("parameters", {})
        changed = [f"{key}: {before.get(key)!r} → {now[key]!r}" for key in now if before.get(key) != now[key]]
        return f"the parameters have changed ({', '.join(changed) or 'the files they name'})"
    if stamp.get("library_hash") != todo.identity["library_hash"]:
        return "the library or its data has changed"
    return None


def _stamp(
    todo: Plan, started: datetime, seconds: float, reused: Path, neutral: Neutral
) -> dict[str, object]:
    """Return what a page says about how it was run; no host name, no path of this machine."""
    earlier = [float(line) for line in reused.read_text().split()] if reused.is_file() else []
    return {
        "notebook": todo.name,
        **({"profile": todo.profile} if todo.run is None else {"run": _published(todo.run)}),
        "parameters": neutral(todo.parameters),
        **({"seed": todo.parameters["seed"]} if "seed" in todo.parameters else {}),
        **todo.identity,
        "started": started.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "seconds": round(seconds, 1),
        "seconds_reused": round(sum(earlier), 1),  # what the artefacts taken from earlier runs had cost
        "hardware": hardware(),
        "software": software(),
    }


def _published(run: Run) -> dict[str, object]:
    """Return what a stamp says about a full-scale run: whose numbers its own stand beside."""
    names = ("name", "paper", "table", "row", "published", "hours", "card", "differs")
    return {name: getattr(run, name) for name in names}
