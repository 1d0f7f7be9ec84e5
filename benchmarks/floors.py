"""What a perfect implementation would need: the products and the memory traffic of a method, at this machine's peaks.

The floor of a step is the measured time of the same network without what the method adds, plus for each part of what it
adds the larger of two times: its floating-point operations at the peak rate of matrix products, and its bytes at the
bandwidth of the memory. Both peaks are measured in the same process with the same number of threads (`Peaks`). Only
operations and bytes that the method asks for count, in the algorithm that normbench uses; the shapes are those that a
forward pass sees. A real implementation has other work, too, and no kernel reaches the peak for all shapes.

Network Deconvolution, beyond the network without norms. With M patches of F features in each of G groups, R rows of
weights of length F in each (under autocast, those marked * are at the rate of bfloat16):
    covariance      G M F^2 operations forwards, as it is symmetric, and 2 G M F^2 * backwards; the patches are written
                    and read in each direction: 4 G M F numbers
    square root     9 G F^3 for the eigendecomposition (Golub and Van Loan, Matrix Computations, 8.3), G F^3 to form the
                    symmetric matrix
    its gradient    to the eigenbasis 6 G R F^2 * or, if R >= F, 2 G R F^2 + 3 G F^3 *; back 3 G F^3 *
    fold            2 G R F^2 * forwards and 2 G R F^2 * backwards
In evaluation nothing, as the weights can be folded once.

ConvNorm, beyond the network with batch norm, for kernels larger than 1 x 1. With P values on the grids of the filter
and Q in the output:
    transforms      a real transform of n values takes 2.5 n log2 n operations; there and back, forwards and backwards:
                    10 P log2 n; each of the four reads and writes its values: 8 P numbers
    depth-wise      reads and writes the output forwards; reads both and writes one backwards: 5 Q numbers
In evaluation the depth-wise convolution alone, 2 Q numbers, as the filter can be folded into it.

Spectral batch norm, beyond batch norm: the images are read once more, for the sums of their rows.

Fantastic Four, beyond batch norm, for kernels of h x w taps with K numbers in all and C = h + w + 1 + h w:
    iteration       2 K (1 + C + (C - 1)) operations; the kernels are read three times
    gradient        2 K C operations; it is written, and read to be added to the other: 2 K numbers
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.turns import seconds
from normbench.methods.conv_norm import ConvNorm2d
from normbench.methods.fantastic_four import TrackedNorms
from normbench.methods.network_deconvolution import DeconvConv2d, DeconvLinear
from normbench.methods.spectral_batch_norm import AfterBatchNorm

WIDE = 4  # bytes of a float32


@dataclass(frozen=True)
class Peaks:
    """The best rates that this machine shows with the current number of threads.

    operations: per second in matrix products, by dtype. bandwidth: bytes per second, read or written by a copy.
    """

    operations: dict[torch.dtype, float]
    bandwidth: float

    @classmethod
    def measured(cls, dtypes: list[torch.dtype], size: int = 2048, rounds: int = 5) -> Peaks:
        """Measures products of matrices (size, size) and copies of 64 MiB, and takes the best of some rounds."""
        operations = {}
        for dtype in dtypes:
            a, b = (torch.rand(size, size).to(dtype) for _ in range(2))
            operations[dtype] = 2 * size**3 / best(lambda a=a, b=b: a @ b, rounds)
        source = torch.rand(2**24)
        target = torch.empty_like(source)
        return cls(operations, 2 * source.nbytes / best(lambda: target.copy_(source), rounds))

    def __str__(self) -> str:
        rates = [f"{str(dtype)[6:]} {rate / 1e9:,.0f} GFLOP/s" for dtype, rate in self.operations.items()]
        return f"peaks: {', '.join(rates)}, memory {self.bandwidth / 1e9:,.1f} GB/s"

    def milliseconds(self, parts: list[Part]) -> float:
        """The least time of some parts, one after the other."""
        return 1000 * sum(
            max(each.operations / self.operations[each.dtype], each.moved / self.bandwidth) for each in parts
        )


@dataclass(frozen=True)
class Part:
    """A part of a method's work. operations: an addition or a multiplication each, in `dtype`. moved: bytes."""

    operations: float
    moved: float
    dtype: torch.dtype = torch.float32


def best(work: Callable[[], object], rounds: int) -> float:
    """The least seconds of a function in some rounds, after one that does not count."""
    work()
    return min(seconds(work) for _ in range(rounds))


@torch.no_grad()
def parts(network: nn.Module, x: Tensor, training: bool, bytes_of_image: int = WIDE) -> list[Part]:
    """What a method adds to a training step, or to an evaluation, of a network.

    x: a batch of images. bytes_of_image: bytes of a value of the images between layers.
    """
    found: list[Part] = []

    def note(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        found.extend(of_layer(layer, inputs[0], output, training, bytes_of_image))

    kinds = (DeconvConv2d, DeconvLinear, ConvNorm2d, AfterBatchNorm)
    hooks = [layer.register_forward_hook(note) for layer in network.modules() if isinstance(layer, kinds)]
    mode = network.training
    network.eval()(x)  # in evaluation mode no state changes
    network.train(mode)
    for hook in hooks:
        hook.remove()
    for layer in network.modules():
        if isinstance(layer, TrackedNorms) and training:
            found.extend(of_kernels(layer))
    return found


def of_layer(layer: nn.Module, x: Tensor, y: Tensor, training: bool, size: int) -> Iterator[Part]:
    """Yields what one layer adds. x, y: its input and output. size: bytes of a value of the images."""
    match layer:
        case DeconvConv2d() | DeconvLinear() if training:
            given, sampling, f = x.reshape(len(x), -1, *(x.shape[2:] or (1, 1))), layer.sampling, layer.features
            places = len(given)
            for length, k, step, padding, dilation in zip(
                given.shape[2:], sampling.kernel, sampling.step, sampling.padding, sampling.dilation, strict=True
            ):
                places *= (length + 2 * padding - dilation * (k - 1) - 1) // step + 1
            groups = sampling.groups
            samples = places * given.shape[1] * sampling.kernel[0] * sampling.kernel[1] // (groups * f)
            rows = layer.weight.numel() // (groups * f)
            low = torch.float32 if size == WIDE else torch.bfloat16
            gradient = 6 * rows * f**2 if rows < f else 2 * rows * f**2 + 3 * f**3
            yield Part(groups * samples * f**2, 2 * groups * samples * f * WIDE)
            yield Part(2 * groups * samples * f**2, 2 * groups * samples * f * size, low)
            yield Part(10 * groups * f**3, 0)
            yield Part(groups * (gradient + 3 * f**3 + 4 * rows * f**2), 0, low)
        case ConvNorm2d() if layer.kernel_size != (1, 1):
            if training:
                grid = [n + k - 1 for n, k in zip(x.shape[2:], layer.kernel_size, strict=True)]
                values = len(y) * y.shape[1] * math.prod(grid)
                yield Part(10 * values * math.log2(math.prod(grid)), 8 * values * WIDE)
            yield Part(0, (5 if training else 2) * y.numel() * size)
        case AfterBatchNorm() if training:
            yield Part(0, x.numel() * size)


def of_kernels(tracked: TrackedNorms) -> Iterator[Part]:
    """Yields what Fantastic Four adds to a training step."""
    for vectors in tracked.vectors:
        numbers = vectors.taps * sum(groups * o * i for groups, o, i in vectors.sizes)
        c = vectors.outputs.shape[1]
        yield Part(4 * numbers * c, 3 * numbers * WIDE)
        yield Part(2 * numbers * c, 2 * numbers * WIDE)
