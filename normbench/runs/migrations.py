"""Records of earlier versions, brought to the version of today where that is possible without inventing anything.

A migration adds what can be known now. It changes nothing that was measured, so that the run keeps its id.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from normbench.runs.contents import contents
from normbench.runs.run import Kind, Status
from normbench.system import intact

AGAIN = "so the run has to be trained again"


def migrated(value: dict[str, Any], to: int, folder: Path | None) -> dict[str, Any]:
    """Returns the JSON value of a record in the format `to`.

    folder: where the file of the record lies; None if it was read from elsewhere. Raises ValueError, with the reason,
    if the record is of a format from which there is no way.
    """
    found = value.get("format", 1 if "run" in value else None)  # The first records do not say it.
    if isinstance(found, bool) or not isinstance(found, int) or found > to:
        raise ValueError(f"is a record of another version of normbench, {AGAIN}")
    while found < to:
        value = MIGRATIONS[found](value, folder) if found in MIGRATIONS else from_unknown(value, folder)
        found = value["format"]
    return value


def from_unknown(value: dict[str, Any], folder: Path | None) -> dict[str, Any]:
    """Raises ValueError for a format that never was."""
    raise ValueError(f"is a record of another version of normbench, {AGAIN}")


def from_1(value: dict[str, Any], folder: Path | None) -> dict[str, Any]:
    """Raises ValueError: precision could hang on measured times, and the normalization of inputs was not noted."""
    raise ValueError(f"is a record of version 1, which does not say all that shapes a run, {AGAIN}")


def from_2(value: dict[str, Any], folder: Path | None) -> dict[str, Any]:
    """Adds the sizes and checksums of the run's files, as they are beside the record.

    They were not noted in version 2. Damage of before is found where weights and predictions are computed again.
    """
    try:
        names = contents(Kind(value["kind"]), Status(value["status"]))
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"is a damaged record of version 2, {AGAIN}") from None
    paths = [] if folder is None else [folder / name for name in names]
    if not paths or not all(path.is_file() for path in paths):
        why = "which has no checksums of the run's files, and these are not beside it"
        raise ValueError(f"is a record of version 2, {why}; scores are measured again by the evaluation")
    files = {path.name: {"bytes": path.stat().st_size, "sha256": intact.sha256(path)} for path in paths}
    return value | {"format": 3, "files": files}


MIGRATIONS: dict[int, Callable[[dict[str, Any], Path | None], dict[str, Any]]] = {1: from_1, 2: from_2}
