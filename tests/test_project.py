"""The project around the code: one set of packages named in three files, notebooks fit to be read, one address."""

from __future__ import annotations

import ast
import functools
import json
import re
import shutil
import subprocess
import tomllib
from importlib import import_module
from importlib.metadata import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from zsclib.study.freeze import read_freeze
from zsclib.study.records import missing

ROOT = Path(__file__).resolve().parents[1]
FILES = ("pyproject.toml", "requirements.lock", "environment.yml", "Makefile")
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
WIDTH, VISIBLE_WIDTH, VISIBLE_LINES = (
    100,
    72,
    15,
)  # columns of any code cell; of one that a page shows; its lines
VISIBLE = 0.6  # of the code cells, at least
FUNCTION_LINES = 5  # of a function that stands in a notebook; a longer one belongs in the library


def disagreements(root: Path) -> list[str]:
    """Return where pyproject.toml, requirements.lock, environment.yml and Makefile do not name one set."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    asked = map(Requirement, project["dependencies"] + project["optional-dependencies"]["dev"])
    asked = {canonicalize_name(requirement.name): requirement.specifier for requirement in asked}
    found, locked, direct = [], {}, set()
    for line in (root / "requirements.lock").read_text().splitlines():
        pin, _, why = line.partition("#")
        if pin.strip():
            if not (match := re.fullmatch(r"([A-Za-z0-9._-]+)==(\S+)", pin.strip())):
                found.append(f"requirements.lock does not pin: {pin.strip()}")
                continue
            name = canonicalize_name(match[1])
            locked[name] = match[2]
            direct |= {name} if "zsclib (pyproject.toml)" in why else set()

    environment = yaml.safe_load((root / "environment.yml").read_text())["dependencies"]
    pip = next(entry["pip"] for entry in environment if isinstance(entry, dict))
    conda = [entry for entry in environment if isinstance(entry, str)]
    python = next((entry.partition("=")[2] for entry in conda if entry.startswith("python=")), "0")
    if Version(python) not in SpecifierSet(project["requires-python"]):
        found.append(f"environment.yml has Python {python}, not {project['requires-python']}")
    found += [f"environment.yml lacks {line}" for line in ("-r requirements.lock", "-e .") if line not in pip]
    pins = {Requirement(entry).name: entry for entry in pip if not entry.startswith("-")}
    others = [entry for entry in conda if re.split("[=<> ]", entry)[0] not in ("python", "pip")]
    others += set(pins) - {"torch"}
    found += [f"environment.yml asks for {name}, which belongs in requirements.lock" for name in others]

    torch = re.search(r"^TORCH\s*:=\s*torch==(\S+)$", (root / "Makefile").read_text(), re.M)[1]
    if "torch" in locked:
        found.append("requirements.lock has torch, which is installed before it")
    if str(pins.get("torch")) != f"torch=={torch}":
        found.append(f"environment.yml has {pins.get('torch')}, Makefile has torch=={torch}")
    for name, specifier in asked.items():
        version = torch if name == "torch" else locked.get(name)
        if version is None or Version(version) not in specifier:
            found.append(f"pyproject.toml wants {name}{specifier}, requirements.lock has {version}")
    unasked = direct - set(asked)
    found += [
        f"requirements.lock has {name} for pyproject.toml, which does not ask for it" for name in unasked
    ]
    return found


def test_every_package_runs_on_the_oldest_python_that_the_project_admits():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    oldest = Version(project["requires-python"].removeprefix(">=") + ".0")
    pins = [line.partition("#")[0].strip() for line in (ROOT / "requirements.lock").read_text().splitlines()]
    pins = [Requirement(pin).name for pin in pins if pin]
    wants = {name: metadata(name).get("Requires-Python") or "" for name in pins}
    assert len(wants) > 50
    assert {name: wish for name, wish in wants.items() if oldest not in SpecifierSet(wish)} == {}


def test_the_three_lists_of_packages_agree():
    assert disagreements(ROOT) == []


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("pyproject.toml", '"scipy>=1.14"', '"scipy>=99"', "wants scipy>=99"),
        (
            "pyproject.toml",
            '"scipy>=1.14",',
            '"scipy>=1.14", "timm",',
            "wants timm, requirements.lock has None",
        ),
        ("pyproject.toml", '    "peft>=0.18",\n', "", "has peft for pyproject.toml"),
        ("pyproject.toml", ">=3.11", ">=3.12", "environment.yml has Python 3.11"),
        ("pyproject.toml", "torch>=2.6,<3", "torch<2.6", "wants torch<2.6"),
        ("requirements.lock", "pytest==", "pytest>=", "does not pin: pytest>="),
        ("requirements.lock", "papermill==", "papermill==0.", "wants papermill"),
        ("requirements.lock", "accelerate==", "torch==2.13.0\naccelerate==", "has torch"),
        ("environment.yml", "torch==2.13.0", "torch==2.12.0", "environment.yml has torch==2.12.0"),
        ("environment.yml", "      - torch==2.13.0\n", "", "environment.yml has None"),
        ("environment.yml", "-r requirements.lock", "-r requirements.txt", "lacks -r requirements.lock"),
        ("environment.yml", "- -e .", "- seaborn==0.13.2", "asks for seaborn"),
        ("environment.yml", "  - pip\n", "  - pip\n  - numpy=2\n", "asks for numpy"),
        ("Makefile", "torch==2.13.0", "torch==2.14.0", "Makefile has torch==2.14.0"),
    ],
)
def test_a_disagreement_is_noticed(tmp_path, file, old, new, message):
    for name in FILES:
        shutil.copy(ROOT / name, tmp_path)
    text = (tmp_path / file).read_text()
    assert old in text
    (tmp_path / file).write_text(text.replace(old, new, 1))
    assert any(message in line for line in disagreements(tmp_path)), disagreements(tmp_path)


def test_make_help_lists_every_target():
    text = (ROOT / "Makefile").read_text()
    targets = re.search(r"^\.PHONY: (.*)$", text, re.M)[1].split()
    shown = subprocess.run(["make", "-s"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert sorted(line.split()[1] for line in shown.splitlines()) == sorted(targets)


def test_the_address_of_the_project_is_told_consistently():
    address = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["urls"]["Repository"] == address
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["repository-code"] == address
    assert f"git clone {address}\n" in (ROOT / "book/read_and_rerun.md").read_text()
    assert address.removeprefix("https://github.com/") in (ROOT / "README.md").read_text()


def test_no_part_of_the_library_needs_torchvision():
    pattern = re.compile(r"^\s*(import|from) (torchvision|timm|open_clip)\b", re.M)
    for path in (ROOT / "zsclib").rglob("*.py"):
        assert not pattern.search(path.read_text(encoding="utf-8")), path.relative_to(ROOT)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_kept_without_outputs(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code), "strip it:  nbstripout FILE"
    assert sum("parameters" in cell["metadata"].get("tags", []) for cell in code) == 1
    words = [cell["source"] for cell in notebook["cells"] if cell["cell_type"] == "markdown"]
    assert "{{" not in "".join(map("".join, words)), (
        "numbers of other notebooks: read_records, shown by a cell"
    )


@functools.cache
def state_of_study(chapter: str) -> str:
    """Return how far a chapter's study is, in the words that reader's pages use."""
    try:
        frozen = read_freeze(chapter)
    except FileNotFoundError:
        return "its study is planned"
    jobs = import_module(f"zsclib.papers.{chapter}.outcomes").jobs(frozen.plan())
    lacking = len(missing(frozen, jobs))
    if lacking == len(jobs):
        return "its study is frozen, not yet run"
    return "its study has begun" if lacking else "its study is done"


CHAPTERS = [
    ("diffusion_classifier", "2303.16203", "li2023diffusion"),
    ("diversity", "2302.03298", "shipard2023diversity"),
    ("datadream", "2407.10910", "kim2024datadream"),
    ("retrieval", "2304.10253", "burg2023retrieval"),
]


@pytest.mark.parametrize(("chapter", "arxiv", "cited"), CHAPTERS)
def test_how_far_a_study_is_said_to_be_is_how_far_it_is(chapter, arxiv, cited):
    for file, key in (("README.md", arxiv), ("book/intro.md", cited)):
        lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
        (row,) = (line for line in lines if line.startswith("|") and key in line)
        assert state_of_study(chapter) in row, f"{file}: {row}"


@pytest.mark.parametrize("file", ["README.md", "book/intro.md"])
def test_as_many_studies_are_said_to_be_done_as_are(file):
    done = sum(state_of_study(chapter) == "its study is done" for chapter, *_ in CHAPTERS)
    (said,) = re.findall(r"of which (\w+) are done", (ROOT / file).read_text(encoding="utf-8"))
    assert said == ["none", "one", "two", "three", "four"][done]


def unworded(cells: list[dict]) -> list[int]:
    """Return the code cells that draw and are shown, but have no caption or no words for those who do not see."""
    wrong = []
    for i, cell in enumerate(cells):
        text, shown = "".join(cell["source"]).rstrip(), cell["metadata"].get("mystnb", {})
        draws = cell["cell_type"] == "code" and ("plt.show()" in text or text.endswith(";"))
        words = shown.get("image", {}).get("alt") and shown.get("figure", {}).get("caption")
        if draws and not words and "remove-cell" not in cell["metadata"].get("tags", []):
            wrong.append(i)
    return wrong


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_whatever_a_cell_may_draw_has_a_caption_to_itself(path):
    """Also where a record does not have it yet: the book refuses the figure on the day that it is there."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    assert not unworded(cells), f"cells {unworded(cells)} draw without caption or alt text"
    assert not [i for i, cell in enumerate(cells) if "".join(cell["source"]).count("plt.show()") > 1]
    assert not crowded(cells), f"cells {crowded(cells)} draw and display more under one caption"


def crowded(cells: list[dict]) -> list[int]:
    """Return the numbers of the cells with a caption that display something beside their figure."""
    return [
        i
        for i, cell in enumerate(cells)
        if "figure" in cell["metadata"].get("mystnb", {}) and re.search(r"\bdisplay\(", "".join(cell["source"]))
    ]


def test_a_caption_for_two_things_is_noticed():
    figure = {"mystnb": {"figure": {"caption": "A curve."}}}
    both, one = "plt.show()\ndisplay(table)", "plt.show()"
    cells = [{"source": [text], "metadata": about} for text, about in ((both, figure), (one, figure), (both, {}))]
    assert crowded(cells) == [0]


def hidden(cell: dict) -> bool:
    return any(tag == "hide-input" or tag.startswith("remove-") for tag in cell["metadata"].get("tags", []))


def too_wide(line: str, width: int) -> bool:
    """Say whether a line is too wide; an address at its end cannot be broken."""
    start = line.rfind(" ") + 1
    return len(line) > width and not (re.match("\\W*https?://", line[start:]) and start <= width)


def faults(notebook: dict) -> list[str]:
    """Return what keeps a notebook from being read as a page: wide or long cells, hidden ones, code without prose."""
    page = [cell for cell in notebook["cells"] if "remove-cell" not in cell["metadata"].get("tags", [])]
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    faults = []
    for number, cell in enumerate(notebook["cells"]):
        if cell["cell_type"] != "code":
            continue
        where, source = f"cell {number}", "".join(cell["source"])
        lines, shown = source.splitlines(), not hidden(cell)
        width = VISIBLE_WIDTH if shown else WIDTH
        faults += [f"{where}: {len(line)} columns: {line}" for line in lines if too_wide(line, width)]
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= FUNCTION_LINES:
                faults.append(f"{where}: {node.name} has {node.end_lineno - node.lineno + 1} lines")
        if not shown:
            continue
        if len(lines) > VISIBLE_LINES and "parameters" not in cell["metadata"].get("tags", []):
            faults.append(f"{where}: {len(lines)} lines")
        place = next(i for i, other in enumerate(page) if other is cell)
        around = [page[i]["cell_type"] if 0 <= i < len(page) else "nothing" for i in (place - 1, place + 1)]
        if around != ["markdown", "markdown"]:
            faults.append(f"{where} stands between {around[0]} and {around[1]}: {lines[0] if lines else ''}")
    visible = sum(not hidden(cell) for cell in code)
    if visible < VISIBLE * len(code):
        faults.append(f"{visible} of {len(code)} code cells are visible")
    return faults


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_a_page_to_be_read(path):
    assert faults(json.loads(path.read_text(encoding="utf-8"))) == []


def a_page(*cells: str | tuple[str, str]) -> dict:
    """Return a notebook: a text is a code cell, with tags where it is a pair, and "#" a cell of prose."""
    pairs = [cell if isinstance(cell, tuple) else (cell, "") for cell in cells]
    return {
        "cells": [
            {
                "cell_type": "markdown" if source == "#" else "code",
                "metadata": {"tags": tags.split()} if tags else {},
                "source": source.splitlines(keepends=True),
            }
            for source, tags in pairs
        ]
    }


LONG = "\n".join("x = 1" for _ in range(16))
FUNCTION = "def f():\n" + "    x = 1\n" * 5


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (("#", "x = 1", "#"), None),
        ((("import sys", "remove-cell"), "#", "x = 1", "#", "y", "#"), None),
        (("#", (LONG, "parameters"), "#"), None),
        (("#", LONG, "#"), "cell 1: 16 lines"),
        (("#", "x = '" + 66 * "a" + "'", "#"), None),
        (("#", "x = '" + 67 * "a" + "'", "#"), "cell 1: 73 columns"),
        (("#", "x", "#", "x", "#", ("y = '" + 94 * "a" + "'", "hide-input")), None),
        (("#", "x", "#", "x", "#", ("y = '" + 95 * "a" + "'", "hide-input")), "cell 5: 101 columns"),
        (("#", "x", "#", "x", "#", (f"x = 'at https://{'a' * 99}'", "remove-cell")), None),
        (("#", "x = 1", "y = 1", "#"), "cell 1 stands between markdown and code"),
        (("x = 1", "#"), "cell 0 stands between nothing and markdown"),
        (("#", "x = 1"), "cell 1 stands between markdown and nothing"),
        (("#", "x", "#", "x", ("y", "remove-input"), "#"), "cell 3 stands between markdown and code"),
        (("#", "x", "#", "x", ("y", "remove-cell"), "#"), None),
        (("#", "x", "#", ("y", "hide-input"), ("z", "remove-input")), "1 of 3 code cells are visible"),
        (("#", FUNCTION, "#"), "cell 1: f has 6 lines"),
        (("#", FUNCTION.removesuffix("    x = 1\n"), "#"), None),
    ],
)
def test_what_keeps_a_page_from_being_read_is_noticed(cells, message):
    noticed = faults(a_page(*cells))
    assert noticed == [] if message is None else any(fault.startswith(message) for fault in noticed)


@pytest.mark.parametrize("path", sorted((ROOT / "zsclib/papers").glob("*/method.py")), ids=lambda p: p.parent.name)
def test_a_method_is_as_wide_as_the_page_that_shows_it(path):
    assert max(map(len, path.read_text(encoding="utf-8").splitlines())) <= 80
