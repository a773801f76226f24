"""Claims written before the run, and verdicts computed from intervals after it.

A claim is an entry of `data/claims/<paper>.yml`:

    - id: H3                      # unique over all files
      paper: diffusion_classifier
      statement: Diffusion Classifier beats CLIP with the same single prompt.
      contrast: accuracy(diffusion classifier) - accuracy(CLIP), objects
      direction: greater          # greater | less | equal | not_less
      margin: 0.01                # differences up to this size do not matter
      published:                  # may be empty
        - {what: Food101, value: -3.4, source: "Table 1, rows 3 and 4"}
      not_testable: reason        # only where this study cannot test it
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import yaml

from zsclib.paths import ROOT
from zsclib.study.stats import Estimate, smallest_detectable

DIRECTIONS = ("greater", "less", "equal", "not_less")
VERDICTS = ("reproduced", "contradicted", "inconclusive", "equivalent", "not testable here")
_REQUIRED = ("id", "paper", "statement", "contrast", "direction", "margin", "published")


@dataclass(frozen=True)
class Claim:
    """One claim of a paper; the fields are those of the file."""

    id: str
    paper: str
    statement: str
    contrast: str
    direction: str
    margin: float
    published: tuple[Mapping[str, object], ...] = ()
    not_testable: str | None = None


class Verdict(NamedTuple):
    """An outcome (one of `VERDICTS`); an inconclusive one says what could have been detected."""

    outcome: str
    detectable: float | None = None

    def __str__(self) -> str:
        if self.detectable is None:
            return self.outcome
        return f"{self.outcome} (a difference of {self.detectable:.2g} would have been detected)"


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


def verdict(claim: Claim, estimate: Estimate | None) -> Verdict:
    """Judge a claim by the interval [low, high] of its contrast, with m the claim's margin.

    - *not testable here*: the claim says so (`not_testable`); no estimate is wanted.
    - `greater` (the contrast is above zero): *equivalent* if the interval lies within [−m, m], whatever its
      sign: too small to matter. Else *reproduced* if low > 0, *contradicted* if high < 0, otherwise
      *inconclusive*.
    - `less`: the same with the signs turned.
    - `equal`: *reproduced* if the interval lies within [−m, m], *contradicted* if it lies wholly outside
      (low > m or high < −m), otherwise *inconclusive*.
    - `not_less` (not worse by more than m): *reproduced* if low > −m, *contradicted* if high < −m, otherwise
      *inconclusive*.

    An interval of width zero carries no spread to judge by: *inconclusive*. An inconclusive verdict states
    the smallest difference that such an interval would have detected (95 % level, 80 % power).

    Args:
        claim: the claim.
        estimate: its contrast, a 95 % interval of paired differences; None exactly where not testable.

    Raises:
        ValueError: an estimate is missing, given although not testable, or its interval is not one.
    """
    if (estimate is None) != (claim.not_testable is not None):
        is_not = (
            "is marked not testable, yet an estimate is given" if estimate else "needs an estimate, got None"
        )
        raise ValueError(f"verdict: claim {claim.id} {is_not}")
    if estimate is None:
        return Verdict("not testable here")
    low, high, m = estimate.low, estimate.high, claim.margin
    if not low <= high:  # also catches NaN
        raise ValueError(f"verdict: claim {claim.id}: [{low}, {high}] is not an interval")
    if claim.direction == "less":
        low, high = -high, -low
    within = -m <= low and high <= m
    outcome = "inconclusive"
    if low == high:
        pass
    elif claim.direction == "equal":
        outcome = "reproduced" if within else "contradicted" if low > m or high < -m else outcome
    elif claim.direction == "not_less":
        outcome = _by_sign(low + m, high + m)
    else:
        outcome = "equivalent" if within else _by_sign(low, high)
    detectable = smallest_detectable(estimate) if outcome == "inconclusive" and low < high else None
    return Verdict(outcome, detectable)


def _by_sign(low: float, high: float) -> str:
    return "reproduced" if low > 0 else "contradicted" if high < 0 else "inconclusive"


def claims_table(
    claims: Iterable[Claim], estimates: Mapping[str, Estimate | Mapping[str, float]], percent: bool = True
) -> pd.DataFrame:
    """Return one row per claim for a page: id, claim, published, measured here, verdict.

    Args:
        claims: the claims to show, in this order.
        estimates: id → its contrast (an `Estimate`, or its four numbers as a record holds them). A claim
            without one is shown as *not run yet*, unless it is not testable.
        percent: show differences in percentage points.

    Raises:
        ValueError: an estimate for an id that no claim has.
    """
    claims = list(claims)
    if unknown := set(estimates) - {claim.id for claim in claims}:
        raise ValueError(f"claims_table: estimates for unknown claims: {', '.join(sorted(unknown))}")
    rows = []
    for claim in claims:
        estimate = estimates.get(claim.id)
        if isinstance(estimate, Mapping):
            estimate = Estimate(**estimate)
        judged = estimate is not None or claim.not_testable is not None
        rows.append(
            {
                "id": claim.id,
                "claim": claim.statement,
                "published": "; ".join(f"{p['what']}: {p['value']}" for p in claim.published) or "–",
                "here": _difference(estimate, percent) if estimate else "–",
                "verdict": _shown(verdict(claim, estimate), percent) if judged else "not run yet",
            }
        )
    return pd.DataFrame(rows, columns=["id", "claim", "published", "here", "verdict"])


def _claim(entry: object, where: str) -> Claim:
    if not isinstance(entry, dict):
        raise ValueError(f"{where}: expected a mapping with {', '.join(_REQUIRED)}, got {entry!r}")
    where = f"{where} ({entry.get('id', 'no id')})"
    if missing := [field for field in _REQUIRED if field not in entry]:
        raise ValueError(f"{where}: missing {', '.join(missing)}")
    if unknown := [field for field in entry if field not in (*_REQUIRED, "not_testable")]:
        raise ValueError(f"{where}: unknown field {', '.join(map(str, unknown))}")
    for field in ("id", "paper", "statement", "contrast", "not_testable"):
        if field in entry and not (isinstance(entry[field], str) and entry[field].strip()):
            raise ValueError(f"{where}: {field} must be a non-empty text, got {entry[field]!r}")
    if entry["direction"] not in DIRECTIONS:
        raise ValueError(
            f"{where}: direction must be one of {', '.join(DIRECTIONS)}, got {entry['direction']!r}"
        )
    margin = entry["margin"]
    if isinstance(margin, bool) or not isinstance(margin, int | float) or not 0 <= margin < float("inf"):
        raise ValueError(f"{where}: margin must be a number ≥ 0, got {margin!r}")
    if entry["direction"] == "equal" and margin == 0:
        raise ValueError(f"{where}: 'equal' needs a margin > 0: no interval shows exact equality")
    published = entry["published"] or []
    if not isinstance(published, list):
        raise ValueError(f"{where}: published must be a list of {{what, value, source}}, got {published!r}")
    for item in published:
        if not isinstance(item, dict) or set(item) != {"what", "value", "source"} or None in item.values():
            raise ValueError(
                f"{where}: a published number needs exactly what, value and source, got {item!r}"
            )
    return Claim(**entry | {"margin": float(margin), "published": tuple(published)})


def _difference(estimate: Estimate, percent: bool) -> str:
    scale, digits = (100, 1) if percent else (1, 3)
    value, low, high = (f"{scale * x:+.{digits}f}".replace("-", "−") for x in estimate[:3])
    return f"{value} ({low} to {high}), n = {estimate.n:,}"


def _shown(judged: Verdict, percent: bool) -> str:
    if judged.detectable is None:
        return judged.outcome
    size = f"{100 * judged.detectable:.1f} points" if percent else f"{judged.detectable:.2g}"
    return f"{judged.outcome} (detectable: {size})"
