"""Spectral normalization of all weights at once against torch's own, which normalizes each weight where it is used."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.utils import parametrizations

from normbench.functional import placement
from normbench.functional.power_iteration import divided, power_steps
from normbench.methods.base import ConvSpec, Role
from normbench.methods.spectral_norm import SpectralNorm, UnitNorm
from normbench.models.build import build_classifier
from tests.oracles import layers as oracles

FORMATS = pytest.mark.parametrize("memory_format", ["contiguous", "channels_last"])


class OfTorch(SpectralNorm):
    """The method with torch's parametrization."""

    def normalized(self, layer: nn.Conv2d | nn.Linear) -> nn.Module:
        return parametrizations.spectral_norm(layer, n_power_iterations=self.power_iterations)

    def initialize(self, model: nn.Module) -> None:
        pass


def network(method: SpectralNorm, model: str = "mobilenet_v2", seed: int = 0) -> nn.Module:
    """Kernels of several sizes, depth-wise ones among them, and a linear layer."""
    return build_classifier(model, {"width": 4}, method, 3, 5, seed=seed)


def images(seed: int = 0, count: int = 4) -> Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def vectors(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.flatten().clone() for name, value in model.named_buffers() if name[-2:] in ("_u", "_v")}


def test_the_same_start_for_the_same_seed() -> None:
    found, expected = network(SpectralNorm()).state_dict(), network(OfTorch()).state_dict()
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert torch.allclose(found[name].flatten(), value.flatten(), atol=1e-5), name


@pytest.mark.parametrize("iterations", [1, 3])
@FORMATS
def test_steps_and_evaluation_equal_those_of_torch(memory_format: str, iterations: int) -> None:
    """Outputs, gradients and vectors over four steps, from a state that torch's own network has saved."""
    given = {"batch_norm": False, "power_iterations": iterations}
    model, reference = network(SpectralNorm(**given), seed=1).double(), network(OfTorch(**given)).double()
    model = model.to(memory_format=placement.FORMATS[memory_format])
    model.load_state_dict(reference.state_dict())
    for seed in range(4):
        losses = []
        for each in (model, reference):
            each.zero_grad()
            y = each(images(seed))
            y.sin().sum().backward()
            losses.append(y.detach())
        assert oracles.relative_error(*losses) <= 1e-12
        for (name, found), expected in zip(model.named_parameters(), reference.parameters(), strict=True):
            assert oracles.relative_error(found.grad, expected.grad) <= 1e-11, name
            assert found.grad.stride() == found.stride(), name
        for (name, found), expected in zip(vectors(model).items(), vectors(reference).values(), strict=True):
            assert torch.allclose(found, expected, atol=1e-12), name
        with torch.no_grad():
            for each in (model, reference):
                for parameter in each.parameters():
                    parameter.sub_(parameter.grad, alpha=0.01)
    before = vectors(model)
    x = images(9).requires_grad_()
    found, expected = (each.eval()(x) for each in (model, reference))
    assert oracles.relative_error(found, expected) <= 1e-12
    (of_found,), (of_expected,) = (torch.autograd.grad(y.sin().sum(), x) for y in (found, expected))
    assert oracles.relative_error(of_found, of_expected) <= 1e-11
    assert all(torch.equal(value, before[name]) for name, value in vectors(model).items())


@FORMATS
def test_the_norm_of_a_weight_that_rests_converges_to_its_largest_singular_value(memory_format: str) -> None:
    model = nn.Sequential(
        SpectralNorm().conv(ConvSpec(3, 4, 3, role=Role("body"))), SpectralNorm().linear(7, 5, role=Role("head"))
    )
    model = model.double().to(memory_format=placement.FORMATS[memory_format])
    for layer in model:
        for _ in range(200):
            weight = layer.weight
        matrix = layer.parametrizations.weight.original.detach().flatten(1).numpy()
        expected = matrix / np.linalg.norm(matrix, 2)
        assert np.allclose(weight.detach().flatten(1).numpy(), expected, rtol=1e-9)


def test_two_passes_before_one_backward_pass() -> None:
    """As a discriminator on real and on generated images: the vectors move once for each pass."""
    models = [network(kind(batch_norm=False)).double() for kind in (SpectralNorm, OfTorch)]
    models[0].load_state_dict(models[1].state_dict())
    for each in models:
        (each(images(1)).sum() - each(images(2)).square().sum()).backward()
    for found, expected in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert oracles.relative_error(found.grad, expected.grad) <= 1e-11
    for found, expected in zip(vectors(models[0]).values(), vectors(models[1]).values(), strict=True):
        assert torch.allclose(found, expected, atol=1e-12)


def test_layers_by_themselves_and_in_their_network() -> None:
    """A layer that is called, or whose weight is read, without its network takes its step alone."""
    model = network(SpectralNorm()).double()
    other = copy.deepcopy(model)
    name, layer = next((n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d))
    x = torch.randn(2, layer.in_channels, 8, 8, dtype=torch.float64)
    layer(x)
    other.get_submodule(name).weight  # noqa: B018
    for found, expected in zip(vectors(model).items(), vectors(other).items(), strict=True):
        assert torch.equal(found[1], expected[1])
        assert found[0].startswith(name) != torch.equal(found[1], vectors(network(SpectralNorm()).double())[found[0]])


def test_a_weight_that_a_pass_does_not_use_leaves_nothing_behind() -> None:
    """A network with a layer beside its path can be copied, and the next pass computes that weight anew."""

    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.spare = (SpectralNorm().linear(4, 4, role=Role("head")) for _ in range(2))

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    model = Beside()
    SpectralNorm().initialize(model)
    model(torch.randn(3, 4)).sum().backward()
    copied = copy.deepcopy(model)
    assert all(each.ahead is None for each in copied.modules() if isinstance(each, UnitNorm))
    assert torch.equal(copied.spare.weight, model.spare.weight)


def test_the_iteration_does_not_follow_autocast() -> None:
    """Neither vectors nor normalized weights may be rounded to bfloat16."""
    model = network(SpectralNorm())
    other = copy.deepcopy(model)
    model(images().float())
    with torch.autocast("cpu", torch.bfloat16):
        other(images().float())
        weights = [layer.weight for layer in other.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]
    for found, expected in zip(vectors(other).values(), vectors(model).values(), strict=True):
        assert found.shape == expected.shape
    model_weights = [layer.weight for layer in model.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]
    for found, expected in zip(weights, model_weights, strict=True):
        assert torch.equal(found, expected)


def test_the_memory_format_may_change_and_the_state_is_the_same() -> None:
    """Of a network in training, and of one weight alone, whose vector then follows."""
    model, other = (network(SpectralNorm()).double() for _ in range(2))
    model = model.to(memory_format=torch.channels_last)
    with torch.no_grad():
        for layer in other.modules():
            if isinstance(layer, nn.Conv2d):
                original = layer.parametrizations.weight.original
                original.data = original.contiguous(memory_format=torch.channels_last)
    contiguous = network(SpectralNorm()).double()
    for seed in range(2):
        found, moved, expected = (each(images(seed)) for each in (model, other, contiguous))
        assert oracles.relative_error(found, expected) <= 1e-12
        assert oracles.relative_error(moved, expected) <= 1e-12
    for name, expected in vectors(contiguous).items():
        for each in (model, other):
            assert torch.allclose(vectors(each)[name], expected, atol=1e-12), name
    fresh = network(SpectralNorm(), seed=3).double()
    fresh.load_state_dict(model.state_dict())
    assert oracles.relative_error(fresh(images(5)), model(images(5))) <= 1e-12


def test_gradient_by_finite_differences() -> None:
    """Of weights over their norms, with vectors that have converged, as the formula takes them for singular vectors."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(4, 3, 2, 2), (3, 5)]
    weights = [torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes]

    def run(*given: Tensor) -> tuple[Tensor, ...]:
        matrices = [weight.detach().flatten(1) for weight in given]
        start = [torch.ones(1, matrix.shape[1], dtype=torch.float64) for matrix in matrices]
        return divided(given, *power_steps(matrices, start, 500))

    assert torch.autograd.gradcheck(run, weights)


@pytest.fixture
def _forget() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("_forget")
@torch._dynamo.config.patch(wrap_top_frame=True)  # as normbench.training.compilation sets it
def test_a_compiled_network_is_one_graph() -> None:
    """What normalizes all weights included; a second step compiles nothing."""
    model = network(SpectralNorm(), "resnet8").double()
    reference = copy.deepcopy(model)
    counter = CompileCounterWithBackend("aot_eager")
    run = torch.compile(model, fullgraph=True, backend=counter)
    for seed in range(2):
        for each in (run, reference):
            each(images(seed)).square().sum().backward()
        assert counter.frame_count == 1
    for found, expected in zip(model.parameters(), reference.parameters(), strict=True):
        assert oracles.relative_error(found.grad, expected.grad) <= 1e-11
    for found, expected in zip(vectors(model).values(), vectors(reference).values(), strict=True):
        assert torch.allclose(found, expected, atol=1e-12)
