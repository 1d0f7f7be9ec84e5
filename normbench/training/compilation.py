"""`torch.compile` for a network in training, with its time apart from that of the training."""

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
    """The forward pass of `model` in training mode, compiled with its backward pass, and the seconds that this took.

    mode: of `torch.compile`; `reduce-overhead` replays CUDA graphs where they hold. context: makes the autocast of a
    step. gradient: whether the images of a step need one. Every size of a batch is compiled at once, on images whose
    effect on the state is taken back. What was compiled is kept in TORCHINDUCTOR_CACHE_DIR, where later processes find
    it. Raises UserError where there is no compiler.
    """
    from torch._dynamo import config  # takes seconds, which other trainings need not wait
    from torch._dynamo.exc import BackendCompilerFailed

    began = time.perf_counter()
    # Layers that count their steps would be compiled anew for each of the first eight, and then no more.
    config.allow_unspec_int_on_nn_module = True
    network = torch.compile(model, mode=mode, dynamic=False)

    def forward(x: Tensor) -> Tensor:
        torch.compiler.cudagraph_mark_step_begin()  # what the graphs of the step before hold is used no more
        return network(x)

    state = copy.deepcopy(model.state_dict())
    rest = len(batches.images) - (batches.steps - 1) * batches.batch_size
    model.train()
    device = batches.images.pixels.device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
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
    """Has compiled kernels kept in a folder, unless TORCHINDUCTOR_CACHE_DIR names another."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", os.path.abspath(folder))
