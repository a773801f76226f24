"""How fast labelled sets are generated, side by side in one process: python bench/sampling.py [--help]

Three ways to spend the same number of network evaluations (steps × 2 an image: guidance is on), in turn, several times
over:
  raw       the U-Net alone on ready-made batches: what the hardware gives
  ours      zsclib.sampling.generate, from a plan to images, all classes in one batch
  pipeline  StableDiffusionPipeline with DDIM, called class by class with small batches, as the reference codes do,
            on the same sub-models in the same precision
Machines are noisy: read the ratios, not images per second.
"""

from __future__ import annotations

import argparse
import contextlib
import resource
import time
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from diffusers import DDIMScheduler, DiffusionPipeline

from zsclib.models.generator import Generator, open_generator
from zsclib.papers.diversity.tricks import plan
from zsclib.prompts import load_prompts
from zsclib.sampling import generate
from zsclib.workers import Execution


@torch.inference_mode()
def raw(generator: Generator, evaluations: int, batch: int) -> None:
    """Run ready-made batches through the network."""
    z = torch.randn(batch, *generator.latent_shape, device=generator.device)
    t = torch.full((batch,), generator.T // 2, device=generator.device)
    embeddings = generator.encode_prompts(["a photo of a star"]).embeddings.repeat(batch, 1, 1)
    weights = next(generator.unet.parameters()).dtype
    with precision(generator):
        for done in range(0, evaluations, batch):
            b = min(batch, evaluations - done)
            generator.unet(z[:b].to(weights), t[:b], embeddings[:b].to(weights), return_dict=False)


def pipeline(
    generator: Generator, theirs: DiffusionPipeline, rows: pd.DataFrame, steps: int, batch: int
) -> None:
    """Generate class after class with the library's own pipeline."""
    with precision(generator):
        for _, of_class in rows.groupby("label"):
            for start in range(0, len(of_class), batch):
                part = of_class.iloc[start : start + batch]
                theirs(
                    part["prompt"].tolist(),
                    num_inference_steps=steps,
                    guidance_scale=float(part["guidance"].iloc[0]),
                    height=generator.image_size,
                    width=generator.image_size,
                    output_type="np",
                )


def precision(generator: Generator) -> contextlib.AbstractContextManager:
    """The precision in which `predict_noise` runs the network."""
    half = generator.device.type == "cpu" and generator.dtype != torch.float32
    return torch.autocast("cpu", generator.dtype) if half else contextlib.nullcontext()


def main() -> None:
    """Print images per second and the ratios, one line per repeat and their medians."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="data/models/pocket-sd")
    parser.add_argument("--precision", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--per-class", type=int, default=16, help="images of each of the ten classes")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--batch", type=int, default=64, help="images at once, two evaluations a step each")
    parser.add_argument("--pipeline-batch", type=int, default=2, help="images per call of the pipeline")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    generator = open_generator(options.model, options.device, getattr(torch, options.precision))
    prompts = load_prompts("objects")
    rows = plan("base", prompts, options.per_class)
    theirs = generator.pipeline()
    theirs.scheduler = DDIMScheduler.from_config(generator.scheduler.config)
    evaluations = 2 * options.steps * len(rows)
    execution = Execution(batch=options.batch)
    ways: dict[str, Callable[[], object]] = {
        "raw": lambda: raw(generator, evaluations, 2 * options.batch),
        "ours": lambda: generate(generator, rows, prompts.classes, steps=options.steps, execution=execution),
        "pipeline": lambda: pipeline(generator, theirs, rows, options.steps, options.pipeline_batch),
    }
    raw(generator, 4 * options.batch, 2 * options.batch)  # warm-up
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(options.repeats):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            speeds[name].append(len(rows) / (time.perf_counter() - started))
        print(
            f"{repeat + 1}: " + ", ".join(f"{name} {speed[-1]:.2f}/s" for name, speed in speeds.items()),
            flush=True,
        )
    ours = np.array(speeds["ours"])
    print(f"ours / raw       {np.median(ours / speeds['raw']):.2f}")
    print(f"ours / pipeline  {np.median(ours / speeds['pipeline']):.2f}")
    print(f"peak memory      {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB (Linux)")


if __name__ == "__main__":
    main()
