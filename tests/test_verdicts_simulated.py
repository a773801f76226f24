"""Simulated studies whose truth is known: intervals hold it as often as they say, and so do verdicts."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from bench.interval_coverage import WORLDS, World, coverage, coverage_of_means, simulate
from zsclib.seeds import rng
from zsclib.study.claims import Claim
from zsclib.study.stats import crossed, interval
from zsclib.study.verdicts import judge, tally

STUDIES = 4000


@pytest.mark.parametrize("seed_sd", [0.0, 0.02, 0.06])
@pytest.mark.parametrize(("seeds", "images"), [(3, 200), (3, 400), (8, 200)])
def test_intervals_over_seeds_and_images_hold_the_truth(seeds: int, images: int, seed_sd: float) -> None:
    generator = rng(0, "coverage", seeds, images, str(seed_sd))
    d, truth = simulate(WORLDS["alike"], STUDIES, seeds, images, seed_sd, generator)
    assert d.mean() == pytest.approx(truth, abs=0.005)
    shares = coverage(d, truth)
    assert 0.93 <= shares["ours"] <= 0.98
    if seed_sd == 0.06:  # seeds taken for all there are: the test can tell
        assert shares["images"] < 0.8


@pytest.mark.parametrize("world", ["identical", "sure", "easy"])
def test_so_they_do_where_arms_are_alike_or_outcomes_fixed_or_chance_decides(world: str) -> None:
    for seed_sd in (0.0, 0.06):
        generator = rng(0, "coverage", world, str(seed_sd))
        d, truth = simulate(WORLDS[world], STUDIES, 3, 200, seed_sd, generator)
        assert 0.93 <= coverage(d, truth)["ours"] <= 0.98


def test_so_does_the_mean_of_sets() -> None:
    for seed_sd in (0.0, 0.06):
        generator = rng(0, "coverage of means", str(seed_sd))
        d, truth = simulate(WORLDS["alike"], 4 * STUDIES, 3, 200, seed_sd, generator)
        assert 0.93 <= coverage_of_means(d, truth) <= 0.98


def test_so_does_a_single_run() -> None:
    """One seed: differences of correctness on 200 and 400 images."""
    for images in (200, 400):
        d, truth = simulate(WORLDS["easy"], STUDIES, 1, images, 0.0, rng(0, "single", images))
        intervals = [interval(study) for study in d]
        assert 0.93 <= np.mean([e.low <= truth <= e.high for e in intervals]) <= 0.98


def test_the_simulated_seeds_have_the_spread_asked_for() -> None:
    d, truth = simulate(World((0.75, 0.70), 1.5, 0.7), 2000, 2, 2000, 0.03, rng(0, "spread"))
    by_seed = d.mean(2)
    assert by_seed.var(1, ddof=1).mean() == pytest.approx(2 * 0.03**2, rel=0.25)
    assert truth == pytest.approx(0.05, abs=0.002)
    assert crossed(d)[0] == pytest.approx(d.mean((1, 2)), abs=1e-6)


def directions(
    accuracies: dict[str, tuple[float, float]],
    studies: int = 400,
    seeds: int = 3,
    images: int = 400,
    seed_sd: float = 0.01,
    **more: object,
) -> Counter:
    """Return how often a claim came out how, "greater" if nothing else is said, over studies of independent sets."""
    fields = {"id": "H-1", "paper": "p", "statement": "A beats B.", "contrast": "A - B", "direction": "greater"}
    claim = Claim(**fields | {"margin": 0.01} | more)
    sets = {}
    for name, pair in accuracies.items():
        world = World(pair, 1.5, 0.7)
        sets[name], _ = simulate(world, studies, seeds, images, seed_sd, rng(0, "directions", name, str(pair)))
    outcomes = Counter()
    for i in range(studies):
        judged = judge([claim], {claim.id: {name: d[i] for name, d in sets.items()}})
        outcomes[judged[claim.id].direction] += 1
        assert tally(judged) == f"1 {judged[claim.id].direction}"
    return outcomes


def test_a_planted_effect_is_reproduced() -> None:
    outcomes = directions(dict.fromkeys("abcd", (0.75, 0.65)))
    assert outcomes["reproduced"] > 0.95 * 400
    assert outcomes["contradicted"] == 0


def test_a_planted_effect_of_the_other_sign_is_contradicted() -> None:
    outcomes = directions(dict.fromkeys("abcd", (0.65, 0.75)))
    assert outcomes["contradicted"] > 0.95 * 400


def test_planted_opposite_effects_are_mixed() -> None:
    outcomes = directions({"a": (0.8, 0.6), "b": (0.6, 0.8), "c": (0.7, 0.7)})
    assert outcomes["mixed"] > 0.85 * 400
    assert outcomes["reproduced"] + outcomes["contradicted"] < 0.01 * 400


def test_without_an_effect_decisions_are_as_rare_as_stated() -> None:
    """About 5 % decide, though one set or another of four looks clear in a fifth of all studies."""
    outcomes = directions(dict.fromkeys("abcd", (0.7, 0.7)), studies=800)
    assert outcomes["reproduced"] + outcomes["contradicted"] < 0.07 * 800
    assert outcomes["mixed"] < 0.03 * 800
    assert outcomes["too small to decide"] > 0.9 * 800  # a margin of one point, nothing published


def test_too_small_was_foreseen() -> None:
    """A design that is said to be too small for an effect misses it often; one that is not finds it almost always."""
    published = ({"what": "x", "value": 10.0, "source": "y"},)
    outcomes = directions(dict.fromkeys("abcd", (0.75, 0.65)), published=published)
    assert outcomes["too small to decide"] == 0
    assert outcomes["reproduced"] > 0.95 * 400
    outcomes = directions({"a": (0.70, 0.68)}, published=({"what": "x", "value": 2.0, "source": "y"},))
    assert outcomes["inconclusive"] == 0
    assert outcomes["too small to decide"] > 0.5 * 400


def test_an_equality_needs_a_margin_beyond_what_chance_leaves() -> None:
    """Five seeds whose accuracies spread by 2 points: without a difference, each of four sets must be near nothing."""
    design = {"studies": 100, "seeds": 5, "images": 1000, "seed_sd": 0.02, "direction": "equal"}
    alike = dict.fromkeys("abcd", (0.5, 0.5))
    assert directions(alike, margin=0.04, **design)["reproduced"] > 0.8 * 100
    assert directions(alike, margin=0.02, **design)["reproduced"] < 0.4 * 100
    apart = directions(dict.fromkeys("abcd", (0.58, 0.5)), margin=0.04, **design)
    assert apart["contradicted"] > 0.8 * 100 and apart["reproduced"] == 0
