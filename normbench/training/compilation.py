"""Compiles a network for training with `torch.compile`, ahead of training, so that the two can be timed separately."""

from __future__ import annotations

import copy
import itertools
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from normbench.data.batches import Batches
from normbench.system.errors import UserError


@runtime_checkable
class CountsSteps(Protocol):
    """A layer that computes something else in some training steps, by their number.

    A compiler takes the number for a constant, and would compile the layer anew in every step. So here the number is
    counted before the compiled network is called, which then knows the decision alone.
    freeze: whether this layer counts. next_step: counts a step and returns the decision. decided: the decision for the
    next call of the layer, or None for a layer that calls `next_step` itself.
    """

    freeze: bool
    decided: bool | None

    def next_step(self) -> bool: ...


def compiled(
    model: nn.Module, mode: str, batches: Batches, context: Callable[[], AbstractContextManager], gradient: bool
) -> tuple[Callable[[Tensor], Tensor], float]:
    """The compiled forward pass of `model` in training mode, and the seconds that compiling took.

    mode: the `mode` of `torch.compile`; `reduce-overhead` uses CUDA graphs where possible. context: returns the
    autocast context of a training step. gradient: whether training needs gradients with respect to the images.

    The forward and backward passes are compiled for every batch size of an epoch, and every decision of layers that
    count their steps, by running them once on training images; the model's state is then restored. Compiled kernels are
    cached in TORCHINDUCTOR_CACHE_DIR, where later processes find them. Raises UserError if compiling fails, for example
    because there is no C++ compiler.
    """
    from torch._dynamo import config  # imported here because it takes seconds, and most runs do not compile
    from torch._dynamo.exc import BackendCompilerFailed

    began = time.perf_counter()
    cuda = batches.images.pixels.device.type == "cuda"
    # It is so already, but this also tells the compiler.
    torch.use_deterministic_algorithms(not cuda or torch.are_deterministic_algorithms_enabled(), warn_only=not cuda)
    config.wrap_top_frame = True  # so that what a method hooks onto the network is in the same graph as the network
    network = torch.compile(model, mode=mode, dynamic=False)
    counting = [layer for layer in model.modules() if isinstance(layer, CountsSteps) and layer.freeze]

    def run(x: Tensor, decision: bool | None = None) -> Tensor:
        torch.compiler.cudagraph_mark_step_begin()  # CUDA graphs may reuse the memory of the previous step
        for layer in counting:
            layer.decided = layer.next_step() if decision is None else decision
        result = network(x)
        for layer in counting:
            layer.decided = None
        return result

    state = copy.deepcopy(model.state_dict())
    rest = len(batches.images) - (batches.steps - 1) * batches.batch_size
    model.train()
    with torch.random.fork_rng([batches.images.pixels.device] if cuda else []):
        sizes = {min(batches.batch_size, len(batches.images)), min(batches.batch_size, rest)}
        for size, decision in itertools.product(sizes, [True, False] if counting else [True]):
            x = batches.images.normalized(batches.images.pixels[:size]).requires_grad_(gradient)
            try:
                with context():
                    result = run(x, decision)
                result.float().sum().backward()
            except BackendCompilerFailed as error:
                reason = str(error).strip().split("\n")[0]
                raise UserError(f"recipe.compile = {mode!r}: torch.compile fails here: {reason}") from error
    model.load_state_dict(state)
    model.zero_grad(set_to_none=True)
    return run, time.perf_counter() - began


def keep_compiled(folder: str, workers: int) -> None:
    """Makes `torch.compile` cache its kernels in `folder`, and compile several kernels at once in `workers` processes.

    By default there are as many as cores, for each run that shares them. The variables TORCHINDUCTOR_CACHE_DIR and
    TORCHINDUCTOR_COMPILE_THREADS are kept if they are set.
    """
    from torch._inductor import config  # imported here because it takes long, and most runs do not compile

    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", os.path.abspath(folder))
    if "TORCHINDUCTOR_COMPILE_THREADS" not in os.environ:
        config.compile_threads = workers
