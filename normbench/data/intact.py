"""Prepared and corrupted images are compared with their checksums when they are read, once in a process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from normbench.data import arrays
from normbench.data.bound import Bound, Corrupted
from normbench.system import files, intact, layout
from normbench.system.errors import UserError
from normbench.system.schema import first_problem

_checked: set[tuple[str, ...]] = set()


def check_bound(bound: Bound) -> None:
    """Raises UserError, with the file and the command that mends it, unless a dataset holds what its runs expect."""
    check(Path(bound.path), bound.fingerprint)


def check(folder: Path, fingerprint: str) -> None:
    """Raises UserError, with the file and the command that mends it, if a dataset has not this fingerprint.

    folder: that of the prepared dataset. It is read once in a process, unless one of its files changes.
    """
    paths = {name: folder / f"{name}.npy" for name in arrays.names_in(folder)}
    try:
        key = fingerprint, *(f"{path.absolute()} {intact.signature(path)}" for path in paths.values())
        if key in _checked:
            return
        stored = {name: _mapped(path) for name, path in paths.items()}
        found = arrays.fingerprint(stored, _stream(folder) if tuple(paths) == arrays.STREAMED else None)
    except FileNotFoundError as error:
        raise _damaged(Path(error.filename), "is missing") from None
    except OSError as error:
        raise _damaged(Path(error.filename or folder), f"cannot be read: {error.strerror or error}") from None
    if found != fingerprint:
        raise _damaged(_culprit(folder), "is not what was prepared")
    _checked.add(key)


def check_corrupted(corrupted: Corrupted) -> None:
    """Raises UserError, with the file and the command that mends it, unless corrupted images are as they were made."""
    for name in corrupted.names if corrupted.computed is None else ():
        path = Path(corrupted.path) / f"{name}.npy"
        try:
            if name in corrupted.sha256 and intact.sha256(path) == corrupted.sha256[name]:
                continue
            problem = "is not what was made"
        except OSError as error:
            problem = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
        raise _badly_corrupted(path, problem)


def corrupted_meta(dataset: str) -> Corrupted:
    """Returns the facts about the corrupted test images of a dataset.

    Raises UserError, with the command that mends it, if their meta.json is damaged.
    """
    path = layout.CORRUPTED / dataset / "meta.json"
    try:
        return Corrupted.model_validate({"path": str(path.parent), **files.read_json(path)})
    except ValidationError as error:
        problem = first_problem(error)
    except (OSError, UserError, TypeError):
        problem = "is missing or damaged"
    raise _badly_corrupted(path, problem)


def meta(folder: Path) -> dict[str, Any]:
    """Returns the meta.json of a prepared dataset.

    Raises UserError, with the command that mends it, if it is damaged.
    """
    path = folder / "meta.json"
    try:
        found = files.read_json(path)
    except FileNotFoundError:
        raise _damaged(path, "is missing") from None
    except (OSError, UserError):
        raise _damaged(path, "cannot be read") from None
    if not isinstance(found, dict) or not isinstance(found.get("fingerprint"), str):
        raise _damaged(path, "describes no dataset")
    return found


def _stream(folder: Path) -> dict[str, Any]:
    """Returns what shapes the pixels of streamed images."""
    from normbench.data.stream import Stream

    try:
        return Stream.model_validate(meta(folder).get("stream")).content()
    except ValidationError:
        raise _damaged(folder / "meta.json", "does not say how its images are read") from None


def _mapped(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError):
        raise _damaged(path, "is no array") from None


def _culprit(folder: Path) -> Path:
    """Returns the first array whose bytes are not those that its meta.json has; the folder if that says nothing."""
    noted = meta(folder).get("files")
    for name, expected in noted.items() if isinstance(noted, dict) else ():
        path = folder / f"{name}.npy"
        if name in (*arrays.ARRAYS, *arrays.STREAMED, *arrays.MASKED) and intact.sha256(path) != expected:
            return path
    return folder


def _damaged(path: Path, problem: str) -> UserError:
    name = path.parent.name if path.suffix else path.name
    return UserError(
        f"{path}: {problem}; `dvc repro` restores it (without DVC: `python -m stages.download --dataset {name}`)"
    )


def _badly_corrupted(path: Path, problem: str) -> UserError:
    mend = f"`dvc repro` restores it (without DVC: `python -m stages.corrupt --dataset {path.parent.name}`)"
    return UserError(f"{path}: {problem}; {mend}")
