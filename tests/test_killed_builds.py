"""A build of the book that is killed again and again ends as an undisturbed one."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import nbformat
import pytest
from killed_builds import RENDERING, Build, faults, held_locks, orphans, unfinished
from nbformat import v4

from zsclib.paths import locked, remove_unfinished

ROOT = Path(__file__).resolve().parents[1]
CELL = """\
import time
import numpy as np
from zsclib.cache import Cache
from zsclib.record import record
cache = Cache()
for i in range(3):
    value = cache.compute({"i": i}, lambda: {"x": np.array([i + 0.1])})
    print("computed", i, flush=True)
    time.sleep(0.4)
record(value=float(value["x"][0]))
""".replace("zsclib.record", "zsclib.study.record")


@pytest.fixture
def project(tmp_path) -> Path:
    """A book of two small pages."""
    root = tmp_path / "project"
    shutil.copytree(ROOT / "book", root / "book", ignore=shutil.ignore_patterns("notebooks", "generated"))
    for name in ("_config.yml", "requirements.lock"):
        shutil.copy(ROOT / name, root / name)
    (root / "book/intro.md").write_text("# Two pages\n")
    chapters = "".join(f"      - file: notebooks/{name}\n" for name in ("one", "two"))
    (root / "book/_toc.yml").write_text(
        f"format: jb-book\nroot: intro\nparts:\n  - caption: pages\n    chapters:\n{chapters}"
    )
    (root / "data/profiles").mkdir(parents=True)
    (root / "data/profiles/ci.yml").write_text("{}\n")
    (root / "notebooks").mkdir()
    for name in ("one", "two"):
        cells = [
            v4.new_markdown_cell(f"# {name}"),
            v4.new_code_cell("n = 1", metadata={"tags": ["parameters"]}),
            v4.new_code_cell(CELL),
        ]
        nbformat.write(v4.new_notebook(cells=cells), root / "notebooks" / f"{name}.ipynb")
    return root


def test_a_build_killed_in_a_notebook_and_while_rendering_ends_as_an_undisturbed_one(project):
    command = [sys.executable, "-m", "zsclib", "--root", str(project), "book", "--profile", "ci"]
    killed = [Build(ROOT, command, 0, ["two (ci)", "computed 1"]), Build(ROOT, command, 1.5, [RENDERING])]
    assert [build.status for build in killed] == [None, None], [build.lines for build in killed]
    assert "computed 1" in killed[0].last
    last = Build(ROOT, command)
    assert last.status == 0, last.lines
    assert faults(project, "ci", {name: {"value": 2.1} for name in ("one", "two")}) == []
    assert (project / "_build/html/notebooks/two.html").read_text().rstrip().endswith("</html>")


def test_a_moment_is_found_again_by_what_was_printed_before_it():
    lines = ["one (ci): never run", "no parameters", "[1/2] import x", "one (ci): done in 3 s",
             "two (ci): never run", "[1/2] import x", "[2/2] work()", "Rendering the book …"]  # fmt: skip
    script = f"import time\nfor line in {lines!r}:\n    print(line, flush=True)\n    time.sleep(0.1)"
    build = Build(ROOT, [sys.executable, "-c", script])
    assert build.status == 0 and [text for _, text in build.lines] == lines
    at = {text: seconds for seconds, text in build.lines}
    assert build.place(at["[2/2] work()"] + 0.01) == (pytest.approx(0.01), ("two (ci):", "[2/2] work()"))
    assert build.place(at["two (ci): never run"])[1] == ("two (ci):",)
    assert build.place(at["one (ci): done in 3 s"])[1] == ("one (ci):", "[1/2] import x")
    assert build.place(99)[1] == ("two (ci):", "Rendering the book …")
    again = Build(ROOT, [sys.executable, "-c", script], 0, ("two (ci):", "[1/2] import x"))
    assert again.status is None and again.last == "[1/2] import x" and len(again.lines) == 6


def test_what_a_kill_leaves_is_seen_and_removed(project):
    """The checks above can fail."""
    results = project / "results/ci/one"
    (results / f".artefacts.{'f' * 32}").mkdir(parents=True)
    (results / f".record.{'0' * 32}.json").write_text("{")
    (results / ".lock").touch()
    left = [f"results/ci/one/.artefacts.{'f' * 32}", f"results/ci/one/.record.{'0' * 32}.json"]
    assert sorted(unfinished(project)) == left
    remove_unfinished(project)
    assert unfinished(project) == [] and (results / ".lock").exists()
    with locked(results / ".lock"):
        assert held_locks(project) == ["results/ci/one/.lock"]
    assert held_locks(project) == [] and orphans(project) == []
    assert faults(project, "ci", {"one": {"value": 1}}) == ["no record of one"]
