"""Independent jobs, here or in several processes that share the processor's threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context

import torch

Work = Callable[[Callable, Iterable[tuple]], Iterator]


@contextmanager
def crew(workers: int = 1) -> Iterator[Work]:
    """Give a function `work(function, jobs)` that yields ``function(*job)`` for each job, in the order of the jobs.

    Small networks hardly gain from a second thread, so two processes of one thread do nearly twice as much. Jobs are
    taken from their iterator only shortly before they are worked on; nothing starts before the first.

    Args:
        workers: processes; 1 works in this one. In more, functions must be those of a module, and what they are
            given and return is copied.

    Raises:
        ValueError: workers below 1. What a job raises comes out of `work`, and the jobs after it are dropped.
    """
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise ValueError(f"crew: workers must be a number of processes, 1 or more, got {workers!r}")
    if workers == 1:
        yield lambda function, jobs: (function(*job) for job in jobs)
        return
    threads = max(1, torch.get_num_threads() // workers)
    # spawn: a fork would copy the state of threads that it does not copy
    pool = ProcessPoolExecutor(workers, get_context("spawn"), torch.set_num_threads, (threads,))

    def work(function: Callable, jobs: Iterable[tuple]) -> Iterator:
        waiting: deque = deque()
        for job in jobs:
            waiting.append(pool.submit(function, *job))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    try:
        yield work
    finally:
        pool.shutdown(cancel_futures=True)
