"""Notebook files: finding, reading, hashing, and making an executed one fit to be shown to others."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import nbformat

from zsclib.checks import did_you_mean
from zsclib.hashing import hash_json
from zsclib.paths import ROOT, atomic
from zsclib.study.provenance import Neutral

# Set by the notebook interface, not by what the notebook does.
_VOLATILE = {"execution", "papermill", "ExecuteTime", "collapsed", "scrolled", "jp-MarkdownHeadingCollapsed"}


def notebook_names(root: Path = ROOT) -> list[str]:
    """Return the names of the notebooks in `notebooks/`, sorted."""
    return sorted(p.stem for p in (root / "notebooks").glob("*.ipynb") if not p.name.startswith("."))


def find_notebook(name: str | Path, root: Path = ROOT) -> Path:
    """Return the path of a notebook, given as `world` or `notebooks/world.ipynb`.

    Raises:
        FileNotFoundError: there is none of that name in `notebooks/`; the message lists those there are.
    """
    known, stem = notebook_names(root), Path(name).name.removesuffix(".ipynb")
    if stem in known:
        return root / "notebooks" / f"{stem}.ipynb"
    raise FileNotFoundError(
        f"no notebook {str(name)!r} in notebooks/{did_you_mean(stem, known)}; "
        f"there are: {', '.join(known) or 'none'}"
    )


def read_notebook(path: Path) -> nbformat.NotebookNode:
    """Return a notebook file's content; raise ValueError if it is none."""
    try:
        return nbformat.read(path, as_version=4)
    except (ValueError, nbformat.ValidationError) as error:
        raise ValueError(f"notebook {path.name} cannot be read: {short(str(error))}") from None


def hash_notebook(node: nbformat.NotebookNode) -> str:
    """Return the hash of what a notebook does and shows: sources and lasting metadata, no outputs."""
    return hash_json(
        [
            [cell.cell_type, cell.source, {k: v for k, v in cell.metadata.items() if k not in _VOLATILE}]
            for cell in node.cells
        ]
    )


def publishable(
    node: nbformat.NotebookNode, neutral: Neutral, stamp: dict[str, object] | None = None
) -> nbformat.NotebookNode:
    """Return an executed notebook without anything of this machine, its stamp in `metadata.zsc`."""
    node = nbformat.from_dict(node)
    for key in ("papermill", "widgets"):
        node.metadata.pop(key, None)
    node.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    node.metadata |= {"zsc": stamp} if stamp else {}
    for cell in node.cells:
        for key in ("papermill", "execution", *([] if cell.metadata.get("tags") else ["tags"])):
            cell.metadata.pop(key, None)
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.source = neutral(cell.source)
        if cell.cell_type == "code":
            cell.outputs = [
                _neutral_output(output, neutral)
                for output in cell.outputs
                if not _is_blank(output) and not _is_stderr(output)
            ]
    return nbformat.from_dict(node)


def _neutral_output(output: Mapping[str, object], neutral: Neutral) -> dict[str, object]:
    output = dict(output)
    data = output.pop("data", None)
    output = neutral(output)
    if data is not None:  # base64 may spell a path by chance
        binary = re.compile(r"(image/(?!svg)|audio/|video/|application/pdf)")
        output["data"] = {
            kind: value if binary.match(kind) else neutral(value) for kind, value in data.items()
        }
    return output


def stderr_of(node: nbformat.NotebookNode) -> list[tuple[int, str]]:
    """Return what cells wrote to standard error: the number of each such code cell, from 1, and its text.

    Warnings of libraries and of the machine (a font cache is built, an image has odd metadata) land there; on a page
    they would be noise, and would fail the book's build for good.
    """
    cells = [cell for cell in node.cells if cell.cell_type == "code"]
    texts = ["".join(output["text"] for output in cell.outputs if _is_stderr(output)) for cell in cells]
    return [(number, text) for number, text in enumerate(texts, start=1) if text.strip()]


def _is_stderr(output: Mapping[str, object]) -> bool:
    return output["output_type"] == "stream" and output["name"] == "stderr"


def _is_blank(output: Mapping[str, object]) -> bool:
    """A progress bar that cleared itself leaves an empty stream."""
    return output["output_type"] == "stream" and not output["text"].strip()


def write_notebook(node: nbformat.NotebookNode, path: Path) -> None:
    """Write a notebook, whole or not at all."""
    with atomic(path) as temporary:
        nbformat.write(node, temporary)


def first_line(cell: nbformat.NotebookNode) -> str:
    """Return the first line of a cell's code (of its comments if it has no code), cut at 80 characters."""
    lines = [line.strip() for line in cell.source.splitlines() if line.strip()]
    code = [line for line in lines if not line.startswith("#")]
    line = (code or lines or [""])[0]
    return line if len(line) <= 80 else line[:79] + "…"


def short(text: str) -> str:
    """Return the first lines of an error's text, without terminal colours."""
    lines = re.sub(r"\x1b\[[0-9;]*m", "", text).strip().splitlines()[:5]
    return "\n  ".join(line if len(line) <= 300 else line[:299] + "…" for line in lines)
