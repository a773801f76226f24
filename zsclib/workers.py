"""Where jobs run: in this process, in several processes of this machine, or on a Dask cluster.

Expensive work is a list of independent jobs, each a module-level function of arguments that determine its result, so
it matters not where a job runs, in which order, or how often. What is finished goes to the cache as it comes: a run
that was killed goes on where it was.

    jobs = [Job(mean_colour, (part,), key(images=part), len(part)) for part in (images[:2], images[2:])]
    execution = Execution(cache=cache, workers=Workers(1))  # or Workers(2), or Workers("tcp://10.0.0.1:8786")
    means = [arrays["mean"] for arrays in run_jobs(jobs, execution, "colours")]
    np.concatenate(means)                                   # (n, 3)
"""

from __future__ import annotations

import os
import pickle
import signal
import threading
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass, field
from functools import cache as memoised
from multiprocessing import get_context, parent_process
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
AHEAD = 2  # jobs that a worker has at once: the one it works on, and the next
ANSWER_WITHIN = 15  # seconds that a Dask scheduler has to answer
_ALONE = threading.Lock()  # a Dask worker of several threads, too, works on one job at a time: torch's state is shared


class Job(NamedTuple):
    """A call `function(*arguments)` that returns named arrays.

    `key` is what its result is cached under (None: not at all), `size` what it adds to the progress, in images say.
    """

    function: Callable[..., Mapping[str, np.ndarray]]
    arguments: tuple
    key: str | None = None
    size: int = 1


class _Task(NamedTuple):
    """A packed job on its way to a worker."""

    index: int
    name: str
    data: bytes
    deaths: int = 0  # of workers that were at it


class Workers:
    """A place to run jobs, opened when the first job comes; closed with the process, or by `close` or `with`."""

    def __init__(self, where: int | str = 1) -> None:
        """Name the place; nothing is started yet.

        Args:
            where: 1 for this process; N for N processes of this machine, which share its threads and have a graphics
                card each where there are several (as device "cuda"); or the address of a Dask scheduler, such as
                "tcp://10.0.0.1:8786" or "tls://…" (certificates as Dask's own configuration names them), for its
                workers, best of one thread each.

        Raises:
            ValueError: neither a number of processes nor an address.
        """
        if not (is_integer(where, 1) or (isinstance(where, str) and "://" in where)):
            raise ValueError(
                "workers must be a number of processes, 1 or more, or the address of a Dask scheduler, such as "
                f"'tcp://127.0.0.1:8786'; got {where!r}"
            )
        self.where = where
        # A process has an executor of its own: its death is nobody else's.
        self._executors: list[Executor | None] = [None] * (1 if isinstance(where, str) else where)
        self._client: Any = None

    def __repr__(self) -> str:
        return f"Workers({self.where!r})"

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple:
        """Travel as a place of one process: a job that starts jobs of its own runs them where it is."""
        return Workers, (1,)

    def map(self, jobs: Iterable[Job]) -> Iterator[tuple[int, Mapping[str, np.ndarray]]]:
        """Yield (index, result) of each job as it is finished, in any order.

        Jobs are taken from their iterator only shortly before they are worked on. A job whose worker dies is run again.
        Whoever stops early, or fails, drops the jobs that no worker has yet.

        An error of a job comes out here.

        Raises:
            TypeError: a job that cannot travel to another process.
            RuntimeError: a job took its worker down `ATTEMPTS` times, a worker has other code than this process, or
                the cluster does not answer.
        """
        if self.where == 1:
            for index, job in enumerate(jobs):
                yield index, job.function(*job.arguments)
            return
        fresh = (_Task(index, *_packed(job)) for index, job in enumerate(jobs))
        again, dead = deque(), set()
        running: dict[Future, tuple[_Task, int, Executor]] = {}  # in the order in which workers have them
        try:
            while True:
                for place in self._free(Counter(place for _, place, _ in running.values())):
                    if (task := again.popleft() if again else next(fresh, None)) is None:
                        break
                    future, executor = self._submit(task, place)
                    running[future] = task, place, executor
                if not running:
                    return
                wait(running, return_when=FIRST_COMPLETED)
                for future in [future for future in running if future.done()]:
                    task, place, executor = running.pop(future)
                    try:
                        result = future.result()
                    except BrokenProcessPool:
                        if executor not in dead:  # so this was the job at work, the others only waited there
                            dead.add(executor)
                            task = task._replace(deaths=task.deaths + 1)
                            if self._executors[place] is executor:
                                self._executors[place] = None
                        if task.deaths == ATTEMPTS:
                            raise _died(task.name) from None
                        again.append(task)
                    except CancelledError:
                        raise RuntimeError(f"the Dask scheduler at {self.where} is gone; start it again") from None
                    except Exception as error:
                        if type(error).__name__ == "KilledWorker":  # Dask's word for the same
                            raise _died(task.name) from None
                        raise
                    else:
                        yield task.index, result
        finally:
            for future in running:
                future.cancel()

    def close(self) -> None:
        """End the processes when their jobs are done, or leave the cluster; a later job opens the place again."""
        if self._client is not None:
            self._client.close()
        elif isinstance(self.where, int):
            for executor in filter(None, self._executors):
                executor.shutdown(cancel_futures=True)
        self._executors, self._client = [None] * len(self._executors), None

    def _free(self, load: Mapping[int, int]) -> list[int]:
        """Return the places that take another job, each as often as it does, the emptiest first."""
        ahead = AHEAD
        if isinstance(self.where, str):
            ahead *= max(1, len(self._open_client().nthreads()))  # its workers come and go
        return [place for turn in range(ahead) for place in range(len(self._executors)) if load[place] <= turn]

    def _submit(self, task: _Task, place: int) -> tuple[Future, Executor]:
        if (executor := self._executors[place]) is None:
            executor = self._executors[place] = self._open(place)
        try:
            return executor.submit(_run, code_hash(), task.data), executor
        except BrokenProcessPool:  # it died since it was last heard of
            self._executors[place] = None
            return self._submit(task, place)

    def _open(self, place: int) -> Executor:
        if isinstance(self.where, str):
            return self._open_client().get_executor(pure=False)
        threads, cards = max(1, torch.get_num_threads() // self.where), _cards()
        setup = threads, cards[place % len(cards)] if len(cards) > 1 else None
        return ProcessPoolExecutor(1, get_context("spawn"), _begin, setup)  # a fork would copy half of torch's state

    def _open_client(self) -> Any:
        if self._client is None:
            try:
                import dask
                from distributed import Client
            except ImportError as error:
                raise RuntimeError(f"{self!r} needs Dask: pip install 'zsclib[cluster]' ({error})") from None
            dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 GB"})  # a job may hold images
            try:
                self._client = Client(self.where, timeout=ANSWER_WITHIN, set_as_default=False)
            except (OSError, TimeoutError, ValueError) as error:
                raise RuntimeError(
                    f"no Dask scheduler answers at {self.where} ({error}); start one with  dask scheduler"
                ) from None
            weakref.finalize(self, self._client.close)
        return self._client


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How a long computation is carried out. Of these only the seed decides a result.

    Attributes:
        seed: of the run; noise, samples and trainings have seeds of their own that follow from it.
        batch: network evaluations, or images, at once; it changes no result beyond rounding.
        images_at_once: images of a job; its results are cached together.
        cache: where the results of finished jobs go; None: nowhere.
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

    def __getstate__(self) -> dict[str, object]:
        """Travel without progress, which is shown in the process that began the work."""
        return self.__dict__ | {"progress": None}


def run_jobs(jobs: Iterable[Job], execution: Execution, what: str) -> Iterator[Mapping[str, np.ndarray]]:
    """Yield the result of each job, in their order: from the cache where it is there, else computed and cached.

    Errors are those of `Workers.map`; finished jobs stay in the cache.

    Args:
        jobs: each with the key of all that determines its result.
        execution: its cache, progress and workers are used.
        what: the name of the work, for the progress.
    """
    jobs, cache, workers = list(jobs), execution.cache, execution.workers
    cached = {i for i, job in enumerate(jobs) if cache is not None and job.key is not None and job.key in cache}
    missing = [i for i in range(len(jobs)) if i not in cached]
    report = execution.progress or (lambda what, done, total: None)
    done, total, results = sum(jobs[i].size for i in cached), sum(job.size for job in jobs), {}
    report(what, done, total)
    with closing(workers.map(jobs[i] for i in missing)) as computed:
        for i, job in enumerate(jobs):
            if i in cached:
                yield _cached(job, cache, workers)
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


def _cached(job: Job, cache: Cache, workers: Workers) -> Mapping[str, np.ndarray]:
    """Return what the cache has of a job; where that turns out to be damaged, the job is run again."""
    if (arrays := cache.get(job.key)) is None:
        ((_, arrays),) = workers.map([job])
        cache.put(job.key, arrays)
    return arrays


@memoised
def code_hash() -> str:
    """Return the hash of the library's code; a worker that has other code would compute something else."""
    paths = sorted(Path(__file__).parent.rglob("*.py"))
    return digest(*(part for path in paths for part in (path.relative_to(ROOT).as_posix(), hash_code(path))))


def _packed(job: Job) -> tuple[str, bytes]:
    """Return a job's name, and the job as it travels."""
    name = getattr(job.function, "__qualname__", repr(job.function))
    try:
        if job.function.__module__ == "__main__":
            raise TypeError("it belongs to this notebook or script alone")
        return name, pickle.dumps((job.function, job.arguments), pickle.HIGHEST_PROTOCOL)
    except (AttributeError, TypeError, pickle.PicklingError) as error:
        expected = "a job is a function of a module and arguments that pickle takes"
        raise TypeError(f"{name} cannot run in another process: {error}; {expected}") from None


def _died(name: str) -> RuntimeError:
    return RuntimeError(
        f"workers died, again and again, while they ran {name} (out of memory? take fewer workers, or less at once; "
        "a script that starts processes needs  if __name__ == '__main__':)"
    )


# In a worker


def _run(code: str, data: bytes) -> Mapping[str, np.ndarray]:
    """Run a packed job. The code is compared before anything of the job is read."""
    if code != code_hash():
        raise RuntimeError("a worker has other code of zsclib than this process; install one, and start both again")
    with _ALONE:
        try:
            function, arguments = pickle.loads(data)
            return function(*arguments)
        except Exception as error:
            if _travels(error):
                raise
            raise RuntimeError(f"{type(error).__name__}: {error}") from None


def _travels(error: Exception) -> bool:
    """Say whether an error survives the journey; where it is read, one that does not would pass for a dead worker."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return False
    return True


def _cards() -> list[str]:
    """Return the graphics cards of this process, as CUDA_VISIBLE_DEVICES names them."""
    count, named = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    return (named.split(",") if named else [str(i) for i in range(count)])[:count]


def _begin(threads: int, card: str | None) -> None:
    """Set up a process of this machine: its threads, its graphics card, and how it ends."""
    if card is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = card
    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it at once, without a traceback for every process
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Wait for the process that started this one: if it was killed, nobody else would end this one."""
    parent_process().join()
    os._exit(1)
