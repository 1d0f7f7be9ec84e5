"""The dataset of a task as its runs meet it."""

from __future__ import annotations

from typing import Any

from normbench.system.schema import Strict


class Bound(Strict):
    """A prepared dataset: where it lies and what it holds.

    path: the folder of its arrays. fingerprint: sha256 over the arrays. image_size: pixels a side. train, test: numbers
    of images. mean, std: of each channel, pixels in 0..1, by which inputs are normalized. origin: where the data came
    from. note: what readers of results should know about these data.
    """

    name: str
    path: str
    fingerprint: str
    classes: int
    channels: int
    image_size: int
    train: int
    test: int
    mean: list[float]
    std: list[float]
    origin: str
    note: str | None = None

    def identity(self) -> dict[str, Any]:
        """What of the dataset shapes a run: its content, the number of classes and the normalization of inputs."""
        return self.model_dump(mode="json", include={"fingerprint", "classes", "mean", "std"})


class Corrupted(Strict):
    """The corrupted test images of a dataset, as `meta.json` beside them says.

    names, severities: which there are. source_fingerprint: the dataset's. sha256: of each file. engine, constants and
    seed: how they were made; null for published ones, which lie in the folder `published`. versions: of the packages on
    which their bytes depend.
    """

    path: str
    names: list[str]
    severities: list[int]
    source_fingerprint: str
    sha256: dict[str, str]
    engine: str | None
    constants: str | None
    seed: int | None
    published: str | None
    versions: dict[str, str | None]
