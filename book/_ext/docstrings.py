"""Module docstrings are plain text: an indented block in one is an example, shown as code."""


def mark_examples(app, what, name, obj, options, lines: list[str]) -> None:
    """Put `::` before each indented block of a module's docstring (in place, as Sphinx wants it)."""
    if what == "module":
        for i in range(len(lines) - 1, 1, -1):
            above = next((line for line in reversed(lines[:i]) if line.strip()), "")
            if lines[i].startswith("    ") and not lines[i - 1].strip() and not above.startswith(" "):
                lines[i:i] = ["::", ""]


def setup(app):
    app.connect("autodoc-process-docstring", mark_examples)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
