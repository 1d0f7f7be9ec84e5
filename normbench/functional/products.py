"""Products of float32 matrices in float32, whatever the switches of the process say.

torch has switches by which it rounds the factors of float32 products: to TF32, with 10 bits after the point, on CUDA,
and to bfloat16 on some CPUs. Layers of a network bear that. Statistics do not, and least of all the iterations that
take roots and norms of them, which multiply the error. They use the functions of this file, which turn the switch off
only while they compute a product or its gradient.

`matmul` and `addmm` also hold under `torch.compile`, which cannot trace a switch: there they become one operator. Half
precision and float64, which no switch touches, are left to torch.
"""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

FLOAT32 = (torch.float32, torch.complex64)  # what is rounded
BACKENDS = {"cuda": "cuda", "cpu": "mkldnn"}  # torch's name of what multiplies on a kind of device


def switch(kind: str) -> str:
    """What the switch of a kind of device says: `ieee`, or `none` for the same, or what factors are rounded to."""
    return torch._C._get_fp32_precision_getter(BACKENDS[kind], "matmul")


def rounded(kind: str) -> bool:
    """Whether torch rounds the factors of float32 products on a kind of device, as its switches are now."""
    return kind in BACKENDS and switch(kind) not in ("none", "ieee")


# A compiler asks once, when it compiles. The decorator that says so, `torch.compiler.assume_constant_result`, sets this
# attribute, but imports the compiler, which takes seconds.
rounded._dynamo_marked_constant = True  # type: ignore[attr-defined]


class Unrounded:
    """A context in which torch rounds no factors of float32 products on a kind of device.

    For code that is not compiled and has to call torch's own functions. Gradients that autograd computes later are not
    in it. Threads may be in it together: the last one that leaves puts the switch back.
    """

    lock = threading.Lock()
    inside = dict.fromkeys(BACKENDS, 0)
    switches = dict.fromkeys(BACKENDS, "")

    def __init__(self, kind: str):
        self.kind, self.entered = kind, False

    def __enter__(self) -> None:
        kind = self.kind
        if kind not in BACKENDS:
            return
        with self.lock:
            if not self.inside[kind]:
                if not rounded(kind):
                    return
                self.switches[kind] = switch(kind)
                torch._C._set_fp32_precision_setter(BACKENDS[kind], "matmul", "ieee")
            self.inside[kind] += 1
            self.entered = True

    def __exit__(self, *_: object) -> None:
        if self.entered:
            self.entered = False
            with self.lock:
                self.inside[self.kind] -= 1
                if not self.inside[self.kind]:
                    torch._C._set_fp32_precision_setter(BACKENDS[self.kind], "matmul", self.switches[self.kind])


def true_float32(like: Tensor) -> AbstractContextManager[None]:
    """A context for products in true float32 on the device of `like`. Nothing for a compiler."""
    return nullcontext() if torch.compiler.is_compiling() else Unrounded(like.device.type)


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """a (..., M, K) @ b (..., K, N) -> (..., M, N), as `torch.matmul` of tensors of two or more dimensions."""
    if a.dtype not in FLOAT32 or not rounded(a.device.type):
        return plain(None, a, b, 0.0, 1.0)
    return Product.apply(None, a, b, 0.0, 1.0)


def addmm(added: Tensor, a: Tensor, b: Tensor, beta: float = 1.0, alpha: float = 1.0) -> Tensor:
    """beta * added + alpha * a @ b, for matrices as `torch.addmm` and for stacks of matrices as `torch.baddbmm`.

    added: broadcasts to (M, N) or (S, M, N). a: (M, K) or (S, M, K). b: (K, N) or (S, K, N).
    """
    if a.dtype not in FLOAT32 or not rounded(a.device.type):
        return plain(added, a, b, beta, alpha)
    return Product.apply(added, a, b, beta, alpha)


def wide_matmul(a: Tensor, b: Tensor) -> Tensor:
    """a (G, M, K) @ b (G, K, N) -> (G, M, N), in float32 for factors in bfloat16, and in their dtype for others.

    On CUDA the product of such factors is not rounded to bfloat16.
    """
    if a.dtype != torch.bfloat16:
        return matmul(a, b)
    return torch.bmm(a, b, out_dtype=torch.float32) if a.device.type == "cuda" else torch.bmm(a, b).float()


def plain(added: Tensor | None, a: Tensor, b: Tensor, beta: float, alpha: float) -> Tensor:
    """The product by torch's functions, as the switches are."""
    if added is None:
        # Not by `matmul`, which takes stacks apart and puts them together again.
        stacks = a.dim() == b.dim() == 3 and a.shape[0] == b.shape[0]
        return (torch.bmm if stacks else torch.matmul)(a, b)
    return (torch.addmm if a.dim() == 2 else torch.baddbmm)(added, a, b, beta=beta, alpha=alpha)


def unrounded(added: Tensor | None, a: Tensor, b: Tensor, beta: float, alpha: float) -> Tensor:
    """The product in float32, without a gradient."""
    if torch.compiler.is_compiling():
        return operator(added, a, b, beta, alpha)
    with Unrounded(a.device.type):
        return plain(added, a, b, beta, alpha)


@torch.library.custom_op("normbench::product", mutates_args=())
def operator(added: Tensor | None, a: Tensor, b: Tensor, beta: float, alpha: float) -> Tensor:
    """`unrounded` as one operator, into which a compiler does not look."""
    with Unrounded(a.device.type):
        return plain(added, a, b, beta, alpha)


@operator.register_fake
def shape_of_operator(added: Tensor | None, a: Tensor, b: Tensor, beta: float, alpha: float) -> Tensor:
    """What a compiler knows about the result: that of torch's functions."""
    return plain(added, a, b, beta, alpha)


class Product(torch.autograd.Function):
    """`matmul` and `addmm` in float32, whose gradients are products in float32 as well."""

    @staticmethod
    def forward(ctx: Any, added: Tensor | None, a: Tensor, b: Tensor, beta: float, alpha: float) -> Tensor:
        """See `addmm`; added: or None."""
        ctx.save_for_backward(a, b)
        ctx.added, ctx.beta, ctx.alpha = None if added is None else added.shape, beta, alpha
        return unrounded(added, a, b, beta, alpha)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        a, b = ctx.saved_tensors
        of_added = of_a = of_b = None
        if ctx.needs_input_grad[0]:
            of_added = (gradient * ctx.beta).sum_to_size(ctx.added)
        if ctx.needs_input_grad[1]:
            of_a = (matmul(gradient, b.mH) * ctx.alpha).sum_to_size(a.shape)
        if ctx.needs_input_grad[2]:
            of_b = (matmul(a.mH, gradient) * ctx.alpha).sum_to_size(b.shape)
        return of_added, of_a, of_b, None, None
