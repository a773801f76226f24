"""`zsc pool`: from captioned images to an image set, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from zsclib import cli, datasets


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A pool of 24 images of many sizes; two of them also a folder of class folders."""
    root, draws = tmp_path_factory.mktemp("pool"), np.random.default_rng(0)
    (root / "images").mkdir()
    rows = []
    for i in range(24):
        image = Image.fromarray(draws.integers(0, 255, (4, 4, 3), dtype=np.uint8)).resize((40, 32 + i))
        image.save(root / "images" / f"{i}.png")
        rows.append({"file": f"{i}.png", "caption": f"image {i}"})
        if i < 2:
            folder = root / "shots" / ("star", "car")[i]
            folder.mkdir(parents=True)
            image.save(folder / "0.png")
    pd.DataFrame(rows).to_csv(root / "images/captions.csv", index=False)
    return root


def query(place: Path, folders: dict, out: Path, *more: str) -> int:
    places = ("--pool", f"folder:{place / 'images'}", "--clip", str(folders["clip"]), "--out", str(out))
    return cli.main(["pool", "query", str(place / "embedded"), *places, *more])


def test_from_captioned_images_to_an_image_set(place, folders, tmp_path, capsys):
    index = ["pool", "index", str(place / "images"), "--clip", str(folders["clip"]), "--out", str(place / "embedded")]
    assert cli.main(index) == 0
    shown = capsys.readouterr().out
    assert "24 of 24 captioned images embedded; searched by: exact" in shown and "embedding" in shown
    assert cli.main(index) == 0  # all is there
    assert query(place, folders, tmp_path / "a", "--classes", "a star, a car", "-n", "3", "--claims", "taken") == 0
    shown = capsys.readouterr().out
    assert "retrieving" in shown and "near held-out" in shown and f"open it as folder:{tmp_path / 'a'}" in shown
    images = datasets.load(f"folder:{tmp_path / 'a'}", size=16)
    assert images.classes == ("a car", "a star") and np.bincount(images.labels).tolist() == [3, 3]
    original = {path.read_bytes() for path in (place / "images").glob("*.png")}
    assert all(path.read_bytes() in original for path in (tmp_path / "a").rglob("*.png"))
    assert json.loads((tmp_path / "a/about.json").read_text())["index"] == "exact"

    shots = ("--images", f"folder:{place / 'shots'}", "--share", "0", "-n", "1")
    assert query(place, folders, tmp_path / "b", *shots) == 0  # the shots are in the pool: the nearest are themselves
    manifest = pd.read_csv(tmp_path / "b/manifest.csv").set_index("file")
    assert manifest["source"].to_dict() == {"car/000000.png": "1.png", "star/000000.png": "0.png"}

    test = ("--held-out", f"folder:{place / 'shots'}")
    assert query(place, folders, tmp_path / "c", *shots, *test) == 2
    assert "overlaps the test set: 2 of 2 test images have near-copies in it" in capsys.readouterr().err
    assert query(place, folders, tmp_path / "c", *shots, *test, "--count-and-drop") == 0
    assert "2 near-copies of 2 held-out images in the pool" in capsys.readouterr().out
    manifest = pd.read_csv(tmp_path / "c/manifest.csv")
    assert not {"0.png", "1.png"} & set(manifest["source"])

    assert query(place, folders, tmp_path / "d", "--classes", "a star,a car", "-n", "99") == 0
    assert "of 2 classes fell short of 99 images" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((), "name --classes, or give --images"),
        (("--classes", "a star,a star"), "class names must differ"),
        (("--classes", "a star", "--template", "no place"), "needs exactly one {}"),
        (("--classes", "a star", "--claims", "first"), "claims must be 'nearest' or 'taken'"),
        (("--classes", "a star", "--share", "0.5"), "--share mixes texts with --images"),
        (("--classes", "a star", "-n", "0"), "n must be 1 image or more"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_written(arguments, message, place, folders, tmp_path, capsys):
    assert query(place, folders, tmp_path / "out", *arguments) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()
