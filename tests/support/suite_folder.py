"""A folder with a small suite on the real digits, in which commands run as on a machine without DVC."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

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
corruptions: {names: [contrast], severities: [1]}
datasets:
  digits: {source: digits, image_size: 8}
tasks:
  small: {dataset: digits, model: resnet8, model_options: {width: 4}, recipe: {epochs: 2, batch_size: 128, crop_padding: 1, precision: float32}}
gan_tasks:
  small-gan: {dataset: digits, model: sngan, model_options: {width: 8}, recipe: {iterations: 30, batch_size: 32, fid_samples: 200}}
variants:
  batch_norm: {method: batch_norm}
  group_norm: {method: group_norm, options: {channels_per_group: 2}}
"""
# A method that is slow enough for a test to interrupt it, and gives the same bits as batch norm.
SLOW = """
import time
from dataclasses import dataclass
from torch import nn
from normbench.methods.base import Method

class Slow(nn.BatchNorm2d):
    def forward(self, x):
        time.sleep(0.004 * self.training)
        return super().forward(x)

@dataclass(frozen=True)
class SlowNorm(Method):
    def norm(self, channels, *, role):
        return Slow(channels)
"""


class SuiteFolder:
    """A folder, created at `path`, with a params.yaml and an environment for commands that run in it."""

    def __init__(self, path: Path):
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        (path / "params.yaml").write_text(PARAMS, encoding="utf-8")
        self.environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "NORMBENCH_DEVICE": "cpu",
        }
        for name in ("NORMBENCH_STORE", "NORMBENCH_DOWNLOADS", "NORMBENCH_MIRROR", "NORMBENCH_CHECKPOINT_MINUTES"):
            self.environment.pop(name, None)

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Starts `python -m ARGUMENTS` in the folder, in its own process group."""
        return subprocess.Popen(
            [sys.executable, "-m", *arguments],
            cwd=self.path,
            env=self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str, code: int = 0, **environment: str) -> str:
        """Returns the output of `python -m ARGUMENTS`, which must exit with `code`."""
        process = self.start(*arguments, **environment)
        try:
            printed, _ = process.communicate(timeout=300)
        finally:
            process.kill()
        assert process.returncode == code, printed
        return printed

    def bind(self) -> None:
        """Runs the stages before the training."""
        self.run("stages.resolve")
        self.run("stages.download", "--dataset", "digits")
        self.run("stages.corrupt", "--dataset", "digits")
        self.run("stages.bind")

    def edit(self, old: str, new: str, name: str = "params.yaml") -> None:
        """Replaces a text in a file; the text must be there."""
        text = (self.path / name).read_text(encoding="utf-8")
        assert old in text
        (self.path / name).write_text(text.replace(old, new), encoding="utf-8")

    def slow(self, epochs: int, seeds: str) -> None:
        """Changes the suite to runs of the slow method. epochs: of each run. seeds: a YAML list."""
        (self.path / "slow.py").write_text(SLOW, encoding="utf-8")
        self.edit("variants: [batch_norm, group_norm]", "variants: [slow]")
        self.edit("baseline: batch_norm", "baseline: slow")
        self.edit("\nvariants:", "\nvariants:\n  slow: {method: slow.py:SlowNorm}")
        self.edit("gan_tasks: [small-gan]", "gan_tasks: []")
        self.edit("gan_variants: [batch_norm]", "gan_variants: []")
        self.edit("epochs: 2", f"epochs: {epochs}")
        self.edit("seeds: [0, 1]", f"seeds: {seeds}")


def records(store: Path) -> dict[str, dict[str, Any]]:
    """Returns the records in a run store, by the id of the run."""
    return {path.parent.name: json.loads(path.read_text()) for path in store.glob("*/record.json")}


def same_outcome(one: Path, other: Path) -> None:
    """Asserts that two finished runs are equal bit for bit, except for times and what depends on the machine's load."""
    assert {path.name for path in one.iterdir()} == {path.name for path in other.iterdir()}
    old, new = (json.loads((folder / "record.json").read_text()) for folder in (one, other))
    for key in ("run", "kind", "seed", "status", "diverged", "metrics"):
        assert old[key] == new[key], key
    assert old["cost"]["peak_memory_bytes"] == new["cost"]["peak_memory_bytes"]
    for key in ("task", "variant", "dataset", "code_fingerprint", "versions"):
        assert old["provenance"][key] == new["provenance"][key], key
    for key in ("precision", "memory_format"):
        assert old["provenance"]["numerics"][key] == new["provenance"]["numerics"][key], key
    assert old["provenance"]["device"]["threads"] == new["provenance"]["device"]["threads"]
    for path in one.iterdir():
        if path.suffix == ".pt":
            weights, others = (torch.load(p, weights_only=True) for p in (path, other / path.name))
            assert list(weights) == list(others)
            assert all(torch.equal(weights[name], others[name]) for name in weights)
        elif path.suffix != ".json":
            assert path.read_bytes() == (other / path.name).read_bytes()
