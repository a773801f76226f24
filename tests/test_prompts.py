"""Prompts as data: the files that ship are sound, and a faulty one is explained."""

from __future__ import annotations

import pytest

from zsclib.prompts import FOLDER, fill, load_prompts, prompts_of
from zsclib.world.targets import CLASSES


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.yml")))
def test_every_shipped_file_loads_and_fills(name):
    prompts = load_prompts(name)
    assert prompts.template in prompts.templates and prompts.about.endswith(".")
    for template in prompts.templates:
        assert len(set(fill(template, prompts.classes))) == len(prompts.classes)


def test_digits_have_prompts_in_label_order():
    prompts = load_prompts("digits")
    assert len(prompts.classes) == 10
    assert fill("number {}", prompts.classes)[3] == "number 3"


def test_fill_puts_the_name_where_the_braces_are():
    assert fill("a {} on grass", ["star", "{odd}"]) == ["a star on grass", "a {odd} on grass"]


@pytest.mark.parametrize(
    ("template", "classes", "message"),
    [
        ("a photo", ["a"], "exactly one {}"),
        ("{} and {}", ["a"], "exactly one {}"),
        (None, ["a"], "exactly one {}"),
        ("{}", [], "list of names"),
        ("{}", "cat", "list of names"),
        ("{}", ["a", " "], "a class name is empty"),
        ("{}", ["a", 0], "must be text, got 0; put it in quotes"),
        ("{}", ["a", "b", "a"], r"repeated: \['a'\]"),
    ],
)
def test_fill_refuses(template, classes, message):
    with pytest.raises(ValueError, match=message):
        fill(template, classes)


GOOD = "about: Pets.\ntemplate: a photo of {}\nclasses: [a cat, a dog]\n"


def test_a_file_of_ones_own(tmp_path):
    path = tmp_path / "pets.yml"
    path.write_text(GOOD)
    prompts = load_prompts(path)
    assert prompts.templates == ("a photo of {}",) and prompts.classes == ("a cat", "a dog")
    assert load_prompts(str(path)) == prompts


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("a photo of {}", "a photo"), "exactly one {}"),
        (("[a cat, a dog]", "[a cat, a cat]"), "repeated"),
        (("[a cat, a dog]", "[a cat, '']"), "empty"),
        (("[a cat, a dog]", "[yes, no]"), "got True; put it in quotes"),
        (("[a cat, a dog]", "cat"), "classes must be a list"),
        (("about", "abuot"), r"missing: \['about'\]"),
        (("about: Pets.", "about: Pets.\nextra: 1"), r"unknown: \['extra'\]"),
        (("about: Pets.", "about: Pets.\ntemplates: []"), "at least one"),
        (("about: Pets.", "about: Pets.\ntemplates: ['{}', cat]"), "exactly one {}, |'cat'"),
        ((GOOD, "just text"), "expected the keys"),
        ((GOOD, "a: [1"), "not readable as YAML"),
    ],
)
def test_faults_of_a_file_are_named(tmp_path, change, message):
    path = tmp_path / "pets.yml"
    path.write_text(GOOD.replace(*change))
    with pytest.raises(ValueError, match=message) as caught:
        load_prompts(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_lists_those_there_are():
    with pytest.raises(FileNotFoundError, match="names with prompts: .*digits"):
        load_prompts("digit")


def test_prompts_of_a_set_come_from_its_own_words_its_class_names_or_a_template():
    assert prompts_of("objects", CLASSES["objects"])[:2] == ["a photo of a star", "a photo of a car"]
    with pytest.raises(ValueError, match="prompts for 10 classes, got 1"):
        prompts_of("objects", ["star"])
    with pytest.raises(ValueError, match="captions of their own"):
        prompts_of("pairs", ["first caption", "second caption"])
    assert prompts_of("folder:my/pets", ["cat", "dog"]) == ["a photo of a cat", "a photo of a dog"]
    assert prompts_of("folder:my/pets", ["a tabby", "owl"]) == ["a photo of a tabby", "a photo of a owl"]
    assert prompts_of("digits", ["0", "1"], "digit {}") == ["digit 0", "digit 1"]
    with pytest.raises(ValueError, match="{}"):
        prompts_of("folder:my/pets", ["cat"], "a photo")


def test_a_template_can_do_without_the_article_of_a_name():
    assert fill("a wooden {name}", ["a star", "an Umbrella", "theatre"]) == [
        "a wooden star",
        "a wooden Umbrella",
        "a wooden theatre",
    ]
    with pytest.raises(ValueError, match="without their articles"):
        fill("a wooden {name}", ["a star", "the star"])
    with pytest.raises(ValueError, match="exactly one"):
        fill("{} or {name}", ["a star", "a car"])
