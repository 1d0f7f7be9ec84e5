"""The layers of the methods that have some of their own, for tests of what they have in common."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from normbench.methods.batch_instance_norm import BatchInstanceNorm2d
from normbench.methods.batch_norm import VariedBatchNorm2d
from normbench.methods.conv_norm import ConvNorm2d
from normbench.methods.evonorm_b0 import EvoNormB0Layer
from normbench.methods.evonorm_s0 import EvoNormS0Layer
from normbench.methods.filter_response_norm import FilterResponseNorm2d, ThresholdedLinearUnit
from normbench.methods.instance_norm import InstanceNorm2d
from normbench.methods.iter_norm import IterNorm2d
from normbench.methods.layer_norm_channels import PixelLayerNorm
from normbench.methods.network_deconvolution import ChannelDeconv, DeconvConv2d, DeconvLinear
from normbench.methods.spectral_batch_norm import AfterBatchNorm, SpectralBatchNorm2d
from normbench.methods.switchable_norm import SwitchableNorm2d
from normbench.methods.switchable_whitening import SwitchableWhitening2d

CHANNELS = 4


def after(**options: object) -> AfterBatchNorm:
    """Returns a Spectral Batch Normalization behind a batch norm."""
    return AfterBatchNorm(nn.BatchNorm2d(CHANNELS), SpectralBatchNorm2d(CHANNELS, **options))


# All layers take images of four channels, except that DeconvLinear takes vectors.
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
    "BatchInstanceNorm2d": lambda: BatchInstanceNorm2d(CHANNELS, 1e-5, 0.1),
    "EvoNormB0": lambda: EvoNormB0Layer(CHANNELS, 1e-3, 0.1),
    "EvoNormS0": lambda: EvoNormS0Layer(CHANNELS, 2, 1e-5),
    "FilterResponseNorm2d": lambda: nn.Sequential(
        FilterResponseNorm2d(CHANNELS, 1e-6, True), ThresholdedLinearUnit(CHANNELS)
    ),
    "InstanceNorm2d": lambda: InstanceNorm2d(CHANNELS, 1e-5, True),
    "IterNorm2d": lambda: IterNorm2d(CHANNELS, 2, 5, 1e-5, 0.1),
    "PixelLayerNorm": lambda: PixelLayerNorm(CHANNELS, 1e-6),
    "SwitchableNorm2d": lambda: SwitchableNorm2d(CHANNELS, 1e-5, 0.1, True),
    "SwitchableWhitening2d": lambda: SwitchableWhitening2d(CHANNELS, 2, "bw_iw_ln", False, 5, 1e-5, 0.1),
    "VariedBatchNorm2d": lambda: VariedBatchNorm2d(CHANNELS, 1e-5, None, 4),
}


def layer(name: str, seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Module:
    """Returns a layer with parameters that are neither near zero nor near one, so that mixed-up parameters show."""
    torch.manual_seed(seed)
    module = LAYERS[name]().to(dtype)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() == 1:
                parameter.uniform_(0.5, 1.5)
    return module


def shape(name: str, count: int = 6, size: tuple[int, int] = (7, 8)) -> tuple[int, ...]:
    """Returns the shape of the layer's input."""
    return (count, 12) if "Linear" in name else (count, CHANNELS, *size)


def images(
    name: str, seed: int = 0, count: int = 6, size: tuple[int, int] = (7, 8), dtype: torch.dtype = torch.float64
) -> Tensor:
    """Returns random inputs whose mean differs from channel to channel."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape(name, count, size), generator=generator, dtype=torch.float64)
    return (x + torch.linspace(-1, 1, x.shape[1], dtype=torch.float64).view(-1, *[1] * (x.dim() - 2))).to(dtype)


def step(module: nn.Module, x: Tensor, gradient: Tensor | None = None) -> tuple[Tensor, ...]:
    """Returns the output and the gradients of the input and of the parameters.

    gradient: of the output; a wave by default.
    """
    x = x.detach().requires_grad_()
    y = module(x)
    if gradient is None:
        gradient = torch.arange(y.numel(), dtype=torch.float64).view(y.shape).sin().to(y)
    return (y.detach(), *torch.autograd.grad(y, (x, *module.parameters()), gradient))


def difference(found: Tensor, expected: Tensor, scale: float) -> float:
    """Returns the largest error, relative to the largest expected entry or, if that is near zero, to `scale`."""
    return ((found - expected).abs().max() / max(expected.abs().max().item(), scale)).item()


def agree(found: tuple[Tensor, ...], expected: tuple[Tensor, ...], tolerance: float) -> bool:
    """Whether the results of two steps are equal up to a relative tolerance."""
    scale = 1e-2 * max(value.abs().max().item() for value in expected)
    return len(found) == len(expected) and all(
        a.shape == b.shape and difference(a, b, scale) <= tolerance for a, b in zip(found, expected, strict=True)
    )


def state(module: nn.Module) -> dict[str, Tensor]:
    """Returns all parameters and buffers, and the counter of frozen layers, as tensors."""
    return {key: torch.as_tensor(value) for key, value in flat(module.state_dict()).items()}


def flat(values: dict) -> dict:
    """Flattens one level of nested dictionaries."""
    found = {}
    for key, value in values.items():
        found |= {f"{key}.{name}": item for name, item in value.items()} if isinstance(value, dict) else {key: value}
    return found
