"""The layers of the four methods in their variants, for tests of what all of them must do."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from normbench.methods.conv_norm import ConvNorm2d
from normbench.methods.network_deconvolution import ChannelDeconv, DeconvConv2d, DeconvLinear
from normbench.methods.spectral_batch_norm import AfterBatchNorm, SpectralBatchNorm2d

CHANNELS = 4


def after(**options: object) -> AfterBatchNorm:
    return AfterBatchNorm(nn.BatchNorm2d(CHANNELS), SpectralBatchNorm2d(CHANNELS, **options))


# All take images of four channels, and DeconvLinear vectors.
LAYERS: dict[str, Callable[[], nn.Module]] = {
    "DeconvConv2d": lambda: DeconvConv2d(CHANNELS, 6, 3, padding=1, block=2),
    "DeconvConv2d, overlapping": lambda: DeconvConv2d(CHANNELS, 6, 3, padding=1, block=2, sampling_stride=1),
    "DeconvConv2d, grouped": lambda: DeconvConv2d(CHANNELS, 6, 3, 2, padding=1, groups=2),
    "DeconvConv2d, frozen": lambda: DeconvConv2d(
        CHANNELS, 6, (1, 3), padding=(0, 1), block=2, iterations=3, freeze=True
    ),
    "DeconvConv2d, no bias": lambda: DeconvConv2d(CHANNELS, 6, (3, 1), padding=(1, 0), bias=False),
    "DeconvConv2d, 1x1, strided": lambda: DeconvConv2d(CHANNELS, 6, 1, 2, block=2, sampling_stride=1),
    "DeconvLinear": lambda: DeconvLinear(12, 5, block=4),
    "DeconvLinear, no bias": lambda: DeconvLinear(12, 5, bias=False),
    "ChannelDeconv": lambda: ChannelDeconv(3),
    "ConvNorm2d": lambda: ConvNorm2d(CHANNELS, 6, 3, padding=1),
    "ConvNorm2d, strided, grouped": lambda: ConvNorm2d(CHANNELS, 6, 3, 2, padding=1, groups=2),
    "ConvNorm2d, bare": lambda: ConvNorm2d(CHANNELS, 6, (3, 1), padding=(1, 0), affine=False, batch_norm=False),
    "ConvNorm2d, 1x1": lambda: ConvNorm2d(CHANNELS, 6, 1, 2),
    "SpectralBatchNorm2d, half": lambda: SpectralBatchNorm2d(CHANNELS),
    "SpectralBatchNorm2d, full": lambda: SpectralBatchNorm2d(CHANNELS, statistics="full", fft_norm="backward"),
    "SpectralBatchNorm2d, frequency": lambda: SpectralBatchNorm2d(CHANNELS, statistics="frequency"),
    "AfterBatchNorm": after,
    "AfterBatchNorm, frequency": lambda: after(statistics="frequency"),
}


def layer(name: str, seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Module:
    """With parameters away from zero and one, where a swap would not show."""
    torch.manual_seed(seed)
    module = LAYERS[name]().to(dtype)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() == 1:
                parameter.uniform_(0.5, 1.5)
    return module


def shape(name: str, count: int = 6, size: tuple[int, int] = (7, 8)) -> tuple[int, ...]:
    return (count, 12) if "Linear" in name else (count, CHANNELS, *size)


def images(
    name: str, seed: int = 0, count: int = 6, size: tuple[int, int] = (7, 8), dtype: torch.dtype = torch.float64
) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape(name, count, size), generator=generator, dtype=torch.float64)
    return (x + torch.linspace(-1, 1, x.shape[1], dtype=torch.float64).view(-1, *[1] * (x.dim() - 2))).to(dtype)


def step(module: nn.Module, x: Tensor, gradient: Tensor | None = None) -> tuple[Tensor, ...]:
    """Output, and gradients of the images and of the parameters; the gradient of the output is a wave by default."""
    x = x.detach().requires_grad_()
    y = module(x)
    if gradient is None:
        gradient = torch.arange(y.numel(), dtype=torch.float64).view(y.shape).sin().to(y)
    return (y.detach(), *torch.autograd.grad(y, (x, *module.parameters()), gradient))


def difference(found: Tensor, expected: Tensor, scale: float) -> float:
    """Relative to the largest entry or, where all of them are differences near zero, to the scale of its step."""
    return ((found - expected).abs().max() / max(expected.abs().max().item(), scale)).item()


def agree(found: tuple[Tensor, ...], expected: tuple[Tensor, ...], tolerance: float) -> bool:
    scale = 1e-2 * max(value.abs().max().item() for value in expected)
    return len(found) == len(expected) and all(
        a.shape == b.shape and difference(a, b, scale) <= tolerance for a, b in zip(found, expected, strict=True)
    )


def state(module: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers, and the count of frozen layers, as tensors."""
    return {key: torch.as_tensor(value) for key, value in flat(module.state_dict()).items()}


def flat(values: dict) -> dict:
    found = {}
    for key, value in values.items():
        found |= {f"{key}.{name}": item for name, item in value.items()} if isinstance(value, dict) else {key: value}
    return found
