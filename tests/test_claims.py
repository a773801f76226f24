"""Verdicts follow from intervals as the rules say; malformed claims are errors that name file and field."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import yaml

from zsclib.seeds import rng
from zsclib.study.claims import Claim, load_claims, needed_half_width, published_effect, to_judge, too_small
from zsclib.study.stats import Estimate, holm, interval
from zsclib.study.verdicts import VERDICTS, Judgement, judge, tally, verdict, verdict_table
from zsclib.world.targets import CLASSES

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
    fields = {"id": "H1", "paper": "paper", "statement": "A beats B.", "contrast": "A - B"} | more
    return Claim(direction=direction, margin=margin, **fields)


def published(*values: float, sets: tuple[str | None, ...] = ()) -> tuple[dict, ...]:
    roles = [{"set": name} if name else {} for name in sets] or [{}] * len(values)
    return tuple(
        {"what": "x", "value": v, "source": "y"} | role for v, role in zip(values, roles, strict=True)
    )


def judged(wanted: Claim, sets: dict[str, object]) -> Judgement:
    return judge([wanted], {wanted.id: sets})[wanted.id]


def runs(gain: float, images: int = 1000, seeds: int = 1, key: str = "") -> np.ndarray:
    """Differences of correctness with exactly this mean: a tenth of the images is lost, so many more are won."""
    row = np.zeros(images)
    lost, won = round(0.1 * images), round((0.1 + gain) * images)
    row[:lost], row[lost : lost + won] = -1, 1
    rows = [rng(0, "claims test", key, s).permutation(row) for s in range(seeds)]
    return rows[0] if seeds == 1 else np.stack(rows)


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
    assert verdict(claim(direction), estimate(low, high)) == outcome
    assert judged(claim(direction), {"digits": estimate(low, high)}).direction == outcome
    assert outcome in VERDICTS


def test_greater_and_less_mirror_each_other() -> None:
    grid = [i / 200 for i in range(-8, 9)]
    for low in grid:
        for high in (x for x in grid if x > low):
            assert verdict(claim("greater"), estimate(low, high)) == verdict(
                claim("less"), estimate(-high, -low)
            )


def test_without_a_margin_the_sign_decides() -> None:
    assert verdict(claim(margin=0), estimate(0.0001, 0.0002)) == "reproduced"
    assert verdict(claim(margin=0), estimate(-0.0002, -0.0001)) == "contradicted"


def test_arms_that_agree_on_every_image_are_equal_where_there_are_enough_of_them() -> None:
    equal = claim("equal")
    assert judged(equal, {"digits": np.zeros((3, 3000))}).direction == "reproduced"
    assert judged(equal, {"digits": np.zeros((3, 40))}).direction in ("inconclusive", "too small to decide")


def test_seeds_that_hit_the_same_rank_correlation_have_a_spread_all_the_same() -> None:
    one = claim("greater", unit="number", margin=0.1)
    _, of = to_judge([one], {one.id: {"digits": np.full(3, 33 / 35)}})
    estimate = of[one.id]["digits"]
    assert estimate.value == pytest.approx(33 / 35) and estimate.low < estimate.value - 0.02 and estimate.high <= 1


def test_numbers_of_images_are_no_rank_correlations() -> None:
    one = claim("greater", unit="number", margin=0.0)
    gains = np.linspace(0.9, 1.7, 40)
    _, of = to_judge([one], {one.id: {"digits": gains[None]}})
    judgement = judge([one], of)[one.id]
    assert judgement.direction == "reproduced" and judgement.pooled.value == pytest.approx(1.3)
    assert judgement.pooled.high > 1  # not cut off
    with pytest.raises(ValueError, match="H1, set digits: rank correlations .* lie from -1 to 1"):
        to_judge([one], {one.id: {"digits": gains}})


@pytest.mark.parametrize("value", [-0.1, 0.05, 0.1])
def test_an_interval_without_width_decides_nothing(value: float) -> None:
    for direction in ("greater", "less", "equal", "not_less"):
        assert verdict(claim(direction), Estimate(value, value, value, 3)) == "inconclusive"
        flat = judged(claim(direction), {"digits": np.full((3, 40), value)})
        assert flat.direction in ("inconclusive", "too small to decide")
        assert flat.p == 1


@pytest.mark.parametrize("bounds", [(0.1, -0.1), (math.nan, 0.1), (-math.inf, 0.1)])
def test_an_interval_must_be_one(bounds: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="H1, set digits: .* is not an interval"):
        judged(claim(), {"digits": Estimate(0, *bounds, 10)})


PLANTED = {  # sets' intervals in points -> the direction of the claim with a margin of 1 point
    "one set decides alone": ("greater", {"a": (1, 5)}, "reproduced"),
    "all sets agree": ("greater", {"a": (1, 5), "b": (2, 6), "c": (0.5, 9)}, "reproduced"),
    "all sets agree on the contrary": ("greater", {"a": (-5, -1), "b": (-9, -2)}, "contradicted"),
    "opposite sides": ("greater", {"a": (1, 5), "b": (-5, -1)}, "mixed"),
    "opposite sides, though the mean decides": ("greater", {"a": (-3, -0.5), "b": (20, 24)}, "mixed"),
    "one clear set against a clear mean": ("greater", {"a": (-3, -0.1), "b": (-1, 19), "c": (-1, 19)}, "mixed"),
    "no set is clear, their mean is": ("greater", {"a": (-1, 7), "b": (-1, 7), "c": (-1, 7)}, "reproduced"),
    "one clear set among unclear ones": ("greater", {"a": (0.1, 4), "b": (-4, 4), "c": (-5, 4)}, "inconclusive"),
    "one unclear set against clear ones": ("greater", {"a": (4, 9), "b": (4, 9), "c": (-2, 3)}, "reproduced"),
    "small everywhere": ("greater", {"a": (-0.8, 0.9), "b": (-0.5, 0.7)}, "equivalent"),
    "small on average only": ("greater", {"a": (-0.1, 2.7), "b": (-2.7, 0.1)}, "inconclusive"),
    "small here, clear there": ("greater", {"a": (2, 4), "b": (-0.5, 0.7)}, "reproduced"),
    "less": ("less", {"a": (-5, -1), "b": (-6, 1)}, "reproduced"),
    "less, opposite sides": ("less", {"a": (-5, -1), "b": (1, 5)}, "mixed"),
    "equal everywhere": ("equal", {"a": (-0.8, 0.9), "b": (-0.9, 0.7)}, "reproduced"),
    "equal, by opposite effects": ("equal", {"a": (1.2, 2), "b": (-2, -1.2)}, "mixed"),
    "equal, by unclear opposite effects": ("equal", {"a": (-0.1, 2.5), "b": (-2.5, 0.1)}, "inconclusive"),
    "equal here, not there": ("equal", {"a": (-0.5, 0.5), "b": (3, 4)}, "mixed"),
    "unequal everywhere": ("equal", {"a": (2, 3), "b": (2, 4)}, "contradicted"),
    "not less anywhere": ("not_less", {"a": (-0.9, 0.5), "b": (-0.5, 0.9)}, "reproduced"),
    "less everywhere": ("not_less", {"a": (-4, -2), "b": (-5, -1.5)}, "contradicted"),
    "not less here, less there": ("not_less", {"a": (-0.5, 1), "b": (-5, -1.5)}, "mixed"),
}  # fmt: skip


@pytest.mark.parametrize("case", PLANTED)
def test_planted_sets_have_their_direction(case: str) -> None:
    direction, sets, outcome = PLANTED[case]
    result = judged(claim(direction), {k: estimate(low / 100, high / 100) for k, (low, high) in sets.items()})
    assert result.direction == outcome
    assert list(result.effects) == list(result.by_set) == list(sets)
    assert result.pooled.value == pytest.approx(np.mean([np.mean(x) for x in sets.values()]) / 100)
    assert (result.heterogeneity is None) == (len(sets) == 1)


def test_effects_come_from_differences_of_images_or_of_seeds_and_images() -> None:
    one, many = runs(0.05), runs(0.05, 400, 3)
    result = judged(claim(), {"digits": one, "objects": many})
    assert result.effects == {"digits": interval(one), "objects": interval(many)}
    assert result.pooled.value == pytest.approx(0.05)
    assert result.heterogeneity.q == pytest.approx(0, abs=1e-3)
    assert result.direction == "reproduced"


def test_judge_wants_differences_of_every_claim_that_can_be_tested_and_of_no_other() -> None:
    untestable = claim(not_testable="needs ImageNet")
    result = judge([untestable], {})["H1"]
    assert (result.direction, result.pooled, result.holm) == ("not testable here", None, None)
    with pytest.raises(ValueError, match="H1 is marked not testable"):
        judge([untestable], {"H1": {"digits": runs(0)}})
    with pytest.raises(ValueError, match="H1 needs differences"):
        judge([claim()], {})
    with pytest.raises(ValueError, match="unknown claims: H9"):
        judge([claim()], {"H1": {"digits": runs(0)}, "H9": {}})
    with pytest.raises(ValueError, match="H1, set digits: effect: .*shape"):
        judge([claim()], {"H1": {"digits": [0.5]}})


def test_p_value_and_verdict_of_the_mean_say_the_same() -> None:
    """At random: decided at 95 % exactly if p < 0.05, for every direction."""
    generator, outcomes = rng(0, "p values"), set()
    for _ in range(400):
        middle, half = generator.normal(0, 0.015), generator.exponential(0.01)
        for direction in ("greater", "less", "equal", "not_less"):
            result = judged(claim(direction), {"digits": estimate(middle - half, middle + half)})
            outcomes.add((direction, result.direction))
            assert (result.p < 0.05) == (result.direction != "inconclusive")
            assert result.holm == result.p  # of one claim
    assert len(outcomes) == 4 + 4 + 3 + 3


def test_holm_counts_the_claims_of_a_paper() -> None:
    claims = [claim(id=f"H{i}") for i in range(3)] + [
        claim(id="X", paper="other"),
        claim(id="U", not_testable="no"),
    ]
    weak, strong = estimate(0.002, 0.05), estimate(0.04, 0.06)
    sets = {"H0": weak, "H1": strong, "X": weak}
    differences = {name: {"digits": e} for name, e in sets.items()}
    differences["H2"] = {"digits": strong, "objects": estimate(-0.06, -0.04)}
    result = judge(claims, differences)
    assert result["X"].holm == result["X"].p == result["H0"].p
    assert result["X"].corrected == result["X"].direction == result["H0"].direction == "reproduced"
    adjusted = holm([result["H0"].p, result["H1"].p, 1])  # the mixed one is counted, though it has no p value
    assert [result["H0"].holm, result["H1"].holm] == pytest.approx(adjusted[:2])
    assert result["H0"].corrected == "inconclusive"
    assert result["H1"].corrected == "reproduced"
    assert (result["H2"].direction, result["H2"].corrected, result["H2"].holm) == ("mixed", "mixed", None)


@pytest.mark.parametrize(
    ("values", "ours", "size"),
    [
        ((5,), (0.04, 0.06), "alike: ×1 (0.8 to 1.2)"),
        ((4, 6), (0.04, 0.06), "alike: ×1 (0.8 to 1.2)"),
        ((5,), (0.11, 0.13), "larger: ×2.4 (2.2 to 2.6)"),
        ((5,), (0.01, 0.02), "smaller: ×0.3 (0.2 to 0.4)"),
        ((5,), (-0.01, 0.02), "smaller: ×0.1 (−0.2 to 0.4)"),
        ((5,), (0.02, 0.04), "smaller or alike: ×0.6 (0.4 to 0.8)"),
        ((5,), (0.08, 0.12), "alike or larger: ×2 (1.6 to 2.4)"),
        ((-5,), (-0.06, -0.04), "alike: ×1 (0.8 to 1.2)"),
        ((5,), (-0.06, -0.04), "not comparable: ×−1 (−1.2 to −0.8); the signs differ"),
        ((5,), (-0.01, 0.2), "not comparable: ×1.9 (−0.2 to 4); the interval is too wide"),
        ((5,), (0.05, 0.05), "not comparable: ×1 (1 to 1); no spread"),
        ((), (0.04, 0.06), "not comparable: nothing published"),
        ((0.5,), (0.04, 0.06), "not comparable: the published effect is within the margin"),
        ((-3, 5), (0.04, 0.06), "not comparable: the published effects have both signs"),
    ],
)
def test_size(values: tuple[float, ...], ours: tuple[float, float], size: str) -> None:
    result = judged(claim(published=published(*values)), {"digits": estimate(*ours)})
    assert str(result.size) == size


def test_size_compares_the_sets_whose_role_a_number_plays() -> None:
    roles = published(10, 20, 4, 99, sets=("objects", "objects", "digits", None))
    wanted = claim(published=roles)
    both = {"objects": estimate(0.14, 0.16), "digits": estimate(0.03, 0.05), "aerial": estimate(-0.5, -0.4)}
    assert published_effect(wanted, list(both)) == pytest.approx((0.15 + 0.04) / 2)
    assert str(judged(wanted, both).size).startswith("alike: ×1 ")
    assert str(judged(wanted, {"objects": both["objects"]}).size) == "alike: ×1 (0.93 to 1.1)"
    other = judged(wanted, {"aerial": both["aerial"]})
    assert str(other.size) == "not comparable: published for other sets only"
    assert published_effect(claim(published=published(2), unit="number")) == 2


def test_needed_half_width_follows_from_margin_and_published_effect() -> None:
    assert needed_half_width(claim(margin=0.01)) == 0.01
    assert needed_half_width(claim(margin=0.01, published=published(10, 20))) == pytest.approx(0.075)
    assert needed_half_width(claim("less", 0.01, published=published(-1))) == pytest.approx(0.01)
    assert needed_half_width(claim("not_less", 0.03, published=published(-25))) == pytest.approx(0.11)
    assert needed_half_width(claim("equal", 0.02, published=published(30))) == 0.02
    roles = claim(published=published(10, 40, sets=("objects", "digits")))
    assert needed_half_width(roles, ["objects"]) == pytest.approx(0.05)
    assert needed_half_width(roles) == pytest.approx(0.125)


def test_too_small_follows_from_the_design_alone() -> None:
    ours = claim(margin=0.01, published=published(6))  # needs ±3 points
    assert [too_small(ours, n) for n in (200, 400, 800, 1600)] == [True, True, True, False]
    assert not too_small(ours, 400, sets=4)
    assert too_small(ours, 400, seeds=3)  # whose own spread comes on top
    assert not too_small(ours, 400, seeds=8, sets=4)
    assert not too_small(claim(published=published(6), discordance=0.02), 200)
    assert not too_small(claim(unit="number"), 4)
    assert too_small(claim(half_width=0.02), 10**6) and not too_small(claim(half_width=0.01), 4)
    roles = claim(published=published(40, 1, sets=("objects", "digits")))
    assert not too_small(roles, 200, sets=["objects"])
    assert too_small(roles, 200, sets=["digits"])


def test_too_small_takes_the_place_of_inconclusive_only() -> None:
    small, large = (
        judged(claim(), {"digits": runs(0, 100)}),
        judged(claim(discordance=0.05), {"digits": runs(0, 2000)}),
    )
    assert (small.direction, small.by_set) == ("too small to decide", {"digits": "inconclusive"})
    assert large.direction == "inconclusive"  # its interval is wider than was assumed
    assert judged(claim(), {"digits": runs(0.5, 100)}).direction == "reproduced"
    own = {"digits": interval(runs(0, 100))}
    assert judged(claim(), own).direction == "inconclusive"  # no design is known, unless the claim says it
    assert judged(claim(half_width=0.06), own).direction == "too small to decide"
    assert judged(claim(half_width=0.06, published=published(12)), own).direction == "inconclusive"


def test_every_claim_of_this_study_can_be_decided_by_some_design() -> None:
    for entry in load_claims().values():
        assert not entry.margin or not too_small(entry, 100_000, seeds=1), entry.id
        assert entry.unit == "number" or entry.half_width or too_small(entry, 4), entry.id


def write(folder: Path, *entries: object, name: str = "paper.yml") -> Path:
    (folder / name).write_text(yaml.safe_dump(list(entries)), encoding="utf-8")
    return folder


def test_load(tmp_path: Path) -> None:
    write(tmp_path, ENTRY, ENTRY | {"id": "H2", "published": [], "not_testable": "needs ImageNet"})
    claims = load_claims(tmp_path)
    assert list(claims) == ["H1", "H2"]
    assert claims["H1"].published[0]["value"] == 1.5
    assert claims["H2"].not_testable == "needs ImageNet"
    assert [c.family for c in claims.values()] == ["H1", "H2"]


def test_optional_fields(tmp_path: Path) -> None:
    role = [{"what": "MNIST", "value": 3, "source": "Table 1", "set": "digits"}]
    own = {"family": "DC-H1", "unit": "number", "discordance": 0.05, "half_width": 0.08, "published": role}
    write(tmp_path, ENTRY | {"id": "DC-H12-objects"}, ENTRY | own)
    claims = load_claims(tmp_path)
    assert claims["DC-H12-objects"].family == "DC-H12"
    assert (claims["DC-H12-objects"].unit, claims["DC-H12-objects"].discordance) == ("points", 0.2)
    assert (claims["H1"].family, claims["H1"].unit, claims["H1"].discordance) == ("DC-H1", "number", 0.05)
    assert claims["H1"].published[0]["set"] == "digits"
    assert (claims["H1"].half_width, claims["DC-H12-objects"].half_width) == (0.08, None)


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
        (
            {"published": [{"what": "Pets", "value": None, "source": "x"}]},
            "published: value must be a number",
        ),
        (
            {"published": [{"what": "Pets", "value": "3 %", "source": "x"}]},
            "published: value must be a number",
        ),
        (
            {"published": [{"what": "Pets", "value": 3, "source": ""}]},
            "published: source must be a non-empty text",
        ),
        (
            {"published": [{"what": "P", "value": 3, "source": "x", "set": 1}]},
            "published: set must be a non-empty",
        ),
        (
            {"published": [{"what": "P", "value": 3, "source": "x", "role": "y"}]},
            "exactly what, value and source",
        ),
        ({"family": " "}, "family must be a non-empty text"),
        ({"unit": "percent"}, "unit must be one of points, number"),
        ({"discordance": 0}, "discordance must be a share"),
        ({"discordance": "few"}, "discordance must be a share"),
        ({"half_width": 0}, "half_width must be a number above 0"),
        ({"half_width": None}, "half_width must be a number above 0"),
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


def test_verdict_table() -> None:
    claims = [
        claim(id="DC-H1-a", published=published(5, -0.4)),
        claim(id="DC-H1-b", published=published(1, 2, 30, 4.25)),
        claim(id="DC-H2", unit="number", margin=0.1),
        claim(id="DC-H3", not_testable="needs ImageNet"),
    ]
    opposite = {"digits": estimate(0.02, 0.05), "objects": estimate(-0.05, -0.02)}
    table = verdict_table(
        judge(
            claims,
            {
                "DC-H1-a": {"digits": estimate(-0.004, 0.054), "objects": estimate(0.06, 0.08)},
                "DC-H1-b": opposite,
                "DC-H2": {"digits": estimate(0.5, 0.75)},
            },
        )
    )
    assert list(table.columns) == [
        "id", "claim", "published", "here", "mean of sets", "direction", "Holm", "size"
    ]  # fmt: skip
    assert table["id"].tolist() == [c.id for c in claims]
    assert table["published"].tolist() == ["x: +5; x: −0.4", "4 numbers from +1 to +30", "–", "–"]
    assert table["here"].tolist() == [
        "digits +2.5 (−0.4 to +5.4); objects +7.0 (+6.0 to +8.0)",
        "digits +3.5 (+2.0 to +5.0); objects −3.5 (−5.0 to −2.0)",
        "digits +0.625 (+0.500 to +0.750)",
        "–",
    ]
    assert table["mean of sets"].tolist() == [
        "+4.8 (+3.2 to +6.3); Q = 8.3, p = 0.004, I² = 88 %",
        "+0.0 (−1.1 to +1.1); Q = 41.8, p < 0.001, I² = 98 %",
        "–",
        "–",
    ]
    assert table["direction"].tolist() == [
        "reproduced (reproduced on objects)",
        "mixed (reproduced on digits, contradicted on objects)",
        "reproduced",
        "not testable here",
    ]
    assert table["Holm"].tolist() == ["reproduced, p < 0.001", "–", "reproduced, p < 0.001", "–"]
    assert table["size"].tolist() == [
        "alike or larger: ×2.1 (1.4 to 2.7)",
        "smaller: ×0 (−0.11 to 0.11)",
        "not comparable: nothing published",
        "not comparable: not testable here",
    ]
    plain = verdict_table(judge(claims[1:2], {"DC-H1-b": opposite}), percent=False)
    assert plain["here"].tolist() == ["digits +0.035 (+0.020 to +0.050); objects −0.035 (−0.050 to −0.020)"]
    assert verdict_table({}).empty


def test_tally_gives_every_estimate_one_vote_in_its_family() -> None:
    up, down, wide = estimate(0.02, 0.05), estimate(-0.05, -0.02), estimate(-0.03, 0.04)
    sets = {
        "A-1": {"digits": up, "objects": up},
        "A-1-digits": {"digits": up},  # part of A-1
        "A-1-again": {"digits": up, "objects": up},  # the same as A-1
        "A-1-aerial": {"aerial": up},  # another set
        "B-1": {"digits": up},  # another family
        "B-1-strict": {"digits": wide},
        "B-1-strict-2": {"digits": wide},
        "C-1": {"digits": up, "objects": down},
    }
    claims = [claim(id=name) for name in sets] + [claim(id=f"U-{i}", not_testable="no") for i in (1, 2)]
    assert tally(judge(claims, sets)) == "3 reproduced, 1 mixed, 1 inconclusive, 2 not testable here"
    reverse = judge(claims[::-1], sets)
    assert tally(reverse) == "3 reproduced, 1 mixed, 1 inconclusive, 2 not testable here"
    other = [claim(id="A-1"), claim(id="A-1-digits", family="A-2")]
    assert tally(judge(other, {c.id: {"digits": up} for c in other})) == "2 reproduced"
    assert tally({}) == ""


def test_the_claims_of_this_study_are_well_formed() -> None:
    claims = load_claims()
    papers = {claim.paper for claim in claims.values()}
    assert papers == {"diffusion_classifier", "diversity", "retrieval", "datadream", "photographs"}
    # a published figure stands beside one of our sets by its role: a set of that name must be there
    roles = {item["set"] for c in claims.values() for item in c.published if "set" in item}
    assert roles and roles <= {"digits", *CLASSES}
