"""Batches on the device: crops and flips against a plain loop, the same order for the same seed, memory format."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from normbench.data.augmentation import Augmentation
from normbench.data.batches import Images, on_device
from normbench.system.errors import UserError


@pytest.fixture(params=[1, 3])
def images(request: pytest.FixtureRequest) -> Images:
    pixels = torch.randint(1, 256, (10, 6, 6, request.param), generator=torch.Generator().manual_seed(0))
    return on_device(pixels.to(torch.uint8), torch.arange(10), [0.5] * request.param, [0.25] * request.param, "cpu")


def test_every_image_is_a_crop_of_itself(images: Images):
    batches = images.batches(4, False, 3, Augmentation(2, True))
    padded = np.pad(images.pixels.numpy(), ((0, 0), (0, 0), (2, 2), (2, 2)))
    seen, flipped, offsets = [], 0, set()
    for epoch in range(8):
        for x, y in batches.epoch(epoch):
            raw = (x * 0.25 + 0.5).mul(255).round().to(torch.uint8).numpy()
            for image, label in zip(raw, y.tolist(), strict=True):
                candidates = {
                    (top, left, mirrored)
                    for top in range(5)
                    for left in range(5)
                    for mirrored in (False, True)
                    if np.array_equal(
                        image[..., ::-1] if mirrored else image, padded[label, :, top : top + 6, left : left + 6]
                    )
                }
                assert candidates
                top, left, mirrored = min(candidates)
                flipped += mirrored
                offsets.add((top, left))
                seen.append(label)
    assert sorted(seen) == sorted(list(range(10)) * 8)  # every image once an epoch
    assert 20 < flipped < 60
    assert len(offsets) > 15


@pytest.mark.parametrize(("height", "width"), [(4, 7), (7, 4), (20, 5)])
def test_images_that_are_not_square(height: int, width: int) -> None:
    """Each crop has the height and width of its image, and every offset occurs in both directions."""
    pixels = torch.randint(1, 256, (40, height, width, 3), generator=torch.Generator().manual_seed(0))
    images = on_device(pixels.to(torch.uint8), torch.arange(40), [0.5] * 3, [0.25] * 3, "cpu")
    padded = np.pad(images.pixels.numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)))
    offsets = set()
    for x, y in images.batches(7, False, 0, Augmentation(1)).pixels(0):
        assert x.shape[1:] == (3, height, width)
        for image, label in zip(x.numpy(), y.tolist(), strict=True):
            places = [(top, left) for top in range(3) for left in range(3)]
            crops = {p: padded[label, :, p[0] :, p[1] :][:, :height, :width] for p in places}
            here = [place for place, crop in crops.items() if np.array_equal(crop, image)]
            assert here
            offsets.add(here[0])
    assert len(offsets) == 9


def test_order_depends_on_seed_and_epoch_alone(images: Images):
    def labels(seed: int, epoch: int) -> list[int]:
        return torch.cat([y for _, y in images.batches(4, False, seed, Augmentation()).epoch(epoch)]).tolist()

    assert labels(0, 0) == labels(0, 0)
    assert labels(0, 0) != labels(0, 1)
    assert labels(0, 0) != labels(1, 0)


@pytest.mark.parametrize(("drop_last", "sizes"), [(False, [4, 4, 2]), (True, [4, 4])])
def test_the_last_batch(images: Images, drop_last: bool, sizes: list[int]):
    batches = images.batches(4, drop_last, 0, Augmentation(1))
    assert [len(y) for _, y in batches.epoch(0)] == sizes
    assert batches.steps == len(sizes)


def test_no_batch_is_left(images: Images):
    images.batches(10, True, 0, Augmentation())
    with pytest.raises(UserError, match=r"recipe.drop_last: 10 training images are fewer than a batch of 11"):
        images.batches(11, True, 0, Augmentation())


def test_memory_formats(images: Images):
    """Strides too: those of a gathered single channel can pass for channels_last, which oneDNN does not survive."""
    for x, _ in images.batches(4, False, 0, Augmentation(1, True)).epoch(0):
        channels = x.shape[1]
        assert x.stride() == (channels * 36, 36, 6, 1)
    last = images.made_for(nn.Conv2d(images.pixels.shape[1], 4, 3))
    for (x, _), (y, _) in zip(
        *(i.batches(4, False, 0, Augmentation(1, True)).epoch(0) for i in (images, last)), strict=True
    ):
        assert y.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(x, y)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_parts_of_a_batch(images: Images, count: int):
    """Processes that take a part each have the whole batch together, also the small last one and with empty parts."""
    batches = images.batches(4, False, 0, Augmentation(1, True))
    whole = [*batches.pixels(3, 1)]
    parts = [[*batches.pixels(3, 1, (index, count))] for index in range(count)]
    for batch, shares in zip(whole, zip(*parts, strict=True), strict=True):
        for wanted, found in zip(batch, map(torch.cat, zip(*shares, strict=True)), strict=True):
            assert torch.equal(found, wanted)
        sizes = [len(labels) for _, labels in shares]
        rows = len(batch[1])
        assert sizes == [rows * (index + 1) // count - rows * index // count for index in range(count)]
