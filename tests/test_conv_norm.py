"""ConvNorm against explicit circulant preconditioners, and the invariances that follow from the definition."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import oracles
import pytest
import torch
from torch import Tensor, nn

from normbench.methods.base import Role
from normbench.methods.conv_norm import ConvNorm, ConvNorm2d


@dataclass(frozen=True)
class Case:
    inputs: int
    outputs: int
    kernel: int
    stride: int = 1
    padding: int = 0
    groups: int = 1
    affine: bool = True
    batch_norm: bool = True
    size: tuple[int, int] = (4, 5)

    def layer(self) -> ConvNorm2d:
        layer = ConvNorm2d(
            self.inputs,
            self.outputs,
            self.kernel,
            self.stride,
            self.padding,
            self.groups,
            affine=self.affine,
            batch_norm=self.batch_norm,
        ).double()
        if self.batch_norm and self.affine:  # away from one and zero, where a swap would not show
            nn.init.uniform_(layer.batch_norm.weight, 0.5, 1.5)
            nn.init.uniform_(layer.batch_norm.bias, -1, 1)
        return layer

    def oracle(
        self, x: Tensor, layer: ConvNorm2d, running: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        depthwise = batch_norm = None
        if self.affine:
            depthwise = (layer.affine.weight, layer.affine.bias)
        if self.batch_norm:
            one = torch.ones(self.outputs, dtype=torch.float64)
            batch_norm = (layer.batch_norm.weight, layer.batch_norm.bias) if self.affine else (one, 0 * one)
        return oracles.conv_norm(
            x,
            layer.weight,
            depthwise,
            batch_norm,
            stride=self.stride,
            padding=self.padding,
            groups=self.groups,
            running=running,
        )


CASES = {
    "padding 1": Case(2, 3, 3, padding=1),
    "no padding": Case(2, 3, 3),
    "full padding": Case(2, 3, 3, padding=2),
    "odd by odd": Case(2, 2, 3, padding=1, size=(3, 5)),
    "even by even": Case(2, 2, 3, padding=1, size=(4, 4)),
    "one pixel": Case(2, 2, 3, padding=1, size=(1, 1)),
    "strided": Case(2, 3, 3, stride=2, padding=1, size=(5, 4)),
    "stride 3, no padding": Case(2, 3, 3, stride=3, size=(7, 5)),
    "5x5": Case(1, 2, 5, padding=2, size=(3, 4)),
    "grouped": Case(4, 6, 3, padding=1, groups=2),
    "depthwise": Case(3, 3, 3, padding=1, groups=3),
    "no affine": Case(2, 3, 3, padding=1, affine=False),
    "no batch norm": Case(2, 3, 3, padding=1, batch_norm=False),
    "neither": Case(2, 3, 3, padding=1, affine=False, batch_norm=False),
    "1x1": Case(4, 3, 1),
    "1x1 strided": Case(4, 3, 1, stride=2),
    "1x1 strided, bare": Case(4, 3, 1, stride=2, affine=False, batch_norm=False, size=(5, 5)),
    "1x1 grouped": Case(4, 6, 1, groups=2),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_equals_explicit_circulants(case: Case) -> None:
    """Output and gradients of two training steps, the running statistics, then evaluation at another image size."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(1)
    layer = case.layer()
    names = [name for name, _ in layer.named_parameters()]
    assert ("affine.weight" in names) == case.affine
    assert ("batch_norm.weight" in names) == (case.affine and case.batch_norm)
    mean, variance = torch.zeros(case.outputs).double(), torch.ones(case.outputs).double()
    for _ in range(2):
        x = torch.randn(3, case.inputs, *case.size, generator=generator, dtype=torch.float64).requires_grad_()
        y = layer(x)
        expected, used = case.oracle(x, layer)
        assert oracles.relative_error(y, expected) <= 1e-11
        gy = torch.randn(y.shape, generator=generator, dtype=torch.float64)
        inputs = (x, *layer.parameters())
        got = torch.autograd.grad((y * gy).sum(), inputs)
        want = torch.autograd.grad((expected * gy).sum(), inputs)
        scale = max(gradient.abs().max().item() for gradient in want)
        for name, a, b in zip(["x", *names], got, want, strict=True):
            # The offset in front of a batch norm has no gradient but rounding errors.
            error = (a - b).abs().max().item() / (scale if name == "affine.bias" else b.abs().max().item())
            assert error <= 1e-9, name
        if used is not None:
            count = y.numel() / case.outputs
            mean = 0.9 * mean + 0.1 * used[0].detach()
            variance = 0.9 * variance + 0.1 * used[1].detach() * count / (count - 1)
            assert torch.allclose(layer.batch_norm.running_mean, mean, rtol=1e-10, atol=1e-12)
            assert torch.allclose(layer.batch_norm.running_var, variance, rtol=1e-10)

    layer.eval()
    x = torch.randn(2, case.inputs, case.size[0] + 3, case.size[1] + 2, generator=generator, dtype=torch.float64)
    expected, _ = case.oracle(x, layer, (mean, variance))
    assert oracles.relative_error(layer(x), expected) <= 1e-11


def bare(inputs: int, outputs: int, kernel: int, groups: int = 1) -> ConvNorm2d:
    """The normalized convolution alone, on its whole grid."""
    return ConvNorm2d(inputs, outputs, kernel, 1, kernel - 1, groups, affine=False, batch_norm=False).double()


@pytest.mark.parametrize(("kernel", "groups"), [(3, 1), (3, 2), (5, 1), (1, 1)])
def test_each_output_channel_has_unit_energy_at_every_frequency(kernel: int, groups: int) -> None:
    """sum_j |V w_kj|^2 = 1, seen from outside: the spectra of the responses to one pixel in each input channel."""
    layer = bare(4, 6, kernel, groups)
    height, width = 5, 6
    pixel = torch.zeros(4, 4, height, width, dtype=torch.float64)
    for j in range(4):
        pixel[j, j, 2, 3] = 1
    energy = torch.fft.fft2(layer(pixel)).abs().square().sum(0)
    assert energy.shape == (6, height + kernel - 1, width + kernel - 1)
    assert (energy - 1).abs().max() <= 1e-10


@pytest.mark.parametrize(("padding", "stride"), [(2, 1), (1, 1), (1, 2)])
def test_norm_is_at_most_the_root_of_the_output_channels(padding: int, stride: int) -> None:
    layer = ConvNorm2d(3, 6, 3, stride, padding, affine=False, batch_norm=False).double()
    with torch.no_grad():
        layer.weight.mul_(100)
    basis = torch.eye(3 * 25, dtype=torch.float64).view(-1, 3, 5, 5)
    jacobian = layer(basis).detach().flatten(1)
    assert torch.linalg.matrix_norm(jacobian, 2) <= 6**0.5 + 1e-9


@pytest.mark.parametrize("kernel", [1, 3])
def test_scale_of_a_channel_does_not_matter(kernel: int) -> None:
    generator = torch.Generator().manual_seed(0)
    layer = bare(3, 4, kernel)
    scaled = copy.deepcopy(layer)
    factors = torch.tensor([0.01, 0.5, 3.0, 1e4], dtype=torch.float64)
    with torch.no_grad():
        scaled.weight.mul_(factors[:, None, None, None])
    x = torch.randn(2, 3, 6, 7, generator=generator, dtype=torch.float64)
    y, z = layer(x), scaled(x)
    assert oracles.relative_error(z, y) <= 1e-12
    gy = torch.randn(y.shape, generator=generator, dtype=torch.float64)
    (y * gy).sum().backward()
    (z * gy).sum().backward()
    assert oracles.relative_error(scaled.weight.grad * factors[:, None, None, None], layer.weight.grad) <= 1e-12


@pytest.mark.parametrize("kernel", [1, 3])
def test_filter_is_a_constant_of_the_gradient(kernel: int) -> None:
    """With a constant filter the layer is linear in its weights, so <gradient, weights> is <gy, y>, and not zero."""
    generator = torch.Generator().manual_seed(0)
    layer = bare(3, 4, kernel)
    x = torch.randn(2, 3, 6, 7, generator=generator, dtype=torch.float64)
    y = layer(x)
    gy = torch.randn(y.shape, generator=generator, dtype=torch.float64)
    (y * gy).sum().backward()
    for o in range(4):
        along = (layer.weight.grad[o] * layer.weight[o]).sum().item()
        assert along == pytest.approx((y[:, o] * gy[:, o]).sum().item(), rel=1e-10)
        assert abs(along) > 1e-3


def test_input_gradient_by_finite_differences() -> None:
    layer = ConvNorm2d(2, 2, 3, stride=2, padding=1).double()
    x = torch.randn(2, 2, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(layer, x)


def test_untrained_layer_can_be_evaluated() -> None:
    """The authors' layer gives zeros here, as its running filter starts at zero."""
    layer = ConvNorm2d(3, 4, 3, padding=1).eval()
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    y = layer(x)
    assert y.abs().min(dim=0).values.max() > 0.1
    expected, _ = oracles.conv_norm(
        x.double(),
        layer.weight.double(),
        (layer.affine.weight.double(), layer.affine.bias.double()),
        (torch.ones(4).double(), torch.zeros(4).double()),
        padding=1,
        running=(torch.zeros(4).double(), torch.ones(4).double()),
    )
    assert oracles.relative_error(y.double(), expected) <= 1e-5


def test_evaluation_follows_the_weights() -> None:
    layer = bare(3, 4, 3)
    x = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    layer(x)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(layer.weight.shape, generator=torch.Generator().manual_seed(1)))
    trained = layer(x)
    assert torch.equal(layer.eval()(x), trained)


@pytest.mark.parametrize(
    ("kernel", "padding", "said"), [(2, 0, "even"), (4, 1, "even"), (3, 3, "padding"), (1, 1, "padding")]
)
def test_refuses_what_the_definition_does_not_cover(kernel: int, padding: int, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ConvNorm2d(2, 2, kernel, padding=padding)


def test_initial_parameters() -> None:
    """Default convolution initialisation everywhere; the depth-wise kernel does not start as an identity."""
    torch.manual_seed(0)
    layer = ConvNorm2d(16, 32, 3)
    assert layer.weight.shape == (32, 16, 3, 3)
    assert 0.9 < layer.weight.abs().max() * 12 <= 1
    assert layer.affine.weight.shape == (32, 1, 3, 3)
    assert 0.9 < layer.affine.weight.abs().max() * 3 <= 1
    assert layer.affine.bias.shape == (32,)
    assert torch.equal(layer.batch_norm.weight, torch.ones(32))
    assert {name.partition(".")[0] for name in layer.state_dict()} == {"weight", "affine", "batch_norm"}


@pytest.mark.parametrize("kernel", [1, 3])
def test_filter_is_float32_under_autocast(kernel: int) -> None:
    """bfloat16 rounds the convolution; the filter multiplies by V in float32, so the error stays that of bfloat16."""
    layer = ConvNorm2d(8, 8, kernel, affine=False, batch_norm=False)
    x = torch.randn(4, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    exact = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    assert oracles.relative_error(y.float(), exact) <= 0.02


def test_float32_stays_close_to_float64() -> None:
    torch.manual_seed(0)
    layer = ConvNorm2d(16, 8, 3, padding=1).double()
    x = torch.randn(4, 16, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = copy.deepcopy(layer)(x)
    assert oracles.relative_error(layer.float()(x.float()).double(), expected) <= 1e-5


def test_float32_stands_near_zeros_of_the_spectrum() -> None:
    """Kernels of one input channel, as in a stem for grey images, come near a zero of their spectrum now and then.

    The square of a spectrum loses twice the digits that the spectrum loses: none is left here, or a square that is
    zero, and one such channel makes the whole network NaN. Each kernel gets a spectrum of 3e-4 at a frequency.
    """
    generator = torch.Generator().manual_seed(0)
    layer = ConvNorm2d(1, 64, 3, padding=1, affine=False, batch_norm=False)
    lag = torch.arange(3, dtype=torch.float64)
    for channel in range(64):
        u, v = 1 + channel % 15, channel // 2  # not a frequency where the spectrum is real
        angle = 2 * torch.pi / 32 * (u * lag[:, None] + v * lag)
        waves = torch.stack([angle.cos().flatten(), angle.sin().flatten()])
        kernel = torch.randn(9, generator=generator, dtype=torch.float64) / 3
        wanted = torch.tensor([3e-4, 0.0], dtype=torch.float64)
        kernel += torch.linalg.lstsq(waves, wanted - waves @ kernel).solution
        layer.weight.data[channel, 0] = kernel.view(3, 3)
    x = torch.randn(4, 1, 30, 30, generator=generator)
    found, expected = layer(x).double(), copy.deepcopy(layer).double()(x.double())
    assert found.isfinite().all()
    assert oracles.relative_error(found, expected) <= 1e-3


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("batch_norm", [True, False])
def test_options_reach_the_layers(affine: bool, batch_norm: bool) -> None:
    method = ConvNorm(affine=affine, batch_norm=batch_norm)
    case = Case(4, 6, 3, 2, 1, 2, affine, batch_norm, (5, 5))
    layer = method.conv(4, 6, 3, role=Role("body"), stride=2, padding=1, groups=2).double()
    x = torch.randn(3, 4, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected, _ = case.oracle(x, layer)
    assert oracles.relative_error(layer(x), expected) <= 1e-11
    assert isinstance(method.norm(6, role=Role("body")), nn.Identity)
    assert type(method.linear(6, 2, role=Role("head"))) is nn.Linear
