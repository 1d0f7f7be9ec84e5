"""A finished run in a folder, read with the check that its files are those which its record describes."""

from __future__ import annotations

from pathlib import Path

from normbench.runs.contents import RECORD
from normbench.runs.record import Stored, TrainedRecord
from normbench.system import intact
from normbench.system.errors import UserError

_records: dict[tuple[str, intact.Signature], TrainedRecord | str] = {}


def record_in(folder: Path, whole: bool = True) -> TrainedRecord:
    """Returns the record of the finished run in a folder.

    whole: whether to compare the sha256 of its files with the record, once a process for each file, instead of their
    sizes alone. Raises UserError, which names the file, if the record is not valid or a file is not as it says.
    """
    record = _record(folder / RECORD)
    for name, stored in record.files.items():
        check(folder / name, stored, whole)
    return record


def check(path: Path, stored: Stored, whole: bool = True) -> None:
    """Raises UserError unless a file of a run is as its record says. whole: see `record_in`."""
    if whole:
        problem = intact.problem(path, stored.sha256, stored.bytes)
    else:
        problem = intact.size_problem(path, stored.bytes)
    if problem is not None:
        raise UserError(f"{path}: {problem}")


def facts(folder: Path, names: list[str]) -> dict[str, Stored]:
    """Returns the size and sha256 of files in a folder, by name."""
    return {name: Stored(bytes=(folder / name).stat().st_size, sha256=intact.sha256(folder / name)) for name in names}


def _record(path: Path) -> TrainedRecord:
    """Reads a record; while its file does not change, it is parsed once in a process."""
    try:
        key = str(path.absolute()), intact.signature(path)
        if key not in _records:
            try:
                _records[key] = TrainedRecord.read(path)
            except UserError as error:
                _records[key] = str(error)
    except FileNotFoundError:
        raise UserError(f"{path}: is missing") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    found = _records[key]
    if isinstance(found, str):
        raise UserError(found)
    return found
