"""Tensors that say they are on a GPU, on a machine without one: shapes, strides, dtypes and devices, but no numbers.

It is torch's FakeTensorMode with patches. Without a driver, torch computes everything that it needs, apart from these.
"""

from __future__ import annotations

import contextlib
import functools
import gc
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.support.python_autograd import run_backward, set_materialize_grads


def obstacle() -> str | None:
    """Why this build of torch cannot trace what a GPU would do, or None if it can."""
    if not torch.backends.cuda.is_built():
        return "this build of torch has no CUDA"
    layer = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    try:
        with fake_cuda():
            layer.to("cuda")(torch.zeros(2, 1, 4, 4, device="cuda")).sum().backward()
    except Exception as error:
        return f"torch {torch.__version__} does not trace a convolution: {type(error).__name__}: {error}"
    return None


class FakeCuda(FakeTensorMode):
    """FakeTensorMode that never initializes a device, although one is said to be available."""

    @property
    def avoid_device_init(self) -> bool:
        return True

    def __deepcopy__(self, memo: dict) -> FakeCuda:
        return self  # A copied tensor belongs to the same mode.


@functools.cache
def mode() -> FakeCuda:
    """The one mode of this process, as what layers keep from one call to the next must fit in a later context."""
    return FakeCuda(allow_non_fake_inputs=False)


@contextlib.contextmanager
def fake_cuda(available: bool = True) -> Iterator[None]:
    """A context in which every new tensor is fake, and a GPU is available. No tensor from outside can be used in it.

    available: False for torch.compile, which asks an available GPU for its random state. Autocast has no effect then.
    Each patch has its reason beside it.
    """
    # torch counts the devices at the first backward pass of a process. It would find the fake one and start a thread for
    # it, and then refuse backward passes in processes that later tests fork.
    torch.zeros((), requires_grad=True).backward()
    with contextlib.ExitStack() as patches:
        if torch.cuda.is_available():
            patches.callback(forget_tables)
        patches.enter_context(mode())
        # Autocast turns itself off without a GPU, and asks it for bfloat16.
        patches.enter_context(mock.patch.object(torch.cuda, "is_available", return_value=available))
        patches.enter_context(mock.patch.object(torch.cuda, "is_bf16_supported", return_value=True))
        patches.enter_context(mock.patch.object(torch.cuda, "current_device", return_value=0))
        # The choice of a convolution's library asks the driver. It decides on the memory format of the result, which is
        # that of cuDNN: channels_last if the images or the weight are.
        cudnn = torch._C._ConvBackend.Cudnn
        patches.enter_context(mock.patch.object(torch._C, "_select_conv_backend", return_value=cudnn))
        # The engine of autograd asks the driver for streams (see `python_autograd`).
        patches.enter_context(mock.patch.object(torch.autograd, "_engine_run_backward", run_backward))
        context = torch.autograd.function.FunctionCtx
        patches.enter_context(mock.patch.object(context, "set_materialize_grads", set_materialize_grads))
        # `Module.to` would give real parameters fake data, which torch refuses.
        patches.enter_context(mock.patch.object(nn.Module, "to", moved))
        # torch has kernels of these, but does not tell the shapes of their results; an optimizer's step has none.
        library = patches.enter_context(torch.library._scoped_library("aten", "IMPL"))
        library.impl("batch_norm_update_stats", update_stats, "Meta")
        library.impl("_fused_sgd_", lambda *_, **__: None, "Meta")
        library.impl("_fused_adam_", lambda *_, **__: None, "Meta")
        yield


def forget_tables() -> None:
    """Empties the caches of the package, from which a real GPU would otherwise get fake tables."""
    for value in gc.get_objects():
        if type(value) is functools._lru_cache_wrapper and value.__module__.startswith("normbench."):
            value.cache_clear()


def update_stats(x: Tensor, running_mean: Any, running_var: Any, momentum: float) -> tuple[Tensor, Tensor]:
    """The shapes of `torch.batch_norm_update_stats`: mean and variance, (C,) each, in float32 for half precision."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    mean, variance = (x.new_empty(x.shape[1], dtype=dtype) for _ in range(2))
    return mean, variance


def moved(module: nn.Module, device: Any = None, *, memory_format: torch.memory_format | None = None) -> nn.Module:
    """`Module.to` that makes new, fake parameters and buffers, in place; what is shared stays shared."""
    known: dict[Tensor, Tensor] = {}

    def new(value: Tensor) -> Tensor:
        if value not in known:
            # A fake tensor of the device that the real one is on, which may not be used here.
            fake = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=value.device)
            images = memory_format if value.dim() == 4 else None
            known[value] = fake.to(device or value.device, memory_format=images or torch.preserve_format)
        return known[value]

    for layer in module.modules():
        for name, value in layer._parameters.items():
            if value is not None:
                layer._parameters[name] = nn.Parameter(new(value), value.requires_grad)
        for name, value in layer._buffers.items():
            if value is not None:
                layer._buffers[name] = new(value)
    return module
