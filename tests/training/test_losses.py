"""Losses with a margin: by their definitions, by torch's own, and by the radius that they promise."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from normbench.training.losses import hinge, offset_cross_entropy


def drawn(count: int = 7, classes: int = 5) -> tuple[Tensor, Tensor]:
    chance = torch.Generator().manual_seed(0)
    return (
        torch.randn(count, classes, generator=chance, dtype=torch.float64),
        torch.randint(classes, (count,), generator=chance),
    )


@pytest.mark.parametrize("margin", [0.0, 0.3, 2.0])
def test_the_hinge_loss_is_that_of_torch(margin: float) -> None:
    logits, labels = drawn()
    logits.requires_grad_()
    found, expected = hinge(logits, labels, margin), functional.multi_margin_loss(logits, labels, margin=margin)
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)
    gradients = [torch.autograd.grad(each, logits)[0] for each in (found, expected)]
    assert torch.allclose(*gradients, rtol=0, atol=1e-15)


def test_the_hinge_loss_by_its_definition() -> None:
    """And the gradient of a margin: the share of the pairs that it is not kept by."""
    logits, labels = drawn()
    margin = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    total, active = 0.0, 0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        for other, value in enumerate(row):
            if other != label and (term := 0.7 - row[label] + value) > 0:
                total, active = total + term, active + 1
    loss = hinge(logits, labels, margin)
    loss.backward()
    assert loss.item() == pytest.approx(total / logits.numel(), rel=1e-12)
    assert margin.grad is not None
    assert margin.grad.item() == pytest.approx(active / logits.numel(), rel=1e-12)


@pytest.mark.parametrize(
    ("margin", "temperature", "smoothing"), [(0.4, 1.0, 0.0), (2**0.5, 0.25, 0.0), (1.0, 2.0, 0.2)]
)
def test_the_offset_cross_entropy_by_its_definition(margin: float, temperature: float, smoothing: float) -> None:
    logits, labels = drawn()
    expected = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        moved = [(value - margin * (other == label)) / temperature for other, value in enumerate(row)]
        total = math.log(sum(map(math.exp, moved)))
        targets = [smoothing / 5 + (1 - smoothing) * (other == label) for other in range(5)]
        expected += sum(share * (total - value) for share, value in zip(targets, moved, strict=True))
    found = offset_cross_entropy(logits, labels, margin, temperature, smoothing)
    assert found.item() == pytest.approx(temperature * expected / len(labels), rel=1e-12)


def test_without_a_margin_it_is_the_cross_entropy() -> None:
    logits, labels = drawn()
    expected = functional.cross_entropy(logits, labels)
    assert offset_cross_entropy(logits, labels, 0.0, 1.0, 0.0).item() == pytest.approx(expected.item(), rel=1e-12)


def test_a_margin_keeps_the_prediction_within_its_radius() -> None:
    """Of orthogonal logits: the nearest other class is sqrt(2) * epsilon * L away in logits, at epsilon in the input."""
    rows = torch.linalg.qr(torch.randn(6, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64))[0].T
    epsilon, norm = 0.8, 2.5
    weight, label = norm * rows, torch.tensor([0])
    x = rows[0] * epsilon * math.sqrt(2)  # logits (sqrt(2) * epsilon * norm, 0, 0)
    margin = math.sqrt(2) * epsilon * norm
    assert hinge((weight @ x)[None], label, margin * (1 - 1e-12)).item() == 0
    assert hinge((weight @ x)[None], label, margin * (1 + 1e-6)).item() > 0
    direction = (rows[1] - rows[0]) / math.sqrt(2)
    for radius, kept in ((epsilon * (1 - 1e-9), True), (epsilon * (1 + 1e-9), False)):
        assert ((weight @ (x + radius * direction)).argmax() == 0) == kept
