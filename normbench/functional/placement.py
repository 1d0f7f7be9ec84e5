"""Moves a network to its device, in a memory format in which that device computes correctly."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from normbench.functional import convolution
from normbench.system.schema import MemoryFormat

FORMATS: dict[MemoryFormat, torch.memory_format] = {
    "channels_last": torch.channels_last,
    "contiguous": torch.contiguous_format,
}


def memory_format(model: nn.Module, kind: str, wanted: MemoryFormat = "channels_last") -> torch.memory_format:
    """The wanted memory format, or contiguous if the network would otherwise hit the bug in oneDNN.

    kind: the type of the device, `cuda`, `mps` or `cpu`. The bug affects networks on the CPU with strided 1x1
    convolutions of few channels that are not computed by `normbench.functional.convolution`, which describes it.
    """
    broken = kind == "cpu" and any(narrow_stride(layer) for layer in model.modules())
    return torch.contiguous_format if broken else FORMATS[wanted]


def memory_format_name(model: nn.Module, kind: str, wanted: MemoryFormat) -> MemoryFormat:
    """The result of `memory_format`, as a key of `FORMATS`."""
    given = memory_format(model, kind, wanted)
    return next(name for name, value in FORMATS.items() if value == given)


def narrow_stride(layer: nn.Module) -> bool:
    """Whether a layer is a strided 1x1 convolution of few channels that does not avoid oneDNN's bug itself.

    This reads the layer's parameters, not `layer.weight`: with a parametrization, reading that computes the weight, and
    for spectral norm runs a power iteration.
    """
    stride, own = getattr(layer, "stride", None), dict(layer.named_parameters())
    weight = own.get("weight", own.get("parametrizations.weight.original"))
    if getattr(layer, "takes_pixels_first", False) or weight is None or weight.dim() != 4:
        return False
    return isinstance(stride, tuple) and convolution.narrow_stride(weight, stride)


def placed(model: nn.Module, kind: str, wanted: MemoryFormat = "channels_last") -> nn.Module:
    """Moves a network to its device and into its memory format there (see `memory_format`), in place; returns it.

    kind: the type of the device, `cuda`, `mps` or `cpu`.
    """
    model = model.to(kind).to(memory_format=memory_format(model, kind, wanted))
    for layer in model.modules() if kind == "cpu" else ():
        if narrow_stride(layer):
            keep_contiguous(layer)
    return model


def keep_contiguous(layer: nn.Module) -> None:
    """Gives the parameters of a layer, and every later input of it, strides that cannot be taken for channels_last.

    In a contiguous network, oneDNN's bug could otherwise still be triggered by a weight from a network that was in
    channels_last before, or by images from a layer that permutes dimensions and permutes them back.
    """
    for parameter in layer.parameters(recurse=True):
        parameter.data = restrided(parameter.data)
    if not any(hook is contiguous_inputs for hook in layer._forward_pre_hooks.values()):
        layer.register_forward_pre_hook(contiguous_inputs)


def contiguous_inputs(layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Forward pre-hook that gives every input tensor the strides of a contiguous one (see `restrided`)."""
    return tuple(restrided(each) if isinstance(each, torch.Tensor) else each for each in inputs)


def restrided(x: torch.Tensor) -> torch.Tensor:
    """x with the strides of a new contiguous tensor, copied if it has other strides.

    `Tensor.contiguous` does not copy when only dimensions of size 1 have other strides.
    """
    strides = torch.empty(x.shape, device="meta").stride()
    return x if x.stride() == strides else x.clone(memory_format=torch.contiguous_format)
