"""Every method trains every family of models, and what it trained can be copied and stored.

The networks are short, with every kind of the family's blocks; each method also trains one as deep as they are used.
"""

from __future__ import annotations

import copy
import functools
import itertools
import re
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from normbench.methods import registry as methods
from normbench.methods.base import Method
from normbench.models import registry
from normbench.models.preact_resnet import PreActResNet
from normbench.models.senet import Gate
from tests.models.networks import CLASSES, NARROW, images, logits_of
from tests.support import short_models

# He's initialization alone lets deep residual branches grow beyond what a step can train.
OPTIONS = {"no_norm": {"residual_gain": 0.1}}
# Parameters whose gradient is zero, but for rounding: constants that the normalization after them takes away.
CANCELLED = {"conv_norm": r"affine\.bias$", "network_deconvolution": r"\.bias$"}
STEPS = {
    "fixup": 5,
    "scaled_weight_standardization": 3,
}  # classifier and ends of branches start at zero, so that gradients come to the rest one by one
GATE = r"\.gate\."  # the ReLU in a gate has few units, which may all be off


class Network(NamedTuple):
    """How a network is built from a method, its number of classes, and the size of its images."""

    build: Callable[[Method], nn.Module]
    classes: int
    size: int

    def fresh(self, method: Method, seed: int = 0) -> nn.Module:
        """The network with the weights of a seed."""
        torch.manual_seed(seed)
        model = self.build(method)
        method.initialize(model)
        return model

    def images(self, seed: int, count: int = 8) -> Tensor:
        return images(seed, count, size=self.size)


def wide_senet(method: Method) -> nn.Module:
    """With gates of more than one unit, of which not all are off."""
    return PreActResNet(method, 3, short_models.CLASSES, [1, 1], 32, gate=Gate, architecture="senet")


SHORT = {
    name: Network(build, short_models.CLASSES, short_models.SIDES[name])
    for name, build in (short_models.SHORT | {"senet": wide_senet}).items()
}
DEEP = {
    f"{name}, deep": Network(
        functools.partial(registry.get(name).function, channels=3, classes=CLASSES, **options), CLASSES, 32
    )
    for name, options in NARROW.items()
}
ON_SHORT = pytest.mark.parametrize("name", SHORT)
ON_SHORT_NETWORKS = sorted({*itertools.product(SHORT, methods.names())} - short_models.IMPOSSIBLE)


@functools.cache
def trained(name: str, method_name: str) -> tuple[nn.Module, dict[str, float], list[float]]:
    """A network after two steps or more, the largest absolute gradient of each parameter in them, and the losses."""
    method = methods.build(method_name, OPTIONS.get(method_name, {}))
    network = (SHORT | DEEP)[name]
    model = network.fresh(method).train()
    optim = torch.optim.SGD(method.param_groups(model, lr=0.01, weight_decay=0.0), lr=0.01)
    largest: dict[str, float] = {}
    losses = []
    for seed in range(STEPS.get(method_name, 2)):
        loss = functional.cross_entropy(model(network.images(seed)), torch.arange(8) % network.classes)
        penalty = method.penalty(model)
        loss = loss if penalty is None else loss + penalty
        optim.zero_grad()
        loss.backward()
        for key, parameter in model.named_parameters():
            assert parameter.grad is not None, f"{key} has no gradient"
            assert parameter.grad.isfinite().all(), key
            largest[key] = max(largest.get(key, 0.0), parameter.grad.abs().max().item())
        optim.step()
        losses.append(loss.item())
    return model, largest, losses


ONE_DEEP = [  # for each method
    (name, method_name)
    for place, method_name in enumerate(methods.names())
    for name in [list(DEEP)[place % len(DEEP)]]
    # Without residual branches there is nothing that Fixup makes small, and 120 layers explode.
    if (name, method_name) != ("densenet121, deep", "fixup")
]


@pytest.mark.parametrize(("name", "method_name"), [*ON_SHORT_NETWORKS, *ONE_DEEP])
def test_training_reaches_every_parameter(name: str, method_name: str) -> None:
    model, largest, losses = trained(name, method_name)
    assert torch.tensor(losses).isfinite().all()
    allowed = "|".join([GATE, *([CANCELLED[method_name]] if method_name in CANCELLED else [])])
    assert [key for key, value in largest.items() if value == 0 and not re.search(allowed, key)] == []
    if name.startswith("senet"):
        gates = [value for key, value in largest.items() if re.search(GATE, key)]
        assert sum(value > 0 for value in gates) > len(gates) / 2
    x = (SHORT | DEEP)[name].images(5)
    expected = logits_of(model, x)
    assert expected.shape == (8, (SHORT | DEEP)[name].classes)
    assert expected.isfinite().all()
    assert torch.equal(logits_of(model, x), expected)


@pytest.mark.parametrize(("name", "method_name"), sorted(short_models.IMPOSSIBLE))
def test_what_a_method_cannot_build(name: str, method_name: str) -> None:
    with pytest.raises(ValueError, match=f"{method_name}: .* keeps the size, so a 5x5 kernel has the padding 2, not 0"):
        SHORT[name].fresh(methods.build(method_name, {}))


@pytest.mark.parametrize(("name", "method_name"), ON_SHORT_NETWORKS)
def test_copies(name: str, method_name: str) -> None:
    """By deepcopy, and through the state dict into a network of other weights."""
    model, _, _ = trained(name, method_name)
    x = (SHORT | DEEP)[name].images(5, 2)
    expected = logits_of(model, x)
    assert torch.equal(logits_of(copy.deepcopy(model), x), expected)
    other = SHORT[name].fresh(methods.build(method_name, OPTIONS.get(method_name, {})), seed=1)
    assert not torch.equal(logits_of(other, x), expected)
    other.load_state_dict(model.state_dict())
    assert torch.equal(logits_of(other, x), expected)


@pytest.mark.parametrize("method_name", ["batch_norm", "network_deconvolution", "conv_norm"])
@ON_SHORT
def test_channels_last_and_bfloat16(name: str, method_name: str) -> None:
    """Another memory format changes nothing, and a step in bfloat16 is finite."""
    model, _, _ = trained(name, method_name)
    x = (SHORT | DEEP)[name].images(5, 2)
    expected = logits_of(model, x)
    found = logits_of(
        copy.deepcopy(model).to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    )
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())
    model = copy.deepcopy(model).train()
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(SHORT[name].images(6, 4))
    functional.cross_entropy(logits.float(), torch.arange(4)).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
