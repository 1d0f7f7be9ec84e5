"""Measures the time of the 19 corruptions against the package imagecorruptions 1.1.2, which takes one image at a time.

Both compute every corruption at every severity, random draws included, from the same images and with the same constants
(those of ImageNet-C, the only ones that the package has). They take turns in one process, so that load on the machine
affects both. The images are those of CIFAR-10 if ../shared has them, or else crops of scikit-learn's photographs. A
second table has the times of normbench with the constants of CIFAR-10-C, and the time of 10,000 images written like
`normbench corrupt` writes them (with few images, the start of the processes and of their tables has more weight).

    python -m benchmarks.corruptions [--images 500] [--workers 2]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from normbench.corruptions import NAMES, corrupt
from normbench.corruptions.constants import SEVERITIES
from normbench.corruptions.files import maker, write_arrays
from normbench.corruptions.imagecorruptions_engine import corrupt_with_imagecorruptions
from normbench.system.progress import Progress

SHARED = Path(__file__).resolve().parents[2] / "shared/data"
WHOLE = 10_000  # number of test images of CIFAR-10


def test_images(count: int) -> tuple[np.ndarray, str]:
    """Returns images (count, 32, 32, 3) and their description."""
    if (SHARED / "unpack.py").is_file():
        spec = importlib.util.spec_from_file_location("unpack", SHARED / "unpack.py")
        assert spec is not None
        assert spec.loader is not None
        unpack = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(unpack)
        manifest = json.loads((SHARED / "manifest.json").read_text())
        return unpack.load("cifar10_test_batch", SHARED, manifest)[:count], "CIFAR-10"
    from sklearn.datasets import load_sample_images

    random = np.random.RandomState(0)
    scenes = [image[::3, ::3] for image in load_sample_images().images]
    corners = [(random.randint(scene.shape[0] - 32), random.randint(scene.shape[1] - 32)) for scene in scenes * count]
    crops = [scene[y : y + 32, x : x + 32] for scene, (y, x) in zip(scenes * count, corners, strict=True)]
    return np.stack(crops[:count]), "photographs"


def milliseconds(images: int, work: Callable[..., object], *arguments: object) -> float:
    """Returns the time of one call in milliseconds per image."""
    start = time.perf_counter()
    work(*arguments)
    return 1000 * (time.perf_counter() - start) / images


def against_the_package(images: np.ndarray) -> None:
    """Prints the times of both in ms per image, averaged over the severities."""
    print(f"\n{'constants of ImageNet-C, ms/image':34}    ours   package   ratio")
    sums = [0.0, 0.0]
    for name in NAMES:
        times: tuple[list[float], list[float]] = ([], [])
        for severity in SEVERITIES:

            def mine(count: int, name: str = name, severity: int = severity) -> None:
                corrupt(images[:count], name, severity, constants="imagenet")

            def package(count: int, name: str = name, severity: int = severity) -> None:
                corrupt_with_imagecorruptions(images[:count], name, severity)

            for work, spent in zip((mine, package), times, strict=True):
                work(2)  # builds tables and loads textures
                spent.append(milliseconds(len(images), work, len(images)))
        own, other = (sum(spent) / len(spent) for spent in times)
        sums = [sums[0] + own, sums[1] + other]
        print(f"{name:34} {own:7.3f} {other:9.3f} {other / own:6.1f}x", flush=True)
    print(f"{'sum':34} {sums[0]:7.3f} {sums[1]:9.3f} {sums[1] / sums[0]:6.1f}x")


def ours(images: np.ndarray) -> None:
    """Prints the times of normbench with the constants of CIFAR-10-C in ms per image, by severity."""
    print(f"\n{'constants of CIFAR-10-C, ms/image':34}    mean      " + "".join(f"{level:8}" for level in SEVERITIES))
    total = 0.0
    for name in NAMES:
        times = []
        for severity in SEVERITIES:
            corrupt(images[:2], name, severity)  # builds tables and loads textures
            times.append(milliseconds(len(images), corrupt, images, name, severity))
        total += sum(times) / len(times)
        print(f"{name:34} {sum(times) / len(times):7.3f}      " + "".join(f"{t:8.3f}" for t in times), flush=True)
    print(f"{'sum':34} {total:7.3f}")


def written(images: np.ndarray, workers: int) -> None:
    """Prints the time of all corruptions at all severities, written like `normbench corrupt` writes them."""
    make = maker(images, 0, "normbench", "cifar")
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as silent:
        paths = {name: Path(folder) / f"{name}.npy" for name in NAMES}
        progress = Progress("", 1, silent)

        def work() -> None:
            for name in write_arrays(paths, [*SEVERITIES], len(images), images.shape[1:], make, progress, workers):
                paths[name].unlink()

        spent = milliseconds(len(images), work)
    line = f"written by {workers} worker{'s' * (workers > 1)}: {spent / len(SEVERITIES):.3f} ms/image in all 19"
    print(f"{line}; {WHOLE:,} images, 19 x 5: {spent * WHOLE / 1000:.0f} s", flush=True)


def main() -> None:
    """Prints all tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    images, kind = test_images(options.images)
    print(f"{len(images)} images ({kind}), 32 x 32, numpy {np.__version__}")
    against_the_package(images)
    ours(images)
    for workers in sorted({1, options.workers}):
        written(images, workers)


if __name__ == "__main__":
    main()
