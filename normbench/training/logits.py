"""The outputs of a classifier for many images, in batches as large as the device's memory allows."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from normbench.data.batches import Images
from normbench.system.text import complain
from normbench.training.loop import autocast

BATCH_SIZES = {"cuda": 5000, "mps": 1000, "cpu": 500}


@torch.inference_mode()
def logits(model: nn.Module, images: Images, pixels: Tensor, precision: str, batch_size: int | None = None) -> Tensor:
    """The logits of a classifier, float32 (N, classes) on the CPU. The model is put into evaluation mode.

    images: gives the device, the input normalization and the memory format. pixels: the images to classify, uint8
    (N, C, H, W). precision: `float32` or `bfloat16`. batch_size: None to start from a default for the device and halve
    it when memory runs out. A batch size that is given is never changed, as the outputs may depend on it.

    Raises torch.OutOfMemoryError if a batch of the given size, or a single image, does not fit into memory.
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
            complain(f"out of memory: evaluating in batches of {size} from here on")
    return torch.cat(out).cpu()
