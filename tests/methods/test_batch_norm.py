"""The options of batch norm: parts of a batch, the average over all steps, and freezing."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import Tensor, nn

from normbench.evaluation import fold
from normbench.evaluation.batch_statistics import with_batch_statistics
from normbench.methods.base import Moment, Role
from normbench.methods.batch_norm import BatchNorm, VariedBatchNorm2d
from normbench.models.registry import classifier
from tests.support.norms import follows, images, ready, step

ROLE = Role("body")


def layer(**options: object) -> nn.Module:
    return ready(BatchNorm(**options).norm(8, role=ROLE))


def of_parts(sizes: tuple[int, ...]) -> object:
    """The formula for parts of these sizes, in their order."""

    def formula(layer: nn.Module, x: Tensor) -> Tensor:
        done = []
        for part in x.split(sizes):
            mean = part.mean((0, 2, 3), keepdim=True)
            variance = ((part - mean) ** 2).mean((0, 2, 3), keepdim=True)
            done.append((part - mean) / (variance + 1e-5) ** 0.5)
        return torch.cat(done) * layer.weight[:, None, None] + layer.bias[:, None, None]

    return formula


def test_by_default_it_is_that_of_torch() -> None:
    made = BatchNorm().norm(8, role=ROLE)
    assert type(made) is nn.BatchNorm2d
    assert (made.eps, made.momentum) == (1e-5, 0.1)


@pytest.mark.parametrize(("count", "sizes"), [(8, (4, 4)), (5, (3, 2)), (4, (4,)), (9, (3, 3, 3)), (1, (1,))])
def test_ghost_batches(count: int, sizes: tuple[int, ...]) -> None:
    """No part is larger than asked for, and none much smaller than the others."""
    made, x = layer(ghost_batch=4), images(count)
    assert follows(made, of_parts(sizes), x)
    parts = x.split(sizes)
    mean = sum(part.mean((0, 2, 3)) for part in parts) / len(parts)
    variance = sum(part.transpose(0, 1).flatten(1).var(1) for part in parts) / len(parts)
    assert torch.allclose(made.running_mean, 0.1 * mean, rtol=1e-12)
    assert torch.allclose(made.running_var, 0.9 + 0.1 * variance, rtol=1e-12)


def test_evaluation_with_ghost_batches_is_that_of_batch_norm() -> None:
    made, plain = layer(ghost_batch=2), ready(nn.BatchNorm2d(8))
    made(images())
    plain.load_state_dict({key: value for key, value in made.state_dict().items() if "extra" not in key})
    assert torch.equal(made.eval()(images(seed=1)), plain.eval()(images(seed=1)))


@pytest.mark.parametrize("ghost_batch", [None, 2])
def test_the_mean_over_all_steps(ghost_batch: int | None) -> None:
    made = layer(momentum=None, ghost_batch=ghost_batch)
    means, variances = [], []
    for seed in range(4):
        x = images(6, seed=seed)
        made(x)
        parts = x.split(ghost_batch or 6)
        means += [part.mean((0, 2, 3)) for part in parts]
        variances += [part.transpose(0, 1).flatten(1).var(1) for part in parts]
    assert torch.allclose(made.running_mean, torch.stack(means).mean(0), rtol=1e-10)
    assert torch.allclose(made.running_var, torch.stack(variances).mean(0), rtol=1e-10)
    if ghost_batch is None:
        reference = ready(nn.BatchNorm2d(8, momentum=None))
        for seed in range(4):
            expected = reference(images(6, seed=seed))
        assert torch.allclose(reference.running_var, made.running_var, rtol=1e-10)
        assert torch.allclose(expected, layer(momentum=None)(images(6, seed=3)))


# --- freezing --------------------------------------------------------------------------------------------------------


def network(**options: object) -> tuple[BatchNorm, nn.Module]:
    torch.manual_seed(0)
    method = BatchNorm(**options)
    return method, classifier("resnet8", {"width": 4}, method, 1, 3)


def train(method: BatchNorm, model: nn.Module, optim: torch.optim.Optimizer, at: int, steps: int, each: int) -> None:
    """Trains steps `at` to `steps`, of which an epoch has `each`."""
    model.train()
    for number in range(at, steps):
        x = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(number))
        loss = nn.functional.cross_entropy(model(x), torch.arange(6) % 3)
        assert method.penalty(model, Moment(number // each, 9, number)) is None
        optim.zero_grad(set_to_none=True)
        loss.backward()
        optim.step()


def norms(model: nn.Module) -> dict[str, Tensor]:
    names = [name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]
    state = model.state_dict()
    return {key: state[key].clone() for key in state if key.rpartition(".")[0] in names and "extra" not in key}


def sgd(model: nn.Module) -> torch.optim.SGD:
    """With all that moves a parameter without a gradient, if it is given one of zero."""
    return torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=0.1)


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, other[key]) for key, value in one.items())


@pytest.mark.parametrize(("unit", "last"), [("steps", 3), ("epochs", 7)])
def test_frozen_after_a_number_of_steps_or_epochs(unit: str, last: int) -> None:
    """Bit for bit as without it until then, and nothing of the norms changes from then on."""
    method, model = network(freeze_after=3, freeze_unit=unit)
    plain_method, plain = network()
    optims = sgd(model), sgd(plain)
    train(method, model, optims[0], 0, last - 1, 2)
    train(plain_method, plain, optims[1], 0, last - 1, 2)
    assert same(norms(plain), norms(model))
    train(plain_method, plain, optims[1], last - 1, last, 2)
    train(method, model, optims[0], last - 1, last, 2)
    frozen, weights = norms(model), model.conv.weight.clone()
    assert same(frozen, norms(plain))
    train(method, model, optims[0], last, last + 3, 2)
    assert same(frozen, norms(model))
    assert not torch.equal(model.conv.weight, weights)


def test_a_frozen_layer_normalizes_with_its_running_statistics() -> None:
    made = layer(freeze_after=1)
    made(images()), made(images(seed=1))
    made.freeze()
    x = images(seed=2)
    expected = step(copy.deepcopy(made).eval(), x, [])
    found = step(made.train(), x, [])
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    made(x.requires_grad_()).sum().backward()
    assert made.weight.grad is made.bias.grad is None


def test_frozen_layers_are_stored_as_such() -> None:
    method, model = network(freeze_after=2, freeze_unit="steps")
    optim = sgd(model)
    train(method, model, optim, 0, 3, 2)
    file = io.BytesIO()
    torch.save([model.state_dict(), optim.state_dict()], file)
    file.seek(0)
    state, momentum = torch.load(file, weights_only=True)
    _, resumed = network(freeze_after=2, freeze_unit="steps")
    fresh = copy.deepcopy(resumed.state_dict())
    again = sgd(resumed)
    resumed.load_state_dict(state), again.load_state_dict(momentum)
    train(method, model, optim, 3, 5, 2)
    train(method, resumed, again, 3, 5, 2)
    assert same({k: v for k, v in model.state_dict().items() if "extra" not in k}, resumed.state_dict())
    resumed.load_state_dict(fresh)
    assert all(module.momentum == 0.1 for module in resumed.modules() if isinstance(module, VariedBatchNorm2d))


# --- in an evaluation ------------------------------------------------------------------------------------------------

VARIANTS = [{"ghost_batch": 4}, {"momentum": None}, {"freeze_after": 1, "freeze_unit": "steps"}]


@pytest.mark.parametrize("options", VARIANTS)
def test_networks_fold(options: dict) -> None:
    method, model = network(**options)
    train(method, model, sgd(model), 0, 3, 2)
    model.eval()
    folded = fold(model)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    x = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(folded(x), model(x), atol=1e-5)


@pytest.mark.parametrize("options", [*VARIANTS, {"momentum": None, "ghost_batch": 100}])
def test_statistics_of_test_batches(options: dict) -> None:
    """They are mixed in as for batch norm, whatever the layer does in training."""
    made = layer(**options)
    made(images(8))
    if "freeze_after" in options:
        made.freeze()
    plain = ready(nn.BatchNorm2d(8))
    plain.load_state_dict({key: value for key, value in made.state_dict().items() if "extra" not in key})
    x = images(4, seed=1)
    mixed = with_batch_statistics(made, 4.0)
    expected = with_batch_statistics(plain, 4.0)(x)
    for _ in range(2):
        assert torch.allclose(mixed(x), expected, rtol=1e-10)
