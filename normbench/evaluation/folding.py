"""Folds a trained network into plain layers: in evaluation mode, what the methods compute from weights is constant."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval, fuse_linear_bn_eval, parametrize

from normbench.functional.convolution import Conv2d
from normbench.functional.graph import followers
from normbench.functional.pooled_spectral_norm import Plane
from normbench.methods.batch_norm import VariedBatchNorm2d
from normbench.methods.conv_norm import ConvNorm2d
from normbench.methods.fantastic_four import TrackedNorms
from normbench.methods.network_deconvolution import DeconvConv2d, DeconvLinear
from normbench.methods.spectral_batch_norm import AfterBatchNorm, SpectralBatchNorm2d
from normbench.system.narrowing import narrowed


@torch.no_grad()
def fold(model: nn.Module) -> nn.Module:
    """A copy of a network in evaluation mode with the same outputs, made of plain layers as far as possible.

    - DeconvConv2d and DeconvLinear become Conv2d and Linear.
    - ConvNorm2d with a 1x1 kernel becomes one Conv2d. With a larger kernel its filter is as large as the image, so it
      has no equivalent small convolution; only its batch norm is folded into its depth-wise kernel.
    - BatchNorm2d is folded into the preceding Conv2d, or Linear whose units it sees as maps of one pixel, if nothing
      else uses the output of that layer.
    - SpectralBatchNorm2d is folded into the preceding batch norm, except for constants added to the first row of the
      image, which a FirstRow layer adds. With `frequency` statistics, or with the `full` scale, which depends on the
      image size, it is kept as it is.
    - Parametrized weights (spectral normalization) become plain parameters with their current values.

    Raises UserError if the network's forward pass cannot be traced.
    """
    model = copy.deepcopy(model).eval()
    for name, layer in list(model.named_modules()):
        if isinstance(layer, TrackedNorms):
            parent, _, own = name.rpartition(".")
            delattr(model.get_submodule(parent), own)
        if parametrize.is_parametrized(layer):
            leave_values(layer)
        plain = plain_layer(layer)
        if plain is not None and not name:
            return plain
        if plain is not None:
            model.set_submodule(name, plain)
    for conv_name, norm_name in followers(model, nn.Conv2d, nn.BatchNorm2d).items():
        conv = narrowed(model.get_submodule(conv_name), nn.Conv2d, conv_name)
        norm = narrowed(model.get_submodule(norm_name), nn.BatchNorm2d, norm_name)
        if norm.running_mean is None:
            continue  # It normalizes with the statistics of its images.
        model.set_submodule(conv_name, fuse_conv_bn_eval(conv, norm))
        model.set_submodule(norm_name, nn.Identity())
    norms = followers(model, nn.Unflatten, nn.BatchNorm2d)
    for linear_name, maps_name in followers(model, nn.Linear, nn.Unflatten).items():
        linear = narrowed(model.get_submodule(linear_name), nn.Linear, linear_name)
        maps = narrowed(model.get_submodule(maps_name), nn.Unflatten, maps_name)
        if maps_name in norms and tuple(maps.unflattened_size) == (linear.out_features, 1, 1):
            norm = narrowed(model.get_submodule(norms[maps_name]), nn.BatchNorm2d, norms[maps_name])
            if norm.running_mean is not None:
                model.set_submodule(linear_name, fuse_linear_bn_eval(linear, norm))
                model.set_submodule(norms[maps_name], nn.Identity())
    return model


def leave_values(layer: nn.Module) -> None:
    """Replaces the parametrized parameters of a layer by plain ones with the same values.

    torch's `remove_parametrizations` would break the network from which this one was copied, as it modifies the class
    of the layer, which copies share.
    """
    parametrizations = layer.get_submodule("parametrizations")
    values = {name: getattr(layer, name).detach().clone() for name, _ in parametrizations.named_children()}
    layer.__class__ = type(layer).__bases__[0]
    del layer.parametrizations
    for name, value in values.items():
        layer.register_parameter(name, nn.Parameter(value))


def plain_layer(layer: nn.Module) -> nn.Module | None:
    """The layer that replaces a given layer in evaluation, or None if the layer is kept, possibly modified in place."""
    match layer:
        case DeconvConv2d():
            return convolution(layer, *layer.plain(layer.weight.dtype))
        case DeconvLinear():
            weight, bias = layer.plain(layer.weight.dtype)
            linear = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
            linear.weight, linear.bias = nn.Parameter(weight), nn.Parameter(bias)
            return linear.eval()
        case ConvNorm2d(kernel_size=(1, 1)):
            scale = layer.weight.square().sum((1, 2, 3)).rsqrt()
            bias = torch.zeros_like(scale)
            if layer.affine is not None:
                scale, bias = scale * layer.affine.weight[:, 0, 0, 0], layer.affine.get_parameter("bias")
            conv = convolution(layer, layer.weight * scale[:, None, None, None], bias)
            return conv if layer.batch_norm is None else fuse_conv_bn_eval(conv, layer.batch_norm)
        case ConvNorm2d() if layer.affine is not None and layer.batch_norm is not None:
            layer.affine, layer.batch_norm = fuse_conv_bn_eval(layer.affine, layer.batch_norm), None
            return None
        case VariedBatchNorm2d():  # which is one of torch in evaluation
            norm = nn.BatchNorm2d(layer.num_features, layer.eps, device="meta")
            norm.weight, norm.bias = layer.weight, layer.bias
            norm.running_mean, norm.running_var = layer.running_mean, layer.running_var
            norm.num_batches_tracked = layer.num_batches_tracked
            return norm.eval()
        case AfterBatchNorm():
            batch_norm = narrowed(layer[0], nn.BatchNorm2d, "the first of two norms")
            spectral = narrowed(layer[1], SpectralBatchNorm2d, "the second of two norms")
            if spectral.mode != "frequency" and spectral.fft_norm != "full":
                gain = spectral.weight * (spectral.running_var + spectral.eps).rsqrt()
                batch_norm.weight.mul_(gain)
                batch_norm.bias.mul_(gain)
                return nn.Sequential(batch_norm, FirstRow(spectral, gain))
            return nn.Sequential(batch_norm, spectral)
        case _:
            return None


def convolution(layer: DeconvConv2d | ConvNorm2d, weight: Tensor, bias: Tensor) -> Conv2d:
    """A Conv2d in evaluation mode with the stride, padding, dilation and groups of `layer` and the given parameters.

    weight: (out, in/groups, kh, kw). bias: (out,).
    """
    out, share = weight.shape[:2]
    conv = Conv2d(
        share * layer.groups,
        out,
        layer.kernel_size,
        layer.stride,
        layer.padding,
        layer.dilation,
        layer.groups,
        device="meta",
    )
    conv.weight, conv.bias = nn.Parameter(weight.contiguous()), nn.Parameter(bias)
    return conv.eval()


class FirstRow(nn.Module):
    """Adds constants to the first row of images (N, channels, H, W), in place: what remains of a SpectralBatchNorm2d.

    spectral: the folded layer. gain: (channels,), its weight over its running standard deviation.
    Buffer: added (2, channels), the real and the imaginary part of what the layer adds to every Fourier coefficient.
    """

    added: Tensor

    def __init__(self, spectral: SpectralBatchNorm2d, gain: Tensor):
        super().__init__()
        added = -spectral.running_mean * gain
        added[0] += spectral.bias
        self.register_buffer("added", added)
        self.statistics, self.fft_norm = spectral.mode, spectral.fft_norm
        self.rows: dict[torch.Size, Tensor] = {}  # the added rows (channels, W) by image size (H, W)

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[2:]
        if size not in self.rows or self.rows[size].device != x.device:
            plane = Plane.of(self.statistics, self.fft_norm, size, self.added.dtype, x.device)
            self.rows[size] = plane.first_row(self.added)
        x[:, :, 0] += self.rows[size].to(x.dtype)
        return x
