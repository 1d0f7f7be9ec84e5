"""Every stage runs by hand, without DVC, in the order that the README gives."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import forks
from tests.support.project import ROOT, environment


@pytest.mark.slow
def test_by_hand_without_dvc(tmp_path: Path):
    params = (ROOT / "params.yaml").read_text(encoding="utf-8")
    params = re.sub(r"epochs: \d+", "epochs: 1", params).replace("seeds: [0, 1, 2]", "seeds: [0]")
    params = params.replace("names: all", "names: [contrast]")
    (tmp_path / "params.yaml").write_text(params, encoding="utf-8")
    one = ["--task", "digits-resnet8", "--variant", "batch_norm"]
    for stage, options in [
        ("resolve", []),
        ("download", ["--dataset", "digits"]),
        ("corrupt", ["--dataset", "digits"]),
        ("bind", []),
        ("train", one),
        ("evaluate", one),
    ]:
        done = forks.run("-m", f"stages.{stage}", *options, cwd=tmp_path, env=environment(ROOT))
        assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "build/scores/classification/digits-resnet8/batch_norm/0.json").read_text())
    assert record["status"] == "finished"
    assert record["provenance"]["git"] == {"revision": None, "dirty": None}  # the folder is no repository
    assert set(record["metrics"]["corruption_accuracy"]) == {"contrast"}
    command = ["normbench", "corrupt", "digits", "--out", "corrupted/digits"]
    done = subprocess.run(command, cwd=tmp_path, env=environment(ROOT), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "corrupted/digits").glob("*.npy"))) == 20


def test_an_interrupt_while_a_stage_is_imported_is_one_line() -> None:
    code = "import stages; raise KeyboardInterrupt"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0
    assert done.stderr == "interrupted: what was finished is kept, the same command goes on\n"
