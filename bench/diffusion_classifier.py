"""How fast the Diffusion Classifier is, side by side in one process: python bench/diffusion_classifier.py [--help]

Three ways to spend network evaluations on the same images, in turn, several times over:
  raw      the U-Net alone on ready-made batches, each row with its own prompt: what the hardware gives
  engine   zsclib.papers.diffusion_classifier.classify, from images to scores
  plain    zsclib.papers.diffusion_classifier.method.diffusion_classifier, the paper's algorithm as it reads, one
           evaluation after the other (on the first few of the images)
Then how far the errors of the last two are apart, how many predictions the precision changes, and the peak memory of
the engine with more and more images. Machines are noisy: read the ratios, not evaluations per second. On a CPU these
are per second of processor time, which other programs disturb less.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import torch

from zsclib import datasets
from zsclib.models.generator import Generator, open_generator
from zsclib.papers.diffusion_classifier import classify
from zsclib.papers.diffusion_classifier.error_matrix import exhaustive
from zsclib.papers.diffusion_classifier.method import diffusion_classifier
from zsclib.prompts import prompts_of
from zsclib.workers import Execution


@torch.inference_mode()
def raw(generator: Generator, prompts: list[str], evaluations: int, batch: int) -> None:
    """Run ready-made batches through the network, as its library documents it, in the generator's precision."""
    weights = next(generator.unet.parameters()).dtype
    z_t = torch.randn(batch, *generator.latent_shape, device=generator.device, dtype=weights)
    t = torch.arange(batch, device=generator.device) * generator.T // batch
    rows = torch.arange(batch, device=generator.device) % len(prompts)
    c = generator.encode_prompts(prompts).embeddings[rows].to(weights)
    half_on_cpu = generator.device.type == "cpu" and generator.dtype != torch.float32
    with torch.autocast("cpu", generator.dtype, enabled=half_on_cpu):
        for done in range(0, evaluations, batch):
            b = min(batch, evaluations - done)
            generator.unet(z_t[:b], t[:b], c[:b], return_dict=False)[0].float()
    torch.zeros(1, device=generator.device).cpu()  # waits for the device


def peak_memory(generator: Generator, images: int, batch: int) -> float:
    """Classify so many meaningless images at one timestep; return the most memory this process had, in MiB."""
    side = generator.image_size
    noise = np.random.default_rng(0).integers(0, 256, (images, side, side, 3), dtype=np.uint8)
    prompts = [f"a photo of a {word}" for word in ("star", "car", "tree", "cup", "ball")]
    classify(generator, noise, prompts, exhaustive(1, generator.T), execution=Execution(batch=batch))
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
    parser.add_argument("--plain-images", type=int, default=2, help="so many of them for the plain way")
    parser.add_argument("--timesteps", type=int, default=32)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--grow", type=int, nargs="*", default=[64, 256, 512], help="images for the memory")
    parser.add_argument("--peak-of", type=int, help="only print the peak memory in MiB with so many images")
    options = parser.parse_args()
    generator = open_generator(options.model, options.device, getattr(torch, options.precision))
    if options.peak_of:
        print(peak_memory(generator, options.peak_of, options.batch))
        return
    images = datasets.load("objects", n=options.images, size=generator.image_size)
    prompts, schedule = prompts_of("objects", images.classes), exhaustive(options.timesteps, generator.T)
    few, execution = images.images[: options.plain_images], Execution(batch=options.batch)
    each = len(prompts) * options.timesteps  # evaluations of an image
    ways: dict[str, tuple[int, Callable[[], object]]] = {
        "raw": (len(images), lambda: raw(generator, prompts, len(images) * each, options.batch)),
        "engine": (len(images), lambda: classify(generator, images.images, prompts, schedule, execution=execution)),
        "plain": (len(few), lambda: diffusion_classifier(few, prompts, generator, schedule.t)),
    }
    raw(generator, prompts, options.batch, options.batch)  # warm-up
    clock = time.process_time if generator.device.type == "cpu" else time.perf_counter
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    results: dict[str, object] = {}
    for repeat in range(options.repeats):
        for name, (n, way) in ways.items():
            started = clock()
            results[name] = way()
            speeds[name].append(n * each / (clock() - started))
        line = ", ".join(f"{name} {speed[-1]:.0f}/s" for name, speed in speeds.items())
        print(f"{repeat + 1}: {line}", flush=True)
    engine, plain = results["engine"].errors[: len(few)], results["plain"]
    print(f"engine / raw   {np.median(np.array(speeds['engine']) / speeds['raw']):.2f}")
    print(f"engine / plain {np.median(np.array(speeds['engine']) / speeds['plain']):.2f}")
    print(f"errors of engine and plain differ by {np.abs(engine / plain - 1).max():.1e} at most, relatively")

    if options.precision != "float32":
        full = classify(open_generator(options.model, options.device), images.images, prompts, schedule)
        same = int((results["engine"].prediction == full.prediction).sum())
        print(f"{options.precision} predicts as float32 for {same} of {len(images)} images")
    for n in options.grow:
        command = [sys.executable, __file__, *sys.argv[1:], "--peak-of", str(n)]
        peak = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(f"peak memory with {n} images: {peak:.0f} MiB", flush=True)


if __name__ == "__main__":
    main()
