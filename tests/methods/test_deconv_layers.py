"""Network Deconvolution against explicit whitening of explicit patches, in every geometry and precision."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from normbench.methods import network_deconvolution
from normbench.methods.network_deconvolution import DeconvConv2d, DeconvLinear
from tests.oracles import layers as oracles
from tests.support.deconv_cases import CASES, Case, correlated, statistics_of


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


def test_layer_gradient_by_finite_differences() -> None:
    """Through mean, covariance and iteration: none of them is a constant for the gradient of a training step."""
    generator = torch.Generator().manual_seed(0)
    layer = DeconvConv2d(2, 2, 2, padding=1, block=1, sampling_stride=2).double()
    x = torch.randn(3, 2, 4, 4, generator=generator, dtype=torch.float64).requires_grad_()

    def run(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, x)

    torch.autograd.gradcheck(run, (x, layer.weight.detach().requires_grad_(), layer.bias.detach().requires_grad_()))


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


# --- linear and activation layers --------------------------------------------------------------------------------------


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
