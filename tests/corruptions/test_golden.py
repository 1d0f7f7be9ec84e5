"""The bytes of every corruption: against the oracles, and against arrays of the reference code where they are there."""

from __future__ import annotations

import json

import numpy as np
import pytest

from normbench.corruptions import corrupt, registry
from normbench.corruptions.constants import BENCHMARK, SETS, SEVERITIES, set_for
from tests.oracles.corruptions import assert_alike, expected
from tests.support.scenes import crops
from tests.support.shared import GOLDEN, STATISTICS, needs_shared

RANDOM = [name for name in BENCHMARK if registry.get(name).draws is not None]


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("name", BENCHMARK)
def test_equals_the_oracle(name: str, severity: int, images: np.ndarray) -> None:
    found = corrupt(images, name, severity, seed=3)
    assert_alike(name, found, expected(images, name, severity, seed=3))
    assert not np.array_equal(found, images)


@pytest.mark.parametrize(("size", "channels"), [(8, 1), (16, 1), (28, 1), (9, 3), (24, 3), (40, 3)])
@pytest.mark.parametrize("name", BENCHMARK)
def test_other_sizes_and_grey(name: str, size: int, channels: int, scene: np.ndarray) -> None:
    images = crops(scene, size, 1)[..., :channels]
    for severity in (1, 5):
        assert_alike(name, corrupt(images, name, severity), expected(images, name, severity, seed=0))


@pytest.mark.parametrize(("height", "width", "channels"), [(32, 48, 3), (27, 9, 3), (8, 21, 1), (66, 40, 1)])
@pytest.mark.parametrize("name", BENCHMARK)
def test_images_that_are_not_square(name: str, height: int, width: int, channels: int, scene: np.ndarray) -> None:
    images = np.stack([scene[30 : 30 + height, 60 : 60 + width, :channels]] * 2)
    for constants in SETS:
        for severity in (1, 4, 5):
            found = corrupt(images, name, severity, 3, constants=constants)
            assert_alike(name, found, expected(images, name, severity, 3, constants))


def test_large_images_are_zoomed_alike(scene: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the matrix, whose memory grows with the image, the bytes are the same."""
    images = np.stack([scene[:60, :80]] * 2)
    wanted = [corrupt(images, "zoom_blur", severity) for severity in SEVERITIES]
    monkeypatch.setattr("normbench.corruptions.blur.MATRIX", 0)
    for severity, result in zip(SEVERITIES, wanted, strict=True):
        np.testing.assert_array_equal(corrupt(images, "zoom_blur", severity), result)


@pytest.mark.parametrize("constants", ["tiny_imagenet", "imagenet"])
@pytest.mark.parametrize("name", BENCHMARK)
def test_other_constants(name: str, constants: str, scene: np.ndarray) -> None:
    images = crops(scene, 26, 1)
    for severity in SEVERITIES:
        found = corrupt(images, name, severity, constants=constants)
        assert_alike(name, found, expected(images, name, severity, 0, constants))
    for size, channels in ((8, 1), (9, 3)):
        images = crops(scene, size, 1)[..., :channels]
        found = corrupt(images, name, 5, constants=constants)
        assert_alike(name, found, expected(images, name, 5, 0, constants))


@pytest.mark.parametrize(
    ("size", "constants"), [(47, "cifar"), (48, "tiny_imagenet"), (127, "tiny_imagenet"), (128, "imagenet")]
)
def test_constants_go_by_the_size(size: int, constants: str, scene: np.ndarray) -> None:
    assert set_for(size, size) == set_for(size, 300) == set_for(300, size) == constants
    image = crops(scene, size, 1)[:1]
    for name in ("contrast", "frost"):
        np.testing.assert_array_equal(corrupt(image, name, 3), corrupt(image, name, 3, constants=constants))


@pytest.mark.parametrize("constants", SETS)
@pytest.mark.parametrize(("name", "step"), [("pixelate", 1), ("zoom_blur", 5)])
def test_sizes_round_as_the_library_does(name: str, step: int, constants: str, scene: np.ndarray) -> None:
    for size in range(8, 65, step):
        images = crops(scene, size, 1)
        severity = size // step % 5 + 1
        found = corrupt(images, name, severity, constants=constants)
        np.testing.assert_array_equal(found, expected(images, name, severity, 0, constants))


@needs_shared
@pytest.mark.parametrize("name", [name for name in BENCHMARK if name not in RANDOM])
def test_equals_the_reference(name: str, cifar: np.ndarray) -> None:
    golden = np.load(GOLDEN)
    for severity in SEVERITIES:
        np.testing.assert_array_equal(corrupt(cifar[golden["index"]], name, severity), golden[name][severity - 1])


# Of mean_abs, rms and out_std in percent; of bias in grey levels. From the spread between seeds of the reference.
TOLERANCES = {
    "gaussian_noise": (0.5, 0.5, 0.2, 0.15),
    "shot_noise": (0.5, 0.5, 0.2, 0.15),
    "speckle_noise": (0.5, 0.5, 0.2, 0.15),
    "impulse_noise": (3.5, 2, 0.2, 0.2),
    "glass_blur": (1, 1, 0.2, 0.15),
    "motion_blur": (5, 4, 0.5, 0.3),
    "fog": (4, 4, 3.5, 2.5),
    "snow": (2.5, 3, 1, 1.3),
    "frost": (8, 6, 3, 4),
    "spatter": (5, 3.5, 0.3, 0.3),
    "elastic_transform": (4.5, 5, 0.6, 0.7),
}


@needs_shared
@pytest.mark.slow
@pytest.mark.parametrize("name", RANDOM)
def test_has_the_reference_s_statistics(name: str, cifar: np.ndarray) -> None:
    index = np.arange(1000, 2000)
    reference = json.loads(STATISTICS.read_text())["stats"][name]
    for severity, wanted in zip(SEVERITIES, reference, strict=True):
        found = corrupt(cifar[index], name, severity, 0, index)
        change = found.astype(np.float64) - cifar[index]
        mean_abs, rms, out_std, bias = TOLERANCES[name]
        assert np.abs(change).mean() == pytest.approx(wanted["mean_abs"], rel=mean_abs / 100)
        assert np.sqrt((change**2).mean()) == pytest.approx(wanted["rms"], rel=rms / 100)
        assert found.std() == pytest.approx(wanted["out_std"], rel=out_std / 100)
        assert change.mean() == pytest.approx(wanted["bias"], abs=bias)
