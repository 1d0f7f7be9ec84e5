"""A folder whose method and corruption note what the processes that train and corrupt compute with."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from normbench.system import threads
from tests.support.suite_folder import SuiteFolder

ROOT = Path(__file__).resolve().parents[2]
VARIABLES = {"OMP_NUM_THREADS", "OMP_WAIT_POLICY", "OPENCV_FOR_THREADS_NUM", "CUBLAS_WORKSPACE_CONFIG"}

# Notes once what its process computes with. /proc has the environment with which a process began.
NOTE = """
import json, multiprocessing, os
from pathlib import Path

def note(values):
    place = Path("NOTES", str(os.getpid()))
    if place.exists():
        return
    began = Path("/proc/self/environ").read_text().split("\\0")
    libraries = [found["num_threads"] for found in __import__("threadpoolctl").threadpool_info()]
    facts = {"began": [each for each in began if each.startswith("OMP_")], "environment": dict(os.environ),
             "libraries": libraries, "name": multiprocessing.current_process().name} | values
    place.write_text(json.dumps(facts))
"""
NOTING = """
from dataclasses import dataclass
import torch
from torch import nn
from normbench.methods.base import Method

class Noting(nn.BatchNorm2d):
    def forward(self, x):
        note({"torch": torch.get_num_threads()})
        return super().forward(x)

@dataclass(frozen=True)
class Notes(Method):
    def norm(self, channels, *, role):
        return Noting(channels)
"""
SALT = """
import cv2
from normbench.corruptions.registry import corruption

@corruption(constants=(1, 2, 3, 4, 5))
def salt(images, amount):
    note({"opencv": cv2.getNumThreads()})
    return images.copy()
"""


def environment(**given: str) -> dict[str, str]:
    """The environment of a user who has set no variable of these libraries, or only those that are given."""
    return unset(os.environ) | {"PYTHONPATH": str(ROOT), "NORMBENCH_DEVICE": "cpu"} | given


def unset(variables: Mapping[str, str]) -> dict[str, str]:
    """Variables without those that normbench sets."""
    return {name: value for name, value in variables.items() if name not in VARIABLES}


class Noted(SuiteFolder):
    """A folder with a method and a corruption that note what their processes compute with."""

    def __init__(self, path: Path):
        super().__init__(path)
        self.environment = environment(LOKY_MAX_CPU_COUNT="2")
        self.notes = path / "notes"
        self.notes.mkdir()
        note = NOTE.replace("NOTES", str(self.notes))
        (path / "noting.py").write_text(note + NOTING, encoding="utf-8")
        (path / "salt.py").write_text(note + SALT, encoding="utf-8")
        self.edit("names: [contrast]", "names: ['salt.py:salt']")
        self.edit("variants: [batch_norm, group_norm]", "variants: [noting]")
        self.edit("baseline: batch_norm", "baseline: noting")
        self.edit("gan_variants: [batch_norm]", "gan_variants: [noting]")
        self.edit("\nvariants:", "\nvariants:\n  noting: {method: noting.py:Notes}")

    def taken(self) -> dict[int, dict[str, Any]]:
        """The notes since the last call, by process."""
        found = {}
        for path in self.notes.iterdir():
            found[int(path.name)] = json.loads(path.read_text())
            path.unlink()
        assert found
        return found


def check(notes: dict[int, dict[str, Any]]) -> None:
    """Asserts that each process had normbench's settings, and one thread for each library."""
    for note in notes.values():
        assert {name: note["environment"].get(name) for name in VARIABLES} == threads.ENVIRONMENT
        assert set(note["libraries"]) == {1}  # OpenMP, OpenBLAS, MKL
        assert note.get("torch", 1) == note.get("opencv", 1) == 1
