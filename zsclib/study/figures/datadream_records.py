"""Tables of what the study of DataDream has on record beside its outcomes: choices, sets of images and adapters.

    choices = recorded_choices("datadream")                 # target -> what was noted
    choices_table(choices)                                  # learning rates, steps, and accuracies on validation images
    sets_table(choices)                                     # what each arm delivered and took
    losses_table(choices)                                   # what adapting did to the loss on validation images

Each is a table without rows where nothing is on record yet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from IPython.display import HTML

from zsclib.papers.datadream.classifiers import Cell
from zsclib.papers.datadream.experiments import name_of
from zsclib.papers.datadream.outcomes import by_seed
from zsclib.study.tables import table

Choices = Mapping[str, Mapping[str, Mapping]]  # target -> "choices", "sets-0", "classifiers-0" … -> what was noted


def choices_table(choices: Choices, shots: int = 16, n: int = 64) -> HTML:
    """Return what validation images chose: a row per arm and way, a column per target.

    A cell has the learning rate and the step, and behind them accuracies on validation images in percent: in brackets
    those of the first seed at the last check by learning rate, from which the choice departs only where another is
    clearly higher; then those of the chosen pair at K = `shots` and N = `n`, seed by seed. A star says that at this
    learning rate the loss was not finite, and a lower one was taken.
    """
    rows: dict[tuple, dict[str, str]] = {}
    for target, notes in choices.items():
        for name, chosen in notes.get("choices", {}).items():
            of = tuple(name.removeprefix(f"{target}; ").split("; "))
            rows.setdefault(of, {})[target] = _choice(notes, of, chosen, shots, n)
    shown = [[f"{arm}, {way}", classifier, *map(own.get, choices)] for (arm, way, classifier), own in rows.items()]
    return table(shown, ["arm", "classifier", *choices])


def checks_table(choices: Choices) -> HTML:
    """Return how accuracy on validation images rose while classifiers learnt: a row per arm and way.

    A cell has the accuracies of the middle learning rate, first seed, at every check, from CLIP before any step on.
    """
    rows: dict[str, dict[str, str]] = {}
    for target, notes in choices.items():
        for name, chosen in notes.get("choices", {}).items():
            arm, way, classifier = name.removeprefix(f"{target}; ").split("; ")
            middle = chosen["trials"][len(chosen["trials"]) // 2]
            shown = ", ".join(f"{100 * each:.0f}" for each in middle["accuracies"])
            rows.setdefault(f"{arm}, {way}, {classifier}", {})[target] = shown
    return table(
        [[name, *map(own.get, choices)] for name, own in rows.items()], ["arm and classifier", *choices]
    )


def sets_table(choices: Choices, gains: Mapping[str, Sequence[str | None]] | None = None) -> HTML:
    """Return what arms delivered and took: a row per arm and K, then images of a class at their fewest, by target.

    Costs are means over targets and seeds, of tuning for one class; of DISEF also how many attempts an image took, and
    the share that CLIP takes for another class all the same. Behind a stroke stands to how many of a class compared
    arms were cut, where fewer.

    Args:
        gains: "arm; K shots" → what it gained, alone and with the shots, beside what it took.
    """
    made = {target: by_seed(notes, "sets") for target, notes in choices.items()}
    rows = []
    for arm in dict.fromkeys(arm for seeds in made.values() for sets in seeds for arm in sets):
        own = [sets[arm] for seeds in made.values() for sets in seeds if arm in sets]
        images = max(1, sum(sum(each["delivered"]) for each in own))
        attempts, unfiltered = (
            sum(sum(each[what]) for each in own) / images if what in own[0] else None
            for what in ("attempts", "unfiltered")
        )
        rows.append([
            arm,
            sum(each["evaluations"] for each in own) / images,
            float(np.mean([each["tuning_samples"] / len(each["delivered"]) for each in own])),
            1000 * sum(each["seconds"] for each in own) / images,
            attempts,
            None if unfiltered is None else f"{100 * unfiltered:.0f} %",
            *(() if gains is None else gains.get(arm, (None, None))),
            *(_fewest(seeds, arm) for seeds in made.values()),
        ])  # fmt: skip
    heads = [
        "network evaluations an image",
        "samples tuned on, of a class",
        "milliseconds an image",
        "attempts",
    ]
    heads += ["unfiltered", *(() if gains is None else ("gain alone", "gain with the shots"))]
    return table(rows, ["arm", *heads, *choices])


def losses_table(choices: Choices) -> HTML:
    """Return by how much adapting changed the denoising loss on validation images, in percent: a row per arm and K.

    A cell has the mean over adapters (classes and seeds), in brackets the lowest and the highest, and how many rose.
    """
    made = {target: by_seed(notes, "sets") for target, notes in choices.items()}
    arms = dict.fromkeys(
        arm for seeds in made.values() for sets in seeds for arm, one in sets.items() if "loss after" in one
    )
    rows = [[arm, *(_change([sets[arm] for sets in seeds if arm in sets]) for seeds in made.values())] for arm in arms]
    return table(rows, ["arm", *choices])


def _choice(notes: Mapping[str, Mapping], of: tuple, chosen: Mapping, shots: int, n: int) -> str:
    arm, way, classifier = of
    last = ", ".join(f"{100 * trial['accuracies'][-1]:.0f}" for trial in chosen["trials"])
    text = f"{chosen['learning_rate']:.2g}, step {chosen['step']} ({last})"
    cell = Cell("", arm, shots=shots, with_shots=way != "alone", classifier=classifier)
    names = [name_of(replace(cell, n=images)) for images in (n, 0)]  # the shots alone have none
    noted = [trained[name] for trained in by_seed(notes, "classifiers") for name in names if name in trained]
    stars = ["*" if one["learning_rate"] < chosen["learning_rate"] else "" for one in noted]
    accuracies = ", ".join(f"{100 * one['held_out']:.0f}{star}" for one, star in zip(noted, stars, strict=True))
    return f"{text}: {accuracies}" if accuracies else text


def _fewest(seeds: list[Mapping], arm: str) -> str | None:
    own = [sets[arm] for sets in seeds if arm in sets]
    if not own:
        return None
    delivered, compared = (min(min(each[what]) for each in own) for what in ("delivered", "compared"))
    return f"{delivered}" if compared == delivered else f"{delivered} / {compared}"


def _change(own: list[Mapping]) -> str | None:
    if not own:
        return None
    # one adapter of all classes stands there for each class
    losses = [pair for each in own for pair in dict.fromkeys(zip(each["loss before"], each["loss after"], strict=True))]
    change = np.array([100 * (after / before - 1) for before, after in losses])
    numbers = (change.mean(), change.min(), change.max())
    mean, low, high = (f"{value:+.1f}".replace("-", "\N{MINUS SIGN}") for value in numbers)
    return f"{mean} ({low} to {high}), {int((change > 0).sum())} of {len(change)} rose"
