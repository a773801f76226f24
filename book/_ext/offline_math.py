"""Serve MathJax from the book itself, so that a page opened without a network still shows its formulas.

The files (MathJax 3.2.2, Apache-2.0) come from the package sphinx-mathjax-offline; only what TeX needs is
copied.
"""

from importlib.util import find_spec
from pathlib import Path
from shutil import copy2, copytree


def copy_mathjax(app, error) -> None:
    """Copy the TeX component and its fonts into the built book."""
    if error or app.builder.format != "html":
        return
    source = Path(find_spec("sphinx-mathjax-offline").origin).parent / "static/mathjax"
    target = Path(app.outdir) / "_static/mathjax"
    copytree(source / "output/chtml/fonts", target / "output/chtml/fonts", dirs_exist_ok=True)
    copy2(source / "tex-chtml-full.js", target)


def setup(app):
    app.config.mathjax_path = "mathjax/tex-chtml-full.js"
    app.connect("build-finished", copy_mathjax)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
