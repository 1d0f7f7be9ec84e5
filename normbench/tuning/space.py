"""What a study searches, and the points of its trials, which are the same numbers for every variant."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from normbench.methods.base import Between, Method
from normbench.system.seeds import derive

Axis = Between | tuple[Any, ...]

LR, WEIGHT_DECAY = Between(1e-3, 1.0), Between(1e-5, 1e-2)
DIMENSIONS = 4  # learning rate, weight decay, and at most two options
DIGITS = 4  # significant ones of a value, so that params.yaml holds what was tried


def axes(method: type[Method]) -> dict[str, Axis]:
    """The axes of the search by name: `lr`, `weight_decay`, and `options.<name>` of what the method declares."""
    return {"lr": LR, "weight_decay": WEIGHT_DECAY} | {f"options.{name}": each for name, each in method.tunable.items()}


def points(space: Mapping[str, Axis], seed: int, count: int) -> list[dict[str, Any]]:
    """The values of the first trials.

    They are those of a scrambled Sobol sequence in four dimensions, of which a space takes the first ones. So a trial's
    values depend on its number and on the suite's seed alone, two variants are tried with the same learning rates and
    weight decays, and a study of more trials begins with those of one of fewer.
    """
    engine = torch.quasirandom.SobolEngine(DIMENSIONS, scramble=True, seed=derive(seed, "tune"))
    shares = engine.draw(count, dtype=torch.float64).tolist()
    return [{name: value(axis, at) for (name, axis), at in zip(space.items(), row, strict=False)} for row in shares]


def value(axis: Axis, share: float) -> Any:
    """The value of an axis at a share, 0..1, of its length."""
    if isinstance(axis, tuple):
        return axis[min(int(share * len(axis)), len(axis) - 1)]
    whole = is_whole(axis)
    low, high = (axis.low - 0.5, axis.high + 0.5) if whole else (axis.low, axis.high)
    found = math.exp(math.log(low) + share * math.log(high / low)) if axis.log else low + share * (high - low)
    found = round(found) if whole else float(f"{found:.{DIGITS}g}")
    return min(max(found, axis.low), axis.high)


def is_whole(axis: Between) -> bool:
    """Whether the values of an axis are whole numbers."""
    return isinstance(axis.low, int) and isinstance(axis.high, int)


def distribution(axis: Axis) -> BaseDistribution:
    """An axis as Optuna describes it."""
    if isinstance(axis, tuple):
        return CategoricalDistribution(axis)
    if is_whole(axis):
        return IntDistribution(int(axis.low), int(axis.high), log=axis.log)
    return FloatDistribution(axis.low, axis.high, log=axis.log)
