"""Cityscapes (Cordts et al., arXiv 1604.01685): street scenes of 50 cities with fine masks of 19 classes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from normbench.data import masks, tree
from normbench.data.masks import Pair
from normbench.data.pixels import IGNORED
from normbench.data.sources.base import Origin, Request, Source, source
from normbench.system.text import clean

# The value of each class in the files `labelIds`, in the order of the 19 training ids. All other values are void.
CLASSES = {
    "road": 7,
    "sidewalk": 8,
    "building": 11,
    "wall": 12,
    "fence": 13,
    "pole": 17,
    "traffic light": 19,
    "traffic sign": 20,
    "vegetation": 21,
    "terrain": 22,
    "sky": 23,
    "person": 24,
    "rider": 25,
    "car": 26,
    "truck": 27,
    "bus": 28,
    "train": 31,
    "motorcycle": 32,
    "bicycle": 33,
}
LAST = 33  # the largest value of a mask; -1, the licence plate, is stored as 255
IMAGE, MASK = "_leftImg8bit.png", "_gtFine_labelIds.png"
SPLITS = {"train": "train", "test": "val"}


@source("cityscapes")
@dataclass(frozen=True)
class Cityscapes(Source):
    """The folder with `leftImg8bit/` and `gtFine/` as their archives unpack: 2975 images to train on, 500 in `val`.

    `val` is the test split, because the masks of the official one are not public. The masks have the 19 classes of the
    benchmark; every other pixel is ignored. The data need a registration, so nothing is downloaded.

    path: the folder.
    """

    path: str

    native_size = (1024, 2048)
    train_images = 2975
    has_masks = True

    def reads(self) -> Iterable[str]:
        """Both folders."""
        return [str(Path(self.path) / name) for name in ("leftImg8bit", "gtFine")]

    def write(self, request: Request, out: Path) -> Origin:
        """Reads every image of both splits. Raises UserError for the first that lacks its mask or cannot be read."""
        root, notes = Path(self.path).expanduser(), list[str]()
        labels = masks.table(
            {value: label for label, value in enumerate(CLASSES.values())},
            [value for value in (*range(LAST + 1), IGNORED) if value not in CLASSES.values()],
        )
        pairs = {split: self.pairs(root, folder, request) for split, folder in SPLITS.items()}
        size = masks.common_size(pairs["train"], request)
        for split, found in pairs.items():
            notes += masks.write(out, split, found, labels, request, size)
        return Origin(f"Cityscapes, gtFine ({', '.join(SPLITS.values())})", None, list(CLASSES), notes)

    def pairs(self, root: Path, split: str, request: Request) -> list[Pair]:
        """The images of a split with their masks, by city and name. Raises UserError if there is none."""
        images, fine = root / "leftImg8bit" / split, root / "gtFine" / split
        for folder in (root, images, fine):
            if not folder.is_dir():
                wanted = "Cityscapes has leftImg8bit/{train,val}/<city>/ and gtFine/{train,val}/<city>/"
                raise request.error(f"{clean(folder)}: no such folder; {wanted}")
        found = [
            Pair(entry.path, fine / entry.path.parent.name / (entry.path.name.removesuffix(IMAGE) + MASK))
            for entry in tree.walk(images)
            if entry.status is not None and entry.path.name.endswith(IMAGE)
        ]
        if not found:
            raise request.error(f"{clean(images)}: no image <city>/*{IMAGE} in it")
        for pair in found:
            if not pair.mask.is_file():
                raise request.error(f"{clean(pair.image)}: has no mask: {clean(pair.mask)} is not there")
        return found
