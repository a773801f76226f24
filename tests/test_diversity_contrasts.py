"""Contrasts are those that the claims word, by target, and every claim of the paper has one."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from zsclib.papers.diversity.contrasts import (
    ALL,
    BARE,
    BASE,
    BATCH_NORM,
    CHOSEN,
    FEWEST,
    KINDS,
    MEASURED,
    NETWORKS,
    NUMBER,
    SUMS,
    Arms,
    Side,
    contrasts,
    correlation_over_sets,
    kinds,
    partial_correlation,
    rank_correlations,
    ranked_sets,
    sides_of,
    untrained,
)
from zsclib.papers.diversity.experiments import CLIP, ENDINGS, FIXED
from zsclib.papers.diversity.training_sets import ARMS, MAIN, SINGLE
from zsclib.setmetrics import MEASURES
from zsclib.study.claims import load_claims

TARGETS = ("objects-hard", "aerial-hard")
N = 100


def first_correct(share: float) -> np.ndarray:
    """Correct on the first images, so that accuracies and their differences are known."""
    return np.arange(N) < round(share * N)


def row(target: str, arm: str, times: float, network: str, seed: int, **shares: float) -> dict:
    endings = dict.fromkeys(ENDINGS, shares.get("last", 0.5)) | {
        name.replace("_", " ").replace("held out", "held-out"): x for name, x in shares.items()
    }
    facts = {"target": target, "arm": arm, "times": times, "length": 1, "architecture": network, "seed": seed}
    return facts | {"held_out": 0.5} | {name: first_correct(x) for name, x in endings.items()}


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    """Planted outcomes: on aerial all combined gains 0.1 less, and domains lose instead of gaining."""
    rows = []
    for seed in (0, 1):
        for target in TARGETS:
            aerial = 0.1 * (target == "aerial-hard")
            for net in (MAIN, *NETWORKS):
                gain = 0.1 + 0.3 * (net in ("vit-b", "convnext-s")) - aerial
                ends = {"batch_statistics": 0.25, "best_on_test": 0.22, "best_on_held_out": 0.21}
                rows.append(row(target, "base", 1, net, seed, last=0.2, **ends))
                ends = dict.fromkeys(("batch_statistics", "best_on_test"), 0.2 + gain) | {"best_on_held_out": 0.2}
                rows.append(row(target, "union", 4, net, seed, last=0.2 + gain, **ends))
            shares = dict(zip((*SINGLE, "union"), (0.15, 0.24 - aerial, 0.27, 0.23), strict=True))
            shares |= {"style-matched": 0.3, "shared noise": 0.19, "random-guidance-integer": 0.26}
            shares |= {"random-guidance-once": 0.25, "small, antialiased": 0.3, "small, nearest": 0.28}
            shares |= dict(zip(FIXED, (0.1, 0.2, 0.3, 0.4, 0.5), strict=True))
            shares |= {arm: 0.3 + 0.01 * k for k, arm in enumerate(arm for arm in ARMS if " + " in arm)}
            rows += [row(target, arm, 1, MAIN, seed, last=share) for arm, share in shares.items()]
            rows.append(row(target, "base", 4, MAIN, seed, last=0.26))
            rows.append(row(target, CLIP, 1, "clip", seed, last=0.9))
    table = pd.DataFrame(rows)
    # Held-out images prefer domains with the first seed and the class name with the second.
    for seed, trick in enumerate(("multi-domain", "class-name")):
        table.loc[(table.arm == trick) & (table.seed == seed), "held_out"] = 0.8
    return table


@pytest.fixture(scope="module")
def measured(table) -> pd.DataFrame:
    """Measures of which one orders the sets as accuracy does, one the other way round, the others not at all."""
    trained = table[(table.architecture == MAIN) & table.arm.isin(kinds())]
    accuracy = [outcomes.mean() for outcomes in trained["last"]]
    measured = trained[["target", "arm", "times", "seed"]].assign(**dict.fromkeys(MEASURES, 0.0))
    measured["vendi score"], measured["frechet distance"] = accuracy, [-x for x in accuracy]
    return measured


@pytest.fixture(scope="module")
def differences(table, measured) -> dict[str, dict[str, np.ndarray]]:
    return contrasts(table, measured)


def test_every_claim_of_the_paper_has_its_contrast_and_no_other(differences):
    claims = load_claims()
    testable = {name for name, claim in claims.items() if claim.paper == "diversity" and not claim.not_testable}
    assert {*differences, "DIV-D3-class"} == testable  # these targets ask by the bare name anyway
    assert set(MEASURED) < testable and set(MEASURED.values()) <= set(MEASURES)
    for claim in testable:
        assert all(side.arm in (CHOSEN, CLIP) or side.arm in kinds() or "small" in side.arm for side in sides_of(claim))
    with pytest.raises(ValueError, match="no contrast for 'DIV-D0'; it has: DIV-D1"):
        sides_of("DIV-D0")


@pytest.mark.parametrize(
    ("claim", "objects", "aerial"),
    [
        ("DIV-D1", 0.22, 0.12),
        ("DIV-D2", 0.3 - 0.9, 0.2 - 0.9),
        ("DIV-D3-style", 0.1, 0.1), ("DIV-D3-domain", 0.04, -0.06),
        ("DIV-D3-guidance", 0.07, 0.07),
        ("DIV-D4", 0.03, 0.27 - 0.15),  # another rival there
        ("DIV-D4-low", 0.1, 0.1), ("DIV-D4-random", -0.03, -0.03), ("DIV-D4-integer", -0.01, -0.01),
        ("DIV-D5", 0.03, -0.07),
        ("DIV-D5-equal", 0.23 - 0.27, 0.23 - 0.27),
        ("DIV-D6-resnet50", 0.1, 0), ("DIV-D6-vit-b", 0.4, 0.3), ("DIV-D6-size", 0.3, 0.3),
        ("DIV-D7", 0.03, 0.03),
        # naive .20 and .26 at 4N, union .23 and .30 (aerial .20)
        ("DIV-D7-kinds", ((0.23 - 0.2) + (0.3 - 0.26)) / 2, ((0.23 - 0.2) + (0.2 - 0.26)) / 2),
        ("DIV-D7-number", ((0.26 - 0.2) + (0.3 - 0.23)) / 2, ((0.26 - 0.2) + (0.2 - 0.23)) / 2),
        ("DIV-D7-share", 0.23 - 0.26, 0.23 - 0.26),
        ("DIV-D8", 0.02, 0.02), ("DIV-A-eval", 0.05, 0.05), ("DIV-A-eval-gain", -0.05, -0.05),
        ("DIV-A-selection", 0.01 - 0.02, 0.01 - 0.02), ("DIV-A-selection-gain", 0.08 + 0.01, -0.02 + 0.01),
        ("DIV-A-noise", 0.01, 0.01), ("DIV-A-size", 0.07, -0.03), ("DIV-A-once", -0.03, -0.03),
        ("DIV-D9-vendi", 1, 1), ("DIV-D9-frechet", -1, -1), ("DIV-D9-recall", 0, 0),
    ],
)  # fmt: skip
def test_a_contrast_is_the_difference_its_claim_words_on_each_target(differences, claim, objects, aerial):
    expected = {"objects-hard": objects, "aerial-hard": aerial}
    values = {t: v[0] if claim in MEASURED else v.mean() for t, v in differences[claim].items()}
    assert values == pytest.approx(expected, abs=1e-9)


def test_the_bare_name_is_judged_where_the_naive_prompt_is_another(table):
    other = table.assign(target=table["target"].replace({"objects-hard": "digits"}))
    by_target = contrasts(other)["DIV-D3-class"]
    assert list(by_target) == ["digits"] and by_target["digits"].mean() == pytest.approx(-0.05)
    assert not {"digits", "hub:uoft-cs/cifar10"} & set(BARE)


def test_contrasts_have_a_row_per_seed_and_a_column_per_image(differences):
    for claim, by_target in differences.items():
        for values in by_target.values():
            assert claim in MEASURED or (values.shape == (2, N) and values.dtype == np.float64)


def test_what_kinds_and_number_are_worth_sums_to_the_whole_in_either_order():
    rng = np.random.default_rng(0)
    arms = {side: rng.random((3, 20)) for side in KINDS}
    kinds_, number = (sum(w * arms[side] for side, w in weights.items()) for weights in (KINDS, NUMBER))
    np.testing.assert_allclose(kinds_ + number, arms[ALL] - arms[BASE])
    assert set(KINDS) == set(NUMBER) and sum(KINDS.values()) == sum(NUMBER.values()) == 0
    # A player that adds nothing in either order has no value, and the other has all.
    arms = {BASE: 0.2, Side("union"): 0.2, Side("base", 4): 0.5, ALL: 0.5}
    assert sum(w * arms[side] for side, w in KINDS.items()) == 0
    assert sum(w * arms[side] for side, w in NUMBER.items()) == pytest.approx(0.3)


def test_weights_of_a_difference_sum_to_nothing():
    assert all(abs(sum(weights.values())) < 1e-9 for weights in SUMS.values())


def test_claims_that_need_networks_which_were_not_trained_are_left_out(table):
    alone = table[table.architecture.isin([MAIN])]
    differences = contrasts(alone)
    assert not {"DIV-D1", "DIV-D2", "DIV-D6-size", "DIV-D6-resnet50", *MEASURED} & set(differences)
    assert differences["DIV-D7"]["objects-hard"].mean() == pytest.approx(0.03)
    longer = alone.assign(length=4)
    assert contrasts(longer) == {}  # claims compare trainings of length 1
    assert contrasts(longer, length=4)["DIV-D7"]["objects-hard"].mean() == pytest.approx(0.03)
    without = alone[alone.arm != "class-name"]
    assert Side(CHOSEN) not in Arms(without, "objects-hard") and "DIV-D5-equal" not in contrasts(without)


def test_the_best_rival_of_a_seed_is_the_one_that_is_best_with_the_other_seeds():
    outcomes = {"class-name": (0.9, 0.4, 0.6), "multi-domain": (0.6, 0.6, 0.6)}
    rows = [row("x", arm, 1, MAIN, s, last=p) for arm, ps in outcomes.items() for s, p in enumerate(ps)]
    arms = Arms(pd.DataFrame(rows), "x")
    # The first seed's best is the class name, but the others know nothing of its 0.9.
    np.testing.assert_allclose(arms.best_of(tuple(outcomes)).mean(1), (0.6, 0.4, 0.6))


def test_a_single_seed_has_no_others_to_choose_the_best_rival(table):
    one = table[table.seed == 0]
    assert not {"DIV-D4", "DIV-D5", "DIV-D5-equal"} & set(contrasts(one))
    with pytest.raises(ValueError, match="best of class-name, multi-domain is chosen on other seeds"):
        Arms(one, "aerial-hard").best_of(("class-name", "multi-domain"))


def test_a_network_that_learnt_next_to_nothing_is_no_case_for_or_against_the_tricks(table):
    guessing = {"objects-hard": 0.1, "aerial-hard": 0.16}  # where naive sets lead to 0.2, and two networks go on to 0.5
    judged = contrasts(table, guessing=guessing)
    of_one = {f"DIV-D6-{name}" for name in NETWORKS if name in BATCH_NORM} | {"DIV-D6-size"}
    assert {claim for claim, by_target in judged.items() if "aerial-hard" not in by_target} == of_one
    assert all("objects-hard" in by_target for by_target in judged.values())
    sides = [("base", 1, 0.14), ("union", 4, 0.13)]
    rows = [row(t, arm, k, "vit-b", s, last=p) for t in TARGETS for s in (0, 1) for arm, k, p in sides]
    weak = pd.concat([table[table.architecture != "vit-b"], pd.DataFrame(rows)])
    assert untrained(Arms(weak, "objects-hard"), 0.1) == ["vit-b"]
    judged = contrasts(weak, guessing=dict.fromkeys(TARGETS, 0.1))
    assert not {"DIV-D6-vit-b", "DIV-D6-size"} & set(judged) and {"DIV-D1", "DIV-D6-resnet50"} < set(judged)


def test_a_training_that_is_there_twice_or_lacks_a_seed_is_refused(table):
    with pytest.raises(ValueError, match="base.* on aerial-hard with the seed 0 twice"):
        Arms(pd.concat([table, table]), "aerial-hard")
    one = table[(table.arm != "base") | (table.seed == 0)]
    with pytest.raises(ValueError, match=r"on aerial-hard needs one row with each of .* \[0, 1\]; .* \[0\]"):
        Arms(one, "aerial-hard")[BASE]


def test_the_chosen_trick_does_not_look_at_test_images(table):
    chosen = Arms(table, "objects-hard")[Side(CHOSEN)]
    np.testing.assert_allclose(chosen.mean(1), (0.24, 0.15))  # not 0.27, which is the best on test images


def test_rank_correlations_come_by_target_and_seed_and_need_enough_sets(table, measured):
    sets = ranked_sets(table, measured)
    ranks = rank_correlations(sets)
    assert sorted(zip(ranks["target"], ranks["seed"], strict=True)) == sorted((t, s) for t in TARGETS for s in (0, 1))
    np.testing.assert_allclose(ranks["vendi score"], 1)
    assert sets.groupby(["target", "seed"]).size().unique().tolist() == [26] and FEWEST == 20
    fewer = table[~table.arm.str.contains(" + ", regex=False)]
    assert not set(MEASURED) & set(contrasts(fewer, measured))  # 16 different ones, whatever the number of seeds


def test_a_correlation_over_sets_has_an_interval_over_sets():
    """Forty studies of sets whose measure says nothing: about 2 intervals miss zero; seeds that agree do not narrow."""
    def study(seed: int, tied: float, seeds: int = 5) -> pd.DataFrame:
        draws = np.random.default_rng(seed)
        measure = draws.random(22)
        accuracy = tied * measure + (1 - tied) * draws.random(22)  # of the kind, the same with every seed
        rows = [
            {"arm": str(k), "times": 1.0, "seed": s, "x": measure[k], "accuracy": accuracy[k] + 0.01 * draws.random()}
            for k in range(22) for s in range(seeds)
        ]  # fmt: skip
        return pd.DataFrame(rows)

    intervals = [correlation_over_sets(study(seed, 0.0), "x") for seed in range(40)]
    assert sum(not low <= 0 <= high for _, low, high, _ in intervals) <= 5
    assert 0.7 < np.median([high - low for _, low, high, _ in intervals]) < 1.2
    assert {n for *_, n in intervals} == {22}
    value, low, high, _ = correlation_over_sets(study(0, 0.7), "x")
    assert low > 0 and value == pytest.approx(rank_of(study(0, 0.7))) and high <= 1


def rank_of(sets: pd.DataFrame) -> float:
    return float(np.mean([spearmanr(own["x"], own["accuracy"]).statistic for _, own in sets.groupby("seed")]))


def test_a_partial_correlation_is_what_is_left_when_size_is_held_fixed():
    x, y, size = [1, 2, 3, 4, 5, 6], [2, 1, 4, 3, 6, 5], [1, 1, 2, 2, 4, 4]
    assert spearmanr(x, y).statistic > 0.8
    # by hand: ranks of size are 1.5, 1.5, 3.5, 3.5, 5.5, 5.5; rho(x, y) = 29/35, rho(x, size) = rho(y, size) = √(32/35)
    assert partial_correlation(x, y, size) == pytest.approx((29 / 35 - 32 / 35) / (1 - 32 / 35))
    assert partial_correlation(x, y, [1] * 6) == pytest.approx(29 / 35)
    assert partial_correlation(x, [7] * 6, size) == partial_correlation(size, y, size) == 0
    residual = []
    rng = np.random.default_rng(1)
    x, y, z = rng.random((3, 40))
    ranks = [np.argsort(np.argsort(values)) - 19.5 for values in (x, y, z)]
    residual = [values - ranks[2] * (values @ ranks[2]) / (ranks[2] @ ranks[2]) for values in ranks[:2]]
    assert partial_correlation(x, y, z) == pytest.approx(np.corrcoef(*residual)[0, 1])
