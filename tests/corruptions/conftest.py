"""Images that the tests of the corruptions share."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest

from tests.support.scenes import crops
from tests.support.shared import SHARED


@pytest.fixture(scope="session")
def scene() -> np.ndarray:
    """A photograph, as bundled with scikit-learn, with every third pixel."""
    from sklearn.datasets import load_sample_image

    return load_sample_image("china.jpg")[::3, ::3]


@pytest.fixture(scope="session")
def images(scene: np.ndarray) -> np.ndarray:
    return crops(scene, 32, 3)


@pytest.fixture(scope="session")
def cifar() -> np.ndarray:
    """The 10,000 test images of CIFAR-10."""
    packed = SHARED / "data"
    if not (packed / "unpack.py").exists():
        pytest.skip("needs ../shared/data, the images of CIFAR-10")
    spec = importlib.util.spec_from_file_location("unpack", packed / "unpack.py")
    assert spec is not None
    assert spec.loader is not None
    unpack = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(unpack)
    return unpack.load("cifar10_test_batch", packed, json.loads((packed / "manifest.json").read_text()))
