"""The scores of segmentation: IoU and accuracy from one confusion matrix over all pixels of a set of images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from normbench.data.pixels import IGNORED
from normbench.segmentation.protocol import EPSILON, Protocol


def confusion(truth: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """How many pixels of each class, by row, were given each class, by column; int64 (classes, classes).

    truth, predicted: uint8 of one shape. Pixels whose truth is no class, such as `IGNORED`, are left out.
    """
    counts = truth < min(classes, IGNORED)
    places = truth[counts].astype(np.int64) * classes + predicted[counts]
    return np.bincount(places, minlength=classes * classes).reshape(classes, classes)


@dataclass(frozen=True)
class Scores:
    """Fractions of 1. iou: by class, None where no pixel has the class or was given it. mean_iou: over the others."""

    mean_iou: float
    pixel_accuracy: float
    iou: list[float | None]


def scores(matrix: np.ndarray, protocol: Protocol) -> Scores:
    """The scores of a confusion matrix: see `confusion`.

    The IoU of a class is the number of pixels that have it and were given it, divided by the number of those that have
    it or were given it. With the authors' protocol both denominators are larger by 1e-5, and the mean is over all
    classes of the network.
    """
    hit, union = np.diag(matrix).astype(float), (matrix.sum(1) + matrix.sum(0) - np.diag(matrix)).astype(float)
    total = float(matrix.sum())
    if protocol.void:
        iou = hit / (union + EPSILON)
        return Scores(float(iou.mean()), float(hit.sum() / (total + EPSILON)), iou.tolist())
    known = union > 0
    iou = hit[known] / union[known]
    by_class = [float(hit[label] / union[label]) if known[label] else None for label in range(len(hit))]
    return Scores(float(iou.mean()) if len(iou) else 0.0, float(hit.sum() / total) if total else 0.0, by_class)
