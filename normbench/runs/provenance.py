"""The origin of a result: git revision, versions and device."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import subprocess
from typing import Any

from normbench.runs.record import Device, Git, Numerics, Provenance, made
from normbench.runs.run import Run
from normbench.system.layout import GENERATED_PATHS

PACKAGES = ("normbench", "torch", "torchvision", "numpy")


def git() -> Git:
    """Returns the revision of the checkout and whether it has uncommitted changes; both None without a repository."""

    def ask(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout.strip()

    try:
        revision = ask("rev-parse", "HEAD")
        # Each run of the pipeline rewrites the results, and the record has the parameters: these are no changed source.
        dirty = bool(ask("status", "--porcelain", "--", ".", *(f":!{path}" for path in GENERATED_PATHS)))
    except (OSError, subprocess.CalledProcessError):
        return Git(revision=None, dirty=None)
    return Git(revision=revision, dirty=dirty)


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the installed packages in `PACKAGES`."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def cpu_name() -> str:
    """Returns the model name of the CPU."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def device(kind: str) -> Device:
    """Returns the machine that trains, with the facts on which its speed depends. kind: `cuda`, `mps` or `cpu`."""
    import torch

    from normbench.system import ranks, side_by_side

    facts: dict[str, Any] = {
        "type": kind,
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "system": platform.system(),
        "side_by_side": side_by_side.beside,
        "ranks": ranks.size(),
    }
    if kind != "cuda":
        return Device(name=cpu_name() if kind == "cpu" else "Apple GPU", **facts)
    properties = torch.cuda.get_device_properties(0)
    return Device(
        name=properties.name,
        memory_bytes=properties.total_memory,
        cuda=torch.version.cuda,
        multi_process_service=multi_process_service(),
        **facts,
    )


def multi_process_service() -> bool:
    """Whether NVIDIA's Multi-Process Service runs here, with which several processes run kernels on a GPU at once."""
    return os.path.isdir(os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps"))


def collect(run: Run, numerics: Numerics, kind: str, started: str) -> Provenance:
    """Returns the provenance of a run that ends now.

    kind: of the device. started: the result of `now` when the run began.
    """
    ended = now()
    return made(
        Provenance,
        {
            "task": run.task,
            "variant": run.variant,
            "dataset": run.bound,
            "code": run.code,
            "git": git(),
            "versions": versions(),
            "device": device(kind),
            "numerics": numerics,
            "started": started,
            "ended": max(started, ended),  # The clock of the machine may have been set back meanwhile.
        },
    )


def now() -> str:
    """Returns the current time in UTC, ISO 8601, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
