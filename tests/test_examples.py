"""The examples in the docstrings run, and give arrays of the shapes that their comments say."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from PIL import Image

from tests import tiny
from zsclib.cache import Cache
from zsclib.hashing import key
from zsclib.images.image_set import ImageSet
from zsclib.models.clip import open_clip
from zsclib.models.generator import open_generator
from zsclib.models.networks import new_network
from zsclib.papers.diffusion_classifier.winoground import Pairs
from zsclib.papers.diversity.tricks import prompts_for
from zsclib.prompts import fill
from zsclib.recipe import standardise

PAPER = "zsclib.papers.diffusion_classifier"
MODULES = (
    *(f"{PAPER}.{name}" for name in ("classifier", "ablations", "sequential", "winoground", "robustness", "method")),
    *("zsclib.papers.diversity.tricks", "zsclib.papers.diversity.method"),
    *("zsclib.models.generator", "zsclib.models.clip", "zsclib.models.networks"),
    *("zsclib.models.denoising", "zsclib.models.finetune", "zsclib.models.lora", "zsclib.models.clip_lora"),
    *("zsclib.pools.captioned", "zsclib.pools.copies", "zsclib.pools.retrieval"),
    *("zsclib.datasets", "zsclib.training", "zsclib.setmetrics", "zsclib.workers"),
)
N, C, M = 3, 2, 4  # images, classes, networks
SHAPE = re.compile(r"#[^(]*(\((?:\d*[nCmHWch]?, ?)*(?:\d*[nCmHWch]?,?)\))")


def examples(name: str) -> list[tuple[str, tuple[str, ...] | None]]:
    """Return the statements of a module's docstring, each with the shape that stands behind it, if one does."""
    doc = importlib.import_module(name).__doc__
    block = re.findall(r"(?:^    \S.*\n)+", doc, re.M)
    code = "".join(line[4:] for line in "".join(block).splitlines(keepends=True))
    lines, statements = code.splitlines(), []
    for node in ast.parse(code).body:
        shown = SHAPE.search(lines[node.end_lineno - 1])
        shape = tuple(part.strip() for part in shown[1].strip("()").split(",") if part.strip()) if shown else None
        statements.append((ast.unparse(node), shape))
    return statements


def size(text: str, letters: Mapping[str, int]) -> int:
    number, letter = re.fullmatch(r"(\d*)([a-zA-Z]?)", text).groups()
    return int(number or 1) * (letters[letter] if letter else 1)


def mean_colour(images: np.ndarray) -> dict[str, np.ndarray]:
    return {"mean": images.mean((1, 2))}


@pytest.fixture(scope="module")
def names(tmp_path_factory) -> dict:
    """What the examples begin with."""
    root, draws = tmp_path_factory.mktemp("examples"), np.random.default_rng(0)
    generator = open_generator(tiny.stable_diffusion_1(root / "sd"))
    side, classes = generator.image_size, ("cat", "dog")
    for i, name in enumerate(("dog", "tabby") * 2):
        (root / "pets" / name).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20), (60 * i, 9, 9)).save(root / "pets" / name / f"{i}.png")
    clip = open_clip(tiny.clip(root / "clip"))
    (root / "captioned").mkdir()
    for i in range(8):
        pixels = draws.integers(0, 255, (20 + i, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "captioned" / f"{i}.png")
        (root / "captioned" / f"{i}.txt").write_text(f"image {i}")
    pictures = draws.integers(0, 255, (40, 32, 32, 3), dtype=np.uint8)
    correct = draws.random((M, 50)) < np.linspace(0.3, 0.8, M)[:, None]
    pair_images = draws.integers(0, 255, (N, 2, side, side, 3), dtype=np.uint8)
    captions = (("a cat left of a dog", "a dog left of a cat"),) * N
    keys = tuple(f"example {i}" for i in range(N))
    return {
        "np": np, "torch": torch, "fill": fill, "key": key, "new_network": new_network,
        "generator": generator, "classes": classes, "folder": root / "pets", "clip": clip,
        "clip_folder": root / "clip", "captioned": root / "captioned", "embedded": root / "embedded",
        "small": draws.integers(0, 255, (N, side, side, 3), dtype=np.uint8),
        "large": draws.integers(0, 255, (N, 32, 32, 3), dtype=np.uint8),
        "prompts": ["a photo of a cat", "a photo of a dog"], "mean_colour": mean_colour, "cache": Cache(root / "cache"),
        "pairs": Pairs(images=pair_images, captions=captions, keys=keys, swaps=("",) * N),
        "standard": correct, "shifted": correct & (draws.random((M, 50)) < 0.8),
        "ours_standard": correct[0], "ours_shifted": correct[1],
        "real": draws.normal(size=(40, 8)), "fake": draws.normal(size=(40, 8)),
        "labelled": ImageSet(pictures, np.arange(40) % C, classes),
        "held_out": ImageSet(pictures[:8], np.arange(8) % C, classes),
    }  # fmt: skip


@pytest.mark.parametrize("name", MODULES)
def test_an_example_runs_and_its_arrays_have_the_shapes_it_says(name, names, tmp_path):
    module, generator = importlib.import_module(name), names["generator"]
    large = name in ("zsclib.models.generator", "zsclib.models.clip", "zsclib.training")
    space = {**names, **vars(importlib.import_module(PAPER)), **vars(module)}
    space |= {"images": names["large" if large else "small"]}
    if name in ("zsclib.models.finetune", "zsclib.models.lora"):
        space |= {"labelled": ImageSet(names["small"], [0, 1, 0], names["classes"]), "folder": tmp_path}
    if name == "zsclib.models.networks":
        space |= {"images": torch.from_numpy(names["large"]), "standardise": standardise}
    if name == "zsclib.papers.diversity.method":
        sampling = importlib.import_module("zsclib.sampling")
        space |= {"prompts": prompts_for("pets", names["classes"]), "sampling_timesteps": sampling.sampling_timesteps}
    if name.endswith((".ablations", ".sequential", ".method")) and name.startswith(PAPER):
        for part in ("engine", "error_matrix"):
            space |= vars(importlib.import_module(f"{PAPER}.{part}"))
        space |= {"classify": importlib.import_module(PAPER).classify} | vars(module)
    letters = {"n": N, "C": C, "m": M, "H": generator.image_size, "W": generator.image_size}
    statements = examples(name)
    assert statements
    compared = 0
    for code, shape in statements:
        node = ast.parse(code).body[0]
        value = eval(code, space) if isinstance(node, ast.Expr) else exec(code, space)
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            value = space[node.targets[0].id]
        if shape is not None and hasattr(value, "shape"):
            assert tuple(value.shape) == tuple(size(part, letters) for part in shape), code
            compared += 1
    assert compared or name == "zsclib.setmetrics", "an example shows what comes out"


def test_an_example_that_says_another_shape_would_be_noticed():
    shape = SHAPE.search("errors  # (n, C, 32), float32")[1]
    assert [size(part.strip(), {"n": 3, "C": 2}) for part in shape.strip("()").split(",")] == [3, 2, 32]
    assert SHAPE.search("y  # (8C,)")[1] == "(8C,)"
