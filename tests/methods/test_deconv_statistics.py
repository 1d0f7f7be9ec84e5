"""Which channels and pixels the statistics of Network Deconvolution are over, when they move, and its options."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import nn

from normbench.methods.base import ConvSpec, Role
from normbench.methods.network_deconvolution import DeconvConv2d, DeconvLinear, NetworkDeconvolution
from normbench.models import registry
from tests.oracles import layers as oracles
from tests.support.deconv_cases import CASES, Case, correlated, statistics_of


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
