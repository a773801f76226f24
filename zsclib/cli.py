"""The command `zsc`: run a notebook, render the book, list what there is."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from zsclib.paths import ROOT
from zsclib.study.notebooks import notebook_names
from zsclib.study.parameters import PROFILES


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

    parameters: dict[str, str] = {}
    for text in options.p:
        name, sign, value = text.partition("=")
        if not sign or not name.strip():
            raise ValueError(f"-p takes name=value, got {text!r}")
        if name.strip() in parameters:
            raise ValueError(f"-p gives {name.strip()!r} twice")
        parameters[name.strip()] = value
    folder = runner.run(options.notebook, parameters, options.profile, options.force, options.root)
    print(f"→ {_shown(folder / 'executed.ipynb')}")


def _book(options: argparse.Namespace) -> None:
    from zsclib.study import book

    book.build(options.profile)


def _list(options: argparse.Namespace) -> None:
    from zsclib.study import runner

    if not notebook_names(options.root):
        print("there are no notebooks in notebooks/")
    for name in notebook_names(options.root):
        plans = {profile: runner.plan(name, profile=profile, root=options.root) for profile in PROFILES}
        print(name)
        for key, parameter in plans["book"].known.items():
            other = [
                f"{profile} {plan.passed[key]!r}" for profile, plan in plans.items() if key in plan.passed
            ]
            print(f"  -p {key}={parameter.default!r}  {parameter.kind}{'; ' * bool(other)}{', '.join(other)}")
        for profile in PROFILES:
            state = runner.stale_because(name, profile, root=options.root) or "up to date"
            print(f"  --profile {profile:<6} {state}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="zsc", description=__doc__)
    parser.add_argument("--root", type=Path, default=ROOT, help=argparse.SUPPRESS)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser(
        "run",
        help="run one notebook, unless its result is up to date",
        description="Run one notebook, unless its result is up to date, into results/PROFILE/NOTEBOOK/. "
        "What a killed run had finished is used again. Paths in parameters are relative to the clone.",
    )
    run.add_argument("notebook", metavar="NOTEBOOK", help="its name, or notebooks/NAME.ipynb")
    run.add_argument(
        "-p",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="a parameter of the notebook, a Python or JSON literal; a string needs no quotes (repeatable)",
    )
    _add_profile(run)
    run.add_argument("--force", action="store_true", help="run even if the result is up to date")
    run.set_defaults(command=_run)

    book = commands.add_parser(
        "book",
        help="run the notebooks that are stale and render the book",
        description="Run the notebooks that are stale and render the book into _build/html/.",
    )
    _add_profile(book)
    book.set_defaults(command=_book)

    listing = commands.add_parser("list", help="list the notebooks, their parameters and what is up to date")
    listing.set_defaults(command=_list)
    return parser


def _add_profile(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--profile",
        choices=PROFILES,
        default="book",
        help="whose values in data/profiles/ to use (default: %(default)s)",
    )


def _shown(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


if __name__ == "__main__":
    sys.exit(main())
