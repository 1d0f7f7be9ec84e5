"""Corrupted copies of test images that are computed, or read, when they are scored."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from normbench.data import workers
from normbench.data.batches import channels_first
from normbench.system import side_by_side

# Returns corrupted copies of test images, uint8 (n, H, W, C), given the name of a corruption, a severity and the
# numbers (n,) of the images.
Maker = Callable[[str, int, np.ndarray], np.ndarray]


class Copies:
    """`Pixels` that are the copies of some test images under one corruption and severity.

    make: returns copies by the numbers of their images, uint8 (n, H, W, C). index: the numbers of the images, (M,).
    shape: of the copies, (M, C, H, W). device: of the pixels that are taken. forked: whether other processes may make
    them; the bytes do not depend on it.
    """

    def __init__(
        self,
        make: Callable[[np.ndarray], np.ndarray],
        index: np.ndarray,
        shape: torch.Size,
        device: torch.device,
        forked: bool,
    ):
        self.make, self.index, self.shape, self.device, self.forked = make, index, shape, device, forked

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: Any) -> Tensor:
        chosen = self.index[index.cpu().numpy() if isinstance(index, Tensor) else index]
        return self.made(chosen).to(self.device)

    def made(self, chosen: np.ndarray) -> Tensor:
        """The copies of the images with these numbers, on the CPU."""
        return channels_first(torch.from_numpy(self.make(chosen)))

    def pieces(self, size: int) -> Iterator[Tensor]:
        """Yields all copies in their order, `size` at a time, of which other processes make some ahead."""

        def piece(number: int) -> Tensor:
            return self.made(self.index[number * size : (number + 1) * size])

        count = -(-len(self.index) // size)
        beside = workers.count() if self.forked and side_by_side.FORKS else 0
        for made in workers.batches(piece, 0, count, beside if beside > 1 else 0):
            yield made.to(self.device)
