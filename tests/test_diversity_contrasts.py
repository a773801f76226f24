"""Contrasts are those that the claims word, by target, and every claim of the paper has one."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from zsclib.papers.diversity.contrasts import MEASURED, SINGLE, best_of, contrasts, rank_correlations
from zsclib.papers.diversity.experiments import ENDINGS, FIXED
from zsclib.setmetrics import MEASURES
from zsclib.study.claims import load_claims

FIVE = ("resnet50", "resnet101", "vit-b", "mobilenet", "convnext-s")
TARGETS = ("objects", "objects-fine", "digits", "aerial")
N = 100


def first_correct(share: float) -> np.ndarray:
    """Correct on the first images, so that accuracies and their differences are known."""
    return np.arange(N) < round(share * N)


def row(target: str, arm: str, times: float, network: str, seed: int, **shares: float) -> dict:
    endings = dict.fromkeys(ENDINGS, shares.get("last", 0.5)) | {
        name.replace("_", " "): x for name, x in shares.items()
    }
    facts = {"target": target, "arm": arm, "times": times, "architecture": network, "seed": seed}
    return facts | {name: first_correct(x) for name, x in endings.items()}


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    """Planted outcomes: on aerial all combined gains 0.1 less, and domains lose instead of gaining."""
    rows = []
    for seed in (0, 1):
        for target in TARGETS:
            nets = FIVE if target in ("objects", "digits") else FIVE[:1]
            aerial = 0.1 * (target == "aerial")
            for net in nets:
                gain = 0.1 + 0.3 * (net in ("vit-b", "convnext-s")) - aerial
                rows.append(row(target, "base", 1, net, seed, last=0.2, batch_statistics=0.25, best_on_test=0.22))
                rows.append(row(target, "union", 4, net, seed, last=0.2 + gain, batch_statistics=0.2 + gain))
            for arm, share in zip((*SINGLE, "union"), (0.15, 0.24 - aerial, 0.27, 0.23), strict=True):
                rows.append(row(target, arm, 1, "resnet50", seed, last=share))
            rows.append(row(target, "small, antialiased", 1, "resnet50", seed, last=0.3))
            rows.append(row(target, "small, nearest", 1, "resnet50", seed, last=0.28))
        for arm, share in zip(FIXED, (0.1, 0.2, 0.3, 0.4, 0.5), strict=True):
            rows.append(row("objects", arm, 1, "resnet50", seed, last=share))
        rows.append(row("objects", "shared noise", 1, "resnet50", seed, last=0.19))
    table = pd.DataFrame(rows)
    base = table["arm"] == "base"
    table.loc[base, "best on held-out"] = table.loc[base, "last"]
    return table


@pytest.fixture(scope="module")
def measured(table) -> pd.DataFrame:
    """Measures of which one orders the sets as accuracy does, one the other way round, the others not at all."""
    trained = table[(table.architecture == "resnet50") & (table.times == 1)]
    accuracy = [outcomes.mean() for outcomes in trained["last"]]
    measured = trained[["target", "arm", "times", "seed"]].assign(**dict.fromkeys(MEASURES, 0.0))
    measured["vendi score"], measured["frechet distance"] = accuracy, [-x for x in accuracy]
    return measured


@pytest.fixture(scope="module")
def differences(table, measured) -> dict[str, dict[str, np.ndarray]]:
    return contrasts(table, {target: first_correct(0.9) for target in TARGETS}, measured)


def test_every_claim_of_the_paper_has_its_contrast_and_no_other(differences):
    claims = load_claims()
    testable = {name for name, claim in claims.items() if claim.paper == "diversity" and not claim.not_testable}
    assert set(differences) == testable
    assert set(MEASURED) < testable and set(MEASURED.values()) <= set(MEASURES)


@pytest.mark.parametrize(
    ("claim", "expected"),
    [
        ("DIV-D1", {"objects": 0.22, "objects-fine": 0.1, "digits": 0.22, "aerial": 0}),
        ("DIV-D1-objects", {"objects": 0.22}), ("DIV-D1-aerial", {"aerial": 0}),
        ("DIV-D2-digits", {"digits": 0.3 - 0.9}), ("DIV-D2-aerial", {"aerial": 0.2 - 0.9}),
        ("DIV-D3-class", dict.fromkeys(TARGETS, -0.05)),
        ("DIV-D3-domain", dict.fromkeys(TARGETS, 0.04) | {"aerial": -0.06}),
        ("DIV-D3-guidance", dict.fromkeys(TARGETS, 0.07)),
        ("DIV-D4", dict.fromkeys(TARGETS, 0.03) | {"aerial": 0.27 - 0.15}),  # another rival there
        ("DIV-D4-low", {"objects": 0.1}), ("DIV-D4-random", {"objects": -0.03}),
        ("DIV-D5", dict.fromkeys(TARGETS, 0.03) | {"aerial": -0.07}),
        ("DIV-D6-vit-b", {"objects": 0.4, "digits": 0.4}), ("DIV-D6-size", {"objects": 0.3}),
        ("DIV-D6-resnet50", dict.fromkeys(TARGETS, 0.1) | {"aerial": 0}),
        ("DIV-D7", dict.fromkeys(TARGETS, 0.03)),
        ("DIV-D7-share", dict.fromkeys(TARGETS, 0.03 - 0.07) | {"aerial": 0.03 + 0.03}),
        ("DIV-D8", dict.fromkeys(TARGETS, 0.02)), ("DIV-A-eval", dict.fromkeys(TARGETS, 0.05)),
        ("DIV-A-eval-gain", dict.fromkeys(TARGETS, -0.05)), ("DIV-A-selection", dict.fromkeys(TARGETS, 0.02)),
        ("DIV-A-selection-gain", dict.fromkeys(TARGETS, -0.02)),
        ("DIV-A-noise", {"objects": 0.01}), ("DIV-A-size", dict.fromkeys(TARGETS, 0.07) | {"aerial": -0.03}),
        ("DIV-A-once", {"objects": -0.03}),
        ("DIV-D9-vendi", dict.fromkeys(TARGETS, 1)), ("DIV-D9-frechet", dict.fromkeys(TARGETS, -1)),
        ("DIV-D9-recall", dict.fromkeys(TARGETS, 0)),
    ],
)  # fmt: skip
def test_a_contrast_is_the_difference_its_claim_words_on_each_target(differences, claim, expected):
    assert {target: values.mean() for target, values in differences[claim].items()} == pytest.approx(expected)


def test_contrasts_have_a_row_per_seed_and_a_column_per_image(differences):
    for claim, by_target in differences.items():
        for values in by_target.values():
            assert values.shape == ((2,) if claim in MEASURED else (2, N)) and values.dtype == np.float64


def test_claims_that_need_networks_which_were_not_trained_are_left_out(table):
    alone = table[table.architecture == "resnet50"]
    differences = contrasts(alone, {target: first_correct(0.9) for target in TARGETS})
    assert not {"DIV-D6-size", "DIV-D6-vit-b", *MEASURED} & set(differences)
    assert differences["DIV-D1"]["objects"].mean() == pytest.approx(0.1)


def test_the_best_rival_is_the_one_that_is_best_over_all_seeds():
    outcomes = {"class-name": (0.9, 0.1), "multi-domain": (0.6, 0.6)}
    rows = [row("x", arm, 1, "resnet50", s, last=p) for arm, ps in outcomes.items() for s, p in enumerate(ps)]
    np.testing.assert_allclose(best_of(pd.DataFrame(rows), "x", tuple(outcomes)).mean(1), (0.6, 0.6))


def test_rank_correlations_come_by_target_and_seed(table, measured):
    ranks = rank_correlations(table, measured)
    assert list(zip(ranks["target"], ranks["seed"], strict=True))[:2] == [("objects", 0), ("objects-fine", 0)]
    assert len(ranks) == 8
    np.testing.assert_allclose(ranks["vendi score"], 1)
