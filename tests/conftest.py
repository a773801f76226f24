"""What all tests share: few threads, no network, and tiny model folders built once."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1]))  # `from tests import tiny`, however pytest is started

LAYOUTS = ("stable_diffusion_1", "stable_diffusion_2", "stable_diffusion_3")


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Tiny random model folders by layout; not to be written to."""
    from tests import tiny

    root = tmp_path_factory.mktemp("models")
    return {name: getattr(tiny, name)(root / name) for name in (*LAYOUTS, "clip")}


@pytest.fixture(scope="session", params=LAYOUTS)
def generator(request, folders):
    """Each kind of generator in turn; not to be changed."""
    from zsclib.models.generator import open_generator

    return open_generator(folders[request.param])


@pytest.fixture(scope="module")
def one_thread():
    """PyTorch on one thread, also where OMP_NUM_THREADS says otherwise: sums in another order are other numbers."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
