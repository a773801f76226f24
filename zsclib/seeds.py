"""Randomness per item: every image, noise map and split draws from a seed of its own.

A seed is a hash of what the item is (run seed, purpose, keys), so neither batch size, nor sharding, nor order,
nor resuming can change it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def seed_of(run_seed: int, purpose: str, *keys: int | str) -> int:
    """Return the 63-bit seed of one item, the same on every machine.

    Args:
        run_seed: the seed of the whole run.
        purpose: what the randomness is for ("noise", "split", ...); different purposes never share a stream.
        keys: what identifies the item, for instance its class and index. 1 and "1" are different keys.
    """
    text = "\x1f".join([repr(int(run_seed)), purpose, *(repr(key) for key in map(_plain, keys))])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def rng(run_seed: int, purpose: str, *keys: int | str) -> np.random.Generator:
    """Return a NumPy generator for one item (see `seed_of`)."""
    return np.random.Generator(np.random.Philox(seed_of(run_seed, purpose, *keys)))


def torch_generator(run_seed: int, purpose: str, *keys: int | str) -> torch.Generator:
    """Return a CPU torch generator for one item (see `seed_of`); CPU, so that a GPU draws the same numbers."""
    import torch

    return torch.Generator("cpu").manual_seed(seed_of(run_seed, purpose, *keys))


@contextmanager
def own_randomness(device: torch.device, run_seed: int, purpose: str, *keys: int | str) -> Iterator[None]:
    """Give dropout and stochastic depth a stream of their own (see `seed_of`), and the global one back as it was."""
    import torch

    on_gpu = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_gpu else []):
        number = seed_of(run_seed, purpose, *keys)
        torch.default_generator.manual_seed(number)
        if on_gpu:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(number)
        yield


def _plain(key: int | str) -> int | str:
    if isinstance(key, str):
        return key
    if isinstance(key, (int, np.integer)) and not isinstance(key, bool):
        return int(key)
    raise TypeError(f"seed_of: a key must be an int or a str, got {key!r} of type {type(key).__name__}")
