"""The score of docs/extending.md, in a copy of the package: one new file, and nothing else is edited."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.support import forks
from tests.support.documentation import ROOT, block, section

SUITE = """
suite: {seeds: [0], datasets: [digits], tasks: [task], variants: [norm], baseline: norm, gan_tasks: [], gan_variants: []}
datasets:
  digits: {source: digits, image_size: 8}
tasks:
  task: {dataset: digits, model: resnet8, recipe: {epochs: 1}}
variants:
  norm: {method: batch_norm}
"""
# The example against a computation of its own, image by image, on a network that tells where the image is bright.
CHECK = """
import numpy as np
import torch
from torch import nn
from normbench.data.batches import on_device
from normbench.evaluation.registry import SCORES
from tests.support.subjects import subject

pixels = torch.randint(0, 256, (30, 8, 8, 1), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
images = on_device(pixels, torch.zeros(30, dtype=torch.long), [0.4], [0.3], "cpu")
torch.manual_seed(0)
model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
score = SCORES.get("shift")
given = subject(model, images)
for examples, step in ((1000, 1), (12, 3)):
    found = score.measure(given, score.settings(examples=examples, pixels=step))
    weight, bias = (value.detach().double().numpy() for value in model[1].parameters())
    kept = []
    for number in given.drawn("shift", examples).tolist():
        image = (pixels[number, :, :, 0].numpy() / 255 - 0.4) / 0.3
        classes = []
        for rows, columns in ((0, 0), (step, 0), (-step, 0), (0, step), (0, -step)):
            moved = np.empty((8, 8))
            for y in range(8):
                for x in range(8):
                    moved[(y + rows) % 8, (x + columns) % 8] = image[y, x]
            classes.append(int((weight @ moved.flatten() + bias).argmax()))
        kept += [other == classes[0] for other in classes[1:]]
    expected = sum(kept) / len(kept)
    assert 0.1 < expected < 0.9
    assert abs(found.columns["shift_consistency"] - expected) < 1e-12, (found, expected)
    entry = {"pixels": step, "examples": min(examples, 30), "consistency": found.columns["shift_consistency"]}
    assert found.metrics == {"shift": entry}
"""


class Copied:
    """A folder with a copy of the package, in which commands run."""

    def __init__(self, folder: Path):
        self.folder = folder
        for name in ("normbench", "stages"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        self.params("")

    def params(self, evaluation: str) -> None:
        (self.folder / "params.yaml").write_text(SUITE + evaluation, encoding="utf-8")

    def run(self, *arguments: str, code: int = 0) -> str:
        environment = os.environ | {"PYTHONPATH": f"{self.folder}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
        done = forks.run(*arguments, cwd=self.folder, env=environment)
        assert done.returncode == code, done.stderr
        return done.stdout if code == 0 else done.stderr

    def resolved(self) -> dict[str, Any]:
        """What build/resolved holds, by file."""
        self.run("-m", "stages.resolve")
        build = self.folder / "build/resolved"
        return {path.relative_to(build).as_posix(): json.loads(path.read_text()) for path in build.rglob("*.json")}

    def add_the_example(self) -> None:
        name = re.search(r"`(normbench/evaluation/\w+\.py)`:\n\n```python", section("A score"))
        assert name is not None
        (self.folder / name[1]).write_text(block("A score", "python"), encoding="utf-8")


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Copied:
    return Copied(tmp_path_factory.mktemp("copy"))


@pytest.mark.slow
def test_a_score_is_one_file(copied: Copied) -> None:
    """By itself the file changes nothing; asked for, it changes what the evaluation depends on, and that alone."""
    before = copied.resolved()
    copied.add_the_example()
    assert copied.resolved() == before
    copied.params(block("A score", "yaml"))
    after = copied.resolved()
    assert {name for name in after if after[name] != before.get(name)} == {"evaluation.json", "code/evaluate.json"}
    assert after["evaluation.json"] == before["evaluation.json"] | {"shift": {"examples": 1000, "pixels": 2}}
    digests, old = after["code/evaluate.json"], before["code/evaluate.json"]
    assert digests["digest"] == old["digest"]
    assert {name: digests["scores"][name] for name in old["scores"]} == old["scores"]
    assert digests["scores"].keys() - old["scores"].keys() == {"shift"}
    assert "\n  shift(examples=1000, pixels=1)\n" in copied.run("-m", "normbench", "list")
    copied.run("-c", CHECK)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ("shift: {pixls: 2}", "evaluation.shift.pixls = 2: unknown key; did you mean 'pixels'?"),
        ("shift: {pixels: 0}", "evaluation.shift.pixels = 0: must be greater than 0"),
        ("shft: {}", "evaluation.shft = {}: unknown key; did you mean 'shift'?"),
    ],
)
def test_a_mistake_in_its_settings_is_one_line(copied: Copied, settings: str, line: str) -> None:
    copied.add_the_example()
    copied.params(f"evaluation:\n  {settings}\n")
    number = len(SUITE.splitlines()) + 2
    assert copied.run("-m", "stages.resolve", code=1) == f"params.yaml:{number}: {line}\n"


def test_the_files_that_the_section_names_are_there() -> None:
    for name in re.findall(r"`((?:normbench|tests)/[\w/]+\.py)`(?!:\n)", section("A score")):
        assert (ROOT / name).is_file(), name
