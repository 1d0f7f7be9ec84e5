"""The scores of a trained network of segmentation on clean and on corrupted test images."""

from __future__ import annotations

import functools
from collections.abc import Callable, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from normbench.data.bound import Corrupted
from normbench.data.pixels import IGNORED
from normbench.data.scenes import Scenes
from normbench.evaluation.copies import Maker
from normbench.segmentation.confusion import confusion, scores
from normbench.segmentation.predictions import Taken, predicted
from normbench.segmentation.protocol import Protocol

SHOWN = 4  # test images whose predicted masks the report shows


@dataclass(frozen=True)
class Subject:
    """A trained network and its test images, clean and corrupted.

    model: on its device. scenes: the clean test images. corrupted: where their corrupted copies are. index: ascending
    numbers (M,) of the test images whose corrupted copies are scored. precision: that of the recipe. make: makes the
    copies if they are not stored.
    """

    model: nn.Module
    scenes: Scenes
    corrupted: Corrupted
    index: np.ndarray
    protocol: Protocol
    precision: str
    make: Maker | None = None

    def copies(self, name: str, level: int) -> tuple[Taken, np.ndarray]:
        """Images of which the copies of `index` under a corruption can be taken, and their numbers there, (M,).

        level: of the severity, from 0.
        """
        if self.make is not None:
            return Made(functools.partial(self.make, name, self.corrupted.severities[level])), self.index
        stored = np.load(Path(self.corrupted.path) / f"{name}.npy", mmap_mode="r")
        return stored, level * len(self.scenes) + self.index


@dataclass(frozen=True)
class Made:
    """Corrupted copies that are made when they are taken. make: returns them, uint8 (n, H, W, C), by their numbers."""

    make: Callable[[np.ndarray], np.ndarray]

    def __getitem__(self, numbers: np.ndarray) -> np.ndarray:
        return self.make(numbers)


@dataclass(frozen=True)
class Scored:
    """What was measured. metrics: entries for the record. arrays: for the file beside it."""

    metrics: dict[str, Any]
    arrays: dict[str, np.ndarray]


@dataclass
class Counts:
    """What the predictions of some images add up to.

    matrix: the confusion matrix over all of them. accuracies: the fraction of right pixels of each image; 1 for an
    image without a pixel that counts.
    """

    matrix: np.ndarray
    accuracies: list[float]


def measure(subject: Subject, report: Callable[[int, str], None]) -> Scored:
    """Measures the scores of clean and of corrupted images.

    Metrics: `collapsed`; `corruption_mean_iou` and `corruption_pixel_accuracy`, which map each corruption to a list of
    a number for each severity; and `columns`, both scores of the clean images and their means over all corruptions and
    severities. Arrays: `clean` (N,) and `corrupted` (names, severities, M), the fractions of right pixels of each
    image, with `names`, `severities` and `index` (M,) for their axes; `shown` (S,), the numbers of some test images,
    and `masks`, their predicted classes, uint8 (S, height, width).
    report: called after each corruption with the number of corruptions done and the name of the last one.
    """
    names, severities, count = subject.corrupted.names, subject.corrupted.severities, len(subject.scenes)
    shown = np.unique(np.linspace(0, count - 1, min(SHOWN, count)).astype(int))
    kept: dict[int, np.ndarray] = {}
    clean = counts(subject, subject.scenes.pixels, np.arange(count), np.arange(count), set(shown.tolist()), kept)
    ious: dict[str, list[float]] = {}
    accuracies: dict[str, list[float]] = {}
    by_image: list[list[float]] = []
    for number, name in enumerate(names, start=1):
        for level in range(len(severities)):
            found = counts(subject, *subject.copies(name, level), subject.index)
            values = scores(found.matrix, subject.protocol)
            ious.setdefault(name, []).append(values.mean_iou)
            accuracies.setdefault(name, []).append(values.pixel_accuracy)
            by_image.append(found.accuracies)
        report(number, name)
    of_clean = scores(clean.matrix, subject.protocol)
    columns = {"mean_iou": of_clean.mean_iou, "pixel_accuracy": of_clean.pixel_accuracy}
    columns |= {"corruption_mean_iou": float(np.mean([ious[name] for name in names]))} if names else {}
    columns |= {"corruption_pixel_accuracy": float(np.mean([accuracies[name] for name in names]))} if names else {}
    metrics = {
        "collapsed": int((clean.matrix.sum(0) > 0).sum()) < 2 <= int((clean.matrix.sum(1) > 0).sum()),
        "corruption_mean_iou": ious,
        "corruption_pixel_accuracy": accuracies,
        "columns": columns,
    }
    arrays = {
        "names": np.array(names),
        "severities": np.array(severities),
        "index": subject.index,
        "clean": np.array(clean.accuracies),
        "corrupted": np.array(by_image).reshape(len(names), len(severities), len(subject.index)),
        "shown": shown,
        "masks": np.stack([kept[number] for number in shown.tolist()]),
    }
    return Scored(metrics, arrays)


def counts(
    subject: Subject,
    pixels: Taken,
    rows: np.ndarray,
    truth: np.ndarray,
    keep: Set[int] = frozenset(),
    kept: dict[int, np.ndarray] | None = None,
) -> Counts:
    """Predicts some images, and counts.

    pixels: uint8 (N, H, W, C), of which `rows` are taken. truth: the numbers of the test images with their masks. keep:
    the numbers of those whose predictions are put into `kept`.
    """
    chosen, given = subject.protocol, subject.scenes
    matrix, accuracies, done = np.zeros((chosen.classes, chosen.classes), np.int64), list[float](), 0
    for batch in predicted(subject.model, given, pixels, rows, chosen, subject.precision):
        for found in batch:
            number = int(truth[done])
            classes = chosen.masks(given.masks[number][None])[0]
            matrix += confusion(classes, found, chosen.classes)
            counted = int((classes != IGNORED).sum())
            accuracies.append(float((found == classes).sum() / counted) if counted else 1.0)
            if kept is not None and number in keep:
                kept[number] = found
            done += 1
    return Counts(matrix, accuracies)
