"""What is measured of the shipped models, and of the checkpoints on the way to them."""

import json
import re
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from zsclib.models.generator import open_generator
from zsclib.pocket import evaluation, guidance, scaling
from zsclib.pocket.probe import linear_probe, order_in_text_states
from zsclib.pocket.requests import Fulfilled, requests
from zsclib.pretraining.checkpoint import write_checkpoint
from zsclib.study.figures import models as figures
from zsclib.study.stats import Estimate, paired_difference, wilson

MODELS = Path(__file__).parents[1] / "data" / "models"
QUALITY = json.loads((MODELS / "quality.json").read_text())


@pytest.fixture
def few(monkeypatch):
    """Measure little: two timesteps, two sampling steps."""
    for module in (evaluation, scaling):
        monkeypatch.setattr(module, "TIMESTEPS", 2)
        monkeypatch.setattr(module, "STEPS", 2)
    monkeypatch.setattr(evaluation, "LOWEST", 300)
    monkeypatch.setattr(evaluation, "CLIP_SETS", ("objects",))
    monkeypatch.setattr(evaluation, "HARD_SETS", ("aerial-hard",))
    monkeypatch.setattr(evaluation, "KINDS", ("objects", "relation"))


def unet(value: float) -> dict[str, torch.Tensor]:
    weights = open_generator(MODELS / "pocket-sd").unet.state_dict()
    return {name: torch.full_like(tensor, value) for name, tensor in weights.items()}


def test_every_model_is_measured_with_an_interval(few, tmp_path):
    for folder in MODELS.iterdir():
        if folder.is_dir():
            (tmp_path / folder.name).symlink_to(folder)
    quality = evaluation.evaluate(tmp_path, limit=8)
    assert json.loads((tmp_path / "quality.json").read_text()) == json.loads(json.dumps(quality))
    assert set(quality) == {"pocket-clip", "pocket-judge", "pocket-sd", "pocket-dit"}
    assert set(quality["pocket-clip"]) == {
        *("objects", "objects ensemble", "aerial-hard", "aerial-hard ensemble")
    }
    assert {"what", "colour", "style", "left", "top colour", "what, decoded"} <= set(quality["pocket-judge"])
    expected = {"psnr first crawl", "objects", "digits", "aerial", "digits without lowest", "order relation"}
    assert expected | {"objects-hard", "aerial-hard"} <= set(quality["pocket-sd"])
    assert set(quality["pocket-dit"]) == {"objects", "objects-shift"}
    for model, measures in quality.items():
        for name, measure in measures.items():
            if "low" in measure:
                assert 0 <= measure["low"] <= measure["value"] <= measure["high"] <= 1, name
            shipped = QUALITY[model][name]["about"]  # up to the numbers in it, which were made small above
            assert re.sub(r"\d+", "#", measure["about"]) == re.sub(r"\d+", "#", shipped)
    assert quality["pocket-judge"]["what"]["value"] > 0.9


def test_a_share_is_the_estimate_of_the_study_and_of_nothing_there_is_none():
    correct = np.arange(10) < 7
    estimate = wilson(7, 10)
    assert evaluation.share(correct, "sevens") == estimate._asdict() | {"about": "sevens"}
    empty = evaluation.share(np.zeros(0, bool), "nothing")
    assert np.isnan(empty["value"]) and empty["n"] == 0 and "low" not in empty


def test_the_shipped_intervals_are_those_of_the_study():
    for measures in QUALITY.values():
        for name, row in measures.items():
            if "low" in row:
                estimate = wilson(round(row["value"] * row["n"]), row["n"])
                assert (row["value"], row["low"], row["high"]) == pytest.approx(estimate[:3], abs=1e-12), name


def test_checkpoints_are_measured_once_each_and_in_order(few, tmp_path, monkeypatch):
    calls = []

    def recognised(generator, name, split, n, K):
        calls.append(name)
        return np.ones(n, bool), None

    monkeypatch.setattr(scaling, "recognised", recognised)
    for samples in (256, 128):
        write_checkpoint(tmp_path / f"unet-ema-{samples:09d}.safetensors", unet(0.0), {"samples": samples})
    history = [
        {"samples": 120, "held_out": 0.5},
        {"samples": 250, "held_out": 0.3},
        {"samples": 640, "held_out": 0.2},
    ]
    ema = {f"ema.{k}": v for k, v in unet(0.0).items()}
    meta = {"step": 5, "plan": {"batch": 128}, "facts": {}, "history": history}
    write_checkpoint(tmp_path / "unet-0000005.safetensors", ema, meta)
    begun = {"facts": {"begin": {"part": "unet", "step": 5}}, "history": [{"samples": 128, "held_out": 0.1}]}
    meta |= {"step": 2, "plan": {"batch": 64}} | begun
    write_checkpoint(tmp_path / "unet-second-0000001.safetensors", ema, meta)
    path = tmp_path / "records" / "scaling.json"
    rows = scaling.scaling(tmp_path, MODELS, path, n=3)
    samples = [row["samples"] for row in rows]
    assert samples == [128, 256, 640, 768], "the second training goes on from the first"
    assert [row["training"] for row in rows] == ["unet"] * 3 + ["unet-second"]
    assert [row["held_out"] for row in rows] == [0.5, 0.3, 0.2, 0.1]
    assert all(len(row["judged objects"]) == row["n"] == 3 for row in rows)
    assert json.loads(path.read_text()) == rows
    calls.clear()
    assert scaling.scaling(tmp_path, MODELS, path, n=3) == rows and not calls
    write_checkpoint(tmp_path / "unet-ema-000000256.safetensors", unet(0.1), {"samples": 256})
    assert len(scaling.scaling(tmp_path, MODELS, path, n=3)) == 4 and len(calls) == 2


def test_clips_are_measured_on_the_images_of_checkpoints(tmp_path):
    path, shipped = tmp_path / "records" / "clip_scaling.json", MODELS / "pocket-clip"
    (row,) = scaling.clip_scaling([shipped], path, n=12)
    assert row["samples"] > 2_000_000 and row["n"] == 12 and json.loads(path.read_text()) == [row]
    of_record = json.loads((MODELS.parent / "records/clip_scaling.json").read_text())[-1]  # today's
    assert of_record["sha256"] == row["sha256"] and of_record["samples"] == row["samples"]
    for name in scaling.SETS:
        assert row[f"recognised {name}"] == of_record[f"recognised {name}"][:12]


def test_averages_are_put_into_a_model_and_altered_files_refused(tmp_path):
    model = open_generator(MODELS / "pocket-sd").unet
    path = tmp_path / "unet-ema-000000128.safetensors"
    write_checkpoint(path, {k: v.half() for k, v in unet(0.25).items()}, {"samples": 128})
    scaling.load_averages(model, path)
    assert all((v == 0.25).all() for v in model.state_dict().values())
    write_checkpoint(path, {"elsewhere.weight": torch.zeros(2)}, {"samples": 128})
    with pytest.raises(ValueError, match="does not belong"):
        scaling.load_averages(model, path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"unet-ema-000000128\.safetensors was cut short"):
        scaling.load_averages(model, path)


def test_a_probe_reads_the_order_from_the_text_states_and_not_from_words_in_their_places():
    """The generator hardly uses it: what is generated in the wrong order is not the text tower's fault."""
    correct = order_in_text_states(open_generator(MODELS / "pocket-sd"), 200, training=3000)
    assert len(correct) == 200 and correct.mean() > 0.93
    wanted = requests("relation of colours", 3200, seed=2)
    here, there = (
        (wanted[f"{a} colour"] + wanted[f"{b} colour"]).to_numpy()
        for a, b in (("left", "top"), ("right", "bottom"))
    )
    words = wanted.prompt.str.split(expand=True)  # a column per place
    in_places = pd.get_dummies(words).to_numpy(float)
    assert abs(linear_probe(in_places, here, there, 3000).mean() - 0.5) < 0.15
    with_answer = np.column_stack([here[:, None] == np.unique(here), in_places])
    assert linear_probe(with_answer.astype(float), here, there, 3000).all()


def test_rows_of_the_quality_table_have_an_estimate_where_there_is_an_interval():
    rows = evaluation.quality_rows(QUALITY)
    assert len(rows) == sum(map(len, QUALITY.values()))
    by_name = {(model, about): (value, n) for model, about, value, n in rows}
    value, n = by_name["pocket-clip", "zero-shot accuracy, objects"]
    assert isinstance(value, Estimate) and value.n == n == 500
    value, _ = by_name["pocket-sd", "autoencoder PSNR in dB, held-out images, phase 1"]
    assert isinstance(value, float)


def test_psnr_of_known_errors():
    images = np.full((2, 4, 4, 3), 100, np.uint8)
    assert evaluation.psnr_of(images, images) == pytest.approx(100)  # the cap
    assert evaluation.psnr_of(images, images + 51) == pytest.approx(-20 * np.log10(51 / 255))


def growth() -> list[dict]:
    rows = [
        {"samples": 1000, "training": "unet", "held_out": 0.3, "judge": "old"},
        {"samples": 2000, "training": "unet", "held_out": 0.2, "judge": "old"},
        {"samples": 3000, "training": "unet-second", "held_out": 0.25, "judge": "new"},
    ]
    for row, correct in zip(rows, (20, 30, 30), strict=True):
        row |= {name: [1] * correct + [0] * (40 - correct) for name in ("judged objects", "recognised digits")}
    return rows


def test_gains_are_paired_differences_of_neighbours():
    table = scaling.gains(growth())
    assert list(table.columns) == ["thousand pairs", "phase", "generated objects", "recognised digits"]
    assert table["thousand pairs"].tolist() == ["1 → 2", "2 → 3"] and table.phase.tolist() == [1, 2]
    first, second = growth()[:2]
    expected = paired_difference(second["judged objects"], first["judged objects"]).points()
    assert table["generated objects"][0] == expected and expected.startswith("+25.0 points")
    assert [row["samples"] for row in scaling.read_by_another_classifier(growth())] == [1000, 2000]


def test_the_figure_of_growth_marks_where_phase_2_begins():
    figure = figures.growth(growth())
    recognised, validation = figure.axes[1], figure.axes[2]
    assert recognised.get_lines()[-1].get_xdata()[0] == 2000
    assert [list(line.get_xdata()) for line in validation.get_lines()[:2]] == [[1000, 2000], [3000]]
    plt.close("all")


def test_the_figure_of_requests_has_a_hollow_dot_where_two_things_can_be_exchanged():
    yes, no = np.ones(5, bool), np.zeros(5, bool)
    outcomes = {"objects": Fulfilled(yes, None), "relation": Fulfilled(no, yes)}
    hollow = [line for line in figures.requested(outcomes).axes[0].get_lines() if line.get_markerfacecolor() == "none"]
    assert [(list(line.get_xdata()), list(line.get_ydata())) for line in hollow] == [([1.0], [1])]
    plt.close("all")


def test_what_a_training_took_stands_beside_it_with_its_memory_where_that_was_noted():
    meta = {"step": 1000, "plan": {"batch": 64}, "seconds": 1800.0, "device": "1 CPU core"}
    text = figures.costs_table({"clip": meta, "unet": meta | {"memory": 3 * 2**29}}).data
    rows = [re.findall(r"<td>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", text, re.DOTALL)]
    assert [row for row in rows if row] == [
        ["clip", "64,000", "0.5", "36", "–", "1 CPU core"],
        ["unet", "64,000", "0.5", "36", "1.5 GB", "1 CPU core"],
    ]
    assert "memory" in text and "memory" not in figures.costs_table({"clip": meta}).data


def test_the_order_table_shows_images_and_probe_side_by_side():
    text = figures.order_table(QUALITY["pocket-sd"]).data
    assert "a linear probe on the text states" in text and "99.4 % (98.7 to 99.7)" in text


class Pixels:
    """Stands in for CLIP: the features of an image are its corner pixel."""

    def encode_images(self, images):
        return torch.from_numpy(images[:, 0, 0].astype(np.float32)) + 1


def test_more_guidance_can_only_lower_the_variety_of_a_generator_that_repeats_itself(monkeypatch):
    monkeypatch.setattr(guidance, "fulfilled", lambda classifier, images, wanted: np.arange(len(images)) % 2 == 0)
    seeds_by_scale = {}

    def generate(prompts, seeds, scale):
        seeds_by_scale.setdefault(scale, []).append(seeds)
        draws = np.random.default_rng(seeds[0])
        images = draws.integers(0, 256, (len(prompts), 32, 32, 3), dtype=np.uint8)
        return images if scale == 1 else np.zeros_like(images)

    rows = guidance.guidance_tradeoff(generate, None, Pixels(), [1.0, 9.0], sets=2, n=40)
    assert rows.guidance.tolist() == [1, 1, 9, 9] and (rows.accuracy == 0.5).all()
    assert seeds_by_scale[1.0] == seeds_by_scale[9.0], "the same noise at every scale"
    assert seeds_by_scale[1.0][0] != seeds_by_scale[1.0][1], "seeds of its own for each set"
    vendi = rows["Vendi score"].to_numpy()
    assert vendi[2:] == pytest.approx(1) and (vendi[:2] > 1.01).all()
    assert len(figures.tradeoff(rows, 1.5).axes) == 3
    plt.close("all")
