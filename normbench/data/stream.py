"""A dataset whose training images stay in the files of the user: its index, and the reading of one image.

In the place of `train_images.npy` a prepared dataset then has an index of the files, in the order of the labels:

- `train_files.npy`, the paths below the folder of the images, as UTF-8 bytes (N,),
- `train_sha256.npy`, the sha256 of the content of each, uint8 (N, 32),
- `train_sizes.npy`, height and width of each image in pixels, int32 (N, 2), upright and after `shorter_side`.

A file is read only if it still has its content.
"""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from normbench.data import intact, pictures
from normbench.data.arrays import TRAIN_FILES
from normbench.data.decoded import Decoded
from normbench.system.errors import UserError
from normbench.system.schema import ImageSize, Positive, PositiveReal, Strict
from normbench.system.size import sides
from normbench.system.text import clean
from normbench.system.threads import cores


class Stream(Strict):
    """How images are read: the entry `stream` in the meta.json of a prepared dataset.

    folder: that of the images. background: the colour under transparent pixels. image_size: of test images and of what
    training sees. resize: see `pictures.covering`. shorter_side: pixels to which the shorter side of larger images is
    reduced before anything else, or None. cache: the most GB of decoded images that are kept, or None.
    """

    folder: str
    background: str
    image_size: ImageSize
    resize: Positive | None
    shorter_side: Positive | None
    cache: PositiveReal | None

    def content(self) -> dict[str, Any]:
        """What of this shapes the pixels."""
        return self.model_dump(mode="json", exclude={"folder", "cache"})

    def reduced(self, picture: np.ndarray) -> np.ndarray:
        """A picture, uint8 (H, W, 3), whose shorter side has at most `shorter_side` pixels."""
        if self.shorter_side is None or min(picture.shape[:2]) <= self.shorter_side:
            return picture
        return np.asarray(pictures.shortened(Image.fromarray(picture), self.shorter_side))


class Files:
    """The training images of a prepared dataset by their numbers.

    stream: how they are read. names, sha256, sizes: the arrays of the index.
    """

    def __init__(self, stream: Stream, names: np.ndarray, sha256: np.ndarray, sizes: np.ndarray):
        self.stream, self.root = stream, Path(stream.folder).expanduser()
        self.names, self.sha256, self.sizes = names, sha256, sizes
        self.decoded = Decoded(key(stream, sha256), sizes)

    @classmethod
    def of(cls, folder: Path) -> Files:
        """Those of a prepared dataset, by its folder, whose arrays are mapped into memory."""
        stream = Stream.model_validate(intact.meta(folder)["stream"])
        names = (TRAIN_FILES, "train_sha256", "train_sizes")
        return cls(stream, *(np.load(folder / f"{name}.npy", mmap_mode="r") for name in names))

    def picture(self, number: int) -> np.ndarray:
        """An image in its own size, uint8 (H, W, 3).

        Raises UserError, with the name of the file, if it cannot be read or has changed.
        """
        kept = self.decoded.picture(number)
        return self.read(number) if kept is None else kept

    def read(self, number: int) -> np.ndarray:
        """An image as `picture` gives it, from its file."""
        path = self.root / os.fsdecode(self.names[number])
        try:
            content = path.read_bytes()
        except OSError as error:
            raise UserError(f"{clean(path)}: {error.strerror or error}") from None
        if hashlib.sha256(content).digest() != self.sha256[number].tobytes():
            raise UserError(f"{clean(path)}: has changed since it was prepared; `dvc repro` prepares it again")
        return self.stream.reduced(pictures.decoded(path, content, self.stream.background))

    def covering(self, number: int) -> np.ndarray:
        """An image as test images are prepared, uint8 of the size `image_size`."""
        return pictures.covering(self.picture(number), self.stream.image_size, self.stream.resize)


class Coverings:
    """Training images as test images are prepared, uint8 (N, H, W, 3), read when some of them are asked for.

    It is indexed as an array is, by a slice or by numbers. files: the images. index: which of them, or None for all.
    """

    def __init__(self, files: Files, index: np.ndarray | None = None):
        self.files = files
        self.index = np.arange(len(files.sizes)) if index is None else index
        self.shape: tuple[int, ...] = len(self.index), *sides(files.stream.image_size), 3

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: slice | np.ndarray) -> np.ndarray:
        numbers = self.index[index].tolist()
        found = np.empty((len(numbers), *self.shape[1:]), np.uint8)
        with ThreadPoolExecutor(cores()) as pool:
            for place, picture in zip(found, pool.map(self.files.covering, numbers), strict=True):
                place[:] = picture
        return found


def key(stream: Stream, sha256: np.ndarray) -> str:
    """The name of the decoded images of these files: 16 hexadecimal digits."""
    digest = hashlib.sha256(f"{stream.background} {stream.shorter_side}\n".encode())
    digest.update(np.ascontiguousarray(sha256).data)
    return digest.hexdigest()[:16]
