"""A study is frozen, measured job by job, resumed, read back, and found stale for the right reasons only."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from zsclib import cli
from zsclib.images.image_set import ImageSet
from zsclib.paths import ROOT
from zsclib.study import freeze as freezing
from zsclib.study import records, tables
from zsclib.study.freeze import RECORDS, Freeze, read_freeze, read_plan, stale_because, write_freeze
from zsclib.workers import Execution

PLAN = {
    "models": ["data/models/m"],
    "claims": ["C1", "C2"],
    "sets": {"digits": 6, "folder:my/own": 4},
    "images_seed": 1,
    "seeds": [0, 5],
    "settings": {"steps": 3},
}
CLAIM = {
    "paper": "toy",
    "contrast": "accuracy(a) - accuracy(b)",
    "direction": "greater",
    "margin": 0.01,
    "published": [{"what": "x", "value": 1.0, "source": "Table 1"}],
}
CONTRASTS = {"C1": ("a, small", "b"), "C2": ("a, small", "c")}


def images_of(name: str, n: int) -> ImageSet:
    pixels = np.random.default_rng(len(name)).integers(0, 256, (n, 4, 4, 3), np.uint8)
    return ImageSet(pixels, np.arange(n, dtype=np.int64) % 2, ("x", "y"))


def correctness(arm: str, name: str, seed: int, n: int) -> np.ndarray:
    values = np.random.default_rng([len(arm), len(name), seed]).random(n)
    return np.round(4 * values) / 4 if arm == "c" else values > 0.4


def jobs(plan: Mapping) -> list[records.Job]:
    return [
        (arm, name, seed) for name in plan["sets"] for seed in plan["seeds"] for arm in ("a, small", "b", "c")
    ]


def outcomes(plan: Mapping, todo: list, *_: object) -> Iterator[tuple]:
    for arm, name, seed in todo:
        images = images_of(name, plan["sets"][name])
        yield (arm, name, seed), correctness(arm, name, seed, len(images)), images


def differences(by_arm: Mapping[str, Mapping[str, np.ndarray]], *_: object) -> dict[str, dict[str, np.ndarray]]:
    return {
        claim: {
            name: by_arm[arm][name] - by_arm[rival][name] for name in by_arm[rival] if name in by_arm[arm]
        }
        for claim, (arm, rival) in CONTRASTS.items()
        if arm in by_arm and rival in by_arm
    }


TOY = SimpleNamespace(jobs=jobs, outcomes=outcomes, differences=differences)


def write_claims(root: Path, **changes: object) -> None:
    entries = [{"id": name, "statement": "A beats B."} | CLAIM | changes for name in ("C1", "C2")]
    (root / "data/claims/toy.yml").write_text(yaml.safe_dump(entries))


def write_plan(root: Path, **changes: object) -> None:
    (root / RECORDS / "toy/plan.yml").write_text(yaml.safe_dump(PLAN | changes))


def commit(root: Path) -> None:
    who = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    subprocess.run(["git", "-C", root, "add", "-A"], check=True)
    subprocess.run(["git", "-C", root, *who, "commit", "-qm", "x"], check=True)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A clone with one model, two claims and a plan, all committed."""
    for folder in ("data/models/m/unet", "data/claims", f"{RECORDS}/toy", "zsclib"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "data/models/m/unet/w.safetensors").write_bytes(b"weights")
    (tmp_path / "data/models/m/README.md").write_text("card")
    write_claims(tmp_path)
    write_plan(tmp_path)
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    commit(tmp_path)
    return tmp_path


@pytest.fixture
def frozen(root: Path) -> Freeze:
    return write_freeze("toy", root)


def write(freeze: Freeze, root: Path, job: records.Job = ("b", "digits", 0), **changes: object) -> Path:
    images = images_of(job[1], 6)
    values = {"correct": np.arange(6) > 2, "keys": records.image_keys(images.images, images.labels)} | changes
    return records.write_outcomes(freeze, job, values["correct"], values["keys"], 2, 1.5, root)


# The freeze


def test_a_freeze_holds_commit_models_claims_and_plan(root: Path, frozen: Freeze) -> None:
    head = subprocess.run(
        ["git", "-C", root, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    )
    assert frozen.commit == head.stdout.strip()
    assert set(frozen.models) == {"data/models/m"}
    assert {name: claim["margin"] for name, claim in frozen.claims.items()} == {"C1": 0.01, "C2": 0.01}
    assert frozen.plan(Path("/x")) == PLAN | {"models": ["/x/data/models/m"]}
    assert read_freeze("toy", root) == frozen
    assert stale_because(frozen, root) is None


def test_a_freeze_may_be_written_again_until_the_study_begins(root: Path, frozen: Freeze) -> None:
    write_plan(root, seeds=[7])
    commit(root)
    again = write_freeze("toy", root)
    assert again.seeds == (7,)
    assert again.id != frozen.id
    write(again, root, ("b", "digits", 7))
    before = (root / RECORDS / "toy/freeze.yml").read_bytes()
    with pytest.raises(RuntimeError, match="the study toy has begun: 2 files of outcomes rest on its freeze"):
        write_freeze("toy", root)
    assert (root / RECORDS / "toy/freeze.yml").read_bytes() == before


def test_a_freeze_names_a_commit(root: Path) -> None:
    (root / "zsclib/a.py").write_text("x = 1\n")
    with pytest.raises(RuntimeError, match=r"commit or undo first what has changed: zsclib/"):
        write_freeze("toy", root)
    commit(root)
    (root / "other.txt").write_text("neither code nor data")
    write_freeze("toy", root)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"extra": 1}, "toy/plan.yml: unknown field extra"),
        ({"seeds": []}, "toy/plan.yml: seeds must be a list that is not empty"),
        ({"seeds": [1, 1]}, "seeds must be different integers"),
        ({"seeds": ["1"]}, "seeds must be different integers"),
        ({"sets": {"digits": 0}}, "sets must name how many test images each has"),
        ({"sets": ["digits"]}, "sets must be a dict"),
        ({"images_seed": True}, "images_seed must be a int"),
        ({"images_seed": 0}, "images_seed must not be 0: pages show these images before the freeze"),
    ],
)
def test_a_malformed_plan_is_named(root: Path, changes: dict, message: str) -> None:
    write_plan(root, **changes)
    with pytest.raises(ValueError, match=message):
        read_plan("toy", root)


def test_a_plan_with_a_missing_field_claim_model_or_chapter(root: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no study 'tox' .did you mean 'toy'.*there are: toy"):
        read_plan("tox", root)
    with pytest.raises(
        FileNotFoundError, match="the study toy is not frozen yet: run  zsc study toy --freeze"
    ):
        read_freeze("toy", root)
    write_plan(root, claims=["C1", "C3"])
    commit(root)
    with pytest.raises(ValueError, match="the plan of toy: no claim 'C3'"):
        write_freeze("toy", root)
    write_plan(root, models=["data/models/none"])
    commit(root)
    with pytest.raises(FileNotFoundError, match="no model folder"):
        write_freeze("toy", root)
    (root / RECORDS / "toy/plan.yml").write_text("models: [m]\n")
    with pytest.raises(ValueError, match="toy/plan.yml: missing claims, sets, images_seed, seeds, settings"):
        read_plan("toy", root)


def test_pages_show_other_images_until_the_freeze(root: Path) -> None:
    assert freezing.images_seed("toy", root) == 0
    write_freeze("toy", root)
    assert freezing.images_seed("toy", root) == 1


# Stale or not


def test_what_makes_a_study_stale(root: Path, frozen: Freeze) -> None:
    weights = root / "data/models/m/unet/w.safetensors"
    weights.write_bytes(b"others")
    assert stale_because(frozen, root) == f"the model data/models/m is another than on {frozen.date}"
    weights.write_bytes(b"weights")
    write_claims(root, statement="A beats B by far.")
    assert stale_because(frozen, root) == f"the claim C1 is worded otherwise than on {frozen.date}"
    write_claims(root, margin=0.02)
    assert stale_because(frozen, root) == "the claim C1 has another margin: 0.01 → 0.02"
    (root / "data/claims/toy.yml").write_text("[]")
    assert stale_because(frozen, root) == "the claim C1 is gone"
    write_claims(root)
    write_plan(root, seeds=[0, 5, 6])
    assert stale_because(frozen, root) == "the plan has other seeds: [0, 5] → [0, 5, 6]"
    write_plan(root)
    assert stale_because(frozen, root, "b on digits: differs") == "b on digits: differs"


def test_what_does_not_make_it_stale(root: Path, frozen: Freeze) -> None:
    (root / "zsclib/a.py").write_text("x = 1\n")
    (root / "data/models/m/README.md").write_text("another card")
    write_claims(root, published=[])
    write_plan(root, settings={"steps": 9})
    assert stale_because(frozen, root) is None


# Outcomes


def test_decisions_and_mean_correctness_come_back(root: Path, frozen: Freeze) -> None:
    path = write(frozen, root, ("b", "digits", 0))
    assert path == root / RECORDS / "toy/digits/b.0.parquet"
    assert path.stat().st_size < 2000
    assert pq.read_schema(path).field("correct").type == "bool"
    mean = np.array([0, 0.25, 0.5, 0.75, 1, 1 / 3])
    path = write(frozen, root, ("c", "digits", 0), correct=mean)
    assert pq.read_schema(path).field("correct").type == "halffloat"
    assert records.read_outcomes(frozen, root) == {}, "seed 5 is not there yet"
    write(frozen, root, ("c", "digits", 5), correct=mean[::-1])
    (by_set,) = (by_set for arm, by_set in records.read_outcomes(frozen, root).items() if arm == "c")
    assert by_set["digits"].shape == (2, 6)
    assert by_set["digits"].dtype == np.float64
    np.testing.assert_allclose(by_set["digits"], [mean, mean[::-1]], atol=2e-4)


def test_no_file_is_written_twice_or_half(
    root: Path, frozen: Freeze, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(frozen, root)
    with pytest.raises(FileExistsError, match="outcomes of b on digits, seed 0, are there: data/records"):
        write(frozen, root)

    def fails(table: object, target: Path, **options: object) -> None:
        Path(target).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(pq, "write_table", fails)
    with pytest.raises(OSError, match="disk full"):
        write(frozen, root, ("b", "digits", 5))
    assert sorted(p.name for p in path.parent.iterdir()) == ["b.0.parquet", "images.parquet"]


@pytest.mark.parametrize(
    ("job", "changes", "message"),
    [
        (("b", "objects", 0), {}, "b on objects, seed 0: the freeze of toy has no such job"),
        (("b", "digits", 1), {}, "seed 1: the freeze of toy has no such job"),
        (("b", "digits", 0), {"correct": np.ones(5, bool)}, r"the freeze has 6 images, got \(5,\) outcomes"),
        (("b", "digits", 0), {"keys": np.arange(5)}, r"and \(5,\) keys"),
        (("b", "digits", 0), {"correct": np.linspace(0, 1.5, 6)}, "lies from 0 to 1, got 0.0 to 1.5"),
        (("b", "digits", 0), {"correct": np.full(6, np.nan)}, "lies from 0 to 1, got nan"),
        (("c", "digits", 0), {"keys": np.arange(6)}, "its images are not those of the jobs before it"),
    ],
)
def test_outcomes_that_do_not_fit(
    root: Path, frozen: Freeze, job: records.Job, changes: dict, message: str
) -> None:
    write(frozen, root, ("a, small", "digits", 0))
    with pytest.raises(ValueError, match=message):
        write(frozen, root, job, **changes)


def test_outcomes_of_another_freeze_and_damaged_ones(root: Path, frozen: Freeze) -> None:
    path = write(frozen, root)
    other = Freeze(**{**vars(frozen), "settings": {"steps": 4}})
    with pytest.raises(ValueError, match=r"toy/digits/b.0.parquet: of another freeze of toy"):
        records.read_outcomes(other, root)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match=r"toy/digits/b.0.parquet: no outcomes .*remove it"):
        records.read_outcomes(frozen, root)


def test_what_was_chosen_once_is_not_chosen_again(root: Path, frozen: Freeze) -> None:
    tried: list[int] = []

    def choose() -> dict[str, float]:
        tried.append(1)
        return {"b": 0.25}

    def choosing(plan: Mapping, todo: list, execution: Execution, device: str, remember) -> Iterator[tuple]:
        for job, correct, images in outcomes(plan, todo):
            assert remember(job[1], "learning rates", choose) == {"b": 0.25}
            yield job, correct, images

    chapter = SimpleNamespace(jobs=jobs, outcomes=choosing, differences=differences)
    records.run_study(frozen, chapter, Execution(), root=root)
    path = root / RECORDS / "toy/digits/learning-rates.json"
    assert records.read_choices(frozen, root) == {
        name: {"learning-rates": {"b": 0.25}} for name in PLAN["sets"]
    }
    assert path.is_file() and len(tried) == len(PLAN["sets"])  # once for each set, whatever number of jobs
    assert records.run_study(frozen, chapter, Execution(), root=root) == []
    path.with_name("b.0.parquet").unlink()
    assert records.run_study(frozen, chapter, Execution(), root=root) == [("b", "digits", 0)]
    assert len(tried) == len(PLAN["sets"])
    with pytest.raises(RuntimeError, match="has begun"):
        write_freeze("toy", root)
    path.write_text(path.read_text().replace(frozen.id, "0" * 16))
    with pytest.raises(ValueError, match=r"toy/digits/learning-rates.json: of another freeze of toy"):
        records.remembered(frozen, root, "digits", "learning rates", choose)
    path.write_text("{")
    with pytest.raises(ValueError, match=r"learning-rates.json: no choice .*remove it"):
        records.remembered(frozen, root, "digits", "learning rates", choose)


def test_an_interrupted_study_goes_on_where_it_was(root: Path, frozen: Freeze) -> None:
    started: list[records.Job] = []

    def stops_at(count: int) -> SimpleNamespace:
        def some(plan: Mapping, todo: list, *_: object) -> Iterator[tuple]:
            for number, result in enumerate(outcomes(plan, todo)):
                if number == count:
                    raise KeyboardInterrupt
                started.append(result[0])
                yield result

        return SimpleNamespace(jobs=jobs, outcomes=some, differences=differences)

    with pytest.raises(KeyboardInterrupt):
        records.run_study(frozen, stops_at(4), Execution(), root=root)
    assert len(records.missing(frozen, jobs(PLAN), root)) == 8
    assert records.differences(frozen, TOY, root) == {}, "no arm has both seeds"
    assert "4 of 12 jobs" in records.summary(frozen, TOY, root=root).to_string()
    assert len(records.run_study(frozen, stops_at(99), Execution(), root=root)) == 8
    assert sorted(started) == sorted(jobs(PLAN)), "no job was run twice"
    assert records.run_study(frozen, TOY, Execution(), root=root) == []
    by_claim = records.differences(frozen, TOY, root)
    for claim, (arm, rival) in CONTRASTS.items():
        for name, n in PLAN["sets"].items():
            expected = [
                correctness(arm, name, seed, n).astype(float)
                - correctness(rival, name, seed, n).astype(float)
                for seed in PLAN["seeds"]
            ]
            np.testing.assert_allclose(by_claim[claim][name], expected)


def test_a_study_of_some_sets_measures_these_alone_and_the_rest_later(root: Path, frozen: Freeze) -> None:
    every = TOY.jobs(frozen.plan(root))
    here = [job for job in every if job[1] == "digits"]
    assert 0 < len(here) < len(every)
    assert records.run_study(frozen, TOY, Execution(), root=root, sets=["digits"]) == here
    assert set(records.missing(frozen, every, root)) == {job for job in every if job[1] != "digits"}
    records.run_study(frozen, TOY, Execution(), root=root)
    assert records.missing(frozen, every, root) == []
    with pytest.raises(ValueError, match="the study toy has no set 'digit' .did you mean 'digits'.*it has digits"):
        records.run_study(frozen, TOY, Execution(), root=root, sets=["digit"])


def test_a_single_seed_gives_a_row_of_differences(root: Path) -> None:
    write_plan(root, seeds=[3], claims=["C2"])
    commit(root)
    freeze = write_freeze("toy", root)
    records.run_study(freeze, TOY, Execution(), root=root)
    by_claim = records.differences(freeze, TOY, root)
    assert {claim: {name: d.shape for name, d in by_set.items()} for claim, by_set in by_claim.items()} == {
        "C2": {"digits": (1, 6), "folder:my/own": (1, 4)}
    }


def test_a_stale_study_is_not_gone_on_with(root: Path, frozen: Freeze) -> None:
    write_claims(root, margin=0.03)
    with pytest.raises(
        ValueError, match="the study toy is stale: the claim C1 has another margin.*freeze it anew"
    ):
        records.run_study(frozen, TOY, Execution(), root=root)


def test_a_page_says_when_how_large_and_whether_stale(root: Path, frozen: Freeze) -> None:
    records.run_study(frozen, TOY, Execution(), root=root)
    table = records.summary(frozen, TOY, "b on digits: …", root).set_index("study")["toy"]
    assert table["frozen"] == f"{frozen.date}, commit {frozen.commit[:10]}"
    assert table["claims"] == "2; margin 0.01: C1, C2"
    assert table["images"] == "digits 6, folder:my/own 4 (seed 1)"
    assert table["measured"].startswith("12 of 12 jobs")
    assert float(table["hours"]) < 1
    assert len(table["code"]) == 12
    assert table["stale"] == "b on digits: …"


# Agreement with a page's live run


def live(n: int, wrong: int = 0, name: str = "digits") -> dict[records.Job, tuple[np.ndarray, np.ndarray]]:
    images, correct = images_of(name, 6), correctness("b", name, 0, 6)[:n].copy()
    correct[:wrong] = ~correct[:wrong]
    return {("b", name, 0): (records.image_keys(images.images[:n], images.labels[:n]), correct)}


def test_a_live_run_on_the_first_images_agrees_or_not(root: Path, frozen: Freeze) -> None:
    assert records.disagreement(frozen, live(4), root=root) is None, "no record to disagree with"
    records.run_study(frozen, TOY, Execution(), root=root)
    assert records.disagreement(frozen, live(4), root=root) is None
    message = "b on digits, seed 0: the live run differs on 2 of the study's first 4 images"
    assert records.disagreement(frozen, live(4, 2), root=root) == message
    assert records.disagreement(frozen, live(4, 2), ties=0.5, root=root) is None
    ((job, (keys, correct)),) = live(4).items()
    other = {job: (keys[::-1], correct)}
    assert (
        records.disagreement(frozen, other, root=root)
        == "b on digits: the live images are not the study's first 4"
    )
    assert stale_because(frozen, root, records.disagreement(frozen, live(4, 2), root=root)) == message


def test_mean_correctness_agrees_up_to_its_rounding(root: Path, frozen: Freeze) -> None:
    mean = np.array([0, 1 / 3, 0.5, 2 / 3, 1, 0.1])
    write(frozen, root, ("c", "digits", 0), correct=mean)
    keys = live(6)["b", "digits", 0][0]
    assert records.disagreement(frozen, {("c", "digits", 0): (keys, mean)}, ties=0, root=root) is None
    message = records.disagreement(frozen, {("c", "digits", 0): (keys, mean + 0.01)}, ties=0, root=root)
    assert "differs on 6 of the study's first 6 images" in message


def test_image_keys_follow_pixels_and_labels() -> None:
    images = images_of("digits", 3)
    keys = records.image_keys(images.images, images.labels)
    np.testing.assert_array_equal(keys[1:], records.image_keys(images.images[1:], images.labels[1:]))
    assert (keys >= 0).all()
    assert (keys != records.image_keys(images.images, 1 - images.labels)).all()


# The studies of this project


CHAPTERS, PAPERS = freezing.chapters(), ROOT / "zsclib" / "papers"
FROZEN = [chapter for chapter in CHAPTERS if (ROOT / RECORDS / chapter / "freeze.yml").is_file()]
OF_MEASURES = {f"DIV-D9-{name}" for name in ("vendi", "recall", "distance", "frechet")}
NOTED = {"DD-H9"} | OF_MEASURES  # judged from what is noted beside outcomes, too


def test_a_chapter_is_a_paper_or_a_paper_on_other_sets() -> None:
    assert freezing.paper_of("retrieval-photographs") == freezing.paper_of("retrieval") == "retrieval"
    assert {freezing.paper_of(chapter) for chapter in CHAPTERS} <= {path.name for path in PAPERS.iterdir()}


def a_freeze(chapter: str) -> Freeze:
    plan = read_plan(chapter)
    of_plan = {name: plan[name] for name in ("sets", "images_seed", "settings")}
    facts = {"commit": "", "date": "", "models": {}, "claims": {}, "seeds": tuple(plan["seeds"])}
    return Freeze(chapter=chapter, **facts, **of_plan)


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_plan_has_arms_for_its_claims(chapter: str) -> None:
    from importlib import import_module

    plan, package = read_plan(chapter), import_module(f"zsclib.papers.{freezing.paper_of(chapter)}.outcomes")
    todo = package.jobs(plan)
    assert len(set(todo)) == len(todo)
    most = {name: np.tile(np.arange(n) % 10 > 0, (2, 1)).astype(float) for name, n in plan["sets"].items()}
    arms = {arm: most for arm, _, _ in todo}  # neither at the ceiling nor near guessing, where claims are not judged
    assert set(plan["claims"]) - NOTED <= set(package.differences(arms))
    assert len({records._path(a_freeze(chapter), job, ROOT) for job in todo}) == len(todo)  # a file each
    with pytest.raises(ValueError, match="for (the claim )?'X'"):
        package.jobs(plan | {"claims": ["X"]})


@pytest.mark.parametrize("chapter", FROZEN)
def test_a_study_is_not_stale_and_its_record_holds_its_own_jobs_alone(chapter: str) -> None:
    from importlib import import_module

    freeze, package = read_freeze(chapter), import_module(f"zsclib.papers.{freezing.paper_of(chapter)}.outcomes")
    assert stale_because(freeze) is None
    jobs = package.jobs(freeze.plan())
    missing = records.missing(freeze, jobs)  # a study that is under way lacks some
    assert len(list((ROOT / RECORDS / chapter).glob("*/*.*.parquet"))) == len(jobs) - len(missing)
    judged = set(records.verdicts(freeze, package))
    computed = package.differences(records.read_outcomes(freeze), records.read_choices(freeze))
    untestable = {claim for claim, by_set in computed.items() if not by_set}  # at this budget, on every set
    assert judged == set(freeze.claims) - untestable or (missing and judged < set(freeze.claims))


def test_a_live_diffusion_classifier_agrees_with_its_record() -> None:
    from zsclib.papers.diffusion_classifier import outcomes as package
    from zsclib.papers.diffusion_classifier.arms import DIFFUSION

    freeze, job = read_freeze("diffusion_classifier"), (DIFFUSION, "digits", 0)
    if job in records.missing(freeze, [job]):
        pytest.skip("the study is under way, and this job is not done")
    plan, chosen = freeze.plan() | {"sets": {"digits": 4}}, records.read_choices(freeze)

    def remember(name: str, what: str, choose: object) -> dict:
        return chosen[name][what]

    measured = {
        job: (records.image_keys(images.images, images.labels), correct)
        for job, correct, images in package.outcomes(plan, [job], Execution(), remember=remember)
    }
    assert len(measured) == 1
    assert records.disagreement(freeze, measured) is None


def test_a_live_clip_agrees_with_the_record_of_retrieval() -> None:
    from zsclib.papers.retrieval import outcomes as package

    freeze = read_freeze("retrieval")
    plan, jobs = freeze.plan() | {"sets": {"objects-hard": 60}}, [("CLIP, zero-shot", "objects-hard", 0)]
    measured = {
        job: (records.image_keys(images.images, images.labels), correct)
        for job, correct, images in package.outcomes(plan, jobs, Execution())
    }
    assert records.disagreement(freeze, measured) is None
    ((job, (keys, correct)),) = measured.items()
    assert "differs on 60" in records.disagreement(freeze, {job: (keys, ~correct)})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["toy"], "the study toy is not frozen yet"),
        (["nothing"], "no study 'nothing'"),
    ],
)
def test_wrong_usage_is_told(
    root: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture
) -> None:
    assert cli.main(["--root", str(root), "study", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_the_command_freezes(root: Path, capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["--root", str(root), "study", "toy", "--freeze"]) == 0
    assert f"commit {RECORDS}/toy/freeze.yml" in capsys.readouterr().out
    assert read_freeze("toy", root).seeds == (0, 5)
    (root / "data/claims/toy.yml").write_text("[]")
    assert cli.main(["--root", str(root), "study", "toy", "--freeze"]) == 2


def test_papers_do_not_know_the_study() -> None:
    for path in (ROOT / "zsclib/papers").glob("*/outcomes.py"):
        assert "zsclib.study import" not in path.read_text() and "import zsclib.study" not in path.read_text()


def test_a_page_shows_the_study_or_says_that_there_is_none(root: Path) -> None:
    judgements, shown = tables.study("toy", TOY, root)
    assert judgements == {} and "has not been frozen yet" in shown.data
    freeze = write_freeze("toy", root)
    judgements, shown = tables.study("toy", TOY, root)
    assert judgements == {} and "0 of 12 jobs" in shown.data
    assert "2 of 2 claims have no verdict" in shown.data and shown.data.count("C1, C2") >= 1
    records.run_study(freeze, TOY, Execution(), root=root)
    judgements, shown = tables.study("toy", TOY, root)
    assert list(judgements) == ["C1", "C2"] and "12 of 12 jobs" in shown.data and "A beats B." in shown.data
    assert "no verdict" not in shown.data and "2 claims of 2 families have a verdict." in shown.data
    assert "the live run differs" not in tables.study("toy", TOY, root, live(4))[1].data
    assert "the live run differs on 2" in tables.study("toy", TOY, root, live(4, 2))[1].data
    assert tables.study("none", TOY, root)[0] == {}
