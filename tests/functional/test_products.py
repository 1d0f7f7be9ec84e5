"""Products in float32 while the process's switches ask for rounded factors; TF32 is emulated on the CPU."""

import threading

import pytest
import torch
from torch import Tensor

from normbench.functional import products
from tests.support.tf32 import PRODUCTS, rounded, switched_to_tf32, tf32


def switch() -> str:
    return torch._C._get_fp32_precision_getter("mkldnn", "matmul")


def factors(*shapes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]


def both(added: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return products.addmm(added, products.matmul(a, b).sin(), b, 0.5, -2.0)


def gradients(function, tensors: list[Tensor]) -> list[Tensor]:
    result = function(*tensors)
    return [result.detach(), *torch.autograd.grad(result.square().sum(), tensors)]


SHAPES = [((5, 7), (5, 7), (7, 7)), ((3, 5, 7), (3, 5, 7), (3, 7, 7)), ((7,), (3, 5, 7), (3, 7, 7))]


@pytest.mark.parametrize("shapes", SHAPES)
def test_products_and_gradients_are_those_without_tf32(shapes):
    tensors = factors(*shapes)
    expected = gradients(lambda c, a, b: 0.5 * c - 2 * ((a @ b).sin() @ b), [t.double() for t in tensors])
    plain = gradients(both, tensors)
    with tf32() as mode:
        found = gradients(both, tensors)
    assert mode.count == 0
    for one, other, exact in zip(found, plain, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(one, exact.float(), rtol=1e-5, atol=1e-4)


def test_complex_products_and_gradients():
    """With the switch off while they are computed, in both passes; the gradients are those of torch."""
    seen = []

    def watched(*given):
        seen.append(switch())
        return products_plain(*given)

    a, b = (torch.complex(*factors(*[shape] * 2)).detach().requires_grad_() for shape in ((3, 5, 7), (3, 7, 4)))
    products_plain = products.plain
    with pytest.MonkeyPatch.context() as patch, switched_to_tf32():
        patch.setattr(products, "plain", watched)
        y = products.matmul(a, b)
        found = torch.autograd.grad((y * y.detach()).imag.sum(), (a, b))
    assert seen == ["ieee"] * 3
    y = a @ b
    for one, other in zip(found, torch.autograd.grad((y * y.detach()).imag.sum(), (a, b)), strict=True):
        torch.testing.assert_close(one, other)


def test_the_emulation_rounds_what_does_not_use_them():
    """A product by torch itself differs as TF32 differs, so a test that uses the emulation can fail."""
    a, b = factors((5, 300), (300, 5))
    with tf32() as mode:
        found = a @ b
    assert mode.count == 1
    error = float((found - a @ b).detach().norm() / (a @ b).detach().norm())
    assert 1e-5 < error < 1e-3
    assert torch.equal(rounded(torch.tensor([1 + 2.0**-11, 1 + 2.0**-12])), torch.tensor([1 + 2.0**-10, 1.0]))


def test_second_gradients():
    a, b = (t.double() for t in factors((4, 3), (3, 4)))
    with tf32():
        assert torch.autograd.gradgradcheck(lambda a, b: products.Product.apply(None, a, b, 0.0, 1.0), (a, b))


@pytest.mark.parametrize("shapes", SHAPES[:2])
def test_compiled_into_one_graph(shapes):
    """A compiler, which cannot trace the switch, gets an operator that turns it off when the graph runs."""
    from torch._dynamo.backends.common import aot_autograd
    from torch._functorch.aot_autograd import make_boxed_func

    tensors = factors(*shapes)
    plain = gradients(both, tensors)
    called: list[object] = []

    def noted(graph: torch.fx.GraphModule, examples: list[Tensor]):
        called.extend(node.target for node in graph.graph.nodes if node.op == "call_function")
        return make_boxed_func(graph.forward)

    torch._dynamo.reset()
    with switched_to_tf32():
        found = gradients(torch.compile(both, fullgraph=True, backend=aot_autograd(fw_compiler=noted)), tensors)
    torch._dynamo.reset()
    assert sum(target == torch.ops.normbench.product.default for target in called) == 6
    assert not any(getattr(target, "overloadpacket", None) in PRODUCTS for target in called)
    for one, other in zip(found, plain, strict=True):
        torch.testing.assert_close(one, other)


def test_operator_computes_in_float32():
    added, a, b = (t.detach() for t in factors((5, 7), (5, 7), (7, 7)))
    with tf32() as mode:
        found = products.operator(added, a, b, 0.5, -2.0)
    assert mode.count == 0
    torch.testing.assert_close(found, torch.addmm(added, a, b, beta=0.5, alpha=-2.0))


def test_operator_obeys_the_rules_of_operators():
    added, a, b = (t.detach() for t in factors((5, 7), (5, 7), (7, 7)))
    torch.library.opcheck(products.operator, (added, a, b, 0.5, -2.0), test_utils=("test_schema", "test_faketensor"))
    torch.library.opcheck(products.operator, (None, a, b, 0.0, 1.0), test_utils=("test_schema", "test_faketensor"))


def test_switch_is_put_back():
    assert switch() in ("none", "ieee")
    before = switch()
    with products.Unrounded("cpu"):
        assert switch() == before
    with tf32():
        with products.Unrounded("cpu"):
            assert switch() == "ieee"
            with products.Unrounded("cpu"):
                assert switch() == "ieee"
            assert switch() == "ieee"
        assert switch() == "tf32"
        with pytest.raises(RuntimeError, match="in between"), products.Unrounded("cpu"):
            raise RuntimeError("in between")
        assert switch() == "tf32"
    assert switch() == before


def test_threads_put_it_back_together():
    """The first that leaves does not switch rounding on for the other."""
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with products.Unrounded("cpu"):
            inside.set()
            leave.wait()

    with tf32():
        thread = threading.Thread(target=other)
        thread.start()
        inside.wait()
        with products.Unrounded("cpu"):
            leave.set()
            thread.join()
            assert switch() == "ieee"
        assert switch() == "tf32"


def test_the_old_switch_of_torch():
    """`set_float32_matmul_precision` may have been used too; torch raises if its two ways are left contradicting."""
    before = torch.get_float32_matmul_precision()
    a, b = factors((4, 3), (3, 4))
    try:
        torch.set_float32_matmul_precision("high")
        for kind in products.BACKENDS:
            assert products.rounded(kind)
        products.matmul(a, b).sum().backward()
        assert torch.get_float32_matmul_precision() == "high"
        with products.Unrounded("cuda"):
            assert not products.rounded("cuda")
        assert torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.set_float32_matmul_precision(before)


def test_other_precisions_are_torch_s():
    a, b = (t.detach() for t in factors((4, 3), (3, 4)))
    for dtype in (torch.float64, torch.bfloat16):
        with tf32():
            assert torch.equal(products.matmul(a.to(dtype), b.to(dtype)), a.to(dtype) @ b.to(dtype))
