"""Measures the time of the 19 corruptions against the package imagecorruptions 1.1.2, which takes one image at a time.

Both compute every corruption at every severity, random draws included, from the same images and with the same constants
(those of ImageNet-C, the only ones that the package has), at 32 x 32 and at 224 x 224. They take turns in one thread of
one process, and what counts is the shortest CPU time of each. The images are those of CIFAR-10 and photographs of
ImageNet if ../shared has them, or else crops of scikit-learn's photographs.

Then come the times with the constants of CIFAR-10-C, with a floor: the random numbers of a corruption, or the encoder
and decoder of JPEG. Last, `normbench corrupt` writes the whole of CIFAR-10-C (2.9 GB, in the folder for temporary
files), with a floor: all floors of the table before, and the writing and hashing of the files, shared by all processes.

    python -m benchmarks.corruptions [--images 500] [--photos 24] [--whole 10000] [--workers 2]
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import io
import json
import os
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from normbench.corruptions import NAMES, corrupt, registry
from normbench.corruptions.constants import SEVERITIES
from normbench.corruptions.export import export
from normbench.corruptions.imagecorruptions_engine import corrupt_with_imagecorruptions
from normbench.runs.provenance import cpu_name
from normbench.system import npy

SHARED = Path(__file__).resolve().parents[2] / "shared/data"
SLOW = 1.0  # Seconds for one turn. Of what takes longer, fewer images are measured.


def small_images(count: int) -> tuple[np.ndarray, str]:
    """Returns images (count, 32, 32, 3) and their description."""
    if (SHARED / "unpack.py").is_file():
        spec = importlib.util.spec_from_file_location("unpack", SHARED / "unpack.py")
        assert spec is not None
        assert spec.loader is not None
        unpack = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(unpack)
        manifest = json.loads((SHARED / "manifest.json").read_text())
        return unpack.load("cifar10_test_batch", SHARED, manifest)[:count], "CIFAR-10"
    return crops(32, count, 3), "crops of photographs"


def photographs(count: int) -> tuple[np.ndarray, str]:
    """Returns images (count, 224, 224, 3), the shorter side scaled to 224, and their description."""
    path = SHARED / "imagenet_samples.zip"
    if not path.is_file():
        return crops(224, count, 1), "crops of photographs"
    images = []
    with zipfile.ZipFile(path) as archive:
        for name in sorted(name for name in archive.namelist() if name.lower().endswith(".jpeg")):
            picture = Image.open(io.BytesIO(archive.read(name)))
            if picture.mode == "RGB" and len(images) < count:
                width, height = (max(224, round(side * 224 / min(picture.size))) for side in picture.size)
                left, top = (width - 224) // 2, (height - 224) // 2
                images.append(np.asarray(picture.resize((width, height)).crop((left, top, left + 224, top + 224))))
    return np.stack(images), "ImageNet"


def crops(side: int, count: int, step: int) -> np.ndarray:
    """Returns crops of every step-th pixel of scikit-learn's photographs."""
    from sklearn.datasets import load_sample_images

    random = np.random.RandomState(0)
    scenes = [image[::step, ::step] for image in load_sample_images().images]
    corners = [[random.randint(size - side) for size in scenes[i % 2].shape[:2]] for i in range(count)]
    return np.stack([scenes[i % 2][y : y + side, x : x + side] for i, (y, x) in enumerate(corners)])


def milliseconds(works: list[Callable[[int], object]], count: int, turns: int = 2) -> list[float]:
    """Returns the shortest CPU time of each function in ms per image; they take turns.

    A function is called with a number of images: `count`, or fewer if that takes long.
    """
    shortest, counts = [float("inf")] * len(works), [count] * len(works)
    for i, work in enumerate(works):
        work(1)  # builds tables and loads textures
        start = time.thread_time()
        work(1)
        counts[i] = max(1, min(count, int(SLOW / max(time.thread_time() - start, 1e-9))))
    for _ in range(turns):
        for i, work in enumerate(works):
            start = time.thread_time()
            work(counts[i])
            shortest[i] = min(shortest[i], 1000 * (time.thread_time() - start) / counts[i])
    return shortest


def row(title: str, values: list[float], unit: str = "") -> str:
    """A line of a table."""
    return f"{title:20}" + "".join(f"{value:8.3f}{unit}" for value in values)


def against_the_package(images: np.ndarray, kind: str) -> None:
    """Prints how many times as long the package takes, by severity, and the times in ms per image."""
    count, side = images.shape[:2]
    print(
        f"\n{count} images ({kind}), {side} x {side}, constants of ImageNet-C: time of the package / ours by severity"
    )
    print(f"{'':20}" + "".join(f"{level:8} " for level in SEVERITIES) + "    ours  package  ms/image")
    total: dict[str, np.ndarray] = {}
    for name in NAMES:
        times = np.array(
            [
                milliseconds(
                    [
                        lambda n, name=name, level=level: corrupt(images[:n], name, level, constants="imagenet"),
                        lambda n, name=name, level=level: corrupt_with_imagecorruptions(images[:n], name, level),
                    ],
                    count,
                )
                for level in SEVERITIES
            ]
        )
        total[name] = times.sum(axis=0)
        own, other = times.mean(axis=0)
        print(row(name, list(times[:, 1] / times[:, 0]), "x") + f"{own:8.3f} {other:8.3f}", flush=True)
    for title, left_out in (("all", ()), ("all but glass_blur", ("glass_blur",))):
        own, other = sum(times for name, times in total.items() if name not in left_out)
        print(f"{title:20}{other / own:8.3f}x")


def ours(images: np.ndarray) -> float:
    """Prints the times with the constants of CIFAR-10-C in ms per image, by severity; returns the sum of the floors."""
    count = len(images)
    print(f"\n{count} images, 32 x 32, constants of CIFAR-10-C, ms/image by severity, and the mean of the floors")
    print(f"{'':20}" + "".join(f"{level:8}" for level in SEVERITIES) + "    mean   floor")
    sums = np.zeros(2)
    for name in NAMES:
        times = np.array(
            [
                milliseconds(
                    [
                        lambda n, name=name, level=level: corrupt(images[:n], name, level),
                        lambda n, name=name, level=level: floor(images[:n], name, level),
                    ],
                    count,
                )
                for level in SEVERITIES
            ]
        )
        mean, lowest = times.mean(axis=0)
        sums += (mean, lowest)
        print(row(name, [*times[:, 0], mean, lowest]), flush=True)
    print(f"{'sum':60}" + "".join(f"{value:8.3f}" for value in sums))
    return float(sums[1])


def floor(images: np.ndarray, name: str, severity: int) -> None:
    """Does what a corruption cannot do without: draws random numbers, or encodes and decodes a JPEG."""
    found = registry.get(name)
    constants = found.constants["cifar"][severity - 1]
    for start in range(0, len(images), 64):
        block = images[start : start + 64]
        found.draw(block, constants, 0, severity, np.arange(start, start + len(block)))
    if name == "jpeg_compression":
        for image in images:
            cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, constants])[1], cv2.IMREAD_COLOR)


def written(images: np.ndarray, workers: int, floors: float) -> None:
    """Prints the time of `normbench corrupt` for all corruptions at all severities.

    floors: the sum over the corruptions of their floors, in ms per image.
    """
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "images", Path(folder) / "corrupted"
        source.mkdir()
        npy.save(source / "test_images.npy", images)
        npy.save(source / "test_labels.npy", np.zeros(len(images), np.int64))
        start = time.perf_counter()
        export(str(source), target, [*NAMES], [*SEVERITIES], workers=workers)
        spent = time.perf_counter() - start
        file = target / f"{NAMES[0]}.npy"
        content, size = file.read_bytes(), sum(path.stat().st_size for path in target.iterdir())
        file.unlink()
        start = time.thread_time()
        file.write_bytes(content)
        hashlib.sha256(file.read_bytes())
        storing = (time.thread_time() - start) * len(NAMES)
    lowest = (floors * len(images) * len(SEVERITIES) / 1000 + storing) / workers
    print(
        f"\n{len(images):,} images, 19 x 5, written by {workers} process{'es' * (workers > 1)}: {spent:.1f} s "
        f"({size / 1e9:.1f} GB); floor {lowest:.1f} s, of which writing and hashing {storing / workers:.1f} s"
    )


def main() -> None:
    """Prints all tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=500, help="images of 32 x 32; 0 leaves their tables out")
    parser.add_argument("--photos", type=int, default=24, help="images of 224 x 224; 0 leaves their table out")
    parser.add_argument("--whole", type=int, default=10_000, help="images that are written; 0 leaves that out")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    cv2.setNumThreads(1)
    cores = len(os.sched_getaffinity(0))
    print(f"{cpu_name()}, {cores} cores, one thread, numpy {np.__version__}, OpenCV {cv2.__version__}")
    images, kind = small_images(max(options.images, options.whole))
    floors = 0.0
    if options.images:
        against_the_package(images[: options.images], kind)
        floors = ours(images[: options.images])
    if options.photos:
        against_the_package(*photographs(options.photos))
    for workers in sorted({1, options.workers}) if options.whole else ():
        written(images[: options.whole], workers, floors)


if __name__ == "__main__":
    main()
