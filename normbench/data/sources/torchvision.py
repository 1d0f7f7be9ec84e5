"""Published datasets that torchvision can unpack and read: MNIST, Fashion-MNIST, CIFAR-10, CIFAR-100, SVHN, STL-10."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import numpy as np

from normbench.data import extracted, fetch
from normbench.data.arrays import save
from normbench.data.extracted import Member
from normbench.data.sources.base import Origin, Request, Source, source
from normbench.system import files, layout
from normbench.system.errors import UserError


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

    def members(self, dataset_class: Any, archive: fetch.Archive) -> list[Member]:
        """The files in an archive that are read, for those who have unpacked it; none if it has to be the archive."""
        return []

    def unpacked(self, dataset_class: Any) -> str:
        """The folder, below the root of torchvision, in which it keeps what it has unpacked."""
        return self.folder

    def read(self, dataset_class: Any, root: str, split: str) -> tuple[np.ndarray, Any, list[str]]:
        """Images uint8 (N, H, W) or (N, H, W, C), N integer labels, and the names of the classes, of one split.

        root: a folder with the archives or with what they hold. split: `train` or `test`.
        """
        data = dataset_class(root, train=split == "train", download=True)
        return np.asarray(data.data), data.targets, list(data.classes)

    def reads(self) -> Iterable[str]:
        """Nothing that could change: whatever the place of the files, their content is checked."""
        return ()

    def write(self, request: Request, out: Path) -> Origin:
        """Fetches the archives into the download folder, and has torchvision unpack and read them.

        An archive that is not there yet is not fetched where its files are found unpacked, with the right md5, in the
        download folder or in a mirror that is a folder. The archives are unpacked into a temporary folder. So no
        incomplete file of an earlier, interrupted call is read, and nothing is unpickled whose md5 is not right.
        """
        from torchvision import datasets

        dataset_class = getattr(datasets, self.class_in_torchvision)
        archives = self.archives(dataset_class)
        members = self._found_unpacked(dataset_class, archives, request)
        paths = self._fetched([archive for archive in archives if archive.name not in members], dataset_class, request)
        arrays: dict[str, np.ndarray] = {}
        with TemporaryDirectory(prefix=".unpacked.", dir=out) as root:
            for path in paths:
                self.lay(path, Path(root) / self.folder)
            for name, path in (item for found in members.values() for item in found.items()):
                place = Path(root) / self.unpacked(dataset_class) / name
                place.parent.mkdir(parents=True, exist_ok=True)
                place.symlink_to(path.resolve())
            for split in ("train", "test"):
                images, labels, class_names = self.read(dataset_class, root, split)
                arrays[f"{split}_images"], arrays[f"{split}_labels"] = images, np.asarray(labels, dtype=np.int64)
            save(arrays, request, out)
        address = archives[0].addresses[0]
        address = address if len(archives) == 1 else address.rpartition("/")[0] + "/"
        if len(archives) == len(paths) == 1:
            return Origin(address, files.sha256(paths[0]), class_names)
        # For several files, take the sha256 of the list of their checksums in the format of sha256sum.
        used = {path.name: path for path in paths} | {
            name: p for found in members.values() for name, p in found.items()
        }
        sums = "".join(f"{files.sha256(path)}  {name}\n" for name, path in used.items())
        text = f"{address}, unpacked" if members else address
        return Origin(text, hashlib.sha256(sums.encode()).hexdigest(), class_names)

    def lay(self, archive: Path, folder: Path) -> None:
        """Puts an archive into a folder where torchvision unpacks it."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / archive.name).symlink_to(archive.resolve())

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
        inner = Path(self.unpacked(dataset_class))
        folders = [base / part for base in bases for part in dict.fromkeys((inner, Path(inner.name), Path()))]
        result = {}
        for archive in archives:
            if fetch.holds(self._downloads() / archive.name, archive.md5):
                continue
            members = self.members(dataset_class, archive)
            found, lines = extracted.find(members, folders)
            if found is not None:
                result[archive.name] = {member.names[0]: path for member, path in zip(members, found, strict=True)}
                print(f"{request.dataset}: {archive.name} is not needed: {found[0].parent} has its files", flush=True)
            for line in lines if found is None else ():
                print(f"{request.dataset}: {line}; not used", file=sys.stderr, flush=True)
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
            place = layout.downloads() / self.name / self.unpacked(dataset_class)
            unpacked = f"  - if you have the files unpacked, put them into {place}{os.sep} ({members[0].names[0]}, ...)"
            raise UserError(f"{error}\n{unpacked}") from None


@source("mnist")
@dataclass(frozen=True)
class Mnist(Torchvision):
    """70,000 grey handwritten digits of 28 x 28 pixels in 10 classes, 10,000 of them for the test."""

    native_size = 28
    class_in_torchvision = "MNIST"
    folder = "MNIST/raw"
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
            fetch.Archive(name, md5, tuple(server + name for server in dataset_class.mirrors))
            for name, md5 in dataset_class.resources
        ]

    def members(self, dataset_class: Any, archive: fetch.Archive) -> list[Member]:
        """The one file, also under the name, or in the folder of its name, that it has on Kaggle."""
        name = archive.name.removesuffix(".gz")
        dotted = name.replace("-idx", ".idx")
        return [Member(self.raw[name], (name, dotted, f"{name}/{name}", f"{dotted}/{dotted}"))]

    def lay(self, archive: Path, folder: Path) -> None:
        """Unpacks a file, because torchvision takes either all files packed or none."""
        folder.mkdir(parents=True, exist_ok=True)
        with gzip.open(archive) as packed, (folder / archive.name.removesuffix(".gz")).open("wb") as plain:
            shutil.copyfileobj(packed, plain)


@source("fashion_mnist")
@dataclass(frozen=True)
class FashionMnist(Mnist):
    """70,000 grey pictures of clothes of 28 x 28 pixels in 10 classes, 10,000 of them for the test."""

    class_in_torchvision = "FashionMNIST"
    folder = "FashionMNIST/raw"
    raw: ClassVar[dict[str, str]] = {
        "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
        "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
        "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
    }


@source("cifar10")
@dataclass(frozen=True)
class Cifar10(Torchvision):
    """60,000 colour images of 32 x 32 pixels in 10 classes, 10,000 of them for the test."""

    native_size = 32
    class_in_torchvision = "CIFAR10"

    def members(self, dataset_class: Any, archive: fetch.Archive) -> list[Member]:
        """The batches of both splits and the names of the classes."""
        meta = [dataset_class.meta["filename"], dataset_class.meta["md5"]]
        listed = [*dataset_class.train_list, *dataset_class.test_list, meta]
        return [Member(md5, (name,)) for name, md5 in listed]

    def unpacked(self, dataset_class: Any) -> str:
        """`cifar-10-batches-py` or `cifar-100-python`."""
        return dataset_class.base_folder


@source("cifar100")
@dataclass(frozen=True)
class Cifar100(Cifar10):
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

    def unpacked(self, dataset_class: Any) -> str:
        """`stl10_binary`."""
        return dataset_class.base_folder

    def read(self, dataset_class: Any, root: str, split: str) -> tuple[np.ndarray, Any, list[str]]:
        """torchvision holds these images as (N, C, H, W). It is not asked for the unlabelled ones, 2.8 GB."""
        labelled = type(dataset_class.__name__, (dataset_class,), {"train_list": dataset_class.train_list[:2]})
        data = labelled(root, split=split, download=True)
        return data.data.transpose(0, 2, 3, 1), data.labels, list(getattr(data, "classes", self.class_names))
