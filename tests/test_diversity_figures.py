"""Figures and tables of the page on diversity: they say what was measured, and the paper's numbers are the paper's."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from zsclib.images.image_set import ImageSet
from zsclib.own_sets import short_name, short_names
from zsclib.papers.diversity.contrasts import MEASURED, SHIFTS
from zsclib.papers.diversity.training_sets import MAIN
from zsclib.setmetrics import MEASURES
from zsclib.study.claims import load_claims, to_judge
from zsclib.study.figures import diversity as figures
from zsclib.study.panels import level, panels
from zsclib.study.stats import Estimate
from zsclib.study.verdicts import judge

CLAIMS = [claim for claim in load_claims().values() if claim.paper == "diversity"]
N = 50


def outcomes(*rows: tuple[str, str, float, str, float]) -> pd.DataFrame:
    """A table as `run` returns it, of two seeds: target, arm, times, architecture, share of images that are correct."""
    columns = ["target", "arm", "times", "architecture", "last", "seed", "length", "held_out"]
    rows = [[*row[:4], np.arange(N) < round(row[4] * N), seed, 1, 0.5] for row in rows for seed in (0, 1)]
    return pd.DataFrame(rows, columns=columns)


def labelled(value: int, prompts: list[str], guidance: list[float]) -> ImageSet:
    images = np.full((len(prompts), 4, 4, 3), value, np.uint8)
    manifest = pd.DataFrame({"prompt": prompts, "guidance": guidance})
    return ImageSet(images, np.arange(len(prompts)) % 2, ("cat", "dog"), manifest=manifest)


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def test_published_numbers_stand_at_the_target_that_plays_the_role_of_their_data_set():
    numbers = figures.published(CLAIMS, figures.TRICK_CLAIMS)
    assert numbers["objects-hard"] == pytest.approx(
        {"class name": 0.018, "domains": 0.075, "random guidance": 0.124, "all combined": 0.205}
    )
    assert "class name" not in numbers["aerial-hard"] and numbers["aerial-hard"]["domains"] == pytest.approx(-0.004)
    assert "digits" not in numbers
    assert figures.published(CLAIMS, {"a network": "no such claim"}) == {}


def test_every_claim_behind_a_figure_exists():
    ids = {claim.id for claim in CLAIMS}
    assert set(figures.TRICK_CLAIMS.values()) | {claim for claim, _ in figures.SHORTCUTS.values()} <= ids


def test_a_shortcut_is_what_it_adds_however_its_claim_is_worded():
    differences = {"DIV-A-eval": {"x": np.full((2, N), 0.1)}, "DIV-A-noise": {"x": np.full((2, N), 0.1)}}
    effects = figures.shortcut_effects(differences)["x"]
    assert effects["no eval(), naive"].value == pytest.approx(0.1)
    assert effects["one noise sequence"].value == pytest.approx(-0.1)
    chosen = {"DIV-A-selection": {"x": np.full((2, N), 0.03 + SHIFTS["DIV-A-selection"])}}  # two points above none
    assert figures.shortcut_effects(chosen)["x"]["chosen on test, naive"].value == pytest.approx(0.03)


def test_accuracy_of_one_seed_has_wilsons_interval_and_of_more_one_over_seeds():
    one = level(np.array([[True] * 9 + [False]]))
    assert one.value == 0.9 and 0.55 < one.low < 0.6 and one.n == 10
    random = np.random.default_rng(0).random((3, 200)) < 0.5
    several = level(random)
    assert several.value == pytest.approx(random.mean()) and several.low < several.value < several.high


def test_a_rank_correlation_of_one_seed_decides_nothing():
    differences = {claim: {"a": np.array([0.9]), "b": np.array([1.0])} for claim in MEASURED}
    verdicts = judge(*to_judge(CLAIMS, differences))
    assert set(verdicts) == set(MEASURED)
    assert {verdict.direction for verdict in verdicts.values()} == {"inconclusive"}
    assert verdicts["DIV-D9-vendi"].pooled.value == pytest.approx(0.95)
    assert verdicts["DIV-D9-vendi"].effects["a"][:3] == pytest.approx((0.9, -1, 1))
    several = {claim: {"a": np.array([0.9, 0.8, 0.85])} for claim in MEASURED}
    effect = judge(*to_judge(CLAIMS, several))["DIV-D9-vendi"].effects["a"]
    assert effect.value == pytest.approx(0.85) and 0.6 < effect.low < effect.high < 1.1


def test_differences_on_targets_that_no_claim_names_are_not_judged():
    values = np.tile([1.0, 0, 0, 0], (2, 25))
    differences = {"DIV-D1-folder:my/pets": {"folder:my/pets": values}, "DIV-D7": {"folder:my/pets": values}}
    assert set(judge(*to_judge(CLAIMS, differences))) == {"DIV-D7"}


@pytest.mark.parametrize(
    ("target", "name"),
    [("objects-fine", "objects_fine"), ("hub:uoft-cs/cifar10", "cifar10"), ("folder:my/Pets 2", "pets_2")],
)
def test_names_of_targets_are_fit_for_a_record(target, name):
    assert short_name(target) == name


def test_two_folders_of_one_last_name_have_two_names_in_a_record():
    targets = ["digits", "folder:a/Pets", "folder:b/pets", "folder:c/pets"]
    assert short_names(targets) == dict(zip(targets, ("digits", "pets", "pets_2", "pets_3"), strict=True))
    assert list(short_names(["folder:pets", "folder:pets 2", "folder:b/pets"]).values()) == ["pets", "pets_2", "pets_3"]


def test_tables_hold_the_accuracies_and_call_networks_what_they_are():
    rows = [("one", arm, k, MAIN, p) for arm, k, p in (("base", 1, 0.2), ("base", 4, 0.3), ("union", 1, 0.5))]
    rows += [("one", "union", 4, net, p) for net, p in ((MAIN, 0.6), ("resnet50", 0.66), ("vit-b", 0.7))]
    rows += [("one", "base", 1, "resnet50", 0.22), ("one", "base", 1, "vit-b", 0.4)]
    rows += [("two", arm, k, MAIN, 0.1) for arm, k in (("base", 1), ("union", 1), ("union", 4))]
    of = outcomes(*rows)
    shorter = outcomes(("one", "base", 1, MAIN, 0.9)).assign(length=0.25)
    of = pd.concat([of, shorter])
    cells = pd_cells(figures.accuracies_table(of))
    assert {"20.0 %", "60.0 %", "10.0 %", "–"} <= set(cells) and not {"22.0 %", "90.0 %"} & set(cells)
    networks = pd_cells(figures.networks_table(of))
    assert {"22.0 %", "66.0 %", "40.0 %", "70.0 %", "bottleneck-14", "transformer, 2 blocks"} <= set(networks)
    assert "–" in networks and "ConvNeXt, 5 blocks" not in networks


def test_the_table_of_tricks_tells_fixed_and_random_guidance_apart():
    sets = {
        "base": labelled(0, ["a cat", "a dog"] * 2, [7.5] * 4),
        "random-guidance": labelled(0, ["a cat", "a dog"] * 2, [1.0, 2.0, 3.0, 4.9]),
    }
    assert {"7.5", "1 to 4.9", "a cat", "2"} <= set(pd_cells(figures.tricks_table(sets)))


def pd_cells(html) -> list[str]:
    return html.data.replace("</td>", "<td>").split("<td>")


def test_figures_are_drawn_from_what_they_are_given():
    e = Estimate(0.1, -0.1, 0.3, N)
    figure = panels({"one": {"a": e, "b": e}, "two": {"a": e}, "three": {"a": e}}, {"one": {"b": 0.2}})
    assert [ax.get_title() for ax in figure.axes[:3]] == ["one", "two", "three"] and not figure.axes[3].axison
    panels({"one": {"real images": e}}, differences=False, chance={"one": 0.1})
    sets = {"base": labelled(0, ["a"] * 4, [1.0] * 4), "test image": labelled(1, ["a"] * 4, [1.0] * 4)}
    figures.sample_sheet(sets)
    figures.target_sheet({"one": sets, "two": sets})


def test_correlations_are_shown_with_their_mean_and_range():
    ranks = pd.DataFrame({"target": ["one", "one"], "seed": [0, 1], **dict.fromkeys(MEASURES, [0.5, -0.1])})
    assert "+0.20 (−0.10 to +0.50)" in figures.correlations_table(ranks, MEASURES).data
