"""Layer Normalization over the channels of each pixel, as in ConvNeXt, Liu et al., CVPR 2022, arXiv 2201.03545.

It is the layer norm of transformers, for which a pixel is a token, and `LayerNorm2d` in timm. The paper of layer norm,
Ba, Kiros and Hinton, arXiv 1607.06450, has statistics over the whole image: that is `layer_norm` here.

What a pixel's channels have in common, such as the brightness of a region, is gone after the norm. ConvNeXt has far
fewer norms than a residual network has convolutions, one in each block; here one follows every convolution.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from normbench.functional.wide import Wide
from normbench.methods.base import Method, Positive, Role


class PixelLayerNorm(Wide, nn.LayerNorm):
    """`torch.nn.LayerNorm` over the channels of images (N, channels, H, W), at each pixel; keeps the memory format."""

    def wide(self, x: Tensor) -> Tensor:
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        y = functional.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, weight, bias, self.eps)
        y = y.permute(0, 3, 1, 2)
        return y.contiguous() if x.is_contiguous() else y


@dataclass(frozen=True)
class LayerNormChannels(Method):
    """Statistics over the channels at each pixel. eps: that of ConvNeXt."""

    eps: Positive = 1e-6

    def norm(self, channels: int, *, role: Role) -> nn.Module:
        return PixelLayerNorm(channels, self.eps)
