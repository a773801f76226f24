"""Where jobs run: in this process, in several processes of this machine, or on a Dask cluster.

Expensive work is a list of independent jobs, each a module-level function of arguments that determine its result, so
it matters not where a job runs, in which order, or how often. What is finished goes to the cache as it comes: a run
that was killed goes on where it was.

    execution = Execution(seed=0, cache=Cache(), workers=Workers(2))            # or Workers("tcp://10.0.0.1:8786")
    jobs = [Job(score, (images[i : i + 64],), key(images=images[i : i + 64])) for i in range(0, len(images), 64)]
    for arrays in run_jobs(jobs, execution, "scoring"):
        ...
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import cache as memoised
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from zsclib.cache import Cache
from zsclib.checks import is_integer
from zsclib.hashing import digest, hash_code
from zsclib.paths import ROOT

Progress = Callable[[str, int, int], object]  # what is being done, how much is done, of how much
ATTEMPTS = 3  # for a job whose worker dies: the third worker that it takes down is one too many


class Job(NamedTuple):
    """A call `function(*arguments)` that returns named arrays, and the key its result is cached under (None: not at all).

    `size` is what it adds to the progress, such as the number of its images.
    """

    function: Callable[..., Mapping[str, np.ndarray]]
    arguments: tuple
    key: str | None = None
    size: int = 1


class Workers:
    """A place to run jobs, opened when the first job comes and closed with the process, or by `close` or `with`."""

    def __init__(self, where: int | str = 1) -> None:
        """Name the place; nothing is started yet.

        Args:
            where: 1 for this process; N for N processes of this machine, which share its threads and have a graphics
                card each where there are several; or the address of a Dask scheduler, such as "tcp://10.0.0.1:8786"
                or "tls://…" (certificates as Dask's own configuration names them), for its workers.

        Raises:
            ValueError: neither a number of processes nor an address.
        """
        if not (is_integer(where, 1) or (isinstance(where, str) and "://" in where)):
            raise ValueError(
                f"workers must be a number of processes, 1 or more, or the address of a Dask scheduler, such as "
                f"'tcp://127.0.0.1:8786'; got {where!r}"
            )
        self.where = where
        self._executor: Executor | None = None
        self._client: Any = None

    def __repr__(self) -> str:
        return f"Workers({self.where!r})"

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getstate__(self) -> dict:
        """A job that starts jobs of its own runs them where it is."""
        return {"where": 1, "_executor": None, "_client": None}

    @property
    def count(self) -> int:
        """How many jobs can run at once, as far as is known now."""
        if isinstance(self.where, int):
            return self.where
        return max(1, sum(self._open_client().nthreads().values()))

    def map(self, jobs: Iterable[Job]) -> Iterator[tuple[int, Mapping[str, np.ndarray]]]:
        """Yield (index, result) of each job as it is finished, in any order.

        Jobs are taken from their iterator only shortly before they are worked on. A job whose worker dies is run again.

        Raises:
            RuntimeError: a job took its worker down `ATTEMPTS` times, or a worker has other code than this process.
            Whatever a job raises; jobs that had not begun are dropped.
        """
        if self.where == 1:
            for index, job in enumerate(jobs):
                yield index, job.function(*job.arguments)
            return
        waiting, running, left = enumerate(jobs), {}, []  # left: (index, job, attempts) of lost workers
        try:
            while True:
                fresh = ((index, job, 1) for index, job in islice(waiting, max(0, 2 * self.count - len(running))))
                for index, job, attempt in [*left, *fresh]:
                    running[self._submit(job)] = (index, job, attempt)
                left = []
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    index, job, attempt = running.pop(future)
                    try:
                        result = future.result()
                    except BrokenProcessPool:  # all that it had begun is lost with it
                        left = [(index, job, attempt), *running.values()]
                        left = [(index, job, attempt + 1) for index, job, attempt in left]
                        running.clear()
                        self.close()
                        if worst := [job for _, job, attempt in left if attempt > ATTEMPTS]:
                            raise RuntimeError(
                                f"workers died {ATTEMPTS} times while they ran {worst[0].function.__qualname__} "
                                "(out of memory?); take fewer workers, or less at once"
                            ) from None
                        break
                    yield index, result
        finally:
            for future in running:
                future.cancel()

    def close(self) -> None:
        """End the processes, or leave the cluster, which goes on for others; a later job opens the place again."""
        if self._client is not None:
            self._client.close()
        elif self._executor is not None:
            self._executor.shutdown(cancel_futures=True)
        self._executor = self._client = None

    def _submit(self, job: Job) -> Future:
        if self._executor is None:
            on_cluster = isinstance(self.where, str)
            self._executor = self._open_client().get_executor(pure=False) if on_cluster else self._pool()
        try:
            return self._executor.submit(_run, code_hash(), job.function, job.arguments)
        except BrokenProcessPool:  # it died between two jobs
            self.close()
            return self._submit(job)

    def _pool(self) -> ProcessPoolExecutor:
        context = get_context("spawn")  # a fork would copy the state of threads that it does not copy
        turns = context.SimpleQueue()
        for turn in range(self.where):
            turns.put(turn)
        threads = max(1, torch.get_num_threads() // self.where)
        atexit.register(self.close)
        return ProcessPoolExecutor(self.where, context, _begin, (threads, turns, torch.cuda.device_count()))

    def _open_client(self) -> Any:
        if self._client is None:
            try:
                from distributed import Client
            except ImportError as error:
                raise RuntimeError(
                    f"workers={self.where!r} needs Dask: pip install 'zsclib[cluster]' ({error})"
                ) from None
            try:
                self._client = Client(self.where, timeout=30, set_as_default=False)
            except (OSError, TimeoutError) as error:
                raise RuntimeError(
                    f"no Dask scheduler answers at {self.where}: {error}; start one with  dask scheduler"
                ) from None
            atexit.register(self.close)
        return self._client


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How a long computation is carried out. Of these only the seed decides a result.

    Attributes:
        seed: of the run; noise, samples and trainings have seeds of their own that follow from it.
        batch: network evaluations, or images, at once; it changes no result beyond rounding.
        images_at_once: images of a job; its results are cached together.
        cache: where finished jobs are kept; None: nowhere.
        progress: called with what is done, how much, and of how much.
        workers: where jobs run.
    """

    seed: int = 0
    batch: int = 256
    images_at_once: int = 64
    cache: Cache | None = None
    progress: Progress | None = None
    workers: Workers = field(default_factory=Workers)

    def __post_init__(self) -> None:
        for name in ("batch", "images_at_once"):
            if not is_integer(getattr(self, name), 1):
                raise ValueError(f"Execution: {name} must be 1 or more, got {getattr(self, name)!r}")


def run_jobs(jobs: Iterable[Job], execution: Execution, what: str) -> Iterator[Mapping[str, np.ndarray]]:
    """Yield the result of each job in the order given: from the cache where it is there, else computed and cached.

    Args:
        jobs: each with the key of all that determines its result.
        execution: its cache, progress and workers are used.
        what: the name of the work, for the progress.

    Raises:
        What `Workers.map` raises. Finished jobs stay in the cache.
    """
    jobs, cache = list(jobs), execution.cache
    cached = {i for i, job in enumerate(jobs) if cache is not None and job.key is not None and job.key in cache}
    missing = [i for i in range(len(jobs)) if i not in cached]
    computed = execution.workers.map(jobs[i] for i in missing)
    report = execution.progress or (lambda what, done, total: None)
    done, total, results = sum(jobs[i].size for i in cached), sum(job.size for job in jobs), {}
    report(what, done, total)
    for i, job in enumerate(jobs):
        if i in cached:
            yield _cached(job, cache)
            continue
        while i not in results:
            place, arrays = next(computed)
            other = jobs[missing[place]]
            if cache is not None and other.key is not None:
                cache.put(other.key, arrays)
            results[missing[place]] = arrays
            done += other.size
            report(what, done, total)
        yield results.pop(i)


def _cached(job: Job, cache: Cache) -> Mapping[str, np.ndarray]:
    """Return what the cache has of a job; where that turns out to be damaged, it is computed here."""
    if (arrays := cache.get(job.key)) is None:
        cache.put(job.key, arrays := job.function(*job.arguments))
    return arrays


@memoised
def code_hash() -> str:
    """Return the hash of the library's code; a worker that has other code would compute something else."""
    paths = sorted(Path(__file__).parent.rglob("*.py"))
    return digest(*(part for path in paths for part in (path.relative_to(ROOT).as_posix(), hash_code(path))))


def _run(code: str, function: Callable, arguments: tuple) -> Mapping[str, np.ndarray]:
    if code != code_hash():
        raise RuntimeError(
            "a worker's copy of zsclib differs from that of this process; install the same one there"
        )
    return function(*arguments)


def _begin(threads: int, turns: Any, cards: int) -> None:
    """Set up a process of the pool: its threads, and its own graphics card where there are several."""
    if cards > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(turns.get() % cards)
    torch.set_num_threads(threads)


