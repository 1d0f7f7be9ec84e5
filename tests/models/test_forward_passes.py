"""Forward passes of whole networks against slow ones, written with functions and a table of weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from normbench.methods.batch_norm import BatchNorm
from normbench.methods.no_norm import NoNorm
from normbench.models.build import build_classifier
from tests.models.networks import images


@dataclass(frozen=True)
class Weights:
    """The arrays of a network, by name."""

    arrays: dict[str, Tensor]

    def conv(self, x: Tensor, name: str, stride: int = 1, groups: int = 1, padding: int | None = None) -> Tensor:
        weight = self.arrays[f"{name}.weight"]
        around = weight.shape[-1] // 2 if padding is None else padding
        return functional.conv2d(x, weight, self.arrays.get(f"{name}.bias"), stride, around, groups=groups)

    def norm(self, x: Tensor, name: str) -> Tensor:
        mean, var, weight, bias = (
            self.arrays[f"{name}.{key}"].view(1, -1, 1, 1) for key in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * weight + bias

    def linear(self, x: Tensor, name: str) -> Tensor:
        return x @ self.arrays[f"{name}.weight"].T + self.arrays[f"{name}.bias"]


def relu(x: Tensor) -> Tensor:
    return x.clamp(min=0)


def dpn92(w: Weights, x: Tensor) -> Tensor:
    x = relu(w.norm(w.conv(x, "conv"), "norm"))
    for stage, blocks in enumerate((3, 4, 20, 3)):
        added = 256 * 2**stage * 4 // 96
        for index in range(blocks):
            p, stride = f"stages.{stage}.{index}", 2 if stage and not index else 1
            y = relu(w.norm(w.conv(x, f"{p}.conv1"), f"{p}.norm1"))
            y = relu(w.norm(w.conv(y, f"{p}.conv2", stride, 4), f"{p}.norm2"))
            y = w.norm(w.conv(y, f"{p}.conv3"), f"{p}.norm3")
            if index == 0:
                x = w.norm(w.conv(x, f"{p}.shortcut.0", stride), f"{p}.shortcut.1")
            parts = [x[:, :added] + y[:, :added], x[:, added:], y[:, added:]]
            x = relu(torch.cat(parts, 1))
    return w.linear(x.mean((2, 3)), "head")


def pooled(w: Weights, x: Tensor, p: str, stride: int) -> Tensor:
    x = functional.max_pool2d(x, 3, stride, 1)
    return w.norm(w.conv(x, f"{p}.pooled.resized.0"), f"{p}.pooled.resized.1") if stride == 2 else x


def deep(w: Weights, x: Tensor, name: str, stride: int) -> Tensor:
    return w.norm(w.conv(x, f"{name}.conv", stride, x.shape[1]), f"{name}.norm")


def pnasnet(cell: Callable[[Weights, Tensor, str, int], Tensor]) -> Callable[[Weights, Tensor], Tensor]:
    def forward(w: Weights, x: Tensor) -> Tensor:
        x = relu(w.norm(w.conv(x, "conv"), "norm"))
        for stage, cells in enumerate((6, 7, 7)):
            for index in range(cells):
                x = cell(w, x, f"stages.{stage}.{index}", 2 if stage and not index else 1)
        return w.linear(x.mean((2, 3)), "head")

    return forward


def cell_a(w: Weights, x: Tensor, p: str, stride: int) -> Tensor:
    return relu(deep(w, x, f"{p}.deep", stride) + pooled(w, x, p, stride))


def cell_b(w: Weights, x: Tensor, p: str, stride: int) -> Tensor:
    one = relu(deep(w, x, f"{p}.deep7", stride) + deep(w, x, f"{p}.deep3", stride))
    other = relu(pooled(w, x, p, stride) + deep(w, x, f"{p}.deep5", stride))
    return relu(w.norm(w.conv(torch.cat([one, other], 1), f"{p}.conv"), f"{p}.norm"))


def efficientnet_b0(w: Weights, x: Tensor) -> Tensor:
    x, strides = relu(w.norm(w.conv(x, "conv"), "norm")), [2, 1, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 2]
    for index, stride in enumerate(strides):
        p = f"blocks.{index}"
        y = relu(w.norm(w.conv(x, f"{p}.conv1"), f"{p}.norm1"))
        y = relu(w.norm(w.conv(y, f"{p}.conv2", stride, y.shape[1]), f"{p}.norm2"))
        y = w.norm(w.conv(y, f"{p}.conv3"), f"{p}.norm3")
        squeezed = relu(w.conv(y.mean((2, 3), keepdim=True), f"{p}.gate.squeeze"))
        gated = y / (1 + (-w.conv(squeezed, f"{p}.gate.excite")).exp())
        if stride == 2:
            x = y + gated
        elif x.shape[1] == y.shape[1]:
            x = x + gated
        else:
            x = w.norm(w.conv(x, f"{p}.shortcut.0"), f"{p}.shortcut.1") + gated
    return w.linear(x[:, :, 0, 0], "head")


def lenet(w: Weights, x: Tensor) -> Tensor:
    for place in (0, 4):
        x = relu(w.conv(x, f"features.{place}", padding=0))
        x = torch.stack([x[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)]).amax(0)
    for name in ("linear1", "linear2"):
        x = relu(w.linear(x.flatten(1), name))
    return w.linear(x, "head")


def mlp(w: Weights, x: Tensor) -> Tensor:
    x = x.flatten(1)
    for place in (0, 5):
        x = w.norm(w.linear(x, f"layers.{place}")[:, :, None, None], f"layers.{place + 2}")[:, :, 0, 0]
        x = 1 / (1 + (-x).exp())
    return w.linear(x, "head")


def convnet(w: Weights, x: Tensor) -> Tensor:
    for place in (0, 3, 6):
        x = relu(w.norm(w.conv(x, f"features.{place}", 2 if place == 3 else 1), f"features.{place + 1}"))
    x = torch.stack([x[:, :, i::4, j::4] for i in range(4) for j in range(4)]).mean(0)
    return w.linear(relu(w.linear(x.flatten(1), "hidden.0")), "head")


def tanh(x: Tensor) -> Tensor:
    return 1 - 2 / (1 + (2 * x).exp())


def tanh_convnet(w: Weights, x: Tensor) -> Tensor:
    """Without norms."""
    x = tanh(w.conv(tanh(w.conv(x, "features.0")), "features.3", 2))
    return w.linear(tanh(w.linear(x.flatten(1), "hidden.0")), "head")


def maxmin_mlp(w: Weights, x: Tensor) -> Tensor:
    """One hidden layer without a norm."""
    one, other = w.linear(x.flatten(1), "layers.0").chunk(2, 1)
    return w.linear(torch.cat([torch.stack([one, other]).amax(0), torch.stack([one, other]).amin(0)], 1), "head")


def softplus_mlp(w: Weights, x: Tensor) -> Tensor:
    """Two hidden layers without norms."""
    x = x.flatten(1)
    for place in (0, 5):
        x = (1 + w.linear(x, f"layers.{place}").exp()).log()
    return w.linear(x, "head")


@pytest.mark.parametrize(
    ("name", "options", "forward"),
    [
        ("dpn92", {"width": 4}, dpn92),
        ("pnasnet_a", {"width": 4}, pnasnet(cell_a)),
        ("pnasnet_b", {"width": 4}, pnasnet(cell_b)),
        ("efficientnet_b0", {"width": 8}, efficientnet_b0),
        ("lenet", {}, lenet),
        ("mlp", {"side": 32, "width": 16}, mlp),
        ("mlp", {"side": 32, "width": 16, "depth": 1, "activation": "maxmin", "norms": False}, maxmin_mlp),
        ("mlp", {"side": 32, "width": 16, "activation": "softplus", "norms": False}, softplus_mlp),
        ("convnet", {"width": 4, "depth": 3, "side": 4, "hidden": 8, "linears": 1}, convnet),
        (
            "convnet",
            {"width": 4, "depth": 2, "side": 16, "hidden": 8, "linears": 1, "activation": "tanh", "norms": False},
            tanh_convnet,
        ),
    ],
)
def test_forward_pass(name: str, options: dict[str, Any], forward: Callable[[Weights, Tensor], Tensor]) -> None:
    """In float64, with random statistics and parameters of the norms."""
    network: nn.Module = build_classifier(name, options, NoNorm() if name == "lenet" else BatchNorm(), 3, 5, 0)
    network = network.double().eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                for array in (module.weight, module.running_var):
                    assert array is not None
                    array.uniform_(0.5, 1.5, generator=generator)
                for array in (module.bias, module.running_mean):
                    assert array is not None
                    array.normal_(generator=generator)
        x = images(2, 3).double()
        found, expected = network(x), forward(Weights(network.state_dict()), x)
    assert found.std() > 0
    assert torch.allclose(found, expected, rtol=1e-9, atol=1e-9 * expected.abs().max().item())
