"""A finished run as one file: written from one run store and, after verification, added to another.

An archive is a plain tar file: `manifest.json`, with the id of the run and the size and sha256 of each file, and then
the files. It has nothing else, so that its size follows from the manifest. Its name holds the id and the first 16
digits of its own sha256. Equal runs give equal archives.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, BinaryIO

from pydantic import Field, ValidationError

from normbench.runs import contents, formats, recomputed, store
from normbench.runs.contents import LARGEST, RECORD
from normbench.runs.finished import record_in
from normbench.runs.recomputed import predicted_shape
from normbench.runs.record import TrainedRecord
from normbench.runs.run import Kind
from normbench.system import files, intact, layout, strict_json
from normbench.system.errors import UserError
from normbench.system.schema import Strict
from normbench.system.scratch import place, scratch
from normbench.system.size import sides
from normbench.system.text import excerpt, say

MANIFEST, FORMAT, SUFFIX = "manifest.json", 1, ".run.tar"
NAME = re.compile(r"([0-9a-f]{16})-([0-9a-f]{16})\.run\.tar")
LARGEST_MANIFEST = 2**20
BLOCK = 2**20


def export(run: str, to: Path) -> Path:
    """Writes a finished run of the store as an archive into a folder and returns the path of the archive.

    Raises UserError if the run is not in the store or damaged. Other files in its folder are left out.
    """
    folder = store.folder(run)
    if not store.finished(run):
        raise UserError(f"{folder}: no finished run")
    names = sorted([RECORD, *record_in(folder).files])
    large = [name for name in names if (folder / name).stat().st_size > LARGEST[name]]
    if large:
        raise UserError(f"{folder / large[0]}: larger than the {LARGEST[large[0]]} bytes that `runs import` takes")
    facts: dict[str, dict[str, Any]] = {
        name: {"bytes": (folder / name).stat().st_size, "sha256": files.sha256(folder / name)} for name in names
    }
    manifest = json.dumps({"format": FORMAT, "run": run, "files": facts}, indent=1, sort_keys=True).encode()
    with scratch(to / "export") as temporary:
        made = temporary / run
        size = sum(fact["bytes"] for fact in facts.values())
        with files.writing(made, size), tarfile.open(made, "w", format=tarfile.USTAR_FORMAT) as archive:
            archive.addfile(_member(MANIFEST, len(manifest)), io.BytesIO(manifest))
            for name in names:
                with (folder / name).open("rb") as content:
                    archive.addfile(_member(name, facts[name]["bytes"]), content)
        path = to / f"{run}-{files.sha256(made)[:16]}{SUFFIX}"
        files.sync(made)
        made.replace(path)
    return path


def _member(name: str, size: int) -> tarfile.TarInfo:
    """Returns a header without time and owner, so that equal runs give equal archives."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    return info


def export_all(runs: Iterable[str], to: Path) -> str:
    """Writes finished runs as archives into a folder and prints their paths; returns a line that says how many.

    A run that is damaged does not stop the others; at the end UserError is raised with one line for each of them.
    """
    done, problems = 0, []
    for run in runs:
        try:
            say(export(run, to))
            done += 1
        except UserError as error:
            problems.append(str(error))
    line = f"{done} runs in {to}; `normbench runs import` takes them into another run store"
    if problems:
        raise UserError(line, *problems)
    return line


def archives(paths: Iterable[Path]) -> list[Path]:
    """Returns the archives among files and folders. Raises UserError for a path that does not exist."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += sorted(path.glob(f"*{SUFFIX}"))
        elif path.is_file():
            found.append(path)
        else:
            raise UserError(f"{path}: no such file or folder")
    return found


def import_all(paths: Iterable[Path]) -> str:
    """Adds archives, or all archives of folders, to the store; returns a line that says how many were new.

    Refused archives do not stop the others; at the end UserError is raised with one line for each of them.
    """
    added, problems = [], []
    for path in archives(paths):
        try:
            added.append(import_(path)[1])
        except UserError as error:
            problems.append(str(error))
    line = f"{sum(added)} runs taken into {layout.store()}, {len(added) - sum(added)} were there"
    if problems:
        raise UserError(line, *problems)
    return line


def import_(path: Path) -> tuple[str, bool]:
    """Verifies an archive and adds its run to the store; returns the run's id and whether it is new there.

    Raises UserError, and changes nothing, if the archive is damaged or has unexpected content, or if the store has a
    different result of the same run. Nothing in the archive is unpickled but tensors, and no path in it is used.
    """
    with scratch(layout.store() / "import") as folder:
        made = folder / "run"
        made.mkdir()
        with path.open("rb") as stream:
            manifest = read_manifest(stream, path.stat().st_size, path)
            named = NAME.fullmatch(path.name)
            if named and files.sha256(path)[:16] != named[2]:
                raise UserError(f"{path}: damaged: its sha256 does not begin with the {named[2]} of its name")
            _unpack(stream, manifest.files, made, path)
        run = manifest.run
        if named and named[1] != run:
            raise UserError(f"{path}: has run {run}, which is not that of its name")
        check_content(made, run, path)
        with store.claimed(run):
            if store.sound(run):
                held = [RECORD, *store.record(run).files]
                mine = {name: files.sha256(store.folder(run) / name) for name in held}
                if mine != {name: facts.sha256 for name, facts in manifest.files.items()}:
                    raise UserError(f"{path}: {store.folder(run)} has another outcome of this run, which is kept")
                return run, False
            store.set_aside(run)
            files.to_disk(made)
            place(made, store.folder(run))
            store.forget(run)
        return run, True


class Listed(Strict):
    """What the manifest says about a file: its size in bytes and its hexadecimal sha256."""

    bytes: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Manifest(Strict):
    """The content of the manifest. files: by name, without the manifest itself."""

    format: int
    run: Annotated[str, Field(pattern="^[0-9a-f]{16}$")]
    files: dict[str, Listed]


def read_manifest(stream: BinaryIO, size: int, path: Path | str) -> Manifest:
    """Returns the manifest, which must be the first member, and leaves the stream behind it.

    size: the bytes of the archive. They follow from the manifest, so that whatever else the archive has is refused
    before it is read. path: for messages. Raises UserError if it is not as `export` writes it.
    """
    try:
        first = _header(stream)
        if first is None or first[0] != MANIFEST or not 0 <= first[1] <= LARGEST_MANIFEST:
            raise ValueError(f"it does not begin with {MANIFEST}")
        content = stream.read(first[1])
        _check_padding(stream, first[1])
    except ValueError as error:
        raise UserError(f"{path}: damaged, or no archive of a run: {error}") from None
    manifest = _parsed(content, path)
    for name, facts in manifest.files.items():
        if name not in LARGEST:
            valid = ", ".join(LARGEST)
            raise UserError(f"{path}: {MANIFEST}: files has {excerpt(name)}, which no run has; valid: {valid}")
        if facts.bytes > LARGEST[name]:
            raise UserError(f"{path}: {name} has {facts.bytes} bytes; at most {LARGEST[name]} are taken")
    expected = _size([first[1], *(facts.bytes for facts in manifest.files.values())])
    if size != expected:
        what = "is cut off" if size < expected else f"has something that {MANIFEST} does not list once"
        raise UserError(f"{path}: {what}: {size} bytes, where its files make {expected}")
    return manifest


def _parsed(content: bytes, path: Path | str) -> Manifest:
    reason = ""
    try:
        value = strict_json.parse(content)
        version = value["format"] if isinstance(value, dict) and "format" in value else None
        if version is not None and (type(version) is not int or version != FORMAT):
            raise UserError(f"{path}: {MANIFEST}: format = {json.dumps(version)[:80]}: must be {FORMAT}")
        manifest = Manifest.model_validate(value)
        if RECORD in manifest.files:
            return manifest
    except ValidationError as error:
        first = error.errors()[0]
        reason = f" ({excerpt('.'.join(map(str, first['loc'])))}: {first['msg']})"
    except ValueError as error:
        reason = f" ({excerpt(str(error))})"
    raise UserError(f"{path}: {MANIFEST} is not as `normbench runs export` writes it{reason}")


def _size(lengths: list[int]) -> int:
    """Returns the bytes of an archive whose members have these lengths."""
    blocks = sum(1 + -(-length // tarfile.BLOCKSIZE) for length in lengths) + 2  # two empty blocks end it
    return -(-blocks * tarfile.BLOCKSIZE // tarfile.RECORDSIZE) * tarfile.RECORDSIZE


def _header(stream: BinaryIO) -> tuple[str, int] | None:
    """Reads the header of a member and returns its name and its size; None at the end of the archive.

    A size of -1 marks what is no plain file. tarfile itself would read more, and so give a member another name or size
    than its header has: extended headers, long names, and sparse files, whose holes can have any size. Raises
    ValueError if the header is damaged.
    """
    block = stream.read(tarfile.BLOCKSIZE)
    if block == bytes(tarfile.BLOCKSIZE):
        return None
    try:
        info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise ValueError(str(error)) from None
    return info.name, info.size if info.type in (tarfile.REGTYPE, tarfile.AREGTYPE) else -1


def _check_padding(stream: BinaryIO, size: int) -> None:
    """Reads what follows a member of `size` bytes to the end of its block. Raises ValueError unless it is empty."""
    padding = -size % tarfile.BLOCKSIZE
    if stream.read(padding) != bytes(padding):
        raise ValueError("something stands between two members")


def _unpack(stream: BinaryIO, listed: dict[str, Listed], to: Path, path: Path) -> None:
    """Copies the members that the manifest lists into a folder, and verifies each of them."""
    seen: set[str] = set()
    try:
        while (header := _header(stream)) is not None:
            name, size = header
            if name not in listed or name in seen:
                raise UserError(f"{path}: has a member {excerpt(name)} that {MANIFEST} does not list once")
            seen.add(name)
            if size < 0:
                raise UserError(f"{path}: {name} is no plain file")
            if size != listed[name].bytes or _copied(stream, size, to / name) != listed[name].sha256:
                raise UserError(f"{path}: {name} is damaged: its content is not what {MANIFEST} says")
            _check_padding(stream, size)
    except ValueError as error:
        raise UserError(f"{path}: damaged, or no archive of a run: {error}") from None
    missing = sorted(set(listed) - seen)
    if missing:
        raise UserError(f"{path}: {missing[0]} is missing")
    rest = stream.read(tarfile.RECORDSIZE)
    if rest != bytes(len(rest)) or len(rest) < tarfile.BLOCKSIZE:
        raise UserError(f"{path}: damaged: something follows the last member")


def _copied(stream: BinaryIO, size: int, to: Path) -> str:
    """Copies `size` bytes, or what is left of them, into a new file and returns their sha256."""
    digest = hashlib.sha256()
    with files.writing(to, size), to.open("xb") as out:
        while block := stream.read(min(BLOCK, size)):
            size -= len(block)
            digest.update(block)
            out.write(block)
    return digest.hexdigest()


def check_content(folder: Path, run: str, path: Path) -> None:
    """Raises UserError, which names `path`, unless a folder holds exactly the files of the run, all readable."""
    try:
        record = TrainedRecord.read(folder / RECORD)
    except UserError as error:
        reason = str(error).removeprefix(f"{folder / RECORD}: ")
        raise UserError(f"{path}: {RECORD} is no record of a run ({reason})") from None
    if record.run != run:
        raise UserError(f"{path}: {RECORD} describes run {record.run}, not {run}")
    extra = [name for name in contents.optional(record.kind, record.status) if name in record.files]
    required = [*contents.contents(record.kind, record.status), *extra]
    present = {file.name for file in folder.iterdir()}
    if present != {RECORD, *required}:
        raise UserError(
            f"{path}: has {', '.join(sorted(present))}; a {record.status} run has {RECORD}, {', '.join(required)}"
        )
    for name in required:
        try:
            _read(folder / name, record)
        except Exception as error:  # The readers of these formats raise many kinds of errors.
            text = excerpt(str(error).partition("\n")[0], 200)
            raise UserError(f"{path}: {name} cannot be read ({type(error).__name__}: {text})") from None
        problem = intact.problem(folder / name, record.files[name].sha256, record.files[name].bytes)
        if problem is not None:
            raise UserError(f"{path}: {name} {problem}")
    recomputed.check(record, folder, path)


def _read(file: Path, record: TrainedRecord) -> None:
    """Reads a file of a run without unpickling anything but tensors. Raises an error if it is not valid."""
    match file.name:
        case contents.WEIGHTS | contents.GENERATOR | contents.DISCRIMINATOR:
            formats.state_dict(file)
        case contents.PREDICTIONS:
            if record.kind is Kind.SEGMENTATION:
                formats.masks(file, predicted_shape(record))
            else:
                formats.predictions(file, record.provenance.dataset.test)
        case contents.HISTORY:
            bound = record.provenance.dataset
            size = bound.channels, *sides(bound.image_size)
            formats.samples(file, len(record.metrics["history"]), size)
        case contents.SAMPLES | contents.FILM:
            formats.picture(file)
