"""The method on one screen and the engine in batches are one: the same images and labels from the same seeds."""

from __future__ import annotations

import numpy as np
import pytest

from tests import tiny
from zsclib.models.generator import Generator, open_generator
from zsclib.papers.diversity import method
from zsclib.papers.diversity.tricks import PAPER, TRICKS, bag_of_tricks, union
from zsclib.prompts import Prompts
from zsclib.sampling import sampling_timesteps
from zsclib.workers import Execution

PETS = Prompts(
    "a photo of a {}", ("a photo of a {}",), ("cat", "dog"), about="Pets.", base="an image of a {}",
    domains={"photo": "a photo of a {}", "sketch": "a sketch of a {}", "drawing": "drawing of a {}"},
)  # fmt: skip
STEPS, SEED = 3, 7


def assert_alike(generator: Generator, prompts: Prompts, tricks: tuple[str, ...]) -> None:
    x, y = method.diverse_training_set(prompts, generator, 2, sampling_timesteps(generator, STEPS), SEED, tricks)
    sets = bag_of_tricks(generator, prompts, 2, tricks, steps=STEPS, execution=Execution(seed=SEED, batch=5))
    combined = union(sets.values())
    np.testing.assert_array_equal(y, combined.labels)
    assert x.dtype == np.uint8 and x.shape == combined.images.shape
    assert np.abs(x.astype(int) - combined.images).max() <= 1
    different = {image.tobytes() for image in x}
    assert len(different) == len(x)  # so that an image in another's place would be noticed


def test_the_method_gives_the_engines_images_on_every_model_with_prompts(generator):
    assert_alike(generator, PETS, PAPER)


def test_the_method_gives_the_engines_images_on_a_class_conditional_model(tmp_path):
    generator = open_generator(tiny.dit(tmp_path / "dit"))
    names = Prompts("{}", ("{}",), ("cat", "dog", "bird"), about="Animals.", base="{}")
    assert_alike(generator, names, ("base", "random-guidance"))


def test_the_methods_tricks_are_the_papers_in_the_same_order():
    assert method.TRICKS == PAPER


@pytest.mark.parametrize("trick", PAPER)
def test_guidance_scales_are_the_papers(trick, monkeypatch):
    scales = []
    monkeypatch.setattr(method, "ddim", lambda generator, prompt, s, t, seed: scales.append(s) or np.zeros((2, 2, 3)))
    method.diverse_training_set(PETS, None, 50, [0], tricks=(trick,))
    low, high = (1, 5) if trick == "random-guidance" else (7.5, 7.5)
    assert low <= min(scales) <= low + 0.2 and high - 0.2 <= max(scales) <= high
    assert TRICKS[trick].guidance.low == low
