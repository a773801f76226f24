"""Progress bars of pages leave nothing behind; tables write every kind of number in one way."""

from __future__ import annotations

import html
import re

import numpy as np
import pandas as pd
import pytest
from IPython.display import HTML

from zsclib.study.progress import ProgressBar
from zsclib.study.stats import Estimate
from zsclib.study.tables import accuracies, table, verdicts
from zsclib.workers import Execution, Job, run_jobs

# --- progress -------------------------------------------------------------------------------------


def screen(text: str) -> list[str]:
    """The lines that a terminal shows in the end: a carriage return goes back to the start of the line."""
    lines = []
    for line in text.split("\n"):
        shown: list[str] = []
        for part in line.split("\r"):
            shown[: len(part)] = part
        lines.append("".join(shown).rstrip())
    return lines


def test_a_bar_is_shown_on_stdout_while_it_runs_and_leaves_nothing(capsys):
    progress = ProgressBar()
    progress("images", 0, 9)
    out, err = capsys.readouterr()
    assert "images" in out and "0/9" in out
    assert err == ""
    for done in range(1, 10):
        progress("images", done, 9)
    rest, err = capsys.readouterr()
    assert err == ""
    assert screen(out + rest) == [""]


def test_a_bar_of_another_name_begins_where_a_new_name_comes(capsys):
    progress = ProgressBar()
    progress("images", 0, 9)
    progress("images", 4, 9)
    progress("training", 0, 3)
    out, _ = capsys.readouterr()
    last = out.split("\r")[-1]
    assert "training" in last and "0/3" in last and "images" not in last
    progress("training", 3, 3)
    rest, _ = capsys.readouterr()
    assert screen(out + rest) == [""]


@pytest.mark.parametrize(("first", "second"), [((4, 9), (0, 9)), ((2, 4), (2, 7)), ((0, 4), (0, 7))])
def test_the_same_work_again_has_a_bar_of_its_own(capsys, first, second):
    """Work that was broken off, and then other work of the same name."""
    progress = ProgressBar()
    progress("images", *first)
    progress("images", *second)
    last = capsys.readouterr().out.split("\r")[-1]
    assert f"{second[0]}/{second[1]}" in last
    progress("images", second[1], second[1])
    assert screen(last + capsys.readouterr().out) == [""]


def test_a_bar_counts_what_was_done_before(capsys):
    progress = ProgressBar()
    progress("images", 6, 9)
    assert "6/9" in capsys.readouterr().out
    progress("images", 9, 9)


def test_finished_work_shows_no_bar(capsys):
    progress = ProgressBar()
    for _ in range(3):
        progress("images", 9, 9)
    progress("nothing", 0, 0)
    assert capsys.readouterr().out == ""


def square(x: int) -> dict[str, np.ndarray]:
    return {"square": np.array(x * x)}


def test_jobs_move_the_bar_by_their_size(capsys):
    steps, bar = [], ProgressBar()

    def progress(what: str, done: int, total: int) -> None:
        steps.append((what, done, total))
        bar(what, done, total)

    jobs = [Job(square, (x,), size=x) for x in (1, 2, 3)]
    results = [int(arrays["square"]) for arrays in run_jobs(jobs, Execution(progress=progress), "squares")]
    assert results == [1, 4, 9]
    assert steps == [("squares", 0, 6), ("squares", 1, 6), ("squares", 3, 6), ("squares", 6, 6)]
    assert screen(capsys.readouterr().out) == [""]


# --- tables ---------------------------------------------------------------------------------------


def cells(shown: HTML) -> list[list[str]]:
    """The cells of a table, row by row, its head first."""
    rows = re.findall(r"<tr.*?</tr>", shown.data, re.S)
    return [[html.unescape(cell) for cell in re.findall(r"<t[hd]>(.*?)</t[hd]>", row, re.S)] for row in rows]


def test_every_kind_of_value_is_written_in_one_way():
    estimate = Estimate(0.935, 0.892, 0.962, 200)
    rows = [
        ["estimate", estimate],
        ["a lower one", Estimate(-0.02, -0.05, 0.01, 9)],
        ["count", 12345],
        ["numpy's", np.int64(1234567)],
        ["negative", -1200],
        ["number", 0.12345],
        ["its negative", np.float32(-0.5)],
        ["large", 45678.9],
        ["none", None],
        ["no number", float("nan")],
        ["numpy's", np.float64("nan")],
        ["truth", True],
        ["text", "a < b & c"],
    ]
    head, *body = cells(table(rows, ["what", "value"]))
    assert head == ["what", "value"]
    assert dict(body[:2]) == {"estimate": "93.5 % (89.2 to 96.2)", "a lower one": "−2.0 % (−5.0 to 1.0)"}
    assert [value for _, value in body[2:]] == [
        "12,345", "1,234,567", "−1,200", "0.123", "−0.5", "45,679", "–", "–", "–", "True", "a < b & c",
    ]  # fmt: skip


def test_a_frame_has_its_own_heads_and_whole_numbers_stay_whole():
    frame = pd.DataFrame({"set": ["digits", "objects"], "n": [1000, 20], "share": [0.5, np.nan]})
    assert cells(table(frame)) == [["set", "n", "share"], ["digits", "1,000", "0.5"], ["objects", "20", "–"]]
    gaps = pd.DataFrame({"n": pd.array([1000, None], dtype="Int64")})
    assert cells(table(gaps))[1:] == [["1,000"], ["–"]]


def test_long_text_and_many_rows_are_shown_whole():
    sentence = "a statement of a claim that is longer than what a frame would show of it, which is fifty letters"
    rows = [[sentence, i] for i in range(100)]
    body = cells(table(rows, ["claim", "row"]))[1:]
    assert [row[0] for row in body] == [sentence] * 100
    assert body[-1][1] == "99"


def test_text_cannot_become_markup():
    text = table([["<script>alert(1)</script>"]], ["<b>name</b>"]).data
    assert "<script" not in text and "<b>" not in text


def test_rows_of_another_length_and_missing_heads_are_refused():
    with pytest.raises(ValueError, match=r"2 columns, but 3 cells in \[1, 2, 3\]"):
        table([[1, 2], [1, 2, 3]], ["a", "b"])
    with pytest.raises(ValueError, match="name the columns"):
        table([[1, 2]])
    assert cells(table([], ["a", "b"]))[0] == ["a", "b"]


def test_accuracies_of_several_sets_side_by_side():
    half, most = Estimate(0.5, 0.4, 0.6, 100), Estimate(0.9, 0.8, 0.95, 100)
    rows = {"digits": {"ours": half, "CLIP": most}, "objects": {"CLIP": half, "a network": most}}
    assert cells(accuracies(rows)) == [
        ["set", "ours", "CLIP", "a network"],
        ["digits", "50.0 % (40.0 to 60.0)", "90.0 % (80.0 to 95.0)", "–"],
        ["objects", "–", "50.0 % (40.0 to 60.0)", "90.0 % (80.0 to 95.0)"],
    ]
    assert cells(accuracies(rows, first="images of"))[0][0] == "images of"


def test_verdicts_stand_in_three_columns_with_nothing_left_out():
    columns = ["id", "claim", "published", "here", "mean of sets", "direction", "Holm", "size"]
    rows = [
        ["X-1", "A < B", "Pets: +1.5", "digits +2.5 (0 to 5); aerial −1.0 (−3 to 1)", "+0.8", "mixed", "p 1", "alike"],
        ["X-2", "C", "–", "digits +1.0 (+0.5 to +1.5)", "–", "reproduced", "p < 0.001", "alike"],
    ]
    text = verdicts(pd.DataFrame(rows, columns=columns)).data
    assert text.count("<tr>") == 3 and text.count("<td>") == 6
    for row in rows:
        for value in row:
            assert all(part in text for part in html.escape(value).split("; ")) or value == "–"
    assert "A &lt; B" in text and text.count("mean of sets") == 1
