"""The memory format of a network on its device: which one, and that it computes rightly."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from normbench.functional import placement
from normbench.functional.convolution import Conv2d
from normbench.methods.conv_norm import ConvNorm2d
from normbench.methods.network_deconvolution import DeconvConv2d
from normbench.methods.spectral_norm import SpectralNorm
from normbench.models import registry as models

STRIDED = """
import sys
import torch
from normbench.functional.placement import memory_format
torch.set_num_threads(1)
channels = int(sys.argv[1])
layer = torch.nn.Conv2d(channels, 8, 1, 2, bias=False)
layout = memory_format(layer, "cpu")
layer = layer.to(memory_format=layout)
reference = torch.nn.Conv2d(channels, 8, 1, 2, bias=False).double()
reference.weight.data.copy_(layer.weight.data)
for i in range(100):
    x = torch.randn(128, channels, 8, 8).contiguous(memory_format=layout)
    layer.weight.grad = reference.weight.grad = None
    layer(x).square().sum().backward()
    reference(x.double()).square().sum().backward()
    assert torch.allclose(layer.weight.grad.double(), reference.weight.grad, rtol=1e-4, atol=1e-2)
    kept = [torch.randn((7 * i + j) % 500 + 3) for j in range(50)]
"""


@pytest.mark.parametrize("channels", [4, 16, 17, 40])
def test_the_memory_format_of_the_cpu_computes_strided_1x1_gradients(channels: int):
    """In a process of its own, with the allocator's checks on: the fault is a write outside an array."""
    environment = {"LD_PRELOAD": "libc_malloc_debug.so.0", "MALLOC_CHECK_": "3", "PYTHONPATH": ":".join(sys.path)}
    command = [sys.executable, "-c", STRIDED, str(channels)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_memory_formats():
    """channels_last but for strided 1x1 convolutions of few channels on the CPU that are not ours."""
    narrow, wide = nn.Conv2d(8, 16, 1, 2), nn.Conv2d(16, 16, 1, 2)
    plain = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.Conv2d(8, 8, 1), wide, nn.MaxPool2d(1, 2), nn.Linear(2, 2))
    assert placement.memory_format(plain, "cpu") == torch.channels_last
    assert placement.memory_format(nn.Sequential(plain, narrow), "cpu") == torch.contiguous_format
    ours = nn.Sequential(plain, DeconvConv2d(8, 8, 1, 2), ConvNorm2d(8, 8, 1, 2), Conv2d(8, 8, 1, 2))
    assert placement.memory_format(ours, "cpu") == torch.channels_last
    assert (
        placement.memory_format(nn.Sequential(plain, nn.Conv2d(32, 32, 1, 2, groups=4)), "cpu")
        == torch.contiguous_format
    )
    assert placement.memory_format(narrow, "cuda") == torch.channels_last
    placed = placement.placed(plain, "cpu")
    assert placed[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_placing_leaves_a_network_as_it_is():
    """Also one whose weights are computed: reading those of spectral norm takes a power iteration."""
    method = SpectralNorm()
    model = models.classifier("resnet8", {"width": 4}, method, 1, 4).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    placed = placement.placed(model, "cpu")
    assert placement.memory_format(placed, "cpu") == torch.channels_last  # its narrow shortcuts are ours
    for name, value in placed.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_the_wanted_format_is_given_where_it_computes_rightly():
    """By the name that a recipe has, and by that which a record has."""
    wide, narrow = nn.Conv2d(16, 16, 1, 2), nn.Conv2d(8, 16, 1, 2)
    for kind in ("cpu", "cuda"):
        assert placement.memory_format(wide, kind, "contiguous") == torch.contiguous_format
        assert placement.memory_format_name(wide, kind, "contiguous") == "contiguous"
        assert placement.memory_format_name(wide, kind, "channels_last") == "channels_last"
    assert placement.memory_format_name(narrow, "cpu", "channels_last") == "contiguous"
    assert placement.memory_format_name(narrow, "cuda", "channels_last") == "channels_last"
    placed = placement.placed(nn.Conv2d(16, 16, 3), "cpu", "contiguous")
    assert placed.weight.is_contiguous()
