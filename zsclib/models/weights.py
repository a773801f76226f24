"""The weights of networks: what they are, and whether they are still the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import nn


class WeightState:
    """The weights of networks at a moment: equal to those of another moment where none was changed or replaced."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        # held, so that no later weight can have the identity of one of these
        self.weights = [weight for module in modules for weight in (*module.parameters(), *module.buffers())]
        self.marks = [
            (id(weight), weight.data_ptr(), 0 if weight.is_inference() else weight._version)
            for weight in self.weights
        ]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, WeightState) and self.marks == other.marks


def weight_bytes(modules: Sequence[nn.Module]) -> Iterator[bytes | np.ndarray]:
    """Yield the name and the content of every weight, in an order that does not change: what a hash is made of."""
    for module in modules:
        for name, value in sorted(module.state_dict().items()):
            yield name.encode()
            yield value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
