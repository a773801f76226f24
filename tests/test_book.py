"""The book as a reader gets it: rendered once from small stand-in runs, then looked at as HTML."""

from __future__ import annotations

import importlib.util
import io
import json
import re
import shutil
import urllib.parse
from base64 import b64encode
from pathlib import Path

import nbformat
import numpy as np
import pytest
from bs4 import BeautifulSoup
from nbformat import v4
from PIL import Image

from zsclib.study import book

ROOT = Path(__file__).resolve().parents[1]
ESTIMATE = {"value": 0.573, "low": 0.541, "high": 0.604, "n": 1000}
FIGURE = {"image": {"alt": "Grey squares in a row."}, "figure": {"caption": "Squares.", "name": "NAME"}}


def executed(name: str) -> nbformat.NotebookNode:
    """Return a notebook with what real pages have: mathematics, parameters, a figure, a table, a record."""
    buffer = io.BytesIO()
    Image.fromarray(np.tile(np.arange(0, 256, 4, dtype=np.uint8), (24, 1))).save(buffer, "PNG")
    figure = json.loads(json.dumps(FIGURE).replace("NAME", f"fig-{name}"))
    png = v4.new_output("display_data", {"image/png": b64encode(buffer.getvalue()).decode()})
    rows = "<tr><th>0</th>" + "<td>123456789</td>" * 12 + "</tr>"
    html = f"<table class='dataframe'>{rows}</table>"
    table = v4.new_output("execute_result", {"text/html": html}, execution_count=3)
    said = v4.new_output(
        "display_data", {"text/plain": "accuracy 0.573"}, metadata={"zsc_record": {"a": 0.573}}
    )
    cells = [
        v4.new_markdown_cell(f"# The page {name}\n\nInline $\\bar\\alpha_t$ and\n\n$$\\epsilon(z_t, t, c)$$"),
        v4.new_code_cell("n = 1", metadata={"tags": ["parameters"]}, execution_count=1),
        v4.new_markdown_cell("## A figure"),
        v4.new_code_cell("plot()", metadata={"mystnb": figure}, outputs=[png], execution_count=2),
        v4.new_code_cell("table", outputs=[table], execution_count=3),
        v4.new_code_cell("record(accuracy=accuracy)", outputs=[said], execution_count=4),
    ]
    for index, cell in enumerate(cells):
        cell["id"] = f"cell-{index}"
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})


def stand_in(root: Path) -> Path:
    """Copy the book's sources to `root` and put a stand-in run beside them for each notebook it names."""
    shutil.copytree(ROOT / "book", root / "book", ignore=shutil.ignore_patterns("notebooks", "generated"))
    for name in ("_config.yml", "requirements.lock"):
        shutil.copy(ROOT / name, root / name)
    prose = "".join(path.read_text(encoding="utf-8") for path in (root / "book").glob("*.md"))
    for name in book.notebooks(root):
        run = root / "results/ci" / name
        run.mkdir(parents=True)
        nbformat.write(executed(name), run / "executed.ipynb")
        used = re.findall(rf"{{{{\s*{name}\.(\w+)", prose)
        shares = {key.removesuffix("_percent"): 0.573 for key in used if key.endswith("_percent")}
        values = {re.sub("_(value|low|high|n|points)$", "", key): ESTIMATE for key in used} | shares
        (run / "record.json").write_text(json.dumps(values))
        stamp = {
            "parameters": {"n": 1, "name": "digits"},
            "profile": "ci",
            "started": "2026-01-31T12:00:00Z",
            "seconds": 83.2,
            "hardware": {"cpus": 2, "cpu": "A processor", "gpu": None},
            "software": {"python": "3.11.7"},
            "notebook_hash": "0123456789abcdef",
            "library_hash": "fedcba9876543210",
        }
        (run / "stamp.json").write_text(json.dumps(stamp))
    return root


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    root = stand_in(tmp_path_factory.mktemp("project"))
    book.render("ci", root)
    return root


@pytest.fixture(scope="module")
def pages(project) -> dict[str, BeautifulSoup]:
    html = project / "_build/html"
    names = ["intro", "read_and_rerun", "references", "generated/api"]
    names += [f"notebooks/{name}" for name in book.notebooks(project)]
    return {name: BeautifulSoup((html / f"{name}.html").read_bytes(), "html.parser") for name in names}


@pytest.fixture(scope="module")
def records():
    spec = importlib.util.spec_from_file_location("records", ROOT / "book/_ext/records.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_page_has_one_title_and_its_name_in_the_window(pages):
    for name, page in pages.items():
        title = page.select_one("article h1")
        assert len(page.select("article h1")) == 1, name
        assert page.title.string.strip().startswith(title.get_text().strip("#\n")), name
        assert page.html["lang"] == "en"


def test_every_picture_has_words_and_every_figure_a_caption(pages):
    for name, page in pages.items():
        for image in page.select("article img"):
            alt = image.get("alt", "")
            assert len(alt) > 10 and not re.search(r"\.(png|svg)$|/", alt), f"{name}: {image}"
        for image in page.select("article .cell_output img"):
            caption = image.find_parent("figure").figcaption.get_text()
            assert re.search(r"Figure \d+", caption) and "Squares." in caption, name
    assert sum(len(page.select("article figure")) for page in pages.values()) == len(pages) - 4


def test_notebook_pages_open_on_binder_and_colab_at_their_source(pages):
    for name, page in pages.items():
        if name.startswith("notebooks/"):
            links = {urllib.parse.unquote(a["href"]) for a in page.select(".dropdown-launch-buttons a")}
            assert len(links) == 2, f"{name}: {links}"
            for link in links:
                assert "zero-shot-classification/diffusion-for-classification" in link
                assert link.endswith(f"/{name}.ipynb") or f"tree/{name}.ipynb" in link, link


def test_links_inside_the_book_lead_somewhere(project, pages):
    html = project / "_build/html"
    for name, page in pages.items():
        for tag in page.select("[href], [src]"):
            target = urllib.parse.urlsplit(tag.get("href") or tag.get("src"))
            if target.scheme or target.netloc:
                continue
            path = urllib.parse.unquote(target.path)
            here = (html / name).parent / path if path else html / f"{name}.html"
            assert here.exists(), f"{name} → {target.geturl()}"
            if target.fragment and here.suffix == ".html":
                assert f'id="{target.fragment}"' in here.read_text(), f"{name} → {target.geturl()}"


def test_a_page_loads_nothing_from_the_network(project, pages):
    for name, page in pages.items():
        loaded = [tag["src"] for tag in page.select("[src]")]
        kinds = ("stylesheet", "preload", "icon", "modulepreload", "preconnect", "dns-prefetch")
        loaded += [tag["href"] for tag in page.select("link[href]") if set(tag.get("rel", [])) & set(kinds)]
        assert loaded and not [address for address in loaded if "//" in address], name
    static = project / "_build/html/_static"
    for sheet in static.rglob("*.css"):
        found = re.search(r"(@import|url\()\s*['\"(]*\s*(https?:)?//", sheet.read_text(encoding="utf-8"))
        assert not found, sheet.name
    assert "MathJax" in (static / "mathjax/tex-chtml-full.js").read_text(encoding="utf-8")
    assert list((static / "mathjax/output/chtml/fonts/woff-v2").glob("MathJax_Main-Regular.woff"))


def test_nothing_unfinished_and_no_place_on_this_machine_is_shown(project, pages):
    for name, page in pages.items():
        text = page.article.get_text() if page.article else page.get_text()
        for trace in ("TODO", "FIXME", "{{", str(project), str(ROOT), str(Path.home()) + "/"):
            assert trace not in text, f"{name}: {trace}"


def test_a_notebook_page_says_how_it_was_made(pages):
    note = pages["notebooks/diffusion_classifier"].select_one("details.how-made")
    text = note.get_text()
    for part in ("1 min 23 s", "ci", "n = 1", "name = 'digits'", "2026-01-31", "2 CPU cores", "no GPU"):
        assert part in text
    assert note.find_previous("h1") and note.a["href"].endswith("/main/notebooks/diffusion_classifier.ipynb")


def test_numbers_on_the_first_page_come_from_the_records(pages):
    text = pages["intro"].article.get_text()
    assert "57.3\N{NO-BREAK SPACE}%" in text and "1,000" in text


def test_the_library_page_documents_the_modules(pages):
    anchors = {tag["id"] for tag in pages["generated/api"].select("[id]")}
    assert {"zsclib.seeds.seed_of", "zsclib.images.image_set.ImageSet", "zsclib.study.stats.Estimate"} <= anchors


def test_an_unchanged_book_is_left_as_it_is_and_a_changed_number_is_not(project, capsys, monkeypatch):
    calls = []
    monkeypatch.setattr(book, "jupyter_book", lambda *arguments: calls.append(arguments))
    book.render("ci", project)
    assert not calls and "Nothing has changed" in capsys.readouterr().out
    record = project / "results/ci/world/record.json"
    before = record.read_text()
    record.write_text('{"other": 1}')
    book.render("ci", project)
    record.write_text(before)
    assert len(calls) == 1


def test_a_number_that_was_not_recorded_fails_the_build(tmp_path, capfd):
    (tmp_path / "book").mkdir()
    shutil.copytree(ROOT / "book/_ext", tmp_path / "book/_ext")
    shutil.copytree(ROOT / "book/_static", tmp_path / "book/_static")
    shutil.copy(ROOT / "book/references.bib", tmp_path / "book")
    shutil.copy(ROOT / "_config.yml", tmp_path)
    (tmp_path / "book/_toc.yml").write_text("format: jb-book\nroot: intro\n")
    (tmp_path / "book/intro.md").write_text("# Title\n\n{{ world.n }}, {{ world.m }} and {{ nowhere.n }}\n")
    (tmp_path / "results/ci/world").mkdir(parents=True)
    (tmp_path / "results/ci/world/record.json").write_text('{"n": 1}')
    with pytest.raises(RuntimeError, match="the build failed"):
        book.jupyter_book(tmp_path, "ci")
    said = "".join(capfd.readouterr())
    assert "no value named 'm' was recorded; there are: n" in said
    assert "'nowhere' is undefined" in said
    assert "named 'n'" not in said


def plain(value):
    """Return a text with ordinary spaces, a record with such texts."""
    if isinstance(value, dict):
        return type(value)({key: plain(text) for key, text in value.items()})
    return value.replace("\N{NO-BREAK SPACE}", " ")


def test_recorded_values_read_as_they_should(records):
    negative = {"value": 0.05, "low": -0.02, "high": 0.12, "n": 300}
    decibels = {"value": 24.64, "low": 24.1, "high": 25.2, "n": 1200}
    values = {"a": ESTIMATE, "b": negative, "c": decibels, "k": 12345, "x": 0.98765, "big": 1234.5}
    values |= {"s": "word", "t": True, "list": [1, 0.5], "nested": {"y": 0.25}}
    texts = {key: plain(text) for key, text in records.texts(values).items()}
    assert texts["a"] == "57.3 % (54.1–60.4)"
    parts = [texts[f"a_{part}"] for part in ("value", "low", "high", "n")]
    assert parts == ["57.3 %", "54.1 %", "60.4 %", "1,000"]
    assert texts["b_points"] == "+5.0 points (−2.0 to +12.0)"
    assert texts["c"] == "24.6 (24.1–25.2)" and texts["c_n"] == "1,200"
    assert (texts["k"], texts["x"], texts["x_percent"], texts["big"]) == (
        "12,345",
        "0.988",
        "98.8 %",
        "1,234",
    )
    assert (texts["s"], texts["t"], texts["list"]) == ("word", "True", "1, 0.5")
    assert texts["nested"]["y_percent"] == "25.0 %"
    with pytest.raises(ValueError, match="no value named 'z' was recorded; there are: y, y_percent"):
        texts["nested"]["z"]


def test_a_page_unfit_to_be_shown_is_refused(tmp_path):
    run = stand_in(tmp_path) / "results/ci/world"

    def refused(message, change):
        notebook = executed("world")
        change(notebook.cells[3])
        nbformat.write(notebook, run / "executed.ipynb")
        with pytest.raises(ValueError, match=message):
            book.page(run, "https://example.org")

    refused("cell 3 shows an image without words", lambda cell: cell.metadata.mystnb.pop("figure"))
    refused("cell 3 shows an image without words", lambda cell: cell.metadata.mystnb.image.update(alt=""))
    refused("cell 3 shows 2 images", lambda cell: cell.outputs.extend(cell.outputs[:]))
    text = v4.new_output("display_data", {"text/markdown": "And a sentence."})
    refused("cell 3 shows an image and more", lambda cell: cell.outputs.append(text))
    place = v4.new_output("stream", text=f"saved to {Path.home()}/x.png")
    refused("cell 3 shows a path of this machine", lambda cell: cell.outputs.append(place))
    (run / "executed.ipynb").unlink()
    with pytest.raises(FileNotFoundError, match="zsc run world --profile ci"):
        book.page(run, "https://example.org")
