"""The rooms of the library and who may import whom: the sentences under the tree in the design, on the import graph."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "zsclib"
GROUND = ("paths", "hashing", "seeds", "checks", "cache", "workers", "prompts")
ROOMS = ("images", "world", "models", "pools", "papers", "pretraining", "pocket", "study")
SHARED = ("datasets", "sampling", "training", "setmetrics", "own_sets", "extra", "generator_pool")
PAPERS = ("datadream", "diffusion_classifier", "diversity", "retrieval")
TOP = ("zsclib.pretraining", "zsclib.pocket")  # and nothing of papers or below imports them
LINES = 350  # of a module
PARAMETERS = 8  # of a public function
FIELDS = 3  # of a dataclass that may be filled by position


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@cache
def modules() -> dict[str, ast.Module]:
    """Return every module of the library, parsed."""
    paths = sorted(
        path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or path.stem != "__init__"
    )
    return {name_of(path): ast.parse(path.read_text(encoding="utf-8")) for path in paths}


def imports(tree: ast.AST, names: frozenset[str]) -> Iterator[str]:
    """Yield the modules of `names` that a module imports, at its top or anywhere inside."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative imports hide who imports whom"
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name for name in inner if name in names)
            if node.module in names and not all(name in names for name in inner):
                yield node.module


@cache
def graph() -> dict[str, frozenset[str]]:
    names = frozenset(modules())
    return {name: frozenset(imports(tree, names)) - {name} for name, tree in modules().items()}


def inside(name: str, room: str) -> bool:
    return name == room or name.startswith(f"{room}.")


def crossings(importers: tuple[str, ...], imported: tuple[str, ...], but: tuple[str, ...] = ()) -> list[str]:
    """Return the imports of a module in some rooms by one in others, those in the rooms of `but` left out."""

    def within(name: str, rooms: tuple[str, ...]) -> bool:
        return any(inside(name, room) for room in rooms)

    return [
        f"{name} imports {other}"
        for name, others in graph().items()
        for other in sorted(others)
        if within(name, importers) and not within(name, but) and within(other, imported)
    ]


def below_study() -> tuple[str, ...]:
    """Return papers and all that they stand on."""
    return tuple(f"zsclib.{room}" for room in (*GROUND, *SHARED, "images", "world", "models", "pools", "papers"))


def test_the_rooms_are_there_and_no_others():
    files = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__", "cli"}
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert folders == set(ROOMS)
    assert set(GROUND) | set(SHARED) <= files
    assert files - set(GROUND) - set(SHARED) <= {"recipe"}  # how a network is trained, as data
    assert [path.name for path in PACKAGE.glob("papers/*.py")] == ["__init__.py"]


def test_the_graph_is_not_empty():
    """The tests below would pass on an empty one."""
    assert "zsclib.paths" in graph()["zsclib.cache"]
    assert "zsclib.workers" in graph()["zsclib.papers.diffusion_classifier.engine"]
    assert "zsclib.world.targets" in graph()["zsclib.datasets"], "also imports inside functions"
    assert sum(map(len, graph().values())) > 150
    assert crossings(("zsclib.cache",), ("zsclib.paths",)) == ["zsclib.cache imports zsclib.paths"]


def test_every_paper_has_the_same_rooms_and_knows_no_other_paper():
    assert {path.parent.name for path in PACKAGE.glob("papers/*/__init__.py")} == set(PAPERS)
    for paper in PAPERS:
        for name in ("method", "experiments", "contrasts"):
            assert (PACKAGE / "papers" / paper / f"{name}.py").is_file(), f"{paper} lacks {name}.py"
        others = tuple(f"zsclib.papers.{other}" for other in PAPERS if other != paper)
        assert crossings((f"zsclib.papers.{paper}",), others) == []


def test_papers_and_all_below_know_nothing_of_study_or_of_how_the_models_came_about():
    assert crossings(below_study(), ("zsclib.study", "zsclib.cli", *TOP)) == []


def test_pocket_and_pretraining_are_the_top():
    """Commands start them, and figures show what they measured."""
    assert crossings(("zsclib",), TOP, but=(*TOP, "zsclib.cli", "zsclib.study.figures")) == []
    assert crossings(("zsclib.pretraining",), ("zsclib.pocket",)) == []


def test_of_study_only_the_figures_know_papers():
    assert crossings(("zsclib.study",), ("zsclib.papers",), but=("zsclib.study.figures",)) == []


def test_the_ground_floor_knows_nothing_above_it():
    ground = tuple(f"zsclib.{name}" for name in GROUND)
    above = tuple(name for name in graph() if name not in ground)
    assert crossings(ground, above) == []


def test_images_know_only_the_ground_floor():
    above = tuple(f"zsclib.{room}" for room in (*SHARED, *ROOMS) if room != "images")
    assert crossings(("zsclib.images",), above) == []


def test_pools_stand_on_images_models_and_the_ground_alone():
    above = ("zsclib.world", "zsclib.papers", *TOP, *(f"zsclib.{name}" for name in SHARED))
    assert crossings(("zsclib.pools",), above) == []
    below = ("zsclib.images", "zsclib.world", "zsclib.models", *(f"zsclib.{name}" for name in GROUND))
    assert crossings(below, ("zsclib.pools",)) == []


def test_papers_stand_on_what_is_shared_and_that_does_not_know_them():
    rest = tuple(room for room in below_study() if room != "zsclib.papers")
    assert crossings(rest, ("zsclib.papers",)) == []


def test_there_is_no_circle():
    try:
        list(TopologicalSorter(graph()).static_order())
    except CycleError as error:
        pytest.fail(f"an import circle: {' -> '.join(error.args[1])}")


def test_no_module_is_longer_than_a_reader_bears():
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in PACKAGE.rglob("*.py")}
    assert {str(path.relative_to(ROOT)): n for path, n in lengths.items() if n > LINES} == {}


def test_no_public_function_takes_more_than_eight_parameters():
    long = []
    for name, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and (
                not node.name.startswith("_") or node.name == "__init__"
            ):
                arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                count = len([argument for argument in arguments if argument.arg not in ("self", "cls")])
                if count > PARAMETERS:
                    long.append(f"{name}.{node.name} takes {count}")
    assert long == []


def positional_fields(node: ast.ClassDef) -> list[str]:
    """Return the fields of a dataclass that may be filled by position: those before `_: KW_ONLY`."""
    fields = [line for line in node.body if isinstance(line, ast.AnnAssign)]
    names = []
    for field in fields:
        if ast.unparse(field.annotation).endswith("KW_ONLY"):
            break
        if "ClassVar" not in ast.unparse(field.annotation) and "kw_only=True" not in ast.unparse(field):
            names.append(field.target.id)
    return names


def test_a_dataclass_of_more_than_three_fields_is_filled_by_name():
    loose = []
    for name, tree in modules().items():
        for node in ast.walk(tree):
            for decorator in node.decorator_list if isinstance(node, ast.ClassDef) else ():
                text = ast.unparse(decorator)
                if (
                    "dataclass" in text
                    and "kw_only=True" not in text
                    and len(positional_fields(node)) > FIELDS
                ):
                    loose.append(f"{name}.{node.name}: {', '.join(positional_fields(node))}")
    assert loose == []


def definitions(name: str) -> list[str]:
    """Return the modules that define a function of that name or assign it at their top."""
    where = []
    for module, tree in modules().items():
        nodes = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == name]
        nodes += [
            node
            for node in tree.body
            if isinstance(node, ast.Assign)
            and any(isinstance(t, ast.Name) and t.id == name for t in node.targets)
        ]
        where += [module] * len(nodes)
    return where


def test_what_all_need_is_defined_once():
    assert definitions("ROOT") == definitions("atomic") == definitions("write_json") == ["zsclib.paths"]
    assert definitions("digest") == definitions("hash_file") == ["zsclib.hashing"]
    assert len(definitions("to_tensor")) == 1


def calls(*names: str) -> list[str]:
    """Return the modules that call a function or method of one of these names, with the line."""
    return [
        f"{module}, line {node.lineno}"
        for module, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in names
    ]


def test_wilsons_interval_is_computed_in_one_place():
    """scipy has it as `proportion_ci`; and nobody computes it by hand under its name."""
    assert {line.partition(",")[0] for line in calls("proportion_ci")} == {"zsclib.study.stats"}
    assert definitions("wilson") in ([], ["zsclib.study.stats"])


def test_write_then_rename_is_done_in_one_place():
    """`os.replace`, `os.rename` and `Path.replace`; `str.replace` takes two arguments, `dataclasses.replace` names."""
    renames = set()
    for module, tree in modules().items():
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            own = ast.unparse(node.func)
            path_method = (
                node.func.attr in ("replace", "rename") and len(node.args) == 1 and not node.keywords
            )
            if own in ("os.replace", "os.rename", "os.renames", "shutil.move") or path_method:
                renames.add(f"{module}: {ast.unparse(node)}")
    assert renames == {"zsclib.paths: temporary.replace(path)", "zsclib.cache: path.replace(aside)"}


def test_images_become_tensors_in_one_place():
    """uint8 to [-1, 1] is a division by 127.5, as an operator or as a method."""
    places = []
    for module, tree in modules().items():
        for node in ast.walk(tree):
            divided_by = []
            if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
                divided_by = [node.right]
            elif isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in ("div", "div_"):
                divided_by = node.args
            if [ast.unparse(argument) for argument in divided_by] == ["127.5"]:
                places.append(module)
    assert places == definitions("to_tensor") and len(places) == 1
