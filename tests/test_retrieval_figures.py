"""Figures and tables of the page on retrieval: they say what was measured, and the paper's numbers are the paper's."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import yaml

from zsclib.extra import Extra
from zsclib.images.image_set import ImageSet
from zsclib.papers.retrieval.contrasts import At
from zsclib.paths import DATA
from zsclib.pools.captioned import pool_in_memory
from zsclib.study import sheets
from zsclib.study.figures import retrieval as figures
from zsclib.study.panels import panels

PUBLISHED = yaml.safe_load((DATA / "published/retrieval.yml").read_text())["imagenet_10_percent"]
N, AT = 200, At(times=2, length=4)
ACCURACY = {
    "real only": 50, "twice the real": 70, "templates": 54, "retrieved by text": 60, "oversampled": 50,
    "planted 0 %, ladder": 60, "planted 5 %, ladder": 60, "planted 5 %, no ladder": 68,
}  # fmt: skip


def outcomes(*targets: str, twice: int = 70) -> pd.DataFrame:
    """A table as `run` returns it, of two seeds: where counts are not made equal, two points more."""
    rows = []
    for target in targets:
        for arm, percent in (ACCURACY | {"twice the real": twice}).items():
            plain = arm in ("real only", "twice the real")
            for counts in ("full",) if arm == "twice the real" else ("equal",) if plain else ("equal", "full"):
                for length, lost in ((1, 20), (2, 6), (4, 0)):
                    for seed in (0, 1):
                        share = percent - lost + 2 * (counts == "full" and not plain)
                        correct = np.arange(N) < round(share / 100 * N)
                        cell = {"target": target, "arm": arm, "times": 1 if plain else 2, "length": length}
                        images = 0 if arm == "real only" else 30 if counts == "full" else 20
                        rows.append(cell | {"counts": counts, "seed": seed, "images": images, "correct": correct})
    return pd.DataFrame(rows)


def labelled(labels: list[int], value: int = 9, **columns: list) -> ImageSet:
    images = np.full((len(labels), 8, 8, 3), value, np.uint8)
    return ImageSet(images, np.array(labels), ("a", "b"), manifest=pd.DataFrame(columns, index=range(len(labels))))


def extra(images: ImageSet, **report: list) -> Extra:
    return Extra(images=images, report=pd.DataFrame(report), evaluations=64.0, tuning_samples=0, seconds=1.0)


def cells(html) -> list[str]:
    return html.data.replace("</td>", "<td>").split("<td>")


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def test_gains_are_differences_from_real_images_alone_on_the_same_images():
    gains = figures.gains(outcomes("one"), AT)["one"]
    assert list(gains) == ["twice the real", "templates", "retrieved by text", "oversampled"]
    assert [round(100 * gain.value) for gain in gains.values()] == [20, 4, 10, 0]


def test_published_gains_stand_where_the_pool_knows_the_classes():
    numbers = figures.published_gains(PUBLISHED, ["objects-hard", "gadgets-hard"])
    assert list(numbers) == ["objects-hard"]
    assert numbers["objects-hard"] == pytest.approx(
        {"image-to-image": -0.009, "templates": 0.037, "textual inversion": 0.038, "retrieved by text": 0.054,
         "twice the real": 0.13}
    )  # fmt: skip
    figure = panels(figures.gains(outcomes("objects-hard"), AT), numbers)
    diamonds = [line for line in figure.axes[0].get_lines() if line.get_marker() == "D"]
    assert len(diamonds) == 3


def test_the_six_published_numbers_stand_beside_ours_with_shares_of_the_gap():
    text = figures.published_table(outcomes("one"), PUBLISHED, AT).data
    for row in PUBLISHED.values():
        assert f"{row['value']} ± {row['error']}" in text and f"({row['method']})" in text
    for share in ("42 % of the gap", "29 % of the gap", "\N{MINUS SIGN}7 % of the gap"):
        assert share in text
    ours = next(cell for cell in cells(figures.published_table(outcomes("one"), PUBLISHED, AT)) if "50 % (" in cell)
    assert ours.startswith("60.0 %") and "+10.0 points" in ours and ours.endswith("of the gap")


def test_a_share_of_a_gap_that_may_be_none_is_not_shown():
    html = figures.published_table(outcomes("one", twice=50), PUBLISHED, AT)
    ours = [cell for cell in cells(html) if cell.startswith("60.0 %")]
    assert len(ours) == 1 and "no share" in ours[0]


def test_equal_and_own_counts_stand_side_by_side():
    shown = cells(figures.counts_table(outcomes("one"), "one", AT))
    row = shown[shown.index("templates") :][:10:2]
    assert row[1] == "20" and row[2].startswith("54.0 %") and row[3] == "30" and row[4].startswith("56.0 %")
    alone = shown[shown.index("real only") :][:10:2]
    assert alone[1] == alone[3] == "0" and alone[2] == alone[4]


def test_training_lengths_are_shown_with_what_real_images_alone_still_gain():
    figure = figures.lengths(outcomes("one", "two"), {1: 10, 2: 20, 4: 40}, ["real only", "retrieved by text"], AT)
    assert len(figure.axes) == 2
    heading = figure.axes[0].get_title(loc="left") or figure.axes[0].get_title()
    assert "real only, 20 to 40 steps" in heading and "+6.0 points" in heading
    figures.lengths(outcomes("one"), {4: 40}, ["real only"], AT)


def test_sources_stand_class_by_class_with_gaps_where_a_class_has_too_few():
    sets = {
        "real": labelled([0, 1, 0, 1], 50),
        "retrieved": labelled([0, 1, 0], 90, similarity=[0.91, 0.82, 0.77]),
    }
    figure = sheets.sources_sheet(sets, rows=2)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert [text for text in texts if text.strip() in ("a", "b")] == [" a ", " b "]
    assert {"0.91", "0.82", "0.77"} <= set(texts) and texts.count("0.91") == 1
    sheet = np.asarray(figure.axes[0].get_images()[0].get_array())
    assert (sheet == 50).any() and (sheet == 90).any()
    assert len(sheets.one_class_sheet(sets).axes) == 1


def test_the_ladder_and_the_costs_are_tables():
    one = extra(
        labelled([0, 1]), **{"class": ["a", "b"], "wanted": [3, 3], "delivered": [3, 1], "near held-out": [0, 7],
        "mean similarity": [0.8, 0.6]},
    )  # fmt: skip
    shown = cells(figures.ladder_table(one))
    assert shown[shown.index("b") :][:10:2] == ["b", "3", "7", "1", "0.6"]
    shown = cells(figures.costs_table({"templates": one}))
    assert {"templates", "M5", "64", "32"} <= set(shown)


def test_the_held_out_loss_is_told_as_its_change():
    history = pd.DataFrame(
        {"way": ["conditioning"] * 3 + ["textual inversion"] * 3, "samples": [0, 50, 100] * 2,
         "loss": 1.0, "held_out": [0.2, 0.15, 0.1, 0.2, 0.2, 0.22]}
    )  # fmt: skip
    figure = figures.learning(history, "a star")
    title = figure.axes[0].get_title(loc="left")
    assert "after 100 samples" in title
    assert "conditioning \N{MINUS SIGN}50.0 %" in title and "textual inversion +10.0 %" in title


def test_detectors_and_copies_have_wilsons_intervals():
    frame = pd.DataFrame({"detector": ["x"], "recall": [1.0], "false alarms": [0.25], "pairs": [10], "others": [8]})
    shown = cells(figures.detectors_table(frame))
    assert any(cell.startswith("100.0 % (72.2 to") for cell in shown)
    assert any(cell.startswith("25.0 %") for cell in shown)
    assert "Nobody knows" in figures.detectors_table(pd.DataFrame()).data
    counted = pd.DataFrame({"guidance": [1.0, 5.0], "images": 20, "copies": [0, 5], "share": 0, "similarity": 0.8})
    shown = cells(figures.copies_table(counted))
    assert any(cell.startswith("0.0 % (0.0 to 16.1)") for cell in shown)
    assert any(cell.startswith("25.0 %") for cell in shown)


def test_the_generated_images_most_like_the_pool_stand_above_their_likes():
    pool = pool_in_memory("p", np.stack([np.full((8, 8, 3), v, np.uint8) for v in (10, 20, 30)]), ["x", "y", "z"])
    near = pd.DataFrame({"alignment": [0.1, 0.97, 0.5], "row": [0, 2, 1]})
    figure = figures.nearest_sheet(near, labelled([0, 1, 0], 99), pool, columns=2)
    assert [t.get_text() for t in figure.axes[0].texts if t.get_text()] == [
        *("0.97", "0.50", "generated", "nearest in pool"),
    ]
    sheet = np.asarray(figure.axes[0].get_images()[0].get_array())
    assert (sheet == 30).any() and (sheet == 20).any() and not (sheet == 10).any()


def test_planted_pools_are_compared_with_the_clean_one():
    copies = pd.DataFrame(
        {"arm": ["planted 0 %, ladder", "planted 1 %, ladder", "planted 5 %, ladder", "planted 5 %, no ladder"],
         "dropped": [0, 2, 9, 0], "images": 20, "copies": [0, 1, 0, 7]}
    )  # fmt: skip
    shown = cells(figures.planted_table(copies, outcomes("one"), "one", AT))
    row = shown[shown.index("5 %, no ladder") :][:12:2]
    assert row[1:4] == ["0", "20", "7"] and row[4].startswith("68.0 %") and row[5].startswith("+8.0 points")
    assert shown[shown.index("0 %, ladder") :][:12:2][5] == "–"
    assert shown[shown.index("1 %, ladder") :][:12:2][1:] == ["2", "20", "1", "–", "–"]  # no network was trained on it
