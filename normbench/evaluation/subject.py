"""What the scores of the evaluation are measured on, and what they leave in a record."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from normbench.data.batches import Images, channels_first
from normbench.data.bound import Corrupted
from normbench.system.seeds import derive

LEVELS = 255  # of a pixel; lengths of attacks and radii are given in these


@dataclass(frozen=True)
class Subject:
    """A trained classifier and its test images, clean and corrupted.

    model: on its device, in evaluation mode. initial: makes the network with which its training began, and seeds
    torch's generators for that. images: the clean test images. index: the numbers (M,), ascending, of those whose
    corrupted copies are scored. precision: of the training. seed: the suite's, of all draws.
    """

    model: nn.Module
    initial: Callable[[], nn.Module]
    images: Images
    corrupted: Corrupted
    index: np.ndarray
    precision: str
    seed: int

    def drawn(self, purpose: str, count: int | None) -> Tensor:
        """The numbers of `count` test images, int64, on the CPU: drawn by the suite's seed, so the same for all runs.

        As many as there are, at most; all of them where `count` is None.
        """
        generator = torch.Generator().manual_seed(derive(self.seed, purpose))
        return torch.randperm(len(self.images), generator=generator)[:count]

    def corrupted_pixels(self, name: str) -> Iterator[Tensor]:
        """For each severity, the corrupted copies of the images `index`, uint8 (M, C, H, W), on the device."""
        stored = np.load(Path(self.corrupted.path) / f"{name}.npy", mmap_mode="r")
        for level in range(len(self.corrupted.severities)):
            block = stored[level * len(self.images) + self.index]
            yield channels_first(torch.from_numpy(block)).to(self.images.pixels.device)


def scored_images(count: int, seed: int, corrupted_examples: int | None) -> np.ndarray:
    """The numbers, ascending, of the test images whose corrupted copies are scored, of `count` test images.

    seed: the suite's, which draws them. corrupted_examples: how many there are to be; None for all of them.
    """
    generator = torch.Generator().manual_seed(derive(seed, "corrupted_examples"))
    return torch.randperm(count, generator=generator)[:corrupted_examples].sort().values.numpy()


@dataclass
class Scores:
    """What one score measured.

    metrics: entries for the record's `metrics`. columns: numbers for a row of results/robustness.csv, by column; whole
    numbers are counts. predictions: arrays of predicted classes, int16, for the file beside the record.
    """

    metrics: dict[str, Any] = field(default_factory=dict)
    columns: dict[str, float] = field(default_factory=dict)
    predictions: dict[str, np.ndarray] = field(default_factory=dict)
