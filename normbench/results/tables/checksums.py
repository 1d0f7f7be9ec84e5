"""The sha256 of every file of build/tables, so that the report shows only what `aggregate` has written."""

from __future__ import annotations

from pathlib import Path

from normbench.system import files, intact
from normbench.system.errors import UserError

CHECKSUMS = "sha256.json"


def note(folder: Path) -> None:
    """Writes the sha256 of each file in a folder, and in the folders in it, into its file `sha256.json`."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files.write_json(folder / CHECKSUMS, {str(path.relative_to(folder)): files.sha256(path) for path in paths})


def check(folder: Path) -> None:
    """Raises UserError, with the file and the command that mends it, unless a folder has the files that `note` saw."""
    mend = "`dvc repro` restores it (without DVC: `python -m stages.aggregate`)"
    try:
        noted = files.read_json(folder / CHECKSUMS)
    except (OSError, UserError):
        noted = None
    if not isinstance(noted, dict):
        raise UserError(f"{folder / CHECKSUMS}: is missing or damaged; {mend}")
    for name, expected in noted.items():
        try:
            problem = None if intact.sha256(folder / name) == expected else "is not what was written"
        except OSError as error:
            missing = isinstance(error, FileNotFoundError)
            problem = "is missing" if missing else f"cannot be read: {error.strerror or error}"
        if problem is not None:
            raise UserError(f"{folder / name}: {problem}; {mend}")
    for path in sorted(folder.rglob("*")):
        if not path.is_dir() and str(path.relative_to(folder)) not in {*noted, CHECKSUMS}:
            raise UserError(f"{path}: is not of these tables; {mend}")
