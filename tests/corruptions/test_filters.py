"""Fast filters against slow sums: also where every pixel is at the limit between two grey levels."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import scipy.ndimage

from normbench.corruptions import corrupt
from normbench.corruptions.constants import SETS, SEVERITIES
from normbench.corruptions.filters import smooth
from normbench.corruptions.operators import settled
from tests.oracles.corruptions import expected


@pytest.fixture(scope="module")
def hard() -> np.ndarray:
    """Even images, noise of two levels, noise of all levels, a step, a ramp: (N, 40, 29, 3)."""
    random = np.random.RandomState(0)
    shape = (40, 29, 3)
    even = [np.full(shape, level) for level in (0, 1, 37, 254, 255)]
    step = np.where(np.arange(29)[:, None] < 15, 0, 255)
    ramp = np.arange(40)[:, None, None] * 6
    noise = [random.randint(0, 2, shape) * 255, random.randint(0, 256, shape)]
    return np.stack([np.broadcast_to(image, shape) for image in (*even, *noise, step, ramp)]).astype(np.uint8)


@pytest.mark.parametrize("sigma", [0.1, 0.4, 1, 2.5, 6])
def test_smoothing_is_scipy_s(sigma: float, hard: np.ndarray) -> None:
    wanted = scipy.ndimage.gaussian_filter(hard / 255, sigma, mode="nearest", axes=(1, 2))
    np.testing.assert_array_equal(smooth(hard, sigma), (wanted.clip(0, 1) * 255).astype(np.uint8))


@pytest.mark.parametrize("name", ["defocus_blur", "motion_blur", "zoom_blur", "contrast", "brightness", "saturate"])
def test_hard_images(name: str, hard: np.ndarray) -> None:
    for constants in SETS:
        for severity in SEVERITIES if name == "defocus_blur" else (1, 5):
            found = corrupt(hard, name, severity, 3, constants=constants)
            np.testing.assert_array_equal(found, expected(hard, name, severity, 3, constants))


@pytest.mark.parametrize("constants", SETS)
def test_displacement_without_a_fine_remap(constants: str, hard: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenCV before version 5 interpolates in steps: then every pixel is computed in the reference's way."""
    wanted = [corrupt(hard, "elastic_transform", severity, constants=constants) for severity in SEVERITIES]
    monkeypatch.setattr("normbench.corruptions.digital._remaps_finely", lambda: False)
    for severity, result in zip(SEVERITIES, wanted, strict=True):
        np.testing.assert_array_equal(corrupt(hard, "elastic_transform", severity, constants=constants), result)


def test_only_doubtful_levels_are_computed_again() -> None:
    asked = []

    def exact(places: np.ndarray) -> np.ndarray:
        asked.extend(places.tolist())
        return np.full(len(places), 7, np.uint8)

    levels = np.array([[0.0, 0.5, 0.9995], [2.0004, 3.002, 254.9999]], np.float32)
    np.testing.assert_array_equal(settled(levels, 0.001, exact), [[0, 0, 7], [7, 3, 7]])
    assert asked == [2, 3, 5]


def test_opencv_is_left_as_it_was(hard: np.ndarray) -> None:
    threads, ipp = cv2.getNumThreads(), cv2.ipp.useIPP()
    try:
        for number, used in ((3, True), (1, False)):
            cv2.setNumThreads(number)
            cv2.ipp.setUseIPP(used)
            before = cv2.getNumThreads(), cv2.ipp.useIPP()
            corrupt(hard, "spatter", 1)
            assert (cv2.getNumThreads(), cv2.ipp.useIPP()) == before
    finally:
        cv2.setNumThreads(threads)
        cv2.ipp.setUseIPP(ipp)
