"""The diagram of the retrieval chapter: dials, points, a rule where the answer is known, and runs that are stopped."""

from __future__ import annotations

import json
import subprocess
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import yaml
from matplotlib import pyplot as plt
from scipy.stats import spearmanr

from tests import tiny
from tests.worlds import MortalCache
from zsclib import datasets
from zsclib.cache import Cache
from zsclib.papers.retrieval import arms as arms_room
from zsclib.papers.retrieval import diagram as diagram_room
from zsclib.papers.retrieval import pool_arms
from zsclib.papers.retrieval.design import FIT, HELD_OUT, OTHER, Plan, Point, design, draw, read_plan
from zsclib.papers.retrieval.diagram import SOURCES, Outcome, Record, measure, read_record, run
from zsclib.papers.retrieval.dials import Dials, as_long, dialled, exchanged, remaining, shows, traces_as_long
from zsclib.papers.retrieval.experiments import tuned_shares
from zsclib.papers.retrieval.rule import evaluate, fit, good_choices, winner
from zsclib.papers.retrieval.similarity import POOL, nearness, similarity
from zsclib.papers.retrieval.training_sets import Setting
from zsclib.paths import ROOT
from zsclib.pocket.earlier import earlier_commits, extract, extract_clips
from zsclib.pools.captioned import pool_in_memory
from zsclib.pools.copies import Traces
from zsclib.pools.vectors import Embeddings, Vectors
from zsclib.recipe import Recipe
from zsclib.study.figures import retrieval_diagram as figures
from zsclib.study.freeze import read_freeze
from zsclib.study.records import recorded
from zsclib.study.stats import Estimate, interval
from zsclib.workers import Execution
from zsclib.world.targets import target

CLIP = ROOT / "data" / "models" / "pocket-clip"


# --- how far a target is from the pool ----------------------------------------------------------------------------
def test_a_hard_set_at_a_share_of_its_difficulty_shows_the_same_things_seen_better():
    whole, all_of_it, half, easy = (
        target(f"objects-hard{share}", "validation", 20) for share in ("", ":1", ":0.5", ":0")
    )
    assert np.array_equal(whole.images, all_of_it.images)
    for other in (half, easy):
        assert not np.array_equal(whole.images, other.images) and np.array_equal(whole.labels, other.labels)
        assert whole.manifest[["noun", "colour", "background"]].equals(other.manifest[["noun", "colour", "background"]])
    assert (easy.manifest[["hidden", "faded", "dark", "tint", "noise"]] == 0).all(axis=None)
    assert np.allclose(half.manifest["noise"], whole.manifest["noise"] / 2, atol=1e-4)
    assert len(datasets.load("gadgets-hard:0.3", n=20).classes) == 20 and len(target("aerial-hard:0", n=8)) == 8
    for name in ("objects-hard:2", "objects-hard:", "objects-hard:nan", "objects-hard:much"):
        with pytest.raises(ValueError, match="must end in how far it is from the pool: from objects-hard:0"):
            target(name)


# --- dials --------------------------------------------------------------------------------------------------------
def test_turning_a_dial_down_takes_rows_away_and_changes_none():
    of_classes = np.arange(2000) % 4 == 0
    every = remaining(2000, of_classes, Dials())
    assert every.tolist() == list(range(2000))
    before = every
    for size in (0.5, 0.1, 0.01):
        rows = remaining(2000, of_classes, Dials(size=size))
        assert set(rows) <= set(before) and abs(len(rows) / 2000 - size) < 0.05
        before = rows
    thin, thinner = (remaining(2000, of_classes, Dials(frequency=share)) for share in (0.3, 0.02))
    assert set(thinner) <= set(thin) and len(np.intersect1d(thin, np.flatnonzero(~of_classes))) == 1500
    assert abs(of_classes[thin].sum() - 150) < 40 and of_classes[thinner].sum() < 30
    assert set(remaining(2000, of_classes, Dials(size=0.5, frequency=0.3))) <= set(thin)
    assert set(remaining(2000, of_classes, Dials(size=0.5, seed=1))) != set(
        remaining(2000, of_classes, Dials(size=0.5))
    )
    rows = exchanged(2000, Dials(noise=0.25))
    assert abs((rows != np.arange(2000)).mean() - 0.25) < 0.04
    assert (exchanged(2000, Dials(size=0.1)) == np.arange(2000)).all()
    for wrong in ({"size": 1.1}, {"noise": -0.1}, {"captions": np.nan}):
        with pytest.raises(ValueError, match="must be a share, from 0 to 1"):
            Dials(**wrong)


def test_which_captions_name_a_class():
    captions = ("a photo of a red star", "two Stars", "an old star on grass", "starfish", "a car")
    assert shows(captions, ["a star", "boat"]).tolist() == [True, False, True, False, False]
    assert shows(captions, []).tolist() == [False] * 5


def test_in_the_made_up_world_the_truth_is_thinned_whatever_captions_call_it():
    setting = Setting(model="", clip="", index="", pool_images=40)
    captions = pool_arms.open_captioned(setting).captions
    shown = pool_arms.of_classes(setting, ("car", "mug"))
    named = shows(captions, ("car", "automobile", "mug", "cup"))
    assert len(shown) == len(captions) == 80 and shown.any() and (shown == named).mean() > 0.95
    assert np.array_equal(pool_arms.of_classes(setting, ("wooden car", "metal mug")), shown)
    assert not pool_arms.of_classes(setting, ("coba", "fiffin")).any()


@pytest.fixture
def embedded():
    """Six images with captions, and their features: image i looks towards axis i, its caption towards axis 5 − i."""
    pool = pool_in_memory("six", np.zeros((6, 4, 4, 3), np.uint8), [f"a thing {i}" for i in range(6)])
    names = pa.table({"image_path": list(pool.ids), "caption": list(pool.captions)})
    return pool, Embeddings(Vectors([np.eye(6, dtype=np.float16)]), names), np.eye(6, dtype=np.float16)[::-1]


def test_captions_weigh_as_much_as_the_dial_says_and_copies_are_told_by_images(embedded):
    pool, embeddings, texts = embedded
    dials, none = Dials(captions=0.25), np.zeros(6, bool)
    both = dialled(embeddings, pool, none, dials, texts)
    query = as_long(np.eye(6, dtype=np.float32)[:1], dials)
    assert np.allclose(np.linalg.norm(query, axis=1), 1)
    cosines = np.asarray(both.vectors, np.float32) @ query[0]
    assert cosines == pytest.approx([np.sqrt(0.75), 0, 0, 0, 0, np.sqrt(0.25)], abs=1e-3)
    traces = traces_as_long(Traces(np.eye(6, dtype=np.float32), np.zeros((6, 32, 32, 3), np.uint8)), dials)
    assert np.allclose(np.asarray(both.vectors, np.float32) @ traces.features.T, np.eye(6))
    noisy = dialled(embeddings, pool, none, Dials(captions=1, noise=1), texts)
    assert not np.array_equal(noisy.vectors[:][:, 6:], both.vectors[:][:, 6:])
    assert np.array_equal(noisy.vectors[:][:, :6], both.vectors[:][:, :6])
    images = dialled(embeddings, pool, np.arange(6) == 2, Dials(frequency=0), None)
    assert images.ids == tuple(pool.ids[i] for i in (0, 1, 3, 4, 5)) and as_long(query, Dials()) is query
    with pytest.raises(ValueError, match="leave nothing of the 6 images of six"):
        dialled(embeddings, pool, np.ones(6, bool), Dials(frequency=0), None)


def test_a_similarity_runs_from_images_at_random_to_real_ones():
    axes = np.eye(4, dtype=np.float32)
    assert nearness(axes, axes) == 1 and nearness(axes, axes[:0]) == 0 and nearness(axes[:2], axes[:1]) == 0.5
    assert similarity(0.6, 0.6, 0.2) == 1 and similarity(0.2, 0.6, 0.2) == 0
    assert similarity(0.5, 0.6, 0.2) == pytest.approx(0.75) and similarity(0.0, 0.201, 0.2) == -1
    assert similarity(0.9, 0.2, 0.2) == 2  # a CLIP that cannot tell real images from any


# --- the design ---------------------------------------------------------------------------------------------------
DIALS = {
    "size": [0.1, 1], "frequency": [0.01, 1], "captions": [0, 0, 1], "noise": [0, 0.8], "shift": [0, 1],
    "shots": [2, 4], "target": ["objects-hard", "gadgets-hard"],
}  # fmt: skip
PLAN = Plan(models=["sd", "clip"], points=30, held_out=10, seed=3, repeats=2, dials=DIALS, generators={"other": 2})


def test_the_seed_alone_draws_the_points_and_holds_out_a_third_of_every_kind():
    points = design(PLAN)
    assert points == design(replace(PLAN, settings={"times": 2})) and points != design(replace(PLAN, seed=4))
    assert [point.number for point in points] == list(range(32))
    roles = [point.role for point in points]
    assert (roles.count(FIT), roles.count(HELD_OUT), roles.count(OTHER)) == (20, 10, 2)
    for name, values in (("captions", (0, 1)), ("shots", (2, 4))):
        for value in values:
            alike = [point for point in points if getattr(point, name) == value and point.role != OTHER]
            assert 0.15 < sum(point.role == HELD_OUT for point in alike) / len(alike) < 0.55
    sizes, shifts = ([f(point) for point in points[:30]] for f in (lambda p: p.size, lambda p: p.target.split(":")[1]))
    assert sum(size < np.sqrt(0.1) for size in sizes) == 15, "evenly in the logarithm"
    counts = np.histogram([float(shift) for shift in shifts], 10, (0, 1))[0]
    assert counts.min() >= 2 and counts.max() <= 4, "evenly, but for rounding"
    assert all(point.noise == 0 for point in points if not point.captions)
    for point in points[30:]:
        like = points[point.like]
        assert point == replace(like, number=point.number, role=OTHER, generator="other")


def test_points_are_drawn_once_and_a_plan_that_was_changed_after_is_refused(tmp_path):
    write(tmp_path, asdict(PLAN))
    points = draw(tmp_path)
    assert (tmp_path / "points.csv").read_text().count("\n") == 33 and draw(tmp_path) == points
    write(tmp_path, asdict(PLAN) | {"held_out": 9})
    with pytest.raises(ValueError, match="drawn for another plan"):
        draw(tmp_path)
    for wrong, message in (
        ({"point": 3}, "unknown or missing: point;"),
        ({"held_out": 30}, "of 30 points 30 cannot be held out"),
        ({"dials": DIALS | {"size": [1]}}, "the dial size takes two ends"),
        ({"dials": {"size": [0, 1]}}, "dials are size, frequency"),
    ):
        write(tmp_path, asdict(PLAN) | wrong)
        with pytest.raises(ValueError, match=message):
            read_plan(tmp_path)


def test_the_shipped_plan_holds_out_a_third_of_thirty_points_or_more_and_its_points_are_drawn():
    plan, points = read_plan(), draw()
    assert plan.points >= 30 and plan.held_out == round(plan.points / 3) and plan.repeats >= 3
    assert {point.generator for point in points if point.role != OTHER} == {plan.models[0]}


def write(folder: Path, plan: dict) -> None:
    (folder / "plan.yml").write_text(yaml.safe_dump(plan))


# --- a rule where the answer is known -----------------------------------------------------------------------------
POINT = Point(
    number=0, like=0, role=FIT, generator="sd", target="objects-hard:0.5", shots=4, size=1.0, frequency=1.0,
    captions=0, noise=0.0,
)  # fmt: skip


def outcome(number: int, x: float, shots: int, by_source: dict[str, float], role: str = FIT, n: int = 400) -> Outcome:
    """Return a point at which each source is correct with a probability, independently, on 3 x n images."""
    random, correct = np.random.default_rng(number), {}
    for source in SOURCES:
        correct[source] = random.random((3, n)) < by_source[source]
    point = replace(POINT, number=number, like=number, shots=shots, role=role, size=0.1 + 0.02 * number)
    return Outcome(point=point, correct=correct, measured={POOL: x}, seconds=36.0)


def known(x: float, shots: int) -> dict[str, float]:
    """Retrieval wins from a similarity of 0.5 on; below, prompting with few shots, and nothing with many."""
    best = "retrieval" if x >= 0.5 else "prompting" if shots < 12 else "nothing"
    return {source: 0.8 if source == best else 0.5 for source in SOURCES}


@pytest.fixture(scope="module")
def record() -> Record:
    random, outcomes = np.random.default_rng(5), []
    for number in range(36):
        x, shots = float(random.random()), (4, 8, 16, 32)[number % 4]
        role = HELD_OUT if number % 3 == 0 else FIT
        outcomes.append(outcome(number, x, shots, known(x, shots), role))
    outcomes.append(replace(outcomes[0], point=replace(outcomes[0].point, number=36, role=OTHER, generator="rare")))
    return Record(plan=PLAN, points=[one.point for one in outcomes], outcomes=outcomes)


def test_a_rule_that_is_there_is_fitted_and_errs_nowhere(record):
    rule = fit(record.of(FIT))
    xs = [one.measured[POOL] for one in record.of(FIT)]
    assert max(x for x in xs if x < 0.5) < rule.similarity <= min(x for x in xs if x >= 0.5) and rule.shots == 12
    assert (rule.near, rule.far) == (("retrieval", "retrieval"), ("prompting", "nothing"))
    tested = evaluate(rule, record.of(FIT), record.of(HELD_OUT), interval)
    assert tested.majority == "retrieval" and tested.decided.all() and len(tested.wrong) == 12
    below = np.array([one.measured[POOL] < 0.5 for one in record.of(HELD_OUT)])
    assert tested.majority_wrong.tolist() == below.tolist() and tested.gain[below].min() > 0.2
    assert tested.wrong.sum() <= 1 and not tested.gain[~below & ~tested.wrong].any()


def test_the_held_out_third_and_the_order_of_points_change_nothing_in_the_fit(record):
    rule = fit(record.of(FIT))
    assert fit(record.of(FIT)[::-1]) == rule
    turned = [
        replace(one, correct={s: ~rows for s, rows in one.correct.items()}) if one.point.role == HELD_OUT else one
        for one in record.outcomes
    ]
    assert figures.fitted_rule(replace(record, outcomes=turned)) == rule


def test_without_a_reason_to_ask_the_rule_asks_nothing():
    alike = {source: 0.6 if source == "prompting" else 0.5 for source in SOURCES}
    outcomes = [outcome(i, i / 20, (4, 8)[i % 2], alike, n=2000) for i in range(20)]
    rule = fit(outcomes)
    assert np.isinf(rule.similarity) and rule.choice(0.1, 4) == rule.choice(0.9, 8) == "prompting"
    assert figures.rule_text(rule) == "Always generate images from prompt templates."
    with pytest.raises(ValueError, match="5 points; a rule needs 6 or more"):
        fit(outcomes[:5])


def test_a_point_has_a_winner_only_where_every_difference_is_clear():
    clear = outcome(0, 0.5, 4, {"retrieval": 0.9, "prompting": 0.5, "personalised": 0.5, "nothing": 0.3})
    assert winner(clear, interval) == "retrieval"
    same = np.random.default_rng(0).random((3, 400)) < 0.9
    tied = replace(clear, correct=clear.correct | {"retrieval": same, "prompting": np.roll(same, 1, axis=1)})
    assert winner(tied, interval) is None and set(good_choices(tied, interval)) == {"retrieval", "prompting"}
    tested = evaluate(fit([clear] * 6), [clear] * 6, [tied, clear], interval)
    assert tested.decided.tolist() == [False, True] and not tested.wrong.any()


def test_two_ways_to_generate_that_tie_win_together():
    clear = outcome(0, 0.1, 4, {"retrieval": 0.3, "prompting": 0.8, "personalised": 0.8, "nothing": 0.3})
    same = np.random.default_rng(0).random((3, 400)) < 0.9
    fewer = same & (np.arange(400) != np.flatnonzero(same.all(0))[0])  # by an image, which says nothing
    tied = replace(clear, correct=clear.correct | {"prompting": fewer, "personalised": same})
    assert set(good_choices(tied, interval)) == {"prompting", "personalised"}
    assert winner(tied, interval) == "personalised"


def test_every_tuned_source_of_the_plan_has_a_rate_of_its_own():
    tuned = [arm for arm in SOURCES.values() if arms_room.ARMS[arm].tuned]
    assert tuned and set(tuned) <= set(read_plan(ROOT / diagram_room.FOLDER).settings["learning_rates"])


def test_advice_states_the_rule_its_error_and_where_it_does_not_hold(record):
    advice = figures.advice(record, 0.9, 8)
    assert advice.source == "retrieval" and advice.inside and advice.majority == "retrieval"
    assert advice.error.n == 12 and advice.error.high > advice.error.value and advice.majority_error.value > 0.2
    assert "retrieve images from the pool" in advice.sentence and "On 12 points" in advice.sentence
    assert figures.advice(record, 0.1, 4).source == "prompting" and figures.advice(record, 0.1, 32).source == "nothing"
    far = figures.advice(record, 1.9, 8)
    assert not far.inside and "outside what was measured" in far.sentence
    assert "with fewer than 12 shots" in advice.rule
    with pytest.raises(ValueError, match="too few for a rule"):
        figures.advice(replace(record, outcomes=record.outcomes[:4]), 0.5, 4)


def test_figures_and_tables_show_a_whole_record_and_one_that_is_not_finished(record):
    for one in (record, replace(record, outcomes=record.outcomes[:3])):
        for figure in (figures.phase_diagram(one), figures.gains_by_dial(one)):
            figure.canvas.draw()
            plt.close(figure)
    assert "always: retrieval (wins most often)" in figures.rule_table(record).data
    rows = figures.rule_table(record).data.split("</tr>")[1:-1]
    costs = [float(row.split("<td>")[-1].split("</td>")[0]) for row in rows]
    assert min(costs) >= 0 and costs[0] < max(costs)  # nothing is better than the best
    few = replace(record, outcomes=record.outcomes[:4])
    assert "Too few points" in figures.rule_table(few).data
    assert figures.advised(few, 0.5, 4) == "Of the diagram 4 of 37 points are measured: no rule, no advice."
    assert figures.advised(record, 0.1, 4) == figures.advice(record, 0.1, 4).sentence
    assert "rare" in figures.generators_table(record).data
    text = figures.report(record)
    assert "37 of 37 points measured, 0.37 hours" in text and "held out: wrong in" in text
    assert "held out" not in figures.report(replace(record, outcomes=record.outcomes[:3]))
    assert figures.report(replace(record, outcomes=[])) == "0 of 37 points measured, 0.00 hours of their workers"


def test_what_the_page_says_of_the_diagram_is_what_its_record_says():
    """The paragraphs below "What the diagram says" have no numbers of their own; these are the ones they rest on."""
    record, study = read_record(), read_freeze("retrieval").settings
    plan = read_plan(ROOT / diagram_room.FOLDER)
    assert plan.repeats == 3 and plan.settings["shares"] == [0.5] and len(study["shares"]) > 1
    assert plan.settings["network_steps"] == study["network_steps"] * study["length"] / 2
    own = [one for one in record.outcomes if one.point.role != OTHER]
    objects = [one for one in own if one.point.target.startswith("objects")]
    gadgets = [one for one in own if one.point.target.startswith("gadgets")]

    def gain(one: Outcome, source: str, rival: str) -> Estimate:
        return interval(one.correct[source].astype(float) - one.correct[rival].astype(float))

    assert all(gain(one, "retrieval", "prompting").low <= 0 for one in own)
    searched = [one.measured[POOL] for one in objects]
    losses = [gain(one, "retrieval", "prompting").value for one in objects]
    assert spearmanr(searched, losses).statistic > 0.7 and max(losses) < 0
    nearest = [one for one in objects if one.measured[POOL] > 0.9]
    undecided = [gain(one, "retrieval", "prompting").high >= 0 for one in nearest]
    assert len(nearest) > 5 and np.mean(undecided) > 0.5

    assert all(gain(one, "personalised", "prompting").low <= 0 for one in objects)
    assert sum(gain(one, "personalised", "prompting").low > 0 for one in gadgets) == 1
    same_shots = [one for one in gadgets if one.point.shots == 16]
    for source in ("retrieval", "prompting"):  # here and in the study, with as many shots
        there = recorded("retrieval")
        beside = (there[SOURCES[source]]["gadgets-hard"] - there[SOURCES["nothing"]]["gadgets-hard"]).mean()
        assert same_shots and max(gain(one, source, "nothing").value for one in same_shots) < beside < 0
    for one in gadgets:
        if one.point.shots >= 16:
            assert all(gain(one, source, "nothing").high < 0 for source in SOURCES if source != "nothing")
        else:
            assert all(gain(one, source, "nothing").low <= 0 for source in SOURCES if source != "nothing")
    rule = figures.fitted_rule(record)
    tested = evaluate(rule, record.of(FIT), record.of(HELD_OUT), interval)
    assert tested.majority == "prompting" and tested.wrong.sum() >= tested.majority_wrong.sum()
    assert any(rule.choice(one.measured[POOL], one.point.shots) == "nothing" for one in objects)
    drawn = "similarity of prompted"
    assert max(one.measured[drawn] for one in gadgets) < 0.5 * min(one.measured[drawn] for one in objects)

    by_generator: dict[str, dict[int, Outcome]] = {}
    for one in record.outcomes:
        name = one.point.generator.removesuffix("/pocket-sd").removeprefix("results/generators/")
        by_generator.setdefault(name, {})[one.point.like] = one
    shipped = by_generator.pop("data/models")
    assert set(by_generator) == {"pocket-sd-1.40M", "pocket-sd-0.56M", "rare", "noisy"}

    def loss(name: str) -> list[Estimate]:
        both = [(one, shipped[like]) for like, one in by_generator[name].items()]
        return [interval(a.correct["prompting"].astype(float) - b.correct["prompting"]) for a, b in both]

    for name in ("pocket-sd-1.40M", "pocket-sd-0.56M"):
        assert len(loss(name)) == 2 and all(one.low <= 0 <= one.high for one in loss(name))
    assert [one.high < 0 for one in loss("rare")] == [True, True] and sum(one.high < 0 for one in loss("noisy")) == 1
    ahead = [gain(one, "prompting", "retrieval") for one in record.of(OTHER)]
    assert all(one.value > 0 for one in ahead) and not all(one.low > 0 for one in ahead)


# --- whole comparisons --------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("models")
    with tiny.long_prompts():
        tiny.stable_diffusion_1(root / "sd")
        tiny.stable_diffusion_1(root / "other", seed=1)
        tiny.clip(root / "clip")
    return root


def with_pool(monkeypatch, images: np.ndarray, captions: list[str]) -> None:
    pool = pool_in_memory("planted", images, captions)
    for room in (pool_arms, arms_room):
        monkeypatch.setattr(room, "open_captioned", lambda setting: pool)


def test_retrieval_wins_from_a_pool_that_has_the_target_and_not_from_one_that_has_nothing(
    models, monkeypatch, tmp_path
):
    """Both with a generator that knows nothing, and the shipped CLIP."""
    noise = np.random.default_rng(0).integers(0, 255, (300, 32, 32, 3), dtype=np.uint8)
    planted = datasets.load("objects-hard:0", "train", 300, seed=77)
    outcomes, point = [], replace(POINT, target="objects-hard:0", shots=2)
    for name, images in (("planted", np.concatenate([noise[:100], planted.images])), ("empty", noise)):
        with_pool(monkeypatch, images, [f"image {i}" for i in range(len(images))])
        setting = Setting(
            model=str(models / "sd"), clip=str(CLIP), pool=name, index=str(tmp_path / name), shots=2, held_out=4,
            times=10, sampling_steps=2, guidance=1.0, tuning_samples=20, shares=(0.5,), test_images=200, size=16,
            network="resnet18", recipe=Recipe(steps=80, checkpoints=1),
        )  # fmt: skip
        execution = Execution(batch=64, cache=Cache(tmp_path / "cache"))
        outcomes.append(measure(replace(PLAN, repeats=1), point, setting, execution))
    there, absent = outcomes
    assert winner(there, interval) == "retrieval"
    assert winner(absent, interval) != "retrieval"
    assert there.measured[POOL] > 0.3 > absent.measured[POOL] + 0.1
    assert set(there.correct) == set(SOURCES) and there.correct["retrieval"].shape == (1, 200)


SETTINGS = {
    "pool": "tiny", "times": 1.5, "held_out": 1, "shares": [0.5], "tuning_samples": 20, "sampling_steps": 2,
    "network_steps": 12, "test_images": 20, "size": 16, "network": "resnet18", "guidance": 1.0,
}  # fmt: skip


def test_a_run_that_is_stopped_goes_on_to_the_same_numbers_in_any_order(models, monkeypatch, tmp_path):
    images = datasets.load("objects-hard:0", "train", 60, seed=77, size=16)
    both = np.concatenate([images.images, np.random.default_rng(0).integers(0, 255, (60, 16, 16, 3), np.uint8)])
    captions = [f"a photo of a {images.classes[i]}" for i in images.labels] + [f"noise {i}" for i in range(60)]
    with_pool(monkeypatch, both, captions)
    plan = asdict(PLAN) | {"models": [str(models / "sd"), str(models / "clip")], "points": 4, "held_out": 1}
    plan |= {"repeats": 1, "settings": SETTINGS, "dials": DIALS | {"target": ["objects-hard"], "captions": [0, 1]}}
    plan["generators"] = {str(models / "other"): 1}
    places = {"index": str(tmp_path / "index")}
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
        write(tmp_path / name, plan)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert len(run(whole, Execution(batch=32, cache=Cache(tmp_path / "first")), places)) == 5
    lives = len(list((tmp_path / "first").glob("*.safetensors"))) // 2
    with pytest.raises(KeyboardInterrupt):
        run(stopped, Execution(batch=32, cache=MortalCache(tmp_path / "second", lives)), places)
    before = len(list(stopped.glob("point-*.parquet")))
    execution = Execution(batch=32, cache=Cache(tmp_path / "second"))
    monkeypatch.setattr(diagram_room, "draw", lambda folder: design(read_plan(folder))[::-1])
    assert 0 < len(run(stopped, execution, places)) == 5 - before < 5
    monkeypatch.undo()
    with_pool(monkeypatch, both, captions)
    first, second = read_record(whole), read_record(stopped)
    assert [one.point for one in first.outcomes] == [one.point for one in second.outcomes] == design(first.plan)
    for a, b in zip(first.outcomes, second.outcomes, strict=True):
        assert a.measured == b.measured
        assert all(np.array_equal(a.correct[source], b.correct[source]) for source in SOURCES)
    assert run(stopped, execution, places) == []
    like = {one.point.number: one for one in first.outcomes}[first.outcomes[-1].point.like]
    assert np.array_equal(like.correct["nothing"], first.outcomes[-1].correct["nothing"])
    assert not np.array_equal(like.correct["prompting"], first.outcomes[-1].correct["prompting"])
    check_other_plans(stopped, plan, execution, places)


def check_other_plans(folder: Path, plan: dict, execution: Execution, places: dict[str, str]) -> None:
    """Outcomes of another plan are refused; where a generator is not there, all other points are measured."""
    write(folder, plan | {"settings": SETTINGS | {"network_steps": 3}})
    with pytest.raises(ValueError, match="measured under another plan or with other models"):
        run(folder, execution, places)
    write(folder, plan | {"generators": {"results/generators/nowhere": 1}})
    (folder / "points.csv").unlink()
    (folder / "point-00.parquet").unlink()
    with pytest.raises(FileNotFoundError, match="not those of results/generators/nowhere: no such folder"):
        run(folder, execution, places)
    assert (folder / "point-00.parquet").is_file()
    (folder / "point-01.parquet").write_bytes(b"cut short")
    with pytest.raises(ValueError, match=r"point-01.parquet: no point's outcome"):
        read_record(folder)


def test_one_share_alone_needs_no_trial(models):
    setting = Setting(model=str(models / "sd"), clip=str(models / "clip"), index="", shares=(0.25,))
    cells = [diagram_room.Cell("objects-hard", arm) for arm in ("templates", "real only", "twice the real")]
    shares = tuned_shares(setting, cells, {}, Execution())
    assert [shares["objects-hard", cell.arm] for cell in cells] == [0.25, 0.0, 0.5]


# --- generators of other quality ----------------------------------------------------------------------------------
def git(folder: Path, *arguments: str) -> None:
    config = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    subprocess.run(["git", "-C", folder, *config, *arguments], check=True, capture_output=True)


def commit(folder: Path, step: int, vae: str) -> None:
    model = folder / "data" / "models" / "pocket-sd"
    texts = {"unet/diffusion_pytorch_model.safetensors": str(step), "vae/weights": vae, "README.md": f"step {step}"}
    texts["training.json"] = json.dumps({"unet": {"step": step, "plan": {"batch": 1000}}})
    for name, text in texts.items():
        (model / name).parent.mkdir(parents=True, exist_ok=True)
        (model / name).write_text(text)
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", f"step {step}")


def test_earlier_weights_are_those_that_fit_today_s_other_parts(tmp_path):
    git(tmp_path.parent, "init", "-q", str(tmp_path))
    for step, vae in ((100, "old"), (200, "new"), (560, "new"), (1400, "new")):
        commit(tmp_path, step, vae)
    assert len(earlier_commits(tmp_path)) == 2
    folders = extract(tmp_path / "generators", tmp_path)
    assert [folder.name for folder in folders] == ["pocket-sd-0.20M", "pocket-sd-0.56M"]
    assert (folders[1] / "unet" / "diffusion_pytorch_model.safetensors").read_text() == "560"
    assert (folders[1] / "vae" / "weights").read_text() == "new"
    with pytest.raises(RuntimeError, match="earlier weights are in the history of a git clone"):
        earlier_commits(tmp_path / "nowhere")


def test_earlier_clips_are_whole_folders_today_s_the_last(tmp_path):
    git(tmp_path.parent, "init", "-q", str(tmp_path))
    model = tmp_path / "data/models/pocket-clip"
    model.mkdir(parents=True)
    for pairs, more in ((300_000, {}), (300_000, {"clip-image": {"history": [{"samples": 700_000}]}})):
        parts = {"clip": {"history": [{"samples": 5}, {"samples": pairs}]}} | more
        (model / "training.json").write_text(json.dumps(parts))
        (model / "model.safetensors").write_text(json.dumps(parts))
        git(tmp_path, "add", "-A")
        git(tmp_path, "commit", "-q", "-m", "x")
    folders = extract_clips(tmp_path / "clips", tmp_path)
    assert [folder.name for folder in folders] == ["pocket-clip-0.30M", "pocket-clip-1.00M"]
    assert (folders[1] / "model.safetensors").read_text() == (model / "model.safetensors").read_text()


def test_a_pool_s_frequency_and_noise_are_dials_of_a_u_net_s_training(tmp_path, monkeypatch):
    from zsclib.pocket import __main__ as command
    from zsclib.pocket.export import restore

    configs = []
    monkeypatch.setattr(command, "load_pool", lambda config, *_: configs.append(config))
    dials = ["--concept-exponent", "1.6", "--caption-noise", "0.4"]
    for arguments in ([], dials):
        command._pool(command.PHASE_1, command._options(["unet", *arguments]))
    assert configs[0] == command.PHASE_1
    assert (configs[1].scenes.concept_exponent, configs[1].captions.noise) == (1.6, 0.4)
    restore(ROOT / "data" / "models", tmp_path, only_frozen=True)
    assert not list(tmp_path.glob("*.safetensors"))
    metas = json.loads((tmp_path / "frozen" / "meta.json").read_text())
    assert {"autoencoder", "clip"} <= set(metas) and not [name for name in metas if name.startswith("unet")]
