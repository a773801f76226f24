"""Generators of other quality than the shipped one, everything but the U-Net being the same.

Earlier weights lie in the repository's history, and

    python -m zsclib.pocket earlier

writes a folder for each of them that goes with today's autoencoder, text tower and vocabulary into results/generators:
pocket-sd-0.56M and pocket-sd-1.40M, after so many pairs. Others are trained on a pool whose dials were turned, 0.5
million pairs each (a core needs about two hours; stopped, the same command goes on where it was):

    python -m zsclib.pocket restore --frozen --checkpoints checkpoints/rare
    python -m zsclib.pocket unet --checkpoints checkpoints/rare --samples 500000 --concept-exponent 1.6
    python -m zsclib.pocket export --checkpoints checkpoints/rare --models results/generators/rare

where some things are rare: of the ten objects the commonest is half of all things, the rarest 1 in 140; and

    python -m zsclib.pocket restore --frozen --checkpoints checkpoints/noisy
    python -m zsclib.pocket unet --checkpoints checkpoints/noisy --samples 500000 --caption-noise 0.4
    python -m zsclib.pocket export --checkpoints checkpoints/noisy --models results/generators/noisy

where 4 captions in 10 name a wrong thing, colour or style. Their generators are results/generators/rare/pocket-sd and
results/generators/noisy/pocket-sd. Retrieval keeps its own pool: the dials of its index are others
(`zsclib.papers.retrieval.dials`).

CLIPs of the history are whole, so that

    python -m zsclib.pocket clip-scaling

measures how each classifies without examples, by the pairs it had seen.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from zsclib.paths import ROOT, atomic
from zsclib.pretraining.unet import UNET_PHASES

MODEL, CLIP = "data/models/pocket-sd", "data/models/pocket-clip"
WEIGHTS, CLIP_WEIGHTS = "unet/diffusion_pytorch_model.safetensors", "model.safetensors"
MAY_DIFFER = (WEIGHTS, "README.md", "loss.png", "training.json")


def earlier_commits(root: Path = ROOT, model: str = MODEL) -> list[str]:
    """Return the commits, oldest first, whose U-Net has other weights than today's and all else of it the same.

    Raises:
        RuntimeError: the folder is no clone, or one without its history.
    """
    today, weights, commits = _files(root, "HEAD", model), set(), []
    weights.add(today[WEIGHTS])
    for commit in _commits(root, f"{model}/{WEIGHTS}"):
        then = _files(root, commit, model)
        alike = then.keys() == today.keys() and all(then[p] == today[p] for p in today if p not in MAY_DIFFER)
        if alike and then[WEIGHTS] not in weights:
            weights.add(then[WEIGHTS])
            commits.append(commit)
    return commits


def extract(target: Path, root: Path = ROOT, model: str = MODEL) -> list[Path]:
    """Write the model folder of each of these commits into `target`, named by the pairs its U-Net had learnt from."""
    folders = []
    for commit in earlier_commits(root, model):
        files = _files(root, commit, model)
        training = json.loads(_git(root, "cat-file", "blob", files["training.json"]))
        pairs = sum(training[p]["step"] * training[p]["plan"]["batch"] for p in UNET_PHASES if p in training)
        folders.append(Path(target) / f"{Path(model).name}-{pairs / 1e6:.2f}M")
        _write(folders[-1], root, files)
    return folders


def extract_clips(target: Path, root: Path = ROOT, model: str = CLIP) -> list[Path]:
    """Write every CLIP of the history, today's the last, into `target`, named by the pairs that it had learnt from."""
    folders: dict[str, Path] = {}  # hash of the weights → folder
    for commit in _commits(root, f"{model}/{CLIP_WEIGHTS}"):
        files = _files(root, commit, model)
        parts = json.loads(_git(root, "cat-file", "blob", files["training.json"]))
        pairs = sum(part["history"][-1]["samples"] for part in parts.values())
        folder = Path(target) / f"{Path(model).name}-{pairs / 1e6:.2f}M"
        folders[files[CLIP_WEIGHTS]] = folder
        _write(folder, root, files)
    return list(folders.values())


def _commits(root: Path, path: str) -> list[str]:
    """Return the commits that changed a file, oldest first."""
    if _git(root, "rev-parse", "--is-shallow-repository").decode().strip() == "true":
        raise RuntimeError(f"{root} is a clone without its history: git fetch --unshallow")
    return _git(root, "log", "--format=%H", "--reverse", "--", path).decode().split()


def _write(target: Path, root: Path, files: dict[str, str]) -> None:
    with atomic(target) as folder:
        for name, blob in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(_git(root, "cat-file", "blob", blob))


def _files(root: Path, commit: str, model: str) -> dict[str, str]:
    """Return path within the model's folder → hash of its content, at a commit."""
    lines = _git(root, "ls-tree", "-r", "-z", "--full-tree", commit, f"{model}/").decode().split("\0")
    pairs = (line.split("\t") for line in lines if line)
    return {path.removeprefix(f"{model}/"): about.split()[2] for about, path in pairs}


def _git(root: Path, *arguments: str) -> bytes:
    try:
        return subprocess.run(["git", "-C", root, *arguments], capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", b"") or str(error).encode()
        raise RuntimeError(f"earlier weights are in the history of a git clone: {reason.decode().strip()}") from None
