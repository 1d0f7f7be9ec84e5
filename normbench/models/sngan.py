"""SNGAN for small images: the standard CNN of Miyato et al., arXiv 1802.05957, table 3.

The generator starts from a small feature map and doubles its size several times; the discriminator halves the image as
often. They do so three times for sizes of at least 32 that are divisible by 8, as in the paper (32 and 48), and twice
for all others.

Deviations: the discriminator's strided kernels are 3x3, not 4x4, because not every method supports even kernels. Each
of its convolutions is followed by the method's norm, where the paper has none.
"""

from __future__ import annotations

import dataclasses
import functools

import torch
from torch import Tensor, nn

from normbench.methods.base import ConvSpec, Method, Role
from normbench.models.base import register_gan


def halvings(size: int) -> int:
    """The number of times that the discriminator halves images of `size` pixels a side."""
    return 3 if size >= 32 and size % 8 == 0 else 2


class Generator(nn.Module):
    """Noise (N, latent) -> images (N, channels, size, size) in -1..1. It has batch norm, whatever the method is.

    width: channels at full size.
    """

    def __init__(self, channels: int, size: int, latent: int, width: int):
        super().__init__()
        steps = halvings(size)
        features, start = width * 2**steps, size // 2**steps
        self.dense = nn.Linear(latent, features * start**2)
        self.to_map = nn.Unflatten(1, (features, start, start))
        layers: list[nn.Module] = [nn.BatchNorm2d(features), nn.ReLU()]
        for _ in range(steps):
            layers += [
                nn.ConvTranspose2d(features, features // 2, 4, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(features // 2),
                nn.ReLU(),
            ]
            features //= 2
        self.layers = nn.Sequential(*layers, nn.Conv2d(features, channels, 3, padding=1))

    def forward(self, noise: Tensor) -> Tensor:
        return torch.tanh(self.layers(self.to_map(self.dense(noise))))


class Discriminator(nn.Module):
    """Images (N, channels, size, size) -> scores (N,), high for real images. Built through the hooks of `method`.

    width: channels at full size.
    """

    def __init__(self, method: Method, channels: int, size: int, width: int):
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
        self.head = method.linear(features * (size // 2**steps) ** 2, 1, role=head)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.layers(images))[:, 0]


@register_gan(least_size=8, divisor=4)
def sngan(method: Method, channels: int, size: int, latent: int, *, width: int = 64) -> tuple[Generator, Discriminator]:
    """Generator and discriminator of table 3, with five and eight layers, or with four and six for small images.

    width: channels at full size, which double with each halving of the image (paper: 64). The generator's initial
    weights are drawn first, so that they do not depend on the method.
    """
    return Generator(channels, size, latent, width), Discriminator(method, channels, size, width)
