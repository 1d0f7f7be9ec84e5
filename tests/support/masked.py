"""A small folder of images and masks in CamVid's layout: rectangles on a ground, each class in a colour of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = np.array([[200, 60, 40], [40, 180, 70], [50, 70, 210], [120, 120, 120]], np.uint8)  # of classes, and of void
VOID = 3  # the value of the pixels that count nowhere
NAMES = ["ground", "box", "bar"]
SIZE = (24, 32)


def write(folder: Path, train: int = 8, test: int = 5, size: tuple[int, int] = SIZE) -> Path:
    """Writes `train/`, `trainannot/`, `test/` and `testannot/`; returns the folder."""
    random = np.random.default_rng(0)
    for split, count in {"train": train, "test": test}.items():
        for number in range(count):
            image, mask = scene(random, size)
            for name, content in ((split, image), (f"{split}annot", mask)):
                (folder / name).mkdir(parents=True, exist_ok=True)
                Image.fromarray(content).save(folder / name / f"{number:03}.png")
    return folder


def scene(random: np.random.Generator, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """An image, uint8 (H, W, 3), and its mask, uint8 (H, W)."""
    height, width = size
    mask = np.zeros(size, np.uint8)
    top, left = random.integers(0, height // 2), random.integers(0, width // 2)
    mask[top : top + height // 3, left : left + width // 3] = 1
    start = random.integers(0, height - 4)
    mask[start : start + 3] = 2
    mask[:, -2:] = VOID
    noise = random.integers(-15, 16, (*size, 3))
    return np.clip(COLOURS[mask].astype(int) + noise, 0, 255).astype(np.uint8), mask
