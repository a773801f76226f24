"""Jobs come back in order, wherever they are worked on, and their errors with them."""

from __future__ import annotations

import os

import pytest
import torch

from zsclib.workers import crew


def whose(number: int) -> tuple[int, int, int]:
    if number < 0:
        raise ValueError(f"a job of {number}")
    return number, os.getpid(), torch.get_num_threads()


def test_one_worker_works_here_and_takes_jobs_one_by_one():
    taken = []
    jobs = ((taken.append(i) or i,) for i in range(5))
    with crew(1) as work:
        results = work(whose, jobs)
        assert next(results)[:2] == (0, os.getpid()) and taken == [0]
        assert [number for number, *_ in results] == [1, 2, 3, 4]


def test_two_workers_are_other_processes_and_keep_the_order_and_bring_errors():
    with crew(2) as work:
        results = list(work(whose, ((i,) for i in range(9))))
        assert [number for number, *_ in results] == list(range(9))
        assert os.getpid() not in {pid for _, pid, _ in results}
        assert {threads for *_, threads in results} == {max(1, torch.get_num_threads() // 2)}
        with pytest.raises(ValueError, match="a job of -1"):
            list(work(whose, ((i,) for i in (1, -1, 2))))


@pytest.mark.parametrize("workers", [0, -1, 1.5, True])
def test_a_crew_of_no_one_is_refused(workers):
    with pytest.raises(ValueError, match="number of processes"), crew(workers):
        pass
