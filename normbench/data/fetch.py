"""Downloads archives from their official addresses or from a mirror, and checks their md5.

An interrupted transfer is resumed where it stopped, even by a later call. An incomplete file never has its final name.
"""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import os
import re
import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from normbench import __version__
from normbench.system.errors import UserError
from normbench.system.progress import Progress
from normbench.system.text import say

TIMEOUT = 20.0  # seconds without data after which a connection counts as broken
WAITS = (0.5, 2.0)  # seconds before the first and the second retry
CHUNK = 1 << 18  # bytes that are read at a time


@dataclass(frozen=True)
class Archive:
    """A file to download: its name, its hexadecimal md5, and its official addresses in the order to try them."""

    name: str
    md5: str
    addresses: tuple[str, ...]


class Unavailable(Exception):
    """An archive could not be obtained from one folder or address. The message says why, for the error text."""


def fetch(archives: Sequence[Archive], folder: Path, dataset: str, source: str, mirror: str | None) -> list[Path]:
    """Downloads the archives that are missing in `folder`; returns the paths of all, each with the right md5.

    `mirror` is a folder or an http(s) address that replaces the official addresses: a file is looked for at
    `<mirror>/<name>` and at `<mirror>/<source>/<name>`. Where it is None, the environment variable NORMBENCH_MIRROR is
    the mirror, if it is set. `source` is the name of the source, `dataset` that of the dataset, for error messages.

    A file gets its final name once its md5 is right. Until then it is `<name>.part`, which a later call continues.

    Raises UserError if an archive cannot be obtained. The message lists what was tried and what would help.
    """
    mirror = mirror or os.environ.get("NORMBENCH_MIRROR") or None
    missing = [archive for archive in archives if not holds(folder / archive.name, archive.md5)]
    if missing:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            for archive in missing:
                _fetch_one(archive, folder, dataset, source, mirror, missing)
    return [folder / archive.name for archive in archives]


def md5(path: Path) -> str:
    """Hexadecimal md5 of a file's bytes: the checksum that the sources publish, not a defence against forgery."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def holds(path: Path, expected: str) -> bool:
    """Whether there is a file at `path` with the expected md5."""
    return path.is_file() and md5(path) == expected


def is_address(place: str) -> bool:
    """Whether a place is an http(s) address, and not a folder or file."""
    return place.startswith(("http://", "https://"))


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


def _fetch_one(
    archive: Archive, folder: Path, dataset: str, source: str, mirror: str | None, missing: Sequence[Archive]
) -> None:
    """Downloads or copies one archive into `folder` from the first place that has it. Raises UserError if none has."""
    target = folder / archive.name
    looked = f"{target}: not there"
    if target.is_file():
        found = md5(target)
        if found == archive.md5:  # Another process has fetched it while this one waited.
            return
        looked = f"{target}: md5 {found}, {target.stat().st_size} bytes: truncated, or another file"
    part = folder / f"{archive.name}.part"
    failures = [looked]
    for place in _places(archive, source, mirror):
        try:
            if is_address(place):
                _download(place, part, archive)
            else:
                _copy(Path(place).expanduser(), part, archive)
        except Unavailable as reason:
            failures.append(f"{place}: {reason}")
        else:
            part.replace(target)
            return
    raise UserError(*_explanation(archive, folder, dataset, mirror, missing, failures))


def _places(archive: Archive, source: str, mirror: str | None) -> tuple[str, ...]:
    """The addresses or paths at which to look for an archive, in order."""
    if mirror is None:
        return archive.addresses
    base = mirror.rstrip("/")
    return f"{base}/{archive.name}", f"{base}/{source}/{archive.name}"


def _copy(path: Path, part: Path, archive: Archive) -> None:
    """Copies an archive from a mirror folder to `part`. Raises Unavailable if it is missing or its md5 is wrong."""
    if not path.is_file():
        raise Unavailable("not there")
    found = md5(path)
    if found != archive.md5:
        raise Unavailable(f"md5 {found}, {path.stat().st_size} bytes: truncated, or another file")
    shutil.copyfile(path, part)
    if not holds(part, archive.md5):
        raise Unavailable("changed while it was copied")


def _download(address: str, part: Path, archive: Archive) -> None:
    """Downloads an archive with the right md5 to `part`.

    If the md5 is wrong, for example because a download of an older version was resumed with a newer one, the file is
    downloaded once more from the start. Raises Unavailable if that fails too.
    """
    for _ in range(2):
        _receive(address, part)
        found, size = md5(part), part.stat().st_size
        if found == archive.md5:
            return
        part.unlink()
    raise Unavailable(f"md5 {found}, {size} bytes: another file")


def _receive(address: str, part: Path) -> None:
    """Downloads `address` to `part`, resuming interrupted transfers after a short wait.

    Raises Unavailable if the server refuses, or after three requests in a row that delivered no data.
    """
    failures = 0
    while True:
        before = _size(part)
        try:
            _transfer(address, part)
            return
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError) as error:
            failures = 1 if _size(part) > before else failures + 1  # A request that delivered data resets the count.
            if failures > len(WAITS) or not _transient(error):
                raise Unavailable(_reason(error)) from None
        time.sleep(WAITS[failures - 1])


def _transfer(address: str, part: Path) -> None:
    """Makes one request for the bytes that `part` lacks and appends them.

    A server without support for ranges sends the whole file, which then replaces `part`. Raises the errors of urllib
    and http.client, and ConnectionError if the transfer ended early.
    """
    have = _size(part)
    headers = {"User-Agent": f"normbench/{__version__}"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # The part is complete or too long; the md5 will show which.
            return
        raise
    with response:
        if response.status == 206:
            sent = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
            if sent is None or int(sent[1]) != have:
                part.unlink(missing_ok=True)
                raise ConnectionError("the server sent another range than the one asked for")
            total: int | None = int(sent[2])
        else:
            have = 0
            length = response.headers.get("Content-Length")
            total = None if length is None else int(length)
        name = part.name.removesuffix(".part")
        with (
            part.open("ab" if have else "wb") as file,
            Progress(f"download {name}", total=max(1, (total or have) - have)) as progress,
        ):
            received = 0
            while chunk := response.read(CHUNK):
                file.write(chunk)
                received += len(chunk)
                progress.update(received, f"{_megabytes(have + received)} of {_megabytes(total)} MB")
            if total is not None and have + received != total:
                raise ConnectionError(f"connection closed after {have + received} of {total} bytes")
            progress.close(f"{_megabytes(have + received)} MB")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _megabytes(size: int | None) -> str:
    return "?" if size is None else f"{size / 1e6:.1f}"


def _transient(error: Exception) -> bool:
    """Whether repeating the request may help: not if the server refused it, or if connecting timed out."""
    if isinstance(error, urllib.error.HTTPError):
        return error.code >= 500 or error.code in (408, 429)
    return not (isinstance(error, urllib.error.URLError) and isinstance(error.reason, TimeoutError))


def _reason(error: Exception) -> str:
    """A short description of a failed request, e.g. `HTTP 404 Not Found`."""
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code} {error.reason}"
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    return getattr(cause, "strerror", None) or str(cause) or type(cause).__name__


def _explanation(
    archive: Archive,
    folder: Path,
    dataset: str,
    mirror: str | None,
    missing: Sequence[Archive],
    failures: Sequence[str],
) -> list[str]:
    """The lines of the error for an archive that is nowhere to be found: what is missing, was tried, and would help."""
    lacking = [one for one in missing if not (folder / one.name).is_file() or one == archive]
    place = "none is set" if mirror is None else mirror
    lines = [f"dataset '{dataset}': no copy of", *(f"  {one.name}  (md5 {one.md5})" for one in lacking)]
    lines += [f"looked for {archive.name} (mirror: {place})", *(f"  {failure}" for failure in failures)]
    lines += [
        "any one of these helps:",
        f"  - put the file{'s' if len(lacking) > 1 else ''} into {folder}{os.sep}",
        f"  - name a folder or http(s) address that has {'them' if len(lacking) > 1 else 'it'}:"
        f" `mirror:` of '{dataset}' in params.yaml, or NORMBENCH_MIRROR",
        "  - bring arrays of your own: `source: npz` with `path:` and `sha256:` in params.yaml",
    ]
    return lines
