"""A disk without room is one line with the file and what it needs, whatever is written, and leaves nothing by halves."""

from __future__ import annotations

import errno
import io
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from normbench.data.sources.base import Request
from normbench.data.sources.imagefolder import ImageFolder
from normbench.data.sources.npz import Npz
from normbench.system import files, npy, stage
from normbench.system.errors import UserError, line
from tests.support import forks

ROOT = Path(__file__).resolve().parents[2]

# Calls what argv[1] names with a limit on the size of files, which the system refuses to exceed like a full disk.
LIMITED = """
import resource, sys
from pathlib import Path
from normbench.system import stage
from tests.system import test_full_disk

stage.guarded(lambda: None)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
stage.guarded(lambda: getattr(test_full_disk, sys.argv[1])(Path(sys.argv[2])))
"""


def array(folder: Path) -> None:
    with files.atomic_folder(folder / "made") as made:
        npy.save(made / "a.npy", np.zeros((100, 100, 3), np.uint8))


def text(folder: Path) -> None:
    files.write_text(folder / "made", "x" * 30_000)


def copied(folder: Path) -> None:
    (folder.parent / "source").mkdir(exist_ok=True)
    with files.atomic_folder(folder / "made") as made:
        files.copy_folder(folder.parent / "source", made)


def compressed(folder: Path) -> None:
    with files.atomic_folder(folder / "made") as made:
        npy.save_compressed(made / "a.npz", {"x": np.random.default_rng(0).integers(0, 256, 30_000, np.uint8)})


def weights(folder: Path) -> None:
    import torch

    from normbench.runs.checkpoint import save_weights

    with files.atomic_folder(folder / "made") as made:
        save_weights(torch.nn.Linear(100, 100), made / "weights.pt")


def checkpoint(folder: Path) -> None:
    import torch

    from normbench.runs.checkpoint import Checkpoints

    Checkpoints(folder / "made").save({"a": torch.zeros(10_000)})


def grid(folder: Path) -> None:
    import torch

    from normbench.runs.generation import save_grid

    with files.atomic_folder(folder / "made") as made:
        save_grid(torch.randint(0, 256, (64, 3, 16, 16), dtype=torch.uint8), made / "samples.png")


def image_folder(folder: Path) -> None:
    with files.atomic_folder(folder / "made") as made:
        ImageFolder(str(folder.parent / "images")).write(Request("mine", 64), made)


def npz(folder: Path) -> None:
    path = folder.parent / "arrays.npz"
    with files.atomic_folder(folder / "made") as made:
        Npz(str(path), files.sha256(path)).write(Request("mine", 32), made)


def corrupted(folder: Path) -> None:
    from normbench.corruptions.files import write_corrupted

    write_corrupted(folder.parent / "prepared", folder / "made", ["contrast", "fog"], [1, 2, 3], 0, workers=1)


def corrupted_by_workers(folder: Path) -> None:
    from normbench.corruptions.files import write_corrupted

    write_corrupted(folder.parent / "prepared", folder / "made", ["contrast", "fog"], [1, 2, 3], 0, workers=2)


def exported_corruptions(folder: Path) -> None:
    from normbench.corruptions.export import export

    export(str(folder.parent / "prepared"), folder / "made", ["contrast"], [1, 2, 3])


WRITERS = {
    array: r"made/a\.npy: File too large \(needs about 30\.1 kB\)",
    text: r"made: File too large \(needs about 30\.0 kB\)",
    copied: r"made/large: File too large \(needs about 50\.0 kB\)",
    compressed: r"made/a\.npz: File too large \(needs about 30\.\d kB\)",
    weights: r"made/weights\.pt: File too large \(needs about 4\d\.\d kB\)",
    checkpoint: r"made/000001-[0-9a-f]{16}\.pt: File too large \(needs about \d+\.\d kB\)",
    grid: r"made/samples\.png: File too large \(needs about \d+\.\d kB\)",
    image_folder: r"made/train_images\.npy: File too large \(needs about 61\.6 kB\)",
    npz: r"made/train_images\.npy: File too large \(needs about 30\.8 kB\)",
    corrupted: r"made/contrast\.npy: File too large \(needs about 64\.6 kB\)",
    corrupted_by_workers: r"made/contrast\.npy: File too large \(needs about 64\.6 kB\)",
    exported_corruptions: r"made/contrast\.npy: File too large \(needs about 64\.6 kB\)",
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files that the writers read."""
    folder = tmp_path_factory.mktemp("full")
    (folder / "source").mkdir()
    (folder / "source/large").write_bytes(bytes(50_000))
    for split in ("train", "val"):
        for name in ("a", "b", "c", "d", "e"):
            (folder / "images" / split / name).mkdir(parents=True)
            Image.new("RGB", (70, 70), (9, 99, 199)).save(folder / "images" / split / name / "1.png")
    images = np.random.default_rng(0).integers(0, 256, (7, 32, 32, 3), np.uint8)
    arrays = {"train_images": images[:, :, :, :], "train_labels": np.arange(7)}
    arrays |= {"test_images": images, "test_labels": np.arange(7)}
    arrays["train_images"] = np.concatenate([images, images[:3]])
    arrays["train_labels"] = np.arange(10) % 7
    np.savez(folder / "arrays.npz", **arrays)
    (folder / "prepared").mkdir()
    for name in ("test_images", "test_labels"):
        np.save(folder / f"prepared/{name}.npy", arrays[name])
    files.write_json(folder / "prepared/meta.json", {"classes": 7, "fingerprint": "0" * 64})
    return folder


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("writer", WRITERS, ids=lambda writer: writer.__name__)
def test_no_room_is_one_line(writer: Callable[[Path], None], sources: Path) -> None:
    """The same writer succeeds without the limit, and what it made then is as it was after it failed with it."""
    target = sources / writer.__name__
    target.mkdir()

    def limited() -> str:
        env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        done = forks.run("-c", LIMITED, writer.__name__, str(target), cwd=Path.cwd(), env=env)
        assert done.returncode == 1, done.stderr
        return done.stderr

    assert re.fullmatch(rf"{re.escape(str(target))}/{WRITERS[writer]}\n", limited())
    kept = set(everything(target))
    assert kept <= {"made/meta.json", "made/labels.npy"}  # of an export, which goes on where it stopped
    writer(target)
    before = everything(target)
    assert len(before) > len(kept)
    if writer is checkpoint:  # whose next file has another name
        shutil.rmtree(target / "made")
        return
    if writer is exported_corruptions:  # which has nothing left to do
        return
    limited()
    assert everything(target) == before


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("call", ["posix_fallocate", "write"])
def test_a_full_disk_and_a_used_quota(
    call: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def full(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    if call == "posix_fallocate":
        monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    else:
        monkeypatch.setattr(npy.np, "ascontiguousarray", lambda array: _Refusing(full))
    with pytest.raises(SystemExit):
        stage.guarded(lambda: array(Path()))
    reason = {errno.ENOSPC: "No space left on device", errno.EDQUOT: "Disk quota exceeded"}[number]
    assert capsys.readouterr().err == f"made/a.npy: {reason} (needs about 30.1 kB)\n"
    assert list(tmp_path.iterdir()) == []


class _Refusing:
    """In place of an array of 30,000 bytes; taking its bytes fails as writing them would."""

    dtype, shape, nbytes = np.dtype(np.uint8), (100, 100, 3), 30_000

    def __init__(self, full: Callable[[], None]):
        self.reshape = lambda *_: full()


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EOPNOTSUPP])
def test_file_systems_that_reserve_nothing(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "posix_fallocate", unknown, raising=False)
    values = np.arange(300).reshape(3, 100)
    npy.save(tmp_path / "a.npy", values)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), values)


@pytest.mark.parametrize(
    "values",
    [
        np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
        np.asfortranarray(np.arange(12).reshape(3, 4)),
        np.arange(24)[::2],
        np.zeros((0, 3), np.uint8),
        np.arange(5, dtype=">i4"),
    ],
)
def test_arrays_have_the_bytes_that_numpy_writes(values: np.ndarray, tmp_path: Path) -> None:
    """So that the hashes of results do not depend on the version of normbench."""
    npy.save(tmp_path / "a.npy", values)
    expected = io.BytesIO()
    np.save(expected, np.ascontiguousarray(values))
    assert (tmp_path / "a.npy").read_bytes() == expected.getvalue()
    start = npy.create(tmp_path / "b.npy", values.dtype, values.shape)
    assert (tmp_path / "b.npy").read_bytes()[:start] == expected.getvalue()[:start]
    assert (tmp_path / "b.npy").stat().st_size == len(expected.getvalue())
    assert os.stat(tmp_path / "b.npy").st_blocks * 512 >= values.nbytes  # without holes


def test_other_errors_of_the_system_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for work, expected in (
        (lambda: files.write_text("folder", "x"), "folder: Is a directory"),
        (lambda: files.copy("missing", "x"), "missing: No such file or directory"),
        (lambda: shutil.copytree("folder", "file/x"), "file/x: Not a directory"),
    ):
        with pytest.raises(OSError) as caught:
            work()
        assert line(caught.value).endswith(expected)
        assert "\n" not in line(caught.value)
    with pytest.raises(UserError, match=r"^file: a file, where a folder is needed; move it away$"):
        files.write_text("file/x/y", "x")
    several = shutil.Error([("a", "b", "[Errno 28] No space left on device"), ("c", "d", "another")])
    assert line(several) == "b: [Errno 28] No space left on device"
    assert line(OSError("a text\nof two lines")) == "disk: a text of two lines"
    assert (
        line(OSError(errno.EXDEV, "Invalid cross-device link", "a", None, "b")) == "a -> b: Invalid cross-device link"
    )


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_folder_that_may_not_be_written(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def refused(path: object, *_: object) -> None:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(os, "mkdir", refused)
    for work in (lambda: text(Path()), lambda: array(Path())):
        with pytest.raises(OSError) as caught:
            work()
        assert line(caught.value) == f"made: {os.strerror(number)}"
