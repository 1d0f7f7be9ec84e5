"""Spectral normalization by the norm of the convolution itself, Farnia, Zhang and Tse, ICLR 2019, arXiv 1811.07457.

The weight is divided by the largest singular value of the convolution as an operator on images, at the layer's own
input size, stride and padding. Power iteration with the convolution and its adjoint follows it, on an image that is
kept between the steps, as Farnia et al. and Ryu et al. (ICML 2019, arXiv 1905.05406) do it; Gouk et al. (arXiv
1804.04368) project the weights after each step instead. The matrix of `spectral_norm`, (out, in*kh*kw), has another
norm, up to sqrt(kh*kw) times smaller.

A finite number of steps gives a lower estimate of the norm. lip4conv's `compute_ryu_2019` assumes a padding of 1, so
that it is right for 3x3 kernels alone; here padding and stride are those of the layer. The norm of a grouped
convolution is the largest of its groups', each of which is iterated on its own.

The size of the images is known from the first training step on, and until then the norm is that on images of 8x8
pixels. Where the size changes, the kept image is cropped or surrounded by zeros, and iterated again. An evaluation at
another size keeps the norm of the training. Linear layers are normalized as `spectral_norm` does it. Gradients are of
first order only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from normbench.functional.constants import constant
from normbench.functional.power_iteration import EPS, in_format_of, quotients
from normbench.functional.products import matmul
from normbench.functional.together import Together
from normbench.methods.spectral_norm import START_STEPS, SpectralNorm
from normbench.system.narrowing import narrowed

START_SIZE = 8  # pixels a side, before the size of the images is known


class ConvUnitNorm(Together):
    """A parametrization that divides the weight of a convolution by the norm of the convolution.

    layer: the convolution, of which stride, padding, dilation and groups are taken. In training mode each use takes
    `steps` steps of power iteration; in evaluation the image stays what it is.
    Buffer: _v (in, height, width), an image whose channels of each group have norm 1.
    """

    _v: Tensor

    def __init__(self, layer: nn.Conv2d, steps: int):
        super().__init__()
        self.kernel_size, self.stride, self.dilation = layer.kernel_size, layer.stride, layer.dilation
        self.padding = narrowed(layer.padding, tuple, "the padding of a convolution")
        self.groups, self.steps = layer.groups, steps
        reaches = [(taps - 1) * apart + 1 for taps, apart in zip(layer.kernel_size, layer.dilation, strict=True)]
        height, width = (max(START_SIZE, reach) for reach in reaches)
        drawn = torch.randn(layer.in_channels, height, width, dtype=layer.weight.dtype, device=layer.weight.device)
        self.register_buffer("_v", drawn)
        with torch.no_grad():
            stepped([self], [layer.weight], START_STEPS)

    @classmethod
    def of_all(cls, parts: Sequence[ConvUnitNorm], originals: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The weights over the norms of their convolutions, after the power steps of one use in training mode."""
        with torch.autocast(originals[0].device.type, enabled=False):
            with torch.no_grad():
                left, norms = stepped(parts, originals, parts[0].steps)
                slopes = [part.slope(*each) for part, *each in zip(parts, left, norms, originals, strict=True)]
                norms = [norm.amax().view(1, 1, 1, 1) for norm in norms]
            return quotients(originals, norms, slopes)

    def alone(self, original: Tensor) -> Tensor:
        if self.training:
            return self.of_all([self], [original])[0]
        return constant(self, "weight", (original,), lambda: self.evaluated(original))

    def evaluated(self, original: Tensor) -> Tensor:
        """The weight over the norm that the image as it is has after the convolution."""
        with torch.autocast(original.device.type, enabled=False):
            image = matmul(self.matrices(original), self.patches())
            return original / torch.linalg.vector_norm(image, dim=(1, 2)).amax().clamp_min(EPS)

    def matrices(self, weight: Tensor) -> Tensor:
        """The weight (out, in/groups, kh, kw) as matrices (groups, out/groups, in/groups * kh * kw)."""
        return weight.reshape(self.groups, weight.shape[0] // self.groups, -1)

    def patches(self) -> Tensor:
        """The patches of the image under the kernel: (groups, in/groups * kh * kw, pixels of the output)."""
        found = functional.unfold(self._v, self.kernel_size, self.dilation, self.padding, self.stride)
        return found.view(self.groups, -1, found.shape[-1])

    def image(self, patches: Tensor) -> Tensor:
        """The adjoint of `patches`, with the groups apart: (groups, in/groups * height * width)."""
        found = functional.fold(
            patches.flatten(0, 1), self._v.shape[1:], self.kernel_size, self.dilation, self.padding, self.stride
        )
        return found.view(self.groups, -1)

    def slope(self, left: Tensor, norms: Tensor, weight: Tensor) -> Tensor:
        """The gradient of the norm with respect to the weight: that of the group with the largest norm.

        left: the convolved image (groups, out/groups, pixels) with norm 1. norms: (groups,).
        """
        found = matmul(left, self.patches().mT)
        if self.groups > 1:
            found = found * (torch.arange(self.groups, device=norms.device) == norms.argmax())[:, None, None]
        return in_format_of(found.view(weight.shape), weight)

    def fit(self, weight: Tensor, size: torch.Size) -> None:
        """Gives the image another size (height, width), and iterates it there."""
        down, across = size[0] - self._v.shape[1], size[1] - self._v.shape[2]
        margins = (across // 2, across - across // 2, down // 2, down - down // 2)
        with torch.autocast(weight.device.type, enabled=False), torch.no_grad():
            self._v = functional.pad(self._v, margins)
            stepped([self], [weight], START_STEPS)
        self.ahead = None

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *arguments: Any) -> None:
        saved = state_dict.get(prefix + "_v")
        if saved is not None and saved.dim() == 3 and len(saved) == len(self._v) and saved.shape != self._v.shape:
            self._v = self._v.new_empty(saved.shape)
        super()._load_from_state_dict(state_dict, prefix, *arguments)


def stepped(parts: Sequence[ConvUnitNorm], weights: Sequence[Tensor], steps: int) -> tuple[list[Tensor], list[Tensor]]:
    """Power steps of the images of several weights, in place.

    Returns the convolved images (groups, out/groups, pixels) of the last step with norm 1, and the norms (groups,).
    steps: at least 1.
    """
    matrices = [part.matrices(weight) for part, weight in zip(parts, weights, strict=True)]
    for _ in range(steps):
        made = [matmul(matrix, part.patches()) for part, matrix in zip(parts, matrices, strict=True)]
        norms = torch._foreach_clamp_min([torch.linalg.vector_norm(y, dim=(1, 2), keepdim=True) for y in made], EPS)
        left = list(torch._foreach_div(made, norms))
        back = [part.image(matmul(m.mT, u)) for part, m, u in zip(parts, matrices, left, strict=True)]
        # As the new image is that of this product, the product's norm is that of the new image after the convolution.
        norms = torch._foreach_clamp_min([torch.linalg.vector_norm(z, dim=1, keepdim=True) for z in back], EPS)
        right = torch._foreach_div(back, norms)
        torch._foreach_copy_([part._v.view(part.groups, -1) for part in parts], right)
    return left, [norm[:, 0] for norm in norms]


def fit_to_images(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Forward pre-hook of a convolution in training mode: its norm is that at the size of its input."""
    if not layer.training or not parametrize.is_parametrized(layer, "weight"):
        return
    weights: Any = layer.get_submodule("parametrizations.weight")
    size = inputs[0].shape[2:]
    if weights[0]._v.shape[1:] != size:
        weights[0].fit(weights.original, size)


@dataclass(frozen=True)
class ConvSpectralNorm(SpectralNorm):
    """Every convolution divided by its norm as an operator on images, every linear layer by its spectral norm.

    The options are those of `spectral_norm`: a batch norm undoes the scale of the convolution in front of it.
    """

    def normalized(self, layer: nn.Conv2d | nn.Linear) -> nn.Module:
        """The layer with its weight normalized."""
        if isinstance(layer, nn.Linear):
            return super().normalized(layer)
        part = ConvUnitNorm(layer, self.power_iterations)
        parametrize.register_parametrization(layer, "weight", part)
        layer.register_forward_pre_hook(fit_to_images)
        return layer
