"""Elimination replayed: what a rule would have decided, and at what cost, on errors that were measured in full.

errors = measure(generator, targets, 40, nested(128), execution=execution)[Measure()]
replay(sequential(128), errors, targets).mean_share()       # of the evaluations of every class at every timestep
fewer_timesteps(errors, targets, nested(128).t, 32)         # what a quarter of the timesteps would have decided
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import ceil
from typing import NamedTuple

import numpy as np

from zsclib.models.generator import Generator
from zsclib.papers.diffusion_classifier.classifier import classify
from zsclib.papers.diffusion_classifier.error_matrix import (
    Rule,
    Schedule,
    nested_stages,
    prediction,
    staged_prediction,
    subgrids,
)
from zsclib.papers.diffusion_classifier.measurements import Errors, Target, frequency
from zsclib.workers import Execution


class Replay(NamedTuple):
    """What a rule decides on exhaustive errors, and at what cost; each target → (n,)."""

    correct: dict[str, np.ndarray]  # is given its class: bool, or a share of several grids of timesteps
    share: dict[str, np.ndarray]  # float: of the evaluations of every class at every timestep
    same: dict[str, np.ndarray]  # is given the class that exhaustive scoring gives it: as `correct`

    def mean_share(self) -> float:
        """Return the mean share over all images."""
        return float(np.concatenate(list(self.share.values())).mean())


def replay(rule: Rule, errors: Errors, targets: Mapping[str, Target]) -> Replay:
    """Return what a rule would have decided, had it been run instead of the exhaustive measurement.

    Args:
        rule: over the timesteps at which the errors were measured, in that order.
    """
    replayed = Replay({}, {}, {})
    for name, matrix in errors.items():
        decided, evaluations = staged_prediction(matrix, rule)
        replayed.correct[name] = targets[name].correct(decided)
        replayed.share[name] = evaluations / matrix[0].size
        replayed.same[name] = decided == prediction(matrix)
    return replayed


def fewer_timesteps(errors: Errors, targets: Mapping[str, Target], t: Sequence[int], k: int) -> Replay:
    """Return what k timesteps for every class would have decided, over the disjoint `subgrids` of the timesteps t."""
    grids, K = subgrids(t, k), len(t)
    same = {}
    for name, matrix in errors.items():
        whole = prediction(matrix)
        same[name] = np.mean([prediction(matrix[:, :, columns]) == whole for columns in grids], axis=0)
    share = {name: np.full(len(matrix), k / K) for name, matrix in errors.items()}
    return Replay(frequency(errors, targets, grids), share, same)


def paper_stages(K: int, targets: Mapping[str, Target], T: int = 1000) -> Schedule:
    """Return the paper's stages at K timesteps: all classes at the first tenth of them, the best five at all."""
    return stages_of_few(K, min(len(target.prompts) for target in targets.values()), T)


def stages_of_few(K: int, classes: int, T: int = 1000) -> Schedule:
    """Return the paper's stages for about ten classes at K timesteps: 50 and 500 of 500, then 5 classes (table 6)."""
    return nested_stages([max(1, K // 10), K], [min(5, classes), 1], T)


def stages_of_many(K: int, classes: int, T: int = 1000) -> Schedule:
    """Return the paper's stages for about a hundred classes, scaled to K timesteps: 20, 50, 100, 500 of 500 (table 6).

    After each, 20, 10 and 5 classes are left, and one. With few timesteps, every stage has one more than the last.

    Raises:
        ValueError: fewer than four timesteps.
    """
    if K < 4:
        raise ValueError(f"stages_of_many: four stages need four timesteps or more, got {K}")
    until: list[int] = []
    for n in (20, 50, 100):
        until.append(max(ceil(K * n / 500), (until or [0])[-1] + 1))
    return nested_stages([*until, K], [min(keep, classes) for keep in (20, 10, 5, 1)], T)


def stages_of_equal_cost(share: float, K: int, targets: Mapping[str, Target], T: int = 1000) -> int:
    """Return the fewest timesteps, K at most, at which `paper_stages` take that share of C K evaluations or more."""
    for k in range(2, K + 1):
        classes = [len(target.prompts) for target in targets.values()]
        if np.mean([paper_stages(k, targets, T).evaluations(C) / (C * K) for C in classes]) >= share:
            return k
    return K


def timesteps_of_equal_cost(share: float, K: int) -> int:
    """Return the fewest timesteps for every class that take at least that share of the evaluations at K of them."""
    return ceil(share * K - 1e-9)


class Timed(NamedTuple):
    """A rule run in earnest, nothing cached."""

    seconds: float
    evaluations: int  # made
    replayed: int  # evaluations that a replay counts
    same: int  # images that are given the class of the replay


def timed(
    generator: Generator, target: Target, rule: Rule, errors: np.ndarray, execution: Execution
) -> Timed:
    """Classify a target against the clock, without the cache, and compare with the replay on its errors (n, C, K)."""
    execution = replace(execution, cache=None)
    started = time.perf_counter()
    result = classify(generator, target.images, target.prompts, rule, execution=execution)
    seconds = time.perf_counter() - started
    decided, evaluations = staged_prediction(errors, rule)
    same = int((result.prediction == decided).sum())
    return Timed(seconds, int(result.evaluations.sum()), int(evaluations.sum()), same)
