"""Spectral norms on a GPU, as far as fake tensors show it: the host does not wait, and makes no tensor of its own."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from normbench.evaluation.smoothness import features
from normbench.methods.batch_norm import BatchNorm
from normbench.models.build import build_classifier
from normbench.spectral import frequencies
from tests.spectral.test_spectral import EVERY
from tests.support.dispatch import Operations
from tests.support.fake_cuda import fake_cuda, obstacle

REASON = obstacle()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))


@pytest.mark.parametrize("name", EVERY)
def test_as_a_penalty(name: str) -> None:
    with fake_cuda():
        weight = torch.zeros(6, 2, 3, 3, device="cuda", requires_grad=True)
        with Operations() as counted:
            value = EVERY[name](weight, groups=2).sum()
            (slope,) = torch.autograd.grad(value, weight)
        assert slope.is_cuda
    assert counted.waits == []
    # Where power iteration begins is drawn on the CPU, so that it is the same on every device.
    drawn = [line for line in counted.on_cpu if "spectral/operator.py" in line or "system/transfer.py" in line]
    assert counted.on_cpu == (drawn if name == "zero_padded_norm" else [])


def norms_in_parts(size: int, device: str) -> list[torch.Size]:
    """The shapes of the symbols that are computed at a time for a kernel of 64 x 64 channels."""
    kernels = torch.zeros(1, 64, 64, 3, 3, dtype=torch.float64, device=device)
    return [some.shape for some in frequencies.symbols(kernels, size, size)]


def test_the_parts_are_as_large_as_the_device_can_use() -> None:
    with fake_cuda():
        assert norms_in_parts(32, "cuda") == [(32 * 17, 1, 64, 64)]
        sizes = [shape.numel() for shape in norms_in_parts(256, "cuda")]
    assert len(sizes) >= 10
    assert max(sizes) <= 2**23
    assert len(norms_in_parts(32, "cpu")) == 17


@pytest.mark.parametrize("count", [1, 3])
def test_feature_maps_are_read_once(count: int) -> None:
    """However many blocks there are; fake tensors have no numbers, so that it ends there."""

    def measured(work: Callable[[], object]) -> Operations:
        with Operations() as counted, pytest.raises(Exception, match=r"data-dependent|DataDependent|_local_scalar"):
            work()
        return counted

    with fake_cuda():
        model = build_classifier("resnet8", {"width": 2}, BatchNorm(), 3, 10, 0).to("cuda")
        x: Tensor = torch.zeros(count, 3, 8, 8, device="cuda")
        counted = measured(lambda: features(model, x))
    assert len(counted.waits) == 1, counted.waits
