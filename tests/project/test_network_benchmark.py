"""The networks that `benchmarks/networks.py` measures, and the floors of what it prints, in a narrow network."""

from __future__ import annotations

from typing import Literal

import pytest

from benchmarks import networks
from normbench.training.recipe import Recipe


@pytest.mark.parametrize("name", [networks.BASE, *networks.METHODS])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_method_can_be_measured(name: str, precision: Literal["float32", "bfloat16"]) -> None:
    recipe = Recipe(epochs=1, batch_size=4, crop_padding=0, precision=precision)
    case = networks.case("resnet8", name, recipe)
    case.step()
    case.evaluation()
    assert bool(case.step_parts) == (name != networks.BASE)
    assert all(part.operations >= 0 and part.moved >= 0 for part in case.step_parts + case.evaluation_parts)
