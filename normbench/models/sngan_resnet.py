"""SNGAN for small images: the residual networks of Miyato et al., arXiv 1802.05957, table 4.

Behaviour of the authors' code, pfnet-research/sngan_projection at revision 3ff93ef5: blocks double the image by nearest
upsampling and halve it by average pooling, each shortcut that changes the size is a 1x1 convolution, the first block of
the discriminator has no activation in front, and features are summed over the image. Weights are drawn from the uniform
distribution of Glorot and Bengio, those of 3x3 convolutions in blocks sqrt(2) times as large; biases start at 0. A
method that draws its own weights keeps to them.

With classes, the norms inside the blocks of the generator have a scale and shift for each class, and the score of the
discriminator is that of the features plus their product with a vector of the class (arXiv 1802.05637).

Smaller images than 32x32, or such that 8 does not divide, are doubled twice and not three times.

Deviations: the discriminator's last layer has a bias. The method's norm comes before each activation of its blocks and
before the last, where the paper has none.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from normbench.functional.class_affine import ClassNorm
from normbench.functional.convolution import Conv2d
from normbench.methods.base import ConvSpec, Method, Role
from normbench.models.base import register_gan
from normbench.models.sngan import halvings, projection, scores

GAIN = math.sqrt(2)  # of the 3x3 convolutions in blocks


@dataclass(frozen=True)
class Drawn(ConvSpec):
    """A convolution whose plain form has weights drawn as by Glorot and Bengio, times a gain, and biases of 0."""

    gain: float = 1.0

    def plain(self, bias: bool, kind: type[Conv2d] = Conv2d) -> Conv2d:
        layer = super().plain(bias, kind)
        nn.init.xavier_uniform_(layer.weight, self.gain)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
        return layer


def three(in_channels: int, out_channels: int, role: Role) -> Drawn:
    """A 3x3 convolution in a block."""
    return Drawn(in_channels, out_channels, 3, role, padding=1, gain=GAIN)


def one(in_channels: int, out_channels: int, role: Role) -> Drawn:
    """The 1x1 convolution of a shortcut."""
    return Drawn(in_channels, out_channels, 1, role)


@torch.no_grad()
def redrawn(layer: nn.Module) -> nn.Module:
    """The layer; a linear one with weights (out, in) of torch's default, plain or below a parametrization, is scaled.

    Then its weights are distributed as by Glorot and Bengio, and its biases are 0.
    """
    if isinstance(layer, nn.Linear):
        shape, own = (layer.out_features, layer.in_features), dict(layer.named_parameters())
        weight = own.get("weight", own.get("parametrizations.weight.original"))
        if weight is not None and weight.shape == shape:
            weight.mul_(math.sqrt(6 * shape[1] / sum(shape)))  # torch draws within 1 / sqrt(in)
        if layer.bias is not None:
            layer.bias.zero_()
    return layer


@dataclass(frozen=True)
class AuthorsGenerator(Method):
    """What the authors' generator has: batch norm, and convolutions with biases.

    affine: whether the batch norm has a scale and shift of its own.
    """

    affine: bool = True

    def conv(self, spec: ConvSpec) -> nn.Module:
        return spec.plain(bias=True)

    def norm(self, channels: int, *, role: Role) -> nn.Module:
        return nn.BatchNorm2d(channels, affine=self.affine)


class UpBlock(nn.Module):
    """A residual block that doubles the size: (N, channels, H, W) -> (N, channels, 2H, 2W).

    role: makes the Role of a layer in this block. classes: the number of classes, or None without.
    """

    def __init__(self, method: Method, channels: int, role: Callable[..., Role], classes: int | None):
        super().__init__()
        body, last = role("body", activation="relu"), role("body", last_in_block=True, activation="relu")
        self.norm1 = ClassNorm(method.norm(channels, role=body), channels, classes)
        self.activation1 = method.activation(channels, role=body)
        self.conv1 = method.conv(three(channels, channels, body))
        self.norm2 = ClassNorm(method.norm(channels, role=last), channels, classes)
        self.activation2 = method.activation(channels, role=last)
        self.conv2 = method.conv(three(channels, channels, last))
        self.shortcut = method.conv(one(channels, channels, role("downsample")))

    def forward(self, x: Tensor, labels: Tensor | None) -> Tensor:
        y = self.conv1(doubled(self.activation1(self.norm1(x, labels))))
        y = self.conv2(self.activation2(self.norm2(y, labels)))
        return y + self.shortcut(doubled(x))


def doubled(x: Tensor) -> Tensor:
    """Images at twice their height and width, each pixel four times."""
    return functional.interpolate(x, scale_factor=2)


class Generator(nn.Module):
    """Noise (N, latent) -> images (N, channels, size, size) in -1..1.

    width: channels of all blocks. method: the method whose hooks build its blocks, or None for the authors'. Its dense
    layer and its last convolution are plain. classes: the number of classes, or None without.
    """

    def __init__(self, channels: int, size: int, latent: int, width: int, method: Method | None, classes: int | None):
        super().__init__()
        steps = halvings(size)
        start = size // 2**steps
        inside = AuthorsGenerator(classes is None) if method is None else method
        self.dense = redrawn(nn.Linear(latent, width * start**2))
        self.to_map = nn.Unflatten(1, (width, start, start))
        role = functools.partial(Role, architecture="sngan_resnet")
        self.blocks = nn.ModuleList(
            UpBlock(inside, width, functools.partial(role, stage=stage, last_stage=stage == steps), classes)
            for stage in range(1, steps + 1)
        )
        end = role("body", stage=steps, last_stage=True, activation="relu")
        self.norm = (AuthorsGenerator() if method is None else method).norm(width, role=end)
        self.activation = inside.activation(width, role=end)
        self.image = Drawn(width, channels, 3, end, padding=1).plain(bias=True)

    def forward(self, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """labels: int64 (N,), if it has classes."""
        x = self.to_map(self.dense(noise))
        for block in self.blocks:
            x = block(x, labels)
        return torch.tanh(self.image(self.activation(self.norm(x))))


class FirstBlock(nn.Module):
    """The first block of the discriminator, with no activation in front: (N, in, H, W) -> (N, out, H/2, W/2)."""

    def __init__(self, method: Method, in_channels: int, out_channels: int, role: Callable[..., Role]):
        super().__init__()
        last = role("body", last_in_block=True, activation="relu")
        self.conv1 = method.conv(three(in_channels, out_channels, role("stem")))
        self.norm = method.norm(out_channels, role=last)
        self.activation = method.activation(out_channels, role=last)
        self.conv2 = method.conv(three(out_channels, out_channels, last))
        self.shortcut = method.conv(one(in_channels, out_channels, role("downsample")))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.activation(self.norm(self.conv1(x))))
        return halved(y) + self.shortcut(halved(x))


class Block(nn.Module):
    """A block of the discriminator: (N, channels, H, W) to the same shape, or to half the height and width."""

    def __init__(self, method: Method, channels: int, halve: bool, role: Callable[..., Role]):
        super().__init__()
        body, last = role("body", activation="relu"), role("body", last_in_block=True, activation="relu")
        self.norm1 = method.norm(channels, role=body)
        self.activation1 = method.activation(channels, role=body)
        self.conv1 = method.conv(three(channels, channels, body))
        self.norm2 = method.norm(channels, role=last)
        self.activation2 = method.activation(channels, role=last)
        self.conv2 = method.conv(three(channels, channels, last))
        self.shortcut = method.conv(one(channels, channels, role("downsample"))) if halve else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(self.activation1(self.norm1(x)))
        y = self.conv2(self.activation2(self.norm2(y)))
        return y + x if self.shortcut is None else halved(y) + halved(self.shortcut(x))


def halved(x: Tensor) -> Tensor:
    """Images at half of their height and width, the means of four pixels."""
    return functional.avg_pool2d(x, 2)


class Discriminator(nn.Module):
    """Images (N, channels, size, size) -> scores (N,), high for real images. Built through the hooks of `method`.

    width: channels of all blocks. classes: the number of classes, or None without.
    """

    def __init__(self, method: Method, channels: int, width: int, classes: int | None):
        super().__init__()
        role = functools.partial(Role, architecture="sngan_resnet")
        stages = [functools.partial(role, stage=stage, last_stage=stage == 2) for stage in (0, 1, 2)]
        self.blocks = nn.Sequential(
            FirstBlock(method, channels, width, stages[0]),
            Block(method, width, True, stages[1]),
            *(Block(method, width, False, stages[2]) for _ in range(2)),
        )
        end = stages[2]("body", activation="relu")
        self.norm = method.norm(width, role=end)
        self.activation = method.activation(width, role=end)
        head = stages[2]("head")
        self.head = redrawn(method.linear(width, 1, role=head))
        self.projection = None if classes is None else redrawn(projection(method, width, classes, head))

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """labels: int64 (N,), if it has classes."""
        y = self.activation(self.norm(self.blocks(images)))
        return scores(y.sum((2, 3)), self.head, self.projection, labels)


@register_gan(least_size=8, divisor=4)
def sngan_resnet(
    method: Method,
    channels: int,
    size: int,
    latent: int,
    *,
    width: int = 128,
    generator_width: int = 256,
    classes: int | None = None,
    generator_method: Method | None = None,
) -> tuple[Generator, Discriminator]:
    """Generator and discriminator of table 4, with three and four blocks; a generator of two blocks for small images.

    width, generator_width: channels of the discriminator and of the generator (paper: 128 and 256). The generator's
    initial weights are drawn first, so that they do not depend on the method.
    """
    generator = Generator(channels, size, latent, generator_width, generator_method, classes)
    return generator, Discriminator(method, channels, width, classes)
