"""Label noise, and training on a fraction of the training set.

Both depend only on the suite's seed, so that all variants and all their runs see the same images and labels.
"""

from __future__ import annotations

from typing import Annotated, Literal, get_args

import numpy as np
from pydantic import Field

from normbench.system.errors import UserError, hint
from normbench.system.schema import Strict

Noise = Literal["symmetric", "symmetric_other", "asymmetric", "cyclic"]

# Class -> the class that it is mistaken for, in CIFAR-10: bird -> airplane, cat -> dog, deer -> horse, dog -> cat,
# truck -> automobile. From ConvNorm's protocol (Liu et al., arXiv 2103.00673; shengliu66/ConvNorm at aad1043a).
CIFAR10_CONFUSIONS = {2: 0, 3: 5, 4: 7, 5: 3, 9: 1}


class LabelNoise(Strict):
    """Label noise in the training set. kind: see `corrupt_labels`. fraction: the fraction of labels to replace."""

    kind: Noise = "symmetric"
    fraction: Annotated[float, Field(ge=0, le=1)]


def corrupt_labels(
    labels: np.ndarray, fraction: float, classes: int, seed: int, kind: Noise = "symmetric"
) -> np.ndarray:
    """A copy of the labels in which a fraction is replaced. labels: (N,), integers below `classes`.

    kind: which labels are replaced, and by what:

    - `symmetric`: a fraction of all labels, by a class drawn from all classes. This includes the true one, so fewer
      labels are wrong in the end. This is the protocol of ConvNorm's code.
    - `symmetric_other`: a fraction of all labels, by a class drawn from the other classes.
    - `asymmetric`: for CIFAR-10, a fraction of each class in CIFAR10_CONFUSIONS, by the similar class given there.
      Classes are processed one after the other, on labels that earlier ones have already changed, as in that code.
    - `cyclic`: a fraction of each class, by the next class.

    Raises UserError for values out of range, and for `asymmetric` unless there are 10 classes.
    """
    if kind not in get_args(Noise):
        raise UserError(f"label noise of kind {kind!r}: {hint(kind, get_args(Noise))}")
    if not 0 <= fraction <= 1:
        raise UserError(f"label noise: fraction = {fraction}: must be between 0 and 1")
    if kind == "asymmetric" and classes != 10:
        raise UserError(f"label noise of kind 'asymmetric' is for CIFAR-10, not for {classes} classes; try 'cyclic'")
    random = np.random.Generator(np.random.Philox(seed))
    result = np.array(labels)
    if kind in ("symmetric", "symmetric_other"):
        chosen = random.permutation(len(result))[: round(fraction * len(result))]
        if kind == "symmetric":
            result[chosen] = random.integers(classes, size=len(chosen))
        else:
            result[chosen] = (result[chosen] + random.integers(1, classes, size=len(chosen))) % classes
        return result
    if kind == "cyclic":
        for label in range(classes):
            chosen = of_class(labels, label, fraction, random)
            result[chosen] = (label + 1) % classes
        return result
    for label, other in CIFAR10_CONFUSIONS.items():
        result[of_class(result, label, fraction, random)] = other
    return result


def of_class(labels: np.ndarray, label: int, fraction: float, random: np.random.Generator) -> np.ndarray:
    """The positions (M,) of a random fraction of the labels that equal `label`, in random order."""
    members = random.permutation(np.flatnonzero(labels == label))
    return members[: round(fraction * len(members))]


def part_of_each_class(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Ascending positions (M,) of a random fraction of every class, with at least one image of each.

    With the same seed, the positions for a smaller fraction are a subset of those for a larger one. Raises UserError
    unless the fraction is above 0 and at most 1.
    """
    if not 0 < fraction <= 1:
        raise UserError(f"train_fraction = {fraction}: must be above 0 and at most 1")
    random = np.random.Generator(np.random.Philox(seed))
    parts = []
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        parts.append(members[: max(1, int(fraction * len(members)))])
    return np.sort(np.concatenate(parts)) if parts else np.zeros(0, np.intp)


def validation_split(labels: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Ascending positions of the labels that are kept and of those that are held out, a random fraction of each class.

    The smaller part of a class is rounded up, so that one image of a class at least is kept.
    """
    kept = part_of_each_class(labels, 1 - fraction, seed)
    return kept, np.setdiff1d(np.arange(len(labels)), kept)
