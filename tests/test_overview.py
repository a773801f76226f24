"""What a study has come to, in two sentences."""

import numpy as np
import pytest

from zsclib.study.claims import Claim
from zsclib.study.overview import interval_widths, overview
from zsclib.study.stats import Estimate, expected_half_width, mean_effect
from zsclib.study.verdicts import effect_of, judge


def claim(name: str, **more: object) -> Claim:
    return Claim(id=name, paper="toy", statement="", contrast="", direction="greater", margin=0.02, **more)


def differences(gain: float, seeds: int, n: int) -> np.ndarray:
    rng = np.random.default_rng(n)
    return (rng.random((seeds, n)) < gain).astype(float) - (rng.random((seeds, n)) < 0.1)


def test_widths_are_those_of_the_mean_beside_what_its_design_led_to_expect():
    found = {
        "T-1": {"a": differences(0.3, 3, 400), "b": differences(0.3, 3, 900)},
        "T-2": {"a": differences(0.3, 1, 400)[0]},  # (images,)
        "T-3": {"a": Estimate(0.1, 0.02, 0.18, 50)},  # an interval of its own, of which nothing was expected
        "T-4": {"a": Estimate(0.1, 0.02, 0.18, 50)},
        "T-5": {"a": Estimate(0.5, 0.1, 0.9, 10)},
    }
    claims = [claim(f"T-{i}") for i in (1, 2, 3)]
    claims += [claim("T-4", half_width=0.05), claim("T-5", unit="number", half_width=0.4)]
    one, two, four = interval_widths(judge(claims, found), found)
    mean = mean_effect([effect_of(values) for values in found["T-1"].values()]).interval()
    assert one == ("T-1", expected_half_width(400, 3, 2), pytest.approx((mean.high - mean.low) / 2))
    assert two[:2] == ("T-2", expected_half_width(400)) and four == ("T-4", 0.05, pytest.approx(0.08, rel=0.03))


def test_the_overview_says_what_is_decided_what_stands_and_how_wide_intervals_are():
    claims = [claim("T-1-a"), claim("T-1-b"), claim("U-1")]
    found = {name: {"a": differences(gain, 2, 2000)} for name, gain in (("T-1-a", 0.5), ("T-1-b", 0.1), ("U-1", 0.02))}
    judgements = judge(claims, found)
    directions = [judged.direction for judged in judgements.values()]
    assert directions[0] == "reproduced" and directions[2] == "contradicted"
    text = overview(judgements, found)
    assert text.startswith("3 claims of 2 families have a verdict. Each estimate counted once: 1 reproduced, ")
    decided = [j for j in judgements.values() if j.direction in ("reproduced", "contradicted", "equivalent")]
    stand = sum(j.corrected == j.direction for j in decided)
    assert f"Decided claims: {len(decided)}, of which {stand} stand" in text and len(decided) == 2
    widths = interval_widths(judgements, found)
    assert f"reach {100 * sorted(one.observed for one in widths)[1]:.1f} points" in text
    assert f"{100 * expected_half_width(2000, 2):.1f} were expected" in text
    assert overview({}, {}) == ""
