"""The command `zsc pretrain`."""

from __future__ import annotations

import argparse
from pathlib import Path

from zsclib.pretraining.sizes import Amounts, Sizes
from zsclib.study.command import add_photographs

SIZES = {
    "image_side": "side of images in pixels",
    "autoencoder_channels": "of the autoencoder at each resolution; each but the first halves the side",
    "latent_channels": "of a latent",
    "unet_channels": "of the U-Net at each resolution",
    "prompt_tokens": "tokens of a prompt, start and end included",
    "width": "of CLIP's towers",
    "heads": "of attention",
    "text_layers": "of CLIP's text tower",
    "image_layers": "of CLIP's image tower",
    "patch": "side of the image tower's patches in pixels",
}


def add_pretrain(commands: argparse._SubParsersAction) -> None:
    """Add the command to those of `zsc`."""
    parser = commands.add_parser(
        "pretrain",
        help="train pocket models on captioned images of your own",
        description="Train an autoencoder, a CLIP and a U-Net on captioned images, and write their folders, sd and "
        "clip, into OUT, each with a card. Stopped, the same command goes on where it was.",
    )
    add = parser.add_argument
    forms = "folder:PATH, classes:PATH, parquet:PATH, tar:PATH"
    add("pool", metavar="POOL", help=f"world, photographs, or captioned images of your own: {forms}")
    add("--out", required=True, type=Path, metavar="OUT", help="for models and checkpoints")
    add("--images", type=int, metavar="N", help="of the made-up world's pool, so many of each phase (default: all)")
    add("--begin", type=Path, metavar="FOLDER", help="OUT of an earlier call, whose U-Net is trained on")
    for name, amount in vars(Amounts()).items():
        what = f"images that the {name} learns from, one counted as often as it is seen (default: {amount})"
        add(f"--{name}", type=int, default=amount, metavar="N", help=what)
    for name, value in vars(Sizes()).items():
        shown = " ".join(map(str, value)) if isinstance(value, tuple) else value
        many = {"nargs": "+"} if isinstance(value, tuple) else {}
        help_text = f"{SIZES[name]} (default: {shown})"
        add(f"--{name.replace('_', '-')}", type=int, default=value, metavar="N", help=help_text, **many)
    add("--seed", type=int, default=0, metavar="N", help="of weights, batches and noise (default: %(default)s)")
    add("--minutes", type=float, metavar="M", help="stop after so many, to be resumed")
    add("--workers", type=int, default=1, metavar="N", help="processes that make images ready (default: %(default)s)")
    add("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    add_photographs(parser)
    parser.set_defaults(command=_pretrain)


def _pretrain(options: argparse.Namespace) -> None:
    from zsclib.generator_pool import WORLD, learnt_from, make_world
    from zsclib.pretraining.own_pool import pretrain
    from zsclib.study.progress import ProgressBar
    from zsclib.workers import Execution, Workers

    amounts = Amounts(**{name: getattr(options, name) for name in vars(Amounts())})
    sizes = Sizes(**{name: getattr(options, name) for name in vars(Sizes())})
    if options.images and options.pool != WORLD:
        raise ValueError(f"pretrain: --images is for the pool {WORLD!r}; of {options.pool} all images are taken")
    with Workers(options.workers) as workers:
        if options.pool == WORLD:
            make_world(options.images, str(options.out / "world"), workers)
        pool = learnt_from(options.pool, options.images, str(options.out / "world"))
        execution = Execution(seed=options.seed, progress=ProgressBar(), workers=workers)
        more = {"begin": options.begin, "minutes": options.minutes, "device": options.device}
        try:
            done = pretrain(pool, options.out, amounts, sizes, execution=execution, **more)
        except FloatingPointError as error:  # a loss that is not finite
            raise RuntimeError(str(error)) from error
    if done:
        print(f"→ {options.out / 'sd'}, {options.out / 'clip'}: each with its card, README.md")
    else:
        print(f"stopped after {options.minutes:g} minutes; the same command goes on from there")
