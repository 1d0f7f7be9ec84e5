"""Networks whose parametrized weights are computed together, against the same ones computed where they are used."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from normbench.functional import placement
from normbench.methods.base import Method
from normbench.models.build import build_classifier
from normbench.system.schema import MemoryFormat
from tests.oracles.layers import relative_error
from tests.support.dispatch import same_strides


def network(method: Method, seed: int = 0) -> nn.Module:
    """Kernels of several sizes, depth-wise ones among them, and a linear layer, in float64."""
    return build_classifier("mobilenet_v2", {"width": 4}, method, 3, 5, seed=seed).double()


def images(seed: int = 0, count: int = 4) -> Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def same_as_alone(method: Method, alone: Method, layout: MemoryFormat) -> None:
    """Outputs, gradients and buffers over two steps, then the evaluation, from one state.

    alone: a method whose layers compute their weights themselves. The gradients have the strides of their parameters.
    """
    model, reference = network(method), network(alone, seed=1)
    model(images(9))  # some buffers take the size of the images
    reference.load_state_dict(model.state_dict())
    model = model.to(memory_format=placement.FORMATS[layout])
    for seed in range(2):
        outputs = []
        for each in (model, reference):
            each.zero_grad()
            y = each(images(seed))
            y.sin().sum().backward()
            outputs.append(y.detach())
        assert relative_error(*outputs) <= 1e-11
        for (name, found), expected in zip(model.named_parameters(), reference.parameters(), strict=True):
            largest = expected.grad.abs().max().item()
            assert torch.allclose(found.grad, expected.grad, rtol=0, atol=1e-9 * largest + 1e-12), name
            assert same_strides(found, found.grad), name
        for (name, found), expected in zip(model.named_buffers(), reference.buffers(), strict=True):
            assert torch.allclose(found, expected, atol=1e-10), name
        with torch.no_grad():
            for each in (model, reference):
                for parameter in each.parameters():
                    parameter.sub_(parameter.grad, alpha=1e-4)
    with torch.no_grad():
        assert relative_error(model.eval()(images(5)), reference.eval()(images(5))) <= 1e-9
