"""The long study of this paper: its arms, as jobs that say of each image whether the network is correct, and the
contrast of each of its claims.

A job is (arm, target, seed); a plan is plain data (`zsclib.study.freeze` says which). Its models are a generator and a
CLIP; of its settings, `times`, `length` and `network_steps` say where arms are compared and how long a training of
length 1 is, `pool`, `index` and `pool_cache` where the pool lies, `samples_a_class` how many samples of each class the
generator is tuned on, `learning_rates` maps ways of personalising to theirs, `splits` targets to the split of their
test images where that is not "test", `also` names further arms, and `only` maps arms to the targets they are measured
on where these are not all; all others are fields of `Setting`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd

from zsclib import datasets
from zsclib.cache import Remember, at_once
from zsclib.generator_pool import WORLD, make_world
from zsclib.images.image_set import ImageSet
from zsclib.papers.retrieval.arms import ARMS
from zsclib.papers.retrieval.audit import memorised_counts
from zsclib.papers.retrieval.contrasts import (
    CHOSEN,
    PERSONALISED,
    PRIMARY,
    REFERENCES,
    RETRIEVED,
    Arms,
    At,
    arms_of,
    contrasts,
)
from zsclib.papers.retrieval.experiments import FULL, Cell, chosen_shares, references, run, sets_made
from zsclib.papers.retrieval.training_sets import RECIPE, Setting, data
from zsclib.papers.retrieval.tuning_curves import tuning_curves
from zsclib.workers import Execution

Job = tuple[str, str, int]
BESIDE = {  # arms away from where the claims compare them: by N in |D|, training length or counts
    "real only, twice the updates": ("real only", {"length": 2}),  # if D alone gains nothing by them, its curve is flat
    **{
        f"{arm}, {what}": (arm, change)
        for arm in ("templates", RETRIEVED)
        for what, change in (("N = |D|", {"times": 1}), ("its own counts", {"counts": FULL}))
    },
}
# Shares are chosen on few held-out images, so arms that a claim compares may differ in theirs by chance; and an arm
# that falls short may cut all others to next to nothing. So these take one share, and all their images, as well.
EVEN = 0.5
EVENLY = {
    f"{arm}, half of each batch": arm
    for arm in (
        *("simple prompt", "templates", RETRIEVED, "half and half", "textual inversion", "conditioning"),
        *("clusters, k = 2", "clusters, k = 5", "planted 0 %, ladder", "planted 0 %, no ladder"),
        *("planted 5 %, ladder", "planted 5 %, no ladder"),
    )
}


def jobs(plan: Mapping) -> list[Job]:
    """Return the study's jobs: every arm of its claims, on its targets, with every seed, and those beside them.

    They come target by target and seed by seed, as they are carried out.
    """
    return [(arm, name, seed) for name in plan["sets"] for seed in plan["seeds"] for arm in _arms(plan, name)]


def outcomes(
    plan: Mapping,
    jobs: Iterable[Job],
    execution: Execution,
    device: str = "cpu",
    remember: Remember = at_once,
) -> Iterator[tuple[Job, np.ndarray, ImageSet]]:
    """Yield each job with whether its network is correct, bool (n,), and the test images it was measured on.

    Arms of one target and seed are cut to the counts that all arms of the study have there, whichever of them are
    wanted, so their jobs are carried out together. Shares are chosen with the plan's first seed.

    Args:
        plan: models (a generator, a CLIP), sets, images_seed, seeds and settings of the study.
        jobs: those wanted. execution, device: of generating and training.
        remember: keeps each arm's share, what its sets of extra images are (`experiments.sets_made`), how many
            generated images repeat one of the pool (`audit.memorised_counts`), and `tuning_curves`.
    """
    wanted, at = list(jobs), _at(plan)
    for target, seed in dict.fromkeys((target, seed) for _, target, seed in wanted):
        setting, here = _setting(plan, target, device), [arm for arm, *rest in wanted if rest == [target, seed]]
        places = _places(_arms(plan, target), at)
        every = {name: Cell(target, arm, **where._asdict(), seed=seed) for name, (arm, where) in places.items()}
        needed = [name for name in every if name in here or (name in PERSONALISED and CHOSEN in here)]
        table = at_even = pd.DataFrame()
        if needed:
            if setting.pool == WORLD and setting.pool_cache:
                make_world(setting.pool_images, setting.pool_cache, execution.workers)
            together = list(dict.fromkeys(cell.arm for cell in every.values()))
            shares = remember(target, "shares", partial(chosen_shares, setting, list(every.values()), execution))
            remember(target, f"sets, seed {seed}", partial(sets_made, setting, target, seed, together, execution))
            if seed == plan["seeds"][0]:
                one = data(setting, target, seed)
                remember(target, "memorised", partial(memorised_counts, setting, one, replace(execution, seed=seed)))
                ways = {arm: ARMS[arm].options for arm in PERSONALISED if arm in together}
                remember(target, "tuning curves", partial(tuning_curves, setting, one, ways, execution))
            usual, even = ([every[name] for name in needed if (name in EVENLY) == apart] for apart in (False, True))
            table = run(setting, usual, execution, together, shares)
            at_even = run(setting, even, execution, together, dict.fromkeys(together, EVEN))
        if any(arm in REFERENCES for arm in here):
            table = pd.concat([table, references(setting, [target], [seed])])
        for name in here:
            arm, where = places.get(name, (name, at))
            correct = Arms(at_even if name in EVENLY else table, target, where)[arm][0]
            yield (name, target, seed), correct.astype(bool), data(setting, target, seed).test


def differences(
    outcomes: Mapping[str, Mapping[str, np.ndarray]], choices: Mapping | None = None
) -> dict[str, dict[str, np.ndarray]]:
    """Return claim → target → paired differences of correctness, (seeds, images), of the arms that are there.

    Args:
        outcomes: arm → target → correctness (seeds, images).
        choices: not used.
    """
    return contrasts(as_table(outcomes)) if outcomes else {}


def as_table(outcomes: Mapping[str, Mapping[str, np.ndarray]]) -> pd.DataFrame:
    """Return outcomes, arm → target → correctness (seeds, images), as the table that contrasts are computed from."""
    at, rows = PRIMARY, []
    for arm, by_target in outcomes.items():
        for target, correct in by_target.items():
            cell = {"target": target, "arm": arm, "times": at.times, "length": at.length, "counts": at.counts}
            rows += [cell | {"seed": seed, "correct": row, "held_out": 0.0} for seed, row in enumerate(correct)]
    return pd.DataFrame(rows)


def _arms(plan: Mapping, target: str) -> list[str]:
    """Return what is measured on a target: the claims' arms, those that a choice is made among, and those beside."""
    arms = dict.fromkeys(arm for claim in plan["claims"] for arm in arms_of(claim))
    arms |= dict.fromkeys(PERSONALISED if CHOSEN in arms else ())
    arms |= dict.fromkeys(plan["settings"].get("also", ()))
    only = plan["settings"].get("only", {})
    here = [arm for arm in arms if target in only.get(arm, [target])]
    return here + [name for name in (*BESIDE, *EVENLY) if (EVENLY.get(name) or BESIDE[name][0]) in here]


def _places(arms: Iterable[str], at: At) -> dict[str, tuple[str, At]]:
    """Return of what is trained, by its name in the study, the arm and where it is compared."""
    places = {arm: (arm, at) for arm in arms if arm not in (*REFERENCES, CHOSEN, *BESIDE, *EVENLY)}
    places |= {name: (arm, _changed(at, change)) for name, (arm, change) in BESIDE.items() if name in arms}
    return places | {name: (arm, at._replace(counts=FULL)) for name, arm in EVENLY.items() if name in arms}


def _changed(at: At, change: Mapping) -> At:
    return at._replace(**change | ({"length": change["length"] * at.length} if "length" in change else {}))


def _at(plan: Mapping) -> At:
    return At(times=plan["settings"]["times"], length=plan["settings"]["length"])


def _setting(plan: Mapping, target: str, device: str) -> Setting:
    values = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in plan["settings"].items()
        if name not in ("length", "network_steps", "learning_rates", "samples_a_class", "splits", "also", "only")
    }
    split = plan["settings"].get("splits", {}).get(target, "test")
    if each := plan["settings"].get("samples_a_class"):
        values["tuning_samples"] = each * len(datasets.load(target, split, 1, plan["images_seed"]).classes)
    return Setting(
        model=plan["models"][0],
        clip=plan["models"][1],
        test_images=plan["sets"][target],
        test_seed=plan["images_seed"],
        test_split=split,
        recipe=replace(RECIPE, steps=plan["settings"]["network_steps"]),
        learning_rates=tuple(dict(plan["settings"].get("learning_rates", {})).items()),
        tuned_with=tuple(plan["seeds"][:1]),
        device=device,
        **values,
    )
