"""Per-image outcomes of a chapter's study: written job by job as they come, committed, and read back to be judged.

A job is one arm on one set with one seed. Each leaves one small file, `data/records/study/<chapter>/<set>/<arm>.<seed>.
parquet`: whether the arm was correct on each image, bool, or its mean correctness where it was measured several times,
float16. `images.parquet` beside them says which images these are. What a study chooses on validation images, such as a
learning rate, lies in `<set>/<what>.json`, so that it goes on elsewhere with the same choices. No file is ever written
twice.

    freeze = read_freeze("diversity")
    run_study(freeze, outcomes, execution)          # outcomes: zsclib.papers.diversity.outcomes; resumes by itself
    judgements = verdicts(freeze, outcomes)         # claim -> Judgement
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from zsclib.checks import did_you_mean
from zsclib.hashing import digest
from zsclib.paths import ROOT, atomic, write_json
from zsclib.study.claims import load_claims, to_judge
from zsclib.study.freeze import RECORDS, Freeze, read_freeze, stale_because
from zsclib.study.verdicts import Judgement, judge
from zsclib.workers import Execution, code_hash

Job = tuple[str, str, int]  # arm, set, seed
ROUNDING = 2e-3  # of a mean correctness stored as float16
TIES = 0.02  # share of images whose decision may hang on the last digits of a sum, which machines round differently


def run_study(
    freeze: Freeze,
    chapter: ModuleType,
    execution: Execution,
    device: str = "cpu",
    root: Path = ROOT,
    sets: Sequence[str] | None = None,
) -> list[Job]:
    """Measure what a study lacks, each job's outcomes written as it is finished, and return the jobs that were done.

    Args:
        freeze: the study's.
        chapter: `zsclib.papers.<chapter>.outcomes`: `jobs(plan)` lists the study's, `outcomes(plan, jobs, execution,
            device, remember)` yields (job, correct (n,), its test images) of each; what it chooses on validation images
            goes through `remember(set, what, choose)`, which calls `choose()` where that is not on record.
        execution: its cache, progress and workers are used.
        device: where models run.
        root: the clone.
        sets: only the jobs of these; None: all.

    Raises:
        ValueError: the freeze is stale, it has no such set, or a job has other images than those measured before.
    """
    for name in sets or ():
        if name not in freeze.sets:
            hint = did_you_mean(name, freeze.sets)
            raise ValueError(f"the study {freeze.chapter} has no set {name!r}{hint}; it has {', '.join(freeze.sets)}")
    if why := stale_because(freeze, root):
        back = f"freeze it anew, or go back to commit {freeze.commit[:10]}"
        raise ValueError(f"the study {freeze.chapter} is stale: {why}; {back}")
    plan, done, clock = freeze.plan(root), [], time.monotonic()
    todo = [job for job in missing(freeze, chapter.jobs(plan), root) if sets is None or job[1] in sets]
    for job, correct, images in chapter.outcomes(plan, todo, execution, device, partial(remembered, freeze, root)):
        seconds, clock = time.monotonic() - clock, time.monotonic()
        keys = image_keys(images.images, images.labels)
        write_outcomes(freeze, job, correct, keys, len(images.classes), seconds, root)
        done.append(job)
    return done


def missing(freeze: Freeze, jobs: Iterable[Job], root: Path = ROOT) -> list[Job]:
    """Return the jobs that have no outcomes yet, in their order."""
    return [job for job in jobs if not _path(freeze, job, root).is_file()]


def write_outcomes(
    freeze: Freeze,
    job: Job,
    correct: np.ndarray,
    keys: np.ndarray,
    classes: int,
    seconds: float,
    root: Path = ROOT,
) -> Path:
    """Write a finished job's outcomes, whole or not at all, and return their file.

    Args:
        freeze: the study's.
        job: arm, set and seed.
        correct: bool (n,), or floats from 0 to 1 (n,), kept as float16.
        keys: int64 (n,), from `image_keys`; the same for all jobs of a set.
        classes: number of labels of the set.
        seconds: that the job took.

    Raises:
        FileExistsError: the job has outcomes.
        ValueError: a job of another study, not as many outcomes as the freeze has images, none between 0 and 1, or
            other images than those of the set's first job.
    """
    (arm, name, seed), correct, keys = job, np.asarray(correct), np.asarray(keys, np.int64)
    what = f"outcomes of {arm} on {name}, seed {seed}"
    if name not in freeze.sets or seed not in freeze.seeds:
        raise ValueError(f"{what}: the freeze of {freeze.chapter} has no such job")
    n = freeze.sets[name]
    if correct.shape != (n,) or keys.shape != (n,):
        raise ValueError(
            f"{what}: the freeze has {n} images, got {correct.shape} outcomes and {keys.shape} keys"
        )
    if correct.dtype != bool:
        if not ((correct >= 0) & (correct <= 1)).all():
            raise ValueError(f"{what}: correctness lies from 0 to 1, got {correct.min()} to {correct.max()}")
        correct = correct.astype(np.float16)
    path = _path(freeze, job, root)
    if path.is_file():
        raise FileExistsError(f"{what}, are there: {path.relative_to(root).as_posix()}")
    images, about = path.with_name("images.parquet"), {"study": freeze.id, "set": name, "classes": classes}
    if not images.is_file():
        _write(images, {"key": keys}, about)
    elif not np.array_equal(_column(images, freeze, root), keys):
        raise ValueError(f"{what}: its images are not those of the jobs before it; is {name} what it was?")
    facts = {
        "arm": arm,
        "seed": seed,
        "seconds": round(seconds, 1),
        "code": code_hash()[:12],
        "date": _today(),
    }
    _write(path, {"correct": correct}, about | facts)
    return path


def remembered(freeze: Freeze, root: Path, name: str, what: str, choose: Callable[[], Mapping]) -> dict:
    """Return what a study has chosen on a set's validation images, choosing it where it is not on record.

    Args:
        freeze: the study's. root: the clone.
        name: of the set. what: is chosen, in the file's name.
        choose: returns plain data, by name.

    Raises:
        ValueError: a file that is damaged, or belongs to another freeze.
    """
    path = root / RECORDS / freeze.chapter / _slug(name) / f"{_slug(what)}.json"
    place = path.relative_to(root).as_posix()
    if not path.is_file():
        write_json(path, {"study": freeze.id, "chosen": dict(choose())})
    try:
        content = json.loads(path.read_text("utf-8"))
        study, chosen = content["study"], dict(content["chosen"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{place}: no choice ({error!r}); remove it, and the study chooses again") from None
    if study != freeze.id:
        raise ValueError(f"{place}: of another freeze of {freeze.chapter}; remove it, or restore that freeze")
    return chosen


def read_choices(freeze: Freeze, root: Path = ROOT) -> dict[str, dict[str, dict]]:
    """Return set → what → what was chosen, of a study's record; the names are those of its files."""
    paths = sorted((root / RECORDS / freeze.chapter).glob("*/*.json"))
    choices: dict[str, dict[str, dict]] = {}
    for path in paths:
        name = next(name for name in freeze.sets if _slug(name) == path.parent.name)
        choices.setdefault(name, {})[path.stem] = remembered(freeze, root, name, path.stem, dict)
    return {name: choices[name] for name in freeze.sets if name in choices}


def read_outcomes(freeze: Freeze, root: Path = ROOT) -> dict[str, dict[str, np.ndarray]]:
    """Return arm → set → correctness, float64 (seeds, images), wherever all of the freeze's seeds are there.

    Raises:
        ValueError: a file that is damaged, or belongs to another freeze.
    """
    columns: dict[tuple[str, str], dict[int, np.ndarray]] = {}
    for path in _paths(freeze, root):
        about = _about(path, freeze, root)
        columns.setdefault((about["arm"], about["set"]), {})[about["seed"]] = _column(path, freeze, root)
    outcomes: dict[str, dict[str, np.ndarray]] = {}
    for (arm, name), by_seed in columns.items():
        if set(by_seed) == set(freeze.seeds):
            stacked = np.stack([by_seed[seed] for seed in freeze.seeds]).astype(np.float64)
            outcomes.setdefault(arm, {})[name] = stacked
    return {arm: {name: by[name] for name in freeze.sets if name in by} for arm, by in outcomes.items()}


def recorded(chapter: str, root: Path = ROOT) -> dict[str, dict[str, np.ndarray]]:
    """Return `read_outcomes` of a chapter's study; before its freeze there are none."""
    frozen = (root / RECORDS / chapter / "freeze.yml").is_file()
    return read_outcomes(read_freeze(chapter, root), root) if frozen else {}


def recorded_choices(chapter: str, root: Path = ROOT) -> dict[str, dict[str, dict]]:
    """Return `read_choices` of a chapter's study; before its freeze there are none."""
    frozen = (root / RECORDS / chapter / "freeze.yml").is_file()
    return read_choices(read_freeze(chapter, root), root) if frozen else {}


def differences(freeze: Freeze, chapter: ModuleType, root: Path = ROOT) -> dict[str, dict[str, np.ndarray]]:
    """Return claim → set → paired differences of correctness, (seeds, images), of what is measured.

    Args:
        chapter: as in `run_study`; its `differences(outcomes, choices)` makes contrasts of arms, from what
            `read_outcomes` and `read_choices` return.
    """
    by_claim = chapter.differences(read_outcomes(freeze, root), read_choices(freeze, root))
    return {claim: dict(by_set) for claim, by_set in by_claim.items() if claim in freeze.claims and by_set}


def verdicts(freeze: Freeze, chapter: ModuleType, root: Path = ROOT) -> dict[str, Judgement]:
    """Return the judgement of each of the freeze's claims whose arms are measured on all seeds of a set or more."""
    return judged(differences(freeze, chapter, root), root)


def judged(measured: Mapping[str, Mapping], root: Path = ROOT) -> dict[str, Judgement]:
    """Return the judgement of each claim by its differences on each set, as `differences` has them."""
    known = load_claims(root / "data" / "claims")
    return judge(*to_judge([known[claim] for claim in measured], measured))


def disagreement(
    freeze: Freeze,
    live: Mapping[Job, tuple[np.ndarray, np.ndarray]],
    ties: float = TIES,
    root: Path = ROOT,
) -> str | None:
    """Return how a page's live run contradicts the record on the study's first images, or None.

    Args:
        freeze: the study's.
        live: arm, set and seed → (image keys (m,), correctness (m,)) of the page, m up to the study's n.
        ties: share of images on which the two may differ: decisions by the last digits, rounded differently.

    Returns:
        None, or a sentence that names arm, set and how many differ. Jobs without a record are passed over.
    """
    for (arm, name, seed), (keys, correct) in live.items():
        path = _path(freeze, (arm, name, seed), root)
        if not path.is_file():
            continue
        m, recorded = len(keys), _column(path, freeze, root).astype(np.float64)
        if not np.array_equal(_column(path.with_name("images.parquet"), freeze, root)[:m], keys):
            return f"{arm} on {name}: the live images are not the study's first {m}"
        differ = int((np.abs(recorded[:m] - np.asarray(correct, np.float64)) > ROUNDING).sum())
        if differ > ties * m:
            return f"{arm} on {name}, seed {seed}: the live run differs on {differ} of the study's first {m} images"
    return None


def summary(
    freeze: Freeze, chapter: ModuleType, disagreement: str | None = None, root: Path = ROOT
) -> pd.DataFrame:
    """Return what a page says about its study, a row per fact: when, from what, how large, how far, and whether stale.

    Args:
        disagreement: what the function of that name says of the page's live run.
    """
    jobs = chapter.jobs(freeze.plan(root))
    measured, abouts = len(jobs) - len(missing(freeze, jobs, root)), _abouts(freeze, root)
    hours, dates = (
        sum(about["seconds"] for about in abouts) / 3600,
        sorted({about["date"] for about in abouts}),
    )
    margins: dict[object, list[str]] = {}
    for name, claim in freeze.claims.items():
        margins.setdefault(claim["margin"], []).append(name)
    by_margin = [f"margin {margin}: {', '.join(names)}" for margin, names in margins.items()]
    facts = {
        "frozen": f"{freeze.date}, commit {freeze.commit[:10]}",
        "claims": f"{len(freeze.claims)}; {'; '.join(by_margin)}",
        "images": ", ".join(f"{name} {n:,}" for name, n in freeze.sets.items())
        + f" (seed {freeze.images_seed})",
        "seeds": ", ".join(map(str, freeze.seeds)),
        "measured": f"{measured} of {len(jobs)} jobs" + "".join(f", {date}" for date in dates[:1] + dates[1:][-1:]),
        "hours": f"{hours:.2f}",
        "code": ", ".join(dict.fromkeys(about["code"] for about in abouts)) or "–",
        "stale": stale_because(freeze, root, disagreement) or "no",
    }
    return pd.DataFrame({"study": facts.keys(), freeze.chapter: facts.values()})


def image_keys(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return a number for each image by its pixels and label, int64 (n,): the same wherever the image is met.

    Args:
        images: uint8 (n, h, w, 3). labels: int64 (n,).
    """
    hashes = [digest(image.tobytes(), str(int(label))) for image, label in zip(images, labels, strict=True)]
    return np.array([int(text[:16], 16) >> 1 for text in hashes], np.int64)


def _path(freeze: Freeze, job: Job, root: Path) -> Path:
    arm, name, seed = job
    return root / RECORDS / freeze.chapter / _slug(name) / f"{_slug(arm)}.{seed}.parquet"


def _paths(freeze: Freeze, root: Path) -> list[Path]:
    """Return the files of finished jobs."""
    return sorted(
        p for p in (root / RECORDS / freeze.chapter).glob("*/*.*.parquet") if not p.name.startswith(".")
    )


def _abouts(freeze: Freeze, root: Path) -> list[dict[str, object]]:
    return [_about(path, freeze, root) for path in _paths(freeze, root)]


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _write(path: Path, columns: Mapping[str, np.ndarray], about: Mapping[str, object]) -> None:
    table = pa.table({name: pa.array(column) for name, column in columns.items()})
    table = table.replace_schema_metadata({"zsc": json.dumps(about, sort_keys=True)})
    with atomic(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def _about(path: Path, freeze: Freeze, root: Path) -> dict[str, object]:
    """Return what a file says of itself; ValueError if it is damaged or of another freeze."""
    place = path.relative_to(root).as_posix()
    try:
        about = json.loads((pq.read_schema(path).metadata or {})[b"zsc"])
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise ValueError(
            f"{place}: no outcomes ({error}); remove it, and the study measures it again"
        ) from None
    if about["study"] != freeze.id:
        raise ValueError(f"{place}: of another freeze of {freeze.chapter}; remove it, or restore that freeze")
    return about


def _column(path: Path, freeze: Freeze, root: Path) -> np.ndarray:
    _about(path, freeze, root)
    return pq.read_table(path).column(0).to_numpy()


def _today() -> str:
    return time.strftime("%Y-%m-%d", time.gmtime())
