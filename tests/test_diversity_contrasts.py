"""Contrasts are those that the claims word, and every claim of the paper has one."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from zsclib.papers.diversity.contrasts import FIXED, MEASURED, SINGLE, contrasts, rank_correlations
from zsclib.papers.diversity.experiments import ENDINGS
from zsclib.setmetrics import MEASURES
from zsclib.study.claims import load_claims

FIVE = ("resnet50", "resnet101", "vit-b", "mobilenet", "convnext-s")
TARGETS = ("objects", "objects-fine", "digits", "aerial")
N = 100


def first_right(share: float) -> np.ndarray:
    """Right about the first images, so that accuracies and their differences are known."""
    return np.arange(N) < round(share * N)


def row(target: str, arm: str, times: float, network: str, seed: int, **shares: float) -> dict:
    endings = dict.fromkeys(ENDINGS, shares.get("last", 0.5)) | {
        name.replace("_", " "): x for name, x in shares.items()
    }
    facts = {"target": target, "arm": arm, "times": times, "architecture": network, "seed": seed}
    return facts | {name: first_right(x) for name, x in endings.items()}


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    rows = []
    for seed in (0, 1):
        for target in TARGETS:
            nets = FIVE if target in ("objects", "digits") else FIVE[:1]
            for net in nets:
                gain = 0.1 + 0.3 * (net in ("vit-b", "convnext-s"))
                rows.append(
                    row(target, "base", 1, net, seed, last=0.2, batch_statistics=0.25, best_on_test=0.22)
                )
                rows.append(row(target, "union", 4, net, seed, last=0.2 + gain, batch_statistics=0.2 + gain))
            for arm, share in zip((*SINGLE, "union"), (0.15, 0.24, 0.27, 0.23), strict=True):
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
def found(table) -> dict[str, np.ndarray]:
    return contrasts(table, {target: first_right(0.9) for target in TARGETS})


def test_every_claim_of_the_paper_has_its_contrast_and_no_other(found):
    wanted = {
        name for name, claim in load_claims().items() if claim.paper == "diversity" and not claim.not_testable
    }
    assert set(found) | set(MEASURED) == wanted
    assert set(MEASURED.values()) <= set(MEASURES)


@pytest.mark.parametrize(
    ("claim", "expected"),
    [
        ("DIV-D1-objects", 0.1 + 0.3 * 2 / 5), ("DIV-D1-aerial", 0.1), ("DIV-D1", 0.1 + 0.3 * 2 / 5 / 2),
        ("DIV-D2-digits", 0.3 - 0.9), ("DIV-D3-class", -0.05), ("DIV-D3-domain", 0.04), ("DIV-D3-guidance", 0.07),
        ("DIV-D4", 0.03), ("DIV-D4-low", 0.1), ("DIV-D4-random", -0.03), ("DIV-D5", 0.03), ("DIV-D6-vit-b", 0.4),
        ("DIV-D6-size", 0.3), ("DIV-D7", 0.03), ("DIV-D7-share", 0.03 - 0.07), ("DIV-D8", 0.02),
        ("DIV-A-eval", 0.05), ("DIV-A-eval-gain", -0.05), ("DIV-A-selection", 0.02), ("DIV-A-noise", 0.01),
        ("DIV-A-size", 0.07), ("DIV-A-once", -0.03),
    ],
)  # fmt: skip
def test_a_contrast_is_the_difference_its_claim_words(found, claim, expected):
    assert found[claim].mean() == pytest.approx(expected)


def test_contrasts_have_a_row_per_seed_and_the_images_of_the_targets_meant(found, table):
    assert {len(differences) for differences in found.values()} == {2}
    for claim, targets in {
        "DIV-D1": 4,
        "DIV-D1-aerial": 1,
        "DIV-D6-resnet101": 2,
        "DIV-A-once": 1,
        "DIV-D8": 4,
    }.items():
        assert found[claim].shape[1] == targets * N
    alone = table[table.architecture == "resnet50"]
    assert "DIV-D6-size" not in contrasts(alone, {target: first_right(0.9) for target in TARGETS})


def test_rank_correlation_is_one_where_a_measure_orders_sets_as_accuracy_does(table):
    trained = table[(table.architecture == "resnet50") & (table.times == 1)]
    accuracy = [x.mean() for x in trained["last"]]
    measured = trained[["target", "arm", "times", "seed"]].assign(**dict.fromkeys(MEASURES, 0.0))
    measured["vendi score"], measured["frechet distance"] = accuracy, [-x for x in accuracy]
    ranks = rank_correlations(table, measured)
    assert len(ranks) == 8
    np.testing.assert_allclose(ranks["vendi score"], 1)
    np.testing.assert_allclose(ranks["frechet distance"], -1)
    np.testing.assert_array_equal(ranks["recall k=3"], 0)  # the same for all
