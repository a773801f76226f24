"""Contrasts of the diffusion classifier on planted outcomes: they are those that the claims word."""

from __future__ import annotations

import numpy as np
import pytest

from zsclib import datasets
from zsclib.papers.diffusion_classifier import arms, contrasts, effects, winoground
from zsclib.papers.diffusion_classifier.ablations import Measure
from zsclib.papers.diffusion_classifier.arms import CLIP_ENSEMBLE, CLIP_ONE, DIFFUSION, DIT
from zsclib.papers.diffusion_classifier.contrasts import (
    BESIDE,
    CAMERA,
    CEILING,
    CLIP_TEXT,
    DIT_BOUND,
    DIT_DEPTH,
    DIT_L1,
    HARD,
    IMAGE,
    MANY,
    RAW,
    RESAMPLED,
    RIVALLED,
    SHIFTED,
    TEN,
    TEXT,
    UNSHIFTED,
    difference,
    over_trainings,
    rises,
)
from zsclib.papers.diffusion_classifier.error_matrix import exhaustive, nested, prediction
from zsclib.papers.diffusion_classifier.experiments import PAPER
from zsclib.papers.diffusion_classifier.measurements import Target
from zsclib.papers.diffusion_classifier.replays import stages_of_few, stages_of_many
from zsclib.papers.diffusion_classifier.rivals import EQUAL, TWICE, shorter, trained, with_images, with_labels
from zsclib.papers.diffusion_classifier.sequential import sequential
from zsclib.study.claims import load_claims

N = 20
DEEP, NOISY = ([name + part for name in TEN] for part in (", in depth", ", other noise"))
MANY_DEEP, DIT_DEEP = [f"{name}, in depth" for name in MANY], HARD + DIT_DEPTH


def first(share: float, n: int = N) -> np.ndarray:
    """Correct on the first images, so that accuracies and their differences are known; one seed."""
    return (np.arange(n) < round(share * n)).astype(float)[None]


def everywhere(sets, share: float) -> dict[str, np.ndarray]:
    return {name: first(share) for name in sets}


def errors(correct: np.ndarray) -> np.ndarray:
    """Return errors (n, 4 classes, K) by which class 0 wins exactly where correct (n, K) says so, at each timestep."""
    planted = np.ones((*correct.shape[:1], 4, correct.shape[1]), np.float32)
    planted[:, 0] = np.where(correct, 0.5, 1.5)
    planted[:, 2:] = 2
    return planted


@pytest.fixture(scope="module")
def outcomes() -> dict[str, dict[str, np.ndarray]]:
    """Every arm of every claim, each of its own accuracy."""
    planted = {
        DIFFUSION: everywhere((*RIVALLED, "objects-many", *SHIFTED), 0.8),
        CLIP_ENSEMBLE: everywhere((*RIVALLED, "objects-many"), 0.75),
        CLIP_ONE: everywhere((*RIVALLED, "objects-many"), 0.9),
        arms.L1: everywhere(TEN, 0.9), arms.HUBER: everywhere(TEN, 0.75), arms.GUIDED: everywhere(TEN, 0.3),
        arms.CROPPED: everywhere(TEN, 0.6), arms.FILTERED: everywhere(TEN, 0.85),
        arms.SHARED: everywhere(NOISY, 0.7), arms.APART: everywhere(NOISY, 0.4),
        arms.VARIANCE: {name: np.full((1, N), 1 / 101) for name in NOISY},
        arms.SPREAD: everywhere(DEEP, 0.7), arms.CROWDED: everywhere(DEEP, 0.6),
        arms.EVERY: everywhere((*DEEP, *MANY_DEEP), 0.8), arms.VARIATIONAL: everywhere(DEEP, 0.55),
        arms.STAGES: everywhere((*DEEP, *MANY_DEEP), 0.7), arms.TEST: everywhere(DEEP, 0.75),
        arms.FEWER: everywhere(DEEP, 0.6), arms.SHORTER: everywhere(DEEP, 0.65),
        arms.TEST_COST: {name: np.full((1, N), 0.125) for name in DEEP},
        arms.STAGES_COST: {name: np.full((1, N), 0.5) for name in DEEP},
        arms.alone(31): everywhere(TEN, 0.2), arms.alone(93): everywhere(TEN, 0.4),
        arms.alone(468): everywhere(TEN, 0.8), arms.alone(531): everywhere(TEN, 0.7),
        arms.alone(906): everywhere(TEN, 0.25), arms.alone(968): everywhere(TEN, 0.1),
        DIT: everywhere((UNSHIFTED, *SHIFTED, HARD, RESAMPLED, DIT_DEEP), 0.9),
        DIT_L1: {HARD: first(0.7)}, DIT_BOUND: {DIT_DEEP: first(0.6)},
    }  # fmt: skip
    kinds = zip(arms.KINDS.values(), (0.5, 0.1, 0.2, 0.3, 0.45), strict=True)
    planted |= {arm: everywhere(NOISY[:2], share) for arm, share in kinds}
    for k, more in ((1, 0.0), (2, 0.1), (3, 0.2)):
        planted |= {trained(PAPER, k): everywhere(RIVALLED, more)}
        planted |= {trained(with_images(n), k): everywhere(RIVALLED, 0.5 + more) for n in (400, 1600, 6400, EQUAL)}
        planted |= {trained(with_labels(n), k): everywhere(RIVALLED, 0.4 + more) for n in (100, 1000)}
        sets = (*(name for name in RIVALLED if name != "digits"), *SHIFTED)
        planted |= {trained(with_labels(10_000), k): everywhere(sets, 0.6 + more)}
        for j, network in enumerate(BESIDE):
            on_line = {UNSHIFTED: first(0.6 + more / 2 + j / 20)}
            on_line |= dict.fromkeys((*CAMERA, HARD, RESAMPLED), on_line[UNSHIFTED])
            planted[trained(network, k)] = on_line
    pairs = np.zeros((1, 24))
    halves = {arm: pairs.copy() for arm in (TEXT, CLIP_TEXT, IMAGE, RAW)}
    halves[TEXT][0, :12] = 1  # the first six examples, both halves
    halves[CLIP_TEXT][0, ::2] = 1  # one half of each example: none
    halves[CLIP_TEXT][0, 1] = 1  # ... but for the first
    halves[IMAGE][0, :8], halves[RAW][0, :2] = 1, 1
    return planted | {arm: {"pairs": rows} for arm, rows in halves.items()}


@pytest.fixture(scope="module")
def found(outcomes) -> dict[str, dict[str, np.ndarray]]:
    return contrasts.contrasts(on_photographs(outcomes)) | contrasts.contrasts(outcomes)


def on_photographs(outcomes: dict[str, dict[str, np.ndarray]]) -> dict[str, dict[str, np.ndarray]]:
    """Return outcomes of the same arms on the sets of photographs that have the roles of two of ours."""
    roles = {HARD: contrasts.PHOTOGRAPHS, "objects-many": contrasts.MANY_PHOTOGRAPHS}
    return {
        arm: {name: by_set[role] for role, names in roles.items() if role in by_set for name in names}
        for arm, by_set in outcomes.items()
    }


def test_claims_about_no_set_in_particular_are_put_to_photographs_too(outcomes):
    deep = {arm: {name + contrasts.DEPTH: rows for name in contrasts.PHOTOGRAPHS} for arm, rows in (
        (arms.SPREAD, first(0.7)), (arms.CROWDED, first(0.6)), (arms.TEST, first(0.7)), (arms.EVERY, first(0.8)),
    )}  # fmt: skip
    again = contrasts.contrasts(on_photographs(outcomes) | deep)
    assert {"DC-H10", "DC-H12-huber", "DC-H13", "DC-H16-sequential-2"} < set(again)
    for claim in ("DC-H10", "DC-H16-sequential-2"):
        assert list(again[claim]) == [name + contrasts.DEPTH for name in contrasts.PHOTOGRAPHS]
    assert list(again["DC-H13"]) == list(contrasts.PHOTOGRAPHS)
    assert "DC-H12-digits" not in again and "DC-H3-objects-hard" not in again


def test_every_testable_claim_has_its_contrast_and_no_other(found):
    claims = {name: claim for name, claim in load_claims().items() if name.startswith("DC-")}
    testable = {name for name, claim in claims.items() if not claim.not_testable}
    assert set(found) | set(contrasts.CHECKPOINTS) == testable
    assert set(found) == set(contrasts.KNOWN)


@pytest.mark.parametrize(
    ("claim", "expected"),
    [
        ("DC-H1-weak", 0.7), ("DC-H1-aerial-hard-equal", 0.2), ("DC-H1-400", 0.2), ("DC-H1-6400", 0.2),
        ("DC-H2-objects-hard", 0.1), ("DC-H2-digits", 0.3), ("DC-H2-100", 0.3), ("DC-H2-objects-shift", 0.1),
        ("DC-H3-digits", 0.05), ("DC-H3-objects-many", 0.05), ("DC-H4-objects-fine-hard", -0.1),
        ("DC-H6-resnet", 0.2), ("DC-H6-vit-hard", 0.15), ("DC-H8", 0.3), ("DC-H8-samples", np.log10(100 / 2)),
        ("DC-H9-low-digits", 0.75 - 0.3), ("DC-H9-high-aerial-hard", 0.75 - 0.25), ("DC-H10", 0.1),
        ("DC-H11", 0.25), ("DC-H11-dit", 0.3), ("DC-H12-objects-hard", 0.1),
        ("DC-H12-digits", 0.1), ("DC-H12-dit", -0.2), ("DC-H12-huber", -0.05), ("DC-H13", 0.05),
        ("DC-H14-guidance", -0.5), ("DC-H14-crop", -0.2), ("DC-H14-zero", -0.4), ("DC-H14-truncated", -0.3),
        ("DC-H14-truncated-wide", -0.2), ("DC-H16", -0.1), ("DC-H16-many", -0.1),
        ("DC-H16-sequential-2", -0.05), ("DC-H16-sequential-cost", 0.025),
        ("DC-H16-sequential-staged-cost", 0.125 / 0.5 - 1 / 3), ("DC-H16-sequential-prefix", 0.15),
        ("DC-H16-sequential-staged", 0.1),
        ("DC-H5", (6 - 1) / 12), ("DC-H5-object", (2 - 1) / 4), ("DC-H5-relation", 2 / 4), ("DC-H5-both", 2 / 4),
        ("DC-H5-image", (4 - 1) / 12),
    ],
)  # fmt: skip
def test_a_contrast_is_the_difference_its_claim_words(found, claim, expected):
    for differences in found[claim].values():
        assert differences.dtype == np.float64 and differences.ndim == 2
        assert differences.mean() == pytest.approx(expected)


def test_contrasts_are_on_the_sets_that_the_claims_name(found):
    assert set(found["DC-H1-1600"]) == set(RIVALLED) and list(found["DC-H2-objects-shift"]) == ["objects-shift"]
    assert set(found["DC-H8"]) == set(NOISY) and set(found["DC-H16"]) == set(DEEP)
    assert set(found["DC-H14-zero"]) == set(NOISY[:2]) and set(found["DC-H14-crop"]) == set(TEN[:2])
    assert set(found["DC-H12-dit"]) == {HARD} and set(found["DC-H6-vit"]) == {RESAMPLED}
    assert set(found["DC-H16-many"]) == set(MANY_DEEP) and set(found["DC-H11-dit"]) == {DIT_DEEP}


def test_a_rival_of_three_trainings_has_three_rows(found, outcomes):
    assert found["DC-H1-weak"]["digits"].shape == (3, N)
    assert found["DC-H1-weak"]["digits"].mean(1) == pytest.approx([0.8, 0.7, 0.6])
    assert found["DC-H3-digits"]["digits"].shape == (1, N)
    assert over_trainings(outcomes)["vit-b"][HARD].mean(1) == pytest.approx([0.7, 0.75, 0.8])


def test_the_mean_of_fewer_rows_meets_each_of_more():
    one, two = np.array([[0.0, 1.0]]), np.array([[1.0, 1.0], [0.0, 0.0]])
    assert difference(one, two).tolist() == [[-1, 0], [0, 1]]
    assert difference(two, two).tolist() == [[0, 0], [0, 0]]
    assert difference(np.concatenate([two, two, two]), two).shape == (6, 2)


def test_the_paper_is_denied_robustness_where_it_finds_none(outcomes):
    """Networks lie on the identity; the DiT too but under the hard set's role, where it is above."""
    planted = dict(outcomes)
    found = contrasts.contrasts(planted)
    for claim, name in (("DC-H7-hard", HARD), ("DC-H7-resampled", RESAMPLED), ("DC-H7-camera", "shifts of the camera")):
        value, low, high, n = found[claim][name]
        assert value == pytest.approx(0, abs=0.01) and low < 0 < high and n == N
    planted[DIT] = planted[DIT] | {HARD: first(1.0), **everywhere(CAMERA, 0.6)}
    found = contrasts.contrasts(planted)
    assert found["DC-H7-hard"][HARD][0] > 0.05
    assert found["DC-H7-camera"]["shifts of the camera"][0] == pytest.approx(0.3, abs=0.02)  # sign turned


def test_the_line_is_of_long_and_short_trainings_below_the_ceiling(outcomes):
    """Networks lie on the identity, the DiT a tenth above; at the ceiling without a shift, others say nothing."""
    planted = dict(outcomes) | {DIT: everywhere((UNSHIFTED, HARD), 0.8) | {HARD: first(0.9)}}
    at_ceiling = {trained(network, k): {UNSHIFTED: first(1), HARD: first(0.2)} for network in BESIDE for k in (1, 2, 3)}
    short = {
        trained(shorter(network, steps), 1): everywhere((UNSHIFTED, HARD), share)
        for network in BESIDE
        for steps, share in ((60, 0.5), (120, 0.7), (240, 0.9))
    }
    assert first(1).mean() > CEILING
    assert contrasts.effective(over_trainings(planted | at_ceiling), (HARD,)) is None
    value, *_ = contrasts.effective(over_trainings(planted | at_ceiling | short), (HARD,))
    assert value == pytest.approx(0.1, abs=0.01)
    two_kinds = {arm: by_set for arm, by_set in short.items() if arm.startswith("resnet")}
    assert contrasts.effective(over_trainings(planted | at_ceiling | two_kinds), (HARD,)) is None
    beyond = {DIT: {UNSHIFTED: first(1), HARD: first(0.9)}}  # the line does not reach there
    assert contrasts.effective(over_trainings(planted | short | beyond), (HARD,)) is None


def test_of_trainings_that_are_on_record_for_some_sets_only_none_is_on_the_line(outcomes):
    planted = dict(outcomes) | {DIT: everywhere((UNSHIFTED, HARD), 0.8)}
    whole = contrasts.effective(over_trainings(planted), (HARD,))
    partial = planted | {trained("vit-b", 4): {UNSHIFTED: first(0.5)}}
    assert contrasts.effective(over_trainings(partial), (HARD,)) != whole  # without the four of vit-b


def test_claims_on_a_rival_that_still_learns_are_left_out(outcomes):
    arm, longer = with_images(EQUAL), with_images(EQUAL) + TWICE
    equal = trained(arm, 1)
    curves = {equal: [0.5, 0.8], trained(longer, 1): [0.7, 0.83]}
    assert rises(curves, arm, longer)
    assert not rises({equal: [0.5, 0.82], **{k: v for k, v in curves.items() if k != equal}}, arm, longer)
    assert not rises({}, arm, longer) and not rises({equal: [0.1]}, arm, longer)
    found = contrasts.contrasts(outcomes, {"digits": {"curves": curves, "prompts": {}}, "aerial-hard": {"prompts": {}}})
    assert "DC-H1-digits-equal" not in found and set(found["DC-H1-400"]) == set(RIVALLED) - {"digits"}
    assert "DC-H1-weak" in found and "DC-H1-aerial-hard-equal" in found


def test_claims_on_heads_and_on_networks_beside_the_dit_that_still_learn_are_left_out(outcomes):
    most = with_labels(1000)  # of digits there are no more
    heads = {trained(most, 1): [0.8], trained(most + TWICE, 1): [0.84], trained(with_labels(100), 1): [0.2]}
    found = contrasts.contrasts(outcomes, {"digits": {"curves-of-heads": heads}})
    assert "DC-H2-digits" not in found and "DC-H2-objects-hard" in found
    assert set(found["DC-H2-100"]) == set(found["DC-H2-1000"]) == set(RIVALLED) - {"digits"}
    heads = {trained(with_labels(10_000) + more, 1): [top] for more, top in (("", 0.5), (TWICE, 0.6))}
    shift = {SHIFTED[2]: {"curves-of-heads": heads}}
    assert "DC-H2-objects-shift" in found and "DC-H2-objects-shift" not in contrasts.contrasts(outcomes, shift)
    names = (shorter("vit-b", 9), shorter("vit-b", 90), "vit-b")
    beside = {trained(name, 1): [top] for name, top in zip(names, (0.7, 0.9, 0.93), strict=True)}
    found = contrasts.contrasts(outcomes, {UNSHIFTED: {"curves-beside-the-dit": beside}})
    assert "DC-H6-vit" not in found and "DC-H6-vit-hard" not in found and "DC-H6-resnet" in found
    beside[trained(shorter("vit-b", 90), 1)] = [0.92]
    assert "DC-H6-vit" in contrasts.contrasts(outcomes, {UNSHIFTED: {"curves-beside-the-dit": beside}})


def test_what_is_measured_without_a_verdict_has_its_contrasts_apart():
    noisy = {arms.KINDS["rescaled"]: everywhere(NOISY[:2], 0.5), arms.KINDS["normal"]: everywhere(NOISY[:2], 0.6)}
    planted = noisy | {arms.DIFFERENT: everywhere(NOISY, 0.7), arms.REPEATED: everywhere(NOISY, 0.4)}
    found = contrasts.unjudged(planted)
    assert set(found) == set(contrasts.UNJUDGED) and not set(found) & set(contrasts.KNOWN)
    assert {name: d.mean().round(6) for name, d in found["DC-H10-repeated"].items()} == dict.fromkeys(NOISY, 0.3)
    assert found["DC-H14-rescaled"]["digits, other noise"].mean() == pytest.approx(-0.1)
    assert contrasts.unjudged({}) == {}


def test_arms_that_were_not_run_have_no_contrast():
    assert contrasts.contrasts({}) == {} and contrasts.training_length([]) == {}
    some = {DIFFUSION: {"digits": first(0.5)}, CLIP_ONE: {"digits": first(0.4)}, arms.alone(500): {"digits": first(1)}}
    assert set(contrasts.contrasts(some)) == {"DC-H4-digits"}
    with pytest.raises(ValueError, match="no arms for the claim 'X'"):
        contrasts.check("X")


def test_the_swaps_of_pairs_come_in_turn():
    swaps = winoground.pairs_of(datasets.load("pairs", n=14)).swaps
    assert swaps == tuple(winoground.SWAPS[i % 3] for i in range(7))


@pytest.mark.parametrize(
    ("claim", "objects"), [("DC-H15-262k", 0.2), ("DC-H15-524k", 0.3), ("DC-H15-1m", 0.2), ("DC-H15-all", 0.7)]
)
def test_checkpoints_are_compared_set_by_set(claim, objects):
    shares = ((131072, 0.1), (262144, 0.3), (524288, 0.6), (1048576, 0.8), (2000000, 1.0))
    rows = [
        {"samples": samples, "recognised objects": first(share)[0].astype(int).tolist(), "judged objects": []}
        for samples, share in shares
    ]
    (differences,) = contrasts.training_length(rows)[claim].values()
    assert differences.mean() == pytest.approx(objects)


# --- arms from errors -----------------------------------------------------------------------------


LABELS = np.zeros(N, np.int64)


def test_arms_of_few_timesteps_are_means_over_all_grids_of_them():
    """Correct at every other of 16 timesteps: of the four even grids of four, two are always correct and two never."""
    t = exhaustive(16).t
    alternating = np.broadcast_to(np.arange(16) % 2 == 0, (N, 16))
    found = arms.in_depth(errors(alternating), LABELS, t, 4, np.ones(16))
    assert set(found[arms.SPREAD]) == {0.5} and set(found[arms.every_class(4)]) == {0.5}
    # the crowd is timesteps 6 to 9, two for and two against: a tie, which goes to the first class, the true one
    assert set(found[arms.CROWDED]) == {1.0}
    assert set(found[arms.every_class(1)]) == {0.5} and found[arms.every_class(16)].all()
    assert np.array_equal(found[arms.VARIATIONAL], found[arms.EVERY])  # weights of one


def test_each_timestep_alone_is_an_arm_and_each_measure_one():
    t = exhaustive(4).t
    correct = np.stack([first(share)[0] for share in (0.1, 0.9, 0.5, 0.3)], axis=1).astype(bool)
    by_arm = {DIFFUSION: errors(correct), arms.L1: errors(correct[:, [1]])}
    found = arms.at_even_timesteps(by_arm, LABELS, t)
    assert [found[arms.alone(step)].mean() for step in t] == [0.1, 0.9, 0.5, 0.3]
    assert found[arms.L1].mean() == 0.9 and [arms.timestep_of(arm) for arm in found][2:] == list(t)
    assert arms.number_of(arms.every_class(32)) == 32 and arms.number_of(DIFFUSION) is None


def test_a_filter_may_lose_the_true_class():
    scores = np.tile([1.0, 0, 3, 2], (N, 1))  # CLIP's better half lacks class 0
    scores[: N // 4] = scores[: N // 4, ::-1]  # [2, 3, 0, 1], which has it
    kept = arms.among_clips_best(errors(np.ones((N, 3), bool)), scores, LABELS)
    assert kept.tolist() == [True] * 5 + [False] * 15


def test_sharing_noise_saves_the_ratio_of_variances():
    """Runner-up less true spreads four times as widely without shared noise: sixteenfold in variance."""
    base = errors(np.ones((N, 4), bool))
    slope = np.linspace(0, 1, 4, dtype=np.float32)
    shared, apart = base.copy(), base.copy()
    shared[:, 1] += slope
    apart[:, 1] += 4 * slope
    found = arms.of_shared_noise(shared, apart, LABELS, exhaustive(4).t, 2)
    np.testing.assert_allclose(found[arms.VARIANCE], 1 / 17, rtol=1e-4)
    gain = contrasts.contrasts({arms.VARIANCE: {"x": found[arms.VARIANCE][None]}})["DC-H8-samples"]["x"]
    np.testing.assert_allclose(gain, np.log10(16 / 2), rtol=1e-3)


def test_elimination_is_replayed_and_compared_at_no_less_cost():
    random = np.random.default_rng(0)
    matrix = random.normal(size=(N, 6, 16)).astype(np.float32)
    matrix[:, 0] -= 0.5
    rules = [stages_of_few(k, 6) for k in range(4, 17)]
    found = arms.eliminated(matrix, LABELS, nested(16).t, rules, sequential(16, 0.2))
    assert found[arms.STAGES_COST][0] == pytest.approx((6 + 5 * 15) / (6 * 16))
    assert found[arms.TEST_COST].mean() < 1 and found[arms.TEST].mean() >= 0.7 * (prediction(matrix) == 0).mean()
    assert set(found) == {
        arms.STAGES, arms.STAGES_COST, arms.TEST, arms.TEST_COST, arms.FEWER, arms.SHORTER,
    }  # fmt: skip


def test_the_stages_of_many_classes_are_the_papers_scaled():
    paper = stages_of_many(500, 100)
    assert (paper.until, paper.keep) == ((20, 50, 100, 500), (20, 10, 5, 1))
    assert stages_of_many(128, 120).until == (6, 13, 26, 128)
    assert stages_of_many(52, 120).until == (3, 6, 11, 52) and stages_of_many(50, 120).until[0] == 2
    assert stages_of_many(32, 120).evaluations(120) == 120 * 2 + 20 * 2 + 10 * 3 + 5 * 25
    assert stages_of_many(4, 120).until == (1, 2, 3, 4)
    with pytest.raises(ValueError, match="need four timesteps"):
        stages_of_many(3, 120)


# --- effects of a page ----------------------------------------------------------------------------


def target(name: str) -> Target:
    names = tuple(f"class {c}" for c in range(4))
    images = np.zeros((N, 2, 2, 3), np.uint8)
    return Target(name=name, images=images, labels=LABELS, classes=names, prompts=names)


def test_a_change_is_compared_on_the_same_errors():
    targets = {"digits": target("digits")}
    by_share = {share: {"digits": errors(np.repeat(first(share).T > 0, 2, axis=1))} for share in (0.2, 0.5)}
    changed = effects.change({Measure(): by_share[0.5], Measure("l1"): by_share[0.2]}, Measure("l1"), targets, targets)
    assert changed["digits"].mean() == pytest.approx(-0.3)
    kinds = dict.fromkeys(effects.NOISES.values(), by_share[0.2]) | {"normal": by_share[0.5]}
    assert effects.of_noise(kinds, targets)["no noise"]["digits"].mean() == pytest.approx(-0.3)
    assert not effects.weighting(by_share[0.5], targets, np.ones(2))["digits"].any()
    assert list(effects.difference({"a": first(1)[0], "b": first(1)[0]}, {"b": first(0)[0], "c": first(0)[0]})) == ["b"]
