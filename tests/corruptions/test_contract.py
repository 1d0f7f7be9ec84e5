"""What every registered corruption must do, those of a new file included: the list is that of the table."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from normbench.corruptions import NAMES, corrupt, registry
from normbench.corruptions.constants import SETS, SEVERITIES
from tests.support.scenes import crops


@pytest.mark.parametrize("name", NAMES)
def test_says_what_it_does_and_where_it_is_from(name: str) -> None:
    """The function has a docstring, and the docstring of its file names the source."""
    function = registry.get(name).function
    assert function.__name__ == name
    assert (function.__doc__ or "").split("\n\n")[0].strip().endswith(".")
    assert "Source: " in (sys.modules[function.__module__].__doc__ or "")


@pytest.mark.parametrize("benchmark", SETS)
@pytest.mark.parametrize("name", NAMES)
def test_has_five_severities_in_every_set(name: str, benchmark: str, scene: np.ndarray) -> None:
    """Each severity changes the images, in another way than the others do."""
    assert set(registry.get(name).constants) == set(SETS)
    constants = registry.get(name).constants[benchmark]
    assert len(constants) == len(SEVERITIES)
    images = crops(scene, 32, 2)
    made = [corrupt(images, name, severity, constants=benchmark) for severity in SEVERITIES]
    assert len({result.tobytes() for result in made} | {images.tobytes()}) == len(SEVERITIES) + 1


@pytest.mark.parametrize(
    ("height", "width", "channels"), [(8, 8, 1), (8, 8, 3), (31, 31, 3), (33, 33, 1), (8, 40, 3), (65, 9, 1)]
)
@pytest.mark.parametrize("name", NAMES)
def test_keeps_shape_and_type_and_leaves_its_images_alone(
    name: str, height: int, width: int, channels: int, scene: np.ndarray
) -> None:
    images = np.ascontiguousarray(crops(scene, max(height, width), 1)[:, :height, :width, :channels])
    images.flags.writeable = False
    for severity in (1, 5):
        result = corrupt(images, name, severity)
        assert (result.dtype, result.shape) == (np.uint8, images.shape)
        assert result.flags.writeable
    assert corrupt(images[:0], name, 1).shape == (0, *images.shape[1:])


@pytest.mark.parametrize("name", NAMES)
def test_an_image_is_corrupted_alike_in_any_batch(name: str, images: np.ndarray) -> None:
    many = np.concatenate([images] * 12)  # more than one block
    numbers = np.arange(100, 100 + len(many))
    whole = corrupt(many, name, 3, 7, numbers)
    np.testing.assert_array_equal(corrupt(many, name, 3, 7, numbers), whole)
    for size in (1, 7):
        for start in range(0, 2 * len(images), size):
            part = slice(start, start + size)
            np.testing.assert_array_equal(corrupt(many[part], name, 3, 7, numbers[part]), whole[part])
    order = np.random.RandomState(0).permutation(len(many))
    np.testing.assert_array_equal(corrupt(many[order], name, 3, 7, numbers[order]), whole[order])
    np.testing.assert_array_equal(corrupt(many[:5], name, 3, 7, list(numbers[:5])), whole[:5])


@pytest.mark.parametrize("name", NAMES)
def test_the_layout_in_memory_does_not_matter(name: str, images: np.ndarray) -> None:
    images = images[:, :, :24]
    wanted = corrupt(images, name, 3)
    swapped = np.ascontiguousarray(images[:, ::-1, ::-1])[:, ::-1, ::-1]
    for given in (np.asfortranarray(images), swapped, list(images)):
        np.testing.assert_array_equal(corrupt(given, name, 3), wanted)


@pytest.mark.parametrize("name", [name for name in NAMES if registry.get(name).draws is not None])
def test_random_numbers_follow_seed_severity_and_number(name: str, images: np.ndarray) -> None:
    """Each of them gives other arrays; these have one entry for each image and do not depend on the pixels' order."""
    found = registry.get(name)
    constants = found.constants["cifar"][4]
    made = [
        found.draw(images[:1], constants, seed, severity, np.array([number]))
        for seed, severity, number in ((0, 5, 0), (1, 5, 0), (0, 4, 0), (0, 5, 1))
    ]
    for arrays in made:
        assert all(len(array) == 1 for array in arrays)
    assert len({tuple(array.tobytes() for array in arrays) for arrays in made}) == len(made)
