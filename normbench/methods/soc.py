"""Skew Orthogonal Convolutions, Singla and Feizi, ICML 2021, arXiv 2105.11417, with MaxMin.

After the authors' code (singlasahil14/SOC at revision 561c7acb). A kernel minus its transpose is a skew-symmetric
convolution J with zero padding, whose exponential I + J + J^2/2 + ... is orthogonal. A layer computes the first terms
of this series, more of them in evaluation than in training. J is scaled by 0.7 (1 for a 1x1 kernel) over the least of
the four norms of Fantastic Four without their factor sqrt(kh*kw), so that the norm of J is at most 2.1 for 3x3. The
layer is as orthogonal as the series is long: for a norm b of J the singular values are within b^(t+1) / (t+1)! of 1,
which for b = 2.1 is 0.12 after the 5 terms of training and 2.5e-6 after the 12 of evaluation. As in the authors' code,
inputs are filled up with channels of zeros, or outputs left out, so that J is square; a stride s takes the s x s pixels
of each block as channels; no norm follows; the last layer is a 1x1 layer of this kind; and the activation is MaxMin.

Of a skew-symmetric kernel, the two matrices of Fantastic Four with (out*kh) or (out*kw) rows are the same up to order
and sign, and so are the other two. So there are two norms, not four.

Deviations: the vectors of the norms start with 50 steps on the kernel's initial weights, and then take one in each
training step; the authors compute theirs for weights that are then drawn anew, and take 50 steps again in every 200th
training step. J of a grouped convolution is one for each group. Images that the stride does not divide are surrounded
by zeros below and on the right. A 1x1 kernel with one channel is the identity. The series is summed from its last term
on, with the same number of operations. Residual additions are those of the network, so that the Lipschitz constants of
both branches add up; the authors' networks have none. The gates of squeeze-and-excitation are plain.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from normbench.functional.blocks import blocks, check_size
from normbench.functional.constants import constant
from normbench.functional.maxmin import MaxMin
from normbench.functional.power_iteration import EPS, quotients
from normbench.functional.products import matmul
from normbench.functional.together import Together, compute_together
from normbench.methods.base import ConvSpec, Count, Method, Role

START_STEPS = 50
CORRECTION = 0.7  # the scale of J, but for 1x1 kernels


class Skew(Together):
    """A parametrization of the kernel of J (groups * c, c, k, k): skew-symmetric, over the lesser of its two norms.

    The parameter has the shape (groups, c, c * k * k).
    Buffers: _rows (groups, 1, c * k) and _filters (groups, 1, c * k * k), the right singular vectors of the matrices
    (c * k, c * k) and (c, c * k * k) of each group.
    """

    _rows: Tensor
    _filters: Tensor

    def __init__(self, weight: Tensor, groups: int):
        super().__init__()
        self.shape, self.groups = weight.shape, groups
        _, channels, taps, _ = weight.shape
        self.correction = CORRECTION if taps > 1 else 1.0
        for name, size in (("_rows", channels * taps), ("_filters", channels * taps**2)):
            drawn = torch.randn(groups, 1, size, dtype=weight.dtype, device=weight.device)
            self.register_buffer(name, drawn)
        with torch.no_grad():
            for _ in range(START_STEPS):
                stepped([self], [self.skew(self.right_inverse(weight))])

    def right_inverse(self, weight: Tensor) -> Tensor:
        """The parameter in the memory of a weight."""
        return weight.view(self.groups, self.shape[1], -1)

    def skew(self, original: Tensor) -> Tensor:
        """The kernel (groups, c, c, k, k) of the parameter minus its transpose."""
        kernel = original.view(self.groups, self.shape[1], *self.shape[1:])
        return kernel - kernel.transpose(1, 2).flip(-2, -1)

    @classmethod
    def of_all(cls, parts: Sequence[Skew], originals: Sequence[Tensor]) -> list[Tensor]:
        """The kernels, after the step of power iteration of one use in training mode."""
        with torch.autocast(originals[0].device.type, enabled=False):
            kernels = [part.skew(original) for part, original in zip(parts, originals, strict=True)]
            with torch.no_grad():
                norms, slopes = stepped(parts, kernels)
                scales = [1 / part.correction for part in parts]
                scaled = [torch._foreach_mul(each, scales) for each in (norms, slopes)]
            return [kernel.flatten(0, 1) for kernel in quotients(kernels, *scaled)]

    def alone(self, original: Tensor) -> Tensor:
        if self.training:
            return self.of_all([self], [original])[0]
        return constant(self, "weight", (original,), lambda: self.evaluated(original))

    def evaluated(self, original: Tensor) -> Tensor:
        """The kernel over the lesser of the norms that the vectors, as they are, have after their matrices."""
        with torch.autocast(original.device.type, enabled=False):
            kernel = self.skew(original)
            pairs = zip(matrices(kernel), (self._rows, self._filters), strict=True)
            norms = [torch.linalg.vector_norm(matmul(v, m.mT), dim=-1) for m, v in pairs]
            least = torch.minimum(*norms).clamp_min(EPS)[..., None, None, None]
            return (kernel * (self.correction / least)).flatten(0, 1)


def matrices(kernel: Tensor) -> list[Tensor]:
    """Of a kernel (groups, c, c, k, k), the matrices (groups, c * k, c * k) and (groups, c, c * k * k)."""
    groups, channels, _, taps, _ = kernel.shape
    return [kernel.transpose(2, 3).reshape(groups, channels * taps, -1), kernel.view(groups, channels, -1)]


def stepped(parts: Sequence[Skew], kernels: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """A power step of the vectors of several kernels (groups, c, c, k, k), in place.

    Returns the lesser norm of each group, (groups, 1, 1, 1, 1), and its gradient with respect to the kernel.
    """
    given = [matrix for kernel in kernels for matrix in matrices(kernel)]
    vectors = [vector for part in parts for vector in (part._rows, part._filters)]
    left, _ = units([matmul(v, m.mT) for m, v in zip(given, vectors, strict=True)])
    right, norms = units([matmul(u, m) for m, u in zip(given, left, strict=True)])
    torch._foreach_copy_(vectors, right)
    least, slopes = [], []
    for index, kernel in enumerate(kernels):
        groups, channels, _, taps, _ = kernel.shape
        (u, w), (v, z), (of_rows, of_filters) = (both[2 * index : 2 * index + 2] for both in (left, right, norms))
        by_rows = (u.mT * v).view(groups, channels, taps, channels, taps).transpose(2, 3)
        by_filters = (w.mT * z).view(kernel.shape)
        least.append(torch.minimum(of_rows, of_filters)[..., None, None])
        slopes.append(torch.where((of_rows < of_filters)[..., None, None], by_rows, by_filters))
    return least, slopes


def units(vectors: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """The vectors (groups, 1, n) scaled to norm 1, and their norms before that, (groups, 1, 1)."""
    norms = torch._foreach_clamp_min([torch.linalg.vector_norm(v, dim=-1, keepdim=True) for v in vectors], EPS)
    return list(torch._foreach_div(vectors, norms)), list(norms)


class SocConv2d(nn.Module):
    """Orthogonal convolution with zero padding: (N, in_channels, H, W) -> (N, out_channels, H / stride, W / stride).

    Sizes are rounded up. kernel_size: odd. dilation: 1 where there is a stride, else any. train_terms, eval_terms: of
    the series after the identity. Under autocast the convolutions follow it, but not the kernel.
    Parameters: bias (out,), and weight (groups * c, c, k, k), c the larger number of channels of a group: in/groups *
    stride^2 or out/groups. It is parametrized (see `Skew`), so that `layer.weight` is the kernel of J. Raises
    ValueError for an even kernel.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        groups: int = 1,
        dilation: int = 1,
        *,
        train_terms: int = 5,
        eval_terms: int = 12,
    ):
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"SocConv2d: kernel_size {kernel_size} is even; its transpose would be shifted")
        self.stride, self.groups, self.dilation = stride, groups, dilation
        self.train_terms, self.eval_terms = train_terms, eval_terms
        self.inputs, self.outputs = in_channels * stride**2 // groups, out_channels // groups
        self.channels = max(self.inputs, self.outputs)
        drawn = torch.empty(groups * self.channels, self.channels, kernel_size, kernel_size)
        self.weight = nn.Parameter(drawn.normal_(std=self.channels**-0.5))
        self.bias = nn.Parameter(torch.empty(out_channels).uniform_(-1, 1) / out_channels**0.5)
        parametrize.register_parametrization(self, "weight", Skew(drawn, groups), unsafe=True)

    def forward(self, x: Tensor) -> Tensor:
        kernel: Tensor = self.weight
        x = self.changed(blocks(x, self.stride), self.inputs, self.channels)
        kind = x.device.type
        if torch.is_autocast_enabled(kind) and x.dtype != torch.float64:  # here, and not in each of the convolutions
            x, kernel = x.to(torch.get_autocast_dtype(kind)), kernel.to(torch.get_autocast_dtype(kind))
        apart = self.dilation
        padding = apart * (kernel.shape[-1] // 2)
        y = self.series(x, lambda y: functional.conv2d(y, kernel, padding=padding, dilation=apart, groups=self.groups))
        y = self.changed(y, self.channels, self.outputs)
        return y + self.bias.to(y.dtype)[:, None, None]

    def series(self, x: Tensor, multiplied: Callable[[Tensor], Tensor]) -> Tensor:
        """The first terms of the exponential of J, times x. multiplied: by J."""
        y = x
        for term in range(self.train_terms if self.training else self.eval_terms, 0, -1):
            y = x.add(multiplied(y), alpha=1 / term)
        return y

    def changed(self, x: Tensor, before: int, after: int) -> Tensor:
        """x with `after` in place of `before` channels in each group: zeros are added, or the last ones left out."""
        if before == after:
            return x
        if self.groups == 1:
            return functional.pad(x, (0, 0, 0, 0, 0, after - before))
        return functional.pad(x.unflatten(1, (self.groups, before)), (0, 0, 0, 0, 0, after - before)).flatten(1, 2)


class SocLinear(SocConv2d):
    """The layer with a 1x1 kernel, on vectors: (N, in_features) -> (N, out_features)."""

    def __init__(self, in_features: int, out_features: int, *, train_terms: int = 5, eval_terms: int = 12):
        super().__init__(in_features, out_features, 1, train_terms=train_terms, eval_terms=eval_terms)

    def forward(self, x: Tensor) -> Tensor:
        matrix = self.weight[:, :, 0, 0]
        kind = x.device.type
        if torch.is_autocast_enabled(kind) and x.dtype != torch.float64:
            x, matrix = x.to(torch.get_autocast_dtype(kind)), matrix.to(torch.get_autocast_dtype(kind))
        y = self.series(functional.pad(x, (0, self.channels - self.inputs)), lambda y: functional.linear(y, matrix))
        return y[:, : self.outputs] + self.bias.to(y.dtype)


@dataclass(frozen=True)
class Soc(Method):
    """Orthogonal convolutions, and a classifier of the same kind, MaxMin as the activation, no norms.

    train_terms, eval_terms: of the exponential series after the identity.
    """

    train_terms: Count = 5
    eval_terms: Count = 12

    def conv(self, spec: ConvSpec) -> nn.Module:
        """Raises ValueError for a padding that changes the size, as J is square, and for a stride with a dilation."""
        if spec.role.place == "gate":
            return super().conv(spec)
        check_size("soc: an orthogonal", spec.kernel_size, spec.stride, spec.padding, spec.dilation)
        return SocConv2d(
            spec.in_channels,
            spec.out_channels,
            spec.kernel_size,
            spec.stride,
            spec.groups,
            spec.dilation,
            train_terms=self.train_terms,
            eval_terms=self.eval_terms,
        )

    def norm(self, channels: int, *, role: Role) -> nn.Module:
        return nn.Identity()

    def activation(self, channels: int, *, role: Role) -> nn.Module:
        return MaxMin() if role.activation else nn.Identity()

    def linear(self, in_features: int, out_features: int, *, role: Role) -> nn.Module:
        return SocLinear(in_features, out_features, train_terms=self.train_terms, eval_terms=self.eval_terms)

    def initialize(self, model: nn.Module) -> None:
        compute_together(model)
