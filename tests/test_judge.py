"""The attribute classifier and the requests it checks: values known from the ground truth of rendered images."""

import numpy as np
import pandas as pd
import pytest
import torch

from zsclib.pocket.attributes import ATTRIBUTES, PLACES, new_classifier, open_classifier, read, split_logits
from zsclib.pocket.requests import (
    ABOUT_RELATIONS,
    KINDS,
    fulfilled,
    fulfilled_by_kind,
    requests,
    swapped,
)
from zsclib.pocket.train_attributes import ABSENT, train_classifier, true_attributes, with_decoded
from zsclib.pretraining.autoencoder import new_autoencoder, reconstructed
from zsclib.pretraining.plan import Plan, Training
from zsclib.pretraining.sizes import Sizes
from zsclib.world.pool import PoolConfig, load_pool


@pytest.fixture(scope="module")
def pool():
    return load_pool(PoolConfig(n=300, seed=7))


@pytest.fixture(scope="module")
def untrained():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return new_classifier((8, 8, 8)).eval()


def the_scene(**values):
    blank = {"kind": "thing", "style": "photo", "noun": "", "colour": "", "material": "plain", "noun2": ""}
    return pd.DataFrame([blank | {"colour2": "", "relation": "", "symbol": ""} | values])


def named(truth):
    return {a: ATTRIBUTES[a][value[0]] for a, value in truth.items() if value[0] != ABSENT}


def test_ground_truth_becomes_attributes_only_where_an_image_shows_them():
    star = true_attributes(the_scene(noun="star", colour="red"))
    assert named(star) == {"what": "star", "colour": "red", "style": "photo"}
    assert "colour" not in named(true_attributes(the_scene(noun="star", colour="red", style="sketch")))
    assert "colour" not in named(true_attributes(the_scene(noun="star", colour="red", material="wooden")))
    assert named(true_attributes(the_scene(kind="digit", symbol="7", style="print"))) == {"what": "7"}
    pair = the_scene(kind="pair", noun="star", noun2="car", colour="red", colour2="blue", relation="below")
    read_of_pair = named(true_attributes(pair))
    assert read_of_pair["bottom"] == "star" and read_of_pair["top"] == "car"
    assert read_of_pair["bottom colour"] == "red" and read_of_pair["top colour"] == "blue"
    assert read_of_pair["left"] == "nothing" and "what" not in read_of_pair


def test_every_output_belongs_to_one_attribute(untrained):
    logits = untrained(pixel_values=torch.zeros(2, 3, 32, 32)).logits
    parts = split_logits(logits)
    assert {a: part.shape[1] for a, part in parts.items()} == {a: len(v) for a, v in ATTRIBUTES.items()}
    assert torch.equal(torch.cat(list(parts.values()), 1), logits)
    assert untrained.config.id2label[len(ATTRIBUTES["what"])] == "colour: red"


def test_what_is_read_does_not_depend_on_the_batch(untrained, pool):
    whole, parts = read(untrained, pool.images[:40]), read(untrained, pool.images[:40], batch=7)
    assert all((whole[a] == parts[a]).all() for a in ATTRIBUTES)
    with pytest.raises(ValueError, match="uint8"):
        read(untrained, pool.images[:2].astype(np.float32))


@pytest.mark.parametrize("kind", KINDS)
def test_a_shorter_list_of_requests_is_the_beginning_of_a_longer_one(kind):
    long, short = requests(kind, 30, seed=3), requests(kind, 11, seed=3)
    pd.testing.assert_frame_equal(long.head(11), short)
    assert long.seed.is_unique
    assert not long.equals(requests(kind, 30, seed=4))
    values = long[list(ATTRIBUTES)]
    assert ((values != "").sum(axis=1) == (2 if kind in ABOUT_RELATIONS else 1)).all()
    for attribute in ATTRIBUTES:
        assert set(values[attribute]) <= {"", *ATTRIBUTES[attribute]}


def test_prompts_name_what_is_requested():
    for row in requests("relation", 24).itertuples():
        first, second = (row.left, row.right) if row.left else (row.top, row.bottom)
        if " right of " in row.prompt or " below " in row.prompt:
            first, second = second, first
        assert row.prompt.index(first) < row.prompt.index(second)
    for row in requests("colour", 16).itertuples():
        assert row.colour in row.prompt


def test_unknown_kinds_and_empty_lists_are_refused():
    with pytest.raises(ValueError, match="choose one of objects"):
        requests("shapes", 3)
    with pytest.raises(ValueError, match="at least 1"):
        requests("objects", 0)


def test_a_request_is_met_only_when_every_attribute_is_read(untrained, pool):
    images = pool.images[:50]
    predicted = read(untrained, images)
    wanted = requests("relation", 50).assign(**dict.fromkeys(PLACES, ""))
    wanted["left"] = np.array(ATTRIBUTES["left"])[predicted["left"]]
    assert fulfilled(untrained, images, wanted).all()
    other = (predicted["right"] + np.arange(50) % 2) % len(ATTRIBUTES["right"])
    wanted["right"] = np.array(ATTRIBUTES["right"])[other]
    assert (fulfilled(untrained, images, wanted) == (np.arange(50) % 2 == 0)).all()


def test_swapping_exchanges_the_things_and_nothing_else():
    wanted = requests("relation", 8)
    other = swapped(wanted)
    assert (other.left == wanted.right).all() and (other.top == wanted.bottom).all()
    colours = requests("relation of colours", 8)
    assert (swapped(colours)["left colour"] == colours["right colour"]).all()
    assert (colours.prompt == wanted.prompt).all() and (colours.seed == wanted.seed).all()
    axis = requests("axis", 8)
    assert ((axis.top == "nothing") == (wanted.left != "")).all() and (axis.prompt == wanted.prompt).all()
    pd.testing.assert_frame_equal(swapped(other), wanted)


def test_training_learns_and_can_be_repeated(pool, tmp_path):
    plan = Plan("judge", samples=64 * 40, batch=64, rate=3e-3, warmup=5, log_every=10)
    first, again = (
        train_classifier(pool.images, pool.scenes, Training(plan=plan, folder=tmp_path / name, held_out=60))
        for name in "ab"
    )
    assert [row["loss"] for row in first] == [row["loss"] for row in again]
    assert first[-1]["loss"] < 0.7 * first[0]["loss"]
    assert set(ATTRIBUTES) <= first[-1].keys()


def test_a_saved_classifier_reads_as_before(untrained, pool, tmp_path):
    untrained.save_pretrained(tmp_path / "classifier")
    opened = open_classifier(tmp_path / "classifier")
    before, after = read(untrained, pool.images[:40]), read(opened, pool.images[:40])
    assert all((before[a] == after[a]).all() for a in ATTRIBUTES)
    with pytest.raises(FileNotFoundError, match="no attribute classifier"):
        open_classifier(tmp_path / "nothing")


def test_the_classifier_also_learns_from_decoded_images(pool):
    vae = new_autoencoder(Sizes(autoencoder_channels=(8, 8, 8))).eval()
    images, scenes = with_decoded(pool.images, pool.scenes, vae, 5)
    assert np.array_equal(images[5:], pool.images) and scenes[5:].reset_index(drop=True).equals(pool.scenes)
    assert np.array_equal(images[:5], reconstructed(vae, pool.images[:5])) and scenes[:5].equals(
        pool.scenes[:5]
    )
    one = np.stack([reconstructed(vae, pool.images[i : i + 1])[0] for i in range(5)])
    assert np.abs(one.astype(int) - images[:5]).max() <= 1 and not np.array_equal(images[:5], pool.images[:5])


def test_requests_about_relations_share_their_images_and_others_have_their_own(untrained):
    calls = []

    def generate(prompts, seeds):
        calls.append(prompts)
        return np.stack([np.full((32, 32, 3), seed % 256, np.uint8) for seed in seeds])

    kinds = ("objects", *ABOUT_RELATIONS)
    outcomes = fulfilled_by_kind(generate, untrained, dict.fromkeys(kinds, 6), seed=2)
    assert list(outcomes) == list(kinds)
    assert calls == [requests(kind, 6, 2).prompt.tolist() for kind in ("objects", "relation")]
    assert [kind for kind in kinds if outcomes[kind].exchanged is not None] == list(ABOUT_RELATIONS[:2])
    wanted = requests("relation of colours", 6, 2)
    images = generate(wanted.prompt.tolist(), wanted.seed.tolist())
    assert (outcomes["relation of colours"].correct == fulfilled(untrained, images, wanted)).all()
    assert (outcomes["relation of colours"].exchanged == fulfilled(untrained, images, swapped(wanted))).all()
    alone = fulfilled_by_kind(generate, untrained, {"axis": 6}, seed=2)
    assert (alone["axis"].correct == outcomes["axis"].correct).all()
