"""Where retrieval, prompting and a personalised generator win: one comparison at each point of a design over dials.

    run(folder, Execution(cache=Cache(), workers=Workers(2)))
    record = read_record(folder)
    rule = fit(record.of(FIT))                              # zsclib.papers.retrieval.rule

The folder is data/records/retrieval_diagram. `plan.yml` says what is drawn and measured, `points.csv` which points the
seed has drawn (`zsclib.papers.retrieval.design`), and each point leaves a file of its own: which test images every arm
has correct, and what was measured beforehand. A file is written once, and whole; a run that was stopped goes on with
the points that lack one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from zsclib.hashing import key
from zsclib.papers.retrieval.arms import make_extra
from zsclib.papers.retrieval.design import FOLDER, OTHER, Plan, Point, draw, read_plan
from zsclib.papers.retrieval.dials import Dials
from zsclib.papers.retrieval.experiments import Cell
from zsclib.papers.retrieval.experiments import run as run_cells
from zsclib.papers.retrieval.pool_arms import prepare
from zsclib.papers.retrieval.similarity import PERSONALISED, POOL, PROMPTED, measured
from zsclib.papers.retrieval.training_sets import RECIPE, Setting, data, open_models
from zsclib.paths import ROOT, atomic
from zsclib.workers import Execution, Job, Workers, code_hash, run_jobs
from zsclib.world.targets import CLASSES

SOURCES = {  # where images may come from → the arm that takes them there
    "retrieval": "retrieved by text",
    "prompting": "templates",
    "personalised": "conditioning",
    "nothing": "real only",
}
MEASURED = {POOL: SOURCES["retrieval"], PROMPTED: SOURCES["prompting"], PERSONALISED: SOURCES["personalised"]}
ELSEWHERE = ("model", "clip", "index", "pool_cache", "device", "precision", "allow_network", "dials")


@dataclass(frozen=True, eq=False, kw_only=True)
class Outcome:
    """What a point came to: source → correctness, bool (repeats, images); and what was measured before, by name."""

    point: Point
    correct: Mapping[str, np.ndarray]
    measured: Mapping[str, float]
    seconds: float = 0.0

    def accuracy(self, source: str) -> float:
        """Return the mean accuracy with a source."""
        return float(self.correct[source].mean())


@dataclass(frozen=True, eq=False, kw_only=True)
class Record:
    """A diagram's plan, its points, and the outcomes that are there, by number."""

    plan: Plan
    points: list[Point]
    outcomes: list[Outcome]

    def of(self, role: str) -> list[Outcome]:
        """Return the outcomes of points that are there for one thing: `FIT`, `HELD_OUT` or `OTHER`."""
        return [one for one in self.outcomes if one.point.role == role]


def run(
    folder: Path | str, execution: Execution, places: Mapping[str, str] | None = None, device: str = "cpu"
) -> list[Point]:
    """Measure the points that lack an outcome, each written as it is finished; return them.

    Args:
        folder: with `plan.yml`.
        execution: extra images and trainings are jobs on its workers, cached in its cache.
        places: `index` and `pool_cache`, folders for the pool's features and its images.
        device: where models run.

    Raises:
        ValueError: the plan has changed since a point was measured, or a model, or since points were drawn.
        FileNotFoundError: a further generator is not there; all other points are measured before.
    """
    plan, points, todo, absent = read_plan(folder), draw(folder), {}, set()
    for point in points:
        if point.role == OTHER and not Path(_folder(point.generator)).is_dir():
            absent.add(point.generator)
            continue
        setting = setting_of(plan, point, places or {}, device)
        path, name = _path(folder, point), _identity(plan, point, setting)
        if not path.is_file():
            todo[name] = (point, setting)
        elif (known := _about(path)["identity"]) != name:
            raise ValueError(f"{path}: measured under another plan or with other models ({known}, now {name})")
    if todo:  # else two workers would embed the pool at once
        captions = max(point.captions for point, _ in todo.values())
        prepare(replace(next(iter(todo.values()))[1], dials=Dials(captions=captions)), execution)
    inside = replace(execution, progress=None, workers=Workers(1))
    jobs = [Job(_measured, (plan, point, setting, inside), name) for name, (point, setting) in todo.items()]
    results = run_jobs(jobs, execution, "points of the diagram")
    for (name, (point, _)), arrays in zip(todo.items(), results, strict=True):
        _write(_path(folder, point), point, name, arrays)
    if absent:
        raise FileNotFoundError(
            f"the plan's other points are measured, but not those of {', '.join(sorted(absent))}: no such folder; "
            "`python -m zsclib.pocket earlier` and `… unet` make them (see `zsclib.pocket.earlier`)"
        )
    return [point for point, _ in todo.values()]


def measure(plan: Plan, point: Point, setting: Setting, execution: Execution) -> Outcome:
    """Compare the sources at one point: equal counts, equal updates, the same test images."""
    seeds = [plan.repeats * point.like + repeat for repeat in range(plan.repeats)]
    classes = CLASSES.get(point.target.partition(":")[0]) or data(setting, point.target, seeds[0]).real.classes
    setting = replace(setting, dials=replace(setting.dials, thinned=tuple(classes), seed=point.like))
    cells = [
        Cell(point.target, arm, times=setting.times, length=1, seed=seed) for arm in SOURCES.values() for seed in seeds
    ]
    table = run_cells(setting, cells, execution)
    before = []
    for seed in seeds:
        extra = make_extra(setting, point.target, seed, list(MEASURED.values()), execution)
        before.append(measured(setting, data(setting, point.target, seed), extra, execution, MEASURED))
    correct = {}
    for source, arm in SOURCES.items():
        correct[source] = np.stack(table[table.arm == arm].sort_values("seed")["correct"].tolist())
    means = {what: float(np.mean([one[what] for one in before])) for what in before[0]}
    held_out = table.groupby("arm")["held_out"].mean()
    means |= {f"held-out accuracy, {source}": float(held_out[arm]) for source, arm in SOURCES.items()}
    return Outcome(point=point, correct=correct, measured=means)


def setting_of(plan: Plan, point: Point, places: Mapping[str, str], device: str) -> Setting:
    """Return the setting of a point's comparison; which classes are thinned, `measure` knows from the target."""
    values = {name: tuple(v) if isinstance(v, list) else v for name, v in plan.settings.items()}
    steps = values.pop("network_steps", RECIPE.steps)
    rates = tuple(dict(values.pop("learning_rates", {})).items())
    return Setting(
        model=_folder(point.generator),
        clip=_folder(plan.models[1]),
        index=places.get("index", str(ROOT / "results" / "diagram" / "index")),
        pool_cache=places.get("pool_cache", str(ROOT / "results" / "diagram" / "pool")),
        dials=Dials(size=point.size, frequency=point.frequency, captions=point.captions, noise=point.noise),
        shots=point.shots,
        test_seed=values.pop("test_seed", 1) + point.like,
        recipe=replace(RECIPE, steps=steps),
        learning_rates=rates,
        device=device,
        **values,
    )


def read_record(folder: Path | str = ROOT / FOLDER) -> Record:
    """Read what there is of a diagram.

    Raises:
        ValueError: a point's file is damaged, or of another point than the plan's.
    """
    points, outcomes = draw(folder), []
    for point in points:
        path = _path(folder, point)
        if not path.is_file():
            continue
        about = _about(path)
        if about["point"] != asdict(point):
            raise ValueError(f"{path}: of the point {about['point']}, where the plan has {asdict(point)}")
        table = pq.read_table(path)
        correct = {
            source: np.stack([table.column(f"{source}.{r}").to_numpy() for r in range(about["repeats"])])
            for source in SOURCES
        }
        outcomes.append(Outcome(point=point, correct=correct, measured=about["measured"], seconds=about["seconds"]))
    return Record(plan=read_plan(folder), points=points, outcomes=outcomes)


def _identity(plan: Plan, point: Point, setting: Setting) -> str:
    """Return a hash of all that a point's outcome depends on, but for the code."""
    generator, clip = open_models(setting)
    values = {part.name: getattr(setting, part.name) for part in fields(setting) if part.name not in ELSEWHERE}
    apart = ("number", "role", "generator")
    where = {name: value for name, value in asdict(point).items() if name not in apart}
    weights = {"generator": generator.fingerprint(), "clip": dict(clip.model.state_dict())}
    return key(values=values, point=where, repeats=plan.repeats, arms=dict(SOURCES), **weights)


def _measured(plan: Plan, point: Point, setting: Setting, execution: Execution) -> dict[str, np.ndarray]:
    began = time.perf_counter()
    outcome = measure(plan, point, setting, execution)
    about = {"measured": dict(outcome.measured), "seconds": round(time.perf_counter() - began, 1)}
    return dict(outcome.correct) | {"about": np.frombuffer(json.dumps(about).encode(), np.uint8)}


def _write(path: Path, point: Point, identity: str, arrays: Mapping[str, np.ndarray]) -> None:
    columns = {f"{source}.{r}": pa.array(row) for source in SOURCES for r, row in enumerate(arrays[source])}
    about = {"identity": identity, "point": asdict(point), "repeats": len(arrays["nothing"]), "code": code_hash()[:12]}
    about |= json.loads(np.asarray(arrays["about"]).tobytes())
    table = pa.table(columns).replace_schema_metadata({"zsc": json.dumps(about)})
    with atomic(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def _about(path: Path) -> dict:
    try:
        return json.loads((pq.read_schema(path).metadata or {})[b"zsc"])
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise ValueError(f"{path}: no point's outcome ({error}); remove it, and it is measured again") from None


def _path(folder: Path | str, point: Point) -> Path:
    return Path(folder) / f"point-{point.number:02d}.parquet"


def _folder(name: str) -> str:
    """Return a model's folder, one of the clone where it is relative and there; else a Hub id as it is."""
    return str(ROOT / name) if (ROOT / name).is_dir() else name
