"""Accuracy and calibration against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from normbench.evaluation.calibration import accuracy, calibration, finite


def test_calibration_by_hand() -> None:
    """Two bins of predictions, one too confident by 0.3, one not confident enough by 0.25."""
    confident, hesitant = torch.tensor([0.9, 0.1]).log(), torch.tensor([0.25, 0.75]).log()
    logits = torch.stack([confident] * 5 + [hesitant] * 4)
    labels = torch.tensor([0, 0, 0, 1, 1, 1, 1, 1, 1])
    found = calibration(logits, labels)
    assert found["ece"] == pytest.approx((5 * 0.3 + 4 * 0.25) / 9)
    assert found["nll"] == pytest.approx(-(3 * np.log(0.9) + 2 * np.log(0.1) + 4 * np.log(0.75)) / 9)
    assert found["brier"] == pytest.approx((3 * 0.02 + 2 * 2 * 0.81 + 4 * 2 * 0.0625) / 9)
    assert accuracy(logits, labels) == pytest.approx(7 / 9)


def test_calibration_error_is_that_of_torchmetrics() -> None:
    from torchmetrics.functional.classification import multiclass_calibration_error

    torch.manual_seed(0)
    for scale in (0.1, 1.0, 5.0):
        logits, labels = scale * torch.randn(500, 7, dtype=torch.float64), torch.randint(7, (500,))
        expected = multiclass_calibration_error(logits.softmax(1), labels, num_classes=7, n_bins=15, norm="l1")
        assert calibration(logits, labels)["ece"] == pytest.approx(float(expected), rel=1e-6)


def test_logits_that_are_not_numbers_are_scored_as_wrong() -> None:
    logits = finite(torch.tensor([[float("nan"), 1.0], [float("inf"), 0.0]]))
    assert logits.argmax(1).tolist() == [1, 0]
    assert np.isfinite(calibration(logits, torch.tensor([1, 0]))["ece"])
