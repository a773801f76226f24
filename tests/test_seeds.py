"""Seeds: the same numbers for ever, and no two purposes or items sharing a stream."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from zsclib.seeds import rng, seed_of, torch_generator


def test_values_never_change() -> None:
    """Literal values: a change here changes every published number."""
    assert seed_of(0, "noise") == 8991745984374595890
    assert seed_of(0, "noise", 3, "cat") == 7310335246461480685
    assert seed_of(7, "split", "digits") == 6650065428554072299
    assert rng(0, "split", 1).integers(0, 1000, 5).tolist() == [622, 657, 932, 84, 923]
    expected = torch.tensor([-0.57755, 0.812656, 0.899038])
    torch.testing.assert_close(
        torch.randn(3, generator=torch_generator(0, "noise", 1)), expected, rtol=0, atol=1e-6
    )


def test_numpy_integers_are_the_same_key() -> None:
    assert seed_of(np.int64(3), "noise", np.int32(5)) == seed_of(3, "noise", 5)


def test_every_part_counts() -> None:
    calls = [
        (0, "a"),
        (1, "a"),
        (0, "b"),
        (0, "a", 1),
        (0, "a", "1"),
        (0, "a", 1, 2),
        (0, "a", 12),
        (0, "a", 2, 1),
    ]
    seeds = [seed_of(*call) for call in calls]
    assert len(set(seeds)) == len(calls)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_key_cannot_pass_for_two() -> None:
    assert seed_of(0, "a", "b'\x1f'c") != seed_of(0, "a", "b", "c")


def test_purposes_are_independent() -> None:
    """Streams of neighbouring seeds and different purposes show no correlation."""
    streams = [rng(seed, purpose).normal(size=20_000) for seed in (0, 1) for purpose in ("noise", "split")]
    for one, other in itertools.combinations(streams, 2):
        assert abs(np.corrcoef(one, other)[0, 1]) < 5 / np.sqrt(20_000)


def test_order_and_global_state_do_not_matter() -> None:
    first = rng(0, "noise", 5).normal(size=3)
    np.random.default_rng(1).normal(size=100)
    torch.manual_seed(3)
    rng(0, "noise", 4).normal(size=100)
    np.testing.assert_array_equal(rng(0, "noise", 5).normal(size=3), first)


@pytest.mark.parametrize("key", [1.5, None, True, (1,)])
def test_other_keys_are_refused(key: object) -> None:
    with pytest.raises(TypeError, match="seed_of"):
        seed_of(0, "noise", key)
