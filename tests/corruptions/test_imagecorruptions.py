"""The package imagecorruptions as an engine: it runs, its results are reproducible, and its repairs stay inside."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import scipy.special
import scipy.stats

from normbench.corruptions import corrupt, registry
from normbench.corruptions import imagecorruptions_engine as engine
from normbench.corruptions.constants import BENCHMARK, SEVERITIES
from normbench.corruptions.draws import generator
from normbench.corruptions.imagecorruptions_engine import corrupt_with_imagecorruptions
from normbench.system.errors import UserError

ROOT = Path(__file__).resolve().parents[2]

# What the package computes otherwise: motion blur by shifts, unrounded; a zoom that is not centred; larger textures.
OTHERWISE = ("motion_blur", "snow", "frost")


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Two crops of a photograph, 64 x 64."""
    from sklearn.datasets import load_sample_image

    scene = load_sample_image("china.jpg")[::3, ::3]
    return np.stack([scene[:64, :64], scene[70:134, 100:164]])


@pytest.fixture(scope="module", autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    import skimage

    def state() -> list[object]:
        random = np.random.get_state()
        places = [skimage.filters.gaussian, skimage.util.random_noise, skimage.color, np.random.seed]
        return [
            {name: id(value) for name, value in vars(np).items()},
            places,
            random[0],
            random[1].tolist(),
            random[2:],
        ]

    assert not hasattr(np, "float_")
    before, modules = state(), {name for name in sys.modules if name.startswith(("pkg_resources", "imagecorruptions"))}
    yield
    assert state() == before
    assert {name for name in sys.modules if name.startswith(("pkg_resources", "imagecorruptions"))} == modules


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("name", BENCHMARK)
def test_runs_and_repeats(name: str, size: int, images: np.ndarray) -> None:
    images = images[:, :size, :size]
    for severity in SEVERITIES:
        found = corrupt_with_imagecorruptions(images, name, severity, 3, [7, 8])
        assert found.dtype == np.uint8
        assert found.shape == images.shape
        # Whatever was drawn before, and whatever is beside the image.
        np.testing.assert_array_equal(corrupt_with_imagecorruptions(images[1:], name, severity, 3, [8]), found[1:])
        if name != "spatter":  # there may be no drop
            assert (found != images).any(axis=(1, 2, 3)).all()


@pytest.mark.parametrize("name", [name for name in BENCHMARK if registry.get(name).draws is not None])
def test_is_a_function_of_seed_severity_and_index(name: str, images: np.ndarray) -> None:
    image = images[:1, :32, :32]
    severity = 4 if name == "spatter" else 3
    keys = [(severity, 0, [0]), (severity, 1, [0]), (severity, 0, [1])]
    made = [corrupt_with_imagecorruptions(image, name, *key) for key in keys]
    np.testing.assert_array_equal(corrupt_with_imagecorruptions(image, name, *keys[0]), made[0])
    assert not any(np.array_equal(made[0], other) for other in made[1:])


def bits(uniforms: np.ndarray) -> np.ndarray:
    return (uniforms * 2**32).clip(0, 2**32 - 1).astype(np.uint32)


def draws_of_the_package(name: str, image: np.ndarray, constants: Any, random: np.random.RandomState) -> tuple:
    """What the package draws for an image, as our function takes it: for noise, where in its distribution each is."""
    shape, (height, width) = image.shape, image.shape[:2]
    if name in ("gaussian_noise", "speckle_noise"):
        return (bits(scipy.special.ndtr(random.standard_normal(shape))),)
    if name == "shot_noise":
        mean = image / 255 * constants
        counts = random.poisson(mean)
        return (bits((scipy.stats.poisson.cdf(counts - 1, mean) + scipy.stats.poisson.cdf(counts, mean)) / 2),)
    if name == "impulse_noise":
        hits, signs = random.random_sample(shape), random.random_sample(shape)
        return (bits(np.where(hits <= constants, (hits + (signs > 0.5) * constants) / 2, hits)),)
    if name == "glass_blur":
        _, distance, passes = constants
        sides = passes, height - 2 * distance, width - 2 * distance, 2
        return (random.randint(-distance, distance, sides, dtype=np.int64),)
    if name == "fog":
        return (random.uniform(-1, 1, 4 ** (max(height, width) - 1).bit_length() - 1),)
    if name == "elastic_transform":
        return np.zeros((3, 2), np.float32), random.uniform(-1, 1, shape[:2]), random.uniform(-1, 1, shape[:2])
    return (random.standard_normal(shape[:2]),) if name == "spatter" else ()


@pytest.mark.parametrize("name", [name for name in BENCHMARK if name not in OTHERWISE])
def test_is_the_other_engine_with_the_constants_of_imagenet(name: str, images: np.ndarray) -> None:
    """From the same draws: this checks both, formulas and constants."""
    for height, width in ((32, 32), (64, 64), (32, 48), (64, 32)):
        given = images[:, :height, :width]
        for severity in SEVERITIES:
            found = corrupt_with_imagecorruptions(given, name, severity, 5)
            constants = registry.get(name).constants["imagenet"][severity - 1]
            each = [
                draws_of_the_package(name, image, constants, state)
                for image, state in zip(given, (generator(5, name, severity, i) for i in (0, 1)), strict=True)
            ]
            draws = [np.stack(arrays) for arrays in zip(*each, strict=True)]
            ours = registry.get(name).function(given, constants, *draws)
            difference = np.abs(found.astype(int) - ours)
            assert difference.max() <= 1
            assert difference.mean() < 1e-3


@pytest.mark.parametrize("name", OTHERWISE)
def test_images_that_are_not_square(name: str, images: np.ndarray) -> None:
    for given in (images[:, :32, :60], images[:, :, :33]):
        assert corrupt_with_imagecorruptions(given, name, 3).shape == given.shape


@pytest.mark.parametrize("name", OTHERWISE)
def test_is_like_the_other_engine(name: str, images: np.ndarray) -> None:
    images = np.repeat(images, 10, axis=0)
    for severity in SEVERITIES:
        found = corrupt_with_imagecorruptions(images, name, severity).astype(int)
        ours = corrupt(images, name, severity, constants="imagenet").astype(int)
        assert abs(found.mean() - ours.mean()) < 16
        assert 0.8 < found.std() / ours.std() < 1.25


def test_without_a_drop_nothing_is_black(images: np.ndarray) -> None:
    many = np.repeat(images[:1, :32, :32], 20, axis=0)
    found = corrupt_with_imagecorruptions(many, "spatter", 1)
    same = (found == many).all(axis=(1, 2, 3))
    assert same.any()
    assert not same.all()
    assert (found >= many).all()


def test_grey(images: np.ndarray) -> None:
    grey = images[..., :1]
    for name in ("contrast", "jpeg_compression", "saturate"):
        found = corrupt_with_imagecorruptions(grey, name, 2)
        assert found.shape == grey.shape
        assert np.abs(found.astype(int) - corrupt(grey, name, 2, constants="imagenet")).max() <= 1


@pytest.mark.parametrize(
    ("size", "name", "severity", "line"),
    [
        (28, "fog", 1, "images of 28 x 28: imagecorruptions needs a side of 32 pixels or more"),
        (32, "frot", 1, "unknown corruption 'frot': did you mean 'frost'?"),
        (32, "fog", 6, "severity 6 of 'fog': valid: 1, 2, 3, 4, 5"),
    ],
)
def test_refuses_in_one_line(size: int, name: str, severity: int, line: str) -> None:
    with pytest.raises(UserError) as caught:
        corrupt_with_imagecorruptions(np.zeros((1, size, size, 3), np.uint8), name, severity)
    assert str(caught.value) == line


def test_refuses_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    engine._package.cache_clear()
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.2.0")
    with pytest.raises(UserError, match=r"^imagecorruptions 1\.2\.0: the engine is made for 1\.1\.2$"):
        corrupt_with_imagecorruptions(np.zeros((1, 32, 32, 3), np.uint8), "fog", 1)


def test_needs_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    engine._package.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"^package imagecorruptions is not installed$"):
        corrupt_with_imagecorruptions(np.zeros((1, 32, 32, 3), np.uint8), "fog", 1)


def test_stand_ins_go_after_an_error_too(monkeypatch: pytest.MonkeyPatch) -> None:
    there, stand_in = ModuleType("pkg_resources"), ModuleType("pkg_resources")
    monkeypatch.setitem(sys.modules, "pkg_resources", there)
    monkeypatch.setitem(sys.modules, "imagecorruptions", there)
    monkeypatch.delitem(sys.modules, "imagecorruptions.corruptions", raising=False)

    def fail() -> None:
        with engine._standing_in(stand_in):
            assert sys.modules["pkg_resources"] is stand_in
            assert "imagecorruptions" not in sys.modules
            sys.modules["imagecorruptions.corruptions"] = stand_in
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert sys.modules["pkg_resources"] is sys.modules["imagecorruptions"] is there
    assert "imagecorruptions.corruptions" not in sys.modules


def test_an_import_of_the_package_is_as_before() -> None:
    """It fails without pkg_resources, before and after."""
    code = """
import importlib.util, sys
import numpy as np
from normbench.corruptions.imagecorruptions_engine import corrupt_with_imagecorruptions

def imported():
    try:
        import imagecorruptions
    except ImportError as error:
        return str(error)
    return imagecorruptions.corruptions.np is np

before = imported()
corrupt_with_imagecorruptions(np.zeros((1, 32, 32, 3), np.uint8), "fog", 1)
assert imported() == before, imported()
assert before is True or "pkg_resources" in before, before
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, check=True)
