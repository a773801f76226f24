"""Diversity is Definitely Needed: Improving Model-Agnostic Zero-shot Classification via Stable Diffusion
(Shipard, Wiliem, Nguyen Thanh, Xiang, Fookes; CVPR Workshops 2023)

Class names become prompts, a text-to-image model generates images of them, and an ordinary network learns from these
alone. Cheap tricks of prompt and sampler make the images more diverse; the union of all tricks is the training set
proposed. `method` is the same on one screen, image by image.

    prompts = prompts_for("pets", classes)
    sets = bag_of_tricks(generator, prompts, n=4, steps=2)    # of each trick 4 images per class
    sets["base"].labels                                       # (4C,)
    union(sets.values()).labels                               # (16C,), "all combined"
    union(sets.values(), per_class=4).labels                  # (4C,), as many as each trick alone

Unlike in the authors' code, every image has a seed and a scale of its own, sets are equally large unless asked for
otherwise, and the step from the generator's size to the network's is a function with a name.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch.nn import functional as F

from zsclib.checks import check_images, check_size
from zsclib.images.files import resize
from zsclib.images.image_set import ImageSet, concat
from zsclib.models.generator import Generator
from zsclib.prompts import Prompts, fill, load_prompts, shipped_prompts
from zsclib.sampling import Guidance, check_plan, generate
from zsclib.seeds import seed_of
from zsclib.workers import Execution

RESIZES = ("antialiased", "bilinear", "nearest")


@dataclass(frozen=True, kw_only=True)
class Trick:
    """Which of a data set's sentences (`Prompts.base`, `.bare`, `.domains`, `.template`) and guidance a trick takes."""

    template: str = "base"
    guidance: Guidance = Guidance(7.5)


TRICKS = {  # accuracy of a ResNet-50 on CIFAR-10 / CIFAR-100 / EuroSAT, from the poster's chart 1
    "base": Trick(),  # 60.5 / 29.7 / 36.1
    "class-name": Trick(template="bare"),  # 62.3 / 26.5 / not shown
    "multi-domain": Trick(template="domains"),  # 68.0 / 32.6 / 35.7
    "random-guidance": Trick(guidance=Guidance(1, 5)),  # 72.9 / 31.2 / 40.2; "randomly from 1 to 5"
    # Of ours: the sentence that names the style of the test images; is it the randomness of guidance or its lower mean;
    # and what does the released code do?
    "style-matched": Trick(template="template"),
    **{f"guidance-{s}": Trick(guidance=Guidance(s)) for s in (1, 2, 3, 4, 5)},
    "random-guidance-integer": Trick(guidance=Guidance(1, 5, integer=True)),
    "random-guidance-once": Trick(guidance=Guidance(1, 5, integer=True, once=True)),  # the released code
}
PAPER = ("base", "class-name", "multi-domain", "random-guidance")  # together 81.0 / 45.6 / 39.9


def prompts_for(dataset: str, classes: Sequence[str]) -> Prompts:
    """Return a data set's prompts: those of its own file in `data/prompts`, else the paper's templates.

    Args:
        dataset: a name, as `zsclib.datasets.load` takes it.
        classes: its class names in label order; the paper's templates are filled with these.

    Raises:
        ValueError: the file has prompts for another number of classes.
    """
    paper = replace(load_prompts("cifar10"), classes=tuple(classes), about=dataset)
    return shipped_prompts(dataset, classes) or paper


def plan(
    trick: str,
    prompts: Prompts,
    n: int,
    seed: int = 0,
    *,
    classes: Sequence[str] | None = None,
    shared_noise: bool = False,
) -> pd.DataFrame:
    """Return what images a trick is made of, a row each, as `zsclib.sampling.generate` wants them.

    Row i is image i // C of class i % C, so the plan of a smaller n is the beginning of a larger one's. Domains
    take turns, and each class begins with another, so that the first images show several already. Scale and seed
    depend on the run's seed, the trick, the class and the index.

    Args:
        trick: a key of `TRICKS`.
        prompts: templates and the class names they are filled with.
        n: images per class.
        seed: of the run.
        classes: class names as labels have them, if prompts say them differently.
        shared_noise: give all classes, tricks and domains one and the same sequence of initial noises, as code does
            that sets the same seed before each of them (the released code does).

    Returns:
        Columns source, label, class, trick, prompt, domain, guidance, seed, index.

    Raises:
        ValueError: an unknown trick, no images, no domains, a class without a prompt.
    """
    if trick not in TRICKS:
        raise ValueError(f"plan: there is no trick {trick!r}; known: {', '.join(TRICKS)}")
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
        raise ValueError(f"plan: n must be a positive number of images per class, got {n!r}")
    classes = tuple(prompts.classes if classes is None else classes)
    if len(classes) != len(prompts.classes):
        raise ValueError(f"plan: {len(classes)} classes, but prompts for {len(prompts.classes)}")
    templates = getattr(prompts, TRICKS[trick].template)
    if not templates:
        raise ValueError(f"plan: {trick!r} needs domains, and the prompts of {prompts.about!r} have none")
    if isinstance(templates, str):
        templates = {"": templates}
    filled = {domain: fill(template, prompts.classes) for domain, template in templates.items()}
    rows, domains = [], list(filled)
    for index in range(n):
        # The released code begins the sequence anew for each class and each domain.
        shared = ("shared", index // len(domains))
        for label, name in enumerate(classes):
            domain = domains[(index + label) % len(domains)]
            rows.append(
                {
                    "source": "generated",
                    "label": label,
                    "class": name,
                    "trick": trick,
                    "prompt": filled[domain][label],
                    "domain": domain,
                    "guidance": TRICKS[trick].guidance.draw(seed, trick, name, index),
                    "seed": seed_of(seed, "sample", *(shared if shared_noise else (trick, name, index))),
                    "index": index,
                }
            )
    return pd.DataFrame(rows)


def bag_of_tricks(
    generator: Generator,
    prompts: Prompts,
    n: int,
    tricks: Sequence[str] = PAPER,
    *,
    classes: Sequence[str] | None = None,
    shared_noise: bool = False,
    steps: int = 40,
    execution: Execution = Execution(batch=128),
) -> dict[str, ImageSet]:
    """Generate the training set of each trick, n images per class; `union` makes the paper's set of them.

    Args:
        generator: a text-to-image model; the paper's is Stable Diffusion 1.4, 40 steps of DDIM.
        prompts, n, classes, shared_noise: as in `plan`, with the execution's seed. tricks: keys of `TRICKS`.
        steps, execution: as in `zsclib.sampling.generate`.

    Returns:
        A set per trick, in that order.

    Raises:
        ValueError: bad input to any of the tricks, before the first image of the first is generated.
    """
    classes = tuple(prompts.classes if classes is None else classes)
    options = {"classes": classes, "shared_noise": shared_noise}
    plans = {trick: plan(trick, prompts, n, execution.seed, **options) for trick in tricks}
    for rows in plans.values():
        check_plan(generator, rows, classes, steps)
    options = {"steps": steps, "execution": execution}
    return {trick: generate(generator, rows, classes, **options) for trick, rows in plans.items()}


def union(sets: Iterable[ImageSet], per_class: int | None = None) -> ImageSet:
    """Merge sets of the same classes.

    Args:
        sets: k sets.
        per_class: images per class of the result, of each set the first per_class / k (the first sets give one
            more where that is no whole number), so that a union is as large as its members; None merges all there is.

    Returns:
        The images of the first set, then of the second, and so on.

    Raises:
        ValueError: no sets, other classes or sizes, or a class with too few images.
    """
    sets = list(sets)
    if not sets:
        raise ValueError("union: no sets given")
    for other in sets[1:]:
        if other.classes != sets[0].classes or other.images.shape[1:] != sets[0].images.shape[1:]:
            raise ValueError(f"union: sets must have the same classes and size, got {sets[0]} and {other}")
    if per_class is not None:
        if per_class < len(sets):
            raise ValueError(f"union: {per_class} images per class cannot come from {len(sets)} sets")
        whole, more = divmod(per_class, len(sets))
        sets = [part.per_class(whole + (i < more)) for i, part in enumerate(sets)]
    return concat(sets)


def shrink(images: np.ndarray, size: int, how: str = "antialiased") -> np.ndarray:
    """Make square images smaller, the step from the generator's size to the network's.

    Args:
        images: uint8 (n, side, side, 3).
        size: new side in pixels.
        how: "antialiased" (bicubic, Pillow's: what every other part of this project does), "bilinear" between the
            nearest four pixels without a filter (what the released code does) or "nearest" (one pixel). From 512 to
            32 pixels, "bilinear" reads 4 of the 256 pixels that become one. From 32 to 16 it reads all 4, a mean
            that is itself a filter, and only "nearest" leaves pixels out.

    Returns:
        uint8 (n, size, size, 3).

    Raises:
        ValueError: an unknown way, a size above the images', images that are not square.
    """
    check_images(images, "shrink")
    check_size(size)
    if how not in RESIZES:
        raise ValueError(f"shrink: how must be one of {', '.join(RESIZES)}, got {how!r}")
    if images.shape[1] != images.shape[2] or size > images.shape[1]:
        raise ValueError(
            f"shrink: square images of at least {size} pixels wanted, got {images.shape[1]} x {images.shape[2]}"
        )
    if how == "antialiased":
        return resize(images, size)
    side = images.shape[1]
    if how == "nearest":
        rows = (2 * np.arange(size) + 1) * side // (2 * size)  # the pixel under each new pixel's centre
        return np.ascontiguousarray(images[:, rows][:, :, rows])
    x = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float()
    x = F.interpolate(x, (size, size), mode="bilinear", align_corners=False, antialias=False)
    return x.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
