"""Loads the images of a run, in the form in which the training of its kind takes them."""

from __future__ import annotations

from pathlib import Path

from normbench.data import intact, prepared, scenes, streamed
from normbench.data.bound import Bound
from normbench.data.prepared import Arrays, Splits
from normbench.data.scenes import MaskedArrays, ScenePair

Data = Splits | ScenePair


def load(bound: Bound, device: str) -> Data:
    """Reads both splits of a prepared dataset for a device. Streamed images and those of segmentation stay in files."""
    return streamed.load(bound, device) if bound.masks is None else scenes.load(bound, device)


def read(bound: Bound) -> Arrays | MaskedArrays | None:
    """Reads the arrays of a prepared dataset, to be sent to another machine; None for streamed images."""
    if bound.masks is not None:
        return scenes.read(bound)
    return prepared.read(Path(bound.path)) if bound.reader_code is None else None


def placed(arrays: Arrays | MaskedArrays | None, bound: Bound, device: str) -> Data:
    """The arrays of `read` as `load` returns them. Raises UserError if streamed images are not those of the dataset."""
    if arrays is None:
        intact.check_bound(bound)
        return load(bound, device)
    if isinstance(arrays, MaskedArrays):
        return scenes.placed(arrays, bound, device)
    return prepared.placed(arrays, bound, device)
