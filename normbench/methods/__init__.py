"""The normalization methods, one a file, found by file name; `fold(model)` gives the plain network behind one."""

from __future__ import annotations

import importlib
from typing import Any


def __getattr__(name: str) -> Any:
    # By name and late: what a method's file imports is in the fingerprint of its runs, and `fold` imports every method.
    if name == "fold":
        return importlib.import_module("normbench.evaluation.folding").fold
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
