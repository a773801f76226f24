"""The library's own code as part of a page's text."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from IPython.display import Markdown


def source(*objects: Callable | type) -> Markdown:
    """Return the code of functions or classes, one after the other, as highlighted Python."""
    code = "\n\n".join(inspect.getsource(each).rstrip() for each in objects)
    return Markdown(f"```python\n{code}\n```")
