"""Convolutions with the initial weights of He et al., ICCV 2015, arXiv 1502.01852, as networks for ImageNet have them.

torch draws a convolution's weights uniformly, with a third of the variance for the inputs; torchvision's networks for
ImageNet draw those of He et al. instead. A method that makes its own weights, such as network deconvolution, keeps to
them or not as its authors did.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

from normbench.functional.convolution import Conv2d
from normbench.methods.base import ConvSpec


@dataclass(frozen=True)
class KaimingConv(ConvSpec):
    """A convolution whose plain form has normal weights of variance 2 over a number of inputs or outputs, and biases 0.

    mode: `fan_out` for the outputs that an input has a part in, `fan_in` for the inputs of an output.
    """

    mode: Literal["fan_in", "fan_out"] = "fan_out"

    def plain(self, bias: bool, kind: type[Conv2d] = Conv2d) -> Conv2d:
        layer = super().plain(bias, kind)
        nn.init.kaiming_normal_(layer.weight, mode=self.mode, nonlinearity="relu")
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
        return layer
