"""Orthogonal weights against torch's parametrization of the flattened matrix, and where that one goes wrong."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from normbench.evaluation import fold
from normbench.functional import placement
from normbench.functional.constants import unchanging
from normbench.methods.base import ConvSpec, Method, Role
from normbench.methods.orthogonal import OrthogonalWeights
from normbench.training.optimization import optimizer
from tests.support.subjects import recipe
from tests.support.weights import images, network, same_as_alone

BODY = Role("body")
SPECS = {
    "wide": ConvSpec(3, 5, 3, BODY, padding=1),
    "tall": ConvSpec(2, 7, 1, BODY),
    "square": ConvSpec(4, 4, 1, BODY),
    "one row": ConvSpec(3, 1, 3, BODY),
}


def matrix(weight: Tensor) -> Tensor:
    return weight.detach().flatten(1)


@pytest.mark.parametrize("name", SPECS)
def test_values_and_gradients_are_those_of_torch_on_the_flattened_matrix(name: str) -> None:
    """From the same weight, and from the same changed parameter, which torch has transposed if it is wide."""
    torch.manual_seed(0)
    layer = SPECS[name].plain(bias=False).double()
    flat = nn.Linear(layer.weight[0].numel(), len(layer.weight), bias=False).double()
    flat.weight.data.copy_(matrix(layer.weight))
    OrthogonalWeights.orthogonal(layer, 1)
    parametrizations.orthogonal(flat, orthogonal_map="householder", use_trivialization=False)
    original, of_torch = layer.parametrizations.weight.original, flat.parametrizations.weight.original
    torch.testing.assert_close(matrix(layer.weight), flat.weight.detach(), rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        moved = 0.3 * torch.randn_like(original).tril(-1)
        original.add_(moved)
        of_torch.add_(moved[0].mT if len(flat.weight) < flat.weight.shape[1] else moved[0])
    torch.testing.assert_close(matrix(layer.weight), flat.weight.detach(), rtol=1e-11, atol=1e-12)
    wave = torch.randn_like(flat.weight)
    (found,) = torch.autograd.grad((layer.weight.flatten(1) * wave).sum(), original)
    (expected,) = torch.autograd.grad((flat.weight * wave).sum(), of_torch)
    expected = expected.mT if len(flat.weight) < flat.weight.shape[1] else expected
    torch.testing.assert_close(found[0], expected.tril(-1), rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_each_group_has_orthonormal_rows_or_columns(groups: int) -> None:
    torch.manual_seed(0)
    layer = OrthogonalWeights().conv(ConvSpec(8, 16, 3, BODY, padding=1, groups=groups)).double()
    with torch.no_grad():
        layer.parametrizations.weight.original.normal_()
    for each in layer.weight.detach().view(groups, 16 // groups, -1):
        values = torch.linalg.svdvals(each)
        torch.testing.assert_close(values, torch.ones_like(values), rtol=1e-11, atol=1e-11)


def test_torch_on_a_convolution_makes_its_slices_orthogonal_instead() -> None:
    torch.manual_seed(0)
    spec, one = ConvSpec(6, 8, 3, BODY), torch.eye(8)
    of_torch = parametrizations.orthogonal(spec.plain(bias=False))
    slices = of_torch.weight.detach()
    torch.testing.assert_close(slices @ slices.mT, torch.eye(3).expand(8, 6, 3, 3), rtol=0, atol=1e-5)
    rows, ours = matrix(of_torch.weight), matrix(OrthogonalWeights().conv(spec).weight)
    assert (rows @ rows.T - one).norm() > 10
    torch.testing.assert_close(ours @ ours.T, one, rtol=0, atol=1e-5)


def test_weight_decay_ends_torchs_parametrization_and_not_this_one() -> None:
    """A step of it makes signs of 1 a little less, of which torch takes the whole-number part."""
    torch.manual_seed(0)
    of_torch = parametrizations.orthogonal(nn.Linear(5, 5), orthogonal_map="householder", use_trivialization=False)
    with torch.no_grad():
        of_torch.parametrizations.weight.original.mul_(1 - 1e-4)
    assert not of_torch.weight.any()
    method = OrthogonalWeights()
    model = network(method).float()
    optim = optimizer(model, method, recipe(weight_decay=0.1, lr=0.1))
    model(images().float()).square().mean().backward()
    optim.step()
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            values = torch.linalg.svdvals(
                layer.weight.detach().view(layer.groups, layer.out_channels // layer.groups, -1)
            )
            torch.testing.assert_close(values, torch.ones_like(values), rtol=0, atol=1e-4)


class Alone(OrthogonalWeights):
    """The method without what the network does ahead of its layers."""

    def initialize(self, model: nn.Module) -> None:
        Method.initialize(self, model)


@pytest.mark.parametrize("layout", placement.FORMATS)
def test_a_network_computes_what_its_layers_would(layout: str) -> None:
    same_as_alone(OrthogonalWeights(classifier=True), Alone(classifier=True), layout)


def test_folding_and_constants() -> None:
    """In evaluation the weights are constants, computed once in a pass over the test images, and fold."""
    model = network(OrthogonalWeights(batch_norm=False))
    model.eval()
    with torch.no_grad(), unchanging(model):
        first = next(layer for layer in model.modules() if isinstance(layer, nn.Conv2d))
        assert first.weight is first.weight
        expected = model(images(1))
    folded = fold(model)
    assert not any(hasattr(layer, "parametrizations") for layer in folded.modules())
    torch.testing.assert_close(folded(images(1)), expected, rtol=1e-10, atol=1e-12)


def test_which_layers() -> None:
    method, whole = OrthogonalWeights(), OrthogonalWeights(batch_norm=False, classifier=True)
    assert not hasattr(method.conv(ConvSpec(4, 4, 1, Role("gate"))), "parametrizations")
    assert not hasattr(method.linear(4, 3, role=Role("head")), "parametrizations")
    rows = whole.linear(4, 3, role=Role("head")).weight.detach()
    torch.testing.assert_close(rows @ rows.T, torch.eye(3))
    assert whole.conv(ConvSpec(4, 4, 1, BODY)).bias is not None
    assert isinstance(whole.norm(4, role=BODY), nn.Identity)
