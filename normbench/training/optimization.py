"""The optimizer of a classifier, its schedule, and the loss of a batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from torch.nn import functional

from normbench.methods.base import Method
from normbench.training.recipe import Recipe


def lr_factor(recipe: Recipe, steps_per_epoch: int) -> Callable[[int], float]:
    """Step -> factor on the learning rate, by the recipe's schedule and warm-up."""
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
    """SGD over the method's parameter groups; without `weight_decay_norms`, one-dimensional parameters do not decay."""
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


def autocast(precision: str, device: str) -> AbstractContextManager:
    """Autocast to bfloat16 where that is the precision; otherwise a context that changes nothing."""
    return torch.autocast(device, dtype=torch.bfloat16, enabled=precision == "bfloat16")


def step_loss(
    forward: Callable[[Tensor], Tensor],
    model: nn.Module,
    method: Method,
    x: Tensor,
    y: Tensor,
    recipe: Recipe,
) -> tuple[Tensor, Tensor]:
    """The loss of a batch, penalty included, and its number of right answers, both 0-d on the device.

    forward: the model, or what it was compiled to. x: normalized images (B, C, H, W). y: labels (B,).
    """
    with autocast(recipe.precision, x.device.type):
        logits = forward(x)
    loss = functional.cross_entropy(logits.float(), y, label_smoothing=recipe.label_smoothing)
    penalty = method.penalty(model)
    right = (logits.detach().argmax(1) == y).sum()
    return (loss if penalty is None else loss + penalty), right
