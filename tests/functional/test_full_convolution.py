"""The full convolution: values and gradients of torch's convolution in float64, whose kernels are none of oneDNN's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional

from normbench.functional.convolution import full_conv2d
from tests.oracles import layers as oracles
from tests.oracles.operators import spread


@pytest.mark.parametrize("kernel", [(3, 3), (5, 5), (1, 5), (3, 1), (2, 4), (1, 1)], ids=str)
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-5)])
def test_values_and_gradients(kernel: Any, groups: int, last: bool, dtype: torch.dtype, tolerance: float) -> None:
    generator = torch.Generator().manual_seed(0)
    form = torch.channels_last if last else torch.contiguous_format
    exact = [
        torch.randn(shape, generator=generator, dtype=torch.float64).contiguous(memory_format=form)
        for shape in ((3, 4, 6, 7), (8, 4 // groups, *kernel))
    ]
    x, weight = (each.to(dtype).requires_grad_() for each in exact)
    a, b = (each.requires_grad_() for each in exact)
    y = full_conv2d(x, weight, groups)
    wanted = functional.conv2d(a, b, padding=(kernel[0] - 1, kernel[1] - 1), groups=groups)
    assert y.shape == (3, 8, 6 + kernel[0] - 1, 7 + kernel[1] - 1)
    gradient = torch.randn(y.shape, generator=generator, dtype=torch.float64).contiguous(memory_format=form)
    y.backward(gradient.to(dtype))
    wanted.backward(gradient)
    for found, value in ((y, wanted), (x.grad, a.grad), (weight.grad, b.grad)):
        assert found.is_contiguous(memory_format=form)
        assert oracles.relative_error(found.detach().double(), value) <= tolerance


@pytest.mark.parametrize(("dilation", "groups"), [((2, 2), 1), ((1, 3), 2)])
def test_a_dilated_kernel(dilation: tuple[int, int], groups: int) -> None:
    """As the kernel with zeros between its taps."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 4, 5, 6, generator=generator, dtype=torch.float64)
    weight = torch.randn(6, 4 // groups, 3, 3, generator=generator, dtype=torch.float64)
    found, expected = full_conv2d(x, weight, groups, dilation), full_conv2d(x, spread(weight, dilation), groups)
    assert found.shape == expected.shape
    assert oracles.relative_error(found, expected) <= 1e-13


@pytest.mark.parametrize("of_x", [True, False])
@pytest.mark.parametrize("of_weight", [True, False])
def test_gradients_that_nobody_wants_are_not_computed(of_x: bool, of_weight: bool) -> None:
    x, weight = torch.randn(2, 3, 4, 4).requires_grad_(of_x), torch.randn(5, 3, 3, 3).requires_grad_(of_weight)
    y = full_conv2d(x, weight)
    assert y.requires_grad == (of_x or of_weight)
    if y.requires_grad:
        y.sum().backward()
    assert (x.grad is not None) == of_x
    assert (weight.grad is not None) == of_weight


def test_autocast() -> None:
    """bfloat16, as any convolution; the weight's gradient comes back in float32; float64 is left as it is."""
    x, weight = torch.randn(2, 3, 4, 4).requires_grad_(), torch.randn(5, 3, 3, 3).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = full_conv2d(x, weight)
        wanted = functional.conv2d(x, weight, padding=2)
        double = full_conv2d(x.double(), weight.double())
    assert y.dtype == wanted.dtype == torch.bfloat16
    assert torch.equal(y, wanted)
    assert double.dtype == torch.float64
    y.float().square().sum().backward()
    assert x.grad.dtype == weight.grad.dtype == torch.float32
    assert oracles.relative_error(weight.grad, torch.autograd.grad(wanted.float().square().sum(), weight)[0]) <= 0.02
