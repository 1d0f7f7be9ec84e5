"""A network on its device, in a memory format that computes rightly there."""

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
    """The wanted one of `FORMATS`, but contiguous on the CPU for networks that channels_last breaks there.

    Those are networks with narrow strided 1x1 convolutions that are not computed by normbench.functional.convolution,
    which says what happens to them.
    """
    broken = kind == "cpu" and any(narrow_stride(layer) for layer in model.modules())
    return torch.contiguous_format if broken else FORMATS[wanted]


def memory_format_name(model: nn.Module, kind: str, wanted: MemoryFormat) -> MemoryFormat:
    """What `memory_format` gives, as a key of `FORMATS`."""
    given = memory_format(model, kind, wanted)
    return next(name for name, value in FORMATS.items() if value == given)


def narrow_stride(layer: nn.Module) -> bool:
    """Whether a layer is a strided 1x1 convolution of few channels, and none of ours, which have no need of care.

    Its parameters are looked at, and not `layer.weight`, which a parametrization computes: spectral norm takes a power
    iteration with it.
    """
    stride, own = getattr(layer, "stride", None), dict(layer.named_parameters())
    weight = own.get("weight", own.get("parametrizations.weight.original"))
    if getattr(layer, "takes_pixels_first", False) or weight is None or weight.dim() != 4:
        return False
    return isinstance(stride, tuple) and convolution.narrow_stride(weight, stride)


def placed(model: nn.Module, kind: str, wanted: MemoryFormat = "channels_last") -> nn.Module:
    """A network on its device, in the memory format that it computes in there (see `memory_format`)."""
    model = model.to(kind).to(memory_format=memory_format(model, kind, wanted))
    for layer in model.modules() if kind == "cpu" else ():
        if narrow_stride(layer):
            keep_contiguous(layer)
    return model


def keep_contiguous(layer: nn.Module) -> None:
    """Gives the weight of a layer, and all that it is called with from now on, strides that pass for no other format.

    Without it a layer in a contiguous network is still broken by a weight from a network that was in channels_last
    before, or by images from a layer that works on their last dimension and turns them back.
    """
    for parameter in layer.parameters(recurse=True):
        parameter.data = restrided(parameter.data)
    if not any(hook is contiguous_inputs for hook in layer._forward_pre_hooks.values()):
        layer.register_forward_pre_hook(contiguous_inputs)


def contiguous_inputs(layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(restrided(each) if isinstance(each, torch.Tensor) else each for each in inputs)


def restrided(x: torch.Tensor) -> torch.Tensor:
    """x with the strides of a new contiguous tensor, copied if it has others (`contiguous` takes many for the same)."""
    strides = torch.empty(x.shape, device="meta").stride()
    return x if x.stride() == strides else x.clone(memory_format=torch.contiguous_format)
