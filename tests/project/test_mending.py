"""What a stage says about damaged outputs of earlier stages is true: `dvc repro` restores them, and nothing is lost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support.project import ONE_RUN, Project

CELL = ("--task", "small", "--variant", "batch_norm")


@pytest.mark.slow
def test_dvc_repro_restores_what_is_damaged(tmp_path: Path) -> None:
    project = Project.made(tmp_path, ONE_RUN)
    project.repro("evaluate@small-batch_norm")
    labels = tmp_path / "build/data/digits/train_labels.npy"
    weights = tmp_path / "build/trained/small/batch_norm/0/weights.pt"
    corrupted = tmp_path / "build/corrupted/digits/contrast.npy"
    before = {path: path.read_bytes() for path in (labels, weights, corrupted)}
    runs = sorted(path.name for path in (tmp_path / "runs").iterdir())

    np.save(labels, np.full_like(np.load(labels), 9))
    for path in (weights, corrupted):
        path.write_bytes(before[path][:-1] + bytes([before[path][-1] ^ 1]))
    for stage, path in (("train", labels), ("evaluate", labels)):
        if stage == "train":  # It has to read the labels only for a run that is not there.
            project.edit("seeds: [0]", "seeds: [0, 1]")
            assert project.run("stages.resolve").returncode == 0
        refused = project.run(f"stages.{stage}", *CELL)
        assert refused.returncode == 1
        (line,) = refused.stderr.splitlines()
        assert line.startswith(f"{path.relative_to(tmp_path)}: is not what was prepared; `dvc repro` restores it")
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == runs
    project.edit("seeds: [0, 1]", "seeds: [0]")

    project.repro("evaluate@small-batch_norm")
    assert {path: path.read_bytes() for path in before} == before
    assert project.run("stages.evaluate", *CELL).returncode == 0
