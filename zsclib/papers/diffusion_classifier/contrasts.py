"""The contrast of every claim on the diffusion classifier in `data/claims`, computed as it is worded there.

    differences = contrasts(outcomes, choices)              # claim → set → paired differences of correctness
    differences["DC-H9-low-digits"]["digits"]               # (1, images)

Outcomes are arm → set → correctness (seeds, images). Of arms that are trained several times, each training has outcomes
of its own, `rivals.trained`; contrasts have a row for each. A set may have parts: "digits, in depth" are its first
images at many timesteps, "digits, other noise" at few and with noise of other kinds, "objects-hard, DiT in depth" at
many timesteps of the class-conditional model. The claims of H15 are about checkpoints of a training, of which there is
a record: `training_length`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from zsclib.papers.diffusion_classifier import arms, robustness, winoground
from zsclib.papers.diffusion_classifier.arms import CLIP_ENSEMBLE, CLIP_ONE, DIFFUSION, DIT
from zsclib.papers.diffusion_classifier.error_matrix import near
from zsclib.papers.diffusion_classifier.experiments import PAPER
from zsclib.papers.diffusion_classifier.rivals import (
    EQUAL,
    TWICE,
    arm_and_training,
    kind_of,
    shorter,
    steps_of,
    trained,
    with_images,
    with_labels,
)

TEN = ("objects-hard", "digits", "aerial-hard")  # ten classes or fewer, scored in full
RIVALLED = (*TEN, "objects-fine-hard")  # where networks and heads are trained
ZERO_SHOT = (*RIVALLED, "objects-many")
MANY = ("objects-fine-hard", "objects-many")  # dozens of classes, scored by the paper's stages
PHOTOGRAPHS = tuple(f"photographs:{name}" for name in ("cifar10", "tiny-imagenet-20", "pacs-sketch", "rsscn7"))
MANY_PHOTOGRAPHS = tuple(f"photographs:{name}" for name in ("caltech101", "tiny-imagenet"))
DEPTH, OTHER_NOISE, DIT_DEPTH = ", in depth", ", other noise", ", DiT in depth"
UNSHIFTED, HARD, RESAMPLED = "objects-shift:none", "objects-hard", "objects-hard:0.3"
CAMERA = tuple(f"objects-shift:{shift}" for shift in ("small", "turned", "cropped"))
SENSOR = tuple(f"objects-shift:{shift}" for shift in ("blurred", "noisy", "faded", "coarse"))
SHIFTED = (*CAMERA, *SENSOR)
CONDITIONAL = (UNSHIFTED, *SHIFTED, HARD, RESAMPLED)  # what the class-conditional model and its rivals are asked about
STORIES = {"DC-H7-hard": (HARD,), "DC-H7-resampled": (RESAMPLED,), "DC-H7-camera": CAMERA}
BESIDE = ("resnet18", "resnet101", "vit-b", "vit-l-32")  # the networks whose line it is held against
CEILING = 0.99  # beyond it, without a shift, the logit of an accuracy rests on hardly any error: no place on the line
DIT_L1, DIT_BOUND = f"{DIT}, absolute errors", f"{DIT}, variational weights"
TEXT, IMAGE, RAW, CLIP_TEXT = "text, diffusion", "image, diffusion", "image, diffusion, raw errors", "text, CLIP"
NETWORKS = {"DC-H6-resnet": "resnet101", "DC-H6-vit": "vit-b"}
CHECKPOINTS = {  # claim -> image-caption pairs trained on, later and earlier
    "DC-H15-262k": (2**18, 2**17),
    "DC-H15-524k": (2**19, 2**18),
    "DC-H15-1m": (2**20, 2**19),
    "DC-H15-all": (2**20, 2**17),
}
SIZES, LABELS = (400, 1600, 6400), (100, 1000, 10_000)
MOST = {"digits": 1000}  # labels, where there are fewer than LABELS[-1]
SAVED = 2  # times fewer evaluations, at least, by sharing noise
FLAT = 0.02  # that twice the steps may add on held-out images; beyond it a rival's training had not ended
REACH = 0.995  # of the DiT without a shift: beyond it the networks' line, which ends at `CEILING`, is drawn too far

Outcomes = Mapping[str, Mapping[str, np.ndarray]]
Differences = dict[str, dict[str, np.ndarray | tuple]]


def _in(sets: Sequence[str], part: str) -> tuple[str, ...]:
    return tuple(name + part for name in sets)


FEW, DOZENS = (*TEN, *PHOTOGRAPHS), (*MANY, *MANY_PHOTOGRAPHS)
_RIVALS = {
    "DC-H1-weak": (DIFFUSION, PAPER, RIVALLED),
    **{f"DC-H1-{name}-equal": (DIFFUSION, with_images(EQUAL), (name,)) for name in RIVALLED},
    **{f"DC-H1-{n}": (DIFFUSION, with_images(n), RIVALLED) for n in SIZES},
    **{f"DC-H2-{name}": (DIFFUSION, with_labels(MOST.get(name, LABELS[-1])), (name,)) for name in RIVALLED},
    **{f"DC-H2-{n}": (DIFFUSION, with_labels(n), RIVALLED) for n in LABELS[:-1]},
    "DC-H2-objects-shift": (DIFFUSION, with_labels(LABELS[-1]), SHIFTED),
    **{f"DC-H3-{name}": (DIFFUSION, CLIP_ENSEMBLE, (name,)) for name in ZERO_SHOT},
    **{f"DC-H4-{name}": (DIFFUSION, CLIP_ONE, (name,)) for name in ZERO_SHOT},
    **{claim: (DIT, network, (RESAMPLED,)) for claim, network in NETWORKS.items()},
    **{f"{claim}-hard": (DIT, network, (HARD,)) for claim, network in NETWORKS.items()},
}
_ON_PHOTOGRAPHS = {
    claim.format(name.partition(":")[2]): (DIFFUSION, rival, (name,))
    for claim, rival, sets in (
        ("DC-H1-{}-equal", with_images(EQUAL), PHOTOGRAPHS),
        ("DC-H3-{}", CLIP_ENSEMBLE, (*PHOTOGRAPHS, *MANY_PHOTOGRAPHS)),
        ("DC-H4-{}", CLIP_ONE, (*PHOTOGRAPHS, *MANY_PHOTOGRAPHS)),
    )
    for name in sets
}
VARIED = ("objects-hard", "digits")  # where other measures and kinds of noise are tried
_PARTS = {
    "DC-H8": (arms.SHARED, arms.APART, _in(FEW, OTHER_NOISE)),
    "DC-H10": (arms.SPREAD, arms.CROWDED, _in(FEW, DEPTH)),
    "DC-H11": (arms.EVERY, arms.VARIATIONAL, _in(FEW, DEPTH)),
    "DC-H11-dit": (DIT, DIT_BOUND, _in((HARD,), DIT_DEPTH)),
    "DC-H12-objects-hard": (arms.L1, DIFFUSION, ("objects-hard",)),
    "DC-H12-digits": (arms.L1, DIFFUSION, ("digits",)),
    "DC-H12-dit": (DIT_L1, DIT, (HARD,)),
    "DC-H12-huber": (arms.HUBER, DIFFUSION, FEW),
    "DC-H13": (arms.FILTERED, DIFFUSION, FEW),
    "DC-H14-guidance": (arms.GUIDED, DIFFUSION, VARIED),
    "DC-H14-crop": (arms.CROPPED, DIFFUSION, VARIED),
    **{
        f"DC-H14-{claim}": (arms.KINDS[kind], arms.KINDS["normal"], _in(VARIED, OTHER_NOISE))
        for claim, kind in (("zero", "zero"), ("truncated", "truncated"), ("truncated-wide", "truncated-2.5"))
    },
    "DC-H16": (arms.STAGES, arms.EVERY, _in(FEW, DEPTH)),
    "DC-H16-many": (arms.STAGES, arms.EVERY, _in(DOZENS, DEPTH)),
    "DC-H16-sequential-2": (arms.TEST, arms.EVERY, _in(FEW, DEPTH)),
    "DC-H16-sequential-prefix": (arms.TEST, arms.FEWER, _in(FEW, DEPTH)),
    "DC-H16-sequential-staged": (arms.TEST, arms.SHORTER, _in(FEW, DEPTH)),
}  # fmt: skip
PAIRS: dict[str, tuple[str, str, tuple[str, ...]]] = _RIVALS | _ON_PHOTOGRAPHS | _PARTS  # claim -> arm, rival, sets
UNJUDGED = {  # measured, though no affordable number of images could tell such effects
    "DC-H10-repeated": (arms.DIFFERENT, arms.REPEATED, _in(FEW, OTHER_NOISE)),
    "DC-H14-rescaled": (arms.KINDS["rescaled"], arms.KINDS["normal"], _in(VARIED, OTHER_NOISE)),
}
ALONE = {
    f"DC-H9-{where}-{name.removeprefix('photographs:')}": (0.5, share, name)
    for where, share in (("low", 0.05), ("high", 0.9))
    for name in FEW
}
BINDING = {"DC-H5": "all", "DC-H5-object": "object", "DC-H5-relation": "relation", "DC-H5-both": "both"}
COSTS = {"DC-H16-sequential-cost": 1 / 10, "DC-H16-sequential-staged-cost": 1 / 3}
KNOWN = (  # but for H15
    *PAIRS, *ALONE, *BINDING, "DC-H5-image", *STORIES, "DC-H8-samples", *COSTS,
)  # fmt: skip


def contrasts(outcomes: Outcomes, choices: Mapping[str, Mapping[str, Mapping]] | None = None) -> Differences:
    """Return claim → set → paired differences (seeds, images), of the arms that are there; of H7 (value, low, high, n).

    Claims about trained rivals are left out on sets where longer training would have added more than `FLAT` on held-out
    images: not testable at this budget.

    Args:
        choices: set → what → what was noted of it, "curves" of the trainings among them.
    """
    outcomes, differences, choices = over_trainings(outcomes), {}, choices or {}
    for claim, (arm, rival, sets) in PAIRS.items():
        ended = [name for name in sets if not unended(rival, choices, name)]
        differences[claim] = _pairwise(outcomes, arm, rival, ended)
    by_shift = list(differences["DC-H2-objects-shift"].values())  # images of the same scenes: one set, not seven
    whole = len(by_shift) == len(SHIFTED)
    differences["DC-H2-objects-shift"] = {"objects-shift": np.mean(by_shift, axis=0)} if whole else {}
    parts = (_alone, _binding, _stories, _shared, _costs)
    for part in parts:
        differences |= part(outcomes)
    return {claim: by_set for claim, by_set in differences.items() if by_set}


def training_length(checkpoints: Sequence[Mapping[str, object]]) -> Differences:
    """Return the contrasts of H15 between checkpoints of one training.

    Args:
        checkpoints: rows of data/records/scaling.json: `samples`, and "recognised <target>", 0 or 1 per image.
    """
    if not checkpoints:
        return {}
    by_samples = {row["samples"]: outcomes_of(row) for row in checkpoints}
    differences: Differences = {}
    for claim, numbers in CHECKPOINTS.items():
        later, earlier = (min(by_samples, key=lambda samples: abs(samples - n)) for n in numbers)
        if later > earlier:
            differences[claim] = {
                name: np.asarray(correct, np.float64) - by_samples[earlier][name]
                for name, correct in by_samples[later].items()
            }
    return differences


def outcomes_of(checkpoint: Mapping[str, object]) -> dict[str, np.ndarray]:
    """Return target → which images a checkpoint's classifier names, (n,)."""
    start = "recognised "
    return {
        key.removeprefix(start): np.array(row) for key, row in checkpoint.items() if key.startswith(start)
    }


def check(claim: str) -> None:
    """Raise ValueError for a claim of which the study knows no contrast."""
    if claim not in KNOWN:
        raise ValueError(f"the study has no arms for the claim {claim!r}; it has: {', '.join(KNOWN)}")


def over_trainings(outcomes: Outcomes) -> dict[str, dict[str, np.ndarray]]:
    """Return arm → set → (seeds, images), the trainings of an arm one below the other."""
    stacked: dict[str, dict[str, list[np.ndarray]]] = {}
    for name, by_set in sorted(outcomes.items(), key=lambda item: arm_and_training(item[0])[1]):
        for target, correct in by_set.items():
            stacked.setdefault(arm_and_training(name)[0], {}).setdefault(target, []).append(correct)
    return {
        arm: {target: np.concatenate(rows) for target, rows in by_set.items()} for arm, by_set in stacked.items()
    }


def difference(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Return ours less theirs; where one has more rows, from more trainings, the mean of the other meets each."""
    if len(ours) != len(theirs):
        ours, theirs = (rows if len(rows) == max(len(ours), len(theirs)) else rows.mean(0, keepdims=True)
                        for rows in (ours, theirs))  # fmt: skip
    return ours - theirs


def unjudged(outcomes: Outcomes) -> Differences:
    """Return the contrasts of `UNJUDGED`, as `contrasts` returns those of other claims."""
    outcomes = over_trainings(outcomes)
    differences = {claim: _pairwise(outcomes, *pair) for claim, pair in UNJUDGED.items()}
    return {claim: by_set for claim, by_set in differences.items() if by_set}


def _pairwise(outcomes: Outcomes, arm: str, rival: str, sets: Sequence[str]) -> dict[str, np.ndarray]:
    ours, theirs = outcomes.get(arm, {}), outcomes.get(rival, {})
    return {name: difference(ours[name], theirs[name]) for name in sets if name in ours and name in theirs}


def unended(rival: str, choices: Mapping[str, Mapping[str, Mapping]], name: str) -> bool:
    """Return whether a rival's training on a set had not ended: longer, its like would be `FLAT` better or more.

    Asked are, at twice the steps, the network on as many generated images as there are evaluations and the head on the
    most labels, the same for all sizes; and of a network beside the DiT the longest of its shorter trainings.
    """
    notes = choices.get(name, {})
    if rival in {with_images(n) for n in (*SIZES, EQUAL)}:
        curves = notes.get("curves", {})
        return rises(curves, with_images(EQUAL), with_images(EQUAL) + TWICE)
    if rival in {with_labels(n) for n in LABELS}:
        curves = notes.get("curves-of-heads", {})
        most = max((n for n in LABELS if trained(with_labels(n), 1) in curves), default=LABELS[-1])
        return rises(curves, with_labels(most), with_labels(most) + TWICE)
    if rival in BESIDE:
        curves = choices.get(UNSHIFTED, {}).get("curves-beside-the-dit", {})
        return rises(curves, shorter(rival, longest_of(curves, rival)), rival)
    return False


def longest_of(curves: Mapping[str, Sequence[float]], network: str) -> int:
    """Return the steps of the longest of a network's shorter trainings beside the DiT; 0 without any."""
    steps = [steps_of(arm_and_training(arm)[0]) for arm in curves if kind_of(arm) == network]
    return max((n for n in steps if n), default=0)


def rises(curves: Mapping[str, Sequence[float]], arm: str, longer: str) -> bool:
    """Return whether an arm that is trained longer is more than `FLAT` better on held-out images, each at its best."""
    once, twice = (curves.get(trained(name, 1)) for name in (arm, longer))
    return bool(once and twice) and max(twice) - max(once) > FLAT


def effective(outcomes: Outcomes, sets: Sequence[str]) -> tuple[float, float, float, int] | None:
    """Return how much further than networks the DiT lies above their line, as (value, low, high, images).

    The line is that of all trainings of the networks, long and short, whose accuracy without a shift is no higher than
    `CEILING`. None where arms are not there, where such trainings are not of three kinds of network, or where the DiT
    itself is correct on more than `REACH` without a shift.

    Args:
        outcomes: as `over_trainings` returns them. sets: the distance is the mean over these.
    """
    needed = (UNSHIFTED, *sets)
    beside = {arm: by for arm, by in outcomes.items() if kind_of(arm) in BESIDE and all(name in by for name in needed)}
    beside = {arm: by for arm, by in beside.items() if len({len(by[name]) for name in needed}) == 1}  # as far as known
    kinds = np.repeat([kind_of(arm) for arm in beside], [len(by[UNSHIFTED]) for by in beside.values()])
    if not beside or not all(name in outcomes.get(DIT, {}) for name in needed):
        return None
    rows = {name: np.concatenate([by[name] for by in beside.values()]) for name in needed}
    below = rows[UNSHIFTED].mean(1) <= CEILING
    if len(set(kinds[below])) < 3 or outcomes[DIT][UNSHIFTED].mean() > REACH:
        return None
    ours = {name: outcomes[DIT][name][0] for name in needed}
    value, low, high = robustness.above_line(
        robustness.Accuracies(rows[UNSHIFTED][below], [rows[name][below] for name in sets], kinds[below]),
        ours[UNSHIFTED],
        [ours[name] for name in sets],
    )
    return value, low, high, len(ours[sets[0]])


def _alone(outcomes: Outcomes) -> Differences:
    differences: Differences = {}
    for claim, (middle, other, name) in ALONE.items():
        by_t = {arms.timestep_of(arm): by_set[name] for arm, by_set in outcomes.items() if name in by_set}
        by_t.pop(None, None)
        t = sorted(by_t)
        if len(t) > 1:
            means = [
                np.mean([by_t[t[columns[0]]] for columns in near(t, share * 1000)], axis=0)
                for share in (middle, other)
            ]
            differences[claim] = {name: means[0] - means[1]}
    return differences


def _binding(outcomes: Outcomes) -> Differences:
    """Both halves of an example must be solved; examples go through the swaps in turn, as `pairs` has them."""
    both = {}
    for arm in (TEXT, CLIP_TEXT, IMAGE, RAW):
        if "pairs" in outcomes.get(arm, {}):
            halves = outcomes[arm]["pairs"]
            both[arm] = halves[:, 0::2] * halves[:, 1::2]  # (seeds, examples)
    differences: Differences = {}
    if TEXT in both and CLIP_TEXT in both:
        gain = both[TEXT] - both[CLIP_TEXT]
        turn = np.arange(gain.shape[1]) % len(winoground.SWAPS)
        for claim, swap in BINDING.items():
            own = slice(None) if swap == "all" else turn == winoground.SWAPS.index(swap)
            differences[claim] = {"pairs": gain[:, own]}
    if IMAGE in both and RAW in both:
        differences["DC-H5-image"] = {"pairs": both[IMAGE] - both[RAW]}
    return differences


def _stories(outcomes: Outcomes) -> Differences:
    """The paper finds effective robustness under one shift of three: of the others the claim denies it."""
    differences: Differences = {}
    for claim, sets in STORIES.items():
        if (gain := effective(outcomes, sets)) is not None:
            value, low, high, n = gain
            title = sets[0] if len(sets) == 1 else "shifts of the camera"
            differences[claim] = {title: gain if claim == "DC-H7-hard" else (-value, -high, -low, n)}
    return differences


def _shared(outcomes: Outcomes) -> Differences:
    """log10 of the ratio of variances u / v, less log10 `SAVED`: of the share v / (v + u) on record, 1 / share − 1."""
    left = outcomes.get(arms.VARIANCE, {})
    gain = {name: np.log10(1 / np.clip(share, 1e-6, 1 - 1e-6) - 1) - np.log10(SAVED) for name, share in left.items()}
    return {"DC-H8-samples": gain}


def _costs(outcomes: Outcomes) -> Differences:
    test, stages = (outcomes.get(arm, {}) for arm in (arms.TEST_COST, arms.STAGES_COST))
    names = [name for name in _in(FEW, DEPTH) if name in test and name in stages]
    of_staged = COSTS["DC-H16-sequential-staged-cost"]
    return {
        "DC-H16-sequential-cost": {name: test[name] - COSTS["DC-H16-sequential-cost"] for name in names},
        "DC-H16-sequential-staged-cost": {
            name: test[name] / np.maximum(stages[name], 1e-6) - of_staged for name in names
        },
    }
