"""Image files in folders that are too many for the memory: they are read while networks are trained."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from normbench.data import pictures
from normbench.data.arrays import BATCH, TRAIN_FILES
from normbench.data.decoded import GB, fill
from normbench.data.pictures import Picture
from normbench.data.sources.base import Origin, Request, Source, Streaming, source
from normbench.data.sources.imagefolder import Listing, Reading, write_images
from normbench.data.stream import Coverings, Files, Stream
from normbench.data.tree import composed
from normbench.system import npy
from normbench.system.errors import UserError
from normbench.system.progress import Progress
from normbench.system.schema import Positive, PositiveReal
from normbench.system.size import sides
from normbench.system.text import clean, say


@source("streamed")
@dataclass(frozen=True)
class Streamed(Source):
    """A folder of image files as the source `imagefolder` has it, such as ImageNet, whose training images stay there.

    The dataset has an index of the training images, and the test images in the size `image_size`. Training reads the
    files in worker processes. Every file is read once before, so that a damaged one is found at once.

    path: the folder.
    background: the colour under transparent pixels.
    resize: pixels to which the shorter side of test images is resized before the centre of `image_size` is cut out;
        null to resize them until they just cover it. ImageNet has 256, with an `image_size` of 224.
    shorter_side: pixels to which the shorter side of larger images is reduced before anything else, which saves time
        and the room of decoded images; null to keep them. It changes results.
    cache: the most GB on the disk that decoded training images may take, so that they need not be decoded each time;
        null for none. It changes no result.
    """

    path: str
    background: Literal["white", "black"] = "white"
    resize: Positive | None = None
    shorter_side: Positive | None = None
    cache: PositiveReal | None = None

    needs_image_size = True
    streamed = True

    def reads(self) -> Iterable[str]:
        """The folder."""
        return [self.path]

    def write(self, request: Request, out: Path) -> Origin:
        """Reads every image of both splits, and keeps decoded ones. Raises UserError for the first that is not one."""
        size = request.image_size
        if size is None:
            raise request.error("a streamed dataset needs `image_size` (pixels) in params.yaml")
        if self.resize is not None and self.resize < max(sides(size)):
            raise request.error(f"resize = {self.resize}: must be at least the {max(sides(size))} pixels of image_size")
        stream = Stream(
            folder=self.path,
            background=self.background,
            image_size=size,
            resize=self.resize,
            shorter_side=self.shorter_side,
            cache=self.cache,
        )
        root = Path(self.path).expanduser()
        reading = Reading(root, request)
        held_out, classes = reading.splits()
        train, test = reading.training(classes), reading.held_out(held_out, classes)
        index = write_index(stream, reading, train, out)
        npy.save(out / "test_labels.npy", np.array([label for _, label in test], np.int64))
        read = partial(prepared, stream)
        places = [path for path, _ in test]
        for path, remark in write_images(out / "test_images.npy", places, size, read, f"{request.dataset} test"):
            reading.remark(remark, path)
        if stream.cache is not None:
            keep_decoded(index, stream.cache, request.dataset)
        names = [*classes]
        test_files = [f"{names[label]}/{composed(file.name)}" for file, label in test]
        streaming = Streaming(stream.model_dump(mode="json"), stream.content(), Coverings(index))
        origin = f"{self.path} (train, {held_out})"
        return Origin(origin, None, names, reading.notes(), test_files, self.background, streaming)


def prepared(stream: Stream, path: Path) -> Picture:
    """A test image, in the size `image_size`."""
    found = pictures.whole(path, content_of(path), stream.background)
    picture = pictures.covering(stream.reduced(found.pixels), stream.image_size, stream.resize)
    return Picture(picture, found.remarks)


class Known(NamedTuple):
    """What the index has of a file. size: height and width in pixels. remarks: on the image."""

    sha256: bytes
    size: tuple[int, int]
    remarks: tuple[str, ...]


def known(stream: Stream, path: Path) -> Known:
    """Reads a training image, all of it, so that damage is found."""
    content = content_of(path)
    found = pictures.whole(path, content, stream.background)
    height, width = stream.reduced(found.pixels).shape[:2]
    return Known(hashlib.sha256(content).digest(), (height, width), found.remarks)


def content_of(path: Path) -> bytes:
    """The content of an image file. Raises UserError if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{clean(path)}: {error.strerror or error}") from None


def write_index(stream: Stream, reading: Reading, train: Listing, out: Path) -> Files:
    """Writes the labels and the index of the training images, of which every one is read."""
    npy.save(out / "train_labels.npy", np.array([label for _, label in train], np.int64))
    names = np.array([os.fsencode(path.relative_to(reading.root)) for path, _ in train])
    sha256, sizes = np.empty((len(train), 32), np.uint8), np.empty((len(train), 2), np.int32)
    places = [path for path, _ in train]
    with (
        Progress(f"read {reading.request.dataset} train", total=len(train)) as progress,
        warnings.catch_warnings(),
        ThreadPoolExecutor() as pool,
    ):
        warnings.simplefilter("ignore")  # Pillow's, on metadata and sizes that are dealt with in `pictures`
        for start in range(0, len(places), BATCH):
            batch = places[start : start + BATCH]
            for number, found in enumerate(pool.map(partial(known, stream), batch), start=start):
                sha256[number], sizes[number] = np.frombuffer(found.sha256, np.uint8), found.size
                for remark in found.remarks:
                    reading.remark(remark, places[number])
                progress.update(number + 1, f"{number + 1} of {len(places)}")
    for name, array in ((TRAIN_FILES, names), ("train_sha256", sha256), ("train_sizes", sizes)):
        npy.save(out / f"{name}.npy", array)
    return Files(stream, names, sha256, sizes)


def keep_decoded(index: Files, limit: float, dataset: str) -> None:
    """Keeps decoded training images, as many as have at most `limit` GB, and says so if these are not all."""
    kept, needed = fill(index.decoded, limit, index.read, dataset), int(index.decoded.ends[-1]) / GB
    if kept < len(index.sizes):
        say(f"{dataset}: {kept} of {len(index.sizes)} training images are kept decoded; all would take {needed:.3g} GB")
