"""What `record` shows, keeps and refuses."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from zsclib.study.record import KEY, read_records, record
from zsclib.study.stats import Estimate, wilson


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The `record.json` of a run under way."""
    path = tmp_path / "ci" / "demo" / "record.json"
    monkeypatch.setenv("ZSC_RECORD", str(path))
    return path


def test_values_are_kept_exactly_and_merged_over_calls(run: Path) -> None:
    record(accuracy=wilson(8, 10), steps=[1, 2.5])
    record(per_class={"cat": np.float32(0.5), "dog": np.int64(3)}, done=True, note="ä", nothing=None)
    kept = json.loads(run.read_text(encoding="utf-8"))
    assert Estimate(**kept["accuracy"]) == wilson(8, 10)
    assert kept["steps"] == [1, 2.5]
    assert kept["per_class"] == {"cat": 0.5, "dog": 3}
    assert (kept["done"], kept["note"], kept["nothing"]) == (True, "ä", None)
    assert [path.name for path in run.parent.iterdir()] == ["record.json"]


def test_a_name_has_one_value_per_run(run: Path) -> None:
    record(n=1)
    record(n=1)
    with pytest.raises(ValueError, match="already has 'n' as 1, now it is 2"):
        record(n=2)
    assert json.loads(run.read_text()) == {"n": 1}


@pytest.mark.parametrize(
    ("value", "where"),
    [
        (math.nan, "x is nan"),
        (np.float32("inf"), "x is inf"),
        ({"a": [1.0, math.nan]}, r"x\.a\[1\] is nan"),
        (Estimate(0.5, -math.inf, 1, 3), r"x\.low is -inf"),
    ],
)
def test_nan_and_infinity_are_refused_by_name(run: Path, value: object, where: str) -> None:
    with pytest.raises(ValueError, match=where):
        record(fine=1, x=value)
    assert not run.exists(), "nothing of a refused call is kept"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.zeros(3), "x is a ndarray .use .tolist"),
        ({1: 2}, "keys of x must be strings"),
        ({1}, "x is a set"),
    ],
)
def test_other_types_are_refused(run: Path, value: object, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        record(x=value)


def test_names_are_plain() -> None:
    with pytest.raises(ValueError, match="'Accuracy'"):
        record(Accuracy=1)


def test_a_reader_sees_text_and_the_output_carries_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ZSC_RECORD", raising=False)
    monkeypatch.setattr("zsclib.study.record.get_ipython", object)
    shown = []
    monkeypatch.setattr(
        "zsclib.study.record.display", lambda data, raw, metadata: shown.append((data, metadata))
    )
    record(accuracy=Estimate(0.8, 0.49, 0.9433, 10), per_class={"cat": 1 / 3}, steps=[1, 0.25])
    ((data, metadata),) = shown
    assert list(data) == ["text/plain"], "no type of its own, which Sphinx would not know"
    assert data["text/plain"].splitlines() == [
        "accuracy   0.8 (0.49 to 0.9433, n = 10)",
        "per_class",
        "  cat  0.3333",
        "steps      1, 0.25",
    ]
    assert metadata[KEY]["per_class"] == {"cat": 1 / 3}


def test_outside_a_notebook_it_prints(capsys: pytest.CaptureFixture, run: Path) -> None:
    record(n=3)
    assert capsys.readouterr().out == "n  3\n"


def test_records_of_a_profile(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record(n=3)
    assert read_records("ci", tmp_path) == {"demo": {"n": 3}}
    assert read_records("study", tmp_path) == {}
    monkeypatch.setenv("ZSC_PROFILE", "ci")
    assert read_records(folder=tmp_path) == {"demo": {"n": 3}}
