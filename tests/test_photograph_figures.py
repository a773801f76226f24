"""The figures of the page "On real photographs", from records as the measuring commands leave them."""

import json

import numpy as np
import pytest
from matplotlib import pyplot as plt

from zsclib.study.figures import photographs as figures
from zsclib.study.side_by_side import OTHER, SAME


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def outcomes(share: float, n: int = 200) -> list[int]:
    return (np.arange(n) < share * n).astype(int).tolist()


def row(clip: float, diffusion: float, **more) -> dict:
    own = {"reconstruction": [24.0, 26.0] * 100, "CLIP": outcomes(clip), "CLIP, ensemble": outcomes(clip)}
    return own | {"diffusion classifier": outcomes(diffusion)} | more


@pytest.fixture
def rows():
    read = {"real, read": outcomes(0.8), "generated, read": outcomes(0.6)}
    return {"cifar10": row(0.5, 0.7, **read), "rsscn7": row(0.2, 0.25), "pacs-sketch": row(0.95, 0.4)}


def test_what_was_never_measured_is_no_error(tmp_path):
    assert figures.read_rows(tmp_path / "no.json") == {} and figures.read_growth(tmp_path / "no.json") == []


def test_records_are_read_as_they_were_written(rows, tmp_path):
    (tmp_path / "quality.json").write_text(
        json.dumps({"split": "test", "n": 200, "weights": [], "rows": rows})
    )
    assert figures.read_rows(tmp_path / "quality.json") == rows


def test_levels_have_a_panel_per_set_and_a_line_where_guessing_lies(rows):
    panels = [ax for ax in figures.levels(rows).axes if ax.get_title()]
    assert [ax.get_title() for ax in panels] == list(rows)
    for ax, classes in zip(panels, (10, 7, 7), strict=True):
        assert any(np.allclose(line.get_xdata(), 1 / classes) for line in ax.get_lines())


def test_a_set_is_open_where_the_better_classifier_is_clearly_above_chance_and_below_the_ceiling(rows):
    lines = figures.sets_table(rows).data.split("<tr>")[1:]
    by_set = {name: next(line for line in lines if f"<td>{name}</td>" in line) for name in rows}
    assert "<td>yes</td>" in by_set["cifar10"].rpartition("dB")[2]
    assert all("<td>no</td>" in by_set[name].rpartition("dB")[2] for name in ("rsscn7", "pacs-sketch"))
    assert "<td>yes</td>" in by_set["cifar10"].partition("dB")[0]  # its training images are in the pool
    assert "<td>yes</td>" not in by_set["rsscn7"] and "25.0 dB (24.9 to 25.1)" in by_set["rsscn7"]


def test_only_a_set_whose_classes_were_generated_is_read(rows):
    shown = figures.read_table(rows).data
    assert "80.0 %" in shown and "60.0 %" in shown and "rsscn7" not in shown


def test_growth_is_drawn_over_pairs():
    with pytest.raises(ValueError, match="no U-Net has been measured yet"):
        figures.growth([])
    rows = [
        {"samples": pairs, "held_out": 0.1, "recognised": outcomes(share), "generated": outcomes(share / 2)}
        for pairs, share in ((1000, 0.2), (2000, 0.4), (4000, 0.6))
    ]  # fmt: skip
    made, known, loss = figures.growth(rows).axes
    assert made.get_lines()[0].get_ydata() == pytest.approx([0.1, 0.2, 0.3], abs=0.006)
    assert known.get_lines()[0].get_ydata() == pytest.approx([0.2, 0.4, 0.6])
    assert list(loss.get_lines()[0].get_xdata()) == [1000, 2000, 4000]


def test_an_effect_that_has_its_interval_is_no_four_differences(monkeypatch):
    """A rank correlation comes as (value, low, high, n), and is shown as a number, not in points."""
    of_world = {"DIV-D9-vendi": {"digits": (0.4, 0.1, 0.7, 22)}}
    of_photographs = {"DIV-D9-vendi": {"photographs:cifar10": (-0.3, -0.5, -0.1, 22)}}
    known = {"diversity": of_world, "diversity-photographs": of_photographs}
    monkeypatch.setattr(figures, "read_freeze", lambda chapter, root: chapter)
    monkeypatch.setattr(figures, "differences", lambda chapter, package, root: known[chapter])
    (one,) = figures.answers("diversity")
    assert one.mean_here[:3] == pytest.approx((0.4, 0.1, 0.7)) and one.agreement == OTHER
    assert "digits +0.400 (+0.100 to +0.700)" in figures.answers_table([one]).data


def test_a_paper_is_asked_in_both_worlds_or_not_at_all(monkeypatch, tmp_path):
    assert figures.answers("diffusion_classifier", tmp_path) == []
    assert "nothing to compare" in figures.answers_table([]).data
    gain = np.tile([1, 0, 1, 1], (3, 50))
    of_world = {"DC-H3-digits": {"digits": gain}, "DC-H8": {"digits": gain}}
    of_photographs = {"DC-H3-cifar10": {"photographs:cifar10": gain}, "DC-H8": {"photographs:cifar10": -gain}}
    known = {"diffusion_classifier": of_world, "diffusion_classifier-photographs": of_photographs}
    monkeypatch.setattr(figures, "read_freeze", lambda chapter, root: chapter)
    monkeypatch.setattr(figures, "differences", lambda chapter, package, root: known[chapter])
    rows = figures.answers("diffusion_classifier")
    assert {one.question: one.agreement for one in rows} == {"DC-H3": SAME, "DC-H8": OTHER}
    shown = figures.answers_table(rows).data
    assert "accuracy(diffusion classifier) - accuracy(CLIP, all templates" in shown and "same sign" in shown
