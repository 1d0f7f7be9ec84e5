"""Small packages as text, written to a folder and fingerprinted there."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from textwrap import dedent

from normbench.system.fingerprint import Closure, Root, closure

MOMENTS = itertools.count(10**18)  # of files, each later than the one before, however fast they are written


def write(folder: Path, sources: dict[str, str]) -> Path:
    """Files by their path below the folder, which has no others afterwards."""
    for old in sorted(folder.rglob("*"), reverse=True):
        old.rmdir() if old.is_dir() else old.unlink()
    for name, text in sources.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text), encoding="utf-8")
        os.utime(path, ns=(0, next(MOMENTS)))
    return folder


def closure_of(folder: Path, sources: dict[str, str], *roots: str) -> Closure:
    """roots: `pkg/a.py:f`, or `pkg/a.py` for the whole file; the `f` of `pkg/a.py` where none is given."""
    write(folder, sources)
    split = (root.partition(":") for root in roots or ("pkg/a.py:f",))
    return closure([Root(folder / file, name or None) for file, _, name in split])


def reached(folder: Path, sources: dict[str, str], *roots: str) -> set[str]:
    """The definitions of a closure as `a.f`."""
    found = closure_of(folder, sources, *roots).definitions
    return {".".join([*path.relative_to(folder.resolve()).with_suffix("").parts[1:], name]) for path, name in found}


def digest(folder: Path, sources: dict[str, str], *roots: str) -> str:
    return closure_of(folder, sources, *roots).digest
