"""The metrics for `dvc metrics`, from made-up tables; tests/project/test_dvc_shows.py has what DVC shows of them."""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path

from normbench.results.tables import aggregate
from normbench.results.tables.metrics import metrics, write_metrics
from normbench.results.tables.table import Row
from tests.results.made_up_suite import GAN_TASK, GAN_VARIANTS, TASK, VARIANTS, finished


def read(folder: str) -> dict[str, dict[str, float]]:
    """The content of each file, by its place in the folder."""
    paths = sorted(Path(folder).rglob("*"))
    return {path.relative_to(folder).as_posix(): json.loads(path.read_text()) for path in paths if path.is_file()}


def test_a_file_for_each_task_and_variant(suite: None) -> None:
    aggregate()
    found = read("results/metrics")
    cells = [(TASK, variant) for variant in VARIANTS] + [(GAN_TASK, variant) for variant in GAN_VARIANTS]
    assert set(found) == {f"{task}/{variant}.json" for task, variant in cells}
    assert found[f"{TASK}/spectral_norm.json"] == {"failed": 3}
    assert found[f"{TASK}/batch_norm.json"]["mce"] == 100.0
    assert found[f"{GAN_TASK}/batch_norm.json"] == {"fid": 63.0, "failed": 1}
    clean = statistics.mean(run.metrics["clean_accuracy"] for run in finished("conv_norm"))
    assert found[f"{TASK}/conv_norm.json"]["clean"] == float(f"{clean:.6g}")


def test_a_task_and_a_gan_task_of_one_name_share_a_file() -> None:
    board: list[Row] = [{"task": "t", "variant": "v", "clean_accuracy": 0.5, "failed": 1}]
    board[0] |= {"corruption_accuracy": math.nan, "mce": math.nan}
    found = metrics(board, [{"task": "t", "variant": "v", "fid": 2.0, "failed": 2}], [])
    assert found == {("t", "v"): {"clean": 0.5, "fid": 2.0, "failed": 3}}


def test_what_is_gone_leaves_no_file(tmp_path: Path) -> None:
    write_metrics({("t", "a"): {"clean": 0.5}, ("t", "b"): {"clean": 0.5}}, tmp_path / "metrics")
    write_metrics({("t", "b"): {"clean": 0.25}}, tmp_path / "metrics")
    assert read(str(tmp_path / "metrics")) == {"t/b.json": {"clean": 0.25}}
