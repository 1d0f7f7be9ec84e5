"""The optimizer of a classifier, its learning-rate schedule, and the loss of a batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from normbench.methods.base import START, Method, Moment
from normbench.training.recipe import Recipe


def lr_factor(recipe: Recipe, steps_per_epoch: int) -> Callable[[int], float]:
    """A function from the step (from 0) to the factor on the learning rate: the recipe's warm-up and schedule."""
    total, warmup = recipe.epochs * steps_per_epoch, recipe.warmup_epochs * steps_per_epoch

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        match recipe.schedule:
            case "cosine":
                return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(total - warmup, 1)))
            case "step":
                passed = sum(step >= milestone * steps_per_epoch for milestone in recipe.milestones)
                return recipe.gamma**passed
            case _:
                return 1.0

    return factor


def optimizer(model: nn.Module, method: Method, recipe: Recipe) -> torch.optim.Optimizer:
    """SGD over the method's parameter groups.

    Unless the recipe sets `weight_decay_norms`, one-dimensional parameters (norms, biases) have no weight decay, except
    in groups for which the method chooses a weight decay itself.
    """
    groups = []
    for group in method.param_groups(model, recipe.lr, recipe.weight_decay):
        if recipe.weight_decay_norms or "weight_decay" in group:
            groups.append(group)
        else:
            matrices = [p for p in group["params"] if p.dim() > 1]
            vectors = [p for p in group["params"] if p.dim() <= 1]
            groups += [group | {"params": matrices}, group | {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.SGD(
        groups,
        lr=recipe.lr,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        weight_decay=recipe.weight_decay,
        fused=True,
    )


def restore(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Loads the saved state of an optimizer. Its tensors take the strides of their parameters.

    Those may differ from where the state was saved, because another machine or version chose another memory format, and
    the fused optimizers of CUDA refuse state with other strides.
    """
    optimizer.load_state_dict(state)
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                values[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def autocast(precision: str, device: str) -> AbstractContextManager:
    """A context that autocasts to bfloat16 if that is the precision, and otherwise changes nothing."""
    return torch.autocast(device, dtype=torch.bfloat16, enabled=precision == "bfloat16")


def step_loss(
    forward: Callable[[Tensor], Tensor],
    model: nn.Module,
    method: Method,
    x: Tensor,
    y: Tensor,
    recipe: Recipe,
    moment: Moment = START,
) -> tuple[Tensor, Tensor]:
    """The loss of a batch, including the method's penalty, and the number of correct predictions, both 0-d.

    forward: the model or its compiled forward pass. x: normalized images (B, C, H, W). y: labels, int64 (B,).
    moment: the time of the step, for the penalty.
    """
    with autocast(recipe.precision, x.device.type):
        logits = forward(x)
    loss = functional.cross_entropy(logits.float(), y, label_smoothing=recipe.label_smoothing)
    penalty = method.penalty(model, moment)
    right = (logits.detach().argmax(1) == y).sum()
    return (loss if penalty is None else loss + penalty), right
