"""Jobs give the same numbers wherever they run: here, in processes, on a Dask cluster; and whatever dies meanwhile."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from zsclib import workers as module
from zsclib.cache import Cache
from zsclib.hashing import key
from zsclib.paths import ROOT
from zsclib.workers import Execution, Job, Workers, run_jobs

# Jobs: functions of a module, as in the library


def numbers(number: int, log: Path | None = None) -> dict[str, np.ndarray]:
    """Return what depends on the number alone, to the last bit, and who computed it."""
    if log is not None:
        with (log / str(number)).open("a") as file:
            file.write("begun\n")
    z = torch.randn(64, 64, generator=torch.Generator().manual_seed(number))
    for _ in range(5):
        z = torch.nn.functional.layer_norm(z @ z.T, (64,)).tanh()
    return {"z": z.numpy(), "pid": np.array(os.getpid()), "threads": np.array(torch.get_num_threads())}


def slow_numbers(number: int, log: Path) -> dict[str, np.ndarray]:
    arrays = numbers(number, log)
    time.sleep(0.3)
    return arrays


def fails_without(flag: Path, number: int, log: Path) -> dict[str, np.ndarray]:
    arrays = numbers(number, log)
    if not flag.exists():
        raise ValueError(f"job {number} has no flag")
    return arrays


def kills_its_worker(flag: Path | None, number: int, log: Path) -> dict[str, np.ndarray]:
    """Kill the process that works on it: always, or with a flag only until the flag is there."""
    arrays = numbers(number, log)
    if flag is None or not flag.exists():
        if flag is not None:
            flag.touch()
        time.sleep(0.5)  # for results of other jobs to be on their way
        os.kill(os.getpid(), signal.SIGKILL)
    return arrays


class AwkwardError(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def fails_awkwardly() -> dict[str, np.ndarray]:
    raise AwkwardError(1, 2)


def card() -> dict[str, np.ndarray]:
    time.sleep(0.5)
    return {"card": np.array(int(os.environ.get("CUDA_VISIBLE_DEVICES", "-1")))}


def jobs_within(execution: Execution) -> dict[str, np.ndarray]:
    """Start jobs of its own, as a job may that is given an Execution."""
    z = [arrays["z"] for arrays in run_jobs([Job(numbers, (i,)) for i in range(2)], execution, "inner")]
    return {"z": np.stack(z), "where": np.array(execution.workers.where)}


# Places


@pytest.fixture(scope="module")
def pool() -> Iterator[Workers]:
    with Workers(2) as workers:
        yield workers


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A real scheduler and two workers, on loopback; a task may take down one worker, not two."""
    import dask
    from distributed import LocalCluster

    settings = {"distributed.scheduler.allowed-failures": 1}
    options = {"host": "127.0.0.1", "dashboard_address": None, "silence_logs": 50}
    with (
        dask.config.set(settings),
        LocalCluster(n_workers=2, threads_per_worker=1, processes=True, **options) as cluster,
    ):
        yield cluster.scheduler_address


@pytest.fixture(scope="module")
def cluster(address: str) -> Iterator[Workers]:
    with Workers(address) as workers:
        yield workers


@pytest.fixture(params=["pool", "cluster"])
def elsewhere(request: pytest.FixtureRequest) -> Workers:
    return request.getfixturevalue(request.param)


@pytest.fixture(params=["here", "pool", "cluster"])
def place(request: pytest.FixtureRequest) -> Workers:
    return Workers() if request.param == "here" else request.getfixturevalue(request.param)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    (tmp_path / "log").mkdir()
    return tmp_path / "log"


def begun(log: Path) -> dict[int, int]:
    """Return how often each job was begun."""
    return {int(path.name): len(path.read_text().splitlines()) for path in log.iterdir()}


def run(jobs: list[Job], workers: Workers, cache: Cache | None = None) -> list[dict[str, np.ndarray]]:
    return list(run_jobs(jobs, Execution(workers=workers, cache=cache), "numbers"))


def same(results: list[dict[str, np.ndarray]], numbers_of: range | list[int]) -> bool:
    expected = [numbers(number)["z"] for number in numbers_of]
    return len(results) == len(expected) and all(
        np.array_equal(arrays["z"], z) for arrays, z in zip(results, expected, strict=True)
    )


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# Results


def test_results_come_in_order_and_are_the_same_everywhere(place: Workers) -> None:
    results = run([Job(numbers, (i,)) for i in range(9)], place)
    assert same(results, range(9))
    pids = {int(arrays["pid"]) for arrays in results}
    assert {int(arrays["threads"]) for arrays in results} == {1}
    assert pids == {os.getpid()} if place.where == 1 else len(pids) == 2 and os.getpid() not in pids


def test_jobs_of_this_process_are_taken_one_by_one() -> None:
    taken = []
    jobs = (taken.append(i) or Job(numbers, (i,)) for i in range(5))
    results = Workers().map(jobs)
    assert next(results)[0] == 0 and taken == [0]
    assert [index for index, _ in results] == [1, 2, 3, 4]


def test_no_jobs_are_no_results_and_nothing_is_started(pool: Workers) -> None:
    assert run([], Workers(2)) == run([], pool) == []
    workers = Workers(3)
    assert list(workers.map([])) == [] and workers._executors == [None] * 3


def test_finished_jobs_come_from_the_cache(place: Workers, tmp_path: Path, log: Path) -> None:
    cache, shown = Cache(tmp_path / "cache"), []
    jobs = [Job(numbers, (i, log), key(number=i), size=10) for i in range(4)]
    assert same(run(jobs[1:3], place, cache), [1, 2])
    execution = Execution(workers=place, cache=cache, progress=lambda *step: shown.append(step))
    assert same(list(run_jobs(jobs, execution, "numbers")), range(4))
    assert begun(log) == dict.fromkeys(range(4), 1)
    assert shown == [("numbers", 20, 40), ("numbers", 30, 40), ("numbers", 40, 40)]
    shown.clear()
    assert same(list(run_jobs(jobs, execution, "numbers")), range(4))
    assert begun(log) == dict.fromkeys(range(4), 1)
    assert shown == [("numbers", 40, 40)]


def test_jobs_without_a_key_are_not_cached(place: Workers, tmp_path: Path, log: Path) -> None:
    for _ in range(2):
        assert same(
            run([Job(numbers, (i, log)) for i in range(2)], place, Cache(tmp_path / "cache")), range(2)
        )
    assert begun(log) == {0: 2, 1: 2} and not (tmp_path / "cache").exists()


def test_a_damaged_result_is_computed_again(
    place: Workers, tmp_path: Path, log: Path, capsys: pytest.CaptureFixture
) -> None:
    cache = Cache(tmp_path / "cache")
    jobs = [Job(numbers, (i, log), key(number=i)) for i in range(3)]
    run(jobs, place, cache)
    damaged = cache.folder / f"{jobs[1].key}.safetensors"
    data = bytearray(damaged.read_bytes())
    data[-1] ^= 1
    damaged.write_bytes(data)
    assert same(run(jobs, place, cache), range(3))
    assert begun(log) == {0: 1, 1: 2, 2: 1}
    assert "is damaged" in capsys.readouterr().out
    assert same(run(jobs, place, cache), range(3))
    assert begun(log) == {0: 1, 1: 2, 2: 1}


# Failures


def test_an_error_comes_back_and_the_next_run_goes_on(place: Workers, tmp_path: Path, log: Path) -> None:
    cache, flag = Cache(tmp_path / "cache"), tmp_path / "flag"
    jobs = [Job(numbers, (i, log), key(number=i)) for i in range(6)]
    jobs[3] = Job(fails_without, (flag, 3, log), key(number=3))
    received = []
    with pytest.raises(ValueError, match="job 3 has no flag"):
        received.extend(run_jobs(jobs, Execution(workers=place, cache=cache), "numbers"))
    assert same(received, range(len(received))) and len(received) <= 3
    finished = [i for i, job in enumerate(jobs) if job.key in cache]
    assert set(range(len(received))) <= set(finished)
    time.sleep(1)  # other workers may have been at work
    before = begun(log)
    flag.touch()
    assert same(run(jobs, place, cache), range(6))
    again = {i for i, times in begun(log).items() if times > before.get(i, 0)}
    assert again == set(range(6)) - set(finished), "the finished ones are not run again"


def test_an_error_that_cannot_travel_comes_as_its_text(elsewhere: Workers) -> None:
    with pytest.raises(RuntimeError, match="AwkwardError: 1 and 2"):
        run([Job(fails_awkwardly, ())], elsewhere)
    assert same(run([Job(numbers, (1,))], elsewhere), [1])


def test_a_killed_worker_costs_only_its_job(elsewhere: Workers, tmp_path: Path, log: Path) -> None:
    """The job is run again; the others, also the one that waited behind it, are run once."""
    cache = Cache(tmp_path / "cache")
    jobs = [Job(numbers, (i, log), key(number=i)) for i in range(9)]
    jobs[2] = Job(kills_its_worker, (tmp_path / "flag", 2, log), key(number=2))
    assert same(run(jobs, elsewhere, cache), range(9))
    assert begun(log) == dict.fromkeys(range(9), 1) | {2: 2}
    assert all(job.key in cache for job in jobs)


def test_a_worker_may_be_killed_in_the_middle(elsewhere: Workers, log: Path) -> None:
    results = []
    for arrays in run_jobs(
        [Job(slow_numbers, (i, log)) for i in range(10)], Execution(workers=elsewhere), "n"
    ):
        if not results:
            os.kill(int(arrays["pid"]), signal.SIGKILL)
        results.append(arrays)
    assert same(results, range(10))
    assert max(begun(log).values()) <= 2 and sum(begun(log).values()) <= 12
    assert len({int(arrays["pid"]) for arrays in results}) >= 2


def test_a_worker_killed_between_two_runs_is_replaced(pool: Workers) -> None:
    pids = {int(arrays["pid"]) for arrays in run([Job(numbers, (i,)) for i in range(4)], pool)}
    os.kill(killed := pids.pop(), signal.SIGKILL)
    time.sleep(0.5)
    results = run([Job(numbers, (i,)) for i in range(4)], pool)
    assert same(results, range(4)) and killed not in {int(arrays["pid"]) for arrays in results}


def test_a_job_that_always_kills_its_worker_ends_in_a_clear_error(
    elsewhere: Workers, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ATTEMPTS", 2)  # as the cluster allows; each takes a new process
    jobs = [Job(numbers, (0, log)), Job(kills_its_worker, (None, 1, log)), Job(numbers, (2, log))]
    with pytest.raises(RuntimeError, match="again and again, while they ran kills_its_worker .out of memory"):
        run(jobs, elsewhere)
    assert begun(log)[1] == 2
    assert same(run([Job(numbers, (i,)) for i in range(3)], elsewhere), range(3)), "the place goes on"


def test_whoever_stops_early_drops_what_was_not_begun(elsewhere: Workers, log: Path) -> None:
    results = elsewhere.map([Job(slow_numbers, (i, log)) for i in range(40)])
    next(results)  # whichever is finished first
    results.close()
    time.sleep(2)  # for what was not dropped to begin
    assert same(run([Job(numbers, (i,)) for i in range(2)], elsewhere), range(2))
    # A worker ends what it has, even one that was still starting when the others were stopped.
    assert sum(begun(log).values()) <= 2 * module.AHEAD


def test_other_code_is_refused(elsewhere: Workers, monkeypatch: pytest.MonkeyPatch, log: Path) -> None:
    monkeypatch.setattr(module, "code_hash", lambda: "that of another version")
    with pytest.raises(RuntimeError, match="a worker has other code of zsclib"):
        run([Job(numbers, (0, log))], elsewhere)
    assert begun(log) == {}


@pytest.mark.parametrize("where", [0, -1, 1.5, True, None, "localhost", "tcp:8786", b"tcp://h:1", [2]])
def test_a_place_that_is_none_is_refused(where: object) -> None:
    with pytest.raises(ValueError, match="workers must be a number of processes, 1 or more, or the address"):
        Workers(where)


@pytest.mark.parametrize("name", ["batch", "images_at_once"])
@pytest.mark.parametrize("value", [0, 1.5, True, None])
def test_wrong_sizes_are_refused(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"Execution: {name} must be 1 or more"):
        Execution(**{name: value})


@pytest.mark.parametrize("where", ["tcp://127.0.0.1:9", "carrier-pigeon://127.0.0.1:9", "tcp://127.0.0.1"])
def test_an_address_where_nobody_listens(
    where: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(module, "ANSWER_WITHIN", 1)
    with pytest.raises(
        RuntimeError, match=f"^no Dask scheduler answers at {where} .*dask scheduler$"
    ) as error:
        run([Job(numbers, (0,))], Workers(where))
    assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")


def test_a_scheduler_that_goes_away_ends_in_a_clear_error(tmp_path: Path) -> None:
    """It has no workers, so the jobs wait there, until it is killed; finished ones would be in the cache."""
    options = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", tmp_path / "s.json"]
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", *options]
    scheduler = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        while not (tmp_path / "s.json").exists():
            assert scheduler.poll() is None
            time.sleep(0.2)

        def jobs() -> Iterator[Job]:
            yield Job(numbers, (0,))
            threading.Timer(1, scheduler.kill).start()
            yield Job(numbers, (1,))

        workers = Workers(json.loads((tmp_path / "s.json").read_text())["address"])
        with pytest.raises(RuntimeError, match="the Dask scheduler at tcp://127.0.0.1:.* is gone; start it again"):
            list(workers.map(jobs()))
    finally:
        scheduler.kill()
        scheduler.wait()


def test_without_dask_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(RuntimeError, match=r"needs Dask: pip install 'zsclib\[cluster\]'"):
        run([Job(numbers, (0,))], Workers("tcp://127.0.0.1:9"))


def local_function(number: int) -> Callable:
    def within() -> dict[str, np.ndarray]:
        return numbers(number)

    return within


@pytest.mark.parametrize(
    ("job", "message"),
    [
        (Job(lambda: numbers(1), ()), "<lambda> cannot run in another process"),
        (Job(local_function(1), ()), "within cannot run in another process"),
        (Job(numbers, (lambda: 1,)), "numbers cannot run in another process: .*lambda"),
        (Job(numbers, (open(os.devnull),)), "numbers cannot run in another process: .*TextIOWrapper"),  # noqa: SIM115
    ],
)
def test_a_job_that_cannot_travel_is_refused(job: Job, message: str, pool: Workers) -> None:
    with pytest.raises(TypeError, match=message):
        run([job], pool)
    assert same(run([Job(numbers, (1,))], pool), [1])


def test_a_function_of_a_notebook_is_refused(pool: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_function, "__module__", "__main__")
    with pytest.raises(TypeError, match="local_function .* notebook or script alone.* a function of a module"):
        run([Job(local_function, (1,))], pool)


# Around the jobs


def test_an_execution_travels_without_its_place_and_its_progress(elsewhere: Workers, tmp_path: Path) -> None:
    execution = Execution(seed=3, batch=5, cache=Cache(tmp_path), progress=lambda *_: None, workers=elsewhere)
    copy = pickle.loads(pickle.dumps(execution))
    assert (copy.seed, copy.batch, copy.cache.folder) == (3, 5, tmp_path)
    assert copy.progress is None and copy.workers.where == 1
    assert execution.progress is not None and execution.workers is elsewhere
    ((arrays),) = run([Job(jobs_within, (execution,))], elsewhere)
    assert arrays["where"] == 1
    assert same([{"z": z} for z in arrays["z"]], range(2))


def test_cards_are_those_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert module._cards() == ["0", "1", "2"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5,7")
    assert module._cards() == ["2", "5", "7"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert module._cards() == []


def test_every_process_has_a_card_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(module, "_cards", lambda: ["5", "7"])
    with Workers(2) as workers:
        assert {int(arrays["card"]) for arrays in run([Job(card, ())] * 4, workers)} == {5, 7}


def test_nothing_listens_beyond_this_machine(pool: Workers, cluster: Workers) -> None:
    import psutil

    run([Job(numbers, (1,))], pool)
    run([Job(numbers, (1,))], cluster)
    here = psutil.Process()
    sockets = [(p.pid, s) for p in (here, *here.children(recursive=True)) for s in p.net_connections("inet")]
    addresses = Counter(s.laddr.ip for _, s in sockets if s.status == psutil.CONN_LISTEN)
    assert set(addresses) == {"127.0.0.1"}


SCRIPT = """
import signal, sys, time
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background has it ignored
sys.path.insert(0, {tests!r})
from test_workers import numbers, slow_numbers
from zsclib.workers import Execution, Job, Workers, run_jobs

if __name__ == "__main__":
    jobs = [Job(slow_numbers, (i, Path(sys.argv[1]))) for i in range(400)]
    for arrays in run_jobs(jobs, Execution(workers=Workers(2)), "numbers"):
        print(int(arrays["pid"]), flush=True)
"""


@pytest.fixture
def script(tmp_path: Path, log: Path) -> Iterator[subprocess.Popen]:
    path = tmp_path / "script.py"
    path.write_text(SCRIPT.format(tests=str(Path(__file__).parent)))
    process = subprocess.Popen(
        [sys.executable, path, log],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )
    yield process
    process.kill()
    process.communicate()


def gone(pids: set[int], seconds: float = 60) -> bool:
    import psutil

    until = time.monotonic() + seconds
    while alive := {pid for pid in pids if psutil.pid_exists(pid)}:
        if time.monotonic() > until:
            return not alive
        time.sleep(0.1)
    return True


def test_processes_end_when_the_one_that_began_them_is_killed(script: subprocess.Popen) -> None:
    pids = {int(script.stdout.readline()) for _ in range(6)}
    os.kill(script.pid, signal.SIGKILL)
    script.wait()
    assert pids and gone(pids)


def test_ctrl_c_ends_all_at_once_with_one_traceback(script: subprocess.Popen) -> None:
    pids = {int(script.stdout.readline()) for _ in range(6)}
    os.killpg(script.pid, signal.SIGINT)
    _, errors = script.communicate(timeout=300)
    assert script.returncode != 0
    assert errors.count("Traceback") == 1 and errors.strip().endswith("KeyboardInterrupt")
    assert gone(pids)


# A real step of the library


def test_the_diffusion_classifier_gives_the_same_errors_everywhere(
    elsewhere: Workers, folders: dict[str, Path]
) -> None:
    from zsclib.models.generator import open_generator
    from zsclib.papers.diffusion_classifier.classifier import classify
    from zsclib.papers.diffusion_classifier.error_matrix import exhaustive

    generator = open_generator(folders["stable_diffusion_1"])
    images = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
    prompts = ["a photo of a cat", "a photo of a dog", "a cup"]
    here, there = (
        classify(
            generator,
            images,
            prompts,
            exhaustive(4),
            execution=Execution(seed=1, batch=4, images_at_once=2, workers=workers),
        )
        for workers in (Workers(), elsewhere)
    )
    np.testing.assert_array_equal(here.errors, there.errors)
    np.testing.assert_array_equal(here.prediction, there.prediction)
