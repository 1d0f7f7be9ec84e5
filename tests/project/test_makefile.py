"""The Makefile in a checkout whose path has what make, shells and the first lines of scripts do not take."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ["plain", "a b", 'it\'s "so"', "c#d", "$HOME $(pwd)", "größe ü", "x" * 200]
# Stands for Python: notes its arguments, and creates an environment with itself in it when it is asked to.
PYTHON = """#!/bin/sh
printf '%s\\n' "$*" >> "$NOTES"
if [ "$1 $2" = "-m venv" ]; then
  mkdir -p "$4/bin" && cp "$0" "$4/bin/python" && cp "$0" "$4/bin/uv"
fi
"""


@pytest.fixture(params=FOLDERS)
def checkout(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    folder = tmp_path / request.param
    folder.mkdir()
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, folder / name)
    (tmp_path / "python").write_text(PYTHON)
    (tmp_path / "python").chmod(0o755)
    return folder


def make(checkout: Path, *targets: str) -> list[str]:
    """The arguments with which make calls Python and uv."""
    notes = checkout.parent / "notes"
    notes.write_text("")
    environment = os.environ | {"NOTES": str(notes)}
    python = checkout.parent / "python"
    done = subprocess.run(
        ["make", f"PYTHON={python}", *targets], cwd=checkout, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return notes.read_text().splitlines()


def test_every_path_is_taken(checkout: Path) -> None:
    made = make(checkout, "env")
    assert made[1] == "-m venv --clear .venv"
    assert made[2].startswith("-m pip install")
    assert made[3].startswith("pip install --quiet --python .venv/bin/python")
    assert make(checkout, "results") == ["-m normbench results"]
    assert make(checkout, "lint") == ["-m ruff format --check .", "-m ruff check .", "-m mypy"]
    assert make(checkout, "test", "PYTEST=tests/a.py") == [
        "-m pytest -n 2 --dist loadfile --no-loadscope-reorder tests/a.py"
    ]


def test_the_environment_comes_first_for_stages(checkout: Path) -> None:
    """DVC calls `python`, which must be that of the environment."""
    (checkout / "Makefile").write_text((ROOT / "Makefile").read_text() + "\nwhich:\n\t@command -v python\n")
    make(checkout, "env")
    found = subprocess.run(["make", "-s", "which"], cwd=checkout, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == str(checkout / ".venv/bin/python")
