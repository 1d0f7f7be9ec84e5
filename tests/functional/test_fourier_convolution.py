"""Products of spectra against the convolution and the circular filter one after the other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from normbench.functional import fourier_convolution
from normbench.functional.fourier_convolution import FourierConvolution, fits
from tests.oracles import layers as oracles

# (images, channels, outputs), kernel, stride, padding, (height, width)
CASES = [
    ((70, 3, 5), (3, 3), (1, 1), (1, 1), (9, 7)),
    ((5, 4, 6), (3, 5), (2, 1), (0, 3), (8, 11)),
    ((3, 70, 4), (3, 3), (2, 2), (1, 1), (6, 6)),
    ((2, 2, 3), (5, 3), (3, 2), (2, 0), (7, 10)),
    ((1, 2, 2), (3, 3), (1, 1), (2, 2), (1, 2)),
    ((2, 65, 3), (1, 3), (1, 1), (0, 1), (4, 5)),
]


def drawn(shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64).to(dtype)


def expected(x: Tensor, weight: Tensor, stride: Any, padding: Any) -> Tensor:
    """The definition: complex transforms of the full convolution, each channel divided by its kernel's norm."""
    kh, kw = weight.shape[2:]
    full = functional.conv2d(x, weight, padding=(kh - 1, kw - 1))
    grid = full.shape[2:]
    norm = torch.fft.fft2(weight, s=grid).abs().square().sum(1).sqrt()
    y = torch.fft.ifft2(torch.fft.fft2(full) / norm).real
    rows, columns = (
        slice(k - 1 - p, n - (k - 1 - p), s) for k, p, n, s in zip((kh, kw), padding, grid, stride, strict=True)
    )
    return y[:, :, rows, columns]


def built(weight: Tensor, size: Any, stride: Any, padding: Any, dtype: torch.dtype) -> FourierConvolution:
    crop = (weight.shape[2] - 1 - padding[0], weight.shape[3] - 1 - padding[1])
    return FourierConvolution(weight, size, crop, stride, dtype)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("last", [True, False])
def test_equals_the_definition(case: Any, last: bool) -> None:
    (count, channels, out), kernel, stride, padding, size = case
    weight, form = drawn((out, channels, *kernel)), torch.channels_last if last else torch.contiguous_format
    x = drawn((count, channels, *size)).contiguous(memory_format=form).requires_grad_()
    y, wanted = built(weight, size, stride, padding, torch.float64)(x), expected(x, weight, stride, padding)
    assert oracles.relative_error(y, wanted) <= 1e-13
    assert y.is_contiguous(memory_format=form)
    gradient = drawn(tuple(y.shape))
    found, other = (torch.autograd.grad(each, x, gradient)[0] for each in (y, wanted))
    assert oracles.relative_error(found, other) <= 1e-13


@pytest.mark.parametrize("case", CASES, ids=str)
def test_float32_and_bfloat16_images(case: Any) -> None:
    (count, channels, out), kernel, stride, padding, size = case
    weight = drawn((out, channels, *kernel), torch.float32)
    convolution = built(weight, size, stride, padding, torch.float32)
    x = drawn((count, channels, *size), torch.float32)
    wanted = expected(x.double(), weight.double(), stride, padding)
    assert oracles.relative_error(convolution(x).double(), wanted) <= 2e-6
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(convolution(x), convolution(x.clone()))
        low = convolution(x.bfloat16())
    wanted = expected(x.bfloat16().double(), weight.double(), stride, padding)
    assert low.dtype == torch.bfloat16
    assert ((low.double() - wanted).abs() <= 2**-8 * wanted.abs() + 1e-5 * wanted.abs().max()).all()


def test_both_forms_of_the_spectrum_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, x = drawn((5, 6, 3, 3)), drawn((4, 6, 8, 9))
    one = built(weight, (8, 9), (2, 1), (1, 1), torch.float64)
    monkeypatch.setattr(fourier_convolution, "WIDE", 6)
    other = built(weight, (8, 9), (2, 1), (1, 1), torch.float64)
    assert other.spectrum.numel() * 2 == one.spectrum.numel()
    assert oracles.relative_error(other(x), one(x)) <= 1e-14


def test_an_image_does_not_depend_on_those_with_it() -> None:
    convolution = built(drawn((4, 3, 3, 3)), (6, 6), (1, 1), (1, 1), torch.float64)
    x = drawn((140, 3, 6, 6))
    alone = torch.cat([convolution(each[None]) for each in x])
    assert oracles.relative_error(convolution(x), alone) <= 1e-14
    x[70] = torch.nan
    assert convolution(x).isfinite().flatten(1).all(1).sum() == 139


def test_a_spectrum_that_is_too_large_does_not_fit() -> None:
    weight = torch.empty(512, 512, 3, 3, device="meta")
    assert fits(weight, (4, 4))
    assert not fits(weight, (14, 14))
