"""Published corruptions in image files, as ImageNet-C and Tiny-ImageNet-C have them, for a dataset of image files.

They lie in `<corruption>/<severity>/<class>/<file>`, or one folder deeper, as the archives of ImageNet-C unpack
(`noise/gaussian_noise/...`). Each is found by the class and the file name of its test image, whose ending may differ,
and is read as the images of the dataset are (`normbench.data.pictures`): resized until it just covers their size, and
cropped to the centre. So the 224 x 224 pixels of ImageNet-C are taken as they are by a dataset of that size. They were
cut from images whose shorter side had 256 pixels; clean test images of the source `streamed` with `resize: 256` show
the same part.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from normbench.corruptions.files import Maker, check_choice, write_folder
from normbench.corruptions.operators import Bytes
from normbench.corruptions.published import origin_of
from normbench.data import pictures
from normbench.data.arrays import TEST_FILES
from normbench.data.tree import composed, walk
from normbench.system import files
from normbench.system.errors import UserError, hint
from normbench.system.size import size_of
from normbench.system.text import clean, say


def folder_of(published: Path, name: str) -> Path | None:
    """The folder of a corruption in a published folder of image files, or None if it has none."""
    found = [path for path in (published / name, *sorted(published.glob(f"*/{name}"))) if path.is_dir()]
    return found[0] if found else None


def copy_image_files(source: Path, target: Path, names: list[str], severities: list[int], published: Path) -> None:
    """Writes the files of `write_corrupted` from published image files, with null for unknown facts.

    source: a prepared dataset of image files. Raises UserError if an image is missing or not readable.
    """
    chosen = check_choice(names, severities)
    remarks: dict[str, list[str]] = {}
    make = published_maker(source, chosen, severities, published, remarks)
    write_folder(source, target, chosen, severities, make, origin_of(published))
    for phrase in pictures.phrases(remarks):
        say(f"{source.name}: {published}: {phrase}")


def published_maker(
    source: Path, chosen: dict[str, str], severities: list[int], published: Path, remarks: dict[str, list[str]]
) -> Maker:
    """Returns the function that reads published image files.

    chosen: the reference of each corruption, by its name. remarks: is given the files to which each remark applies.
    Raises UserError if an image is missing.
    """
    paths = matched(source, chosen, severities, published)
    size = size_of(*np.load(source / "test_images.npy", mmap_mode="r").shape[1:3])
    background = files.read_json(source / TEST_FILES)["background"]
    read = partial(pictures.read, size=size, background=background)

    def make(name: str, severity: int, index: np.ndarray) -> Bytes:
        chosen_files = [paths[name, severity][number] for number in index.tolist()]
        with warnings.catch_warnings(), ThreadPoolExecutor() as pool:
            warnings.simplefilter("ignore")  # Pillow's, on metadata and sizes that are dealt with in `pictures`
            found = [*pool.map(read, chosen_files)]
        for path, picture in zip(chosen_files, found, strict=True):
            for remark in picture.remarks:
                remarks.setdefault(remark, []).append(clean(path.relative_to(published)))
        return np.stack([picture.pixels for picture in found])

    return make


def matched(
    source: Path, chosen: dict[str, str], severities: list[int], published: Path
) -> dict[tuple[str, int], list[Path]]:
    """The files of all test images, by the reference of the corruption and the severity. Raises UserError as above."""
    if not (source / TEST_FILES).is_file():
        raise UserError(
            f"{published}: its image files belong to test images by class and file name, and those of {source.name}"
            " have none: only a dataset of the source imagefolder has"
        )
    facts = files.read_json(source / TEST_FILES)
    wanted = [composed(name) for name in facts["files"]]
    if len(set(wanted)) < len(wanted):
        twice = next(name for name in wanted if wanted.count(name) > 1)
        raise UserError(
            f"{source.name}: two test images are called {clean(twice)}, so {published} does not tell them apart"
        )
    meta = files.read_json(source / "meta.json")
    paths: dict[tuple[str, int], list[Path]] = {}
    for name, reference in chosen.items():
        place = folder_of(published, name)
        if place is None:
            raise UserError(f"{published}: no folder {name} in it or one level deeper; `names` chooses the corruptions")
        for severity in severities:
            paths[reference, severity] = _matched(place / str(severity), wanted, meta["class_names"])
    return paths


def _matched(folder: Path, wanted: list[str], classes: Iterable[str]) -> list[Path]:
    """The file of each test image in the folder of one corruption and severity.

    wanted: `<class>/<file>` of the test images. Raises UserError if one is missing.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; it needs one for each severity, with one for each class in it")
    found: dict[str, list[Path]] = {}
    stems: dict[str, list[Path]] = {}
    known = {composed(name) for name in classes}
    for place in sorted(path for path in folder.iterdir() if path.is_dir() and composed(path.name) in known):
        for path in (entry.path for entry in walk(place) if entry.status is not None):
            if pictures.is_picture(path):
                found.setdefault(composed(f"{place.name}/{path.name}"), []).append(path)
                stems.setdefault(composed(f"{place.name}/{path.stem}"), []).append(path)
    result: list[Path] = []
    missing: list[str] = []
    for name in wanted:
        alike = found.get(name) or stems.get(str(Path(name).with_suffix("")), [])
        if len(alike) > 1:
            both = " and ".join(sorted(clean(path.relative_to(folder)) for path in alike))
            raise UserError(f"{folder}: {both} could each be {clean(name)}")
        result += alike
        missing += [] if alike else [name]
    if missing:
        here = [name for name in found if name.split("/")[0] == missing[0].split("/")[0]]
        close = f"; {clean(hint(missing[0], here, limit=3))}" if here else ", nor any of its class"
        absent = f"{len(missing)} of {len(wanted)} test images are not in it: {clean(missing[0])}{close}"
        raise UserError(f"{folder}: {absent}")
    return result
