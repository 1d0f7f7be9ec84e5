"""Certified radii against exact distances, complete searches in the plane, and attacks."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from normbench.spectral import CurvedLayer, derivatives_of, norm_of
from normbench.spectral.curvature_radius import CurvedNetwork, curvature_radii, lower_bound

ACTIVATIONS = [nn.Softplus(), nn.Sigmoid(), nn.Tanh()]
ON_EACH_ACTIVATION = pytest.mark.parametrize("activation", ACTIVATIONS, ids=["softplus", "sigmoid", "tanh"])


def network(widths: list[int], classes: int, activation: nn.Module, seed: int = 0) -> CurvedNetwork:
    """Linear layers of these widths, the first the number of pixels, and activations; random weights."""
    torch.manual_seed(seed)
    known = derivatives_of(activation)
    assert known is not None
    modules: list[nn.Module] = [nn.Flatten()]
    layers = []
    for before, after in itertools.pairwise(widths):
        linear = nn.Linear(before, after).double()
        nn.init.normal_(linear.weight, std=1.5 / math.sqrt(before))
        nn.init.normal_(linear.bias)
        modules += [linear, activation]
        layers.append(CurvedLayer(linear.weight.detach(), norm_of(linear.weight.detach()), known))
    head = nn.Linear(widths[-1], classes).double()
    nn.init.normal_(head.weight)
    hidden = nn.Sequential(*modules)
    with torch.no_grad():  # The classes are equally likely, so that there are boundaries.
        head.bias -= head(hidden(torch.randn(200, widths[0], 1, 1, dtype=torch.float64))).mean(0)
    return CurvedNetwork(hidden.requires_grad_(False), head.requires_grad_(False), layers)


def logits(found: CurvedNetwork, x: Tensor) -> Tensor:
    return found.head(found.hidden(x))


@ON_EACH_ACTIVATION
@pytest.mark.parametrize("bias", [0.3, 3.0])
def test_one_unit_has_an_exact_distance(activation: nn.Module, bias: float) -> None:
    """z_0 - z_1 = s(w . x + b) - c is positive beyond a hyperplane, whose distance is known."""
    found = network([3, 1], 2, activation)
    with torch.no_grad():
        found.head.weight.copy_(torch.tensor([[1.0], [0.0]]))
        found.head.bias.copy_(torch.tensor([0.0, activation(torch.tensor(0.25, dtype=torch.float64))]))
        found.hidden[1].bias.fill_(bias)
    x = torch.zeros(1, 3, 1, 1, dtype=torch.float64)
    exact = (bias - 0.25) / found.hidden[1].weight.norm().item()
    radii = curvature_radii(found, x, torch.tensor([0]))
    assert 0 < radii.closed.item() <= radii.dual.item() <= exact * (1 + 1e-12)
    if bias < 1:  # As near, eta is within its range, and the dual has no gap.
        assert radii.dual.item() == pytest.approx(exact, rel=1e-3)
    # With a slack, the difference is above it instead of above zero.
    less = curvature_radii(found, x, torch.tensor([0]), 1e-2)
    assert 0 < less.dual.item() < radii.dual.item()
    assert 0 < less.closed.item() < radii.closed.item()


@ON_EACH_ACTIVATION
def test_no_eta_and_no_place_give_a_bound_above_the_distance(activation: nn.Module) -> None:
    """Wherever a search ends, and whatever eta it has, negative or far too large; near the best ones it is tight."""
    found = network([2, 1], 2, activation)
    with torch.no_grad():
        found.head.weight.copy_(torch.tensor([[1.0], [0.0]]))
        found.head.bias.copy_(torch.tensor([0.0, activation(torch.tensor(0.0, dtype=torch.float64))]))
        found.hidden[1].bias.fill_(0.5)
    weight = found.hidden[1].weight[0]
    exact = 0.25 / weight.square().sum().item()  # the squared distance
    count, one = 20_000, torch.ones(20_000, dtype=torch.long)
    x0 = torch.zeros(count, 2, 1, 1, dtype=torch.float64)
    least = found.curvatures()[0][0, 1].expand(count)
    # Half of the places are on the line to the boundary.
    draws = torch.randn(count, dtype=torch.float64)
    x = torch.where(
        (torch.arange(count) % 2 == 0)[:, None], -draws[:, None] * weight / weight.square().sum(), torch.randn(count, 2)
    )
    eta = torch.randn(count).sign() * 10 ** (6 * torch.rand(count, dtype=torch.float64) - 5) / least
    bound = lower_bound(found, x0, x.view(count, 2, 1, 1), eta, 0 * one, one, least, 0.0)
    assert bound.max().item() <= exact * (1 + 1e-12)
    assert bound.max().item() > 0.3 * exact


@ON_EACH_ACTIVATION
@pytest.mark.parametrize("hidden", [[6], [6, 5], [5, 5, 4]], ids=["2", "3", "4"])
def test_no_point_of_the_plane_within_the_radius_has_another_class(hidden: list[int], activation: nn.Module) -> None:
    """A complete search: 60 rings of 180 points around each image within the radius, and 60 beyond it."""
    near = []
    rings = torch.cat(
        [torch.arange(1, 61, dtype=torch.float64) / 60, torch.logspace(0, 2, 61, dtype=torch.float64)[1:]]
    )
    for seed in range(3):
        found = network([2, *hidden], 4, activation, seed)
        x = 2 * torch.randn(24, 2, 1, 1, dtype=torch.float64)
        labels = logits(found, x).argmax(1)
        radii = curvature_radii(found, x, labels)
        assert (radii.dual > 0).all()
        assert (radii.closed <= radii.dual).all()
        angles = torch.linspace(0, 2 * math.pi, 181, dtype=torch.float64)[:-1]
        circle = torch.stack([angles.cos(), angles.sin()], 1)
        for center, label, radius in zip(x, labels, radii.dual, strict=True):
            points = center + radius * (rings[:, None, None] * circle).reshape(-1, 2, 1, 1)
            other = (logits(found, points).argmax(1) != label).view(120, 180).any(1)
            assert not other[:60].any()
            near.append(other.any().item())
        # In another class there is nothing to keep.
        wrong = curvature_radii(found, x, (labels + 1) % 4)
        assert (wrong.dual == 0).all()
        assert (wrong.closed == 0).all()
    assert sum(near) > 0  # the search finds boundaries, where there are some


def test_the_nearest_class_need_not_be_the_most_likely_one() -> None:
    """z_1 is the runner-up but far away, as it hardly changes; z_2 is lower but its boundary is near."""
    found = network([1, 1], 3, nn.Tanh())
    with torch.no_grad():
        found.hidden[1].weight.fill_(1)
        found.hidden[1].bias.zero_()
        found.head.weight.copy_(torch.tensor([[0.0], [0.01], [3.0]]))
        found.head.bias.copy_(torch.tensor([1.0, 0.8, 0.0]))
    x = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    radius = curvature_radii(found, x, torch.tensor([0])).dual.item()
    assert radius <= math.atanh(1 / 3)
    assert radius == pytest.approx(math.atanh(1 / 3), rel=1e-2)


@ON_EACH_ACTIVATION
def test_no_attack_succeeds_within_the_radius(activation: nn.Module) -> None:
    """Gradient descent on the difference to each other class, from the image and random starts, projected on the ball.

    The same attacks find an adversary in balls that are large enough, so that they can fail here.
    """
    found = network([16, 12, 10], 3, activation, seed=3)
    x = torch.randn(20, 1, 4, 4, dtype=torch.float64)
    labels = logits(found, x).argmax(1)
    radii = curvature_radii(found, x, labels).dual
    generator = torch.Generator().manual_seed(0)

    def broken(radius: Tensor) -> Tensor:
        fooled = torch.zeros(len(x), dtype=torch.bool)
        for start in range(8):
            for other in range(3):
                moved = torch.randn(x.shape, generator=generator, dtype=torch.float64) * (start > 0)
                for _ in range(40):
                    norm = moved.flatten(1).norm(dim=1).clamp_min(1e-12)
                    moved = moved * (radius / norm).clamp_max(1).view(-1, 1, 1, 1)
                    fooled |= logits(found, x + moved).argmax(1) != labels
                    target = torch.full_like(labels, other)
                    _, gradient = found.differences(x + moved, labels, target)
                    step = 0.3 * radius / gradient.flatten(1).norm(dim=1).clamp_min(1e-12)
                    moved = moved - step.view(-1, 1, 1, 1) * gradient
        return fooled

    assert (radii > 0).all()
    assert not broken(radii * (1 - 1e-9)).any()
    assert broken(20 * radii).any()


def test_the_search_in_float32_loses_little() -> None:
    """Against the paper's own way, in float64: 30 halvings of the range of eta, 150 descent steps in each."""
    found = network([16, 12, 10], 3, nn.Sigmoid(), seed=1)
    x = torch.randn(6, 1, 4, 4, dtype=torch.float64)
    labels = logits(found, x).argmax(1)
    least, most = found.curvatures()
    expected = torch.full((6,), torch.inf, dtype=torch.float64)
    for shift in (1, 2):
        other = (labels + shift) % 3
        m, big = least[labels, other], most[labels, other]
        low, high, best = torch.zeros_like(m), 1 / m, torch.zeros_like(m)
        for _ in range(30):
            eta, moved = (low + high) / 2, torch.zeros_like(x)
            for _ in range(150):
                _, gradient = found.differences(x + moved, labels, other)
                rest = moved + eta.view(-1, 1, 1, 1) * gradient
                moved = moved - rest / (1 + eta * big).view(-1, 1, 1, 1)
            values, _ = found.differences(x + moved, labels, other)
            best = torch.maximum(best, moved.flatten(1).square().sum(1) + 2 * eta * values)
            low, high = torch.where(values > 0, eta, low), torch.where(values > 0, high, eta)
        expected = torch.minimum(expected, best.sqrt())
    radii = curvature_radii(found, x, labels).dual
    assert (radii <= expected * (1 + 1e-6)).all()
    assert (radii >= 0.99 * expected).all()
