"""Sampling: the same images as diffusers' own pipeline, one seed a image, nothing depends on the batch, and a run
that was killed goes on where it was."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import DDIMScheduler

from tests import tiny
from zsclib.cache import Cache
from zsclib.models.generator import open_generator
from zsclib.sampling import Guidance, check_plan, generate, sample, sample_in_jobs, sampling_timesteps
from zsclib.workers import Execution

PROMPTS = ["a cat", "a dog", "a cat", "two fish", "a bird"]
SEEDS = [11, 12, 13, 14, 15]


@pytest.fixture(scope="module", params=["stable_diffusion_1", "stable_diffusion_2", "stable_diffusion_3"])
def generator(request, tmp_path_factory):
    return open_generator(getattr(tiny, request.param)(tmp_path_factory.mktemp("model") / "folder"))


@pytest.mark.parametrize("folder", ["stable_diffusion_1", "stable_diffusion_2"])
def test_images_are_those_of_the_diffusers_pipeline(folder, tmp_path):
    generator = open_generator(getattr(tiny, folder)(tmp_path / "folder"))
    pipeline = generator.pipeline()
    pipeline.scheduler = DDIMScheduler.from_config(
        generator.scheduler.config, clip_sample=False
    )  # latents exceed 1
    size = generator.image_size
    theirs = [
        pipeline(
            prompt, num_inference_steps=7, guidance_scale=3.0, height=size, width=size, output_type="np",
            latents=torch.randn(1, *generator.latent_shape, generator=torch.Generator().manual_seed(seed)),
        ).images[0]
        for prompt, seed in zip(PROMPTS, SEEDS, strict=True)
    ]  # fmt: skip
    ours = sample(generator, PROMPTS, SEEDS, guidance=3.0, steps=7)
    assert np.abs(ours - 255 * np.stack(theirs)).max() < 1.01


def test_neither_batch_nor_order_nor_neighbours_change_a_image(generator):
    scales = [1.0, 2.5, 7.5, 1.0, 0.0]
    together = sample(generator, PROMPTS, SEEDS, scales, steps=4)
    for batch in (1, 2):
        assert (
            np.abs(
                sample(generator, PROMPTS, SEEDS, scales, steps=4, batch=batch).astype(int) - together
            ).max()
            <= 1
        )
    order = [3, 0, 4, 2, 1]
    shuffled = sample(
        generator, [PROMPTS[i] for i in order], [SEEDS[i] for i in order], [scales[i] for i in order], steps=4
    )
    assert np.abs(shuffled.astype(int) - together[order]).max() <= 1


def test_seed_prompt_and_guidance_each_matter(generator):
    base = sample(generator, ["a cat"], [1], 2.0, steps=4)
    for prompt, seed, scale in (("a dog", 1, 2.0), ("a cat", 2, 2.0), ("a cat", 1, 6.0)):
        assert not np.array_equal(sample(generator, [prompt], [seed], scale, steps=4), base)


def test_guidance_one_never_evaluates_the_empty_prompt(generator, monkeypatch):
    rows = []
    predict = generator.predict_noise

    def counted(z, t, condition, copies=None):
        rows.append(len(condition.embeddings))
        return predict(z, t, condition, copies)

    monkeypatch.setattr(generator, "predict_noise", counted)
    sample(generator, PROMPTS, SEEDS, [1, 1, 1, 3, 3], steps=3)
    assert rows == [7, 7, 7]


def test_timesteps_fall_and_stay_in_the_schedule(generator):
    for steps in (1, 10, 50):
        ts = sampling_timesteps(generator, steps)
        assert len(ts) == steps and ts == sorted(ts, reverse=True) and 0 <= ts[-1] <= ts[0] < generator.T


@pytest.mark.parametrize("change, message", [
    ({"seeds": [1]}, "as many seeds"), ({"guidance": -1.0}, "at least 0"), ({"guidance": [1.0, 2.0]}, "as many seeds"),
    ({"steps": 0}, "steps must be from 1"), ({"prompts": [], "seeds": []}, "0 prompts"),
])  # fmt: skip
def test_bad_requests_say_what_is_wrong(generator, change, message):
    with pytest.raises(ValueError, match=message):
        sample(generator, **{"prompts": PROMPTS, "seeds": SEEDS, "steps": 3} | change)


CLASSES = ("cat", "dog", "fish")


def a_plan(n: int = 10) -> pd.DataFrame:
    label = np.arange(n) % 3
    return pd.DataFrame(
        {
            "label": label,
            "class": [CLASSES[c] for c in label],
            "prompt": [f"a {('photo', 'drawing')[i % 2]} of a {CLASSES[i % 3]}" for i in range(n)],
            "guidance": [1.0, 2.5, 7.5, 0.0, 3.0] * (n // 5) + [1.0] * (n % 5),
            "seed": np.arange(100, 100 + n),
            "note": "kept",
        }
    )


@pytest.fixture(scope="module")
def sd1(tmp_path_factory):
    return open_generator(tiny.stable_diffusion_1(tmp_path_factory.mktemp("model") / "folder"))


@pytest.fixture
def network_calls(sd1, monkeypatch):
    """The rows of each call of the network."""
    rows, predict = [], sd1.predict_noise

    def counted(z, t, condition, copies=None):
        rows.append(len(condition.embeddings))
        return predict(z, t, condition, copies)

    monkeypatch.setattr(sd1, "predict_noise", counted)
    return rows


def far(a: np.ndarray, b: np.ndarray) -> int:
    return int(np.abs(a.astype(int) - b).max())


def test_generate_makes_what_sample_makes_and_the_plan_becomes_the_manifest(sd1):
    plan = a_plan()
    generated = generate(sd1, plan, CLASSES, steps=3, execution=Execution(batch=4))
    sampled = sample(sd1, list(plan["prompt"]), list(plan["seed"]), list(plan["guidance"]), steps=3)
    assert far(generated.images, sampled) <= 1
    assert np.ptp(generated.images.astype(int), axis=0).mean() > 1  # the images do differ
    pd.testing.assert_frame_equal(generated.manifest, plan.drop(columns="label"))
    assert generated.labels.tolist() == plan["label"].tolist() and generated.classes == CLASSES


def test_sampling_in_jobs_makes_what_sample_makes_and_caches_it(sd1, network_calls):
    prompts, seeds = list(a_plan()["prompt"]), list(a_plan()["seed"])
    execution = Execution(batch=4, cache=Mortal(3))
    images = sample_in_jobs(sd1, prompts, seeds, 2.0, steps=3, execution=execution)
    assert far(images, sample(sd1, prompts, seeds, 2.0, steps=3)) <= 1
    network_calls.clear()
    again = sample_in_jobs(sd1, prompts, seeds, 2.0, steps=3, execution=execution)
    assert np.array_equal(again, images) and not network_calls
    with pytest.raises(ValueError, match="steps"):
        sample_in_jobs(sd1, prompts, seeds, steps=10_000)


@pytest.mark.parametrize("cuts", [(3,), (1, 2, 9), (5,)])
def test_the_first_rows_and_the_rest_are_all_and_so_are_shards_in_any_order(sd1, cuts):
    plan = a_plan()
    whole = generate(sd1, plan, CLASSES, steps=3)
    shards = np.split(np.arange(10), cuts)
    parts = {i: generate(sd1, plan.iloc[shards[i]], CLASSES, steps=3) for i in reversed(range(len(shards)))}
    assert far(np.concatenate([parts[i].images for i in range(len(shards))]), whole.images) <= 1
    assert parts[1].manifest["seed"].tolist() == plan["seed"].iloc[shards[1]].tolist()


class Killed(Exception):
    pass


class Mortal(dict):
    """A cache whose owner dies after so many results."""

    def __init__(self, puts: int):
        super().__init__()
        self.left = puts

    def put(self, key, arrays):
        if not self.left:
            raise Killed
        self.left -= 1
        self[key] = arrays


def test_a_killed_run_loses_one_batch_and_ends_with_the_very_same_images(sd1, network_calls):
    plan, shown, cache = a_plan(), [], Mortal(2)
    whole = generate(sd1, plan, CLASSES, steps=2, execution=Execution(batch=3))
    rows = sum(network_calls)
    network_calls.clear()
    with pytest.raises(Killed):
        generate(sd1, plan, CLASSES, steps=2, execution=Execution(batch=3, cache=cache))
    cache.left = 99
    execution = Execution(batch=3, cache=cache, progress=lambda *step: shown.append(step))
    again = generate(sd1, plan, CLASSES, steps=2, execution=execution)
    first, second, third, last = (
        sum(1 + (s != 1) for s in plan["guidance"][i : i + 3]) for i in (0, 3, 6, 9)
    )
    assert rows == 2 * (first + second + third + last)
    assert sum(network_calls) == rows + 2 * third  # only the third batch was done twice
    assert np.array_equal(again.images, whole.images)
    assert shown == [("generating", done, 10) for done in (6, 9, 10)]


def test_a_longer_plan_finds_the_batches_of_a_shorter_one(sd1, network_calls, tmp_path):
    plan = a_plan(10)
    short = generate(sd1, plan.iloc[:6], CLASSES, steps=2, execution=Execution(batch=3, cache=Cache(tmp_path)))
    network_calls.clear()
    long = generate(sd1, plan, CLASSES, steps=2, execution=Execution(batch=3, cache=Cache(tmp_path)))
    assert len(network_calls) == 2 * 2  # two steps of two more batches
    assert np.array_equal(long.images[:6], short.images)


def test_nothing_cached_serves_another_prompt_seed_scale_number_of_steps_or_model(sd1, network_calls, tmp_path):
    plan, execution = a_plan(3), Execution(batch=128, cache=Cache(tmp_path / "cache"))
    generate(sd1, plan, CLASSES, steps=2, execution=execution)
    others = [plan.assign(prompt="a bird"), plan.assign(seed=plan["seed"] + 1), plan.assign(guidance=3.0)]
    for i, (rows, steps) in enumerate([*((other, 2) for other in others), (plan, 3)]):
        generate(sd1, rows, CLASSES, steps=steps, execution=execution)
        assert len(network_calls) == 2 * (i + 2) + (steps == 3)
    generate(sd1, plan.assign(note="only the manifest says so"), CLASSES, steps=2, execution=execution)
    assert len(network_calls) == 11
    other = open_generator(tiny.stable_diffusion_1(tmp_path / "other", seed=1))
    assert far(generate(other, plan, CLASSES, steps=2, execution=execution).images, sample(
        other, list(plan["prompt"]), list(plan["seed"]), list(plan["guidance"]), steps=2)) == 0  # fmt: skip


def test_no_call_of_the_network_grows_with_the_plan(sd1, network_calls):
    generate(sd1, pd.concat([a_plan(10)] * 4, ignore_index=True), CLASSES, steps=1, execution=Execution(batch=4))
    assert len(network_calls) == 10 and max(network_calls) <= 2 * 4


def test_shrinking_keeps_only_the_small_images_but_the_cache_has_them_whole(sd1):
    cache, plan = Mortal(99), a_plan(5)
    execution = Execution(batch=2, cache=cache)
    whole = generate(sd1, plan, CLASSES, steps=2, execution=execution)
    small = generate(
        sd1, plan, CLASSES, steps=2, shrink=lambda images: images[:, ::2, ::2], execution=execution
    )
    assert np.array_equal(small.images, whole.images[:, ::2, ::2]) and len(cache) == 3
    assert all(arrays["images"].shape[1:] == whole.images.shape[1:] for arrays in cache.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.iloc[:0], "zero images"),
        (lambda p: p.drop(columns="seed"), "the plan lacks seed"),
        (lambda p: p.assign(prompt=[*p["prompt"][:-1], " "]), "class 'cat' has no prompt, got ' '"),
        (lambda p: p.assign(prompt=[None, *p["prompt"][1:]]), "class 'cat' has no prompt, got (None|nan)"),
        (lambda p: p.assign(guidance=-0.5), "at least 0, got -0.5"),
        (lambda p: p.assign(guidance=float("nan")), "at least 0, got nan"),
        (lambda p: p.assign(guidance="high"), "guidance must hold numbers"),
        (lambda p: p.assign(label=p["label"] + 1), "labels must be from 0 to 2, got 1 to 3"),
        (lambda p: p.assign(**{"class": "dog"}), "row 0 is of class 'dog', its label means 'cat'"),
        (lambda p: p.assign(prompt=[*p["prompt"][:-2], "a" * 99, "a" * 98]), "cannot tell them apart"),
    ],
)
def test_a_faulty_plan_is_refused_before_any_image(sd1, network_calls, change, message):
    with pytest.raises(ValueError, match=message):
        generate(sd1, change(a_plan()), CLASSES, steps=2, execution=Execution(batch=2))
    with pytest.raises(ValueError, match=message):
        check_plan(sd1, change(a_plan()), CLASSES, 2)
    assert network_calls == []


def test_steps_and_batch_are_checked_before_any_image(sd1, network_calls):
    with pytest.raises(ValueError, match="steps must be from 1 to 1000, got 0"):
        generate(sd1, a_plan(), CLASSES, steps=0)
    with pytest.raises(ValueError, match="batch must be 1 or more, got 0"):
        generate(sd1, a_plan(), CLASSES, steps=2, execution=Execution(batch=0))
    assert network_calls == []


def test_guidance_is_drawn_as_each_distribution_says():
    def draws(guidance):
        return np.array([guidance.draw(0, "trick", "cat", i) for i in range(4000)])

    assert set(draws(Guidance(7.5))) == {7.5}
    real = draws(Guidance(1, 5))
    assert 1 <= real.min() < 1.02 and 4.98 < real.max() <= 5 and abs(real.mean() - 3) < 0.06
    assert len(set(real)) == 4000
    values, counts = np.unique(draws(Guidance(1, 5, integer=True)), return_counts=True)
    assert values.tolist() == [1, 2, 3, 4, 5] and np.ptp(counts) < 200
    once = Guidance(1, 5, integer=True, once=True)
    assert len(set(draws(once))) == 1
    runs = np.unique([once.draw(run, "x") for run in range(200)], return_counts=True)
    assert runs[0].tolist() == [1, 2, 3, 4, 5] and runs[1].min() > 20


@pytest.mark.parametrize("bounds", [(-1,), (2, 1), (0, float("inf")), (float("nan"),)])
def test_guidance_refuses_scales_that_are_none(bounds):
    with pytest.raises(ValueError, match="0 <= low <= high"):
        Guidance(*bounds)
    with pytest.raises(ValueError, match="integer bounds"):
        Guidance(1, 2.5, integer=True)
