"""The layers under torch.compile: in one graph, and equal to what they are without it."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator

import pytest
import torch
from torch import nn
from torch._dynamo import config
from torch._dynamo.testing import CompileCounterWithBackend

from normbench.methods.conv_norm import ConvNorm2d, compute_ahead, end_pass
from tests.support import layer_cases

COMPILED = [
    "DeconvConv2d",
    "DeconvConv2d, 1x1, strided",
    "DeconvConv2d, frozen",
    "DeconvLinear",
    "ChannelDeconv",
    "ConvNorm2d",
    "ConvNorm2d, 1x1",
    "SpectralBatchNorm2d, half",
    "SpectralBatchNorm2d, full",
    "SpectralBatchNorm2d, frequency",
    "AfterBatchNorm",
    "BatchInstanceNorm2d",
    "EvoNormB0",
    "IterNorm2d",
    "SwitchableNorm2d",
    "VariedBatchNorm2d",
]


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compiled(layer: nn.Module) -> tuple[nn.Module, CompileCounterWithBackend]:
    """The whole layer as one graph, run by torch's own kernels; a second graph or a part left out is an error."""
    counter = CompileCounterWithBackend("aot_eager")
    return torch.compile(layer, fullgraph=True, backend=counter), counter


def same_step(layer: nn.Module, reference: nn.Module, run: nn.Module, x: torch.Tensor, tolerance: float) -> None:
    """Output, gradients and state of the compiled form `run` of a layer, and of its reference."""
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    y, expected = run(a), reference(b)
    weights = torch.arange(y.numel(), dtype=torch.float64).view(y.shape).sin().to(y)
    layer.zero_grad(), reference.zero_grad()
    (y * weights).sum().backward()
    (expected * weights).sum().backward()
    found = (y.detach(), a.grad, *[p.grad for p in layer.parameters()])
    wanted = (expected.detach(), b.grad, *[p.grad for p in reference.parameters()])
    assert layer_cases.agree(found, wanted, tolerance)
    states = layer_cases.state(layer), layer_cases.state(reference)
    assert states[0].keys() == states[1].keys()
    for key, value in states[1].items():
        assert torch.allclose(states[0][key], value, rtol=tolerance, atol=tolerance), key
        assert not states[0][key].requires_grad


@pytest.mark.parametrize("name", COMPILED)
def test_training_and_evaluation(name: str) -> None:
    """Two steps and an evaluation; the second step runs what was compiled for the first."""
    layer = layer_cases.layer(name)
    reference = copy.deepcopy(layer)
    (run, counter), graphs = compiled(layer), []
    for step in range(3):
        if step == 2:
            layer.eval(), reference.eval()
        same_step(layer, reference, run, layer_cases.images(name, step), 1e-12)
        graphs.append(counter.frame_count)
    first_step_differs = "frozen" in name or "frequency" in name  # its count, or the size of its images, is new
    assert graphs[1] - graphs[0] == first_step_differs
    assert graphs[2] - graphs[1] == 1


@pytest.mark.parametrize("name", ["DeconvConv2d, 1x1, strided", "ConvNorm2d", "AfterBatchNorm"])
def test_a_last_batch_that_is_smaller(name: str) -> None:
    """Batches of other sizes, of which the compiler makes one more graph for any size."""
    layer = layer_cases.layer(name)
    reference = copy.deepcopy(layer)
    run, counter = compiled(layer)
    for seed, count in enumerate((6, 5, 4)):
        same_step(layer, reference, run, layer_cases.images(name, seed, count), 1e-12)
    assert counter.frame_count == 2


def test_square_images() -> None:
    """Whose rows and columns have the same Fourier matrix: torch.compile does not pass a tensor twice."""
    layer = layer_cases.layer("ConvNorm2d")
    reference = copy.deepcopy(layer)
    run, counter = compiled(layer)
    for seed in range(2):
        same_step(layer, reference, run, layer_cases.images("ConvNorm2d", seed, size=(8, 8)), 1e-12)
    assert counter.frame_count == 1


@config.patch(wrap_top_frame=True)  # as normbench.training.compilation sets it
def test_what_is_computed_ahead() -> None:
    """Under autocast, which a compiler does not see on fake tensors (see `tests.gpu.test_compiled`)."""
    torch.manual_seed(0)
    network = nn.Sequential(*(ConvNorm2d(4, 4, size, padding=size // 2, batch_norm=False) for size in (3, 3, 1)))
    network.register_forward_pre_hook(lambda network, _: compute_ahead(list(network)))
    network.register_forward_hook(end_pass)
    reference = copy.deepcopy(network)
    run, counter = compiled(network)
    for seed in range(2):
        x = torch.randn(4, 4, 6, 6, generator=torch.Generator().manual_seed(seed))
        with torch.autocast("cpu", torch.bfloat16):
            same_step(network, reference, run, x, 2**-6)
    assert counter.frame_count == 1


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler g++, which inductor needs on a CPU")
def test_kernels_of_the_compiler() -> None:
    """The default backend, which writes kernels of its own, on the cheapest layer."""
    layer = layer_cases.layer("ConvNorm2d, 1x1")
    reference = copy.deepcopy(layer)
    run = torch.compile(layer, fullgraph=True)
    same_step(layer, reference, run, layer_cases.images("ConvNorm2d, 1x1"), 1e-10)
    layer.eval(), reference.eval()
    with torch.no_grad():
        x = layer_cases.images("ConvNorm2d, 1x1", 1)
        assert torch.allclose(run(x), reference(x), rtol=1e-10, atol=1e-12)
