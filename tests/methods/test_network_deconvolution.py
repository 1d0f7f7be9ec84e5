"""Network Deconvolution against explicit whitening of explicit patches, and its running statistics, step by step."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from normbench.functional import patch_moments
from normbench.functional.patch_moments import gram
from normbench.methods import network_deconvolution
from normbench.methods.base import ConvSpec, Role
from normbench.methods.network_deconvolution import DeconvConv2d, DeconvLinear, NetworkDeconvolution, inverse_sqrt
from normbench.models import registry
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


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_equals_explicit_patch_whitening(case: Case) -> None:
    """Output, all gradients and the running statistics of two training steps, then evaluation."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(1)
    layer = case.layer()
    # Running statistics start at zero and the identity, and move a tenth of the way at every step.
    mean = torch.zeros(case.groups, case.features, dtype=torch.float64)
    matrix = torch.eye(case.features, dtype=torch.float64).repeat(case.groups, 1, 1)
    for _ in range(2):
        x = correlated(generator, case.count, case.inputs, *case.size).requires_grad_()
        y = layer(x)
        expected, used = case.oracle(x, layer)
        assert oracles.relative_error(y, expected) <= 1e-11
        gy = torch.randn(y.shape, generator=generator, dtype=torch.float64)
        inputs = (x, *layer.parameters())
        got = torch.autograd.grad((y * gy).sum(), inputs)
        want = torch.autograd.grad((expected * gy).sum(), inputs)
        for a, b in zip(got, want, strict=True):
            assert oracles.relative_error(a, b) <= 1e-10
        mean = 0.9 * mean + 0.1 * torch.stack([m for m, _ in used]).detach()
        matrix = 0.9 * matrix + 0.1 * torch.stack([d for _, d in used]).detach()
        assert oracles.relative_error(layer.running_mean, mean.flatten()) <= 1e-12
        assert oracles.relative_error(layer.running_deconv, matrix if case.groups > 1 else matrix[0]) <= 1e-12

    layer.eval()
    before = copy.deepcopy(layer.state_dict())
    x = correlated(generator, 2, case.inputs, case.size[0] + 4, case.size[1] + 3)
    expected, _ = case.oracle(x, layer, statistics_of(layer, case.groups))
    assert oracles.relative_error(layer(x), expected) <= 1e-12
    assert all(torch.equal(before[key], value) for key, value in layer.state_dict().items() if "extra" not in key)


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        ("interleaved in two", 1e-5),
        ("wide images", 1e-5),
        ("1x1", 1e-5),
        ("grouped", 1e-5),
        ("7x7, stride 2", 1e-5),
        ("15 iterations", 1e-3),
    ],
)
def test_float32_stays_close_to_float64(name: str, tolerance: float) -> None:
    """Output, all gradients and the running statistics; more iterations amplify rounding errors."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(1)
    case = CASES[name]
    exact = case.layer()
    single = copy.deepcopy(exact).float()
    x = correlated(generator, 16, case.inputs, *case.size).requires_grad_()
    rounded = x.detach().float().requires_grad_()
    expected, y = exact(x), single(rounded)
    gradient = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
    expected.backward(gradient)
    y.backward(gradient.float())
    assert y.dtype == torch.float32
    assert oracles.relative_error(y.double(), expected) <= tolerance
    assert oracles.relative_error(rounded.grad.double(), x.grad) <= tolerance
    for a, b in zip(single.parameters(), exact.parameters(), strict=True):
        assert oracles.relative_error(a.grad.double(), b.grad) <= tolerance
    for a, b in zip(single.buffers(), exact.buffers(), strict=True):
        assert oracles.relative_error(a.double(), b) <= tolerance


# --- patches and their moments ---------------------------------------------------------------------------------------


COPIED = ["one block", "overlapping by one", "7x7, stride 2", "dilated", "taps on padding alone", "rectangular in all"]
COPIED += [
    "rectangular in all, grouped",
    "depthwise",
    "261 features",
    *[name for name in CASES if "wide images" in name],
]


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("name", COPIED)
def test_both_orders_of_copying_give_the_same(name: str, channels_last: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the batch as the innermost axis, as the outermost, and as the layer chooses by the width of the images."""
    case, generator, found = CASES[name], torch.Generator().manual_seed(0), []
    torch.manual_seed(1)
    layer = case.layer()
    x = correlated(generator, case.count, case.inputs, *case.size)
    x = x.to(memory_format=torch.channels_last) if channels_last else x
    for short_row in (0, 10**6, patch_moments.SHORT_ROW):
        monkeypatch.setattr(patch_moments, "SHORT_ROW", short_row)
        one, image = copy.deepcopy(layer), x.clone().requires_grad_()
        y = one(image)
        (y * torch.arange(y.numel()).view(y.shape).sin()).sum().backward()
        found.append((y, image.grad, one.weight.grad, one.running_mean, one.running_deconv))
        assert image.grad.is_contiguous(memory_format=torch.channels_last) or not channels_last
    for other in found[1:]:
        for a, b in zip(other, found[0], strict=True):
            assert oracles.relative_error(a, b) <= 1e-12


def test_short_and_long_rows_are_both_among_the_cases() -> None:
    """Else the comparison with the oracle would leave one of the two orders out."""
    widths = [case.size[1] for case in CASES.values() if case.kernel not in (1, (1, 1))]
    assert min(widths) < patch_moments.SHORT_ROW < max(widths)


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("features", [1, 127, 255, 256, 257, 300, 513, 600])
def test_a_product_in_blocks_is_the_product(features: int, groups: int) -> None:
    rows = torch.randn(groups, features, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = gram(rows)
    assert oracles.relative_error(found, rows @ rows.mT) <= 1e-13
    if features >= 2 * patch_moments.SMALL_BLOCK:  # only one of its halves is multiplied out
        half = features // 2
        assert torch.equal(found[:, :half, half:], found[:, half:, :half].mT)


def test_whitening_of_many_features_does_not_depend_on_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES["261 features"]
    split = case.layer()
    whole = copy.deepcopy(split)
    x = correlated(torch.Generator().manual_seed(0), 20, case.inputs, *case.size)
    blocks: list[int] = []

    def counted(rows: Tensor) -> Tensor:
        blocks.append(rows.shape[1])
        return original(rows)

    original = patch_moments.gram
    monkeypatch.setattr(patch_moments, "gram", counted)
    split(x)
    assert blocks == [261, 130, 131]
    blocks.clear()
    monkeypatch.setattr(patch_moments, "SMALL_BLOCK", 10**6)
    whole(x)
    assert blocks == [261]
    assert oracles.relative_error(split.running_deconv, whole.running_deconv) <= 1e-11


@pytest.mark.parametrize(
    ("kernel", "shape"),
    [(3, (4, 2, 7, 7)), (3, (4, 2, 7, 18)), (1, (4, 2, 5, 5)), ((1, 20), (1, 2, 1, 20)), ((2, 17), (1, 1, 2, 17))],
)
def test_images_are_left_as_they_are(kernel: int | Pair, shape: tuple[int, ...]) -> None:
    """Centring is done in place, on a copy of the patches; also where the patches lie as the images do."""
    x = correlated(torch.Generator().manual_seed(0), *shape)
    for image in (x, x.to(memory_format=torch.channels_last), x.mT.contiguous().mT):
        before = image.clone()
        DeconvConv2d(shape[1], 3, kernel, sampling_stride=1).double()(image)
        assert torch.equal(image, before)


@pytest.mark.parametrize(
    ("iterations", "variances"),
    [
        (5, {1.0: 1.00, 0.3: 1.00, 0.1: 0.995, 0.03: 0.811, 0.01: 0.434, 0.003: 0.158, 0.001: 0.056, 1e-4: 0.006}),
        (10, {0.01: 1.00, 0.003: 1.000, 0.001: 0.952, 1e-4: 0.280}),
        (15, {0.001: 1.00, 1e-4: 1.00, 1e-5: 0.84}),
    ],
)
def test_newton_schulz_is_not_converged_in_the_published_way(iterations: int, variances: dict[float, float]) -> None:
    """Variance left by the whitening of a direction that holds a share of the Frobenius norm."""
    for share, variance in variances.items():
        matrix = 7.0 * torch.diag(torch.tensor([share, math.sqrt(1 - share**2)], dtype=torch.float64))
        white = inverse_sqrt(matrix, iterations)
        assert abs(7 * share * white[0, 0].item() ** 2 - variance) <= 10 ** -len(str(variance).split(".")[1]), share


def test_newton_schulz_gain_is_capped() -> None:
    for iterations in (1, 3, 5):
        matrix = torch.diag(torch.tensor([1.0, 1e-14], dtype=torch.float64))
        assert inverse_sqrt(matrix, iterations)[1, 1].item() == pytest.approx(1.5**iterations, rel=1e-10)


@pytest.mark.parametrize("iterations", [1, 2, 5, 30])
def test_newton_schulz_of_a_batch_of_matrices(iterations: int) -> None:
    """Each matrix over its own Frobenius norm, as a function of its eigenvalues; converged it is the inverse root."""
    generator = torch.Generator().manual_seed(0)
    factors = torch.randn(3, 5, 9, generator=generator, dtype=torch.float64)
    matrices = factors @ factors.mT * torch.tensor([1.0, 1e-3, 1e4], dtype=torch.float64)[:, None, None]
    found = inverse_sqrt(matrices, iterations)
    for matrix, white in zip(matrices, found, strict=True):
        expected = torch.from_numpy(oracles.newton_schulz_spectral(matrix.numpy(), iterations))
        assert oracles.relative_error(white, expected) <= 1e-9
        if iterations == 30:
            assert (white @ matrix @ white - torch.eye(5, dtype=torch.float64)).abs().max() <= 1e-9


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e30])
def test_newton_schulz_of_what_is_not_finite(value: float) -> None:
    """NaN, also where only the norm of a matrix is not finite; the other matrices of a batch are not spoilt."""
    matrices = torch.eye(4).repeat(3, 1, 1)
    matrices[1, 0, 0] = value
    found = inverse_sqrt(matrices.requires_grad_(), 5)
    assert found[1].isnan().all()
    assert found[[0, 2]].isfinite().all()
    (gradient,) = torch.autograd.grad(found.sum(), matrices)
    assert gradient[1].isnan().all()
    assert gradient[[0, 2]].isfinite().all()


@pytest.mark.parametrize("scale", [1e15, 1e25])
def test_a_covariance_that_overflows_gives_nan(scale: float) -> None:
    """And not the output of a matrix of zeros, with which a diverging run would go on."""
    x = scale * torch.randn(8, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    for layer in (DeconvConv2d(4, 3, 3, padding=1), DeconvConv2d(4, 4, 3, groups=4), DeconvConv2d(4, 3, 1)):
        assert layer(x).isnan().all()
    assert DeconvLinear(36, 3, block=4)(x.view(32, 36)).isnan().all()


def test_newton_schulz_gradient_by_finite_differences() -> None:
    factor = torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.autograd.gradcheck(
        lambda f: inverse_sqrt(f @ f.mT + torch.eye(3, dtype=torch.float64), 5), factor.requires_grad_()
    )


def test_layer_gradient_by_finite_differences() -> None:
    """Through mean, covariance and iteration: none of them is a constant for the gradient of a training step."""
    generator = torch.Generator().manual_seed(0)
    layer = DeconvConv2d(2, 2, 2, padding=1, block=1, sampling_stride=2).double()
    x = torch.randn(3, 2, 4, 4, generator=generator, dtype=torch.float64).requires_grad_()

    def run(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, x)

    torch.autograd.gradcheck(run, (x, layer.weight.detach().requires_grad_(), layer.bias.detach().requires_grad_()))


@pytest.mark.parametrize(
    ("channels", "pool"), [(3, 3), (44, 44), (64, 64), (96, 32), (100, 4), (128, 64), (65, 1), (1, 1)]
)
def test_block_size(channels: int, pool: int) -> None:
    assert DeconvConv2d(channels, 1, 1).running_deconv.shape == (pool, pool)
    assert DeconvLinear(channels, 1, block=64).running_deconv.shape == (pool, pool)


def test_linear_block_is_512_by_default() -> None:
    assert DeconvLinear(1024, 1).running_deconv.shape == (512, 512)
    assert DeconvLinear(100, 1).running_mean.shape == (100,)
    assert DeconvLinear(640, 1).running_mean.shape == (128,)


def test_initial_buffers_and_shapes() -> None:
    layer = DeconvConv2d(8, 4, 3, block=2)
    assert layer.weight.shape == (4, 8, 3, 3)
    assert layer.bias.shape == (4,)
    assert torch.equal(layer.running_mean, torch.zeros(18))
    assert torch.equal(layer.running_deconv, torch.eye(18))
    grouped = DeconvConv2d(8, 4, 3, groups=2)
    assert grouped.weight.shape == (4, 4, 3, 3)
    assert torch.equal(grouped.running_mean, torch.zeros(72))
    assert torch.equal(grouped.running_deconv, torch.eye(36).repeat(2, 1, 1))
    assert set(dict(layer.named_parameters())) == {"weight", "bias"}
    assert set(dict(layer.named_buffers())) == {"running_mean", "running_deconv"}
    bound = 1 / math.sqrt(8 * 9)
    assert 0.9 * bound < layer.weight.abs().max() <= bound
    assert layer.bias.abs().max() <= bound


def test_untrained_evaluation_is_the_plain_convolution() -> None:
    layer = DeconvConv2d(8, 4, 3, 2, 1, block=2).eval()
    x = torch.randn(2, 8, 9, 9, generator=torch.Generator().manual_seed(0))
    expected = nn.functional.conv2d(x, layer.weight, layer.bias, 2, 1)
    assert torch.allclose(layer(x), expected, atol=1e-6)


def test_channels_of_a_pool_share_their_centre() -> None:
    """Constant channels 0 to 7 in pools of 4: channels 2i and 2i + 1 meet in feature i, whose mean is 2i + 0.5."""
    x = torch.arange(8.0).view(1, 8, 1, 1).expand(2, 8, 6, 6)
    layer = DeconvConv2d(8, 1, 1, block=4, momentum=1.0)
    layer(x)
    assert torch.allclose(layer.running_mean, torch.tensor([0.5, 2.5, 4.5, 6.5]))


def test_interleaving_splits_a_3x3_kernel_like_a_checkerboard() -> None:
    """Two pools: tap t of channel c is in pool (9c + t) mod 2, at feature (9c + t) // 2."""
    image = torch.zeros(1, 4, 3, 3)
    layer = DeconvConv2d(4, 1, 3, block=2, momentum=1.0)
    for c in range(4):
        for t in range(9):
            image.zero_()
            image[0, c, t // 3, t % 3] = 1  # a single patch, hence two samples of 18 features
            layer(image)
            expected = torch.zeros(18)
            expected[(9 * c + t) // 2] = 0.5
            assert torch.allclose(layer.running_mean, expected), (c, t)


def test_sampling_of_a_1x1_convolution_is_flat() -> None:
    """Every 9th pixel of the flattened batch, not a grid; at stride 2 every 36th."""
    x = torch.arange(2 * 5 * 5.0).view(2, 1, 5, 5)
    for stride, step in ((1, 9), (2, 36)):
        layer = DeconvConv2d(1, 1, 1, stride, momentum=1.0)
        layer(x)
        assert layer.running_mean.item() == pytest.approx(x.flatten()[::step].mean().item())


def test_sampling_grid_starts_at_the_top_left() -> None:
    """Centres of 3x3 patches with padding 1: row and column 0 of a 2x2 image, 0 and 3 of a 4x4 one."""
    for size, centres in ((2, [0]), (4, [0, 3]), (8, [0, 3, 6])):
        x = torch.rand(1, 1, size, size, generator=torch.Generator().manual_seed(0))
        layer = DeconvConv2d(1, 1, 3, padding=1, momentum=1.0)
        layer(x)
        assert layer.running_mean[4].item() == pytest.approx(x[0, 0][centres][:, centres].mean().item(), rel=1e-5)


@pytest.mark.parametrize("momentum", [0.1, 0.3])
def test_running_matrix_averages_the_whitening_and_not_the_covariance(momentum: float) -> None:
    layer = DeconvConv2d(2, 1, 1, sampling_stride=1, momentum=momentum).double()
    rows = []
    for seed in range(2):
        x = correlated(torch.Generator().manual_seed(seed), 20, 2, 1, 1)
        layer(x)
        rows.append(x.flatten(1).numpy())
    expected = np.eye(2)
    for x in rows:
        white = oracles.newton_schulz_spectral(np.cov(x.T, bias=True) + 1e-5 * np.eye(2), 5)
        expected = (1 - momentum) * expected + momentum * white
    assert np.allclose(layer.running_deconv.numpy(), expected, rtol=1e-10)


# --- freezing --------------------------------------------------------------------------------------------------------


def renewals(layer: DeconvConv2d, steps: int) -> list[int]:
    """The training steps in which the running statistics moved."""
    generator, moved = torch.Generator().manual_seed(0), []
    with torch.no_grad():
        for step in range(steps):
            before = layer.running_mean.clone()
            layer(torch.randn(4, 2, 1, 1, generator=generator))
            if not torch.equal(before, layer.running_mean):
                moved.append(step)
    return moved


def test_freeze_renews_in_101_steps_of_1000() -> None:
    expected = [start + step for start in (0, 1000, 2000) for step in range(101)]
    assert renewals(DeconvConv2d(2, 2, 1, freeze=True), 2150) == expected


def test_without_freeze_every_step_renews() -> None:
    assert renewals(DeconvConv2d(2, 2, 1), 150) == list(range(150))


@pytest.mark.parametrize(("done", "expected"), [(40, range(61)), (101, []), (950, range(50, 151)), (1050, range(51))])
def test_freeze_resumes_from_a_checkpoint(done: int, expected: Sequence[int]) -> None:
    layer = DeconvConv2d(2, 2, 1, freeze=True)
    renewals(layer, done)
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    resumed = DeconvConv2d(2, 2, 1, freeze=True)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert renewals(resumed, 200) == list(expected)
    assert renewals(copy.deepcopy(layer), 200) == list(expected)


def test_evaluation_does_not_count_as_a_step() -> None:
    layer = DeconvConv2d(2, 2, 1, freeze=True)
    renewals(layer, 50)
    layer.eval()
    assert renewals(layer, 200) == []
    layer.train()
    assert renewals(layer, 200) == list(range(51))


def test_frozen_statistics_are_constants_of_the_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    case = CASES["interleaved in two"]
    layer = DeconvConv2d(4, 3, 3, padding=1, block=2, freeze=True).double()
    x = correlated(generator, 4, 4, 5, 5)
    with torch.no_grad():
        for _ in range(101):
            layer(x)
    x.requires_grad_()
    y = layer(x)
    expected, _ = case.oracle(x, layer, statistics_of(layer, 1))
    gy = torch.randn(y.shape, generator=generator, dtype=torch.float64)
    got = torch.autograd.grad((y * gy).sum(), (x, layer.weight, layer.bias))
    want = torch.autograd.grad((expected * gy).sum(), (x, layer.weight, layer.bias))
    assert oracles.relative_error(y, expected) <= 1e-12
    for a, b in zip(got, want, strict=True):
        assert oracles.relative_error(a, b) <= 1e-11


# --- linear and activation layers ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("inputs", "block", "pool"), [(12, 4, 4), (12, 8, 4), (12, 512, 12), (10, 4, 2)])
@pytest.mark.parametrize("iterations", [2, 5])
def test_linear_equals_explicit_block_whitening(inputs: int, block: int, pool: int, iterations: int) -> None:
    generator = torch.Generator().manual_seed(0)
    layer = DeconvLinear(inputs, 5, block=block, iterations=iterations, eps=1e-3, momentum=0.2).double()
    mean, matrix = torch.zeros(pool, dtype=torch.float64), torch.eye(pool, dtype=torch.float64)
    for _ in range(2):
        x = correlated(generator, 20, inputs).requires_grad_()
        y = layer(x)
        expected, used = oracles.deconv_linear(x, layer.weight, layer.bias, pool, iterations, 1e-3)
        gy = torch.randn(y.shape, generator=generator, dtype=torch.float64)
        got = torch.autograd.grad((y * gy).sum(), (x, layer.weight, layer.bias))
        want = torch.autograd.grad((expected * gy).sum(), (x, layer.weight, layer.bias))
        assert oracles.relative_error(y, expected) <= 1e-11
        for a, b in zip(got, want, strict=True):
            assert oracles.relative_error(a, b) <= 1e-10
        mean, matrix = 0.8 * mean + 0.2 * used[0].detach(), 0.8 * matrix + 0.2 * used[1].detach()
        assert oracles.relative_error(layer.running_mean, mean) <= 1e-12
        assert oracles.relative_error(layer.running_deconv, matrix) <= 1e-12
    layer.eval()
    x = correlated(generator, 1, inputs)  # a single sample is enough
    expected, _ = oracles.deconv_linear(x, layer.weight, layer.bias, pool, iterations, 1e-3, (mean, matrix))
    assert oracles.relative_error(layer(x), expected) <= 1e-12


def test_linear_without_a_bias() -> None:
    generator = torch.Generator().manual_seed(0)
    layer = DeconvLinear(12, 5, bias=False, block=4).double()
    assert set(layer.state_dict()) == {"weight", "running_mean", "running_deconv"}
    x = correlated(generator, 20, 12).requires_grad_()
    y = layer(x)
    zero = torch.zeros(5, dtype=torch.float64)
    expected, used = oracles.deconv_linear(x, layer.weight, zero, 4, 5, 1e-5)
    assert oracles.relative_error(y, expected) <= 1e-11
    gy = torch.randn(y.shape, generator=generator, dtype=torch.float64)
    got = torch.autograd.grad((y * gy).sum(), (x, layer.weight))
    want = torch.autograd.grad((expected * gy).sum(), (x, layer.weight))
    for a, b in zip(got, want, strict=True):
        assert oracles.relative_error(a, b) <= 1e-10
    layer.eval()
    expected, _ = oracles.deconv_linear(x, layer.weight, zero, 4, 5, 1e-5, (layer.running_mean, layer.running_deconv))
    assert oracles.relative_error(layer(x), expected) <= 1e-12
    assert oracles.relative_error(layer.running_mean, 0.1 * used[0]) <= 1e-12


def test_blocks_of_a_linear_layer_may_hold_more_features_than_are_multiplied_at_once() -> None:
    generator = torch.Generator().manual_seed(0)
    layer = DeconvLinear(600, 3, block=300).double()
    x = correlated(generator, 6, 600)
    expected, _ = oracles.deconv_linear(x, layer.weight, layer.bias, 300, 5, 1e-5)
    assert oracles.relative_error(layer(x), expected) <= 1e-10


@pytest.mark.parametrize(("channels", "size"), [(8, (5, 6)), (11, (5, 6)), (11, (2, 6)), (4, (1, 1)), (6, (3, 3))])
def test_channel_deconv_equals_explicit_whitening(channels: int, size: tuple[int, int]) -> None:
    """Pooled channels by their un-centred second moment; a remainder of channels by one mean and one variance."""
    generator = torch.Generator().manual_seed(0)
    layer = network_deconvolution.ChannelDeconv(4).double()
    first = correlated(generator, 12, channels, *size).requires_grad_()
    y = layer(first)
    expected, used = oracles.channel_deconv(first, 4, iterations=5, eps=1e-2, sampling_stride=3)
    assert oracles.relative_error(y, expected) <= 1e-11
    gy = torch.randn(y.shape, generator=generator, dtype=torch.float64)
    (got,) = torch.autograd.grad((y * gy).sum(), first)
    (want,) = torch.autograd.grad((expected * gy).sum(), first)
    assert oracles.relative_error(got, want) <= 1e-10
    layer.eval()
    assert oracles.relative_error(layer(first), expected) <= 1e-11  # the first batch is copied, not averaged in

    layer.train()
    second = correlated(generator, 12, channels, *size)
    layer(second)
    _, later = oracles.channel_deconv(second, 4, iterations=5, eps=1e-2, sampling_stride=3)
    layer.eval()
    averaged = {key: (0.9 * used[key] + 0.1 * later[key]).detach() for key in used}
    # In evaluation the layer is affine in its input, so a zero image shows its offset: minus matrix times mean.
    zero = layer(torch.zeros(1, channels, *size, dtype=torch.float64))[0, :, 0, 0]
    taken = channels // 4 * 4
    offset = -(averaged["matrix"] @ averaged["mean"]).repeat_interleave(taken // 4)
    assert oracles.relative_error(zero[:taken], offset) <= 1e-11
    if taken < channels:
        rest = -averaged["centre"] / (averaged["variance"] + 1e-2).sqrt()
        assert torch.allclose(zero[taken:], rest.expand(channels - taken), rtol=1e-11)


# --- precision and the method ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [DeconvConv2d(4, 4, 3, block=2), DeconvConv2d(4, 4, 1, block=2), DeconvLinear(36, 4)])
def test_statistics_are_float32_under_autocast(layer: nn.Module) -> None:
    """Mixed precision may round the convolution, never the covariance or the iteration."""
    x = torch.randn(8, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    x = x.flatten(1) if isinstance(layer, DeconvLinear) else x
    plain = copy.deepcopy(layer)
    plain(x)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
        assert y.dtype == torch.bfloat16
        layer.train(False)
        assert layer(x).dtype == torch.bfloat16
    assert torch.equal(layer.running_mean, plain.running_mean)
    assert torch.equal(layer.running_deconv, plain.running_deconv)


def test_bfloat16_activations_give_float32_statistics() -> None:
    layer = DeconvConv2d(4, 4, 3, padding=1, momentum=1.0)
    x = torch.randn(8, 4, 6, 6, generator=torch.Generator().manual_seed(0)).bfloat16()
    exact = copy.deepcopy(layer)
    exact(x.float())
    with torch.autocast("cpu", torch.bfloat16):
        layer(x)
    assert torch.equal(layer.running_deconv, exact.running_deconv)


def test_channels_last_images_give_the_same_output() -> None:
    x = torch.randn(4, 8, 6, 6, generator=torch.Generator().manual_seed(0))
    for kernel in (1, 3):
        layer = DeconvConv2d(8, 4, kernel, block=4)
        expected = copy.deepcopy(layer)(x)
        assert torch.allclose(layer(x.to(memory_format=torch.channels_last)), expected, atol=1e-5)


def test_running_buffers_keep_no_graph() -> None:
    layer = DeconvConv2d(2, 2, 3)
    x = torch.randn(2, 2, 6, 6, generator=torch.Generator().manual_seed(0)).requires_grad_()
    for _ in range(3):
        layer(x).sum().backward()
    assert not layer.running_mean.requires_grad
    assert not layer.running_deconv.requires_grad


def test_covariance_of_rounded_patches() -> None:
    """An approximation on demand: centred patches are rounded to bfloat16 and their products added up in float32."""
    torch.manual_seed(0)
    exact = DeconvConv2d(4, 3, 1, sampling_stride=1, momentum=1.0)
    rounded = DeconvConv2d(4, 3, 1, sampling_stride=1, momentum=1.0, covariance="bfloat16")
    rounded.load_state_dict(exact.state_dict())
    x = correlated(torch.Generator().manual_seed(0), 6, 4, 5, 5).float()
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    expected, y = exact(a), rounded(b)
    assert torch.equal(rounded.running_mean, exact.running_mean)
    samples = x.permute(0, 2, 3, 1).reshape(-1, 4)
    centred = (samples - samples.mean(0)).bfloat16().double()
    white = oracles.newton_schulz(centred.T @ centred / 150 + 1e-5 * torch.eye(4, dtype=torch.float64), 5)
    assert oracles.relative_error(rounded.running_deconv.double(), white) <= 1e-5
    assert 1e-4 <= oracles.relative_error(rounded.running_deconv, exact.running_deconv) <= 2e-2
    assert oracles.relative_error(y, expected) <= 2e-2
    (expected * x[:, :3]).sum().backward()
    (y * x[:, :3]).sum().backward()
    assert oracles.relative_error(b.grad, a.grad) <= 5e-2
    assert rounded.state_dict().keys() == exact.state_dict().keys()


@pytest.mark.parametrize("case", ["one block", "wide images", "grouped", "261 features"])
def test_covariance_of_rounded_patches_is_close(case: str) -> None:
    torch.manual_seed(0)
    exact = CASES[case].layer().float()
    rounded = copy.deepcopy(exact)
    rounded.low_precision = True
    x = correlated(torch.Generator().manual_seed(0), 20, CASES[case].inputs, *CASES[case].size).float()
    found = []
    for layer in (exact, rounded):
        image = x.clone().requires_grad_()
        y = layer(image)
        (y * torch.arange(y.numel()).view(y.shape).sin()).sum().backward()
        found.append((y, image.grad, layer.weight.grad, layer.running_deconv))
    for a, b in zip(*found, strict=True):
        assert oracles.relative_error(b, a) <= 3e-2


def test_options_reach_the_layers() -> None:
    method = NetworkDeconvolution(block=2, linear_block=4, iterations=3, eps=0.1, momentum=0.5, sampling_stride=2)
    conv = method.conv(ConvSpec(8, 4, 3, role=Role("body"), stride=2, padding=1, groups=1))
    assert isinstance(conv, DeconvConv2d)
    case = Case(8, 4, 3, pool=2, stride=2, padding=1, iterations=3, eps=0.1, sampling_stride=2)
    x = correlated(torch.Generator().manual_seed(0), 4, 8, 6, 6)
    conv.double()
    expected, used = case.oracle(x, conv)
    assert oracles.relative_error(conv(x), expected) <= 1e-11
    assert oracles.relative_error(conv.running_mean, 0.5 * used[0][0]) <= 1e-12
    grouped = method.conv(ConvSpec(8, 8, 3, role=Role("depthwise"), groups=8))
    assert grouped.running_deconv.shape == (8, 9, 9)

    linear = method.linear(12, 5, role=Role("head")).double()
    x = correlated(torch.Generator().manual_seed(0), 20, 12)
    expected, linear_used = oracles.deconv_linear(x, linear.weight, linear.bias, 4, 3, 0.1)
    assert oracles.relative_error(linear(x), expected) <= 1e-11
    assert oracles.relative_error(linear.running_mean, 0.5 * linear_used[0]) <= 1e-12
    assert not conv.low_precision
    assert NetworkDeconvolution(covariance="bfloat16").conv(ConvSpec(8, 4, 3, role=Role("body"))).low_precision
    assert type(NetworkDeconvolution(linear_block=0).linear(12, 5, role=Role("head"))) is nn.Linear
    assert isinstance(method.norm(8, role=Role("body")), nn.Identity)


# --- the settings of the authors' code -------------------------------------------------------------------------------

# name -> width, and iterations of the first convolution, which is frozen, or None where nothing is special about it
STEMS = {
    "vgg11": (8, 15),
    "senet18": (32, 15),
    "preact_resnet18": (8, 10),
    "resnext29_2x64d": (8, 10),
    "mobilenet_v2": (32, 10),  # at this width alone the classifier has two blocks of 640 features
    "resnet8": (8, None),
}


def shared(channels: int, block: int) -> int:
    return channels if channels < block else math.gcd(channels, block)


def deconvolved(name: str, method: NetworkDeconvolution) -> dict[str, DeconvConv2d | DeconvLinear]:
    model = registry.classifier(name, {"width": STEMS[name][0]}, method, 3, 10)
    layers = {key: layer for key, layer in model.named_modules() if isinstance(layer, DeconvConv2d | DeconvLinear)}
    assert not any(isinstance(layer, nn.Conv2d | nn.Linear) for layer in model.modules())
    return layers


def found_in(layer: DeconvConv2d | DeconvLinear) -> tuple[int, bool, int]:
    """Iterations, whether it is frozen, and channels or features in one set of statistics."""
    if isinstance(layer, DeconvLinear):
        return layer.iterations, False, layer.features
    return layer.iterations, layer.freeze, layer.features // math.prod(layer.kernel_size)


@pytest.mark.parametrize("iterations", [5, 7])
@pytest.mark.parametrize("name", STEMS)
def test_layers_have_the_settings_of_the_authors(name: str, iterations: int) -> None:
    """The table of exceptions; every other layer has the options of the method."""
    layers = deconvolved(name, NetworkDeconvolution(iterations=iterations))
    stem, of_stem = next(iter(layers)), STEMS[name][1]
    kinds = set()
    for key, layer in layers.items():
        inputs = layer.weight.shape[1]
        expected = (iterations, False, shared(inputs, 512 if isinstance(layer, DeconvLinear) else 64))
        if key == stem and of_stem is not None:
            kinds.add("stem")
            expected = (of_stem, True, 3)
        elif isinstance(layer, DeconvConv2d) and layer.groups > 1:
            kinds.add("groups")
            expected = (3 if name == "resnext29_2x64d" else 1, False, inputs)
        elif name == "mobilenet_v2" and key.endswith("conv3"):
            kinds.add("projection")
            planes = layers[key.replace("conv3", "conv1")].weight.shape[1]
            expected = (1, False, planes)
        elif name == "mobilenet_v2" and key == "head":
            kinds.add("head")
            expected = (iterations, False, 640)
        assert found_in(layer) == expected, key
    assert kinds == {
        "resnext29_2x64d": {"stem", "groups"},
        "mobilenet_v2": {"stem", "groups", "projection", "head"},
        "resnet8": set(),
    }.get(name, {"stem"})


@pytest.mark.parametrize("name", STEMS)
def test_settings_of_the_authors_can_be_switched_off(name: str) -> None:
    method = NetworkDeconvolution(block=32, linear_block=128, iterations=4, authors_settings=False)
    for key, layer in deconvolved(name, method).items():
        inputs = layer.weight.shape[1]
        pool = shared(inputs, 128 if isinstance(layer, DeconvLinear) else 32)
        if isinstance(layer, DeconvConv2d) and layer.groups > 1:
            pool = inputs
        assert found_in(layer) == (4, False, pool), key


def test_an_ordinary_classifier_stays_one_in_every_network() -> None:
    for name in STEMS:
        method = NetworkDeconvolution(linear_block=0)
        model = registry.classifier(name, {"width": 8}, method, 3, 10)
        assert type(model.get_submodule("head")) is nn.Linear
