"""How fast the Diffusion Classifier is, side by side in one process: python bench/diffusion_classifier.py [--help]

Three ways to spend the same number of network evaluations on the same pictures, in turn, several times over:
  raw      the U-Net alone on ready-made batches: what the hardware gives
  ours     zsclib.papers.diffusion_classifier.classify, from pictures to scores
  plain    the paper's description as a loop: one image at a time, batches of 32, the noisy latent made anew for
           every class
Machines are noisy: read the ratios, not the rates.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable

import numpy as np
import torch

from zsclib import datasets
from zsclib.models.generator import Generator, open_generator
from zsclib.papers.diffusion_classifier import classify
from zsclib.papers.error_matrix import exhaustive
from zsclib.prompts import prompts_of


@torch.inference_mode()
def raw(generator: Generator, evaluations: int, batch: int) -> None:
    """Run ready-made batches through the network."""
    z = torch.randn(batch, *generator.latent_shape, device=generator.device)
    t = torch.arange(batch, device=generator.device) * generator.T // batch
    condition = generator.encode_prompts(["a photo of a star"]).take(torch.zeros(batch, dtype=torch.long))
    for _ in range(evaluations // batch):
        generator.predict_noise(z, t, condition)


@torch.inference_mode()
def plain(
    generator: Generator, images: np.ndarray, prompts: list[str], levels: tuple[int, ...], batch: int = 32
) -> None:
    """Score one image after the other, class by class, as the paper's pseudo-code reads."""
    condition = generator.encode_prompts(prompts)
    for image in images:
        z = generator.encode_images(image[None])
        noise = torch.randn(len(levels), *generator.latent_shape, device=generator.device)
        for c in range(len(prompts)):
            for start in range(0, len(levels), batch):
                t = torch.tensor(levels[start : start + batch], device=generator.device)
                eps = noise[start : start + batch]
                a, s = generator.signal_and_noise(t)
                noise_hat = generator.predict_noise(
                    a * z + s * eps, t, condition.take(torch.full((len(t),), c))
                )
                ((noise_hat - eps) ** 2).mean((1, 2, 3)).cpu()


def main() -> None:
    """Print evaluations per second and the ratios, one line per repeat and their medians."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="data/models/pocket-sd")
    parser.add_argument("--precision", default="bfloat16", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--levels", type=int, default=32)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    generator = open_generator(options.model, options.device, getattr(torch, options.precision))
    pictures = datasets.load("objects", n=options.images, size=generator.image_size)
    prompts, schedule = prompts_of("objects", pictures.classes), exhaustive(options.levels, generator.T)
    evaluations = len(pictures) * len(prompts) * options.levels
    ways: dict[str, Callable[[], object]] = {
        "raw": lambda: raw(generator, evaluations, options.batch),
        "ours": lambda: classify(generator, pictures.images, prompts, schedule, batch=options.batch),
        "plain": lambda: plain(generator, pictures.images, prompts, schedule.t),
    }
    ways["raw"]()  # warm-up
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(options.repeats):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            rates[name].append(evaluations / (time.perf_counter() - started))
        print(
            f"{repeat + 1}: " + ", ".join(f"{name} {found[-1]:.0f}/s" for name, found in rates.items()),
            flush=True,
        )
    ours = np.array(rates["ours"])
    print(f"ours / raw   {np.median(ours / rates['raw']):.2f}")
    print(f"ours / plain {np.median(ours / rates['plain']):.2f}")
    print(f"peak memory  {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB (Linux)")


if __name__ == "__main__":
    main()
