"""The arms that are compared, by name: ways to get, for K shots of each class, N synthetic or retrieved images of it.

    one = make_set(setting, "objects-hard", 0, "DataDream, by class", execution)
    one.images, one.report, one.evaluations, one.tuning_samples, one.seconds

Every arm is trained on alone and together with the shots; CLIP as it is and the shots alone need no set.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from zsclib.checks import did_you_mean
from zsclib.extra import Extra, extra_from, extra_of
from zsclib.hashing import key
from zsclib.images.image_set import ImageSet, concat
from zsclib.own_sets import prompts_for
from zsclib.papers.datadream.changed_arms import disef, real_guidance
from zsclib.papers.datadream.generated_arms import ALL_CLASSES, BY_CLASS, datadream, prompted
from zsclib.papers.datadream.pool_arms import open_pool, prepare, refuse_pool, retrieved
from zsclib.papers.datadream.training_sets import Setting, Shots, open_filter, open_generation, shots
from zsclib.pools.model import model_fingerprint
from zsclib.workers import Execution, Job, Workers, run_jobs

# The settings that decide an arm's images, beside N, the seed, prompts, models and images.
SAMPLING = ("size", "sampling_steps", "guidance", "one_noise")
TUNING = ("tuning_samples", "learning_rate", "lora", "checks")
CHANGING = ("other_strength", "rounds")
POOL = ("rules", "count_and_drop")


def retrieved_and_datadream(
    setting: Setting, one: Shots, n: int, execution: Execution
) -> tuple[ImageSet, pd.DataFrame]:
    """Retrieved and generated images in turn, the latter by an adapter for each class; as many together as either."""
    by_text, report = retrieved(setting, one, (n + 1) // 2, execution)
    generated, losses = by_text.take([]), pd.DataFrame()
    if n > 1:
        generated, losses = datadream(setting, one, n // 2, execution, scope=BY_CLASS)
    report = pd.concat([report, losses.drop(columns="class", errors="ignore")], axis=1)
    both = concat([by_text, generated])
    of_text = np.arange(len(both)) < len(by_text)
    turn = pd.Series(both.labels).groupby([of_text, both.labels]).cumcount().to_numpy()
    return both.take(np.argsort(turn, kind="stable")), report


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One arm.

    Attributes:
        make: `(setting, one, n, execution, **options)` → `ImageSet`, or that and a report by class.
        options: of `make`.
        reads: the settings that decide its images.
        shots: whether they depend on the shots. pool: whether on the pool, and so on CLIP. generated: on the generator.
        tuned: whether adapters learn.
    """

    make: Callable
    options: Mapping[str, object] = field(default_factory=dict)
    reads: tuple[str, ...] = SAMPLING
    shots: bool = True
    pool: bool = False
    generated: bool = True
    tuned: bool = False


def _datadream(scope: str) -> Arm:
    return Arm(make=datadream, options={"scope": scope}, reads=SAMPLING + TUNING, tuned=True)


ARMS = {
    "prompted": Arm(make=prompted, shots=False),
    "real guidance": Arm(make=real_guidance, reads=(*SAMPLING, "strength")),
    "DISEF": Arm(make=disef, reads=SAMPLING + CHANGING, pool=True),
    "DataDream, by class": _datadream(BY_CLASS),
    "DataDream, all classes": _datadream(ALL_CLASSES),
    "retrieved": Arm(make=retrieved, reads=("size", *POOL), pool=True, generated=False),
    "retrieved and DataDream": Arm(
        make=retrieved_and_datadream, reads=SAMPLING + TUNING + POOL, pool=True, tuned=True
    ),
}


def check_arm(arm: str) -> None:
    """Raise ValueError for an arm that is none."""
    if arm not in ARMS:
        raise ValueError(f"there is no arm {arm!r}{did_you_mean(arm, ARMS)}; known: {', '.join(ARMS)}")


def make_set(setting: Setting, target: str, seed: int, arm: str, execution: Execution) -> Extra:
    """Return an arm's images, `setting.per_class` of each class, with what they took and a report by class.

    Finished sets are cached whole, and on the way adapters and batches of images: a run that was killed goes on where
    it was, to the same result. Of a smaller N the images are the first of a larger one, to within rounding.

    Args:
        setting, target, seed: whose shots.
        arm: a key of `ARMS`.
        execution: where the arm's own jobs run, and the cache.

    Raises:
        FileNotFoundError: the set, a model, or the pool is missing.
        ValueError: an unknown arm; what `zsclib.papers.datadream.training_sets.shots` refuses; a pool that overlaps the
            test images.
        FloatingPointError: an adapter's loss is not finite.
    """
    check_arm(arm)
    one = shots(setting, target, seed)
    job = Job(_made, (setting, one, arm, execution), _key(setting, one, arm))
    if ARMS[arm].pool and (execution.cache is None or job.key not in execution.cache):
        prepare(setting, execution)
        refuse_pool(setting, one)
    here = replace(execution, workers=Workers(1), progress=None)  # the arm's jobs go to the workers, and report
    (arrays,) = run_jobs([job], here, arm)
    return extra_of(arrays)


def _made(setting: Setting, one: Shots, name: str, execution: Execution) -> dict[str, np.ndarray]:
    began, n, arm = time.perf_counter(), setting.per_class, ARMS[name]
    made = arm.make(setting, one, n, execution, **arm.options)
    samples = setting.tuning_samples * len(one.real.classes) if arm.tuned else 0
    return extra_from(made, n, samples, time.perf_counter() - began).arrays()


def _key(setting: Setting, one: Shots, name: str) -> str:
    arm = ARMS[name]
    held_out = (one.validation, one.test) if name.startswith("retrieved") else (one.validation,) if arm.tuned else ()
    return key(
        arm={"make": arm.make.__name__, "options": dict(arm.options), "n": setting.per_class, "seed": one.seed},
        values={each: getattr(setting, each) for each in arm.reads},
        classes=one.real.classes,
        prompts=prompts_for(one.target, one.real.classes, setting.own),
        images=[part.fingerprint() for part in ((one.real,) if arm.shots else ()) + held_out],
        generator=open_generation(setting).fingerprint() if arm.generated else None,
        pool=(open_pool(setting).fingerprint(), model_fingerprint(open_filter(setting))) if arm.pool else None,
    )
