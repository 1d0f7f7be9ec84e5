"""What TF32 does to results, on a CPU: the factors of float32 products are rounded to 10 bits after the point."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

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
