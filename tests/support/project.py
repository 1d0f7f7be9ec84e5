"""A clone of this repository with a small suite of the real digits, and what a user does in it."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
import weakref
from pathlib import Path

import pandas as pd

from normbench.runs.contents import RECORD
from normbench.runs.record import Record
from normbench.suite.compose import LIBRARY
from normbench.system.fork_client import SERVER
from tests.support import forks

ROOT = Path(__file__).resolve().parents[2]
PARAMS = """
suite:
  seed: 0
  seeds: [0, 1]
  datasets: [digits]
  tasks: [small]
  variants: [batch_norm, group_norm]
  baseline: batch_norm
  gan_tasks: [small-gan]
  gan_variants: [batch_norm]
corruptions: {names: [gaussian_noise, contrast], severities: [1, 5]}
datasets:
  digits: {source: digits, image_size: 8}
tasks:
  small: {dataset: digits, model: resnet8, model_options: {width: 4}, recipe: {epochs: 2, batch_size: 128, crop_padding: 1}}
gan_tasks:
  small-gan: {dataset: digits, model: sngan, model_options: {width: 8}, recipe: {iterations: 4, batch_size: 32, fid_samples: 200}}
variants:
  batch_norm: {method: batch_norm}
  group_norm: {method: group_norm, options: {channels_per_group: 2}}
  no_norm: {method: no_norm}
"""
# The smallest suite: a single run of a classifier.
ONE_RUN = """
suite:
  seeds: [0]
  datasets: [digits]
  tasks: [small]
  variants: [batch_norm]
  baseline: batch_norm
  gan_tasks: []
  gan_variants: []
corruptions: {names: [contrast], severities: [1]}
datasets:
  digits: {source: digits, image_size: 8}
tasks:
  small: {dataset: digits, model: resnet8, model_options: {width: 4}, recipe: {epochs: 1, batch_size: 128, crop_padding: 1}}
variants:
  batch_norm: {method: batch_norm}
"""
# A process that stages are forked from until its input ends, as those of `normbench results` are; it prints its place.
SERVE = f"""
import os, subprocess
from normbench.system import preemption, threads
from normbench.system.fork_server import Server

threads.set_environment()
preemption.watch()
with Server() as server:
    print(os.environ["{SERVER}"], flush=True)
    server.until(subprocess.Popen(["cat"], stdout=subprocess.DEVNULL).pid)
"""
# What the environment of whoever runs the tests must not bring into theirs.
FOREIGN = ("NORMBENCH_STORE", "NORMBENCH_DOWNLOADS", "NORMBENCH_MIRROR", "NORMBENCH_CHECKPOINT_MINUTES")


def environment(package: Path) -> dict[str, str]:
    """The variables of commands that use the package in a folder, with one core."""
    found = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(package),
        "LOKY_MAX_CPU_COUNT": "1",
        "NORMBENCH_DEVICE": "cpu",
    }
    return {name: value for name, value in found.items() if name not in FOREIGN}


class Project:
    """A clone, in which commands use the code of the clone."""

    def __init__(self, path: Path):
        self.path = path
        self.environment = environment(path)

    @classmethod
    def made(cls, path: Path, params: str = PARAMS) -> Project:
        """A new clone: the files of this checkout without its results, with other parameters, and with git."""
        listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(listing, cwd=ROOT, capture_output=True, check=True)
        for name in listed.stdout.decode().split("\0"):
            if name and (ROOT / name).is_file() and not name.startswith("results/") and name != "dvc.lock":
                (path / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, path / name)
        (path / "params.yaml").write_text(params, encoding="utf-8")
        subprocess.run(["git", "init", "--quiet", "."], cwd=path, check=True)
        return cls(path)

    def run(self, module: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Runs `python -m MODULE ARGUMENTS`."""
        return forks.run("-m", module, *arguments, cwd=self.path, env=self.environment | environment)

    def dvc(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return self.run("dvc", *arguments, **environment)

    def normbench(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run("normbench", *arguments)

    @functools.cached_property
    def server(self) -> dict[str, str]:
        """The variable that names a process in which the imports of stages are done once. It ends with this object."""
        if sys.platform != "linux":
            return {}
        process = forks.start("-c", SERVE, cwd=self.path, env=self.environment, has_input=True)
        assert process.stdout is not None
        place = process.stdout.readline().strip()
        assert Path(place).is_socket(), place
        weakref.finalize(self, process.communicate)
        return {SERVER: place}

    def try_repro(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs `dvc repro`, whose stages are forked, as those of `normbench results` are."""
        return self.dvc("repro", *arguments, **self.server)

    def repro(self, *arguments: str) -> list[str]:
        """The stages that `dvc repro` ran; it must succeed."""
        done = self.try_repro(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return ran(done.stdout)

    def changed(self) -> set[str]:
        """The stages that `dvc status` says are not up to date, without `look`, which DVC always runs."""
        return set(json.loads(self.dvc("status", "--json").stdout)) - {"look"}

    def edit(self, old: str, new: str, name: str = "params.yaml") -> None:
        text = (self.path / name).read_text(encoding="utf-8")
        assert old in text
        (self.path / name).write_text(text.replace(old, new), encoding="utf-8")

    def leaderboard(self) -> pd.DataFrame:
        return pd.read_csv(self.path / "results/leaderboard.csv").set_index("variant")

    def records(self) -> dict[str, Record]:
        """The records in the outputs of the stage `train`, by task/variant/seed."""
        trained = self.path / "build/trained"
        return {str(p.parent.relative_to(trained)): Record.read(p) for p in trained.glob(f"*/*/*/{RECORD}")}


def ran(output: str) -> list[str]:
    """The stages that DVC says it ran, without `look`, which it always runs."""
    found = [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")]
    return [stage for stage in found if stage != "look"]


def suites() -> list[Path]:
    """The suites of the project, without the library that they share."""
    return [path for path in sorted((ROOT / "suites").glob("*.yaml")) if path.name != LIBRARY]
