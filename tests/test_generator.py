"""Opening Stable-Diffusion-like folders, and what their predictions mean."""

from __future__ import annotations

import json
import pickle
import shutil

import numpy as np
import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file

from tests import tiny
from zsclib.models.conditioning import Condition
from zsclib.models.generator import open_generator
from zsclib.papers.diffusion_classifier import classify
from zsclib.papers.diffusion_classifier.error_matrix import exhaustive
from zsclib.sampling import sample
from zsclib.workers import Execution

PROMPTS = ["a photo of a cat", "a photo of a dog", "7"]


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def dit(tmp_path_factory):
    return open_generator(tiny.dit(tmp_path_factory.mktemp("dit") / "folder"))


@pytest.fixture
def broken(folders, tmp_path):
    """A copy of a folder, free to be broken."""
    return shutil.copytree(folders["stable_diffusion_1"], tmp_path / "broken")


def edit(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


class Oracle(torch.nn.Module):
    """A network that knows the clean latents and the noise, and returns them as its kind of prediction."""

    def __init__(self, generator, z, eps):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.kind, self.z, self.eps = generator.prediction, z, eps
        self.alphas_cumprod, self.timestep = generator.alphas_cumprod, None

    def forward(self, z_t, timestep, encoder_hidden_states, return_dict, **more):
        self.timestep = timestep
        if self.kind == "epsilon":
            return (self.eps,)
        if self.kind == "flow":
            return (self.eps - self.z,)
        alpha = self.alphas_cumprod[timestep].view(-1, 1, 1, 1)
        return (alpha.sqrt() * self.eps - (1 - alpha).sqrt() * self.z,)


def test_layouts_are_read_from_configuration(folders):
    one, two, three = (open_generator(folders[f"stable_diffusion_{i}"]) for i in (1, 2, 3))
    assert [g.prediction for g in (one, two, three)] == ["epsilon", "v", "flow"]
    assert [g.latent_shape for g in (one, two, three)] == [(4, 8, 8), (4, 8, 8), (8, 8, 8)]
    assert [g.image_size for g in (one, two, three)] == [16, 16, 16]
    assert [g.T for g in (one, two, three)] == [1000] * 3
    assert open_generator(folders["stable_diffusion_3"], image_size=8).latent_shape == (8, 4, 4)
    assert not one.unet.training
    assert not any(parameter.requires_grad for parameter in one.unet.parameters())


def test_schedule_is_computed_in_full_precision(folders):
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2  # scaled linear, in float64
    alphas_cumprod = np.cumprod(1 - betas)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        generator = open_generator(folders["stable_diffusion_1"], dtype=dtype)
        assert generator.alphas_cumprod.dtype == torch.float32
        a, s = generator.signal_and_noise(torch.arange(1000))
        assert a.shape == s.shape == (1000, 1, 1, 1)
        assert a.dtype == s.dtype == torch.float32
        np.testing.assert_allclose(a.flatten(), np.sqrt(alphas_cumprod), rtol=1e-4)
        np.testing.assert_allclose(
            s.flatten(), np.sqrt(1 - alphas_cumprod), rtol=2e-4
        )  # float16: 7 % off at t = 0


def test_flow_goes_straight_from_image_to_noise(folders):
    a, s = open_generator(folders["stable_diffusion_3"]).signal_and_noise(torch.arange(1000))
    torch.testing.assert_close(a + s, torch.ones_like(a))
    assert s[0].item() == pytest.approx(0.001)
    assert s[-1].item() == 1.0


def test_every_kind_of_prediction_becomes_noise(folders):
    """With a network that is right, the noise comes out, at every t, whatever the network predicts."""
    random = torch.Generator().manual_seed(0)
    t = torch.tensor([0, 1, 250, 500, 750, 999])
    for name in ("stable_diffusion_1", "stable_diffusion_2", "stable_diffusion_3"):
        generator = open_generator(folders[name])
        z, eps = (torch.randn(len(t), *generator.latent_shape, generator=random) for _ in range(2))
        generator.unet = Oracle(generator, z, eps)
        a, s = generator.signal_and_noise(t)
        eps_hat = generator.predict_noise(a * z + s * eps, t, Condition(torch.zeros(len(t), 1, 1)))
        torch.testing.assert_close(eps_hat, eps, rtol=0, atol=1e-5)
        torch.testing.assert_close(
            generator.unet.timestep, t if generator.prediction != "flow" else t.float() + 1
        )


def test_v_is_what_the_scheduler_calls_velocity(folders):
    """Our z, eps relation is the one diffusers trains v-prediction with."""
    generator = open_generator(folders["stable_diffusion_2"])
    z, eps = torch.randn(2, 3, *generator.latent_shape, generator=torch.Generator().manual_seed(1))
    t = torch.tensor([3, 400, 998])
    a, s = generator.signal_and_noise(t)
    torch.testing.assert_close(a * z + s * eps, generator.scheduler.add_noise(z, eps, t))
    torch.testing.assert_close(a * eps - s * z, generator.scheduler.get_velocity(z, eps, t))


def test_latents_are_the_posterior_mean_shifted_and_scaled(generator, images):
    x = torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        mean = generator.vae.encode(x).latent_dist.mean
    shift, scale = {"flow": (0.0609, 1.5305), "v": (0, 0.2), "epsilon": (0, 0.18215)}[generator.prediction]
    z = generator.encode_images(images)
    torch.testing.assert_close(z, (mean - shift) * scale)
    with torch.no_grad():
        back = ((generator.vae.decode(mean).sample + 1) * 127.5).clamp(0, 255).round()
    decoded = generator.decode(z)
    assert decoded.dtype == np.uint8
    assert np.abs(decoded.astype(int) - back.permute(0, 2, 3, 1).numpy()).max() <= 1


def test_prompts_are_encoded_as_the_pipeline_does(generator):
    condition = generator.encode_prompts(PROMPTS)
    again = generator.encode_prompts(PROMPTS[::-1])
    torch.testing.assert_close(condition.embeddings, again.embeddings.flip(0))
    assert (condition.pooled is not None) == (generator.prediction == "flow")
    assert not torch.equal(condition.embeddings[0], condition.embeddings[1])
    row = condition.take(torch.tensor([2, 2, 0]))
    assert torch.equal(row.embeddings[0], row.embeddings[1])
    assert torch.equal(row.embeddings[2], condition.embeddings[0])
    if (
        generator.prediction != "flow"
    ):  # Stable Diffusion 1 and 2: the last hidden state of all tokens, padding too
        tokens = generator.tokenizer(
            PROMPTS, padding="max_length", max_length=tiny.LENGTH, return_tensors="pt"
        )
        with torch.no_grad():
            hidden = generator.text_encoder(tokens.input_ids).last_hidden_state
        torch.testing.assert_close(condition.embeddings, hidden)


def test_the_pipeline_samples_with_the_same_parts(generator):
    pipeline = generator.pipeline()
    noise = torch.randn(1, *generator.latent_shape, generator=torch.Generator().manual_seed(0))
    sampled = pipeline(
        "a cat", num_inference_steps=2, latents=noise, height=16, width=16, output_type="latent"
    )[0]
    assert generator.decode(sampled).shape == (1, 16, 16, 3)
    assert pipeline.vae is generator.vae


def test_prediction_does_not_depend_on_the_batch(generator, images):
    z, t = generator.encode_images(images), torch.tensor([0, 10, 500, 900, 999])
    condition = generator.encode_prompts(PROMPTS).take(torch.tensor([0, 1, 2, 0, 1]))
    whole = generator.predict_noise(z, t, condition)
    assert whole.dtype == torch.float32
    one_by_one = [
        generator.predict_noise(z[[i]], int(t[i]), condition.take(torch.tensor([i]))) for i in range(len(t))
    ]
    torch.testing.assert_close(whole, torch.cat(one_by_one), rtol=1e-4, atol=1e-5)


def test_prompts_may_share_latents_and_timesteps(generator, images):
    z, t = generator.encode_images(images), torch.tensor([0, 10, 500, 900, 999])
    copies = torch.tensor([3, 0, 0, 1, 3, 4, 4, 4])  # in any order; no prompt meets latent 2
    condition = generator.encode_prompts(PROMPTS).take(torch.tensor([0, 1, 2, 2, 1, 0, 1, 2]))
    apart = generator.predict_noise(z[copies], t[copies], condition)
    torch.testing.assert_close(
        generator.predict_noise(z, t, condition, copies=copies), apart, rtol=1e-4, atol=1e-5
    )
    with pytest.raises(ValueError, match="7 latents but 8 prompts"):
        generator.predict_noise(z, t, condition, copies=copies[1:])


def test_bfloat16_is_close_and_returns_float32(folders, images):
    z, t = None, torch.tensor([5, 100, 500, 900, 999])
    results = []
    for dtype in (torch.float32, torch.bfloat16):
        generator = open_generator(folders["stable_diffusion_1"], dtype=dtype)
        assert {parameter.dtype for parameter in generator.unet.parameters()} == {torch.float32}
        z = generator.encode_images(images)
        condition = generator.encode_prompts(["a cat"]).take(torch.zeros(5, dtype=torch.int64))
        results.append(generator.predict_noise(z, t, condition))
    assert results[1].dtype == torch.float32
    assert not torch.equal(*results)
    torch.testing.assert_close(*results, rtol=0, atol=0.05)


def test_gradients_flow_only_where_the_caller_requires_them(generator, images):
    z, condition = generator.encode_images(images), generator.encode_prompts(["a cat"])
    condition = condition.take(torch.zeros(5, dtype=torch.int64))
    assert not generator.predict_noise(z, 500, condition).requires_grad
    wanted = z.clone().requires_grad_()
    generator.predict_noise(wanted, 500, condition).sum().backward()
    assert wanted.grad.abs().sum() > 0


def test_fingerprint_follows_the_weights(folders):
    first, again = (open_generator(folders["stable_diffusion_1"]) for _ in range(2))
    assert first.fingerprint() == again.fingerprint()
    assert (
        first.fingerprint()
        != open_generator(folders["stable_diffusion_1"], dtype=torch.bfloat16).fingerprint()
    )
    with torch.no_grad():
        next(again.unet.parameters()).view(-1)[0] += 1e-3
    assert first.fingerprint() != again.fingerprint()


def test_prompts_cut_to_the_same_tokens_are_refused(generator):
    long = "a very long story about nothing at all that goes on and on " * 3
    generator.encode_prompts([long, "a cat"])
    with pytest.raises(ValueError, match="cannot tell them apart"):
        generator.encode_prompts([long + "cat", "a cat", long + "dog"])


def test_no_prompts(generator):
    for prompts in ([], "a cat", ["a cat", 7]):
        with pytest.raises(ValueError, match="list of one or more texts"):
            generator.encode_prompts(prompts)


def test_wrong_images(generator, images):
    with pytest.raises(ValueError, match="16 x 16 pixels, got 8 x 16"):
        generator.encode_images(images[:, :8])
    for wrong in (images.astype(np.float32), images[0], images.transpose(0, 3, 1, 2), "image.png"):
        with pytest.raises(ValueError, match="uint8"):
            generator.encode_images(wrong)
    assert generator.encode_images(images[:0]).shape == (0, *generator.latent_shape)


def test_wrong_timesteps_and_counts(generator):
    z, condition = torch.zeros(2, *generator.latent_shape), generator.encode_prompts(["a cat", "a dog"])
    for t in (-1, 1000, 0.5):
        with pytest.raises(ValueError, match="from 0 to 999"):
            generator.predict_noise(z, t, condition)
    with pytest.raises(ValueError, match="2 latents but 1 prompts"):
        generator.predict_noise(z, 5, condition.take(torch.tensor([0])))


def test_not_a_number_names_the_timestep(folders):
    generator = open_generator(folders["stable_diffusion_1"])
    z, t = torch.zeros(3, *generator.latent_shape), torch.tensor([10, 20, 30])
    z[1] = torch.nan
    condition = generator.encode_prompts(["a cat", "a dog", "a fish"])
    with pytest.raises(ValueError, match=r"t = \[20\]"):
        generator.predict_noise(z, t, condition)
    with pytest.raises(ValueError, match="NaN"):
        generator.decode(z)


def test_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        open_generator(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="holds no model_index.json"):
        open_generator(tmp_path)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "tokenizer", "scheduler"])
def test_missing_part_is_named(broken, part):
    shutil.rmtree(broken / part)
    with pytest.raises(FileNotFoundError, match=f"lacks its part '{part}'"):
        open_generator(broken)


def test_part_not_in_the_index(broken):
    edit(broken / "model_index.json", vae=[None, None])
    with pytest.raises(FileNotFoundError, match="'vae'"):
        open_generator(broken)


def test_pickled_weights_are_not_opened(broken):
    weights = broken / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()
    with pytest.raises(FileNotFoundError, match="no .safetensors"):
        open_generator(broken)


@pytest.mark.parametrize(
    "file", ["unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"]
)
def test_incomplete_weights_are_refused(broken, file):
    weights = load_file(broken / file)
    lost = weights.popitem()[0]
    save_file(weights, broken / file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=lost.removeprefix("text_model.")):
        open_generator(broken)


def test_unknown_prediction_type(broken):
    edit(broken / "scheduler" / "scheduler_config.json", prediction_type="sample")
    with pytest.raises(ValueError, match="prediction_type='sample'"):
        open_generator(broken)


def test_code_beside_a_model_is_not_run(broken):
    edit(broken / "model_index.json", unet=["my_unet", "MyUNet"])
    with pytest.raises(ValueError, match="supported are"):
        open_generator(broken)
    edit(broken / "model_index.json", unet=["my_unet", "UNet2DConditionModel"])
    with pytest.raises(ValueError, match="code that comes with a model is not run"):
        open_generator(broken)


def test_models_of_another_shape(broken):
    with pytest.raises(ValueError, match="multiple of 2"):
        open_generator(broken, image_size=15)
    edit(broken / "unet" / "config.json", sample_size=[8, 16])
    with pytest.raises(ValueError, match="square"):
        open_generator(broken)


def test_sd3_without_its_third_encoder(tmp_path):
    generator = open_generator(tiny.stable_diffusion_3(tmp_path / "small", t5=False))
    condition = generator.encode_prompts(["a cat", "a dog"])
    z = torch.zeros(2, *generator.latent_shape)
    assert generator.predict_noise(z, torch.tensor([1, 999]), condition).shape == z.shape


def test_class_names_are_found_by_synonym_and_number(dit):
    condition = dit.encode_prompts(["dog", "Felis catus", "cat", "cat, Felis catus", "", "#2"])
    assert condition.class_ids.tolist() == [1, 0, 0, 0, 3, 2]
    taken = condition.take(torch.tensor([4, 4, 0]))
    assert taken.class_ids.tolist() == [3, 3, 1]
    assert torch.equal(taken.embeddings[2], condition.embeddings[0])
    assert not torch.equal(taken.embeddings[2], taken.embeddings[0])


def test_unknown_and_shared_class_names_are_refused(dit, tmp_path):
    for name in ("horse", "a photo of a cat", "#3", " "):
        with pytest.raises(ValueError, match=r"class name, got .*\. It knows cat, Felis catus, dog, bird"):
            dit.encode_prompts(["cat", name])
    cranes = open_generator(tiny.dit(tmp_path / "cranes", id2label={0: "crane", 1: "crane, bird", 2: "bird"}))
    with pytest.raises(ValueError, match="got 'crane'; its classes #0, #1 share"):
        cranes.encode_prompts(["crane"])
    assert cranes.encode_prompts(["crane, bird", "#0"]).class_ids.tolist() == [1, 0]
    nameless = open_generator(tiny.dit(tmp_path / "nameless"))
    nameless.id2label = {}
    with pytest.raises(ValueError, match="knows no names"):
        nameless.encode_prompts(["cat"])


def test_learned_variance_is_dropped(dit, images):
    """The noise is the first half of what the class-conditional network predicts, at its own linear schedule."""
    z, t, ids = dit.encode_images(images), torch.tensor([0, 10, 500, 900, 999]), torch.tensor([2, 1, 0, 3, 1])
    condition = dit.encode_prompts(["cat", "dog", "bird", ""]).take(ids)
    with torch.no_grad():
        output = dit.unet(z, timestep=t, class_labels=ids).sample
    assert output.shape[1] == 8
    torch.testing.assert_close(dit.predict_noise(z, t, condition), output[:, :4])
    betas = np.linspace(1e-4, 0.02, 1000)
    np.testing.assert_allclose(dit.alphas_cumprod, np.cumprod(1 - betas), rtol=1e-4)


def test_class_conditional_samples_are_those_of_diffusers(tmp_path):
    """DiTPipeline takes 1000 for no class, so its guidance fits only models of a thousand classes."""
    names = {i: f"class {i}" for i in range(1000)}
    for variance in (True, False):
        generator = open_generator(tiny.dit(tmp_path / str(variance), id2label=names, variance=variance))
        pipeline, seeds = generator.pipeline(), [3, 4, 5]
        assert pipeline.get_label_ids(["class 7"]) == [7]
        for guidance in (1.0, 4.0):
            theirs = pipeline(
                [7, 999, 0],
                guidance_scale=guidance,
                generator=[torch.Generator().manual_seed(seed) for seed in seeds],
                num_inference_steps=5,
                output_type="np",
            ).images
            ours = sample(generator, ["class 7", "class 999", "class 0"], seeds, guidance, steps=5)
            assert np.abs(ours - 255 * theirs).max() < 1.01


def test_a_class_conditional_model_classifies(dit, images):
    result = classify(dit, images, ["cat", "dog", "bird"], exhaustive(4), execution=Execution(batch=7))
    again = classify(dit, images[:2], [["bird"], ["dog", "cat"]], exhaustive(4))
    np.testing.assert_allclose(result.errors[:2, 2], again.errors[:, 0], rtol=1e-4)
    assert np.ptp(result.scores, axis=1).min() > 0
    with pytest.raises(ValueError, match="cannot tell 'cat' from 'Felis catus'"):
        classify(dit, images, ["cat", "Felis catus"], exhaustive(4))


def test_class_conditional_folders_as_first_published(dit, tmp_path):
    """Their network was then named Transformer2DModel."""
    folder = tiny.dit(tmp_path / "old")
    edit(folder / "model_index.json", transformer=["diffusers", "Transformer2DModel"])
    edit(folder / "transformer" / "config.json", _class_name="Transformer2DModel")
    assert open_generator(folder).fingerprint() == dit.fingerprint()
    edit(folder / "model_index.json", id2label={"0": "bird", "1": "dog", "2": "cat"})
    assert open_generator(folder).fingerprint() != dit.fingerprint()
    edit(folder / "model_index.json", id2label={"0": "bird", "3": "dog"})
    with pytest.raises(ValueError, match="labels up to 3, but 3 classes"):
        open_generator(folder)
    edit(folder / "model_index.json", _class_name="StableDiffusionPipeline")
    with pytest.raises(ValueError, match="supported are"):
        open_generator(folder)


def test_class_conditional_parts_are_needed(tmp_path):
    folder = tiny.dit(tmp_path / "dit")
    shutil.rmtree(folder / "transformer")
    with pytest.raises(FileNotFoundError, match="lacks its part 'transformer'"):
        open_generator(folder)


# --- travelling to another process ----------------------------------------------------------------


def travelled(thing):
    return pickle.loads(pickle.dumps(thing))


def noise_of(generator, condition):
    """What the model predicts of one latent at t = 500 under each prompt."""
    random = torch.Generator().manual_seed(1)
    z = torch.randn(1, *generator.latent_shape, generator=random).expand(len(condition), -1, -1, -1)
    return generator.predict_noise(z, 500, condition)


def test_a_generator_travels_as_its_folder(generator, folders):
    data = pickle.dumps(generator)
    assert len(data) < 1000  # no weights
    again = pickle.loads(data)
    assert again is not generator
    assert again.fingerprint() == generator.fingerprint()
    assert pickle.loads(data) is again  # opened once for many jobs
    condition = generator.encode_prompts(PROMPTS)
    torch.testing.assert_close(noise_of(again, again.encode_prompts(PROMPTS)), noise_of(generator, condition))


def test_options_travel_with_the_folder(folders):
    for options in ({"dtype": torch.bfloat16}, {"image_size": 8}):
        generator = open_generator(folders["stable_diffusion_1"], **options)
        again = travelled(generator)
        assert again.fingerprint() == generator.fingerprint()
        assert (again.dtype, again.latent_shape) == (generator.dtype, generator.latent_shape)


def test_a_folder_travels_from_any_working_directory(folders, tmp_path, monkeypatch):
    monkeypatch.chdir(folders["stable_diffusion_1"].parent)
    data = pickle.dumps(open_generator("stable_diffusion_1"))
    monkeypatch.chdir(tmp_path)
    again = pickle.loads(data)
    assert again.fingerprint() == open_generator(folders["stable_diffusion_1"]).fingerprint()


def change(generator, how):
    """Change a weight, in one of the ways that training and adapters do."""
    if how == "in place":
        with torch.no_grad():
            generator.unet.conv_in.weight.mul_(1.5)
    elif how == "replaced":
        generator.unet.conv_in.weight = torch.nn.Parameter(generator.unet.conv_in.weight * 1.5, requires_grad=False)
    elif how == "data":
        generator.unet.conv_in.weight.data = generator.unet.conv_in.weight.data * 1.5
    elif how == "adapter":
        torch.manual_seed(0)
        config = LoraConfig(r=2, target_modules=["to_k"], init_lora_weights=False)
        generator.unet.add_adapter(config)
    elif how == "text encoder":
        with torch.no_grad():
            next(generator.text_encoder.parameters()).mul_(1.5)


@pytest.mark.parametrize("how", ["in place", "replaced", "data", "adapter", "text encoder"])
def test_changed_weights_travel_by_value(folders, how):
    original = open_generator(folders["stable_diffusion_1"])
    generator = open_generator(folders["stable_diffusion_1"])
    change(generator, how)
    again = travelled(generator)
    assert again.fingerprint() == generator.fingerprint() != original.fingerprint()
    condition = generator.encode_prompts(PROMPTS)
    eps_hat = noise_of(generator, condition)
    torch.testing.assert_close(noise_of(again, again.encode_prompts(PROMPTS)), eps_hat)
    assert not torch.allclose(noise_of(original, original.encode_prompts(PROMPTS)), eps_hat)
    assert travelled(again).fingerprint() == generator.fingerprint()  # and on from there
    assert not any(parameter.requires_grad for parameter in again.vae.parameters())


def test_another_network_in_its_place_travels_too(folders):
    generator = open_generator(folders["stable_diffusion_1"])
    generator.unet = open_generator(folders["stable_diffusion_1"]).unet
    change(generator, "in place")
    again = travelled(generator)
    condition = generator.encode_prompts(PROMPTS)
    torch.testing.assert_close(noise_of(again, condition), noise_of(generator, condition))


def test_weights_put_in_the_place_of_others_are_never_taken_for_them(folders):
    """The identity of a weight that is gone may come again."""
    generator = open_generator(folders["stable_diffusion_1"])
    for scale in (1.5, 1.5, 1.5, 1.5):
        generator.unet.conv_in.weight = torch.nn.Parameter(
            generator.unet.conv_in.weight * scale, requires_grad=False
        )
        assert travelled(generator).fingerprint() == generator.fingerprint()


def test_what_a_job_changes_does_not_reach_the_next(folders):
    """A worker keeps what it opened; a job that changes it in place must not hand that on."""
    data = pickle.dumps(open_generator(folders["stable_diffusion_2"]))
    first = pickle.loads(data)
    fingerprint = first.fingerprint()
    change(first, "in place")
    assert pickle.loads(data).fingerprint() == fingerprint != first.fingerprint()


def test_a_generator_opened_without_gradients_travels(folders):
    with torch.inference_mode():
        generator = open_generator(folders["stable_diffusion_1"])
        assert travelled(generator).fingerprint() == generator.fingerprint()


def test_a_condition_travels_as_its_prompts(generator):
    condition = generator.encode_prompts(PROMPTS)
    assert len(pickle.dumps(condition)) < 2000
    rows = torch.tensor([2, 0, 0, 1])
    for one in (condition, condition.take(rows), condition.take(rows).take(torch.tensor([3, 3, 0]))):
        again = travelled(one)
        torch.testing.assert_close(again.embeddings, one.embeddings)
        if one.pooled is not None:
            torch.testing.assert_close(again.pooled, one.pooled)
        torch.testing.assert_close(noise_of(generator, again), noise_of(generator, one))
    both = travelled((condition.take(rows), condition.take(rows[:2])))
    assert both[0].cached is both[1].cached  # encoded once, and what the network computes of it too


def test_a_condition_of_classes_travels(dit):
    condition = dit.encode_prompts(["dog", "cat", ""]).take(torch.tensor([1, 1, 2]))
    again = travelled(condition)
    assert again.class_ids.tolist() == [0, 0, 3]
    torch.testing.assert_close(noise_of(dit, again), noise_of(dit, condition))


def test_a_condition_of_a_changed_text_encoder_travels_with_it(folders):
    generator = open_generator(folders["stable_diffusion_1"])
    before = generator.encode_prompts(PROMPTS)
    change(generator, "text encoder")
    condition = generator.encode_prompts(PROMPTS)
    assert not torch.allclose(condition.embeddings, before.embeddings)
    again, pair = travelled(condition), travelled((generator, condition))
    torch.testing.assert_close(again.embeddings, condition.embeddings)
    torch.testing.assert_close(pair[1].embeddings, condition.embeddings)
    torch.testing.assert_close(noise_of(pair[0], pair[1]), noise_of(generator, condition))
    torch.testing.assert_close(travelled(before).embeddings, before.embeddings)  # encoded before the change


def test_a_condition_of_no_generator_travels_by_value():
    random = torch.Generator().manual_seed(0)
    condition = Condition(torch.randn(3, 2, 4, generator=random), torch.randn(3, 5, generator=random))
    for one in (condition, condition.take(torch.tensor([2, 0]))):
        again = travelled(one)
        assert torch.equal(again.embeddings, one.embeddings) and torch.equal(again.pooled, one.pooled)
        assert len(again) == len(one) and again.class_ids is None
