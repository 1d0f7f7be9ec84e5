"""Parts of random area and aspect that are resized: in distribution and in pixels as torchvision has them."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torchvision.transforms import v2

from normbench.data.augmentation import CHUNK, Augmentation, ResizedCrop
from normbench.data.batches import on_device, resized_crop

SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)


def reference(
    height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float], count: int
) -> np.ndarray:
    """Crops that torchvision draws."""
    torch.manual_seed(0)
    transform = v2.RandomResizedCrop(8, scale, ratio)
    image = torch.zeros(3, height, width)
    drawn = [transform.make_params([image]) for _ in range(count)]
    return np.array([[each["top"], each["left"], each["height"], each["width"]] for each in drawn])


@pytest.mark.parametrize(("height", "width"), [(300, 400), (200, 200), (500, 120)])
def test_boxes_are_distributed_as_in_torchvision(height: int, width: int) -> None:
    count = 3000
    wanted = reference(height, width, SCALE, RATIO, count)
    sizes = np.broadcast_to((height, width), (count, 2))
    found = ResizedCrop(SCALE, RATIO).boxes(sizes, torch.Generator().manual_seed(0))
    numbers = {
        "area": lambda b: b[:, 2] * b[:, 3],
        "aspect": lambda b: b[:, 3] / b[:, 2],
        "top": lambda b: b[:, 0] / (height - b[:, 2] + 1),
        "left": lambda b: b[:, 1] / (width - b[:, 3] + 1),
    }
    for name, of in numbers.items():
        assert stats.ks_2samp(of(found), of(wanted)).pvalue > 1e-3, name


def test_boxes_lie_within_their_images() -> None:
    """For images of every shape, the middle of very long ones among them, and in several chunks."""
    chance = np.random.default_rng(0)
    sizes = chance.integers(1, 400, (CHUNK + 500, 2))
    top, left, height, width = ResizedCrop().boxes(sizes, torch.Generator().manual_seed(1)).T
    assert min(top.min(), left.min()) >= 0
    assert min(height.min(), width.min()) >= 1
    assert (top + height <= sizes[:, 0]).all()
    assert (left + width <= sizes[:, 1]).all()


@pytest.mark.parametrize(("height", "width"), [(10, 1000), (1000, 10), (50, 50)])
def test_the_middle_where_nothing_fits(height: int, width: int) -> None:
    """The whole area of a long image fits with no allowed aspect, so torchvision takes the largest part in the middle."""
    scale, ratio = (1.0, 1.0), (0.9, 1.1) if height != width else (2.0, 3.0)
    found = ResizedCrop(scale, ratio).boxes(np.array([[height, width]]), torch.Generator().manual_seed(0))
    np.testing.assert_array_equal(found, reference(height, width, scale, ratio, 1))


def test_one_chunk_draws_what_a_loop_would(monkeypatch: pytest.MonkeyPatch) -> None:
    """The arithmetic of one image after the other, from the same random numbers."""
    sizes = np.random.default_rng(0).integers(20, 300, (200, 2))
    found = ResizedCrop().boxes(sizes, torch.Generator().manual_seed(2))
    generator = torch.Generator().manual_seed(2)
    area, aspect = torch.rand((2, 200, 10), generator=generator, dtype=torch.float64).tolist()
    place = torch.rand((2, 200), generator=generator, dtype=torch.float64).tolist()
    for i, (height, width) in enumerate(sizes.tolist()):
        for share, shape in zip(area[i], aspect[i], strict=True):
            wanted = height * width * (0.08 + 0.92 * share)
            by = math.exp(math.log(3 / 4) + shape * (math.log(4 / 3) - math.log(3 / 4)))
            w, h = round(math.sqrt(wanted * by)), round(math.sqrt(wanted / by))
            if 0 < w <= width and 0 < h <= height:
                top, left = math.floor(place[0][i] * (height - h + 1)), math.floor(place[1][i] * (width - w + 1))
                assert found[i].tolist() == [top, left, h, w]
                break


def planes(height: int, width: int) -> Tensor:
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))


def test_pixels_are_those_of_torchvision() -> None:
    """Also of a picture whose channels are innermost in memory, as decoders make it."""
    chance = random.Random(0)
    for _ in range(20):
        image = planes(chance.randint(20, 90), chance.randint(20, 90))
        h, w = chance.randint(1, image.shape[1]), chance.randint(1, image.shape[2])
        box = [chance.randint(0, image.shape[1] - h), chance.randint(0, image.shape[2] - w), h, w]
        wanted = v2.functional.resized_crop(image, *box, [24, 32], antialias=True)
        inner = image.permute(1, 2, 0).contiguous().permute(2, 0, 1)
        assert torch.equal(resized_crop(inner, box, (24, 32)), wanted)


def test_images_in_memory() -> None:
    """Each image of a batch is the part of its own image, mirrored or not, and labels belong to it."""
    pixels = torch.randint(0, 256, (12, 10, 14, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    images = on_device(pixels, torch.arange(12), [0.5] * 3, [0.25] * 3, "cpu")
    batches = images.batches(5, False, 0, Augmentation(0, True, ResizedCrop((0.2, 1.0))))
    boxes = batches.drawn(4).boxes
    assert boxes is not None
    mirrored = 0
    for x, labels in batches.pixels(4):
        for image, label in zip(x, labels.tolist(), strict=True):
            part = v2.functional.resized_crop(images.pixels[label], *boxes[label].tolist(), [10, 14], antialias=True)
            assert torch.equal(image, part) or torch.equal(image, part.flip(2))
            mirrored += not torch.equal(image, part)
    assert 0 < mirrored < 12
