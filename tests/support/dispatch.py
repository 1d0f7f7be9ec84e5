"""Counts the operations that torch dispatches, and finds those that a GPU refuses or that make the host wait for it."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
ROOT = Path(__file__).parents[2]

# Operations that launch nothing on a GPU: only the description of a tensor is new, or its memory, which stays unwritten.
VIEWS = {
    *("_conj", "_reshape_alias", "_unsafe_view", "alias", "as_strided", "detach", "diagonal", "expand", "lift_fresh"),
    *("permute", "select", "slice", "split", "split_with_sizes", "squeeze", "t", "transpose", "unbind", "unfold"),
    *("unsqueeze", "view", "view_as_complex", "view_as_real"),
}
ALLOCATIONS = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"}
QUIET = VIEWS | ALLOCATIONS

# Operations whose result, or its size, or whether they have succeeded, the host reads.
WAITS = {
    "_linalg_check_errors",
    "_linalg_eigh",
    "_linalg_svd",
    "_local_scalar_dense",
    "_unique2",
    "bincount",
    "equal",
    "masked_select",
    "nonzero",
    "repeat_interleave",
    "unique_consecutive",
    "unique_dim",
}
# Random numbers are drawn on the CPU, so that they are the same on every device. They are copied in one place, from
# pinned memory and without waiting; whether memory is pinned cannot be seen here.
DRAWS = {"rand", "randint", "randn", "randperm"}
PASSAGE = "normbench/system/transfer.py"
# Operations that have no deterministic kernel on a GPU, by the documentation of `torch.use_deterministic_algorithms`.
NOT_DETERMINISTIC = {
    *("_adaptive_avg_pool2d_backward", "_adaptive_avg_pool3d_backward", "avg_pool3d_backward"),
    *("adaptive_max_pool2d_backward", "fractional_max_pool2d_backward", "fractional_max_pool3d_backward"),
    *("max_unpool2d", "max_unpool3d", "upsample_linear1d_backward", "upsample_bilinear2d_backward"),
    *("upsample_bicubic2d_backward", "upsample_trilinear3d_backward", "reflection_pad1d_backward"),
    *("reflection_pad2d_backward", "reflection_pad3d_backward", "nll_loss2d_forward", "_ctc_loss_backward"),
    *("_embedding_bag", "put_", "histc", "bincount", "median", "grid_sampler_2d_backward", "scatter_reduce"),
}
INDEXING = {"index", "index_put", "index_put_", "_unsafe_index", "_index_put_impl_"}


def name(operation: Any) -> str:
    """The name of an operation without its namespace and overload, such as `add`."""
    return operation.overloadpacket.__name__


def tensors(values: Any) -> list[Tensor]:
    """All tensors in nested arguments or results."""
    if isinstance(values, Tensor):
        return [values]
    if isinstance(values, dict):
        values = values.values()
    elif not isinstance(values, list | tuple):
        return []
    return [tensor for value in values for tensor in tensors(value)]


def wait(called: str, args: tuple, kwargs: dict) -> str | None:
    """Why an operation on tensors of a GPU makes the host wait for the GPU, or None if it does not."""
    if called in WAITS and any(value.is_cuda for value in tensors(args)):
        return called
    if called in INDEXING:
        masks = [value for value in tensors(args[1]) if value.dtype in (torch.bool, torch.uint8)]
        return f"{called} by a mask" if any(mask.is_cuda for mask in masks) else None
    if called in ("_to_copy", "copy_", "_copy_from"):
        source = args[1] if called == "copy_" else args[0]
        target = args[0].device if called == "copy_" else kwargs.get("device") or source.device
        kinds = source.device.type, torch.device(target).type
        if kinds[0] != kinds[1]:
            return f"copy from {kinds[0]} to {kinds[1]}"
    return None


def batch_norm_backward(args: tuple) -> str | None:
    """CUDA takes the options of the weight for the gradient of the weight: it needs one if that is asked for."""
    weight, mask = args[2], args[9]
    return "the gradient of a weight that is not given" if weight is None and mask[1] else None


def fused_step(args: tuple) -> str | None:
    """CUDA's fused optimizers need parameters, gradients and state with the same dtype and strides."""
    lists = [values for values in args if isinstance(values, list | tuple) and values and isinstance(values[0], Tensor)]
    for parameter, *others in zip(*(values for values in lists if len(values) == len(lists[0])), strict=True):
        for other in others:
            if other.dim() and not same_strides(parameter, other):
                return f"strides {tuple(parameter.stride())} and {tuple(other.stride())} of {tuple(parameter.shape)}"
    return None


def same_strides(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors of one shape have the same strides, apart from dimensions of size 1."""
    sizes = zip(one.shape, one.stride(), other.stride(), strict=True)
    return all(a == b for size, a, b in sizes if size != 1)


# What CUDA refuses, or computes wrongly, and a CPU takes: from the arguments to the reason, or None if all is well.
REFUSED: dict[Any, Callable[[tuple], str | None]] = {
    aten.native_batch_norm_backward.default: batch_norm_backward,
    aten._fused_sgd_.default: fused_step,
    aten._fused_adam_.default: fused_step,
}


def place() -> str:
    """The innermost line of the package that is being executed, such as `normbench/methods/fixup.py:28`."""
    for frame in frames():
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(ROOT / "normbench"):
            return f"{path.relative_to(ROOT)}:{frame.f_lineno}"
    return "outside of the package"


def frames() -> Iterator[Any]:
    """The frames that are being executed, from the innermost outwards."""
    frame = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back


class Operations(TorchDispatchMode):
    """Counts the operations that are dispatched while it is active.

    seen: how often each operation was dispatched, by its name. launches: how many of them start at least one kernel:
    all but views, allocations and what has no element. waits: a line for each operation that made the host wait for
    the GPU. on_cpu: a line for each one that had a tensor of the CPU among its arguments or results, unless it drew
    random numbers. Neither has what `normbench.system.transfer` does. wide: how many had a result in float64 or complex128.

    Raises AssertionError for a call that CUDA refuses.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()
        self.waits: list[str] = []
        self.on_cpu: list[str] = []
        self.launches = self.wide = 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        called = name(operation)
        if operation.namespace == "prim":  # the device of a tensor, for which fake ones are asked
            return operation(*args, **kwargs)
        self.seen[called] += 1
        refused = REFUSED.get(operation, lambda _: None)(args)
        assert refused is None, f"{called}: CUDA refuses {refused} ({place()})"
        reason = wait(called, args, kwargs)
        if reason and not place().startswith(PASSAGE):
            self.waits.append(f"{reason} ({place()})")
        result = operation(*args, **kwargs)
        made = tensors(result)
        touched = [*made, *tensors(args), *tensors(kwargs)]
        self.launches += called not in QUIET and any(value.numel() for value in touched)
        on_cpu = called not in DRAWS and any(value.device.type == "cpu" for value in touched)
        if on_cpu and not place().startswith(PASSAGE):
            self.on_cpu.append(f"{called} ({place()})")
        self.wide += any(value.dtype in (torch.float64, torch.complex128) for value in made)
        return result
