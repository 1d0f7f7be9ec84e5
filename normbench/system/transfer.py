"""Copies from the host to a device for which the host does not wait."""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(x: Tensor, device: torch.device | str) -> Tensor:
    """A tensor on the CPU, copied to a device; x itself if that is the CPU.

    From ordinary memory a copy to CUDA holds up the host until the GPU has done all work before it. From pinned memory
    it is one more entry in the GPU's queue; torch does not use that memory again before the copy is done.
    """
    if torch.device(device).type != "cuda":
        return x.to(device)
    return torch.empty(x.shape, dtype=x.dtype, pin_memory=True).copy_(x).to(device, non_blocking=True)
