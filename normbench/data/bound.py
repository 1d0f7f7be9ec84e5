"""Descriptions of a prepared dataset and of its corrupted test images, from which runs load them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from normbench.system.quantities import Finite, Sha256
from normbench.system.schema import ImageSize, NotNegative, Positive, PositiveReal, Seed, Share, Strict


def _not_bool(value: Any) -> Any:
    if isinstance(value, bool):  # It equals a number, so that `Literal` takes it.
        raise ValueError("must be 1 or 3")
    return value


Channels = Annotated[Literal[1, 3], BeforeValidator(_not_bool)]


class Validation(Strict):
    """Training images that are held out, and take the place of the test images.

    fraction: of each class. seed: of their choice.
    """

    fraction: Share
    seed: Seed


class Masks(Strict):
    """The masks of a dataset of segmentation.

    ignored: the label of pixels that count nowhere. names: of the classes, in the order of their labels.
    """

    ignored: NotNegative
    names: list[str]


class Bound(Strict):
    """A prepared dataset: where it is stored and what it contains.

    path: the folder of its arrays. fingerprint: sha256 over the arrays. image_size: in pixels, one number for a square,
    or height and width. train, test: numbers of images. mean, std: the mean and standard deviation of each channel with
    which inputs are normalized, for pixels in 0..1. origin: where the data came from. note: a remark about the data for
    readers of the results, or None. validation: for a run that must not see the test images, those that it is measured
    on instead. reader_code: for training images that stay in their files, the digest of the code that reads them, and
    otherwise None. masks: of a dataset of segmentation, whose images have masks and no labels.
    """

    name: str
    path: str
    fingerprint: Sha256
    classes: Positive
    channels: Channels
    image_size: ImageSize
    train: Positive
    test: Positive
    mean: list[Finite]
    std: list[PositiveReal]
    origin: str
    note: str | None = None
    validation: Validation | None = None
    reader_code: str | None = None
    masks: Masks | None = None

    def identity(self, normalized: bool = True) -> dict[str, Any]:
        """Returns what shapes a run: the content and, for classifiers, the number of classes and the normalization.

        normalized: False for GANs, which learn images in -1..1 and see no labels.
        """
        kept = {"fingerprint", "classes", "mean", "std"} if normalized else {"fingerprint"}
        kept |= {key for key in ("validation", "reader_code") if getattr(self, key) is not None}
        return self.model_dump(mode="json", include=kept)


class Corrupted(Strict):
    """The corrupted test images of a dataset, as described by the `meta.json` next to them.

    path: their folder. names, severities: the corruptions and their severities. source_fingerprint: the fingerprint of
    the dataset. sha256: the checksum of each file. engine, constants, seed: how the images were made, or None for
    published ones. published: the folder of published images, or None. versions: the versions of the packages on which
    the bytes of the images depend. own: of the user's own corruptions, by name, `reference` and the digest `code`.
    computed: None if the images are stored; for images that are computed, or read from published files, while networks
    are evaluated, a digest for each corruption of the code that computes them, or of the files.
    """

    path: str
    names: list[str]
    severities: list[int]
    source_fingerprint: Sha256
    sha256: dict[str, Sha256]
    engine: str | None
    constants: str | None
    seed: int | None
    published: str | None
    versions: dict[str, str | None]
    own: dict[str, dict[str, str]] = {}
    computed: dict[str, str] | None = None
