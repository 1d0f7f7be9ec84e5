"""A batch that is divided among replicas of the network, or among several processes, or both.

`recipe.replicas` says how many parts of a batch have statistics of their own, as on as many GPUs with `torch`'s
DistributedDataParallel: gradients are averaged over the parts, and the running statistics are those of the first part.
With one replica the statistics are of the whole batch. Both hold for any number of processes (see
`normbench.system.ranks`): several replicas in one process are computed one after the other, and the processes of one
replica sum their statistics (see `normbench.functional.joined`). So the number of processes shapes no result beyond
rounding, and is in no id. Random draws within the network, such as dropout, have a seed for each step and part.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.dropout import _DropoutNd

from normbench.functional.joined import Joined, joining, taking_part
from normbench.methods.base import Moment
from normbench.system import ranks
from normbench.system.errors import UserError
from normbench.system.seeds import derive
from normbench.training.keeper import Keeper

if TYPE_CHECKING:
    from normbench.training.loop import Training

CLOSE = 1e-6  # in float64, relative to the largest output
PROBED = 2  # images of each process with which a network is tried


@dataclass(frozen=True)
class Part:
    """The images of one replica, or of one process of several.

    number: of the part, from 0. start, end: its rows in the batch. pixels: uint8 (B, C, H, W). labels: (B, ...).
    """

    number: int
    start: int
    end: int
    pixels: Tensor
    labels: Tensor


class Division:
    """The division of each batch of a training among replicas and processes. replicas: that of the recipe.

    Raises UserError if the processes cannot share the replicas equally.
    """

    def __init__(self, replicas: int):
        self.rank, self.processes, self.replicas = ranks.rank(), ranks.size(), replicas
        if replicas > 1 and replicas % self.processes:
            raise UserError(f"recipe.replicas = {replicas}: {self.processes} processes cannot share them equally")
        self.parts = max(replicas, self.processes)
        self.joins, self.tried = replicas == 1, False

    @property
    def rows(self) -> tuple[int, int]:
        """The part of each batch, and the number of parts, that this process loads."""
        return self.rank, self.processes

    def keeper(self, keeper: Keeper) -> Keeper | SharedKeeper:
        """A keeper for this process: the first one alone reads and writes files."""
        return keeper if self.processes == 1 else SharedKeeper(keeper)

    def backward(
        self, training: Training, pixels: Tensor, labels: Tensor, moment: Moment, seed: int, size: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the loss and the number of correct predictions of the whole batch, 0-d, for each pass over it.

        pixels, labels: the rows that this process has loaded. size: of the whole batch. The gradients of the parameters
        are those of the whole batch then. seed: of an adversary.
        """
        parts = self.divided(pixels, labels, size)
        if self.joins and not self.tried:
            self.check(training.model, pixels)
        passes = [training.passes(p.pixels, p.labels, moment, derive(seed, "part", p.number)) for p in parts]
        for inputs in zip(*passes, strict=True):
            training.optimizer.zero_grad(set_to_none=True)
            shares = self.shares([training.counted(part.labels) for part in parts], size)
            sums = torch.zeros(2, device=pixels.device)
            # The first part is the last to be computed, as the state that it leaves is kept.
            for part, x, share in reversed(list(zip(parts, inputs, shares, strict=True))):
                torch.manual_seed(derive(moment.seed, "part", part.number))
                with ExitStack() as within:
                    if self.joins:
                        within.enter_context(joining(Joined(part.start, len(part.labels), size, self.processes)))
                        within.enter_context(taking_part(training.model))
                    elif part is not parts[0]:
                        within.enter_context(state_kept(training.model))
                    loss, right = training.loss_of(x, part.labels, moment)
                    loss = loss * share
                    loss.backward()
                sums += torch.stack([loss.detach().float(), (right * share if training.averages else right).float()])
            if self.processes > 1:
                sums = self.summed(training.model, sums)
            yield sums[0], sums[1]

    def divided(self, pixels: Tensor, labels: Tensor, size: int) -> list[Part]:
        """The parts of the batch that this process computes. Raises UserError if a part would have no image."""
        if size < self.parts:
            raise UserError(
                f"recipe.drop_last: a batch of {size} images cannot be divided into {self.parts} parts; "
                "set it to true, or choose another batch size"
            )
        of_process = self.parts // self.processes
        first = size * self.rank // self.processes
        found = []
        for number in range(self.rank * of_process, (self.rank + 1) * of_process):
            start, end = size * number // self.parts, size * (number + 1) // self.parts
            rows = slice(start - first, end - first)
            found.append(Part(number, start, end, pixels[rows], labels[rows]))
        return found

    def shares(self, counts: list[Tensor | int], size: int) -> list[Tensor | float]:
        """The share of each part here in the loss of the whole batch. counts: what the loss of each is the mean over.

        size: of the whole batch, which numbers, and not tensors, are counts of.
        """
        if all(isinstance(count, int) for count in counts):
            return [count / size for count in counts]
        total = torch.stack([torch.as_tensor(count, dtype=torch.float32) for count in counts]).sum()
        if self.processes > 1:
            distributed.all_reduce(total)
        return [count / total.clamp(min=1) for count in counts]

    def summed(self, model: nn.Module, sums: Tensor) -> Tensor:
        """Sums the gradients of all parameters, and the numbers `sums`, over the processes; returns the latter.

        With replicas, all processes then have the buffers of the first one.
        """
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        flat = torch.cat([sums, *(gradient.flatten() for gradient in gradients)])
        distributed.all_reduce(flat)
        sums, *found = flat.split([len(sums), *(gradient.numel() for gradient in gradients)])
        torch._foreach_copy_(gradients, [each.view(own.shape) for each, own in zip(found, gradients, strict=True)])
        if not self.joins:
            for buffer in model.buffers():
                distributed.broadcast(buffer, 0)
        return sums

    def check(self, model: nn.Module, pixels: Tensor) -> None:
        """Raises UserError unless all layers with batch statistics take these over the images of all processes.

        It is tried: a copy of the network computes random images by itself, and with the others.
        """
        self.tried = True
        if self.processes == 1:
            return
        copied = copy.deepcopy(model).double().train()
        for layer in copied.modules():
            if isinstance(layer, _DropoutNd):
                layer.eval()
        generator = torch.Generator().manual_seed(0)
        shape = (PROBED * self.processes, *pixels.shape[1:])
        images = torch.randn(shape, generator=generator, dtype=torch.float64).to(pixels.device)
        mine = slice(PROBED * self.rank, PROBED * (self.rank + 1))
        state = copy.deepcopy(copied.state_dict())
        with torch.no_grad():
            alone = outputs(copied(images))[mine]
            copied.load_state_dict(state)
            with joining(Joined(PROBED * self.rank, PROBED, len(images), self.processes)), taking_part(copied):
                together = outputs(copied(images[mine]))
        same = bool((alone - together).abs().max() <= CLOSE * alone.abs().max())
        if ranks.any_of(not same):
            raise UserError(
                "recipe.replicas = 1: a layer of this method has batch statistics that processes cannot share; "
                f"set it to {self.processes} for statistics of each process"
            )

    def same(self, value: Any) -> Any:
        """The value that the first process has, for a decision that all processes must make alike."""
        return ranks.same(value)


def division(replicas: int) -> Division | None:
    """The division of the batches of a recipe; None for one replica in one process, which needs none."""
    return Division(replicas) if replicas > 1 or ranks.size() > 1 else None


def outputs(found: Any) -> Tensor:
    """The first output of a network that may have several."""
    return found[0] if isinstance(found, tuple) else found


@contextmanager
def state_kept(model: nn.Module) -> Iterator[None]:
    """A context at whose end the buffers of a network, and what else its layers keep, are as they were."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    kept = nn.Module.get_extra_state
    others = [layer for layer in model.modules() if type(layer).get_extra_state is not kept]
    extra = [copy.deepcopy(layer.get_extra_state()) for layer in others]
    try:
        yield
    finally:
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
        for layer, state in zip(others, extra, strict=True):
            layer.set_extra_state(state)


class SharedKeeper:
    """A Keeper of which the first process alone reads and writes files; the others get what it has read."""

    def __init__(self, keeper: Keeper):
        self.own = keeper

    @property
    def spent(self) -> float:
        return self.own.spent

    def resume(self) -> dict[str, Any] | None:
        return ranks.first_only(self.own.resume)

    def due(self) -> bool:
        return ranks.any_of(self.own.due())

    def save(self, state: dict[str, Any]) -> None:
        ranks.first_only(lambda: self.own.save(state))
