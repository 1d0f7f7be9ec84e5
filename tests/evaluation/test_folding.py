"""Folded networks: the same outputs as in evaluation, from plain layers."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from normbench.evaluation import fold
from normbench.methods import registry
from normbench.methods.conv_norm import ConvNorm2d
from normbench.methods.network_deconvolution import DeconvConv2d, DeconvLinear
from normbench.methods.spectral_batch_norm import AfterBatchNorm, SpectralBatchNorm2d
from normbench.models import registry as models
from normbench.system.errors import UserError
from tests.oracles import layers as oracles

VARIANTS = {
    "batch_norm": ("batch_norm", {}),
    "group_norm": ("group_norm", {}),
    "network_deconvolution": ("network_deconvolution", {"block": 4}),
    "conv_norm": ("conv_norm", {}),
    "conv_norm without batch norm": ("conv_norm", {"batch_norm": False}),
    "conv_norm without affine": ("conv_norm", {"affine": False}),
    "spectral_batch_norm": ("spectral_batch_norm", {"placement": "all"}),
    "spectral_batch_norm, whole plane": ("spectral_batch_norm", {"placement": "all", "statistics": "full"}),
    "spectral_batch_norm, full scale": ("spectral_batch_norm", {"fft_norm": "full"}),
    "spectral_batch_norm, by frequency": ("spectral_batch_norm", {"statistics": "frequency"}),
    "fantastic_four": ("fantastic_four", {}),
    "spectral_norm": ("spectral_norm", {}),
}
# Whose weights or layers are constrained, in two of the networks.
CONSTRAINED = {
    "cayley": ("cayley", {}),
    "conv_spectral_norm": ("conv_spectral_norm", {}),
    "orthogonal": ("orthogonal", {}),
    "scaled_weight_standardization": ("scaled_weight_standardization", {"skip_gain": 1.0}),
    "soc": ("soc", {}),
    "weight_norm": ("weight_norm", {"mean_only_batch_norm": True}),
    "weight_standardization": ("weight_standardization", {}),
}
NETWORKS = {
    "resnet8": {"width": 4},
    "preact_resnet18": {"width": 4},
    "mobilenet_v2": {"width": 4},
    "senet18": {"width": 4},
    "resnext29_2x64d": {"width": 4},
}


def trained(variant: str, network: str) -> nn.Module:
    """A float64 network after three training steps, so that all statistics have moved."""
    torch.manual_seed(0)
    method = registry.build(*(VARIANTS | CONSTRAINED)[variant])
    model = models.classifier(network, NETWORKS[network], method, 3, 5).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    for _ in range(3):
        loss = nn.functional.cross_entropy(model(torch.randn(6, 3, 16, 16).double()), torch.randint(5, (6,)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


def left(model: nn.Module, *kinds: type[nn.Module]) -> int:
    return sum(isinstance(layer, kinds) for layer in model.modules())


@pytest.mark.parametrize(
    ("variant", "network"),
    [*itertools.product(VARIANTS, NETWORKS), *itertools.product(CONSTRAINED, ["resnet8", "mobilenet_v2"])],
)
def test_the_same_outputs_from_plain_layers(variant: str, network: str) -> None:
    model = trained(variant, network)
    before = copy.deepcopy(model.state_dict())
    folded = fold(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items() if torch.is_tensor(value))
    assert model.training
    model.eval()
    sizes = [(7, 3, 16, 16), (1, 3, 16, 16)]
    sizes += [(3, 3, 16, 24)] if variant != "spectral_batch_norm, by frequency" else []
    for size in sizes:
        x = torch.randn(size).double()
        with torch.no_grad():
            assert oracles.relative_error(folded(x), model(x)) < 1e-11
            again = folded(x)  # nothing that is kept between calls has moved
            assert torch.equal(again, folded(x))
        single = copy.deepcopy(folded).float()
        with torch.no_grad():
            assert oracles.relative_error(single(x.float()).double(), model(x)) < 1e-5
    assert not left(folded, DeconvConv2d, DeconvLinear, AfterBatchNorm)
    assert not hasattr(folded, "fantastic_four")
    assert all(not hasattr(layer, "parametrizations") for layer in folded.modules())
    if network == "resnet8":  # a norm follows every convolution
        assert not left(folded, nn.BatchNorm2d) or variant == "conv_norm without affine"
        by_size = variant.endswith(("full scale", "by frequency"))
        assert bool(left(folded, SpectralBatchNorm2d)) == by_size


@pytest.mark.parametrize(
    "layer",
    [
        lambda: DeconvConv2d(4, 6, (3, 1), (2, 1), (1, 0), block=2),
        lambda: DeconvConv2d(4, 6, 3, dilation=2, groups=2),
        lambda: DeconvConv2d(4, 6, 3, bias=False),
        lambda: ConvNorm2d(4, 6, 1, 2),
        lambda: ConvNorm2d(4, 6, 1, dilation=3),
        lambda: ConvNorm2d(4, 6, 1, groups=2, affine=False),
        lambda: ConvNorm2d(4, 6, 1, batch_norm=False),
    ],
)
def test_one_layer_becomes_a_convolution(layer: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    module = layer().double()
    for _ in range(2):
        module(torch.randn(5, 4, 9, 9).double())
    folded = fold(module)
    assert isinstance(folded, nn.Conv2d)
    x = torch.randn(3, 4, 11, 8).double()
    with torch.no_grad():
        assert oracles.relative_error(folded(x), module.eval()(x)) < 1e-12


def test_a_linear_layer_becomes_one() -> None:
    torch.manual_seed(0)
    module = DeconvLinear(12, 5, block=4).double()
    module(torch.randn(8, 12).double())
    folded = fold(module)
    assert type(folded) is nn.Linear
    x = torch.randn(3, 12).double()
    with torch.no_grad():
        assert oracles.relative_error(folded(x), module.eval()(x)) < 1e-12


def test_a_convolution_whose_output_is_used_twice_keeps_its_norm() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.conv(x)
            return y + self.norm(y)

    module = Twice()
    module(torch.randn(4, 2, 3, 3) + 1)
    x = torch.randn(4, 2, 3, 3)
    folded = fold(module)
    assert type(folded.norm) is nn.BatchNorm2d
    assert torch.allclose(folded(x), module.eval()(x))


def test_a_linear_layer_takes_up_the_batch_norm_of_its_units() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.Unflatten(1, (4, 1, 1)), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    for _ in range(3):
        model(3 * torch.randn(16, 5) + 1)
    x = torch.randn(6, 5)
    folded = fold(model)
    assert type(folded[2]) is nn.Identity
    torch.testing.assert_close(folded(x), model.eval()(x))
    # Channels of four pixels are not units.
    wide = nn.Sequential(nn.Linear(5, 4), nn.Unflatten(1, (1, 2, 2)), nn.BatchNorm2d(1))
    assert type(fold(wide)[2]) is nn.BatchNorm2d


def test_a_network_that_cannot_be_traced_is_refused_in_one_line() -> None:
    class Branching(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(UserError, match=r"^Branching: its forward pass cannot be traced: [^\n]*$"):
        fold(Branching())


class Tripled(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return 3 * super().forward(x)


class Standardized(nn.Conv2d):
    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(x, (weight - weight.mean()) / weight.std(), bias)


@pytest.mark.parametrize(
    "layers",
    [
        (nn.Conv2d(2, 3, 3), Tripled(3)),
        (Standardized(2, 3, 3), nn.BatchNorm2d(3)),
        (nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3, track_running_stats=False)),
    ],
)
def test_layers_that_are_not_what_their_class_tells_are_kept(layers: tuple[nn.Module, nn.Module]) -> None:
    """They compute something else, which a fold of their parameters would lose."""
    model = nn.Sequential(*layers).double()
    model(torch.randn(4, 2, 5, 5).double())
    folded, x = fold(model.eval()), torch.randn(2, 2, 5, 5).double()
    assert [type(layer) for layer in folded] == [type(layer) for layer in layers]
    torch.testing.assert_close(folded(x), model(x), rtol=1e-12, atol=1e-12)
