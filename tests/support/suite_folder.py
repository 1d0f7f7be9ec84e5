"""A folder with a small suite on the real digits, in which commands run as on a machine without DVC."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import torch

from normbench.runs.contents import RECORD
from normbench.runs.record import Record
from tests.support import forks
from tests.support.project import ROOT, environment

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
# A method that is slow enough for a test to interrupt it, unless a file `hurry` lies in the current folder, and gives
# the same bits as batch norm.
SLOW = """
import os
import time
from dataclasses import dataclass
from torch import nn
from normbench.methods.base import Method

class Slow(nn.BatchNorm2d):
    def forward(self, x):
        time.sleep(0.004 * (self.training and not os.path.exists("hurry")))
        return super().forward(x)

@dataclass(frozen=True)
class SlowNorm(Method):
    def norm(self, channels, *, role):
        return Slow(channels)
"""


class SuiteFolder:
    """A folder with the small suite, in which commands use the code of this checkout."""

    def __init__(self, path: Path):
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        (path / "params.yaml").write_text(PARAMS, encoding="utf-8")
        self.environment = environment(ROOT)

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str] | forks.Forked:
        """Starts `python -m ARGUMENTS` in the folder, in its own process group."""
        return forks.start("-m", *arguments, cwd=self.path, env=self.environment | environment)

    def run(self, *arguments: str, code: int = 0, **environment: str) -> str:
        """Returns the output of `python -m ARGUMENTS`, which must exit with `code`."""
        process = self.start(*arguments, **environment)
        try:
            printed, _ = process.communicate(timeout=300)
        finally:
            process.kill()
        assert process.returncode == code, printed
        return printed

    def add_broken(self, statement: str) -> None:
        """Writes broken.py with a method `Broken` that does what a statement says, but not when it is only tried.

        A method that fails in a trial would stop everything before the training. After it, both files are there.
        """
        (self.path / "broken.py").write_text(
            "from dataclasses import dataclass\nfrom pathlib import Path\n\nfrom torch import nn\n\n"
            "from normbench.methods.base import Method\n\n\n"
            "@dataclass(frozen=True)\nclass Broken(Method):\n    def norm(self, channels, *, role):\n"
            f"        if Path('build/checked.json').exists() and Path('build/bound').exists():\n            {statement}\n"
            "        return nn.BatchNorm2d(channels)\n"
        )

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

    @contextlib.contextmanager
    def hurry(self) -> Iterator[None]:
        """Inside it, the slow method is not slow, in processes that run already too."""
        (self.path / "hurry").touch()
        try:
            yield
        finally:
            (self.path / "hurry").unlink()


def records(store: Path) -> dict[str, Record]:
    """The records of a run store, by the ids of their runs."""
    return {path.parent.name: Record.read(path) for path in store.glob(f"*/{RECORD}")}


def outcome(record: Record) -> Record:
    """A record without what may differ between two runs that are equal bit for bit: times, and their circumstances.

    Circumstances are whether the run was resumed, how many ran beside it, the state of the checkout, and which seeds
    its task has.
    """
    cost, origin = record.cost, record.provenance
    return record.model_copy(
        update={
            "cost": cost.model_copy(
                update={"seconds": {}, "epoch_seconds": [], "images_per_second": None, "resumed": None}
            ),
            "provenance": origin.model_copy(
                update={
                    "task": origin.task.model_copy(update={"seeds": []}),
                    "started": "",
                    "ended": "",
                    "git": None,
                    "device": origin.device.model_copy(update={"side_by_side": 0}),
                }
            ),
        }
    )


def same_outcome(one: Path, other: Path) -> None:
    """Asserts that two finished runs are equal bit for bit, but for times and circumstances (see `outcome`)."""
    assert {path.name for path in one.iterdir()} == {path.name for path in other.iterdir()}
    assert outcome(Record.read(one / RECORD)) == outcome(Record.read(other / RECORD))
    for path in one.iterdir():
        if path.suffix == ".pt":
            weights, others = (torch.load(p, weights_only=True) for p in (path, other / path.name))
            assert list(weights) == list(others)
            assert all(torch.equal(weights[name], others[name]) for name in weights)
        elif path.suffix != ".json":
            assert path.read_bytes() == (other / path.name).read_bytes()
