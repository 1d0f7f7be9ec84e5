"""Where things lie, relative to the repository root, in which every stage runs."""

from __future__ import annotations

import os
from pathlib import Path

PARAMS = Path("params.yaml")
SUITES = Path("suites")
RESOLVED = Path("build/resolved")
DATA = Path("build/data")
CORRUPTED = Path("build/corrupted")
BOUND = Path("build/bound")
TRAINED = Path("build/trained")
GENERATED = Path("build/generated")
SCORES = Path("build/scores")
RESULTS = Path("results")
TABLES = Path("build/tables")

# What commands of normbench write into the checkout: a changed table is not a changed source.
GENERATED_PATHS = ("results", "dvc.lock", "params.yaml", "suites")


def store() -> Path:
    """The run store: a folder for each finished run, outside what DVC deletes. `NORMBENCH_STORE` moves it."""
    return Path(os.environ.get("NORMBENCH_STORE", "runs"))


def downloads() -> Path:
    """Where downloaded archives are kept, shared by all checkouts where `NORMBENCH_DOWNLOADS` says so."""
    return Path(os.environ.get("NORMBENCH_DOWNLOADS", "downloads"))
