"""The training of one run of a sweep, in its own process."""

from __future__ import annotations

import signal
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection

from normbench.data import intact
from normbench.runs import images as of_runs
from normbench.runs import store
from normbench.runs.images import Data
from normbench.runs.run import Run
from normbench.runs.train import claim_and_train
from normbench.suite import code
from normbench.system import blame, preemption, progress, side_by_side
from normbench.system import device as devices
from normbench.system.errors import UserError, line

REPORT = 0.3  # least seconds between two reports of one run

Tell = Callable[[float, str], None]  # called with the finished share, 0..1, and free text


def train_here(run: Run, data: Callable[[], Data], beside: int, tell: Tell) -> bool:
    """Trains a run into the store in this process; if another process is training it, waits for that instead.

    Returns whether this process trained it. beside: the number of processes that share the device, this one included,
    for the record. tell: receives the progress, at most every `REPORT` seconds.
    """
    problem = code.problem(run)
    if problem:
        raise UserError(problem)
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
    """Returns how a finished run ended, in a few words."""
    record = store.record(run.id)
    if record.diverged is not None:
        return f"diverged at step {record.diverged['step']}"
    if (iou := record.metrics.get("mean_iou")) is not None:
        return f"mean IoU {iou:.4f}"
    accuracy = record.metrics.get("clean_accuracy")
    images = "clean" if record.provenance.dataset.validation is None else "validation"
    return "finished" if accuracy is None else f"{images} accuracy {accuracy:.4f}"


def child(run: Run, data: Data | None, beside: int, pipe: Connection, parent: int) -> None:
    """The main function of a run's process: trains the run and sends messages about it through the pipe.

    data: the run's images, or None if this process has to read them. parent: the id of the process that started this
    one. A message is a kind (`running`, `other` if another process trained the run, `failed`), the finished share and a
    text.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; the parent handles it.
    preemption.forked()
    preemption.watch()
    preemption.end_with(parent)

    def tell(share: float, fields: str) -> None:
        with suppress(BrokenPipeError):  # The parent has ended, and so will this process once its state is saved.
            pipe.send(("running", share, fields))

    def images() -> Data:
        if data is not None:
            return data
        intact.check_bound(run.bound)
        return of_runs.load(run.bound, devices.choose())

    try:
        if not train_here(run, images, beside, tell):
            pipe.send(("other", 1.0, ""))
    except (UserError, OSError) as error:
        pipe.send(("failed", 0.0, line(error) if isinstance(error, OSError) else str(error)))
        raise SystemExit(1) from None
    except Exception as error:
        pipe.send(("failed", 0.0, blame.known(error) or traceback.format_exc()))
        raise SystemExit(1) from None
