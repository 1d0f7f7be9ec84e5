"""Small packages given as text, which are written to a folder and fingerprinted there."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from textwrap import dedent

from normbench.system.fingerprint import Closure, Root, closure

MOMENTS = itertools.count(10**18)  # increasing modification times, however fast the files are written


def write(folder: Path, sources: dict[str, str]) -> Path:
    """Writes files, given by their path below the folder, and removes all others from it."""
    for old in sorted(folder.rglob("*"), reverse=True):
        old.rmdir() if old.is_dir() else old.unlink()
    for name, text in sources.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text), encoding="utf-8")
        os.utime(path, ns=(0, next(MOMENTS)))
    return folder


def closure_of(folder: Path, sources: dict[str, str], *roots: str) -> Closure:
    """Writes the sources and returns the closure of the roots.

    roots: `pkg/a.py:f`, or `pkg/a.py` for the whole file; by default the `f` of `pkg/a.py`.
    """
    write(folder, sources)
    split = (root.partition(":") for root in roots or ("pkg/a.py:f",))
    return closure([Root(folder / file, name or None) for file, _, name in split])


def reached(folder: Path, sources: dict[str, str], *roots: str) -> set[str]:
    """Returns the definitions of the closure, as `a.f`."""
    found = closure_of(folder, sources, *roots).definitions
    return {".".join([*path.relative_to(folder.resolve()).with_suffix("").parts[1:], name]) for path, name in found}


def digest(folder: Path, sources: dict[str, str], *roots: str) -> str:
    """Returns the digest of the closure."""
    return closure_of(folder, sources, *roots).digest
