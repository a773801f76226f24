"""The notebooks as regression tests: run from first cell to last under the `ci` profile, their records compared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from zsclib.study import runner

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
EXPECTATIONS = {
    path.stem: yaml.safe_load(path.read_text()) for path in (ROOT / "data/expectations").glob("*.yml")
}


def deviations(record: dict, expected: dict) -> list[str]:
    """Return what of a record is missing or further from its expectation than the tolerance allows."""
    found = []
    for name, wanted in expected.items():
        value = record.get(name)
        value = value["value"] if isinstance(value, dict) else value
        if not isinstance(value, int | float):
            found.append(f"{name} is {value!r}, expected {wanted['value']}")
        elif abs(value - wanted["value"]) > wanted["tolerance"]:
            found.append(
                f"{name} is {value:.4g}, expected {wanted['value']} ± {wanted['tolerance']}: {wanted['why']}"
            )
    return found


@pytest.fixture(scope="module", params=NOTEBOOKS)
def run(request) -> tuple[str, dict]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("OMP_NUM_THREADS", raising=False)  # the tests take one thread, a notebook all of them
        folder = runner.run(request.param, profile="ci")
    return request.param, json.loads((folder / "record.json").read_text())


def test_a_notebook_runs_and_records_what_is_expected(run):
    name, record = run
    assert deviations(record, EXPECTATIONS[name]) == []


def test_every_notebook_has_expectations():
    assert set(EXPECTATIONS) == set(NOTEBOOKS)


@pytest.mark.parametrize(
    "name, value", [(n, v) for n, expected in EXPECTATIONS.items() for v in expected], ids=lambda x: str(x)
)
def test_an_expectation_can_fail(name, value):
    """Each names the value that broken work would give (`broken`), and is not met by it, nor by nothing."""
    wanted = EXPECTATIONS[name][value]
    assert set(wanted) == {"value", "tolerance", "broken", "why"} and len(wanted["why"]) > 15
    good = {value: wanted["value"]}
    assert deviations(good, {value: wanted}) == []
    assert deviations({value: wanted["broken"]}, {value: wanted})
    assert deviations({value: {"value": wanted["broken"], "low": 0, "high": 1, "n": 1}}, {value: wanted})
    assert deviations({}, {value: wanted})
    assert wanted["tolerance"] <= 0.6 * abs(wanted["value"] - wanted["broken"]), (
        "wide enough to let broken work through"
    )
