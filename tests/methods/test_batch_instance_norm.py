"""Batch-Instance Normalization against its formula, and how its gates are trained."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from normbench.methods.base import ConvSpec, Role
from normbench.methods.batch_instance_norm import BatchInstanceNorm, BatchInstanceNorm2d
from tests.support.norms import by_map, follows, images, ready

EPS = 1e-5


def layer(gate: float = 0.3) -> BatchInstanceNorm2d:
    made = ready(BatchInstanceNorm2d(8, EPS, 0.1))
    with torch.no_grad():
        made.gate.copy_(gate + 0.05 * torch.arange(8))
    return made


def formula(layer: nn.Module, x: Tensor) -> Tensor:
    def value(plane: Tensor, n: int, c: int) -> Tensor:
        pool = x[:, c]
        mean, variance = pool.mean(), ((pool - pool.mean()) ** 2).mean()
        if not layer.training:
            mean, variance = layer.running_mean[c], layer.running_var[c]
        of_batch = (plane - mean) / (variance + EPS) ** 0.5
        of_instance = (plane - plane.mean()) / (((plane - plane.mean()) ** 2).mean() + EPS) ** 0.5
        return layer.weight[c] * (layer.gate[c] * of_batch + (1 - layer.gate[c]) * of_instance) + layer.bias[c]

    return by_map(x, value)


def test_formula() -> None:
    made = layer()
    for seed in range(2):
        assert follows(made, formula, images(seed=seed))
    assert follows(made, formula, images(size=(1, 1)))
    assert follows(made.eval(), formula, images(1))


def test_running_statistics_are_those_of_batch_norm() -> None:
    made, reference = layer(), nn.BatchNorm2d(8).double()
    for seed in range(3):
        made(images(seed=seed)), reference(images(seed=seed))
    assert torch.allclose(made.running_mean, reference.running_mean, rtol=1e-12)
    assert torch.allclose(made.running_var, reference.running_var, rtol=1e-12)


def test_gates_at_the_ends_give_one_norm_or_the_other() -> None:
    x, made = images(), BatchInstanceNorm2d(8, EPS, 0.1).double()
    assert torch.allclose(made(x), nn.BatchNorm2d(8).double()(x), atol=1e-12)
    with torch.no_grad():
        made.gate.zero_()
    assert torch.allclose(made(x), nn.InstanceNorm2d(8).double()(x), atol=1e-12)


def test_gates_are_clipped_after_a_step_and_still_learn() -> None:
    made, x = layer(), images()
    with torch.no_grad():
        made.gate[0], made.gate[1] = 1.5, -0.5
    evaluated = made.eval()(x)
    assert made.gate[0] == 1.5  # evaluation changes nothing
    made.train()(x).sum().backward()
    assert (made.gate[0], made.gate[1]) == (1, 0)
    made.running_mean.zero_(), made.running_var.fill_(1)
    assert torch.equal(made.eval()(x), evaluated)
    inside = layer()
    (inside.train()(x) * x).sum().backward()
    outside = layer()
    with torch.no_grad():
        outside.gate[0] += 9
    (outside(x) * x).sum().backward()
    assert outside.gate.grad[0] != 0  # as if the optimizer had clipped it, which a clipping in the formula would cut
    assert torch.allclose(outside.gate.grad[1:], inside.gate.grad[1:])


def test_two_forward_passes_before_the_backward_pass() -> None:
    """As the discriminator of a GAN has them."""
    made = layer(0.9)  # some gates are above 1
    (made(images()).square().sum() + made(images(seed=1)).square().sum()).backward()
    assert made.gate.grad.isfinite().all()


def test_gates_learn_faster_and_do_not_decay() -> None:
    method = BatchInstanceNorm()
    model = nn.Sequential(
        method.conv(ConvSpec(3, 4, 3, Role("stem"))), method.norm(4, role=Role("stem")), nn.Flatten(), nn.LazyLinear(2)
    )
    model(torch.zeros(2, 3, 4, 4))
    rest, gates = method.param_groups(model, 0.1, 5e-4)
    assert gates == {"params": [model[1].gate], "lr": 1.0, "weight_decay": 0.0}
    assert len(rest["params"]) + 1 == len(list(model.parameters()))
