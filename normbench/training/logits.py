"""The outputs of a classifier for many images, in batches of a size that follows from the size of the images."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from normbench.data.batches import Images, InPieces, Pixels
from normbench.system.text import complain
from normbench.training.loop import autocast

BATCH_SIZES = {"cuda": 5000, "mps": 1000, "cpu": 500}  # images of up to `SIDE` x `SIDE` pixels
SIDE = 32
FORCED = 2  # torch's number for deterministic kernels alone (see `normbench.system.device.prepare`)


def default_batch_size(pixels: Pixels, kind: str) -> int:
    """How many images are classified at once: fewer if they are larger, in proportion to their pixels.

    pixels: the images, (N, C, H, W). kind: of the device. It does not depend on the memory that is free, which other
    processes may be about to take, because the outputs may depend on it.
    """
    height, width = pixels.shape[-2:]
    return max(1, BATCH_SIZES[kind] * SIDE**2 // max(SIDE**2, height * width))


@torch.inference_mode()
def logits(model: nn.Module, images: Images, pixels: Pixels, precision: str, batch_size: int | None = None) -> Tensor:
    """The logits of a classifier, float32 (N, classes) on the CPU. The model is put into evaluation mode.

    images: gives the device, the input normalization and the memory format. pixels: the images to classify, uint8
    (N, C, H, W). precision: that of the recipe. batch_size: None for the default. Only that is halved, with a line on
    stderr, when memory runs out, unless kernels have to be deterministic.

    Raises torch.OutOfMemoryError if a batch that must not be halved, or a single image, does not fit into memory.
    """
    model.eval()
    device = images.pixels.device.type
    size = batch_size or default_batch_size(pixels, device)
    fixed = batch_size is not None or torch.get_deterministic_debug_mode() == FORCED
    out: list[Tensor] = []
    for piece in pieces(pixels, size):
        done = 0
        while done < len(piece):
            try:
                with autocast(precision, device):
                    out.append(model(images.normalized(piece[done : done + size].to(device))).float())
                done += size
            except torch.OutOfMemoryError:
                if fixed or size == 1:
                    raise
                size //= 2
                if device == "cuda":
                    torch.cuda.empty_cache()
                complain(f"out of memory: evaluating in batches of {size} from here on")
    return torch.cat(out).cpu()


def pieces(pixels: Pixels, size: int) -> Iterator[Tensor]:
    """Yields all images in their order, `size` at a time."""
    if isinstance(pixels, InPieces):
        yield from pixels.pieces(size)
    else:
        for start in range(0, len(pixels), size):
            yield pixels[start : start + size]
