"""Full-scale runs: a file for each published setting, checked like a profile, started by its own command."""

from __future__ import annotations

import io
import json
import shlex
from pathlib import Path

import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_notebook

from zsclib import cli
from zsclib.paths import ROOT
from zsclib.study import kernel, runner
from zsclib.study.runs import read_run, run_names

PARAMETERS = "n: int | None = None\nrate = 1.0\nallow_network = False\n"
RUN = {
    "paper": "Demo (X et al., 2020)",
    "table": "Table 1",
    "row": "A, CIFAR-10",
    "published": [{"what": "accuracy in percent", "value": 88.5, "source": "Table 1, row 3"}],
    "hours": 2,
    "card": "RTX 3090",
    "differs": "One seed.",
    "command": "zsc run demo --run full",
    "parameters": {"n": 7, "allow_network": True},
}


def write_run(
    root: Path, name: str = "full", paper: str = "demo", without: str = "", **changes: object
) -> Path:
    path = root / "data/runs" / paper / f"{name}.yml"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = RUN | {"command": f"zsc run demo --run {name}"} | changes
    path.write_text(yaml.safe_dump({key: value for key, value in content.items() if key != without}))
    return path


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone with two notebooks of one paper, one run, and a kernel that only notes its environment."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "data/profiles").mkdir(parents=True)
    for name in ("book", "ci"):
        (tmp_path / f"data/profiles/{name}.yml").write_text("demo: {n: 3}\n")
    for name in ("demo", "demo_why"):
        cell = new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})
        nbformat.write(new_notebook(cells=[cell]), tmp_path / f"notebooks/{name}.ipynb")
    write_run(tmp_path)

    def execute(
        source: Path, partial: Path, passed: dict, variables: dict, *_: object
    ) -> nbformat.NotebookNode:
        names = ("HF_HUB_OFFLINE", "ZSC_PROFILE")
        Path(variables["ZSC_RECORD"]).write_text(
            json.dumps(passed | {key: variables.get(key) for key in names})
        )
        return nbformat.read(source, as_version=4)

    monkeypatch.setattr(kernel, "execute", execute)
    monkeypatch.setattr(runner, "hash_library", lambda root, code: "library")
    return tmp_path


def start(root: Path, *arguments: str) -> int:
    return cli.main(["--root", str(root), "run", *arguments])


def record(root: Path, place: str) -> dict:
    return json.loads((root / "results" / place / "record.json").read_text())


def test_a_run_has_a_folder_of_its_own_and_says_whose_numbers_it_is_after(
    root: Path, capsys: pytest.CaptureFixture
) -> None:
    assert start(root, "demo") == 0
    before = (root / "results/book/demo/record.json").read_bytes()
    assert start(root, "demo", "--run", "full") == 0
    shown = capsys.readouterr().out
    assert "demo (full): never run" in shown
    assert (
        "Table 1, A, CIFAR-10; published: accuracy in percent 88.5 (Table 1, row 3); about 2 h on RTX 3090"
        in shown
    )
    assert record(root, "full/demo")["n"] == 7, "the run's value, not that of a profile"
    assert (root / "results/book/demo/record.json").read_bytes() == before
    stamp = json.loads((root / "results/full/demo/stamp.json").read_text())
    assert "profile" not in stamp
    assert stamp["run"] == {"name": "full"} | {
        key: value for key, value in RUN.items() if key not in ("command", "parameters")
    }
    assert runner.stale_because("demo", root=root, run="full") is None
    assert start(root, "demo", "--run", "full", "-p", "n=8") == 0
    assert record(root, "full/demo")["n"] == 8, "the user's value is above the run's"


def test_the_network_is_open_only_where_the_run_says_so(root: Path) -> None:
    write_run(root, "offline", parameters={"n": 1})
    for name in ("full", "offline"):
        runner.run("demo", root=root, run=name, stream=io.StringIO())
    assert record(root, "offline/demo")["HF_HUB_OFFLINE"] == "1"
    assert record(root, "full/demo")["HF_HUB_OFFLINE"] != "1"
    runner.run("demo", {"allow_network": "false"}, root=root, run="full", stream=io.StringIO())
    assert record(root, "full/demo")["HF_HUB_OFFLINE"] == "1"
    (root / "data/profiles/paper.yml").write_text("demo: {}\n")
    runner.run("demo", profile="paper", root=root, stream=io.StringIO())
    assert record(root, "paper/demo")["HF_HUB_OFFLINE"] == "1", "no name of a profile opens it"


def test_runs_are_listed_under_their_notebook(root: Path, capsys: pytest.CaptureFixture) -> None:
    write_run(root, "deep", command="zsc run demo_why --run deep")
    assert run_names("demo", root) == ["full"]
    assert run_names("demo_why", root) == ["deep"]
    runner.run("demo", root=root, run="full", stream=io.StringIO())
    assert cli.main(["--root", str(root), "list"]) == 0
    first, _, second = capsys.readouterr().out.partition("demo_why\n")
    assert "  --run full  up to date\n      Table 1, A, CIFAR-10; published" in first
    assert "  --run deep  never run" in second


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"without": "row"}, "missing row"),
        ({"without": "parameters"}, "missing parameters"),
        ({"hour": 3}, r"unknown field 'hour' .did you mean 'hours'"),
        ({"K": 3}, "unknown field 'K'; parameters go under `parameters`"),
        ({"table": 1}, "table must be a text, got 1"),
        ({"differs": ""}, "differs must be a text"),
        ({"hours": "2"}, "hours must be a number above 0, got '2'"),
        ({"hours": True}, "hours must be a number above 0"),
        ({"hours": 0}, "hours must be a number above 0"),
        ({"published": []}, "published must be a list"),
        ({"published": [{"what": "x", "value": 1}]}, "needs exactly what, value and source"),
        ({"published": [{"what": "x", "value": "1", "source": "y"}]}, "needs exactly what, value and source"),
        ({"parameters": ["n"]}, "parameters must be a mapping"),
        ({"command": "zsc run demo"}, "command must be `zsc run NOTEBOOK --run full`, got 'zsc run demo'"),
        ({"command": "zsc run demo --run ful"}, "command must be `zsc run NOTEBOOK --run full`"),
        (
            {"command": "zsc run other --run full"},
            "notebook 'other' of the command is none of the paper 'demo'",
        ),
        (
            {"parameters": {"m": 1}},
            r"notebook demo has no parameter 'm' .in data/runs/demo/full.yml.*it has: n, rate",
        ),
        ({"parameters": {"n": "many"}}, r"'n' must be int \| None, got 'many' .in data/runs/demo/full.yml"),
        ({"parameters": {"rate": True}}, "'rate' must be float, got True .in data/runs/demo/full.yml"),
    ],
)
def test_a_wrong_file_and_its_field_are_named(root: Path, changes: dict, message: str) -> None:
    write_run(root, **changes)
    with pytest.raises(ValueError, match=message) as caught:
        runner.plan("demo", root=root, run="full")
    assert "data/runs/demo/full.yml" in str(caught.value)


def test_files_that_are_no_runs(root: Path) -> None:
    path = root / "data/runs/demo/full.yml"
    path.write_text("- a\n")
    with pytest.raises(ValueError, match=r"data/runs/demo/full.yml: expected the fields paper, table"):
        read_run("demo", "full", root)
    path.write_text("a: [\n")
    with pytest.raises(ValueError, match=r"data/runs/demo/full.yml: not readable as YAML"):
        read_run("demo", "full", root)
    write_run(root)
    write_run(root, "ci")
    with pytest.raises(ValueError, match=r"demo/ci.yml: a run must not be named as a profile"):
        read_run("demo", "ci", root)


def test_wrong_usage_is_told(root: Path, capsys: pytest.CaptureFixture) -> None:
    assert start(root, "demo", "--run", "ful") == 2
    message = "notebook demo has no run 'ful' in data/runs/ (did you mean 'full'?); it has: full"
    assert message in capsys.readouterr().err
    assert start(root, "demo_why", "--run", "full") == 2
    assert "that name has: zsc run demo --run full; it has: none" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        start(root, "demo", "--run", "full", "--profile", "ci")
    assert "not allowed with argument" in capsys.readouterr().err
    assert not (root / "results").exists()


# The runs of this project


PATHS = sorted((ROOT / "data/runs").glob("*/*.yml"))


@pytest.mark.parametrize("path", PATHS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_run_fits_its_notebook(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "hash_library", lambda root, code: "library")
    notebook = shlex.split(yaml.safe_load(path.read_text())["command"])[2]
    plan = runner.plan(notebook, run=path.stem)
    assert plan.folder == ROOT / "results" / path.stem / notebook
    assert plan.parameters["device"] == "cuda"
    hub = [value for value in plan.passed.values() if "hub:" in str(value)]
    assert not hub or plan.parameters["allow_network"] is True


def test_each_paper_of_the_book_has_runs() -> None:
    assert {path.parent.name for path in PATHS} == {"diffusion_classifier", "diversity", "retrieval", "datadream"}
