"""The splits of real photographs: no image in two of them, and nothing to learn from that is tested on."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

SPLITS = Path(__file__).resolve().parents[1] / "data" / "photographs" / "splits.parquet"


@pytest.fixture(scope="module")
def splits() -> pd.DataFrame:
    return pd.read_parquet(SPLITS)


def test_an_image_is_in_one_split(splits):
    assert not splits.duplicated(["set", "hash"]).any()
    assert set(splits["split"]) == {"train", "validation", "test", "dropped"}
    assert splits["hash"].map(len).eq(8).all()


def test_no_tested_image_may_be_learned_from(splits):
    tested = set(splits["hash"][splits["split"].isin(["test", "validation"])])
    learned = set(splits["hash"][splits["split"] == "train"])
    assert len(tested) > 30_000 and len(learned) > 6_000
    assert not tested & learned, "also across sets"


def test_every_set_has_images_to_choose_by_and_to_test_on(splits):
    counts = splits.groupby(["set", "split"], observed=True).size().unstack(fill_value=0)
    assert set(counts.index) == {"cifar10", "tiny-imagenet-32", "pacs-64", "rsscn7-64", "caltech101-64"}
    assert (counts[["validation", "test"]] >= 300).all(axis=None)
    outside = counts.loc[["rsscn7-64", "caltech101-64"]]
    assert (outside["dropped"] == 0).all(), "nothing of them is in the pre-training data to begin with"
    assert (outside["train"] > 0).all()
