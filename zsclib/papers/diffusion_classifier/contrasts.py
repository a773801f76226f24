"""The contrast of every claim of `data/claims/diffusion_classifier.yml`, computed as it is worded there.

    differences = against_rivals(correct) | binding(solved, pairs.swaps)
    differences["DC-H4-digits"]                                 # target -> differences of correctness, float64 (n,)

Every function returns claim -> target -> one paired difference per image (or per example): arm less rival on the same
images, in the claim's order. Nothing is averaged over images here, and nothing judged. The one claim whose contrast is
no mean over images, DC-H7, is `above_the_line`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from zsclib.papers.diffusion_classifier import robustness, winoground
from zsclib.papers.diffusion_classifier.ablations import Measure, pairing_gain, weighted
from zsclib.papers.diffusion_classifier.error_matrix import blocks, crowded, near, subgrids
from zsclib.papers.diffusion_classifier.experiments import COMPETENT, PAPER
from zsclib.papers.diffusion_classifier.measurements import (
    Errors,
    Target,
    among_best,
    correct,
    frequency,
)
from zsclib.papers.diffusion_classifier.replays import Replay

Outcomes = Mapping[str, np.ndarray]  # target -> whether, or how often, an arm is correct on each image, (n,)
Contrasts = dict[str, dict[str, np.ndarray]]  # claim -> target -> float64 (n,)
Targets = Mapping[str, Target]

DIFFUSION, DIT = "diffusion classifier", "class-conditional DiT"
CLIP_ONE, CLIP_ENSEMBLE = "CLIP, one prompt", "CLIP, ensemble"
FEATURES = "SD features, with labels"
SETS = (
    "objects",
    "objects-fine",
    "digits",
    "aerial",
)  # objects-shift stands for a set of the paper in H2 alone
RIVALS = {  # claim -> its arm, and the sets that it is claimed of
    "DC-H1-{}-weak": (PAPER, SETS),
    "DC-H1-{}-competent": (COMPETENT, SETS),
    "DC-H2-{}": (FEATURES, (*SETS, "objects-shift")),
    "DC-H3-{}": (CLIP_ENSEMBLE, SETS),
    "DC-H4-{}": (CLIP_ONE, SETS),
}
NETWORKS = {"DC-H6-resnet": "resnet101", "DC-H6-vit": "vit-b"}
CHECKPOINTS = {  # claim -> image-caption pairs trained on, later and earlier
    "DC-H15-262k": (2**18, 2**17),
    "DC-H15-524k": (2**19, 2**18),
    "DC-H15-1m": (2**20, 2**19),
    "DC-H15-all": (2**20, 2**17),
}
NOISE = {  # claim -> kind of noise
    "DC-H14-zero": "zero",
    "DC-H14-truncated": "truncated",
    "DC-H14-truncated-wide": "truncated-2.5",
    "DC-H14-rescaled": "rescaled",
}


def difference(arm: Outcomes, rival: Outcomes) -> dict[str, np.ndarray]:
    """Return target → arm less rival on each image, float64 (n,), for the targets of both."""
    return {
        name: np.asarray(arm[name], np.float64) - np.asarray(rival[name], np.float64)
        for name in arm
        if name in rival
    }


# --- is it a good classifier? ---------------------------------------------------------------------


def against_rivals(correct: Mapping[str, Outcomes]) -> Contrasts:
    """Return the contrasts of H1 to H4; correct: arm → target → (n,), DIFFUSION and any of the arms of RIVALS."""
    contrasts = {}
    for claim, (arm, names) in RIVALS.items():
        for name in names:
            if name in correct[DIFFUSION] and name in correct.get(arm, {}):
                pair = ({name: correct[which][name]} for which in (DIFFUSION, arm))
                contrasts[claim.format(name)] = difference(*pair)
    return contrasts


def binding(solved: Mapping[str, Mapping[str, np.ndarray]], swaps: Sequence[str]) -> Contrasts:
    """Return the contrasts of H5: by type of swap, and of the image score with and without the unconditional error.

    Args:
        solved: from `measurements.winoground_arms`, arm → score → bool (n examples,). swaps: their types (n,).
    """
    if not solved:
        return {}
    arms = {arm: winoground.by_swap(solved[arm]["text"], swaps) for arm in ("diffusion", "CLIP")}
    contrasts = {}
    for swap, ours in arms["diffusion"].items():
        claim = "DC-H5" if swap == "all" else f"DC-H5-{swap}"
        contrasts[claim] = difference({"pairs": ours}, {"pairs": arms["CLIP"][swap]})
    with_it, raw = ({"pairs": solved[arm]["image"]} for arm in ("diffusion", "diffusion, raw errors"))
    return contrasts | {"DC-H5-image": difference(with_it, raw)}


def class_conditional(correct: Mapping[str, Outcomes]) -> Contrasts:
    """Return the contrasts of H6 on objects; correct: DIT and network → target → (n,)."""
    return {
        claim: difference({"objects": correct[DIT]["objects"]}, {"objects": correct[name]["objects"]})
        for claim, name in NETWORKS.items()
        if name in correct and DIT in correct
    }


def above_the_line(correct: Mapping[str, Outcomes], seed: int = 0) -> tuple[float, float, float]:
    """Return the contrast of H7 with its interval: accuracy under shift less what the networks' line foretells.

    Args:
        correct: DIT, and two networks or more → "objects" and "objects-shift" → bool (n,).
    """
    networks = [name for name in correct if name != DIT]
    parts = ([correct[name][test] for name in networks] for test in ("objects", "objects-shift"))
    return robustness.effective_robustness(
        *parts, correct[DIT]["objects"], correct[DIT]["objects-shift"], seed=seed
    )


def training_length(checkpoints: Sequence[Mapping[str, object]]) -> Contrasts:
    """Return the contrasts of H15 between checkpoints of one training.

    Args:
        checkpoints: rows of data/records/scaling.json: `samples`, and "recognised <target>", 0 or 1 per image.
    """
    if not checkpoints:
        return {}
    by_samples = {row["samples"]: outcomes_of(row) for row in checkpoints}
    contrasts = {}
    for claim, numbers in CHECKPOINTS.items():
        later, earlier = (min(by_samples, key=lambda samples: abs(samples - n)) for n in numbers)
        if later > earlier:
            contrasts[claim] = difference(by_samples[later], by_samples[earlier])
    return contrasts


def outcomes_of(checkpoint: Mapping[str, object]) -> Outcomes:
    """Return target → which images a checkpoint's classifier names, (n,)."""
    start = "recognised "
    return {
        key.removeprefix(start): np.array(row) for key, row in checkpoint.items() if key.startswith(start)
    }


# --- why does it work, and what does it cost? -----------------------------------------------------


def shared_noise(paired: Errors, unpaired: Errors, targets: Targets, t: Sequence[int], few: int) -> Contrasts:
    """Return the contrasts of H8, between noise shared by all classes and noise of each class's own.

    Args:
        paired, unpaired: errors at the same timesteps t. few: how many of these a decision rests on.
    """
    shared, apart = (frequency(errors, targets, subgrids(t, few)) for errors in (paired, unpaired))
    gain = {name: pairing_gain(paired[name], unpaired[name]) for name in paired}
    return {"DC-H8": difference(shared, apart), "DC-H8-samples": gain}


def single_timesteps(errors: Errors, targets: Targets, t: Sequence[int], T: int = 1000) -> Contrasts:
    """Return the contrasts of H9: one timestep alone, near the middle, against a low and a high one."""
    low, middle, high = (frequency(errors, targets, near(t, share * T, T)) for share in (0.05, 0.5, 0.9))
    return {"DC-H9-low": difference(middle, low), "DC-H9-high": difference(middle, high)}


def spread(
    even: Errors, two: Errors, targets: Targets, t: Sequence[int], few: int, T: int = 1000
) -> Contrasts:
    """Return the contrasts of H10: timesteps spread evenly, against crowded ones and against two that are repeated.

    Args:
        even: errors at the timesteps t. two: errors at two timesteps, with several noises each.
    """
    columns = next(iter(two.values())).shape[2]
    evenly, repeated = (
        frequency(even, targets, subgrids(t, 2 * few)),
        frequency(two, targets, blocks(columns, 2 * few)),
    )
    near_the_middle = frequency(even, targets, crowded(t, few, T))
    return {
        "DC-H10": difference(frequency(even, targets, subgrids(t, few)), near_the_middle),
        "DC-H10-repeated": difference(evenly, repeated),
    }


def weighting(errors: Errors, targets: Targets, weights: np.ndarray, claim: str = "DC-H11") -> Contrasts:
    """Return the contrast of H11: uniform less variational weights (K,) on the same errors.

    Args:
        claim: "DC-H11-dit" for the class-conditional model's errors and weights.
    """
    bound = {name: weighted(matrix, weights) for name, matrix in errors.items()}
    return {claim: difference(correct(errors, targets), correct(bound, targets))}


def losses(broad: Mapping[Measure, Errors], targets: Targets) -> Contrasts:
    """Return the contrasts of H12 on the text-to-image model: absolute and Huber errors against squared ones."""
    l2, l1, huber = (correct(broad[Measure(loss)], targets) for loss in ("l2", "l1", "huber"))
    absolute = difference(l1, l2)
    each = {f"DC-H12-{name}": {name: absolute[name]} for name in ("objects", "digits") if name in absolute}
    return each | {"DC-H12-huber": difference(huber, l2)}


def losses_of_dit(by_class: Mapping[Measure, Errors], targets: Targets) -> Contrasts:
    """Return the contrast of H12-dit, on the class-conditional model."""
    l2, l1 = (correct(by_class[Measure(loss)], targets) for loss in ("l2", "l1"))
    return {"DC-H12-dit": difference(l1, l2)}


def class_filter(
    errors: Errors, scores: Mapping[str, np.ndarray], targets: Targets, half: Outcomes, every: Outcomes
) -> Contrasts:
    """Return the contrasts of H13: among the half of the classes that score best by CLIP, against among all.

    Args:
        errors, scores: target → (n, C, K), and CLIP's scores (n, C).
        half, every: outcomes on the set with many classes, whose errors were measured for these classes alone.
    """
    return {
        "DC-H13": difference(correct(among_best(errors, scores), targets), correct(errors, targets)),
        "DC-H13-objects-fine": difference(half, every),
    }


def variants(broad: Mapping[Measure, Errors], kinds: Mapping[str, Errors], targets: Targets) -> Contrasts:
    """Return the contrasts of H14: guidance, a crop to the middle half, and other noise.

    Args:
        broad: among its measures guidance 1, and the crop that leaves the middle half of a side.
        kinds: kind of noise → errors, "normal" among them, all at the same timesteps.
    """
    names = kinds["normal"]
    crops = sorted(measure for measure in broad if measure.crop)
    changes = {"DC-H14-guidance": Measure(guidance=1.0), "DC-H14-crop": crops[len(crops) // 2]}
    return {claim: change(broad, measure, names, targets) for claim, measure in changes.items()} | {
        claim: difference(correct(kinds[kind], targets), correct(kinds["normal"], targets))
        for claim, kind in NOISE.items()
    }


def change(
    broad: Mapping[Measure, Errors], measure: Measure, names: Iterable[str], targets: Targets
) -> dict[str, np.ndarray]:
    """Return target → a measure less the squared error of the whole latent, on the same evaluations, float64 (n,)."""
    changed, plain = ({name: broad[which][name] for name in names} for which in (measure, Measure()))
    return difference(correct(changed, targets), correct(plain, targets))


def elimination(
    every: Outcomes, sequential: Replay, staged: Replay, fewer: Outcomes, fewer_stages: Outcomes
) -> Contrasts:
    """Return the contrasts of H16, all on the same errors.

    Args:
        every: outcomes of every class at every timestep. sequential, staged: of the sequential test and the paper's
            stages. fewer, fewer_stages: of fewer timesteps for every class, and of the stages at fewer timesteps, at no
            fewer evaluations than the sequential test takes.
    """
    same = difference(sequential.correct, every)
    return {
        "DC-H16": difference(staged.correct, every),
        "DC-H16-sequential": same,
        "DC-H16-sequential-2": same,
        "DC-H16-sequential-cost": {name: share - 1 / 10 for name, share in sequential.share.items()},
        "DC-H16-sequential-staged-cost": {
            name: share / staged.share[name] - 1 / 3 for name, share in sequential.share.items()
        },
        "DC-H16-sequential-prefix": difference(sequential.correct, fewer),
        "DC-H16-sequential-staged": difference(sequential.correct, fewer_stages),
    }
