"""Checkpoints of unfinished runs: written atomically, verified when they are read, set aside if they are damaged."""

from __future__ import annotations

import hashlib
import io
import os
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from normbench.runs import formats
from normbench.runs.contents import CHECKPOINTS, LARGEST_CHECKPOINT
from normbench.system import files, preemption, scratch
from normbench.system.errors import UserError
from normbench.system.text import complain

KEPT = 2  # checkpoints of a run: if the newest is damaged, the one before it is used
MINUTES = 10.0  # default interval between checkpoints within an epoch


class Checkpoints:
    """The checkpoints of one run, in a folder that keeps the newest two.

    A file is named `<number>-<first 16 digits of its sha256>.pt` and is flushed to disk before it gets that name, so
    that a crash or a full disk leaves the earlier files intact. It holds the state of the training (see
    `normbench.training.keeper.Keeper`) and of the global random generators, and is read with `weights_only`.

    minutes: the interval after which `due` asks for a checkpoint; by default that of `interval`.
    """

    def __init__(self, folder: Path, minutes: float | None = None):
        self.folder = folder
        self.seconds = 60 * (interval() if minutes is None else minutes)
        self.written = time.monotonic()
        self.spent = 0.0  # seconds in `save`

    def due(self) -> bool:
        """Whether to save now, within an epoch: the interval has passed, or the process has received SIGTERM."""
        return preemption.requested() or time.monotonic() - self.written >= self.seconds

    def save(self, state: dict[str, Any]) -> None:
        """Writes the state as the newest checkpoint, and exits with code 75 if the process has received SIGTERM."""
        began = time.monotonic()
        buffer = io.BytesIO()
        torch.save({"training": state, "random": random_state()}, buffer)
        content = buffer.getbuffer()
        kept = self.all()
        number = int(kept[-1].name.partition("-")[0]) + 1 if kept else 1
        digest = hashlib.sha256(content).hexdigest()
        with files.atomic(self.folder / f"{number:06d}-{digest[:16]}.pt") as temporary:
            files.put(temporary, content)
        for old in kept[: len(kept) + 1 - KEPT]:
            old.unlink(missing_ok=True)
        self.written = time.monotonic()
        self.spent += self.written - began
        if preemption.requested():
            complain(f"{self.folder}: checkpoint written, the same command goes on from it")
            raise SystemExit(preemption.EXIT_CODE)

    def resume(self) -> dict[str, Any] | None:
        """Returns the newest intact state and sets the random generators to it; None if there is no state.

        A damaged file is renamed, and the one before it is used. What killed processes left is removed.
        """
        for left in scratch.left_behind(self.folder):
            scratch.discard(left)
        for path in reversed(self.all()):
            saved = verified(path)
            if saved is not None and set_random_state(saved["random"]):
                return saved["training"]
            aside = path.with_suffix(".damaged")
            path.replace(aside)
            instead = "the one before it is used" if self.all() else "there is none before it, so the run begins anew"
            complain(f"{path}: damaged, set aside as {aside.name}; {instead}")
        return None

    def all(self) -> list[Path]:
        """Returns the files, the oldest first."""
        return sorted(self.folder.glob(CHECKPOINTS))


def save_weights(module: torch.nn.Module, path: Path) -> None:
    """Writes the state of a module. Raises OSError if the disk is full, which torch's own writer does not."""
    buffer = io.BytesIO()
    torch.save(module.state_dict(), buffer)
    files.put(path, buffer.getbuffer())


def verified(path: Path) -> dict[str, Any] | None:
    """Returns the content of a checkpoint; None if its hash does not fit its name or it is not as `save` writes it."""
    if not path.is_file() or path.stat().st_size > LARGEST_CHECKPOINT:
        return None
    content = path.read_bytes()
    if path.stem.partition("-")[2] != hashlib.sha256(content).hexdigest()[:16]:
        return None
    try:
        saved = formats.tensors(io.BytesIO(content))
    except ValueError:
        return None
    return saved if isinstance(saved, dict) and saved.keys() == {"training", "random"} else None


def interval() -> float:
    """Returns the minutes between checkpoints within an epoch: NORMBENCH_CHECKPOINT_MINUTES, or 10.

    Raises UserError if that variable is not a number of at least 0.
    """
    text = os.environ.get("NORMBENCH_CHECKPOINT_MINUTES", "")
    try:
        minutes = float(text) if text else MINUTES
    except ValueError:
        minutes = -1
    if not minutes >= 0:
        raise UserError(f"NORMBENCH_CHECKPOINT_MINUTES = {text!r}: must be a number of minutes, e.g. {MINUTES:g}")
    return minutes


def random_state() -> dict[str, Any]:
    """Returns the state of every global random generator: of Python, NumPy, and torch on the CPU and on each GPU."""
    numpy: Any = np.random.get_state(legacy=False)
    found = {
        "python": random.getstate(),
        "numpy": {
            "key": torch.from_numpy(numpy["state"]["key"].astype(np.int64)),
            "pos": int(numpy["state"]["pos"]),
            "has_gauss": int(numpy["has_gauss"]),
            "gauss": float(numpy["gauss"]),
        },
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_initialized():  # otherwise CUDA has drawn nothing, and a forked process must not initialize it
        found["cuda"] = torch.cuda.get_rng_state_all()
    return found


def set_random_state(state: dict[str, Any]) -> bool:
    """Restores a result of `random_state`; returns whether it is one.

    The states of GPUs are skipped if CUDA is not in use or if the number of GPUs differs.
    """
    try:
        random.setstate(state["python"])
        numpy = state["numpy"]
        np.random.set_state(
            ("MT19937", numpy["key"].numpy().astype(np.uint32), numpy["pos"], numpy["has_gauss"], numpy["gauss"])
        )
        torch.set_rng_state(state["torch"])
        if torch.cuda.is_initialized() and len(state.get("cuda", ())) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["cuda"])
    except (AttributeError, KeyError, OverflowError, RuntimeError, TypeError, ValueError):
        return False
    return True
