"""Keys: what determines a result, as a hash that knows everything and is the same in every process."""

from __future__ import annotations

import subprocess
import sys
from collections import namedtuple
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

import zsclib.seeds
from zsclib.cache import Cache
from zsclib.hashing import key
from zsclib.paths import ROOT
from zsclib.study import stats


@dataclass
class Settings:
    steps: int
    rate: float = 0.5


FORTRAN = np.asfortranarray(np.arange(6.0).reshape(2, 3))


def test_a_key_knows_everything(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "w.bin").write_bytes(b"1")
    (tmp_path / "b.bin").write_bytes(b"2")
    distinct = [
        1, 1.0, True, "1", None, 2, -1, 0.1, "a", [], [1], [[1]], [1, 2], [2, 1], {}, {"a": 1}, {"a": 2},
        {"b": 1}, {"a": [1]}, np.array([1]), np.array([1.0]), np.array([[1]]), np.array([1], np.int32),
        torch.ones(2), Settings(1), Settings(2), Settings(1, 0.25), tmp_path / "a", tmp_path / "b.bin",
        str(tmp_path / "b.bin"), zsclib.seeds, stats, stats.wilson, stats.accuracy, Cache,
    ]  # fmt: skip
    keys = [key(part=value) for value in distinct]
    assert len(set(keys)) == len(keys)
    assert key(a=1, b=2) == key(b=2, a=1) != key(a=2, b=1)
    assert key(part=(1, 2)) == key(part=[1, 2]) == key(part=[np.int64(1), 2])
    assert key(part=np.float64(0.1)) == key(part=0.1)
    assert key(part=FORTRAN) == key(part=np.ascontiguousarray(FORTRAN))
    assert key(part=torch.ones(2)) == key(part=np.ones(2, np.float32))


def test_a_key_is_the_same_in_every_process() -> None:
    code = (
        "import numpy as np, zsclib.seeds; from zsclib.hashing import key; "
        "print(key(a={'x': 1.5, 'y': 'z'}, b=np.arange(3), c=zsclib.seeds))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert run.stdout.strip() == key(a={"y": "z", "x": 1.5}, b=np.arange(3), c=zsclib.seeds)


@pytest.mark.parametrize("value", [{1, 2}, object(), iter([1]), np.array(["a"]), print])
def test_a_key_of_something_unstable_is_an_error(value: object) -> None:
    with pytest.raises(TypeError, match=r"settings.*\[1\]"):
        key(settings=[1, value])
    with pytest.raises(ValueError, match="at least one"):
        key()


def test_files_count_by_content(tmp_path: Path) -> None:
    for name, content in (("a", "same"), ("b", "same"), ("c", "other")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "w.bin").write_text(content)
    one, two, three = (key(weights=tmp_path / name) for name in "abc")
    assert one == two != three
    with pytest.raises(FileNotFoundError, match="nowhere"):
        key(weights=tmp_path / "nowhere")


def test_code_counts_with_all_it_imports_but_not_its_comments(tmp_path: Path) -> None:
    """Follows zsclib imports: a changed helper changes the key, a changed comment or stranger does not."""

    def key_with(**files: str) -> str:
        for name, text in files.items():
            (tmp_path / "zsclib" / f"{name}.py").write_text(text)
        code = "import zsclib.one; from zsclib.hashing import key; print(key(c=zsclib.one))"
        environment = {"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin"}
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            env=environment,
            cwd=tmp_path,
            check=True,
        )
        return done.stdout

    package = tmp_path / "zsclib"
    package.mkdir()
    (package / "hashing.py").write_text((ROOT / "zsclib" / "hashing.py").read_text())
    first = key_with(
        one='"""Says one thing."""\nfrom zsclib import two\nX = two.X\n', two="X = 1\n", three="X = 1\n"
    )
    assert key_with(one='"""Says another."""\n\nfrom zsclib import two  # why\nX = two.X\n') == first
    assert key_with(three="X = 2\n") == first
    assert key_with(two="X = 2\n") != first


def test_a_namedtuple_is_a_list() -> None:
    point = namedtuple("point", "x y")(1, 2)
    assert key(p=point) == key(p=[1, 2])
