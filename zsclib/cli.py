"""The command `zsc`: run a notebook, render the book, list what there is."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from zsclib.paths import ROOT, WHERE_PHOTOGRAPHS_ARE
from zsclib.pretraining.command import add_pretrain
from zsclib.study.command import add_photographs, add_study, add_workers, workers_of
from zsclib.study.notebooks import notebook_names
from zsclib.study.parameters import profile_names
from zsclib.study.runs import run_names


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0 when done, 1 when a notebook or the build failed, 2 for wrong usage."""
    for stream in (sys.stdout, sys.stderr):  # a terminal that lacks a character shows another in its place
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    options = _parser().parse_args(arguments)
    if (other := _other_clone(Path.cwd())) is not None:
        print(
            f"zsc: this command belongs to the clone {ROOT}, the working directory to {other}; "
            "run  make setup  there to have one of its own",
            file=sys.stderr,
        )
    if place := getattr(options, "photographs", None):
        os.environ[WHERE_PHOTOGRAPHS_ARE] = str(place.expanduser().resolve())  # kernels and workers have it from here
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a kernel is shut down, not left behind
    try:
        code = options.command(options) or 0
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # as in `zsc list | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        print(f"zsc: {_reason(error)}", file=sys.stderr)
        return 2 if error.errno is None else 1  # without a number it is a refusal of ours
    except ValueError as error:
        print(f"zsc: {error}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        print(f"zsc: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("zsc: stopped; what is finished is kept, the same command goes on from there", file=sys.stderr)
        return 130


def _reason(error: OSError) -> str:
    """Return what stood in the way in one line: the path and the system's reason."""
    return f"{error.filename}: {error.strerror}" if error.errno is not None and error.filename else str(error)


def _other_clone(folder: Path) -> Path | None:
    """Return the clone that a folder lies in, where it is not the one whose code this is."""
    for place in (folder, *folder.parents):
        if (place / "zsclib" / "workers.py").is_file() and (place / "notebooks").is_dir():
            return None if place.resolve() == ROOT else place
    return None


def _run(options: argparse.Namespace) -> None:
    from zsclib.study import runner

    values: dict[str, str] = {}
    for text in options.p:
        name, sign, value = text.partition("=")
        if not sign or not name.strip():
            raise ValueError(f"-p takes name=value, got {text!r}")
        if name.strip() in values:
            raise ValueError(f"-p gives {name.strip()!r} twice")
        values[name.strip()] = value
    folder = runner.run(
        options.notebook, values, options.profile, options.force, options.root, run=options.full_scale
    )
    print(f"→ {_shown(folder / 'executed.ipynb')}")


def _book(options: argparse.Namespace) -> None:
    from zsclib.study import book

    book.build(options.profile, options.root)


def _diagram(options: argparse.Namespace) -> None:
    from zsclib.cache import Cache
    from zsclib.papers.retrieval import diagram
    from zsclib.study.figures.retrieval_diagram import report
    from zsclib.study.progress import ProgressBar
    from zsclib.workers import Execution, Workers

    folder = options.root / diagram.FOLDER
    with Workers(workers_of(options)) as workers:
        cache = Cache(options.root / "results" / "diagram" / "artefacts")
        execution = Execution(batch=options.batch, cache=cache, progress=ProgressBar(), workers=workers)
        diagram.run(folder, execution, device=options.device)
    print(report(diagram.read_record(folder)))


def _list(options: argparse.Namespace) -> None:
    from zsclib.study import runner

    root, profiles = options.root, profile_names(options.root)
    if not notebook_names(root):
        print("there are no notebooks in notebooks/")
    for name in notebook_names(root):
        plans = {profile: runner.plan(name, profile=profile, root=root) for profile in profiles}
        print(name)
        for key, parameter in plans["book"].known.items():
            other = [f"{profile} {plan.passed[key]!r}" for profile, plan in plans.items() if key in plan.passed]
            print(f"  -p {key}={parameter.default!r}  {parameter.kind}{'; ' * bool(other)}{', '.join(other)}")
        for profile, plan in plans.items():
            print(f"  --profile {profile:<6} {runner.why_stale(plan) or 'up to date'}")
        for full_scale in run_names(name, root):
            plan = runner.plan(name, root=root, run=full_scale)
            print(f"  --run {full_scale}  {runner.why_stale(plan) or 'up to date'}")
            print(f"      {plan.run}")


def _pool_index(options: argparse.Namespace) -> None:
    from zsclib.pools.captioned import open_pool
    from zsclib.pools.embeddings import embed
    from zsclib.pools.index import build_index
    from zsclib.study.progress import ProgressBar
    from zsclib.workers import Execution, Workers

    pool = open_pool(options.pool)
    with Workers(workers_of(options)) as workers:
        execution = Execution(batch=options.batch, progress=ProgressBar(), workers=workers)
        embeddings = embed(pool, options.clip, options.out, execution, options.device)
    kind = build_index(embeddings, options.out, options.kind).kind
    unreadable = f", {len(embeddings.unreadable)} images are not readable" * bool(embeddings.unreadable)
    print(f"{len(embeddings)} of {len(pool)} captioned images embedded{unreadable}; searched by: {kind}")
    print(f"→ {_shown(options.out)}")


def _pool_query(options: argparse.Namespace) -> None:
    from zsclib import datasets
    from zsclib.models.clip import open_clip
    from zsclib.pools import copies, queries, retrieval
    from zsclib.pools.captioned import open_pool
    from zsclib.pools.embeddings import open_embeddings
    from zsclib.pools.index import open_index
    from zsclib.pools.ladder import Rules
    from zsclib.pools.model import check_model, side_of
    from zsclib.prompts import with_article
    from zsclib.study.progress import ProgressBar

    classes = [name.strip() for name in options.classes.split(",")] if options.classes else []
    datasets.check_words(classes, (options.template or [""])[0])
    if not classes and not options.images:
        raise ValueError("pool query: name --classes, or give --images of each class, or both")
    rules = Rules(floor=options.floor, claims=options.claims)
    clip = open_clip(options.clip, options.device)
    pool, embeddings = open_pool(options.pool), open_embeddings(options.folder, clip)
    check_model(embeddings, clip, pool)
    index, shots = open_index(options.folder, embeddings), None
    if options.images:
        shots = datasets.load(options.images, options.split, size=side_of(clip))
        classes = list(datasets.named(shots.classes, classes))
    share = options.share if options.share is not None else 0.5 if shots else 1.0
    things = classes if options.template else [with_article(name) for name in classes]
    vectors = queries.text_queries(clip, things, options.template or ["a photo of {}"])
    if shots:
        vectors = queries.mixed_queries(vectors, queries.image_queries(clip, shots), share)
    elif share != 1:
        raise ValueError("pool query: --share mixes texts with --images; give some")
    held_out = None
    if options.held_out:
        test = datasets.load(options.held_out, size=max(side_of(clip), copies.SIDE))
        held_out, names = copies.traces(clip, test.images), test.manifest.get("source", ())
        how = {"rules": rules, "count_and_drop": options.count_and_drop, "names": list(names)}
        dropped = retrieval.refuse_overlap(pool, index, held_out, **how)
        print(f"{len(dropped)} near-copies of {len(held_out)} held-out images in the pool")
    report = retrieval.retrieve_to_folder(
        *(pool, index, vectors, classes, options.n, options.out), choice=(held_out, rules), progress=ProgressBar()
    )
    print(report.round(3).to_string(index=False))
    if len(short := report[report["delivered"] < report["asked"]]):
        print(f"{len(short)} of {len(report)} classes fell short of {options.n} images")
    print(f"→ {_shown(options.out)}; open it as folder:{_shown(options.out)}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="zsc", description=__doc__)
    parser.add_argument("--root", type=Path, default=ROOT, help=argparse.SUPPRESS)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser(
        "run",
        help="run one notebook, unless its result is up to date",
        description="Run one notebook, unless its result is up to date, into results/PROFILE/NOTEBOOK/ or "
        "results/RUN/NOTEBOOK/. What a killed run had finished is used again. Paths in parameters are relative "
        "to the clone.",
    )
    run.add_argument("notebook", metavar="NOTEBOOK", help="its name, or notebooks/NAME.ipynb")
    run.add_argument(
        "-p",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="a parameter of the notebook, a Python or JSON literal; a string needs no quotes (repeatable)",
    )
    which = run.add_mutually_exclusive_group()
    _add_profile(which)
    which.add_argument(
        "--run",
        metavar="RUN",
        dest="full_scale",
        help="a setting that a paper published, in data/runs/, at full scale (`zsc list` shows them)",
    )
    run.add_argument("--force", action="store_true", help="run even if the result is up to date")
    run.set_defaults(command=_run)
    add_photographs(run)

    book = commands.add_parser(
        "book",
        help="run the notebooks that are stale and render the book",
        description="Run the notebooks that are stale and render the book into _build/html/.",
    )
    _add_profile(book)
    book.set_defaults(command=_book)

    add_study(commands)
    about = "run what the retrieval chapter's diagram lacks, and print its rule and error"
    diagram = commands.add_parser("diagram", help=about, description=f"{about}; stopped, it goes on where it was")
    add_workers(diagram, "images")
    diagram.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    diagram.set_defaults(command=_diagram)

    _add_pool(commands)
    add_pretrain(commands)

    listing = commands.add_parser(
        "list", help="list the notebooks, their parameters, profiles and runs, and what is up to date"
    )
    listing.set_defaults(command=_list)
    return parser


def _add_pool(commands: argparse._SubParsersAction) -> None:
    pool = commands.add_parser(
        "pool",
        help="embed captioned images of your own, and retrieve the ones nearest to each class",
        description="Embed captioned images once, then retrieve those nearest to texts, to images, or to a mix.",
    )
    actions = pool.add_subparsers(required=True, metavar="ACTION")

    index = actions.add_parser(
        "index",
        help="embed a pool",
        description="Embed a pool of captioned images into a folder, in clip-retrieval's layout. Stopped, it goes on "
        "where it was.",
    )
    place = "a folder of images with captions, Parquet files or tar shards: PATH, folder:PATH, parquet:PATH or tar:PATH"
    index.add_argument("pool", metavar="POOL", help=place)
    index.add_argument("--kind", default="auto", help="of the index: auto, exact or ivf-pq (default: %(default)s)")
    add_workers(index, "images")
    index.set_defaults(command=_pool_index)

    query = actions.add_parser(
        "query",
        help="retrieve images for classes",
        description="Write the images of a pool that are nearest to each class into OUT/CLASS/, with report.csv and "
        "manifest.csv; OUT opens as folder:OUT wherever a data set is named. A class that falls short is reported.",
    )
    query.add_argument("folder", metavar="FOLDER", type=Path, help="what `zsc pool index` or clip-retrieval made")
    query.add_argument("--pool", required=True, help=f"the images: {place}")
    query.add_argument("--classes", default="", help="names, as in 'a star,a car'; left out, those of --images")
    query.add_argument("--template", action="append", help="a sentence with {} (repeatable; default: a photo of {})")
    query.add_argument("--images", default="", help="images of each class, such as folder:PATH, to search by")
    query.add_argument("--split", default="test", help="of --images (default: %(default)s)")
    query.add_argument("--share", type=float, help="of the texts beside --images, 0 to 1 (default: 0.5)")
    query.add_argument("-n", type=int, default=100, help="images of each class (default: %(default)s)")
    query.add_argument("--held-out", default="", help="test images, such as folder:PATH, that the pool must not hold")
    query.add_argument("--count-and-drop", action="store_true", help="drop their near-copies, do not refuse the pool")
    query.add_argument("--floor", type=float, help="least similarity to the query (default: none)")
    claims = "nearest: an image is its nearest class's; taken: it may go to another one when that is full"
    query.add_argument("--claims", default="nearest", help=f"{claims} (default: %(default)s)")
    query.set_defaults(command=_pool_query)
    for parser in (index, query):
        parser.add_argument("--clip", required=True, metavar="FOLDER", help="a CLIP folder, as transformers saves it")
        parser.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="a new folder for the result")
        parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")


def _add_profile(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--profile",
        metavar="PROFILE",
        default="book",
        help=f"whose values in data/profiles/ to use: {', '.join(profile_names())} (default: %(default)s)",
    )


def _shown(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


if __name__ == "__main__":
    sys.exit(main())
