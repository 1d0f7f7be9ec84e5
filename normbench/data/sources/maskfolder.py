"""Folders of image files and of masks that have the same names, such as CamVid in the layout of SegNet's authors."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from normbench.data import masks, pictures, tree
from normbench.data.masks import MOST_CLASSES, Pair
from normbench.data.pixels import IGNORED
from normbench.data.sources.base import Origin, Request, Source, source
from normbench.data.tree import composed, listed
from normbench.system.errors import hint
from normbench.system.text import clean

Value = Annotated[int, Field(ge=0, lt=1 << 16)]  # of a pixel of a mask


@source("maskfolder")
@dataclass(frozen=True)
class MaskFolder(Source):
    """A folder with `train/` and `test/` for images, and `trainannot/` and `testannot/` for masks of the same names.

    A mask is an image file whose values are the numbers of classes, counted from 0; its name is that of its image up
    to the ending. Without an `image_size` all images must have the same size. Images and masks are written one by one,
    so the dataset may be larger than the memory.

    path: the folder. classes: the names of the classes, in the order of their numbers.
    ignored: the number, or numbers, of pixels that count nowhere. 255 is one of them wherever it is no class.
    train: the folder of training images below `path`. train_masks: that of their masks.
    test: the folder of test images. test_masks: that of their masks. `test: val, test_masks: valannot` scores on `val`.
    mask_suffix: what the name of a mask has between that of its image and the ending.
    """

    path: str
    classes: Annotated[list[str], Field(min_length=2, max_length=MOST_CLASSES)]
    ignored: Value | Annotated[list[Value], Field(min_length=1)] | None = None
    train: str = "train"
    train_masks: str = "trainannot"
    test: str = "test"
    test_masks: str = "testannot"
    mask_suffix: str = ""

    has_masks = True

    def __post_init__(self) -> None:
        """Raises ValueError for a class that stands there twice."""
        twice = next((name for place, name in enumerate(self.classes) if name in self.classes[:place]), None)
        if twice is not None:
            raise ValueError(f"classes: {twice!r} stands there twice")

    @property
    def ignored_values(self) -> list[int]:
        """The values of pixels that count nowhere."""
        given = [] if self.ignored is None else self.ignored if isinstance(self.ignored, list) else [self.ignored]
        return given if len(self.classes) > IGNORED else [*given, IGNORED]

    def reads(self) -> Iterable[str]:
        """The four folders."""
        return [os.path.join(self.path, name) for name in (self.train, self.train_masks, self.test, self.test_masks)]

    def write(self, request: Request, out: Path) -> Origin:
        """Reads every image of both splits. Raises UserError for the first that lacks its mask or cannot be read."""
        root, notes = Path(self.path).expanduser(), list[str]()
        if not root.is_dir():
            raise request.error(f"{clean(root)}: {'a file; unpack it' if root.is_file() else 'no such folder'}")
        folders = {"train": (self.train, self.train_masks), "test": (self.test, self.test_masks)}
        pairs = {split: self.pairs(root, *names, request, notes) for split, names in folders.items()}
        size = masks.common_size(pairs["train"], request)
        labels = masks.table({number: number for number in range(len(self.classes))}, self.ignored_values)
        for split, found in pairs.items():
            notes += masks.write(out, split, found, labels, request, size)
        return Origin(f"{self.path} ({self.train}, {self.test})", None, self.classes, notes)

    def pairs(self, root: Path, images: str, annotations: str, request: Request, notes: list[str]) -> list[Pair]:
        """The images of a split with their masks, in the order of their names. What is left out is noted.

        Raises UserError for a folder that is not there or has no image, and for an image without a mask.
        """
        for name in (images, annotations):
            if not (root / name).is_dir():
                here = [entry.name for entry in sorted(root.iterdir(), key=lambda each: each.name) if entry.is_dir()]
                raise request.error(f"{clean(root / name)}: no such folder; {clean(hint(name, here))}")
        pictured, marked = (self.files(root / name) for name in (images, annotations))
        if not pictured:
            raise request.error(f"{clean(root / images)}: no image in it")
        found = []
        for name, path in pictured.items():
            mask = marked.pop(name + self.mask_suffix, None)
            if mask is None:
                wanted = f"{clean(name + self.mask_suffix)}.png"
                raise request.error(
                    f"{clean(path)}: has no mask, which would be {wanted} in {clean(root / annotations)}"
                )
            found.append(Pair(path, mask))
        if marked:
            names = [clean(path.name) for path in marked.values()]
            notes.append(f"left out: {len(names)} masks without an image in {clean(annotations)} ({listed(names)})")
        return found

    def files(self, folder: Path) -> dict[str, Path]:
        """The image files below a folder, by their path below it without the ending."""
        return {
            composed(os.path.splitext(entry.name)[0]): entry.path
            for entry in tree.walk(folder)
            if entry.status is not None and pictures.is_picture(entry.path)
        }
