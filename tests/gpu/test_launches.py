"""How many kernels a training step launches on a GPU: with a few microseconds each, they bound the speed of a step."""

from __future__ import annotations

import functools

import pytest
import torch

from normbench.functional.placement import placed
from normbench.methods import registry
from normbench.models.build import build_classifier
from normbench.training.optimization import optimizer, step_loss
from tests.support import subjects
from tests.support.dispatch import Operations
from tests.support.fake_cuda import fake_cuda, obstacle

REASON = obstacle()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))

# The most launches of a step, as a multiple of those with batch norm.
GOALS = dict.fromkeys(registry.names(), 2.5) | {"network_deconvolution": 5.0}
TODAY = {
    "network_deconvolution": "1674 launches, 7.9 times as many",
}


@functools.cache
def launches(method: str) -> tuple[int, int]:
    """Those of the forward and of the backward pass of a ResNet-18 in bfloat16, in its second step of training."""
    made, recipe = registry.build(method, {}), subjects.recipe(precision="bfloat16")
    network = build_classifier("resnet18", {"width": 16}, made, 3, 10, 0)
    with fake_cuda():
        placed(network, "cuda").train()
        optim = optimizer(network, made, recipe)
        x = torch.empty(8, 3, 32, 32, device="cuda").contiguous(memory_format=torch.channels_last)
        y = torch.zeros(8, dtype=torch.long, device="cuda")
        for _ in range(2):
            with Operations() as forward:
                loss, _ = step_loss(network, network, made, x, y, recipe)
            optim.zero_grad(set_to_none=True)
            with Operations() as backward:
                loss.backward()
            with Operations() as step:
                optim.step()
    assert step.launches <= 4  # one for each group of parameters
    return forward.launches, backward.launches


def test_batch_norm() -> None:
    """Nothing but the layers, the loss, the number of correct predictions, the additions of the shortcuts, and casts."""
    convolutions = norms = 20
    relus, additions = 17, 8
    head, loss, right = 2, 2, 3
    casts = convolutions + 4  # of weights; and of the images, the two parameters of the head, and the logits
    assert launches("batch_norm") == (
        convolutions + 2 * norms + relus + additions + head + loss + right + casts,  # A norm also counts its batches.
        convolutions + norms + relus + additions + 2 * head + loss + 1 + casts - 1,  # The images have no gradient.
    )


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(name, marks=pytest.mark.xfail(name in TODAY, reason=TODAY.get(name, ""), strict=True))
        for name in registry.names()
    ],
)
def test_methods(method: str) -> None:
    found, least = sum(launches(method)), sum(launches("batch_norm"))
    assert found <= GOALS[method] * least, f"{found} launches, {found / least:.1f} times as many as with batch norm"
