"""Processes that read training images while the network is trained."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from normbench.system import preemption, ranks, side_by_side
from normbench.system.errors import UserError
from normbench.system.threads import cores

VARIABLE = "NORMBENCH_WORKERS"
AHEAD = 2  # batches that each process has ready
GRACE = 60  # seconds in which the parent saves its state after SIGTERM


def count() -> int:
    """Returns how many processes read images for this one; no result depends on it.

    They are as many as cores, shared with the runs and processes beside this one, or as the variable NORMBENCH_WORKERS
    says; with 0 this process reads. Raises UserError if that is no whole number.
    """
    given = os.environ.get(VARIABLE)
    if given is None:
        return max(1, cores() // (side_by_side.beside * ranks.beside()))
    if not (given.isascii() and given.isdigit()):
        raise UserError(f"{VARIABLE} = {given!r}: must be a whole number of processes, 0 or more")
    return int(given)


@dataclass
class Work(Dataset):
    """What the processes do: `make` returns a batch by its number, from `first` to `last` - 1.

    A UserError is returned instead of raised, as only its text should pass between processes.
    """

    make: Callable[[int], Tensor]
    last: int

    def __len__(self) -> int:
        return self.last

    def __getitem__(self, number: int) -> Tensor | str:
        try:
            return self.make(number)
        except UserError as error:
            return str(error)


def batches(make: Callable[[int], Tensor], first: int, last: int, processes: int | None = None) -> Iterator[Tensor]:
    """Yields `make(first)` to `make(last - 1)` in this order, made in processes, a few of them ahead.

    make: uses the CPU alone, and no random numbers of torch. processes: how many; None for `count`. With 0 of them it
    is called in this process. The processes end with the iterator, and with this process. Raises UserError if `make`
    does so, or if a process was killed.
    """
    processes = min(count() if processes is None else processes, last - first)
    if processes == 0:
        yield from map(make, range(first, last))
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create")  # more than cores: the user's own choice
        loader: DataLoader[Any] = DataLoader(
            Work(make, last),
            batch_size=None,
            sampler=range(first, last),
            num_workers=processes,
            collate_fn=_as_it_is,
            multiprocessing_context="fork" if sys.platform == "linux" else "spawn",
            prefetch_factor=AHEAD,
            worker_init_fn=Begin(os.getpid()),
            generator=torch.Generator(),  # or it would draw from that of the training
        )
        reading = iter(loader)
    try:
        for made in reading:
            if isinstance(made, str):
                raise UserError(made)
            yield made
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise UserError(
            f"a process that reads images was killed: too little memory? {VARIABLE}={max(1, processes // 2)} needs less"
        ) from None


def _as_it_is(made: Any) -> Any:
    return made


@dataclass
class Begin:
    """Initializes a process that reads images. parent: the id of the process that it reads for.

    Interrupts and SIGTERM often reach all processes of a job at once. The parent then saves its state, for which it may
    need one more batch, and ends this process.
    """

    parent: int

    def __call__(self, worker: int) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self.terminated)
        preemption.end_with(self.parent)

    def terminated(self, number: int, frame: Any) -> None:
        """Ends this process, at once if the parent has ended, and otherwise if it does not do so itself."""
        if os.getppid() != self.parent:
            os._exit(0)
        if hasattr(signal, "alarm"):
            signal.alarm(GRACE)
