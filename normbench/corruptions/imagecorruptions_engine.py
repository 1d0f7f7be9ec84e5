"""The functions of the package imagecorruptions 1.1.2 (Michaelis et al., arXiv 1907.07484), one image at a time.

Its constants are those of ImageNet-C at every size. With current libraries the import of the package fails, and so do
some of its functions. They are repaired in a private copy of the package, so that nothing has to be undone:

- pkg_resources, which setuptools no longer has, is asked for the folder of the frost textures: a substitute answers;
- skimage's `gaussian` takes `channel_axis` instead of the package's `multichannel` (gaussian_blur, glass_blur);
- `np.float_` is `np.float64` (fog);
- `np.random` and the generator of skimage's `random_noise` (impulse_noise) are seeded for each image;
- spatter divides by the largest drop; without any drop the image stays as it is (it would become black).
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.metadata
import sys
import warnings
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image

from normbench.corruptions import check
from normbench.corruptions.constants import BENCHMARK
from normbench.corruptions.draws import bits, generator
from normbench.corruptions.frost import PACKAGE, package_folder
from normbench.corruptions.operators import Bytes, colour, luma
from normbench.system.errors import UserError, hint

VERSION = "1.1.2"
SMALLEST_SIDE = 32


def corrupt_with_imagecorruptions(
    images: Bytes, name: str, severity: int, seed: int = 0, index: np.ndarray | list[int] | None = None
) -> Bytes:
    """Returns corrupted copies of `images`, uint8 (N, H, W, C), C = 1 or 3, sides >= 32; same shape and type.

    name: one of the 19 corruptions of the benchmark. The other arguments are those of `corrupt`. A grey image is
    corrupted as an RGB image, and the luma of the result is kept. Not safe for use in several threads. Raises UserError
    for any other argument.
    """
    images, severity, seed, numbers = check(images, name, severity, seed, index)
    check_name(name)
    check_sides(*images.shape[1:3])
    package = _package()
    result = np.empty(images.shape, np.uint8)
    for image, number, target in zip(images, numbers.tolist(), result, strict=True):
        key = (seed, name, severity, number)
        package.corruptions.np.random = generator(*key)
        package.corruptions.sk.random = np.random.Generator(bits(*key))
        grey = image.shape[2] == 1
        source = colour(image[None])[0] if grey else image
        with np.errstate(invalid="ignore"):
            values = np.asarray(package.corruption_dict[name](Image.fromarray(source), severity))
        changed = np.where(np.isnan(values), source, values).astype(np.uint8)
        target[:] = luma(changed[None])[0] if grey else changed
    return result


def check_name(name: str) -> None:
    """Raises UserError for a corruption that the package does not have: it has those of the benchmark only."""
    if name not in BENCHMARK:
        raise UserError(f"{PACKAGE} has no corruption '{name}': {hint(name, BENCHMARK, limit=len(BENCHMARK))}")


def check_sides(height: int, width: int) -> None:
    """Raises UserError if images of this size are too small for the package."""
    if min(height, width) < SMALLEST_SIDE:
        raise UserError(f"images of {height} x {width}: {PACKAGE} needs a side of {SMALLEST_SIDE} pixels or more")


@functools.cache
def _package() -> Any:
    """Returns the repaired package: a private copy, which `import imagecorruptions` does not find."""
    folder = package_folder()
    if importlib.metadata.version(PACKAGE) != VERSION:
        raise UserError(f"{PACKAGE} {importlib.metadata.version(PACKAGE)}: the engine is made for {VERSION}")
    resources: Any = ModuleType("pkg_resources")
    resources.resource_filename = lambda package, path: str(folder / path)
    # scipy.ndimage.interpolation, which the package imports from, is deprecated.
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning), _standing_in(resources):
        package = importlib.import_module(PACKAGE)
    functions: Any = package.corruptions
    functions.np = _Numpy()
    functions.sk = _Skimage(functions.sk)
    functions.gaussian = functools.partial(_gaussian, functions.gaussian)
    return package


@contextlib.contextmanager
def _standing_in(module: ModuleType) -> Iterator[None]:
    """A context in which imports find this module and no copy of the package; it restores the former state."""

    def taken() -> dict[str, ModuleType]:
        parts = (module.__name__, PACKAGE)
        return {name: sys.modules.pop(name) for name in [*sys.modules] if name.split(".")[0] in parts}

    before = taken()
    sys.modules[module.__name__] = module
    try:
        yield
    finally:
        taken()
        sys.modules.update(before)


def _gaussian(
    original: Any, image: np.ndarray, *arguments: Any, multichannel: bool = False, **options: Any
) -> np.ndarray:
    return original(image, *arguments, channel_axis=-1 if multichannel else None, **options)


class _Numpy:
    """numpy with the removed name `float_`, and with a random state of its own."""

    float_ = np.float64
    random: np.random.RandomState

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


class _Skimage:
    """The parts of skimage that the package uses, with a generator for its noise."""

    random: np.random.Generator

    def __init__(self, skimage: Any):
        self.color = skimage.color
        self.noise = skimage.util.random_noise
        self.util = SimpleNamespace(random_noise=lambda *image, **kind: self.noise(*image, rng=self.random, **kind))
