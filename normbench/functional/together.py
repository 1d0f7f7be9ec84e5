"""Parametrized weights that a network computes together, at the start of its forward pass in training.

Each operation then works on all weights, where a layer by itself has as many small ones, which on a GPU take longer to
launch than to compute. A layer that is called without its network computes its weight alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize

from normbench.functional.constants import constant


class Together(nn.Module):
    """A parametrization (see `torch.nn.utils.parametrize`) of one tensor. A subclass defines `of_all`."""

    def __init__(self) -> None:
        super().__init__()
        self.ahead: Tensor | None = None  # the weight for the next use, if the network has computed it

    @classmethod
    def of_all(cls, parts: Sequence[Any], originals: Sequence[Tensor]) -> Sequence[Tensor]:
        """The weights of several parametrizations of this class, as one use of each gives them in training mode."""
        raise NotImplementedError  # A subclass defines it.

    def alone(self, original: Tensor) -> Tensor:
        """The weight of this parametrization, without those of others."""
        return constant(self, "weight", (original, *self.parameters()), lambda: self.of_all([self], [original])[0])

    def forward(self, original: Tensor) -> Tensor:
        ahead, self.ahead = self.ahead, None
        return self.alone(original) if ahead is None else ahead


class Ahead:
    """The hooks of a network, before and after its forward pass in training. parts: those computed in this pass."""

    def __init__(self) -> None:
        self.parts: list[Together] = []

    def compute(self, network: nn.Module, _: Any) -> None:
        """Computes all weights, those of each class together."""
        self.parts = []
        used: dict[type[Together], list[tuple[Together, Tensor]]] = {}
        for each in network.modules() if network.training else ():
            if isinstance(each, parametrize.ParametrizationList):
                part = each[0]
                if isinstance(part, Together) and part.training:
                    used.setdefault(type(part), []).append((part, each.original))
        for kind, of_kind in used.items():
            parts, originals = map(list, zip(*of_kind, strict=True))
            for part, weight in zip(parts, kind.of_all(parts, originals), strict=True):
                part.ahead = weight
            self.parts += parts

    def forget(self, *_: Any) -> None:
        """Drops the weights that the pass had no use for."""
        for part in self.parts:
            part.ahead = None
        self.parts = []


def compute_together(network: nn.Module) -> None:
    """Makes a network compute the weights of its `Together` parametrizations ahead of each forward pass in training."""
    ahead = Ahead()
    network.register_forward_pre_hook(ahead.compute)
    network.register_forward_hook(ahead.forget)
