"""Layers of Network Deconvolution, with the sizes of their images, and what an oracle makes of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from normbench.methods.network_deconvolution import DeconvConv2d
from tests.oracles import layers as oracles

Pair = tuple[int, int]


def correlated(generator: torch.Generator, *shape: int) -> Tensor:
    """Noise with unequal channel means and correlated channels, so that centring and whitening both matter."""
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    mixing = torch.randn(shape[1], shape[1], generator=generator, dtype=torch.float64)
    means = torch.arange(shape[1], dtype=torch.float64).view(-1, *[1] * (len(shape) - 2))
    return torch.einsum("cd,nd...->nc...", mixing, x) + 0.5 * means


def statistics_of(layer: DeconvConv2d, groups: int) -> list[tuple[Tensor, Tensor]]:
    matrices = layer.running_deconv if groups > 1 else layer.running_deconv[None]
    return list(zip(layer.running_mean.view(groups, -1), matrices, strict=True))


@dataclass(frozen=True)
class Case:
    inputs: int
    outputs: int
    kernel: int | Pair
    pool: int  # channels in one set of statistics, worked out by hand
    block: int = 64
    stride: int | Pair = 1
    padding: int | Pair = 0
    dilation: int | Pair = 1
    groups: int = 1
    bias: bool = True
    sampling_stride: int = 3
    iterations: int = 5
    eps: float = 1e-5
    size: Pair = (7, 8)
    count: int = 10

    @property
    def features(self) -> int:
        return self.pool * math.prod(oracles.both(self.kernel))

    def layer(self) -> DeconvConv2d:
        return DeconvConv2d(
            self.inputs,
            self.outputs,
            self.kernel,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            self.bias,
            block=self.block,
            iterations=self.iterations,
            eps=self.eps,
            sampling_stride=self.sampling_stride,
        ).double()

    def oracle(
        self, x: Tensor, layer: DeconvConv2d, running: list[tuple[Tensor, Tensor]] | None = None
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        return oracles.deconv2d(
            x,
            layer.weight,
            layer.bias if self.bias else torch.zeros_like(layer.weight[:, 0, 0, 0]),
            features=self.features,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
            iterations=self.iterations,
            eps=self.eps,
            sampling_stride=self.sampling_stride,
            running=running,
        )


CASES = {
    "one block": Case(3, 4, 3, pool=3, padding=1),
    "interleaved in two": Case(4, 3, 3, pool=2, block=2, padding=1),
    "interleaved in four": Case(4, 3, 3, pool=1, block=1, padding=1),
    "block by common divisor": Case(6, 2, 3, pool=2, block=4, padding=1),
    "strided": Case(4, 3, 3, pool=2, block=2, stride=2, padding=1),
    "no padding": Case(4, 3, 3, pool=2, block=2),
    "wide padding": Case(2, 3, 3, pool=2, padding=2),
    "dilated": Case(4, 3, 3, pool=2, block=2, padding=2, dilation=2),
    "every patch sampled": Case(2, 3, 3, pool=2, padding=1, sampling_stride=1),
    "even kernel": Case(4, 3, 2, pool=2, block=2, sampling_stride=2),
    "large kernel": Case(1, 3, 5, pool=1, padding=2, sampling_stride=2),
    "large eps": Case(3, 4, 3, pool=3, padding=1, eps=0.5),
    "15 iterations": Case(3, 4, 3, pool=3, padding=1, iterations=15, sampling_stride=1),
    "1 iteration": Case(4, 3, 3, pool=2, block=2, padding=1, iterations=1),
    "1x1": Case(8, 3, 1, pool=4, block=4),
    "1x1 by common divisor": Case(6, 3, 1, pool=2, block=4),
    "1x1 strided": Case(8, 3, 1, pool=4, block=4, stride=2, size=(9, 8)),
    "1x1 padded": Case(8, 3, 1, pool=4, block=4, padding=1),
    "1x1 grouped": Case(8, 4, 1, pool=4, groups=2),
    "1x1 on 1x1 images": Case(4, 3, 1, pool=2, block=2, size=(1, 1)),
    "grouped": Case(4, 6, 3, pool=2, groups=2, padding=1),
    "grouped, block ignored": Case(4, 6, 3, pool=2, block=1, groups=2, padding=1, stride=2),
    "depthwise": Case(3, 3, 3, pool=1, groups=3, padding=1),
    "depthwise, two outputs each": Case(3, 6, 3, pool=1, groups=3, padding=1),
    "column kernel": Case(4, 3, (3, 1), pool=2, block=2, padding=(1, 0)),
    "row kernel": Case(4, 3, (1, 5), pool=2, block=2, padding=(0, 2), sampling_stride=2),
    "stride along rows": Case(4, 3, 3, pool=2, block=2, stride=(2, 1), padding=1),
    "padding along columns": Case(4, 3, 3, pool=2, block=2, padding=(0, 2)),
    "rectangular in all": Case(2, 3, (2, 3), pool=2, stride=(1, 2), padding=(1, 0), dilation=(2, 1), sampling_stride=2),
    "rectangular in all, grouped": Case(4, 6, (3, 2), pool=2, groups=2, stride=(2, 1), padding=(2, 1), dilation=(1, 2)),
    "1x1, rectangular stride": Case(8, 3, 1, pool=4, block=4, stride=(1, 2)),
    "no bias": Case(4, 3, 3, pool=2, block=2, padding=1, bias=False),
    "no bias, grouped": Case(4, 6, 3, pool=2, groups=2, padding=1, bias=False),
    "no bias, 1x1": Case(8, 3, 1, pool=4, block=4, bias=False),
    "overlapping by one": Case(4, 3, 3, pool=2, block=2, padding=1, sampling_stride=2),
    "overlapping, stride 2": Case(2, 3, 3, pool=2, stride=2, padding=1, sampling_stride=1),
    "7x7, stride 2": Case(2, 3, 7, pool=1, block=1, stride=2, padding=3, size=(9, 10), count=6),
    "7x7, stride 2, every patch": Case(2, 3, 7, pool=2, stride=2, padding=3, sampling_stride=1, size=(8, 9), count=4),
    "one pixel": Case(2, 3, 3, pool=2, padding=1, size=(1, 1)),
    "one pixel, 5x5": Case(2, 3, 5, pool=2, padding=2, sampling_stride=1, size=(1, 1)),
    "one row": Case(2, 3, 3, pool=2, padding=1, size=(1, 7)),
    "taps on padding alone": Case(2, 3, 3, pool=2, padding=3, dilation=3, sampling_stride=1, size=(2, 3)),
    "patches on padding alone": Case(2, 3, 3, pool=2, padding=4, sampling_stride=1, size=(2, 2)),
    "wide images": Case(2, 3, 3, pool=2, padding=1, size=(5, 20)),
    "wide images, overlapping": Case(2, 3, 3, pool=1, block=1, padding=1, sampling_stride=2, size=(4, 18), count=4),
    "wide images, grouped": Case(4, 4, 3, pool=2, groups=2, padding=2, stride=(1, 2), size=(4, 17), count=4),
    "wide images, dilated": Case(2, 3, 3, pool=2, padding=2, dilation=2, size=(4, 19), count=4),
    "wide images, rectangular in all": Case(
        2, 3, (2, 3), pool=2, stride=(1, 2), padding=(1, 0), dilation=(2, 1), sampling_stride=2, size=(5, 20), count=4
    ),
    "wide images, tiles that do not cover them": Case(2, 3, 3, pool=2, padding=1, size=(6, 21), count=4),
    "wide images, more padding than a tile": Case(2, 3, 3, pool=2, padding=4, size=(4, 19), count=4),
    "wide images, gaps between patches": Case(2, 3, 2, pool=2, padding=1, size=(5, 18), count=4),
    "wide images, tiles of unequal sides": Case(
        2, 3, (2, 3), pool=2, stride=(2, 3), padding=(1, 0), sampling_stride=1, size=(6, 18), count=4
    ),
    "261 features": Case(29, 2, 3, pool=29, padding=1, size=(6, 5), count=8),
    "two groups of 270 features": Case(60, 2, 3, pool=30, groups=2, padding=1, size=(4, 4), count=6),
    "one image": Case(4, 3, 3, pool=2, block=2, padding=1, count=1),
    "one image, 1x1": Case(8, 3, 1, pool=4, block=4, count=1),
    "one image, grouped": Case(4, 6, 3, pool=2, groups=2, padding=1, size=(5, 18), count=1),
    "one vector": Case(4, 3, 3, pool=4, padding=1, size=(2, 2), count=1),
}
