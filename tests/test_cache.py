"""Cache: what is put comes back, damage is noticed, processes do not collide."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import zsclib.seeds
from zsclib.cache import Cache
from zsclib.hashing import key
from zsclib.paths import ROOT
from zsclib.study import stats


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "artefacts")


ARRAYS = {
    "scores": np.arange(12, dtype=np.float32).reshape(3, 4)[:, ::2],
    "half": np.array([0.5, np.nan, np.inf], dtype=np.float16),
    "labels": np.array([3, -1]),
    "images": np.full((2, 2, 3), 255, np.uint8),
    "correct": np.array([True, False]),
    "scalar": np.float64(0.1) * np.ones(()),
    "empty": np.zeros((0, 10), np.float32),
    "big_endian": np.array([1, 2], dtype=">i4"),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
}


def test_what_is_put_comes_back(cache: Cache) -> None:
    assert cache.get("k") is None
    cache.put("k", ARRAYS, {"images": 2})
    back = cache.get("k")
    assert set(back) == set(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(back[name], array)
        assert back[name].dtype == array.dtype.newbyteorder("=")
        assert back[name].shape == array.shape
    about = cache.about("k")
    assert about["images"] == 2
    assert about["seconds"] >= 0


def test_text_and_objects_are_refused_before_anything_is_written(cache: Cache) -> None:
    for array in (np.array(["a"]), np.array([None]), np.array([1j])):
        with pytest.raises(TypeError, match="k: x is of type"):
            cache.put("k", {"x": array})
    assert not cache.folder.exists()


def test_any_text_can_be_a_key(cache: Cache) -> None:
    for text in ("a/b", "a b", "..", ".hidden", "x" * 300, "ä"):
        cache.put(text, {"x": np.array([len(text)])})
        assert cache.get(text)["x"].tolist() == [len(text)]
    assert {path.parent for path in cache.folder.rglob("*")} == {cache.folder}
    with pytest.raises(ValueError, match="empty"):
        cache.get("")


def test_compute_calls_once(cache: Cache, tmp_path: Path) -> None:
    calls = []

    def function() -> dict[str, np.ndarray]:
        calls.append(1)
        return {"x": [1.0, 2.0]}

    parts = {"name": "test", "n": 3}
    first = cache.compute(parts, function)
    again = Cache(cache.folder).compute({"n": 3, "name": "test"}, function)
    assert len(calls) == 1
    np.testing.assert_array_equal(first["x"], again["x"])
    cache.compute(parts | {"n": 4}, function)
    assert len(calls) == 2


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
def test_damage_is_reported_set_aside_and_mended(cache: Cache, damage, capsys: pytest.CaptureFixture) -> None:
    parts = {"n": 1}
    name = key(**parts)
    cache.put(name, {"x": np.arange(100)}, {"images": 1})
    damage(cache.folder / f"{name}.safetensors")
    assert cache.compute(parts, lambda: {"x": np.arange(3)})["x"].tolist() == [0, 1, 2]
    assert f"{name}.safetensors is damaged" in capsys.readouterr().out
    assert (cache.folder / f"{name}.damaged").is_file()
    assert cache.get(name)["x"].tolist() == [0, 1, 2]


def test_a_failed_put_leaves_nothing(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, data: bytes) -> None:
        self.touch()
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        cache.put("k", {"x": np.zeros(3)})
    assert list(cache.folder.iterdir()) == []
    assert cache.get("k") is None


def test_several_processes_at_once(cache: Cache) -> None:
    """Three writers and this reader on one key: only whole results are ever read."""
    code = (
        "import sys, numpy as np; from zsclib.cache import Cache\n"
        "cache = Cache(sys.argv[1])\n"
        "for i in range(40): cache.put('k', {'x': np.full(20_000, i)})"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, cache.folder], cwd=ROOT) for _ in range(3)]
    times = 0
    while any(writer.poll() is None for writer in writers):
        if (arrays := cache.get("k")) is not None:
            assert len(np.unique(arrays["x"])) == 1
            times += 1
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert times > 0
    assert [path.name for path in cache.folder.iterdir()] == ["k.safetensors"]


def test_a_cache_of_a_module_forgets_what_other_code_made(cache: Cache) -> None:
    of_seeds, of_stats = (Cache(cache.folder, code=module) for module in (zsclib.seeds, stats))
    of_seeds.put("k", {"x": np.array([1])})
    assert of_stats.get("k") is None
    assert cache.get("k") is None
    assert Cache(cache.folder, code=zsclib.seeds).get("k")["x"].tolist() == [1]


def test_the_default_folder_is_that_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZSC_RUN_DIR", str(tmp_path))
    assert Cache().folder == tmp_path / "artefacts"
    monkeypatch.delenv("ZSC_RUN_DIR")
    assert Cache().folder == ROOT / "results" / "interactive" / "artefacts"


def test_reuse_of_earlier_work_is_noted_once(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "reused"
    monkeypatch.setenv("ZSC_REUSED", str(log))
    cache.put("k", {"x": np.zeros(3)}, {"seconds": 12.5})
    cache.get("k")
    assert not log.exists(), "made in this run"
    later = Cache(cache.folder)
    later.get("k")
    later.get("k")
    assert [json.loads(line) for line in log.read_text().splitlines()] == [12.5]
