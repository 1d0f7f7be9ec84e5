"""Evaluation of trained classifiers, one file per score. `fold(model)` turns a trained network into a plain one."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    # Imported on first use, because `fold` imports every method, which most of this package does not need.
    if name == "fold":
        from normbench.evaluation.folding import fold

        return fold
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
