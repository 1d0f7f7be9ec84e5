"""Bounds on curvature against explicit Hessians in float64, and against the closed forms of the paper."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from normbench.spectral import CurvedLayer, Window, derivatives_of, hessian_bounds, norm_of

ACTIVATIONS = [nn.Softplus(), nn.Softplus(beta=3), nn.Sigmoid(), nn.Tanh()]
ON_EACH_ACTIVATION = pytest.mark.parametrize("activation", ACTIVATIONS, ids=["softplus", "beta 3", "sigmoid", "tanh"])


def network(widths: list[int], activation: nn.Module, seed: int, gain: float = 1.0) -> nn.Sequential:
    """Linear layers of these widths, the first that of the input, with activations between them."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        linear = nn.Linear(before, after).double()
        nn.init.normal_(linear.weight, std=gain / math.sqrt(before))
        nn.init.normal_(linear.bias)
        layers += [linear, activation]
    return nn.Sequential(*layers[:-1])


def curved(layers: nn.Sequential, sizes: list[tuple[int, int]] | None = None) -> list[CurvedLayer]:
    """The hidden layers of a network whose modules are affine layers, activations and flattenings."""
    modules = [layer for layer in layers if not isinstance(layer, nn.Flatten)]
    found, place = [], iter(sizes or [])
    for layer, activation in zip(modules[:-1:2], modules[1::2], strict=True):
        window = None
        if isinstance(layer, nn.Conv2d):
            window = Window(next(place), layer.stride[0], layer.padding, layer.groups)
        known = derivatives_of(activation)
        assert known is not None
        found.append(CurvedLayer(layer.weight, norm_of(layer.weight, window), known, window))
    return found


def extremes(model: nn.Module, x: Tensor, output: Tensor) -> tuple[float, float]:
    """The least and the largest eigenvalue of the Hessian of `output` times the logits."""
    hessian = torch.autograd.functional.hessian(lambda x: (model(x) * output).sum(), x).reshape(x.numel(), x.numel())
    values = torch.linalg.eigvalsh(hessian)
    return values[0].item(), values[-1].item()


@ON_EACH_ACTIVATION
@pytest.mark.parametrize("hidden", [[6], [6, 5], [6, 5, 7], [4, 4, 4, 4]], ids=["2", "3", "4", "5"])
def test_no_hessian_is_outside(hidden: list[int], activation: nn.Module) -> None:
    """At points near and far from zero, for all differences of two of three classes."""
    for seed in range(3):
        model = network([5, *hidden, 3], activation, seed, gain=1.5)
        pairs = [(y, t) for y in range(3) for t in range(3) if y != t]
        outputs = torch.stack([torch.eye(3, dtype=torch.float64)[y] - torch.eye(3)[t] for y, t in pairs])
        least, most = hessian_bounds(curved(model), outputs @ model[-1].weight)
        seen = torch.zeros(2, len(pairs), dtype=torch.float64)
        for scale in (0.1, 1, 4):
            x = scale * torch.randn(1, 5, dtype=torch.float64)
            for place, output in enumerate(outputs):
                low, high = extremes(model, x, output)
                assert -low <= least[place].item() * (1 + 1e-9) + 1e-12
                assert high <= most[place].item() * (1 + 1e-9) + 1e-12
                seen[:, place] = torch.maximum(seen[:, place], torch.tensor([-low, high]))
        assert (seen > 0).any()
        if len(hidden) == 1:  # The bound is not far off: each unit contributes along its own direction.
            assert (seen[1] > 0.05 * most).any()


@pytest.mark.parametrize("stride", [1, 2])
@ON_EACH_ACTIVATION
def test_no_hessian_of_a_convolutional_network_is_outside(activation: nn.Module, stride: int) -> None:
    torch.manual_seed(0)
    small = 5 if stride == 1 else 3
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, stride, padding=1),
        activation,
        nn.Conv2d(4, 2, (1, 3), padding=(0, 1), groups=2),
        activation,
        nn.Flatten(),
        nn.Linear(2 * small**2, 6),
        activation,
        nn.Linear(6, 3),
    ).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    output = torch.tensor([1.0, -1, 0], dtype=torch.float64)
    layers = curved(model, [(5, 5), (small, small)])
    least, most = hessian_bounds(layers, (output @ model[-1].weight)[None])
    for scale in (0.3, 2):
        low, high = extremes(model, scale * torch.randn(1, 2, 5, 5, dtype=torch.float64), output)
        assert -low <= least.item() * (1 + 1e-9)
        assert high <= most.item() * (1 + 1e-9)
        assert max(-low, high) > 0
    # What a convolution sends back is its Jacobian's transpose.
    given = torch.randn(3, 4 * small**2, dtype=torch.float64)
    conv = nn.Conv2d(2, 4, 3, stride, padding=1, bias=False).double()
    conv.weight = model[0].weight
    jacobian = torch.autograd.functional.jacobian(conv, torch.zeros(1, 2, 5, 5, dtype=torch.float64)).reshape(-1, 50)
    torch.testing.assert_close(layers[0].back(layers[0].weight, given), given @ jacobian)


@ON_EACH_ACTIVATION
def test_one_unit_reaches_its_bounds(activation: nn.Module) -> None:
    """f(x) = v s(w . x) has the Hessian v s''(w . x) w w^T: both bounds are attained where s'' is extreme."""
    weight = torch.tensor([[0.6, -0.8, 2.0]], dtype=torch.float64)
    known = derivatives_of(activation)
    assert known is not None
    outputs = torch.tensor([[1.5], [-1.5]], dtype=torch.float64)
    least, most = hessian_bounds([CurvedLayer(weight, norm_of(weight), known)], outputs)
    z = torch.linspace(-6, 6, 24001, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(activation(z).sum(), z, create_graph=True)
    (second,) = torch.autograd.grad(slope.sum(), z)
    assert slope.detach().max().item() <= known.slope
    for output, low, high in zip(outputs[:, 0], least, most, strict=True):
        along = output * second * weight.square().sum()
        assert high.item() == pytest.approx(max(along.max().item(), 0), rel=1e-6, abs=2e-2 if along.max() < 0 else 0)
        assert low.item() == pytest.approx(max(-along.min().item(), 0), rel=1e-6, abs=2e-2 if along.min() > 0 else 0)


def test_two_and_three_layers_are_as_in_the_paper() -> None:
    """h s1^2 max |d| for two layers with a sigmoid; for three at most the bound by absolute values, and at least half.

    g = 1/4 and h = sqrt(3)/18; the paper's bound is h (s1^2 max(g |d| |W2|) + (g s1 s2)^2 max |d|).
    """
    h = math.sqrt(3) / 18
    two, three = (network(widths, nn.Sigmoid(), 1) for widths in ([5, 8, 3], [5, 8, 7, 3]))
    d = (two[2].weight[0] - two[2].weight[2]).detach()
    s1 = torch.linalg.matrix_norm(two[0].weight, 2).item()
    least, most = hessian_bounds(curved(two), d[None])
    assert least.item() == pytest.approx(h * s1**2 * d.abs().max().item(), rel=1e-12)
    assert most.item() == pytest.approx(least.item(), rel=1e-12)

    d = (three[4].weight[0] - three[4].weight[2]).detach()
    s1, s2 = (torch.linalg.matrix_norm(three[place].weight, 2).item() for place in (0, 2))
    absolute = (d.abs() @ three[2].weight.abs() / 4).max().item()
    paper = h * (s1**2 * absolute + (s1 * s2 / 4) ** 2 * d.abs().max().item())
    for found in hessian_bounds(curved(three), d[None]):
        assert paper / 2 < found.item() <= paper * (1 + 1e-12)


def test_a_convex_function_has_no_negative_curvature() -> None:
    """A positive sum of softplus functions is convex, and its negative concave."""
    model = network([4, 6, 1], nn.Softplus(), 0)
    outputs = torch.rand(1, 6, dtype=torch.float64)
    least, most = hessian_bounds(curved(model), torch.cat([outputs, -outputs]))
    assert least[0].item() == most[1].item() == 0
    assert least[1].item() == most[0].item() > 0


def test_the_gradient_is_that_of_finite_differences() -> None:
    model = network([3, 4, 5, 2], nn.Tanh(), 0)
    known = derivatives_of(nn.Tanh())
    assert known is not None

    def total(first: Tensor, second: Tensor, outputs: Tensor) -> Tensor:
        layers = [CurvedLayer(weight, norm_of(weight), known) for weight in (first, second)]
        return torch.stack(hessian_bounds(layers, outputs)).sum()

    given = [model[place].weight.detach().requires_grad_() for place in (0, 2)]
    assert torch.autograd.gradcheck(total, (*given, torch.randn(2, 5, dtype=torch.float64, requires_grad=True)))
    weight = torch.randn(3, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    window = Window((4, 4), padding=(1, 1))

    def of_convolution(weight: Tensor, outputs: Tensor) -> Tensor:
        second = torch.ones(2, 48, dtype=torch.float64) * weight.sum()
        layers = [
            CurvedLayer(weight, norm_of(weight, window), known, window),
            CurvedLayer(second, norm_of(second), known),
        ]
        return torch.stack(hessian_bounds(layers, outputs)).sum()

    assert torch.autograd.gradcheck(of_convolution, (weight, torch.ones(1, 2, dtype=torch.float64)))


def test_kinks_have_no_derivatives_and_no_layer_no_hessian() -> None:
    assert derivatives_of(nn.ReLU()) is None
    with pytest.raises(ValueError, match="without hidden layers"):
        hessian_bounds([], torch.ones(1, 3))
