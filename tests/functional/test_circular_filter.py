"""Both ways to apply a circular filter, against the filter's definition by complex transforms in float64."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from torch import Tensor

from normbench.functional import circular_filter, real_fourier
from normbench.functional.circular_filter import Products, Symbols, Transforms
from normbench.functional.constants import unchanging
from normbench.methods.conv_norm import ConvNorm2d
from tests.oracles import layers as oracles
from tests.support.tf32 import tf32

WAYS = ("products", "transforms")
SIZES = [(1, 1), (1, 6), (2, 2), (2, 5), (3, 3), (4, 4), (5, 8), (10, 10), (18, 7), (34, 34), (35, 33)]


def kernel(height: int, width: int) -> Tensor:
    """A filter of 5 channels that is its own adjoint, and not the same under a reflection of one axis: (5, H, W)."""
    taps = torch.randn(5, height, width, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return taps + taps.flip(1, 2).roll((1, 1), (1, 2))


def symbol(height: int, width: int) -> Tensor:
    """That of `kernel`, which is real."""
    complex_symbol = torch.fft.fft2(kernel(height, width))
    assert complex_symbol.imag.abs().max() <= 1e-12 * complex_symbol.abs().max()
    return complex_symbol.real.contiguous()


def constants(way: str, height: int, width: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """What the function of a way is given besides images."""
    whole, cpu = symbol(height, width), torch.device("cpu")
    if way == "transforms":
        return (whole[:, :, : width // 2 + 1].to(dtype),)
    rows, columns = real_fourier.frequencies(height, cpu), real_fourier.frequencies(width, cpu)
    last = whole.permute(1, 2, 0)[rows] / 2
    return real_fourier.acting(last[:, columns], last[:, -columns], (height, width), dtype)


def applied(way: str, x: Tensor, crop: Any = (0, 0), stride: Any = (1, 1)) -> Tensor:
    dtype = torch.promote_types(x.dtype, torch.float32)
    function = Products if way == "products" else Transforms
    return function.apply(x, *constants(way, *x.shape[2:], dtype), crop, stride)


def expected(x: Tensor, crop: Any = (0, 0), stride: Any = (1, 1)) -> Tensor:
    """The sum over shifted images, one for each tap of the kernel."""
    taps = kernel(*x.shape[2:])
    y = torch.zeros_like(x)
    for i in range(x.shape[2]):
        for j in range(x.shape[3]):
            y = y + taps[:, i, j, None, None] * x.roll((i, j), (2, 3))
    return y[:, :, crop[0] : x.shape[2] - crop[0] : stride[0], crop[1] : x.shape[3] - crop[1] : stride[1]]


def images(count: int, size: tuple[int, int], dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(count, 5, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_equals_sums_of_shifted_images(way: str, size: tuple[int, int]) -> None:
    x = images(3, size)
    assert oracles.relative_error(applied(way, x), expected(x)) <= 1e-13


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("size", [(7, 6), (6, 9)], ids=str)
@pytest.mark.parametrize(("crop", "stride"), [((1, 1), (1, 1)), ((0, 2), (2, 1)), ((2, 1), (3, 2)), ((2, 2), (2, 2))])
@pytest.mark.parametrize("last", [True, False])
def test_cropping_strides_and_gradients(way: str, size: Any, crop: Any, stride: Any, last: bool) -> None:
    """The gradient is that of the definition; both results are in the memory format of what was given."""
    form = torch.channels_last if last else torch.contiguous_format
    a = images(4, size).contiguous(memory_format=form).requires_grad_()
    b = a.detach().clone().requires_grad_()
    y, wanted = applied(way, a, crop, stride), expected(b, crop, stride)
    assert oracles.relative_error(y, wanted) <= 1e-13
    gradient = torch.randn(y.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    y.backward(gradient.contiguous(memory_format=form))
    wanted.backward(gradient)
    assert oracles.relative_error(a.grad, b.grad) <= 1e-13
    assert y.is_contiguous(memory_format=form)
    assert a.grad.is_contiguous(memory_format=form)


@pytest.mark.parametrize("way", WAYS)
def test_float32_and_bfloat16(way: str) -> None:
    x = images(3, (34, 18))
    found = applied(way, x.float(), (1, 1))
    assert oracles.relative_error(found.double(), expected(x, (1, 1))) <= 2e-6
    low = x.bfloat16()
    wanted = expected(low.double(), (1, 1))
    with torch.autocast("cpu", torch.bfloat16):
        found = applied(way, low, (1, 1))
    assert found.dtype == torch.bfloat16
    assert ((found.double() - wanted).abs() <= 2**-8 * wanted.abs() + 1e-5 * wanted.abs().max()).all()


@pytest.mark.parametrize("together", [1, 500, 10**9])
def test_values_do_not_depend_on_how_many_are_filtered_together(together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last digits may: libraries of products choose kernels by the number of images, on some CPUs."""
    x = images(7, (9, 10), torch.float32)
    whole = applied("products", x, (1, 1), (2, 1))
    monkeypatch.setattr(real_fourier, "TOGETHER", together)
    again = applied("products", x, (1, 1), (2, 1))
    assert (again - whole).abs().max() <= 1e-6 * whole.abs().max()


def test_a_value_that_is_not_finite_stays_in_its_image() -> None:
    x = images(5, (6, 6))
    alone = applied("products", x)
    x[2, 1, 3, 3] = float("inf")
    y = applied("products", x)
    assert torch.equal(y[[0, 1, 3, 4]], alone[[0, 1, 3, 4]])
    assert not y[2, 1].isfinite().any()


@pytest.mark.parametrize("size", range(1, 12))
def test_real_fourier_matrix(size: int) -> None:
    """Orthonormal, of waves with a whole number of turns; cosines are even and sines are odd."""
    matrix = real_fourier.basis(size, 0, 1, torch.float64, torch.device("cpu"))
    assert torch.allclose(matrix @ matrix.T, torch.eye(size, dtype=torch.float64), atol=1e-14)
    power = torch.fft.fft(matrix).abs().square()[:, : size // 2 + 1]
    frequency = real_fourier.frequencies(size, torch.device("cpu")).tolist()
    sines = size - len(frequency)
    assert power.argmax(1).tolist() == frequency + frequency[len(frequency) - sines :]
    mirrored = matrix.roll(-1, 1).flip(1)
    assert torch.allclose(mirrored[: len(frequency)], matrix[: len(frequency)], atol=1e-14)
    assert torch.allclose(mirrored[len(frequency) :], -matrix[len(frequency) :], atol=1e-14)


def test_filters_of_kernels_are_the_same_for_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    """`filter_of` makes what the way of its device needs, from the same symbol."""
    weight = torch.randn(5, 3, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = images(3, (8, 9))
    found = circular_filter.filtered(x, circular_filter.filter_of(weight, 8, 9, torch.float64), (1, 1), (1, 1))
    spectrum = torch.fft.fft2(weight, s=(8, 9)).abs().square().sum(1)
    wanted = Transforms.apply(x, spectrum.rsqrt()[:, :, :5], (1, 1), (1, 1))
    assert oracles.relative_error(found, wanted) <= 1e-12
    assert oracles.relative_error(circular_filter.inverse_spectrum_norm(weight, 8, 9), spectrum.rsqrt()) <= 1e-12


def test_symbols_of_several_kernels() -> None:
    """Each by its own transform, at any size, in the order of the kernels; those of one size are computed once."""
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(out, 3, 3, 5, generator=generator, dtype=torch.float64) for out in (2, 5, 1)]
    symbols = Symbols(weights)
    for height, width in ((8, 9), (7, 6), (8, 9)):
        found = symbols.at(height, width, torch.float64)
        for symbol, weight in zip(found, weights, strict=True):
            expected = torch.fft.rfft2(weight, s=(height, width)).abs().square().sum(1).rsqrt()
            assert symbol.shape == expected.shape
            assert oracles.relative_error(symbol, expected) <= 1e-12
        assert symbols.at(height, width, torch.float64) is found
    single = symbols.at(8, 9, torch.float32)
    assert all(torch.equal(a, b.float()) for a, b in zip(single, symbols.at(8, 9, torch.float64), strict=True))


@pytest.mark.parametrize("dilation", [(2, 2), (1, 3), (5, 1)])
def test_filters_of_dilated_kernels(dilation: tuple[int, int]) -> None:
    """Each way, against the transform of the kernel with zeros between its taps; also where it wraps around."""
    weight = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for height, width in ((8, 9), (6, 7)):
        waves = torch.zeros(4, 3, height, width, dtype=torch.complex128)
        for row in range(3):
            for column in range(3):
                turns = torch.arange(height).double()[:, None] * row * dilation[0] / height
                turns = turns + torch.arange(width).double() * column * dilation[1] / width
                waves += weight[:, :, row, column, None, None] * torch.exp(-2j * torch.pi * turns)
        expected = waves.abs().square().sum(1).rsqrt()
        found = circular_filter.inverse_spectrum_norm(weight, height, width, dilation)
        assert oracles.relative_error(found, expected) <= 1e-11
        half = expected[..., : width // 2 + 1]
        (symbol,) = Symbols([weight], dilation).at(height, width, torch.float64)
        assert oracles.relative_error(symbol, half) <= 1e-11
        x = torch.randn(2, 4, height, width, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        own = circular_filter.filter_of(weight, height, width, torch.float64, dilation)
        wanted = torch.fft.irfft2(torch.fft.rfft2(x) * half, s=(height, width))
        assert oracles.relative_error(circular_filter.filtered(x, own, (0, 0), (1, 1)), wanted) <= 1e-11


@pytest.mark.parametrize("constant", [True, False])
def test_a_filter_is_in_float32_whatever_the_switches_say(constant: bool) -> None:
    """Of a layer with a switch to rounded factors, only the convolution itself may be rounded."""
    layer = ConvNorm2d(5, 4, 3, padding=1, affine=False, batch_norm=False).eval().requires_grad_(False)
    x = images(2, (6, 6), torch.float32).requires_grad_()
    with unchanging(layer) if constant else contextlib.nullcontext():
        (expected,) = torch.autograd.grad(layer(x).square().sum(), x)
        with tf32() as mode:
            (found,) = torch.autograd.grad(layer(x).square().sum(), x)
    assert mode.count == (0 if constant else 2)  # A convolution and its gradient.
    assert torch.equal(found, expected) == constant
