"""DataDream's comparison on tiny models: what is chosen where, what is trained once, and what an audit reads."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests import tiny
from zsclib.cache import Cache
from zsclib.extra import Extra
from zsclib.images.image_set import ImageSet
from zsclib.models.clip_lora import ClipRecipe
from zsclib.models.lora import Lora
from zsclib.papers.datadream import classifiers, experiments
from zsclib.papers.datadream.contrasts import (
    BY_CLASS,
    COLUMNS,
    PROMPTED,
    SHOTS,
    TWICE,
    ZERO_SHOT,
    At,
    contrasts,
)
from zsclib.papers.datadream.experiments import CHANGES, Cell, Classifiers, comparison, run
from zsclib.papers.datadream.training_sets import Setting, shots, training_split
from zsclib.recipe import Recipe
from zsclib.workers import Execution

TARGET = "aerial-hard"
SHORT = Classifiers(
    recipe=ClipRecipe(rank=2, alpha=4, steps=4, batch=8, checks=2),
    rates=(1e-3, 1e-2),
    scratch=Recipe(steps=4, batch=8, checkpoints=2),
    scratch_rates=(4e-3,),
)


@pytest.fixture(scope="module")
def setting(tmp_path_factory) -> Setting:
    root = tmp_path_factory.mktemp("models")
    model, clip = tiny.generator_and_clip(root)
    return Setting(
        model=model, clip=clip, pool_images=100, index=str(root / "index"), shots=2,
        per_class=3, test_images=24, size=16, tuning_samples=400, lora=Lora(rank=16, alpha=16),
    )  # fmt: skip


@pytest.fixture(scope="module")
def execution(tmp_path_factory) -> Execution:
    return Execution(cache=Cache(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def made(monkeypatch):
    """The settings and arms whose sets were asked for; the sets are noise, one of them an image short."""
    calls = []

    def fake(setting, target, seed, arm, execution):
        calls.append((setting, arm, seed))
        classes, n = shots(setting, target, seed).real.classes, setting.per_class
        labels = np.tile(np.arange(len(classes)), n)[: n * len(classes) - (arm == "retrieved")]
        draws = np.random.default_rng([seed, len(arm), int(setting.guidance)])
        images = ImageSet(draws.integers(0, 255, (len(labels), 16, 16, 3), np.uint8), labels, classes)
        report = experiments.pd.DataFrame({"class": classes, "wanted": n})
        return Extra(images=images, report=report, evaluations=0.0, tuning_samples=0, seconds=0.0)

    monkeypatch.setattr(experiments, "make_set", fake)
    return calls


def test_every_arm_stands_alone_and_with_the_shots_beside_what_needs_no_images():
    cells = comparison([TARGET], [PROMPTED], shots=[1, 2], n=[3], seeds=2)
    assert len(cells) == 2 * 2 * 3 + 2  # K, seeds; alone, with the shots, shots only; and CLIP as it is, for each seed
    assert {cell.n for cell in cells if cell.arm in (SHOTS, ZERO_SHOT)} == {0}
    assert not any(cell.arm == ZERO_SHOT for cell in comparison([TARGET], [PROMPTED], classifier="scratch"))


def test_a_table_has_a_row_per_cell_and_is_what_contrasts_read(setting, execution, made):
    cells = comparison([TARGET], [PROMPTED, BY_CLASS], shots=[2], n=[3], seeds=2)
    table = run(setting, SHORT, cells, execution)
    assert list(table["arm"]) == [cell.arm for cell in cells] and set(COLUMNS) <= set(table.columns)
    assert all(len(correct) == 24 for correct in table["correct"])
    trained = table[table["arm"] != ZERO_SHOT]
    chosen = trained.groupby(["arm", "with_shots"])[["learning_rate", "step"]].nunique()
    assert (chosen == 1).all(axis=None)  # the first seed chooses for all
    assert set(trained["learning_rate"]) <= set(SHORT.rates) and set(trained["step"]) <= {0, 2, 4}
    assert contrasts(table) == {}  # none of it at 16 shots and 64 images
    assert {"DD-H1-alone", "DD-H1-shots", "DD-H4"} <= set(contrasts(table, at=At(shots=2, n=3)))
    again = run(setting, SHORT, cells, replace(execution, batch=1))
    assert all(np.array_equal(a, b) for a, b in zip(table["correct"], again["correct"], strict=True))


def test_where_one_arm_falls_short_all_are_cut_to_it(setting, execution, made):
    cells = [Cell(TARGET, arm, shots=2, n=3) for arm in (PROMPTED, "retrieved")]
    sets = experiments.make_sets(setting, cells, execution)
    sizes = [len(experiments._sources(setting, cell, sets).synthetic) for cell in cells]
    assert sizes == [23, 23]  # eight classes, of the last one image less
    more = [Cell(TARGET, PROMPTED, shots=2, n=5), cells[1]]
    sets = experiments.make_sets(setting, more, execution)
    assert len(experiments._sources(setting, more[0], sets).synthetic) == 40  # no cut to an arm of fewer


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_changed_in_an_arm_changes_its_images_alone(setting, execution, made, change):
    arm = f"{BY_CLASS}, {change}"
    experiments.make_sets(setting, [Cell(TARGET, arm, shots=2, n=3)], execution)
    ((own, name, _),) = made
    assert name == BY_CLASS
    differing = {field for field in vars(setting) if getattr(own, field) != getattr(setting, field)}
    assert differing == set(CHANGES[change](setting))


def test_an_audit_reads_other_checkpoints_and_other_images_of_the_same_training(
    setting, made, monkeypatch, tmp_path
):
    execution, trained = Execution(cache=Cache(tmp_path)), []
    jobs = classifiers.Job
    monkeypatch.setattr(classifiers, "Job", lambda f, *rest: trained.append(rest[1]) or jobs(f, *rest))
    arms = [BY_CLASS, f"{BY_CLASS}, epoch by test", f"{BY_CLASS}, on the training split"]
    table = run(setting, SHORT, [Cell(TARGET, arm, shots=2, n=3, with_shots=True) for arm in arms], execution)
    plain, by_test, on_train = (row for _, row in table.iterrows())
    assert np.mean(by_test["correct"]) >= np.mean(plain["correct"])
    assert plain["held_out"] == on_train["held_out"] and len(on_train["correct"]) == len(plain["correct"])
    assert len({arm for _, arm, _ in made}) == len(made) == 1  # one set for all three
    assert len(set(trained)) == len(SHORT.rates)  # and one classifier for each learning rate


def planted(rate_of=lambda training: 0.0, checks: int = 3):
    """Stand in for `_fitted`: right on the share of validation images that a training's rate has, at every check."""

    def fitted(setting, network, training):
        labels, share = training.of.one.validation.labels, rate_of(training)
        predicted = np.where(np.arange(len(labels)) < share * len(labels), labels, -1)
        n = len(training.of.one.test)
        facts = {"step": np.arange(checks), "test": np.zeros(n, int)}
        return facts | {"validation": np.tile(predicted, (checks, 1))}

    return fitted


def test_where_the_loss_is_lost_a_third_of_the_rate_is_taken_and_noted(setting, made, monkeypatch):
    def fitted(setting, network, training):
        if training.recipe.learning_rate > 0.4e-2:
            raise FloatingPointError("the loss is nan")
        return planted()(setting, network, training)

    monkeypatch.setattr(classifiers, "_fitted", fitted)
    table = run(setting, SHORT, [Cell(TARGET, PROMPTED, shots=2, n=3)], Execution())
    assert table["learning_rate"].tolist() == pytest.approx([1e-2 / 3])
    monkeypatch.setattr(classifiers, "FALLS", 0)
    with pytest.raises(FloatingPointError, match="prompted.*at every learning rate from 0.01 down, the loss is nan"):
        run(setting, SHORT, [Cell(TARGET, PROMPTED, shots=2, n=3)], Execution())


def test_each_arm_and_way_chooses_once_for_every_k_n_and_change(setting, made, monkeypatch):
    trained, fit = [], planted()
    monkeypatch.setattr(classifiers, "_fitted", lambda *args: trained.append(args[2]) or fit(*args))
    arms = (PROMPTED, f"{PROMPTED}, guidance 5")
    cells = [Cell(TARGET, arm, shots=k, n=n, with_shots=both) for both in (False, True) for k, n, arm in
             ((2, 3, arms[0]), (1, 3, arms[0]), (2, 2, arms[0]), (2, 3, arms[1]))]  # fmt: skip
    cells += [Cell(TARGET, arm, shots=2, n=0) for arm in (SHOTS, f"{SHOTS}, {TWICE}", ZERO_SHOT)]
    chosen = experiments.choose(setting, SHORT, cells, Execution())
    names = [f"{TARGET}; {PROMPTED}; alone; CLIP", f"{TARGET}; {PROMPTED}; with the shots; CLIP"]
    assert list(chosen) == [*names, f"{TARGET}; {SHOTS}; alone; CLIP"]
    by_cell = [(one.of.cell, one.recipe.learning_rate) for one in trained]
    assert by_cell == [(cell, rate) for cell in (cells[0], cells[4], cells[8]) for rate in SHORT.rates]
    table = run(setting, SHORT, cells, Execution(), chosen)
    assert set(table["learning_rate"]) == {0.0, SHORT.rates[1]} and set(table["step"]) == {0, 2}


def test_twice_the_steps_is_judged_at_the_same_check(setting, execution, made):
    cells = [Cell(TARGET, arm, shots=2, n=0) for arm in (SHOTS, f"{SHOTS}, {TWICE}")]
    assert run(setting, SHORT, cells, execution)["step"].tolist() == [4, 8]


@pytest.mark.parametrize(("shots", "samples"), [(16, 400), (8, 200), (4, 100), (1, 100)])
def test_an_adapter_learns_from_as_many_samples_for_each_shot_down_to_four(setting, execution, made, shots, samples):
    usual = replace(setting, shots=16, tuning_samples=400)
    experiments.make_sets(usual, [Cell(TARGET, BY_CLASS, shots=shots, n=1)], execution)
    ((own, _, _),) = made
    assert (own.shots, own.tuning_samples) == (shots, samples)


def test_twice_the_steps_is_a_change_of_every_classifier():
    for classifier in ("CLIP", "scratch"):
        usual, twice = (
            SHORT.recipes(Cell(TARGET, arm, n=0, classifier=classifier))[0] for arm in (SHOTS, f"{SHOTS}, {TWICE}")
        )
        assert twice == replace(usual, steps=2 * usual.steps)


def test_what_was_chosen_elsewhere_is_taken_and_gives_the_same(setting, execution, made, tmp_path):
    cells = comparison([TARGET], [PROMPTED], shots=[2], n=[3], seeds=2)
    whole = run(setting, SHORT, cells, execution)
    chosen = experiments.choose(setting, SHORT, cells, execution)
    assert set(chosen) == {experiments.choice_of(cell) for cell in cells if cell.arm != ZERO_SHOT}
    made.clear()
    second = [cell for cell in cells if cell.seed == 1]
    table = run(setting, SHORT, second, Execution(cache=Cache(tmp_path)), chosen)
    assert {seed for _, _, seed in made} == {1}  # the first seed's sets are not made again
    rows = whole[whole["seed"] == 1]
    for name in ("correct", "learning_rate", "step", "held_out"):
        assert all(np.array_equal(a, b) for a, b in zip(rows[name], table[name], strict=True)), name


def test_a_cell_s_name_says_all_of_it_but_target_and_seed():
    cells = comparison([TARGET], [BY_CLASS, f"{SHOTS}, epoch by test"], shots=[4], n=[16, 64], classifier="scratch")
    for cell in cells:
        name = experiments.name_of(cell)
        assert experiments.cell_of(name, cell.target, cell.seed) == cell
    assert len({experiments.name_of(cell) for cell in cells}) * 3 == len(cells)
    assert experiments.name_of(Cell(TARGET, PROMPTED)) == "prompted; 16 shots; 64 images; alone; CLIP"


def test_the_training_split_has_the_shots_in_it(setting):
    one = shots(setting, TARGET, 0)
    split = training_split(setting, one)
    assert len(split) == len(one.test)
    assert {image.tobytes() for image in one.real.images} <= {image.tobytes() for image in split.images}


def test_half_weight_is_the_classifier_s_and_networks_from_scratch_have_rates_of_their_own(setting, execution, made):
    heavy, half = (SHORT.recipes(Cell(TARGET, arm))[0] for arm in (BY_CLASS, f"{BY_CLASS}, real weight 0.5"))
    assert (heavy.real_weight, half.real_weight) == (0.8, 0.5)
    cells = [Cell(TARGET, PROMPTED, shots=2, n=3, with_shots=both, classifier="scratch") for both in (False, True)]
    table = run(setting, SHORT, cells, execution)
    assert set(table["learning_rate"]) == {4e-3} and not np.array_equal(*table["correct"])
    assert SHORT.recipes(Cell("digits", BY_CLASS))[0].flip is False


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (Cell(TARGET, "prompt"), "no arm 'prompt' .did you mean 'prompted'"),
        (Cell(TARGET, "prompted, rank 5"), "no change 'rank 5'"),
        (Cell(TARGET, SHOTS, n=64), "have none"),
        (Cell(TARGET, PROMPTED, n=0), "N above 0"),
        (Cell(TARGET, PROMPTED, classifier="SVM"), "'CLIP' or 'scratch'"),
    ],
)
def test_bad_cells_are_refused_before_any_work(setting, execution, made, cell, message):
    with pytest.raises(ValueError, match=message):
        run(setting, SHORT, [cell], execution)
    assert made == []
