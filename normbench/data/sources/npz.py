"""Arrays of the user's own in an .npz file."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from normbench.data.arrays import ARRAYS, checked, save
from normbench.data.sources.base import Origin, Request, Sha256, Source, source
from normbench.system import files


@source("npz")
@dataclass(frozen=True)
class Npz(Source):
    """An .npz file with the arrays `train_images`, `train_labels`, `test_images` and `test_labels`.

    Images are uint8 (N, H, W, C) or, where they are grey, (N, H, W); H = W, and C is 1 or 3. Labels are integers (N,),
    counted from 0 without gaps.

    path: the file.
    sha256: the hexadecimal sha256 of its bytes. The download refuses a file without it, and says what it is.
    """

    path: str
    sha256: Sha256 | None = None

    def write(self, request: Request, out: Path) -> Origin:
        """Checks the sha256 of the file, and reads it if it matches."""
        path = Path(self.path).expanduser()
        if not path.is_file():
            raise request.error(f"{path}: no such file")
        found = files.sha256(path)
        if self.sha256 is None:
            raise request.error(f"{path}: its sha256 is missing; in params.yaml put beside `path`: sha256: {found}")
        if found != self.sha256:
            raise request.error(f"{path}: sha256 is {found}, params.yaml says {self.sha256}")
        arrays = checked(_read(path, request), f"dataset '{request.dataset}': {path}")
        save(arrays, request, out)
        return Origin(self.path, sha256=found)


def _read(path: Path, request: Request) -> dict[str, np.ndarray]:
    """The four arrays as they are stored. Raises UserError where the file does not have them; unpickles nothing."""
    try:
        stored = np.load(path, allow_pickle=False)
        if isinstance(stored, np.ndarray):
            raise request.error(f"{path}: a single array, not an .npz with {', '.join(ARRAYS)}")
        with stored:
            for name in ARRAYS:
                if name not in stored.files:
                    raise request.error(f"{path}: no array '{name}' among {', '.join(stored.files) or 'none'}")
            return {name: stored[name] for name in ARRAYS}
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise request.error(f"{path}: not an .npz of plain arrays: {error}") from None
