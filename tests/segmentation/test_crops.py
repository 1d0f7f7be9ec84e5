"""Training crops, against the steps of torchvision's references on whole images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional as reference

from normbench.data.pixels import IGNORED
from normbench.data.scenes import scenes
from normbench.segmentation import crops
from normbench.segmentation.crops import Crops
from normbench.segmentation.protocol import Protocol
from normbench.segmentation.recipe import SegmentationRecipe
from normbench.system.errors import UserError
from tests.support import masked

SIZE = (40, 56)
STANDARD, AUTHORS = Protocol(3, False, *SIZE), Protocol(5, True, *SIZE)


def made(protocol: Protocol = STANDARD, channels: int = 3, seed: int = 0, **recipe: object) -> Crops:
    random = np.random.default_rng(3)
    pairs = [masked.scene(random, SIZE) for _ in range(7)]
    pixels = np.stack([image for image, _ in pairs])[..., :channels]
    labels = np.stack([mask for _, mask in pairs])
    labels[labels == masked.VOID] = IGNORED
    given = {"epochs": 1, "batch_size": 3, "crop_size": (24, 30), **recipe}
    images = scenes(pixels, labels, [0.4] * channels, [0.2] * channels, "cpu")
    return Crops(images, SegmentationRecipe.model_validate(given), protocol, seed)


def as_torchvision(found: Crops, epoch: int, number: int) -> tuple[np.ndarray, np.ndarray]:
    """The crop of an image by whole images: RandomResize, RandomHorizontalFlip, and RandomCrop with its padding."""
    drawn = found.draw(epoch)
    image = Image.fromarray(found.scenes.pixels[number].squeeze())
    mask = Image.fromarray(found.protocol.targets(found.scenes.masks[number]))
    shorter = int(drawn.shorter[number])
    image = reference.resize(image, [shorter])
    mask = reference.resize(mask, [shorter], interpolation=reference.InterpolationMode.NEAREST)
    seen = min(image.height, found.height), min(image.width, found.width)
    top, left = (
        int(share[number] * (side - part + 1))
        for share, side, part in zip((drawn.top, drawn.left), (image.height, image.width), seen, strict=True)
    )
    image, mask = (reference.crop(each, top, left, *seen) for each in (image, mask))
    if found.recipe.flip and drawn.mirrored[number]:
        image, mask = reference.hflip(image), reference.hflip(mask)
    border = [0, 0, found.width - seen[1], found.height - seen[0]]
    image, mask = reference.pad(image, border, fill=0), reference.pad(mask, border, fill=IGNORED)
    return np.asarray(image).reshape(found.height, found.width, -1), np.asarray(mask)


@pytest.mark.parametrize("protocol", [STANDARD, AUTHORS])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("recipe", [{}, {"base_size": 20}, {"scale": [1.5, 2.5]}, {"crop_size": None, "flip": False}])
def test_a_crop_is_that_of_the_whole_image(protocol: Protocol, channels: int, recipe: dict[str, object]) -> None:
    found = made(protocol, channels, **recipe)
    differing, counted = 0, 0
    for epoch in range(3):
        drawn = found.draw(epoch)
        for number in range(7):
            image, mask = found.crop(drawn, number)
            expected_image, expected_mask = as_torchvision(found, epoch, number)
            assert image.shape == (found.height, found.width, channels)
            # Pillow begins the box of a part at another rounding of the same place, and rounds twice.
            assert np.abs(image.astype(int) - expected_image).max() <= 2
            differing, counted = differing + int((mask != expected_mask).sum()), counted + mask.size
    # Where two pixels are equally near, Pillow's sums of steps take the one or the other.
    assert differing <= 0.005 * counted


def test_image_and_mask_are_cut_alike() -> None:
    """Away from edges, the class of each pixel can be read from its colour; crops are scaled, flipped and padded."""
    found = made(scale=[0.4, 2.0], base_size=40)
    colours = masked.COLOURS.astype(int)
    seen = set()
    for epoch in range(4):
        for pixels, labels in found.pixels(epoch):
            for image, mask in zip(pixels.permute(0, 2, 3, 1).numpy().astype(int), labels.numpy(), strict=True):
                counted = mask != IGNORED
                near = np.abs(image[..., None, :] - colours[:3]).sum(-1).argmin(-1)
                inner = np.zeros_like(counted)
                same = (mask[1:-1, 1:-1] == mask[:-2, 1:-1]) & (mask[1:-1, 1:-1] == mask[2:, 1:-1])
                same &= (mask[1:-1, 1:-1] == mask[1:-1, :-2]) & (mask[1:-1, 1:-1] == mask[1:-1, 2:])
                inner[1:-1, 1:-1] = same
                chosen = counted & inner
                assert (near == mask)[chosen].mean() > 0.97
                seen |= set(np.unique(mask).tolist())
    assert seen == {0, 1, 2, IGNORED}


def test_an_epoch_does_not_hang_on_where_it_is_begun_or_on_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    found = made()
    whole = list(found.pixels(2))
    assert [len(pixels) for pixels, _ in whole] == [3, 3, 1]
    for first in range(3):
        for (one, two), (pixels, labels) in zip(found.pixels(2, first), whole[first:], strict=True):
            assert torch.equal(one, pixels)
            assert torch.equal(two, labels)
    ahead = list(crops._ahead(lambda step: found.batch(found.draw(2), (0, 1), step), range(found.steps)))  # type: ignore[arg-type]
    for (images, _), (pixels, _) in zip(ahead, whole, strict=True):
        assert np.array_equal(images, pixels.numpy())
    other = next(iter(found.pixels(3)))[0]
    assert not torch.equal(other, whole[0][0])
    assert not torch.equal(next(iter(made(seed=1).pixels(2)))[0], whole[0][0])


def test_every_image_once_and_sides_from_the_least_to_the_largest() -> None:
    found = made(scale=[0.5, 1.0], base_size=10)
    sides = np.concatenate([found.draw(epoch).shorter for epoch in range(40)])
    assert (sides.min(), sides.max()) == (5, 10)
    assert sorted(found.draw(0).order) == list(range(7))
    drawn = found.draw(0)
    assert len({*drawn.top.tolist(), *drawn.left.tolist()}) == 14


def test_the_last_batch_is_left_out_where_it_is_said() -> None:
    assert made(drop_last=True).steps == 2
    with pytest.raises(UserError, match=r"recipe\.drop_last: 7 training images are fewer than a batch of 8"):
        made(drop_last=True, batch_size=8)


def test_padding_is_black_and_ignored() -> None:
    found = made(AUTHORS, scale=[0.25, 0.25], base_size=40, crop_size=32)
    image, mask = found.crop(found.draw(0), 0)
    assert (image[10:].max(), image[:, 14:].max()) == (0, 0)
    assert set(np.unique(mask[10:])) == {IGNORED}
    assert mask[:10, :14].max() < 5  # void is class 0 there, which counts
