"""Files `.npy` and `.npz` that are written piece by piece, with their room on the disk reserved before.

`numpy.save` says of a full disk only how many values it has written, and a memory map of a new file has holes, which
end the process by SIGBUS when they are filled on a full disk.
"""

from __future__ import annotations

import errno
import io
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from normbench.system.files import put, writing

BLOCK = 1 << 24  # bytes that are written at a time


def save(path: Path, array: np.ndarray) -> None:
    """Writes an array, as `numpy.save` does. Not atomic. Raises OSError, with the size, if there is no room for it."""
    array = np.ascontiguousarray(array)
    start = create(path, array.dtype, array.shape)
    with writing(path, start + array.nbytes), path.open("rb+", buffering=0) as file:
        file.seek(start)
        content = array.reshape(-1).view(np.uint8).data
        while content:
            content = content[file.write(content[:BLOCK]) :]


def save_compressed(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes a small .npz, as `numpy.savez_compressed` does. Not atomic, like `save`."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    put(path, buffer.getbuffer())


def create(path: Path, dtype: Any, shape: tuple[int, ...]) -> int:
    """Makes the file of an array (C order) and reserves its room; returns the offset of the first value.

    The values are 0 until they are written. Raises OSError, with the size, if there is no room for it, and leaves no
    file then.
    """
    dtype = np.dtype(dtype)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    )
    size = header.tell() + math.prod(shape) * dtype.itemsize
    try:
        with writing(path, size), path.open("wb", buffering=0) as file:
            reserve(file.fileno(), size)
            file.write(header.getbuffer())
    except OSError:
        path.unlink(missing_ok=True)
        raise
    return header.tell()


def reserve(handle: int, size: int) -> None:
    """Gives an open file a size, with room on the disk where the system can promise that."""
    if hasattr(os, "posix_fallocate") and size:
        try:
            os.posix_fallocate(handle, 0, size)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
                raise
        else:
            return
    os.ftruncate(handle, size)
