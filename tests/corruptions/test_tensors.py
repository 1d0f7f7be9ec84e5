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


def test_images_that_are_not_square(images: np.ndarray) -> None:
    arrays = images[:, :, :20]
    tensor = torch.from_numpy(arrays).permute(0, 3, 1, 2)
    for name in ("glass_blur", "elastic_transform"):
        found = corrupt(tensor, name, 4)
        assert found.shape == tensor.shape
        np.testing.assert_array_equal(found.permute(0, 2, 3, 1).numpy(), corrupt(arrays, name, 4))


@pytest.mark.parametrize(
    ("tensor", "line"),
    [
        (
            torch.zeros(2, 3, 32, 32),
            "images of type float32: corruptions need uint8, 0 to 255;"
            " values in 0..1 become that by (255 * images).round()",
        ),
        (
            torch.zeros(2, 32, 32, 3, dtype=torch.uint8),
            "images of shape (2, 32, 32, 3): corruptions need (N, C, H, W), C = 1 or 3;"
            " what has them elsewhere is images.permute(0, 3, 1, 2)",
        ),
        (
            torch.zeros(3, 32, 32, dtype=torch.uint8),
            "images of shape (3, 32, 32): corruptions need (N, C, H, W), C = 1 or 3; a single image is images[None]",
        ),
        (
            torch.zeros(2, 32, 32, dtype=torch.uint8),
            "images of shape (2, 32, 32): corruptions need (N, C, H, W), C = 1 or 3; grey images are images[:, None]",
        ),
        (
            torch.zeros(32, 32, dtype=torch.uint8),
            "images of shape (32, 32): corruptions need (N, C, H, W), C = 1 or 3;"
            " a single grey image is images[None, None]",
        ),
        (
            torch.zeros(2, 3, 32, 32, dtype=torch.uint8).to_sparse(),
            "images are a tensor of layout torch.sparse_coo: corruptions need a dense tensor",
        ),
        (
            torch.zeros(2, 3, 32, 32, dtype=torch.uint8, device="meta"),
            "images are a meta tensor, which has no values: corruptions need a dense tensor",
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
