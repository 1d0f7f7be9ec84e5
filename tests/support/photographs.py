"""Image folders of photographs: files of many sizes and modes that are made, and real ones where they are."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.shared import SHARED

SAMPLES = SHARED / "data/imagenet_samples.zip"


def scene(number: int, height: int, width: int) -> Image.Image:
    """A colourful picture with edges and gradients, of its own for each number."""
    random = np.random.default_rng(number)
    down, across = np.mgrid[:height, :width]
    waves = [np.sin(down / random.uniform(3, 20) + across / random.uniform(3, 20)) for _ in range(3)]
    levels = np.stack(waves, 2) * 90 + 128 + random.normal(0, 8, (height, width, 3))
    return Image.fromarray(levels.clip(0, 255).astype(np.uint8))


def made(root: Path, classes: int = 3, train: int = 8, test: int = 4) -> Path:
    """Writes an image folder with `train` and `test` files in each of its classes; returns its path."""
    for split, count in (("train", train), ("val", test)):
        for label in range(classes):
            folder = root / split / f"class{label}"
            folder.mkdir(parents=True)
            for index in range(count):
                number = (label * 100 + index) * 2 + (split == "val")
                height, width = 40 + 7 * (number % 11), 44 + 9 * (number % 7)
                picture = scene(number, height, width)
                if index == 1:
                    picture.convert("L").save(folder / f"{index}.JPEG")
                elif index == 2:
                    exif = Image.Exif()
                    exif[0x0112] = 6  # turned by a quarter
                    picture.save(folder / f"{index}.jpg", exif=exif)
                elif index == 3:
                    picture.convert("CMYK").save(folder / f"{index}.jpg")
                elif index == 4:
                    picture.putalpha(Image.new("L", picture.size, 100))
                    picture.save(folder / f"{index}.png")
                else:
                    picture.save(folder / f"{index}.JPEG", quality=90, subsampling=index % 3)
    return root


def photographs(folder: Path) -> list[Path]:
    """The 96 photographs of ImageNet, unpacked into a folder; skips the test where they are absent."""
    if not SAMPLES.exists():
        pytest.skip("needs ../shared/data/imagenet_samples.zip")
    with zipfile.ZipFile(SAMPLES) as archive:
        archive.extractall(folder)
    return sorted(folder.glob("imagenet_samples/*/*.JPEG"))


def of_samples(folder: Path, classes: int = 6, held_out: int = 4) -> Path:
    """An image folder with the photographs in made-up classes, of which each has some in val; returns its path."""
    for number, path in enumerate(photographs(folder)):
        split = "val" if number // classes < held_out else "train"
        place = folder / "photographs" / split / f"class{number % classes}"
        place.mkdir(parents=True, exist_ok=True)
        path.rename(place / path.name)
    return folder / "photographs"
