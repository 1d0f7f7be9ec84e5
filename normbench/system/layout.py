"""The paths of the project, relative to the root of the repository, which is the working directory of every stage."""

from __future__ import annotations

import os
from pathlib import Path

PARAMS = Path("params.yaml")
SUITES = Path("suites")
BUILD = Path("build")
OUTSIDE = Path("build/outside.json")  # digests of the data outside of DVC's view
LOOKED = Path("build/outside.cache.json")  # what spares this machine to read them again
RESOLVED = Path("build/resolved")
DATA = Path("build/data")
CORRUPTED = Path("build/corrupted")
BOUND = Path("build/bound")
TRAINED = Path("build/trained")
GENERATED = Path("build/generated")
REAL = Path("build/real")  # of the real images, for the scores of GANs
SCORES = Path("build/scores")
RESULTS = Path("results")
TABLES = Path("build/tables")

# Paths in the checkout that normbench itself writes. Changes there do not count as uncommitted changes of the source.
GENERATED_PATHS = ("results", "dvc.lock", "params.yaml", "suites")


def store() -> Path:
    """Returns the folder of the run store, which holds a folder for each finished run.

    It is `runs`, or the folder in the environment variable NORMBENCH_STORE. DVC never deletes anything in it.
    """
    return Path(os.environ.get("NORMBENCH_STORE", "runs"))


def decoded() -> Path:
    """Returns the folder that keeps decoded images of streamed datasets.

    It is `build/decoded`, or the folder in the environment variable NORMBENCH_DECODED, e.g. on a disk that is fast.
    """
    return Path(os.environ.get("NORMBENCH_DECODED", "build/decoded"))


def downloads() -> Path:
    """Returns the folder that keeps downloaded archives.

    It is `downloads`, or the folder in the environment variable NORMBENCH_DOWNLOADS, which several checkouts can share.
    """
    return Path(os.environ.get("NORMBENCH_DOWNLOADS", "downloads"))
