"""Prompts as data: one YAML file per dataset in `data/prompts/`, filled into lists of sentences."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path

import yaml

from zsclib.paths import DATA

ARTICLE = re.compile(r"^(a|an|the) ", re.IGNORECASE)
FOLDER = DATA / "prompts"
PHOTOGRAPHS = "photographs"  # "photographs:rsscn7" is no part of a set, but a set of them


@dataclass(frozen=True)
class Prompts:
    """The prompts of a dataset.

    Args:
        template: the default sentence, with one {} where the class name goes.
        templates: the sentences of a prompt ensemble; at least the default one.
        classes: class names as prompts say them, in label order.
        about: what the dataset is, in one sentence.
        base: the naive sentence that images are generated with.
        bare: the class name and nothing else, as the model's captions would have it.
        domains: sentences that ask for the class in one domain each, by the domain's name.
    """

    template: str
    templates: tuple[str, ...]
    classes: tuple[str, ...]
    _: KW_ONLY
    about: str
    base: str
    bare: str = "{}"
    domains: Mapping[str, str] = field(default_factory=dict)


def load_prompts(name: str | os.PathLike[str]) -> Prompts:
    """Read the prompts of a dataset.

    Args:
        name: a dataset's name ("digits"), for `data/prompts/digits.yml`, or that of a part of it
            ("objects-shift:blurred"), or of real photographs ("photographs:rsscn7"); or the path of a .yml file of your
            own with `template`, `classes`, `about` and, if you like, `templates`, `base` (otherwise the template),
            `bare` (otherwise "{}") and `domains`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a key is missing or unknown, a template lacks {}, or class names are empty, repeated or
            not text.
    """
    path = Path(name)
    if path.suffix not in (".yml", ".yaml"):
        path = _shipped(str(name))
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in FOLDER.glob("*.yml"))) or "none"
        raise FileNotFoundError(
            f"load_prompts: there is no {path}; names with prompts: {known}; for a set of your own give the "
            "path of a .yml file, or use fill('a photo of a {}', image_set.classes)"
        )
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not readable as YAML ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected the keys template, classes and about, got {content!r}")
    required, kinds = {"template", "classes", "about"}, {"template": str, "about": str, "classes": list}
    kinds |= {"templates": list, "base": str, "bare": str, "domains": dict}
    if (missing := required - content.keys()) or (unknown := content.keys() - kinds.keys()):
        wrong = f"missing: {sorted(missing)}" if missing else f"unknown: {sorted(map(str, unknown))}"
        optional = ", ".join(key for key in kinds if key not in required)
        raise ValueError(
            f"{path}: keys must be {', '.join(sorted(required))}, and may be {optional}; {wrong}"
        )
    for key, kind in kinds.items():
        if key in content and not isinstance(content[key], kind):
            raise ValueError(f"{path}: {key} must be a {kind.__name__}, got {content[key]!r}")
    prompts = Prompts(
        template=content["template"],
        templates=tuple(content.get("templates", [content["template"]])),
        classes=tuple(content["classes"]),
        about=content["about"],
        base=content.get("base", content["template"]),
        bare=content.get("bare", "{}"),
        domains=content.get("domains", {}),
    )
    try:
        if not prompts.templates:
            raise ValueError("templates must hold at least one sentence, or be left out")
        if not all(isinstance(name, str) for name in prompts.domains):
            raise ValueError(f"domains must have names, got {list(prompts.domains)}; put them in quotes")
        sentences = (
            prompts.template,
            *prompts.templates,
            prompts.base,
            prompts.bare,
            *prompts.domains.values(),
        )
        for template in sentences:
            fill(template, prompts.classes)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return prompts


def _shipped(name: str) -> Path:
    """Return where the prompts of a set would lie; a part of a set, named after a colon, has those of the whole."""
    kind, _, part = name.partition(":")
    return FOLDER / PHOTOGRAPHS / f"{part}.yml" if kind == PHOTOGRAPHS else FOLDER / f"{kind}.yml"


def shipped_prompts(name: str, classes: Sequence[str]) -> Prompts | None:
    """Return a data set's prompts in `data/prompts`, None where it has none there.

    Raises:
        ValueError: they are for another number of classes.
    """
    if not _shipped(name).is_file():
        return None
    prompts = load_prompts(name)
    if len(prompts.classes) != len(classes):
        raise ValueError(f"{name!r} has prompts for {len(prompts.classes)} classes, got {len(classes)}")
    return prompts


def with_article(name: str) -> str:
    """Return a class's name with the article it brings, or with "a"."""
    return name if ARTICLE.match(name) else f"a {name}"


def fill(template: str, classes: Sequence[str]) -> list[str]:
    """Return one prompt per class name.

    Examples:
        fill("a photo of {}", ["a star", "a car"]) gives ["a photo of a star", "a photo of a car"]
        fill("a wooden {name}", ["a star", "a car"]) gives ["a wooden star", "a wooden car"]: no article of its own

    Raises:
        ValueError: the template has not exactly one {} or {name}, or class names are empty, repeated or not text.
    """
    if not isinstance(template, str) or template.count("{}") + template.count("{name}") != 1:
        raise ValueError(f"a template needs exactly one {{}} for the class name, got {template!r}")
    if isinstance(classes, str) or not classes:
        raise ValueError(f"classes must be a list of names, got {classes!r}")
    for name in classes:
        if not isinstance(name, str):  # YAML reads 0, no and 1.5 as something else than text
            raise ValueError(f"a class name must be text, got {name!r}; put it in quotes")
        if not name.strip():
            raise ValueError(f"a class name is empty, among {list(classes)}")
    if repeated := sorted({name for name in classes if list(classes).count(name) > 1}):
        raise ValueError(f"class names must differ, repeated: {repeated}")
    filled = [template.replace("{}", name).replace("{name}", ARTICLE.sub("", name)) for name in classes]
    if len(set(filled)) < len(filled):
        raise ValueError(f"without their articles some of the classes {list(classes)} are one")
    return filled


def prompts_of(name: str, classes: Sequence[str], template: str = "") -> list[str]:
    """Return one sentence per class of a data set: its own words, or a template filled with its class names.

    Args:
        name: the data set, as `zsclib.datasets.load` takes it.
        classes: its class names, in label order.
        template: a sentence with {}; empty: the one of `data/prompts/<name>.yml`, else "a photo of a {}", without that
            article where the name brings its own.

    Raises:
        ValueError: the template lacks {}, or class names are empty or repeated.
    """
    if template:
        return fill(template, classes)
    if name == "pairs":
        raise ValueError(
            "prompts_of: the images of 'pairs' have captions of their own (see its manifest), not classes"
        )
    if prompts := shipped_prompts(name, classes):
        return fill(prompts.template, prompts.classes)
    fill("{}", classes)  # refuses names that are no names
    return [f"a photo of {with_article(name)}" for name in classes]
