"""Compiles a network for training with `torch.compile`, ahead of training, so that the two can be timed separately."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from normbench.data.batches import Batches
from normbench.system.errors import UserError


def compiled(
    model: nn.Module, mode: str, batches: Batches, context: Callable[[], AbstractContextManager], gradient: bool
) -> tuple[Callable[[Tensor], Tensor], float]:
    """The compiled forward pass of `model` in training mode, and the seconds that compiling took.

    mode: the `mode` of `torch.compile`; `reduce-overhead` uses CUDA graphs where possible. context: returns the
    autocast context of a training step. gradient: whether training needs gradients with respect to the images.

    The forward and backward passes are compiled for every batch size of an epoch by running them once on training
    images; the model's state is then restored. Compiled kernels are cached in TORCHINDUCTOR_CACHE_DIR, where later
    processes find them. Raises UserError if compiling fails, for example because there is no C++ compiler.
    """
    from torch._dynamo import config  # imported here because it takes seconds, and most runs do not compile
    from torch._dynamo.exc import BackendCompilerFailed

    began = time.perf_counter()
    cuda = batches.images.pixels.device.type == "cuda"
    # It is so already, but this also tells the compiler.
    torch.use_deterministic_algorithms(not cuda or torch.are_deterministic_algorithms_enabled(), warn_only=not cuda)
    # Otherwise a layer that counts its steps in a Python int would be recompiled at each of the first eight steps, and
    # would then run uncompiled.
    config.allow_unspec_int_on_nn_module = True
    config.wrap_top_frame = True  # so that what a method hooks onto the network is in the same graph as the network
    network = torch.compile(model, mode=mode, dynamic=False)

    def forward(x: Tensor) -> Tensor:
        torch.compiler.cudagraph_mark_step_begin()  # CUDA graphs may reuse the memory of the previous step
        return network(x)

    state = copy.deepcopy(model.state_dict())
    rest = len(batches.images) - (batches.steps - 1) * batches.batch_size
    model.train()
    with torch.random.fork_rng([batches.images.pixels.device] if cuda else []):
        for size in {min(batches.batch_size, len(batches.images)), min(batches.batch_size, rest)}:
            x = batches.images.normalized(batches.images.pixels[:size]).requires_grad_(gradient)
            try:
                with context():
                    result = forward(x)
                result.float().sum().backward()
            except BackendCompilerFailed as error:
                reason = str(error).strip().split("\n")[0]
                raise UserError(f"recipe.compile = {mode!r}: torch.compile fails here: {reason}") from error
    model.load_state_dict(state)
    model.zero_grad(set_to_none=True)
    return forward, time.perf_counter() - began


def keep_compiled(folder: str) -> None:
    """Makes `torch.compile` cache its kernels in `folder`, unless TORCHINDUCTOR_CACHE_DIR is already set."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", os.path.abspath(folder))
