"""One's own model, images and class names: what is checked before work, and the whole page on them."""

from __future__ import annotations

import io
import json
import re
import shutil
from pathlib import Path

import nbformat
import numpy as np
import pytest
from PIL import Image

from zsclib.datasets import check_words, load_own, named
from zsclib.study import runner

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def pets(tmp_path_factory) -> Path:
    """A folder of two class folders, cats dark and dogs light, of different sizes and shapes."""
    folder, random = tmp_path_factory.mktemp("pets"), np.random.default_rng(0)
    for name, low, count in (("dog", 150, 5), ("cat", 20, 4)):
        (folder / name).mkdir()
        for i in range(count):
            pixels = random.integers(low, low + 90, (20 + i, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


# --- class names and templates ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "classes, template, message",
    [
        (["cat", "cat"], "", r"class names must differ, repeated: \['cat'\]"),
        (["cat", " "], "", "a class name is empty"),
        (["cat", "dog"], "a photo", "a template needs exactly one {}"),
        ([], "a photo", "a template needs exactly one {}"),
        (["cat", "dog"], "a {} and a {}", "a template needs exactly one {}"),
    ],
)
def test_unfit_class_names_and_templates_are_named(classes, template, message):
    with pytest.raises(ValueError, match=message):
        check_words(classes, template)
    with pytest.raises(ValueError, match=message):  # before anything is looked for
        load_own("folder:/nowhere", classes, template)


def test_class_names_and_template_may_be_left_out():
    check_words()
    check_words([], "a photo of a {}.")


def test_names_come_in_the_order_of_the_folders_or_are_those_of_the_folders_in_any_order():
    assert named(("cat", "dog"), []) == ("cat", "dog")
    assert named(("cat", "dog"), ["a tabby", "a hound"]) == ("a tabby", "a hound")
    assert named(("cat", "dog"), ["dog", "cat"]) == ("cat", "dog")


def test_a_mapping_names_each_class_whatever_the_order_of_the_folders():
    numbers = tuple(sorted(str(i) for i in range(1, 12)))  # 1, 10, 11, 2, …
    names = {str(i): f"number {i}" for i in range(1, 12)}
    assert named(numbers, names) == tuple(f"number {i}" for i in numbers)
    assert named(("cat", "dog"), {}) == ("cat", "dog")


@pytest.mark.parametrize(
    "names, message",
    [
        ({"cat": "a tabby"}, "but the set has the classes cat, dog; to mend: dog"),
        ({"cat": "a tabby", "Dog": "a hound"}, "to mend: Dog, dog"),
        (["cat"], "1 class names were given.*but the set has 2 classes: cat, dog"),
        (["cat", "dog", "bird"], "3 class names were given"),
        (["dog", "a kitten"], "'dog' stands where the set has 'cat'"),
    ],
)
def test_names_that_could_belong_to_another_class_are_refused(names, message):
    with pytest.raises(ValueError, match=message):
        named(("cat", "dog"), names)


def test_a_folder_becomes_images_of_one_size_with_its_names_or_ones_own(pets):
    images, prompts = load_own(f"folder:{pets}", size=16)
    assert images.images.shape == (9, 16, 16, 3) and images.classes == ("cat", "dog")
    assert prompts == ["a photo of a cat", "a photo of a dog"]
    images, prompts = load_own(f"folder:{pets}", ["a tabby", "a hound"], "a snapshot of {}.", n=1000, size=16)
    assert len(images) == 9  # as many as there are
    assert prompts == ["a snapshot of a tabby.", "a snapshot of a hound."]
    dark = images.images.mean((1, 2, 3)) < 120
    assert [images.classes[label] for label in images.labels[dark]] == ["a tabby"] * 4
    assert len(load_own(f"folder:{pets}", n=2, size=16)[0]) == 2


# --- the page -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    """A place of its own for the page and its results: only the notebook and the profiles are there."""
    root = tmp_path_factory.mktemp("clone")
    (root / "notebooks").mkdir()
    shutil.copy(ROOT / "notebooks/diffusion_classifier.ipynb", root / "notebooks")
    shutil.copytree(ROOT / "data/profiles", root / "data/profiles")
    return root


def run_page(clone: Path, stream: io.StringIO, **parameters: str) -> Path:
    return runner.run("diffusion_classifier", parameters, "ci", root=clone, stream=stream)


def test_the_page_classifies_ones_own_images_with_ones_own_model(clone, folders, pets):
    stream, classes = io.StringIO(), '{"dog": "a hound", "cat": "a tabby"}'
    model = str(folders["stable_diffusion_1"])
    folder = run_page(clone, stream, model=model, dataset=f"folder:{pets}", classes=classes, batch="4")
    # a fast machine is done before the bar moves: then it says that the time left is not known yet
    assert re.search(r"\d/9 \[\d\d:\d\d<[\d?]", stream.getvalue()), "no bar of 9 images with the time left"
    record = json.loads((folder / "record.json").read_text())
    name = re.sub("[^a-z0-9]+", "_", pets.name.lower())
    assert record[f"{name}_accuracy"]["n"] == 9 and record[f"{name}_evaluations"] == 8
    assert record["claims_judged"] == 0  # the claims are about the study's own images
    text = json.dumps(nbformat.read(folder / "executed.ipynb", as_version=4))
    assert (
        "image/png" in text and "a tabby" in text and str(pets) not in text.replace("folder:" + str(pets), "")
    )
    row = ["cat", "a tabby", "a photo of a tabby", "4"]  # which folder got which name
    cells = re.findall("<td>([^<]*)</td>", text)
    assert any(cells[i : i + 4] == row for i in range(len(cells)))


def test_unfit_class_names_stop_the_page_before_a_model_is_opened(clone, pets):
    with pytest.raises(runner.RunError, match="class names must differ"):
        run_page(clone, io.StringIO(), model="/nowhere", dataset=f"folder:{pets}", classes='["cat", "cat"]')
