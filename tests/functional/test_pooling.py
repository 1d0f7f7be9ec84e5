"""Average pooling to a given size."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from normbench.functional.pooling import AveragePool


@pytest.mark.parametrize("shape", [(5, 5), (4, 4), (6, 9), (12, 12), (1, 3)])
def test_the_same_as_adaptive_pooling(shape: tuple[int, int]) -> None:
    """In the values and in the gradient, to fewer pixels and to more."""
    x = torch.randn(2, 3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    found, expected = AveragePool(5)(x), functional.adaptive_avg_pool2d(x, 5)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    weights = torch.randn(found.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    gradients = [torch.autograd.grad((y * weights).sum(), x)[0] for y in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)


def test_maps_of_the_size_are_kept() -> None:
    x = torch.randn(2, 3, 5, 5)
    assert AveragePool(5)(x) is x
