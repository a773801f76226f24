"""The paper's algorithms on one screen: short, and the same as what runs in batches."""

from __future__ import annotations

import ast
import inspect

import numpy as np
import pytest

from tests import tiny
from tests.worlds import Gaussians
from zsclib.models.generator import open_generator
from zsclib.papers.diffusion_classifier import classify, exhaustive, method, nested_stages
from zsclib.papers.diffusion_classifier.ablations import Measure
from zsclib.papers.diffusion_classifier.engine import error_matrices
from zsclib.papers.diffusion_classifier.error_matrix import Schedule
from zsclib.papers.diffusion_classifier.method import adaptive_diffusion_classifier, diffusion_classifier
from zsclib.prompts import fill
from zsclib.workers import Execution

PROMPTS = fill("a photo of a {}", ["cat", "dog", "fish", "7"])


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(3).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def dit(tmp_path_factory):
    return open_generator(tiny.dit(tmp_path_factory.mktemp("dit") / "folder"))


def stages_of(schedule: Schedule) -> list[tuple[tuple[int, ...], int]]:
    """The timesteps that each stage adds, and how many classes it keeps."""
    firsts = (0, *schedule.until[:-1])
    return [
        (schedule.t[first:last], keep)
        for first, last, keep in zip(firsts, schedule.until, schedule.keep, strict=True)
    ]


def check_errors(generator, images, prompts, seed):
    t = exhaustive(5).t
    slow = diffusion_classifier(images, prompts, generator, t, seed)
    measure, execution = Measure(), Execution(seed=seed, batch=7)
    fast = error_matrices(generator, images, prompts, exhaustive(5), [measure], execution=execution)[measure]
    assert slow.shape == fast.shape == (3, len(prompts), 5)
    assert slow.dtype == fast.dtype == np.float32
    np.testing.assert_allclose(slow, fast, rtol=1e-4)  # every image, class and timestep
    differences = np.ptp(slow, axis=1) / slow.mean(1)
    assert differences.min() > 3e-4  # the tolerance would not hide one class behind another


def test_errors_are_those_of_the_engine(generator, images):
    check_errors(generator, images, PROMPTS, seed=4)


def test_errors_are_those_of_the_engine_for_a_class_conditional_model(dit, images):
    check_errors(dit, images, ["cat", "dog", "bird"], seed=0)


def check_predictions(generator, images, prompts, schedule, seed=0):
    slow = adaptive_diffusion_classifier(images, prompts, generator, stages_of(schedule), seed)
    fast = classify(generator, images, prompts, schedule, execution=Execution(seed=seed))
    np.testing.assert_array_equal(slow, fast.prediction)
    assert slow.dtype == fast.prediction.dtype == np.int64


def test_elimination_predicts_what_classify_predicts(generator, images):
    for seed in (0, 1):
        check_predictions(generator, images, PROMPTS, nested_stages((2, 4, 7), (3, 2, 1)), seed)


def test_elimination_predicts_what_classify_predicts_for_a_class_conditional_model(dit, images):
    check_predictions(dit, images, ["cat", "dog", "bird"], nested_stages((1, 4), (2, 1)))


def test_elimination_predicts_and_costs_the_same_where_it_decides():
    """Where classes overlap, so that few timesteps mislead, and elimination changes some predictions."""
    world = Gaussians()
    world.width = 2.0
    images, _ = world.sample(24)
    prompts = fill("class {}", list("012345"))
    schedule = nested_stages((1, 3, 12), (3, 2, 1), 100)
    world.evaluations = 0
    slow = adaptive_diffusion_classifier(images, prompts, world, stages_of(schedule), seed=2)
    assert world.evaluations == 24 * schedule.evaluations(6) == 24 * (6 + 3 * 2 + 2 * 9)
    fast = classify(world, images, prompts, schedule, execution=Execution(seed=2))
    np.testing.assert_array_equal(slow, fast.prediction)
    whole = diffusion_classifier(images, prompts, world, schedule.t, seed=2).mean(2).argmin(1)
    assert 0 < (whole != slow).sum() < 24


def test_one_stage_is_the_classifier_without_elimination():
    world = Gaussians()
    images, _ = world.sample(6)
    prompts, t = fill("class {}", list("0123")), exhaustive(6, 100).t
    np.testing.assert_array_equal(
        adaptive_diffusion_classifier(images, prompts, world, [(t, 1)]),
        diffusion_classifier(images, prompts, world, t).mean(2).argmin(1),
    )


@pytest.mark.parametrize("function", [diffusion_classifier, adaptive_diffusion_classifier])
def test_an_algorithm_fits_a_screen(function):
    node = ast.parse(inspect.getsource(function)).body[0]
    assert ast.get_docstring(node)
    assert node.body[-1].end_lineno - node.body[1].lineno + 1 <= 40  # after the docstring


def test_the_method_needs_nothing_of_the_engine():
    """The check of the one by the other would be worth nothing if they shared what they compute."""
    imported = {
        node.module for node in ast.walk(ast.parse(inspect.getsource(method))) if isinstance(node, ast.ImportFrom)
    }
    assert not any(module.startswith("zsclib.papers") for module in imported)
