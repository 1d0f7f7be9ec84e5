"""What the penalties have in common, and soft orthogonality and SRIP against loops over weights in numpy."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from normbench.methods import registry
from normbench.methods.base import Method, Moment
from normbench.methods.soft_orthogonality import SoftOrthogonality
from normbench.methods.srip import SRIP
from normbench.models.build import build_classifier
from tests.oracles.layers import relative_error
from tests.support.dispatch import same_strides

PENALTIES = ["gram_penalty", "ocnn", "soft_orthogonality", "srip"]
FORMATS = [torch.contiguous_format, torch.channels_last]


def network() -> nn.Sequential:
    """Wide, tall, grouped and depth-wise kernels, matrices, twice the same shape, and a batch norm; float64."""
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Conv2d(2, 30, 3), nn.Conv2d(3, 5, 3, bias=False)),
        *(nn.Conv2d(6, 9, 3, groups=3), nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 6, 1), nn.Linear(4, 6)),
    ).double()


def matrices(model: nn.Module) -> list[Tensor]:
    """The weights as matrices, a grouped one as several. The order of the columns matters to a random vector alone."""
    found = []
    for layer in model:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            weight = layer.weight if layer.weight.dim() == 2 else layer.weight.permute(0, 2, 3, 1)
            found += [part.flatten(1) for part in weight.chunk(getattr(layer, "groups", 1))]
    return found


def distance(matrix: Tensor) -> Tensor:
    """The smaller Gram matrix minus the identity."""
    if matrix.shape[0] > matrix.shape[1]:
        matrix = matrix.T
    return matrix @ matrix.T - torch.eye(len(matrix), dtype=matrix.dtype)


def check(penalty: Tensor | None, expected: Tensor, model: nn.Module) -> None:
    """The value and the gradient of all weights."""
    assert penalty is not None
    assert penalty.item() == pytest.approx(expected.item(), rel=1e-12)
    parameters = [p for p in model.parameters() if p.dim() > 1]
    wanted = torch.autograd.grad(expected, parameters)
    for found, gradient, parameter in zip(torch.autograd.grad(penalty, parameters), wanted, parameters, strict=True):
        assert relative_error(found, gradient) <= 1e-11, tuple(parameter.shape)


@pytest.mark.parametrize("memory_format", FORMATS)
def test_soft_orthogonality(memory_format: torch.memory_format) -> None:
    model = network().to(memory_format=memory_format)
    expected = 0.25 * sum(distance(matrix).square().sum() for matrix in matrices(model))
    check(SoftOrthogonality(coefficient=0.25).penalty(model), expected, model)


def srip_by_hand(model: nn.Module, drawn: Tensor, coefficient: float) -> Tensor:
    """The authors' loop, with the start vectors taken from `drawn` in the order of the sizes of Gram matrices."""
    found = [distance(matrix) for matrix in matrices(model)]
    shapes = [(len(d), tuple(m.shape)) for d, m in zip(found, matrices(model), strict=True)]
    sizes = list(dict.fromkeys(size for size, _ in shapes))
    alike = list(dict.fromkeys(shapes))
    order = sorted(range(len(found)), key=lambda k: (sizes.index(shapes[k][0]), alike.index(shapes[k])))
    total = torch.zeros((), dtype=torch.float64)
    for k in order:
        v, drawn = drawn[: len(found[k])].double(), drawn[len(found[k]) :]
        y = found[k] @ v
        total = total + (found[k] @ (y / y.norm())).square().sum()
    return coefficient * total


@pytest.mark.parametrize("memory_format", FORMATS)
def test_srip(memory_format: torch.memory_format) -> None:
    model = network().to(memory_format=memory_format)
    drawn = torch.rand(1000, generator=torch.Generator().manual_seed(5))
    expected = srip_by_hand(model, drawn, 0.5)
    check(SRIP(coefficient=0.5).penalty(model, Moment(epoch=3, epochs=200, step=7, seed=5)), expected, model)


def test_srip_starts_anew_in_every_step() -> None:
    """From the moment alone: the same for the same moment, whatever the global generator has drawn."""
    model, method = network(), SRIP()
    one, again, other = (method.penalty(model, Moment(seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    state = torch.get_rng_state()
    method.penalty(model, Moment(seed=3))
    assert torch.equal(state, torch.get_rng_state())


def test_srip_is_at_most_the_squared_spectral_norm() -> None:
    model = network()
    largest = sum(np.linalg.norm(distance(m).detach().numpy(), 2) ** 2 for m in matrices(model))
    values = [SRIP(coefficient=1.0).penalty(model, Moment(seed=seed)).item() for seed in range(20)]
    assert max(values) <= largest
    assert max(values) >= 0.5 * largest


# The epochs of the authors' code count from 1: its factor changes after epoch 20.
@pytest.mark.parametrize(
    ("epoch", "factor"),
    [(0, 1), (19, 1), (20, 1e-3), (49, 1e-3), (50, 1e-4), (69, 1e-4), (70, 1e-6), (119, 1e-6), (120, 0), (199, 0)],
)
def test_srip_fades_out(epoch: int, factor: float) -> None:
    for schedule in ("published", "scaled"):
        assert SRIP(schedule=schedule).factor(Moment(epoch=epoch, epochs=200)) == factor
    assert SRIP(schedule="constant").factor(Moment(epoch=epoch, epochs=200)) == 1


def test_srip_fades_out_in_a_short_training() -> None:
    """`published` counts epochs and `scaled` shares of the training; with a factor of 0 there is no penalty."""
    model, start = network(), SRIP(schedule="constant").penalty(network())
    late = Moment(epoch=6, epochs=10)
    assert torch.equal(SRIP().penalty(model, late), start)
    assert SRIP(schedule="scaled").penalty(model, late) is None
    assert SRIP(schedule="scaled").factor(Moment(epoch=1, epochs=10)) == 1e-3
    assert SRIP().penalty(model, Moment(epoch=120, epochs=200)) is None
    assert torch.allclose(SRIP().penalty(model, Moment(epoch=20, epochs=200)), start * 1e-3)


def test_srip_of_orthogonal_weights_is_zero_and_not_undefined() -> None:
    """Their D v is zero; where the authors' code divides by its norm it gives NaN."""
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Linear(2, 4)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(3)[..., None, None])
        model[1].weight.copy_(torch.eye(4, 2))
    penalty = SRIP().penalty(model)
    penalty.backward()
    assert penalty.item() == 0
    assert all((p.grad == 0).all() for p in (model[0].weight, model[1].weight))


# --- what all of them have in common ---------------------------------------------------------------------------------


def built(name: str, memory_format: torch.memory_format = torch.channels_last) -> tuple[Method, nn.Module]:
    method = registry.build(name, {})
    model = build_classifier("resnet8", {"width": 4}, method, 3, 5, 0)
    return method, model.to(memory_format=memory_format)


@pytest.mark.parametrize("name", PENALTIES)
def test_they_do_not_follow_autocast(name: str) -> None:
    """Neither the value nor the gradient may be rounded to bfloat16; float32 is near float64."""
    method, model = built(name)
    wide = copy.deepcopy(model).double()
    with torch.autocast("cpu", torch.bfloat16):
        penalty = method.penalty(model)
    penalty.backward()
    expected = method.penalty(wide)
    expected.backward()
    assert penalty.dtype == torch.float32
    assert penalty.item() == pytest.approx(expected.item(), rel=1e-5)
    for parameter, other in zip(model.parameters(), wide.parameters(), strict=True):
        assert (parameter.grad is None) == (other.grad is None)
        if parameter.grad is not None and other.grad.abs().sum() > 0:
            assert relative_error(parameter.grad.double(), other.grad) <= 2e-4


@pytest.mark.parametrize("name", PENALTIES)
def test_the_memory_format_of_weights_does_not_matter(name: str) -> None:
    """Not even in the order of the entries; the gradients have the strides of the weights."""
    found = []
    for memory_format in FORMATS:
        method, model = built(name, memory_format)
        penalty = method.penalty(model.double())
        penalty.backward()
        assert all(same_strides(p, p.grad) for p in model.parameters() if p.grad is not None)
        found.append((penalty.item(), model.stages[1][0].conv1.weight.grad))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-12)
    assert relative_error(*(gradient for _, gradient in found)) <= 1e-11


@pytest.mark.parametrize("name", PENALTIES)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_have_no_finite_penalty(name: str, value: float) -> None:
    method, model = built(name)
    with torch.no_grad():
        model.stages[1][0].conv1.weight[0, 1, 2, 0] = value
    assert not method.penalty(model).isfinite()


@pytest.mark.parametrize("name", PENALTIES)
def test_they_leave_batch_norm_where_it_is_and_no_state(name: str) -> None:
    _, model = built(name)
    plain = build_classifier("resnet8", {"width": 4}, registry.build("batch_norm", {}), 3, 5, 0)
    assert list(model.state_dict()) == list(plain.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters(), strict=True))
