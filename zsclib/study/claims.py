"""Claims written before the run, and verdicts computed per set from paired intervals after it.

A claim is an entry of `data/claims/<paper>.yml`:

    - id: DC-H3-objects           # unique over all files
      paper: diffusion_classifier
      statement: Diffusion Classifier beats CLIP with the same single prompt.
      contrast: accuracy(diffusion classifier) - accuracy(CLIP), objects
      direction: greater          # greater | less | equal | not_less
      margin: 0.01                # differences up to this size do not matter
      published:                  # may be empty; `set` is optional: which of our sets plays its role
        - {what: Food101, value: -3.4, source: "Table 1, rows 3 and 4", set: objects-fine}
      family: DC-H3               # optional; default: the first two parts of the id
      discordance: 0.2            # optional: share of images on which one arm alone is correct, assumed before the run
      half_width: 0.08            # optional, of a contrast with an interval of its own: how wide, in a simulated design
      unit: points                # optional; points (default): a difference of accuracies, published in percentage
                                  # points; number: anything else, published in the contrast's own unit
      not_testable: reason        # only where this study cannot test it
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import ArrayLike

from zsclib.paths import ROOT
from zsclib.study.stats import Estimate, expected_half_width, mean_correlation

DIRECTIONS = ("greater", "less", "equal", "not_less")
UNITS = ("points", "number")
_REQUIRED = ("id", "paper", "statement", "contrast", "direction", "margin", "published")
_OPTIONAL = ("family", "discordance", "half_width", "unit", "not_testable")


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One claim of a paper; the fields are those of the file."""

    id: str
    paper: str
    statement: str
    contrast: str
    direction: str
    margin: float
    published: tuple[Mapping[str, object], ...] = ()
    family: str = ""
    discordance: float = 0.2
    half_width: float | None = None
    unit: str = "points"
    not_testable: str | None = None

    def __post_init__(self) -> None:
        if not self.family:
            object.__setattr__(self, "family", "-".join(self.id.split("-")[:2]))


def load_claims(folder: Path | str = ROOT / "data" / "claims") -> dict[str, Claim]:
    """Return all claims of the folder's `*.yml` files by id, in the order written.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: a malformed entry; the message names file, entry and field.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"load_claims: no folder {folder}")
    claims: dict[str, Claim] = {}
    for path in sorted(folder.glob("*.yml")):
        entries = yaml.safe_load(path.read_text(encoding="utf-8")) or []
        if not isinstance(entries, list):
            raise ValueError(f"{path.name}: expected a list of claims, got a {type(entries).__name__}")
        for number, entry in enumerate(entries, start=1):
            claim = _claim(entry, f"{path.name}, entry {number}")
            if claim.id in claims:
                raise ValueError(f"{path.name}, entry {number}: the id {claim.id!r} is taken; ids are unique")
            claims[claim.id] = claim
    return claims


STEP = 2 / 35  # between the rank correlations that six arms can have; of other numbers of ranks a rough one


def to_judge(
    claims: Iterable[Claim], differences: Mapping[str, Mapping[str, np.ndarray | tuple]]
) -> tuple[list[Claim], dict[str, dict[str, np.ndarray | Estimate]]]:
    """Return claims and differences as `zsclib.study.verdicts.judge` takes them.

    Claims without differences are left out, unless they are marked not testable, and so are differences that no claim
    names. A rank correlation (unit `number`) of a single seed has no spread to judge by: it may be any, −1 to 1.

    Args:
        claims: of a paper.
        differences: claim → set → (seeds, images), or (seeds,) of a rank correlation, or (value, low, high, n, …) of
            one that has its interval.

    Raises:
        ValueError: numbers beyond ±1 in the place of rank correlations.
    """
    claims = [claim for claim in claims if claim.id in differences or claim.not_testable]
    judged: dict[str, dict[str, np.ndarray | Estimate]] = {
        claim.id: dict(differences[claim.id]) for claim in claims if claim.id in differences
    }
    for claim in claims:
        for target, ρ in judged.get(claim.id, {}).items():
            if isinstance(ρ, tuple):
                judged[claim.id][target] = Estimate(*ρ[:4])
            elif claim.unit == "number" and np.shape(ρ) == (1,):
                judged[claim.id][target] = Estimate(float(ρ[0]), -1.0, 1.0, 1)
            elif claim.unit == "number" and np.ndim(ρ) == 1:
                if np.abs(ρ).max() > 1:
                    raise ValueError(
                        f"to_judge: claim {claim.id}, set {target}: rank correlations (seeds,) lie from -1 to 1; "
                        "differences over images have a row for each seed, (seeds, images)"
                    )
                judged[claim.id][target] = mean_correlation(ρ, STEP)
    return claims, judged


def published_effect(claim: Claim, sets: Sequence[str] = ()) -> float | None:
    """Return the published effect in the contrast's unit (a share for points): None where there is no number for it.

    Args:
        claim: where published numbers name the sets whose role they play, each of `sets` takes the mean of its own, and
            these are averaged; where none does, the mean of all published numbers.
        sets: the sets judged; without any, the mean of all published numbers.
    """
    scale = 0.01 if claim.unit == "points" else 1.0
    if sets and any("set" in item for item in claim.published):
        own = [[float(p["value"]) for p in claim.published if p.get("set") == name] for name in sets]
        values = [float(np.mean(numbers)) for numbers in own if numbers]
    else:
        values = [float(p["value"]) for p in claim.published]
    return scale * float(np.mean(values)) if values else None


def needed_half_width(claim: Claim, sets: Sequence[str] = ()) -> float:
    """Return the widest half-width with which an interval can decide the claim.

    It is the larger of the margin and half the distance of the published effect from the bound.

    The bound is what the interval is held against: 0, or −margin for `not_less`. A half-width of the margin is the
    least that can show equivalence (Schuirmann 1987). One of half the published effect still clears the bound in 97.5 %
    of studies if the effect is as published, and the half is also where an effect stops being alike (`Size`); planning
    by width rather than power is that of Maxwell, Kelley & Rausch (2008). For `equal`, the margin alone.
    """
    published = published_effect(claim, sets)
    if published is None or claim.direction == "equal":
        return claim.margin
    bound = -claim.margin if claim.direction == "not_less" else 0.0
    return max(claim.margin, abs(published - bound) / 2)


def too_small(claim: Claim, n: int, seeds: int = 1, sets: int | Sequence[str] = 1) -> bool:
    """Return whether a design cannot be expected to decide the claim; nothing measured goes in.

    It cannot if the half-width expected of its interval, `expected_width`, exceeds `needed_half_width`.

    Args:
        claim: a claim about differences of accuracies; one of unit `number` has no expected width: never too small.
        n: images per set. seeds: per arm.
        sets: their number, or their names, which then choose the published numbers.
    """
    if claim.unit != "points":
        return False
    names = () if isinstance(sets, int) else tuple(sets)
    number = sets if isinstance(sets, int) else len(names)
    return expected_width(claim, n, seeds, number) > needed_half_width(claim, names)


def expected_width(claim: Claim, n: int, seeds: int = 1, sets: int = 1) -> float:
    """Return how far the interval of a claim's mean is expected to reach to either side, before any run: what the claim
    states, or else `stats.expected_half_width` of n images per set, with the discordance that it assumes."""
    return claim.half_width or expected_half_width(n, seeds, sets, discordance=claim.discordance)


def images_and_seeds(of_sets: Iterable[ArrayLike]) -> tuple[int, int]:
    """Return the fewest images, and the fewest seeds, of paired differences on sets, (images,) or (seeds, images)."""
    seeds, images = np.min([np.atleast_2d(values).shape for values in of_sets], axis=0)
    return int(images), int(seeds)


def _claim(entry: object, where: str) -> Claim:
    if not isinstance(entry, dict):
        raise ValueError(f"{where}: expected a mapping with {', '.join(_REQUIRED)}, got {entry!r}")
    where = f"{where} ({entry.get('id', 'no id')})"
    if missing := [field for field in _REQUIRED if field not in entry]:
        raise ValueError(f"{where}: missing {', '.join(missing)}")
    if unknown := [field for field in entry if field not in (*_REQUIRED, *_OPTIONAL)]:
        raise ValueError(f"{where}: unknown field {', '.join(map(str, unknown))}")
    for field in ("id", "paper", "statement", "contrast", "family", "not_testable"):
        if field in entry and not (isinstance(entry[field], str) and entry[field].strip()):
            raise ValueError(f"{where}: {field} must be a non-empty text, got {entry[field]!r}")
    for field, allowed in (("direction", DIRECTIONS), ("unit", UNITS)):
        if entry.get(field, allowed[0]) not in allowed:
            raise ValueError(f"{where}: {field} must be one of {', '.join(allowed)}, got {entry[field]!r}")
    margin = entry["margin"]
    if not _is_number(margin) or margin < 0:
        raise ValueError(f"{where}: margin must be a number ≥ 0, got {margin!r}")
    discordance = entry.get("discordance", 0.2)
    if not _is_number(discordance) or not 0 < discordance <= 1:
        raise ValueError(f"{where}: discordance must be a share above 0 and up to 1, got {discordance!r}")
    half_width = entry.get("half_width", 1)
    if not _is_number(half_width) or half_width <= 0:
        raise ValueError(f"{where}: half_width must be a number above 0, got {half_width!r}")
    if entry["direction"] == "equal" and margin == 0:
        raise ValueError(f"{where}: 'equal' needs a margin > 0: no interval shows exact equality")
    published = entry["published"] or []
    if not isinstance(published, list):
        raise ValueError(f"{where}: published must be a list of {{what, value, source}}, got {published!r}")
    for item in published:
        if not isinstance(item, dict) or set(item) - {"set"} != {"what", "value", "source"}:
            raise ValueError(
                f"{where}: published: a number needs exactly what, value and source (and may name a set), got {item!r}"
            )
        if not _is_number(item["value"]):
            raise ValueError(f"{where}: published: value must be a number, got {item['value']!r} in {item!r}")
        if wrong := [f for f in item if f != "value" and not (isinstance(item[f], str) and item[f].strip())]:
            raise ValueError(f"{where}: published: {wrong[0]} must be a non-empty text, got {item!r}")
    return Claim(**entry | {"margin": float(margin), "published": tuple(published)})


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


