"""Networks from transformers' configurations: published shapes, and pocket ones."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from zsclib.models.networks import _SETTINGS, ARCHITECTURES, layout_of, new_network

CLASSES = ["cat", "dog", "7"]
# Million weights with 1,000 classes: torchvision's model pages (ViT-B/16, ConvNeXt-S, MobileNetV2 and ResNets).
PUBLISHED = {
    "resnet18": 11.69,
    "resnet34": 21.80,
    "resnet50": 25.56,
    "resnet101": 44.55,
    "vit-b": 86.57,
    "vit-l": 304.33,
    "vit-l-32": 306.54,
    "mobilenet": 3.50,
    "convnext-s": 50.22,
}


@pytest.fixture(scope="module")
def networks():
    return {name: new_network(name, CLASSES) for name in ARCHITECTURES}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_pocket_network_gives_a_logit_per_class_and_the_features_below_it(networks, name):
    network = networks[name].eval()
    with torch.no_grad():
        x = torch.randn(2, 3, 32, 32)
        logits, features = network(x), network.features(x)
        last = [m for m in network.model.modules() if isinstance(m, nn.Linear)][-1]
        torch.testing.assert_close(last(features), logits)
    assert logits.shape == (2, 3)
    assert network.classes == ("cat", "dog", "7")
    assert network.model.config.id2label == {0: "cat", 1: "dog", 2: "7"}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_full_networks_have_the_published_number_of_weights(name):
    with torch.device("meta"):
        network = new_network(name, [str(i) for i in range(1000)], size=224, width="full")
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(PUBLISHED[name], abs=0.011)


def test_pocket_networks_keep_the_traits_of_their_families(networks):
    def kinds(name, kind):
        return [module for module in networks[name].modules() if isinstance(module, kind)]

    for name in ("resnet50", "resnet101", "mobilenet", "resnet18"):
        assert kinds(name, nn.BatchNorm2d) and not kinds(name, nn.LayerNorm)
    for name in ("vit-b", "convnext-s"):
        assert kinds(name, nn.LayerNorm) and not kinds(name, nn.BatchNorm2d)
    assert any(m.groups == m.in_channels and m.kernel_size == (7, 7) for m in kinds("convnext-s", nn.Conv2d))
    assert any(m.groups == m.in_channels and m.kernel_size == (3, 3) for m in kinds("mobilenet", nn.Conv2d))
    assert [m.p for m in kinds("mobilenet", nn.Dropout)] == [0.2]
    assert len(kinds("resnet101", nn.Conv2d)) > len(kinds("resnet50", nn.Conv2d))


@pytest.mark.parametrize("size, width, side", ((32, "pocket", 2), (32, "full", 4), (128, "pocket", 4)))
@pytest.mark.parametrize("name", ("resnet50", "mobilenet", "convnext-s"))
def test_small_images_are_not_shrunk_by_four_before_the_first_stage(name, size, width, side):
    with torch.device("meta"):  # published networks shrink by 32 in all
        network = new_network(name, CLASSES, width=width, size=size).eval()
        maps = network.model.base_model(torch.zeros(1, 3, size, size)).last_hidden_state
    assert maps.shape[2:] == (side, side)


@pytest.mark.parametrize("name, size, patches", (("vit-b", 32, 64), ("vit-l-32", 32, 16), ("vit-b", 128, 64)))
def test_patches_of_small_images_are_a_quarter_as_wide(name, size, patches):
    network = new_network(name, CLASSES, size=size)
    assert network.model.vit.embeddings.position_embeddings.shape[1] == 1 + patches


def test_statistics_of_batchnorm_are_those_of_many_batches(networks):
    momenta = {m.momentum for n in networks.values() for m in n.modules() if isinstance(m, nn.BatchNorm2d)}
    assert momenta == {0.1}


def test_the_seed_decides_the_weights_and_leaves_the_global_state_alone():
    torch.manual_seed(5)
    first = new_network("resnet18", CLASSES, seed=3)
    numbers = torch.rand(3)
    torch.manual_seed(6)
    second, other = new_network("resnet18", CLASSES, seed=3), new_network("resnet18", CLASSES, seed=4)
    for key, weights in first.state_dict().items():
        assert torch.equal(weights, second.state_dict()[key]), key
    stem = "model.resnet.embedder.embedder.convolution.weight"
    assert not torch.equal(first.state_dict()[stem], other.state_dict()[stem])
    torch.manual_seed(5)
    assert torch.equal(torch.rand(3), numbers)


def test_a_network_for_feature_maps_has_their_channels_and_does_not_shrink_them():
    network = new_network("resnet18", CLASSES, size=4, channels=24).eval()
    embedded = network.model.resnet.embedder(torch.zeros(1, 24, 4, 4))
    assert embedded.shape[2:] == (4, 4)
    assert network(torch.zeros(2, 24, 4, 4)).shape == (2, 3)


def test_bad_requests_say_what_is_possible():
    with pytest.raises(
        ValueError, match=r"'resnet-50'; did you mean 'resnet50'\? known: resnet50, resnet101, vit-b"
    ):
        new_network("resnet-50", CLASSES)
    with pytest.raises(ValueError, match="width must be 'pocket' or 'full', got 'tiny'"):
        new_network("vit-b", CLASSES, width="tiny")
    for classes in ("cat", ["cat"], ["cat", "cat"], []):
        with pytest.raises(ValueError, match="two or more different names"):
            new_network("vit-b", classes)
    with pytest.raises(ValueError, match="cuts 30 pixels into patches of 4"):
        new_network("vit-b", CLASSES, size=30)


def test_every_architecture_has_settings_and_a_sentence():
    assert _SETTINGS.keys() == ARCHITECTURES.keys()


@pytest.mark.parametrize(
    ("name", "pocket", "full"),
    [
        ("resnet18", "basic-10", "basic-18"), ("resnet50", "bottleneck-14", "bottleneck-50"),
        ("resnet101", "bottleneck-20", "bottleneck-101"), ("vit-b", "transformer, 2 blocks", "transformer, 12 blocks"),
        ("mobilenet", "inverted residual, 6 blocks", "inverted residual, 16 blocks"),
        ("convnext-s", "ConvNeXt, 5 blocks", "ConvNeXt, 36 blocks"),
    ],
)  # fmt: skip
def test_a_network_is_called_what_it_is(name, pocket, full):
    assert (layout_of(name), layout_of(name, "full")) == (pocket, full)


def test_the_layers_in_a_name_are_those_with_weights():
    for name in ("resnet18", "resnet50", "resnet101"):
        modules = new_network(name, ["a", "b"]).named_modules()
        layers = [m for n, m in modules if isinstance(m, nn.Conv2d | nn.Linear) and "shortcut" not in n]
        assert layout_of(name).endswith(f"-{len(layers)}")
    assert len(new_network("mobilenet", ["a", "b"]).model.mobilenet_v2.layer) == 6
