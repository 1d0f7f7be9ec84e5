"""Test images from a photograph, and prepared datasets of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from normbench.system import files


def crops(scene: np.ndarray, size: int, count: int) -> np.ndarray:
    """Returns crops of a photograph, then a black, a white and a random image."""
    corners = np.random.RandomState(size).randint(0, np.array(scene.shape[:2]) - size, (count, 2))
    made = [scene[y : y + size, x : x + size] for y, x in corners]
    made += [np.full_like(made[0], value) for value in (0, 255)]
    made.append(np.random.RandomState(0).randint(0, 256, made[0].shape, np.uint8))
    return np.stack(made)


def prepared(folder: Path, images: np.ndarray, classes: int = 10) -> np.ndarray:
    """Writes a prepared dataset to `folder` and returns its labels."""
    folder.mkdir(parents=True)
    labels = np.arange(len(images)) * (classes - 1) // (len(images) - 1)
    np.save(folder / "test_images.npy", images)
    np.save(folder / "test_labels.npy", labels)
    files.write_json(folder / "meta.json", {"classes": classes, "fingerprint": "f" * 64})
    return labels
