"""Downloads archives from their official addresses or from a mirror, and checks their md5 or sha256.

An interrupted transfer is resumed where it stopped, even by a later call. An incomplete file never has its final name.
Every download is limited in size and time, whatever a server does (see `normbench.data.http`).
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from normbench.data import http
from normbench.data.http import Refused, Unavailable
from normbench.system import files
from normbench.system.errors import UserError
from normbench.system.progress import Progress
from normbench.system.scratch import make_folder
from normbench.system.text import say

WAITS = (0.5, 2.0)  # seconds before the first and the second retry
PROGRESS = 1 << 16  # bytes that a request must add, or else it counts as one that failed
LONGEST = 24 * 3600.0  # seconds for one archive; a later call goes on with it
OF_DATASETS = ("  - bring arrays of your own: `source: npz` with `path:` and `sha256:` in params.yaml",)
LARGEST = 1 << 34  # bytes of an archive whose size is not known


@dataclass(frozen=True)
class Archive:
    """A file to download: its name, its checksum, its official addresses in the order to try them, and a limit.

    checksum: the hexadecimal md5 or sha256 of its bytes, whichever is published. largest: the most bytes that it may
    have. More are not downloaded, so it should be the size where that is known.
    """

    name: str
    checksum: str
    addresses: tuple[str, ...]
    largest: int = LARGEST

    @property
    def shown(self) -> str:
        """The checksum with its name."""
        return f"{_algorithm(self.checksum)} {self.checksum}"


def fetch(
    archives: Sequence[Archive],
    folder: Path,
    dataset: str,
    source: str,
    mirror: str | None,
    helps: Sequence[str] | None = None,
) -> list[Path]:
    """Downloads the archives that are missing in `folder`; returns the paths of all, each with the right checksum.

    `mirror` is a folder or an http(s) address that replaces the official addresses: a file is looked for at
    `<mirror>/<name>` and at `<mirror>/<source>/<name>`. Where it is None, the environment variable NORMBENCH_MIRROR is
    the mirror, if it is set. `source` is the name of the source, `dataset` that of the dataset, for error messages. For
    archives of no dataset, `dataset` says what they are, and `helps` are lines on what else would help.

    A file gets its final name once its checksum is right. Until then it is `<name>.part`, which a later call continues.

    Raises UserError if an archive cannot be obtained. The message lists what was tried and what would help. Raises
    OSError if it cannot be stored, for example because the disk is full; then nothing incomplete is left.
    """
    named = "mirror" if mirror else "NORMBENCH_MIRROR"
    wanted = f"dataset '{dataset}'" if helps is None else dataset
    mirror = mirror or os.environ.get("NORMBENCH_MIRROR") or None
    missing = [archive for archive in archives if not holds(folder / archive.name, archive.checksum)]
    if missing:
        if mirror is not None:
            _check_mirror(mirror, f"{wanted}: {named}")
        make_folder(folder)
        with _locked(folder):
            for archive in missing:
                _fetch_one(archive, folder, wanted, source, mirror, missing, helps)
    return [folder / archive.name for archive in archives]


def checksum(path: Path, like: str) -> str:
    """The hexadecimal md5 or sha256 of a file's bytes, of the same kind as `like`.

    An md5 is what many sources publish, and no defence against forgery.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(_algorithm(like), usedforsecurity=False)).hexdigest()


def holds(path: Path, expected: str) -> bool:
    """Whether there is a file at `path` with the expected md5 or sha256."""
    return path.is_file() and checksum(path, expected) == expected


def _algorithm(checksum: str) -> str:
    """The name of the algorithm of a checksum, which its length tells."""
    return "md5" if len(checksum) == 32 else "sha256"


def _other(found: str, size: int) -> str:
    """What is wrong with a file, by its checksum."""
    return f"{_algorithm(found)} {found}, {size} bytes: truncated, or another file"


def is_address(place: str) -> bool:
    """Whether a place is an http(s) address, and not a folder or file."""
    return re.match("https?://", place, re.IGNORECASE) is not None


def _check_mirror(mirror: str, where: str) -> None:
    """Raises UserError if a mirror is an address that cannot be used. `where` begins its message."""
    scheme = re.match(r"([a-z][a-z0-9+.-]+):/", mirror, re.IGNORECASE)
    if is_address(mirror):
        try:
            http.parsed(mirror)
        except Refused as reason:
            raise UserError(f"{where} = {http.shown(mirror)}: {reason}") from None
    elif scheme:
        folder = "; name a folder without `file:`" if scheme[1].lower() == "file" else ""
        raise UserError(f"{where} = {http.shown(mirror)}: must be a folder or begin with http:// or https://{folder}")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Allows one process at a time into the block, because several stages and checkouts may share a download folder."""
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"{folder}: waiting for another process that downloads into it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def parts(folder: Path) -> list[Path]:
    """Returns the incomplete downloads in a folder, sorted, unless a process is downloading into it."""
    found = sorted(folder.glob("*.part"))
    if not found or not (folder / ".lock").is_file():
        return found
    with (folder / ".lock").open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return []
    return found


def _fetch_one(
    archive: Archive,
    folder: Path,
    wanted: str,
    source: str,
    mirror: str | None,
    missing: Sequence[Archive],
    helps: Sequence[str] | None,
) -> None:
    """Downloads or copies one archive into `folder` from the first place that has it. Raises UserError if none has."""
    target = folder / archive.name
    looked = f"{target}: not there"
    if target.is_file():
        found = checksum(target, archive.checksum)
        if found == archive.checksum:  # Another process has fetched it while this one waited.
            return
        looked = f"{target}: {_other(found, target.stat().st_size)}"
    part = folder / f"{archive.name}.part"
    failures = [looked]
    for place in _places(archive, source, mirror):
        try:
            if is_address(place):
                _download(place, part, archive)
            else:
                _copy(Path(place).expanduser(), part, archive)
        except Unavailable as reason:
            failures.append(f"{http.shown(place)}: {reason}")
        except OSError as error:
            if error.errno in files.NO_ROOM:
                part.unlink(missing_ok=True)
            raise
        else:
            files.sync(part)
            part.replace(target)
            return
    raise UserError(*_explanation(archive, folder, wanted, mirror, missing, failures, helps))


def _places(archive: Archive, source: str, mirror: str | None) -> tuple[str, ...]:
    """The addresses or paths at which to look for an archive, in order."""
    if mirror is None:
        return archive.addresses
    base = mirror.rstrip("/")
    return f"{base}/{archive.name}", f"{base}/{source}/{archive.name}"


def _copy(path: Path, part: Path, archive: Archive) -> None:
    """Copies an archive from a mirror folder to `part`. Raises Unavailable if it is missing or another file."""
    if not path.is_file():
        raise Unavailable("not there")
    found = checksum(path, archive.checksum)
    if found != archive.checksum:
        raise Unavailable(_other(found, path.stat().st_size))
    files.copy(path, part)
    if not holds(part, archive.checksum):
        part.unlink()
        raise Unavailable("changed while it was copied")


def _download(address: str, part: Path, archive: Archive) -> None:
    """Downloads an archive with the right checksum to `part`.

    If the checksum is wrong, for example because a download of an older version was resumed with a newer one, the file
    is downloaded once more from the start. Raises Unavailable if that fails too.
    """
    for _ in range(2):
        encoding = _receive(address, part, archive.largest)
        exists = part.exists()
        found, size = (checksum(part, archive.checksum), part.stat().st_size) if exists else ("of nothing", 0)
        if found == archive.checksum:
            return
        part.unlink(missing_ok=True)
    sent = f", sent with Content-Encoding: {encoding}" if encoding else ""
    raise Unavailable(f"{_algorithm(archive.checksum)} {found}, {size} bytes: another file{sent}")


def _receive(address: str, part: Path, largest: int) -> str:
    """Downloads `address` to `part`, resuming interrupted transfers after a short wait; returns the content's encoding.

    Raises Unavailable if the server refuses, after three requests in a row that brought nearly nothing, and after the
    longest time. `part` is kept then, unless it is larger than an archive may be.
    """
    failures, most, began = 0, _size(part), time.monotonic()
    while True:
        try:
            return _transfer(address, part, largest, began + LONGEST)
        except Refused:
            raise
        except Unavailable as error:
            if _size(part) >= most + PROGRESS:
                failures = 0
            most = max(most, _size(part))
            failures += 1
            if failures > len(WAITS):
                raise error from None
        time.sleep(WAITS[failures - 1])


def _transfer(address: str, part: Path, largest: int, deadline: float) -> str:
    """Makes one request for the bytes that `part` lacks and appends them; returns the encoding of the content, or "".

    A server without support for ranges sends the whole file, which then replaces `part`. Raises Unavailable if the
    transfer ended early and Refused if another one would not help.
    """
    have = _size(part)
    if have > largest:
        part.unlink()
        have = 0
    with http.request(address, have, deadline) as answer:
        if answer.status == 416:  # The part is complete or too long; the checksum will show which.
            return ""
        if answer.status == 206 and answer.start != have:
            part.unlink(missing_ok=True)
            raise Unavailable("the server sent another range than the one asked for")
        have = have if answer.status == 206 else 0
        total = answer.total
        if total is not None and total > largest:
            raise Refused(f"has {total} bytes; {part.name.removesuffix('.part')} has at most {largest}")
        _check_room(part, have, total)
        name = part.name.removesuffix(".part")
        with (
            files.writing(part, total),
            part.open("ab" if have else "wb") as file,
            Progress(f"download {name}", total=max(1, (total or have) - have)) as progress,
        ):
            received = 0
            for chunk in answer:
                received += len(chunk)
                if have + received > (largest if total is None else total):
                    part.unlink()
                    raise Refused(f"sends more than the {largest if total is None else total} bytes that {name} has")
                file.write(chunk)
                progress.update(received, f"{_megabytes(have + received)} of {_megabytes(total)} MB")
            if total is not None and have + received != total:
                raise Unavailable(f"connection closed after {have + received} of {total} bytes")
            progress.close(f"{_megabytes(have + received)} MB")
    return answer.encoding


def _check_room(part: Path, have: int, total: int | None) -> None:
    """Raises OSError before anything is written if the disk has no room for the rest of a file."""
    if total is not None and shutil.disk_usage(part.parent).free < total - have:
        with files.writing(part, total):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _megabytes(size: int | None) -> str:
    return "?" if size is None else f"{size / 1e6:.1f}"


def _explanation(
    archive: Archive,
    folder: Path,
    wanted: str,
    mirror: str | None,
    missing: Sequence[Archive],
    failures: Sequence[str],
    helps: Sequence[str] | None,
) -> list[str]:
    """The lines of the error for an archive that is nowhere to be found: what is missing, was tried, and would help."""
    lacking = [one for one in missing if not (folder / one.name).is_file() or one == archive]
    place = "none is set" if mirror is None else http.shown(mirror)
    lines = [f"{wanted}: no copy of", *(f"  {one.name}  ({one.shown})" for one in lacking)]
    lines += [f"looked for {archive.name} (mirror: {place})", *(f"  {failure}" for failure in failures)]
    named, them = ("files", "them") if len(lacking) > 1 else ("file", "it")
    by_mirror = f"`mirror:` of {wanted.removeprefix('dataset ')} in params.yaml, or " if helps is None else ""
    lines += [
        "any one of these helps:",
        f"  - put the {named} into {folder}{os.sep}",
        f"  - name a folder or http(s) address that has {them}: {by_mirror}NORMBENCH_MIRROR",
        *(OF_DATASETS if helps is None else helps),
    ]
    return lines
