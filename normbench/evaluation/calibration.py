"""The quality of predicted probabilities: negative log-likelihood, Brier score and expected calibration error."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

BINS = 15  # bins of confidence, as in Guo et al., arXiv 1706.04599


def calibration(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Calibration metrics, averaged over images: `nll` in nats, `brier` (0 to 2, summed over classes), `ece` (0 to 1).

    logits: (N, classes). labels: int64 (N,).
    """
    logits = logits.double()
    probabilities = logits.softmax(1)
    truth = functional.one_hot(labels, logits.shape[1])
    return {
        "nll": float(functional.cross_entropy(logits, labels)),
        "brier": float((probabilities - truth).square().sum(1).mean()),
        "ece": float(expected_calibration_error(probabilities, labels)),
    }


def expected_calibration_error(probabilities: Tensor, labels: Tensor) -> Tensor:
    """The expected calibration error, 0-d, 0 to 1: |accuracy - confidence| of each bin, weighted by its images.

    probabilities: (N, classes). labels: (N,). The same as torchmetrics' `multiclass_calibration_error` with the 1-norm,
    which is not used because importing it takes longer than all scores of a run.
    """
    confidence, predicted = probabilities.max(1)
    bins = (confidence * BINS).ceil().long().clamp(1, BINS) - 1
    gaps = confidence.new_zeros(BINS).index_add_(0, bins, (predicted == labels).to(confidence) - confidence)
    return gaps.abs().sum() / len(labels)


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """The fraction of images classified correctly. logits: (N, classes). labels: (N,)."""
    return float((logits.argmax(1) == labels).double().mean())


def finite(logits: Tensor) -> Tensor:
    """Logits with NaN replaced by -1e30, which makes that class the least likely, and infinities by +-1e30."""
    return torch.nan_to_num(logits, nan=-1e30, posinf=1e30, neginf=-1e30)
