"""A finished run as one file: written from one run store and, after verification, added to another.

An archive is a plain tar file: `manifest.json`, with the id of the run and the size and sha256 of each file, and then
the files. Its name holds the id and the first 16 digits of its own sha256. Equal runs give equal archives.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from normbench.runs import store
from normbench.runs.contents import LARGEST, RECORD, contents
from normbench.runs.record import Record
from normbench.system import files, layout
from normbench.system.errors import UserError
from normbench.system.scratch import place, scratch

MANIFEST, FORMAT, SUFFIX = "manifest.json", 1, ".run.tar"
NAME = re.compile(r"([0-9a-f]{16})-([0-9a-f]{16})\.run\.tar")
LARGEST_MANIFEST = 2**20
BLOCK = 2**20


def export(run: str, to: Path) -> Path:
    """Writes a finished run of the store as an archive into a folder and returns the path of the archive.

    Raises UserError if the run is not in the store or has files that do not belong to a run.
    """
    folder = store.folder(run)
    if not store.finished(run):
        raise UserError(f"{folder}: no finished run")
    names = sorted(path.name for path in folder.iterdir())
    foreign = [name for name in names if name not in LARGEST]
    if foreign:
        raise UserError(f"{folder}: {foreign[0]} does not belong to a run; move it away")
    facts: dict[str, dict[str, Any]] = {
        name: {"bytes": (folder / name).stat().st_size, "sha256": files.sha256(folder / name)} for name in names
    }
    manifest = json.dumps({"format": FORMAT, "run": run, "files": facts}, indent=1, sort_keys=True).encode()
    with scratch(to / "export") as temporary:
        made = temporary / run
        size = sum(fact["bytes"] for fact in facts.values())
        with files.writing(made, size), tarfile.open(made, "w", format=tarfile.PAX_FORMAT) as archive:
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
        raise UserError("\n".join([line, *problems]))
    return line


def import_(path: Path) -> tuple[str, bool]:
    """Verifies an archive and adds its run to the store; returns the run's id and whether it is new there.

    Raises UserError, and changes nothing, if the archive is damaged or has unexpected content, or if the store has a
    different result of the same run. Nothing in the archive is unpickled, and no path in it is used.
    """
    named = NAME.fullmatch(path.name)
    if named and files.sha256(path)[:16] != named[2]:
        raise UserError(f"{path}: damaged: its sha256 does not begin with the {named[2]} of its name")
    with scratch(layout.store() / "import") as folder:
        made = folder / "run"
        made.mkdir()
        try:
            with tarfile.open(path, "r:") as archive:
                manifest = _manifest(archive, path)
                _unpack(archive, manifest["files"], made, path)
        except tarfile.TarError as error:
            raise UserError(f"{path}: damaged, or no archive of a run ({error})") from None
        run = manifest["run"]
        if named and named[1] != run:
            raise UserError(f"{path}: has run {run}, which is not that of its name")
        check_content(made, run, path)
        with store.claimed(run):
            if store.finished(run):
                mine = {file.name: files.sha256(file) for file in store.folder(run).iterdir()}
                if mine != {name: facts["sha256"] for name, facts in manifest["files"].items()}:
                    raise UserError(f"{path}: {store.folder(run)} has another outcome of this run, which is kept")
                return run, False
            files.to_disk(made)
            place(made, store.folder(run))
            store.forget(run)
        return run, True


def _manifest(archive: tarfile.TarFile, path: Path) -> dict[str, Any]:
    """Returns the manifest, which must be the first member, after checking its form."""
    first = archive.next()
    if first is None or first.name != MANIFEST or not first.isreg() or first.size > LARGEST_MANIFEST:
        raise UserError(f"{path}: no archive of a run: it does not begin with {MANIFEST}")
    content = archive.extractfile(first)
    assert content is not None  # because the member is a regular file
    try:
        manifest = json.loads(content.read())
        if manifest["format"] != FORMAT:
            raise UserError(f"{path}: {MANIFEST}: format = {manifest['format']!r}: must be {FORMAT}")
        listed = manifest["files"]
        sound = (
            re.fullmatch("[0-9a-f]{16}", manifest["run"])
            and RECORD in listed
            and all(re.fullmatch("[0-9a-f]{64}", facts["sha256"]) for facts in listed.values())
            and all(type(facts["bytes"]) is int and facts["bytes"] >= 0 for facts in listed.values())
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        sound = None
    if not sound:
        raise UserError(f"{path}: {MANIFEST} is not as `normbench runs export` writes it")
    for name, facts in listed.items():
        if name not in LARGEST:
            raise UserError(f"{path}: {MANIFEST}: files has {name!r}, which no run has; valid: {', '.join(LARGEST)}")
        if facts["bytes"] > LARGEST[name]:
            raise UserError(f"{path}: {name} has {facts['bytes']} bytes; at most {LARGEST[name]} are taken")
    return manifest


def _unpack(archive: tarfile.TarFile, listed: dict[str, Any], to: Path, path: Path) -> None:
    """Copies the members that the manifest lists into a folder, and verifies each of them."""
    seen = set()
    while (member := archive.next()) is not None:
        if member.name not in listed or member.name in seen:
            raise UserError(f"{path}: has a member {member.name!r} that {MANIFEST} does not list once")
        if not member.isreg() or member.issparse():
            raise UserError(f"{path}: {member.name} is no plain file")
        seen.add(member.name)
        digest, size = hashlib.sha256(), 0
        content = archive.extractfile(member)
        assert content is not None  # because the member is a regular file
        # Safe whatever the header says: the name is one of `LARGEST`, and the manifest limits the length.
        with files.writing(to / member.name, listed[member.name]["bytes"]), (to / member.name).open("xb") as out:
            while block := content.read(BLOCK):
                size += len(block)
                if size > listed[member.name]["bytes"]:
                    break
                digest.update(block)
                out.write(block)
        if size != listed[member.name]["bytes"] or digest.hexdigest() != listed[member.name]["sha256"]:
            raise UserError(f"{path}: {member.name} is damaged: its content is not what {MANIFEST} says")
    missing = sorted(set(listed) - seen)
    if missing:
        raise UserError(f"{path}: {missing[0]} is missing")


def check_content(folder: Path, run: str, path: Path) -> None:
    """Raises UserError, which names `path`, unless a folder holds exactly the files of the run, all readable."""
    try:
        record = Record.read(folder / RECORD)
    except UserError as error:
        reason = str(error).removeprefix(f"{folder / RECORD}: ")
        raise UserError(f"{path}: {RECORD} is no record of a run ({reason})") from None
    expected = record.described_run().id
    if record.run != run or expected != run:
        raise UserError(f"{path}: {RECORD} describes run {expected}, not {run}")
    required = contents(record.kind, record.status)
    present = {file.name for file in folder.iterdir()}
    if present != {RECORD, *required}:
        raise UserError(
            f"{path}: has {', '.join(sorted(present))}; a {record.status} run has {RECORD}, {', '.join(required)}"
        )
    for name in required:
        try:
            _read(folder / name)
        except Exception as error:  # The readers of these formats raise many kinds of errors.
            text = str(error).partition("\n")[0]
            raise UserError(f"{path}: {name} cannot be read ({type(error).__name__}: {text})") from None


def _read(file: Path) -> None:
    """Reads a file of a run without unpickling anything but plain tensors. Raises an error if it is not valid."""
    if file.suffix == ".pt":
        with zipfile.ZipFile(file) as members:  # torch writes checksums, and does not look at them.
            damaged = members.testzip()
        if damaged is not None:
            raise ValueError(f"{damaged} is not what it was")
        state = torch.load(file, weights_only=True, map_location="cpu")
        if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
            raise ValueError("not a dictionary of tensors")
    elif file.suffix == ".npz":
        with zipfile.ZipFile(file) as members:
            if sum(member.file_size for member in members.infolist()) > LARGEST[file.name]:
                raise ValueError("too large when unpacked")
        with np.load(file, allow_pickle=False) as arrays:
            if arrays.files != ["predicted"] or arrays["predicted"].dtype != np.int32:
                raise ValueError("not predicted classes")
    else:
        with Image.open(file) as image:
            image.verify()
