"""Pretraining: a run does not depend on when it was stopped; what it exports opens without this project."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from torch import nn
from transformers import CLIPModel, CLIPProcessor, CLIPTokenizer

from zsclib.images.tensors import to_images, to_tensor
from zsclib.pocket.card import CARDS, write_cards
from zsclib.pocket.export import export, restore
from zsclib.pretraining import autoencoder, clip, unet
from zsclib.pretraining.card import card, gigabytes, thinned
from zsclib.pretraining.checkpoint import checkpoints, digest_path, read_meta, read_tensors
from zsclib.pretraining.loop import averaged, begin_from, train, update_ema
from zsclib.pretraining.plan import Plan, Training, batch_indices, learning_rate
from zsclib.pretraining.sizes import Sizes
from zsclib.pretraining.tokenizer import token_ids, train_tokenizer
from zsclib.world.pool import PoolConfig, stream

SIZES = Sizes(
    autoencoder_channels=(16, 16, 16), unet_channels=(16, 32), width=32, heads=2, text_layers=1, image_layers=1, patch=8
)
HELD_OUT = 16
TINY = Plan("tiny", samples=64, batch=16, warmup=2, log_every=1, validate_every=2, save_minutes=0)
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def pool() -> tuple[np.ndarray, list[str]]:
    """80 captioned images: a coloured square left or right on noise."""
    draws = np.random.default_rng(0)
    images = draws.integers(0, 256, (80, 32, 32, 3), dtype=np.uint8)
    captions = []
    for i, image in enumerate(images):
        side, colour = ("left", "right")[i % 2], ("red", "green", "blue")[i % 3]
        image[8:24, 4 + 12 * (i % 2) :][:, :12] = np.eye(3, dtype=np.uint8)[i % 3] * 220
        captions.append(f"a {('photo', 'sketch')[i % 5 > 2]} of a {colour} square on the {side}")
    return images, captions


@pytest.fixture(scope="module")
def trainings(pool, tmp_path_factory):
    """Functions (folder, plan) → history for every training on captions, and a folder where all of them were run."""
    images, captions = pool

    def training(folder, plan, begin=None) -> Training:
        return Training(plan=plan, folder=folder, held_out=HELD_OUT, begin=begin, sizes=SIZES)

    functions = {
        "autoencoder": lambda *run: autoencoder.train_autoencoder(images, training(*run)),
        "clip": lambda *run: clip.train_clip(images, captions, training(*run)),
        "unet": lambda *run: unet.train_unet(images, captions, training(*run)),
        "clip-image": lambda *run: clip.train_image_tower(images, captions, training(*run)),
        "unet-second": lambda *run: unet.train_unet(
            images[::-1], captions[::-1], training(*run, "unet")
        ),
        "clip-image-second": lambda *run: clip.train_image_tower(
            images[::-1], captions[::-1], training(*run, "clip-image")
        ),
    }
    folder = tmp_path_factory.mktemp("trained")
    for name, run in functions.items():
        run(folder, replace(TINY, name=name))
    return functions, folder


@pytest.mark.parametrize(
    "name", ["autoencoder", "clip", "unet", "clip-image", "unet-second", "clip-image-second"]
)
def test_a_run_stopped_after_every_step_is_the_uninterrupted_run(trainings, tmp_path, name):
    functions, trained = trainings
    for part in ("frozen", "tokenizer"):  # as on another machine: the folder was copied
        (tmp_path / part).symlink_to(trained / part)
    if name.endswith("-second"):  # goes on from what the first one ended with
        for path in (newest := checkpoints(trained, name.removesuffix("-second"))[-1], digest_path(newest)):
            (tmp_path / path.name).symlink_to(path)
    whole = json.loads(_newest_meta(trained, name))["history"]
    for steps in range(1, TINY.steps + 1):
        history = functions[name](tmp_path, replace(TINY, name=name, minutes=0))
        assert len(history) == steps
    assert [row["loss"] for row in history] == [row["loss"] for row in whole]
    for part in ("model", "ema", "first", "second"):
        ours = read_tensors(checkpoints(tmp_path, name)[-1], part)
        theirs = read_tensors(checkpoints(trained, name)[-1], part)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def _newest_meta(folder, name: str) -> str:
    from safetensors import safe_open

    with safe_open(checkpoints(folder, name)[-1], "pt") as file:
        return file.metadata()["meta"]


@pytest.mark.parametrize("name", ["unet", "clip-image"])
def test_a_second_training_goes_on_from_the_averages_of_the_first(trainings, pool, tmp_path, name):
    _, trained = trainings
    first, second = (checkpoints(trained, part)[-1] for part in (name, f"{name}-second"))
    begin = read_meta(second)["facts"]["begin"]
    assert begin["part"] == name and begin["step"] == TINY.steps
    assert begin["sha256"] == digest_path(first).read_text().strip()
    model = (
        unet.new_unet(SIZES)
        if name == "unet"
        else clip.new_clip(CLIPTokenizer.from_pretrained(trained / "tokenizer"), SIZES)
    )
    begin_from(name, model, trained)
    averages = read_tensors(first, "ema")
    assert all(torch.equal(dict(model.named_parameters())[key], value) for key, value in averages.items())
    assert begin_from(None, model, trained) == {}
    with pytest.raises(FileNotFoundError, match=f"no checkpoint of '{name}'"):
        begin_from(name, model, tmp_path)


def test_another_seed_is_another_run(trainings, tmp_path):
    functions, trained = trainings
    history = functions["autoencoder"](tmp_path, replace(TINY, name="autoencoder", seed=1, minutes=0))
    assert history[0]["loss"] != json.loads(_newest_meta(trained, "autoencoder"))["history"][0]["loss"]


def toy(plan: Plan, folder, die_at: int | None = None, facts: dict | None = None, value: float = 1.0):
    """Train one weight towards `value`; raise at a step, as a kill would end it."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    steps = []

    def loss(model: nn.Module, step: int) -> torch.Tensor:
        if step == die_at:
            raise KeyboardInterrupt
        steps.append(step)
        return ((model.weight - value) ** 2).sum()

    try:
        history = train(Training(plan=plan, folder=folder, facts=facts or {}), model, loss)
    except KeyboardInterrupt:
        history = None
    return history, steps


def test_a_killed_run_goes_on_from_its_last_checkpoint(tmp_path):
    plan = Plan("toy", samples=80, batch=8, log_every=3, save_minutes=0)
    whole, _ = toy(plan, tmp_path / "whole")
    assert toy(plan, tmp_path / "killed", die_at=5)[0] is None
    history, steps = toy(plan, tmp_path / "killed")
    assert steps == list(range(3, 10))
    assert [row["loss"] for row in history] == [row["loss"] for row in whole]
    assert toy(plan, tmp_path / "killed")[1] == []


def test_a_longer_plan_starts_before_the_decay_of_the_shorter_one(tmp_path):
    short = Plan("toy", samples=80, batch=8, decay=0.2, log_every=4, save_minutes=0)
    toy(short, tmp_path)
    assert [path.stem for path in checkpoints(tmp_path, "toy")] == ["toy-0000008", "toy-0000010"]
    long = replace(short, samples=160, log_every=1)
    shutil.copytree(tmp_path, ended := tmp_path / "ended")
    (ended / "toy-0000008.safetensors").unlink()
    with pytest.raises(ValueError, match="toy-0000010.safetensors has fallen under a shorter plan, .* remove it"):
        toy(long, ended)
    assert [path.stem for path in checkpoints(ended, "toy")] == ["toy-0000010"], "nothing is lost"
    _, steps = toy(long, tmp_path, die_at=9)
    assert steps == [8]
    assert [path.stem for path in checkpoints(tmp_path, "toy")] == ["toy-0000009"]
    _, steps = toy(long, tmp_path)
    assert steps == list(range(9, 20))
    assert [path.stem for path in checkpoints(tmp_path, "toy")] == ["toy-0000016", "toy-0000020"]


@pytest.mark.parametrize("damage", ["cut", "altered", "digest lost"])
def test_a_damaged_checkpoint_is_refused_by_name(tmp_path, damage):
    plan = Plan("toy", samples=80, batch=8, decay=0, save_minutes=0)
    toy(plan, tmp_path)
    (path,) = checkpoints(tmp_path, "toy")
    content = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(content[:-1])
    elif damage == "altered":
        content[-1] ^= 1
        path.write_bytes(content)
    else:
        path.with_suffix(".sha256").unlink()
    with pytest.raises(ValueError, match=r"toy-0000010\.safetensors was cut short or altered"):
        toy(plan, tmp_path)


def test_a_checkpoint_of_another_pool_is_refused(tmp_path):
    plan = Plan("toy", samples=80, batch=8)
    toy(plan, tmp_path, facts={"pool": {"n": 1}, "seed": 0})
    with pytest.raises(ValueError, match="belongs to another run: pool differ"):
        toy(plan, tmp_path, facts={"pool": {"n": 2}, "seed": 0})


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    with pytest.raises(FloatingPointError, match="toy: the loss is nan at step 1"):
        toy(Plan("toy", samples=80, batch=8), tmp_path, value=float("nan"))


def test_the_learning_rate_warms_up_stays_and_falls_to_zero():
    plan = Plan("toy", samples=1000, batch=10, rate=2.0, warmup=4, decay=0.2)
    rates = [learning_rate(step, plan) for step in range(101)]
    assert rates[:4] == [0.5, 1.0, 1.5, 2.0]
    assert rates[4:81] == [2.0] * 77
    assert rates[90] == pytest.approx(1.0)
    assert rates[100] == 0


def test_every_epoch_shows_every_image_once_in_another_order():
    plan = Plan("toy", samples=0, batch=8)
    order = np.concatenate([batch_indices(plan, step, 20) for step in range(5)])
    assert sorted(order[:20]) == sorted(order[20:]) == list(range(20))
    assert list(order[:20]) != list(order[20:])


def test_ema_follows_its_recursion_and_is_only_lent():
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    ema = {"weight": torch.zeros(1, 1)}
    expected = 0.0
    for step in range(5):
        nn.init.constant_(model.weight, step + 1.0)
        update_ema(ema, model, step, decay=0.5)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * (step + 1)
    assert ema["weight"].item() == pytest.approx(expected, rel=1e-5)
    with averaged(model, ema) as lent:
        assert lent.weight.item() == ema["weight"].item() and not lent.training
    assert model.weight.item() == 5 and model.training


def test_min_snr_weights():
    ᾱ = torch.tensor([0.9, 0.5, 0.1, 5 / 6])  # signal-to-noise 9, 1, 1/9, 5
    weights = unet.min_snr_weight(ᾱ, torch.arange(4))
    assert weights.tolist() == pytest.approx([5 / 9, 1, 1, 1])


def test_noise_prediction_loss_is_zero_for_the_noise_itself_and_one_for_no_prediction():
    """A schedule of SNR 1 weighs every timestep alike, so the loss of ε̂ = 0 is the mean square of unit noise."""
    z, ᾱ = torch.zeros(64, 4, 8, 8), torch.full((1000,), 0.5)
    perfect = unet.noise_prediction_loss(lambda z_t, t: z_t / 0.5**0.5, z, ᾱ, TINY, 0)
    assert perfect.item() == pytest.approx(0, abs=1e-10)
    blind = unet.noise_prediction_loss(lambda z_t, t: torch.zeros_like(z_t), z, ᾱ, TINY, 0)
    assert blind.item() == pytest.approx(1, abs=0.05)
    assert blind == unet.noise_prediction_loss(lambda z_t, t: torch.zeros_like(z_t), z, ᾱ, TINY, 0)
    assert blind != unet.noise_prediction_loss(lambda z_t, t: torch.zeros_like(z_t), z, ᾱ, TINY, 1)


def test_timesteps_are_spread_and_within_range():
    t = unet.spread_timesteps(50, 1000, np.random.default_rng(0))
    assert torch.equal(torch.bincount((t - t.min()) // 20, minlength=50), torch.ones(50, dtype=torch.int64))
    assert t.min() >= 0 and t.max() < 1000


def test_contrastive_loss_counts_equal_captions_as_positives():
    same = torch.eye(4, dtype=torch.bool)
    assert clip.contrastive_loss(torch.zeros(4, 4), same).item() == pytest.approx(np.log(4))
    assert clip.contrastive_loss(100.0 * same, same).item() == pytest.approx(0, abs=1e-6)
    twice = torch.block_diag(torch.ones(2, 2), torch.ones(2, 2)).bool()
    assert clip.contrastive_loss(100.0 * twice, twice).item() == pytest.approx(np.log(2))
    alike = torch.ones(2, 2).bool()  # who of two equal captions is "own" must not matter
    straight, crossed = 5 * torch.eye(2), 5 * torch.eye(2).flip(0)
    assert clip.contrastive_loss(straight, alike).item() == clip.contrastive_loss(crossed, alike).item()
    lopsided = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    rows = (np.log(np.e + 1) - 1 + np.log(2)) / 2
    assert clip.contrastive_loss(lopsided, torch.eye(2).bool()).item() == pytest.approx(rows)


@pytest.mark.parametrize(
    "capabilities, fast",
    [
        ({"avx2": True, "avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, False),
        ({"avx2": True, "avx512_f": True, "avx512_bf16": True, "amx_bf16": False}, True),
        ({"avx512_bf16": False, "amx_bf16": True}, True),
        ({"neon": True, "bf16": True}, True),
        ({}, False),
    ],
)
def test_bfloat16_is_used_where_the_processor_has_it_and_in_training_only(monkeypatch, capabilities, fast):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert clip.bfloat16_is_fast("cpu") is fast
    assert clip.bfloat16_is_fast(torch.device("cpu")) is fast
    assert not clip.bfloat16_is_fast("mps")
    for training in (True, False):
        network = SimpleNamespace(device=torch.device("cpu"), training=training)
        with clip.autocast(network):
            product = torch.ones(2, 2) @ torch.ones(2, 2)
        assert product.dtype == (torch.bfloat16 if fast and training else torch.float32)


def test_a_gpu_is_asked_for_bfloat16_of_its_own(monkeypatch):
    emulated = lambda including_emulation=True: including_emulation  # noqa: E731
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", emulated)
    assert not clip.bfloat16_is_fast("cuda:0")
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)  # as before torch 2.10
    assert not clip.bfloat16_is_fast("cpu")


def test_images_become_tensors_in_minus_one_to_one_and_come_back():
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, -1)
    x = to_tensor(images)
    assert x.shape == (1, 3, 16, 16) and x.min() == -1 and x.max() == 1
    assert np.array_equal(to_images(x), images)
    assert np.array_equal(to_images(torch.tensor([-9.0, 9.0]).view(1, 1, 1, 2)), [[[[0], [255]]]])


def test_shifts_move_whole_images_and_keep_them_apart():
    images = np.arange(6 * 8 * 8 * 3, dtype=np.int64).reshape(6, 8, 8, 3)
    moved = autoencoder.shifted(images, np.random.default_rng(0), most=2)
    for before, after in zip(images, moved, strict=True):
        row, column = np.argwhere(before[:, :, 0] == after[4, 4, 0])[0] - 4
        assert max(abs(row), abs(column)) <= 2
        assert np.array_equal(after[2:6, 2:6], before[2 + row : 6 + row, 2 + column : 6 + column])


def test_tokenizer_knows_the_pool_and_spells_the_rest(tmp_path, pool):
    tokenizer = train_tokenizer(pool[1], tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    again = CLIPTokenizer.from_pretrained(
        tmp_path
    )  # from vocab.json and merges.txt alone, as SD 1.x has them
    for text in ("a photo of a red square", "zygote, naïve ☂ 42!"):
        ids = tokenizer(text).input_ids
        assert ids == again(text).input_ids
        assert tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "") == text.replace(" ", "")
    assert tokenizer.tokenize("A PHOTO of a red square") == [
        *("a</w>", "photo</w>", "of</w>", "a</w>", "red</w>", "square</w>")
    ]
    ids = token_ids(tokenizer, ["", "red", "red " * 50])
    assert ids.shape == (3, 32) and tokenizer.model_max_length == 32
    end = tokenizer.eos_token_id
    assert end != 2  # with 2, transformers pools at the highest id instead of the end mark
    assert ids[0].tolist() == [tokenizer.bos_token_id] + [end] * 31
    assert ids[1, 2:].tolist() == [end] * 30 and ids[2, -1] == end


def test_scaled_latents_are_centred_with_unit_standard_deviation_and_images_unchanged(pool):
    images = pool[0][:32]
    torch.manual_seed(0)
    model = autoencoder.new_autoencoder(SIZES).eval()
    nn.init.constant_(model.quant_conv.bias, 3.0)
    x = to_tensor(images)
    with torch.no_grad():
        before = model.decode(model.encode(x).latent_dist.mode()).sample
        latents = torch.from_numpy(autoencoder.centre(model, images)).float()
        z = model.encode(x).latent_dist.mode()
        after = model.decode(z).sample
    torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(z * model.config.scaling_factor, latents, atol=2e-3, rtol=2e-3)
    assert latents.mean((0, 2, 3)).abs().max() < 1e-3
    assert latents.std().item() == pytest.approx(1, abs=1e-3)


def test_text_states_are_those_of_the_text_tower(trainings, pool, tmp_path):
    text, tokenizer, _ = unet.frozen_parts(pool[0], trainings[1])
    captions = ["", "a red square", "zygote", "a red square"]
    for _ in range(2):  # computed, then read
        states, row = unet.encode_captions(text, tokenizer, captions, tmp_path)
        with torch.no_grad():
            expected = text(token_ids(tokenizer, captions)).last_hidden_state
        assert len(states) == 3
        np.testing.assert_allclose(states[row].astype(np.float32), expected, atol=4e-3)


def test_the_image_tower_learns_under_a_locked_text_tower(exported, trainings):
    folder = trainings[1]
    before = CLIPModel.from_pretrained(folder / "frozen" / "clip").state_dict()
    after = CLIPModel.from_pretrained(exported / "pocket-clip").state_dict()
    moved = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"vision_model", "visual_projection", "text_projection", "logit_scale"}


def test_what_was_frozen_may_not_change(trainings, pool):
    _, folder = trainings
    path = folder / "frozen" / "text_encoder" / "model.safetensors"
    content = path.read_bytes()
    try:
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(ValueError, match="text_encoder/model.safetensors is not what was frozen"):
            unet.frozen_parts(pool[0], folder)
    finally:
        path.write_bytes(content)
    with pytest.raises(ValueError, match="holds a U-Net trained on other frozen parts"):
        unet.freeze(pool[0], folder)


@pytest.fixture(scope="module")
def exported(trainings, tmp_path_factory):
    models = tmp_path_factory.mktemp("models")
    export(trainings[1], models, sizes=SIZES)
    return models


def test_exported_folders_open_without_this_project(exported, trainings, pool):
    pipeline = StableDiffusionPipeline.from_pretrained(exported / "pocket-sd")
    pipeline.set_progress_bar_config(disable=True)
    out = pipeline("a red square", num_inference_steps=2, output_type="np")
    assert out.images.shape == (1, 32, 32, 3)
    assert pipeline.tokenizer.model_max_length == 32
    averages = read_tensors(checkpoints(trainings[1], "unet-second")[-1], "ema")
    assert all(torch.equal(weights, averages[name]) for name, weights in pipeline.unet.named_parameters())
    model = CLIPModel.from_pretrained(exported / "pocket-clip")
    processor = CLIPProcessor.from_pretrained(exported / "pocket-clip")
    batch = processor(text=["a red square", "zygote"], images=[pool[0][0]], return_tensors="pt", padding=True)
    torch.testing.assert_close(batch.pixel_values, to_tensor(pool[0][:1]), atol=1e-6, rtol=0)
    with torch.no_grad():
        assert model(**batch).logits_per_image.shape == (1, 2)
        ours = model.text_model(input_ids=batch.input_ids).last_hidden_state
        theirs = pipeline.text_encoder(batch.input_ids).last_hidden_state
    assert torch.equal(ours, theirs)
    for path in exported.rglob("*.json"):
        assert str(trainings[1]) not in path.read_text() and "_name_or_path" not in path.read_text()


def test_exported_autoencoder_gives_the_latents_the_unet_was_trained_on(exported, trainings, pool):
    vae = AutoencoderKL.from_pretrained(exported / "pocket-sd" / "vae").eval()
    with torch.no_grad():
        z = vae.encode(to_tensor(pool[0])).latent_dist.mode() * vae.config.scaling_factor
    latents, _ = autoencoder.cached_latents(pool[0], trainings[1])
    np.testing.assert_allclose(z, latents.astype(np.float32), atol=4e-3)


def test_what_is_restored_exports_the_same_folders_and_can_be_gone_on_from(exported, pool, tmp_path):
    restore(exported, tmp_path / "again")
    export(tmp_path / "again", tmp_path / "models", sizes=SIZES)
    for path in exported.rglob("*"):
        if path.is_file() and path.suffix in (".safetensors", ".json") and "quality" not in path.name:
            copy = tmp_path / "models" / path.relative_to(exported)
            assert copy.read_bytes() == path.read_bytes(), path.name
    with pytest.raises(FileExistsError, match="holds checkpoints"):
        restore(exported, tmp_path / "again")

    images, captions = pool
    plan = Plan("unet-third", samples=32, batch=16)
    again = Training(plan=plan, folder=tmp_path / "again", held_out=32, begin="unet-second", sizes=SIZES)
    unet.train_unet(images, captions, again)
    export(tmp_path / "again", tmp_path / "models", sizes=SIZES, unet_phases=(*unet.UNET_PHASES, "unet-third"))
    training = json.loads((tmp_path / "models" / "pocket-sd" / "training.json").read_text())
    assert list(training) == ["autoencoder", "unet", "unet-second", "unet-third"]
    ours, theirs = (
        UNet2DConditionModel.from_pretrained(models / "pocket-sd" / "unet").state_dict()
        for models in (tmp_path / "models", exported)
    )
    assert any(not torch.equal(ours[name], theirs[name]) for name in theirs)


def test_cards_tell_what_was_trained_on_and_measured(exported, tmp_path):
    text = (exported / "pocket-sd" / "README.md").read_text()
    assert "| unet | 64 | 4 | 16 |" in text and "Not measured yet" in text
    training = json.loads((exported / "pocket-sd" / "training.json").read_text())
    assert 0.1 < training["unet"]["memory"] / 2**30 < 64 and f"| {gigabytes(training['unet'])} |" in text
    assert gigabytes({}) == gigabytes({"memory": None}) == "–"
    long_ago = {name: meta | {"memory": None} for name, meta in training.items()}
    assert "memory" in text and "memory" not in card(CARDS["pocket-sd"], long_ago, {}, 1.0)
    measured = {"objects": {"value": 0.61, "low": 0.54, "high": 0.675, "n": 200, "about": "on objects"}}
    assert "| on objects | 0.61 | 0.54 to 0.675 | 200 |" in card(CARDS["pocket-sd"], training, measured, 1.0)
    (exported / "quality.json").write_text(json.dumps({"pocket-sd": measured}))
    write_cards(exported)
    assert "0.54 to 0.675" in (exported / "pocket-sd" / "README.md").read_text()
    assert (exported / "pocket-sd" / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_thinned_histories_keep_the_end_and_the_mean():
    history = [{"step": i, "loss": float(i)} | ({"psnr": i} if i % 3 == 0 else {}) for i in range(10)]
    rows = thinned(history, 2)
    assert rows == [{"step": 4, "loss": 2.0, "psnr": 3}, {"step": 9, "loss": 7.0, "psnr": 9}]
    assert thinned(history) == history and thinned([]) == []


def test_evaluation_measures_what_was_exported(exported, monkeypatch):
    import zsclib.pocket.evaluation as module

    monkeypatch.setattr(module, "CLIP_SETS", ("objects",))
    monkeypatch.setattr(module, "HARD_SETS", ())
    monkeypatch.setattr(module, "DIFFUSION_SETS", ("objects",))
    monkeypatch.setattr(module, "TIMESTEPS", 2)
    monkeypatch.setattr(
        module, "held_out_pairs", lambda model, part, n: list(stream(PoolConfig(seed=9), 0, n))
    )
    quality = module.evaluate(exported, limit=10)
    assert json.loads((exported / "quality.json").read_text()) == quality
    psnrs = {"psnr first crawl", "psnr second crawl", "psnr digits"}
    assert set(quality["pocket-sd"]) == psnrs | {"objects", "objects without lowest"}
    for row in (quality["pocket-clip"]["objects"], quality["pocket-sd"]["objects"]):
        assert 0 <= row["low"] <= row["value"] <= row["high"] <= 1 and row["n"] == 10


@pytest.mark.parametrize(
    "stage, first",
    [
        ("unet-second", "unet"),
        ("clip-image-second", "clip-image"),
        ("clip-image-third", "clip-image-second"),
    ],
)
def test_a_later_training_without_its_first_is_refused_before_the_pool_is_made(tmp_path, stage, first):
    from zsclib.pocket import __main__ as command

    places = ["--checkpoints", str(tmp_path / "checkpoints"), "--pool-cache", str(tmp_path / "pool")]
    with pytest.raises(FileNotFoundError, match=f"{stage}: no checkpoint of {first} in"):
        command.main([stage, *places])
    assert list(tmp_path.iterdir()) == []


def test_one_command_trains_exports_and_measures_all_models(tmp_path, monkeypatch):
    """What `make models` does, cut short: two steps each, the networks and stages as they are."""
    from zsclib.pocket import __main__ as command
    from zsclib.pocket import evaluation, scaling
    from zsclib.pretraining import dit

    monkeypatch.setattr(command, "HELD_OUT", 32)
    monkeypatch.setattr(dit, "TRAINED_ON", 64)
    monkeypatch.setattr(dit, "HELD_OUT", 16)
    for module in (evaluation, scaling):
        monkeypatch.setattr(module, "TIMESTEPS", 2)
        monkeypatch.setattr(module, "STEPS", 1)
    for name, value in {"LOWEST": 300, "CLIP_SETS": ("objects",), "HARD_SETS": (), "KINDS": ("objects",)}.items():
        monkeypatch.setattr(evaluation, name, value)
    overlap = {"value": 0, "about": "overlap"}
    monkeypatch.setattr(evaluation, "in_the_pool", lambda pool: overlap | {"n": len(pool)})
    monkeypatch.setattr(evaluation, "order_in_text_states", lambda generator, n: np.ones(n, bool))
    places = {"checkpoints": tmp_path / "checkpoints", "pool-cache": tmp_path / "pool"}
    places |= {"models": tmp_path / "models", "records": tmp_path / "records"}
    arguments = [part for name, path in places.items() for part in (f"--{name}", str(path))]
    arguments = ["all", *arguments, "--pool-size", "288", "--samples", "512", "--limit", "4"]
    command.main(arguments)

    models = places["models"]
    parts = {
        "pocket-clip": ["clip", "clip-image", "clip-image-second", "clip-image-third"],
        "pocket-sd": ["autoencoder", "unet", "unet-second"],
        "pocket-dit": ["autoencoder", "dit"],
        "pocket-judge": ["judge"],
    }
    for name, trained in parts.items():
        training = json.loads((models / name / "training.json").read_text())
        assert list(training) == trained
        for part, meta in training.items():
            seed = {"judge": 1}.get(part, int(part.endswith(("-second", "-third"))))
            assert "pool" not in meta["facts"] or meta["facts"]["pool"]["seed"] == seed, part
            assert meta["step"] == meta["plan"]["samples"] // meta["plan"]["batch"], part
        assert all(f"| {part} |" in (models / name / "README.md").read_text() for part in trained)
    measured = json.loads((models / "quality.json").read_text())
    assert set(measured) == {*parts, "pool"} and measured["pool"]["overlap"]["n"] == 2 * 288
    rows = json.loads((places["records"] / "scaling.json").read_text())
    assert [(row["training"], row["samples"]) for row in rows] == [("unet", 512), ("unet-second", 1024)]
    before = {path: path.read_bytes() for path in models.rglob("*.safetensors")}
    command.main(arguments)  # as after a kill
    assert {path: path.read_bytes() for path in models.rglob("*.safetensors")} == before
