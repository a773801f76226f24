"""One progress bar for everything that takes long: to standard output, and gone when it is done."""

from __future__ import annotations

import sys

from tqdm import tqdm


class ProgressBar:
    """A callback `progress(what, done, total)`, as `zsclib.workers.Execution` takes it.

    Example:
        execution = Execution(progress=ProgressBar())
    """

    def __init__(self) -> None:
        self._bar: tqdm | None = None
        self._what = ""

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show how much is done of what; a bar of another name begins where a new name comes, and ends at its total."""
        if self._bar is not None and (what != self._what or done < self._bar.n or total != self._bar.total):
            self._close()
        if self._bar is None and done < total:
            # to stdout: on stderr a bar would mark a page as faulty
            self._bar, self._what = tqdm(desc=what, total=total, initial=done, file=sys.stdout, leave=False), what
        elif self._bar is not None:
            self._bar.update(done - self._bar.n)
        if done >= total:
            self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        self._bar = None
