"""Arrays of the user's own in an .npz file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from normbench.data.arrays import ARRAYS, checked, save
from normbench.data.sources.base import Origin, Request, Sha256, Source, source
from normbench.system import files
from normbench.system.arrays import read_npz
from normbench.system.errors import UserError


@source("npz")
@dataclass(frozen=True)
class Npz(Source):
    """An .npz file with the arrays `train_images`, `train_labels`, `test_images` and `test_labels`.

    Images are integers from 0 to 255, (N, H, W, C) or (N, C, H, W) with C = 1 or 3, or (N, H, W) if they are grey.
    Labels are whole numbers (N,) or (N, 1), counted from 0 without gaps, or one-hot rows. Other arrays in the file,
    such as the `val_images` of MedMNIST, are not used.

    path: the file.
    sha256: the hexadecimal sha256 of its bytes. The download refuses a file without it, and says what it is.
    """

    path: str
    sha256: Sha256 | None = None

    def write(self, request: Request, out: Path) -> Origin:
        """Checks the sha256 of the file, and reads it if it matches."""
        path = Path(self.path).expanduser()
        if not path.is_file():
            raise request.error(f"{path}: {'a folder, not an .npz file' if path.is_dir() else 'no such file'}")
        found = files.sha256(path)
        if self.sha256 is None:
            raise request.error(f"{path}: its sha256 is missing; in params.yaml put beside `path`: sha256: {found}")
        if found != self.sha256:
            raise request.error(f"{path}: sha256 is {found}, params.yaml says {self.sha256}")
        try:
            stored = read_npz(path, ARRAYS)
        except UserError as error:
            raise request.error(str(error)) from None
        save(checked(stored, f"dataset '{request.dataset}': {path}"), request, out)
        return Origin(self.path, sha256=found)
