"""ConvNorm, Liu et al., NeurIPS 2021, arXiv 2103.00673.

Behaviour of the authors' code, shengliu66/ConvNorm at revision aad1043a. Every output channel of a convolution is
divided, in the frequency domain, by the norm of its kernel's spectrum; a learned depth-wise kernel and a batch norm
follow.

Deviations: the filter is computed from the weights at evaluation too, where the authors keep a running average of it,
so that a layer can be evaluated at any image size and before any training step; it differs from theirs by the lag of
that average. The filter of a dilated kernel is that of its own spectrum, where the authors' ignores the dilation. The
authors' `bpconv` is called `affine`; it is not dilated, in their code either. The convolution to the logits of a
segmentation head is plain, as linear classifiers are.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import fuse_conv_bn_eval

from normbench.functional.circular_filter import Symbols, filter_of, filtered
from normbench.functional.constants import constant, keeps
from normbench.functional.conversion import converted
from normbench.functional.convolution import every_pixel, full_conv2d
from normbench.functional.fourier_convolution import FourierConvolution, fits
from normbench.functional.pairs import Pair, pair
from normbench.methods.base import ConvSpec, Method, Role


class DepthwiseConv2d(nn.Conv2d):
    """`torch.nn.Conv2d` that can be given its parameters in the precision of autocast."""

    def forward(self, input: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        """weight, bias: in the place of the layer's own."""
        return self._conv_forward(input, self.weight if weight is None else weight, self.bias if bias is None else bias)


class ConvNorm2d(nn.Module):
    """Convolution with normalized channels: (N, in_channels, H, W) -> (N, out_channels, H', W').

    kernel_size, stride, padding, dilation: a number or (rows, columns); kernels are odd, and padding is at most
    dilation * (kernel_size - 1). The convolution has no bias.
    affine: whether there is a learned depth-wise kernel, and affine parameters in the batch norm.
    batch_norm: whether a batch norm follows.
    Parameters: weight (out, in/groups, kh, kw), affine.weight (out, 1, kh, kw), affine.bias (out,), batch_norm.*.
    Raises ValueError for an even kernel or a padding that is too large.
    """

    takes_pixels_first = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Pair,
        stride: int | Pair = 1,
        padding: int | Pair = 0,
        groups: int = 1,
        dilation: int | Pair = 1,
        *,
        affine: bool = True,
        batch_norm: bool = True,
    ):
        super().__init__()
        self.kernel_size, self.stride, self.padding, self.dilation = map(pair, (kernel_size, stride, padding, dilation))
        if any(size % 2 == 0 for size in self.kernel_size):
            raise ValueError(f"ConvNorm2d: kernel_size {kernel_size} is even; the depth-wise kernel needs an odd one")
        steps = (self.kernel_size[0] - 1, self.kernel_size[1] - 1)
        self.full = (self.dilation[0] * steps[0], self.dilation[1] * steps[1])  # the padding of a full convolution
        if any(some > most for some, most in zip(self.padding, self.full, strict=True)):
            limit = "kernel_size - 1" if self.dilation == (1, 1) else "dilation * (kernel_size - 1)"
            raise ValueError(f"ConvNorm2d: padding {padding} is more than {limit} = {max(self.full)}")
        self.weight = nn.Conv2d(in_channels, out_channels, self.kernel_size, groups=groups, bias=False).weight
        self.groups = groups
        half = (steps[0] // 2, steps[1] // 2)
        self.affine = (
            DepthwiseConv2d(out_channels, out_channels, self.kernel_size, padding=half, groups=out_channels)
            if affine
            else None
        )
        self.batch_norm = nn.BatchNorm2d(out_channels, affine=affine) if batch_norm else None
        # What the network has computed ahead, for one pass: the symbols of several layers with this one's place among
        # them, and parameters in the precision of autocast, by name.
        self.symbols: tuple[Symbols, int] | None = None
        self.low: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        # A model may switch autocast off for a part of the network.
        low = self.low if torch.is_autocast_enabled(x.device.type) else {}
        y = self.pointwise(x) if self.kernel_size == (1, 1) else self.filtered(x, low.get("weight", self.weight))
        affine, norm = self.affine, self.batch_norm
        if affine is not None and norm is not None and keeps(norm, self.parameters()):
            affine, norm = constant(norm, "folded", (), functools.partial(fuse_conv_bn_eval, affine, norm)), None
        if affine is not None:
            y = affine(y, low.get("affine.weight"), low.get("affine.bias"))
        return y if norm is None else norm(y)

    def pointwise(self, x: Tensor) -> Tensor:
        """The normalized convolution with a 1x1 kernel: (N, in, H, W) -> (N, out, H', W').

        Its spectrum is flat, so each output channel is divided by the norm of its weights, a constant for the gradient.
        """
        weight = self.weight / torch.linalg.vector_norm(self.weight.detach(), dim=(1, 2, 3), keepdim=True)
        stride = self.stride
        if x.device.type == "cpu":
            x, stride = every_pixel(x, stride), (1, 1)
        return functional.conv2d(x, weight, stride=stride, groups=self.groups)

    def filtered(self, x: Tensor, weight: Tensor) -> Tensor:
        """The normalized convolution with a larger kernel: (N, in, H, W) -> (N, out, H', W').

        weight: the layer's, or what is left of it in the precision of autocast.
        The full convolution is computed, filtered on its own grid, and then cropped to the padding and strided.
        """
        crop = (self.full[0] - self.padding[0], self.full[1] - self.padding[1])
        if self.by_spectra(x):
            size, dtype = (x.shape[2], x.shape[3]), torch.promote_types(x.dtype, torch.float32)
            form = (self.weight, size, crop, self.stride, dtype)
            return constant(self, (size, dtype), (), lambda: FourierConvolution(*form))(x)
        full = full_conv2d(x, weight, self.groups, self.dilation)
        return filtered(full, self.filter(full), crop, self.stride)

    def by_spectra(self, x: Tensor) -> bool:
        """Whether spectra are multiplied: on a CPU, where the weight is constant and not dilated, and not in bfloat16.

        In bfloat16, a CPU convolves so much faster that the rest of this way, in float32, takes longer.
        """
        kind = x.device.type
        single = kind == "cpu" and self.groups == 1 and self.dilation == (1, 1)
        single = single and not torch.is_autocast_enabled(kind)
        return single and keeps(self, (self.weight,)) and fits(self.weight, (x.shape[2], x.shape[3]))

    def filter(self, full: Tensor) -> tuple[Tensor, ...]:
        """The filter of images like `full`, a constant for the gradient (see `circular_filter.filter_of`)."""
        form = (full.shape[2], full.shape[3], torch.promote_types(full.dtype, torch.float32))
        if self.symbols is not None:
            symbols, place = self.symbols
            return (symbols.at(*form)[place],)
        return constant(self, form, (), lambda: filter_of(self.weight, *form, self.dilation))

    def rounded_by_autocast(self) -> list[tuple[str, Tensor]]:
        """The names and values of the parameters that autocast converts when a convolution uses them.

        Not the weight of a 1x1 kernel, which is divided by its norm first, nor float64, which autocast leaves alone.
        """
        names = ["weight"] * (self.kernel_size != (1, 1)) + ["affine.weight", "affine.bias"] * (self.affine is not None)
        found = [(name, self.get_parameter(name)) for name in names]
        return [(name, value) for name, value in found if value.dtype == torch.float32]


def compute_ahead(layers: list[ConvNorm2d]) -> None:
    """Computes together what all layers of a network need of their parameters in the next pass.

    These are their filters and, under autocast, the parameters of their convolutions in its precision.
    """
    alike: dict[Any, list[ConvNorm2d]] = {}
    for layer in layers:
        if layer.kernel_size != (1, 1):
            # Most layers with as many input channels get images of one size, and so have one table of cosines.
            alike.setdefault((layer.weight.shape[1:], layer.groups, layer.dilation), []).append(layer)
    for some in alike.values():
        symbols = Symbols([layer.weight for layer in some], some[0].dilation)
        for place, layer in enumerate(some):
            layer.symbols = symbols, place
    kind = layers[0].weight.device.type
    if torch.is_autocast_enabled(kind):
        rounded = [(layer, *named) for layer in layers for named in layer.rounded_by_autocast()]
        values = converted([parameter for _, _, parameter in rounded], torch.get_autocast_dtype(kind))
        for (layer, name, _), value in zip(rounded, values, strict=True):
            layer.low[name] = value


def begin_pass(network: nn.Module, *_: Any) -> None:
    """Forward pre-hook of a network: calls `compute_ahead` in training on a GPU, where each launch of a kernel counts.

    A CPU computes layer by layer.
    """
    layers = forget(network)
    if network.training and layers and layers[0].weight.device.type != "cpu":
        compute_ahead(layers)


def end_pass(network: nn.Module, *_: Any) -> None:
    """Forward hook of a network: drops what `begin_pass` has computed, as parameters change before the next pass."""
    forget(network)


def forget(network: nn.Module) -> list[ConvNorm2d]:
    """The layers of a network, after they have dropped what was computed ahead."""
    layers = [each for each in network.modules() if isinstance(each, ConvNorm2d)]
    for layer in layers:
        layer.symbols, layer.low = None, {}
    return layers


@dataclass(frozen=True)
class ConvNorm(Method):
    """Every convolution, the stem and the shortcuts included, becomes a ConvNorm2d with a batch norm of its own.

    Exceptions are the gates of squeeze-and-excitation, which act on a single pixel per image, and the convolution to
    logits. The authors have no network with either.
    """

    affine: bool = True
    batch_norm: bool = True

    def conv(self, spec: ConvSpec) -> nn.Module:
        if spec.without_norm:
            return super().conv(spec)
        return ConvNorm2d(
            spec.in_channels,
            spec.out_channels,
            spec.kernel_size,
            spec.stride,
            spec.padding,
            spec.groups,
            spec.dilation,
            affine=self.affine,
            batch_norm=self.batch_norm,
        )

    def norm(self, channels: int, *, role: Role) -> nn.Module:
        return nn.Identity()

    def initialize(self, model: nn.Module) -> None:
        model.register_forward_pre_hook(begin_pass)
        model.register_forward_hook(end_pass)
