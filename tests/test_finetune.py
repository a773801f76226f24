"""Tuning a generator: the loss falls, only what is tuned changes, neither batch, stop nor place changes a result."""

from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import DDIMScheduler
from tokenizers import AddedToken

from tests import tiny
from zsclib.cache import Cache
from zsclib.images.image_set import ImageSet
from zsclib.models import denoising, tuning_jobs
from zsclib.models.conditioning import Condition
from zsclib.models.denoising import batch_rows, denoising_errors, held_out_loss, noise_of_samples
from zsclib.models.finetune import (
    Latents,
    Tuning,
    cluster_conditioning,
    clusters,
    finetune,
    learn_conditioning,
    textual_inversion,
    tune_unet,
)
from zsclib.models.generator import open_generator
from zsclib.models.personalised import (
    learnt_name,
    prompts_in_proportion,
    with_conditionings,
    with_tokens,
    word_vector,
)
from zsclib.sampling import generate, sample
from zsclib.workers import Execution, Workers

PROMPTS = ["a photo of a cat", "a photo of a dog"]
SHORT = Tuning(samples=16, batch=4, learning_rate=0.1, check_every=8)


@pytest.fixture(scope="module", autouse=True)
def few_draws():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(denoising, "HELD_OUT_DRAWS", 32)
        yield


def shots(n: int = 3, seed: int = 0, classes: tuple[str, ...] = ("a cat", "a dog")) -> ImageSet:
    """n reddish and n bluish images."""
    images = np.random.default_rng(seed).integers(0, 60, (2 * n, 16, 16, 3))
    images[:n, ..., 0] += 150
    images[n:, ..., 2] += 150
    return ImageSet(images.astype(np.uint8), np.repeat([0, 1], n), classes)


@pytest.fixture(scope="module")
def sd(folders):
    """Not to be changed."""
    return open_generator(folders["stable_diffusion_1"])


@pytest.fixture(scope="module")
def inverted(sd):
    return textual_inversion(sd, shots(), None, SHORT, held_out=shots(seed=1))


@pytest.fixture(scope="module")
def conditioned(sd):
    return learn_conditioning(sd, shots(), PROMPTS, SHORT)


def weights(generator) -> dict[str, torch.Tensor]:
    parts = {name: part for name, part in generator.parts.items() if isinstance(part, torch.nn.Module)}
    return {
        f"{name}.{weight}": value.clone() for name, part in parts.items() for weight, value in part.state_dict().items()
    }


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name for name in before.keys() | after.keys()
            if name not in before or name not in after or not torch.equal(before[name], after[name])}  # fmt: skip


def a_loop(generator, tuning=SHORT, stop=None, **options):
    """Tune a conditioning per class by the bare loop; return the history and what was learnt."""
    images = shots()
    c = generator.encode_prompts(PROMPTS)
    learnt, pooled = c.prompts.clone(), c.pooled

    def condition(y, samples):
        if stop and samples[-1] >= stop:
            raise KeyboardInterrupt
        return Condition(learnt, pooled).take(y)

    latents = Latents(generator.encode_images(images.images), torch.from_numpy(images.labels))
    return finetune(generator, latents, condition, [learnt], tuning, **options), learnt


# the loop


def test_every_kind_of_prediction_is_compared_with_its_own_target(generator):
    """The target is what a perfect network would output: it says exactly the noise."""
    random = torch.Generator().manual_seed(0)
    z, ε = torch.randn(2, 3, *generator.latent_shape, generator=random)
    t = torch.tensor([3, 400, 900])
    a, s = generator.signal_and_noise(t)
    target = generator.schedule.target(z, ε, t)
    torch.testing.assert_close(generator.schedule.noise_from(target, a * z + s * ε, t), ε, rtol=1e-4, atol=1e-5)
    condition = generator.encode_prompts(PROMPTS).take(torch.tensor([0, 1, 1]))
    with torch.no_grad():
        errors = denoising_errors(generator, z, t, ε, condition)
        ε_hat = generator.predict_noise(a * z + s * ε, t, condition)
    scale = {"epsilon": torch.ones(3), "v": a.flatten(), "flow": a.flatten()}[generator.prediction]
    torch.testing.assert_close(errors * scale**2, ((ε_hat - ε) ** 2).mean((1, 2, 3)), rtol=1e-3, atol=1e-5)


def test_the_loss_falls_and_nothing_but_the_network_changes(generator):
    before, fingerprint = weights(generator), generator.fingerprint()
    tuning = Tuning(samples=48, batch=8, learning_rate=1e-2, check_every=16)
    tuned = tune_unet(generator, shots(), PROMPTS, tuning, held_out=shots(seed=1))
    history = tuned.history
    assert history.samples.tolist() == [0, 16, 32, 48] and history.images.unique().tolist() == [6]
    assert history.held_out.iloc[-1] < 0.9 * history.held_out.iloc[0]
    assert history.loss.isna().tolist() == [True, False, False, False] and history.loss.iloc[-1] < history.loss.iloc[1]
    name = "unet" if "unet" in generator.parts else "transformer"
    assert {weight.partition(".")[0] for weight in changed(before, weights(tuned))} == {name}
    assert not changed(before, weights(generator)) and generator.fingerprint() == fingerprint != tuned.fingerprint()
    assert tuned.vae is generator.vae and tuned.text_encoder is generator.text_encoder
    assert not any(parameter.requires_grad for parameter in tuned.unet.parameters())
    again = pickle.loads(pickle.dumps(tuned))
    assert again.fingerprint() == tuned.fingerprint()
    assert np.array_equal(sample(again, PROMPTS, [1, 2], 2.0, 2), sample(tuned, PROMPTS, [1, 2], 2.0, 2))


def test_a_class_conditional_network_is_tuned_too(tmp_path):
    dit = open_generator(tiny.dit(tmp_path / "dit"))
    tuning = Tuning(samples=32, batch=8, learning_rate=1e-2, check_every=16)
    history = tune_unet(dit, shots(), ["#0", "dog"], tuning).history
    assert history.loss.iloc[-1] < history.loss.iloc[1] and history.held_out.isna().all()
    for learn in (learn_conditioning, textual_inversion):
        with pytest.raises(ValueError, match="class-conditional"):
            learn(dit, shots(), PROMPTS, tuning)


def test_neither_parts_of_a_batch_nor_a_stop_change_a_result(sd, tmp_path):
    history, whole = a_loop(sd, held_out=Latents(sd.encode_images(shots(seed=1).images[:2]), torch.tensor([0, 0])))
    in_parts, learnt = a_loop(sd, at_once=3)
    torch.testing.assert_close(learnt, whole, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(in_parts.loss, history.loss, rtol=1e-4)
    file = tmp_path / "state.partial"
    with pytest.raises(KeyboardInterrupt):
        a_loop(sd, stop=10, checkpoint=file)
    assert file.exists()
    rest, learnt = a_loop(sd, checkpoint=file)
    assert torch.equal(learnt, whole) and rest.loss.equals(history.loss) and not file.exists()


def test_another_or_a_broken_checkpoint_is_refused(sd, tmp_path):
    file = tmp_path / "state.partial"
    with pytest.raises(KeyboardInterrupt):
        a_loop(sd, stop=10, checkpoint=file)
    with pytest.raises(ValueError, match="state.partial is the checkpoint of another tuning"):
        a_loop(sd, dataclasses.replace(SHORT, seed=1), checkpoint=file)
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(ValueError, match="state.partial is no whole checkpoint"):
        a_loop(sd, checkpoint=file)


def test_a_sample_depends_on_its_number_alone(generator):
    rows = batch_rows(5, np.arange(21), 7)
    assert all(sorted(rows[start : start + 7]) == list(range(7)) for start in (0, 7, 14))
    assert len({tuple(rows[start : start + 7]) for start in (0, 7, 14)}) == 3
    assert np.array_equal(batch_rows(5, np.arange(5, 12), 7), rows[5:12])
    t, ε = noise_of_samples(generator, 5, np.arange(6))
    t_later, ε_later = noise_of_samples(generator, 5, np.arange(4, 6))
    assert torch.equal(t[4:], t_later) and torch.equal(ε[4:], ε_later) and len(t.unique()) == 6
    assert ((t >= 0) & (t < generator.T)).all()
    assert not torch.equal(noise_of_samples(generator, 6, np.arange(6))[1], ε)


def test_the_held_out_loss_is_always_on_the_same_noise(sd):
    latents = Latents(sd.encode_images(shots(seed=1).images), torch.from_numpy(shots().labels))
    condition = tuning_jobs.prompts_of_labels(sd, PROMPTS)
    first = held_out_loss(sd, latents, condition)
    assert held_out_loss(sd, latents, condition) == first
    assert held_out_loss(sd, latents, condition, at_once=5) == pytest.approx(first, rel=1e-5)


def test_gradients_are_tracked_whatever_the_caller_does(sd, conditioned):
    _, expected = a_loop(sd)
    state = torch.get_rng_state()
    with torch.no_grad():
        c = a_loop(sd)[1]
    assert torch.equal(c, expected) and not c.requires_grad and torch.equal(torch.get_rng_state(), state)
    with torch.inference_mode():
        tuned = learn_conditioning(sd, shots(), PROMPTS, SHORT)
    assert tuned.fingerprint() == conditioned.fingerprint()


def test_the_learning_rate_rises_and_falls():
    tuning = Tuning(samples=1000, batch=10, learning_rate=1.0, warm_up=100, decay="cosine")
    assert tuning.learning_rate_at(0) == pytest.approx(10 / 110) and tuning.learning_rate_at(100) == 1
    assert tuning.learning_rate_at(550) == pytest.approx(0.5) and tuning.learning_rate_at(990) < 0.001
    assert Tuning(samples=1000, learning_rate=0.5).learning_rate_at(0) == 0.5


# words


def test_a_word_is_learnt_and_nothing_else_changes(sd, inverted):
    before, after = weights(sd), weights(inverted)
    names = changed(before, after)
    (table,) = (name for name in names if not name.startswith("learnt."))
    assert "token_embedding" in table
    tokens = len(before[table])
    assert torch.equal(after[table][:tokens], before[table]) and len(after[table]) == tokens + 2
    for row, word in ((tokens, "a cat"), (tokens + 1, "a dog")):
        assert not torch.equal(after[table][row], word_vector(sd, word))
    assert "<cat>" not in sd.tokenizer.get_vocab() and inverted.unet is sd.unet
    assert inverted.history.groupby("name").samples.apply(list).tolist() == [[0, 8, 16]] * 2
    assert inverted.history.held_out.notna().all()


def test_the_loss_of_a_word_falls(sd):
    tuned = textual_inversion(
        sd, shots(), None, Tuning(samples=256, batch=16, learning_rate=0.05), held_out=shots()
    )
    falls = tuned.history.groupby("name").held_out.agg(["first", "last"])
    assert (falls["last"] < falls["first"]).all()


def test_a_word_stands_in_any_prompt(sd, inverted):
    ids = inverted.tokenizer("a drawing of a <cat> in white").input_ids
    plain = sd.tokenizer("a drawing of a in white").input_ids
    row = inverted.tokenizer.convert_tokens_to_ids("<cat>")
    assert ids.count(row) == 1 and [i for i in ids if i != row] == plain
    both = inverted.encode_prompts(["a drawing of a <cat>", "a drawing of a <dog>", *PROMPTS]).embeddings
    assert not torch.allclose(both[0], both[1])
    torch.testing.assert_close(both[2:], sd.encode_prompts(PROMPTS).embeddings)


def test_a_word_begins_as_one_that_the_model_knows(sd):
    table = sd.text_encoder.get_input_embeddings().weight
    known = sd.tokenizer.convert_tokens_to_ids("x</w>")
    assert torch.equal(word_vector(sd, "a qq x"), table[known])
    assert torch.equal(word_vector(sd, "an x qq"), table[known])
    assert torch.equal(word_vector(sd, "a cat"), table.mean(0))  # the article is no word of the class


def test_a_tuned_generator_opens_as_a_folder(inverted, tmp_path):
    inverted.pipeline().save_pretrained(tmp_path / "folder")
    again = open_generator(tmp_path / "folder")
    prompts = ["a photo of a <cat>", "a dog"]
    assert torch.equal(again.encode_prompts(prompts).embeddings, inverted.encode_prompts(prompts).embeddings)


# conditionings


def test_a_conditioning_is_learnt_and_nothing_else_changes(generator):
    before, fingerprint = weights(generator), generator.fingerprint()
    tuning = Tuning(samples=48, batch=16, learning_rate=0.3, check_every=48)
    tuned = learn_conditioning(generator, shots(), PROMPTS, tuning, held_out=shots())
    falls = tuned.history.groupby("name").held_out.agg(["first", "last"])
    assert falls.index.tolist() == ["<cat>", "<dog>"] and (falls["last"] < falls["first"]).all()
    assert all(name.startswith("learnt.") for name in changed(before, weights(tuned)))
    assert not changed(before, weights(generator)) and generator.fingerprint() == fingerprint != tuned.fingerprint()
    plain = generator.encode_prompts([*PROMPTS, ""])
    mixed = tuned.encode_prompts(["<dog>", "", "<cat>", PROMPTS[1], "<dog>"])
    assert mixed.embeddings.shape == (5, *plain.embeddings.shape[1:])
    torch.testing.assert_close(mixed.embeddings[[3, 1]], plain.embeddings[[1, 2]])
    assert torch.equal(mixed.embeddings[0], mixed.embeddings[4])
    assert not torch.allclose(mixed.embeddings[0], plain.embeddings[1], atol=0.1)
    if plain.pooled is not None:  # stays that of the class's prompt
        torch.testing.assert_close(mixed.pooled[[2, 0, 1]], plain.pooled)
    again = pickle.loads(pickle.dumps(tuned))
    assert again.fingerprint() == tuned.fingerprint()
    assert np.array_equal(sample(again, ["<cat>"], [1], 2.0, 2), sample(tuned, ["<cat>"], [1], 2.0, 2))


def test_a_conditioning_is_no_word(conditioned):
    with pytest.raises(ValueError, match="<cat> is a learnt conditioning, a whole prompt"):
        conditioned.encode_prompts(["a photo of a <cat>"])


def test_clusters_of_planted_groups():
    random = np.random.default_rng(0)
    x = np.concatenate([random.normal(size=(n, 3)) * 0.1 + 5 * i for i, n in enumerate((12, 6, 9))])
    planted = np.repeat(range(3), (12, 6, 9))
    labels = clusters(x, 3, seed=0)
    assert len(set(zip(labels, planted, strict=True))) == 3
    assert np.array_equal(clusters(x, 3, seed=0), labels)
    assert clusters(x, 3, seed=0, least=7).max() == 1  # six are too few for a cluster
    assert clusters(x, 2, seed=0, least=20).tolist() == [0] * 27
    assert clusters(np.ones((12, 3)), 2, seed=0).tolist() == [0] * 12  # all the same


def test_a_conditioning_for_each_cluster(sd):
    images = shots(11)
    x = np.repeat(np.eye(4), (6, 5, 8, 3), axis=0)  # of the second class, three are too few
    tuning = Tuning(samples=8, batch=8, learning_rate=0.1)
    tuned = cluster_conditioning(sd, images, PROMPTS, x, 2, tuning, held_out=(images, x))
    sizes = tuned.history.groupby("name").images.first()
    assert sizes.to_dict() in ({"<cat:1>": 6, "<cat:2>": 5, "<dog:1>": 11}, {"<cat:1>": 5, "<cat:2>": 6, "<dog:1>": 11})
    both = tuned.encode_prompts(["<cat:1>", "<cat:2>"]).embeddings
    assert not torch.allclose(both[0], both[1]) and tuned.history.held_out.notna().all()
    assert prompts_in_proportion(tuned, "a dog", 2) == ["<dog:1>"] * 2
    again = pickle.loads(pickle.dumps(tuned))
    assert prompts_in_proportion(again, "a cat", 11) == prompts_in_proportion(tuned, "a cat", 11)
    counts = pd.Series(prompts_in_proportion(tuned, "a cat", 22)).value_counts()
    assert counts["<cat:1>"] == 2 * sizes["<cat:1>"]
    with pytest.raises(ValueError, match="nothing was learnt under <fish>"):
        prompts_in_proportion(tuned, "a fish", 2)


def test_the_first_images_have_the_clusters_proportions_too(sd):
    c = sd.encode_prompts(PROMPTS).embeddings
    sizes = {"<cat:1>": 15, "<cat:2>": 5}
    tuned = with_conditionings(sd, dict(zip(sizes, c, strict=True)), sizes=sizes)
    assert prompts_in_proportion(tuned, "a cat", 4) == ["<cat:1>", "<cat:1>", "<cat:2>", "<cat:1>"]
    for n in range(1, 20):
        assert abs(prompts_in_proportion(tuned, "a cat", n).count("<cat:2>") - n / 4) <= 1


# what is tuned is a generator like any other


def test_learnt_names_generate_as_diffusers_does_with_the_same_embeddings(inverted, conditioned):
    for tuned, prompts in ((inverted, ["a photo of a <cat>", "a <dog>"]), (conditioned, ["<cat>", "<dog>"])):
        plan = pd.DataFrame({"label": [0, 1], "prompt": prompts, "guidance": [3.0, 3.0], "seed": [11, 12]})
        ours = generate(tuned, plan, ("cat", "dog"), steps=3)
        assert ours.manifest.prompt.tolist() == prompts
        pipeline = tuned.pipeline()
        pipeline.scheduler = DDIMScheduler.from_config(tuned.scheduler.config, clip_sample=False)
        c, size = tuned.encode_prompts([*prompts, ""]).embeddings, tuned.image_size
        theirs = [
            pipeline(
                prompt_embeds=c[[i]], negative_prompt_embeds=c[[2]], num_inference_steps=3, guidance_scale=3.0,
                height=size, width=size, output_type="np",
                latents=torch.randn(1, *tuned.latent_shape, generator=torch.Generator().manual_seed(seed)),
            ).images[0]
            for i, seed in enumerate((11, 12))
        ]  # fmt: skip
        assert np.abs(ours.images - 255 * np.stack(theirs)).max() < 1.01


def test_one_tuning_follows_another_and_all_travels(sd, inverted):
    twice = learn_conditioning(inverted, shots(classes=("x1", "x2")), ["a <cat>", "a <dog>"], SHORT)
    prompts = ["<x1>", "a <dog>", "<x2>", ""]
    again = pickle.loads(pickle.dumps(twice))
    assert again.fingerprint() == twice.fingerprint() and len(pickle.dumps(twice)) < 8000
    condition = twice.encode_prompts(prompts)
    assert torch.equal(again.encode_prompts(prompts).embeddings, condition.embeddings)
    torch.testing.assert_close(pickle.loads(pickle.dumps(condition)).embeddings, condition.embeddings)
    with torch.no_grad():
        twice.text_encoder.get_input_embeddings().weight.mul_(1.5)  # changed since: travels by value
    again = pickle.loads(pickle.dumps(twice))
    assert again.fingerprint() == twice.fingerprint()
    assert torch.equal(again.encode_prompts(prompts).embeddings, twice.encode_prompts(prompts).embeddings)


def test_the_names_count_in_the_fingerprint(sd):
    c = sd.encode_prompts(PROMPTS).embeddings
    prints = {with_conditionings(sd, {name: c[0]}).fingerprint() for name in ("<a>", "<b>", "<a>")}
    prints |= {with_tokens(sd, {name: c[0, 0]}).fingerprint() for name in ("<a>", "<b>")}
    assert len(prints | {sd.fingerprint()}) == 5


def test_workers_tune_and_generate_as_this_process_does(sd, tmp_path):
    """Two runs, too, are equal; and a class that is finished is not tuned again."""
    plan = pd.DataFrame({"label": [0, 1], "prompt": ["a <cat>", "a <dog>"], "guidance": 2.0, "seed": [1, 2]})
    here = textual_inversion(sd, shots(), None, SHORT)
    with Workers(2) as workers:
        execution = Execution(batch=1, workers=workers, cache=Cache(tmp_path))
        there = textual_inversion(sd, shots(), None, SHORT, execution=execution)
        assert there.fingerprint() == here.fingerprint() and there.history.equals(here.history)
        far = generate(there, plan, ("cat", "dog"), steps=2, execution=execution)
    assert np.array_equal(far.images, generate(here, plan, ("cat", "dog"), steps=2).images)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuning_jobs, "finetune", None)
        cached = textual_inversion(sd, shots(), None, SHORT, execution=Execution(cache=Cache(tmp_path)))
    assert cached.fingerprint() == here.fingerprint()
    assert not list(tmp_path.glob("*.partial"))


# bad input


def test_what_cannot_be_tuned_is_refused(sd, folders):
    images, features = shots(), np.eye(6)
    empty = images.take(images.labels == 0)
    large = ImageSet(np.zeros((2, 32, 32, 3), np.uint8), [0, 1], images.classes)
    cases = [
        (lambda: learn_conditioning(sd, empty, PROMPTS, SHORT), "class 'a dog' has no images"),
        (lambda: textual_inversion(sd, images.take([]), None, SHORT), "class 'a cat' has no images"),
        (lambda: textual_inversion(sd, large, None, SHORT), "reads images of 16 x 16 pixels, got 32 x 32"),
        (lambda: tune_unet(sd, large, PROMPTS, SHORT), "reads images of 16 x 16 pixels, got 32 x 32"),
        (lambda: tune_unet(sd, images, PROMPTS[:1], SHORT), "2 classes need as many prompts or words, got 1"),
        (lambda: learn_conditioning(sd, images, PROMPTS, SHORT, held_out=shots(classes=("x", "y"))), "other classes"),
        (lambda: cluster_conditioning(sd, images, PROMPTS, features, 4, SHORT), "has 3 images, too few for 4 clusters"),
        (lambda: cluster_conditioning(sd, images, PROMPTS, features[:5], 2, SHORT), "6 images need finite features"),
        (lambda: textual_inversion(sd, images, None, SHORT, templates=["a photo"]), "exactly one {}"),
        (lambda: textual_inversion(sd, shots(classes=("a cat", "cat")), None, SHORT), "both be learnt as <cat>"),
        (lambda: with_tokens(sd, {"<x>": torch.zeros(3)}), "a token of this model has 16 numbers"),
        (lambda: with_conditionings(sd, {"<x>": torch.zeros(3, 16)}), r"shape \(24, 16\), got \(3, 16\)"),
        (lambda: learnt_name("  "), "needs a name"),
        (lambda: Tuning(samples=0, learning_rate=1.0), "samples must be an integer of at least 1"),
        (lambda: Tuning(samples=8, learning_rate=0.0), "learning_rate must be positive"),
        (lambda: Tuning(samples=8, learning_rate=1.0, decay="linear"), "constant or cosine"),
        (lambda: a_loop(open_generator(folders["stable_diffusion_1"], dtype=torch.bfloat16)), "tuned in float32"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()


def test_a_word_that_the_model_knows_is_no_new_one(sd, inverted, conditioned, folders):
    for tuned in (inverted, conditioned):
        with pytest.raises(ValueError, match="the model knows '<cat>' already"):
            textual_inversion(tuned, shots(), None, SHORT)
    own = open_generator(folders["stable_diffusion_1"])
    own.tokenizer.add_tokens([AddedToken("<dog>")])
    with pytest.raises(ValueError, match="the model knows '<dog>' already"):
        textual_inversion(own, shots(), None, SHORT)


def test_a_new_word_needs_one_text_encoder(folders):
    with pytest.raises(ValueError, match="one text encoder .* learn a conditioning instead"):
        textual_inversion(open_generator(folders["stable_diffusion_3"]), shots(), None, SHORT)


def test_a_loss_that_is_not_finite_stops_at_once(sd):
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        tune_unet(sd, shots(), PROMPTS, Tuning(samples=64, batch=8, learning_rate=1e30))
