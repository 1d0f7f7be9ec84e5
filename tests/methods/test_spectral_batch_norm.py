"""Spectral Batch Normalization in closed form against sums of exponentials, in every convention."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import Tensor, nn

from normbench.methods.base import Role
from normbench.methods.spectral_batch_norm import AfterBatchNorm, SpectralBatchNorm, SpectralBatchNorm2d
from normbench.models import registry
from tests.oracles import layers as oracles

CONVENTIONS = ["ortho", "backward", "forward", "full"]
STATISTICS = ["half", "full", "frequency"]
SIZES = [(16, 16), (7, 7), (8, 5), (1, 1), (6, 12)]
# Up to and above 64 pixels sums of rows are computed in two ways, each for odd and for even widths.
MORE_SIZES = [(1, 4), (5, 1), (14, 28), (2, 2), (5, 2), (9, 9), (5, 15), (70, 1), (33, 2)]


def layer_of(channels: int, seed: int = 0, **options: object) -> SpectralBatchNorm2d:
    """A float64 layer with a random gain and offset."""
    generator = torch.Generator().manual_seed(seed)
    layer = SpectralBatchNorm2d(channels, **options).double()
    with torch.no_grad():
        layer.weight.copy_(0.5 + torch.rand(channels, generator=generator))
        layer.bias.copy_(torch.randn(channels, generator=generator))
    return layer


def images(*shape: int, seed: int = 0) -> Tensor:
    """Noise with an offset in each channel, float64."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x + torch.linspace(-1, 1, shape[1], dtype=torch.float64)[:, None, None]


def running_of(layer: SpectralBatchNorm2d) -> tuple[Tensor, Tensor]:
    return torch.complex(layer.running_mean[0], layer.running_mean[1]), layer.running_var


def test_oracle_is_the_fourier_transform() -> None:
    for height, width in SIZES:
        x = images(2, 2, height, width)
        assert torch.allclose(oracles.dft(x, width), torch.fft.fft2(x), rtol=0, atol=1e-11)
        assert torch.allclose(oracles.dft(x, width // 2 + 1), torch.fft.rfft2(x), rtol=0, atol=1e-11)
        spectrum = torch.fft.rfft2(x) + (2 - 1j)  # not the transform of a real image
        expected = torch.fft.irfft2(spectrum, s=(height, width), norm="forward")
        assert oracles.relative_error(oracles.inverse_dft(spectrum, width, half=True), expected) < 1e-12


@pytest.mark.parametrize("size", SIZES + MORE_SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("statistics", STATISTICS)
@pytest.mark.parametrize("fft_norm", CONVENTIONS)
def test_equals_the_transform(fft_norm: str, statistics: str, size: tuple[int, int]) -> None:
    """Output, gradients and running statistics of two training steps, then evaluation."""
    layer = layer_of(3, fft_norm=fft_norm, statistics=statistics, momentum=0.3)
    mean: Tensor | float = 0.0
    variance: Tensor | float = 1.0
    for step in range(2):
        x = images(5, 3, *size, seed=step).requires_grad_()
        y = layer(x)
        expected, used = oracles.spectral_batch_norm(
            x, layer.weight, layer.bias, fft_norm=fft_norm, statistics=statistics
        )
        assert oracles.relative_error(y, expected) <= 1e-12
        gy = images(*x.shape, seed=step + 10)
        got = torch.autograd.grad((y * gy).sum(), (x, layer.weight, layer.bias))
        want = torch.autograd.grad((expected * gy).sum(), (x, layer.weight, layer.bias))
        for a, b in zip(got, want, strict=True):
            assert oracles.relative_error(a, b) <= 1e-11
        count = 5 if statistics == "frequency" else 5 * size[0] * size[1]
        mean = 0.7 * mean + 0.3 * used[0].detach()
        variance = 0.7 * variance + 0.3 * used[1].detach() * count / (count - 1)
        found_mean, found_variance = running_of(layer)
        assert oracles.relative_error(torch.view_as_real(found_mean), torch.view_as_real(mean)) <= 1e-12
        assert oracles.relative_error(found_variance, variance) <= 1e-12

    layer.eval()
    grown = size if statistics == "frequency" else (size[0] + 1, size[1] + 2)
    x = images(2, 3, *grown, seed=5).requires_grad_()
    expected, _ = oracles.spectral_batch_norm(
        x, layer.weight, layer.bias, fft_norm=fft_norm, statistics=statistics, running=(mean, variance)
    )
    y = layer(x)
    assert oracles.relative_error(y, expected) <= 1e-12
    gy = images(*x.shape, seed=6)
    got = torch.autograd.grad((y * gy).sum(), (x, layer.weight, layer.bias))
    want = torch.autograd.grad((expected * gy).sum(), (x, layer.weight, layer.bias))
    for a, b in zip(got, want, strict=True):
        assert oracles.relative_error(a, b) <= 1e-11


@pytest.mark.parametrize("size", [(7, 8), (9, 9), (5, 1), (5, 2), (1, 1)], ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("statistics", STATISTICS)
@pytest.mark.parametrize("fft_norm", CONVENTIONS)
def test_one_image(fft_norm: str, statistics: str, size: tuple[int, int]) -> None:
    """Its frequencies are the only values that there are; a variance over one image alone is zero."""
    layer = layer_of(3, fft_norm=fft_norm, statistics=statistics, momentum=1.0)
    x = images(1, 3, *size).requires_grad_()
    y = layer(x)
    expected, used = oracles.spectral_batch_norm(x, layer.weight, layer.bias, fft_norm=fft_norm, statistics=statistics)
    assert oracles.relative_error(y, expected) <= 1e-12
    gy = images(*x.shape, seed=10)
    got = torch.autograd.grad((y * gy).sum(), (x, layer.weight, layer.bias))
    want = torch.autograd.grad((expected * gy).sum(), (x, layer.weight, layer.bias))
    scale = max(gradient.abs().max() for gradient in want)
    for a, b in zip(got, want, strict=True):
        assert (a - b).abs().max() <= 1e-11 * scale
    assert oracles.relative_error(torch.complex(*layer.running_mean), used[0]) <= 1e-12
    count = 1 if statistics == "frequency" else size[0] * size[1]
    unbiased = used[1] * count / max(count - 1, 1)
    assert (layer.running_var - unbiased).abs().max() <= 1e-12 * used[0].abs().square().max()


@pytest.mark.parametrize("statistics", ["half", "full"])
@pytest.mark.parametrize("fft_norm", CONVENTIONS)
def test_float32_stays_close_to_float64(statistics: str, fft_norm: str) -> None:
    layer = layer_of(3, fft_norm=fft_norm, statistics=statistics)
    for size in SIZES:
        x = images(8, 3, *size)
        expected = copy.deepcopy(layer)(x)
        got = copy.deepcopy(layer).float()(x.float())
        assert got.dtype == torch.float32
        assert oracles.relative_error(got.double(), expected) <= 5e-6


@pytest.mark.parametrize("statistics", STATISTICS)
def test_gradient_by_finite_differences(statistics: str) -> None:
    layer = layer_of(2, statistics=statistics, eps=0.1)
    x = images(3, 2, 3, 4).requires_grad_()

    def run(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, x)

    torch.autograd.gradcheck(run, (x, layer.weight.detach().requires_grad_(), layer.bias.detach().requires_grad_()))


@pytest.mark.parametrize("eps", [1e-5, 0.5])
def test_eps_is_added_to_the_variance(eps: float) -> None:
    layer = layer_of(2, eps=eps)
    x = images(4, 2, 6, 5)
    expected, _ = oracles.spectral_batch_norm(x, layer.weight, layer.bias, fft_norm="ortho", statistics="half", eps=eps)
    assert oracles.relative_error(layer(x), expected) <= 1e-12


def test_rms_is_one_after_batch_norm() -> None:
    """Full plane, no eps: the root mean square of each channel is exactly the gain."""
    batch_norm = nn.BatchNorm2d(3, eps=1e-300).double()  # zero is not allowed there
    with torch.no_grad():
        batch_norm.weight.copy_(torch.tensor([0.1, 1.0, 30.0]))
        batch_norm.bias.copy_(torch.tensor([2.0, 0.0, -7.0]))
    layer = SpectralBatchNorm2d(3, eps=0, statistics="full").double()
    normalized = batch_norm(images(6, 3, 8, 5))
    y = layer(normalized)
    assert torch.allclose(y.square().mean((0, 2, 3)), torch.ones(3).double(), rtol=1e-12)

    # Off the corner pixel it divides by sqrt(g^2 + b^2 - m^2 / pixels), m being the batch mean of the corner.
    corner = normalized[:, :, 0, 0].mean(0)
    divisor = (batch_norm.weight**2 + batch_norm.bias**2 - corner**2 / 40).sqrt()
    expected = normalized / divisor[:, None, None]
    assert torch.allclose(y[:, :, 1:], expected[:, :, 1:], rtol=1e-11)
    assert torch.allclose(y[:, :, 0, 1:], expected[:, :, 0, 1:], rtol=1e-11)


def test_spatial_mean_survives_but_the_first_row_is_moved() -> None:
    """Half plane: rows below the first are scaled and nothing else; the first one gets an offset."""
    layer = layer_of(2)
    x = images(4, 2, 6, 5)
    ratio = layer(x) / x
    rest = ratio[:, :, 1:]
    assert torch.allclose(rest, rest[:1, :, :1, :1].expand_as(rest), rtol=1e-9)
    assert (ratio[:, :, 0] - rest[:1, :, 0, :1]).abs().max() > 1e-3


@pytest.mark.parametrize("size", [4, 7, 8, 16, 32])
@pytest.mark.parametrize(("fft_norm", "power"), [("backward", -1), ("full", -1), ("ortho", 0), ("forward", 1)])
@pytest.mark.parametrize("statistics", ["half", "full"])
def test_output_scale_of_noise(statistics: str, fft_norm: str, power: int, size: int) -> None:
    x = torch.randn(256, 2, size, size, generator=torch.Generator().manual_seed(size))
    y = SpectralBatchNorm2d(2, fft_norm=fft_norm, statistics=statistics)(x)
    assert y.std().item() == pytest.approx(float(size) ** power, rel=0.04)


def test_eps_shrinks_the_full_convention_on_large_images() -> None:
    """Variances are about 1 / pixels there, so that eps counts: 1.5 % at 56x56, 6 % at 112x112 (published: .00842)."""
    for size, shrunk in ((56, 0.985), (112, 0.9426)):
        x = torch.randn(2, 1, size, size, generator=torch.Generator().manual_seed(0))
        both = [SpectralBatchNorm2d(1, fft_norm=name)(x).std().item() for name in ("full", "backward")]
        assert both[0] / both[1] == pytest.approx(shrunk, abs=2e-3)


# --- buffers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("statistics", STATISTICS)
def test_running_statistics_keep_no_graph(statistics: str) -> None:
    layer = SpectralBatchNorm2d(3, statistics=statistics)
    for seed in range(3):
        x = images(4, 3, 5, 6, seed=seed).float().requires_grad_()
        layer(x).sum().backward()
    for buffer in (layer.running_mean, layer.running_var):
        assert not buffer.requires_grad
        assert buffer.grad_fn is None
    copied = copy.deepcopy(layer).eval()
    x = images(2, 3, 5, 6, seed=9).float()
    assert torch.equal(copied(x), layer.eval()(x))


def test_initial_parameters_and_buffers() -> None:
    layer = SpectralBatchNorm2d(3)
    assert {k: tuple(v.shape) for k, v in layer.state_dict().items()} == {
        "weight": (3,),
        "bias": (3,),
        "running_mean": (2, 3),
        "running_var": (3,),
    }
    assert layer.weight.tolist() == [1, 1, 1]
    assert layer.bias.tolist() == [0, 0, 0]
    assert layer.running_mean.abs().max() == 0
    assert layer.running_var.tolist() == [1, 1, 1]


@pytest.mark.parametrize("statistics", STATISTICS)
@pytest.mark.parametrize("fft_norm", CONVENTIONS)
def test_training_and_evaluation_agree_on_equal_statistics(fft_norm: str, statistics: str) -> None:
    layer = layer_of(3, fft_norm=fft_norm, statistics=statistics, momentum=1.0)
    x = images(5, 3, 6, 7)
    trained = layer(x)
    count = 5 if statistics == "frequency" else 5 * 6 * 7
    layer.running_var.mul_((count - 1) / count)  # the running variance is the unbiased one
    assert oracles.relative_error(layer.eval()(x), trained) <= 1e-12


@pytest.mark.parametrize("statistics", STATISTICS)
def test_state_dict_round_trip(statistics: str) -> None:
    layer = layer_of(3, statistics=statistics)
    layer(images(4, 3, 6, 5))
    file = io.BytesIO()
    torch.save(nn.Sequential(layer).state_dict(), file)
    file.seek(0)
    fresh = nn.Sequential(layer_of(3, seed=1, statistics=statistics))
    fresh.load_state_dict(torch.load(file, weights_only=True))
    x = images(2, 3, 6, 5, seed=3)
    assert torch.equal(fresh.eval()(x), layer.eval()(x))
    fresh.train(), layer.train()
    assert torch.equal(fresh(x), layer(x))
    assert torch.equal(fresh[0].running_var, layer.running_var)


@pytest.mark.parametrize("size", [(6, 3), (5, 5), (6, 4)], ids=["width", "height", "same half plane"])
def test_frequency_statistics_refuse_another_size(size: tuple[int, int]) -> None:
    """Frequencies of widths 4 and 5 are different ones, though there are three of each."""
    layer = SpectralBatchNorm2d(3, statistics="frequency")
    x = torch.randn(4, 3, 6, 5, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="frequency"):
        layer.eval()(x)
    layer.train()(x)
    with pytest.raises(ValueError, match="frequency"):
        layer.eval()(x[:, :, : size[0], : size[1]])


def test_frequency_statistics_hold_for_the_size_of_the_first_batch() -> None:
    """A later training batch of another size must not silently throw the running statistics away."""
    layer = SpectralBatchNorm2d(3, statistics="frequency")
    x = torch.randn(4, 3, 6, 5, generator=torch.Generator().manual_seed(0))
    layer(x)
    kept = layer.running_var.clone()
    with pytest.raises(ValueError, match="frequency"):
        layer(x[..., :3])
    assert torch.equal(layer.running_var, kept)


# --- precision -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("statistics", STATISTICS)
def test_statistics_are_float32_under_autocast(statistics: str) -> None:
    """A sum of squares of a large low-precision image overflows or loses its digits unless it is done in float32."""
    x = (100 * images(8, 3, 16, 16)).bfloat16()
    layer = SpectralBatchNorm2d(3, statistics=statistics)
    exact = copy.deepcopy(layer)
    expected = exact(x.float())
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    assert torch.equal(layer.running_var, exact.running_var)
    assert torch.equal(layer.running_mean, exact.running_mean)
    assert torch.equal(y, expected.bfloat16())
    half = copy.deepcopy(exact)(x.half())
    assert half.dtype == torch.float16
    assert half.isfinite().all()


@pytest.mark.parametrize("statistics", STATISTICS)
@pytest.mark.parametrize("value", [0.0, 3.0, 100.1, 1234.567])
@pytest.mark.parametrize("size", [(1, 1), (4, 4)])
def test_constant_channel_stays_finite(statistics: str, value: float, size: tuple[int, int]) -> None:
    """The variance is zero, or nearly; rounding must not make it less than minus eps."""
    x = torch.full((7, 2, *size), value, requires_grad=True)
    layer = SpectralBatchNorm2d(2, statistics=statistics)
    y = layer(x)
    y.sum().backward()
    assert y.isfinite().all()
    assert x.grad.isfinite().all()
    assert (layer.running_var >= 0).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (4, 4)])
@pytest.mark.parametrize("fft_norm", ["ortho", "backward"])
@pytest.mark.parametrize("statistics", ["half", "full"])
def test_bright_corner_in_every_image_stays_finite(statistics: str, fft_norm: str, size: tuple[int, int]) -> None:
    """One nearly constant pixel has a flat spectrum, all mean and no variance: mean of squares minus square of mean."""
    for seed in range(10):
        x = 1e-3 * torch.randn(32, 4, *size, generator=torch.Generator().manual_seed(seed))
        x[:, :, 0, 0] += 100
        layer = SpectralBatchNorm2d(4, statistics=statistics, fft_norm=fft_norm)
        assert layer(x).isfinite().all()
        assert (layer.running_var >= 0).all()


# --- after a batch norm ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("size", SIZES + MORE_SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("statistics", STATISTICS)
@pytest.mark.parametrize("fft_norm", CONVENTIONS)
def test_after_a_batch_norm_equals_the_two_layers(
    fft_norm: str, statistics: str, size: tuple[int, int], channels_last: bool
) -> None:
    """Output, all gradients and all buffers of two training steps, and evaluation: one layer after the other."""
    batch_norm = nn.BatchNorm2d(3, eps=1e-3, momentum=0.2).double()
    with torch.no_grad():
        batch_norm.weight.copy_(torch.tensor([0.5, -1.5, 0.0]))
        batch_norm.bias.copy_(torch.tensor([1.0, 0.0, -0.7]))
    both = AfterBatchNorm(batch_norm, layer_of(3, fft_norm=fft_norm, statistics=statistics))
    apart = nn.Sequential(*copy.deepcopy(both))
    for step in range(3):
        x = 3 * images(4, 3, *size, seed=step) + 5
        x = x.to(memory_format=torch.channels_last) if channels_last else x
        a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
        if step == 2:
            both.eval(), apart.eval()
        both.zero_grad(), apart.zero_grad()
        found, expected = both(a), apart(b)
        assert oracles.relative_error(found, expected) < 1e-12
        weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        (found * weights).sum().backward()
        (expected * weights).sum().backward()
        scale = sum(p.grad.abs().max() for p in apart.parameters())
        # The gradient of a batch norm's input is a difference: it is measured against what it is a difference of.
        assert (a.grad - b.grad).abs().max() < 1e-12 * max(b.grad.abs().max(), scale / a.numel())
        for (name, p), q in zip(both.named_parameters(), apart.parameters(), strict=True):
            assert (p.grad - q.grad).abs().max() < 1e-12 * scale, name
        for (name, p), q in zip(both.named_buffers(), apart.buffers(), strict=True):
            assert torch.allclose(p, q, rtol=1e-12, atol=1e-14), name
    assert both.state_dict().keys() == apart.state_dict().keys()


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("statistics", ["half", "full"])
def test_after_a_batch_norm_in_bfloat16_is_that_of_float32_rounded_once(statistics: str, channels_last: bool) -> None:
    """Statistics, their averages and all gradients, for images that a convolution under autocast returns."""
    x = (3 * images(16, 3, 8, 8) + 5).bfloat16()
    x = x.to(memory_format=torch.channels_last) if channels_last else x
    both = AfterBatchNorm(nn.BatchNorm2d(3), layer_of(3, statistics=statistics)).float()
    exact = copy.deepcopy(both)
    a, b = x.clone().requires_grad_(), x.float().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        found = both(a)
    expected = exact(b)
    assert torch.equal(found, expected.bfloat16())
    gradient = images(*x.shape, seed=7).bfloat16()
    found.backward(gradient)
    expected.backward(gradient.float())
    assert torch.equal(a.grad, b.grad.bfloat16())
    for p, q in zip([*both.parameters()], [*exact.parameters()], strict=True):
        assert torch.equal(p.grad, q.grad)
    for p, q in zip(both.buffers(), exact.buffers(), strict=True):
        assert torch.equal(p, q)


BATCH_NORMS = {
    "without parameters": {"affine": False},
    "without running statistics": {"track_running_stats": False},
    "cumulative average": {"momentum": None},
}


@pytest.mark.parametrize("training", [(True, True), (False, True), (True, False), (False, False)])
@pytest.mark.parametrize("kind", [None, *BATCH_NORMS])
def test_after_a_batch_norm_of_any_kind(kind: str | None, training: tuple[bool, bool]) -> None:
    """Any BatchNorm2d, and either of the two in evaluation mode within a network in training (fine-tuning does that)."""
    both = AfterBatchNorm(nn.BatchNorm2d(3, **BATCH_NORMS.get(kind, {})), layer_of(3)).double()
    apart = nn.Sequential(*copy.deepcopy(both))
    for step in range(2):
        for module in (both, apart):
            for layer, mode in zip(module, training, strict=True):
                layer.train(mode)
        a, b = (images(4, 3, 6, 5, seed=step).requires_grad_() for _ in range(2))
        found, expected = both(a), apart(b)
        assert oracles.relative_error(found, expected) <= 1e-12
        (found * images(4, 3, 6, 5, seed=9)).sum().backward()
        (expected * images(4, 3, 6, 5, seed=9)).sum().backward()
        assert oracles.relative_error(a.grad, b.grad) <= 1e-11
        for (name, p), q in zip(both.named_buffers(), apart.buffers(), strict=True):
            assert torch.allclose(p, q, rtol=1e-12, atol=1e-14), name


def test_after_a_batch_norm_one_value_of_a_channel_is_refused() -> None:
    """As by the batch norm itself: the unbiased variance of one value would make the running one NaN."""
    both = AfterBatchNorm(nn.BatchNorm2d(3), SpectralBatchNorm2d(3))
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        both(torch.randn(1, 3, 1, 1, generator=torch.Generator().manual_seed(0)))
    assert both[0].running_var.isfinite().all()


@pytest.mark.parametrize("mean", [0.0, 30.0, 1000.0])
def test_after_a_batch_norm_rounding_errors_are_those_of_the_two_layers(mean: float) -> None:
    """Statistics that follow from others must not lose digits where a channel's mean is far from zero."""
    torch.manual_seed(0)
    single = AfterBatchNorm(nn.BatchNorm2d(8), SpectralBatchNorm2d(8))
    with torch.no_grad():
        for parameter in single.parameters():
            parameter.uniform_(0.5, 1.5)
    apart, exact = nn.Sequential(*copy.deepcopy(single)), nn.Sequential(*copy.deepcopy(single)).double()
    for size in ((6, 7), (16, 16)):
        x = (images(16, 8, *size) + mean).float()
        gradient = images(16, 8, *size, seed=1)
        found = []
        for layer in (exact, single, apart):
            image = x.to(layer[0].weight.dtype).requires_grad_()
            y = layer(image)
            y.backward(gradient.to(y.dtype))
            found.append((y.detach().double(), image.grad.double()))
        for expected, ours, theirs in zip(*found, strict=True):
            limit = max(4 * oracles.relative_error(theirs, expected), 1e-6)
            assert oracles.relative_error(ours, expected) <= limit


def test_after_a_batch_norm_bfloat16_is_computed_in_float32() -> None:
    both = AfterBatchNorm(nn.BatchNorm2d(3), SpectralBatchNorm2d(3))
    exact = copy.deepcopy(both)
    x = images(8, 3, 6, 6).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        y = both(x)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, exact(x.float()).bfloat16())
    assert torch.equal(both[0].running_var, exact[0].running_var)


# --- the method ------------------------------------------------------------------------------------------------------


EARLIER_NORMS = ["norm", *[f"stages.{place}" for place in ("0.0.norm1", "0.0.norm2", "1.0.norm1", "1.0.norm2")]]
EARLIER_NORMS += ["stages.1.0.shortcut.1"]
LAST_NORMS = ["stages.2.0.norm1", "stages.2.0.norm2", "stages.2.0.shortcut.1"]


@pytest.mark.parametrize(
    ("placement", "in_resnet8", "in_vgg11"),
    [("all", EARLIER_NORMS + LAST_NORMS, 8), ("last_stage", LAST_NORMS, 2), ("last_in_block", LAST_NORMS[1:2], 1)],
)
def test_placement(placement: str, in_resnet8: list[str], in_vgg11: int) -> None:
    def places(model: nn.Module) -> list[str]:
        return [
            name.rpartition(".")[0] for name, module in model.named_modules() if isinstance(module, SpectralBatchNorm2d)
        ]

    method = SpectralBatchNorm(placement=placement)
    model = registry.classifier("resnet8", {}, method, 1, 10)
    assert sorted(places(model)) == sorted(in_resnet8)
    for place in in_resnet8:  # after the batch norm, which stays
        assert [type(layer) for layer in model.get_submodule(place)] == [nn.BatchNorm2d, SpectralBatchNorm2d]
    assert len([m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]) == 9
    assert len(places(registry.classifier("vgg11", {"width": 8}, method, 3, 10))) == in_vgg11


def test_options_reach_the_layers() -> None:
    role = Role("body", stage=2, last_stage=True)
    method = SpectralBatchNorm(fft_norm="forward", statistics="full", eps=0.5, momentum=0.25)
    _, layer = method.norm(2, role=role).double()
    x = images(4, 2, 6, 5)
    expected, used = oracles.spectral_batch_norm(
        x, layer.weight, layer.bias, fft_norm="forward", statistics="full", eps=0.5
    )
    assert oracles.relative_error(layer(x), expected) <= 1e-12
    assert oracles.relative_error(layer.running_mean[0], 0.25 * used[0].real) <= 1e-12
    assert type(method.norm(2, role=Role("body", stage=1))) is nn.BatchNorm2d
