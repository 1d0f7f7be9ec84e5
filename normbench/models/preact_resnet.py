"""Pre-activation residual networks for small images, He et al., arXiv 1603.05027.

`preact_resnet18` is the ResNet-18 of `resnet.py` with each norm and ReLU before its convolution instead of after it. As
in the appendix of the paper, the first shortcut starts after the activation that follows the stem, and there is one
more norm and ReLU before the pooling. Common implementations have neither, and so has the code of Network Deconvolution
(yechengxi/deconvolution at d221c221), which `authors_form` gives; without the last norm, the outputs of the last block
have no scale of their own. Shortcuts that change the size are 1x1 convolutions of the activated input.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from normbench.methods.base import ConvSpec, Method, Role
from normbench.models.base import register_classifier


class Block(nn.Module):
    """Norm, ReLU and a 3x3 convolution, twice, and a shortcut: (N, in, H, W) -> (N, out, H/stride, W/stride).

    role: makes the Role of a layer in this stage.
    first: whether the shortcut starts from the activated input, as in the first block of the network.
    gate: a layer at the end of the residual branch.
    """

    def __init__(
        self,
        method: Method,
        in_channels: int,
        out_channels: int,
        stride: int,
        role: Callable[..., Role],
        first: bool,
        gate: nn.Module,
    ):
        super().__init__()
        body, last = role("body", activation="relu"), role("body", last_in_block=True, activation="relu")
        self.norm1 = method.norm(in_channels, role=body)
        self.activation1 = method.activation(in_channels, role=body)
        self.conv1 = method.conv(ConvSpec(in_channels, out_channels, 3, stride=stride, padding=1, role=body))
        self.norm2 = method.norm(out_channels, role=last)
        self.activation2 = method.activation(out_channels, role=last)
        self.conv2 = method.conv(ConvSpec(out_channels, out_channels, 3, padding=1, role=last))
        self.gate = gate
        self.shortcut: nn.Module = nn.Identity()
        resized = stride != 1 or in_channels != out_channels
        if resized:
            self.shortcut = method.conv(ConvSpec(in_channels, out_channels, 1, stride=stride, role=role("downsample")))
        self.shared = first or resized  # whether the shortcut starts from the activated input

    def forward(self, x: Tensor) -> Tensor:
        active = self.activation1(self.norm1(x))
        y = self.conv2(self.activation2(self.norm2(self.conv1(active))))
        return self.gate(y) + self.shortcut(active if self.shared else x)


class PreActResNet(nn.Module):
    """Images (N, channels, H, W) -> logits (N, classes).

    The network consists of a stem, stages of blocks, norm, ReLU, global average pooling and a linear classifier. Every
    stage after the first halves the image size and doubles the channels.
    blocks: the number of blocks in each stage. width: channels of the stem and of the first stage.
    gate: None, or a function that builds a layer at the end of each residual branch from the method, the number of
        channels and a function that makes the Role of a layer in the stage.
    architecture: the family of the network in the roles of its layers.
    authors_form: the first shortcut starts from the output of the stem, and no norm and ReLU precede the pooling.
    stem_norm: whether a norm and ReLU follow the stem.
    """

    def __init__(
        self,
        method: Method,
        channels: int,
        classes: int,
        blocks: Sequence[int],
        width: int,
        *,
        gate: Callable[[Method, int, Callable[..., Role]], nn.Module] | None = None,
        architecture: str = "preact_resnet",
        authors_form: bool = False,
        stem_norm: bool = False,
    ):
        super().__init__()
        stem = Role(
            "stem", last_stage=len(blocks) == 1, architecture=architecture, activation="relu" if stem_norm else ""
        )
        self.conv = method.conv(ConvSpec(channels, width, 3, padding=1, role=stem))
        self.stem_norm = method.norm(width, role=stem) if stem_norm else nn.Identity()
        self.stem_activation = method.activation(width, role=stem) if stem_norm else nn.Identity()
        stages, in_channels = [], width
        for stage, count in enumerate(blocks):
            role = functools.partial(Role, stage=stage, last_stage=stage == len(blocks) - 1, architecture=architecture)
            out_channels, layers = width * 2**stage, []
            for index in range(count):
                stride = 2 if stage > 0 and index == 0 else 1
                end = gate(method, out_channels, role) if gate else nn.Identity()
                first = stage == 0 and index == 0 and not authors_form
                layers.append(Block(method, in_channels, out_channels, stride, role, first, end))
                in_channels = out_channels
            stages.append(nn.Sequential(*layers))
        self.stages = nn.Sequential(*stages)
        last = role("body", activation="relu")
        self.norm = nn.Identity() if authors_form else method.norm(in_channels, role=last)
        self.activation = nn.Identity() if authors_form else method.activation(in_channels, role=last)
        self.head = method.linear(in_channels, classes, role=role("head"))

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem_activation(self.stem_norm(self.conv(x)))
        y = self.activation(self.norm(self.stages(y)))
        return self.head(torch.mean(y, dim=(2, 3)))


@register_classifier()
def preact_resnet18(
    method: Method, channels: int, classes: int, *, width: int = 64, authors_form: bool = False
) -> PreActResNet:
    """18 layers in four stages of two blocks (figure 1b).

    width: channels of the stem and the first stage. authors_form: see `PreActResNet`. The authors' network has one
    batch norm more, after the stem, which it never applies: 128 parameters that are not here.
    """
    return PreActResNet(method, channels, classes, [2, 2, 2, 2], width, authors_form=authors_form)
