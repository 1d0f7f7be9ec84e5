"""Measures the overhead of a sweep besides the training: for each run, and once for the sweep.

A small network is trained on scikit-learn's digits with few seeds and then with many. The difference between the two
wall times, less the time of training and scores in the records of the further runs (without checkpoints), is the
overhead of the further runs. What is left of the wall time with few seeds is the overhead that a sweep has once.

    python -m benchmarks.sweep [--few 2] [--many 22] [--epochs 5] [--jobs 1] [--ray HOST:PORT]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import machine

ROOT = Path(__file__).resolve().parents[1]
PARAMS = """
suite: {{seed: 0, seeds: {seeds}, datasets: [digits], tasks: [small], variants: [batch_norm], baseline: batch_norm,
  gan_tasks: [], gan_variants: []}}
corruptions: {{names: [contrast], severities: [1]}}
datasets: {{digits: {{source: digits, image_size: 12}}}}
tasks:
  small: {{dataset: digits, model: resnet8, model_options: {{width: 8}}, recipe: {{epochs: {epochs}, batch_size: 64}}}}
variants: {{batch_norm: {{method: batch_norm}}}}
"""


def swept(seeds: int, epochs: int, options: list[str]) -> tuple[float, float]:
    """Returns the wall seconds of a sweep over `seeds` runs, and the sum of the runs' seconds in their records."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        environment = os.environ | {"PYTHONPATH": str(ROOT), "NORMBENCH_DEVICE": "cpu"}
        environment.pop("NORMBENCH_STORE", None)

        def call(*arguments: str) -> None:
            subprocess.run(
                [sys.executable, "-m", *arguments], cwd=place, env=environment, check=True, capture_output=True
            )

        (place / "params.yaml").write_text(PARAMS.format(seeds=list(range(seeds)), epochs=epochs), encoding="utf-8")
        for stage in (["resolve"], ["download", "--dataset", "digits"], ["corrupt", "--dataset", "digits"], ["bind"]):
            call(f"stages.{stage[0]}", *stage[1:])
        start = time.perf_counter()
        call("normbench", "sweep", *options)
        wall = time.perf_counter() - start
        costs = [json.loads(path.read_text())["cost"] for path in (place / "runs").glob("*/record.json")]
        assert len(costs) == seeds
        return wall, sum(sum(cost["seconds"].values()) - cost["seconds"]["checkpoints"] for cost in costs)


def main() -> None:
    """Runs both sweeps and prints the overhead."""
    parser = argparse.ArgumentParser()
    for name, default in (("few", 2), ("many", 22), ("epochs", 5), ("jobs", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--ray")
    given = parser.parse_args()
    options = ["--ray", given.ray] if given.ray else ["--jobs", str(given.jobs)]
    beside = 1 if given.ray else given.jobs
    few, few_runs = swept(given.few, given.epochs, options)
    many, many_runs = swept(given.many, given.epochs, options)
    a_run = (many_runs - few_runs) / (given.many - given.few)
    overhead = beside * (many - few) / (given.many - given.few) - a_run
    print(machine.description())
    print(f"{given.few} runs: {few:.2f} s, {given.many} runs: {many:.2f} s; a run takes {a_run:.3f} s")
    print(f"overhead of a run: {overhead:.3f} s; once: {few - given.few * (a_run + overhead) / beside:.2f} s")


if __name__ == "__main__":
    main()
