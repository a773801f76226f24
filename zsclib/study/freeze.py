"""The freeze of a chapter's study: what will be measured and judged, fixed before its first outcome is there.

`data/records/study/<chapter>/plan.yml` is written by hand; a chapter is a paper ("retrieval"), or a paper on other sets
("retrieval-photographs"):

    models: [data/models/pocket-sd]  # folders
    claims: [DC-H8]                  # ids of data/claims/
    sets: {digits: 40}               # set → test images
    images_seed: 1                   # of these images; pages show those of seed 0 until the freeze
    seeds: [0]                       # of noise, generated images, trainings
    settings: {K: 8, few: 4}         # all else that `zsclib.papers.<paper>.outcomes` takes

`write_freeze` adds commit, date and the hashes of models and claims, and writes `freeze.yml` beside it.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import yaml

from zsclib.checks import did_you_mean, is_integer
from zsclib.hashing import digest, hash_file, hash_json
from zsclib.paths import ROOT, atomic
from zsclib.study.claims import Claim, load_claims

RECORDS = Path("data/records/study")
PREVIEW_SEED = 0  # of the test images that pages show before their study's freeze
_PLAN = {"models": list, "claims": list, "sets": dict, "images_seed": int, "seeds": list, "settings": dict}


@dataclass(frozen=True, kw_only=True)
class Freeze:
    """What a study is: the fields of its plan, with the hashes that make its outcomes those of these models and claims.

    Attributes:
        chapter: see `paper_of`. commit: of the clone it was frozen in. date: YYYY-MM-DD.
        models: folder → fingerprint. claims: id → {"hash": of its wording, "margin": in the claim's units}.
        sets: name → number of test images. images_seed: which ones. seeds: of the runs, one repetition each.
        settings: what else the chapter's `outcomes` takes.
    """

    chapter: str
    commit: str
    date: str
    models: Mapping[str, str]
    claims: Mapping[str, Mapping[str, object]]
    sets: Mapping[str, int]
    images_seed: int
    seeds: tuple[int, ...]
    settings: Mapping[str, object]

    @property
    def id(self) -> str:
        """A hash of all that its outcomes depend on, 16 hex digits."""
        parts = {name: value for name, value in asdict(self).items() if name not in ("commit", "date")}
        return hash_json(parts)[:16]

    def plan(self, root: Path = ROOT) -> dict[str, object]:
        """Return the plan in it, as plain values for a paper's package: models are folders, claims are ids."""
        return {
            "models": [str(root / name) for name in self.models],
            "claims": list(self.claims),
            "sets": dict(self.sets),
            "images_seed": self.images_seed,
            "seeds": list(self.seeds),
            "settings": dict(self.settings),
        }


def chapters(root: Path = ROOT) -> list[str]:
    """Return the chapters that have a plan, sorted."""
    return sorted(path.parent.name for path in (root / RECORDS).glob("*/plan.yml"))


def paper_of(chapter: str) -> str:
    """Return the package of `zsclib.papers` that a chapter's study is about: of "retrieval-photographs", retrieval."""
    return chapter.partition("-")[0]


def read_plan(chapter: str, root: Path = ROOT) -> dict[str, object]:
    """Return a chapter's `plan.yml`.

    Raises:
        FileNotFoundError: there is none; the message lists the chapters that have one.
        ValueError: an unknown, missing or malformed field; the message names file and field.
    """
    place = f"{RECORDS.as_posix()}/{chapter}/plan.yml"
    if chapter not in (known := chapters(root)):
        hint = did_you_mean(chapter, known)
        raise FileNotFoundError(
            f"no study {chapter!r}{hint}: no {place}; there are: {', '.join(known) or 'none'}"
        )
    content = yaml.safe_load((root / place).read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"{place}: expected the fields {', '.join(_PLAN)}, got {content!r}")
    if wrong := [field for field in _PLAN if field not in content]:
        raise ValueError(f"{place}: missing {', '.join(wrong)}")
    if wrong := [str(field) for field in content if field not in _PLAN]:
        raise ValueError(f"{place}: unknown field {', '.join(wrong)}; it takes {', '.join(_PLAN)}")
    for field, kind in _PLAN.items():
        value = content[field]
        if (
            not isinstance(value, kind)
            or isinstance(value, bool)
            or (field != "settings" and value in ([], {}))
        ):
            raise ValueError(f"{place}: {field} must be a {kind.__name__} that is not empty, got {value!r}")
    if wrong := {name: n for name, n in content["sets"].items() if not is_integer(n, 1)}:
        raise ValueError(f"{place}: sets must name how many test images each has, got {wrong}")
    seeds = content["seeds"]
    if not all(is_integer(seed, 0) for seed in seeds) or len(set(seeds)) < len(seeds):
        raise ValueError(f"{place}: seeds must be different integers of 0 or more, got {seeds}")
    if content["images_seed"] == PREVIEW_SEED:
        raise ValueError(
            f"{place}: images_seed must not be {PREVIEW_SEED}: pages show these images before the freeze, "
            "so something may have been tuned on them"
        )
    return content


def write_freeze(chapter: str, root: Path = ROOT) -> Freeze:
    """Freeze a chapter's plan with the models, claims and code of this clone, and return it.

    Raises:
        FileNotFoundError: there is no plan, or no folder of one of its models.
        ValueError: the plan is malformed, or names a claim that is not in `data/claims/`.
        RuntimeError: the study has begun, or the clone has changes that are in no commit.
    """
    folder, plan, claims = (
        root / RECORDS / chapter,
        read_plan(chapter, root),
        load_claims(root / "data" / "claims"),
    )
    if begun := sorted((*folder.glob("*/*.parquet"), *folder.glob("*/*.json"))):
        raise RuntimeError(
            f"the study {chapter} has begun: {len(begun)} files of outcomes rest on its freeze. Remove them "
            f"({RECORDS.as_posix()}/{chapter}/*/), and with them what they have cost, to freeze it anew"
        )
    for claim in plan["claims"]:
        if claim not in claims:
            raise ValueError(f"the plan of {chapter}: no claim {claim!r}{did_you_mean(str(claim), claims)}")
    freeze = Freeze(
        chapter=chapter,
        commit=commit_of(root),
        date=datetime.now(UTC).strftime("%Y-%m-%d"),
        models={name: fingerprint(root / name) for name in plan["models"]},
        claims={i: {"hash": claim_hash(claims[i]), "margin": claims[i].margin} for i in plan["claims"]},
        sets=plan["sets"],
        images_seed=plan["images_seed"],
        seeds=tuple(plan["seeds"]),
        settings=plan["settings"],
    )
    facts = asdict(freeze) | {"seeds": list(freeze.seeds)}
    with atomic(folder / "freeze.yml") as temporary:
        text = "# Written by `zsc study --freeze` from plan.yml; not to be edited.\n"
        temporary.write_text(
            text + yaml.safe_dump(facts, sort_keys=False, allow_unicode=True), encoding="utf-8"
        )
    return freeze


def read_freeze(chapter: str, root: Path = ROOT) -> Freeze:
    """Return a chapter's freeze.

    Raises:
        FileNotFoundError: it has not been frozen; the message says how to.
        ValueError: the file is not as `write_freeze` leaves it.
    """
    path = root / RECORDS / chapter / "freeze.yml"
    if not path.is_file():
        read_plan(chapter, root)  # a chapter without a plan is said to be one
        raise FileNotFoundError(f"the study {chapter} is not frozen yet: run  zsc study {chapter} --freeze")
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    try:
        return Freeze(**content | {"seeds": tuple(content["seeds"])})
    except (TypeError, KeyError) as error:
        raise ValueError(f"{path.relative_to(root).as_posix()}: not a freeze ({error})") from None


def images_seed(chapter: str, root: Path = ROOT) -> int:
    """Return the seed of the test images that a chapter's pages show.

    Before the freeze it is another than the study's, so that nothing is tuned on the study's images; after it, pages
    meet the study's first images, and `zsclib.study.records.disagreement` compares.
    """
    frozen = (root / RECORDS / chapter / "freeze.yml").is_file()
    return read_freeze(chapter, root).images_seed if frozen else PREVIEW_SEED


def stale_because(freeze: Freeze, root: Path = ROOT, disagreement: str | None = None) -> str | None:
    """Return why a study no longer speaks of this clone's models, claims and seeds, or None; code is not compared.

    Args:
        freeze: the study's.
        root: the clone.
        disagreement: what `zsclib.study.records.disagreement` says of the page's live run.
    """
    claims = load_claims(root / "data" / "claims")
    for name, frozen in freeze.models.items():
        if not (root / name).is_dir():
            return f"the model {name} is gone"
        if fingerprint(root / name) != frozen:
            return f"the model {name} is another than on {freeze.date}"
    for name, frozen in freeze.claims.items():
        if name not in claims:
            return f"the claim {name} is gone"
        if claims[name].margin != frozen["margin"]:
            return f"the claim {name} has another margin: {frozen['margin']} → {claims[name].margin}"
        if claim_hash(claims[name]) != frozen["hash"]:
            return f"the claim {name} is worded otherwise than on {freeze.date}"
    plan = read_plan(freeze.chapter, root)
    for name, frozen in (("seeds", list(freeze.seeds)), ("images_seed", freeze.images_seed)):
        if plan[name] != frozen:
            return f"the plan has other {name.replace('_', ' ')}: {frozen} → {plan[name]}"
    return disagreement


def fingerprint(folder: Path) -> str:
    """Return the hash (32 hex digits) of a model folder's weights, configurations and vocabularies, not of its card."""
    if not folder.is_dir():
        raise FileNotFoundError(f"fingerprint: no model folder {folder}")
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and not p.name.startswith(".")]
    files = [path for path in files if path.suffix not in (".md", ".png")]
    return digest(*(part for p in files for part in (p.relative_to(folder).as_posix(), hash_file(p))))[:32]


def claim_hash(claim: Claim) -> str:
    """Return the hash (32 hex digits) of what a claim says; the published numbers beside it do not count."""
    parts = [claim.id, claim.statement, claim.contrast, claim.direction, claim.margin, claim.unit]
    return hash_json(parts)[:32]


def commit_of(root: Path) -> str:
    """Return the commit of a clone.

    Raises:
        RuntimeError: it is no clone, or code or data differ from the commit (freezes and outcomes aside).
    """
    status = _git(root, "status", "--porcelain", "--untracked-files=all", "--", "zsclib", "data")
    changed = [line[3:] for line in status.splitlines()]
    studies = RECORDS.as_posix()
    changed = [p for p in changed if not p.startswith(studies) or p.endswith("plan.yml")]
    if changed:
        names = ", ".join(changed[:5])
        raise RuntimeError(f"a freeze names a commit: commit or undo first what has changed: {names}")
    return _git(root, "rev-parse", "HEAD").strip()


def _git(root: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", "-C", root, *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", "") or str(error)
        raise RuntimeError(f"a study is frozen and run in a git clone: {reason.strip()}") from None
    return done.stdout
