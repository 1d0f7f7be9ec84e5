"""The outputs of a classifier for many images, in batches as large as its device takes."""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn

from normbench.data.batches import Images
from normbench.training.loop import autocast

BATCH_SIZES = {"cuda": 5000, "mps": 1000, "cpu": 500}


@torch.inference_mode()
def logits(model: nn.Module, images: Images, pixels: Tensor, precision: str, batch_size: int | None = None) -> Tensor:
    """uint8 (N, C, H, W) -> float32 logits (N, classes) on the CPU, in evaluation mode.

    batch_size: None for as much as the device's memory takes; a given one is kept, as outputs may depend on it.
    """
    model.eval()
    device = images.pixels.device.type
    size = batch_size or BATCH_SIZES[device]
    out: list[Tensor] = []
    done = 0
    while done < len(pixels):
        try:
            with autocast(precision, device):
                out.append(model(images.normalized(pixels[done : done + size].to(device))).float())
            done += size
        except torch.OutOfMemoryError:
            if batch_size is not None or size == 1:
                raise
            size //= 2
            if device == "cuda":
                torch.cuda.empty_cache()
            print(f"out of memory: evaluating in batches of {size} from here on", file=sys.stderr, flush=True)
    return torch.cat(out).cpu()
