"""Corruptions of torch tensors: the bytes of the arrays, on the device and in the memory format of the tensor."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from normbench.corruptions import corrupt
from normbench.system.errors import UserError

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"))]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_tensor_is_corrupted_as_the_array(device: str, channels: int, images: np.ndarray) -> None:
    arrays = images[..., :channels]
    tensor = torch.from_numpy(arrays).permute(0, 3, 1, 2).contiguous().to(device)
    before = tensor.clone()
    for given in (tensor, tensor.to(memory_format=torch.channels_last)):
        for name in ("impulse_noise", "jpeg_compression", "frost"):
            found = corrupt(given, name, 4, 2, list(range(5, 5 + len(images))), "tiny_imagenet")
            assert (found.dtype, found.device, found.stride()) == (torch.uint8, given.device, given.stride())
            wanted = corrupt(arrays, name, 4, 2, np.arange(5, 5 + len(images)), "tiny_imagenet")
            np.testing.assert_array_equal(found.permute(0, 2, 3, 1).cpu().numpy(), wanted)
    assert torch.equal(tensor, before)


@pytest.mark.parametrize(
    ("tensor", "line"),
    [
        (torch.zeros(2, 3, 32, 32), "images of type float32: corruptions need uint8, 0 to 255"),
        (
            torch.zeros(2, 32, 32, 3, dtype=torch.uint8),
            "images of shape (2, 32, 32, 3): corruptions need (N, C, H, H), square, C = 1 or 3",
        ),
        (
            torch.zeros(3, 32, 32, dtype=torch.uint8),
            "images of shape (3, 32, 32): corruptions need (N, C, H, H), square, C = 1 or 3",
        ),
        (
            torch.zeros(2, 1, 7, 7, dtype=torch.uint8),
            "images of shape (2, 1, 7, 7): corruptions need a side of 8 pixels or more",
        ),
    ],
)
def test_refuses_a_tensor_in_one_line(tensor: torch.Tensor, line: str) -> None:
    with pytest.raises(UserError) as caught:
        corrupt(tensor, "fog", 1)
    assert str(caught.value) == line
