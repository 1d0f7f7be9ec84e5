"""What the stages `aggregate` and `report` import."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("stage", ["aggregate", "report"])
def test_the_stages_do_not_import_torch(stage: str, folder: Path) -> None:
    """Importing it takes seconds, more than all that these stages do."""
    code = (
        f"import runpy, sys; runpy.run_module('stages.{stage}', run_name='__main__'); assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
