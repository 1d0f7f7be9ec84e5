"""Where a result comes from: revision, versions, device."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import subprocess
from typing import Any

from normbench.runs.record import Device, Git, Numerics, Provenance
from normbench.runs.run import Run
from normbench.system.layout import GENERATED_PATHS

PACKAGES = ("normbench", "torch", "torchvision", "numpy")


def git() -> Git:
    """Revision of the checkout and whether it has uncommitted changes; None where there is no git repository."""

    def ask(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout.strip()

    try:
        revision = ask("rev-parse", "HEAD")
        # Results are remade by every run, so a changed table is not a changed source; parameters stand in the record.
        dirty = bool(ask("status", "--porcelain", "--", ".", *(f":!{path}" for path in GENERATED_PATHS)))
    except (OSError, subprocess.CalledProcessError):
        return Git(revision=None, dirty=None)
    return Git(revision=revision, dirty=dirty)


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def device(kind: str) -> Device:
    """The machine that trains, and what its speed depends on. kind: `cuda`, `mps` or `cpu`."""
    import torch

    from normbench.system import side_by_side

    facts: dict[str, Any] = {
        "type": kind,
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "system": platform.system(),
        "side_by_side": side_by_side.beside,
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
    """Whether NVIDIA's MPS runs here, by which the kernels of several processes share a GPU at the same time."""
    return os.path.isdir(os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps"))


def collect(run: Run, numerics: Numerics, kind: str, started: str) -> Provenance:
    """The provenance of a run that ends now. kind: of the device. started: as `now` gave it when the run began."""
    return Provenance(
        task=run.task,
        variant=run.variant,
        dataset=run.bound,
        code=run.code,
        git=git(),
        versions=versions(),
        device=device(kind),
        numerics=numerics,
        started=started,
        ended=now(),
    )


def now() -> str:
    """UTC, to the second, ISO 8601."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
