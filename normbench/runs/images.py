"""Loads the images of a run, in the form in which the training of its kind takes them."""

from __future__ import annotations

from pathlib import Path

from normbench.data import prepared, scenes, streamed
from normbench.data.bound import Bound
from normbench.data.prepared import Arrays, Splits
from normbench.data.scenes import MaskedArrays, ScenePair

Data = Splits | ScenePair


def load(bound: Bound, device: str) -> Data:
    """Reads both splits of a prepared dataset for a device. Those that are streamed, and those of
    segmentation, stay in their files.
    """
    return streamed.load(bound, device) if bound.masks is None else scenes.load(bound, device)


def read(bound: Bound) -> Arrays | MaskedArrays:
    """Reads the arrays of a prepared dataset, to be sent to another machine."""
    return prepared.read(Path(bound.path)) if bound.masks is None else scenes.read(bound)


def placed(arrays: Arrays | MaskedArrays, bound: Bound, device: str) -> Data:
    """The arrays of `read` as `load` returns them."""
    if isinstance(arrays, MaskedArrays):
        return scenes.placed(arrays, bound, device)
    return prepared.placed(arrays, bound, device)
