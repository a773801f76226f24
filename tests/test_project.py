"""The project around the code: one set of packages told in three files, stripped notebooks, one address."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
from importlib.metadata import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
FILES = ("pyproject.toml", "requirements.lock", "environment.yml", "Makefile")
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


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
    wants = {name: metadata(name)["Requires-Python"] or "" for name in pins}
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
