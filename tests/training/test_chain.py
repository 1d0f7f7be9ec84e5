"""Norms and curvatures of networks whose layers follow one another, against decompositions and explicit Hessians."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from normbench.methods import registry as methods
from normbench.models.build import build_classifier
from normbench.system.errors import UserError
from normbench.training.chain import chain, check_curved, curvature, lipschitz, matrix_norm

SMALL = {"width": 4, "depth": 2, "side": 4, "hidden": 6, "linears": 1, "norms": False}


def network(model: str, options: dict[str, Any], method: str = "no_norm", **given: Any) -> nn.Module:
    return build_classifier(model, options, methods.build(method, given), 1, 4, 0).double().train()


def images(count: int = 1, size: int = 8) -> Tensor:
    return torch.randn(count, 1, size, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def exact_norms(model: nn.Module, x: Tensor) -> list[float]:
    """The largest singular value of each convolution and linear layer as a matrix that is written out."""
    found: list[float] = []

    def note(layer: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
        with torch.enable_grad():
            rows = torch.autograd.functional.jacobian(lambda inner: type(layer).forward(layer, inner), given[0])
        found.append(torch.linalg.matrix_norm(rows.reshape(made.numel(), -1), 2).item())

    handles = [m.register_forward_hook(note) for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    with torch.no_grad():
        model.eval()(x)
    for handle in handles:
        handle.remove()
    model.train()
    return found


@pytest.mark.parametrize("activation", ["relu", "maxmin", "softplus", "tanh", "sigmoid"])
def test_the_constant_of_an_mlp_is_the_product_of_its_norms(activation: str) -> None:
    model = network("mlp", {"side": 8, "width": 12, "activation": activation, "norms": False})
    expected = math.prod(exact_norms(model, images())) * (0.25**2 if activation == "sigmoid" else 1)
    assert lipschitz(chain(model, images()), 3).item() == pytest.approx(expected, rel=1e-3)


def test_a_matrix_norm_and_its_gradient() -> None:
    """A gap between the singular values, so that the iteration has converged."""
    left, _ = torch.linalg.qr(torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    right, _ = torch.linalg.qr(torch.randn(5, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
    weight = (left * torch.tensor([3.0, 2.0, 1.0, 0.5], dtype=torch.float64)) @ right.T
    weight.requires_grad_()
    norm = matrix_norm(weight, 0)
    norm.backward()
    assert norm.item() == pytest.approx(3.0, rel=1e-12)
    assert weight.grad is not None
    assert torch.allclose(weight.grad, torch.outer(left[:, 0], right[:, 0]), atol=1e-12)


@pytest.mark.parametrize("method", ["no_norm", "spectral_norm", "orthogonal", "fantastic_four", "weight_norm"])
def test_the_constant_of_a_convnet_is_near_the_product_of_its_norms(method: str) -> None:
    """Bounds of convolutions are at most 5 % above their norms for all sizes, which small images do not reach."""
    model, x = network("convnet", SMALL, method), images()
    found = lipschitz(chain(model, x), 0).item()
    exact = math.prod(exact_norms(model, x))
    assert exact * (1 - 1e-3) <= found <= exact * 1.3


@pytest.mark.parametrize("method", ["cayley", "soc"])
def test_orthogonal_networks_have_the_constant_one(method: str) -> None:
    model, x = network("convnet", SMALL, method), images(2)
    assert lipschitz(chain(model, x), 0).item() == pytest.approx(1, rel=1e-3)


def test_the_constant_has_a_gradient_for_every_weight() -> None:
    model = network("convnet", SMALL)
    lipschitz(chain(model, images()), 0).backward()
    assert {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()} == {
        name for name, _ in model.named_parameters() if name.endswith("weight")
    }


def test_a_chain_changes_nothing_of_the_network() -> None:
    model = network("mlp", {"side": 8, "width": 12, "norms": False}, "spectral_norm", batch_norm=False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    chain(model, images())
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("model", "options", "method", "message"),
    [
        (
            "convnet",
            SMALL | {"norms": True},
            "batch_norm",
            r"nothing is known of the norm of .*, which is a BatchNorm2d",
        ),
        ("convnet", SMALL | {"side": 2}, "no_norm", r"averages maps of 4 x 4 pixels: model_options.side has to be"),
        ("resnet8", {"width": 4}, "no_norm", r"do not follow one another: \w+ takes more than the one before it"),
        ("mlp", {"side": 8, "width": 4}, "network_deconvolution", r"which is a DeconvLinear"),
    ],
)
def test_networks_that_are_no_chain(model: str, options: dict[str, Any], method: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        chain(network(model, options, method), images())


def logits_differences(model: nn.Module, x: Tensor, own: int, other: int) -> Tensor:
    logits = model(x)[0]
    return logits[own] - logits[other]


@pytest.mark.parametrize("activation", ["softplus", "tanh", "sigmoid"])
@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("mlp", {"side": 4, "width": 6, "depth": 1, "norms": False}),
        ("mlp", {"side": 4, "width": 5, "depth": 3, "norms": False}),
        ("convnet", {"width": 2, "depth": 2, "side": 2, "hidden": 4, "linears": 1, "norms": False}),
    ],
)
def test_curvatures_are_above_every_hessian(model: str, options: dict[str, Any], activation: str) -> None:
    made, x = network(model, options | {"activation": activation}), images(1, 4)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(2)  # so that activations leave the part where they are straight
    links = chain(made, x)
    check_curved(links)
    own, other = torch.tensor([0, 2]), torch.tensor([3, 1])
    least, most = curvature(links, own, other, 0)
    reached = 0.0
    for scale in (0.1, 1.0, 3.0):
        for pair in range(2):
            hessian = torch.autograd.functional.hessian(
                lambda at, pair=pair: logits_differences(made, at, int(own[pair]), int(other[pair])), scale * x
            )
            values = torch.linalg.eigvalsh(hessian.reshape(16, 16))
            assert -least[pair] * 1.001 <= values[0]
            assert values[-1] <= most[pair] * 1.001
            reached = max(reached, (values[-1] / most[pair]).item(), (-values[0] / least[pair]).item())
    assert reached > (0.1 if options.get("depth") == 1 else 1e-3)  # the bounds are about these networks


def test_the_curvature_of_two_layers_in_closed_form() -> None:
    """h * the square of the norm of the first layer * the largest entry of the difference of two rows, by sign."""
    model = network("mlp", {"side": 4, "width": 6, "depth": 1, "activation": "softplus", "norms": False})
    links = chain(model, images(1, 4))
    rows = (links[-1].weight[1] - links[-1].weight[2]).detach()
    square = torch.linalg.matrix_norm(links[0].weight, 2).item() ** 2
    least, most = curvature(links, torch.tensor([1]), torch.tensor([2]), 0)
    assert most.item() == pytest.approx(square * rows.max().item() / 4, rel=1e-3)
    assert least.item() == pytest.approx(square * -rows.min().item() / 4, rel=1e-3)


@pytest.mark.parametrize(
    ("model", "options", "method", "message"),
    [
        ("mlp", {"side": 8, "width": 6, "activation": "relu", "norms": False}, "no_norm", "curvature of ReLU"),
        ("convnet", SMALL, "cayley", "curvature of CayleyConv2d"),
    ],
)
def test_networks_without_a_curvature(model: str, options: dict[str, Any], method: str, message: str) -> None:
    made = network(model, options, method)
    with pytest.raises(UserError, match=message):
        check_curved(chain(made, images()))
