"""Datasets from their named sources to four arrays and a meta.json.

A prepared dataset is a folder with `train_images.npy`, `test_images.npy` (uint8, N x H x W x C, square, C 1 or 3),
`train_labels.npy`, `test_labels.npy` (int64, N, counted from 0 without gaps) and `meta.json`: name, source, classes,
class_names (list or null), channels, image_size, train, test (numbers of images), mean, std (per channel, pixels in
0..1), origin, sha256 (of the source's archive, null where there is none) and fingerprint (see `fingerprint`).
"""

from __future__ import annotations

import hashlib
import os
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from normbench.data import fetch
from normbench.system import files, layout, seeds
from normbench.system.errors import UserError, hint
from normbench.system.progress import Progress

ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")
TORCHVISION = {
    "mnist": "MNIST",
    "fashion_mnist": "FashionMNIST",
    "cifar10": "CIFAR10",
    "cifar100": "CIFAR100",
    "svhn": "SVHN",
    "stl10": "STL10",
}
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".webp"}
DIGITS_SIZE = 16  # pixels; the stored 8 are too few for a network that halves the size three times
BATCH = 1024  # images in memory at a time where a set may be larger than the memory


@dataclass(frozen=True)
class Origin:
    """Where the arrays came from: an address, path or package; the sha256 of the archive; the classes' names."""

    text: str
    sha256: str | None
    class_names: list[str] | None


def prepare(spec: dict[str, Any], out: Path) -> None:
    """Writes the dataset that `spec` (a resolved dataset of params.yaml) describes into the folder `out`, which exists.

    Raises UserError where the source cannot be had or does not hold what it should.
    """
    source = spec["source"]
    if source == "digits":
        origin = _digits(spec, out)
    elif source == "npz":
        origin = _npz(spec, out)
    elif source == "imagefolder":
        origin = _imagefolder(spec, out)
    else:
        origin = _torchvision(spec, out)
    arrays = {name: np.load(out / f"{name}.npy", mmap_mode="r") for name in ARRAYS}
    count, size, _, channels = arrays["train_images"].shape
    mean, std = _statistics(spec, arrays["train_images"])
    classes = len(origin.class_names) if origin.class_names else int(arrays["train_labels"].max()) + 1
    meta = {
        "name": spec["name"],
        "source": source,
        "classes": classes,
        "class_names": origin.class_names,
        "channels": channels,
        "image_size": size,
        "train": count,
        "test": len(arrays["test_images"]),
        "mean": mean,
        "std": std,
        "origin": origin.text,
        "sha256": origin.sha256,
        "fingerprint": fingerprint(arrays),
        "note": spec["note"],
    }
    files.write_json(out / "meta.json", meta)


def fingerprint(arrays: dict[str, np.ndarray]) -> str:
    """Hexadecimal sha256 over the four arrays, in the order train_images, train_labels, test_images, test_labels.

    Each adds the line `<name> <dtype> <shape, joined by x>\\n` in ASCII, e.g. `train_labels int64 1437`, and then its
    bytes in C order, integers little-endian.
    """
    digest = hashlib.sha256()
    for name in ARRAYS:
        array = arrays[name]
        digest.update(f"{name} {array.dtype.name} {'x'.join(map(str, array.shape))}\n".encode("ascii"))
        little_endian = array.dtype.newbyteorder("<")
        for start in range(0, len(array), BATCH):
            digest.update(np.ascontiguousarray(array[start : start + BATCH], little_endian).tobytes())
    return digest.hexdigest()


def resize(images: np.ndarray, size: int, title: str) -> np.ndarray:
    """uint8 (N, H, W, C) to (N, size, size, C) with Pillow's bilinear filter, which averages where it shrinks."""
    count, height, width, channels = images.shape
    if (height, width) == (size, size):
        return images
    resized = np.empty((count, size, size, channels), np.uint8)
    with Progress(f"resize {title}", total=count) as progress:
        for index, image in enumerate(images):
            picture = Image.fromarray(image[..., 0] if channels == 1 else image)
            picture = picture.resize((size, size), Image.Resampling.BILINEAR)
            resized[index] = np.asarray(picture).reshape(size, size, channels)
            progress.update(index + 1, f"{index + 1} of {count}")
    return resized


def _save(spec: dict[str, Any], out: Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes the four arrays, at the size that `spec` asks for (null: the size they have)."""
    for name in ARRAYS:
        array = arrays[name]
        if name.endswith("images"):
            array = resize(array, spec["image_size"] or array.shape[1], f"{spec['name']} {name}")
        np.save(out / f"{name}.npy", np.ascontiguousarray(array))


def _statistics(spec: dict[str, Any], images: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean and population standard deviation of each channel, pixels in 0..1: the given ones, else of `images`.

    Computed from counts of the 256 values: exact, whatever the batch.
    """
    channels = images.shape[-1]
    for key in ("mean", "std"):
        if spec[key] is not None and len(spec[key]) != channels:
            number = len(spec[key])
            raise UserError(f"dataset '{spec['name']}': {key} has {number} values, the images have {channels} channels")
    if spec["mean"] is not None and spec["std"] is not None:
        return list(spec["mean"]), list(spec["std"])
    counts = np.zeros((channels, 256), np.int64)
    for start in range(0, len(images), BATCH):
        batch = images[start : start + BATCH]
        for channel in range(channels):
            counts[channel] += np.bincount(batch[..., channel].ravel(), minlength=256)
    weights, values = counts / counts.sum(1, keepdims=True), np.arange(256) / 255
    mean = weights @ values
    std = np.sqrt((weights * (values - mean[:, None]) ** 2).sum(1))
    if spec["std"] is None and not std.all():
        raise UserError(f"dataset '{spec['name']}': a channel of the training images has one value only; give `std`")
    return list(spec["mean"] or mean.tolist()), list(spec["std"] or std.tolist())


def _digits(spec: dict[str, Any], out: Path) -> Origin:
    """1,797 grey 8 x 8 digits that come with scikit-learn, a fixed fifth of each class for the test."""
    import sklearn
    from sklearn.datasets import load_digits

    data = load_digits()
    images = np.round(data.images * (255 / 16)).astype(np.uint8)[..., None]  # stored as 0..16
    labels = data.target.astype(np.int64)
    generator = np.random.default_rng(seeds.derive(0, "digits", "split"))
    test = np.zeros(len(labels), bool)
    for label in range(10):
        members = np.flatnonzero(labels == label)
        test[generator.permutation(members)[: round(len(members) / 5)]] = True
    arrays = {"train_images": images[~test], "train_labels": labels[~test]}
    arrays |= {"test_images": images[test], "test_labels": labels[test]}
    _save(spec | {"image_size": spec["image_size"] or DIGITS_SIZE}, out, arrays)
    return Origin(f"scikit-learn {sklearn.__version__}", None, [str(label) for label in range(10)])


def _torchvision(spec: dict[str, Any], out: Path) -> Origin:
    """A named dataset: its archives are fetched and checked here, unpacked and read by torchvision.

    The archives are unpacked into a folder of this call's own, so no file is ever read that an earlier, killed
    unpacking left half-written, and none is unpickled that does not come from an archive with the right md5.
    """
    from torchvision import datasets

    source = spec["source"]
    kind = getattr(datasets, TORCHVISION[source])
    folder = Path()  # where torchvision looks for the archives, inside its root
    if source in ("mnist", "fashion_mnist"):
        folder = Path(kind.__name__, "raw")
        archives = [fetch.Archive(name, md5, tuple(m + name for m in kind.mirrors)) for name, md5 in kind.resources]
    elif source == "svhn":
        parts = [kind.split_list[split] for split in ("train", "test")]
        archives = [fetch.Archive(name, md5, (address,)) for address, name, md5 in parts]
    else:
        archives = [fetch.Archive(kind.filename, kind.tgz_md5, (kind.url,))]
    mirror = spec["mirror"] or os.environ.get("NORMBENCH_MIRROR")
    paths = fetch.fetch(archives, layout.downloads() / source / folder, spec["name"], source, mirror)

    arrays: dict[str, np.ndarray] = {}
    with TemporaryDirectory(prefix=".unpacked.", dir=out) as root:
        (Path(root) / folder).mkdir(parents=True, exist_ok=True)
        for path in paths:
            (Path(root) / folder / path.name).symlink_to(path.resolve())
        for split in ("train", "test"):
            if source in ("svhn", "stl10"):
                data = kind(root, split=split, download=True)
                images, labels = data.data.transpose(0, 2, 3, 1), data.labels
            else:
                data = kind(root, train=split == "train", download=True)
                images, labels = np.asarray(data.data), data.targets
            arrays[f"{split}_images"] = images if images.ndim == 4 else images[..., None]
            arrays[f"{split}_labels"] = np.asarray(labels, dtype=np.int64)
        _save(spec, out, arrays)
    names = [str(label) for label in range(10)] if source == "svhn" else list(data.classes)
    address = archives[0].addresses[0]
    if len(archives) == 1:
        return Origin(address, files.sha256(paths[0]), names)
    # The sha256 of several archives is that of the list of theirs, in the form that sha256sum prints.
    sums = "".join(f"{files.sha256(path)}  {path.name}\n" for path in paths)
    return Origin(address.rpartition("/")[0] + "/", hashlib.sha256(sums.encode()).hexdigest(), names)


def _npz(spec: dict[str, Any], out: Path) -> Origin:
    """Arrays of the user's own, in one .npz whose sha256 params.yaml gives."""
    path = Path(spec["path"]).expanduser()
    where = f"dataset '{spec['name']}': {path}"
    if not path.is_file():
        raise UserError(f"{where}: no such file")
    found = files.sha256(path)
    if spec["sha256"] is None:
        raise UserError(f"{where}: its sha256 is missing; in params.yaml put beside `path`: sha256: {found}")
    if found != spec["sha256"].lower():
        raise UserError(f"{where}: sha256 is {found}, params.yaml says {spec['sha256']}")
    arrays = _read_npz(path, where)
    for split in ("train", "test"):
        arrays[f"{split}_images"], arrays[f"{split}_labels"] = _checked(arrays, split, where)
    train, test = arrays["train_images"].shape[1:], arrays["test_images"].shape[1:]
    if train != test:
        raise UserError(f"{where}: train_images are {_by(train)}, test_images are {_by(test)}")
    present, count = np.unique(arrays["train_labels"]), int(arrays["train_labels"].max()) + 1
    if len(present) != count:
        absent = next(label for label in range(count) if label not in present)
        raise UserError(
            f"{where}: train_labels go up to {count - 1} without any {absent}; labels count from 0, no gaps"
        )
    if arrays["test_labels"].max() >= count:
        largest = arrays["test_labels"].max()
        raise UserError(f"{where}: test_labels have {largest}, the largest of train_labels is {count - 1}")
    _save(spec, out, arrays)
    return Origin(spec["path"], found, None)


def _read_npz(path: Path, where: str) -> dict[str, np.ndarray]:
    try:
        stored = np.load(path, allow_pickle=False)
        if isinstance(stored, np.ndarray):
            raise UserError(f"{where}: a single array, not an .npz with {', '.join(ARRAYS)}")
        with stored:
            for name in ARRAYS:
                if name not in stored.files:
                    raise UserError(f"{where}: no array '{name}' among {', '.join(stored.files) or 'none'}")
            return {name: stored[name] for name in ARRAYS}
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{where}: not an .npz of plain arrays: {error}") from None


def _checked(arrays: dict[str, np.ndarray], split: str, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (N, H, W, C) and labels int64 (N) of one split, or a UserError that says what they are instead."""
    images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
    if images.dtype != np.uint8:
        raise UserError(f"{where}: {split}_images are {images.dtype}, uint8 (0..255) is needed")
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or images.shape[1] != images.shape[2] or not images.size:
        shape = arrays[f"{split}_images"].shape
        raise UserError(f"{where}: {split}_images are {_by(shape)}; N x H x W x C is needed, H = W, C 1 or 3")
    if not np.issubdtype(labels.dtype, np.integer):
        raise UserError(f"{where}: {split}_labels are {labels.dtype}, integers are needed")
    if labels.shape != images.shape[:1]:
        raise UserError(f"{where}: {split}_labels are {_by(labels.shape)} for {len(images)} {split}_images")
    labels = labels.astype(np.int64)
    if labels.min() < 0:
        raise UserError(f"{where}: {split}_labels have {labels.min()}; labels count from 0")
    return images, labels


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "a single number"


def _imagefolder(spec: dict[str, Any], out: Path) -> Origin:
    """`train/<class>/` and `val/<class>/` (else `test/<class>/`) with image files at any depth; RGB.

    `val` may also be laid out as in Tiny ImageNet: `val/images/` and `val/val_annotations.txt`. The shorter side is
    resized to image_size and the middle cut out.
    """
    root, size = Path(spec["path"]).expanduser(), spec["image_size"]
    where = f"dataset '{spec['name']}'"
    if size is None:
        raise UserError(f"{where}: an imagefolder needs `image_size` (pixels) in params.yaml")
    held_out = "val" if (root / "val").is_dir() else "test"
    for folder in (root / "train", root / held_out):
        if not folder.is_dir():
            raise UserError(f"{where}: {folder}: no such folder; an imagefolder has train/ and val/ (or test/)")
    classes = _subfolders(root / "train")
    if not classes:
        raise UserError(f"{where}: {root / 'train'}: no folder in it; it needs one folder a class")
    listings = {"train": _by_class(root / "train", classes, where)}
    if (root / held_out / "val_annotations.txt").is_file():
        listings["test"] = _annotated(root / held_out, classes, where)
    else:
        other = _subfolders(root / held_out)
        if differing := sorted(set(classes) ^ set(other)):
            lacking = held_out if differing[0] in classes else "train"
            raise UserError(
                f"{where}: {root / lacking}: class '{differing[0]}' is missing ({len(differing)} differ"
                f" between train and {held_out})"
            )
        listings["test"] = _by_class(root / held_out, classes, where)
    for split, listing in listings.items():
        np.save(out / f"{split}_labels.npy", np.array([label for _, label in listing], np.int64))
        _write_images(out / f"{split}_images.npy", [path for path, _ in listing], size, f"{spec['name']} {split}")
    return Origin(f"{spec['path']} (train, {held_out})", None, classes)


def _subfolders(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _by_class(folder: Path, classes: list[str], where: str) -> list[tuple[Path, int]]:
    """The image files under each class's folder, in the order of their paths, with the class's number."""
    listing = []
    for label, name in enumerate(classes):
        found = [
            Path(parent, file)
            for parent, _, names in os.walk(folder / name, followlinks=True)
            for file in names
            if Path(file).suffix.lower() in IMAGE_SUFFIXES and not file.startswith(".")
        ]
        if not found:
            raise UserError(f"{where}: {folder / name}: no image in it ({', '.join(sorted(IMAGE_SUFFIXES))})")
        listing += [(path, label) for path in sorted(found)]
    return listing


def _annotated(folder: Path, classes: list[str], where: str) -> list[tuple[Path, int]]:
    """The files of `images/` with the class that val_annotations.txt (file, class, box; tabs between) gives them."""
    numbers = {name: label for label, name in enumerate(classes)}
    listing = []
    annotations = folder / "val_annotations.txt"
    for line, text in enumerate(annotations.read_text(encoding="utf-8").splitlines(), start=1):
        row = text.split("\t")
        if len(row) < 2:
            raise UserError(f"{where}: {annotations}: line {line} is not a file and a class with a tab between")
        if row[1] not in numbers:
            close = hint(row[1], classes)
            raise UserError(f"{where}: {annotations}: line {line}: no class '{row[1]}' in train; {close}")
        listing.append((folder / "images" / row[0], numbers[row[1]]))
    if not listing:
        raise UserError(f"{where}: {annotations}: empty")
    return listing


def _write_images(path: Path, images: list[Path], size: int, title: str) -> None:
    """uint8 (N, size, size, 3), written batch by batch; Pillow decodes in threads, without Python's lock."""
    count = len(images)
    written = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(count, size, size, 3))
    with Progress(f"read {title}", total=count) as progress, ThreadPoolExecutor() as pool:
        for start in range(0, count, BATCH):
            batch = images[start : start + BATCH]
            for index, image in enumerate(pool.map(_read_image, batch, [size] * len(batch)), start=start):
                written[index] = image
                progress.update(index + 1, f"{index + 1} of {count}")
    written.flush()


def _read_image(path: Path, size: int) -> np.ndarray:
    try:
        with Image.open(path) as file:
            picture = file.convert("RGB")
    except UnidentifiedImageError:
        raise UserError(f"{path}: not an image") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: not a readable image: {getattr(error, 'strerror', None) or error}") from None
    scale = size / min(picture.size)
    width, height = (max(size, round(side * scale)) for side in picture.size)
    left, top = (width - size) // 2, (height - size) // 2
    picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(picture.crop((left, top, left + size, top + size)))
