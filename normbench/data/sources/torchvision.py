"""Published datasets from where torchvision says they are: three of MNIST's form, CIFAR-10 and -100, SVHN, STL-10.

torchvision's own readers unpack all that an archive has, and unpickle the batches of CIFAR. Here only the members that
are needed are read, within limits, and a pickle can hold nothing but arrays (see `normbench.data.unpack`).
"""

from __future__ import annotations

import hashlib
import io
import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np

from normbench.data import extracted, fetch
from normbench.data.arrays import save
from normbench.data.extracted import Member
from normbench.data.sources.base import Origin, Request, Source, source
from normbench.data.unpack import gunzip, idx, unpickle, untar
from normbench.system import files, layout
from normbench.system.errors import UserError
from normbench.system.text import complain, say

Parsed = TypeVar("Parsed")


class Content(NamedTuple):
    """What a file holds that is read: its bytes, and its place, for errors."""

    data: bytes
    place: str

    def parsed(self, function: Callable[[bytes], Parsed]) -> Parsed:
        """The result of a function of the bytes, with the place before the text of its ValueError."""
        return _at(self.place, function, self.data)


def _at(place: str, function: Callable[..., Parsed], *arguments: Any) -> Parsed:
    """The result of a function, with a place before the text of its ValueError."""
    try:
        return function(*arguments)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from None


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

    largest: ClassVar[int]
    """The most bytes that an archive may have when it is decompressed."""

    def archives(self, dataset_class: Any) -> list[fetch.Archive]:
        """The archives of both splits. dataset_class: the class of torchvision, which knows their names and md5."""
        name = dataset_class.filename
        return [fetch.Archive(name, dataset_class.tgz_md5, (dataset_class.url,), self.sizes.get(name, fetch.LARGEST))]

    def members(self, dataset_class: Any, archive: fetch.Archive) -> list[Member]:
        """The files in an archive that are read; none if it is a single file that is read as it is."""
        return []

    def inner(self, dataset_class: Any) -> str:
        """The folder with the members: in an archive, or below that of the source where users have unpacked it."""
        return self.folder

    def unpack(self, dataset_class: Any, archive: fetch.Archive, path: Path) -> dict[str, Content]:
        """The contents of the members of an archive by their official names. path: that of the archive.

        Raises ValueError if they are not there or too large.
        """
        inner = self.inner(dataset_class)
        names = {f"{inner}/{member.names[0]}": member.names[0] for member in self.members(dataset_class, archive)}
        found = untar(path, names, self.largest)
        return {names[name]: Content(data, f"{path}: {name}") for name, data in found.items()}

    def read(self, dataset_class: Any, contents: dict[str, Content]) -> tuple[dict[str, np.ndarray], list[str]]:
        """The four arrays, in a form that `save` accepts, and the names of the classes.

        contents: those of the members by their official names. Raises ValueError, with a text that begins with the
        place of the member, if the content is not as expected.
        """
        # Every dataset of this family defines it, for its own format.
        raise NotImplementedError(f"{type(self).__name__} does not define read")

    def reads(self) -> Iterable[str]:
        """Nothing that could change: whatever the place of the files, their content is checked."""
        return ()

    def write(self, request: Request, out: Path) -> Origin:
        """Fetches the archives into the download folder, and reads them.

        An archive that is not there yet is not fetched where its members are found unpacked, with the right md5, in the
        download folder or in a mirror that is a folder.
        """
        from torchvision import datasets

        dataset_class = getattr(datasets, self.class_in_torchvision)
        archives = self.archives(dataset_class)
        unpacked = self._found_unpacked(dataset_class, archives, request)
        packed = [archive for archive in archives if archive.name not in unpacked]
        paths = self._fetched(packed, dataset_class, request)
        plain = {name: path for found in unpacked.values() for name, path in found.items()}
        try:
            contents = {name: Content(path.read_bytes(), str(path)) for name, path in plain.items()}
            for archive, path in zip(packed, paths, strict=True):
                contents |= _at(str(path), self.unpack, dataset_class, archive, path)
            arrays, class_names = self.read(dataset_class, contents)
        except ValueError as error:
            raise request.error(str(error)) from None
        del contents
        save(arrays, request, out)
        address = archives[0].addresses[0]
        address = address if len(archives) == 1 else address.rpartition("/")[0] + "/"
        if len(archives) == len(paths) == 1:
            return Origin(address, files.sha256(paths[0]), class_names)
        # For several files, take the sha256 of the list of their checksums in the format of sha256sum.
        used = {path.name: path for path in paths} | plain
        sums = "".join(f"{files.sha256(path)}  {name}\n" for name, path in used.items())
        text = f"{address}, unpacked" if unpacked else address
        return Origin(text, hashlib.sha256(sums.encode()).hexdigest(), class_names)

    def _downloads(self) -> Path:
        return layout.downloads() / self.name / self.folder

    def _found_unpacked(
        self, dataset_class: Any, archives: list[fetch.Archive], request: Request
    ) -> dict[str, dict[str, Path]]:
        """By the name of each archive that is not there, its files that are: by their official names."""
        mirror = self.mirror or os.environ.get("NORMBENCH_MIRROR") or ""
        bases = [self._downloads(), layout.downloads() / self.name, layout.downloads()]
        if mirror and not fetch.is_address(mirror):
            bases += [Path(mirror).expanduser(), Path(mirror).expanduser() / self.name]
        inner = Path(self.inner(dataset_class))
        folders = [base / part for base in bases for part in dict.fromkeys((inner, Path(inner.name), Path()))]
        result = {}
        for archive in archives:
            if fetch.holds(self._downloads() / archive.name, archive.checksum):
                continue
            members = self.members(dataset_class, archive)
            found, lines = extracted.find(members, folders)
            if found is not None:
                result[archive.name] = {member.names[0]: path for member, path in zip(members, found, strict=True)}
                say(f"{request.dataset}: {archive.name} is not needed: {found[0].parent} has its files")
            for line in lines if found is None else ():
                complain(f"{request.dataset}: {line}; not used")
        return result

    def _fetched(self, archives: list[fetch.Archive], dataset_class: Any, request: Request) -> list[Path]:
        """The paths of archives, which are fetched unless they are there. Raises UserError if one cannot be had."""
        if not archives:
            return []
        try:
            return fetch.fetch(archives, self._downloads(), request.dataset, self.name, self.mirror)
        except UserError as error:
            members = self.members(dataset_class, archives[0])
            if not members:
                raise
            place = layout.downloads() / self.name / self.inner(dataset_class)
            unpacked = f"  - if you have the files unpacked, put them into {place}{os.sep} ({members[0].names[0]}, ...)"
            raise UserError(*error.args, unpacked) from None


@source("mnist")
@dataclass(frozen=True)
class Mnist(Torchvision):
    """70,000 grey handwritten digits of 28 x 28 pixels in 10 classes, 10,000 of them for the test."""

    native_size = 28
    train_images = 60_000
    class_in_torchvision = "MNIST"
    folder = "MNIST/raw"
    largest = 47_040_016
    sizes: ClassVar[dict[str, int]] = {
        "train-images-idx3-ubyte.gz": 9_912_422,
        "train-labels-idx1-ubyte.gz": 28_881,
        "t10k-images-idx3-ubyte.gz": 1_648_877,
        "t10k-labels-idx1-ubyte.gz": 4_542,
    }
    raw: ClassVar[dict[str, str]] = {
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    }
    """The md5 of each unpacked file; torchvision has those of the packed ones."""

    def archives(self, dataset_class: Any) -> list[fetch.Archive]:
        """Four files, each at the same name on every official server."""
        return [
            fetch.Archive(
                name, md5, tuple(server + name for server in dataset_class.mirrors), self.sizes.get(name, fetch.LARGEST)
            )
            for name, md5 in dataset_class.resources
        ]

    def members(self, dataset_class: Any, archive: fetch.Archive) -> list[Member]:
        """The one file, also under the name, or in the folder of its name, that it has on Kaggle."""
        name = archive.name.removesuffix(".gz")
        dotted = name.replace("-idx", ".idx")
        known = self.raw.get(name)
        return [Member(known, (name, dotted, f"{name}/{name}", f"{dotted}/{dotted}"))] if known else []

    def unpack(self, dataset_class: Any, archive: fetch.Archive, path: Path) -> dict[str, Content]:
        """Each archive is one file that is compressed by gzip."""
        return {archive.name.removesuffix(".gz"): Content(gunzip(path, self.largest), str(path))}

    def read(self, dataset_class: Any, contents: dict[str, Content]) -> tuple[dict[str, np.ndarray], list[str]]:
        """Each file is an array in the IDX format."""
        arrays: dict[str, np.ndarray] = {}
        for split, stem in (("train", "train"), ("test", "t10k")):
            for kind, ending in (("images", "images-idx3"), ("labels", "labels-idx1")):
                arrays[f"{split}_{kind}"] = contents[f"{stem}-{ending}-ubyte"].parsed(idx)
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
    raw: ClassVar[dict[str, str]] = {
        "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
        "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
        "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
    }


@source("kmnist")
@dataclass(frozen=True)
class Kmnist(Mnist):
    """70,000 grey cursive Japanese characters (kuzushiji) of 28 x 28 pixels in 10 classes, 10,000 of them for the test.

    Files that are unpacked are not looked for, as no checksums of them are published.
    """

    class_in_torchvision = "KMNIST"
    folder = "KMNIST/raw"
    sizes: ClassVar[dict[str, int]] = {}
    raw: ClassVar[dict[str, str]] = {}


@source("cifar10")
@dataclass(frozen=True)
class Cifar10(Torchvision):
    """60,000 colour images of 32 x 32 pixels in 10 classes, 10,000 of them for the test."""

    native_size = 32
    train_images = 50_000
    class_in_torchvision = "CIFAR10"
    largest = 200_000_000
    sizes: ClassVar[dict[str, int]] = {"cifar-10-python.tar.gz": 170_498_071}
    labels: ClassVar[str] = "labels"

    def members(self, dataset_class: Any, archive: fetch.Archive) -> list[Member]:
        """The batches of both splits and the names of the classes."""
        meta = [dataset_class.meta["filename"], dataset_class.meta["md5"]]
        listed = [*dataset_class.train_list, *dataset_class.test_list, meta]
        return [Member(md5, (name,)) for name, md5 in listed]

    def inner(self, dataset_class: Any) -> str:
        """`cifar-10-batches-py` or `cifar-100-python`."""
        return dataset_class.base_folder

    def read(self, dataset_class: Any, contents: dict[str, Content]) -> tuple[dict[str, np.ndarray], list[str]]:
        """The batches are pickled dictionaries: `data`, uint8 (N, 3072), a plane for each colour, and the labels."""
        arrays: dict[str, np.ndarray] = {}
        for split, listed in (("train", dataset_class.train_list), ("test", dataset_class.test_list)):
            parts = [contents[name].parsed(self.batch) for name, _ in listed]
            arrays[f"{split}_images"] = np.concatenate([images for images, _ in parts])
            arrays[f"{split}_labels"] = np.concatenate([labels for _, labels in parts])
        meta = dataset_class.meta
        return arrays, contents[meta["filename"]].parsed(lambda content: self.class_names(content, meta["key"]))

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
    train_images = 73_257
    class_in_torchvision = "SVHN"
    largest = 73_257 * 3072
    sizes: ClassVar[dict[str, int]] = {"train_32x32.mat": 182_040_794, "test_32x32.mat": 64_275_384}

    def archives(self, dataset_class: Any) -> list[fetch.Archive]:
        """One file for each split; the extra training images are left out."""
        parts = [dataset_class.split_list[split] for split in ("train", "test")]
        return [
            fetch.Archive(name, md5, (address,), self.sizes.get(name, fetch.LARGEST)) for address, name, md5 in parts
        ]

    def unpack(self, dataset_class: Any, archive: fetch.Archive, path: Path) -> dict[str, Content]:
        """Each archive is a file of MATLAB, which is read as it is."""
        return {archive.name: Content(path.read_bytes(), str(path))}

    def read(self, dataset_class: Any, contents: dict[str, Content]) -> tuple[dict[str, np.ndarray], list[str]]:
        """Each file has `X`, (32, 32, 3, N), and `y`, (N, 1), where 10 is the digit 0."""
        arrays: dict[str, np.ndarray] = {}
        for split in ("train", "test"):
            held = contents[dataset_class.split_list[split][1]].parsed(self.matlab)
            arrays[f"{split}_images"] = held["X"].transpose(3, 0, 1, 2)
            arrays[f"{split}_labels"] = held["y"].astype(np.int64).reshape(-1) % 10
        return arrays, [str(digit) for digit in range(10)]

    def matlab(self, content: bytes) -> dict[str, np.ndarray]:
        """The arrays `X` and `y` of a file of MATLAB. Raises ValueError if they are not there or too large."""
        from scipy.io import loadmat, whosmat

        try:
            sizes = {name: math.prod(shape) for name, shape, _ in whosmat(io.BytesIO(content))}
            if not {"X", "y"} <= set(sizes) or max(sizes["X"], sizes["y"]) > self.largest:
                raise ValueError(f"needs arrays X and y of at most {self.largest} values")
            held = loadmat(io.BytesIO(content), variable_names=["X", "y"])
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
    train_images = 5_000
    class_in_torchvision = "STL10"
    largest = 3_200_000_000
    sizes: ClassVar[dict[str, int]] = {"stl10_binary.tar.gz": 2_640_397_119}
    class_names: ClassVar[tuple[str, ...]] = (
        "airplane",
        "bird",
        "car",
        "cat",
        "deer",
        "dog",
        "horse",
        "monkey",
        "ship",
        "truck",
    )

    def members(self, dataset_class: Any, archive: fetch.Archive) -> list[Member]:
        """The images and labels of both splits."""
        return [Member(md5, (name,)) for name, md5 in (*dataset_class.train_list[:2], *dataset_class.test_list)]

    def inner(self, dataset_class: Any) -> str:
        """`stl10_binary`."""
        return dataset_class.base_folder

    def read(self, dataset_class: Any, contents: dict[str, Content]) -> tuple[dict[str, np.ndarray], list[str]]:
        """Images are planes, each column by column; labels count from 1."""
        arrays: dict[str, np.ndarray] = {}
        for split in ("train", "test"):
            images, labels = (contents[f"{split}_{kind}.bin"] for kind in "Xy")
            arrays[f"{split}_images"] = images.parsed(self.planes)
            arrays[f"{split}_labels"] = labels.parsed(self.labels)
        return arrays, list(self.class_names)

    def planes(self, content: bytes) -> np.ndarray:
        """Images uint8 (N, 96, 96, 3). Raises ValueError for a part of an image."""
        if len(content) % (3 * 96 * 96):
            raise ValueError("does not have 3 x 96 x 96 bytes for each image")
        return np.frombuffer(content, np.uint8).reshape(-1, 3, 96, 96).transpose(0, 3, 2, 1)

    def labels(self, content: bytes) -> np.ndarray:
        """Labels int64 (N,). Raises ValueError for a 0."""
        if 0 in content:
            raise ValueError("labels count from 1, and there is a 0")
        return np.frombuffer(content, np.uint8).astype(np.int64) - 1
