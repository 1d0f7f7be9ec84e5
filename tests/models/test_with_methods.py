"""Every method trains every family of models, and what it trained can be copied and stored."""

from __future__ import annotations

import copy
import functools
import re

import pytest
import torch
from torch import nn
from torch.nn import functional

from normbench.methods import registry as methods
from tests.models.networks import CLASSES, ON_NARROW, built, images, logits_of

ON_EACH_METHOD = pytest.mark.parametrize("method_name", methods.names())

# He's initialization alone lets deep residual branches grow beyond what a step can train.
OPTIONS = {"no_norm": {"residual_gain": 0.1}}
# Parameters whose gradient is zero, but for rounding: constants that the normalization after them takes away.
CANCELLED = {"conv_norm": r"affine\.bias$", "network_deconvolution": r"\.bias$"}
STEPS = {"fixup": 5}  # classifier and ends of branches start at zero, so that gradients come to the rest one by one
GATE = r"\.gate\."  # the ReLU in a gate has few units, which may all be off


@functools.cache
def trained(name: str, method_name: str) -> tuple[nn.Module, dict[str, float], list[float]]:
    """A network after two steps or more, the largest absolute gradient of each parameter in them, and the losses."""
    if (name, method_name) == ("densenet121", "fixup"):
        pytest.skip("without residual branches there is nothing that Fixup makes small, and 120 layers explode")
    method = methods.build(method_name, OPTIONS.get(method_name, {}))
    model = built(name, method).train()
    optim = torch.optim.SGD(method.param_groups(model, lr=0.01, weight_decay=0.0), lr=0.01)
    largest: dict[str, float] = {}
    losses = []
    for seed in range(STEPS.get(method_name, 2)):
        loss = functional.cross_entropy(model(images(seed)), torch.arange(8) % CLASSES)
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


@ON_EACH_METHOD
@ON_NARROW
def test_training_reaches_every_parameter(name: str, method_name: str) -> None:
    model, largest, losses = trained(name, method_name)
    assert torch.tensor(losses).isfinite().all()
    allowed = "|".join([GATE, *([CANCELLED[method_name]] if method_name in CANCELLED else [])])
    assert [key for key, value in largest.items() if value == 0 and not re.search(allowed, key)] == []
    if name == "senet18":
        gates = [value for key, value in largest.items() if re.search(GATE, key)]
        assert sum(value > 0 for value in gates) > len(gates) / 2
    x = images(5)
    expected = logits_of(model, x)
    assert expected.shape == (8, CLASSES)
    assert expected.isfinite().all()
    assert torch.equal(logits_of(model, x), expected)


@ON_EACH_METHOD
@ON_NARROW
def test_copies(name: str, method_name: str) -> None:
    """By deepcopy, and through the state dict into a network of other weights."""
    model, _, _ = trained(name, method_name)
    x = images(5, 2)
    expected = logits_of(model, x)
    assert torch.equal(logits_of(copy.deepcopy(model), x), expected)
    fresh = built(name, methods.build(method_name, OPTIONS.get(method_name, {})), seed=1)
    assert not torch.equal(logits_of(fresh, x), expected)
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(logits_of(fresh, x), expected)


@pytest.mark.parametrize("method_name", ["batch_norm", "network_deconvolution", "conv_norm"])
@ON_NARROW
def test_channels_last_and_bfloat16(name: str, method_name: str) -> None:
    """Another memory format changes nothing, and a step in bfloat16 is finite."""
    model, _, _ = trained(name, method_name)
    x = images(5, 2)
    expected = logits_of(model, x)
    found = logits_of(
        copy.deepcopy(model).to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    )
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())
    model = copy.deepcopy(model).train()
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(images(6, 4))
    functional.cross_entropy(logits.float(), torch.arange(4)).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
