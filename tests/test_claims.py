"""Verdicts follow from intervals as the rules say; malformed claims are errors that name file and field."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import yaml

from zsclib.study.claims import VERDICTS, Claim, Verdict, claims_table, load_claims, verdict
from zsclib.study.stats import Estimate

ENTRY = {
    "id": "H1",
    "paper": "diffusion_classifier",
    "statement": "A beats B.",
    "contrast": "accuracy(A) - accuracy(B)",
    "direction": "greater",
    "margin": 0.01,
    "published": [{"what": "Pets", "value": 1.5, "source": "Table 1"}],
}


def claim(direction: str = "greater", margin: float = 0.01, **more: object) -> Claim:
    return Claim("H1", "paper", "A beats B.", "A - B", direction, margin, **more)


def estimate(low: float, high: float) -> Estimate:
    return Estimate((low + high) / 2, low, high, 100)


@pytest.mark.parametrize(
    ("direction", "low", "high", "outcome"),
    [
        ("greater", 0.02, 0.05, "reproduced"),
        ("greater", 0.001, 0.05, "reproduced"),
        ("greater", 0.002, 0.009, "equivalent"),
        ("greater", -0.009, 0.008, "equivalent"),
        ("greater", -0.01, 0.01, "equivalent"),
        ("greater", -0.02, 0.005, "inconclusive"),
        ("greater", -0.05, 0.05, "inconclusive"),
        ("greater", -0.05, -0.001, "contradicted"),
        ("greater", 0.0, 0.05, "inconclusive"),
        ("less", -0.05, -0.02, "reproduced"),
        ("less", 0.02, 0.05, "contradicted"),
        ("less", -0.005, 0.009, "equivalent"),
        ("less", -0.05, 0.02, "inconclusive"),
        ("equal", -0.009, 0.009, "reproduced"),
        ("equal", 0.001, 0.009, "reproduced"),
        ("equal", 0.011, 0.05, "contradicted"),
        ("equal", -0.05, -0.011, "contradicted"),
        ("equal", 0.005, 0.05, "inconclusive"),
        ("equal", -0.05, 0.05, "inconclusive"),
        ("not_less", -0.009, 0.05, "reproduced"),
        ("not_less", 0.02, 0.05, "reproduced"),
        ("not_less", -0.05, -0.011, "contradicted"),
        ("not_less", -0.05, 0.05, "inconclusive"),
        ("not_less", -0.01, 0.05, "inconclusive"),
    ],
)
def test_rules(direction: str, low: float, high: float, outcome: str) -> None:
    judged = verdict(claim(direction), estimate(low, high))
    assert judged.outcome == outcome
    assert outcome in VERDICTS
    assert (judged.detectable is not None) == (outcome == "inconclusive")


def test_greater_and_less_mirror_each_other() -> None:
    grid = [i / 200 for i in range(-8, 9)]
    for low in grid:
        for high in (x for x in grid if x > low):
            assert verdict(claim("greater"), estimate(low, high)) == verdict(
                claim("less"), estimate(-high, -low)
            )


def test_without_a_margin_the_sign_decides() -> None:
    assert verdict(claim(margin=0), estimate(0.0001, 0.0002)).outcome == "reproduced"
    assert verdict(claim(margin=0), estimate(-0.0002, -0.0001)).outcome == "contradicted"


def test_inconclusive_says_what_could_have_been_seen() -> None:
    judged = verdict(claim(), estimate(-0.05, 0.05))
    assert judged.detectable == pytest.approx(0.05 / 1.959964 * 2.8016, rel=1e-4)
    assert str(judged) == "inconclusive (a difference of 0.071 would have been detected)"


@pytest.mark.parametrize("value", [-0.1, 0.0, 0.1])
def test_an_interval_without_width_decides_nothing(value: float) -> None:
    for direction in ("greater", "less", "equal", "not_less"):
        assert verdict(claim(direction), Estimate(value, value, value, 3)) == Verdict("inconclusive")


def test_not_testable() -> None:
    untestable = claim(not_testable="needs ImageNet")
    assert str(verdict(untestable, None)) == "not testable here"
    with pytest.raises(ValueError, match="H1 is marked not testable"):
        verdict(untestable, estimate(0, 1))
    with pytest.raises(ValueError, match="H1 needs an estimate"):
        verdict(claim(), None)


@pytest.mark.parametrize("bounds", [(0.1, -0.1), (math.nan, 0.1)])
def test_an_interval_must_be_one(bounds: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="not an interval"):
        verdict(claim(), Estimate(0, *bounds, 10))


def write(folder: Path, *entries: object, name: str = "paper.yml") -> Path:
    (folder / name).write_text(yaml.safe_dump(list(entries)), encoding="utf-8")
    return folder


def test_load(tmp_path: Path) -> None:
    write(tmp_path, ENTRY, ENTRY | {"id": "H2", "published": [], "not_testable": "needs ImageNet"})
    claims = load_claims(tmp_path)
    assert list(claims) == ["H1", "H2"]
    assert claims["H1"].published[0]["value"] == 1.5
    assert claims["H2"].not_testable == "needs ImageNet"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"direction": "more"}, "direction must be one of greater, less, equal, not_less"),
        ({"margin": -1}, "margin must be a number ≥ 0"),
        ({"margin": "1 %"}, "margin must be a number ≥ 0"),
        ({"direction": "equal", "margin": 0}, "'equal' needs a margin > 0"),
        ({"statement": " "}, "statement must be a non-empty text"),
        ({"id": 3}, "id must be a non-empty text"),
        ({"sorce": "x"}, "unknown field sorce"),
        ({"published": [{"what": "Pets", "value": 1}]}, "exactly what, value and source"),
        ({"published": [{"what": "Pets", "value": None, "source": "x"}]}, "exactly what, value and source"),
        ({"published": 3.5}, "published must be a list"),
    ],
)
def test_malformed_claims_are_named(tmp_path: Path, change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        load_claims(write(tmp_path, ENTRY | {"id": "H0"}, ENTRY | change))
    assert "paper.yml, entry 2" in str(caught.value)


def test_missing_fields_and_double_ids_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="entry 1 .H1.: missing margin"):
        load_claims(write(tmp_path, {key: value for key, value in ENTRY.items() if key != "margin"}))
    write(tmp_path, ENTRY)
    write(tmp_path, ENTRY, name="second.yml")
    with pytest.raises(ValueError, match="second.yml, entry 1: the id 'H1' is taken"):
        load_claims(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_claims(tmp_path / "nowhere")


def test_table() -> None:
    claims = [claim(), claim(not_testable="needs ImageNet"), claim("equal")]
    claims = [Claim(**{**vars(c), "id": f"H{i}"}) for i, c in enumerate(claims)]
    table = claims_table(claims, {"H0": {"value": 0.03, "low": -0.01, "high": 0.07, "n": 1200}})
    assert table["id"].tolist() == ["H0", "H1", "H2"]
    assert table["here"].tolist() == ["+3.0 (−1.0 to +7.0), n = 1,200", "–", "–"]
    assert table["verdict"].tolist() == [
        "inconclusive (detectable: 5.7 points)",
        "not testable here",
        "not run yet",
    ]
    with pytest.raises(ValueError, match="unknown claims: H9"):
        claims_table(claims, {"H9": estimate(0, 1)})


def test_the_claims_of_this_study_are_well_formed() -> None:
    load_claims()
