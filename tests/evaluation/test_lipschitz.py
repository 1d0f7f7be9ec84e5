"""Bounds on networks against their Jacobians, and the measures of feature maps against what is known of them."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from normbench.data.batches import Images, on_device
from normbench.evaluation.folding import fold
from normbench.evaluation.lipschitz import bounds, filtered_bound, layer_norms
from normbench.evaluation.smoothness import Smoothness, constants, features, smoothness
from normbench.functional.pooling import AveragePool
from normbench.methods import registry
from normbench.methods.cayley import CayleyConv2d
from normbench.methods.conv_norm import ConvNorm2d
from normbench.methods.soc import SocConv2d
from normbench.models import registry as models
from normbench.models.activations import Activation
from tests.support.subjects import subject


def trained(method: str, network: str, options: dict, size: int = 16, **method_options: object) -> nn.Module:
    torch.manual_seed(0)
    model = models.classifier(network, options, registry.build(method, method_options), 2, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    for _ in range(4):
        loss = nn.functional.cross_entropy(model(torch.randn(8, 2, size, size)), torch.randint(4, (8,)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


NETWORKS = [("resnet8", {"width": 2}), ("preact_resnet18", {"width": 2}), ("densenet100", {"growth": 1})]
METHODS = ["batch_norm", "no_norm", "network_deconvolution", "conv_norm", "spectral_norm"]
CONSTRAINED = ["cayley", "conv_spectral_norm", "orthogonal", "scaled_weight_standardization", "soc", "weight_norm"]


@pytest.mark.parametrize("size", [(8, 20), (18, 8)])
@pytest.mark.parametrize(("method", "network"), [*((method, "resnet8") for method in METHODS), ("conv_norm", "vgg")])
def test_the_bound_on_images_that_are_not_square(method: str, network: str, size: tuple[int, int]) -> None:
    """Every convolution's estimate is near the norm of its own operator, at the height and width that it sees."""
    if network == "vgg":
        network, size = "vgg11", (32 + size[0], 32 + size[1])
    model = trained(method, network, {"width": 2}, 40).double()
    x = torch.randn(1, 2, *size, dtype=torch.float64)
    found = bounds(model, x)
    assert found["product"] is not None, found["why"]
    jacobian = torch.autograd.functional.jacobian(model, x).view(4, -1)
    assert torch.linalg.matrix_norm(jacobian, 2).item() <= found["product"] * (1 + 1e-9)
    shapes: dict[str, torch.Size] = {}
    plain = fold(model)
    handles = [
        layer.register_forward_hook(lambda _, given, __, name=name: shapes.update({name: given[0].shape}))
        for name, layer in plain.named_modules()
        if isinstance(layer, nn.Conv2d)
    ]
    plain(x)
    for handle in handles:
        handle.remove()
    layers = {layer["name"]: layer for layer in found["layers"]}
    for name in [name for name in shapes if name in layers and layers[name]["estimate"] is not None][:3]:
        layer = copy.deepcopy(plain.get_submodule(name))
        layer.bias = None
        matrix = torch.autograd.functional.jacobian(layer, torch.zeros(shapes[name], dtype=torch.float64))
        exact = torch.linalg.matrix_norm(matrix.flatten(4).flatten(0, 3), 2).item()
        assert 0.8 * exact <= layers[name]["estimate"] <= exact * (1 + 1e-6) <= layers[name]["bound"] * (1 + 2e-6)


@pytest.mark.parametrize(
    ("method", "network", "options"),
    [
        *((method, *network) for method in METHODS for network in NETWORKS),
        *((method, "resnet8", {"width": 2}) for method in ["fixup", *CONSTRAINED]),
        *((method, *network) for method in METHODS for network in (("mlp", {"side": 8, "width": 12}), ("lenet", {}))),
        *((method, "convnet", {"width": 2, "side": 4, "hidden": 8}) for method in [*METHODS, *CONSTRAINED]),
        *(
            ("no_norm", "convnet", {"width": 2, "side": 4, "hidden": 8, "activation": each})
            for each in get_args(Activation)
        ),
    ],
)
def test_the_bound_is_above_every_jacobian(method: str, network: str, options: dict) -> None:
    model = trained(method, network, options).double()
    x = torch.randn(1, 2, 16, 16, dtype=torch.float64)
    found = bounds(model, x)
    assert found["product"] is not None, found["why"]
    for scale in (0.1, 1, 10):
        jacobian = torch.autograd.functional.jacobian(model, scale * torch.randn(1, 2, 16, 16, dtype=torch.float64))
        assert torch.linalg.matrix_norm(jacobian.view(4, -1), 2).item() <= found["product"] * (1 + 1e-9)
        rows = jacobian.view(4, -1)
        gaps = (rows[:, None] - rows).norm(dim=2)
        assert (gaps <= found["differences"] * (1 + 1e-9)).all()
    assert (found["differences"] <= math.sqrt(2) * found["product"] * (1 + 1e-9)).all()
    if method not in CONSTRAINED:  # The rows of the last layer are not orthogonal, let alone opposite.
        assert (found["differences"] < 1.3 * found["product"]).any()
    assert all(
        layer["estimate"] is None or layer["estimate"] <= layer["bound"] * (1 + 1e-6) for layer in found["layers"]
    )
    if network == "resnet8" and method not in CONSTRAINED:  # where every norm is folded
        assert len(found["layers"]) == 9 + 1 + (3 if method == "fixup" else 0)  # a scale for each block


@pytest.mark.parametrize(("groups", "size"), [(1, (6, 9)), (2, (8, 8)), (1, (1, 2))])
@pytest.mark.parametrize("chunk", [1, 10**6])
def test_the_bound_of_a_circular_filter_by_singular_values(
    groups: int, size: tuple[int, int], chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The spectrum of every kernel at every frequency, over its norm: the largest singular value among all of them."""
    monkeypatch.setattr("normbench.spectral.frequencies.CHUNK", chunk)
    torch.manual_seed(0)
    layer = ConvNorm2d(4, 6, (3, 5), padding=(1, 2), groups=groups)
    grid = (size[0] + layer.full[0], size[1] + layer.full[1])
    spectrum = np.fft.fft2(layer.weight.detach().double().numpy(), s=grid)
    spectrum /= np.sqrt((np.abs(spectrum) ** 2).sum(1, keepdims=True))
    parts = np.split(spectrum.transpose(2, 3, 0, 1), groups, axis=2)
    expected = max(np.linalg.norm(part, 2, axis=(2, 3)).max() for part in parts)
    assert filtered_bound(layer, (1, 4, *size, 1, 6, *size)).item() == pytest.approx(expected, rel=1e-10)


def test_a_filter_that_is_zero_has_no_bound() -> None:
    model = nn.Sequential(ConvNorm2d(2, 2, 3, padding=1), nn.Flatten(), nn.Linear(32, 3)).eval()
    with torch.no_grad():
        model[0].weight[1] = 0
    found = bounds(model, torch.randn(1, 2, 4, 4))
    assert (found["product"], found["why"]) == (None, "the norm of 0 is not finite")


def test_a_chain_of_linear_layers_is_the_product_of_its_norms() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(9, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    found = bounds(model, torch.randn(1, 1, 3, 3, dtype=torch.float64))
    norms = [torch.linalg.matrix_norm(layer.weight, 2).item() for layer in (model[1], model[3])]
    assert found["product"] == pytest.approx(math.prod(norms))
    assert [layer["bound"] for layer in found["layers"]] == pytest.approx(norms)


@pytest.mark.parametrize("size", [(4, 4), (7, 12), (5, 5), (2, 5)])
def test_the_bound_of_average_pooling_is_its_norm(size: tuple[int, int]) -> None:
    found = bounds(nn.Sequential(AveragePool(5)), torch.randn(1, 2, *size))
    matrix = torch.autograd.functional.jacobian(AveragePool(5).double(), torch.zeros(1, 1, *size, dtype=torch.float64))
    exact = torch.linalg.matrix_norm(matrix.view(25, -1), 2).item()
    assert found["product"] == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize(("method", "network"), [("group_norm", "resnet8"), ("batch_norm", "senet18")])
def test_what_has_no_bound_says_why(method: str, network: str) -> None:
    """Group norm divides by what can be arbitrarily small; a gate multiplies two functions of the image."""
    model = trained(method, network, {"width": 4})
    found = bounds(model, torch.randn(1, 2, 16, 16))
    assert found["product"] is None
    assert "no Lipschitz constant is known for" in found["why"]


class Doubled(nn.Conv2d):
    """A convolution whose forward pass is not that of torch's class."""

    def forward(self, x: Tensor) -> Tensor:
        return 10 * super().forward(x)


class DoubledNorm(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return 10 * super().forward(x)


class Own(nn.Module):
    """A network of somebody's own. layer: between two convolutions. shorten: from maps to features."""

    def __init__(self, layer: nn.Module, shorten: Callable[[Tensor], Tensor], features: int):
        super().__init__()
        self.first, self.layer, self.head = nn.Conv2d(1, 3, 3, padding=1), layer, nn.Linear(features, 4)
        self.shorten = shorten

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.shorten(self.layer(self.first(x))))


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


class Failing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise KeyError("no weight")


class Changing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


for _kind in (Doubled, DoubledNorm, Pair, Failing):
    _kind.__module__ = "elsewhere"  # so that they are layers of the network, and no parts of its code


def pooled(x: Tensor) -> Tensor:
    return x.mean((-2, 3))


@pytest.mark.parametrize(
    ("layer", "shorten", "features", "why"),
    [
        (nn.ReLU(), lambda x: pooled(x + x), 3, None),
        (nn.ReLU(), lambda x: pooled(torch.cat([x, x], 1)), 6, None),
        (nn.ReLU(), lambda x: pooled(torch.add(x, x, alpha=3)), 3, "for add"),
        (nn.ReLU(), lambda x: x.mean(1).flatten(1), 36, "for mean"),
        (nn.ReLU(), lambda x: nn.functional.avg_pool2d(x, 2, stride=1).flatten(1), 75, "for avg_pool2d"),
        (nn.ReLU(), lambda x: nn.functional.avg_pool2d(x, kernel_size=2).flatten(1), 27, "for avg_pool2d"),
        (Doubled(3, 3, 1), pooled, 3, "for Doubled"),
        (DoubledNorm(3), pooled, 3, "for DoubledNorm"),
        (nn.BatchNorm2d(3, track_running_stats=False), pooled, 3, "for BatchNorm2d"),
        (nn.MaxPool2d(2, dilation=2), lambda x: x.flatten(1), 12, "for MaxPool2d"),
        (nn.Conv2d(3, 3, 3, padding=1, padding_mode="replicate"), pooled, 3, "padding 'replicate'"),
        (nn.Conv2d(3, 3, 1, stride=(1, 2)), pooled, 3, "two different strides"),
        (Pair(), lambda pair: pooled(pair[0]), 3, "for Pair"),
    ],
)
def test_a_network_of_somebodys_own(
    layer: nn.Module, shorten: Callable[[Tensor], Tensor], features: int, why: str | None
) -> None:
    """It has a bound that holds, or none; a layer that has more than its class tells is not taken for that class."""
    torch.manual_seed(0)
    model = Own(copy.deepcopy(layer), shorten, features).double().eval()
    x = torch.randn(1, 1, 6, 6, dtype=torch.float64)
    found = bounds(model, x)
    if why is not None:
        assert found["product"] is None
        assert why in found["why"]
        return
    norm = torch.linalg.matrix_norm(torch.autograd.functional.jacobian(model, x).view(4, -1), 2).item()
    whole = math.prod(each["bound"] for each in found["layers"])
    assert norm <= found["product"]
    assert found["product"] / whole == pytest.approx((2 if features == 3 else math.sqrt(2)) / 6)  # over 36 pixels


@pytest.mark.parametrize(
    "made",
    [
        lambda: nn.Conv2d(2, 3, 3, padding=2, dilation=2),
        lambda: nn.Conv2d(2, 4, 3, padding=(2, 3), dilation=(2, 3), groups=2),
        lambda: nn.Conv2d(2, 3, 3, stride=2, padding=3, dilation=3),
        lambda: ConvNorm2d(2, 3, 3, padding=2, dilation=2),
        lambda: ConvNorm2d(2, 4, 3, padding=(1, 3), groups=2, dilation=(1, 3), affine=False),
        lambda: SocConv2d(2, 3, 3, dilation=3, eval_terms=14),
        lambda: CayleyConv2d(2, 3, 3, dilation=2),
    ],
)
def test_dilated_layers_have_bounds_that_hold(made: Callable[[], nn.Module]) -> None:
    """Against all singular values of the layer on images of one size, which the estimate approaches from below."""
    torch.manual_seed(0)
    layer = made().double().eval().requires_grad_(False)
    x = torch.randn(1, 2, 7, 6, dtype=torch.float64)
    y = layer(x)
    norm = torch.linalg.matrix_norm(torch.autograd.functional.jacobian(layer, x).view(y.numel(), -1), 2).item()
    found = layer_norms(layer, (*x.shape, *y.shape))
    assert found is not None
    assert found["estimate"] <= norm * (1 + 1e-9)
    assert norm <= found["bound"] * (1 + 1e-9)
    assert found["estimate"] == pytest.approx(norm, rel=0.02)
    assert found["bound"] <= 3 * norm  # a bound for images of any size, where these have few pixels for such a kernel


@pytest.mark.parametrize(("side", "step"), [(3, 2), (2, 2), (3, 1), (2, 3), (5, 2)])
def test_max_pooling_of_overlapping_windows(side: int, step: int) -> None:
    """The slope at a pixel that is the largest of all windows that it is in reaches the bound."""
    pool = nn.MaxPool2d(side, step)
    x = torch.zeros(1, 1, 31, 31, dtype=torch.float64)
    x[..., 15 - 15 % step, 15 - 15 % step] = 1
    found = layer_norms(pool, (*x.shape, *pool(x).shape))
    reached = torch.linalg.vector_norm(pool(x)).item()
    assert reached == pytest.approx(1.0 if found is None else found["bound"])


def test_a_network_that_cannot_be_folded_says_why() -> None:
    for layer, why in ((Changing(), "cannot be traced"), (Failing(), "cannot be folded: KeyError: 'no weight'")):
        found = bounds(Own(layer, pooled, 3).eval(), torch.ones(1, 1, 3, 3))
        assert found["product"] is None
        assert why in found["why"]


def test_smoothness_of_a_linear_classifier_is_exact() -> None:
    """With two classes and a linear layer, bound, local constant and certified radius all follow by hand."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[1.0, 1, 1, 1], [-1, -1, -1, -1]]))
        model[1].bias.copy_(torch.tensor([0.0, 0.0]))
    pixels = torch.full((4, 2, 2, 1), 255, dtype=torch.uint8)
    pixels[3] = 128  # hardly brighter than the mean
    images = on_device(pixels, torch.tensor([0, 0, 1, 0]), [0.5], [0.25], "cpu")
    settings = Smoothness(examples=4, radii=[100.0, 3.0, 0.5])
    found = constants(subject(model, images), settings, torch.arange(4))
    # The margin is 2 (sum of x), x = (p - 0.5) / 0.25, its gradient 8 in each of 4 pixels; the layer has norm sqrt(8).
    assert found["local"]["mean"] == pytest.approx(16 / math.sqrt(2))
    assert found["bound"] == pytest.approx(math.sqrt(8) / 0.25)
    margins = [2 * 4 * 2, 2 * 4 * 2, -1, 2 * 4 * (128 / 255 - 0.5) * 4]
    for radius, share in found["certified"].items():
        expected = sum(m / (math.sqrt(2) * found["bound"]) > float(radius) / 255 for m in margins) / 4
        assert share == expected
    assert found["certified"] == {"100": 0.5, "3": 0.5, "0.5": 0.75}
    score = smoothness(subject(model, images), settings)
    for key, value in score.metrics["smoothness"]["local"].items():  # all four images are drawn, in another order
        assert value == pytest.approx(found["local"][key]), key
    assert score.metrics["smoothness"]["certified"] == found["certified"]
    assert score.columns == score.predictions == {}


def test_features_are_of_the_network_before_and_after_training() -> None:
    """That before training has no running statistics, and is looked at with those of its images."""
    model = trained("batch_norm", "resnet8", {"width": 2})
    torch.manual_seed(1)
    before = models.classifier("resnet8", {"width": 2}, registry.build("batch_norm", {}), 2, 4).eval()
    pixels = torch.randint(0, 256, (12, 16, 16, 2), dtype=torch.uint8)
    images = on_device(pixels, torch.arange(12) % 4, [0.5, 0.5], [0.25, 0.25], "cpu")
    given = subject(model, images, initial=lambda: before)
    found = smoothness(given, Smoothness(examples=5)).metrics["features"]
    x = images.normalized(images.pixels[given.drawn("smoothness", 5)])
    assert found["trained"] == features(model.eval(), x)
    assert found["initial"] == features(before.train(), x) != features(before.eval(), x)


def test_features_of_known_images() -> None:
    """A constant has all its energy in the mean, a checkerboard in the highest band."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.ReLU(), nn.ReLU()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(self.first(x) - 1)

    checker = (torch.arange(8)[:, None] + torch.arange(8)) % 2
    x = torch.stack([torch.full((8, 8), 2.0), 1 + 2.0 * checker])[:, None]
    first, second = features(Twice(), x)
    assert first["max"] == 3
    assert first["rms"] == pytest.approx(math.sqrt((4 + 5) / 2))
    assert first["mean"] == pytest.approx((4 + 4) / 9)
    assert first["high"] == pytest.approx(1 / 9)
    assert first["low"] == first["middle"] == 0
    assert second["rms"] == pytest.approx(math.sqrt((1 + 2) / 2))
    model = models.classifier("resnet8", {"width": 4}, registry.build("batch_norm", {}), 1, 3)
    assert len(features(model, torch.randn(4, 1, 8, 8))) == 3


def test_features_are_those_of_maps_alone() -> None:
    """The parts of a network of somebody's own may make anything."""

    class Head(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.own, self.head = Changing(), Two(), Head(1, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.own(self.layer(x))[0].mean((2, 3)))

    class Two(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    (found,) = features(Net(), 2 * torch.ones(3, 1, 4, 4))
    assert (found["rms"], found["mean"]) == (2, 1)


@pytest.mark.parametrize("axis", [2, 3])
def test_features_of_images_that_are_not_square(axis: int) -> None:
    """A frequency is in cycles per pixel along both axes: a wave of a quarter cycle is in the middle band."""
    shape = [1, 1, 8, 8]
    shape[axis] = 20
    wave = torch.cos(torch.arange(20) * math.tau / 4).view([20 if i == axis else 1 for i in range(4)])
    (found,) = features(nn.Sequential(nn.ReLU()), 1 + wave.expand(shape))
    assert found["mean"] == pytest.approx(2 / 3)
    assert found["middle"] == pytest.approx(1 / 3)


def test_features_of_collapsed_and_exploded_networks() -> None:
    """A record is JSON, which has no number for what is not finite."""
    names = ["rms", "max", "mean", "low", "middle", "high"]
    model = nn.Sequential(nn.ReLU())
    assert features(model, -torch.ones(2, 3, 8, 8)) == [dict.fromkeys(names, 0.0)]
    huge = features(model, torch.full((2, 3, 8, 8), 1e30))[0]
    assert huge["rms"] == pytest.approx(1e30)
    assert huge["mean"] == 1
    assert features(model, torch.full((2, 3, 8, 8), float("nan"))) == [dict.fromkeys(names)]


def test_weights_that_overflow_have_no_bound_and_numbers_that_json_has() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 3)).eval()
    images = Images(
        torch.randint(0, 256, (6, 1, 8, 8), dtype=torch.uint8), torch.arange(6) % 3, *torch.full((2, 1, 1, 1), 0.3)
    )
    for huge, whole in ((("0", "1"), False), (("3",), True), (("0", "3"), True), (("0", "1", "3"), False)):
        changed = copy.deepcopy(model)
        with torch.no_grad():
            for name in huge:
                changed.get_parameter(f"{name}.weight").fill_(1e37)
        found = smoothness(subject(changed, images), Smoothness()).metrics
        json.dumps(found, allow_nan=False)
        assert (found["smoothness"]["bound"] is not None) == whole
        assert whole or found["smoothness"]["why"] == "the weights of 0 are not finite when norms are folded into them"
