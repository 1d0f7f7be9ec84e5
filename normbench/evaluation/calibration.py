"""How well a classifier's probabilities fit: negative log-likelihood, Brier score, expected calibration error."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

BINS = 15  # Guo et al., arXiv 1706.04599


def calibration(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Of logits (N, classes) and labels (N,): `nll` in nats, `brier` (sum over classes, 0 to 2), `ece` (0 to 1)."""
    from torchmetrics.functional.classification import multiclass_calibration_error

    logits = logits.double()
    probabilities = logits.softmax(1)
    truth = functional.one_hot(labels, logits.shape[1])
    ece = multiclass_calibration_error(probabilities, labels, num_classes=logits.shape[1], n_bins=BINS, norm="l1")
    return {
        "nll": float(functional.cross_entropy(logits, labels)),
        "brier": float((probabilities - truth).square().sum(1).mean()),
        "ece": float(ece),
    }


def accuracy(logits: Tensor, labels: Tensor) -> float:
    return float((logits.argmax(1) == labels).double().mean())


def finite(logits: Tensor) -> Tensor:
    """Logits that can be scored: what is not a number is the least likely class."""
    return torch.nan_to_num(logits, nan=-1e30, posinf=1e30, neginf=-1e30)
