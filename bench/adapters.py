"""How adapters of several classes are best sampled, side by side in one process: python bench/adapters.py [--help]

Three ways to evaluate the U-Net on as many rows, in turn, several times over:
  one       all rows with one adapter
  in turn   a batch for each adapter, as `zsclib.papers.datadream` samples
  mixed     one batch whose rows have adapters of their own, as peft mixes them
Machines are noisy: read the ratios, not seconds.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from torch import nn

from zsclib.models.generator import Generator, open_generator
from zsclib.papers.datadream.method import UNET


def with_adapters(generator: Generator, names: list[str], rank: int) -> nn.Module:
    """Return the U-Net with an adapter of each name beside its attention, none of them zero."""
    unet = generator.unet
    for name in names:
        unet.add_adapter(LoraConfig(r=rank, target_modules=list(UNET), init_lora_weights=False), adapter_name=name)
    return unet.eval()


@torch.inference_mode()
def evaluate(unet: nn.Module, rows: tuple[torch.Tensor, ...], adapter: str) -> None:
    """Evaluate the network on rows with one adapter."""
    unet.set_adapter(adapter)
    unet(*rows, return_dict=False)


@torch.inference_mode()
def mixed(unet: nn.Module, rows: tuple[torch.Tensor, ...], adapters: list[str]) -> None:
    """Evaluate the network on rows, each with the adapter named for it."""
    hooks = [
        layer.register_forward_pre_hook(
            lambda _, args, options: (args, options | {"adapter_names": adapters}), with_kwargs=True
        )
        for layer in unet.modules()
        if isinstance(layer, LoraLayer)
    ]
    try:
        unet(*rows, return_dict=False)
    finally:
        for hook in hooks:
            hook.remove()


def main() -> None:
    """Print seconds of each way, a line per repeat, and the medians of their ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="data/models/pocket-sd")
    parser.add_argument("--rows", type=int, default=64, help="of a batch")
    parser.add_argument("--adapters", type=int, default=8, help="classes, each with a part of the rows")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    generator = open_generator(options.model)
    names = [f"class {k}" for k in range(options.adapters)]
    unet, each = with_adapters(generator, names, options.rank), options.rows // options.adapters
    embeddings = generator.encode_prompts(["a photo of a star"]).embeddings
    z, t = torch.randn(each * len(names), *generator.latent_shape), torch.full((each * len(names),), generator.T // 2)
    rows = z, t, embeddings.repeat(len(z), 1, 1)
    parts = [tuple(part[k * each : (k + 1) * each] for part in rows) for k in range(len(names))]

    def in_turn() -> None:
        for name, part in zip(names, parts, strict=True):
            evaluate(unet, part, name)

    ways = {
        "one": lambda: evaluate(unet, rows, names[0]),
        "in turn": in_turn,
        "mixed": lambda: mixed(unet, rows, [name for name in names for _ in range(each)]),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    ways["one"]()  # warm-up
    for repeat in range(options.repeats):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - started)
        print(f"{repeat + 1}: " + ", ".join(f"{name} {own[-1]:.2f} s" for name, own in seconds.items()), flush=True)
    for name in ("in turn", "mixed"):
        print(f"{name:8} / one  {np.median(np.divide(seconds[name], seconds['one'])):.2f}")


if __name__ == "__main__":
    main()
