"""The training of one classifier. What this file and its imports say shapes a run's outcome, and is in its id."""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from normbench.data.batches import Batches, Images
from normbench.data.labels import corrupt_labels, part_of_each_class
from normbench.methods.base import Method
from normbench.system.seeds import derive
from normbench.training.adversary import inputs
from normbench.training.compilation import compiled
from normbench.training.keeper import Keeper, Nobody
from normbench.training.meter import Meter

REPORTS_AN_EPOCH = 10  # points at which losses are read from the device: for progress, and to see a divergence


@dataclass
class Outcome:
    """history: one entry an epoch. diverged: epoch and step (from 0) of the first loss that was not finite, or None.
    epoch_seconds: wall time of each epoch that one process ran from its start. lr: learning rate at the start of the
    last epoch. seconds: of training, without the saving of its state, those of processes that were stopped included.
    compile_seconds: of `torch.compile`, in no other time. precision: of the training, `float32` or `bfloat16`.
    resumed: the epoch and step (from 0) that this process began with, where another had begun the training."""

    history: list[dict[str, float]] = field(default_factory=list)
    diverged: dict[str, int] | None = None
    epoch_seconds: list[float] = field(default_factory=list)
    lr: float = 0.0
    seconds: float = 0.0
    compile_seconds: float = 0.0
    precision: str = "float32"
    resumed: dict[str, int] | None = None


def training_set(images: Images, task: dict[str, Any], classes: int) -> tuple[Images, dict[str, Any]]:
    """The training images of a resolved task, with its label noise, and what was done to them, for the record."""
    labels = images.labels.cpu().numpy()
    noise, noisy = task.get("label_noise"), labels
    if noise is not None:
        seed = derive(task["seed"], "label_noise")
        noisy = corrupt_labels(labels, noise["fraction"], classes, seed, noise["kind"])
    kept = part_of_each_class(labels, task.get("train_fraction", 1.0), derive(task["seed"], "train_fraction"))
    done = {"images": len(kept), "flipped_labels": float((noisy != labels)[kept].mean())}
    if noise is None and len(kept) == len(labels):
        return images, done
    place = torch.from_numpy(kept).to(images.pixels.device)
    given = torch.from_numpy(noisy[kept]).to(images.labels)
    return dataclasses.replace(images, pixels=images.pixels[place], labels=given), done


def lr_factor(recipe: dict[str, Any], steps_per_epoch: int) -> Callable[[int], float]:
    """Step -> factor on the learning rate, by the recipe's schedule and warm-up."""
    total, warmup = recipe["epochs"] * steps_per_epoch, recipe["warmup_epochs"] * steps_per_epoch

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        match recipe["schedule"]:
            case "cosine":
                return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(total - warmup, 1)))
            case "step":
                passed = sum(step >= milestone * steps_per_epoch for milestone in recipe["milestones"])
                return recipe["gamma"] ** passed
            case _:
                return 1.0

    return factor


def optimizer(model: nn.Module, method: Method, recipe: dict[str, Any]) -> torch.optim.Optimizer:
    """SGD over the method's parameter groups; without `weight_decay_norms`, one-dimensional parameters do not decay."""
    groups = []
    for group in method.param_groups(model, recipe["lr"], recipe["weight_decay"]):
        if recipe["weight_decay_norms"] or "weight_decay" in group:
            groups.append(group)
        else:
            matrices = [p for p in group["params"] if p.dim() > 1]
            vectors = [p for p in group["params"] if p.dim() <= 1]
            groups += [group | {"params": matrices}, group | {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.SGD(
        groups,
        lr=recipe["lr"],
        momentum=recipe["momentum"],
        nesterov=recipe["nesterov"],
        weight_decay=recipe["weight_decay"],
        fused=True,
    )


def autocast(precision: str, device: str) -> AbstractContextManager:
    """bfloat16 for what it is good for, where that is the precision; else nothing."""
    return torch.autocast(device, dtype=torch.bfloat16, enabled=precision == "bfloat16")


def step_loss(
    forward: Callable[[Tensor], Tensor],
    model: nn.Module,
    method: Method,
    x: Tensor,
    y: Tensor,
    recipe: dict[str, Any],
    device: str,
) -> tuple[Tensor, Tensor]:
    """The loss of a batch, penalty included, and its number of right answers, both 0-d on the device.

    forward: the model, or what it was compiled to.
    """
    with autocast(recipe["precision"], device):
        logits = forward(x)
    loss = functional.cross_entropy(logits.float(), y, label_smoothing=recipe["label_smoothing"])
    penalty = method.penalty(model)
    right = (logits.detach().argmax(1) == y).sum()
    return (loss if penalty is None else loss + penalty), right


def fit(
    model: nn.Module,
    method: Method,
    images: Images,
    recipe: dict[str, Any],
    seed: int,
    report: Callable[[int, int, int, float], None],
    keeper: Keeper | None = None,
) -> Outcome:
    """Trains `model` in place on its device; `report(epoch, step, steps, loss)` is called about ten times an epoch.

    recipe: of a task, with the precision that it is trained in; a state that was saved in another one keeps that.

    It goes on from the state that `keeper` has, where it has one, and ends as if it had never stopped. A loss that is
    not finite ends the training, within two tenths of an epoch. Within an epoch the host does not wait for a GPU, but
    for the draws of a PGD adversary and for states that are saved there. Attacks run the model as it is, uncompiled.
    """
    device = images.pixels.device
    batches = Batches(images, recipe["batch_size"], recipe["crop_padding"], recipe["flip"], recipe["drop_last"], seed)
    steps, every = batches.steps, max(1, batches.steps // REPORTS_AN_EPOCH)
    optim = optimizer(model, method, recipe)
    schedule = torch.optim.lr_scheduler.LambdaLR(optim, lr_factor(recipe, steps))
    meter, outcome, keeper = Meter(steps, device), Outcome(), keeper or Nobody()
    first_epoch = first_step = 0
    outcome.precision = recipe["precision"]
    if (saved := keeper.resume()) is not None:
        first_epoch, first_step = saved["epoch"], saved["step"]
        model.load_state_dict(saved["model"])
        optim.load_state_dict(saved["optimizer"])
        schedule.load_state_dict(saved["schedule"])
        meter.load(saved["losses"])
        outcome = Outcome(**saved["outcome"], resumed={"epoch": first_epoch, "step": first_step})
        recipe = recipe | {"precision": outcome.precision}  # it began elsewhere, with another choice
    forward: Callable[[Tensor], Tensor] = model
    if recipe["compile"] is not None:
        context = functools.partial(autocast, recipe["precision"], device.type)
        moving = recipe["adversary"] is not None and recipe["adversary"]["kind"] == "free"  # by the images' gradient
        forward, seconds = compiled(model, recipe["compile"], batches, context, moving)
        outcome.compile_seconds += seconds
    earlier, began = outcome.seconds, time.perf_counter()

    def save(epoch: int, step: int) -> None:
        """What is to be known to go on before a step of an epoch."""
        outcome.seconds = earlier + time.perf_counter() - began - keeper.spent
        state = {"epoch": epoch, "step": step, "losses": meter.state()}
        state |= {"model": model.state_dict(), "optimizer": optim.state_dict(), "schedule": schedule.state_dict()}
        done = {name: value for name, value in vars(outcome).items() if name not in ("diverged", "resumed")}
        keeper.save(state | {"outcome": done})

    model.train()
    for epoch in range(first_epoch, recipe["epochs"]):
        start, spent = time.perf_counter(), keeper.spent
        if first_step == 0:
            meter.reset()
            outcome.lr = float(schedule.get_last_lr()[0])
        for step, (pixels, y) in enumerate(batches.pixels(epoch, first_step), first_step):
            for x in inputs(model, images, pixels, y, recipe["adversary"], derive(seed, "adversary", epoch, step)):
                loss, right = step_loss(forward, model, method, x, y, recipe, device.type)
                optim.zero_grad(set_to_none=True)
                loss.backward()
                if recipe["gradient_clip"] is not None:
                    nn.utils.clip_grad_norm_(model.parameters(), recipe["gradient_clip"])
                optim.step()
            schedule.step()
            meter.add(loss.detach(), right)
            last = step + 1 == steps
            if (step + 1) % every == 0 or last:
                losses = meter.read(wait=last)
                bad = next((i for i, value in enumerate(losses) if not math.isfinite(value)), None)
                if bad is not None:
                    outcome.diverged = {"epoch": epoch, "step": epoch * steps + bad}
                    outcome.seconds = earlier + time.perf_counter() - began - keeper.spent
                    return outcome
                if losses:
                    report(epoch, step + 1, steps, sum(losses[-every:]) / len(losses[-every:]))
            if not last and keeper.due():
                save(epoch, step + 1)
        if first_step == 0:
            outcome.epoch_seconds.append(time.perf_counter() - start - (keeper.spent - spent))
        seen = min(steps * recipe["batch_size"], len(images))
        mean, accuracy = math.fsum(losses) / steps, meter.right() / seen
        outcome.history.append({"epoch": epoch + 1, "lr": outcome.lr, "loss": mean, "accuracy": accuracy})
        first_step = 0
        save(epoch + 1, 0)
    return outcome
