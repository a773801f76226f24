"""The U-Net of Stable Diffusion 1 and 2 where many prompts meet few noisy latents: the same answer, less work.

The forward pass stays the one of diffusers. While it runs, a few layers answer from what is known already:

- the keys and values of cross-attention depend on the prompt alone: computed once per prompt, looked up per row;
- what comes before the first cross-attention sees no prompt: it runs once per noisy latent, and the prompts
  that meet this latent part there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import Tensor, nn

from zsclib.models.conditioning import Condition

CACHED_BYTES = 2**29  # of keys and values per condition; where all prompts would take more, an evaluation has its own


def fits(unet: nn.Module) -> bool:
    """Say whether a network is a U-Net whose cross-attention is that of Stable Diffusion 1 and 2."""
    if not isinstance(unet, UNet2DConditionModel) or unet.encoder_hid_proj is not None:
        return False
    blocks = [module for module in unet.modules() if isinstance(module, BasicTransformerBlock)]
    return bool(blocks) and all(_is_plain(block) for block in blocks)


def _is_plain(block: BasicTransformerBlock) -> bool:
    """Self-attention, cross-attention, feed-forward, with layer norms between and nothing else."""
    more = (block.only_cross_attention, block.pos_embed, hasattr(block, "fuser"), block._chunk_size)
    attends = block.attn2 is not None and block.attn2.is_cross_attention and not block.attn2.norm_cross
    return block.norm_type == "layer_norm" and attends and not any(more)


def forward(
    unet: UNet2DConditionModel, z_t: Tensor, t: Tensor, condition: Condition, copies: Tensor | None
) -> Tensor:
    """Run the U-Net without gradients; it must be one that `fits`.

    Args:
        z_t: noisy latents (n, c, h, w). t: what the network is told of their noise, (n,).
        condition: m prompts. copies: int64 (m,), the row of z_t and t each prompt meets; None: its own.

    Returns:
        What the network says, (m, c, h, w).
    """
    forwards = _known_keys_and_values(unet, condition)
    if copies is not None and len(copies) > len(z_t):
        forwards |= _once_per_latent(unet, copies, len(z_t))
    if copies is not None:
        z_t, t = z_t[copies], t[copies]
    # stands for the prompts' rows, which no layer reads any more
    unread = condition.prompts[:1].to(z_t).expand(len(z_t), -1, -1)
    with _replaced(forwards):
        return unet(z_t, timestep=t, encoder_hidden_states=unread, return_dict=False)[0]


def _known_keys_and_values(unet: nn.Module, condition: Condition) -> dict[nn.Module, Callable]:
    """Return forwards of to_k and to_v that look up what these say of each prompt."""
    attentions = [block.attn2 for block in unet.modules() if isinstance(block, BasicTransformerBlock)]
    layers = [layer for attention in attentions for layer in (attention.to_k, attention.to_v)]
    prompts, rows, cached = condition.prompts, condition.rows, condition.cached
    width = sum(layer.out_features for layer in layers)
    if len(prompts) * prompts.shape[1] * width * prompts.element_size() > CACHED_BYTES:
        cached = {}
        if rows is not None:
            used, rows = rows.unique(return_inverse=True)
            prompts = prompts[used]

    def look_up(layer: nn.Module) -> Callable:
        states = _of_prompts(layer, prompts, cached)
        return lambda _: states if rows is None else states[rows]

    return {layer: look_up(layer) for layer in layers}


def _of_prompts(layer: nn.Module, prompts: Tensor, cached: dict) -> Tensor:
    """Return what a layer makes of each prompt, cached as long as its weights stay as they are."""
    weight, precision = layer.weight, torch.get_autocast_dtype("cpu")
    state = (weight.data_ptr(), 0 if weight.is_inference() else weight._version)
    state += (torch.is_autocast_enabled("cpu"), precision)
    if type(layer) is not nn.Linear:  # an adapter, which may change without a trace
        return layer(prompts.to(weight.dtype))
    if layer not in cached or cached[layer][0] != state:
        cached[layer] = state, layer(prompts.to(weight.dtype))
    return cached[layer][1]


def _once_per_latent(unet: nn.Module, copies: Tensor, n: int) -> dict[nn.Module, Callable]:
    """Return forwards of all that precedes the first cross-attention, at n rows in place of len(copies)."""
    first = torch.zeros(n, dtype=torch.int64, device=copies.device)
    first[copies] = torch.arange(len(copies), device=copies.device)  # a row where each latent is
    conv_in, resnet = unet.conv_in.forward, unet.down_blocks[0].resnets[0].forward
    few: list[Tensor] = []

    def start(x: Tensor) -> Tensor:
        few.append(conv_in(x[first]))
        return few[0][copies]

    forwards = {unet.conv_in: start}
    attentions = getattr(unet.down_blocks[0], "attentions", None)
    if attentions and isinstance(attentions[0], Transformer2DModel):
        forwards[unet.down_blocks[0].resnets[0]] = lambda x, temb: resnet(few[0], temb[first])
        forwards[attentions[0]] = lambda x, encoder_hidden_states, **_: (
            _part_at_cross_attention(attentions[0], x, encoder_hidden_states, copies),
        )
    return forwards


def _part_at_cross_attention(
    transformer: Transformer2DModel, x: Tensor, prompts: Tensor, copies: Tensor
) -> Tensor:
    """Run a transformer on x (n, c, h, w), at len(copies) rows from its first cross-attention on."""
    n, c, h, w = x.shape
    linear, block = transformer.use_linear_projection, transformer.transformer_blocks[0]
    y = transformer.norm(x)
    y = y if linear else transformer.proj_in(y)
    y = y.permute(0, 2, 3, 1).reshape(n, h * w, -1)
    y = transformer.proj_in(y) if linear else y
    y = block.attn1(block.norm1(y)) + y
    y = block.attn2(block.norm2(y)[copies], encoder_hidden_states=prompts) + y[copies]
    y = block.ff(block.norm3(y)) + y
    for block in transformer.transformer_blocks[1:]:
        y = block(y, encoder_hidden_states=prompts)
    y = transformer.proj_out(y) if linear else y
    y = y.reshape(len(copies), h, w, -1).permute(0, 3, 1, 2)
    y = y if linear else transformer.proj_out(y)
    return y + x[copies]


@contextlib.contextmanager
def _replaced(forwards: dict[nn.Module, Callable]) -> Iterator[None]:
    """Let modules answer by other functions for a while."""
    before = {module: module.__dict__.get("forward") for module in forwards}
    try:
        for module, function in forwards.items():
            module.forward = function
        yield
    finally:
        for module, function in before.items():
            if function is None:
                module.__dict__.pop("forward", None)
            else:
                module.forward = function
