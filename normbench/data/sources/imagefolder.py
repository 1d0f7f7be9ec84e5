"""Image files in folders, one folder a class."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from normbench.data import pictures
from normbench.data.arrays import BATCH
from normbench.data.sources.base import Origin, Request, Source, source
from normbench.system.errors import hint
from normbench.system.progress import Progress
from normbench.system.size import Size, sides

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".webp"}


@source("imagefolder")
@dataclass(frozen=True)
class ImageFolder(Source):
    """A folder with `train/<class>/` and `val/<class>/` (or `test/<class>/`), and image files in them at any depth.

    `val` may also be laid out as in Tiny ImageNet, with `val/images/` and `val/val_annotations.txt`. Images are
    converted to RGB, resized until they just cover `image_size`, and cropped to the centre. Classes are numbered
    in the order of their names. Images are written batch by batch, so the dataset may be larger than the memory.

    path: the folder.
    """

    path: str

    needs_image_size = True

    def write(self, request: Request, out: Path) -> Origin:
        """Reads every image of both splits. Raises UserError for the first file that is not a readable image."""
        root, size = Path(self.path).expanduser(), request.image_size
        if size is None:
            raise request.error("an imagefolder needs `image_size` (pixels) in params.yaml")
        held_out = "val" if (root / "val").is_dir() else "test"
        for folder in (root / "train", root / held_out):
            if not folder.is_dir():
                raise request.error(f"{folder}: no such folder; an imagefolder has train/ and val/ (or test/)")
        classes = _subfolders(root / "train")
        if not classes:
            raise request.error(f"{root / 'train'}: no folder in it; it needs one folder a class")
        listings = {"train": _by_class(root / "train", classes, request)}
        if (root / held_out / "val_annotations.txt").is_file():
            listings["test"] = _annotated(root / held_out, classes, request)
        else:
            other = _subfolders(root / held_out)
            if differing := sorted(set(classes) ^ set(other)):
                lacking = held_out if differing[0] in classes else "train"
                raise request.error(
                    f"{root / lacking}: class '{differing[0]}' is missing ({len(differing)} differ"
                    f" between train and {held_out})"
                )
            listings["test"] = _by_class(root / held_out, classes, request)
        for split, listing in listings.items():
            np.save(out / f"{split}_labels.npy", np.array([label for _, label in listing], np.int64))
            images = [path for path, _ in listing]
            _write_images(out / f"{split}_images.npy", images, size, f"{request.dataset} {split}")
        test_files = [f"{classes[label]}/{file.name}" for file, label in listings["test"]]
        return Origin(f"{self.path} (train, {held_out})", class_names=classes, test_files=test_files)


def _subfolders(folder: Path) -> list[str]:
    """The names of the folders in a folder, sorted, without hidden ones."""
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _by_class(folder: Path, classes: list[str], request: Request) -> list[tuple[Path, int]]:
    """The image files of every class, class by class and in the order of their paths, each with its class's number.

    Raises UserError for a class without an image.
    """
    listing = []
    for label, name in enumerate(classes):
        found = [
            Path(parent, file)
            for parent, _, names in os.walk(folder / name, followlinks=True)
            for file in names
            if Path(file).suffix.lower() in IMAGE_SUFFIXES and not file.startswith(".")
        ]
        if not found:
            raise request.error(f"{folder / name}: no image in it ({', '.join(sorted(IMAGE_SUFFIXES))})")
        listing += [(path, label) for path in sorted(found)]
    return listing


def _annotated(folder: Path, classes: list[str], request: Request) -> list[tuple[Path, int]]:
    """The image files that `val_annotations.txt` lists, each with its class's number.

    A line of it has the name of a file in `images/`, its class and a box, with tabs between. Raises UserError for a
    line of another form and for an unknown class.
    """
    numbers = {name: label for label, name in enumerate(classes)}
    listing = []
    annotations = folder / "val_annotations.txt"
    for line, text in enumerate(annotations.read_text(encoding="utf-8").splitlines(), start=1):
        row = text.split("\t")
        if len(row) < 2:
            raise request.error(f"{annotations}: line {line} is not a file and a class with a tab between")
        if row[1] not in numbers:
            close = hint(row[1], classes)
            raise request.error(f"{annotations}: line {line}: no class '{row[1]}' in train; {close}")
        listing.append((folder / "images" / row[0], numbers[row[1]]))
    if not listing:
        raise request.error(f"{annotations}: empty")
    return listing


def _write_images(path: Path, images: list[Path], size: Size, title: str) -> None:
    """Writes the images to `path`, uint8 (N, H, W, 3), batch by batch.

    They are decoded in threads, because Pillow releases Python's global lock. title: names them in the progress bar.
    """
    count = len(images)
    written = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(count, *sides(size), 3))
    with Progress(f"read {title}", total=count) as progress, ThreadPoolExecutor() as pool:
        for start in range(0, count, BATCH):
            batch = images[start : start + BATCH]
            for index, image in enumerate(pool.map(pictures.read, batch, [size] * len(batch)), start=start):
                written[index] = image
                progress.update(index + 1, f"{index + 1} of {count}")
    written.flush()
