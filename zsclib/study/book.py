"""The book: run what is stale, collect the executed notebooks, render the pages.

Executed notebooks and their numbers come from `results/<profile>/`; `book/notebooks/` is generated.
"""

from __future__ import annotations

import html
import json
import os
import pkgutil
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import yaml

import zsclib
from zsclib.hashing import digest, hash_file
from zsclib.paths import ROOT, locked

INPUTS = ("_config.yml", "requirements.lock", "book", "zsclib")  # what a page depends on, besides its run

ROOMS = (
    *("zsclib.papers.diffusion_classifier", "zsclib.papers.diversity"),
    *("zsclib.papers.datadream", "zsclib.papers.retrieval"),
    *("zsclib", "zsclib.images", "zsclib.models"),
    *("zsclib.pools", "zsclib.world", "zsclib.pretraining", "zsclib.pocket", "zsclib.study", "zsclib.study.figures"),
)
API_INTRO = """\
`zsclib` has floors. Each paper has a room of its own in `zsclib.papers` and knows no other paper; in every one of them
`method` is the algorithm, `experiments` says what is compared, and `contrasts` what a claim is judged on. They stand on
what they share: prompts to images (`zsclib.sampling`), images to networks (`zsclib.training`), images to numbers
(`zsclib.setmetrics`). That stands on the pocket world, the models, anybody's captioned images and the data sets
(`zsclib.world`, `zsclib.models`, `zsclib.pools`, `zsclib.datasets`), and those on images (`zsclib.images`) and the
ground floor: seeds, refusals, cached results, and where jobs run (`zsclib.workers`). At the top `zsclib.pretraining`
trains models from captioned images and `zsclib.pocket` the ones shipped here, measured with the papers' own tools.
Beside them `zsclib.study` runs notebooks, judges claims and draws figures; no paper depends on any of the three."""


def build(profile: str = "book", root: Path = ROOT) -> Path:
    """Run the notebooks of the table of contents that are stale, then render the book.

    Args:
        profile: whose parameters the notebooks are run with, a name in `data/profiles/`.
        root: the clone.

    Returns:
        The page to open.
    """
    from zsclib.study import runner

    for name in notebooks(root):
        runner.run(name, profile=profile, root=root)  # returns at once when nothing has changed
    return render(profile, root)


def render(profile: str = "book", root: Path = ROOT) -> Path:
    """Render the book from the runs in `results/<profile>/`, or leave it as it is when nothing has changed.

    Returns:
        The page to open.

    Raises:
        FileNotFoundError: a notebook of the table of contents has not been run under this profile.
        ValueError: a page is not fit to be shown (see `page`).
        RuntimeError: the build fails or warns.
    """
    def wait(owner: str) -> None:
        print(f"The book is being rendered by process {owner}; waiting for it …", flush=True)

    # one at a time: pages of one profile under the seal of another would count as up to date
    with locked(root / "results" / ".book.lock", wait):
        return _render(profile, root)


def _render(profile: str, root: Path) -> Path:
    start = time.perf_counter()
    runs = {name: root / "results" / profile / name for name in notebooks(root)}
    pages = {f"{name}.ipynb": nbformat.writes(page(run, _repository(root))) for name, run in runs.items()}
    _write(root / "book/notebooks", pages)
    _write(root / "book/generated", {"api.md": api_page()})
    spent = ", ".join(f"{name} {_duration(_stamp(run)['seconds'])}" for name, run in runs.items())
    print(f"Time the notebooks took when they were run: {spent}", flush=True)

    index, seal = root / "_build/html/index.html", root / "_build/inputs"
    inputs = _inputs(root, profile)
    if index.is_file() and seal.is_file() and seal.read_text() == inputs:
        print(f"Nothing has changed. Open {_shown(index)}")
        return index
    if not seal.is_file():  # a render that was killed: Sphinx would take its half-written pages for whole ones
        shutil.rmtree(seal.parent, ignore_errors=True)
    seal.unlink(missing_ok=True)
    seal.parent.mkdir(exist_ok=True)
    print("Rendering the book …", flush=True)
    jupyter_book(root, profile)
    seal.write_text(inputs)
    print(f"Rendered in {_duration(time.perf_counter() - start)}. Open {_shown(index)}")
    return index


def jupyter_book(root: Path, profile: str) -> None:
    """Call Jupyter Book on `book/`: nitpicky, every warning an error, all of them shown."""
    call = "from jupyter_book.cli.main import main; main()"
    command = [sys.executable, "-c", call, "build", "book", "--config", "_config.yml", "--path-output", "."]
    command += ["-q", "-n", "-W", "--keep-going"]
    places = {"ZSC_PROFILE": profile, "ZSC_RESULTS": str(root / "results")}
    done = subprocess.run(
        command, cwd=root, env=os.environ | places, capture_output=True, text=True, check=False
    )
    if done.returncode:
        print(done.stdout, done.stderr, sep="\n", flush=True)
        raise RuntimeError("book: the build failed; its warnings, all of them errors, are above")


def notebooks(root: Path = ROOT) -> list[str]:
    """Return the names of the notebooks in the book's table of contents, in its order."""
    toc = yaml.safe_load((root / "book/_toc.yml").read_text(encoding="utf-8"))
    chapters = [chapter["file"] for part in toc["parts"] for chapter in part["chapters"]]
    return [file.removeprefix("notebooks/") for file in chapters if file.startswith("notebooks/")]


def api_page() -> str:
    """Return the page that documents every module of the library, from their docstrings."""
    names = [module.name for module in pkgutil.walk_packages(zsclib.__path__, "zsclib.") if not module.ispkg]
    shown = [name for name in names if name != "zsclib.cli" and not name.endswith(".__main__")]
    shown.sort(key=lambda name: (ROOMS + (name.rpartition(".")[0],)).index(name.rpartition(".")[0]))
    parts = [f"## {name}\n\n```{{eval-rst}}\n.. automodule:: {name}\n```\n" for name in shown]
    return "\n".join([f"# The library\n\n{API_INTRO}\n", *parts])


def page(run: Path, repository: str) -> nbformat.NotebookNode:
    """Return the executed notebook of a run as a page: with a note, below its title, on how it was made.

    Args:
        run: the folder of the run, with `executed.ipynb` and `stamp.json`.
        repository: address of the project, for the link to the source.

    Raises:
        FileNotFoundError: there is no such run.
        ValueError: a figure lacks its caption or its description, or an output names a place on this machine.
    """
    if not (run / "executed.ipynb").is_file():
        raise FileNotFoundError(
            f"book: {run.name} has not been run under profile {run.parent.name}: "
            f"run  zsc run {run.name} --profile {run.parent.name}"
        )
    notebook = nbformat.read(run / "executed.ipynb", as_version=4)
    for number, cell in enumerate(notebook.cells):
        _check_cell(cell, f"book: {run.name}, cell {number}")
    note = nbformat.v4.new_markdown_cell(how_made(run.name, _stamp(run), repository), id="how-made")
    notebook.cells.insert(1, note)
    return notebook


def how_made(name: str, stamp: dict, repository: str) -> str:
    """Return the note on how a page was made, as HTML that Jupyter and the book both fold."""
    machine = stamp["hardware"]
    where = f"{machine['cpus']} CPU cores ({machine['cpu']}), {machine['gpu'] or 'no GPU'}"
    source = f"notebooks/{name}.ipynb"
    took = _duration(stamp["seconds"])
    earlier = stamp.get("seconds_reused", 0)
    reused = f"; results of earlier runs had taken {_duration(earlier)}" if earlier else ""
    rows = {
        "Parameters": "<br>".join(
            f"<code>{html.escape(f'{key} = {value!r}')}</code>" for key, value in stamp["parameters"].items()
        )
        or "none",
        "Profile": f"<code>{html.escape(stamp['profile'])}</code>",
        "Run": html.escape(f"{stamp['started'][:10]}, {took} on {where}{reused}"),
        "Software": html.escape(", ".join(f"{key} {version}" for key, version in stamp["software"].items())),
        **({"Standard error": f"{stamp['stderr']} cells wrote to it, not shown here"} if stamp.get("stderr") else {}),
        "Source": f'<a href="{repository}/blob/main/{source}"><code>{source}</code></a>, '
        f"SHA-256 {stamp['notebook_hash'][:12]}; library {stamp['library_hash'][:12]}",
    }
    table = "".join(f"<tr><th>{key}</th><td>{value}</td></tr>" for key, value in rows.items())
    summary = f"How this page was made: in {took}, profile <code>{html.escape(stamp['profile'])}</code>"
    return f'<details class="how-made"><summary>{summary}</summary><table>{table}</table></details>'


def _check_cell(cell: nbformat.NotebookNode, where: str) -> None:
    if cell.cell_type != "code" or {"remove-cell", "remove-output"} & set(cell.metadata.get("tags", [])):
        return
    if str(Path.home()) + os.sep in (text := json.dumps(cell.outputs)) or str(ROOT) + os.sep in text:
        raise ValueError(f"{where} shows a path of this machine; print paths relative to the project")
    displayed = [output.data for output in cell.outputs if "data" in output]
    images = sum(any(kind.startswith("image/") for kind in data) for data in displayed)
    shown = cell.metadata.get("mystnb", {})
    if images > 1:
        raise ValueError(f"{where} shows {images} images; a cell shows one, so that each has its own caption")
    if images and len(displayed) > 1:
        raise ValueError(f"{where} shows an image and more; its caption belongs to the image alone: make it two cells")
    if images and not (shown.get("image", {}).get("alt") and shown.get("figure", {}).get("caption")):
        raise ValueError(
            f"{where} shows an image without words; its metadata needs  "
            f'"mystnb": {{"image": {{"alt": "…"}}, "figure": {{"caption": "…", "name": "…"}}}}'
        )


def _write(folder: Path, files: dict[str, str]) -> None:
    """Make the folder hold exactly these files, touching only what differs: rendering is incremental."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.name not in files:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for name, text in files.items():
        path = folder / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def _inputs(root: Path, profile: str) -> str:
    paths = [path for name in INPUTS for path in (root / name, *(root / name).rglob("*"))]
    paths += (root / "results" / profile).glob("*/record.json")
    files = sorted(path for path in paths if path.is_file() and "__pycache__" not in path.parts)
    return digest(profile, *(f"{path.relative_to(root)} {hash_file(path)}" for path in files))


def _repository(root: Path) -> str:
    return yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))["repository"]["url"]


def _stamp(run: Path) -> dict:
    return json.loads((run / "stamp.json").read_text(encoding="utf-8"))


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s" if seconds >= 10 else f"{seconds:.1f} s"


def _shown(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
