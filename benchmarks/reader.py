"""Measures how fast training images of ImageNet's size are read, beside a plain torchvision DataLoader.

    python -m benchmarks.reader FOLDER [--images 1536] [--turns 7] [--workers 2] [--batch-size 64]

FOLDER has image files at any depth, such as a part of ImageNet. They are linked into an image folder until there are
`--images` of them. The plain loader is the usual script: `ImageFolder` with `RandomResizedCrop(224)`, a flip,
`ToTensor` and `Normalize` on Pillow's images. normbench reads the same files as `source: streamed`, without and with
decoded images on the disk. Each turn has one epoch of each, with normalized float32 batches on the CPU as its result
and the start of the worker processes in its time; the first turn does not count. The table has medians of images per
second of the clock and of processor time, which load on the machine changes less, and ratios of the medians.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from benchmarks import machine
from normbench.data import pictures, streamed
from normbench.data.augmentation import Augmentation, ResizedCrop
from normbench.data.prepare import prepare
from normbench.data.sources.base import COMMON_KEYS
from normbench.suite.runs import bound_dataset
from normbench.system import device as devices
from normbench.system import layout

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLASSES = 8


def linked(files: list[Path], count: int, to: Path) -> None:
    """Makes an image folder of links to files, each as often as it takes to have `count` of them."""
    for number in range(count):
        file = files[number % len(files)].resolve()
        for split in ("train", "val") if number < CLASSES else ("train",):
            place = to / split / f"class{number % CLASSES}"
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{number}{file.suffix}").symlink_to(file)


def plain(folder: Path, arguments: argparse.Namespace) -> Callable[[int], Iterable[Any]]:
    """Returns the batches of an epoch, by its number, of the usual script."""
    steps = [
        transforms.RandomResizedCrop(224),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize(MEAN, STD),
    ]
    images = datasets.ImageFolder(str(folder / "train"), transforms.Compose(steps))
    loader = DataLoader(images, arguments.batch_size, shuffle=True, num_workers=arguments.workers)
    return lambda epoch: loader


def ours(folder: Path, arguments: argparse.Namespace, cache: float | None) -> Callable[[int], Iterable[Any]]:
    """Returns the batches of an epoch, by its number, of normbench. cache: GB of decoded images."""
    name = "decoded" if cache else "files"
    given = {"source": "streamed", "path": str(folder), "image_size": 224, "resize": 256, "cache": cache}
    spec = dict.fromkeys(COMMON_KEYS) | given | {"name": name, "source_code": "", "mean": [*MEAN], "std": [*STD]}
    out = layout.DATA / name
    out.mkdir(parents=True)
    prepare(spec, out)
    images = streamed.load(bound_dataset(name), "cpu").train
    batches = images.batches(arguments.batch_size, False, 0, Augmentation(0, True, ResizedCrop()))
    return batches.epoch


def processor_time() -> float:
    """Returns the seconds of processor time of this process and of its children that have ended."""
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in spent)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=1536)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=64)
    arguments = parser.parse_args()
    files = [
        path for path in sorted(arguments.folder.resolve().rglob("*")) if path.suffix.lower() in pictures.endings()
    ]
    if not files:
        parser.error(f"{arguments.folder}: no image file in it")
    os.environ["NORMBENCH_WORKERS"] = str(arguments.workers)
    torch.set_num_threads(1)
    devices.prepare("cpu")  # as each run does
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        linked(files, arguments.images, Path("images"))
        readers = {
            "torchvision and DataLoader": plain(Path("images"), arguments),
            "normbench": ours(Path("images"), arguments, None),
            "normbench, decoded on the disk": ours(Path("images"), arguments, 100.0),
        }
        speeds: dict[str, list[tuple[float, float]]] = {reader: [] for reader in readers}
        for turn in range(arguments.turns + 1):
            for reader, epoch in readers.items():
                start, seen = (time.perf_counter(), processor_time()), 0
                for x, _ in epoch(turn):
                    seen += len(x)
                assert seen == arguments.images
                if turn:
                    spent = time.perf_counter() - start[0], processor_time() - start[1]
                    speeds[reader].append((seen / spent[0], seen / spent[1]))
    print(machine.description())
    what = f"{len(files)} files, {arguments.images} images an epoch, {arguments.workers} workers"
    print(f"{what}, {arguments.turns} turns\n")
    print("| reader | images/s | least | most | ratio | of processor time | ratio |\n|---|---|---|---|---|---|---|")
    first: tuple[float, ...] | None = None
    for reader, found in speeds.items():
        medians = tuple(map(statistics.median, zip(*found, strict=True)))
        first = first or medians
        wall = [each for each, _ in found]
        print(
            f"| {reader} | {medians[0]:.0f} | {min(wall):.0f} | {max(wall):.0f} | {medians[0] / first[0]:.2f} "
            f"| {medians[1]:.0f} | {medians[1] / first[1]:.2f} |"
        )


if __name__ == "__main__":
    main()
