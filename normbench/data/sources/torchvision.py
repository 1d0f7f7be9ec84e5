"""Published datasets that torchvision can unpack and read: MNIST, Fashion-MNIST, CIFAR-10, CIFAR-100, SVHN, STL-10."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import numpy as np

from normbench.data import fetch
from normbench.data.arrays import save
from normbench.data.sources.base import Origin, Request, Source, source
from normbench.system import files, layout


@dataclass(frozen=True)
class Torchvision(Source):
    """A dataset of `torchvision.datasets`: its archives are fetched and checked here, and read by torchvision.

    A subclass says what it is called there, which archives it has and how its arrays are read.

    mirror: a folder or an http(s) address that has the archives, in place of the official addresses. Where it is not
        set, the environment variable NORMBENCH_MIRROR is.
    """

    mirror: str | None = None

    class_in_torchvision: ClassVar[str]
    """The name of the class in `torchvision.datasets`."""

    folder: ClassVar[str] = ""
    """The folder below its root in which that class looks for the archives."""

    def archives(self, dataset_class: Any) -> list[fetch.Archive]:
        """The archives of both splits. dataset_class: the class of torchvision, which knows their names and md5."""
        return [fetch.Archive(dataset_class.filename, dataset_class.tgz_md5, (dataset_class.url,))]

    def read(self, dataset_class: Any, root: str, split: str) -> tuple[np.ndarray, Any, list[str]]:
        """Images uint8 (N, H, W) or (N, H, W, C), N integer labels, and the names of the classes, of one split.

        root: a folder with the archives. split: `train` or `test`.
        """
        data = dataset_class(root, train=split == "train", download=True)
        return np.asarray(data.data), data.targets, list(data.classes)

    def reads(self) -> Iterable[str]:
        """Nothing that could change: whatever the place of the files, their content is checked."""
        return ()

    def write(self, request: Request, out: Path) -> Origin:
        """Fetches the archives into the download folder, and has torchvision unpack and read them.

        They are unpacked into a temporary folder. So no incomplete file of an earlier, interrupted call is read, and
        nothing is unpickled that is not from an archive with the right md5.
        """
        from torchvision import datasets

        dataset_class = getattr(datasets, self.class_in_torchvision)
        archives = self.archives(dataset_class)
        paths = fetch.fetch(
            archives, layout.downloads() / self.name / self.folder, request.dataset, self.name, self.mirror
        )
        arrays: dict[str, np.ndarray] = {}
        with TemporaryDirectory(prefix=".unpacked.", dir=out) as root:
            (Path(root) / self.folder).mkdir(parents=True, exist_ok=True)
            for path in paths:
                (Path(root) / self.folder / path.name).symlink_to(path.resolve())
            for split in ("train", "test"):
                images, labels, class_names = self.read(dataset_class, root, split)
                arrays[f"{split}_images"], arrays[f"{split}_labels"] = images, np.asarray(labels, dtype=np.int64)
            save(arrays, request, out)
        address = archives[0].addresses[0]
        if len(archives) == 1:
            return Origin(address, files.sha256(paths[0]), class_names)
        # For several archives, take the sha256 of the list of their checksums in the format of sha256sum.
        sums = "".join(f"{files.sha256(path)}  {path.name}\n" for path in paths)
        return Origin(address.rpartition("/")[0] + "/", hashlib.sha256(sums.encode()).hexdigest(), class_names)


@source("mnist")
@dataclass(frozen=True)
class Mnist(Torchvision):
    """70,000 grey handwritten digits of 28 x 28 pixels in 10 classes, 10,000 of them for the test."""

    native_size = 28
    class_in_torchvision = "MNIST"
    folder = "MNIST/raw"

    def archives(self, dataset_class: Any) -> list[fetch.Archive]:
        """Four files, each at the same name on every official server."""
        return [
            fetch.Archive(name, md5, tuple(server + name for server in dataset_class.mirrors))
            for name, md5 in dataset_class.resources
        ]


@source("fashion_mnist")
@dataclass(frozen=True)
class FashionMnist(Mnist):
    """70,000 grey pictures of clothes of 28 x 28 pixels in 10 classes, 10,000 of them for the test."""

    class_in_torchvision = "FashionMNIST"
    folder = "FashionMNIST/raw"


@source("cifar10")
@dataclass(frozen=True)
class Cifar10(Torchvision):
    """60,000 colour images of 32 x 32 pixels in 10 classes, 10,000 of them for the test."""

    native_size = 32
    class_in_torchvision = "CIFAR10"


@source("cifar100")
@dataclass(frozen=True)
class Cifar100(Torchvision):
    """60,000 colour images of 32 x 32 pixels in 100 classes, 10,000 of them for the test."""

    native_size = 32
    class_in_torchvision = "CIFAR100"


@source("svhn")
@dataclass(frozen=True)
class Svhn(Torchvision):
    """Colour images of house numbers, 32 x 32 pixels around one of 10 digits: 73,257 to train on, 26,032 to test."""

    native_size = 32
    class_in_torchvision = "SVHN"

    def archives(self, dataset_class: Any) -> list[fetch.Archive]:
        """One file for each split; the extra training images are left out."""
        parts = [dataset_class.split_list[split] for split in ("train", "test")]
        return [fetch.Archive(name, md5, (address,)) for address, name, md5 in parts]

    def read(self, dataset_class: Any, root: str, split: str) -> tuple[np.ndarray, Any, list[str]]:
        """torchvision holds these images as (N, C, H, W), and has no names for the classes, which are the digits."""
        data = dataset_class(root, split=split, download=True)
        return data.data.transpose(0, 2, 3, 1), data.labels, [str(digit) for digit in range(10)]


@source("stl10")
@dataclass(frozen=True)
class Stl10(Torchvision):
    """13,000 colour images of 96 x 96 pixels in 10 classes, 8,000 of them for the test, without the unlabelled."""

    native_size = 96
    class_in_torchvision = "STL10"

    def read(self, dataset_class: Any, root: str, split: str) -> tuple[np.ndarray, Any, list[str]]:
        """torchvision holds these images as (N, C, H, W)."""
        data = dataset_class(root, split=split, download=True)
        return data.data.transpose(0, 2, 3, 1), data.labels, list(data.classes)
