"""Published datasets as users have them: unpacked by hand, and known by the checksums of the files inside."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from normbench.data import fetch
from normbench.system.text import clean


@dataclass(frozen=True)
class Member:
    """A file inside an archive: its hexadecimal md5, and the names that it goes by, the official one first."""

    md5: str
    names: tuple[str, ...]


def find(members: Sequence[Member], folders: Iterable[Path]) -> tuple[list[Path] | None, list[str]]:
    """The paths of all members in the first folder that has all of them, each with the right md5.

    Returns None where no folder has, and a line for each folder that has some: which file is missing or another one.
    """
    lines: list[str] = []
    for folder in dict.fromkeys(folders):
        paths = [_path(member, folder) for member in members]
        if not members or not any(paths):
            continue
        wrong = [
            f"{clean(folder / member.names[0])}: not there"
            if path is None
            else f"{clean(path)}: another file by its md5"
            for member, path in zip(members, paths, strict=True)
            if path is None or not fetch.holds(path, member.md5)
        ]
        if not wrong:
            return [path for path in paths if path is not None], lines
        lines.append(wrong[0] + (f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""))
    return None, lines


def _path(member: Member, folder: Path) -> Path | None:
    return next((folder / name for name in member.names if (folder / name).is_file()), None)
