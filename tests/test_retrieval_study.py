"""What the page shows of the study's record, also while some of it is missing."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import yaml

from zsclib.papers.retrieval import outcomes as room
from zsclib.papers.retrieval.outcomes import BESIDE, EVENLY
from zsclib.paths import DATA
from zsclib.study.figures.retrieval_study import (
    CEILING,
    beside_table,
    drops_table,
    even_table,
    flatness,
    gap_table,
    left_to_teach,
    levels_table,
    limits,
    memorised_table,
    sets_table,
    shares_table,
    study_gains,
    targets_of,
    tuning,
    tuning_table,
)
from zsclib.study.freeze import read_freeze
from zsclib.study.records import recorded, verdicts
from zsclib.study.stats import interval

PUBLISHED = yaml.safe_load((DATA / "published/retrieval.yml").read_text())["imagenet_10_percent"]


@pytest.fixture
def outcomes():
    rng = np.random.default_rng(0)
    arms = ["real only", "templates", "retrieved by text", "clusters, k = 2", "CLIP, zero-shot", *BESIDE, *EVENLY]
    every = {arm: {t: (rng.random((3, 50)) < 0.6).astype(float) for t in ("digits", "aerial-hard")} for arm in arms}
    del every["clusters, k = 2"]["aerial-hard"]
    del every["templates, N = |D|"]["digits"]
    return every


def test_each_target_has_a_column_and_each_arm_a_row_of_gains(outcomes):
    figure = study_gains(outcomes)
    first, second = figure.axes
    names = [label.get_text() for label in first.get_yticklabels()]
    assert names == ["templates", "clusters, k = 2", "retrieved by text", "CLIP, zero-shot"]
    dots = {ax: [line for line in ax.lines if line.get_marker() == "o"] for ax in figure.axes}
    assert len(dots[first]) == 4 and len(dots[second]) == 3  # no clusters there
    expected = 100 * interval(outcomes["templates"]["digits"] - outcomes["real only"]["digits"]).value
    assert dots[first][0].get_xdata()[0] == pytest.approx(expected)
    plt.close(figure)


def test_the_paper_s_gains_are_diamonds_where_the_pool_knows_the_classes(outcomes):
    for arm in outcomes:
        outcomes[arm]["gadgets-hard"] = outcomes[arm].get("digits", np.ones((3, 50)))
    figure = study_gains(outcomes, PUBLISHED)
    marks = [[line.get_xdata()[0] for line in ax.lines if line.get_marker() == "D"] for ax in figure.axes]
    assert marks[0] == marks[1] == pytest.approx([3.7, 5.4]) and marks[2] == []
    plt.close(figure)


def test_heads_of_five_columns_do_not_touch(outcomes):
    long = ("objects-hard", "digits", "aerial-hard", "gadgets-hard", "objects-fine-hard")
    figure = study_gains({arm: dict.fromkeys(long, np.eye(3, 50)) for arm in outcomes}, PUBLISHED)
    figure.canvas.draw()
    boxes = [ax.title.get_window_extent() for ax in figure.axes]
    assert all(left.x1 < right.x0 for left, right in zip(boxes, boxes[1:], strict=False))
    plt.close(figure)


def shown(difference: np.ndarray) -> str:
    return interval(difference).points().replace(" points", "").replace(" (", "<br>(")


def test_what_stands_beside_is_compared_with_the_same_arm(outcomes):
    html = beside_table(outcomes).data
    assert shown(outcomes["real only, twice the updates"]["digits"] - outcomes["real only"]["digits"]) in html
    row = html[html.index("templates, N = |D|") :].split("</tr>")[0]
    assert "–" in row and row.count("to") == 1  # not measured on digits
    assert targets_of({}) == targets_of({"templates": outcomes["templates"]}) == []  # D alone is not there yet


def test_below_a_claim_stands_the_same_with_shares_made_equal(outcomes):
    html = even_table(outcomes).data
    row, below = (part.split("</tr>")[0] for part in html.split("RET-R5-prompts")[1].split("<tr>")[:2])
    even = [outcomes[f"{arm}, half of each batch"]["digits"] for arm in ("retrieved by text", "templates")]
    assert shown(outcomes["retrieved by text"]["digits"] - outcomes["templates"]["digits"]) in row
    assert "half of each batch" in below and shown(even[0] - even[1]) in below
    first, second = (part.split("</tr>")[0] for part in html.split("RET-R1<")[1].split("<tr>")[:2])
    even = outcomes["templates, half of each batch"]["digits"]  # D alone has no share
    assert shown(outcomes["templates"]["digits"] - outcomes["real only"]["digits"]) in first
    assert shown(even - outcomes["real only"]["digits"]) in second and "RET-R2<" not in html


def test_d_beside_images_of_a_generator_that_has_learnt_it(outcomes):
    own = {"digits": np.ones((3, 50))}
    html = left_to_teach(outcomes | {"tuned by LoRA": own, "tuned by LoRA, alone": {"digits": np.zeros((3, 50))}}).data
    assert "+100.0" in html and "–" in html  # aerial-hard has none


def test_a_share_of_the_gap_stands_where_there_is_a_gap(outcomes):
    real, rng = outcomes["real only"]["digits"], np.random.default_rng(1)
    wide = {"digits": np.ones((3, 50)), "aerial-hard": outcomes["real only"]["aerial-hard"]}
    half = {"digits": np.where(rng.random((3, 50)) < 0.5, 1, real)}
    html = gap_table(outcomes | {"twice the real": wide, "retrieved by text": half}, PUBLISHED).data
    row = html[html.index("<td>retrieved by text") :].split("</tr>")[0]
    assert "<td>42 %</td>" in row  # of the paper: (62.6 - 57.2) / (70.2 - 57.2)
    gain, gap = half["digits"].mean() - real.mean(), 1 - real.mean()
    assert f"<td>{100 * gain / gap:.0f} % (" in row
    assert "no gap" in html[html.index("<td>templates") :].split("</tr>")[0]


@pytest.mark.parametrize(
    ("gain", "says"),
    [(0.0, "On digits, twice the updates add less than 2 points"), (1.0, "On digits, they add more than 2 points")],
)
def test_targets_are_told_apart_by_what_more_updates_would_add(outcomes, gain, says):
    longer, outcomes["real only"]["digits"] = outcomes["real only, twice the updates"], np.zeros((3, 3000))
    longer["digits"] = np.full((3, 3000), gain)
    noisy = longer["aerial-hard"] = outcomes["real only"]["aerial-hard"].copy()
    noisy[0] = 1 - noisy[0]  # seeds that disagree
    text = flatness(outcomes)
    assert says in text and "On aerial-hard, the interval holds 2 points" in text
    assert flatness({}) == ""


CHOICES = {
    "digits": {
        "shares": {"templates": 0.75, "retrieved by text": 0.25, "real only": 0.0, "twice the real": 0.5},
        "sets-seed-0": {
            "templates": {"delivered": [4, 4], "compared": [4, 3], "evaluations": 128.0, "tuning_samples": 0},
            "retrieved by text": {"delivered": [4, 3], "compared": [4, 3], "evaluations": 0.0, "tuning_samples": 0,
                                  "dropped": {"duplicate": 6}},
        },
        "sets-seed-1": {
            "templates": {"delivered": [4, 4], "compared": [4, 2], "evaluations": 128.0, "tuning_samples": 0},
            "planted 5 %, no ladder": {"delivered": [4, 2], "compared": [4, 2], "evaluations": 0.0, "copies": 3,
                                       "tuning_samples": 0, "dropped": {"duplicate": 0}},
        },
    },
    "aerial-hard": {"shares": {"templates": 0.5}},
}  # fmt: skip


def rows_of(html) -> list[list[str]]:
    lines = html.data.split("<tbody>")[1].split("</tr>")[:-1]
    return [[cell.split("</td>")[0] for cell in line.split("<td>")[1:]] for line in lines]


def test_shares_and_sets_of_the_study_are_shown_as_they_were():
    assert rows_of(shares_table(CHOICES)) == [["templates", "75 %", "50 %"], ["retrieved by text", "25 %", "–"]]
    compared, templates, retrieved, planted = rows_of(sets_table(CHOICES))
    assert compared == ["compared", "", "", "2"]  # the fewest of a class, of all seeds
    assert templates == ["templates", "16", "0", "4"] and retrieved[-1] == "3" and planted[-1] == "2"
    first, second = rows_of(drops_table(CHOICES))
    assert first == ["retrieved by text", "digits", "0", "0", "6", "0", "7", "–"] and second[-2:] == ["6", "3"]
    assert rows_of(shares_table({})) == [] and rows_of(drops_table({})) == []


def test_targets_on_which_little_can_be_told_are_named(outcomes):
    assert limits(outcomes, CHOICES) == ""
    outcomes["real only"]["digits"] = np.ones((3, 50))
    assert limits(outcomes, {}) == "On digits, real only names 100 % already, so that little can be gained."
    few = {"templates": {"delivered": [4, 4], "compared": [3, 0]}}
    text = limits({}, {"digits": CHOICES["digits"] | {"sets-seed-2": few}})
    assert text.startswith("On digits, an arm that falls short cuts all of them to as few as 3 extra images of 8")


def test_levels_stand_by_target_where_they_were_measured(outcomes):
    del outcomes["templates"]["digits"]
    rows = rows_of(levels_table(outcomes))
    assert [row[0] for row in rows] == ["real only", "CLIP, zero-shot", "templates", "retrieved by text"]
    assert rows[2][1] == "–" and rows[0][1].startswith(f"{100 * outcomes['real only']['digits'].mean():.1f} %")


def test_copies_of_the_pool_are_counted_by_guidance_and_by_frequency():
    one = {
        "by guidance": [{"guidance": 1.0, "images": 6, "copies": 0}, {"guidance": 5.0, "images": 6, "copies": 3}],
        "by class": [
            {"class": name, "frequency": frequency, "images": 4, "copies": copies}
            for name, frequency, copies in (("a", 9, 3), ("b", 0, 0), ("c", 2, 0))
        ],
    }  # fmt: skip
    rows = rows_of(memorised_table({"digits": {"memorised": one}, "aerial-hard": {"memorised": one}}))
    assert [row[:3] for row in rows] == [
        ["guidance 1", "12", "0"], ["guidance 5", "12", "6"], ["classes that 0 to 0 captions name", "8", "0"],
        ["classes that 2 to 2 captions name", "8", "0"], ["classes that 9 to 9 captions name", "8", "6"],
    ]  # fmt: skip
    assert rows[1][3].startswith("50") and "Not counted" in memorised_table({"digits": {}}).data


def test_tuning_curves_are_drawn_and_what_their_last_quarter_took_is_said():
    curve = {"samples": [0, 500, 1000], "held_out": [0.1, 0.09, 0.088]}
    choices = {"digits": {"tuning-curves": {"conditioning": curve, "tuned fully": curve}}, "aerial-hard": {}}
    figure = tuning(choices)
    assert len(figure.axes) == 1 and len(figure.axes[0].get_lines()) == 2
    rows = rows_of(tuning_table(choices))
    assert rows[0] == ["digits", "conditioning", "1,000", "\N{MINUS SIGN}12.0 %", "\N{MINUS SIGN}1.1 %"]
    plt.close("all")


def test_before_its_freeze_a_study_has_no_outcomes(tmp_path):
    assert recorded("retrieval", tmp_path) == {}


def test_what_the_page_says_of_the_study_is_what_its_record_says():
    """The paragraphs below "What the study says" have no numbers of results; these are the ones that they rest on."""
    record, frozen = recorded("retrieval"), read_freeze("retrieval")
    assert frozen.settings["times"] == 3 and len(frozen.seeds) == 3  # the landing page says how many are looked up
    decided = verdicts(frozen, room)
    known, half = ("objects-hard", "digits", "aerial-hard", "objects-fine-hard"), ", half of each batch"
    real, found, prompted, best = "real only", "retrieved by text", "templates", "best personalised"

    def gain(arm: str, rival: str, target: str) -> tuple[float, float]:
        difference = interval(record[arm][target] - record[rival][target])
        return difference.low, difference.high

    generated = [
        *(prompted, "simple prompt", "backgrounds", "image-to-image", "unconditional", best, "textual inversion"),
        *("conditioning", "tuned by LoRA", "tuned by LoRA, alone", "tuned fully", "clusters, k = 2", "clusters, k = 5"),
        *(f"templates, guidance {scale}" for scale in (1, 3, 5)),
    ]
    for arm in generated:
        assert all(gain(arm, found, target)[0] <= 0 for target in known if target in record[arm]), arm
    assert [target for target in known if gain(found, prompted, target)[0] > 0] == ["aerial-hard"]
    # objects-hard
    for arm in (prompted, found):
        assert gain(arm, real, "objects-hard")[0] > 0.2
    for rival in (prompted, "CLIP, zero-shot"):
        low, high = gain(found, rival, "objects-hard")
        assert low < 0 < high
    # aerial-hard
    assert gain(found, real, "aerial-hard")[0] > 0
    assert not any(gain(arm, real, "aerial-hard")[0] > 0 for arm in generated if "aerial-hard" in record[arm])
    assert gain("half and half", found, "aerial-hard")[1] < 0
    # gadgets-hard
    for arm in (prompted, found):
        assert gain(arm, real, "gadgets-hard")[1] < 0
        assert gain(best, arm, "gadgets-hard")[0] > 0
    for rival in (real, "classical"):
        low, high = gain(best, rival, "gadgets-hard")
        assert low < 0 < high
    assert record["CLIP, zero-shot"]["gadgets-hard"].mean() < 0.1
    # digits and objects-fine-hard
    assert record[real]["digits"].mean() > CEILING
    sources = [*generated, found, "retrieved by images", "retrieved by both", "half and half", "random pool"]
    assert not any(gain(arm, real, "objects-fine-hard")[0] > 0 for arm in sources if "objects-fine-hard" in record[arm])
    assert gain("real only, twice the updates", real, "objects-fine-hard")[0] > 0
    # as many real images again
    beside = {target: interval(record["twice the real"][target] - record[found][target]) for target in known}
    assert all(beside[target].low > 0 for target in known if target != "objects-hard")
    assert beside["objects-hard"].low < 0 < beside["objects-hard"].high
    assert beside["digits"].value < 0.02 > beside["objects-fine-hard"].value and beside["aerial-hard"].value > 0.03
    assert decided["RET-R6"].direction == "inconclusive" and not any(e.high < 0 for e in beside.values())
    # personalising
    for arm in generated[5:11]:
        assert all(gain(arm, prompted, target)[0] <= 0 for target in known if target in record[arm]), arm
    for end in ("", half):
        assert gain(f"conditioning{end}", f"simple prompt{end}", "objects-hard")[1] < 0
    for target in ("objects-hard", "aerial-hard"):
        assert gain("textual inversion", prompted, target)[1] < 0
        assert gain(f"textual inversion{half}", prompted + half, target)[1] > 0
    assert {decided[name].corrected for name in ("RET-R3", "RET-R4")} == {"inconclusive"}
    # the search
    assert all(gain(found, "random pool", target)[0] > 0 for target in known)
    assert all(effect.high < 0.015 for effect in decided["RET-R11"].effects.values())
    assert decided["RET-R11"].pooled.high < 0.01
    assert gain("image-to-image", real, "objects-hard")[0] > 0.1
