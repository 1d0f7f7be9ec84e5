"""Cleaning: remains of killed processes, checkpoints that are not needed, and runs of other suites."""

from __future__ import annotations

import re
from pathlib import Path

from normbench.data import fetch
from normbench.runs import store
from normbench.runs.run import FID_FEATURES
from normbench.suite import runs
from normbench.suite.resolve import resolve
from normbench.system import layout, scratch
from normbench.system.errors import UserError
from normbench.system.text import complain, say

ID = r"([0-9a-f]{16})"
MIB = 2**20
KILLED = "left behind by a process that was killed"


def remains() -> dict[Path, str]:
    """Returns what killed processes have left in the project, the store and the downloads, each with the reason.

    What a running process is working on is left out.
    """
    found: dict[Path, str] = {}
    for folder in (*_folders(layout.BUILD), layout.RESULTS, layout.SUITES, *_folders(layout.downloads()), Path()):
        found |= dict.fromkeys(scratch.left_behind(folder), KILLED)
    for folder in (layout.store(), *sorted(layout.store().glob("*.unfinished"))):
        found |= dict.fromkeys(scratch.left_behind(folder), KILLED)
    # The names that earlier versions gave them. Their processes held no locks on them.
    for folder in _folders(layout.BUILD):
        hidden = (path for path in sorted(folder.glob(".*")) if re.fullmatch(r"\..+\.[a-z0-9_]{8}", path.name))
        found |= dict.fromkeys((path for path in hidden if not scratch.in_use(path)), KILLED)
    for path in sorted(layout.store().glob(".*")):
        run = re.match(rf"\.({ID}|import)\.", path.name)
        if run and not scratch.is_temporary(path) and (run[1] == "import" or not store.busy(run[1])):
            found[path] = KILLED
    for folder in _folders(layout.downloads()):
        found |= dict.fromkeys(fetch.parts(folder), "a download that was interrupted, and would go on from there")
    return found


def _folders(root: Path) -> list[Path]:
    """Returns a folder and those below it, sorted, without temporary ones; none if it is not there."""
    below = (path for path in root.rglob("*") if path.is_dir())
    inside = (path for path in below if not any(part.startswith(".") for part in path.relative_to(root).parts))
    return sorted([root, *inside]) if root.is_dir() else []


def needless(finished: bool) -> dict[Path, str]:
    """Returns the folders of the store that no run of the suite needs, each with the reason.

    These are checkpoints of finished runs and of runs that are not in the suite, results that were set aside and, if
    `finished` is set, finished runs that are not in the suite. Folders that a process is using are left out. Raises
    UserError if a dataset is missing, because the runs of the suite are then not known.
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

    finished: whether finished runs that are not in the suite count too. Raises UserError if the runs of the suite are
    not known; the remains of killed processes are removed nevertheless.
    """
    found = remains()
    try:
        found |= needless(finished)
    finally:
        total = 0
        for path, why in found.items():
            total += (size := _size(path))
            say(f"{path}: {why}, {size / MIB:.1f} MiB")
            if remove:
                scratch.discard(path)
                if path.exists():
                    complain(f"{path}: could not be removed; is it in use, or is it not yours?")
        done = "removed" if remove else "could be removed, with --remove"
        if found:
            kinds = "folders" if all(path.suffix != ".part" for path in found) else "folders and files"
            say(f"{len(found)} {kinds}, {total / MIB:.1f} MiB, {done}")
    if not found:
        say(f"{layout.store()}: nothing is needless")


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() and not path.is_symlink() else [path]
    return sum(file.lstat().st_size for file in files if file.is_file())
