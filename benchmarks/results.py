"""Prints where the seconds of `make results` go: phases before `dvc repro`, then each stage's work and DVC's own time.

It clones the committed files of this checkout into a temporary folder, and makes everything there, twice.

    python -m benchmarks.results
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from normbench.runs.provenance import cpu_name

ROOT = Path(__file__).resolve().parents[1]
PHASES = {
    "params.yaml: in order": "import and check",
    "runs in the suite,": "data",
    "`dvc repro` assembles": "training",
}


def made(folder: Path) -> float:
    """Makes all results in a clone, prints the seconds of each phase and stage, and returns the seconds of all."""
    environment = os.environ | {"PYTHONPATH": str(folder), "PYTHONUNBUFFERED": "1"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = [sys.executable, "-m", "normbench", "results"]
    began = last = time.perf_counter()
    dvc, stage = 0.0, ""
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            now = time.perf_counter()
            phase = next((name for text, name in PHASES.items() if text in line), "")
            if line.startswith("Running stage"):
                dvc, stage, last = dvc + now - last, line.split("'")[1], now
            elif phase or (stage and line.startswith(("Updating lock file", "Stage '", "Use `dvc"))):
                print(f"{now - last:8.2f} s  {phase or stage}")
                stage, last = "", now
    assert process.returncode == 0
    print(f"{dvc:8.2f} s  DVC, between the stages")
    return time.perf_counter() - began


def main() -> None:
    """Makes everything, then once more with nothing changed."""
    print(f"{cpu_name()}, {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "normbench"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
        print(f"{made(folder):8.2f} s  in all")
        print(f"{made(folder):8.2f} s  with nothing changed")


if __name__ == "__main__":
    main()
