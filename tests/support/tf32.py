"""TF32 on a CPU, where the factors of float32 products are rounded to 10 bits after the point, and what a GPU would round."""

from __future__ import annotations

import linecache
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from normbench.system import device as devices
from tests.support.dispatch import place

aten = torch.ops.aten
# The products of matrices, each with the places of its two factors.
PRODUCTS = {
    aten.mm: (0, 1),
    aten.bmm: (0, 1),
    aten.mv: (0, 1),
    aten.dot: (0, 1),
    aten.vdot: (0, 1),
    aten.addmm: (1, 2),
    aten.addmm_: (1, 2),
    aten.baddbmm: (1, 2),
    aten.baddbmm_: (1, 2),
    aten.addbmm: (1, 2),
    aten.addmv: (1, 2),
    aten.addr: (1, 2),
}
CONVOLUTIONS = {aten.convolution: (0, 1), aten.convolution_backward: (0, 1, 2)}


def rounded(x: Tensor) -> Tensor:
    """A float32 tensor rounded to TF32, ties away from zero, as the hardware does."""
    bits = x.contiguous().view(torch.int32)
    return torch.where(x.isfinite(), ((bits + 0x1000) & ~0x1FFF).view(torch.float32), x)


class Tf32(TorchDispatchMode):
    """A context that rounds the factors of products on the CPU wherever the switches of the CPU's backend allow it.

    count: the products whose factors were rounded. Products on which `normbench.functional.products` has turned the
    switch off are left as they are.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for table, kind in ((PRODUCTS, "matmul"), (CONVOLUTIONS, "conv")):
            places = table.get(function.overloadpacket, ())
            if torch._C._get_fp32_precision_getter("mkldnn", kind) != "tf32":
                continue
            factors = [place for place in places if args[place].dtype == torch.float32]
            args = [rounded(value) if place in factors else value for place, value in enumerate(args)]
            self.count += bool(factors)
        return function(*args, **kwargs)


@contextmanager
def switched_to_tf32() -> Iterator[None]:
    """A context in which the switches of the CPU's backend allow TF32. Few CPUs have it, so this changes no number."""
    before = {kind: torch._C._get_fp32_precision_getter("mkldnn", kind) for kind in ("matmul", "conv")}
    for kind in before:
        torch._C._set_fp32_precision_setter("mkldnn", kind, "tf32")
    try:
        yield
    finally:
        for kind, value in before.items():
            torch._C._set_fp32_precision_setter("mkldnn", kind, value)


@contextmanager
def tf32() -> Iterator[Tf32]:
    """A context like a GPU with TF32 switched on, for matrices and convolutions on the CPU."""
    with switched_to_tf32(), Tf32() as mode:
        yield mode


@contextmanager
def tf32_on_cuda() -> Iterator[None]:
    """A context in which TF32 is switched on for CUDA, as `precision: tf32` does."""
    devices.set_rounding(True)
    try:
        yield
    finally:
        devices.set_rounding(False)


class Rounded(TorchDispatchMode):
    """Notes where products of float32 matrices were made while the switch of CUDA lets them be rounded to TF32."""

    def __init__(self) -> None:
        super().__init__()
        self.places: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        factors = [args[i] for i in PRODUCTS.get(function.overloadpacket, ())]
        if torch.backends.cuda.matmul.fp32_precision == "tf32" and any(x.dtype == torch.float32 for x in factors):
            self.places.append(place())
        return function(*args, **(kwargs or {}))


def of_a_layer(where: str) -> bool:
    """Whether a line calls a linear layer: in a model, or in a method by torch's function."""
    file, _, line = where.partition(":")
    return file.startswith("normbench/models/") or "functional.linear(" in linecache.getline(file, int(line))


def only_layers(places: list[str]) -> None:
    """In training, only linear layers are rounded: in the forward pass, and in two products of each in the backward pass."""
    backward = [where for where in places if where.startswith(("normbench/training/loop.py", "normbench/gan/loop.py"))]
    forward = [where for where in places if where not in backward]
    assert forward
    assert not sorted({where for where in forward if not of_a_layer(where)})
    assert len(backward) <= 2 * len(forward)
