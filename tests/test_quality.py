"""What is measured of the shipped models, and of the checkpoints on the way to them."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from zsclib import quality
from zsclib.models.generator import open_generator
from zsclib.pocket.requests import requests
from zsclib.pretraining.checkpoint import write_checkpoint

MODELS = Path(__file__).parents[1] / "data" / "models"


@pytest.fixture
def few(monkeypatch):
    """Measure little: two noise levels, two sampling steps."""
    monkeypatch.setattr(quality, "TIMESTEPS", 2)
    monkeypatch.setattr(quality, "LOWEST", 300)
    monkeypatch.setattr(quality, "STEPS", 2)
    monkeypatch.setattr(quality, "CLIP_SETS", ("objects",))
    monkeypatch.setattr(quality, "KINDS", ("objects", "relation"))


def unet(value: float) -> dict[str, torch.Tensor]:
    return {
        k: torch.full_like(v, value)
        for k, v in open_generator(MODELS / "pocket-sd").unet.state_dict().items()
    }


def test_every_model_is_measured_with_an_interval(few, tmp_path):
    for folder in MODELS.iterdir():
        if folder.is_dir():
            (tmp_path / folder.name).symlink_to(folder)
    found = quality.evaluate(tmp_path, limit=8)
    assert json.loads((tmp_path / "quality.json").read_text()) == json.loads(json.dumps(found))
    assert set(found) == {"pocket-clip", "pocket-judge", "pocket-sd", "pocket-dit"}
    assert {"objects", "objects ensemble"} == set(found["pocket-clip"])
    assert {"what", "colour", "style", "left", "top colour", "what, decoded"} <= set(found["pocket-judge"])
    assert {
        "psnr first crawl",
        "objects",
        "digits",
        "aerial",
        "digits without lowest",
        "order relation",
    } <= set(found["pocket-sd"])
    assert set(found["pocket-dit"]) == {"objects", "objects-shift"}
    for measures in found.values():
        for name, measure in measures.items():
            if "low" in measure:
                assert 0 <= measure["low"] <= measure["value"] <= measure["high"] <= 1, name
    assert found["pocket-judge"]["what"]["value"] > 0.9


def test_nothing_measured_is_no_accuracy():
    empty = quality.accuracy(np.zeros(0, bool), "nothing")
    assert np.isnan(empty["value"]) and empty["n"] == 0 and "low" not in empty


def test_checkpoints_are_measured_once_each_and_in_order(few, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        quality, "recognised", lambda g, name, split, n, K: asked.append(name) or (np.ones(n, bool), None)
    )
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
    rows = quality.scaling(tmp_path, MODELS, path, n=3)
    assert [row["samples"] for row in rows] == [128, 256, 640, 768], (
        "the second training goes on from the first"
    )
    assert [row["training"] for row in rows] == ["unet"] * 3 + ["unet-second"]
    assert [row["held_out"] for row in rows] == [0.5, 0.3, 0.2, 0.1]
    assert all(len(row["judged objects"]) == row["n"] == 3 for row in rows)
    assert json.loads(path.read_text()) == rows
    asked.clear()
    assert quality.scaling(tmp_path, MODELS, path, n=3) == rows and not asked
    write_checkpoint(tmp_path / "unet-ema-000000256.safetensors", unet(0.1), {"samples": 256})
    assert len(quality.scaling(tmp_path, MODELS, path, n=3)) == 4 and len(asked) == 2


def test_averages_are_put_into_a_model_and_altered_files_refused(tmp_path):
    model = open_generator(MODELS / "pocket-sd").unet
    path = tmp_path / "unet-ema-000000128.safetensors"
    write_checkpoint(path, {k: v.half() for k, v in unet(0.25).items()}, {"samples": 128})
    quality.load_averages(model, path)
    assert all((v == 0.25).all() for v in model.state_dict().values())
    write_checkpoint(path, {"elsewhere.weight": torch.zeros(2)}, {"samples": 128})
    with pytest.raises(ValueError, match="does not belong"):
        quality.load_averages(model, path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"unet-ema-000000128\.safetensors was cut short"):
        quality.load_averages(model, path)


def test_a_probe_is_told_the_order_by_the_text_states_and_not_by_words_in_their_places():
    """The generator hardly uses it: what is drawn in the wrong order is not the text tower's fault."""
    told = quality._order_told(open_generator(MODELS / "pocket-sd"), 200, given=3000)
    assert told["n"] == 200 and told["low"] > 0.9
    asked = requests("relation of colours", 3200, seed=2)
    here, there = (
        (asked[f"{a} colour"] + asked[f"{b} colour"]).to_numpy()
        for a, b in (("left", "top"), ("right", "bottom"))
    )
    words = asked.prompt.str.split(expand=True)  # a column per place
    in_places = pd.get_dummies(words).to_numpy(float)
    assert abs(quality.probed(in_places, here, there, 3000).mean() - 0.5) < 0.15
    told_apart = np.column_stack([here[:, None] == np.unique(here), in_places])
    assert quality.probed(told_apart.astype(float), here, there, 3000).all()
