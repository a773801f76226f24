"""CLIP folders: preparation of images as the folder says, embeddings, zero-shot classification."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn.functional import normalize

from tests import tiny
from zsclib.models.clip import open_clip

CLASSES = ["cat", "dog", "7"]


@pytest.fixture(scope="module")
def clip(folders):
    return open_clip(folders["clip"])


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(2).integers(0, 256, (6, 16, 16, 3), dtype=np.uint8)


@pytest.fixture
def broken(folders, tmp_path):
    return shutil.copytree(folders["clip"], tmp_path / "broken")


def test_images_are_prepared_as_the_folder_says(clip, images):
    x = (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
    with torch.no_grad():
        expected = clip.model.visual_projection(clip.model.vision_model(x).pooler_output)
    embedded = clip.encode_images(images)
    torch.testing.assert_close(embedded, normalize(expected, dim=-1), rtol=1e-4, atol=1e-5)
    assert embedded.dtype == torch.float32
    torch.testing.assert_close(embedded.norm(dim=1), torch.ones(6))


def test_larger_images_are_resized_and_cropped(clip):
    rng = np.random.default_rng(3)
    wide = rng.integers(0, 256, (2, 32, 40, 3), dtype=np.uint8)
    resized = [
        np.asarray(Image.fromarray(image).resize((20, 16), Image.Resampling.BICUBIC)) for image in wide
    ]
    torch.testing.assert_close(
        clip.encode_images(wide), clip.encode_images(np.stack(resized)[:, :, 2:18]), rtol=1e-3, atol=1e-4
    )


def test_size_of_the_full_models(tmp_path):
    big = open_clip(tiny.clip(tmp_path / "big", size=224))
    assert big.encode_images(np.zeros((1, 32, 32, 3), np.uint8)).shape == (1, 12)


def test_the_batch_changes_nothing(clip, images, monkeypatch):
    texts = [f"a photo of a {name}" for name in "abcdefgh"]
    whole = clip.encode_images(images), clip.encode_texts(texts)
    monkeypatch.setattr("zsclib.models.clip.AT_ONCE", 4)
    torch.testing.assert_close(clip.encode_images(images), whole[0])
    torch.testing.assert_close(clip.encode_texts(texts), whole[1])
    assert clip.encode_images(images[:0]).shape == (0, 12)


def test_texts_are_unit_length_and_read_to_the_end_token(clip):
    embedded = clip.encode_texts(["a cat", "A  Cat", "a cat b"])
    torch.testing.assert_close(embedded.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(embedded[0], embedded[1])  # case and spaces do not count for CLIP
    assert (embedded[0] - embedded[2]).abs().max() > 1e-3


def test_prompt_ensembling_averages_unit_embeddings(clip, images):
    templates = ["a photo of a {}.", "{}", "the {} there"]
    classifier = clip.zero_shot(CLASSES, templates)
    per_template = torch.stack([clip.encode_texts([t.format(name) for name in CLASSES]) for t in templates])
    weights = normalize(per_template.mean(0), dim=-1)
    expected = (clip.model.logit_scale.exp() * clip.encode_images(images) @ weights.T).numpy()
    scores = classifier.scores(images)
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-4)
    assert (scores.dtype, scores.shape) == (np.float32, (6, 3))


def test_classifiers_over_one_model_do_not_disturb_each_other(clip, images):
    first = clip.zero_shot(CLASSES)
    before = first.scores(images)
    second = clip.zero_shot(["x", "y"])
    np.testing.assert_array_equal(first.scores(images), before)
    assert second.scores(images).shape == (6, 2)
    assert (first.classes, clip.classes) == (tuple(CLASSES), ())


def test_scores_need_classes(clip, images):
    with pytest.raises(ValueError, match="zero_shot"):
        clip.scores(images)


def test_bad_class_names_and_templates(clip):
    for classes, templates, message in (
        ([], ["{}"], "list of names"),
        (["cat", "cat"], ["{}"], "repeated"),
        (["cat", " "], ["{}"], "empty"),
        (CLASSES, ["a photo"], "exactly one {}"),
        (CLASSES, [], "one or more sentences"),
        (CLASSES, "a {}", "one or more sentences"),
    ):
        with pytest.raises(ValueError, match=message):
            clip.zero_shot(classes, templates)
    with pytest.raises(ValueError, match="cannot tell them apart"):
        clip.zero_shot(CLASSES, ["a very long story about nothing at all that ends with a {}"])
    with pytest.raises(ValueError, match="'F-16A' and 'F-16a' are the same words to this model"):
        clip.zero_shot(["F-16A", "cat", "F-16a"], ["a photo of a {}"])
    with pytest.raises(ValueError, match="one or more texts"):
        clip.encode_texts([])


def test_bad_images(clip, images):
    for wrong in (images / 255, images[0], images.transpose(0, 3, 1, 2)):
        with pytest.raises(ValueError, match="uint8"):
            clip.encode_images(wrong)


@pytest.mark.parametrize("file", ["preprocessor_config.json", "model.safetensors", "config.json"])
def test_missing_files_are_named(broken, file):
    (broken / file).unlink()
    with pytest.raises(FileNotFoundError, match="images are prepared|safetensors|config.json"):
        open_clip(broken)


def test_missing_tokenizer(broken):
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        (broken / name).unlink()
    with pytest.raises(FileNotFoundError, match="Tokenizer"):
        open_clip(broken)


def test_incomplete_weights(broken):
    weights = load_file(broken / "model.safetensors")
    del weights["logit_scale"]
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="logit_scale"):
        open_clip(broken)


def test_another_preparation_is_followed(broken, clip, images):
    config = json.loads((broken / "preprocessor_config.json").read_text()) | {"image_mean": [0.1, 0.2, 0.3]}
    (broken / "preprocessor_config.json").write_text(json.dumps(config))
    assert (open_clip(broken).encode_images(images) - clip.encode_images(images)).abs().max() > 1e-3
