"""SNGAN for small images: the standard CNN of Miyato et al., arXiv 1802.05957, table 3.

The generator starts from a small feature map and doubles its size several times; the discriminator halves the image as
often. They do so three times for sizes of at least 32 that are divisible by 8, as in the paper (32 and 48), and twice
for all others.

With classes, the norms of the generator have a scale and shift for each class, and the score of the discriminator is
that of the features plus their product with a vector of the class (Miyato and Koyama, arXiv 1802.05637).

Deviations: the discriminator's strided kernels are 3x3, not 4x4, because not every method supports even kernels. Each
of its convolutions is followed by the method's norm, where the paper has none. A generator that is built through the
hooks of a method has an upsampling and a 3x3 convolution in the place of each transposed convolution.
"""

from __future__ import annotations

import dataclasses
import functools

import torch
from torch import Tensor, nn

from normbench.functional.class_affine import ClassNorm
from normbench.methods.base import ConvSpec, Method, Role
from normbench.models.base import register_gan


def halvings(size: int) -> int:
    """The number of times that the discriminator halves images of `size` pixels a side."""
    return 3 if size >= 32 and size % 8 == 0 else 2


class Stage(nn.Module):
    """A layer, its norm and its activation. norm: has an argument for labels."""

    def __init__(self, layer: nn.Module, norm: ClassNorm, activation: nn.Module):
        super().__init__()
        self.layer, self.norm, self.activation = layer, norm, activation

    def forward(self, x: Tensor, labels: Tensor | None) -> Tensor:
        return self.activation(self.norm(self.layer(x), labels))


class Generator(nn.Module):
    """Noise (N, latent) -> images (N, channels, size, size) in -1..1.

    width: channels at full size. method: the method whose hooks build it between its dense layer and its last
    convolution, or None for transposed convolutions and batch norm. classes: the number of classes, or None without.
    """

    def __init__(
        self,
        channels: int,
        size: int,
        latent: int,
        width: int,
        method: Method | None = None,
        classes: int | None = None,
    ):
        super().__init__()
        steps = halvings(size)
        features, start = width * 2**steps, size // 2**steps
        self.dense = nn.Linear(latent, features * start**2)
        self.to_map = nn.Unflatten(1, (features, start, start))
        stages = []
        for stage in range(steps + 1):
            role = Role("body", stage, stage == steps, stage > 0, architecture="sngan", activation="relu")
            layer: nn.Module = nn.Identity()
            if stage > 0:
                conv = dataclasses.replace(role, last_in_block=False)
                layer, features = doubling(features, features // 2, method, conv), features // 2
            norm = (
                nn.BatchNorm2d(features, affine=classes is None) if method is None else method.norm(features, role=role)
            )
            activation = nn.ReLU() if method is None else method.activation(features, role=role)
            stages.append(Stage(layer, ClassNorm(norm, features, classes), activation))
        self.stages = nn.ModuleList(stages)
        self.image = nn.Conv2d(features, channels, 3, padding=1)

    def forward(self, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """labels: int64 (N,), if it has classes."""
        x = self.to_map(self.dense(noise))
        for stage in self.stages:
            x = stage(x, labels)
        return torch.tanh(self.image(x))


def doubling(in_channels: int, out_channels: int, method: Method | None, role: Role) -> nn.Module:
    """A layer that doubles the size of images: (N, in, H, W) -> (N, out, 2H, 2W)."""
    if method is None:
        return nn.ConvTranspose2d(in_channels, out_channels, 4, stride=2, padding=1, bias=False)
    return nn.Sequential(
        nn.Upsample(scale_factor=2), method.conv(ConvSpec(in_channels, out_channels, 3, role, padding=1))
    )


class Discriminator(nn.Module):
    """Images (N, channels, size, size) -> scores (N,), high for real images. Built through the hooks of `method`.

    width: channels at full size. classes: the number of classes, or None without.
    """

    def __init__(self, method: Method, channels: int, size: int, width: int, classes: int | None = None):
        super().__init__()
        steps = halvings(size)
        layers: list[nn.Module] = []
        role = functools.partial(Role, architecture="sngan", activation="leaky_relu")

        def add(in_channels: int, out_channels: int, stride: int, here: Role) -> None:
            layers.append(method.conv(ConvSpec(in_channels, out_channels, 3, stride=stride, padding=1, role=here)))
            last = dataclasses.replace(here, last_in_block=stride == 1)  # each stage ends without a stride
            layers.extend([method.norm(out_channels, role=last), method.activation(out_channels, role=last)])

        add(channels, width, 1, role("stem"))
        for stage in range(1, steps + 1):
            here, features = role("body", stage=stage, last_stage=stage == steps), width * 2**stage
            add(features // 2, features // 2, 2, here)
            add(features // 2, features, 1, here)
        self.layers = nn.Sequential(*layers, nn.Flatten())
        head = Role("head", steps, last_stage=True, architecture="sngan")
        inputs = features * (size // 2**steps) ** 2
        self.head = method.linear(inputs, 1, role=head)
        self.projection = None if classes is None else projection(method, inputs, classes, head)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """labels: int64 (N,), if it has classes."""
        return scores(self.layers(images), self.head, self.projection, labels)


def projection(method: Method, inputs: int, classes: int, role: Role) -> nn.Module:
    """A linear layer whose row for each class is the vector that features of that class are multiplied with.

    It has no bias where the method makes an `nn.Linear`, as a product has none.
    """
    layer = method.linear(inputs, classes, role=role)
    if isinstance(layer, nn.Linear):
        layer.register_parameter("bias", None)
    return layer


def scores(features: Tensor, head: nn.Module, projection: nn.Module | None, labels: Tensor | None) -> Tensor:
    """The scores (N,) of features (N, inputs), with the product of the features and the vector of their class."""
    found = head(features)[:, 0]
    if projection is None or labels is None:
        return found
    return found + projection(features).gather(1, labels[:, None])[:, 0]


@register_gan(least_size=8, divisor=4)
def sngan(
    method: Method,
    channels: int,
    size: int,
    latent: int,
    *,
    width: int = 64,
    classes: int | None = None,
    generator_method: Method | None = None,
) -> tuple[Generator, Discriminator]:
    """Generator and discriminator of table 3, with five and eight layers, or with four and six for small images.

    width: channels at full size, which double with each halving of the image (paper: 64). The generator's initial
    weights are drawn first, so that they do not depend on the method.
    """
    generator = Generator(channels, size, latent, width, generator_method, classes)
    return generator, Discriminator(method, channels, size, width, classes)
