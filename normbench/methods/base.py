"""The interface of a normalization method: seven hooks that can change a network, its loss or its optimizer groups."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from torch import Tensor, nn

from normbench.functional.convolution import Conv2d


@dataclass(frozen=True)
class Limits:
    """Bounds on a numeric option of a method, checked when params.yaml is resolved.

    above, below: exclusive bounds. least: an inclusive lower bound. None for no bound.
    """

    above: float | None = None
    least: float | None = None
    below: float | None = None

    def check(self, value: float) -> float:
        """Returns the value, or raises ValueError if it is out of bounds."""
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

# The activations that a Role names, beside those of `normbench.models.activations`. The slope of the leaky ReLU is that
# of SNGAN's discriminator.
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "": nn.Identity,
    "relu": nn.ReLU,
    "leaky_relu": functools.partial(nn.LeakyReLU, 0.1),
    "sigmoid": nn.Sigmoid,
}


@dataclass(frozen=True)
class Between:
    """The values of an option among which `normbench tune` chooses: from `low` to `high`.

    log: whether to choose evenly by the logarithm. If both ends are whole numbers, so are the values.
    """

    low: float
    high: float
    log: bool = True


@dataclass(frozen=True)
class Role:
    """The place of a layer in its network, for methods that treat places differently.

    place: `stem` (the first convolution), `body`, `downsample` (a shortcut that changes size or channels), `depthwise`
        (a convolution with one input channel per group), `grouped` (one with several channels per group), `projection`
        (the 1x1 convolution at the end of a bottleneck), `gate` (the 1x1 convolutions of squeeze-and-excitation, on
        (N, C, 1, 1), which have no norm), `head` (the linear classifier), `classifier` (the 1x1 convolution at the end
        of a segmentation head, from channels to logits, which has no norm) or, for an activation, `addition` (it
        follows a residual addition). A norm has the place of the convolution that it belongs to: the one before it, or
        in pre-activation networks the one after it. Any other activation has the place of the norm that it follows.
    stage: index of the stage (a run of blocks at one resolution; the block that lowers it is the first of a stage).
    last_stage: whether that is the last stage.
    last_in_block: whether the layer is the last convolution, or the last norm, before a residual addition. In networks
        without additions it is the last norm of each stage (VGG, SNGAN, LeNet, MLP) or dense layer (DenseNet), and no
        convolution.
    architecture: the family of the network, `resnet`, `vgg`, `sngan`, ...: the name of its file, with a letter for
        networks of a file that are as different as `pnasnet_a` and `pnasnet_b`.
    expansion: for a `projection`, its input channels as a multiple of those of its block.
    activation: for a norm or an activation, the activation that the architecture has there, a key of ACTIVATIONS. It is
        empty for a norm that no activation follows directly, such as the last one before a residual addition.
    """

    place: str
    stage: int = 0
    last_stage: bool = False
    last_in_block: bool = False
    architecture: str = ""
    expansion: int = 1
    activation: str = ""


@dataclass(frozen=True)
class ConvSpec:
    """A convolution that a model asks for: arguments of `torch.nn.Conv2d`, with a square kernel, and its role.

    dilation: pixels from one tap of the kernel to the next. bias: whether it has one though a norm follows it. Methods
    that add a bias of their own, or none, may ignore it.
    """

    in_channels: int
    out_channels: int
    kernel_size: int
    role: Role
    stride: int = 1
    padding: int = 0
    groups: int = 1
    bias: bool = False
    dilation: int = 1

    @property
    def without_norm(self) -> bool:
        """Whether the architecture has no norm that belongs to the convolution: in a gate, and where it classifies."""
        return self.role.place in ("gate", "classifier")

    @property
    def biased(self) -> bool:
        """Whether the architecture's own convolution has a bias: if it asks for one, or has no norm."""
        return self.bias or self.without_norm

    def plain(self, bias: bool, kind: type[Conv2d] = Conv2d) -> Conv2d:
        """The plain convolution that this describes, with the initial weights of the architecture: torch's default.

        kind: its class, which is made like a Conv2d.
        """
        return kind(
            self.in_channels,
            self.out_channels,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            bias=bias,
        )


@dataclass(frozen=True)
class Moment:
    """A time in a training.

    epoch: from 0. epochs: those of the recipe. step: from 0, over the whole training. seed: for random draws; it is
    another one in each step and each run, and the same one again when an interrupted run continues. A GAN's training
    counts its iterations as steps of one epoch.
    """

    epoch: int = 0
    epochs: int = 1
    step: int = 0
    seed: int = 0


START = Moment()


@dataclass(frozen=True)
class Method:
    """A normalization method: subclass it as a frozen dataclass, whose fields are the method's options.

    Models build every layer through `conv`, `norm`, `activation` and `linear`. After a network is built, `initialize`
    is called once.
    Training calls `param_groups` once and `penalty` at every step. By default a network has plain convolutions without
    biases, each followed by batch norm, the activations of its architecture, and a linear classifier. A method object
    has no state of its own: state belongs in modules or buffers of the network, so that it is saved with the network.

    tunable: at most two options that `normbench tune` chooses, each with its values: `Between`, or a tuple of choices.
    """

    tunable: ClassVar[Mapping[str, Between | tuple[bool | int | float | str, ...]]] = {}

    def conv(self, spec: ConvSpec) -> nn.Module:
        """A convolution (N, in, H, W) -> (N, out, H', W'). It has a bias where `spec.biased`."""
        return spec.plain(bias=spec.biased)

    def norm(self, channels: int, *, role: Role) -> nn.Module:
        """The normalization layer that belongs to a convolution, (N, channels, H, W) to the same shape.

        It comes after the convolution or, in pre-activation networks, before it and its activation.
        """
        return nn.BatchNorm2d(channels)

    def activation(self, channels: int, *, role: Role) -> nn.Module:
        """The activation after a norm or after a residual addition, (N, channels, H, W) to the same shape.

        A norm that contains its activation applies it where `role.activation` is not empty. Its method then returns an
        identity here, except for the place `addition`. The gates of squeeze-and-excitation keep their own ReLU.
        """
        return ACTIVATIONS[role.activation]()

    def linear(self, in_features: int, out_features: int, *, role: Role) -> nn.Module:
        """A fully connected layer (N, in) -> (N, out)."""
        return nn.Linear(in_features, out_features)

    def initialize(self, model: nn.Module) -> None:
        """Changes the initial parameters of a built network, or adds buffers to it."""

    def penalty(self, model: nn.Module, moment: Moment = START) -> Tensor | None:
        """A scalar to add to the loss of every training step, or None. moment: the time of that step."""
        return None

    def param_groups(self, model: nn.Module, lr: float, weight_decay: float) -> list[dict]:
        """Parameter groups as in `torch.optim`: dicts with `params` and, if they differ, `lr` and `weight_decay`.

        lr, weight_decay: the values of the recipe, which apply to groups that do not set their own.
        """
        return [{"params": [p for p in model.parameters() if p.requires_grad]}]
