"""What the claims on the diffusion classifier could come out as, at the sizes of its plan: nothing measured goes in."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit, logit
from scipy.stats import norm

from zsclib.papers.diffusion_classifier import arms, contrasts, outcomes, robustness
from zsclib.papers.diffusion_classifier.contrasts import (
    BESIDE,
    CEILING,
    OTHER_NOISE,
    RIVALLED,
    TEN,
    UNSHIFTED,
)
from zsclib.seeds import rng
from zsclib.study.claims import Claim, load_claims, needed_half_width, published_effect, to_judge, too_small
from zsclib.study.freeze import read_plan
from zsclib.study.stats import expected_half_width
from zsclib.study.verdicts import VERDICTS, judge

PLAN, CLAIMS = read_plan("diffusion_classifier"), load_claims()
NORMAL = norm.ppf(0.975)
FEW_TRAININGS = {  # on one set: their own spread is about as large as the margin
    f"DC-{family}" for name in RIVALLED for family in (f"H1-{name}-equal", f"H2-{name}")
} | {"DC-H2-objects-shift"}
BELOW_MARGIN = {  # published effects of both signs, or smaller than affordable intervals
    "DC-H2-objects-fine-hard", "DC-H3-objects-fine-hard", "DC-H3-objects-many", "DC-H5-relation", "DC-H12-objects-hard",
}  # fmt: skip


@pytest.fixture(scope="module")
def planted() -> dict[str, dict[str, np.ndarray]]:
    """Every arm of the plan on as many images as the plan has, at accuracies of its own."""
    random, every = rng(0, "planted outcomes"), {}
    for arm, name, _ in outcomes.jobs(PLAN):
        rows = random.random((1, PLAN["sets"][name])) < random.uniform(0.4, 0.95)
        every.setdefault(arm, {})[name] = rows.astype(float)
    for arm in [arm for arm in every if "share" in arm or "variance" in arm]:
        every[arm] = {name: random.uniform(0.001, 0.3, rows.shape) for name, rows in every[arm].items()}
    return every


@pytest.fixture(scope="module")
def designs(planted) -> dict[str, tuple[int, int, tuple[str, ...]]]:
    """Claim → images, trainings, and sets of those whose contrast is a mean over images."""
    shapes = {
        claim: {name: np.shape(d) for name, d in by_set.items() if not isinstance(d, tuple)}
        for claim, by_set in outcomes.differences(planted).items()
    }
    return {
        claim: (min(n for _, n in by.values()), min(s for s, _ in by.values()), tuple(by))
        for claim, by in shapes.items()
        if by and CLAIMS[claim].unit == "points"
    }


def expected(claim: Claim, design: tuple[int, int, tuple[str, ...]]) -> float:
    n, trainings, sets = design
    return expected_half_width(n, trainings, len(sets), discordance=claim.discordance)


def test_every_claim_of_the_plan_is_judged_whatever_comes_out(planted):
    differences = outcomes.differences(planted)
    of_photographs = {name for name, claim in CLAIMS.items() if claim.paper == "photographs"}
    assert set(differences) == set(PLAN["claims"]) == set(contrasts.KNOWN) - of_photographs
    judged = judge(*to_judge([CLAIMS[claim] for claim in differences], differences))
    assert {each.direction for each in judged.values()} <= set(VERDICTS)
    assert all(each.pooled.low <= each.pooled.high for each in judged.values())
    saved = judged["DC-H8-samples"]
    assert saved.direction == "reproduced" and saved.pooled.high > 0.5
    shares = {name + OTHER_NOISE: 1 / (1 + rng(0, name).uniform(1.7, 2, (1, 60))) for name in TEN}
    (less,) = judge(*to_judge([CLAIMS["DC-H8-samples"]], outcomes.differences({arms.VARIANCE: shares}))).values()
    assert less.direction == "contradicted"  # it saves, but not a factor of two


def test_every_claim_of_the_plan_could_be_decided(designs):
    undecidable = [claim for claim, design in designs.items() if too_small(CLAIMS[claim], *design)]
    own = [claim for claim in PLAN["claims"] if CLAIMS[claim].half_width]
    assert set(own) == set(contrasts.STORIES)
    assert undecidable == [] and not any(too_small(CLAIMS[claim], 1) for claim in own)


def test_of_no_effect_most_claims_would_say_so_more_often_than_not(designs):
    """The header of the claims names those that would not."""
    seldom = set()
    for name, design in designs.items():
        half = expected(CLAIMS[name], design)
        beyond = (CLAIMS[name].margin - half) / (half / NORMAL)  # in standard errors
        either_side = 1 if CLAIMS[name].direction == "not_less" else 2
        if 1 - either_side * norm.sf(beyond) < 0.495:
            seldom.add(name)
    assert seldom - FEW_TRAININGS == {"DC-H3-objects-fine-hard", "DC-H3-objects-many", "DC-H12-objects-hard"}


def test_margins_are_no_larger_than_published_effects(designs):
    """The header of the claims names those that are."""
    larger = set()
    for name, (*_, sets) in designs.items():
        effect = published_effect(CLAIMS[name], sets)
        if CLAIMS[name].direction in ("greater", "less") and effect is not None and CLAIMS[name].margin > abs(effect):
            larger.add(name)
    assert larger == BELOW_MARGIN


@pytest.mark.parametrize(
    ("claim", "sets"),
    [
        ("DC-H10-repeated", [name + OTHER_NOISE for name in TEN]),
        ("DC-H14-rescaled", [name + OTHER_NOISE for name in contrasts.VARIED]),
    ],
)
def test_what_is_not_testable_for_its_size_is_too_small(claim, sets):
    wanted, n = replace(CLAIMS[claim], not_testable=None, margin=0), min(PLAN["sets"][name] for name in sets)
    assert too_small(wanted, n, sets=sets) and too_small(wanted, 4 * n, sets=sets)
    assert expected_half_width(n, 1, len(sets), discordance=wanted.discordance) == pytest.approx(0.02, abs=0.004)


# --- effective robustness -------------------------------------------------------------------------


def study(story: str, seed: int, unshifted: float) -> tuple[float, float, float]:
    """Simulate a study of DC-H7 in which neither DiT nor networks are robust: all scatter about a line of logits.

    Networks without a shift are about as accurate as pilot trainings on validation images let expect, those trained
    longest at the ceiling; the DiT is correct on `unshifted` of these images.
    """
    lines = {"DC-H7-hard": (-0.5, 0.43), "DC-H7-resampled": (-0.35, 0.55), "DC-H7-camera": (-2.0, 0.2)}
    intercept, slope = lines[story]
    random, sets = rng(seed, "simulated robustness", story), contrasts.STORIES[story]
    standard = np.array([[0.85, 0.95, 0.985], [0.83, 0.94, 0.98], [0.85, 0.92, 0.965], [0.81, 0.9, 0.955]])
    x = logit(np.concatenate([standard, np.full((4, 3), 0.9985)], axis=1)) + random.normal(0, 0.15, (4, 6))
    kinds, of_kind = np.repeat(BESIDE, 6), np.repeat(random.normal(0, 0.1, 4), 6)
    n, k = PLAN["sets"][UNSHIFTED], PLAN["sets"][sets[0]]

    def correct(logits: np.ndarray, images: np.ndarray) -> np.ndarray:
        """Images are hard for all, and a little more so for some."""
        own = random.normal(size=(len(logits), len(images)))
        return 0.6**0.5 * images + 0.4**0.5 * own < norm.ppf(expit(logits))[:, None]

    inside = correct(np.append(x, logit(unshifted)), random.normal(size=n))
    below = inside[:-1].mean(1) <= CEILING
    outside, scenes = [], random.normal(size=k)
    for _ in sets:
        y = intercept + slope * x.ravel() + of_kind + random.normal(0, 0.08, x.size)
        outside.append(correct(np.append(y, intercept + slope * logit(unshifted)), scenes))
    networks = robustness.Accuracies(inside[:-1][below], [rows[:-1][below] for rows in outside], kinds[below])
    return robustness.above_line(networks, inside[-1], [rows[-1] for rows in outside], resamples=200)


@pytest.mark.parametrize("unshifted", [0.975, contrasts.REACH])
@pytest.mark.parametrize("story", contrasts.STORIES)
def test_intervals_of_effective_robustness_are_about_as_wide_as_the_claims_say(story, unshifted):
    studies = np.array([study(story, seed, unshifted) for seed in range(6)])
    half = np.median(studies[:, 2] - studies[:, 1]) / 2
    assert half == pytest.approx(CLAIMS[story].half_width, rel=0.4)
    assert half < needed_half_width(CLAIMS[story]) and abs(studies[:, 0].mean()) < 0.03
