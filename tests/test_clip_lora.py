"""CLIP tuned on two sources: it begins as zero-shot, each source is on its own, and held-out images choose."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import CLIPConfig, CLIPModel

from zsclib.images.image_set import ImageSet
from zsclib.models import clip_lora
from zsclib.models.clip import Clip, open_clip
from zsclib.models.clip_lora import ClipRecipe, add_adapters, tune_clip
from zsclib.papers.datadream.method import two_sources
from zsclib.recipe import Recipe, learning_rate_at

CLASSES = ("red", "green", "blue")
PROMPTS = [f"a photo of a {name} thing" for name in CLASSES]
SHORT = ClipRecipe(rank=2, alpha=4, steps=2, batch=8, learning_rate=1e-2, hue=False, checks=1)


def coloured(n, seed, noise=60):
    """Images whose mean colour is their class."""
    random = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    images = random.integers(0, 2 * noise, (n, 16, 16, 3))
    images[np.arange(n), :, :, labels] += 80
    return ImageSet(images.astype(np.uint8), labels, CLASSES)


@pytest.fixture(scope="module")
def clip(folders):
    """Not to be changed."""
    return open_clip(folders["clip"])


@pytest.fixture(scope="module")
def real():
    return coloured(9, 0)


@pytest.fixture(scope="module")
def synthetic():
    return coloured(30, 1)


def adapters_of(tuned):
    weights = tuned.classifier.model.named_parameters()
    return {name: weight.clone() for name, weight in weights if ".lora_" in name}


def same(one, other):
    return all(torch.equal(weight, other[name]) for name, weight in one.items())


# --- the adapters ---------------------------------------------------------------------------------


def test_the_adapters_of_a_vit_b_16_have_as_many_parameters_as_the_authors():
    vision = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    vision |= {"image_size": 224, "patch_size": 16}
    text = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 8}
    with torch.device("meta"):
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=512))
    sizes = {"vision_model": 0, "text_model": 0}
    adapted, layers = add_adapters(model.requires_grad_(False), ClipRecipe())
    for name, weight in layers.items():
        sizes[name.partition(".")[0]] += weight.numel()
    assert sizes == {"vision_model": 589_824, "text_model": 393_216}
    assert sum(weight.numel() for weight in adapted.parameters() if weight.requires_grad) == 983_040


def test_adapters_are_on_q_and_v_of_both_towers_and_change_nothing_at_first(clip):
    before = {name: weight.clone() for name, weight in clip.model.named_parameters()}
    torch.manual_seed(3)
    adapted, layers = add_adapters(clip.model, SHORT, seed=1)
    number = torch.rand(1)
    blocks = {name.rpartition(".")[0] for name, _ in clip.model.named_modules() if name.endswith(".q_proj")}
    expected = {f"{block}.{end}" for block in blocks for end in ("q_proj", "v_proj")}
    assert {name.partition(".lora_")[0] for name in layers} == expected
    assert any("text" in block for block in blocks) and any("vision" in block for block in blocks)
    for name, weight in layers.items():
        if "lora_B" in name:
            assert not weight.any()
        else:
            assert 0.5 / weight.shape[1] ** 0.5 < weight.abs().max() <= 1 / weight.shape[1] ** 0.5
    again, other = (add_adapters(clip.model, SHORT, seed=seed)[1] for seed in (1, 2))
    assert same(layers, again) and not same(layers, other)
    assert not any(".lora_" in name for name, _ in clip.model.named_parameters())
    shared = {name: weight for name, weight in adapted.named_parameters() if ".lora_" not in name}
    own = dict(clip.model.named_parameters())
    assert all(weight is own[name.replace(".base_layer", "")] for name, weight in shared.items())
    assert same(before, own)
    torch.manual_seed(3)
    assert torch.equal(torch.rand(1), number)


def test_an_adapter_adds_alpha_over_rank_times_b_a(clip):
    adapted, layers = add_adapters(clip.model, replace(SHORT, alpha=6))
    layer = adapted.eval().vision_model.encoder.layers[0].self_attn.q_proj
    x = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
    A, B = (w for name, w in layers.items() if name.startswith("vision_model.encoder.layers.0.self_attn.q_proj"))
    with torch.no_grad():
        B.normal_()
        torch.testing.assert_close(layer(x) - layer.base_layer(x), 3 * x @ A.T @ B.T)


# --- the training ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tuned(clip, real, synthetic):
    recipe = replace(SHORT, steps=40, batch=16, checks=4)
    return tune_clip(
        clip, PROMPTS, real=real, synthetic=synthetic, recipe=recipe, validation=coloured(12, 2),
        watch={"test": coloured(30, 3)},
    )  # fmt: skip


def test_step_0_is_clip_zero_shot(clip, tuned):
    images = coloured(30, 3).images
    zero_shot = clip.logits(clip.encode_images(images), clip.encode_texts(PROMPTS)).numpy()
    np.testing.assert_array_equal(tuned.watched["test"][0], zero_shot)
    np.testing.assert_allclose(zero_shot, clip.zero_shot(PROMPTS, ["{}"]).scores(images), rtol=1e-4, atol=1e-4)
    assert math.isnan(tuned.history["loss"][0]) and tuned.history["step"].tolist() == [0, 10, 20, 30, 40]


def test_it_learns_and_the_model_that_it_began_from_stays(clip, tuned, folders):
    test = coloured(30, 3)
    scores = tuned.scores(test.images)
    assert scores.dtype == np.float32 and scores.shape == (30, 3)
    np.testing.assert_array_equal(scores, tuned.watched["test"][tuned.checkpoint])
    assert (scores.argmax(1) == test.labels).mean() > 0.8 > tuned.history["test"][0] + 0.2
    for name, weight in adapters_of(tuned).items():
        assert weight.any(), f"{name} has not moved"
    own = dict(open_clip(folders["clip"]).model.named_parameters())
    assert same(own, dict(clip.model.named_parameters()))
    assert (tuned.classifier.classes, clip.classes) == (CLASSES, ())
    assert not any(weight.requires_grad for weight in tuned.classifier.model.parameters())
    assert not tuned.classifier.model.training


def test_the_same_seed_gives_the_same_adapters_and_leaves_the_global_state_alone(clip, real):
    torch.manual_seed(1)
    first = tune_clip(clip, PROMPTS, real=real, recipe=SHORT, seed=7)
    number = torch.rand(2)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(2), number)
    with torch.inference_mode():
        again = tune_clip(clip, PROMPTS, real=real, recipe=replace(SHORT, checks=2), seed=7, watch={"test": real})
    other = tune_clip(clip, PROMPTS, real=real, recipe=SHORT, seed=8)
    assert same(adapters_of(first), adapters_of(again)), "neither checks nor watched sets change a step"
    assert not same(adapters_of(first), adapters_of(other))


@pytest.mark.parametrize(("weight", "name"), [(1.0, "real"), (0.0, "synthetic")])
def test_all_weight_on_one_source_is_the_training_on_it_alone(clip, real, synthetic, weight, name):
    """Of a batch of both, half are its images: bit for bit those of half a batch of it alone."""
    sets, recipe = {"real": real, "synthetic": synthetic}, replace(SHORT, steps=3, mix=0.5)
    both = tune_clip(clip, PROMPTS, **sets, recipe=replace(recipe, real_weight=weight))
    alone = tune_clip(clip, PROMPTS, **{name: sets[name]}, recipe=replace(recipe, batch=4))
    assert both.history["loss"][1] == alone.history["loss"][1]
    assert same(adapters_of(both), adapters_of(alone))


def test_the_loss_is_the_weighted_sum_of_the_sources_losses(clip, real, synthetic):
    recipe, losses = replace(SHORT, steps=1), {}
    for λ in (0.0, 0.8, 1.0):
        both = tune_clip(clip, PROMPTS, real=real, synthetic=synthetic, recipe=replace(recipe, real_weight=λ))
        losses[λ] = both.history["loss"][1]
    assert losses[0.8] == pytest.approx(0.8 * losses[1.0] + 0.2 * losses[0.0], rel=1e-5)
    assert abs(losses[1.0] - losses[0.0]) > 0.01


@pytest.mark.parametrize("mix", [0.0, 1.0])
def test_the_loss_is_the_cross_entropy_of_the_augmented_and_mixed_batch(clip, real, mix):
    """Without dropout, of the first step: what CLIP's own logits give for the labels' shares."""
    recipe = replace(SHORT, steps=1, dropout=0.0, mix=mix)
    index = clip_lora._batch(clip_lora._sources(real, None, recipe), recipe, (0, 0))["real"]
    x = clip_lora._augmented(clip, real.images[index], recipe, "real", (0, 0))
    x, others, share = clip_lora._mixed(x, recipe, "real", (0, 0))
    assert (share < 0.95) == (mix == 1)
    with torch.no_grad():
        logits = clip.logits(clip.image_features(x), clip.encode_texts(PROMPTS)).double().log_softmax(1)
    own, other = (-logits[range(8), real.labels[rows]].mean().item() for rows in (index, index[others]))
    loss = tune_clip(clip, PROMPTS, real=real, recipe=recipe).history["loss"][1]
    assert loss == pytest.approx(share * own + (1 - share) * other, rel=1e-4)


def test_dropout_is_active_and_new_for_every_tower_source_and_step(clip, real, synthetic, monkeypatch):
    streams, own_randomness = [], clip_lora.own_randomness
    monkeypatch.setattr(clip_lora, "own_randomness", lambda *args: streams.append(args[1:]) or own_randomness(*args))
    recipe = replace(SHORT, mix=0.0)
    noisy = tune_clip(clip, PROMPTS, real=real, synthetic=synthetic, recipe=replace(recipe, dropout=0.9))
    assert len(set(streams)) == len(streams) == 6
    quiet = tune_clip(clip, PROMPTS, real=real, synthetic=synthetic, recipe=replace(recipe, dropout=0.0))
    assert not same(adapters_of(noisy), adapters_of(quiet))


def test_the_first_step_is_adamws_at_the_schedules_learning_rate(clip, real):
    """Its length is the learning rate where the gradient is not 0; that of A is, as B is 0."""
    recipe = replace(SHORT, steps=1, warm_up=0.0)
    moved = adapters_of(tune_clip(clip, PROMPTS, real=real, recipe=recipe))
    rate = learning_rate_at(0, Recipe(steps=1, learning_rate=1e-2, warmup=0.0))
    began = add_adapters(clip.model, recipe)[1]
    for name, weight in moved.items():
        if "lora_B" in name:
            assert weight.abs().max().item() == pytest.approx(rate, rel=1e-2)
        else:
            torch.testing.assert_close(weight, began[name] * (1 - rate * recipe.weight_decay), rtol=1e-6, atol=1e-7)


def test_half_a_batch_is_of_each_source_in_an_order_of_its_own(real, synthetic):
    recipe, rows = replace(SHORT, batch=6), {"real": [], "synthetic": []}
    for step in range(10):
        batch = clip_lora._batch(clip_lora._sources(real, synthetic, recipe), recipe, (5, step))
        fewer = clip_lora._batch(clip_lora._sources(real, synthetic.take(range(7)), recipe), recipe, (5, step))
        assert batch["real"].tolist() == fewer["real"].tolist()
        assert len(batch["real"]) == len(batch["synthetic"]) == 3
        for name, index in batch.items():
            rows[name] += index.tolist()
    assert sorted(rows["synthetic"]) == list(range(30))
    assert [sorted(rows["real"][i : i + 9]) for i in (0, 9, 18)] == [list(range(9))] * 3
    assert rows["real"][:9] != rows["real"][9:18]


def test_class_texts_are_encoded_once_for_every_evaluation(clip, real, monkeypatch):
    calls = []
    encode = Clip.encode_texts
    monkeypatch.setattr(Clip, "encode_texts", lambda self, texts: calls.append(len(texts)) or encode(self, texts))
    monkeypatch.setattr("zsclib.models.clip.AT_ONCE", 4)
    tuned = tune_clip(clip, PROMPTS, real=real, recipe=replace(SHORT, checks=2), watch={"a": real, "b": real})
    assert calls == [3] * 4  # before the first step, at two checks, and for the adapters that are returned
    tuned.scores(real.images)
    assert len(calls) == 4


# --- held-out images ------------------------------------------------------------------------------


def test_validation_chooses_the_later_of_equals_and_watched_sets_choose_nothing(clip, tuned, real, synthetic):
    # labels that are what the network says after 10 of 40 steps
    held = coloured(12, 2)
    first = tune_clip(clip, PROMPTS, real=real, synthetic=synthetic, recipe=tuned.recipe, watch={"held": held})
    assert first.checkpoint == 4
    early = ImageSet(held.images, first.watched["held"][1].argmax(1), CLASSES)
    chosen = tune_clip(
        clip, PROMPTS, real=real, synthetic=synthetic, recipe=tuned.recipe, validation=early,
        watch={"test": coloured(30, 3)},
    )  # fmt: skip
    accuracies = chosen.history["validation"].to_numpy()
    assert list(chosen.history) == ["step", "loss", "validation", "test"]
    assert accuracies[1] == 1 and accuracies[4] < 1
    assert chosen.checkpoint == max(row for row in range(1, 5) if accuracies[row] == accuracies[1:].max()) < 4
    np.testing.assert_array_equal(chosen.scores(held.images), chosen.watched["validation"][chosen.checkpoint])
    np.testing.assert_array_equal(chosen.watched["test"], tuned.watched["test"])
    labels = coloured(30, 3).labels
    assert chosen.history["test"].tolist() == [(s.argmax(1) == labels).mean() for s in chosen.watched["test"]]


def test_of_equals_the_later_is_chosen(clip, real):
    still = replace(SHORT, steps=3, checks=3, learning_rate=1e-12)
    tuned = tune_clip(clip, PROMPTS, real=real, recipe=still, validation=real)
    assert len(set(tuned.history["validation"])) == 1 and tuned.checkpoint == 3


def test_what_was_before_the_first_step_is_not_chosen(clip, real):
    zero_shot = clip.zero_shot(PROMPTS, ["{}"]).scores(real.images).argmax(1)
    validation = ImageSet(real.images, zero_shot, CLASSES)
    tuned = tune_clip(clip, PROMPTS, real=real, recipe=replace(SHORT, steps=12), validation=validation)
    assert tuned.history["validation"][0] == 1 > tuned.history["validation"][1]
    assert tuned.checkpoint == 1
    for row in (0, 1):  # unless it is asked for
        recipe = replace(SHORT, steps=12, checks=2, checkpoint=row)
        asked = tune_clip(clip, PROMPTS, real=real, recipe=recipe, validation=validation, watch={"held": real})
        assert asked.checkpoint == row
        np.testing.assert_array_equal(asked.scores(real.images), asked.watched["held"][row])


# --- what a batch goes through --------------------------------------------------------------------


def test_an_image_is_augmented_by_itself(clip, real):
    whole = clip_lora._augmented(clip, real.images, SHORT, "real", (0, 4))
    assert whole.shape == (9, 3, 16, 16) and whole.dtype == torch.float32
    assert torch.equal(clip_lora._augmented(clip, real.images[:4], SHORT, "real", (0, 4)), whole[:4])
    repeated = clip_lora._augmented(clip, real.images[[0] * 9], SHORT, "real", (0, 4))
    assert len({x.numpy().tobytes() for x in repeated}) == 9, "its place in the batch makes another one of it"
    for source, when in (("synthetic", (0, 4)), ("real", (1, 4)), ("real", (0, 5))):
        assert not torch.equal(clip_lora._augmented(clip, real.images, SHORT, source, when), whole)


def test_colours_change_under_strong_augmentation_alone(clip):
    red = np.full((8, 16, 16, 3), (200, 40, 30), np.uint8)
    weak, strong = (
        clip_lora._augmented(clip, red, replace(SHORT, strong=strong), "real", (0, 0)) for strong in (False, True)
    )
    assert torch.equal(weak, clip.prepare(red)) and not torch.equal(strong, weak)


def test_mixing_takes_as_much_of_another_image_as_of_its_label():
    """Of images of one value each, the mean says how much of which is in one."""
    value, kinds, steps = torch.arange(8.0), [], 200
    x = value[:, None, None, None].expand(8, 3, 16, 16)
    for step in range(steps):
        mixed, others, λ = clip_lora._mixed(x, replace(SHORT, mix=0.6), "real", (0, step))
        assert mixed.shape == x.shape and sorted(others.tolist()) == list(range(8))
        torch.testing.assert_close(mixed.mean((1, 2, 3)), λ * value + (1 - λ) * value[others])
        pasted = any(len(one.unique()) > 1 for one in mixed)
        kinds.append("none" if torch.equal(mixed, x) else "cutmix" if pasted else "mixup")
        again = clip_lora._mixed(x, replace(SHORT, mix=0.6), "synthetic", (0, step))
        assert torch.equal(again[0], x) == (kinds[-1] == "none"), "both sources mix in the same steps"
        assert kinds[-1] == "none" or not torch.equal(again[1], others) or again[2] != λ
    assert abs(kinds.count("none") / steps - 0.4) < 0.1
    assert abs(kinds.count("cutmix") - kinds.count("mixup")) < 0.2 * steps


# --- bad input ------------------------------------------------------------------------------------


def test_sources_that_cannot_be_learnt_from(clip, real, synthetic):
    empty = real.take([])
    other = ImageSet(real.images, real.labels, ("a", "b", "c"))
    unlabelled = ImageSet(real.images, np.full(9, -1), CLASSES)
    for sets, message in (
        ({}, "real or synthetic images, or both"),
        ({"real": empty, "synthetic": synthetic}, "real images are an empty set whose loss has the weight 0.8"),
        ({"real": real, "synthetic": empty}, "synthetic images are an empty set whose loss has the weight 0.2"),
        ({"real": empty}, "weight 1; for an arm without them say real=None"),
        ({"real": real, "synthetic": other}, "synthetic has the classes"),
        ({"real": unlabelled}, "9 of them without"),
        ({"real": real, "validation": empty}, "validation must hold images"),
        ({"real": real, "watch": {"test": other}}, "test has the classes"),
        ({"real": real, "watch": {"loss": real}}, "cannot be called 'loss'"),
        ({"real": real, "synthetic": synthetic, "recipe": replace(SHORT, batch=1)}, "at least 2"),
    ):
        with pytest.raises(ValueError, match=message):
            tune_clip(clip, PROMPTS, **{"recipe": SHORT, **sets})
    weightless = tune_clip(clip, PROMPTS, real=real, synthetic=empty, recipe=replace(SHORT, real_weight=1.0))
    alone = tune_clip(clip, PROMPTS, real=real, recipe=SHORT)
    assert same(adapters_of(weightless), adapters_of(alone)), "an empty source of no weight is none"


def test_prompts_that_do_not_fit(clip, real):
    with pytest.raises(ValueError, match="3 classes need as many prompts, got 2"):
        tune_clip(clip, PROMPTS[:2], real=real, recipe=SHORT)
    with pytest.raises(ValueError, match="list of one or more texts"):
        tune_clip(clip, "a photo", real=real, recipe=SHORT)
    with pytest.raises(ValueError, match="cannot tell them apart"):
        tune_clip(clip, [f"{'very ' * 20}{name}" for name in CLASSES], real=real, recipe=SHORT)


def test_a_loss_that_is_not_finite(clip, real):
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        tune_clip(clip, PROMPTS, real=real, recipe=replace(SHORT, steps=4, learning_rate=1e30, warm_up=0.0))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("rank", 0), ("steps", 1.5), ("batch", True), ("checks", 0), ("checks", 121), ("alpha", 0), ("dropout", 1)],
        *[("warm_up", 1), ("learning_rate", 0), ("weight_decay", -1), ("real_weight", 1.1), ("mix", -0.1), ("crop", 0)],
    ],
)
def test_recipes_that_cannot_be(name, value):
    with pytest.raises(ValueError, match=f"ClipRecipe: {name} must be"):
        ClipRecipe(**{name: value})


def test_a_step_minimises_the_loss_that_the_paper_has_on_its_own_augmented_batch(clip, real, synthetic):
    """`method.two_sources`, which fits a screen, is what is tuned."""
    recipe = replace(SHORT, dropout=0.0, mix=0.0, real_weight=0.7, crop=0.6, strong=False)
    sources, when = clip_lora._sources(real, synthetic, recipe), (3, 1)
    batches = [
        (clip_lora._augmented(clip, images.images[index], recipe, name, when), torch.from_numpy(images.labels[index]))
        for name, index in clip_lora._batch(sources, recipe, when).items()
        for images in [sources[name].images]
    ]
    texts = clip.encode_texts(PROMPTS)
    slow = two_sources(lambda x: clip.logits(clip.image_features(x), texts), *batches, 0.7)
    fast = clip_lora._loss(clip, clip.tokens(PROMPTS), sources, recipe, when)
    assert len(batches[0][1]) == len(batches[1][1]) == 4
    assert float(fast) == pytest.approx(float(slow), rel=1e-5)
