"""ConvNorm against explicit circulant preconditioners, and the invariances that follow from the definition."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from normbench.functional.constants import unchanging
from normbench.functional.convolution import Conv2d
from normbench.methods import conv_norm
from normbench.methods.base import ConvSpec, Role
from normbench.methods.conv_norm import ConvNorm, ConvNorm2d
from normbench.models import registry
from tests.oracles import layers as oracles
from tests.oracles.operators import spread

Pair = tuple[int, int]


@dataclass(frozen=True)
class Case:
    inputs: int
    outputs: int
    kernel: int | Pair
    stride: int | Pair = 1
    padding: int | Pair = 0
    groups: int = 1
    dilation: int | Pair = 1
    affine: bool = True
    batch_norm: bool = True
    size: Pair = (4, 5)
    count: int = 3

    def layer(self) -> ConvNorm2d:
        layer = ConvNorm2d(
            self.inputs,
            self.outputs,
            self.kernel,
            self.stride,
            self.padding,
            self.groups,
            self.dilation,
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
            spread(layer.weight, self.dilation),
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
    "column kernel": Case(2, 3, (3, 1), padding=(1, 0)),
    "column kernel, no padding, strided": Case(2, 3, (3, 1), stride=(2, 1), size=(6, 3)),
    "row kernel": Case(2, 3, (1, 5), padding=(0, 2)),
    "row kernel, full padding, strided": Case(2, 3, (1, 5), stride=(1, 3), padding=(0, 4)),
    "3x5": Case(2, 2, (3, 5), padding=(2, 1), size=(3, 4)),
    "stride along rows": Case(2, 3, 3, stride=(2, 1), padding=1, size=(5, 4)),
    "stride along columns": Case(2, 3, 3, stride=(1, 2), padding=1, size=(4, 6)),
    "padding along columns": Case(2, 3, 3, padding=(0, 2)),
    "rectangular, grouped": Case(4, 6, (1, 3), stride=(2, 1), padding=(0, 1), groups=2),
    "rectangular, bare": Case(2, 3, (3, 1), padding=(2, 0), affine=False, batch_norm=False),
    "1x1, rectangular stride": Case(4, 3, 1, stride=(2, 1)),
    "one image": Case(2, 3, 3, padding=1, count=1),
    "one image, strided": Case(2, 3, 3, stride=2, padding=1, count=1, size=(5, 5)),
    "two images": Case(2, 3, 3, padding=1, count=2),
    "four images, strided": Case(2, 3, 3, stride=2, padding=1, count=4, size=(5, 4)),
    "dilated": Case(2, 3, 3, padding=2, dilation=2),
    "dilated, no padding": Case(2, 3, 3, dilation=2, size=(6, 5)),
    "dilated, more than the image": Case(2, 3, 3, padding=7, dilation=7, size=(4, 3)),
    "dilated, strided": Case(2, 3, 3, stride=2, padding=3, dilation=3, size=(5, 6)),
    "dilated along columns, grouped": Case(4, 6, 3, padding=(1, 2), groups=2, dilation=(1, 2)),
    "dilated, 3x5, bare": Case(2, 2, (3, 5), padding=(4, 3), dilation=(3, 2), affine=False, batch_norm=False),
    "dilated 1x1": Case(4, 3, 1, dilation=3),
    "five images": Case(2, 3, 3, padding=1, count=5),
    "five images, bare": Case(2, 3, 3, count=5, affine=False, batch_norm=False),
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
        x = torch.randn(case.count, case.inputs, *case.size, generator=generator, dtype=torch.float64).requires_grad_()
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


def test_padding_of_a_dilated_kernel_has_a_limit() -> None:
    assert ConvNorm2d(2, 3, 3, padding=4, dilation=2).full == (4, 4)
    with pytest.raises(ValueError, match=r"padding 5 is more than dilation \* \(kernel_size - 1\) = 4"):
        ConvNorm2d(2, 3, 3, padding=5, dilation=2)


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


def assigned(layer: ConvNorm2d, weight: Tensor) -> None:
    layer.weight = nn.Parameter(weight)


CHANGES = {  # ways to give a layer other weights; torch counts no version of the second, which optimizers of users take
    "in place": lambda layer, weight: layer.weight.copy_(weight),
    "behind torch's back": lambda layer, weight: layer.weight.data.copy_(weight),
    "one number": lambda layer, weight: layer.weight.data.view(-1)[3:4].add_(1e-3),
    "loaded": lambda layer, weight: layer.load_state_dict(layer.state_dict() | {"weight": weight}),
    "another parameter": assigned,
    "through numpy": lambda layer, weight: layer.weight.detach().numpy().__setitem__(..., weight.numpy()),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
@pytest.mark.parametrize("inference", [True, False])
def test_evaluation_follows_the_weights(change: Callable[[ConvNorm2d, Tensor], Any], inference: bool) -> None:
    """Outside of `unchanging`, the filter is never that of other weights."""
    layer = bare(3, 4, 3).eval()
    x = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.inference_mode(inference), torch.no_grad():
        before = layer(x)
        assert torch.equal(layer(x), before)
    with torch.no_grad():
        change(layer, torch.randn(layer.weight.shape, generator=torch.Generator().manual_seed(1)).double())
    trained = copy.deepcopy(layer).train()(x)
    with torch.inference_mode(inference), torch.no_grad():
        assert torch.equal(layer(x), trained)
        assert oracles.relative_error(before, trained) > 1e-6


def test_evaluation_at_other_sizes_and_in_other_types() -> None:
    """One layer that keeps its filters, in turns, against a copy that keeps none."""
    layer = ConvNorm2d(3, 4, 3, padding=1).eval()
    fresh = copy.deepcopy(layer)
    generator = torch.Generator().manual_seed(0)
    with unchanging(layer), torch.no_grad():
        for size, low in (((6, 6), False), ((6, 7), False), ((6, 7), True), ((7, 6), True), ((6, 6), False)):
            x = torch.randn(3, 3, *size, generator=generator)
            with torch.autocast("cpu", torch.bfloat16, enabled=low):
                found, expected = layer(x), fresh(x)
            assert found.dtype == (torch.bfloat16 if low else torch.float32)
            assert oracles.relative_error(found.float(), expected.float()) <= (2**-7 if low else 2e-6)


def test_a_kept_filter_serves_gradients_of_images() -> None:
    """Also one that was made in inference mode."""
    layer = ConvNorm2d(3, 4, 3, padding=1).eval()
    x = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    found = []
    with unchanging(layer):
        with torch.inference_mode():
            layer(x)
        for each in (layer, copy.deepcopy(layer)):
            image = x.clone().requires_grad_()
            each(image).square().sum().backward()
            found.append(image.grad)
    assert oracles.relative_error(*found) <= 2e-6


@pytest.mark.parametrize("constant", [True, False])
def test_parameters_learn_in_evaluation_mode(constant: bool) -> None:
    """What needs a gradient is not folded, also where the caller says that nothing changes."""
    layer = ConvNorm2d(3, 4, 3, padding=1).eval()
    x = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    with unchanging(layer) if constant else contextlib.nullcontext():
        layer(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in layer.parameters())


def test_a_constant_batch_norm_is_part_of_the_depthwise_convolution() -> None:
    """Not where its statistics may change, which `unchanging` is told."""
    layer = ConvNorm2d(3, 4, 3, padding=1)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 3, 6, 6, generator=generator)
    layer(x)
    layer.eval()
    assert layer.batch_norm is not None
    for moved in (layer.batch_norm, layer.batch_norm.weight, layer.batch_norm.bias):
        tensor = moved.running_var if isinstance(moved, torch.nn.Module) else moved
        with torch.no_grad():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    with torch.no_grad():
        expected = layer(x)
        with unchanging(layer):
            assert oracles.relative_error(layer(x), expected) <= 2e-6
            layer.batch_norm.running_mean.add_(1.0)
            assert oracles.relative_error(layer(x), expected) <= 2e-6
        with unchanging(layer, but=[layer.batch_norm]):
            before = layer(x)
            layer.batch_norm.running_mean.add_(1.0)
            assert oracles.relative_error(layer(x), before) > 1e-2


@pytest.mark.parametrize(
    ("kernel", "padding", "said"),
    [
        (2, 0, "even"),
        (4, 1, "even"),
        ((3, 2), 0, "even"),
        ((2, 3), 0, "even"),
        (3, 3, "padding"),
        (1, 1, "padding"),
        ((3, 1), 1, "padding"),
        ((1, 5), (1, 0), "padding"),
    ],
)
def test_refuses_what_the_definition_does_not_cover(kernel: int | Pair, padding: int | Pair, said: str) -> None:
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


class Products(TorchDispatchMode):
    """Keeps the types of the numbers that products of matrices are given."""

    def __init__(self) -> None:
        super().__init__()
        self.types: list[torch.dtype] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "mm" in function.overloadpacket.__name__:
            self.types += [args[0].dtype]
            assert all(leaf.dtype == args[0].dtype for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("given", "autocast", "filtered"),
    [
        (torch.float64, False, torch.float64),
        (torch.float32, False, torch.float32),
        (torch.float32, True, torch.float32),
        (torch.bfloat16, True, torch.float32),
    ],
)
def test_precision_of_the_filter(given: torch.dtype, autocast: bool, filtered: torch.dtype) -> None:
    """Both passes filter in float32 at least, whatever the convolution is rounded to; filters are made in float64."""
    layer = ConvNorm2d(4, 5, 3, padding=1).to(torch.promote_types(given, torch.float32))
    x = torch.randn(3, 4, 6, 6, generator=torch.Generator().manual_seed(0)).to(given).requires_grad_()
    with Products() as seen, torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        layer(x).sum().backward()
    assert seen.types == [torch.float64] * 3 + [filtered] * 8
    assert x.grad.dtype == given


@pytest.mark.parametrize("count", [4, 5])
def test_a_bfloat16_convolution_is_rounded_once_more_by_its_filter(count: int) -> None:
    """What comes out is the exactly filtered convolution to half a unit in the last place, and so is the gradient."""
    torch.manual_seed(0)
    layer = ConvNorm2d(8, 6, 3, padding=1, affine=False, batch_norm=False)
    x = torch.randn(count, 8, 9, 10, generator=torch.Generator().manual_seed(0)).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
        full = nn.functional.conv2d(x, layer.weight, padding=2).detach().double()
    spectrum = torch.fft.rfft2(layer.weight.detach().double(), s=full.shape[2:]).abs().square().sum(1)
    expected = torch.fft.irfft2(torch.fft.rfft2(full) * spectrum.rsqrt(), s=full.shape[2:])[:, :, 1:-1, 1:-1]
    assert y.dtype == torch.bfloat16
    assert ((y.double() - expected).abs() <= 2**-8 * expected.abs() + 1e-5 * expected.abs().max()).all()


@pytest.mark.parametrize("count", [1, 4, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("kernel", "padding"), [(3, 1), (3, 0), ((1, 5), (0, 2)), (1, 0)])
def test_channels_last_images(kernel: int | Pair, padding: int | Pair, dtype: torch.dtype, count: int) -> None:
    """The same values, output and gradient in the format of the images."""
    torch.manual_seed(0)
    layer = ConvNorm2d(8, 6, kernel, padding=padding).to(dtype)
    other = copy.deepcopy(layer).to(memory_format=torch.channels_last)
    x = torch.randn(count, 8, 7, 6, generator=torch.Generator().manual_seed(0), dtype=dtype)
    a = x.clone().requires_grad_()
    b = x.to(memory_format=torch.channels_last).requires_grad_()
    expected, y = layer(a), other(b)
    gradient = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=dtype)
    expected.backward(gradient)
    y.backward(gradient.to(memory_format=torch.channels_last))
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert b.grad.is_contiguous(memory_format=torch.channels_last)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    assert oracles.relative_error(y, expected) <= tolerance
    assert oracles.relative_error(b.grad, a.grad) <= tolerance
    assert oracles.relative_error(other.weight.grad, layer.weight.grad) <= tolerance
    with torch.no_grad():
        found = other.eval()(b)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert oracles.relative_error(found, layer.eval()(a)) <= tolerance


@pytest.mark.parametrize("count", [2, 5])
def test_images_do_not_mix(count: int) -> None:
    """Images are filtered together: each gives what it gives alone, up to rounding errors."""
    torch.manual_seed(0)
    layer = ConvNorm2d(3, 4, 3, padding=1, affine=False, batch_norm=False).double()
    x = torch.randn(count, 3, 6, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[-1] = 0
    together = layer(x)
    for i in range(count):
        assert (layer(x[i : i + 1])[0] - together[i]).abs().max() <= 1e-14 * together.abs().max()
    assert together[-1].abs().max() <= 1e-14 * together.abs().max()


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


@pytest.mark.parametrize("count", [4, 5])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "groups"),
    [(3, 1, 1, 1), (3, 2, 1, 1), (5, 1, 2, 1), ((3, 1), 1, (1, 0), 1), (3, 1, 1, 4), (1, 2, 0, 1)],
)
def test_float32_stays_close_to_float64(
    kernel: int | Pair, stride: int, padding: int | Pair, groups: int, count: int
) -> None:
    """Output, all gradients and the running statistics."""
    torch.manual_seed(0)
    exact = ConvNorm2d(16, 8, kernel, stride, padding, groups).double()
    single = copy.deepcopy(exact).float()
    x = torch.randn(count, 16, 8, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    rounded = x.detach().float().requires_grad_()
    expected, y = exact(x), single(rounded)
    gradient = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected.backward(gradient)
    y.backward(gradient.float())
    assert y.dtype == torch.float32
    assert oracles.relative_error(y.double(), expected) <= 1e-5
    assert oracles.relative_error(rounded.grad.double(), x.grad) <= 1e-5
    scale = exact.batch_norm.bias.grad.abs().max()
    for (name, a), b in zip(single.named_parameters(), exact.parameters(), strict=True):
        # What stands in front of a batch norm has a gradient that is a difference, or nothing but rounding errors.
        error = (a.grad.double() - b.grad).abs().max()
        assert error <= 1e-5 * (scale if name.startswith("affine") else b.grad.abs().max()), name
    assert oracles.relative_error(single.batch_norm.running_mean.double(), exact.batch_norm.running_mean) <= 1e-5
    assert oracles.relative_error(single.batch_norm.running_var.double(), exact.batch_norm.running_var) <= 1e-5


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
    case = Case(4, 6, 3, 2, 1, 2, affine=affine, batch_norm=batch_norm, size=(5, 5))
    layer = method.conv(ConvSpec(4, 6, 3, role=Role("body"), stride=2, padding=1, groups=2)).double()
    x = torch.randn(3, 4, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected, _ = case.oracle(x, layer)
    assert oracles.relative_error(layer(x), expected) <= 1e-11
    assert isinstance(method.norm(6, role=Role("body")), nn.Identity)
    assert type(method.linear(6, 2, role=Role("head"))) is nn.Linear


def test_gates_are_plain_convolutions() -> None:
    """Those of squeeze-and-excitation, on one pixel an image, have a bias and no norm."""
    gate = ConvNorm().conv(ConvSpec(8, 2, 1, role=Role("gate")))
    assert type(gate) is Conv2d
    assert gate.bias is not None
    model = registry.classifier("senet18", {"width": 16}, ConvNorm(), 3, 10)
    plain = [name for name, layer in model.named_modules() if type(layer) is Conv2d]
    assert len(plain) == 16
    assert all("gate" in name and model.get_submodule(name).bias is not None for name in plain)
    assert not any("gate" in name for name, layer in model.named_modules() if isinstance(layer, ConvNorm2d))


class Several(nn.Module):
    """Layers with as many input channels on images of one size and of others, and one that is used at two sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvNorm2d(3, 4, 3, padding=1)
        self.first = ConvNorm2d(4, 4, 3, padding=1)
        self.strided = ConvNorm2d(4, 6, 3, 2, padding=1, affine=False)
        self.grouped = ConvNorm2d(6, 4, 3, padding=1, groups=2)
        self.shortcut = ConvNorm2d(4, 4, 1)
        self.last = ConvNorm2d(4, 5, 3, padding=1, batch_norm=False)
        self.spare = ConvNorm2d(4, 4, 3, padding=1)  # which no pass uses
        ConvNorm().initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(torch.relu(self.stem(x)))
        y = self.shortcut(y[:, :, 1:]) + self.first(y[:, :, 1:])
        with torch.autocast("cpu", enabled=False):
            y = self.strided(y.float() if y.dtype == torch.bfloat16 else y)
        return self.last(self.grouped(y))


def several(dtype: torch.dtype, ahead: bool) -> Several:
    """A network that computes layer by layer, or ahead, as on a GPU."""
    torch.manual_seed(0)
    model = Several().to(dtype)
    if ahead:
        model.register_forward_pre_hook(lambda model, _: conv_norm.compute_ahead(layers_of(model)))
    return model


def layers_of(model: nn.Module) -> list[ConvNorm2d]:
    return [layer for layer in model.modules() if isinstance(layer, ConvNorm2d)]


def kept(model: nn.Module) -> int:
    """How many of the layers have something that was computed ahead."""
    return sum(layer.symbols is not None or bool(layer.low) for layer in layers_of(model))


def batch(seed: int, size: Pair, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(4, 3, *size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def test_ahead_equals_layer_by_layer() -> None:
    """Over steps in which weights and sizes of images change: outputs and gradients, and no gradient where none was."""
    found, expected = several(torch.float64, True), several(torch.float64, False)
    for seed, size in enumerate([(8, 8), (8, 8), (6, 9)]):
        results = []
        for model in (found, expected):
            model.zero_grad()
            y = model(batch(seed, size, torch.float64))
            y.square().sum().backward()
            results.append(y)
        assert oracles.relative_error(*results) <= 1e-11
        for (name, value), other in zip(found.named_parameters(), expected.named_parameters(), strict=True):
            other = other[1]
            assert (value.grad is None) == (other.grad is None) == name.startswith("spare"), name
            if value.grad is not None and not name.endswith("affine.bias"):
                assert oracles.relative_error(value.grad, other.grad) <= 1e-9, name
        with torch.no_grad():
            for value, other in zip(found.parameters(), expected.parameters(), strict=True):
                if value.grad is not None:
                    value.sub_(other.grad, alpha=0.01)
                    other.sub_(other.grad, alpha=0.01)
    assert kept(found) == 0


@pytest.mark.parametrize("low", [False, True])
def test_a_pass_does_not_hang_on_earlier_ones(low: bool) -> None:
    """The first pass has the bits of later ones, also after other sizes, as an interrupted run starts with a first."""
    found, expected = several(torch.float32, True), several(torch.float32, True)
    with torch.autocast("cpu", torch.bfloat16, enabled=low):
        for size in ((9, 6), (8, 8)):
            found(batch(0, size)).sum().backward()
        found.zero_grad()
        results = [model(batch(1, (8, 8))) for model in (found, expected)]
    assert torch.equal(*results)
    for y in results:
        y.float().square().sum().backward()
    for value, other in zip(found.parameters(), expected.parameters(), strict=True):
        assert (value.grad is None) == (other.grad is None)
        assert value.grad is None or torch.equal(value.grad, other.grad)


def test_parameters_converted_ahead_give_the_bits_of_autocast() -> None:
    """Also where the model switches autocast off for a layer."""
    models = several(torch.float32, True), several(torch.float32, False)

    def without_symbols(model: nn.Module, _: Any) -> None:  # which have other last digits
        assert {name for layer in layers_of(model) for name in layer.low} == {"weight", "affine.weight", "affine.bias"}
        for layer in layers_of(model):
            assert ("weight" in layer.low) == (layer.kernel_size != (1, 1))
            layer.symbols = None

    models[0].register_forward_pre_hook(without_symbols)
    results = []
    for model in models:
        with torch.autocast("cpu", torch.bfloat16):
            results.append(model(batch(0, (8, 8))))
        results[-1].float().square().sum().backward()
    assert torch.equal(*results)
    for (name, value), other in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        assert (value.grad is None) == (other.grad is None) == name.startswith("spare"), name
        if name == "first.weight":  # The gradients of its two uses are added in bfloat16, as on a GPU.
            assert oracles.relative_error(value.grad, other.grad) <= 2**-7
        else:
            assert value.grad is None or torch.equal(value.grad, other.grad), name
    assert kept(models[0]) == 0


def test_nothing_is_left_of_a_pass_that_failed() -> None:
    """Weights may have changed since."""
    model, other = several(torch.float64, True), several(torch.float64, False)
    with pytest.raises(RuntimeError):
        model(batch(0, (8, 8), torch.float64)[:, :2])
    assert kept(model) > 0
    for each in (model, other):
        each.first.weight = nn.Parameter(each.first.weight.detach().flip(0))
    model._forward_pre_hooks.popitem()  # the one that computes ahead on a CPU
    assert torch.equal(model(batch(0, (8, 8), torch.float64)), other(batch(0, (8, 8), torch.float64)))


def test_a_cpu_computes_layer_by_layer() -> None:
    """What is computed together has other last digits."""
    model, seen = several(torch.float32, False), []
    model.last.register_forward_pre_hook(lambda *_: seen.append(kept(model)))
    with torch.autocast("cpu", torch.bfloat16):
        model(batch(0, (8, 8)))
    assert seen == [0]
