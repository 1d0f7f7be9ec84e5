"""Network Deconvolution, Ye et al., ICLR 2020, arXiv 1905.11926.

Behaviour of the authors' code, yechengxi/deconvolution at revision d221c221. The layer whitens the im2col patches of
its input with an unconverged Newton-Schulz inverse square root, and folds that whitening into its weights, so that it
stays one convolution and needs no norm after it.

Deviations: the count of training steps behind `freeze` is part of the state_dict; kernels need not be square, and the
learned bias can be left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from normbench.functional.constants import constant
from normbench.functional.convolution import conv2d
from normbench.functional.inverse_sqrt import inverse_sqrt
from normbench.functional.pairs import Pair, pair
from normbench.functional.patch_moments import Sampling
from normbench.functional.products import matmul
from normbench.functional.whitening import Whitened, centred, repeated
from normbench.methods.base import ConvSpec, Count, Limits, Method, Positive, Role

FREEZE_STEPS, FREEZE_CYCLE = 101, 1000  # a frozen layer renews its statistics in the first 101 of every 1000 steps


def block_size(channels: int, block: int) -> int:
    """The number of channels in a block: `channels` if that is less than `block`, else the gcd of both."""
    if block > channels:
        return channels
    return block if channels % block == 0 else math.gcd(block, channels)


class _Whitening(nn.Module):
    """Mean and inverse square root of pooled features, with running averages of both.

    features: F, the size of a whitened vector; groups: independent statistics, each with its own (F, F) matrix.
    """

    running_mean: Tensor
    running_deconv: Tensor
    weight: Tensor
    bias: Tensor | None
    sampling: Sampling

    def __init__(self, features: int, groups: int, iterations: int, eps: float, momentum: float):
        super().__init__()
        self.features, self.iterations, self.eps, self.momentum = features, iterations, eps, momentum
        self.low_precision = False
        eye = torch.eye(features)
        self.register_buffer("running_mean", torch.zeros(groups * features))
        self.register_buffer("running_deconv", eye if groups == 1 else eye.repeat(groups, 1, 1))

    def whitened(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (N, C, H, W) -> x, and weight and bias of the plain layer that whitens its statistics, in the dtype of x.

        The x that is returned is to be used in place of the one that is given. This moves the running averages.
        """
        options = self.sampling, self.eps, self.iterations, self.low_precision
        same, weight, bias, mean, deconv = Whitened.apply(x, self.weight, self.bias, *options)
        with torch.no_grad():
            for running, now in ((self.running_mean, mean), (self.running_deconv, deconv)):
                self.sampling.move(running, now, self.momentum)
        return same if x.requires_grad else x, weight, bias

    def plain(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Weight and bias, in a dtype, of the plain layer that evaluation computes."""
        mean = self.sampling.ordered(self.running_mean.view(-1, 1, self.features), 1).to(self.weight)
        deconv = self.sampling.ordered(self.running_deconv.view(-1, self.features, self.features), 2).to(self.weight)
        rows = matmul(self.sampling.weight_rows(self.weight), deconv)
        bias = centred(rows, repeated(mean, rows, len(self.weight)), self.bias)
        return self.sampling.weight(rows, self.weight).to(dtype), bias.to(dtype)


class DeconvConv2d(_Whitening):
    """Convolution of whitened patches: (N, in_channels, H, W) -> (N, out_channels, H', W').

    kernel_size, stride, padding, dilation: a number or (rows, columns). bias: whether there is a learned one (the
    centring of the patches is folded into an offset in either case).
    block: channels pooled in one set of statistics (64); with groups > 1 every group has its own, and it is ignored.
    iterations: Newton-Schulz steps, part of the method (5). eps: added to the diagonal of the covariance.
    momentum: weight of the new value in the running mean and running matrix, which evaluation uses.
    sampling_stride: patches are sampled every `sampling_stride * stride` pixels for the statistics.
    freeze: renew the statistics only in training steps 0 to 100 of every 1000. The layer counts its calls in training;
        a compiler would take the count for a constant, so who compiles it calls `next_step` and sets `decided` instead.
    covariance: what the centred patches are rounded to in the covariance; `bfloat16` is an approximation of the method.
    Parameters: weight (out, in/groups, kh, kw), bias (out,). Buffers: running_mean (groups*F,), running_deconv (F, F)
    or (groups, F, F), with F = block * kh * kw.
    """

    takes_pixels_first = True
    bias: Tensor | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Pair,
        stride: int | Pair = 1,
        padding: int | Pair = 0,
        dilation: int | Pair = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        block: int = 64,
        iterations: int = 5,
        eps: float = 1e-5,
        momentum: float = 0.1,
        sampling_stride: int = 3,
        freeze: bool = False,
        covariance: Literal["float32", "bfloat16"] = "float32",
    ):
        kernel = pair(kernel_size)
        width = in_channels // groups if groups > 1 else block_size(in_channels, block)
        super().__init__(width * kernel[0] * kernel[1], groups, iterations, eps, momentum)
        reference = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, dilation, groups, bias)
        self.weight, self.bias = reference.weight, reference.bias
        self.kernel_size, self.stride, self.padding, self.dilation = kernel, pair(stride), pair(padding), pair(dilation)
        self.groups, self.freeze, self.low_precision = groups, freeze, covariance == "bfloat16"
        step = sampling_stride * self.stride[0], sampling_stride * self.stride[1]
        parts = in_channels // width
        self.sampling = Sampling(kernel, step, self.padding, self.dilation, groups, self.features, parts)
        self.steps = 0
        self.decided: bool | None = None

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            if self.renews():
                x, weight, bias = self.whitened(x)
            else:
                weight, bias = constant(self, x.dtype, (self.weight, self.bias), lambda: self.plain(x.dtype))
        return conv2d(x, weight.to(x.dtype), bias.to(x.dtype), self.stride, self.padding, self.dilation, self.groups)

    def renews(self) -> bool:
        """Whether this forward pass computes new statistics. With `freeze`, each call counts as one training step."""
        if not self.training or not self.freeze:
            return self.training
        return self.next_step() if self.decided is None else self.decided

    def next_step(self) -> bool:
        """Counts a training step of a frozen layer; returns whether it renews the statistics."""
        self.steps += 1
        return (self.steps - 1) % FREEZE_CYCLE < FREEZE_STEPS

    def get_extra_state(self) -> dict[str, int]:
        return {"steps": self.steps}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.steps = state["steps"]


class DeconvLinear(_Whitening):
    """Linear layer on whitened blocks of features: (N, in_features) -> (N, out_features).

    block: contiguous features pooled in one set of statistics (512), cut to in_features or their greatest common
    divisor. Other arguments as in DeconvConv2d. ("Delinear" in the authors' code.)
    """

    bias: Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        block: int = 512,
        iterations: int = 5,
        eps: float = 1e-5,
        momentum: float = 0.1,
    ):
        super().__init__(block_size(in_features, block), 1, iterations, eps, momentum)
        reference = nn.Linear(in_features, out_features, bias)
        self.weight, self.bias = reference.weight, reference.bias
        self.sampling = Sampling((1, 1), (1, 1), (0, 0), (1, 1), 1, self.features)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            if self.training:
                samples, weight, bias = self.whitened(x.reshape(-1, self.features, 1, 1))
                x = samples.view(x.shape)
            else:
                weight, bias = constant(self, x.dtype, (self.weight, self.bias), lambda: self.plain(x.dtype))
        return functional.linear(x, weight.to(x.dtype), bias.to(x.dtype))


class ChannelDeconv(nn.Module):
    """Whitens activations before a pooling or a classifier: (N, channels, H, W) to the same shape.

    The first floor(channels / block) * block channels are whitened together: each of `block` rows pools a run of
    neighbouring channels. The remaining channels share one mean and variance. As in the authors' code, the second
    moment is not centred, and the running averages start from the statistics of the first training batch. The other
    arguments are those of DeconvConv2d. Raises RuntimeError in evaluation mode before any training step.
    """

    num_batches_tracked: Tensor

    def __init__(
        self, block: int, *, eps: float = 1e-2, iterations: int = 5, momentum: float = 0.1, sampling_stride: int = 3
    ):
        super().__init__()
        self.block, self.eps, self.iterations = block, eps, iterations
        self.momentum, self.sampling_stride = momentum, sampling_stride
        self.register_buffer("running_mean", torch.zeros(block))
        self.register_buffer("running_deconv", torch.eye(block))
        self.register_buffer("rest_mean", torch.zeros(()))
        self.register_buffer("rest_var", torch.ones(()))
        self.register_buffer("num_batches_tracked", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            wide = x.to(torch.promote_types(x.dtype, torch.float32))
            taken = x.shape[1] // self.block * self.block
            rows = wide[:, :taken].transpose(0, 1).reshape(self.block, -1)
            rest = wide[:, taken:]
            statistics = self.statistics(rows, rest, x.shape[-2:]) if self.training else self.running()
            mean, deconv, rest_mean, rest_var = (value.to(wide) for value in statistics)
            white = (deconv @ (rows - mean[:, None])).view(taken, x.shape[0], *x.shape[2:]).transpose(0, 1)
            y = torch.cat([white, (rest - rest_mean) * (rest_var + self.eps).rsqrt()], 1)
        return y.to(x.dtype)

    def statistics(self, rows: Tensor, rest: Tensor, size: torch.Size) -> tuple[Tensor, ...]:
        """Mean (B,) and whitening matrix (B, B) of the rows, mean and variance of the rest, 0-d.

        rows: (B, M), the activations of the whitened channels. rest: (N, C', H, W), those of the remaining channels.
        size: (H, W). Updates the running statistics.
        """
        sparse = min(size) >= self.sampling_stride
        samples = rows[:, :: self.sampling_stride**2] if sparse else rows
        moment = samples @ samples.T / samples.shape[1]
        moment = moment + self.eps * torch.eye(self.block, dtype=rows.dtype, device=rows.device)
        found = [samples.mean(1), inverse_sqrt(moment, self.iterations), rows.new_zeros(()), rows.new_ones(())]
        if rest.shape[1]:
            flat = rest.flatten(1)[:, :: self.sampling_stride**2] if sparse else rest
            found[2:] = [flat.mean(), flat.var()]
        with torch.no_grad():
            first = self.num_batches_tracked == 0
            for running, value in zip(self.running_buffers(), found, strict=True):
                running.copy_(torch.where(first, value.to(running), running.lerp(value.to(running), self.momentum)))
            self.num_batches_tracked += 1
        return tuple(found)

    def running_buffers(self) -> tuple[Tensor, ...]:
        """The running statistics, in the order in which `statistics` returns them."""
        names = ("running_mean", "running_deconv", "rest_mean", "rest_var")
        return tuple(self.get_buffer(name) for name in names)

    def running(self) -> tuple[Tensor, ...]:
        """The running statistics. Raises RuntimeError before the first training step."""
        if not torch.compiler.is_compiling() and self.num_batches_tracked == 0:
            raise RuntimeError("ChannelDeconv has no statistics before its first training step")
        return self.running_buffers()


# Options that the authors' code sets for layers, by (architecture, place). In their MobileNetV2, the statistics of a
# projection also pool as many channels as its block has.
# The linear block of MobileNetV2 (below) and the block of PNASNet-A, which matters where 88 channels become 176, are
# from the run list of amazon-science/network-deconvolution-pp at 3d796af5.
SETTINGS: dict[tuple[str, str], dict[str, Any]] = {
    ("vgg", "stem"): {"freeze": True, "iterations": 15},
    ("senet", "stem"): {"freeze": True, "iterations": 15},
    ("preact_resnet", "stem"): {"freeze": True, "iterations": 10},
    ("resnext", "stem"): {"freeze": True, "iterations": 10},
    ("resnext", "grouped"): {"iterations": 3},
    ("mobilenet_v2", "stem"): {"freeze": True, "iterations": 10},
    ("mobilenet_v2", "depthwise"): {"iterations": 1},
    ("mobilenet_v2", "projection"): {"iterations": 1},
    ("dpn", "stem"): {"freeze": True, "iterations": 10},
    ("pnasnet_a", "stem"): {"freeze": True, "iterations": 10},
    ("pnasnet_a", "downsample"): {"block": 44},
    ("pnasnet_b", "stem"): {"freeze": True, "iterations": 10},
    ("efficientnet", "stem"): {"freeze": True, "iterations": 10},
    ("lenet", "stem"): {"freeze": True, "iterations": 15},
    ("imagenet_resnet", "stem"): {"freeze": True, "iterations": 15},
    ("imagenet_vgg", "stem"): {"freeze": True, "iterations": 15},
    ("imagenet_densenet", "stem"): {"freeze": True, "iterations": 15},
    ("segmentation", "stem"): {"freeze": True, "iterations": 15},
}
# The block of all linear layers, by architecture: those of ImageNet are built with 64.
LINEAR_BLOCKS = {"mobilenet_v2": 640, "imagenet_resnet": 64, "imagenet_vgg": 64, "imagenet_densenet": 64}
# Architectures whose batch norms after the 1x1 convolutions of shortcuts stay.
KEEP_SHORTCUT_NORMS = ("imagenet_resnet", "segmentation")
# Architectures whose whitened convolutions start, as their plain ones do, from normal weights with He's variance for
# the outputs. In the others of ImageNet's size, the authors' code draws those weights for plain convolutions alone.
KAIMING = ("imagenet_resnet",)


@dataclass(frozen=True)
class NetworkDeconvolution(Method):
    """Every convolution becomes a DeconvConv2d, every linear layer a DeconvLinear, and there are no norms.

    linear_block: the block of DeconvLinear; 0 keeps ordinary linear layers. authors_settings: whether certain layers of
    certain architectures are those of the authors' code: SETTINGS, LINEAR_BLOCKS, KEEP_SHORTCUT_NORMS and KAIMING, and
    one block for all channels of a convolution to logits. The other options are those of DeconvConv2d.
    """

    block: Count = 64
    linear_block: Annotated[int, Limits(least=0)] = 512
    iterations: Count = 5
    eps: Positive = 1e-5
    momentum: Positive = 0.1
    sampling_stride: Count = 3
    authors_settings: bool = True
    covariance: Literal["float32", "bfloat16"] = "float32"

    def settings(self, role: Role) -> dict[str, Any]:
        """The options that the authors' code sets for a layer of this role, or none."""
        return SETTINGS.get((role.architecture, role.place), {}) if self.authors_settings else {}

    def conv(self, spec: ConvSpec) -> nn.Module:
        options: dict[str, Any] = {"block": self.block, "iterations": self.iterations} | self.settings(spec.role)
        role = spec.role
        if self.authors_settings and role.architecture == "mobilenet_v2" and role.place == "projection":
            options["block"] = spec.in_channels // role.expansion
        if self.authors_settings and role.place == "classifier":
            options["block"] = spec.in_channels
        layer = DeconvConv2d(
            spec.in_channels,
            spec.out_channels,
            spec.kernel_size,
            spec.stride,
            spec.padding,
            spec.dilation,
            spec.groups,
            eps=self.eps,
            momentum=self.momentum,
            sampling_stride=self.sampling_stride,
            covariance=self.covariance,
            **options,
        )
        if self.authors_settings and role.architecture in KAIMING:
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        return layer

    def norm(self, channels: int, *, role: Role) -> nn.Module:
        kept = role.place == "downsample" and role.architecture in KEEP_SHORTCUT_NORMS
        return nn.BatchNorm2d(channels) if self.authors_settings and kept else nn.Identity()

    def linear(self, in_features: int, out_features: int, *, role: Role) -> nn.Module:
        if self.linear_block == 0:
            return nn.Linear(in_features, out_features)
        block = LINEAR_BLOCKS.get(role.architecture, self.linear_block) if self.authors_settings else self.linear_block
        return DeconvLinear(
            in_features,
            out_features,
            block=block,
            iterations=self.iterations,
            eps=self.eps,
            momentum=self.momentum,
        )
