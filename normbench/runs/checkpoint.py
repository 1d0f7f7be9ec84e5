"""Checkpoints of unfinished runs: written whole, verified when read, and set aside where they are damaged."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import random
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from normbench.runs.contents import CHECKPOINTS
from normbench.system import files, preemption
from normbench.system.errors import UserError

KEPT = 2  # so that there is one before a damaged one
MINUTES = 10.0


class Checkpoints:
    """The checkpoints of one run in a folder, of which the newest two are kept.

    A file is named `<number>-<first 16 digits of its sha256>.pt` and is on disk before it takes that name, so a crash
    or a full disk leaves those before it as they were. It holds the state of the training (`resumable.Keeper`) and that
    of the global random generators, and is read with `weights_only`.

    minutes: the time after which `due` asks for one; None for NORMBENCH_CHECKPOINT_MINUTES, or 10.
    """

    def __init__(self, folder: Path, minutes: float | None = None):
        self.folder = folder
        self.seconds = 60 * (interval() if minutes is None else minutes)
        self.written = time.monotonic()
        self.spent = 0.0  # seconds in `save`

    def due(self) -> bool:
        """Whether state is to be saved in the middle of an epoch: long since the last, or the process is to end."""
        return preemption.requested() or time.monotonic() - self.written >= self.seconds

    def save(self, state: dict[str, Any]) -> None:
        """Writes state as the newest checkpoint; where the process was asked to end, it ends here with exit code 75."""
        began = time.monotonic()
        buffer = io.BytesIO()
        torch.save({"training": state, "random": random_state()}, buffer)
        content = buffer.getbuffer()
        kept = self.all()
        number = int(kept[-1].name.partition("-")[0]) + 1 if kept else 1
        digest = hashlib.sha256(content).hexdigest()
        with files.atomic(self.folder / f"{number:06d}-{digest[:16]}.pt") as temporary:
            temporary.write_bytes(content)
        for old in kept[: len(kept) + 1 - KEPT]:
            old.unlink(missing_ok=True)
        self.written = time.monotonic()
        self.spent += self.written - began
        if preemption.requested():
            print(f"{self.folder}: checkpoint written, the same command goes on from it", file=sys.stderr, flush=True)
            raise SystemExit(preemption.EXIT_CODE)

    def resume(self) -> dict[str, Any] | None:
        """The newest state that is as it was written; None where there is none. Damaged files are renamed."""
        for path in reversed(self.all()):
            saved = verified(path)
            if saved is not None:
                set_random_state(saved["random"])
                return saved["training"]
            aside = path.with_suffix(".damaged")
            path.replace(aside)
            instead = "the one before it is used" if self.all() else "there is none before it, so the run begins anew"
            print(f"{path}: damaged, set aside as {aside.name}; {instead}", file=sys.stderr, flush=True)
        return None

    def all(self) -> list[Path]:
        """The files, the oldest first."""
        return sorted(self.folder.glob(CHECKPOINTS))


def save_weights(module: torch.nn.Module, path: Path) -> None:
    """Writes a module's state; where the disk is full, that is an OSError, which torch's own writer does not raise."""
    buffer = io.BytesIO()
    torch.save(module.state_dict(), buffer)
    path.write_bytes(buffer.getbuffer())


def verified(path: Path) -> dict[str, Any] | None:
    """What a file holds; None where it is not as its name says, or holds more than plain values."""
    content = path.read_bytes()
    if path.stem.partition("-")[2] != hashlib.sha256(content).hexdigest()[:16]:
        return None
    try:
        return torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
    except (pickle.UnpicklingError, RuntimeError):
        return None


def interval() -> float:
    """Minutes between checkpoints within an epoch, by the environment variable NORMBENCH_CHECKPOINT_MINUTES."""
    text = os.environ.get("NORMBENCH_CHECKPOINT_MINUTES", "")
    try:
        minutes = float(text) if text else MINUTES
    except ValueError:
        minutes = -1
    if not minutes >= 0:
        raise UserError(f"NORMBENCH_CHECKPOINT_MINUTES = {text!r}: must be a number of minutes, e.g. {MINUTES:g}")
    return minutes


def random_state() -> dict[str, Any]:
    """The state of every global generator: Python's, NumPy's, torch's on the CPU and on each GPU."""
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
    if torch.cuda.is_initialized():  # where it is not, nothing was drawn there, and a forked process may not ask
        found["cuda"] = torch.cuda.get_rng_state_all()
    return found


def set_random_state(state: dict[str, Any]) -> None:
    """Sets what `random_state` returned; GPUs are left out where their number is another, or none is in use."""
    random.setstate(state["python"])
    numpy = state["numpy"]
    np.random.set_state(
        ("MT19937", numpy["key"].numpy().astype(np.uint32), numpy["pos"], numpy["has_gauss"], numpy["gauss"])
    )
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_initialized() and len(state.get("cuda", ())) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
