"""One notebook in one kernel: this Python, a fixed environment, and failures that say where they happened."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import nbformat

from zsclib.paths import ROOT
from zsclib.study.notebooks import first_line, read_notebook, short
from zsclib.study.provenance import cpu_count


class RunError(RuntimeError):
    """A notebook could not be run to its end; the message says where and why."""


def environment(network: bool) -> dict[str, str]:
    """Return the environment variables that make a kernel the same for everyone, above the user's own.

    Args:
        network: whether models and data may come from the Hub.
    """
    fixed = {
        "MPLCONFIGDIR": str(_caches() / "matplotlib"),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        "PYTHONHASHSEED": "0",
        # What a kernel takes if the user's environment says nothing else; with Agg, no figure would be shown.
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(cpu_count())),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",  # they go to stderr, which marks a page as faulty
        "PYTHONWARNINGS": "ignore:IProgress not found",  # tqdm.auto, imported by others, misses its widgets
    }
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    return fixed if network else fixed | offline


def _caches() -> Path:
    """Return a folder for the caches of libraries that can be written: in the clone, else among temporary files."""
    for folder in (ROOT / "results" / ".caches", Path(tempfile.gettempdir()) / f"zsc-caches-{os.getuid()}"):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            return folder
    return Path(tempfile.mkdtemp(prefix="zsc-caches-"))


def make_caches(variables: Mapping[str, str]) -> None:
    """Let matplotlib build its font cache before a kernel starts: there, it would say so on standard error."""
    folder = Path(variables["MPLCONFIGDIR"])
    if not any(folder.glob("fontlist-*.json")):
        command = [sys.executable, "-c", "import matplotlib.font_manager"]
        subprocess.run(command, env=os.environ | variables, capture_output=True, check=False)


@contextmanager
def _own_folder(path: Path) -> Iterator[Path]:
    """Make an empty folder, and remove it afterwards: here and not among temporary files, a killed run's is found."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def execute(
    source: Path,
    output: Path,
    parameters: Mapping[str, object],
    variables: Mapping[str, str],
    cwd: Path,
    stream: TextIO,
) -> nbformat.NotebookNode:
    """Run a notebook, and return it with its outputs.

    Args:
        source: the notebook; it stays as it is.
        output: where the outputs are written while it runs, cell by cell.
        parameters: values to inject after the cell tagged `parameters`.
        variables: environment variables for the kernel, above those of this process.
        cwd: folder the kernel works in.
        stream: takes one line per cell as it begins, and what the cells print.

    Raises:
        RunError: a cell failed, the kernel died, or it did not start, twice.
    """
    import papermill
    from ipykernel.kernelspec import get_kernel_dict
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager
    from nbclient.exceptions import DeadKernelError

    make_caches(variables)
    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # what it would say is said here
    # papermill adds a cell for the parameters.
    count = sum(cell.cell_type == "code" for cell in read_notebook(source).cells) + bool(parameters)
    begun: list[nbformat.NotebookNode] = []

    def show(cell: nbformat.NotebookNode, cell_index: int) -> None:
        if cell.cell_type == "code":
            begun.append(cell)
            print(f"[{len(begun):>{len(str(count))}}/{count}] {first_line(cell)}", file=stream, flush=True)

    def place() -> str:
        return f"notebook {source.stem}, cell {len(begun)}/{count} (`{first_line(begun[-1])}`)"

    for attempt in (1, 2):
        with _own_folder(output.with_suffix(".ipython")) as ipython:
            # No start-up files and no history of the user's, and not the kernel that may be installed as
            # `python3`: that one can be another Python's.
            spec = KernelSpec(
                **get_kernel_dict(["--log-level=CRITICAL"]), env={**variables, "IPYTHONDIR": str(ipython)}
            )
            manager = type("ThisPython", (AsyncKernelManager,), {"kernel_spec": spec})
            try:
                return papermill.execute_notebook(
                    source,
                    output,
                    dict(parameters),
                    kernel_name="python3",
                    language="python",
                    progress_bar=False,
                    cwd=cwd,
                    stdout_file=stream,
                    stderr_file=stream,
                    kernel_manager_class=manager,
                    on_cell_start=show,
                    coalesce_streams=True,  # of a progress bar, only its last state
                )
            except papermill.PapermillExecutionError as error:
                raise RunError(f"{place()}: {error.ename}: {short(error.evalue)}") from None
            except (RuntimeError, OSError) as error:
                if begun:
                    died = "the kernel died (out of memory?)" if isinstance(error, DeadKernelError) else error
                    raise RunError(f"{place()}: {died}") from None
                if attempt == 2:
                    raise RunError(f"notebook {source.stem}: its kernel did not start: {error}") from None
                print(f"the kernel did not start ({error}); trying once more", file=stream, flush=True)
    raise AssertionError("unreachable")
