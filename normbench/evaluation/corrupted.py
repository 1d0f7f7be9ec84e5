"""Accuracy and calibration on clean and on corrupted test images: the part of the evaluation that always runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from normbench.data.batches import Pixels
from normbench.evaluation.calibration import accuracy, calibration, finite
from normbench.evaluation.subject import Scores, Subject
from normbench.training.logits import logits


def measure(subject: Subject, report: Callable[[int, str], None]) -> Scores:
    """Measures `calibration`, `corruption_accuracy` and `corruption_calibration`, and keeps the predicted classes.

    `corruption_accuracy` maps each corruption to a list with one accuracy per severity. `corruption_calibration` maps
    it to `nll`, `brier` and `ece`, each a list with one entry per severity. Predictions: `clean` (N,) and `corrupted`
    (names, severities, M); `names`, `severities` and `index` (M,) label the axes of the latter.
    report: called after each corruption with the number of corruptions done and the name of the last one.
    """
    names, severities = subject.corrupted.names, subject.corrupted.severities
    labels = subject.images.labels.cpu()
    targets = labels[subject.index]

    def scored(pixels: Pixels) -> Tensor:
        return finite(logits(subject.model, subject.images, pixels, subject.precision))

    clean = scored(subject.images.pixels)
    accuracies: dict[str, list[float]] = {}
    fits: dict[str, dict[str, list[float]]] = {}
    predicted: list[Tensor] = []
    for number, name in enumerate(names, start=1):
        found = [scored(pixels) for pixels in subject.corrupted_pixels(name)]
        accuracies[name] = [accuracy(each, targets) for each in found]
        each_fit = [calibration(each, targets) for each in found]
        fits[name] = {key: [fit[key] for fit in each_fit] for key in each_fit[0]}
        predicted += [each.argmax(1) for each in found]
        report(number, name)
    fit = calibration(clean, labels)
    named = clean.argmax(1)
    metrics: dict[str, Any] = {
        "collapsed": bool((named == named[0]).all() and (labels != labels[0]).any()),
        "calibration": fit,
        "corruption_accuracy": accuracies,
        "corruption_calibration": fits,
    }
    columns = fit | {f"corrupted_{key}": float(np.mean([fits[name][key] for name in names])) for key in fit}
    stacked = torch.stack(predicted).to(torch.int16).numpy()
    predictions = {
        "names": np.array(names),
        "severities": np.array(severities),
        "index": subject.index,
        "clean": clean.argmax(1).to(torch.int16).numpy(),
        "corrupted": stacked.reshape(len(names), len(severities), len(subject.index)),
    }
    return Scores(metrics, columns, predictions)
