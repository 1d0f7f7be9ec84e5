"""What the layers cost, in counts that are the same on every machine: memory held, transforms, matrix products."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from normbench.functional.constants import unchanging
from normbench.methods.conv_norm import ConvNorm2d
from normbench.methods.fantastic_four import FantasticFour
from normbench.methods.network_deconvolution import ChannelDeconv, DeconvConv2d, DeconvLinear
from normbench.methods.spectral_batch_norm import AfterBatchNorm, SpectralBatchNorm2d
from normbench.system.memory import LiveBytes

PRODUCTS = {"mm", "bmm", "addmm", "baddbmm", "addmm_", "baddbmm_"}
TRANSFORMS = {"_fft_r2c", "_fft_c2r", "_fft_c2c"}
VIEWS = {
    "view",
    "_unsafe_view",
    "detach",
    "select",
    "alias",
    "t",
    "transpose",
    "expand",
    "unsqueeze",
    "slice",
    "permute",
}


class Operations(TorchDispatchMode):
    """Counts what runs inside it, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen[function.overloadpacket.__name__] += 1
        return function(*args, **(kwargs or {}))

    def count(self, names: set[str]) -> int:
        return sum(self.seen[name] for name in names)


def passes(layer: nn.Module, *shape: int, training: bool = True) -> tuple[Operations, Operations]:
    """The operations of a forward pass and of a backward pass."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    layer.train(training)
    with Operations() as forward:
        y = layer(x)
    with Operations() as backward:
        y.backward(torch.ones_like(y))
    return forward, backward


# --- memory ----------------------------------------------------------------------------------------------------------


def memory(layer: nn.Module, *shape: int) -> tuple[float, float]:
    """What is held between the passes, output included, and at most at any time, in sizes of the images."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    gradient = torch.ones_like(x)
    layer(x)  # what depends on sizes alone is kept for all layers
    with LiveBytes() as live:
        y = layer(x)
        held = live.live
        y.backward(gradient)
    size = x.numel() * x.element_size()
    return held / size, live.peak / size


def plain(channels: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))


# Where 256 channels are few images, the matrices of 576 features weigh more than the images: 1.3 MB each.
@pytest.mark.parametrize("shape", [(16, 64, 32, 32), (128, 256, 8, 8)], ids=lambda shape: "x".join(map(str, shape)))
def test_memory_held_by_deconvolution(shape: tuple[int, ...]) -> None:
    """The centred patches, about as large as the images, and the output: as much as a convolution and a batch norm."""
    held, peak = memory(DeconvConv2d(shape[1], shape[1], 3, padding=1), *shape)
    held_plain, peak_plain = memory(plain(shape[1]), *shape)
    assert held_plain == pytest.approx(2, abs=0.01)
    assert held <= 2 * held_plain
    assert peak <= 2.5 * peak_plain
    matrices = 4 * 576**2 / (shape[0] * shape[1] * shape[2] * shape[3])
    folded = 3 * shape[1] ** 2 * 9 / (shape[0] * shape[1] * shape[2] * shape[3])
    taps = ((shape[2] - 1) // 3 + 1) ** 2 * 9 / (shape[2] * shape[3])
    assert held <= 1 + taps + matrices + folded + 0.01


def test_memory_held_by_deconvolution_with_a_rounded_covariance() -> None:
    """The patches are held in bfloat16, also where the images are in float32."""
    shape = (16, 16, 32, 32)
    exact, _ = memory(DeconvConv2d(16, 16, 3, padding=1), *shape)
    rounded, _ = memory(DeconvConv2d(16, 16, 3, padding=1, covariance="bfloat16"), *shape)
    patches = (9 * 11**2) / 32**2
    assert exact - rounded == pytest.approx(patches / 2, abs=0.01)


@pytest.mark.parametrize("shape", [(16, 64, 32, 32), (32, 256, 8, 8)], ids=lambda shape: "x".join(map(str, shape)))
def test_memory_held_by_conv_norm(shape: tuple[int, ...]) -> None:
    """The outputs of filter, depth-wise convolution and batch norm, and no spectrum."""
    held, peak = memory(ConvNorm2d(shape[1], shape[1], 3, padding=1), *shape)
    held_plain, peak_plain = memory(plain(shape[1]), *shape)
    assert held <= 3.15
    assert held <= 1.6 * held_plain
    assert peak <= 1.7 * peak_plain
    bare, _ = memory(ConvNorm2d(shape[1], shape[1], 3, padding=1, affine=False, batch_norm=False), *shape)
    assert bare <= 1.15  # the output, and a symbol that has no batch


@pytest.mark.parametrize("statistics", ["half", "full"])
@pytest.mark.parametrize("shape", [(16, 64, 32, 32), (16, 256, 8, 8)], ids=lambda shape: "x".join(map(str, shape)))
def test_memory_held_by_both_batch_norms(shape: tuple[int, ...], statistics: str) -> None:
    """The output, and sums of rows: two a row. The second norm holds no images of its own."""
    spectral = SpectralBatchNorm2d(shape[1], statistics=statistics)
    held, peak = memory(AfterBatchNorm(nn.BatchNorm2d(shape[1]), spectral), *shape)
    held_plain, peak_plain = memory(nn.BatchNorm2d(shape[1]), *shape)
    assert held_plain == pytest.approx(1, abs=0.01)
    assert held <= 1 + 2 / shape[3] + 0.03
    assert held <= 1.5 * held_plain
    assert peak <= 1.5 * peak_plain


def test_nothing_is_held_after_a_step() -> None:
    """No graph, no cycle of references that waits for the garbage collector."""
    for layer in (
        DeconvConv2d(4, 4, 3, padding=1),
        ConvNorm2d(4, 4, 3, padding=1),
        SpectralBatchNorm2d(4),
        SpectralBatchNorm2d(4, statistics="frequency"),
        AfterBatchNorm(nn.BatchNorm2d(4), SpectralBatchNorm2d(4)),
        ChannelDeconv(4),
    ):
        x = torch.randn(4, 4, 6, 6, generator=torch.Generator().manual_seed(0)).requires_grad_()
        layer(x).sum().backward()  # statistics of frequencies take their size
        with LiveBytes() as live:
            for backward in (True, False):
                y = layer(x)
                if backward:
                    y.backward(y)
                layer.zero_grad(set_to_none=True)
                x.grad = None
                del y
                assert live.live == 0, type(layer)


# --- transforms and decompositions -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(8, 8), (12, 12), (9, 7)])
@pytest.mark.parametrize("statistics", ["half", "full"])
def test_pooled_statistics_take_no_transform(statistics: str, size: tuple[int, int]) -> None:
    spectral = SpectralBatchNorm2d(4, statistics=statistics)
    for layer in (spectral, AfterBatchNorm(nn.BatchNorm2d(4), spectral)):
        for training in (True, False):
            forward, backward = passes(layer, 3, 4, *size, training=training)
            assert forward.count(TRANSFORMS) + backward.count(TRANSFORMS) == 0


def test_statistics_by_frequency_take_two_transforms_a_pass() -> None:
    forward, backward = passes(SpectralBatchNorm2d(4, statistics="frequency"), 3, 4, 6, 6)
    assert forward.count(TRANSFORMS) == backward.count(TRANSFORMS) == 2


DECONVOLUTIONS = {
    "3x3": (lambda: DeconvConv2d(8, 6, 3, padding=1, block=4), (4, 8, 7, 7)),
    "wide": (lambda: DeconvConv2d(8, 6, 3, padding=1, block=4), (4, 8, 7, 20)),
    "15 iterations": (lambda: DeconvConv2d(8, 6, 3, padding=1, block=4, iterations=15), (4, 8, 7, 7)),
    "grouped": (lambda: DeconvConv2d(8, 6, 3, padding=1, groups=2), (4, 8, 7, 7)),
    "depthwise": (lambda: DeconvConv2d(8, 8, 3, padding=1, groups=8), (4, 8, 7, 7)),
    "1x1": (lambda: DeconvConv2d(8, 6, 1, block=4), (4, 8, 7, 7)),
    "linear": (lambda: DeconvLinear(12, 5, block=4), (20, 12)),
    "activations": (lambda: ChannelDeconv(3), (4, 8, 7, 7)),
}


@pytest.mark.parametrize("name", DECONVOLUTIONS)
def test_decompositions_and_products_of_deconvolution(name: str) -> None:
    """One decomposition a step, of all groups at once; more iterations take only products of rank three."""
    make, shape = DECONVOLUTIONS[name]
    forward, backward = passes(make(), *shape)
    later = 14 if name == "15 iterations" else 4
    assert forward.seen["_linalg_eigh"] == 1
    assert backward.seen["_linalg_eigh"] == 0
    more = name in ("linear", "activations")  # the product with activations, which is no convolution
    # The covariance, the matrix from its eigenvectors, the folded weight and bias.
    assert forward.count(PRODUCTS) <= 4 + more
    # Those of the fold twice each, four in the eigenbasis, one of the patches.
    assert backward.count(PRODUCTS) <= 9 + 2 * more + later
    assert backward.seen["convolution_backward"] <= 1
    forward, _ = passes(make().eval(), *shape, training=False) if name != "activations" else (forward, None)
    assert forward.seen["_linalg_eigh"] == (name == "activations")


def test_products_of_a_large_covariance() -> None:
    """Of many vectors, it is split in two, and its halves again: seven products for one, together half as large."""
    small, _ = passes(DeconvConv2d(28, 2, 3, padding=1), 1024, 28, 4, 4)  # 252 features
    few, _ = passes(DeconvConv2d(64, 2, 3, padding=1), 2, 64, 4, 4)  # 576 features of 8 vectors
    large, _ = passes(DeconvConv2d(64, 2, 3, padding=1), 1024, 64, 4, 4)
    assert small.count(PRODUCTS) == few.count(PRODUCTS) == 4
    assert large.count(PRODUCTS) == 3 + 7


def test_a_frozen_layer_takes_no_statistics() -> None:
    layer = DeconvConv2d(8, 6, 3, padding=1, block=4, freeze=True)
    forward, _ = passes(layer, 4, 8, 7, 7)
    assert forward.seen["_linalg_eigh"] == 1
    layer.steps = 101
    forward, backward = passes(layer, 4, 8, 7, 7)
    assert forward.seen["_linalg_eigh"] == 0
    assert forward.count(PRODUCTS) == 2
    assert backward.count(PRODUCTS) <= 3


@pytest.mark.parametrize("count", [4, 5])
@pytest.mark.parametrize("stride", [1, 2])
def test_products_of_conv_norm(stride: int, count: int) -> None:
    """Along rows and columns, there and back, in each pass; three for the filter; no transform, and none of kernels."""
    layer = ConvNorm2d(6, 5, 3, stride, padding=1)
    forward, backward = passes(layer, count, 6, 8, 8)
    assert forward.count(PRODUCTS) == 4 + 3
    assert backward.count(PRODUCTS) == 4
    assert forward.seen["convolution"] == 2
    assert backward.seen["convolution_backward"] == 3  # one for each gradient of the full convolution
    assert forward.count(TRANSFORMS) + backward.count(TRANSFORMS) == 0
    pointwise, _ = passes(ConvNorm2d(6, 5, 1, stride), count, 6, 8, 8)
    assert pointwise.count(PRODUCTS) == 0


def test_filter_of_conv_norm_is_made_once_in_an_evaluation() -> None:
    """With one group, five products with spectra are all; else the filter is kept."""
    for groups, products in ((1, 5), (2, 4)):
        layer = ConvNorm2d(6, 4, 3, padding=1, groups=groups).eval().requires_grad_(False)
        with unchanging(layer):
            first, _ = passes(layer, 4, 6, 8, 8, training=False)
            assert first.seen["rsqrt_"] > 0
            for size in ((4, 6, 8, 8), (2, 6, 8, 8)):
                again, backward = passes(layer, *size, training=False)
                assert again.count(PRODUCTS) == backward.count(PRODUCTS) == products
                assert again.seen["rsqrt_"] == again.count(TRANSFORMS) == 0
            other, _ = passes(layer, 4, 6, 8, 7, training=False)
            assert other.seen["rsqrt_"] > 0


def test_convolutions_of_deconvolution() -> None:
    """One, as without the method, in training and in evaluation."""
    layer = DeconvConv2d(8, 6, 3, padding=1, block=4)
    for training in (True, False):
        forward, backward = passes(layer, 4, 8, 7, 7, training=training)
        assert forward.seen["convolution"] == backward.seen["convolution_backward"] == 1


# --- the penalty -----------------------------------------------------------------------------------------------------


def of_penalty(shapes: list[tuple[int, int, int]]) -> tuple[Operations, Operations]:
    """The operations of a penalty and of its gradient, for convolutions of (out, in, kernel) in channels_last."""
    torch.manual_seed(0)
    model = nn.Sequential(*[nn.Conv2d(i, o, k) for o, i, k in shapes]).to(memory_format=torch.channels_last)
    method = FantasticFour()
    method.initialize(model)
    with Operations() as forward:
        penalty = method.penalty(model)
    with Operations() as backward:
        penalty.backward()
    return forward, backward


def test_a_layer_adds_four_products_to_the_penalty() -> None:
    """Three forwards, which are needed, and one backwards; otherwise views of its kernel, which cost nothing."""
    few, many = of_penalty([(4, 3, 3)] * 2), of_penalty([(4, 3, 3)] * 20)
    for a, b, products in zip(few, many, (3, 1), strict=True):
        assert b.count(PRODUCTS) - a.count(PRODUCTS) == 18 * products
        names = (a.seen.keys() | b.seen.keys()) - VIEWS - PRODUCTS
        assert {name: a.seen[name] for name in names} == {name: b.seen[name] for name in names}
        assert sum(b.seen.values()) - sum(a.seen.values()) <= 15 * 18


def test_operations_of_the_penalty_grow_with_the_sizes_of_kernels_alone() -> None:
    one, other = of_penalty([(4, 3, 3)] * 3), of_penalty([(4, 3, 3), (2, 5, 3), (6, 1, 3)])
    two = of_penalty([(4, 3, 3)] * 3 + [(4, 3, 1)] * 3)
    for a, b, c in zip(one, other, two, strict=True):
        assert a.count(PRODUCTS) == b.count(PRODUCTS)
        assert sum(c.seen.values()) <= 2 * sum(a.seen.values()) + 1
    assert one[0].count(PRODUCTS) == 3 * 3 + 2 + 2  # with the sums over pairs, and over squares, of both sides
    assert one[1].count(PRODUCTS) == 3 + 1


def test_nothing_of_the_size_of_the_images_is_in_the_penalty() -> None:
    """Its memory is a small multiple of that of the kernels."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(64, 64, 3, bias=False), nn.Conv2d(64, 64, 3, bias=False))
    method = FantasticFour()
    method.initialize(model)
    with LiveBytes() as live:
        method.penalty(model).backward()
    assert live.peak <= 4 * sum(parameter.numel() * 4 for parameter in model.parameters())


def test_counts_are_of_what_runs() -> None:
    """The counter itself: a product forward, two backward."""
    x, weight = torch.randn(3, 4, requires_grad=True), torch.randn(4, 5, requires_grad=True)
    with Operations() as forward:
        y: Tensor = x @ weight
    with Operations() as backward:
        y.sum().backward()
    assert forward.count(PRODUCTS) == 1
    assert backward.count(PRODUCTS) == 2
