"""Contrasts of the diffusion classifier on planted outcomes: they are those that the claims word."""

from __future__ import annotations

import numpy as np
import pytest

from zsclib.papers.diffusion_classifier import contrasts
from zsclib.papers.diffusion_classifier.ablations import Measure
from zsclib.papers.diffusion_classifier.contrasts import (
    CLIP_ENSEMBLE,
    CLIP_ONE,
    DIFFUSION,
    DIT,
    FEATURES,
    difference,
)
from zsclib.papers.diffusion_classifier.error_matrix import exhaustive
from zsclib.papers.diffusion_classifier.experiments import COMPETENT, PAPER
from zsclib.papers.diffusion_classifier.measurements import Target
from zsclib.papers.diffusion_classifier.replays import Replay
from zsclib.study.claims import load_claims

N = 20
SETS = ("objects", "objects-shift", "digits", "aerial", "objects-fine")
POOLED = ("objects", "digits", "aerial")


def first(share: float) -> np.ndarray:
    """Correct on the first images, so that accuracies and their differences are known."""
    return np.arange(N) < round(share * N)


def target(name: str, classes: int = 4) -> Target:
    names = tuple(f"class {c}" for c in range(classes))
    return Target(
        name=name,
        images=np.zeros((N, 2, 2, 3), np.uint8),
        labels=np.zeros(N, np.int64),
        classes=names,
        prompts=names,
    )


def errors(correct: np.ndarray) -> np.ndarray:
    """Return errors (n, 4 classes, K) by which class 0 wins exactly where correct (n, K) says so, at each timestep."""
    planted = np.ones((*correct.shape[:1], 4, correct.shape[1]), np.float32)
    planted[:, 0] = np.where(correct, 0.5, 1.5)
    planted[:, 2:] = 2
    return planted


TARGETS = {name: target(name) for name in POOLED}


def everywhere(share: float, K: int = 2) -> dict[str, np.ndarray]:
    return {name: errors(np.repeat(first(share)[:, None], K, axis=1)) for name in TARGETS}


@pytest.fixture(scope="module")
def page_one() -> dict[str, dict[str, np.ndarray]]:
    shares = {DIFFUSION: 0.8, PAPER: 0.1, COMPETENT: 0.5, FEATURES: 0.6, CLIP_ENSEMBLE: 0.75, CLIP_ONE: 0.9}
    correct = {arm: {name: first(share) for name in SETS} for arm, share in shares.items()}
    rows = {
        "diffusion": {"text": first(0.6), "image": first(0.5)},
        "diffusion, raw errors": {"text": first(0.6), "image": first(0.2)},
        "CLIP": {"text": first(0.3), "image": first(0.1)},
    }
    swaps = ["object"] * 10 + ["relation"] * 6 + ["both"] * 4
    conditional = {
        name: {"objects": first(share), "objects-shift": first(share / 2)}
        for name, share in ((DIT, 0.9), ("resnet101", 0.7), ("vit-b", 0.4))
    }
    checkpoints = [
        {
            "samples": samples,
            "recognised objects": first(share).astype(int).tolist(),
            "recognised digits": first(share / 2).astype(int).tolist(),
            "judged objects": [],
        }
        for samples, share in ((131072, 0.1), (262144, 0.3), (524288, 0.6), (1048576, 0.8), (2000000, 1.0))
    ]
    parts = contrasts.against_rivals(correct) | contrasts.binding(rows, swaps)
    return parts | contrasts.class_conditional(conditional) | contrasts.training_length(checkpoints)


@pytest.fixture(scope="module")
def page_two() -> dict[str, dict[str, np.ndarray]]:
    t = (250, 500, 750, 900)
    replays = [
        Replay({name: first(share) for name in TARGETS}, {name: np.full(N, cost) for name in TARGETS}, {})
        for share, cost in ((0.7, 0.2), (0.6, 0.5))
    ]
    broad = {
        Measure(): everywhere(0.5, 4),
        Measure("l1"): everywhere(0.6, 4),
        Measure("huber"): everywhere(0.45, 4),
        Measure(guidance=1.0): everywhere(0.2, 4),
        Measure(guidance=2.0): everywhere(0.1, 4),
        Measure(crop=1): everywhere(0.9, 4),
        Measure(crop=2): everywhere(0.4, 4),
        Measure(crop=3): everywhere(0.0, 4),
    }
    kinds = {
        "normal": everywhere(0.5), "zero": everywhere(0.1), "truncated": everywhere(0.2),
        "truncated-2.5": everywhere(0.3), "rescaled": everywhere(0.55),
    }  # fmt: skip
    scores = {
        name: np.tile([1.0, 0, 3, 2], (N, 1)) for name in TARGETS
    }  # CLIP's better half lacks class 0 ...
    scores = {name: np.where(first(0.4)[:, None], scores[name][:, ::-1], scores[name]) for name in TARGETS}
    noisy = {name: matrix + np.linspace(0, 1, 4, dtype=np.float32) * [[[0], [1], [0], [0]]] for name, matrix in
             broad[Measure()].items()}  # fmt: skip
    wide = {
        name: np.where(np.arange(4)[:, None] == 1, 4 * (matrix - 1) + 1, matrix)
        for name, matrix in noisy.items()
    }
    dit = {"objects": target("objects")}
    by_class = {
        measure: {"objects": broad[measure]["objects"]}
        for measure in (Measure(), Measure("l1"), Measure("huber"))
    }
    half, every = ({"objects-fine": first(share)} for share in (0.8, 0.75))
    parts = contrasts.shared_noise(noisy, wide, TARGETS, t, 2)
    parts |= contrasts.single_timesteps(broad[Measure()], TARGETS, t)
    parts |= contrasts.spread(broad[Measure()], everywhere(0.25, 8), TARGETS, t, 2)
    parts |= contrasts.weighting(broad[Measure()], TARGETS, np.ones(4))
    parts |= contrasts.weighting(by_class[Measure()], dit, np.ones(4), "DC-H11-dit")
    parts |= contrasts.losses(broad, TARGETS) | contrasts.losses_of_dit(by_class, dit)
    parts |= contrasts.class_filter(broad[Measure()], scores, TARGETS, half, every)
    some = {name: TARGETS[name] for name in ("objects", "digits")}
    parts |= contrasts.variants(
        broad, {kind: {name: e[name] for name in some} for kind, e in kinds.items()}, some
    )
    every, fewer, stages = ({name: first(share) for name in TARGETS} for share in (0.75, 0.5, 0.65))
    return parts | contrasts.elimination(every, *replays, fewer, stages)


def test_every_testable_claim_has_its_contrast_and_no_other(page_one, page_two):
    claims = {name: claim for name, claim in load_claims().items() if claim.paper == "diffusion_classifier"}
    testable = {name for name, claim in claims.items() if not claim.not_testable}
    assert set(page_one) & set(page_two) == set()
    assert set(page_one) | set(page_two) | {"DC-H7"} == testable


@pytest.mark.parametrize(
    ("claim", "expected"),
    [
        ("DC-H1-objects-weak", 0.7), ("DC-H1-aerial-competent", 0.3), ("DC-H2-objects-shift", 0.2),
        ("DC-H3-digits", 0.05), ("DC-H4-objects-fine", -0.1), ("DC-H5", 0.3), ("DC-H5-object", 0.4),
        ("DC-H5-relation", 2 / 6), ("DC-H5-both", 0.0), ("DC-H5-image", 0.3), ("DC-H6-resnet", 0.2),
        ("DC-H6-vit", 0.5),
    ],
)  # fmt: skip
def test_a_contrast_with_a_rival_is_the_difference_its_claim_words(page_one, claim, expected):
    (differences,) = page_one[claim].values()
    assert differences.dtype == np.float64
    assert differences.mean() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("claim", "objects", "digits"),
    [
        ("DC-H15-262k", 0.2, 0.1),
        ("DC-H15-524k", 0.3, 0.15),
        ("DC-H15-1m", 0.2, 0.1),
        ("DC-H15-all", 0.7, 0.35),
    ],
)
def test_checkpoints_are_compared_set_by_set(page_one, claim, objects, digits):
    assert set(page_one[claim]) == {"objects", "digits"}
    assert page_one[claim]["objects"].mean() == pytest.approx(objects)
    assert page_one[claim]["digits"].mean() == pytest.approx(digits, abs=0.03)


@pytest.mark.parametrize(
    ("claim", "expected"),
    [
        ("DC-H9-low", 0.0), ("DC-H9-high", 0.0), ("DC-H10", 0.0), ("DC-H10-repeated", 0.25), ("DC-H11", 0.0),
        ("DC-H11-dit", 0.0), ("DC-H12-objects", 0.1), ("DC-H12-digits", 0.1), ("DC-H12-dit", 0.1),
        ("DC-H12-huber", -0.05), ("DC-H13", -0.1), ("DC-H13-objects-fine", 0.05), ("DC-H14-guidance", -0.3),
        ("DC-H14-crop", -0.1), ("DC-H14-zero", -0.4), ("DC-H14-truncated", -0.3), ("DC-H14-truncated-wide", -0.2),
        ("DC-H14-rescaled", 0.05), ("DC-H16", -0.15), ("DC-H16-sequential", -0.05), ("DC-H16-sequential-2", -0.05),
        ("DC-H16-sequential-cost", 0.1), ("DC-H16-sequential-staged-cost", 0.2 / 0.5 - 1 / 3),
        ("DC-H16-sequential-prefix", 0.2), ("DC-H16-sequential-staged", 0.05),
    ],
)  # fmt: skip
def test_a_contrast_of_parts_is_the_difference_its_claim_words(page_two, claim, expected):
    for differences in page_two[claim].values():
        assert differences.shape == (N,)
        assert differences.mean() == pytest.approx(expected)


def test_claims_have_the_sets_they_name(page_two):
    assert set(page_two["DC-H8"]) == set(page_two["DC-H16"]) == set(POOLED)
    assert set(page_two["DC-H14-zero"]) == set(page_two["DC-H14-crop"]) == {"objects", "digits"}
    assert set(page_two["DC-H11-dit"]) == set(page_two["DC-H12-dit"]) == {"objects"}
    assert set(page_two["DC-H13-objects-fine"]) == {"objects-fine"}


def test_sharing_noise_saves_the_ratio_of_variances(page_two):
    # runner-up less true spreads four times as widely without shared noise: sixteenfold in variance
    for gain in page_two["DC-H8-samples"].values():
        np.testing.assert_allclose(gain, np.log10(16), rtol=1e-5)


def test_arms_that_were_not_run_have_no_contrast():
    correct = {DIFFUSION: {"digits": first(0.5)}, CLIP_ONE: {"digits": first(0.4)}}
    assert set(contrasts.against_rivals(correct)) == {"DC-H4-digits"}
    assert contrasts.binding({}, ()) == contrasts.class_conditional({}) == contrasts.training_length([]) == {}


def test_a_difference_is_taken_on_the_targets_of_both():
    both = difference({"a": first(0.5), "b": first(0.5)}, {"b": first(0.25), "c": first(1)})
    assert list(both) == ["b"]
    assert both["b"].tolist() == (first(0.5) & ~first(0.25)).astype(float).tolist()


def test_the_class_conditional_model_is_held_against_the_line_of_the_networks():
    line = {
        f"net {i}": {"objects": first(x), "objects-shift": first(x)} for i, x in enumerate((0.3, 0.5, 0.7))
    }
    on_it = contrasts.above_the_line(line | {DIT: {"objects": first(0.6), "objects-shift": first(0.6)}})
    above = contrasts.above_the_line(line | {DIT: {"objects": first(0.6), "objects-shift": first(0.9)}})
    assert on_it[0] == pytest.approx(0, abs=0.02)
    assert above[0] == pytest.approx(0.3, abs=0.03) and above[1] < above[0] < above[2]


def test_arms_of_few_timesteps_are_means_over_all_grids_of_them():
    """Correct at every other of 16 timesteps: of the four even grids of four, two are always correct and two never."""
    t = exhaustive(16).t
    alternating = np.broadcast_to(np.arange(16) % 2 == 0, (N, 16))
    planted = {name: errors(alternating) for name in TARGETS}
    # the crowd is timesteps 6 to 9, two for and two against: a tie, which goes to the first class, the true one
    spread = contrasts.spread(planted, everywhere(1.0, 16), TARGETS, t, 4)
    assert set(spread["DC-H10"]["digits"]) == {0.5 - 1}
    assert set(spread["DC-H10-repeated"]["digits"]) == {0.5 - 1}
    alone = contrasts.single_timesteps(
        planted, TARGETS, t
    )  # near 500: 7 and 8; near 50: 0 and 1; near 900: 14
    assert set(alone["DC-H9-low"]["digits"]) == {0.5 - 0.5}
    assert set(alone["DC-H9-high"]["digits"]) == {0.5 - 1}
