"""Fixup against its formulas."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from normbench.methods.fixup import Fixup
from normbench.models import registry as models


@pytest.fixture
def model() -> torch.nn.Module:
    torch.manual_seed(0)
    method = Fixup()
    network = models.classifier("resnet20", {"width": 32}, method, 3, 10)
    method.initialize(network)
    return network


def test_initial_weights(model: torch.nn.Module) -> None:
    """ResNet-20 has nine branches of two convolutions."""
    blocks = [block for stage in model.stages for block in stage]
    assert len(blocks) == 9
    for block in blocks:
        first, last = block.conv1.layer.weight, block.conv2.layer.weight
        assert first.std().item() == pytest.approx(math.sqrt(2 / (first.shape[0] * 9)) / math.sqrt(9), rel=0.05)
        assert not last.any()
    shortcut = model.stages[1][0].shortcut[0].layer.weight
    assert shortcut.std().item() == pytest.approx(math.sqrt(2 / shortcut.shape[0]), rel=0.1)
    assert not model(torch.randn(2, 3, 8, 8)).any()  # the classifier is zero


def test_three_convolutions_a_branch() -> None:
    torch.manual_seed(0)
    network = models.classifier("resnext29_2x64d", {}, Fixup(), 3, 10)
    Fixup().initialize(network)
    block = network.stages[0][0]
    shapes = [layer.layer.weight.shape for layer in (block.conv1, block.conv2)]
    branches = sum(len(stage) for stage in network.stages)
    for layer, shape in zip((block.conv1, block.conv2), shapes, strict=True):
        fan_out = shape[0] * shape[2] * shape[3] / layer.layer.groups
        expected = math.sqrt(2 / fan_out) * branches**-0.25
        assert layer.layer.weight.std().item() == pytest.approx(expected, rel=0.05)


def test_a_block_is_the_formula(model: torch.nn.Module) -> None:
    block = model.stages[0][0].double()
    torch.manual_seed(1)
    for parameter in block.parameters():
        parameter.data.normal_()
    x = torch.randn(2, 32, 6, 6, dtype=torch.float64)
    b1a, w1, b1b = block.conv1.shift.bias, block.conv1.layer.weight, block.norm1.bias
    b2a, w2, scale, b2b = block.conv2.shift.bias, block.conv2.layer.weight, block.norm2.scale, block.norm2.bias
    y = functional.relu(functional.conv2d(x + b1a, w1, padding=1) + b1b)
    y = functional.conv2d(y + b2a, w2, padding=1) * scale + b2b
    assert torch.allclose(block(x), functional.relu(y + x), rtol=0, atol=1e-12)


def test_scalars_learn_at_a_tenth_of_the_rate(model: torch.nn.Module) -> None:
    rest, scalars = Fixup().param_groups(model, 0.1, 5e-4)
    assert scalars["lr"] == pytest.approx(0.01)
    # Stem, four and a scale for each of nine blocks, one in front of each of two shortcuts, one of the classifier.
    assert [p.numel() for p in scalars["params"]] == [1] * (1 + 9 * 5 + 2 + 1)
    assert all(p.numel() > 1 for p in rest["params"])
