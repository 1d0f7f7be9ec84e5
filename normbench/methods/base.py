"""What a method may change in a network or in its loss: six hooks, each with a default that changes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from torch import Tensor, nn

from normbench.functional.convolution import Conv2d


@dataclass(frozen=True)
class Limits:
    """Bounds of a number among a method's options, checked when params.yaml is resolved."""

    above: float | None = None
    least: float | None = None
    below: float | None = None

    def check(self, value: float) -> float:
        if self.above is not None and not value > self.above:
            raise ValueError(f"must be above {self.above:g}")
        if self.least is not None and not value >= self.least:
            raise ValueError(f"must be at least {self.least:g}")
        if self.below is not None and not value < self.below:
            raise ValueError(f"must be below {self.below:g}")
        return value

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.no_info_after_validator_function(self.check, handler(source))


Count = Annotated[int, Limits(least=1)]
Positive = Annotated[float, Limits(above=0, below=float("inf"))]
NotNegative = Annotated[float, Limits(least=0, below=float("inf"))]


@dataclass(frozen=True)
class Role:
    """The place of a layer in its network, for methods that treat places differently.

    place: `stem` (the first convolution), `body`, `downsample` (a shortcut that changes size or channels), `depthwise`
        and `grouped` (3x3 convolutions whose groups have one channel, or more), `projection` (a 1x1 convolution at the
        end of a bottleneck), `gate` (the 1x1 convolutions of squeeze-and-excitation, on (N, C, 1, 1), which have no
        norm) or `head` (the classifier). A norm has the place of its convolution, which follows it in
        pre-activation networks.
    stage: index of the stage (a run of blocks at one resolution; the block that lowers it is the first of a stage).
    last_stage: whether no stage comes after it.
    last_in_block: whether it is the last convolution, or the last norm, before a residual addition. In networks
        without additions it is the last norm of each stage (VGG, SNGAN) or dense layer (DenseNet), and no convolution.
    architecture: the family of the network: `resnet`, `vgg`, `sngan`, ...; the name of its file.
    expansion: of a `projection`, how many times more channels it takes than its block does.
    """

    place: str
    stage: int = 0
    last_stage: bool = False
    last_in_block: bool = False
    architecture: str = ""
    expansion: int = 1


@dataclass(frozen=True)
class ConvSpec:
    """A convolution that a model asks for: what `torch.nn.Conv2d` takes, with square kernels, and its role."""

    in_channels: int
    out_channels: int
    kernel_size: int
    role: Role
    stride: int = 1
    padding: int = 0
    groups: int = 1

    def plain(self, bias: bool) -> Conv2d:
        """The plain convolution of this description, with torch's initial weights."""
        return Conv2d(
            self.in_channels,
            self.out_channels,
            self.kernel_size,
            self.stride,
            self.padding,
            groups=self.groups,
            bias=bias,
        )


@dataclass(frozen=True)
class Method:
    """A normalization method: subclass it as a frozen dataclass, whose fields are the method's options.

    Models build every layer through `conv`, `norm` and `linear`; training calls `initialize` once, and `penalty` and
    `param_groups` as it needs them. The defaults are those of a network with plain convolutions, no biases in front of
    a norm, and the norm that the subclass gives. A method has no state: what it must keep lives in modules of the
    network, so that it is saved with it.
    """

    def conv(self, spec: ConvSpec) -> nn.Module:
        """A convolution (N, in, H, W) -> (N, out, H', W'). It has no bias, as a norm follows it, except in a gate."""
        return spec.plain(bias=spec.role.place == "gate")

    def norm(self, channels: int, *, role: Role) -> nn.Module:
        """The layer after a convolution, or before its activation where that comes first: keeps (N, channels, H, W)."""
        return nn.BatchNorm2d(channels)

    def linear(self, in_features: int, out_features: int, *, role: Role) -> nn.Module:
        """A fully connected layer (N, in) -> (N, out)."""
        return nn.Linear(in_features, out_features)

    def initialize(self, model: nn.Module) -> None:
        """Changes the initial parameters of a built network, or adds buffers to it."""

    def penalty(self, model: nn.Module) -> Tensor | None:
        """A scalar to add to the loss of every training step, or None."""
        return None

    def param_groups(self, model: nn.Module, lr: float, weight_decay: float) -> list[dict]:
        """Optimizer groups as in `torch.optim`: dicts with `params` and, where they differ, `lr`, `weight_decay`."""
        return [{"params": [p for p in model.parameters() if p.requires_grad]}]
