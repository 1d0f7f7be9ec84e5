"""Files of a dataset's corrupted test images in the layout of CIFAR-10-C."""

from __future__ import annotations

import importlib.metadata
import math
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL

from normbench.corruptions import corrupt, registry
from normbench.corruptions.constants import SEVERITIES, set_for
from normbench.corruptions.imagecorruptions_engine import check_name, check_sides, corrupt_with_imagecorruptions
from normbench.corruptions.operators import Bytes
from normbench.system import npy, preemption
from normbench.system.errors import UserError
from normbench.system.files import atomic_folder, read_json, sha256, write_json, writing
from normbench.system.progress import Progress
from normbench.system.threads import cores

IMAGES, VALUES = 250, 1 << 23  # most images in memory at a time, and most of their values
PARALLEL = 1 << 28  # least number of values (about a second of work) for which several processes are started

# Returns corrupted copies of images, given the name or reference of a corruption, a severity and the images' numbers.
Maker = Callable[[str, int, np.ndarray], Bytes]


def write_corrupted(
    source: Path,
    target: Path,
    names: list[str],
    severities: list[int],
    seed: int,
    engine: str = "normbench",
    constants: str = "auto",
    workers: int | None = None,
) -> None:
    """Corrupts the test images of the prepared dataset `source` into the folder `target`.

    names: of corruptions, or references to the user's own. severities: ascending. engine: `normbench`, or
    `imagecorruptions`, which always has the constants of imagenet. constants: as for `corrupt`, or `auto` for its
    default. workers: the number of processes; by default one for each core if the work takes more than a few seconds.
    The bytes do not depend on it.

    `target` then holds, for each corruption, `<name>.npy`, uint8 (S * N, H, W, C), one block of N images in test order
    for each of the S ascending severities; unless the dataset has masks, `labels.npy`, the labels repeated S times
    (uint8; int64 above 255 classes); and `meta.json` with names, severities, engine, constants, seed, published (null),
    source_fingerprint, the sha256 of each file, the versions on which its bytes depend and, if there are any, the
    reference and code of the user's own corruptions under `own`. After an error it holds nothing.

    Raises UserError if an argument is not valid.
    """
    chosen = check_choice(names, severities, engine)
    images = np.load(source / "test_images.npy", mmap_mode="r")
    used = constants_for(engine, constants, *images.shape[1:3])
    origin: dict[str, Any] = {
        "engine": engine,
        "constants": used,
        "seed": seed,
        "published": None,
        "versions": versions(engine),
    }
    own = registry.own(chosen)
    origin |= {"own": own} if own else {}
    write_folder(source, target, chosen, severities, maker(images, seed, engine, used), origin, workers)


def constants_for(engine: str, constants: str, height: int, width: int) -> str:
    """Returns the set of constants for images of this size. Raises UserError if they are too small."""
    if engine == "imagecorruptions":
        check_sides(height, width)
        return "imagenet"
    return set_for(height, width) if constants == "auto" else constants


def maker(images: Bytes, seed: int, engine: str, constants: str) -> Maker:
    """Returns the function that corrupts some of `images`, which may be mapped from a file."""

    def make(name: str, severity: int, index: np.ndarray) -> Bytes:
        if engine == "imagecorruptions":
            return corrupt_with_imagecorruptions(images[index], name, severity, seed, index)
        return corrupt(images[index], name, severity, seed, index, constants)

    return make


def check_choice(names: list[str], severities: list[int], engine: str = "normbench") -> dict[str, str]:
    """Returns the reference of each corruption by its name, like `registry.named`.

    Raises UserError if a name is not a corruption of the engine, or if the severities are not some of 1 to 5,
    ascending.
    """
    chosen = registry.named(names)
    for name in chosen if engine == "imagecorruptions" else ():
        check_name(name)
    if not severities or list(severities) != [level for level in SEVERITIES if level in severities]:
        raise UserError(f"severities {severities}: valid: some of 1, 2, 3, 4, 5, ascending")
    return chosen


def write_folder(
    source: Path,
    target: Path,
    chosen: dict[str, str],
    severities: list[int],
    make: Maker,
    origin: dict[str, Any],
    workers: int | None = 1,
) -> None:
    """Writes the folder that `write_corrupted` describes. origin: further entries of its meta.json."""
    shape = np.load(source / "test_images.npy", mmap_mode="r").shape
    dataset: dict[str, Any] = read_json(source / "meta.json")
    count = shape[0]
    rows = len(severities) * count
    hashes: dict[str, str] = {}
    with atomic_folder(target) as folder, Progress(f"corrupt {source.name}", total=len(chosen) * rows) as progress:
        paths = {reference: folder / f"{name}.npy" for name, reference in chosen.items()}
        with closing(write_arrays(paths, severities, count, shape[1:], make, progress, workers)) as done:
            for reference in done:
                hashes[paths[reference].stem] = sha256(paths[reference])
        if "masks" not in dataset:
            labels = np.load(source / "test_labels.npy")
            label_type = np.int64 if dataset["classes"] > 255 else np.uint8
            npy.save(folder / "labels.npy", np.tile(labels.astype(label_type), len(severities)))
        meta = {
            "names": list(chosen),
            "severities": list(severities),
            "source_fingerprint": dataset["fingerprint"],
            "sha256": hashes,
            **origin,
        }
        write_json(folder / "meta.json", meta)
        progress.close(f"{len(chosen)} corruptions, {len(severities)} severities, {count} images")


def write_arrays(
    paths: dict[str, Path],
    severities: list[int],
    count: int,
    shape: tuple[int, ...],
    make: Maker,
    progress: Progress,
    workers: int | None = None,
) -> Generator[str]:
    """Writes the array of each corruption, uint8 (S * count, *shape) for S severities; yields its name when it is done.

    paths: the file of each corruption, by the name or reference that `make` is given. workers: the number of processes;
    by default one for each core if there is much work. They are forked, and each writes its own parts of the files, so
    that nothing is copied between them. They end when the generator is closed, or when this process ends.
    """
    total = len(paths) * len(severities) * count
    images = max(1, min(IMAGES, VALUES // math.prod(shape)))
    blocks = [
        Block(name, severity, position * count, start, min(start + images, count))
        for name in paths
        for position, severity in enumerate(severities)
        for start in range(0, count, images)
    ]
    size = (len(severities) * count, *shape)
    starts = {name: npy.create(path, np.uint8, size) for name, path in paths.items()}

    def fill(block: Block) -> Block:
        index = np.arange(block.start, block.end)
        made = make(block.name, block.severity, index)
        path = paths[block.name]
        with writing(path, math.prod(size)), path.open("rb+") as file:
            file.seek(starts[block.name] + (block.offset + block.start) * math.prod(shape))
            file.write(np.ascontiguousarray(made).data)
        return block

    done, left = 0, dict.fromkeys(paths, len(severities) * count)
    with _pool(fill, workers, total * math.prod(shape)) as mapped:
        for block in mapped(blocks):
            done += block.end - block.start
            left[block.name] -= block.end - block.start
            progress.update(done, f"{block.name} {block.severity}")
            if not left[block.name]:
                yield block.name


class Block(NamedTuple):
    """Some images of one corruption at one severity: numbers start..end-1, from row `offset` + `start` on."""

    name: str
    severity: int
    offset: int
    start: int
    end: int


Mapped = Callable[[list[Block]], Iterable[Block]]


@contextmanager
def _pool(fill: Callable[[Block], Block], workers: int | None, values: int) -> Iterator[Mapped]:
    """Yields a function that calls `fill` for blocks, here or in forked processes, and yields each block that is done.

    Raises UserError if a process is killed.
    """
    if workers is None:
        workers = cores() if sys.platform == "linux" and values >= PARALLEL else 1
    if workers <= 1 or sys.platform != "linux":
        yield lambda blocks: map(fill, blocks)
        return
    global _fill
    _fill = fill  # the forked processes inherit it
    others = multiprocessing.active_children()
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("fork"), _begin, (os.getpid(),))

    def mapped(blocks: list[Block]) -> Iterator[Block]:
        with _no_signals():  # The first task starts the processes, which take signals from `_begin` on.
            tasks = [pool.submit(_call, block) for block in blocks]
        for finished in as_completed(tasks):
            yield finished.result()

    try:
        yield mapped
    except BaseException as error:
        for child in multiprocessing.active_children():
            if child not in others:
                child.terminate()
        if isinstance(error, BrokenProcessPool):
            raise UserError("a process was killed: too little memory? `workers` = 1 needs less") from None
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        _fill = None


_fill: Callable[[Block], Block] | None = None
ENDING = {signal.SIGINT, signal.SIGTERM}


@contextmanager
def _no_signals() -> Iterator[None]:
    """Keeps the signals that end a process waiting, so that none reaches a forked process in the parent's code."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(parent: int) -> None:
    """Initializes a worker: it ignores interrupts, upon which the parent ends it, and ends when the parent ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
    preemption.end_with(parent)


def _call(block: Block) -> Block:
    if _fill is None:
        raise RuntimeError("a worker was started without its task")
    return _fill(block)


def versions(engine: str) -> dict[str, str | None]:
    """Returns the versions of the packages on which the bytes depend."""
    called = ["opencv-python"] + (["imagecorruptions", "scikit-image", "scipy"] if engine == "imagecorruptions" else [])
    return {
        "numpy": np.__version__,
        "pillow": PIL.__version__,
        **{name: importlib.metadata.version(name) for name in called},
    }
