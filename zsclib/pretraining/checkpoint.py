"""Checkpoints: safetensors files with a digest beside each, written so that no kill can leave half of one."""

from __future__ import annotations

import errno
import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from zsclib.hashing import hash_file
from zsclib.paths import atomic


def write_checkpoint(path: Path, tensors: dict[str, Tensor], meta: dict) -> None:
    """Write a checkpoint so that a kill at any moment leaves either the old files or a complete new one.

    Raises: OSError when it cannot be written, as where the disk is full.
    """
    plain = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    with atomic(path) as temporary:
        try:
            save_file(plain, temporary, metadata={"meta": json.dumps(meta)})
        except SafetensorError as error:
            reason = f"not written ({error}); what was finished before is kept"
            raise OSError(errno.EIO, reason, str(path)) from error
        digest_path(path).write_text(hash_file(temporary) + "\n")


def digest_path(path: Path) -> Path:
    """Return where the digest of a checkpoint lies."""
    return path.with_suffix(".sha256")


def checkpoints(folder: Path, name: str) -> list[Path]:
    """Return the checkpoints of one training in `folder`, oldest first."""
    paths = Path(folder).glob(f"{name}-*.safetensors")
    return sorted(p for p in paths if p.stem.removeprefix(f"{name}-").isdigit())


def read_meta(path: Path) -> dict:
    """Return the metadata of a checkpoint: step, seconds, plan, facts, device, memory, history.

    Raises: ValueError when the file is not the one that was written (compared with its `.sha256`).
    """
    beside = digest_path(path)
    expected = beside.read_text().strip() if beside.exists() else f"one in {beside.name}, which is missing"
    actual = hash_file(path)
    if actual != expected:
        raise ValueError(
            f"checkpoint {path.name} was cut short or altered: its SHA-256 is {actual}, expected {expected}; "
            "delete it to go on from the one before, or to start anew"
        )
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["meta"])


def read_tensors(path: Path, part: str) -> dict[str, Tensor]:
    """Return one part ("model", "ema", "first", "second") of a checkpoint, by parameter name."""
    with safe_open(path, "pt") as file:
        names = [name for name in list(file.keys()) if name.startswith(f"{part}.")]
        return {name.removeprefix(f"{part}."): file.get_tensor(name) for name in names}
