"""The training of one run of a sweep, in a process of its own."""

from __future__ import annotations

import os
import signal
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection

from normbench.data import prepared
from normbench.data.prepared import Splits
from normbench.runs import store
from normbench.runs.run import Run
from normbench.runs.train import claim_and_train
from normbench.system import device as devices
from normbench.system import preemption, progress, side_by_side
from normbench.system.errors import UserError

REPORT = 0.3  # seconds between two reports of one run

Tell = Callable[[float, str], None]  # what is done of 1, and free fields


def train_here(run: Run, data: Callable[[], Splits], beside: int, tell: Tell) -> bool:
    """Trains a run into the store in this process, or waits until another has done so; returns whether it was this one.

    beside: processes that share the device with this one, itself included, for the record. tell: called now and then.
    """
    side_by_side.beside = beside
    devices.prepare(devices.choose())
    last = 0.0

    def listen(share: float, fields: str) -> None:
        nonlocal last
        if share >= 1 or time.monotonic() - last >= REPORT:
            last = time.monotonic()
            tell(share, fields)

    progress.listener = listen
    try:
        return claim_and_train(run, data)
    finally:
        progress.listener = None


def outcome(run: Run) -> str:
    """How a finished run ended, in a few words."""
    record = store.record(run.id)
    if record.diverged is not None:
        return f"diverged at step {record.diverged['step']}"
    accuracy = record.metrics.get("clean_accuracy")
    return "finished" if accuracy is None else f"clean accuracy {accuracy:.4f}"


def child(run: Run, data: Splits | None, beside: int, pipe: Connection, parent: int) -> None:
    """What the process of one run does: trains it, and tells through the pipe how that goes.

    data: the run's images, None where it has to read them. parent: the id of the process that started this one.
    Messages are a kind (`running`, `other` where another process trained the run, `failed`), the share that is done,
    and a text.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # On a terminal it reaches all; the parent says what is to be done.
    preemption.forked()
    preemption.watch()

    def tell(share: float, fields: str) -> None:
        if os.getppid() != parent:  # It was killed: nobody would wait for this process.
            signal.raise_signal(signal.SIGTERM)
        else:
            pipe.send(("running", share, fields))

    def images() -> Splits:
        return data if data is not None else prepared.load(run.bound, devices.choose())

    try:
        if not train_here(run, images, beside, tell):
            pipe.send(("other", 1.0, ""))
    except (UserError, OSError) as error:
        pipe.send(("failed", 0.0, str(error)))
        raise SystemExit(1) from None
    except Exception:
        pipe.send(("failed", 0.0, traceback.format_exc()))
        raise SystemExit(1) from None
