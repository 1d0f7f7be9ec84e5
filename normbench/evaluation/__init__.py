"""Scores of trained classifiers, one a file; `fold(model)` gives the plain network behind a trained one."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    # Late, as `fold` knows the layers of every method, which most of what is here does not need.
    if name == "fold":
        from normbench.evaluation.folding import fold

        return fold
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
