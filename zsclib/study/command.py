"""The command `zsc study`, and options that it shares with others."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_study(commands: argparse._SubParsersAction) -> None:
    """Add the command to those of `zsc`."""
    study = commands.add_parser(
        "study",
        help="run what a chapter's study lacks, and print its verdicts",
        description="Measure what the frozen study of a chapter lacks, write each job's outcomes into "
        "data/records/study/CHAPTER/ as it is finished, and print the verdicts. Stopped, it goes on where it was.",
    )
    study.add_argument("chapter", metavar="CHAPTER", help="a folder of data/records/study/")
    study.add_argument("--freeze", action="store_true", help="fix models, claims, sizes and seeds of its plan.yml")
    only = "of the plan's sets these only (default: all); other sets can be measured elsewhere at the same time"
    study.add_argument("--sets", nargs="+", metavar="SET", help=only)
    add_workers(study, "network evaluations")
    study.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    add_photographs(study)
    study.set_defaults(command=_study)


def add_workers(parser: argparse.ArgumentParser, at_once: str) -> None:
    """Add the options that say who computes, and how much at once; `workers_of` reads the first."""
    where = "processes, or the address of a Dask scheduler (default: %(default)s)"
    parser.add_argument("--workers", default="1", help=where)
    parser.add_argument("--batch", type=int, default=256, help=f"{at_once} at once (default: %(default)s)")


def add_photographs(parser: argparse.ArgumentParser) -> None:
    """Add the option that says where real photographs are (`zsclib.paths.photographs`)."""
    what = "where sets photographs:NAME are: the folder that `python -m zsclib.pocket photographs` wrote"
    parser.add_argument("--photographs", type=Path, metavar="PATH", help=what)


def workers_of(options: argparse.Namespace) -> int | str:
    """Return the workers that were asked for."""
    return int(options.workers) if options.workers.isdigit() else options.workers


def _study(options: argparse.Namespace) -> None:
    from importlib import import_module

    from zsclib.cache import Cache
    from zsclib.study import freeze, records, verdicts
    from zsclib.study.progress import ProgressBar
    from zsclib.workers import Execution, Workers

    chapter, root = options.chapter, options.root
    if options.freeze:
        frozen = freeze.write_freeze(chapter, root)
        print(f"{chapter}: frozen at {frozen.commit[:10]}; commit {freeze.RECORDS}/{chapter}/freeze.yml")
        return
    frozen = freeze.read_freeze(chapter, root)
    package = import_module(f"zsclib.papers.{freeze.paper_of(chapter)}.outcomes")
    with Workers(workers_of(options)) as workers:
        cache = Cache(root / "results" / "studies" / chapter / "artefacts")
        execution = Execution(batch=options.batch, cache=cache, progress=ProgressBar(), workers=workers)
        done = records.run_study(frozen, package, execution, options.device, root, options.sets)
    if done:
        print(f"{len(done)} jobs measured; commit {freeze.RECORDS}/{chapter}/")
    print(records.summary(frozen, package, root=root).to_string(index=False, header=False))
    judgements = records.verdicts(frozen, package, root)
    print(verdicts.verdict_table(judgements).to_string(index=False))
    print(verdicts.tally(judgements))
