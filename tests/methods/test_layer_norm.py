"""The two layer norms and instance norm, against their formulas, written map by map and pixel by pixel."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from normbench.methods import registry
from normbench.methods.base import Role
from tests.support.norms import by_map, follows, images, ready, step

ROLE = Role("body")


def layer(name: str, channels: int = 8, **options: object) -> nn.Module:
    return registry.build(name, options).norm(channels, role=ROLE)


def deviation(values: Tensor, eps: float) -> Tensor:
    return (((values - values.mean()) ** 2).mean() + eps) ** 0.5


def of_whole_images(layer: nn.Module, x: Tensor) -> Tensor:
    weight, bias = layer.weight, layer.bias
    return by_map(x, lambda plane, n, c: weight[c] * (plane - x[n].mean()) / deviation(x[n], 1e-5) + bias[c])


def of_pixels(layer: nn.Module, x: Tensor) -> Tensor:
    columns = [
        [layer.weight * (v - v.mean()) / deviation(v, 1e-6) + layer.bias for v in image.flatten(1).T] for image in x
    ]
    return torch.stack([torch.stack(column, 1).view(x.shape[1:]) for column in columns])


def of_maps(layer: nn.Module, x: Tensor) -> Tensor:
    weight, bias = (torch.ones(x.shape[1]), torch.zeros(x.shape[1])) if layer.weight is None else layer.parameters()
    return by_map(x, lambda plane, n, c: weight[c] * (plane - plane.mean()) / deviation(plane, 1e-5) + bias[c])


@pytest.mark.parametrize("size", [(3, 4), (1, 1)])
@pytest.mark.parametrize(
    ("name", "formula", "options"),
    [
        ("layer_norm", of_whole_images, {}),
        ("layer_norm_channels", of_pixels, {}),
        ("instance_norm", of_maps, {"affine": True}),
        ("instance_norm", of_maps, {}),
    ],
)
def test_formula(name: str, formula: object, options: dict, size: tuple[int, int]) -> None:
    if size == (1, 1) and name == "instance_norm" and not options:
        pytest.skip("zero, see below")
    made = ready(layer(name, **options))
    for x in (images(size=size), images(1, size=size).contiguous(memory_format=torch.channels_last)):
        assert follows(made, formula, x)
        assert follows(made.eval(), formula, x)


def test_the_two_layer_norms_differ_by_what_they_keep() -> None:
    """One takes the brightness of the whole image away, the other one that of each pixel."""
    x = images(2)
    brighter = x + torch.linspace(-1, 1, x.shape[3], dtype=torch.float64)  # the same in all channels
    whole, pixels = layer("layer_norm").double(), layer("layer_norm_channels").double()
    assert torch.allclose(pixels(brighter), pixels(x), atol=1e-9)
    assert not torch.allclose(whole(brighter), whole(x), atol=0.1)
    assert torch.allclose(whole(x + 3), whole(x), atol=1e-9)


def test_instance_norm_where_that_of_torch_is_an_error() -> None:
    """Maps of one pixel, and one image of them in evaluation."""
    for count, training in ((4, True), (1, True), (1, False)):
        x = images(count, size=(1, 1))
        with pytest.raises(ValueError, match="more than 1 spatial element"):
            nn.InstanceNorm2d(8).double().train(training)(x)
        assert torch.equal(layer("instance_norm").double().train(training)(x), torch.zeros_like(x))
    x = images()
    reference = nn.InstanceNorm2d(8).double()
    assert torch.allclose(layer("instance_norm").double()(x), reference(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["layer_norm_channels", "instance_norm"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_statistics_of_low_precision_are_wide(name: str, dtype: torch.dtype) -> None:
    """The formula in float64, rounded once, for images whose mean is large."""
    x = (20 + images()).to(dtype)
    made = layer(name)
    found = step(made, x, list(made.parameters()))
    exact = step(made.double(), x.double(), list(made.parameters()))
    assert found[0].dtype == found[1].dtype == dtype
    assert torch.allclose(found[0].double(), exact[0], rtol=torch.finfo(dtype).eps, atol=1e-4)
