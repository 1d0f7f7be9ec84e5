"""The outputs of a network of segmentation for many images, in batches of a size that follows from theirs."""

from __future__ import annotations

import typing
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from normbench.data.scenes import Scenes
from normbench.segmentation.protocol import Protocol
from normbench.system.transfer import to_device
from normbench.training.logits import BATCH_SIZES, SIDE
from normbench.training.optimization import autocast


class Taken(typing.Protocol):
    """Images of which some are taken by their numbers (n,): uint8 (n, H, W, C)."""

    def __getitem__(self, numbers: np.ndarray, /) -> np.ndarray: ...


def batch_size(protocol: Protocol, device: str) -> int:
    """How many images pass through the network at once: as many pixels as of small images that are classified."""
    return max(1, BATCH_SIZES[device] * SIDE**2 // max(SIDE**2, protocol.height * protocol.width))


def logits(
    model: nn.Module,
    scenes: Scenes,
    pixels: Taken,
    rows: np.ndarray,
    protocol: Protocol,
    precision: str,
) -> Iterator[Tensor]:
    """Yields the logits of some images batch by batch, float32 (B, K, height, width) on the device.

    The model is put into evaluation mode. scenes: gives the device and the normalization. pixels: uint8 (N, H, W, C),
    of which `rows` are taken. protocol: gives the size at which they are scored. precision: that of the recipe.
    """
    model.eval()
    size = batch_size(protocol, scenes.device)
    for start in range(0, len(rows), size):
        images = protocol.images(pixels[rows[start : start + size]])
        given = to_device(torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))), scenes.device)
        with torch.inference_mode(), autocast(precision, scenes.device):
            found = model(scenes.normalized(given)).float()
        yield found


def predicted(
    model: nn.Module,
    scenes: Scenes,
    pixels: Taken,
    rows: np.ndarray,
    protocol: Protocol,
    precision: str,
) -> Iterator[np.ndarray]:
    """Yields the predicted classes of some images batch by batch, uint8 (B, height, width); see `logits`."""
    for found in logits(model, scenes, pixels, rows, protocol, precision):
        yield found.argmax(1).to(torch.uint8).cpu().numpy()
