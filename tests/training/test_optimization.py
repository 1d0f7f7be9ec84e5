"""Schedules, parameter groups and the loss of a batch, against numbers worked out by hand."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from normbench.methods.base import START, Method, Moment
from normbench.training.optimization import autocast, lr_factor, optimizer, step_loss
from tests.support.subjects import recipe


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"schedule": "constant"}, [1, 1, 1, 1, 1, 1, 1, 1]),
        ({"schedule": "cosine"}, [0.5 * (1 + math.cos(math.pi * step / 8)) for step in range(8)]),
        ({"schedule": "step", "milestones": [1.0, 2.5], "gamma": 0.5}, [1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25]),
        # The warm-up of two steps comes first, and the cosine is over the six that are left.
        (
            {"schedule": "cosine", "warmup_epochs": 1.0},
            [1 / 3, 2 / 3, *(0.5 * (1 + math.cos(math.pi * step / 6)) for step in range(6))],
        ),
        ({"schedule": "constant", "warmup_epochs": 1.5}, [0.25, 0.5, 0.75, 1, 1, 1, 1, 1]),
    ],
)
def test_schedules(settings: dict, expected: list[float]) -> None:
    """Four epochs of two steps."""
    factor = lr_factor(recipe(epochs=4, **settings), 2)
    assert [factor(step) for step in range(8)] == pytest.approx(expected)


@dataclass(frozen=True)
class Split(Method):
    """The first layer has a learning rate of its own, and the norm a weight decay of its own."""

    def param_groups(self, model: nn.Module, lr: float, weight_decay: float) -> list[dict]:
        first, norm, last = model
        return [
            {"params": [*first.parameters()], "lr": 2 * lr},
            {"params": [*norm.parameters()], "weight_decay": 3 * weight_decay},
            {"params": [*last.parameters()]},
        ]


@pytest.mark.parametrize("decayed", [True, False])
def test_what_decays(decayed: bool) -> None:
    """Without `weight_decay_norms` parameters of one dimension do not, unless the method says how much they do."""
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1))
    optim = optimizer(model, Split(), recipe(lr=0.1, weight_decay=0.01, weight_decay_norms=decayed))
    found = {
        id(parameter): (group["lr"], group["weight_decay"])
        for group in optim.param_groups
        for parameter in group["params"]
    }
    of_vectors = 0.01 if decayed else 0.0
    expected = {
        "0.weight": (0.2, 0.01),
        "0.bias": (0.2, of_vectors),
        "1.weight": (0.1, 0.03),
        "1.bias": (0.1, 0.03),
        "2.weight": (0.1, 0.01),
        "2.bias": (0.1, of_vectors),
    }
    assert {name: found[id(parameter)] for name, parameter in model.named_parameters()} == expected


@dataclass(frozen=True)
class Taxed(Method):
    def penalty(self, model: nn.Module, moment: Moment = START) -> Tensor:
        return torch.tensor(0.25)


def test_the_loss_of_a_batch() -> None:
    """Smoothed cross-entropy by its definition, the penalty, and how many are right."""
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 0.5], [0.3, 0.2, 0.1]])
    labels = torch.tensor([0, 2, 0])
    logs = logits.double().log_softmax(1)
    target = torch.full((3, 3), 0.3 / 3, dtype=torch.float64)
    target[range(3), labels] += 0.7
    expected = -(target * logs).sum(1).mean().item()
    model = nn.Identity()
    for method, more in ((Method(), 0.0), (Taxed(), 0.25)):
        loss, right = step_loss(model, model, method, logits, labels, recipe(label_smoothing=0.3))
        assert loss.item() == pytest.approx(expected + more, rel=1e-6)
        assert right.item() == 2


def test_precision_is_what_the_recipe_says() -> None:
    layer, x = nn.Linear(4, 4), torch.randn(2, 4)
    for precision, kind in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        with autocast(precision, "cpu"):
            assert layer(x).dtype == kind
