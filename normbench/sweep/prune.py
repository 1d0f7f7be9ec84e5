"""Cleaning of the run store: checkpoints and temporary folders that are not needed, and runs of other suites."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from normbench.runs import store
from normbench.runs.run import FID_FEATURES
from normbench.suite import runs
from normbench.suite.resolve import resolve
from normbench.system import layout
from normbench.system.errors import UserError
from normbench.system.text import say

ID = r"([0-9a-f]{16})"
MIB = 2**20


def needless(finished: bool) -> dict[Path, str]:
    """Returns the folders of the store that can be removed, each with the reason.

    These are checkpoints of finished runs and of runs that are not in the suite, temporary folders of killed processes,
    results that were set aside and, if `finished` is set, finished runs that are not in the suite. Folders that a
    process is using are left out. Raises UserError if a dataset is missing, because the runs of the suite are then not
    known.
    """
    resolved = resolve()
    bound, absent = runs.bound_tasks(resolved)
    if absent:
        name, why = next(iter(absent.items()))
        raise UserError(
            f"dataset {name}: {why}, so that the runs of the suite are not known; `dvc repro bind` makes it"
        )
    suite = {run.id for run in runs.of_suite(resolved, bound)}
    found = {}
    for path in sorted(layout.store().glob("*")):
        if unfinished := re.fullmatch(rf"{ID}\.unfinished", path.name):
            run, foreign = unfinished[1], unfinished[1] not in suite
            why = "checkpoints of a run that is not of the suite" if foreign else "checkpoints of a finished run"
            needed = not foreign and not store.finished(run)
        elif temporary := re.match(rf"\.{ID}\.", path.name):
            run, why, needed = temporary[1], "left behind by a process that was killed", False
        elif aside := re.fullmatch(rf"{ID}\.bad-[0-9]+", path.name):
            run, why, needed = aside[1], "set aside because it could not be used", False
        elif re.fullmatch(ID, path.name):
            run, why = path.name, "finished, not of the suite"
            needed = not finished or run in suite or not store.finished(run)
            needed = needed or is_feature_run(run)
        else:
            continue
        if not needed and not store.busy(run):
            found[path] = why
    return found


def is_feature_run(run: str) -> bool:
    """Whether a finished run is a classifier for the FID. Such a run belongs to every suite."""
    try:
        return store.record(run).name[0] == FID_FEATURES
    except UserError:
        return False


def prune(finished: bool, remove: bool) -> None:
    """Prints what can be removed, with its size, and removes it if `remove` is set.

    finished: whether finished runs that are not in the suite count too.
    """
    found = needless(finished)
    total = 0
    for path, why in found.items():
        size = sum(file.stat().st_size for file in [path, *path.rglob("*")] if file.is_file())
        total += size
        say(f"{path}: {why}, {size / MIB:.1f} MiB")
        if remove and path.is_dir():
            shutil.rmtree(path)
        elif remove:
            path.unlink()
    done = "removed" if remove else "could be removed, with --remove"
    say(f"{len(found)} folders, {total / MIB:.1f} MiB, {done}" if found else f"{layout.store()}: nothing is needless")
