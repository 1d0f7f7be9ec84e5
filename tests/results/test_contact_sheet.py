"""The picture of an image under every corruption, for images of any height and width."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from normbench.results.tables.contact_sheet import WIDTH, contact_sheet
from normbench.system import files

NAMES = [f"corruption_{number}" for number in range(19)]


def sheet(folder: Path, size: tuple[int, ...], names: list[str], severities: list[int]) -> tuple[np.ndarray, dict]:
    """Draws a sheet of random images; returns its pixels, and the image of each name by severity."""
    random = np.random.default_rng(0)
    clean = random.integers(0, 255, (3, *size), np.uint8)
    np.save(folder / "test_images.npy", clean)
    found = {"clean": [clean[1]]}
    for name in names:
        images = random.integers(0, 255, (len(severities) * 3, *size), np.uint8)
        np.save(folder / f"{name}.npy", images)
        found[name] = [images[3 * level + 1] for level in range(len(severities))]
    files.write_json(folder / "meta.json", {"names": names, "severities": severities})
    contact_sheet(folder, folder, folder / "sheet.png", index=1)
    with Image.open(folder / "sheet.png") as picture:
        return np.asarray(picture.convert("RGB")), found


def places(pixels: np.ndarray, image: np.ndarray) -> list[tuple[int, int]]:
    """The top left corners at which an image, enlarged as the sheet has it, lies in the sheet."""
    scale = max(1, 56 // image.shape[0])
    large = np.broadcast_to(image, (*image.shape[:2], 3)).repeat(scale, 0).repeat(scale, 1)
    height, width = large.shape[:2]
    found = []
    for y, x in np.argwhere((pixels == large[0, 0]).all(-1)):
        if np.array_equal(pixels[y : y + height, x : x + width], large):
            found.append((int(y), int(x)))
    return found


@pytest.mark.parametrize("size", [(8, 20, 3), (20, 8, 3), (8, 8, 1), (64, 64, 3)])
def test_every_image_is_there_once_in_its_place(size: tuple[int, ...], tmp_path: Path) -> None:
    pixels, images = sheet(tmp_path, size, ["fog", "frost"], [1, 5])
    found = {(name, level): places(pixels, each) for name, own in images.items() for level, each in enumerate(own)}
    assert {len(corners) for corners in found.values()} == {1}
    for name in ("fog", "frost"):
        (first,), (second,) = found[name, 0], found[name, 1]
        assert first[0] == second[0]
        assert first[1] < second[1]


def test_many_corruptions_flow_in_columns(tmp_path: Path) -> None:
    pixels, images = sheet(tmp_path, (12, 12, 1), NAMES, [1, 5])
    assert pixels.shape[1] <= WIDTH
    assert pixels.shape[0] < 500
    corners = [places(pixels, own[0])[0][::-1] for own in images.values()]
    assert corners == sorted(corners)
    assert len({x for x, _ in corners}) > 1


def test_five_severities_of_larger_images(tmp_path: Path) -> None:
    pixels, _ = sheet(tmp_path, (32, 32, 3), NAMES, [1, 2, 3, 4, 5])
    assert pixels.shape[1] <= WIDTH
    assert pixels.shape[0] < 800
