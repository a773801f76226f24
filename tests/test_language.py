"""One word for one thing: what names and prose of the library, the notebooks and the book avoid."""

from __future__ import annotations

import ast
import io
import json
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "zsclib").rglob("*.py"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PAGES = sorted((ROOT / "book").glob("*.md"))
NO_NAMES = {
    "found",
    "kept",
    "told",
    "asked",
    "seen",
    "said",
    "mine",
    "given",
}  # say what was done, not what a thing is
NO_WORDS = {
    r"pictures?": "image",
    r"twins?": "class-conditional DiT",
    r"crawl(s|ed)?": "pre-training data",
    r"noise levels?": "timestep t",
}


def names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield every name that a piece of code gives or uses for a thing of its own, with its line."""
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Name):
            yield node.id, line
        elif isinstance(node, ast.Attribute):
            yield node.attr, line
        elif isinstance(node, ast.arg | ast.keyword):
            yield node.arg or "", line
        elif isinstance(
            node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.ExceptHandler | ast.MatchAs
        ):
            yield node.name or "", line
        elif isinstance(node, ast.alias):
            yield node.asname or "", line


def code_cells(path: Path) -> Iterator[tuple[int, str]]:
    for number, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
        if cell["cell_type"] == "code":
            yield number, "".join(cell["source"])


def bad_names(source: str) -> list[str]:
    return sorted(
        {f"line {line}: {name}" for name, line in names(ast.parse(source)) if name.strip("_") in NO_NAMES}
    )


def messages(tree: ast.AST) -> Iterator[str]:
    """Yield what a reader of the code, or of its errors, reads: docstrings, and texts that are raised or printed."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""
        elif isinstance(node, ast.Raise) or (
            isinstance(node, ast.Call) and ast.unparse(node.func) == "print"
        ):
            for part in ast.walk(node):
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    yield part.value


def comments(source: str) -> Iterator[str]:
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.string


def bad_words(text: str) -> list[str]:
    """Return the words to avoid in a text; names in code font, such as `pocket-twin`, are addresses and stay."""
    prose = re.sub(r"`[^`\n]*`", "``", text)
    hits = [
        (match, word)
        for word in NO_WORDS
        for match in re.finditer(rf"(?i)(?<![\w/-]){word}(?![\w/-])", prose)
    ]
    return [
        f"{match[0]} (say {NO_WORDS[word]}): … {prose[max(0, match.start() - 30) :][:70]!r}"
        for match, word in hits
    ]


def test_the_checks_can_fail():
    assert bad_names("kept = 1\ndef told(a, given=2): self._seen = [asked for asked in a]\n") == [
        *("line 1: kept", "line 2: _seen", "line 2: asked", "line 2: given", "line 2: told"),
    ]
    assert bad_names("f(said=1)\nimport x as found\n") == ["line 1: said", "line 2: found"]
    assert bad_names("'kept'\nforgiven = unseen = x.founder\n") == []
    for text in ("two pictures", "Picture this", "its twin.", "the crawl", "a noise level"):
        assert len(bad_words(text)) == 1, text
    assert bad_words("`pocket-twin` and data/models/pocket-twin are addresses; between; crawler") == []
    tree = ast.parse('"""A picture."""\ndef f():\n    raise ValueError(f"no twin {f}")\nx = "the crawl"')
    assert list(messages(tree)) == ["A picture.", "", "no twin "]
    assert list(comments("x = 1  # a twin\n'# no comment'\n")) == ["# a twin"]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_names_and_prose_of_the_library(path):
    source = path.read_text(encoding="utf-8")
    assert bad_names(source) == []
    assert bad_words("\n".join([*messages(ast.parse(source)), *comments(source)])) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_names_and_prose_of_a_notebook(path):
    assert {number: bad for number, code in code_cells(path) if (bad := bad_names(code))} == {}
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    prose = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    prose += [text for _, code in code_cells(path) for text in (*comments(code), *messages(ast.parse(code)))]
    prose += [json.dumps(cell["metadata"].get("mystnb", {}), ensure_ascii=False) for cell in cells]
    assert bad_words("\n".join(prose)) == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_prose_of_the_book(path):
    assert bad_words(path.read_text(encoding="utf-8")) == []
