"""Images as the numbers a network reads, and back."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def to_tensor(images: np.ndarray) -> Tensor:
    """Return uint8 (n, h, w, 3) as float32 (n, 3, h, w) in [−1, 1]."""
    x = torch.from_numpy(np.array(images))  # copied: it may be a memory map
    return x.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def to_images(x: Tensor) -> np.ndarray:
    """Return float (n, 3, h, w) in [−1, 1] as uint8 (n, h, w, 3); what lies outside is clipped."""
    x = ((x + 1) * 127.5).clamp(0, 255).round().to(torch.uint8)
    return x.permute(0, 2, 3, 1).cpu().numpy()
