"""Shortcuts through the U-Net: the answer of diffusers' own forward pass, with less work."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from zsclib.models import fast_unet
from zsclib.models.generator import open_generator

PROMPTS = ["a photo of a cat", "a dog", "7"]
POCKET = Path(__file__).resolve().parents[1] / "data/models/pocket-sd"
FAST = ("stable_diffusion_1", "stable_diffusion_2", "pocket")


@pytest.fixture(scope="module", params=FAST)
def fast(request, folders):
    return open_generator({**folders, "pocket": POCKET}[request.param])


def meetings(generator, n=3, seed=0):
    """n noisy latents, each met by all prompts but one: (z_t, t, encoded prompts, rows, copies)."""
    random = torch.Generator().manual_seed(seed)
    z, t = torch.randn(n, *generator.latent_shape, generator=random), torch.arange(n) * 400 + 3
    copies, rows = torch.arange(n).repeat_interleave(3)[:-1], torch.arange(3).repeat(n)[:-1]
    return z, t, generator.encode_prompts(PROMPTS), rows, copies


def plain(generator, z, t, prompts):
    """What diffusers computes, one row per meeting."""
    with torch.no_grad():
        return generator.unet(z, timestep=t, encoder_hidden_states=prompts).sample


def as_noise(generator, output, z, t):
    a, s = generator.signal_and_noise(t)
    return output if generator.prediction == "epsilon" else a * output + s * z


def rows_of(module, run):
    """How many rows the module computes each time while `run` runs."""
    rows: list[int] = []
    hook = module.register_forward_hook(lambda _, inputs, output: rows.append(len(output)))
    try:
        run()
    finally:
        hook.remove()
    return rows


@torch.no_grad()
def test_the_answer_is_that_of_the_plain_forward_pass(fast):
    assert fast_unet.fits(fast.unet)
    z, t, encoded, rows, copies = meetings(fast)
    condition = encoded.take(rows)
    expected = as_noise(fast, plain(fast, z[copies], t[copies], condition.embeddings), z[copies], t[copies])
    close = {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(fast.predict_noise(z[copies], t[copies], condition), expected, **close)
    torch.testing.assert_close(fast.predict_noise(z, t, condition, copies), expected, **close)
    order = torch.tensor([5, 0, 7, 2, 2, 6, 1])
    shuffled = fast.predict_noise(z, t, condition.take(order), copies[order])
    torch.testing.assert_close(shuffled, expected[order], **close)
    first = fast.predict_noise(z, t, encoded)  # prompts as encoded, one per latent
    torch.testing.assert_close(first[2], fast.predict_noise(z[2:], t[2:], encoded.take(torch.tensor([2])))[0])


def test_every_prompt_has_its_keys_and_values_computed_once(fast):
    z, t, encoded, rows, copies = meetings(fast)
    layer = fast.unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_k
    run = lambda: fast.predict_noise(z, t, encoded.take(rows), copies)  # noqa: E731
    with torch.no_grad():
        assert rows_of(layer, lambda: [run(), run()]) == [3, 8, 8]


def test_what_sees_no_prompt_runs_once_per_latent(fast):
    z, t, encoded, rows, copies = meetings(fast)
    block = fast.unet.down_blocks[0]
    with torch.no_grad():
        for module in (block.resnets[0].conv1, block.attentions[0].transformer_blocks[0].attn1.to_q):
            assert rows_of(module, lambda: fast.predict_noise(z, t, encoded.take(rows), copies)) == [3]
        later = fast.unet.mid_block.resnets[0]
        assert rows_of(later, lambda: fast.predict_noise(z, t, encoded.take(rows), copies)) == [8]


@torch.no_grad()
def test_keys_and_values_of_many_prompts_are_not_cached(fast, monkeypatch):
    z, t, encoded, rows, copies = meetings(fast)
    expected = fast.predict_noise(z, t, encoded.take(rows), copies)
    monkeypatch.setattr(fast_unet, "CACHED_BYTES", 0)
    again = fast.encode_prompts(PROMPTS)
    torch.testing.assert_close(fast.predict_noise(z, t, again.take(rows), copies), expected)
    torch.testing.assert_close(fast.predict_noise(z, t, again), fast.predict_noise(z, t, encoded))
    assert encoded.cached and not again.cached


@torch.no_grad()
def test_changed_weights_are_noticed(folders):
    generator = open_generator(folders["stable_diffusion_1"])
    z, t, encoded, rows, copies = meetings(generator)
    before = generator.predict_noise(z, t, encoded.take(rows), copies)
    attention = generator.unet.mid_block.attentions[0].transformer_blocks[0].attn2
    attention.to_v.weight.mul_(-3)
    changed = generator.predict_noise(z, t, encoded.take(rows), copies)
    assert not torch.allclose(changed, before)
    torch.testing.assert_close(changed, plain(generator, z[copies], t[copies], encoded.take(rows).embeddings))
    attention.to_v = Adapted(attention.to_v)
    for scale in (1.0, -2.0):  # an adapter that is switched changes no weight
        attention.to_v.scale = scale
        torch.testing.assert_close(
            generator.predict_noise(z, t, encoded.take(rows), copies),
            plain(generator, z[copies], t[copies], encoded.take(rows).embeddings),
        )


class Adapted(nn.Linear):
    """Stands for a layer with a LoRA beside it."""

    def __init__(self, layer):
        super().__init__(layer.in_features, layer.out_features, bias=False)
        self.weight, self.scale = layer.weight, 1.0

    def forward(self, x):
        return self.scale * super().forward(x)


def test_the_network_stays_as_it_was(fast):
    z, t, encoded, rows, copies = meetings(fast)
    own = {name for name, module in fast.unet.named_modules() if "forward" in vars(module)}
    with torch.no_grad():
        fast.predict_noise(z, t, encoded.take(rows), copies)
        with pytest.raises(ValueError, match="NaN"):
            fast.predict_noise(z * torch.nan, t, encoded.take(rows), copies)
        with pytest.raises(RuntimeError):
            fast.predict_noise(z[:, :2], t, encoded.take(rows), copies)
    assert {name for name, module in fast.unet.named_modules() if "forward" in vars(module)} == own


def test_gradients_take_the_plain_way(fast):
    z, t, encoded, rows, copies = meetings(fast)
    z.requires_grad_()
    eps_hat = fast.predict_noise(z, t, encoded.take(rows), copies)
    eps_hat.square().sum().backward()
    assert z.grad.abs().flatten(1).sum(1).min() > 0 and not encoded.cached


def test_other_networks_are_left_alone(folders):
    assert not fast_unet.fits(open_generator(folders["stable_diffusion_3"]).unet)
    unet = open_generator(folders["stable_diffusion_1"]).unet
    unet.mid_block.attentions[0].transformer_blocks[0].attn2.norm_cross = "layer_norm"
    assert not fast_unet.fits(unet)
