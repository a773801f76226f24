"""Set measures against closed forms, hand-made sets, and what must not change them."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest

from zsclib import setmetrics
from zsclib.setmetrics import (
    MEASURES,
    density_coverage,
    frechet_distance,
    kernel_distance,
    mean_pairwise_distance,
    measure,
    precision_recall,
    vendi_score,
)

RNG = np.random.default_rng(0)
REAL, FAKE = RNG.normal(size=(60, 5)), RNG.normal(0.5, 1.3, size=(50, 5))
LINE = np.arange(5.0)[:, None]  # 0, 1, 2, 3, 4


def whitened(n, d, seed=0):
    """A set whose mean is 0 and whose covariance (n - 1) is the identity, up to rounding."""
    x = np.random.default_rng(seed).normal(size=(n, d))
    x -= x.mean(0)
    return np.linalg.qr(x)[0] * np.sqrt(n - 1)


def rotation(d, seed=0):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))[0]


# --- Fréchet distance -----------------------------------------------------------------------------


def test_frechet_distance_of_gaussians_that_commute():
    """For diagonal covariances it is |mu_a - mu_b|^2 + sum of (sigma_a - sigma_b)^2."""
    sigma_a, sigma_b, shift = np.array([1.0, 2, 3]), np.array([4.0, 2, 1]), np.array([1.0, 0, -2])
    a, b = whitened(40, 3) * sigma_a, whitened(70, 3, seed=1) * sigma_b + shift
    assert frechet_distance(a, b) == pytest.approx(5 + 9 + 0 + 4)


def test_frechet_distance_of_gaussians_that_do_not_commute():
    """tr (S_a S_b)^(1/2) of 2 x 2 matrices is sqrt(tr S_a S_b + 2 sqrt(det S_a S_b))."""
    S_a, S_b = np.array([[2.0, 1], [1, 3]]), np.array([[1.0, -0.5], [-0.5, 4]])
    a = whitened(30, 2) @ np.linalg.cholesky(S_a).T
    b = whitened(20, 2, seed=1) @ np.linalg.cholesky(S_b).T
    root = np.sqrt(np.trace(S_a @ S_b) + 2 * np.sqrt(np.linalg.det(S_a @ S_b)))
    assert frechet_distance(a, b) == pytest.approx(np.trace(S_a + S_b) - 2 * root)


def test_frechet_distance_with_fewer_images_than_features():
    """Two dimensions hidden in 64: the covariance has rank 2, the value is that of two dimensions."""
    a, b = RNG.normal(size=(6, 2)), RNG.normal(1, 2, size=(9, 2))
    hidden = [np.hstack([x, np.zeros((len(x), 62))]) @ rotation(64) for x in (a, b)]
    assert frechet_distance(*hidden) == pytest.approx(frechet_distance(a, b))
    assert frechet_distance(hidden[0], hidden[0]) == pytest.approx(0, abs=1e-12)
    # two sets in planes at right angles share no covariance: the traces add up
    at_right_angles = np.hstack([np.zeros((9, 2)), b - b.mean(0), np.zeros((9, 60))])
    expected = a.var(0, ddof=1).sum() + b.var(0, ddof=1).sum()
    assert frechet_distance(np.pad(a - a.mean(0), ((0, 0), (0, 62))), at_right_angles) == pytest.approx(
        expected
    )


# --- kernel distance ------------------------------------------------------------------------------


def test_kernel_distance_by_hand():
    a, b = np.array([[0.0], [1.0]]), np.array([[2.0], [-1.0]])
    # k(0, 1) + k(2, -1) - (k(0, 2) + k(0, -1) + k(1, 2) + k(1, -1)) / 2 with k(x, y) = (xy + 1)^3
    assert kernel_distance(a, b) == pytest.approx(1 - 1 - (1 + 1 + 27 + 0) / 2)


def test_kernel_distance_of_degree_one_has_a_closed_form():
    """The linear kernel's unbiased MMD is (|mean difference|^2 - tr S_a / n - tr S_b / m) / d."""
    expected = (
        np.sum((REAL.mean(0) - FAKE.mean(0)) ** 2)
        - REAL.var(0, ddof=1).sum() / len(REAL)
        - FAKE.var(0, ddof=1).sum() / len(FAKE)
    )
    assert kernel_distance(REAL, FAKE, degree=1) == pytest.approx(expected / 5)


def test_kernel_distance_is_unbiased():
    """Against all splits of few images: its mean is exactly what drawing without replacement gives, 0."""
    x = RNG.normal(size=(6, 2))
    splits = [np.array([i, j, k]) for i in range(6) for j in range(i) for k in range(j)]
    values = [kernel_distance(x[half], np.delete(x, half, axis=0)) for half in splits]
    assert len(splits) == 20
    assert np.mean(values) == pytest.approx(0, abs=1e-12)
    assert min(values) < 0 < max(values)


# --- balls ----------------------------------------------------------------------------------------


def test_precision_and_recall_by_hand():
    # with k = 1 the real balls cover [-1, 5]; those of the fake 0.2, 0.5, 9 cover [-0.1, 0.8] and [0.5, 17.5]
    assert precision_recall(LINE, [[0.2], [0.5], [9.0]], k=1) == (2 / 3, 1.0)
    # those of 5, 5.5, 20 cover [4.5, 6] and [5.5, 34.5]: 5 lies on the rim of 4's ball, which belongs to it
    assert precision_recall(LINE, [[5.0], [5.5], [20.0]], k=1) == (1 / 3, 0.0)


def test_density_and_coverage_by_hand():
    # k = 1: the ball of i is [i - 1, i + 1]; 0.5 lies in those of 0 and 1, and 2 in those of 1, 2 and 3
    assert density_coverage(LINE, [[0.5], [2.0], [90.0]], k=1) == (5 / 3, 4 / 5)
    # one fake image is enough, and k balls are counted as one
    assert density_coverage(LINE, [[2.0]], k=2) == (5 / 2, 1.0)


def test_a_set_holds_itself_and_nothing_far_away():
    assert precision_recall(REAL, REAL) == (1.0, 1.0)
    assert density_coverage(REAL, REAL)[1] == 1.0
    assert precision_recall(REAL, REAL + 100) == (0.0, 0.0)
    assert density_coverage(REAL, REAL + 100) == (0.0, 0.0)


@pytest.mark.parametrize(("n", "m", "k"), [(30, 20, 1), (20, 60, 3)])
def test_density_and_coverage_of_sets_drawn_alike(n, m, k):
    draws = np.random.default_rng(1)
    found = np.array([
        density_coverage(draws.exponential(size=(n, 2)), draws.exponential(size=(m, 2)), k) for _ in range(400)
    ])  # fmt: skip
    expected = np.array([1, 1 - comb(n - 1, k) / comb(n + m - 1, k)])
    error = found.std(0) / 20
    assert (np.abs(found.mean(0) - expected) < 4 * error).all()
    assert (error < 0.02).all()


def test_duplicates_lie_in_balls_of_radius_zero():
    """Copies, as a memorising generator makes them, whose float32 features differ by rounding."""
    real = np.repeat(np.random.default_rng(2).normal(50, 1, size=(3, 16)), 4, axis=0).astype(np.float32)
    fake = np.nextafter(real[::-1].copy(), np.float32(0))
    assert precision_recall(real, fake, k=2) == (1.0, 1.0)
    assert density_coverage(real, fake, k=2) == (4 / 2, 1.0)
    assert mean_pairwise_distance(fake[4:8]) == 0


# --- Vendi score and distances --------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 7])
def test_vendi_score_counts_different_images(n):
    axes = np.eye(9)[:n] * np.arange(1, n + 1)[:, None]  # length does not count
    assert vendi_score(axes) == pytest.approx(n)
    assert vendi_score(np.repeat(axes, 30, axis=0)) == pytest.approx(n)  # more rows than features too
    assert vendi_score(np.repeat(axes[:1], 30, axis=0)) == pytest.approx(1)


def test_vendi_score_by_hand():
    """Two images of cosine c have eigenvalues (1 + c) / 2 and (1 - c) / 2; uneven shares count less."""
    c = 0.6
    p = np.array([(1 + c) / 2, (1 - c) / 2])
    assert vendi_score([[1.0, 0], [c, np.sqrt(1 - c**2)]]) == pytest.approx(np.prod(p**-p))
    assert vendi_score(np.eye(2)[[0, 0, 0, 1]]) == pytest.approx(
        np.prod(np.array([0.75, 0.25]) ** [-0.75, -0.25])
    )


def test_vendi_score_is_the_same_by_rows_and_by_columns():
    x = RNG.normal(size=(12, 12))
    whole = vendi_score(x)
    assert vendi_score(np.hstack([x, np.zeros((12, 5))])) == pytest.approx(whole)  # n < d: by rows
    assert vendi_score(np.repeat(x, 2, axis=0)) == pytest.approx(whole)  # n > d: by columns


def test_mean_pairwise_distance_by_hand():
    assert mean_pairwise_distance([[0.0, 0], [3, 4], [0, 0]]) == pytest.approx(10 / 3)
    assert mean_pairwise_distance(np.ones((5, 3)) * 0.1) == 0


# --- all of them ----------------------------------------------------------------------------------


def everything(real, fake):
    return np.array(list(measure(real, fake, "f").values()))


def test_order_rotation_and_blocks_change_nothing(monkeypatch):
    whole = everything(REAL, FAKE)
    np.testing.assert_allclose(everything(RNG.permutation(REAL), RNG.permutation(FAKE)), whole, rtol=1e-9)
    np.testing.assert_allclose(everything(REAL @ rotation(5), FAKE @ rotation(5)), whole, rtol=1e-9)
    np.testing.assert_allclose(everything(REAL.tolist(), FAKE.astype(np.float32)), whole, rtol=1e-4)
    monkeypatch.setattr(setmetrics, "BLOCK", 170)  # 2 or 3 rows at once
    np.testing.assert_allclose(everything(REAL, FAKE), whole, rtol=1e-12)


def test_no_block_is_larger_than_it_may_be(monkeypatch):
    sizes = []
    original = setmetrics._squared_distances
    monkeypatch.setattr(setmetrics, "BLOCK", 500)
    monkeypatch.setattr(
        setmetrics,
        "_squared_distances",
        lambda *given: sizes.append((found := original(*given)).size) or found,
    )
    everything(REAL, FAKE)
    assert 300 < max(sizes) <= 500


def test_scale():
    def values(factor):
        return dict(zip(MEASURES, everything(REAL * factor, FAKE * factor), strict=True))

    one, ten = values(1), values(10)
    for name, power in {"frechet distance": 2, "mean pairwise distance": 1}.items():
        assert ten[name] == pytest.approx(one[name] * 10**power)
    for name in ("precision k=3", "recall k=3", "density k=5", "coverage k=5", "vendi score"):
        assert ten[name] == pytest.approx(one[name])


def test_distances_are_symmetric_and_precision_is_recall_the_other_way():
    assert frechet_distance(REAL, FAKE) == pytest.approx(frechet_distance(FAKE, REAL))
    assert kernel_distance(REAL, FAKE) == pytest.approx(kernel_distance(FAKE, REAL))
    assert precision_recall(REAL, FAKE) == precision_recall(FAKE, REAL)[::-1]


def test_names_say_features_and_numbers():
    found = measure(REAL, FAKE, "pixels")
    assert list(found)[0] == "frechet distance (pixels, 60 real, 50 fake)"
    assert found["recall k=3 (pixels, 60 real, 50 fake)"] == precision_recall(REAL, FAKE)[1]
    assert found["density k=5 (pixels, 60 real, 50 fake)"] == density_coverage(REAL, FAKE)[0]
    assert found["vendi score (pixels, 50 fake)"] == vendi_score(FAKE)
    assert [name.split(" (")[0] for name in found] == list(MEASURES)


BAD = np.where(np.arange(60)[:, None] == 7, np.nan, REAL)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: frechet_distance(REAL[:1], FAKE), "frechet_distance: needs 2 or more images, set 0 has 1"),
        (lambda: kernel_distance(REAL, FAKE[:1]), "kernel_distance: needs 2 or more images, set 1 has 1"),
        (lambda: kernel_distance(REAL, FAKE, 0), "degree must be 1 or more"),
        (lambda: frechet_distance(REAL, FAKE[:, :4]), "set 0 has 5 features, set 1 has 4"),
        (lambda: kernel_distance(REAL, BAD), "set 1 holds NaN or infinity, first in row 7"),
        (lambda: precision_recall(REAL[:3], FAKE, 3), "k must be from 1 to 2 with 3 real rows, got 3"),
        (lambda: precision_recall(REAL, FAKE[:3], 3), "k must be from 1 to 2 with 3 fake rows"),
        (lambda: density_coverage(REAL, FAKE, 0), "k must be from 1 to 59"),
        (lambda: density_coverage(REAL, FAKE[:0]), "needs 1 or more images, set 1 has 0"),
        (lambda: vendi_score(REAL[0]), "must be a matrix"),
        (lambda: vendi_score(np.array([[1.0, 0], [0, 0]])), "row 1 is all zeros"),
        (lambda: mean_pairwise_distance(REAL[:1]), "needs 2 or more images"),
        (lambda: measure(REAL, FAKE[:5], "pixels"), "needs 6 or more images, set 1 has 5"),
        (lambda: measure(REAL, FAKE, " "), "name the features"),
    ],
)
def test_bad_input_is_named(call, says):
    with pytest.raises(ValueError, match=says):
        call()
