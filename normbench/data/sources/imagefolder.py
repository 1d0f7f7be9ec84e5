"""Image files in folders, one folder a class."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from normbench.data import pictures, tree
from normbench.data.arrays import BATCH
from normbench.data.pictures import Picture
from normbench.data.sources.base import Origin, Request, Source, source
from normbench.data.tree import composed, listed
from normbench.system import files, npy
from normbench.system.errors import UserError, hint
from normbench.system.progress import Progress
from normbench.system.size import Size, sides
from normbench.system.text import clean

HELD_OUT = ("val", "test")
ANNOTATIONS = "val_annotations.txt"

Listing = list[tuple[Path, int]]  # the files of a split, each with the number of its class


@source("imagefolder")
@dataclass(frozen=True)
class ImageFolder(Source):
    """A folder with `train/<class>/` and `val/<class>/` (or `test/<class>/`), and image files in them at any depth.

    `val` may also be laid out as in Tiny ImageNet, with `val/images/` and `val/val_annotations.txt`. Files are images
    by their ending or by their content, and are read as a person sees them (`normbench.data.pictures`): upright, in
    RGB. They are resized until they just cover `image_size`, and cropped to the centre. Classes are numbered in the
    order of their names. A class may lack images in val or test. What is left out, and what was changed in reading, is
    in the note of the dataset. Images are written batch by batch, so the dataset may be larger than the memory.

    path: the folder.
    background: the colour under transparent pixels.
    """

    path: str
    background: Literal["white", "black"] = "white"

    needs_image_size = True

    def reads(self) -> Iterable[str]:
        """The folder."""
        return [self.path]

    def write(self, request: Request, out: Path) -> Origin:
        """Reads every image of both splits. Raises UserError for the first image file that cannot be read."""
        size = request.image_size
        if size is None:
            raise request.error("an imagefolder needs `image_size` (pixels) in params.yaml")
        reading = Reading(Path(self.path).expanduser(), request)
        held_out, classes = reading.splits()
        listings = {"train": reading.training(classes), "test": reading.held_out(held_out, classes)}
        for split, listing in listings.items():
            npy.save(out / f"{split}_labels.npy", np.array([label for _, label in listing], np.int64))
            files = [path for path, _ in listing]
            read = partial(pictures.read, size=size, background=self.background)
            remarks = write_images(out / f"{split}_images.npy", files, size, read, f"{request.dataset} {split}")
            for path, remark in remarks:
                reading.remark(remark, path)
        names = [*classes]
        test_files = [f"{names[label]}/{composed(file.name)}" for file, label in listings["test"]]
        origin = f"{self.path} (train, {held_out})"
        return Origin(origin, None, names, reading.notes(), test_files, self.background)


@dataclass
class Reading:
    """The classes and files of one image folder, and all that a reader should know of them.

    left_out: for each file or folder that is not read, its path below the root, with the reason. remarks: the files to
    which each remark applies. facts: notes about classes.
    """

    root: Path
    request: Request
    left_out: dict[str, str] = field(default_factory=dict)
    remarks: dict[str, list[str]] = field(default_factory=dict)
    facts: list[str] = field(default_factory=list)

    def splits(self) -> tuple[str, dict[str, Path]]:
        """The name of the split that is held out, and the folder of every training class by the name of the class.

        Raises UserError unless the root has both splits, and classes in `train`.
        """
        if not self.root.is_dir():
            raise self.error(self.root, "a file; unpack it" if self.root.is_file() else "no such folder")
        held_out = next((name for name in HELD_OUT if (self.root / name).is_dir()), HELD_OUT[-1])
        for name in ("train", held_out):
            if not (self.root / name).is_dir():
                raise self.error(self.root / name, f"no such folder; {self._advice()}")
        for entry in _entries(self.root):
            if entry.name not in ("train", held_out):
                self.leave(Path(entry.path), "hidden" if tree.hidden(entry.name) else "outside of the splits")
        classes = self.classes("train")
        if not classes:
            raise self.error(self.root / "train", "no folder in it; it needs one folder a class")
        return held_out, classes

    def _advice(self) -> str:
        """What to do with a root that lacks a split."""
        wanted = "an imagefolder has train/ and val/ (or test/)"
        found = [entry.name for entry in _entries(self.root) if tree.is_folder(entry) and not tree.hidden(entry.name)]
        if not found:
            return wanted
        here = listed([clean(name) for name in found])
        known = {"train", "training", "val", "valid", "validation", "test", "testing", "eval"}
        if known & {name.lower() for name in found}:
            return f"{wanted}, and here are {here}: rename them"
        return f"{wanted}, and here are {here}: move a part of each class to train/<class>/, the rest to val/<class>/"

    def classes(self, split: str) -> dict[str, Path]:
        """The folder of each class of a split, by the name of the class in the order of the names.

        A name counts in the Unicode form NFC. Raises UserError for two folders of one name, and for a name that is no
        text. Files beside the folders are left out.
        """
        found: dict[str, Path] = {}
        for entry in _entries(self.root / split):
            path = Path(entry.path)
            if tree.hidden(entry.name):
                self.leave(path, "hidden")
            elif not tree.is_folder(entry):
                self.leave(path, "outside of the class folders")
            else:
                if entry.name.encode("utf-8", "replace").decode("utf-8") != entry.name:
                    raise self.error(path, "the name of a class must be text in UTF-8")
                other = found.setdefault(composed(entry.name), path)
                if other != path:
                    names = f"{other.name!a} and {entry.name!a}"
                    raise self.error(path.parent, f"two folders of one name in different Unicode forms, {names}")
        self._note_alike(split, found)
        return dict(sorted(found.items()))

    def _note_alike(self, split: str, names: Iterable[str]) -> None:
        """Notes classes whose names differ in upper and lower case alone: each is a class, but maybe by mistake."""
        alike: dict[str, list[str]] = {}
        for name in names:
            alike.setdefault(name.casefold(), []).append(name)
        for group in alike.values():
            if len(group) > 1 and split == "train":
                listed = " and ".join(f"'{clean(name)}'" for name in sorted(group))
                self.facts.append(f"{listed} are different classes")

    def training(self, classes: dict[str, Path]) -> Listing:
        """The training images of every class. Raises UserError for a class without one."""
        listing = []
        for label, folder in enumerate(classes.values()):
            files = self.images(folder)
            if not files:
                here = [why for name, why in self.left_out.items() if name.startswith(self.below(folder) + "/")]
                lacking = f"; left out there: {_counted(here)}" if here else ""
                raise self.error(folder, f"no image in it{lacking}")
            listing += [(path, label) for path in files]
        return listing

    def held_out(self, split: str, classes: dict[str, Path]) -> Listing:
        """The images that are held out.

        Raises UserError for a class that `train` does not have, and if there is no image at all.
        """
        numbers = {name: label for label, name in enumerate(classes)}
        folder = self.root / split
        if (folder / ANNOTATIONS).is_file():
            listing = self.annotated(folder, numbers)
        else:
            found = self.classes(split)
            for name in found:
                if name not in numbers:
                    other = f"{split} has it, and test classes must be among the training classes"
                    near = clean(hint(name, numbers))
                    raise self.error(self.root / "train", f"class '{clean(name)}' is missing: {other}; {near}")
            listing = [(path, numbers[name]) for name, place in found.items() for path in self.images(place)]
            listing.sort(key=lambda item: item[1])
        if not listing:
            raise self.error(folder, "no image in it")
        present = {label for _, label in listing}
        if lacking := [name for name, label in numbers.items() if label not in present]:
            self.facts.append(
                f"{len(lacking)} of {len(numbers)} classes have no test image ({listed([*map(clean, lacking)])})"
            )
        return listing

    def images(self, folder: Path) -> list[Path]:
        """The image files below a folder, in the order of their paths. All others are left out, with the reason.

        Raises UserError for a broken link and the like that is called an image, and for a folder that is not readable.
        """
        found = []
        try:
            for entry in tree.walk(folder):
                named_image = entry.path.suffix.lower() in pictures.endings()
                if entry.status is None and named_image and entry.why != "hidden":
                    raise self.error(entry.path, entry.why)
                if entry.status is not None and (named_image or pictures.is_picture(entry.path)):
                    found.append(entry.path)
                else:
                    ending = entry.path.suffix.lower()
                    self.leave(entry.path, entry.why or (f"no image ({ending})" if ending else "no image"))
        except OSError as error:
            raise self.error(Path(error.filename or folder), error.strerror or str(error)) from None
        return found

    def annotated(self, folder: Path, numbers: dict[str, int]) -> Listing:
        """The image files that `val_annotations.txt` lists, in its order.

        A line of it has the name of a file in `images/`, its class and a box, with tabs between. Raises UserError for a
        line of another form, for an unknown class and for a file that is not there or listed twice.
        """
        annotations = folder / ANNOTATIONS
        try:
            text = files.read_text(annotations)
        except UserError as error:
            raise self.request.error(str(error)) from None
        except OSError as error:
            raise self.error(annotations, error.strerror or str(error)) from None
        for entry in _entries(folder):
            if entry.name not in ("images", ANNOTATIONS):
                self.leave(Path(entry.path), "hidden" if tree.hidden(entry.name) else "outside of images/")
        images = folder / "images"
        there = {composed(p.relative_to(images).as_posix()): p for p in self.images(images)} if images.is_dir() else {}
        listing: dict[Path, int] = {}
        for line, content in enumerate(text.splitlines(), start=1):
            row = [composed(part.strip()) for part in content.split("\t")]
            if row == [""]:
                continue
            if len(row) < 2:
                raise self.error(annotations, f"line {line} is not a file and a class with a tab between")
            name, kind = row[:2]
            if kind not in numbers:
                raise self.error(
                    annotations, f"line {line}: no class '{clean(kind)}' in train; {clean(hint(kind, numbers))}"
                )
            if name not in there:
                raise self.error(
                    annotations, f"line {line}: no image '{clean(name)}' in {images}; {clean(hint(name, there))}"
                )
            if there[name] in listing:
                raise self.error(annotations, f"line {line}: '{clean(name)}' stands here twice")
            listing[there[name]] = numbers[kind]
        if not listing:
            raise self.error(annotations, "no image is listed")
        for path in there.values():
            if path not in listing:
                self.leave(path, f"not in {ANNOTATIONS}")
        return list(listing.items())

    def leave(self, path: Path, why: str) -> None:
        """Notes that a file or folder is left out."""
        self.left_out[self.below(path) + "/" * (path.is_dir() and not path.is_symlink())] = why

    def remark(self, remark: str, path: Path) -> None:
        """Notes a remark on an image."""
        self.remarks.setdefault(remark, []).append(self.below(path))

    def below(self, path: Path) -> str:
        """A path below the root, as it is printed."""
        return clean(path.relative_to(self.root).as_posix())

    def notes(self) -> list[str]:
        """All that readers of the results should know, a phrase each."""
        found = [*self.facts]
        if self.left_out:
            # What may be missed comes before what nobody misses.
            names = sorted(self.left_out, key=lambda name: self.left_out[name] in ("hidden", "outside of the splits"))
            found.append(f"left out: {_counted(self.left_out.values())} ({listed(names)})")
        return [*found, *pictures.phrases(self.remarks)]

    def error(self, path: Path, message: str) -> Exception:
        """The UserError about a file or folder."""
        return self.request.error(f"{clean(path)}: {message}")


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def _counted(reasons: Iterable[str]) -> str:
    """How often there is each reason, the most frequent first: `12 no image (.heic), 1 hidden`."""
    return ", ".join(f"{count} {why}" for why, count in sorted(Counter(reasons).items(), key=lambda x: (-x[1], x[0])))


def write_images(
    path: Path, images: list[Path], size: Size, read: Callable[[Path], Picture], title: str
) -> list[tuple[Path, str]]:
    """Writes the images to `path`, uint8 (N, H, W, 3), batch by batch; returns the remarks on them.

    They are decoded in threads, because Pillow releases Python's global lock. read: gives one in this size. title:
    names them in the progress bar.
    """
    count = len(images)
    offset = npy.create(path, np.uint8, (count, *sides(size), 3))
    remarks = []
    with (
        path.open("rb+") as file,
        Progress(f"read {title}", total=count) as progress,
        warnings.catch_warnings(),
        ThreadPoolExecutor() as pool,
    ):
        warnings.simplefilter("ignore")  # Pillow's, on metadata and sizes that are dealt with here
        file.seek(offset)
        for start in range(0, count, BATCH):
            batch = images[start : start + BATCH]
            for index, (each, picture) in enumerate(zip(batch, pool.map(read, batch), strict=True), start=start):
                file.write(picture.pixels.tobytes())
                remarks += [(each, remark) for remark in picture.remarks]
                progress.update(index + 1, f"{index + 1} of {count}")
    return remarks
