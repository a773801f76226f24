"""The first lines of Python in the README run, and give what their comments say."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

README = Path(__file__).resolve().parents[1] / "README.md"
# "result = ...  # .errors: float32 (20, 10, 8)", or without an attribute
SHAPE = re.compile(r"^(\w+) = .*# (?:\.(\w+): )?(\w+) (\(.*\))$", re.M)


@pytest.fixture(scope="module")
def code() -> str:
    return re.search(r"^```python\n(.*?)^```$", README.read_text(encoding="utf-8"), re.M | re.S)[1]


@pytest.fixture(scope="module")
def names(code) -> dict:
    names: dict = {}
    exec(compile(code, str(README), "exec"), names)
    return names


def test_ten_lines_are_enough_and_fit_the_page(code):
    lines = [line for line in code.splitlines() if line.strip()]
    assert len(lines) <= 10
    assert max(map(len, lines)) <= 100


def test_every_array_has_the_shape_that_its_comment_says(code, names):
    comments = SHAPE.findall(code)
    assert [name for name, *_ in comments] == ["digits", "result", "images"]
    for name, attribute, dtype, shape in comments:
        array = getattr(names[name], attribute) if attribute else names[name]
        assert (str(array.dtype), str(array.shape)) == (dtype, shape)
    assert "# one for each of 10 classes" in code and len(names["prompts"]) == 10


def test_the_digits_are_classified_better_than_by_chance(names):
    result, digits = names["result"], names["digits"]
    np.testing.assert_array_equal(result.prediction, result.errors.mean(2).argmin(1))
    assert names["accuracy"] == (result.prediction == digits.labels).mean()
    assert names["accuracy"] >= 0.4  # of ten classes
    assert (result.evaluations == 10 * 8).all()


def test_the_generated_images_are_those_of_their_seeds_and_differ(names):
    images = names["images"]
    assert images.std(axis=(1, 2, 3)).min() > 5  # not empty
    assert len(np.unique(images.reshape(len(images), -1), axis=0)) == len(images)
