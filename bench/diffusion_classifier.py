"""How fast the Diffusion Classifier is, side by side in one process: python bench/diffusion_classifier.py [--help]

Three ways to spend the same number of network evaluations on the same pictures, in turn, several times over:
  raw      the U-Net alone on ready-made batches, each row with its own prompt: what the library gives
  ours     zsclib.papers.diffusion_classifier.classify, from pictures to scores
  plain    the paper's description as a loop: one image at a time, batches of 32, the noisy latent made anew for
           every class
Then how many predictions the precision changes, and the peak memory of ours with more and more pictures.
Machines are noisy: read the ratios, not the rates. On a CPU rates are per second of processor time, which other
programs disturb less.
"""

from __future__ import annotations

import argparse
import contextlib
import resource
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from zsclib import datasets
from zsclib.models.generator import Generator, open_generator
from zsclib.papers.diffusion_classifier import classify
from zsclib.papers.diffusion_classifier.error_matrix import exhaustive
from zsclib.prompts import prompts_of


def ask(generator: Generator, z_t: Tensor, t: Tensor, embeddings: Tensor) -> Tensor:
    """Call the U-Net as its library documents it, in the generator's precision."""
    weights = next(generator.unet.parameters()).dtype
    half_on_cpu = generator.device.type == "cpu" and generator.dtype != torch.float32
    with torch.autocast("cpu", generator.dtype) if half_on_cpu else contextlib.nullcontext():
        return generator.unet(z_t.to(weights), t, embeddings.to(weights), return_dict=False)[0].float()


@torch.inference_mode()
def raw(generator: Generator, prompts: list[str], evaluations: int, batch: int) -> None:
    """Run ready-made batches through the network."""
    z_t = torch.randn(batch, *generator.latent_shape, device=generator.device)
    t = torch.arange(batch, device=generator.device) * generator.T // batch
    rows = torch.arange(batch, device=generator.device) % len(prompts)
    embeddings = generator.encode_prompts(prompts).embeddings[rows]
    for at in range(0, evaluations, batch):
        ask(generator, z_t[: evaluations - at], t[: evaluations - at], embeddings[: evaluations - at])
    torch.zeros(1, device=generator.device).cpu()  # waits for the device


@torch.inference_mode()
def plain(
    generator: Generator, images: np.ndarray, prompts: list[str], levels: tuple[int, ...], batch: int = 32
) -> None:
    """Score one image after the other, class by class, as the paper's pseudo-code reads (epsilon models)."""
    embeddings = generator.encode_prompts(prompts).embeddings
    for image in images:
        z = generator.encode_images(image[None])
        noise = torch.randn(len(levels), *generator.latent_shape, device=generator.device)
        for c in range(len(prompts)):
            for start in range(0, len(levels), batch):
                t = torch.tensor(levels[start : start + batch], device=generator.device)
                eps = noise[start : start + batch]
                a, s = generator.signal_and_noise(t)
                noise_hat = ask(generator, a * z + s * eps, t, embeddings[c].expand(len(t), -1, -1))
                ((noise_hat - eps) ** 2).mean((1, 2, 3)).cpu()


def peak_memory(generator: Generator, images: int, batch: int) -> float:
    """Classify so many meaningless pictures at one level; return the most memory this process had, in MiB."""
    side = generator.image_size
    pictures = np.random.default_rng(0).integers(0, 256, (images, side, side, 3), dtype=np.uint8)
    prompts = [f"a photo of a {word}" for word in ("star", "car", "tree", "cup", "ball")]
    classify(generator, pictures, prompts, exhaustive(1, generator.T), batch=batch)
    if generator.device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10  # Linux counts in KiB


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
    parser.add_argument("--grow", type=int, nargs="*", default=[64, 256, 512], help="pictures for the memory")
    parser.add_argument("--peak-of", type=int, help="only print the peak memory in MiB with so many pictures")
    options = parser.parse_args()
    generator = open_generator(options.model, options.device, getattr(torch, options.precision))
    if options.peak_of:
        print(peak_memory(generator, options.peak_of, options.batch))
        return
    pictures = datasets.load("objects", n=options.images, size=generator.image_size)
    prompts, schedule = prompts_of("objects", pictures.classes), exhaustive(options.levels, generator.T)
    evaluations = len(pictures) * len(prompts) * options.levels
    ways: dict[str, Callable[[], object]] = {
        "raw": lambda: raw(generator, prompts, evaluations, options.batch),
        "ours": lambda: classify(generator, pictures.images, prompts, schedule, batch=options.batch),
        "plain": lambda: plain(generator, pictures.images, prompts, schedule.t),
    }
    raw(generator, prompts, options.batch, options.batch)  # warm-up
    clock = time.process_time if generator.device.type == "cpu" else time.perf_counter
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(options.repeats):
        for name, way in ways.items():
            started = clock()
            way()
            rates[name].append(evaluations / (clock() - started))
        line = ", ".join(f"{name} {found[-1]:.0f}/s" for name, found in rates.items())
        print(f"{repeat + 1}: {line}", flush=True)
    ours = np.array(rates["ours"])
    print(f"ours / raw   {np.median(ours / rates['raw']):.2f}")
    print(f"ours / plain {np.median(ours / rates['plain']):.2f}")

    if options.precision != "float32":
        whole = open_generator(options.model, options.device)
        half, full = (classify(g, pictures.images, prompts, schedule) for g in (generator, whole))
        same = int((half.prediction == full.prediction).sum())
        print(f"{options.precision} predicts as float32 for {same} of {len(pictures)} pictures")
    for images in options.grow:
        asked = [sys.executable, __file__, *sys.argv[1:], "--peak-of", str(images)]
        peak = float(subprocess.run(asked, check=True, capture_output=True, text=True).stdout)
        print(f"peak memory with {images} pictures: {peak:.0f} MiB", flush=True)


if __name__ == "__main__":
    main()
