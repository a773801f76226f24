"""The points of the diagram: what a plan says, and what its seed draws before anything is measured.

    points = draw(folder)                                   # the held-out ones among them; written to points.csv
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import numpy as np
import yaml
from scipy.stats import qmc

from zsclib.checks import is_integer
from zsclib.paths import ROOT, atomic
from zsclib.seeds import rng

FOLDER = Path("data/records/retrieval_diagram")  # in the clone
LOG, LINEAR, CHOICE = "log", "linear", "choice"
DIALS = {  # how a number from 0 to 1 turns each dial
    "size": LOG, "frequency": LOG, "captions": CHOICE, "noise": LINEAR, "shift": LINEAR, "shots": CHOICE,
    "target": CHOICE,
}  # fmt: skip
FIT, HELD_OUT, OTHER = "fit", "held out", "other generator"  # what a point is there for


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What `plan.yml` says.

    Attributes:
        models: folders of the generator and of the CLIP that retrieves.
        points: how many are drawn. held_out: how many of them no rule is fitted on.
        seed: of the design. repeats: of each point, with D, extra images, weights and batches anew.
        dials: dial → its two ends, or the values to choose from (`DIALS`). A target's shift is how far it is from what
            the pool shows, 0 to 1 (`zsclib.world.targets.target`); noise counts where captions are searched.
        generators: folder of a further generator → how many of the points are measured with it, too.
        settings: fields of `Setting`; `network_steps`: of each training.
    """

    models: list[str]
    points: int
    held_out: int
    seed: int
    repeats: int
    dials: Mapping[str, list]
    generators: Mapping[str, int] = field(default_factory=dict)
    settings: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Point:
    """One comparison: `number` names it, `like` is the drawn point whose dials, images and seeds it has."""

    number: int
    like: int
    role: str
    generator: str
    target: str
    shots: int
    size: float
    frequency: float
    captions: float
    noise: float


def read_plan(folder: Path | str = ROOT / FOLDER) -> Plan:
    """Read `plan.yml`.

    Raises:
        ValueError: a field is unknown, missing or makes no sense.
    """
    path = Path(folder) / "plan.yml"
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    known = {part.name for part in fields(Plan)}
    lacking = known - {"generators", "settings"} - set(content)
    if wrong := sorted(set(content) - known | lacking):
        raise ValueError(f"{path}: unknown or missing: {', '.join(wrong)}; it takes {', '.join(sorted(known))}")
    plan = Plan(**content)
    if set(plan.dials) != set(DIALS):
        raise ValueError(f"{path}: dials are {', '.join(DIALS)}; got {', '.join(plan.dials)}")
    for name, kind in DIALS.items():
        if not plan.dials[name] or (kind != CHOICE and len(plan.dials[name]) != 2):
            what = "values to choose from" if kind == CHOICE else "two ends"
            raise ValueError(f"{path}: the dial {name} takes {what}, got {plan.dials[name]!r}")
    if not (is_integer(plan.points, 2) and is_integer(plan.held_out, 1) and plan.held_out < plan.points):
        raise ValueError(f"{path}: of {plan.points} points {plan.held_out} cannot be held out")
    return plan


def design(plan: Plan) -> list[Point]:
    """Draw the points: a Latin hypercube of low discrepancy over the dials, all by the seed.

    Held out are some of every kind: of the points, in order of target, of captions and of shots, one in each part.
    """
    cube = qmc.LatinHypercube(len(DIALS), optimization="random-cd", seed=rng(plan.seed, "points of the diagram"))
    rows = [dict(zip(DIALS, row, strict=True)) for row in cube.random(plan.points)]
    turned = [{name: _turned(DIALS[name], plan.dials[name], u) for name, u in row.items()} for row in rows]
    alike = sorted(range(plan.points), key=lambda i: [turned[i][name] for name in ("target", "captions", "shots")])
    random = rng(plan.seed, "held-out points")
    held_out = {int(random.choice(part)) for part in np.array_split(alike, plan.held_out)}
    points = []
    for number, at in enumerate(turned):
        at["target"] = f"{at['target']}:{at.pop('shift'):.2f}"
        at["noise"] = at["noise"] if at["captions"] else 0.0  # nobody reads the captions otherwise
        role = HELD_OUT if number in held_out else FIT
        points.append(Point(number=number, like=number, role=role, generator=plan.models[0], **at))
    again = rng(plan.seed, "points of other generators").permutation(plan.points).tolist()
    for folder, n in plan.generators.items():
        for like in sorted(again[:n]):
            points.append(replace(points[like], number=len(points), role=OTHER, generator=folder))
    return points


def _turned(kind: str, values: list, u: float) -> object:
    if kind == CHOICE:
        return values[min(int(u * len(values)), len(values) - 1)]
    low, high = values
    value = low * (high / low) ** u if kind == LOG else low + (high - low) * u
    return float(f"{value:.3g}")


def draw(folder: Path | str = ROOT / FOLDER) -> list[Point]:
    """Return the points of a plan, written to `points.csv` where that is not there yet.

    Raises:
        ValueError: the plan has been changed since its points were drawn.
    """
    path, points = Path(folder) / "points.csv", design(read_plan(folder))
    text = io.StringIO()
    writer = csv.DictWriter(text, [part.name for part in fields(Point)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(point) for point in points)
    if not path.is_file():
        with atomic(path) as temporary:
            temporary.write_text(text.getvalue(), encoding="utf-8")
    elif path.read_text(encoding="utf-8") != text.getvalue():
        raise ValueError(
            f"{path}: these points were drawn for another plan; restore it, or remove them, and all that was measured, "
            "to draw anew"
        )
    return points


