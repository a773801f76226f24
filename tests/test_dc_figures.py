"""Figures of the diffusion classifier's pages: drawn from planted outcomes, true under any of them, or left out."""

from __future__ import annotations

import json
import re
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from IPython.display import Markdown
from matplotlib import pyplot as plt

from zsclib.images.image_set import ImageSet
from zsclib.papers.diffusion_classifier import method
from zsclib.papers.diffusion_classifier.classifier import result_of
from zsclib.papers.diffusion_classifier.contrasts import CLIP_ONE, DIFFUSION, DIT
from zsclib.papers.diffusion_classifier.error_matrix import exhaustive, nested, prediction
from zsclib.papers.diffusion_classifier.experiments import COMPETENT, PAPER
from zsclib.papers.diffusion_classifier.measurements import Example, Target
from zsclib.papers.diffusion_classifier.replays import fewer_timesteps, replay
from zsclib.papers.diffusion_classifier.sequential import sequential
from zsclib.study.claims import load_claims
from zsclib.study.figures import diffusion_classifier as page
from zsclib.study.figures import diffusion_classifier_why as why
from zsclib.study.source import source
from zsclib.study.stats import Estimate, accuracy, calibration

ROOT = Path(__file__).resolve().parents[1]
N = 24
CLASSES = ("cat", "dog", "fish", "car", "tree")


@pytest.fixture(autouse=True)
def closed():
    matplotlib.use("Agg")
    yield
    plt.close("all")


def words(figure) -> str:
    """Return all that is written in a figure."""
    texts = [
        text.get_text()
        for ax in figure.axes
        for text in (*ax.texts, ax.title, ax._left_title, ax.xaxis.label)
    ]
    legends = [*figure.legends, *(ax.get_legend() for ax in figure.axes if ax.get_legend())]
    return " ".join(texts + [text.get_text() for legend in legends for text in legend.get_texts()])


def diamonds(ax) -> list[tuple[float, float]]:
    lines = [line.get_data() for line in ax.lines if line.get_marker() == "D"]
    return [(round(float(x), 6), float(y)) for data in lines for x, y in zip(*data, strict=True)]


def target(name: str, n: int = N) -> Target:
    images = np.random.default_rng(0).integers(0, 256, (n, 8, 8, 3)).astype(np.uint8)
    prompts = tuple(f"a {c}" for c in CLASSES)
    return Target(name=name, images=images, labels=np.arange(n) % 5, classes=CLASSES, prompts=prompts)


def errors(K: int, gap: float, seed: int = 0) -> np.ndarray:
    """Errors (n, 5, K) by which the true class leads by `gap` standard deviations."""
    matrix = np.random.default_rng(seed).normal(size=(N, 5, K)).astype(np.float32)
    matrix[np.arange(N), np.arange(N) % 5] -= gap
    return matrix


TARGETS = {name: target(name) for name in ("objects", "digits")}
DEEP = {"objects": errors(32, 0.3), "digits": errors(32, 0.15, 1)}


# --- is it a good classifier? ---------------------------------------------------------------------


def test_the_method_is_shown_as_it_stands_in_the_library():
    shown = source(method.diffusion_classifier, method.error)
    assert isinstance(shown, Markdown) and shown.data.startswith("```python\ndef diffusion_classifier(")
    assert shown.data.endswith("```") and "def error(" in shown.data
    assert "for j in range(len(c)):" in shown.data


def test_accuracies_stand_beside_every_number_of_the_paper_and_none_that_it_did_not_print():
    published = {
        "roles": {"objects": ["CIFAR-10", "STL-10"], "digits": ["ObjectNet"]},
        "not_comparable": {"digits": ["OpenCLIP ViT-H/14"]},
        "table_1": {
            "Diffusion Classifier": {"CIFAR-10": 88.5, "STL-10": 95.4, "ObjectNet": 43.4},
            "OpenCLIP ViT-H/14": {"CIFAR-10": 97.3, "STL-10": 98.3, "ObjectNet": 69.2},
        },
    }
    half = accuracy(np.arange(N) < N // 2)
    estimates = {name: dict.fromkeys((DIFFUSION, CLIP_ONE, COMPETENT), half) for name in TARGETS}
    figure = page.arms(estimates, TARGETS, published)
    objects, digits = figure.axes[:2]
    assert sorted(diamonds(objects)) == [(0.885, 0.0), (0.954, 0.0), (0.973, 1.0), (0.983, 1.0)]
    assert diamonds(digits) == [(0.434, 0.0)]
    assert "objects, 5 classes" in words(figure)


def test_failures_and_confusion_show_what_was_wrong():
    results = {name: result_of(DEEP[name], nested(32).t) for name in TARGETS}
    assert page.failures(TARGETS, results) is not None
    perfect = {name: result_of(errors(32, 50.0), nested(32).t) for name in TARGETS}
    assert page.failures(TARGETS, perfect) is None
    assert re.search(
        r"digits: \d+\.\d % \(\d+\.\d to \d+\.\d\) correct", words(page.confusion(TARGETS, results))
    )


def test_a_path_of_ones_own_is_not_shown():
    name = "folder:/home/me/pets"
    own = {name: target(name)}
    results = {name: result_of(DEEP["digits"], nested(32).t)}
    estimates = {name: {DIFFUSION: accuracy(np.arange(N) < 9)}}
    shown = words(page.arms(estimates, own, {"roles": {}, "not_comparable": {}, "table_1": {}}))
    shown += words(page.confusion(own, results)) + words(page.failures(own, results, row_titles=False))
    assert "pets" in shown and "home" not in shown


def test_generated_images_have_a_row_per_arm():
    images = np.zeros((10, 8, 8, 3), np.uint8)
    sets = {(arm, "objects"): ImageSet(images, np.zeros(10, int), CLASSES) for arm in (PAPER, COMPETENT)}
    figure = page.generated_images(sets, columns=4)
    assert words(figure).split() == ["objects"]
    assert page.generated_images({}) is None


def test_pairs_show_every_swap_and_the_published_text_scores():
    solved = {
        arm: {score: np.arange(6) < k for score in ("text", "image", "group", "matching")}
        for k, arm in enumerate(("diffusion", "diffusion, raw errors", "CLIP"), 2)
    }
    row = {"object": 40.0, "relation": 30.0, "both": 50.0, "all": 35.0}
    published = {"table_3": {"Diffusion Classifier": row, "OpenCLIP ViT-H/14": row}}
    figure = page.pairs(solved, ["object", "relation", "both"] * 2, published)
    assert sorted(x for x, _ in diamonds(figure.axes[0])) == sorted(2 * [0.4, 0.3, 0.5, 0.35])
    assert not diamonds(figure.axes[1]) and "matching" in words(figure)
    assert page.pairs({}, (), published) is None


def test_the_line_of_the_networks_and_how_far_the_model_is_above_it():
    share = {DIT: (0.8, 0.7), "resnet18": (0.3, 0.2), "vit-b": (0.6, 0.4)}
    correct = {
        name: {"objects": np.arange(N) < a * N, "objects-shift": np.arange(N) < b * N}
        for name, (a, b) in share.items()
    }
    figure = page.effective_robustness(correct, Estimate(0.1, -0.05, 0.2, N))
    assert "The DiT above the networks' line: +10.0 points (−5.0 to +20.0)" in words(figure).replace(
        "\n", " "
    )
    assert page.effective_robustness({DIT: correct[DIT]}, None) is None
    curves = {(name, "validation"): np.linspace(0.1, 0.5, 5) for name in ("resnet18", "vit-b")}
    assert len(page.learning_curves(curves, {"resnet18": 100, "vit-b": 200}).axes[0].lines) == 2
    assert page.learning_curves({}, {}) is None


def test_reliability_templates_and_checkpoints():
    p = np.random.default_rng(0).dirichlet(np.ones(5), N)
    assert "ECE" in words(page.reliability({"objects": calibration(p, np.arange(N) % 5)}))
    assert page.reliability({}) is None
    by_template = {"a {}": np.arange(N) < 10, "the {}": np.arange(N) < 12}
    assert "Validation images chose “the {}”" in words(page.templates(by_template, 0.2, "the {}"))
    assert page.templates({}, 0.2, "") is None
    rows = [{"samples": n, "recognised objects": [0, 1] * 5, "judged objects": [1]} for n in (131072, 262144)]
    assert "objects" in words(page.checkpoints(rows))
    assert page.checkpoints([]) is None


# --- why does it work, and what does it cost? -----------------------------------------------------


def test_a_rate_is_wilson_s_for_decisions_and_student_s_for_means_over_grids():
    whole = {"a": np.arange(N) < 6, "b": np.arange(N) < 12}
    assert why.rate(whole) == accuracy(np.concatenate(list(whole.values())))
    shares = why.rate({"a": np.linspace(0, 1, N)})
    assert shares.value == pytest.approx(0.5) and shares.low < 0.45 and shares.n == N


def test_one_decision_says_how_much_wider_unshared_noise_spreads():
    noise = np.random.default_rng(0).normal(size=(8, 16))
    example = Example(
        TARGETS["objects"].images[0], ("a cat", "a dog"), np.arange(16), np.stack([noise, noise + 0.01])
    )
    example.errors[1, :, 0] += 0.001 * np.arange(8)
    assert re.search(
        r"spreads the difference [\d.]+ times as widely", words(why.decision(example)).replace("\n", " ")
    )


def test_curves_of_shared_noise_and_the_factor():
    curves = {
        "noise shared": [{"a": np.arange(N) < 9}] * 3,
        "noise of each class": [{"a": np.linspace(0, 1, N)}] * 3,
    }
    figure = why.shared_noise([1, 2, 4], curves, {"a": np.linspace(0.9, 1.1, N)})
    assert "Factor 10" in words(figure) and "noise of each class" in words(figure)


def test_single_timesteps_stand_beside_the_published_curve():
    matrix = {name: values[:, :, :8] for name, values in DEEP.items()}
    figure = why.single_timesteps(exhaustive(8), matrix, TARGETS, {0: 7.6, 500: 46.4})
    assert {"objects", "digits", "Pets (paper)"} <= {line.get_label() for line in figure.axes[0].lines}


def test_ways_to_spend_a_budget():
    ways = {way: {2: {"a": np.linspace(0, 1, N)}, 4: {"a": np.arange(N) < 9}} for way in why.WAYS}
    assert "one timestep" in words(why.spread(ways, 8))


def test_changes_are_shown_set_by_set_with_published_numbers_where_they_belong():
    sets = {"objects": np.tile([1.0, 0.0], 12), "digits": np.tile([-1.0, 0.0], 12)}
    figure = why.changes({"one": sets, "two": sets}, "Title", "detail", {"one": -0.1, "two": {"digits": 0.3}})
    (ax,) = figure.axes
    drawn = {line.get_marker(): [] for line in ax.lines}
    for line in ax.lines:
        drawn[line.get_marker()] += list(zip(*line.get_data(), strict=True))
    assert [x for x, _ in drawn["o"]] == [0.5, 0.5] and [x for x, _ in drawn["s"]] == [-0.5, -0.5]
    between, beside = sorted(drawn["D"], key=lambda point: point[0])
    assert between[0] == -0.1 and drawn["o"][0][1] < between[1] < drawn["s"][0][1]
    assert beside == (0.3, drawn["s"][1][1])
    assert "objects" in words(figure) and "Title" in words(figure)


def test_weights_and_printed_numbers():
    claims = load_claims()
    printed = why.printed(claims, {"class-conditional": "DC-H11-dit"})
    assert printed == {"class-conditional": claims["DC-H11-dit"].published[0]["value"] / 100}
    rows = {"class-conditional": {"objects": np.tile([1.0, 0.0], 12)}}
    w = np.array([4.0, 1, 1, 2])
    figure = why.weights(exhaustive(4), w, rows, printed)
    assert "The lowest of 4 timesteps has 50 % of the bound's weight" in words(figure)


def test_the_filter_ends_at_both_models():
    scores = {name: np.random.default_rng(2).normal(size=(N, 5)) for name in TARGETS}
    (ax,) = why.class_filter(DEEP, scores, TARGETS).axes
    curve = next(line for line in ax.lines if line.get_label() == "objects")
    clip = (scores["objects"].argmax(1) == TARGETS["objects"].labels).mean()
    diffusion = (prediction(DEEP["objects"]) == TARGETS["objects"].labels).mean()
    np.testing.assert_allclose(curve.get_ydata()[[0, -1]], [clip, diffusion])


def test_the_cost_is_stated_with_its_interval_and_tabled():
    t = nested(32).t
    rules = {"every class": [fewer_timesteps(DEEP, TARGETS, t, k) for k in (1, 8, 32)]}
    rules["sequential test"] = [replay(sequential(32, alpha), DEEP, TARGETS) for alpha in (0.4, 0.1)]
    chosen, staged = rules["sequential test"][1], rules["every class"][1]
    text = words(why.cost(rules, chosen, staged, 0.1)).replace("\n", " ")
    assert re.search(r"takes \d+\.\d % \(\d+\.\d to \d+\.\d\) of the evaluations", text)
    assert re.search(r"for \d+\.\d % \(\d+\.\d to \d+\.\d\) of the images", text)
    whole = rules["every class"][2].correct
    (row,) = why.rules({"every class at 32 timesteps": rules["every class"][2]}, whole)
    assert row[1] == "100.0 %" and row[3].startswith("+0.0 points") and row[4] == "100.0 %"


# --- the pages ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["diffusion_classifier", "diffusion_classifier_why"])
def test_a_page_shows_its_code_in_short_cells_between_sentences(name):
    cells = json.loads((ROOT / f"notebooks/{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    code = [i for i, cell in enumerate(cells) if cell["cell_type"] == "code"]
    visible = [
        i for i in code if not set(cells[i]["metadata"].get("tags", [])) & {"hide-input", "remove-cell"}
    ]
    assert len(visible) >= 0.6 * len(code)
    for i in visible:
        lines = "".join(cells[i]["source"]).split("\n")
        assert max(map(len, lines)) <= 72, lines
        if "parameters" not in cells[i]["metadata"].get("tags", []):
            assert len(lines) <= 15, lines
            assert cells[i - 1]["cell_type"] == "markdown", lines
        assert cells[i + 1]["cell_type"] == "markdown", lines
    figures = [cells[i] for i in code if "mystnb" in cells[i]["metadata"]]
    assert len(figures) >= 10
    for cell in figures:
        assert len(cell["metadata"]["mystnb"]["image"]["alt"]) > 20
        assert "plt." not in "".join(cell["source"])
