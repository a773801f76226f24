"""Cache: what is put comes back, a key knows everything, damage is found, processes do not collide."""

from __future__ import annotations

import json
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
from zsclib.paths import ROOT
from zsclib.study import stats


@dataclass
class Settings:
    steps: int
    rate: float = 0.5


@pytest.fixture
def store(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "artefacts")


ARRAYS = {
    "scores": np.arange(12, dtype=np.float32).reshape(3, 4)[:, ::2],
    "half": np.array([0.5, np.nan, np.inf], dtype=np.float16),
    "labels": np.array([3, -1]),
    "images": np.full((2, 2, 3), 255, np.uint8),
    "right": np.array([True, False]),
    "scalar": np.float64(0.1) * np.ones(()),
    "empty": np.zeros((0, 10), np.float32),
    "big_endian": np.array([1, 2], dtype=">i4"),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
}


def test_what_is_put_comes_back(store: Cache) -> None:
    assert store.get("k") is None
    store.put("k", ARRAYS, {"images": 2})
    back = store.get("k")
    assert set(back) == set(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(back[name], array)
        assert back[name].dtype == array.dtype.newbyteorder("=")
        assert back[name].shape == array.shape
    about = store.about("k")
    assert about["images"] == 2
    assert about["seconds"] >= 0


def test_text_and_objects_are_refused_before_anything_is_written(store: Cache) -> None:
    for array in (np.array(["a"]), np.array([None]), np.array([1j])):
        with pytest.raises(TypeError, match="k: x is of type"):
            store.put("k", {"x": array})
    assert not store.folder.exists()


def test_any_text_can_be_a_key(store: Cache) -> None:
    for key in ("a/b", "a b", "..", ".hidden", "x" * 300, "ä"):
        store.put(key, {"x": np.array([len(key)])})
        assert store.get(key)["x"].tolist() == [len(key)]
    assert {path.parent for path in store.folder.rglob("*")} == {store.folder}
    with pytest.raises(ValueError, match="empty"):
        store.get("")


def test_compute_calls_once(store: Cache, tmp_path: Path) -> None:
    calls = []

    def function() -> dict[str, np.ndarray]:
        calls.append(1)
        return {"x": [1.0, 2.0]}

    parts = {"name": "test", "n": 3}
    first = store.compute(parts, function)
    again = Cache(store.folder).compute({"n": 3, "name": "test"}, function)
    assert len(calls) == 1
    np.testing.assert_array_equal(first["x"], again["x"])
    store.compute(parts | {"n": 4}, function)
    assert len(calls) == 2


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
    keys = [Cache.key(part=value) for value in distinct]
    assert len(set(keys)) == len(keys)
    assert Cache.key(a=1, b=2) == Cache.key(b=2, a=1) != Cache.key(a=2, b=1)
    assert Cache.key(part=(1, 2)) == Cache.key(part=[1, 2]) == Cache.key(part=[np.int64(1), 2])
    assert Cache.key(part=np.float64(0.1)) == Cache.key(part=0.1)
    assert Cache.key(part=ARRAYS["fortran"]) == Cache.key(
        part=np.ascontiguousarray(ARRAYS["fortran"])
    )
    assert Cache.key(part=torch.ones(2)) == Cache.key(part=np.ones(2, np.float32))


def test_a_key_is_the_same_in_every_process() -> None:
    code = (
        "import numpy as np, zsclib.seeds; from zsclib.cache import Cache; "
        "print(Cache.key(a={'x': 1.5, 'y': 'z'}, b=np.arange(3), c=zsclib.seeds))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert run.stdout.strip() == Cache.key(a={"y": "z", "x": 1.5}, b=np.arange(3), c=zsclib.seeds)


@pytest.mark.parametrize("value", [{1, 2}, object(), iter([1]), np.array(["a"]), print])
def test_a_key_of_something_unstable_is_an_error(value: object) -> None:
    with pytest.raises(TypeError, match=r"settings.*\[1\]"):
        Cache.key(settings=[1, value])
    with pytest.raises(ValueError, match="at least one"):
        Cache.key()


def test_files_count_by_content(tmp_path: Path) -> None:
    for name, content in (("a", "same"), ("b", "same"), ("c", "other")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "w.bin").write_text(content)
    one, two, three = (Cache.key(weights=tmp_path / name) for name in "abc")
    assert one == two != three
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Cache.key(weights=tmp_path / "nowhere")


def test_code_counts_with_all_it_imports_but_not_its_comments(tmp_path: Path) -> None:
    """Follows zsclib imports: a changed helper changes the key, a changed comment or stranger does not."""

    def key(**files: str) -> str:
        for name, text in files.items():
            (tmp_path / "zsclib" / f"{name}.py").write_text(text)
        code = (
            "import zsclib.one; from zsclib.cache import Cache as A; print(A.key(c=zsclib.one))"
        )
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
    (package / "study").mkdir(parents=True)
    for name in ("artefacts", "provenance"):
        (package / "study" / f"{name}.py").write_text((ROOT / "zsclib" / "study" / f"{name}.py").read_text())
    first = key(
        one='"""Says one thing."""\nfrom zsclib import two\nX = two.X\n', two="X = 1\n", three="X = 1\n"
    )
    assert key(one='"""Says another."""\n\nfrom zsclib import two  # why\nX = two.X\n') == first
    assert key(three="X = 2\n") == first
    assert key(two="X = 2\n") != first


def damage_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def damage_about(path: Path) -> None:
    data = path.read_bytes()
    assert b"images" in data
    path.write_bytes(data.replace(b"images", b"imaged"))


def damage_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def damage_all(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [damage_byte, damage_about, damage_half, damage_all])
def test_damage_is_reported_set_aside_and_mended(
    store: Cache, damage, capsys: pytest.CaptureFixture
) -> None:
    parts = {"n": 1}
    key = store.key(**parts)
    store.put(key, {"x": np.arange(100)}, {"images": 1})
    damage(store.folder / f"{key}.safetensors")
    assert store.compute(parts, lambda: {"x": np.arange(3)})["x"].tolist() == [0, 1, 2]
    said = capsys.readouterr().out
    assert f"{key}.safetensors is damaged" in said
    assert (store.folder / f"{key}.damaged").is_file()
    assert store.get(key)["x"].tolist() == [0, 1, 2]


def test_a_failed_put_leaves_nothing(store: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, data: bytes) -> None:
        self.touch()
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        store.put("k", {"x": np.zeros(3)})
    assert list(store.folder.iterdir()) == []
    assert store.get("k") is None


def test_several_processes_at_once(store: Cache) -> None:
    """Three writers and this reader on one key: only whole artefacts are ever seen."""
    code = (
        "import sys, numpy as np; from zsclib.cache import Cache\n"
        "store = Cache(sys.argv[1])\n"
        "for i in range(40): store.put('k', {'x': np.full(20_000, i)})"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, store.folder], cwd=ROOT) for _ in range(3)]
    seen = 0
    while any(writer.poll() is None for writer in writers):
        if (arrays := store.get("k")) is not None:
            assert len(np.unique(arrays["x"])) == 1
            seen += 1
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert seen > 0
    assert [path.name for path in store.folder.iterdir()] == ["k.safetensors"]


def test_a_store_of_a_module_forgets_what_other_code_made(store: Cache) -> None:
    of_seeds, of_stats = (Cache(store.folder, code=module) for module in (zsclib.seeds, stats))
    of_seeds.put("k", {"x": np.array([1])})
    assert of_stats.get("k") is None
    assert store.get("k") is None
    assert Cache(store.folder, code=zsclib.seeds).get("k")["x"].tolist() == [1]


def test_the_default_folder_is_that_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZSC_RUN_DIR", str(tmp_path))
    assert Cache().folder == tmp_path / "artefacts"
    monkeypatch.delenv("ZSC_RUN_DIR")
    assert Cache().folder == ROOT / "results" / "interactive" / "artefacts"


def test_reuse_of_earlier_work_is_noted_once(
    store: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "reused"
    monkeypatch.setenv("ZSC_REUSED", str(log))
    store.put("k", {"x": np.zeros(3)}, {"seconds": 12.5})
    store.get("k")
    assert not log.exists(), "made in this run"
    later = Cache(store.folder)
    later.get("k")
    later.get("k")
    assert [json.loads(line) for line in log.read_text().splitlines()] == [12.5]


def test_a_namedtuple_is_a_list() -> None:
    point = namedtuple("point", "x y")(1, 2)
    assert Cache.key(p=point) == Cache.key(p=[1, 2])
