"""Published datasets: MNIST, Fashion-MNIST, CIFAR-10, CIFAR-100, SVHN, STL-10, from where torchvision says they are.

torchvision's own readers unpack all that an archive has, and unpickle the batches of CIFAR. Here only the members that
are needed are read, within limits, and a pickle can hold nothing but arrays (see `normbench.data.unpack`).
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from normbench.data import fetch
from normbench.data.arrays import save
from normbench.data.sources.base import Origin, Request, Source, source
from normbench.data.unpack import gunzip, idx, unpickle, untar
from normbench.system import files, layout


@dataclass(frozen=True)
class Torchvision(Source):
    """A dataset of `torchvision.datasets`: its archives are fetched from the addresses there, checked and read here.

    A subclass says what it is called there, which archives it has and how its arrays are read.

    mirror: a folder or an http(s) address that has the archives, in place of the official addresses. Where it is not
        set, the environment variable NORMBENCH_MIRROR is.
    """

    mirror: str | None = None

    class_in_torchvision: ClassVar[str]
    """The name of the class in `torchvision.datasets`."""

    folder: ClassVar[str] = ""
    """The folder below that of the source in which the archives are kept."""

    sizes: ClassVar[dict[str, int]]
    """The size of each archive in bytes. No more is downloaded."""

    unpacked: ClassVar[int]
    """The most bytes that an archive may have when it is decompressed."""

    def archives(self, dataset_class: Any) -> list[fetch.Archive]:
        """The archives of both splits. dataset_class: the class of torchvision, which knows their names and md5."""
        name = dataset_class.filename
        return [fetch.Archive(name, dataset_class.tgz_md5, (dataset_class.url,), self.sizes.get(name, fetch.LARGEST))]

    def read(self, dataset_class: Any, paths: dict[str, Path]) -> tuple[dict[str, np.ndarray], list[str]]:
        """The four arrays, in a form that `save` accepts, and the names of the classes.

        paths: the archives by their names. Raises ValueError, with a text that begins with the name of the archive or
        the member, if the content is not as expected.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define read")

    def write(self, request: Request, out: Path) -> Origin:
        """Fetches the archives into the download folder, and reads them."""
        from torchvision import datasets

        dataset_class = getattr(datasets, self.class_in_torchvision)
        archives = self.archives(dataset_class)
        paths = fetch.fetch(
            archives, layout.downloads() / self.name / self.folder, request.dataset, self.name, self.mirror
        )
        try:
            arrays, class_names = self.read(dataset_class, {path.name: path for path in paths})
        except ValueError as error:
            raise request.error(f"{paths[0].parent}: {error}") from None
        save(arrays, request, out)
        address = archives[0].addresses[0]
        if len(archives) == 1:
            return Origin(address, files.sha256(paths[0]), class_names)
        # For several archives, take the sha256 of the list of their checksums in the format of sha256sum.
        sums = "".join(f"{files.sha256(path)}  {path.name}\n" for path in paths)
        return Origin(address.rpartition("/")[0] + "/", hashlib.sha256(sums.encode()).hexdigest(), class_names)


def _of(name: str, function: Any, *arguments: Any) -> Any:
    """The result of a function, with a name before the text of its ValueError."""
    try:
        return function(*arguments)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


@source("mnist")
@dataclass(frozen=True)
class Mnist(Torchvision):
    """70,000 grey handwritten digits of 28 x 28 pixels in 10 classes, 10,000 of them for the test."""

    native_size = 28
    class_in_torchvision = "MNIST"
    folder = "MNIST/raw"
    unpacked = 47_040_016
    sizes: ClassVar[dict[str, int]] = {
        "train-images-idx3-ubyte.gz": 9_912_422,
        "train-labels-idx1-ubyte.gz": 28_881,
        "t10k-images-idx3-ubyte.gz": 1_648_877,
        "t10k-labels-idx1-ubyte.gz": 4_542,
    }

    def archives(self, dataset_class: Any) -> list[fetch.Archive]:
        """Four files, each at the same name on every official server."""
        return [
            fetch.Archive(
                name, md5, tuple(server + name for server in dataset_class.mirrors), self.sizes.get(name, fetch.LARGEST)
            )
            for name, md5 in dataset_class.resources
        ]

    def read(self, dataset_class: Any, paths: dict[str, Path]) -> tuple[dict[str, np.ndarray], list[str]]:
        """Each file is an array in the IDX format, compressed by gzip."""
        arrays: dict[str, np.ndarray] = {}
        for split, stem in (("train", "train"), ("test", "t10k")):
            for kind, ending in (("images", "images-idx3"), ("labels", "labels-idx1")):
                name = f"{stem}-{ending}-ubyte.gz"
                arrays[f"{split}_{kind}"] = _of(name, lambda path: idx(gunzip(path, self.unpacked)), paths[name])
        return arrays, list(dataset_class.classes)


@source("fashion_mnist")
@dataclass(frozen=True)
class FashionMnist(Mnist):
    """70,000 grey pictures of clothes of 28 x 28 pixels in 10 classes, 10,000 of them for the test."""

    class_in_torchvision = "FashionMNIST"
    folder = "FashionMNIST/raw"
    sizes: ClassVar[dict[str, int]] = {
        "train-images-idx3-ubyte.gz": 26_421_880,
        "train-labels-idx1-ubyte.gz": 29_515,
        "t10k-images-idx3-ubyte.gz": 4_422_102,
        "t10k-labels-idx1-ubyte.gz": 5_148,
    }


@source("cifar10")
@dataclass(frozen=True)
class Cifar10(Torchvision):
    """60,000 colour images of 32 x 32 pixels in 10 classes, 10,000 of them for the test."""

    native_size = 32
    class_in_torchvision = "CIFAR10"
    unpacked = 200_000_000
    sizes: ClassVar[dict[str, int]] = {"cifar-10-python.tar.gz": 170_498_071}
    labels: ClassVar[str] = "labels"

    def read(self, dataset_class: Any, paths: dict[str, Path]) -> tuple[dict[str, np.ndarray], list[str]]:
        """The batches are pickled dictionaries: `data`, uint8 (N, 3072), a plane for each colour, and the labels."""
        folder, meta = dataset_class.base_folder, dataset_class.meta
        batches = {"train": dataset_class.train_list, "test": dataset_class.test_list}
        names = {split: [f"{folder}/{name}" for name, _ in listed] for split, listed in batches.items()}
        names["meta"] = [f"{folder}/{meta['filename']}"]
        ((name, path),) = paths.items()
        members = _of(name, untar, path, {each for listed in names.values() for each in listed}, self.unpacked)
        arrays: dict[str, np.ndarray] = {}
        for split in batches:
            parts = [_of(each, self.batch, members[each]) for each in names[split]]
            arrays[f"{split}_images"] = np.concatenate([images for images, _ in parts])
            arrays[f"{split}_labels"] = np.concatenate([labels for _, labels in parts])
        return arrays, _of(names["meta"][0], self.class_names, members[names["meta"][0]], meta["key"])

    def batch(self, content: bytes) -> tuple[np.ndarray, np.ndarray]:
        """Images uint8 (N, 32, 32, 3) and labels int64 (N,) of a batch. Raises ValueError if it has another form."""
        held = unpickle(content)
        images, labels = (held.get(key) if isinstance(held, dict) else None for key in ("data", self.labels))
        if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.shape[1:] != (3072,):
            raise ValueError("has no `data` of uint8 (N, 3072)")
        if not isinstance(labels, list) or len(labels) != len(images) or {type(label) for label in labels} - {int}:
            raise ValueError(f"has no `{self.labels}` with a whole number for each image")
        return images.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), np.array(labels, np.int64)

    def class_names(self, content: bytes, key: str) -> list[str]:
        """The names of the classes. Raises ValueError if there are none."""
        held = unpickle(content)
        names = held.get(key) if isinstance(held, dict) else None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError(f"has no list `{key}` of names")
        return names


@source("cifar100")
@dataclass(frozen=True)
class Cifar100(Cifar10):
    """60,000 colour images of 32 x 32 pixels in 100 classes, 10,000 of them for the test."""

    class_in_torchvision = "CIFAR100"
    sizes: ClassVar[dict[str, int]] = {"cifar-100-python.tar.gz": 169_001_437}
    labels = "fine_labels"


@source("svhn")
@dataclass(frozen=True)
class Svhn(Torchvision):
    """Colour images of house numbers, 32 x 32 pixels around one of 10 digits: 73,257 to train on, 26,032 to test."""

    native_size = 32
    class_in_torchvision = "SVHN"
    unpacked = 73_257 * 3072
    sizes: ClassVar[dict[str, int]] = {"train_32x32.mat": 182_040_794, "test_32x32.mat": 64_275_384}

    def archives(self, dataset_class: Any) -> list[fetch.Archive]:
        """One file for each split; the extra training images are left out."""
        parts = [dataset_class.split_list[split] for split in ("train", "test")]
        return [
            fetch.Archive(name, md5, (address,), self.sizes.get(name, fetch.LARGEST)) for address, name, md5 in parts
        ]

    def read(self, dataset_class: Any, paths: dict[str, Path]) -> tuple[dict[str, np.ndarray], list[str]]:
        """Each file has `X`, (32, 32, 3, N), and `y`, (N, 1), where 10 is the digit 0."""
        arrays: dict[str, np.ndarray] = {}
        for split in ("train", "test"):
            name = dataset_class.split_list[split][1]
            held = _of(name, self.matlab, paths[name])
            arrays[f"{split}_images"] = held["X"].transpose(3, 0, 1, 2)
            arrays[f"{split}_labels"] = held["y"].astype(np.int64).reshape(-1) % 10
        return arrays, [str(digit) for digit in range(10)]

    def matlab(self, path: Path) -> dict[str, np.ndarray]:
        """The arrays `X` and `y` of a file of MATLAB. Raises ValueError if they are not there or too large."""
        from scipy.io import loadmat, whosmat

        try:
            sizes = {name: math.prod(shape) for name, shape, _ in whosmat(path)}
            if not {"X", "y"} <= set(sizes) or max(sizes["X"], sizes["y"]) > self.unpacked:
                raise ValueError(f"needs arrays X and y of at most {self.unpacked} values")
            held = loadmat(path, variable_names=["X", "y"])
        except Exception as error:  # Of damaged files scipy raises errors of any kind.
            raise ValueError(f"not a file of MATLAB with images: {str(error).partition(chr(10))[0]}") from None
        if held["X"].ndim != 4 or held["y"].dtype.kind not in "iu":
            raise ValueError("has no images X and labels y")
        return held


@source("stl10")
@dataclass(frozen=True)
class Stl10(Torchvision):
    """13,000 colour images of 96 x 96 pixels in 10 classes, 8,000 of them for the test, without the unlabelled."""

    native_size = 96
    class_in_torchvision = "STL10"
    unpacked = 3_200_000_000
    sizes: ClassVar[dict[str, int]] = {"stl10_binary.tar.gz": 2_640_397_119}

    def read(self, dataset_class: Any, paths: dict[str, Path]) -> tuple[dict[str, np.ndarray], list[str]]:
        """Images are planes, each column by column; labels count from 1; there is a class name in each line."""
        folder = dataset_class.base_folder
        ((name, path),) = paths.items()
        wanted = [f"{folder}/{split}_{kind}.bin" for split in ("train", "test") for kind in "Xy"]
        members = _of(name, untar, path, [*wanted, f"{folder}/{dataset_class.class_names_file}"], self.unpacked)
        arrays: dict[str, np.ndarray] = {}
        for split in ("train", "test"):
            images, labels = (members[f"{folder}/{split}_{kind}.bin"] for kind in "Xy")
            if len(images) % (3 * 96 * 96) or 0 in labels:
                raise ValueError(f"{folder}/{split}_X.bin or its labels: of another form")
            planes = np.frombuffer(images, np.uint8).reshape(-1, 3, 96, 96)
            arrays[f"{split}_images"] = planes.transpose(0, 3, 2, 1)
            arrays[f"{split}_labels"] = np.frombuffer(labels, np.uint8).astype(np.int64) - 1
        return arrays, members[f"{folder}/{dataset_class.class_names_file}"].decode("utf-8", "replace").splitlines()
