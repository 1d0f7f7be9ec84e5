"""Network Deconvolution against explicit whitening of explicit patches, and its running statistics, step by step."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import oracles
import pytest
import torch
from torch import Tensor, nn

from normbench.methods import network_deconvolution
from normbench.methods.base import Role
from normbench.methods.network_deconvolution import (
    DeconvConv2d,
    DeconvLinear,
    NetworkDeconvolution,
    inverse_sqrt,
)


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
    kernel: int
    pool: int  # channels in one set of statistics, worked out by hand
    block: int = 64
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    groups: int = 1
    sampling_stride: int = 3
    iterations: int = 5
    eps: float = 1e-5
    size: tuple[int, int] = (7, 8)

    def layer(self) -> DeconvConv2d:
        return DeconvConv2d(
            self.inputs,
            self.outputs,
            self.kernel,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
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
            layer.bias,
            features=self.pool * self.kernel**2,
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
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_equals_explicit_patch_whitening(case: Case) -> None:
    """Output, all gradients and the running statistics of two training steps, then evaluation."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(1)
    layer = case.layer()
    # Running statistics start at zero and the identity, and move a tenth of the way at every step.
    features = case.pool * case.kernel**2
    mean = torch.zeros(case.groups, features, dtype=torch.float64)
    matrix = torch.eye(features, dtype=torch.float64).repeat(case.groups, 1, 1)
    for _ in range(2):
        x = correlated(generator, 10, case.inputs, *case.size).requires_grad_()
        y = layer(x)
        expected, used = case.oracle(x, layer)
        assert oracles.relative_error(y, expected) <= 1e-11
        gy = torch.randn(y.shape, generator=generator, dtype=torch.float64)
        got = torch.autograd.grad((y * gy).sum(), (x, layer.weight, layer.bias))
        want = torch.autograd.grad((expected * gy).sum(), (x, layer.weight, layer.bias))
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


def test_float32_stays_close_to_float64() -> None:
    generator = torch.Generator().manual_seed(0)
    case = CASES["interleaved in two"]
    layer = case.layer()
    x = correlated(generator, 16, case.inputs, 8, 8)
    expected = copy.deepcopy(layer)(x)
    assert oracles.relative_error(layer.float()(x.float()).double(), expected) <= 1e-5


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


def test_options_reach_the_layers() -> None:
    method = NetworkDeconvolution(block=2, linear_block=4, iterations=3, eps=0.1, momentum=0.5, sampling_stride=2)
    conv = method.conv(8, 4, 3, role=Role("body"), stride=2, padding=1, groups=1)
    assert isinstance(conv, DeconvConv2d)
    case = Case(8, 4, 3, pool=2, stride=2, padding=1, iterations=3, eps=0.1, sampling_stride=2)
    x = correlated(torch.Generator().manual_seed(0), 4, 8, 6, 6)
    conv.double()
    expected, used = case.oracle(x, conv)
    assert oracles.relative_error(conv(x), expected) <= 1e-11
    assert oracles.relative_error(conv.running_mean, 0.5 * used[0][0]) <= 1e-12
    grouped = method.conv(8, 8, 3, role=Role("depthwise"), groups=8)
    assert grouped.running_deconv.shape == (8, 9, 9)

    linear = method.linear(12, 5, role=Role("head")).double()
    x = correlated(torch.Generator().manual_seed(0), 20, 12)
    expected, linear_used = oracles.deconv_linear(x, linear.weight, linear.bias, 4, 3, 0.1)
    assert oracles.relative_error(linear(x), expected) <= 1e-11
    assert oracles.relative_error(linear.running_mean, 0.5 * linear_used[0]) <= 1e-12
    assert type(NetworkDeconvolution(linear_block=0).linear(12, 5, role=Role("head"))) is nn.Linear
    assert isinstance(method.norm(8, role=Role("body")), nn.Identity)
