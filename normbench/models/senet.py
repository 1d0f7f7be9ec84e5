"""Squeeze-and-excitation networks for small images, Hu et al., arXiv 1709.01507.

`senet18` is `preact_resnet18` with a gate at the end of each residual branch, as is usual at 32x32. The networks of the
paper are post-activation ones. Common implementations have a norm after the stem and none before the pooling, and so
has the code of Network Deconvolution (yechengxi/deconvolution at d221c221), which `authors_form` gives; by default this
one follows `preact_resnet.py`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from normbench.methods.base import ConvSpec, Method, Role
from normbench.models.base import register_classifier
from normbench.models.preact_resnet import PreActResNet

REDUCTION = 16  # the paper's reduction ratio r: channels of a gate over channels between its two layers


class Gate(nn.Module):
    """Scales each channel by a factor in 0..1, computed from the means of all channels: keeps (N, channels, H, W).

    role: makes the Role of a layer in this stage.
    """

    def __init__(self, method: Method, channels: int, role: Callable[..., Role]):
        super().__init__()
        inner = max(1, channels // REDUCTION)
        self.squeeze = method.conv(ConvSpec(channels, inner, 1, role=role("gate")))
        self.excite = method.conv(ConvSpec(inner, channels, 1, role=role("gate")))

    def forward(self, x: Tensor) -> Tensor:
        means = x.mean((2, 3), keepdim=True)
        return x * torch.sigmoid(self.excite(functional.relu(self.squeeze(means))))


@register_classifier()
def senet18(
    method: Method, channels: int, classes: int, *, width: int = 64, authors_form: bool = False
) -> PreActResNet:
    """18 layers and a gate in each of the eight blocks (section 3).

    width: channels of the stem and the first stage. authors_form: a norm and ReLU follow the stem, the first shortcut
    starts after them, and none precede the pooling.
    """
    form = {"authors_form": authors_form, "stem_norm": authors_form}
    return PreActResNet(method, channels, classes, [2, 2, 2, 2], width, gate=Gate, architecture="senet", **form)
