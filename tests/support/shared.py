"""The location of the reference code's arrays, outside of this repository. Without them, some tests are skipped."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

SHARED = Path(__file__).resolve().parents[3] / "shared"
GOLDEN = SHARED / "golden/cifar_c_deterministic.npz"
STATISTICS = SHARED / "golden/cifar_c_statistics.json"
CONSTANTS = SHARED / "spec/corruption_constants.json"
needs_shared = pytest.mark.skipif(not GOLDEN.exists(), reason="needs ../shared, the reference's arrays")


def cifar_test_images() -> np.ndarray:
    """The 10,000 test images of CIFAR-10; skips the test where they are absent."""
    return unpacked("cifar10_test_batch")


def mnist_test_images() -> tuple[np.ndarray, np.ndarray]:
    """The 10,000 test images of MNIST (N, 28, 28, 1) and their labels; skips the test where they are absent."""
    images = unpacked("mnist_t10k").reshape(-1, 28, 28, 1)
    return images, np.load(SHARED / "data/labels.npz")["mnist_test"].astype(np.int64)


def unpacked(name: str) -> np.ndarray:
    """The images of a packed file; skips the test where they are absent."""
    packed = SHARED / "data"
    if not (packed / "unpack.py").exists():
        pytest.skip("needs ../shared/data, the images of CIFAR-10 and MNIST")
    spec = importlib.util.spec_from_file_location("unpack", packed / "unpack.py")
    assert spec is not None
    assert spec.loader is not None
    unpack = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(unpack)
    images: np.ndarray = unpack.load(name, packed, json.loads((packed / "manifest.json").read_text()))
    return images
