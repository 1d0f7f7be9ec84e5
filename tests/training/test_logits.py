"""The outputs of a classifier for many images, in batches that fit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from normbench.data.batches import on_device
from normbench.training.logits import default_batch_size, logits


class Limited(nn.Module):
    """Takes batches of at most so many images, as a device with little memory does."""

    def __init__(self, most: int):
        super().__init__()
        self.most, self.sizes = most, []

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > self.most:
            raise torch.OutOfMemoryError("no room")
        self.sizes.append(len(x))
        return x.flatten(1)[:, :2]


def test_batches_are_halved_where_memory_runs_out(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = torch.arange(1100 * 4, dtype=torch.int64).remainder(256).to(torch.uint8).view(1100, 2, 2, 1)
    images = on_device(pixels, torch.zeros(1100, dtype=torch.long), [0.5], [0.5], "cpu")
    model = Limited(130)
    found = logits(model, images, images.pixels, "float32")
    assert torch.equal(found, images.normalized(images.pixels).flatten(1)[:, :2])
    assert model.sizes == [125] * 8 + [100]
    assert capsys.readouterr().err == "".join(
        f"out of memory: evaluating in batches of {size} from here on\n" for size in (250, 125)
    )
    with pytest.raises(torch.OutOfMemoryError):  # statistics of a batch depend on its size
        logits(Limited(130), images, images.pixels, "float32", 200)
    with pytest.raises(torch.OutOfMemoryError):
        logits(Limited(0), images, images.pixels, "float32")
    monkeypatch.setattr(torch, "get_deterministic_debug_mode", lambda: 2)
    with pytest.raises(torch.OutOfMemoryError):  # what is free now must not decide which kernels are used
        logits(Limited(130), images, images.pixels, "float32")


@pytest.mark.parametrize(
    ("kind", "height", "width", "expected"),
    [
        ("cpu", 32, 32, 500),
        ("cpu", 8, 8, 500),
        ("cuda", 32, 32, 5000),
        ("cuda", 28, 28, 5000),
        ("cuda", 64, 64, 1250),
        ("cuda", 224, 224, 102),
        ("cuda", 64, 32, 2500),
        ("cpu", 1024, 1024, 1),
    ],
)
def test_the_size_of_batches_follows_from_that_of_the_images(kind: str, height: int, width: int, expected: int) -> None:
    assert default_batch_size(torch.empty(7, 3, height, width, device="meta"), kind) == expected
