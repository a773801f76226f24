"""Two studies side by side: the same question on other sets."""

import numpy as np
import pytest

from zsclib.papers.diffusion_classifier.contrasts import PAIRS
from zsclib.seeds import rng
from zsclib.study.side_by_side import (
    ABSENT,
    OTHER,
    SAME,
    UNDECIDED,
    question_of,
    side_by_side,
    side_by_side_table,
)
from zsclib.study.stats import Estimate, interval


def paired(mean: float, name: str, n: int = 400) -> np.ndarray:
    """Return differences of three seeds, of which a share `mean` is 1, or -1, and the others are 0."""
    return np.sign(mean) * (rng(0, "side by side", name).random((3, n)) < abs(mean))


@pytest.mark.parametrize(("here", "there", "sign"), [
    (0.2, 0.1, SAME), (-0.2, -0.1, SAME), (0.2, -0.1, OTHER), (-0.2, 0.1, OTHER), (0.2, 0.0, UNDECIDED),
    (0.0, 0.2, UNDECIDED),
])  # fmt: skip
def test_signs_agree_only_where_both_are_clear(here, there, sign):
    (one,) = side_by_side(
        {"H1": {"digits": paired(here, "a")}}, {"H1": {"photographs:rsscn7": paired(there, "b")}}
    )
    assert one.agreement == sign and one.question == "H1"
    assert one.mean_here == interval(paired(here, "a")) and set(one.there) == {"photographs:rsscn7"}


def test_claims_about_one_set_each_are_one_question_and_their_mean_decides():
    here = {
        "H3-digits": {"digits": paired(0.3, "a")},
        "H3-aerial-hard": {"aerial-hard": paired(-0.3, "b")},
        "H8": {"digits": paired(0.3, "c")},
    }
    there = {
        "H3-cifar10": {"photographs:cifar10": paired(0.3, "d")},
        "H3-tiny-imagenet-20": {"photographs:tiny-imagenet-20": paired(0.2, "e")},
        "H16": {"photographs:cifar10": paired(0.3, "f")},
    }
    (one,) = side_by_side(here, there)
    assert one.question == "H3" and one.agreement == UNDECIDED
    assert one.mean_here.low < 0 < one.mean_here.high and one.mean_there.low > 0
    assert one.mean_there.value == pytest.approx(np.mean([each.value for each in one.there.values()]))
    row = side_by_side_table([one], {"H3": "against CLIP"}, ("made-up world", "photographs")).iloc[0]
    assert row["question"] == "H3" and row["what is compared"] == "against CLIP" and row["sign"] == UNDECIDED
    assert (
        "cifar10 +" in row["photographs"]
        and "photographs:" not in row["photographs"]
        and "mean" in row["photographs"]
    )


def test_what_was_not_measured_is_said_and_estimates_count_too():
    (one,) = side_by_side({"H9": {"digits": Estimate(0.2, 0.1, 0.3, 50)}}, {"H9": {}})
    assert one.agreement == ABSENT and one.mean_there is None
    table = side_by_side_table([one], {}, ("a", "b"))
    assert table["b"].tolist() == ["–"] and table["a"].tolist() == ["digits +20.0 (+10.0 to +30.0)"]


def test_a_question_has_no_set_in_its_name():
    assert question_of("DC-H1-digits-equal", ["digits"]) == "DC-H1-equal"
    assert (
        question_of("DC-H3-tiny-imagenet-20", ["photographs:tiny-imagenet", "photographs:tiny-imagenet-20"])
        == "DC-H3"
    )
    assert question_of("DC-H3-tiny-imagenet", ["photographs:tiny-imagenet"]) == "DC-H3"
    assert question_of("DC-H1-400", ["digits", "aerial-hard"]) == "DC-H1-400"
    counterparts = {
        question_of(claim, sets) for claim, (_, _, sets) in PAIRS.items() if claim.startswith("DC-H3")
    }
    assert counterparts == {"DC-H3"}
