"""The records in a folder such as build/scores, whether they are of the suite or not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from normbench.runs.record import Record
from normbench.system.errors import UserError
from normbench.system.text import complain

NAMED = 20  # files which are left out that are named


@dataclass(frozen=True)
class Found:
    """A record and its file. task, variant: those of the path, as a record keeps the names its run was trained with."""

    path: Path
    task: str
    variant: str
    record: Record


def found_in(folder: Path) -> list[Found]:
    """Returns the records `<kind>/<task>/<variant>/<seed>.json` of a folder by kind, task, variant and seed.

    A file that is no valid record is named on stderr and left out. Raises UserError if there is no record.
    """
    given = [path for path in folder.glob("*/*/*/*.json") if path.stem.isdecimal()]
    paths = sorted(given, key=lambda path: (path.parts[:-1], int(path.stem)))
    if not paths:
        raise UserError(f"{folder}: has no records <kind>/<task>/<variant>/<seed>.json")
    records: list[Found] = []
    bad: list[str] = []
    for path in paths:
        try:
            records.append(Found(path, path.parts[-3], path.parts[-2], Record.read(path)))
        except (OSError, UserError) as error:
            bad.append(str(error))
    leave_out(folder, bad)
    if not records:
        raise UserError(f"{folder}: none of its {len(paths)} records is valid")
    return records


def leave_out(folder: Path, problems: list[str]) -> None:
    """Says on stderr which files are left out. problems: a line for each, which begins with the file."""
    for text in problems[:NAMED]:
        complain(f"{text}; left out")
    if len(problems) > NAMED:
        complain(f"{folder}: {len(problems) - NAMED} more files are left out for such reasons")
