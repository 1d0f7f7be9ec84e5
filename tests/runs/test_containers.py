"""What an archive declares is compared with what it has before anything is unpacked: bombs are refused at once."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import shutil
import struct
import tarfile
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from normbench.runs import archive as transfer
from normbench.runs import formats, store
from normbench.runs.checkpoint import Checkpoints
from normbench.runs.remote import Remote
from normbench.runs.run import Kind
from normbench.system.errors import UserError
from tests.runs.test_transfer import content, make, rebuilt

GIB = 2**30
MOST = 24 * 2**20  # bytes of memory that a refusal may take; a whole bomb would take 1 GiB


@pytest.fixture(autouse=True)
def stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NORMBENCH_STORE", str(tmp_path / "runs"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def bounded() -> Iterator[None]:
    """Fails a test that takes more memory than `MOST`."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < MOST
    finally:
        tracemalloc.stop()


def refused(archive: Path, line: str) -> str:
    """Imports an archive, which must be refused in one line and leave nothing behind; returns the line."""
    with pytest.raises(UserError, match=line) as error:
        transfer.import_(archive)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600
    assert store.all_finished() == []
    assert [path.name for path in store.folder("x").parent.iterdir() if path.name != "locks"] == []
    return str(error.value)


# ---------------------------------------------------------------------------------------------------------------- tar


def pax(**records: str) -> bytes:
    return tarfile.TarInfo("x")._create_pax_generic_header(records, tarfile.XHDTYPE, "utf-8")  # type: ignore[attr-defined]


def headers(name: str, size: int) -> dict[str, bytes]:
    """What can stand in place of the header of a member, each of which gives it another size or name in tarfile."""
    plain = tarfile.TarInfo(name)
    plain.size = size
    header = plain.tobuf(tarfile.USTAR_FORMAT)
    huge = f"{3 * GIB // 2}"

    def edited(place: int, field: bytes) -> bytes:
        block = bytearray(header)
        block[place : place + len(field)] = field
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block)
        return bytes(block)

    sparse = bytearray(edited(156, b"S"))
    sparse[386:482] = (b"%011o\0" % 0 + b"%011o\0" % size).ljust(96, b"\0")
    sparse[483:495] = b"%011o\0" % int(huge)
    sparse[148:156] = b" " * 8
    sparse[148:156] = b"%06o\0 " % sum(sparse)
    long = tarfile.TarInfo._create_gnu_long_header(name, tarfile.GNUTYPE_LONGNAME, "utf-8", "strict")  # type: ignore[attr-defined]
    return {
        "old GNU sparse": bytes(sparse),
        "PAX sparse 0.0": pax(**{"GNU.sparse.size": huge, "GNU.sparse.numblocks": "1"}) + header,
        "PAX sparse 0.1": pax(**{"GNU.sparse.size": huge, "GNU.sparse.map": f"0,{size}"}) + header,
        "PAX sparse 1.0": pax(**{"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": huge})
        + header,
        "PAX size": pax(size=huge) + header,
        "PAX global": pax(size=huge).replace(b"\0" + b"x" + b"\0", b"\0g\0") + header,
        "PAX path": pax(path=name) + header,
        "GNU long name": long + header,
        "hard link": edited(156, b"1"),
        "symbolic link": edited(156, b"2"),
        "contiguous": edited(156, b"7"),
        "unknown type": edited(156, b"Z"),
        "negative": edited(124, b"-0000000001\0"),
        "negative, base 256": edited(124, b"\xff" * 11 + b"\xfe"),
        "huge, base 256": edited(124, b"\x80" + b"\x7f" * 11),
        "prefix": edited(345, b"x"),
        "no checksum": header[:148] + b"\0" * 8 + header[156:],
    }


@pytest.mark.parametrize("form", headers("x", 1))
def test_headers_that_are_not_plain(stores: Path, form: str, bounded: None) -> None:
    run = make()
    parts = content(run)
    shutil.rmtree(stores / "runs")
    listed = {name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in parts.items()}
    manifest = json.dumps({"format": 1, "run": run, "files": listed}).encode()
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as archive:
        info = tarfile.TarInfo("manifest.json")
        info.size = len(manifest)
        archive.addfile(info, io.BytesIO(manifest))
    # The size is the expected one wherever that can be, so that it is the header that is refused.
    text = whole.getvalue()[: 512 + -(-len(manifest) // 512) * 512]
    for name, data in parts.items():
        text += headers(name, len(data))[form] + data + bytes(-len(data) % 512)
    path = stores / "x.run.tar"
    path.write_bytes(text.ljust(-(-(len(text) + 1024) // 10240) * 10240, b"\0"))
    refused(path, "x.run.tar: ")


def test_only_the_manifest_of_a_wrong_archive_is_read(stores: Path) -> None:
    archive = rebuilt(make(), stores / "x.run.tar", lambda parts: None)
    size = archive.stat().st_size
    with archive.open("r+b") as file:
        file.truncate(64 * GIB)  # a hole

    class Counting(io.FileIO):
        taken = 0

        def read(self, size: int | None = -1, /) -> bytes:
            found = super().read(size)
            Counting.taken += len(found)
            return found

    with Counting(archive) as stream, pytest.raises(UserError, match=f"{64 * GIB} bytes, where its files make {size}"):
        transfer.read_manifest(stream, 64 * GIB, archive)
    assert Counting.taken < 4096
    shutil.rmtree(stores / "runs")
    named = archive.rename(stores / f"{'0' * 16}-{'0' * 16}.run.tar")
    refused(named, "does not list once")


@pytest.mark.parametrize("tail", [b"x", b"\0" * 511 + b"x", b"a second archive", b"\0" * 512], ids=range(4))
def test_what_follows_the_last_member(stores: Path, tail: bytes) -> None:
    archive = rebuilt(make(), stores / "x.run.tar", lambda parts: None)
    shutil.rmtree(stores / "runs")
    whole = archive.read_bytes()
    archive.write_bytes(whole + (whole if tail == b"a second archive" else tail))
    refused(archive, "does not list once")
    archive.write_bytes(whole[: -len(tail)] + tail[:-1] + b"x")
    refused(archive, "something follows the last member")
    archive.write_bytes(whole[:-512])
    refused(archive, "is cut off")


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ('"format": 1', '"format": true', "format = true: must be 1"),
        ('"format": 1', '"format": 1.0', "format = 1.0: must be 1"),
        ('"format": 1', '"format": "1"', 'format = "1": must be 1'),
        ('"format": 1', '"format": 1, "format": 1', "key 'format' is there twice"),
        ('"format": 1', '"format": NaN', "NaN is no number"),
        ('"format": 1', '"format": 1e999', "1e999 is not finite"),
        ('"format": 1', '"format": ' + "9" * 5000, "is not as"),
        ('"format": 1', '"format": ' + "[" * 9000 + "]" * 9000, "nested too deeply"),
        ('"format": 1', '"format": 1, "more": 1', "more.*Extra inputs"),
        ('"bytes": ', '"bytes": true, "bytes": ', "key 'bytes' is there twice"),
        ('"bytes": ', '"bytes": 1.5, "old": ', "bytes"),
        ('"bytes": ', '"bytes": true, "old": ', "bytes"),
        ('"run": "', '"run": "\\u001b[2J', "run"),
        (
            '"files": {',
            '"files": {"\\u001b[2J": {"bytes": 1, "sha256": "' + "0" * 64 + '"}, ',
            r"files has '\\x1b\[2J'",
        ),
    ],
)
def test_manifests_that_two_readers_take_differently(stores: Path, old: str, new: str, line: str) -> None:
    archive = rebuilt(make(), stores / "x.run.tar", lambda parts: None)
    shutil.rmtree(stores / "runs")
    with tarfile.open(archive) as opened:
        parts = {member.name: opened.extractfile(member).read() for member in opened}  # type: ignore[union-attr]
    parts["manifest.json"] = parts["manifest.json"].decode().replace(old, new, 1).encode()
    with tarfile.open(archive, "w") as rewritten:
        for name, data in parts.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            rewritten.addfile(info, io.BytesIO(data))
    refused(archive, line)


# ---------------------------------------------------------------------------------------------------------------- zip


def saved(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def rezipped(data: bytes, method: int = zipfile.ZIP_STORED, **changed: bytes) -> bytes:
    """A zip file with the same members, some of them with other content, in a plain order."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w", method) as new:
        for name in old.namelist():
            new.writestr(name, changed.get(name.rpartition("/")[2].replace(".", "_"), old.read(name)))
    return buffer.getvalue()


def central(data: bytes) -> int:
    return struct.unpack("<L", data[-6:-2])[0]


def flipped(place: Callable[[bytes], int], value: int) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        edited = bytearray(rezipped(data))
        edited[place(bytes(edited))] ^= value
        return bytes(edited)

    return change


def overlapping(data: bytes) -> bytes:
    """The last member of the list begins where the one before it begins."""
    edited = bytearray(rezipped(data))
    places = [place for place in range(len(edited)) if edited[place : place + 4] == b"PK\1\2"]
    edited[places[-1] + 42 : places[-1] + 46] = edited[places[-2] + 42 : places[-2] + 46]
    return bytes(edited)


def twice(data: bytes) -> bytes:
    buffer = io.BytesIO(rezipped(data))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with zipfile.ZipFile(buffer, "a") as archive:
            archive.writestr(archive.namelist()[-1], b"x")
    return buffer.getvalue()


def commented(data: bytes) -> bytes:
    buffer = io.BytesIO(rezipped(data))
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.comment = b"x"
    return buffer.getvalue()


def pickled(code: bytes) -> Callable[[bytes], bytes]:
    return lambda data: rezipped(data, data_pkl=code)


def levels(count: int, op: bytes) -> bytes:
    """{a tuple of tuples of tuples: 1}; with TUPLE2, each level is the one before it twice."""
    body = b"\x80\x02})q\x00"
    for number in range(count):
        body += (b"h%ch%c\x86" % (number, number) if op == b"\x86" else op) + b"q%c" % (number + 1)
    return body + b"K\x01s."


WEIGHTS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "deflated": (lambda data: rezipped(saved({"w": torch.zeros(2**26)}), zipfile.ZIP_DEFLATED), "is compressed"),
    "bzip2": (lambda data: rezipped(data, zipfile.ZIP_BZIP2), "is compressed"),
    "encrypted": (flipped(lambda data: central(data) + 8, 1), "is compressed or encrypted"),
    "other name in front": (flipped(lambda data: 30, 1), "contradicts"),
    "other method in front": (flipped(lambda data: 8, 8), "contradicts"),
    "other size in front": (flipped(lambda data: 22, 8), "contradicts"),
    "other checksum in front": (flipped(lambda data: 14, 8), "contradicts"),
    "other size in the list": (flipped(lambda data: central(data) + 24, 8), "contradicts|overlaps"),
    "other checksum in both": (
        lambda data: flipped(lambda made: central(made) + 16, 8)(flipped(lambda made: 14, 8)(data)),
        "is not what it was|contradicts",
    ),
    "overlapping": (overlapping, "overlap"),
    "a member twice": (twice, "twice"),
    "something in front": (lambda data: b"x" * 64 + rezipped(data), "overlaps another member, or does not follow"),
    "something behind": (lambda data: rezipped(data) + b"x" * 64, "follows its list|follows the list"),
    "a second file behind": (lambda data: rezipped(data) * 2, "overlaps another member, or does not follow"),
    "a comment": (commented, "follows its list|follows the list"),
    "cut off": (lambda data: data[:-30], "cannot be read"),
    "empty": (lambda data: b"", "cannot be read"),
    "no zip": (lambda data: pickle.dumps({}), "cannot be read"),
    "bytearray": (pickled(b"\x80\x02}X\x01\0\0\0wcbuiltins\nbytearray\n(J\0\0\0\x7ftRs."), "GLOBAL builtins bytearray"),
    "tensor of a size": (pickled(b"\x80\x02}X\x01\0\0\0wctorch\nTensor\n(J\0\0\0\x7ftRs."), "GLOBAL torch Tensor"),
    "hash of two to the 60": (pickled(levels(60, b"\x86")), "holds a tuple of"),
    "a tuple of many levels": (pickled(levels(60, b"\x85")), "holds a tuple of"),
    "an opcode of protocol 5": (pickled(b"\x80\x05\x96\xff\xff\xff\xff\xff\0\0\0."), "cannot be read"),
    "another protocol": (pickled(b"\x80\x01}."), "is of pickle protocol 1"),
    "a storage that is a number": (pickled(b"\x80\x02K\x01Q."), "AssertionError|TypeError"),
    "an empty stack": (pickled(b"\x80\x02s."), "broken pickle"),
    "a mark that is not there": (pickled(b"\x80\x02}u."), "broken pickle"),
    "a memo that is not there": (pickled(b"\x80\x02h\x09."), "broken pickle"),
    "no pickle": (pickled(b"\xff" * 100), "cannot be read"),
    "an element many times": (lambda data: saved({"w": torch.zeros(1).expand(2**40)}), "larger than the file"),
    "a tensor many times": (
        lambda data: saved(dict.fromkeys(map(str, range(2000)), torch.zeros(1000))),
        "larger than the file",
    ),
    "a list": (lambda data: saved([torch.zeros(3)]), "not the state of a network"),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights(stores: Path, name: str, bounded: None) -> None:
    change, line = WEIGHTS[name]
    archive = rebuilt(
        make(), stores / "x.run.tar", lambda parts: parts.update({"weights.pt": change(parts["weights.pt"])})
    )
    shutil.rmtree(stores / "runs")
    tracemalloc.reset_peak()
    assert "weights.pt cannot be read" in refused(archive, line)


def test_weights_that_are_sound() -> None:
    """What torch writes of real states is taken, and so is the same zip file as zipfile writes it."""
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).bfloat16()
    state = network.state_dict() | {"empty": torch.zeros(0), "flags": torch.ones(3, dtype=torch.bool)}
    data = saved(state)
    for each in (data, rezipped(data)):
        Path("w.pt").write_bytes(each)
        found = formats.state_dict(Path("w.pt"))
        assert found.keys() == state.keys()
        assert all(torch.equal(found[name], state[name]) for name in state)


def test_more_members_than_any_state_has(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("w.pt").write_bytes(saved({str(number): torch.zeros(1) for number in range(40)}))
    monkeypatch.setattr(formats, "MOST_MEMBERS", 20)
    with pytest.raises(ValueError, match=r"has \d+ members"):
        formats.state_dict(Path("w.pt"))


def test_two_ends_that_contradict_each_other() -> None:
    """zipfile takes the number of members from the longer record, so that one must not have more."""
    data = bytearray(saved({"w": torch.zeros(1)}))
    data[-98 + 32] ^= 64
    Path("w.pt").write_bytes(data)
    with pytest.raises(ValueError, match="contradict each other"):
        formats.state_dict(Path("w.pt"))


# ---------------------------------------------------------------------------------------------------- arrays, pictures


def npz(raw: bytes | None = None, method: int = zipfile.ZIP_DEFLATED, **arrays: Any) -> bytes:
    buffer = io.BytesIO()
    if raw is None:
        np.savez_compressed(buffer, **arrays)
    else:
        with zipfile.ZipFile(buffer, "w", method) as archive:
            archive.writestr("predicted.npy", raw)
    return buffer.getvalue()


def npy(shape: str, version: bytes = b"\1\0", kind: str = "<i4", data: bytes = b"") -> bytes:
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY" + version + len(text).to_bytes(2, "little") + text + data


PREDICTIONS: dict[str, tuple[bytes, str]] = {
    "more than the dataset has": (npz(predicted=np.zeros(2**26, np.int32)), "expected at most 64"),
    "a huge shape": (npz(npy("(10000000000000,)")), "expected at most 64"),
    "a negative shape": (npz(npy("(-1,)")), "cannot be read"),
    "a shape of text": (npz(npy("('a',)")), "cannot be read"),
    "a deep header": (npz(npy("(" * 3000 + ")" * 3000)), "cannot be read"),
    "another length": (npz(npy("(5,)", data=bytes(24))), r"of shape \(5,\) in 92 bytes"),
    "two dimensions": (npz(predicted=np.zeros((2, 2), np.int32)), r"of shape \(2, 2\)"),
    "floats": (npz(predicted=np.zeros(5, np.float32)), "is of float32"),
    "another byte order": (npz(npy("(5,)", kind=">i4", data=bytes(20))), "is of >i4"),
    "objects": (npz(npy("(5,)", kind="|O", data=pickle.dumps([1]))), "is of object"),
    "version 2": (npz(npy("(5,)", b"\2\0", data=bytes(20))), "not an array `predicted`"),
    "another array": (npz(predicted=np.zeros(5, np.int32), more=np.zeros(1)), "not an array `predicted`"),
    "bzip2": (npz(npy("(5,)", data=bytes(20)), zipfile.ZIP_BZIP2), "is compressed"),
    "no array": (npz(b"hello"), "cannot be read"),
    "something behind": (npz(predicted=np.zeros(5, np.int32)) + b"x", "cannot be read"),
}


@pytest.mark.parametrize("name", PREDICTIONS)
def test_predictions(stores: Path, name: str) -> None:
    data, line = PREDICTIONS[name]
    archive = rebuilt(make(), stores / "x.run.tar", lambda parts: parts.update({"predictions.npz": data}))
    shutil.rmtree(stores / "runs")
    tracemalloc.start()
    try:
        assert "predictions.npz cannot be read" in refused(archive, line)
        assert tracemalloc.get_traced_memory()[1] < MOST
    finally:
        tracemalloc.stop()


def test_predictions_that_are_sound(stores: Path) -> None:
    for number, data in enumerate([npz(predicted=np.arange(64, dtype=np.int32)), npz(npy("(5,)", data=bytes(20)), 0)]):
        Path(f"{number}.npz").write_bytes(data)
    assert formats.predictions(Path("0.npz"), 64).tolist() == list(range(64))
    assert formats.predictions(Path("1.npz"), 64).tolist() == [0] * 5


SIZE = (1, 2, 3)  # of the samples of a history
SAMPLES = {
    "another number of times": (npz(samples=np.zeros((3, 5, *SIZE), np.uint8)), "2 times with samples of"),
    "another size": (npz(samples=np.zeros((2, 5, 1, 3, 2), np.uint8)), "2 times with samples of"),
    "no times": (npz(samples=np.zeros((5, *SIZE), np.uint8)), "2 times with samples of"),
    "floats": (npz(samples=np.zeros((2, 5, *SIZE), np.float32)), "`samples` is of float32"),
    "columns first": (npz(samples=np.asfortranarray(np.ones((2, 5, *SIZE), np.uint8))), "in the order of Fortran"),
    "another array": (npz(predicted=np.zeros((2, 5, *SIZE), np.uint8)), "not an array `samples`"),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_samples_of_a_history(tmp_path: Path, name: str) -> None:
    data, line = SAMPLES[name]
    (tmp_path / "history.npz").write_bytes(data)
    with pytest.raises(ValueError, match=line):
        formats.samples(tmp_path / "history.npz", 2, SIZE)


def test_samples_that_are_sound(tmp_path: Path) -> None:
    samples = np.arange(2 * 5 * 6, dtype=np.uint8).reshape(2, 5, *SIZE)
    (tmp_path / "history.npz").write_bytes(npz(samples=samples))
    assert (formats.samples(tmp_path / "history.npz", 2, SIZE) == samples).all()


def png(mode: str = "L", size: tuple[int, int] = (4, 4), **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, **({"format": "PNG"} | options))
    return buffer.getvalue()


def claimed(width: int, height: int) -> bytes:
    """A PNG whose header claims a size; its content is that of 4 x 4 pixels."""
    buffer = io.BytesIO(png()[:8])
    buffer.seek(8)
    PngImagePlugin.putchunk(buffer, b"IHDR", struct.pack(">2L5B", width, height, 8, 0, 0, 0, 0))
    buffer.write(png()[33:])
    return buffer.getvalue()


PICTURES = {
    "a bomb": claimed(2**20, 2**20),
    "more pixels than bytes": claimed(6000, 6000),
    "cut off": png()[:-20],
    "something behind": png() + b"x",
    "a palette": png("P"),
    "a JPEG": png("L", format="JPEG"),
    "a film": png("RGB", save_all=True, append_images=[Image.new("RGB", (4, 4), "red")]),
    "empty": b"",
}


@pytest.mark.parametrize("name", PICTURES)
def test_samples(stores: Path, name: str) -> None:
    archive = rebuilt(
        make(kind=Kind.GAN), stores / "x.run.tar", lambda parts: parts.update({"samples.png": PICTURES[name]})
    )
    shutil.rmtree(stores / "runs")
    assert "samples.png cannot be read" in refused(archive, "samples.png")


# ------------------------------------------------------------------------------------------- from an address, checkpoints


def test_of_a_wrong_archive_at_an_address_only_the_manifest_is_copied(
    stores: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    there = Remote(f"file://{stores}/there")
    run = make()
    archive = rebuilt(run, stores / f"there/{run}-x.run.tar", lambda parts: None)
    shutil.rmtree(stores / "runs")
    with archive.open("r+b") as file:
        file.truncate(GIB)
    monkeypatch.setattr(Remote, "_copy", lambda *_: pytest.fail("copied"))
    assert not there.take(run)
    assert "does not list once" in capsys.readouterr().err
    assert [path.name for path in (stores / "there").iterdir()] == [f"{archive.name}.damaged"]


def test_a_file_that_grows_while_it_is_copied(stores: Path) -> None:
    there = Remote(f"file://{stores}/there")
    (stores / "there" / "x").write_bytes(bytes(3_000_000))
    with pytest.raises(UserError, match="x: larger than"):
        there._copy(str(stores / "there" / "x"), stores / "copy", 2_000_000)
    assert (stores / "copy").stat().st_size <= 2_000_000


def stored(folder: Path, number: int, data: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{number:06d}-{hashlib.sha256(data).hexdigest()[:16]}.pt"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    "data",
    [
        saved([1, 2]),
        saved({"training": {}}),
        saved({"training": {}, "random": {}}),
        saved({"training": {}, "random": {"python": (3, (1,), None)}}),
        rezipped(saved({"training": {}, "random": {}}), zipfile.ZIP_DEFLATED),
        rezipped(saved({}), data_pkl=levels(60, b"\x86")),
        b"hello",
    ],
    ids=range(7),
)
def test_checkpoints_of_another_form_are_set_aside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], data: bytes
) -> None:
    checkpoints = Checkpoints(tmp_path / "r")
    checkpoints.save({"step": 3})
    path = stored(tmp_path / "r", 2, data)
    stored(tmp_path / "r", 3, data).rename(tmp_path / "r" / "9x-note.pt")  # is none by its name
    assert checkpoints.resume() == {"step": 3}
    assert not path.exists()
    assert f"{path}: damaged, set aside" in capsys.readouterr().err


def test_the_newest_checkpoints_alone_are_fetched(stores: Path) -> None:
    there, run = Remote(f"file://{stores}/there"), "0123456789abcdef"
    for number in range(1, 6):
        stored(stores / f"there/{run}.unfinished", number, b"x" * number)
    there.fetch_checkpoints(run)
    assert [path.name[:6] for path in store.checkpoints(run)] == ["000004", "000005"]


def test_a_checkpoint_that_is_too_large_is_not_fetched(
    stores: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("normbench.runs.remote.LARGEST_CHECKPOINT", 1000)
    there, run = Remote(f"file://{stores}/there"), "0123456789abcdef"
    stored(stores / f"there/{run}.unfinished", 1, b"x" * 1001)
    there.fetch_checkpoints(run)
    assert store.checkpoints(run) == []
    assert "it is not used" in capsys.readouterr().err
