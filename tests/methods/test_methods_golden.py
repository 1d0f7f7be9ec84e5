"""The layers against values recorded from the published reference implementations (float64, three training steps)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from normbench.methods.conv_norm import ConvNorm2d
from normbench.methods.network_deconvolution import DeconvConv2d, DeconvLinear
from tests.oracles.layers import relative_error

GOLDEN = Path(__file__).resolve().parents[2].parent / "shared" / "golden"
pytestmark = pytest.mark.skipif(not GOLDEN.is_dir(), reason="no golden values: ../shared/golden is absent")

LAYERS: dict[str, Callable[[], nn.Module]] = {
    "nd_3x3_c16_b4": lambda: DeconvConv2d(16, 24, 3, padding=1, block=4),
    "nd_1x1_c32_b8": lambda: DeconvConv2d(32, 24, 1, block=8),
    "nd_3x3_g4": lambda: DeconvConv2d(16, 24, 3, padding=1, groups=4),
    "nd_delinear_b16": lambda: DeconvLinear(64, 10, block=16),
    "cn_3x3": lambda: ConvNorm2d(16, 24, 3, padding=1),
    "cn_1x1_s2": lambda: ConvNorm2d(16, 24, 1, stride=2),
}
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}


class Golden:
    """A golden file under normbench's names; the reference's running filter has no counterpart here."""

    def __init__(self, name: str):
        with np.load(GOLDEN / f"{name}.npz") as file:
            self.arrays = {k.replace("bpconv.", "affine."): file[k] for k in file if "running_V" not in k}

    def folder(self, prefix: str) -> dict[str, Tensor]:
        return {k[len(prefix) :]: torch.from_numpy(v) for k, v in self.arrays.items() if k.startswith(prefix)}


def loaded(name: str, golden: Golden, dtype: torch.dtype) -> nn.Module:
    layer = LAYERS[name]().to(dtype)
    keys = layer.load_state_dict(golden.folder("state0/"), strict=False)
    assert not keys.unexpected_keys
    assert all(key.endswith("_extra_state") for key in keys.missing_keys)
    return layer


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("name", LAYERS)
def test_three_training_steps_and_evaluation(name: str, dtype: torch.dtype) -> None:
    golden, tolerance = Golden(name), TOLERANCE[dtype]
    layer = loaded(name, golden, dtype)
    for step in range(3):
        expected = golden.folder(f"step{step}/")
        x = expected["x"].to(dtype).requires_grad_()
        layer.zero_grad()
        y = layer(x)
        (y * expected["gy"].to(dtype)).sum().backward()
        assert relative_error(y.detach().double(), expected["y"]) <= tolerance
        assert relative_error(x.grad.double(), expected["gx"]) <= tolerance

        gradients = golden.folder(f"step{step}/gw/")
        assert gradients.keys() == dict(layer.named_parameters()).keys()
        for key, parameter in layer.named_parameters():
            difference = (parameter.grad.double() - gradients[key]).abs().max()
            # In front of a batch norm an offset has no effect, and neither has a gain where the kernel is 1x1: their
            # gradients are differences of large sums, so they are measured against the size of what is summed.
            scale = gradients[key].abs().max()
            if key == "affine.bias" or (key == "affine.weight" and name == "cn_1x1_s2"):
                scale = gradients["batch_norm.bias"].abs().max()
            assert difference <= tolerance * scale, f"{key}: {difference:.1e} of {scale:.1e}"

        buffers = golden.folder(f"step{step}/buffers/")
        assert buffers.keys() == dict(layer.named_buffers()).keys()
        for key, buffer in layer.named_buffers():
            assert relative_error(buffer.double(), buffers[key].double()) <= tolerance, key

    layer.eval()
    y = layer(torch.from_numpy(golden.arrays["eval/x"]).to(dtype))
    # ConvNorm: the reference filters with a running average of filters that are all the same here.
    limit = max(tolerance, 1e-6) if name.startswith("cn_") else tolerance
    assert relative_error(y.detach().double(), torch.from_numpy(golden.arrays["eval/y"])) <= limit
