"""The search space, and the points of its trials."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import pytest
import torch

from normbench.methods import registry
from normbench.methods.base import Between, Method
from normbench.methods.batch_norm import BatchNorm
from normbench.tuning import space
from normbench.tuning.space import LR, WEIGHT_DECAY


class Two(Method):
    tunable: ClassVar = {"groups": Between(1, 64), "form": ("sum", "log")}


AXES = space.axes(Two)


def test_the_same_learning_rates_for_every_variant() -> None:
    """Whatever else it declares; and they do not hang on how many trials there are, nor on torch's generator."""
    assert space.axes(BatchNorm) == {"lr": LR, "weight_decay": WEIGHT_DECAY}
    few = space.points(space.axes(BatchNorm), 0, 5)
    torch.manual_seed(7)
    torch.rand(3)
    many = space.points(AXES, 0, 32)
    assert few == [{"lr": each["lr"], "weight_decay": each["weight_decay"]} for each in many[:5]]
    assert many != space.points(AXES, 1, 32)


def test_points_fill_the_space_evenly() -> None:
    """Of a Sobol sequence each half, quarter, ... of an axis has as many of the first 32, by the logarithm."""
    found = space.points(AXES, 3, 32)
    for name, axis in (("lr", LR), ("weight_decay", WEIGHT_DECAY)):
        shares = [math.log(each[name] / axis.low) / math.log(axis.high / axis.low) for each in found]
        assert [sum(int(8 * share) == part for share in shares) for part in range(8)] == [4] * 8
    assert sorted(each["options.form"] for each in found) == ["log"] * 16 + ["sum"] * 16
    assert all(isinstance(each["options.groups"], int) and 1 <= each["options.groups"] <= 64 for each in found)


@pytest.mark.parametrize(
    ("axis", "share", "expected"),
    [
        (Between(1e-3, 1.0), 0.0, 1e-3),
        (Between(1e-3, 1.0), 0.5, 0.03162),
        (Between(0.0, 2.0, log=False), 0.25, 0.5),
        (Between(1e-5, 1.00001), 0.999999999, 1.0),
        (Between(1, 4, log=False), 0.0, 1),
        (Between(1, 4, log=False), 0.9999, 4),
        (Between(1, 4, log=False), 0.26, 2),
        ((True, "a", 3), 0.34, "a"),
        ((True, "a", 3), 0.9999, 3),
    ],
)
def test_values(axis: Any, share: float, expected: Any) -> None:
    """With four digits, so that params.yaml has the very value that was tried."""
    found = space.value(axis, share)
    assert found == expected
    assert type(found) is type(expected)
    assert space.distribution(axis)._contains(space.distribution(axis).to_internal_repr(found))


def test_what_methods_declare_are_values_of_their_options() -> None:
    for name in registry.names():
        cls = registry.method_class(name)
        for option, axis in cls.tunable.items():
            for share in (0.0, 0.5, 0.999):
                assert getattr(registry.build(name, {option: space.value(axis, share)}), option) is not None
