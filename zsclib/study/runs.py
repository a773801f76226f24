"""Full-scale runs: one file per setting that a paper published, `data/runs/<paper>/NAME.yml`.

    paper: Your Diffusion Model is Secretly a Zero-Shot Classifier (Li et al., ICCV 2023)
    table: Table 1
    row: Diffusion Classifier, CIFAR-10
    published:                      # what the paper prints, to stand beside what comes out
      - {what: accuracy in percent, value: 88.5, source: "Table 1, row 3"}
    hours: 83                       # expected, on that card
    card: RTX 3090
    differs: The sequential test instead of two stages.       # from the paper; may be left out
    command: zsc run diffusion_classifier --run cifar10-sd-2-0
    parameters:                     # of the notebook that the command names
      images: null

`zsc run NOTEBOOK --run NAME` reads it, and leaves its results in `results/NAME/NOTEBOOK/`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from zsclib.checks import did_you_mean
from zsclib.paths import ROOT
from zsclib.study.parameters import profile_names

_TEXTS = ("paper", "table", "row", "card", "command")
_REQUIRED = ("paper", "table", "row", "published", "hours", "card", "command", "parameters")
_OPTIONAL = ("differs",)


@dataclass(frozen=True, kw_only=True)
class Run:
    """A published setting: the fields of its file, its name, the notebook of its command, and where it is written."""

    name: str
    notebook: str
    place: str
    paper: str
    table: str
    row: str
    published: tuple[Mapping[str, object], ...]
    hours: float
    card: str
    command: str
    parameters: Mapping[str, object]
    differs: str = ""

    def __str__(self) -> str:
        numbers = "; ".join(f"{p['what']} {p['value']} ({p['source']})" for p in self.published)
        return f"{self.table}, {self.row}; published: {numbers}; about {self.hours:g} h on {self.card}"


def run_names(notebook: str, root: Path = ROOT) -> list[str]:
    """Return the names of the runs that a notebook has, sorted.

    Raises:
        ValueError: one of the files is malformed (see `read_run`).
    """
    paths = sorted((root / "data" / "runs").glob("*/*.yml"))
    return [path.stem for path in paths if _read(path, root).notebook == notebook]


def read_run(notebook: str, name: str, root: Path = ROOT) -> Run:
    """Return a notebook's run of that name, from `data/runs/<paper>/NAME.yml`.

    Args:
        notebook: its name; the run's command names it.
        name: of the file, without `.yml`.
        root: the clone whose `data/` is meant.

    Raises:
        FileNotFoundError: the notebook has no run of that name; the message lists those it has.
        ValueError: an unknown, missing or malformed field; the message names file and field.
    """
    runs = [_read(path, root) for path in sorted((root / "data" / "runs").glob(f"*/{Path(name).name}.yml"))]
    for run in runs:
        if run.notebook == notebook and run.name == name:
            return run
    known, others = run_names(notebook, root), [run.command for run in runs]
    hint = f"; that name has: {', '.join(others)}" if others else did_you_mean(name, known)
    raise FileNotFoundError(
        f"notebook {notebook} has no run {name!r} in data/runs/{hint}; it has: {', '.join(known) or 'none'}"
    )


def _read(path: Path, root: Path) -> Run:
    place = path.relative_to(root).as_posix()
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{place}: not readable as YAML ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{place}: expected the fields {', '.join(_REQUIRED)}, got {content!r}")
    if missing := [field for field in _REQUIRED if field not in content]:
        raise ValueError(f"{place}: missing {', '.join(missing)}")
    for field in content:
        if field not in (*_REQUIRED, *_OPTIONAL):
            hint = did_you_mean(str(field), (*_REQUIRED, *_OPTIONAL))
            raise ValueError(f"{place}: unknown field {field!r}{hint}; parameters go under `parameters`")
    for field in (*_TEXTS, *(field for field in _OPTIONAL if field in content)):
        if not (isinstance(content[field], str) and content[field].strip()):
            raise ValueError(f"{place}: {field} must be a text, got {content[field]!r}")
    if not _is_number(content["hours"]) or content["hours"] <= 0:
        raise ValueError(f"{place}: hours must be a number above 0, got {content['hours']!r}")
    if not isinstance(content["parameters"], dict):
        raise ValueError(f"{place}: parameters must be a mapping, got {content['parameters']!r}")
    published = content["published"]
    if not isinstance(published, list) or not published:
        raise ValueError(f"{place}: published must be a list of {{what, value, source}}, got {published!r}")
    for number in published:
        fits = isinstance(number, dict) and set(number) == {"what", "value", "source"}
        if not fits or not _is_number(number["value"]) or not (number["what"] and number["source"]):
            raise ValueError(
                f"{place}: a number of `published` needs exactly what, value and source, got {number!r}"
            )
    words = content["command"].split()
    if len(words) != 5 or words[:2] != ["zsc", "run"] or words[3:] != ["--run", path.stem]:
        raise ValueError(
            f"{place}: command must be `zsc run NOTEBOOK --run {path.stem}`, got {content['command']!r}"
        )
    paper = path.parent.name
    if words[2] != paper and not words[2].startswith(f"{paper}_"):
        raise ValueError(f"{place}: notebook {words[2]!r} of the command is none of the paper {paper!r}")
    if path.stem in profile_names(root):
        raise ValueError(f"{place}: a run must not be named as a profile, whose results it would replace")
    facts = content | {"published": tuple(published), "hours": float(content["hours"])}
    return Run(name=path.stem, notebook=words[2], place=place, **facts)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
