"""Images that the tests of the corruptions share."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.scenes import crops
from tests.support.shared import cifar_test_images


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
    return cifar_test_images()
