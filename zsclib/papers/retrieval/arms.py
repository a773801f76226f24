"""The arms that are compared, by name: ways to get, for a small labelled set D, extra labelled images S.

    extra = make_extra(setting, "objects-hard", 0, ["templates", "retrieved by text"], execution)
    extra["templates"].images, extra["templates"].evaluations, extra["templates"].seconds

The number of each is that of our specification of the paper (M0 to M11); arms without one are controls of ours.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from zsclib.checks import did_you_mean
from zsclib.extra import Extra, extra_from, extra_of
from zsclib.extra import costs as extra_costs
from zsclib.hashing import key
from zsclib.images.image_set import ImageSet, concat
from zsclib.own_sets import prompts_for
from zsclib.papers.retrieval.dials import Dials
from zsclib.papers.retrieval.generated_arms import changed_locally, personalised, prompted, unconditional
from zsclib.papers.retrieval.pool_arms import open_captioned, overlap, prepare, random_pool, retrieved
from zsclib.papers.retrieval.training_sets import Data, Setting, data, facts
from zsclib.workers import Execution, Job, Workers, run_jobs


def further_real(setting: Setting, data: Data, n: int, execution: Execution) -> ImageSet:
    """M1: as many real images again; no arm can have more of them."""
    return replace(data.further, manifest=data.further.manifest.assign(evaluations=0.0))


def oversampled(setting: Setting, data: Data, n: int, execution: Execution) -> ImageSet:
    """A control: D again and again, so that nothing is new but how batches are mixed."""
    own = [np.flatnonzero(data.real.labels == label) for label in range(len(data.real.classes))]
    repeated = data.real.take(np.concatenate([np.resize(rows, n) for rows in own]))
    return replace(repeated, manifest=repeated.manifest.assign(evaluations=0.0))


def half_and_half(setting: Setting, data: Data, n: int, execution: Execution) -> ImageSet:
    """Retrieved and generated images in turn (R9), as many together as either arm has alone."""
    by_text, _ = retrieved(setting, data, (n + 1) // 2, execution)
    generated = prompted(setting, data, n // 2, execution) if n > 1 else by_text.take([])
    both = concat([by_text, generated])
    turn = pd.Series(both.labels).groupby([np.arange(len(both)) < len(by_text), both.labels]).cumcount().to_numpy()
    return both.take(np.argsort(turn, kind="stable"))


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One arm.

    Attributes:
        method: its number in the specification, or "control".
        make: `(setting, data, n, execution, **options)` → `ImageSet`, or that and a report; None: no extra images.
        options: of `make`.
        pool: whether it reads the pool. tuned: whether it tunes the generator.
        share: of extra images in a batch, where it is not chosen on held-out images.
        cuts: whether all arms are cut to its counts where it falls short.
        operations, cutmix: as in `zsclib.training.Augmentation`.
    """

    method: str = "control"
    make: Callable | None = None
    options: Mapping[str, object] = field(default_factory=dict)
    pool: bool = False
    tuned: bool = False
    share: float | None = None
    cuts: bool = True
    operations: int = 0
    cutmix: float = 0.0


def _personalised(method: str, way: str, share: float | None = None, **options: int) -> Arm:
    return Arm(method=method, make=personalised, options={"way": way, **options}, tuned=True, share=share)


ARMS = {  # behind some, the paper's top-1 accuracy on ImageNet, D being 10 % of it
    "real only": Arm(method="M0"),  # 57.2
    "twice the real": Arm(method="M1", make=further_real, share=0.5, cuts=False),  # 70.2; as if both were one set
    "image-to-image": Arm(method="M2", make=changed_locally),  # 56.3
    "unconditional": Arm(method="M3", make=unconditional),
    "simple prompt": Arm(method="M4", make=prompted, options={"wording": "simple"}),
    "templates": Arm(method="M5", make=prompted),  # 60.9
    "backgrounds": Arm(method="M6", make=prompted, options={"wording": "backgrounds"}),
    "textual inversion": _personalised("M7", "textual inversion"),  # 61.0
    "conditioning": _personalised("M8", "conditioning"),
    "clusters, k = 2": _personalised("M9", "clusters", k=2),
    "clusters, k = 5": _personalised("M9", "clusters", k=5),
    "tuned fully": _personalised("M10", "full"),
    "tuned by LoRA": _personalised("M10", "LoRA"),
    "retrieved by text": Arm(method="M11", make=retrieved, pool=True),  # 62.6
    "retrieved by images": Arm(method="M11", make=retrieved, options={"query": "images"}, pool=True),
    "retrieved by both": Arm(method="M11", make=retrieved, options={"query": "both"}, pool=True),
    # A floor that drops a twentieth of held-out real images; what it leaves may be little.
    "retrieved by text, floor": Arm(method="M11", make=retrieved, options={"floor": 0.05}, pool=True, cuts=False),
    "half and half": Arm(method="R9", make=half_and_half, pool=True),
    "oversampled": Arm(make=oversampled),
    "classical": Arm(operations=2, cutmix=0.5),
    "random pool": Arm(make=random_pool, pool=True),
    "tuned by LoRA, alone": _personalised("R8", "LoRA", share=1.0),
    **{f"templates, guidance {s}": Arm(method="M5", make=prompted, options={"guidance": s}) for s in (1, 3, 5)},
    **{
        f"planted {percent} %, {'ladder' if ladder else 'no ladder'}": Arm(
            method="R11",
            make=retrieved,
            options=({"planted": percent / 100} if percent else {}) | ({} if ladder else {"ladder": False}),
            pool=True,
        )
        for percent in (0, 1, 5)
        for ladder in (True, False)
    },
}


def make_extra(
    setting: Setting, target: str, seed: int, arms: Sequence[str], execution: Execution
) -> dict[str, Extra]:
    """Return the extra images of arms, N = `setting.times · |D|` of each class; arms without any are left out.

    Args:
        setting, target, seed: whose D.
        arms: keys of `ARMS`.
        execution: a job is an arm; those that read the pool run in this process.

    Raises:
        ValueError: an unknown arm, a class with too few images, or a pool that overlaps the test images (before any arm
            is made).
    """
    check_arms(arms)
    n, one = round(setting.times * setting.shots), data(setting, target, seed)
    keys = {name: _key(setting, one, name, n) for name in dict.fromkeys(arms) if ARMS[name].make is not None}
    jobs = {keys[name]: Job(_made, (setting, target, seed, name, n, execution), keys[name]) for name in keys}
    from_pool = dict.fromkeys(keys[name] for name in keys if ARMS[name].pool)
    if any(execution.cache is None or own not in execution.cache for own in from_pool):
        prepare(setting, execution)
        overlap(setting, target)
    extra: dict[str, Mapping[str, np.ndarray]] = {}  # some arms have the same images, and one key
    here = replace(execution, workers=Workers(1))
    for own, place in ([own for own in jobs if own not in from_pool], execution), (list(from_pool), here):
        extra |= dict(zip(own, run_jobs([jobs[one] for one in own], place, "extra images"), strict=True))
    return {name: extra_of(extra[keys[name]]) for name in keys}


def check_arms(arms: Sequence[str]) -> None:
    """Raise ValueError for an arm that is none."""
    for name in arms:
        if name not in ARMS:
            raise ValueError(f"there is no arm {name!r}{did_you_mean(name, ARMS)}; known: {', '.join(ARMS)}")


def costs(extra: Mapping[str, Extra]) -> pd.DataFrame:
    """Return a row per arm: its number in the specification, images delivered, and what they took."""
    rows = extra_costs(extra)
    rows.insert(1, "method", [ARMS[name].method for name in rows["arm"]])
    return rows


def _made(setting: Setting, target: str, seed: int, name: str, n: int, execution: Execution) -> dict[str, np.ndarray]:
    began, one, arm = time.perf_counter(), data(setting, target, seed), ARMS[name]
    made = arm.make(setting, one, n, replace(execution, seed=seed, workers=Workers(1)), **arm.options)
    samples = setting.tuning_samples if arm.tuned else 0
    return extra_from(made, n, samples, time.perf_counter() - began).arrays()


def _key(setting: Setting, one: Data, name: str, n: int) -> str:
    arm = ARMS[name]
    pool = open_captioned(setting).fingerprint() if arm.pool else None
    if arm.pool and setting.dials != Dials():
        pool = (pool, setting.dials)
    return key(
        facts=facts(setting),
        pool=pool,
        arm={"make": arm.make.__name__, "options": dict(arm.options), "n": n, "seed": one.seed, "target": one.target},
        images=[part.fingerprint() for part in (one.real, one.further, one.held_out, one.test)],
        prompts=prompts_for(one.target, one.real.classes, setting.own),
        rules=(setting.rules, setting.count_and_drop) if arm.pool else None,
    )
