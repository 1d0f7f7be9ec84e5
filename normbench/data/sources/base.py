"""The definition of a data source: a frozen dataclass with one hook, `write`, registered under a name.

A source is one file in this folder, or a file of the user's own that params.yaml names as `path/to/file.py:name`.
docs/extending.md has a complete example.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Protocol, TypeVar

import numpy as np
from pydantic import AfterValidator

from normbench.system.errors import UserError
from normbench.system.plugins import Table, registers
from normbench.system.size import Size

# The keys that every dataset in params.yaml may have. All its other keys are options of its source.
COMMON_KEYS = ("source", "image_size", "mean", "std", "note")
# Further keys that a resolved dataset has, besides the options of its source. No option may have one of these names.
ADDED_KEYS = ("name", "source_code", "outside")


def _hexadecimal(value: str) -> str:
    if not re.fullmatch("[0-9a-f]{64}", value):
        raise ValueError("must be 64 hexadecimal digits, 0-9 and a-f")
    return value


Sha256 = Annotated[str, AfterValidator(_hexadecimal)]


@dataclass(frozen=True)
class Request:
    """What a source is asked to write.

    dataset: the name of the dataset in params.yaml, for error lines and progress bars.
    image_size: the size in pixels that all images must have, one number for a square or (height, width), or None to
        keep the stored size.
    """

    dataset: str
    image_size: Size | None

    def error(self, message: str) -> UserError:
        """An exception to raise for what the user can put right. Its text is `dataset 'NAME': ` and the message."""
        return UserError(f"dataset '{self.dataset}': {message}")


class Sliced(Protocol):
    """Images, uint8 (N, H, W, C), of which slices can be taken."""

    shape: tuple[int, ...]

    def __len__(self) -> int: ...

    def __getitem__(self, index: slice, /) -> np.ndarray: ...


@dataclass(frozen=True)
class Streaming:
    """Training images that stay in their files (see `normbench.data.stream`).

    settings: how they are read, for meta.json. content: what of this shapes their pixels. images: they, as test images
    are prepared.
    """

    settings: dict[str, Any]
    content: dict[str, Any]
    images: Sliced


@dataclass(frozen=True)
class Origin:
    """Where the arrays of a dataset came from, as stated in meta.json and in every record.

    text: an address, a path, or a package with its version.
    sha256: the hexadecimal sha256 of the file that was read, or None where there is no single file.
    class_names: the name of each class in the order of the labels, or None where the classes have no names.
    notes: what readers of the results should know of how the data were read, e.g. which files were left out. They are
        printed, and added to the note of the dataset.
    test_files: for each test image `<class>/<file>`, by which published corruptions of it are found, or None where the
        images are no files.
    background: the colour under the transparent pixels of image files.
    stream: how training images are read that stay in their files, or None.
    """

    text: str
    sha256: str | None = None
    class_names: list[str] | None = None
    notes: Sequence[str] = ()
    test_files: list[str] | None = None
    background: str = "white"
    stream: Streaming | None = None


@dataclass(frozen=True)
class Source:
    """A place that datasets come from. Subclass it as a frozen dataclass and decorate it with `source("name")`.

    The fields of the subclass are its options: the keys that a dataset with this source may have in params.yaml beside
    those of COMMON_KEYS. Their types and defaults are checked when params.yaml is resolved. A field without a default
    is an option that must be given. A `__post_init__` may raise ValueError for values that do not go together.

    A source whose options all have defaults is itself a dataset: `suite.datasets` and tasks may name it without an
    entry under `datasets`. Such a source sets `native_size`.

    No source imports torch, so that the download starts quickly, and a package that only one source needs is imported
    inside its functions.
    """

    name: ClassVar[str]
    """The name that the source is registered under; the decorator sets it."""

    native_size: ClassVar[Size | None] = None
    """The height and width of the images in pixels, one number for squares, if the dataset sets no `image_size`; None
    if they depend on the data. Models that do not accept images of this size are rejected when params.yaml is
    resolved."""

    train_images: ClassVar[int | None] = None
    """The number of training images, or None if it depends on the data. Costs are estimated from it before the data are
    there."""

    needs_image_size: ClassVar[bool] = False
    """Whether every dataset of this source must set `image_size`."""

    streamed: ClassVar[bool] = False
    """Whether the training images stay in their files and are read while networks are trained."""

    has_masks: ClassVar[bool] = False
    """Whether it is a source for segmentation, whose `write` writes `train_masks.npy` and `test_masks.npy` in the place
    of labels: uint8 (N, H, W), with classes counted from 0 and 255 for pixels that count nowhere. It names all classes
    in `Origin.class_names`. `normbench.data.masks` reads and writes pairs of image files."""

    def write(self, request: Request, out: Path) -> Origin:
        """Writes the four arrays of a dataset into the folder `out`, which exists and is empty.

        They are `train_images.npy` and `test_images.npy`, uint8 (N, H, W, C) of the size request.image_size (where that
        is not None) and with 1 or 3 channels, and `train_labels.npy` and `test_labels.npy`, int64 (N,), counted from 0
        without gaps. `normbench.data.arrays.save` resizes, checks and writes arrays that fit into the memory.

        Raises UserError (see `Request.error`) where the data cannot be had or are not what they should be.
        """
        # Every source defines it; this is what its author sees who has forgotten it.
        raise NotImplementedError(f"{type(self).__name__} does not define write")

    def reads(self) -> Iterable[str]:
        """The paths of the files and folders of the user that `write` reads, relative or with `~`.

        A dataset is prepared again if their names or contents change. By default they are the options that are texts or
        lists of texts, as far as those name files or folders.
        """
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            yield from (text for text in (value if isinstance(value, list) else [value]) if isinstance(text, str))


TABLE: Table[type[Source]] = Table("normbench.data.sources", "source")

Kind = TypeVar("Kind", bound=type[Source])


@registers
def source(name: str) -> Callable[[Kind], Kind]:
    """Registers a subclass of Source under a name. The decorator stands above `@dataclass(frozen=True)`.

    Raises TypeError where the class is not a dataclass derived from Source, or has an option with a reserved name.
    """

    def register(kind: Kind) -> Kind:
        if not issubclass(kind, Source) or "__dataclass_fields__" not in vars(kind):
            raise TypeError(f"@source({name!r}) needs a subclass of Source with @dataclass(frozen=True) below it")
        for field in dataclasses.fields(kind):
            if field.name in (*COMMON_KEYS, *ADDED_KEYS):
                raise TypeError(f"an option of source {name} cannot be called {field.name!r}: every dataset has that")
        kind.name = name
        TABLE.add(name, kind.__module__, kind)
        return kind

    return register
