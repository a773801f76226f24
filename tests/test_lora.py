"""Adapters: DataDream's layers, begun as the base model, saved as diffusers reads them, swapped and not reloaded."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

from tests import tiny
from tests.test_finetune import PROMPTS, changed, shots, weights
from zsclib.cache import Cache
from zsclib.models import denoising
from zsclib.models.finetune import Tuning
from zsclib.models.generator import open_generator
from zsclib.models.lora import (
    NETWORK_TARGETS,
    TEXT_TARGETS,
    Lora,
    _adapted,
    job_adapter,
    load_adapter,
    save_adapter,
    tune_lora,
    tune_lora_by_class,
)
from zsclib.sampling import sample
from zsclib.workers import Execution

SMALL = Lora(rank=2, alpha=4)
SHORT = Tuning(samples=32, batch=8, learning_rate=1e-2, check_every=16)


@pytest.fixture(scope="module", autouse=True)
def few_draws():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(denoising, "HELD_OUT_DRAWS", 32)
        yield


@pytest.fixture(scope="module")
def sd(folders):
    """Not to be changed."""
    return open_generator(folders["stable_diffusion_1"])


@pytest.fixture(scope="module")
def adapted(sd):
    return tune_lora(sd, shots(), PROMPTS, SHORT, SMALL, held_out=shots(seed=1))


@pytest.fixture(scope="module")
def file(adapted, tmp_path_factory):
    return save_adapter(adapted, tmp_path_factory.mktemp("adapter") / "cats")


def images_of(generator, prompts=PROMPTS):
    return sample(generator, prompts, [1, 2], 2.0, 3)


def noise_of(generator):
    z = torch.randn(2, *generator.latent_shape, generator=torch.Generator().manual_seed(0))
    return generator.predict_noise(z, 500, generator.encode_prompts(PROMPTS))


def test_the_adapter_lies_where_datadream_has_it(sd):
    tuned, layers = _adapted(sd, SMALL)
    blocks = [name.rpartition(".")[0] for name, _ in sd.unet.named_modules() if name.endswith(".to_q")]
    expected = {f"unet.{block}.{end}" for block in blocks for end in ("to_q", "to_k", "to_v", "to_out.0")}
    texts = [name.rpartition(".")[0] for name, _ in sd.text_encoder.named_modules() if name.endswith(".q_proj")]
    expected |= {f"text_encoder.{block}.{end}" for block in texts for end in ("q_proj", "k_proj", "v_proj", "out_proj")}
    assert {name.rpartition(".lora_")[0] for name in layers} == expected and len(layers) == 2 * len(expected)
    assert all(weight.shape[0 if "lora_A" in name else 1] == 2 for name, weight in layers.items())
    assert not any(weight.requires_grad for weight in layers.values())
    only_network = _adapted(sd, Lora(rank=2, text_encoder=False))
    assert {name.partition(".")[0] for name in only_network[1]} == {"unet"}
    assert only_network[0].text_encoder is sd.text_encoder
    module = tuned.unet.get_submodule(f"{blocks[0]}.to_q")
    assert module.scaling == {"default": 2.0}


def test_an_untuned_adapter_is_the_base_model(generator):
    for seed in (0, 1):
        tuned, layers = _adapted(generator, SMALL, seed)
        assert torch.equal(noise_of(tuned), noise_of(generator))
        assert all((weight == 0).all() == ("lora_B" in name) for name, weight in layers.items())
    assert all(torch.equal(weight, layers[name]) for name, weight in _adapted(generator, SMALL, 1)[1].items())
    other = _adapted(generator, SMALL, 0)[1]
    assert not any(torch.equal(weight, layers[name]) for name, weight in other.items() if "lora_A" in name)


def test_the_first_weights_are_gaussian_and_leave_the_global_randomness_alone(sd):
    state = torch.get_rng_state()
    layers = _adapted(sd, Lora(rank=4))[1]
    assert torch.equal(torch.get_rng_state(), state)
    values = torch.cat([weight.flatten() for name, weight in layers.items() if "lora_A" in name])
    assert abs(values.mean()) < 0.02 and values.std() == pytest.approx(1 / 4, rel=0.1)  # as peft's "gaussian"


def test_the_loss_falls_and_only_the_adapter_changes(generator):
    before, fingerprint = weights(generator), generator.fingerprint()
    tuned = tune_lora(generator, shots(), PROMPTS, SHORT, SMALL, held_out=shots(seed=1))
    assert tuned.history.held_out.iloc[-1] < 0.98 * tuned.history.held_out.iloc[0]
    names = changed(before, weights(tuned))
    new = {name for name in names if ".lora_" in name}
    assert {name.replace(".base_layer", "") for name in weights(tuned) if name not in new} == set(before)
    after = {name.replace(".base_layer", ""): value for name, value in weights(tuned).items()}
    assert all(torch.equal(after[name], value) for name, value in before.items())
    parts = {name.partition(".")[0] for name in new}
    of_sd3 = {"transformer", "text_encoder", "text_encoder_2"}
    assert parts == ({"unet", "text_encoder"} if "unet" in generator.parts else of_sd3)
    assert not changed(before, weights(generator)) and generator.fingerprint() == fingerprint != tuned.fingerprint()
    again = pickle.loads(pickle.dumps(tuned))
    assert again.fingerprint() == tuned.fingerprint()
    assert torch.equal(noise_of(again), noise_of(tuned)) and not torch.equal(noise_of(tuned), noise_of(generator))
    assert not any(parameter.requires_grad for part in tuned._modules() for parameter in part.parameters())


def test_a_loaded_adapter_is_the_tuned_one_bit_for_bit(sd, adapted, file):
    assert file.name == "pytorch_lora_weights.safetensors"
    for place in (file, file.parent, str(file)):
        again = load_adapter(sd, place)
        assert again.fingerprint() == adapted.fingerprint()
        assert torch.equal(noise_of(again), noise_of(adapted))
    assert np.array_equal(images_of(again), images_of(adapted))
    assert again.parts["adapter"].lora == SMALL and again.parts["adapter"].prompts == tuple(PROMPTS)


@pytest.mark.parametrize("folder, lora", [
    ("stable_diffusion_1", SMALL), ("stable_diffusion_2", Lora(text_encoder=False)),
])  # fmt: skip
def test_diffusers_opens_the_file_and_generates_the_same_image(folders, folder, lora, tmp_path):
    base = open_generator(folders[folder])
    tuned = tune_lora(base, shots(), PROMPTS, SHORT, lora)
    path = save_adapter(tuned, tmp_path / "one.safetensors")
    pipeline = base.pipeline().__class__.from_pretrained(folders[folder], safety_checker=None, feature_extractor=None)
    assert isinstance(pipeline, StableDiffusionPipeline)
    pipeline.load_lora_weights(path.parent, weight_name=path.name)
    pipeline.set_progress_bar_config(disable=True)
    settings = {"num_inference_steps": 3, "guidance_scale": 2.0, "height": 16, "width": 16, "output_type": "np"}
    z = torch.randn(1, *base.latent_shape, generator=torch.Generator().manual_seed(3))
    pipeline.scheduler = type(pipeline.scheduler).from_config(base.scheduler.config)
    theirs = pipeline(PROMPTS[0], latents=z.clone(), **settings).images
    ours, plain = (one.pipeline()(PROMPTS[0], latents=z.clone(), **settings).images for one in (tuned, base))
    assert np.array_equal(theirs, ours) and not np.allclose(theirs, plain)


def test_the_file_says_what_it_is(sd, file):
    with safe_open(file, framework="pt") as opened:
        about = json.loads(opened.metadata()["zsclib"])
    assert about == {"rank": 2, "alpha": 4, "text_encoder": True, "base": sd.fingerprint(), "prompts": PROMPTS}


def test_another_base_model_and_broken_files_are_refused(sd, folders, file, tmp_path):
    with pytest.raises(ValueError, match=rf"{file.name} is for another base model: .*{sd.fingerprint()}"):
        load_adapter(open_generator(folders["stable_diffusion_2"]), file)
    cut = tmp_path / "cut.safetensors"
    for size in (10, 300, file.stat().st_size - 1):
        cut.write_bytes(file.read_bytes()[:size])
        with pytest.raises(ValueError, match="cut.safetensors is no whole adapter"):
            load_adapter(sd, cut)
    foreign = tmp_path / "foreign.safetensors"
    save_file({"x": torch.zeros(1)}, foreign)
    with pytest.raises(ValueError, match="foreign.safetensors does not say which base model"):
        load_adapter(sd, foreign)
    with safe_open(file, framework="pt") as opened:
        tensors, metadata = {name: opened.get_tensor(name) for name in list(opened.keys())[1:]}, opened.metadata()
    save_file(tensors, foreign, metadata)
    with pytest.raises(ValueError, match="foreign.safetensors: the adapter does not fit .* layers: 1 differ"):
        load_adapter(sd, foreign)
    (missing,) = load_adapter(sd, file).parts["adapter"].weights.keys() - tensors.keys()
    tensors[missing] = torch.zeros(1)
    save_file(tensors, foreign, metadata)
    with pytest.raises(ValueError, match="foreign.safetensors: the adapter does not fit the network: .* got \\(1,\\)"):
        load_adapter(sd, foreign)
    with pytest.raises(ValueError, match=r"tuned on a base model in float32, and this one is in torch.bfloat16"):
        load_adapter(open_generator(folders["stable_diffusion_1"], dtype=torch.bfloat16), file)
    with pytest.raises(FileNotFoundError, match="no adapter at"):
        load_adapter(sd, tmp_path / "nothing")
    with pytest.raises(ValueError, match="has no adapter"):
        save_adapter(sd, tmp_path)


def test_adapters_stand_side_by_side_on_one_base(sd, adapted, tmp_path):
    execution = Execution(cache=Cache(tmp_path))
    by_class = tune_lora_by_class(sd, shots(), PROMPTS, SHORT, SMALL, execution=execution)
    cat, dog = by_class["a cat"], by_class["a dog"]
    assert cat.parts["adapter"].prompts == (PROMPTS[0],) and cat.history.name.unique().tolist() == ["a cat"]
    first = images_of(cat)
    assert not np.array_equal(images_of(dog), first) and np.array_equal(images_of(cat), first)
    base = sd.unet.conv_in.weight
    assert cat.unet.conv_in.weight is base and dog.unet.conv_in.weight is base
    assert cat.text_encoder.get_input_embeddings().weight is sd.text_encoder.get_input_embeddings().weight
    with pytest.MonkeyPatch.context() as patch:  # finished classes are not tuned again
        patch.setattr("zsclib.models.lora.finetune", None)
        again = tune_lora_by_class(sd, shots(), PROMPTS, SHORT, SMALL, execution=execution)
    assert [one.fingerprint() for one in again.values()] == [cat.fingerprint(), dog.fingerprint()]


def test_neither_parts_of_a_batch_nor_a_stop_change_an_adapter(sd, tmp_path, monkeypatch):
    images = shots()
    arguments = ((images.images, images.labels), None, PROMPTS, SHORT, SMALL)
    whole, path = job_adapter(sd, None, *arguments), tmp_path / "state.partial"
    with monkeypatch.context() as patch:
        patch.setattr(denoising, "denoising_errors", stopping_after(24, denoising.denoising_errors))
        with pytest.raises(KeyboardInterrupt):
            job_adapter(sd, path, *arguments)
    assert path.exists()
    rest = job_adapter(sd, path, *arguments)
    assert all(np.array_equal(rest[name], value, equal_nan=True) for name, value in whole.items())


def stopping_after(samples, errors):
    count = 0

    def counted(generator, z, *others):
        nonlocal count
        count += len(z)
        if count > samples:
            raise KeyboardInterrupt
        return errors(generator, z, *others)

    return counted


def test_what_cannot_be_adapted_is_refused(adapted, tmp_path):
    with pytest.raises(ValueError, match="has an adapter already"):
        tune_lora(adapted, shots(), PROMPTS, SHORT, SMALL)
    dit = open_generator(tiny.dit(tmp_path / "dit"))
    with pytest.raises(ValueError, match="class-conditional: use tune_unet"):
        tune_lora(dit, shots(), ["cat", "dog"], SHORT, SMALL)
    for wrong in ({"rank": 0}, {"alpha": 0}):
        with pytest.raises(ValueError, match="rank of at least 1"):
            Lora(**wrong)


def test_an_adapter_of_stable_diffusion_2_has_the_published_layers_weights():
    """3,319,808 and 3,014,656 numbers at rank 16: what DataDream's layers come to in Stable Diffusion 2.1."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=64, cross_attention_dim=1024, attention_head_dim=[5, 10, 20, 20], use_linear_projection=True
        )
        text = CLIPTextModel(CLIPTextConfig(
            hidden_size=1024, intermediate_size=4096, num_hidden_layers=23, num_attention_heads=16, projection_dim=512
        ))  # fmt: skip
    counts = []
    for network, targets in ((unet, NETWORK_TARGETS), (text, TEXT_TARGETS)):
        layers = [
            module for name, module in network.named_modules()
            if isinstance(module, torch.nn.Linear) and name.endswith(tuple(f".{target}" for target in targets))
        ]  # fmt: skip
        counts.append(sum(16 * (layer.in_features + layer.out_features) for layer in layers))
    assert counts == [3_319_808, 3_014_656]
