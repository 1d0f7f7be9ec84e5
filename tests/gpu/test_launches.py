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
TODAY = {  # by method, where more are launched
    # No kernel of torch does what they do with the statistics of maps: it takes many small operations.
    "evonorm_b0": "587 launches, 2.8 times as many",
    "filter_response_norm": "579 launches, 2.7 times as many",
    "switchable_norm": "1471 launches, 7.0 times as many",
    # Each layer whitens what the layer before it returns, so that their roots cannot be computed together.
    "iter_norm": "1631 launches, 7.7 times as many",
    "switchable_whitening": "2901 launches, 13.7 times as many",
    "cayley": "1150 launches, 5.5 times as many",  # transforms, an inverse and products at each frequency in each layer
    "soc": "1321 launches, 6.3 times as many",  # five convolutions one after the other in each layer
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


CONVOLUTIONS = NORMS = 20
RELUS, ADDITIONS, HEAD, LOSS, RIGHT = 17, 8, 2, 2, 3
OTHER_CASTS = 4  # of the images, the two parameters of the head, and the logits


def test_batch_norm() -> None:
    """Nothing but the layers, the loss, the number of correct predictions, the additions of the shortcuts, and casts."""
    casts = CONVOLUTIONS + OTHER_CASTS  # of weights
    assert launches("batch_norm") == (
        CONVOLUTIONS + 2 * NORMS + RELUS + ADDITIONS + HEAD + LOSS + RIGHT + casts,  # A norm also counts its batches.
        CONVOLUTIONS + NORMS + RELUS + ADDITIONS + 2 * HEAD + LOSS + 1 + casts - 1,  # The images have no gradient.
    )


def test_conv_norm() -> None:
    """What depends on weights alone is computed once for all layers with as many input channels, and cast once for all.

    A stack of them, its float64, the products of taps and their sums by lags; then the squares, the clamp, the root and
    its float32. A filter casts, transforms, multiplies, transforms back and casts; its gradient also pads.
    """
    pointwise, alike, one = 3, 5, 1
    layers = CONVOLUTIONS - pointwise
    of_weights = 8 * alike - one + 2 * pointwise  # The stem has no other layer to be stacked with.
    casts = one + pointwise + OTHER_CASTS
    assert launches("conv_norm") == (
        2 * CONVOLUTIONS + 2 * NORMS + RELUS + ADDITIONS + HEAD + LOSS + RIGHT + casts + of_weights + 5 * layers,
        2 * CONVOLUTIONS + NORMS + RELUS + ADDITIONS + 2 * HEAD + LOSS + 1 + casts - 1 + pointwise + 6 * layers,
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
