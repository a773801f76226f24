"""Image retrieval outperforms diffusion models on data augmentation
(Burg, Wenzel, Zietlow, Horn, Makansi, Locatello, Russell; TMLR 2023)

The method, slow and obvious. `zsclib.pools.retrieval.retrieve` and
`zsclib.training.train` do the same on pools and sets of any size, and a
test holds the two together.

    S = retrieve_extra(pool, f, g, names, N=2)
    S[0]                                    # (4, H, W, 3)
    S[1]                                    # (4,), class of each
"""
# fmt: off

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np


def retrieve_extra(
    pool: np.ndarray, f: Callable, g: Callable, names: Sequence[str], N: int,
    templates: Sequence[str] = ("a photo of a {}",),
    held_out: Sequence[np.ndarray] = (),
    copy: Callable = np.array_equal,
) -> tuple[np.ndarray, np.ndarray]:
    """Return S: for each class the N pool images nearest to it, labelled.

    Args:
        pool: images (n, H, W, 3). names: of C classes.
        f, g: CLIP's encoders, of images and of texts, to unit vectors (·, d).
        held_out: test images, no near-copy of which may come into S.
        copy: says whether two images are near-copies of one another.

    Returns:
        x (m, H, W, 3) and y (m,), m = N · C unless the pool ends before.
    """
    v = f(pool)                                            # (n, d)
    q = np.stack([
        unit(np.mean(g([t.format(y) for t in templates]), axis=0))
        for y in names
    ])                                                     # (C, d)
    similarity = v @ q.T                                   # (n, C)
    S_x, S_y = [], []
    for k in np.argsort(-similarity, axis=None, kind="stable"):
        i, y = divmod(int(k), len(names))                  # nearest first
        if S_y.count(y) == N:                              # y has its N
            continue
        if similarity[i].argmax() != y:                    # another's
            continue
        if any(copy(pool[i], x) for x in held_out):        # a test image
            continue
        if any(copy(pool[i], x) for x in S_x):             # S has it
            continue
        S_x.append(pool[i])
        S_y.append(y)
    return np.array(S_x).reshape(-1, *pool.shape[1:]), np.array(S_y, int)


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
