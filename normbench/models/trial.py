"""Whether a network takes images of a size, found by a trial where the model's entry does not tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from normbench.methods.base import Method
from normbench.models.base import Model
from normbench.system import blame


def size_problem(model: Model, options: Mapping[str, Any], height: int, width: int, channels: int = 3) -> str | None:
    """A message if the model does not accept images of a size in pixels, or None if it does.

    An entry in the table of models only tells the least size and a divisor of the sides. So for images that are not
    square, a classifier is built as well, with plain layers, and is given two images: a network that flattens its
    features into a linear layer fails, one with global pooling does not.
    """
    problem = model.size_problem(height, width)
    if problem or height == width or model.kind != "classifier":
        return problem
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        try:
            network = model.function(Method(), channels, 2, **options).eval()
        except Exception as error:  # The model may be anybody's, and its options may ask for more than the memory.
            where = blame.place(error)
            return f"{where}: {blame.one_line(error)}" if where else blame.one_line(error)
        try:
            network(torch.zeros(2, channels, height, width))
        except Exception as error:
            reason = blame.one_line(error)
            return f"does not fit images of {height} x {width}, which are not square: {reason[:160]}"
    return None
