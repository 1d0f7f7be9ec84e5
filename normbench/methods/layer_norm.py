"""Layer Normalization of whole images, Ba, Kiros and Hinton, arXiv 1607.06450.

Two different layers carry this name in convolutional networks. This one has one mean and one variance for each image,
over (channels, H, W): it is group norm with a single group, as `GroupNorm1` in timm. The other one, with statistics
over the channels at each pixel, is `layer_norm_channels`.

Deviation: weight and bias are those of a channel. In the paper each unit has its own, which for a convolution would be
one for every pixel, and would fix the size of the images.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from normbench.methods.base import Method, Positive, Role
from normbench.methods.group_norm import Float32GroupNorm


@dataclass(frozen=True)
class LayerNorm(Method):
    """Statistics over (channels, H, W) of each image."""

    eps: Positive = 1e-5

    def norm(self, channels: int, *, role: Role) -> nn.Module:
        return Float32GroupNorm(1, channels, self.eps)
