"""Convolutions that avoid a bug and a slow case of oneDNN, the library with which torch convolves on the CPU.

The bug: oneDNN's weight gradient of a strided 1x1 convolution writes out of bounds if the tensors look channels_last
and there are fewer input channels than fit into a vector register (oneDNN issue 6035, in torch 2.15). Whether a tensor
looks channels_last depends on its strides alone: a 1x1 weight that some computation has left with the strides
(c, 1, c, c) is enough. So a contiguous network can be affected too. Here a strided 1x1 convolution therefore first
selects the pixels that its stride keeps, and then convolves them with stride 1.

The slow case: with more padding than half the kernel, the weight gradient takes up to nine times as long, in bfloat16
on a CPU with AMX. A full convolution therefore pads the images itself for that gradient, as far as is needed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from normbench.functional.pairs import Pair

VECTOR = 16  # float32 numbers in an AVX-512 register


def narrow_stride(weight: Tensor, stride: tuple[int, ...]) -> bool:
    """Whether oneDNN's bug can affect a convolution with this weight (out, in/groups, kh, kw) and stride."""
    return weight.shape[2:] == (1, 1) and max(stride) > 1 and weight.shape[1] < VECTOR


def every_pixel(x: Tensor, stride: Pair) -> Tensor:
    """Every stride-th row and column of x (N, C, H, W). The result and its gradient have the memory format of x."""
    rows, columns = stride
    if stride == (1, 1):
        return x
    if x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous():
        # The gradient of a slice is contiguous in the order of dimensions at the time of slicing, so the channels come
        # last here. The result is copied, because with an odd height torch does not recognise the strides of the slice
        # as channels_last, and the convolution would copy it anyway.
        taken = x.permute(0, 2, 3, 1)[:, ::rows, ::columns].permute(0, 3, 1, 2)
        return taken.contiguous(memory_format=torch.channels_last)
    return x[..., ::rows, ::columns]


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = (1, 1),
    padding: Pair | str = (0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
) -> Tensor:
    """`torch.nn.functional.conv2d` of x (N, C, H, W), avoiding oneDNN's bug with strided 1x1 kernels on the CPU.

    For those kernels the result equals that of torch up to the order of additions. For all others it is identical.
    """
    if x.device.type == "cpu" and x.dim() == 4 and narrow_stride(weight, stride):
        if not isinstance(padding, str) and max(padding) > 0:  # `valid` and `same` of a 1x1 kernel add no pixels
            x = functional.pad(x, (padding[1], padding[1], padding[0], padding[0]))
        x, stride, padding = every_pixel(x, stride), (1, 1), (0, 0)
    return functional.conv2d(x, weight, bias, stride, padding, dilation, groups)


def full_conv2d(x: Tensor, weight: Tensor, groups: int = 1, dilation: Pair = (1, 1)) -> Tensor:
    """The full convolution of x (N, in, H, W) with weight (out, in/groups, kh, kw).

    It is (N, out, H + (kh-1) * dilation[0], W + (kw-1) * dilation[1]). It follows autocast as
    `torch.nn.functional.conv2d` does.
    """
    kind = x.device.type
    if kind != "cpu" or dilation != (1, 1):
        down, across = ((taps - 1) * apart for taps, apart in zip(weight.shape[2:], dilation, strict=True))
        return functional.conv2d(x, weight, padding=(down, across), dilation=dilation, groups=groups)
    if torch.is_autocast_enabled(kind) and x.dtype != torch.float64:
        x, weight = x.to(torch.get_autocast_dtype(kind)), weight.to(torch.get_autocast_dtype(kind))
    return FullConvolution.apply(x, weight, groups)


class FullConvolution(torch.autograd.Function):
    """`full_conv2d` on a CPU, with the weight gradient on images that are padded already."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, groups: int) -> Tensor:
        """See `full_conv2d`."""
        ctx.save_for_backward(x, weight)
        ctx.groups = groups
        return functional.conv2d(x, weight, padding=(weight.shape[2] - 1, weight.shape[3] - 1), groups=groups)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        rows, columns = weight.shape[2] - 1, weight.shape[3] - 1
        rest = (rows // 2, columns // 2)  # what oneDNN pads fast
        of_x = of_weight = None
        if ctx.needs_input_grad[0]:
            of_x = gradients(gradient, x, weight, (rows, columns), ctx.groups, 0)
        if ctx.needs_input_grad[1]:
            down, across = rows - rest[0], columns - rest[1]
            padded = functional.pad(x, (across, across, down, down))
            of_weight = gradients(gradient, padded, weight, rest, ctx.groups, 1)
        return of_x, of_weight, None


def gradients(gradient: Tensor, x: Tensor, weight: Tensor, padding: Pair, groups: int, which: int) -> Tensor:
    """The gradient of a convolution with stride 1 with respect to x (which = 0) or to weight (which = 1)."""
    wanted = [which == 0, which == 1, False]
    return torch.ops.aten.convolution_backward(
        gradient, x, weight, None, (1, 1), padding, (1, 1), False, (0, 0), groups, wanted
    )[which]


class Conv2d(nn.Conv2d):
    """`torch.nn.Conv2d` computed by `conv2d` above. Methods build their plain convolutions with it.

    takes_pixels_first: tells `normbench.functional.placement` that the layer is safe in every memory format.
    """

    takes_pixels_first = True

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        padding = self.padding
        if self.padding_mode != "zeros":
            input = functional.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode)
            padding = (0, 0)
        # torch types stride, padding and dilation as tuples of any length; of a Conv2d they are pairs.
        return conv2d(input, weight, bias, self.stride, padding, self.dilation, self.groups)  # type: ignore[arg-type]
