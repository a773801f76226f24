"""The networks that are trained on labelled images, from transformers' configurations, in two widths.

    network = new_network("resnet50", ["cat", "dog"], size=32)
    network(standardise(images))                            # logits (n, 2)

Published networks shrink the image by 4 before their first stage, or cut it into patches of 16. An image of 32
pixels has no room for that: at this size `full` networks leave the first shrinking out, `pocket` ones halve it.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from zsclib.seeds import seed_of

LARGE = 96  # pixels from which on the published stems and patches are used

ARCHITECTURES = {
    "resnet50": "ResNet-50 (He et al. 2016): bottlenecks, BatchNorm",
    "resnet101": "ResNet-101: a deeper ResNet-50",
    "vit-b": "ViT-B/16 (Dosovitskiy et al. 2021): attention over patches, LayerNorm",
    "mobilenet": "MobileNetV2 (Sandler et al. 2018): inverted residuals, BatchNorm, dropout; stands in for "
    "MobileNetV3-Small, which transformers does not have",
    "convnext-s": "ConvNeXt-S (Liu et al. 2022): depthwise 7 x 7, LayerNorm, stochastic depth",
    "resnet18": "ResNet-18: two 3 x 3 convolutions a block",
    "resnet34": "ResNet-34: a deeper ResNet-18",
    "vit-l": "ViT-L/16: a larger ViT-B/16",
    "vit-l-32": "ViT-L/32: patches twice as large",
}

# By name: transformers' family, the published settings, and what differs at pocket width.
_BASIC = {"layer_type": "basic", "embedding_size": 64, "hidden_sizes": [64, 128, 256, 512]}
_BASIC_POCKET = {"embedding_size": 16, "hidden_sizes": [16, 32, 64, 128]}
_BOTTLENECK = {"layer_type": "bottleneck", "embedding_size": 64, "hidden_sizes": [256, 512, 1024, 2048]}
_BOTTLENECK_POCKET = {"embedding_size": 16, "hidden_sizes": [64, 128, 256, 512]}
_VIT_L = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
_VIT_POCKET = {
    "hidden_size": 64,
    "num_attention_heads": 2,
    "intermediate_size": 256,
    "initializer_range": 0.1,
}
_SETTINGS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "resnet18": ("ResNet", _BASIC | {"depths": [2, 2, 2, 2]}, _BASIC_POCKET | {"depths": [1, 1, 1, 1]}),
    "resnet34": ("ResNet", _BASIC | {"depths": [3, 4, 6, 3]}, _BASIC_POCKET | {"depths": [1, 2, 2, 1]}),
    "resnet50": (
        "ResNet",
        _BOTTLENECK | {"depths": [3, 4, 6, 3]},
        _BOTTLENECK_POCKET | {"depths": [1, 1, 1, 1]},
    ),
    "resnet101": (
        "ResNet",
        _BOTTLENECK | {"depths": [3, 4, 23, 3]},
        _BOTTLENECK_POCKET | {"depths": [1, 1, 3, 1]},
    ),
    "vit-b": (
        "ViT",
        {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
        _VIT_POCKET | {"num_hidden_layers": 2},
    ),
    "vit-l": ("ViT", _VIT_L, _VIT_POCKET | {"num_hidden_layers": 4}),
    "vit-l-32": ("ViT", _VIT_L | {"patch_size": 32}, _VIT_POCKET | {"num_hidden_layers": 4}),
    # The configuration's own dropout of 0.8 is the published *keep* probability.
    "mobilenet": ("MobileNetV2", {"classifier_dropout_prob": 0.2}, {"depth_multiplier": 0.35}),
    "convnext-s": (
        "ConvNext",
        {"hidden_sizes": [96, 192, 384, 768], "depths": [3, 3, 27, 3], "drop_path_rate": 0.4},
        {
            "hidden_sizes": [16, 32, 64, 128],
            "depths": [1, 1, 2, 1],
            "drop_path_rate": 0.1,
            "initializer_range": 0.1,
            "layer_scale_init_value": 1.0,  # 1e-6 is for depths and trainings a hundred times as long
        },
    ),
}
_MOBILENET_POCKET = (0, 2, 5, 9, 12, 15)  # one block of every shape: the others repeat the one before them


def layout_of(name: str, width: str = "pocket") -> str:
    """Return what a network is, whatever it stands for: "bottleneck-14" has bottleneck blocks, 14 layers with weights.

    Args:
        name: a key of `ARCHITECTURES`. width: as in `new_network`.
    """
    family, settings, pocket = _SETTINGS[name]
    settings = settings | (pocket if width == "pocket" else {})
    if family == "ResNet":
        kind, layers = settings["layer_type"], {"basic": 2, "bottleneck": 3}
        return f"{kind}-{2 + layers[kind] * sum(settings['depths'])}"
    if family == "ViT":
        return f"transformer, {settings['num_hidden_layers']} blocks"
    if family == "ConvNext":
        return f"ConvNeXt, {sum(settings['depths'])} blocks"
    blocks = len(_MOBILENET_POCKET) if width == "pocket" else 16
    return f"inverted residual, {blocks} blocks"


class Network(nn.Module):
    """A classifier of standardised tensors; made by `new_network`.

    Attributes:
        model: transformers' network with its head.
        name, classes, size, width, channels: the arguments of `new_network`.
    """

    def __init__(self, model: nn.Module, **made_with: Any) -> None:
        super().__init__()
        self.model, self.made_with = model, made_with
        self.name, self.width = made_with["name"], made_with["width"]
        self.size, self.channels = made_with["size"], made_with["channels"]
        self.classes = tuple(made_with["classes"])

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, classes) of x (n, channels, size, size)."""
        return self.model(pixel_values=x).logits

    def features(self, x: Tensor) -> Tensor:
        """Return the inputs of the last, linear layer (n, d): the pooled maps, or a ViT's class token."""
        out = self.model.base_model(x)
        if out.get("pooler_output") is None:
            return out.last_hidden_state[:, 0]
        return out.pooler_output.flatten(1)


def new_network(
    name: str, classes: Sequence[str], size: int = 32, width: str = "pocket", seed: int = 0, channels: int = 3
) -> Network:
    """Build a network with random weights; the same arguments give the same weights.

    Args:
        name: a key of `ARCHITECTURES`.
        classes: class names in label order.
        size: side of its inputs in pixels; from 96 on the stem is the published one.
        width: "full" for the published widths and depths, "pocket" for one that trains in seconds on a CPU.
        seed: of the weights.
        channels: of its inputs; 3 for images, others for a network on feature maps.

    Raises:
        ValueError: an unknown name or width, class names empty or repeated, a size it cannot take.
    """
    if name not in ARCHITECTURES:
        close = difflib.get_close_matches(name, ARCHITECTURES, n=1)
        meant = f"did you mean {close[0]!r}? " if close else ""
        raise ValueError(
            f"new_network: there is no architecture {name!r}; {meant}known: {', '.join(ARCHITECTURES)}"
        )
    if width not in ("pocket", "full"):
        raise ValueError(f"new_network: width must be 'pocket' or 'full', got {width!r}")
    classes = [classes] if isinstance(classes, str) else list(classes)
    if len(classes) < 2 or len(set(classes)) < len(classes) or not all(isinstance(c, str) for c in classes):
        raise ValueError(f"new_network: classes must be two or more different names, got {classes}")
    family, settings, pocket = _SETTINGS[name]
    settings = settings | (pocket if width == "pocket" else {})
    # how much of the published shrinking by 4 remains
    shrink = 4 if size >= LARGE else 2 if width == "pocket" and size >= 16 else 1
    if family == "ViT":
        patch = settings.get("patch_size", 16)
        patch = patch if size >= LARGE else patch // 4 if size >= 16 else patch // 16
        if size < patch or size % patch:
            raise ValueError(
                f"new_network: {name} cuts {size} pixels into patches of {patch}: not a multiple"
            )
        settings = settings | {"image_size": size, "patch_size": patch}
    elif family == "ConvNext":
        settings = settings | {"patch_size": shrink}
    labels = {"id2label": dict(enumerate(classes)), "label2id": {c: i for i, c in enumerate(classes)}}
    config = getattr(transformers, f"{family}Config")(num_channels=channels, **labels, **settings)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed_of(seed, "network weights", name))
        model = getattr(transformers, f"{family}ForImageClassification")(config)
        if family == "ResNet" and shrink < 4:
            _small_resnet(model.resnet.embedder, shrink)
        if family == "MobileNetV2":
            _mobilenet(model.mobilenet_v2, shrink, thin=width == "pocket")
    made_with = {"name": name, "classes": classes, "size": size, "width": width, "channels": channels}
    return Network(model, **made_with)


def _small_resnet(stem: nn.Module, stride: int) -> None:
    """Put a 3 x 3 convolution in the place of the 7 x 7 one and the max-pool."""
    old = stem.embedder.convolution
    stem.embedder.convolution = nn.Conv2d(old.in_channels, old.out_channels, 3, stride, 1, bias=False)
    nn.init.kaiming_normal_(stem.embedder.convolution.weight, mode="fan_out", nonlinearity="relu")
    stem.pooler = nn.Identity()


def _mobilenet(model: nn.Module, shrink: int, thin: bool) -> None:
    """Shrink less at the start, if thin leave repeated blocks out, and set what transformers sets amiss."""
    if shrink < 4:
        model.layer[0].conv_3x3.convolution.stride = (1, 1)
    if shrink < 2:
        model.conv_stem.first_conv.convolution.stride = (1, 1)
    if thin:
        model.layer = nn.ModuleList(model.layer[i] for i in _MOBILENET_POCKET)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            # transformers' 0.997 is TensorFlow's convention: here it would keep the last batch's statistics only
            module.momentum = 0.1
        elif isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
