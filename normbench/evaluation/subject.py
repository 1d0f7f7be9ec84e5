"""The input of every score, a trained classifier with its test images, and the output, what goes into the record."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from normbench.data.batches import Images, Pixels, channels_first
from normbench.data.bound import Corrupted
from normbench.evaluation.copies import Copies, Maker
from normbench.system.seeds import derive

LEVELS = 255  # the largest value of a pixel; sizes of attacks and radii are in units of 1/LEVELS


@dataclass(frozen=True)
class Subject:
    """A trained classifier and its test images, clean and corrupted.

    model: on its device, in evaluation mode. initial: builds the network as it was before training, and seeds torch's
    generators for that. images: the clean test images. corrupted: where their corrupted copies are. index: ascending
    indices (M,) of the test images whose corrupted copies are evaluated. precision: that of the
    recipe. seed: the suite's, of all random draws. make: makes the corrupted copies if they are not stored. forked:
    whether other processes may do so.
    """

    model: nn.Module
    initial: Callable[[], nn.Module]
    images: Images
    corrupted: Corrupted
    index: np.ndarray
    precision: str
    seed: int
    make: Maker | None = None
    forked: bool = False

    def drawn(self, purpose: str, count: int | None) -> Tensor:
        """Indices of `count` random test images, or of all of them if `count` is None or too large; int64, on the CPU.

        They depend on the suite's seed and on `purpose`, so they are the same for all runs.
        """
        generator = torch.Generator().manual_seed(derive(self.seed, purpose))
        return torch.randperm(len(self.images), generator=generator)[:count]

    def corrupted_pixels(self, name: str) -> Iterator[Pixels]:
        """Yields, for each severity, the copies of the test images `index` under a corruption, uint8 (M, C, H, W).

        If copies are not stored they are made when they are indexed.
        """
        if self.make is not None:
            shape = torch.Size((len(self.index), *self.images.pixels.shape[1:]))
            for severity in self.corrupted.severities:
                of_severity = functools.partial(self.make, name, severity)
                yield Copies(of_severity, self.index, shape, self.images.pixels.device, self.forked)
            return
        stored = np.load(Path(self.corrupted.path) / f"{name}.npy", mmap_mode="r")
        for level in range(len(self.corrupted.severities)):
            block = stored[level * len(self.images) + self.index]
            yield channels_first(torch.from_numpy(block).to(self.images.pixels.device))


def scored_images(count: int, seed: int, corrupted_examples: int | None) -> np.ndarray:
    """Ascending indices (M,) of the test images whose corrupted copies are evaluated, a random subset.

    count: the number of test images. seed: the suite's. corrupted_examples: the size M of the subset; None for all.
    """
    generator = torch.Generator().manual_seed(derive(seed, "corrupted_examples"))
    return torch.randperm(count, generator=generator)[:corrupted_examples].sort().values.numpy()


@dataclass
class Scores:
    """The results of one score.

    metrics: entries for `metrics` in the record. columns: values for a row of results/robustness.csv, by column name;
    an int is a count. predictions: arrays of predicted classes, int16, of numbers of images, int32, or of certified
    radii, float64, for the predictions file next to the record. missing: columns that this network cannot have, with
    the reason in a few words, for the tables.
    """

    metrics: dict[str, Any] = field(default_factory=dict)
    columns: dict[str, float] = field(default_factory=dict)
    predictions: dict[str, np.ndarray] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
