"""How well a classifier's probabilities fit: negative log-likelihood, Brier score, expected calibration error."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

BINS = 15  # Guo et al., arXiv 1706.04599


def calibration(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Of logits (N, classes) and labels (N,): `nll` in nats, `brier` (sum over classes, 0 to 2), `ece` (0 to 1)."""
    logits = logits.double()
    probabilities = logits.softmax(1)
    truth = functional.one_hot(labels, logits.shape[1])
    return {
        "nll": float(functional.cross_entropy(logits, labels)),
        "brier": float((probabilities - truth).square().sum(1).mean()),
        "ece": float(expected_calibration_error(probabilities, labels)),
    }


def expected_calibration_error(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Mean over images of |accuracy - confidence| of their bin of confidence, () in 0 to 1.

    As torchmetrics' `multiclass_calibration_error` with the 1-norm, whose import takes longer than all scores of a run.
    """
    confidence, predicted = probabilities.max(1)
    bins = (confidence * BINS).ceil().long().clamp(1, BINS) - 1
    gaps = torch.zeros(BINS, dtype=confidence.dtype).index_add_(
        0, bins, (predicted == labels).to(confidence) - confidence
    )
    return gaps.abs().sum() / len(labels)


def accuracy(logits: Tensor, labels: Tensor) -> float:
    return float((logits.argmax(1) == labels).double().mean())


def finite(logits: Tensor) -> Tensor:
    """Logits that can be scored: what is not a number is the least likely class."""
    return torch.nan_to_num(logits, nan=-1e30, posinf=1e30, neginf=-1e30)
