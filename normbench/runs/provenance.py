"""Where a result comes from: revision, versions, device."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import subprocess
from typing import Any

PACKAGES = ("normbench", "torch", "torchvision", "numpy")


def git() -> dict[str, Any]:
    """Revision of the checkout and whether it has uncommitted changes; None where there is no git repository."""

    def ask(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout.strip()

    try:
        revision = ask("rev-parse", "HEAD")
        # Results are remade by every run, so a changed table is not a changed source; parameters stand in the record.
        apart = ("results", "dvc.lock", "params.yaml", "suites")
        dirty = bool(ask("status", "--porcelain", "--", ".", *(f":!{path}" for path in apart)))
    except (OSError, subprocess.CalledProcessError):
        return {"revision": None, "dirty": None}
    return {"revision": revision, "dirty": dirty}


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


def device(kind: str) -> dict[str, Any]:
    """Name of the device that trained, and what its speed depends on."""
    import torch

    from normbench.system import side_by_side as jobs

    found: dict[str, Any] = {
        "type": kind,
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "system": platform.system(),
        "side_by_side": jobs.beside,
    }
    if kind == "cuda":
        properties = torch.cuda.get_device_properties(0)
        found |= {"name": properties.name, "memory_bytes": properties.total_memory, "cuda": torch.version.cuda}
        found["multi_process_service"] = multi_process_service()
    else:
        found |= {"name": found["cpu"] if kind == "cpu" else "Apple GPU", "threads": torch.get_num_threads()}
    return found


def multi_process_service() -> bool:
    """Whether NVIDIA's MPS runs here, by which the kernels of several processes share a GPU at the same time."""
    return os.path.isdir(os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps"))


def collect(
    task: dict[str, Any], variant: dict[str, Any], dataset: dict[str, Any], code: str, kind: str, started: str
) -> dict[str, Any]:
    """The provenance of a record: resolved parameters, fingerprints, revision, versions, device, start and end."""
    return {
        "task": task,
        "variant": variant,
        "dataset": dataset,
        "code_fingerprint": code,
        "git": git(),
        "versions": versions(),
        "device": device(kind),
        "started": started,
        "ended": now(),
    }


def now() -> str:
    """UTC, to the second, ISO 8601."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
