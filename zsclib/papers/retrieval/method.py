"""Image retrieval outperforms diffusion models on data augmentation
(Burg, Wenzel, Zietlow, Horn, Makansi, Locatello, Russell; TMLR 2023)

The method, slow and obvious. `zsclib.pools.retrieval.retrieve` and
`zsclib.training.train` do the same on pools and sets of any size, and a
test holds the two together.

    S = retrieve_extra(pool, f, g, names, N=2)
    S[0]                                    # (4, H, W, 3)
    S[1]                                    # (4,), which class asked
"""
# fmt: off

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

NEAR = 0.95  # cosine from which on two images are near-copies


def retrieve_extra(
    pool: np.ndarray, f: Callable, g: Callable, names: Sequence[str], N: int,
    templates: Sequence[str] = ("a photo of a {}",),
    held_out: np.ndarray | None = None, near: float = NEAR,
) -> tuple[np.ndarray, np.ndarray]:
    """Return S: for each class the N pool images nearest to it, labelled.

    Args:
        pool: images (n, H, W, 3). names: of C classes.
        f, g: CLIP's encoders, of images and of texts, to unit vectors (·, d).
        held_out: test images; no near-copy of one may come into S.

    Returns:
        x (m, H, W, 3) and y (m,), m = N · C unless the pool is too small.
    """
    v = f(pool)                                            # (n, d)
    q = np.stack([
        unit(np.mean(g([t.format(y) for t in templates]), axis=0))
        for y in names
    ])                                                     # (C, d)
    similarity = v @ q.T                                   # (n, C)
    forbidden = f(held_out) if held_out is not None else v[:0]
    rows, S_x, S_y = [], [], []
    for y in range(len(names)):
        for i in np.argsort(-similarity[:, y], kind="stable"):
            if S_y.count(y) == N:                          # y has its N
                break
            if len(forbidden) and (forbidden @ v[i]).max() >= near:
                continue                                   # a test image
            if any(v[j] @ v[i] >= near for j in rows):
                continue                                   # S has it
            if similarity[i].argmax() != y:
                continue                                   # another's
            rows.append(i)
            S_x.append(pool[i])
            S_y.append(y)
    shape = (0, *pool.shape[1:])
    return np.array(S_x, pool.dtype).reshape(-1, *shape[1:]), np.array(S_y, int)


def mixed_batches(
    D: tuple, S: tuple, r: float, batch: int, steps: int, seed: int = 0
):
    """Yield what a classifier of D ∪ S learns from: batches, r of each from S.

    The number of steps is the same, however large S is.
    """
    random = np.random.default_rng(seed)
    for _ in range(steps):
        extra = round(r * batch)
        i = random.choice(len(D[1]), batch - extra)
        j = random.choice(len(S[1]), extra)
        yield (
            np.concatenate([D[0][i], S[0][j]]),
            np.concatenate([D[1][i], S[1][j]]),
        )


def unit(v: np.ndarray) -> np.ndarray:
    """Return a vector at length 1."""
    return v / np.linalg.norm(v)
