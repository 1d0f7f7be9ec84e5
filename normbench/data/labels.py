"""Training labels that are partly wrong, and training sets that are only a part.

Both are drawn from the suite's seed alone, so that all variants and all their runs see the same images and labels.
"""

from __future__ import annotations

from typing import Annotated, Literal, get_args

import numpy as np
from pydantic import Field

from normbench.system.errors import UserError, hint
from normbench.system.schema import Strict

Noise = Literal["symmetric", "symmetric_other", "asymmetric", "cyclic"]

# Class -> the class that it is taken for, of CIFAR-10: truck and automobile, bird and airplane, cat and dog, deer and
# horse. Settings of ConvNorm's protocol (Liu et al., arXiv 2103.00673; shengliu66/ConvNorm at aad1043a).
CIFAR10_CONFUSIONS = {2: 0, 3: 5, 4: 7, 5: 3, 9: 1}


class LabelNoise(Strict):
    """Which training labels are wrong (see `corrupt_labels`). fraction: of the labels, those that are replaced."""

    kind: Noise = "symmetric"
    fraction: Annotated[float, Field(ge=0, le=1)]


def corrupt_labels(
    labels: np.ndarray, fraction: float, classes: int, seed: int, kind: Noise = "symmetric"
) -> np.ndarray:
    """Labels (N,), integers below `classes`, of which a fraction is replaced; a new array of the same type.

    kind: `symmetric` replaces a fraction of all labels by a class drawn from all of them, the true one included, so
    that fewer are wrong in the end (the protocol of ConvNorm's code); `symmetric_other` by one of the other classes;
    `asymmetric` replaces a fraction of each class of CIFAR-10 that has a similar one by that one, class by class on the
    labels as they are by then (as that code does); `cyclic` a fraction of each class by the next class.
    Raises UserError for values out of range, and for `asymmetric` with other than 10 classes.
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
    """The positions of a fraction of a class, in random order."""
    members = random.permutation(np.flatnonzero(labels == label))
    return members[: round(fraction * len(members))]


def part_of_each_class(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Ascending positions (M,) of a fraction of every class, at least one image of each.

    Nested: the positions of a smaller fraction are among those of a larger one with the same seed.
    """
    if not 0 < fraction <= 1:
        raise UserError(f"train_fraction = {fraction}: must be above 0 and at most 1")
    random = np.random.Generator(np.random.Philox(seed))
    parts = []
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        parts.append(members[: max(1, int(fraction * len(members)))])
    return np.sort(np.concatenate(parts)) if parts else np.zeros(0, np.intp)
