"""The textures of frost: read, verified and scaled."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from normbench.corruptions import corrupt
from normbench.corruptions.frost import _originals, textures
from normbench.system.errors import UserError
from tests.oracles.corruption_steps import texture


def test_textures_are_opencv_s() -> None:
    """At the scales of CIFAR-10-C, Tiny ImageNet-C and ImageNet-C."""
    for scale, size in ((0.2, 32), (0.3, 64), (1, 224)):
        for number, found in enumerate(textures(scale, size, size)):
            np.testing.assert_array_equal(found, texture(number, scale, size, size))


@pytest.mark.parametrize(("scale", "size"), [(0.2, 62), (0.2, 63), (0.2, 200), (1, 700)])
def test_textures_are_larger_than_the_images(scale: float, size: int) -> None:
    for number, found in enumerate(textures(scale, size, size)):
        assert min(found.shape[:2]) > size
        wanted = texture(number, scale, size, size)
        assert found.shape == wanted.shape
        difference = np.abs(found.astype(int) - wanted)
        assert difference.max() <= 1
        assert difference.mean() < 1e-3


@pytest.fixture
def fresh_textures() -> Iterator[None]:
    for cached in (textures, _originals):
        cached.cache_clear()
    yield
    for cached in (textures, _originals):
        cached.cache_clear()


@pytest.mark.usefixtures("fresh_textures")
@pytest.mark.parametrize(
    ("fault", "line"),
    [
        ("package", "package imagecorruptions is not installed"),
        ("file", "frost: {}: no such file; imagecorruptions 1.1.2 has it"),
        ("content", "frost: {}: sha256 5feceb66..., but that of imagecorruptions 1.1.2 is 2d0d50b4..."),
    ],
)
def test_textures_that_are_not_there(
    fault: str, line: str, tmp_path: Path, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = importlib.util.find_spec("imagecorruptions")
    folder = tmp_path / "imagecorruptions" / "frost"
    shutil.copytree(Path(spec.submodule_search_locations[0]) / "frost", folder)
    spec.submodule_search_locations[:] = [str(folder.parent)]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if fault == "package" else spec)
    if fault == "file":
        (folder / "frost3.png").unlink()
    if fault == "content":
        (folder / "frost3.png").write_text("0")
    with pytest.raises(UserError) as caught:
        corrupt(images, "frost", 1)
    assert str(caught.value) == line.format(folder / "frost3.png")
