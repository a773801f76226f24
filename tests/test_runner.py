"""Running notebooks: what is checked before, what is left behind, what a failure or a kill may do."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import nbformat
import papermill
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from PIL import Image

from zsclib import cli
from zsclib.hashing import code_text
from zsclib.paths import ROOT
from zsclib.study import kernel, parameters, runner
from zsclib.study.provenance import Neutral, hash_library

PARAMETERS = """\
n: int | None = None
rate = 1.0
name = "x"
classes: list[str] = ["cat", "dog"]
seed = 0
"""
# A notebook that does all a run has to carry out of it, and that can be told to fail.
DEMO = [
    "# told to\nassert name != 'fail', 'told to\\nfail'",
    "import hashlib, os, sys, time, warnings\nfrom pathlib import Path\nimport matplotlib.pyplot as plt\n"
    "from tqdm import tqdm\nfrom zsclib.study.record import record\nfrom zsclib.study.stats import wilson",
    "for _ in tqdm(range(3), file=sys.stdout, leave=False): pass",
    "print(Path.cwd() / 'data', Path.home() / 'x', sys.executable)\nwarnings.warn('careful')",
    "from zsclib.study.plots import use_style\nuse_style()\nplt.plot([1, 2]); plt.show()",
    "record(accuracy=wilson(8, 10), n=n, rate=rate, classes=classes,\n"
    "       python=hashlib.sha256(sys.executable.encode()).hexdigest(),\n"
    "       environment={k: os.environ.get(k) for k in ('HF_HUB_OFFLINE', 'TOKENIZERS_PARALLELISM',\n"
    "                                                     'OMP_NUM_THREADS', 'ZSC_PROFILE')},\n"
    "       library=hashlib.sha256(sys.modules['zsclib'].__file__.encode()).hexdigest())",
]


def write_notebook(root: Path, name: str, *cells: str, parameters: str = PARAMETERS) -> Path:
    path = root / "notebooks" / f"{name}.ipynb"
    node = new_notebook(
        cells=[
            new_markdown_cell(f"# {name}"),
            new_code_cell(parameters, metadata={"tags": ["parameters"]}),
            *map(new_code_cell, cells),
        ],
        # A kernel nobody has: the run must not depend on what the author's machine wrote here.
        metadata={"kernelspec": {"name": "conda-env-authors-own", "display_name": "?", "language": "python"}},
    )
    nbformat.write(node, path)
    return path


def make_root(root: Path) -> Path:
    (root / "notebooks").mkdir(parents=True)
    (root / "data" / "profiles").mkdir(parents=True)
    for profile in ("book", "study"):
        (root / "data" / "profiles" / f"{profile}.yml").write_text("demo: {}\n")
    (root / "data" / "profiles" / "ci.yml").write_text("demo: {n: 3}\n")
    write_notebook(root, "demo", *DEMO)
    return root


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def snapshot(folder: Path) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name != ".lock"
    }


@pytest.fixture(autouse=True)
def _steady_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library's hash has tests of its own; here, no one's editor may change it."""
    monkeypatch.setattr(runner, "hash_library", lambda root, code: "library")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_root(tmp_path / "clone")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """One real run, shared: a clone with a result, and what the terminal showed.

    The user has a `python3` kernel of another Python, and asks for another drawing back end.
    """
    root = make_root(tmp_path_factory.mktemp("run") / "clone")
    foreign = root.parent / "jupyter" / "kernels" / "python3"
    foreign.mkdir(parents=True)
    (foreign / "kernel.json").write_text(
        '{"argv": ["/bin/false"], "display_name": "?", "language": "python"}'
    )
    stream = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "hash_library", lambda root, code: "library")
        patch.setenv("JUPYTER_PATH", str(foreign.parents[1]))
        patch.setenv("MPLBACKEND", "Agg")
        patch.setenv("HF_HUB_OFFLINE", "0")
        patch.setenv("OMP_NUM_THREADS", "1")
        runner.run("demo", {"rate": "2", "classes": '["a", "b"]'}, "ci", root=root, stream=stream)
    return root, stream.getvalue()


@pytest.fixture
def result(finished: tuple[Path, str], tmp_path: Path) -> Path:
    """A copy of the finished clone, to be changed at will."""
    return Path(shutil.copytree(finished[0], tmp_path / "clone"))


GIVEN = {"rate": "2", "classes": '["a", "b"]'}


# What a run leaves


def test_the_folder_holds_the_three_files_and_what_went_to_standard_error(finished: tuple[Path, str]) -> None:
    folder = finished[0] / "results" / "ci" / "demo"
    assert set(snapshot(folder)) == {"executed.ipynb", "record.json", "stamp.json", "stderr.txt"}
    assert "wrote to standard error; the page leaves it out, results/ci/demo/stderr.txt has it" in finished[1]


def test_records_come_out_exactly_and_parameters_go_in(finished: tuple[Path, str]) -> None:
    record = json.loads((finished[0] / "results/ci/demo/record.json").read_text())
    assert record["accuracy"]["value"] == 0.8
    assert (record["n"], record["rate"], record["classes"]) == (3, 2.0, ["a", "b"])
    assert isinstance(record["rate"], float), "an int given for a float arrives as one"


def test_the_kernel_is_this_python_with_a_fixed_environment(finished: tuple[Path, str]) -> None:
    record = json.loads((finished[0] / "results/ci/demo/record.json").read_text())
    assert record["python"] == digest(sys.executable)
    assert record["library"] == digest(str(ROOT / "zsclib" / "__init__.py"))
    assert record["environment"] == {
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": "1",
        "ZSC_PROFILE": "ci",
    }


def test_the_stamp_says_what_was_run_and_where_in_general_words(finished: tuple[Path, str]) -> None:
    folder = finished[0] / "results" / "ci" / "demo"
    stamp = json.loads((folder / "stamp.json").read_text())
    assert stamp["notebook"] == "demo"
    assert stamp["profile"] == "ci"
    assert stamp["parameters"] == {"n": 3, "rate": 2.0, "name": "x", "classes": ["a", "b"], "seed": 0}
    assert stamp["seed"] == 0
    assert stamp["library_hash"] == "library"
    assert len(stamp["notebook_hash"]) == len(stamp["parameters_hash"]) == 64
    assert stamp["seconds"] > 0
    assert stamp["seconds_reused"] == 0
    assert time.strptime(stamp["started"], "%Y-%m-%dT%H:%M:%SZ")
    assert stamp["hardware"]["cpus"] >= 1
    assert set(stamp["hardware"]) == {"cpus", "cpu", "gpu"}
    assert {"python", "torch", "diffusers"} <= set(stamp["software"])
    executed = nbformat.read(folder / "executed.ipynb", as_version=4)
    assert executed.metadata["zsc"] == stamp
    assert "papermill" not in executed.metadata


def test_the_executed_notebook_shows_figures_and_readable_results(finished: tuple[Path, str]) -> None:
    executed = nbformat.read(finished[0] / "results/ci/demo/executed.ipynb", as_version=4)
    outputs = [output for cell in executed.cells[1:] for output in cell.outputs]
    (figure,) = (output for output in outputs if "image/png" in output.get("data", {}))
    assert Image.open(io.BytesIO(base64.b64decode(figure["data"]["image/png"]))).width == 1440
    assert figure["metadata"]["image/png"]["width"] == 720
    shown = next(output for output in outputs if "zsc_record" in output.get("metadata", {}))
    assert shown["metadata"]["zsc_record"]["n"] == 3
    assert "accuracy" in shown["data"]["text/plain"]
    progress = next(cell for cell in executed.cells if "tqdm(range" in cell.source)
    assert progress.outputs == [], "a progress bar that clears itself leaves nothing"


def test_no_path_of_this_machine_is_in_any_output(finished: tuple[Path, str]) -> None:
    root = finished[0]
    for path in (root / "results/ci/demo").glob("*.*"):
        text = path.read_text()
        for place in (root, ROOT, Path.home(), sys.prefix, "ipykernel_"):
            assert str(place) not in text, f"{place} in {path.name}"
    assert "data ~/x <python>/bin/python" in (root / "results/ci/demo/executed.ipynb").read_text()
    assert "<cell>:2: UserWarning: careful" in (root / "results/ci/demo/stderr.txt").read_text()
    executed = nbformat.read(root / "results/ci/demo/executed.ipynb", as_version=4)
    assert "careful" not in str([cell.get("outputs") for cell in executed.cells])


def test_progress_is_shown(finished: tuple[Path, str]) -> None:
    lines = finished[1].splitlines()
    assert lines[:2] == ["demo (ci): never run", "  n=3, rate=2.0, name='x', classes=['a', 'b'], seed=0"]
    assert "[4/8] import hashlib, os, sys, time, warnings" in lines
    assert "[3/8] assert name != 'fail', 'told to\\nfail'" in lines
    assert any("UserWarning: careful" in line for line in lines)
    assert lines[-1].startswith("demo (ci): done in")


# Up to date or stale


def test_an_unchanged_result_is_up_to_date(result: Path) -> None:
    assert runner.stale_because("demo", "ci", GIVEN, result) is None
    assert runner.stale_because("notebooks/demo.ipynb", "ci", GIVEN, result) is None
    stream = io.StringIO()
    before = snapshot(result / "results/ci/demo")
    runner.run("demo", GIVEN, "ci", root=result, stream=stream)
    assert stream.getvalue() == "demo (ci): up to date\n"
    assert snapshot(result / "results/ci/demo") == before


def test_what_makes_a_result_stale(result: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def why(given: dict = GIVEN, profile: str = "ci") -> str | None:
        return runner.stale_because("demo", profile, given, result)

    assert why(profile="book") == "never run"
    assert why(GIVEN | {"n": 4}) == "the parameters have changed (n: 3 → 4)"
    (result / "data/profiles/ci.yml").write_text("demo: {n: 5}\n")
    assert why() == "the parameters have changed (n: 3 → 5)"
    (result / "data/profiles/ci.yml").write_text("demo: {n: 3}\n")
    assert why() is None
    monkeypatch.setattr(runner, "hash_library", lambda root, code: "other")
    assert why() == "the library or its data has changed"
    monkeypatch.setattr(runner, "hash_library", lambda root, code: "library")
    path = result / "notebooks/demo.ipynb"
    node = nbformat.read(path, as_version=4)
    node.cells[2].outputs = [nbformat.v4.new_output("stream", text="x")]
    node.cells[2].execution_count = 7
    nbformat.write(node, path)
    assert why() is None, "outputs are not the notebook"
    node.cells[0].source += "!"
    nbformat.write(node, path)
    assert why() == "the notebook has changed"
    (result / "results/ci/demo/record.json").unlink()
    assert why() == "never run"


def test_the_library_hash_follows_code_and_data_but_no_comment(tmp_path: Path) -> None:
    package, root = tmp_path / "lib" / "zsclib", tmp_path / "clone"
    files = {
        package / "a.py": '"""Doc."""\n\n\ndef f(x):\n    """Says."""\n    # why\n    return x + 1  # one\n',
        package / "study/book.py": "X = 1\n",
        root / "data/prompts/p.csv": "a",
        root / "data/claims/c.yml": "a",
        root / "data/models/m/w.safetensors": "a",
        root / "data/models/m/README.md": "a",
    }
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    first = hash_library(root, package)
    (package / "a.py").write_text('"""Other."""\ndef f(x):\n\n    return x + 1\n')
    (package / "study/book.py").write_text("X = 2\n")
    (root / "data/models/m/README.md").write_text("b")
    assert hash_library(root, package) == first
    for path in (package / "a.py", *(p for p in files if p.suffix in {".csv", ".yml", ".safetensors"})):
        before = hash_library(root, package)
        path.write_text(path.read_text() + "\nY = 3\n")
        assert hash_library(root, package) != before, path
    (package / "broken.py").write_text("def (:\n")
    assert hash_library(root, package) != first


def test_outcomes_of_a_study_count_for_notebooks_that_name_it(tmp_path: Path) -> None:
    names, other = 'study("retrieval", package)', 'from zsclib.papers import retrieval'
    outcomes = tmp_path / "data/records/study/retrieval/digits/real-only.0.parquet"
    shared = tmp_path / "data/records/scaling.json"
    outcomes.parent.mkdir(parents=True)

    def hashes() -> list[str]:
        return [hash_library(tmp_path, tmp_path / "lib", code) for code in (names, None, other)]

    before = hashes()
    outcomes.write_text("1")
    after = hashes()
    assert [one == two for one, two in zip(before, after, strict=True)] == [False, False, True]
    shared.write_text("1")
    assert all(one != two for one, two in zip(after, hashes(), strict=True))


def test_code_text_keeps_strings_and_drops_words() -> None:
    assert code_text('def f():\n    "doc"\n    return 1\n') == code_text("def f(): # c\n\n    return 1\n")
    assert code_text('X = """a\n\n  # b  \n"""\n') != code_text('X = """a\n  # b  \n"""\n')
    assert code_text('X = "# a"\n') != code_text('X = "# b"\n')
    assert code_text('def f(): "doc"; return 1\n') == 'def f(): "doc"; return 1'


# Mistakes are found before a kernel starts


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sed": "1"}, "no parameter 'sed' .did you mean 'seed'.*it has: n, rate, name, classes, seed"),
        ({"n": "many"}, r"'n' must be int \| None, got 'many'"),
        ({"n": "1.5"}, r"'n' must be int \| None, got '1.5'"),
        ({"n": True}, r"'n' must be int \| None, got True"),
        ({"rate": "nan"}, "'rate' must be float, got 'nan'"),
        ({"rate": "true"}, "'rate' must be float"),
        ({"seed": "0.5"}, "'seed' must be int"),
        ({"classes": "cat"}, "'classes' must be list.str., got 'cat', e.g. -p classes="),
        ({"classes": "[1, 2]"}, "'classes' must be list.str."),
        ({"name": 3}, "'name' must be str, got 3"),
    ],
)
def test_wrong_parameters(root: Path, given: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        runner.plan("demo", given, root=root)


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ({"n": "3"}, 3),
        ({"n": "None"}, None),
        ({"n": "null"}, None),
        ({"rate": "3"}, 3.0),
        ({"rate": "1e-3"}, 0.001),
        ({"name": "3"}, "3"),
        ({"name": "a photo of a {}."}, "a photo of a {}."),
        ({"name": "'quoted'"}, "quoted"),
        ({"name": "folder:a/b"}, "folder:a/b"),
        ({"classes": '["a"]'}, ["a"]),
        ({"classes": "('a', 'b')"}, ["a", "b"]),
    ],
)
def test_values_from_the_command_line(root: Path, given: dict, value: object) -> None:
    (key,) = given
    planned = runner.plan("demo", given, root=root)
    assert planned.parameters[key] == value
    assert type(planned.parameters[key]) is type(value)
    assert planned.passed == {key: value}


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("bool", ["true", "False"], ["1", "yes"]),
        ("Literal['l1', 'l2']", ["l1", "'l2'"], ["l3"]),
        ("str | None", ["none", "text"], []),
        ("Optional[float]", ["1", "None"], ["x"]),
        ("tuple[int, ...]", ["[1, 2]", "(1,)"], ["1", "[1.5]"]),
        ("dict[str, float]", ['{"a": 1}'], ['{"a": "b"}', "[1]"]),
        ("list", ["[1, 'a']"], ["1"]),
        ("Any", ["1", "text", "[1]"], []),
    ],
)
def test_kinds(kind: str, good: list[str], bad: list[str]) -> None:
    parameter = parameters.Parameter("x", None, kind)
    for text in good:
        parameter.parse(text)
    for text in bad:
        with pytest.raises(TypeError):
            parameter.parse(text)


def test_defaults_give_way_to_the_profile_and_that_to_the_user(root: Path) -> None:
    assert runner.plan("demo", root=root).parameters["n"] is None
    assert runner.plan("demo", profile="ci", root=root).parameters["n"] == 3
    assert runner.plan("demo", {"n": 4}, "ci", root=root).parameters["n"] == 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("demo: {m: 3}", "no parameter 'm' .in data/profiles/ci.yml"),
        ("demo: {n: '3'}", "'n' must be int .*in data/profiles/ci.yml"),
        ("demo: [n]", "ci.yml: expected"),
    ],
)
def test_a_wrong_profile_is_named(root: Path, content: str, message: str) -> None:
    (root / "data/profiles/ci.yml").write_text(content)
    with pytest.raises(ValueError, match=message):
        runner.plan("demo", profile="ci", root=root)


def test_unknown_notebook_and_profile(root: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no notebook 'dmo'.*did you mean 'demo'.*there are: demo"):
        runner.plan("dmo", root=root)
    with pytest.raises(ValueError, match="no profile 'boook' in data/profiles/ .did you mean 'book'"):
        runner.plan("demo", profile="boook", root=root)


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("n = len('abc')", "must be a literal, not `n = len"),
        ("n = 1\nprint(n)", "takes `name = literal` lines, not `print"),
        ("n: int = 'a'", "the default in `n: int = 'a'` is not of its kind"),
        ("n = 1\nn = 2", "one name, assigned once"),
        ("%matplotlib inline", "not plain Python"),
        ("n: Path = None", "a parameter of kind `Path` is not supported"),
    ],
)
def test_malformed_parameter_cells(root: Path, cell: str, message: str) -> None:
    write_notebook(root, "demo", parameters=cell)
    with pytest.raises(ValueError, match=message):
        runner.plan("demo", root=root)


def test_exactly_one_parameters_cell_in_a_source_notebook(root: Path) -> None:
    path = root / "notebooks/demo.ipynb"
    node = nbformat.read(path, as_version=4)
    node.cells.insert(2, new_code_cell("n = 3", metadata={"tags": ["injected-parameters"]}))
    nbformat.write(node, path)
    with pytest.raises(ValueError, match="executed copy"):
        runner.plan("demo", root=root)
    node.cells[2].metadata["tags"] = ["parameters"]
    nbformat.write(node, path)
    with pytest.raises(ValueError, match="need one code cell tagged 'parameters', found 2"):
        runner.plan("demo", root=root)
    path.write_text("{")
    with pytest.raises(ValueError, match=r"demo\.ipynb cannot be read"):
        runner.plan("demo", root=root)


def test_profiles_are_the_files_that_are_there(root: Path, capsys: pytest.CaptureFixture) -> None:
    assert parameters.profile_names(root) == ["book", "ci", "study"]
    (root / "data/profiles/mine.yml").write_text("demo: {n: 9}\n")
    assert runner.plan("demo", profile="mine", root=root).parameters["n"] == 9
    assert cli.main(["--root", str(root), "list"]) == 0
    assert "--profile mine   never run" in capsys.readouterr().out
    assert cli.main(["--root", str(root), "run", "demo", "--profile", "their"]) == 2
    assert "no profile 'their' in data/profiles/; there are: book, ci, mine, study" in capsys.readouterr().err


def test_the_profiles_of_this_project_fit_its_notebooks() -> None:
    from zsclib.study.notebooks import notebook_names

    assert set(parameters.profile_names()) >= {"ci", "book", "study"}
    for notebook in notebook_names():
        for profile in parameters.profile_names():
            runner.plan(notebook, profile=profile)


# Failures


def test_a_failing_cell_leaves_the_older_result(result: Path, capsys: pytest.CaptureFixture) -> None:
    before = snapshot(result / "results/ci/demo")
    arguments = ["--root", str(result), "run", "demo", "--profile", "ci", "-p", "name=fail"]
    assert cli.main(arguments) == 1
    said = capsys.readouterr().err
    assert (
        "notebook demo, cell 3/8 (`assert name != 'fail', 'told to\\nfail'`): AssertionError: told to" in said
    )
    assert "results/ci/demo/failed.ipynb" in said
    assert "Traceback" not in said
    after = snapshot(result / "results/ci/demo")
    failed = after.pop("failed.ipynb").decode()
    assert after == before
    assert "AssertionError" in failed
    assert str(result) not in failed
    assert str(Path.home()) not in failed


def test_a_kernel_start_that_fails_is_tried_once_more(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def refuses(times: int) -> Callable:
        def execute(
            source: Path, output: Path, *arguments: object, **options: object
        ) -> nbformat.NotebookNode:
            calls.append(1)
            if len(calls) <= times:
                raise RuntimeError("Kernel died before replying to kernel_info")
            return nbformat.read(source, as_version=4)

        return execute

    monkeypatch.setattr(papermill, "execute_notebook", refuses(1))
    stream = io.StringIO()
    runner.run("demo", profile="ci", root=root, stream=stream)
    assert len(calls) == 2
    assert "trying once more" in stream.getvalue()
    calls.clear()
    monkeypatch.setattr(papermill, "execute_notebook", refuses(2))
    with pytest.raises(runner.RunError, match="did not start: Kernel died"):
        runner.run("demo", profile="book", root=root, stream=stream)
    assert len(calls) == 2


def test_one_run_per_folder(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "execute", lambda source, *_: nbformat.read(source, as_version=4))
    lock = root / "results/ci/demo/.lock"
    lock.parent.mkdir(parents=True)
    with lock.open("a+") as file:
        file.write("12345\n")
        file.flush()
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(runner.RunError, match="demo is being run as ci by process 12345"):
            runner.run("demo", profile="ci", root=root, stream=io.StringIO())
        runner.run("demo", profile="book", root=root, stream=io.StringIO())
    # The process that held it is gone; its file is not.
    runner.run("demo", profile="ci", root=root, stream=io.StringIO())
    assert lock.read_text() == f"{os.getpid()}\n"


SLOW = """\
import os, time
import numpy as np
from zsclib.cache import Cache
from zsclib.study.record import record
cache, computed = Cache(), 0
for i in range(3):
    def work():
        global computed
        computed += 1
        return {"x": np.array([i])}
    cache.compute({"item": i}, work, {"seconds": 2})
    if i == 1 and not os.path.exists("go"):
        print("waiting", flush=True)
        time.sleep(60)
record(computed=computed)
"""


def test_a_killed_run_goes_on_where_it_was(root: Path) -> None:
    write_notebook(root, "slow", SLOW)
    command = [sys.executable, "-m", "zsclib", "--root", str(root), "run", "slow", "--profile", "ci"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True)
    try:
        assert any("waiting" in line for line in process.stdout), "the run ended too early"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert not (root / "results/ci/slow/stamp.json").exists()
    (root / "go").touch()
    folder = runner.run("slow", profile="ci", root=root, stream=io.StringIO())
    assert json.loads((folder / "record.json").read_text()) == {"computed": 1}
    stamp = json.loads((folder / "stamp.json").read_text())
    assert stamp["seconds_reused"] == 4, "what the killed run had spent on the two it kept"
    assert set(snapshot(folder)) == {"executed.ipynb", "record.json", "stamp.json"}


# The command line


def test_commands(result: Path, capsys: pytest.CaptureFixture) -> None:
    given = ["-p", "rate=2", "-p", 'classes=["a", "b"]']
    assert cli.main(["--root", str(result), "run", "demo", "--profile", "ci", *given]) == 0
    assert "up to date" in capsys.readouterr().out
    assert cli.main(["--root", str(result), "list"]) == 0
    listed = capsys.readouterr().out
    assert "-p n=None  int | None; ci 3" in listed
    assert "--profile ci     the parameters have changed" in listed
    assert "--profile study  never run" in listed


def test_a_reader_that_has_seen_enough_is_no_error(result: Path) -> None:
    listing = subprocess.Popen(
        [sys.executable, "-m", "zsclib", "--root", str(result), "list"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    listing.stdout.close()
    assert listing.stderr.read() == b"" and listing.wait() == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["demo", "-p", "sed=1"], "did you mean 'seed'"),
        (["demo", "-p", "n"], "-p takes name=value, got 'n'"),
        (["demo", "-p", "n=1", "-p", "n=2"], "-p gives 'n' twice"),
        (["dmo"], "there are: demo"),
    ],
)
def test_wrong_usage_is_told_without_a_traceback(
    root: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture
) -> None:
    assert cli.main(["--root", str(root), "run", *arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith("zsc: ")
    assert message in said
    assert not (root / "results").exists()


# Plain papermill, and paths


def test_plain_papermill_works_from_a_clone_that_is_not_installed(root: Path, tmp_path: Path) -> None:
    """From the clone's root, `zsclib` is found, results are shown, and no run folder is made."""
    write_notebook(
        root, "plain", "from zsclib.study.record import record\nrecord(n=n)", "import zsclib; zsclib.__file__"
    )
    (root / "zsclib").symlink_to(ROOT / "zsclib")
    out = tmp_path / "out.ipynb"
    command = ["-m", "papermill", root / "notebooks/plain.ipynb", out, "-p", "n", "7", "-k", "python3"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("ZSC_", "PYTHONPATH"))}
    subprocess.run([sys.executable, *command], cwd=root, env=environment, check=True, capture_output=True)
    outputs = [o for cell in nbformat.read(out, as_version=4).cells[1:] for o in cell.outputs]
    assert outputs[0]["metadata"]["zsc_record"] == {"n": 7}
    assert str(root) in outputs[1]["data"]["text/plain"]
    assert not (root / "results").exists()


@pytest.mark.parametrize(
    ("text", "neutral"),
    [
        ("{root}/data/x", "data/x"),
        ("in {root}.", "in .."),
        ("\x1b[32m{root}/a.py\x1b[0m", "\x1b[32ma.py\x1b[0m"),
        ("file://{root}/x", "file://x"),
        ("{root}-other/x", "{root}-other/x"),
        ("{home}/x", "~/x"),
        ("x{home}", "x{home}"),
        ("{prefix}/lib/torch/a.py", "<python>/lib/torch/a.py"),
    ],
)
def test_neutral_paths(text: str, neutral: str) -> None:
    names = {"root": "/srv/clone", "home": str(Path.home()), "prefix": sys.prefix}
    replace = Neutral([Path("/srv/clone")])
    assert replace({"a": [text.format(**names)]}) == {"a": [neutral.format(**names)]}
