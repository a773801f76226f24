"""The comparison: every arm on every target with every seed, at equal counts and equal updates, one training each.

    setting = Setting(model="data/models/pocket-sd", clip="data/models/pocket-clip", index="results/index")
    cells = comparison(["objects-hard", "digits"], seeds=3)
    table = run(setting, cells, Execution(batch=100, cache=Cache(), workers=Workers(2)))

An arm differs from "real only" in what a share of each batch is taken from, and in nothing else: the real images come
in the same order, the network begins with the same weights and takes as many steps. That share is chosen for every arm
alike, on held-out real images.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, asdict, dataclass, replace
from itertools import product

import numpy as np
import pandas as pd
from torch import nn

from zsclib.extra import Extra, counts, equal_counts, first_of_each
from zsclib.hashing import key
from zsclib.images.image_set import ImageSet
from zsclib.models.networks import new_network
from zsclib.own_sets import prompts_for
from zsclib.papers.retrieval.arms import ARMS, check_arms, make_extra
from zsclib.papers.retrieval.audit import planted_copies
from zsclib.papers.retrieval.training_sets import Data, Setting, data, open_models, recipe_for
from zsclib.pools.ladder import DROPS
from zsclib.recipe import Recipe
from zsclib.training import Augmentation, accuracy, fit, train
from zsclib.workers import Execution, Job, run_jobs

MAIN = tuple(name for name in ARMS if not name.startswith("planted") and ", guidance" not in name)
PLANTED = tuple(name for name in ARMS if name.startswith("planted"))
GUIDANCE = tuple(name for name in ARMS if ", guidance" in name)
FULL = "full"  # counts: as many as an arm has; "equal": as many of each class as every arm has
PROBE = Recipe(steps=400, batch=32, learning_rate=1e-3, weight_decay=0.05, label_smoothing=0.0, checkpoints=1)
PROBE_RATES = (3e-4, 1e-3, 3e-3, 1e-2)  # to choose from on held-out images, as arms choose their share
Sets = dict[tuple[str, int], dict[str, Extra]]  # target, seed -> arm -> its extra images


@dataclass(frozen=True)
class Cell:
    """One training: target, arm, N as a multiple of `|D|`, training length, whether counts are made equal, seed."""

    target: str
    arm: str = "real only"
    _: KW_ONLY
    times: float = 3
    length: int = 16
    counts: str = "equal"
    seed: int = 0


@dataclass(frozen=True, eq=False, kw_only=True)
class Trained:
    """What a training is made from; the key of all that determines it."""

    cell: Cell
    extra: ImageSet | None
    share: float
    key: str


def comparison(
    targets: Sequence[str],
    arms: Sequence[str] = MAIN,
    times: Sequence[float] = (1, 3),
    lengths: Sequence[int] = (1, 4, 16),
    seeds: int = 3,
) -> list[Cell]:
    """Return the trainings that compare arms: every one at every N and length, and at full counts at the largest ones.

    Args:
        targets, arms: names; arms are keys of `ARMS`.
        times: N of the extra images as multiples of `|D|`. lengths: of the training.
        seeds: each repeats everything.
    """
    check_arms(arms)
    cells = [
        Cell(target, arm, times=n, length=length, seed=seed)
        for target, arm, n, length, seed in product(targets, arms, times, lengths, range(seeds))
    ]
    most = {"times": max(times), "length": max(lengths), "counts": FULL}
    cells += [Cell(t, arm, **most, seed=s) for t, arm, s in product(targets, arms, range(seeds))]
    return list(dict.fromkeys(map(_plain, cells)))


def run(
    setting: Setting,
    cells: Iterable[Cell],
    execution: Execution,
    together: Sequence[str] = (),
    shares: Mapping[str, float] | None = None,
) -> pd.DataFrame:
    """Make every set of extra images, choose the shares, and train every network that the cache lacks.

    Args:
        setting, cells: what is to be done.
        execution: sets of extra images and trainings are jobs.
        together: further arms whose counts the arms of the cells are cut to, where a study runs in parts.
        shares: of extra images in a batch, by arm, where they have been chosen before.

    Returns:
        A row per cell: the columns of `Cell`; `share` of extra images in a batch; `images`, how many extra ones there
        were; `held_out`, the accuracy on held-out real images; `correct`, bool (test,).

    Raises:
        ValueError: an unknown arm, a target with too few images, an N above the setting's.
    """
    cells = list(dict.fromkeys(map(_plain, cells)))
    check_arms([*(cell.arm for cell in cells), *together])
    if beyond := [cell for cell in cells if cell.times > setting.times]:
        raise ValueError(f"run: {beyond[0]} asks for more than the {setting.times} |D| images of the setting")
    to_choose = shares is None and len(setting.shares) > 1
    sets = _make_sets(setting, cells, setting.tuned_with if to_choose else (), together, execution)
    if shares is None:
        chosen = tuned_shares(setting, cells, sets, execution)
    else:
        chosen = {(cell.target, cell.arm): shares[cell.arm] for cell in cells}
    trainings = [_training(setting, cell, sets, chosen[cell.target, cell.arm]) for cell in cells]
    outcomes = _train_all(setting, trainings, execution, "training")
    rows = []
    for one in trainings:
        labels = data(setting, one.cell.target, one.cell.seed).test.labels
        outcome = outcomes[one.key]
        facts = {"share": one.share, "images": 0 if one.extra is None else len(one.extra)}
        facts |= {"held_out": float(outcome["held_out"]), "correct": outcome["test"] == labels}
        rows.append(asdict(one.cell) | facts)
    return pd.DataFrame(rows)


def chosen_shares(setting: Setting, cells: Sequence[Cell], execution: Execution) -> dict[str, float]:
    """Return what `tuned_shares` chooses for the arms of one target's cells, their sets made for it: arm → share."""
    cells = list(dict.fromkeys(map(_plain, cells)))
    seeds = setting.tuned_with or {cell.seed for cell in cells}
    sets = _make_sets(setting, [replace(cell, seed=seed) for cell in cells for seed in seeds], (), (), execution)
    return {arm: share for (_, arm), share in tuned_shares(setting, cells, sets, execution).items()}


def sets_made(setting: Setting, target: str, seed: int, arms: Sequence[str], execution: Execution) -> dict[str, dict]:
    """Return what the sets of extra images of some arms are, as plain data; they are made where the cache lacks them.

    Returns:
        arm → `delivered`, images of each class, of at most N; `compared`, those of each class at equal counts; what it
        took, `evaluations`, `tuning_samples` and `seconds`; of arms that walk the pool `dropped`, candidates by the
        reason they were dropped for; and where copies of test images are planted, `copies`, how many came in.
    """
    sets = make_extra(setting, target, seed, arms, execution)
    n = round(setting.times * setting.shots)
    compared = equal_counts([one.images for arm, one in sets.items() if ARMS[arm].cuts], n)
    made = {}
    for arm, one in sets.items():
        dropped = [name for name in DROPS if name in one.report]
        made[arm] = {
            "delivered": [int(count) for count in counts(one.images)],
            "compared": [int(count) for count in np.minimum(compared, counts(one.images))],
            "evaluations": one.evaluations,
            "tuning_samples": one.tuning_samples,
            "seconds": round(one.seconds, 1),
        }
        if dropped:
            made[arm]["dropped"] = {name: int(one.report[name].sum()) for name in dropped}
        if "planted" in ARMS[arm].options:
            made[arm]["copies"] = int(planted_copies({arm: one})["copies"].iloc[0])
    return made


def _make_sets(
    setting: Setting, cells: Iterable[Cell], seeds: Iterable[int], together: Sequence[str], execution: Execution
) -> Sets:
    """Make the extra images of the cells' arms, with further seeds and arms: all arms, for equal counts."""
    arms: dict[tuple[str, int], dict[str, None]] = {}
    for cell in cells:
        for seed in (cell.seed, *seeds):
            arms.setdefault((cell.target, seed), {})[cell.arm] = None
    return {place: make_extra(setting, *place, [*of, *together], execution) for place, of in arms.items()}


def tuned_shares(
    setting: Setting, cells: Sequence[Cell], sets: Sets, execution: Execution
) -> dict[tuple[str, str], float]:
    """Choose each arm's share of extra images in a batch, on held-out real images, alike for all arms.

    An arm is trained on each target with each share of the setting, at the largest N and at length `tuned_at`, with
    the seeds `tuned_with`, or else all; the share of the best mean accuracy counts, of equals the first, at every N,
    length and seed. Where the setting has one share alone, there is nothing to choose.

    Returns:
        (target, arm) → share; 0 for arms without extra images.
    """
    trials: dict[tuple[str, str], dict[float, dict[str, Trained]]] = {}
    for target, arm, seed in dict.fromkeys((cell.target, cell.arm, cell.seed) for cell in cells):
        by_share = trials.setdefault((target, arm), {})
        if not _to_choose(setting, arm):
            continue
        for trial in setting.tuned_with or (seed,):
            cell = Cell(target, arm, times=setting.times, length=setting.tuned_at, seed=trial)
            for share in setting.shares:
                one = _training(setting, cell, sets, share)
                by_share.setdefault(share, {})[one.key] = one
    every = [one for by_share in trials.values() for ones in by_share.values() for one in ones.values()]
    outcomes = _train_all(setting, every, execution, "choosing shares")
    chosen = {}
    for (target, arm), by_share in trials.items():
        accuracy = {share: np.mean([outcomes[name]["held_out"] for name in ones]) for share, ones in by_share.items()}
        fixed = ARMS[arm].share or setting.shares[0]
        chosen[target, arm] = max(accuracy, key=accuracy.get) if accuracy else fixed if ARMS[arm].make else 0.0
    return chosen


def _to_choose(setting: Setting, arm: str) -> bool:
    """Say whether there is a share to choose for an arm."""
    return ARMS[arm].make is not None and ARMS[arm].share is None and len(setting.shares) > 1


def references(setting: Setting, targets: Iterable[str], seeds: Iterable[int]) -> pd.DataFrame:
    """Return rows, as `run` has them, of the CLIP that retrieves: does retrieval but hand on what that knows?

    "CLIP, zero-shot" takes the prompts that retrieve; "linear probe" learns from CLIP's features of D, at the learning
    rate of `PROBE_RATES` that is best on held-out images.
    """
    clip, rows = open_models(setting)[1], []
    for target, seed in product(targets, list(seeds)):
        one = data(setting, target, seed)
        prompts = prompts_for(target, one.real.classes, setting.own)
        classifier = clip.zero_shot(prompts.classes, prompts.templates)
        zero_shot = [classifier.scores(part.images) for part in (one.test, one.held_out)]
        features = [clip.encode_images(part.images).cpu().numpy() for part in (one.real, one.test, one.held_out)]
        for arm, scores in (("CLIP, zero-shot", zero_shot), ("linear probe", _probe(setting, one, *features))):
            correct, held_out = (
                score.argmax(1) == part.labels for score, part in zip(scores, (one.test, one.held_out), strict=True)
            )
            cell = Cell(target, arm, times=0, length=0, seed=seed)
            facts = {"share": 0.0, "images": 0, "held_out": float(held_out.mean()), "correct": correct}
            rows.append(asdict(cell) | facts)
    return pd.DataFrame(rows)


def _probe(
    setting: Setting, one: Data, real: np.ndarray, test: np.ndarray, held_out: np.ndarray
) -> list[np.ndarray]:
    """Return the scores that a linear probe on features (n, d) of D gives to those of test and held-out images."""
    head, scale = nn.Linear(real.shape[1], len(one.real.classes)), np.sqrt(real.shape[1])  # about unit variance
    for parameter in head.parameters():
        nn.init.zeros_(parameter)
    recipes = [replace(PROBE, learning_rate=rate) for rate in PROBE_RATES]
    probes = [fit(head, real * scale, one.real.labels, r, one.seed, device=setting.device) for r in recipes]
    accuracies = [accuracy(probe.scores(held_out * scale), one.held_out.labels) for probe in probes]
    best = probes[int(np.argmax(accuracies))]  # of equals the slowest
    return [best.scores(features * scale) for features in (test, held_out)]


def _plain(cell: Cell) -> Cell:
    """Return the one cell that stands for all that are the same training."""
    if ARMS[cell.arm].make is None:
        return replace(cell, times=1, counts="equal")
    return replace(cell, times=1, counts=FULL) if cell.arm == "twice the real" else cell


def _training(setting: Setting, cell: Cell, sets: Sets, share: float) -> Trained:
    """Return what a cell is trained on."""
    one, arm, of = data(setting, cell.target, cell.seed), ARMS[cell.arm], sets[cell.target, cell.seed]
    extra = None
    if cell.arm in of:
        n = round(cell.times * setting.shots)
        most = np.full(len(one.real.classes), n)
        if cell.counts != FULL:
            compared = [other.images for name, other in of.items() if ARMS[name].cuts]
            most = equal_counts(compared, n)
        extra = first_of_each(of[cell.arm].images, most)
        extra = replace(extra, manifest=None) if len(extra) else None
    share = share if extra is not None else 0.0
    name = key(
        images=[part.fingerprint() for part in (one.real, one.held_out, one.test)],
        extra=None if extra is None else extra.fingerprint(),
        share=share,
        augmentation=(arm.operations, arm.cutmix),
        recipe=recipe_for(setting, cell.target, cell.length),
        network=(setting.network, setting.width, setting.size, cell.seed),
    )
    return Trained(cell=cell, extra=extra, share=share, key=name)


def _train_all(
    setting: Setting, trainings: Sequence[Trained], execution: Execution, what: str
) -> dict[str, Mapping[str, np.ndarray]]:
    """Train every network once, whatever number of cells it stands for."""
    jobs = {one.key: Job(_trained, (setting, one.cell, one.extra, one.share), one.key) for one in trainings}
    return dict(zip(jobs, run_jobs(jobs.values(), execution, what), strict=True))


def _trained(setting: Setting, cell: Cell, extra: ImageSet | None, share: float) -> dict[str, np.ndarray]:
    """Train one network; return its predictions on the test images, int64 (test,), and its held-out accuracy."""
    one, arm = data(setting, cell.target, cell.seed), ARMS[cell.arm]
    network = new_network(setting.network, one.real.classes, setting.size, setting.width, cell.seed)
    augmentation = Augmentation(extra=extra, share=share, operations=arm.operations, cutmix=arm.cutmix)
    recipe = recipe_for(setting, cell.target, cell.length)
    trained = train(network, one.real, recipe, cell.seed, device=setting.device, augmentation=augmentation)
    held_out = trained.scores(one.held_out.images).argmax(1) == one.held_out.labels
    return {"test": trained.scores(one.test.images).argmax(1), "held_out": held_out.mean()}
