"""Skew orthogonal convolutions against the exponential of a dense matrix, and how far from orthogonal they are."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from normbench.evaluation.lipschitz import bounds
from normbench.functional import placement
from normbench.functional.constants import unchanging
from normbench.functional.maxmin import MaxMin
from normbench.methods.base import ConvSpec, Method, Role
from normbench.methods.soc import Soc, SocConv2d, SocLinear
from normbench.models.build import build_classifier
from normbench.spectral import conv_bound
from tests.oracles.operators import dense, singular_values, spread
from tests.support.weights import same_as_alone

BODY = Role("body")
FORMS = {
    "square": (3, 3, 3),
    "more outputs": (2, 4, 3),
    "fewer outputs": (4, 2, 3),
    "strided": (1, 3, 3, 2),
    "grouped": (4, 6, 3, 1, 2),
    "1x1": (3, 4, 1),
    "5x5": (2, 2, 5),
    "dilated": (2, 3, 3, 1, 1, 2),
    "dilated, grouped": (4, 2, 3, 1, 2, 3),
}


def least_norm(kernel: Tensor) -> Tensor:
    """The least of the spectral norms of the four matrices of Fantastic Four, by singular values."""
    o, i, h, w = kernel.shape
    matrices = (
        kernel.permute(0, 2, 1, 3).reshape(o * h, i * w),
        kernel.permute(0, 3, 1, 2).reshape(o * w, i * h),
        kernel.reshape(o, -1),
        kernel.transpose(0, 1).reshape(i, -1),
    )
    return torch.stack([torch.linalg.matrix_norm(each, 2) for each in matrices]).min()


def kernels(layer: SocConv2d) -> list[Tensor]:
    """The kernel of each group, from the formula."""
    found = []
    for m in layer.parametrizations.weight.original:
        m = m.view(layer.channels, *layer.weight.shape[1:])
        turned = torch.stack([torch.stack([m[j, i].rot90(2) for j in range(len(m))]) for i in range(len(m))])
        skew = (m - turned) / 2
        found.append((1.0 if m.shape[-1] == 1 else 0.7) * skew / least_norm(skew))
    return found


def formula(layer: SocConv2d, x: Tensor, terms: int) -> Tensor:
    """The layer by powers of dense matrices, one group after the other."""
    stride, parts = layer.stride, []
    x = torch.stack(
        [x[:, c, i::stride, j::stride] for c in range(x.shape[1]) for i in range(stride) for j in range(stride)], 1
    )
    outputs = len(layer.bias) // layer.groups
    for kernel, part in zip(kernels(layer), x.chunk(layer.groups, 1), strict=True):
        filled = torch.cat([part, part.new_zeros(len(part), len(kernel) - part.shape[1], *part.shape[2:])], 1)
        shape = tuple(filled.shape[1:])
        whole = spread(kernel, layer.dilation)
        j = dense(lambda y, kernel=whole: functional.conv2d(y, kernel, padding=kernel.shape[-1] // 2), shape)
        assert torch.allclose(j, -j.T)
        series = sum(torch.linalg.matrix_power(j, power) / math.factorial(power) for power in range(terms + 1))
        parts.append((filled.flatten(1) @ series.T).view(filled.shape)[:, :outputs])
    return torch.cat(parts, 1) + layer.bias[:, None, None]


def converged(*form: int) -> SocConv2d:
    torch.manual_seed(2)
    layer = SocConv2d(*form).double()
    with torch.no_grad():
        for _ in range(400):
            layer.weight  # noqa: B018
    return layer


@pytest.mark.parametrize("name", FORMS)
def test_outputs_and_gradients(name: str) -> None:
    """In training and in evaluation, with their numbers of terms, once the norms have converged."""
    layer, size = converged(*FORMS[name]), (4, 6)
    x = torch.randn(2, FORMS[name][0], *size, dtype=torch.float64, requires_grad=True)
    for training, terms in ((True, 5), (False, 12)):
        found, expected = layer.train(training)(x), formula(layer, x, terms)
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-9)
        given = (x, layer.parametrizations.weight.original, layer.bias)
        for one, other in zip(*(torch.autograd.grad(y.sin().sum(), given) for y in (found, expected)), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", FORMS)
def test_how_orthogonal_the_layer_is(name: str) -> None:
    """The singular values of its operator are as near to 1 as the length of the series allows, and not all nearer."""
    form = FORMS[name]
    torch.manual_seed(0)
    layer = SocConv2d(*form).double()
    for training, terms in ((True, 5), (False, 12)):
        layer.train(training)
        norm = conv_bound(layer.weight, groups=layer.groups).item()
        assert norm < (2.3 if form[2] == 3 else 0.8 * form[2] if form[2] > 1 else 1.001)
        off = (singular_values(layer, (form[0], 6, 6)) - 1).abs().max().item()
        limit = norm ** (terms + 1) / math.factorial(terms + 1)
        assert off <= limit * (1 + 1e-6) + 1e-12
        assert off > (1e-6 if training else -1)


def test_the_norms_follow_the_weights_with_a_step_each_time() -> None:
    """Without the authors' 50 steps in every 200th: after 100 changes of the weights by a hundredth each."""
    torch.manual_seed(0)
    layer = SocConv2d(8, 8, 3).double()
    original = layer.parametrizations.weight.original
    with torch.no_grad():
        for _ in range(100):
            original.add_(torch.randn_like(original), alpha=0.01 * layer.channels**-0.5)
            kernel = layer.weight
        (exact,) = kernels(layer)
    assert 1 - 1e-9 < kernel.norm() / exact.norm() < 1.1


def test_evaluation_keeps_the_vectors_and_the_kernel() -> None:
    torch.manual_seed(0)
    layer = SocConv2d(3, 3, 3).eval()
    before = {name: value.clone() for name, value in layer.named_buffers()}
    with torch.no_grad(), unchanging(layer):
        x = torch.randn(2, 3, 5, 5)
        assert torch.equal(layer(x), layer(x))
        assert layer.weight is layer.weight
    assert all(torch.equal(value, before[name]) for name, value in layer.named_buffers())
    with torch.no_grad():
        layer.parametrizations.weight.original.normal_()
    layer.train()(torch.randn(1, 3, 5, 5))
    assert not any(torch.equal(value, before[name]) for name, value in layer.named_buffers())


class Alone(Soc):
    """The method without what the network does ahead of its layers."""

    def initialize(self, model: nn.Module) -> None:
        Method.initialize(self, model)


@pytest.mark.parametrize("layout", placement.FORMATS)
def test_a_network_computes_what_its_layers_would(layout: str) -> None:
    same_as_alone(Soc(), Alone(), layout)


def test_a_network_has_the_lipschitz_constant_of_its_additions() -> None:
    """Every layer has the norm 1 up to the end of the series, a block with a shortcut 2, the mean over 4x4 pixels 1/4."""
    model = build_classifier("resnet8", {"width": 4}, Soc(), 3, 5, seed=0).double().eval()
    found = bounds(model, torch.randn(1, 3, 16, 16, dtype=torch.float64))
    assert len(found["layers"]) == 10
    assert all(1 - 1e-4 < layer["estimate"] <= 1 <= layer["bound"] < 1 + 1e-4 for layer in found["layers"])
    assert found["product"] == pytest.approx(2**3 / 4, rel=1e-3)
    x = torch.randn(1, 3, 16, 16, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(model, x).view(5, -1)
    assert torch.linalg.matrix_norm(jacobian, 2) <= found["product"]


def test_what_is_refused_and_what_is_not_theirs() -> None:
    method = Soc()
    with pytest.raises(ValueError, match="has the padding 1, not 0"):
        method.conv(ConvSpec(2, 2, 3, BODY))
    with pytest.raises(ValueError, match="kernel_size 2 is even"):
        SocConv2d(2, 2, 2)
    assert isinstance(method.conv(ConvSpec(4, 4, 1, Role("gate"))), nn.Conv2d)
    assert isinstance(method.norm(4, role=BODY), nn.Identity)
    assert isinstance(method.activation(4, role=Role("addition", activation="relu")), MaxMin)
    head = method.linear(6, 4, role=Role("head")).eval()
    assert isinstance(head, SocLinear)
    x = torch.randn(2, 6)
    torch.testing.assert_close(head(x), SocConv2d.forward(head, x[:, :, None, None])[:, :, 0, 0])


def test_a_kernel_that_is_zero_is_the_identity() -> None:
    """The skew part of a 1x1 kernel of one channel: no NaN, in both passes."""
    layer = SocConv2d(3, 3, 1, groups=3)
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(layer(x), x + layer.bias[:, None, None])
    layer(x).sum().backward()
    assert layer.parametrizations.weight.original.grad.isfinite().all()
