"""The formats of a run's files, checked before anything is unpacked: zip, pickled tensors, NumPy arrays, PNG.

A file may come from anyone. So whatever a header declares is compared with the bytes that are really there before it is
believed: memory and time of a refusal are in proportion to the size of the file, and nothing is unpickled but tensors.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

MOST_MEMBERS = 50_000  # of a zip file: a state dict has one for each tensor
LARGEST_PICKLE = 16 * 2**20  # bytes: the structure around the tensors of a checkpoint or a state dict
LARGEST_TUPLE, DEEPEST_TUPLE = 5000, 20  # items in all, levels
LARGEST_PICTURE = 2**25  # pixels
SHARING = 8  # how often the tensors of a state dict may share their memory, on average

# What the readers of zip files and tensors raise for broken ones.
ERRORS: tuple[type[Exception], ...] = (zipfile.BadZipFile, pickle.UnpicklingError, struct.error, NotImplementedError)
ERRORS += (RuntimeError, KeyError, IndexError, TypeError, AttributeError, EOFError, OverflowError, AssertionError)
LOCAL = struct.Struct("<4s5H3L2H")  # the header in front of each member of a zip file
END = struct.Struct("<4s4H2LH")  # its last record
END_64 = struct.Struct("<4sQ2H2L4Q20s")  # the two records before it that large files have
DESCRIPTOR = 24  # most bytes between the end of a member and the next header
HIDDEN = 0x2041  # bits of the flags that say that a member or the list of members is encrypted
UNKNOWN = 0xFFFFFFFF  # in place of a size that a longer field holds

TENSORS = re.compile(r"collections OrderedDict|torch\._utils _rebuild_tensor_v2|torch \w+Storage")
PROTOCOL = 2  # of `torch.save`
PUT, GET = ("BINPUT", "LONG_BINPUT"), ("BINGET", "LONG_BINGET")
TUPLES = ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3")
OPCODES = {*PUT, *GET, *TUPLES, "PROTO", "STOP", "GLOBAL", "REDUCE", "BUILD", "BINPERSID", "MARK", "EMPTY_TUPLE"}
OPCODES |= {"EMPTY_DICT", "EMPTY_LIST", "APPEND", "APPENDS", "SETITEM", "SETITEMS", "NONE", "NEWTRUE", "NEWFALSE"}
OPCODES |= {"BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"}


def state_dict(path: Path) -> dict[str, Any]:
    """Returns what `torch.save` has written of a module's state, on the CPU. Raises ValueError.

    It holds tensors and, of a layer with a state of another kind (`get_extra_state`), a dictionary of plain values.
    """
    with path.open("rb") as file:
        state = tensors(file)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor | dict) for value in state.values()):
        raise ValueError("not the state of a network")
    found = [value for value in state.values() if isinstance(value, Tensor)]
    # A few bytes can be a tensor of any size, all of whose elements are the same one.
    if sum(value.numel() * value.element_size() for value in found) > SHARING * path.stat().st_size:
        raise ValueError("its tensors are larger than the file")
    return state


def tensors(file: BinaryIO) -> Any:
    """Returns what `torch.save` has written, on the CPU, if it consists of tensors, numbers, texts and containers.

    Raises ValueError if the file is damaged, is larger when unpacked, or holds anything else.
    """
    try:
        with opened(file, (zipfile.ZIP_STORED,)) as (archive, members):
            roots = {member.filename.partition("/")[0] for member in members}
            if len(roots) != 1:
                raise ValueError("is not as torch writes it")
            pickled = archive.getinfo(f"{roots.pop()}/data.pkl")
            if pickled.file_size > LARGEST_PICKLE:
                raise ValueError(f"describes its tensors in {pickled.file_size} bytes")
            check_pickle(archive.read(pickled))
            damaged = archive.testzip()  # torch writes checksums, and does not look at them
        if damaged is not None:
            raise ValueError(f"{damaged} is not what it was")
        file.seek(0)
        return torch.load(file, weights_only=True, map_location="cpu")
    except ERRORS as error:
        raise ValueError(f"{type(error).__name__}: {error}".partition("\n")[0]) from None


def predictions(path: Path, most: int) -> np.ndarray:
    """Returns the predicted classes, int32 (N,), N <= `most`, of an .npz file. Raises an error if it is not one."""
    return _array(path, "predicted", np.int32, lambda shape: len(shape) == 1 and shape[0] <= most, f"at most {most}")


def masks(path: Path, shape: tuple[int, int, int]) -> np.ndarray:
    """Returns predicted masks, uint8 of a shape (N, H, W), of an .npz file. Raises an error if it is not one."""
    return _array(path, "predicted", np.uint8, lambda found: found == shape, f"{shape}")


def samples(path: Path, times: int, size: tuple[int, int, int]) -> np.ndarray:
    """Returns the samples of a GAN's history, uint8 (times, N, *size), of an .npz file.

    size: channels, height and width. Raises an error if it is not one.
    """

    def fits(shape: tuple[int, ...]) -> bool:
        return len(shape) == 5 and shape[0] == times and shape[2:] == size

    return _array(path, "samples", np.uint8, fits, f"{times} times with samples of {size}")


def _array(path: Path, name: str, dtype: type, fits: Callable[[tuple[int, ...]], bool], expected: str) -> np.ndarray:
    """Returns the one array, of a name and a dtype, of an .npz file. Raises ValueError unless its shape `fits`."""
    methods = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED
    with path.open("rb") as file, opened(file, methods) as (archive, members):
        if [member.filename for member in members] != [f"{name}.npy"]:
            raise ValueError(f"not an array `{name}`")
        (member,) = members
        with archive.open(member) as content:  # unpacks only as far as it is read
            if np.lib.format.read_magic(content) != (1, 0):
                raise ValueError(f"not an array `{name}`")
            shape, is_fortran, found = np.lib.format.read_array_header_1_0(content)
            if found != dtype:
                raise ValueError(f"`{name}` is of {found}")
            if is_fortran and len(shape) > 1:
                raise ValueError(f"`{name}` is in the order of Fortran")
            size = math.prod(shape) * np.dtype(dtype).itemsize
            if min(shape, default=0) < 0 or not fits(shape) or member.file_size != content.tell() + size:
                raise ValueError(f"`{name}` of shape {shape} in {member.file_size} bytes, expected {expected}")
            values = np.frombuffer(content.read(), np.dtype(dtype))  # at the end, the checksum is compared
    return values.reshape(shape)


def picture(path: Path) -> tuple[int, int]:
    """Returns width and height of a grey or RGB PNG, which is decoded. Raises an error if it is not sound."""
    content = path.read_bytes()
    with Image.open(io.BytesIO(content), formats=["PNG"]) as image:  # reads the header alone
        if image.width * image.height > LARGEST_PICTURE or image.mode not in ("L", "RGB"):
            raise ValueError(f"a picture of {image.width} x {image.height} pixels, mode {image.mode}")
        if getattr(image, "n_frames", 1) != 1:
            raise ValueError("a picture that moves")
    with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
        image.verify()  # the checksums
    with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
        image.load()
        size = image.size
    if not content.endswith(b"\0\0\0\0IEND\xaeB\x60\x82"):
        raise ValueError("something follows the picture")
    return size


@contextmanager
def opened(file: BinaryIO, methods: tuple[int, ...]) -> Iterator[tuple[zipfile.ZipFile, list[zipfile.ZipInfo]]]:
    """Yields a zip file, and its members in the order of their places, if they are what fills the file.

    methods: of compression that are allowed. Raises ValueError for more than `MOST_MEMBERS` members, for members that
    overlap, are encrypted or have a name twice, for headers that contradict the list of members, and for anything
    before, between and after the members.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - END.size - END_64.size))
    tail = file.read()
    if len(tail) < END.size or tail[-END.size :][:4] != b"PK\5\6" or tail[-2:] != b"\0\0":
        raise ValueError("no zip file, or something follows its list of members")
    _, _, _, _, count, length, _, _ = END.unpack(tail[-END.size :])
    end = END.size
    if tail[: -END.size][-20:-16] == b"PK\6\7":  # then zipfile believes the longer record in front of it
        end += END_64.size
        longer = END_64.unpack(tail[: END_64.size])
        if longer[0] != b"PK\6\6" or longer[7:9] != (count, length):
            raise ValueError("the two ends of its list of members contradict each other")
    if count > MOST_MEMBERS:
        raise ValueError(f"has {count} members")
    with zipfile.ZipFile(file) as archive:
        members = _checked(archive, file, methods)
        if archive.start_dir + length + end != size or count != len(members):
            raise ValueError("something follows the list of members")
        yield archive, members


def _checked(archive: zipfile.ZipFile, file: BinaryIO, methods: tuple[int, ...]) -> list[zipfile.ZipInfo]:
    """Returns the members in the order of their places; raises ValueError as `opened` does."""
    members = sorted(archive.infolist(), key=lambda member: member.header_offset)
    if len({member.filename for member in members}) != len(members):
        raise ValueError("has a member twice")
    place = 0
    for member in members:
        name = member.filename
        if member.compress_type not in methods or member.flag_bits & HIDDEN:
            raise ValueError(f"{name} is compressed or encrypted, which this format is not")
        if not place <= member.header_offset <= place + (DESCRIPTOR if place else 0):
            raise ValueError(f"{name} overlaps another member, or does not follow it")
        file.seek(member.header_offset)
        mark, _, flags, method, _, _, crc, packed, unpacked, named, extra = LOCAL.unpack(file.read(LOCAL.size))
        later = (0,) if flags & 8 else ()
        if (
            mark != b"PK\3\4"
            or (flags, method) != (member.flag_bits, member.compress_type)
            or file.read(named) != member.orig_filename.encode("utf-8" if flags & 0x800 else "cp437")
            or crc not in (member.CRC, *later)
            or packed not in (member.compress_size, UNKNOWN, *later)
            or unpacked not in (member.file_size, UNKNOWN, *later)
            or (method == zipfile.ZIP_STORED and member.compress_size != member.file_size)
        ):
            raise ValueError(f"{name}: its header contradicts the list of members")
        place = member.header_offset + LOCAL.size + named + extra + member.compress_size
    if not place <= archive.start_dir <= place + DESCRIPTOR:
        raise ValueError("the list of members does not follow them")
    return members


def check_pickle(content: bytes) -> None:
    """Raises ValueError unless a pickle makes nothing but tensors, numbers, texts and containers of them.

    torch's `weights_only` keeps code from running, but lets a hundred bytes ask for any amount of memory
    (`bytearray(10**12)`), or for a key whose hash takes years: a tuple of two times a tuple of two times a tuple.
    """
    stack: list[tuple[int, int] | None] = []  # of each object: its items, and its levels if it is a tuple; None: a mark
    memo: dict[int, tuple[int, int] | None] = {}
    try:
        for opcode, found, _ in pickletools.genops(content):
            name, argument = opcode.name, cast(Any, found)
            if name not in OPCODES or (name == "GLOBAL" and not TENSORS.fullmatch(argument)):
                raise ValueError(f"holds more than tensors: {name} {str(argument or '')[:80]}".rstrip())
            if name == "PROTO" and argument != PROTOCOL:
                raise ValueError(f"is of pickle protocol {argument}")
            if name in PUT:
                memo[argument] = stack[-1]
                continue
            if name in GET:
                stack.append(memo[argument])
                continue
            taken = _taken(stack, opcode)
            size = (1, 0)
            if name in TUPLES:
                items = [each for each in taken if each is not None]
                size = (1 + sum(count for count, _ in items), 1 + max((levels for _, levels in items), default=0))
                if size[0] > LARGEST_TUPLE or size[1] > DEEPEST_TUPLE:
                    raise ValueError(f"holds a tuple of {size[0]} items in {size[1]} levels")
            stack += [None] if name == "MARK" else [size] * len(opcode.stack_after)
    except (IndexError, KeyError):
        raise ValueError("holds a broken pickle") from None


def _taken(stack: list[Any], opcode: pickletools.OpcodeInfo) -> list[Any]:
    """Removes from a stack what an opcode takes from it; returns the objects after the last mark, or all that it takes.

    Raises IndexError if they are not there.
    """
    before = opcode.stack_before
    if pickletools.markobject in before:
        place = len(stack) - 1 - stack[::-1].index(None) if None in stack else -1
        below = before.index(pickletools.markobject)
        if place < below:
            raise IndexError
        taken = stack[place + 1 :]
        del stack[place - below :]
        return taken
    if len(stack) < len(before):
        raise IndexError
    taken = stack[len(stack) - len(before) :]
    del stack[len(stack) - len(before) :]
    return taken
