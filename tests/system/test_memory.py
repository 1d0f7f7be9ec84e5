"""The memory that a training step holds."""

from __future__ import annotations

import torch
from torch import nn

from normbench.system import memory


def test_live_bytes():
    with memory.LiveBytes() as live:
        a = torch.zeros(1000)  # 4000 bytes
        b = a + 1  # 8000 together
        view = b.view(10, 100)  # no memory of its own
        del a
        c = view * 2  # 8000 again
        del b, view, c
        torch.zeros(500)
    assert live.peak == 8000
    assert live.live == 0


def test_step_memory_counts_parameters_momentum_and_what_a_step_holds():
    model = nn.Linear(100, 10, bias=False)
    x = torch.randn(50, 100)

    def step() -> None:
        y = model(x)
        y.sum().backward()
        model.weight.grad = None

    weight = 100 * 10 * 4
    taken = memory.step_memory(model, step, "cpu")
    assert taken >= 2 * weight + weight + 50 * 10 * 4  # and its gradient, and the output
    assert taken < 2 * weight + 3 * weight + 4 * 50 * 10 * 4
