"""Tiny ImageNet: 200 classes of ImageNet at 64 x 64 pixels, from the archive of Stanford's course CS231n."""

from __future__ import annotations

import os
import re
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from normbench.data import fetch
from normbench.data.sources.base import Origin, Request, Source, source
from normbench.data.sources.imagefolder import ImageFolder
from normbench.system import files, layout
from normbench.system.progress import Progress
from normbench.system.text import say

FOLDER = "tiny-imagenet-200"
# What is read of the archive: images of both splits, and the classes of those that are held out.
READ = re.compile(rf"{FOLDER}/(train/n\d+/images/[\w.-]+\.JPEG|val/images/[\w.-]+\.JPEG|val/val_annotations\.txt)")
LARGEST = 1_000_000_000  # bytes of all files that are read, unpacked


@source("tiny_imagenet")
@dataclass(frozen=True)
class TinyImageNet(Source):
    """100,000 colour images of 64 x 64 pixels in 200 classes to train on, and the 10,000 for validation as its test.

    The labels of the official test images are not public. The archive is downloaded, checked and unpacked once; where a
    folder `tiny-imagenet-200` lies in the download folder, in that of the source, or in a mirror that is a folder, it
    is read instead. Classes have the names of ImageNet (`n01443537`), in their order.

    mirror: a folder or an http(s) address that has the archive, in place of the official address. Where it is not set,
        the environment variable NORMBENCH_MIRROR is.
    """

    mirror: str | None = None

    native_size = 64
    train_images = 100_000
    archive: ClassVar[fetch.Archive] = fetch.Archive(
        f"{FOLDER}.zip",
        "90528d7ca1a48142e341f4ef8d21d0de",
        (f"http://cs231n.stanford.edu/{FOLDER}.zip",),
        248_100_043,
    )

    def reads(self) -> Iterable[str]:
        """Nothing that could change: the archive is checked, and a folder counts as what it is read from."""
        return ()

    def write(self, request: Request, out: Path) -> Origin:
        """Reads the images as those of an image folder; see the class. Raises UserError if they cannot be had."""
        folder, sha256 = self._unpacked(request)
        size = request.image_size or self.native_size
        origin = ImageFolder(str(folder)).write(replace(request, image_size=size), out)
        text = self.archive.addresses[0] if sha256 else f"{folder} (train, val)"
        notes = [note for note in origin.notes if "boxes" not in note and "outside of the splits" not in note]
        return replace(origin, text=text, sha256=sha256, notes=notes, test_files=None)

    def _unpacked(self, request: Request) -> tuple[Path, str | None]:
        """The folder with the images, and the sha256 of the archive that they are from; None for a user's folder."""
        downloads = layout.downloads() / self.name
        made, packed = downloads / f"{self.archive.checksum}.unpacked" / FOLDER, downloads / self.archive.name
        if made.is_dir() and packed.is_file():
            return made, files.sha256(packed)
        mirror = self.mirror or os.environ.get("NORMBENCH_MIRROR") or ""
        bases = [downloads, layout.downloads()]
        if mirror and not fetch.is_address(mirror):
            bases += [Path(mirror).expanduser(), Path(mirror).expanduser() / self.name]
        for base in bases:
            if (base / FOLDER / "val" / "val_annotations.txt").is_file():
                say(f"{request.dataset}: {self.archive.name} is not needed: {base / FOLDER} has its files")
                return base / FOLDER, None
        (path,) = fetch.fetch([self.archive], downloads, request.dataset, self.name, self.mirror)
        with files.atomic_folder(made.parent) as folder:
            try:
                _unzip(path, folder, f"unpack {self.archive.name}")
            except ValueError as error:
                raise request.error(f"{path}: {error}") from None
        return made, files.sha256(path)


def _unzip(path: Path, out: Path, title: str) -> None:
    """Writes the files that are read. Raises ValueError if the archive is damaged, too large or of another form."""
    try:
        with zipfile.ZipFile(path) as archive:
            wanted = [info for info in archive.infolist() if READ.fullmatch(info.filename)]
            if not wanted:
                raise ValueError(f"has no {FOLDER}/train")
            if sum(info.file_size for info in wanted) > LARGEST:
                raise ValueError(f"has more than {files.amount(LARGEST)} when it is decompressed")
            with Progress(title, len(wanted)) as progress:
                for done, info in enumerate(wanted, start=1):
                    target = out / info.filename  # READ has no `..` in it
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(archive.read(info))
                    progress.update(done, "")
                progress.close(f"{len(wanted):,} files")
    # zipfile raises NotImplementedError for a compression that it does not know, and RuntimeError for encrypted files.
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"truncated, damaged or of another form: {error}") from None
