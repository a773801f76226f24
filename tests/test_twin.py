"""The class-conditional DiT: repeatable, trained on images and their mirror images only, opened by anyone."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DiTPipeline
from torch import nn

from zsclib import datasets
from zsclib.images.image_set import ImageSet, content_hash
from zsclib.models.folders import find_folder
from zsclib.models.generator import open_generator
from zsclib.papers.diffusion_classifier import classify
from zsclib.papers.diffusion_classifier.error_matrix import exhaustive
from zsclib.pocket.card import write_cards
from zsclib.pocket.export import export_dit
from zsclib.pretraining import dit
from zsclib.pretraining.autoencoder import new_autoencoder
from zsclib.pretraining.checkpoint import checkpoints, read_meta, read_tensors
from zsclib.pretraining.loop import load_averaged
from zsclib.pretraining.plan import Plan, Training
from zsclib.pretraining.sizes import Sizes
from zsclib.world.targets import OBJECTS

SIZE = {"width": 32, "depth": 2, "patch": 4}
HELD_OUT = 10
PLAN = Plan("dit", samples=32, batch=16, warmup=2, log_every=1, validate_every=2, save_minutes=0)
FACTS = {"set": {"name": "objects", "n": 60}}
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def images() -> ImageSet:
    noise = np.random.default_rng(0).integers(0, 256, (60, 32, 32, 3), dtype=np.uint8)
    return ImageSet(noise, np.arange(60) % 10, OBJECTS)


@pytest.fixture(scope="module")
def frozen(tmp_path_factory):
    """A folder with a frozen autoencoder, as a U-Net's training leaves it."""
    folder = tmp_path_factory.mktemp("checkpoints")
    torch.manual_seed(0)
    vae = new_autoencoder(Sizes(autoencoder_channels=(16, 16, 16)))
    vae.register_to_config(scaling_factor=0.5)
    vae.save_pretrained(folder / "frozen" / "vae")
    meta = {"step": 2, "seconds": 1.0, "device": "1 CPU core", "plan": {"batch": 8}, "facts": {}}
    meta |= {"history": [{"step": 2, "samples": 16, "loss": 0.5, "psnr": 20.0}]}
    (folder / "frozen" / "meta.json").write_text(json.dumps({"autoencoder": meta}))
    return folder


@pytest.fixture(scope="module")
def trained(frozen, images):
    """The same folder after two steps of the DiT."""
    history = train(images, frozen)
    assert len(history) == 2
    return frozen


def train(images: ImageSet, folder, plan: Plan = PLAN) -> list[dict]:
    return dit.train_dit(images, Training(plan=plan, folder=folder, held_out=HELD_OUT, facts=FACTS), SIZE)


@pytest.fixture
def beside(trained, tmp_path):
    """A new folder with the same autoencoder and no checkpoint, as on another machine."""
    (tmp_path / "frozen").symlink_to(trained / "frozen")
    return tmp_path


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    models = tmp_path_factory.mktemp("models")
    export_dit(trained, models, SIZE)
    write_cards(models)
    return models / "pocket-dit"


def test_two_steps_from_the_same_seed_give_the_same_losses(trained, beside, images):
    whole = read_meta(checkpoints(trained, "dit")[-1])["history"]
    torch.manual_seed(1)  # whatever the global state is
    for _ in range(2):  # stopped after every step, and gone on with
        history = train(images, beside, replace(PLAN, minutes=0))
    keys = ("step", "samples", "loss", "rate", "held_out", "top1")
    assert [[row.get(key) for key in keys] for row in history[-1:]] == [[whole[-1][key] for key in keys]]
    assert [row["loss"] for row in history] == [row["loss"] for row in whole]
    ours, theirs = (read_tensors(checkpoints(folder, "dit")[-1], "ema") for folder in (beside, trained))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_another_seed_gives_other_losses(trained, beside, images):
    first = train(images, beside, replace(PLAN, seed=1, minutes=0))[0]["loss"]
    assert first != read_meta(checkpoints(trained, "dit")[-1])["history"][0]["loss"]


@pytest.mark.parametrize("damage", ["cut short", "altered"])
def test_a_damaged_checkpoint_is_refused_by_its_name(beside, images, damage):
    train(images, beside, replace(PLAN, minutes=0))
    (path,) = checkpoints(beside, "dit")
    content = bytearray(path.read_bytes())
    content[-1] ^= damage == "altered"
    path.write_bytes(content[:-1] if damage == "cut short" else content)
    with pytest.raises(ValueError, match=r"dit-0000001\.safetensors was cut short or altered"):
        train(images, beside)


def test_a_checkpoint_of_other_images_or_another_autoencoder_is_refused(trained, images, tmp_path):
    one_changed = images.images.copy()
    one_changed[0, 0, 0, 0] ^= 1
    with pytest.raises(ValueError, match="belongs to another run: pictures differ"):
        train(replace(images, images=one_changed), trained)
    with pytest.raises(FileNotFoundError, match="then run the stage `freeze`"):
        train(images, tmp_path)


def test_latents_are_those_of_the_images_and_of_their_mirror_images(trained, images):
    vae = AutoencoderKL.from_pretrained(trained / "frozen" / "vae").eval()
    for _ in range(2):  # computed by the training, then read
        latents, _ = dit.mirrored_latents(images.images, trained)
    assert latents.shape == (60, 2, 4, 8, 8) and latents.dtype == np.float16
    for side, version in enumerate((images.images, images.images[:, :, ::-1])):
        x = torch.from_numpy(version.copy()).permute(0, 3, 1, 2) / 127.5 - 1
        with torch.no_grad():
            z = vae.encode(x).latent_dist.mode() * 0.5
        np.testing.assert_allclose(latents[:, side], z, atol=2e-3, rtol=2e-3)


class Recorder(nn.Module):
    """Stands in for the network and notes its inputs."""

    def __init__(self, classes: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.inputs: list[tuple[torch.Tensor, torch.Tensor]] = []

    def forward(self, z_t, t, y):
        self.inputs.append((z_t, y))
        return SimpleNamespace(sample=z_t * self.weight)


def test_training_shows_each_image_as_it_is_or_mirrored_and_nothing_else(images, monkeypatch, tmp_path):
    """With noise switched off, what reaches the network is exactly what was encoded, under its own label."""
    codes = np.arange(120, dtype=np.float16).reshape(60, 2, 1, 1, 1) * np.ones((4, 8, 8), np.float16)
    recorder = Recorder(10)
    monkeypatch.setattr(dit, "mirrored_latents", lambda *_: (codes, {}))
    monkeypatch.setattr(dit, "new_dit", lambda classes, **_: recorder)
    monkeypatch.setattr(dit, "new_scheduler", lambda: SimpleNamespace(alphas_cumprod=torch.ones(1000)))
    monkeypatch.setattr(dit, "class_scores", lambda *_: np.zeros((HELD_OUT, 10)))
    train(images, tmp_path, replace(PLAN, samples=1600, log_every=1000))
    trained = [batch for batch in recorder.inputs if len(batch[0]) == PLAN.batch]
    z, y = (torch.cat(parts) for parts in zip(*trained, strict=True))
    assert len(z) == 1600 and torch.equal(z, z[:, :1, :1, :1].expand_as(z))
    code = z[:, 0, 0, 0].long()
    image, side = code // 2, code % 2
    assert torch.equal(torch.bincount(image, minlength=60), torch.tensor([32] * 50 + [0] * 10))
    assert 0.45 < side.float().mean() < 0.55
    own, null = y == image % 10, y == 10
    assert (own | null).all() and 0.07 < null.float().mean() < 0.13
    held_out, labels = recorder.inputs[-1]  # the last validation
    assert torch.equal(held_out[:, 0, 0, 0], torch.arange(100, 120, 2.0)) and not (labels == 10).any()


def test_an_untrained_network_answers_everything_alike_and_drops_no_label_by_itself():
    torch.manual_seed(0)
    model = dit.new_dit(10, **SIZE).train()
    z, t, y = torch.randn(64, 4, 8, 8), torch.full((64,), 500), torch.arange(64) % 11  # 10: the null class
    assert (model(z, t, y).sample == model(z[:1], t[:1], y[:1]).sample).all()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    before = torch.random.get_rng_state()
    training, evaluating = model(z, t, y).sample, model.eval()(z, t, y).sample
    assert torch.equal(training, evaluating)
    assert torch.equal(before, torch.random.get_rng_state())
    assert not torch.allclose(model(z[:1], t[:1], y[:1]).sample, model(z[:1], t[:1], y[10:11]).sample)


def test_scores_are_minus_the_mean_squared_errors_whatever_the_batch():
    """A network that is off by y for class y, on latents of zeros: its error is y²."""
    scheduler = dit.new_scheduler()

    def off_by_class(z_t, t, y):
        sigma = (1 - scheduler.alphas_cumprod[t]).sqrt()[:, None, None, None]
        return SimpleNamespace(sample=z_t / sigma + y[:, None, None, None])

    off_by_class.config = SimpleNamespace(num_embeds_ada_norm=3)
    z = torch.zeros(5, 4, 8, 8)
    for batch in (7, 512):
        scores = dit.class_scores(off_by_class, z, K=4, batch=batch)
        np.testing.assert_allclose(scores, np.tile([0, -1, -4], (5, 1)), atol=1e-5)


def test_the_exported_folder_opens_without_this_project(exported, trained):
    pipeline = DiTPipeline.from_pretrained(exported)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.labels == {name: i for i, name in enumerate(OBJECTS)}
    ids = pipeline.get_label_ids(["boat", "star"])
    assert pipeline(ids, guidance_scale=1, num_inference_steps=2, output_type="np").images.shape == (
        2,
        32,
        32,
        3,
    )
    averages = read_tensors(checkpoints(trained, "dit")[-1], "ema")
    for name, weights in pipeline.transformer.named_parameters():
        assert torch.equal(weights.half(), averages[name].half())
    ours, theirs = (
        folder / "vae/diffusion_pytorch_model.safetensors" for folder in (exported, trained / "frozen")
    )
    assert ours.read_bytes() == theirs.read_bytes()
    for path in exported.rglob("*.json"):
        assert str(trained) not in path.read_text() and "_name_or_path" not in path.read_text()


def test_the_exported_folder_answers_as_the_trained_network(exported, trained, images):
    generator, model = open_generator(exported), dit.new_dit(10, **SIZE)
    load_averaged(model, trained, "dit")
    z, t = generator.encode_images(images.images[:3]), torch.tensor([5, 500, 950])
    latents, _ = dit.mirrored_latents(images.images, trained)
    np.testing.assert_allclose(z, latents[:3, 0], atol=2e-3, rtol=2e-3)
    expected = model.eval()(z, t, torch.tensor([0, 9, 10])).sample
    predicted = generator.predict_noise(z, t, generator.encode_prompts(["star", "umbrella", ""]))
    torch.testing.assert_close(predicted, expected, atol=2e-3, rtol=2e-2)
    assert classify(generator, images.images[:3], list(OBJECTS), exhaustive(2)).scores.shape == (3, 10)


def test_a_changed_autoencoder_is_not_exported(trained, beside, images, tmp_path):
    train(images, beside, replace(PLAN, minutes=0))
    (beside / "frozen").unlink()
    vae = new_autoencoder(Sizes(autoencoder_channels=(16, 16, 16)))
    vae.save_pretrained(beside / "frozen" / "vae")
    (beside / "frozen" / "meta.json").write_text((trained / "frozen" / "meta.json").read_text())
    with pytest.raises(ValueError, match=r"dit-0000001\.safetensors was trained on another autoencoder"):
        export_dit(beside, tmp_path / "models", SIZE)
    assert not (tmp_path / "models").exists()


def test_the_card_tells_what_it_was_trained_on(exported):
    text = (exported / "README.md").read_text()
    assert "| dit | 32 | 2 | 16 |" in text and '"name": "objects"' in text and "DiTPipeline" in text


def test_the_training_split_shares_no_image_with_the_others():
    images = datasets.load("objects", "train", n=500).images
    both = set(content_hash(images)) | set(content_hash(np.ascontiguousarray(images[:, :, ::-1])))
    assert len(both) == 1000
    for split in ("validation", "test"):
        assert both.isdisjoint(content_hash(datasets.load("objects", split, n=200).images))


def test_the_shipped_dit_knows_its_classes_and_shares_the_autoencoder():
    models = find_folder("data/models/pocket-dit", "model_index.json").parent
    files = [
        models / name / "vae/diffusion_pytorch_model.safetensors" for name in ("pocket-dit", "pocket-sd")
    ]
    assert files[0].read_bytes() == files[1].read_bytes()
    images = datasets.load("objects", "validation", n=20)
    generator = open_generator(models / "pocket-dit")
    correct = classify(generator, images.images, list(OBJECTS), exhaustive(4)).prediction == images.labels
    assert correct.mean() >= 0.7  # 0.99 of 150 at 8 timesteps
