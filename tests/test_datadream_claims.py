"""Planted outcomes have the contrasts that the claims word; H9 by classes; published numbers and runs agree."""

from __future__ import annotations

import re
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from zsclib.images.image_set import ImageSet
from zsclib.papers.datadream import contrasts as room
from zsclib.papers.datadream.contrasts import (
    ALL_CLASSES,
    BOTH,
    BY_CLASS,
    CHOSEN,
    COLUMNS,
    DISEF,
    GUIDED,
    PROMPTED,
    RETRIEVED,
    RIVAL,
    SHOTS,
    ZERO_SHOT,
    answerable,
    arms_of,
    changed,
    contrasts,
)
from zsclib.papers.datadream.gap import alignment, class_accuracy, class_gaps
from zsclib.paths import DATA
from zsclib.seeds import rng
from zsclib.study.claims import load_claims, needed_half_width, published_effect, to_judge, too_small
from zsclib.study.runs import read_run, run_names
from zsclib.study.verdicts import judge

N, SEEDS = 200, (0, 1)
KNOWN, UNKNOWN = ("objects-hard", "digits"), "gadgets-hard"
ARMS = (PROMPTED, GUIDED, DISEF, BY_CLASS, ALL_CLASSES, RETRIEVED, BOTH)
ACCURACY = {  # in percent: arm -> alone, with the shots; at 16 shots and 64 images
    PROMPTED: (50, 60), GUIDED: (52, 61), DISEF: (53, 62), BY_CLASS: (56, 65), ALL_CLASSES: (55, 66),
    RETRIEVED: (58, 67), BOTH: (60, 68.5), SHOTS: (None, 59), ZERO_SHOT: (40, None),
}  # fmt: skip
CHANGED = {  # what is changed in DataDream, by class -> alone, with the shots
    room.QUARTER: (54, None), room.FOURFOLD: (57, None), room.RANK_4: (55, None), room.GUIDANCE_5: (51, None),
    room.UNET_ALONE: (54.5, None), room.ONE_NOISE: (53.5, None), room.HALF_WEIGHT: (None, 64),
    room.EPOCH_BY_TEST: (None, 66.5), room.ON_TRAIN: (None, 75),
}  # fmt: skip
UNKNOWN_ACCURACY = {
    PROMPTED: (20, 56), GUIDED: (24, 58), DISEF: (25, 59), BY_CLASS: (45, 63), ALL_CLASSES: (40, 64),
    RETRIEVED: (22, 57), SHOTS: (None, 55),
}  # fmt: skip
LOWER = (11, 2)  # than on the known targets are the other outcomes there: alone, with the shots
PUBLISHED = yaml.safe_load((DATA / "published" / "datadream.yml").read_text(encoding="utf-8"))


def first_correct(percent: float, n: int = N) -> np.ndarray:
    """Correct on the first images, so that accuracies and their differences are known."""
    return np.arange(n) < round(percent / 100 * n)


def row(target: str, arm: str, percent: float, seed: int, with_shots: bool, **facts: object) -> dict:
    place = {"shots": 16, "n": 64, "with_shots": with_shots, "classifier": "CLIP"}
    if arm.startswith(SHOTS):
        place |= {"n": 0, "with_shots": True}
    if arm == ZERO_SHOT:
        place |= {"shots": 0, "n": 0, "with_shots": False}
    outcome = {"held_out": percent / 100, "correct": first_correct(percent)}
    return {"target": target, "arm": arm, "seed": seed} | place | outcome | facts


def rows_of(target: str, accuracy: dict, seed: int) -> list[dict]:
    rows = []
    for arm, both in accuracy.items():
        rows += [row(target, arm, p, seed, bool(way)) for way, p in enumerate(both) if p is not None]
    return rows


def planted(target: str, seed: int) -> list[dict]:
    own = rows_of(target, ACCURACY | (UNKNOWN_ACCURACY if target == UNKNOWN else {}), seed)
    altered = [(changed(BY_CLASS, what), way, p) for what, both in CHANGED.items() for way, p in enumerate(both) if p]
    others: list[tuple] = [(*one, {}) for one in altered]
    others += [(changed(SHOTS, what), 1, p, {}) for what, p in ((room.ON_TRAIN, 68), (room.EPOCH_BY_TEST, 60))]
    others += [(BY_CLASS, 0, p, {"shots": k}) for k, p in ((4, 48), (1, 42))]
    others += [(BY_CLASS, 1, p, {"shots": k}) for k, p in ((4, 54), (1, 44))]
    others += [(GUIDED, 0, 46, {"shots": 4}), (SHOTS, 1, 51, {"shots": 4}), (BY_CLASS, 0, 49, {"shots": 4, "n": 16})]
    others += [(BY_CLASS, 0, p, {"n": n}) for n, p in ((16, 52), (256, 57))]
    others += [(BY_CLASS, 1, p, {"n": n}) for n, p in ((16, 64), (256, 65.5))]
    scratch = ((BY_CLASS, 0, 35), (PROMPTED, 0, 30), (BY_CLASS, 1, 38), (SHOTS, 1, 34))
    others += [(arm, way, p, {"classifier": "scratch"}) for arm, way, p in scratch]
    lower = LOWER if target == UNKNOWN else (0, 0)
    return own + [row(target, arm, p - lower[way], seed, bool(way), **at) for arm, way, p, at in others]


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return pd.DataFrame([r for target in (*KNOWN, UNKNOWN) for seed in SEEDS for r in planted(target, seed)])


@pytest.fixture(scope="module")
def differences(table) -> dict:
    return contrasts(table, alignments={"digits": aligned()})


@pytest.fixture(scope="module")
def claims() -> dict:
    return {name: claim for name, claim in load_claims().items() if claim.paper == "datadream"}


def aligned(ρ_sign: int = 1):
    """H9 on a target of twelve classes, where narrowing and gain have one order, or the opposite one."""
    return alignment(np.arange(12.0), ρ_sign * np.arange(12.0))


def test_every_claim_of_the_paper_has_its_contrast_and_no_other(differences, claims):
    assert set(differences) == set(claims)
    assert {f"DD-H{i}" for i in range(1, 13)} <= {claim.family for claim in claims.values()}
    known = {*ACCURACY, CHOSEN, RIVAL, *(changed(BY_CLASS, what) for what in CHANGED)}
    known |= {changed(SHOTS, what) for what in (room.ON_TRAIN, room.EPOCH_BY_TEST)}
    assert all(set(arms_of(claim)) <= known for claim in claims)
    with pytest.raises(ValueError, match="no contrast for 'DD-H13'"):
        arms_of("DD-H13")


@pytest.mark.parametrize(
    ("claim", "points"),
    [
        ("DD-H1-alone", 6), ("DD-H1-shots", 5), ("DD-H1-all-alone", 5), ("DD-H1-all-shots", 6),
        ("DD-H2-guidance-alone", 4), ("DD-H2-guidance-shots", 4), ("DD-H2-disef-alone", 3), ("DD-H2-disef-shots", 3),
        ("DD-H2-guidance-4", 2), ("DD-H3", 4), ("DD-H4", 6), ("DD-H4-all", 7), ("DD-H5-alone", 1), ("DD-H5-shots", -1),
        ("DD-H5-choice", 0), ("DD-H6-alone", 8), ("DD-H6-alone-few", 6), ("DD-H6-shots", 11), ("DD-H6-shots-few", 10),
        ("DD-H7-alone", 5), ("DD-H7-shots", 1.5), ("DD-H8-steps", 2), ("DD-H8-more", -1), ("DD-H8-rank", 1),
        ("DD-H11-alone", -3), ("DD-H11-shots", 3), ("DD-H11-n", -1), ("DD-H12", 10), ("DD-H12-gain", 1),
        ("DD-R-alone", 2), ("DD-R-shots", 2), ("DD-R-both-alone", 2), ("DD-R-both-shots", 1.5),
        ("DD-R-both-adapted-alone", 4), ("DD-R-both-adapted-shots", 3.5), ("DD-A-epoch", 1.5), ("DD-A-epoch-gain", 0.5),
        ("DD-A-noise", 2.5), ("DD-A-zero-shot", 16), ("DD-A-weight", 1), ("DD-A-guidance", 5), ("DD-A-text", 1.5),
        ("DD-A-scratch-alone", 5), ("DD-A-scratch-shots", 4),
    ],
)  # fmt: skip
def test_a_contrast_is_the_difference_its_claim_words_on_each_target(differences, claim, points):
    by_target = differences[claim]
    assert set(KNOWN) <= set(by_target) <= {*KNOWN, UNKNOWN}
    assert (UNKNOWN in by_target) != claim.startswith("DD-R-")
    for target in KNOWN:
        assert by_target[target].shape == (2, N) and by_target[target].dtype == np.float64
        assert by_target[target].mean() == pytest.approx(points / 100, abs=1e-9)


def test_what_is_looked_up_is_not_judged_where_the_pool_has_the_target_s_own_images(table):
    own = "photographs:cifar10"
    judged = contrasts(table.assign(target=table["target"].replace("digits", own)))
    elsewhere = [claim for claim, by_target in judged.items() if "objects-hard" in by_target]
    assert all((own in judged[claim]) != claim.startswith("DD-R-") for claim in elsewhere)
    assert sum(own in by_target for by_target in judged.values()) > 20


def test_what_is_about_classes_that_the_generator_does_not_know(table, differences):
    for claim, points in (
        ("DD-R-unknown-alone", 23), ("DD-R-unknown-shots", 6), ("DD-H10-alone", 25 - 6), ("DD-H10-shots", 9 - 7),
    ):  # fmt: skip
        assert list(differences[claim]) == [UNKNOWN]
        assert differences[claim][UNKNOWN].mean() == pytest.approx(points / 100, abs=1e-9), claim
    fewer = table.copy()
    fewer["correct"] = [c[: N // 2] if t == "digits" else c for c, t in zip(fewer.correct, fewer.target, strict=True)]
    assert contrasts(fewer)["DD-H10-alone"][UNKNOWN].shape == (2, N // 2)  # as many images as the smallest set
    assert "DD-H10-alone" not in contrasts(table[table.target != UNKNOWN])
    assert "DD-H10-alone" not in contrasts(table, absent=(*KNOWN, UNKNOWN))
    none = table[(table.target != UNKNOWN) | (table.seed == 0) | (table.arm != PROMPTED)]
    assert contrasts(none[(none.target == UNKNOWN) | (none.seed == 0)])["DD-H10-alone"][UNKNOWN].shape == (1, N)


def test_the_spread_of_an_excess_is_that_of_independent_targets():
    """Which image of one target is set against which of another does not matter."""
    noise = rng(0, "excess")
    parts = {t: {s: noise.choice([-1.0, 0, 1], 500) for s in range(3)} for t in ("gadgets", "a", "b")}
    excess = room._excess(parts, ("gadgets",))["gadgets"]
    other = {t: {s: noise.permutation(values) for s, values in by_seed.items()} for t, by_seed in parts.items()}
    assert excess.mean() == pytest.approx(room._excess(other, ("gadgets",))["gadgets"].mean())
    assert excess.var() == pytest.approx(1.5 * 2 / 3, rel=0.1)  # of one, and of the mean of two


def test_variant_and_rival_are_chosen_on_validation_images_for_each_seed(table):
    other = table.copy()
    swapped = (other.target == "digits") & (other.arm == ALL_CLASSES) & (other.n == 64) & (other.seed == 1)
    other.loc[swapped, "held_out"] = 0.99
    h3 = contrasts(other)["DD-H3"]["digits"].mean(1)
    np.testing.assert_allclose(h3, (0.04, 0.04))  # 66 against DISEF's 62: chosen by both with the shots
    choice = contrasts(other)["DD-H5-choice"]
    np.testing.assert_allclose(choice["digits"].mean(1), (0, -0.01))  # alone, the chosen one is worse by a point
    np.testing.assert_allclose(choice["objects-hard"].mean(1), (0, 0))
    better = table.copy()
    rows = (better.arm == PROMPTED) & better.with_shots
    better.loc[rows, "correct"] = pd.Series([first_correct(70)] * len(better), index=better.index)
    assert contrasts(better)["DD-H3"]["digits"].mean() == pytest.approx(0.04)  # what test images say chooses nothing
    better.loc[rows & (better.seed == 1), "held_out"] = 0.98
    np.testing.assert_allclose(contrasts(better)["DD-H3"]["digits"].mean(1), (0.04, -0.04))
    alone = contrasts(table[table.arm != BY_CLASS])
    assert alone["DD-H3"]["digits"].mean() == pytest.approx(0.04) and "DD-H5-choice" not in alone
    assert "DD-H3" not in contrasts(table[table.arm != GUIDED])  # the best of those that are left would be no rival


def test_what_the_table_lacks_is_left_out_or_named(table):
    few = table[table.arm.isin((SHOTS, ALL_CLASSES))]
    assert set(contrasts(few)) == {"DD-H4-all", "DD-H10-shots"}
    assert set(contrasts(few[few.target != UNKNOWN])) == {"DD-H4-all"}
    some = table[(table.arm != GUIDED) | (table.seed == 1)]
    assert contrasts(some)["DD-H2-guidance-alone"]["digits"].shape == (1, N), "the seeds that both have"
    none = table[(table.arm == PROMPTED) & (table.seed == 0) | (table.arm == BY_CLASS) & (table.seed == 1)]
    with pytest.raises(ValueError, match="'DataDream, by class' and 'prompted' on objects-hard have no seed in common"):
        contrasts(none)
    with pytest.raises(ValueError, match="'prompted' on objects-hard at .* is there twice with seed 0"):
        contrasts(pd.concat([table, table[table.arm == PROMPTED]]))
    with pytest.raises(ValueError, match="the table lacks the columns classifier; it needs target, arm"):
        contrasts(table.drop(columns="classifier"))
    short = table.copy()
    short["correct"] = [c[:50] if arm == GUIDED else c for c, arm in zip(short.correct, short.arm, strict=True)]
    with pytest.raises(ValueError, match=r"on equally many images, got \[50, 200\]"):
        contrasts(short)


def test_claims_are_answered_where_all_their_arms_are_there(claims):
    assert answerable(claims, set(sum((arms_of(claim) for claim in claims), ()))) == list(claims)
    few = answerable(claims, [SHOTS, ALL_CLASSES, PROMPTED])
    assert few == ["DD-H1-all-alone", "DD-H1-all-shots", "DD-H4-all", "DD-H10-shots"]
    assert "DD-H3" in answerable(claims, [ALL_CLASSES, SHOTS, PROMPTED, GUIDED, DISEF])
    assert answerable(claims, [PROMPTED]) == []


def noisy(change: dict[str, tuple] | None = None, seeds: int = 3, n: int = 1000) -> pd.DataFrame:
    """The planted outcomes, in which an image is easy or hard for all arms alike, so that arms agree on most."""
    rows = []
    for target in (*KNOWN, UNKNOWN):
        for seed in range(seeds):
            ease = rng(0, "ease", target).random(n)
            for place, one in enumerate(planted(target, seed)):
                percent = 100 * one["correct"].mean()
                if (one["arm"], one["shots"]) in ((arm, 16) for arm in change or {}):
                    percent = change[one["arm"]][one["with_shots"]] or percent
                own = 0.9 * ease + 0.1 * rng(seed, "outcomes", target, place).random(n)
                rows.append(one | {"correct": own < np.quantile(own, percent / 100)})
    return pd.DataFrame(rows)


def test_planted_studies_are_judged_as_they_were_planted(claims):
    differences = contrasts(noisy(), alignments={"digits": aligned()})
    verdicts = {name: judged.direction for name, judged in judge(*to_judge(claims.values(), differences)).items()}
    assert set(verdicts) == set(claims)
    for name in (
        "H1-alone", "H1-all-shots", "H2-guidance-alone", "H2-disef-shots", "H3", "H4", "H4-all", "H6-alone",
        "H6-shots-few", "H7-alone", "H8-more", "H9", "H10-alone", "H11-alone", "H12", "R-alone", "R-unknown-alone",
        "R-both-adapted-shots", "A-zero-shot", "A-guidance", "A-scratch-alone",
    ):  # fmt: skip
        assert verdicts[f"DD-{name}"] == "reproduced", (name, verdicts[f"DD-{name}"])
    assert verdicts["DD-H11-shots"] == "contradicted"  # at 4 shots they help those
    worse = contrasts(noisy({BY_CLASS: (15, 45), ALL_CLASSES: (14, 44)}), alignments={"digits": aligned(-1)})
    upside = judge(*to_judge(claims.values(), worse))
    for name in ("H1-alone", "H1-shots", "H1-all-alone", "H2-disef-alone", "H3", "H4", "H4-all", "H9", "H8-more"):
        assert upside[f"DD-{name}"].direction == "contradicted", (name, upside[f"DD-{name}"].direction)


def test_published_effects_are_differences_of_the_published_accuracies(claims):
    sides = {
        "DD-H4-all": ("with_16_shots", ALL_CLASSES, SHOTS), "DD-H2-guidance-4": ("with_4_shots", BY_CLASS, GUIDED),
        "DD-H11-alone": ("with_4_shots", BY_CLASS, SHOTS), "DD-H11-shots": ("with_5_shots", "DataDream", SHOTS),
    }  # fmt: skip
    role = {name: target for target, names in PUBLISHED["roles"].items() for name in names}
    assert {name for name, claim in claims.items() if claim.published} == {*sides, "DD-H10-shots"}
    for claim, (where, arm, rival) in sides.items():
        rows = PUBLISHED[where]["rows"]
        assert set(rows[arm]) == set(rows[rival])
        differences = {name: rows[arm][name] - rows[rival][name] for name in rows[arm] if name != "mean"}
        numbers = {item["what"].split(",")[0].split(" at ")[0]: item for item in claims[claim].published}
        assert set(numbers) == set(differences)
        for name, item in numbers.items():
            assert item["value"] == pytest.approx(differences[name], abs=1e-9) and item.get("set") == role.get(name)
            assert item["source"].startswith("second-hand")
    gains = {item["what"].split(",")[0]: item["value"] for item in claims["DD-H4-all"].published}
    unknown = PUBLISHED["roles"]["gadgets-hard"]
    rest = np.mean([value for name, value in gains.items() if name not in unknown])
    excess = np.mean([gains[name] for name in unknown]) - rest
    assert claims["DD-H10-shots"].published[0]["value"] == pytest.approx(excess)
    assert sum(gains[name] for name in unknown) / sum(gains.values()) == pytest.approx(0.86, abs=0.01)


def test_margins_are_halves_of_published_effects(claims):
    rows = PUBLISHED["with_16_shots"]["rows"]
    shots = (rows[ALL_CLASSES]["mean"] - rows[SHOTS]["mean"]) / 200
    alone = np.abs([p["value"] for p in claims["DD-H2-guidance-4"].published]).mean() / 200
    few = np.abs([p["value"] for p in claims["DD-H11-alone"].published]).mean() / 200
    gains = {p["what"].split(",")[0]: p["value"] for p in claims["DD-H4-all"].published}
    unknown = np.mean([gains[name] for name in PUBLISHED["roles"]["gadgets-hard"]]) / 200
    own = {
        **dict.fromkeys(room.ON_UNKNOWN, unknown), "DD-H9": 0.1, "DD-H10-alone": 2 * alone,
        "DD-H10-shots": published_effect(claims["DD-H10-shots"]) / 2,
        "DD-H11-alone": few, "DD-H11-shots": published_effect(claims["DD-H11-shots"]) / 2,
    }  # fmt: skip
    assert (shots, alone) == (pytest.approx(0.0105), pytest.approx(0.02, abs=0.0005))
    for name, claim in claims.items():
        expected = (own[name],) if name in own else (shots, alone)
        assert any(claim.margin == pytest.approx(margin, abs=0.0008) for margin in expected), (name, claim.margin)
    of_pooled = [name for name, claim in claims.items() if claim.margin == pytest.approx(shots)]
    assert all(
        "with the shots" in claims[name].contrast or name in ("DD-H4", "DD-H4-all", "DD-H5-shots") for name in of_pooled
    )


def test_means_of_published_rows_are_those_of_their_sets_where_the_row_is_whole():
    assert len(PUBLISHED["columns"]) == 10 and sum(c["classes"] for c in PUBLISHED["columns"].values()) == 2090
    for name, row in PUBLISHED["with_16_shots"]["rows"].items():
        assert set(row) == {*PUBLISHED["columns"], "mean"}
        own = np.mean([value for column, value in row.items() if column != "mean"])
        assert (abs(own - row["mean"]) < 0.06) != (name == ZERO_SHOT), name  # whose printed mean is another


ROLES = ("digits", "objects-hard", "aerial-hard", "gadgets-hard")


def targets_of(name: str, contrast: str) -> int:
    """Return on how many of the four targets a claim is judged."""
    if name in room.ON_UNKNOWN or name in room.CONCENTRATED:
        return 1
    return 3 if name in room.ON_KNOWN else 2 if "targets of the sweep" in contrast else 4


def design(name: str, claim) -> tuple[int, int]:
    """Return seeds, and test images of each target, with which a claim's interval can be expected to decide it."""
    large, sets = claim.margin >= 0.0175, targets_of(name, claim.contrast)
    if sets == 1:
        return 5, 1000
    if sets < 4:
        return {2: 5 if large else 16, 3: 3 if large else 8}[sets], 2700
    if large or name == "DD-H4-all":
        return 3, 2700 if name in ("DD-H4-all", "DD-A-zero-shot") else 1000
    return {0.1: 6, 0.2: 8, 0.3: 10, 0.4: 16}[claim.discordance], 2700


def test_every_claim_can_be_decided_by_the_design_that_the_file_states_and_by_no_tiny_one(claims):
    for name, claim in claims.items():
        (seeds, n), sets = design(name, claim), targets_of(name, claim.contrast)
        which = ROLES if sets == 4 else sets
        assert not too_small(claim, n, seeds, which), (name, seeds, n, sets, needed_half_width(claim))
        assert claim.unit == "number" or too_small(claim, 20, seeds=3, sets=sets), name


class Pixels:
    """A stand-in for CLIP whose features are the first pixel's colour and a constant."""

    def encode_images(self, images: np.ndarray) -> torch.Tensor:
        features = torch.from_numpy(np.c_[images[:, 0, 0], np.full(len(images), 64)].astype(np.float32))
        return torch.nn.functional.normalize(features, dim=-1)


def coloured(shift: dict[int, int], n: int = 20, classes: int = 3) -> ImageSet:
    """Images of classes 0, 1, … that are red, the more blue the more a class is shifted."""
    labels = np.arange(n * classes) % classes
    images = np.zeros((len(labels), 4, 4, 3), np.uint8)
    images[..., 0] = 150 + rng(0, "colours", str(shift)).integers(0, 40, len(labels))[:, None, None]
    for label, amount in shift.items():
        images[labels == label, ..., 2] = amount
    return ImageSet(images, labels, tuple("abcde"[:classes]))


def test_a_gap_is_a_class_s_own_and_grows_with_its_shift():
    real, clip = coloured({}), Pixels()
    gaps = class_gaps(clip, real, coloured({0: 200, 1: 60}))
    assert gaps.shape == (3,) and gaps[0] > 4 * gaps[1] > 0 and gaps[1] > 10 * abs(gaps[2])
    fewer = coloured({0: 200, 1: 60}, n=10)
    np.testing.assert_allclose(class_gaps(clip, real, fewer)[:2], gaps[:2], rtol=0.1)  # the count does not matter
    with pytest.raises(ValueError, match="same classes in one order; to mend: \\['d'\\]"):
        class_gaps(clip, real, coloured({}, classes=4))
    with pytest.raises(ValueError, match="two generated images of every class or more, got 1 of 'b'"):
        class_gaps(clip, real, real.take(np.flatnonzero((real.labels != 1) | (np.arange(60) == 1))))


def test_accuracy_by_class():
    correct = np.array([[1, 0, 1, 1], [0, 0, 1, 1]], bool)
    np.testing.assert_allclose(class_accuracy(correct, [0, 0, 1, 2]), [[0.5, 1, 1], [0, 1, 1]])
    with pytest.raises(ValueError, match="no test image of class 1"):
        class_accuracy(correct, [0, 0, 2, 2])
    with pytest.raises(ValueError, match="a label for each image, got shapes"):
        class_accuracy(correct, [0, 1])


def test_alignment_is_spearman_s_with_an_interval_over_classes():
    x = np.arange(20.0)
    whole, inverse = alignment(x, x**3), alignment(x, -x)
    assert whole.value == pytest.approx(1) and whole.n == 20 and whole.p < 0.001 and 0.95 < whole.low < whole.high < 1
    assert (inverse.value, inverse.low, inverse.high) == pytest.approx((-1, -whole.high, -whole.low))
    from scipy.stats import spearmanr

    noise = rng(1, "alignment test").normal(size=(3, 20))
    y = x + 6 * noise
    one = alignment(np.tile(x, (3, 1)), y)
    assert one.value == pytest.approx(spearmanr(x, y.mean(0)).statistic) and one.low < one.value < one.high
    assert one.p == pytest.approx(spearmanr(x, y.mean(0)).pvalue, abs=0.01) and alignment(np.tile(x, (3, 1)), y) == one
    assert alignment(np.zeros(9), np.arange(9.0)) == (0, -1, 1, 9, 1)  # no order, so nothing is known
    for bad in (np.arange(4.0), np.full(9, np.nan), np.arange(8.0)):
        with pytest.raises(ValueError, match="of one shape, .C,. or .seeds, C. with 5 classes or more"):
            alignment(bad, np.arange(4.0) if len(bad) == 4 else np.arange(9.0))


def test_the_interval_of_an_alignment_holds_the_truth_about_as_often_as_it_says(monkeypatch):
    monkeypatch.setattr("zsclib.papers.datadream.gap.PERMUTATIONS", 1)
    stream, true, hits = rng(0, "alignment coverage"), 6 / np.pi * np.arcsin(0.25), 0
    for _ in range(200):
        x = stream.normal(size=16)
        one = alignment(x, 0.5 * x + np.sqrt(0.75) * stream.normal(size=16))
        hits += one.low <= true <= one.high
    assert 0.9 <= hits / 200 <= 0.99


RUNS = sorted((DATA / "runs" / "datadream").glob("*.yml"))


def test_each_of_the_ten_sets_has_a_run_with_the_published_numbers_beside_it():
    runs = {name: read_run("datadream", name) for name in run_names("datadream")}
    assert len(runs) == len(RUNS) == 10
    by_set = {facts["set"]: column for column, facts in PUBLISHED["columns"].items()}
    assert Counter(by_set[run.row.removeprefix("DataDream, ")] for run in runs.values()) == Counter(by_set.values())
    rows = PUBLISHED["with_16_shots"]["rows"]
    for run in runs.values():
        column = by_set[run.row.removeprefix("DataDream, ")]
        numbers = {p["what"].removeprefix("accuracy in percent, "): p["value"] for p in run.published}
        for arm in (ALL_CLASSES, SHOTS, ZERO_SHOT):
            assert numbers[arm] == rows[arm][column], run.name
        word = f"{PUBLISHED['columns'][column]['word']} ".lstrip()
        assert run.parameters["template"] == f"a {word}photo of a {{}}"
        assert tuple(run.parameters["arms"]) == ARMS
        assert run.parameters["allow_network"] is True and run.parameters["device"] == "cuda"
        assert run.parameters["shots"] == 16 and run.parameters["per_class"] == 500 and run.parameters["rank"] == 16
        assert run.parameters["tuning_rate"] == 1e-4 and run.parameters["tuning_samples"] == 16 * 200
        assert run.parameters["real_weight"] == 0.8 and run.parameters["strong"] is True


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_hours_are_those_of_the_stated_arithmetic(path):
    run = read_run("datadream", path.stem)
    p = SimpleNamespace(**run.parameters)
    columns = {facts["set"]: facts["classes"] for facts in PUBLISHED["columns"].values()}
    classes = columns[run.row.removeprefix("DataDream, ")]
    generating = 5.5 * p.per_class * classes * p.sampling_steps * 2 / 100
    tuning = 2 * p.tuning_samples * classes * 3 / 100
    step = 6 * (64 * 17.6 + 3 * classes) / 25_000
    seconds = p.seeds * (generating + tuning) + 15 * (p.seeds + 2) * p.classifier_steps * step + 10_000_000 / 500
    assert run.hours == pytest.approx(seconds / 3600, rel=0.01, abs=0.6)
    assert p.classifier_steps == min(round(10 * 2 * p.per_class * classes / 64), 20_000)
    held, adapters = re.search(r"= ([\d.]+) GB of the machine's; .* = ([\d.]+) GB of the card's", said(path)).groups()
    images = len(p.arms) * p.per_class * classes * p.size**2 * 3
    assert float(held) == pytest.approx(images / 1e9, rel=0.03, abs=0.06)
    assert float(adapters) == pytest.approx(classes * (3_319_808 + 3_014_656) * (4 + 2) / 1e9, rel=0.05, abs=0.06)


def said(path) -> str:
    """Return a file's comments as one line."""
    return " ".join(line.lstrip("# ") for line in path.read_text("utf-8").splitlines() if line.startswith("#"))


def test_the_table_s_columns_are_those_that_the_module_describes():
    assert all(name in room.__doc__ for name in COLUMNS)
