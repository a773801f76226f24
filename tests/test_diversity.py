"""The bag of tricks: plans say what the paper says, longer ones begin with shorter ones, unions have their size."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from tests import tiny
from zsclib.images import files
from zsclib.images.image_set import ImageSet
from zsclib.models.generator import open_generator
from zsclib.papers.diversity.tricks import PAPER, TRICKS, bag_of_tricks, plan, prompts_for, shrink, union
from zsclib.prompts import Prompts, load_prompts
from zsclib.sampling import generate
from zsclib.workers import Execution
from zsclib.world.captions import STYLE_PHRASES
from zsclib.world.targets import CLASSES

CIFAR = load_prompts("cifar10")
PETS = Prompts(
    "a photo of a {}", ("a photo of a {}",), ("cat", "dog", "fish"), about="Pets.", base="an image of a {}",
    domains={"photo": "a photo of a {}", "sketch": "a sketch of a {}"},
)  # fmt: skip


def test_the_tricks_ask_for_what_the_paper_says():
    first = {trick: plan(trick, CIFAR, 2).iloc[0] for trick in TRICKS}
    assert first["base"]["prompt"] == "an image of a airplane" and first["base"]["guidance"] == 7.5
    assert first["class-name"]["prompt"] == "airplane" and first["class-name"]["guidance"] == 7.5
    domains = plan("multi-domain", CIFAR, 10)
    assert domains[domains["label"] == 3]["prompt"].tolist()[:3] == [
        "a sketch of a cat", "a collage of a cat", "a poster of a cat",
    ]  # fmt: skip
    assert domains[domains["index"] == 0]["domain"].is_unique  # few images show several domains already
    assert set(domains["guidance"]) == {7.5} and domains["domain"].nunique() == 10
    assert set(domains.groupby(["class", "domain"]).size()) == {1}
    low = plan("random-guidance", CIFAR, 300)
    assert low["prompt"].iloc[0] == "an image of a airplane" and low["guidance"].nunique() == len(low)
    assert 1 <= low["guidance"].min() < 1.02 < 4.98 < low["guidance"].max() <= 5


def test_controls_have_the_mean_of_random_guidance_or_the_codes_single_draw():
    mean = plan("random-guidance", CIFAR, 300)["guidance"].mean()
    assert abs(mean - plan("guidance-3", CIFAR, 1)["guidance"].mean()) < 0.1
    assert set(plan("random-guidance-integer", CIFAR, 20)["guidance"]) == {1, 2, 3, 4, 5}
    assert all(plan("random-guidance-once", CIFAR, 20, seed)["guidance"].nunique() == 1 for seed in range(4))
    assert {plan("random-guidance-once", PETS, 1, seed)["guidance"][0] for seed in range(40)} == {1, 2, 3, 4, 5}


@pytest.mark.parametrize("trick", TRICKS)
@pytest.mark.parametrize("shared", [False, True])
def test_a_longer_plan_begins_with_the_shorter_one_and_classes_take_turns(trick, shared):
    long, short = (plan(trick, PETS, n, 5, shared_noise=shared) for n in (7, 3))
    pd.testing.assert_frame_equal(long.iloc[: len(short)], short)
    assert long["label"].tolist() == [0, 1, 2] * 7
    assert long["class"].tolist() == ["cat", "dog", "fish"] * 7


def test_every_image_has_a_seed_of_its_own_over_tricks_classes_and_runs():
    rows = pd.concat([plan(trick, PETS, 20, seed) for trick in TRICKS for seed in (0, 1)])
    assert rows["seed"].is_unique


def test_shared_noise_is_one_sequence_for_all_classes_tricks_and_domains():
    base, domains = (plan(trick, PETS, 6, shared_noise=True) for trick in ("base", "multi-domain"))
    sequence = base[base["label"] == 0]["seed"].tolist()
    assert len(set(sequence)) == 6
    assert all(base[base["label"] == label]["seed"].tolist() == sequence for label in (1, 2))
    for _, rows in domains.groupby(["class", "domain"]):
        assert rows["seed"].tolist() == sequence[:3]
    assert plan("base", PETS, 6, 1, shared_noise=True)["seed"].tolist() != base["seed"].tolist()


def test_labels_may_be_called_otherwise_than_prompts_call_them():
    rows = plan("base", PETS, 1, classes=("Felis", "Canis", "Pisces"))
    assert rows["class"].tolist() == ["Felis", "Canis", "Pisces"]
    assert rows["prompt"].iloc[0] == "an image of a cat"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trick": "more-noise"}, "no trick 'more-noise'; known: base, class-name, multi-domain"),
        ({"n": 0}, "positive number of images per class, got 0"),
        ({"n": 2.5}, "positive number of images per class, got 2.5"),
        ({"classes": ("cat", "dog")}, "2 classes, but prompts for 3"),
        ({"trick": "base", "prompts": replace(PETS, classes=("cat", ""))}, "a class name is empty"),
        ({"prompts": replace(PETS, domains={})}, "needs domains, and the prompts of 'Pets.'"),
    ],
)  # fmt: skip
def test_a_plan_that_cannot_be_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        plan(**{"trick": "multi-domain", "prompts": PETS, "n": 2} | change)


HARD = ("objects-hard", "objects-fine-hard", "aerial-hard")


def test_the_sets_prompts_speak_the_language_of_the_pools_captions():
    heads = {phrase for phrases in STYLE_PHRASES.values() for phrase in phrases}
    for name in ("objects", "objects-fine", *HARD[:2]):
        prompts = prompts_for(name, CLASSES[name])
        assert {sentence.removesuffix(" {}") for sentence in (prompts.template, *prompts.domains.values())} <= heads
    for name in ("digits", "printed-digits", "aerial", "aerial-hard"):
        prompts = prompts_for(name, load_prompts(name).classes)
        filled = plan("multi-domain", prompts, len(prompts.domains))["prompt"]
        assert filled.is_unique and len(prompts.domains) >= 6


@pytest.mark.parametrize("name", ["objects", "objects-fine", "aerial", "digits", *HARD])
def test_the_naive_prompt_names_no_style_and_the_matched_one_that_of_the_test_images(name):
    prompts = prompts_for(name, load_prompts(name).classes)
    first = {trick: plan(trick, prompts, 1)["prompt"][0] for trick in ("base", "class-name", "style-matched")}
    assert len(set(first.values())) == 3
    if name == "digits":  # ink and paper are its style
        assert first["base"] == "a photo of the number 0" and first["style-matched"].endswith("in white on black")
        return
    assert first["base"] == prompts.classes[0]  # a caption of the pool without its style
    assert first["class-name"] == prompts.classes[0].removeprefix("a ")
    assert first["style-matched"].startswith("a satellite photo of" if "aerial" in name else "a photo of")


def test_a_set_without_prompts_of_its_own_gets_the_papers_templates():
    prompts = prompts_for("folder:my/pets", ["cat", "dog"])
    assert plan("base", prompts, 1)["prompt"].tolist() == ["an image of a cat", "an image of a dog"]
    with pytest.raises(ValueError, match="prompts for 10 classes, got 1"):
        prompts_for("objects", ["star"])


def labelled(trick: str, n: int, classes: tuple[str, ...] = ("cat", "dog"), side: int = 2) -> ImageSet:
    """A set whose images have the value of their row."""
    images = np.zeros((n * len(classes), side, side, 3), np.uint8)
    images += np.arange(len(images), dtype=np.uint8)[:, None, None, None]
    labels = np.arange(len(images)) % len(classes)
    return ImageSet(images, labels, classes, manifest=pd.DataFrame({"trick": trick, "row": range(len(images))}))


def test_a_union_is_as_large_as_its_members_or_all_there_is():
    sets = [labelled(trick, 6) for trick in "abcd"]
    whole, equal = union(sets), union(iter(sets), per_class=6)
    assert len(whole) == 48 and set(np.bincount(whole.labels)) == {24}
    assert len(equal) == 12 and np.bincount(equal.labels).tolist() == [6, 6]
    counts = equal.manifest.assign(label=equal.labels).groupby(["trick", "label"]).size()
    assert counts.tolist() == [2, 2, 2, 2, 1, 1, 1, 1]
    assert equal.manifest[equal.manifest["trick"] == "a"]["row"].tolist() == [0, 1, 2, 3]  # its first
    assert (equal.images[:, 0, 0, 0] == equal.manifest["row"]).all()


@pytest.mark.parametrize(
    ("sets", "per_class", "message"),
    [
        ([], None, "no sets"),
        ([labelled("a", 2), labelled("b", 2, ("dog", "cat"))], None, "the same classes and size"),
        ([labelled("a", 2), labelled("b", 2, side=4)], None, "the same classes and size"),
        ([labelled("a", 2), labelled("b", 2)], 1, "1 images per class cannot come from 2 sets"),
        ([labelled("a", 2), labelled("b", 2)], 6, "3 images asked for, class 'cat' has 2"),
    ],
)
def test_a_union_that_cannot_be_is_refused(sets, per_class, message):
    with pytest.raises(ValueError, match=message):
        union(sets, per_class)


def test_shrinking_without_a_filter_reads_few_pixels_and_with_one_it_reads_all():
    noise = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    hidden = noise.copy()
    hidden.reshape(3, 4, 16, 4, 16, 3)[:, :, 7:9, :, 7:9] = (
        0  # the middle four pixels of each block of 16 x 16
    )
    others = 255 - noise
    others.reshape(3, 4, 16, 4, 16, 3)[:, :, 7:9, :, 7:9] = noise.reshape(3, 4, 16, 4, 16, 3)[
        :, :, 7:9, :, 7:9
    ]
    for how in ("bilinear", "nearest"):
        assert np.array_equal(shrink(noise, 4, how), shrink(others, 4, how))
        assert not shrink(hidden, 4, how).any()
    assert np.array_equal(shrink(noise, 4), files.resize(noise, 4))
    assert (
        np.abs(shrink(noise, 4).astype(int) - 128).max()
        < 40
        < np.abs(shrink(noise, 4, "nearest").astype(int) - 128).max()
    )


def test_halving_bilinearly_is_a_mean_of_four_and_nearest_keeps_one_of_them():
    noise = np.random.default_rng(1).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    blocks = noise.reshape(2, 4, 2, 4, 2, 3)
    assert np.abs(shrink(noise, 4, "bilinear") - blocks.mean((2, 4))).max() <= 0.5
    assert np.array_equal(shrink(noise, 4, "nearest"), blocks[:, :, 1, :, 1])


@pytest.mark.parametrize("how", ["antialiased", "bilinear", "nearest"])
def test_shrinking_leaves_flat_images_and_images_of_that_size_alone(how):
    flat = np.full((1, 32, 32, 3), 77, np.uint8)
    assert (shrink(flat, 12, how) == 77).all() and shrink(flat, 12, how).shape == (1, 12, 12, 3)
    noise = np.random.default_rng(2).integers(0, 256, (1, 8, 8, 3), dtype=np.uint8)
    assert np.array_equal(shrink(noise, 8, how), noise)


def test_shrinking_refuses_what_it_cannot_do():
    images = np.zeros((1, 8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match="one of antialiased, bilinear, nearest, got 'area'"):
        shrink(images, 4, "area")
    with pytest.raises(ValueError, match="at least 16 pixels wanted, got 8 x 8"):
        shrink(images, 16)
    with pytest.raises(ValueError, match="got 8 x 4"):
        shrink(images[:, :, :4], 2)


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    return open_generator(tiny.stable_diffusion_1(tmp_path_factory.mktemp("model") / "folder"))


def test_the_bag_of_tricks_holds_the_set_of_each_trick(generator):
    sets = bag_of_tricks(generator, PETS, 2, steps=2, execution=Execution(seed=3))
    assert tuple(sets) == PAPER and all(len(images) == 6 for images in sets.values())
    alone = generate(generator, plan("multi-domain", PETS, 2, 3), PETS.classes, steps=2)
    assert np.array_equal(sets["multi-domain"].images, alone.images)
    assert set(union(sets.values()).manifest["trick"]) == set(PAPER)


def test_one_faulty_trick_spoils_the_bag_before_the_first_image(generator, monkeypatch):
    monkeypatch.setattr(generator, "predict_noise", lambda *_: pytest.fail("an image was begun"))
    with pytest.raises(ValueError, match="no trick 'none'"):
        bag_of_tricks(generator, PETS, 2, ("base", "none"), steps=2)
    long = Prompts("{}", ("{}",), PETS.classes, about="Pets.", base="a {}", domains={"long": "many " * 9 + "{}"})
    with pytest.raises(ValueError, match="cannot tell them apart"):
        bag_of_tricks(generator, long, 2, ("base", "multi-domain"), steps=2)
    with pytest.raises(ValueError, match="steps must be"):
        bag_of_tricks(generator, PETS, 2, steps=0)
