"""The counter of dispatched operations, and the backward pass in Python, on tensors of which all is known."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException
from torch.nn import functional

from normbench.methods import registry
from normbench.system.transfer import to_device
from tests.support.dispatch import NOT_DETERMINISTIC, Operations
from tests.support.fake_cuda import fake_cuda, obstacle
from tests.support.python_autograd import run_backward, set_materialize_grads
from tests.support.short_models import CHANNELS, SHORT, SIDES, short_classifier

REASON = obstacle()
needs_fakes = pytest.mark.skipif(REASON is not None, reason=str(REASON))


def test_views_and_allocations_are_not_launches() -> None:
    x = torch.ones(3, 4)
    with Operations() as done:
        (x.t() @ x).view(16)[2:].detach().add_(1)
        torch.empty(3)
        torch.ones(0, 2).neg()
    assert done.seen == {
        "t": 1,
        "mm": 1,
        "view": 1,
        "slice": 1,
        "detach": 1,
        "add_": 1,
        "empty": 1,
        "ones": 1,
        "neg": 1,
    }
    assert done.launches == 2
    assert len(done.on_cpu) == 9
    assert not done.waits
    assert done.wide == 0


def test_float64_is_counted() -> None:
    with Operations() as done:
        x = torch.ones(3).double()
        torch.fft.fft(x)
        x.float()
    assert done.wide == 2


WAITS = {
    "a number": lambda x: x.sum().item(),
    "a decision": lambda x: bool(x.sum() > 0),
    "a list": lambda x: x.tolist(),
    "a copy to the host": lambda x: x.cpu(),
    "a copy to the host that is not waited for": lambda x: x.to("cpu", non_blocking=True),
    "a copy from the host": lambda x: x.copy_(torch.ones(3)),
    "a new tensor of numbers": lambda x: torch.tensor([1.0, 2.0, 3.0], device=x.device),
    "positions": lambda x: x.nonzero(),
    "a mask": lambda x: x[x > 0],
    "assignment by a mask": lambda x: x.index_put_((x > 0,), x[:1]),
    "a mask as an index": lambda x: x.masked_select(x > 0),
    "comparison": lambda x: torch.equal(x, x),
    "different numbers": lambda x: x.unique(),
    "an eigendecomposition": lambda x: torch.linalg.eigh(x.diag()),
    "an inverse": lambda x: torch.linalg.inv(x.diag()),
    "a Cholesky factor": lambda x: torch.linalg.cholesky(x.diag()),
}


@needs_fakes
@pytest.mark.parametrize("what", WAITS)
def test_waits_are_found(what: str) -> None:
    """Most of these also end the trace with an error, as fake tensors have no numbers."""
    with fake_cuda():
        x = torch.zeros(3, device="cuda")
        no_numbers = DataDependentOutputException, DynamicOutputShapeException
        with Operations() as done, contextlib.suppress(*no_numbers):
            WAITS[what](x)
    assert done.waits


NO_WAITS = {
    "arithmetic": lambda x: (2 * x + 1).clamp_min(0).sqrt().sum(),
    "a choice": lambda x: torch.where(x > 0, x, torch.nan),
    "a mask of numbers": lambda x: x.masked_fill_(x > 0, 1.0),
    "an index": lambda x: x[torch.zeros(2, dtype=torch.long, device=x.device)],
    "a scalar": lambda x: torch.full((), 3.0, device=x.device) * x,
    "random numbers for the device": lambda x: to_device(torch.rand(3), x.device) + x,
}


@needs_fakes
@pytest.mark.parametrize("what", NO_WAITS)
def test_nothing_else_is_called_a_wait(what: str) -> None:
    with fake_cuda():
        x = torch.zeros(3, device="cuda")
        with Operations() as done:
            NO_WAITS[what](x)
    assert done.launches
    assert not done.waits
    assert not done.on_cpu


@needs_fakes
def test_a_refused_batch_norm_is_an_error() -> None:
    """CUDA's gradient of the weight takes the options of the weight."""
    with fake_cuda():
        x, c = torch.zeros(2, 3, 4, 4, device="cuda"), torch.zeros(3, device="cuda")
        given = (None, None, c, c, True, 0.0)
        with Operations():
            torch.ops.aten.native_batch_norm_backward(x, x, c, *given, [False, True, True])
            torch.ops.aten.native_batch_norm_backward(x, x, None, *given, [True, False, False])
            with pytest.raises(AssertionError, match="a weight that is not given"):
                torch.ops.aten.native_batch_norm_backward(x, x, None, *given, [False, True, True])


@needs_fakes
def test_what_has_no_deterministic_kernel_is_seen() -> None:
    before = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("default")  # Otherwise torch replaces one of the two.
    try:
        with fake_cuda(), Operations() as done:
            x = torch.zeros(2, 3, 8, 8, device="cuda", requires_grad=True)
            functional.adaptive_avg_pool2d(x, 4).sum().backward()
            functional.interpolate(x, scale_factor=2, mode="bilinear").sum().backward()
    finally:
        torch.set_deterministic_debug_mode(before)
    assert done.seen.keys() & NOT_DETERMINISTIC == {"_adaptive_avg_pool2d_backward", "upsample_bilinear2d_backward"}
    assert all(hasattr(torch.ops.aten, each) for each in NOT_DETERMINISTIC)


@needs_fakes
def test_a_step_with_other_strides_is_an_error() -> None:
    """Fused optimizers do not take a momentum whose strides differ from those of the parameter."""
    with fake_cuda():
        parameter = nn.Parameter(torch.zeros(2, 3, 3, 3, device="cuda"))
        optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=0.9, fused=True)
        parameter.grad = torch.zeros_like(parameter)
        with Operations():
            optimizer.step()
            optimizer.step()
            state = optimizer.state[parameter]
            state["momentum_buffer"] = state["momentum_buffer"].contiguous(memory_format=torch.channels_last)
            with pytest.raises(AssertionError, match="strides"):
                optimizer.step()


ENGINES = (torch.autograd._engine_run_backward, run_backward)


@contextlib.contextmanager
def replaced(engine: Callable) -> Iterator[None]:
    """A context in which an engine runs backward passes."""
    context = torch.autograd.function.FunctionCtx
    with (
        mock.patch.object(torch.autograd, "_engine_run_backward", engine),
        mock.patch.object(context, "set_materialize_grads", set_materialize_grads),
    ):
        yield


class Partly(torch.autograd.Function):
    """Two results, of which one may get no gradient, and one that has none."""

    @staticmethod
    def forward(ctx, x: Tensor, factor: float, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        ctx.factor = factor
        ctx.set_materialize_grads(factor > 2)
        constant = x.sum(1)
        ctx.mark_non_differentiable(constant)
        return x * factor, y * factor, constant

    @staticmethod
    def backward(ctx, of_x: Tensor | None, of_y: Tensor | None, _: Tensor) -> tuple[Tensor | None, None, Tensor | None]:
        return None if of_x is None else of_x * ctx.factor, None, None if of_y is None else of_y * ctx.factor


def tangled(x: Tensor, y: Tensor, bias: Tensor) -> Tensor:
    """Broadcasts, uses values twice, changes the dtype and the layout, and takes part of a function's results."""
    both = Partly.apply(x + bias, 2.0, y)[0] * Partly.apply(x, 3.0, y)[1]
    wide = (both.double() * 2).float()
    return (wide.mT @ wide + bias.sum()).sin().sum() + (x * x).mean() + x.unbind()[1].sum()


def both_engines(function: Callable[..., Tensor], *inputs: Tensor) -> list[tuple[list[Tensor | None], Operations]]:
    """The gradients and the operations of a function's backward pass, by torch's engine and in Python."""
    results = []
    for engine in ENGINES:
        given = [each.detach().clone(memory_format=torch.preserve_format).requires_grad_() for each in inputs]
        with replaced(engine), Operations() as done:
            loss = function(*given)
            done.seen.clear()
            loss.backward()
        results.append(([each.grad for each in given], done))
    return results


def test_python_runs_the_same_backward_pass() -> None:
    """The same bits and the same operations as torch's engine."""
    torch.manual_seed(0)
    (expected, reference), (found, done) = both_engines(tangled, torch.randn(3, 4), torch.randn(3, 4), torch.randn(4))
    assert done.seen == reference.seen
    for one, other in zip(expected, found, strict=True):
        assert one is not None
        assert one.equal(other)


@pytest.mark.parametrize("method", ["batch_norm", "network_deconvolution", "spectral_norm", "fixup"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_python_trains_a_network_alike(method: str, layout: torch.memory_format) -> None:
    """Gradients of parameters: bits, strides and operations."""
    results = []
    for engine in ENGINES:
        torch.manual_seed(0)
        network = short_classifier("resnet", registry.build(method, {})).to(memory_format=layout).train()
        x = torch.randn(4, CHANNELS, 8, 8).contiguous(memory_format=layout)
        with replaced(engine), Operations() as done:
            loss = network(x).square().sum()
            done.seen.clear()
            loss.backward()
        results.append(([p.grad for p in network.parameters()], done))
    (expected, reference), (found, done) = results
    assert done.seen == reference.seen
    for one, other in zip(expected, found, strict=True):
        assert one.equal(other)
        assert one.stride() == other.stride()


@pytest.mark.parametrize("model", SHORT)
def test_python_finds_gradients_of_inputs(model: str) -> None:
    """`torch.autograd.grad` with respect to images and to a layer in the middle."""
    torch.manual_seed(0)
    network = short_classifier(model, registry.build("group_norm", {}))
    x, results = torch.randn(4, CHANNELS, SIDES[model], SIDES[model], requires_grad=True), []
    for engine in ENGINES:
        middle = torch.tanh(x)
        loss = network(middle).square().sum()
        with replaced(engine):
            results.append(torch.autograd.grad(loss, (middle, x)))
    assert all(one.equal(other) for one, other in zip(*results, strict=True))
    assert x.grad is None
